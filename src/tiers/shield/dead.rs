//! Blocks that the server will never take, among the dead letters.
//!
//! They stay readable, and the store finds their events as if they had been written.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::Path;

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::ColdBlock;
use crate::tiers::letters::{About, DeadLetter, Letters};
use crate::tiers::shield::record;
use crate::tiers::shield::remote::{Change, Op, Stamp};

pub(crate) struct DeadLetters {
    letters: Letters,
    /// The stamps of the blocks that are here, and the names of their letters.
    blocks: Mutex<HashMap<BlockId, (i64, String)>>,
}

/// The block of a letter, and its stamp: it is a record as in the overflow directory.
fn block_of(bytes: &[u8]) -> Option<(ColdBlock, Stamp)> {
    let op = bytes.split_at_checked(12).and_then(|(header, body)| record::decode(header, body))?;
    match op.change {
        Change::Block(block) => Some((block, op.stamp)),
        _ => None,
    }
}

impl DeadLetters {
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        let found = RefCell::new(Vec::new());
        let about = |name: &str, record: &[u8]| {
            let block = block_of(record).map(|(block, stamp)| (block.id, stamp.micros));
            found.borrow_mut().extend(block.map(|(id, micros)| (id, micros, name.to_string())));
            About { block: block.map(|(id, _)| id), event: None }
        };
        // What the overflow directory has had must have room here.
        let letters = Letters::open(dir, (u64::MAX, usize::MAX), about)?;
        let dead = Self { letters, blocks: Mutex::default() };
        // A process that ended in the middle may have left two letters of a block.
        found.into_inner().into_iter().for_each(|(id, micros, name)| dead.note(id, micros, name));
        Ok(dead)
    }

    /// Notes a letter of a block. Of two the later one counts.
    fn note(&self, id: BlockId, micros: i64, name: String) {
        let mut blocks = self.blocks.lock();
        let superseded = match blocks.get(&id) {
            Some((before, _)) if *before > micros => Some(name),
            _ => blocks.insert(id, (micros, name)).map(|(_, before)| before),
        };
        drop(blocks);
        // If it stays, it is discarded by the next opening.
        superseded.into_iter().for_each(|name| drop(self.letters.discard(&name)));
    }

    /// Keeps a block, safely on disk, in place of an earlier letter of it.
    pub(crate) fn put(&self, block: &ColdBlock, stamp: Stamp, reason: &str) -> Result<()> {
        let mut bytes = Vec::new();
        record::encode(&Op { stamp, change: Change::Block(block.clone()) }, &mut bytes);
        let BlockId { partition, class, first_seq } = block.id;
        let about = About { block: Some(block.id), event: None };
        let stem = format!("block-{partition}-{class}-{first_seq}");
        let name = self.letters.put(&stem, reason, &bytes, about)?;
        self.note(block.id, stamp.micros, name);
        Ok(())
    }

    /// When the block was written that is here.
    pub(crate) fn stamp(&self, id: BlockId) -> Option<i64> {
        self.blocks.lock().get(&id).map(|(micros, _)| *micros)
    }

    /// A version of a block is safe elsewhere: letters of earlier ones go.
    pub(crate) fn supersede(&self, id: BlockId, micros: i64) {
        let mut blocks = self.blocks.lock();
        if let Some((stamp, name)) = blocks.get(&id)
            && *stamp <= micros
        {
            let name = name.clone();
            blocks.remove(&id);
            drop(blocks);
            // If it stays, or comes back after a loss of power, it is older than what the server has.
            let _ = self.letters.discard(&name);
        }
    }

    /// Keeps bytes that are not a block any more.
    pub(crate) fn put_raw(&self, bytes: &[u8], reason: &str) -> Result<()> {
        self.letters.put("bytes", reason, bytes, About::default()).map(drop)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.letters.has(name)
    }

    pub(crate) fn len(&self) -> u64 {
        self.list().len() as u64
    }

    /// Letters but for those of blocks of which there is a later one: they could not be removed yet.
    pub(crate) fn list(&self) -> Vec<DeadLetter> {
        let mut letters = self.letters.list();
        let blocks = self.blocks.lock();
        letters.retain(|letter| {
            letter.block.is_none_or(|id| blocks.get(&id).is_some_and(|(_, name)| *name == letter.name))
        });
        letters
    }

    /// The highest page number of the blocks.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        self.list().iter().filter_map(|letter| Some(letter.block?.first_seq)).max()
    }

    /// The block of a letter, and its stamp.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] when there is none of that name, or it is not a block.
    pub(crate) fn read(&self, name: &str) -> Result<(ColdBlock, Stamp)> {
        block_of(&self.letters.read(name)?).ok_or_else(|| {
            let text = format!("the dead letter {name:?} is not a block; `list` tells which are");
            Error::new(ErrorKind::InvalidInput, text)
        })
    }

    /// A block that is here.
    pub(crate) fn find(&self, id: BlockId) -> Result<Option<ColdBlock>> {
        let name = self.blocks.lock().get(&id).map(|(_, name)| name.clone());
        name.map(|name| self.read(&name).map(|(block, _)| block)).transpose()
    }

    /// The blocks that are here, with their stamps and the names of their letters.
    pub(crate) fn blocks(&self) -> Vec<(BlockId, i64, String)> {
        self.blocks.lock().iter().map(|(id, (micros, name))| (*id, *micros, name.clone())).collect()
    }

    /// Removes a letter for good.
    pub(crate) fn discard(&self, name: &str) -> Result<()> {
        self.letters.discard(name)?;
        self.blocks.lock().retain(|_, (_, of)| of != name);
        Ok(())
    }
}
