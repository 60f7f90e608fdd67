//! `ai-proxy dev`: the gateway in front of the emulator, in one process, with nothing to set up.

use super::emulator::{Options, PROJECT};
use super::runtime::Runtimes;
use super::serve::serve;
use super::{fail, hardening, proxy, refuse_configuration, refuse_option, say};
use crate::config::{Config, CredentialsSource, Environment, Problem};
use crate::keys::{NewEntry, NewKey};
use ai_proxy_emulator as emulator;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use tokio::net::TcpListener;

/// Runs gateway and emulator until told to stop.
pub(super) fn run(options: &Options) -> ExitCode {
    let mut environment = Environment::of_process();
    if let Err(error) = proxy::bypass(&environment) {
        return fail(&format!("cannot start again with NO_PROXY: {error}"));
    }
    let gaps = hardening::apply();
    if !environment.is_unset("GCE_METADATA_HOST") {
        let message = "must not be set for 'dev', which brings a metadata server of its own";
        return refuse_configuration(&[Problem { variable: "GCE_METADATA_HOST".into(), message: message.into() }]);
    }
    let settings = match options.settings(PROJECT) {
        Ok(settings) => settings,
        Err(message) => return refuse_option(&message),
    };
    let runtimes = match Runtimes::start() {
        Ok(runtimes) => runtimes,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    let listener = match runtimes.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))) {
        Ok(listener) => listener,
        Err(error) => return fail(&format!("cannot start the emulator: {error}")),
    };
    let address = match listener.local_addr() {
        Ok(address) => address,
        Err(error) => return fail(&format!("cannot start the emulator: {error}")),
    };
    let key = match prepare(&mut environment, address) {
        Ok(key) => key,
        Err(message) => return fail(message),
    };
    let mut config = match Config::parse(&environment) {
        Ok(config) => config,
        Err(problems) => return refuse_configuration(&problems),
    };
    // It may hold keys, of which nothing but digests is needed any more.
    drop(environment);
    config.credentials = CredentialsSource::MetadataServer;
    let aliases: Vec<String> = config.models.keys().cloned().collect();
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let handles = runtimes.handles();
    runtimes.block_on_gateway(async {
        tokio::spawn(emulator::serve(listener, settings));
        let emulator = address;
        let announce = |address| {
            say(&banner(scheme, address, emulator, key.as_ref(), &aliases.join(", ")));
        };
        serve(config, &gaps, handles, announce).await
    })
}

/// Points the configuration at the emulator. A key is made unless the environment brings keys.
fn prepare(environment: &mut Environment, emulator: SocketAddr) -> Result<Option<NewKey>, &'static str> {
    environment.set("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned());
    environment.set("GOOGLE_VERTEX_BASE_URL", format!("http://{emulator}"));
    environment.set("GCE_METADATA_HOST", emulator.to_string());
    environment.remove("GOOGLE_APPLICATION_CREDENTIALS");
    environment.set_default("HOST", "127.0.0.1");
    if !environment.is_unset("API_KEYS_JSON") || !environment.is_unset("API_KEYS_FILE") {
        return Ok(None);
    }
    let key = NewKey::generate().map_err(|_| "the system gives no random bytes")?;
    environment.set("API_KEYS_JSON", format!("[{}]", NewEntry::new("dev", key.secret(true)).to_json()));
    Ok(Some(key))
}

/// What a person needs to begin.
fn banner(scheme: &str, address: SocketAddr, emulator: SocketAddr, key: Option<&NewKey>, aliases: &str) -> String {
    let host = match address.ip() {
        ip if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        ip => ip,
    };
    let base = format!("{scheme}://{}", SocketAddr::new(host, address.port()));
    let key = key.map_or("<a key of yours>", NewKey::reveal);
    format!(
        "\
ai-proxy {version}: gateway and emulated Vertex AI; nothing leaves this machine, nothing is billed

  base URL  {base}/v1
  API key   {key}
  models    {aliases}
  docs      {base}/docs
  control   http://{emulator}/_emulator/scenarios  next  exchanges  state

Paste into another terminal:

  export AI_API_BASE='{base}/v1' API_KEY='{key}'
  export OPENAI_BASE_URL=\"$AI_API_BASE\" OPENAI_API_KEY=\"$API_KEY\"

  curl -sS \"$AI_API_BASE/chat/completions\" -H \"x-api-key: $API_KEY\" -H 'content-type: application/json' \\
    -d '{{\"model\":\"flash\",\"messages\":[{{\"role\":\"user\",\"content\":\"Say hi.\"}}]}}'

  curl -sSN \"$AI_API_BASE/chat/completions\" -H \"x-api-key: $API_KEY\" -H 'content-type: application/json' \\
    -d '{{\"model\":\"flash\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Say hi.\"}}]}}'

",
        version = env!("CARGO_PKG_VERSION"),
    )
}
