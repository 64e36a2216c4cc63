//! Reading back from the cold tier: blocks, a small cache of them, and the events that were removed since.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::clock::{self, Deadline};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventRef;
use crate::ids::{LaneId, Stream};
use crate::index::names::Names;
use crate::tiers::block::{Block, BlockId, Row};
use crate::tiers::cold::{ColdTier, Tombstone};
use crate::tiers::directory::{Directory, Learned};
use crate::tiers::entry::BlockInfo;

/// What a tombstone takes in memory, roughly.
pub(crate) const TOMBSTONE_BYTES: usize = 48;

/// How long a read takes at most when nobody set a limit.
const READ_LIMIT: Duration = Duration::from_secs(3600);
/// How long one look at whether a block has been read is apart from the next, at most.
const FLIGHT_TURN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Cache {
    /// Least recently used first.
    blocks: Vec<Arc<Block>>,
    bytes: usize,
}

/// What came of reading a block: `None` when its events have expired.
type Loaded = Result<Option<Arc<Block>>>;

/// A block that somebody reads; whoever else wants it waits here.
#[derive(Default)]
struct Flight {
    outcome: Mutex<Option<Loaded>>,
    landed: Condvar,
}

impl Flight {
    fn land(&self, outcome: &Loaded) {
        *self.outcome.lock() = Some(shared(outcome));
        self.landed.notify_all();
    }

    fn wait(&self, deadline: Deadline) -> Loaded {
        let mut outcome = self.outcome.lock();
        loop {
            if let Some(outcome) = &*outcome {
                return shared(outcome);
            }
            if deadline.has_passed() {
                return Err(too_late());
            }
            self.landed.wait_for(&mut outcome, deadline.left(FLIGHT_TURN));
        }
    }
}

/// The outcome for one more who asked.
fn shared(outcome: &Loaded) -> Loaded {
    match outcome {
        Ok(block) => Ok(block.clone()),
        Err(error) => Err(error.again()),
    }
}

fn too_late() -> Error {
    Error::new(
        ErrorKind::Timeout,
        "the deadline passed before the cold tier was read; ask for less, or allow more (fetch_timeout)",
    )
}

/// Takes a flight off the list when its reader is done, also when that panics: nobody may wait for it for ever.
struct Landing<'a> {
    reader: &'a ColdReader,
    id: BlockId,
    flight: Arc<Flight>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        self.reader.flights.lock().remove(&self.id);
        let mut outcome = self.flight.outcome.lock();
        if outcome.is_none() {
            *outcome =
                Some(Err(Error::new(ErrorKind::Cold, "whoever read the block did not finish; try again")));
            self.flight.landed.notify_all();
        }
    }
}

pub(crate) struct ColdReader {
    pub(crate) tier: Arc<dyn ColdTier>,
    pub(crate) directory: Directory,
    /// Blocks that are being read: each by one caller, however many want it.
    flights: Mutex<HashMap<BlockId, Arc<Flight>>>,
    cache: Mutex<Cache>,
    cache_limit: usize,
    /// Removed events: id and lane → page of the removed record. An id that was removed may be used again, also in
    /// another lane, and be removed there.
    removed: RwLock<HashMap<(u64, LaneId), u64>>,
    removed_limit: usize,
    /// Blocks that an earlier run put and did not see confirmed, and of which memory still has pages. They may hold events that
    /// were lost with that run's memory, and are put again without them: until then they are not read.
    unsure: RwLock<HashSet<BlockId>>,
    /// Held while blocks are deleted.
    expiring: Mutex<()>,
    /// The tier was begun without its server, and what is there has not been learnt since.
    unknown: AtomicBool,
    pub(crate) loads: AtomicU64,
    pub(crate) hits: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    /// Microseconds that reading and unpacking a block took.
    pub(crate) latency: Mutex<Histogram<u64>>,
}

impl ColdReader {
    pub(crate) fn new(
        tier: Arc<dyn ColdTier>,
        directory: Directory,
        cache_limit: usize,
        removed_limit: usize,
        latency: Histogram<u64>,
    ) -> Result<Self> {
        let unknown = tier.awaits_server();
        let reader = Self {
            tier,
            directory,
            flights: Mutex::default(),
            cache: Mutex::default(),
            cache_limit,
            removed: RwLock::default(),
            removed_limit,
            unsure: RwLock::default(),
            expiring: Mutex::default(),
            unknown: AtomicBool::new(unknown),
            loads: AtomicU64::new(0),
            hits: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            latency: Mutex::new(latency),
        };
        reader.learn_removed()?;
        Ok(reader)
    }

