//! Events: as callers give them, as records lie in pages, and as readers see them.

mod body;
pub(crate) mod buffer;
pub(crate) use body::{
    push_varint, put_varint, split as split_body, take_varint as varint, unzigzag, zigzag,
};
mod incoming;
mod pool;
pub(crate) mod record;
mod stored;

pub use body::{Metadata, MetadataIter};
pub use incoming::Event;
pub use pool::{EventPool, EventPoolConfig, PooledEvent};
pub use stored::{EventHeader, EventRef};
