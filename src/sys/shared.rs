//! The files of a store whose pages outlive the process: a directory that one store has at a time, a small record that
//! is written in two copies by turns, and a log that only grows.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::sys::memory::lies_in_memory;
use crate::sys::sum::Sum;

/// The most that a copy of the record takes.
const COPY: usize = 16 << 10;
/// What the first line of a copy begins with, before the version of its format.
const MAGIC: &str = "esker-shared";

/// A directory that this store has for itself. Letting it go lets others in.
pub(crate) struct SharedDir {
    path: PathBuf,
    /// Locked for as long as it is open: the system lets the lock go when the process ends, however it ends.
    lock: File,
}

impl SharedDir {
    /// Takes the directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] when another store has it; [`ErrorKind::Denied`] when it belongs to somebody else;
    /// [`ErrorKind::Io`].
    pub(crate) fn take(path: &Path) -> Result<Self> {
        make_private(path)?;
        let lock = open(&path.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::already_open(path));
            }
            Err(TryLockError::Error(error)) => {
                return Err(Error::io(format!("cannot lock {}", path.display()), error));
            }
        }
        check_owner(path, &lock)?;
        Ok(Self { path: path.to_path_buf(), lock })
    }

    /// Whether a store has the directory.
    pub(crate) fn is_taken(path: &Path) -> bool {
        let lock = File::open(path.join("lock"));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the directory, which is made if it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn file(&self, name: &str) -> Result<File> {
        open(&self.path.join(name))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.path.join(name).exists()
    }

    /// Bytes of a file; zero where there is none.
    pub(crate) fn len(&self, name: &str) -> u64 {
        std::fs::metadata(self.path.join(name)).map_or(0, |found| found.len())
    }

    /// Whether the files are in memory, and so end with the machine.
    pub(crate) fn lies_in_memory(&self) -> bool {
        lies_in_memory(&self.lock)
    }

    /// Writes a file of words, which [`Self::words`] reads where it is whole and bears the same number.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn write_words(&self, name: &str, number: u64, words: &[u64]) -> Result<()> {
        let head = [WORDS_MAGIC, number, words.len() as u64, words_sum(number, words)];
        let bytes: Vec<u8> = head.iter().chain(words).flat_map(|word| word.to_le_bytes()).collect();
        let mut file = self.file(name)?;
        let done = file.set_len(0).and_then(|()| file.write_all(&bytes));
        done.map_err(|error| Error::io(format!("cannot write {}", self.path.join(name).display()), error))
    }

    /// What [`Self::write_words`] has written. `None`: not that.
    pub(crate) fn words(&self, name: &str, number: u64) -> Option<Vec<u64>> {
        let bytes = std::fs::read(self.path.join(name)).ok()?;
        let (words, rest) = bytes.as_chunks::<8>();
        let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (head, words) = words.split_first_chunk::<4>()?;
        let whole =
            rest.is_empty() && *head == [WORDS_MAGIC, number, words.len() as u64, words_sum(number, words)];
        whole.then(|| words.to_vec())
    }

    /// Deletes a file, if it is there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn delete(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io(format!("cannot delete {}", path.display()), error))
            }
            _ => Ok(()),
        }
    }
}

/// What a file of words begins with. Another version of what the words mean has another one.
const WORDS_MAGIC: u64 = u64::from_le_bytes(*b"esker i1");

/// Makes the number, the count and the sum of a file of words right.
#[cfg(fuzzing)]
pub(crate) fn mend_words(bytes: &mut [u8], number: u64) {
    let (words, _) = bytes.as_chunks_mut::<8>();
    let Some((head, words)) = words.split_first_chunk_mut::<4>() else { return };
    let words: Vec<u64> = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
    *head = [WORDS_MAGIC, number, words.len() as u64, words_sum(number, &words)].map(u64::to_le_bytes);
}

fn words_sum(number: u64, words: &[u64]) -> u64 {
    let mut sum = Sum::default();
    sum.add(&[number]);
    sum.add(words);
    u64::from(sum.finish())
}

fn open(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    file.map_err(|error| Error::io(format!("cannot open {}", path.display()), error))
}

