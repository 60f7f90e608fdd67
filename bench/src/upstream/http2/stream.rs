//! One request and its answer.

use super::request::Request;
use crate::payload::QuestionCheck;

pub(super) struct Stream {
    pub(super) id: u32,
    request: Request,
    check: QuestionCheck,
    /// Bytes of the body so far.
    body_bytes: u64,
    /// The whole request has come.
    pub(super) is_asked: bool,
    /// What may still be sent; less than nothing where the client has taken some of it back.
    pub(super) window: i64,
    /// Bytes of the body that the client was given no credit for yet.
    pub(super) owed: u32,
    /// What the windows did not let through.
    pub(super) unsent: Vec<u8>,
    /// Nothing comes behind that.
    pub(super) is_last: bool,
}

impl Stream {
    pub(super) fn new(id: u32, request: Request, check: QuestionCheck, window: i64) -> Self {
        let unsent = Vec::new();
        Self { id, request, check, body_bytes: 0, is_asked: false, window, owed: 0, unsent, is_last: false }
    }

    /// Takes a piece of the body.
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.check.push(piece);
        self.body_bytes += piece.len() as u64;
    }

    /// Whether the request was what was asked, to the last byte; to be asked at its end.
    pub(super) fn is_right(&self) -> bool {
        let is_whole = self.request.length.is_none_or(|length| length == self.body_bytes);
        self.request.is_right() && is_whole && self.check.is_right()
    }
}
