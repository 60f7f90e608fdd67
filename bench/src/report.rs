//! One JSON file with all that was measured, and a table of it.

use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::machine::Machine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Program to version.
    pub(crate) versions: BTreeMap<String, String>,
    /// `full`, `quick` or `check`.
    pub(crate) effort: String,
    /// By part.
    pub(crate) figures: BTreeMap<String, Vec<Figure>>,
}

impl Report {
    pub(crate) fn new(effort: &str, gateway: &Path) -> Self {
        let others = [Contestant::Nginx, Contestant::HaProxy];
        let mut versions: BTreeMap<_, _> = others
            .into_iter()
            .map(|contestant| (contestant.name().to_owned(), contestant.version().unwrap_or("not installed".into())))
            .collect();
        versions.extend(crate::machine::gateway_versions(gateway));
        Self { machine: Machine::here(), versions, effort: effort.to_owned(), figures: BTreeMap::new() }
    }

    /// What an earlier call measured of the same build on the same machine, so that a run can be done in parts.
    pub(crate) fn load(file: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(file).ok()?).ok()
    }

    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        self.machine == earlier.machine && self.versions == earlier.versions && self.effort == earlier.effort
    }

    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(file, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    /// The table, of these parts or of all.
    pub(crate) fn table(&self, parts: &[&str]) -> String {
        let mut rows = vec![
            ["figure", "unit", "gateway", "nginx", "haproxy", "direct", "×nginx", "goal", ""]
                .map(str::to_owned)
                .to_vec(),
        ];
        for (part, figures) in &self.figures {
            if parts.is_empty() || parts.contains(&part.as_str()) {
                rows.extend(figures.iter().map(row));
            }
        }
        let widths: Vec<usize> = (0..rows[0].len())
            .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
            .collect();
        let mut table = String::new();
        for row in rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let _ = if column < 2 { write!(line, "{cell:<width$}  ") } else { write!(line, "{cell:>width$}  ") };
            }
            let _ = writeln!(table, "{}", line.trim_end());
        }
        table
    }
}

fn row(figure: &Figure) -> Vec<String> {
    let of = |numbers: &BTreeMap<String, f64>, name: &str| numbers.get(name).map_or_else(String::new, |n| short(*n));
    let (goal, reached) = match (figure.goal, figure.reached) {
        (None, _) => (String::new(), ""),
        (Some(goal), reached) => {
            let goal = match goal {
                Goal::TimesNginx(most) => format!("≤ {most}×"),
                Goal::AtMost(most) => format!("≤ {most}"),
                Goal::AtLeast(least) => format!("≥ {least}"),
            };
            (
                goal,
                if reached == Some(true) {
                    "ok"
                } else if reached.is_some() {
                    "MISSED"
                } else {
                    "?"
                },
            )
        }
    };
    vec![
        figure.name.clone(),
        figure.unit.clone(),
        of(&figure.medians, "gateway"),
        of(&figure.medians, "nginx"),
        of(&figure.medians, "haproxy"),
        of(&figure.medians, "direct"),
        of(&figure.times_nginx, "gateway"),
        goal,
        reached.to_owned(),
    ]
}

/// Three digits that count.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_show_what_was_missed() {
        let figure = Figure::of_gateway("x", "µs", 3.456).goal(Goal::AtMost(2.0)).conclude();
        let row = row(&figure);
        assert_eq!((row[2].as_str(), row[7].as_str(), row[8].as_str()), ("3.46", "≤ 2", "MISSED"));
    }
}
