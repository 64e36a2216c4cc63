//! An event as readers see it.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::event::body::{self, Metadata, MetadataIter};
use crate::event::buffer::Buffer;
use crate::event::incoming::Event;
use crate::event::record::{self, EXPIRY_LEN, HEADER_LEN, NEVER, RecordHeader};
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
    /// When it expires by itself, in milliseconds since the Unix epoch, if it does.
    pub expires_at: Option<i64>,
}

/// A stored event: its bytes in place while the guard is held (`'g`), or shared and free of any guard
/// (`EventRef<'static>`, see [`into_owned`](Self::into_owned)).
///
/// Events of the hot tier borrow the page that they lie in. Events of the warm and cold tiers share the unpacked
/// frame or block that they came with.
#[derive(Clone)]
pub struct EventRef<'g> {
    bytes: Bytes<'g>,
}

/// Where an event's bytes are. Small, because readers move these about by the million: a header is decoded when it is
/// asked for, from a line that was fetched with the event.
#[derive(Clone)]
enum Bytes<'g> {
    /// The whole record.
    InPlace(&'g [u8]),
    /// A whole record at that place of a buffer.
    Record { buffer: Arc<Buffer>, at: usize },
    /// A row of a cold block, which keeps headers as columns.
    Row(Box<Row>),
}

#[derive(Clone)]
struct Row {
    header: RecordHeader,
    buffer: Arc<Buffer>,
    body_at: u32,
}

impl<'g> EventRef<'g> {
    /// The event whose record is `record`: exactly that, a header and the body that it announces.
    #[inline]
    pub(crate) fn in_place(record: &'g [u8]) -> Self {
        debug_assert!(
            RecordHeader::read(record)
                .is_some_and(|header| { record.len() == HEADER_LEN + header.body_len as usize })
        );
        Self { bytes: Bytes::InPlace(record) }
    }

    /// The event whose record begins at that place of `buffer`; `None` where there is no whole record.
    pub(crate) fn of_record(buffer: Arc<Buffer>, at: usize) -> Option<Self> {
        let header = RecordHeader::read(buffer.get(at..)?)?;
        buffer.get(at..at.checked_add(HEADER_LEN + header.body_len as usize)?)?;
        Some(Self { bytes: Bytes::Record { buffer, at } })
    }

    /// The event of that header whose body begins at that place of `buffer`; `None` where it is cut off.
    pub(crate) fn of_row(header: RecordHeader, buffer: Arc<Buffer>, body_at: usize) -> Option<Self> {
        buffer.get(body_at..body_at.checked_add(header.body_len as usize)?)?;
        let row = Row { header, buffer, body_at: u32::try_from(body_at).ok()? };
        Some(Self { bytes: Bytes::Row(Box::new(row)) })
    }

    #[inline]
    pub(crate) fn record(&self) -> RecordHeader {
        let bytes = match &self.bytes {
            Bytes::InPlace(record) => record,
            Bytes::Record { buffer, at } => &buffer[*at..],
            Bytes::Row(row) => return row.header,
        };
        RecordHeader::read(bytes).unwrap_or_else(|| unreachable!("a record was checked when it was found"))
    }

    /// Everything after the header.
    #[inline]
    pub(crate) fn body(&self) -> &[u8] {
        match &self.bytes {
            Bytes::InPlace(record) => &record[HEADER_LEN..],
            Bytes::Record { buffer, at } => {
                let from = *at + HEADER_LEN;
                &buffer[from..from + self.record().body_len as usize]
            }
            Bytes::Row(row) => {
                let from = row.body_at as usize;
                &row.buffer[from..from + row.header.body_len as usize]
            }
        }
    }

    /// Whether the event is what was written, as far as its record is summed up: see [`record::is_whole`].
    #[cold]
    pub(crate) fn is_whole(&self) -> bool {
        match &self.bytes {
            Bytes::InPlace(record) => record::is_whole(record),
            Bytes::Record { buffer, at } => record::is_whole(&buffer[*at..]),
            // Whole blocks are summed up.
            Bytes::Row(_) => true,
        }
    }

    /// What somebody is told who asked for this event, which fails its checksum.
    #[cold]
    pub(crate) fn damage(&self) -> Error {
        let (id, stream) = (self.id(), self.stream().as_u64());
        Error::corrupt(format!(
            "the event {id} of stream {stream} fails its checksum: its bytes in memory are not those that came"
        ))
    }

