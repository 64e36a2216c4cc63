//! Reading events of warm pages: one frame is unpacked, and what says where it is, is fetched ahead.

use std::sync::Arc;

use crate::config::EVENT_MAX;
use crate::error::{Error, Result, zeros};
use crate::event::EventRef;
use crate::event::buffer::Buffer;
use crate::event::record::RecordHeader;
use crate::pages::image::usual_entry;
use crate::pages::pool::Pages;
use crate::pages::reading::{FrameCache, Unpacked};
use crate::pages::table::{Place, Tier};

/// Frames that unpack to more than this are asked for in a way that may fail.
const LARGE_FRAME: usize = 64 << 10;

/// How far a warm record has been fetched ahead. Each step looks at what the one before asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Near {
    /// Where its frame is said to be.
    Entry,
    /// The frame.
    Frame,
}

impl Pages {
    /// Asks the processor to fetch what is looked at first to find a warm record.
    #[inline(never)]
    pub(crate) fn prefetch_image(&self, place: Place, offset: u32) {
        if place.tier() == Tier::Warm {
            self.warm.prefetch(place.frame(), 0);
            self.warm.prefetch(place.frame(), usual_entry(offset));
        }
    }

    /// The next step to a warm record, if it is one.
    #[inline(never)]
    pub(crate) fn prefetch_warm(&self, place: Place, offset: u32, step: Near) {
        // What is wrong with it is told to whoever reads it.
        if place.tier() == Tier::Warm
            && let Ok(image) = self.find_image(place)
        {
            match step {
                Near::Entry => image.prefetch_entry(offset),
                Near::Frame => image.prefetch_frame(offset),
            }
        }
    }

    pub(super) fn read_warm(
        &self,
        cache: &FrameCache,
        place: Place,
        offset: u32,
    ) -> Result<EventRef<'static>> {
        // Whoever took the frame for this page was counted before the page could be found there.
        let claims = self.warm.claims();
        let Unpacked { raw_at, bytes, .. } = match cache.find(place, claims, offset) {
            Some(found) => found,
            None => {
                self.warm.prefetch(place.frame(), usual_entry(offset));
                let image = self.image(place)?;
                let frame =
                    image.frame_of(offset).ok_or_else(|| Error::corrupt("a warm page has no such record"))?;
                // A frame may be of one large event. What lies about its length is told when it is unpacked.
                let mut room = if frame.raw_len() > LARGE_FRAME && frame.raw_len() <= EVENT_MAX as usize * 2 {
                    zeros(frame.raw_len(), "an event")?
                } else {
                    Vec::new()
                };
                room.clear();
                let raw = image.unpack_into(frame, room).inspect_err(|_| self.count_corrupt())?;
                let bytes = Arc::new(self.buffer(raw));
                let unpacked = Unpacked { place, claims, raw_at: frame.raw_at, bytes };
                cache.keep(unpacked.clone());
                unpacked
            }
        };
        let at = (offset - raw_at) as usize;
        EventRef::of_record(bytes, at)
            .ok_or_else(|| Error::corrupt("a warm frame has no record where there must be one"))
    }

    /// Unpacked records, which are those of one class.
    pub(super) fn buffer(&self, raw: Vec<u8>) -> Buffer {
        let of = |header: RecordHeader| self.sensitive >> header.class().index() & 1 == 1;
        let sensitive = self.sensitive != 0 && RecordHeader::read(&raw).is_some_and(of);
        Buffer::new(raw, sensitive)
    }
}
