//! `ai-proxy check`: judges the configuration without any network.

use super::{refuse_configuration, say};
use crate::config::{Config, Environment};
use crate::models::Models;
use std::fmt::Write;
use std::process::ExitCode;

/// Prints what the configuration says, or everything that is wrong with it.
pub(super) fn run() -> ExitCode {
    let config = match Config::parse(&Environment::of_process()) {
        Ok(config) => config,
        Err(problems) => return refuse_configuration(&problems),
    };
    let models = Models::new(&config.models, &config.location);
    let project = config.project.as_deref().unwrap_or("not set: the metadata server has to tell");
    let mut out = format!(
        "configuration  ok\nlisten         {}\nproject        {project}\nlocation       {}\nkeys           {}\n",
        config.listen,
        config.location,
        config.keys.count()
    );
    for model in models.iter() {
        let id = String::from_utf8_lossy(&model.quoted_id);
        let location = &models.locations()[model.location];
        let _ = writeln!(out, "model          {} -> {} at {location}", model.alias, id.trim_matches('"'));
    }
    say(&out)
}
