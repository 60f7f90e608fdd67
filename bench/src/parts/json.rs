//! CPU of a small request: saturated, and at a fixed rate.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::upstream::Wire;

/// A program that used less of its core was not saturated.
const BUSY: f64 = 0.9;
/// Enough to keep a program busy, few enough that none waits long.
const SATURATING: Load = Load::Saturating { clients: 64 };

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let goal = Goal::TimesNginx(if wire == Wire::Plain { 1.05 } else { 0.9 });
    let running = lab.start_all(wire).await?;
    let mut figures = Vec::new();
    for (mode, load) in [("saturated", SATURATING), ("rate", Load::Rate(lab.effort.rate))] {
        let name = format!("json_1k.{}.{mode}", wire.name());
        let mut cpu = Figure::new(format!("{name}.cpu"), "µs/request").goal(goal);
        let mut busy = Figure::new(format!("{name}.busy"), "of a core");
        let mut bench = Figure::new(format!("{name}.bench_busy"), "of a core");
        let mut per_core = Figure::new(format!("{name}.per_core"), "requests/CPU s");
        let mut requests = Figure::new(format!("{name}.requests"), "/s");
        for round in 0..lab.effort.rounds {
            for running in in_turn(&running, round) {
                let sample = lab.turn(running, 1024, load).await?;
                cpu.note(running.contestant, sample.cpu_each());
                busy.note(running.contestant, sample.busy());
                bench.note(running.contestant, sample.bench_busy());
                per_core.note(running.contestant, 1e6 / sample.cpu_each());
                requests.note(running.contestant, sample.rate());
            }
        }
        if matches!(load, Load::Saturating { .. }) {
            // CPU for each request grows where there is less to do: of the gateway that is no favour.
            cpu.is_doubtful = busy.median_of(Contestant::Nginx).is_some_and(|busy| busy < BUSY);
            // Clients and upstream with nobody in between: they are not to be the limit.
            let direct = lab.start(Contestant::Direct, wire).await?;
            requests.note(Contestant::Direct, lab.turn(&direct, 1024, load).await?.rate());
        }
        figures.extend([cpu, busy, bench, per_core, requests]);
    }
    Ok(figures)
}
