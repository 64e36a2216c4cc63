//! Who takes part, and in what.

use crate::child;
use crate::job::{Figures, Job, Work};
use crate::peers::caches::{Foyer, Moka, Quick};
use crate::peers::esker::{Esker, Spilling};
use crate::peers::fjall::Fjall;
use crate::peers::maps::{HandRolled, Papaya, Scc};
use crate::peers::redb::Redb;
#[cfg(feature = "rocksdb")]
use crate::peers::rocks::Rocks;
use crate::peers::segcache::Seg;
use crate::peers::skiplist::SkipLists;

/// The name of the entry that all are compared with.
pub(crate) const OURS: &str = "esker";
/// The entry that is no store.
pub(crate) const LIMITS: &str = "limits";
/// What esker takes from the system when its memory is not touched beforehand.
pub(crate) const GROWN: &str = "esker-grown";

/// Which of the two programs runs it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocator {
    System,
    Mimalloc,
}

/// One row of the tables.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// The crate whose version is told; empty for those of std and for the machine.
    pub(crate) package: &'static str,
    /// What it is, in a few words.
    pub(crate) title: &'static str,
    pub(crate) allocator: Allocator,
    pub(crate) abilities: Abilities,
    run: fn(&Job, &Abilities) -> Figures,
}

/// What a peer can do and how it is asked to.
#[derive(Clone, Copy)]
pub(crate) struct Abilities {
    /// Events that are handed over at once where throughput is measured.
    pub(crate) batch: usize,
    /// It keeps events by id only: no W3, no W4.
    pub(crate) ids_only: bool,
    /// It has a call for several ids at once.
    pub(crate) many: bool,
    /// Its memory is touched before the first event.
    pub(crate) prefault: bool,
    /// It may refuse a few events though there is room: at most one in a thousand.
    pub(crate) lossy: bool,
    /// One run of it takes long, so `--quick` has only one.
    pub(crate) slow: bool,
    /// The workloads that it takes part in, if not in all.
    only: Option<fn(Work) -> bool>,
}

const PLAIN: Abilities = Abilities {
    batch: 1,
    ids_only: false,
    many: false,
    prefault: false,
    lossy: false,
    slow: false,
    only: None,
};
const CACHE: Abilities = Abilities { ids_only: true, ..PLAIN };
const DATABASE: Abilities = Abilities { batch: 1024, slow: true, ..PLAIN };
const OUR: Abilities = Abilities { batch: 64, many: true, prefault: true, ..PLAIN };

impl Entry {
    const fn new<P: crate::peer::Peer>(
        name: &'static str,
        package: &'static str,
        title: &'static str,
        abilities: Abilities,
    ) -> Self {
        Self { name, package, title, allocator: Allocator::System, abilities, run: child::run::<P> }
    }

    const fn with_mimalloc(self) -> Self {
        Self { allocator: Allocator::Mimalloc, ..self }
    }

    pub(crate) fn takes_part(&self, work: Work) -> bool {
        match work {
            Work::Limits => self.name == LIMITS,
            _ if self.name == LIMITS => false,
            Work::Warm => self.name == OURS,
            _ => self.abilities.only.is_none_or(|only| only(work)),
        }
    }

    pub(crate) fn run(&self, job: &Job) -> Figures {
        (self.run)(job, &self.abilities)
    }
}

fn writes(work: Work) -> bool {
    matches!(work, Work::Ingest { .. } | Work::Steady)
}

fn steady(work: Work) -> bool {
    work == Work::Steady
}

fn ingest(work: Work) -> bool {
    matches!(work, Work::Ingest { .. })
}

/// In the order of the tables.
pub(crate) const ENTRIES: &[Entry] = &[
    Entry {
        name: LIMITS,
        package: "",
        title: "the machine's limits",
        allocator: Allocator::System,
        abilities: PLAIN,
        run: child::limits,
    },
    Entry::new::<Esker>(OURS, "esker", "append_batch of 64", OUR),
    Entry::new::<Esker>(
        "esker-single",
        "esker",
        "append, one by one",
        Abilities { batch: 1, only: Some(writes), ..OUR },
    ),
    Entry::new::<Esker>(
        GROWN,
        "esker",
        "memory not touched beforehand",
        Abilities { prefault: false, only: Some(ingest), ..OUR },
    ),
    Entry::new::<Spilling>(
        "esker-spill",
        "esker",
        "with the embedded cold tier",
        Abilities { only: Some(steady), ..OUR },
    ),
    Entry::new::<Spilling>(
        "esker-spill-single",
        "esker",
        "the same, one by one",
        Abilities { batch: 1, only: Some(steady), ..OUR },
    ),
    Entry::new::<HandRolled>("hand-rolled", "dashmap", "DashMap, deques, BTreeMap", PLAIN),
    Entry::new::<HandRolled>("hand-rolled-mimalloc", "dashmap", "the same", PLAIN).with_mimalloc(),
    Entry::new::<Papaya>("papaya", "papaya", "papaya, deques, BTreeMap", PLAIN),
    Entry::new::<Scc>("scc", "scc", "scc HashMap, deques, TreeIndex", PLAIN),
    Entry::new::<SkipLists>(
        "skiplist",
        "crossbeam-skiplist",
        "three crossbeam SkipMaps",
        Abilities { slow: true, ..PLAIN },
    ),
    Entry::new::<Seg>("segcache", "segcache", "cache, ids only", Abilities { lossy: true, ..CACHE }),
    Entry::new::<Quick>("quick_cache", "quick_cache", "cache, ids only", CACHE),
    Entry::new::<Foyer>("foyer", "foyer", "cache, ids only", CACHE),
    Entry::new::<Moka>("moka", "moka", "cache, ids only", CACHE),
    Entry::new::<Redb>("redb", "redb", "database in memory, batches of 1024", DATABASE),
    Entry::new::<Fjall>("fjall", "fjall", "LSM tree on tmpfs, batches of 1024", DATABASE),
    #[cfg(feature = "rocksdb")]
    Entry::new::<Rocks>(
        "rocksdb",
        "rocksdb",
        "LSM tree on tmpfs, batches of 1024",
        Abilities { many: true, ..DATABASE },
    ),
];

pub(crate) fn find(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().find(|entry| entry.name == name)
}
