//! A store that opens while its cluster is away.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::{Config, ErrorKind, Event, ScyllaTier, Store, Stream};

use crate::common::{all_ids, append_proof, verify, wait_until};
use crate::contract::many;
use crate::node::Node;

const LONG: Duration = Duration::from_secs(120);

fn open(node: &Node, dir: &Path) -> esker::Result<Store> {
    let config = node.config("away", dir).window(Duration::ZERO).connect_timeout(Duration::from_secs(5));
    let tier = Arc::new(ScyllaTier::connect(config)?);
    let config = Config::builder().memory("16MiB").append_timeout(Duration::from_secs(20));
    Store::builder(config.build()?).cold(tier).open()
}

/// Events old enough to leave memory at once.
fn append(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        let event = Event::new(Stream::from((id % 40) as u32), id, id as i64, 1);
        append_proof(store, event, 1000);
    }
}

fn check_away(store: &Store, known: u64) {
    assert!(store.stats().cold.tier.away);
    verify(&store.fetch(known).unwrap().unwrap());
    let error = store.fetch(7).unwrap_err();
    assert!(error.kind() == ErrorKind::Cold && error.is_retryable(), "{error}");
    assert!(error.to_string().contains("was away when the store opened"), "{error}");
    assert!(store.remove(7).is_err(), "nobody can say whether it was there");
    // What is known is given, and that it is not all.
    let results: Vec<_> = store.fetch_scan(..).collect();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    assert!(results.iter().flatten().any(|event| event.id() == known));
    let history: Vec<_> = store.fetch_history(Stream::from((known % 40) as u32)).collect();
    assert!(history.iter().any(|result| result.as_ref().is_ok_and(|event| event.id() == known)));
    assert!(history.iter().any(Result::is_err));
    store.validate().unwrap();
}

#[test]
fn a_store_opens_while_the_cluster_is_away_and_learns_what_is_there_when_it_is_back() {
    let node = Node::start(&[]);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&node, dir.path()).unwrap();
    let named = store.stream("a name").unwrap();
    append(&store, 0..3_000);
    append_proof(&store, Event::new(named, 3_000, 3_000, 1), 1000);
    assert!(store.remove(11).unwrap());
    store.flush(LONG).unwrap();
    wait_until("all is on the server", LONG, || store.stats().cold.tier.overflow == 0);
    store.close(LONG).unwrap();
    node.stop();

    let error = open(&node, fresh.path()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cold, "a directory that knows nothing: {error}");
    // Twice, the first time as if it had been killed.
    let store = open(&node, dir.path()).unwrap();
    append(&store, 3_001..6_000);
    store.flush(LONG).unwrap();
    check_away(&store, 5_000);
    store.abandon();
    let store = open(&node, dir.path()).unwrap();
    append(&store, 6_000..9_000);
    assert_eq!(store.stream("a name").unwrap(), named, "a name leads to its stream");
    store.flush(LONG).unwrap();
    check_away(&store, 8_000);
    verify(&store.fetch(4_000).unwrap().unwrap());

    node.resume();
    wait_until("the overflow drains", LONG, || store.stats().cold.tier.overflow == 0);
    wait_until("what is there is learnt", LONG, || store.fetch(7).is_ok());
    let expected: Vec<u64> = (0..9_000).filter(|id| *id != 11).collect();
    assert!(all_ids(&store) == expected, "events are missing, or come twice");
    assert!(store.fetch(11).unwrap().is_none(), "it was removed");
    assert_eq!(store.stream_name(named).as_deref(), Some("a name"));
    let history = store.fetch_history(named).collect::<esker::Result<Vec<_>>>().unwrap();
    assert_eq!(history.len(), 1);
    store.validate().unwrap();
    assert_eq!(store.close(LONG).unwrap().left, 0);
    let store = open(&node, fresh.path()).unwrap();
    assert!(all_ids(&store) == expected, "what the server has");
    store.close(LONG).unwrap();
}

#[test]
fn a_keyspace_of_more_blocks_than_there_is_room_for_is_read_in_full() {
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let tier = node.config("many", dir.path()).window(Duration::ZERO).partition_bytes("2MiB");
        let config = Config::builder().memory("8MiB").buffers("1MiB").partitions(2).fetch_timeout(LONG);
        let config = config.hot(|hot| hot.page_size("4KiB")).block_bytes("16KiB").append_timeout(LONG);
        Store::builder(config.build().unwrap())
            .cold(Arc::new(ScyllaTier::connect(tier).unwrap()))
            .open()
            .unwrap()
    };
    many::check(&open, 16_000, 850);
}
