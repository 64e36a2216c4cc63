//! What a disk can have of a log when power is lost between two syncs.

use std::collections::BTreeSet;
use std::path::Path;

const SECTOR: usize = 512;

/// Copies a directory, with what is in it and who may enter it.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::set_permissions(to, std::fs::metadata(from).unwrap().permissions()).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}

/// A data directory as it can be after a loss of power between two syncs: of each sector of the log that differs in the two,
/// the disk has the old or the new one, or neither. `below` gives a random number below another one.
pub(crate) fn torn(synced: &Path, later: &Path, to: &Path, below: &mut dyn FnMut(u64) -> u64) {
    copy(later, to);
    let (synced, later, to) = (synced.join("log"), later.join("log"), to.join("log"));
    let names = |dir: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let (before, after) = (names(&synced), names(&later));
    // A new segment is begun when the one before is on the disk.
    let newest = after.iter().rfind(|name| name.ends_with(".log")).unwrap().clone();
    for name in before.union(&after) {
        let read = |dir: &Path| std::fs::read(dir.join(name)).unwrap_or_default();
        let (old, new) = (read(&synced), read(&later));
        if !after.contains(name) {
            // It was deleted after the sync, which was never over.
            std::fs::write(to.join(name), old).unwrap();
        } else if *name == newest {
            let kinds = below(3);
            let mut bytes = new.clone();
            for (at, sector) in bytes.chunks_mut(SECTOR).enumerate() {
                let at = at * SECTOR;
                let zeros = [0; SECTOR];
                // The header of a new segment was synced with the file.
                let old = if at < 4096 {
                    old.get(at..at + SECTOR)
                } else {
                    old.get(at..at + SECTOR).or(Some(&zeros))
                };
                let Some(old) = old.filter(|old| *old != sector) else { continue };
                match (kinds, below(8)) {
                    (0, 0..4) | (1, 0) | (2, 0..7) => sector.copy_from_slice(old),
                    (0, 4) => sector.iter_mut().for_each(|byte| *byte = below(256) as u8),
                    _ => {}
                }
            }
            std::fs::write(to.join(name), bytes).unwrap();
        } else if name == "names" {
            let kept = old.len() + below((new.len() - old.len()) as u64 + 1) as usize;
            std::fs::write(to.join(name), &new[..kept]).unwrap();
        }
    }
}
