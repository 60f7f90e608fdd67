//! The server itself: who listens, what the next requests get, and what all connections know.

use super::{Addresses, Counts, StreamShape, http1, http2, metadata, tls};
use crate::Result;
use crate::payload::{self, Events, Question};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::spawn_local;

/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 4096;

/// What the next requests get.
#[derive(Clone)]
pub(super) struct Shape {
    /// The question as it has to come, from behind the model's name on.
    pub(super) tail: Bytes,
    /// `None` is the one answer without a stream.
    pub(super) stream: Option<StreamShape>,
}

pub(super) fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// A server that runs, on this thread.
pub(super) struct Server {
    pub(super) shared: Rc<Shared>,
    pub(super) addresses: Addresses,
}

/// What all connections know.
pub(super) struct Shared {
    pub(super) shape: RefCell<Shape>,
    pub(super) counts: Counts,
    pub(super) answer: Bytes,
    pub(super) events: Events,
    /// Streams of a generation before this one end at once, as they would at their end.
    generation: watch::Sender<u64>,
}

impl Server {
    /// Starts it on ports of its own. The certificate that its own is verified against goes to a file.
    pub(super) fn start(authority: &Path) -> Result<Self> {
        let shared = Rc::new(Shared::new(Question::new(1024, false).tail));
        let [tls, tls1] = tls::acceptors(authority)?;
        let (plain_listener, tls_listener, tls1_listener) = (listen()?, listen()?, listen()?);
        let metadata_listener = listen()?;
        let addresses = Addresses {
            plain: plain_listener.local_addr()?,
            tls: tls_listener.local_addr()?,
            tls1: tls1_listener.local_addr()?,
            metadata: metadata_listener.local_addr()?,
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
        Ok(Self { shared, addresses })
    }
}

impl Shared {
    pub(super) fn new(tail: Bytes) -> Self {
        Self {
            shape: RefCell::new(Shape { tail, stream: None }),
            counts: Counts::default(),
            answer: payload::answer(),
            events: Events::new(),
            generation: watch::Sender::new(0),
        }
    }

    /// What the next requests get.
    pub(super) fn expect(&self, tail: Bytes, stream: Option<StreamShape>) {
        *self.shape.borrow_mut() = Shape { tail, stream };
    }

    /// Lets all streams end now.
    pub(super) fn end_streams(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Counts a connection, and that it is open until this is dropped.
    pub(super) fn open_connection(&self) -> OpenConnection<'_> {
        add(&self.counts.connections, 1);
        add(&self.counts.open, 1);
        OpenConnection(&self.counts)
    }

    /// Judges a request whose body has ended.
    pub(super) fn judge(&self, is_right: bool) {
        add(&self.counts.requests, 1);
        add(&self.counts.wrong, u64::from(!is_right));
    }
}

/// A connection while it is open.
pub(super) struct OpenConnection<'a>(&'a Counts);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// The events of one stream, each at its time.
pub(super) struct Pacer {
    shape: StreamShape,
    next: u64,
    due: tokio::time::Instant,
    ended: watch::Receiver<u64>,
    generation: u64,
}

impl Pacer {
    pub(super) fn new(shared: &Shared, shape: StreamShape) -> Self {
        let ended = shared.generation.subscribe();
        let generation = *ended.borrow();
        Self { shape, next: 0, due: tokio::time::Instant::now(), ended, generation }
    }

    /// The number of the next event when it is due; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<u64> {
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
