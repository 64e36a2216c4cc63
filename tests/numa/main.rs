//! What depends on the machine: nodes, binding, placement, pages. Written to hold on every machine, and run by
//! `scripts/test` on virtual ones with 1, 2 and 4 nodes (`scripts/numa-vm`), where what needs several nodes is not
//! skipped.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

mod cpuset;
mod near;
mod pages;
mod refused;
mod without;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use esker::{
    Affinity, Config, ConfigBuilder, ErrorKind, Event, HugePages, IndexPlacement, NumaNode, NumaPolicy,
    PagePlacement, Placement, RegionKind, Store, Stream, Topology,
};

/// How many nodes the virtual machine has; `None` on others, where it can be anything.
fn nodes_expected() -> Option<usize> {
    match std::env::var("ESKER_VM_NODES").ok()?.as_str() {
        "cpuless" => Some(3),
        "none" => Some(1),
        count => Some(count.parse().unwrap()),
    }
}

#[test]
fn the_machine_has_the_nodes_that_it_was_made_with() {
    let machine = Topology::from_sysfs("/");
    println!("{machine}");
    let Some(expected) = nodes_expected() else { return };
    assert_eq!(machine.nodes.len(), expected);
    let memory_only = machine.nodes.iter().filter(|node| node.cpus.is_empty()).count();
    assert_eq!(memory_only, usize::from(expected == 4));
    if expected == 4 {
        assert_eq!(machine.nodes[0].distances, [10, 21, 31, 28]);
        assert_eq!(machine.nodes[3].distances, [28, 17, 26, 10]);
    }
}

/// A store of 48 MiB without threads, in which nothing but the test touches events.
fn small() -> ConfigBuilder {
    Config::builder().memory("48MiB").background(false).partitions(8)
}

fn open(config: ConfigBuilder) -> Store {
    let store = Store::open(config.build().unwrap()).unwrap();
    assert_eq!(store.stats().warnings, [""; 0]);
    store
}

/// Runs on a thread that is kept on a processor.
fn on<T: Send>(cpu: usize, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let pinned = || {
            assert_eq!(Affinity::Cpus(vec![cpu]).pin(0), Some(cpu));
            work()
        };
        scope.spawn(pinned).join().unwrap()
    })
}

/// Nodes whose memory can be used.
fn with_memory() -> Vec<NumaNode> {
    Topology::from_sysfs("/").nodes.into_iter().filter(|node| node.memory_allowed).collect()
}

fn ids(nodes: &[NumaNode]) -> Vec<u32> {
    nodes.iter().map(|node| node.id).collect()
}

fn stream(number: u64) -> Stream {
    Stream::from(u32::try_from(number).unwrap())
}

fn append(store: &Store, id: u64, stream: Stream, bytes: usize) -> esker::Result<esker::Appended> {
    store.try_append(&Event::new(stream, id, 0, 0).payload(&vec![7; bytes]))
}

/// Bytes of a region by the node that they lie on.
fn bytes_on(placement: &Placement, kind: RegionKind) -> BTreeMap<u32, u64> {
    let mut sums = BTreeMap::new();
    for (node, bytes) in placement.region(kind).arenas.iter().flat_map(|arena| &arena.bytes_on) {
        *sums.entry(*node).or_default() += bytes;
    }
    sums
}

