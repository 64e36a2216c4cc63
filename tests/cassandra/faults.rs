//! What a cluster does when it is not healthy, and people when they are not careful.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use esker::{
    Clock, Config, ErrorKind, Event, Replication, ScyllaConfig, ScyllaTier, Store, Stream, TierFigures,
};

use crate::common::{all_ids, append_proof, now, verify, wait_until, wall_ms};
use crate::node::{Node, config_for};
use crate::proxy::Proxy;

const LONG: Duration = Duration::from_secs(120);

fn open(config: &ScyllaConfig) -> Store {
    let tier = Arc::new(ScyllaTier::connect(config.clone()).unwrap());
    open_with(tier)
}

fn open_with(tier: Arc<ScyllaTier>) -> Store {
    let config = Config::builder().memory("16MiB").partitions(2).append_timeout(Duration::from_secs(20));
    Store::builder(config.build().unwrap()).cold(tier).open().unwrap()
}

fn append(store: &Store, ids: std::ops::Range<u64>) {
    for id in ids {
        append_proof(store, Event::new(Stream::from((id % 40) as u32), id, wall_ms(), 1), 1000);
    }
}

fn figures(store: &Store) -> TierFigures {
    store.stats().cold.tier
}

/// Waits until the server has everything, and checks that it does: with a directory that holds nothing.
fn all_arrives(store: &Store, config: &ScyllaConfig, fresh: &Path, events: u64) {
    // A directory that is full refuses until the window lets go.
    wait_until("all is written", LONG, || store.flush(LONG).is_ok());
    wait_until("the overflow drains", LONG, || figures(store).overflow == 0);
    assert_eq!(store.close(LONG).unwrap().left, 0);
    let config = config.clone().directory(fresh);
    let store = open(&config);
    assert!(all_ids(&store) == (0..events).collect::<Vec<_>>(), "events are missing, or come twice");
    store.close(LONG).unwrap();
}

#[test]
fn a_server_that_is_slow_by_ten_seconds_keeps_nobody_from_appending_and_reading_memory() {
    let node = Node::shared();
    let proxy = Proxy::new(node.port);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config_for(&proxy.address(), "slow", dir.path())
        .request_timeout(Duration::from_secs(2))
        .retry_for(Duration::from_secs(2));
    let store = open(&config);
    append(&store, 0..4_000);
    store.flush(LONG).unwrap();
    // Out of memory, so that it must be read from the server once the spool has let it go.
    wait_until("the window passes", LONG, || figures(&store).resendable == 0);
    proxy.delay(Duration::from_secs(10));
    let begin = now();
    append(&store, 4_000..20_000);
    let took = begin.elapsed();
    let guard = store.pin();
    let read = now();
    for event in guard.history(Stream::from(7)).take(50) {
        verify(&event);
    }
    let memory = read.elapsed();
    drop(guard);
    let read = now();
    let events = store.fetch_scan(..i64::MAX).timeout(Duration::from_secs(3));
    let late = events.filter_map(Result::err).last().map(|error| error.kind());
    assert!(matches!(late, Some(ErrorKind::Timeout | ErrorKind::Cold)), "{late:?}");
    assert!(read.elapsed() < Duration::from_secs(8), "a read ends with its deadline: {:?}", read.elapsed());
    assert!(took < Duration::from_secs(60), "appends waited for a slow server: {took:?}");
    assert!(memory < Duration::from_millis(500), "reading memory waited for a slow server: {memory:?}");
    wait_until("the overflow takes what the server does not", LONG, || figures(&store).overflow > 0);
    proxy.delay(Duration::ZERO);
    let took = wait_until("it goes on", LONG, || !figures(&store).away);
    println!("16,000 appends in {took:?}, 50 events from memory in {memory:?}, went on after {took:?}");
    all_arrives(&store, &config, fresh.path(), 20_000);
}

