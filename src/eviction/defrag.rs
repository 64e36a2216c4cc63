//! Defragmentation: pages of which most was removed or has expired, or that were closed while mostly empty, are packed
//! into less room. They keep their place in their lane and their addresses.
//!
//! It takes two steps, so that nobody reads a body that is no longer there. First it is noted which records of a page are
//! removed: no index entry leads to them, and whoever walks the page is told by its mark to ask the index. Readers that
//! were there before may still hold a way to them. When those are gone, the page is packed without the noted ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock;
use crate::config::Config;
use crate::event::EventRef;
use crate::eviction::engine::{Engine, EvictionShared};
use crate::eviction::millis;
use crate::ids::{Addr, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::Partition;
use crate::pages::pool::{Pin, all_gone};
use crate::pages::repack::{Buffers, Repacked};
use crate::pages::table::{PageMeta, Place, Tier};

/// Pages of the page table that are looked at in one call.
const LOOKS: u32 = 1024;
/// Pages that are noted at a time.
const BATCH: usize = 64;
/// Larger ones, which hold one event each, are left alone.
const RAW_MAX: u32 = 2 << 20;
/// How long nothing must have come to an open page for it to be closed early.
const IDLE: Duration = Duration::from_secs(60);

/// What defragmentation has done since the store opened.
#[derive(Default)]
pub(crate) struct DefragCounters {
    pub(crate) pages: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) closed: AtomicU64,
}

/// How far it is, kept by whoever holds the right to tidy up.
#[derive(Default)]
pub(crate) struct Defrag {
    /// The page number before the next to be looked at.
    at: u32,
    noted: Vec<Sparse>,
    /// Set when every reader is gone that was there when the pages were noted.
    ready: Option<Arc<AtomicBool>>,
}

/// A page that is to be packed, and its removed records.
struct Sparse {
    page: LogicalPage,
    generation: u32,
    dead: Vec<u32>,
}

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Turn {
    /// All pages were looked at once more.
    Done,
    /// Noted pages wait for readers.
    Waits,
    More,
}

impl Defrag {
    /// Whether pages wait for being packed.
    pub(crate) fn is_busy(&self) -> bool {
        self.ready.is_some()
    }

    /// Packs what was noted before, as far as the time reaches, or looks for more.
    pub(crate) fn step(
        &mut self,
        mover: &mut Engine,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
    ) -> Turn {
        if config.defrag_below <= 0.0 {
            return Turn::Done;
        }
        if let Some(ready) = &self.ready {
            if !ready.load(Ordering::Acquire) {
                lanes.readers.reclaim();
                return Turn::Waits;
            }
            self.pack(mover, config, lanes, shared);
            // A round ends here, too: what could not be packed would be noted again for ever.
            let ended = self.ready.is_none() && self.at == 0;
            return if ended { Turn::Done } else { Turn::More };
        }
        self.look(mover, config, lanes, shared);
        if !self.noted.is_empty() {
            self.ready = Some(all_gone(lanes.readers.limbo()));
            return Turn::Waits;
        }
        if self.at == 0 { Turn::Done } else { Turn::More }
    }

    /// Looks at the next pages and notes those that are sparse.
    fn look(&mut self, mover: &mut Engine, config: &Config, lanes: &Lanes, shared: &EvictionShared) {
        let end = lanes.pages.numbers_limit() + 1;
        for _ in 0..LOOKS {
            self.at += 1;
            if self.at >= end {
                self.at = 0;
                return;
            }
            let page = LogicalPage(self.at);
            if lanes.pages.place(page).tier() != Tier::Free
                && let Some(sparse) = note(mover, config, lanes, shared, page)
            {
                self.noted.push(sparse);
                if self.noted.len() == BATCH {
                    return;
                }
            }
        }
    }

