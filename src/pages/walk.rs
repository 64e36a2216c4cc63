//! Walks over all records of a page.
//!
//! The length of a record says where the next one begins, and a length may be damaged like all else. Where events are
//! summed up, a walk believes only what fits the sums: behind a record that fails, it searches for the next one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::event::EventRef;
use crate::event::record::{HEADER_LEN, RecordHeader, body_len, end_of, is_whole};
use crate::ids::{Addr, LogicalPage};
use crate::pages::pool::Pages;
use crate::pages::readers::Reading;
use crate::pages::reading::WALK_AHEAD;
use crate::pages::table::{Place, Tier};
use crate::sys::memory::prefetch_bytes;

/// How often the search for records may sum up as many bytes as there are: made-up lengths must not make it endless.
const SEARCH_SHARE: usize = 64;

/// Where the records are that lie one after the other in some bytes, and whether each is whole.
pub(crate) struct Steps<'b, L> {
    bytes: &'b [u8],
    at: usize,
    /// The first whole record behind one that was not.
    good: usize,
    sums: bool,
    /// Whether the index has an event of that id there. Behind damage, a record that is not summed up is none without it.
    is_live: L,
    in_doubt: bool,
    /// Bytes that may still be summed up for a search.
    search: usize,
    /// Whether bytes were passed over that had records.
    pub(crate) broken: bool,
}

impl<'b, L: Fn(u64, usize) -> bool> Steps<'b, L> {
    pub(crate) fn new(bytes: &'b [u8], sums: bool, is_live: L) -> Self {
        let search = bytes.len() * SEARCH_SHARE;
        Self { bytes, at: 0, good: 0, sums, is_live, in_doubt: false, search, broken: false }
    }

    /// Where the record ends that begins there, if it is one.
    fn whole_at(&self, at: usize) -> Option<usize> {
        let end = end_of(self.bytes, at)?;
        let known = || {
            RecordHeader::read(&self.bytes[at..])
                .is_some_and(|header| header.is_summed() || (self.is_live)(header.id, at))
        };
        ((!self.in_doubt || known()) && is_whole(&self.bytes[at..end])).then_some(end)
    }

    /// Where the next record is behind the one at `self.at`, which fails: the end of the bytes if there is none.
    #[cold]
    fn search(&mut self) -> usize {
        let mut at = self.at + 8;
        if self.good > self.at {
            at = self.good;
        }
        while at < self.bytes.len() {
            if let Some(end) = end_of(self.bytes, at) {
                if self.whole_at(at).is_some() {
                    break;
                }
                let header = RecordHeader::read(&self.bytes[at..]);
                let summed = if header.is_some_and(|header| header.is_summed()) { end - at } else { 0 };
                let Some(left) = self.search.checked_sub(summed) else { return self.bytes.len() };
                self.search = left;
            }
            at += 8;
        }
        at.min(self.bytes.len())
    }

    /// Whether the lengths from there on lead to that place.
    fn leads_to(&self, mut at: usize, to: usize) -> bool {
        while at < to {
            match end_of(self.bytes, at) {
                Some(end) => at = end,
                None => return false,
            }
        }
        at == to
    }
}

impl<L: Fn(u64, usize) -> bool> Iterator for Steps<'_, L> {
    /// Where the record begins, and whether it is whole.
    type Item = (usize, bool);

    #[inline]
    fn next(&mut self) -> Option<(usize, bool)> {
        while self.at < self.bytes.len() {
            let at = self.at;
            if !self.sums {
                let end = end_of(self.bytes, at);
                self.broken |= end.is_none();
                self.at = end.unwrap_or(self.bytes.len());
                return end.map(|_| (at, true));
            }
            if let Some(end) = self.whole_at(at) {
                self.at = end;
                return Some((at, true));
            }
            self.in_doubt = true;
            self.good = self.search();
            // If all lengths up to the next whole record fit, it is not they that are damaged.
            if self.leads_to(at, self.good) || cfg!(canary = "believed-length") {
                self.at = end_of(self.bytes, at)?;
                return Some((at, false));
            }
            self.broken = true;
            self.at = self.good;
        }
        None
    }
}

impl Pages {
    /// Whether events are summed up.
    pub(super) fn sums(&self) -> bool {
        self.unasked == 0
    }

