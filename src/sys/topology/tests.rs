//! Machines made up of files, sound and odd.

use std::path::Path;

use super::*;

/// A root with these files.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    root
}

fn read(files: &[(&str, &str)]) -> Topology {
    Topology::from_sysfs(root(files).path())
}

fn meminfo(node: u32, kib: u64) -> String {
    format!("\nNode {node} MemTotal:       {kib} kB\nNode {node} MemFree:        1 kB\n")
}

const NODES: &str = "sys/devices/system/node";
const CPUS: &str = "sys/devices/system/cpu";

/// Two nodes of two processors and one of memory only.
fn three_nodes() -> Vec<(String, String)> {
    let mut files = vec![
        (format!("{CPUS}/online"), "0-3\n".into()),
        (format!("{NODES}/online"), "0-2\n".into()),
        ("proc/self/status".into(), "Cpus_allowed_list:\t0-3\nMems_allowed_list:\t0-2\n".into()),
    ];
    let nodes = [("0-1", "10 21 28", 1024), ("2-3", "21 10 17", 2048), ("", "28 17 10", 4096)];
    for (id, (cpus, distances, kib)) in nodes.into_iter().enumerate() {
        files.push((format!("{NODES}/node{id}/cpulist"), format!("{cpus}\n")));
        files.push((format!("{NODES}/node{id}/distance"), format!("{distances}\n")));
        files.push((format!("{NODES}/node{id}/meminfo"), meminfo(id as u32, kib)));
    }
    files
}

/// Reads three nodes after some files were replaced, or removed (`None`).
fn changed(changes: &[(&str, Option<&str>)]) -> Topology {
    let mut files = three_nodes();
    for (path, text) in changes {
        files.retain(|(other, _)| other != path);
        files.extend(text.map(|text| (path.to_string(), text.to_string())));
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, &**text)).collect();
    read(&files)
}

#[test]
fn a_machine_of_three_nodes_is_read_as_it_is() {
    let machine = changed(&[]);
    let cpus: Vec<_> = machine.nodes.iter().map(|node| node.cpus.clone()).collect();
    assert_eq!(cpus, [vec![0, 1], vec![2, 3], vec![]]);
    assert_eq!(machine.nodes[2].memory, 4 << 20);
    assert_eq!(machine.nodes[1].distances, [21, 10, 17]);
    assert!(machine.nodes.iter().all(|node| node.memory_allowed && node.allowed_cpus == node.cpus));
    let text = machine.to_string();
    assert!(text.contains("node 2: 4MiB, no processors, distances 28 17 10"), "{text}");
    assert!(text.contains("3 nodes, 4 processors (4 may be used), 7MiB"), "{text}");
}

#[test]
fn what_the_cgroup_forbids_is_there_but_not_allowed() {
    let machine = changed(&[("proc/self/status", Some("Cpus_allowed_list:\t1-2\nMems_allowed_list:\t0\n"))]);
    assert_eq!(machine.nodes[0].cpus, [0, 1]);
    assert_eq!(machine.nodes[0].allowed_cpus, [1]);
    assert_eq!(machine.nodes[1].allowed_cpus, [2]);
    assert_eq!(
        machine.nodes.iter().map(|node| node.memory_allowed).collect::<Vec<_>>(),
        [true, false, false]
    );
    let text = machine.to_string();
    assert!(text.contains("4 processors (2 may be used)"), "{text}");
    assert!(text.contains("(may not be used), processors 2-3 (may be used: 2)"), "{text}");
}

#[test]
fn processors_that_are_offline_do_not_count() {
    let machine = changed(&[("sys/devices/system/cpu/online", Some("0,2-3\n"))]);
    assert_eq!(machine.nodes[0].cpus, [0]);
}