    fn pack(&mut self, mover: &mut Engine, config: &Config, lanes: &Lanes, shared: &EvictionShared) {
        let (begin, mut buffers) = (clock::now(), Buffers::default());
        while let Some(sparse) = self.noted.pop() {
            let (page, pin) = (sparse.page, lanes.pin());
            let place = lanes.pages.place(page);
            // The mover alone lets pages leave, so one of that generation is that page.
            let same = place.tier() != Tier::Free && place.generation() == sparse.generation;
            if same && (place.tier() == Tier::Warm || has_room(config, lanes)) {
                // A damaged page stays as it is; the damage is counted.
                if let Ok(Repacked::Done(bytes)) = lanes.pages.repack(&pin, page, &sparse.dead, &mut buffers)
                {
                    shared.defrag.pages.fetch_add(1, Ordering::Relaxed);
                    shared.defrag.bytes.fetch_add(bytes, Ordering::Relaxed);
                    if place.tier() == Tier::Hot {
                        mover.no_longer_hot(lanes, page);
                    }
                }
            }
            // What was let go must not wait in this thread's bag, which may be the last thing that it does for the store.
            pin.flush();
            if Instant::elapsed(&begin) >= config.slice_time && !self.noted.is_empty() {
                return;
            }
        }
        self.ready = None;
    }
}

/// Whether the warm region can take pages without pressing others out.
fn has_room(config: &Config, lanes: &Lanes) -> bool {
    let (used, max) = lanes.pages.used_ahead()[1];
    f64::from(used) < f64::from(max) * config.thresholds.warning
}

/// Notes a page if it is sparse: then it is sealed, and its expired events are removed.
fn note(
    _mover: &mut Engine,
    config: &Config,
    lanes: &Lanes,
    shared: &EvictionShared,
    page: LogicalPage,
) -> Option<Sparse> {
    let (meta, place) = (lanes.pages.meta(page), lanes.pages.place(page));
    if meta.count() == 0 || meta.committed() > RAW_MAX {
        return None;
    }
    if place.tier() == Tier::Hot && !has_room(config, lanes) {
        return None;
    }
    let (pin, ends) = (lanes.pin(), Ends::of(config, lanes, meta));
    let (taken, useless) = useless(lanes, meta, place);
    let most = (f64::from(taken) * (1.0 - config.defrag_below)) as u32;
    let mut expired = Vec::new();
    if useless <= most {
        // Expired events may make it sparse; else it stays as it is.
        let bytes =
            ends.is_due(config, meta).then(|| find_expired(lanes, &pin, page, &ends, &mut expired))?;
        if useless.saturating_add(bytes) <= most {
            return None;
        }
    }
    // One that was just claimed is not its lane's newest yet, but it is open already.
    let (partition, class) = (&lanes.partitions[meta.lane().partition()], meta.lane().class());
    if Partition::is_open(&partition.lock(), class, page) {
        if !is_idle(lanes, meta) {
            return None;
        }
        partition.seal_page(class, page);
        shared.defrag.closed.fetch_add(1, Ordering::Relaxed);
    }
    for (id, offset, len) in expired {
        let addr = Addr::new(page, offset, place.generation());
        if !lanes.pages.note_expired(addr, place.generation()) {
            return None;
        }
        if lanes.index.remove(id, addr) {
            lanes.pages.mark_dead(addr, place.generation(), len);
            lanes.left.fetch_add(1, Ordering::Relaxed);
            shared.counters.expired_events.fetch_add(1, Ordering::Relaxed);
        }
    }
    let mut dead = Vec::new();
    let outcome = lanes.walk(&pin, page, meta.committed(), place, |offset, event, whole| {
        // The id of a damaged one says nothing.
        if whole && !lanes.is_live(event.id(), Addr::new(page, offset, 0)) {
            dead.push(offset);
        }
        true
    });
    outcome.ok()?;
    // Whoever removes an event takes its entry first and marks the page then. Only when every mark is there do new readers
    // pass over the records.
    let marked = dead.is_empty() || lanes.pages.place(page).has_dead();
    let all = marked && meta.dead() as usize == dead.len();
    all.then_some(Sparse { page, generation: place.generation(), dead })
}

