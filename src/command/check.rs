//! `ai-proxy check`: judges the configuration without any network.

use super::refuse_configuration;
use crate::config::{Config, Environment};
use crate::models::Models;
use std::process::ExitCode;

/// Prints what the configuration says, or everything that is wrong with it.
pub(super) fn run() -> ExitCode {
    let config = match Config::parse(&Environment::of_process()) {
        Ok(config) => config,
        Err(problems) => return refuse_configuration(&problems),
    };
    let models = Models::new(&config.models, &config.location);
    println!("configuration  ok");
    println!("listen         {}", config.listen);
    println!("project        {}", config.project.as_deref().unwrap_or("not set: the metadata server has to tell"));
    println!("location       {}", config.location);
    println!("keys           {}", config.keys.count());
    for model in models.iter() {
        let location = &models.locations()[model.location];
        println!("model          {} -> {} at {location}", model.alias, String::from_utf8_lossy(&model.quoted_id));
    }
    ExitCode::SUCCESS
}
