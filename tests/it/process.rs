//! Stores whose pages outlive the process: what is found again, what is refused, and what damaged files do.
//!
//! Real kills are in `tests/crash.rs`; here a store is abandoned, which leaves the files as a kill would between two
//! operations.

use std::path::{Path, PathBuf};
use std::time::Duration;

use esker::{
    ClassConfig, Clock, Config, ConfigBuilder, Durability, ErrorKind, Event, RegionKind, Store, Stream,
};

use crate::common::{Random, append_proof, child_argument, proof, small, verify};
#[cfg(target_os = "linux")]
use crate::kept::in_small_file_system;
use crate::kept::{append_some, forget_settled, open, refusal};

const CLOSE: Duration = Duration::from_secs(20);
const EVENTS: u64 = 3_000;

/// Two directories of a store: of its cold tier, and of its pages.
struct Dirs {
    dir: tempfile::TempDir,
}

impl Dirs {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn shared(&self) -> PathBuf {
        self.dir.path().join("shared")
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Without a cold tier.
    fn alone(&self) -> ConfigBuilder {
        small().durability(Durability::Process).shared_dir(self.shared()).background(false)
    }

    fn config(&self) -> ConfigBuilder {
        self.alone().data_dir(self.data())
    }
}

/// Which ids are found by a scan; every event that is found is right.
fn found(store: &Store) -> Vec<u64> {
    let guard = store.pin();
    let mut ids: Vec<u64> = guard.scan(..).inspect(verify).map(|event| event.id()).collect();
    ids.sort_unstable();
    ids
}

fn history(store: &Store, stream: Stream) -> Vec<u64> {
    store.pin().history(stream).map(|event| event.id()).collect()
}

#[test]
fn what_was_acknowledged_is_found_again() {
    let dirs = Dirs::new();
    let store = open(dirs.alone()).unwrap();
    assert!(store.recovered().is_none());
    append_some(&store, 0..EVENTS);
    let gone = [0, 7, 100, EVENTS - 1];
    gone.iter().for_each(|id| assert!(store.remove(*id).unwrap()));
    let named = store.stream("named").unwrap();
    let (numbered, before) = (Stream::from(3u32), history(&store, named));
    let (before_numbered, last_id) = (history(&store, numbered), store.next_id());
    store.abandon();
    for round in 0..3 {
        let store = open(dirs.alone()).unwrap();
        let report = store.recovered().unwrap().clone();
        let more = if round == 0 { 0 } else { 200 };
        assert_eq!((report.events, report.removed), (EVENTS - 4 + more, 4), "{report:?}");
        assert!(report.is_whole() && !report.was_closed && report.names == 1, "{report:?}");
        store.validate().unwrap();
        let ids = found(&store);
        assert_eq!(ids.len() as u64, EVENTS - 4 + more);
        assert!(gone.iter().all(|id| !ids.contains(id) && store.pin().get(*id).is_none()));
        assert!(ids.iter().all(|id| store.pin().get(*id).is_some()));
        assert_eq!(store.stream("named").unwrap(), named);
        assert!(
            history(&store, named).ends_with(&before)
                && history(&store, numbered).ends_with(&before_numbered)
        );
        assert!(store.next_id() > last_id);
        if round == 0 {
            // Streams go on where they were.
            append_some(&store, EVENTS..EVENTS + 200);
            let newest: Vec<u64> = (EVENTS..EVENTS + 200).filter(|id| id.is_multiple_of(5)).rev().collect();
            assert!(history(&store, named).starts_with(&newest));
            assert_eq!(history(&store, named).len(), newest.len() + before.len());
            store.validate().unwrap();
        }
        store.abandon();
    }
}

#[test]
fn squeezed_pages_and_large_events_are_found_again() {
    let dirs = Dirs::new();
    let config = || dirs.config().hot(|hot| hot.max("2MiB").page_size("8KiB")).class(at_once());
    let store = open(config()).unwrap();
    append_some(&store, 0..EVENTS);
    append_proof(&store, Event::new(Stream::from(1u32), EVENTS, 5, 0), 100_000);
    store.maintain().unwrap();
    assert!(store.stats().events.warm > EVENTS / 2, "{:?}", store.stats().events);
    assert!(store.remove(1).unwrap() && store.remove(EVENTS - 2).unwrap());
    let (hot, warm) = (store.stats().events.hot, store.stats().events.warm);
    store.abandon();
    let store = open(config()).unwrap();
    assert_eq!((store.stats().events.hot, store.stats().events.warm), (hot, warm));
    assert_eq!(store.recovered().unwrap().removed, 2);
    store.validate().unwrap();
    assert_eq!(found(&store).len() as u64, hot + warm);
    // And they go their way: to the cold tier, once.
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    std::fs::remove_dir_all(dirs.shared()).unwrap();
    assert_eq!(open(config()).unwrap().fetch_scan(..).count() as u64, EVENTS - 1);
}

/// A class whose pages are squeezed at once.
fn at_once() -> ClassConfig {
    ClassConfig::new("at once").hot_for(Duration::ZERO).warm_for(Duration::from_secs(1 << 40))
}

#[test]
fn a_closed_store_comes_back_in_memory() {
    let dirs = Dirs::new();
    let store = open(dirs.config()).unwrap();
    append_some(&store, 0..EVENTS);
    assert_eq!(store.close(CLOSE).unwrap().left, 0);
    drop(store);
    let store = open(dirs.config()).unwrap();
    let report = store.recovered().unwrap().clone();
    assert!(report.was_closed && report.events == EVENTS, "{report:?}");
    assert_eq!(found(&store).len() as u64, EVENTS);
    // The cold tier has them, too, and they are found once.
    let all = store.fetch_scan(..).map(|event| event.unwrap().id());
    assert_eq!(all.collect::<std::collections::BTreeSet<_>>().len() as u64, EVENTS);
    assert_eq!(store.fetch_scan(..).count() as u64, EVENTS);
}

#[test]
fn a_directory_has_one_store() {
    let dirs = Dirs::new();
    let store = open(dirs.alone()).unwrap();
    assert_eq!(refusal(dirs.alone()).0, ErrorKind::AlreadyOpen);
    let handle = store.clone();
    store.close(CLOSE).unwrap();
    drop(store);
    // A handle that is left can still look at the pages.
    assert_eq!(refusal(dirs.alone()).0, ErrorKind::AlreadyOpen);
    drop(handle);
    assert!(open(dirs.alone()).is_ok());
}

#[test]
fn another_layout_is_refused_and_told() {
    let dirs = Dirs::new();
    let base = || dirs.config().class(ClassConfig::new("one")).class(ClassConfig::new("two"));
    let store = open(base()).unwrap();
    append_some(&store, 0..100);
    store.abandon();
    let one = |name: &str| dirs.config().class(ClassConfig::new(name));
    let changed = [
        (base().hot(|hot| hot.page_size("8KiB")), "hot.page_size"),
        (base().warm(|warm| warm.page_size("8KiB")), "warm.page_size"),
        (base().memory("20MiB"), "hot.ceiling"),
        (base().partitions(4), "partitions"),
    ];
    for (config, field) in changed {
        let (kind, text) = refusal(config);
        assert!(kind == ErrorKind::Incompatible && text.contains(field), "{field}: {text}");
    }
    for config in [one("one"), one("other").class(ClassConfig::new("two"))] {
        let (kind, text) = refusal(config);
        assert!(kind == ErrorKind::Incompatible && text.contains("classes"), "{text}");
    }
    // A class more that comes with a change that is refused is not added.
    let (kind, _) = refusal(base().memory("20MiB").class(ClassConfig::new("three")));
    assert_eq!(kind, ErrorKind::Incompatible);
    let store = open(base()).unwrap();
    assert_eq!(found(&store).len(), 100);
    store.abandon();
    // The files are as they were. A class more is fine, and so is any layout once the cold tier has everything.
    let store = open(base().class(ClassConfig::new("three"))).unwrap();
    assert_eq!(found(&store).len(), 100);
    store.close(CLOSE).unwrap();
    drop(store);
    let store = open(base().class(ClassConfig::new("three")).memory("20MiB")).unwrap();
    assert!(store.recovered().is_none());
    assert_eq!(store.fetch_scan(..).count(), 100);
}

/// Whoever changes the size of the index only is told so, and how the pages are kept; an index that is too small for what is there
/// says how large it must be. Neither is tried again by itself.
#[test]
fn a_changed_index_is_called_by_its_name() {
    let dirs = Dirs::new();
    let base = |index: &str| dirs.alone().index(|part| part.max(index).page_size("4KiB"));
    let store = open(base("2MiB")).unwrap();
    let [hot, warm] = [&store.config().hot, &store.config().warm].map(|region| region.max);
    let stats = |store: &Store| *store.stats().region(RegionKind::Index);
    assert_eq!(stats(&store).live_bytes, 0);
    let events = 4_000u64;
    for n in 0..events {
        let id = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        append_proof(&store, Event::new(Stream::from(n as u32), id, 1_000_000, 0), 40);
    }
    // An entry of 8 bytes and a head of 64 for each.
    assert_eq!(stats(&store).live_bytes, events * 72);
    store.close(CLOSE).unwrap();
    drop(store);
    let (kind, text) = refusal(base("1MiB"));
    assert_eq!(kind, ErrorKind::Incompatible, "{text}");
    assert!(text.contains("`index`, which had 2MiB and has 1MiB now"), "{text}");
    assert!(text.contains(&format!("hot.max({hot}) and warm.max({warm})")), "{text}");
    // As it says.
    let kept = |index: &str| base(index).hot(|part| part.max(hot)).warm(|part| part.max(warm));
    let error = open(kept("128KiB")).err().unwrap();
    assert!(error.kind() == ErrorKind::Incompatible && !error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("`index` of at least 2MiB"), "{error}");
    for index in ["1792KiB", "2MiB"] {
        let store = open(kept(index)).unwrap();
        assert_eq!(found(&store).len() as u64, events, "{index}");
        assert_eq!(stats(&store).live_bytes, events * 72, "{index}");
        store.validate().unwrap();
        store.close(CLOSE).unwrap();
    }
}

#[test]
fn another_data_directory_is_refused() {
    let (dirs, other) = (Dirs::new(), Dirs::new());
    let store = open(dirs.config()).unwrap();
    append_some(&store, 0..100);
    store.abandon();
    open(other.config()).unwrap().abandon();
    let (kind, text) = refusal(dirs.config().data_dir(other.data()));
    assert!(kind == ErrorKind::Incompatible && text.contains("another data directory"), "{text}");
    // A store that keeps its pages to itself must not number its pages like those that wait there.
    let config =
        Config::builder().memory("16MiB").partitions(2).data_dir(dirs.data()).shared_dir(dirs.shared());
    let (kind, text) = refusal(config);
    assert!(kind == ErrorKind::Incompatible && text.contains("Durability::Process"), "{text}");
    assert_eq!(found(&open(dirs.config()).unwrap()).len(), 100);
}

/// Notes of pages are deleted here, as by somebody who does not care for what only the pages hold.
#[test]
fn a_data_directory_that_went_on_alone_is_noticed() {
    let dirs = Dirs::new();
    let note = dirs.data().join("pages.note");
    let store = open(dirs.config()).unwrap();
    append_some(&store, 0..100);
    store.flush(CLOSE).unwrap();
    store.abandon();
    std::fs::remove_file(&note).unwrap();
    let elsewhere = dirs.dir.path().join("elsewhere");
    let store = open(dirs.config().shared_dir(&elsewhere)).unwrap();
    for round in 1..10 {
        append_some(&store, round * 100..round * 100 + 100);
        store.flush(CLOSE).unwrap();
    }
    store.abandon();
    std::fs::remove_file(&note).unwrap();
    let (kind, text) = refusal(dirs.config());
    assert!(kind == ErrorKind::Incompatible && text.contains("shared_dir"), "{text}");
}

#[test]
fn the_default_directory_is_named_after_the_data() {
    let dirs = Dirs::new();
    let config = || small().durability(Durability::Process).background(false).data_dir(dirs.data());
    let store = open(config()).unwrap();
    append_some(&store, 0..50);
    store.abandon();
    let store = open(config().data_dir(dirs.data().join("../data"))).unwrap();
    assert_eq!(found(&store).len(), 50);
    store.close(CLOSE).unwrap();
    drop(store);
    forget_settled();
    let nowhere = Config::builder().durability(Durability::Process).build().unwrap_err();
    assert_eq!(nowhere.config_faults()[0].field, "shared_dir");
}

#[test]
fn removals_that_cannot_be_noted_are_refused() {
    let dirs = Dirs::new();
    let config = || dirs.alone().hot(|hot| hot.max("1MiB").page_size("8KiB")).warm(|warm| warm.max("64KiB"));
    let store = open(config()).unwrap();
    let mut removed = 0;
    for id in 0..5_000 {
        store.append(&Event::new(Stream::from(1u32), id, 0, 0)).unwrap();
        match store.remove(id) {
            Ok(was_there) => {
                assert!(was_there);
                removed += 1;
            }
            Err(error) => {
                assert!(error.kind() == ErrorKind::MemoryPressure && error.is_retryable(), "{error}");
                assert!(store.pin().get(id).is_some(), "nothing has changed then");
            }
        }
    }
    assert_eq!(removed, 1088, "a note for each KiB");
    store.abandon();
    let store = open(config()).unwrap();
    assert_eq!((store.recovered().unwrap().removed, store.pin().scan(..).count()), (1088, 5_000 - 1088));
}

/// Of the two notes that a removal takes, here and in the cold tier, none stands when the other fails.
#[test]
fn a_removal_that_fails_has_removed_nothing() {
    let (dirs, tier) = (Dirs::new(), crate::tier::MapTier::new());
    let config = || dirs.alone().hot(|hot| hot.max("1MiB").page_size("8KiB")).warm(|warm| warm.max("64KiB"));
    let open = || Store::builder(config().build().unwrap()).cold(tier.clone()).open().unwrap();
    let store = open();
    for id in 0..1_100 {
        store.append(&Event::new(Stream::from(1u32), id, 0, 0)).unwrap();
    }
    // From now on the tier must be told of what is removed.
    store.flush(CLOSE).unwrap();
    let _healed = crate::tier::Healed(&tier);
    tier.set(crate::tier::Fault::Fail);
    assert_eq!(store.remove(1_099).unwrap_err().kind(), ErrorKind::Cold);
    tier.set(crate::tier::Fault::None);
    for id in 0..1_088 {
        assert!(store.remove(id).unwrap(), "event {id}");
    }
    assert_eq!(store.remove(1_088).unwrap_err().kind(), ErrorKind::MemoryPressure);
    store.abandon();
    let store = open();
    let mut found: Vec<u64> = store.pin().scan(..).map(|event| event.id()).collect();
    found.sort_unstable();
    assert_eq!(found, (1_088..1_100).collect::<Vec<_>>());
}

#[test]
fn regions_that_had_been_made_larger_are_opened_within_the_bound() {
    let dirs = Dirs::new();
    let mib = 1u64 << 20;
    let config = || {
        let hot = |hot: esker::RegionBuilder| hot.max("2MiB").ceiling("12MiB").page_size("8KiB");
        dirs.alone()
            .memory("16MiB")
            .buffers("1MiB")
            .index(|index| index.max("1MiB"))
            .hot(hot)
            .warm(|warm| warm.max("8MiB").ceiling("8MiB"))
    };
    let store = open(config()).unwrap();
    let resize = |kind, bytes: u64| store.resize_region(kind, bytes, CLOSE).unwrap();
    resize(esker::RegionKind::Warm, mib);
    resize(esker::RegionKind::Hot, 9 * mib);
    append_some(&store, 0..32_000);
    let used = store.stats().region(esker::RegionKind::Hot).used_bytes;
    assert!(used > 4 * mib, "{used}");
    assert_eq!(store.stats().warnings, [""; 0]);
    store.abandon();
    let store = open(config()).unwrap();
    let stats = store.stats();
    let max = |kind| stats.region(kind).max_bytes;
    assert!(max(esker::RegionKind::Hot) >= used);
    let kinds = [
        esker::RegionKind::System,
        esker::RegionKind::Hot,
        esker::RegionKind::Warm,
        esker::RegionKind::Index,
    ];
    let sum: u64 = kinds.into_iter().map(max).sum();
    assert!(sum + mib <= 16 * mib, "{sum}: {stats:#?}");
    assert!(
        stats.warnings.iter().any(|line| line.contains("2MiB for the hot region")),
        "{:?}",
        stats.warnings
    );
    assert_eq!(store.pin().scan(..).count(), 32_000);
    store.validate().unwrap();
    let report = store.resize_region(esker::RegionKind::Warm, 8 * mib, CLOSE);
    assert_eq!(report.unwrap_err().kind(), ErrorKind::InvalidInput);
}

// ---- damaged files ----

/// A store's files, with everything in them that can be damaged.
fn filled() -> Dirs {
    let dirs = Dirs::new();
    let store = open(damaged_config(&dirs)).unwrap();
    append_some(&store, 0..EVENTS / 2);
    store.maintain().unwrap();
    for number in 0..30 {
        store.stream(&format!("name {number}")).unwrap();
    }
    // The newer half stays as it is: the clock of the store has not moved, but nobody moves pages.
    append_some(&store, EVENTS / 2..EVENTS);
    for id in (0..EVENTS).step_by(50) {
        assert!(store.remove(id).unwrap());
    }
    store.abandon();
    dirs
}

fn damaged_config(dirs: &Dirs) -> ConfigBuilder {
    dirs.alone().hot(|hot| hot.max("2MiB").page_size("8KiB")).warm(|warm| warm.max("1MiB")).class(at_once())
}

fn copy(from: &Path) -> Dirs {
    let dirs = Dirs::new();
    std::fs::create_dir(dirs.shared()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), dirs.shared().join(entry.file_name())).unwrap();
    }
    dirs
}

