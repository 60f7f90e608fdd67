//! One client's connection: bytes in, bytes out, and whether the client is still there.

use super::exchange::Failure;
use super::head::Head;
use crate::alarm::Alarm;
use crate::connections::Connections;
use crate::error::ApiError;
use crate::server::{Lookout, Phase, Stop};
use crate::transport::Transport;
use bytes::{Buf, BufMut, BytesMut};
use std::future::{Future, pending, poll_fn};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a kept connection may wait for its next request. Google's front ends reuse connections for up to ten
/// minutes; the side that sends requests should be the one that closes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(620);
/// A connection that has had no request for so long makes room for others where places run short, before its time.
const SPARE_AFTER: Duration = Duration::from_secs(5);
/// How long a head may take from its first byte. hyper's default is the same.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take for one piece of an answer, which is 64 KiB at most where it is relayed. As long as an idle
/// connection may wait: whoever reads so slowly is as good as gone.
const PIECE_TIMEOUT: Duration = IDLE_TIMEOUT;
/// Where places run short, whoever has taken longer than this for a piece makes room for others.
const SLOW_PIECE: Duration = Duration::from_secs(15);
/// How long a client may pause while it sends a body, and how far it may fall behind [`SLOWEST_BODY`].
const BODY_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// A body that goes on coming more slowly than this is given up, in bytes per second: what it holds of the budget others
/// cannot have. The uplink of a phone with a poor signal is faster.
const SLOWEST_BODY: usize = 4 * 1024;
/// How much of what the client sends ahead is kept while its request runs, in bytes.
const READ_AHEAD_BYTES: usize = 64 * 1024;
/// One read's share of the stack, in bytes.
const SCRATCH_BYTES: usize = 8 * 1024;
/// After a refusal the rest of the request is read and thrown away for at most this long: closing at once would
/// reset the connection, and the client might never see the answer.
const LINGER: Duration = Duration::from_secs(10);
/// The same while the process stops.
const LINGER_WHILE_DRAINING: Duration = Duration::from_millis(500);
/// Output buffers larger than this are not kept between writes, in bytes.
const KEPT_OUTPUT_BYTES: usize = 2 * 1024;

/// Something that is waited for, in a box since it seldom is.
type Waiting = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Why a request cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The client closed or reset its connection.
    HungUp,
    /// The client does not take what is sent.
    Stalled,
    /// The grace period of a stop is over.
    Cut,
}

/// A connection with its buffers.
pub struct Connection {
    stream: Transport,
    /// Read and not yet used.
    pub(super) input: BytesMut,
    /// Written by the gateway and not yet sent.
    pub(super) output: Vec<u8>,
    hung_up: bool,
    /// Something was to be sent and was not, or not all of it: nothing may follow.
    torn: bool,
    /// More was sent ahead than is kept: what follows cannot be told.
    flooded: bool,
    /// A whole head has come.
    was_heard: bool,
    stop: Lookout,
    /// For the next head.
    pub(super) alarm: Alarm,
    /// Since when the next head is waited for.
    pub(super) rests_since: Instant,
    /// Those among which it has a place that others may need.
    among: Option<Arc<Connections>>,
    was_cut: bool,
}

