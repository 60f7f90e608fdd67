//! Lines on stdout, written by a thread of their own, so that a slow or closed stdout never stops serving.
//!
//! JSON for machines, short lines for a terminal. What happens to requests is `access_log`. Each thread that serves has a
//! queue of its own for its lines, so that nothing of it is fetched from another CPU's cache; the writing thread empties
//! them one after the other.

use serde::Serialize;
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait while stdout is blocked, in bytes of all queues, in equal shares as long as these are no smaller than
/// the least one. More are dropped and counted.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
/// A queue's share at least: where threads are many, one that is busy has some time until its lines are written.
const MIN_SHARE_BYTES: usize = 1024 * 1024;
/// What a queue's memory is not made smaller than, in bytes.
const MIN_KEPT_BYTES: usize = 64 * 1024;
/// After each write the thread rests this long, so that under load one wake-up serves many lines.
const REST: Duration = Duration::from_millis(5);
/// How long the end of the process waits for a stdout that is slow.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

thread_local! {
    /// Where this thread writes a line.
    static LINE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Cloud Logging's severities, those that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Severity {
    /// As it should be.
    Info,
    /// Somebody should have a look.
    Warning,
    /// Something failed.
    Error,
}

impl Severity {
    /// Its name in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warning => "WARNING",
            Self::Error => "ERROR",
        }
    }
}

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One JSON object each.
    Json,
    /// Short lines for a terminal.
    Human,
}

/// The log. Clones write to the same queue.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    style: Style,
}

#[derive(Debug, Default)]
struct Shared {
    /// Whether the writing thread sleeps until it is woken, and nobody has woken it yet.
    thread_sleeps: AtomicBool,
    /// A queue's share, in bytes.
    max_of_queue: AtomicUsize,
    queues: Mutex<Vec<Arc<Queue>>>,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// Whether the thread has lines in its hands.
    thread_writes: bool,
    flushing: bool,
}

/// Lines that wait.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// Lines that had no room behind these.
    lost: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.lost == 0
    }
}

#[derive(Serialize)]
struct Event<'a> {
    severity: Severity,
    message: &'a str,
    time: jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

impl Log {
    /// Starts the writing thread on stdout. On a terminal the lines are for people.
    #[must_use]
    pub fn to_stdout() -> Self {
        let style = if io::stdout().is_terminal() { Style::Human } else { Style::Json };
        Self::start(style, io::stdout())
    }

    /// Starts the writing thread.
    #[must_use]
    pub fn start(style: Style, sink: impl Write + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        // Without its thread the log fills up and drops lines; serving goes on.
        let _ = thread::Builder::new().name("log".into()).spawn(move || of_thread.write_lines(style, sink));
        Self { queue: shared.add_queue(), shared, style }
    }

    /// The same log, with another queue: for another thread, and out of memory of whoever calls. Lines of two queues may
    /// be written in another order than they came.
    #[must_use]
    pub fn of_another_thread(&self) -> Self {
        Self { shared: self.shared.clone(), queue: self.shared.add_queue(), style: self.style }
    }

    /// How lines should look.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Adds one line, its line feed included. `write` appends it.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        // It is written before the lock is taken: who writes it may fail, and fail by a panic that is logged.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        write(&mut line);
        self.add(&line);
        line.clear();
        // A thread that is about to end has no place for it any more.
        let _ = LINE.try_with(|place| place.set(line));
    }

    fn add(&self, line: &[u8]) {
        {
            let mut waiting = self.queue.lock();
            if waiting.lines.len() >= self.shared.max_of_queue.load(Ordering::Relaxed) {
                waiting.lost += 1;
                return;
            }
            waiting.lines.extend_from_slice(line);
        }
        // Behind the queue's lock: either this is seen, or the thread sees the line before it sleeps. And once, since it
        // may take a while until the thread has a turn, and each call is a system call.
        let thread_sleeps = &self.shared.thread_sleeps;
        if thread_sleeps.load(Ordering::Relaxed) && thread_sleeps.swap(false, Ordering::Relaxed) {
            let _until_it_sleeps = self.shared.progress();
            self.shared.changed.notify_all();
        }
    }

    /// Says something that is not about one request.
    pub fn event(&self, severity: Severity, message: &str) {
        self.line(|lines| append_event(self.style, lines, severity, message, None));
    }

    /// Says where the gateway listens.
    pub fn listening(&self, scheme: &str, address: &str) {
        let message = format!("listening on {scheme}://{address}");
        self.line(|lines| append_event(self.style, lines, Severity::Info, &message, Some(address)));
    }

    /// Waits until all lines are written, for a second at most.
    pub fn flush(&self) {
        let deadline = Instant::now() + FLUSH_TIMEOUT;
        let mut progress = self.shared.progress();
        progress.flushing = true;
        while progress.thread_writes || self.shared.have_lines() {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            progress = self.shared.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        progress.flushing = false;
    }
}

