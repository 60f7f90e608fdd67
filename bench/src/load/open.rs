//! Open loop: questions leave at a fixed rate, whether earlier ones are answered or not.
//!
//! A latency counts from the moment at which the question should have left. A client that waits for a late answer before
//! it asks again would hide exactly the latencies that matter (coordinated omission).

use super::connection::{Connection, Framing, Input};
use super::timer::{Timer, period};
use super::{Turn, add, nanoseconds_since};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
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

/// One connection, whose question may be on its way.
struct Client {
    stream: TcpStream,
    /// When its question should have left.
    due: Cell<Instant>,
}

struct Clients {
    turn: Rc<Turn>,
    /// Those without a question; the one that was answered last is asked next.
    idle: RefCell<Vec<Rc<Client>>>,
    /// When questions were due that found no client.
    waiting: RefCell<VecDeque<Instant>>,
}

impl Open {
    pub(crate) fn start(turn: &Rc<Turn>, rate: u32) -> Self {
        let mut tasks = JoinSet::new();
        let of_task = turn.clone();
        tasks.spawn_local(async move {
            if let Err(fault) = ask_at(&of_task, rate).await {
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

async fn ask_at(turn: &Rc<Turn>, rate: u32) -> Result<(), String> {
    let clients = Rc::new(Clients { turn: turn.clone(), idle: RefCell::default(), waiting: RefCell::default() });
    let mut readers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.add(&mut readers).await?;
    }
    let timer = Timer::new().map_err(|error| error.to_string())?;
    let (mut due, period) = (Instant::now(), period(rate));
    while !turn.notes.stopping.get() {
        let tick = due.max(Instant::now() + TICK);
        timer.until(if period < TICK { tick } else { due }).await.map_err(|error| error.to_string())?;
        if due.elapsed() > PAUSE {
            turn.notes.paused.set(true);
            due = Instant::now();
        }
        while due <= Instant::now() {
            let idle = clients.idle.borrow_mut().pop();
            match idle {
                Some(client) => client.ask(turn, due)?,
                None => clients.waiting.borrow_mut().push_back(due),
            }
            due += period;
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

impl Client {
    /// Sends the question that was due then.
    fn ask(&self, turn: &Turn, due: Instant) -> Result<(), String> {
        self.due.set(due);
        // Nothing of an earlier question is in its way: it fits the socket's buffer.
        match self.stream.try_write(&turn.question.request) {
            Ok(count) if count == turn.question.request.len() => Ok(()),
            other => Err(format!("a question did not leave at once: {other:?}")),
        }
    }
}

impl Clients {
    /// Opens a connection and asks once, so that all is warm when it counts.
    async fn add(self: &Rc<Self>, readers: &mut JoinSet<()>) -> Result<(), String> {
        let mut connection = Connection::open(self.turn.target).await?;
        connection.ask(&self.turn.question.request, &self.turn.answer).await?;
        let (stream, input) = connection.into_parts();
        let client = Rc::new(Client { stream, due: Cell::new(Instant::now()) });
        self.idle.borrow_mut().push(client.clone());
        let clients = self.clone();
        readers.spawn_local(async move {
            if let Err(fault) = clients.read_answers(&client, input).await {
                clients.turn.notes.fail(fault);
            }
        });
        Ok(())
    }

    async fn read_answers(&self, client: &Rc<Client>, mut input: Input) -> Result<(), String> {
        let mut length = None;
        loop {
            client.stream.readable().await.map_err(|error| error.to_string())?;
            input.0.reserve(4096);
            match client.stream.try_read_buf(&mut input.0) {
                Ok(0) => return Err("the connection ended".into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
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
                self.turn.notes.record(nanoseconds_since(client.due.get()));
                let waiting = self.waiting.borrow_mut().pop_front();
                match waiting {
                    Some(due) => client.ask(&self.turn, due)?,
                    None => self.idle.borrow_mut().push(client.clone()),
                }
            }
        }
    }
}
