//! Counters and how things stand, as Prometheus reads them.

use super::counters::{
    Counters, DURATION_LABELS, ERRORS, FIRST_TOKEN_LABELS, MICROSECONDS_PER_SECOND, ROUTES, STATUSES, TOKEN_LABELS,
};
use super::process;
use super::text::{Kind, Text};
use crate::access_log::Outcome;
use crate::connections::Figures;
use crate::keys::Reloads;
use crate::locations::ExtraAttempts;
use crate::models::Models;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The counts of the log line, in its order.
const TOKEN_TYPES: [&str; 4] = ["prompt", "cached", "completion", "reasoning"];

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

impl Counters {
    /// Everything in Prometheus' text format, of a process that began at `started`.
    pub(super) fn render(&self, started: SystemTime, models: &Models, state: State) -> Vec<u8> {
        let mut text = Text::default();
        self.append_generative(&mut text);
        self.append_chats(&mut text);
        append_extra_attempts(&mut text, models);
        self.append_state(&mut text, started, state);
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
    fn append_state(&self, text: &mut Text, started: SystemTime, state: State) {
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
        let started = started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
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