#[test]
fn connections_cut_in_the_middle_of_a_frame_cost_nothing() {
    let node = Node::shared();
    let proxy = Proxy::new(node.port);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = config_for(&proxy.address(), "cut", dir.path()).window(Duration::from_secs(2));
    let store = open(&config);
    let mut events = 0;
    for round in 0..6 {
        // Another place in another frame each time.
        proxy.cut_after(300_000 + 37_123 * round);
        append(&store, events..events + 3_000);
        events += 3_000;
        proxy.cut_after(0);
        std::thread::sleep(Duration::from_millis(300));
    }
    // Answers that get lost: nobody knows whether the change was made.
    proxy.swallow(true);
    append(&store, events..events + 3_000);
    events += 3_000;
    std::thread::sleep(Duration::from_millis(500));
    proxy.swallow(false);
    assert!(proxy.cuts() > 0, "no connection was cut");
    all_arrives(&store, &config, fresh.path(), events);
}

#[test]
fn a_server_process_that_is_stopped_for_a_while_costs_nothing() {
    let node = Node::start(&[]);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config =
        node.config("stopped", dir.path()).request_timeout(Duration::from_secs(2)).retry_for(Duration::ZERO);
    let store = open(&config);
    append(&store, 0..5_000);
    node.signal("-STOP");
    append(&store, 5_000..15_000);
    std::thread::sleep(Duration::from_secs(5));
    node.signal("-CONT");
    let took = wait_until("it goes on", LONG, || !figures(&store).away);
    assert!(took < Duration::from_secs(10), "spilling resumed only after {took:?}");
    append(&store, 15_000..20_000);
    all_arrives(&store, &config, fresh.path(), 20_000);
}

#[test]
fn tables_that_are_missing_or_others_are_told_at_opening() {
    let node = Node::shared();
    let dir = tempfile::tempdir().unwrap();
    node.cql(&[
        "CREATE KEYSPACE bare WITH replication = {'class': 'SimpleStrategy', 'replication_factor': 1}",
    ]);
    let config = ScyllaConfig::new([node.address()], dir.path()).keyspace("bare");
    let try_open = || {
        let tier = Arc::new(ScyllaTier::connect(config.clone()).unwrap());
        Store::builder(Config::builder().memory("16MiB").build().unwrap()).cold(tier).open()
    };
    let error = try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    assert!(error.to_string().contains("esker_blocks_0 is missing: CREATE TABLE"), "{error}");
    // What the error says is what helps.
    let statements = config.ddl(&[esker::ClassConfig::new("default")]).unwrap();
    node.cql(&statements.iter().map(String::as_str).collect::<Vec<_>>());
    try_open().unwrap().close(LONG).unwrap();
    node.cql(&[
        "ALTER TABLE bare.esker_blocks_0 WITH default_time_to_live = 60",
        "ALTER TABLE bare.esker_names DROP stream",
    ]);
    let error = try_open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Incompatible, "{error}");
    for part in ["60 s", "ALTER TABLE bare.esker_blocks_0", "esker_names has no column stream bigint"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_keyspace_dropped_under_a_store_is_told_and_what_came_since_is_kept_until_it_is_back() {
    let node = Node::shared();
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = node.config("dropped", dir.path()).window(Duration::from_secs(300));
    let store = open(&config);
    append(&store, 0..3_000);
    store.flush(LONG).unwrap();
    node.cql(&["DROP KEYSPACE dropped"]);
    append(&store, 3_000..9_000);
    store.flush(LONG).unwrap();
    let tier = figures(&store);
    assert!(tier.overflow > 0 && tier.dead_letters == 0, "{tier:?}");
    assert!(tier.last_error.as_ref().is_some_and(|text| text.contains("ddl")), "{tier:?}");
    // All of it is still read: from memory, from the overflow, and from the window.
    assert_eq!(all_ids(&store).len(), 9_000);
    let statements = config.ddl(&[esker::ClassConfig::new("default")]).unwrap();
    node.cql(&statements.iter().map(String::as_str).collect::<Vec<_>>());
    wait_until("the overflow drains", LONG, || figures(&store).overflow == 0);
    assert_eq!(store.close(LONG).unwrap().left, 0);
    // The window is still in the directory; the next store sends it again, and then the server has all.
    let store = open(&config);
    wait_until("the window is sent again", LONG, || figures(&store).overflow == 0);
    store.close(LONG).unwrap();
    let store = open(&config.clone().directory(fresh.path()));
    assert!(all_ids(&store) == (0..9_000).collect::<Vec<_>>());
    store.close(LONG).unwrap();
}

#[test]
fn a_full_disk_under_the_overflow_refuses_and_heals() {
    let node = Node::start(&[]);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0]).args(&arguments[1..]).arg(dir.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "{arguments:?} failed; it needs root");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs"]);
    let config = node.config("full_disk", dir.path()).window(Duration::from_secs(2));
    let store = open(&config);
    append(&store, 0..2_000);
    node.kill();
    // More than disk and memory take.
    let mut events = 2_000;
    let refused = loop {
        let payload = crate::common::proof(Stream::from((events % 40) as u32), events, 7, 1000);
        let event = Event::new(Stream::from((events % 40) as u32), events, 7, 1).payload(&payload);
        match store.append_timeout(&event, Duration::from_secs(3)) {
            Ok(_) => events += 1,
            Err(error) => break error,
        }
        assert!(events < 200_000, "nothing is ever refused");
    };
    assert_eq!(refused.kind(), ErrorKind::MemoryPressure, "{refused}");
    let stats = store.stats();
    assert!(
        stats.cold.last_error.is_some_and(|text| text.contains("disk of the overflow directory is full"))
    );
    node.resume();
    wait_until("the overflow drains", LONG, || figures(&store).overflow == 0);
    append(&store, events..events + 3_000);
    all_arrives(&store, &config, fresh.path(), events + 3_000);
    drop(store);
    mount(&["umount"]);
}