impl Queue {
    /// A thread that panicked while it held the lock left whole lines behind, or one torn line at worst.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queues(&self) -> MutexGuard<'_, Vec<Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_queue(&self) -> Arc<Queue> {
        let queue = Arc::<Queue>::default();
        let mut queues = self.queues();
        queues.push(queue.clone());
        self.max_of_queue.store(MIN_SHARE_BYTES.max(MAX_WAITING_BYTES / queues.len()), Ordering::Relaxed);
        queue
    }

    fn have_lines(&self) -> bool {
        self.queues().iter().any(|queue| !queue.lock().is_empty())
    }

    fn write_lines(&self, style: Style, mut sink: impl Write) {
        // A queue's memory and this one change places, and stay with the queue's thread.
        let mut in_hands: Vec<Vec<u8>> = Vec::new();
        loop {
            self.sleep_without_lines(&mut in_hands);
            let queues = self.queues().clone();
            in_hands.resize_with(queues.len(), Vec::new);
            for (queue, lines) in queues.iter().zip(&mut in_hands) {
                let lost = {
                    let mut waiting = queue.lock();
                    if waiting.is_empty() {
                        waiting.lines.shrink_to(MIN_KEPT_BYTES);
                        lines.shrink_to(MIN_KEPT_BYTES);
                        continue;
                    }
                    std::mem::swap(lines, &mut waiting.lines);
                    std::mem::take(&mut waiting.lost)
                };
                if lost > 0 {
                    let message = format!("{lost} log lines were lost while stdout was blocked");
                    append_event(style, lines, Severity::Warning, &message, None);
                }
                // A closed stdout is nobody's business but its reader's.
                let _ = sink.write_all(lines).and_then(|()| sink.flush());
                // As much as was there may soon be there again.
                let kept = MIN_KEPT_BYTES.max(lines.len() * 2);
                lines.clear();
                lines.shrink_to(kept);
            }
            let mut progress = self.progress();
            progress.thread_writes = false;
            if progress.flushing {
                self.changed.notify_all();
            } else {
                // Not on the condition: a rest that is a moment in time is endless where a test hastens the clock.
                drop(progress);
                thread::sleep(REST);
            }
        }
    }

    /// Sleeps until there are lines, and says that they are in hands.
    fn sleep_without_lines(&self, in_hands: &mut [Vec<u8>]) {
        let mut progress = self.progress();
        loop {
            self.thread_sleeps.store(true, Ordering::Relaxed);
            if self.have_lines() {
                break;
            }
            // What a rush has left.
            in_hands.iter_mut().for_each(|lines| lines.shrink_to(MIN_KEPT_BYTES));
            self.queues().iter().for_each(|queue| queue.lock().lines.shrink_to(MIN_KEPT_BYTES));
            while self.thread_sleeps.load(Ordering::Relaxed) {
                progress = self.changed.wait(progress).unwrap_or_else(PoisonError::into_inner);
            }
        }
        self.thread_sleeps.store(false, Ordering::Relaxed);
        progress.thread_writes = true;
    }
}

fn append_event(style: Style, lines: &mut Vec<u8>, severity: Severity, message: &str, address: Option<&str>) {
    let time = jiff::Timestamp::now();
    match style {
        Style::Json => append_json(lines, &Event { severity, message, time, address }),
        Style::Human => {
            // Messages can quote a library's error: no control character of it reaches the terminal.
            let clean: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(lines, "{} {clean}", clock(time));
        }
    }
}

