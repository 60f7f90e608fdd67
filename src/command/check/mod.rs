//! `ai-proxy check`: a doctor. Offline it judges the configuration; with `--live` it asks Google what clients would.
//!
//! Every finding that is bad ends in what to do about it. `credentials` finds out who the gateway would be, `probe`
//! sends a chat as a client's would go, `diagnosis` knows what upstream's refusals mean, `record` writes down how
//! answers look, `report` says it all.

mod credentials;
mod diagnosis;
mod live;
mod probe;
mod record;
mod report;

use super::runtime::start_runtime;
use super::{EXIT_CONFIG, fail, proxy, refuse_configuration, refuse_option, say};
use crate::config::{Config, Environment, Problem};
use crate::models::Models;
use crate::tls;
use crate::upstream;
use credentials::Identity;
use record::Recording;
use report::{Finding, Report};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Less than this left of the gateway's own certificate is worth a warning.
const CERTIFICATE_WARNING: Duration = Duration::from_secs(7 * 86_400);

/// What is to be checked, and how it is to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ask Google too. Each alias costs a few tokens.
    pub live: bool,
    /// For machines.
    pub json: bool,
    /// Write down how each alias answers, into this folder; only with `live`.
    pub record: Option<PathBuf>,
}

/// Prints what was found. Exit code 0 if all is well, 64 for bad configuration, 1 for what only Google can tell.
pub(super) fn run(options: &Options) -> ExitCode {
    let environment = Environment::of_process();
    if options.live
        && let Err(error) = proxy::bypass(&environment)
    {
        return fail(&format!("cannot start again with NO_PROXY: {error}"));
    }
    let config = match Config::parse(&environment) {
        Ok(config) => config,
        Err(problems) => return refuse(&problems, options),
    };
    let identity = match credentials::find(&environment, &config) {
        Ok(identity) => identity,
        Err(problem) => return refuse(&[problem], options),
    };
    let tls = match upstream::tls_config() {
        Ok(tls) => tls,
        Err(error) => {
            let problem = Problem { variable: "SSL_CERT_FILE".to_owned(), message: error.to_string() };
            return refuse(&[problem], options);
        }
    };
    let recording = match options.record.as_deref().map(Recording::begin).transpose() {
        Ok(recording) => recording,
        Err(message) => return refuse_option(&format!("--record: {message}")),
    };
    let mut report = Report::default();
    judge_configuration(&config, &identity, &mut report);
    if options.live {
        let runtime = match start_runtime() {
            Ok(runtime) => runtime,
            Err(error) => return fail(&format!("cannot start: {error}")),
        };
        // It was judged with the rest.
        let listed = environment.get("MODEL_ALIASES_JSON").and_then(|text| serde_json::from_str(text).ok());
        let listed = listed.unwrap_or_default();
        runtime.block_on(live::examine(config, identity, &tls, &listed, recording, &mut report));
    }
    say(&if options.json { report.to_json() } else { report.to_text() });
    if report.is_well() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What is wrong with the configuration: on stderr as ever, or as a report for machines.
fn refuse(problems: &[Problem], options: &Options) -> ExitCode {
    if !options.json {
        return refuse_configuration(problems);
    }
    let mut report = Report::default();
    for problem in problems {
        report.add(Finding::failure(&problem.variable, problem.message.clone(), "set it right and check again"));
    }
    say(&report.to_json());
    ExitCode::from(EXIT_CONFIG)
}

/// What the configuration says.
fn judge_configuration(config: &Config, identity: &Identity, report: &mut Report) {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    report.add(Finding::ok("configuration", "complete"));
    report.add(Finding::ok("listen", format!("{scheme}://{}", config.listen)));
    let project = config.project.as_deref().unwrap_or("not set: the metadata server has to tell");
    report.add(Finding::ok("project", project));
    report.add(Finding::ok("location", config.locations.join(", ")));
    report.add(Finding::ok("keys", config.keys.entries().len().to_string()));
    report.add(Finding::ok("credentials", identity.to_string()));
    if let Some(source) = &config.tls {
        report.add(judge_certificate(source));
    }
    let models = Models::new(&config.models, &config.locations);
    for model in models.iter() {
        let locations = models.locations_of(model);
        report.add(Finding::ok("model", format!("{} -> {} at {locations}", model.alias, model.vertex_id)));
    }
}

fn judge_certificate(source: &tls::Source) -> Finding {
    const NAME: &str = "certificate";
    match source {
        tls::Source::Acme(settings) => Finding::ok(NAME, format!("by ACME, for {}", settings.domains.join(", "))),
        tls::Source::Files(_, loaded) => {
            let detail = format!("valid until {}", loaded.certificate.valid_until());
            match loaded.certificate.time_left() {
                None => Finding::failure(NAME, detail, "put a new certificate into TLS_CERT_FILE and TLS_KEY_FILE"),
                Some(left) if left < CERTIFICATE_WARNING => {
                    Finding::warning(NAME, detail, "put a new certificate into TLS_CERT_FILE and TLS_KEY_FILE")
                }
                Some(_) => Finding::ok(NAME, detail),
            }
        }
    }
}
