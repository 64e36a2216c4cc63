//! What keeps changes safe on their way to a server that may be away, slow, or killed.
//!
//! Every change is written to the *spool* first: files in a local directory. Then it is sent. What the server has
//! confirmed stays in the spool for the *window*, because a confirmation is not durability: a server that syncs its
//! commit log every ten seconds loses the last of them when it is killed. When a server has restarted, all of the
//! window is sent again. What could not be sent is synced to disk and thereby safe, and waits: the spool's *overflow*,
//! which drains, oldest first, once the server answers. What can never be written goes to the dead letters.
//!
//! ```text
//!           fresh ──sent──► confirmed ──window passed, no server restarted──► forgotten
//!             │                 │
//!             │ not sent,       │ a server restarted
//!             ▼ synced          ▼
//!           waiting ◄───────────┘          refused for good ──► dead letter
//!             └──drained──► confirmed
//! ```

mod away;
pub(crate) mod breaker;
pub(crate) mod dead;
pub(crate) mod home;
pub(crate) mod mend;
pub(crate) mod record;
pub(crate) mod remote;
pub(crate) mod spool;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, TierFigures, Tombstone};
use crate::tiers::shield::breaker::Breaker;
use crate::tiers::shield::dead::DeadLetters;
use crate::tiers::shield::home::Home;
use crate::tiers::shield::remote::{Change, Op, Remote, ShowBlock, Stamp, Verdict};
use crate::tiers::shield::spool::{Spool, State};

/// How far apart two looks at the servers' lives are, at least, when all is well.
const LIFE_TICK: Duration = Duration::from_millis(1000);
/// Bytes that are drained in one go, about.
const DRAIN_SLICE: u64 = 1 << 20;
/// How often to look after changes that are under way.
const KEEP_TICK: Duration = Duration::from_millis(250);
/// What is held of a change while it is sent: the store's copy, this one's, and the driver's.
const COPIES: u64 = 3;

/// The numbers that bound a shield.
#[derive(Clone, Debug)]
pub(crate) struct Limits {
    /// How long a confirmed change is kept to be sent again.
    pub(crate) window: Duration,
    /// Bytes of the spool at most.
    pub(crate) spool_bytes: u64,
    /// Bytes a second that the overflow drains with.
    pub(crate) drain_rate: u64,
}

/// A cold tier in front of a server.
pub(crate) struct Shield<R> {
    pub(crate) remote: R,
    limits: Limits,
    dir: PathBuf,
    /// What the directory knows of the namespace; `None` before it is known.
    home: Mutex<Option<Home>>,
    /// The first page number of this opening.
    first: AtomicU64,
    /// The store opened while the servers were away, and they have not been reached since.
    unknown: AtomicBool,
    spool: Mutex<Spool>,
    dead: Arc<DeadLetters>,
    breaker: Mutex<Breaker>,
    /// Whoever holds this drains.
    keeper: Mutex<Keeper>,
    /// Counts the restarts of servers that were seen.
    restarts: AtomicU64,
    resent: AtomicU64,
    drained: AtomicU64,
    /// Blocks of which the server has shown a later version than there is here.
    newer: Mutex<HashMap<BlockId, i64>>,
    /// Bytes of changes that are being sent.
    sending: AtomicU64,
    last_error: Mutex<Option<String>>,
}

#[derive(Default)]
struct Keeper {
    /// What the servers' lives were at the last look.
    life: Option<u64>,
    looked: Option<Instant>,
    /// Bytes that may be drained now; less than none after a block that was larger.
    credit: i64,
    credited: Option<Instant>,
}

