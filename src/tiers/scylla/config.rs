//! What a tier on a cluster needs to be told.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{ClassConfig, ConfigFault, IntoByteSize};
use crate::error::{Error, Result};
use crate::tiers::scylla::schema;

const MIB: u64 = 1 << 20;
/// More requests at once only wait in the server (scylla-rust-driver#282).
pub(crate) const IN_FLIGHT_MAX: u32 = 128;

/// A text that nobody gets to see: neither `Debug` nor an error prints it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// How many replicas must confirm a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Consistency {
    /// One replica.
    One,
    /// Two replicas.
    Two,
    /// More than half of all replicas.
    Quorum,
    /// More than half of those in the datacenter that is spoken to.
    #[default]
    LocalQuorum,
    /// All replicas.
    All,
}

/// How a keyspace that the tier creates is replicated.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Replication {
    /// So many copies, wherever: for tests and single datacenters.
    Simple(u32),
    /// So many copies in each named datacenter.
    Datacenters(Vec<(String, u32)>),
}

/// Which server it is: they write two table options differently.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Server {
    /// Apache Cassandra 4.1 or 5.0.
    #[default]
    Cassandra,
    /// ScyllaDB.
    Scylla,
}

/// A cluster, and how to use it. Everything but nodes and directory has a default.
///
/// ```
/// use std::time::Duration;
/// use esker::{ClassConfig, ScyllaConfig};
///
/// let config = ScyllaConfig::new(["10.0.0.1:9042", "10.0.0.2:9042"], "/var/lib/shop/overflow")
///     .keyspace("shop")
///     .user("shop", "a secret")
///     .window(Duration::from_secs(12));
/// assert!(!format!("{config:?}").contains("a secret"));
/// let classes = [ClassConfig::new("orders").retention(Duration::from_secs(7 * 86_400))];
/// for statement in config.ddl(&classes)? {
///     println!("{statement};");
/// }
/// # Ok::<(), esker::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ScyllaConfig {
    pub(crate) nodes: Vec<String>,
    pub(crate) dir: PathBuf,
    pub(crate) keyspace: String,
    pub(crate) namespace: String,
    pub(crate) server: Server,
    pub(crate) replication: Replication,
    pub(crate) create_tables: bool,
    pub(crate) consistency: Consistency,
    pub(crate) datacenter: Option<String>,
    pub(crate) request_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) retry_for: Duration,
    pub(crate) in_flight: u32,
    pub(crate) reads: u32,
    pub(crate) window: Duration,
    pub(crate) overflow_bytes: u64,
    pub(crate) drain_rate: u64,
    pub(crate) partition_bytes: u64,
    pub(crate) news_every: Duration,
    pub(crate) user: Option<(String, Secret)>,
    pub(crate) tls: Option<Tls>,
    pub(crate) clock: Clock,
    pub(crate) runtime: Option<tokio::runtime::Handle>,
    faults: Vec<(String, String)>,
}

/// Certificates in PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) authorities: PathBuf,
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
}

impl ScyllaConfig {
    /// Nodes to begin with, as `host:port`, and the local directory for overflow and dead letters, which belongs to
    /// one store and should be on a disk that outlives it.
    pub fn new(nodes: impl IntoIterator<Item = impl Into<String>>, dir: impl AsRef<Path>) -> Self {
        Self {
            nodes: nodes.into_iter().map(Into::into).collect(),
            dir: dir.as_ref().to_path_buf(),
            keyspace: "esker".into(),
            namespace: "main".into(),
            server: Server::default(),
            replication: Replication::Simple(1),
            create_tables: false,
            consistency: Consistency::default(),
            datacenter: None,
            request_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            retry_for: Duration::from_secs(5),
            in_flight: 64,
            reads: 32,
            window: Duration::from_secs(12),
            overflow_bytes: 4096 * MIB,
            drain_rate: 64 * MIB,
            partition_bytes: 64 * MIB,
            news_every: Duration::from_secs(5),
            user: None,
            tls: None,
            clock: Clock::system(),
            runtime: None,
            faults: Vec::new(),
        }
    }

    /// Another local directory.
    pub fn directory(mut self, dir: impl AsRef<Path>) -> Self {
        self.dir = dir.as_ref().to_path_buf();
        self
    }

    /// The keyspace (default `esker`): a letter, then letters, digits and underscores, all lower case, up to 48.
    pub fn keyspace(mut self, name: impl Into<String>) -> Self {
        self.keyspace = name.into();
        self
    }

