//! What is told of where memory lies.

use crate::sys::memory::page_size;

/// Where one region's memory lies, and on which pages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct RegionPlacement {
    /// Bytes that were touched, and so are there.
    pub resident_bytes: u64,
    /// Of those, what lies on huge pages: those that the system found, and those from a pool.
    pub huge_bytes: u64,
    /// Of those, what is kept out of swap.
    pub locked_bytes: u64,
    /// Its arenas; one without a node where it has none.
    pub arenas: Vec<ArenaPlacement>,
}

/// Where the memory of one arena lies.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct ArenaPlacement {
    /// The node that it is tied to.
    pub node: Option<u32>,
    /// Bytes that are there, by the id of the node that they really lie on.
    pub bytes_on: Vec<(u32, u64)>,
}

impl ArenaPlacement {
    /// Counts a page of the system.
    pub(crate) fn add(&mut self, node: Option<u32>) {
        let Some(node) = node else { return };
        let bytes = page_size() as u64;
        match self.bytes_on.iter_mut().find(|(id, _)| *id == node) {
            Some((_, sum)) => *sum += bytes,
            None => self.bytes_on.push((node, bytes)),
        }
    }
}
