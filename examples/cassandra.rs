//! The flights, with Cassandra as the cold tier: the same replay, the same questions, the same judge.
//!
//! Starts a real node with `scripts/cassandra`, or uses one that runs. Before the store is opened again, the local
//! directory is replaced by an empty one, so that nothing but the server can answer.
//!
//! ```sh
//! cargo run --release --features scylla --example cassandra
//! cargo run --release --features scylla --example cassandra -- 127.0.0.1:9042   # a node of one's own
//! ```

#[path = "flights/ask.rs"]
mod ask;
#[path = "flights/event.rs"]
mod event;
#[path = "flights/judge.rs"]
mod judge;
#[path = "flights/latency.rs"]
mod latency;
#[path = "flights/openings.rs"]
mod openings;
#[path = "flights/options.rs"]
#[expect(dead_code, reason = "the options are those of the other example")]
mod options;
#[path = "flights/replay.rs"]
mod replay;
#[path = "flights/report.rs"]
mod report;
#[path = "flights/source.rs"]
mod source;
#[path = "flights/timeline.rs"]
mod timeline;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use esker::{Clock, ConfigBuilder, Consistency, Replication, ScyllaConfig, ScyllaTier, Store};

use crate::openings::Cold;
use crate::options::DiskSize;
use crate::report::count;
use crate::source::Flights;
use crate::timeline::Timeline;

/// What ends the example early.
type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match run() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(mismatches) => {
            eprintln!("FAILED: {} mismatches", count(mismatches));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("FAILED: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<u64, Failure> {
    let cluster = Cluster::find(std::env::args().nth(1))?;
    let flights = Flights::load()?;
    let timeline = Timeline::of(&flights);
    println!(
        "{} flights make {} events of {} aircraft. Cassandra: {}",
        count(flights.len()),
        count(timeline.entries.len()),
        count(timeline.aircraft.len()),
        cluster.address
    );
    openings::run(&timeline, &cluster)
}

/// A node, and the local directory beside it.
struct Cluster {
    address: String,
    /// The node's own data, if the node is ours.
    data: Option<PathBuf>,
    dir: RefCell<PathBuf>,
    namespace: String,
}

impl Cluster {
    fn find(address: Option<String>) -> Result<Self, Failure> {
        let unique = std::process::id();
        let dir = RefCell::new(std::env::temp_dir().join(format!("esker-cassandra-example-{unique}-1")));
        let namespace = format!("flights_{unique}");
        if let Some(address) = address {
            return Ok(Self { address, data: None, dir, namespace });
        }
        let port = script(&["port"])?.trim().to_string();
        println!("Starting Cassandra on port {port} …");
        let data = script(&["start", &port])?;
        script(&["wait", &port])?;
        Ok(Self { address: format!("127.0.0.1:{port}"), data: Some(data.trim().into()), dir, namespace })
    }
}

/// Runs `scripts/cassandra`; the node ends with this process.
fn script(arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cassandra"))
        .args(arguments)
        .env("CASSANDRA_WITH", std::process::id().to_string())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err(format!("scripts/cassandra {arguments:?} failed").into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

impl Cold for Cluster {
    fn open(&self, config: ConfigBuilder, clock: Clock) -> Result<Store, Failure> {
        let cluster = ScyllaConfig::new([&self.address], &*self.dir.borrow())
            .keyspace("esker_example")
            .namespace(&self.namespace)
            .create_tables(Replication::Simple(1))
            .consistency(Consistency::One);
        let tier = Arc::new(ScyllaTier::connect(cluster)?);
        Ok(Store::builder(config.build()?).cold(tier).clock(clock).open()?)
    }

    fn size(&self) -> Result<DiskSize, Failure> {
        self.data
            .as_ref()
            .map_or(Ok(DiskSize::default()), |data| DiskSize::of(&data.join("data/esker_example")))
    }

    fn between(&self) -> Result<(), Failure> {
        // What is still in the window goes with the directory, so it must be safe: the node is not killed here.
        let again = self.dir.borrow().with_extension("again");
        Ok(std::fs::remove_dir_all(self.dir.replace(again))?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&*self.dir.borrow());
        if let Some((_, port)) = self.address.rsplit_once(':')
            && self.data.is_some()
        {
            let _ = script(&["purge", port]);
        }
    }
}
