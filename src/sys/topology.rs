//! What the machine is: NUMA nodes, their memory and processors, how far they are from each other, caches.
//!
//! Read from sysfs, or, with the feature `hwloc`, by the library of that name. Neither is trusted: what is missing or
//! makes no sense is left out, and a machine of which nothing can be told is one node.

use std::fmt;

use crate::config::ByteSize;

#[cfg(feature = "hwloc")]
mod hwloc;
mod sysfs;

/// What a node's distance to itself is called everywhere: the unit of all others.
const NEAR: u32 = 10;
/// What is assumed between nodes that the system says nothing of.
const FAR: u32 = 20;

/// The machine as this process sees it. See [`topology`].
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Topology {
    /// The NUMA nodes that are online, by id. There is always one.
    pub nodes: Vec<NumaNode>,
    /// Caches for data, the smallest first, one for each set of processors that share it.
    pub caches: Vec<Cache>,
}

/// Memory and the processors that are nearest to it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct NumaNode {
    /// The system's number of the node. They need not be consecutive.
    pub id: u32,
    /// Processors that are online. None for memory that no processor is near to, such as memory behind CXL.
    pub cpus: Vec<usize>,
    /// Of these, the ones that this process may run on (its affinity and its cgroup's cpuset).
    pub allowed_cpus: Vec<usize>,
    /// Bytes. Zero for processors that have no memory of their own.
    pub memory: u64,
    /// Whether there is memory, and this process may have it (its cgroup's cpuset).
    pub memory_allowed: bool,
    /// How far each node of [`Topology::nodes`] is, in their order: 10 is the node itself, 20 twice as far.
    pub distances: Vec<u32>,
}

/// A cache of data, or of data and instructions.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[non_exhaustive]
pub struct Cache {
    /// 1 is the nearest to the processor.
    pub level: u32,
    /// The processors that share it.
    pub cpus: Vec<usize>,
    /// Bytes.
    pub size: u64,
    /// Bytes of a line; zero where the system does not tell.
    pub line: u32,
}

/// The machine as this process sees it: from hwloc where that feature is on and the library can tell, otherwise from
/// sysfs. On systems other than Linux, without hwloc, it is one node.
///
/// ```
/// let machine = esker::topology();
/// println!("{machine}");
/// assert!(!machine.nodes.is_empty());
/// ```
pub fn topology() -> Topology {
    #[cfg(feature = "hwloc")]
    if let Some(topology) = Topology::from_hwloc() {
        return topology;
    }
    Topology::from_sysfs("/")
}

impl Topology {
    /// Reads the Linux files below `root`, which is `/` but for tests: `sys/devices/system`, `proc/self/status` and
    /// `proc/meminfo`.
    pub fn from_sysfs(root: impl AsRef<std::path::Path>) -> Self {
        let mut topology = sysfs::nodes(root.as_ref());
        topology.caches = sysfs::caches(root.as_ref(), &topology);
        topology
    }

    /// The same without caches, which are many files.
    pub(crate) fn nodes_of_this_machine() -> Self {
        sysfs::nodes(std::path::Path::new("/"))
    }

    /// Asks hwloc. `None`: the library could not tell.
    #[cfg(feature = "hwloc")]
    #[cfg_attr(docsrs, doc(cfg(feature = "hwloc")))]
    pub fn from_hwloc() -> Option<Self> {
        hwloc::read()
    }

    /// A machine of which nothing is known.
    fn unknown() -> Self {
        let cpus: Vec<usize> = (0..std::thread::available_parallelism().map_or(1, usize::from)).collect();
        Self { nodes: vec![NumaNode::alone(cpus.clone(), cpus, 0)], caches: Vec::new() }
    }

    /// Where a node is in [`Topology::nodes`].
    pub fn position(&self, id: u32) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// Puts everything into order and mends what makes no sense, so that two sources that mean the same are equal.
    fn tidy(mut self) -> Self {
        self.nodes.sort_by_key(|node| node.id);
        let count = self.nodes.len();
        for (at, node) in self.nodes.iter_mut().enumerate() {
            node.cpus.sort_unstable();
            node.cpus.dedup();
            node.allowed_cpus.sort_unstable();
            node.allowed_cpus.dedup();
            if node.distances.len() != count || node.distances.iter().any(|distance| *distance < NEAR) {
                node.distances = vec![FAR; count];
            }
            node.distances[at] = NEAR;
            node.memory_allowed &= node.memory > 0;
        }
        self.caches.sort();
        self.caches.dedup();
        self
    }
}

impl NumaNode {
    /// The only node of a machine.
    fn alone(cpus: Vec<usize>, allowed_cpus: Vec<usize>, memory: u64) -> Self {
        Self { id: 0, cpus, allowed_cpus, memory, memory_allowed: true, distances: vec![NEAR] }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let cpus: usize = self.nodes.iter().map(|node| node.cpus.len()).sum();
        let allowed: usize = self.nodes.iter().map(|node| node.allowed_cpus.len()).sum();
        let memory = self.nodes.iter().map(|node| node.memory).sum();
        write!(f, "{} node{}, ", self.nodes.len(), if self.nodes.len() == 1 { "" } else { "s" })?;
        write!(f, "{cpus} processors ({allowed} may be used), {}", ByteSize::new(memory))?;
        for node in &self.nodes {
            write!(f, "\nnode {}: {}", node.id, ByteSize::new(node.memory))?;
            if !node.memory_allowed {
                f.write_str(" (may not be used)")?;
            }
            match node.cpus.is_empty() {
                true => f.write_str(", no processors")?,
                false => write!(f, ", processors {}", ranges(&node.cpus))?,
            }
            if node.allowed_cpus != node.cpus {
                write!(f, " (may be used: {})", ranges(&node.allowed_cpus))?;
            }
            write!(f, ", distances")?;
            node.distances.iter().try_for_each(|distance| write!(f, " {distance}"))?;
        }
        let mut rest = &self.caches[..];
        while let Some(first) = rest.first() {
            let same = |cache: &&Cache| (cache.level, cache.size) == (first.level, first.size);
            let (count, each) = (rest.iter().take_while(same).count(), first.cpus.len());
            write!(
                f,
                "\nL{}: {count} of {}, each for {each} processor",
                first.level,
                ByteSize::new(first.size)
            )?;
            f.write_str(if each == 1 { "" } else { "s" })?;
            rest = &rest[count..];
        }
        Ok(())
    }
}

/// Sorted numbers as the system writes them: `0-3,8`. `none` if there are none.
pub(crate) fn ranges(numbers: &[usize]) -> String {
    let mut text = String::new();
    let mut at = 0;
    while at < numbers.len() {
        let mut end = at;
        while numbers.get(end + 1) == Some(&(numbers[end] + 1)) {
            end += 1;
        }
        let comma = if text.is_empty() { "" } else { "," };
        text += &match end - at {
            0 => format!("{comma}{}", numbers[at]),
            _ => format!("{comma}{}-{}", numbers[at], numbers[end]),
        };
        at = end + 1;
    }
    if text.is_empty() { "none".into() } else { text }
}

#[cfg(test)]
mod tests;
