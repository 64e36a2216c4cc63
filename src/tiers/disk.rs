//! The embedded cold tier: one redb file in the data directory.
//!
//! redb gives atomic, durable commits, a file lock, and checks of its own. Its values lie in runs of pages whose
//! length is a power of two, so a block is cut into pieces of such lengths: without that a block of 130 KiB would take
//! 256 KiB.
//!
//! After an error of the disk redb does nothing more until the file is opened again; the next call here opens it. Not
//! after a failed sync, though: the system may then hold for written what never was, and what is built on that is lost
//! with the machine.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, Tombstone};
use crate::tiers::watched::{Health, Watched};

/// Partition, class, first page: the order of keys is the order of events in a lane. Then the piece.
type PieceKey = (u32, u8, u64, u32);
type BlockKey = (u32, u8, u64);
/// Id, partition, class.
type StoneKey = (u64, u32, u8);

const PIECES: TableDefinition<'_, PieceKey, &[u8]> = TableDefinition::new("pieces");
const SUMMARIES: TableDefinition<'_, BlockKey, &[u8]> = TableDefinition::new("summaries");
const NAMES: TableDefinition<'_, &str, u64> = TableDefinition::new("names");
const TOMBSTONES: TableDefinition<'_, StoneKey, u64> = TableDefinition::new("tombstones");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// The version of this layout, in the table `meta`.
const FORMAT: u64 = 1;
/// A page of redb, and what a leaf with one of our pieces spends of it on itself.
const PAGE: usize = 4096;
const LEAF_OVERHEAD: usize = 64;
/// The longest piece: 512 KiB less the overhead.
const PIECE_PAGES_MAX: usize = 128;

/// The embedded cold tier: what a store with a data directory uses by itself. Here for whoever wants to put another
/// tier in front of it.
pub struct DiskTier {
    database: RwLock<State>,
    /// Whether redb has given up on the file as it has it open.
    is_broken: AtomicBool,
    health: Arc<Health>,
    /// Opens the file, which is there.
    reopen: Box<Reopen>,
    path: PathBuf,
}

type Reopen = dyn Fn(&Arc<Health>) -> Result<Database, DatabaseError> + Send + Sync;

enum State {
    Open(Database),
    /// It could not be opened again after an error.
    Failed,
    Closed,
}

