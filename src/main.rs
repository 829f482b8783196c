//! The `onetrip` program: an allocator, and the command line.

use std::process::ExitCode;

/// Many small buffers come and go on every shard; mimalloc hands them out without a lock between threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    onetrip::cli::run(std::env::args_os()).into()
}
