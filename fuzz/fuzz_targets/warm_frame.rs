//! A warm page, of any bytes: as they are, and once more with its frames' checksums made right.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    esker::fuzz_doors::warm_image(bytes);
    let mut mended = bytes.to_vec();
    esker::fuzz_doors::mend_warm_image(&mut mended);
    esker::fuzz_doors::warm_image(&mended);
});
