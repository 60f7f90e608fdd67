//! Open loop: questions leave at a fixed rate, whether earlier ones are answered or not.
//!
//! A latency counts from the moment at which the question should have left. A client that waits for a late answer before
//! it asks again would hide exactly the latencies that matter (coordinated omission).

use super::connection::{Connection, Framing, Input, READ_BYTES};
use super::timer::{Timer, period};
use super::{Turn, add, nanoseconds_since};
use crate::machine::monotonic_nanoseconds;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinSet;

/// Connections, all open before the first question: to open more in a rush would make the rush worse. A question that
/// finds none free waits for one, and its latency counts from before that.
const CONNECTIONS: usize = 128;
/// So many questions that wait for a connection: the target does not keep up.
const MAX_WAITING: usize = 20_000;
/// At high rates what is due within this leaves together: waking up for each question would take more than the question.
const TICK: Duration = Duration::from_micros(200);
/// Clients that wake so late were not late by the target's doing: the machine did something else.
const PAUSE: Duration = Duration::from_millis(20);
/// How often a turn that ends looks whether all have their answers.
const END_INTERVAL: Duration = Duration::from_millis(1);

/// Questions that leave until this is told to end; dropping it hangs up.
pub(crate) struct Open {
    turn: Rc<Turn>,
    asking: JoinSet<()>,
}

/// When a question should have left.
#[derive(Clone, Copy)]
struct Due {
    at: Instant,
    /// It was in the time that is recorded. Whenever its answer comes: those that are still missing at the end of that time
    /// are the slowest.
    is_recorded: bool,
}

/// One connection, whose question may be on its way.
struct Client {
    questions: OwnedWriteHalf,
    due: Cell<Due>,
}

struct Clients {
    turn: Rc<Turn>,
    slots: Option<Slots>,
    /// Those without a question; the one that was answered last is asked next.
    idle: RefCell<Vec<Rc<Client>>>,
    /// When questions were due that found no client.
    waiting: RefCell<VecDeque<Due>>,
}

impl Open {
    pub(crate) fn start(turn: &Rc<Turn>, rate: u32, slots: Option<Slots>) -> Self {
        let mut tasks = JoinSet::new();
        let of_task = turn.clone();
        tasks.spawn_local(async move {
            if let Err(fault) = ask_at(&of_task, rate, slots).await {
                of_task.notes.fail(fault);
            }
        });
        Self { turn: turn.clone(), asking: tasks }
    }

    /// Asks no more and waits for the last answers.
    pub(crate) async fn end(mut self) {
        self.turn.notes.stopping.set(true);
        while self.asking.join_next().await.is_some() {}
    }
}

async fn ask_at(turn: &Rc<Turn>, rate: u32, slots: Option<Slots>) -> Result<(), String> {
    let clients = Rc::new(Clients { turn: turn.clone(), slots, idle: RefCell::default(), waiting: RefCell::default() });
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.add(&mut readers).await?;
    }
    let timer = Timer::new().map_err(|error| error.to_string())?;
    let (mut due, period) = (clients.in_slot(Instant::now()), period(rate));
    while !turn.notes.stopping.get() {
        let tick = due.max(Instant::now() + TICK);
        timer.until(if period < TICK { tick } else { due }).await.map_err(|error| error.to_string())?;
        if due.elapsed() > PAUSE {
            turn.notes.paused.set(true);
            due = clients.in_slot(Instant::now());
        }
        while due <= Instant::now() {
            let idle = clients.idle.borrow_mut().pop();
            let question = Due { at: due, is_recorded: turn.notes.recording.get() };
            match idle {
                Some(client) => client.ask(turn, question)?,
                None => clients.waiting.borrow_mut().push_back(question),
            }
            due = clients.in_slot(due + period);
        }
        if clients.waiting.borrow().len() > MAX_WAITING {
            return Err(format!("{MAX_WAITING} questions wait: the rate is too high"));
        }
    }
    while clients.idle.borrow().len() < CONNECTIONS && turn.notes.fault.borrow().is_none() {
        tokio::time::sleep(END_INTERVAL).await;
    }
    Ok(())
}

/// Where several take turns with their questions: the time of the machine's clock is cut into slots, one for each of them
/// in turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slots {
    pub(crate) length: Duration,
    /// The first ones of a slot wake up what rested in the slots of others, and are not recorded.
    pub(crate) warm_up: Duration,
    /// Which of them is one's own.
    pub(crate) number: u32,
    pub(crate) of: u32,
}

