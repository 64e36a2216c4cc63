//! What is read from the cluster: blocks, and the lists that a store opens with.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::clock;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::block::BlockId;
use crate::tiers::cold::{Namespace, Tombstone};
use crate::tiers::directory::{WRITER_SHIFT, writer_of};
use crate::tiers::scylla::cluster::{Cluster, Inner, side_by_side};
use crate::tiers::scylla::errors::{Failure, Meaning};
use crate::tiers::scylla::places::Lane;
use crate::tiers::scylla::schema::NAME_BUCKETS;
use crate::tiers::scylla::session::{self, Connected};
use crate::tiers::shield::remote::ShowBlock;

/// The longest block that is believed: what the largest events make, and a page beside them.
const BLOCK_MAX: usize = 96 << 20;
/// Lanes whose lists are read at once.
const LANES: usize = 16;
/// Of so many looks for news one reads the periods of others from their beginning: blocks that drain from an overflow
/// come late.
const THOROUGH: u32 = 12;

/// How far the lists of other stores' blocks were read: by lane, then writer and period, the last block.
#[derive(Default)]
pub(crate) struct Seen {
    last: HashMap<Lane, HashMap<(i32, i64), i64>>,
    looked: Option<Instant>,
    looks: u32,
}

/// A block as the tables list it.
struct Listed {
    id: BlockId,
    period: i64,
    micros: i64,
    summary: Vec<u8>,
}

impl Inner {
    async fn read_block(self: Arc<Self>, id: BlockId, period: i64) -> Result<Option<Vec<u8>>, Failure> {
        // Few at once: a scan must not crowd out the writes.
        let _turn = self.reads.acquire().await;
        let connected = self.connected()?;
        let statements = &Self::statements(&connected)?.classes[usize::from(id.class)];
        let writer = writer_of(id.first_seq) as i32;
        let values = (&self.config.namespace, id.partition as i32, writer, period, id.first_seq as i64);
        let (mut bytes, mut found, mut wanted) = (Vec::new(), 0, 1);
        let corrupt = |what: &str| Error::corrupt(format!("cold block {id:?} {what}"));
        session::pages(
            &connected,
            &statements.pieces,
            values,
            |(piece, pieces, part): (i32, Option<i32>, Option<Vec<u8>>)| {
                if piece == 0 {
                    wanted = pieces.unwrap_or(0);
                }
                // An earlier cut of the block may have had more pieces.
                if piece >= wanted {
                    return Ok(());
                }
                let part = part.ok_or_else(|| corrupt("has an empty piece"))?;
                if piece != found || bytes.len() + part.len() > BLOCK_MAX {
                    return Err(corrupt("lacks a piece, or is longer than any"));
                }
                found += 1;
                bytes.extend_from_slice(&part);
                Ok(())
            },
        )
        .await?;
        if found == 0 {
            return Ok(None);
        }
        if found != wanted {
            let error = corrupt(&format!("has {found} of {wanted} pieces"));
            return Err(Failure { meaning: Meaning::Refused, error });
        }
        Ok(Some(bytes))
    }

    /// The blocks of a lane that are not this opening's own and come after those that `seen` names; `all`: also those
    /// of earlier openings with this one's number.
    async fn list_lane(
        self: Arc<Self>,
        lane: Lane,
        seen: HashMap<(i32, i64), i64>,
        all: bool,
    ) -> Result<Vec<Listed>, Failure> {
        let connected = self.connected()?;
        let statements = &Self::statements(&connected)?.classes[usize::from(lane.1)];
        let mut periods = Vec::new();
        let of_lane = (&self.config.namespace, lane.0 as i32);
        session::pages(&connected, &statements.periods, of_lane, |period: (i32, i64)| {
            periods.push(period);
            Ok(())
        })
        .await?;
        let own = self.writer.load(Ordering::Acquire);
        let first = self.first.load(Ordering::Acquire);
        let mut found = Vec::new();
        for (writer, period) in periods {
            let (after, before) = match i64::from(writer) == own as i64 {
                false => (seen.get(&(writer, period)).copied().unwrap_or(-1), i64::MAX),
                true if all && first > own << WRITER_SHIFT => (-1, first as i64),
                true => continue,
            };
            let range = (writer, period, after, before);
            found.extend(self.list_period(&connected, lane, range).await?);
        }
        Ok(found)
    }

