//! What the program can be told to do, one file for each sub-command.

mod check;
mod dev;
mod emulator;
mod hardening;
mod keys;
mod proxy;
mod runtime;
mod serve;
mod usage;

pub use self::emulator::Options;
use crate::config::Problem;
use crate::keys::NewKey;
use crate::upstream::NoCertificates;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

/// Bad configuration (`EX_USAGE` of BSD's sysexits).
const EXIT_CONFIG: u8 = 64;
/// Wrong words on the command line.
const EXIT_ARGUMENTS: u8 = 2;

/// A sub-command with its arguments.
#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    /// Run the gateway.
    Serve,
    /// Run the gateway in front of the emulator.
    Dev(Options),
    /// Run the emulator.
    Emulator(Options),
    /// Judge the configuration, and with `--live` what Google says.
    Check(check::Options),
    /// Make keys, or change the file that holds them.
    Keys(keys::Request),
    /// Sum up a log.
    Usage(usage::Arguments),
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

impl Command {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// A sentence about the word that does not fit.
    pub fn parse(mut words: lexopt::Parser) -> Result<Self, lexopt::Error> {
        use lexopt::prelude::{Long, Short, Value, ValueExt};
        refuse_keys(words.raw_args()?.as_slice())?;
        let mut values = Vec::new();
        let mut check = check::Options::default();
        let mut options = Options::default();
        while let Some(word) = words.next()? {
            match word {
                Long("help") | Short('h') => return Ok(Self::Help),
                Long("version") | Short('V') => return Ok(Self::Version),
                Long("scenarios") => options.scenarios = Some(words.value()?.into()),
                Long("replay") => options.replay = Some(words.value()?.into()),
                Long("always") => options.always = Some(words.value()?.string()?),
                Long("speed") => {
                    let speed = words.value()?.parse()?;
                    if speed == 0 {
                        return Err("--speed: must be a whole number, 1 or more".into());
                    }
                    options.speed = Some(speed);
                }
                Long("tls") => options.tls = Some(words.value()?.into()),
                Long("list") => options.list = true,
                Long("live") => check.live = true,
                Long("json") => check.json = true,
                Long("record") => check.record = Some(words.value()?.into()),
                Value(value) if values.is_empty() && value == "keys" => {
                    return Ok(keys::Request::parse(&mut words)?.map_or(Self::Help, Self::Keys));
                }
                Value(value) if values.is_empty() && value == "usage" => {
                    let arguments = usage::Arguments::parse(&mut words, jiff::Timestamp::now())?;
                    return Ok(arguments.map_or(Self::Help, Self::Usage));
                }
                Value(value) => values.push(value.into_string().map_err(|_| "arguments must be UTF-8")?),
                other => return Err(other.unexpected()),
            }
        }
        let values: Vec<&str> = values.iter().map(String::as_str).collect();
        if check != check::Options::default() && values != ["check"] {
            return Err("--live, --json and --record belong to 'check'".into());
        }
        if check.record.is_some() && !check.live {
            return Err("--record needs --live".into());
        }
        match values[..] {
            ["emulator"] => Ok(Self::Emulator(options)),
            ["dev"] if options.tls.is_none() && !options.list => Ok(Self::Dev(options)),
            ["dev"] => Err("--tls and --list are for 'ai-proxy emulator'".into()),
            _ if options != Options::default() => {
                Err("these options are for 'ai-proxy emulator' and 'ai-proxy dev'".into())
            }
            [] | ["serve"] => Ok(Self::Serve),
            ["check"] => Ok(Self::Check(check)),
            ["help"] => Ok(Self::Help),
            ["serve" | "dev" | "emulator" | "check" | "help", word, ..] => {
                Err(format!("'{word}' is one argument too many; see 'ai-proxy --help'").into())
            }
            [word, ..] => Err(format!("there is no command '{word}'; see 'ai-proxy --help'").into()),
        }
    }

    /// Does it.
    pub fn run(self) -> ExitCode {
        match self {
            Self::Serve => serve::run(),
            Self::Dev(options) => dev::run(&options),
            Self::Emulator(options) => emulator::run(&options),
            Self::Check(options) => check::run(&options),
            Self::Keys(request) => request.run(),
            Self::Usage(arguments) => usage::run(arguments),
            Self::Help => say(HELP),
            Self::Version => say(concat!("ai-proxy ", env!("CARGO_PKG_VERSION"), "\n")),
        }
    }
}

