//! The clients: they ask at the pace they are told, and check every byte of every answer.

mod batch;
mod closed;
mod connection;
mod open;
mod streams;
mod timer;

pub(crate) use batch::Batch;
pub(crate) use closed::Closed;
pub(crate) use open::{Open, Slots};
pub(crate) use streams::{Streams, StreamsPlan};

use crate::payload::{self, Events, Question};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::Instant;

/// What clients of one turn ask, and what they note.
pub(crate) struct Turn {
    pub(crate) target: SocketAddr,
    pub(crate) question: Question,
    pub(crate) answer: Bytes,
    pub(crate) events: Events,
    pub(crate) notes: Notes,
}

/// What was seen. Counters go on for ever; who wants a part of a turn takes differences.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Whole answers, or events of streams.
    pub(crate) done: Cell<u64>,
    /// Streams that have begun.
    pub(crate) begun: Cell<u64>,
    /// Streams whose every event came, with the regular end.
    pub(crate) ended: Cell<u64>,
    /// Nanoseconds from when a question should have left to its whole answer; with streams from an event's departure
    /// upstream to its arrival. Of what was asked, or came, while [`recording`](Self::recording).
    pub(crate) latencies: RefCell<Vec<u64>>,
    /// Where in the latencies a slot ends and the next one begins; see [`Slots`].
    pub(crate) slot_ends: RefCell<Vec<usize>>,
    /// Nanoseconds from a stream's question to its first event.
    pub(crate) first_bytes: RefCell<Vec<u64>>,
    pub(crate) recording: Cell<bool>,
    /// The machine kept the clients from asking in time: the turn shows nothing.
    pub(crate) paused: Cell<bool>,
    /// Nobody asks any more; what has been asked is answered.
    pub(crate) stopping: Cell<bool>,
    /// The first thing that went wrong.
    pub(crate) fault: RefCell<Option<String>>,
}

impl Notes {
    fn fail(&self, fault: String) {
        self.fault.borrow_mut().get_or_insert(fault);
    }

    fn record(&self, latency: u64) {
        if self.recording.get() {
            self.latencies.borrow_mut().push(latency);
        }
    }
}

impl Turn {
    pub(crate) fn new(target: SocketAddr, question: Question) -> Self {
        Self { target, question, answer: payload::answer(), events: Events::new(), notes: Notes::default() }
    }
}

fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// Since then, in nanoseconds.
fn nanoseconds_since(then: Instant) -> u64 {
    u64::try_from(then.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Turn {
    /// One question on a connection of its own.
    ///
    /// # Errors
    /// What was wrong with the answer.
    pub(crate) async fn ask_once(&self) -> Result<(), String> {
        let mut connection = connection::Connection::open(self.target).await?;
        connection.ask(&self.question.request, &self.answer).await
    }

    /// The status of the answer to another question, on a new connection, behind one that is answered as it should be.
    ///
    /// # Errors
    /// What kept an answer from coming.
    pub(crate) async fn status_behind(&self, first: Option<&Question>, then: &Question) -> Result<u16, String> {
        let mut connection = connection::Connection::open(self.target).await?;
        if let Some(first) = first {
            connection.ask(&first.request, &self.answer).await?;
        }
        connection.send(&then.request).await?;
        connection.read_status().await
    }

    /// So many questions, one after the other, on one connection.
    ///
    /// # Errors
    /// What was wrong with an answer.
    pub(crate) async fn ask_in_turn(&self, count: u64) -> Result<(), String> {
        let mut connection = connection::Connection::open(self.target).await?;
        for _ in 0..count {
            connection.ask(&self.question.request, &self.answer).await?;
        }
        Ok(())
    }
}
