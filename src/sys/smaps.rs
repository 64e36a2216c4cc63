//! What memory the system really gave, from `/proc/self/smaps`.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::path::Path;

/// Memory behind a range of addresses, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Given {
    /// What was touched, and so is there.
    pub(crate) resident: u64,
    /// Of that, what lies on huge pages: those that the system found and those from a pool.
    pub(crate) huge: u64,
    /// Of that, what is kept out of swap.
    pub(crate) locked: u64,
}

impl Given {
    /// What a file such as `/proc/self/smaps` tells of a range of addresses; all zero where there is none.
    pub(crate) fn of(file: &Path, range: Range<u64>) -> Self {
        let mut given = Self::default();
        let Ok(file) = File::open(file) else { return given };
        // How much of the mapping that is being told of lies in the range.
        let mut overlap = 0;
        for line in BufReader::new(file).lines().map_while(Result::ok) {
            if let Some(mapping) = addresses(&line) {
                let end = mapping.end.min(range.end);
                overlap = end.saturating_sub(mapping.start.max(range.start));
            } else if overlap > 0
                && let Some((name, bytes)) = figure(&line)
            {
                // A mapping that goes on outside is a neighbour's, too: what is where is not told.
                let bytes = bytes.min(overlap);
                match name {
                    "Rss" => given.resident += bytes,
                    "AnonHugePages" => given.huge += bytes,
                    // Not among what is resident.
                    "Private_Hugetlb" | "Shared_Hugetlb" => {
                        given.huge += bytes;
                        given.resident += bytes;
                    }
                    "Locked" => given.locked += bytes,
                    _ => {}
                }
            }
        }
        given
    }
}

/// The addresses of a line that begins to tell of a mapping: `7f00-7f10 rw-p …`.
fn addresses(line: &str) -> Option<Range<u64>> {
    let (from, to) = line.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(from, 16).ok()?..u64::from_str_radix(to, 16).ok()?)
}

/// Name and bytes of a line `Rss:   12 kB`.
fn figure(line: &str) -> Option<(&str, u64)> {
    let (name, rest) = line.split_once(':')?;
    let kib = rest.trim().strip_suffix(" kB")?.parse::<u64>().ok()?;
    Some((name, kib.checked_mul(1024)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_in_the_range_counts() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("smaps");
        let text = "1000-3000 rw-p 00000000 00:00 0 \nRss:   8 kB\nAnonHugePages:   4 kB\nLocked:  4 kB\nVmFlags: rd\n\
                    3000-5000 rw-p 00000000 00:00 0 [heap]\nRss:   8 kB\nPrivate_Hugetlb: 4 kB\nRss: -5 kB\nodd\n\
                    9000-a000 rw-p 0 0 0\nRss: 4 kB\n";
        std::fs::write(&file, text).unwrap();
        let given = |range| Given::of(&file, range);
        assert_eq!(given(0x1000..0x3000), Given { resident: 8192, huge: 4096, locked: 4096 });
        assert_eq!(given(0x3000..0x9000), Given { resident: 12288, huge: 4096, locked: 0 });
        assert_eq!(given(0x1000..0x2000).resident, 4096, "half of a mapping has no more than its length");
        assert_eq!(given(0x5000..0x9000), Given::default());
        assert_eq!(Given::of(&dir.path().join("none"), 0..1), Given::default());
    }
}
