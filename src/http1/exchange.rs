//! One request and its answer on a client's connection.

use super::chunked::{Decoder, Progress};
use super::connection::{BodyPatience, Connection, Interruption};
use super::head::{BodyLength, Head, Method};
use crate::access_log::{Outcome, Record};
use crate::alarm::Alarm;
use crate::budget::BodyBudget;
use crate::clock::append_http_date;
use crate::config::AllowedOrigins;
use crate::error::{self, ApiError};
use crate::keys::{self, Admission};
use crate::numbers::{append_hexadecimal, append_number};
use crate::tokens::Meter;
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use std::future::Future;
use std::sync::Arc;

/// Pieces up to this many bytes are copied together and sent at once; larger ones are sent from where they are.
const COPIED_PIECE_BYTES: usize = 4 * 1024;
/// A body's chunks have extensions of at most this many bytes together. What signs chunks has a hundred for each of 64 KiB.
const MAX_EXTENSION_BYTES: usize = 64 * 1024;
/// What is queued is sent when it reaches this many bytes, even if more is there.
const QUEUED_BYTES: usize = 32 * 1024;
/// After a refusal an unread body of at most this many bytes is read, so that the connection can live on.
const DISCARDED_BODY_BYTES: u64 = 64 * 1024;
/// What pages of other origins may read of an answer's head.
const EXPOSED_FIELDS: &[u8] =
    b"access-control-expose-headers: x-request-id, server-timing, retry-after, x-ai-proxy-location, x-ai-proxy-thought-signatures";
/// What is set aside for a body before it has come, in bytes.
const BODY_START_BYTES: usize = 16 * 1024;
/// What is set aside for it at a time as it comes, in bytes.
const BODY_STEP_BYTES: usize = 256 * 1024;

/// What has come of a body is shown each time that it is so much more, in bytes: little enough to be at hand still.
const SHOWN_BYTES: usize = 64 * 1024;

/// Why an exchange ended before its regular end.
#[derive(Debug)]
pub enum Failure {
    /// The gateway answers with an error of its own.
    Refused(ApiError),
    /// The client is gone, or the process stops.
    Interrupted(Interruption),
    /// The answer had begun and cannot be completed.
    Broken,
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<Interruption> for Failure {
    fn from(interruption: Interruption) -> Self {
        Self::Interrupted(interruption)
    }
}

/// How the client finds the end of the answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// By `content-length`.
    Counted,
    /// By the last chunk.
    Chunked,
    /// By the end of the connection: HTTP/1.0 knows nothing better.
    UntilClose,
}

/// How much of the request's body has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Body {
    Unread,
    Begun,
    Read,
}

/// A whole answer of the gateway's own.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The `content-type`; empty where there is no body.
    pub content_type: &'static str,
    /// Further header fields.
    pub fields: Vec<(&'static str, String)>,
    /// The request's fields that the answer depends on, beside `Origin`.
    pub vary: &'static str,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A JSON answer.
    #[must_use]
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, content_type: "application/json", fields: Vec::new(), vary: "", body: body.into() }
    }

    /// An HTML page.
    #[must_use]
    pub fn html(body: impl Into<Bytes>) -> Self {
        Self { status: 200, content_type: "text/html; charset=utf-8", fields: Vec::new(), vary: "", body: body.into() }
    }
}

impl From<&ApiError> for Answer {
    fn from(error: &ApiError) -> Self {
        let mut answer = Self::json(error.status(), error.to_json());
        match error {
            ApiError::InvalidApiKey => answer.fields.push(("www-authenticate", "Bearer".into())),
            ApiError::MethodNotAllowed(allowed) => answer.fields.push(("allow", (*allowed).into())),
            _ => {}
        }
        if let Some(wait) = error.retry_after() {
            answer.fields.push(("retry-after", error::seconds(&wait).to_string()));
        }
        if matches!(error, ApiError::TokensUsedUp { .. }) {
            // OpenAI's SDKs would try again at once, and there is nothing to be had today.
            answer.fields.push(("x-should-retry", "false".into()));
        }
        answer
    }
}

