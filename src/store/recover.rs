//! Opening a store over pages that an earlier run left: takes stock of them, and builds the indexes anew, all partitions
//! at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::LaneId;
use crate::lanes::append::Lanes;
use crate::lanes::attach::{Attached, Image};
use crate::lanes::restore::{Rebuilt, Source};
use crate::observe::recovered::{Recovered, RecoveryProgress};
use crate::pages::restore::{FoundPage, Quarantine};
use crate::tiers::reader::ColdReader;

/// Told how far a recovery is.
pub(crate) type OnRecovery = Box<dyn Fn(RecoveryProgress) + Send + Sync>;

/// Jobs that are worth a thread.
const JOBS_EACH: usize = 4;
/// Pages after which somebody is told again.
const TELL_EVERY: u64 = 256;

/// Takes over what the files hold, as a store that was closed has left it. `None`: something is not as it was left, and the
/// lanes cannot be used. `known` tells below which page number the cold tier knows of events of a lane, and below which it
/// has all of them.
pub(crate) fn attach(
    lanes: &Lanes,
    image: &Image,
    cold: Option<&ColdReader>,
    known: &dyn Fn(LaneId) -> [u64; 2],
) -> Option<Recovered> {
    let begin = clock::now();
    if !lanes.is_as(image, &run_all) {
        return None;
    }
    let tombstones = cold.map(ColdReader::removed).unwrap_or_default();
    let block_begin = |lane, seq| block_begin(cold, lane, seq);
    let Attached { pages, events, removed } = lanes.attach(image, known, &block_begin, &tombstones)?;
    let took = begin.elapsed();
    Some(Recovered { attached: true, pages, events, removed, took, ..Recovered::default() })
}

/// Takes over what the files hold, whatever that is: looks at all of it.
///
/// # Errors
/// [`ErrorKind::Incompatible`] when the cold tier is of another history, or the index is too small. The files are as they were but for what was damaged, so the store can be opened again.
///
/// `confirmed` tells below which page number the cold tier has everything of a lane.
pub(crate) fn recover(
    config: &Config,
    lanes: &Lanes,
    cold: Option<&ColdReader>,
    confirmed: &(dyn Fn(LaneId) -> u64 + Sync),
    tell: Option<&OnRecovery>,
) -> Result<Recovered> {
    let begin = clock::now();
    let classes = config.classes.len();
    let is_lane = |lane: LaneId| lane.partition() < config.partitions && lane.class().index() < classes;
    let mut lost = Quarantine::default();
    let found = lanes.pages.take_stock(is_lane, &mut lost);
    if lost.pages == 0 {
        check_history(&found, confirmed)?;
    }
    let recovered = take_over(config, lanes, cold, confirmed, tell, (found, lost), false)?;
    Ok(Recovered { took: begin.elapsed(), ..recovered })
}

/// Builds the indexes of pages that are there, of which none is in use yet.
///
/// # Errors
/// As for [`recover`].
pub(crate) fn take_over(
    config: &Config,
    lanes: &Lanes,
    cold: Option<&ColdReader>,
    confirmed: &(dyn Fn(LaneId) -> u64 + Sync),
    tell: Option<&OnRecovery>,
    (found, lost): (Vec<FoundPage>, Quarantine),
    from_log: bool,
) -> Result<Recovered> {
    let begin = clock::now();
    let (of, done) = (found.len() as u64, AtomicU64::new(0));
    let mut partitions: Vec<Vec<FoundPage>> = vec![Vec::new(); config.partitions];
    for page in found {
        partitions[page.lane.partition()].push(page);
    }
    let progress = || {
        let pages = done.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(tell) = tell
            && (pages.is_multiple_of(TELL_EVERY) || pages == of)
        {
            tell(RecoveryProgress { pages, of });
        }
    };
    let source = Source {
        removed: lanes.pages.removed_records(),
        tombstones: cold.map(ColdReader::removed).unwrap_or_default(),
        now_ms: lanes.clock.now_ms(),
        from_log,
        confirmed,
        block_begin: &|lane, seq| block_begin(cold, lane, seq),
        progress: &progress,
    };
    let mut rebuilt = rebuild(lanes, partitions, &source)?;
    // What was let go on the way is free before the first append.
    lanes.readers.reclaim();
    rebuilt.lost.merge(lost);
    Ok(Recovered {
        pages: rebuilt.pages,
        events: rebuilt.events,
        removed: rebuilt.removed,
        lost_pages: rebuilt.lost.pages,
        lost_events: rebuilt.lost.events,
        mended_links: rebuilt.mended,
        faults: rebuilt.lost.faults,
        took: begin.elapsed(),
        ..Recovered::default()
    })
}

/// See [`ColdReader::block_begin`].
pub(crate) fn block_begin(cold: Option<&ColdReader>, lane: LaneId, seq: u64) -> Option<u64> {
    cold.and_then(|cold| cold.block_begin(lane, seq))
}

/// A cold tier cannot have pages of a lane that come after all that memory has, unless somebody else wrote them.
fn check_history(found: &[FoundPage], confirmed: &dyn Fn(LaneId) -> u64) -> Result<()> {
    let mut newest: HashMap<LaneId, u64> = HashMap::new();
    for page in found {
        let last = newest.entry(page.lane).or_default();
        *last = page.seq.max(*last);
    }
    for (id, last) in newest {
        if confirmed(id) > last.saturating_add(1) {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the data directory has pages of {id:?} that were written after those in shared memory: it was used \
                     without them (with Durability::Memory, or another shared_dir); delete the files in shared memory to \
                     go on without what only they hold"
                ),
            ));
        }
    }
    Ok(())
}

/// Runs jobs on as many threads as there are processors, and gives what came of them in their order.
pub(crate) fn run_all(jobs: usize, job: &(dyn Fn(usize) -> u32 + Sync)) -> Vec<u32> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(jobs.div_ceil(JOBS_EACH));
    let done: Vec<AtomicU32> = (0..jobs).map(|_| AtomicU32::new(0)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let work = || {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let Some(done) = done.get(number) else { return };
                done.store(job(number), Ordering::Relaxed);
            }
        };
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    done.into_iter().map(AtomicU32::into_inner).collect()
}

/// Builds the indexes of all partitions anew, on as many threads as there are processors; which of them is faster decides which
/// index pages are whose, so in a stepped store on one.
fn rebuild(lanes: &Lanes, partitions: Vec<Vec<FoundPage>>, source: &Source<'_>) -> Result<Rebuilt> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = if lanes.clock.is_stepped() { 1 } else { processors.min(partitions.len()) };
    let work: Vec<Mutex<Vec<FoundPage>>> = partitions.into_iter().map(Mutex::new).collect();
    let (next, outcome) = (AtomicUsize::new(0), Mutex::new(Ok(Rebuilt::default())));
    let turn = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(pages) = work.get(number) else { return };
            let built = lanes.rebuild(number, std::mem::take(&mut *pages.lock()), source);
            let mut outcome = outcome.lock();
            match (&mut *outcome, built) {
                (Ok(all), Ok(more)) => all.merge(more),
                (Ok(_), Err(error)) => *outcome = Err(error),
                (Err(_), _) => return,
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(turn);
        }
        turn();
    });
    outcome.into_inner()
}
