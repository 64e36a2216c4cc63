//! The engine: asks the policies for the next step and takes it, a slice at a time.
//!
//! Demoting compresses a page and swings its place. Releasing takes the oldest page off its lane, purges its index
//! entries and stream heads, and frees it after the readers. The partition's lock is held for a few dozen records
//! at a time, never while compressing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use crate::clock;
use crate::config::Config;
use crate::eviction::{Action, LaneView, PageSummary, Policy, SizeThreshold, TimeWindow, View, millis};
use crate::ids::{Addr, LaneId, LogicalPage, Stream};
use crate::index::dense::Remover;
use crate::index::streams::{head_hash, stream_hash};
use crate::lanes::append::Lanes;
use crate::lanes::partition::{Lane, Partition};
use crate::pages::pool::{Pin, reclaim};
use crate::pages::table::{PageMeta, Place, Tier};

/// Records whose stream heads are purged under one hold of the partition's lock.
const PURGE_RUN: usize = 64;

/// Slots of the index's table of chunks that are looked at in a slice for chunks that are empty.
const SWEEP: usize = 32;

/// What the engine has done since the store opened.
#[derive(Default)]
pub(crate) struct EvictionCounters {
    pub(crate) demoted_pages: AtomicU64,
    pub(crate) demoted_events: AtomicU64,
    pub(crate) released_pages: AtomicU64,
    /// Events that left memory because the cold tier has them.
    pub(crate) released_events: AtomicU64,
    /// Events that left memory because their retention had ended.
    pub(crate) expired_events: AtomicU64,
    /// Events that left memory because their class says so.
    pub(crate) dropped_events: AtomicU64,
}

/// The engine's own notes; whoever holds them is the mover (invariant I4).
pub(crate) struct Engine {
    views: Vec<LaneView>,
    /// Each lane's oldest hot page, and the head at which none was found.
    cursors: Vec<Cursor>,
    scratch: Vec<u8>,
    /// Pages to move in this step for the sake of a large event, although there is no pressure.
    run_wanted: u32,
    policies: Vec<Box<dyn Policy>>,
}

#[derive(Clone, Copy, Default)]
struct Cursor {
    hot: Option<LogicalPage>,
    none_up_to: Option<(LogicalPage, u64)>,
}

/// What the mover tells others.
pub(crate) struct EvictionShared {
    pub(crate) counters: EvictionCounters,
    /// Lanes whose oldest page should leave but is not confirmed: the spiller writes them first.
    wanted: Vec<AtomicBool>,
}

impl EvictionShared {
    pub(crate) fn new(lanes: usize) -> Self {
        Self {
            counters: EvictionCounters::default(),
            wanted: (0..lanes).map(|_| AtomicBool::new(false)).collect(),
        }
    }

    /// Whether a lane is to be spilled although its pages do not fill a block.
    pub(crate) fn is_wanted(&self, number: usize) -> bool {
        self.wanted[number].load(Ordering::Relaxed)
    }

    pub(crate) fn set_wanted(&self, number: usize, wanted: bool) {
        self.wanted[number].store(wanted, Ordering::Relaxed);
    }
}

/// What came of a slice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Progress {
    /// Pages that moved or left.
    pub(crate) pages: usize,
    /// Whether the time or number of events of a slice was used up with more to do.
    pub(crate) more: bool,
    /// Whether something waits for the spiller.
    pub(crate) waits_for_spill: bool,
}

impl Engine {
    pub(crate) fn new(lanes: &Lanes) -> Self {
        let count = lanes.lanes().count();
        Self {
            views: Vec::with_capacity(count),
            cursors: vec![Cursor::default(); count],
            scratch: Vec::new(),
            run_wanted: 0,
            policies: vec![Box::new(TimeWindow), Box::new(SizeThreshold)],
        }
    }

