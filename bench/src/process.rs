//! The programs under test: started on their CPU, asked what they cost, ended in any case.

use crate::Result;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a program may take to end when it is asked to.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// Keeps this thread, and what it starts from now on, on these CPUs.
pub(crate) fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    cpus.iter().for_each(|cpu| set.set(*cpu));
    sched_setaffinity(None, &set).map_err(|error| format!("cannot pin to CPUs {cpus:?}: {error}"))?;
    Ok(())
}

/// CPU time used so far by all threads of a process, in nanoseconds of the scheduler's own accounting.
pub(crate) fn cpu_time_of(id: u32) -> Duration {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten() {
        let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        total += text.split(' ').next().and_then(|run| run.parse::<u64>().ok()).unwrap_or(0);
    }
    Duration::from_nanos(total)
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
                eprintln!("{} does not end by itself", self.name);
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}
