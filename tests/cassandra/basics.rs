//! What a healthy cluster does.

use std::sync::Arc;
use std::time::Duration;

use esker::{ColdTier, Config, ErrorKind, Event, ScyllaConfig, ScyllaTier, Store, Stream};

use crate::common::{all_ids, append_proof, verify, wait_until};
use crate::contract;
use crate::node::Node;

const LONG: Duration = Duration::from_secs(120);

#[test]
fn the_tier_keeps_the_contract() {
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    // Without a window everything is read from the server, and nothing from the local directory.
    let config = node.config("contract", dir.path()).window(Duration::ZERO);
    contract::check(&|| Arc::new(ScyllaTier::connect(config.clone()).unwrap()) as Arc<dyn ColdTier>);
}

fn open(config: &ScyllaConfig, partitions: usize) -> esker::Result<Store> {
    let tier = Arc::new(ScyllaTier::connect(config.clone())?);
    let config =
        Config::builder().memory("16MiB").partitions(partitions).append_timeout(Duration::from_secs(20));
    Store::builder(config.build()?).cold(tier).open()
}

#[test]
fn stores_that_share_a_namespace_find_each_others_events() {
    let node = Node::shared();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config =
        node.config("shared", dirs[0].path()).window(Duration::ZERO).news_every(Duration::from_millis(200));
    let one = open(&config, 4).unwrap();
    let two = open(&config.clone().directory(dirs[1].path()), 4).unwrap();
    let (customer, other) = (one.stream("customer").unwrap(), one.stream("other").unwrap());
    assert_eq!(two.stream("customer").unwrap(), customer, "a name is the same stream everywhere");
    // They take turns with a stream, as when a consumer group is divided anew.
    for turn in 0..6u64 {
        let store = if turn % 2 == 0 { &one } else { &two };
        for id in turn * 100..turn * 100 + 100 {
            let stream = if id % 3 == 0 { other } else { customer };
            append_proof(store, Event::new(stream, id, 1_000_000 + id as i64, 1), 200);
        }
        store.flush(LONG).unwrap();
    }
    let expected: Vec<u64> = (0..600).rev().filter(|id| id % 3 != 0).collect();
    for store in [&one, &two] {
        let history = || -> Vec<u64> {
            let events = store.fetch_history(customer).map(Result::unwrap);
            events.inspect(|event| verify(event)).map(|event| event.id()).collect()
        };
        wait_until("the others' events are found", LONG, || history().len() == expected.len());
        assert_eq!(history(), expected, "newest first, whoever wrote them");
        assert_eq!(store.fetch(77).unwrap().unwrap().id(), 77);
        assert_eq!(all_ids(store), (0..600).collect::<Vec<_>>());
        let range = store.fetch_history(customer).range(1_000_200..1_000_300).count();
        assert_eq!(range, (200..300).filter(|id| id % 3 != 0).count());
    }
    // The number of partitions belongs to the namespace; another namespace has its own.
    let third = config.clone().directory(dirs[2].path());
    assert_eq!(open(&third, 8).err().map(|error| error.kind()), Some(ErrorKind::Incompatible));
    let apart = open(&third.namespace("apart"), 8).unwrap();
    assert!(all_ids(&apart).is_empty());
    for store in [one, two, apart] {
        store.close(LONG).unwrap();
    }
}

#[test]
fn two_stores_cannot_use_one_directory() {
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    let config = node.config("one_directory", dir.path());
    let tier = ScyllaTier::connect(config.clone()).unwrap();
    assert_eq!(ScyllaTier::connect(config.clone()).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    drop(tier);
    ScyllaTier::connect(config).unwrap();
}

#[test]
fn a_tier_can_run_on_the_callers_runtime_and_be_used_within_it() {
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = node.config("guest", dir.path()).runtime(runtime.handle().clone()).window(Duration::ZERO);
    let store = runtime.block_on(async { open(&config, 2).unwrap() });
    runtime.block_on(async {
        for id in 0..500 {
            append_proof(&store, Event::new(Stream::from(1), id, 7, 1), 100);
        }
        store.flush(LONG).unwrap();
        assert_eq!(all_ids(&store).len(), 500);
        store.close(LONG).unwrap();
        // Dropped in async code, too.
        drop(store);
    });
}

#[test]
fn removed_events_stay_removed_and_blocks_of_all_sizes_come_back() {
    let node = Node::shared();
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = node.config("removed", dir.path()).window(Duration::ZERO);
    let tier = Arc::new(ScyllaTier::connect(config.clone()).unwrap());
    let big = Config::builder().memory("256MiB").partitions(2).build().unwrap();
    let store = Store::builder(big.clone()).cold(tier).open().unwrap();
    for id in 0..2_000 {
        append_proof(&store, Event::new(Stream::from(id as u32 % 9), id, 7, 1), 300);
    }
    // Larger than a row of the table may be.
    append_proof(&store, Event::new(Stream::from(3), 2_000, 8, 1), 3_000_000);
    store.flush(LONG).unwrap();
    for id in (0..2_000).step_by(10) {
        assert!(store.remove(id).unwrap());
        assert!(!store.remove(id).unwrap());
    }
    store.close(LONG).unwrap();
    let tier = Arc::new(ScyllaTier::connect(config.directory(fresh.path())).unwrap());
    let store = Store::builder(big).cold(tier).open().unwrap();
    assert_eq!(all_ids(&store), (0..=2_000).filter(|id| id % 10 != 0 || *id == 2_000).collect::<Vec<_>>());
    verify(&store.fetch(2_000).unwrap().unwrap());
    store.close(LONG).unwrap();
}

#[cfg(feature = "async")]
#[test]
fn async_code_appends_waits_and_reads_through() {
    use esker::AsyncStore;
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    let store = open(&node.config("async_code", dir.path()).window(Duration::ZERO), 2).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = AsyncStore::new(store, 4);
        // Several times what memory holds, so that appends have to wait.
        for id in 0..30_000u64 {
            let stream = Stream::from((id % 7) as u32);
            let payload = crate::common::proof(stream, id, 5, 1000);
            store.append(&Event::new(stream, id, 5, 1).payload(&payload)).await.unwrap();
        }
        for id in (0..30_000).step_by(997) {
            verify(&store.fetch(id).await.unwrap().unwrap());
        }
        assert!(store.fetch(30_000).await.unwrap().is_none());
        let newest = store.fetch_newest(Stream::from(3), 10).await.unwrap();
        assert_eq!(newest.len(), 10);
        assert!(newest.windows(2).all(|pair| pair[0].id() > pair[1].id()));
        assert!(store.store().stats().cold.loads > 0);
        store.store().close(LONG).unwrap();
    });
}
