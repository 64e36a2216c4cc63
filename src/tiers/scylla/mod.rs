//! The cold tier on Apache Cassandra or ScyllaDB.

pub(crate) mod cluster;
pub(crate) mod config;
mod errors;
mod pace;
mod places;
mod reading;
mod schema;
mod session;
mod writing;

use std::time::Duration;

use crate::config::ClassConfig;
use crate::error::Result;
use crate::tiers::block::BlockId;
use crate::tiers::cold::{ColdBlock, ColdTier, Namespace, TierFigures, Tombstone};
use crate::tiers::letters::DeadLetter;
use crate::tiers::scylla::cluster::{Cluster, label};
use crate::tiers::scylla::config::ScyllaConfig;
use crate::tiers::shield::home::Home;
use crate::tiers::shield::{Limits, Shield};

/// Batches that are on their way at once: while one waits for the cluster, another is made.
const PUTS: usize = 4;

/// A cold tier on a cluster of Apache Cassandra or ScyllaDB nodes.
///
/// Give it to [`StoreBuilder::cold`](crate::StoreBuilder::cold), and keep a clone of the `Arc` for
/// [`dead_letters`](Self::dead_letters). One tier belongs to one store.
///
/// ```no_run
/// /// use esker::{Config, ScyllaConfig, ScyllaTier, Store};
///
/// let tier = Arc::new(ScyllaTier::connect(ScyllaConfig::new(["127.0.0.1:9042"], "./overflow"))?);
/// let config = Config::builder().memory("256MiB").build()?;
/// let store = Store::builder(config).cold(tier.clone()).open()?;
/// println!("{:?}", store.stats().cold.tier);
/// # Ok::<(), esker::Error>(())
/// ```
pub struct ScyllaTier {
    shield: Shield<Cluster>,
}

impl ScyllaTier {
    /// Connects to the cluster and takes the local directory into use. Tables are looked at when a store opens.
    ///
    /// When no node answers, a directory that was in use while the cluster was there can be opened all the same: what
    /// comes is kept in it, and reads of what the cluster alone has fail with
    /// [`Cold`](crate::ErrorKind::Cold) until it is back.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) with every fault;
    /// [`Denied`](crate::ErrorKind::Denied) when user, password or certificates are refused;
    /// [`Cold`](crate::ErrorKind::Cold) when no node answers and the directory does not know the namespace;
    /// [`AlreadyOpen`](crate::ErrorKind::AlreadyOpen) and
    /// [`Io`](crate::ErrorKind::Io) for the directory.
    pub fn connect(config: ScyllaConfig) -> Result<Self> {
        let dir = config.dir.clone();
        let limits = Limits {
            window: config.window,
            spool_bytes: config.overflow_bytes,
            drain_rate: config.drain_rate,
        };
        let known = Home::load(&dir, &label(&config))?.is_some();
        Ok(Self { shield: Shield::open(Cluster::connect(config, known)?, &dir, limits)? })
    }

    /// The blocks that the cluster will never take, and what else could not be written.
    pub fn dead_letters(&self) -> Vec<DeadLetter> {
        self.shield.dead_letters().list()
    }

    /// Puts a dead letter on its way to the cluster again. If it is refused once more, it comes back.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is no block of that name; when the overflow
    /// directory has no room.
    pub fn replay_dead_letter(&self, name: &str) -> Result<()> {
        self.shield.replay(name)
    }

    /// Removes a dead letter, and with it the events of its block.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when there is none of that name, [`Io`](crate::ErrorKind::Io).
    pub fn discard_dead_letter(&self, name: &str) -> Result<()> {
        self.shield.dead_letters().discard(name)
    }
}

impl std::fmt::Debug for ScyllaTier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.shield.remote.inner.config;
        f.debug_struct("ScyllaTier")
            .field("nodes", &config.nodes)
            .field("keyspace", &config.keyspace)
            .field("namespace", &config.namespace)
            .finish_non_exhaustive()
    }
}

impl ColdTier for ScyllaTier {
    fn begin(&self, classes: &[ClassConfig]) -> Result<u64> {
        self.shield.begin(classes)
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        self.shield.namespace()
    }

    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.shield.set_namespace(namespace)
    }

    fn awaits_server(&self) -> bool {
        self.shield.awaits_server()
    }

    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.shield.put(blocks)
    }

    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.shield.get(id)
    }

    fn puts_at_once(&self) -> usize {
        PUTS
    }

    fn get_within(&self, id: BlockId, limit: Duration) -> Result<Option<Vec<u8>>> {
        self.shield.get_within(id, limit)
    }

    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.shield.delete(ids)
    }

    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.shield.list(visit)
    }

    fn list_range(
        &self,
        first: BlockId,
        end: u64,
        visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.shield.list_range(first, end, visit)
    }

    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.shield.put_names(names)
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.shield.names(visit)
    }

    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.shield.put_tombstone(tombstone)
    }

    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.shield.delete_tombstones(tombstones)
    }

    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.shield.tombstones(visit)
    }

    fn maintain_every(&self) -> Option<Duration> {
        let busy = self.shield.maintain_every();
        Some(busy.unwrap_or(self.shield.remote.inner.config.news_every))
    }

    fn memory_bytes(&self) -> u64 {
        self.shield.memory_bytes()
    }

    fn maintain(&self) -> Result<()> {
        self.shield.maintain()
    }

    fn news(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.shield.news(visit)
    }

    fn figures(&self) -> TierFigures {
        self.shield.figures()
    }

    fn close(&self) {
        self.shield.close();
    }
}