impl DiskTier {
    /// Opens the file `cold.redb` in `dir`, or makes it. `cache_bytes`: how much of it is kept in memory.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`], [`ErrorKind::Incompatible`] for a newer layout, [`ErrorKind::Corrupt`] for a
    /// foreign or damaged file, [`ErrorKind::Io`] for a directory that cannot be used.
    pub fn open(dir: &Path, cache_bytes: usize) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|source| {
            let dir = dir.display();
            Error::io(
                format!("cannot make the data directory {dir}; check the path and its permissions"),
                source,
            )
        })?;
        let path = dir.join("cold.redb");
        unwound(&path, || {
            // Opening for writing changes a file, so one that is foreign must be found out before. What cannot be
            // read so, may still be mended.
            if let Ok(database) = builder(cache_bytes).open_read_only(&path)
                && let Ok(found) =
                    database.begin_read().map_err(redb::Error::from).and_then(|read| look(&read))
            {
                found.check(&path)?;
            }
            if !path.exists() {
                make_file(&builder(cache_bytes), dir, &path)?;
            }
            let file = path.clone();
            let reopen = move |health: &Arc<Health>| {
                let file = std::fs::OpenOptions::new().read(true).write(true).open(&file)?;
                let file = Watched::new(FileBackend::new(file)?, health.clone());
                builder(cache_bytes).create_with_backend(file)
            };
            Self::begin(path.clone(), Box::new(reopen))
        })
    }

    /// A tier whose file is what `file` gives: for tests that bring one which fails and forgets on purpose.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    #[doc(hidden)]
    pub fn on<B: StorageBackend>(
        file: impl Fn() -> B + Send + Sync + 'static,
        cache_bytes: usize,
    ) -> Result<Self> {
        let path = PathBuf::from("a file of the caller's");
        let reopen = move |health: &Arc<Health>| {
            builder(cache_bytes).create_with_backend(Watched::new(file(), health.clone()))
        };
        unwound(&path, || Self::begin(path.clone(), Box::new(reopen)))
    }

    fn begin(path: PathBuf, reopen: Box<Reopen>) -> Result<Self> {
        let health = Arc::default();
        let database = reopen(&health).map_err(|error| open_error(&path, error))?;
        let database = RwLock::new(State::Open(database));
        let tier = Self { database, is_broken: AtomicBool::new(false), health, reopen, path };
        if tier.read(look)?.check(&tier.path)? {
            tier.make_tables()?;
        }
        Ok(tier)
    }

    fn make_tables(&self) -> Result<()> {
        self.write(|write| {
            write.open_table(META)?.insert("format", &FORMAT.to_le_bytes()[..])?;
            // Opening a table makes it, so that later reads find all of them.
            write.open_table(PIECES)?;
            write.open_table(SUMMARIES)?;
            write.open_table(NAMES)?;
            write.open_table(TOMBSTONES)?;
            Ok(())
        })
    }

    fn failed(&self, what: &str, error: impl Into<redb::Error>) -> Error {
        let error = error.into();
        let kind = match &error {
            redb::Error::Corrupted(_)
            | redb::Error::TableTypeMismatch { .. }
            | redb::Error::TypeDefinitionChanged { .. }
            | redb::Error::TableIsMultimap(_) => ErrorKind::Corrupt,
            redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::LockPoisoned(_) => {
                self.is_broken.store(true, Ordering::Release);
                ErrorKind::Cold
            }
            _ => ErrorKind::Cold,
        };
        Error::with_source(
            kind,
            format!("cannot {what} the cold tier's file {}: {error}", self.path.display()),
            error,
        )
    }

    fn write(&self, change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>) -> Result<()> {
        self.with(|database| {
            let write = database.begin_write().map_err(|error| self.failed("begin a change of", error))?;
            change(&write).map_err(|error| self.failed("change", error))?;
            write.commit().map_err(|error| self.failed("commit to", error))
        })
    }

    fn read<T>(&self, look: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        self.with(|database| {
            let read = database.begin_read().map_err(|error| self.failed("begin to read", error))?;
            look(&read).map_err(|error| self.failed("read", error))
        })
    }

    /// The same, once more if it met what another call's error has left behind: the file is well for whoever only reads, as
    /// when the disk is full.
    fn read_again<T>(&self, look: impl Fn(&redb::ReadTransaction) -> Result<T, redb::Error>) -> Result<T> {
        let met_earlier = |error: &Error| {
            let source = std::error::Error::source(error).and_then(|source| source.downcast_ref());
            matches!(source, Some(redb::Error::PreviousIo))
        };
        match self.read(&look) {
            Err(error) if met_earlier(&error) => self.read(&look),
            other => other,
        }
    }

    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        if self.is_broken.load(Ordering::Acquire) {
            unwound(&self.path, || self.open_again())?;
        }
        match &*self.database.read() {
            State::Open(database) => unwound(&self.path, || work(database)),
            State::Failed => {
                let text = format!("{} cannot be opened again after an error", self.path.display());
                Err(Error::new(ErrorKind::Cold, text))
            }
            State::Closed => Err(Error::closed()),
        }
    }

    /// # Errors
    /// [`ErrorKind::Cold`] once the disk could not sync the file.
    fn check_synced(&self) -> Result<()> {
        if !self.health.sync_has_failed() || cfg!(canary = "retry-after-failed-sync") {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Cold,
            format!(
                "the disk could not sync {}: what it says it holds may be lost when the machine stops, so nothing more is \
                 done with it; see to the disk, then open the store again",
                self.path.display()
            ),
        ))
    }

    /// Opens the file again after an error of the disk.
    fn open_again(&self) -> Result<()> {
        self.check_synced()?;
        let mut database = self.database.write();
        if matches!(*database, State::Closed) || !self.is_broken.load(Ordering::Acquire) {
            return Ok(());
        }
        // The file's lock must be free first.
        *database = State::Failed;
        // Letting the old one go may have been what failed.
        self.check_synced()?;
        let fresh = (self.reopen)(&self.health).map_err(|error| match error {
            DatabaseError::Storage(error) => self.failed("open again", error),
            other => open_error(&self.path, other),
        })?;
        let found = fresh.begin_read().map_err(redb::Error::from).and_then(|read| look(&read));
        let found = found.map_err(|error| self.failed("read", error))?;
        if found.check(&self.path)? {
            return Err(damaged(&self.path, std::io::Error::other("it has lost everything")));
        }
        *database = State::Open(fresh);
        self.is_broken.store(false, Ordering::Release);
        Ok(())
    }
}

impl Drop for DiskTier {
    fn drop(&mut self) {
        // An opening that fails lets it go without closing it, and redb may panic when it lets a damaged file go.
        self.close();
    }
}

fn builder(cache_bytes: usize) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder
}

/// What a file says that it is.
enum Found {
    /// A redb file without tables: a new one.
    Nothing,
    Format(u64),
    Foreign,
}

