//! What a store makes of the machine it runs on: the nodes it uses, who is near to whom, and what the system refused.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::config::{ByteSize, Config, HugePages, IndexPlacement, NumaConfig, NumaPolicy};
use crate::error::{Error, ErrorKind, Result};
use crate::pressure::RegionKind;
use crate::sys::cgroup::memory_limit;
use crate::sys::memory::{self, Mapping};
use crate::sys::topology::{NumaNode, Topology, ranges};

/// The most warnings that are kept.
const WARNINGS_MAX: usize = 64;

/// Where a thread or a partition is: a row of the table that says which arenas are near. Not a node's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot(u16);

pub(crate) struct Machine {
    pub(crate) topology: Topology,
    /// The ids of the nodes that have arenas, ascending. Empty: memory is left to the system.
    arenas: Vec<u32>,
    /// Each arena's share of the memory of all.
    weights: Vec<u64>,
    /// For each node of the topology the arenas, the nearest first.
    nearest: Vec<Vec<u16>>,
    /// For each processor the row of its node.
    rows: Vec<u16>,
    numa: NumaConfig,
    pub(crate) huge: HugePages,
    pub(crate) lock_memory: bool,
    /// Until the store is open: what is refused later cannot be an error of opening.
    strict: AtomicBool,
    /// Bytes that the system agreed to keep out of swap.
    pub(crate) locked: AtomicU64,
    warnings: Mutex<Vec<String>>,
}

/// How one region's memory is tied to nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Layout {
    /// As the system likes.
    Plain,
    /// In turn on these nodes.
    Interleaved(Vec<u32>),
    /// In arenas.
    Arenas,
}

