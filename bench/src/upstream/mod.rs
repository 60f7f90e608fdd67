//! What all contestants stand before: chat completions over HTTP/1.1, and over TLS with HTTP/2 or HTTP/1.1, and Google's
//! metadata server. It says little and checks all that it is told.
//!
//! It is served by the thread that asks, or by a process of its own.

mod apart;
mod http1;
mod http2;
mod metadata;
mod server;
mod tls;

pub(crate) use apart::{COMMAND, serve};

use crate::Result;
use crate::payload::Question;
use apart::Apart;
use serde::{Deserialize, Serialize};
use server::{Server, Shared};
use std::cell::Cell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;

/// How a contestant reaches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1 without TLS.
    Plain,
    /// TLS; HTTP/2 for those who speak it.
    Tls,
    /// TLS with HTTP/1.1, also for those who speak HTTP/2.
    Tls1,
}

impl Wire {
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Tls, Self::Tls1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
            Self::Tls1 => "tls1",
        }
    }
}

/// A stream of events.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct StreamShape {
    pub(crate) events: u64,
    /// From one event to the next.
    pub(crate) interval: Duration,
}

/// What has come so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) connections: Cell<u64>,
    /// Of the connections those that are open.
    pub(crate) open: Cell<u64>,
    pub(crate) handshakes: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    /// Bytes of all bodies.
    pub(crate) body_bytes: Cell<u64>,
    /// Requests that were not what was asked, to the last byte.
    pub(crate) wrong: Cell<u64>,
}

/// Where it listens.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Addresses {
    plain: SocketAddr,
    tls: SocketAddr,
    tls1: SocketAddr,
    metadata: SocketAddr,
}

/// The server, as those see it who ask.
pub(crate) struct Upstream {
    place: Place,
    addresses: Addresses,
    folder: TempDir,
}

enum Place {
    Here(Rc<Shared>),
    Apart(Apart),
}

/// The file in upstream's folder that its certificate is verified against.
const AUTHORITY: &str = "authority";

impl Upstream {
    /// Starts it on ports of its own, served by this thread.
    pub(crate) fn here() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let Server { shared, addresses } = Server::start(&folder.path().join(AUTHORITY))?;
        Ok(Self { place: Place::Here(shared), addresses, folder })
    }

    /// Starts it in a process of its own, on these CPUs: a stream has two ends on this side of a contestant, and no
    /// process may hold both of as many as are wanted.
    pub(crate) fn apart(cpus: &[usize]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (apart, addresses) = Apart::start(&folder.path().join(AUTHORITY), cpus)?;
        Ok(Self { place: Place::Apart(apart), addresses, folder })
    }

    pub(crate) fn address(&self, wire: Wire) -> SocketAddr {
        match wire {
            Wire::Plain => self.addresses.plain,
            Wire::Tls => self.addresses.tls,
            Wire::Tls1 => self.addresses.tls1,
        }
    }

    pub(crate) fn metadata(&self) -> SocketAddr {
        self.addresses.metadata
    }

    /// The file that its certificate is verified against.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join(AUTHORITY)
    }

    /// What has come so far.
    ///
    /// # Errors
    /// Where it is a process of its own, that process may have ended; so in the others.
    pub(crate) fn counts(&self) -> Result<Counts> {
        match &self.place {
            Place::Here(shared) => Ok(shared.counts.clone()),
            Place::Apart(apart) => apart.counts(),
        }
    }

    /// What the next requests get.
    pub(crate) fn expect(&self, question: &Question, stream: Option<StreamShape>) -> Result<()> {
        match &self.place {
            Place::Here(shared) => shared.expect(question.tail.clone(), stream),
            Place::Apart(apart) => apart.expect(&question.tail, stream)?,
        }
        Ok(())
    }

    /// Lets all streams end now.
    pub(crate) fn end_streams(&self) -> Result<()> {
        match &self.place {
            Place::Here(shared) => shared.end_streams(),
            Place::Apart(apart) => apart.end_streams()?,
        }
        Ok(())
    }

    /// CPU time of the process that it has of its own.
    pub(crate) fn own_cpu_time(&self) -> Duration {
        match &self.place {
            Place::Here(_) => Duration::ZERO,
            Place::Apart(apart) => apart.cpu_time(),
        }
    }
}
