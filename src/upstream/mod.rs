//! Vertex AI: where requests go and how they get there.

mod body;
mod connect;
mod head;
pub mod http1;
pub mod http2;
mod pool;
mod response;
mod watched;

pub use connect::{NoCertificates, tls_config};
pub(crate) use connect::{Stream, connect};
pub use head::AnswerHead;
pub(crate) use response::{BodyBroke, ResponseBody};

use crate::alarm::Alarm;
use crate::budget::Reservation;
use crate::config::{BaseUrl, Config};
use crate::credentials::{Bearer, Credentials};
use crate::error::ApiError;
use crate::hpack::{Encoder, Name};
use crate::http1::Head;
use crate::locations::Route;
use crate::models::Models;
use crate::numbers::append_number;
use crate::own_time::OwnTime;
use body::RequestBody;
use bytes::Bytes;
use http::uri::Authority;
use http::{HeaderValue, StatusCode};
use http1::SendError;
use pool::{Held, Lease, LeaseError, Pool, StreamLease};
use rustls::ClientConfig;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The client's header fields that go up. Nothing else of the client does, apart from the body.
const PASSED_FIELDS: [Name; 4] = [
    Name::of("accept"),
    Name::of("x-vertex-ai-llm-request-type"),
    Name::of("x-vertex-ai-llm-shared-request-type"),
    Name::of("x-server-timeout"),
];

/// What all requests say of themselves.
const OWN_FIELDS: [(Name, HeaderValue); 3] = [
    (Name::of("content-type"), HeaderValue::from_static("application/json")),
    (Name::of("accept-encoding"), HeaderValue::from_static("identity")),
    (Name::of("user-agent"), HeaderValue::from_static(PRODUCT)),
];

/// The longest number that a length may be.
const DIGITS_OF_U64: usize = 20;
const PRODUCT: &str = concat!("ai-proxy/", env!("CARGO_PKG_VERSION"));

/// The locations of Vertex AI that aliases use, with one thread's connections to them.
pub struct Vertex {
    /// In the order of [`Models::locations`].
    endpoints: Arc<[Endpoint]>,
    /// For each host that they are at.
    pools: Vec<Arc<Pool>>,
    credentials: Credentials,
    timeout: Duration,
}

/// One location's Chat Completions.
struct Endpoint {
    /// The location's name.
    name: Arc<str>,
    /// Its connections, by their place among [`Vertex::pools`].
    pool: usize,
    /// For HTTP/1.1: the request line and the fields that all requests have.
    head: Bytes,
    /// For HTTP/2: what all requests have.
    fields: Vec<(Name, HeaderValue)>,
}

/// A chat that is ready to go up.
pub struct ChatRequest {
    /// Values come through the parser of the client's head, which lets no line end pass.
    fields: Vec<(Name, Bytes)>,
    body: RequestBody,
    /// The client's body and what was added to it, whose place in the memory budget stays taken as long as pieces or a
    /// copy are held.
    _original: (Bytes, Option<Reservation>),
}

impl ChatRequest {
    /// Takes from the client's head what may go up.
    #[must_use]
    pub fn new(head: &Head, pieces: Vec<Bytes>, original: (Bytes, Option<Reservation>)) -> Self {
        let fields = PASSED_FIELDS.iter().filter_map(|name| Some((*name, head.shared_value(name.text())?)));
        Self { fields: fields.collect(), body: RequestBody::new(pieces), _original: original }
    }
}

/// Upstream's answer, its body still to come.
pub struct Answer {
    /// Status and header fields.
    pub head: AnswerHead,
    /// The body.
    pub(crate) body: ResponseBody,
    /// From the request's departure to the answer's header fields.
    pub waited: Duration,
    /// What the gateway itself took until the request left.
    pub overhead: Duration,
    /// The location that answered, where it was one of several.
    pub location: Option<Arc<str>>,
    /// How many locations were asked, where there are several.
    pub attempts: Option<u32>,
    /// What is left of the time in which upstream has to say what it has to say first.
    pub patience: Duration,
    /// Why a further location did not answer, though this answer had sent the request there: for the log.
    pub failure_elsewhere: Option<String>,
}

