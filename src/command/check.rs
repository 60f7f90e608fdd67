//! `ai-proxy check`: judges the configuration without any network.

use super::{refuse_certificates, refuse_configuration, say};
use crate::config::{Config, Environment, Problem};
use crate::models::Models;
use crate::upstream;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

/// Prints what the configuration says, or everything that is wrong with it.
pub(super) fn run() -> ExitCode {
    let config = match Config::parse(&Environment::of_process()) {
        Ok(config) => config,
        Err(problems) => return refuse_configuration(&problems),
    };
    if let Some(Err(message)) = config.credentials_file.as_deref().map(judge_credentials) {
        let variable = "GOOGLE_APPLICATION_CREDENTIALS".to_owned();
        return refuse_configuration(&[Problem { variable, message }]);
    }
    if let Err(error) = upstream::tls_config() {
        return refuse_certificates(error);
    }
    let models = Models::new(&config.models, &config.location);
    let project = config.project.as_deref().unwrap_or("not set: the metadata server has to tell");
    let mut out = format!(
        "configuration  ok\nlisten         {}\nproject        {project}\nlocation       {}\nkeys           {}\n",
        config.listen,
        config.location,
        config.keys.entries().len()
    );
    for model in models.iter() {
        let id = String::from_utf8_lossy(&model.quoted_id);
        let location = &models.locations()[model.location];
        let _ = writeln!(out, "model          {} -> {} at {location}", model.alias, id.trim_matches('"'));
    }
    say(&out)
}

/// Whether a credentials file is of a kind that Google's library can use. Its content is never shown.
fn judge_credentials(file: &Path) -> Result<(), String> {
    const KINDS: [&str; 4] = ["service_account", "authorized_user", "external_account", "impersonated_service_account"];
    let text =
        fs::read_to_string(file).map_err(|error| format!("names a file that cannot be read: {}", error.kind()))?;
    let value: serde_json::Value =
        serde_json::from_str(&text).map_err(|_| "names a file that is not JSON".to_owned())?;
    let kind = value.get("type").and_then(serde_json::Value::as_str);
    if kind.is_some_and(|kind| KINDS.contains(&kind)) {
        Ok(())
    } else {
        Err(format!("names a file whose 'type' is none of {}", KINDS.join(", ")))
    }
}