#[test]
fn every_page_of_an_arena_lies_on_its_node() {
    let nodes = ids(&with_memory());
    for policy in [NumaPolicy::Preferred, NumaPolicy::Bind] {
        let whole = |region: esker::RegionBuilder| region.max("8MiB").initial("8MiB").prefault(true);
        let config = small().hot(whole).warm(whole).index(whole);
        let config =
            config.numa(|numa| numa.nodes(nodes.clone()).policy(policy).index(IndexPlacement::PerNode));
        let store = open(config);
        let (stats, placement) = (store.stats(), store.placement());
        for kind in [RegionKind::Hot, RegionKind::Warm, RegionKind::Index] {
            let arenas = &placement.region(kind).arenas;
            let tied: Vec<Option<u32>> = arenas.iter().map(|arena| arena.node).collect();
            assert_eq!(tied.len(), nodes.len(), "{kind:?}");
            assert_eq!(stats.region(kind).arenas as usize, nodes.len());
            for arena in arenas {
                let [(node, bytes)] = arena.bytes_on[..] else { panic!("{kind:?}, {policy:?}: {arena:?}") };
                assert_eq!(Some(node), arena.node, "{kind:?}, {policy:?}");
                assert!(bytes > 0);
            }
            let sum: u64 = bytes_on(&placement, kind).values().sum();
            assert_eq!(sum, 8 << 20, "{kind:?}: all of it was touched");
            assert_eq!(placement.region(kind).resident_bytes, sum);
        }
        // The page table is everybody's.
        let system = bytes_on(&placement, RegionKind::System);
        assert!(system.keys().all(|node| nodes.contains(node)), "{system:?}");
    }
}

#[test]
fn interleaved_memory_lies_on_all_nodes_alike() {
    let nodes = ids(&with_memory());
    let whole = |region: esker::RegionBuilder| region.max("16MiB").initial("16MiB").prefault(true);
    // Small pages: of large ones there are too few to be alike.
    let config = small().hot(whole).huge_pages(false);
    let store = open(config.numa(|numa| numa.nodes(nodes.clone()).policy(NumaPolicy::Interleave)));
    let placement = store.placement();
    let hot = bytes_on(&placement, RegionKind::Hot);
    assert_eq!(hot.keys().copied().collect::<Vec<_>>(), nodes);
    let share = (16 << 20) / nodes.len() as u64;
    assert!(hot.values().all(|bytes| bytes.abs_diff(share) <= share / 8), "{hot:?}");
    assert_eq!(store.stats().region(RegionKind::Hot).arenas, 0, "there is no near and far");
}

#[test]
fn the_index_is_interleaved_unless_it_is_wished_otherwise() {
    let nodes = ids(&with_memory());
    let whole = |region: esker::RegionBuilder| region.max("8MiB").initial("8MiB").prefault(true);
    let store = open(small().index(whole).huge_pages(false).numa(|numa| numa.nodes(nodes.clone())));
    let index = bytes_on(&store.placement(), RegionKind::Index);
    let share = (8 << 20) / nodes.len() as u64;
    assert!(index.values().all(|bytes| bytes.abs_diff(share) <= share / 8), "{index:?}");
    assert_eq!(index.len(), nodes.len());
}

#[test]
fn events_lie_on_the_node_of_the_thread_that_appends_them() {
    let nodes = with_memory();
    for node in nodes.iter().filter(|node| !node.allowed_cpus.is_empty()) {
        let store = open(small().numa(|numa| numa.nodes(ids(&nodes))));
        on(node.allowed_cpus[0], || {
            for id in 0..4000 {
                append(&store, id, stream(id % 50), 1000).unwrap();
            }
        });
        let hot = *store.stats().region(RegionKind::Hot);
        assert!(hot.used_bytes > 4_000_000 && hot.used_bytes < hot.max_bytes / nodes.len() as u64, "{hot:?}");
        assert_eq!((hot.local_allocations, hot.remote_allocations), (hot.allocations, 0));
        let on = bytes_on(&store.placement(), RegionKind::Hot);
        assert_eq!(on.keys().copied().collect::<Vec<_>>(), [node.id], "{on:?}");
    }
}

#[test]
fn a_page_that_is_squeezed_stays_on_its_node() {
    let nodes = with_memory();
    let mover = nodes.iter().find_map(|node| node.allowed_cpus.first().copied()).unwrap();
    for node in nodes.iter().filter(|node| !node.allowed_cpus.is_empty()) {
        let class = esker::ClassConfig::new("a").hot_for(std::time::Duration::ZERO);
        let store = open(small().class(class).numa(|numa| numa.nodes(ids(&nodes))));
        on(node.allowed_cpus[0], || {
            for id in 0..4000 {
                append(&store, id, stream(id % 50), 1000).unwrap();
            }
        });
        on(mover, || store.maintain().unwrap());
        let stats = store.stats();
        assert!(stats.events.demoted > 1000, "{stats:?}");
        let on = bytes_on(&store.placement(), RegionKind::Warm);
        assert_eq!(on.keys().copied().collect::<Vec<_>>(), [node.id], "{on:?}");
    }
}

