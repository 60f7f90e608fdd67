//! The process's limit of open files, which is each connection's too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Taken where there is no limit: as many as Linux allows a process unless it is told otherwise.
const UNLIMITED: u64 = 1 << 20;

/// Raises the limit to the hard one, which every process may do for itself, and says what it is then. The usual soft
/// limit of 1024 is for programs that call `select`.
pub fn raise_limit() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(UNLIMITED);
    if current.is_some_and(|current| current < wanted) {
        // macOS allows less than its hard limit says. What there is has to do then.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum });
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(UNLIMITED);
    usize::try_from(limit).unwrap_or(usize::MAX)
}
