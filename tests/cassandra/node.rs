//! A real Cassandra node for a test, and a driver session beside the tier's own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use esker::{Consistency, Replication, ScyllaConfig};
use scylla::client::session_builder::SessionBuilder;

use crate::common::now;

/// A node. It ends with this value, and with the test's process at the latest.
pub(crate) struct Node {
    pub(crate) port: u16,
    options: Mutex<Vec<(&'static str, String)>>,
}

impl Node {
    /// Starts a node and waits until it answers. A test that cannot have one has failed.
    pub(crate) fn start(options: &[(&'static str, &str)]) -> Self {
        let options = options.iter().map(|(name, value)| (*name, value.to_string())).collect();
        let node = Self { port: free_port(), options: Mutex::new(options) };
        node.resume();
        node
    }

    /// The node that all tests use that do it no harm.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Node>> = Mutex::new(Weak::new());
        static KEPT: Mutex<Option<Arc<Node>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let node = Arc::new(Self::start(&[]));
            *shared = Arc::downgrade(&node);
            // Until the process ends: then the script's watch ends the node.
            *KEPT.lock().unwrap() = Some(node.clone());
            node
        })
    }

    /// Starts it (again) on the data that it has. How long it took until it answered.
    pub(crate) fn resume(&self) -> Duration {
        let begin = now();
        self.script(&["start"]);
        self.script(&["wait", "120"]);
        begin.elapsed()
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        self.script(&["kill"]);
    }

    /// Changes an option for the next start.
    pub(crate) fn allow(&self, name: &'static str, value: &str) {
        let mut options = self.options.lock().unwrap();
        options.retain(|(other, _)| *other != name);
        options.push((name, value.to_string()));
    }

    /// Lets it write what it has and end.
    pub(crate) fn stop(&self) {
        self.script(&["stop"]);
    }

    /// Stops its process, or lets it go on.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.dir().join("pid")).unwrap();
        assert!(Command::new("kill").args([signal, pid.trim()]).status().unwrap().success());
    }

    pub(crate) fn dir(&self) -> PathBuf {
        // Starting what runs prints where its data are, and nothing else.
        PathBuf::from(self.script(&["start"]).trim())
    }

    fn script(&self, arguments: &[&str]) -> String {
        let output = Command::new(script_path())
            .arg(arguments[0])
            .arg(self.port.to_string())
            .args(&arguments[1..])
            .envs(self.options.lock().unwrap().iter().map(|(name, value)| (*name, value.clone())))
            .env("CASSANDRA_WITH", std::process::id().to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "scripts/cassandra {arguments:?}: {text}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A configuration for a keyspace of this node that makes its own tables.
    pub(crate) fn config(&self, keyspace: &str, dir: &Path) -> ScyllaConfig {
        config_for(&self.address(), keyspace, dir)
    }

    /// Rows of a table of blocks.
    pub(crate) fn rows(&self, statement: &str) -> Vec<(String, i32, i32, i64, i64, i32)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = SessionBuilder::new().known_node(self.address()).build().await.unwrap();
            let result = session.query_unpaged(statement, ()).await.unwrap().into_rows_result().unwrap();
            result.rows().unwrap().map(Result::unwrap).collect()
        })
    }

    /// Runs statements of a test's own.
    pub(crate) fn cql(&self, statements: &[&str]) {
        self.cql_with(|builder| builder, statements);
    }

    /// The same, on a connection as `adapt` wants it.
    pub(crate) fn cql_with(&self, adapt: impl FnOnce(SessionBuilder) -> SessionBuilder, statements: &[&str]) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = adapt(SessionBuilder::new().known_node(self.address())).build().await.unwrap();
            for statement in statements {
                session.query_unpaged(*statement, ()).await.unwrap();
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.script(&["purge"]);
    }
}

pub(crate) fn config_for(address: &str, keyspace: &str, dir: &Path) -> ScyllaConfig {
    ScyllaConfig::new([address], dir)
        .keyspace(keyspace)
        .create_tables(Replication::Simple(1))
        .consistency(Consistency::One)
        // The machine that runs the tests may be busy, or stop for a while.
        .request_timeout(Duration::from_secs(20))
        .connect_timeout(Duration::from_secs(20))
}

/// A port that is free, as is the next one.
pub(crate) fn free_port() -> u16 {
    let output = Command::new(script_path()).arg("port").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

fn script_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra")
}
