//! The environment, read once into an immutable value; or the list of everything that is wrong with it.
//!
//! The only file that reads the environment. Problems name variables and never show a value: it may be a key.

use crate::json::{self, Fields};
use crate::keys::{self, KeyList, KeysFile, NewKey, place};
use crate::models::{ModelConfig, is_alias};
use crate::pages::PublicUrl;
use crate::signatures::Policy;
use crate::tls;
use http::uri::Authority;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::{Zeroize, Zeroizing};

/// The port that Cloud Run gives too, unless told otherwise.
const DEFAULT_PORT: u16 = 8080;
/// Cloud Run's own limit for an HTTP/1 request body, in bytes.
const DEFAULT_MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// Cloud Run kills ten seconds after SIGTERM; one is left for the last writes.
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(9);
/// Vertex's own deadline: a thinking model may be silent for minutes before its first byte.
const DEFAULT_UPSTREAM_TIMEOUT: Duration = Duration::from_secs(600);
/// What Google documents for histories that come from another model. Whether this endpoint wants it so or in base64 is
/// not publicly known.
const DEFAULT_SKIP_VALUE: &str = "skip_thought_signature_validator";
/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Let's Encrypt takes no more names for one certificate.
const MAX_DOMAINS: usize = 100;
/// The longest time that can be set, in seconds: a day.
const MAX_SECONDS: u64 = 86_400;
/// Where Google Cloud's machines find their metadata server.
const METADATA_HOST: &str = "metadata.google.internal";
/// The one variable that a key may stand in.
const KEYS_JSON: &str = "API_KEYS_JSON";
/// Where gcloud keeps the credentials of `gcloud auth application-default login`, below the home folder.
pub(crate) const WELL_KNOWN_CREDENTIALS: &str = ".config/gcloud/application_default_credentials.json";

/// Everything the gateway is told from outside.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The Google Cloud project; `None` means that the metadata server has to tell.
    pub project: Option<String>,
    /// Where the certificate for clients comes from; `None` means that TLS ends elsewhere.
    pub tls: Option<tls::Source>,
    /// The port that leads browsers from http to https.
    pub redirect_port: Option<u16>,
    /// The port that tells metrics to everybody.
    pub metrics_port: Option<u16>,
    /// The default locations, the one that is wanted most first; never empty.
    pub locations: Vec<String>,
    /// Overrides scheme, host and port of upstream.
    pub base_url: Option<BaseUrl>,
    /// The issued keys.
    pub keys: KeyList,
    /// The file that they came from, if they did.
    pub keys_file: Option<KeysFile>,
    /// Aliases and what they stand for.
    pub models: BTreeMap<String, ModelConfig>,
    /// Which browsers' pages may call.
    pub cors: AllowedOrigins,
    /// Where clients find the gateway, for its pages to say; `None` means what each request's `host` says.
    pub public_url: Option<PublicUrl>,
    /// Whether there is a page to try the gateway on.
    pub playground: bool,
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// All request bodies held at one time, in bytes; `None` means half of the memory limit.
    pub body_budget_bytes: Option<usize>,
    /// Clients' connections at one time; `None` means what descriptors and memory are good for.
    pub max_connections: Option<usize>,
    /// Time allowed for upstream's response headers.
    pub upstream_timeout: Duration,
    /// Whether error answers are repaired for OpenAI's SDKs.
    pub repair_errors: bool,
    /// What is done about missing thought signatures.
    pub thought_signatures: Policy,
    /// What Vertex takes in place of a thought signature.
    pub skip_value: String,
    /// How long running requests may finish after SIGTERM.
    pub shutdown_grace: Duration,
    /// How long an event stream may be silent before a comment is sent; `None` sends none.
    pub sse_keepalive: Option<Duration>,
    /// `host` or `host:port` of the metadata server.
    pub metadata_host: String,
    /// Where bearers come from.
    pub credentials: CredentialsSource,
    /// The file that `GOOGLE_APPLICATION_CREDENTIALS` names. Google's library reads it; only `check` looks into it.
    pub credentials_file: Option<PathBuf>,
}

/// Where bearers come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialsSource {
    /// Google's search for Application Default Credentials, with the file that it would take if there is one: that of
    /// the variable, or else gcloud's well-known one.
    Default(Option<PathBuf>),
    /// The metadata server at [`Config::metadata_host`] and nothing else.
    MetadataServer,
}

/// Scheme and authority of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    /// Whether to speak TLS.
    pub tls: bool,
    /// Host and optional port.
    pub authority: Authority,
}

/// The origins that `CORS_ALLOW_ORIGINS` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// `*`
    Any,
    /// These only; often none.
    Listed(Vec<String>),
}

