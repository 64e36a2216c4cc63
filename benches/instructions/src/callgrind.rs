//! Runs this program under callgrind and reads what it counted.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Only what happens below this function is counted; see [`counted`](crate::workload::counted).
pub(crate) const COUNTED: &str = "esker_counted";

/// The C library chooses its memcpy by the processor and, above some length, copies with `rep movsb`, of which valgrind
/// counts every byte as an instruction. Without these it takes the plain SSE2 one, which every x86-64 processor has.
/// (valgrind itself shows an Intel Haswell to its guest on any processor with AVX2, and less on older ones.)
const TUNABLES: &str =
    "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX2,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM,-RTM,-SSSE3";

/// Caches as many processors have them: 32 KiB first level, 1 MiB below it. They are named, so that those of this
/// machine are not taken.
const CACHES: [&str; 4] = ["--cache-sim=yes", "--I1=32768,8,64", "--D1=32768,8,64", "--LL=1048576,16,64"];

/// What an event takes.
#[derive(Clone, Debug)]
pub(crate) struct Count {
    pub(crate) name: String,
    pub(crate) events: f64,
    pub(crate) instructions: f64,
    /// Data accesses that missed the first level.
    pub(crate) first_misses: f64,
    /// Data accesses that missed the last level.
    pub(crate) last_misses: f64,
}

pub(crate) struct Callgrind {
    valgrind: PathBuf,
    program: PathBuf,
    tools: String,
}

impl Callgrind {
    pub(crate) fn find() -> Result<Self, String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let valgrind = std::env::split_paths(&path)
            .map(|folder| folder.join("valgrind"))
            .find(|file| file.is_file())
            .ok_or("valgrind is not there; install it: apt-get install --no-install-recommends valgrind")?;
        let program = std::env::current_exe().map_err(|error| format!("this program's path: {error}"))?;
        let [rustc, checker] = [Path::new("rustc"), &valgrind].map(version);
        Ok(Self { tools: format!("{}, {}", rustc?, checker?), valgrind, program })
    }

    /// Compiler and valgrind with their versions: what counts depend on beside the code.
    pub(crate) fn tools(&self) -> &str {
        &self.tools
    }

    /// Runs one benchmark.
    pub(crate) fn count(&self, name: &str, seed: u64) -> Result<Count, String> {
        let out = self.program.with_file_name(format!("callgrind.{name}.out"));
        // What an earlier run left must not be taken for what this one has counted.
        let _ = std::fs::remove_file(&out);
        let done = Command::new(&self.valgrind)
            .args(["--tool=callgrind", "--quiet", &format!("--toggle-collect={COUNTED}")])
            .args(CACHES)
            .arg(format!("--callgrind-out-file={}", out.display()))
            .arg(&self.program)
            .args(["--run", name, "--seed", &seed.to_string()])
            // The environment lies on the stack and would move it.
            .env_clear()
            .env("GLIBC_TUNABLES", TUNABLES)
            .output()
            .map_err(|error| format!("{}: {error}", self.valgrind.display()))?;
        let [stdout, stderr] = [&done.stdout, &done.stderr].map(|bytes| String::from_utf8_lossy(bytes));
        if !done.status.success() {
            return Err(format!("{name} under valgrind: {}\n{stdout}{stderr}", done.status));
        }
        let events = stdout.trim().parse().map_err(|error| format!("{name} said {stdout:?}: {error}"))?;
        let text = std::fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        parse(name, events, &text)
    }
}

fn version(program: &Path) -> Result<String, String> {
    let name = program.display();
    let done = Command::new(program).arg("--version").output().map_err(|error| format!("{name}: {error}"))?;
    // "rustc 1.95.0 (59807616e 2026-04-14)", "valgrind-3.19.0"
    let text = String::from_utf8_lossy(&done.stdout).replacen("valgrind-", "valgrind ", 1);
    Ok(text.split_whitespace().take(2).collect::<Vec<_>>().join(" "))
}

/// Reads callgrind's file: a line with the names of what was counted, and one with the sums.
fn parse(name: &str, events: u64, text: &str) -> Result<Count, String> {
    let words = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map(|line| line.split_whitespace().collect::<Vec<_>>()).ok_or(format!("{name}: no {key:?}"))
    };
    let (kinds, sums) = (words("events:")?, words("totals:")?);
    let sum = |kind: &str| -> Result<f64, String> {
        let at = kinds.iter().position(|known| *known == kind);
        // Callgrind leaves zeros at the end out.
        let word = sums.get(at.ok_or(format!("{name}: {kind} was not counted"))?).unwrap_or(&"0");
        word.parse::<u64>().map(|sum| sum as f64).map_err(|error| format!("{name}: {word:?}: {error}"))
    };
    let each = |sum: f64| sum / events as f64;
    let instructions = sum("Ir")?;
    if events == 0 || instructions == 0.0 {
        return Err(format!("{name}: nothing was counted; is the function {COUNTED} still there?"));
    }
    Ok(Count {
        name: name.to_owned(),
        events: events as f64,
        instructions: each(instructions),
        first_misses: each(sum("D1mr")? + sum("D1mw")?),
        last_misses: each(sum("DLmr")? + sum("DLmw")?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sums_are_divided_by_the_events() {
        let text =
            "version: 1\nevents: Ir Dr D1mr D1mw DLmr DLmw\nfn=(1) x\n1 2\n\ntotals: 1000 500 40 20 10\n";
        let count = parse("get", 10, text).unwrap();
        assert_eq!((count.instructions, count.first_misses, count.last_misses), (100.0, 6.0, 1.0));
    }

    #[test]
    fn counting_nothing_is_an_error() {
        let text = "events: Ir D1mr D1mw DLmr DLmw\ntotals: 0\n";
        assert!(parse("get", 10, text).unwrap_err().contains(COUNTED));
        assert!(parse("get", 10, "events: Ir\n").is_err());
    }
}
