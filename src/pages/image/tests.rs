//! Images of both forms, whole and damaged.

use super::*;
use crate::event::record::records;
use crate::ids::Class;
use crate::pages::pack::{cuts, encode, encode_frames, room_for};

fn page(records: usize, body: impl Fn(usize) -> usize) -> Vec<u8> {
    let mut page = Vec::new();
    for id in 0..records {
        let len = body(id);
        let header = RecordHeader::new(id as i64, id as u64, len as u32, 0, 0, Class::DEFAULT, false, 1);
        let at = page.len();
        page.resize(at + header.record_len() as usize, 0);
        header.write(&mut page[at..]);
        page[at + HEADER_LEN..at + HEADER_LEN + len].fill(id as u8);
    }
    page
}

fn is_shared(image: &[u8]) -> bool {
    image.starts_with(SHARED)
}

fn frames<'a>(image: &'a Image<'_>) -> impl Iterator<Item = Frame> + 'a {
    (0..image.frames()).filter_map(|number| image.frame(number))
}

fn check_records(raw: &[u8], image: &[u8]) {
    let image = Image::parse(image).unwrap();
    for (offset, header, body) in records(raw) {
        let frame = image.frame_of(offset).unwrap();
        let unpacked = image.unpack(frame).unwrap();
        let at = (offset - frame.raw_at) as usize;
        assert_eq!(RecordHeader::read(&unpacked[at..]), Some(header));
        assert_eq!(&unpacked[at + HEADER_LEN..at + HEADER_LEN + body.len()], body);
    }
    assert!(image.frame_of(raw.len() as u32).is_none());
    let mut page = vec![9; raw.len()];
    image.unpack_all(&mut page).unwrap();
    assert_eq!(page, raw);
    let (mut number, mut runs, mut all) = (0, 0, Vec::new());
    while let Some(run) = image.unpack_run(&mut number) {
        let (at, bytes) = run.unwrap();
        assert_eq!(at as usize, all.len());
        all.extend_from_slice(&bytes);
        runs += 1;
    }
    assert_eq!(all, raw);
    assert!(runs <= 2 * (raw.len() / FRAME_BYTES) + 1, "{runs} runs");
}

#[test]
fn every_record_is_found_in_its_frame() {
    let pages = [
        (page(500, |id| id % 300), true),
        (page(70, |id| id * 37 % 2000), true),
        (page(4, |_| 0), true),
        (page(900, |id| if id == 300 { 30_000 } else { 5 }), true),
        (page(1, |_| 100_000), false),
        (page(40, |id| id * 2000), false),
        (Vec::new(), false),
    ];
    for (raw, shares) in pages {
        let mut out = Vec::new();
        encode(&raw, &mut out);
        assert_eq!(is_shared(&out), shares);
        assert!(out.len() <= room_for(raw.len()));
        check_records(&raw, &out);
        // Images of the older form stay readable.
        let cuts = cuts(&raw);
        let frames = cuts.iter().map(|(from, to)| (*from as u32, &raw[*from..*to]));
        encode_frames(raw.len() as u32, frames, &mut out);
        assert!(!is_shared(&out) && out.len() <= room_for(raw.len()));
        check_records(&raw, &out);
    }
}

/// It would leave a copy behind, perhaps of sensitive events.
#[test]
fn packing_what_cannot_be_packed_needs_no_more_room() {
    let mut seed = 3u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        seed.rotate_right(20)
    };
    for lens in
        [vec![0; 200], vec![1; 700], vec![300; 100], vec![0, 0, 0, 60_000], vec![1000, 0, 0, 0, 40_000, 9]]
    {
        let mut raw = Vec::new();
        for (number, len) in lens.iter().enumerate() {
            let len = len + number % 2;
            let (class, at) = (Class::new(random() as usize % 16), raw.len());
            let (flags, kind) = (random() as u16, random() as u8);
            let mut header =
                RecordHeader::new(random() as i64, random(), len as u32, flags, kind, class, false, random());
            header.previous = random();
            raw.resize(at + header.record_len() as usize, 0);
            header.write(&mut raw[at..]);
            raw[at + HEADER_LEN..at + HEADER_LEN + len].fill_with(|| random() as u8);
        }
        let mut out = Vec::with_capacity(room_for(raw.len()));
        let (place, room) = (out.as_ptr(), out.capacity());
        encode(&raw, &mut out);
        assert!(is_shared(&out));
        assert_eq!((out.as_ptr(), out.capacity()), (place, room), "{} records", lens.len());
        check_records(&raw, &out);
    }
}

