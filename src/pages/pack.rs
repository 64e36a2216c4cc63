//! Writing the warm form of a page: see [`crate::pages::image`] for what it is, and when it is which of the two.

use lz4_flex::block::{CompressTable, compress_into_with_table};

use crate::event::record::{HEADER_LEN, RecordHeader, body_len, end_of};
use crate::pages::image::{
    ENTRY, FRAME_BYTES, IMAGE_HEADER, SHARED, SHARED_ENTRY, SHARED_HEADER, WHOLE, shared_sum,
};
use crate::pages::units::{Out, UnitWriter};
use crate::sys::memory::{prefetch_bytes, wipe_all};

/// The bounds of the size of a bucket: the next power of two of the mean of the page's records. Twice as large ones take 1 to 5 %
/// less room, and an event 1.2 to 1.4 times as long to read; half as large ones 2 to 11 % more, and 0.85 to 1.1 times as long.
pub(super) const BUCKET_MIN: usize = 512;
const BUCKET_MAX: usize = 16 << 10;
/// Records that must be there for a dictionary to be of use.
const SHARING_MIN: usize = 4;
/// A page has a dictionary of this part of its bytes, taken from so many places of it.
const DICTIONARY_SHARE: usize = 64;
const DICTIONARY_MAX: usize = 1 << 10;
const DICTIONARY_PLACES: usize = 4;
/// How far a page is fetched ahead of where it is looked at first. Four times as much is slower by a twentieth.
const AHEAD: usize = 2 << 10;

/// Bytes that packing so many takes at most while it is done.
pub(crate) fn room_for(raw: usize) -> usize {
    // A frame is at least half full, or holds one record.
    let frames = 2 * (raw / FRAME_BYTES) + 2;
    let whole = room_for_frames(raw, frames);
    // A head may be longer than the header by 3 bytes, and a frame has 10 bytes before them.
    let table = (SHARED_ENTRY + 10) * (raw / BUCKET_MIN + 1);
    whole.max(SHARED_HEADER + HEADER_LEN + DICTIONARY_MAX + table + raw + raw / 8 + 64)
}

/// The same of so many frames of the older form.
pub(super) fn room_for_frames(raw: usize, frames: usize) -> usize {
    IMAGE_HEADER + frames * (ENTRY + 64) + lz4_flex::block::get_maximum_output_size(raw)
}

/// Packs the records of a page into `out`, which is cleared first.
pub(crate) fn encode(raw: &[u8], out: &mut Vec<u8>) {
    if let Some(sharing) = Sharing::of(raw) {
        return sharing.encode(raw, out);
    }
    let cuts = cuts(raw);
    let frames = cuts.iter().map(|(from, to)| (*from as u32, &raw[*from..*to]));
    encode_frames(raw.len() as u32, frames, out);
}

/// What a page is packed by whose frames share a dictionary.
struct Sharing {
    first: RecordHeader,
    bucket: usize,
    /// Of all records.
    largest: usize,
    dictionary: Vec<u8>,
}

impl Sharing {
    /// `None` for a page that does not gain by it, or has bytes that do not look as records do.
    fn of(raw: &[u8]) -> Option<Self> {
        let wanted = (raw.len() / DICTIONARY_SHARE).min(DICTIONARY_MAX);
        let mut dictionary = Vec::with_capacity(HEADER_LEN + wanted);
        let found = Self::look(raw, wanted, &mut dictionary);
        let Some((first, bucket, largest)) = found else {
            wipe_all(&mut dictionary);
            return None;
        };
        Some(Self { first, bucket, largest, dictionary })
    }

    /// The first header, the bytes of a bucket and those of the largest record; and the dictionary, of so many bytes.
    fn look(raw: &[u8], wanted: usize, dictionary: &mut Vec<u8>) -> Option<(RecordHeader, usize, usize)> {
        let first = RecordHeader::read(raw)?;
        dictionary.extend_from_slice(&raw[..HEADER_LEN]);
        let (mut at, mut records, mut largest) = (0, 0, 0);
        while at < raw.len() {
            let end = end_of(raw, at)?;
            // Whoever looks at headers only waits for each, and whoever copies the bodies afterwards for those.
            let [ahead, to] = [at, end].map(|place| (place + AHEAD).min(raw.len()));
            prefetch_bytes(&raw[ahead..to]);
            let (body, padding) = raw[at + HEADER_LEN..end].split_at(body_len(&raw[at..])? as usize);
            let last = raw[..end].last_chunk().map_or(0, |word| u64::from_le_bytes(*word));
            // Padding is not kept, since it is zero.
            if last.checked_shr(64 - 8 * padding.len() as u32).is_some_and(|padding| padding != 0) {
                return None;
            }
            // A share of it from each part of the page, and there from another part of long bodies.
            let part = at * DICTIONARY_PLACES / raw.len();
            let has = HEADER_LEN + wanted * (part + 1) / DICTIONARY_PLACES;
            let lacks = has.saturating_sub(dictionary.len()).min(body.len());
            let is_long = body.len() > wanted / DICTIONARY_PLACES;
            let from = if is_long { (body.len() - lacks) * part / (DICTIONARY_PLACES - 1) } else { 0 };
            dictionary.extend_from_slice(&body[from..from + lacks]);
            (at, records, largest) = (end, records + 1, largest.max(end - at));
        }
        let mean = raw.len() / records;
        let bucket = mean.next_power_of_two().max(BUCKET_MIN);
        let gains = records >= SHARING_MIN && bucket <= BUCKET_MAX;
        gains.then_some((first, bucket, largest))
    }

