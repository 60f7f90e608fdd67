//! Keeps the metadata server out of a web proxy's way.
//!
//! Google's library heeds `HTTP_PROXY` and `ALL_PROXY` also for the metadata server, whose tokens would then pass
//! through the proxy in clear, if it found that server at all. Only `NO_PROXY` tells it otherwise, and a process cannot
//! change its own environment safely: so the program starts itself anew with that variable extended.

use crate::config::Environment;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variables that would lead a plain HTTP request to a proxy.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// Where metadata servers are.
const METADATA_HOSTS: [&str; 4] = ["metadata.google.internal", "169.254.169.254", "127.0.0.1", "localhost"];

/// Starts the program anew where that is needed; returns where it is not.
///
/// # Errors
/// When the program cannot be started again.
pub(super) fn bypass(environment: &Environment) -> std::io::Result<()> {
    if PROXIES.iter().all(|variable| environment.is_unset(variable)) {
        return Ok(());
    }
    let metadata = environment.get("GCE_METADATA_HOST").map(|host| host.split(':').next().unwrap_or(host));
    let exempt = environment.get("NO_PROXY").or_else(|| environment.get("no_proxy")).unwrap_or_default();
    let known: Vec<&str> = exempt.split(',').map(str::trim).collect();
    let missing: Vec<&str> = METADATA_HOSTS.into_iter().chain(metadata).filter(|host| !known.contains(host)).collect();
    if missing.is_empty() || known.contains(&"*") {
        return Ok(());
    }
    let extended = format!("{exempt},{}", missing.join(","));
    let extended = extended.trim_start_matches(',');
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env("NO_PROXY", extended).env("no_proxy", extended);
    Err(again.exec())
}
