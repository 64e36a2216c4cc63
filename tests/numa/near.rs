//! Threads and where they run: those of the store are kept where they are told, those that touch memory are near it, and
//! processors that have no memory, or go away, are no fault.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use esker::{Affinity, Config, RegionKind, Store, Topology};

use super::{append, bytes_on, ids, nodes_expected, on, open, small, stream, with_memory};

/// How long threads may take to begin on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// The monotonic clock, for how long a test waits.
#[expect(
    clippy::disallowed_methods,
    reason = "a test waits for threads of the store, which no clock of its own drives"
)]
fn now() -> Instant {
    Instant::now()
}

/// The processors that each of the store's own threads may use, by the thread's name.
fn threads_of_the_store() -> Vec<(String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let mut found: Vec<(String, String)> = tasks
        .filter_map(|task| {
            // One that has ended meanwhile has no files.
            let name = std::fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            let status = std::fs::read_to_string(task.path().join("status")).ok()?;
            let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
            ["esker-mover", "esker-spiller", "esker-keeper"]
                .contains(&&*name)
                .then(|| (name, cpus.trim().to_owned()))
        })
        .collect();
    found.sort();
    found
}

/// Waits until no thread of a store is left. One that was joined may be listed for a moment longer: the system wakes
/// those who wait for a thread before it takes the thread from its list.
fn all_have_ended() {
    let begin = now();
    while !threads_of_the_store().is_empty() {
        assert!(begin.elapsed() < PATIENCE, "{:?}", threads_of_the_store());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn threads_of_the_store_are_kept_where_they_are_told() {
    let node = with_memory().into_iter().rfind(|node| !node.allowed_cpus.is_empty()).unwrap();
    let machine = Topology::from_sysfs("/");
    let all: Vec<usize> = machine.nodes.iter().flat_map(|node| node.allowed_cpus.clone()).collect();
    let (first, last) = (all[0], all[all.len() - 1]);
    let one = |cpu: usize| vec![cpu.to_string()];
    let each = |cpus: &[usize]| cpus.iter().map(usize::to_string).collect::<Vec<_>>();
    for (affinity, expected) in [
        (Affinity::Cpus(vec![last]), one(last)),
        (Affinity::Cpus(vec![first]), one(first)),
        // By turns: the mover, then the spillers.
        (Affinity::Cpus(vec![first, last]), each(&[first, last])),
        (Affinity::Nodes(vec![node.id]), each(&node.allowed_cpus)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::builder().memory("48MiB").data_dir(dir.path()).affinity(affinity.clone());
        let store = Store::open(config.build().unwrap()).unwrap();
        let right = |threads: &[(String, String)]| {
            let used: BTreeSet<&str> = threads.iter().map(|(_, cpus)| &**cpus).collect();
            let names: BTreeSet<&str> = threads.iter().map(|(name, _)| &**name).collect();
            let enough = names.contains("esker-mover") && names.contains("esker-spiller");
            enough && used == expected.iter().map(|cpu| &**cpu).take(threads.len()).collect()
        };
        let begin = now();
        while !right(&threads_of_the_store()) {
            assert!(begin.elapsed() < PATIENCE, "{affinity:?}: {:?}", threads_of_the_store());
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(store.stats().warnings, [""; 0]);
        drop(store);
        all_have_ended();
    }
    // Threads that are left alone may run wherever the process may.
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(Config::builder().memory("48MiB").data_dir(dir.path()).build().unwrap()).unwrap();
    let allowed = |threads: Vec<(String, String)>| threads.into_iter().map(|(_, cpus)| cpus);
    assert!(allowed(threads_of_the_store()).all(|cpus| cpus == kept_on()));
    drop(store);
    // A processor that is not there is a warning.
    let config = small().background(true).affinity(Affinity::Cpus(vec![1023])).build().unwrap();
    let store = Store::open(config).unwrap();
    let begin = now();
    while store.stats().warnings.is_empty() && begin.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(5));
    }
    let warnings = store.stats().warnings;
    assert!(warnings.iter().any(|text| text.contains("stays where the system puts it")), "{warnings:?}");
}

/// The processors that the calling thread may use, as the system writes them.
fn kept_on() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim().to_owned()
}

/// What is seen of the threads that touch memory.
#[derive(Default)]
struct Seen {
    kept_on: BTreeSet<String>,
    late: bool,
}

#[test]
fn memory_is_touched_in_parallel_by_threads_near_to_it() {
    let nodes = with_memory();
    let anywhere: Vec<usize> =
        Topology::from_sysfs("/").nodes.into_iter().flat_map(|node| node.allowed_cpus).collect();
    for node in nodes.iter().filter(|node| !node.allowed_cpus.is_empty()) {
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let (by, wanted) = (seen.clone(), node.allowed_cpus.len());
        let told = move |_, _| {
            let mut seen = by.0.lock().unwrap();
            seen.kept_on.insert(kept_on());
            by.1.notify_all();
            // Each waits for all others: one after the other would not do.
            let more = |seen: &mut Seen| seen.kept_on.len() < wanted && !seen.late;
            let (mut seen, waited) = by.1.wait_timeout_while(seen, PATIENCE, more).unwrap();
            seen.late |= waited.timed_out();
        };
        let config = Config::builder().memory("192MiB").background(false).numa(|numa| numa.nodes([node.id]));
        let config = config.hot(|hot| hot.max("64MiB").initial("64MiB").prefault(true)).build().unwrap();
        // Opened from a processor elsewhere, if there is one: threads are kept where their parent is.
        let elsewhere = anywhere.iter().find(|cpu| !node.allowed_cpus.contains(cpu)).unwrap_or(&anywhere[0]);
        let store = on(*elsewhere, || Store::builder(config).on_prefault(told).open().unwrap());
        assert_eq!(store.placement().region(RegionKind::Hot).resident_bytes, 64 << 20);
        let expected: BTreeSet<String> = node.allowed_cpus.iter().map(usize::to_string).collect();
        assert_eq!(
            seen.0.lock().unwrap().kept_on,
            expected,
            "a thread for each processor of node {}",
            node.id
        );
    }
}

#[test]
fn a_processor_without_memory_is_served_by_the_nearest_node() {
    let machine = Topology::from_sysfs("/");
    let nodes = with_memory();
    let without = machine.nodes.iter().filter(|node| !node.memory_allowed && !node.allowed_cpus.is_empty());
    for node in without {
        let (_, nearest) = nodes
            .iter()
            .map(|other| (node.distances[machine.position(other.id).unwrap()], other.id))
            .min()
            .unwrap();
        assert!(nearest > nodes[0].id, "the machine is made so that the first node is not the nearest");
        let store = open(small().numa(|numa| numa.nodes(ids(&nodes))));
        on(node.allowed_cpus[0], || {
            for id in 0..4000 {
                append(&store, id, stream(id % 50), 1000).unwrap();
            }
        });
        let hot = *store.stats().region(RegionKind::Hot);
        assert_eq!((hot.local_allocations, hot.remote_allocations), (0, hot.allocations), "{hot:?}");
        let on = bytes_on(&store.placement(), RegionKind::Hot);
        assert_eq!(on.keys().copied().collect::<Vec<_>>(), [nearest], "{on:?}");
        // No stream is at home where there is no memory.
        assert!((0..500).all(|number| store.home_of(stream(number)).node != node.id));
    }
    let layout = std::env::var("ESKER_VM_NODES").unwrap_or_default();
    assert!(layout != "cpuless" || machine.nodes.iter().any(|node| node.memory == 0), "{machine}");
}

/// A processor that is switched off; on again when it is dropped.
struct Off(String);

impl Off {
    fn new(cpu: usize) -> Self {
        let file = format!("/sys/devices/system/cpu/cpu{cpu}/online");
        std::fs::write(&file, "0").unwrap();
        Self(file)
    }
}

impl Drop for Off {
    fn drop(&mut self) {
        std::fs::write(&self.0, "1").unwrap();
    }
}

#[test]
fn a_processor_that_goes_offline_is_gone_and_comes_back() {
    if nodes_expected().is_none() {
        // The machine's processors are not ours.
        return;
    }
    let before = Topology::from_sysfs("/");
    let cpu = before.nodes.iter().flat_map(|node| node.allowed_cpus.clone()).max().unwrap();
    {
        let _off = Off::new(cpu);
        let machine = Topology::from_sysfs("/");
        println!("{machine}");
        assert_eq!(machine, esker::topology(), "hwloc, where it is asked, says the same");
        let cpus: Vec<usize> = machine.nodes.iter().flat_map(|node| node.cpus.clone()).collect();
        assert!(!cpus.contains(&cpu) && !cpus.is_empty(), "{machine}");
        assert_eq!(Affinity::Cpus(vec![cpu]).pin(0), None);
        let store = open(small().numa(|numa| numa.nodes(ids(&with_memory()))));
        for id in 0..2000 {
            append(&store, id, stream(id % 50), 1000).unwrap();
        }
        for number in 0..500 {
            let home = store.home_of(stream(number));
            assert!(!home.cpus.is_empty() && !home.cpus.contains(&cpu), "{home:?}");
        }
        store.validate().unwrap();
    }
    assert_eq!(Topology::from_sysfs("/"), before);
}
