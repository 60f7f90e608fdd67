//! The `ai-proxy` command: words to a command, its exit code to the system. The home of the allocator.

use ai_proxy::command::{Command, refuse_arguments};
use std::process::ExitCode;

/// Per open stream jemalloc needs two thirds of what glibc's allocator does, and it gives memory back.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match Command::parse(lexopt::Parser::from_env()) {
        Ok(command) => command.run(),
        Err(error) => refuse_arguments(&error),
    }
}
