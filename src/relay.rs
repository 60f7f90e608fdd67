//! Upstream's answer on its way to the client: header fields by a list, the body as it is and as soon as it comes.

use crate::App;
use crate::access_log::Outcome;
use crate::chat::Asked;
use crate::error::ApiError;
use crate::http1::{self, Exchange, Failure, Framing, Interruption};
use crate::keepalive::KeepAlive;
use crate::numbers::append_milliseconds;
use crate::repair::{self, Repair};
use crate::signatures::Notes;
pub use crate::tail::Tail;
use crate::tap::{Form, Tap};
use crate::tokens::Meter;
use crate::upstream::{AnswerHead, BodyBroke, ResponseBody};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use std::future::poll_fn;
use std::task::Poll;

/// The header fields of upstream that reach the client, besides `content-length`.
const PASSED_FIELDS: [&str; 10] = [
    "content-type",
    "content-encoding",
    "content-language",
    "content-disposition",
    CACHE_CONTROL,
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-vertex-ai-llm-request-type",
    "x-vertex-ai-llm-shared-request-type",
];

const CACHE_CONTROL: &str = "cache-control";
/// The content type of an event stream.
const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Tells which of several locations answered.
const LOCATION_FIELD: &str = "x-ai-proxy-location";

/// Passes an answer on.
///
/// # Errors
/// How the exchange broke off.
pub async fn pass_on(app: &App, exchange: &mut Exchange<'_>, Asked { answer, listener }: Asked) -> Result<(), Failure> {
    let answer = *answer;
    let status = answer.head.status;
    exchange.record.upstream_status = Some(status.as_u16());
    exchange.record.overhead = Some(answer.overhead);
    exchange.record.location = answer.location;
    exchange.record.attempts = answer.attempts;
    exchange.record.error = answer.failure_elsewhere;
    let mut body = Source { body: answer.body, first: None, broken: None };
    let repair = if app.repair_errors && !status.is_success() {
        repair::examine(exchange, status.as_u16(), &answer.head, &mut body, answer.patience).await?
    } else {
        Repair::none()
    };
    if let Some(error) = repair.replacement {
        let (_, code) = error.status_and_code();
        exchange.record.error = Some(code.to_owned());
        let mut replacement = http1::Answer::from(&error);
        for name in ["retry-after", "retry-after-ms", "x-should-retry"] {
            if let Some(value) = answer.head.text(name) {
                replacement.fields.push((name, value.to_owned()));
            }
        }
        if let Some(location) = &exchange.record.location {
            replacement.fields.push((LOCATION_FIELD, location.to_string()));
        }
        return exchange.answer(replacement).await;
    }

    let head = &answer.head;
    let is_sse = media_type_is(head.value("content-type"), EVENT_STREAM);
    exchange.begin(status.as_u16());
    write_fields(exchange, head, is_sse);
    if let Some(seconds) = repair.retry_after {
        exchange.field("retry-after", seconds.to_string().as_bytes());
    }
    let mut timing = Vec::with_capacity(64);
    timing.extend_from_slice(b"gateway;dur=");
    append_milliseconds(&mut timing, answer.overhead);
    timing.extend_from_slice(b", upstream;dur=");
    append_milliseconds(&mut timing, answer.waited);
    exchange.field("server-timing", &timing);
    if let Some(location) = exchange.record.location.clone() {
        exchange.field(LOCATION_FIELD, location.as_bytes());
    }
    let restored = exchange.record.signatures;
    if !restored.is_none() {
        let told = format!("kept={}, skipped={}", restored.kept, restored.skipped);
        exchange.field("x-ai-proxy-thought-signatures", told.as_bytes());
    }
    let framing = framing_of(exchange, status.as_u16(), head, repair.removed_bytes);
    exchange.end_of_head(framing);

    let is_encoded = head.has("content-encoding");
    let readable = status.is_success() && !is_encoded;
    let form = if is_sse { Form::Stream } else { Form::Json(length_of(head)) };
    let mut tap = readable.then(|| Tap::new((Meter::new(), listener), form));
    // The client has it: a stream that goes on for minutes holds nothing of it.
    drop(answer.head);
    let mut tail = Tail::default();
    let mut keep_alive = app.sse_keepalive.filter(|_| is_sse && readable && exchange.is_chunked()).map(KeepAlive::new);
    let copied = match framing {
        // Over HTTP/2 something may come nevertheless; in HTTP/1.1 it would be the beginning of the next answer.
        Framing::Empty => Ok(()),
        _ => copy(exchange, &mut body, is_sse.then_some(&mut tail), &mut tap, &mut keep_alive).await,
    };
    if let Some(tap) = tap {
        let (meter, _) = tap.end();
        exchange.charge(&meter);
        exchange.record.tokens = meter.tokens();
    }
    let copied = match copied {
        // It has all that was announced, and need not wait until upstream says that this was all, or does not.
        Err(Break::Client(Interruption::HungUp) | Break::Upstream(_)) if exchange.is_delivered() => Ok(()),
        copied => copied,
    };
    match copied {
        Ok(()) => {
            exchange.end().await?;
            if is_sse && readable && !tail.ends_with_done() {
                exchange.record.outcome = Some(Outcome::EndedWithoutDone);
            }
            Ok(())
        }
        Err(Break::Upstream(cause)) => {
            let (_, code) = ApiError::UpstreamBroke.status_and_code();
            exchange.record.error = Some(format!("{code}: {cause}"));
            append_error(exchange, is_sse && !is_encoded, framing, &tail, &ApiError::UpstreamBroke).await?;
            Err(Failure::Broken)
        }
        Err(Break::Client(interruption)) => {
            if interruption == Interruption::Cut {
                append_error(exchange, is_sse && !is_encoded, framing, &tail, &ApiError::ShuttingDown).await?;
            }
            Err(interruption.into())
        }
    }
}