    /// Bytes that the engine's buffer takes.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.scratch.capacity()
    }

    /// Takes steps until nothing is left to do or the slice is used up.
    pub(crate) fn step(&mut self, config: &Config, lanes: &Lanes, shared: &EvictionShared) -> Progress {
        let (begin, mut events) = (clock::now(), 0);
        let mut progress = Progress::default();
        let mut warm_refused = false;
        self.run_wanted = lanes.hot_run_wanted.load(Ordering::Relaxed);
        self.refresh_all(lanes);
        self.want_aged(config, lanes, shared);
        let mut reclaimed = false;
        loop {
            let action = {
                let view = self.view(config, lanes, warm_refused);
                self.policies.iter().find_map(|policy| policy.next(&view))
            };
            let Some(action) = action else { break };
            let moved = match action {
                Action::Demote(lane) => self.demote(lanes, shared, lane),
                Action::Release(lane) => {
                    self.release(config, lanes, shared, lane).inspect(|_| warm_refused = false)
                }
            };
            match moved {
                Some(moved) => {
                    events += moved;
                    self.run_wanted = self.run_wanted.saturating_sub(1);
                    progress.pages += 1;
                    reclaimed = false;
                    // A failure does not end a slice: what follows from it must be reached, however slow the step was.
                    if events >= config.slice_events || Instant::elapsed(&begin) >= config.slice_time {
                        progress.more = true;
                        break;
                    }
                }
                // What was let go may still wait for its readers: give it a chance, then try once more.
                None if !reclaimed => {
                    reclaim();
                    reclaimed = true;
                }
                None if matches!(action, Action::Demote(_)) && !warm_refused => {
                    if lanes.pages.is_leaving() && lanes.pages.fills_ahead()[1] <= config.thresholds.warning {
                        // There will be room in the warm region once its readers are gone.
                        break;
                    }
                    warm_refused = true;
                }
                None => {
                    progress.waits_for_spill = true;
                    break;
                }
            }
        }
        if progress.pages > 0 {
            lanes.index.sweep(SWEEP);
        }
        if progress.pages > 0 || lanes.pages.is_leaving() {
            reclaim();
        }
        progress
    }

    fn view<'a>(&'a self, config: &'a Config, lanes: &Lanes, warm_refused: bool) -> View<'a> {
        let [hot_fill, warm_fill, numbers_fill] = lanes.pages.fills_ahead();
        View {
            config,
            now_ms: lanes.clock.now_ms(),
            lanes: &self.views,
            hot_fill: if self.run_wanted > 0 { 1.0 } else { hot_fill },
            warm_fill,
            index_fill: lanes.index_fill(),
            numbers_fill,
            warm_refused,
        }
    }

    fn refresh_all(&mut self, lanes: &Lanes) {
        self.views.clear();
        let pin = Pin::new();
        for (number, lane) in lanes.lanes().enumerate() {
            self.views.push(LaneView { lane: lane.id, oldest: None, oldest_hot: None });
            self.refresh(lanes, &pin, lane, number);
        }
    }

    /// Has pages spilled that have reached the age to leave, although they do not fill a block.
    fn want_aged(&self, config: &Config, lanes: &Lanes, shared: &EvictionShared) {
        let view = self.view(config, lanes, false);
        for (number, lane) in self.views.iter().enumerate() {
            let aged = |page: &PageSummary| view.age(page) >= millis(view.class(lane.lane).warm_for);
            if lane.oldest.is_some_and(|page| aged(&page) && !view.may_leave(lane.lane, &page)) {
                shared.set_wanted(number, true);
            }
        }
    }

    /// Looks at a lane again after something changed in it.
    fn refresh(&mut self, lanes: &Lanes, pin: &Pin, lane: &Lane, number: usize) {
        let summary = |page: LogicalPage| {
            if page == LogicalPage::NONE {
                return None;
            }
            // The head is looked at after the page was found: a page that is linked but not the head by then is
            // sealed. That an open one is taken for sealed cannot be.
            let open = page == lane.head();
            let meta = lanes.pages.meta(page);
            // A page that was sealed empty has nothing to keep; one that is open may get its first event yet.
            (meta.count() > 0 || !open).then(|| summary(lanes.pages.place(page), meta, lane, open))
        };
        let head = lane.head();
        let cursor = &mut self.cursors[number];
        if cursor.hot.is_none() && head != LogicalPage::NONE {
            let newest = (head, lanes.pages.meta(head).seq());
            if cursor.none_up_to != Some(newest) {
                // Hot pages are the newest of a lane: walk back to where they begin.
                cursor.hot = lane
                    .pages_back(&lanes.pages, pin)
                    .take_while(|(page, _)| lanes.pages.place(*page).tier() == Tier::Hot)
                    .last()
                    .map(|(page, _)| page);
                cursor.none_up_to = cursor.hot.is_none().then_some(newest);
            }
        }
        self.views[number].oldest = summary(lane.tail());
        self.views[number].oldest_hot = cursor.hot.and_then(summary);
    }

    fn numbered(lanes: &Lanes, lane: LaneId) -> (usize, &Partition, &Lane) {
        let partition = &lanes.partitions[lane.partition()];
        let classes = partition.lanes().count();
        (lane.partition() * classes + lane.class().index(), partition, partition.lane(lane.class()))
    }

    /// Squeezes a lane's oldest hot page. `None`: the warm region has no room.
    fn demote(&mut self, lanes: &Lanes, shared: &EvictionShared, id: LaneId) -> Option<usize> {
        let (number, partition, lane) = Self::numbered(lanes, id);
        let page = self.cursors[number].hot?;
        partition.seal_page(id.class(), page);
        let pin = Pin::new();
        if !lanes.pages.demote(&pin, page, &mut self.scratch) {
            return None;
        }
        let meta = lanes.pages.meta(page);
        let events = meta.count() as usize;
        shared.counters.demoted_pages.fetch_add(1, Ordering::Relaxed);
        shared.counters.demoted_events.fetch_add(events as u64, Ordering::Relaxed);
        self.advance(lanes, number, page);
        self.refresh(lanes, &pin, lane, number);
        Some(events)
    }

    /// Moves a lane's cursor past a page that is hot no more.
    fn advance(&mut self, lanes: &Lanes, number: usize, page: LogicalPage) {
        let next = lanes.pages.meta(page).next();
        let none = (page, lanes.pages.meta(page).seq());
        self.cursors[number] = if next == LogicalPage::NONE {
            Cursor { hot: None, none_up_to: Some(none) }
        } else {
            Cursor { hot: Some(next), none_up_to: None }
        };
    }

    /// Lets a lane's oldest page leave. `None`: it may not yet, and the spiller was told.
    fn release(
        &mut self,
        config: &Config,
        lanes: &Lanes,
        shared: &EvictionShared,
        id: LaneId,
    ) -> Option<usize> {
        let (number, partition, lane) = Self::numbered(lanes, id);
        let page = lane.tail();
        if page == LogicalPage::NONE {
            return None;
        }
        partition.seal_page(id.class(), page);
        // What was seen of it before may be out of date: only now does nothing come to it any more.
        let summary = summary(lanes.pages.place(page), lanes.pages.meta(page), lane, false);
        let (may_leave, expired) = {
            let view = self.view(config, lanes, false);
            (view.may_leave(id, &summary), view.is_expired(id, &summary))
        };
        if !may_leave {
            shared.set_wanted(number, true);
            return None;
        }
        let pin = Pin::new();
        if !partition.unlink_tail(&lanes.pages, id.class(), page) {
            return None;
        }
        if self.cursors[number].hot == Some(page) {
            self.advance(lanes, number, page);
        }
        let retention = config.classes[id.class().index()].retention;
        let ends = retention.map(|retention| lanes.clock.now_ms().saturating_sub(millis(retention)));
        let counters = &shared.counters;
        let (mut over, mut early) = (0, 0);
        let events = purge(lanes, partition, &pin, page, |timestamp| {
            let ended = expired || ends.is_some_and(|end| timestamp <= end);
            if ended { over += 1 } else { early += 1 }
        });
        counters.expired_events.fetch_add(over, Ordering::Relaxed);
        let counter = if summary.clean { &counters.released_events } else { &counters.dropped_events };
        counter.fetch_add(early, Ordering::Relaxed);
        lanes.pages.retire(&pin, page);
        counters.released_pages.fetch_add(1, Ordering::Relaxed);
        self.refresh(lanes, &pin, lane, number);
        Some(events)
    }
}

