//! One thread's connections to one host, shared by all of its requests: many HTTP/2 streams on few connections, or one HTTP/1.1 request
//! at a time on each of many.
//!
//! hyper-util's client keeps a single HTTP/2 connection for each host, so that the 101st stream would wait until one
//! of the first 100 ends. Here a stream is counted from lease to end of body, and a further connection is opened when
//! all are full. Requests wait in a line; connections are dialled by tasks of their own, so that a client who hangs up
//! in the line takes nothing away from the others.

use super::body::RequestBody;
use super::connect::{ConnectError, Stream, connect};
use super::head::AnswerHead;
use super::http1::{self, SendError};
use super::http2::{self, OpenError};
use super::response::BodyBroke;
use crate::hpack::Encoder;
use bytes::Bytes;
use rustls::ClientConfig;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

/// Streams on one connection, unless upstream allows fewer. Google documents this number.
const MAX_STREAMS: usize = 100;
/// HTTP/2 connections of all threads to one host, dialled as long as no more take requests: 12,800 streams.
const MAX_HTTP2_CONNECTIONS: usize = 128;
/// As many more may be open that take none, since they have said goodbye or rest, but at least so many of each thread:
/// upstream can make as many of these as there are requests.
const MIN_RESERVE: usize = 8;
/// A connection that has refused a request is given no other one for so long, unless no further one can be opened.
const REFUSAL_REST: Duration = Duration::from_secs(30);
/// HTTP/1.1 connections of all threads to one host, each good for one request: as many streams as over HTTP/2.
const MAX_HTTP1_CONNECTIONS: usize = 12_800;
/// A connection that has not been used for this long is closed, not reused: the other side may have forgotten it.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Of many that are idle, all but [`MAX_KEPT_IDLE`] are closed after this: a rush leaves nothing behind.
const SURPLUS_TIMEOUT: Duration = Duration::from_secs(20);
/// Idle connections of all threads that stay warm for the whole of [`IDLE_TIMEOUT`].
const MAX_KEPT_IDLE: usize = 8;
/// How often idle connections are looked for, while there are any.
const REAP_INTERVAL: Duration = Duration::from_secs(10);
/// How long a request may stand in the line: longer than any dial takes.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no connection for a request.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum LeaseError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("every connection is in use and no more may be opened")]
    Saturated,
}

/// One thread's connections to one host.
pub(super) struct Pool {
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
    share: Share,
    state: Mutex<State>,
}

/// How many connections one thread may have. Clients' connections are dealt out evenly, so that a thread seldom needs more
/// before all of them together do: only where those that ask are on one and those that rest on others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    http1: usize,
    http2: usize,
    http2_open: usize,
    kept_idle: usize,
}

impl Share {
    fn of_one_in(threads: usize) -> Self {
        let share = |most: usize| most.div_ceil(threads.max(1));
        let http2 = share(MAX_HTTP2_CONNECTIONS);
        Self {
            http1: share(MAX_HTTP1_CONNECTIONS),
            http2,
            http2_open: http2 + http2.max(MIN_RESERVE),
            kept_idle: share(MAX_KEPT_IDLE),
        }
    }
}

#[derive(Default)]
struct State {
    http2: Vec<Http2Connection>,
    /// The most recently used last.
    http1_idle: Vec<Http1Idle>,
    http1_open: usize,
    /// Whether the last connection spoke HTTP/2; `None` before the first.
    speaks_http2: Option<bool>,
    dialling: usize,
    waiting: VecDeque<oneshot::Sender<Result<Lease, LeaseError>>>,
    next_id: u64,
    reaper_runs: bool,
}

struct Http2Connection {
    id: u64,
    connection: http2::Connection,
    idle_since: Instant,
    /// It has refused a request a moment ago.
    rests_until: Option<Instant>,
    /// As many streams as it carried when it refused one more; until it carries none.
    limit: usize,
}

impl Http2Connection {
    fn is_in_use(&self) -> bool {
        self.connection.taken() > 0
    }

    fn rests(&self) -> bool {
        self.rests_until.is_some_and(|until| Instant::now() < until)
    }

