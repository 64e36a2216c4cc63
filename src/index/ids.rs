//! The id index: id → address. Ids that come in sequence go to [`dense`](super::dense) arrays, all others to a
//! [`hash`](super::hash) table; an id is in one of the two.
//!
//! A chunk of neighbours gets an array when enough of them have come to the hash table, or when the chunk before it
//! is filling up. From then on new ids of the chunk go to the array; those that came before stay where they are. When most of a
//! chunk was removed, the rest goes to the hash table, and the array is freed.
//! So that this costs a sequence nothing, it is counted how many ids of a chunk *may* be in the hash table (by a hash
//! of the chunk's number): an array made while that is zero is *exclusive*, and nobody looks further.
//!
//! Two writers of one id can meet while its chunk is made, one on its way to either half:
//!
//! ```text
//! to the hash table: count, announce there, then look whether the chunk is there: if so, take it back, go to the array
//! to the array:      claim there, then look into the hash table: if the id is there, take it back
//! ```
//!
//! Each writes before it looks, both in sequentially consistent order, so at least one of them sees the other.

use std::ops::Deref;

use crate::ids::{Addr, LogicalPage, mix};
use crate::index::bucket::Sought;
use crate::index::dense::{Cursor, DenseClaim, DenseIndex, Remover, Spot};
use crate::index::hash::{Announced, BucketPages, HashIndex};
use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// Counters of what may be in the hash table, by chunk: as many as there can be chunks, about, and so many at least and at most.
const COUNTERS: [usize; 2] = if cfg!(loom) { [2, 2] } else { [1 << 12, 1 << 20] };
/// Chunks that are watched for becoming dense.
const WATCHED: usize = if cfg!(loom) { 1 } else { 256 };
/// A sweep looks at the table of chunks in so many calls, and at so many slots at least and at most.
const SWEEPS: usize = 64;
const SWEEP: [usize; 2] = [32, 4096];
/// The same of the hash table's directory: of each page that it leads to the entries are counted.
const MERGE: [usize; 2] = [2, 16];
const MERGE_IN_A_HURRY: usize = 256;
/// The share of a chunk that must have come to the hash table before it gets an array.
pub(crate) const SHARE: u64 = if cfg!(loom) { 1 } else { 8 };

/// Where an id's entry is or would be.
#[derive(Clone, Copy)]
pub(crate) enum Place<'i> {
    Dense(Spot<'i>),
    /// In the hash table, by this hash.
    Hash(u64),
}

/// Where an id is announced.
#[derive(Clone, Copy)]
pub(crate) enum Ticket<'i> {
    Dense(&'i AtomicU64),
    /// In the hash table, by this hash.
    Hash(u64),
}

/// What came of announcing an id.
pub(crate) enum Outcome<'i> {
    /// The id is ours, tentatively: publish it there.
    New(Ticket<'i>),
    /// Another event has it.
    Duplicate,
    /// It is to be located again: its chunk has got an array, or another announcement of the id, perhaps one of the
    /// caller's own, is about to be published.
    Again,
    /// The index has no room.
    Full,
}

pub(crate) struct IdIndex<S, W, P> {
    hash: HashIndex<S, P>,
    dense: DenseIndex<W, P>,
    /// How many ids of the chunks that fall on it may be in the hash table.
    sparse: Box<[AtomicU32]>,
    /// A chunk (upper 48 bits of its hash) and how many of its ids have come to the hash table lately.
    watched: Box<[AtomicU64]>,
}

