//! CPU of a relayed event, the time to the first one, and what each waits.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::Lab;
use crate::statistics::percentile;
use crate::upstream::Wire;
use std::time::Duration;

/// From one event of a stream to the next: with 1,000 streams 20,000 events a second.
const INTERVAL: Duration = Duration::from_millis(50);

pub(crate) async fn run(lab: &Lab, wire: Wire) -> Result<Vec<Figure>> {
    let goal = Goal::TimesNginx(if wire == Wire::Plain { 0.95 } else { 0.6 });
    let mut running = lab.start_all(wire).await?;
    running.push(lab.start(Contestant::Direct, wire).await?);
    let name = format!("sse.{}", wire.name());
    let mut cpu = Figure::new(format!("{name}.cpu"), "µs/event").goal(goal);
    let mut late = [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)]
        .map(|(part_name, part)| (Figure::new(format!("{name}.event_delay.{part_name}"), "µs"), part));
    let mut first = [("p50", 0.5), ("p99", 0.99)]
        .map(|(part_name, part)| (Figure::new(format!("{name}.first_byte.{part_name}"), "µs"), part));
    let mut bench = Figure::new(format!("{name}.bench_busy"), "of a core");
    let mut events = Figure::new(format!("{name}.events"), "/s");
    for round in 0..lab.effort.rounds {
        for running in in_turn(&running, round) {
            let sample = lab.turn_of_streams(running, INTERVAL).await?;
            if running.process.is_some() {
                cpu.note(running.contestant, sample.cpu_each());
            }
            bench.note(running.contestant, sample.bench_busy());
            events.note(running.contestant, sample.rate());
            for (figure, part) in &mut late {
                figure.note(running.contestant, percentile(&sample.latencies, *part) as f64 / 1e3);
            }
            for (figure, part) in &mut first {
                figure.note(running.contestant, percentile(&sample.first_bytes, *part) as f64 / 1e3);
            }
        }
    }
    let (late, first) = (late.map(|(figure, _)| figure), first.map(|(figure, _)| figure));
    Ok([cpu, bench, events].into_iter().chain(late).chain(first).collect())
}