impl Connection {
    /// Takes an accepted connection.
    #[must_use]
    pub fn new(stream: Transport, stop: Stop, among: Option<Arc<Connections>>) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: Vec::new(),
            hung_up: false,
            torn: false,
            flooded: false,
            was_heard: false,
            was_cut: false,
            stop: Lookout::new(stop),
            alarm: Alarm::default(),
            rests_since: Instant::now(),
            among,
        }
    }

    /// Whether the process is stopping, so that no further request is taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.stop.phase() >= Phase::Draining
    }

    /// The next request's head. `None` when the connection ends before one begins.
    ///
    /// # Errors
    /// When what came is no valid head or took too long.
    pub async fn next_head(&mut self) -> Result<Option<Head>, ApiError> {
        let Self { stream, input, stop, alarm, among, was_heard, .. } = self;
        let waits_since = self.rests_since;
        let mut begun: Option<Instant> = None;
        let mut is_spare = false;
        // Not anew with each byte: that would be a place at the end of the queue.
        let mut room = pin!(room_is_needed(among.as_ref()));
        let mut unheard = pin!(unheard_should_leave(among.as_ref()));
        loop {
            skip_empty_lines(input);
            if let Some(head) = Head::take(input)? {
                *was_heard = true;
                return Ok(Some(head));
            }
            let deadline = if input.is_empty() {
                // An idle connection holds no buffer.
                *input = BytesMut::new();
                waits_since + IDLE_TIMEOUT
            } else {
                *begun.get_or_insert_with(Instant::now) + HEAD_TIMEOUT
            };
            let until = if is_spare { deadline } else { deadline.min(waits_since + SPARE_AFTER) };
            let read = tokio::select! {
                biased;
                read = poll_fn(|cx| poll_read(stream, input, cx)) => Some(read),
                () = stop.reached(Phase::Draining) => return Ok(None),
                () = room.as_mut(), if is_spare => return Ok(None),
                () = unheard.as_mut(), if !*was_heard => return Ok(None),
                () = alarm.due(until) => None,
            };
            match read {
                Some(Ok(1..)) => {}
                Some(_) => return Ok(None),
                None if !is_spare && until < deadline => is_spare = true,
                None if input.is_empty() => return Ok(None),
                None => return Err(ApiError::RequestTimeout),
            }
        }
    }

    /// Whether another request can be read from it.
    #[must_use]
    pub fn is_in_order(&self) -> bool {
        !self.flooded && !self.torn && !self.hung_up
    }

    /// Whether more can be sent, so that the client reads it behind all that came before.
    pub(super) fn can_go_on(&self) -> bool {
        !self.torn && !self.hung_up
    }

    /// Whether everything that was to be sent is sent.
    pub(super) fn is_all_sent(&self) -> bool {
        self.output.is_empty() && !self.torn
    }

    fn poll_read_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        poll_read(&mut self.stream, &mut self.input, cx)
    }

    /// Reads more of a body into the input, or straight into `body` up to `limit` bytes in all,
    /// for which it has room.
    ///
    /// # Errors
    /// 408 when the client pauses too long or is too slow, and that it is gone or the grace period over.
    pub(super) async fn read_body(
        &mut self,
        body: Option<(&mut BytesMut, usize)>,
        patience: &mut BodyPatience,
    ) -> Result<(), Failure> {
        let Self { stream, input, stop, .. } = self;
        let read = async {
            match body {
                Some((body, limit)) => {
                    let wanted = limit - body.len();
                    stream.read_buf(&mut body.limit(wanted)).await
                }
                None => poll_fn(|cx| poll_read(stream, input, cx)).await,
            }
        };
        tokio::select! {
            biased;
            read = timeout_at(patience.until, read) => match read {
                Ok(Ok(bytes @ 1..)) => {
                    patience.earn(bytes, Instant::now());
                    Ok(())
                }
                Ok(_) => {
                    self.hung_up = true;
                    Err(Interruption::HungUp.into())
                }
                Err(_) => Err(ApiError::RequestTimeout.into()),
            },
            () = stop.reached(Phase::Cutting) => {
                self.was_cut = true;
                Err(Interruption::Cut.into())
            }
        }
    }

    /// Ready when the client is gone or the grace period is over. What the client sends ahead is kept.
    fn poll_interruption(&mut self, cx: &mut Context<'_>) -> Poll<Interruption> {
        while !self.hung_up {
            match self.poll_read_more(cx) {
                // Beyond the limit it is read only to see the end, and this connection's last request is this one.
                Poll::Ready(Ok(1..)) if self.input.len() > READ_AHEAD_BYTES => {
                    self.flooded = true;
                    self.input.truncate(READ_AHEAD_BYTES);
                }
                Poll::Ready(Ok(1..)) => {}
                Poll::Ready(_) => self.hung_up = true,
                Poll::Pending => break,
            }
        }
        if self.hung_up {
            return Poll::Ready(Interruption::HungUp);
        }
        if !self.was_cut {
            self.was_cut = self.stop.poll_reached(Phase::Cutting, cx).is_ready();
        }
        if self.was_cut { Poll::Ready(Interruption::Cut) } else { Poll::Pending }
    }

    /// Waits for `future`, unless the client hangs up or the grace period ends; `future` is dropped then.
    ///
    /// # Errors
    /// The interruption.
    pub async fn unless_interrupted<F: Future>(&mut self, future: F) -> Result<F::Output, Interruption> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.poll_interruption(cx).map(Err)
        })
        .await
    }

    /// Sends what waits in the output buffer, then `piece`, then `end`.
    ///
    /// # Errors
    /// When the client is gone or the grace period ends before all is sent.
    pub(super) async fn send(&mut self, piece: &[u8], end: &[u8]) -> Result<(), Interruption> {
        let output = std::mem::take(&mut self.output);
        let sent = self.send_all([&output, piece, end]).await;
        self.torn |= sent.is_err();
        self.output = output;
        self.output.clear();
        if self.output.capacity() > KEPT_OUTPUT_BYTES {
            self.output = Vec::new();
        }
        sent
    }

    async fn send_all(&mut self, parts: [&[u8]; 3]) -> Result<(), Interruption> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        let mut sent = 0;
        // Only a client that does not keep up is timed.
        let mut patience = None;
        poll_fn(|cx| {
            while sent < total {
                let mut skip = sent;
                let slices = parts.map(|part| {
                    let from = skip.min(part.len());
                    skip -= from;
                    IoSlice::new(&part[from..])
                });
                let stream = Pin::new(&mut self.stream);
                let written = match alone(&slices) {
                    Some(slice) => stream.poll_write(cx, slice),
                    None => stream.poll_write_vectored(cx, &slices),
                };
                match written {
                    Poll::Ready(Ok(count @ 1..)) => sent += count,
                    Poll::Ready(_) => {
                        self.hung_up = true;
                        return Poll::Ready(Err(Interruption::HungUp));
                    }
                    // A client that does not read can still go away.
                    Poll::Pending => return self.poll_stall(&mut patience, cx),
                }
            }
            // With TLS the last bytes may still be here.
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Ready(Ok(())) => Poll::Ready(Ok(())),
                Poll::Ready(Err(_)) => {
                    self.hung_up = true;
                    Poll::Ready(Err(Interruption::HungUp))
                }
                Poll::Pending => self.poll_stall(&mut patience, cx),
            }
        })
        .await
    }

    /// Ready when a client that does not take what is sent has gone, or has had its time.
    fn poll_stall(&mut self, patience: &mut Option<Waiting>, cx: &mut Context<'_>) -> Poll<Result<(), Interruption>> {
        if let Poll::Ready(interruption) = self.poll_interruption(cx) {
            return Poll::Ready(Err(interruption));
        }
        let among = &self.among;
        let patience = patience.get_or_insert_with(|| {
            let among = among.clone();
            Box::pin(async move {
                sleep(SLOW_PIECE).await;
                let _ = timeout(PIECE_TIMEOUT - SLOW_PIECE, room_is_needed(among.as_ref())).await;
            })
        });
        ready!(patience.as_mut().poll(cx));
        self.hung_up = true;
        // Without it the kernel would go on offering what it holds.
        self.stream.reset_on_drop();
        Poll::Ready(Err(Interruption::Stalled))
    }

    /// Sends an interim answer while the body is still being waited for.
    pub(super) async fn send_continue(&mut self) -> Result<(), Interruption> {
        self.send_all([b"HTTP/1.1 100 Continue\r\n\r\n", b"", b""]).await
    }

    /// Reads `count` bytes and throws them away; false when they do not come in time.
    pub async fn discard(&mut self, mut count: u64) -> bool {
        if count == 0 {
            return true;
        }
        let Self { stream, input, stop, rests_since, .. } = self;
        let reading = async {
            loop {
                let here = count.min(input.len() as u64);
                let _ = input.split_to(here as usize);
                count -= here;
                if count == 0 {
                    return true;
                }
                if !matches!(poll_fn(|cx| poll_read(stream, input, cx)).await, Ok(1..)) {
                    return false;
                }
            }
        };
        let is_done = tokio::select! {
            all = timeout(LINGER, reading) => all == Ok(true),
            () = stop.reached(Phase::Draining) => false,
        };
        // Whoever was sending has not rested.
        *rests_since = Instant::now();
        is_done
    }

    /// Ends the connection so that the client gets all that was sent, also one that is still sending.
    pub async fn close(mut self) {
        let closing = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
        if closing.is_err() || self.hung_up || self.was_cut {
            return;
        }
        let Self { stream, input, stop, .. } = &mut self;
        let reading = async {
            while matches!(poll_fn(|cx| poll_read(stream, input, cx)).await, Ok(1..)) {
                input.clear();
            }
        };
        let stopping = async {
            stop.reached(Phase::Draining).await;
            sleep(LINGER_WHILE_DRAINING).await;
        };
        tokio::select! {
            _ = timeout(LINGER, reading) => {}
            () = stopping => {}
        }
    }

    /// Ends the connection so that the client notices: where no framing can show that an answer is incomplete, a
    /// reset has to.
    pub fn abort(self) {
        self.stream.reset_on_drop();
    }
}