    fn learn_removed(&self) -> Result<()> {
        self.tier.tombstones(&mut |stone| {
            let lane = BlockId { partition: stone.partition, class: stone.class, first_seq: 0 }.lane();
            let mut removed = self.removed.write();
            let up_to = removed.entry((stone.id, lane)).or_insert(stone.seq);
            *up_to = stone.seq.max(*up_to);
        })
    }

    /// Learns what the tier holds, if it was begun without its server and that is back. Whether that is so.
    ///
    /// # Errors
    /// What the tier says; it is tried again.
    pub(crate) fn learn_late(&self, names: &Names) -> Result<bool> {
        if !self.unknown.load(Ordering::Acquire) || self.tier.awaits_server() {
            return Ok(false);
        }
        self.tier.names(&mut |name, stream| names.restore(name, Stream::from_raw(stream)))?;
        // Before the blocks, so that no event is found that was removed.
        self.learn_removed()?;
        self.learn_blocks()?;
        self.unknown.store(false, Ordering::Release);
        Ok(true)
    }

    /// Notes all blocks that the tier has.
    ///
    /// # Errors
    /// What the tier says.
    pub(crate) fn learn_blocks(&self) -> Result<()> {
        let mut damaged = Vec::new();
        self.tier.list(&mut |id, summary| {
            if self.directory.learn(id, summary)? == Learned::Damaged {
                damaged.push(id);
            }
            Ok(())
        })?;
        self.mend(&damaged);
        Ok(())
    }