/// One request, its answer, and what is noted of both.
pub struct Exchange<'c> {
    connection: &'c mut Connection,
    /// The request's head.
    pub head: Head,
    /// The request's place among those of its key's id, where they are counted; given back before the log speaks.
    pub admission: Option<Box<Admission>>,
    /// What the log line will say.
    pub record: Record,
    /// The `Origin` that may read the answer.
    allowed_origin: Option<Bytes>,
    any_origin_matters: bool,
    body: Body,
    answer_begun: bool,
    framing: Framing,
    /// What of the length that `content-length` tells is still to come.
    length_left: u64,
    keep_alive: bool,
}

impl<'c> Exchange<'c> {
    /// Begins with a head that was just read.
    #[must_use]
    pub fn new(connection: &'c mut Connection, head: Head, record: Record, cors: &AllowedOrigins) -> Self {
        let allowed_origin = head.shared_value("origin").filter(|origin| cors.allows(origin));
        Self {
            body: if head.body == BodyLength::Counted(0) { Body::Read } else { Body::Unread },
            keep_alive: head.keep_alive,
            any_origin_matters: *cors != AllowedOrigins::Listed(Vec::new()),
            connection,
            head,
            record,
            admission: None,
            allowed_origin,
            answer_begun: false,
            framing: Framing::Empty,
            length_left: 0,
        }
    }

    /// Whether the page that sent the request may read the answer.
    #[must_use]
    pub fn origin_is_allowed(&self) -> bool {
        self.allowed_origin.is_some()
    }

    /// Waits for `future`, unless the client hangs up or the grace period ends; `future` is dropped then.
    ///
    /// # Errors
    /// The interruption.
    pub async fn unless_interrupted<F: Future>(&mut self, future: F) -> Result<F::Output, Interruption> {
        self.connection.unless_interrupted(future).await
    }

    /// The connection's timer, which only the wait for the next head needs.
    pub fn take_alarm(&mut self) -> Alarm {
        std::mem::take(&mut self.connection.alarm)
    }

    /// Gives it back.
    pub fn return_alarm(&mut self, alarm: Alarm) {
        self.connection.alarm = alarm;
    }

    /// Reads the whole request body within the limits, and shows what has come of a large one so far, now and then.
    ///
    /// # Errors
    /// 400, 408, 413 or 503, or that the client hung up.
    pub async fn read_body(
        &mut self,
        max_bytes: usize,
        budget: &Arc<BodyBudget>,
        mut show: impl FnMut(&[u8]),
    ) -> Result<Bytes, Failure> {
        let mut shown = 0;
        let mut show = |so_far: &[u8]| {
            if so_far.len() - shown >= SHOWN_BYTES {
                shown = so_far.len();
                show(so_far);
            }
        };
        let body = match self.head.body {
            BodyLength::Counted(length) => {
                let length = usize::try_from(length)
                    .ok()
                    .filter(|length| *length <= max_bytes)
                    .ok_or(ApiError::BodyTooLarge(max_bytes))?;
                // One for which there is no room need not be sent at all. To announce it takes none.
                if !budget.has_room_for(length) {
                    return Err(ApiError::OutOfMemory.into());
                }
                let start = length.min(self.connection.input.len().max(BODY_START_BYTES));
                let mut reservation = budget.reserve(start).ok_or(ApiError::OutOfMemory)?;
                self.go_on().await?;
                let body = self.read_counted(length, start, |bytes| reservation.grow_to(bytes), &mut show).await?;
                reservation.hold(body)
            }
            BodyLength::Chunked => {
                let mut reservation = budget.reserve(BODY_START_BYTES).ok_or(ApiError::OutOfMemory)?;
                self.go_on().await?;
                let body = self.read_chunked(max_bytes, |bytes| reservation.grow_to(bytes), &mut show).await?;
                reservation.hold(body)
            }
        };
        self.body = Body::Read;
        self.record.request_bytes = body.len() as u64;
        Ok(body)
    }

    /// Tells a client that waits for it to send the body now.
    async fn go_on(&mut self) -> Result<(), Failure> {
        self.body = Body::Begun;
        if self.head.expects_continue {
            self.head.expects_continue = false;
            // What has come before the interim answer shows that nobody waits for it.
            if self.connection.input.is_empty() {
                self.connection.send_continue().await?;
            }
        }
        Ok(())
    }

