use super::*;

#[test]
fn defaults_fit_together_at_many_sizes() {
    for memory in ["8MiB", "16MiB", "100MB", "1GiB", "64GiB", "4TiB"] {
        let config =
            Config::builder().memory(memory).build().unwrap_or_else(|error| panic!("{memory}: {error}"));
        let parts = config.system.max + config.hot.max + config.warm.max + config.index.max + config.buffers;
        assert!(parts <= config.memory, "{memory}: {config:?}");
        assert!(parts * 10 >= config.memory * 9, "{memory} is badly used: {config:?}");
    }
}

#[test]
fn all_faults_come_at_once() {
    let error = Config::builder()
        .memory("many bytes")
        .hot(|hot| hot.page_size(3000u64))
        .thresholds(f64::NAN, 0.9, -1.0)
        .partitions(3)
        .slice(0, Duration::ZERO)
        .class(ClassConfig::new("a").hot_for(Duration::from_secs(10)).warm_for(Duration::from_secs(1)))
        .class(ClassConfig::new("a").retention(Duration::ZERO))
        .build()
        .unwrap_err();
    let text = error.to_string();
    for field in
        ["memory", "hot.page_size", "thresholds.warning", "thresholds.reject", "partitions", "slice.events"]
    {
        assert!(error.config_faults().iter().any(|fault| fault.field == field), "{field} missing in {text}");
    }
    assert!(error.config_faults().iter().filter(|fault| fault.field.starts_with("class \"a\"")).count() >= 3);
}

#[test]
fn initial_and_max_may_be_the_same_odd_number() {
    let odd = (20u64 << 20) + 12_345;
    let config = Config::builder().memory("64MiB").hot(|hot| hot.max(odd).initial(odd)).build().unwrap();
    assert_eq!(config.hot.initial, config.hot.max);
}

/// The field and text of the only fault.
fn only_fault(config: ConfigBuilder) -> (String, String) {
    let error = config.build().unwrap_err();
    assert_eq!(error.config_faults().len(), 1, "{error}");
    let fault = &error.config_faults()[0];
    (fault.field.clone(), fault.problem.clone())
}

#[test]
fn a_part_that_leaves_nothing_for_the_others_is_one_fault() {
    for (memory, index) in [("256MiB", "2GiB"), ("256MiB", "250MiB"), ("64MiB", "56MiB"), ("16MiB", "14MiB")]
    {
        let (field, problem) = only_fault(Config::builder().memory(memory).index(|part| part.max(index)));
        assert_eq!(field, "index.max");
        assert!(problem.contains(&format!("index.max {index}")) && problem.contains(memory), "{problem}");
        assert!(problem.contains("hot, warm"), "{problem}");
    }
    let both = Config::builder().memory("256MiB").hot(|hot| hot.max("1GiB")).index(|index| index.max("1GiB"));
    let (field, problem) = only_fault(both);
    assert!(field == "memory" && problem.contains("hot.max 1GiB, index.max 1GiB"), "{problem}");
    assert_eq!(only_fault(Config::builder().memory("64MiB").buffers("64MiB")).0, "buffers");
    assert_eq!(only_fault(Config::builder().memory("100KiB")).0, "memory");
    // What is wrong beside it is told, too.
    let page = Config::builder().memory("256MiB").index(|index| index.max("2GiB").page_size(3000u64));
    let faults = page.build().unwrap_err();
    assert_eq!(faults.config_faults().len(), 2, "{faults}");
}

/// Small pages have large tables, and the warm region has small ones: what nobody asked for makes room for them.
#[test]
fn what_nobody_asked_for_makes_room_for_the_tables() {
    for (hot, page) in [("32MiB", "4KiB"), ("32MiB", "16KiB"), ("4MiB", "4KiB"), ("100MiB", "2KiB")] {
        let config = Config::builder()
            .memory("256MiB")
            .hot(|part| part.max(hot).page_size(page))
            .index(|index| index.max("512KiB"))
            .build()
            .unwrap_or_else(|error| panic!("{hot} of {page}: {error}"));
        let parts = config.system.max + config.hot.max + config.warm.max + config.index.max + config.buffers;
        assert!(parts <= config.memory && parts * 100 >= config.memory * 97, "{hot} of {page}: {config:?}");
    }
}

#[test]
fn parts_larger_than_the_whole_are_refused() {
    let error = Config::builder().memory("64MiB").hot(|hot| hot.max("64MiB")).build().unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    assert!(Config::builder().memory("0").build().is_err());
    assert!(Config::builder().memory(u64::MAX).build().is_err());
}