/// Has the disk keep which files are in a directory.
pub(crate) fn sync_dir(path: &Path) -> std::io::Result<()> {
    // Elsewhere directories cannot be opened.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// Makes a directory that only its owner can enter: what is in it are events.
fn make_private(path: &Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(|error| Error::io(format!("cannot make {}", path.display()), error))
}

/// Shared memory is a directory in which anybody can make directories, also one of our name.
fn check_owner(path: &Path, ours: &File) -> Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let failed = |error| Error::io(format!("cannot look at {}", path.display()), error);
        let there = std::fs::symlink_metadata(path).map_err(failed)?;
        let open_to_others = there.mode() & 0o022 != 0;
        if there.uid() != ours.metadata().map_err(failed)?.uid() || open_to_others {
            return Err(Error::new(
                ErrorKind::Denied,
                format!(
                    "{} belongs to somebody else, or others may write to it; events are not put there: delete it, or \
                     choose another directory",
                    path.display()
                ),
            ));
        }
    }
    #[cfg(not(unix))]
    let _ = (path, ours);
    Ok(())
}

/// A record in two copies, of which one is whole at any time.
///
/// ```text
/// copy   │ "esker-shared" version turn length crc-32 \n │ text … │ zeros, to 16 KiB │
/// ```
pub(crate) struct Record {
    file: File,
    turn: u64,
}

/// What was read of a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) version: u32,
    pub(crate) text: String,
    turn: u64,
}

impl Found {
    /// # Errors
    /// [`ErrorKind::Incompatible`] for a record of a later version than that.
    pub(crate) fn check_version(&self, newest: u32, what: &Path) -> Result<()> {
        if self.version <= newest {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Incompatible,
            format!(
                "{} was written by a newer version of esker (format {}, this one reads up to {newest}); open it with that \
                 version, and close it cleanly before going back",
                what.display(),
                self.version
            ),
        ))
    }
}

impl Record {
    /// A record that is not there yet.
    pub(crate) fn new(file: File) -> Self {
        Self { file, turn: 0 }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] when neither copy is whole; [`ErrorKind::Io`].
    pub(crate) fn read(mut file: File, path: &Path) -> Result<(Self, Found)> {
        let mut bytes = Vec::new();
        let failed = |error| Error::io(format!("cannot read {}", path.display()), error);
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        Read::take(&mut file, 2 * COPY as u64).read_to_end(&mut bytes).map_err(failed)?;
        let copies = [bytes.get(..COPY.min(bytes.len())), bytes.get(COPY..)];
        let whole = copies.into_iter().flatten().filter_map(parse).max_by_key(|found| found.turn);
        let found = whole.ok_or_else(|| {
            Error::corrupt(format!(
                "{} is damaged, in both of its copies: what the pages beside it hold cannot be told; move the directory \
                 away to begin anew with what the cold tier has",
                path.display()
            ))
        })?;
        Ok((Self { file, turn: found.turn }, found))
    }

    /// How often it was written. Who finds another number later finds that it was written since.
    pub(crate) fn turn(&self) -> u64 {
        self.turn
    }

    /// Waits until what was written is on the disk.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn sync(&self) -> std::io::Result<()> {
        self.file.sync_all()
    }

    /// Writes the record anew, over the older copy.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn write(&mut self, version: u32, text: &str) -> Result<()> {
        let turn = self.turn + 1;
        let crc = record_crc(version, turn, text.as_bytes());
        let mut copy = format!("{MAGIC} {version} {turn} {} {crc:08x}\n{text}", text.len()).into_bytes();
        if copy.len() > COPY {
            return Err(Error::new(ErrorKind::InvalidInput, "the record of the shared files is too long"));
        }
        copy.resize(COPY, 0);
        let at = SeekFrom::Start(turn % 2 * COPY as u64);
        let done = self.file.seek(at).and_then(|_| self.file.write_all(&copy));
        done.map_err(|error| Error::io("cannot write the record of the shared files", error))?;
        // One that failed is tried again over the same copy: the other one is whole.
        self.turn = turn;
        Ok(())
    }
}

