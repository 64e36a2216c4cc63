//! The house rules that neither compiler nor clippy checks: which room may use which, where `unsafe` may be, how long
//! a file may be, and that no file depends on the machine on which it was written.
#![allow(clippy::unwrap_used, reason = "a test that meets an error has failed")]

use std::path::{Path, PathBuf};

/// What every room may use, and what uses nothing else.
const BASE: [&str; 7] = ["error", "config", "ids", "clock", "sync", "pressure", "metrics"];
/// A room may use those before it, and itself.
const ROOMS: [&str; 11] =
    ["sys", "event", "regions", "pages", "index", "lanes", "log", "eviction", "tiers", "observe", "store"];
/// What is made of all rooms.
const WHOLE: [&str; 3] = ["lib", "fuzz_doors", "loom_tests"];
const UNSAFE_IN: [&str; 5] =
    ["sys/memory.rs", "sys/memory/slab.rs", "regions/region.rs", "pages/pool.rs", "index/region.rs"];
const LINES_MAX: usize = 650;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files below a folder, less those of folders that `skip` names.
fn files(folder: &Path, skip: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if !skip.iter().any(|name| entry.file_name() == *name) {
            match entry.file_type().unwrap().is_dir() {
                true => found.extend(files(&entry.path(), skip)),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

/// Path below `src` and text of each source file.
fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&src).unwrap().to_str().unwrap().replace('\\', "/");
        (name, std::fs::read_to_string(path).unwrap())
    };
    let sources: Vec<_> = files(&src, &[]).into_iter().map(read).collect();
    assert!(sources.len() > 30, "the sources are not where they were");
    sources
}

/// The lines of code: neither comments nor the tests at the end of a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_test = |line: &str| line.starts_with("#[cfg(test)]") || line.starts_with("#[cfg(all(test");
    let tests = text.lines().zip(text.lines().skip(1));
    let end = tests.take_while(|(line, next)| !(is_test(line) && next.starts_with("mod tests"))).count();
    let numbered = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    numbered.take(end + 1).filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || letter == '_'
}

fn room(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

#[test]
fn a_room_uses_only_rooms_before_it() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let from = room(&file);
        if WHOLE.contains(&from) {
            continue;
        }
        let place = ROOMS.iter().position(|name| *name == from);
        assert!(
            place.is_some() || BASE.contains(&from),
            "src/{file} is in a room that tests/tidy.rs does not know"
        );
        for (number, line) in code(&text) {
            for used in line.split("crate::").skip(1) {
                let used = used.split(|letter| !is_word(letter)).next().unwrap();
                let before = |room: &str| ROOMS[..place.map_or(0, |at| at + 1)].contains(&room);
                if !BASE.contains(&used) && !before(used) {
                    wrong.push(format!("src/{file}:{number}: {from} uses {used:?}: {}", line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "a room may use what is left of it in {ROOMS:?}:\n{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_is_in_the_files_that_are_named() {
    let mut seen = Vec::new();
    for (file, text) in sources() {
        let mut lines = code(&text);
        if let Some((number, _)) = lines.find(|(_, line)| line.split(|l| !is_word(l)).any(|w| w == "unsafe"))
        {
            assert!(UNSAFE_IN.contains(&&*file), "src/{file}:{number}: unsafe code belongs in {UNSAFE_IN:?}");
            seen.push(file);
        }
    }
    assert_eq!(seen.len(), UNSAFE_IN.len(), "a file named here has no unsafe code any more; it has {seen:?}");
}

#[test]
fn no_source_file_is_too_long_to_read() {
    let long = sources().into_iter().map(|(file, text)| (file, text.lines().count()));
    let long: Vec<_> = long.filter(|(_, lines)| *lines > LINES_MAX).collect();
    assert!(long.is_empty(), "files of more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn no_file_names_a_place_on_the_machine_where_it_was_written() {
    // Put together here, so that this file does not name them.
    let places =
        [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"], ["../sh", "ared"]].map(|parts| parts.concat());
    let skip = ["target", ".git", ".venv", "corpus", "corpus-run", "Cargo.lock"];
    for file in files(root(), &skip) {
        let bytes = std::fs::read(&file).unwrap();
        let Ok(text) = String::from_utf8(bytes) else { continue };
        for (at, line) in text.lines().enumerate() {
            let named = places.iter().find(|place| line.contains(*place));
            assert!(named.is_none(), "{}:{}: names {}", file.display(), at + 1, named.unwrap());
        }
    }
}
