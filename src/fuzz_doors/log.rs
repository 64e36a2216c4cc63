//! Doors to the log on a disk: its bytes, and whole logs of which the fuzzer says what is in their frames.

use super::page;
use crate::ids::{Addr, LaneId, LogicalPage};
use crate::log::frame::{BLOCK, Frame, HEADER, Kind, Unit, mend, unit_at};
use crate::log::replay::cover;
use crate::log::scan::scan_of;
use crate::log::segment::{Identity, file_name, header, parse_identity};

/// What the logs of [`log_files`] belong to: the seed and partitions of the store that is to open them.
pub const LOG_SEED: u64 = 7;
/// See [`LOG_SEED`].
pub const LOG_PARTITIONS: usize = 2;
const IDENTITY: Identity = Identity { seed: LOG_SEED, partitions: LOG_PARTITIONS, first_seq: 0, pages: 5 };

/// Reads the bytes as what a segment of the log has behind its first block, and as that.
pub fn log_segment(bytes: &[u8]) {
    if let Some(identity) = parse_identity(&bytes[..bytes.len().min(BLOCK)], 1) {
        assert_eq!(parse_identity(&header(&identity, 1), 1), Some(identity));
    }
    let segment = [vec![0; BLOCK].as_slice(), bytes].concat();
    let end = segment.len();
    let scan = scan_of(&[(1, segment)]);
    for piece in scan.pages.values().flat_map(|page| &page.pieces) {
        assert!(piece.at as usize + piece.len as usize <= end, "a piece lies outside of its segment");
    }
    for page in scan.pages.into_values() {
        let ranges = cover(page.pieces);
        assert!(ranges.is_sorted_by(|first, next| first.end < next.start), "{ranges:?}");
    }
}

/// The same for a segment of the log.
pub fn mend_log_segment(bytes: &mut Vec<u8>) {
    bytes.splice(..0, vec![0; BLOCK]);
    mend(bytes, 1);
    bytes.drain(..BLOCK);
}

/// Bytes that say what is to be done.
struct Script<'b>(&'b [u8]);

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A small number, or with the last one any.
    fn number(&mut self) -> u64 {
        match self.byte() {
            255 => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
            small => u64::from(small),
        }
    }

    /// Some bytes of a page.
    fn payload(&mut self) -> Vec<u8> {
        match self.byte() {
            // A number of whole records.
            count @ 0..128 => {
                let id = self.byte();
                page(usize::from(count % 16), move |number| (number * 9 + usize::from(id)) % 200)
            }
            // A part of them.
            count @ 128..192 => {
                let whole = page(usize::from(count % 8) + 1, |_| 100);
                let (from, to) = (usize::from(self.byte()), usize::from(self.byte()) * 8);
                whole[(from * 8).min(whole.len())..].iter().take(to).copied().collect()
            }
            count => (0..count - 192).map(|_| self.byte()).collect(),
        }
    }
}

/// A log of which the bytes say what is in it, with everything that can be checked made right: names and bytes of its files.
pub fn log_files(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut script = Script(bytes);
    let (mut number, mut unit, mut before) = (1, Unit::default(), 0);
    let mut segment = header(&IDENTITY, number);
    let mut files = Vec::new();
    while !script.0.is_empty() && files.len() < 8 && segment.len() < 1 << 18 {
        let frame = |script: &mut Script<'_>, kind| Frame {
            kind,
            begins: script.byte().is_multiple_of(2),
            seq: script.number(),
            time: script.number() as i64,
            lane: LaneId(script.number() as u32),
            page: LogicalPage(script.number() as u32),
            generation: script.number() as u32,
            offset: (script.number() as u32).wrapping_mul(8),
            ..Frame::NOTHING
        };
        match script.byte() % 8 {
            0..=2 => {
                let (frame, payload) = (frame(&mut script, Kind::Page), script.payload());
                let fill = |out: &mut Vec<u8>| Ok::<(), ()>(out.extend_from_slice(&payload));
                let Ok(()) = unit.push(&frame, fill) else { continue };
            }
            3 => {
                let frame = frame(&mut script, Kind::Removed);
                let count = script.byte() % 8;
                let mut address = || Addr(script.number() | script.number() << 18 | script.number() << 44).0;
                let payload: Vec<u8> = (0..count).flat_map(|_| address().to_le_bytes()).collect();
                let fill = |out: &mut Vec<u8>| Ok::<(), ()>(out.extend_from_slice(&payload));
                let Ok(()) = unit.push(&frame, fill) else { continue };
            }
            4 => unit.push_bare(&frame(&mut script, Kind::Tail)),
            5 | 6 if !unit.is_empty() => {
                let wild = script.byte();
                let mut commit = Frame {
                    seq: script.number(),
                    generation: script.number() as u32,
                    time: unit_at(1, 0) as i64,
                    more: before,
                    ..Frame::NOTHING
                };
                if wild & 1 != 0 {
                    (commit.time, commit.more) = (script.number() as i64, script.number());
                }
                let after = if wild & 2 != 0 { script.number() } else { before };
                before = unit_at(number, segment.len());
                unit.finish(number, segment.len(), commit.after(after));
                // A frame of it may be lost.
                if wild & 4 != 0 {
                    let at = usize::from(script.byte()) * HEADER;
                    unit.bytes.iter_mut().skip(at).take(HEADER).for_each(|byte| *byte = 0);
                }
                segment.extend_from_slice(&unit.bytes);
                unit.clear();
            }
            7 => {
                files.push((file_name(number), std::mem::take(&mut segment)));
                number += 1 + u64::from(script.byte() % 2);
                segment = header(&IDENTITY, number);
            }
            _ => {}
        }
    }
    files.push((file_name(number), segment));
    files
}

/// First inputs. Target, name and bytes of each.
pub(super) fn samples() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    // begins, seq, time, lane, page, generation, offset; then a payload of so many records from that id on.
    let first = [0, 0, 0, 9, 0, 1, 1, 0, 5, 3];
    let other_lane = [0, 0, 1, 9, 16, 2, 1, 0, 3, 9];
    let (commit, next, lost) = ([5, 0, 40, 1], [7, 0], [5, 4, 40, 1, 1]);
    let removed = [3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1];
    let tail = [4, 0, 1, 0, 16, 0, 0, 0];
    let scripts = [
        ("one", [&first[..], &commit].concat()),
        ("two", [&first[..], &other_lane, &commit, &removed, &tail, &commit].concat()),
        ("lost", [&first[..], &commit, &next, &other_lane, &lost, &tail, &commit].concat()),
    ];
    let mut samples = Vec::new();
    for (name, script) in scripts {
        let files = log_files(&script);
        samples.push(("log_segment", name, files[0].1[BLOCK..].to_vec()));
        samples.push(("log_replay", name, script));
    }
    samples.push(("log_segment", "header", header(&IDENTITY, 1)[..128].to_vec()));
    samples
}
