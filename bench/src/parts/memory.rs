//! Resident memory: idle, with many streams open, and when they are over.

use crate::Result;
use crate::contestant::{Contestant, Running};
use crate::figure::{Figure, Goal};
use crate::lab::Lab;
use crate::load::{Streams, StreamsPlan, Turn};
use crate::payload::Question;
use crate::upstream::{StreamShape, Wire};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Streams that are opened in a second.
const OPENED_A_SECOND: f64 = 3000.0;
const INTERVAL: Duration = Duration::from_millis(1000);
/// Streams are at their usual pace after this.
const SETTLE: Duration = Duration::from_millis(2500);
/// The goal is for what there is after so long.
const MINUTE: Duration = Duration::from_secs(60);
/// How long streams may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let lab = &lab.with_upstream_apart()?;
    let wire_name = wire.name();
    let mut idle = Figure::new(format!("memory.{wire_name}.idle"), "MB").goal(Goal::AtMost(6.0));
    let most = lab.effort.memory_streams.iter().copied().max().unwrap_or(0);
    let per_stream_goal = Goal::AtMost(if wire == Wire::Plain { 20.0 } else { 12.0 });
    let mut per_stream: Vec<Figure> = lab
        .effort
        .memory_streams
        .iter()
        .map(|&count| {
            let figure = Figure::new(format!("memory.{wire_name}.per_stream.{count}"), "kB");
            if count == most { figure.goal(per_stream_goal) } else { figure }
        })
        .collect();
    let mut handshakes = Figure::new(format!("memory.{wire_name}.handshakes_per_stream"), "");
    if wire == Wire::Tls {
        handshakes = handshakes.goal(Goal::AtMost(0.01));
    }
    let mut after = Figure::new(format!("memory.{wire_name}.after_streams"), "MB");
    let mut rested = Figure::new(format!("memory.{wire_name}.a_minute_after"), "times idle").goal(Goal::AtMost(2.0));
    rested.is_doubtful = lab.effort.memory_rest < MINUTE;
    let mut resting = Vec::new();
    for contestant in &lab.contestants {
        let handshakes_before = lab.upstream.counts()?.handshakes.get();
        let running = lab.start(*contestant, wire).await?;
        let at_rest = resident(&running);
        idle.note(*contestant, at_rest / 1e6);
        for (figure, &count) in per_stream.iter_mut().zip(lab.effort.memory_streams) {
            let with_streams = open(lab, &running, count).await?;
            figure.note(*contestant, (with_streams - at_rest) / 1e3 / count as f64);
            if count == most && wire != Wire::Plain {
                let made = lab.upstream.counts()?.handshakes.get() - handshakes_before;
                handshakes.note(*contestant, made as f64 / count as f64);
            }
        }
        after.note(*contestant, resident(&running) / 1e6);
        resting.push((running, at_rest, Instant::now() + lab.effort.memory_rest));
    }
    for (running, at_rest, until) in resting {
        tokio::time::sleep_until(until.into()).await;
        rested.note(running.contestant, resident(&running) / at_rest);
    }
    let handshakes = Some(handshakes).filter(|_| wire != Wire::Plain);
    Ok([idle].into_iter().chain(per_stream).chain([after, rested]).chain(handshakes).collect())
}

fn resident(running: &Running) -> f64 {
    running.process.as_ref().map_or(0.0, |process| process.memory().resident as f64)
}

/// Resident memory while so many streams are open. They are all ended, and all bytes checked.
async fn open(lab: &Lab, running: &Running, count: usize) -> Result<f64> {
    let question = Question::new(1024, true);
    lab.upstream.expect(&question, Some(StreamShape { events: u64::MAX, interval: INTERVAL }))?;
    let turn = Rc::new(Turn::new(running.address, question));
    let ramp = Duration::from_secs_f64(count as f64 / OPENED_A_SECOND);
    let streams = Streams::start(&turn, StreamsPlan { count, ramp });
    let deadline = Instant::now() + BEGIN_TIMEOUT;
    while turn.notes.begun.get() < count as u64 {
        lab.judge(&turn, running)?;
        if Instant::now() > deadline {
            return Err(format!("{}: only {} streams began", running.contestant.name(), turn.notes.begun.get()).into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(SETTLE.min(lab.effort.turn * 3)).await;
    let resident = resident(running);
    lab.upstream.end_streams()?;
    streams.end().await;
    lab.judge(&turn, running)?;
    let ended = turn.notes.ended.get();
    if ended == count as u64 && running.contestant != Contestant::Direct {
        Ok(resident)
    } else {
        Err(format!("{}: {ended} of {count} streams came to their end", running.contestant.name()).into())
    }
}