    /// Header and body without the sum.
    pub(crate) fn without_sum(&self) -> (RecordHeader, &[u8]) {
        let (header, body) = (self.record().unsummed(), self.body());
        (header, body.get(..header.body_len as usize).unwrap_or(body))
    }

    /// When the event expires by itself, [`NEVER`] for most.
    #[inline]
    pub(crate) fn expiry(&self) -> i64 {
        if self.record().expires() { body::expiry(self.body()) } else { NEVER }
    }

    /// Whether the event has expired by itself at that moment.
    #[inline]
    pub(crate) fn has_expired(&self, now_ms: i64) -> bool {
        self.record().expires() && body::expiry(self.body()) <= now_ms
    }

    /// Metadata and payload, each by itself.
    fn parts(&self) -> (&[u8], &[u8]) {
        body::parts(self.body(), self.record().marks())
    }

    /// The caller's id.
    #[inline]
    pub fn id(&self) -> u64 {
        self.record().id
    }

    /// What the event belongs to.
    #[inline]
    pub fn stream(&self) -> Stream {
        Stream::from_raw(self.record().stream)
    }

    /// Milliseconds since the Unix epoch.
    #[inline]
    pub fn timestamp(&self) -> i64 {
        self.record().timestamp
    }

    /// The caller's type of event.
    #[inline]
    pub fn kind(&self) -> u8 {
        self.record().kind
    }

    /// The caller's flags.
    #[inline]
    pub fn flags(&self) -> u16 {
        self.record().flags
    }

    /// Retention and priority.
    #[inline]
    pub fn class(&self) -> Class {
        self.record().class()
    }

    /// When the event expires by itself, in milliseconds since the Unix epoch, if it does; see
    /// [`Event::ttl`](crate::Event::ttl).
    #[inline]
    pub fn expires_at(&self) -> Option<i64> {
        Some(self.expiry()).filter(|at| *at != NEVER)
    }

    /// Everything but the bytes.
    #[inline]
    pub fn header(&self) -> EventHeader {
        let header = self.record();
        EventHeader {
            stream: Stream::from_raw(header.stream),
            id: header.id,
            timestamp: header.timestamp,
            kind: header.kind,
            flags: header.flags,
            class: header.class(),
            body_len: header.unsummed().body_len.saturating_sub(if header.expires() {
                EXPIRY_LEN as u32
            } else {
                0
            }),
            expires_at: self.expires_at(),
        }
    }

    /// The payload.
    #[inline]
    pub fn payload(&self) -> &[u8] {
        // By values, so that an event that is in registers can stay there.
        let (header, body) = (self.record(), self.body());
        if header.is_plain() {
            return body;
        }
        body::parts(body, header.marks()).1
    }

    /// The key/value pairs.
    pub fn metadata(&self) -> MetadataIter<'_> {
        MetadataIter::new(self.metadata_bytes())
    }

    /// The key/value pairs as they are stored, for [`Metadata::Encoded`].
    pub fn metadata_bytes(&self) -> &[u8] {
        self.parts().0
    }

    /// The first value of that key.
    pub fn metadata_value(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        self.metadata().find(|(found, _)| *found == key.as_ref()).map(|(_, value)| value)
    }

    /// The event as one that can be appended, to another store for example. Classes are numbered by their place in the
    /// configuration.
    pub fn to_event(&self) -> Event<'_> {
        let (record, (pairs, payload)) = (self.record(), self.parts());
        let event = Event::new(self.stream(), record.id, record.timestamp, record.kind)
            .flags(record.flags)
            .class(record.class())
            .payload(payload)
            .expires_at(self.expiry());
        if record.has_metadata() { event.metadata(Metadata::Encoded(pairs)) } else { event }
    }

    /// Frees the event from its guard, by one copy if it lies in the hot tier.
    pub fn into_owned(self) -> EventRef<'static> {
        let bytes = match self.bytes {
            Bytes::InPlace(record) => Bytes::Record { buffer: Arc::new(record.to_vec().into()), at: 0 },
            Bytes::Record { buffer, at } => Bytes::Record { buffer, at },
            Bytes::Row(row) => Bytes::Row(row),
        };
        EventRef { bytes }
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