    /// Stores of one namespace (default `main`) share streams, names and number of partitions; other namespaces
    /// in the same keyspace are not seen. It has the form of a keyspace's name.
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        self.namespace = name.into();
        self
    }

    /// Which server it is (default Cassandra).
    pub fn server(mut self, server: Server) -> Self {
        self.server = server;
        self
    }

    /// Creates keyspace and tables that are missing when a store opens (default: no; see [`ddl`](Self::ddl)). For
    /// tests and for clusters that nobody looks after.
    pub fn create_tables(mut self, replication: Replication) -> Self {
        self.create_tables = true;
        self.replication = replication;
        self
    }

    /// Consistency of all reads and writes (default [`Consistency::LocalQuorum`]).
    pub fn consistency(mut self, level: Consistency) -> Self {
        self.consistency = level;
        self
    }

    /// The datacenter to speak to; others are used only when none of its nodes answers.
    pub fn datacenter(mut self, name: impl Into<String>) -> Self {
        self.datacenter = Some(name.into());
        self
    }

    /// How long one request may take (default 5 s).
    pub fn request_timeout(mut self, limit: Duration) -> Self {
        self.request_timeout = limit;
        self
    }

    /// How long connecting to a node may take (default 5 s).
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// How long a change is tried again before it goes to the overflow directory (default 5 s).
    pub fn retry_for(mut self, limit: Duration) -> Self {
        self.retry_for = limit;
        self
    }

    /// Writes under way at once, at most (default 64, up to 128). As many as that are used only while the server's
    /// latency allows it.
    pub fn in_flight(mut self, count: u32) -> Self {
        self.in_flight = count;
        self
    }

    /// Reads under way at once, at most (default 32, up to 128).
    pub fn reads(mut self, count: u32) -> Self {
        self.reads = count;
        self
    }

    /// How long a change that the server has confirmed is kept, to be sent again if the server restarts (default
    /// 12 s). It must be longer than the server takes to sync its commit log, 10 s by default; for servers that sync
    /// before they confirm (`commitlog_sync: batch` or `group`) it may be zero.
    pub fn window(mut self, length: Duration) -> Self {
        self.window = length;
        self
    }

    /// Bytes of the local directory at most (default 4 GiB). When they are used up, pages stay in memory, and when
    /// that is full, appends are refused.
    pub fn overflow_bytes(mut self, bytes: impl IntoByteSize) -> Self {
        if let Some(bytes) = self.take("overflow_bytes", bytes) {
            self.overflow_bytes = bytes;
        }
        self
    }

    /// Bytes a second with which the overflow drains (default 64 MiB).
    pub fn drain_rate(mut self, bytes: impl IntoByteSize) -> Self {
        if let Some(bytes) = self.take("drain_rate", bytes) {
            self.drain_rate = bytes;
        }
        self
    }

    /// Bytes of blocks after which a lane begins another partition of the table (default 64 MiB).
    pub fn partition_bytes(mut self, bytes: impl IntoByteSize) -> Self {
        if let Some(bytes) = self.take("partition_bytes", bytes) {
            self.partition_bytes = bytes;
        }
        self
    }

    /// How often the store looks for blocks that other stores of the namespace have put (default 5 s).
    pub fn news_every(mut self, pause: Duration) -> Self {
        self.news_every = pause;
        self
    }

    /// User name and password. The password is in no `Debug` text, error or log.
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.user = Some((name.into(), Secret(password.into())));
        self
    }

    /// Speaks TLS and trusts the authorities of a PEM file. The nodes' certificates must name their IP addresses.
    pub fn tls(mut self, authorities: impl AsRef<Path>) -> Self {
        self.tls.get_or_insert_default().authorities = authorities.as_ref().to_path_buf();
        self
    }

    /// Shows the nodes a certificate of one's own: PEM files of the chain and of its private key.
    pub fn tls_identity(mut self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        let identity = (chain.as_ref().to_path_buf(), key.as_ref().to_path_buf());
        self.tls.get_or_insert_default().identity = Some(identity);
        self
    }

    /// The clock that writes are stamped with, and that says which period of the tables they go to (default: the
    /// system's). Clocks of stores that share a namespace may differ.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Runs on a Tokio runtime of the caller's, which must have more than one thread and outlive the store (default:
    /// one of the tier's own, with two).
    pub fn runtime(mut self, handle: tokio::runtime::Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// The statements that create keyspace and tables for a store of these classes, without semicolons.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for names that cannot be used.
    pub fn ddl(&self, classes: &[ClassConfig]) -> Result<Vec<String>> {
        self.check()?;
        let mut statements = vec![schema::keyspace(self)];
        statements.extend(schema::tables(self, classes).into_iter().map(|table| table.create));
        Ok(statements)
    }

    fn take(&mut self, field: &str, bytes: impl IntoByteSize) -> Option<u64> {
        match bytes.into_byte_size() {
            Ok(size) => Some(size.as_u64()),
            Err(problem) => {
                self.faults.push((field.into(), problem.to_string()));
                None
            }
        }
    }

    /// Checks everything.
    ///
    /// # Errors
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) with every fault.
    pub(crate) fn check(&self) -> Result<()> {
        let mut faults = self.faults.clone();
        let mut fault = |bad: bool, field: &str, problem: String| {
            if bad {
                faults.push((field.to_string(), problem));
            }
        };
        fault(self.nodes.is_empty(), "nodes", "there are none".into());
        for (field, name) in [("keyspace", &self.keyspace), ("namespace", &self.namespace)] {
            let problem = format!(
                "{name:?} is not a lower-case letter followed by up to 47 lower-case letters, digits and underscores"
            );
            fault(!is_identifier(name), field, problem);
        }
        let copies: Vec<(&str, u32)> = match &self.replication {
            Replication::Simple(copies) => vec![("dc", *copies)],
            Replication::Datacenters(all) => {
                all.iter().map(|(name, copies)| (name.as_str(), *copies)).collect()
            }
        };
        fault(copies.is_empty(), "replication", "names no datacenter".into());
        for (name, copies) in copies {
            fault(!is_datacenter(name), "replication", format!("{name:?} is not a datacenter's name"));
            fault(!(1..=16).contains(&copies), "replication", format!("{copies} is not from 1 to 16 copies"));
        }
        for (field, count) in [("in_flight", self.in_flight), ("reads", self.reads)] {
            fault(
                !(1..=IN_FLIGHT_MAX).contains(&count),
                field,
                format!("{count} is not from 1 to {IN_FLIGHT_MAX}"),
            );
        }
        let limits = [("request_timeout", self.request_timeout), ("connect_timeout", self.connect_timeout)];
        for (field, limit) in limits {
            fault(limit < Duration::from_millis(10), field, format!("{limit:?} is less than 10 ms"));
        }
        fault(
            self.window > Duration::from_secs(3600),
            "window",
            format!("{:?} is more than an hour", self.window),
        );
        let least = [
            ("overflow_bytes", self.overflow_bytes, MIB),
            ("drain_rate", self.drain_rate, 64 << 10),
            ("partition_bytes", self.partition_bytes, MIB),
        ];
        for (field, bytes, least) in least {
            fault(bytes < least, field, format!("{bytes} bytes is less than {least}"));
        }
        let no_authorities = self.tls.as_ref().is_some_and(|tls| tls.authorities.as_os_str().is_empty());
        fault(no_authorities, "tls_identity", "is of no use without `tls`".into());
        if faults.is_empty() {
            return Ok(());
        }
        let named = faults
            .into_iter()
            .map(|(field, problem)| ConfigFault { field: format!("scylla.{field}"), problem });
        Err(Error::config(named.collect()))
    }
}

