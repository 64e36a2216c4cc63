//! Dead letters: blocks that the server will never take, each in a file with the reason, until somebody decides.
//!
//! They stay readable, and the store finds their events as if they had been written.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::ColdBlock;
use crate::tiers::shield::remote::{Change, Op, Stamp};
use crate::tiers::shield::spool;

/// The longest file that is read.
const LETTER_MAX: u64 = 192 << 20;

/// A block that could not be written, or bytes that are none any more.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct DeadLetter {
    /// What to call it when it is replayed or discarded: the name of its file.
    pub name: String,
    /// Which block it is; `None` for bytes of the overflow directory that are damaged, which cannot be replayed.
    pub block: Option<BlockId>,
    /// Why it is here.
    pub reason: String,
    /// The length of its file.
    pub bytes: u64,
}

pub(crate) struct DeadLetters {
    dir: PathBuf,
    letters: Mutex<BTreeMap<String, DeadLetter>>,
    next: AtomicU64,
}

impl DeadLetters {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let failed =
            |source| Error::io(format!("cannot use the dead-letter directory {}", dir.display()), source);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let letters = Self { dir: dir.to_path_buf(), letters: Mutex::default(), next: AtomicU64::new(0) };
        for file in std::fs::read_dir(dir).map_err(failed)? {
            let name = file.map_err(failed)?.file_name().to_string_lossy().into_owned();
            if name.ends_with(".letter") {
                let (reason, block, bytes) = letters.load(&name)?;
                letters.keep(name, block.map(|block| block.id), reason, bytes);
            }
        }
        Ok(letters)
    }

    fn keep(&self, name: String, block: Option<BlockId>, reason: String, bytes: u64) {
        self.letters.lock().insert(name.clone(), DeadLetter { name, block, reason, bytes });
    }

    /// Reason, block and length of a letter's file.
    fn load(&self, name: &str) -> Result<(String, Option<ColdBlock>, u64)> {
        let path = self.dir.join(name);
        let failed = |source| Error::io(format!("cannot read the dead letter {}", path.display()), source);
        let len = std::fs::metadata(&path).map_err(failed)?.len();
        if len > LETTER_MAX {
            return Ok((format!("a file of {len} bytes, which no esker writes"), None, len));
        }
        let bytes = std::fs::read(&path).map_err(failed)?;
        // The first line is the reason, for people; the rest is a record as in the overflow directory.
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
        let reason = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let record = bytes.get(end + 1..).unwrap_or_default();
        let op = record.split_at_checked(12).and_then(|(header, body)| spool::decode(header, body));
        match op.map(|op| op.change) {
            Some(Change::Block(block)) => Ok((reason, Some(block), len)),
            _ => Ok((reason, None, len)),
        }
    }

    fn write(&self, name: String, reason: &str, record: &[u8], block: Option<BlockId>) -> Result<()> {
        let path = self.dir.join(&name);
        let reason = reason.replace(['\n', '\r'], " ");
        let attempt = || -> std::io::Result<()> {
            let mut file = std::fs::File::create(&path)?;
            file.write_all(reason.as_bytes())?;
            file.write_all(b"\n")?;
            file.write_all(record)?;
            file.sync_all()
        };
        attempt().map_err(|source| {
            let _ = std::fs::remove_file(&path);
            Error::io(format!("cannot write the dead letter {}; check its disk", path.display()), source)
        })?;
        let bytes = (reason.len() + 1 + record.len()) as u64;
        self.keep(name, block, reason, bytes);
        Ok(())
    }

    /// Keeps a block, safely on disk, in place of an earlier letter of it.
    pub(crate) fn put(&self, block: &ColdBlock, reason: &str) -> Result<()> {
        let mut record = Vec::new();
        let op = Op { stamp: Stamp::default(), change: Change::Block(block.clone()) };
        spool::encode(&op, &mut record);
        let BlockId { partition, class, first_seq } = block.id;
        let before = self.name_of(block.id);
        let name = self.fresh_name(&format!("block-{partition}-{class}-{first_seq}"));
        self.write(name, reason, &record, Some(block.id))?;
        before.map_or(Ok(()), |before| self.discard(&before))
    }

    /// Keeps bytes that are not a block any more.
    pub(crate) fn put_raw(&self, bytes: &[u8], reason: &str) -> Result<()> {
        self.write(self.fresh_name("bytes"), reason, bytes, None)
    }

    fn fresh_name(&self, stem: &str) -> String {
        loop {
            let name = format!("{stem}-{}.letter", self.next.fetch_add(1, Ordering::Relaxed));
            if !self.dir.join(&name).exists() {
                return name;
            }
        }
    }

    fn name_of(&self, id: BlockId) -> Option<String> {
        self.letters.lock().values().find(|letter| letter.block == Some(id)).map(|letter| letter.name.clone())
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.letters.lock().contains_key(name)
    }

    pub(crate) fn len(&self) -> u64 {
        self.letters.lock().len() as u64
    }

    pub(crate) fn list(&self) -> Vec<DeadLetter> {
        self.letters.lock().values().cloned().collect()
    }

    /// The highest page number of the blocks.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.letters.lock().values().filter_map(|letter| Some(letter.block?.first_seq)).max()
    }

    /// The block of a letter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is none of that name, or it is not a block.
    pub(crate) fn read(&self, name: &str) -> Result<ColdBlock> {
        let block = if self.has(name) { self.load(name)?.1 } else { None };
        block.ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                format!("there is no dead letter {name:?} with a block; `list` tells which there are"),
            )
        })
    }

    /// The bytes of a block that is here.
    pub(crate) fn find(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.name_of(id).map(|name| self.read(&name).map(|block| block.bytes)).transpose()
    }

    /// Shows the blocks that are here.
    pub(crate) fn each(&self, visit: &mut dyn FnMut(ColdBlock) -> Result<()>) -> Result<()> {
        let names: Vec<String> =
            self.list().into_iter().filter(|letter| letter.block.is_some()).map(|l| l.name).collect();
        names.iter().try_for_each(|name| visit(self.read(name)?))
    }

    /// Removes a letter for good.
    pub(crate) fn discard(&self, name: &str) -> Result<()> {
        if self.letters.lock().remove(name).is_none() {
            let text = format!("there is no dead letter {name:?}; `list` tells which there are");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        std::fs::remove_file(self.dir.join(name))
            .map_err(|source| Error::io(format!("cannot remove the dead letter {name}"), source))
    }
}