impl<S, W, P> IdIndex<S, W, P>
where
    S: Deref<Target = [AtomicU32]>,
    W: Deref<Target = [AtomicU64]>,
    P: BucketPages,
{
    pub(crate) fn new(hash: HashIndex<S, P>, dense: DenseIndex<W, P>) -> Self {
        let counters = dense.slots().clamp(COUNTERS[0], COUNTERS[1]);
        Self {
            hash,
            dense,
            sparse: (0..counters).map(|_| AtomicU32::new(0)).collect(),
            watched: (0..WATCHED).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// An index of parts that were written before, whose counters said what [`Self::counts`] gave. `None`: they are not so
    /// many.
    pub(crate) fn found(hash: HashIndex<S, P>, dense: DenseIndex<W, P>, counts: &[u32]) -> Option<Self> {
        let index = Self::new(hash, dense);
        index.sparse.iter().zip(counts).for_each(|(to, count)| to.store(*count, Ordering::Relaxed));
        (counts.len() == index.sparse.len()).then_some(index)
    }

    /// How many ids of chunks may be in the hash table.
    pub(crate) fn counts(&self) -> Vec<u32> {
        self.sparse.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    pub(crate) fn hash_half(&self) -> &HashIndex<S, P> {
        &self.hash
    }

    pub(crate) fn dense_half(&self) -> &DenseIndex<W, P> {
        &self.dense
    }

    fn sparse(&self, chunk: u64) -> &AtomicU32 {
        &self.sparse[(mix(chunk, 1) as usize) & (self.sparse.len() - 1)]
    }

    /// Where that id's entry is or would be, now. The caller holds a pin for as long as it uses it.
    #[inline]
    pub(crate) fn locate(&self, id: u64) -> Place<'_> {
        match self.dense.locate(id) {
            Some(spot) => Place::Dense(spot),
            None => Place::Hash(self.hash.hash(id)),
        }
    }

    /// Asks the processor to fetch what a look at that place begins with.
    #[inline]
    pub(crate) fn prefetch(&self, place: Place<'_>) {
        match place {
            Place::Dense(spot) => spot.prefetch(),
            Place::Hash(hash) => self.hash.prefetch(hash),
        }
    }

    /// The address that a look at that place will probably give, for prefetching.
    #[inline]
    pub(crate) fn guess(&self, place: Place<'_>) -> Option<Addr> {
        match place {
            Place::Dense(spot) => Some(spot.hint()),
            Place::Hash(hash) => self.hash.find(hash, Some),
        }
    }

    /// The published address of the id that was located at that place, if that is in an array: then it is the id's.
    #[inline]
    pub(crate) fn in_array(&self, place: Place<'_>) -> Option<Addr> {
        match place {
            Place::Dense(spot) => spot.look().ok(),
            Place::Hash(_) => None,
        }
    }

    /// Looks for a published entry that `check` accepts. The caller holds a pin.
    #[inline]
    pub(crate) fn find<T>(&self, id: u64, check: impl FnMut(Addr) -> Option<T>) -> Option<T> {
        self.find_at(id, self.locate(id), check)
    }

    /// The same, from a place where the id was located under the caller's pin.
    #[inline]
    pub(crate) fn find_at<T>(
        &self,
        id: u64,
        place: Place<'_>,
        mut check: impl FnMut(Addr) -> Option<T>,
    ) -> Option<T> {
        match place {
            Place::Dense(spot) => match spot.look() {
                Ok(addr) => check(addr),
                Err(false) => None,
                Err(true) => self.hash.find(self.hash.hash(id), check),
            },
            Place::Hash(hash) => self.hash.find(hash, check),
        }
    }

    /// Whether there is a published entry for exactly this address.
    pub(crate) fn holds(&self, id: u64, addr: Addr) -> bool {
        self.find(id, |entry| (entry.low() == addr.low()).then_some(())).is_some()
    }

    /// Fetches what announcing an id will touch. Neighbours in an array are fetched by each other.
    #[inline]
    pub(crate) fn prefetch_claim<'i>(&'i self, id: u64, cursor: &mut Cursor<'i>) {
        if !cursor.seek(&self.dense, id) {
            self.hash.prefetch(self.hash.hash(id));
        }
    }

    /// Ids of a chunk, which the number of a chunk counts.
    pub(crate) fn chunk_len(&self) -> u64 {
        self.dense.chunk_len()
    }

    /// Makes an array for a chunk of which it is known that its ids come in sequence, unless there is no room.
    pub(crate) fn expect(&self, chunk: u64) {
        let sparse = self.sparse(chunk);
        if !self.dense.has(chunk) {
            self.dense.create(chunk, || sparse.load(Ordering::SeqCst) != 0);
        }
    }

    /// Fetches what announcing an id will touch, of one whose neighbours come at other times.
    #[inline]
    pub(crate) fn prefetch_insert<'i>(&'i self, id: u64, cursor: &mut Cursor<'i>) {
        if cursor.seek(&self.dense, id) {
            cursor.prefetch(id);
        } else {
            self.hash.prefetch(self.hash.hash(id));
        }
    }

    /// Announces an id whose chunk the cursor is at, if that is all there is to do.
    #[inline]
    pub(crate) fn announce_next<'i>(
        &self,
        id: u64,
        addr: Addr,
        cursor: &mut Cursor<'i>,
    ) -> Option<Ticket<'i>> {
        let at_hand = cursor.is_at(self.dense.chunk_of(id)) && cursor.is_exclusive();
        if at_hand { cursor.claim(id, addr).ok().map(Ticket::Dense) } else { None }
    }

    /// Announces that an id will be at `addr`: other writers see it, readers do not. The caller releases `cursor` soon
    /// after its last announcement; `same` says whether an entry of the hash table is for the same id.
    #[inline]
    pub(crate) fn announce<'i>(
        &'i self,
        id: u64,
        addr: Addr,
        cursor: &mut Cursor<'i>,
        mut same: impl FnMut(Addr) -> bool,
    ) -> Outcome<'i> {
        if !cursor.seek(&self.dense, id) {
            return self.announce_sparse(id, addr, &mut same);
        }
        match cursor.claim(id, addr) {
            Ok(entry) if cursor.is_exclusive() => Outcome::New(Ticket::Dense(entry)),
            Ok(entry) => self.look_elsewhere(id, entry, &mut same),
            Err(DenseClaim::Duplicate) => Outcome::Duplicate,
            Err(DenseClaim::Busy) => {
                cursor.forget();
                Outcome::Again
            }
        }
    }

    /// The other half of announcing in an array that is not exclusive.
    #[cold]
    fn look_elsewhere<'i>(
        &self,
        id: u64,
        entry: &'i AtomicU64,
        same: &mut impl FnMut(Addr) -> bool,
    ) -> Outcome<'i> {
        fence(Ordering::SeqCst);
        let outcome = match self.hash.seek(self.hash.hash(id), same) {
            Sought::Nothing => return Outcome::New(Ticket::Dense(entry)),
            Sought::Published => Outcome::Duplicate,
            Sought::Tentative => Outcome::Again,
        };
        entry.store(0, Ordering::Release);
        outcome
    }

    #[inline(never)]
    fn announce_sparse(&self, id: u64, addr: Addr, same: &mut impl FnMut(Addr) -> bool) -> Outcome<'_> {
        let (chunk, hash) = (self.dense.chunk_of(id), self.hash.hash(id));
        let sparse = self.sparse(chunk);
        if self.wants_array(chunk) && self.dense.create(chunk, || sparse.load(Ordering::SeqCst) != 0) {
            return Outcome::Again;
        }
        sparse.fetch_add(1, Ordering::SeqCst);
        let outcome = match self.hash.announce(hash, addr, &mut *same) {
            Announced::New => {
                fence(Ordering::SeqCst);
                if !self.dense.has(chunk) {
                    return Outcome::New(Ticket::Hash(hash));
                }
                self.hash.withdraw(hash, addr);
                Outcome::Again
            }
            Announced::Duplicate => Outcome::Duplicate,
            Announced::Busy => Outcome::Again,
            Announced::Full => Outcome::Full,
        };
        sparse.fetch_sub(1, Ordering::SeqCst);
        outcome
    }

    /// Whether a chunk is to get an array, now that one more of its ids has come.
    fn wants_array(&self, chunk: u64) -> bool {
        if chunk > 0 && self.dense.is_filling_up(chunk - 1) {
            return true;
        }
        let hash = mix(chunk, 2);
        let watched = &self.watched[hash as usize & (WATCHED - 1)];
        let (was, name) = (watched.load(Ordering::Relaxed), hash & !0xffff);
        // Racing writers may lose a count, or a chunk its place to another: then it gets its array later.
        let count = if was & !0xffff == name { (was & 0xffff) + 1 } else { 1 };
        let enough = count >= (self.dense.chunk_len() / SHARE).clamp(1, 0xffff);
        watched.store(name | if enough { 0 } else { count }, Ordering::Relaxed);
        enough
    }

    /// Lets readers see an announced entry: its record is committed.
    #[inline]
    pub(crate) fn publish(&self, ticket: Ticket<'_>, addr: Addr) {
        match ticket {
            Ticket::Dense(entry) => entry.store(addr.low(), Ordering::Release),
            Ticket::Hash(hash) => self.hash.publish(hash, addr),
        }
    }

    /// Removes a published entry. `false`: there is none for exactly this address. The caller holds a pin.
    pub(crate) fn remove(&self, id: u64, addr: Addr) -> bool {
        let mut remover = Remover::new();
        let removed = self.remove_by(id, addr, &mut remover);
        self.finish(&mut remover);
        removed
    }

    /// The same, of many: neighbours cost little more than one. [`Self::finish`] belongs at the end.
    pub(crate) fn remove_by<'i>(&'i self, id: u64, addr: Addr, remover: &mut Remover<'i>) -> bool {
        if self.dense.remove(id, addr, remover) {
            return true;
        }
        let removed = self.hash.remove(self.hash.hash(id), addr);
        if removed {
            self.sparse(self.dense.chunk_of(id)).fetch_sub(1, Ordering::SeqCst);
        }
        removed
    }

    /// Lets others at what the remover holds, and frees arrays that it has emptied.
    pub(crate) fn finish(&self, remover: &mut Remover<'_>) {
        self.dense.count(remover);
    }

    /// Removes all entries of a page whose records cannot be read any more. Looks at the whole index, and cannot
    /// tell which chunks they were of: arrays made later for those are not exclusive. How many it were.
    pub(crate) fn remove_page(&self, page: LogicalPage) -> u64 {
        self.dense.remove_page(page) + self.hash.remove_page(page)
    }

    /// Moves pages at or above `limit` to ones below, up to `most` of them. How many it were. Nobody may be announcing:
    /// the caller holds the locks of all who do.
    pub(crate) fn vacate(&self, limit: u32, most: usize) -> usize {
        let moved = self.dense.vacate(limit, most);
        moved + self.hash.vacate(limit, most - moved)
    }

    /// Frees arrays of which everything was removed or little is left, and merges pages of the hash table of which most was, if they are among
    /// those that are looked at this time: a share of each table, so that a few dozen calls come round it, and no more than
    /// takes some dozen microseconds; or some hundred, `in_a_hurry`. The caller holds a pin, and is the only one.
    pub(crate) fn sweep(&self, in_a_hurry: bool) {
        self.dense.sweep((self.dense.slots() / SWEEPS).clamp(SWEEP[0], SWEEP[1]), |chunk, entries| {
            self.take_over(chunk, entries)
        });
        let reach = self.hash.reach();
        let merge =
            if in_a_hurry { reach.min(MERGE_IN_A_HURRY) } else { (reach / SWEEPS).clamp(MERGE[0], MERGE[1]) };
        self.hash.merge_some(merge);
    }

    /// Puts what is left of an array into the hash table, where nobody looks for it as long as it is in the array. `false`:
    /// nothing is there. The array's lock is held: an entry of the hash table that is about to be published is not waited for,
    /// since its writer may be waiting for this lock.
    fn take_over(&self, chunk: u64, entries: &[AtomicU64]) -> bool {
        let first = chunk * self.dense.chunk_len();
        let ids = (entries.iter().enumerate())
            .map(|(at, entry)| (first + at as u64, Addr(entry.load(Ordering::Relaxed))));
        let left = || ids.clone().filter(|(_, addr)| addr.0 != 0);
        let count = left().count();
        // Before they are there, as for any other.
        self.sparse(chunk).fetch_add(count as u32, Ordering::SeqCst);
        let put = left().take_while(|(id, addr)| {
            // An id is in one of the two halves, so none that is there is this one.
            let hash = self.hash.hash(*id);
            let is_new = self.hash.announce(hash, *addr, |_| false) == Announced::New;
            if is_new {
                self.hash.publish(hash, *addr);
            }
            is_new
        });
        let done = put.count();
        if done < count {
            left().take(done).for_each(|(id, addr)| {
                self.hash.remove(self.hash.hash(id), addr);
            });
            self.sparse(chunk).fetch_sub(count as u32, Ordering::SeqCst);
        }
        done == count
    }

    /// Every entry. For checks; nobody may write meanwhile.
    pub(crate) fn entries(&self) -> Vec<Addr> {
        let mut all = self.hash.entries();
        all.extend(self.dense.entries());
        all
    }

    /// Every page in use. For checks; nobody may write meanwhile.
    pub(crate) fn page_numbers(&self) -> Vec<u32> {
        let mut all = self.hash.page_numbers();
        all.extend(self.dense.page_numbers());
        all
    }
}
