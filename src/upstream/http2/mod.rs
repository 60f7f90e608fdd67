//! HTTP/2 connections to upstream, each shared by many requests.
//!
//! Of our own, since it costs a third of what `h2` does: requests put themselves on the connection and fetch their answers,
//! what comes of a body is passed on before its frame is whole, and a request's head is what changed of the one before.
//! `protocol` knows the standard and does no input or output; `task` does nothing else.

mod answer;
mod backlog;
mod error;
mod frame;
mod protocol;
mod reader;
mod stream;
mod task;

pub use error::{Reason, SendError, Side, StreamError};
pub use protocol::Protocol;

use super::body::RequestBody;
use super::head::AnswerHead;
use super::watched::Progress;
use crate::hpack::Encoder;
use answer::MAX_HEAD_BYTES;
use bytes::Bytes;
use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncWrite};
use tokio::time::timeout;

/// Flow-control windows in bytes. A reader that stops holds at most its stream's window, and the connection's is as
/// large as those of all its streams together, so that it stops nobody else.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// What the stream below has to take at once, in bytes: sixteen TLS records. Where it takes less, an upload is cut into
/// pieces that are an odd record and a system call more.
pub(super) const TAKEN_BYTES: usize = 256 * 1024;
/// While streams are open a PING goes out after this much silence, and an answer is due within the second figure.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long upstream may take to send its SETTINGS, which should be the first thing it says.
const SETTINGS_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection. Its task ends when all clones of this are dropped and no stream is open.
pub(super) struct Connection(Arc<Shared>);

/// What the pool, the requests and the connection's task share. They are on one thread: the locks are never waited for.
#[derive(Debug)]
struct Shared {
    protocol: Mutex<Protocol>,
    /// Streams that upstream allows, as the task last read it.
    allowed: AtomicUsize,
    /// Streams that are taken.
    taken: AtomicUsize,
    /// How many [`Connection`]s there are of it.
    handles: AtomicUsize,
}

impl Shared {
    fn protocol(&self) -> MutexGuard<'_, Protocol> {
        self.protocol.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for Connection {
    fn clone(&self) -> Self {
        self.0.handles.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.protocol().wake_task();
        }
    }
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

impl Connection {
    /// Makes a connection of a byte stream, and waits for upstream's SETTINGS: of requests that left before upstream has
    /// said how much it takes, some could wait inside the connection for others' end.
    ///
    /// # Errors
    /// When there is none that takes a request.
    pub(super) async fn open<T>(stream: T) -> Result<Self, OpenError>
    where
        T: AsyncBufRead + AsyncWrite + Progress + Unpin + Send + 'static,
    {
        Self::start(stream, (PING_INTERVAL, PING_TIMEOUT)).await
    }

    async fn start<T>(stream: T, times: (Duration, Duration)) -> Result<Self, OpenError>
    where
        T: AsyncBufRead + AsyncWrite + Progress + Unpin + Send + 'static,
    {
        let shared = Arc::new(Shared {
            protocol: Mutex::new(Protocol::default()),
            allowed: AtomicUsize::new(0),
            taken: AtomicUsize::new(0),
            handles: AtomicUsize::new(1),
        });
        tokio::spawn(task::drive(stream, shared.clone(), times));
        let connection = Self(shared);
        let settled = poll_fn(|cx| connection.0.protocol().poll_settled(cx));
        match timeout(SETTINGS_TIMEOUT, settled).await {
            Ok(Ok(allowed)) => connection.0.allowed.store(allowed, Ordering::Relaxed),
            Ok(Err(StreamError::Closed | StreamError::Broke(_))) => return Err(OpenError::ClosedAtOnce),
            Ok(Err(error)) => return Err(OpenError::Failed(error)),
            Err(_) => return Err(OpenError::NoSettings),
        }
        Ok(connection)
    }

    /// How many more streams it has room for, and `most` at most.
    pub(super) fn room(&self, most: usize) -> usize {
        self.0.allowed.load(Ordering::Relaxed).min(most).saturating_sub(self.taken())
    }

