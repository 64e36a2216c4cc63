//! Checks every invariant that can be checked from within, while everything else waits.

use std::collections::{HashMap, HashSet};

use crate::ids::{Addr, LaneId, LogicalPage};
use crate::lanes::history::Chains;
use crate::lanes::partition::Partition;
use crate::pages::pool::{FrameCache, Pin};
use crate::pages::table::Tier;
use crate::store::core::Core;

/// Faults beyond this many are counted, not described.
const DESCRIBED: usize = 20;

/// One live record: where it is, its stream.
struct Found {
    addr: Addr,
    lane: LaneId,
    stream: u64,
}

#[derive(Default)]
struct Faults {
    list: Vec<String>,
    more: usize,
}

impl Faults {
    fn check(&mut self, holds: bool, fault: impl FnOnce() -> String) {
        if !holds {
            if self.list.len() < DESCRIBED {
                self.list.push(fault());
            } else {
                self.more += 1;
            }
        }
    }
}

impl Core {
    /// What does not hold; empty when all is well.
    pub(crate) fn validate(&self) -> Vec<String> {
        let _engine = self.engine.lock();
        let _writers: Vec<_> = self.lanes.partitions.iter().map(Partition::lock).collect();
        let pin = self.lanes.pin();
        let mut faults = Faults::default();
        let live = self.check_pages(&pin, &mut faults);
        self.check_index(&live, &mut faults);
        self.check_streams(&pin, &live, &mut faults);
        self.check_memory(&mut faults);
        self.check_directory(&mut faults);
        if faults.more > 0 {
            faults.list.push(format!("and {} more", faults.more));
        }
        faults.list
    }

    /// Lanes, pages, zone maps, records. Gives the live records by id.
    fn check_pages(&self, pin: &Pin, faults: &mut Faults) -> HashMap<u64, Found> {
        let (lanes, pages) = (&self.lanes, &self.lanes.pages);
        let mut live = HashMap::new();
        let mut seen = HashSet::new();
        for lane in lanes.lanes() {
            let (mut seq, mut last, mut so_far) = (lane.tail_seq(), LogicalPage::NONE, i64::MIN);
            for (page, meta) in lane.pages(pages, pin) {
                let place = pages.place(page);
                faults.check(seen.insert(page), || format!("{page:?} is in two lists"));
                faults.check(meta.lane() == lane.id && meta.seq() == seq, || {
                    format!(
                        "{page:?} of {:?} has number {} where {seq} was expected",
                        meta.lane(),
                        meta.seq()
                    )
                });
                faults.check(place.tier() != Tier::Free, || format!("{page:?} is free but in a lane"));
                faults.check(pages.number_is_taken(page), || {
                    format!("{page:?} is in a lane but free to be taken")
                });
                let region = if place.tier() == Tier::Hot { &pages.hot } else { &pages.warm };
                faults.check((0..meta.frames()).all(|frame| region.is_taken(place.frame() + frame)), || {
                    format!("{page:?} lies on frames that are free")
                });
                let (mut count, mut dead, mut end) = (0, 0, 0);
                let outcome = pages.walk(pin, place, meta.committed(), |offset, event| {
                    count += 1;
                    end = offset + event.record().record_len();
                    let time = event.timestamp();
                    let kind = meta.kinds()[usize::from(event.kind() >> 6)] >> (event.kind() & 63) & 1 == 1;
                    // Nothing is known of one that fails its checksum.
                    let is_damaged = self.lanes.sums && !event.is_whole();
                    so_far = so_far.max(if is_damaged { i64::MIN } else { time });
                    let covered = is_damaged || (meta.min_time()..=meta.max_time()).contains(&time) && kind;
                    faults.check(covered && meta.max_time_so_far() >= so_far, || {
                        format!("the zone map of {page:?} does not cover event {}", event.id())
                    });
                    faults.check(event.class() == lane.id.class(), || {
                        format!("event {} is in a wrong lane", event.id())
                    });
                    let addr = Addr::new(page, offset, place.generation());
                    if lanes.is_live(event.id(), addr) {
                        let found = Found { addr, lane: lane.id, stream: event.stream().as_u64() };
                        let twice = live.insert(event.id(), found).is_some();
                        faults.check(!twice, || format!("event {} is live twice", event.id()));
                    } else {
                        dead += 1;
                    }
                    true
                });
                faults.check(outcome.is_ok(), || format!("{page:?} cannot be read: {outcome:?}"));
                faults.check(count == meta.count() && end == meta.committed() && dead == meta.dead(), || {
                    format!(
                        "{page:?} has {count} records to {end}, {dead} of them removed; it says {}, {}, {}",
                        meta.count(),
                        meta.committed(),
                        meta.dead()
                    )
                });
                (seq, last) = (seq + 1, page);
            }
            faults.check(lane.head() == last, || format!("the head of {:?} is not its newest page", lane.id));
        }
        live
    }