impl<R: Remote> Shield<R> {
    /// Takes a local directory into use, and with it what an earlier process left there.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyOpen`] when another store has the directory, [`ErrorKind::Io`] when it cannot be used.
    pub(crate) fn open(remote: R, dir: &Path, limits: Limits) -> Result<Self> {
        let dead = Arc::new(DeadLetters::open(&dir.join("dead"))?);
        let spool = Spool::open(&dir.join("spool"), limits.spool_bytes, &dead)?;
        Ok(Self {
            remote,
            limits,
            dir: dir.to_path_buf(),
            home: Mutex::default(),
            first: AtomicU64::new(0),
            unknown: AtomicBool::new(false),
            spool: Mutex::new(spool),
            dead,
            breaker: Mutex::default(),
            keeper: Mutex::default(),
            restarts: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            drained: AtomicU64::new(0),
            newer: Mutex::default(),
            sending: AtomicU64::new(0),
            last_error: Mutex::default(),
        })
    }

    pub(crate) fn dead_letters(&self) -> &Arc<DeadLetters> {
        &self.dead
    }

    /// Puts a dead letter on its way again.
    ///
    /// # Errors
    /// When it cannot be read, or the spool has no room for it.
    pub(crate) fn replay(&self, name: &str) -> Result<()> {
        let (block, stamp) = self.dead.read(name)?;
        let change = Change::Block(block);
        // Its own stamp, so that it does not replace what came after it.
        let stamp = if stamp == Stamp::default() { self.remote.stamp(&change) } else { stamp };
        self.write_ops(vec![Arc::new(Op { stamp, change })])?;
        // If it was refused once more, another letter has taken its place.
        if self.dead.has(name) { self.dead.discard(name) } else { Ok(()) }
    }

    /// The highest page number of the spool's blocks.
    pub(crate) fn last_seq(&self) -> Option<u64> {
        let spooled = self.spool.lock().blocks().map(|(id, _)| id.first_seq).max();
        spooled.max(self.dead.last_seq())
    }

    fn write(&self, changes: Vec<Change>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let stamped = |change| Arc::new(Op { stamp: self.remote.stamp(&change), change });
        self.write_ops(changes.into_iter().map(stamped).collect())
    }

    fn write_ops(&self, ops: Vec<Arc<Op>>) -> Result<()> {
        self.mark(&ops)?;
        let restarts = self.restarts.load(Ordering::SeqCst);
        let serials = self.spool.lock().append(&ops)?;
        let verdicts = self.send(&ops);
        let (left, outcome) = self.settle(&serials, &ops, verdicts, restarts);
        if let Err(error) = outcome {
            // Whoever puts them is told, and keeps them.
            self.spool.lock().take_back(&left);
            return Err(error);
        }
        if left.is_empty() {
            return Ok(());
        }
        // Synced outside of the lock: reads look into the spool, too.
        let files = self.spool.lock().files_of(&left);
        let synced =
            files.and_then(|files| if cfg!(canary = "unsynced-overflow") { Ok(()) } else { files.sync() });
        if let Err(error) = synced {
            self.spool.lock().take_back(&left);
            return Err(error);
        }
        self.spool.lock().set_state(&left, State::Waiting);
        for (_, op) in serials.iter().zip(&ops).filter(|(serial, _)| left.contains(serial)) {
            self.supersede(op);
        }
        Ok(())
    }

    /// A change is safe: letters of earlier versions of its block are of no use any more.
    fn supersede(&self, op: &Op) {
        if let Change::Block(block) = &op.change {
            self.dead.supersede(block.id, op.stamp.micros);
        }
    }

    /// Sends changes unless the server is known to be away.
    fn send(&self, ops: &[Arc<Op>]) -> Vec<Verdict> {
        if self.breaker.lock().is_open() {
            return ops.iter().map(|_| Verdict::Later(None)).collect();
        }
        let bytes: u64 = ops.iter().map(|op| op.len()).sum();
        self.sending.fetch_add(bytes, Ordering::Relaxed);
        let verdicts = self.remote.send(ops);
        self.sending.fetch_sub(bytes, Ordering::Relaxed);
        let mut failure = None;
        for verdict in &verdicts {
            if let Verdict::Later(Some(error)) | Verdict::Never(error) = verdict {
                self.note(error);
            }
            if let Verdict::Later(error) = verdict {
                failure = Some(error);
            }
        }
        let mut breaker = self.breaker.lock();
        match failure {
            Some(_) => breaker.failed(clock::now()),
            None => breaker.succeeded(),
        }
        verdicts
    }

