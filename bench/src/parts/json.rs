//! CPU of a small request: saturated, and at a fixed rate.

use super::in_turn;
use crate::Result;
use crate::contestant::{Contestant, Running};
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::upstream::Wire;

/// A program that used less of its core was not saturated.
const SATURATED: f64 = 0.9;
/// Enough to keep a program busy, few enough that none waits long.
const CLIENTS: usize = 64;

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let goal = Goal::TimesNginx(if wire == Wire::Plain { 1.05 } else { 0.9 });
    let running = lab.start_all(wire).await?;
    let mut figures = vec![alone(lab, wire, &running).await?];
    for (mode, load) in [("saturated", Load::Saturating { clients: CLIENTS }), ("rate", Load::Rate(lab.effort.rate))] {
        let name = format!("json_1k.{}.{mode}", wire.name());
        let mut cpu = Figure::new(format!("{name}.cpu"), "µs/request").goal(goal);
        let mut busy = Figure::new(format!("{name}.busy"), "of a core");
        let mut bench = Figure::new(format!("{name}.bench_busy"), "of a core");
        let mut per_core = Figure::new(format!("{name}.per_core"), "requests/CPU s");
        for round in 0..lab.effort.rounds {
            for running in in_turn(&running, round) {
                let sample = lab.turn(running, 1024, load).await?;
                cpu.note(running.contestant, sample.cpu_each());
                busy.note(running.contestant, sample.busy());
                bench.note(running.contestant, sample.bench_busy());
                per_core.note(running.contestant, 1e6 / sample.cpu_each());
            }
        }
        if matches!(load, Load::Saturating { .. }) {
            // CPU for each request grows where there is less to do: of the gateway that is no favour.
            cpu.is_doubtful = busy.median_of(Contestant::Nginx).is_some_and(|busy| busy < SATURATED);
        }
        figures.extend([cpu, busy, bench, per_core]);
    }
    Ok(figures)
}

/// What clients and upstream can do with nobody in between, beside what the programs do: they are not to be the limit.
async fn alone(lab: &Lab, wire: Wire, running: &[Running]) -> Result<Figure> {
    let mut requests = Figure::new(format!("json_1k.{}.saturated.requests", wire.name()), "/s");
    let direct = lab.start(Contestant::Direct, wire).await?;
    for running in running.iter().chain([&direct]) {
        let sample = lab.turn(running, 1024, Load::Saturating { clients: CLIENTS }).await?;
        requests.note(running.contestant, sample.done / sample.wall.as_secs_f64());
    }
    Ok(requests)
}