    /// The blocks of a writer's period that come after a page and before another.
    async fn list_period(
        &self,
        connected: &Connected,
        lane: Lane,
        (writer, period, after, before): (i32, i64, i64, i64),
    ) -> Result<Vec<Listed>, Failure> {
        let statements = &Self::statements(connected)?.classes[usize::from(lane.1)];
        let mut found = Vec::new();
        let values = (&self.config.namespace, lane.0 as i32, writer, period, after, before);
        let take = |(first_seq, summary, micros): (i64, Option<Vec<u8>>, Option<i64>)| {
            let id = BlockId { partition: lane.0, class: lane.1, first_seq: first_seq as u64 };
            // A row without a summary is left of one that has expired.
            if let Some(summary) = summary {
                found.push(Listed { id, period, micros: micros.unwrap_or(0), summary });
            }
            Ok(())
        };
        session::pages(connected, &statements.summaries, values, take).await?;
        Ok(found)
    }
}

impl Inner {
    /// The namespace as the tables have it.
    pub(crate) async fn saved_namespace(&self) -> Result<Option<Namespace>, Failure> {
        let connected = self.connected()?;
        let statements = Self::statements(&connected)?;
        let mut found = None;
        let values = (&self.config.namespace,);
        let take = |(partitions, seed, classes): (Option<i32>, Option<i64>, Option<Vec<String>>)| {
            if let (Some(partitions), Some(seed)) = (partitions, seed) {
                found = Some(Namespace::new(partitions as u32, seed as u64, classes.unwrap_or_default()));
            }
            Ok(())
        };
        session::pages(&connected, &statements.namespace, values, take).await?;
        Ok(found)
    }
}

impl Cluster {
    fn lanes(&self) -> Vec<Lane> {
        let classes = self.inner.times.read().len() as u8;
        let partitions = self.inner.partitions.load(Ordering::Acquire);
        (0..partitions).flat_map(|partition| (0..classes).map(move |class| (partition, class))).collect()
    }

