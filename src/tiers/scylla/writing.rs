//! What is written to the cluster, and how often it is tried.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use scylla::statement::batch::{Batch, BatchType};

use crate::clock::Deadline;
use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, Namespace, Tombstone};
use crate::tiers::directory::writer_of;
use crate::tiers::scylla::cluster::{Cluster, Inner, applied, execute, label, side_by_side};
use crate::tiers::scylla::errors::{self, Failure, Meaning};
use crate::tiers::scylla::pace::Answer;
use crate::tiers::scylla::schema::NAME_BUCKETS;
use crate::tiers::shield::breaker::jitter;
use crate::tiers::shield::remote::{Change, Op, Remote, ShowBlock, Stamp, Verdict};

/// Bytes of a block that go into one row: cells of megabytes stall servers (scylladb#4649).
const PIECE: usize = 256 << 10;
/// The first and the longest pause before a change is tried again.
const PAUSES: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// Changes of one call that are under way at once, at most; the pace decides how many are.
const SIDE_BY_SIDE: usize = 128;

/// What is sent as one thing, and tried again as one.
#[derive(Clone)]
enum Part {
    /// A change; of a block all but its summary, with which it is there.
    Change(Arc<Op>),
    /// Summaries of blocks that go to one partition of the tables: that is one mutation for the servers, and costs them
    /// little more than one of them alone.
    Summaries(Vec<Arc<Op>>),
}

/// The blocks that are there but for their summaries, by the partition that these go to.
fn by_partition(blocks: Vec<(usize, Arc<Op>)>) -> Vec<Vec<(usize, Arc<Op>)>> {
    let mut groups: HashMap<_, Vec<(usize, Arc<Op>)>> = HashMap::new();
    for (at, op) in blocks {
        let Change::Block(ColdBlock { id, .. }) = &op.change else { continue };
        let key = (id.class, id.partition, writer_of(id.first_seq), op.stamp.period);
        groups.entry(key).or_default().push((at, op));
    }
    groups.into_values().collect()
}

impl Inner {
    /// Sends changes until there is a verdict on each.
    async fn send_all(self: Arc<Self>, ops: Vec<Arc<Op>>) -> Result<Vec<(usize, Verdict)>, Failure> {
        let deadline = Deadline::after(self.config.retry_for);
        let send = |at: usize, part: Part| {
            let inner = self.clone();
            async move { Ok((at, inner.send(part, deadline).await)) }
        };
        let (mut found, mut whole) = (Vec::with_capacity(ops.len()), Vec::new());
        let changes = ops.iter().cloned().enumerate().map(|(at, op)| send(at, Part::Change(op)));
        side_by_side(SIDE_BY_SIDE, changes, |(at, verdict)| match (&verdict, &ops[at].change) {
            (Verdict::Done, Change::Block(_)) => whole.push((at, ops[at].clone())),
            _ => found.push((at, verdict)),
        })
        .await?;
        let mut groups = by_partition(whole);
        while !groups.is_empty() {
            let parts = groups.iter().map(|group| group.iter().map(|(_, op)| op.clone()).collect());
            let parts: Vec<Part> = parts.map(Part::Summaries).collect();
            let (mut outcomes, mut alone) = (Vec::new(), Vec::new());
            let work = parts.into_iter().enumerate().map(|(at, part)| send(at, part));
            side_by_side(SIDE_BY_SIDE, work, |outcome| outcomes.push(outcome)).await?;
            for (number, verdict) in outcomes {
                let group = std::mem::take(&mut groups[number]);
                match &verdict {
                    // One of them must not take the others with it.
                    Verdict::Never(_) if group.len() > 1 => alone.extend(group),
                    _ => found.extend(group.into_iter().map(|(at, _)| (at, verdict.again()))),
                }
            }
            groups = alone.into_iter().map(|one| vec![one]).collect();
        }
        Ok(found)
    }

