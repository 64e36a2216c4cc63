//! A server that is away, fails, answers late or twice, refuses, restarts and forgets, as a seed says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::clock;
use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, Namespace, Tombstone};
use crate::tiers::directory::{WRITER_SHIFT, writer_of};
use crate::tiers::files::faults::Random;
use crate::tiers::shield::remote::{Change, Op, Remote, ShowBlock, Stamp, Verdict};

/// Blocks that begin with it are never taken by a server that is picky.
pub(super) const REFUSED: u8 = 13;
/// What the server has had for so long is on its disk.
const SYNCED_AFTER: Duration = Duration::from_secs(8);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Mood {
    #[default]
    Takes,
    Away,
    /// Each change has a fate of its own.
    Flaky,
}

/// What is there of one thing: its stamp, when it came, and what it is.
type Version<T> = (i64, Instant, T);

#[derive(Default)]
pub(super) struct State {
    pub(super) mood: Mood,
    pub(super) picky: bool,
    /// Whether what came lately is gone after a restart.
    pub(super) forgets: bool,
    pub(super) blocks: BTreeMap<BlockId, Vec<Version<ColdBlock>>>,
    pub(super) names: BTreeMap<String, Vec<Version<u64>>>,
    pub(super) stones: BTreeMap<u64, Vec<Version<Tombstone>>>,
    pub(super) writers: BTreeSet<u64>,
    /// The stamps of what it once had.
    lost: BTreeSet<i64>,
    /// Sent, and not come yet.
    late: Vec<std::sync::Arc<Op>>,
    namespace: Option<Namespace>,
    life: u64,
    /// The life that was asked for last.
    pub(super) told_life: u64,
    /// The last that was given.
    pub(super) stamp: i64,
    /// The stamps of everything that was sent since this was emptied.
    pub(super) sent: Vec<i64>,
    random: Random,
}

#[derive(Default)]
pub(super) struct Server(pub(super) Mutex<State>);

fn insert<T>(versions: &mut Vec<Version<T>>, stamp: i64, value: T) {
    let at = versions.partition_point(|(other, ..)| *other <= stamp);
    versions.insert(at, (stamp, clock::now(), value));
}

impl State {
    fn take(&mut self, op: &Op) {
        let micros = op.stamp.micros;
        self.lost.remove(&micros);
        match &op.change {
            Change::Block(block) => {
                insert(self.blocks.entry(block.id).or_default(), micros, block.clone());
            }
            Change::Names(names) => names
                .iter()
                .for_each(|(name, id)| insert(self.names.entry(name.clone()).or_default(), micros, *id)),
            Change::Tombstone(stone) => insert(self.stones.entry(stone.id).or_default(), micros, *stone),
            Change::Writer(first) => {
                self.writers.insert(*first);
            }
            Change::Namespace(_) => {}
        }
    }

    fn answer(&mut self, op: &std::sync::Arc<Op>) -> Verdict {
        let refused = || Error::new(ErrorKind::Cold, "told to fail");
        self.sent.push(op.stamp.micros);
        if self.mood == Mood::Away {
            return Verdict::Later(Some(refused()));
        }
        if let Change::Block(block) = &op.change
            && self.picky
            && block.bytes.first() == Some(&REFUSED)
        {
            return Verdict::Never(refused());
        }
        match (self.mood, self.random.below(6)) {
            (Mood::Flaky, 0) => return Verdict::Later(Some(refused())),
            (Mood::Flaky, 1) => {
                self.take(op);
                return Verdict::Later(Some(refused()));
            }
            (Mood::Flaky, 2) => {
                self.late.push(op.clone());
                return Verdict::Later(Some(refused()));
            }
            // Twice, and the second time late.
            (Mood::Flaky, 3) => self.late.push(op.clone()),
            _ => {}
        }
        self.take(op);
        Verdict::Done
    }

    /// What is on its way comes, in any order.
    pub(super) fn come(&mut self) {
        while !self.late.is_empty() {
            let at = self.random.below(self.late.len() as u64) as usize;
            let op = self.late.swap_remove(at);
            self.take(&op);
        }
    }

    /// The server is another process than before.
    pub(super) fn restart(&mut self) {
        self.life += 1;
        self.late.clear();
        if self.forgets {
            let (now, random) = (clock::now(), &mut self.random);
            let mut stays = |came: Instant| now - came >= SYNCED_AFTER || random.below(2) == 0;
            let lost = &mut self.lost;
            let mut stays = |stamp: i64, came| stays(came) || !lost.insert(stamp);
            self.blocks.values_mut().for_each(|of| of.retain(|(stamp, came, _)| stays(*stamp, *came)));
            self.names.values_mut().for_each(|of| of.retain(|(stamp, came, _)| stays(*stamp, *came)));
            self.stones.values_mut().for_each(|of| of.retain(|(stamp, came, _)| stays(*stamp, *came)));
        }
    }

