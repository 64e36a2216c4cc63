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

#[test]
fn parts_larger_than_the_whole_are_refused() {
    let error = Config::builder().memory("64MiB").hot(|hot| hot.max("64MiB")).build().unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    assert!(Config::builder().memory("0").build().is_err());
    assert!(Config::builder().memory(u64::MAX).build().is_err());
}
