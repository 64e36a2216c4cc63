//! A segment of the log on a disk, of any bytes: as they are, and once more with the checksums of its frames made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    esker::fuzz_doors::log_segment(bytes);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_log_segment(&mut mended);
    esker::fuzz_doors::log_segment(&mended);
});
