//! Which pages belong to a data directory: a note in it of the directory that they are in, so that a store which is
//! opened with another one does not begin empty while events wait there.
//!
//! Each opening gives its pages a number of their own, which the record beside them has as well, so that copies of an earlier
//! time are known. The note says that the pages are *used* from the moment that they may hold events which nothing else holds
//! until the cold tier has them all. What it says of the last run stays until the next one is open: that one's number is noted
//! as the *next* one before the record has it. A log on the disk ([`Durability::Disk`]) knows which
//! pages are its own, so then none are said to be used.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use crate::config::{Config, Durability};
use crate::error::{Error, ErrorKind, Result};
use crate::store::builder::fresh_seed;
use crate::store::shared::{Earlier, Waiting, what_waits};
use crate::sys::shared::{Record, sync_dir};

/// No name that somebody would give to a `shared_dir` within the data directory.
const NOTE: &str = "pages.note";
const VERSION: u32 = 1;

/// The note of a data directory, or of none.
pub(crate) struct PageSet {
    /// In the data directory, if there is one.
    path: Option<PathBuf>,
    record: Option<Record>,
    noted: Noted,
    /// Where the pages of this run are.
    here: Option<PathBuf>,
    /// Of this run.
    number: Option<u64>,
    /// The number that the pages have which were found, and are the data directory's.
    found: Option<u64>,
    /// Whether what was found where this run's pages are was left by a run that the note does not speak of, and is in the cold
    /// tier.
    is_left_over: bool,
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Noted {
    number: u64,
    used: bool,
    /// Of an opening that may not have come to its end.
    next: Option<u64>,
    /// `None` where the name cannot be written down.
    dir: Option<PathBuf>,
}

impl PageSet {
    /// Reads the note, if there is one. The directory of the pages is this store's by now: nobody else changes the note.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Incompatible`] for one of a newer version, [`ErrorKind::Io`].
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let path = config.data_dir.as_ref().map(|data| data.join(NOTE));
        let (record, noted, here, number, found) = (None, Noted::default(), None, None, None);
        let mut set = Self { path, record, noted, here, number, found, is_left_over: false };
        let Some(path) = &set.path else { return Ok(set) };
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(set),
            Err(error) => return Err(Error::io(format!("cannot open {}", path.display()), error)),
        };
        let (record, found) = match Record::read(file, path) {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Err(damaged(path)),
            other => other?,
        };
        found.check_version(VERSION, path)?;
        set.noted = Noted::parse(&found.text).ok_or_else(|| damaged(path))?;
        set.record = Some(record);
        Ok(set)
    }

    /// Finds out whether the pages that were `found` where this run looks for them are those of the data directory. Gives the
    /// directory of those that it should have found, and that are not there any more.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] when pages wait elsewhere, or when those that were found are not those of the data
    /// directory; [`ErrorKind::AlreadyOpen`] when a store has those elsewhere; [`ErrorKind::Io`] when it cannot be told.
    pub(crate) fn choose(&mut self, config: &Config, found: Option<&Earlier>) -> Result<Option<PathBuf>> {
        // The directory is there by now, if the store has one.
        self.here = config.shared_dir().map(|dir| dir.canonicalize().unwrap_or(dir));
        self.number = self.path.as_ref().map(|_| fresh_seed());
        if self.record.is_none() {
            // Without a note, what is there is believed.
            return Ok(None);
        }
        let set = found.and_then(|earlier| earlier.set);
        let is_noted = set.is_some_and(|set| self.noted.has(set));
        let waits = found.is_some_and(Earlier::holds_events);
        // Pages without a number are of a time before there were notes, or of a run without a data directory.
        let may_be_its_own = is_noted || found.is_some() && set.is_none() && !self.noted.used;
        if waits && !may_be_its_own {
            return Err(self.others());
        }
        self.is_left_over = !waits && !may_be_its_own;
        self.found = set.filter(|_| is_noted);
        if !self.noted.used || is_noted && (!waits || self.is_here()) {
            return Ok(None);
        }
        let Some(dir) = self.noted.dir.clone() else {
            return if waits { Ok(None) } else { Err(self.elsewhere()) };
        };
        if config.durability.keeps_pages() && self.is_here() {
            // This store has the directory, and they were not found.
            return Ok(Some(dir));
        }
        match what_waits(&dir, &|set| self.noted.has(set))? {
            // Of a copy and what it was made of nobody can tell which has more.
            Waiting::Events => Err(self.elsewhere()),
            Waiting::Nothing if !waits => Ok(Some(dir)),
            Waiting::Nothing | Waiting::Settled => Ok(None),
        }
    }

    fn is_here(&self) -> bool {
        self.noted.dir.is_some() && self.noted.dir == self.here
    }

    /// Whether the pages that were found are to be let go: the data directory went on without them, and nothing is only there.
    pub(crate) fn is_left_over(&self) -> bool {
        self.is_left_over
    }

    /// The number that the record beside the pages has from now on.
    pub(crate) fn number(&self) -> Option<u64> {
        self.number
    }

    /// Notes the number of this run before the record of its pages has it, should the process end in between. `settled`: the
    /// cold tier has everything of the last run's pages.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn begin(&mut self, settled: bool) -> Result<()> {
        if self.record.is_none() {
            return Ok(());
        }
        let used = self.noted.used && !settled;
        // Of an opening that came so far and no further the record has the next number already.
        let (number, dir) = match self.found {
            Some(found) => (found, self.here.clone()),
            None => (self.noted.number, self.noted.dir.clone()),
        };
        self.note(Noted { number, used, next: self.number, dir })
    }

    /// Notes that the store is open: from now on there may be events that only its pages hold.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn opened(&mut self, durability: Durability) -> Result<()> {
        let used = durability == Durability::Process;
        match self.number {
            Some(number) if used || self.record.is_some() => {
                self.note(Noted { number, used, next: None, dir: self.here.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Notes that the cold tier has everything.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn settled(&mut self) -> Result<()> {
        let noted = Noted { used: false, ..self.noted.clone() };
        if self.record.is_some() { self.note(noted) } else { Ok(()) }
    }

    fn note(&mut self, noted: Noted) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
        let (text, written) = (noted.text(), self.record.as_mut());
        match written {
            Some(record) => record.write(VERSION, &text).and_then(|()| record.sync().map_err(failed))?,
            None => self.record = Some(write_first(path, &text)?),
        }
        self.noted = noted;
        Ok(())
    }

    fn elsewhere(&self) -> Error {
        let text = match &self.noted.dir {
            Some(dir) => format!(
                "the pages of this data directory are in {dir}, and hold events that nothing else holds; open the store with \
                 Durability::Process and shared_dir {dir}, and close it cleanly with a cold tier before going elsewhere. If \
                 they may be lost (those of classes that are dropped never go to a cold tier), or this is a copy of the data \
                 directory that has them, delete {note}",
                dir = dir.display(),
                note = self.note_name()
            ),
            None => format!(
                "the pages of this data directory are in another shared_dir, and hold events that nothing else holds; give \
                 that, or delete {} if they may be lost",
                self.note_name()
            ),
        };
        Error::new(ErrorKind::Incompatible, text)
    }

    fn others(&self) -> Error {
        let here = self.here.as_ref().map_or_else(String::new, |here| here.display().to_string());
        let own = match &self.noted.dir {
            Some(dir) if !self.is_here() => {
                format!("; give {} as shared_dir if its own are there", dir.display())
            }
            _ => String::new(),
        };
        Error::new(
            ErrorKind::Incompatible,
            format!(
                "the pages in {here} belong to another data directory, or to this one at another time{own}; move {here} away if \
                 what only it holds may be lost, or delete {note} to go on with it, if nothing has been appended without it",
                note = self.note_name()
            ),
        )
    }

    fn note_name(&self) -> String {
        self.path.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }
}

impl Noted {
    /// Whether pages of that number may be those of the last run, or of an opening after it.
    fn has(&self, set: u64) -> bool {
        set == self.number || Some(set) == self.next
    }

    fn text(&self) -> String {
        let dir = self.dir.as_deref().map(hex).unwrap_or_default();
        let next = self.next.map(|next| format!("{next:016x}")).unwrap_or_default();
        format!("set {:016x}\nused {}\nnext {next}\ndir {dir}\n", self.number, self.used)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let number = |digits| u64::from_str_radix(digits, 16).ok();
        let set = number(field("set")?)?;
        let used = field("used")?.parse().ok()?;
        let (next, dir) = (field("next")?, field("dir")?);
        let next = if next.is_empty() { None } else { Some(number(next)?) };
        let dir = if dir.is_empty() { None } else { Some(from_hex(dir)?) };
        Some(Self { number: set, used, next, dir })
    }
}

/// Writes the first note, which is there as a whole or not at all.
fn write_first(path: &Path, text: &str) -> Result<Record> {
    let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
    let new = path.with_extension("new");
    if let Some(data) = path.parent() {
        std::fs::create_dir_all(data).map_err(failed)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&new);
    let mut record = Record::new(file.map_err(failed)?);
    record.write(VERSION, text)?;
    record.sync().and_then(|()| std::fs::rename(&new, path)).map_err(failed)?;
    path.parent().map_or(Ok(()), sync_dir).map_err(failed)?;
    Ok(record)
}

fn damaged(path: &Path) -> Error {
    Error::corrupt(format!(
        "{} is damaged, so it cannot be told which pages belong to this data directory; if those in its shared_dir do, or \
         there are none, delete that file",
        path.display()
    ))
}

/// A path in letters and digits: it may have line breaks, or be no text at all.
fn hex(path: &Path) -> String {
    #[cfg(unix)]
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str());
    #[cfg(not(unix))]
    let bytes = path.to_str().unwrap_or_default().as_bytes();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<PathBuf> {
    let digits = text.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).ok());
    let bytes: Vec<u8> = digits.map(|two| u8::from_str_radix(two?, 16).ok()).collect::<Option<_>>()?;
    #[cfg(unix)]
    return Some(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes).into());
    #[cfg(not(unix))]
    return String::from_utf8(bytes).ok().map(PathBuf::from);
}
