//! Bytes on the heap that events share.

use std::ops::Deref;

use crate::sys::memory::wipe;

/// Bytes that do not change, and that are overwritten when the last who has them lets go, if they are of a sensitive
/// class.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    sensitive: bool,
}

impl Buffer {
    pub(crate) fn new(bytes: Vec<u8>, sensitive: bool) -> Self {
        Self { bytes, sensitive }
    }

    /// Leaves out what lies behind so many bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        if self.sensitive
            && let Some(behind) = self.bytes.get_mut(len..)
        {
            wipe(behind);
        }
        self.bytes.truncate(len);
    }

    /// Bytes that the buffer takes.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

impl From<Vec<u8>> for Buffer {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes, false)
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.sensitive {
            wipe(&mut self.bytes);
        }
    }
}
