//! Open loop: questions leave at a fixed rate, whether earlier ones are answered or not.
//!
//! A latency counts from the moment at which the question should have left. A client that waits for a late answer before
//! it asks again would hide exactly the latencies that matter (coordinated omission).

use super::connection::{Connection, Framing, Input};
use super::timer::{Timer, period};
use super::{Turn, add, nanoseconds_since};
use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Connections that are open from the start.
const WARM_CONNECTIONS: usize = 32;
/// More questions than this without an answer: the target does not keep up.
const MAX_CONNECTIONS: usize = 2000;

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
    count: Cell<usize>,
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
    let clients = Rc::new(Clients { turn: turn.clone(), idle: RefCell::default(), count: Cell::new(0) });
    let mut readers = JoinSet::new();
    for _ in 0..WARM_CONNECTIONS {
        let client = clients.add(&mut readers).await?;
        clients.idle.borrow_mut().push(client);
    }
    let timer = Timer::new().map_err(|error| error.to_string())?;
    let (mut due, period) = (Instant::now(), period(rate));
    while !turn.notes.stopping.get() {
        timer.until(due).await.map_err(|error| error.to_string())?;
        if due.elapsed() > PAUSE {
            turn.notes.paused.set(true);
            due = Instant::now();
        }
        while due <= Instant::now() {
            let idle = clients.idle.borrow_mut().pop();
            let client = match idle {
                Some(client) => client,
                None => clients.add(&mut readers).await?,
            };
            client.due.set(due);
            // Nothing of an earlier question is in its way: it fits the socket's buffer.
            match client.stream.try_write(&turn.question.request) {
                Ok(count) if count == turn.question.request.len() => {}
                other => return Err(format!("a question did not leave at once: {other:?}")),
            }
            due += period;
        }
    }
    while clients.idle.borrow().len() < clients.count.get() && turn.notes.fault.borrow().is_none() {
        tokio::time::sleep(END_INTERVAL).await;
    }
    Ok(())
}

impl Clients {
    async fn add(self: &Rc<Self>, readers: &mut JoinSet<()>) -> Result<Rc<Client>, String> {
        self.count.set(self.count.get() + 1);
        if self.count.get() > MAX_CONNECTIONS {
            return Err(format!("{MAX_CONNECTIONS} questions wait for an answer: the rate is too high"));
        }
        let (stream, input) = Connection::open(self.turn.target).await?.into_parts();
        stream.writable().await.map_err(|error| error.to_string())?;
        let client = Rc::new(Client { stream, due: Cell::new(Instant::now()) });
        let (clients, of_reader) = (self.clone(), client.clone());
        readers.spawn_local(async move {
            if let Err(fault) = clients.read_answers(&of_reader, input).await {
                clients.turn.notes.fail(fault);
            }
        });
        Ok(client)
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
                self.idle.borrow_mut().push(client.clone());
            }
        }
    }
}
