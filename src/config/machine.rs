//! What of the machine a store uses, and how: nodes, pages of the processor, processors.

/// Pages of the processor's page table behind the regions. Larger ones need fewer entries of its TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum HugePages {
    /// Small ones.
    Never,
    /// The system is asked to use huge ones where it can (transparent huge pages), and takes them from nobody.
    #[default]
    Advise,
    /// From the pool of 2 MiB pages that the operator set aside (`vm.nr_hugepages`) for hot, warm and index region. All
    /// of a region is taken at opening. Where the pool is too small, it is [`Advise`](Self::Advise) for that region.
    Explicit2MiB,
    /// The same from the pool of 1 GiB pages, for regions that are a multiple of it; the others as
    /// [`Explicit2MiB`](Self::Explicit2MiB).
    Explicit1GiB,
}

impl HugePages {
    /// Whether they come from a pool.
    pub(crate) fn is_explicit(self) -> bool {
        matches!(self, Self::Explicit2MiB | Self::Explicit1GiB)
    }
}

impl From<bool> for HugePages {
    fn from(yes: bool) -> Self {
        if yes { Self::Advise } else { Self::Never }
    }
}

/// How memory is tied to nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum NumaPolicy {
    /// Each arena's memory comes from its node while that has some, then from others.
    #[default]
    Preferred,
    /// Each arena's memory comes from its node only. When the node has none left, the system ends the process: leave
    /// room on each node, or have the regions touched at opening ([`RegionBuilder::prefault`](crate::RegionBuilder::prefault)).
    Bind,
    /// Pages lie on all nodes in turn. There are no arenas: everybody is equally far.
    Interleave,
}

/// From which node a new page of events comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum PagePlacement {
    /// From the node of the thread that appends: right where writers are placed by
    /// [`Store::home_of`](crate::Store::home_of), or where readers run where writers do.
    #[default]
    Caller,
    /// From the home of the stream's partition, whoever appends: right where readers are placed by
    /// [`Store::home_of`](crate::Store::home_of), and writers are not.
    Home,
}

/// Where the indexes lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum IndexPlacement {
    /// On all nodes in turn: every lookup of an id is equally far from everybody.
    #[default]
    Interleaved,
    /// In arenas, as events do: a partition's stream directory lies on its home, pages of the id index on the node of
    /// whoever needed them first.
    PerNode,
}

/// How a store uses the nodes of a machine. On a machine with one node nothing of it has any effect, unless `nodes` names
/// that one.
///
/// ```
/// use esker::{Config, IndexPlacement, NumaPolicy};
///
/// let config = Config::builder()
///     .numa(|numa| numa.nodes([0, 1]).policy(NumaPolicy::Bind).index(IndexPlacement::PerNode))
///     .build()?;
/// assert_eq!(config.numa.nodes.as_deref(), Some(&[0, 1][..]));
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct NumaConfig {
    /// The nodes whose memory is used (default: all that the process may use). Each gets an arena in each region, as
    /// large as its share of their memory.
    pub nodes: Option<Vec<u32>>,
    /// How memory is tied to them.
    pub policy: NumaPolicy,
    /// From which node a new page of events comes.
    pub pages: PagePlacement,
    /// Where the indexes lie.
    pub index: IndexPlacement,
    /// Whether it is counted on which node events are read (default: no). It costs every read a little.
    pub count_reads: bool,
}

impl NumaConfig {
    /// The nodes whose memory is used, by the system's numbers.
    #[must_use]
    pub fn nodes(mut self, nodes: impl Into<Vec<u32>>) -> Self {
        self.nodes = Some(nodes.into());
        self
    }

    /// How memory is tied to nodes.
    #[must_use]
    pub fn policy(mut self, policy: NumaPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// From which node a new page of events comes.
    #[must_use]
    pub fn pages(mut self, pages: PagePlacement) -> Self {
        self.pages = pages;
        self
    }

    /// Where the indexes lie.
    #[must_use]
    pub fn index(mut self, index: IndexPlacement) -> Self {
        self.index = index;
        self
    }

    /// Whether reads from the caller's node and from others are counted: one event in 16 of each thread, so as to tell
    /// the share in [`RegionStats::local_reads`](crate::RegionStats::local_reads). It costs every read a few nanoseconds.
    #[must_use]
    pub fn count_reads(mut self, yes: bool) -> Self {
        self.count_reads = yes;
        self
    }
}

/// Processors that threads are kept on.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Affinity {
    /// The system moves threads as it sees fit.
    #[default]
    Leave,
    /// One of these for each thread, in turn.
    Cpus(Vec<usize>),
    /// One of the processors of these nodes for each thread, in turn.
    Nodes(Vec<u32>),
}

impl From<Vec<usize>> for Affinity {
    fn from(cpus: Vec<usize>) -> Self {
        if cpus.is_empty() { Self::Leave } else { Self::Cpus(cpus) }
    }
}