    /// One of the streams that are taken was refused.
    fn note_refusal(&mut self) {
        self.limit = self.limit.min(self.connection.taken().saturating_sub(1));
        self.rests_until = Some(Instant::now() + REFUSAL_REST);
    }

    /// Whether there is any use for it, now or when it has rested.
    fn is_usable(&self) -> bool {
        self.connection.takes_requests() && (self.is_in_use() || self.idle_since.elapsed() < IDLE_TIMEOUT)
    }

    /// How many requests it may be given, as far as can be told without its lock.
    fn room(&self) -> usize {
        if self.rests() { 0 } else { self.connection.room(self.limit) }
    }
}

struct Http1Idle {
    connection: Box<http1::Connection>,
    since: Instant,
}

impl Http1Idle {
    fn is_usable(&mut self) -> bool {
        self.since.elapsed() < IDLE_TIMEOUT && self.connection.is_alive()
    }
}

/// The right to send one request.
pub(super) enum Lease {
    /// On a connection of its own.
    Http1(Held),
    /// On a stream of a connection, until this is dropped: after the end of the answer's body.
    Http2(StreamLease),
}

/// An HTTP/1.1 connection in use. Dropping it gives the connection back, if it is good for another request.
pub(crate) struct Held {
    pool: Arc<Pool>,
    /// `None` once it has been given back. In a box, since it goes from hand to hand.
    connection: Option<Box<http1::Connection>>,
}

/// A place on an HTTP/2 connection, for one request.
pub(crate) struct StreamLease {
    /// `None` once the place has been given back.
    pool: Option<Arc<Pool>>,
    id: u64,
    connection: http2::Connection,
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        if let Some(pool) = self.pool.take() {
            let mut state = pool.state();
            state.release_stream(self);
            pool.serve_waiting(&mut state);
        }
    }
}

impl Pool {
    /// No connections yet, for one of so many threads.
    pub(super) fn new(host: &str, port: u16, tls: Option<Arc<ClientConfig>>, threads: usize) -> Arc<Self> {
        // An IPv6 address stands in brackets in a URL, and only there.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Arc::new(Self { host, port, tls, share: Share::of_one_in(threads), state: Mutex::default() })
    }

    /// No connections yet, to the same host.
    pub(super) fn of_another_thread(&self) -> Arc<Self> {
        let Self { host, port, tls, share, .. } = self;
        Arc::new(Self { host: host.clone(), port: *port, tls: tls.clone(), share: *share, state: Mutex::default() })
    }

