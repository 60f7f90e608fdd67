//! Sees when CPUs have nothing left to do, and takes nothing from who works on them.
//!
//! Whoever looks at a busy machine from outside needs a CPU for it, which the busy ones then lack, or gets one too late.
//! Here a thread on each CPU reads the clock without a pause, in the scheduler's class for what runs only where nobody else
//! wants to (`SCHED_IDLE`, sched(7)). A gap between two readings is somebody else's work, and the end of the last gap is
//! when the work was done.

use crate::Result;
use crate::process::{pin, run_only_when_idle};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Two readings so far apart have somebody's work in between, and not just an interrupt.
const GAP: u64 = 20_000;
/// Work is done when no CPU has had any for so long.
const QUIET: u64 = 500_000;

/// Watches CPUs. Dropping this ends its threads.
pub(crate) struct IdleWatch {
    threads: Vec<JoinHandle<()>>,
    shared: Arc<Shared>,
    /// Which question it answers, and when the work was done.
    ends: mpsc::Receiver<(u64, u64)>,
    asked: Cell<u64>,
}

/// All times are nanoseconds since the epoch.
struct Shared {
    epoch: Instant,
    /// The number of the question when work ends; 0 is none.
    question: AtomicU64,
    is_dropped: AtomicBool,
    cpus: Vec<Cpu>,
}

/// What was seen on one CPU, in cache lines of its own, as it is written all the time.
#[derive(Default)]
#[repr(align(128))]
struct Cpu {
    last_reading: AtomicU64,
    busy_until: AtomicU64,
}

impl IdleWatch {
    /// Watches these CPUs from now on.
    ///
    /// # Errors
    ///
    /// There is no such CPU, or a thread cannot be given that class.
    pub(crate) fn of(cpus: &[usize]) -> Result<Self> {
        let shared = Shared::new(cpus.iter().map(|_| Cpu::default()).collect());
        let (say_end, ends) = mpsc::channel();
        let (say_ready, ready) = mpsc::channel();
        let mut watch = Self { threads: Vec::new(), shared: Arc::new(shared), ends, asked: Cell::new(0) };
        for (number, cpu) in cpus.iter().copied().enumerate() {
            let (shared, say_end, say_ready) = (watch.shared.clone(), say_end.clone(), say_ready.clone());
            watch.threads.push(std::thread::spawn(move || {
                let prepared = pin(&[cpu]).and_then(|()| run_only_when_idle());
                let is_ready = prepared.is_ok();
                let _ = say_ready.send(prepared.map_err(|error| error.to_string()));
                if is_ready {
                    shared.watch(number, &say_end);
                }
            }));
            ready.recv()??;
        }
        Ok(watch)
    }

    /// How long it takes, from when this begins something, until none of the CPUs has had work for a while, without that
    /// while; `None` if there is no end to it within the limit. The calling thread sleeps meanwhile.
    ///
    /// # Errors
    ///
    /// It cannot be begun.
    pub(crate) fn until_idle(&self, limit: Duration, begin: impl FnOnce() -> Result<()>) -> Result<Option<Duration>> {
        let question = self.asked.get() + 1;
        self.asked.set(question);
        let begun = self.shared.now();
        self.shared.cpus.iter().for_each(|cpu| cpu.busy_until.store(begun, Ordering::Relaxed));
        begin()?;
        self.shared.question.store(question, Ordering::Release);
        let deadline = Instant::now() + limit;
        let end = loop {
            match self.ends.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((of, end)) if of == question => break Some(end),
                // To one that was asked before, and came at its limit.
                Ok(_) => {}
                Err(_) => break None,
            }
        };
        self.shared.question.store(0, Ordering::Release);
        Ok(end.map(|end| Duration::from_nanos(end.saturating_sub(begun))))
    }
}

impl Drop for IdleWatch {
    fn drop(&mut self) {
        self.shared.is_dropped.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(cpus: Vec<Cpu>) -> Self {
        Self { epoch: Instant::now(), question: AtomicU64::new(0), is_dropped: AtomicBool::new(false), cpus }
    }

    /// Watches a CPU, and says when all are done if that is awaited.
    fn watch(&self, number: usize, say_end: &mpsc::Sender<(u64, u64)>) {
        let cpu = &self.cpus[number];
        let mut last = self.now();
        while !self.is_dropped.load(Ordering::Acquire) {
            let now = self.now();
            if now - last > GAP {
                cpu.busy_until.store(now, Ordering::Relaxed);
            }
            last = now;
            // Whoever sees this reading sees the gap before it.
            cpu.last_reading.store(now, Ordering::Release);
            let question = self.question.load(Ordering::Acquire);
            if question > 0
                && let Some(end) = self.end_of_work(now)
                && self.question.compare_exchange(question, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            {
                let _ = say_end.send((question, end));
            }
            // A kernel that preempts lazily takes the CPU from a thread when it returns from a system call, or at the
            // next tick, which would be milliseconds later.
            std::thread::yield_now();
        }
    }

    /// When the last work was done, if no CPU has any at this time.
    fn end_of_work(&self, now: u64) -> Option<u64> {
        let mut end = 0;
        for cpu in &self.cpus {
            let last_reading = cpu.last_reading.load(Ordering::Acquire);
            let busy_until = cpu.busy_until.load(Ordering::Relaxed);
            // Where nothing was read of late somebody works at this moment.
            if now.saturating_sub(last_reading) > GAP || now.saturating_sub(busy_until) < QUIET {
                return None;
            }
            end = end.max(busy_until);
        }
        Some(end)
    }

    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(readings: [(u64, u64); 2]) -> Shared {
        let cpu = |(last_reading, busy_until)| Cpu {
            last_reading: AtomicU64::new(last_reading),
            busy_until: AtomicU64::new(busy_until),
        };
        Shared::new(readings.map(cpu).into())
    }

    #[test]
    fn work_has_ended_when_no_cpu_has_had_any_for_a_while() {
        let now = 10_000_000;
        for (readings, end) in [
            ([(now, 7_000_000), (now - 1000, 9_000_000)], Some(9_000_000)),
            // Too short ago.
            ([(now, 7_000_000), (now - 1000, now - QUIET + 1)], None),
            // Quiet for long until somebody came.
            ([(now, 7_000_000), (now - GAP - 1, 5_000_000)], None),
        ] {
            assert_eq!(shared(readings).end_of_work(now), end, "{readings:?}");
        }
    }

    #[test]
    fn what_cannot_begin_is_no_work_and_a_limit_is_one() {
        let cpus = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..1024).find(|cpu| cpus.is_set(*cpu)).unwrap();
        let watch = IdleWatch::of(&[cpu]).unwrap();
        assert_eq!(watch.until_idle(Duration::ZERO, || Err("no".into())).unwrap_err().to_string(), "no");
        let nobody = IdleWatch::of(&[]).unwrap();
        assert_eq!(nobody.until_idle(Duration::ZERO, || Ok(())).unwrap(), None);
    }
}
