//! What depends on the machine: nodes, binding, placement, pages. Written to hold on every machine, and run by
//! `scripts/test` on virtual ones with 1, 2 and 4 nodes (`scripts/numa-vm`), where what needs several nodes is not
//! skipped.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use esker::Topology;

/// How many nodes the virtual machine has; `None` on others, where it can be anything.
fn nodes_expected() -> Option<usize> {
    match std::env::var("ESKER_VM_NODES").ok()?.as_str() {
        "cpuless" => Some(2),
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

#[cfg(feature = "hwloc")]
#[test]
fn hwloc_and_sysfs_say_the_same() {
    let hwloc = Topology::from_hwloc().unwrap();
    println!("{hwloc}");
    assert_eq!(hwloc, Topology::from_sysfs("/"));
}
