//! What the system was told of regions, and pages of 1 GiB.

use std::collections::BTreeSet;

use esker::{Config, HugePages, IndexPlacement, NumaPolicy, RegionKind, Store};

use super::{append, bytes_on, ids, nodes_expected, open, small, stream, with_memory};

/// The ways in which memory of this process is tied to nodes, as the system writes them: `bind:0`, `interleave:0-1`.
fn ways() -> BTreeSet<String> {
    let maps = std::fs::read_to_string("/proc/self/numa_maps").unwrap();
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|way| *way != "default")
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_system_ties_memory_in_the_way_that_was_chosen() {
    if nodes_expected().is_none() {
        // Stores of other tests are open at the same time.
        return;
    }
    assert_eq!(ways(), BTreeSet::new(), "no other store is open");
    let nodes = ids(&with_memory());
    let all: Vec<usize> = nodes.iter().map(|node| *node as usize).collect();
    // Nodes of these machines are numbered from 0 without gaps.
    let together = match all.len() {
        1 => "interleave:0".to_owned(),
        count => format!("interleave:0-{}", count - 1),
    };
    let each = |word: &str| nodes.iter().map(|node| format!("{word}:{node}")).collect::<Vec<_>>();
    for (policy, arenas) in [
        (NumaPolicy::Preferred, each("prefer")),
        (NumaPolicy::Bind, each("bind")),
        (NumaPolicy::Interleave, vec![]),
    ] {
        for index in [IndexPlacement::Interleaved, IndexPlacement::PerNode] {
            let store = open(small().numa(|numa| numa.nodes(nodes.clone()).policy(policy).index(index)));
            // The page table lies on all of them in any case.
            let expected = arenas.iter().cloned().chain([together.clone()]).collect();
            assert_eq!(ways(), expected, "{policy:?}, {index:?}");
            drop(store);
        }
    }
    assert_eq!(ways(), BTreeSet::new());
}

#[test]
fn every_region_is_interleaved_where_that_is_wished() {
    let nodes = ids(&with_memory());
    let whole = |region: esker::RegionBuilder| region.max("8MiB").initial("8MiB").prefault(true);
    let config = small().hot(whole).warm(whole).index(whole).huge_pages(false);
    let store = open(config.numa(|numa| numa.nodes(nodes.clone()).policy(NumaPolicy::Interleave)));
    let placement = store.placement();
    // Of the page table hardly anything is touched yet; how it is tied is asked of the system, above.
    for kind in [RegionKind::Hot, RegionKind::Warm, RegionKind::Index] {
        let on = bytes_on(&placement, kind);
        assert!(on.keys().eq(&nodes), "{kind:?}: {on:?}");
        assert_eq!(on.values().sum::<u64>(), 8 << 20, "{kind:?}: {on:?}");
        let share = (8 << 20) / nodes.len() as u64;
        assert!(on.values().all(|bytes| bytes.abs_diff(share) <= share / 8), "{kind:?}: {on:?}");
    }
}

/// Free pages of the pool of 1 GiB pages.
fn pool() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages")
        .map_or(0, |text| text.trim().parse().unwrap())
}

fn with_a_gigabyte(nodes: &[u32]) -> Config {
    let of = |region: &'static str| move |builder: esker::RegionBuilder| builder.max(region);
    let config = Config::builder().memory("4GiB").background(false).buffers("2MiB").partitions(4);
    let config = config.hot(of("1GiB")).warm(of("2MiB")).index(of("4MiB"));
    config.huge_pages(HugePages::Explicit1GiB).numa(|numa| numa.nodes(nodes)).build().unwrap()
}

#[test]
fn pages_of_1_gib_are_taken_where_there_are_some() {
    // Where there are several nodes and arenas, such a page is one stripe: it would belong to one of them.
    let nodes = ids(&with_memory());
    let (before, has_one) = (pool(), pool() > 0);
    assert!(
        has_one
            || std::env::var("ESKER_VM_NODES").is_ok_and(|nodes| nodes != "1")
            || nodes_expected().is_none()
    );
    let store = Store::open(with_a_gigabyte(&nodes[..1])).unwrap();
    for id in 0..5000 {
        append(&store, id, stream(id % 50), 1000).unwrap();
    }
    let (warnings, hot) = (store.stats().warnings, store.placement().region(RegionKind::Hot).clone());
    let missed = |pages: &str| {
        warnings.iter().any(|text| text.contains(&format!("in pages of {pages} for the hot region")))
    };
    if has_one {
        assert_eq!(warnings, [""; 0], "the smaller regions are no multiple of such a page, and got others");
        assert_eq!((hot.huge_bytes, hot.resident_bytes), (1 << 30, 1 << 30), "{hot:?}");
        assert_eq!(pool(), before - 1);
    } else {
        // From one pool to the other, and then to the system.
        assert!(missed("1GiB") && missed("2MiB"), "{warnings:?}");
        assert!(hot.resident_bytes < 1 << 30, "{hot:?}");
    }
    store.validate().unwrap();
    drop(store);
    assert_eq!(pool(), before, "what was taken is given back");
}
