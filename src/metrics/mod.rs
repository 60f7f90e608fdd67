//! What happened and how things stand, for Prometheus.
//!
//! A request is counted once, when its log line is written: a few atomic additions, no lock, nothing allocated but the
//! counters of a key id and alias when they are first seen. Families of OpenTelemetry's conventions for generative AI
//! have their names and buckets, spelled as Prometheus does; what those have no word for begins with `ai_proxy_`.
//! Labels have few values: aliases, ids of keys, routes in the gateway's words, outcomes.

mod by_key;
mod histogram;
mod process;
mod text;

use crate::App;
use crate::access_log::{Outcome, Record};
use crate::connections::Figures;
use crate::error::ApiError;
use crate::http1::{Answer, Exchange, Failure, Method};
use crate::keys::Reloads;
use crate::locations::ExtraAttempts;
use crate::models::Models;
use by_key::ByKey;
use histogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use text::{CONTENT_TYPE, Kind, Text};

/// The only path that the metrics port knows, and the route on the main one.
pub const PATH: &[u8] = b"/metrics";
/// The route that is counted by key and alias.
const CHAT_ROUTE: &str = "/v1/chat/completions";

/// Routes in the gateway's words, as the log has them; what is none of these is `unmatched`.
const ROUTES: [&str; 14] = [
    CHAT_ROUTE,
    "/v1/models",
    "/v1/models/{alias}",
    "/health",
    "/healthz",
    "/readyz",
    "/",
    "/docs",
    "/playground",
    "/openapi.json",
    "/assets/{digest}/{name}",
    "/metrics",
    "redirect",
    "unmatched",
];

/// Classes of status; the first is none at all.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
const CHAT_STATUSES: usize = STATUSES.len();
/// How a chat failed, by `error.type`; the first is that it did not.
const ERRORS: [&str; 4] = ["", "4xx", "5xx", "cut"];
/// The counts of the log line, in its order.
const TOKEN_TYPES: [&str; 4] = ["prompt", "cached", "completion", "reasoning"];

/// The buckets that the conventions ask for, in microseconds and as they are spelled.
const DURATION_BOUNDS: [u64; 14] = [
    10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_560_000, 5_120_000, 10_240_000, 20_480_000,
    40_960_000, 81_920_000,
];
const DURATION_LABELS: [&str; 14] = [
    "0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64", "1.28", "2.56", "5.12", "10.24", "20.48", "40.96", "81.92",
];
const FIRST_TOKEN_BOUNDS: [u64; 16] = [
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];
const FIRST_TOKEN_LABELS: [&str; 16] = [
    "0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5",
    "10",
];
const TOKEN_BOUNDS: [u64; 14] =
    [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];
const TOKEN_LABELS: [&str; 14] = [
    "1", "4", "16", "64", "256", "1024", "4096", "16384", "65536", "262144", "1048576", "4194304", "16777216",
    "67108864",
];
const MICROSECONDS_PER_SECOND: u64 = 1_000_000;

/// All counters of the process.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    connections: AtomicU64,
    running: AtomicU64,
    requests: [[AtomicU64; STATUSES.len()]; ROUTES.len()],
    /// Sorted by alias.
    by_alias: Box<[OfAlias]>,
    by_key: ByKey,
}

/// What is measured of one alias.
#[derive(Debug)]
struct OfAlias {
    alias: Arc<str>,
    model: Arc<str>,
    /// By [`ERRORS`].
    duration: [Histogram; ERRORS.len()],
    first_token: Histogram,
    input: Histogram,
    output: Histogram,
}

/// How things stand in other parts of the gateway.
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Bytes of request bodies that are held, and how many may be.
    pub body_budget: (usize, usize),
    /// Tasks of the runtime.
    pub tasks: u64,
    /// Places for connections.
    pub connections: Figures,
    /// Whether a bearer is held that is good.
    pub bearer_is_ready: bool,
    /// What has become of changes of the keys file.
    pub keys: Reloads,
    /// Since when the bearer is in use.
    pub bearer_age: Option<Duration>,
}

/// Counts something that goes on, until it is dropped.
#[derive(Debug)]
pub struct Ongoing<'a>(&'a AtomicU64);

