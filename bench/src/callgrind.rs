//! A gateway that runs under valgrind's callgrind, which sees every instruction.

use crate::Result;
use crate::contestant::{Contestant, Stable};
use crate::lab::Lab;
use crate::load::{Streams, StreamsPlan, Turn};
use crate::payload::Question;
use crate::upstream::{StreamShape, Wire};
use std::rc::Rc;
use std::time::Duration;
use tempfile::TempDir;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// A request of a kilobyte.
    Small,
    /// A request of 100 kB.
    Large,
    /// An event of a stream.
    Event,
}

/// What callgrind left behind.
pub(crate) struct Traced(TempDir);

impl Traced {
    /// What it said.
    pub(crate) fn log(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.0.path().join("log"))?)
    }

    /// Its profile.
    pub(crate) fn profile(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.0.path().join("profile"))?)
    }
}

/// Runs a gateway from its start to its end and asks it so often.
pub(crate) async fn run(lab: &Lab, asked: Asked, wire: Wire, count: u64, options: &[&str]) -> Result<Traced> {
    let folder = tempfile::tempdir()?;
    let mut words = vec![
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        format!("--callgrind-out-file={}", folder.path().join("profile").display()),
        format!("--log-file={}", folder.path().join("log").display()),
    ];
    words.extend(options.iter().map(ToString::to_string));
    let stable = Stable { gateway: lab.stable.gateway.clone(), wrapper: words };
    let mut running = stable.start(Contestant::Gateway, &lab.upstream, wire, &lab.cpus).await?;
    let question = Question::new(if asked == Asked::Large { 100_000 } else { 1024 }, asked == Asked::Event);
    let events = StreamShape { events: count, interval: Duration::from_millis(4) };
    lab.upstream.expect(&question, (asked == Asked::Event).then_some(events))?;
    let turn = Rc::new(Turn::new(running.address, question));
    match asked {
        Asked::Small | Asked::Large => turn.ask_in_turn(count).await?,
        Asked::Event => Streams::start(&turn, StreamsPlan { count: 1, ramp: Duration::ZERO }).end().await,
    }
    lab.judge(&turn, &running)?;
    if let Some(process) = &mut running.process {
        process.end();
    }
    Ok(Traced(folder))
}