    /// A place for one request: at once where there is room, else when a connection or a place comes free.
    ///
    /// # Errors
    /// When no connection can be made, or no more may be.
    pub(super) async fn lease(self: &Arc<Self>) -> Result<Lease, LeaseError> {
        let waiting = {
            let mut state = self.state();
            if let Some(lease) = state.take_place(self) {
                return Ok(lease);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            self.dial_for_waiting(&mut state);
            receiver
        };
        match timeout(LEASE_TIMEOUT, waiting).await {
            Ok(Ok(lease)) => lease,
            // The sender is dropped unanswered only if the whole pool is.
            Ok(Err(_)) | Err(_) => Err(ConnectError::TimedOut.into()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts as many dials as the line needs, and turns away those whom no connection can ever serve.
    fn dial_for_waiting(self: &Arc<Self>, state: &mut State) {
        state.waiting.retain(|waiter| !waiter.is_closed());
        state.http2.retain(|connection| connection.is_in_use() || connection.connection.takes_requests());
        let per_connection = state.requests_per_connection(self.tls.is_some());
        let most = match per_connection {
            1 => self.share.http1.saturating_sub(state.http1_open),
            _ => {
                // What is going away, or rests, serves nobody else.
                let serves = |connection: &&Http2Connection| !connection.rests() && connection.is_usable();
                let serving = state.http2.iter().filter(serves).count();
                let more = self.share.http2.saturating_sub(serving);
                more.min(self.share.http2_open.saturating_sub(state.http2.len()))
            }
        };
        while state.dialling * per_connection < state.waiting.len() && state.dialling < most {
            state.dialling += 1;
            tokio::spawn(self.clone().dial());
        }
        // The line may be as long as what is being dialled, no longer: waiting for others to end has no bound.
        let most_waiting = state.dialling * per_connection;
        if state.dialling >= most && state.waiting.len() > most_waiting {
            if state.end_rests() {
                self.serve_waiting(state);
            }
            for waiter in state.waiting.split_off(most_waiting.min(state.waiting.len())) {
                let _ = waiter.send(Err(LeaseError::Saturated));
            }
        }
    }

    /// Opens one connection and serves those who wait.
    async fn dial(self: Arc<Self>) {
        let mut dialled = self.open_and_serve().await;
        // Upstream may be about to be replaced; whoever comes next stands before its successor. But one that closes all
        // that it accepts must not be dialled for ever.
        if matches!(dialled, Err(ConnectError::ClosedAtOnce)) {
            dialled = self.open_and_serve().await;
        }
        let mut state = self.state();
        state.dialling -= 1;
        if let Err(error) = dialled {
            if state.end_rests() {
                self.serve_waiting(&mut state);
            }
            self.turn_away(&mut state, &error);
        }
        self.dial_for_waiting(&mut state);
    }

    /// Opens one connection and hands its places out.
    ///
    /// # Errors
    /// When there is none, or none that anybody could use.
    async fn open_and_serve(self: &Arc<Self>) -> Result<(), ConnectError> {
        let opened = self.open().await?;
        let mut state = self.state();
        state.add(opened);
        if !state.reaper_runs {
            state.reaper_runs = true;
            tokio::spawn(reap(Arc::downgrade(self)));
        }
        let waited = state.waiting.len();
        self.serve_waiting(&mut state);
        if waited > 0 && state.waiting.len() == waited { Err(ConnectError::ClosedAtOnce) } else { Ok(()) }
    }

    /// Fails as many of the line as one connection would have served; others have dials of their own.
    fn turn_away(&self, state: &mut State, error: &ConnectError) {
        let count = state.requests_per_connection(self.tls.is_some()).min(state.waiting.len());
        for waiter in state.waiting.drain(..count) {
            let _ = waiter.send(Err(error.clone().into()));
        }
    }

    async fn open(self: &Arc<Self>) -> Result<Opened, ConnectError> {
        match connect(&self.host, self.port, self.tls.as_ref()).await? {
            Stream::Plain(tcp) => Ok(Opened::Http1(Box::new(http1::Connection::plain(tcp)))),
            Stream::Tls1(tls) => Ok(Opened::Http1(Box::new(http1::Connection::tls(tls)))),
            Stream::Tls2(tls) => Ok(Opened::Http2(http2::Connection::open(tls).await?)),
        }
    }

    /// Hands free places to those who wait, in their order.
    fn serve_waiting(self: &Arc<Self>, state: &mut State) {
        while !state.waiting.is_empty() {
            let Some(mut lease) = state.take_place(self) else { return };
            loop {
                let Some(waiter) = state.waiting.pop_front() else {
                    lease.give_back(state);
                    return;
                };
                match waiter.send(Ok(lease)) {
                    Ok(()) => break,
                    // Its client hung up: the place goes to the next in line.
                    Err(Ok(unused)) => lease = unused,
                    Err(Err(_)) => return,
                }
            }
        }
    }
}

/// A connection that was just made.
enum Opened {
    Http1(Box<http1::Connection>),
    Http2(http2::Connection),
}

impl From<OpenError> for ConnectError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::ClosedAtOnce => Self::ClosedAtOnce,
            error => Self::Failed(error.to_string().into()),
        }
    }
}

impl State {
    /// How many requests one further connection would serve.
    fn requests_per_connection(&self, tls: bool) -> usize {
        if self.speaks_http2.unwrap_or(tls) { MAX_STREAMS } else { 1 }
    }