impl Drop for Ongoing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl OfAlias {
    fn labels(&self) -> [(&'static str, &str); 4] {
        [
            ("gen_ai_operation_name", "chat"),
            ("gen_ai_provider_name", "gcp.vertex_ai"),
            ("gen_ai_request_model", &self.model),
            ("alias", &self.alias),
        ]
    }
}

impl Metrics {
    /// Counters at zero.
    #[must_use]
    pub fn new(models: &Models) -> Self {
        let by_alias: Box<[OfAlias]> = models
            .iter()
            .map(|model| OfAlias {
                alias: model.alias.clone(),
                model: model.vertex_id.clone(),
                duration: [(); ERRORS.len()].map(|()| Histogram::new(&DURATION_BOUNDS)),
                first_token: Histogram::new(&FIRST_TOKEN_BOUNDS),
                input: Histogram::new(&TOKEN_BOUNDS),
                output: Histogram::new(&TOKEN_BOUNDS),
            })
            .collect();
        Self {
            started: SystemTime::now(),
            connections: AtomicU64::new(0),
            running: AtomicU64::new(0),
            requests: Default::default(),
            by_key: ByKey::new(by_alias.len()),
            by_alias,
        }
    }

    /// Counts a connection while it is open.
    #[must_use]
    pub fn connection(&self) -> Ongoing<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ongoing(&self.connections)
    }

    /// A request has begun.
    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that had begun has ended.
    pub fn end(&self, record: &Record, outcome: Outcome, duration: Duration) {
        self.running.fetch_sub(1, Ordering::Relaxed);
        let route = ROUTES.iter().position(|route| *route == record.route).unwrap_or(ROUTES.len() - 1);
        let status = record.status.map_or(0, |status| usize::from(status / 100)).min(STATUSES.len() - 1);
        increment(self.requests.get(route).and_then(|statuses| statuses.get(status)));
        if record.route == CHAT_ROUTE {
            self.end_chat(record, outcome, duration, status);
        }
    }

    fn end_chat(&self, record: &Record, outcome: Outcome, duration: Duration, status: usize) {
        let find = |alias: &Arc<str>| self.by_alias.binary_search_by(|known| known.alias.cmp(alias)).ok();
        let alias = record.alias.as_ref().and_then(find);
        // Nobody's counters would say who tries keys: those requests have none.
        if let Some(chats) =
            record.key_id.as_ref().and_then(|id| self.by_key.chats(id, alias.unwrap_or(self.by_alias.len())))
        {
            increment(chats.ended.get(status).and_then(|outcomes| outcomes.get(outcome as usize)));
            match &record.tokens {
                Some(tokens) => {
                    let counts = [tokens.prompt, tokens.cached, tokens.answer, tokens.thinking];
                    for (sum, count) in chats.tokens.iter().zip(counts) {
                        sum.fetch_add(count.unwrap_or(0), Ordering::Relaxed);
                    }
                }
                None if record.usage_is_missing() => increment(Some(&chats.unknown_usage)),
                None => {}
            }
        }
        let Some(of_alias) = alias.and_then(|alias| self.by_alias.get(alias)) else { return };
        let error = match (status, outcome) {
            (4, _) => 1,
            (5, _) => 2,
            (_, Outcome::Completed | Outcome::EndedWithoutDone | Outcome::Rejected) => 0,
            _ => 3,
        };
        if let Some(durations) = of_alias.duration.get(error) {
            durations.add(microseconds(duration));
        }
        if let Some(first_byte) = record.first_byte.filter(|_| status == 2 && record.stream == Some(true)) {
            of_alias.first_token.add(microseconds(first_byte));
        }
        if let Some(tokens) = &record.tokens {
            of_alias.input.add(tokens.prompt.unwrap_or(0));
            of_alias.output.add(tokens.output());
        }
    }

    /// Everything in Prometheus' text format.
    #[must_use]
    pub fn render(&self, models: &Models, state: State) -> Vec<u8> {
        let mut text = Text::default();
        self.append_generative(&mut text);
        self.append_chats(&mut text);
        append_extra_attempts(&mut text, models);
        self.append_state(&mut text, state);
        process::append(&mut text);
        text.into_bytes()
    }