    fn note(&self, error: &Error) {
        *self.last_error.lock() = Some(error.to_string());
    }

    /// Notes what the server said. Gives the changes that it does not have, or may have lost again: `restarts` is
    /// how many were seen before they were sent. Those are among them that could not become dead letters, and why.
    fn settle(
        &self,
        serials: &[u64],
        ops: &[Arc<Op>],
        verdicts: Vec<Verdict>,
        restarts: u64,
    ) -> (Vec<u64>, Result<()>) {
        let now = clock::now();
        let mut left = Vec::new();
        let mut outcome = Ok(());
        for ((serial, op), verdict) in serials.iter().zip(ops).zip(verdicts) {
            match verdict {
                Verdict::Done => {
                    // Under the lock under which a restart is noted.
                    let mut spool = self.spool.lock();
                    if self.limits.window.is_zero() {
                        spool.replace(*serial);
                    } else if self.restarts.load(Ordering::SeqCst) == restarts {
                        spool.set_state(&[*serial], State::Confirmed(now));
                    } else {
                        left.push(*serial);
                        continue;
                    }
                    drop(spool);
                    self.supersede(op);
                }
                Verdict::Later(_) => left.push(*serial),
                Verdict::Never(error) => match &op.change {
                    Change::Block(block) => match self.dead.put(block, op.stamp, &error.to_string()) {
                        Ok(()) => self.spool.lock().replace(*serial),
                        Err(error) => {
                            left.push(*serial);
                            outcome = Err(error);
                        }
                    },
                    // Names and notes are small; what is wrong with them is wrong with the tables, and will be mended.
                    _ => left.push(*serial),
                },
            }
        }
        (left, outcome)
    }

    /// Looks whether a server has restarted, lets go what is safe, and sends what is not.
    fn keep(&self) -> Result<()> {
        let Some(mut keeper) = self.keeper.try_lock() else { return Ok(()) };
        let now = clock::now();
        let idle = self.spool.lock().is_empty();
        let due = keeper.looked.is_none_or(|at| now.saturating_duration_since(at) >= LIFE_TICK);
        // Only this tries a server that was away; whoever writes meanwhile leaves it to the overflow.
        let wanted = !idle || self.breaker.lock().is_open();
        if wanted && due && self.breaker.lock().lets_through(now) {
            keeper.looked = Some(now);
            self.look(&mut keeper, now)?;
        }
        self.drain(&mut keeper)
    }

    fn look(&self, keeper: &mut Keeper, now: Instant) -> Result<()> {
        let joined = if self.unknown.load(Ordering::SeqCst) { self.rejoin() } else { Ok(()) };
        let life = match joined.and_then(|()| self.remote.life()) {
            Ok(Some(life)) => life,
            Ok(None) => return Ok(()),
            Err(error) => {
                self.note(&error);
                self.breaker.lock().failed(clock::now());
                return Err(error);
            }
        };
        self.breaker.lock().succeeded();
        let before = keeper.life.replace(life);
        let mut spool = self.spool.lock();
        if before == Some(life) {
            // Whoever confirmed them has run without a break until after the look began, so it has synced them.
            if let Some(limit) = now.checked_sub(self.limits.window) {
                spool.release_confirmed(limit);
            }
        } else {
            // A node is another process than before; or it was never asked what it is, which says no more.
            self.restarts.fetch_add(1, Ordering::SeqCst);
            let again = spool.unconfirm();
            self.resent.fetch_add(again.len() as u64, Ordering::Relaxed);
            self.remote.forget();
            self.newer.lock().clear();
            let files = spool.files_of(&again);
            drop(spool);
            // Only here are they now.
            return files.and_then(|files| files.sync()).inspect_err(|error| self.note(error));
        }
        Ok(())
    }