#[test]
fn a_block_altered_by_hand_is_an_error_and_the_rest_stays_readable() {
    let node = Node::shared();
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = node.config("altered", dir.path()).window(Duration::ZERO);
    let store = open(&config);
    append(&store, 0..10_000);
    store.close(LONG).unwrap();
    let rows =
        node.rows("SELECT namespace, lane, writer, period, first_seq, piece FROM altered.esker_blocks_0");
    assert!(rows.len() > 20);
    let place = |row: &(String, i32, i32, i64, i64, i32)| {
        let (namespace, lane, writer, period, first_seq, _) = row;
        format!(
            "namespace = '{namespace}' AND lane = {lane} AND writer = {writer} AND period = {period} AND first_seq = {first_seq}"
        )
    };
    node.cql(&[
        // Nonsense, nothing, a claim of pieces that are not there, and a row that is gone.
        &format!(
            "UPDATE altered.esker_blocks_0 SET bytes = 0x45534b42ffff WHERE {} AND piece = 0",
            place(&rows[3])
        ),
        &format!("UPDATE altered.esker_blocks_0 SET bytes = null WHERE {} AND piece = 0", place(&rows[6])),
        &format!(
            "UPDATE altered.esker_blocks_0 SET pieces = 2000000 WHERE {} AND piece = 0",
            place(&rows[9])
        ),
        &format!("DELETE FROM altered.esker_blocks_0 WHERE {}", place(&rows[12])),
        // The entry of a block that is whole, and that of one that is not.
        &format!("UPDATE altered.esker_summaries_0 SET summary = 0x00 WHERE {}", place(&rows[15])),
        &format!("UPDATE altered.esker_summaries_0 SET summary = 0xff WHERE {}", place(&rows[3])),
    ]);
    let store = open(&config.clone().directory(fresh.path()));
    let (mut events, mut errors) = (0, 0);
    for event in store.fetch_scan(..).timeout(LONG) {
        match event {
            Ok(event) => {
                verify(&event);
                events += 1;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                errors += 1;
            }
        }
    }
    println!("{events} events, {errors} errors of {} blocks", rows.len());
    assert_eq!(errors, 4);
    assert!((8_000..10_000).contains(&events));
    assert!(store.stats().cold.corrupt_blocks >= 4);
    store.close(LONG).unwrap();
}

