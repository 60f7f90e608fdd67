//! A TLS and HTTP/2 upstream, as Vertex AI is, scripted stream by stream.
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Ping, Reason, SendStream};
use http::HeaderMap;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::gateway::Target;
use super::{Authority, Gate, Pair, Watched};

/// As Google's front ends have it.
pub(crate) const STREAM_LIMIT: u32 = 100;

/// What happens to a connection.
pub(crate) enum Treatment {
    Serve,
    /// The TLS handshake waits for the gate; then the connection is served.
    HoldHandshake(Gate),
    /// The first request is answered with a GOAWAY that says that no stream was processed.
    RefuseAll,
    /// Requests are answered by their heads; of the bodies, of which so many bytes are asked for, none is read.
    ServeUnread(u32),
    /// No more than this many streams at a time.
    Limit(u32),
    /// Upstream's first word waits for the gate, long after the handshake; then the connection is served.
    HoldSettings(Gate),
    /// A server as the library has it, which names no limit of streams.
    Stock,
    /// SETTINGS and, before any request, a GOAWAY.
    GoAway,
    /// Closed as soon as the TLS handshake is done.
    Close,
    /// The first request is followed by these frames and then, until nobody takes them any more, by those.
    Flood(Vec<u8>, Vec<u8>),
    /// TLS, but HTTP/1.1 only: every request gets `{}`.
    Http1,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// TCP connections that were accepted.
    pub(crate) connections: usize,
    /// Connections that ended, from whichever side.
    pub(crate) ended: usize,
    /// Connections on which the gateway began to speak while upstream's first word was held.
    pub(crate) held: usize,
    pub(crate) requests: Vec<Recorded>,
    pub(crate) open: usize,
    pub(crate) most_open: usize,
    /// Streams that the gateway reset, by the number of their request.
    pub(crate) cancelled: Vec<(usize, Reason)>,
    /// Requests that met a GOAWAY.
    pub(crate) refused: usize,
    /// Connections on which the gateway has certainly read that it should go away.
    pub(crate) told: usize,
    forgets: bool,
    forgotten: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Recorded {
    pub(crate) connection: usize,
    pub(crate) path: String,
    pub(crate) authority: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Script = dyn Fn(H2Exchange) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

/// The server; it ends when it is dropped.
pub(crate) struct H2Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Watched<Seen>,
    goaway: tokio::sync::watch::Sender<Option<Reason>>,
    ca: PathBuf,
    runtime: Option<Runtime>,
    _directory: TempDir,
}

impl Target for H2Upstream {
    fn base_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    fn certificates(&self) -> Option<PathBuf> {
        Some(self.ca.clone())
    }
}

impl H2Upstream {
    /// As [`Self::new`], with a certificate of another kind.
    pub(crate) fn with_certificate<F>(
        issue: impl FnOnce(&Authority) -> Pair,
        script: impl Fn(H2Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(issue, true, |_| Treatment::Serve, script)
    }

    /// As [`Self::new`], but requests are forgotten: there may be a million.
    pub(crate) fn forgetful<F>(script: impl Fn(H2Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(Authority::issue, false, |_| Treatment::Serve, script)
    }

    /// Every stream is served by `script`.
    pub(crate) fn new<F>(script: impl Fn(H2Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::with_treatment(|_| Treatment::Serve, script)
    }

    /// As [`Self::new`]; `treatment` judges each connection by its number, from 0.
    pub(crate) fn with_treatment<F>(
        treatment: impl Fn(usize) -> Treatment + Send + Sync + 'static,
        script: impl Fn(H2Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(Authority::issue, true, treatment, script)
    }

    fn start<F>(
        issue: impl FnOnce(&Authority) -> Pair,
        records: bool,
        treatment: impl Fn(usize) -> Treatment + Send + Sync + 'static,
        script: impl Fn(H2Exchange) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let directory = TempDir::new().expect("a temporary directory");
        let (authority, h2_config, h1_config) = certificates(issue);
        let ca = directory.path().join("ca.pem");
        std::fs::write(&ca, authority).expect("a file can be written");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let seen: Watched<Seen> = Watched::new(Seen { forgets: !records, ..Seen::default() });
        let goaway = tokio::sync::watch::Sender::new(None);
        let script: Arc<Script> = Arc::new(move |exchange| Box::pin(script(exchange)));
        let (all_seen, goaways) = (seen.clone(), goaway.clone());
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = all_seen.change(|seen| {
                    seen.connections += 1;
                    seen.connections - 1
                });
                let treatment = treatment(number);
                let config = if matches!(treatment, Treatment::Http1) { &h1_config } else { &h2_config };
                let acceptor = TlsAcceptor::from(Arc::clone(config));
                let (script, seen, goaways) = (Arc::clone(&script), all_seen.clone(), goaways.subscribe());
                tokio::spawn(async move {
                    treat(stream, acceptor, number, treatment, &script, &seen, goaways).await;
                    seen.change(|seen| seen.ended += 1);
                });
            }
        });
        Self { address, seen, goaway, ca, runtime: Some(runtime), _directory: directory }
    }

    /// Sends a GOAWAY on every connection; streams that run go on.
    pub(crate) fn go_away(&self) {
        self.goaway.send_replace(Some(Reason::NO_ERROR));
    }

    /// As [`Self::go_away`], and waits until the gateway has read it on `count` connections.
    #[track_caller]
    pub(crate) fn go_away_and_wait(&self, count: usize) {
        self.go_away();
        self.seen.wait("the gateway to read a GOAWAY", |seen| (seen.told >= count).then_some(()));
    }

    /// Breaks every connection with a GOAWAY that counts all its streams as processed.
    pub(crate) fn break_connections(&self) {
        self.goaway.send_replace(Some(Reason::INTERNAL_ERROR));
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.read(Clone::clone)
    }

    /// Waits for the `n`th request (from 0).
    #[track_caller]
    pub(crate) fn wait_request(&self, n: usize) -> Recorded {
        self.seen.wait("a request to reach upstream", |seen| seen.requests.get(n).cloned())
    }

    /// Waits until the gateway reset the stream of the `n`th request.
    #[track_caller]
    pub(crate) fn wait_cancelled(&self, n: usize) -> Reason {
        self.seen.wait("the gateway to reset a stream", |seen| {
            seen.cancelled.iter().find(|(number, _)| *number == n).map(|(_, reason)| *reason)
        })
    }
}

impl Drop for H2Upstream {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A certificate authority in PEM, and server configurations for HTTP/2 and for HTTP/1.1 with a leaf that it signed.
fn certificates(
    issue: impl FnOnce(&Authority) -> Pair,
) -> (String, Arc<rustls::ServerConfig>, Arc<rustls::ServerConfig>) {
    let authority = Authority::new();
    let pair = issue(&authority);
    let config = |protocol: &[u8]| {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("its own key");
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has the default versions")
            .with_no_client_auth()
            .with_single_cert(vec![pair.der()], key)
            .expect("the key fits the certificate");
        config.alpn_protocols = vec![protocol.to_vec()];
        Arc::new(config)
    };
    (authority.pem, config(b"h2"), config(b"http/1.1"))
}

async fn treat(
    stream: TcpStream,
    acceptor: TlsAcceptor,
    number: usize,
    treatment: Treatment,
    script: &Arc<Script>,
    seen: &Watched<Seen>,
    goaways: tokio::sync::watch::Receiver<Option<Reason>>,
) {
    stream.set_nodelay(true).expect("nodelay can be set");
    if let Treatment::HoldHandshake(gate) = &treatment {
        gate.opened().await;
    }
    let Ok(mut stream) = acceptor.accept(stream).await else { return };
    match treatment {
        Treatment::Serve | Treatment::HoldHandshake(_) => {
            serve(stream, number, (Some(STREAM_LIMIT), None), script, seen, goaways).await;
        }
        Treatment::HoldSettings(gate) => {
            let (mut incoming, outgoing) = tokio::io::split(stream);
            let mut preface = vec![0; PREFACE.len()];
            if incoming.read_exact(&mut preface).await.is_err() {
                return;
            }
            seen.change(|seen| seen.held += 1);
            gate.opened().await;
            let stream = tokio::io::join(std::io::Cursor::new(preface).chain(incoming), outgoing);
            serve(stream, number, (Some(STREAM_LIMIT), None), script, seen, goaways).await;
        }
        Treatment::ServeUnread(window) => {
            serve(stream, number, (Some(STREAM_LIMIT), Some(window)), script, seen, goaways).await;
        }
        Treatment::Limit(limit) => serve(stream, number, (Some(limit), None), script, seen, goaways).await,
        Treatment::Stock => serve(stream, number, (None, None), script, seen, goaways).await,
        Treatment::RefuseAll => refuse(stream, seen, false).await,
        Treatment::GoAway => refuse(stream, seen, true).await,
        Treatment::Flood(begin, again) => flood(stream, seen, &begin, &again).await,
        Treatment::Close => {
            let _ = stream.shutdown().await; // the gateway may have gone first
        }
        Treatment::Http1 => serve_http1(stream, number, seen).await,
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    number: usize,
    (limit, unread): (Option<u32>, Option<u32>),
    script: &Arc<Script>,
    seen: &Watched<Seen>,
    mut goaways: tokio::sync::watch::Receiver<Option<Reason>>,
) {
    let mut builder = h2::server::Builder::new();
    if let Some(limit) = limit {
        let window = unread.unwrap_or(1 << 20);
        builder.max_concurrent_streams(limit).initial_window_size(window).initial_connection_window_size(1 << 24);
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = goaways.changed() => {
                match goaways.borrow().unwrap_or(Reason::NO_ERROR) {
                    Reason::NO_ERROR => {
                        connection.graceful_shutdown();
                        if let Some(mut ping) = connection.ping_pong() {
                            let seen = seen.clone();
                            tokio::spawn(async move {
                                // What follows the GOAWAY and is answered proves that it was read.
                                if ping.ping(Ping::opaque()).await.is_ok() {
                                    seen.change(|seen| seen.told += 1);
                                }
                            });
                        }
                    }
                    reason => connection.abrupt_shutdown(reason),
                }
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        let (script, seen) = (Arc::clone(script), seen.clone());
        tokio::spawn(async move {
            let (parts, mut incoming) = request.into_parts();
            let mut body = Vec::new();
            while unread.is_none()
                && let Some(piece) = incoming.data().await
            {
                // What never came whole was no request: its connection was going away.
                let Ok(piece) = piece else { return };
                // Fails only when the stream is gone, which the next call tells.
                let _ = incoming.flow_control().release_capacity(piece.len());
                body.extend_from_slice(&piece);
            }
            let request = Recorded {
                connection: number,
                path: parts.uri.path().to_owned(),
                authority: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
                headers: parts.headers,
                body: body.into(),
            };
            let number = seen.change(|seen| {
                seen.open += 1;
                seen.most_open = seen.most_open.max(seen.open);
                if seen.forgets {
                    seen.forgotten += 1;
                    return seen.forgotten - 1;
                }
                seen.requests.push(request.clone());
                seen.requests.len() - 1
            });
            script(H2Exchange { request, number, respond, stream: None, seen }).await;
        });
    }
}

/// What a client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const ACK: u8 = 1;

/// One frame as it stands on the wire.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Sends frames that nobody asked for, until the gateway leaves.
async fn flood(stream: TlsStream<TcpStream>, seen: &Watched<Seen>, begin: &[u8], again: &[u8]) {
    let (mut incoming, mut outgoing) = tokio::io::split(stream);
    let hello = [frame(SETTINGS, 0, 0, b""), frame(SETTINGS, ACK, 0, b"")].concat();
    let mut preface = vec![0; PREFACE.len()];
    if incoming.read_exact(&mut preface).await.is_err() || outgoing.write_all(&hello).await.is_err() {
        return;
    }
    loop {
        let mut head = [0; 9];
        if incoming.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if incoming.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == HEADERS {
            break;
        }
    }
    seen.change(|seen| seen.refused += 1);
    let mut sink = tokio::io::sink();
    let reading = tokio::io::copy(&mut incoming, &mut sink);
    let writing = async {
        let mut sent = outgoing.write_all(begin).await;
        while sent.is_ok() {
            sent = outgoing.write_all(again).await;
        }
    };
    tokio::select! {
        _ = reading => {}
        () = writing => {}
    }
}

/// Speaks just enough of HTTP/2 to say that it processed nothing: `at_once`, or when the first request has come.
async fn refuse(mut stream: TlsStream<TcpStream>, seen: &Watched<Seen>, at_once: bool) {
    /// GOAWAY, last stream 0, NO_ERROR.
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut preface = vec![0; PREFACE.len()];
    if stream.read_exact(&mut preface).await.is_err() {
        return;
    }
    assert_eq!(preface, PREFACE);
    let mut out = vec![0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
    if at_once {
        out.extend_from_slice(&GOAWAY);
    }
    loop {
        if stream.write_all(&out).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        out.clear();
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        match head[3] {
            SETTINGS if head[4] & ACK == 0 => out = vec![0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0],
            HEADERS => {
                seen.change(|seen| seen.refused += 1);
                out = GOAWAY.to_vec();
            }
            _ => {}
        }
    }
}

async fn serve_http1(mut stream: TlsStream<TcpStream>, number: usize, seen: &Watched<Seen>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        let length = length.unwrap_or(0);
        while buffer.len() < end + length {
            if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                return;
            }
        }
        let request = Recorded {
            connection: number,
            path: head.split(' ').nth(1).unwrap_or_default().to_owned(),
            authority: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(&buffer[end..end + length]),
        };
        seen.change(|seen| seen.requests.push(request));
        buffer.drain(..end + length);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        if stream.write_all(answer).await.is_err() || stream.flush().await.is_err() {
            return;
        }
    }
}

/// One stream: the request and the means to answer it.
pub(crate) struct H2Exchange {
    pub(crate) request: Recorded,
    /// The number of the request, over all connections, from 0.
    pub(crate) number: usize,
    respond: SendResponse<Bytes>,
    stream: Option<SendStream<Bytes>>,
    seen: Watched<Seen>,
}

impl H2Exchange {
    /// Response headers; says whether the stream still took them.
    pub(crate) fn head(&mut self, status: u16, content_type: &str) -> bool {
        self.head_with(status, &[("content-type", content_type)])
    }

    /// As [`Self::head`], with these fields.
    pub(crate) fn head_with(&mut self, status: u16, fields: &[(&str, &str)]) -> bool {
        let head = http::Response::builder().status(status);
        let head = fields.iter().fold(head, |head, (name, value)| head.header(*name, *value)).body(());
        match self.respond.send_response(head.expect("a good head"), false) {
            Ok(stream) => {
                self.stream = Some(stream);
                true
            }
            Err(_) => false,
        }
    }

    pub(crate) fn sse_head(&mut self) -> bool {
        self.head(200, "text/event-stream")
    }

    /// Sends a piece when the window has room; says whether the stream still took it.
    pub(crate) async fn send(&mut self, bytes: impl Into<Bytes>) -> bool {
        let mut bytes = bytes.into();
        let Some(stream) = &mut self.stream else { return false };
        while !bytes.is_empty() {
            stream.reserve_capacity(bytes.len());
            let Some(Ok(room)) = poll_fn(|context| stream.poll_capacity(context)).await else { return false };
            if stream.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
                return false;
            }
        }
        true
    }

    /// Sends `piece` up to `times` times, until the window stays shut for half a second. Says how many bytes went.
    ///
    /// That nothing more will be taken cannot be seen but by waiting; were the wait too short, the figure would only be
    /// smaller, and a test that bounds it from above would not fail wrongly.
    pub(crate) async fn send_until_full(&mut self, piece: Vec<u8>, times: usize) -> usize {
        let mut sent = 0;
        for _ in 0..times {
            let sending = self.send(piece.clone());
            match tokio::time::timeout(std::time::Duration::from_millis(500), sending).await {
                Ok(true) => sent += piece.len(),
                Ok(false) | Err(_) => break,
            }
        }
        sent
    }

    /// The regular end.
    pub(crate) fn end(&mut self) {
        if let Some(stream) = &mut self.stream {
            // A stream that the gateway reset takes no end.
            let _ = stream.send_data(Bytes::new(), true);
        }
    }

    /// A complete 200 answer of type JSON.
    pub(crate) async fn json(mut self, body: impl Into<Bytes>) {
        if self.head(200, "application/json") && self.send(body).await {
            self.end();
        }
    }

    pub(crate) fn reset(&mut self, reason: Reason) {
        match &mut self.stream {
            Some(stream) => stream.send_reset(reason),
            None => self.respond.send_reset(reason),
        }
    }

    /// Whether no stream came before it on its connection.
    pub(crate) fn is_first(&self) -> bool {
        self.respond.stream_id().as_u32() == 1
    }

    /// Whether the gateway has reset the stream, as far as upstream has heard by now.
    pub(crate) fn is_reset(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        self.stream.as_mut().is_none_or(|stream| stream.poll_reset(&mut context).is_ready())
    }

    /// Waits until the gateway resets the stream, or the connection is gone, and records it.
    pub(crate) async fn until_cancelled(mut self) {
        let reset = match &mut self.stream {
            Some(stream) => poll_fn(|context| stream.poll_reset(context)).await,
            None => poll_fn(|context| self.respond.poll_reset(context)).await,
        };
        let reason = reset.unwrap_or(Reason::CONNECT_ERROR);
        let number = self.number;
        self.seen.change(|seen| seen.cancelled.push((number, reason)));
    }
}

impl Drop for H2Exchange {
    fn drop(&mut self) {
        self.seen.change(|seen| seen.open -= 1);
    }
}