    pub(crate) fn count_corrupt_event(&self) {
        self.corrupt_events.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a record of that length ends within what its hot page has.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if not: it was written there, so its length is no longer the one that was.
    #[cold]
    #[inline(never)]
    pub(super) fn check_end(&self, addr: Addr, len: usize) -> Result<()> {
        if addr.offset() as usize + len <= self.meta(addr.page()).committed() as usize {
            return Ok(());
        }
        Err(Error::corrupt(
            "an event is said to be longer than what its page holds: its bytes in memory are damaged",
        ))
    }

    /// Calls `visit` for every committed record of a page, in the order of writing, until it says `false`: where it is, and
    /// whether it is whole as far as events are summed up. `is_live`: whether the index has an event of that id there.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) after the readable records of a page where not all are.
    pub(crate) fn walk<'g>(
        &'g self,
        pin: &'g impl Reading,
        page: LogicalPage,
        place: Place,
        committed: u32,
        is_live: impl Fn(u64, Addr) -> bool,
        mut visit: impl FnMut(u32, EventRef<'g>, bool) -> bool,
    ) -> Result<()> {
        let mut damage = Ok(());
        if let Some(bytes) = self.committed_bytes(pin, place, committed) {
            let live = |id, at| is_live(id, Addr::new(page, at as u32, 0));
            let mut steps = Steps::new(bytes, self.sums(), live);
            for (at, whole) in &mut steps {
                let rest = &bytes[at..];
                // The processor's own prefetching stops at every 4 KiB.
                if let Some(ahead) = rest.get(WALK_AHEAD..) {
                    prefetch_bytes(&ahead[..ahead.len().min(1)]);
                }
                let len = HEADER_LEN + body_len(rest).unwrap_or(0) as usize;
                if !visit(at as u32, EventRef::in_place(&rest[..len]), whole) {
                    return Ok(());
                }
            }
            return if steps.broken { Err(self.lengths_damaged()) } else { Ok(()) };
        }
        if place.tier() == Tier::Free {
            return Ok(());
        }
        let image = self.image(place)?;
        let mut number = 0;
        while let Some(run) = image.unpack_run(&mut number) {
            let (begin, bytes) = match run {
                Ok((begin, raw)) => (begin, Arc::new(self.buffer(raw))),
                Err(error) => {
                    self.count_corrupt();
                    damage = Err(error);
                    continue;
                }
            };
            let live = |id, at| is_live(id, Addr::new(page, begin + at as u32, 0));
            let mut steps = Steps::new(&bytes, self.sums(), live);
            for (at, whole) in &mut steps {
                let Some(event) = EventRef::of_record(bytes.clone(), at) else { break };
                if !visit(begin + at as u32, event, whole) {
                    return damage;
                }
            }
            if steps.broken {
                damage = Err(self.lengths_damaged());
            }
        }
        damage
    }

    /// What somebody is told who walks over a page whose records are not where their lengths say.
    #[cold]
    fn lengths_damaged(&self) -> Error {
        self.count_corrupt_event();
        Error::corrupt("lengths of events in memory are damaged")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::record::seal;
    use crate::ids::Class;

    const LEN: usize = 104;

    /// Ten records, each with a sum.
    fn page() -> Vec<u8> {
        let mut bytes = vec![0u8; LEN * 10];
        for (id, record) in bytes.chunks_mut(LEN).enumerate() {
            let body_len = (LEN - HEADER_LEN) as u32;
            let header = RecordHeader::new(1, id as u64, body_len, 0, 0, Class::DEFAULT, false, 5);
            header.summed(true).write(record);
            record[HEADER_LEN..].fill(id as u8 + 1);
            seal(record, body_len);
        }
        bytes
    }

    fn walked(bytes: &[u8], sums: bool) -> (Vec<(usize, bool)>, bool) {
        let mut steps = Steps::new(bytes, sums, |_, _| false);
        let found = steps.by_ref().collect();
        (found, steps.broken)
    }

    #[test]
    fn whatever_a_length_says_the_other_records_are_found() {
        let good =
            |but: usize| (0..10).filter(|id| *id != but).map(|id| (id * LEN, true)).collect::<Vec<_>>();
        assert_eq!(walked(&page(), true), (good(10), false));
        for id in 0..10 {
            let at = id * LEN + 16;
            for bit in 0..32 {
                let mut bytes = page();
                bytes[at + bit / 8] ^= 1 << (bit % 8);
                let (mut found, broken) = walked(&bytes, true);
                let hidden = found.iter().all(|(_, whole)| *whole);
                assert_eq!(broken, hidden, "{id}, bit {bit}");
                found.retain(|(_, whole)| *whole);
                assert_eq!(found, good(id), "{id}, bit {bit}");
            }
        }
    }

    #[test]
    fn neighbours_that_are_damaged_are_told_one_by_one() {
        let mut bytes = page();
        (3..6).for_each(|id| bytes[id * LEN + 60] ^= 1);
        let expected = (0..10).map(|id| (id * LEN, !(3..6).contains(&id))).collect();
        assert_eq!(walked(&bytes, true), (expected, false));
    }

    #[test]
    fn without_sums_a_walk_tells_where_it_ends_early() {
        let mut bytes = page();
        bytes[4 * LEN + 19] ^= 0x40;
        let (found, broken) = walked(&bytes, false);
        assert!(broken && found.len() == 4);
        assert!(!walked(&page(), false).1);
    }
}
