//! What all contestants stand before: chat completions over HTTP/1.1, and over TLS with HTTP/2 or HTTP/1.1, and Google's
//! metadata server. It says little and checks all that it is told.

mod http1;
mod http2;
mod metadata;
mod tls;

use crate::Result;
use crate::payload::{self, BEARER, Events, Question, UPSTREAM_PATH};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;

/// How a contestant reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1 without TLS.
    Plain,
    /// TLS; HTTP/2 for those who speak it.
    Tls,
    /// TLS with HTTP/1.1, also for those who speak HTTP/2.
    Tls1,
}

impl Wire {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Tls1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Tls1 => "tls1",
        }
    }
}

/// What the next requests get.
#[derive(Clone)]
pub(crate) struct Shape {
    /// The question as it has to come, from behind the model's name on.
    pub(crate) tail: Bytes,
    /// `None` is the one answer without a stream.
    pub(crate) stream: Option<StreamShape>,
}

/// A stream of events.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamShape {
    pub(crate) events: u64,
    /// From one event to the next.
    pub(crate) interval: Duration,
}

/// What has come so far.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) connections: Cell<u64>,
    pub(crate) handshakes: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    /// Bytes of all bodies.
    pub(crate) body_bytes: Cell<u64>,
    /// Requests that were not what was asked, to the last byte.
    pub(crate) wrong: Cell<u64>,
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// The server.
pub(crate) struct Upstream {
    shared: Rc<Shared>,
    plain: SocketAddr,
    tls: SocketAddr,
    tls1: SocketAddr,
    pub(crate) metadata: SocketAddr,
    certificates: tempfile::TempDir,
}

/// What all connections know.
struct Shared {
    started: Instant,
    shape: RefCell<Shape>,
    counts: Counts,
    answer: Bytes,
    events: Events,
    /// Streams of a generation before this one end at once, as they would at their end.
    generation: watch::Sender<u64>,
}

impl Upstream {
    /// Starts it on ports of its own. `started` is the zero of the times in events.
    pub(crate) async fn start(started: Instant) -> Result<Self> {
        let question = Question::new(1024, false);
        let shared = Rc::new(Shared {
            started,
            shape: RefCell::new(Shape { tail: question.tail, stream: None }),
            counts: Counts::default(),
            answer: payload::answer(),
            events: Events::new(),
            generation: watch::Sender::new(0),
        });
        let certificates = tempfile::tempdir()?;
        let [tls, tls1] = tls::acceptors(&certificates.path().join("authority"))?;
        let (plain_listener, tls_listener, tls1_listener) = (listen()?, listen()?, listen()?);
        let metadata_listener = listen()?;
        let upstream = Self {
            shared: shared.clone(),
            plain: plain_listener.local_addr()?,
            tls: tls_listener.local_addr()?,
            tls1: tls1_listener.local_addr()?,
            metadata: metadata_listener.local_addr()?,
            certificates,
        };
        let of_plain = shared.clone();
        accept(plain_listener, move |stream| {
            let shared = of_plain.clone();
            async move { http1::serve(stream, &shared).await }
        });
        for (listener, acceptor) in [(tls_listener, tls), (tls1_listener, tls1)] {
            let shared = shared.clone();
            accept(listener, move |stream| {
                let (shared, acceptor) = (shared.clone(), acceptor.clone());
                async move {
                    add(&shared.counts.handshakes, 1);
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        http2::serve(stream, shared).await;
                    } else {
                        http1::serve(stream, &shared).await;
                    }
                }
            });
        }
        accept(metadata_listener, metadata::serve);
        Ok(upstream)
    }

    pub(crate) fn address(&self, wire: Wire) -> SocketAddr {
        match wire {
            Wire::Plain => self.plain,
            Wire::Tls => self.tls,
            Wire::Tls1 => self.tls1,
        }
    }

    /// The file that its certificate is verified against.
    pub(crate) fn authority(&self) -> PathBuf {
        self.certificates.path().join("authority")
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// What the next requests get.
    pub(crate) fn expect(&self, question: &Question, stream: Option<StreamShape>) {
        *self.shared.shape.borrow_mut() = Shape { tail: question.tail.clone(), stream };
    }

    /// Lets all streams end now.
    pub(crate) fn end_streams(&self) {
        self.shared.generation.send_modify(|generation| *generation += 1);
    }
}

impl Shared {
    fn nanoseconds(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Judges a request whose body has ended.
    fn judge(&self, is_right: bool) {
        add(&self.counts.requests, 1);
        add(&self.counts.wrong, u64::from(!is_right));
    }
}

/// The events of one stream, each at its time.
struct Pacer {
    shape: StreamShape,
    next: u64,
    due: tokio::time::Instant,
    ended: watch::Receiver<u64>,
    generation: u64,
}

impl Pacer {
    fn new(shared: &Shared, shape: StreamShape) -> Self {
        let ended = shared.generation.subscribe();
        let generation = *ended.borrow();
        Self { shape, next: 0, due: tokio::time::Instant::now(), ended, generation }
    }

    /// The number of the next event when it is due; `None` at the end of the stream.
    async fn next(&mut self) -> Option<u64> {
        if self.next == self.shape.events {
            return None;
        }
        if self.next > 0 {
            self.due += self.shape.interval;
            let generation = self.generation;
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(self.due) => {}
                _ = self.ended.wait_for(|now| *now > generation) => return None,
            }
        }
        self.next += 1;
        Some(self.next - 1)
    }
}

fn listen() -> Result<TcpListener> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket.listen(BACKLOG)?)
}

fn accept<F, T>(listener: TcpListener, serve: F)
where
    F: Fn(tokio::net::TcpStream) -> T + 'static,
    T: Future<Output = ()> + 'static,
{
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            spawn_local(serve(stream));
        }
    });
}

/// Whether path and bearer are those that Vertex AI would want.
fn is_authorized(path: &[u8], authorization: Option<&[u8]>) -> bool {
    (path == UPSTREAM_PATH.as_bytes() || path == b"/v1/chat/completions") && authorization == Some(BEARER.as_bytes())
}
