//! A size in a configuration, of any text.
#![no_main]

use esker::ByteSize;

libfuzzer_sys::fuzz_target!(|text: &str| {
    let Ok(size) = text.parse::<ByteSize>() else { return };
    let shown = size.to_string();
    // Sizes that are no whole number of their unit are shown with one digit after the point, which can take the
    // very largest beyond what a size can be.
    let Ok(again) = shown.parse::<ByteSize>() else {
        assert!(size.as_u64() > u64::MAX - (1 << 40), "{text:?} is shown as {shown}, which cannot be read");
        return;
    };
    let error = size.as_u64().abs_diff(again.as_u64());
    assert!(error <= size.as_u64() / 10, "{text:?} is {}, shown as {shown}", size.as_u64());
});