#[test]
fn a_full_arena_is_followed_by_the_nearest() {
    let nodes = with_memory();
    if nodes.len() == 1 {
        return;
    }
    for (at, node) in nodes.iter().enumerate().filter(|(_, node)| !node.allowed_cpus.is_empty()) {
        let config = Config::builder().memory("12MiB").background(false).partitions(4).huge_pages(false);
        let store = open(config.hot(|hot| hot.max("4MiB").page_size("16KiB")).thresholds(0.9, 0.95, 1.0));
        let mut order = vec![node.id];
        let mut seen_remote = None;
        on(node.allowed_cpus[0], || {
            for id in 0.. {
                if append(&store, id, stream(id % 50), 4000).is_err() {
                    break;
                }
                if id % 64 > 0 {
                    continue;
                }
                for node in bytes_on(&store.placement(), RegionKind::Hot).into_keys() {
                    if !order.contains(&node) {
                        order.push(node);
                        seen_remote.get_or_insert_with(|| *store.stats().region(RegionKind::Hot));
                    }
                }
            }
        });
        let mut nearest: Vec<(u32, usize)> = nodes[at].distances.iter().copied().zip(0..).collect();
        nearest.sort();
        let all = Topology::from_sysfs("/").nodes;
        let nearest: Vec<u32> =
            nearest.into_iter().map(|(_, at)| all[at].id).filter(|id| ids(&nodes).contains(id)).collect();
        assert_eq!(order, nearest, "from node {}", node.id);
        let first = seen_remote.unwrap();
        // The region is shared out by memory, in stripes.
        let share = node.memory as f64 / nodes.iter().map(|node| node.memory).sum::<u64>() as f64;
        let served = (first.local_allocations * first.page_size) as f64 / f64::from(4 << 20);
        assert!(
            (served - share).abs() < 0.1,
            "{served} of the region came from a node with {share} of it: {first:?}"
        );
        assert!(first.remote_allocations <= 20, "{first:?}");
        let hot = *store.stats().region(RegionKind::Hot);
        assert!(hot.free_pages < 16, "all arenas were used up: {hot:?}");
        assert_eq!(hot.local_allocations + hot.remote_allocations, hot.allocations);
    }
}

#[test]
fn memory_that_no_processor_is_near_to_is_used_when_it_is_named() {
    let nodes = with_memory();
    let far = nodes.last().unwrap();
    let store = open(small().numa(|numa| numa.nodes([far.id]).policy(NumaPolicy::Bind)));
    for id in 0..2000 {
        append(&store, id, stream(id % 50), 1000).unwrap();
    }
    let placement = store.placement();
    for kind in RegionKind::ALL {
        assert!(bytes_on(&placement, kind).keys().all(|id| *id == far.id), "{kind:?}: {placement:?}");
    }
    let home = store.home_of(stream(1));
    assert!(!home.cpus.is_empty(), "work is done where processors are: {home:?}");
    store.validate().unwrap();
}

#[test]
fn a_node_without_memory_left_is_helped_out_by_others() {
    let nodes = with_memory();
    if nodes_expected().is_none() || nodes.len() == 1 {
        // It takes all memory of a node.
        return;
    }
    let node = &nodes[1];
    let bytes = node.memory + (24 << 20);
    let config = Config::builder().memory(bytes + (64 << 20)).buffers("4MiB").background(false);
    let config = config.hot(|hot| hot.max(bytes).initial(bytes).prefault(true)).warm(|warm| warm.max("8MiB"));
    let store = open(config.index(|index| index.max("8MiB")).numa(|numa| numa.nodes([node.id])));
    let hot = bytes_on(&store.placement(), RegionKind::Hot);
    assert!(hot[&node.id] > node.memory / 2, "{hot:?}");
    assert!(hot.len() > 1, "{hot:?}");
    // A huge page may reach over the end.
    let (sum, wanted) = (hot.values().sum::<u64>(), bytes / (64 << 10) * (64 << 10));
    assert!((wanted..wanted + (4 << 20)).contains(&sum), "{sum} of {wanted}: {hot:?}");
}