/// Appends one JSON line.
pub(crate) fn append_json(lines: &mut Vec<u8>, value: &impl Serialize) {
    let start = lines.len();
    match serde_json::to_writer(&mut *lines, value) {
        Ok(()) => lines.push(b'\n'),
        Err(_) => lines.truncate(start),
    }
}

/// The time of day for people, in UTC.
pub(crate) fn clock(time: jiff::Timestamp) -> String {
    let second = time.as_second().rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    struct Sink(mpsc::Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        /// A log that a test reads.
        pub(crate) fn to_channel() -> (Self, mpsc::Receiver<Vec<u8>>) {
            let (sender, receiver) = mpsc::channel();
            (Self::start(Style::Json, Sink(sender)), receiver)
        }
    }

    #[test]
    fn lines_arrive_whole_and_those_of_a_thread_in_order() {
        let (log, receiver) = Log::to_channel();
        let logs = [log.of_another_thread(), log.of_another_thread(), log.clone()];
        thread::scope(|scope| {
            for (thread, log) in logs.iter().enumerate() {
                scope.spawn(move || {
                    for number in 0..100 {
                        log.event(Severity::Info, &format!("{thread} {number} \n {{}}"));
                        thread::yield_now();
                    }
                });
            }
        });
        log.flush();
        let text = String::from_utf8(receiver.try_iter().flatten().collect()).unwrap();
        let lines: Vec<_> = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["severity"] == "INFO"));
        for thread in 0..logs.len() {
            let messages = lines.iter().map(|line| line["message"].as_str().unwrap());
            let own: Vec<_> = messages.filter(|message| message.starts_with(&format!("{thread} "))).collect();
            let expected: Vec<_> = (0..100).map(|number| format!("{thread} {number} \n {{}}")).collect();
            assert_eq!(own, expected);
        }
    }

    #[test]
    fn a_closed_sink_stops_nobody() {
        let (sender, receiver) = mpsc::channel();
        drop(receiver);
        let log = Log::start(Style::Human, Sink(sender));
        log.event(Severity::Error, "nobody reads this");
        log.flush();
    }

    /// A sink that takes nothing until its gate is dropped.
    struct Blocked(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_sink_loses_lines_and_nothing_else_and_that_is_told() {
        let (gate, closed) = mpsc::channel();
        let written = Arc::default();
        let log = Log::start(Style::Json, Blocked(closed, Arc::clone(&written)));
        let long = "x".repeat(100_000);
        // What two threads may leave is no more than what one may.
        let logs = [&log, &log.of_another_thread()];
        for log in logs {
            for _ in 0..200 {
                log.event(Severity::Info, &long);
            }
        }
        let waiting: usize = log.shared.queues().iter().map(|queue| queue.lock().lines.len()).sum();
        assert!((MAX_WAITING_BYTES..MAX_WAITING_BYTES + 400_000).contains(&waiting), "{waiting}");
        let lost = logs.map(|log| log.queue.lock().lost);
        assert!(lost.iter().all(|lost| *lost > 0), "{lost:?}");
        // Of each thread, and also where it says nothing more.
        drop(gate);
        log.flush();
        let written = written.lock().unwrap();
        let text = std::str::from_utf8(&written).unwrap();
        for lost in lost {
            let told = format!("{lost} log lines were lost");
            assert!(text.contains(&told), "{told}");
        }
        assert_eq!(text.lines().filter(|line| line.contains("xxx")).count() as u64, 400 - lost.iter().sum::<u64>());
    }

    #[test]
    fn what_a_rush_has_needed_is_given_back() {
        let (log, _receiver) = Log::to_channel();
        let quiet = log.of_another_thread();
        let long = "x".repeat(100_000);
        for log in [&log, &quiet] {
            for _ in 0..10 {
                log.event(Severity::Info, &long);
            }
        }
        log.flush();
        let deadline = Instant::now() + Duration::from_secs(60);
        let kept = || log.shared.queues().iter().map(|queue| queue.lock().lines.capacity()).max().unwrap();
        while kept() > MIN_KEPT_BYTES {
            assert!(Instant::now() < deadline, "{}", kept());
            thread::yield_now();
        }
    }
}
