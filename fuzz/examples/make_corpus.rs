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
    // Changes of a file: which, where, and to what.
    let changes: [(&str, &str, &[u8]); 4] = [
        ("index_image", "nothing", b""),
        ("index_image", "shape", &[2, 0, 4, 31, 1, 0, 8, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ("index_image", "shorter", &[0, 0, 40, 0]),
        ("index_image", "index", &[163, 0, 9, 1, 164, 1, 30, 200]),
    ];
    // Settings by number, each with its value.
    let configs: [(&str, &str, &[u8]); 3] = [
        ("config", "small", &[16]),
        ("config", "regions", &[32, 2, 20, 3, 12, 5, 20, 9, 19, 13, 2]),
        ("config", "classes", &[40, 22, 0, 10, 12, 20, 0, 18, 22, 1, 0, 0, 30, 9, 19]),
    ];
    let given =
        changes.into_iter().chain(configs).map(|(target, name, bytes)| (target, name, bytes.to_vec()));
    let operations = [("alone", 0, 300), ("faults", 1, 300), ("alone-long", 2, 900), ("faults-long", 3, 900)]
        .map(|(name, first, len)| ("operations", name, any_bytes(first, len)));
    let all = esker::fuzz_doors::samples().into_iter().chain(sizes).chain(given).chain(operations);
    for (target, name, bytes) in all {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

/// So many bytes that look like chance, behind the first.
fn any_bytes(first: u8, len: usize) -> Vec<u8> {
    let mut state = u64::from(first) + 1;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    let rest: Vec<u8> = (0..len).map(|_| next()).collect();
    [vec![first], rest].concat()
}