    /// Whether all of what the tier holds is known.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`] if not.
    pub(crate) fn check_known(&self) -> Result<()> {
        if !self.unknown.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Cold,
            "the cold tier's server was away when the store opened, and what it has is not known yet; try again when it is \
             back",
        ))
    }

    /// Bytes of cached blocks and tombstones.
    pub(crate) fn memory(&self) -> usize {
        self.cache.lock().bytes + self.removed.read().len() * TOMBSTONE_BYTES
    }

    /// Does not read these blocks until [`Self::confirmed`].
    pub(crate) fn are_unsure(&self, ids: impl Iterator<Item = BlockId>) {
        self.unsure.write().extend(ids);
    }

    pub(crate) fn is_unsure(&self, id: BlockId) -> bool {
        self.unsure.read().contains(&id)
    }

    /// A block was put, as memory has it.
    pub(crate) fn confirmed(&self, id: BlockId) {
        if !self.unsure.read().is_empty() {
            self.unsure.write().remove(&id);
        }
    }

    /// A block, from the cache or from the tier. `None`: it was deleted because its events have expired, or memory has what
    /// counts of it. Of callers who want the same block at once, one reads it.
    ///
    /// # Errors
    /// What the tier says, [`ErrorKind::Corrupt`] for a block that fails its check or is gone, and
    /// [`ErrorKind::Timeout`].
    pub(crate) fn load(&self, id: BlockId, deadline: Deadline) -> Loaded {
        if self.is_unsure(id) {
            return Ok(None);
        }
        loop {
            let flight = {
                // Looked at under the lock of the flights: who lands keeps the block before the flight is off the
                // list.
                let mut flights = self.flights.lock();
                if let Some(block) = self.cached(id) {
                    return Ok(Some(block));
                }
                match flights.get(&id) {
                    Some(flight) => Err(flight.clone()),
                    None => {
                        let flight = Arc::<Flight>::default();
                        flights.insert(id, flight.clone());
                        Ok(flight)
                    }
                }
            };
            match flight {
                Ok(flight) => {
                    let landing = Landing { reader: self, id, flight };
                    let outcome = self.read(id, deadline);
                    landing.flight.land(&outcome);
                    return outcome;
                }
                Err(others) => match others.wait(deadline) {
                    // Whoever read it had less time than is left here.
                    Err(error) if error.kind() == ErrorKind::Timeout && !deadline.has_passed() => {}
                    outcome => return outcome,
                },
            }
        }
    }

    /// How many wait for a block that somebody else reads.
    #[cfg(test)]
    pub(crate) fn waiting_for(&self, id: BlockId) -> usize {
        // One is on the list, one is the reader's.
        self.flights.lock().get(&id).map_or(0, |flight| Arc::strong_count(flight) - 2)
    }

    fn cached(&self, id: BlockId) -> Option<Arc<Block>> {
        let mut cache = self.cache.lock();
        let at = cache.blocks.iter().position(|block| block.id == id)?;
        let block = cache.blocks.remove(at);
        cache.blocks.push(block.clone());
        self.hits.fetch_add(1, Ordering::Relaxed);
        Some(block)
    }

    /// Reads a block from the tier, and keeps it.
    fn read(&self, id: BlockId, deadline: Deadline) -> Loaded {
        if deadline.has_passed() {
            return Err(too_late());
        }
        let begin = clock::now();
        let Some(bytes) = self.tier.get_within(id, deadline.left(READ_LIMIT))? else {
            // The directory forgets a block before the tier does, unless the tier said that it could not.
            return match self.directory.block_of(id.lane(), id.first_seq) {
                Some(info) if !info.may_be_gone => Err(self.count(format!("cold block {id:?} is missing"))),
                _ => Ok(None),
            };
        };
        let block = Block::decode(&bytes).inspect_err(|error| {
            let is_damaged = error.kind() != ErrorKind::Io;
            self.corrupt.fetch_add(u64::from(is_damaged), Ordering::Relaxed);
        })?;
        if block.id != id {
            return Err(self.count(format!("cold block {id:?} holds the events of {:?}", block.id)));
        }
        self.loads.fetch_add(1, Ordering::Relaxed);
        self.latency.lock().saturating_record(begin.elapsed().as_micros() as u64);
        let block = Arc::new(block);
        self.keep(&block);
        Ok(Some(block))
    }

    /// Learns which blocks other stores have put.
    ///
    /// # Errors
    /// What the tier says.
    pub(crate) fn learn_news(&self) -> Result<()> {
        let mut damaged = Vec::new();
        let outcome = self.tier.news(&mut |id, summary| {
            if self.directory.learn(id, summary)? == Learned::Damaged {
                damaged.push(id);
            }
            Ok(())
        });
        self.mend(&damaged);
        outcome
    }

    /// Makes entries for blocks whose own are damaged.
    fn mend(&self, damaged: &[BlockId]) {
        for id in damaged {
            let bytes = self.tier.get(*id).ok().flatten();
            self.directory.learn_from(*id, bytes.as_deref());
            self.corrupt.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn count(&self, message: String) -> Error {
        self.corrupt.fetch_add(1, Ordering::Relaxed);
        Error::corrupt(message)
    }

    fn keep(&self, block: &Arc<Block>) {
        if block.memory() > self.cache_limit {
            return;
        }
        let mut cache = self.cache.lock();
        cache.bytes += block.memory();
        cache.blocks.push(block.clone());
        while cache.bytes > self.cache_limit {
            let old = cache.blocks.remove(0);
            cache.bytes -= old.memory();
        }
    }

    /// The blocks that an entry of the directory stands for and that `choose` takes, oldest first.
    ///
    /// # Errors
    /// What the tier says, and [`ErrorKind::Timeout`].
    pub(crate) fn unfold(
        &self,
        info: &Arc<BlockInfo>,
        deadline: Deadline,
        choose: impl Fn(&BlockInfo) -> bool,
    ) -> Result<Vec<Arc<BlockInfo>>> {
        if !info.is_folded() {
            return Ok(vec![info.clone()]);
        }
        if deadline.has_passed() {
            return Err(too_late());
        }
        let mut found = Vec::new();
        self.tier.list_range(info.id, info.end_seq, &mut |id, summary| {
            let entry = BlockInfo::decode(id, summary).unwrap_or_else(|_| BlockInfo::unknown(id));
            if choose(&entry) {
                found.push(Arc::new(entry));
            }
            Ok(())
        })?;
        found.sort_unstable_by_key(|entry| entry.id.first_seq);
        Ok(found)
    }

    /// The page with which the tier's block of that page begins, or one before it. `None`: it has no block of it. Asks the
    /// tier where several blocks are noted together with pages missing between them; if it cannot tell, the page counts as
    /// missing, and is put.
    pub(crate) fn block_begin(&self, lane: LaneId, seq: u64) -> Option<u64> {
        let info = self.directory.block_of(lane, seq)?;
        let holds = |entry: &BlockInfo| entry.holds(seq);
        match info.has_gaps {
            true => Some(self.unfold(&info, Deadline::never(), holds).ok()?.first()?.id.first_seq),
            false => Some(info.id.first_seq),
        }
    }

    /// The block that holds a page.
    ///
    /// # Errors
    /// As for [`Self::unfold`].
    pub(crate) fn block_of(&self, lane: LaneId, seq: u64, deadline: Deadline) -> Result<Option<BlockId>> {
        let Some(info) = self.directory.block_of(lane, seq) else { return Ok(None) };
        let holds = |entry: &BlockInfo| entry.id.first_seq <= seq;
        // The end of one whose entry is damaged is not known: it is the last that begins before the page.
        Ok(self.unfold(&info, deadline, holds)?.last().map(|entry| entry.id))
    }

    /// Saves the names that the tier does not have yet.
    ///
    /// # Errors
    /// What the tier says; the names stay to be saved.
    pub(crate) fn save_names(&self, names: &Names) -> Result<()> {
        let unsaved = names.unsaved();
        if !unsaved.is_empty() {
            self.tier.put_names(&unsaved)?;
            names.saved(&unsaved);
        }
        Ok(())
    }

    /// Lets cached blocks go that were deleted.
    fn forget(&self, ids: &[BlockId]) {
        let mut cache = self.cache.lock();
        cache.blocks.retain(|block| !ids.contains(&block.id));
        cache.bytes = cache.blocks.iter().map(|block| block.memory()).sum();
    }

    /// Whether a cold event was removed.
    pub(crate) fn is_removed(&self, lane: LaneId, row: &Row) -> bool {
        let removed = self.removed.read();
        !removed.is_empty() && removed.get(&(row.header.id, lane)).is_some_and(|seq| row.seq <= *seq)
    }

    /// Removes an event that the tier has, or may soon have. `false`: somebody else has removed it already.
    ///
    /// # Errors
    /// When the tier does not confirm it, or the list of removed events is full.
    pub(crate) fn remove(&self, id: u64, lane: LaneId, seq: u64) -> Result<bool> {
        let before = {
            let mut removed = self.removed.write();
            // Noted before the tier is told, so that of two who remove the same event exactly one does.
            if removed.get(&(id, lane)).is_some_and(|up_to| seq <= *up_to) {
                return Ok(false);
            }
            let known = removed.len();
            if known * TOMBSTONE_BYTES >= self.removed_limit {
                return Err(Error::new(
                    ErrorKind::MemoryPressure,
                    format!(
                        "{known} removed events are noted beside the cold tier, all that there is room for; give the \
                         store more `buffers`, or wait until retention ends for the oldest blocks"
                    ),
                ));
            }
            removed.insert((id, lane), seq)
        };
        self.tier.put_tombstone(tombstone(id, lane, seq)).inspect_err(|_| {
            let mut removed = self.removed.write();
            match before {
                Some(before) => removed.insert((id, lane), before),
                None => removed.remove(&(id, lane)),
            };
        })?;
        Ok(true)
    }

    /// Every removed event that is noted: id and lane, and the page that it was removed from.
    pub(crate) fn removed(&self) -> HashMap<(u64, LaneId), u64> {
        self.removed.read().clone()
    }

    /// For each lane with removed events, the last page that one was removed from. Pages of new events must have
    /// higher numbers, or they would be taken for removed.
    pub(crate) fn removed_up_to(&self) -> HashMap<LaneId, u64> {
        let mut last = HashMap::new();
        for ((_, lane), seq) in
            self.removed.read().iter().filter(|(_, seq)| !self.directory.is_foreign(**seq))
        {
            let up_to = last.entry(*lane).or_insert(*seq);
            *up_to = (*up_to).max(*seq);
        }
        last
    }

    /// Deletes blocks whose events have all expired, and what was noted of events removed from them.
    ///
    /// # Errors
    /// What the tier says; the blocks stay noted then, for the next try, as such that may be gone.
    pub(crate) fn expire(&self, lane: LaneId, over: impl Fn(&BlockInfo) -> bool) -> Result<u64> {
        // One at a time: a second one that fails would note blocks again that the first has deleted.
        let _turn = self.expiring.lock();
        let infos = self.directory.blocks(lane, u64::MAX, over);
        if infos.is_empty() {
            return Ok(0);
        }
        let mut ids = Vec::new();
        for info in &infos {
            ids.extend(self.unfold(info, Deadline::never(), |_| true)?.iter().map(|entry| entry.id));
        }
        // They stay noted until the tier has deleted them: who looks for an event meanwhile must not be told that there is
        // none. A read that finds one gone takes it for expired.
        infos.iter().for_each(|info| self.directory.insert(info.maybe_gone()));
        // A tier that fails may have deleted them all the same: what memory keeps of them must not be given while it does.
        self.tier.delete(&ids).inspect_err(|_| self.forget(&ids))?;
        self.directory.remove(&infos.iter().map(|info| info.id).collect::<Vec<BlockId>>());
        let first = self.directory.first_seq(lane);
        // A page that is not in a block yet may still bring an event that was removed from it.
        let stale = |of: LaneId, seq: u64| of == lane && first.is_some_and(|first| seq < first);
        let mut removed: Vec<Tombstone> = self
            .removed
            .read()
            .iter()
            .filter(|((_, of), seq)| stale(*of, **seq))
            .map(|((id, of), seq)| tombstone(*id, *of, *seq))
            .collect();
        // In an order that does not depend on how a map hashes.
        removed.sort_unstable_by_key(|stone| stone.id);
        // A read that began before may still ask for them: it must not find an event whose note goes now.
        self.forget(&ids);
        // The blocks are gone even if this fails; the notes take room then until the lane's next blocks expire.
        if self.tier.delete_tombstones(&removed).is_ok() {
            let mut noted = self.removed.write();
            removed.iter().for_each(|stone| {
                noted.remove(&(stone.id, lane));
            });
        }
        Ok(ids.len() as u64)
    }

    /// Finds an event by its id in the cold tier that was not removed. There may be several, since an id can be used
    /// again once its event has ceased to exist: one that `kept` takes comes before all that it does not take, and of
    /// a lane the one appended last.
    ///
    /// # Errors
    /// As for [`Self::load`], unless an event is found that `kept` takes: a block that cannot be read does not keep the
    /// others from being searched.
    pub(crate) fn find(
        &self,
        id: u64,
        deadline: Deadline,
        kept: impl Fn(&EventRef<'_>) -> bool,
    ) -> Result<Option<Found>> {
        let (mut failure, mut expired) = (None, None);
        for lane in self.directory.lane_ids() {
            for entry in self.directory.blocks(lane, u64::MAX, |info| info.may_hold_id(id)).iter().rev() {
                let blocks = self.unfold(entry, deadline, |info| info.may_hold_id(id));
                let blocks = blocks.unwrap_or_else(|error| {
                    failure = Some(error);
                    Vec::new()
                });
                for info in blocks.iter().rev() {
                    match self.find_in(info.id, id, deadline, &kept) {
                        Ok(Some(found)) if found.is_kept => return Ok(Some(found)),
                        Ok(found) => expired = expired.or(found),
                        Err(error) => failure = Some(error),
                    }
                }
            }
        }
        match failure {
            Some(error) => Err(error),
            None => self.check_known().map(|()| expired),
        }
    }

    /// The latest event of an id in a block that `kept` takes; if there is none, the latest.
    fn find_in(
        &self,
        block: BlockId,
        id: u64,
        deadline: Deadline,
        kept: &impl Fn(&EventRef<'_>) -> bool,
    ) -> Result<Option<Found>> {
        let Some(block) = self.load(block, deadline)? else { return Ok(None) };
        let mut expired = None;
        for row in block.rows().iter().rev() {
            if row.header.id != id || self.is_removed(block.id.lane(), row) {
                continue;
            }
            if kept(&block.event(row)) {
                return Ok(Some(Found { row: *row, block, is_kept: true }));
            }
            expired.get_or_insert(*row);
        }
        Ok(expired.map(|row| Found { row, block, is_kept: false }))
    }
}

/// An event that was found by its id.
pub(crate) struct Found {
    pub(crate) block: Arc<Block>,
    pub(crate) row: Row,
    /// Whether it exists: retention keeps it, and it has not expired by itself.
    pub(crate) is_kept: bool,
}

fn tombstone(id: u64, lane: LaneId, seq: u64) -> Tombstone {
    let block = BlockId::of(lane, 0);
    Tombstone { id, partition: block.partition, class: block.class, seq }
}