    /// Every entry leads to a live record, every live record has one entry.
    fn check_index(&self, live: &HashMap<u64, Found>, faults: &mut Faults) {
        let places: HashSet<u64> = live.values().map(|found| found.addr.low()).collect();
        let entries = self.lanes.index.entries();
        faults.check(entries.len() == live.len(), || {
            format!("the id index has {} entries for {} live events", entries.len(), live.len())
        });
        for entry in entries {
            faults.check(places.contains(&entry.low()), || {
                format!("an index entry leads to {entry:?}, where no event is")
            });
        }
        faults.check(self.lanes.in_memory() == live.len() as u64, || {
            format!("{} events are live, {} were counted", live.len(), self.lanes.in_memory())
        });
    }

    /// Every live event is found by walking its stream, once.
    fn check_streams(&self, pin: &Pin, live: &HashMap<u64, Found>, faults: &mut Faults) {
        let cache = FrameCache::default();
        let mut walked = 0;
        for partition in &self.lanes.partitions {
            for (stream, class, _) in partition.streams.heads() {
                let mut chains = Chains::new(&self.lanes, pin, &cache, stream, class);
                let mut last = None;
                while let Some(step) = chains.next(pin, &cache) {
                    let position = step.position(&self.lanes.pages);
                    faults.check(last.is_none_or(|last| position < last), || {
                        format!("the history of {stream:?} is not in order at event {}", step.event.id())
                    });
                    faults.check(step.event.stream() == stream, || {
                        format!(
                            "the history of {stream:?} holds event {} of {:?}",
                            step.event.id(),
                            step.event.stream()
                        )
                    });
                    last = Some(position);
                    let known = live.get(&step.event.id());
                    let same =
                        |found: &&Found| found.addr.low() == step.addr.low() && found.lane.class() == class;
                    if known.filter(same).is_some_and(|found| found.stream == stream.as_u64()) {
                        walked += 1;
                    }
                }
            }
        }
        faults.check(walked == live.len(), || {
            format!("{walked} of {} live events are found by walking their streams", live.len())
        });
    }

    /// Regions and buffers are within the configured memory.
    fn check_memory(&self, faults: &mut Faults) {
        let pages = &self.lanes.pages;
        for region in [&pages.hot, &pages.warm, &self.lanes.index_region] {
            let stats = region.stats(0);
            faults.check(
                stats.used_bytes <= stats.committed_bytes && stats.committed_bytes <= stats.reserved_bytes,
                || format!("the {} region has more in use than it has: {stats:?}", region.kind()),
            );
        }
        let buffers = self.buffer_bytes();
        faults.check(buffers <= self.config.buffers, || {
            format!("buffers take {buffers} bytes of {}", self.config.buffers)
        });
        let mut used: HashSet<u32> = self.lanes.index.page_numbers().into_iter().collect();
        for page in self.lanes.partitions.iter().flat_map(|partition| partition.streams.page_numbers()) {
            faults.check(used.insert(page), || format!("index page {page} has two users"));
        }
        for page in used {
            faults.check(self.lanes.index_region.is_taken(page), || {
                format!("index page {page} is used but free")
            });
        }
    }

    /// Blocks of a lane do not overlap, and what is clean is in them or gone.
    fn check_directory(&self, faults: &mut Faults) {
        let Some(cold) = &self.cold else { return };
        for lane in cold.directory.lane_ids() {
            let blocks = cold.directory.blocks(lane, u64::MAX, |_| true);
            for pair in blocks.windows(2) {
                faults.check(pair[0].end_seq <= pair[1].id.first_seq, || {
                    format!("cold blocks of {lane:?} overlap")
                });
            }
        }
    }
}
