//! What Linux says of the process, under the names that all Prometheus clients use.

use super::text::{Kind, Text};
use std::fs;

/// How Linux counts a process's time, in parts of a second: the same on all of its platforms.
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends what is known; elsewhere than on Linux that is nothing.
pub(super) fn append(text: &mut Text) {
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat)) {
        let help = "User and system time spent, in seconds.";
        text.single("process_cpu_seconds_total", Kind::Counter, help, seconds);
    }
    if let Some(bytes) = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status)) {
        text.single("process_resident_memory_bytes", Kind::Gauge, "Resident memory, in bytes.", bytes);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.single("process_open_fds", Kind::Gauge, "Open file descriptors.", files.count());
    }
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // The name in the second field may hold anything, but the last bracket ends it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        let stat = "42 (a) b) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 1 1 1";
        assert_eq!(cpu_seconds(stat), Some(2.0));
        assert_eq!(cpu_seconds("42 (a"), None);
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2048 * 1024));
        assert_eq!(resident_bytes("VmRSS:\t many\n"), None);
    }
}
