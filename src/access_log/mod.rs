//! One line for each request, written when its last byte is gone.
//!
//! Each step on a request's path notes what it learns in the [`Record`]; dropping it writes the line, so that a
//! request which ends in an unforeseen way is logged too. Nothing that a client wrote stands in a line: routes and
//! aliases are the gateway's own words, key ids those of its owner.

mod line;

use crate::http1::Head;
use crate::log::{Log, Severity, Style};
use crate::metrics::Metrics;
use crate::models::Models;
use crate::own_time::OwnTime;
use crate::signatures::Restored;
use crate::tokens::{self, Tokens};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The whole answer was handed to the client's connection.
    Completed,
    /// The client closed its connection first.
    ClientHungUp,
    /// Upstream's connection broke in mid-answer.
    UpstreamBroke,
    /// The grace period of a stop was over.
    CutByShutdown,
    /// The gateway answered with an error of its own.
    Rejected,
    /// An event stream ended cleanly but without `[DONE]`.
    EndedWithoutDone,
    /// A bug of the gateway ended it.
    InternalError,
}

impl Outcome {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Completed,
        Self::ClientHungUp,
        Self::UpstreamBroke,
        Self::CutByShutdown,
        Self::Rejected,
        Self::EndedWithoutDone,
        Self::InternalError,
    ];

    /// Its name in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::ClientHungUp => "client_hung_up",
            Self::UpstreamBroke => "upstream_broke",
            Self::CutByShutdown => "cut_by_shutdown",
            Self::Rejected => "rejected",
            Self::EndedWithoutDone => "ended_without_done",
            Self::InternalError => "internal_error",
        }
    }
}

/// Where the requests of one thread are written down. What each of them takes hold of and lets go belongs to the thread
/// alone, so that no other one's cache has to give it up.
#[derive(Debug)]
pub struct Writer {
    log: Log,
    metrics: Metrics,
    project: Box<str>,
    ids: RequestIds,
}

impl Writer {
    /// The first thread's. `random` is half of every request's id, and should be nobody else's.
    #[must_use]
    pub fn new(log: Log, models: &Models, project: &str, random: u64) -> Self {
        Self { log, metrics: Metrics::new(models), project: project.into(), ids: RequestIds::new(random) }
    }

    /// A further thread's, out of memory of whoever calls.
    #[must_use]
    pub fn of_another_thread(&self, models: &Models, random: u64) -> Self {
        Self {
            log: self.log.of_another_thread(),
            metrics: self.metrics.of_another_thread(models),
            project: self.project.clone(),
            ids: RequestIds::new(random),
        }
    }

    /// What all threads have counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// The ids of one thread's requests.
#[derive(Debug)]
struct RequestIds {
    /// The first half of each.
    random: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new(random: u64) -> Self {
        Self { random, next: AtomicU64::new(1) }
    }

    fn next(&self) -> RequestId {
        let count = self.next.fetch_add(1, Ordering::Relaxed);
        let mut text = [0; 32];
        let (first, second) = text.split_at_mut(16);
        hexadecimal(self.random, first);
        hexadecimal(count, second);
        RequestId(text)
    }
}

/// 32 hexadecimal digits: 16 random ones of the thread, 16 that count.
#[derive(Clone, Copy, Debug)]
pub struct RequestId([u8; 32]);

impl RequestId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn hexadecimal(mut number: u64, out: &mut [u8]) {
    for digit in out.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(number & 15) as usize];
        number >>= 4;
    }
}

/// What is known of one request so far.
#[derive(Debug)]
pub struct Record {
    writer: Arc<Writer>,
    started: Instant,
    ended: Option<Instant>,
    /// The id that the client gets as `x-request-id`.
    pub id: RequestId,
    /// The method, in the gateway's words.
    pub method: &'static str,
    /// The route, in the gateway's words.
    pub route: &'static str,
    /// The protocol of the client's connection.
    pub protocol: &'static str,
    trace: Option<Trace>,
    /// Which key was used.
    pub key_id: Option<Arc<str>>,
    /// Which alias was asked for.
    pub alias: Option<Arc<str>>,
    /// The Vertex id behind it.
    pub model: Option<Arc<str>>,
    /// The location that answered, where it was one of several.
    pub location: Option<Arc<str>>,
    /// How many locations were asked, where there are several.
    pub attempts: Option<u32>,
    /// Whether the client asked for a stream.
    pub stream: Option<bool>,
    /// The status sent to the client.
    pub status: Option<u16>,
    /// The status of upstream's last answer.
    pub upstream_status: Option<u16>,
    /// When the first byte of the answer's body went out, from the start.
    pub first_byte: Option<Duration>,
    /// Bytes of the client's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body that were handed to the client's connection.
    pub response_bytes: u64,
    /// Time that the gateway itself took until the answer's head was ready.
    pub overhead: Option<Duration>,
    /// How many thought signatures were put into the request.
    pub signatures: Restored,
    /// What upstream said that the answer cost; `None` is unknown.
    pub tokens: Option<Tokens>,
    /// What went wrong in the gateway or behind it: code and cause.
    pub error: Option<String>,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

impl Record {
    /// Starts a record as soon as a head has come.
    #[must_use]
    pub fn start(writer: &Arc<Writer>) -> Self {
        writer.metrics.begin();
        Self {
            writer: writer.clone(),
            started: Instant::now(),
            ended: None,
            id: writer.ids.next(),
            method: "OTHER",
            route: "unmatched",
            protocol: "HTTP/1.1",
            trace: None,
            key_id: None,
            alias: None,
            model: None,
            location: None,
            attempts: None,
            stream: None,
            status: None,
            upstream_status: None,
            first_byte: None,
            request_bytes: 0,
            response_bytes: 0,
            overhead: None,
            signatures: Restored::default(),
            tokens: None,
            error: None,
            outcome: None,
        }
    }

