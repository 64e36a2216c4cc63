//! Putting the pages of a log back, after the memory that they were in has gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::ops::Range;

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::record::{RecordHeader, take_body};
use crate::ids::{Addr, LaneId, LogicalPage};
use crate::lanes::append::Lanes;
use crate::log::marks::{Mark, Marks};
use crate::log::scan::{PageLog, Piece, Scan};
use crate::log::segment::{LogDir, read_at};
use crate::pages::logged::LoggedPage;
use crate::pages::restore::{FoundPage, Quarantine};
use crate::pages::table::Tier;
use crate::sys::memory::wipe_all;

/// Of the hot region, how much is filled with pages before others are squeezed.
const HOT_FILL: f64 = 0.7;

/// What was put back.
pub(crate) struct Replayed {
    pub(crate) found: Vec<FoundPage>,
    pub(crate) lost: Quarantine,
    /// Parts of the log that were on the disk and are not whole.
    pub(crate) damaged: u64,
    /// The last id that the store gave.
    pub(crate) last_id: u64,
}

type Key = (LogicalPage, u32);

/// What the cold tier has of the lanes.
#[derive(Clone, Copy)]
pub(crate) struct ColdPages<'c> {
    /// The page number after the last one of a lane that it has.
    pub(crate) end: &'c (dyn Fn(LaneId) -> u64 + Sync),
    /// Where its block of that page of a lane begins. It may have one, and none of a page before.
    pub(crate) block_begin: &'c (dyn Fn(LaneId, u64) -> Option<u64> + Sync),
}

/// Pages between two of a lane that can be missing in the log because the cold tier has them.
const APART: u64 = 64;

/// Puts those pages back that were in memory and that the cold tier does not have.
///
/// # Errors
/// [`ErrorKind::Incompatible`] when the regions are too small, or lanes or page numbers are missing, [`ErrorKind::Io`]. The log is as it was.
pub(crate) fn replay(
    log: &LogDir,
    scan: Scan,
    config: &Config,
    lanes: &Lanes,
    marks: &Marks,
    cold: ColdPages<'_>,
) -> Result<Replayed> {
    let mut lost = Quarantine::default();
    if scan.damaged > 0 {
        lost.describe(|| format!("{} parts of the log are damaged", scan.damaged));
    }
    marks.clear();
    let Scan { pages, removed, tails, generation, damaged, last_id, .. } = scan;
    lanes.pages.begin_generation((generation + 1) & Addr::HIGH_MASK);
    go_on_above(&pages, &tails, lanes);
    let chosen = choose(pages, &tails, config, cold, &mut lost)?;
    let mut gone: HashMap<Key, HashSet<u32>> = HashMap::new();
    for addr in removed.into_iter().map(Addr) {
        gone.entry((addr.page(), addr.high())).or_default().insert(addr.offset());
    }
    let mut back = Back { log, config, lanes, files: HashMap::new(), bytes: Vec::new(), scratch: Vec::new() };
    let (mut found, mut noted) = (Vec::with_capacity(chosen.len()), Vec::new());
    for (key, page) in chosen {
        let gone = gone.remove(&key).unwrap_or_default();
        if let Some((put, end)) = back.put(key, &page, &gone, &mut lost)? {
            found.push(put);
            noted.extend(gone.into_iter().map(|offset| Addr::new(key.0, offset, key.1)));
            let segment = page.pieces.iter().map(|piece| piece.segment).min().unwrap_or(1);
            marks.set(&Mark { page: key.0, generation: key.1, len: end, segment, anew: true });
        }
    }
    if lanes.pages.has_sensitive() {
        wipe_all(&mut back.bytes);
        wipe_all(&mut back.scratch);
    }
    // In an order that does not depend on how a map hashes.
    noted.sort_unstable_by_key(|addr: &Addr| addr.0);
    for addr in noted {
        let note = lanes.pages.note_removed(addr, addr.high());
        note.ok_or_else(|| too_small("notes of removed events"))?(true);
    }
    Ok(Replayed { found, lost, damaged, last_id })
}