    /// Whether a restart has happened that nobody has asked about.
    pub(super) fn has_restarted(&self) -> bool {
        self.life != self.told_life
    }

    /// Whether there is anything that it had and has not got again.
    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Everything that has come is on the server's disk.
    pub(super) fn sync(&mut self) {
        let past = clock::now() - SYNCED_AFTER;
        self.blocks.values_mut().flatten().for_each(|(_, came, _)| *came = past);
        self.names.values_mut().flatten().for_each(|(_, came, _)| *came = past);
        self.stones.values_mut().flatten().for_each(|(_, came, _)| *came = past);
    }

    pub(super) fn block(&self, id: BlockId) -> Option<&ColdBlock> {
        self.blocks.get(&id)?.last().map(|(.., block)| block)
    }
}

impl Server {
    pub(super) fn new(seed: u64, forgets: bool) -> Self {
        Self(Mutex::new(State { random: Random(seed), forgets, life: 1, ..State::default() }))
    }

    fn asked(&self) -> Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.0.lock();
        match state.mood {
            Mood::Away => Err(Error::new(ErrorKind::Cold, "the test's server is away")),
            _ => Ok(state),
        }
    }
}

impl Remote for std::sync::Arc<Server> {
    fn begin(&self, _: &[ClassConfig], last_seq: u64) -> Result<u64> {
        let mut state = self.asked()?;
        let last = state.writers.last().copied().unwrap_or(0).max(last_seq);
        let first = (1 + writer_of(last)) << WRITER_SHIFT;
        state.writers.insert(first);
        Ok(first)
    }

    fn begin_away(&self, _: &[ClassConfig], _: u64) {}

    fn rejoin(&self) -> Result<()> {
        self.asked().map(drop)
    }

    fn label(&self) -> String {
        "k/n".into()
    }

    fn stamp(&self, _: &Change) -> Stamp {
        let mut state = self.0.lock();
        state.stamp += 1;
        Stamp { micros: state.stamp, period: 7 }
    }

    fn send(&self, ops: &[std::sync::Arc<Op>]) -> Vec<Verdict> {
        let mut state = self.0.lock();
        let mut verdicts: Vec<Verdict> = ops.iter().map(|op| state.answer(op)).collect();
        if state.mood == Mood::Flaky && state.random.below(20) == 0 {
            state.restart();
            // Or it says nothing any more.
            if state.random.below(2) == 0 {
                verdicts.iter_mut().filter(|verdict| matches!(verdict, Verdict::Done)).for_each(|verdict| {
                    *verdict = Verdict::Later(None);
                });
            }
        }
        verdicts
    }

    fn life(&self) -> Result<Option<u64>> {
        let mut state = self.asked()?;
        if state.mood == Mood::Flaky && state.random.below(4) == 0 {
            return Ok(None);
        }
        state.told_life = state.life;
        Ok(Some(state.life))
    }

    fn forget(&self) {}

    fn namespace(&self) -> Result<Option<Namespace>> {
        Ok(self.asked()?.namespace.clone())
    }

    fn agree(&self, namespace: &Namespace) -> Result<()> {
        self.asked()?.namespace.get_or_insert_with(|| namespace.clone());
        Ok(())
    }

    fn get(&self, id: BlockId, _: Option<Duration>) -> Result<Option<Vec<u8>>> {
        Ok(self.asked()?.block(id).map(|block| block.bytes.clone()))
    }

    fn list(&self, visit: &mut ShowBlock<'_>) -> Result<()> {
        let state = self.asked()?;
        state
            .blocks
            .iter()
            .filter_map(|(id, of)| Some((id, of.last()?)))
            .try_for_each(|(id, (micros, _, block))| visit(*id, *micros, &block.summary))
    }

    fn list_range(&self, first: BlockId, end: u64, visit: &mut ShowBlock<'_>) -> Result<()> {
        self.list(&mut |id, micros, summary| {
            if (first.first_seq..end).contains(&id.first_seq) { visit(id, micros, summary) } else { Ok(()) }
        })
    }

    fn news(&self, _: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        let state = self.asked()?;
        let there = state.names.iter().filter_map(|(name, of)| Some((name, of.last()?.2)));
        there.for_each(|(name, stream)| visit(name, stream));
        Ok(())
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.asked()?.stones.values().filter_map(|of| of.last()).for_each(|(.., stone)| visit(*stone));
        Ok(())
    }

    fn in_flight(&self) -> (u32, u32) {
        (0, 1)
    }

    fn close(&self) {}
}