impl AllowedOrigins {
    /// Whether a page of this origin may read the answers.
    #[must_use]
    pub fn allows(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|listed| listed.as_bytes() == origin),
        }
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The variable at fault.
    pub variable: String,
    /// What is wrong and what would be right; never the value.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.variable, self.message)
    }
}

/// A snapshot of environment variables. A value that is not UTF-8 is kept as `None`.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, Option<String>>);

impl Environment {
    /// The process's own.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok()?;
            Some((name, value.into_string().ok()))
        });
        Self(variables.collect())
    }

    /// Sets a variable, replacing what is there.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), Some(value)).flatten().zeroize();
    }

    /// Sets a variable that is unset or empty.
    pub fn set_default(&mut self, name: &str, value: &str) {
        if self.is_unset(name) {
            self.set(name, value.to_owned());
        }
    }

    /// Forgets a variable.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name).flatten().zeroize();
    }

    /// The value of a variable that is set, for whatever may tell it: what is no text, or may be a key in the wrong place,
    /// is a problem.
    ///
    /// # Errors
    /// What is wrong with it, without a word of it.
    pub fn text(&self, name: &str) -> Result<Option<&str>, Problem> {
        let problem = |message: &str| Problem { variable: name.to_owned(), message: message.to_owned() };
        match self.0.get(name) {
            Some(None) => Err(problem("is not valid UTF-8")),
            Some(Some(value)) if name != KEYS_JSON && NewKey::may_be_in(value.as_bytes()) => Err(problem(
                "has in it what looks like a key, which no variable but API_KEYS_JSON may have: others can read this one",
            )),
            Some(Some(value)) if !value.is_empty() => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// gcloud's own file of credentials, whether it is there or not: where Google's library looks for it.
    #[must_use]
    pub fn well_known_credentials(&self) -> Option<PathBuf> {
        let home = self.0.get("HOME")?.as_ref()?;
        Some(Path::new(home).join(WELL_KNOWN_CREDENTIALS))
    }

    /// The value of a variable that is set and valid.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref().filter(|value| !value.is_empty())
    }

    /// Whether a variable is missing or empty.
    #[must_use]
    pub fn is_unset(&self, name: &str) -> bool {
        self.0.get(name).is_none_or(|value| value.as_deref() == Some(""))
    }
}

/// Keys may be among the values.
impl Drop for Environment {
    fn drop(&mut self) {
        self.0.values_mut().flatten().for_each(Zeroize::zeroize);
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Environment {
    fn from(variables: [(&str, &str); N]) -> Self {
        Self(variables.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect())
    }
}

/// The variables with their problems, while they are being read.
struct Reader<'a> {
    environment: &'a Environment,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn problem(&mut self, variable: &str, message: impl Into<String>) {
        self.problems.push(Problem { variable: variable.to_owned(), message: message.into() });
    }

