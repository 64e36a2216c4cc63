//! The shield in front of a server that does as it is told.

mod faults;
mod formats;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::tiers::directory::{WRITER_SHIFT, writer_of};
use crate::tiers::shield::remote::{ShowBlock, Stamp};

/// What the server does with changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mood {
    Takes,
    Away,
    /// Takes them and does not say so.
    Silent,
    /// Never takes blocks whose first byte is 13.
    Picky,
}

struct Server {
    mood: Mutex<Mood>,
    life: AtomicU64,
    blocks: Mutex<BTreeMap<BlockId, (i64, ColdBlock)>>,
    names: Mutex<BTreeMap<String, u64>>,
    sent: AtomicU64,
    forgot: AtomicBool,
    /// Whether openings get ranges of their own, as from a real server; the last one.
    ranges: AtomicBool,
    last: AtomicU64,
    namespace: Mutex<Option<Namespace>>,
    clock: AtomicU64,
}

impl Server {
    fn new() -> Self {
        Self {
            mood: Mutex::new(Mood::Takes),
            life: AtomicU64::new(1),
            blocks: Mutex::default(),
            names: Mutex::default(),
            sent: AtomicU64::new(0),
            forgot: AtomicBool::new(false),
            ranges: AtomicBool::new(false),
            last: AtomicU64::new(0),
            namespace: Mutex::default(),
            clock: AtomicU64::new(1),
        }
    }

    fn refused() -> Error {
        Error::new(ErrorKind::Cold, "told to fail")
    }

    fn take(&self, op: &Op) {
        match &op.change {
            Change::Block(block) => {
                let mut blocks = self.blocks.lock();
                // As a real server does: the later stamp counts.
                if blocks.get(&block.id).is_none_or(|(micros, _)| *micros <= op.stamp.micros) {
                    blocks.insert(block.id, (op.stamp.micros, block.clone()));
                }
            }
            Change::Names(names) => self.names.lock().extend(names.iter().cloned()),
            _ => {}
        }
    }
}

impl Remote for Arc<Server> {
    fn begin(&self, _: &[ClassConfig], last_seq: u64) -> Result<u64> {
        match *self.mood.lock() {
            Mood::Away => Err(Server::refused()),
            _ if self.ranges.load(Ordering::SeqCst) => {
                Ok((1 + writer_of(last_seq.max(self.last.load(Ordering::SeqCst)))) << WRITER_SHIFT)
            }
            _ => Ok(last_seq + 1),
        }
        .inspect(|first| {
            self.last.fetch_max(*first, Ordering::SeqCst);
        })
    }

    fn begin_away(&self, _: &[ClassConfig], _: u64) {}

    fn rejoin(&self) -> Result<()> {
        match *self.mood.lock() {
            Mood::Away => Err(Server::refused()),
            _ => Ok(()),
        }
    }

    fn label(&self) -> String {
        "k/n".into()
    }

    fn stamp(&self, _: &Change) -> Stamp {
        Stamp { micros: self.clock.fetch_add(1, Ordering::SeqCst) as i64, period: 7 }
    }

    fn send(&self, ops: &[Arc<Op>]) -> Vec<Verdict> {
        let mood = *self.mood.lock();
        let verdict = |op: &Arc<Op>| {
            self.sent.fetch_add(1, Ordering::SeqCst);
            let picked = matches!(&op.change, Change::Block(block) if block.bytes.first() == Some(&13));
            match mood {
                Mood::Away => Verdict::Later(Some(Server::refused())),
                Mood::Picky if picked => Verdict::Never(Error::new(ErrorKind::Cold, "far\ntoo large")),
                Mood::Silent => {
                    self.take(op);
                    Verdict::Later(Some(Server::refused()))
                }
                _ => {
                    self.take(op);
                    Verdict::Done
                }
            }
        };
        ops.iter().map(verdict).collect()
    }

