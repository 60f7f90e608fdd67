//! An emulator of Vertex AI's Chat Completions endpoint, of the metadata server and of Google's token endpoints, for
//! `ai-proxy dev`, for `ai-proxy emulator` and for tests.
//!
//! It answers in Vertex's shapes, with its framing, checks and quirks, and is useful without a model: it greets, echoes,
//! calls functions and tells their results. What it does in special cases is data, in [`scenarios`].
//!
//! The way of a request: `line` (the connection) → `control`, `metadata`, `oauth`, `replay`, or `vertex` (checks) →
//! `answer` (what is said) → `reply` or `stream` (its shape) → `body` (when), with the `journal` that takes it down.

mod answer;
mod body;
mod certificate;
mod control;
mod data;
mod errors;
mod facts;
mod journal;
mod library;
mod line;
mod metadata;
mod models;
mod oauth;
mod pattern;
mod place;
mod random;
pub mod replay;
mod reply;
pub mod scenarios;
mod schema;
mod signatures;
mod stream;
mod tokens;
mod tools;
mod transport;
mod vertex;

pub use certificate::Certificate;
pub use library::{Library, Unusable};

use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use self::answer::Answered;
use self::body::Steps;
use self::errors::Refusal;
use self::journal::Journal;
use self::line::{Ending, Line, Takeover, Wire};
use self::replay::Replay;
use self::transport::Transport;
use self::vertex::Target;

/// After an error of `accept`, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// How long a client may take until it has said its first word, TLS included.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests at one time on an HTTP/2 connection, as at Google's front ends.
const MAX_STREAMS: u32 = 100;

/// How the emulator behaves.
#[derive(Debug)]
pub struct Settings {
    /// The one project that exists.
    pub project: String,
    /// Between two tokens of a stream; zero sends as fast as they are read.
    pub pace: Duration,
    /// All pauses are so many times as short.
    pub speed: f64,
    /// What it does in special cases.
    pub library: Library,
    /// Answers from captured exchanges, in place of all of its own.
    pub replay: Option<Replay>,
    /// Speaks TLS too, with this certificate.
    pub tls: Option<Certificate>,
}

impl Settings {
    /// The usual ones for a project, without pauses between tokens.
    #[must_use]
    pub fn new(project: &str) -> Self {
        Self {
            project: project.to_owned(),
            pace: Duration::ZERO,
            speed: 1.0,
            library: Library::embedded(),
            replay: None,
            tls: None,
        }
    }
}

/// What all connections share.
#[derive(Debug)]
struct Emulator {
    settings: Settings,
    tokens: metadata::Tokens,
    journal: Arc<Journal>,
    connections: AtomicUsize,
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve(listener: TcpListener, settings: Settings) {
    let tls = settings.tls.as_ref().map(Certificate::acceptor);
    let emulator = Arc::new(Emulator {
        settings,
        tokens: metadata::Tokens::default(),
        journal: Arc::default(),
        connections: AtomicUsize::new(0),
    });
    let mut connections = JoinSet::new();
    let mut number = 0;
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    number += 1;
                    connections.spawn(connection(stream, peer, number, tls.clone(), Arc::clone(&emulator)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
            },
            // Forgets those that have ended.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    number: u64,
    tls: Option<TlsAcceptor>,
    emulator: Arc<Emulator>,
) {
    // Small chunks must not wait for each other; where it fails, they only come later.
    let _ = stream.set_nodelay(true);
    let line = Arc::new(Line::new(number, peer.ip().to_canonical().is_loopback()));
    let of_wire = line.clone();
    let begin = async {
        let transport: Box<dyn Transport> = match tls {
            // Plain HTTP is spoken there too, since metadata servers know nothing else.
            Some(tls) if begins_with_handshake(&stream).await => Box::new(tls.accept(stream).await.ok()?),
            _ => Box::new(stream),
        };
        Wire::begin(transport, of_wire).await
    };
    let Ok(Some((wire, is_http2))) = tokio::time::timeout(BEGIN_TIMEOUT, begin).await else { return };
    emulator.connections.fetch_add(1, Ordering::Relaxed);
    let counted = Counted(Arc::clone(&emulator));
    // A client that leaves, or does not speak HTTP, is no news.
    if is_http2 {
        over_http2(wire, &line, emulator).await;
    } else {
        over_http1(wire, &line, emulator).await;
    }
    drop(counted);
}

/// Whether a client's first byte is that of a TLS record with a handshake.
async fn begins_with_handshake(stream: &TcpStream) -> bool {
    let mut first = [0; 1];
    matches!(stream.peek(&mut first).await, Ok(1)) && first == [22]
}

/// One of the open connections, until it is dropped.
struct Counted(Arc<Emulator>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn over_http1(wire: Wire, line: &Arc<Line>, emulator: Arc<Emulator>) {
    let of_service = line.clone();
    let service = service_fn(move |request| Box::pin(Arc::clone(&emulator).answer(request, of_service.clone(), false)));
    let mut connection = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(wire), service);
    let _ = poll_fn(|cx| {
        let done = connection.poll_without_shutdown(cx);
        if line.take_go_away() {
            Pin::new(&mut connection).graceful_shutdown();
        }
        done
    })
    .await;
    match line.take_ending() {
        Some(Ending::Raw(takeover)) => connection.into_parts().io.into_inner().take(takeover).await,
        // Done by the wire's end.
        Some(reset @ Ending::Reset) => line.end(reset),
        Some(Ending::GoAway) | None => {}
    }
}

async fn over_http2(wire: Wire, line: &Arc<Line>, emulator: Arc<Emulator>) {
    let of_service = line.clone();
    let service = service_fn(move |request| Arc::clone(&emulator).answer(request, of_service.clone(), true));
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .serve_connection(TokioIo::new(wire), service);
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            ending = line.ending() => match ending {
                Ending::GoAway => connection.as_mut().graceful_shutdown(),
                // Done by the wire's end.
                reset => return line.end(reset),
            },
        }
    }
}

