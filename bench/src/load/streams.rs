//! Many streams at one time, each event checked as it comes.

use super::connection::{Chunks, Connection, Framing};
use super::{Turn, add, nanoseconds_since};
use crate::machine::monotonic_nanoseconds;
use crate::payload::{DONE, EVENT_BYTES};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How streams are opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamsPlan {
    pub(crate) count: usize,
    /// The time over which they are opened, evenly.
    pub(crate) ramp: Duration,
}

/// Streams under way; dropping this hangs up.
pub(crate) struct Streams {
    clients: JoinSet<()>,
}

impl Streams {
    pub(crate) fn start(turn: &Rc<Turn>, plan: StreamsPlan) -> Self {
        let mut clients = JoinSet::new();
        let begin = tokio::time::Instant::now();
        for number in 0..plan.count {
            let turn = turn.clone();
            let at = begin + plan.ramp.mul_f64(number as f64 / plan.count as f64);
            clients.spawn_local(async move {
                tokio::time::sleep_until(at).await;
                match follow(&turn).await {
                    Ok(()) => add(&turn.notes.ended, 1),
                    Err(fault) => turn.notes.fail(fault),
                }
            });
        }
        Self { clients }
    }

    /// Waits until all have ended.
    pub(crate) async fn end(mut self) {
        while self.clients.join_next().await.is_some() {}
    }
}

/// One stream from its question to its end.
async fn follow(turn: &Turn) -> Result<(), String> {
    let mut connection = Connection::open(turn.target).await?;
    let asked = Instant::now();
    connection.send(&turn.question.request).await?;
    if connection.read_head().await? != Framing::Chunked {
        return Err("a stream that is not in chunks".into());
    }
    let (mut chunks, mut body) = (Chunks::default(), Vec::with_capacity(2 * EVENT_BYTES));
    let number = Cell::new(0);
    loop {
        let goes_on = connection.read_chunks(&mut chunks, &mut body).await?;
        let mut seen = 0;
        while let Some(event) = body.get(seen..seen + EVENT_BYTES) {
            let left = turn.events.check(event, number.get());
            let left = left.ok_or_else(|| format!("event {} has other bytes than upstream's", number.get()))?;
            if number.get() == 0 {
                add(&turn.notes.begun, 1);
                turn.notes.first_bytes.borrow_mut().push(nanoseconds_since(asked));
            }
            turn.notes.record(monotonic_nanoseconds().saturating_sub(left));
            add(&turn.notes.done, 1);
            number.set(number.get() + 1);
            seen += EVENT_BYTES;
        }
        body.drain(..seen);
        if !goes_on {
            return if body == DONE { Ok(()) } else { Err("a stream without its regular end".into()) };
        }
    }
}