/// Why the copying ended early.
enum Break {
    Upstream(BodyBroke),
    Client(Interruption),
}

impl From<Interruption> for Break {
    fn from(interruption: Interruption) -> Self {
        Self::Client(interruption)
    }
}

/// Upstream's body, with what a repair has already taken from it put back in front.
pub(crate) struct Source {
    pub(crate) body: ResponseBody,
    pub(crate) first: Option<Bytes>,
    /// How it broke while a repair read it: it says so once only.
    pub(crate) broken: Option<BodyBroke>,
}

impl Source {
    /// Whether another piece, or the end, may be there without a wait.
    fn may_have_more(&self) -> bool {
        self.first.is_some() || self.broken.is_some() || self.body.may_have_more()
    }

    /// The next piece of the body.
    pub(crate) fn poll_piece(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        self.body.poll_piece(cx)
    }
}

/// Copies the body piece by piece. What is there is sent at once; pieces that came together are sent together.
async fn copy(
    exchange: &mut Exchange<'_>,
    source: &mut Source,
    mut tail: Option<&mut Tail>,
    tap: &mut Option<Tap<(Meter, Option<Notes>)>>,
    keep_alive: &mut Option<KeepAlive>,
) -> Result<(), Break> {
    loop {
        let ready =
            if source.may_have_more() { poll_fn(|cx| Poll::Ready(source.poll_piece(cx))).await } else { Poll::Pending };
        let piece = match ready {
            Poll::Ready(piece) => piece,
            Poll::Pending => {
                if exchange.has_queued() {
                    exchange.send_queued().await?;
                }
                if exchange.is_delivered() {
                    // The client's next request need not wait until upstream says that this was all.
                    source.body.leave_to_its_end();
                    return Ok(());
                }
                match (keep_alive.as_mut(), tail.as_deref_mut()) {
                    (Some(keep_alive), Some(tail)) => piece_after_silence(exchange, source, tail, keep_alive).await?,
                    _ => exchange.unless_interrupted(poll_fn(|cx| source.poll_piece(cx))).await?,
                }
            }
        };
        match piece {
            None => return Ok(()),
            Some(Ok(data)) => {
                let mut late_mark = None;
                if let Some(tail) = tail.as_deref_mut() {
                    late_mark = tail.late_mark(&data);
                    tail.push(&data);
                }
                if let Some(tap) = tap {
                    tap.push(&data);
                    // Before the client has the piece: its next request may be one too many.
                    let (meter, _) = tap.listener();
                    exchange.charge(meter);
                }
                let (mark, data) = data.split_at(late_mark.unwrap_or(0));
                if late_mark.is_some() {
                    exchange.piece(mark).await?;
                    exchange.aside(b"\n").await?;
                }
                exchange.piece(data).await?;
                if let Some(keep_alive) = keep_alive.as_mut().filter(|_| !data.is_empty()) {
                    keep_alive.break_silence();
                }
            }
            Some(Err(error)) => {
                exchange.send_queued().await?;
                return Err(Break::Upstream(error));
            }
        }
    }
}