#[test]
fn streams_have_a_home_and_workers_are_sent_there() {
    let nodes = with_memory();
    let with_cpus: Vec<&NumaNode> = nodes.iter().filter(|node| !node.allowed_cpus.is_empty()).collect();
    let store = open(small().partitions(64).numa(|numa| numa.nodes(ids(&nodes)).pages(PagePlacement::Home)));
    let router = store.router(with_cpus.len() * 4);
    let mut seen = BTreeMap::<u32, u64>::new();
    let mut by_worker = vec![0; router.workers()];
    for id in 0..2000 {
        let stream = stream(id);
        let home = store.home_of(stream);
        assert_eq!(home.cpus, nodes.iter().find(|node| node.id == home.node).unwrap().allowed_cpus);
        *seen.entry(home.node).or_default() += 1;
        let worker = router.worker_of(stream);
        by_worker[worker] += 1;
        if with_cpus.len().is_power_of_two() {
            assert_eq!(router.node_of(worker), Some(home.node), "{stream:?}");
        }
        let Affinity::Cpus(cpus) = router.affinity_of(worker) else { panic!("no processor for {worker}") };
        let node = nodes.iter().find(|node| Some(node.id) == router.node_of(worker)).unwrap();
        assert!(node.allowed_cpus.contains(&cpus[0]));
    }
    assert_eq!(
        seen.keys().copied().collect::<Vec<_>>(),
        with_cpus.iter().map(|node| node.id).collect::<Vec<_>>()
    );
    assert!(by_worker.iter().all(|streams| *streams > 0), "{by_worker:?}");
    assert_eq!(router.workers(), with_cpus.len() * 4);
    assert_eq!(store.router(0).workers(), 1);
    // Whoever appends, events lie at home.
    on(with_cpus[0].allowed_cpus[0], || {
        for id in 0..4000 {
            append(&store, id, stream(id % 500), 1000).unwrap();
        }
    });
    let on = bytes_on(&store.placement(), RegionKind::Hot);
    assert_eq!(on.keys().collect::<Vec<_>>(), seen.keys().collect::<Vec<_>>());
    let hot = *store.stats().region(RegionKind::Hot);
    assert_eq!(hot.remote_allocations, 0, "each was served at home: {hot:?}");
}

#[test]
fn writes_and_reads_from_other_nodes_are_counted() {
    let nodes = with_memory();
    for node in nodes.iter().filter(|node| !node.allowed_cpus.is_empty()) {
        let config = small().numa(|numa| numa.nodes([node.id]).count_reads(true));
        let store = open(config.hot(|hot| hot.page_size("64KiB")));
        let write_and_read = |ids: std::ops::Range<u64>| {
            for id in ids.clone() {
                append(&store, id, stream(id % 50), 1000).unwrap();
            }
            for id in ids {
                assert!(store.pin().get(id).is_some());
            }
            *store.stats().region(RegionKind::Hot)
        };
        let near = on(node.allowed_cpus[0], || write_and_read(0..2000));
        assert_eq!((near.remote_writes, near.remote_reads), (0, 0), "{near:?}");
        assert_eq!((near.local_writes, near.local_reads), (near.allocations, 2000), "{near:?}");
        let Some(far) = nodes.iter().find(|far| far.id != node.id && !far.allowed_cpus.is_empty()) else {
            continue;
        };
        let both = on(far.allowed_cpus[0], || write_and_read(2000..6000));
        assert_eq!(both.local_writes, near.local_writes, "{both:?}");
        assert_eq!(both.remote_writes, both.allocations - near.allocations, "{both:?}");
        assert_eq!((both.local_reads, both.remote_reads), (2000, 4000), "{both:?}");
    }
    // Reads are counted where that is asked for.
    let store = open(small().numa(|numa| numa.nodes(ids(&nodes))));
    append(&store, 1, stream(1), 1000).unwrap();
    for _ in 0..100 {
        assert!(store.pin().get(1).is_some());
    }
    let hot = *store.stats().region(RegionKind::Hot);
    assert_eq!((hot.local_reads, hot.remote_reads, hot.local_writes + hot.remote_writes), (0, 0, 1));
}

