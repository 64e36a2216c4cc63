//! The cluster as a [`Remote`]: blocking calls in front, the driver's runtime behind.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use scylla::policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy};
use scylla::value::{CqlValue, Row};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::ClassConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::tiers::directory::{WRITER_SHIFT, writer_of};
use crate::tiers::scylla::config::ScyllaConfig;
use crate::tiers::scylla::errors::{self, Failure, Meaning};
use crate::tiers::scylla::pace::Pace;
use crate::tiers::scylla::places::Places;
use crate::tiers::scylla::schema::Times;
use crate::tiers::scylla::session::{self, Connected, Statements};

/// Threads of the tier's own runtime.
const THREADS: usize = 2;
/// Openings that a namespace can see.
const WRITERS_MAX: u64 = 1 << 23;
/// A node that did not answer so often in a row counts as gone.
const MISSES: u32 = 3;

/// What is known of a node.
#[derive(Default)]
struct Node {
    generation: i64,
    misses: u32,
}

#[derive(Default)]
struct Nodes {
    known: HashMap<u128, Node>,
    /// Counts everything that may have lost what was confirmed.
    life: u64,
}

pub(crate) struct Inner {
    pub(crate) config: ScyllaConfig,
    /// `None` while no node has answered since the tier was made.
    connected: RwLock<Option<Arc<Connected>>>,
    pub(crate) pace: Pace,
    pub(crate) reads: Semaphore,
    pub(crate) places: Places,
    /// How the classes' tables keep time.
    pub(crate) times: RwLock<Vec<Times>>,
    classes: RwLock<Vec<ClassConfig>>,
    pub(crate) partitions: AtomicU32,
    /// The number of this opening.
    pub(crate) writer: AtomicU64,
    /// Page numbers of it below this one are those of earlier openings of the same directory.
    pub(crate) first: AtomicU64,
    /// Periods that are known to be in the tables: class, lane, writer, period.
    pub(crate) periods: Mutex<HashSet<(u8, u32, i32, i64)>>,
    pub(crate) seen: Mutex<crate::tiers::scylla::reading::Seen>,
    nodes: Mutex<Nodes>,
    last_micros: AtomicI64,
}

/// What tells a namespace from others on the same cluster.
pub(crate) fn label(config: &ScyllaConfig) -> String {
    format!("{}/{}", config.keyspace, config.namespace)
}

/// A cluster.
pub(crate) struct Cluster {
    pub(crate) inner: Arc<Inner>,
    pub(crate) handle: Handle,
    /// `None` when the runtime is the caller's, or the tier is closed.
    own: Mutex<Option<Runtime>>,
    closed: AtomicBool,
}

impl Cluster {
    /// Connects; `later`: that no node answers is no error, but leaves it to another time.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::Denied`], [`ErrorKind::Cold`] when no node answers.
    pub(crate) fn connect(config: ScyllaConfig, later: bool) -> Result<Self> {
        config.check()?;
        let (handle, own) = match &config.runtime {
            Some(handle) => (handle.clone(), None),
            None => {
                let mut builder = tokio::runtime::Builder::new_multi_thread();
                let runtime = builder.worker_threads(THREADS).thread_name("esker-cold").enable_all().build();
                let runtime =
                    runtime.map_err(|source| Error::io("cannot start the cold tier's threads", source))?;
                (runtime.handle().clone(), Some(runtime))
            }
        };
        let limit = config.connect_timeout.saturating_mul(6);
        let wishes = config.clone();
        let outcome = wait(&handle, limit, async move { session::connect(&wishes, None).await });
        let connected = match outcome.and_then(|outcome| outcome.map_err(|failure| failure.error)) {
            Ok(connected) => Some(Arc::new(connected)),
            Err(error) if later && matches!(error.kind(), ErrorKind::Cold | ErrorKind::Timeout) => None,
            Err(error) => {
                own.into_iter().for_each(Runtime::shutdown_background);
                return Err(error);
            }
        };
        let inner = Inner {
            pace: Pace::new(config.in_flight),
            reads: Semaphore::new(config.reads as usize),
            connected: RwLock::new(connected),
            places: Places::default(),
            times: RwLock::default(),
            classes: RwLock::default(),
            partitions: AtomicU32::new(0),
            writer: AtomicU64::new(0),
            first: AtomicU64::new(0),
            periods: Mutex::default(),
            seen: Mutex::default(),
            nodes: Mutex::default(),
            last_micros: AtomicI64::new(0),
            config,
        };
        Ok(Self { inner: Arc::new(inner), handle, own: Mutex::new(own), closed: AtomicBool::new(false) })
    }