    /// Reads a body of so many bytes, of which `start` are set aside: more as they come, and as `grow_to` allows. Memory
    /// that nothing has been written to is an address and no more, so there is room for all of it from the start, and
    /// nothing is copied into a larger place.
    async fn read_counted(
        &mut self,
        length: usize,
        start: usize,
        mut grow_to: impl FnMut(usize) -> bool,
        show: &mut impl FnMut(&[u8]),
    ) -> Result<BytesMut, Failure> {
        let input = &mut self.connection.input;
        if input.len() >= length {
            // Came together with the head: shares its buffer, nothing is copied.
            return Ok(input.split_to(length));
        }
        let mut body = BytesMut::with_capacity(length);
        body.extend_from_slice(input);
        input.clear();
        let mut patience = BodyPatience::begin();
        let mut set_aside = start;
        while body.len() < length {
            if body.len() == set_aside {
                set_aside = length.min(set_aside + BODY_STEP_BYTES);
                if !grow_to(set_aside) {
                    return Err(ApiError::OutOfMemory.into());
                }
            }
            self.connection.read_body(Some((&mut body, set_aside)), &mut patience).await?;
            show(&body);
        }
        Ok(body)
    }

    async fn read_chunked(
        &mut self,
        max_bytes: usize,
        mut grow_to: impl FnMut(usize) -> bool,
        show: &mut impl FnMut(&[u8]),
    ) -> Result<BytesMut, Failure> {
        let mut decoder = Decoder::default();
        let mut body = BytesMut::with_capacity(BODY_START_BYTES);
        let mut patience = BodyPatience::begin();
        loop {
            match decoder.decode(&mut self.connection.input, &mut body, max_bytes) {
                Ok(Progress::Done) => return Ok(body),
                Ok(Progress::OverLimit) => return Err(ApiError::BodyTooLarge(max_bytes).into()),
                Ok(Progress::ChunkEnded) => continue,
                Ok(Progress::NeedsMore) => {}
                Err(_) => return Err(ApiError::BadRequest("a chunk of the body is malformed").into()),
            }
            if decoder.extension_bytes() > MAX_EXTENSION_BYTES {
                return Err(ApiError::BadRequest("the body has too much of chunk extensions").into());
            }
            if !grow_to(body.capacity()) {
                return Err(ApiError::OutOfMemory.into());
            }
            show(&body);
            self.connection.read_body(None, &mut patience).await?;
        }
    }

    /// Sends a whole answer of the gateway's own.
    ///
    /// # Errors
    /// That the client is gone.
    pub async fn answer(&mut self, answer: Answer) -> Result<(), Failure> {
        self.begin_varying(answer.status, answer.vary);
        self.field("x-content-type-options", b"nosniff");
        if !answer.content_type.is_empty() {
            self.field("content-type", answer.content_type.as_bytes());
        }
        for (name, value) in &answer.fields {
            self.field(name, value.as_bytes());
        }
        if matches!(answer.status, 204 | 304) {
            self.end_of_head(Framing::Empty);
            return self.end().await;
        }
        let length = answer.body.len();
        self.length_field(length as u64);
        self.end_of_head(Framing::Counted);
        if self.head.method == Method::Head {
            self.length_left = 0;
        } else {
            self.piece(&answer.body).await?;
        }
        self.end().await
    }

    /// Begins the head of the answer.
    pub fn begin(&mut self, status: u16) {
        self.begin_varying(status, "");
    }

