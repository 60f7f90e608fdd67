//! From a program's start to its open port, and to the first finished chat.

use super::in_turn;
use crate::Result;
use crate::figure::{Figure, Goal};
use crate::lab::Lab;
use crate::upstream::Wire;

pub(crate) async fn run(lab: &Lab) -> Result<Vec<Figure>> {
    let mut port = Figure::new("start.port_open", "ms");
    let mut chat = Figure::new("start.first_chat", "ms").goal(Goal::TimesNginx(1.25));
    for round in 0..lab.effort.starts {
        for contestant in in_turn(&lab.contestants, round) {
            let running = lab.start(*contestant, Wire::Plain).await?;
            port.note(*contestant, running.opened_after.as_secs_f64() * 1e3);
            chat.note(*contestant, running.answered_after.as_secs_f64() * 1e3);
        }
    }
    Ok(vec![port, chat])
}