impl Answer {
    /// What has come to a request that left a while ago.
    fn new(head: AnswerHead, body: ResponseBody, sent: Sent, times: &Times<'_>) -> Box<Self> {
        let Sent { overhead, waited } = sent;
        let patience = times.patience;
        let (location, attempts, failure_elsewhere) = (None, None, None);
        // In a box, since it goes from hand to hand.
        Box::new(Self { head, body, waited, overhead, location, attempts, patience, failure_elsewhere })
    }
}

/// What a request takes of the gateway's time, and what it has left of upstream's.
struct Times<'a> {
    own: OwnTime,
    /// For the fields of an answer's head.
    patience: Duration,
    alarm: &'a mut Alarm,
}

/// How long a request took to leave, and to be answered.
struct Sent {
    overhead: Duration,
    waited: Duration,
}

impl Times<'_> {
    /// Waits for `answered`, of a request that leaves now; `None` when that takes too long.
    async fn wait<F: Future>(&mut self, answered: F) -> (Option<F::Output>, Sent) {
        let departure = Instant::now();
        let overhead = self.own.until(departure);
        let answered = self.alarm.unless_due((departure + self.patience).into(), answered).await;
        let waited = departure.elapsed();
        self.own.leave_out(waited);
        self.patience = self.patience.saturating_sub(waited);
        (answered, Sent { overhead, waited })
    }
}

/// A request that got no answer to pass on.
#[derive(Debug)]
pub struct ForwardError {
    /// What the client is told.
    pub error: ApiError,
    /// What upstream answered, if it did.
    pub status: Option<u16>,
    /// How many locations were asked, where there are several.
    pub attempts: Option<u32>,
    /// Why, for the log.
    cause: String,
}

impl ForwardError {
    fn new(error: ApiError, cause: impl ToString) -> Self {
        Self { error, status: None, attempts: None, cause: cause.to_string() }
    }

    /// With the location where it happened.
    fn at(self, location: &str) -> Self {
        Self { cause: format!("{location}: {}", self.cause), ..self }
    }

    /// Code and cause.
    #[must_use]
    pub fn for_log(&self) -> String {
        format!("{}: {}", self.error.status_and_code().1, self.cause)
    }
}

/// A request that comes back unsent is taken to another connection, at most so often: each time one connection less
/// is in use, and many may be going away together.
const MAX_UNSENT: u32 = 64;
/// A request whose connection went away without processing it is sent again at most so often. Upstream that is being
/// replaced says goodbye on all its connections within moments, and the second choice may be one of them.
const MAX_LEFT_BEHIND: u32 = 8;

/// Why one attempt failed.
enum Attempt {
    /// It never left: its connection had died or was going away.
    Unsent(String),
    /// Its connection went away without processing it: its stream is beyond the last one that a GOAWAY names, or nothing of
    /// its body had left.
    LeftBehind(String),
    /// Upstream refused this one stream without processing it.
    Refused(String),
    Failed(ForwardError),
}

impl Vertex {
    /// Prepares every location that some alias uses, for one of so many threads. Connections are opened when they are
    /// needed.
    ///
    /// # Errors
    /// When a URL cannot be built.
    pub fn new(
        config: &Config,
        project: &str,
        models: &Models,
        credentials: Credentials,
        tls: &Arc<ClientConfig>,
        threads: usize,
    ) -> Result<Self, http::Error> {
        let mut hosts: Vec<BaseUrl> = Vec::new();
        let mut endpoints = Vec::new();
        for location in models.locations() {
            let base = match &config.base_url {
                Some(base) => base.clone(),
                None => BaseUrl { tls: true, authority: Authority::try_from(host_of(location))? },
            };
            let pool = hosts.iter().position(|host| *host == base).unwrap_or_else(|| {
                hosts.push(base.clone());
                hosts.len() - 1
            });
            endpoints.push(Endpoint::new(pool, &base, project, location)?);
        }
        let pool = |BaseUrl { tls: is_tls, authority }: &BaseUrl| {
            let port = authority.port_u16().unwrap_or(if *is_tls { 443 } else { 80 });
            Pool::new(authority.host(), port, is_tls.then(|| tls.clone()), threads)
        };
        let pools = hosts.iter().map(pool).collect();
        Ok(Self { endpoints: endpoints.into(), pools, credentials, timeout: config.upstream_timeout })
    }

