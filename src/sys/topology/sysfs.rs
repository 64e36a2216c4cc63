//! The machine as Linux tells it in files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::sys::topology::{Cache, NumaNode, Topology};

/// Numbers of processors and nodes at and above this are not believed: Linux has 8192 processors at most.
const CPUS_MAX: usize = 8192;
const NODES_MAX: usize = 1024;
/// No file that is read here is longer.
const FILE_MAX: u64 = 64 << 10;
/// How many caches a processor may name.
const CACHES_MAX: usize = 16;

/// The text of a file; `None` if it is not there or cannot be read.
fn text(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(FILE_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.trim().parse().ok()
}

/// The numbers of a list such as `0-3,8`, below `max`, in order. What is no number is left out.
pub(super) fn list(text: &str, max: usize) -> Vec<usize> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            numbers.extend((first..=last).take_while(|number| *number < max));
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

/// Bytes of a line `MemTotal: 12 kB`, with whatever stands before.
fn mem_total(text: &str) -> Option<u64> {
    let (_, rest) = text.split_once("MemTotal:")?;
    rest.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// What `proc/self/status` says of this process: processors and nodes that it may use.
struct Allowed {
    cpus: Option<Vec<usize>>,
    nodes: Option<Vec<usize>>,
}

impl Allowed {
    fn read(root: &Path) -> Self {
        let status = text(&root.join("proc/self/status")).unwrap_or_default();
        let of = |name: &str, max| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            Some(list(line, max))
        };
        Self { cpus: of("Cpus_allowed_list:", CPUS_MAX), nodes: of("Mems_allowed_list:", NODES_MAX) }
    }

    fn of_cpus(&self, cpus: &[usize]) -> Vec<usize> {
        let may = |cpu: &usize| self.cpus.as_ref().is_none_or(|allowed| allowed.contains(cpu));
        cpus.iter().copied().filter(may).collect()
    }
}

/// The names in a folder that are `prefix` and a number.
fn numbered(folder: &Path, prefix: &str, max: usize) -> Vec<usize> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let number = |name: &str| name.strip_prefix(prefix)?.parse::<usize>().ok();
    let mut found: Vec<usize> = entries
        .filter_map(|entry| number(entry.file_name().to_str()?))
        .filter(|number| *number < max)
        .collect();
    found.sort_unstable();
    found
}

pub(super) fn nodes(root: &Path) -> Topology {
    let (cpu_folder, node_folder) =
        (root.join("sys/devices/system/cpu"), root.join("sys/devices/system/node"));
    let allowed = Allowed::read(root);
    let online_cpus = text(&cpu_folder.join("online"))
        .map(|online| list(&online, CPUS_MAX))
        .filter(|cpus| !cpus.is_empty())
        .unwrap_or_else(|| numbered(&cpu_folder, "cpu", CPUS_MAX));
    let there = numbered(&node_folder, "node", NODES_MAX);
    let online = text(&node_folder.join("online")).map(|online| list(&online, NODES_MAX));
    // The columns of distances are the nodes that are online.
    let ids: Vec<usize> = match online {
        Some(online) => there.into_iter().filter(|id| online.contains(id)).collect(),
        None => there,
    };
    let mut topology = Topology {
        nodes: ids.iter().map(|id| node(&node_folder.join(format!("node{id}")), *id, &allowed)).collect(),
        caches: Vec::new(),
    };
    for node in &mut topology.nodes {
        if !online_cpus.is_empty() {
            node.cpus.retain(|cpu| online_cpus.contains(cpu));
        }
        node.allowed_cpus = allowed.of_cpus(&node.cpus);
    }
    if topology.nodes.iter().all(|node| node.cpus.is_empty()) {
        // A kernel without NUMA, or files that tell nothing.
        if online_cpus.is_empty() {
            return Topology::unknown();
        }
        let memory = text(&root.join("proc/meminfo")).as_deref().and_then(mem_total).unwrap_or(0);
        let may = allowed.of_cpus(&online_cpus);
        topology.nodes = vec![NumaNode::alone(online_cpus, may, memory)];
    }
    topology.tidy()
}

fn node(folder: &Path, id: usize, allowed: &Allowed) -> NumaNode {
    let distances = text(&folder.join("distance")).unwrap_or_default();
    NumaNode {
        id: id as u32,
        cpus: text(&folder.join("cpulist")).map(|cpus| list(&cpus, CPUS_MAX)).unwrap_or_default(),
        allowed_cpus: Vec::new(),
        memory: text(&folder.join("meminfo")).as_deref().and_then(mem_total).unwrap_or(0),
        memory_allowed: allowed.nodes.as_ref().is_none_or(|nodes| nodes.contains(&id)),
        // One that is no number makes the line useless: later columns would be of other nodes.
        distances: distances.split_whitespace().map_while(|distance| distance.parse().ok()).collect(),
    }
}

pub(super) fn caches(root: &Path, topology: &Topology) -> Vec<Cache> {
    let online: Vec<usize> = topology.nodes.iter().flat_map(|node| node.cpus.iter().copied()).collect();
    let mut caches = Vec::new();
    for cpu in &online {
        let folder = root.join(format!("sys/devices/system/cpu/cpu{cpu}/cache"));
        for index in numbered(&folder, "index", CACHES_MAX) {
            let cache = cache(&folder.join(format!("index{index}")), &online);
            // Each processor of a cache tells of it.
            caches.extend(cache.filter(|cache| cache.cpus.first() == Some(cpu)));
        }
    }
    caches.sort();
    caches
}

fn cache(folder: &Path, online: &[usize]) -> Option<Cache> {
    if text(&folder.join("type"))?.trim() == "Instruction" {
        return None;
    }
    let mut cpus = list(&text(&folder.join("shared_cpu_list"))?, CPUS_MAX);
    cpus.retain(|cpu| online.contains(cpu));
    Some(Cache {
        level: number(&folder.join("level"))?,
        cpus,
        size: size(text(&folder.join("size"))?.trim())?,
        line: number(&folder.join("coherency_line_size")).unwrap_or(0),
    })
}

/// `48K`, `2M` or bytes.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
