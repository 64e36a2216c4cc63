//! Dead letters: what nobody would take, each in a file with the reason, until somebody decides.
//!
//! A file is a line of text, which is the reason, and the bytes of what it is about. It is synced before it counts as
//! kept. What the bytes are is the affair of whoever keeps them here: blocks that a cluster refuses for good, events
//! that a store would not take.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::config::ByteSize;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventHeader;
use crate::tiers::block::BlockId;
use crate::tiers::files;

/// The longest file that is read.
const LETTER_MAX: u64 = 192 << 20;
/// The longest reason that is kept.
const REASON_MAX: usize = 2000;

/// Something that nobody would take.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// What to call it when it is replayed or discarded: the name of its file.
    pub name: String,
    /// Which block it is, for blocks of a cold tier.
    pub block: Option<BlockId>,
    /// What the event says of itself, for single events. A letter that is neither a block nor an event holds bytes that
    /// are damaged, and cannot be replayed.
    pub event: Option<EventHeader>,
    /// Why it is here.
    pub reason: String,
    /// The length of its file.
    pub bytes: u64,
}

/// What the bytes of a letter are.
#[derive(Clone, Copy, Default)]
pub(crate) struct About {
    pub(crate) block: Option<BlockId>,
    pub(crate) event: Option<EventHeader>,
}

/// A directory of letters.
pub(crate) struct Letters {
    dir: PathBuf,
    kept: Mutex<Kept>,
    next: AtomicU64,
    /// The most that is kept here: bytes of files, and files.
    limit: (u64, usize),
}

#[derive(Default)]
struct Kept {
    letters: BTreeMap<String, DeadLetter>,
    bytes: u64,
    /// Letters that are being written, and their bytes.
    coming: (usize, u64),
}

impl Kept {
    fn keep(&mut self, letter: DeadLetter) {
        self.bytes += letter.bytes;
        self.letters.insert(letter.name.clone(), letter);
    }
}

impl Letters {
    /// Opens a directory, or makes it. `about` says what the bytes of a letter are.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn open(
        dir: &Path,
        limit: (u64, usize),
        about: impl Fn(&str, &[u8]) -> About,
    ) -> Result<Self> {
        let failed =
            |source| Error::io(format!("cannot use the dead-letter directory {}", dir.display()), source);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let letters = Self { dir: dir.to_path_buf(), kept: Mutex::default(), next: AtomicU64::new(0), limit };
        for file in std::fs::read_dir(dir).map_err(failed)? {
            let name = file.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".letter") {
                let (reason, content, bytes) = letters.load(&name)?;
                let About { block, event } = about(&name, &content);
                letters.kept.lock().keep(DeadLetter { name, block, event, reason, bytes });
            }
        }
        Ok(letters)
    }

    /// Reason, content and length of a letter's file.
    fn load(&self, name: &str) -> Result<(String, Vec<u8>, u64)> {
        let path = self.dir.join(name);
        let failed = |source| Error::io(format!("cannot read the dead letter {}", path.display()), source);
        let len = std::fs::metadata(&path).map_err(failed)?.len();
        if len > LETTER_MAX {
            return Ok((format!("a file of {len} bytes, which no esker writes"), Vec::new(), len));
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let reason = String::from_utf8_lossy(&bytes[..end]).into_owned();
        Ok((reason, bytes.get(end + 1..).unwrap_or_default().to_vec(), len))
    }

    /// Keeps a letter, safely on disk. Its name, which is made of `stem`.
    ///
    /// # Errors
    /// [`ErrorKind::DeadLettersFull`], [`ErrorKind::Io`]; nothing is kept then.
    pub(crate) fn put(&self, stem: &str, reason: &str, content: &[u8], about: About) -> Result<String> {
        let mut reason = reason.replace(['\n', '\r'], " ");
        if let Some((end, _)) = reason.char_indices().find(|(at, _)| *at >= REASON_MAX) {
            reason.truncate(end);
        }
        let bytes = (reason.len() + 1 + content.len()) as u64;
        self.claim(bytes)?;
        let name = self.fresh_name(stem);
        let outcome = self.write(&name, &reason, content);
        let About { block, event } = about;
        // Under one hold of the lock it stops to be on its way and is here, so that nobody takes its room.
        let mut kept = self.kept.lock();
        kept.coming = (kept.coming.0 - 1, kept.coming.1 - bytes);
        outcome?;
        kept.keep(DeadLetter { name: name.clone(), block, event, reason, bytes });
        Ok(name)
    }

    /// Takes room for a letter.
    fn claim(&self, bytes: u64) -> Result<()> {
        let mut kept = self.kept.lock();
        let (letters, taken) = (kept.letters.len() + kept.coming.0, kept.bytes + kept.coming.1);
        if letters >= self.limit.1 || taken.saturating_add(bytes) > self.limit.0 {
            let text = format!(
                "the dead-letter directory {} has {letters} letters of {} and no room for one of {}: it takes {} letters \
                 of {} together; replay or discard some",
                self.dir.display(),
                ByteSize::new(taken),
                ByteSize::new(bytes),
                self.limit.1,
                ByteSize::new(self.limit.0)
            );
            return Err(Error::new(ErrorKind::DeadLettersFull, text));
        }
        kept.coming = (kept.coming.0 + 1, kept.coming.1 + bytes);
        Ok(())
    }

    fn write(&self, name: &str, reason: &str, content: &[u8]) -> Result<()> {
        // Not a letter before it is complete.
        let (path, draft) = (self.dir.join(name), self.dir.join(format!("{name}.draft")));
        files::put(&path, &draft, &[reason.as_bytes(), b"\n", content]).map_err(|source| {
            // Nor is it one that nobody knows of, when its directory could not be synced.
            let _ = files::remove(&draft);
            let _ = files::remove(&path);
            Error::io(format!("cannot write the dead letter {}; check its disk", path.display()), source)
        })
    }

    fn fresh_name(&self, stem: &str) -> String {
        loop {
            let name = format!("{stem}-{}.letter", self.next.fetch_add(1, Ordering::Relaxed));
            if !self.dir.join(&name).exists() {
                return name;
            }
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.kept.lock().letters.contains_key(name)
    }

    pub(crate) fn len(&self) -> u64 {
        self.kept.lock().letters.len() as u64
    }

    pub(crate) fn list(&self) -> Vec<DeadLetter> {
        self.kept.lock().letters.values().cloned().collect()
    }

    /// The bytes of a letter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is none of that name, [`ErrorKind::Io`].
    pub(crate) fn read(&self, name: &str) -> Result<Vec<u8>> {
        if self.has(name) { self.load(name).map(|(_, content, _)| content) } else { Err(unknown(name)) }
    }

    /// Removes a letter for good.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is none of that name; [`ErrorKind::Io`], and the letter stays.
    pub(crate) fn discard(&self, name: &str) -> Result<()> {
        let mut kept = self.kept.lock();
        let Some(letter) = kept.letters.get(name) else { return Err(unknown(name)) };
        let bytes = letter.bytes;
        match files::remove(&self.dir.join(name)) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io(format!("cannot remove the dead letter {name}"), source));
            }
            _ => {}
        }
        kept.letters.remove(name);
        kept.bytes -= bytes;
        // Without it, it may come back after a loss of power.
        let _ = files::sync_dir(&self.dir);
        Ok(())
    }
}