/// What a damaged store still gives: how many events are missing, how many are other than they were, and whether it said
/// that it is damaged. `None`: it was refused, by an error that says why.
fn look_at(dirs: &Dirs, what: &str) -> Option<(usize, usize, bool)> {
    let store = match open(damaged_config(dirs)) {
        Ok(store) => store,
        Err(error) => {
            let kinds = [ErrorKind::Corrupt, ErrorKind::Incompatible];
            assert!(kinds.contains(&error.kind()), "{what}: {error:?}");
            return None;
        }
    };
    store.validate().unwrap_or_else(|error| panic!("{what}: {error}"));
    let (mut other, mut ids) = (0, std::collections::BTreeSet::new());
    for event in store.pin().scan(..) {
        let id = event.id();
        let named = event.stream().is_named() == id.is_multiple_of(5);
        let right = event.payload() == proof(event.stream(), id, id as i64, 50 + (id % 300) as usize);
        other += usize::from(!(id < EVENTS && !id.is_multiple_of(50) && named && right));
        ids.insert(id);
    }
    let wanted = (0..EVENTS).filter(|id| !id.is_multiple_of(50));
    let missing = wanted.filter(|id| !ids.contains(id)).count();
    // Everything goes on.
    append_some(&store, EVENTS..EVENTS + 50);
    for stream in 0..9 {
        assert!(history(&store, Stream::from(stream)).len() <= EVENTS as usize);
    }
    store.maintain().unwrap();
    store.validate().unwrap_or_else(|error| panic!("{what}, later: {error}"));
    let told = !store.recovered().unwrap_or_else(|| panic!("{what}: it was begun anew")).is_whole();
    store.abandon();
    // What was mended stays mended.
    let store = open(damaged_config(dirs)).unwrap_or_else(|error| panic!("{what}, again: {error}"));
    store.validate().unwrap_or_else(|error| panic!("{what}, again: {error}"));
    Some((missing, other, told))
}