/// Waits for the next piece of an event stream. While there is none, the client gets a comment now and then.
async fn piece_after_silence(
    exchange: &mut Exchange<'_>,
    source: &mut Source,
    tail: &mut Tail,
    keep_alive: &mut KeepAlive,
) -> Result<Option<Result<Bytes, BodyBroke>>, Interruption> {
    keep_alive.begin_wait();
    loop {
        let piece = exchange.unless_interrupted(poll_fn(|cx| match source.poll_piece(cx) {
            Poll::Ready(piece) => Poll::Ready(Some(piece)),
            Poll::Pending => keep_alive.poll_due(cx).map(|()| None),
        }));
        if let Some(piece) = piece.await? {
            return Ok(piece);
        }
        if let Some(comment) = tail.take_comment() {
            exchange.aside(comment).await?;
            keep_alive.break_silence();
            keep_alive.begin_wait();
        }
    }
}

/// Appends one event with an error to a stream that broke, so that clients which take any end for a good one notice.
/// Behind `[DONE]` nobody waits for more, and nothing is made up.
async fn append_error(
    exchange: &mut Exchange<'_>,
    is_sse: bool,
    framing: Framing,
    tail: &Tail,
    error: &ApiError,
) -> Result<(), Interruption> {
    if !is_sse || tail.is_done() || !matches!(framing, Framing::Chunked | Framing::UntilClose) {
        return Ok(());
    }
    let mut event = tail.closing_of_event().to_vec();
    event.extend_from_slice(b"data: ");
    event.extend_from_slice(&error.to_json());
    event.extend_from_slice(b"\n\n");
    exchange.say_incomplete(&event).await
}

fn write_fields(exchange: &mut Exchange<'_>, head: &AnswerHead, is_sse: bool) {
    head.each(|name, value| {
        let is_it = |passed: &&&str| passed.len() == name.len() && passed.as_bytes().eq_ignore_ascii_case(name);
        if let Some(name) = PASSED_FIELDS.iter().find(is_it).filter(|name| !(is_sse && **name == CACHE_CONTROL)) {
            exchange.field(name, value);
        }
    });
    if is_sse {
        exchange.field(CACHE_CONTROL, b"no-store");
        exchange.field("x-accel-buffering", b"no");
    }
}

/// Decides how the client finds the body's end, and writes `content-length` where that is how.
fn framing_of(exchange: &mut Exchange<'_>, status: u16, head: &AnswerHead, removed_bytes: u64) -> Framing {
    if matches!(status, 204 | 304) {
        return Framing::Empty;
    }
    // Where both stand, hyper reads chunks, and so has to the client.
    let length = length_of(head).filter(|_| !head.has("transfer-encoding"));
    match length {
        Some(length) => {
            exchange.length_field(length.saturating_sub(removed_bytes));
            Framing::Counted
        }
        None => Framing::Chunked,
    }
}

/// What the head says of the body's length, in bytes.
pub(crate) fn length_of(head: &AnswerHead) -> Option<u64> {
    head.text("content-length")?.parse().ok()
}

/// Whether the content type is `text/event-stream`.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    media_type_is(headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes), EVENT_STREAM)
}

/// Whether a content type is this one, whatever its parameters.
pub(crate) fn media_type_is(content_type: Option<&[u8]>, wanted: &[u8]) -> bool {
    content_type.is_some_and(|value| {
        let media_type = value.split(|byte| *byte == b';').next().unwrap_or_default();
        media_type.trim_ascii().eq_ignore_ascii_case(wanted)
    })
}
