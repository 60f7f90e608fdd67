//! What a gateway gives up when it starts, so that what it holds is harder to read out of it.
//!
//! Its memory holds a bearer and, in requests under way, keys and prompts; the environment it was started with may hold
//! all keys. No core dump writes that to a disk, no other process of the same user attaches to it or reads its
//! environment in `/proc`, and nothing that it starts gains privileges. Only `serve` and `dev` do this, before they
//! start a thread: what is set here for a thread holds for those that it starts. (The allocator's own is older, and
//! starts no program.) Other commands may run programs that need privileges, as packaged gcloud does.

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, setrlimit};
#[cfg(target_os = "linux")]
use rustix::{process::DumpableBehavior, process::set_dumpable_behavior, thread::set_no_new_privs};

/// Does what the platform allows. What it refuses stops nobody from serving and is told, one sentence each.
pub(super) fn apply() -> Vec<String> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let steps: [(&str, Result<(), Errno>); _] = [
        ("core dumps cannot be switched off", setrlimit(Resource::Core, none)),
        #[cfg(target_os = "linux")]
        ("others of this user may read the process's memory", set_dumpable_behavior(DumpableBehavior::NotDumpable)),
        #[cfg(target_os = "linux")]
        ("programs that it starts may gain privileges", set_no_new_privs(true)),
    ];
    let refused = steps.into_iter().filter_map(|(gap, step)| step.err().map(|error| (gap, error)));
    refused.map(|(gap, error)| format!("the system refuses a protection, {gap}: {error}")).collect()
}
