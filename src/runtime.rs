//! Runtimes: each on one thread, with no queue that another thread looks into.
//!
//! Tokio's scheduler for several threads is nowhere asked for, so that none of it is in the program.

use std::io;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use tokio::runtime::{Builder, Handle, LocalOptions, LocalRuntime};
use tokio::sync::oneshot;

/// A runtime for this thread.
///
/// # Errors
/// When the system has no descriptors for it.
pub(crate) fn on_this_thread() -> io::Result<LocalRuntime> {
    Builder::new_current_thread().enable_all().build_local(LocalOptions::default())
}

/// A runtime on a thread of its own, which end when this is dropped.
#[derive(Debug)]
pub(crate) struct RuntimeThread {
    handle: Handle,
    thread: JoinHandle<()>,
    /// Ends it when it is dropped.
    running: oneshot::Sender<()>,
}

impl RuntimeThread {
    /// Starts it. In the end what blocks has `patience` to come to its own end.
    ///
    /// # Errors
    /// When the system has no thread or no descriptors for it.
    pub(crate) fn start(name: String, patience: Duration) -> io::Result<Self> {
        let (running, stopped) = oneshot::channel();
        let (tell, told) = mpsc::sync_channel(1);
        let run = move || match on_this_thread() {
            Ok(runtime) => {
                let _ = tell.send(Ok(runtime.handle().clone()));
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(patience);
            }
            Err(error) => {
                let _ = tell.send(Err(error));
            }
        };
        let thread = thread::Builder::new().name(name).spawn(run)?;
        let handle = told.recv().map_err(io::Error::other)??;
        Ok(Self { handle, thread, running })
    }

    /// Where tasks are given to it.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Tells it to end, without waiting for that.
    pub(crate) fn stop(self) -> JoinHandle<()> {
        drop(self.running);
        self.thread
    }
}