impl Emulator {
    /// Answers a request. What is returned as an error ends the connection, or the stream.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        line: Arc<Line>,
        is_http2: bool,
    ) -> Result<Response<Steps>, Box<dyn Error + Send + Sync>> {
        let (head, body) = request.into_parts();
        if head.uri.path().starts_with(control::ROOT) {
            return Ok(control::answer(&self, &head, body, &line).await);
        }
        let recorder = self.journal.begin(line.number, &head);
        let speed = self.settings.speed;
        let answered = match read(body).await {
            Ok(body) => {
                recorder.received(&body);
                self.route(&head, &body, &recorder).await
            }
            Err(refusal) => refusal.response().into(),
        };
        match answered {
            Answered::Http(response) => {
                recorder.status(response.status());
                Ok(response.map(|steps| steps.on(line, speed, recorder)))
            }
            Answered::Wire { http2_reset, .. } if is_http2 => {
                let code = http2_reset.map_or(Reason::INTERNAL_ERROR, Reason::from);
                Err(h2::Error::from(code).into())
            }
            Answered::Wire { steps, .. } => {
                line.end(Ending::Raw(Box::new(Takeover { steps, speed, recorder })));
                Err(io::Error::from(io::ErrorKind::ConnectionAborted).into())
            }
        }
    }

    async fn route(&self, head: &http::request::Parts, body: &Bytes, recorder: &journal::Recorder) -> Answered {
        let settings = &self.settings;
        let path = head.uri.path();
        if path.starts_with(metadata::ROOT) {
            return metadata::answer(self, &head.method, path, &head.headers, recorder).await.into();
        }
        if let Some(replay) = &settings.replay {
            return replay.answer(&head.method, path, body).into();
        }
        if oauth::serves(path) {
            return oauth::answer(self, &head.method, path, &head.headers, body, recorder).await.into();
        }
        let Some(target) = Target::parse(path).filter(|_| head.method == Method::POST) else {
            return errors::not_found(path).into();
        };
        if let Err(refusal) = vertex::authenticate(&head.headers, &self.tokens, Instant::now()) {
            return refusal.response().into();
        }
        match vertex::read(target, &settings.project, body) {
            Ok(chat) => answer::answer(self, target, &head.headers, &chat, recorder).await,
            Err(refusal) => refusal.response().into(),
        }
    }

    /// Waits, as fast as the settings say.
    async fn pause(&self, milliseconds: u64) {
        if milliseconds > 0 {
            tokio::time::sleep(Duration::from_millis(milliseconds).div_f64(self.settings.speed)).await;
        }
    }
}

/// Reads a body to its end, but keeps no more of it than Vertex takes.
async fn read(mut body: Incoming) -> Result<Bytes, Refusal> {
    let mut kept = Vec::new();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            // Nobody is left to read this.
            return Err(Refusal::invalid("Request contains an invalid argument."));
        };
        if let Ok(data) = frame.into_data() {
            size += data.len();
            if size <= vertex::MAX_BODY_BYTES {
                kept.extend_from_slice(&data);
            } else {
                kept = Vec::new();
            }
        }
    }
    if size > vertex::MAX_BODY_BYTES {
        return Err(Refusal::invalid(format!(
            "Request payload size exceeds the limit: {} bytes.",
            vertex::MAX_BODY_BYTES
        )));
    }
    Ok(kept.into())
}