/// Refuses arguments with a key in them before anything is made of them: so none is stored, shown, or told in an error.
fn refuse_keys(arguments: &[OsString]) -> Result<(), String> {
    match arguments.iter().position(|argument| NewKey::may_be_in(argument.as_encoded_bytes())) {
        None => Ok(()),
        Some(index) => Err(format!(
            "argument {} looks like a key, which no argument should be: others on this machine can see them. Replace the \
             key if it is one; 'keys hash -' reads one from stdin",
            index + 1
        )),
    }
}

/// Prints an answer. Whoever closed the pipe does not want to read it: no reason to panic, as `println!` would.
fn say(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    ExitCode::SUCCESS
}

/// Says what was wrong with the command line.
#[must_use]
pub fn refuse_arguments(error: &lexopt::Error) -> ExitCode {
    eprintln!("ai-proxy: {error}");
    ExitCode::from(EXIT_ARGUMENTS)
}

/// Says what is wrong with an option.
fn refuse_option(message: &str) -> ExitCode {
    eprintln!("ai-proxy: {message}");
    ExitCode::from(EXIT_ARGUMENTS)
}

/// Says all that is wrong with the configuration.
fn refuse_configuration(problems: &[Problem]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    ExitCode::from(EXIT_CONFIG)
}

/// Says that upstream could not be verified.
fn refuse_certificates(error: NoCertificates) -> ExitCode {
    refuse_configuration(&[Problem { variable: "SSL_CERT_FILE".to_owned(), message: error.to_string() }])
}

/// Says why the program cannot run.
fn fail(message: &str) -> ExitCode {
    eprintln!("ai-proxy: {message}");
    ExitCode::FAILURE
}

const HELP: &str = "\
ai-proxy: OpenAI-style clients on Gemini in your own Google Cloud project

Usage:
  ai-proxy [serve]        run the gateway
  ai-proxy dev            run it in front of an embedded emulator of Vertex AI
  ai-proxy emulator       run the emulator alone, for testing other software
  ai-proxy check          judge the configuration, without network; for CI with --json
  ai-proxy check --live   ask Google too: token, project, each model, streaming, clock
  ai-proxy keys new [ID]  make a key, shown once: add it to the file, or without one print its entry
  ai-proxy keys rotate ID    a further key for ID; with --overlap 24h the old one ends then
  ai-proxy keys disable ID, enable ID   all keys of ID, or the one of --key SHA-256-PREFIX
  ai-proxy keys list      who has keys, in what state, with what limits; never a key; for programs with --json
  ai-proxy keys hash [ID] put digests in the place of keys; without a file, or with -, print that of stdin's key
  ai-proxy keys prune     remove what is disabled or expired
  ai-proxy usage [FILE...]  sum up a log: requests, tokens, errors, latency, cost
  ai-proxy --help, --version

