//! The programs under test: started on their CPU, asked what they cost, ended in any case.

use crate::Result;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, gettid, sched_setaffinity};
use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end when it is asked to.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// How often it is looked whether a program has come to a stop.
const PAUSE_INTERVAL: Duration = Duration::from_micros(50);
const PAUSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Keeps this thread, and what it starts from now on, on these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    keep_on(None, cpus)
}

/// Keeps a thread on these CPUs, or this one.
fn keep_on(thread: Option<Pid>, cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(thread, &set).map_err(|error| format!("cannot pin to CPUs {cpus:?}: {error}"))?;
    Ok(())
}

/// This thread runs only where nobody else wants to, from now on.
pub(crate) fn run_only_when_idle() -> Result<()> {
    let mut command = Command::new("chrt");
    command.args(["--idle", "--pid", "0"]).arg(gettid().to_string());
    let output = command.output().map_err(|error| format!("chrt: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("chrt: {}", String::from_utf8_lossy(&output.stderr).trim()).into())
    }
}

/// Whether the terminal's end means nothing to this process.
pub(crate) fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|signals| u64::from_str_radix(signals.trim(), 16).ok()).unwrap_or(0);
    ignored >> (Signal::HUP.as_raw() - 1) & 1 == 1
}

/// CPU time used so far by all threads of a process, in nanoseconds of the scheduler's own accounting.
pub(crate) fn cpu_time_of(id: u32) -> Duration {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
        total += run_time(&task.path());
    }
    Duration::from_nanos(total)
}

/// The CPU time of the thread with this folder, in nanoseconds.
fn run_time(task: &Path) -> u64 {
    let text = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|run| run.parse().ok()).unwrap_or(0)
}

/// A program with its children. Dropping it ends it.
pub(crate) struct Process {
    child: Child,
    name: String,
}

/// What a process and its children hold, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts a program on these CPUs. It has the standard input that its command has by then; what it says on stderr is
    /// shown.
    pub(crate) fn start(command: &mut Command, cpus: &[usize]) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::null());
        // A child runs where the thread that starts it runs.
        let child = std::thread::scope(|scope| {
            let starting = scope.spawn(|| -> std::result::Result<Child, String> {
                pin(cpus).map_err(|error| error.to_string())?;
                command.spawn().map_err(|error| format!("{name}: {error}"))
            });
            starting.join().unwrap_or_else(|_| Err("the starting thread failed".into()))
        })?;
        Ok(Self { child, name })
    }

    /// Fails when the program has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("{} ended: {status}", self.name).into()),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The process and its children; nginx has a master that does nothing and a worker.
    fn ids(&self) -> Vec<u32> {
        let mut ids = vec![self.child.id()];
        let mut next = 0;
        while let Some(id) = ids.get(next).copied() {
            let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
            for task in tasks {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                ids.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
            next += 1;
        }
        ids
    }

    /// All its threads, for as long as there are no others.
    pub(crate) fn threads(&self) -> Result<Threads> {
        let (mut processes, mut states) = (Vec::new(), Vec::new());
        for id in self.ids() {
            processes.extend(i32::try_from(id).ok().and_then(Pid::from_raw));
            for task in fs::read_dir(format!("/proc/{id}/task"))? {
                states.push(File::open(task?.path().join("stat"))?);
            }
        }
        Ok(Threads { processes, states })
    }

    /// CPU time used so far by all threads of all its processes.
    pub(crate) fn cpu_time(&self) -> Duration {
        self.ids().into_iter().map(cpu_time_of).sum()
    }

    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::default();
        for id in self.ids() {
            let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
            let bytes = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
                kibibytes.unwrap_or(0) * 1024
            };
            memory.resident += bytes("VmRSS:");
            memory.peak += bytes("VmHWM:");
        }
        memory
    }

    /// Asks it to end, and waits for that.
    pub(crate) fn end(&mut self) {
        if let Some(id) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // It may have ended already.
            let _ = kill_process(id, Signal::TERM);
        }
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                // The terminal may be gone.
                let _ = writeln!(std::io::stderr(), "{} does not end by itself", self.name);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The threads of a program, which can be kept from running. Dropping this lets them run.
pub(crate) struct Threads {
    processes: Vec<Pid>,
    /// What the kernel says of each of them.
    states: Vec<File>,
}

impl Threads {
    /// Lets none of them run, until [`go_on`](Self::go_on).
    pub(crate) fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        let deadline = Instant::now() + PAUSE_TIMEOUT;
        while !self.are_stopped() {
            if Instant::now() > deadline {
                return Err("a program does not stop".into());
            }
            std::thread::sleep(PAUSE_INTERVAL);
        }
        Ok(())
    }

    pub(crate) fn go_on(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Keeps the threads that have used most CPU time so far on one CPU each, of these.
    pub(crate) fn spread(&self, cpus: &[usize]) -> Result<()> {
        let mut by_time = Vec::new();
        for process in &self.processes {
            for task in fs::read_dir(format!("/proc/{process}/task"))? {
                let folder = task?.path();
                let name = folder.file_name().and_then(OsStr::to_str).unwrap_or_default();
                let thread = name.parse().ok().and_then(Pid::from_raw).ok_or("a task that is no number")?;
                by_time.push((run_time(&folder), thread));
            }
        }
        by_time.sort_unstable_by_key(|(time, _)| Reverse(*time));
        for ((_, thread), cpu) in by_time.iter().zip(cpus) {
            keep_on(Some(*thread), &[*cpu])?;
        }
        Ok(())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        for process in &self.processes {
            kill_process(*process, signal)?;
        }
        Ok(())
    }

    /// Whether each of them is stopped, or has ended.
    fn are_stopped(&self) -> bool {
        self.states.iter().all(|file| {
            let mut text = [0; 64];
            let Ok(count) = file.read_at(&mut text, 0) else { return true };
            // A number, a name in brackets, the state.
            let name_end = text[..count].iter().rposition(|byte| *byte == b')');
            name_end.and_then(|end| text.get(end + 2)).is_some_and(|state| *state == b'T')
        })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // They may have ended already.
        let _ = self.go_on();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
