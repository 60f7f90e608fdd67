//! The parts of a run. Each is a function from the equipment to its figures, and can be run alone.

mod bodies;
mod cores;
mod instructions;
mod json;
mod latency;
mod memory;
mod size;
mod soak;
mod start;
mod streams;

use crate::Result;
use crate::figure::Figure;
use crate::lab::Lab;
use crate::upstream::Wire;

pub(crate) use instructions::Instructions;

/// The parts, in the order in which they are run. Those with `tls` in their name can be had with `tls1` too.
pub(crate) const NAMES: [&str; 14] = [
    "json-plain",
    "json-tls",
    "sse-plain",
    "sse-tls",
    "bodies-plain",
    "bodies-tls",
    "latency-plain",
    "latency-tls",
    "memory-plain",
    "memory-tls",
    "start",
    "cores",
    "size",
    "soak",
];

/// What a name says: the subject, and the way to upstream where that matters.
fn read_name(name: &str) -> (&str, Option<Wire>) {
    let (subject, wire) = name.split_once('-').unwrap_or((name, ""));
    (subject, Wire::ALL.into_iter().find(|known| known.name() == wire))
}

/// Whether there is such a part.
pub(crate) fn exists(name: &str) -> bool {
    NAMES.contains(&name) || NAMES.iter().any(|known| *name == known.replace("tls", "tls1"))
}

/// Runs one part.
///
/// # Errors
/// Whatever keeps it from measuring, wrong bytes above all.
pub(crate) async fn run(name: &str, lab: &Lab) -> Result<Vec<Figure>> {
    let (subject, wire) = read_name(name);
    let figures = match (subject, wire) {
        ("json", Some(wire)) => json::run(lab, wire).await,
        ("sse", Some(wire)) => streams::run(lab, wire).await,
        ("bodies", Some(wire)) => bodies::run(lab, wire).await,
        ("latency", Some(wire)) => latency::run(lab, wire).await,
        ("memory", Some(wire)) => memory::run(lab, wire).await,
        ("start", None) => start::run(lab).await,
        ("cores", None) => cores::run(lab).await,
        ("size", None) => size::run(lab),
        ("soak", None) => soak::run(lab).await,
        _ => Err(format!("there is no part '{name}'").into()),
    }?;
    Ok(figures.into_iter().map(Figure::conclude).collect())
}

/// The order of a round: each time another contestant is first.
fn in_turn<T>(all: &[T], round: usize) -> impl Iterator<Item = &T> {
    all.iter().cycle().skip(round % all.len().max(1)).take(all.len())
}
