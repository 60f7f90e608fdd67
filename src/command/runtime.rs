//! The threads that commands run on.

use crate::log::Log;
use std::io;
use std::process::ExitCode;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;

/// How long tasks that are still running have at the end.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// A runtime for each CPU, each on one thread, of which the first is the one that runs the command.
pub(super) struct Runtimes {
    first: Runtime,
    others: Vec<Other>,
}

/// A runtime on a thread of its own.
struct Other {
    handle: Handle,
    thread: JoinHandle<()>,
    /// Ends it when it is dropped.
    running: oneshot::Sender<()>,
}

impl Runtimes {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has no threads or descriptors for them.
    pub(super) fn start() -> io::Result<Self> {
        choose_cryptography();
        let first = Builder::new_current_thread().enable_all().build()?;
        let others = (1..cpus()).map(Other::start).collect::<io::Result<_>>()?;
        Ok(Self { first, others })
    }

    /// All of them, this thread's first.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let others = self.others.iter().map(|other| &other.handle);
        [self.first.handle()].into_iter().chain(others).cloned().collect()
    }

    /// Runs something on this thread.
    pub(super) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.first.block_on(future)
    }

    /// Runs the gateway to its end and writes the last log lines.
    pub(super) fn block_on_gateway(self, gateway: impl Future<Output = Result<Log, ExitCode>>) -> ExitCode {
        let ended = self.first.block_on(gateway);
        // Tasks that are dropped here still write their log lines.
        let threads: Vec<_> = self.others.into_iter().map(Other::stop).collect();
        self.first.shutdown_timeout(SHUTDOWN);
        for thread in threads {
            let _ = thread.join();
        }
        match ended {
            Ok(log) => {
                log.flush();
                ExitCode::SUCCESS
            }
            Err(code) => code,
        }
    }
}

impl Other {
    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel();
        let run = move || {
            let _ = runtime.block_on(stopped);
            runtime.shutdown_timeout(SHUTDOWN);
        };
        let thread = thread::Builder::new().name(format!("worker-{number}")).spawn(run)?;
        Ok(Self { handle, thread, running })
    }

    /// Tells it to end, without waiting for that.
    fn stop(self) -> JoinHandle<()> {
        drop(self.running);
        self.thread
    }
}

/// One runtime on as many threads as there are CPUs, for what is not a gateway.
///
/// # Errors
/// When the system has no threads or descriptors for it.
pub(super) fn start_runtime() -> io::Result<Runtime> {
    choose_cryptography();
    Builder::new_multi_thread().enable_all().build()
}

/// Google's library looks for the process's provider.
fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
