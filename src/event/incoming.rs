//! An event on its way into the store.

use std::time::Duration;

use crate::event::body::Metadata;
use crate::event::record::{self, EXPIRY_LEN, HEADER_LEN, NEVER, RecordHeader, SUM_LEN};
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
    /// Retention and priority; `None` for the class of its stream (see
    /// [`Store::set_class`](crate::Store::set_class)), which is the default class unless somebody said otherwise.
    pub class: Option<Class>,
    /// Milliseconds from when it expires by itself to the end of time, so that zero is never: what is asked of every
    /// event is asked with one instruction.
    expires_before_end: u64,
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
            expires_before_end: 0,
            metadata: Metadata::None,
            payload: &[],
        }
    }

    /// The event without what it borrows.
    pub(crate) fn bare(&self) -> Event<'static> {
        Event {
            class: self.class,
            flags: self.flags,
            expires_before_end: self.expires_before_end,
            ..Event::new(self.stream, self.id, self.timestamp, self.kind)
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

    /// Has the event expire so long after its timestamp, which must be set by then. From that moment on, no read gives
    /// it, in whichever tier it is. It expires earlier where its class's
    /// [`retention`](crate::ClassConfig::retention) is shorter.
    ///
    /// Costs 8 bytes. What the event takes in memory comes back when its page leaves; until then its id counts as in
    /// use, as with retention.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// # let clock = esker::Clock::manual(1_000);
    /// # let config = esker::Config::builder().memory("16MiB").background(false).build()?;
    /// # let store = esker::Store::builder(config).clock(clock.clone()).open()?;
    /// let code = esker::Event::new(7u32.into(), 1, clock.now_ms(), 3).ttl(Duration::from_secs(60)).payload(b"493027");
    /// store.append(&code)?;
    /// assert!(store.fetch(1)?.is_some());
    /// clock.set_ms(clock.now_ms() + 60_000);
    /// assert!(store.fetch(1)?.is_none());
    /// # Ok::<(), esker::Error>(())
    /// ```
    pub fn ttl(self, ttl: Duration) -> Self {
        let at = i128::from(self.timestamp) + i128::try_from(ttl.as_millis()).unwrap_or(i128::MAX / 2);
        self.expires_at(i64::try_from(at).unwrap_or(i64::MAX))
    }

    /// Has the event expire at that moment, in milliseconds since the Unix epoch; `i64::MAX` is never. See
    /// [`ttl`](Self::ttl).
    pub fn expires_at(mut self, at_ms: i64) -> Self {
        self.expires_before_end = NEVER.abs_diff(at_ms);
        self
    }

    /// Whether the event expires by itself.
    #[inline]
    pub(crate) fn expires(&self) -> bool {
        self.expires_before_end != 0
    }

    /// When it expires by itself, [`NEVER`] for most.
    pub(crate) fn expiry(&self) -> i64 {
        NEVER.wrapping_sub_unsigned(self.expires_before_end)
    }

    /// The same event with another timestamp. What it has to live stays as long as it was.
    pub(crate) fn at(mut self, timestamp: i64) -> Self {
        if self.expires() {
            let later = i128::from(timestamp) - i128::from(self.timestamp) + i128::from(self.expiry());
            // It must not become one that never expires.
            let latest = i128::from(NEVER - 1);
            self = self.expires_at(later.clamp(i128::from(i64::MIN), latest) as i64);
        }
        Self { timestamp, ..self }
    }

    fn header(&self, class: Class, body_len: u32, has_metadata: bool, previous: u64) -> RecordHeader {
        let Self { timestamp, id, flags, kind, stream, .. } = *self;
        let mut header =
            RecordHeader::new(timestamp, id, body_len, flags, kind, class, has_metadata, stream.as_u64());
        header.previous = previous;
        header
    }

    /// Writes the record of an event that does not expire by itself: header, body, padding. `space` is as long.
    #[inline]
    pub(crate) fn write(&self, class: Class, body_len: u32, previous: u64, space: &mut [u8]) {
        let body = body_len as usize;
        // Without pairs the body is the payload alone.
        let header = self.header(class, body_len, body != self.payload.len(), previous);
        if !body.is_multiple_of(8)
            && let Some(last) = space.last_chunk_mut::<8>()
        {
            // Padding; what belongs to the body is written over.
            *last = [0; 8];
        }
        header.write(space);
        self.metadata.write_body(self.payload, &mut space[HEADER_LEN..HEADER_LEN + body]);
    }

    /// The same of an event that expires by itself, or is summed up: `body_len` counts the moment and the sum, too.
    #[cold]
    pub(crate) fn write_marked(
        &self,
        class: Class,
        body_len: u32,
        previous: u64,
        space: &mut [u8],
        sums: bool,
    ) {
        let before = if self.expires() { EXPIRY_LEN } else { 0 };
        let content = body_len as usize - before - if sums { SUM_LEN } else { 0 };
        let header = self.header(class, body_len, content != self.payload.len(), previous);
        header.expiring(self.expires()).summed(sums).write(space);
        let (moment, rest) = space[HEADER_LEN..].split_at_mut(before);
        moment.copy_from_slice(&self.expiry().to_le_bytes()[..before]);
        let (body, padding) = rest.split_at_mut(content);
        padding.fill(0);
        self.metadata.write_body(self.payload, body);
        if sums {
            record::seal(space, body_len);
        }
    }

    /// The event's record, by itself; `None` when it is larger than any store takes.
    pub(crate) fn to_record(self, class: Class) -> Option<Vec<u8>> {
        let content = self.metadata.body_len(self.payload);
        let body = content + if self.expires() { EXPIRY_LEN as u64 } else { 0 };
        if content > crate::config::EVENT_MAX {
            return None;
        }
        let mut record = vec![0; crate::event::record::record_len(body as u32) as usize];
        match self.expires() {
            true => self.write_marked(class, body as u32, 0, &mut record, false),
            false => self.write(class, body as u32, 0, &mut record),
        }
        Some(record)
    }
}
