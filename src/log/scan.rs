//! Reading a log: which of its units count, and where each page's bytes are.
//!
//! A unit counts if all of its frames are there, and it was on the disk before a later one was written (which later ones
//! say), or all units of its run before it are there. So the log of a run ends before the first unit that is not whole and
//! that nobody was told of; what a disk has kept of units behind that one means nothing. Of a unit that *was* on the
//! disk, and is not whole any more, what is left counts, and the damage is told.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::ops::RangeInclusive;

use crate::error::{Error, Result, zeros};
use crate::ids::{LaneId, LogicalPage};
use crate::log::frame::{BLOCK, Frame, HEADER, Kind, frame_len, read, unit_at};
use crate::log::segment::{LogDir, read_at};

/// Some bytes of a page, in a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) segment: u64,
    /// Where in it they are.
    pub(crate) at: u32,
    pub(crate) len: u32,
    /// Where in the page they are.
    pub(crate) offset: u32,
    /// Whether they begin with a record.
    pub(crate) begins: bool,
}

/// What the log has of a page.
pub(crate) struct PageLog {
    pub(crate) lane: LaneId,
    pub(crate) seq: u64,
    pub(crate) arrival: i64,
    pub(crate) pieces: Vec<Piece>,
}

/// What the log has.
#[derive(Default)]
pub(crate) struct Scan {
    /// By number and generation.
    pub(crate) pages: HashMap<(LogicalPage, u32), PageLog>,
    /// Addresses of removed records.
    pub(crate) removed: Vec<u64>,
    /// Lanes, and the numbers below which their pages have left memory, or are in the cold tier.
    pub(crate) tails: HashMap<LaneId, u64>,
    pub(crate) last_id: u64,
    /// The highest generation of any page.
    pub(crate) generation: u32,
    pub(crate) units: u64,
    /// Units that were on the disk and are not whole.
    pub(crate) damaged: u64,
    /// Units that were never whole on the disk, or follow one.
    pub(crate) torn: u64,
}

/// A frame, and where its payload is.
struct Found {
    frame: Frame,
    at: u32,
    len: u32,
    /// Of a frame of removals.
    removed: Vec<u64>,
}

struct FoundUnit {
    number: u64,
    segment: u64,
    frames: Vec<Found>,
    commit: Option<Frame>,
}

impl FoundUnit {
    fn is_whole(&self) -> bool {
        self.commit.is_some_and(|commit| commit.offset as usize == self.frames.len() + 1)
    }
}

/// Reads a whole log.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when a segment cannot be opened, or memory has no room for it. What of it cannot be read counts as damaged.
pub(crate) fn scan(log: &LogDir) -> Result<Scan> {
    let mut units = Vec::new();
    for number in &log.segments {
        let file = log.open_segment(*number)?;
        let bytes = read_all(&file, *number)?;
        read_segment(*number, &bytes, &mut units);
    }
    Ok(choose(units, log.segments.front().copied().unwrap_or(0)))
}

/// A segment's bytes; zeros where the disk does not give them.
fn read_all(file: &File, number: u64) -> Result<Vec<u8>> {
    let failed = |error| Error::io(format!("cannot read segment {number} of the log"), error);
    let len = usize::try_from(file.metadata().map_err(failed)?.len()).unwrap_or(usize::MAX);
    let mut bytes = zeros(len.min(1 << 30), "a segment of the log")?;
    if read_at(file, &mut bytes, 0).is_err() {
        for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
            let at = (number * BLOCK) as u64;
            if read_at(file, block, at).is_err() {
                block.fill(0);
            }
        }
    }
    Ok(bytes)
}

/// Reads a log whose segments are these.
#[cfg(any(test, fuzzing))]
pub(crate) fn scan_of(segments: &[(u64, Vec<u8>)]) -> Scan {
    let mut units = Vec::new();
    segments.iter().for_each(|(number, bytes)| read_segment(*number, bytes, &mut units));
    choose(units, segments.first().map_or(0, |(number, _)| *number))
}

fn read_segment(number: u64, bytes: &[u8], units: &mut Vec<FoundUnit>) {
    let mut at = BLOCK;
    while at + HEADER <= bytes.len() {
        let Some((frame, payload)) = read(bytes, number, at) else {
            at += 8;
            continue;
        };
        if units.last().is_none_or(|unit| unit.number != frame.unit) {
            let unit = FoundUnit { number: frame.unit, segment: number, frames: Vec::new(), commit: None };
            units.push(unit);
        }
        let Some(unit) = units.last_mut() else { return };
        if frame.kind == Kind::Commit {
            unit.commit = Some(frame);
            at = (at + HEADER).next_multiple_of(BLOCK);
            continue;
        }
        let word = |bytes: &[u8]| bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let removed = match frame.kind {
            Kind::Removed => payload.chunks_exact(8).map(word).collect(),
            _ => Vec::new(),
        };
        let len = payload.len();
        unit.frames.push(Found { frame, at: (at + HEADER) as u32, len: len as u32, removed });
        at += frame_len(len);
    }
}