    /// The families of the conventions.
    fn append_generative(&self, text: &mut Text) {
        const DURATION: &str = "gen_ai_server_request_duration_seconds";
        const FIRST_TOKEN: &str = "gen_ai_server_time_to_first_token_seconds";
        const TOKENS: &str = "gen_ai_client_token_usage";
        text.family(DURATION, Kind::Histogram, "Chats, from the request's head to the answer's last byte.");
        for of_alias in &self.by_alias {
            for (histogram, error) in of_alias.duration.iter().zip(ERRORS) {
                let mut labels = of_alias.labels().to_vec();
                if !error.is_empty() {
                    labels.push(("error_type", error));
                }
                text.histogram(DURATION, &labels, histogram, &DURATION_LABELS, MICROSECONDS_PER_SECOND);
            }
        }
        text.family(FIRST_TOKEN, Kind::Histogram, "Streams, from the request's head to the first byte of the answer.");
        for of_alias in &self.by_alias {
            let labels = of_alias.labels();
            text.histogram(FIRST_TOKEN, &labels, &of_alias.first_token, &FIRST_TOKEN_LABELS, MICROSECONDS_PER_SECOND);
        }
        let help = "Tokens of a chat as Vertex AI tells them: input with cached ones, output with thinking.";
        text.family(TOKENS, Kind::Histogram, help);
        for of_alias in &self.by_alias {
            for (kind, histogram) in [("input", &of_alias.input), ("output", &of_alias.output)] {
                let mut labels = of_alias.labels().to_vec();
                labels.push(("gen_ai_token_type", kind));
                text.histogram(TOKENS, &labels, histogram, &TOKEN_LABELS, 1);
            }
        }
    }