impl Slots {
    /// How long after the beginning of an own slot this time of the clock is, or how long before one.
    fn place(self, clock: Duration) -> Result<Duration, Duration> {
        let (cycle, begin) = (self.length * self.of, self.length * self.number);
        let at = Duration::from_nanos((clock.as_nanos() % cycle.as_nanos()) as u64);
        match at.checked_sub(begin) {
            Some(into) if into < self.length => Ok(into),
            Some(into) => Err(cycle - into),
            None => Err(begin - at),
        }
    }
}

/// The machine's clock at this time.
fn clock_at(then: Instant) -> Duration {
    let (now, clock) = (Instant::now(), Duration::from_nanos(monotonic_nanoseconds()));
    (clock + then.saturating_duration_since(now)).saturating_sub(now.saturating_duration_since(then))
}

impl Client {
    /// Sends the question that was due then.
    fn ask(&self, turn: &Turn, due: Due) -> Result<(), String> {
        self.due.set(due);
        // Nothing of an earlier question is in its way: it fits the socket's buffer.
        match self.questions.try_write(&turn.question.request) {
            Ok(count) if count == turn.question.request.len() => Ok(()),
            other => Err(format!("a question did not leave at once: {other:?}")),
        }
    }
}

impl Clients {
    /// This time, or the beginning of the next own slot after it.
    fn in_slot(&self, due: Instant) -> Instant {
        let place = self.slots.map(|slots| slots.place(clock_at(due)));
        due + place.and_then(Result::err).unwrap_or_default()
    }

    /// Records the answer to a question that was due then, if that was none of the first ones in its slot.
    fn record(&self, due: Due) {
        let is_warm = |slots: Slots| slots.place(clock_at(due.at)).is_ok_and(|into| into >= slots.warm_up);
        if !self.slots.is_none_or(is_warm) {
            self.end_slot();
        } else if due.is_recorded {
            self.turn.notes.latencies.borrow_mut().push(nanoseconds_since(due.at));
        }
    }

    /// Notes that what is recorded so far belongs to slots that are over.
    fn end_slot(&self) {
        let (recorded, mut ends) = (self.turn.notes.latencies.borrow().len(), self.turn.notes.slot_ends.borrow_mut());
        if ends.last().copied().unwrap_or(0) < recorded {
            ends.push(recorded);
        }
    }

    /// Opens a connection and asks once, so that all is warm when it counts.
    async fn add(self: &Rc<Self>, readers: &mut JoinSet<()>) -> Result<(), String> {
        let mut connection = Connection::open(self.turn.target).await?;
        connection.ask(&self.turn.question.request, &self.turn.answer).await?;
        let (stream, input) = connection.into_parts();
        let (answers, questions) = stream.into_split();
        let due = Cell::new(Due { at: Instant::now(), is_recorded: false });
        let client = Rc::new(Client { questions, due });
        self.idle.borrow_mut().push(client.clone());
        let clients = self.clone();
        readers.spawn_local(async move {
            if let Err(fault) = clients.read_answers(&client, answers, input).await {
                clients.turn.notes.fail(fault);
            }
        });
        Ok(())
    }

    async fn read_answers(
        &self,
        client: &Rc<Client>,
        mut answers: OwnedReadHalf,
        mut input: Input,
    ) -> Result<(), String> {
        let mut length = None;
        loop {
            input.0.reserve(READ_BYTES);
            // A read that fills less than it may is not tried once more for nothing.
            match answers.read_buf(&mut input.0).await {
                Ok(0) => return Err("the connection ended".into()),
                Ok(_) => {}
                Err(error) => return Err(format!("cannot read: {error}")),
            }
            if length.is_none() {
                length = match input.take_head()? {
                    Some(Framing::Counted(length)) => Some(length),
                    Some(Framing::Chunked) => return Err("an answer in chunks".into()),
                    None => None,
                };
            }
            if let Some(whole) = length
                && input.take_answer(whole, &self.turn.answer)?
            {
                length = None;
                add(&self.turn.notes.done, 1);
                self.record(client.due.get());
                let waiting = self.waiting.borrow_mut().pop_front();
                match waiting {
                    Some(due) => client.ask(&self.turn, due)?,
                    None => self.idle.borrow_mut().push(client.clone()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_one_after_the_other() {
        let milliseconds = Duration::from_millis;
        let slots = Slots { length: milliseconds(10), warm_up: Duration::ZERO, number: 1, of: 4 };
        for (clock, place) in [
            (0, Err(milliseconds(10))),
            (9, Err(milliseconds(1))),
            (10, Ok(Duration::ZERO)),
            (419, Ok(milliseconds(9))),
            (20, Err(milliseconds(30))),
            (39, Err(milliseconds(11))),
        ] {
            assert_eq!(slots.place(milliseconds(clock)), place, "{clock}");
        }
    }
}
