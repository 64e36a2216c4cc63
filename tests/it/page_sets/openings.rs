//! Openings that fail or end in the middle, stores that take turns, and copies: what the note says is right whatever was last.

use std::sync::Arc;

use esker::{BlockId, ColdBlock, ColdTier, Error, Namespace, Result, Tombstone};

use super::*;
use crate::tier::MapTier;

/// A tier that does not give its names: the opening fails after it has begun with its pages.
struct Nameless(Arc<MapTier>);

impl ColdTier for Nameless {
    fn namespace(&self) -> Result<Option<Namespace>> {
        self.0.namespace()
    }
    fn set_namespace(&self, namespace: &Namespace) -> Result<()> {
        self.0.set_namespace(namespace)
    }
    fn put(&self, blocks: &[ColdBlock]) -> Result<()> {
        self.0.put(blocks)
    }
    fn get(&self, id: BlockId) -> Result<Option<Vec<u8>>> {
        self.0.get(id)
    }
    fn delete(&self, ids: &[BlockId]) -> Result<()> {
        self.0.delete(ids)
    }
    fn list(&self, visit: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        self.0.list(visit)
    }
    fn put_names(&self, names: &[(String, u64)]) -> Result<()> {
        self.0.put_names(names)
    }
    fn names(&self, _: &mut dyn FnMut(&str, u64)) -> Result<()> {
        Err(Error::cold("the server does not answer", std::io::Error::other("for this test")))
    }
    fn put_tombstone(&self, tombstone: Tombstone) -> Result<()> {
        self.0.put_tombstone(tombstone)
    }
    fn delete_tombstones(&self, tombstones: &[Tombstone]) -> Result<()> {
        self.0.delete_tombstones(tombstones)
    }
    fn tombstones(&self, visit: &mut dyn FnMut(Tombstone)) -> Result<()> {
        self.0.tombstones(visit)
    }
}

fn with(config: ConfigBuilder, tier: &Arc<MapTier>) -> Store {
    Store::builder(config.build().unwrap()).cold(tier.clone()).open().unwrap()
}

fn fails(config: ConfigBuilder, tier: &Arc<MapTier>) {
    let nameless = Arc::new(Nameless(tier.clone()));
    let error = Store::builder(config.build().unwrap()).cold(nameless).open().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Cold, "{error}");
}

#[test]
fn an_opening_that_fails_leaves_what_is_known_of_the_pages_before_it() {
    let (dirs, tier) = (Dirs::new(), MapTier::new());
    // The data directory is made for the note, whoever else is the cold tier.
    let store = with(dirs.pages("first"), &tier);
    append_some(&store, 0..100);
    store.abandon();
    for _ in 0..3 {
        fails(dirs.pages("first"), &tier);
    }
    let store = with(dirs.pages("first"), &tier);
    assert!(events(&store) == 100 && !pages_gone(&store));
    store.abandon();
    // As a file system that is not mounted for a while.
    std::fs::rename(dirs.at("first"), dirs.at("away")).unwrap();
    fails(dirs.pages("first"), &tier);
    fails(dirs.pages("first"), &tier);
    let unmounted = dirs.at("first");
    std::fs::remove_dir_all(&unmounted).unwrap();
    std::fs::rename(dirs.at("away"), &unmounted).unwrap();
    let store = with(dirs.pages("first"), &tier);
    assert!(events(&store) == 100 && !pages_gone(&store));
    store.abandon();
    // What is gone is told by the first one that opens.
    std::fs::remove_dir_all(&unmounted).unwrap();
    fails(dirs.pages("first"), &tier);
    assert!(pages_gone(&with(dirs.pages("first"), &tier)));
}

#[test]
fn settled_pages_that_an_opening_let_go_are_not_missed() {
    let (dirs, tier) = (Dirs::new(), MapTier::new());
    let store = with(dirs.pages("first"), &tier);
    append_some(&store, 0..100);
    let used = std::fs::read(dirs.note()).unwrap();
    store.close(CLOSE).unwrap();
    drop(store);
    // The process ended before the note knew of the close.
    std::fs::write(dirs.note(), used).unwrap();
    let other = || dirs.pages("first").hot(|hot| hot.page_size("128KiB"));
    fails(other(), &tier);
    let store = with(other(), &tier);
    assert!(events(&store) == 100 && !pages_gone(&store));
}