    fn life(&self) -> Result<Option<u64>> {
        match *self.mood.lock() {
            Mood::Away => Err(Server::refused()),
            _ => Ok(Some(self.life.load(Ordering::SeqCst))),
        }
    }

    fn forget(&self) {
        self.forgot.store(true, Ordering::SeqCst);
    }

    fn namespace(&self) -> Result<Option<Namespace>> {
        match *self.mood.lock() {
            Mood::Away => Err(Server::refused()),
            _ => Ok(self.namespace.lock().clone()),
        }
    }

    fn agree(&self, namespace: &Namespace) -> Result<()> {
        self.namespace.lock().get_or_insert_with(|| namespace.clone());
        Ok(())
    }

    fn get(&self, id: BlockId, _: Option<Duration>) -> Result<Option<Vec<u8>>> {
        Ok(self.blocks.lock().get(&id).map(|(_, block)| block.bytes.clone()))
    }

    fn list(&self, visit: &mut ShowBlock<'_>) -> Result<()> {
        let blocks = self.blocks.lock().clone();
        blocks.iter().try_for_each(|(id, (micros, block))| visit(*id, *micros, &block.summary))
    }

    fn list_range(&self, first: BlockId, end: u64, visit: &mut ShowBlock<'_>) -> Result<()> {
        self.list(&mut |id, micros, summary| {
            if (first.first_seq..end).contains(&id.first_seq) { visit(id, micros, summary) } else { Ok(()) }
        })
    }

    fn news(&self, _: &mut dyn FnMut(BlockId, &[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }

    fn names(&self, visit: &mut dyn FnMut(&str, u64)) -> Result<()> {
        self.names.lock().iter().for_each(|(name, stream)| visit(name, *stream));
        Ok(())
    }

    fn tombstones(&self, _: &mut dyn FnMut(Tombstone)) -> Result<()> {
        Ok(())
    }

    fn in_flight(&self) -> (u32, u32) {
        (0, 1)
    }

    fn close(&self) {}
}

const MIB: u64 = 1 << 20;

fn limits(window: Duration) -> Limits {
    Limits { window, spool_bytes: 2 * MIB, drain_rate: 1000 * MIB }
}

fn open(server: &Arc<Server>, dir: &Path, window: Duration) -> Shield<Arc<Server>> {
    let shield = Shield::open(server.clone(), dir, limits(window)).unwrap();
    shield.begin(&[]).unwrap();
    shield
}

fn block(seq: u64, len: usize) -> ColdBlock {
    let id = BlockId { partition: 0, class: 0, first_seq: seq };
    ColdBlock { id, bytes: vec![seq as u8; len], summary: format!("{seq}, {len}").into_bytes() }
}

fn listed(shield: &Shield<Arc<Server>>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let visit = &mut |id: BlockId, summary: &[u8]| {
        let twice = found.insert(id.first_seq, String::from_utf8_lossy(summary).into_owned());
        assert_eq!(twice, None, "{id:?} is listed twice");
        Ok(())
    };
    shield.list(visit).unwrap();
    found
}

/// Keeps the tier until `done`, as a store's thread does.
fn keep_until(shield: &Shield<Arc<Server>>, what: &str, done: impl Fn() -> bool) {
    let begin = clock::now();
    while !done() {
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: {:?}", shield.figures());
        let _ = shield.maintain();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_confirmed_is_sent_again_after_a_restart_and_let_go_after_the_window() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::from_millis(1500));
    shield.put(&[block(1, 1000), block(2, 1000)]).unwrap();
    shield.put_names(&[("a".into(), 1)]).unwrap();
    assert_eq!(shield.figures().resendable, 4, "the opening among them");
    // The server is killed and has lost all.
    server.blocks.lock().clear();
    server.names.lock().clear();
    server.life.store(2, Ordering::SeqCst);
    keep_until(&shield, "sent again", || shield.figures().resent == 4 && shield.figures().overflow == 0);
    assert_eq!(server.blocks.lock().len(), 2);
    assert_eq!(server.names.lock().len(), 1);
    assert!(server.forgot.load(Ordering::SeqCst));
    keep_until(&shield, "let go", || shield.figures().resendable == 0);
    let sent = server.sent.load(Ordering::SeqCst);
    server.life.store(3, Ordering::SeqCst);
    for _ in 0..3 {
        shield.maintain().unwrap();
    }
    assert_eq!(server.sent.load(Ordering::SeqCst), sent, "what was let go is not sent again");
    let left = std::fs::read_dir(dir.path().join("spool")).unwrap().count();
    assert_eq!(left, 1, "nothing but the lock is left in the directory");
}

#[test]
fn what_a_server_confirmed_that_was_never_asked_what_it_is_is_sent_again() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = Shield::open(server.clone(), dir.path(), limits(Duration::from_secs(60))).unwrap();
    shield.put(&[block(1, 10)]).unwrap();
    keep_until(&shield, "sent again", || shield.figures().resent == 1 && shield.figures().overflow == 0);
    assert_eq!(server.sent.load(Ordering::SeqCst), 2);
}

#[test]
fn blocks_overflow_while_the_server_is_away_and_drain_when_it_is_back() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Away;
    for seq in 1..=20 {
        shield.put(&[block(seq, 50_000)]).unwrap();
    }
    assert!(shield.figures().away && shield.figures().overflow == 20);
    assert!(server.sent.load(Ordering::SeqCst) < 10, "an open breaker tries no more");
    assert_eq!(shield.get(block(7, 1).id).unwrap(), Some(vec![7; 50_000]), "it is read from the overflow");
    assert_eq!(listed(&shield).len(), 20);
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "drained", || shield.figures().overflow == 0);
    assert_eq!(shield.figures().drained, 20);
    assert!(!shield.figures().away);
    assert_eq!(server.blocks.lock().len(), 20);
    assert_eq!(shield.get(block(7, 1).id).unwrap(), Some(vec![7; 50_000]));
}

