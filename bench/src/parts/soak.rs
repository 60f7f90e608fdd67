//! Whether anything grows with the number of requests: memory, descriptors, connections to upstream.

use crate::Result;
use crate::contestant::{Contestant, Running};
use crate::figure::{Figure, Goal};
use crate::lab::Lab;
use crate::load::{Closed, Streams, StreamsPlan, Turn};
use crate::payload::Question;
use crate::statistics::median;
use crate::upstream::{StreamShape, Wire};
use std::rc::Rc;
use std::time::{Duration, Instant};

const CLIENTS: usize = 32;
/// Nothing is on its way any more when upstream got nothing for so long.
const QUIET: Duration = Duration::from_millis(100);
/// Parts of a soak. What memory the first half of them leaves behind is what the second half is compared with.
const LAPS: u64 = 10;
/// The gateway has closed its idle connections to upstream but for a few, so long after the last request: it looks every
/// ten seconds for those that have been idle for twenty.
const IDLE_CLOSED: Duration = Duration::from_secs(35);
/// Connections that may stay open, and descriptors.
const KEPT: f64 = 16.0;

pub(crate) async fn run(lab: &Lab) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for wire in [Wire::Plain, Wire::Tls] {
        let name = format!("soak.{}", wire.name());
        let made_before = lab.upstream.counts()?.connections.get();
        let running = lab.start(Contestant::Gateway, wire).await?;
        let before = State::of(lab, &running)?;
        let mut resident = Figure::new(format!("{name}.resident"), "MB");
        let mut of_laps = Vec::new();
        for _ in 0..LAPS {
            lap(lab, &running, lab.effort.soak / LAPS / 2).await?;
            let state = State::of(lab, &running)?;
            resident.note(Contestant::Gateway, state.resident / 1e6);
            of_laps.push(state.resident);
        }
        let (first, last) = of_laps.split_at(of_laps.len() / 2);
        let grown = median(last).unwrap_or_default() / median(first).unwrap_or_default();
        let rest = IDLE_CLOSED.min(lab.effort.memory_rest);
        tokio::time::sleep(rest).await;
        let after = State::of(lab, &running)?;
        let mut left = [
            ("descriptors", after.descriptors - before.descriptors),
            ("connections", after.connections - before.connections),
        ]
        .map(|(what, more)| Figure::of_gateway(format!("{name}.{what}"), "more than before", more));
        if rest == IDLE_CLOSED {
            left = left.map(|figure| figure.goal(Goal::AtMost(KEPT)));
        }
        let made = (lab.upstream.counts()?.connections.get() - made_before) as f64;
        figures
            .push(Figure::of_gateway(format!("{name}.memory"), "last laps/first laps", grown).goal(Goal::AtMost(1.1)));
        figures.extend(left);
        figures.extend([resident, Figure::of_gateway(format!("{name}.connections_made"), "", made)]);
    }
    Ok(figures)
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    resident: f64,
    descriptors: f64,
    /// Those to upstream that are open.
    connections: f64,
}

impl State {
    fn of(lab: &Lab, running: &Running) -> Result<Self> {
        let process = running.process.as_ref().ok_or("the gateway is a process")?;
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.id()))?.count();
        Ok(Self {
            resident: process.memory().resident as f64,
            descriptors: descriptors as f64,
            connections: lab.upstream.counts()?.open.get() as f64,
        })
    }
}

/// So many requests in equal parts: small ones, short streams, and clients that hang up; and a few large ones.
async fn lap(lab: &Lab, running: &Running, requests: u64) -> Result<()> {
    let part = requests / 2;
    let small = Question::new(1024, false);
    lab.upstream.expect(&small, None)?;
    let turn = Rc::new(Turn::new(running.address, small));
    let clients = Closed::start(&turn, CLIENTS);
    wait_for(lab, &turn, running, part).await?;
    clients.end().await;

    let large = Question::new(1_000_000, false);
    lab.upstream.expect(&large, None)?;
    let turn = Turn::new(running.address, large);
    turn.ask_in_turn(5).await?;
    lab.judge(&turn, running)?;

    let short = StreamShape { events: 3, interval: Duration::from_millis(1) };
    let question = Question::new(1024, true);
    lab.upstream.expect(&question, Some(short))?;
    let turn = Rc::new(Turn::new(running.address, question));
    let mut left = part as usize;
    while left > 0 {
        let count = left.min(1000);
        left -= count;
        Streams::start(&turn, StreamsPlan { count, ramp: Duration::from_millis(count as u64 / 10) }).end().await;
        lab.judge(&turn, running)?;
    }

    // These hang up in mid-stream.
    let endless = StreamShape { events: u64::MAX, interval: Duration::from_millis(5) };
    let question = Question::new(1024, true);
    lab.upstream.expect(&question, Some(endless))?;
    let turn = Rc::new(Turn::new(running.address, question));
    let streams = Streams::start(&turn, StreamsPlan { count: 200, ramp: Duration::from_millis(20) });
    tokio::time::sleep(Duration::from_millis(60)).await;
    drop(streams);
    lab.judge(&turn, running)?;
    lab.upstream.end_streams()?;
    // What was on its way must not meet the next question's check.
    let mut seen = None;
    while seen.replace(lab.upstream.counts()?.requests.get()) != Some(lab.upstream.counts()?.requests.get()) {
        tokio::time::sleep(QUIET).await;
    }
    Ok(())
}

async fn wait_for(lab: &Lab, turn: &Turn, running: &Running, count: u64) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(120);
    while turn.notes.done.get() < count {
        lab.judge(turn, running)?;
        if Instant::now() > deadline {
            return Err("the soak does not come to its end".into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
