//! The driver without a store: what the others do, and what the server can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use esker::ColdBlock;
use scylla::client::session::Session;
use scylla::client::session_builder::SessionBuilder;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::Consistency;
use scylla::statement::prepared::PreparedStatement;
use tokio::runtime::Runtime;

use crate::{Outcome, Payloads, STREAMS, now};

/// Rows of a partition of the usual layout: an hour of a stream's shard, say.
const PARTITION: u64 = 20_000;

pub(crate) struct Driver {
    runtime: Runtime,
    session: Arc<Session>,
}

impl Driver {
    pub(crate) fn connect(port: u16) -> Outcome<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let session = runtime.block_on(async {
            let session = SessionBuilder::new().known_node(format!("127.0.0.1:{port}")).build().await?;
            // Compacting what one of them wrote would cost the next one its time.
            for statement in [
                "DROP KEYSPACE IF EXISTS bare",
                "DROP KEYSPACE IF EXISTS bench",
                "CREATE KEYSPACE bare WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
                "CREATE TABLE bare.events (bucket bigint, id bigint, stream bigint, time bigint, kind int, payload blob, \
                 PRIMARY KEY (bucket, id)) WITH compaction = {'class': 'SizeTieredCompactionStrategy', 'enabled': 'false'}",
                "CREATE TABLE bare.blocks (lane bigint, seq bigint, bytes blob, PRIMARY KEY (lane, seq)) WITH compression = \
                 {'enabled': 'false'} AND compaction = {'class': 'SizeTieredCompactionStrategy', 'enabled': 'false'}",
            ] {
                session.query_unpaged(statement, ()).await?;
            }
            Ok::<_, Box<dyn std::error::Error>>(session)
        })?;
        Ok(Self { runtime, session: Arc::new(session) })
    }

    /// Has the server compact the store's tables no more than the others.
    pub(crate) fn leave_uncompacted(&self) -> Outcome<()> {
        self.runtime.block_on(async {
            for table in ["esker_blocks_0", "esker_summaries_0"] {
                let alter = format!(
                    "ALTER TABLE bench.{table} WITH compaction = {{'class': 'TimeWindowCompactionStrategy', 'enabled': 'false'}}"
                );
                self.session.query_unpaged(alter, ()).await?;
            }
            Ok(())
        })
    }

    async fn prepare(&self, text: &str) -> Outcome<PreparedStatement> {
        let mut statement = self.session.prepare(text).await?;
        statement.set_consistency(Consistency::One);
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    /// A row for each event, for a while. Rows a second, and how many there are.
    pub(crate) fn rows(
        &self,
        payloads: &Payloads,
        first: u64,
        in_flight: usize,
        length: Duration,
    ) -> Outcome<(f64, u64)> {
        self.runtime.block_on(async {
            let text =
                "INSERT INTO bare.events (bucket, id, stream, time, kind, payload) VALUES (?, ?, ?, ?, ?, ?)";
            let insert = Arc::new(self.prepare(text).await?);
            let (next, stop) = (Arc::new(AtomicU64::new(first)), Arc::new(AtomicBool::new(false)));
            let pool = Arc::new(Payloads::new(payloads.len));
            let begin = now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..in_flight {
                let (session, insert) = (self.session.clone(), insert.clone());
                let (next, stop, pool) = (next.clone(), stop.clone(), pool.clone());
                tasks.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        let bucket = (id / PARTITION) as i64;
                        let values = (
                            bucket,
                            id as i64,
                            (id % STREAMS) as i64,
                            id as i64,
                            (id % 16) as i32,
                            pool.of(id),
                        );
                        if let Err(error) = session.execute_unpaged(&insert, values).await {
                            return Err(error.to_string());
                        }
                    }
                    Ok(())
                });
            }
            tokio::time::sleep(length).await;
            stop.store(true, Ordering::Relaxed);
            while let Some(outcome) = tasks.join_next().await {
                outcome??;
            }
            let written = next.load(Ordering::Relaxed) - first;
            Ok((written as f64 / begin.elapsed().as_secs_f64(), written))
        })
    }

    /// Blocks, again and again for a while. Blocks a second.
    pub(crate) fn blocks(&self, blocks: &[ColdBlock], in_flight: usize, length: Duration) -> Outcome<f64> {
        self.runtime.block_on(async {
            let insert = self.prepare("INSERT INTO bare.blocks (lane, seq, bytes) VALUES (?, ?, ?)").await?;
            let (insert, blocks) = (Arc::new(insert), Arc::new(blocks.to_vec()));
            let (next, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
            let begin = now();
            let mut tasks = tokio::task::JoinSet::new();
            for _ in 0..in_flight {
                let (session, insert, blocks) = (self.session.clone(), insert.clone(), blocks.clone());
                let (next, stop) = (next.clone(), stop.clone());
                tasks.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let block = &blocks[number as usize % blocks.len()];
                        let values = ((number / 1000) as i64, number as i64, &block.bytes);
                        if let Err(error) = session.execute_unpaged(&insert, values).await {
                            return Err(error.to_string());
                        }
                    }
                    Ok(())
                });
            }
            tokio::time::sleep(length).await;
            stop.store(true, Ordering::Relaxed);
            while let Some(outcome) = tasks.join_next().await {
                outcome??;
            }
            Ok(next.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64())
        })
    }

    /// Seconds that reading a row takes: p50 and p99.
    pub(crate) fn read_rows(&self, written: u64) -> Outcome<[f64; 2]> {
        self.runtime.block_on(async {
            let select = self
                .prepare("SELECT stream, time, kind, payload FROM bare.events WHERE bucket = ? AND id = ?")
                .await?;
            let mut took = Vec::new();
            for read in 0..1000u64 {
                let id = read.wrapping_mul(0x9e37_79b9_7f4a_7c15) % written;
                let begin = now();
                let rows =
                    self.session.execute_unpaged(&select, ((id / PARTITION) as i64, id as i64)).await?;
                let row = rows.into_rows_result()?;
                row.first_row::<(i64, i64, i32, Vec<u8>)>()?;
                took.push(begin.elapsed().as_secs_f64());
            }
            took.sort_by(f64::total_cmp);
            Ok([took[500], took[990]])
        })
    }

    /// Rows a second of a scan through a partition.
    pub(crate) fn scan_rows(&self) -> Outcome<f64> {
        self.runtime.block_on(async {
            let mut select = self
                .prepare("SELECT id, stream, time, kind, payload FROM bare.events WHERE bucket = ?")
                .await?;
            select.set_page_size(5000);
            let begin = now();
            let mut count = 0u64;
            for bucket in 0..3i64 {
                let mut state = PagingState::start();
                loop {
                    let (page, next) = self.session.execute_single_page(&select, (bucket,), state).await?;
                    for row in page.into_rows_result()?.rows::<(i64, i64, i64, i32, &[u8])>()? {
                        row?;
                        count += 1;
                    }
                    match next {
                        PagingStateResponse::HasMorePages { state: more } => state = more,
                        PagingStateResponse::NoMorePages => break,
                    }
                }
            }
            Ok(count as f64 / begin.elapsed().as_secs_f64())
        })
    }
}
