//! The benchmark with the allocator of the system.

fn main() -> std::process::ExitCode {
    peers::main()
}
