//! Where a run took place and with what.

use std::process::Command;

use crate::registry::{Allocator, Entry};

/// The lock file that this program was built with.
const LOCK: &str = include_str!("../Cargo.lock");

/// Names and facts of this machine.
pub(crate) fn facts() -> Vec<(&'static str, String)> {
    let first = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.rsplit(':').next().unwrap_or_default().trim().to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = first("/proc/meminfo", "MemTotal");
    let cache = first("/sys/devices/system/cpu/cpu0/cache/index3/size", "");
    vec![
        (
            "machine",
            format!(
                "{}, {cpus} processors, {cache} third-level cache, {memory}",
                first("/proc/cpuinfo", "model name")
            ),
        ),
        ("kernel", first("/proc/sys/kernel/osrelease", "")),
        ("transparent huge pages", first("/sys/kernel/mm/transparent_hugepage/enabled", "")),
        ("load", first("/proc/loadavg", "")),
        ("compiler", said("rustc", &["-V"])),
        ("commit", said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"])),
    ]
}

/// The first line that a program prints.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output);
    text.lines().next().unwrap_or("not known").to_owned()
}

/// Versions of the peers that take part.
pub(crate) fn versions(entries: &[&Entry]) -> String {
    let mut names: Vec<_> =
        entries.iter().map(|entry| entry.package).filter(|name| !name.is_empty()).collect();
    if entries.iter().any(|entry| entry.allocator == Allocator::Mimalloc) {
        names.push("mimalloc");
    }
    names.push("lz4_flex");
    names.dedup();
    let told = |name: &&str| format!("{name} {}", version(name));
    names.iter().map(told).collect::<Vec<_>>().join(", ")
}

/// The version that this package depends on. Where the lock file has several of one name, it tells with the
/// dependencies which one is meant.
fn version(package: &str) -> &'static str {
    let ours = LOCK.split("[[package]]").find(|entry| entry.contains("\nname = \"esker-peers\"\n"));
    let chosen = ours.and_then(|entry| {
        let rest = entry.split_once(&format!(" \"{package} "))?.1;
        rest.split_once('"').map(|(version, _)| version)
    });
    let name = format!("name = \"{package}\"");
    let mut lines = LOCK.lines().skip_while(|line| *line != name);
    let only = || lines.nth(1)?.strip_prefix("version = \"")?.strip_suffix('"');
    chosen.or_else(only).unwrap_or("of unknown version")
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_peer_has_a_version() {
        for entry in crate::registry::ENTRIES.iter().filter(|entry| !entry.package.is_empty()) {
            assert!(super::version(entry.package).starts_with(char::is_numeric), "{}", entry.package);
        }
    }
}
