//! Instructions that the gateway executes for one request, counted by valgrind: a figure without noise, kept in a file,
//! so that a change which makes the path of a request heavier is seen in review.
//!
//! Of the kernel's work nothing is seen here, so that more system calls cost nothing; that is what the other parts are for.

use crate::Result;
use crate::callgrind::{self, Asked};
use crate::lab::Lab;
use crate::upstream::Wire;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// How often each thing is asked in the shorter and in the longer run, whose difference is what counts.
const SHORT: u64 = 100;
const LONG: u64 = 400;
/// More than this part above the baseline is too much.
const TOLERANCE: f64 = 0.02;

/// Instructions by what is asked; the file `instructions.json`.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Instructions {
    /// The compiler, since another one counts differently.
    pub(crate) rustc: String,
    pub(crate) each: BTreeMap<String, u64>,
}

const CASES: [(&str, Asked, Wire); 5] = [
    ("json_1k.plain", Asked::Small, Wire::Plain),
    ("json_1k.tls", Asked::Small, Wire::Tls),
    ("body_100k.plain", Asked::Large, Wire::Plain),
    ("sse_event.plain", Asked::Event, Wire::Plain),
    ("sse_event.tls", Asked::Event, Wire::Tls),
];

impl Instructions {
    /// Counts them.
    pub(crate) async fn count(lab: &Lab) -> Result<Self> {
        let mut each = BTreeMap::new();
        for (name, asked, wire) in CASES {
            let short = total(lab, asked, wire, SHORT).await?;
            let long = total(lab, asked, wire, LONG).await?;
            each.insert(name.to_owned(), long.saturating_sub(short) / (LONG - SHORT));
        }
        let rustc = crate::machine::gateway_versions(&lab.stable.gateway).remove("rustc").unwrap_or_default();
        Ok(Self { rustc, each })
    }

    pub(crate) fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        std::fs::write(file, format!("{}\n", serde_json::to_string_pretty(self)?))?;
        Ok(())
    }

    /// A line for each count, and whether all are within the tolerance of the baseline.
    pub(crate) fn compare(&self, baseline: &Self) -> (String, bool) {
        let (mut lines, mut all_within) = (String::new(), true);
        for (name, &now) in &self.each {
            let Some(&before) = baseline.each.get(name) else {
                lines.push_str(&format!("{name:<18} {now:>9}  not in the baseline\n"));
                all_within = false;
                continue;
            };
            let change = now as f64 / before as f64 - 1.0;
            let verdict = if change > TOLERANCE { "HEAVIER" } else { "" };
            all_within &= change <= TOLERANCE;
            lines.push_str(&format!("{name:<18} {before:>9} -> {now:>9}  {:+.1} %  {verdict}\n", change * 100.0));
        }
        if self.rustc != baseline.rustc {
            lines.push_str(&format!("counted with {}, the baseline with {}\n", self.rustc, baseline.rustc));
        }
        (lines, all_within)
    }
}

/// All instructions of a gateway that is asked so often, from its start to its end.
async fn total(lab: &Lab, asked: Asked, wire: Wire, count: u64) -> Result<u64> {
    let text = callgrind::run(lab, asked, wire, count, &[]).await?.log()?;
    let collected = text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, number)| number);
    let number = collected.and_then(|text| text.trim().parse().ok());
    number.ok_or_else(|| format!("valgrind counted nothing: {text}").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(count: u64) -> Instructions {
        Instructions { rustc: String::new(), each: BTreeMap::from([("x".to_owned(), count)]) }
    }

    #[test]
    fn heavier_is_told_and_lighter_is_fine() {
        assert!(of(1019).compare(&of(1000)).1);
        assert!(of(10).compare(&of(1000)).1);
        let (lines, within) = of(1021).compare(&of(1000));
        assert!(!within && lines.contains("HEAVIER"), "{lines}");
        assert!(!of(1).compare(&Instructions::default()).1);
    }
}
