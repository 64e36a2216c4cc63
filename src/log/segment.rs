//! The files of the log: segments of one size, written from beginning to end, one after the other.
//!
//! ```text
//! block 0   │ "esker-log" version segment seed partitions first-seq pages crc-32 \n │ zeros │ the same, at 2 KiB │ zeros │
//! then      │ units, each at a multiple of 4 KiB │ zeros, to the segment's size │
//! ```
//!
//! A segment is allocated, and the directory synced, before it is written to, so that a full disk is met before anything
//! is half written. Where appends wait for each sync, it is filled with zeros, too, so that a sync has no more to do than to
//! write data: file systems note where a file was never written. One that is not needed any more is kept as the next one;
//! what is in it is of another segment, and so are its checksums.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::log::frame::{BLOCK, Frame, HEADER, PAYLOAD_MAX, Unit, unit_at};
use crate::sys::memory::allocate;
use crate::sys::shared::{SharedDir, sync_dir};

const MAGIC: &str = "esker-log";
const VERSION: u32 = 1;
/// More segments than any log comes to have.
const SEGMENTS_END: u64 = 1 << 43;
/// Bytes of zeros that are written at a time.
const FILL: usize = 1 << 20;
/// A segment that is ready to be used, and one that is being made so while others write.
const SPARE: &str = "spare";
const NEXT: &str = "next";
/// Where stream names are.
pub(crate) const NAMES: &str = "names";

/// What a log belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) seed: u64,
    pub(crate) partitions: usize,
    /// The first page number of the run that began it; see [`ColdTier::begin`](crate::ColdTier::begin).
    pub(crate) first_seq: u64,
    /// The files of pages beside which it is written: see `Earlier::pages` in `store/shared.rs`.
    pub(crate) pages: u64,
}

/// Why a turn did not put everything on the disk.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There is no room for a segment more, or none can be made just now: nothing was half written.
    NoSegment(std::io::Error),
    /// A write or a sync failed: what the disk has of it cannot be known, and trying again would not tell.
    Broken(std::io::Error),
}

/// How large things are in the log of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Sizes {
    /// Bytes of a segment.
    pub(crate) segment: usize,
    /// Bytes of pages from which on a unit is written.
    pub(crate) unit: usize,
    /// The most bytes of a page in one frame.
    pub(crate) frame: usize,
    /// Removals that a unit has at most, beside those of pages that are written again.
    pub(crate) removed: usize,
}

impl Sizes {
    /// 1 to 64 MiB for a segment, and more where a page can be larger than a half: any page must fit into a unit, and a
    /// unit into a segment, with room to spare for removals and the beginnings of lanes.
    pub(crate) fn of(config: &Config) -> Self {
        const MAX: usize = 64 << 20;
        let bytes = |of: u64| usize::try_from(of).unwrap_or(MAX);
        let base = bytes(config.memory / 16).clamp(1 << 20, MAX) / BLOCK * BLOCK;
        let lanes = config.partitions * config.classes.len();
        let least = base / 2 + bytes(config.max_event) + 2 * bytes(config.hot.page_size);
        let segment = base.max(least) + lanes * 2 * HEADER;
        Self {
            segment: segment.next_multiple_of(1 << 20),
            unit: base / 4,
            frame: (base / 4).min(PAYLOAD_MAX),
            removed: base / 64,
        }
    }
}

/// The directory of a log, which this store has for itself.
pub(crate) struct LogDir {
    pub(crate) dir: SharedDir,
    /// The numbers of its segments, rising.
    pub(crate) segments: VecDeque<u64>,
}

pub(crate) fn file_name(number: u64) -> String {
    format!("{number:011x}.log")
}

fn number_of(name: &str) -> Option<u64> {
    // Larger ones are none of ours: units have numbers above those of their segments.
    u64::from_str_radix(name.strip_suffix(".log")?, 16).ok().filter(|number| *number < SEGMENTS_END)
}

fn segments_in(path: &Path) -> std::io::Result<VecDeque<u64>> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(VecDeque::new()),
        other => other?,
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().to_str().and_then(number_of));
    }
    found.sort_unstable();
    Ok(found.into())
}