#[test]
fn flipped_bits_are_noticed_and_cost_what_they_hit() {
    let whole = filled();
    let rounds = if cfg!(debug_assertions) { 12 } else { 150 };
    let mut random = Random::new(0x5eed_0007);
    for name in ["record", "places", "table", "warm", "hot", "removed", "names", "ids"] {
        let (mut refused, mut told, mut missing, mut others) = (0, 0, 0, 0);
        for round in 0..rounds {
            let dirs = copy(&whole.shared());
            let path = dirs.shared().join(name);
            let mut bytes = std::fs::read(&path).unwrap();
            let flips = 1 + random.below(4) as usize;
            for _ in 0..flips {
                // Where there is something: most of the files are zero.
                let at = loop {
                    let at = random.below(bytes.len() as u64) as usize;
                    if bytes[at] != 0 || random.below(1000) == 0 {
                        break at;
                    }
                };
                bytes[at] ^= 1 << random.below(8);
            }
            std::fs::write(&path, &bytes).unwrap();
            let what = format!("{flips} bits of {name}, round {round}");
            match look_at(&dirs, &what) {
                None => refused += 1,
                Some((gone, other, said)) => {
                    let quiet = gone > 0 && !said;
                    // Memory is believed: nothing sums up the records of a hot page, nor the notes of removals.
                    let believed = if name == "hot" || name == "removed" { flips } else { 0 };
                    // A length that is believed may make one more event of what follows.
                    assert!(other <= 2 * believed, "{what}: {other} events are other than they were");
                    assert!(
                        !quiet || gone <= believed,
                        "{what}: {gone} events are missing, and nothing was said"
                    );
                    (told, missing, others) = (told + u32::from(said), missing + gone, others + other);
                }
            }
        }
        println!(
            "{name}: of {rounds} rounds {refused} refused, {told} told; {missing} missing, {others} altered"
        );
        if name != "record" {
            assert_eq!(refused, 0, "{name}: the rest stays readable");
        }
        if ["table", "warm", "places"].contains(&name) {
            assert!(told > 0, "{name}: nothing was ever noticed");
        }
    }
}

