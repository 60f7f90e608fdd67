//! Threads that serve, each with a runtime and with connections to upstream of its own.
//!
//! A client's connection stays on one thread from its first byte to its last, and so do its requests and what carries
//! them up: nothing on a request's path wakes another thread, waits for one, or is fetched from another CPU's cache. The
//! price is that a hundred streams on two threads are on two connections to upstream, not on one.

use crate::App;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpStream;

/// All threads that serve. The first is the one that accepts.
pub(crate) struct Workers {
    workers: Vec<Worker>,
}

/// One of them.
struct Worker {
    app: Arc<App>,
    /// Clients' connections that are on this thread.
    connections: Arc<AtomicUsize>,
}

impl Workers {
    /// One for each runtime, with what its requests share.
    pub(crate) fn new(apps: Vec<Arc<App>>) -> Self {
        let worker = |app| Worker { app, connections: Arc::default() };
        Self { workers: apps.into_iter().map(worker).collect() }
    }

    /// What they share, as this thread has it.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.workers[0].app
    }

    /// Has a new connection served by the thread that has the fewest; of several by the first, whose connections to
    /// upstream are most likely to be warm.
    pub(crate) fn serve<F>(&self, stream: TcpStream, connection: impl FnOnce(Arc<App>, TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let loads = self.workers.iter().map(|worker| worker.connections.load(Ordering::Relaxed)).enumerate();
        let index = loads.min_by_key(|(_, load)| *load).map_or(0, |(index, _)| index);
        let Worker { app, connections } = &self.workers[index];
        let (app, counted) = (app.clone(), Counted::among(connections));
        if index == 0 {
            tokio::spawn(async move {
                connection(app, stream).await;
                drop(counted);
            });
            return;
        }
        // Its readiness is that other thread's business from here on. Failures are those of a system without memory or
        // descriptors, in which a new connection ends at once elsewhere too.
        let Ok(stream) = stream.into_std() else { return };
        self.app().runtimes[index].spawn(async move {
            if let Ok(stream) = TcpStream::from_std(stream) {
                connection(app, stream).await;
            }
            drop(counted);
        });
    }
}

/// One of a thread's connections, as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn among(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