/// Whether there is a log with anything in it.
///
/// # Errors
/// [`ErrorKind::Io`].
pub(crate) fn is_in_use(path: &Path) -> Result<bool> {
    let found = segments_in(path)
        .map_err(|error| Error::io(format!("cannot look into {}", path.display()), error))?;
    Ok(!found.is_empty())
}

impl LogDir {
    /// Takes the directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`], [`ErrorKind::Denied`], [`ErrorKind::Io`].
    pub(crate) fn take(path: &Path) -> Result<Self> {
        let dir = SharedDir::take(path)?;
        let segments = segments_in(path)
            .map_err(|error| Error::io(format!("cannot look into {}", path.display()), error))?;
        path.parent()
            .map_or(Ok(()), sync_dir)
            .map_err(|error| Error::io(format!("cannot sync the directory of {}", path.display()), error))?;
        Ok(Self { dir, segments })
    }

    /// Reads a segment.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn open_segment(&self, number: u64) -> Result<File> {
        self.dir.file(&file_name(number))
    }

    /// What the log belongs to: by its newest segment that says so. `None` for a log without segments.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] when a newer version wrote it, [`ErrorKind::Corrupt`] when none of them says anything.
    pub(crate) fn identity(&self) -> Result<Option<Identity>> {
        let (path, mut damaged) = (self.dir.path().display(), false);
        for number in self.segments.iter().rev() {
            let (file, mut block) = (self.open_segment(*number)?, [0; BLOCK]);
            if read_at(&file, &mut block, 0).is_err() {
                damaged |= file.metadata().map_or(true, |meta| meta.len() > 0);
                continue;
            }
            match parse_header(&block, *number) {
                Header::Ours(identity) => return Ok(Some(identity)),
                Header::Newer(version) => {
                    return Err(Error::new(
                        ErrorKind::Incompatible,
                        format!(
                            "{path} was written by a newer version of esker (format {version}, this one reads up to \
                             {VERSION}); open it with that version, and close it cleanly before going back"
                        ),
                    ));
                }
                // A segment has its header before it has its name. One that is nothing but zeros holds nothing all the same.
                Header::Nothing => damaged = damaged || holds_anything(&file),
            }
        }
        if !damaged {
            return Ok(None);
        }
        Err(Error::corrupt(format!(
            "no segment in {path} says what it belongs to; move the directory away to begin anew with what the cold tier \
             has"
        )))
    }

    /// Deletes everything: the cold tier has what it held.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; some may be deleted then.
    pub(crate) fn clear(&mut self) -> Result<()> {
        // The newest last: what is left is a log whose older pages have gone.
        while let Some(number) = self.segments.front() {
            self.dir.delete(&file_name(*number))?;
            self.segments.pop_front();
        }
        self.dir.delete(NAMES)?;
        self.dir.delete(SPARE)?;
        self.dir.delete(NEXT)?;
        sync_dir(self.dir.path()).map_err(|error| Error::io("cannot sync the log's directory", error))
    }
}

/// Whether any byte of a file is not zero, or cannot be read.
fn holds_anything(file: &File) -> bool {
    let Ok(len) = file.metadata().map(|meta| meta.len()) else { return true };
    let mut bytes = vec![0; FILL];
    (0..len).step_by(FILL).any(|at| {
        let part = &mut bytes[..FILL.min((len - at) as usize)];
        read_at(file, part, at).is_err() || part.iter().any(|byte| *byte != 0)
    })
}

enum Header {
    Ours(Identity),
    Newer(u32),
    Nothing,
}

pub(crate) fn header(identity: &Identity, number: u64) -> Vec<u8> {
    let Identity { seed, partitions, first_seq, pages } = identity;
    let text = format!("{MAGIC} {VERSION} {number} {seed:016x} {partitions} {first_seq} {pages:016x}");
    let mut block = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes())).into_bytes();
    block.resize(BLOCK / 2, 0);
    block.repeat(2)
}

