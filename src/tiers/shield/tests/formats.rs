//! The files of the overflow directory as released versions wrote them. The other formats are in `tests/it/formats.rs`, which
//! says how they are kept.

use super::*;
use crate::tiers::cold::Tombstone;

/// Where files go that are written now.
const NEWEST: &str = "v1";
/// Page numbers of the store that wrote them.
const FIRST: u64 = 1 << WRITER_SHIFT;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The versions of which files are kept, oldest first.
fn versions() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap().path().join("overflow"));
    let mut found: Vec<PathBuf> = entries.filter(|dir| dir.is_dir()).collect();
    found.sort();
    found
}

/// The files of a directory but for locks, by their path from there.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = PathBuf::from(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()).into_iter().map(|(path, bytes)| (name.join(path), bytes)));
        } else if entry.file_name() != "lock" {
            found.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

fn write_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    for (name, bytes) in files {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn stone() -> Tombstone {
    Tombstone::new(77, 1, 0, FIRST + 2)
}

/// A change of each kind in the overflow, a block among the dead letters, and what the directory knows of the namespace.
fn write(dir: &Path) {
    let server = Arc::new(Server::new());
    let (shield, first) = open_in_ranges(&server, dir);
    assert_eq!(first, FIRST);
    *server.mood.lock() = Mood::Picky;
    shield.put(&[ColdBlock { bytes: vec![13; 50], ..block(first, 0) }]).unwrap();
    *server.mood.lock() = Mood::Away;
    drop(shield);
    let (shield, _) = open_in_ranges(&server, dir);
    shield.put(&[block(first + 1, 100), block(first + 2, 0)]).unwrap();
    shield.put_names(&[("a name".into(), 5), ("ein Name mit ü".into(), 6)]).unwrap();
    shield.put_tombstone(stone()).unwrap();
    shield.write(vec![Change::Namespace(Namespace::new(2, 77, vec!["a".into()]))]).unwrap();
}

fn check(dir: &Path) {
    let server = Arc::new(Server::new());
    server.ranges.store(true, Ordering::SeqCst);
    *server.mood.lock() = Mood::Away;
    let shield = Shield::open(server.clone(), dir, limits(Duration::ZERO)).unwrap();
    // Without the servers, by what the directory knows.
    let first = shield.begin(&[]).unwrap();
    assert!(first > FIRST + 2 && writer_of(first) == writer_of(FIRST));
    assert_eq!(shield.namespace().unwrap(), Some(Namespace::new(2, 77, vec!["a".into()])));
    let blocks = [(FIRST, vec![13; 50]), (FIRST + 1, vec![1; 100]), (FIRST + 2, Vec::new())];
    for (seq, bytes) in &blocks {
        assert_eq!(shield.get(block(*seq, 0).id).unwrap().as_ref(), Some(bytes));
    }
    let entries = [format!("{FIRST}, 0"), format!("{}, 100", FIRST + 1), format!("{}, 0", FIRST + 2)];
    assert_eq!(listed(&shield), (FIRST..).zip(entries).collect());
    let (mut names, mut stones) = (Vec::new(), Vec::new());
    shield.names(&mut |name, stream| names.push((name.to_string(), stream))).unwrap();
    assert_eq!(names, [("a name".to_string(), 5), ("ein Name mit ü".to_string(), 6)]);
    shield.tombstones(&mut |stone| stones.push(stone)).unwrap();
    assert_eq!(stones, [stone()]);
    let letters = shield.dead_letters().list();
    assert_eq!((letters.len(), letters[0].block), (1, Some(block(FIRST, 0).id)));
    assert_eq!(letters[0].reason, "far too large");
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "drained", || shield.figures().overflow == 0);
    shield.replay(&letters[0].name).unwrap();
    let there: Vec<_> = server.blocks.lock().values().map(|(_, block)| block.bytes.clone()).collect();
    assert_eq!(there, blocks.map(|(_, bytes)| bytes));
    assert_eq!((server.names.lock().len(), shield.figures().dead_letters), (2, 0));
}

#[test]
fn overflow_directories_of_released_versions_are_read() {
    for version in versions() {
        println!("{}", version.display());
        let dir = tempfile::tempdir().unwrap();
        write_files(dir.path(), &files(&version));
        check(dir.path());
    }
}

#[test]
fn the_same_overflow_is_written_as_by_the_newest_version() {
    let (dir, newest) = (tempfile::tempdir().unwrap(), versions().pop().unwrap());
    write(dir.path());
    let now = files(dir.path());
    assert_eq!(now.len(), 3, "a spool, a letter, a namespace");
    assert!(
        now == files(&newest),
        "the overflow directory has other bytes than {}: see \"When the bytes of a file change\" in CONTRIBUTING.md",
        newest.display()
    );
}

/// Writes them if the newest version has none yet: `cargo test --lib formats::write -- --ignored`.
#[test]
#[ignore = "writes into the repository"]
fn write_what_is_missing_of_the_newest_version() {
    let kept = fixtures().join(NEWEST).join("overflow");
    if kept.exists() {
        return println!("{} is kept as it is", kept.display());
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    write_files(&kept, &files(dir.path()));
}