    fn drain(&self, keeper: &mut Keeper) -> Result<()> {
        let now = clock::now();
        let passed =
            keeper.credited.replace(now).map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let rate = i64::try_from(self.limits.drain_rate).unwrap_or(i64::MAX);
        let earned = (passed.as_secs_f64().min(1.0) * rate as f64) as i64;
        // What was not used is not saved up: a server that comes back is not to be flooded.
        keeper.credit = keeper.credit.saturating_add(earned).min(rate);
        while keeper.credit > 0 {
            if self.breaker.lock().is_open() {
                return Ok(());
            }
            let slice =
                self.spool.lock().oldest_waiting(DRAIN_SLICE.min(keeper.credit as u64), &self.dead)?;
            if slice.is_empty() {
                return Ok(());
            }
            let bytes: u64 = slice.iter().map(|(_, op)| op.len()).sum();
            keeper.credit = keeper.credit.saturating_sub(bytes as i64);
            let (serials, ops): (Vec<u64>, Vec<Arc<Op>>) = slice.into_iter().unzip();
            let restarts = self.restarts.load(Ordering::SeqCst);
            let verdicts = self.send(&ops);
            let (left, outcome) = self.settle(&serials, &ops, verdicts, restarts);
            // What is here was acknowledged: it stays, whatever happened.
            self.spool.lock().set_state(&left, State::Waiting);
            outcome?;
            self.drained.fetch_add((serials.len() - left.len()) as u64, Ordering::Relaxed);
            if !left.is_empty() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Shows what the server has, and what of the chosen blocks only the spool or the dead letters have.
    fn list_with(
        &self,
        chosen: impl Fn(BlockId) -> bool,
        ask: impl FnOnce(&mut ShowBlock<'_>) -> Result<()>,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut local: HashMap<BlockId, i64> =
            self.spool.lock().blocks().filter(|(id, _)| chosen(*id)).collect();
        for (id, micros, _) in self.dead.blocks().into_iter().filter(|(id, ..)| chosen(*id)) {
            let latest = local.entry(id).or_insert(micros);
            *latest = micros.max(*latest);
        }
        let mut show = |id: BlockId, micros, summary: &[u8]| {
            // Of several versions the latest counts.
            if let Some(stamp) = local.get(&id).copied() {
                if stamp > micros {
                    return Ok(());
                }
                local.remove(&id);
                if stamp < micros {
                    // It was replaced, and its file is still here. Nor may it go: nobody may have confirmed the later one.
                    self.newer.lock().insert(id, micros);
                }
            }
            visit(id, summary)
        };
        if !self.awaits_server() {
            ask(&mut show)?;
        }
        for id in local.into_keys() {
            if let Some(block) = self.local(id)? {
                visit(id, &block.summary)?;
            }
        }
        Ok(())
    }

    /// The block as the spool or the dead letters have it.
    fn local(&self, id: BlockId) -> Result<Option<ColdBlock>> {
        let mut spool = self.spool.lock();
        match spool.block_stamp(id) {
            Some(micros) if self.dead.stamp(id) < Some(micros) => spool.block(id),
            _ => {
                drop(spool);
                self.dead.find(id)
            }
        }
    }

    /// The latest version of a block.
    fn find(&self, id: BlockId, limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let newer = self.newer.lock().get(&id).copied();
        if newer.is_some_and(|newer| Some(newer) > self.spool.lock().block_stamp(id).max(self.dead.stamp(id)))
            && let Some(bytes) = self.remote.get(id, limit)?
        {
            return Ok(Some(bytes));
        }
        match self.local(id)? {
            Some(block) => Ok(Some(block.bytes)),
            None => self.remote.get(id, limit),
        }
    }
}

impl<R: Remote> ColdTier for Shield<R> {
    fn begin(&self, classes: &[ClassConfig]) -> Result<u64> {
        let first = match self.remote.begin(classes, self.last_seq().unwrap_or(0)) {
            Ok(first) => first,
            Err(error) if matches!(error.kind(), ErrorKind::Cold | ErrorKind::Timeout) => {
                return self.begin_away(classes, error);
            }
            Err(error) => return Err(error),
        };
        self.first.store(first, Ordering::SeqCst);
        // What is confirmed from now on is compared with this.
        self.keeper.lock().life = self.remote.life()?;
        self.write(vec![Change::Writer(first)])?;
        Ok(first)
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        if self.awaits_server() {
            return Ok(self.home.lock().as_ref().map(|home| home.namespace.clone()));
        }
        let found = self.remote.namespace()?;
        if let Some(namespace) = &found {
            self.remember(namespace)?;
        }
        Ok(found)
    }

    fn awaits_server(&self) -> bool {
        self.unknown.load(Ordering::SeqCst)
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        if self.awaits_server() {
            return Err(Error::new(
                ErrorKind::Cold,
                "classes can only be added to a namespace while its cluster is there; open with those of before",
            ));
        }
        self.remote.agree(namespace)?;
        // Whoever was first has decided; that is what must survive.
        match self.remote.namespace()? {
            Some(saved) => {
                self.remember(&saved)?;
                self.write(vec![Change::Namespace(saved)])
            }
            None => Err(Error::new(ErrorKind::Cold, "the cluster took the namespace and does not have it")),
        }
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.write(blocks.iter().cloned().map(Change::Block).collect())
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.find(id, None)
    }

    fn get_within(&self, id: BlockId, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.find(id, Some(limit))
    }

    fn delete(&self, _: &[BlockId]) -> Result<()> {
        // The tables expire by themselves.
        Ok(())
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.list_with(|_| true, |show| self.remote.list(show), visit)
    }

    fn list_range(
        &self,
        first: BlockId,
        end: u64,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let chosen = |id: BlockId| {
            (id.partition, id.class) == (first.partition, first.class)
                && (first.first_seq..end).contains(&id.first_seq)
        };
        self.list_with(chosen, |show| self.remote.list_range(first, end, show), visit)
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.write(vec![Change::Names(names.to_vec())])
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        if !self.awaits_server() {
            self.remote.names(visit)?;
        }
        let others = self.spool.lock().others()?;
        for change in others {
            if let Change::Names(names) = &change.change {
                names.iter().for_each(|(name, stream)| visit(name, *stream));
            }
        }
        Ok(())
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.write(vec![Change::Tombstone(tombstone)])
    }

    fn delete_tombstones(&self, _: &[Tombstone]) -> Result<()> {
        Ok(())
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        if !self.awaits_server() {
            self.remote.tombstones(visit)?;
        }
        let others = self.spool.lock().others()?;
        for change in others {
            if let Change::Tombstone(stone) = &change.change {
                visit(*stone);
            }
        }
        Ok(())
    }

    fn maintain(&self) -> Result<()> {
        self.keep()
    }

    /// `None`: nothing is under way, nobody is away.
    fn maintain_every(&self) -> Option<Duration> {
        let rests = self.spool.lock().is_empty() && !self.breaker.lock().is_open();
        (!rests).then_some(KEEP_TICK)
    }

    fn memory_bytes(&self) -> u64 {
        self.spool.lock().memory() + self.sending.load(Ordering::Relaxed) * COPIES
    }

    fn news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        if self.breaker.lock().is_open() {
            return Ok(());
        }
        self.remote.news(visit)
    }

    fn figures(&self) -> TierFigures {
        let (in_flight, in_flight_limit) = self.remote.in_flight();
        let spool = self.spool.lock();
        let (waiting, confirmed) = spool.sums();
        TierFigures {
            away: self.breaker.lock().is_open(),
            overflow: waiting.0,
            overflow_bytes: waiting.1,
            resendable: confirmed.0,
            resendable_bytes: confirmed.1,
            resent: self.resent.load(Ordering::Relaxed),
            drained: self.drained.load(Ordering::Relaxed),
            dead_letters: self.dead.len(),
            in_flight,
            in_flight_limit,
            last_error: self.last_error.lock().clone(),
        }
    }

    fn close(&self) {
        // What is in the spool is sent again by whoever opens the directory next.
        let _ = self.spool.lock().close();
        self.remote.close();
    }
}

#[cfg(test)]
mod tests;
