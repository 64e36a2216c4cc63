//! The word that says where a page is, and the check that it bears:
//!
//! ```text
//!  63  56 55  54 53 52   51              32 31                 0
//! ┌──────┬───┬─────┬────┬──────────────────┬────────────────────┐
//! │check │ 1 │state│dead│ generation, 20   │ first frame, 32    │
//! └──────┴───┴─────┴────┴──────────────────┴────────────────────┘
//! ```
//!
//! *Check* is for whoever finds the word in a file: it notices flipped bits of all the rest but *dead*. The word of a free page has
//! none, and neither had any before there were checks; bit 55 is zero then.

use crate::ids::Addr;

/// Where a page's bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tier {
    Free,
    Hot,
    Warm,
}

/// A page's place at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place(pub(super) u64);

impl Place {
    const STATE: u32 = 53;
    pub(super) const DEAD: u64 = 1 << 52;
    const CHECKED: u64 = 1 << 55;
    const CHECK: u32 = 56;

    pub(crate) fn new(tier: Tier, generation: u32, frame: u32) -> Self {
        let state = match tier {
            Tier::Free => 0u64,
            Tier::Hot => 1,
            Tier::Warm => 2,
        };
        let word = state << Self::STATE | u64::from(generation & Addr::HIGH_MASK) << 32 | u64::from(frame);
        if tier == Tier::Free {
            return Self(word);
        }
        let word = word | Self::CHECKED;
        Self(word | u64::from(crc8(word)) << Self::CHECK)
    }

    /// Whether there is a check.
    pub(crate) fn is_checked(self) -> bool {
        self.0 & Self::CHECKED != 0
    }

    /// Whether the check is right, or there is none, as before there were checks.
    pub(crate) fn is_sound(self) -> bool {
        let check = (self.0 >> Self::CHECK) as u8;
        check == if self.is_checked() { crc8(self.0 & !Self::DEAD & ((1 << Self::CHECK) - 1)) } else { 0 }
    }

    #[inline]
    pub(crate) fn tier(self) -> Tier {
        match self.0 >> Self::STATE & 3 {
            1 => Tier::Hot,
            2 => Tier::Warm,
            _ => Tier::Free,
        }
    }

    #[inline]
    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32 & Addr::HIGH_MASK
    }

    #[inline]
    pub(crate) fn frame(self) -> u32 {
        self.0 as u32
    }

    /// Whether the word is as that of a free page always is: a generation and nothing else.
    pub(crate) fn is_plain_free(self) -> bool {
        self == Self::new(Tier::Free, self.generation(), 0)
    }

    pub(crate) fn as_u64(self) -> u64 {
        self.0
    }

    /// Whether a record of the page was removed.
    #[inline]
    pub(crate) fn has_dead(self) -> bool {
        self.0 & Self::DEAD != 0
    }
}

/// CRC-8 of AUTOSAR (polynomial 0x2f), without its inversions: any two words of up to 119 bits differ in at least four bits,
/// those of the sum included (Koopman and Chakravarty, "Cyclic redundancy code polynomial selection for embedded networks",
/// 2004).
const fn crc8(word: u64) -> u8 {
    let (bytes, mut crc, mut at) = (word.to_be_bytes(), 0u8, 0);
    while at < bytes.len() {
        crc = CRC8[(crc ^ bytes[at]) as usize];
        at += 1;
    }
    crc
}

const CRC8: [u8; 256] = {
    let (mut table, mut byte) = ([0u8; 256], 0);
    while byte < table.len() {
        let (mut crc, mut bit) = (byte as u8, 0);
        while bit < 8 {
            crc = crc << 1 ^ if crc & 0x80 != 0 { 0x2f } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_place_gives_back_its_parts() {
        for (tier, generation, frame) in
            [(Tier::Free, 0, 0), (Tier::Hot, Addr::HIGH_MASK, u32::MAX), (Tier::Warm, 5, 9)]
        {
            let place = Place::new(tier, generation, frame);
            assert_eq!((place.tier(), place.generation(), place.frame()), (tier, generation, frame));
            assert!(place.is_sound() && place.is_checked() == (tier != Tier::Free));
            assert_eq!(place.is_plain_free(), tier == Tier::Free);
        }
    }

    #[test]
    fn up_to_three_flipped_bits_of_a_place_are_noticed() {
        // One whose check has bits enough that no three flips leave a word that looks as if it never had one.
        let place = Place::new(Tier::Hot, 3, 77);
        assert!((place.0 >> Place::CHECK).count_ones() > 2);
        let bits: Vec<u64> = (0..64).map(|bit| 1 << bit).filter(|bit| *bit != Place::DEAD).collect();
        let is_noticed = |flips: u64| {
            let damaged = Place(place.0 ^ flips);
            !damaged.is_sound() && !damaged.is_plain_free()
        };
        for (at, first) in bits.iter().enumerate() {
            assert!(is_noticed(*first));
            for (at, second) in bits.iter().enumerate().take(at) {
                assert!(is_noticed(first | second));
                assert!(bits[..at].iter().all(|third| is_noticed(first | second | third)));
            }
        }
        assert!(Place(place.0 | Place::DEAD).is_sound(), "that is changed by itself");
    }

    #[test]
    fn one_flipped_bit_changes_no_place_unnoticed() {
        let parts = |place: Place| (place.tier(), place.generation(), place.frame());
        for frame in 0..5000 {
            let place = Place::new(if frame % 2 == 0 { Tier::Hot } else { Tier::Warm }, frame % 7, frame);
            for bit in (0..64).filter(|bit| 1 << bit != Place::DEAD) {
                let damaged = Place(place.0 ^ 1 << bit);
                let same = parts(damaged) == parts(place);
                assert!(same || !damaged.is_sound() && !damaged.is_plain_free(), "bit {bit} of {place:?}");
            }
        }
    }

    #[test]
    fn places_of_before_there_were_checks_are_taken() {
        let place = Place(1 << Place::STATE | 5 << 32 | 9);
        assert!(place.is_sound() && !place.is_checked());
        assert_eq!((place.tier(), place.generation(), place.frame()), (Tier::Hot, 5, 9));
    }
}