    /// Runs something on the runtime and waits for what comes of it.
    ///
    /// # Errors
    /// [`ErrorKind::Timeout`] after `limit`; it is given up then.
    pub(crate) fn run<T, F>(&self, limit: Duration, work: impl FnOnce(Arc<Inner>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Failure>> + Send + 'static,
    {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::closed());
        }
        wait(&self.handle, limit, work(self.inner.clone()))?.map_err(|failure| failure.error)
    }

    /// How long a call of some requests may take.
    pub(crate) fn patience(&self, requests: u32) -> Duration {
        self.inner.config.request_timeout.saturating_mul(requests) + Duration::from_secs(1)
    }

    pub(crate) fn shut_down(&self) {
        self.closed.store(true, Ordering::Release);
        // Not waited for: it may be dropped from within async code, where waiting is not allowed.
        self.own.lock().take().into_iter().for_each(Runtime::shutdown_background);
    }

    /// Microseconds since the epoch, never the same twice.
    pub(crate) fn micros(&self) -> i64 {
        let now = self.inner.config.clock.now_ms().saturating_mul(1000);
        let next = |last: i64| Some(now.max(last + 1));
        let last = &self.inner.last_micros;
        last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map_or(now, |last| now.max(last + 1))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Waits on a thread that may be anybody's, within async code or not.
pub(crate) fn wait<T: Send + 'static>(
    handle: &Handle,
    limit: Duration,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let task = handle.spawn(async move {
        // Nobody listens any more when the limit has passed.
        let _ = sender.send(work.await);
    });
    receiver.recv_timeout(limit).map_err(|error| {
        task.abort();
        match error {
            mpsc::RecvTimeoutError::Timeout => Error::new(
                ErrorKind::Timeout,
                format!("the cluster did not answer in {limit:?}; allow more (fetch_timeout, request_timeout), or see how it is"),
            ),
            mpsc::RecvTimeoutError::Disconnected => {
                Error::new(ErrorKind::Cold, "the runtime of the cold tier has ended; open the store again")
            }
        }
    })
}

impl Inner {
    pub(crate) fn connected(&self) -> Result<Arc<Connected>, Failure> {
        self.connected.read().clone().ok_or_else(|| Failure {
            meaning: Meaning::Away,
            error: Error::new(
                ErrorKind::Cold,
                "no node of the cluster has answered yet; it is tried again; see whether the nodes run and can be reached",
            ),
        })
    }

    /// The statements of a connection.
    pub(crate) fn statements(connected: &Connected) -> Result<&Statements, Failure> {
        connected.statements.as_ref().ok_or_else(|| Failure {
            meaning: Meaning::Unprepared,
            error: Error::new(
                ErrorKind::Cold,
                "the tier's tables are not checked yet; open a store with it first",
            ),
        })
    }

    /// Checks or makes the tables, and prepares the statements.
    pub(crate) async fn begin(&self) -> Result<(), Failure> {
        let connected = match self.connected() {
            Ok(connected) => connected,
            Err(_) => {
                let fresh = Arc::new(session::connect(&self.config, None).await?);
                *self.connected.write() = Some(fresh.clone());
                fresh
            }
        };
        let classes = self.classes.read().clone();
        session::check_tables(&connected, &self.config, &classes, self.config.create_tables).await?;
        self.reconnect().await
    }

    /// Notes the classes of the store.
    pub(crate) fn set_classes(&self, classes: &[ClassConfig]) {
        *self.times.write() = classes.iter().map(Times::of).collect();
        *self.classes.write() = classes.to_vec();
    }