/// Has lanes go on above every page that the log knows of, also where none is left: the log would take a new page of such a
/// number for one that has gone.
pub(crate) fn go_on_above(pages: &HashMap<Key, PageLog>, tails: &HashMap<LaneId, u64>, lanes: &Lanes) {
    let ends = pages.values().map(|page| (page.lane, page.seq.saturating_add(1)));
    for (lane, end) in ends.chain(tails.iter().map(|(lane, tail)| (*lane, *tail))) {
        let partition = lanes.partitions.get(lane.partition());
        if let Some(lane) = partition.and_then(|partition| partition.lanes().nth(lane.class().index())) {
            lane.set_clean(end);
        }
    }
}

/// The pages to put back, those first whose events came last.
fn choose(
    pages: HashMap<Key, PageLog>,
    tails: &HashMap<LaneId, u64>,
    config: &Config,
    cold: ColdPages<'_>,
    lost: &mut Quarantine,
) -> Result<Vec<(Key, PageLog)>> {
    let mut by_number: BTreeMap<LogicalPage, (u32, PageLog)> = BTreeMap::new();
    let begins = begins(&pages, tails, cold);
    for ((number, generation), page) in pages {
        let lane = page.lane;
        if lane.partition() >= config.partitions || lane.class().index() >= config.classes.len() {
            return Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "the log has events of partition {} and class {}, which this configuration does not have; open the \
                     store as it was",
                    lane.partition(),
                    lane.class().index()
                ),
            ));
        }
        if begins.get(&lane).is_some_and(|begin| page.seq < *begin) {
            continue;
        }
        // A number is used again when its page has left memory, which the log then says; unless that part of it is damaged.
        let later = |other: &PageLog| place(&page) > place(other);
        match by_number.get(&number) {
            Some((_, other)) if !later(other) => lost.pages += 1,
            other => {
                lost.pages += u64::from(other.is_some());
                by_number.insert(number, (generation, page));
            }
        }
    }
    let pages = by_number.into_iter().map(|(number, (generation, page))| ((number, generation), page));
    let mut chosen: Vec<(Key, PageLog)> = pages.collect();
    chosen.sort_by_key(|(key, page)| (std::cmp::Reverse(page.arrival), *key));
    Ok(chosen)
}

/// The first page of each lane that is to be put back. Of what the cold tier was given and did not confirm it may have later
/// pages of a lane, and not those before.
fn begins(
    pages: &HashMap<Key, PageLog>,
    tails: &HashMap<LaneId, u64>,
    cold: ColdPages<'_>,
) -> HashMap<LaneId, u64> {
    let mut lanes: HashMap<LaneId, Vec<u64>> = HashMap::new();
    for page in pages.values() {
        lanes.entry(page.lane).or_default().push(page.seq);
    }
    let begin = |(lane, mut seqs): (LaneId, Vec<u64>)| {
        let (end, tail) = ((cold.end)(lane), tails.get(&lane).copied().unwrap_or(0));
        seqs.retain(|seq| (tail..end).contains(seq));
        seqs.sort_unstable();
        let (mut begin, mut above) = (end, end);
        for seq in seqs.into_iter().rev() {
            if above - seq > APART {
                break;
            }
            above = seq;
            if (cold.block_begin)(lane, seq).is_none() {
                begin = seq;
            }
        }
        (lane, begin.max(tail))
    };
    lanes.into_iter().map(begin).collect()
}

/// Where in the log the last bytes of a page are.
fn place(page: &PageLog) -> Option<(u64, u32)> {
    page.pieces.last().map(|piece| (piece.segment, piece.at))
}

fn too_small(what: &str) -> Error {
    Error::new(
        ErrorKind::Incompatible,
        format!(
            "there is no room for all {what} of the log; nothing is lost: open the store with a larger `hot` or `warm` region"
        ),
    )
}

struct Back<'b> {
    log: &'b LogDir,
    config: &'b Config,
    lanes: &'b Lanes,
    files: HashMap<u64, File>,
    bytes: Vec<u8>,
    scratch: Vec<u8>,
}

