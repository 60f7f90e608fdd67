//! The body of an answer as steps in time: bytes, pauses, and breaking off.

use std::collections::VecDeque;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::journal::{Ended, Recorder};
use super::line::{Ending, Line};

/// Long enough for the server to write what came before a cut.
const BEFORE_CUT: Duration = Duration::from_millis(5);

/// One step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes, at once.
    Send(Bytes),
    /// Nothing, for a while.
    Wait(Duration),
    /// Nothing, until the client leaves.
    Hold,
    /// The answer ends irregularly: over HTTP/1.1 its connection is closed, over HTTP/2 its stream is reset.
    Cut,
    /// The whole connection is reset.
    Reset,
    /// The connection takes no further requests; over HTTP/2 it says GOAWAY. The answer goes on.
    GoAway,
}

/// A body that takes its steps as it is read; nothing runs once it is dropped.
pub(super) struct Steps {
    next: Source,
    /// Known where the body is one piece.
    length: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    /// What is to be said of the end, once the last bytes are out.
    breaking: Option<Step>,
    on: Option<On>,
}

/// The connection that a body is sent on.
struct On {
    line: Arc<Line>,
    speed: f64,
    recorder: Recorder,
}

enum Source {
    Listed(VecDeque<Step>),
    Made(Box<dyn Iterator<Item = Step> + Send>),
}

impl Steps {
    fn new(next: Source, length: Option<u64>) -> Self {
        Self { next, length, pause: None, breaking: None, on: None }
    }

    /// A body that is all there, with its length.
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        let steps = if body.is_empty() { VecDeque::new() } else { VecDeque::from([Step::Send(body)]) };
        Self::new(Source::Listed(steps), length)
    }

    /// A body made step by step.
    pub(super) fn stream(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self::new(Source::Made(Box::new(steps)), None)
    }

    /// The same body on a connection, its pauses so many times as short, and what is sent noted down.
    pub(super) fn on(mut self, line: Arc<Line>, speed: f64, recorder: Recorder) -> Self {
        self.on = Some(On { line, speed, recorder });
        self
    }

    /// The steps themselves, for answers that are none of HTTP's.
    pub(super) fn next_step(&mut self) -> Option<Step> {
        match &mut self.next {
            Source::Listed(steps) => steps.pop_front(),
            Source::Made(steps) => steps.next(),
        }
    }

    fn ended(&mut self, how: Ended) {
        if let Some(on) = &mut self.on {
            on.recorder.ended(how);
        }
    }

    fn pause(&mut self, pause: Duration) {
        self.pause = Some(Box::pin(tokio::time::sleep(pause)));
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if let Some(breaking) = self.breaking.take() {
                self.ended(Ended::Cut);
                if let (Step::Reset, Some(on)) = (breaking, &self.on) {
                    on.line.end(Ending::Reset);
                }
                return Poll::Ready(Some(Err(io::Error::from(io::ErrorKind::ConnectionReset).into())));
            }
            match self.next_step() {
                None => {
                    self.ended(Ended::Complete);
                    return Poll::Ready(None);
                }
                Some(Step::Send(bytes)) => {
                    if let Some(length) = &mut self.length {
                        *length = length.saturating_sub(bytes.len() as u64);
                        if *length == 0 {
                            // Nobody asks for the end of a body whose length is known.
                            self.ended(Ended::Complete);
                        }
                    }
                    if let Some(on) = &mut self.on {
                        on.recorder.sent(&bytes);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(pause)) => {
                    let speed = self.on.as_ref().map_or(1.0, |on| on.speed);
                    if !pause.is_zero() {
                        self.pause(pause.div_f64(speed));
                    }
                }
                Some(Step::Hold) => self.pause(Duration::from_secs(u64::from(u32::MAX))),
                Some(Step::GoAway) => {
                    if let Some(on) = &self.on {
                        on.line.end(Ending::GoAway);
                    }
                }
                Some(breaking @ (Step::Cut | Step::Reset)) => {
                    self.breaking = Some(breaking);
                    self.pause(BEFORE_CUT);
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