    /// Sends something until there is a verdict.
    async fn send(self: Arc<Self>, part: Part, deadline: Deadline) -> Verdict {
        let mut pause = PAUSES[0];
        let mut fit = false;
        loop {
            let turn = self.pace.enter().await;
            let (outcome, answer) = match &part {
                Part::Change(op) => (self.write(op).await, Answer::Done),
                // They are so small that they say nothing of how fast blocks are written.
                Part::Summaries(ops) => (self.write_summaries(ops).await, Answer::Other),
            };
            let failure = match outcome {
                Ok(()) => {
                    turn.end(answer);
                    return Verdict::Done;
                }
                Err(failure) => failure,
            };
            let busy = failure.meaning == Meaning::Busy;
            turn.end(if busy { Answer::Overload } else { Answer::Other });
            match failure.meaning {
                Meaning::Busy if !deadline.has_passed() => {
                    tokio::time::sleep(jitter(pause)).await;
                    pause = (pause * 2).min(PAUSES[1]);
                }
                // Tables that were missing may have been made since: once more, now that they are right.
                Meaning::Invalid if !fit && self.tables_fit().await => fit = true,
                Meaning::Invalid if fit => return Verdict::Never(failure.error),
                Meaning::Busy | Meaning::Away | Meaning::Unprepared | Meaning::Invalid => {
                    return Verdict::Later(Some(failure.error));
                }
                Meaning::Refused => return Verdict::Never(failure.error),
            }
        }
    }

    async fn write(&self, op: &Op) -> Result<(), Failure> {
        let connected = self.connected()?;
        let statements = Self::statements(&connected)?;
        let (namespace, micros) = (&self.config.namespace, op.stamp.micros);
        match &op.change {
            Change::Block(block) => self.write_block(block, op.stamp).await,
            Change::Names(names) => {
                for (name, stream) in names {
                    let bucket = (u64::from(crc32fast::hash(name.as_bytes())) % NAME_BUCKETS) as i32;
                    let values = (namespace, bucket, name, *stream as i64, micros);
                    execute(&connected, &statements.put_name, values).await?;
                }
                Ok(())
            }
            Change::Tombstone(stone) => {
                let class = class_of(statements.classes.get(usize::from(stone.class)))?;
                let values = (namespace, stone.partition as i32, stone.id as i64, stone.seq as i64, micros);
                execute(&connected, &class.put_removed, values).await
            }
            Change::Namespace(saved) => {
                // If it is there, this changes nothing: it is only for a server that has lost it. Of two lists of classes the
                // longer one counts, whatever the clocks of their writers say.
                let stamp = saved.classes.len() as i64;
                let values = (namespace, saved.partitions as i32, saved.seed as i64, &saved.classes, stamp);
                execute(&connected, &statements.put_namespace, values).await
            }
            Change::Writer(first) => {
                execute(&connected, &statements.put_writer, (namespace, *first as i64, micros / 1000, micros))
                    .await
            }
        }
    }

    /// The period first, so that the block is found; the summary comes last, so that it is found only when it is whole.
    async fn write_block(&self, block: &ColdBlock, stamp: Stamp) -> Result<(), Failure> {
        let connected = self.connected()?;
        let id = block.id;
        let class = class_of(Self::statements(&connected)?.classes.get(usize::from(id.class)))?;
        let (namespace, lane, writer) =
            (&self.config.namespace, id.partition as i32, writer_of(id.first_seq) as i32);
        let key = (id.class, id.partition, writer, stamp.period);
        if !self.periods.lock().contains(&key) {
            let values = (namespace, lane, writer, stamp.period, stamp.micros);
            execute(&connected, &class.put_period, values).await?;
            self.periods.lock().insert(key);
        }
        let pieces = block.bytes.len().div_ceil(PIECE).max(1) as i32;
        for piece in 0..pieces {
            let rest = &block.bytes[piece as usize * PIECE..];
            let part = &rest[..rest.len().min(PIECE)];
            let first = id.first_seq as i64;
            let values = (namespace, lane, writer, stamp.period, first, piece, pieces, part, stamp.micros);
            execute(&connected, &class.put_piece, values).await?;
        }
        Ok(())
    }

    async fn write_summaries(&self, ops: &[Arc<Op>]) -> Result<(), Failure> {
        let connected = self.connected()?;
        let statements = Self::statements(&connected)?;
        let blocks = ops.iter().filter_map(|op| match &op.change {
            Change::Block(block) => Some((block, op.stamp)),
            _ => None,
        });
        let Some((first, _)) = blocks.clone().next() else { return Ok(()) };
        let class = class_of(statements.classes.get(usize::from(first.id.class)))?;
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        blocks.clone().for_each(|_| batch.append_statement(class.put_summary.clone()));
        let row = |(block, stamp): (&'_ ColdBlock, Stamp)| {
            let (lane, writer) = (block.id.partition as i32, writer_of(block.id.first_seq) as i32);
            let first = block.id.first_seq as i64;
            let summary = block.summary.clone();
            (&self.config.namespace, lane, writer, stamp.period, first, summary, stamp.micros)
        };
        let rows: Vec<_> = blocks.clone().map(row).collect();
        let outcome = connected.session.batch(&batch, rows).await;
        outcome.map_err(|error| errors::of_execution("write to", error))?;
        blocks.for_each(|(block, stamp)| self.places.note(block.id, stamp.period));
        Ok(())
    }
}

