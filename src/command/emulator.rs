//! `ai-proxy emulator`: the emulator by itself, for those who test other software.

use super::runtime::start_runtime;
use super::serve::{Signals, listen};
use super::{fail, refuse_configuration, refuse_option, say};
use crate::config::{Environment, Listening};
use ai_proxy_emulator::replay::Replay;
use ai_proxy_emulator::{Certificate, Library, Settings};
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Where it listens unless `PORT` says otherwise: beside a gateway, which has 8080.
const DEFAULT_PORT: u16 = 8090;
/// The project that exists unless `GOOGLE_CLOUD_PROJECT` says otherwise.
pub(super) const PROJECT: &str = "ai-proxy-dev";
/// Between two tokens of a stream: about as fast as a person can watch.
const PACE: Duration = Duration::from_millis(25);

/// What the command line says of the emulator.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// A folder with further scenarios.
    pub scenarios: Option<PathBuf>,
    /// A folder with captured exchanges.
    pub replay: Option<PathBuf>,
    /// The scenario that applies wherever no other does.
    pub always: Option<String>,
    /// All pauses are so many times as short.
    pub speed: Option<u32>,
    /// Speak TLS too, with a certificate that is written to this file.
    pub tls: Option<PathBuf>,
    /// List the scenarios, and nothing else.
    pub list: bool,
}

impl Options {
    /// What they come to.
    ///
    /// # Errors
    /// A sentence about the option, file or field that does not fit.
    pub(super) fn settings(&self, project: &str) -> Result<Settings, String> {
        let mut library = Library::embedded();
        if let Some(folder) = &self.scenarios {
            library.add_folder(folder).map_err(|error| format!("--scenarios: {error}"))?;
        }
        if let Some(name) = &self.always
            && !library.set_always(name)
        {
            return Err(format!("--always: there is no scenario '{name}' of chats; --list has all"));
        }
        let replay =
            self.replay.as_deref().map(Replay::read).transpose().map_err(|error| format!("--replay: {error}"))?;
        let tls = self.tls.as_deref().map(Certificate::make).transpose().map_err(|error| format!("--tls: {error}"))?;
        let mut settings = Settings::new(project);
        settings.pace = PACE;
        settings.speed = f64::from(self.speed.unwrap_or(1));
        settings.library = library;
        settings.replay = replay;
        settings.tls = tls;
        Ok(settings)
    }
}

/// Runs the emulator until told to stop, or lists the scenarios.
pub(super) fn run(options: &Options) -> ExitCode {
    let environment = Environment::of_process();
    let Listening { address, project } = match Listening::parse(&environment, DEFAULT_PORT) {
        Ok(listening) => listening,
        Err(problems) => return refuse_configuration(&problems),
    };
    let project = project.unwrap_or_else(|| PROJECT.to_owned());
    let settings = match options.settings(&project) {
        Ok(settings) => settings,
        Err(message) => return refuse_option(&message),
    };
    if options.list {
        return say(&list(&settings.library));
    }
    let runtime = match start_runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        let (listener, address) = match listen("PORT", address) {
            Ok(listening) => listening,
            Err(message) => return fail(&message),
        };
        let mut signals = match Signals::new() {
            Ok(signals) => signals,
            Err(error) => return fail(&format!("cannot listen to signals: {error}")),
        };
        say(&banner(address, &project, options, &settings));
        tokio::select! {
            () = ai_proxy_emulator::serve(listener, settings) => ExitCode::FAILURE,
            () = signals.next() => ExitCode::SUCCESS,
        }
    })
}

/// A line for each scenario, by family.
fn list(library: &Library) -> String {
    let width = library.iter().map(|scenario| scenario.name.len()).max().unwrap_or(0);
    let mut out = String::new();
    let mut family = "";
    for scenario in library.iter() {
        if scenario.family != family {
            family = &scenario.family;
            let _ = writeln!(out, "{}{family}", if out.is_empty() { "" } else { "\n" });
        }
        let by_itself = if scenario.marker().is_some() { ' ' } else { '*' };
        let _ = writeln!(out, "{by_itself} {:width$}  {}", scenario.name, scenario.about);
    }
    out + "\nA marker in the last message asks for one: [emulator:NAME]. Those with * apply by themselves, or are asked for\nby the control endpoint.\n"
}

fn banner(address: SocketAddr, project: &str, options: &Options, settings: &Settings) -> String {
    // Where it is reached, which is not where it listens if that is everywhere.
    let address = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port()),
        IpAddr::V6(ip) if ip.is_unspecified() => SocketAddr::new(Ipv6Addr::LOCALHOST.into(), address.port()),
        _ => address,
    };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let host = if options.tls.is_some() { format!("localhost:{}", address.port()) } else { address.to_string() };
    let base = format!("{scheme}://{host}");
    let path = format!("v1/projects/{project}/locations/global/endpoints/openapi");
    let mut out = format!(
        "\
ai-proxy {version}: emulated Vertex AI, metadata server and token endpoints on {base}

  chat      {base}/{path}/chat/completions
  token     curl -sS -H 'Metadata-Flavor: Google' {base}/computeMetadata/v1/instance/service-accounts/default/token
  control   {base}/_emulator/scenarios  next  exchanges  state
",
        version = env!("CARGO_PKG_VERSION"),
    );
    let _ = writeln!(out, "  metadata  GCE_METADATA_HOST={address}");
    if let Some(file) = &options.tls {
        let _ = writeln!(out, "  trust     SSL_CERT_FILE={}", file.display());
    }
    if let Some(replay) = &settings.replay {
        let _ = writeln!(out, "  replay    {} captured exchanges", replay.count());
    }
    let _ = writeln!(out, "\nHTTP/1.1 and HTTP/2. 'ai-proxy emulator --list' has all that can be asked of it.\n");
    out
}
