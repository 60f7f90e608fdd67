//! HTTP/2 connections to upstream, each shared by many requests.
//!
//! On `h2` itself. hyper's client starts a task for every request and hands it, and each answer, from task to task, and it
//! says nothing of what was sent. Here a request puts itself on the connection and looks after its own stream; the
//! connection's only task moves frames.

use super::body::RequestBody;
use super::wire::{Departure, Wire};
use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::Request;
use http::response::Parts;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep, timeout};

/// Flow-control windows in bytes. A reader that stops holds at most its stream's window, and the connection's is as
/// large as those of all its streams together, so that it stops nobody else.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Largest head of an answer, in bytes.
const MAX_HEAD_BYTES: u32 = 16 * 1024;
/// Streams that were given up are remembered for a second, so many of them: what upstream had sent by then is no offence.
/// Of frames for streams that are forgotten the library stands a thousand in a connection's life, and then breaks it.
const REMEMBERED_STREAMS: usize = 10_000;
/// What the library may spend on small pieces that no reader has taken, in bytes: it counts 256 for each, less its length,
/// and with more it breaks the connection. The window of one stream, filled byte by byte, costs less.
const SMALL_PIECES_BYTES: usize = 16 * 1024 * 1024;
/// While streams are open a PING goes out after this much silence, and an answer is due within the second figure.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long upstream may take to send its SETTINGS, which should be the first thing it says.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection. Its task ends when this is dropped and no stream is open.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

/// What the pool, the requests and the connection's task know of each other.
#[derive(Debug, Default)]
struct Shared {
    /// Streams that upstream allows, as the task last read it.
    allowed: AtomicUsize,
    /// Streams that are taken.
    taken: AtomicUsize,
    /// Requests whose head is on its way and of whose body nothing is.
    bodies_due: AtomicUsize,
    departure: Departure,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{0}")]
    Failed(StreamError),
    #[error("it was closed at once")]
    ClosedAtOnce,
    #[error("upstream's HTTP/2 connection allows no request")]
    NoSettings,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum SendError {
    /// It never left: its connection had died or was going away.
    Unsent(StreamError),
    /// Its connection went away without processing it: its stream is beyond the last one that a GOAWAY names, or nothing
    /// of its body had left.
    LeftBehind(StreamError),
    /// Upstream refused this one stream without processing it.
    Refused(StreamError),
    Broke(StreamError),
}

impl Connection {
    /// Makes a connection of a byte stream, and waits for upstream's SETTINGS: of requests that left before upstream has
    /// said how much it takes, some could wait inside the connection for others' end.
    ///
    /// # Errors
    /// When there is none that takes a request.
    pub(super) async fn open<T>(stream: T) -> Result<Self, OpenError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::start(stream, (PING_INTERVAL, PING_TIMEOUT)).await
    }

