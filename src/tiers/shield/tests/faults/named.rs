//! What the seeds have found, a test for each.

use super::*;

/// A shield on the test's disk, and a server that takes everything; `window` in seconds.
fn shield(server: &Arc<Server>, dir: &Path, window: u64) -> Result<Front> {
    let limits = Limits { window: Duration::from_secs(window), spool_bytes: 5000, drain_rate: MIB };
    let shield = Shield::open(server.clone(), dir, limits)?;
    shield.begin(&[])?;
    if shield.namespace()?.is_none() {
        shield.set_namespace(&Namespace::new(2, 77, vec!["a".into()]))?;
    }
    Ok(shield)
}

fn set_up() -> (Arc<Server>, tempfile::TempDir) {
    faults::set_up(Some(1));
    (Arc::new(Server::new(1, false)), tempfile::tempdir().unwrap())
}

fn put(shield: &Front, seq: u64, bytes: &[u8]) -> Result<()> {
    shield.put(&[ColdBlock { id: id(seq), bytes: bytes.to_vec(), summary: bytes.to_vec() }])
}

fn found(shield: &Front, seq: u64) -> Option<Vec<u8>> {
    let mut listed = Vec::new();
    shield
        .list(&mut |of, summary| {
            listed.extend((of == id(seq)).then(|| summary.to_vec()));
            Ok(())
        })
        .unwrap();
    let got = shield.get(id(seq)).unwrap();
    assert_eq!(listed, got.iter().cloned().collect::<Vec<_>>());
    got
}

/// Time passes, and what waits is sent.
fn maintain(shield: &Front) {
    for _ in 0..2 {
        STOPPED.set(Some(clock::now() + Duration::from_secs(5)));
        shield.maintain().unwrap();
    }
}

/// An opening writes that it was there, for which there was no room either: nothing could be drained any more.
#[test]
fn a_directory_whose_overflow_is_full_is_opened_again_and_drains() {
    let (server, dir) = set_up();
    let front = shield(&server, dir.path(), 0).unwrap();
    server.0.lock().mood = Mood::Away;
    let mut seq = 0;
    while put(&front, seq + 1, &vec![1; if seq < 2 { 1000 } else { 1 }]).is_ok() {
        seq += 1;
    }
    drop(front);
    server.0.lock().mood = Mood::Takes;
    let front = shield(&server, dir.path(), 0).unwrap();
    maintain(&front);
    assert_eq!((front.figures().overflow, server.0.lock().blocks.len() as u64), (0, seq));
}

/// A block that was refused, cut anew and taken was there twice, and the version that was refused was read.
#[test]
fn a_version_that_is_taken_replaces_the_dead_letter_of_an_earlier_one() {
    let (server, dir) = set_up();
    let front = shield(&server, dir.path(), 0).unwrap();
    server.0.lock().picky = true;
    put(&front, 1, &[REFUSED, 1]).unwrap();
    assert_eq!((found(&front, 1), front.figures().dead_letters), (Some(vec![REFUSED, 1]), 1));
    put(&front, 1, &[1, 2]).unwrap();
    assert_eq!((found(&front, 1), front.figures().dead_letters), (Some(vec![1, 2]), 0));
}

/// Or, where a process ended in between, put the dead letter in its place when it was replayed.
#[test]
fn a_dead_letter_that_is_replayed_does_not_replace_a_later_version() {
    let (server, dir) = set_up();
    let front = shield(&server, dir.path(), 0).unwrap();
    server.0.lock().picky = true;
    put(&front, 1, &[REFUSED, 1]).unwrap();
    // Its removal fails.
    faults::set_trouble(Trouble::Errors(1));
    front.dead.supersede(id(1), i64::MAX);
    faults::set_trouble(Trouble::None);
    put(&front, 1, &[1, 2]).unwrap();
    drop(front);
    let front = shield(&server, dir.path(), 0).unwrap();
    assert_eq!((found(&front, 1), front.figures().dead_letters), (Some(vec![1, 2]), 1));
    server.0.lock().picky = false;
    let letter = front.dead_letters().list().remove(0);
    front.replay(&letter.name).unwrap();
    assert_eq!((found(&front, 1), front.figures().dead_letters), (Some(vec![1, 2]), 0));
}

/// The later one took its place before anybody had said that it is safe.
#[test]
fn a_version_in_the_overflow_stays_there_when_a_later_one_is_refused_by_the_disk() {
    let (server, dir) = set_up();
    let front = shield(&server, dir.path(), 0).unwrap();
    server.0.lock().mood = Mood::Away;
    put(&front, 1, &[1, 1]).unwrap();
    faults::set_trouble(Trouble::Syncs(1));
    put(&front, 1, &[1, 2]).unwrap_err();
    faults::set_trouble(Trouble::None);
    assert_eq!(front.get(id(1)).unwrap(), Some(vec![1, 1]));
    // Nor does the next process find it: its bytes may not be on the disk.
    drop(front);
    let front = shield(&server, dir.path(), 0).unwrap();
    assert_eq!(front.get(id(1)).unwrap(), Some(vec![1, 1]));
    server.0.lock().mood = Mood::Takes;
    maintain(&front);
    assert_eq!(found(&front, 1), Some(vec![1, 1]));
}

/// What a server has lost is nowhere else any more, and was not synced as long as the server had it.
#[test]
fn what_waits_after_a_restart_of_the_server_survives_a_loss_of_power() {
    for through_an_opening in [false, true] {
        let (server, dir) = set_up();
        let mut front = shield(&server, dir.path(), 10).unwrap();
        STOPPED.set(Some(clock::now()));
        put(&front, 1, &[1, 1]).unwrap();
        server.0.lock().blocks.clear();
        server.0.lock().restart();
        if through_an_opening {
            drop(front);
            front = shield(&server, dir.path(), 10).unwrap();
        } else {
            // It looks, and then the server is away before anything is sent.
            front.look(&mut front.keeper.lock(), clock::now()).unwrap();
        }
        server.0.lock().mood = Mood::Away;
        drop(front);
        faults::lose_power();
        let front = shield(&server, dir.path(), 10).unwrap();
        assert_eq!(front.get(id(1)).unwrap(), Some(vec![1, 1]));
    }
}

/// It was there again after the next opening, beside the one that was written instead.
#[test]
fn a_dead_letter_whose_directory_cannot_be_synced_is_none() {
    let (server, dir) = set_up();
    let front = shield(&server, dir.path(), 0).unwrap();
    server.0.lock().picky = true;
    // Of the syncs of a put that is refused, the letter's is the first, and its directory's the second.
    let mut failed = 0;
    for _ in 0..50 {
        faults::set_trouble(Trouble::Syncs(2));
        failed += u64::from(put(&front, 1, &[REFUSED, 1]).is_err());
        faults::set_trouble(Trouble::None);
    }
    assert!(failed > 10);
    let letters = std::fs::read_dir(dir.path().join("dead")).unwrap().count() as u64;
    assert_eq!(letters, front.figures().dead_letters);
}
