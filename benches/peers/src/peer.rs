//! The one trait that every peer is behind.

use std::ops::Range;
use std::path::PathBuf;

/// Ids that a batch of point reads asks for.
pub(crate) const MANY: usize = 16;

/// An event on its way in.
#[derive(Clone, Copy)]
pub(crate) struct Record<'a> {
    pub(crate) id: u64,
    pub(crate) stream: u32,
    pub(crate) time: i64,
    pub(crate) kind: u8,
    pub(crate) payload: &'a [u8],
}

/// What a peer knows before it opens: as much as the author of a service knows when the settings are written.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Events that must fit, none of them evicted; with a cap, those that are expected to fit.
    pub(crate) events: usize,
    /// Bytes of a payload.
    pub(crate) payload: usize,
    /// Bytes of memory that must not be exceeded, the oldest events leaving; `None` where everything fits.
    pub(crate) cap: Option<u64>,
    /// Whether a peer that can have its memory touched before the first event does so.
    pub(crate) prefault: bool,
    /// An empty folder, for those that have files. It lies in memory (`/dev/shm`) where there is such a place.
    pub(crate) dir: PathBuf,
}

impl Room {
    /// Bytes of all payloads.
    pub(crate) fn payload_bytes(&self) -> u64 {
        (self.events * self.payload) as u64
    }
}

/// A store of events. Methods that a peer has no means for are not called (see `Abilities` in `registry.rs`).
pub(crate) trait Peer: Sync + Sized {
    /// What a reader holds while it reads: a pin, a snapshot, a transaction, or nothing. The workloads renew it every
    /// 256 reads.
    type Guard<'p>
    where
        Self: 'p;

    fn open(room: &Room) -> Self;

    fn append(&self, record: &Record<'_>);

    /// Stores several at once, where the peer has a call for that.
    fn append_batch<'a>(&self, records: impl ExactSizeIterator<Item = Record<'a>>) {
        records.for_each(|record| self.append(&record));
    }

    fn guard(&self) -> Self::Guard<'_>;

    /// Shows the payload of that id. Whether it was there.
    fn get(&self, guard: &Self::Guard<'_>, id: u64, look: impl FnMut(&[u8])) -> bool;

    /// Shows the payloads of several ids, where the peer has a call for that. How many were there.
    fn get_many(&self, guard: &Self::Guard<'_>, ids: &[u64; MANY], mut look: impl FnMut(&[u8])) -> usize {
        ids.iter().filter(|id| self.get(guard, **id, &mut look)).count()
    }

    /// Shows the newest events of a stream, at most `count`.
    fn newest(&self, guard: &Self::Guard<'_>, stream: u32, count: usize, look: impl FnMut(&[u8])) {
        let _ = (guard, stream, count, look);
        unreachable!("this peer only keeps ids");
    }

    /// Shows all events of these times, of one kind or of all.
    fn scan(&self, guard: &Self::Guard<'_>, times: Range<i64>, kind: Option<u8>, look: impl FnMut(&[u8])) {
        let _ = (guard, times, kind, look);
        unreachable!("this peer only keeps ids");
    }

    /// Lets the peer finish what it does behind the caller's back, so that reading is not measured against it.
    fn settle(&self) {}
}
