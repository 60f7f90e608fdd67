//! One request and its answer.

use super::super::head::AnswerHead;
use super::super::http1::MAX_INTERIM;
use super::STREAM_WINDOW;
use super::error::StreamError;
use bytes::BytesMut;
use std::task::{Context, Waker};

/// What is known of a stream, from its request's head until nobody waits for anything of it.
#[derive(Debug)]
pub(super) struct Stream {
    /// The answer's, until it is fetched.
    pub(super) head: Option<AnswerHead>,
    pub(super) has_head: bool,
    /// Interim answers that may still come.
    pub(super) interim_left: u32,
    /// Of the answer's body, what has not been fetched.
    pub(super) data: BytesMut,
    /// What the answer's head says is still to come, in bytes.
    pub(super) length_left: Option<u64>,
    /// Upstream has said that this was all.
    pub(super) has_ended: bool,
    /// What is told behind `data`.
    pub(super) error: Option<StreamError>,
    /// How much upstream may still send, in bytes.
    pub(super) receive_window: u32,
    /// The last piece that was fetched, in bytes. It is done with when the next one is asked for.
    pub(super) fetched: u32,
    /// What is done with and upstream has not been told of, in bytes.
    pub(super) untold: u32,
    /// How much may be sent, in bytes; below zero after upstream has taken some back.
    pub(super) send_window: i64,
    /// The request has been sent whole.
    pub(super) is_sent: bool,
    /// One side has ended it: nothing is sent any more.
    pub(super) is_reset: bool,
    /// Where in all that is sent that begins without which upstream cannot process the request: its body, or its head
    /// where it has none.
    pub(super) begins_at: Option<u64>,
    /// Where its head ends, and where that ends which has been sent of it.
    pub(super) head_ends_at: u64,
    pub(super) ends_at: u64,
    /// Whether it waits for room on the connection.
    pub(super) is_blocked: bool,
    /// Who waits for any of this.
    waker: Option<Waker>,
}

impl Stream {
    pub(super) fn new(send_window: i64) -> Self {
        Self {
            head: None,
            has_head: false,
            interim_left: MAX_INTERIM,
            data: BytesMut::new(),
            length_left: None,
            has_ended: false,
            error: None,
            receive_window: STREAM_WINDOW,
            fetched: 0,
            untold: 0,
            send_window,
            is_sent: false,
            is_reset: false,
            begins_at: None,
            head_ends_at: 0,
            ends_at: 0,
            is_blocked: false,
            waker: None,
        }
    }

    /// Whether what comes is for anybody.
    pub(super) fn is_open(&self) -> bool {
        !self.has_ended && !self.is_reset && self.error.is_none()
    }

    /// Whoever asks is woken when there is more.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Wakes whoever waits.
    pub(super) fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}