    /// Notes what the head tells.
    pub fn note_head(&mut self, head: &Head) {
        self.method = head.method.as_str();
        self.protocol = if head.http11 { "HTTP/1.1" } else { "HTTP/1.0" };
        self.trace = Trace::find(head);
    }

    /// The gateway's own time, since the head came.
    #[must_use]
    pub fn own_time(&self) -> OwnTime {
        OwnTime::since(self.started)
    }

    /// Notes that the request ends now, and tells when that is.
    pub fn note_end(&mut self) -> Instant {
        *self.ended.insert(Instant::now())
    }

    /// Since the head came.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether a model may have worked for a chat without telling what it cost.
    #[must_use]
    pub fn usage_is_missing(&self) -> bool {
        self.tokens.is_none() && self.alias.is_some() && tokens::may_have_cost(self.status, self.error.as_deref())
    }

    fn severity(&self) -> Severity {
        match (self.status, self.outcome) {
            (Some(500..), _) | (_, Some(Outcome::InternalError)) => Severity::Error,
            (Some(400..), _) => Severity::Warning,
            (_, Some(Outcome::Completed | Outcome::EndedWithoutDone)) => Severity::Info,
            _ => Severity::Warning,
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let ended = self.ended.unwrap_or_else(Instant::now);
        let duration = ended.saturating_duration_since(self.started);
        // Only a task that was dropped or panicked has no outcome: the client sees its connection close.
        let unforeseen = if std::thread::panicking() { Outcome::InternalError } else { Outcome::CutByShutdown };
        let outcome = *self.outcome.get_or_insert(unforeseen);
        let Writer { log, metrics, .. } = &*self.writer;
        metrics.end(self, outcome, duration);
        log.line(|lines| match log.style() {
            Style::Json => line::append_json(lines, self, outcome, duration),
            Style::Human => line::append_human(lines, self, outcome, duration),
        });
    }
}

/// A trace that a front end started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trace {
    id: [u8; 32],
    span: Option<[u8; 16]>,
}

impl Trace {
    fn find(head: &Head) -> Option<Self> {
        head.value("traceparent")
            .and_then(Self::from_traceparent)
            .or_else(|| head.value("x-cloud-trace-context").and_then(Self::from_cloud_trace))
    }

    /// `VERSION-TRACE-SPAN-FLAGS` (W3C Trace Context).
    fn from_traceparent(value: &[u8]) -> Option<Self> {
        let mut parts = value.split(|byte| *byte == b'-');
        let version: [u8; 2] = hex_digits(parts.next()?)?;
        let id = hex_digits(parts.next()?)?;
        let span = hex_digits(parts.next()?)?;
        let known = &version != b"ff" && (version != *b"00" || parts.clone().count() == 1);
        (known && !all_zero(&id) && !all_zero(&span)).then_some(Self { id, span: Some(span) })
    }

    /// `TRACE/SPAN;o=OPTIONS`, the span in decimal.
    fn from_cloud_trace(value: &[u8]) -> Option<Self> {
        let mut parts = value.splitn(2, |byte| *byte == b'/');
        let id = hex_digits(parts.next()?)?;
        let span = parts.next().and_then(|rest| {
            let decimal = rest.split(|byte| *byte == b';').next()?;
            let number: u64 = std::str::from_utf8(decimal).ok()?.parse().ok()?;
            let mut span = [0; 16];
            hexadecimal(number, &mut span);
            Some(span)
        });
        (!all_zero(&id)).then_some(Self { id, span })
    }

    fn span(&self) -> Option<&str> {
        self.span.as_ref().map(|span| text(span))
    }
}

/// Exactly N hexadecimal digits, in lower case.
fn hex_digits<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    let digits: [u8; N] = value.try_into().ok()?;
    digits.iter().all(u8::is_ascii_hexdigit).then(|| digits.map(|digit| digit.to_ascii_lowercase()))
}

fn all_zero(digits: &[u8]) -> bool {
    digits.iter().all(|digit| *digit == b'0')
}

fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_are_taken_only_when_well_formed() {
        let id = "0af7651916cd43dd8448eb211c80319c";
        let parent = Trace::from_traceparent(format!("00-{id}-b7ad6b7169203331-01").as_bytes()).unwrap();
        assert_eq!((text(&parent.id), parent.span()), (id, Some("b7ad6b7169203331")));
        let cloud = Trace::from_cloud_trace(format!("{}/255;o=1", id.to_uppercase()).as_bytes()).unwrap();
        assert_eq!((text(&cloud.id), cloud.span()), (id, Some("00000000000000ff")));
        assert_eq!(Trace::from_cloud_trace(id.as_bytes()).unwrap().span(), None);
        for bad in ["", "xyz/1", "0af7651916cd43dd8448eb211c80319\"/1;o=1", "00000000000000000000000000000000/1"] {
            assert!(Trace::from_cloud_trace(bad.as_bytes()).is_none(), "{bad}");
        }
        for bad in [
            format!("00-{id}-b7ad6b7169203331"),
            format!("ff-{id}-b7ad6b7169203331-01"),
            format!("00-{id}-0000000000000000-01"),
        ] {
            assert!(Trace::from_traceparent(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn request_ids_are_distinct() {
        let threads = [7, u64::MAX].map(RequestIds::new);
        let ids = [&threads[0], &threads[0], &threads[1]].map(RequestIds::next);
        assert_eq!(
            ids.each_ref().map(RequestId::as_str),
            [
                "00000000000000070000000000000001",
                "00000000000000070000000000000002",
                "ffffffffffffffff0000000000000001"
            ]
        );
    }
}
