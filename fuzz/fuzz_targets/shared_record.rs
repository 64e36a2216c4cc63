//! The record that says what files of pages are, and their log of names, of any bytes: as they are, and once more with right
//! checksums.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    esker::fuzz_doors::shared_record(bytes);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_names(&mut mended);
    esker::fuzz_doors::shared_record(&mended);
});