    /// The value of a variable; empty counts as unset.
    fn text(&mut self, variable: &str) -> Option<String> {
        match self.environment.text(variable) {
            Ok(value) => value.map(str::to_owned),
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// A value that `parse` accepts; `expected` says which those are.
    fn parsed<T>(&mut self, variable: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(variable)?;
        let value = parse(&text);
        if value.is_none() {
            self.problem(variable, format!("must be {expected}"));
        }
        value
    }

    fn number(&mut self, variable: &str, at_least: u64, at_most: u64) -> Option<u64> {
        self.parsed(variable, &format!("a whole number from {at_least} to {at_most}"), |text| {
            text.parse().ok().filter(|number| (at_least..=at_most).contains(number))
        })
    }

    fn seconds(&mut self, variable: &str, at_least: u64, default: Duration) -> Duration {
        self.number(variable, at_least, MAX_SECONDS).map_or(default, Duration::from_secs)
    }

    fn bytes(&mut self, variable: &str) -> Option<usize> {
        let number = self.number(variable, 1, 1 << 40)?;
        usize::try_from(number).ok()
    }

    fn listen(&mut self, default_port: u16, default_host: Ipv4Addr) -> SocketAddr {
        let port = self.number("PORT", 0, 65_535).and_then(|port| u16::try_from(port).ok()).unwrap_or(default_port);
        let host = self.parsed("HOST", "an IP address such as 0.0.0.0 or ::1", |text| text.parse().ok());
        SocketAddr::new(host.unwrap_or(IpAddr::V4(default_host)), port)
    }

    /// The keys, from a file or from a variable: a file can be a mounted secret, which fewer people can read.
    fn keys(&mut self, models: &BTreeMap<String, ModelConfig>) -> Option<(KeyList, Option<KeysFile>)> {
        const FILE: &str = "API_KEYS_FILE";
        let before = self.problems.len();
        let (json, file) = (self.text(KEYS_JSON), self.text(FILE));
        if self.problems.len() > before {
            return None;
        }
        let (variable, json, file) = match (json, file) {
            (Some(json), None) => (KEYS_JSON, Zeroizing::new(json), None),
            (None, Some(file)) => match keys::read(Path::new(&file)) {
                Ok(json) => {
                    let file = KeysFile::new(file.into(), &json);
                    (FILE, json, Some(file))
                }
                Err(error) => {
                    self.problem(FILE, format!("names a file that {error}"));
                    return None;
                }
            },
            (Some(_), Some(_)) => {
                self.problem(FILE, "must not be set together with API_KEYS_JSON");
                return None;
            }
            (None, None) => {
                self.problem(
                    KEYS_JSON,
                    "is required, or better API_KEYS_FILE, which names a file: a JSON array of {\"id\",\"key\",\"enabled\"}; 'ai-proxy keys new' makes an entry",
                );
                return None;
            }
        };
        let judged = KeyList::parse(&json).and_then(|list| {
            let mut problems = list.unknown_models(|alias| models.contains_key(alias));
            if !list.has_enabled() {
                problems.push("has no enabled key, so nobody could use the gateway".into());
            }
            if problems.is_empty() { Ok(list) } else { Err(problems) }
        });
        match judged {
            Ok(list) => Some((list, file)),
            Err(messages) => {
                messages.into_iter().for_each(|message| self.problem(variable, message));
                None
            }
        }
    }

    /// The certificate for clients: from two files or by ACME, or none.
    fn tls(&mut self) -> Option<tls::Source> {
        const EXCLUSIVE: &str = "must not be set together with TLS_CERT_FILE";
        let (chain, key) = (self.text("TLS_CERT_FILE"), self.text("TLS_KEY_FILE"));
        let acme = self.acme();
        match (chain, key) {
            (None, None) => acme.map(tls::Source::Acme),
            (Some(_), None) => {
                self.problem("TLS_KEY_FILE", "is required with TLS_CERT_FILE");
                None
            }
            (None, Some(_)) => {
                self.problem("TLS_CERT_FILE", "is required with TLS_KEY_FILE");
                None
            }
            (Some(_), Some(_)) if acme.is_some() => {
                self.problem("ACME_DOMAINS", EXCLUSIVE);
                None
            }
            (Some(chain), Some(key)) => {
                let files = tls::Files { chain: chain.into(), key: key.into() };
                match files.load() {
                    Ok(loaded) => Some(tls::Source::Files(files, loaded)),
                    Err(problem) => {
                        self.problem(problem.variable, problem.message);
                        None
                    }
                }
            }
        }
    }

    fn acme(&mut self) -> Option<tls::Acme> {
        let before = self.problems.len();
        let domains = self.parsed("ACME_DOMAINS", "full names such as ai.example.com, comma-separated", parse_domains);
        let email = self.parsed("ACME_EMAIL", "an e-mail address", parse_email);
        let cache = self.text("ACME_CACHE_DIR");
        let directory_url = self.parsed("ACME_DIRECTORY_URL", "an https URL", parse_directory_url);
        if self.problems.len() > before {
            return None;
        }
        let Some(domains) = domains else {
            let given = [
                ("ACME_EMAIL", email.is_some()),
                ("ACME_CACHE_DIR", cache.is_some()),
                ("ACME_DIRECTORY_URL", directory_url.is_some()),
            ];
            for (variable, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
                self.problem(variable, "does nothing without ACME_DOMAINS");
            }
            return None;
        };
        let Some(cache) = cache else {
            self.problem("ACME_CACHE_DIR", "is required with ACME_DOMAINS: a folder that outlives a restart");
            return None;
        };
        let directory_url = directory_url.unwrap_or_else(|| LETS_ENCRYPT.to_owned());
        Some(tls::Acme { domains, email, cache: cache.into(), directory_url })
    }

    fn models(&mut self) -> BTreeMap<String, ModelConfig> {
        const JSON: &str = "MODEL_ALIASES_JSON";
        const ID_FORM: &str = "'publisher/model', such as google/gemini-2.5-flash";
        let mut models = BTreeMap::from(ModelConfig::built_in());
        let mut by_variable: HashMap<String, String> = HashMap::new();
        for (variable, spelled) in self.named_by_alias("_ID") {
            let Some(id) = self.parsed(variable, ID_FORM, parse_vertex_id) else { continue };
            let alias = spelled.to_ascii_lowercase().replace('_', "-");
            if by_variable.insert(alias.clone(), id.clone()).is_some_and(|other| other != id) {
                self.problem(variable, "gives an alias another id than a variable that differs in case only");
            } else if is_alias(&alias) {
                models.insert(alias, ModelConfig { vertex_id: id, locations: None });
            } else {
                self.problem(variable, "must spell an alias of letters, digits and '_' between MODEL_ and _ID");
            }
        }
        if let Some(text) = self.text(JSON) {
            match serde_json::from_str::<Fields<'_>>(&text) {
                Err(error) => {
                    self.problem(JSON, format!("must be a JSON object of alias to vertex id: {}", place(&error)));
                }
                Ok(entries) => {
                    if entries.repeated().is_some() {
                        self.problem(JSON, "names an alias twice");
                    }
                    for (number, (alias, value)) in entries.0.into_iter().enumerate() {
                        self.alias_from_json(&mut models, &by_variable, number + 1, alias.into_owned(), value);
                    }
                }
            }
        }
        for (variable, spelled) in self.named_by_alias("_LOCATION") {
            let Some(locations) = self.parsed(variable, LOCATIONS_FORM, parse_locations) else { continue };
            let mut found = false;
            for (alias, model) in &mut models {
                if variable_spelling(alias).eq_ignore_ascii_case(spelled) {
                    model.locations = Some(locations.clone());
                    found = true;
                }
            }
            if !found {
                self.problem(variable, "names no alias that exists");
            }
        }
        models
    }

    /// The variables from `MODEL_` to a suffix, each with what is between. A name can be told, and so can an alias: one that
    /// may have a key in it is a problem and nothing else.
    fn named_by_alias(&mut self, suffix: &str) -> Vec<(&'a str, &'a str)> {
        let environment = self.environment;
        let mut named = Vec::new();
        for variable in environment.0.keys().filter(|variable| !environment.is_unset(variable)) {
            let Some(alias) = variable.strip_prefix("MODEL_").and_then(|rest| rest.strip_suffix(suffix)) else {
                continue;
            };
            if NewKey::may_be_in(variable.as_bytes()) {
                let message = "is the form of a variable in whose name is what looks like a key: others can read it. Replace \
                               the key if it is one";
                self.problem(&format!("MODEL_…{suffix}"), message);
            } else {
                named.push((&**variable, alias));
            }
        }
        named
    }

    fn alias_from_json(
        &mut self,
        models: &mut BTreeMap<String, ModelConfig>,
        by_variable: &HashMap<String, String>,
        number: usize,
        alias: String,
        value: &RawValue,
    ) {
        const JSON: &str = "MODEL_ALIASES_JSON";
        let Some(vertex_id) = json::text(value.get()).as_deref().and_then(parse_vertex_id) else {
            self.problem(JSON, format!("entry {number}: the value must be 'publisher/model'"));
            return;
        };
        if !is_alias(&alias) {
            self.problem(JSON, format!("entry {number}: the alias must be 1 to 128 letters, digits and '. _ - / : @'"));
            return;
        }
        // The built-in ids are defaults, which the list may replace; a variable that says otherwise is a conflict.
        if by_variable.get(&alias).is_some_and(|other| *other != vertex_id) {
            self.problem(JSON, format!("entry {number}: a MODEL_…_ID variable gives the same alias another id"));
        } else {
            models.insert(alias, ModelConfig { vertex_id, locations: None });
        }
    }
}

/// What `ai-proxy emulator` is told from outside.
#[derive(Debug)]
pub struct Listening {
    /// Where to listen; on this machine only, unless another address is given.
    pub address: SocketAddr,
    /// The project that exists.
    pub project: Option<String>,
}

impl Listening {
    /// Reads it.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(environment: &Environment, default_port: u16) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let address = reader.listen(default_port, Ipv4Addr::LOCALHOST);
        let project = reader.parsed("GOOGLE_CLOUD_PROJECT", PROJECT_FORM, parse_project);
        if reader.problems.is_empty() { Ok(Self { address, project }) } else { Err(reader.problems) }
    }
}