#[test]
fn memory_is_touched_at_opening_by_threads_that_tell_how_far_they_are() {
    let (seen, all) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (done, total) = (seen.clone(), all.clone());
    let config = Config::builder().memory("192MiB").background(false);
    let config = config.hot(|hot| hot.max("96MiB").initial("96MiB").prefault(true)).build().unwrap();
    let told = move |bytes, of| {
        done.fetch_max(bytes, Ordering::Relaxed);
        total.store(of, Ordering::Relaxed);
    };
    let store = Store::builder(config).on_prefault(told).open().unwrap();
    assert_eq!((seen.load(Ordering::Relaxed), all.load(Ordering::Relaxed)), (96 << 20, 96 << 20));
    assert_eq!(store.placement().region(RegionKind::Hot).resident_bytes, 96 << 20);
}

/// Whether the system gives huge pages to those who ask.
fn has_transparent_huge_pages() -> bool {
    std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| text.contains("[madvise]") || text.contains("[always]"))
}

#[test]
fn huge_pages_that_were_given_are_told() {
    let hot = |huge: bool| {
        // Enough for stripes of whole huge pages on each of four nodes.
        let config = Config::builder().memory("128MiB").background(false).huge_pages(huge);
        let store = open(config.hot(|hot| hot.max("64MiB").initial("64MiB").prefault(true)));
        let placement = store.placement();
        assert_eq!(placement.region(RegionKind::Hot).resident_bytes, 64 << 20);
        (placement.region(RegionKind::Hot).huge_bytes, store.stats().region(RegionKind::Hot).huge_pages)
    };
    if has_transparent_huge_pages() {
        let (bytes, asked) = hot(true);
        assert!(asked && bytes >= 16 << 20, "{bytes} bytes on huge pages");
    }
    let always = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|text| text.contains("[always]"));
    if !always {
        assert_eq!(hot(false), (0, false));
    }
}

/// Free pages of the pool of 2 MiB pages.
fn pool() -> u64 {
    std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .map_or(0, |text| text.trim().parse().unwrap())
}

