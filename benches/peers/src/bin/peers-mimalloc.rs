//! The benchmark with mimalloc, which is an allocator for a whole program.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    peers::main()
}