    /// How many streams are taken.
    pub(super) fn taken(&self) -> usize {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Whether it takes requests: it has not ended, and upstream has not said goodbye.
    pub(super) fn takes_requests(&self) -> bool {
        self.0.protocol().takes_requests()
    }

    /// Takes a stream.
    pub(super) fn take_stream(&self) -> Self {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
        self.clone()
    }

    /// Gives a stream back.
    pub(super) fn give_back_stream(&self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a request on a stream that is taken, and waits for the head of its answer. An answer may begin before the
    /// request is sent, whose rest then goes out while the answer's body is waited for. Dropping the future resets the
    /// stream.
    ///
    /// # Errors
    /// When there is no answer to be had.
    pub(super) async fn send(
        &self,
        head: &impl Fn(&mut Encoder, &mut Vec<u8>),
        body: &RequestBody,
    ) -> Result<(AnswerHead, Body), SendError> {
        let opened = poll_fn(|cx| self.0.protocol().poll_open(cx, head, !body.is_empty()));
        let id = opened.await.map_err(SendError::Unsent)?;
        let mut stream = Open { shared: self.0.clone(), id, pieces: body.frames() };
        let head = poll_fn(|cx| {
            let mut protocol = stream.shared.protocol();
            protocol.send(id, &mut stream.pieces);
            protocol.poll_head(id, cx)
        });
        let head = head.await?;
        Ok((head, Body { stream, is_drained: false }))
    }
}

/// A stream that is open until this is dropped. What upstream has not said or taken by then is given up.
struct Open {
    shared: Arc<Shared>,
    id: u32,
    /// What is to be sent, in the reverse order.
    pieces: Vec<Bytes>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.protocol().close(self.id);
    }
}

/// The body of an answer that is still coming.
pub(crate) struct Body {
    stream: Open,
    /// All that had come has been fetched.
    is_drained: bool,
}

impl Body {
    /// Whether upstream has been sent all of the request.
    pub(super) fn is_request_sent(&self) -> bool {
        self.stream.pieces.is_empty()
    }

    /// Whether another piece, or the end, may be there without a wait.
    pub(super) fn may_have_more(&self) -> bool {
        !self.is_drained
    }

    /// The next piece. Trailers are left out.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StreamError>>> {
        let Open { shared, id, pieces } = &mut self.stream;
        let mut protocol = shared.protocol();
        if !pieces.is_empty() {
            protocol.send(*id, pieces);
        }
        let (piece, is_drained) = ready!(protocol.poll_data(*id, cx));
        self.is_drained = is_drained;
        Poll::Ready(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::super::watched::Watched;
    use super::*;
    use crate::hpack::Name;
    use proptest::prelude::*;
    use std::io;
    use std::pin::Pin;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex};
    use tokio::time::sleep;

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
        let times = (Duration::from_millis(50), Duration::from_millis(300));
        let connection = Connection::start(BufReader::new(Watched::new(this_end)), times).await.unwrap();
        connection.0.taken.store(usize::from(is_in_use), Ordering::Relaxed);
        // Longer than three silences of a connection that is in use.
        let ended = timeout(Duration::from_millis(1500), ends(&connection.0)).await;
        upstream.abort();
        ended == Ok(true)
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

    /// Windows without an end.
    fn boundless() -> Vec<u8> {
        let much = 0x7000_0000_u32.to_be_bytes();
        let settings = frame(SETTINGS, 0, 0, &[&[0, 4][..], &much].concat());
        [settings, frame(WINDOW_UPDATE, 0, 0, &much)].concat()
    }

    /// An upload to one that reads so much every 20 ms, and says nothing: whether it has been given up before a second and
    /// a half, which is five times the patience.
    async fn is_upload_given_up<T>(this_end: T, mut other_end: DuplexStream, bytes_at_a_time: usize) -> bool
    where
        T: AsyncBufRead + AsyncWrite + Progress + Send + Unpin + 'static,
    {
        let times = (Duration::from_millis(50), Duration::from_millis(250));
        let connection = Connection::start(this_end, times).await.unwrap();
        let sender = connection.take_stream();
        let upload = body(&[Bytes::from(vec![0; 1_000_000])]);
        let sending = sender.send(&head, &upload);
        let reading = async {
            let mut into = vec![0; bytes_at_a_time];
            loop {
                sleep(Duration::from_millis(20)).await;
                if bytes_at_a_time > 0 {
                    other_end.read_exact(&mut into).await.unwrap();
                }
            }
        };
        tokio::select! {
            sent = sending => sent.is_err(),
            () = reading => unreachable!("it goes on"),
            () = sleep(Duration::from_millis(1500)) => false,
        }
    }

    /// What fits in between where it is to be full soon, in bytes. A slow line needs a quarter of a second for it.
    const LITTLE: usize = 1024;

    /// The ends of a connection over which upstream has said that it takes all.
    async fn plain() -> (BufReader<Watched<DuplexStream>>, DuplexStream) {
        let (this_end, mut other_end) = duplex(LITTLE);
        other_end.write_all(&boundless()).await.unwrap();
        (BufReader::new(Watched::new(this_end)), other_end)
    }

