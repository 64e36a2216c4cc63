//! Dead letters of single events: whoever takes what the store will not, and a bounded directory that does.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::IntoByteSize;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventRef};
use crate::ids::Class;
use crate::lanes::append::Appended;
use crate::store::{Batch, Store};
use crate::tiers::letters::{About, DeadLetter, Letters};

const MAGIC: &[u8; 4] = b"ESKL";
const VERSION: u16 = 1;
/// Magic number, version, two bytes of zero, CRC-32 of the record.
const HEADER: usize = 12;

/// Takes events that the store will not take: a directory ([`DeadLetterDir`]), a topic, a table.
///
/// It is called on the thread that appends; no lock is held.
pub trait DeadLetterSink: Send + Sync + 'static {
    /// Takes an event, and the error with which it would be refused. It is the sink's once this returns `Ok`.
    ///
    /// # Errors
    /// When the event could not be taken: the append fails with this error.
    fn take(&self, event: &Event<'_>, why: &Error) -> Result<()>;
}

impl<F> DeadLetterSink for F
where
    F: Fn(&Event<'_>, &Error) -> Result<()> + Send + Sync + 'static,
{
    fn take(&self, event: &Event<'_>, why: &Error) -> Result<()> {
        self(event, why)
    }
}

/// A directory of events that a store would not take, each in a file with the reason, until somebody decides.
///
/// It is bounded: when it is full, an event that should go there fails with
/// [`DeadLettersFull`](ErrorKind::DeadLettersFull). Each event is synced to the disk before it counts as taken, which
/// takes about as long as the disk needs for that; a source that floods the dead letters slows down. About 300 bytes of
/// memory are taken for each letter, outside of the store's. Streams are written as numbers, so letters of named streams
/// belong to their store's data directory. Clones share one directory.
///
/// ```
/// use std::time::Duration;
/// use esker::{Appended, ClassConfig, Config, DeadLetterDir, Event, Outside, Skew, Store};
///
/// # let dir = tempfile::tempdir().map_err(|error| esker::Error::cold("no directory", error))?;
/// let letters = DeadLetterDir::open(dir.path(), "16MiB", 10_000)?;
/// let window = Skew::new().ahead(Duration::from_secs(300)).outside(Outside::DeadLetter);
/// let config = Config::builder().memory("16MiB").class(ClassConfig::new("calls").skew(window)).build()?;
/// let store = Store::builder(config).dead_letters(letters.clone()).open()?;
///
/// let from_the_future = Event::new(store.stream("device-7")?, 1, i64::MAX, 0).payload(b"reading");
/// assert_eq!(store.append(&from_the_future)?, Appended::DeadLettered);
///
/// let letter = &letters.list()[0];
/// println!("{}: {}", letter.name, letter.reason);
/// // Either as it is, past the window; or `discard`; or `read` it, and append what it should have been.
/// assert_eq!(letters.replay(&store, &letter.name)?, Appended::Stored);
/// assert!(letters.list().is_empty());
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone)]
pub struct DeadLetterDir {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    letters: Letters,
    /// Held as long as the directory is in use.
    _lock: File,
}

