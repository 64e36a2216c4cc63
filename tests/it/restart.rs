//! Closing, crashing and opening again: what the cold tier confirmed is found, under the same names and numbers.

use std::path::Path;
use std::time::Duration;

use esker::{ClassConfig, Clock, ConfigBuilder, ErrorKind, Event, OnLeave, Store, Stream};

use crate::common::{
    all_ids, append_proof, child_argument, in_own_process, manual, small, two_classes, verify, wall_ms,
};
use crate::contract;
use crate::tier::MapTier;

const CLOSE: Duration = Duration::from_secs(20);

fn config(dir: &Path) -> ConfigBuilder {
    let [a, b] = two_classes();
    small().data_dir(dir).class(a).class(b)
}

fn open_kind(config: ConfigBuilder) -> ErrorKind {
    Store::open(config.build().unwrap()).unwrap_err().kind()
}

/// Appends events of both classes to numbered streams from `from` to `to`, and two named ones.
fn append_some(store: &Store, from: u64, to: u64, at_ms: i64) {
    for id in from..to {
        let stream = match id % 10 {
            0 => store.stream("a name").unwrap(),
            1 => store.stream("ein Name mit ü").unwrap(),
            rest => Stream::from(rest as u32),
        };
        let class = store.class(if id % 3 == 0 { "b" } else { "a" });
        let event =
            Event::new(stream, id, at_ms + id as i64, (id % 7) as u8).class(class.unwrap()).flags(id as u16);
        append_proof(store, event, 60 + (id % 200) as usize);
    }
}

fn history(store: &Store, stream: Stream) -> Vec<u64> {
    store.fetch_history(stream).map(|event| event.unwrap().id()).collect()
}

#[test]
fn closing_and_opening_again_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = manual(config(dir.path()));
    append_some(&store, 0, 9_000, 1_000_000);
    let named = [store.stream("a name").unwrap(), store.stream("ein Name mit ü").unwrap()];
    let removed = [0, 1, 17, 4_000, 8_999];
    assert!(store.remove(17).unwrap() && store.remove(4_000).unwrap());
    store.flush(CLOSE).unwrap();
    assert!(store.remove(0).unwrap() && store.remove(1).unwrap());
    assert!(store.remove(8_999).unwrap() && !store.remove(8_999).unwrap());
    let histories: Vec<Vec<u64>> = named.iter().map(|stream| history(&store, *stream)).collect();
    let report = store.close(CLOSE).unwrap();
    assert_eq!(
        (report.left, report.cold),
        (0, 8_998),
        "two were removed before they were written: {report:?}"
    );
    drop(store);

    for _ in 0..2 {
        let store = Store::builder(config(dir.path()).background(false).build().unwrap());
        let store = store.clock(clock.clone()).open().unwrap();
        let expected: Vec<u64> = (0..9_000).filter(|id| !removed.contains(id)).collect();
        assert_eq!(all_ids(&store), expected);
        assert_eq!(store.stats().events.names, 2);
        for (name, stream) in ["a name", "ein Name mit ü"].into_iter().zip(named) {
            assert_eq!(store.stream_name(stream).as_deref(), Some(name));
            assert_eq!(store.stream(name).unwrap(), stream);
        }
        for (stream, expected) in named.iter().zip(&histories) {
            assert_eq!(&history(&store, *stream), expected);
        }
        for id in removed {
            assert!(store.fetch(id).unwrap().is_none() && !store.remove(id).unwrap(), "{id} is back");
        }
        let event = store.fetch(300).unwrap().unwrap();
        assert_eq!(
            (event.kind(), event.flags(), event.class()),
            ((300u64 % 7) as u8, 300, store.class("b").unwrap())
        );
        assert!(store.pin().get(300).is_none(), "it is in the cold tier only");
        store.validate().unwrap();
        store.close(CLOSE).unwrap();
    }
}

