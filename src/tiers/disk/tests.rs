//! Tests of the embedded tier.

use super::*;

#[test]
fn pieces_cover_a_block_and_fill_their_pages() {
    for len in [1, 100, 4031, 4032, 4033, 130_000, 262_144, 5_000_000] {
        let cut: Vec<usize> = pieces(len).collect();
        assert_eq!(cut.iter().sum::<usize>(), len);
        let taken: usize = cut.iter().map(|piece| (piece + LEAF_OVERHEAD).next_multiple_of(PAGE)).sum();
        assert!(taken <= len + PAGE + cut.len() * LEAF_OVERHEAD, "{len} bytes take {taken}");
    }
}

#[test]
fn blocks_come_back_are_replaced_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let tier = DiskTier::open(dir.path(), 1 << 20).unwrap();
    let id = |seq| BlockId { partition: 1, class: 2, first_seq: seq };
    let block =
        |seq, len: usize| ColdBlock { id: id(seq), bytes: vec![seq as u8; len], summary: vec![seq as u8] };
    tier.put(&[block(1, 300_000), block(2, 10)]).unwrap();
    tier.put(&[block(1, 5)]).unwrap();
    assert_eq!(tier.get(id(1)).unwrap().unwrap(), vec![1; 5]);
    drop(tier);
    let tier = DiskTier::open(dir.path(), 1 << 20).unwrap();
    let mut listed = Vec::new();
    tier.list(&mut |id, summary| {
        listed.push((id.first_seq, summary.to_vec()));
        Ok(())
    })
    .unwrap();
    assert_eq!(listed, [(1, vec![1]), (2, vec![2])]);
    tier.delete(&[id(1)]).unwrap();
    assert_eq!(tier.get(id(1)).unwrap(), None);
    assert_eq!(tier.get(id(2)).unwrap().unwrap(), vec![2; 10]);
}

/// A file in memory. What is noted under `meanwhile` is done once, by another thread in the middle of the next read; the
/// next write fails where `fails` says so.
#[derive(Clone, Default)]
struct File(Arc<parking_lot::Mutex<Vec<u8>>>, Arc<AtomicBool>, Arc<parking_lot::Mutex<Meanwhile>>);
type Meanwhile = Option<Box<dyn FnOnce() + Send>>;

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("File")
    }
}

impl StorageBackend for File {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.0.lock().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let work = self.2.lock().take();
        if let Some(work) = work {
            std::thread::scope(|scope| scope.spawn(work).join().unwrap());
        }
        out.copy_from_slice(&self.0.lock()[offset as usize..][..out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.lock().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        if self.1.swap(false, Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.0.lock()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// Each spill to a full disk fails, and whoever read meanwhile was told of that error.
#[test]
fn a_write_that_fails_fails_no_read_beside_it() {
    let file = File::default();
    let open = || {
        let file = file.clone();
        Arc::new(DiskTier::on(move || file.clone(), 0).unwrap())
    };
    let id = |seq| BlockId { partition: 1, class: 2, first_seq: seq };
    let block = |seq| ColdBlock { id: id(seq), bytes: vec![seq as u8; 300_000], summary: vec![seq as u8] };
    open().put(&[block(1)]).unwrap();
    let tier = open();
    let (other, fails, second) = (tier.clone(), file.1.clone(), block(2));
    *file.2.lock() = Some(Box::new(move || {
        fails.store(true, Ordering::SeqCst);
        assert_eq!(other.put(&[second]).unwrap_err().kind(), ErrorKind::Cold);
    }));
    assert!(tier.get(id(1)).unwrap().is_some_and(|bytes| bytes == vec![1; 300_000]));
    assert!(file.2.lock().is_none(), "a write has failed meanwhile");
}

/// One flipped bit in the name of a type that a table says it is of does it.
#[test]
fn a_table_of_another_type_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    drop(DiskTier::open(dir.path(), 1 << 20).unwrap());
    let database = Database::open(dir.path().join("cold.redb")).unwrap();
    let write = database.begin_write().unwrap();
    write.delete_table(SUMMARIES).unwrap();
    write.open_table(TableDefinition::<u64, u64>::new("summaries")).unwrap();
    write.commit().unwrap();
    drop(database);
    let tier = DiskTier::open(dir.path(), 1 << 20).unwrap();
    let error = tier.list(&mut |_, _| Ok(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}
