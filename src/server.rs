//! The accept loop, and how it stops.

use crate::App;
use crate::access_log::{Record, RequestId};
use crate::error::ApiError;
use crate::http1::{Connection, Exchange, Head, Next};
use crate::log::Severity;
use crate::routes;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

/// A silent client is asked after this long whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
/// How often it is asked again; after a few times without an answer the kernel ends the connection.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Rest after a failed accept: out of descriptors, most likely, and some may come free.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How long cut requests have for their last bytes.
const CUT_TIMEOUT: Duration = Duration::from_millis(500);

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Running,
    /// No new requests; running ones finish.
    Draining,
    /// Running requests are cut.
    Cutting,
}

/// What every connection watches.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Phase>);

impl Stop {
    /// The phase at this moment.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the stop has come so far.
    pub async fn reached(&mut self, phase: Phase) {
        // The sender lives as long as the accept loop; without it everything ends anyway.
        let _ = self.0.wait_for(|now| *now >= phase).await;
    }
}

/// Serves until `shutdown` resolves, then drains.
pub async fn serve(app: Arc<App>, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let (phase, watcher) = watch::channel(Phase::Running);
    let stop = Stop(watcher);
    // Every connection holds a sender: when the last is gone, the receiver says so.
    let (alive, mut all_gone) = mpsc::channel::<()>(1);
    let mut shutdown = std::pin::pin!(shutdown);
    let mut failing = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                prepare(&stream);
                let (app, stop, alive) = (app.clone(), stop.clone(), alive.clone());
                tokio::spawn(async move {
                    carry(app, stream, stop).await;
                    drop(alive);
                });
            }
            // The client went away before it was accepted: nothing is short.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
            }
            Err(error) => {
                if !failing {
                    app.log.event(Severity::Error, &format!("cannot accept connections at the moment: {error}"));
                }
                failing = true;
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
    // Told first, so that whoever finds the port closed gets no answer any more that invites another request.
    phase.send_replace(Phase::Draining);
    drop(listener);
    drop(alive);
    app.log.event(Severity::Info, "stopping: running requests may finish");
    if tokio::time::timeout(app.shutdown_grace, all_gone.recv()).await.is_err() {
        phase.send_replace(Phase::Cutting);
        let _ = tokio::time::timeout(CUT_TIMEOUT, all_gone.recv()).await;
    }
}

fn prepare(stream: &TcpStream) {
    // Without it Nagle's algorithm holds small pieces back for up to 40 ms. Failures show on first use.
    let _ = stream.set_nodelay(true);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_INTERVAL);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive);
}

/// One connection from its first request to its last.
async fn carry(app: Arc<App>, stream: TcpStream, stop: Stop) {
    let mut connection = Connection::new(stream, stop);
    loop {
        let head = connection.next_head().await;
        if matches!(head, Ok(None)) {
            return;
        }
        // In a box, so that a connection which waits for a request is small.
        match Box::pin(exchange(&app, &mut connection, head)).await {
            Next::RequestAfter(unread) if connection.discard(unread).await => {}
            Next::RequestAfter(_) | Next::Close => return connection.close().await,
            Next::Drop => return,
            Next::Abort => return connection.abort(),
        }
    }
}

/// One request and its answer. Its log line is written when this ends.
async fn exchange(app: &Arc<App>, connection: &mut Connection, head: Result<Option<Head>, ApiError>) -> Next {
    let mut record = Record::start(app.log.clone(), app.project.clone(), RequestId::next(app.process));
    let (head, unreadable) = match head {
        Ok(head) => (head.unwrap_or_else(Head::unreadable), None),
        Err(error) => (Head::unreadable(), Some(error)),
    };
    record.note_head(&head);
    let mut exchange = Exchange::new(connection, head, record, &app.cors);
    let result = match unreadable {
        None => routes::answer(app, &mut exchange).await,
        Some(error) => Err(error.into()),
    };
    exchange.finish(result).await
}