#[test]
fn a_full_overflow_refuses_and_takes_again_when_there_is_room() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Away;
    let mut held = 0;
    let refused = loop {
        match shield.put(&[block(held + 1, 100_000)]) {
            Ok(()) => held += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((held, refused.kind()), (20, ErrorKind::Cold), "{refused}");
    assert!(refused.is_retryable() && refused.to_string().contains("overflow_bytes"), "{refused}");
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "drained", || shield.figures().overflow == 0);
    shield.put(&[block(held + 1, 100_000)]).unwrap();
    assert_eq!(listed(&shield).len(), 21);
}

#[test]
fn an_overflow_outlives_its_process_and_is_sent_by_the_next() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::from_secs(60));
    shield.put(&[block(1, 10)]).unwrap();
    *server.mood.lock() = Mood::Silent;
    shield.put(&[block(2, 10)]).unwrap();
    let second =
        Shield::open(server.clone(), dir.path(), limits(Duration::ZERO)).err().map(|error| error.kind());
    assert_eq!(second, Some(ErrorKind::AlreadyOpen));
    // As at the end of a process: nothing is closed.
    drop(shield);
    server.blocks.lock().clear();
    *server.mood.lock() = Mood::Takes;
    let shield = open(&server, dir.path(), Duration::ZERO);
    assert_eq!(listed(&shield).len(), 2);
    keep_until(&shield, "sent by the next", || shield.figures().overflow == 0);
    assert_eq!(server.blocks.lock().len(), 2);
}

#[test]
fn an_earlier_version_in_the_overflow_does_not_hide_a_later_one_on_the_server() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::from_secs(60));
    shield.put(&[block(1, 10)]).unwrap();
    let later = Op { stamp: Stamp { micros: 1000, period: 7 }, change: Change::Block(block(1, 20)) };
    server.take(&later);
    assert_eq!(listed(&shield)[&1], "1, 20");
    shield.put(&[block(1, 30)]).unwrap();
    server.clock.store(2000, Ordering::SeqCst);
    shield.put(&[block(1, 40)]).unwrap();
    assert_eq!(listed(&shield)[&1], "1, 40");
    assert_eq!(shield.get(block(1, 1).id).unwrap().map(|bytes| bytes.len()), Some(40));
}