#[test]
fn what_does_not_look_as_records_do_comes_back_as_it_was() {
    let good = page(50, |id| id % 7 + 100);
    let second = RecordHeader::read(&good).unwrap().record_len() as usize;
    let mut padded = good.clone();
    padded[second - 1] = 1;
    let mut cut = good.clone();
    cut.truncate(good.len() - 8);
    let mut longer = good.clone();
    longer[second + 16..second + 20].copy_from_slice(&u32::MAX.to_le_bytes());
    for raw in [padded, cut, longer] {
        let (mut out, mut page) = (Vec::new(), vec![0; raw.len()]);
        encode(&raw, &mut out);
        assert!(!is_shared(&out) && out.len() <= room_for(raw.len()));
        Image::parse(&out).unwrap().unpack_all(&mut page).unwrap();
        assert_eq!(page, raw);
    }
}

/// Their addresses are in the index, although nobody finds them by lengths.
#[test]
fn records_behind_a_damaged_length_are_found_by_their_offset() {
    let good = page(100, |_| 100);
    let len = RecordHeader::read(&good).unwrap().record_len();
    let mut raw = good.clone();
    // It seems to end with the twentieth.
    let body = 20 * len - HEADER_LEN as u32;
    raw[16..20].copy_from_slice(&body.to_le_bytes());
    let mut out = Vec::new();
    encode(&raw, &mut out);
    assert!(is_shared(&out));
    let image = Image::parse(&out).unwrap();
    for number in 1..100 {
        let offset = number * len;
        let frame = image.frame_of(offset).unwrap();
        let unpacked = image.unpack(frame).unwrap();
        let header = RecordHeader::read(&unpacked[(offset - frame.raw_at) as usize..]).unwrap();
        assert_eq!(header.id, u64::from(number));
    }
}

#[test]
fn a_damaged_dictionary_harms_only_frames_that_need_it() {
    let mut seed = 5u64;
    let mut raw = page(200, |_| 200);
    for (number, record) in raw.chunks_mut(240).enumerate() {
        for byte in &mut record[HEADER_LEN..] {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = if number % 2 == 0 { (seed >> 33) as u8 } else { *byte };
        }
    }
    let mut out = Vec::new();
    encode(&raw, &mut out);
    let all = frames(&Image::parse(&out).unwrap()).count();
    let from = number(&out, SHARED_HEADER) - number(&out, 16) / (1 << 16);
    let end = number(&out, SHARED_HEADER);
    let mut harmed = 0;
    for at in (from + HEADER_LEN..end).step_by(7) {
        let mut bad = out.clone();
        bad[at] ^= 0x10;
        let image = Image::parse(&bad).unwrap();
        let whole = frames(&image).filter(|frame| image.unpack(*frame).is_ok()).count();
        assert!(whole >= all - 3, "{whole} of {all}, byte {at}");
        harmed += all - whole;
    }
    assert!(harmed > 0);
}