fn unknown(name: &str) -> Error {
    let text = format!("there is no dead letter {name:?}; `list` tells which there are");
    Error::new(ErrorKind::InvalidInput, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_at_once_keep_no_more_than_there_is_room_for() {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let path = dir.path().join(format!("{round}"));
            let letters = Letters::open(&path, (u64::MAX, 5), |_, _| About::default()).unwrap();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| while letters.put("bytes", "full", b"x", About::default()).is_ok() {});
                }
            });
            assert_eq!(letters.len(), 5);
            let kept = letters.kept.lock();
            assert_eq!((kept.coming, kept.bytes), ((0, 0), 5 * 6));
        }
    }

    #[test]
    fn letters_are_listed_read_and_discarded_by_name_also_by_the_next_process() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Letters::open(dir.path(), (u64::MAX, 5), |_, _| About::default()).unwrap();
        let letters = open();
        letters.put("first", "no room", b"one", About::default()).unwrap();
        letters.put("second", "too large", b"two", About::default()).unwrap();
        for letters in [letters, open()] {
            let list = letters.list();
            let mut found: Vec<_> = list.iter().map(|letter| letter.reason.as_str()).collect();
            found.sort_unstable();
            assert_eq!((found, letters.len()), (vec!["no room", "too large"], 2));
            let first = list.iter().find(|letter| letter.reason == "no room").unwrap();
            assert_eq!(letters.read(&first.name).unwrap(), b"one");
        }
        let letters = open();
        let name = letters.list().remove(0).name;
        letters.discard(&name).unwrap();
        assert!(letters.list().iter().all(|letter| letter.name != name) && letters.len() == 1);
        assert_eq!(letters.discard(&name).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(open().len(), 1);
        // A file that is not one of ours is listed, but nobody reads all of it.
        let alien = std::fs::File::create(dir.path().join("alien.letter")).unwrap();
        alien.set_len(LETTER_MAX + 1).unwrap();
        let list = open().list();
        let alien = list.iter().find(|letter| letter.name == "alien.letter").unwrap();
        assert_eq!(alien.bytes, LETTER_MAX + 1);
        let read = alien.reason.len();
        assert!(
            alien.reason.ends_with("which no esker writes"),
            "{read} bytes of it were taken for the reason"
        );
    }
}
