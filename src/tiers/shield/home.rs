//! What a local directory knows of its namespace, so that a store can open while the cluster is away.
//!
//! A store's page numbers must not be those of any other opening. The cluster gives each opening a range; the directory
//! remembers the last one, and up to where numbers of it may have been used. An opening without the cluster goes on
//! behind that: the range is this directory's for ever, and its lock lets one store use it at a time.
//!
//! ```text
//! ┌──────┬────────┬─────────┬─────────┬────────────┬──────┬─────────┬─────────┐
//! │ ESKH │ CRC-32 │ first   │ used    │ partitions │ seed │ label   │ classes │
//! │      │        │ u64     │ u64     │ u32        │ u64  │ lengths and text  │
//! └──────┴────────┴─────────┴─────────┴────────────┴──────┴─────────┴─────────┘
//! ```

use std::io::ErrorKind as IoKind;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};
use crate::tiers::cold::Namespace;
use crate::tiers::directory::{WRITER_SHIFT, writer_of};
use crate::tiers::files;
use crate::tiers::shield::record::{Reader, put_bytes};

const MAGIC: &[u8; 4] = b"ESKH";
/// Numbers that are marked as used in one go, so that the file is seldom written.
const STEP: u64 = 1 << 20;
/// Pages that a block has at most, generously.
const BLOCK_PAGES: u64 = 1 << 16;
/// The longest file that is read.
const FILE_MAX: u64 = 1 << 20;

/// The file's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Home {
    /// Which namespace of which keyspace.
    pub(crate) label: String,
    pub(crate) namespace: Namespace,
    /// The first number of the range.
    pub(crate) first: u64,
    /// Numbers of the range below this one may have been used.
    pub(crate) used: u64,
}

impl Home {
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("namespace")
    }

    /// What a directory knows of a namespace: `None` if nothing, or of another one.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or is damaged.
    pub(crate) fn load(dir: &Path, label: &str) -> Result<Option<Self>> {
        let path = Self::path(dir);
        let failed = |source| Error::io(format!("cannot read {}", path.display()), source);
        let bytes = match std::fs::metadata(&path) {
            Err(error) if error.kind() == IoKind::NotFound => return Ok(None),
            Ok(about) if about.len() <= FILE_MAX => std::fs::read(&path).map_err(failed)?,
            Ok(_) => Vec::new(),
            Err(error) => return Err(failed(error)),
        };
        match Self::decode(&bytes) {
            Some(home) => Ok(Some(home).filter(|home| home.label == label)),
            None => Err(Error::corrupt(format!(
                "{} fails its checksum; remove it, and open once while the cluster is there",
                path.display()
            ))),
        }
    }

    /// Writes the file, so that it is either the old or the new one whatever happens meanwhile.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let (path, fresh) = (Self::path(dir), dir.join("namespace.new"));
        files::put(&path, &fresh, &[&self.encode()])
            .map_err(|source| Error::io(format!("cannot write {}", path.display()), source))
    }

    /// The first number for an opening without the cluster; those that it may use are marked as used.
    ///
    /// # Errors
    /// When the range is used up.
    pub(crate) fn go_on(&mut self) -> Result<u64> {
        let first = self.used;
        self.used = first.saturating_add(STEP);
        if writer_of(self.used) == writer_of(self.first) {
            return Ok(first);
        }
        Err(Error::new(
            ErrorKind::Cold,
            "the local directory has no page numbers left; open it once while the cluster is there",
        ))
    }

    /// Marks a number as used, and those about it. Whether that changed anything.
    pub(crate) fn mark(&mut self, seq: u64) -> bool {
        // Numbers of others pass through here when their dead letters are replayed.
        if writer_of(seq) != writer_of(self.first) || seq.saturating_add(BLOCK_PAGES) < self.used {
            return false;
        }
        self.used = seq.saturating_add(BLOCK_PAGES + STEP).min((writer_of(self.first) + 1) << WRITER_SHIFT);
        true
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.first.to_le_bytes());
        out.extend_from_slice(&self.used.to_le_bytes());
        out.extend_from_slice(&self.namespace.partitions.to_le_bytes());
        out.extend_from_slice(&self.namespace.seed.to_le_bytes());
        put_bytes(&mut out, self.label.as_bytes());
        self.namespace.classes.iter().for_each(|class| put_bytes(&mut out, class.as_bytes()));
        let crc = crc32fast::hash(&out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (head, body) = bytes.split_first_chunk::<8>()?;
        if !head.starts_with(MAGIC) || crc32fast::hash(body).to_le_bytes() != head[4..] {
            return None;
        }
        let mut rest = Reader(body);
        let (first, used, partitions, seed) = (rest.u64()?, rest.u64()?, rest.u32()?, rest.u64()?);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        let label = text(rest.bytes()?)?;
        let mut classes = Vec::new();
        while !rest.0.is_empty() {
            classes.push(text(rest.bytes()?)?);
        }
        Some(Self { label, namespace: Namespace::new(partitions, seed, classes), first, used })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home() -> Home {
        let namespace = Namespace::new(4, 77, vec!["a".into(), "b".into()]);
        Home { label: "k/n".into(), namespace, first: 5 << WRITER_SHIFT, used: 5 << WRITER_SHIFT }
    }

    #[test]
    fn what_was_saved_is_there_and_damage_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Home::load(dir.path(), "k/n").unwrap(), None);
        home().save(dir.path()).unwrap();
        assert_eq!(Home::load(dir.path(), "k/n").unwrap(), Some(home()));
        assert_eq!(Home::load(dir.path(), "k/other").unwrap(), None);
        let bytes = std::fs::read(Home::path(dir.path())).unwrap();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            std::fs::write(Home::path(dir.path()), &bad).unwrap();
            assert_eq!(Home::load(dir.path(), "k/n").unwrap_err().kind(), ErrorKind::Corrupt, "byte {at}");
        }
    }

    #[test]
    fn openings_go_on_behind_what_may_have_been_used_until_the_range_ends() {
        let mut home = home();
        let first = home.go_on().unwrap();
        assert!(!home.mark(first) && !home.mark(first + 1000));
        assert!(home.mark(first + STEP - 1), "a block there may have pages behind what is marked");
        assert!(home.go_on().unwrap() > first + STEP - 1 + BLOCK_PAGES - 1);
        assert!(!home.mark(9 << WRITER_SHIFT), "not one of its numbers");
        assert!(home.mark((6 << WRITER_SHIFT) - 1));
        assert_eq!(home.go_on().unwrap_err().kind(), ErrorKind::Cold);
    }
}
