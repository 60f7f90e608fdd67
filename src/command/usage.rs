//! `ai-proxy usage`: who used what, from the gateway's log.

use super::{EXIT_ARGUMENTS, fail, refuse_configuration, say};
use crate::config::Environment;
use crate::usage::{Dimension, Ledger, Prices, Question};
use jiff::{SignedDuration, Timestamp};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// The service that `deploy.sh` makes.
const DEFAULT_SERVICE: &str = "ai-proxy";
/// How far back `--gcloud` goes where nothing else is said.
const DEFAULT_FRESHNESS: SignedDuration = SignedDuration::from_hours(24);
/// Progress is told so often on a terminal.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// What is read at a time, in bytes.
const BUFFER_BYTES: usize = 256 * 1024;

/// The words behind `usage`.
#[derive(Debug, PartialEq, Eq)]
pub struct Arguments {
    by: Vec<Dimension>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    prices: Option<PathBuf>,
    json: bool,
    source: Source,
}

/// Where the log comes from.
#[derive(Debug, PartialEq, Eq)]
enum Source {
    /// Files, `-` among them for stdin.
    Files(Vec<PathBuf>),
    /// `gcloud logging read`.
    Gcloud { project: Option<String>, service: Option<String> },
}

impl Arguments {
    /// Reads the words behind `usage`.
    ///
    /// # Errors
    /// A sentence about the word that does not fit.
    pub(super) fn parse(words: &mut lexopt::Parser, now: Timestamp) -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::{Long, Short, Value, ValueExt};
        let mut by = vec![Dimension::Day, Dimension::Key, Dimension::Alias];
        let (mut since, mut until, mut freshness) = (None, None, None);
        let (mut prices, mut json, mut gcloud) = (None, false, false);
        let (mut project, mut service, mut files) = (None, None, Vec::new());
        while let Some(word) = words.next()? {
            match word {
                Long("help") | Short('h') => return Ok(None),
                Long("by") => {
                    let list = words.value()?.string()?;
                    by = Dimension::parse_list(&list).map_err(|problem| format!("--by: {problem}"))?;
                }
                Long("since") => since = Some(parse_time("--since", &words.value()?.string()?, now)?),
                Long("until") => until = Some(parse_time("--until", &words.value()?.string()?, now)?),
                Long("prices") => prices = Some(words.value()?.into()),
                Long("json") => json = true,
                Long("gcloud") => gcloud = true,
                Long("project") => project = Some(words.value()?.string()?),
                Long("service") => service = Some(words.value()?.string()?),
                Long("freshness") => {
                    let text = words.value()?.string()?;
                    let ago = parse_ago(&text).ok_or("--freshness: must be such as 12h or 7d")?;
                    freshness = Some(ago);
                }
                Value(file) => files.push(file.into()),
                other => return Err(other.unexpected()),
            }
        }
        let source = if gcloud {
            if !files.is_empty() {
                return Err("--gcloud and files exclude each other".into());
            }
            if since.is_none() || freshness.is_some() {
                if since.is_some() {
                    return Err("--freshness and --since exclude each other".into());
                }
                since = now.checked_sub(freshness.unwrap_or(DEFAULT_FRESHNESS)).ok();
            }
            Source::Gcloud { project, service }
        } else {
            if project.is_some() || service.is_some() || freshness.is_some() {
                return Err("--project, --service and --freshness need --gcloud".into());
            }
            Source::Files(if files.is_empty() { vec!["-".into()] } else { files })
        };
        if since.zip(until).is_some_and(|(since, until)| since >= until) {
            return Err("--since must be before --until".into());
        }
        Ok(Some(Self { by, since, until, prices, json, source }))
    }
}

/// A point in time: RFC 3339, a day in UTC, or so long ago.
fn parse_time(option: &str, text: &str, now: Timestamp) -> Result<Timestamp, String> {
    let ago = parse_ago(text).and_then(|ago| now.checked_sub(ago).ok());
    ago.or_else(|| text.parse().ok()).or_else(|| format!("{text}T00:00:00Z").parse().ok()).ok_or_else(|| {
        format!(
            "{option}: must be a day such as 2026-11-26, a time such as 2026-11-26T08:00:00Z, or so long ago: 12h, 7d"
        )
    })
}