/// What a segment's first block says that it belongs to.
#[cfg(fuzzing)]
pub(crate) fn parse_identity(block: &[u8], number: u64) -> Option<Identity> {
    match parse_header(block, number) {
        Header::Ours(identity) => Some(identity),
        Header::Newer(_) | Header::Nothing => None,
    }
}

fn parse_header(block: &[u8], number: u64) -> Header {
    let (first, second) = block.split_at(block.len().min(BLOCK / 2));
    match parse_copy(first, number) {
        Header::Nothing => parse_copy(second, number),
        found => found,
    }
}

fn parse_copy(copy: &[u8], number: u64) -> Header {
    let parse = || {
        let line = copy.split(|byte| *byte == b'\n').next()?;
        let (text, crc) = std::str::from_utf8(line).ok()?.rsplit_once(' ')?;
        let sound = u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text.as_bytes());
        let mut words = text.split(' ');
        if !sound || words.next()? != MAGIC {
            return None;
        }
        let version: u32 = words.next()?.parse().ok()?;
        if version > VERSION {
            return Some(Header::Newer(version));
        }
        let named: u64 = words.next()?.parse().ok()?;
        let seed = u64::from_str_radix(words.next()?, 16).ok()?;
        let (partitions, first_seq) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let pages = u64::from_str_radix(words.next()?, 16).ok()?;
        (named == number).then_some(Header::Ours(Identity { seed, partitions, first_seq, pages }))
    };
    parse().unwrap_or(Header::Nothing)
}

/// A segment that is being written.
struct Current {
    number: u64,
    file: File,
    /// Where the next unit begins.
    at: usize,
    /// Whether something was written that was not synced.
    dirty: bool,
}

/// Writes units into segments.
pub(crate) struct Writer {
    pub(crate) log: LogDir,
    identity: Identity,
    segment_bytes: usize,
    current: Option<Current>,
    /// The first unit of this run of the store, and the last one that is on the disk.
    synced: std::ops::RangeInclusive<u64>,
    written: u64,
    next: u64,
    /// Whether segments are filled with zeros.
    fills: bool,
    has_spare: bool,
    pub(crate) written_bytes: u64,
    /// Fails the next syncs, as a disk does that is about to.
    #[cfg(test)]
    pub(crate) fail_syncs: bool,
    /// Has the next sync panic.
    #[cfg(test)]
    pub(crate) panic_in_sync: bool,
    /// How long each sync takes more than it does.
    #[cfg(test)]
    pub(crate) slow: std::time::Duration,
}

impl Writer {
    /// A writer that begins a segment of its own: behind what an earlier run left unfinished nothing is written.
    pub(crate) fn new(log: LogDir, identity: Identity, segment_bytes: usize, fills: bool) -> Self {
        let next = log.segments.back().map_or(1, |last| last + 1);
        // One of another size, or that was not filled.
        let _ = log.dir.delete(SPARE).and_then(|()| log.dir.delete(NEXT));
        Self {
            log,
            identity,
            segment_bytes,
            current: None,
            synced: unit_at(next, 0)..=0,
            written: 0,
            next,
            fills,
            has_spare: false,
            written_bytes: 0,
            #[cfg(test)]
            fail_syncs: false,
            #[cfg(test)]
            panic_in_sync: false,
            #[cfg(test)]
            slow: std::time::Duration::ZERO,
        }
    }

    pub(crate) fn segment_bytes(&self) -> usize {
        self.segment_bytes
    }

