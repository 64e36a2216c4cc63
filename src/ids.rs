//! Names for things: streams, classes, lanes, pages, and the packed address of a record.

use std::fmt;

use crate::error::{Error, ErrorKind, Result};

/// What an event belongs to: a customer, a device, a session.
///
/// A stream is either *numbered* (`Stream::from(42u32)`, or `Stream::try_from(n)` for a `u64` below 2^63) or
/// *named* ([`Store::stream`](crate::Store::stream) interns a name and gives its stream). The two kinds never
/// share a value: named streams have the top bit set.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(u64);

impl Stream {
    pub(crate) const NAMED: u64 = 1 << 63;

    /// The raw 64-bit value, as it is stored in each record.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether this stream came from a name.
    pub fn is_named(self) -> bool {
        self.0 & Self::NAMED != 0
    }

    pub(crate) fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl From<u32> for Stream {
    fn from(number: u32) -> Self {
        Self(u64::from(number))
    }
}

impl TryFrom<u64> for Stream {
    type Error = Error;

    /// # Errors
    /// [`ErrorKind::InvalidInput`] when `number` is 2^63 or more: that half belongs to named streams.
    fn try_from(number: u64) -> Result<Self> {
        if number & Self::NAMED == 0 {
            return Ok(Self(number));
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "stream number {number} is 2^63 or more, which is kept for named streams; \
                 use a smaller number or Store::stream(\"name\")"
            ),
        ))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_named() {
            write!(f, "Stream(named {:#x})", self.0 & !Self::NAMED)
        } else {
            write!(f, "Stream({})", self.0)
        }
    }
}

/// A class of events: its retention, windows and priority come from
/// [`ClassConfig`](crate::ClassConfig). Class 0 is the default one; there are at most 16.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Default)]
pub struct Class(u8);

impl Class {
    /// How many classes a store can have.
    pub const MAX: usize = 16;
    /// The class of an event that names none.
    pub const DEFAULT: Self = Self(0);

    /// The class's position in the configuration.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(crate) fn new(index: usize) -> Self {
        debug_assert!(index < Self::MAX, "class {index} out of range");
        Self((index as u8) & 15)
    }
}

/// The number of a logical page: an entry of the page table. Zero is never used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub(crate) struct LogicalPage(pub(crate) u32);

impl LogicalPage {
    pub(crate) const NONE: Self = Self(0);
    /// 2^26 pages: with the smallest page (2 KiB) 128 GiB, with 64 KiB pages 4 TiB.
    pub(crate) const LIMIT: u32 = 1 << Addr::PAGE_BITS;
}

/// One partition's log of one class: `partition * 16 + class`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub(crate) struct LaneId(pub(crate) u32);

impl LaneId {
    pub(crate) fn new(partition: usize, class: Class) -> Self {
        Self((partition * Class::MAX + class.index()) as u32)
    }

    pub(crate) fn partition(self) -> usize {
        self.0 as usize / Class::MAX
    }

    pub(crate) fn class(self) -> Class {
        Class::new(self.0 as usize % Class::MAX)
    }
}

/// Where a record is, in one word: a logical page, an offset in it, and 20 more bits.
///
/// ```text
///  63           44 43                    18 17              0
/// ┌───────────────┬────────────────────────┬─────────────────┐
/// │ high 20 bits  │  logical page, 26 bits │ offset / 8, 18  │
/// └───────────────┴────────────────────────┴─────────────────┘
/// ```
///
/// In a stream's chain the high bits are the page's *generation*, so that a link to a page that has left
/// memory is recognised (invariant I3). In the id index they are a tag of the id's hash and the *tentative*
/// bit. Logical page 0 does not exist, so an address is never zero.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Addr(pub(crate) u64);

impl Addr {
    pub(crate) const SLOT_BITS: u32 = 18;
    pub(crate) const PAGE_BITS: u32 = 26;
    pub(crate) const HIGH_BITS: u32 = 20;
    pub(crate) const HIGH_MASK: u32 = (1 << Self::HIGH_BITS) - 1;
    /// The first byte of a page that no record can begin at, because an address has no room for it.
    pub(crate) const OFFSET_END: u32 = 8 << Self::SLOT_BITS;
    const LOW_BITS: u32 = Self::SLOT_BITS + Self::PAGE_BITS;
    const LOW_MASK: u64 = (1 << Self::LOW_BITS) - 1;

    pub(crate) fn new(page: LogicalPage, offset: u32, high: u32) -> Self {
        debug_assert!(offset.is_multiple_of(8), "record offsets are multiples of 8");
        debug_assert!(offset >> 3 < 1 << Self::SLOT_BITS && page.0 < LogicalPage::LIMIT);
        let low = u64::from(offset >> 3) | u64::from(page.0) << Self::SLOT_BITS;
        Self(low | u64::from(high & Self::HIGH_MASK) << Self::LOW_BITS)
    }

    pub(crate) fn page(self) -> LogicalPage {
        LogicalPage((self.0 >> Self::SLOT_BITS) as u32 & (LogicalPage::LIMIT - 1))
    }

    pub(crate) fn offset(self) -> u32 {
        (self.0 as u32 & ((1 << Self::SLOT_BITS) - 1)) << 3
    }

    pub(crate) fn high(self) -> u32 {
        (self.0 >> Self::LOW_BITS) as u32
    }

    pub(crate) fn with_high(self, high: u32) -> Self {
        Self(self.low() | u64::from(high & Self::HIGH_MASK) << Self::LOW_BITS)
    }

    /// Page and offset without the high bits: equal for equal places.
    pub(crate) fn low(self) -> u64 {
        self.0 & Self::LOW_MASK
    }
}

const _: () = assert!(Addr::SLOT_BITS + Addr::PAGE_BITS + Addr::HIGH_BITS == 64);
/// A page of 2 MiB, the largest, has exactly 2^18 places for a record.
const _: () = assert!((2 << 20) >> 3 == 1 << Addr::SLOT_BITS);

/// Mixes 64 bits by one wide multiplication (the step of wyhash and rapidhash, Wang Yi 2019).
/// Which partition a stream belongs to is decided by it, so it must never change.
pub(crate) fn mix(value: u64, seed: u64) -> u64 {
    let product = u128::from(value ^ seed ^ 0x2d35_8dcc_aa6c_78a5) * u128::from(seed | 0x8bb8_4b93_962e_acc9);
    let folded = (product as u64) ^ ((product >> 64) as u64);
    let again = u128::from(folded ^ 0x4b33_a62e_d433_d4a3) * 0x4d5a_2da5_1de1_aa47_u128;
    (again as u64) ^ ((again >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gives_back_its_parts() {
        for (page, offset, high) in
            [(1, 0, 0), (LogicalPage::LIMIT - 1, (2 << 20) - 8, Addr::HIGH_MASK), (7, 64, 5)]
        {
            let addr = Addr::new(LogicalPage(page), offset, high);
            assert_eq!((addr.page().0, addr.offset(), addr.high()), (page, offset, high));
            assert_eq!(addr.with_high(3).low(), addr.low());
        }
    }

    #[test]
    fn numbers_of_the_named_half_are_refused() {
        assert!(Stream::try_from(u64::MAX).is_err());
        assert_eq!(Stream::try_from(7u64).unwrap(), Stream::from(7u32));
    }

    #[test]
    fn mix_spreads_neighbours_over_all_bits() {
        let seen: std::collections::HashSet<u64> = (0..4096).map(|n| mix(n, 1) & 4095).collect();
        // 4096 balls in 4096 bins leave about 63 % of the bins non-empty.
        assert!((2400..2800).contains(&seen.len()), "{}", seen.len());
    }
}
