//! An emulator of Vertex AI's Chat Completions endpoint and of the metadata server, for `ai-proxy dev` and for tests.
//!
//! It answers in Vertex's shapes, with its framing, checks and quirks, and is useful without a model: it greets, echoes,
//! calls functions and tells their results. What it does in special cases is data, in [`scenarios`].
//!
//! The way of a request: `metadata`, or `vertex` (checks) → `answer` (what is said) → `reply` or `stream` (its shape).

mod answer;
mod body;
mod errors;
mod facts;
mod metadata;
mod models;
mod pattern;
mod random;
mod reply;
pub mod scenarios;
mod schema;
mod signatures;
mod stream;
mod tokens;
mod tools;
mod vertex;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use self::body::Steps;
use self::errors::Refusal;
use self::vertex::Target;

/// After an error of `accept`, such as too many open files.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How the emulator behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The one project that exists.
    pub project: String,
    /// Between two tokens of a stream; zero sends as fast as they are read.
    pub pace: Duration,
}

/// What all connections share.
#[derive(Debug)]
struct Emulator {
    settings: Settings,
    tokens: metadata::Tokens,
}

/// Serves until it is dropped; its connections end with it.
pub async fn serve(listener: TcpListener, settings: Settings) {
    let emulator = Arc::new(Emulator { settings, tokens: metadata::Tokens::default() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&emulator)));
                }
                Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
            },
            // Forgets those that have ended.
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(stream: TcpStream, emulator: Arc<Emulator>) {
    // Small chunks must not wait for each other; where it fails, they only come later.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let emulator = Arc::clone(&emulator);
        async move { Ok::<_, Infallible>(emulator.answer(request).await) }
    });
    // A client that leaves, or does not speak HTTP, is no news.
    let _ = http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await;
}

impl Emulator {
    async fn answer(&self, request: Request<Incoming>) -> Response<Steps> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        if path.starts_with(metadata::ROOT) {
            let project = &self.settings.project;
            return metadata::answer(&head.method, path, &head.headers, project, &self.tokens);
        }
        let Some(target) = Target::parse(path).filter(|_| head.method == Method::POST) else {
            return errors::not_found(path);
        };
        if let Err(refusal) = vertex::authenticate(&head.headers, &self.tokens, Instant::now()) {
            return refusal.response();
        }
        let body = match read(body).await {
            Ok(body) => body,
            Err(refusal) => return refusal.response(),
        };
        match vertex::read(target, &self.settings.project, &body) {
            Ok(chat) => answer::answer(target, &head.headers, &chat, self.settings.pace).await,
            Err(refusal) => refusal.response(),
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
