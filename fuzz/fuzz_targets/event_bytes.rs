//! The records of a page, of any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| esker::fuzz_doors::event_bytes(bytes));