#[test]
fn nodes_that_are_offline_do_not_count() {
    let machine = changed(&[
        ("sys/devices/system/node/online", Some("0,2\n")),
        ("sys/devices/system/node/node0/distance", Some("10 28\n")),
        ("sys/devices/system/node/node2/distance", Some("28 10\n")),
    ]);
    assert_eq!(machine.nodes.iter().map(|node| node.id).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(machine.nodes[0].distances, [10, 28]);
    assert_eq!(machine.position(2), Some(1));
    assert_eq!(machine.position(1), None);
}

#[test]
fn processors_without_memory_are_a_node_of_no_bytes() {
    let machine = changed(&[("sys/devices/system/node/node1/meminfo", Some("Node 1 MemTotal: 0 kB\n"))]);
    assert_eq!((machine.nodes[1].memory, machine.nodes[1].cpus.len()), (0, 2));
    assert!(!machine.nodes[1].memory_allowed);
    let machine = changed(&[("sys/devices/system/node/node1/meminfo", None)]);
    assert_eq!(machine.nodes[1].memory, 0);
}

#[test]
fn distances_that_make_no_sense_are_near_and_far() {
    for odd in ["", "10", "10 twenty 30", "0 10 20", "10 20 30 40", "21 -10 17", "99999999999 10 10"] {
        let machine = changed(&[("sys/devices/system/node/node1/distance", Some(odd))]);
        assert_eq!(machine.nodes[1].distances, [20, 10, 20], "{odd:?}");
        assert_eq!(machine.nodes[0].distances, [10, 21, 28]);
    }
    let machine = changed(&[("sys/devices/system/node/node1/distance", None)]);
    assert_eq!(machine.nodes[1].distances, [20, 10, 20]);
}

#[test]
fn a_kernel_without_numa_is_one_node() {
    let machine = read(&[
        ("sys/devices/system/cpu/online", "0-7\n"),
        ("proc/self/status", "Cpus_allowed_list:\t4-5\n"),
        ("proc/meminfo", "MemTotal:  16384 kB\nMemFree: 1 kB\n"),
    ]);
    assert_eq!(machine.nodes, [NumaNode::alone((0..8).collect(), vec![4, 5], 16 << 20)]);
}

#[test]
fn a_machine_of_which_nothing_can_be_told_is_one_node_of_what_the_program_may_use() {
    let cpus = std::thread::available_parallelism().unwrap().get();
    for machine in [read(&[]), Topology::from_sysfs("/there/is/no/such/folder")] {
        assert_eq!(machine.nodes.len(), 1);
        assert_eq!(machine.nodes[0].allowed_cpus.len(), cpus);
        assert_eq!(machine.nodes[0].distances, [10]);
    }
}

#[test]
fn processors_are_found_where_only_their_folders_tell_of_them() {
    let machine = read(&[
        ("sys/devices/system/cpu/cpu0/topology/x", ""),
        ("sys/devices/system/cpu/cpu3/topology/x", ""),
        ("sys/devices/system/cpu/cpuidle/x", ""),
    ]);
    assert_eq!(machine.nodes[0].cpus, [0, 3]);
}

#[test]
fn files_that_lie_make_no_monster() {
    let endless = "0-18446744073709551615,7-3,x,-5,1-,4294967296,\u{0},,";
    let machine = changed(&[
        ("sys/devices/system/cpu/online", Some(endless)),
        ("sys/devices/system/node/online", Some(endless)),
        ("sys/devices/system/node/node0/cpulist", Some(endless)),
        ("sys/devices/system/node/node99999999999/cpulist", Some("0")),
        ("sys/devices/system/node/node5000/cpulist", Some("0")),
        ("sys/devices/system/node/nodeX/cpulist", Some("0")),
        ("sys/devices/system/node/node0/meminfo", Some("Node 0 MemTotal: 99999999999999999999 kB")),
        ("sys/devices/system/node/node1/meminfo", Some("Node 0 MemTotal: 18446744073709551615 kB")),
        ("proc/self/status", Some("Cpus_allowed_list:\t\nMems_allowed_list:\tall\n")),
    ]);
    assert_eq!(machine.nodes.len(), 3);
    assert_eq!(machine.nodes[0].cpus.len(), 8192);
    assert!(machine.nodes.iter().all(|node| node.memory == 0 || node.id == 2));
    assert!(machine.nodes.iter().all(|node| node.allowed_cpus.is_empty() && !node.memory_allowed));
}

#[test]
fn a_file_that_is_a_folder_is_a_file_that_is_not_there() {
    let machine = changed(&[
        ("sys/devices/system/node/node0/distance", None),
        ("sys/devices/system/node/node0/distance/oops", Some("")),
    ]);
    assert_eq!(machine.nodes[0].distances, [10, 20, 20]);
}

#[test]
fn caches_are_told_once_for_all_who_share_them() {
    let mut files = vec![("sys/devices/system/cpu/online".to_string(), "0-1\n")];
    for cpu in 0..2 {
        let all = [
            ("0", "Data", "1", if cpu == 0 { "0\n" } else { "1\n" }, "48K\n"),
            ("1", "Instruction", "1", if cpu == 0 { "0\n" } else { "1\n" }, "32K\n"),
            ("2", "Unified", "2", "0-1,9\n", "2M\n"),
            ("3", "Unified", "not a level", "0-1\n", "2M\n"),
        ];
        for (index, kind, level, shared, size) in all {
            let folder = format!("sys/devices/system/cpu/cpu{cpu}/cache/index{index}");
            files.push((format!("{folder}/type"), kind));
            files.push((format!("{folder}/level"), level));
            files.push((format!("{folder}/shared_cpu_list"), shared));
            files.push((format!("{folder}/size"), size));
            files.push((format!("{folder}/coherency_line_size"), "64\n"));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, *text)).collect();
    let machine = read(&files);
    let cache = |level, cpus: &[usize], size| Cache { level, cpus: cpus.to_vec(), size, line: 64 };
    assert_eq!(
        machine.caches,
        [cache(1, &[0], 48 << 10), cache(1, &[1], 48 << 10), cache(2, &[0, 1], 2 << 20)]
    );
    let text = machine.to_string();
    assert!(text.contains("L1: 2 of 48KiB, each for 1 processor\n"), "{text}");
    assert!(text.contains("L2: 1 of 2MiB, each for 2 processors"), "{text}");
}

#[test]
fn numbers_are_written_as_they_are_read() {
    for text in ["0", "0-3", "0-1,3,5-7", "none"] {
        assert_eq!(ranges(&sysfs::list(text, 100)), text);
    }
}

#[test]
fn this_machine_is_read() {
    let machine = Topology::from_sysfs(Path::new("/"));
    let allowed: usize = machine.nodes.iter().map(|node| node.allowed_cpus.len()).sum();
    assert!(allowed >= std::thread::available_parallelism().unwrap().get(), "{machine}");
    assert!(machine.nodes.iter().any(|node| node.memory > 1 << 20), "{machine}");
    assert_eq!(machine.nodes, Topology::nodes_of_this_machine().nodes);
}