/// `90m`, `12h`, `7d`.
fn parse_ago(text: &str) -> Option<SignedDuration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    let number: u32 = number.parse().ok()?;
    Some(SignedDuration::from_secs(i64::from(number) * seconds))
}

/// Reads the log and prints its sums.
pub(super) fn run(arguments: Arguments) -> ExitCode {
    let Arguments { by, since, until, prices, json, source } = arguments;
    let prices = match prices.as_ref().map(|file| std::fs::read_to_string(file).map(|text| Prices::parse(&text))) {
        None => Prices::embedded(),
        Some(Ok(Ok(prices))) => prices,
        Some(Ok(Err(problem))) => return refuse(&format!("--prices: {problem}")),
        Some(Err(error)) => return refuse(&format!("--prices: cannot be read: {}", error.kind())),
    };
    let mut ledger = Ledger::new(Question { by, since, until, prices });
    let mut progress = Progress::new();
    let read = match source {
        Source::Files(files) => read_files(&mut ledger, files, &mut progress),
        Source::Gcloud { project, service } => read_gcloud(&mut ledger, project, service, since, until, &mut progress),
    };
    progress.end();
    match read {
        Ok(()) => say(&if json { ledger.to_json() } else { ledger.to_table() }),
        Err(failure) => failure,
    }
}

fn refuse(message: &str) -> ExitCode {
    eprintln!("ai-proxy: {message}");
    ExitCode::from(EXIT_ARGUMENTS)
}

fn read_files(ledger: &mut Ledger, files: Vec<PathBuf>, progress: &mut Progress) -> Result<(), ExitCode> {
    for file in files {
        let (reader, size): (Box<dyn BufRead>, Option<u64>) = if file.as_os_str() == "-" {
            if io::stdin().is_terminal() {
                return Err(refuse(
                    "usage reads the log from stdin, from files, or with --gcloud; see 'ai-proxy --help'",
                ));
            }
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin().lock())), None)
        } else {
            let opened = File::open(&file).map_err(|error| fail(&format!("{}: {error}", file.display())))?;
            let size = opened.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len());
            (Box::new(BufReader::with_capacity(BUFFER_BYTES, opened)), size)
        };
        let told = |entries, bytes| progress.tell(entries, bytes, size);
        ledger.read(reader, told).map_err(|error| fail(&format!("{}: {error}", file.display())))?;
    }
    Ok(())
}