/// How long the rest of a body is waited for.
pub(super) struct BodyPatience {
    until: Instant,
}

impl BodyPatience {
    pub(super) fn begin() -> Self {
        Self::from(Instant::now())
    }

    fn from(now: Instant) -> Self {
        Self { until: now + BODY_STALL_TIMEOUT }
    }

    /// Bytes buy the time that they would take at the slowest rate. It is not saved up: what came fast is no excuse for
    /// a trickle behind it.
    fn earn(&mut self, bytes: usize, now: Instant) {
        let bought = Duration::from_secs_f64(bytes as f64 / SLOWEST_BODY as f64);
        self.until = (self.until + bought).min(now + BODY_STALL_TIMEOUT);
    }
}

/// Returns when this connection's place should be another's.
async fn room_is_needed(among: Option<&Arc<Connections>>) {
    match among {
        Some(connections) => connections.room_is_needed().await,
        None => pending().await,
    }
}

/// Returns when its place should be another's before it has sent a whole head.
async fn unheard_should_leave(among: Option<&Arc<Connections>>) {
    match among {
        Some(connections) => connections.unheard_should_leave().await,
        None => pending().await,
    }
}

/// Reads what there is behind what has been read, through the stack, so that a connection which waits holds no buffer.
fn poll_read(stream: &mut Transport, input: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let mut scratch = [const { MaybeUninit::<u8>::uninit() }; SCRATCH_BYTES];
    let mut read = ReadBuf::uninit(&mut scratch);
    ready!(Pin::new(stream).poll_read(cx, &mut read))?;
    input.extend_from_slice(read.filled());
    Poll::Ready(Ok(read.filled().len()))
}