    type Tls = tokio_rustls::client::TlsStream<Watched<DuplexStream>>;

    /// The same with TLS, whose buffer is between the connection and what can be seen; so many bytes fit in between.
    async fn both_over_tls(room: usize) -> (Tls, tokio_rustls::server::TlsStream<DuplexStream>) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let provider = || Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let (this_end, other_end) = duplex(room);
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let connecting = connector.connect("localhost".try_into().unwrap(), Watched::new(this_end));
        let accepting = tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(other_end);
        let (connected, accepted) = tokio::join!(connecting, accepting);
        let (mut connected, mut accepted) = (connected.unwrap(), accepted.unwrap());
        connected.get_mut().1.set_buffer_limit(Some(TAKEN_BYTES));
        accepted.write_all(&boundless()).await.unwrap();
        accepted.flush().await.unwrap();
        (connected, accepted)
    }

    /// The other end is below TLS.
    async fn over_tls() -> (Tls, DuplexStream) {
        let (connected, accepted) = both_over_tls(LITTLE).await;
        (connected, accepted.into_inner().0)
    }

    #[tokio::test]
    async fn who_takes_an_upload_slowly_is_there() {
        let (this_end, other_end) = plain().await;
        assert!(!is_upload_given_up(this_end, other_end, 2000).await);
    }

    #[tokio::test]
    async fn who_takes_nothing_of_an_upload_has_gone() {
        let (this_end, other_end) = plain().await;
        assert!(is_upload_given_up(this_end, other_end, 0).await);
    }

    #[tokio::test]
    async fn who_takes_an_upload_over_tls_slowly_is_there() {
        let (this_end, other_end) = over_tls().await;
        assert!(!is_upload_given_up(this_end, other_end, 2000).await);
    }

    #[tokio::test]
    async fn who_takes_nothing_of_an_upload_over_tls_has_gone() {
        let (this_end, other_end) = over_tls().await;
        assert!(is_upload_given_up(this_end, other_end, 0).await);
    }