    /// Whether the tables are as they were when the store opened.
    pub(crate) async fn tables_fit(&self) -> bool {
        let classes = self.classes.read().clone();
        match self.connected() {
            Ok(connected) => session::check_tables(&connected, &self.config, &classes, false).await.is_ok(),
            Err(_) => false,
        }
    }

    /// Replaces the session by a new one. The driver waits longer and longer before it connects again, up to ten
    /// seconds, and cannot be told to try now; a new session does.
    async fn reconnect(&self) -> Result<(), Failure> {
        let classes = self.times.read().len();
        let fresh = session::connect(&self.config, (classes > 0).then_some(classes)).await?;
        *self.connected.write() = Some(Arc::new(fresh));
        Ok(())
    }

    /// Takes the number of an opening for this one: the first above all others that nobody else takes meanwhile.
    pub(crate) async fn take_writer(&self, last_seq: u64, opened: i64) -> Result<u64, Failure> {
        let connected = self.connected()?;
        let statements = Self::statements(&connected)?;
        loop {
            let mut last = writer_of(last_seq);
            let of_namespace = (&self.config.namespace,);
            session::pages(&connected, &statements.writers, of_namespace, |(first,): (i64,)| {
                last = last.max(writer_of(first.max(0) as u64));
                Ok(())
            })
            .await?;
            let writer = last + 1;
            if writer >= WRITERS_MAX {
                let text =
                    format!("the namespace {} was opened too often; use another one", self.config.namespace);
                return Err(Failure { meaning: Meaning::Refused, error: Error::new(ErrorKind::Cold, text) });
            }
            let first = writer << WRITER_SHIFT;
            let values = (&self.config.namespace, first as i64, opened);
            if applied(&connected, &statements.first_writer, values).await? {
                self.writer.store(writer, Ordering::Release);
                self.first.store(first, Ordering::Release);
                return Ok(first);
            }
        }
    }

    /// Asks all nodes whether they are the processes that they were. `None`: some of them did not say.
    pub(crate) async fn life(self: Arc<Self>) -> Result<Option<u64>, Failure> {
        match self.ask_nodes().await {
            Err(failure) if failure.meaning == Meaning::Away => {
                self.reconnect().await?;
                self.ask_nodes().await
            }
            outcome => outcome,
        }
    }

    async fn ask_nodes(&self) -> Result<Option<u64>, Failure> {
        let connected = self.connected()?;
        let state = connected.session.get_cluster_state();
        let (mut answers, mut failure) = (Vec::new(), None);
        for node in state.get_nodes_info() {
            let mut statement = connected.generation.clone();
            let target = NodeIdentifier::Node(node.clone());
            statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(target, None)));
            let mut generation = None;
            let asked =
                session::pages(&connected, &statement, (), |(_, number): (uuid_of::Any, Option<i32>)| {
                    generation = number;
                    Ok(())
                });
            match asked.await {
                Ok(()) => answers.push((node.host_id.as_u128(), Some(i64::from(generation.unwrap_or(0))))),
                Err(error) => {
                    failure = Some(error);
                    answers.push((node.host_id.as_u128(), None));
                }
            }
        }
        if answers.iter().all(|(_, answer)| answer.is_none()) {
            return Err(failure.unwrap_or_else(|| Failure {
                meaning: Meaning::Away,
                error: Error::new(ErrorKind::Cold, "the cluster has no nodes"),
            }));
        }
        Ok(self.nodes.lock().learn(&answers))
    }
}

