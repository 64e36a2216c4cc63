//! Writes the fuzzers' first inputs, real encoded bytes, to `corpus/`. To be run after a change of a format.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let sizes = [
        ("plain", "4096"),
        ("unit", "64MiB"),
        ("broken", "1.5 GiB"),
        ("decimal", "2gb"),
        ("wrong", "12 parsecs"),
        ("largest", "18446744073709551615"),
    ]
    .map(|(name, text)| ("config_sizes", name, text.as_bytes().to_vec()));
    for (target, name, bytes) in esker::fuzz_doors::samples().into_iter().chain(sizes) {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}
