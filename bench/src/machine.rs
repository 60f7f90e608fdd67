//! Where and of what a run was made.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

/// Under this name stands which build of the gateway it was.
pub(crate) const GATEWAY_DIGEST: &str = "gateway_sha256";
/// And under this one which build of the benchmark, with the others' configurations in it.
pub(crate) const BENCH_DIGEST: &str = "bench_sha256";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
}

impl Machine {
    /// To be asked before this thread is kept on one of its CPUs.
    pub(crate) fn here() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let names = cpuinfo.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: names.map(|(_, name)| name.to_owned()).next().unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

/// The machine's monotonic clock, in nanoseconds: the same in all its processes.
pub(crate) fn monotonic_nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// What a program says of its version.
pub(crate) fn version(program: &Path) -> String {
    said(&program.to_string_lossy(), &["--version"])
}

/// What the gateway's binary was built of, as far as this folder tells.
pub(crate) fn gateway_versions(gateway: &Path) -> BTreeMap<String, String> {
    let here = ["-C", env!("CARGO_MANIFEST_DIR")];
    let git = |words: &[&str]| said("git", &[&here[..], words].concat());
    let commit = git(&["rev-parse", "HEAD"]);
    let is_dirty = !git(&["status", "--porcelain", "--untracked-files=no"]).is_empty();
    BTreeMap::from([
        ("commit".to_owned(), if is_dirty { format!("{commit} with changes") } else { commit }),
        ("gateway".to_owned(), version(gateway)),
        (BENCH_DIGEST.to_owned(), digest(&std::env::current_exe().unwrap_or_default())),
        (GATEWAY_DIGEST.to_owned(), digest(gateway)),
        ("rustc".to_owned(), said("rustc", &["--version"])),
    ])
}

fn digest(file: &Path) -> String {
    let said = said("sha256sum", &[&file.to_string_lossy()]);
    said.split(' ').next().unwrap_or_default().to_owned()
}

fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