/// The one slice that has bytes, if it is the only one: the kernel takes that for less than a list.
fn alone<'a>(slices: &'a [IoSlice<'_>]) -> Option<&'a [u8]> {
    let mut filled = slices.iter().filter(|slice| !slice.is_empty());
    let first = filled.next()?;
    filled.next().is_none().then_some(first)
}

/// Empty lines before a request are allowed (RFC 9112, section 2.2), and are none.
fn skip_empty_lines(input: &mut BytesMut) {
    while input.starts_with(b"\r\n") {
        input.advance(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds until a body is given up that goes on coming like this; `None` when it is waited for ten hours.
    fn given_up_after(bytes: usize, every: u64) -> Option<u64> {
        let begun = Instant::now();
        let mut patience = BodyPatience::from(begun);
        for seconds in (1..36_000).map(|turn| turn * every).take_while(|seconds| *seconds < 36_000) {
            let now = begun + Duration::from_secs(seconds);
            if patience.until <= now {
                return Some((patience.until - begun).as_secs());
            }
            patience.earn(bytes, now);
        }
        None
    }

    #[test]
    fn slow_uplinks_have_the_time_they_need_and_trickles_have_not() {
        assert_eq!(given_up_after(10_000, 1), None, "a phone");
        assert_eq!(given_up_after(300_000, 55), None, "one with gaps");
        assert_eq!(given_up_after(1, 17), Some(60));
        assert_eq!(given_up_after(1024, 1), Some(79));
        // However much came fast before.
        let now = Instant::now();
        let mut patience = BodyPatience::from(now);
        patience.earn(64 << 20, now);
        assert_eq!(patience.until, now + BODY_STALL_TIMEOUT);
    }
}