impl Found {
    /// Whether the file is new and needs its tables.
    fn check(self, path: &Path) -> Result<bool> {
        let shown = path.display();
        match self {
            Self::Nothing => Ok(true),
            Self::Format(FORMAT) => Ok(false),
            Self::Format(other) => Err(Error::new(
                ErrorKind::Incompatible,
                format!(
                    "{shown} has format {other}; this esker reads format {FORMAT}: use the esker that wrote it, or \
                     another data directory"
                ),
            )),
            Self::Foreign => Err(Error::corrupt(format!(
                "{shown} is a redb file of something else; use another data directory"
            ))),
        }
    }
}

fn look(read: &redb::ReadTransaction) -> Result<Found, redb::Error> {
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => {
            return Ok(if read.list_tables()?.next().is_none() { Found::Nothing } else { Found::Foreign });
        }
        Err(redb::TableError::TableTypeMismatch { .. }) => return Ok(Found::Foreign),
        Err(error) => return Err(error.into()),
    };
    let format = meta.get("format")?.map(|value| number(value.value()));
    Ok(format.map_or(Found::Foreign, Found::Format))
}

/// redb panics on some damaged files instead of failing. That must not end a thread of the store or of the caller.
fn unwound<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic of redb");
        Err(damaged(path, std::io::Error::other(text.to_string())))
    })
}

/// Makes an empty database under another name, so that the file has its name when it is whole: a process can be killed at
/// any moment.
fn make_file(builder: &redb::Builder, dir: &Path, path: &Path) -> Result<()> {
    let new = dir.join("cold.redb.new");
    let failed = |source| {
        Error::io(
            format!("cannot make {}; check the directory's permissions and space", path.display()),
            source,
        )
    };
    if let Err(error) = builder.create(&new) {
        if !new.exists() {
            return Err(open_error(&new, error));
        }
        // What is left of an attempt that ended in the middle; nobody has stored anything there.
        std::fs::remove_file(&new).map_err(failed)?;
        drop(builder.create(&new).map_err(|error| open_error(&new, error))?);
    }
    // Should somebody else have made the file meanwhile, theirs stays.
    match std::fs::hard_link(&new, path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists && !path.exists() => {
            // A file system without links.
            return std::fs::rename(&new, path).map_err(failed);
        }
        _ => {}
    }
    std::fs::remove_file(&new).map_err(failed)?;
    // The name must be there, too, when the machine begins anew. Not every file system can be asked for that.
    let _ = std::fs::File::open(dir).and_then(|dir| dir.sync_all());
    Ok(())
}

fn open_error(path: &Path, error: DatabaseError) -> Error {
    let shown = path.display();
    match error {
        DatabaseError::DatabaseAlreadyOpen => Error::with_source(
            ErrorKind::AlreadyOpen,
            format!(
                "{shown} is open in another process or store; close that one, or use another data directory"
            ),
            error,
        ),
        DatabaseError::UpgradeRequired(version) => Error::with_source(
            ErrorKind::Incompatible,
            format!("{shown} has the file version {version} of another redb; use the esker that wrote it"),
            error,
        ),
        DatabaseError::Storage(redb::StorageError::Io(source)) => {
            use std::io::ErrorKind as Io;
            match source.kind() {
                Io::InvalidData | Io::UnexpectedEof => damaged(path, source),
                _ => Error::io(
                    format!("cannot open {shown}; check the directory's permissions and space"),
                    source,
                ),
            }
        }
        other => damaged(path, other),
    }
}

fn damaged(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    let text = format!(
        "{} is not a cold tier of esker, or is damaged ({source}); restore it from a copy, or use another data directory",
        path.display()
    );
    Error::with_source(ErrorKind::Corrupt, text, source)
}

fn number(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Lengths to cut a block into, so that each piece fills its run of pages.
fn pieces(mut len: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if len == 0 {
            return None;
        }
        let pages = (len + LEAF_OVERHEAD) / PAGE;
        let piece = match pages.min(PIECE_PAGES_MAX) {
            0 => len,
            pages => (1 << pages.ilog2()) * PAGE - LEAF_OVERHEAD,
        };
        len -= piece;
        Some(piece)
    })
}

fn block_key(id: BlockId) -> BlockKey {
    (id.partition, id.class, id.first_seq)
}

fn stone_key(stone: &Tombstone) -> StoneKey {
    (stone.id, stone.partition, stone.class)
}

/// All keys of a block's pieces.
fn piece_keys(id: BlockId) -> std::ops::RangeInclusive<PieceKey> {
    let (partition, class, seq) = block_key(id);
    (partition, class, seq, 0)..=(partition, class, seq, u32::MAX)
}