    /// Who did what.
    fn append_chats(&self, text: &mut Text) {
        const CHATS: &str = "ai_proxy_chats_total";
        const TOKENS: &str = "ai_proxy_tokens_total";
        const UNKNOWN: &str = "ai_proxy_chats_of_unknown_usage_total";
        let alias = |number: usize| self.by_alias.get(number).map_or("", |of_alias| &*of_alias.alias);
        text.family(CHATS, Kind::Counter, "Chats that have ended, by key id, alias, class of status, and outcome.");
        for (key, number, chats) in self.by_key.iter() {
            for (outcomes, status) in chats.ended.iter().zip(STATUSES) {
                for (count, outcome) in outcomes.iter().zip(Outcome::ALL) {
                    let count = count.load(Ordering::Relaxed);
                    if count > 0 {
                        let outcome = outcome.as_str();
                        let labels = [("key", key), ("alias", alias(number)), ("status", status), ("outcome", outcome)];
                        text.sample(CHATS, &labels, count);
                    }
                }
            }
        }
        let help =
            "Tokens as Vertex AI tells them; cached ones are part of the prompt, reasoning is apart from completion.";
        text.family(TOKENS, Kind::Counter, help);
        for (key, number, chats) in self.by_key.iter() {
            for (count, kind) in chats.read_tokens().into_iter().zip(TOKEN_TYPES) {
                text.sample(TOKENS, &[("key", key), ("alias", alias(number)), ("type", kind)], count);
            }
        }
        text.family(UNKNOWN, Kind::Counter, "Chats that may have cost tokens which nobody told.");
        for (key, number, chats) in self.by_key.iter() {
            let count = chats.unknown_usage.load(Ordering::Relaxed);
            text.sample(UNKNOWN, &[("key", key), ("alias", alias(number))], count);
        }
        const REQUESTS: &str = "ai_proxy_http_requests_total";
        text.family(REQUESTS, Kind::Counter, "Requests that have ended, by route and class of status.");
        for (statuses, route) in self.requests.iter().zip(ROUTES) {
            for (count, status) in statuses.iter().zip(STATUSES) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    text.sample(REQUESTS, &[("route", route), ("status", status)], count);
                }
            }
        }
    }

    /// How things stand.
    fn append_state(&self, text: &mut Text, state: State) {
        let mut gauge = |name: &str, help: &str, value: u64| text.single(name, Kind::Gauge, help, value);
        let running = self.running.load(Ordering::Relaxed);
        gauge("ai_proxy_requests_running", "Requests that have begun and not ended, this one among them.", running);
        let connections = self.connections.load(Ordering::Relaxed);
        gauge("ai_proxy_connections_open", "Connections of clients, idle ones too.", connections);
        gauge("ai_proxy_tasks", "Tasks of the runtime.", state.tasks);
        let limit = state.connections.limit as u64;
        gauge("ai_proxy_connections_limit", "Connections of clients that may be open.", limit);
        let (used, limit) = state.body_budget;
        gauge("ai_proxy_body_budget_used_bytes", "Request bodies that are held.", used as u64);
        gauge("ai_proxy_body_budget_limit_bytes", "Request bodies that may be held.", limit as u64);
        let is_ready = u64::from(state.bearer_is_ready);
        gauge("ai_proxy_bearer_ready", "Whether a Google bearer is held that is good.", is_ready);
        if let Some(age) = state.bearer_age {
            gauge("ai_proxy_bearer_age_seconds", "Since when the bearer in hand is in use.", age.as_secs());
        }
        let is_broken = u64::from(state.keys.file_is_broken);
        gauge("ai_proxy_keys_file_broken", "Whether the keys file, as it is now, is not what is in use.", is_broken);
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        gauge("process_start_time_seconds", "When the process started, in Unix time.", started);
        const REFUSED: &str = "ai_proxy_connections_refused_total";
        text.family(REFUSED, Kind::Counter, "Connections beyond the limit, by what they were told.");
        for (told, count) in [("503", state.connections.answered), ("nothing", state.connections.unanswered)] {
            text.sample(REFUSED, &[("told", told)], count);
        }
        let help = "Idle connections that were closed to make room for others.";
        text.single("ai_proxy_connections_made_room_total", Kind::Counter, help, state.connections.asked_to_leave);
        text.family("ai_proxy_keys_reloads_total", Kind::Counter, "Changes of the keys file, by what became of them.");
        for (result, count) in [("ok", state.keys.ok), ("failed", state.keys.failed)] {
            text.sample("ai_proxy_keys_reloads_total", &[("result", result)], count);
        }
        text.family("ai_proxy_build_info", Kind::Gauge, "The version.");
        text.sample("ai_proxy_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    }
}

/// How often a request was tried at a further location, for aliases that have several.
fn append_extra_attempts(text: &mut Text, models: &Models) {
    const MADE: &str = "ai_proxy_extra_attempts_total";
    const UNPAID: &str = "ai_proxy_extra_attempts_over_budget_total";
    let all = models.iter().filter_map(|model| Some((&*model.alias, model.route.extra_attempts()?)));
    let all: Vec<(&str, ExtraAttempts)> = all.collect();
    // A family without a sample is none.
    if all.is_empty() {
        return;
    }
    text.family(MADE, Kind::Counter, "Attempts at further locations.");
    for (alias, extra) in &all {
        text.sample(MADE, &[("alias", alias)], extra.made);
    }
    text.family(
        UNPAID,
        Kind::Counter,
        "Attempts at further locations that were not made, since there had been too many.",
    );
    for (alias, extra) in &all {
        text.sample(UNPAID, &[("alias", alias)], extra.unpaid);
    }
}

fn increment(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The metrics as an answer.
#[must_use]
pub fn page(app: &App) -> Answer {
    let state = State {
        body_budget: (app.budget.used(), app.budget.limit()),
        tasks: app.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks() as u64).sum(),
        connections: app.connections.figures(),
        keys: app.keys.reloads(),
        bearer_is_ready: app.vertex.is_ready(),
        bearer_age: app.vertex.bearer_age(),
    };
    let body = app.metrics.render(&app.models, state);
    Answer { status: 200, content_type: CONTENT_TYPE, fields: Vec::new(), vary: "", body: body.into() }
}

/// Answers one request on the metrics port, which knows nothing else and asks for no key.
///
/// # Errors
/// The refusal, or that the client is gone.
pub async fn answer(app: &App, exchange: &mut Exchange<'_>) -> Result<(), Failure> {
    if exchange.head.shared_path() != PATH {
        return Err(ApiError::NotFound.into());
    }
    exchange.record.route = "/metrics";
    match exchange.head.method {
        Method::Get | Method::Head => exchange.answer(page(app)).await,
        _ => Err(ApiError::MethodNotAllowed("GET, HEAD").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_spelled_as_they_are() {
        let check = |bounds: &[u64], labels: &[&str], unit: u64| {
            assert_eq!(bounds.len(), labels.len());
            for (bound, label) in bounds.iter().zip(labels) {
                assert_eq!(*bound as f64 / unit as f64, label.parse::<f64>().unwrap());
            }
        };
        check(&DURATION_BOUNDS, &DURATION_LABELS, MICROSECONDS_PER_SECOND);
        check(&FIRST_TOKEN_BOUNDS, &FIRST_TOKEN_LABELS, MICROSECONDS_PER_SECOND);
        check(&TOKEN_BOUNDS, &TOKEN_LABELS, 1);
    }

    #[test]
    fn outcomes_are_numbered_in_their_order() {
        for (number, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, number);
        }
    }
}