#[test]
fn a_store_goes_on_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut end = 0;
    for _ in 0..5 {
        let (store, _clock) = manual(config(dir.path()));
        assert_eq!(all_ids(&store), (0..end).collect::<Vec<_>>());
        append_some(&store, end, end + 1_500, 1_000_000);
        end += 1_500;
        for stream in [Stream::from(5u32), store.stream("a name").unwrap()] {
            let per_class: Vec<Vec<u64>> = ["a", "b"]
                .map(|class| store.class(class).unwrap())
                .map(|class| {
                    store.fetch_history(stream).class(class).map(|event| event.unwrap().id()).collect()
                })
                .to_vec();
            assert_eq!(per_class.iter().map(Vec::len).sum::<usize>() as u64, end / 10);
            assert!(per_class.iter().all(|ids| ids.windows(2).all(|pair| pair[0] > pair[1])));
        }
        store.validate().unwrap();
        store.close(CLOSE).unwrap();
    }
}

/// The directory is free for the next store once `close` has returned, although the old handle is still there.
#[test]
fn a_closed_store_lets_its_directory_go() {
    let dir = tempfile::tempdir().unwrap();
    let (first, _clock) = manual(config(dir.path()));
    append_some(&first, 0, 100, 1_000_000);
    first.close(CLOSE).unwrap();
    let (second, _clock) = manual(config(dir.path()));
    assert_eq!(all_ids(&second).len(), 100);
    assert_eq!(first.fetch(5).unwrap_err().kind(), ErrorKind::Closed);
}

#[test]
fn retention_goes_on_over_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = manual(config(dir.path()));
    append_some(&store, 0, 600, 1_000_000);
    store.close(CLOSE).unwrap();
    drop(store);
    clock.set_ms(1_000_000 + 3_600_000 + 1_000);
    let open = || {
        let config = config(dir.path()).background(false).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let store = open();
    let expected: Vec<u64> = (0..600).filter(|id| id % 3 != 0).collect();
    assert_eq!(all_ids(&store), expected, "events of class b have reached the end of their hour");
    assert!(store.fetch(3).unwrap().is_none());
    let before = store.stats().cold.blocks;
    store.maintain().unwrap();
    let cold = store.stats().cold;
    assert!(cold.expired_blocks > 0 && cold.blocks < before && cold.events == 400, "{cold:#?}");
    drop(store);
    let store = open();
    assert_eq!(all_ids(&store), expected);
    // New events come behind all that there ever was.
    append_some(&store, 600, 630, clock.now_ms());
    store.flush(CLOSE).unwrap();
    drop(store);
    assert_eq!(all_ids(&open()).len(), 400 + 30);
}

#[test]
fn an_event_with_the_id_of_one_that_was_removed_is_not_taken_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let class = ClassConfig::new("a").retention(Duration::from_secs(3_600));
    let clock = Clock::manual(1_000_000);
    let open = || {
        let config = small().data_dir(dir.path()).class(class.clone()).background(false).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let one = |store: &Store, id: u64| {
        append_proof(store, Event::new(Stream::from(1u32), id, clock.now_ms(), 0), 100);
        store.flush(CLOSE).unwrap();
    };
    let store = open();
    // The lane has gone a few pages on when the event is removed that is written again later.
    (0..5).for_each(|id| one(&store, id));
    assert!(store.remove(4).unwrap());
    drop(store);
    // All blocks expire, so nothing of the lane is left but what was noted of the removed event.
    clock.set_ms(clock.now_ms() + 4_000_000);
    let store = open();
    store.maintain().unwrap();
    assert_eq!(store.stats().cold.blocks, 0);
    drop(store);
    let store = open();
    one(&store, 4);
    drop(store);
    let store = open();
    verify(&store.fetch(4).unwrap().expect("the new event 4 is taken for the removed one"));
    assert_eq!(all_ids(&store), [4]);
}

/// Of one id, events in two streams may be removed one after the other: neither comes back.
#[test]
fn an_id_that_is_removed_in_two_streams_stays_removed_in_both() {
    let tier = MapTier::new();
    let open = || Store::builder(small().partitions(8).background(false).build().unwrap()).cold(tier.clone());
    // Without threads nothing leaves memory before the store ends: an id can be used again then.
    for stream in 0..6u32 {
        let store = open().open().unwrap();
        append_proof(&store, Event::new(Stream::from(stream), 7, 0, 0), 100);
        store.flush(CLOSE).unwrap();
        assert!(store.remove(7).unwrap());
        assert!(store.fetch(7).unwrap().is_none(), "an event of the past came back in stream {stream}");
        assert!(all_ids(&store).is_empty(), "an event of the past came back in stream {stream}");
    }
    let store = open().open().unwrap();
    assert!(store.fetch(7).unwrap().is_none());
    assert!(all_ids(&store).is_empty());
}

