//! What only Google can tell: token, project, permission, location, each alias, streaming, clock.

use super::credentials::Identity;
use super::diagnosis::{self, Subject};
use super::probe::{self, Answered, Outcome};
use super::record::{Recording, Redaction};
use super::report::{Finding, Report};
use crate::config::Config;
use crate::credentials::{self, Credentials};
use crate::error::ApiError;
use crate::log::{Log, Style};
use crate::metadata;
use crate::models::{Model, Models};
use crate::upstream::Vertex;
use rustls::ClientConfig;
use serde_json::{Map, Value};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A doctor does not wait as long as a client.
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(45);
/// Clocks that differ by more are worth a warning: tokens that are signed here name their time.
const CLOCK_WARNING: Duration = Duration::from_secs(30);
/// By more than this, Google refuses them.
const CLOCK_FAILURE: Duration = Duration::from_secs(300);

/// Adds everything that can be found out. What has failed keeps what depends on it from being tried.
/// Each alias that answers also fills the recording, where there is one.
pub(super) async fn examine(
    mut config: Config,
    identity: Identity,
    tls: &Arc<ClientConfig>,
    listed: &Map<String, Value>,
    mut recording: Option<Recording>,
    report: &mut Report,
) {
    let identity = identity.completed().await;
    let mut token = credentials::try_once(&config.credentials, &config.metadata_host).await;
    // One bad moment of the server's is none of the configuration.
    if identity.metadata_host().is_some()
        && token.as_ref().is_err_and(|reason| !reason.contains("connection refused") && !reason.contains("no answer"))
    {
        token = credentials::try_once(&config.credentials, &config.metadata_host).await;
    }
    match token {
        Ok(()) => report.add(Finding::ok("token", "Google gives one")),
        Err(reason) => {
            let remedy = diagnosis::no_token(&identity);
            report.add(Finding::failure("token", reason, remedy));
            return;
        }
    }
    let project = match config.project.take() {
        Some(project) => project,
        None => match metadata::project(&config.metadata_host).await {
            Some(project) => {
                report.add(Finding::ok("project", format!("{project}, says the metadata server")));
                project
            }
            None => {
                let detail = "GOOGLE_CLOUD_PROJECT is not set, and no metadata server tells";
                report.add(Finding::failure(
                    "project",
                    detail,
                    "export GOOGLE_CLOUD_PROJECT=\"$(gcloud config get-value project)\"",
                ));
                return;
            }
        },
    };
    config.upstream_timeout = config.upstream_timeout.min(UPSTREAM_TIMEOUT);
    let models = Models::new(&config.models, &config.locations);
    // Its words are in the findings.
    let log = Log::start(Style::Json, io::sink());
    let credentials = Credentials::start(config.credentials.clone(), &config.metadata_host, log);
    let vertex = match Vertex::new(&config, &project, &models, credentials, tls, 1) {
        Ok(vertex) => vertex,
        Err(error) => {
            report.add(Finding::failure("upstream", error.to_string(), "check GOOGLE_VERTEX_BASE_URL"));
            return;
        }
    };
    let base_url = config.base_url.as_ref();
    let redaction = Redaction::new(&project, identity.account.as_deref());
    let mut clocks = None;
    for (place, model) in models.iter().enumerate() {
        let locations: Vec<&str> = model.route.locations().map(|location| &*models.locations()[location]).collect();
        let mut missing = Vec::new();
        for (number, location) in model.route.locations().enumerate() {
            let name = &*models.locations()[location];
            let check = if number == 0 { model.alias.to_string() } else { format!("{} at {name}", model.alias) };
            let subject = |check| Subject {
                check,
                alias: &model.alias,
                vertex_id: &model.vertex_id,
                location: name,
                base_url,
                listed,
                locations: &locations,
                project: &project,
                identity: &identity,
            };
            let ask = |stream| ask(&vertex, model, location, stream);
            let (outcome, broke) = ask(false).await;
            if let Outcome::Answered(answer) = &outcome
                && diagnosis::is_missing_model(answer.status, &answer.body)
            {
                missing.push(name);
            }
            if judge_model(subject(&check), (outcome, broke), &mut clocks, report) {
                let (outcome, broke) = ask(true).await;
                report.add(as_it_came(judge_stream(subject(&format!("{check} streaming")), outcome), broke));
                // What one location says of a model's answers, the others say too.
                if let Some(recording) = recording.as_mut().filter(|_| number == 0) {
                    report.add(recording.record(&vertex, (place, model, location), &redaction).await);
                }
            }
        }
        if missing.len() > 1 {
            let subject = Subject {
                check: &model.alias,
                alias: &model.alias,
                vertex_id: &model.vertex_id,
                location: missing[0],
                base_url,
                listed,
                locations: &locations,
                project: &project,
                identity: &identity,
            };
            let remedy = diagnosis::elsewhere(subject, &missing);
            for location in missing {
                let is_first = locations.first() == Some(&location);
                let check = if is_first { model.alias.to_string() } else { format!("{} at {location}", model.alias) };
                report.advise(&check, &remedy);
            }
        }
    }
    if let Some(recording) = recording.filter(Recording::is_empty) {
        report.add(recording.nothing());
    }
    if let Some(clocks) = clocks {
        report.add(judge_clock(clocks));
    }
}