const PROJECT_FORM: &str = "a project id or number";
const LOCATIONS_FORM: &str =
    "'global', 'us', 'eu' or a region such as us-central1, or up to 8 of these, separated by commas";
/// Locations that a list may have.
const MAX_LOCATIONS: usize = 8;

impl Config {
    /// Reads a configuration.
    ///
    /// # Errors
    /// All problems at once.
    pub fn parse(environment: &Environment) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader { environment, problems: Vec::new() };
        let listen = reader.listen(DEFAULT_PORT, Ipv4Addr::UNSPECIFIED);
        let tls = reader.tls();
        let redirect_port = reader.number("HTTP_REDIRECT_PORT", 0, 65_535).and_then(|port| u16::try_from(port).ok());
        if redirect_port.is_some() && tls.is_none() && reader.problems.is_empty() {
            reader.problem("HTTP_REDIRECT_PORT", "needs TLS: set TLS_CERT_FILE and TLS_KEY_FILE, or ACME_DOMAINS");
        }
        if redirect_port.is_some_and(|redirect| redirect != 0 && redirect == listen.port()) {
            reader.problem("HTTP_REDIRECT_PORT", "must be another port than PORT");
        }
        let metrics_port = reader.number("METRICS_PORT", 0, 65_535).and_then(|port| u16::try_from(port).ok());
        if metrics_port
            .is_some_and(|metrics| metrics != 0 && [Some(listen.port()), redirect_port].contains(&Some(metrics)))
        {
            reader.problem("METRICS_PORT", "must be another port than PORT and HTTP_REDIRECT_PORT");
        }
        let project = reader.parsed("GOOGLE_CLOUD_PROJECT", PROJECT_FORM, parse_project);
        let locations = reader.parsed("GOOGLE_CLOUD_LOCATION", LOCATIONS_FORM, parse_locations);
        let base_url = reader.parsed(
            "GOOGLE_VERTEX_BASE_URL",
            "http:// or https:// with a host and an optional port, without path, query or user",
            parse_base_url,
        );
        let models = reader.models();
        let keys = reader.keys(&models);
        let cors = reader.parsed(
            "CORS_ALLOW_ORIGINS",
            "'*' or origins such as https://app.example, separated by commas, without a path",
            parse_origins,
        );
        let public_url = reader.parsed(
            "PUBLIC_URL",
            "https:// with a host and an optional port, without a path; http:// for localhost only",
            PublicUrl::parse,
        );
        let playground = reader.parsed("PLAYGROUND", "'on' or 'off'", |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        });
        let max_body_bytes = reader.bytes("MAX_BODY_BYTES");
        let body_budget_bytes = reader.bytes("BODY_BUDGET_BYTES");
        let max_body_bytes = max_body_bytes.unwrap_or(DEFAULT_MAX_BODY_BYTES);
        if body_budget_bytes.is_some_and(|budget| budget < max_body_bytes) {
            reader.problem("BODY_BUDGET_BYTES", "must not be less than MAX_BODY_BYTES");
        }
        let max_connections =
            reader.number("MAX_CONNECTIONS", 1, 1 << 30).and_then(|limit| usize::try_from(limit).ok());
        let upstream_timeout = reader.seconds("UPSTREAM_TIMEOUT_SECONDS", 1, DEFAULT_UPSTREAM_TIMEOUT);
        let repair_errors = reader.parsed("UPSTREAM_ERRORS", "'openai' or 'raw'", |text| match text {
            "openai" => Some(true),
            "raw" => Some(false),
            _ => None,
        });
        let thought_signatures =
            reader.parsed("THOUGHT_SIGNATURES", "'keep', 'skip-value' or 'off'", |text| match text {
                "keep" => Some(Policy::Keep),
                "skip-value" => Some(Policy::SkipValue),
                "off" => Some(Policy::Off),
                _ => None,
            });
        let skip_value = reader.parsed("THOUGHT_SIGNATURE_SKIP_VALUE", "up to 256 visible ASCII characters", |text| {
            let fits = text.len() <= 256 && text.bytes().all(|byte| byte.is_ascii_graphic());
            fits.then(|| text.to_owned())
        });
        let shutdown_grace = reader.seconds("SHUTDOWN_GRACE_SECONDS", 0, DEFAULT_SHUTDOWN_GRACE);
        let sse_keepalive = reader.number("SSE_KEEPALIVE_SECONDS", 1, MAX_SECONDS).map(Duration::from_secs);
        let metadata_host = reader.parsed("GCE_METADATA_HOST", "host or host:port", |text| {
            text.parse::<Authority>()
                .ok()
                .filter(|authority| !authority.as_str().contains('@'))
                .map(|_| text.to_owned())
        });
        // Google's library reads this one itself and takes the empty string for a file's name.
        const CREDENTIALS: &str = "GOOGLE_APPLICATION_CREDENTIALS";
        if environment.0.contains_key(CREDENTIALS) && environment.is_unset(CREDENTIALS) {
            reader.problem(CREDENTIALS, "is empty: set it to a file, or unset it");
        }
        let credentials_file = reader.text(CREDENTIALS).map(PathBuf::from);
        match keys {
            Some((keys, keys_file)) if reader.problems.is_empty() => Ok(Self {
                listen,
                tls,
                redirect_port,
                metrics_port,
                project,
                locations: locations.unwrap_or_else(|| vec!["global".to_owned()]),
                base_url,
                keys,
                keys_file,
                models,
                cors: cors.unwrap_or(AllowedOrigins::Listed(Vec::new())),
                public_url,
                playground: playground.unwrap_or(false),
                max_body_bytes,
                body_budget_bytes,
                max_connections,
                upstream_timeout,
                repair_errors: repair_errors.unwrap_or(true),
                thought_signatures: thought_signatures.unwrap_or_default(),
                skip_value: skip_value.unwrap_or_else(|| DEFAULT_SKIP_VALUE.to_owned()),
                shutdown_grace,
                sse_keepalive,
                metadata_host: metadata_host.unwrap_or_else(|| METADATA_HOST.to_owned()),
                credentials: CredentialsSource::Default(
                    credentials_file.clone().or_else(|| environment.well_known_credentials()),
                ),
                credentials_file,
            }),
            _ => Err(reader.problems),
        }
    }
}