    /// The same for another thread.
    #[must_use]
    pub fn of_another_thread(&self) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            pools: self.pools.iter().map(|pool| pool.of_another_thread()).collect(),
            credentials: self.credentials.of_another_thread(),
            timeout: self.timeout,
        }
    }

    /// Whether a bearer is held.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.credentials.is_ready()
    }

    /// Since when the bearer in hand is in use.
    #[must_use]
    pub fn bearer_age(&self) -> Option<Duration> {
        self.credentials.bearer_age()
    }

    /// Sends a chat up and waits for the header fields of its answer, from a later location of the route if an earlier
    /// one has no capacity or cannot be reached. Dropping the future cancels it. `alarm` is one of the task that waits.
    ///
    /// # Errors
    /// As [`Self::forward_to`] has them.
    pub async fn forward(
        &self,
        route: &Route,
        request: ChatRequest,
        own: OwnTime,
        alarm: &mut Alarm,
    ) -> Result<Box<Answer>, ForwardError> {
        let mut times = Times { own, patience: self.timeout, alarm };
        let Some(mut tour) = route.tour() else { return self.ask(route.first(), &request, &mut times).await };
        let mut answered = None;
        loop {
            let location = tour.location();
            let asked = self.ask(location, &request, &mut times).await;
            let is_last = if is_for_elsewhere(&asked) {
                !tour.go_on()
            } else {
                if asked.is_ok() {
                    tour.arrive();
                }
                true
            };
            let failure_elsewhere = match asked {
                Ok(mut answer) => {
                    answer.location = Some(self.endpoints[location].name.clone());
                    answered = Some(answer);
                    None
                }
                // What Vertex AI has said is worth more than that another location could not be asked.
                Err(error) if is_last && answered.is_none() => {
                    return Err(ForwardError { attempts: Some(tour.attempts()), ..error });
                }
                Err(error) => Some(error.at(&self.endpoints[location].name).for_log()),
            };
            if is_last && let Some(mut answer) = answered.take() {
                answer.attempts = Some(tour.attempts());
                answer.failure_elsewhere = failure_elsewhere;
                return Ok(answer);
            }
        }
    }

    /// Sends a chat to one location and waits for the header fields of its answer. Dropping the future cancels it.
    ///
    /// # Errors
    /// No bearer, no connection, no answer in time, or two bearers refused.
    pub async fn forward_to(&self, location: usize, request: &ChatRequest) -> Result<Box<Answer>, ForwardError> {
        let mut alarm = Alarm::default();
        let mut times = Times { own: OwnTime::since(Instant::now()), patience: self.timeout, alarm: &mut alarm };
        self.ask(location, request, &mut times).await
    }

    /// The same, where no more than what is left of the time is waited for header fields.
    async fn ask(
        &self,
        location: usize,
        request: &ChatRequest,
        times: &mut Times<'_>,
    ) -> Result<Box<Answer>, ForwardError> {
        let endpoint = &self.endpoints[location];
        let no_bearer = |_| ForwardError::new(ApiError::CredentialsUnavailable, "no bearer in time");
        let now = times.own.lagging_now().into();
        let mut bearer = times.own.leaving_out(self.credentials.bearer(now)).await.map_err(no_bearer)?;
        let (mut bearer_is_second, mut was_refused, mut left_behind, mut unsent) = (false, false, 0, 0);
        loop {
            match self.attempt(endpoint, request, &bearer, times).await {
                Ok(answer) if answer.head.status != StatusCode::UNAUTHORIZED => return Ok(answer),
                Ok(refused) if bearer_is_second => {
                    let mut error =
                        ForwardError::new(ApiError::UpstreamRejectedCredentials, "two bearers were refused");
                    error.status = Some(refused.head.status.as_u16());
                    return Err(error);
                }
                Ok(refused) => {
                    // Its place on the connection is free while a bearer is waited for.
                    drop(refused);
                    bearer_is_second = true;
                    bearer = times.own.leaving_out(self.credentials.replace(&bearer)).await.map_err(no_bearer)?;
                }
                Err(Attempt::Unsent(_)) if unsent < MAX_UNSENT => unsent += 1,
                Err(Attempt::LeftBehind(_)) if left_behind < MAX_LEFT_BEHIND => left_behind += 1,
                Err(Attempt::Refused(_)) if !was_refused => was_refused = true,
                Err(Attempt::Unsent(cause) | Attempt::LeftBehind(cause) | Attempt::Refused(cause)) => {
                    return Err(ForwardError::new(ApiError::UpstreamBroke, cause));
                }
                Err(Attempt::Failed(error)) => return Err(error),
            }
        }
    }

    async fn attempt(
        &self,
        endpoint: &Endpoint,
        request: &ChatRequest,
        bearer: &Bearer,
        times: &mut Times<'_>,
    ) -> Result<Box<Answer>, Attempt> {
        let leased = {
            // Pinned here and below, since a future that is handed on has a place in each that it is handed to.
            let leased = pin!(self.pools[endpoint.pool].lease());
            times.own.leaving_out(leased).await
        };
        let lease = leased.map_err(|error| {
            let told = match error {
                LeaseError::Connect(_) => ApiError::UpstreamUnreachable,
                LeaseError::Saturated => ApiError::UpstreamSaturated,
            };
            Attempt::Failed(ForwardError::new(told, error))
        })?;
        let answer = match lease {
            Lease::Http1(held) => endpoint.attempt_over_http1(held, request, bearer, times).await?,
            Lease::Http2(lease) => endpoint.attempt_over_http2(lease, request, bearer, times).await?,
        };
        // Switching protocols was not asked for, and nothing else of the kind can be final.
        if answer.head.status.is_informational() {
            return Err(Attempt::Failed(ForwardError::new(ApiError::UpstreamBroke, answer.head.status)));
        }
        Ok(answer)
    }
}