impl Back<'_> {
    /// Puts a page back, without the bodies of the records that are `gone`: it may have been packed so, and not fit otherwise.
    /// Gives where its bytes end, too. Nothing, if nothing of it can be read.
    fn put(
        &mut self,
        key: Key,
        page: &PageLog,
        gone: &HashSet<u32>,
        lost: &mut Quarantine,
    ) -> Result<Option<(FoundPage, u32)>> {
        let parts = self.gather(page)?;
        for offset in gone {
            let record = self.bytes.get_mut(*offset as usize..);
            let is_record = |bytes: &&mut [u8]| {
                RecordHeader::read(bytes).is_some_and(|header| header.record_len_checked().is_some())
            };
            record.filter(is_record).and_then(take_body);
        }
        let end = parts.last().map_or(0, |part| part.end);
        if !matches!(&parts[..], [part] if part.start == 0) {
            lost.pages += 1;
            lost.describe(|| format!("page {} of {:?}: a part is missing in the log", page.seq, page.lane));
        }
        let logged = LoggedPage {
            page: key.0,
            generation: key.1,
            lane: page.lane,
            seq: page.seq,
            arrival: page.arrival,
            bytes: &self.bytes,
            parts: &parts,
        };
        let pages = &self.lanes.pages;
        let fill = f64::from(pages.hot.used_pages()) / f64::from(pages.hot.pages_max());
        let is_hot = fill < HOT_FILL || !self.config.classes[page.lane.class().index()].compress;
        let tiers = if is_hot { [Tier::Hot, Tier::Warm] } else { [Tier::Warm, Tier::Hot] };
        let now_ms = self.lanes.clock.now_ms();
        for tier in tiers {
            match pages.put_back(&logged, tier, now_ms, &mut self.scratch) {
                Err(error) if error.kind() == ErrorKind::MemoryPressure => {}
                other => return other.map(|found| found.map(|found| (found, end as u32))),
            }
        }
        Err(too_small("pages"))
    }

    /// Reads a page's bytes, and tells which are there.
    fn gather(&mut self, page: &PageLog) -> Result<Vec<Range<usize>>> {
        let end =
            page.pieces.iter().map(|piece| piece.offset as usize + piece.len as usize).max().unwrap_or(0);
        self.bytes.clear();
        if self.lanes.pages.has_sensitive() {
            // The page before must not be left behind where it grows.
            wipe_all(&mut self.bytes);
        }
        // No page is longer than its largest event, of 16 MiB, and some.
        self.bytes.resize(end.min(32 << 20), 0);
        let mut read: Vec<Piece> = Vec::with_capacity(page.pieces.len());
        for piece in &page.pieces {
            let range = piece.offset as usize..piece.offset as usize + piece.len as usize;
            let Some(out) = self.bytes.get_mut(range) else { continue };
            let file = match self.files.entry(piece.segment) {
                std::collections::hash_map::Entry::Occupied(file) => file.into_mut(),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(self.log.open_segment(piece.segment)?)
                }
            };
            if read_at(file, out, u64::from(piece.at)).is_ok() {
                read.push(*piece);
            }
        }
        Ok(cover(read))
    }
}

/// Which bytes the pieces cover: ranges that begin with a record.
pub(crate) fn cover(mut pieces: Vec<Piece>) -> Vec<Range<usize>> {
    pieces.sort_by_key(|piece| piece.offset);
    let mut ranges: Vec<Range<usize>> = Vec::new();
    for piece in pieces {
        let (from, to) = (piece.offset as usize, piece.offset as usize + piece.len as usize);
        match ranges.last_mut() {
            Some(last) if from <= last.end => last.end = last.end.max(to),
            _ if piece.begins => ranges.push(from..to),
            // The beginning of this record is missing.
            _ => {}
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_what_they_cover() {
        let piece = |offset, len, begins| Piece { segment: 1, at: 0, len, offset, begins };
        let of = |pieces: &[Piece]| -> Vec<(usize, usize)> {
            cover(pieces.to_vec()).into_iter().map(|range| (range.start, range.end)).collect()
        };
        assert_eq!(of(&[piece(0, 10, true), piece(10, 5, false), piece(5, 10, true)]), [(0, 15)]);
        assert_eq!(of(&[piece(20, 5, true), piece(0, 8, true)]), [(0, 8), (20, 25)]);
        assert_eq!(of(&[piece(0, 8, true), piece(20, 5, false), piece(25, 5, true)]), [(0, 8), (25, 30)]);
        assert_eq!(of(&[]), []);
    }
}