/// As in an upgrade: the next process waits for the directory. What it knows of the note is from after that.
#[test]
fn stores_that_take_turns_have_the_note_right() {
    let dirs = Dirs::new();
    let mut store = open(dirs.pages("first")).unwrap();
    for _ in 0..if cfg!(debug_assertions) { 40 } else { 200 } {
        let config = dirs.pages("first").build().unwrap();
        let await_it = || loop {
            match Store::open(config.clone()) {
                Ok(store) => return store,
                Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyOpen, "{error}"),
            }
        };
        store = std::thread::scope(|scope| {
            let next = scope.spawn(await_it);
            store.close(CLOSE).unwrap();
            drop(store);
            next.join().unwrap()
        });
    }
    append_some(&store, 0..10);
    // A store that is open is no reason to try another directory.
    assert_eq!(refusal(dirs.pages("second")).0, ErrorKind::AlreadyOpen);
    store.abandon();
    is_refused(dirs.pages("second"), &[&dirs.at("first").canonicalize().unwrap()]);
}

#[test]
fn modes_may_take_turns_after_a_close() {
    let dirs = Dirs::new();
    let (process, memory, disk) =
        (Durability::Process, Durability::Memory, Durability::Disk(DiskSync::EveryBatch));
    let modes = [process, memory, process, disk, memory, disk, process, memory, process];
    for (round, mode) in (0..).zip(modes) {
        let store = open(dirs.pages("first").durability(mode)).unwrap();
        assert_eq!(events(&store) as u64, round * 300, "round {round}, {mode:?}");
        append_some(&store, round * 300..round * 300 + 300);
        assert_eq!(store.close(CLOSE).unwrap().left, 0);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_copy_of_pages_hides_nothing_that_came_later() {
    for settled in [true, false] {
        let dirs = Dirs::new();
        let store = open(dirs.pages("first")).unwrap();
        append_some(&store, 0..100);
        if settled {
            store.close(CLOSE).unwrap();
            drop(store);
        } else {
            store.abandon();
        }
        copy(&dirs.at("first"), &dirs.at("second"));
        crash_with(dirs.pages("first"), 100..200);
        let (kind, text) = refusal(dirs.pages("second"));
        assert_eq!(kind, ErrorKind::Incompatible, "{settled}: {text}");
        assert_eq!(events(&open(dirs.pages("first")).unwrap()), 200);
    }
}

#[test]
fn a_copy_of_a_data_directory_does_not_take_the_pages() {
    let dirs = Dirs::new();
    open(dirs.pages("first")).unwrap().close(CLOSE).unwrap();
    copy(&dirs.at("data"), &dirs.at("copy"));
    crash_with(dirs.pages("first"), 0..100);
    let (kind, text) = refusal(dirs.pages("first").data_dir(dirs.at("copy")));
    assert_eq!(kind, ErrorKind::Incompatible, "{text}");
    assert_eq!(events(&open(dirs.pages("first")).unwrap()), 100);
}

/// By mistake, with the other's `shared_dir`.
#[test]
fn a_log_does_not_let_go_the_pages_of_another_data_directory() {
    let dirs = Dirs::new();
    let mode = Durability::Disk(DiskSync::Interval(Duration::from_secs(60)));
    let other = || dirs.pages("others").durability(mode).data_dir(dirs.at("other"));
    crash_with(dirs.pages("first").durability(mode), 0..10);
    crash_with(other(), 0..100);
    assert_eq!(refusal(dirs.pages("others").durability(mode)).0, ErrorKind::Incompatible);
    assert_eq!(events(&open(other()).unwrap()), 100);
}

#[test]
fn pages_without_a_number_are_taken_where_the_note_misses_none() {
    let (dirs, tier) = (Dirs::new(), MapTier::new());
    with(dirs.pages("first"), &tier).close(CLOSE).unwrap();
    std::fs::remove_dir_all(dirs.at("first")).unwrap();
    // Without a data directory, or by an esker that knew of no note.
    let bare = small().durability(Durability::Process).shared_dir(dirs.at("first")).background(false);
    let store = with(bare, &tier);
    append_some(&store, 0..100);
    store.abandon();
    let store = with(dirs.pages("first"), &tier);
    assert!(events(&store) == 100 && !pages_gone(&store));
}

#[test]
fn pages_that_lack_their_record_are_not_taken_for_gone() {
    let dirs = Dirs::new();
    crash_with(dirs.pages("first"), 0..100);
    std::fs::remove_file(dirs.at("first").join("record")).unwrap();
    assert_eq!(refusal(dirs.pages("first")).0, ErrorKind::Corrupt);
    is_refused(dirs.pages("second"), &[&dirs.at("first").canonicalize().unwrap()]);
}

#[test]
fn pages_may_lie_in_the_data_directory() {
    for name in ["data", "data/pages"] {
        let dirs = Dirs::new();
        crash_with(dirs.pages(name), 0..50);
        let store = open(dirs.pages(name)).unwrap();
        assert!(events(&store) == 50 && !pages_gone(&store), "{name}");
    }
}
