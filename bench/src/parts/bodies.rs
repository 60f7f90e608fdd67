//! CPU of large request bodies, and the memory that one takes.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::load::Turn;
use crate::payload::Question;
use crate::upstream::Wire;

/// What a body may take beside itself, in bytes.
const BESIDE_BODY: f64 = 2e6;
/// Few, so that a turn is not over before the first bodies are through.
const CLIENTS: usize = 4;

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let goal = Goal::TimesNginx(if wire == Wire::Plain { 0.75 } else { 0.65 });
    let mut figures = vec![memory_of_one(lab, wire).await?];
    let running = lab.start_all(wire).await?;
    for &bytes in lab.effort.bodies {
        let name = format!("body_{}k.{}", bytes / 1000, wire.name());
        let mut cpu = Figure::new(format!("{name}.cpu"), "µs/request");
        if bytes >= 1_000_000 {
            cpu = cpu.goal(goal);
        }
        let mut per_megabyte = Figure::new(format!("{name}.cpu_per_mb"), "µs/MB");
        let mut busy = Figure::new(format!("{name}.busy"), "of a core");
        let mut bench = Figure::new(format!("{name}.bench_busy"), "of a core");
        for round in 0..lab.effort.rounds {
            for running in in_turn(&running, round) {
                let sample = lab.turn(running, bytes, Load::Saturating { clients: CLIENTS }).await?;
                cpu.note(running.contestant, sample.cpu_each());
                per_megabyte.note(running.contestant, sample.cpu_each() * 1e6 / bytes as f64);
                busy.note(running.contestant, sample.busy());
                bench.note(running.contestant, sample.bench_busy());
            }
        }
        figures.extend([cpu, per_megabyte, busy, bench]);
    }
    Ok(figures)
}

/// What the gateway's memory grows by at most while it passes the largest body on, as a part of that body.
async fn memory_of_one(lab: &Lab, wire: Wire) -> Result<Figure> {
    let bytes = lab.effort.bodies.iter().copied().max().unwrap_or(1_000_000);
    let running = lab.start(Contestant::Gateway, wire).await?;
    let peak = || running.process.as_ref().map_or(0, |process| process.memory().peak);
    let before = peak();
    let question = Question::new(bytes, false);
    lab.upstream.expect(&question, None)?;
    let turn = Turn::new(running.address, question);
    turn.ask_once().await?;
    lab.judge(&turn, &running)?;
    let grown = peak().saturating_sub(before) as f64;
    let name = format!("body_{}k.{}.memory", bytes / 1000, wire.name());
    let goal = Goal::AtMost(1.0 + BESIDE_BODY / bytes as f64);
    Ok(Figure::of_gateway(name, "of the body", grown / bytes as f64).goal(goal))
}