/// How a variable would spell an alias: `gemini-2.5-pro` is `GEMINI_2_5_PRO`.
pub(crate) fn variable_spelling(alias: &str) -> String {
    let spelled = alias.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    spelled.collect()
}

fn parse_vertex_id(text: &str) -> Option<String> {
    let (publisher, model) = text.split_once('/')?;
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@:".contains(&byte))
    };
    (is_part(publisher) && is_part(model)).then(|| text.to_owned())
}

/// Locations, none of which stands twice.
fn parse_locations(text: &str) -> Option<Vec<String>> {
    let mut locations: Vec<String> = Vec::new();
    for name in text.split(',').map(str::trim) {
        if !is_location(name) || locations.len() == MAX_LOCATIONS || locations.iter().any(|known| known == name) {
            return None;
        }
        locations.push(name.to_owned());
    }
    Some(locations)
}

fn is_location(text: &str) -> bool {
    let shape = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    shape && !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.len() <= 63
}

pub(crate) fn parse_project(text: &str) -> Option<String> {
    let shape = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte));
    // `..` would be another path.
    let ends =
        text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    (shape && ends && text.len() <= 128).then(|| text.to_owned())
}

/// Whether a text is a service account's address, and so can be shown and pasted.
pub(crate) fn is_address(text: &str) -> bool {
    text.len() <= 254
        && text.contains('@')
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"@.-_".contains(&byte))
}