#[test]
fn a_block_that_the_server_will_never_take_becomes_a_dead_letter() {
    let node = Node::start(&[("CASSANDRA_YAML", "max_mutation_size: 100KiB")]);
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = node.config("too_large", dir.path()).window(Duration::ZERO);
    let tier = Arc::new(ScyllaTier::connect(config.clone()).unwrap());
    let store = open_with(tier.clone());
    append(&store, 0..30);
    let mut random = crate::common::Random::new(1);
    let noise: Vec<u8> = (0..200_000).map(|_| random.next() as u8).collect();
    store.append(&Event::new(Stream::from(1), 1_000, wall_ms(), 1).payload(&noise)).unwrap();
    store.flush(LONG).unwrap();
    let letters = tier.dead_letters();
    assert_eq!(letters.len(), 1, "{letters:?} {:?}", figures(&store));
    println!("{letters:?}");
    assert!(letters[0].reason.contains("oversized mutation"), "{letters:?}");
    assert_eq!(store.fetch(1_000).unwrap().unwrap().payload(), noise);
    tier.replay_dead_letter(&letters[0].name).unwrap();
    assert_eq!(tier.dead_letters().len(), 1, "it comes back");
    store.close(LONG).unwrap();
    drop((store, tier));
    // Somebody allows larger ones.
    node.stop();
    node.allow("CASSANDRA_YAML", "");
    node.resume();
    let tier = Arc::new(ScyllaTier::connect(config.clone()).unwrap());
    let store = open_with(tier.clone());
    assert_eq!(store.fetch(1_000).unwrap().unwrap().payload(), noise, "read from the letter");
    tier.replay_dead_letter(&tier.dead_letters()[0].name).unwrap();
    assert_eq!(tier.dead_letters(), []);
    store.close(LONG).unwrap();
    let store = open(&config.directory(fresh.path()));
    assert_eq!(store.fetch(1_000).unwrap().unwrap().payload(), noise, "read from the server");
    store.close(LONG).unwrap();
}

#[test]
fn a_tier_that_nobody_answers_is_an_error_soon() {
    let dir = tempfile::tempdir().unwrap();
    let address = format!("127.0.0.1:{}", crate::node::free_port());
    let begin = now();
    let error = ScyllaTier::connect(ScyllaConfig::new([address], dir.path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cold, "{error}");
    assert!(error.is_retryable() && begin.elapsed() < Duration::from_secs(40));
    let bad = ScyllaConfig::new(["127.0.0.1:1"], dir.path()).keyspace("x; DROP KEYSPACE y");
    assert_eq!(ScyllaTier::connect(bad).unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[test]
fn clocks_that_differ_and_replicated_keyspaces_change_nothing() {
    let node = Node::shared();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let config = node.config("skew", dirs[0].path()).create_tables(Replication::Simple(1));
    let day = 86_400_000;
    let open_at = |dir: &Path, ms: i64| {
        let tier = Arc::new(
            ScyllaTier::connect(
                config.clone().directory(dir).window(Duration::ZERO).clock(Clock::manual(ms)),
            )
            .unwrap(),
        );
        let store_config = Config::builder().memory("16MiB").partitions(2).build().unwrap();
        Store::builder(store_config).cold(tier).clock(Clock::manual(ms)).open().unwrap()
    };
    // One store is a day behind the other, in what it stamps its writes with, too.
    let (early, late) = (open_at(dirs[0].path(), wall_ms() - day), open_at(dirs[1].path(), wall_ms()));
    append(&early, 0..2_000);
    append(&late, 2_000..4_000);
    early.flush(LONG).unwrap();
    late.flush(LONG).unwrap();
    append(&early, 4_000..5_000);
    early.close(LONG).unwrap();
    late.close(LONG).unwrap();
    // An id that is removed, used again and removed again: the second note is the one with the earlier stamp.
    for (dir, ms) in [(&dirs[1], wall_ms()), (&dirs[0], wall_ms() - day)] {
        let store = open_at(dir.path(), ms);
        append(&store, 9_000..9_001);
        store.flush(LONG).unwrap();
        assert!(store.remove(9_000).unwrap());
        store.close(LONG).unwrap();
    }
    let store = open_at(dirs[2].path(), wall_ms());
    assert!(all_ids(&store) == (0..5_000).collect::<Vec<_>>());
    store.close(LONG).unwrap();
}