impl DeadLetterDir {
    /// Opens a directory, or makes it, for so many letters of so many bytes together at most.
    ///
    /// # Errors
    /// [`AlreadyOpen`](ErrorKind::AlreadyOpen) when somebody else uses it, [`Io`](ErrorKind::Io),
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a size that is none.
    pub fn open(dir: impl AsRef<Path>, bytes: impl IntoByteSize, letters: usize) -> Result<Self> {
        let dir = dir.as_ref();
        let bytes = bytes.into_byte_size().map_err(|problem| Error::new(ErrorKind::InvalidInput, problem))?;
        let failed =
            |source| Error::io(format!("cannot use the dead-letter directory {}", dir.display()), source);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("lock"));
        let lock = lock.map_err(failed)?;
        if lock.try_lock().is_err() {
            let text = format!("the dead-letter directory {} is in use; give each its own", dir.display());
            return Err(Error::new(ErrorKind::AlreadyOpen, text));
        }
        let about = |_: &str, content: &[u8]| About {
            event: decode(content).map(|event| event.header()),
            block: None,
        };
        let letters = Letters::open(dir, (bytes.as_u64(), letters), about)?;
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_path_buf(), letters, _lock: lock }) })
    }

    /// What is there, in the order of names.
    pub fn list(&self) -> Vec<DeadLetter> {
        self.inner.letters.list()
    }

    /// How many letters there are.
    pub fn len(&self) -> usize {
        self.inner.letters.len() as usize
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The event of a letter, as it was to be appended; its class is the one it would have had.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when there is none of that name, [`Corrupt`](ErrorKind::Corrupt) when
    /// its bytes fail their check, [`Io`](ErrorKind::Io).
    pub fn read(&self, name: &str) -> Result<EventRef<'static>> {
        let content = self.inner.letters.read(name)?;
        decode(&content).ok_or_else(|| {
            Error::corrupt(format!("the dead letter {name} fails its check; look at it, and discard it"))
        })
    }

    /// Appends the event of a letter to a store, whatever its timestamp, and removes the letter once the store has it.
    /// If there is no room, it waits as [`Store::append`] does.
    ///
    /// # Errors
    /// As for [`read`](Self::read) and [`Store::append`]; the letter stays then. It stays, too, if the store does not keep
    /// the event for lack of room.
    pub fn replay(&self, store: &Store, name: &str) -> Result<Appended> {
        let event = self.read(name)?;
        let outcome = store.append_unscreened(&event.to_event())?;
        if matches!(outcome, Appended::Stored | Appended::Duplicate) {
            self.discard(name)?;
        }
        Ok(outcome)
    }

    /// The same for every letter that is there now: what came of each, those that stay among them as `refused`.
    pub fn replay_all(&self, store: &Store) -> Batch {
        let mut batch = Batch::default();
        for (at, letter) in self.list().iter().enumerate() {
            match self.replay(store, &letter.name) {
                Ok(Appended::Duplicate) => batch.duplicate_at.push(at),
                Ok(Appended::Stored) => batch.stored += 1,
                Ok(other) => batch.set_aside.push((at, other)),
                Err(error) => batch.refused.push((at, error)),
            }
        }
        batch.duplicates = batch.duplicate_at.len();
        batch
    }

    /// Removes a letter for good.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when there is none of that name, [`Io`](ErrorKind::Io).
    pub fn discard(&self, name: &str) -> Result<()> {
        self.inner.letters.discard(name)
    }
}

impl DeadLetterSink for DeadLetterDir {
    fn take(&self, event: &Event<'_>, why: &Error) -> Result<()> {
        let class = event.class.unwrap_or(Class::DEFAULT);
        let content = encode(event, class)?;
        let about = About { event: decode(&content).map(|event| event.header()), block: None };
        self.inner.letters.put(&format!("event-{}", event.id), &why.to_string(), &content, about).map(drop)
    }
}

impl std::fmt::Debug for DeadLetterDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterDir").field("dir", &self.inner.dir).finish_non_exhaustive()
    }
}

fn encode(event: &Event<'_>, class: Class) -> Result<Vec<u8>> {
    let record = event.to_record(class).ok_or_else(|| {
        Error::new(ErrorKind::TooLarge, "an event of more than 16 MiB is no dead letter either")
    })?;
    let mut out = Vec::with_capacity(HEADER + record.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&u32::from(VERSION).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&record).to_le_bytes());
    out.extend_from_slice(&record);
    Ok(out)
}

/// The event of a letter; `None` for bytes that are none.
fn decode(content: &[u8]) -> Option<EventRef<'static>> {
    let (header, record) = content.split_first_chunk::<HEADER>()?;
    let ours = header.starts_with(MAGIC)
        && header[4..8] == u32::from(VERSION).to_le_bytes()
        && header[8..12] == crc32fast::hash(record).to_le_bytes();
    if !ours {
        return None;
    }
    EventRef::of_record(Arc::new(record.to_vec().into()), 0)
}
