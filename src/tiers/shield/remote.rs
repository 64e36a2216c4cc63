//! What a shield asks of the server behind it, and what a change looks like on its way there.

use std::sync::Arc;
use std::time::Duration;

use crate::config::ClassConfig;
use crate::error::{Error, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, Namespace, Tombstone};

/// A change of what the tier holds. Making it twice is making it once.
#[derive(Debug)]
pub(crate) enum Change {
    Namespace(Namespace),
    Block(ColdBlock),
    Names(Vec<(String, u64)>),
    Tombstone(Tombstone),
    /// A store was opened whose pages begin with this number.
    Writer(u64),
}

/// When and where a change belongs, decided once, so that sending it again changes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stamp {
    /// Microseconds since the epoch: of two versions the later one counts.
    pub(crate) micros: i64,
    /// The period whose partition a block goes to.
    pub(crate) period: i64,
}

/// A change with its stamp.
#[derive(Debug)]
pub(crate) struct Op {
    pub(crate) stamp: Stamp,
    pub(crate) change: Change,
}

impl Op {
    /// Bytes that matter for rates and bounds.
    pub(crate) fn len(&self) -> u64 {
        let len = match &self.change {
            Change::Block(block) => block.bytes.len() + block.summary.len(),
            Change::Names(names) => names.iter().map(|(name, _)| name.len() + 16).sum(),
            _ => 64,
        };
        len as u64
    }
}

/// What became of a change.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The server has confirmed it.
    Done,
    /// Not now; nothing is wrong with the change. Without an error it was not even tried.
    Later(Option<Error>),
    /// The server will never take it.
    Never(Error),
}

#[cfg(feature = "scylla")]
impl Verdict {
    /// The same for a change that was sent together with that one.
    pub(crate) fn again(&self) -> Self {
        match self {
            Self::Done => Self::Done,
            Self::Later(error) => Self::Later(error.as_ref().map(Error::again)),
            Self::Never(error) => Self::Never(error.again()),
        }
    }
}

/// Is shown a block's id, stamp and summary.
pub(crate) type ShowBlock<'a> = dyn FnMut(BlockId, i64, &[u8]) -> Result<()> + 'a;

/// A server, or a cluster of them.
pub(crate) trait Remote: Send + Sync + 'static {
    /// Checks or makes tables, and gives the first page number for a store that is opened now, above `last_seq`.
    fn begin(&self, classes: &[ClassConfig], last_seq: u64) -> Result<u64>;
    /// A store opens while the servers are away, with page numbers from `first` on: what `begin` would have noted is
    /// noted, and nothing is asked.
    fn begin_away(&self, classes: &[ClassConfig], first: u64);
    /// Does what `begin` could not, now that the servers may be back: connects and checks the tables.
    fn rejoin(&self) -> Result<()>;
    /// What tells this namespace from others on these servers.
    fn label(&self) -> String;
    /// Decides where and when a change belongs.
    fn stamp(&self, change: &Change) -> Stamp;
    /// Sends changes; a verdict for each.
    fn send(&self, ops: &[Arc<Op>]) -> Vec<Verdict>;
    /// A number that changes when any server has restarted since, and with it may have lost what it confirmed. `None`
    /// while that is not clear.
    fn life(&self) -> Result<Option<u64>>;
    /// A server has restarted: what was taken for known to be there may not be.
    fn forget(&self);
    fn namespace(&self) -> Result<Option<Namespace>>;
    /// Saves a namespace unless there is another one already.
    fn agree(&self, namespace: &Namespace) -> Result<()>;
    fn get(&self, id: BlockId, limit: Option<Duration>) -> Result<Option<Vec<u8>>>;
    /// Shows every block's id, stamp and summary.
    fn list(&self, visit: &mut ShowBlock<'_>) -> Result<()>;
    /// The same for blocks of one lane from `first` on and before page `end`.
    fn list_range(&self, first: BlockId, end: u64, visit: &mut ShowBlock<'_>) -> Result<()>;
    fn news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()>;
    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()>;
    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()>;
    /// Requests under way, and how many may be.
    fn in_flight(&self) -> (u32, u32);
    fn close(&self);
}