    /// Begins the head of an answer that depends on these fields of the request.
    fn begin_varying(&mut self, status: u16, vary: &str) {
        // The rest of the request stands in the way of the next one: it is read if it is short, or else the
        // connection ends.
        let rest_is_in_the_way = match (self.body, self.head.body) {
            (Body::Read, _) => false,
            (Body::Unread, BodyLength::Counted(length)) => length > DISCARDED_BODY_BYTES || self.head.expects_continue,
            (Body::Unread, BodyLength::Chunked) | (Body::Begun, _) => true,
        };
        if rest_is_in_the_way || self.connection.is_draining() {
            self.keep_alive = false;
        }
        self.answer_begun = true;
        self.record.status = Some(status);
        let out = &mut self.connection.output;
        out.clear();
        out.reserve(512);
        let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        out.extend_from_slice(b"HTTP/1.1 ");
        append_number(out, status.into());
        out.push(b' ');
        out.extend_from_slice(reason.as_bytes());
        out.extend_from_slice(b"\r\ndate: ");
        append_http_date(out);
        out.extend_from_slice(b"\r\n");
        let id = self.record.id;
        self.field("x-request-id", id.as_str().as_bytes());
        if let Some(origin) = self.allowed_origin.clone() {
            self.field("access-control-allow-origin", &origin);
            let out = &mut self.connection.output;
            out.extend_from_slice(EXPOSED_FIELDS);
            if self.admission.is_some() {
                out.extend_from_slice(b", ");
                out.extend_from_slice(keys::FIELD_NAMES.as_bytes());
            }
            out.extend_from_slice(b"\r\n");
        }
        if let Some(admission) = &self.admission {
            admission.write_fields(&mut self.connection.output);
        }
        match (self.any_origin_matters, vary) {
            (true, "") => self.field("vary", b"Origin"),
            (true, vary) => self.field("vary", format!("Origin, {vary}").as_bytes()),
            (false, "") => {}
            (false, vary) => self.field("vary", vary.as_bytes()),
        }
    }

    /// Adds a header field. `value` must not contain line ends: all values are our own words or came through a parser
    /// that excludes them.
    pub fn field(&mut self, name: &str, value: &[u8]) {
        let out = &mut self.connection.output;
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    }

    /// Adds `content-length`.
    pub fn length_field(&mut self, length: u64) {
        self.length_left = length;
        let out = &mut self.connection.output;
        out.extend_from_slice(b"content-length: ");
        append_number(out, length);
        out.extend_from_slice(b"\r\n");
    }

    /// Ends the head.
    pub fn end_of_head(&mut self, framing: Framing) {
        self.framing = match framing {
            Framing::Chunked if !self.head.http11 => Framing::UntilClose,
            framing => framing,
        };
        match self.framing {
            Framing::Chunked => self.field("transfer-encoding", b"chunked"),
            Framing::UntilClose => self.keep_alive = false,
            Framing::Empty | Framing::Counted => {}
        }
        if !self.keep_alive {
            self.field("connection", b"close");
        } else if !self.head.http11 {
            self.field("connection", b"keep-alive");
        }
        self.connection.output.extend_from_slice(b"\r\n");
    }

    /// Adds a piece of the answer's body: queued if it is small, sent with all that is queued if not.
    ///
    /// # Errors
    /// That the client is gone or the grace period is over.
    pub async fn piece(&mut self, piece: &[u8]) -> Result<(), Interruption> {
        if piece.is_empty() {
            return Ok(());
        }
        self.length_left = self.length_left.wrapping_sub(piece.len() as u64);
        if self.framing == Framing::Counted && self.length_left == 0 {
            self.release();
        }
        if self.record.first_byte.is_none() {
            self.record.first_byte = Some(self.record.elapsed());
        }
        let end: &[u8] = if self.framing == Framing::Chunked {
            let out = &mut self.connection.output;
            append_hexadecimal(out, piece.len());
            out.extend_from_slice(b"\r\n");
            b"\r\n"
        } else {
            b""
        };
        if piece.len() <= COPIED_PIECE_BYTES {
            let out = &mut self.connection.output;
            out.extend_from_slice(piece);
            out.extend_from_slice(end);
            if out.len() >= QUEUED_BYTES {
                self.send_queued().await?;
            }
        } else {
            self.connection.send(piece, end).await?;
        }
        self.record.response_bytes += piece.len() as u64;
        Ok(())
    }

    /// Whether every byte that `content-length` has announced is sent.
    #[must_use]
    pub fn is_delivered(&self) -> bool {
        self.framing == Framing::Counted && self.length_left == 0 && self.connection.is_all_sent()
    }

    /// Whether the answer's body is being sent in chunks.
    #[must_use]
    pub fn is_chunked(&self) -> bool {
        self.framing == Framing::Chunked
    }