#[test]
fn a_run_ends_before_a_damaged_frame_and_goes_on_behind_it() {
    let raw = page(300, |_| 200);
    let mut out = Vec::new();
    encode(&raw, &mut out);
    let middle = Image::parse(&out).unwrap().frame(60).unwrap();
    out[middle.at as usize + middle.len as usize / 2] ^= 1;
    let image = Image::parse(&out).unwrap();
    let (mut number, mut bytes, mut damaged) = (0, 0, 0);
    while let Some(run) = image.unpack_run(&mut number) {
        match run {
            Ok((at, records)) => {
                assert_eq!(records, raw[at as usize..][..records.len()]);
                bytes += records.len();
            }
            Err(error) => {
                assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt);
                damaged += 1;
            }
        }
    }
    assert_eq!((bytes + middle.raw_len(), damaged), (raw.len(), 1));
}

/// Found by fuzzing: the fields of the header were read beyond an end that lay within it.
#[test]
fn an_image_that_claims_to_be_shorter_than_its_header_is_an_error() {
    let mut bytes = Vec::new();
    encode(&page(3, |_| 10), &mut bytes);
    for len in 0..IMAGE_HEADER as u32 {
        bytes[12..16].copy_from_slice(&len.to_le_bytes());
        assert!(Image::parse(&bytes).is_err(), "{len} bytes");
    }
}

#[test]
fn every_flipped_bit_is_noticed_or_harmless() {
    // All lengths of padding, the first record's included.
    let raw = page(24, |id| id * 7 + 3);
    let mut out = Vec::new();
    encode(&raw, &mut out);
    let original = Image::parse(&out).unwrap();
    let original: Vec<_> =
        frames(&original).map(|frame| (frame.raw_at, original.unpack(frame).unwrap())).collect();
    for bit in 0..out.len() * 8 {
        let mut bad = out.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Ok(image) = Image::parse(&bad) else { continue };
        for frame in frames(&image) {
            if let Ok(unpacked) = image.unpack(frame) {
                let is_there = original.contains(&(frame.raw_at, unpacked));
                assert!(is_there, "bit {bit} changed what was read");
            }
        }
        let mut page = vec![9; raw.len()];
        assert!(image.unpack_all(&mut page).is_err() || page == raw, "bit {bit}");
        let (mut number, mut end) = (0, 0);
        while let Some(run) = image.unpack_run(&mut number) {
            let Ok((at, bytes)) = run else { continue };
            assert!(at >= end && raw[at as usize..].starts_with(&bytes), "bit {bit}");
            end = at + bytes.len() as u32;
        }
    }
}

/// Their checksums are of what they hold, not of where that is.
#[test]
fn frames_of_the_older_form_are_where_they_were_or_nowhere() {
    let raw = page(40, |id| id * 100);
    let (mut out, cuts) = (Vec::new(), cuts(&raw));
    let parts = cuts.iter().map(|(from, to)| (*from as u32, &raw[*from..*to]));
    encode_frames(raw.len() as u32, parts, &mut out);
    assert!(cuts.len() > 5);
    for (entry, bit) in (0..cuts.len()).flat_map(|entry| (3..32).map(move |bit| (entry, bit))) {
        let mut bad = out.clone();
        bad[IMAGE_HEADER + entry * ENTRY + bit / 8] ^= 1 << (bit % 8);
        let image = Image::parse(&bad).unwrap();
        let mut whole = 0;
        for frame in frames(&image) {
            let Ok(bytes) = image.unpack(frame) else { continue };
            assert!(raw[frame.raw_at as usize..].starts_with(&bytes), "frame {entry}, bit {bit}");
            whole += 1;
        }
        assert!((cuts.len() - 3..cuts.len()).contains(&whole), "{whole} of {}", cuts.len());
    }
}