impl Machine {
    /// The machine that this process runs on.
    ///
    /// # Errors
    /// In a strict store: nodes that cannot be used, and less memory than the store may take.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let machine = Self::of(Topology::nodes_of_this_machine(), config)?;
        if let Some(limit) = memory_limit().filter(|limit| *limit < config.memory) {
            machine.trouble(|| {
                format!(
                    "memory: the control group of this process, its container's for example, allows {}, and the store may \
                     take {}: the system ends the process when it does; lower ConfigBuilder::memory, and leave room for \
                     the program",
                    ByteSize::new(limit),
                    ByteSize::new(config.memory)
                )
            })?;
        }
        Ok(machine)
    }

    fn of(topology: Topology, config: &Config) -> Result<Self> {
        let mut machine = Self {
            arenas: Vec::new(),
            weights: Vec::new(),
            nearest: Vec::new(),
            rows: Vec::new(),
            numa: config.numa.clone(),
            huge: config.huge_pages,
            lock_memory: config.lock_memory,
            strict: AtomicBool::new(config.strict),
            locked: AtomicU64::new(0),
            warnings: Mutex::default(),
            topology,
        };
        machine.choose_nodes()?;
        machine.rows = rows(&machine.topology);
        machine.nearest =
            machine.topology.nodes.iter().map(|node| machine.nearest_to(&node.distances)).collect();
        Ok(machine)
    }

    fn choose_nodes(&mut self) -> Result<()> {
        let usable: Vec<u32> =
            self.topology.nodes.iter().filter(|node| node.memory_allowed).map(|node| node.id).collect();
        let mut chosen = match self.numa.nodes.clone() {
            // One node is what memory comes from anyway.
            None if usable.len() <= 1 => Vec::new(),
            None => usable.clone(),
            Some(wanted) => wanted,
        };
        chosen.sort_unstable();
        chosen.dedup();
        let unusable: Vec<usize> =
            chosen.extract_if(.., |node| !usable.contains(node)).map(|node| node as usize).collect();
        self.weights = chosen
            .iter()
            .filter_map(|id| self.topology.nodes.get(self.topology.position(*id)?))
            .map(|node| node.memory.max(1))
            .collect();
        self.arenas = chosen;
        if unusable.is_empty() {
            return Ok(());
        }
        self.trouble(|| {
            format!(
                "numa.nodes: this process can have no memory on node {}; nodes that it can use: {}",
                ranges(&unusable),
                ranges(&usable.iter().map(|node| *node as usize).collect::<Vec<_>>())
            )
        })
    }

    /// The arenas, the nearest first by these distances; of two as near, the one with the lower number.
    fn nearest_to(&self, distances: &[u32]) -> Vec<u16> {
        let mut order: Vec<u16> = (0..self.arenas.len() as u16).collect();
        let far = |arena: &u16| {
            let at = self.topology.position(self.arenas[usize::from(*arena)]);
            at.and_then(|at| distances.get(at).copied()).unwrap_or(u32::MAX)
        };
        order.sort_by_key(far);
        order
    }

    /// Keeps a range of a region out of swap, if that is wished.
    ///
    /// # Errors
    /// In a strict store that is being opened: the system refuses.
    pub(crate) fn lock(&self, mapping: &Mapping, from: usize, len: usize) -> Result<()> {
        if !self.lock_memory {
            return Ok(());
        }
        match mapping.lock(from, len) {
            Ok(()) => {
                self.locked.fetch_add(len as u64, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => self.trouble(|| {
                format!(
                    "mlock was refused ({error}): memory may be written to swap; raise the limit (ulimit -l), or give \
                     the process CAP_IPC_LOCK"
                )
            }),
        }
    }

    /// Lets go of what was kept out of swap, so that it can be given back to the system.
    pub(crate) fn unlock(&self, mapping: &Mapping, from: usize, len: usize) {
        // A range that was never locked counts nothing.
        if self.lock_memory && mapping.unlock(from, len) {
            let less = |locked: u64| Some(locked.saturating_sub(len as u64));
            let _ = self.locked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Something that the store can do without: a warning, or, in a strict store, an error.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] in a strict store.
    pub(crate) fn trouble(&self, what: impl FnOnce() -> String) -> Result<()> {
        if self.strict.load(Ordering::Relaxed) {
            let text = format!("{}; the configuration is strict, so the store does not open without", what());
            return Err(Error::new(ErrorKind::Io, text));
        }
        self.warn(what());
        Ok(())
    }

    /// The store is open: from now on nothing is an error that the store can do without.
    pub(crate) fn is_open(&self) {
        self.strict.store(false, Ordering::Relaxed);
    }

    /// Notes something once.
    pub(crate) fn warn(&self, what: String) {
        let mut warnings = self.warnings.lock();
        if warnings.len() < WARNINGS_MAX && !warnings.contains(&what) {
            warnings.push(what);
        }
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().clone()
    }

    /// The ids of the nodes that arenas are on.
    pub(crate) fn arenas(&self) -> &[u32] {
        &self.arenas
    }

    pub(crate) fn weights(&self) -> &[u64] {
        &self.weights
    }

    pub(crate) fn policy(&self) -> NumaPolicy {
        self.numa.policy
    }

    /// How a region of that kind is tied to nodes.
    pub(crate) fn layout(&self, kind: RegionKind) -> Layout {
        let together = match kind {
            RegionKind::Hot | RegionKind::Warm => self.numa.policy == NumaPolicy::Interleave,
            RegionKind::Index => {
                self.numa.policy == NumaPolicy::Interleave || self.numa.index == IndexPlacement::Interleaved
            }
            // Everybody needs the page table.
            RegionKind::System => true,
        };
        match (self.arenas.is_empty(), together) {
            (true, _) => Layout::Plain,
            (_, true) => Layout::Interleaved(self.arenas.clone()),
            (_, false) => Layout::Arenas,
        }
    }

    /// Where the calling thread is just now.
    pub(crate) fn here(&self) -> Spot {
        let row = memory::current_cpu().and_then(|cpu| self.rows.get(cpu).copied());
        Spot(row.unwrap_or(0))
    }

    /// The processors of a spot that may be used, or all that may be.
    pub(crate) fn cpus_near(&self, spot: Option<Spot>) -> Vec<usize> {
        let all = || self.topology.nodes.iter().flat_map(|node| node.allowed_cpus.iter().copied()).collect();
        let near = spot.and_then(|spot| self.topology.nodes.get(usize::from(spot.0)));
        near.map(|node| node.allowed_cpus.clone()).filter(|cpus| !cpus.is_empty()).unwrap_or_else(all)
    }

    /// The home of the partition of that number, of so many: nodes get partitions as they have processors, those whose
    /// memory is used first of all.
    pub(crate) fn home(&self, number: usize, of: usize) -> Spot {
        let nodes =
            || self.topology.nodes.iter().zip(0u16..).filter(|(node, _)| !node.allowed_cpus.is_empty());
        let used = || nodes().filter(|(node, _)| self.arenas.is_empty() || self.arenas.contains(&node.id));
        let pick = |rows: Vec<u16>| rows.get(number * rows.len() / of.max(1)).copied();
        let of_cpus = |(node, row): (&NumaNode, u16)| vec![row; node.allowed_cpus.len()];
        let row =
            pick(used().flat_map(of_cpus).collect()).or_else(|| pick(nodes().flat_map(of_cpus).collect()));
        Spot(row.unwrap_or(0))
    }

    /// The node of a spot.
    pub(crate) fn node(&self, spot: Spot) -> Option<&NumaNode> {
        self.topology.nodes.get(usize::from(spot.0))
    }

    /// The spot of a node.
    pub(crate) fn spot_of(&self, id: u32) -> Option<Spot> {
        Some(Spot(u16::try_from(self.topology.position(id)?).ok()?))
    }

    /// The arenas, the nearest to that spot first.
    pub(crate) fn nearest(&self, spot: Spot) -> &[u16] {
        self.nearest.get(usize::from(spot.0)).map_or(&[], |order| order)
    }

    /// Whether an arena is on the node of that spot.
    pub(crate) fn is_local(&self, spot: Spot, arena: u16) -> bool {
        let node = self.topology.nodes.get(usize::from(spot.0));
        node.is_some_and(|node| self.arenas.get(usize::from(arena)) == Some(&node.id))
    }

    /// The spot of an arena's node.
    pub(crate) fn spot_of_arena(&self, arena: u16) -> Option<Spot> {
        self.spot_of(*self.arenas.get(usize::from(arena))?)
    }
}

fn rows(topology: &Topology) -> Vec<u16> {
    let mut rows = Vec::new();
    for (row, node) in topology.nodes.iter().enumerate() {
        for cpu in &node.cpus {
            if rows.len() <= *cpu {
                rows.resize(cpu + 1, 0);
            }
            rows[*cpu] = row as u16;
        }
    }
    rows
}