fn parse_base_url(text: &str) -> Option<BaseUrl> {
    let (tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return None,
    };
    let authority: Authority = rest.strip_suffix('/').unwrap_or(rest).parse().ok()?;
    let port_is_right = authority.port_u16().is_some() || authority.as_str() == authority.host();
    (!authority.host().is_empty() && !authority.as_str().contains('@') && port_is_right)
        .then_some(BaseUrl { tls, authority })
}

fn parse_origins(text: &str) -> Option<AllowedOrigins> {
    if text.trim() == "*" {
        return Some(AllowedOrigins::Any);
    }
    let origins: Option<Vec<String>> =
        text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(parse_origin).collect();
    origins.map(AllowedOrigins::Listed)
}

/// Names that an authority can issue for by TLS-ALPN-01: neither wildcards nor addresses.
fn parse_domains(text: &str) -> Option<Vec<String>> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_domain = |name: &str| {
        let last = name.rsplit('.').next().unwrap_or_default();
        name.len() <= 253
            && name.contains('.')
            && name.split('.').all(is_label)
            && !last.bytes().all(|byte| byte.is_ascii_digit())
    };
    let mut domains: Vec<String> = Vec::new();
    for name in text.split(',').map(|name| name.trim().to_ascii_lowercase()).filter(|name| !name.is_empty()) {
        if !is_domain(&name) || domains.len() == MAX_DOMAINS {
            return None;
        }
        if !domains.contains(&name) {
            domains.push(name);
        }
    }
    (!domains.is_empty()).then_some(domains)
}

fn parse_email(text: &str) -> Option<String> {
    let (name, host) = text.rsplit_once('@')?;
    let fits = !name.is_empty()
        && host.contains('.')
        && text.len() <= 254
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !b",:<>\"?".contains(&byte));
    fits.then(|| text.to_owned())
}

fn parse_directory_url(text: &str) -> Option<String> {
    let url: http::Uri = text.parse().ok()?;
    let fits =
        url.scheme_str() == Some("https") && url.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    fits.then(|| text.to_owned())
}

