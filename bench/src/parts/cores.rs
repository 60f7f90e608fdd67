//! What a second core brings.
//!
//! The clients and upstream need a core too, so that two for the gateway are not to be had on a small machine. But CPU
//! time is: a request that costs as much on two threads as on one lets two cores do twice as much, as long as no thread
//! waits for another, which its CPU time does not show.

use super::in_turn;
use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::lab::{Lab, Load};
use crate::upstream::Wire;

pub(crate) async fn run(lab: &Lab) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for wire in [Wire::Plain, Wire::Tls] {
        let one = lab.stable.start(Contestant::Gateway, &lab.upstream, wire, &[0]).await?;
        let two = lab.stable.start(Contestant::Gateway, &lab.upstream, wire, &[0, 1]).await?;
        let mut factor = Figure::new(format!("cores.{}.two_to_one", wire.name()), "times").goal(Goal::AtLeast(1.8));
        let rate = Load::Rate(lab.effort.rate * 2 / 3);
        for round in 0..lab.effort.rounds {
            let mut cost = [0.0; 2];
            for &at in in_turn(&[0, 1], round) {
                cost[at] = lab.turn([&one, &two][at], 1024, rate).await?.cpu_each();
            }
            factor.note(Contestant::Gateway, 2.0 * cost[0] / cost[1]);
        }
        figures.push(factor);
    }
    Ok(figures)
}
