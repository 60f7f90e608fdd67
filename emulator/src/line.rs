//! One connection of a client's: what carries it, what was decided about its end, and what is put on it that no HTTP
//! library would send.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::Notify;

use super::body::{Step, Steps};
use super::journal::{Ended, Recorder};
use crate::transport::Transport;

/// How HTTP/2 begins.
const HTTP2_BEGINS: &[u8] = b"PRI ";

/// What is known of a connection, by all its requests.
#[derive(Debug)]
pub(super) struct Line {
    /// Counted from 1.
    pub(super) number: u64,
    /// Whether the client is on this machine.
    pub(super) is_local: bool,
    ending: Mutex<Option<Ending>>,
    changed: Notify,
}

/// How a connection is to end.
#[derive(Debug)]
pub(super) enum Ending {
    /// It takes no further requests.
    GoAway,
    /// By a reset.
    Reset,
    /// In place of an answer these steps are taken, and then it is closed.
    Raw(Box<Takeover>),
}

/// An answer below HTTP.
pub(super) struct Takeover {
    pub(super) steps: Steps,
    pub(super) speed: f64,
    pub(super) recorder: Recorder,
}

impl std::fmt::Debug for Takeover {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Takeover").finish_non_exhaustive()
    }
}

impl Line {
    pub(super) fn new(number: u64, is_local: bool) -> Self {
        Self { number, is_local, ending: Mutex::default(), changed: Notify::new() }
    }

    /// Decides how the connection ends.
    pub(super) fn end(&self, ending: Ending) {
        *self.ending.lock().unwrap_or_else(PoisonError::into_inner) = Some(ending);
        self.changed.notify_one();
    }

    /// Waits for a decision.
    pub(super) async fn ending(&self) -> Ending {
        loop {
            if let Some(ending) = self.take_ending() {
                return ending;
            }
            self.changed.notified().await;
        }
    }

    /// Whether the decision is that it goes away; it is taken then.
    pub(super) fn take_go_away(&self) -> bool {
        let mut ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        let goes = matches!(*ending, Some(Ending::GoAway));
        if goes {
            *ending = None;
        }
        goes
    }

    /// The decision, where there is one.
    pub(super) fn take_ending(&self) -> Option<Ending> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection's byte stream, with the first bytes, which were read to know the protocol, put back in front.
pub(super) struct Wire {
    first: Bytes,
    transport: Box<dyn Transport>,
    line: Arc<Line>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Some(Ending::Reset) = self.line.take_ending() {
            self.transport.reset_on_drop();
        }
    }
}

impl Wire {
    /// Reads as much as tells the protocols apart; says whether it is HTTP/2. `None` when the client says nothing.
    pub(super) async fn begin(mut transport: Box<dyn Transport>, line: Arc<Line>) -> Option<(Self, bool)> {
        let mut first = Vec::with_capacity(HTTP2_BEGINS.len());
        while first.len() < HTTP2_BEGINS.len() && HTTP2_BEGINS.starts_with(&first) {
            let mut byte = [0; 1];
            if transport.read(&mut byte).await.ok()? == 0 {
                return None;
            }
            first.push(byte[0]);
        }
        let is_http2 = first == HTTP2_BEGINS;
        Some((Self { first: first.into(), transport, line }, is_http2))
    }

    /// Takes the steps of an answer that is none of HTTP's, as long as the client is there.
    pub(super) async fn take(mut self, mut takeover: Box<Takeover>) {
        let recorder = &mut takeover.recorder;
        while let Some(step) = takeover.steps.next_step() {
            let pause = match step {
                Step::Send(bytes) => {
                    recorder.sent(&bytes);
                    if self.transport.write_all(&bytes).await.is_err() || self.transport.flush().await.is_err() {
                        return;
                    }
                    continue;
                }
                Step::Wait(pause) => Some(pause.div_f64(takeover.speed)),
                Step::Hold => None,
                Step::Reset => {
                    recorder.ended(Ended::Cut);
                    self.transport.reset_on_drop();
                    return;
                }
                Step::Cut | Step::GoAway => break,
            };
            let waited = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            let mut unwanted = [0; 1024];
            tokio::select! {
                () = waited => {}
                // More of a request is not wanted; its end is the client's leaving.
                () = async { while matches!(self.transport.read(&mut unwanted).await, Ok(1..)) {} } => return,
            }
        }
        recorder.ended(Ended::Cut);
        // The client may have left.
        let _ = self.transport.shutdown().await;
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.first.has_remaining() {
            let length = this.first.len().min(into.remaining());
            into.put_slice(&this.first.split_to(length));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.transport).poll_read(cx, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().transport).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().transport).poll_shutdown(cx)
    }
}