#[test]
fn what_is_never_taken_becomes_a_dead_letter_that_is_still_read() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Picky;
    shield.put(&[block(12, 10), block(13, 10), block(14, 10)]).unwrap();
    assert_eq!(server.blocks.lock().len(), 2);
    let check = |shield: &Shield<Arc<Server>>| {
        let letters = shield.dead_letters().list();
        assert_eq!(letters.len(), 1);
        assert_eq!((letters[0].block, letters[0].reason.as_str()), (Some(block(13, 1).id), "far too large"));
        assert_eq!(shield.get(block(13, 1).id).unwrap(), Some(vec![13; 10]));
        assert_eq!(listed(shield).len(), 3);
        letters[0].name.clone()
    };
    check(&shield);
    drop(shield);
    let shield = open(&server, dir.path(), Duration::ZERO);
    let name = check(&shield);
    shield.replay(&name).unwrap();
    let name = check(&shield);
    *server.mood.lock() = Mood::Takes;
    shield.replay(&name).unwrap();
    assert_eq!(shield.figures().dead_letters, 0);
    assert_eq!(server.blocks.lock().len(), 3);
    assert_eq!(shield.replay("nonsense").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(shield.replay("../lock").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert!(shield.dead_letters().discard(&name).is_err());
}

#[test]
fn damage_in_the_overflow_costs_what_is_damaged_and_is_told() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Away;
    for seq in 1..=5 {
        shield.put(&[block(seq, 1000)]).unwrap();
    }
    drop(shield);
    let file = std::fs::read_dir(dir.path().join("spool")).unwrap().map(|file| file.unwrap().path());
    let file = file.filter(|path| path.extension().is_some_and(|end| end == "spool")).max().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let record = bytes.len() / 5;
    // A flipped bit in the second record, and the last one cut off.
    bytes[record + 500] ^= 1;
    bytes.truncate(record * 5 - 100);
    std::fs::write(&file, &bytes).unwrap();
    *server.mood.lock() = Mood::Takes;
    let shield = open(&server, dir.path(), Duration::ZERO);
    keep_until(&shield, "drained", || shield.figures().overflow == 0);
    let there: Vec<u64> = server.blocks.lock().keys().map(|id| id.first_seq).collect();
    assert_eq!(there, [1, 3, 4]);
    let letters = shield.dead_letters().list();
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert!(letters[0].block.is_none() && letters[0].reason.contains("checksum"), "{letters:?}");
    assert_eq!(shield.replay(&letters[0].name).unwrap_err().kind(), ErrorKind::InvalidInput);
    shield.dead_letters().discard(&letters[0].name).unwrap();
}

/// The length of a record says where the next one begins.
#[test]
fn a_damaged_length_in_the_overflow_costs_nothing() {
    for bit in [0, 5, 9, 13, 20, 31] {
        let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
        let shield = open(&server, dir.path(), Duration::ZERO);
        *server.mood.lock() = Mood::Away;
        (1..=5).for_each(|seq| shield.put(&[block(seq, 1000)]).unwrap());
        drop(shield);
        let file = std::fs::read_dir(dir.path().join("spool")).unwrap().map(|file| file.unwrap().path());
        let file = file.filter(|path| path.extension().is_some_and(|end| end == "spool")).max().unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        let record = bytes.len() / 5;
        bytes[record + 8 + bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &bytes).unwrap();
        *server.mood.lock() = Mood::Takes;
        let shield = open(&server, dir.path(), Duration::ZERO);
        keep_until(&shield, "drained", || shield.figures().overflow == 0);
        let there: Vec<u64> = server.blocks.lock().keys().map(|id| id.first_seq).collect();
        assert_eq!(there, [1, 2, 3, 4, 5], "bit {bit}");
        assert_eq!(shield.figures().dead_letters, 0);
    }
}