#[test]
fn a_directory_is_open_once_in_a_process() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _clock) = manual(config(dir.path()));
    assert_eq!(open_kind(config(dir.path())), ErrorKind::AlreadyOpen);
    append_some(&store, 0, 10, 0);
    assert_eq!(open_kind(config(dir.path())), ErrorKind::AlreadyOpen);
    store.validate().unwrap();
    drop(store);
    let (store, _clock) = manual(config(dir.path()));
    assert_eq!(all_ids(&store).len(), 10);
}

#[test]
fn a_directory_is_open_once_among_processes() {
    if let Some(dir) = child_argument() {
        assert_eq!(open_kind(config(Path::new(&dir))), ErrorKind::AlreadyOpen);
        println!("refused");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (store, _clock) = manual(config(dir.path()));
    append_some(&store, 0, 10, 0);
    let path = dir.path().to_str().unwrap();
    let text = in_own_process("restart::a_directory_is_open_once_among_processes", path).unwrap();
    assert!(text.contains("refused"));
    assert_eq!(all_ids(&store).len(), 10);
    store.close(CLOSE).unwrap();
}

#[test]
fn other_classes_or_partitions_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _clock) = manual(config(dir.path()));
    append_some(&store, 0, 100, 1_000_000);
    store.close(CLOSE).unwrap();
    drop(store);
    let [a, b] = two_classes();
    let at = || small().data_dir(dir.path());
    let c = ClassConfig::new("c");
    for (config, what) in [
        (at().class(b.clone()).class(a.clone()), "another order"),
        (at().class(a.clone()), "one class less"),
        (at(), "the default class"),
        (at().class(a.clone()).class(c.clone()), "another name"),
        (at().class(c.clone()).class(a.clone()).class(b.clone()), "a new class in front"),
        (at().class(a.clone()).class(b.clone()).partitions(4), "more partitions"),
        (at().class(a.clone()).class(b.clone()).partitions(1), "fewer partitions"),
    ] {
        assert_eq!(open_kind(config), ErrorKind::Incompatible, "{what}");
    }
    // What was refused has changed nothing, and windows are not part of the data.
    let (store, _clock) = manual(at().class(ClassConfig::new("a").on_leave(OnLeave::Drop)).class(b.clone()));
    assert_eq!(all_ids(&store).len(), 100);
    drop(store);

    // A class more at the end is welcome, and then it belongs to the data.
    let three = || at().class(a.clone()).class(b.clone()).class(c.clone());
    let (store, _clock) = manual(three());
    let event = Event::new(Stream::from(3u32), 1_000, 1_000_000, 0).class(store.class("c").unwrap());
    append_proof(&store, event, 100);
    store.close(CLOSE).unwrap();
    drop(store);
    assert_eq!(open_kind(at().class(a.clone()).class(b.clone())), ErrorKind::Incompatible);
    let (store, _clock) = manual(three());
    assert_eq!(all_ids(&store).len(), 101);
    assert_eq!(store.fetch(1_000).unwrap().unwrap().class(), store.class("c").unwrap());
}