    /// Reads lists of blocks, and shows them as they come.
    fn read_lists(&self, fresh: bool, visit: &mut dyn FnMut(Listed) -> Result<()>) -> Result<()> {
        let lanes = self.lanes();
        let (sender, receiver) = mpsc::channel::<Result<(Lane, Vec<Listed>), Failure>>();
        let inner = self.inner.clone();
        let seen = if fresh { HashMap::new() } else { self.inner.seen.lock().last.clone() };
        let task = self.handle.spawn(async move {
            let work = lanes.into_iter().map(|lane| {
                let (inner, seen) = (inner.clone(), seen.get(&lane).cloned().unwrap_or_default());
                async move { Ok((lane, inner.list_lane(lane, seen, fresh).await?)) }
            });
            let outcome = side_by_side(LANES, work, |found| {
                let _ = sender.send(Ok(found));
            });
            if let Err(failure) = outcome.await {
                let _ = sender.send(Err(failure));
            }
        });
        loop {
            // Each lane is some requests of its own; a cluster that stops answering ends them.
            match receiver.recv_timeout(self.patience(60)) {
                Ok(Ok((lane, found))) => {
                    for listed in found {
                        self.inner.places.note(listed.id, listed.period);
                        let key = (writer_of(listed.id.first_seq) as i32, listed.period);
                        let first = listed.id.first_seq as i64;
                        let mut seen = self.inner.seen.lock();
                        let last = seen.last.entry(lane).or_default().entry(key).or_insert(first);
                        *last = first.max(*last);
                        drop(seen);
                        visit(listed)?;
                    }
                }
                Ok(Err(failure)) => return Err(failure.error),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    task.abort();
                    return Err(Error::new(
                        ErrorKind::Timeout,
                        "the cluster did not list its blocks in time; see how it is",
                    ));
                }
            }
        }
    }

    pub(crate) fn read(&self, id: BlockId, limit: Option<Duration>) -> Result<Option<Vec<u8>>> {
        let Some(period) = self.inner.places.find(id) else { return Ok(None) };
        if usize::from(id.class) >= self.inner.times.read().len() {
            return Ok(None);
        }
        let most = self.patience(4);
        let limit = limit.map_or(most, |limit| limit.min(most));
        self.run(limit, |inner| inner.read_block(id, period))
    }

    pub(crate) fn read_all(&self, visit: &mut ShowBlock<'_>) -> Result<()> {
        self.read_lists(true, &mut |listed| visit(listed.id, listed.micros, &listed.summary))
    }

    pub(crate) fn read_range(&self, first: BlockId, end: u64, visit: &mut ShowBlock<'_>) -> Result<()> {
        let lane = (first.partition, first.class);
        if usize::from(first.class) >= self.inner.times.read().len() {
            return Ok(());
        }
        for period in self.inner.places.between(first, end) {
            let range = (writer_of(first.first_seq) as i32, period, first.first_seq as i64 - 1, end as i64);
            let found = self.run(self.patience(60), |inner| async move {
                // Few at once, as for blocks.
                let _turn = inner.reads.acquire().await;
                let connected = inner.connected()?;
                inner.list_period(&connected, lane, range).await
            })?;
            found.iter().try_for_each(|listed| visit(listed.id, listed.micros, &listed.summary))?;
        }
        Ok(())
    }

    pub(crate) fn read_news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        let thorough = {
            let mut seen = self.inner.seen.lock();
            let now = clock::now();
            let pause = self.inner.config.news_every;
            if seen.looked.is_some_and(|at| now.saturating_duration_since(at) < pause) {
                return Ok(());
            }
            seen.looked = Some(now);
            seen.looks = seen.looks.wrapping_add(1);
            seen.looks.is_multiple_of(THOROUGH)
        };
        self.read_lists(thorough, &mut |listed| visit(listed.id, &listed.summary))
    }

    pub(crate) fn read_namespace(&self) -> Result<Option<Namespace>> {
        let found = self.run(self.patience(2), |inner| async move { inner.saved_namespace().await })?;
        if let Some(namespace) = &found {
            self.inner.partitions.store(namespace.partitions, Ordering::Release);
        }
        Ok(found)
    }

    pub(crate) fn read_names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        for bucket in 0..NAME_BUCKETS {
            let names = self.run(self.patience(60), |inner| async move {
                let connected = inner.connected()?;
                let statements = Inner::statements(&connected)?;
                let mut names = Vec::new();
                let values = (&inner.config.namespace, bucket as i32);
                let take = |(name, stream): (String, Option<i64>)| {
                    names.extend(stream.map(|stream| (name, stream as u64)));
                    Ok(())
                };
                session::pages(&connected, &statements.names, values, take).await?;
                Ok(names)
            })?;
            names.iter().for_each(|(name, stream)| visit(name, *stream));
        }
        Ok(())
    }

    pub(crate) fn read_tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        for lane in self.lanes() {
            let found = self.run(self.patience(60), |inner| async move {
                let connected = inner.connected()?;
                let statements = &Inner::statements(&connected)?.classes[usize::from(lane.1)];
                let mut found: Vec<Tombstone> = Vec::new();
                let values = (&inner.config.namespace, lane.0 as i32);
                // Of an event that was removed from several pages the last one counts; rows come in the order of pages.
                let take = |(id, seq): (i64, i64)| {
                    let stone = Tombstone::new(id as u64, lane.0, lane.1, seq as u64);
                    match found.last_mut() {
                        Some(Tombstone { id, seq, .. }) if *id == stone.id => *seq = stone.seq.max(*seq),
                        _ => found.push(stone),
                    }
                    Ok(())
                };
                session::pages(&connected, &statements.removed, values, take).await?;
                Ok(found)
            })?;
            found.into_iter().for_each(&mut *visit);
        }
        Ok(())
    }
}
