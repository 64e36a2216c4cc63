//! A record of the overflow directory, and its note of the namespace, of any bytes: as they are, and once more with their
//! checksum made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    esker::fuzz_doors::spool_record(bytes);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_spool_record(&mut mended);
    esker::fuzz_doors::spool_record(&mended);
});