/// Takes in what the units say that count. Before the oldest segment there were others, which nobody needs.
fn choose(units: Vec<FoundUnit>, oldest: u64) -> Scan {
    // What was on the disk, by the run that says so.
    let mut claims: HashMap<u64, u64> = HashMap::new();
    for commit in units.iter().filter_map(|unit| unit.commit) {
        let synced = claims.entry(commit.time as u64).or_default();
        *synced = commit.more.max(*synced);
    }
    let claims: Vec<RangeInclusive<u64>> = claims.into_iter().map(|(first, last)| first..=last).collect();
    let was_synced = |unit: u64| claims.iter().any(|claim| claim.contains(&unit));
    let mut scan = Scan::default();
    let mut chosen: HashSet<u64> = HashSet::new();
    let mut missing: HashSet<u64> = HashSet::new();
    for unit in &units {
        let (number, is_whole) = (unit.number, unit.is_whole());
        let before = unit.commit.map_or(0, |commit| commit.before());
        let is_gone = |before: u64| before >= unit_at(oldest, 0).max(1) && !chosen.contains(&before);
        if was_synced(number) {
            scan.damaged += u64::from(!is_whole);
        } else if !is_whole || is_gone(before) && !was_synced(before) {
            scan.torn += 1;
            continue;
        }
        // One of which not even a part is left.
        if is_gone(before) && missing.insert(before) {
            scan.damaged += 1;
        }
        chosen.insert(number);
        scan.take(unit);
    }
    scan
}

impl Scan {
    fn take(&mut self, unit: &FoundUnit) {
        self.units += 1;
        if let Some(commit) = unit.commit {
            self.last_id = self.last_id.max(commit.seq);
            self.generation = self.generation.max(commit.generation);
        }
        for Found { frame, at, len, removed } in &unit.frames {
            match frame.kind {
                Kind::Page => {
                    self.generation = self.generation.max(frame.generation);
                    let new = || PageLog {
                        lane: frame.lane,
                        seq: frame.seq,
                        arrival: frame.time,
                        pieces: Vec::new(),
                    };
                    let page = self.pages.entry((frame.page, frame.generation)).or_insert_with(new);
                    page.arrival = page.arrival.max(frame.time);
                    page.pieces.push(Piece {
                        segment: unit.segment,
                        at: *at,
                        len: *len,
                        offset: frame.offset,
                        begins: frame.begins,
                    });
                }
                Kind::Removed => self.removed.extend(removed),
                Kind::Tail => {
                    let tail = self.tails.entry(frame.lane).or_default();
                    *tail = frame.seq.max(*tail);
                }
                Kind::Commit => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::frame::Unit;

    /// A segment with so many units of a tail each, and of one run, of which the first `synced` were on the disk.
    fn segment(number: u64, run: u64, count: usize, synced: usize) -> Vec<u8> {
        let mut bytes = vec![0; BLOCK];
        for at in 0..count {
            let mut unit = Unit::default();
            unit.push_bare(&Frame {
                kind: Kind::Tail,
                seq: at as u64 + 1,
                lane: LaneId(number as u32),
                ..Frame::NOTHING
            });
            let unit_of = |at: usize| unit_at(number, BLOCK * (at + 1));
            let last = synced.min(at);
            let more = if last == 0 { 0 } else { unit_of(last - 1) };
            let commit = Frame { time: unit_at(run, 0) as i64, more, ..Frame::NOTHING };
            unit.finish(number, bytes.len(), commit.after(if at == 0 { 0 } else { unit_of(at - 1) }));
            bytes.extend_from_slice(&unit.bytes);
        }
        bytes
    }

    #[test]
    fn what_is_torn_ends_the_log_of_its_run_and_what_is_damaged_is_told() {
        let whole = segment(1, 1, 6, 3);
        let scan = scan_of(&[(1, whole.clone())]);
        assert_eq!((scan.units, scan.damaged, scan.torn, scan.tails[&LaneId(1)]), (6, 0, 0, 6));
        for at in 0..6 {
            // The unit is there in part, or not at all.
            for len in [8, BLOCK] {
                let mut bad = whole.clone();
                bad[BLOCK * (at + 1)..][..len].fill(0);
                let scan = scan_of(&[(1, bad.clone()), (2, segment(2, 2, 2, 0))]);
                let (damaged, tail) = if at < 3 { (1, 6) } else { (0, at as u64) };
                assert_eq!(
                    (scan.damaged, scan.tails.get(&LaneId(1)).copied()),
                    (damaged, Some(tail)),
                    "unit {at}"
                );
                assert_eq!(scan.tails[&LaneId(2)], 2, "another run goes on");
            }
        }
        assert_eq!(scan_of(&[]).units, 0);
    }

    #[test]
    fn any_bytes_are_read_without_harm() {
        let whole = segment(1, 1, 6, 3);
        let mut number = 1u64;
        let mut random = |below: usize| {
            number = number.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (number >> 33) as usize % below
        };
        for _ in 0..2000 {
            let mut bytes = whole.clone();
            match random(3) {
                // A frame somewhere else.
                0 => bytes.copy_within(BLOCK..BLOCK + 2 * HEADER, random(whole.len() / 8 - 2 * HEADER) * 8),
                1 => bytes.truncate(random(whole.len())),
                _ => (0..8).for_each(|_| bytes[random(whole.len())] ^= 1 << random(8)),
            }
            let scan = scan_of(&[(1, bytes)]);
            assert!(scan.pages.is_empty() && scan.tails.values().all(|tail| *tail <= 6));
        }
    }
}