    fn add(&mut self, opened: Opened) {
        match opened {
            Opened::Http1(connection) => {
                self.speaks_http2 = Some(false);
                self.http1_open += 1;
                self.http1_idle.push(Http1Idle { connection, since: Instant::now() });
            }
            Opened::Http2(connection) => {
                self.speaks_http2 = Some(true);
                self.next_id += 1;
                let (id, idle_since) = (self.next_id, Instant::now());
                let (rests_until, limit) = (None, MAX_STREAMS);
                self.http2.push(Http2Connection { id, connection, idle_since, rests_until, limit });
            }
        }
    }

    /// A free place, on the fullest connection that has one, so that the others can become idle and close.
    fn take_place(&mut self, pool: &Arc<Pool>) -> Option<Lease> {
        while let Some(fullest) = self.fullest_with_room() {
            let chosen = &mut self.http2[fullest];
            if chosen.is_usable() {
                let connection = chosen.connection.take_stream();
                return Some(Lease::Http2(StreamLease { pool: Some(pool.clone()), id: chosen.id, connection }));
            }
            if chosen.is_in_use() {
                // It is about to end.
                chosen.note_refusal();
            } else {
                self.http2.swap_remove(fullest);
            }
        }
        while let Some(mut idle) = self.http1_idle.pop() {
            if idle.is_usable() {
                return Some(Lease::Http1(Held { pool: pool.clone(), connection: Some(idle.connection) }));
            }
            self.http1_open -= 1;
        }
        None
    }

    /// Closes what has been idle for too long, or is more than is `kept` warm, or was closed by upstream.
    fn close_idle(&mut self, kept: usize) {
        let before = self.http1_idle.len();
        let mut surplus = before.saturating_sub(kept);
        // The first are those that have been idle for longest.
        self.http1_idle.retain_mut(|idle| {
            let is_surplus = surplus > 0 && idle.since.elapsed() > SURPLUS_TIMEOUT;
            surplus -= usize::from(is_surplus);
            !is_surplus && idle.is_usable()
        });
        self.http1_open -= before - self.http1_idle.len();

        let idle = self.http2.iter().filter(|connection| !connection.is_in_use()).count();
        let mut surplus = idle.saturating_sub(kept);
        self.http2.retain(|connection| {
            if connection.is_in_use() {
                return true;
            }
            let is_surplus = surplus > 0 && connection.idle_since.elapsed() > SURPLUS_TIMEOUT;
            surplus -= usize::from(is_surplus);
            !is_surplus && connection.is_usable()
        });
    }
}

impl State {
    /// Where the next request goes if that connection still takes it.
    fn fullest_with_room(&self) -> Option<usize> {
        let rooms = self.http2.iter().map(Http2Connection::room).enumerate();
        rooms.filter(|(_, room)| *room > 0).min_by_key(|(_, room)| *room).map(|(index, _)| index)
    }

    /// Asks those that rest anew; they may have come to take requests again. Says whether there were any.
    fn end_rests(&mut self) -> bool {
        let rested = self.http2.iter_mut().filter_map(|connection| connection.rests_until.take());
        rested.count() > 0
    }

    fn release_stream(&mut self, lease: &StreamLease) {
        lease.connection.give_back_stream();
        let Some(index) = self.http2.iter().position(|connection| connection.id == lease.id) else { return };
        let connection = &mut self.http2[index];
        connection.idle_since = Instant::now();
        if connection.is_in_use() {
            return;
        }
        connection.limit = MAX_STREAMS;
        if !connection.connection.takes_requests() {
            self.http2.swap_remove(index);
        }
    }
}

impl Lease {
    /// Gives a place back that was never used; the lock is held by the caller.
    fn give_back(self, state: &mut State) {
        match self {
            Self::Http1(mut held) => {
                let connection = held.connection.take();
                state.http1_idle.extend(connection.map(|connection| Http1Idle { connection, since: Instant::now() }));
            }
            Self::Http2(mut lease) => {
                state.release_stream(&lease);
                // Nothing is left for its drop, which would take the lock again.
                lease.pool = None;
            }
        }
    }
}

impl StreamLease {
    /// Sends the request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is no answer to be had.
    pub(super) async fn send(
        &self,
        head: &impl Fn(&mut Encoder, &mut Vec<u8>),
        body: &RequestBody,
    ) -> Result<(AnswerHead, http2::Body), http2::SendError> {
        self.connection.send(head, body).await
    }