impl Endpoint {
    async fn attempt_over_http1(
        &self,
        mut held: Held,
        request: &ChatRequest,
        bearer: &Bearer,
        times: &mut Times<'_>,
    ) -> Result<Box<Answer>, Attempt> {
        let head = self.head(request);
        // The bearer goes out from where it is, so that no copy of it has to be cleared.
        let pieces = [bearer.end_of_head()].into_iter().chain(request.body.pieces());
        let (answered, sent) = {
            let answered = pin!(held.send(&head, pieces));
            times.wait(answered).await
        };
        match answered {
            Some(Ok((head, body))) => Ok(Answer::new(head, ResponseBody::Http1(held, body), sent, times)),
            Some(Err(SendError::Unsent(cause))) => Err(Attempt::Unsent(cause.to_string())),
            Some(Err(error)) => Err(Attempt::Failed(ForwardError::new(ApiError::UpstreamBroke, error))),
            None => Err(Attempt::timed_out()),
        }
    }

    async fn attempt_over_http2(
        &self,
        lease: StreamLease,
        request: &ChatRequest,
        bearer: &Bearer,
        times: &mut Times<'_>,
    ) -> Result<Box<Answer>, Attempt> {
        let head = |encoder: &mut Encoder, block: &mut Vec<u8>| self.encode(encoder, block, request, bearer);
        let (answered, sent) = {
            let answered = pin!(lease.send(&head, &request.body));
            times.wait(answered).await
        };
        match answered {
            Some(Ok((head, body))) => Ok(Answer::new(head, ResponseBody::Http2 { body, _lease: lease }, sent, times)),
            Some(Err(http2::SendError::Broke(error))) => {
                Err(Attempt::Failed(ForwardError::new(ApiError::UpstreamBroke, error)))
            }
            Some(Err(error)) => {
                lease.let_rest();
                Err(match error {
                    http2::SendError::Refused(error) => Attempt::Refused(error.to_string()),
                    http2::SendError::LeftBehind(error) => Attempt::LeftBehind(error.to_string()),
                    http2::SendError::Unsent(error) | http2::SendError::Broke(error) => {
                        Attempt::Unsent(error.to_string())
                    }
                })
            }
            None => Err(Attempt::timed_out()),
        }
    }
}

