//! Going on with pages and indexes that a store has left whole, without a look at the records.
//!
//! Everything that lies in files is believed if it sums up to what it did when the store was closed. What is on the heap
//! beside it is in an *image*, which the closing store writes, or follows from the files: which frames are free is what
//! neither page table nor directories lead to.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::atomic::Ordering;

use crate::config::Config;
use crate::ids::{LaneId, LogicalPage};
use crate::lanes::append::Lanes;
use crate::lanes::partition::{LaneState, Writer};
use crate::pages::pool::FrameCache;
use crate::regions::region::Frames;
use crate::sys::shared::SharedDir;
use crate::sys::sum::Sum;

/// What the sum is made of in one go: index pages, or entries of the page table.
const INDEX_PART: usize = 64;
const TABLE_PART: usize = 4096;

/// What was on the heap of a store that was closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    /// Everything that the files of the index depend on: another one is another image.
    layout: Layout,
    /// Of the hash half of the id index.
    pub(crate) shape: [u32; 2],
    /// Of the stream directories.
    pub(crate) depths: Vec<u32>,
    /// Of the id index: see [`IdIndex::counts`](crate::index::ids::IdIndex::counts).
    pub(crate) counts: Vec<u32>,
    lanes: Vec<LaneState>,
    /// The numbers after the last page and the last index page in use.
    ends: [u32; 2],
    sum: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Layout {
    index_page: u64,
    index_ceiling: u64,
    partitions: u64,
    classes: u64,
}

impl Layout {
    fn of(config: &Config) -> Self {
        Self {
            index_page: config.index.page_size,
            index_ceiling: config.index.ceiling,
            partitions: config.partitions as u64,
            classes: config.classes.len() as u64,
        }
    }
}

impl Image {
    /// The image as words, of which [`Self::parse`] makes the same.
    pub(crate) fn words(&self) -> Vec<u64> {
        let Layout { index_page, index_ceiling, partitions, classes } = self.layout;
        let mut words = vec![index_page, index_ceiling, partitions, classes];
        let halves = [self.shape, self.ends, [self.sum, self.counts.len() as u32]].into_iter().flatten();
        words.extend(
            halves.chain(self.depths.iter().copied()).chain(self.counts.iter().copied()).map(u64::from),
        );
        for lane in &self.lanes {
            words.extend([u64::from(lane.tail.0), u64::from(lane.head.0), lane.tail_seq, lane.next_seq]);
        }
        words
    }

    /// `None`: they are not those of an image of this layout.
    pub(crate) fn parse(words: &[u64], config: &Config) -> Option<Self> {
        let words = &mut words.iter().copied();
        let layout = Layout {
            index_page: words.next()?,
            index_ceiling: words.next()?,
            partitions: words.next()?,
            classes: words.next()?,
        };
        if layout != Layout::of(config) {
            return None;
        }
        let (shape, ends) = ([half(words)?, half(words)?], [half(words)?, half(words)?]);
        let (sum, counts) = (half(words)?, half(words)?);
        let depths = (0..config.partitions).map(|_| half(words)).collect::<Option<_>>()?;
        let counts = (0..counts).map_while(|_| half(words)).collect();
        let lane = |_| {
            let (tail, head) = (LogicalPage(half(words)?), LogicalPage(half(words)?));
            Some(LaneState { tail, head, tail_seq: words.next()?, next_seq: words.next()? })
        };
        let lanes = (0..config.partitions * config.classes.len()).map(lane).collect::<Option<_>>()?;
        Some(Self { layout, shape, depths, counts, lanes, ends, sum })
    }
}

fn half(words: &mut impl Iterator<Item = u64>) -> Option<u32> {
    u32::try_from(words.next()?).ok()
}

/// Where lanes that outlive the process lie, and what a store that was closed has left beside.
#[derive(Clone, Copy)]
pub(crate) struct Files<'f> {
    pub(crate) dir: &'f SharedDir,
    /// To be believed only where [`Lanes::is_as`] says so.
    pub(crate) image: Option<&'f Image>,
}

/// What was taken over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Attached {
    pub(crate) pages: u64,
    /// Events that can be asked for.
    pub(crate) events: u64,
    /// Events that had been removed.
    pub(crate) removed: u64,
}

/// Runs so many jobs on as many threads as are of use, and gives what came of them.
pub(crate) type RunAll<'r> = &'r dyn Fn(usize, &(dyn Fn(usize) -> u32 + Sync)) -> Vec<u32>;

impl Lanes {
    /// What is to be kept of the heap. Nobody may write meanwhile: the caller holds the partitions' locks.
    pub(crate) fn image(
        &self,
        config: &Config,
        locks: &[impl Deref<Target = Writer>],
        run: RunAll<'_>,
    ) -> Image {
        let states = self.partitions.iter().zip(locks).flat_map(|(partition, writer)| {
            partition.lanes().map(|lane| partition.lane_state(writer, lane.id.class()))
        });
        let ends = [self.pages.numbers_end(), self.index_end()];
        Image {
            layout: Layout::of(config),
            shape: self.index.hash_half().shape(),
            depths: self.partitions.iter().map(|partition| partition.streams.depth()).collect(),
            counts: self.index.counts(),
            lanes: states.collect(),
            ends,
            sum: self.sum(ends, run),
        }
    }

    /// The number after the last index page in use.
    fn index_end(&self) -> u32 {
        self.index_pages_in_use().max().map_or(0, |last| last + 1)
    }

