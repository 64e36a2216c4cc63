//! A kernel that was built without NUMA and without huge pages, as the machine "none" of `scripts/numa-vm` has: what the
//! filters of `refused` imitate, for real, and no files about nodes.

use std::path::Path;
use std::time::Duration;

use esker::{
    Affinity, ClassConfig, Config, ConfigBuilder, ErrorKind, NumaPolicy, PagePlacement, RegionKind, Store,
    Topology,
};

use super::{append, small, stream};

/// Whether the kernel is one without nodes; elsewhere there is nothing to be seen.
fn is_without() -> bool {
    let without = !Path::new("/sys/devices/system/node").exists();
    let meant = std::env::var("ESKER_VM_NODES").is_ok_and(|nodes| nodes == "none");
    assert!(without || !meant, "the machine was to have no nodes");
    without
}

/// Uses a store of such a configuration, and gives its warnings.
fn used(config: ConfigBuilder) -> Vec<String> {
    let config = config.class(ClassConfig::new("a").hot_for(Duration::ZERO));
    let store = Store::open(config.build().unwrap()).unwrap();
    for id in 0..4000 {
        append(&store, id, stream(id % 50), 1000).unwrap();
    }
    store.maintain().unwrap();
    store.validate().unwrap();
    for id in 0..4000 {
        assert_eq!(store.pin().get(id).unwrap().payload(), [7; 1000]);
    }
    let (stats, placement) = (store.stats(), store.placement());
    assert!(stats.events.demoted > 1000, "{stats:?}");
    let hot = stats.region(RegionKind::Hot);
    assert_eq!((hot.arenas, hot.local_allocations, hot.remote_allocations), (0, 0, 0));
    let [arena] = &placement.region(RegionKind::Hot).arenas[..] else { panic!("{placement:?}") };
    assert_eq!(
        (arena.node, arena.bytes_on.is_empty()),
        (None, true),
        "what nobody knows is not told: {arena:?}"
    );
    assert!(placement.region(RegionKind::Hot).resident_bytes > 1 << 20, "{placement:?}");
    let home = store.home_of(stream(1));
    assert_eq!((home.node, home.cpus), (0, &[0][..]));
    let router = store.router(3);
    assert_eq!(
        (router.workers(), router.node_of(2), router.affinity_of(2)),
        (3, Some(0), Affinity::Cpus(vec![0]))
    );
    stats.warnings
}

#[test]
fn there_is_one_node_which_has_everything() {
    if !is_without() {
        return;
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB")).unwrap();
    for machine in [Topology::from_sysfs("/"), esker::topology()] {
        let [node] = &machine.nodes[..] else { panic!("{machine}") };
        assert_eq!((node.id, &node.cpus[..], &node.allowed_cpus[..]), (0, &[0][..], &[0][..]));
        assert_eq!((node.memory, node.memory_allowed), (total.trim().parse::<u64>().unwrap() << 10, true));
        assert_eq!(node.distances, [10]);
    }
}

#[test]
fn a_store_works_and_says_what_it_did_not_get() {
    if !is_without() {
        return;
    }
    let huge =
        |warning: &str| warning.starts_with("madvise was refused") && warning.contains("huge_pages(false)");
    let tied = |warning: &str| warning.starts_with("mbind was refused") && warning.contains("without NUMA");
    let warnings = used(small());
    assert!(matches!(&warnings[..], [one] if huge(one)), "{warnings:?}");
    assert_eq!(used(small().huge_pages(false).strict(true)), [""; 0], "nothing was asked that is not there");
    assert_eq!(used(small().huge_pages(false).affinity(Affinity::Nodes(vec![0]))), [""; 0]);
    for policy in [NumaPolicy::Bind, NumaPolicy::Preferred, NumaPolicy::Interleave] {
        let config = || {
            let config = small().huge_pages(false);
            config.numa(|numa| numa.nodes([0]).policy(policy).pages(PagePlacement::Home).count_reads(true))
        };
        let warnings = used(config());
        assert!(matches!(&warnings[..], [one] if tied(one)), "{policy:?}: {warnings:?}");
        let refused = Store::open(config().strict(true).build().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Io);
        assert!(tied(&refused.to_string()) || refused.to_string().contains("mbind was refused"), "{refused}");
    }
}

#[test]
fn memory_can_be_touched_and_locked_there_too() {
    if !is_without() {
        return;
    }
    let config = Config::builder().memory("96MiB").background(false).huge_pages(false).lock_memory(true);
    let config = config.hot(|hot| hot.max("48MiB").initial("48MiB").prefault(true));
    let store = Store::open(config.build().unwrap()).unwrap();
    assert_eq!(store.stats().warnings, [""; 0]);
    let hot = store.placement().region(RegionKind::Hot).clone();
    assert_eq!((hot.resident_bytes, hot.locked_bytes, hot.huge_bytes), (48 << 20, 48 << 20, 0), "{hot:?}");
}