/// Drained blocks were acknowledged: their pages may have left memory.
#[test]
fn a_refused_block_of_the_overflow_stays_there_while_it_cannot_become_a_dead_letter() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Away;
    shield.put(&[block(12, 10), block(13, 10), block(14, 10)]).unwrap();
    std::fs::remove_dir_all(dir.path().join("dead")).unwrap();
    *server.mood.lock() = Mood::Picky;
    keep_until(&shield, "the others drain", || server.blocks.lock().len() == 2);
    assert_eq!(shield.get(block(13, 1).id).unwrap(), Some(vec![13; 10]));
    std::fs::create_dir(dir.path().join("dead")).unwrap();
    keep_until(&shield, "it becomes a dead letter", || shield.figures().dead_letters == 1);
    assert_eq!(shield.get(block(13, 1).id).unwrap(), Some(vec![13; 10]));
}

/// A process that is killed while it writes leaves a record that is cut off; the next one writes on.
#[test]
fn what_is_written_behind_a_record_that_was_cut_off_is_found() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let shield = open(&server, dir.path(), Duration::ZERO);
    *server.mood.lock() = Mood::Away;
    (1..=3).for_each(|seq| shield.put(&[block(seq, 1000)]).unwrap());
    drop(shield);
    let files = std::fs::read_dir(dir.path().join("spool")).unwrap().map(|file| file.unwrap().path());
    let file = files.filter(|path| path.extension().is_some_and(|end| end == "spool")).max().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    bytes.truncate(bytes.len() - 100);
    std::fs::write(&file, &bytes).unwrap();
    let reopen = || Shield::open(server.clone(), dir.path(), limits(Duration::ZERO)).unwrap();
    reopen().put(&[block(4, 1000)]).unwrap();
    let shield = reopen();
    let there: Vec<u64> = listed(&shield).into_keys().collect();
    assert_eq!(there, [1, 2, 4]);
}

#[test]
fn no_bytes_make_the_decoder_of_records_fail_badly() {
    let mut record = Vec::new();
    let op = Op { stamp: Stamp { micros: 3, period: 4 }, change: Change::Block(block(9, 40)) };
    record::encode(&op, &mut record);
    let (header, body) = record.split_at(12);
    assert!(record::decode(header, body).is_some());
    for at in 4..record.len() {
        for bit in 0..8 {
            let mut bad = record.clone();
            bad[at] ^= 1 << bit;
            let (header, body) = bad.split_at(12);
            assert!(record::decode(header, body).is_none(), "byte {at}, bit {bit}");
        }
    }
    for len in 0..body.len() {
        // Behind a right checksum, too.
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&header[8..]);
        hasher.update(&body[..len]);
        let mut lying = header.to_vec();
        lying[4..8].copy_from_slice(&hasher.finalize().to_le_bytes());
        assert!(record::decode(&lying, &body[..len]).is_none(), "cut at {len}");
    }
}

fn open_in_ranges(server: &Arc<Server>, dir: &Path) -> (Shield<Arc<Server>>, u64) {
    server.ranges.store(true, Ordering::SeqCst);
    let shield = Shield::open(server.clone(), dir, limits(Duration::ZERO)).unwrap();
    let first = shield.begin(&[]).unwrap();
    if shield.namespace().unwrap().is_none() {
        shield.set_namespace(&Namespace::new(2, 77, vec!["a".into()])).unwrap();
    }
    (shield, first)
}