/// Lets `gcloud` read Cloud Logging, which has its own credentials and pages through the answer.
fn read_gcloud(
    ledger: &mut Ledger,
    project: Option<String>,
    service: Option<String>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    progress: &mut Progress,
) -> Result<(), ExitCode> {
    let environment = Environment::of_process();
    // Others can see what gcloud is told.
    let or_variable = |given: Option<String>, name| match given {
        Some(given) => Ok(Some(given)),
        None => match environment.text(name) {
            Ok(value) => Ok(value.map(str::to_owned)),
            Err(problem) => Err(refuse_configuration(&[problem])),
        },
    };
    let service = or_variable(service, "CLOUD_RUN_SERVICE")?.unwrap_or_else(|| DEFAULT_SERVICE.to_owned());
    let mut command = Command::new("gcloud");
    command.args(["logging", "read", &filter(&service, since, until), "--format=json", "--order=asc"]);
    if let Some(project) = or_variable(project, "GOOGLE_CLOUD_PROJECT")? {
        command.arg(format!("--project={project}"));
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(|error| {
        fail(&match error.kind() {
            io::ErrorKind::NotFound => {
                "--gcloud: there is no gcloud on the PATH; https://cloud.google.com/sdk has it".to_owned()
            }
            kind => format!("--gcloud: cannot start gcloud: {kind}"),
        })
    })?;
    let read = match child.stdout.take() {
        Some(stdout) => {
            let told = |entries, bytes| progress.tell(entries, bytes, None);
            ledger.read(BufReader::with_capacity(BUFFER_BYTES, stdout), told)
        }
        None => Ok(()),
    };
    let status = child.wait().map_err(|error| fail(&format!("--gcloud: {error}")))?;
    read.map_err(|error| fail(&format!("--gcloud: {error}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(fail(&format!("--gcloud: gcloud failed ({status}); nothing is summed up")))
    }
}

/// Which entries Cloud Logging should give: the requests of one service.
fn filter(service: &str, since: Option<Timestamp>, until: Option<Timestamp>) -> String {
    let service = service.replace('\\', "\\\\").replace('"', "\\\"");
    let mut filter = format!(
        "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"{service}\" AND jsonPayload.request_id:* AND jsonPayload.outcome:*"
    );
    for (comparison, time) in [(">=", since), ("<", until)] {
        if let Some(time) = time {
            filter.push_str(&format!(" AND timestamp{comparison}\"{time}\""));
        }
    }
    filter
}

/// One line on stderr that says how far the reading is, on a terminal.
struct Progress {
    is_shown: bool,
    told: Instant,
    has_told: bool,
}

impl Progress {
    fn new() -> Self {
        Self { is_shown: io::stderr().is_terminal(), told: Instant::now(), has_told: false }
    }

    fn tell(&mut self, entries: u64, bytes: u64, size: Option<u64>) {
        if !self.is_shown || self.told.elapsed() < PROGRESS_INTERVAL {
            return;
        }
        (self.told, self.has_told) = (Instant::now(), true);
        let part = size.filter(|size| *size > 0).map(|size| format!(", {} %", (bytes * 100 / size).min(100)));
        let _ = write!(io::stderr(), "\r\x1b[K{entries} entries, {} MB{}", bytes / 1_000_000, part.unwrap_or_default());
    }

    fn end(&self) {
        if self.has_told {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        let now = "2026-11-26T12:00:00Z".parse().unwrap();
        let parsed = Arguments::parse(&mut lexopt::Parser::from_args(words), now);
        parsed.map(|arguments| arguments.unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn words() {
        let arguments = parse(&["--by", "key", "--json", "--since=2026-11-01", "--until", "1d", "a.log", "-"]).unwrap();
        assert_eq!(arguments.by, [Dimension::Key]);
        assert_eq!(arguments.since.unwrap().to_string(), "2026-11-01T00:00:00Z");
        assert_eq!(arguments.until.unwrap().to_string(), "2026-11-25T12:00:00Z");
        assert_eq!(arguments.source, Source::Files(vec!["a.log".into(), "-".into()]));
        let arguments = parse(&["--gcloud", "--project", "p", "--freshness", "7d"]).unwrap();
        assert_eq!(arguments.since.unwrap().to_string(), "2026-11-19T12:00:00Z");
        assert_eq!(arguments.source, Source::Gcloud { project: Some("p".into()), service: None });
        assert_eq!(parse(&["--gcloud"]).unwrap().since.unwrap().to_string(), "2026-11-25T12:00:00Z");
        assert_eq!(parse(&[]).unwrap().source, Source::Files(vec!["-".into()]));
        for (bad, problem) in [
            (&["--by", "colour"][..], "--by: 'colour' is none of"),
            (&["--since", "soon"], "--since: must be"),
            (&["--since", "1h", "--until", "2h"], "--since must be before"),
            (&["--gcloud", "a.log"], "exclude each other"),
            (&["--gcloud", "--since", "1d", "--freshness", "1d"], "exclude each other"),
            (&["--project", "p"], "need --gcloud"),
            (&["--freshness", "1w", "--gcloud"], "--freshness: must be"),
            (&["--colour"], "--colour"),
        ] {
            let told = parse(bad).unwrap_err();
            assert!(told.contains(problem), "{bad:?}: {told}");
        }
    }

    #[test]
    fn the_filter_asks_for_requests_of_one_service_and_time() {
        let since = "2026-11-26T12:00:00Z".parse().ok();
        assert_eq!(
            filter("a\"b", since, since),
            "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"a\\\"b\" AND jsonPayload.request_id:* AND jsonPayload.outcome:* AND timestamp>=\"2026-11-26T12:00:00Z\" AND timestamp<\"2026-11-26T12:00:00Z\""
        );
    }
}