    /// Every index page in use.
    fn index_pages_in_use(&self) -> impl Iterator<Item = u32> {
        let streams = self.partitions.iter().flat_map(|partition| partition.streams.page_numbers());
        self.index.page_numbers().into_iter().chain(streams)
    }

    /// Whether the files are as they were when the image was made.
    pub(crate) fn is_as(&self, image: &Image, run: RunAll<'_>) -> bool {
        let [pages, index] = image.ends;
        // What is not there cannot be read.
        let is_there = index == 0 || self.index_region.had(Frames { first: 0, count: index });
        is_there && self.pages.has_numbers(pages) && self.sum(image.ends, run) == image.sum
    }

    /// A sum of everything but hot and warm pages.
    fn sum(&self, [pages, index]: [u32; 2], run: RunAll<'_>) -> u32 {
        let (pages, index) = (pages as usize, index as usize);
        let jobs = [index.div_ceil(INDEX_PART), pages.div_ceil(TABLE_PART), 1, self.partitions.len()];
        let part = |number: usize, len: usize, of: usize| number * len..((number + 1) * len).min(of);
        let job = |mut number: usize| {
            let mut sum = Sum::default();
            let kind = jobs.iter().position(|jobs| match number.checked_sub(*jobs) {
                Some(rest) => {
                    number = rest;
                    false
                }
                None => true,
            });
            match kind {
                Some(0) => {
                    let range = part(number, INDEX_PART, index);
                    self.index_pages.sum_up(range.start as u32..range.end as u32, &mut sum);
                }
                Some(1) => self.pages.sum_up(part(number, TABLE_PART, pages), &mut sum),
                Some(2) => {
                    let hash = self.index.hash_half();
                    sum.add_halves(&hash.slots()[..1 << hash.shape()[1]]);
                    sum.add_words(self.index.dense_half().table());
                }
                _ => {
                    let streams = &self.partitions[number].streams;
                    sum.add_halves(&streams.slots()[..1 << streams.depth()]);
                }
            }
            sum.finish()
        };
        let sums = run(jobs.iter().sum(), &job);
        let mut whole = Sum::default();
        sums.iter().for_each(|sum| whole.add(&[u64::from(*sum)]));
        whole.finish()
    }

    /// Goes on with what the files hold, which is as the image says. `None`: something does not fit, and the lanes cannot be
    /// used. `known` tells below which page number the cold tier knows of events of a lane, and below which it has all of
    /// them, unless `block_begin` says of a page that it has none; `tombstones` which events it knows to be removed.
    pub(crate) fn attach(
        &self,
        image: &Image,
        known: &dyn Fn(LaneId) -> [u64; 2],
        block_begin: &dyn Fn(LaneId, u64) -> Option<u64>,
        tombstones: &HashMap<(u64, LaneId), u64>,
    ) -> Option<Attached> {
        let mut attached = Attached::default();
        let mut expiring = false;
        for (lane, state) in self.lanes().zip(&image.lanes) {
            let [known, confirmed] = known(lane.id);
            // The cold tier must not have gone on without these pages.
            if known.max(state.tail_seq) > state.next_seq {
                return None;
            }
            expiring |= self.attach_lane(lane.id, *state, &mut attached)?;
            let list = std::iter::successors(Some(state.tail), |page| Some(self.pages.meta(*page).next()));
            let pages = list.take_while(|page| *page != LogicalPage::NONE);
            let clean = self.clean_up_to(lane.id, pages, confirmed, block_begin);
            self.partitions[lane.id.partition()].take_over(lane.id.class(), *state, clean);
        }
        if attached.pages != self.pages.count() {
            return None;
        }
        if expiring {
            self.has_expiring();
        }
        for page in self.index_pages_in_use() {
            if !self.index_region.take(Frames { first: page, count: 1 }) {
                return None;
            }
        }
        // Somebody may have removed events from the cold tier meanwhile.
        let (pin, cache) = (self.pin(), FrameCache::default());
        let is_there = |((id, lane), up_to): (&(u64, LaneId), &u64)| match self.get(&pin, &cache, *id) {
            Ok(found) => found.is_some_and(|(addr, _)| {
                let meta = self.pages.meta(addr.page());
                meta.lane() == *lane && meta.seq() <= *up_to
            }),
            Err(_) => true,
        };
        if tombstones.iter().any(is_there) {
            return None;
        }
        self.recovered.fetch_add(attached.events, Ordering::Relaxed);
        Some(attached)
    }

    /// Takes over a lane's pages. Whether events on them expire by themselves; `None`: they are not what they were.
    fn attach_lane(&self, lane: LaneId, state: LaneState, attached: &mut Attached) -> Option<bool> {
        let now_ms = self.clock.now_ms();
        let (mut page, mut last, mut expiring) = (state.tail, LogicalPage::NONE, false);
        for seq in state.tail_seq..state.next_seq {
            if !self.pages.take_over(page, lane, seq, now_ms) {
                return None;
            }
            let meta = self.pages.meta(page);
            let (count, dead) = (meta.count(), meta.dead());
            expiring |= meta.expiring() > 0;
            attached.pages += 1;
            attached.events += u64::from(count.checked_sub(dead)?);
            attached.removed += u64::from(dead);
            if meta.prev() != last && seq > state.tail_seq {
                return None;
            }
            (last, page) = (page, meta.next());
        }
        (page == LogicalPage::NONE && last == state.head).then_some(expiring)
    }
}
