//! Upstream in a process of its own: this program once more, told what to do by lines of JSON over a socket, which is its
//! standard input. Each order is answered with one line. The end of the orders is the end of the process.

use super::server::Server;
use super::{Addresses, Counts, StreamShape};
use crate::Result;
use crate::process::Process;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

/// The program's command that makes it an upstream. Nobody is meant to give it by hand.
pub(crate) const COMMAND: &str = "upstream";
/// How long it may take to do as it is told, on a machine that is busy.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// What it is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// What the next requests get; see [`Shape`](super::server::Shape).
    Expect { tail: String, stream: Option<StreamShape> },
    /// All streams end now.
    EndStreams,
    /// What has come so far is asked for.
    Count,
}

/// An upstream that runs elsewhere. Dropping it ends it.
pub(super) struct Apart {
    orders: RefCell<BufReader<UnixStream>>,
    process: Process,
}

impl Apart {
    pub(super) fn start(authority: &Path, cpus: &[usize]) -> Result<(Self, Addresses)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_read_timeout(Some(ORDER_TIMEOUT))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(COMMAND).arg(authority).stdin(Stdio::from(OwnedFd::from(theirs)));
        let process = Process::start(&mut command, cpus)?;
        // It holds the other end too; without it, the process's end is noticed.
        drop(command);
        let mut orders = BufReader::new(ours);
        let addresses = read(&mut orders)?;
        Ok((Self { orders: RefCell::new(orders), process }, addresses))
    }

    fn order<T: DeserializeOwned>(&self, order: &Order) -> Result<T> {
        let orders = &mut *self.orders.borrow_mut();
        let mut line = serde_json::to_vec(order)?;
        line.push(b'\n');
        orders.get_mut().write_all(&line).map_err(|error| format!("upstream takes no orders: {error}"))?;
        read(orders)
    }

    pub(super) fn counts(&self) -> Result<Counts> {
        self.order(&Order::Count)
    }

    pub(super) fn expect(&self, tail: &[u8], stream: Option<StreamShape>) -> Result<()> {
        self.order(&Order::Expect { tail: String::from_utf8(tail.to_vec())?, stream })
    }

    pub(super) fn end_streams(&self) -> Result<()> {
        self.order(&Order::EndStreams)
    }

    pub(super) fn cpu_time(&self) -> Duration {
        self.process.cpu_time()
    }
}

/// Reads one line of JSON.
fn read<T: DeserializeOwned>(answers: &mut impl BufRead) -> Result<T> {
    let mut line = String::new();
    answers.read_line(&mut line).map_err(|error| format!("upstream does not answer: {error}"))?;
    if line.is_empty() {
        return Err("upstream has ended".into());
    }
    Ok(serde_json::from_str(&line)?)
}

/// Is upstream until the orders end.
///
/// # Errors
/// What is no order, and whatever keeps it from listening.
pub(crate) async fn serve(authority: &Path) -> Result<()> {
    let socket = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    let (orders, mut answers) = tokio::net::UnixStream::from_std(socket)?.into_split();
    let mut orders = tokio::io::BufReader::new(orders).lines();
    let server = Server::start(authority)?;
    let mut answer = serde_json::to_vec(&server.addresses)?;
    loop {
        answer.push(b'\n');
        answers.write_all(&answer).await?;
        let Some(line) = orders.next_line().await? else { return Ok(()) };
        answer = match serde_json::from_str(&line)? {
            Order::Expect { tail, stream } => serde_json::to_vec(&server.shared.expect(tail.into(), stream))?,
            Order::EndStreams => serde_json::to_vec(&server.shared.end_streams())?,
            Order::Count => serde_json::to_vec(&server.shared.counts)?,
        };
    }
}
