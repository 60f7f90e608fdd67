//! What happened on one thread.
//!
//! A request is counted once, when its log line is written: a few atomic additions, no lock, nothing allocated but the
//! counters of a key id and alias when they are first seen.

use super::by_key::ByKey;
use super::histogram::Histogram;
use crate::access_log::{Outcome, Record};
use crate::models::Models;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The route that is counted by key and alias.
const CHAT_ROUTE: &str = "/v1/chat/completions";

/// Routes in the gateway's words, as the log has them; what is none of these is `unmatched`.
pub(super) const ROUTES: [&str; 14] = [
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
pub(super) const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];
pub(super) const CHAT_STATUSES: usize = STATUSES.len();
/// How a chat failed, by `error.type`; the first is that it did not.
pub(super) const ERRORS: [&str; 4] = ["", "4xx", "5xx", "cut"];
/// The buckets that the conventions ask for, in microseconds and as they are spelled.
pub(super) const DURATION_BOUNDS: [u64; 14] = [
    10_000, 20_000, 40_000, 80_000, 160_000, 320_000, 640_000, 1_280_000, 2_560_000, 5_120_000, 10_240_000, 20_480_000,
    40_960_000, 81_920_000,
];
pub(super) const DURATION_LABELS: [&str; 14] = [
    "0.01", "0.02", "0.04", "0.08", "0.16", "0.32", "0.64", "1.28", "2.56", "5.12", "10.24", "20.48", "40.96", "81.92",
];
pub(super) const FIRST_TOKEN_BOUNDS: [u64; 16] = [
    1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000,
    5_000_000, 7_500_000, 10_000_000,
];
pub(super) const FIRST_TOKEN_LABELS: [&str; 16] = [
    "0.001", "0.005", "0.01", "0.02", "0.04", "0.06", "0.08", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "7.5",
    "10",
];
pub(super) const TOKEN_BOUNDS: [u64; 14] =
    [1, 4, 16, 64, 256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304, 16_777_216, 67_108_864];
pub(super) const TOKEN_LABELS: [&str; 14] = [
    "1", "4", "16", "64", "256", "1024", "4096", "16384", "65536", "262144", "1048576", "4194304", "16777216",
    "67108864",
];
pub(super) const MICROSECONDS_PER_SECOND: u64 = 1_000_000;

/// What is counted on one thread, which nobody else writes to.
#[derive(Debug)]
pub(super) struct Counters {
    pub(super) connections: AtomicU64,
    pub(super) running: AtomicU64,
    pub(super) requests: [[AtomicU64; STATUSES.len()]; ROUTES.len()],
    /// Sorted by alias.
    pub(super) by_alias: Box<[OfAlias]>,
    pub(super) by_key: ByKey,
}

/// What is measured of one alias.
#[derive(Debug)]
pub(super) struct OfAlias {
    pub(super) alias: Arc<str>,
    model: Arc<str>,
    /// By [`ERRORS`].
    pub(super) duration: [Histogram; ERRORS.len()],
    pub(super) first_token: Histogram,
    pub(super) input: Histogram,
    pub(super) output: Histogram,
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
    pub(super) fn labels(&self) -> [(&'static str, &str); 4] {
        [
            ("gen_ai_operation_name", "chat"),
            ("gen_ai_provider_name", "gcp.vertex_ai"),
            ("gen_ai_request_model", &self.model),
            ("alias", &self.alias),
        ]
    }
}

impl Counters {
    /// Counters at zero, for so many ids of keys.
    pub(super) fn new(models: &Models, ids: usize) -> Self {
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
            connections: AtomicU64::new(0),
            running: AtomicU64::new(0),
            requests: Default::default(),
            by_key: ByKey::new(by_alias.len(), ids),
            by_alias,
        }
    }

    /// Counts a connection while it is open.
    pub(super) fn connection(&self) -> Ongoing<'_> {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Ongoing(&self.connections)
    }

    /// A request has begun.
    pub(super) fn begin(&self) {
        self.running.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that had begun has ended.
    pub(super) fn end(&self, record: &Record, outcome: Outcome, duration: Duration) {
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

    /// Adds what another thread has counted, of the same aliases.
    pub(super) fn absorb(&self, other: &Self) {
        absorb(&self.connections, &other.connections);
        absorb(&self.running, &other.running);
        absorb_all(self.requests.as_flattened(), other.requests.as_flattened());
        for (own, others) in self.by_alias.iter().zip(&other.by_alias) {
            own.duration.iter().zip(&others.duration).for_each(|(own, others)| own.absorb(others));
            own.first_token.absorb(&others.first_token);
            own.input.absorb(&others.input);
            own.output.absorb(&others.output);
        }
        self.by_key.absorb(&other.by_key);
    }
}

fn increment(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds another counter's number.
pub(super) fn absorb(counter: &AtomicU64, other: &AtomicU64) {
    counter.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
}

/// The same for many, in their order.
pub(super) fn absorb_all(counters: &[AtomicU64], others: &[AtomicU64]) {
    counters.iter().zip(others).for_each(|(counter, other)| absorb(counter, other));
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
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