fn class_of<T>(class: Option<T>) -> Result<T, Failure> {
    class.ok_or_else(|| Failure {
        meaning: Meaning::Refused,
        error: Error::new(ErrorKind::InvalidInput, "the store has no class of that number"),
    })
}

impl Remote for Cluster {
    fn begin(&self, classes: &[ClassConfig], last_seq: u64) -> Result<u64> {
        let opened = self.micros() / 1000;
        self.inner.set_classes(classes);
        // Creating tables takes a cluster seconds.
        self.run(self.patience(60), |inner| async move {
            inner.begin().await?;
            inner.take_writer(last_seq, opened).await
        })
    }

    fn begin_away(&self, classes: &[ClassConfig], first: u64) {
        self.inner.set_classes(classes);
        self.inner.writer.store(writer_of(first), Ordering::Release);
        self.inner.first.store(first, Ordering::Release);
    }

    fn rejoin(&self) -> Result<()> {
        self.run(self.patience(60), |inner| async move { inner.begin().await })
    }

    fn label(&self) -> String {
        label(&self.inner.config)
    }

    fn stamp(&self, change: &Change) -> Stamp {
        let micros = self.micros();
        let period = match change {
            Change::Block(block) => {
                let times = self.inner.times.read().get(usize::from(block.id.class)).copied();
                let bucket = times.map_or(0, |times| times.bucket(micros));
                let len = (block.bytes.len() + block.summary.len()) as u64;
                self.inner.places.assign(block.id, len, bucket, self.inner.config.partition_bytes)
            }
            _ => 0,
        };
        Stamp { micros, period }
    }

    fn send(&self, ops: &[Arc<Op>]) -> Vec<Verdict> {
        let mut verdicts: Vec<Option<Verdict>> = ops.iter().map(|_| None).collect();
        let work = ops.to_vec();
        // A pace that has slowed down makes a queue of its own.
        let limit = self.inner.config.retry_for + self.patience(6 + ops.len() as u32 / 4);
        let outcome = self.run(limit, |inner| inner.send_all(work));
        match outcome {
            Ok(found) => found.into_iter().for_each(|(at, verdict)| verdicts[at] = Some(verdict)),
            Err(error) => {
                if let Some(first) = verdicts.first_mut() {
                    *first = Some(Verdict::Later(Some(error)));
                }
            }
        }
        verdicts.into_iter().map(|verdict| verdict.unwrap_or(Verdict::Later(None))).collect()
    }

    fn life(&self) -> Result<Option<u64>> {
        self.run(self.inner.config.connect_timeout.saturating_mul(6), Inner::life)
    }

    fn forget(&self) {
        self.inner.periods.lock().clear();
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        self.read_namespace()
    }

    fn agree(&self, namespace: &Namespace) -> Result<()> {
        let namespace = namespace.clone();
        self.run(self.patience(4), |inner| async move {
            let connected = inner.connected()?;
            let statements = Inner::statements(&connected)?;
            let Namespace { partitions, seed, classes } = &namespace;
            let values = (&inner.config.namespace, *partitions as i32, *seed as i64, classes);
            if applied(&connected, &statements.first_namespace, values).await? {
                return Ok(());
            }
            // Somebody was first. Classes can be added to a namespace, if nobody adds others meanwhile.
            let Some(saved) = inner.saved_namespace().await? else { return Ok(()) };
            let same = (saved.partitions, saved.seed) == (*partitions, *seed);
            if same && classes.len() > saved.classes.len() && classes.starts_with(&saved.classes) {
                let values = (classes, &inner.config.namespace, &saved.classes);
                applied(&connected, &statements.more_classes, values).await?;
            }
            Ok(())
        })
    }

    fn get(&self, id: BlockId, limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        self.read(id, limit)
    }

    fn list(&self, visit: &mut ShowBlock<'_>) -> Result<()> {
        self.read_all(visit)
    }

    fn list_range(&self, first: BlockId, end: u64, visit: &mut ShowBlock<'_>) -> Result<()> {
        self.read_range(first, end, visit)
    }

    fn news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.read_news(visit)
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.read_names(visit)
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.read_tombstones(visit)
    }

    fn in_flight(&self) -> (u32, u32) {
        self.inner.pace.figures()
    }

    fn close(&self) {
        self.shut_down();
    }
}
