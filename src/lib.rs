//! ai-proxy: a gateway from OpenAI-style clients to Gemini on Vertex AI.
//!
//! The path of a request, one way only:
//!
//! `server` accepts if `connections` has a place → one of the `workers` takes it to its thread (→ `tls` shakes hands) → `http1` reads the head → `routes` matches and asks `keys` → `chat`: `http1` reads the body within
//! `budget` → `body` finds the model → `models` resolves it → `signatures` finds
//! what Gemini 3 would miss → `body` splices → `credentials` give the bearer →
//! `upstream` sends (over HTTP/2 its head in `hpack`) → `relay` (with `repair` for errors) passes the answer on, with
//! a `tap` that only looks (for `tokens` and `signatures`) and a `keepalive` for silent streams (where the `tail` allows it) → `access_log` says what happened, and `metrics` count it.
//!
//! What has to end in time has an `alarm`. What the gateway itself takes is its `own_time`. `config` is read once, before all that; `command` holds what `main` can run.

pub mod access_log;
pub mod alarm;
pub mod body;
pub mod budget;
pub mod chat;
mod clock;
pub mod command;
pub mod config;
pub mod connections;
pub mod credentials;
pub mod error;
pub mod host;
pub mod hpack;
pub mod http1;
pub mod json;
pub mod keepalive;
pub mod keys;
pub mod locations;
pub mod log;
pub mod metadata;
pub mod metrics;
pub mod models;
mod numbers;
pub mod own_time;
pub mod pages;
mod random;
pub mod redirect;
pub mod relay;
pub mod repair;
pub mod routes;
mod runtime;
pub mod server;
pub mod signatures;
pub mod tail;
pub mod tap;
pub mod tls;
pub mod tokens;
pub mod transport;
pub mod upstream;
pub mod usage;
mod workers;

use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// Everything that the requests on one thread share: built once, never changed.
///
/// What each request takes hold of and lets go, its thread has for itself, connections to upstream among it. What there
/// is to be one of in the process is shared with the other threads: the budget, what keys have used, signatures.
pub struct App {
    /// Of all threads.
    runtimes: Arc<[Handle]>,
    log: log::Log,
    writer: Arc<access_log::Writer>,
    connections: Arc<connections::Connections>,
    keys: keys::KeysOfThread,
    models: models::Models,
    signatures: signatures::Signatures,
    cors: Arc<config::AllowedOrigins>,
    vertex: upstream::Vertex,
    budget: Arc<budget::BodyBudget>,
    max_body_bytes: usize,
    repair_errors: bool,
    shutdown_grace: Duration,
    sse_keepalive: Option<Duration>,
    /// Where `redirect` sends browsers.
    https_port: u16,
    pages: Arc<pages::Pages>,
}

impl App {
    /// Builds what requests share, once for each of the threads with these runtimes, of which the first is the caller's,
    /// and starts fetching a bearer.
    ///
    /// # Errors
    /// When there are no random bytes or a URL cannot be built.
    async fn for_each(
        runtimes: Vec<Handle>,
        config: config::Config,
        project: &str,
        tls: &Arc<rustls::ClientConfig>,
        tls_ends_here: bool,
        log: log::Log,
    ) -> Result<Vec<Arc<Self>>, String> {
        let models = models::Models::new(&config.models, &config.locations);
        let keys = Arc::new(keys::Keys::new(&config.keys, &models));
        if let Some(file) = config.keys_file.clone() {
            keys::watch(file, keys.clone(), models.of_another_thread(), log.clone())
                .map_err(|error| format!("cannot watch API_KEYS_FILE: {error}"))?;
        }
        let credentials =
            credentials::Credentials::start(config.credentials.clone(), &config.metadata_host, log.clone());
        let vertex = upstream::Vertex::new(&config, project, &models, credentials, tls, runtimes.len())
            .map_err(|error| format!("cannot build upstream's URL: {error}"))?;
        let first = Arc::new(Self {
            runtimes: runtimes.into(),
            connections: connections(&config, &log),
            writer: Arc::new(access_log::Writer::new(log.clone(), &models, project, random_number()?)),
            log,
            vertex,
            budget: config.body_budget_bytes.map_or_else(budget::BodyBudget::of_machine, budget::BodyBudget::new),
            pages: Arc::new(pages::Pages::new(pages::Facts {
                models: &models,
                locations: &config.locations,
                public_url: config.public_url.as_ref(),
                tls_ends_here,
                playground: config.playground,
            })),
            signatures: signatures::Signatures::new(config.thought_signatures, &config.skip_value),
            models,
            keys: keys::KeysOfThread::new(keys),
            cors: config.cors.into(),
            max_body_bytes: config.max_body_bytes,
            repair_errors: config.repair_errors,
            shutdown_grace: config.shutdown_grace,
            sse_keepalive: config.sse_keepalive,
            https_port: config.listen.port(),
        });
        let mut all = vec![first.clone()];
        for runtime in first.runtimes.iter().skip(1) {
            let (first, random) = (first.clone(), random_number()?);
            // There, so that no two threads' have a cache line in common.
            let built = runtime.spawn(async move { Arc::new(first.for_another_thread(random)) });
            all.push(built.await.map_err(|error| format!("a thread does not start: {error}"))?);
        }
        Ok(all)
    }

    /// To be called on that thread.
    fn for_another_thread(&self, random: u64) -> Self {
        let models = self.models.of_another_thread();
        Self {
            runtimes: self.runtimes.clone(),
            log: self.log.clone(),
            writer: Arc::new(self.writer.of_another_thread(&models, random)),
            connections: self.connections.clone(),
            keys: keys::KeysOfThread::new(self.keys.of_all_threads().clone()),
            models,
            signatures: self.signatures.clone(),
            cors: self.cors.clone(),
            vertex: self.vertex.of_another_thread(),
            budget: self.budget.clone(),
            pages: self.pages.clone(),
            ..*self
        }
    }
}

fn random_number() -> Result<u64, String> {
    let mut bytes = [0; 8];
    random::fill(&mut bytes).map_err(|_| "the system gives no random bytes".to_owned())?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Raises the limit of descriptors and finds out how many connections that is good for.
fn connections(config: &config::Config, log: &log::Log) -> Arc<connections::Connections> {
    let descriptors = connections::raise_limit();
    let upstream_is_http1 = config.base_url.as_ref().is_some_and(|base| !base.tls);
    let default = connections::default_limit(descriptors, budget::memory_limit(), upstream_is_http1);
    let limit = config.max_connections.unwrap_or(default);
    if limit > descriptors {
        let message =
            format!("MAX_CONNECTIONS is more than the {descriptors} files that may be open: raise that limit");
        log.event(log::Severity::Warning, &message);
    }
    connections::Connections::new(limit, descriptors)
}
