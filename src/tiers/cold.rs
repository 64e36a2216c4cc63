//! What a cold tier must do.

use std::time::Duration;

use crate::config::ClassConfig;
use crate::error::Result;
use crate::tiers::block::BlockId;

/// A block on its way to the cold tier.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ColdBlock {
    /// Which block. Putting the same id again replaces it.
    pub id: BlockId,
    /// The block's bytes: packed, checksummed, of no meaning to the tier.
    pub bytes: Vec<u8>,
    /// What the store must know of the block without reading it, in bytes of no meaning to the tier.
    pub summary: Vec<u8>,
}

/// What identifies the data of a store.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Namespace {
    /// How many partitions share the streams; it must not change.
    pub partitions: u32,
    /// Decides which stream belongs to which partition and which name to which stream.
    pub seed: u64,
    /// The names of the classes, in the order of their numbers.
    pub classes: Vec<String>,
}

impl Namespace {
    /// Puts a namespace together again that was saved.
    pub fn new(partitions: u32, seed: u64, classes: Vec<String>) -> Self {
        Self { partitions, seed, classes }
    }
}

/// An event that was removed although the cold tier has it: the one of that id at or before a page of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Tombstone {
    /// The event's id.
    pub id: u64,
    /// The lane's partition.
    pub partition: u32,
    /// The lane's class.
    pub class: u8,
    /// The number of the page.
    pub seq: u64,
}

impl Tombstone {
    /// Puts a tombstone together again that was saved.
    pub fn new(id: u64, partition: u32, class: u8, seq: u64) -> Self {
        Self { id, partition, class, seq }
    }
}

/// What a tier that keeps data somewhere else says of itself. All zero for one that has nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TierFigures {
    /// Whether the tier takes it that its server is away: writes go to the overflow directory.
    pub away: bool,
    /// Blocks and other changes in the overflow directory that the server has not confirmed.
    pub overflow: u64,
    /// Bytes of those.
    pub overflow_bytes: u64,
    /// Changes that the server has confirmed, but that it may still lose: kept to be sent again.
    pub resendable: u64,
    /// Bytes of those.
    pub resendable_bytes: u64,
    /// Changes sent again because a server had restarted.
    pub resent: u64,
    /// Changes from the overflow directory that were written since.
    pub drained: u64,
    /// Blocks that can never be written, in the dead-letter directory.
    pub dead_letters: u64,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests that may be under way at once: it follows the server's latency.
    pub in_flight_limit: u32,
    /// What the server said last when it did not do what it was asked.
    pub last_error: Option<String>,
}