    /// Gives the connection no requests for a while: it refused one.
    pub(super) fn let_rest(&self) {
        let Some(pool) = &self.pool else { return };
        if let Some(connection) = pool.state().http2.iter_mut().find(|connection| connection.id == self.id) {
            connection.note_refusal();
        }
    }
}

impl Held {
    fn connection(&mut self) -> &mut http1::Connection {
        self.connection.as_mut().expect("it is given back on drop, or with the last piece, behind which nobody asks")
    }

    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is no answer to be had.
    pub(super) async fn send<'a, I>(
        &mut self,
        head: &'a [u8],
        pieces: I,
    ) -> Result<(AnswerHead, http1::Body), SendError>
    where
        I: Iterator<Item = &'a Bytes> + Clone,
    {
        self.connection().send(head, pieces).await
    }

    /// Whether another piece of the answer's body, or its end, may be there without a wait.
    pub(super) fn may_have_more(&self, body: &http1::Body) -> bool {
        self.connection.as_ref().is_none_or(|connection| connection.may_have_more(body))
    }

    /// The next piece of the answer's body.
    pub(super) fn poll_piece(
        &mut self,
        body: &mut http1::Body,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyBroke>>> {
        self.connection().poll_piece(body, cx)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let mut state = self.pool.state();
        if connection.is_idle() {
            state.http1_idle.push(Http1Idle { connection, since: Instant::now() });
            self.pool.serve_waiting(&mut state);
        } else {
            state.http1_open -= 1;
            self.pool.dial_for_waiting(&mut state);
        }
    }
}

/// Closes idle connections; ends when there are none left.
async fn reap(pool: Weak<Pool>) {
    loop {
        sleep(REAP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut state = pool.state();
        state.close_idle(pool.share.kept_idle);
        if state.http2.is_empty() && state.http1_open == 0 {
            state.reaper_runs = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::watched::Watched;
    use super::*;
    use proptest::prelude::*;
    use std::pin::Pin;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::yield_now;

    const KEPT: usize = MAX_KEPT_IDLE;

    /// What can happen to a pool between two holds of its lock. Every change of it is under that lock, so that the
    /// orders of these are the orders that threads can bring about.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A request asks for a place.
        Lease,
        /// One ends well, by its number among those that have a place.
        End(usize),
        /// One is broken off after its head was sent, so that its connection is spoilt.
        Break(usize),
        /// Upstream refuses one.
        Refuse(usize),
        /// One hangs up in the line.
        HangUp(usize),
        /// Upstream closes a connection, by its number among those that it has accepted.
        Close(usize),
        /// Dials that are under way get on.
        Dial,
        /// The reaper looks.
        Reap,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            4 => Just(Event::Lease),
            3 => (0..8usize).prop_map(Event::End),
            1 => (0..8usize).prop_map(Event::Break),
            1 => (0..8usize).prop_map(Event::Refuse),
            2 => (0..8usize).prop_map(Event::HangUp),
            1 => (0..8usize).prop_map(Event::Close),
            3 => Just(Event::Dial),
            1 => Just(Event::Reap),
        ]
    }

    type Asking = Pin<Box<dyn Future<Output = Result<Lease, LeaseError>>>>;

    /// A pool with an HTTP/2 connection of three places, where there is one, and the requests on it; upstream accepts
    /// HTTP/1.1 connections.
    struct World {
        pool: Arc<Pool>,
        listener: TcpListener,
        accepted: Vec<TcpStream>,
        line: Vec<Asking>,
        held: Vec<Lease>,
    }

    /// A connection to an upstream that allows so many streams and answers nobody.
    async fn http2_connection(limit: u32) -> http2::Connection {
        let (this_end, other_end) = tokio::io::duplex(64 * 1024);
        tokio::spawn(async move {
            let mut upstream = h2::server::Builder::new();
            let upstream = upstream.max_concurrent_streams(limit).handshake::<_, Bytes>(other_end).await;
            let mut upstream = upstream.unwrap();
            let mut requests = Vec::new();
            while let Some(request) = upstream.accept().await {
                requests.push(request);
            }
        });
        http2::Connection::open(tokio::io::BufReader::new(Watched::new(this_end))).await.unwrap()
    }

    impl World {
        async fn new(with_http2: bool) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let pool = Pool::new("127.0.0.1", listener.local_addr().unwrap().port(), None, 1);
            if with_http2 {
                let connection = http2_connection(3).await;
                pool.state().add(Opened::Http2(connection));
            }
            Self { pool, listener, accepted: Vec::new(), line: Vec::new(), held: Vec::new() }
        }

        /// Asks those in the line once; who has got a place leaves it.
        fn look(&mut self) {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            let mut still = Vec::new();
            for mut asking in self.line.drain(..) {
                match asking.as_mut().poll(&mut cx) {
                    Poll::Ready(lease) => self.held.extend(lease.ok()),
                    Poll::Pending => still.push(asking),
                }
            }
            self.line = still;
        }

        async fn let_dials_get_on(&mut self) {
            for _ in 0..20 {
                yield_now().await;
                let accept = std::pin::pin!(self.listener.accept());
                if let Poll::Ready(accepted) = accept.poll(&mut Context::from_waker(std::task::Waker::noop())) {
                    self.accepted.push(accepted.unwrap().0);
                }
            }
        }

        async fn happen(&mut self, event: Event) {
            match event {
                Event::Lease => {
                    let pool = self.pool.clone();
                    self.line.push(Box::pin(async move { pool.lease().await }));
                    self.look();
                }
                Event::End(n) if n < self.held.len() => drop(self.held.swap_remove(n)),
                Event::Break(n) if n < self.held.len() => {
                    if let Lease::Http1(held) = &mut self.held[n] {
                        // Upstream may have closed it before; begun it has in any case.
                        let sending = std::pin::pin!(held.send(b"POST / HTTP/1.1\r\n\r\n", [].iter()));
                        let _ = sending.poll(&mut Context::from_waker(std::task::Waker::noop()));
                    }
                    drop(self.held.swap_remove(n));
                }
                Event::Refuse(n) if n < self.held.len() => {
                    if let Lease::Http2(lease) = self.held.swap_remove(n) {
                        lease.let_rest();
                    }
                }
                Event::HangUp(n) if n < self.line.len() => drop(self.line.remove(n)),
                Event::Close(n) if n < self.accepted.len() => drop(self.accepted.swap_remove(n)),
                Event::Dial => self.let_dials_get_on().await,
                Event::Reap => self.pool.state().close_idle(KEPT),
                _ => {}
            }
        }

        /// What has to be so whenever nobody has the lock.
        fn judge(&self) -> Result<(), TestCaseError> {
            let state = self.pool.state();
            let waiting = state.waiting.iter().filter(|waiter| !waiter.is_closed()).count();
            // Who has an answer and has not looked yet may hold a place.
            let answered = self.line.len() - waiting;
            let on_http2 = self.held.iter().filter(|lease| matches!(lease, Lease::Http2(_))).count();
            let on_http1 = self.held.len() - on_http2;
            let streams: usize = state.http2.iter().map(|connection| connection.connection.taken()).sum();
            let http1_in_use = state.http1_open - state.http1_idle.len();
            let may_be_held = self.held.len()..=self.held.len() + answered;
            prop_assert!(may_be_held.contains(&(streams + http1_in_use)), "a place is lost, or given twice");
            prop_assert!(streams >= on_http2 && http1_in_use >= on_http1);
            prop_assert!(
                state.http2.iter().all(|connection| connection.connection.taken() <= 3),
                "too many on one connection"
            );
            prop_assert!(waiting == 0 || state.dialling > 0, "they wait for nothing");
            Ok(())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

        #[test]
        fn no_order_of_events_loses_a_place_or_leaves_anybody_waiting(
            with_http2: bool,
            events in proptest::collection::vec(event(), 1..60),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut world = World::new(with_http2).await;
                for event in events {
                    world.happen(event).await;
                    world.judge()?;
                }
                // Once everything is quiet, all have been served, and nothing is in use when all have ended.
                for _ in 0..1000 {
                    if world.line.is_empty() {
                        break;
                    }
                    world.let_dials_get_on().await;
                    sleep(Duration::from_millis(1)).await;
                    world.look();
                }
                prop_assert!(world.line.is_empty(), "somebody still waits");
                world.held.clear();
                world.judge()?;
                // Who has hung up may stand in the line until the next place is given away.
                prop_assert!(world.pool.state().waiting.iter().all(|waiter| waiter.is_closed()));
                Ok(())
            })?;
        }
    }

