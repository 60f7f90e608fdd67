//! Lines on stdout, written by a thread of their own, so that a slow or closed stdout never stops serving.
//!
//! JSON for machines, short lines for a terminal. What happens to requests is `access_log`.

use serde::Serialize;
use std::cell::Cell;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Lines that wait while stdout is blocked, in bytes. More are dropped and counted.
const MAX_WAITING_BYTES: usize = 4 * 1024 * 1024;
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

/// The log. Clones write to the same place.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    style: Style,
}

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    lost: u64,
    /// Whether the thread sleeps until it is woken, and nobody has woken it yet.
    thread_sleeps: bool,
    /// Whether the thread has lines in its hands.
    thread_writes: bool,
    flushing: bool,
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
        let _ = thread::Builder::new().name("log".into()).spawn(move || of_thread.write_lines(sink));
        Self { shared, style }
    }

    /// How lines should look.
    #[must_use]
    pub fn style(&self) -> Style {
        self.style
    }

    /// Adds one line, its line feed included. `write` appends it.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        // It is written before the lock is taken, which is held for no more than a copy.
        let mut line = LINE.try_with(Cell::take).unwrap_or_default();
        write(&mut line);
        self.add(&line);
        line.clear();
        // A thread that is about to end has no place for it any more.
        let _ = LINE.try_with(|place| place.set(line));
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.shared.lock();
        if waiting.lines.len() >= MAX_WAITING_BYTES {
            waiting.lost += 1;
            return;
        }
        if waiting.lost > 0 {
            let message = format!("{} log lines were lost while stdout was blocked", waiting.lost);
            waiting.lost = 0;
            append_event(self.style, &mut waiting.lines, Severity::Warning, &message, None);
        }
        waiting.lines.extend_from_slice(line);
        // Once: it may take a while until the thread has a turn, and each call is a system call.
        if std::mem::take(&mut waiting.thread_sleeps) {
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
        let mut waiting = self.shared.lock();
        waiting.flushing = true;
        self.shared.changed.notify_all();
        while !waiting.lines.is_empty() || waiting.thread_writes {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { break };
            waiting = self.shared.changed.wait_timeout(waiting, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        waiting.flushing = false;
    }
}

impl Shared {
    /// A thread that panicked while it held the lock left whole lines behind, or one torn line at worst.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_lines(&self, mut sink: impl Write) {
        let mut lines = Vec::new();
        let mut waiting = self.lock();
        loop {
            while waiting.lines.is_empty() {
                waiting.thread_sleeps = true;
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
            waiting.thread_sleeps = false;
            std::mem::swap(&mut lines, &mut waiting.lines);
            waiting.thread_writes = true;
            drop(waiting);
            // A closed stdout is nobody's business but its reader's.
            let _ = sink.write_all(&lines).and_then(|()| sink.flush());
            lines.clear();
            lines.shrink_to(64 * 1024);
            waiting = self.lock();
            waiting.thread_writes = false;
            if waiting.flushing {
                self.changed.notify_all();
            } else {
                // Not on the condition: a rest that is a moment in time is endless where a test hastens the clock.
                drop(waiting);
                thread::sleep(REST);
                waiting = self.lock();
            }
        }
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
    fn lines_arrive_whole_and_in_order() {
        let (log, receiver) = Log::to_channel();
        for number in 0..100 {
            log.event(Severity::Info, &format!("line {number} \n {{}}"));
        }
        log.flush();
        let text = String::from_utf8(receiver.try_iter().flatten().collect()).unwrap();
        let numbers: Vec<_> =
            text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect();
        assert_eq!(numbers.len(), 100);
        assert_eq!(numbers[99]["message"], "line 99 \n {}");
        assert_eq!(numbers[99]["severity"], "INFO");
    }

    #[test]
    fn a_closed_or_blocked_sink_loses_lines_and_nothing_else() {
        let (sender, receiver) = mpsc::channel();
        drop(receiver);
        let log = Log::start(Style::Human, Sink(sender));
        log.event(Severity::Error, "nobody reads this");
        log.flush();

        struct Blocked(mpsc::Receiver<()>);
        impl Write for Blocked {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (_hold, gate) = mpsc::channel();
        let log = Log::start(Style::Json, Blocked(gate));
        let long = "x".repeat(100_000);
        for _ in 0..200 {
            log.event(Severity::Info, &long);
        }
        assert!(log.shared.lock().lines.len() <= MAX_WAITING_BYTES + 200_000);
        assert!(log.shared.lock().lost > 0);
    }
}
