//! The `ai-proxy` command.
fn main() {}