    /// The newest segment, if this run has one.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.current.as_ref().map(|current| current.number)
    }

    /// Bytes of all segments.
    pub(crate) fn bytes(&self) -> u64 {
        ((self.log.segments.len() + usize::from(self.has_spare)) * self.segment_bytes) as u64
    }

    /// Whether a unit of that length begins a new segment.
    pub(crate) fn begins_segment(&self, len: usize) -> bool {
        self.current.as_ref().is_none_or(|current| current.at + len > self.segment_bytes)
    }

    /// Makes sure that the next unit, of that length, has room.
    ///
    /// # Errors
    /// [`Failure::NoSegment`], and everything is as it was; [`Failure::Broken`].
    pub(crate) fn make_room(&mut self, len: usize) -> Result<(), Failure> {
        if !self.begins_segment(len) {
            return Ok(());
        }
        let number = self.next;
        let file = self.make(number).map_err(Failure::NoSegment)?;
        self.sync()?;
        self.next += 1;
        self.log.segments.push_back(number);
        self.current = Some(Current { number, file, at: BLOCK, dirty: false });
        Ok(())
    }

    fn make(&mut self, number: u64) -> std::io::Result<File> {
        let dir = self.log.dir.path();
        let file = match std::mem::take(&mut self.has_spare) {
            true => std::fs::OpenOptions::new().read(true).write(true).open(dir.join(SPARE))?,
            false => prepare(&dir.join(SPARE), self.segment_bytes, self.fills)?,
        };
        // It gets its name when it says so itself.
        write_at(&file, &header(&self.identity, number), 0)?;
        file.sync_all()?;
        std::fs::rename(dir.join(SPARE), dir.join(file_name(number)))?;
        sync_dir(dir)?;
        Ok(file)
    }

    /// What it takes to prepare the next segment, if there is need for one soon: [`prepare`], which may be called while others
    /// write, and [`Self::prepared`].
    pub(crate) fn wants_spare(&self) -> Option<(PathBuf, usize, bool)> {
        let half = self.current.as_ref().is_some_and(|current| current.at > self.segment_bytes / 2);
        (half && !self.has_spare).then(|| (self.log.dir.path().join(NEXT), self.segment_bytes, self.fills))
    }

    /// Notes that the next segment is ready, unless there is one by now.
    pub(crate) fn prepared(&mut self) {
        let dir = self.log.dir.path();
        match self.has_spare {
            true => drop(self.log.dir.delete(NEXT)),
            false => self.has_spare = std::fs::rename(dir.join(NEXT), dir.join(SPARE)).is_ok(),
        }
    }

    /// Writes a unit, for which [room was made](Self::make_room), and gives the segment that it is in. `commit` has what its
    /// last frame says of the store.
    ///
    /// # Errors
    /// [`Failure::Broken`].
    pub(crate) fn write(&mut self, unit: &mut Unit, commit: &Frame) -> Result<u64, Failure> {
        let Some(current) = &mut self.current else {
            return Err(Failure::NoSegment(std::io::ErrorKind::NotFound.into()));
        };
        let (first, synced) = (*self.synced.start(), *self.synced.end());
        let commit = Frame { time: first as i64, more: synced, ..commit.after(self.written) };
        unit.finish(current.number, current.at, commit);
        write_at(&current.file, &unit.bytes, current.at as u64).map_err(Failure::Broken)?;
        self.written = unit_at(current.number, current.at);
        current.at += unit.bytes.len();
        current.dirty = true;
        self.written_bytes += unit.bytes.len() as u64;
        Ok(current.number)
    }

    /// Whether a sync has anything to do.
    pub(crate) fn is_dirty(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.dirty)
    }

    /// Has the disk keep what was written.
    ///
    /// # Errors
    /// [`Failure::Broken`].
    pub(crate) fn sync(&mut self) -> Result<(), Failure> {
        if let Some(current) = self.current.as_mut().filter(|current| current.dirty) {
            #[cfg(test)]
            std::thread::sleep(self.slow);
            #[cfg(test)]
            assert!(!self.panic_in_sync, "a panic for a test");
            #[cfg(test)]
            if self.fail_syncs {
                return Err(Failure::Broken(std::io::Error::other("a disk that fails for a test")));
            }
            current.file.sync_data().map_err(Failure::Broken)?;
            current.dirty = false;
            self.synced = *self.synced.start()..=self.written;
        }
        Ok(())
    }

    /// Deletes the segments before that one.
    ///
    /// # Errors
    /// The system's; they are tried again with the next call.
    pub(crate) fn delete_before(&mut self, oldest: u64) -> Result<()> {
        while self.log.segments.front().is_some_and(|number| *number < oldest) {
            let name = file_name(self.log.segments[0]);
            if self.has_spare || !self.keep_as_spare(&name) {
                self.log.dir.delete(&name)?;
            }
            self.log.segments.pop_front();
        }
        Ok(())
    }

    /// Makes a segment of this size the next one.
    fn keep_as_spare(&mut self, name: &str) -> bool {
        let dir = self.log.dir.path();
        let fits =
            std::fs::metadata(dir.join(name)).is_ok_and(|found| found.len() == self.segment_bytes as u64);
        self.has_spare = fits && std::fs::rename(dir.join(name), dir.join(SPARE)).is_ok();
        self.has_spare
    }
}

