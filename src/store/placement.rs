//! Where streams are at home, and who does their work there.

use crate::config::Affinity;
use crate::ids::Stream;
use crate::index::streams::stream_hash;
use crate::lanes::partition::partition_of;
use crate::pressure::RegionKind;
use crate::regions::placement::RegionPlacement;
use crate::store::core::Core;
use crate::sys::topology::NumaNode;

/// Where a stream is at home. See [`Store::home_of`](crate::Store::home_of).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Home<'s> {
    /// The stream's partition.
    pub partition: usize,
    /// The id of the partition's node.
    pub node: u32,
    /// The processors of that node that this process may run on.
    pub cpus: &'s [usize],
}

/// Where a store's memory lies, as the system tells. See [`Store::placement`](crate::Store::placement).
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Placement {
    /// Regions in the order of [`RegionKind::ALL`].
    pub regions: [RegionPlacement; 4],
}

impl Placement {
    /// Of one region.
    pub fn region(&self, kind: RegionKind) -> &RegionPlacement {
        &self.regions[RegionKind::ALL.iter().position(|other| *other == kind).unwrap_or(0)]
    }
}

/// Divides streams among workers, so that each worker's streams are at home on one node, as far as the numbers divide.
/// See [`Store::router`](crate::Store::router).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Router {
    seed: u64,
    partitions: usize,
    workers: Vec<Worker>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Worker {
    node: u32,
    cpu: Option<usize>,
}

impl Router {
    fn new(core: &Core, workers: usize) -> Self {
        let (workers, partitions) = (workers.max(1), core.config.partitions);
        let mut assigned: Vec<Worker> = Vec::with_capacity(workers);
        for worker in 0..workers {
            // The partition in the middle of those that are this worker's.
            let middle = (2 * worker + 1) * partitions / (2 * workers);
            let home = core.home(middle);
            let rank = assigned.iter().filter(|other| Some(other.node) == home.map(|home| home.id)).count();
            assigned.push(Worker {
                node: home.map_or(0, |home| home.id),
                cpu: home.and_then(|home| {
                    home.allowed_cpus.get(rank.checked_rem(home.allowed_cpus.len())?).copied()
                }),
            });
        }
        Self { seed: core.lanes.seed, partitions, workers: assigned }
    }

    /// How many workers there are.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The number of the worker that a stream belongs to: always the same one.
    #[inline]
    pub fn worker_of(&self, stream: Stream) -> usize {
        let hash = stream_hash(stream, self.seed);
        let partition = partition_of(hash, self.partitions) as u64;
        // Where the stream is among all, by partition first: a number from 0 to `partitions`, times 2^32.
        let point = u128::from(partition << 32 | hash >> 32);
        ((point * self.workers.len() as u128 / self.partitions as u128) >> 32) as usize
    }

    /// The id of the node that a worker's streams are at home on.
    pub fn node_of(&self, worker: usize) -> Option<u32> {
        self.workers.get(worker).map(|worker| worker.node)
    }

    /// Where a worker should run: one processor of its node, another one for each worker there.
    pub fn affinity_of(&self, worker: usize) -> Affinity {
        let cpu = self.workers.get(worker).and_then(|worker| worker.cpu);
        cpu.map_or(Affinity::Leave, |cpu| Affinity::Cpus(vec![cpu]))
    }
}

impl Core {
    fn home(&self, partition: usize) -> Option<&NumaNode> {
        self.machine.node(self.machine.home(partition, self.config.partitions))
    }

    pub(crate) fn home_of(&self, stream: Stream) -> Home<'_> {
        let partition = self.lanes.partition_of(stream);
        let home = self.home(partition);
        Home {
            partition,
            node: home.map_or(0, |node| node.id),
            cpus: home.map_or(&[], |node| &node.allowed_cpus),
        }
    }

    pub(crate) fn router(&self, workers: usize) -> Router {
        Router::new(self, workers)
    }

    pub(crate) fn placement(&self) -> Placement {
        Placement { regions: RegionKind::ALL.map(|kind| self.region(kind).placement()) }
    }
}
