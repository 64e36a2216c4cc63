//! The size of a region, and wishes for it.

use crate::config::size::IntoByteSize;

/// The size of one region, all of it decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RegionConfig {
    /// Bytes that are committed when the store opens.
    pub initial: u64,
    /// Bytes that the region never exceeds. Address space for all of it is reserved at once.
    pub max: u64,
    /// Bytes of a page: a power of two from 2 KiB to 2 MiB.
    pub page_size: u64,
    /// Bytes by which the region grows from `initial` towards `max`.
    pub chunk: u64,
    /// Whether committed memory is touched at once, so that no append meets a page fault.
    pub prefault: bool,
}

/// Wishes for one region; what is not set is derived from the store's total. See
/// [`ConfigBuilder::hot`](crate::ConfigBuilder::hot).
#[derive(Clone, Debug, Default)]
pub struct RegionBuilder {
    pub(super) initial: Option<u64>,
    pub(super) max: Option<u64>,
    pub(super) page_size: Option<u64>,
    pub(super) chunk: Option<u64>,
    pub(super) prefault: bool,
    pub(super) faults: Vec<(&'static str, String)>,
}

impl RegionBuilder {
    /// The most that the region may take.
    #[must_use]
    pub fn max(mut self, bytes: impl IntoByteSize) -> Self {
        self.max = self.take("max", bytes);
        self
    }

    /// What is committed when the store opens.
    #[must_use]
    pub fn initial(mut self, bytes: impl IntoByteSize) -> Self {
        self.initial = self.take("initial", bytes);
        self
    }

    /// The size of a page: a power of two from 2 KiB to 2 MiB.
    #[must_use]
    pub fn page_size(mut self, bytes: impl IntoByteSize) -> Self {
        self.page_size = self.take("page_size", bytes);
        self
    }

    /// The step in which the region grows.
    #[must_use]
    pub fn chunk(mut self, bytes: impl IntoByteSize) -> Self {
        self.chunk = self.take("chunk", bytes);
        self
    }

    /// Touch committed memory at once (default: no).
    #[must_use]
    pub fn prefault(mut self, yes: bool) -> Self {
        self.prefault = yes;
        self
    }

    fn take(&mut self, field: &'static str, bytes: impl IntoByteSize) -> Option<u64> {
        match bytes.into_byte_size() {
            Ok(size) => Some(size.as_u64()),
            Err(problem) => {
                self.faults.push((field, problem));
                None
            }
        }
    }
}
