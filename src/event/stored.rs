//! An event as readers see it.

use std::fmt;
use std::sync::Arc;

use crate::event::body::{self, MetadataIter};
use crate::event::record::RecordHeader;
use crate::ids::{Class, Stream};

/// What a scan's filter sees of an event: everything but its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct EventHeader {
    /// What the event belongs to.
    pub stream: Stream,
    /// The caller's id.
    pub id: u64,
    /// Milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// The caller's type of event.
    pub kind: u8,
    /// The caller's flags.
    pub flags: u16,
    /// Retention and priority.
    pub class: Class,
    /// Bytes of metadata and payload together.
    pub body_len: u32,
}

impl EventHeader {
    pub(crate) fn of(header: &RecordHeader) -> Self {
        Self {
            stream: Stream::from_raw(header.stream),
            id: header.id,
            timestamp: header.timestamp,
            kind: header.kind,
            flags: header.flags,
            class: header.class(),
            body_len: header.body_len,
        }
    }
}

/// A stored event: its bytes in place while the guard is held (`'g`), or shared and free of any guard
/// (`EventRef<'static>`, see [`into_owned`](Self::into_owned)).
///
/// Events of the hot tier borrow the page that they lie in. Events of the warm and cold tiers share the unpacked
/// frame or block that they came with.
#[derive(Clone)]
pub struct EventRef<'g> {
    header: RecordHeader,
    body: Body<'g>,
}

#[derive(Clone)]
enum Body<'g> {
    InPlace(&'g [u8]),
    Shared { buffer: Arc<Vec<u8>>, from: u32, len: u32 },
}

impl<'g> EventRef<'g> {
    pub(crate) fn in_place(header: RecordHeader, body: &'g [u8]) -> Self {
        Self { header, body: Body::InPlace(body) }
    }

    /// An event whose body is that range of `buffer`; `None` where the range is outside.
    pub(crate) fn shared(header: RecordHeader, buffer: Arc<Vec<u8>>, from: usize) -> Option<Self> {
        let len = header.body_len;
        buffer.get(from..from.checked_add(len as usize)?)?;
        Some(Self { header, body: Body::Shared { buffer, from: from as u32, len } })
    }

    pub(crate) fn record(&self) -> &RecordHeader {
        &self.header
    }

    pub(crate) fn body(&self) -> &[u8] {
        match &self.body {
            Body::InPlace(bytes) => bytes,
            Body::Shared { buffer, from, len } => &buffer[*from as usize..(*from + *len) as usize],
        }
    }

    /// The caller's id.
    pub fn id(&self) -> u64 {
        self.header.id
    }

    /// What the event belongs to.
    pub fn stream(&self) -> Stream {
        Stream::from_raw(self.header.stream)
    }

    /// Milliseconds since the Unix epoch.
    pub fn timestamp(&self) -> i64 {
        self.header.timestamp
    }

    /// The caller's type of event.
    pub fn kind(&self) -> u8 {
        self.header.kind
    }

    /// The caller's flags.
    pub fn flags(&self) -> u16 {
        self.header.flags
    }

    /// Retention and priority.
    pub fn class(&self) -> Class {
        self.header.class()
    }

    /// Everything but the bytes.
    pub fn header(&self) -> EventHeader {
        EventHeader::of(&self.header)
    }

    /// The payload.
    pub fn payload(&self) -> &[u8] {
        body::split(self.body(), self.header.has_metadata()).1
    }

    /// The key/value pairs.
    pub fn metadata(&self) -> MetadataIter<'_> {
        MetadataIter::new(self.metadata_bytes())
    }

    /// The key/value pairs as they are stored, for [`Metadata::Encoded`](crate::Metadata::Encoded).
    pub fn metadata_bytes(&self) -> &[u8] {
        body::split(self.body(), self.header.has_metadata()).0
    }

    /// The first value of that key.
    pub fn metadata_value(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.metadata().find(|(found, _)| *found == key.as_ref()).map(|(_, value)| value)
    }

    /// Frees the event from its guard, by one copy if it lies in the hot tier.
    pub fn into_owned(self) -> EventRef<'static> {
        let body = match self.body {
            Body::InPlace(bytes) => {
                Body::Shared { buffer: Arc::new(bytes.to_vec()), from: 0, len: bytes.len() as u32 }
            }
            Body::Shared { buffer, from, len } => Body::Shared { buffer, from, len },
        };
        EventRef { header: self.header, body }
    }
}

impl fmt::Debug for EventRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRef")
            .field("stream", &self.stream())
            .field("id", &self.id())
            .field("timestamp", &self.timestamp())
            .field("kind", &self.kind())
            .field("flags", &self.flags())
            .field("class", &self.class())
            .field("payload_len", &self.payload().len())
            .finish_non_exhaustive()
    }
}
