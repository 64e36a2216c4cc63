//! Sparse pages in less room: the image of a page without the bodies of records that were removed.
//!
//! Addresses stay as they are, so a removed record keeps its place and its header: links of others lead through it, and
//! the page's index entries are found by it. Its body becomes zeros, of which LZ4 makes next to nothing.

use std::sync::Arc;

use crate::error::Result;
use crate::event::record::take_body;
use crate::ids::LogicalPage;
use crate::pages::pack;
use crate::pages::pool::{Pages, Pin};
use crate::sys::memory::wipe_all;

/// What came of packing a page anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Repacked {
    /// Bytes of its region that it takes less of, all regions together.
    Done(u64),
    /// It would not become smaller.
    Useless,
    /// The warm region has no room.
    NoRoom,
}

/// Buffers for one page: its records, and its image.
#[derive(Default)]
pub(crate) struct Buffers {
    raw: Vec<u8>,
    image: Vec<u8>,
}

impl Pages {
    /// Bytes that a page takes in its region.
    pub(crate) fn taken_bytes(&self, page: LogicalPage) -> u64 {
        let region = self.region(self.place(page).tier());
        u64::from(self.meta(page).frames()) * u64::from(region.page_size())
    }

    /// Puts a sealed page into the warm region without the bodies of the records at those offsets, if that takes less
    /// room. The mover is the only caller. Every pin that could lead to one of those records must be gone.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a frame fails its check; the page stays as it is.
    pub(crate) fn repack(
        self: &Arc<Self>,
        pin: &Pin,
        page: LogicalPage,
        dead: &[u32],
        buffers: &mut Buffers,
    ) -> Result<Repacked> {
        let done = self.repack_by(pin, page, dead, buffers);
        if self.is_sensitive(page) {
            wipe_all(&mut buffers.raw);
            wipe_all(&mut buffers.image);
        }
        done
    }

    fn repack_by(
        self: &Arc<Self>,
        pin: &Pin,
        page: LogicalPage,
        dead: &[u32],
        buffers: &mut Buffers,
    ) -> Result<Repacked> {
        let (meta, before) = (self.meta(page), self.taken_bytes(page));
        let Buffers { raw, image } = buffers;
        // So that neither need grow meanwhile, which would leave a copy behind.
        raw.reserve(meta.committed() as usize);
        image.reserve(pack::room_for(meta.committed() as usize));
        self.raw_bytes(pin, page, raw)?;
        let mut gone = 0;
        for offset in dead {
            gone += take_body(&mut raw[*offset as usize..]).unwrap_or(0);
        }
        pack::encode(raw, image);
        let page_size = u64::from(self.warm.page_size());
        let after = (image.len() as u64).div_ceil(page_size) * page_size;
        if after >= before {
            // Not to be tried again before more is removed.
            meta.set_packed_dead(gone.max(1));
            return Ok(Repacked::Useless);
        }
        if !self.move_to_warm(pin, page, image) {
            return Ok(Repacked::NoRoom);
        }
        meta.set_packed_dead(gone);
        Ok(Repacked::Done(before - after))
    }
}