#[test]
fn a_class_may_have_any_name_that_the_configuration_takes() {
    for name in ["späte Züge", "a b\tc", "x\u{1}", &"n".repeat(64)] {
        let tier = MapTier::new();
        let dir = tempfile::tempdir().unwrap();
        for turn in 0..2 {
            let at =
                |config: ConfigBuilder| config.class(ClassConfig::new(name)).class(ClassConfig::new("z"));
            let (store, _clock) = manual(at(small().data_dir(dir.path())));
            assert_eq!(all_ids(&store).len(), turn, "{name:?}");
            append_proof(&store, Event::new(Stream::from(1u32), turn as u64, 0, 0), 100);
            drop(store);
            let config = at(small()).background(false).build().unwrap();
            drop(Store::builder(config).cold(tier.clone()).open().unwrap());
        }
    }
    // The zero byte separates names in the data, so no name may have one.
    let error = small().class(ClassConfig::new("a\0b")).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[test]
fn partitions_follow_the_directory_when_they_are_not_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let memory = || esker::Config::builder().memory("16MiB").data_dir(dir.path());
    let (store, _clock) = manual(memory().partitions(8));
    append_proof(&store, Event::new(Stream::from(1u32), 1, 0, 0), 100);
    assert_eq!(store.config().partitions, 8);
    drop(store);
    let (store, _clock) = manual(memory());
    assert_eq!(store.config().partitions, 8);
    append_proof(&store, Event::new(Stream::from(1u32), 2, 0, 0), 100);
    assert_eq!(history(&store, Stream::from(1u32)), [2, 1]);
    store.validate().unwrap();
    drop(store);
    // A store that is too small for them says so.
    let error = Store::open(
        memory().memory("8MiB").hot(|hot| hot.page_size("512KiB").max("3MiB")).partitions(1).build().unwrap(),
    );
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Incompatible);
}

#[test]
fn a_crash_leaves_what_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path()).build().unwrap()).unwrap();
    append_some(&store, 0, 2_000, wall_ms());
    store.flush(CLOSE).unwrap();
    append_some(&store, 2_000, 2_500, wall_ms());
    let other = store.clone();
    store.abandon();
    assert_eq!(other.fetch(1).unwrap_err().kind(), ErrorKind::Closed);
    drop(other);
    let (store, _clock) = manual(config(dir.path()));
    let found = all_ids(&store);
    assert!(found.len() >= 2_000 && found.len() < 2_500, "{}", found.len());
    assert_eq!(found[..2_000], (0..2_000).collect::<Vec<_>>());
    // What was lost can come again, as from a source that repeats itself; what is cold is told from it by the caller.
    append_some(&store, *found.last().unwrap() + 1, 2_500, 1_000_000);
    store.validate().unwrap();
}

#[test]
fn dropping_the_last_handle_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(config(dir.path()).build().unwrap()).unwrap();
    let other = store.clone();
    append_some(&store, 0, 500, wall_ms());
    drop(store);
    append_some(&other, 500, 1_000, wall_ms());
    drop(other);
    let (store, _clock) = manual(config(dir.path()));
    assert_eq!(all_ids(&store), (0..1_000).collect::<Vec<_>>());
}

#[test]
fn the_embedded_tier_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    contract::check(&|| std::sync::Arc::new(esker::DiskTier::open(dir.path(), 1 << 20).unwrap()));
}

/// What is noted beside the cold tier is bounded; what was noted before stays known.
#[test]
fn removals_from_blocks_that_cannot_be_noted_are_refused() {
    let class = ClassConfig::new("a").hot_for(Duration::ZERO).warm_for(Duration::ZERO);
    let (store, clock) = {
        let clock = Clock::manual(1_000_000);
        let config = small().buffers("2MiB").class(class).background(false).build().unwrap();
        (Store::builder(config).clock(clock.clone()).cold(MapTier::new()).open().unwrap(), clock)
    };
    let room = ((2u64 << 20) / 16).div_ceil(48);
    for id in 0..room + 100 {
        store.append(&Event::new(Stream::from(1u32), id, 0, 0)).unwrap();
    }
    clock.set_ms(2_000_000);
    store.flush(CLOSE).unwrap();
    for id in 0..room {
        assert!(store.remove(id).unwrap(), "event {id}");
    }
    for id in room..room + 100 {
        let error = store.remove(id).unwrap_err();
        assert!(
            error.kind() == ErrorKind::MemoryPressure && error.to_string().contains("buffers"),
            "{error}"
        );
        assert!(store.fetch(id).unwrap().is_some(), "nothing has changed then");
    }
    assert!(!store.remove(7).unwrap(), "it was removed before");
    assert_eq!(store.fetch_scan(..).count(), 100);
}
