//! CPU of a small request: saturated, and at a fixed rate.

use super::in_turn;
use crate::Result;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::upstream::Wire;

/// Enough to keep a program busy, few enough that none waits long.
const CLIENTS: usize = 64;

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let goal = Goal::TimesNginx(if wire == Wire::Plain { 1.05 } else { 0.9 });
    let running = lab.start_all(wire).await?;
    let mut figures = Vec::new();
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
        figures.extend([cpu, busy, bench, per_core]);
    }
    Ok(figures)
}