/// Asks once, and once more where no answer came or one broke off: that may pass by itself. Tells why, too.
async fn ask(vertex: &Vertex, model: &Model, location: usize, stream: bool) -> (Outcome, Option<String>) {
    let first = probe::ask(vertex, model, location, stream).await;
    let Some(broke) = broken(&first) else { return (first, None) };
    (probe::ask(vertex, model, location, stream).await, Some(broke))
}

/// How an outcome is none that would be the same another time.
fn broken(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Broken(Some(answer)) if diagnosis::error_in_stream(&answer.body).is_some() => None,
        Outcome::Broken(_) => Some("the answer broke off, or did not end in time".to_owned()),
        Outcome::Failed(failure) => match failure.error {
            ApiError::UpstreamRejectedCredentials
            | ApiError::CredentialsUnavailable
            | ApiError::UpstreamUnreachable => None,
            _ => Some(failure.for_log()),
        },
        Outcome::Answered(_) => None,
    }
}

/// What is well at the second try only is worth a warning.
fn as_it_came(finding: Finding, broke: Option<String>) -> Finding {
    match broke {
        Some(broke) if finding.is_ok() => {
            finding.but(&format!("at the second try; first: {broke}"), "it may pass by itself; check again")
        }
        _ => finding,
    }
}

/// One alias at one location, without streaming. Tells whether it answers.
fn judge_model(
    subject: Subject<'_>,
    (outcome, broke): (Outcome, Option<String>),
    clocks: &mut Option<(SystemTime, SystemTime)>,
    report: &mut Report,
) -> bool {
    match outcome {
        Outcome::Answered(answer) => {
            *clocks = answer.clocks.or(*clocks);
            let answers = answer.status == 200 && answer.is_json_object();
            report.add(if answers {
                let detail = format!("answers, first byte after {} ms", milliseconds(&answer));
                as_it_came(Finding::ok(subject.check, detail).after(milliseconds(&answer)), broke)
            } else {
                diagnosis::refusal(subject, answer.status, &answer.body)
            });
            answers
        }
        outcome => {
            report.add(judge_failure(subject, &outcome));
            false
        }
    }
}

fn judge_stream(subject: Subject<'_>, outcome: Outcome) -> Finding {
    let answer = match outcome {
        Outcome::Answered(answer) => answer,
        // Behind an error nothing has to come.
        Outcome::Broken(Some(answer)) if diagnosis::error_in_stream(&answer.body).is_some() => *answer,
        outcome => return judge_failure(subject, &outcome),
    };
    if answer.status != 200 {
        return diagnosis::refusal(subject, answer.status, &answer.body);
    }
    if let Some((status, error)) = diagnosis::error_in_stream(&answer.body) {
        return diagnosis::refusal(subject, status, &error).said_within("within the stream: ");
    }
    if answer.is_whole_stream() {
        let detail = format!("streams, first byte after {} ms", milliseconds(&answer));
        return Finding::ok(subject.check, detail).after(milliseconds(&answer));
    }
    Finding::failure(
        subject.check,
        "the answer is no event stream, or ends without [DONE]",
        "unset GOOGLE_VERTEX_BASE_URL  # something in between may buffer or cut it",
    )
}

fn judge_failure(subject: Subject<'_>, outcome: &Outcome) -> Finding {
    let Outcome::Failed(failure) = outcome else {
        let detail = "no chat got through: twice the answer broke off, or did not end in time";
        return Finding::failure(subject.check, detail, diagnosis::look_in_between(subject));
    };
    let detail = failure.for_log();
    match failure.error {
        ApiError::UpstreamRejectedCredentials | ApiError::CredentialsUnavailable => {
            Finding::failure(subject.check, detail, diagnosis::new_token(subject.identity))
        }
        ApiError::UpstreamUnreachable => Finding::failure(
            subject.check,
            detail,
            format!("{}  # no connection can be made", diagnosis::look_in_between(subject)),
        ),
        _ => Finding::failure(
            subject.check,
            format!("no chat got through, twice: {detail}"),
            diagnosis::look_in_between(subject),
        ),
    }
}

/// Compares upstream's clock with ours.
fn judge_clock((theirs, ours): (SystemTime, SystemTime)) -> Finding {
    const NAME: &str = "clock";
    const REMEDY: &str = "sudo timedatectl set-ntp true";
    let (difference, way) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(error) => (error.duration(), "behind"),
    };
    let detail = format!("{} s {way} Google's", difference.as_secs());
    if difference > CLOCK_FAILURE {
        Finding::failure(NAME, detail, REMEDY)
    } else if difference > CLOCK_WARNING {
        Finding::warning(NAME, detail, REMEDY)
    } else {
        Finding::ok(NAME, "agrees with Google's")
    }
}

fn milliseconds(answer: &Answered) -> u64 {
    u64::try_from(answer.first_byte.as_millis()).unwrap_or(u64::MAX)
}
