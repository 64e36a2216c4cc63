//! A process that may use only some processors and nodes: a cgroup as containers have it, made in the virtual machine.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use esker::{ErrorKind, RegionKind, Store, Topology};

use super::{append, bytes_on, ids, nodes_expected, small, stream};

/// Set for the process in the cgroup: the processor and the node that it may use.
const INSIDE: &str = "ESKER_TEST_CPUSET";

/// A cgroup of one processor and one node.
fn cgroup(cpu: usize, node: u32) -> PathBuf {
    let root = Path::new("/tmp/cgroup");
    std::fs::create_dir_all(root).unwrap();
    let mounted = Command::new("mount").args(["-t", "cgroup2", "cgroup2", "/tmp/cgroup"]).status().unwrap();
    assert!(mounted.success());
    std::fs::write(root.join("cgroup.subtree_control"), "+cpuset").unwrap();
    let group = root.join("esker");
    std::fs::create_dir_all(&group).unwrap();
    std::fs::write(group.join("cpuset.cpus"), cpu.to_string()).unwrap();
    std::fs::write(group.join("cpuset.mems"), node.to_string()).unwrap();
    group
}

#[test]
fn a_process_in_a_cpuset_uses_what_it_may_and_nothing_else() {
    if let Ok(inside) = std::env::var(INSIDE) {
        let (cpu, node) = inside.split_once(' ').unwrap();
        return inside_of(cpu.parse().unwrap(), node.parse().unwrap());
    }
    if nodes_expected().is_none() {
        // The machine is not ours to divide.
        return;
    }
    let machine = Topology::from_sysfs("/");
    // The last processor and the last memory: on machines with several nodes neither is what the first node offers.
    let node = machine.nodes.iter().rev().find(|node| node.memory_allowed).unwrap();
    let cpu = *machine.nodes.iter().flat_map(|node| &node.allowed_cpus).max().unwrap();
    let group = cgroup(cpu, node.id);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "cpuset::a_process_in_a_cpuset_uses_what_it_may_and_nothing_else", "--nocapture"])
        .env(INSIDE, format!("{cpu} {}", node.id))
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::fs::write(group.join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"go").unwrap();
    assert!(child.wait().unwrap().success(), "see above for what the process in the cpuset said");
}

fn inside_of(cpu: usize, node: u32) {
    // Told once it is in its cgroup.
    std::io::stdin().read_exact(&mut [0; 2]).unwrap();
    let machine = Topology::from_sysfs("/");
    println!("{machine}");
    let allowed: Vec<usize> = machine.nodes.iter().flat_map(|node| node.allowed_cpus.clone()).collect();
    assert_eq!(allowed, [cpu]);
    let (may, may_not): (Vec<_>, Vec<_>) = machine.nodes.into_iter().partition(|node| node.memory_allowed);
    assert_eq!(ids(&may), [node]);

    let store = Store::open(small().build().unwrap()).unwrap();
    for id in 0..2000 {
        append(&store, id, stream(id % 50), 1000).unwrap();
    }
    assert_eq!(store.stats().warnings, [""; 0], "a cpuset is nothing to warn of");
    let placement = store.placement();
    for kind in RegionKind::ALL {
        assert!(bytes_on(&placement, kind).keys().all(|id| *id == node), "{kind:?}: {placement:?}");
    }
    let home = store.home_of(stream(1));
    assert_eq!(home.cpus, [cpu], "work goes where this process may run");
    store.validate().unwrap();

    // Nodes that it may not use are named.
    let Some(other) = may_not.first() else { return };
    let config = || small().numa(|numa| numa.nodes([other.id, node]));
    let strict = Store::open(config().strict(true).build().unwrap()).unwrap_err();
    assert_eq!(strict.kind(), ErrorKind::Io);
    assert!(strict.to_string().contains(&format!("node {}", other.id)), "{strict}");
    let store = Store::open(config().build().unwrap()).unwrap();
    assert_eq!(store.stats().warnings.len(), 1, "{:?}", store.stats().warnings);
    append(&store, 1, stream(1), 1000).unwrap();
}
