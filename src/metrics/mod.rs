//! What happened and how things stand, for Prometheus.
//!
//! Each thread counts for itself, so that none waits for a cache line that another one has written to; what all have
//! counted is added up when somebody asks. Families of OpenTelemetry's conventions for generative AI
//! have their names and buckets, spelled as Prometheus does; what those have no word for begins with `ai_proxy_`.
//! Labels have few values: aliases, ids of keys, routes in the gateway's words, outcomes.

mod by_key;
mod counters;
mod histogram;
mod process;
mod render;
mod text;

pub use counters::Ongoing;
pub use render::State;

use crate::App;
use crate::access_log::{Outcome, Record};
use crate::error::ApiError;
use crate::http1::{Answer, Exchange, Failure, Method};
use crate::models::Models;
use by_key::MAX_IDS;
use counters::Counters;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use text::CONTENT_TYPE;

/// The only path that the metrics port knows, and the route on the main one.
pub const PATH: &[u8] = b"/metrics";

/// One thread's counters, with those of all threads of the process.
#[derive(Debug)]
pub struct Metrics {
    started: SystemTime,
    own: Arc<Counters>,
    all: Arc<Mutex<Vec<Arc<Counters>>>>,
}

impl Metrics {
    /// Counters at zero, of the first thread.
    #[must_use]
    pub fn new(models: &Models) -> Self {
        let own = Arc::new(Counters::new(models, MAX_IDS));
        Self { started: SystemTime::now(), all: Arc::new(Mutex::new(vec![own.clone()])), own }
    }

    /// Those of a further thread.
    #[must_use]
    pub fn of_another_thread(&self, models: &Models) -> Self {
        let own = Arc::new(Counters::new(models, MAX_IDS));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(own.clone());
        Self { started: self.started, own, all: self.all.clone() }
    }

    /// Counts a connection while it is open.
    #[must_use]
    pub fn connection(&self) -> Ongoing<'_> {
        self.own.connection()
    }

    /// A request has begun.
    pub fn begin(&self) {
        self.own.begin();
    }

    /// A request that had begun has ended.
    pub fn end(&self, record: &Record, outcome: Outcome, duration: Duration) {
        self.own.end(record, outcome, duration);
    }

    /// Everything that all threads have counted, in Prometheus' text format.
    #[must_use]
    pub fn render(&self, models: &Models, state: State) -> Vec<u8> {
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        // With room for whatever each of them knows, so that no id is ever counted elsewhere than before.
        let sum = Counters::new(models, MAX_IDS * all.len());
        all.iter().for_each(|thread| sum.absorb(thread));
        drop(all);
        sum.render(self.started, models, state)
    }
}

/// The metrics as an answer.
#[must_use]
pub fn page(app: &App) -> Answer {
    let state = State {
        body_budget: (app.budget.used(), app.budget.limit()),
        tasks: app.runtimes.iter().map(|runtime| runtime.metrics().num_alive_tasks() as u64).sum(),
        connections: app.connections.figures(),
        keys: app.keys.of_all_threads().reloads(),
        bearer_is_ready: app.vertex.is_ready(),
        bearer_age: app.vertex.bearer_age(),
    };
    let body = app.writer.metrics().render(&app.models, state);
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