/// What a policy is to see of a page.
fn summary(place: Place, meta: &PageMeta, lane: &Lane, open: bool) -> PageSummary {
    PageSummary {
        tier: place.tier(),
        newest_ms: meta.newest(),
        arrived_ms: meta.last_arrival(),
        clean: meta.count() == 0 || meta.seq() < lane.clean_seq(),
        open,
    }
}

/// What removing a record from the indexes takes.
struct Leaving {
    id: u64,
    stream: Stream,
    head_hash: u64,
    timestamp: i64,
    offset: u32,
}

/// Removes a page's events from the indexes. `left` is told the timestamp of each that was not removed before.
fn purge(
    lanes: &Lanes,
    partition: &Partition,
    pin: &Pin,
    page: LogicalPage,
    mut left: impl FnMut(i64),
) -> usize {
    let meta = lanes.pages.meta(page);
    let (place, committed) = (lanes.pages.place(page), meta.committed());
    let class = meta.lane().class();
    let mut run: Vec<Leaving> = Vec::with_capacity(PURGE_RUN);
    let mut events = 0;
    let mut flush = |run: &mut Vec<Leaving>| {
        let (mut remover, mut gone) = (Remover::new(), 0);
        for event in run.iter() {
            if lanes.index.remove_by(event.id, Addr::new(page, event.offset, 0), &mut remover) {
                gone += 1;
                left(event.timestamp);
            }
        }
        lanes.index.finish(&mut remover);
        lanes.left.fetch_add(gone, Ordering::Relaxed);
        let _writer = partition.lock();
        for event in run.drain(..) {
            let addr = Addr::new(page, event.offset, place.generation());
            partition.streams.remove_if_newest(event.head_hash, event.stream, class, addr);
            events += 1;
        }
    };
    // Damaged warm frames hide their records: their index entries are found by walking the index instead.
    let damaged = lanes.pages.walk(pin, place, committed, |offset, event| {
        let head_hash = head_hash(stream_hash(event.stream(), lanes.seed), class);
        // Its line is there when the run is full.
        partition.streams.prefetch(head_hash);
        let (id, stream, timestamp) = (event.id(), event.stream(), event.timestamp());
        run.push(Leaving { id, stream, head_hash, timestamp, offset });
        if run.len() == PURGE_RUN {
            flush(&mut run);
        }
        true
    });
    flush(&mut run);
    if damaged.is_err() {
        lanes.index.remove_page(page);
    }
    events
}
