//! The spool: changes in local files, in order, until the server has them for good.
//!
//! Files are written from front to back and not changed, but for headers that are [mended](mend); a file goes when nothing in it is
//! needed any more.
//!
//! Records are written without a sync: until they are acknowledged on the strength of being here, the server's word
//! is what counts, and files outlive the process without one. What is found when a directory is opened is sent again.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind as IoKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::ColdBlock;
use crate::tiers::files;
use crate::tiers::shield::dead::DeadLetters;
use crate::tiers::shield::record::{HEADER, Record, read_record};
use crate::tiers::shield::remote::{Change, Op};
use crate::tiers::shield::{mend, record};

/// A file is followed by another when it is so long.
const FILE_BYTES: u64 = 16 << 20;

/// Where a change is on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// Somebody is sending it.
    Fresh,
    /// It waits to be sent.
    Waiting,
    /// The server confirmed it then.
    Confirmed(Instant),
}

struct Entry {
    file: u64,
    offset: u64,
    len: u64,
    state: State,
    block: Option<BlockId>,
    micros: i64,
}

struct Segment {
    file: File,
    path: PathBuf,
    len: u64,
    entries: u64,
}

impl Segment {
    /// Cuts off what must not be taken for records later, or for damage.
    fn cut(&mut self, at: u64) {
        let done = files::cut(&self.file, &self.path, at).is_ok();
        // Nothing comes behind it otherwise.
        self.len = if done { at } else { self.len.max(FILE_BYTES) };
    }
}

pub(crate) struct Spool {
    dir: PathBuf,
    /// Held as long as the spool is open.
    lock: Option<File>,
    segments: BTreeMap<u64, Segment>,
    /// By serial number: in the order of writing.
    entries: BTreeMap<u64, Entry>,
    /// The latest entry of each block.
    blocks: HashMap<BlockId, u64>,
    next: u64,
    bytes: u64,
    limit: u64,
}

/// Files of a spool, and the directory that holds them: without that a file that is new may not be there after a power cut,
/// whatever is synced of it.
pub(crate) struct ToSync {
    files: Vec<(File, PathBuf)>,
    dir: PathBuf,
}

impl ToSync {
    /// Has the disk keep what is in them.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: nobody knows what it has kept.
    pub(crate) fn sync(&self) -> Result<()> {
        let all = self.files.iter().try_for_each(|(file, path)| files::sync(file, path));
        all.and_then(|()| files::sync_dir(&self.dir)).map_err(|source| {
            Error::io("cannot sync the overflow directory; free space there, or replace the disk", source)
        })
    }
}

