//! Blocks that the server will never take, among the dead letters.
//!
//! They stay readable, and the store finds their events as if they had been written.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::ColdBlock;
use crate::tiers::letters::{About, DeadLetter, Letters};
use crate::tiers::shield::remote::{Change, Op, Stamp};
use crate::tiers::shield::spool;

pub(crate) struct DeadLetters {
    letters: Letters,
}

/// The block of a letter: it is a record as in the overflow directory.
fn block_of(record: &[u8]) -> Option<ColdBlock> {
    let op = record.split_at_checked(12).and_then(|(header, body)| spool::decode(header, body));
    match op.map(|op| op.change) {
        Some(Change::Block(block)) => Some(block),
        _ => None,
    }
}

impl DeadLetters {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let about = |record: &[u8]| About { block: block_of(record).map(|block| block.id), event: None };
        // What the overflow directory has had must have room here.
        Ok(Self { letters: Letters::open(dir, (u64::MAX, usize::MAX), about)? })
    }

    /// Keeps a block, safely on disk, in place of an earlier letter of it.
    pub(crate) fn put(&self, block: &ColdBlock, reason: &str) -> Result<()> {
        let mut record = Vec::new();
        let op = Op { stamp: Stamp::default(), change: Change::Block(block.clone()) };
        spool::encode(&op, &mut record);
        let BlockId { partition, class, first_seq } = block.id;
        let before = self.name_of(block.id);
        let about = About { block: Some(block.id), event: None };
        self.letters.put(&format!("block-{partition}-{class}-{first_seq}"), reason, &record, about)?;
        before.map_or(Ok(()), |before| self.discard(&before))
    }

    /// Keeps bytes that are not a block any more.
    pub(crate) fn put_raw(&self, bytes: &[u8], reason: &str) -> Result<()> {
        self.letters.put("bytes", reason, bytes, About::default())
    }

    fn name_of(&self, id: BlockId) -> Option<String> {
        self.letters.find(|letter| letter.block == Some(id)).map(|letter| letter.name)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.letters.has(name)
    }

    pub(crate) fn len(&self) -> u64 {
        self.letters.len()
    }

    pub(crate) fn list(&self) -> Vec<DeadLetter> {
        self.letters.list()
    }

    /// The highest page number of the blocks.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.list().iter().filter_map(|letter| Some(letter.block?.first_seq)).max()
    }

    /// The block of a letter.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is none of that name, or it is not a block.
    pub(crate) fn read(&self, name: &str) -> Result<ColdBlock> {
        block_of(&self.letters.read(name)?).ok_or_else(|| {
            let text = format!("the dead letter {name:?} is not a block; `list` tells which are");
            Error::new(ErrorKind::InvalidInput, text)
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
        self.letters.discard(name)
    }
}