    async fn start<T>(stream: T, (interval, patience): (Duration, Duration)) -> Result<Self, OpenError>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error| OpenError::Failed(StreamError(error));
        let shared = Arc::new(Shared::default());
        let wire = Wire::new(stream, shared.departure.clone());
        let (sender, mut connection) = client::Builder::new()
            .initial_max_send_streams(0)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEAD_BYTES)
            .max_concurrent_reset_streams(REMEMBERED_STREAMS)
            .data_frame_budget(SMALL_PIECES_BYTES)
            .enable_push(false)
            .handshake(wire.clone())
            .await
            .map_err(failed)?;
        let settling = poll_fn(|cx| {
            let polled = Pin::new(&mut connection).poll(cx);
            let _ = wire.poll_send(cx);
            match (polled, connection.max_concurrent_send_streams()) {
                (Poll::Ready(_), _) => Poll::Ready(Err(OpenError::ClosedAtOnce)),
                (Poll::Pending, 0) => Poll::Pending,
                (Poll::Pending, allowed) => Poll::Ready(Ok(allowed)),
            }
        });
        let allowed = timeout(SETTINGS_TIMEOUT, settling).await.unwrap_or(Err(OpenError::NoSettings))?;
        shared.allowed.store(allowed, Ordering::Relaxed);
        let silence = connection.ping_pong().map(|pings| Silence::new(pings, interval, patience));
        tokio::spawn(drive(connection, wire, shared.clone(), silence));
        Ok(Self { sender, shared })
    }

    /// How many more streams it has room for, and `most` at most.
    pub(super) fn room(&self, most: usize) -> usize {
        self.shared.allowed.load(Ordering::Relaxed).min(most).saturating_sub(self.taken())
    }

    /// How many streams are taken.
    pub(super) fn taken(&self) -> usize {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Whether it takes requests: it has not ended, and upstream has not said goodbye.
    pub(super) fn takes_requests(&mut self) -> bool {
        !matches!(self.sender.poll_ready(&mut Context::from_waker(Waker::noop())), Poll::Ready(Err(_)))
    }

    /// Takes a stream.
    pub(super) fn take_stream(&self) -> Self {
        self.shared.taken.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// Gives a stream back.
    pub(super) fn give_back_stream(&self) {
        self.shared.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a request on a stream that is taken, and waits for the head of its answer. An answer may begin before the
    /// request is sent, whose rest then goes out while the answer's body is waited for. Dropping the future resets the
    /// stream.
    ///
    /// # Errors
    /// When there is no answer to be had.
    pub(super) async fn send(&mut self, head: Request<()>, body: &RequestBody) -> Result<(Parts, Body), SendError> {
        let unsent = |error| SendError::Unsent(StreamError(error));
        poll_fn(|cx| self.sender.poll_ready(cx)).await.map_err(unsent)?;
        let (mut answer, stream) = self.sender.send_request(head, body.is_empty()).map_err(unsent)?;
        let mut outgoing = Outgoing::new(stream, body, self.shared.clone());
        let answered = poll_fn(|cx| {
            let _ = outgoing.poll_send(cx);
            Pin::new(&mut answer).poll(cx)
        });
        match answered.await {
            Ok(answer) => {
                let (head, incoming) = answer.into_parts();
                Ok((head, Body { incoming, outgoing }))
            }
            Err(error) => {
                let error = StreamError(error);
                // The library closes a connection that is going away when no stream is open.
                let was_closed_here = self.shared.departure.was_first() && error.is_end_of_connection();
                Err(if was_closed_here {
                    SendError::Unsent(error)
                } else if error.was_left_behind() || (error.is_of_connection() && outgoing.is_untouched()) {
                    SendError::LeftBehind(error)
                } else if error.was_refused() {
                    SendError::Refused(error)
                } else {
                    SendError::Broke(error)
                })
            }
        }
    }
}

/// The connection's task: moves frames until there is nothing more to move.
async fn drive<T>(
    mut connection: client::Connection<Wire<T>, Bytes>,
    wire: Wire<T>,
    shared: Arc<Shared>,
    mut silence: Option<Silence>,
) where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut has_waited = false;
    // Its errors reach the requests.
    poll_fn(|cx| {
        let done = Pin::new(&mut connection).poll(cx).is_ready();
        shared.allowed.store(connection.max_concurrent_send_streams(), Ordering::Relaxed);
        // All that the requests of this turn have to send goes out together. There is room for a body only now that its
        // head has had its turn, so the requests have theirs before the first of it leaves.
        has_waited = !has_waited && shared.bodies_due.load(Ordering::Relaxed) > 0;
        if has_waited {
            cx.waker().wake_by_ref();
        }
        let is_stuck = !has_waited && wire.poll_send(cx).is_pending();
        let is_dead = silence.as_mut().is_some_and(|silence| {
            // Who reads nothing must not keep a connection that nobody uses any more.
            let is_in_use = is_stuck || shared.taken.load(Ordering::Relaxed) > 0;
            silence.poll_too_long(cx, wire.last_heard(), is_in_use).is_ready()
        });
        if done || is_dead { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Finds out that upstream has gone without a word.
struct Silence {
    pings: PingPong,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    awaits_pong: bool,
}

impl Silence {
    fn new(pings: PingPong, interval: Duration, timeout: Duration) -> Self {
        Self { pings, interval, timeout, timer: Box::pin(sleep(interval)), awaits_pong: false }
    }

    /// Ready when an answer to a PING has not come in time.
    fn poll_too_long(&mut self, cx: &mut Context<'_>, last_heard: Instant, is_in_use: bool) -> Poll<()> {
        if self.awaits_pong && self.pings.poll_pong(cx).is_ready() {
            self.awaits_pong = false;
            self.timer.as_mut().reset(last_heard + self.interval);
        }
        let due = last_heard + self.interval;
        // While it was idle nobody cared.
        if is_in_use && !self.awaits_pong && self.timer.deadline() > due {
            self.timer.as_mut().reset(due);
        }
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.awaits_pong {
                return Poll::Ready(());
            }
            let now = Instant::now();
            if is_in_use && due <= now {
                self.awaits_pong = self.pings.send_ping(Ping::opaque()).is_ok();
                self.timer.as_mut().reset(now + self.timeout);
                let _ = self.pings.poll_pong(cx);
            } else {
                self.timer.as_mut().reset(if is_in_use { due } else { now + self.interval });
            }
        }
    }
}

/// What is still to be sent of a request's body. If not all of it has been when this is dropped, or the answer has not
/// ended, the stream is reset.
struct Outgoing {
    stream: SendStream<Bytes>,
    /// In the reverse order of sending.
    pieces: Vec<Bytes>,
    has_begun: bool,
    /// Whether the answer has ended.
    is_answered: bool,
    shared: Arc<Shared>,
}

impl Outgoing {
    fn new(mut stream: SendStream<Bytes>, body: &RequestBody, shared: Arc<Shared>) -> Self {
        // Only what there is room for is handed over, and no more than once: nothing waits where it could not be taken
        // back. There is none before the head has been sent, which has to wait where upstream takes fewer streams than
        // it did a moment ago.
        stream.reserve_capacity(body.len());
        let has_begun = body.is_empty();
        shared.bodies_due.fetch_add(usize::from(!has_begun), Ordering::Relaxed);
        Self { stream, pieces: body.frames(), has_begun, is_answered: false, shared }
    }

    fn begin(&mut self) {
        if !self.has_begun {
            self.has_begun = true;
            self.shared.bodies_due.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether upstream cannot have any of it, and so cannot have processed the request.
    fn is_untouched(&self) -> bool {
        !self.has_begun
    }

    /// Sends what there is room for.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.pieces.is_empty() {
            let room = self.stream.capacity();
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    // Upstream does not want the rest. What it says instead is found where the answer is waited for.
                    Some(Err(_)) | None => return Poll::Pending,
                }
            }
            self.begin();
            let Some(piece) = self.pieces.last_mut() else { break };
            let part = piece.split_to(room.min(piece.len()));
            if piece.is_empty() {
                self.pieces.pop();
            }
            if self.stream.send_data(part, self.pieces.is_empty()).is_err() {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.begin();
        // Left to itself the library would reset the stream as well, but keep what it has of the body until the reset
        // can be sent.
        if !self.pieces.is_empty() || !self.is_answered {
            self.stream.send_reset(Reason::CANCEL);
        }
    }
}

/// The body of an answer that is still coming.
pub(crate) struct Body {
    incoming: RecvStream,
    outgoing: Outgoing,
}

impl Body {
    /// The next piece. Trailers are left out.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let _ = self.outgoing.poll_send(cx);
        let piece = ready!(self.incoming.poll_data(cx));
        self.outgoing.is_answered = piece.is_none();
        if let Some(Ok(piece)) = &piece {
            // It fails only for more than was received.
            let _ = self.incoming.flow_control().release_capacity(piece.len());
        }
        Poll::Ready(piece.map(|piece| piece.map_err(StreamError)))
    }
}

/// How a stream or its connection ended.
///
/// Not shown in the words of h2, which quotes what upstream put into a GOAWAY: that may be anything, what it was sent
/// included.
pub(crate) struct StreamError(h2::Error);

impl StreamError {
    /// Whether it failed since its connection ended, and for no reason of its own.
    fn is_end_of_connection(&self) -> bool {
        self.0.get_io().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// Whether it is not about the stream alone.
    fn is_of_connection(&self) -> bool {
        !self.0.is_reset()
    }

    /// Whether upstream said that it will not process the stream.
    fn was_left_behind(&self) -> bool {
        self.0.is_remote() && self.0.is_go_away()
    }

    /// Whether upstream said that it did not process the stream, and nothing of its connection.
    fn was_refused(&self) -> bool {
        self.0.is_remote() && self.0.is_reset() && self.0.reason() == Some(Reason::REFUSED_STREAM)
    }
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match (self.0.is_go_away(), self.0.is_reset()) {
            (true, _) => "the connection",
            (_, true) => "the stream",
            _ => "HTTP/2",
        };
        let by = if self.0.is_remote() { "upstream" } else { "the gateway" };
        match (self.0.reason(), self.0.get_io()) {
            (Some(reason), _) => write!(f, "{of} was ended by {by}: {reason:?}"),
            (None, Some(error)) => write!(f, "the connection broke: {error}"),
            (None, None) => f.write_str("no HTTP/2 request can be made of it"),
        }
    }
}

impl fmt::Debug for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for StreamError {}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    /// How upstream answers PINGs.
    async fn upstream(stream: DuplexStream, answers: bool) {
        let upstream = h2::server::handshake(stream).await;
        let mut upstream: h2::server::Connection<_, Bytes> = upstream.unwrap();
        if answers {
            while upstream.accept().await.is_some() {}
        }
        std::future::pending::<()>().await;
    }

    /// A connection's task, with short times for silence, and a stream that is taken or not.
    async fn is_ended_by_silence(upstream_answers: bool, is_in_use: bool) -> bool {
        let (this_end, other_end) = duplex(64 * 1024);
        let upstream = tokio::spawn(upstream(other_end, upstream_answers));
        let shared = Arc::new(Shared::default());
        let wire = Wire::new(this_end, shared.departure.clone());
        let handshake = client::Builder::new().handshake::<_, Bytes>(wire.clone()).await;
        let (_sender, mut connection) = handshake.unwrap();
        shared.taken.store(usize::from(is_in_use), Ordering::Relaxed);
        let times = (Duration::from_millis(50), Duration::from_millis(300));
        let silence = connection.ping_pong().map(|pings| Silence::new(pings, times.0, times.1));
        // Longer than three silences of a connection that is in use.
        let ended = timeout(Duration::from_millis(1500), drive(connection, wire, shared, silence)).await;
        upstream.abort();
        ended.is_ok()
    }

    #[tokio::test]
    async fn who_answers_no_ping_has_gone() {
        assert!(is_ended_by_silence(false, true).await);
    }

    #[tokio::test]
    async fn who_answers_pings_has_not() {
        assert!(!is_ended_by_silence(true, true).await);
    }

    #[tokio::test]
    async fn nobody_is_asked_while_no_stream_is_open() {
        assert!(!is_ended_by_silence(false, false).await);
    }

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const END_HEADERS: u8 = 4;
    /// `:status: 200`
    const OK: &[u8] = &[0x88];

    /// One frame as it stands on the wire.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }

    fn head() -> Request<()> {
        let mut head = Request::new(());
        *head.method_mut() = http::Method::POST;
        *head.uri_mut() = "https://upstream/chat".parse().unwrap();
        head
    }

    fn body(pieces: &[Bytes]) -> RequestBody {
        RequestBody::new(pieces.to_vec())
    }

    /// Until nobody has anything to do: what is left waits for the test.
    async fn let_all_get_on() {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
    }

    /// A connection, and upstream's end of it, from which nobody reads; so many bytes fit in between.
    async fn connected(room: usize) -> (Connection, DuplexStream) {
        let (this_end, mut other_end) = duplex(room);
        // 100 streams, windows of 1 MiB.
        let settings = [[0, 3, 0, 0, 0, 100], [0, 4, 0, 16, 0, 0]].concat();
        let window = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
        other_end.write_all(&[frame(SETTINGS, 0, 0, &settings), window].concat()).await.unwrap();
        let short = (Duration::from_millis(50), Duration::from_millis(300));
        let connection = Connection::start(this_end, short).await.unwrap();
        let_all_get_on().await;
        (connection, other_end)
    }

    /// Waits for the end of the connection's task, the only other one that has this.
    async fn ends(shared: &Arc<Shared>) -> bool {
        let ending = async {
            while Arc::strong_count(shared) > 1 {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(5), ending).await.is_ok()
    }

    /// Counts what is written at once.
    struct Writes<T>(T, Arc<AtomicUsize>);

    impl<T: AsyncRead + Unpin> AsyncRead for Writes<T> {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            into: &mut tokio::io::ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, into)
        }
    }

    impl<T: AsyncWrite + Unpin> AsyncWrite for Writes<T> {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    #[tokio::test]
    async fn heads_and_bodies_of_all_who_ask_leave_at_once() {
        let (this_end, mut other_end) = duplex(1 << 20);
        other_end.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let writes = Arc::new(AtomicUsize::new(0));
        let connection = Connection::open(Writes(this_end, writes.clone())).await.unwrap();
        let_all_get_on().await;
        let before = writes.load(Ordering::Relaxed);
        for _ in 0..10 {
            let mut sender = connection.clone();
            tokio::spawn(async move { sender.send(head(), &body(&[Bytes::from_static(b"{}")])).await.map(|_| ()) });
        }
        let_all_get_on().await;
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
        assert_eq!(connection.shared.bodies_due.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn who_has_no_room_for_a_body_keeps_nobody_waiting() {
        let (this_end, mut other_end) = duplex(1 << 20);
        // A window of nothing.
        other_end.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await.unwrap();
        let mut connection = Connection::open(this_end).await.unwrap();
        let_all_get_on().await;
        let shared = connection.shared.clone();
        let asking =
            tokio::spawn(async move { connection.send(head(), &body(&[Bytes::from_static(b"{}")])).await.map(|_| ()) });
        let_all_get_on().await;
        let mut read = vec![0; 64 * 1024];
        let count = other_end.read(&mut read).await.unwrap();
        assert!(
            memchr::memmem::find(&read[..count], &[HEADERS, END_HEADERS, 0, 0, 0, 1]).is_some(),
            "the head is sent"
        );
        assert_eq!(shared.bodies_due.load(Ordering::Relaxed), 1);
        asking.abort();
        let_all_get_on().await;
        assert_eq!(shared.bodies_due.load(Ordering::Relaxed), 0);
    }

    /// A request whose body is handed over while upstream reads nothing, and which is given up then.
    async fn give_one_up(connection: &Connection) {
        let mut sender = connection.take_stream();
        let giving_up = body(&[Bytes::from(vec![0; 200_000]), Bytes::from(vec![0; 100_000])]);
        let sent = timeout(Duration::from_millis(20), sender.send(head(), &giving_up)).await;
        assert!(sent.is_err(), "nobody answers");
        sender.give_back_stream();
    }

    #[tokio::test]
    async fn what_was_never_sent_since_upstream_had_gone_is_not_taken_for_broken() {
        let (mut connection, other_end) = connected(64 * 1024).await;
        // The connection's task has not heard of it when the request is made.
        drop(other_end);
        let sent = connection.send(head(), &body(&[Bytes::from_static(b"{}")])).await;
        assert!(matches!(sent, Err(SendError::LeftBehind(_))), "{:?}", sent.err());
    }

    #[tokio::test]
    async fn what_may_have_been_sent_is_taken_for_broken() {
        let (mut connection, other_end) = connected(64 * 1024).await;
        let sending = tokio::spawn(async move { connection.send(head(), &body(&[Bytes::from_static(b"{}")])).await });
        let_all_get_on().await;
        drop(other_end);
        let sent = sending.await.unwrap();
        assert!(matches!(sent, Err(SendError::Broke(_))), "{:?}", sent.err());
    }

    #[tokio::test]
    async fn who_is_dropped_ends_though_upstream_reads_nothing() {
        let (connection, _other_end) = connected(4096).await;
        give_one_up(&connection).await;
        let shared = connection.shared.clone();
        drop(connection);
        assert!(ends(&shared).await);
    }

    #[tokio::test]
    async fn who_is_idle_and_cannot_send_is_found_dead() {
        let (mut connection, _other_end) = connected(4096).await;
        give_one_up(&connection).await;
        assert!(ends(&connection.shared).await);
        assert!(!connection.takes_requests());
    }

    #[tokio::test]
    async fn who_hears_the_end_ends_though_upstream_reads_nothing() {
        let (this_end, mut other_end) = duplex(4096);
        other_end.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0])).await.unwrap();
        let connection = Connection::open(this_end).await.unwrap();
        give_one_up(&connection).await;
        let shared = connection.shared.clone();
        drop(connection);
        other_end.shutdown().await.unwrap();
        assert!(ends(&shared).await);
    }

    #[tokio::test]
    async fn who_is_dropped_ends() {
        let (connection, other_end) = connected(64 * 1024).await;
        let shared = connection.shared.clone();
        drop(connection);
        assert!(ends(&shared).await);
        drop(other_end);
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_is_kept_nowhere() {
        let (connection, _other_end) = connected(4096).await;
        let pieces = [Bytes::from(vec![0; 200_000]), Bytes::from(vec![0; 100_000])];
        let mut sender = connection.take_stream();
        let sending = body(&pieces);
        let sent = timeout(Duration::from_millis(20), sender.send(head(), &sending)).await;
        assert!(sent.is_err(), "nobody answers");
        drop(sending);
        assert!(pieces[1].is_unique(), "who has not been sent is not kept for later");
    }

    /// What upstream had sent before it heard that a stream was reset must not be held against it.
    #[tokio::test]
    async fn many_hang_ups_do_not_cost_a_connection() {
        const STREAMS: u32 = 100;
        let (mut connection, other_end) = connected(1 << 20).await;
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        tokio::spawn(async move { tokio::io::copy(&mut incoming, &mut tokio::io::sink()).await });
        for round in 0..30 {
            let ids = (0..STREAMS).map(|number| 1 + 2 * (round * STREAMS + number));
            let answers: Vec<_> = (0..STREAMS)
                .map(|_| {
                    let mut sender = connection.clone();
                    tokio::spawn(async move { sender.send(head(), &body(&[Bytes::from_static(b"{}")])).await })
                })
                .collect();
            let_all_get_on().await;
            let heads: Vec<u8> = ids.clone().flat_map(|id| frame(HEADERS, END_HEADERS, id, OK)).collect();
            outgoing.write_all(&heads).await.unwrap();
            for answer in answers {
                // The client has left.
                drop(answer.await.unwrap().unwrap());
            }
            let_all_get_on().await;
            let late: Vec<u8> = ids.flat_map(|id| frame(DATA, 0, id, b"data: 1\n\n")).collect();
            outgoing.write_all(&late).await.unwrap();
            let_all_get_on().await;
            assert!(connection.takes_requests(), "after {} hang-ups", (round + 1) * STREAMS);
        }
    }

    #[tokio::test]
    async fn a_reader_that_stops_costs_no_connection_however_small_the_pieces() {
        let (mut connection, other_end) = connected(1 << 20).await;
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        tokio::spawn(async move { tokio::io::copy(&mut incoming, &mut tokio::io::sink()).await });
        let mut sender = connection.clone();
        let answer =
            tokio::spawn(async move { sender.send(head(), &body(&[Bytes::from_static(b"{}")])).await.unwrap() });
        let_all_get_on().await;
        outgoing.write_all(&frame(HEADERS, END_HEADERS, 1, OK)).await.unwrap();
        let answer = answer.await.unwrap();
        // As much as its window allows, byte by byte.
        let piece = frame(DATA, 0, 1, b"x").repeat(1024);
        for _ in 0..STREAM_WINDOW / 1024 {
            outgoing.write_all(&piece).await.unwrap();
            let_all_get_on().await;
        }
        assert!(connection.takes_requests());
        drop(answer);
    }

    #[tokio::test]
    async fn who_was_silent_while_idle_is_asked_as_soon_as_it_is_used() {
        let (this_end, _other_end) = duplex(64 * 1024);
        let (_sender, mut connection) = client::Builder::new().handshake::<_, Bytes>(this_end).await.unwrap();
        let mut silence = Silence::new(connection.ping_pong().unwrap(), PING_INTERVAL, PING_TIMEOUT);
        let long_ago = Instant::now() - 2 * PING_INTERVAL;
        let asking = poll_fn(|cx| {
            assert!(silence.poll_too_long(cx, long_ago, true).is_pending());
            if silence.awaits_pong { Poll::Ready(()) } else { Poll::Pending }
        });
        assert!(timeout(Duration::from_secs(5), asking).await.is_ok());
    }

    /// RFC 9113, section 8.1: a complete answer may be followed by a reset that only means that the rest of the request
    /// is not wanted.
    #[tokio::test]
    async fn an_answer_before_a_reset_without_error_comes_whole() {
        const RST_STREAM: u8 = 3;
        let (mut connection, mut other_end) = connected(1 << 20).await;
        let mut sender = connection.clone();
        // More than there is room for.
        let pieces = [Bytes::from(vec![0; 3 << 20])];
        let sending = tokio::spawn(async move { sender.send(head(), &body(&pieces)).await });
        let_all_get_on().await;
        let data = [frame(DATA, 0, 1, b"all "), frame(DATA, 1, 1, b"of it")].concat();
        let frames = [frame(HEADERS, END_HEADERS, 1, OK), data, frame(RST_STREAM, 0, 1, &[0; 4])];
        other_end.write_all(&frames.concat()).await.unwrap();
        let (_, mut answer) = sending.await.unwrap().unwrap();
        let mut whole = Vec::new();
        while let Some(piece) = poll_fn(|cx| answer.poll_piece(cx)).await {
            whole.extend_from_slice(&piece.unwrap());
        }
        assert_eq!(whole, b"all of it");
        drop(answer);
        let_all_get_on().await;
        assert!(connection.takes_requests());
    }

    #[tokio::test]
    async fn a_body_goes_up_whole_through_windows_that_open_and_shut() {
        let (mut connection, other_end) = connected(1 << 20).await;
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        let (frames, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            incoming.read_exact(&mut [0; b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len()]).await.unwrap();
            loop {
                let mut head = [0; 9];
                if incoming.read_exact(&mut head).await.is_err() {
                    return;
                }
                let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                incoming.read_exact(&mut payload).await.unwrap();
                frames.send((head[3], head[4], payload)).unwrap();
            }
        });
        let window = |size: u32| frame(SETTINGS, 0, 0, &[&[0, 4], &size.to_be_bytes()[..]].concat());
        let more = |bytes: u32| frame(WINDOW_UPDATE, 0, 1, &bytes.to_be_bytes());
        let frame_size = frame(SETTINGS, 0, 0, &[0, 5, 0, 0, 0x50, 0]);
        let mut nudges =
            [more(1), window(0), more(30_000), frame_size, window(7), more(50_000), window(0), window(90_000)]
                .into_iter()
                .cycle();
        outgoing.write_all(&window(10)).await.unwrap();
        let_all_get_on().await;
        let expected: Vec<u8> = (0..400_000u32).map(|number| (number % 251) as u8).collect();
        let pieces: Vec<_> = expected.chunks(150_000).map(Bytes::copy_from_slice).collect();
        let sending = tokio::spawn(async move { connection.send(head(), &body(&pieces)).await });
        let mut got = Vec::new();
        loop {
            match timeout(Duration::from_millis(2), arrived.recv()).await {
                Ok(Some((DATA, flags, payload))) => {
                    got.extend_from_slice(&payload);
                    if flags & 1 > 0 {
                        break;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => panic!("the connection ended after {} bytes", got.len()),
                Err(_) => outgoing.write_all(&nudges.next().unwrap()).await.unwrap(),
            }
        }
        assert!(got == expected);
        outgoing.write_all(&frame(HEADERS, END_HEADERS | 1, 1, OK)).await.unwrap();
        assert!(sending.await.unwrap().is_ok());
    }

    /// Places that upstream takes away while requests stand on them: they wait, and go up when others have ended.
    #[tokio::test]
    async fn requests_beyond_a_lowered_limit_wait_and_are_not_lost() {
        let (connection, mut other_end) = connected(1 << 20).await;
        let mut sending = Vec::new();
        for _ in 0..3 {
            let mut sender = connection.clone();
            let pieces = [Bytes::from_static(b"{}")];
            sending.push(tokio::spawn(async move { sender.send(head(), &body(&pieces)).await.map(drop) }));
        }
        // One stream at a time, before any has been sent.
        other_end.write_all(&frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1])).await.unwrap();
        let_all_get_on().await;
        for (number, sent) in sending.into_iter().enumerate() {
            let id = 1 + 2 * u32::try_from(number).unwrap();
            assert!(!sent.is_finished());
            other_end.write_all(&frame(HEADERS, END_HEADERS | 1, id, OK)).await.unwrap();
            assert!(sent.await.unwrap().is_ok());
            let_all_get_on().await;
        }
        assert_eq!(connection.room(100), 1);
    }
}
