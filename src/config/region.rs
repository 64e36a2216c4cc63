//! The size of a region, and wishes for it.

use crate::config::size::IntoByteSize;

/// The size of one region, all of it decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RegionConfig {
    /// Bytes that are committed when the store opens.
    pub initial: u64,
    /// Bytes that the region may take when the store opens.
    pub max: u64,
    /// Bytes that the region never exceeds, whatever [`Store::resize_region`](crate::Store::resize_region) is asked
    /// for. Address space for all of it is reserved at once.
    pub ceiling: u64,
    /// Bytes of a page: a power of two from 2 KiB to 2 MiB.
    pub page_size: u64,
    /// Bytes by which the region grows from `initial` towards `max`.
    pub chunk: u64,
    /// Whether committed memory is touched at once, so that no append meets a page fault.
    pub prefault: bool,
}

impl RegionConfig {
    /// A region whose whole address space can be used at once.
    pub(crate) fn whole(self) -> Self {
        Self { initial: self.ceiling, max: self.ceiling, chunk: self.ceiling, ..self }
    }
}

/// Wishes for one region; what is not set is derived from the store's total. See
/// [`ConfigBuilder::hot`](crate::ConfigBuilder::hot).
#[derive(Clone, Debug, Default)]
pub struct RegionBuilder {
    pub(super) initial: Option<u64>,
    pub(super) max: Option<u64>,
    pub(super) ceiling: Option<u64>,
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

    /// The most that [`Store::resize_region`](crate::Store::resize_region) can make of the region while the store runs
    /// (default: the whole memory, but for the index eight times its maximum). It takes address space, and 32 bytes of
    /// memory for each page of the index.
    #[must_use]
    pub fn ceiling(mut self, bytes: impl IntoByteSize) -> Self {
        self.ceiling = self.take("ceiling", bytes);
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