    #[test]
    fn threads_share_what_one_alone_could_have() {
        assert_eq!(Share::of_one_in(1), Share { http1: 12_800, http2: 128, http2_open: 256, kept_idle: 8 });
        assert_eq!(Share::of_one_in(2), Share { http1: 6400, http2: 64, http2_open: 128, kept_idle: 4 });
        assert_eq!(Share::of_one_in(200), Share { http1: 64, http2: 1, http2_open: 9, kept_idle: 1 });
    }

    #[tokio::test]
    async fn a_rush_leaves_few_connections_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut state = State::default();
        let mut accepted = Vec::new();
        for _ in 0..KEPT + 5 {
            let stream = TcpStream::connect(address).await.unwrap();
            accepted.push(listener.accept().await.unwrap());
            state.add(Opened::Http1(Box::new(http1::Connection::plain(stream))));
        }
        state.close_idle(KEPT);
        assert_eq!(state.http1_idle.len(), KEPT + 5, "just used");
        for idle in &mut state.http1_idle {
            idle.since -= SURPLUS_TIMEOUT + Duration::from_secs(1);
        }
        state.close_idle(KEPT);
        assert_eq!((state.http1_idle.len(), state.http1_open), (KEPT, KEPT));
        for idle in &mut state.http1_idle {
            idle.since -= IDLE_TIMEOUT;
        }
        state.close_idle(KEPT);
        assert_eq!((state.http1_idle.len(), state.http1_open), (0, 0));
    }

    #[tokio::test]
    async fn who_has_refused_gets_no_more_than_it_carried_until_it_carries_nothing() {
        let pool = Pool::new("127.0.0.1", 1, None, 1);
        let connection = http2_connection(100).await;
        pool.state().add(Opened::Http2(connection));
        let take = || match pool.state().take_place(&pool) {
            Some(Lease::Http2(lease)) => Some(lease),
            _ => None,
        };
        let room = || pool.state().http2[0].room();
        let carried = [take().unwrap(), take().unwrap()];
        let refused = take().unwrap();
        refused.let_rest();
        drop(refused);
        assert_eq!(room(), 0, "it rests");
        assert!(pool.state().end_rests());
        assert_eq!(room(), 0, "it carries as many as it took");
        let [first, second] = carried;
        drop(first);
        assert_eq!(room(), 1);
        drop(second);
        assert_eq!(room(), MAX_STREAMS);
    }

    #[tokio::test]
    async fn of_http2_connections_only_those_without_streams_are_closed() {
        let mut state = State::default();
        for _ in 0..KEPT + 5 {
            state.add(Opened::Http2(http2_connection(1).await));
        }
        let long_ago = Instant::now() - (SURPLUS_TIMEOUT + Duration::from_secs(1));
        for (number, connection) in state.http2.iter_mut().enumerate() {
            connection.idle_since = long_ago;
            if number < 2 {
                connection.connection.take_stream();
            }
        }
        // Two are in use, however long ago they were idle last; of the others eight stay.
        state.close_idle(KEPT);
        let streams =
            |state: &State| -> Vec<_> { state.http2.iter().map(|connection| connection.connection.taken()).collect() };
        assert_eq!(streams(&state), [[1, 1].as_slice(), &[0; KEPT]].concat());
        for connection in &mut state.http2 {
            connection.idle_since -= IDLE_TIMEOUT;
        }
        state.close_idle(KEPT);
        assert_eq!(streams(&state), [1, 1]);
    }
}
