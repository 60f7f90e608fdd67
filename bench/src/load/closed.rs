//! Closed loop: so many clients, each asks again as soon as it has its answer. What a program can do at most.

use super::connection::Connection;
use super::{Turn, add};
use std::rc::Rc;
use std::time::Instant;
use tokio::task::JoinSet;

/// Clients that ask until they are told to end; dropping this hangs up.
pub(crate) struct Closed {
    turn: Rc<Turn>,
    clients: JoinSet<()>,
}

impl Closed {
    pub(crate) fn start(turn: &Rc<Turn>, clients: usize) -> Self {
        let mut tasks = JoinSet::new();
        for _ in 0..clients {
            let turn = turn.clone();
            tasks.spawn_local(async move {
                if let Err(fault) = ask_on(&turn).await {
                    turn.notes.fail(fault);
                }
            });
        }
        Self { turn: turn.clone(), clients: tasks }
    }

    /// Lets them have their last answers.
    pub(crate) async fn end(mut self) {
        self.turn.notes.stopping.set(true);
        while self.clients.join_next().await.is_some() {}
    }
}

async fn ask_on(turn: &Turn) -> Result<(), String> {
    let mut connection = Connection::open(turn.target).await?;
    while !turn.notes.stopping.get() {
        let asked = Instant::now();
        connection.ask(&turn.question.request, &turn.answer).await?;
        add(&turn.notes.done, 1);
        turn.notes.record(super::nanoseconds_since(asked));
    }
    Ok(())
}
