//! One bearer for all requests: waited for, kept, and built anew when Google's library gives up.
//!
//! `google-cloud-auth` finds the credentials, fetches tokens in the background and refreshes them ahead of expiry. What
//! it lacks is added here: it stops for ever after one permanent error and repeats a transient one for ten seconds, so
//! a *generation* of it that fails is replaced by a new one. One keeper task does that; requests only wait for it.

use crate::config::CredentialsSource;
use crate::log::{Log, Severity};
use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials as Library, EntityTag, mds};
use http::{Extensions, HeaderMap, HeaderValue};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

/// The scope that Vertex AI asks for.
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// How long a request waits for a bearer before it is answered with 503.
const REQUEST_WAIT: Duration = Duration::from_secs(5);
/// How long one attempt may take: a metadata server answers in milliseconds, a token endpoint in a second.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after the first failure, doubled after each further one, and the shortest between two attempts.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts that nobody asked for.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What goes upstream to prove who asks. Never printed.
#[derive(Clone)]
pub struct Bearer {
    authorization: HeaderValue,
    quota_project: Option<HeaderValue>,
    generation: u64,
}

impl Bearer {
    /// Takes the two fields that matter out of what the library gives.
    fn from_headers(mut headers: HeaderMap, generation: u64) -> Option<Self> {
        let mut authorization = headers.remove(http::header::AUTHORIZATION)?;
        authorization.set_sensitive(true);
        Some(Self { authorization, quota_project: headers.remove("x-goog-user-project"), generation })
    }

    /// Adds the header fields to a request.
    pub fn attach(&self, headers: &mut HeaderMap) {
        headers.insert(http::header::AUTHORIZATION, self.authorization.clone());
        if let Some(project) = &self.quota_project {
            headers.insert("x-goog-user-project", project.clone());
        }
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bearer(hidden, generation {})", self.generation)
    }
}

/// No bearer could be had in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no credentials at the moment")]
pub struct Unavailable;

/// The bearer and the task that keeps it.
#[derive(Clone, Debug)]
pub struct Credentials(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: watch::Sender<Option<Arc<Generation>>>,
    /// Generations up to this number are no good.
    rejected: watch::Sender<u64>,
    /// Somebody waits: a pause may end early.
    demand: Notify,
}

/// One object of Google's library that has given a bearer.
#[derive(Debug)]
struct Generation {
    number: u64,
    library: Library,
    latest: Mutex<(EntityTag, Bearer)>,
}

impl Generation {
    /// The library's bearer of this moment; waits while it refreshes an expired one.
    async fn bearer(&self) -> Option<Bearer> {
        let (tag, latest) = self.latest.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut extensions = Extensions::new();
        extensions.insert(tag);
        match self.library.headers(extensions).await.ok()? {
            CacheableResource::NotModified => Some(latest),
            CacheableResource::New { entity_tag, data } => {
                let bearer = Bearer::from_headers(data, self.number)?;
                *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = (entity_tag, bearer.clone());
                Some(bearer)
            }
        }
    }
}

impl Credentials {
    /// Starts fetching.
    #[must_use]
    pub fn start(source: CredentialsSource, metadata_host: &str, log: Log) -> Self {
        let shared = Arc::new(Shared {
            current: watch::Sender::new(None),
            rejected: watch::Sender::new(0),
            demand: Notify::new(),
        });
        tokio::spawn(keep(shared.clone(), source, format!("http://{metadata_host}"), log));
        Self(shared)
    }

