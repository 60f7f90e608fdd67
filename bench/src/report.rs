//! One JSON file with all that was measured, and a table of it.

use crate::Result;
use crate::contestant::Contestant;
use crate::figure::{Figure, Goal};
use crate::machine::{BENCH_DIGEST, GATEWAY_DIGEST, Machine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::{Display, Write};
use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
    pub(crate) fn new(effort: &str, machine: Machine, gateway: &Path) -> Self {
        let others = [Contestant::Nginx, Contestant::HaProxy];
        let mut versions: BTreeMap<_, _> = others
            .into_iter()
            .map(|contestant| (contestant.name().to_owned(), contestant.version().unwrap_or("not installed".into())))
            .collect();
        versions.extend(crate::machine::gateway_versions(gateway));
        Self { machine, versions, effort: effort.to_owned(), figures: BTreeMap::new() }
    }

    /// What an earlier call measured, if there was one.
    ///
    /// # Errors
    /// A file that is no report is somebody's.
    pub(crate) fn load(file: &Path) -> Result<Option<Self>> {
        let named = |error: &dyn Display| format!("{}: {error}", file.display());
        match fs::read(file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(named(&error).into()),
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| {
                named(&format!("no report of this benchmark ({error}): remove it, or name another")).into()
            }),
        }
    }

    /// Takes over what an earlier call measured of the same build on the same machine, so that a run can be done in parts.
    pub(crate) fn continue_from(&mut self, earlier: Self) {
        let same = |name: &&str| self.versions.get(*name) == earlier.versions.get(*name);
        let is_known = |name: &&str| self.versions.get(*name).is_some_and(|digest| !digest.is_empty());
        let digests = [GATEWAY_DIGEST, BENCH_DIGEST];
        let is_same_build = digests.iter().all(is_known) && digests.iter().chain(&["nginx", "haproxy"]).all(same);
        if is_same_build && self.machine == earlier.machine && self.effort == earlier.effort {
            self.figures = earlier.figures;
        } else {
            eprintln!("the figures of another build, machine or effort that were here are replaced");
        }
    }

    /// Writes it in one step: whoever is interrupted leaves the earlier one.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub(crate) fn save(&self, file: &Path) -> Result<()> {
        let save = || {
            let file = &behind_links(file);
            let mode = fs::Permissions::from_mode(0o666);
            let mut written = tempfile::Builder::new().permissions(mode).tempfile_in(folder_of(file))?;
            serde_json::to_writer_pretty(&mut written, self)?;
            written.persist(file).map_err(|error| error.error)
        };
        save().map(drop).map_err(|error: std::io::Error| format!("{}: {error}", file.display()).into())
    }

    /// Where it comes from, in a line.
    fn origin(&self) -> String {
        let of = |name: &str| self.versions.get(name).map_or("", String::as_str);
        let Machine { cpu, cpus, kernel } = &self.machine;
        let (effort, gateway, commit) = (&self.effort, of("gateway"), of("commit"));
        format!("{effort}: {gateway}, commit {commit}, on {cpus} CPUs ({cpu}), Linux {kernel}\n")
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
        let mut table = self.origin();
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

/// The folder that a report is kept in, which one call has for itself: two would lose each other's figures, and each would
/// measure the other.
pub(crate) struct Kept(#[expect(dead_code, reason = "it is locked until this is dropped")] File);

impl Kept {
    /// Makes the folder where there is none.
    ///
    /// # Errors
    /// Another call has it, or it cannot be made.
    pub(crate) fn take(file: &Path) -> Result<Self> {
        let file = behind_links(file);
        let folder = folder_of(&file);
        let named = |error: &dyn Display| format!("{}: {error}", folder.display());
        fs::create_dir_all(folder).map_err(|error| named(&error))?;
        let opened = File::open(folder).map_err(|error| named(&error))?;
        match opened.try_lock() {
            Ok(()) => Ok(Self(opened)),
            Err(TryLockError::WouldBlock) => Err(named(&"another run keeps its figures there at the moment").into()),
            Err(TryLockError::Error(error)) => Err(named(&error).into()),
        }
    }
}

/// Where a link stands, what it points to is meant.
fn behind_links(file: &Path) -> PathBuf {
    fs::canonicalize(file).unwrap_or_else(|_| file.to_owned())
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_replaced_as_a_whole_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep").join("report.json");
        let kept = Kept::take(&file).unwrap();
        assert!(Kept::take(&file).is_err(), "another has it");
        drop(kept);
        assert!(Kept::take(&file).is_ok());
        assert!(Report::load(&file).unwrap().is_none());
        let build = folder.path().join("build");
        fs::write(&build, "one").unwrap();
        let mut report = Report::new("check", Machine::here(), &build);
        report.figures.insert("part".to_owned(), vec![Figure::of_gateway("x", "", 1.0).conclude()]);
        report.save(&file).unwrap();
        for (effort, parts) in [("check", 1), ("full", 0)] {
            let mut next = Report::new(effort, Machine::here(), &build);
            next.versions.insert("commit".to_owned(), "of other notes".to_owned());
            let earlier = Report::load(&file);
            next.continue_from(earlier.unwrap().unwrap());
            assert_eq!(next.figures.len(), parts, "{effort}");
        }
        fs::write(&build, "two").unwrap();
        let mut next = Report::new("check", Machine::here(), &build);
        next.continue_from(Report::load(&file).unwrap().unwrap());
        assert!(next.figures.is_empty(), "another build");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        report.save(&link).unwrap();
        assert!(link.is_symlink() && Report::load(&file).unwrap().is_some());
        fs::write(&file, "{}").unwrap();
        assert!(Report::load(&file).unwrap_err().to_string().contains("no report"));
        assert!(report.save(Path::new("/nonexistent/x")).is_err());
    }

    #[test]
    fn tables_show_what_was_missed() {
        let figure = Figure::of_gateway("x", "µs", 3.456).goal(Goal::AtMost(2.0)).conclude();
        let row = row(&figure);
        assert_eq!((row[2].as_str(), row[7].as_str(), row[8].as_str()), ("3.46", "≤ 2", "MISSED"));
    }
}