impl ColdTier for DiskTier {
    fn namespace(&self) -> Result<Option<Namespace>> {
        self.read(|read| {
            let meta = read.open_table(META)?;
            let Some(fixed) = meta.get("namespace")? else { return Ok(None) };
            let bytes = fixed.value();
            let classes =
                meta.get("classes")?.map(|value| String::from_utf8_lossy(value.value()).into_owned());
            let classes = classes.unwrap_or_default();
            Ok(Some(Namespace {
                partitions: number(bytes) as u32,
                seed: number(bytes.get(8..).unwrap_or_default()),
                classes: classes.split('\0').filter(|name| !name.is_empty()).map(str::to_string).collect(),
            }))
        })
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        let mut fixed = u64::from(namespace.partitions).to_le_bytes().to_vec();
        fixed.extend_from_slice(&namespace.seed.to_le_bytes());
        let classes = namespace.classes.join("\0");
        self.write(|write| {
            let mut meta = write.open_table(META)?;
            meta.insert("namespace", fixed.as_slice())?;
            meta.insert("classes", classes.as_bytes())?;
            Ok(())
        })
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.write(|write| {
            let mut table = write.open_table(PIECES)?;
            let mut summaries = write.open_table(SUMMARIES)?;
            for block in blocks {
                let (partition, class, seq) = block_key(block.id);
                // An earlier try may have cut the lane otherwise and left more pieces.
                table.retain_in(piece_keys(block.id), |_, _| false)?;
                let mut rest = block.bytes.as_slice();
                for (piece, len) in pieces(rest.len()).enumerate() {
                    let (part, after) = rest.split_at(len);
                    table.insert((partition, class, seq, piece as u32), part)?;
                    rest = after;
                }
                summaries.insert(block_key(block.id), block.summary.as_slice())?;
            }
            Ok(())
        })
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.read_again(|read| {
            let table = read.open_table(PIECES)?;
            let mut bytes = Vec::new();
            for piece in table.range(piece_keys(id))? {
                bytes.extend_from_slice(piece?.1.value());
            }
            Ok((!bytes.is_empty()).then_some(bytes))
        })
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.write(|write| {
            let mut table = write.open_table(PIECES)?;
            let mut summaries = write.open_table(SUMMARIES)?;
            for id in ids {
                table.retain_in(piece_keys(*id), |_, _| false)?;
                summaries.remove(block_key(*id))?;
            }
            Ok(())
        })
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        let mut outcome = Ok(());
        self.read(|read| {
            for row in read.open_table(SUMMARIES)?.iter()? {
                let (key, summary) = row?;
                let (partition, class, first_seq) = key.value();
                outcome = visit(BlockId { partition, class, first_seq }, summary.value());
                if outcome.is_err() {
                    break;
                }
            }
            Ok(())
        })?;
        outcome
    }

    fn list_range(
        &self,
        first: BlockId,
        end: u64,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let found = self.read_again(|read| {
            let range = block_key(first)..(first.partition, first.class, end);
            let mut found = Vec::new();
            for row in read.open_table(SUMMARIES)?.range(range)? {
                let (key, summary) = row?;
                found.push((key.value().2, summary.value().to_vec()));
            }
            Ok(found)
        })?;
        found.into_iter().try_for_each(|(first_seq, summary)| visit(BlockId { first_seq, ..first }, &summary))
    }

    fn maintain_every(&self) -> Option<Duration> {
        None
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.write(|write| {
            let mut table = write.open_table(NAMES)?;
            for (name, stream) in names {
                table.insert(name.as_str(), stream)?;
            }
            Ok(())
        })
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.read(|read| {
            for row in read.open_table(NAMES)?.iter()? {
                let (name, stream) = row?;
                visit(name.value(), stream.value());
            }
            Ok(())
        })
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.write(|write| {
            write.open_table(TOMBSTONES)?.insert(stone_key(&tombstone), tombstone.seq)?;
            Ok(())
        })
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        if tombstones.is_empty() {
            return Ok(());
        }
        self.write(|write| {
            let mut table = write.open_table(TOMBSTONES)?;
            for stone in tombstones {
                table.remove(stone_key(stone))?;
            }
            Ok(())
        })
    }

    fn close(&self) {
        let database = std::mem::replace(&mut *self.database.write(), State::Closed);
        // Nothing is left to be done about a file that cannot be closed well.
        let _ = unwound(&self.path, || {
            drop(database);
            Ok(())
        });
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.read(|read| {
            for row in read.open_table(TOMBSTONES)?.iter()? {
                let (key, seq) = row?;
                let (id, partition, class) = key.value();
                visit(Tombstone { id, partition, class, seq: seq.value() });
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