    /// Sends a chunk that is none of the answer's own bytes, and is counted nowhere.
    ///
    /// # Errors
    /// That the client is gone or the grace period is over.
    pub async fn aside(&mut self, chunk: &[u8]) -> Result<(), Interruption> {
        let out = &mut self.connection.output;
        append_hexadecimal(out, chunk.len());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
        self.send_queued().await
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.connection.output.is_empty()
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// That the client is gone or the grace period is over.
    pub async fn send_queued(&mut self) -> Result<(), Interruption> {
        self.connection.send(b"", b"").await
    }

    /// Ends the answer's body regularly and sends all of it.
    ///
    /// # Errors
    /// That the client is gone, the grace period over, or that not as much came as was announced.
    pub async fn end(&mut self) -> Result<(), Failure> {
        if self.framing == Framing::Chunked {
            self.connection.output.extend_from_slice(b"0\r\n\r\n");
        }
        self.release();
        self.send_queued().await?;
        if self.framing == Framing::Counted && self.length_left != 0 { Err(Failure::Broken) } else { Ok(()) }
    }

    /// Counts what the answer has told so far of its tokens, where the key's id has limits.
    pub fn charge(&mut self, meter: &Meter) {
        if let Some(admission) = &mut self.admission
            && let Some(tokens) = meter.tokens()
        {
            admission.charge(tokens.total());
        }
    }

    /// Gives the request's place back with its last bytes, and not behind them: whoever has read them may send the next
    /// request.
    fn release(&mut self) {
        if let Some(admission) = &mut self.admission {
            admission.release();
        }
    }

    /// Adds a last piece to a body that does not end regularly, which tells the client so; not if earlier bytes are
    /// missing.
    ///
    /// # Errors
    /// That the client is gone or the grace period is over.
    pub async fn say_incomplete(&mut self, piece: &[u8]) -> Result<(), Interruption> {
        if self.connection.can_go_on() {
            self.piece(piece).await?;
            self.send_queued().await?;
        }
        Ok(())
    }

    async fn refuse(&mut self, error: &ApiError, outcome: Outcome) -> Result<(), Failure> {
        let (_, code) = error.status_and_code();
        self.record.error.get_or_insert_with(|| code.to_owned());
        self.record.outcome = Some(outcome);
        self.answer(Answer::from(error)).await
    }

    /// Ends the exchange: answers with an error where there is one. Dropping it then writes the log line.
    pub async fn finish(&mut self, result: Result<(), Failure>) -> Next {
        let result = match result {
            Err(Failure::Refused(error)) if !self.answer_begun => self.refuse(&error, Outcome::Rejected).await,
            Err(Failure::Interrupted(Interruption::Cut)) if !self.answer_begun => {
                self.refuse(&ApiError::ShuttingDown, Outcome::CutByShutdown).await
            }
            result => result,
        };
        if self.record.usage_is_missing()
            && let Some(admission) = &mut self.admission
        {
            admission.charge_unknown();
        }
        if matches!(result, Err(Failure::Interrupted(Interruption::Stalled))) {
            self.record.error.get_or_insert_with(|| "client_stopped_reading".to_owned());
        }
        self.connection.rests_since = self.record.note_end().into();
        let outcome = &mut self.record.outcome;
        match result {
            Ok(()) => {
                outcome.get_or_insert(Outcome::Completed);
            }
            Err(failure) => {
                *outcome = Some(match failure {
                    Failure::Interrupted(Interruption::HungUp | Interruption::Stalled) => Outcome::ClientHungUp,
                    Failure::Interrupted(Interruption::Cut) => Outcome::CutByShutdown,
                    Failure::Broken | Failure::Refused(_) => Outcome::UpstreamBroke,
                });
                return if self.framing == Framing::UntilClose { Next::Abort } else { Next::Drop };
            }
        }
        match self.head.body {
            _ if !self.keep_alive || !self.connection.is_in_order() => Next::Close,
            BodyLength::Counted(length) if self.body == Body::Unread => Next::RequestAfter(length),
            _ => Next::RequestAfter(0),
        }
    }
}

/// What becomes of the connection after an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// It carries the next request, behind so many bytes that nobody wants.
    RequestAfter(u64),
    /// It ends in good order.
    Close,
    /// It ends in the middle of an answer, which its framing shows.
    Drop,
    /// It ends in the middle of an answer that only a reset can show to be incomplete.
    Abort,
}