#[test]
fn a_directory_opens_again_and_again_while_the_server_is_away_and_no_number_is_used_twice() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let mut firsts = Vec::new();
    let put = |shield: &Shield<Arc<Server>>, first: u64| {
        // Far apart: each opening uses a good part of its range.
        for step in [0, 1, 1 << 21, 3 << 21] {
            shield.put(&[block(first + step, 100)]).unwrap();
        }
    };
    let (shield, first) = open_in_ranges(&server, dir.path());
    put(&shield, first);
    firsts.push(first);
    drop(shield);
    *server.mood.lock() = Mood::Away;
    for _ in 0..3 {
        let (shield, first) = open_in_ranges(&server, dir.path());
        assert!(shield.awaits_server() && first > firsts[firsts.len() - 1] + (3 << 21));
        assert_eq!(writer_of(first), writer_of(firsts[0]));
        put(&shield, first);
        // As at the end of a process; then one that used no number at all.
        drop(shield);
        firsts.push(first);
        drop(open_in_ranges(&server, dir.path()));
    }
    let (shield, last) = open_in_ranges(&server, dir.path());
    assert!(shield.maintain().is_err() || shield.awaits_server());
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "drained", || shield.figures().overflow == 0 && !shield.awaits_server());
    assert_eq!(server.blocks.lock().len(), 4 * firsts.len());
    drop(shield);
    let (_, fresh) = open_in_ranges(&server, dir.path());
    assert!(writer_of(fresh) > writer_of(last), "with the server there is a range of its own");
}

#[test]
fn a_directory_that_does_not_know_the_namespace_cannot_be_opened_while_the_server_is_away() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    *server.mood.lock() = Mood::Away;
    let shield = Shield::open(server.clone(), dir.path(), limits(Duration::ZERO)).unwrap();
    let error = shield.begin(&[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cold);
    assert!(error.to_string().contains("could collide") && error.is_retryable(), "{error}");
    *server.mood.lock() = Mood::Takes;
    shield.begin(&[]).unwrap();
}

#[test]
fn nothing_is_written_to_another_namespace_than_the_directory_knows() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    drop(open_in_ranges(&server, dir.path()));
    *server.mood.lock() = Mood::Away;
    let (shield, first) = open_in_ranges(&server, dir.path());
    shield.put(&[block(first, 100)]).unwrap();
    // Somebody has set up another cluster at the same address.
    *server.namespace.lock() = Some(Namespace::new(2, 78, vec!["a".into()]));
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "told", || {
        shield.figures().last_error.is_some_and(|text| text.contains("right cluster"))
    });
    assert!(shield.awaits_server() && server.blocks.lock().is_empty());
}

#[test]
fn the_overflow_drains_no_faster_than_it_may_and_keeps_no_fresh_spill_waiting() {
    let (server, dir) = (Arc::new(Server::new()), tempfile::tempdir().unwrap());
    let mut slow = limits(Duration::ZERO);
    (slow.spool_bytes, slow.drain_rate) = (20 * MIB, MIB);
    let shield = Shield::open(server.clone(), dir.path(), slow).unwrap();
    shield.begin(&[]).unwrap();
    *server.mood.lock() = Mood::Away;
    for seq in 1..=60 {
        shield.put(&[block(seq, 100_000)]).unwrap();
    }
    *server.mood.lock() = Mood::Takes;
    keep_until(&shield, "back", || !shield.figures().away);
    let (begin, before) = (clock::now(), shield.figures().drained);
    for seq in 100..120 {
        shield.put(&[block(seq, 1000)]).unwrap();
        // It is there when the call returns, although most of the overflow still waits.
        assert!(server.blocks.lock().contains_key(&block(seq, 1).id), "block {seq} was kept waiting");
        let _ = shield.maintain();
        std::thread::sleep(Duration::from_millis(50));
    }
    let figures = shield.figures();
    let (drained, seconds) = ((figures.drained - before) as f64 * 100_000.0, begin.elapsed().as_secs_f64());
    assert!(figures.overflow > 0 || seconds > 5.0, "drained {drained} bytes in {seconds} s");
    assert!(drained <= (seconds + 1.0) * MIB as f64 + 200_000.0, "drained {drained} bytes in {seconds} s");
    keep_until(&shield, "drained", || shield.figures().overflow == 0);
}