impl Attempt {
    fn timed_out() -> Self {
        Self::Failed(ForwardError::new(ApiError::UpstreamTimeout, "no response headers"))
    }
}

impl Endpoint {
    fn new(pool: usize, base: &BaseUrl, project: &str, location: &str) -> Result<Self, http::Error> {
        let path = format!("/v1/projects/{project}/locations/{location}/endpoints/openapi/chat/completions");
        let authority: &Authority = &base.authority;
        let mut head = format!("POST {path} HTTP/1.1\r\nhost: {authority}\r\n");
        for (name, value) in &OWN_FIELDS {
            head += &format!("{}: {}\r\n", name.text(), value.to_str().unwrap_or_default());
        }
        let fields = [
            (Name::of(":authority"), HeaderValue::try_from(authority.as_str())?),
            (Name::of(":path"), HeaderValue::try_from(path)?),
        ];
        let fields = fields.into_iter().chain(OWN_FIELDS).collect();
        Ok(Self { name: location.into(), pool, head: head.into(), fields })
    }

    /// The head of an HTTP/1.1 request up to the bearer, with which it ends.
    fn head(&self, chat: &ChatRequest) -> Vec<u8> {
        let passed: usize = chat.fields.iter().map(|(name, value)| name.text().len() + value.len() + 4).sum();
        let length = "content-length: \r\n".len() + DIGITS_OF_U64;
        let mut head = Vec::with_capacity(self.head.len() + passed + length);
        head.extend_from_slice(&self.head);
        for (name, value) in &chat.fields {
            head.extend_from_slice(name.text().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"content-length: ");
        append_number(&mut head, chat.body.len() as u64);
        head.extend_from_slice(b"\r\n");
        head
    }

    /// The head of an HTTP/2 request. What is the same each time is remembered, the bearer too.
    fn encode(&self, encoder: &mut Encoder, block: &mut Vec<u8>, chat: &ChatRequest, bearer: &Bearer) {
        const AUTHORIZATION: Name = Name::of("authorization");
        const QUOTA_PROJECT: Name = Name::of("x-goog-user-project");
        const CONTENT_LENGTH: Name = Name::of("content-length");
        encoder.post_over_tls(block);
        for (name, value) in &self.fields {
            encoder.remembered(block, *name, value);
        }
        encoder.remembered(block, AUTHORIZATION, bearer.authorization());
        if let Some(project) = bearer.quota_project() {
            encoder.remembered(block, QUOTA_PROJECT, project);
        }
        encoder.once(block, CONTENT_LENGTH, itoa::Buffer::new().format(chat.body.len()).as_bytes());
        for (name, value) in &chat.fields {
            encoder.once(block, *name, value);
        }
    }
}

/// Whether another location may do what this one could not: it has no capacity, or there is no connection to it.
fn is_for_elsewhere(result: &Result<Box<Answer>, ForwardError>) -> bool {
    match result {
        Ok(answer) => {
            matches!(answer.head.status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
        }
        Err(failure) => matches!(failure.error, ApiError::UpstreamUnreachable),
    }
}

/// The host that serves a location.
pub(crate) fn host_of(location: &str) -> String {
    match location {
        "global" => "aiplatform.googleapis.com".to_owned(),
        "us" | "eu" => format!("aiplatform.{location}.rep.googleapis.com"),
        region => format!("{region}-aiplatform.googleapis.com"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_locations() {
        assert_eq!(host_of("global"), "aiplatform.googleapis.com");
        assert_eq!(host_of("eu"), "aiplatform.eu.rep.googleapis.com");
        assert_eq!(host_of("us-central1"), "us-central1-aiplatform.googleapis.com");
    }
}
