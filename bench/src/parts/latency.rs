//! What a contestant adds to the direct path, at a rate that leaves it idle most of the time.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::statistics::percentile;
use crate::upstream::Wire;

const RATE: u32 = 1000;

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let lab_rate = RATE.min(lab.effort.rate);
    let mut running = lab.start_all(wire).await?;
    running.push(lab.start(Contestant::Direct, wire).await?);
    let mut figures: Vec<(Figure, f64)> = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]
        .into_iter()
        .map(|(name, part)| (Figure::new(format!("latency_added.{}.{name}", wire.name()), "µs"), part))
        .collect();
    let mut direct = Figure::new(format!("latency_direct.{}.p50", wire.name()), "µs");
    let mut cpu = Figure::new(format!("json_1k.{}.idle.cpu", wire.name()), "µs/request");
    for round in 0..lab.effort.rounds {
        let mut samples = Vec::new();
        for running in in_turn(&running, round) {
            // Twice as long, for the few slowest to be more than a handful.
            let mut sample = lab.turn(running, 1024, Load::Rate(lab_rate)).await?;
            let more = lab.turn(running, 1024, Load::Rate(lab_rate)).await?;
            sample.latencies.extend(more.latencies);
            sample.latencies.sort_unstable();
            if running.process.is_some() {
                cpu.note(running.contestant, sample.cpu_each());
            }
            samples.push((running.contestant, sample.latencies));
        }
        let of_direct = samples.iter().find(|(contestant, _)| *contestant == Contestant::Direct);
        let Some(base) = of_direct.map(|(_, latencies)| latencies.clone()) else { continue };
        direct.note(Contestant::Direct, percentile(&base, 0.5) as f64 / 1e3);
        for (contestant, latencies) in samples {
            for (figure, part) in figures.iter_mut().filter(|_| contestant != Contestant::Direct) {
                let added = percentile(&latencies, *part) as f64 - percentile(&base, *part) as f64;
                figure.note(contestant, added / 1e3);
            }
        }
    }
    for (figure, part) in &mut figures {
        if *part < 0.999 && wire == Wire::Plain {
            figure.goal = Some(Goal::TimesNginx(1.0));
        }
    }
    Ok(figures.into_iter().map(|(figure, _)| figure).chain([direct, cpu]).collect())
}