    /// Whether a bearer has been fetched.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.current.borrow().is_some()
    }

    /// The bearer; waits a few seconds if there is none.
    ///
    /// # Errors
    /// When none could be had in time.
    pub async fn bearer(&self) -> Result<Bearer, Unavailable> {
        self.after(0).await
    }

    /// A newer bearer than one that upstream did not accept.
    ///
    /// # Errors
    /// When none could be had in time.
    pub async fn replace(&self, rejected: &Bearer) -> Result<Bearer, Unavailable> {
        self.reject(rejected.generation);
        self.after(rejected.generation).await
    }

    fn reject(&self, number: u64) {
        self.0.rejected.send_if_modified(|highest| {
            let newer = number > *highest;
            *highest = number.max(*highest);
            newer
        });
    }

    async fn after(&self, mut number: u64) -> Result<Bearer, Unavailable> {
        let deadline = Instant::now() + REQUEST_WAIT;
        loop {
            let generation = self.generation_after(number, deadline).await?;
            match timeout_at(deadline, generation.bearer()).await {
                Ok(Some(bearer)) => return Ok(bearer),
                Ok(None) => {
                    number = generation.number;
                    self.reject(number);
                }
                Err(_) => return Err(Unavailable),
            }
        }
    }

    /// The current generation, if it is newer than `number`, or else the next one.
    async fn generation_after(&self, number: u64, deadline: Instant) -> Result<Arc<Generation>, Unavailable> {
        let newer = |current: &Option<Arc<Generation>>| current.as_ref().is_some_and(|current| current.number > number);
        if let Some(current) = self.0.current.borrow().as_ref().filter(|current| current.number > number) {
            return Ok(current.clone());
        }
        self.0.demand.notify_one();
        let mut watcher = self.0.current.subscribe();
        let found = timeout_at(deadline, watcher.wait_for(newer)).await.map_err(|_| Unavailable)?;
        found.ok().and_then(|current| current.clone()).ok_or(Unavailable)
    }
}

/// The keeper: makes a generation, waits until it is no good, makes the next.
async fn keep(shared: Arc<Shared>, source: CredentialsSource, metadata_url: String, log: Log) {
    let mut rejected = shared.rejected.subscribe();
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        let begun = Instant::now();
        // In a task of its own: the library panics where it finds no certificates to trust.
        let attempt = tokio::spawn(first_bearer(source.clone(), metadata_url.clone(), number));
        let generation = match timeout(FETCH_TIMEOUT, attempt).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err("the credentials library failed".to_owned()),
            Err(_) => Err(format!("no answer within {} seconds", FETCH_TIMEOUT.as_secs())),
        };
        match generation {
            Ok(generation) => {
                if number > 1 || pause > FIRST_PAUSE {
                    log.event(Severity::Info, "Google credentials are available again");
                }
                pause = FIRST_PAUSE;
                shared.current.send_replace(Some(Arc::new(generation)));
                let _ = rejected.wait_for(|highest| *highest >= number).await;
            }
            Err(reason) => {
                log.event(Severity::Error, &format!("Google credentials are not available: {reason}"));
                tokio::select! {
                    () = sleep(pause) => {}
                    () = shared.demand.notified() => {}
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
        sleep_until(begun + FIRST_PAUSE).await;
    }
}

/// Builds the library's credentials and waits for their first bearer.
async fn first_bearer(source: CredentialsSource, metadata_url: String, number: u64) -> Result<Generation, String> {
    let library = match source {
        CredentialsSource::Default => Builder::default().with_scopes([SCOPE]).build(),
        CredentialsSource::MetadataServer => {
            mds::Builder::default().with_endpoint(metadata_url).with_scopes([SCOPE]).build()
        }
    }
    .map_err(|error| with_causes(&error))?;
    match library.headers(Extensions::new()).await {
        Ok(CacheableResource::New { entity_tag, data }) => {
            let bearer = Bearer::from_headers(data, number).ok_or("they have no authorization header")?;
            Ok(Generation { number, library, latest: Mutex::new((entity_tag, bearer)) })
        }
        Ok(CacheableResource::NotModified) => Err("they came without a token".to_owned()),
        Err(error) => Err(with_causes(&error)),
    }
}

/// An error with its causes, without the bodies of answers: those could hold a secret.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let message = error.to_string();
        let message = message.split("body=<").next().unwrap_or_default().trim_end_matches([' ', ',']);
        if !text.contains(message) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(message);
        }
        next = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearers_are_never_printed() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer ya29.secret"));
        headers.insert("x-goog-user-project", HeaderValue::from_static("quota"));
        let bearer = Bearer::from_headers(headers, 1).unwrap();
        assert!(!format!("{bearer:?}").contains("ya29"));
        let mut out = HeaderMap::new();
        bearer.attach(&mut out);
        assert!(out["authorization"].is_sensitive());
        assert!(!format!("{out:?}").contains("ya29"));
        assert_eq!(out["x-goog-user-project"], "quota");
    }

    #[test]
    fn bodies_stay_out_of_messages() {
        let error = std::io::Error::other("failed to fetch token, body=<{\"access_token\":\"ya29.x\"}>");
        assert_eq!(with_causes(&error), "failed to fetch token");
    }
}