fn parse(copy: &[u8]) -> Option<Found> {
    let end = copy.iter().take(128).position(|byte| *byte == b'\n')?;
    let mut words = std::str::from_utf8(&copy[..end]).ok()?.split(' ');
    if words.next()? != MAGIC {
        return None;
    }
    let (version, turn): (u32, u64) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let (len, crc): (usize, u32) =
        (words.next()?.parse().ok()?, u32::from_str_radix(words.next()?, 16).ok()?);
    let text = copy.get(end + 1..(end + 1).checked_add(len)?)?;
    (record_crc(version, turn, text) == crc)
        .then(|| Some(Found { version, turn, text: String::from_utf8(text.to_vec()).ok()? }))
        .flatten()
}

/// Reads the bytes as a copy of a record: its version and text.
#[cfg(fuzzing)]
pub(crate) fn parse_copy(bytes: &[u8]) -> Option<(u32, String)> {
    parse(bytes).map(|found| (found.version, found.text))
}

/// A copy of a record that says this.
#[cfg(fuzzing)]
pub(crate) fn copy_of(version: u32, turn: u64, text: &[u8]) -> Vec<u8> {
    let crc = record_crc(version, turn, text);
    [format!("{MAGIC} {version} {turn} {} {crc:08x}\n", text.len()).as_bytes(), text].concat()
}

/// Over what a copy says; this much must stay the same in all versions.
fn record_crc(version: u32, turn: u64, text: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&version.to_le_bytes());
    sum.update(&turn.to_le_bytes());
    sum.update(text);
    sum.finalize()
}

/// What an entry of a log begins with.
const ENTRY_MAGIC: [u8; 2] = [0xe5, 0x4e];
/// Magic number, length, checksum.
const ENTRY_HEADER: usize = 8;

/// A log of small entries, each whole or not there.
///
/// ```text
/// entry   │ e5 4e │ length, u16 │ CRC-32 of what follows │ bytes … │
/// ```
pub(crate) struct Log {
    file: File,
    end: u64,
}

/// What was found in a log.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct LogEntries {
    pub(crate) entries: Vec<Vec<u8>>,
    /// Bytes that are no entry: damaged, or the beginning of one that was not written to its end.
    pub(crate) damaged: u64,
}

impl Log {
    /// Reads the log and goes on behind its last whole entry.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn open(mut file: File) -> Result<(Self, LogEntries)> {
        let failed = |error| Error::io("cannot read the log of names", error);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (found, end) = entries(&bytes);
        file.set_len(end as u64).map_err(failed)?;
        Ok((Self { file, end: end as u64 }, found))
    }

    /// Adds an entry. When it returns, the entry survives the end of the process.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], and nothing is added; an entry of 64 KiB or more.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let len = u16::try_from(bytes.len())
            .map_err(|_| Error::new(ErrorKind::InvalidInput, "an entry of a log has less than 64 KiB"))?;
        let mut entry = Vec::with_capacity(ENTRY_HEADER + bytes.len());
        entry.extend_from_slice(&ENTRY_MAGIC);
        entry.extend_from_slice(&len.to_le_bytes());
        entry.extend_from_slice(&crc32fast::hash(bytes).to_le_bytes());
        entry.extend_from_slice(bytes);
        let done = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(&entry));
        if let Err(error) = done {
            // What was written of it is written over by the next entry, or cut off by the next opening.
            return Err(Error::io("cannot write to the log of names", error));
        }
        self.end += entry.len() as u64;
        Ok(())
    }
}

/// The whole entries of a log, and where the last one ends.
pub(crate) fn entries(bytes: &[u8]) -> (LogEntries, usize) {
    let (mut found, mut at, mut end) = (LogEntries::default(), 0, 0);
    while at < bytes.len() {
        match entry(&bytes[at..]) {
            Some(entry) => {
                found.damaged += (at - end) as u64;
                at += ENTRY_HEADER + entry.len();
                end = at;
                found.entries.push(entry.to_vec());
            }
            None => at += 1,
        }
    }
    found.damaged += (bytes.len() - end) as u64;
    (found, end)
}

