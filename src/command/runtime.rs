//! The threads that commands run on.

use crate::log::Log;
use crate::runtime::{RuntimeThread, on_this_thread};
use std::io;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use tokio::runtime::{Handle, LocalRuntime};

/// How long tasks that are still running have at the end.
const SHUTDOWN: Duration = Duration::from_millis(500);

/// A runtime for each CPU, each on one thread, of which the first is the one that runs the command.
pub(super) struct Runtimes {
    first: LocalRuntime,
    others: Vec<RuntimeThread>,
}

impl Runtimes {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has no threads or descriptors for them.
    pub(super) fn start() -> io::Result<Self> {
        let first = start_runtime()?;
        let other = |number| RuntimeThread::start(format!("worker-{number}"), SHUTDOWN);
        let others = (1..cpus()).map(other).collect::<io::Result<_>>()?;
        Ok(Self { first, others })
    }

    /// All of them, this thread's first.
    pub(super) fn handles(&self) -> Vec<Handle> {
        let others = self.others.iter().map(RuntimeThread::handle);
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
        let threads: Vec<_> = self.others.into_iter().map(RuntimeThread::stop).collect();
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

/// One runtime on this thread, for what is not a gateway.
///
/// # Errors
/// When the system has no descriptors for it.
pub(super) fn start_runtime() -> io::Result<LocalRuntime> {
    choose_cryptography();
    on_this_thread()
}

/// Google's library looks for the process's provider.
fn choose_cryptography() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

fn cpus() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