    fn encode(self, raw: &[u8], out: &mut Vec<u8>) {
        let Self { first, bucket, largest, mut dictionary } = self;
        let frames = raw.len().div_ceil(bucket);
        let mut out = Out::new(out, room_for(raw.len()));
        out.push(SHARED);
        for field in [frames, raw.len(), 0] {
            out.push(&(field as u32).to_le_bytes());
        }
        out.push(&[bucket.trailing_zeros() as u8, 0]);
        out.push(&(dictionary.len() as u16).to_le_bytes());
        out.len = SHARED_HEADER + SHARED_ENTRY * frames;
        out.push(&dictionary);
        let mut writer = UnitWriter::new(raw, first, &dictionary, bucket + largest);
        let mut from = 0;
        for number in 0..frames {
            let at = out.len as u32;
            let mut end = from;
            while end < (number + 1) * bucket
                && let Some(next) = end_of(raw, end)
            {
                end = next;
            }
            let mut crc = 0;
            if end > from {
                writer.put(number * bucket, from, end, &mut out);
                crc = shared_sum(from as u32, &raw[from..end]);
            }
            let entry = u64::from(crc) << 32 | u64::from(at);
            out.patch(SHARED_HEADER + SHARED_ENTRY * number, &entry.to_le_bytes());
            from = end;
        }
        let all = out.len as u32;
        out.patch(12, &all.to_le_bytes());
        out.finish();
        // What was copied may be of a sensitive class.
        writer.wipe();
        wipe_all(&mut dictionary);
    }
}

/// Packs frames that lie at those places of a page of `raw_len` bytes: there may be none where its records were lost.
pub(crate) fn encode_frames<'r>(
    raw_len: u32,
    frames: impl ExactSizeIterator<Item = (u32, &'r [u8])>,
    out: &mut Vec<u8>,
) {
    out.clear();
    let count = frames.len();
    let table = IMAGE_HEADER + ENTRY * count;
    let mut seen = CompressTable::default();
    out.resize(table, 0);
    for (number, (from, input)) in frames.enumerate() {
        let at = out.len();
        out.resize(at + lz4_flex::block::get_maximum_output_size(input.len()), 0);
        // The output has the size that LZ4 asks for, so packing cannot fail; were it to, the frame is stored.
        let packed = compress_into_with_table(input, &mut out[at..], &mut seen).unwrap_or(usize::MAX);
        if packed < input.len() {
            out.truncate(at + packed);
        } else {
            out.truncate(at);
            out.extend_from_slice(input);
        }
        let crc = crc32fast::hash(&out[at..]);
        let fields = [from, input.len() as u32, at as u32, (out.len() - at) as u32, crc];
        for (field, value) in fields.iter().enumerate() {
            let place = IMAGE_HEADER + number * ENTRY + field * 4;
            out[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
    }
    let all = out.len() as u32;
    out[..4].copy_from_slice(WHOLE);
    out[4..8].copy_from_slice(&(count as u32).to_le_bytes());
    out[8..12].copy_from_slice(&raw_len.to_le_bytes());
    out[12..16].copy_from_slice(&all.to_le_bytes());
}

/// Where frames of the older form begin and end: at records, near multiples of [`FRAME_BYTES`].
pub(super) fn cuts(raw: &[u8]) -> Vec<(usize, usize)> {
    let mut cuts = Vec::with_capacity(raw.len() / FRAME_BYTES + 1);
    let (mut from, mut at) = (0, 0);
    while let Some(header) = RecordHeader::read(&raw[at..]) {
        let end = header.record_len_checked().map_or(raw.len(), |len| (at + len).min(raw.len()));
        // A record that would overfill the frame begins the next one.
        if end - from > FRAME_BYTES && at > from {
            cuts.push((from, at));
            from = at;
        }
        at = end;
    }
    // All of it, even if what is behind the last record is none: lengths may be damaged.
    if raw.len() > from {
        cuts.push((from, raw.len()));
    }
    cuts
}