#[test]
fn pages_from_a_pool_are_taken_and_a_small_pool_is_no_fault() {
    let nodes = ids(&with_memory());
    let of = |region: &'static str| move |builder: esker::RegionBuilder| builder.max(region);
    let explicit = |hot: String| {
        let config = Config::builder().memory("4GiB").background(false).buffers("2MiB").partitions(4);
        let config = config.hot(move |builder| builder.max(&hot)).warm(of("2MiB")).index(of("4MiB"));
        config.huge_pages(HugePages::Explicit2MiB).numa(|numa| numa.nodes(nodes.clone()))
    };
    // Hot, warm and index region and as much again to spare.
    if pool() >= 2 * (4 + 1 + 2) {
        let before = pool();
        let store = open(explicit("8MiB".into()).strict(true));
        // All of it is taken at opening, so that nothing is short later.
        let reserved =
            std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/resv_hugepages").unwrap();
        assert!(reserved.trim().parse::<u64>().unwrap() > 0 || pool() < before);
        for id in 0..5000 {
            append(&store, id, stream(id % 50), 1000).unwrap();
        }
        let placement = store.placement();
        for kind in [RegionKind::Hot, RegionKind::Index] {
            let region = placement.region(kind);
            assert!(
                region.huge_bytes > 0 && region.huge_bytes == region.resident_bytes,
                "{kind:?}: {region:?}"
            );
        }
        store.validate().unwrap();
    } else {
        assert!(nodes_expected().is_none(), "the virtual machine has a pool");
    }
    let too_much = format!("{}MiB", 2 * (pool() + 32));
    let store = Store::open(explicit(too_much.clone()).build().unwrap()).unwrap();
    let warnings = store.stats().warnings;
    assert!(warnings.iter().any(|text| text.contains("in pages of 2MiB for the hot region")), "{warnings:?}");
    append(&store, 1, stream(1), 100).unwrap();
    drop(store);
    let error = Store::open(explicit(too_much).strict(true).build().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    // The first region that asks for some, where there are none.
    let named = ["hot region", "index region"].iter().any(|region| error.to_string().contains(region));
    assert!(named && error.to_string().contains("strict"), "{error}");
}

#[test]
fn locked_memory_is_told_by_the_system_too() {
    let store = Store::open(small().lock_memory(true).build().unwrap()).unwrap();
    for id in 0..2000 {
        append(&store, id, stream(id % 50), 1000).unwrap();
    }
    let (stats, placement) = (store.stats(), store.placement());
    if stats.warnings.is_empty() {
        let committed: u64 = stats.regions.iter().map(|region| region.committed_bytes).sum();
        // Of the page table all that it can ever have.
        assert!(stats.locked_bytes >= committed, "{} of {committed}", stats.locked_bytes);
        let hot = placement.region(RegionKind::Hot);
        assert!(hot.locked_bytes > 1 << 20 && hot.locked_bytes <= hot.resident_bytes, "{hot:?}");
    } else {
        assert!(nodes_expected().is_none(), "root may lock memory: {:?}", stats.warnings);
        assert!(stats.warnings[0].starts_with("mlock was refused"), "{:?}", stats.warnings);
    }
}

#[test]
fn nodes_that_are_not_there_are_left_out_or_refused() {
    let usable = with_memory()[0].id;
    let config = small().numa(|numa| numa.nodes([usable, 1000]));
    let store = Store::open(config.clone().build().unwrap()).unwrap();
    let warnings = store.stats().warnings;
    assert!(warnings[0].contains("no memory on node 1000; nodes that it can use: 0"), "{warnings:?}");
    assert_eq!(store.stats().region(RegionKind::Hot).arenas, 1);
    let error = Store::open(config.strict(true).build().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    for wrong in [vec![], vec![1024]] {
        let error = small().numa(|numa| numa.nodes(wrong)).build().unwrap_err();
        assert_eq!(error.config_faults()[0].field, "numa.nodes");
    }
    let error =
        small().numa(|numa| numa.policy(NumaPolicy::Bind)).huge_pages(HugePages::Explicit1GiB).build();
    assert_eq!(error.unwrap_err().config_faults()[0].field, "numa.policy");
}

#[test]
fn one_node_is_left_alone() {
    if with_memory().len() == 1 {
        let hot = *open(small()).stats().region(RegionKind::Hot);
        assert_eq!((hot.arenas, hot.local_allocations, hot.remote_allocations), (0, 0, 0));
    }
}

#[test]
fn a_process_that_is_kept_on_a_processor_sees_that() {
    let node = with_memory().into_iter().rfind(|node| !node.allowed_cpus.is_empty()).unwrap();
    let cpu = *node.allowed_cpus.last().unwrap();
    let status = on(cpu, || {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child
            .args(["--ignored", "--exact", "child_sees_one_processor"])
            .env("ESKER_TEST_CPU", cpu.to_string());
        child.output().unwrap()
    });
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
    assert!(String::from_utf8_lossy(&status.stdout).contains("1 passed"));
}

#[test]
#[ignore = "run by a_process_that_is_kept_on_a_processor_sees_that"]
fn child_sees_one_processor() {
    let cpu: usize = std::env::var("ESKER_TEST_CPU").unwrap().parse().unwrap();
    let allowed =
        |machine: Topology| machine.nodes.into_iter().flat_map(|node| node.allowed_cpus).collect::<Vec<_>>();
    assert_eq!(allowed(Topology::from_sysfs("/")), [cpu]);
    assert_eq!(allowed(esker::topology()), [cpu]);
}

#[cfg(feature = "hwloc")]
#[test]
fn hwloc_and_sysfs_say_the_same() {
    let hwloc = Topology::from_hwloc().unwrap();
    println!("{hwloc}");
    assert_eq!(hwloc, Topology::from_sysfs("/"));
}