/// Found by reading: what was not there ended before it began, if the page's first record has padding.
#[test]
fn a_frame_that_says_it_has_nothing_is_an_error() {
    let raw = page(24, |_| 101);
    let mut out = Vec::new();
    encode(&raw, &mut out);
    assert!(is_shared(&out));
    let second = SHARED_HEADER + SHARED_ENTRY;
    for second_at in [0, u32::MAX] {
        let mut bad = out.clone();
        bad[second..second + 4].copy_from_slice(&second_at.to_le_bytes());
        let error = Image::parse(&bad).unwrap().unpack_all(&mut vec![0; raw.len()]).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Corrupt);
    }
    let at = Image::parse(&out).unwrap().frame(0).unwrap().at as usize;
    assert_eq!(out[at - 2], 0, "where it begins in its bucket, and how long it is");
    out[at - 1] = 0;
    assert!(Image::parse(&out).unwrap().unpack_all(&mut vec![0; raw.len()]).is_err());
}

#[test]
fn what_fails_its_checksum_does_not_stay_where_it_was_unpacked() {
    let raw = page(24, |_| 101);
    let mut out = Vec::new();
    encode(&raw, &mut out);
    out[SHARED_HEADER + 4] ^= 1;
    let image = Image::parse(&out).unwrap();
    let frame = image.frame(0).unwrap();
    let mut place = vec![7; frame.raw_len()];
    assert!(image.unpack_to(frame, &mut place).is_err());
    assert!(place.iter().all(|byte| *byte == 0));
}

/// A page of events of many streams, half noise and half text.
fn half_noise(seed: &mut u64, len: usize, noise_first: bool) -> Vec<u8> {
    let mut random = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *seed >> 33
    };
    let count = (64 << 10) / (HEADER_LEN + len.next_multiple_of(8));
    let mut raw = page(count, |_| len);
    let record = raw.len() / count;
    for (number, record) in raw.chunks_mut(record).enumerate() {
        let now = 1_700_000_000_000 + number as i64;
        let (class, stream) = (Class::DEFAULT, random() % 2000);
        let mut header =
            RecordHeader::new(now, now as u64, len as u32, 0, random() as u8 % 16, class, false, stream);
        header.previous = random();
        header.write(record);
        let text = format!("{{\"state\":\"attached\",\"cell\":{},\"next\":null}} ", random() % 1000);
        let mut body: Vec<u8> = text.bytes().cycle().take(len / 2).collect();
        let noise: Vec<u8> = (0..len - len / 2).map(|_| random() as u8).collect();
        body.splice(if noise_first { 0..0 } else { len / 2..len / 2 }, noise);
        record[HEADER_LEN..HEADER_LEN + len].copy_from_slice(&body);
    }
    raw
}

fn encode_older(raw: &[u8], out: &mut Vec<u8>) {
    let cuts = cuts(raw);
    let frames = cuts.iter().map(|(from, to)| (*from as u32, &raw[*from..*to]));
    encode_frames(raw.len() as u32, frames, out);
}

/// `cargo test --release --lib packed -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn how_fast_pages_are_packed() {
    type Pack = fn(&[u8], &mut Vec<u8>);
    let seed = &mut 1;
    for (len, noise_first) in [(18, true), (256, true), (1024, true), (1024, false), (4096, true)] {
        let pages: Vec<_> = (0..64).map(|_| half_noise(seed, len, noise_first)).collect();
        let raw: usize = pages.iter().map(Vec::len).sum();
        let forms: [Pack; 2] = [encode, encode_older];
        let (mut best, mut size) = ([std::time::Duration::MAX; 2], [0; 2]);
        for (number, pack) in (0..20).flat_map(|_| forms.iter().enumerate()) {
            let (mut out, begin) = (Vec::new(), crate::clock::now());
            size[number] = 0;
            for page in &pages {
                pack(page, &mut out);
                size[number] += out.len();
            }
            best[number] = best[number].min(begin.elapsed());
        }
        for (number, name) in ["sharing", "older"].iter().enumerate() {
            let (rate, part) =
                (raw as f64 / best[number].as_secs_f64() / 1e6, size[number] as f64 / raw as f64);
            let noise = if noise_first { "first" } else { "last" };
            println!("{len} B, noise {noise}, {name}: {rate:.0} MB/s, {part:.4} of the size");
        }
    }
}
