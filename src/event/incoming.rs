//! An event on its way into the store.

use crate::event::body::Metadata;
use crate::ids::{Class, Stream};

/// An event to append. It borrows its metadata and payload; appending copies them once, into the page.
///
/// ```
/// use esker::{Event, Stream};
///
/// let event = Event::new(Stream::from(42u32), 1, 1_700_000_000_000, 7)
///     .metadata(&[("cell", "A7")])
///     .flags(0b1)
///     .payload(b"attach");
/// assert_eq!(event.id, 1);
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use]
#[non_exhaustive]
pub struct Event<'a> {
    /// What the event belongs to.
    pub stream: Stream,
    /// The caller's id, unique over all streams.
    pub id: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The caller's type of event; scans can choose by it.
    pub kind: u8,
    /// The caller's flags; scans can choose by them.
    pub flags: u16,
    /// Retention and priority; `None` for the default class.
    pub class: Option<Class>,
    /// Key/value pairs.
    pub metadata: Metadata<'a>,
    /// Any bytes.
    pub payload: &'a [u8],
}

impl<'a> Event<'a> {
    /// An event without metadata and payload, of the default class.
    pub fn new(stream: Stream, id: u64, timestamp_ms: i64, kind: u8) -> Self {
        Self {
            stream,
            id,
            timestamp: timestamp_ms,
            kind,
            flags: 0,
            class: None,
            metadata: Metadata::None,
            payload: &[],
        }
    }

    /// Sets the payload.
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Sets the key/value pairs: `&[("key", "value")]`, the same with byte strings, or [`Metadata`].
    pub fn metadata(mut self, metadata: impl Into<Metadata<'a>>) -> Self {
        self.metadata = metadata.into();
        self
    }

    /// Sets the flags.
    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    /// Sets the class; see [`Store::class`](crate::Store::class).
    pub fn class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }
}