impl Nodes {
    /// Compares what nodes say with what they said. `None` while it is not clear whether a node is gone.
    fn learn(&mut self, answers: &[(u128, Option<i64>)]) -> Option<u64> {
        let before = self.known.len();
        self.known.retain(|id, _| answers.iter().any(|(other, _)| other == id));
        if self.known.len() < before {
            self.life += 1;
        }
        let mut sure = true;
        for (id, answer) in answers {
            match (answer, self.known.get_mut(id)) {
                (Some(generation), Some(node)) => {
                    if node.generation != *generation {
                        self.life += 1;
                    }
                    *node = Node { generation: *generation, misses: 0 };
                }
                (Some(generation), None) => {
                    self.known.insert(*id, Node { generation: *generation, misses: 0 });
                }
                (None, Some(node)) => {
                    node.misses = node.misses.saturating_add(1);
                    match node.misses.cmp(&MISSES) {
                        std::cmp::Ordering::Less => sure = false,
                        // What it confirmed must be confirmed by others now.
                        std::cmp::Ordering::Equal => self.life += 1,
                        std::cmp::Ordering::Greater => {}
                    }
                }
                (None, None) => {}
            }
        }
        sure.then_some(self.life)
    }
}

/// Whether a conditional statement did what it says.
pub(crate) async fn applied(
    connected: &Connected,
    statement: &scylla::statement::prepared::PreparedStatement,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<bool, Failure> {
    let mut applied = false;
    session::pages(connected, statement, values, |row: Row| {
        applied = matches!(row.columns.first(), Some(Some(CqlValue::Boolean(true))));
        Ok(())
    })
    .await?;
    Ok(applied)
}

/// A stand-in for a column that nobody looks at.
mod uuid_of {
    pub(super) type Any = scylla::value::CqlValue;
}

/// A set of tasks of which so many run at once, and whose first failure ends all.
pub(crate) async fn side_by_side<T: Send + 'static, F>(
    most: usize,
    work: impl IntoIterator<Item = F>,
    mut take: impl FnMut(T),
) -> Result<(), Failure>
where
    F: Future<Output = Result<T, Failure>> + Send + 'static,
{
    let mut set = JoinSet::new();
    let mut work = work.into_iter();
    loop {
        while set.len() < most {
            match work.next() {
                Some(next) => set.spawn(next),
                None => break,
            };
        }
        match set.join_next().await {
            Some(Ok(outcome)) => take(outcome?),
            Some(Err(error)) => return Err(Failure::new(Meaning::Busy, "work on", error)),
            None => return Ok(()),
        }
    }
}

/// Executes a statement that gives no rows.
pub(crate) async fn execute(
    connected: &Connected,
    statement: &scylla::statement::prepared::PreparedStatement,
    values: impl scylla::serialize::row::SerializeRow,
) -> Result<(), Failure> {
    let outcome = connected.session.execute_unpaged(statement, values).await;
    outcome.map(drop).map_err(|error| errors::of_execution("write to", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_ends_when_a_node_restarts_leaves_or_does_not_answer_for_long() {
        let mut nodes = Nodes::default();
        let life = nodes.learn(&[(1, Some(10)), (2, Some(20))]);
        assert_eq!(nodes.learn(&[(1, Some(10)), (2, Some(20))]), life, "all is as it was");
        let restarted = nodes.learn(&[(1, Some(11)), (2, Some(20))]);
        assert_ne!(restarted, life);
        assert_eq!(nodes.learn(&[(1, None), (2, Some(20))]), None, "it may be slow");
        assert_eq!(nodes.learn(&[(1, Some(11)), (2, Some(20))]), restarted, "it was slow");
        assert_eq!(nodes.learn(&[(1, None), (2, Some(20))]), None);
        assert_eq!(nodes.learn(&[(1, None), (2, Some(20))]), None);
        let gone = nodes.learn(&[(1, None), (2, Some(20))]);
        assert!(gone > restarted);
        assert_eq!(nodes.learn(&[(1, None), (2, Some(20))]), gone, "once");
        assert_eq!(nodes.learn(&[(1, Some(11)), (2, Some(20))]), gone, "it had not restarted");
        assert!(nodes.learn(&[(1, Some(12)), (2, Some(20))]) > gone);
        let left = nodes.learn(&[(2, Some(20))]);
        assert!(left > gone);
        assert_eq!(nodes.learn(&[(2, Some(20)), (3, Some(1))]), left, "a new node has lost nothing");
    }
}
