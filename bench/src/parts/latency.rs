//! What a contestant adds to the direct path, at a rate that leaves it idle most of the time.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Sample};
use crate::statistics::{median, percentile};
use crate::upstream::Wire;

const RATE: u32 = 1000;
/// A round takes so many times as long as a turn elsewhere: each contestant has some twenty turns in it.
const TURNS: u32 = 8;

/// A percentile of a round, in nanoseconds.
type Percentile = fn(&Sample) -> f64;

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let lab_rate = RATE.min(lab.effort.rate);
    let mut running = lab.start_all(wire).await?;
    running.push(lab.start(Contestant::Direct, wire).await?);
    let percentiles: [(&str, bool, Percentile); 4] = [
        ("p50", true, |sample| of_a_turn(sample, 0.5)),
        ("p99", true, |sample| of_a_turn(sample, 0.99)),
        ("p99_of_all", false, |sample| percentile(&sample.latencies, 0.99) as f64),
        ("p999_of_all", false, |sample| percentile(&sample.latencies, 0.999) as f64),
    ];
    let mut figures = percentiles.map(|(name, has_goal, percentile)| {
        let figure = Figure::new(format!("latency_added.{}.{name}", wire.name()), "µs");
        let has_goal = has_goal && wire == Wire::Plain;
        (if has_goal { figure.goal(Goal::TimesNginx(1.0)) } else { figure }, percentile)
    });
    let mut direct = Figure::new(format!("latency_direct.{}.p50", wire.name()), "µs");
    let mut cpu = Figure::new(format!("json_1k.{}.idle.cpu", wire.name()), "µs/request");
    for round in 0..lab.effort.rounds {
        let in_order: Vec<_> = in_turn(&running, round).collect();
        let samples = lab.turns_around(&in_order, 1024, lab_rate, lab.effort.turn * TURNS).await?;
        let of_direct = in_order.iter().position(|running| running.contestant == Contestant::Direct);
        let Some(base) = of_direct.map(|at| &samples[at]) else { continue };
        direct.note(Contestant::Direct, of_a_turn(base, 0.5) / 1e3);
        for (running, sample) in in_order.iter().zip(&samples).filter(|(running, _)| running.process.is_some()) {
            cpu.note(running.contestant, sample.cpu_each());
            for (figure, percentile) in &mut figures {
                figure.note(running.contestant, (percentile(sample) - percentile(base)) / 1e3);
            }
        }
    }
    Ok(figures.into_iter().map(|(figure, _)| figure).chain([direct, cpu]).collect())
}

/// A percentile of a usual turn: the median of the turns'. In some turns, whosever it is, the machine does other things
/// for some milliseconds, which is more than the slowest hundredth of a round.
fn of_a_turn(sample: &Sample, part: f64) -> f64 {
    let longest = sample.slots.iter().map(Vec::len).max().unwrap_or(0);
    let whole = sample.slots.iter().filter(|slot| slot.len() * 2 > longest);
    let of_each: Vec<_> = whole.map(|slot| percentile(slot, part) as f64).collect();
    median(&of_each).unwrap_or_else(|| percentile(&sample.latencies, part) as f64)
}