fn entry(bytes: &[u8]) -> Option<&[u8]> {
    let header: &[u8; ENTRY_HEADER] = bytes.first_chunk()?;
    if header[..2] != ENTRY_MAGIC {
        return None;
    }
    let len = usize::from(u16::from_le_bytes([header[2], header[3]]));
    let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
    bytes.get(ENTRY_HEADER..ENTRY_HEADER + len).filter(|body| crc32fast::hash(body) == crc)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> (tempfile::TempDir, SharedDir) {
        let dir = tempfile::tempdir().unwrap();
        let shared = SharedDir::take(&dir.path().join("a/b")).unwrap();
        (dir, shared)
    }

    #[test]
    fn a_directory_has_one_store_at_a_time() {
        let (_dir, shared) = dir();
        let path = shared.path().to_path_buf();
        assert_eq!(SharedDir::take(&path).err().unwrap().kind(), ErrorKind::AlreadyOpen);
        drop(shared);
        assert!(SharedDir::take(&path).is_ok());
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(SharedDir::take(dir.path()).err().unwrap().kind(), ErrorKind::Denied);
    }

    #[test]
    fn a_record_survives_the_loss_of_either_copy() {
        let (_dir, shared) = dir();
        let path = shared.path().join("record");
        let mut record = Record::new(shared.file("record").unwrap());
        for text in ["one", "two\nlines", "three"] {
            record.write(7, text).unwrap();
        }
        let whole = std::fs::read(&path).unwrap();
        for bit in (0..whole.len() * 8).step_by(7) {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let (_, found) = Record::read(shared.file("record").unwrap(), &path).unwrap();
            assert!(["three", "two\nlines"].contains(&&*found.text), "bit {bit}");
        }
        for len in [0, 1, 40, COPY - 1] {
            std::fs::write(&path, &whole[..len]).unwrap();
            let read = Record::read(shared.file("record").unwrap(), &path);
            assert!(read.is_ok_and(|(_, found)| found.text == "two\nlines") || len < 60, "{len} bytes");
        }
        std::fs::write(&path, vec![0; 2 * COPY]).unwrap();
        let error = Record::read(shared.file("record").unwrap(), &path).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn words_are_whole_and_of_their_number_or_not_there() {
        let (_dir, shared) = dir();
        assert_eq!(shared.words("words", 5), None);
        for words in [&[1, u64::MAX, 3][..], &[]] {
            shared.write_words("words", 5, words).unwrap();
            assert_eq!(shared.words("words", 5).as_deref(), Some(words));
            assert_eq!(shared.words("words", 6), None);
        }
        shared.write_words("words", 5, &[7, 8]).unwrap();
        let path = shared.path().join("words");
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(shared.words("words", 5), None, "bit {bit}");
        }
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert_eq!(shared.words("words", 5), None, "{len} bytes");
        }
    }

    #[test]
    fn a_log_keeps_its_whole_entries() {
        let (_dir, shared) = dir();
        let path = shared.path().join("log");
        let (mut log, found) = Log::open(shared.file("log").unwrap()).unwrap();
        assert_eq!(found, LogEntries::default());
        for name in ["a", "", "ccc"] {
            log.append(name.as_bytes()).unwrap();
        }
        drop(log);
        let whole = std::fs::read(&path).unwrap();
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            let (mut log, found) = Log::open(shared.file("log").unwrap()).unwrap();
            let wanted = [9, 17, 28].iter().filter(|end| **end <= len).count();
            assert_eq!(found.entries.len(), wanted, "{len} bytes");
            log.append(b"next").unwrap();
            drop(log);
            let (_, found) = Log::open(shared.file("log").unwrap()).unwrap();
            assert_eq!((found.entries.len(), found.damaged), (wanted + 1, 0));
        }
        for bit in 0..whole.len() * 8 {
            let mut bad = whole.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bad).unwrap();
            let (_, found) = Log::open(shared.file("log").unwrap()).unwrap();
            assert_eq!(found.entries.len(), 2, "bit {bit}: the other two are there");
            assert!(found.damaged > 0);
        }
    }
}