impl Spool {
    /// Opens a directory, or makes it. Records of which only the header is damaged are mended; others that are damaged go to
    /// the dead letters.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`], [`ErrorKind::Io`].
    pub(crate) fn open(dir: &Path, limit: u64, dead: &DeadLetters) -> Result<Self> {
        let io = |what: &str, source| {
            Error::io(format!("cannot {what} the overflow directory {}", dir.display()), source)
        };
        std::fs::create_dir_all(dir).map_err(|source| io("make", source))?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
        let lock = lock.map_err(|source| io("lock", source))?;
        if lock.try_lock().is_err() {
            return Err(Error::new(
                ErrorKind::AlreadyOpen,
                format!(
                    "another store uses the overflow directory {}; give each store its own",
                    dir.display()
                ),
            ));
        }
        let mut numbers = Vec::new();
        for file in std::fs::read_dir(dir).map_err(|source| io("read", source))? {
            let path = file.map_err(|source| io("read", source))?.path();
            let number =
                path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok());
            if path.extension().is_some_and(|end| end == "spool") {
                numbers.extend(number.map(|number| (number, path)));
            }
        }
        numbers.sort_unstable();
        let mut spool = Self {
            dir: dir.to_path_buf(),
            lock: Some(lock),
            segments: BTreeMap::new(),
            entries: BTreeMap::new(),
            blocks: HashMap::new(),
            next: 0,
            bytes: 0,
            limit,
        };
        for (number, path) in numbers {
            spool.take_over(number, path, dead)?;
        }
        // A process that was killed has not synced all that it wrote, and this counts as safe from now on.
        let found: Vec<u64> = spool.entries.keys().copied().collect();
        if !found.is_empty() {
            spool.files_of(&found)?.sync()?;
        }
        Ok(spool)
    }

    /// Takes over what an earlier process left in a file.
    fn take_over(&mut self, number: u64, path: PathBuf, dead: &DeadLetters) -> Result<()> {
        let shown = path.clone();
        let io = |source| Error::io(format!("cannot read {}", shown.display()), source);
        let mut file = OpenOptions::new().read(true).write(true).open(&path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        self.segments.insert(number, Segment { file: file.try_clone().map_err(io)?, path, len, entries: 0 });
        let mut offset = self.note_records(number, &mut file, 0, len).map_err(io)?;
        if offset < len {
            // Nothing must be written behind damage, where an opening may not find it.
            if let Some(segment) = self.segments.get_mut(&number) {
                segment.len = len.max(FILE_BYTES);
            }
            let (begin, mut bytes) = (offset, Vec::new());
            file.seek(SeekFrom::Start(begin)).and_then(|_| file.read_to_end(&mut bytes)).map_err(io)?;
            let mut rest = mend::Rest::new(&bytes);
            while offset < len {
                let at = (offset - begin) as usize;
                match rest.look(at) {
                    mend::Found::Mended { header, len } => {
                        if let Some(op) = record::decode(&header, &bytes[at + HEADER..at + len]) {
                            // It is read again from there when it is sent.
                            files::write(&mut file, &shown, offset, &[&header]).map_err(io)?;
                            self.note(&op, number, offset, len as u64, State::Waiting);
                        }
                        offset += len as u64;
                    }
                    mend::Found::Damaged { len } => {
                        let what = format!(
                            "{len} bytes from byte {offset} of {} on fail their checksum",
                            shown.display()
                        );
                        dead.put_raw(&bytes[at..at + len], &what)?;
                        offset += len as u64;
                    }
                    mend::Found::CutOff => break,
                }
                offset = self.note_records(number, &mut file, offset, len).map_err(io)?;
            }
        }
        if self.segments.get(&number).is_some_and(|segment| segment.entries == 0) {
            self.remove_file(number);
        }
        Ok(())
    }

    /// Notes the records that follow each other from an offset of a file on. Where the last one ends.
    fn note_records(&mut self, number: u64, file: &mut File, from: u64, len: u64) -> std::io::Result<u64> {
        let mut offset = from;
        while offset < len {
            let room = usize::try_from(len - offset).unwrap_or(usize::MAX);
            let Some((op, whole)) = read_record(file, offset, room)? else { break };
            self.note(&op, number, offset, whole, State::Waiting);
            offset += whole;
        }
        Ok(offset)
    }

    fn note(&mut self, op: &Op, file: u64, offset: u64, len: u64, state: State) -> u64 {
        let serial = self.next;
        self.next += 1;
        let block = match &op.change {
            Change::Block(block) => Some(block.id),
            _ => None,
        };
        self.entries.insert(serial, Entry { file, offset, len, state, block, micros: op.stamp.micros });
        self.bytes += len;
        if let Some(segment) = self.segments.get_mut(&file) {
            segment.entries += 1;
        }
        if state != State::Fresh || cfg!(canary = "early-replacement") {
            self.count(serial);
        }
        serial
    }

    /// A record counts from now on: of a block that was written before, that record is of no use any more.
    fn count(&mut self, serial: u64) {
        let Some(id) = self.entries.get(&serial).and_then(|entry| entry.block) else { return };
        let stamp = |serial: u64| (self.entries.get(&serial).map(|entry| entry.micros), serial);
        match self.blocks.get(&id).copied() {
            Some(latest) if stamp(latest) > stamp(serial) => self.release(&[serial]),
            before => {
                self.blocks.insert(id, serial);
                before
                    .filter(|before| *before != serial)
                    .into_iter()
                    .for_each(|before| self.release(&[before]));
            }
        }
    }

    /// Forgets a change that is safe elsewhere, and what it has replaced.
    pub(crate) fn replace(&mut self, serial: u64) {
        self.count(serial);
        self.release(&[serial]);
    }

    pub(crate) fn block_stamp(&self, id: BlockId) -> Option<i64> {
        self.blocks.get(&id).and_then(|serial| Some(self.entries.get(serial)?.micros))
    }

    /// Writes changes, all or none. Gives their serial numbers.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`] when the spool is full, [`ErrorKind::Io`] when the disk is.
    pub(crate) fn append(&mut self, ops: &[Arc<Op>]) -> Result<Vec<u64>> {
        let (mut records, mut lens) = (Vec::with_capacity(ops.len()), Vec::with_capacity(ops.len()));
        for op in ops {
            let record = Record::of(op);
            lens.push((record.head.len() + record.tail.len()) as u64);
            records.push(record);
        }
        let total: u64 = lens.iter().sum();
        // Without what an opening writes nothing could be opened, and so nothing be drained.
        let of_opening = |op: &Arc<Op>| matches!(op.change, Change::Writer(_) | Change::Namespace(_));
        if self.bytes + total > self.limit && !ops.iter().all(of_opening) {
            return Err(Error::new(
                ErrorKind::Cold,
                format!(
                    "the overflow directory {} holds {} bytes, nearly all of the {} that it may; bring the cluster back, \
                     or allow more (overflow_bytes)",
                    self.dir.display(),
                    self.bytes,
                    self.limit
                ),
            ));
        }
        let (number, segment) = self.open_segment()?;
        let mut offset = segment.len;
        let parts: Vec<&[u8]> =
            records.iter().flat_map(|record| [record.head.as_slice(), record.tail]).collect();
        if let Err(source) = files::write(&mut segment.file, &segment.path, offset, &parts) {
            segment.cut(offset);
            let text = match source.kind() {
                IoKind::StorageFull => "the disk of the overflow directory is full; free space there",
                _ => "cannot write to the overflow directory; check its disk",
            };
            return Err(Error::io(format!("{text} ({})", self.dir.display()), source));
        }
        segment.len += total;
        let mut serials = Vec::with_capacity(ops.len());
        for (op, len) in ops.iter().zip(lens) {
            serials.push(self.note(op, number, offset, len, State::Fresh));
            offset += len;
        }
        Ok(serials)
    }

    fn open_segment(&mut self) -> Result<(u64, &mut Segment)> {
        if self.lock.is_none() {
            return Err(Error::closed());
        }
        let last = self.segments.last_key_value().map(|(number, segment)| (*number, segment.len));
        let number = match last {
            Some((number, len)) if len < FILE_BYTES => number,
            last => {
                let number = last.map_or(0, |(number, _)| number + 1);
                let path = self.dir.join(format!("{number:016}.spool"));
                let file = files::create(&path).map_err(|source| {
                    Error::io(format!("cannot make {} in the overflow directory", path.display()), source)
                })?;
                self.segments.insert(number, Segment { file, path, len: 0, entries: 0 });
                number
            }
        };
        match self.segments.get_mut(&number) {
            Some(segment) => Ok((number, segment)),
            None => Err(Error::closed()),
        }
    }

    fn remove_file(&mut self, number: u64) {
        if let Some(segment) = self.segments.remove(&number) {
            drop(segment.file);
            // A file that stays is read once more at the next opening, which changes nothing.
            let _ = files::remove(&segment.path);
        }
    }

    /// Forgets changes. A file of which nothing is needed any more goes.
    pub(crate) fn release(&mut self, serials: &[u64]) {
        for serial in serials {
            let Some(entry) = self.entries.remove(serial) else { continue };
            self.bytes -= entry.len;
            if let Some(id) = entry.block
                && self.blocks.get(&id) == Some(serial)
            {
                self.blocks.remove(&id);
            }
            if let Some(segment) = self.segments.get_mut(&entry.file) {
                segment.entries -= 1;
                if segment.entries == 0 {
                    self.remove_file(entry.file);
                }
            }
        }
    }

    /// Forgets changes of which nobody was told that they are safe, and has a later process not find them either, unless others
    /// stand behind them already: they would take the place of what was told.
    pub(crate) fn take_back(&mut self, serials: &[u64]) {
        let mut cuts: BTreeMap<u64, u64> = BTreeMap::new();
        for entry in serials.iter().filter_map(|serial| self.entries.get(serial)) {
            let cut = cuts.entry(entry.file).or_insert(entry.offset);
            *cut = entry.offset.min(*cut);
        }
        self.release(serials);
        for (number, at) in cuts {
            let stays = self.entries.values().any(|entry| entry.file == number && entry.offset >= at);
            if let Some(segment) = self.segments.get_mut(&number).filter(|_| !stays) {
                segment.cut(at);
            }
        }
    }

    pub(crate) fn set_state(&mut self, serials: &[u64], state: State) {
        for serial in serials {
            if let Some(entry) = self.entries.get_mut(serial) {
                entry.state = state;
            }
            if state != State::Fresh {
                self.count(*serial);
            }
        }
    }

    /// The files that hold these changes, to be synced without the spool's lock.
    ///
    /// # Errors
    /// When there are no handles left.
    pub(crate) fn files_of(&self, serials: &[u64]) -> Result<ToSync> {
        let mut numbers: Vec<u64> =
            serials.iter().filter_map(|serial| Some(self.entries.get(serial)?.file)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let segments = numbers.iter().filter_map(|number| self.segments.get(number));
        let files = segments
            .map(|segment| Ok((segment.file.try_clone()?, segment.path.clone())))
            .collect::<std::io::Result<_>>();
        let files = files.map_err(|source| {
            Error::io(format!("cannot sync the overflow directory {}", self.dir.display()), source)
        })?;
        Ok(ToSync { files, dir: self.dir.clone() })
    }

    /// Forgets what was confirmed before a time.
    pub(crate) fn release_confirmed(&mut self, limit: Instant) {
        let over = |entry: &Entry| matches!(entry.state, State::Confirmed(at) if at <= limit);
        let serials: Vec<u64> =
            self.entries.iter().filter(|(_, entry)| over(entry)).map(|(serial, _)| *serial).collect();
        self.release(&serials);
    }

    /// Has everything sent again that was confirmed: what it was.
    pub(crate) fn unconfirm(&mut self) -> Vec<u64> {
        let mut again = Vec::new();
        for (serial, entry) in &mut self.entries {
            if matches!(entry.state, State::Confirmed(_)) {
                entry.state = State::Waiting;
                again.push(*serial);
            }
        }
        again
    }

    /// Takes the oldest changes that wait, of about so many bytes but at least one; they are fresh then. A record
    /// that has become unreadable goes to the dead letters.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn oldest_waiting(&mut self, bytes: u64, dead: &DeadLetters) -> Result<Vec<(u64, Arc<Op>)>> {
        let mut sum = 0;
        let mut serials = Vec::new();
        for (serial, entry) in self.entries.iter().filter(|(_, entry)| entry.state == State::Waiting) {
            if sum > 0 && sum + entry.len > bytes {
                break;
            }
            sum += entry.len;
            serials.push(*serial);
        }
        let mut found = Vec::with_capacity(serials.len());
        for serial in serials {
            match self.read(serial) {
                Ok(op) => found.push((serial, Arc::new(op))),
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    dead.put_raw(&self.raw(serial)?, &error.to_string())?;
                    self.release(&[serial]);
                }
                Err(error) => return Err(error),
            }
        }
        // Only now: after an error nobody sends those before it, and they still wait.
        found.iter().for_each(|(serial, _)| self.set_state(&[*serial], State::Fresh));
        Ok(found)
    }

    fn read(&mut self, serial: u64) -> Result<Op> {
        let bytes = self.raw(serial)?;
        let op = bytes.split_at_checked(HEADER).and_then(|(header, body)| record::decode(header, body));
        op.ok_or_else(|| {
            Error::corrupt(format!(
                "a record of the overflow directory {} fails its checksum",
                self.dir.display()
            ))
        })
    }

    fn raw(&mut self, serial: u64) -> Result<Vec<u8>> {
        let gone = || Error::corrupt(format!("change {serial} is not in the overflow directory any more"));
        let entry = self.entries.get(&serial).ok_or_else(gone)?;
        let segment = self.segments.get_mut(&entry.file).ok_or_else(gone)?;
        let mut bytes = vec![0; entry.len as usize];
        let outcome = files::read(&mut segment.file, &segment.path, entry.offset, &mut bytes);
        outcome.map_err(|source| Error::io(format!("cannot read {}", segment.path.display()), source))?;
        Ok(bytes)
    }

    /// A block that is here.
    pub(crate) fn block(&mut self, id: BlockId) -> Result<Option<ColdBlock>> {
        let Some(serial) = self.blocks.get(&id).copied() else { return Ok(None) };
        match self.read(serial)?.change {
            Change::Block(block) => Ok(Some(block)),
            _ => Ok(None),
        }
    }

    /// Ids and stamps of the blocks that are here.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (BlockId, i64)> {
        self.blocks.iter().filter_map(|(id, serial)| Some((*id, self.entries.get(serial)?.micros)))
    }

    /// Everything that is here and not a block, oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn others(&mut self) -> Result<Vec<Op>> {
        let serials: Vec<u64> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.block.is_none())
            .map(|(serial, _)| *serial)
            .collect();
        serials.into_iter().map(|serial| self.read(serial)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory that the lists of what is here take, about: each entry has its place in a tree, and most of them
    /// one in the table of blocks.
    pub(crate) fn memory(&self) -> u64 {
        let tree = self.entries.len() * (size_of::<Entry>() + 8) * 3 / 2;
        let table = self.blocks.capacity() * (size_of::<(BlockId, u64)>() + 1);
        (tree + table + self.segments.len() * 256) as u64
    }

    /// Number and bytes of what waits, and of what is confirmed.
    pub(crate) fn sums(&self) -> ((u64, u64), (u64, u64)) {
        let (mut waiting, mut confirmed) = ((0, 0), (0, 0));
        for entry in self.entries.values() {
            let sum = if matches!(entry.state, State::Confirmed(_)) { &mut confirmed } else { &mut waiting };
            sum.0 += 1;
            sum.1 += entry.len;
        }
        (waiting, confirmed)
    }

    /// Syncs everything and lets the directory go.
    ///
    /// # Errors
    /// When it cannot be synced; it is let go all the same.
    pub(crate) fn close(&mut self) -> Result<()> {
        let outcome = self.segments.values().try_for_each(|segment| segment.file.sync_data());
        self.lock = None;
        outcome.map_err(|source| Error::io(format!("cannot sync {}", self.dir.display()), source))
    }
}