/// Names go into statements as they are, so they must be nothing but names.
pub(crate) fn is_identifier(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    letters && (1..=48).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase()
}

fn is_datacenter(name: &str) -> bool {
    let letters = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    letters && (1..=64).contains(&name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(config: &ScyllaConfig) -> Vec<String> {
        let error = config.check().err();
        error.map_or(Vec::new(), |error| {
            error.config_faults().iter().map(|fault| fault.field.clone()).collect()
        })
    }

    #[test]
    fn names_that_are_more_than_names_are_refused() {
        let long = "x".repeat(49);
        for bad in ["", "a b", "a\"", "a; DROP KEYSPACE b", "A", "1a", "_a", "ä", "a'", long.as_str()] {
            let config = ScyllaConfig::new(["127.0.0.1:9042"], "/nowhere").keyspace(bad).namespace(bad);
            assert_eq!(faults(&config), ["scylla.keyspace", "scylla.namespace"], "{bad:?}");
            assert!(config.ddl(&[]).is_err());
            let datacenters = Replication::Datacenters(vec![(format!("{bad}'"), 3)]);
            let config = ScyllaConfig::new(["127.0.0.1:9042"], "/nowhere").create_tables(datacenters);
            assert_eq!(faults(&config), ["scylla.replication"], "{bad:?}");
        }
        assert!(faults(&ScyllaConfig::new(["127.0.0.1:9042"], "/nowhere").keyspace("shop_1")).is_empty());
    }

    #[test]
    fn every_fault_is_listed_at_once() {
        let config = ScyllaConfig::new(Vec::<String>::new(), "/nowhere")
            .in_flight(129)
            .reads(0)
            .request_timeout(Duration::ZERO)
            .window(Duration::from_secs(7200))
            .overflow_bytes("1KiB")
            .drain_rate("nonsense")
            .tls_identity("a", "b");
        let expected = [
            "scylla.drain_rate",
            "scylla.nodes",
            "scylla.in_flight",
            "scylla.reads",
            "scylla.request_timeout",
            "scylla.window",
            "scylla.overflow_bytes",
            "scylla.tls_identity",
        ];
        assert_eq!(faults(&config), expected);
    }
}