    /// This side may be stopped as a whole: a machine that sleeps, a container that is given no CPU.
    #[tokio::test]
    async fn what_upstream_took_while_nobody_looked_is_a_sign_of_it() {
        let (this_end, mut other_end) = plain().await;
        let patience = Duration::from_secs(1);
        let connection = Connection::start(this_end, (Duration::from_millis(1), patience)).await.unwrap();
        let sender = connection.take_stream();
        let sending =
            tokio::spawn(
                async move { sender.send(&head, &body(&[Bytes::from(vec![0; 1_000_000])])).await.map(|_| ()) },
            );
        while !connection.0.protocol().is_pong_due() {
            sleep(Duration::from_millis(1)).await;
        }
        // All that has happened meanwhile is there at once then: room, and that the time is over.
        tokio::join!(sleep(patience), async { std::thread::sleep(patience + patience / 10) });
        other_end.read_exact(&mut [0; LITTLE / 2]).await.unwrap();
        let_all_get_on().await;
        assert!(!sending.is_finished());
        sending.abort();
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

    fn head(encoder: &mut Encoder, block: &mut Vec<u8>) {
        encoder.post_over_tls(block);
        encoder.once(block, Name::of(":authority"), b"upstream");
        encoder.once(block, Name::of(":path"), b"/chat");
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
        let connection = Connection::start(BufReader::new(Watched::new(this_end)), short).await.unwrap();
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

    impl<T: Progress> Progress for Writes<T> {
        fn take_progress(&mut self) -> bool {
            self.0.take_progress()
        }

        fn taken(&self) -> u64 {
            self.0.taken()
        }

        fn room(&self) -> u64 {
            self.0.room()
        }
    }

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
        let connection =
            Connection::open(BufReader::new(Writes(Watched::new(this_end), writes.clone()))).await.unwrap();
        let_all_get_on().await;
        let before = writes.load(Ordering::Relaxed);
        for _ in 0..10 {
            let sender = connection.clone();
            tokio::spawn(async move { sender.send(&head, &body(&[Bytes::from_static(b"{}")])).await.map(|_| ()) });
        }
        let_all_get_on().await;
        assert_eq!(writes.load(Ordering::Relaxed) - before, 1);
    }

    /// A request whose body is handed over while upstream reads nothing, and which is given up then.
    async fn give_one_up(connection: &Connection) {
        let sender = connection.take_stream();
        let giving_up = body(&[Bytes::from(vec![0; 200_000]), Bytes::from(vec![0; 100_000])]);
        let sent = timeout(Duration::from_millis(20), sender.send(&head, &giving_up)).await;
        assert!(sent.is_err(), "nobody answers");
        sender.give_back_stream();
    }

    #[tokio::test]
    async fn what_was_never_sent_since_upstream_had_gone_is_not_taken_for_broken() {
        let (connection, other_end) = connected(64 * 1024).await;
        // The connection's task has not heard of it when the request is made.
        drop(other_end);
        let sent = connection.send(&head, &body(&[Bytes::from_static(b"{}")])).await;
        assert!(matches!(sent, Err(SendError::LeftBehind(_))), "{:?}", sent.err());
    }

    #[tokio::test]
    async fn what_may_have_been_sent_is_taken_for_broken() {
        let (connection, other_end) = connected(64 * 1024).await;
        let sending = tokio::spawn(async move { connection.send(&head, &body(&[Bytes::from_static(b"{}")])).await });
        let_all_get_on().await;
        drop(other_end);
        let sent = sending.await.unwrap();
        assert!(matches!(sent, Err(SendError::Broke(_))), "{:?}", sent.err());
    }

    #[tokio::test]
    async fn who_is_dropped_ends_though_upstream_reads_nothing() {
        let (connection, _other_end) = connected(4096).await;
        give_one_up(&connection).await;
        let shared = connection.0.clone();
        drop(connection);
        assert!(ends(&shared).await);
    }

    #[tokio::test]
    async fn who_is_idle_and_cannot_send_is_found_dead() {
        let (connection, _other_end) = connected(4096).await;
        give_one_up(&connection).await;
        assert!(ends(&connection.0).await);
        assert!(!connection.takes_requests());
    }

    #[tokio::test]
    async fn who_hears_the_end_ends_though_upstream_reads_nothing() {
        let (this_end, mut other_end) = duplex(4096);
        other_end.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0])).await.unwrap();
        let connection = Connection::open(BufReader::new(Watched::new(this_end))).await.unwrap();
        give_one_up(&connection).await;
        let shared = connection.0.clone();
        drop(connection);
        other_end.shutdown().await.unwrap();
        assert!(ends(&shared).await);
    }

    #[tokio::test]
    async fn who_is_dropped_ends() {
        let (connection, other_end) = connected(64 * 1024).await;
        let shared = connection.0.clone();
        drop(connection);
        assert!(ends(&shared).await);
        drop(other_end);
    }

    #[tokio::test]
    async fn a_body_that_was_given_up_is_kept_nowhere() {
        let (connection, _other_end) = connected(4096).await;
        let pieces = [Bytes::from(vec![0; 200_000]), Bytes::from(vec![0; 100_000])];
        let sender = connection.take_stream();
        let sending = body(&pieces);
        let sent = timeout(Duration::from_millis(20), sender.send(&head, &sending)).await;
        assert!(sent.is_err(), "nobody answers");
        drop(sending);
        assert!(pieces[1].is_unique(), "who has not been sent is not kept for later");
    }

    /// What upstream had sent before it heard that a stream was reset must not be held against it.
    #[tokio::test]
    async fn many_hang_ups_do_not_cost_a_connection() {
        const STREAMS: u32 = 100;
        let (connection, other_end) = connected(1 << 20).await;
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        tokio::spawn(async move { tokio::io::copy(&mut incoming, &mut tokio::io::sink()).await });
        for round in 0..30 {
            let ids = (0..STREAMS).map(|number| 1 + 2 * (round * STREAMS + number));
            let answers: Vec<_> = (0..STREAMS)
                .map(|_| {
                    let sender = connection.clone();
                    tokio::spawn(async move { sender.send(&head, &body(&[Bytes::from_static(b"{}")])).await })
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
        let (connection, other_end) = connected(1 << 20).await;
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        tokio::spawn(async move { tokio::io::copy(&mut incoming, &mut tokio::io::sink()).await });
        let sender = connection.clone();
        let answer =
            tokio::spawn(async move { sender.send(&head, &body(&[Bytes::from_static(b"{}")])).await.unwrap() });
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

    /// RFC 9113, section 8.1: a complete answer may be followed by a reset that only means that the rest of the request
    /// is not wanted.
    #[tokio::test]
    async fn an_answer_before_a_reset_without_error_comes_whole() {
        const RST_STREAM: u8 = 3;
        let (connection, mut other_end) = connected(1 << 20).await;
        let sender = connection.clone();
        // More than there is room for.
        let pieces = [Bytes::from(vec![0; 3 << 20])];
        let sending = tokio::spawn(async move { sender.send(&head, &body(&pieces)).await });
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
        let (connection, other_end) = connected(1 << 20).await;
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
        let sending = tokio::spawn(async move { connection.send(&head, &body(&pieces)).await });
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
            let sender = connection.clone();
            let pieces = [Bytes::from_static(b"{}")];
            sending.push(tokio::spawn(async move { sender.send(&head, &body(&pieces)).await.map(drop) }));
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

    /// Upstream that takes nothing for a while, says much that is to be answered, and then takes all and answers.
    #[tokio::test]
    async fn who_was_not_listened_to_is_heard_once_all_that_was_owed_has_been_sent() {
        let (this_end, mut other_end) = duplex(256 * 1024);
        let settings = [[0, 3, 0, 0, 0, 100], [0, 4, 0, 16, 0, 0]].concat();
        let window = frame(WINDOW_UPDATE, 0, 0, &(1u32 << 20).to_be_bytes());
        other_end.write_all(&[frame(SETTINGS, 0, 0, &settings), window].concat()).await.unwrap();
        // With the times of a connection in use: a PING would come after 30 s.
        let connection = Connection::open(BufReader::new(Watched::new(this_end))).await.unwrap();
        let_all_get_on().await;
        let sending = {
            let connection = connection.take_stream();
            tokio::spawn(
                async move { connection.send(&head, &body(&[Bytes::from(vec![0; 261_000])])).await.map(|_| ()) },
            )
        };
        let_all_get_on().await;
        let (mut from, mut to) = tokio::io::split(other_end);
        // As many answers are owed as it takes not to be listened to, and the answer to the request is behind.
        let saying = tokio::spawn(async move {
            // More than fits in between, so that some of it waits to be read.
            for _ in 0..30_000 {
                to.write_all(&frame(6, 0, 0, b"are you?")).await.unwrap();
            }
            to.write_all(&frame(HEADERS, END_HEADERS | 1, 1, OK)).await.unwrap();
            to
        });
        let_all_get_on().await;
        let_all_get_on().await;
        assert!(connection.0.protocol().owes_too_much());
        let reading = tokio::spawn(async move {
            // All that has come at once, as from a socket.
            let mut piece = vec![0; 256 * 1024];
            while from.read(&mut piece).await.unwrap() > 0 {}
        });
        let sent = timeout(Duration::from_secs(3), sending).await;
        assert!(sent.is_ok(), "nobody reads the answer; upstream could say all: {}", saying.is_finished());
        sent.unwrap().unwrap().unwrap();
        reading.abort();
    }

    /// A request of so many bytes that nobody takes, and a small one behind it: what comes of that one once the connection has ended.
    async fn is_left_behind(connection: Connection, bytes: usize, end: impl Future<Output = ()>) -> bool {
        let send = |bytes: Vec<u8>| {
            let (connection, content) = (connection.take_stream(), body(&[bytes.into()]));
            tokio::spawn(async move { connection.send(&head, &content).await.map(|_| ()) })
        };
        let large = send(vec![0; bytes]);
        let_all_get_on().await;
        let small = send(b"{}".to_vec());
        let_all_get_on().await;
        end.await;
        let small = small.await.unwrap();
        assert!(large.await.unwrap().is_err() && small.is_err());
        matches!(small, Err(SendError::LeftBehind(_)))
    }

    /// What is on its way to the socket has not left.
    #[tokio::test]
    async fn what_waits_in_this_process_is_left_behind() {
        let times = (Duration::from_millis(50), Duration::from_millis(250));
        let (this_end, _other_end) = plain().await;
        assert!(is_left_behind(Connection::start(this_end, times).await.unwrap(), 60_000, async {}).await);
        let (this_end, _other_end) = over_tls().await;
        assert!(is_left_behind(Connection::start(this_end, times).await.unwrap(), 60_000, async {}).await);
    }

    /// A fault of upstream's: a push that was not allowed.
    fn fault() -> Vec<u8> {
        frame(5, END_HEADERS, 1, &[0, 0, 0, 2])
    }

    /// A request that is to be sent again must not go out behind that on the connection that ends.
    async fn goes_out_with_the_farewell(mut other_end: impl AsyncRead + Unpin) -> bool {
        let mut heard = Vec::new();
        let _ = timeout(Duration::from_secs(2), other_end.read_to_end(&mut heard)).await;
        let whole = frame(DATA, 1, 3, b"{}");
        heard.windows(whole.len()).any(|part| part == whole)
    }

    #[tokio::test]
    async fn what_is_left_behind_does_not_go_out_with_the_farewell() {
        let (connection, mut other_end) = connected(4096).await;
        let end = async { other_end.write_all(&fault()).await.unwrap() };
        assert!(is_left_behind(connection, 60_000, end).await);
        assert!(!goes_out_with_the_farewell(other_end).await);
    }

    #[tokio::test]
    async fn what_is_left_behind_in_tls_does_not_either() {
        let (this_end, mut other_end) = both_over_tls(LITTLE).await;
        let connection = Connection::open(this_end).await.unwrap();
        let end = async {
            other_end.write_all(&fault()).await.unwrap();
            other_end.flush().await.unwrap();
        };
        assert!(is_left_behind(connection, 60_000, end).await);
        assert!(!goes_out_with_the_farewell(other_end).await);
    }

    /// A record that is none.
    fn no_record() -> Vec<u8> {
        [&[23, 3, 3, 0, 32][..], &[0; 32]].concat()
    }

    /// TLS that reads what is wrong says so at once, and with that word goes out all that stands in front of it. `say`
    /// puts what is wrong into the way, which has room for it.
    async fn is_what_goes_out_with_the_last_word_of_tls_left_behind(
        say: impl Fn(&mut tokio_rustls::server::TlsStream<DuplexStream>, &mut Context<'_>),
    ) -> (bool, bool) {
        let (this_end, mut other_end) = both_over_tls(8192).await;
        let connection = Connection::open(this_end).await.unwrap();
        let_all_get_on().await;
        assert!(other_end.read(&mut [0; 8192]).await.unwrap() > 0, "what is said first");
        let read_and_say = poll_fn(|cx| {
            // All of it at once, so that there is room when what is wrong has come.
            let mut piece = [0; 16 * 1024];
            assert!(Pin::new(&mut other_end).poll_read(cx, &mut tokio::io::ReadBuf::new(&mut piece)).is_pending());
            say(&mut other_end, cx);
            Poll::Ready(())
        });
        let is_left_behind = is_left_behind(connection, 12_000, read_and_say).await;
        let _ = timeout(Duration::from_secs(2), other_end.read_to_end(&mut Vec::new())).await;
        // What its TLS has deciphered before it met the alert.
        let mut heard = vec![0; 16 * 1024];
        let count = io::Read::read(&mut other_end.get_mut().1.reader(), &mut heard).unwrap_or(0);
        let whole = frame(DATA, 1, 3, b"{}");
        (is_left_behind, heard[..count].windows(whole.len()).any(|part| part == whole))
    }

    #[tokio::test]
    async fn what_goes_out_with_the_last_word_of_tls_is_not_left_behind() {
        let (is_left_behind, has_gone_out) = is_what_goes_out_with_the_last_word_of_tls_left_behind(|other_end, cx| {
            assert!(Pin::new(&mut *other_end.get_mut().0).poll_write(cx, &no_record()).is_ready());
        })
        .await;
        assert!(has_gone_out, "or else this shows nothing");
        assert!(!is_left_behind);
    }

    /// A fault ends the connection, and what is wrong for TLS comes with the next read.
    #[tokio::test]
    async fn behind_a_fault_nothing_is_read() {
        let (is_left_behind, has_gone_out) = is_what_goes_out_with_the_last_word_of_tls_left_behind(|other_end, cx| {
            // TLS reads 4 KiB at once.
            let nothing = frame(0xbe, 0, 0, &[0; 4096 - 9 - 22 - 13 - 10]);
            let (way, tls) = other_end.get_mut();
            io::Write::write_all(&mut tls.writer(), &[nothing, fault()].concat()).unwrap();
            let mut said = Vec::new();
            tls.write_tls(&mut said).unwrap();
            assert!((4080..4096).contains(&said.len()), "{}", said.len());
            said.extend_from_slice(&no_record());
            assert!(matches!(Pin::new(&mut *way).poll_write(cx, &said), Poll::Ready(Ok(count)) if count == said.len()));
        })
        .await;
        assert!(is_left_behind && !has_gone_out, "{is_left_behind} {has_gone_out}");
    }

    /// Upstream that takes bytes and answers nothing, and clients that go on asking.
    #[tokio::test]
    async fn requests_behind_a_ping_do_not_keep_a_dead_connection() {
        let (this_end, mut other_end) = duplex(1 << 20);
        other_end.write_all(&boundless()).await.unwrap();
        let times = (Duration::from_millis(50), Duration::from_millis(300));
        let connection = Connection::start(BufReader::new(Watched::new(this_end)), times).await.unwrap();
        let send = |bytes: Vec<u8>| {
            let (connection, content) = (connection.take_stream(), body(&[bytes.into()]));
            tokio::spawn(async move { connection.send(&head, &content).await.map(|_| ()) })
        };
        let first = send(b"{}".to_vec());
        while !connection.0.protocol().is_pong_due() {
            sleep(Duration::from_millis(1)).await;
        }
        // They would be worth 50 seconds.
        for _ in 0..50 {
            send(vec![0; 4000]);
            sleep(Duration::from_millis(5)).await;
        }
        assert!(timeout(Duration::from_secs(5), first).await.is_ok());
    }

    /// TLS shows what a record says when it is whole.
    #[tokio::test]
    async fn bytes_of_half_a_record_are_a_sign() {
        let (this_end, other_end) = over_tls().await;
        let times = (Duration::from_millis(50), Duration::from_millis(400));
        let connection = Connection::start(this_end, times).await.unwrap();
        let (mut incoming, mut outgoing) = tokio::io::split(other_end);
        tokio::spawn(async move { tokio::io::copy(&mut incoming, &mut tokio::io::sink()).await });
        let sender = connection.take_stream();
        let sending =
            tokio::spawn(async move { sender.send(&head, &body(&[Bytes::from_static(b"{}")])).await.map(drop) });
        // The head of one of 15 KiB, and some of it.
        outgoing.write_all(&[23, 3, 3, 0x3c, 0]).await.unwrap();
        for _ in 0..100 {
            outgoing.write_all(&[0; 50]).await.unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        assert!(!sending.is_finished());
        sending.abort();
    }

    /// Whose client takes nothing of an answer that has begun does not come when it is his body's turn.
    #[tokio::test]
    async fn turns_of_those_who_do_not_come_are_not_lost_for_others() {
        let (this_end, mut other_end) = duplex(1 << 20);
        other_end.write_all(&frame(SETTINGS, 0, 0, &[0, 4, 0, 16, 0, 0])).await.unwrap();
        let connection = Connection::open(BufReader::new(Watched::new(this_end))).await.unwrap();
        let_all_get_on().await;
        let mut sending = Vec::new();
        for _ in 0..12 {
            let sender = connection.take_stream();
            sending
                .push(tokio::spawn(async move { sender.send(&head, &body(&[Bytes::from(vec![0; 100_000])])).await }));
            let_all_get_on().await;
        }
        // The connection's window is used up by now. The answers of all but the last begin.
        for id in (1..23).step_by(2) {
            other_end.write_all(&frame(HEADERS, END_HEADERS, id, OK)).await.unwrap();
        }
        let last = sending.pop().unwrap();
        let mut slow = Vec::new();
        for sending in sending {
            slow.push(timeout(Duration::from_secs(1), sending).await.unwrap().unwrap().unwrap());
        }
        // There is room for all of everything.
        other_end.write_all(&frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())).await.unwrap();
        let mut of_last = 0;
        let hearing = async {
            loop {
                let mut frame_head = [0; 9];
                if of_last == 0 {
                    let mut preface = [0; 24];
                    other_end.read_exact(&mut preface).await.unwrap();
                    of_last = 1;
                }
                other_end.read_exact(&mut frame_head).await.unwrap();
                let length = u32::from_be_bytes([0, frame_head[0], frame_head[1], frame_head[2]]) as usize;
                let mut payload = vec![0; length];
                other_end.read_exact(&mut payload).await.unwrap();
                if frame_head[3] == DATA && frame_head[8] == 23 {
                    of_last += length;
                    if frame_head[4] == 1 {
                        return;
                    }
                }
            }
        };
        let heard = timeout(Duration::from_secs(3), hearing).await;
        assert!(heard.is_ok(), "of the last body, for which there is room, came {of_last} bytes of 100000");
        drop((slow, last));
    }

    /// A request, and what an upstream that speaks through a library answers.
    #[derive(Clone, Debug)]
    struct Exchange {
        asked: usize,
        fields: Vec<(String, String)>,
        pieces: Vec<usize>,
        has_trailers: bool,
    }

    fn exchange() -> impl Strategy<Value = Exchange> {
        let lengths = || prop_oneof![4 => 1usize..2000, 1 => 1usize..200_000];
        let fields = proptest::collection::vec(("x-[a-d]", "[!-~]([ -~]{0,40}[!-~])?"), 0..8);
        (lengths(), fields, proptest::collection::vec(lengths(), 0..5), any::<bool>())
            .prop_map(|(asked, fields, pieces, has_trailers)| Exchange { asked, fields, pieces, has_trailers })
    }

    fn bytes(length: usize) -> Bytes {
        (0..length).map(|number| (number % 251) as u8).collect()
    }

    /// Answers the exchange that a request names, once its body has come.
    async fn answer(
        exchanges: Arc<Vec<Exchange>>,
        (mut request, mut respond): (http::Request<h2::RecvStream>, h2::server::SendResponse<Bytes>),
    ) {
        assert_eq!(request.uri(), "https://upstream/chat");
        let number: usize = request.headers()["accept"].to_str().unwrap().parse().unwrap();
        assert_eq!(request.headers()["authorization"].len(), 1000);
        let exchange = &exchanges[number];
        let mut got = Vec::new();
        while let Some(piece) = request.body_mut().data().await {
            let piece = piece.unwrap();
            got.extend_from_slice(&piece);
            request.body_mut().flow_control().release_capacity(piece.len()).unwrap();
        }
        assert!(got == bytes(exchange.asked));
        let mut head = http::Response::builder();
        for (name, value) in &exchange.fields {
            head = head.header(name, value);
        }
        let is_empty = exchange.pieces.is_empty() && !exchange.has_trailers;
        let mut body = respond.send_response(head.body(()).unwrap(), is_empty).unwrap();
        for (place, length) in exchange.pieces.iter().enumerate() {
            let ends = place + 1 == exchange.pieces.len() && !exchange.has_trailers;
            // The library keeps it until there is room.
            body.send_data(bytes(*length), ends).unwrap();
        }
        if exchange.has_trailers {
            body.send_trailers(http::HeaderMap::new()).unwrap();
        }
    }

    /// What one request gets, compared with what was meant.
    async fn ask(connection: Connection, number: usize, exchange: Exchange) {
        let bearer = http::HeaderValue::try_from("b".repeat(1000)).unwrap();
        let head = |encoder: &mut Encoder, block: &mut Vec<u8>| {
            head(encoder, block);
            encoder.remembered(block, Name::of("authorization"), &bearer);
            encoder.once(block, Name::of("accept"), number.to_string().as_bytes());
        };
        let (head, mut answer) = connection.send(&head, &body(&[bytes(exchange.asked)])).await.unwrap();
        let mut got = Vec::new();
        while let Some(piece) = poll_fn(|cx| answer.poll_piece(cx)).await {
            got.extend_from_slice(&piece.unwrap());
        }
        assert!(got == exchange.pieces.iter().flat_map(|length| bytes(*length)).collect::<Vec<_>>());
        let mut fields: Vec<(String, String)> = Vec::new();
        head.each(|name, value| {
            fields.push([name, value].map(|text| String::from_utf8(text.to_vec()).unwrap()).into());
        });
        // The library puts fields of one name together.
        let mut expected = exchange.fields;
        expected.sort_by(|one, other| one.0.cmp(&other.0));
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(fields, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

        #[test]
        fn what_a_library_says_and_hears_is_what_was_meant(
            exchanges in proptest::collection::vec(exchange(), 1..12),
            streams in 1u32..5,
            window in 1u32..100_000,
            room in 1usize..100_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (this_end, other_end) = duplex(room);
                let exchanges = Arc::new(exchanges);
                let known = exchanges.clone();
                tokio::spawn(async move {
                    let mut upstream = h2::server::Builder::new();
                    upstream.max_concurrent_streams(streams).initial_window_size(window).max_frame_size(20_000);
                    let mut upstream = upstream.handshake::<_, Bytes>(other_end).await.unwrap();
                    while let Some(Ok(request)) = upstream.accept().await {
                        tokio::spawn(answer(known.clone(), request));
                    }
                });
                let connection = Connection::open(BufReader::with_capacity(room, Watched::new(this_end))).await.unwrap();
                let numbered = exchanges.iter().cloned().enumerate();
                let asking: Vec<_> = numbered
                    .map(|(number, exchange)| tokio::spawn(ask(connection.clone(), number, exchange)))
                    .collect();
                for asked in asking {
                    let asked = timeout(Duration::from_secs(20), asked).await;
                    prop_assert!(asked.is_ok_and(|asked| asked.is_ok()));
                }
                Ok(())
            })?;
        }
    }
}