/// An origin as browsers send it. Other schemes than http belong to browser extensions and desktop shells.
fn parse_origin(text: &str) -> Option<String> {
    let (scheme, authority) = text.split_once("://")?;
    let scheme_is_right = !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let authority: Authority = authority.parse().ok()?;
    let plain = !authority.as_str().contains('@') && !authority.as_str().bytes().any(|byte| byte.is_ascii_uppercase());
    (scheme_is_right && plain).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEYS: &str = r#"[{"id":"a","key":"sk_live_0123456789abcdef"}]"#;

    fn parse(variables: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
        let mut environment = Environment::from([("API_KEYS_JSON", KEYS)]);
        for (name, value) in variables {
            environment.set(name, (*value).to_owned());
        }
        Config::parse(&environment)
    }

    fn problems(variables: &[(&str, &str)]) -> Vec<String> {
        parse(variables).unwrap_err().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(config.locations, ["global"]);
        assert_eq!(config.models["flash"].vertex_id, "google/gemini-2.5-flash");
        assert_eq!(config.models["pro-preview"].vertex_id, "google/gemini-3.1-pro-preview");
        assert_eq!(config.max_body_bytes, 32 << 20);
        assert!(config.repair_errors);
        assert_eq!(config.metadata_host, "metadata.google.internal");
    }

    #[test]
    fn empty_values_count_as_unset() {
        let config = parse(&[("PORT", ""), ("MODEL_FLASH_ID", ""), ("MODEL_X_LOCATION", "")]).unwrap();
        assert_eq!(config.listen.port(), 8080);
        assert_eq!(config.models.len(), 2);
    }

    #[test]
    fn every_problem_is_reported_and_no_value_is_shown() {
        let mut environment = Environment::default();
        let bad = [
            "PORT",
            "HOST",
            "GOOGLE_CLOUD_PROJECT",
            "GOOGLE_CLOUD_LOCATION",
            "GOOGLE_VERTEX_BASE_URL",
            "API_KEYS_JSON",
            "MODEL_FLASH_ID",
            "MODEL_ALIASES_JSON",
            "MODEL_FLASH_LOCATION",
            "CORS_ALLOW_ORIGINS",
            "PUBLIC_URL",
            "PLAYGROUND",
            "MAX_BODY_BYTES",
            "BODY_BUDGET_BYTES",
            "UPSTREAM_TIMEOUT_SECONDS",
            "UPSTREAM_ERRORS",
            "SHUTDOWN_GRACE_SECONDS",
            "SSE_KEEPALIVE_SECONDS",
            "THOUGHT_SIGNATURES",
            "THOUGHT_SIGNATURE_SKIP_VALUE",
            "GCE_METADATA_HOST",
            "TLS_CERT_FILE",
            "ACME_DOMAINS",
            "ACME_EMAIL",
            "ACME_DIRECTORY_URL",
            "HTTP_REDIRECT_PORT",
        ];
        for name in bad {
            environment.set(name, "S3CRET value!".to_owned());
        }
        let problems = Config::parse(&environment).unwrap_err();
        let mut named: Vec<&str> = problems.iter().map(|problem| problem.variable.as_str()).collect();
        named.sort_unstable();
        let mut expected = bad.to_vec();
        expected.retain(|name| *name != "TLS_CERT_FILE");
        // Named in its place, since it is what is missing.
        expected.push("TLS_KEY_FILE");
        expected.sort_unstable();
        assert_eq!(named, expected);
        assert!(!problems.iter().any(|problem| problem.message.contains("S3CRET")));
    }

    #[test]
    fn aliases_from_variables_and_json() {
        let config = parse(&[
            ("MODEL_FLASH_LITE_ID", "google/gemini-2.5-flash-lite"),
            ("MODEL_ALIASES_JSON", r#"{"gemini-2.5-pro":"google/gemini-2.5-pro","flash":"google/gemini-3.8-flash"}"#),
            ("MODEL_GEMINI_2_5_PRO_LOCATION", "europe-west4"),
        ])
        .unwrap();
        assert_eq!(config.models["flash-lite"].vertex_id, "google/gemini-2.5-flash-lite");
        assert_eq!(config.models["gemini-2.5-pro"].locations, Some(vec!["europe-west4".to_owned()]));
        assert_eq!(config.models["flash"].vertex_id, "google/gemini-3.8-flash");
    }

    #[test]
    fn lists_of_locations() {
        let config = parse(&[("GOOGLE_CLOUD_LOCATION", "us-central1, eu"), ("MODEL_FLASH_LOCATION", "us")]).unwrap();
        assert_eq!(config.locations, ["us-central1", "eu"]);
        assert_eq!(config.models["flash"].locations, Some(vec!["us".to_owned()]));
        for bad in ["eu,", ",eu", "eu,,us", "eu,eu", "eu us", "eu;us", "EU", "a,b,c,d,e,f,g,h,i"] {
            assert!(parse_locations(bad).is_none(), "{bad}");
        }
        assert_eq!(parse_locations("a,b,c,d,e,f,g,h").map(|list| list.len()), Some(MAX_LOCATIONS));
    }

    #[test]
    fn aliases_that_contradict_each_other_are_refused() {
        let said = problems(&[("MODEL_X_ID", "google/a"), ("MODEL_ALIASES_JSON", r#"{"x":"google/b"}"#)]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("MODEL_ALIASES_JSON: entry 1"));
        let twice = r#"{"x":"google/a","x":"google/b"}"#;
        assert_eq!(problems(&[("MODEL_ALIASES_JSON", twice)]), ["MODEL_ALIASES_JSON: names an alias twice"]);
        assert!(problems(&[("MODEL_NONE_LOCATION", "global")])[0].starts_with("MODEL_NONE_LOCATION: names no alias"));
        assert!(problems(&[("MODEL__ID", "google/a")])[0].starts_with("MODEL__ID: must spell"));
        for id in ["gemini-2.5-flash", "google/", "/x", "a/b/c", "google/a b", "google/\"x"] {
            assert_eq!(problems(&[("MODEL_FLASH_ID", id)]).len(), 1, "{id}");
        }
    }

    #[test]
    fn base_urls() {
        let url = parse_base_url("http://127.0.0.1:9/").unwrap();
        assert!(!url.tls);
        assert_eq!(url.authority.as_str(), "127.0.0.1:9");
        assert!(parse_base_url("https://proxy.example").unwrap().tls);
        for bad in
            ["ftp://x", "https://", "https://x/v1", "https://u:p@x", "x", "https://x?y", "http://x:", "http://x:99999"]
        {
            assert!(parse_base_url(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn origins() {
        let listed = parse_origins("https://a.example, http://localhost:3000").unwrap();
        assert!(listed.allows(b"https://a.example") && listed.allows(b"http://localhost:3000"));
        assert!(!listed.allows(b"https://a.example.evil") && !listed.allows(b"null"));
        assert!(parse_origins("*").unwrap().allows(b"https://any"));
        assert!(parse_origins("https://a.example/path").is_none());
        assert!(parse_origins("a.example").is_none());
    }

    #[test]
    fn certificates_come_from_one_place() {
        let acme = ("ACME_DOMAINS", "AI.example.com, b.example.com,ai.example.com");
        let config = parse(&[acme, ("ACME_CACHE_DIR", "/var/lib/acme"), ("ACME_EMAIL", "me@example.com")]).unwrap();
        let Some(tls::Source::Acme(settings)) = config.tls else { panic!("ACME was asked for") };
        assert_eq!(settings.domains, ["ai.example.com", "b.example.com"]);
        assert_eq!(settings.directory_url, LETS_ENCRYPT);
        assert!(problems(&[acme])[0].starts_with("ACME_CACHE_DIR: is required"));
        assert!(problems(&[("ACME_EMAIL", "me@example.com")])[0].starts_with("ACME_EMAIL: does nothing"));
        assert!(problems(&[("TLS_KEY_FILE", "/x")])[0].starts_with("TLS_CERT_FILE: is required"));
        assert!(problems(&[("HTTP_REDIRECT_PORT", "80")])[0].starts_with("HTTP_REDIRECT_PORT: needs TLS"));
        let on_itself = [acme, ("ACME_CACHE_DIR", "/x"), ("HTTP_REDIRECT_PORT", "8080")];
        assert_eq!(problems(&on_itself), ["HTTP_REDIRECT_PORT: must be another port than PORT"]);
        let both = [acme, ("ACME_CACHE_DIR", "/x"), ("TLS_CERT_FILE", "/x"), ("TLS_KEY_FILE", "/x")];
        assert!(problems(&both)[0].starts_with("ACME_DOMAINS: must not"));
    }

    #[test]
    fn domains_are_what_can_be_validated() {
        for bad in ["localhost", "*.example.com", "127.0.0.1", "a..b", "-a.example", "a_b.example", ",", "a.example/x"]
        {
            assert_eq!(parse_domains(bad), None, "{bad}");
        }
        for bad in ["x", "@example.com", "a@b", "a b@c.example", "a@b.example,c@d.example", "mailto:a@b.example"] {
            assert_eq!(parse_email(bad), None, "{bad}");
        }
        for bad in ["http://a.example/directory", "https://", "https://u:p@a.example", "a.example", "ftp://a.example"] {
            assert_eq!(parse_directory_url(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_makes_the_parser_panic_or_is_shown(value in "[^\\x00]{9,60}") {
            for name in ["PORT", "HOST", "GOOGLE_VERTEX_BASE_URL", "MODEL_ALIASES_JSON", "CORS_ALLOW_ORIGINS", "GCE_METADATA_HOST"] {
                if let Err(problems) = parse(&[(name, &value)]) {
                    prop_assert!(!problems.iter().any(|problem| problem.to_string().contains(&value)));
                }
            }
        }
    }
}