/// What a page takes, in bytes of records, and how much of that is of no use.
fn useless(lanes: &Lanes, meta: &PageMeta, place: Place) -> (u32, u32) {
    let (committed, packed) = (meta.committed(), meta.packed_dead());
    if place.tier() != Tier::Hot {
        return (committed.saturating_sub(packed), meta.garbage());
    }
    let taken = meta.frames() * lanes.pages.hot.page_size();
    // What was packed once and is hot again was promoted: it is wanted there.
    (taken, meta.garbage() + if packed == 0 { taken.saturating_sub(committed) } else { 0 })
}

/// When events of a page have expired.
struct Ends {
    now_ms: i64,
    retention_ms: Option<i64>,
}

impl Ends {
    fn of(config: &Config, lanes: &Lanes, meta: &PageMeta) -> Self {
        let retention = config.classes[meta.lane().class().index()].retention;
        Self { now_ms: lanes.clock.now_ms(), retention_ms: retention.map(millis) }
    }

    fn has_expired(&self, event: &EventRef<'_>) -> bool {
        let age = self.now_ms.saturating_sub(event.timestamp());
        self.retention_ms.is_some_and(|most| age >= most) || event.expiry() <= self.now_ms
    }

    /// Whether enough of a page may have expired since it was last counted: by retention, an eighth of the page's time;
    /// by themselves, so many events that it matters, and a while has passed.
    fn is_due(&self, config: &Config, meta: &PageMeta) -> bool {
        let (first, last) = (meta.min_time(), meta.max_time());
        let by_retention = self.retention_ms.is_some_and(|most| {
            let horizon = |now: i64| now.saturating_sub(most);
            let since = horizon(self.now_ms).saturating_sub(first.max(horizon(meta.looked_at())));
            since > 0 && since >= last.saturating_sub(first) / 8
        });
        let many = f64::from(meta.expiring()) > f64::from(meta.count()) * (1.0 - config.defrag_below) / 2.0;
        by_retention || many && self.now_ms.saturating_sub(meta.looked_at()) >= millis(IDLE)
    }
}

/// Finds the expired events of a page that nobody has removed: id, offset, length. How many bytes they take.
fn find_expired(
    lanes: &Lanes,
    pin: &Pin,
    page: LogicalPage,
    ends: &Ends,
    expired: &mut Vec<(u64, u32, u32)>,
) -> u32 {
    let (meta, place) = (lanes.pages.meta(page), lanes.pages.place(page));
    meta.set_looked_at(ends.now_ms);
    let mut bytes = 0;
    // A damaged page is left alone: what was found is too little to matter, or is noted again when it is walked.
    let _ = lanes.walk(pin, page, meta.committed(), place, |offset, event, whole| {
        if whole && ends.has_expired(&event) && lanes.is_live(event.id(), Addr::new(page, offset, 0)) {
            let len = event.record().record_len();
            bytes += len;
            expired.push((event.id(), offset, len));
        }
        true
    });
    bytes
}

/// Whether an open page that is mostly empty may be closed. Not two in a row: a lane with an event every few minutes would
/// have a page for each.
fn is_idle(lanes: &Lanes, meta: &PageMeta) -> bool {
    let quiet = lanes.clock.now_ms().saturating_sub(meta.last_arrival()) >= millis(IDLE);
    let (prev, pages) = (meta.prev(), &lanes.pages);
    let before = (prev != LogicalPage::NONE && meta.seq() > 0).then(|| pages.meta(prev));
    let before = before.filter(|before| before.lane() == meta.lane() && before.seq() + 1 == meta.seq());
    quiet && before.is_none_or(|before| before.committed() >= pages.hot.page_size() / 2)
}
