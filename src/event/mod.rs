//! Events: as callers give them, as records lie in pages, and as readers see them.

mod body;
pub(crate) use body::take_varint as varint;
mod incoming;
pub(crate) mod record;
mod stored;

pub use body::{Metadata, MetadataIter};
pub use incoming::Event;
pub use stored::{EventHeader, EventRef};
