//! The body of an answer as steps in time: bytes, pauses, and breaking off.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

/// Long enough for the server to write what came before a cut.
const BEFORE_CUT: Duration = Duration::from_millis(5);

/// One step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Bytes, at once.
    Send(Bytes),
    /// Nothing, for a while.
    Wait(Duration),
    /// The connection ends, without the regular end of the body.
    Cut,
}

/// A body that takes its steps as it is read; nothing runs once it is dropped.
pub(super) struct Steps {
    next: Source,
    /// Known where the body is one piece.
    length: Option<u64>,
    pause: Option<Pin<Box<Sleep>>>,
    cut: bool,
}

enum Source {
    Listed(VecDeque<Step>),
    Made(Box<dyn Iterator<Item = Step> + Send>),
}

impl Steps {
    /// A body that is all there, with its length.
    pub(super) fn whole(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let length = Some(body.len() as u64);
        let steps = if body.is_empty() { VecDeque::new() } else { VecDeque::from([Step::Send(body)]) };
        Self { next: Source::Listed(steps), length, pause: None, cut: false }
    }

    /// A body made step by step.
    pub(super) fn stream(steps: impl Iterator<Item = Step> + Send + 'static) -> Self {
        Self { next: Source::Made(Box::new(steps)), length: None, pause: None, cut: false }
    }
}

impl Body for Steps {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            if self.cut {
                return Poll::Ready(Some(Err(io::ErrorKind::ConnectionReset.into())));
            }
            let step = match &mut self.next {
                Source::Listed(steps) => steps.pop_front(),
                Source::Made(steps) => steps.next(),
            };
            match step {
                None => return Poll::Ready(None),
                Some(Step::Send(bytes)) => {
                    if let Some(length) = &mut self.length {
                        *length = length.saturating_sub(bytes.len() as u64);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(bytes))));
                }
                Some(Step::Wait(Duration::ZERO)) => {}
                Some(Step::Wait(pause)) => self.pause = Some(Box::pin(tokio::time::sleep(pause))),
                Some(Step::Cut) => {
                    self.cut = true;
                    self.pause = Some(Box::pin(tokio::time::sleep(BEFORE_CUT)));
                }
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
