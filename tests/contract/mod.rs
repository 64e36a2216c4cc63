//! What every cold tier must do, whatever it keeps its blocks in.

pub(crate) mod many;

use std::collections::BTreeMap;
use std::sync::Arc;

use esker::{BlockId, ClassConfig, ColdBlock, ColdTier, ErrorKind, Namespace, Tombstone};

/// Blocks by id: bytes and summary.
type Blocks = BTreeMap<BlockId, (Vec<u8>, Vec<u8>)>;

fn block(id: BlockId, len: usize, salt: u8) -> ColdBlock {
    let mut block = ColdBlock::default();
    block.id = id;
    block.bytes = (0..len).map(|at| (at as u8).wrapping_mul(31) ^ (at >> 8) as u8 ^ salt).collect();
    block.summary = format!("summary of {id:?}, {salt}").into_bytes();
    block
}

fn id(partition: u32, class: u8, first_seq: u64) -> BlockId {
    BlockId { partition, class, first_seq }
}

fn listed(tier: &dyn ColdTier) -> BTreeMap<BlockId, Vec<u8>> {
    let mut found = BTreeMap::new();
    tier.list(&mut |id, summary| {
        found.insert(id, summary.to_vec());
        Ok(())
    })
    .unwrap();
    found
}

fn put(tier: &dyn ColdTier, blocks: &[ColdBlock], expected: &mut Blocks) {
    tier.put(blocks).unwrap();
    for block in blocks {
        expected.insert(block.id, (block.bytes.clone(), block.summary.clone()));
    }
}

fn check_blocks(tier: &dyn ColdTier, expected: &Blocks, what: &str) {
    for (id, (bytes, _)) in expected {
        let found = tier.get(*id).unwrap();
        assert!(found.as_ref() == Some(bytes), "{what}: block {id:?}");
    }
}

fn check_lists(tier: &dyn ColdTier, expected: &Blocks, what: &str) {
    let summaries: BTreeMap<BlockId, Vec<u8>> =
        expected.iter().map(|(id, (_, summary))| (*id, summary.clone())).collect();
    assert_eq!(listed(tier), summaries, "{what}: the list of blocks");
}

/// Runs all checks. `open` opens the tier anew on the same data, and is called again after the tier was closed.
pub(crate) fn check(open: &dyn Fn() -> Arc<dyn ColdTier>) {
    let classes = [ClassConfig::new("a"), ClassConfig::new("b")];
    let tier = open();
    let first = tier.begin(&classes).unwrap();
    assert_eq!(tier.namespace().unwrap(), None, "a new tier has no namespace");
    let namespace = Namespace::new(4, u64::MAX - 5, vec!["a".into(), "ß \"b\"".into()]);
    tier.set_namespace(&namespace).unwrap();
    assert_eq!(tier.namespace().unwrap(), Some(namespace.clone()));
    assert!(listed(&*tier).is_empty(), "a new tier has no blocks");
    assert_eq!(tier.get(id(0, 0, first)).unwrap(), None, "and none is found");

    let mut expected = Blocks::new();
    let lengths = [1, 5_000, 70_000, 262_144, 262_145, 900_000];
    for (at, len) in lengths.into_iter().enumerate() {
        let at = at as u64;
        put(&*tier, &[block(id(at as u32 % 4, at as u8 % 2, first + at * 10), len, 1)], &mut expected);
    }
    let many: Vec<ColdBlock> =
        (0..40).map(|at| block(id(at % 4, 1, first + 1000 + u64::from(at)), 3_000, 2)).collect();
    put(&*tier, &many, &mut expected);
    check_blocks(&*tier, &expected, "put");
    assert_eq!(tier.get(id(3, 0, first + 999)).unwrap(), None, "a block that was never put");

    put_again(&*tier, first, &mut expected);
    names_and_tombstones(&*tier);
    put_side_by_side(&*tier, first, &mut expected);
    check_blocks(&*tier, &expected, "before closing");
    tier.close();
    let refused = tier.put(&many).err().map(|error| error.kind());
    assert_eq!(refused, Some(ErrorKind::Closed), "a closed tier takes nothing");
    drop(tier);

    let tier = open();
    let again = tier.begin(&classes).unwrap();
    assert!(again == 0 || again > first, "an opening has page numbers of its own");
    assert_eq!(tier.namespace().unwrap(), Some(namespace), "the namespace outlives its tier");
    check_lists(&*tier, &expected, "opened again");
    check_blocks(&*tier, &expected, "opened again");
    check_notes(&*tier);
    let gone: Vec<BlockId> = expected.keys().copied().take(3).collect();
    tier.delete(&gone).unwrap();
    for id in &gone {
        // A tier that expires data by itself may keep it.
        let found = tier.get(*id).unwrap();
        assert!(found.is_none() || found == Some(expected[id].0.clone()));
        expected.remove(id);
    }
    check_blocks(&*tier, &expected, "beside those deleted");
    tier.close();
}

/// The same again changes nothing, and of two versions the later counts, longer or shorter.
fn put_again(tier: &dyn ColdTier, first: u64, expected: &mut Blocks) {
    let target = id(2, 0, first + 20);
    for (len, salt) in [(70_000, 1), (600_000, 3), (600_000, 3), (300_000, 4), (10, 5)] {
        put(tier, &[block(target, len, salt)], expected);
        check_blocks(tier, expected, "put again");
    }
}

fn names() -> Vec<(String, u64)> {
    let text = ["a", "customer-42", "it's \"quoted\"; --", "流れ", "\u{0}", "a b\nc"];
    text.iter().enumerate().map(|(at, name)| (name.to_string(), u64::MAX - at as u64)).collect()
}

fn names_and_tombstones(tier: &dyn ColdTier) {
    tier.put_names(&names()[..2]).unwrap();
    tier.put_names(&names()).unwrap();
    tier.put_names(&[]).unwrap();
    for (seq, id) in [(5, 1), (9, 1), (7, u64::MAX)] {
        tier.put_tombstone(Tombstone::new(id, 1, 0, seq)).unwrap();
    }
    tier.put_tombstone(Tombstone::new(1, 1, 1, 3)).unwrap();
    check_notes(tier);
}

fn check_notes(tier: &dyn ColdTier) {
    let mut found = BTreeMap::new();
    tier.names(&mut |name, stream| {
        found.insert(name.to_string(), stream);
    })
    .unwrap();
    assert_eq!(found, names().into_iter().collect(), "the names");
    let mut found = BTreeMap::new();
    tier.tombstones(&mut |stone| {
        found.insert((stone.id, stone.partition, stone.class), stone.seq);
    })
    .unwrap();
    let expected = [((1, 1, 0), 9), ((1, 1, 1), 3), ((u64::MAX, 1, 0), 7)];
    assert_eq!(found, expected.into_iter().collect(), "the notes of what was removed");
}

fn put_side_by_side(tier: &dyn ColdTier, first: u64, expected: &mut Blocks) {
    let of = |thread: u32, at: u64| {
        block(id(thread % 4, 0, first + 5_000 + u64::from(thread) * 100 + at), 20_000, 6)
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            scope.spawn(move || {
                for at in 0..10 {
                    let block = of(thread, at);
                    tier.put(std::slice::from_ref(&block)).unwrap();
                    assert!(tier.get(block.id).unwrap() == Some(block.bytes), "read what was just put");
                }
            });
        }
    });
    for block in (0..8).flat_map(|thread| (0..10).map(move |at| of(thread, at))) {
        expected.insert(block.id, (block.bytes, block.summary));
    }
}