/// Found by reading: what its frames share was looked for where no file is behind the mapping, which ends the process.
#[test]
fn a_warm_page_that_claims_to_reach_behind_its_file_is_let_go() {
    let dirs = Dirs::new();
    let config = || {
        let warm = |warm: esker::RegionBuilder| warm.max("6MiB").initial("64KiB").chunk("64KiB");
        dirs.alone().partitions(1).hot(|hot| hot.max("2MiB").page_size("8KiB")).warm(warm).class(at_once())
    };
    let store = open(config()).unwrap();
    append_some(&store, 0..EVENTS / 2);
    store.maintain().unwrap();
    store.abandon();
    let path = dirs.shared().join("warm");
    let mut bytes = std::fs::read(&path).unwrap();
    let (frames, dictionary) = (512u32 << 10, 64u16);
    let begin = 20 + 8 * frames + u32::from(dictionary);
    assert!(bytes.len() < begin as usize / 2, "the file has {} bytes", bytes.len());
    let image = bytes.chunks_mut(2 << 10).find(|page| page.starts_with(b"EWI2")).unwrap();
    for (at, field) in [(4, frames), (8, frames << 9), (12, 5 << 20), (20, begin)] {
        image[at..at + 4].copy_from_slice(&field.to_le_bytes());
    }
    image[16] = 9;
    image[18..20].copy_from_slice(&dictionary.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let store = open(config()).unwrap();
    let recovered = store.recovered().unwrap();
    assert_eq!(recovered.lost_pages, 1, "{recovered:?}");
    store.validate().unwrap();
    assert!(found(&store).len() as u64 > EVENTS / 4);
}

/// What is damaged on a page in each way that there is costs what it says, and no more.
#[test]
fn what_a_damaged_page_lost_is_counted() {
    const EVENTS: u64 = 500;
    const PAGE: usize = 8 << 10;
    /// The entry of a page in the table.
    const ENTRY: usize = 128;
    let config = |dirs: &Dirs| {
        let config = dirs.alone().partitions(1).event_checksums(true);
        config.hot(|hot| hot.max("2MiB").page_size(PAGE as u64))
    };
    let whole = Dirs::new();
    let store = open(config(&whole)).unwrap();
    for id in 0..EVENTS {
        append_proof(&store, Event::new(Stream::from(1u32), id, id as i64, 0), 60);
    }
    assert!((0..3).all(|id| store.remove(id).unwrap()));
    store.abandon();
    let read = |name| std::fs::read(whole.shared().join(name)).unwrap();
    let (places, table) = (read("places"), read("table"));
    let u32_at = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    // Page numbers are given in order, so it is the second page of the lane.
    let (entry, frame) = (2 * ENTRY, u32_at(&places, 16) * PAGE);
    let (committed, count) = (u32_at(&table, entry + 8), u32_at(&table, entry + 12));
    let record = committed / count;
    let shorter = (committed - 3 * record) as u32;
    let later = i64::from_le_bytes(table[entry + 64..entry + 72].try_into().unwrap()) + 1;
    let last = (1..).find(|page| u32_at(&places, (page + 1) * 8 + 4) == 0).unwrap() * ENTRY;
    let one_more = (u32_at(&table, last + 12) + 1) as u32;
    let cases = [
        ("nothing", "hot", vec![], 0, 0),
        // A record is counted just before it can be seen.
        (
            "a kill in the middle of an append",
            "table",
            vec![(last + 12, one_more.to_le_bytes().to_vec())],
            0,
            0,
        ),
        // It begins later than its first event, so these are not its events.
        ("its zone map", "table", vec![(entry + 64, later.to_le_bytes().to_vec())], 1, count),
        ("its length", "table", vec![(entry + 8, shorter.to_le_bytes().to_vec())], 0, 3),
        ("its first header", "hot", vec![(frame, vec![0xff; record])], 0, 1),
        ("all of it", "hot", vec![(frame, vec![0xff; committed])], 0, count),
        ("two payloads", "hot", [50, 50 + record].map(|at| (frame + at, vec![0xff; 4])).into(), 0, 2),
    ];
    for (what, name, changes, pages, events) in cases {
        let dirs = copy(&whole.shared());
        let mut altered = read(name);
        for (at, bytes) in changes {
            altered[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        std::fs::write(dirs.shared().join(name), altered).unwrap();
        let store = open(config(&dirs)).unwrap();
        let report = store.recovered().unwrap();
        let left = EVENTS - 3 - events as u64;
        assert_eq!((report.lost_pages, report.lost_events), (pages, events as u64), "{what}: {report:?}");
        assert_eq!((report.events, report.removed), (left, 3), "{what}: {report:?}");
        assert_eq!(found(&store).len() as u64, left, "{what}");
        store.validate().unwrap();
    }
    // Two events that bear the id of another. Nothing sums them up here, so it is that which is told.
    let dirs = Dirs::new();
    let config = || config(&dirs).event_checksums(false);
    let store = open(config()).unwrap();
    for id in 0..EVENTS {
        append_proof(&store, Event::new(Stream::from(1u32), id, id as i64, 0), 60);
    }
    store.abandon();
    let path = dirs.shared().join("hot");
    let mut hot = std::fs::read(&path).unwrap();
    let record = {
        let table = std::fs::read(dirs.shared().join("table")).unwrap();
        u32_at(&table, entry + 8) / u32_at(&table, entry + 12)
    };
    for at in [frame + 8, frame + 8 + record] {
        assert!(u64::from_le_bytes(hot[at..at + 8].try_into().unwrap()) > 1, "an id is here");
        hot[at..at + 8].copy_from_slice(&1u64.to_le_bytes());
    }
    std::fs::write(&path, hot).unwrap();
    let store = open(config()).unwrap();
    let report = store.recovered().unwrap();
    assert_eq!((report.events, report.lost_events, report.lost_pages), (EVENTS - 2, 2, 0), "{report:?}");
}

#[test]
fn files_that_are_cut_off_are_refused_or_cost_what_is_missing() {
    let whole = filled();
    let mut random = Random::new(0x5eed_0008);
    for name in ["record", "places", "table", "warm", "hot", "removed", "names", "ids"] {
        for round in 0..6 {
            let dirs = copy(&whole.shared());
            let path = dirs.shared().join(name);
            let len = std::fs::metadata(&path).unwrap().len();
            let cut = if round == 0 { 0 } else { random.below(len) };
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.set_len(cut).unwrap();
            let what = format!("{name} cut from {len} to {cut} bytes");
            match (name, look_at(&dirs, &what)) {
                ("places" | "table" | "removed", found) => assert!(found.is_none(), "{what}: {found:?}"),
                ("record", found) => assert!(found.is_none_or(|found| found == (0, 0, false)), "{what}"),
                (_, None) => panic!("{what}: refused"),
                (_, Some((missing, other, told))) => {
                    assert_eq!(other, 0, "{what}");
                    assert!(
                        missing == 0 || told,
                        "{what}: {missing} events are missing, and nothing was said"
                    );
                }
            }
        }
    }
}

#[test]
fn missing_and_foreign_files_are_not_taken_for_nothing() {
    let whole = filled();
    let without = |name: &str| {
        let dirs = copy(&whole.shared());
        std::fs::remove_file(dirs.shared().join(name)).unwrap();
        dirs
    };
    for name in ["record", "table", "places", "removed"] {
        let (kind, text) = refusal(damaged_config(&without(name)));
        assert!(kind == ErrorKind::Corrupt, "without {name}: {text}");
    }
    assert!(look_at(&without("names"), "without names").is_some());
    // A newer version is left alone.
    let dirs = copy(&whole.shared());
    let path = dirs.shared().join("record");
    let (text, turn) = ("what a later version has to say\n", 1000u64);
    let sum = [&4u32.to_le_bytes()[..], &turn.to_le_bytes(), text.as_bytes()].concat();
    let newer = format!("esker-shared 4 {turn} {} {:08x}\n{text}", text.len(), crc32fast::hash(&sum));
    std::fs::write(&path, &newer).unwrap();
    let (kind, message) = refusal(damaged_config(&dirs));
    assert!(kind == ErrorKind::Incompatible && message.contains("newer version"), "{message}");
    assert_eq!(std::fs::read(&path).unwrap(), newer.into_bytes());
}

/// A file system that is full is met when the store opens or grows, never as a signal.
#[cfg(target_os = "linux")]
#[test]
fn a_full_file_system_is_a_full_store() {
    const TEST: &str = "process::a_full_file_system_is_a_full_store";
    if child_argument().is_none() {
        return in_small_file_system(TEST, "6m");
    }
    let shared = PathBuf::from(child_argument().unwrap());
    std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let config = |initial: &str| {
        let initial = initial.to_string();
        small()
            .durability(Durability::Process)
            .shared_dir(&shared)
            .background(false)
            .append_timeout(Duration::ZERO)
            .hot(move |hot| hot.max("8MiB").initial(&initial).chunk("512KiB"))
            .warm(|warm| warm.max("1MiB").initial("64KiB"))
    };
    let (kind, text) = refusal(config("8MiB"));
    assert!(kind == ErrorKind::Io && text.contains("no room"), "{text}");
    let store = open(config("512KiB")).unwrap();
    let mut stored = 0;
    let error = loop {
        let event = Event::new(Stream::from(7u32), stored, 0, 0).payload(&[7; 1000]);
        match store.append(&event) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::MemoryPressure);
    assert!((1_000..7_000).contains(&stored), "{stored} events");
    store.validate().unwrap();
    store.abandon();
    let store = open(config("512KiB")).unwrap();
    assert_eq!(store.stats().events.hot, stored);
    assert!(store.recovered().unwrap().is_whole());
}

#[test]
fn what_expired_and_was_packed_away_does_not_come_back_without_its_body() {
    let dirs = Dirs::new();
    let clock = Clock::manual(1_000_000);
    let open = || {
        let config = dirs.alone().hot(|hot| hot.page_size(16 << 10)).build().unwrap();
        Store::builder(config).clock(clock.clone()).open().unwrap()
    };
    let store = open();
    for id in 0..1000 {
        let event = Event::new(Stream::from((id % 9) as u32), id, clock.now_ms(), 0);
        let event = if id % 10 == 3 { event } else { event.ttl(Duration::from_secs(10)) };
        append_proof(&store, event, 300);
    }
    clock.set_ms(1_000_000 + 120_000);
    crate::common::wait_until("what expired is packed away", Duration::from_secs(60), || {
        store.maintain().unwrap();
        store.stats().defrag.pages > 3
    });
    store.abandon();
    // A clock that was set back would show them again, if they were taken for events.
    clock.set_ms(1_000_000);
    let store = open();
    let ids = found(&store);
    assert!(ids.iter().filter(|id| **id % 10 == 3).count() == 100, "{ids:?}");
    assert!(ids.len() < 500, "pages were packed: {}", ids.len());
    for stream in 0..9u32 {
        store.pin().history(Stream::from(stream)).for_each(|event| verify(&event));
    }
    store.validate().unwrap();
}

/// No class has a retention, so nothing but the events themselves says that they end.
#[test]
fn what_has_expired_by_itself_stays_gone_in_the_next_process() {
    let (dirs, clock) = (Dirs::new(), Clock::manual(1_000_000));
    let open = || Store::builder(dirs.alone().build().unwrap()).clock(clock.clone()).open().unwrap();
    let store = open();
    let stream = Stream::from(1u32);
    let event = |id| Event::new(stream, id, clock.now_ms(), 1);
    store.append(&event(1).ttl(Duration::from_secs(60))).unwrap();
    store.append(&event(2)).unwrap();
    store.abandon();
    clock.set_ms(clock.now_ms() + 61_000);
    let store = open();
    assert_eq!(store.recovered().unwrap().lost_events, 0);
    let guard = store.pin();
    assert!(guard.get(1).is_none() && guard.get(2).is_some());
    assert_eq!(history(&store, stream), [2]);
    assert_eq!(guard.scan(..).map(|event| event.id()).collect::<Vec<_>>(), [2]);
    drop(guard);
    assert!(store.fetch(1).unwrap().is_none());
}

/// What an index outgrows while it is built anew is used again: an opening needs no more of it than the store did.
#[test]
fn an_index_that_held_the_events_has_room_for_them_after_a_kill() {
    const EVENTS: u64 = 190_000;
    let config = |dirs: &Dirs, partitions: usize| {
        let config = Config::builder().memory("128MiB").partitions(partitions);
        let config =
            (0..3).fold(config, |config, number| config.class(ClassConfig::new(format!("c{number}"))));
        config.durability(Durability::Process).shared_dir(dirs.shared()).background(false)
    };
    for (partitions, ranges) in [(1, 3), (4, 8)] {
        let dirs = Dirs::new();
        let store = open(config(&dirs, partitions)).unwrap();
        let classes: Vec<_> = (0..3).map(|number| store.class(&format!("c{number}")).unwrap()).collect();
        let (mut random, mut next) = (Random::new(7), vec![0u64; ranges]);
        for number in 0..EVENTS {
            let range = number as usize % ranges;
            next[range] += 1;
            let id = (16 + range as u64) << 34 | next[range];
            let event = Event::new(Stream::from(random.below(20_000) as u32), id, 0, 0).payload(&[7; 160]);
            store.append(&event.class(classes[random.below(3) as usize])).unwrap();
        }
        let before = store.stats().region(esker::RegionKind::Index).used_bytes;
        store.abandon();
        let store =
            open(config(&dirs, partitions)).unwrap_or_else(|error| panic!("{partitions}, {ranges}: {error}"));
        assert_eq!(
            store.recovered().unwrap().events,
            EVENTS,
            "{partitions} partitions, {ranges} ranges of ids"
        );
        let after = store.stats().region(esker::RegionKind::Index).used_bytes;
        assert!(after <= before, "{after} of what were {before} bytes");
    }
}

/// The same where the index was full, with events that leave and come, streams and ids of all kinds.
#[test]
fn an_index_that_was_full_has_room_after_a_kill() {
    for (partitions, ranges, scattered) in [(1, 3, 0), (2, 8, 0), (2, 3, 4), (4, 1, 1)] {
        let dirs = Dirs::new();
        let config = || {
            let config =
                Config::builder().memory("64MiB").partitions(partitions).index(|index| index.max("2MiB"));
            let class = |number| ClassConfig::new(format!("c{number}")).on_leave(esker::OnLeave::Drop);
            let config = (0..3).fold(config, |config, number| config.class(class(number)));
            config.durability(Durability::Process).shared_dir(dirs.shared()).background(false)
        };
        let store = open(config()).unwrap();
        let classes: Vec<_> = (0..3).map(|number| store.class(&format!("c{number}")).unwrap()).collect();
        let (mut random, mut next, mut refused) = (Random::new(7), vec![0u64; ranges], 0);
        for number in 0..60_000u64 {
            let range = number as usize % ranges;
            next[range] += 1;
            let mut id = (16 + range as u64) << 34 | next[range];
            if scattered > 0 && number % scattered == 0 {
                id = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            }
            let event = Event::new(Stream::from(random.below(6_000) as u32), id, 0, 0).payload(&[7; 160]);
            let event = event.class(classes[random.below(3) as usize]);
            if store.try_append(&event).is_err() {
                refused += 1;
                // The last one is refused, too.
                if number > 50_000 {
                    break;
                }
                store.maintain().unwrap();
            }
        }
        let what = format!("{partitions} partitions, {ranges} ranges of ids, one in {scattered} scattered");
        assert!(refused > 0, "{what}");
        let count = |store: &Store| store.pin().scan(..).count();
        let held = count(&store);
        store.abandon();
        let store = open(config()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(count(&store), held, "{what}");
    }
}