/// Makes a file that can become a segment.
///
/// # Errors
/// The system's: there is no room. Nothing is left then.
pub(crate) fn prepare(path: &Path, len: usize, fill: bool) -> std::io::Result<File> {
    let make = || {
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(path)?;
        allocate(&file, 0, len as u64)?;
        if fill {
            let zeros = vec![0; FILL.min(len)];
            for at in (0..len).step_by(FILL) {
                write_at(&file, &zeros[..FILL.min(len - at)], at as u64)?;
            }
            file.sync_all()?;
        }
        Ok(file)
    };
    make().inspect_err(|_| drop(std::fs::remove_file(path)))
}

#[cfg(unix)]
pub(crate) fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
pub(crate) fn read_at(mut file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(at))?;
    file.read_exact(bytes)
}

#[cfg(not(unix))]
fn write_at(mut file: &File, bytes: &[u8], at: u64) -> std::io::Result<()> {
    use std::io::{Seek, SeekFrom, Write};
    file.seek(SeekFrom::Start(at))?;
    file.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity = Identity { seed: 0xabc, partitions: 8, first_seq: 1 << 40, pages: 0x123 };

    #[test]
    fn a_header_says_what_a_log_belongs_to() {
        let block = header(&IDENTITY, 7);
        assert!(matches!(parse_header(&block, 7), Header::Ours(identity) if identity == IDENTITY));
        assert!(matches!(parse_header(&block, 8), Header::Nothing));
        for at in 0..40 {
            let mut bad = block.clone();
            bad[at] ^= 1;
            assert!(
                matches!(parse_header(&bad, 7), Header::Ours(identity) if identity == IDENTITY),
                "byte {at}"
            );
            bad[BLOCK / 2 + at] ^= 1;
            assert!(matches!(parse_header(&bad, 7), Header::Nothing), "byte {at}, twice");
        }
        let text = format!("{MAGIC} {} something else", VERSION + 1);
        let newer = format!("{text} {:08x}\n", crc32fast::hash(text.as_bytes()));
        assert!(matches!(parse_header(newer.as_bytes(), 7), Header::Newer(_)));
    }

    #[test]
    fn segments_follow_each_other_and_go_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert!(!is_in_use(&path).unwrap());
        let mut writer = Writer::new(LogDir::take(&path).unwrap(), IDENTITY, 3 * BLOCK, false);
        for number in 1..=5u64 {
            for _ in 0..2 {
                let mut unit = Unit::default();
                unit.push_bare(&Frame { seq: number, ..Frame::NOTHING });
                writer.make_room(unit.len()).unwrap();
                assert_eq!(writer.write(&mut unit, &Frame::NOTHING).unwrap(), number);
            }
        }
        assert_eq!(writer.bytes(), 5 * 3 * BLOCK as u64);
        writer.delete_before(4).unwrap();
        assert!(is_in_use(&path).unwrap());
        drop(writer);
        let mut log = LogDir::take(&path).unwrap();
        assert_eq!((&log.segments, log.identity().unwrap()), (&VecDeque::from([4, 5]), Some(IDENTITY)));
        assert_eq!(
            Writer::new(LogDir { segments: log.segments.clone(), dir: log.dir }, IDENTITY, 1 << 20, true)
                .next,
            6
        );
        log = LogDir::take(&path).unwrap();
        log.clear().unwrap();
        assert!(!is_in_use(&path).unwrap());
    }
}