Options of 'keys' (the file is API_KEYS_FILE, unless --file FILE names another):
  --hashed, --plain       store the digest (a file's default) or the key itself
  --expires WHEN          2030-12-31T23:59:59Z, 90d or never
  --models ALIAS,ALIAS  --metrics  --rpm N  --max-concurrent N  --tokens-per-day N  --tokens-if-unknown N

Options of 'usage' (no FILE: stdin):
  --by LIST                      of month, day, hour, key, alias, model, status, outcome; or total [day,key,alias]
  --since TIME, --until TIME     2026-11-26, 2026-11-26T08:00:00Z, or ago: 12h, 7d
  --prices FILE                  prices in place of the embedded ones
  --json                         for programs
  --gcloud                       let gcloud read Cloud Logging, with
    --project ID [GOOGLE_CLOUD_PROJECT]  --service NAME [CLOUD_RUN_SERVICE, or ai-proxy]  --freshness 7d [1d]

Of 'check --live':
  --record DIR            write down how each alias answers, redacted, for 'emulator --replay DIR' [costs tokens]

Of the emulator, alone or in dev:
  --scenarios DIR         further scenarios, or others in place of embedded ones
  --replay DIR            answer from captured exchanges
  --always NAME           this scenario wherever no other applies
  --speed N               all pauses so many times as short
  --list, --tls FILE      alone only: list the scenarios; speak TLS too, and write what to trust

Environment (defaults in brackets):
  PORT [8080; emulator: 8090]  HOST [0.0.0.0; dev, emulator: 127.0.0.1]
  API_KEYS_FILE                  a file with the issued keys, read again when it changes  (required, or the next)
  API_KEYS_JSON                  [{\"id\":\"me\",\"key\":\"sk_live_...\",\"enabled\":true}]
  TLS_CERT_FILE, TLS_KEY_FILE    certificate chain and key in PEM form [TLS ends elsewhere]
  ACME_DOMAINS                   or: names to have a certificate issued for, by ACME
  ACME_EMAIL, ACME_CACHE_DIR     where the authority may write to; folder that outlives a restart
  ACME_DIRECTORY_URL             the authority [Let's Encrypt]
  HTTP_REDIRECT_PORT             plain port that sends browsers to https [none]
  GOOGLE_CLOUD_PROJECT           the project [the metadata server's]
  GOOGLE_CLOUD_LOCATION          global, us, eu or a region; or several, separated by commas [global]
  GOOGLE_VERTEX_BASE_URL         another scheme and host than the location's
  MODEL_FLASH_ID                 [google/gemini-2.5-flash]
  MODEL_PRO_PREVIEW_ID           [google/gemini-3.1-pro-preview]
  MODEL_<ALIAS>_ID               a further alias
  MODEL_<ALIAS>_LOCATION         another location, or several, for one alias
  MODEL_ALIASES_JSON             {\"alias\":\"publisher/model\"}: names that no variable can spell
  CORS_ALLOW_ORIGINS             origins of web pages that may call, comma-separated [none]
  PUBLIC_URL                     https://host that pages tell clients [each request's host]
  PLAYGROUND                     on: a page to try the gateway on [off]
  MAX_BODY_BYTES                 largest request body [33554432]
  BODY_BUDGET_BYTES              all request bodies held at one time [half of the memory limit]
  MAX_CONNECTIONS                clients' connections at one time [by descriptors and memory]
  METRICS_PORT                   a port for Prometheus at /metrics, without a key [none]
  UPSTREAM_TIMEOUT_SECONDS       until response headers [600]
  UPSTREAM_ERRORS                openai, or raw to leave error bodies alone [openai]
  THOUGHT_SIGNATURES             keep, skip-value or off [keep]
  THOUGHT_SIGNATURE_SKIP_VALUE   [skip_thought_signature_validator]
  SHUTDOWN_GRACE_SECONDS         for running requests after SIGTERM [9]
  SSE_KEEPALIVE_SECONDS          a comment after so much silence of a stream [none]
  GOOGLE_APPLICATION_CREDENTIALS, GCE_METADATA_HOST, GOOGLE_CLOUD_QUOTA_PROJECT
                                 read by Google's library
  SSL_CERT_FILE, SSL_CERT_DIR    certificates that upstream is verified against

Exit codes: 0 success, 1 failure, 2 wrong arguments, 64 bad configuration.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Command, String> {
        Command::parse(lexopt::Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn words() {
        assert_eq!(parse(&[]).unwrap(), Command::Serve);
        assert_eq!(parse(&["dev"]).unwrap(), Command::Dev(Options::default()));
        let options = Options { speed: Some(10), scenarios: Some("x".into()), ..Options::default() };
        assert_eq!(parse(&["dev", "--speed", "10", "--scenarios=x"]).unwrap(), Command::Dev(options.clone()));
        assert_eq!(parse(&["emulator", "--scenarios", "x", "--speed=10"]).unwrap(), Command::Emulator(options));
        for bad in [
            &["--speed", "1"][..],
            &["serve", "--list"],
            &["dev", "--list"],
            &["dev", "--tls", "x"],
            &["emulator", "--speed", "0"],
            &["emulator", "--speed"],
            &["emulator", "x"],
            &["check", "--replay", "x"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(matches!(parse(&["keys", "new", "ci"]).unwrap(), Command::Keys(_)));
        assert_eq!(parse(&["keys", "new", "--help"]).unwrap(), Command::Help);
        assert_eq!(parse(&["dev", "--help"]).unwrap(), Command::Help);
        for bad in [
            &["serve", "x"][..],
            &["serve", "--live"],
            &["keys"],
            &["--port", "1"],
            &["-x"],
            &["keys", "new", "a", "b"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
