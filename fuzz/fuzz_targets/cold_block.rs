//! A cold block and a directory entry, of any bytes: as they are, and once more with their checksums made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    esker::fuzz_doors::cold_block(bytes);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_cold_block(&mut mended);
    esker::fuzz_doors::cold_block(&mended);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_block_info(&mut mended);
    esker::fuzz_doors::cold_block(&mended);
});