/// Storage for blocks that have left memory.
///
/// Blocks in, blocks out: what is in them, and finding events in them, is the store's affair. All calls may block;
/// the store makes them on its own threads, or on that of a caller who asked for cold events. A call that
/// returns `Ok` has made its change durable.
pub trait ColdTier: Send + Sync + 'static {
    /// The namespace, if one was ever saved here.
    ///
    /// # Errors
    /// When the tier cannot be read.
    fn namespace(&self) -> Result<Option<Namespace>>;

    /// Saves the namespace.
    ///
    /// # Errors
    /// When it is not durable.
    fn set_namespace(&self, namespace: &Namespace) -> Result<()>;

    /// Writes blocks. All of them are there when it returns `Ok`; any of them may be there when it does not, and
    /// the store will put them again.
    ///
    /// # Errors
    /// When not all blocks are durable.
    fn put(&self, blocks: &[ColdBlock]) -> Result<()>;

    /// Reads a block's bytes. `None` when there is no such block.
    ///
    /// # Errors
    /// When the tier cannot tell.
    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>>;

    /// Deletes blocks whose events have all reached the end of their retention, if they are there. A tier that expires data by
    /// itself may do nothing.
    ///
    /// # Errors
    /// When it could not; the store tries again later.
    fn delete(&self, ids: &[BlockId]) -> Result<()>;

    /// Shows every block's id and summary.
    ///
    /// # Errors
    /// When the tier cannot be read, and what `visit` returns.
    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()>;

    /// Shows ids and summaries of the blocks of one lane (the partition and class of `first`) from block `first` on,
    /// and before page `end`. The store asks for them when it has no room to remember each. A tier that can do better
    /// than to go through all blocks should.
    ///
    /// # Errors
    /// When the tier cannot be read, and what `visit` returns.
    fn list_range(
        &self,
        first: BlockId,
        end: u64,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.list(&mut |id, summary| {
            let same = (id.partition, id.class) == (first.partition, first.class);
            if same && (first.first_seq..end).contains(&id.first_seq) { visit(id, summary) } else { Ok(()) }
        })
    }

    /// Saves names of streams. The store does so before it puts the first block with events of such a stream.
    ///
    /// # Errors
    /// When they are not durable.
    fn put_names(&self, names: &[(String, u64)]) -> Result<()>;

    /// Shows every stream's name.
    ///
    /// # Errors
    /// When the tier cannot be read.
    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()>;

    /// Saves that an event was removed. A tombstone replaces an earlier one of the same id, partition and class, and
    /// no other: an id may have been used again in another lane.
    ///
    /// # Errors
    /// When it is not durable.
    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()>;

    /// Forgets tombstones: the blocks that they speak of are deleted.
    ///
    /// # Errors
    /// When it could not; nothing is wrong then, but room is wasted.
    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()>;

    /// Shows every removed event.
    ///
    /// # Errors
    /// When the tier cannot be read.
    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()>;

    /// The store begins to use the tier; called once, before anything else. Gives the first page number that the
    /// store may use in its lanes. A tier that several stores share gives each opening a range of its own of 2⁴⁰
    /// numbers, above those of all earlier openings; others say 0.
    ///
    /// # Errors
    /// When the tier cannot be used so: it is out of reach and cannot begin without its server, or its tables do not fit the classes.
    fn begin(&self, classes: &[ClassConfig]) -> Result<u64> {
        let _ = classes;
        Ok(0)
    }

    /// Whether the tier was begun while its server was away, and does not know yet what is there. `list`, `names` and
    /// `tombstones` show what it knows, and are asked once more when this has become false; until then the store answers
    /// reads of what only the server can have with an error that says so.
    fn awaits_server(&self) -> bool {
        false
    }

    /// How many calls of `put` the tier handles well at once (default: one). The store makes blocks for others while
    /// one call waits, with as many threads, up to 8.
    fn puts_at_once(&self) -> usize {
        1
    }

    /// As [`get`](Self::get), for a caller who does not wait longer than `limit`.
    ///
    /// # Errors
    /// As for `get`, and [`Timeout`](crate::ErrorKind::Timeout).
    fn get_within(&self, id: BlockId, limit: Duration) -> Result<Option<Vec<u8>>> {
        let _ = limit;
        self.get(id)
    }

    /// Does what is to be done without being asked; the store calls it now and then from a thread of its own.
    ///
    /// # Errors
    /// What could not be done; the store calls it again.
    fn maintain(&self) -> Result<()> {
        Ok(())
    }

    /// How long the store may wait before it calls `maintain` and `news` again (default: a quarter of a second). It
    /// calls earlier when blocks were put meanwhile. `None`: there is nothing to do and nothing to learn, ever.
    fn maintain_every(&self) -> Option<Duration> {
        Some(Duration::from_millis(250))
    }

    /// Shows blocks that other stores have put since `list` or `news` was called last. A block may be shown again.
    ///
    /// # Errors
    /// When the tier cannot be read, and what `visit` returns.
    fn news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        let _ = visit;
        Ok(())
    }

    /// Bytes of memory that the tier takes for itself, as far as it knows: they are part of the store's buffers.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// What the tier says of itself.
    fn figures(&self) -> TierFigures {
        TierFigures::default()
    }

    /// The store is closed and makes no more changes: what the tier holds open can be let go. Reads that are under
    /// way when the store closes may still come, and may be refused.
    fn close(&self) {}
}
