//! Which pages belong to a data directory: a note in it of the directory that they are in, so that a store which is
//! opened with another one does not begin empty while events wait there.
//!
//! Each set of pages has a number of its own, which the record beside the pages has as well. The note says that a set is *used* from
//! the moment that it may hold events which nothing else holds until the cold tier has them all. A log on the disk
//! ([`Durability::Disk`](crate::Durability::Disk)) knows which pages are its own, so then none is said to be used.

use std::path::{Path, PathBuf};

use crate::config::{Config, Durability};
use crate::error::{Error, ErrorKind, Result};
use crate::store::builder::fresh_seed;
use crate::store::shared::{Earlier, Waiting, what_waits};
use crate::sys::shared::Record;

const NOTE: &str = "pages";
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
}

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Noted {
    number: u64,
    used: bool,
    /// `None` where the name cannot be written down.
    dir: Option<PathBuf>,
}

impl PageSet {
    /// Reads the note, if there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Incompatible`] for one of a newer version, [`ErrorKind::Io`].
    pub(crate) fn open(config: &Config) -> Result<Self> {
        let path = config.data_dir.as_ref().map(|data| data.join(NOTE));
        let mut set = Self { path, record: None, noted: Noted::default(), here: None, number: None };
        let Some(path) = &set.path else { return Ok(set) };
        let file = match std::fs::OpenOptions::new().read(true).write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(set),
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

    /// Finds out which pages this run has: those that were `found` where it looks for them, or new ones. Gives the directory
    /// of those that it should have found, and that are not there any more.
    ///
    /// # Errors
    /// [`ErrorKind::Incompatible`] when pages wait elsewhere, or when those that were found are not those of the data
    /// directory; [`ErrorKind::Io`] when it cannot be told.
    pub(crate) fn choose(&mut self, config: &Config, found: Option<&Earlier>) -> Result<Option<PathBuf>> {
        // The directory is there by now, if the store has one.
        self.here = config.shared_dir().map(|dir| dir.canonicalize().unwrap_or(dir));
        let has_pages = config.durability.keeps_pages();
        let waits = found.filter(|earlier| earlier.holds_events());
        let set = found.and_then(|earlier| earlier.set);
        let (now, new) = (self.noted.number, fresh_seed());
        let is_noted = self.record.is_some() && set == Some(now);
        let gone = match self.noted.dir.clone().filter(|_| self.noted.used && !is_noted && waits.is_none()) {
            None if self.noted.used && !is_noted && waits.is_none() => return Err(self.elsewhere()),
            // This store has the directory, and they were not found.
            Some(dir) if has_pages && self.here.as_ref() == Some(&dir) => Some(dir),
            Some(dir) => match what_waits(&dir, now)? {
                Waiting::Events => return Err(self.elsewhere()),
                Waiting::Settled => None,
                Waiting::Nothing => Some(dir),
            },
            None => None,
        };
        self.number = match (&self.path, waits) {
            (None, _) => set,
            // Without a note, what is there is believed.
            _ if self.record.is_none() => set.or(Some(new)),
            (_, Some(_)) if is_noted => set,
            (_, Some(_)) => return Err(self.others()),
            // A store that has none leaves those alone that may be there.
            (_, None) => Some(if is_noted || (!has_pages && gone.is_none()) { now } else { new }),
        };
        Ok(gone)
    }

    /// The number that the record beside the pages has.
    pub(crate) fn number(&self) -> Option<u64> {
        self.number
    }

    /// Notes the pages that this run has before their record does, should the process end in between.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn begin(&mut self) -> Result<()> {
        match self.number {
            Some(number) if self.record.is_some() && number != self.noted.number => {
                self.note(Noted { number, used: false, dir: self.here.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Notes that the store is open: from now on there may be events that only its pages hold.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn opened(&mut self, durability: Durability) -> Result<()> {
        let used = durability == Durability::Process;
        if self.record.is_none() && !used {
            return Ok(());
        }
        let number = self.number.unwrap_or(self.noted.number);
        self.note(Noted { number, used, dir: self.here.clone() })
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
        if self.record.is_some() && noted == self.noted {
            return Ok(());
        }
        let failed = |error| Error::io(format!("cannot write {}", path.display()), error);
        let record = match &mut self.record {
            Some(record) => record,
            None => {
                let mut options = std::fs::OpenOptions::new();
                let file = options.read(true).write(true).create(true).truncate(true).open(path);
                self.record.insert(Record::new(file.map_err(failed)?))
            }
        };
        record.write(VERSION, &noted.text())?;
        record.sync().map_err(failed)?;
        self.noted = noted;
        Ok(())
    }

    fn elsewhere(&self) -> Error {
        let text = match &self.noted.dir {
            Some(dir) => format!(
                "the pages of this data directory are in {dir}, and hold events that nothing else holds; open the store with \
                 Durability::Process and shared_dir {dir}, and close it cleanly with a cold tier before going elsewhere; if \
                 they may be lost, or this is a copy of the data directory that has them, delete {note}",
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
        let own = self
            .noted
            .dir
            .as_ref()
            .map_or_else(String::new, |dir| format!(" were last in {}", dir.display()));
        Error::new(
            ErrorKind::Incompatible,
            format!(
                "the pages in {here} belong to another data directory, or to this one at another time; its own{own}: give \
                 that shared_dir, or move {here} away if what only it holds may be lost"
            ),
        )
    }

    fn note_name(&self) -> String {
        self.path.as_ref().map_or_else(String::new, |path| path.display().to_string())
    }
}

impl Noted {
    fn text(&self) -> String {
        let dir = self.dir.as_deref().map(hex).unwrap_or_default();
        format!("set {:016x}\nused {}\ndir {dir}\n", self.number, self.used)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let number = u64::from_str_radix(field("set")?, 16).ok()?;
        let used = field("used")?.parse().ok()?;
        let dir = field("dir")?;
        let dir = if dir.is_empty() { None } else { Some(from_hex(dir)?) };
        Some(Self { number, used, dir })
    }
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
