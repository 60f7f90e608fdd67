//! One bearer for all requests: waited for, kept, and built anew when Google's library gives up.
//!
//! `google-cloud-auth` finds the credentials, fetches tokens in the background and refreshes them ahead of expiry. What
//! it lacks is added here: it stops for ever after one permanent error and repeats a transient one for ten seconds, so
//! a *generation* of it that fails is replaced by a new one. One keeper task does that; requests only wait for it. Each
//! generation has a small runtime of its own, since the library starts tasks that nothing else could end.

use crate::config::CredentialsSource;
use crate::log::{Log, Severity};
use crate::runtime::RuntimeThread;
use bytes::Bytes;
use google_cloud_auth::credentials::{Builder, CacheableResource, Credentials as Library, EntityTag, mds};
use google_cloud_auth::errors::CredentialsError;
use http::header::{AUTHORIZATION, HeaderName};
use http::{Extensions, HeaderMap, HeaderValue};
use std::fmt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use zeroize::Zeroizing;

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
/// A token that is in hand is given at once; one that has expired is not.
const GIVEN_AGAIN_WITHIN: Duration = Duration::from_secs(1);
/// A file of credentials has a few KiB, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A bearer that the library gave so recently is not asked for again. Far shorter than the time by which it is refreshed
/// ahead of its expiry.
const ASKED_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The project that pays, where the credentials name one.
static QUOTA_PROJECT: HeaderName = HeaderName::from_static("x-goog-user-project");

/// What goes upstream to prove who asks. Never printed.
#[derive(Clone)]
pub struct Bearer {
    proof: Arc<Proof>,
    generation: u64,
}

/// The same in the two forms that it is sent in.
struct Proof {
    authorization: HeaderValue,
    quota_project: Option<HeaderValue>,
    /// The last lines of an HTTP/1.1 head, with the empty one that ends it.
    end_of_head: Bytes,
}

impl Bearer {
    /// Takes the two fields that matter out of what the library gives.
    fn from_headers(mut headers: HeaderMap, generation: u64) -> Option<Self> {
        let mut authorization = wiped_on_drop(&headers.remove(AUTHORIZATION)?)?;
        authorization.set_sensitive(true);
        let quota_project = headers.remove(&QUOTA_PROJECT);
        let mut proof = Proof { authorization, quota_project, end_of_head: Bytes::new() };
        let lines = || {
            let lines =
                proof.fields().flat_map(|(name, value)| [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
            lines.chain([&b"\r\n"[..]])
        };
        // All of it at once: a smaller place that is outgrown would be left as it is.
        let mut text = Zeroizing::new(Vec::with_capacity(lines().map(<[u8]>::len).sum()));
        lines().for_each(|part| text.extend_from_slice(part));
        proof.end_of_head = Bytes::from_owner(text);
        Some(Self { proof: Arc::new(proof), generation })
    }

    /// The same in memory of whoever calls.
    fn copy(&self) -> Self {
        let fields = self.proof.fields().map(|(name, value)| (name.clone(), value.clone()));
        Self::from_headers(fields.collect(), self.generation).unwrap_or_else(|| self.clone())
    }

    /// The value of a request's `authorization`.
    #[must_use]
    pub fn authorization(&self) -> &HeaderValue {
        &self.proof.authorization
    }

    /// The value of a request's `x-goog-user-project`, if it is to have one.
    #[must_use]
    pub fn quota_project(&self) -> Option<&HeaderValue> {
        self.proof.quota_project.as_ref()
    }

    /// The same as the last lines of an HTTP/1.1 head, with the empty one that ends it; in memory that is cleared when the
    /// last who has it lets it go.
    #[must_use]
    pub fn end_of_head(&self) -> &Bytes {
        &self.proof.end_of_head
    }
}

impl Proof {
    fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let quota_project = self.quota_project.as_ref().map(|project| (&QUOTA_PROJECT, project));
        [(&AUTHORIZATION, &self.authorization)].into_iter().chain(quota_project)
    }
}

/// Whether what the library said when it was asked need not be asked for again.
fn is_fresh(asked: Instant, now: Instant) -> bool {
    now.saturating_duration_since(asked) < ASKED_AGAIN_AFTER
}

/// The same value in memory that is cleared when the last who has it lets it go. What the library holds is its own.
fn wiped_on_drop(value: &HeaderValue) -> Option<HeaderValue> {
    let owned = Bytes::from_owner(Zeroizing::new(value.as_bytes().to_vec()));
    HeaderValue::from_maybe_shared(owned).ok()
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

/// The bearer and the task that keeps it, for one thread.
#[derive(Debug)]
pub struct Credentials {
    shared: Arc<Shared>,
    copy: Mutex<Option<BearerCopy>>,
}

/// The bearer that requests on one thread take hold of: threads that count who holds one and the same would take its
/// cache line from each other with every request.
#[derive(Debug)]
struct BearerCopy {
    /// What it is a copy of, which is not held by it.
    of: Weak<Proof>,
    bearer: Bearer,
    /// When the library was asked.
    asked: Instant,
}

#[derive(Debug)]
struct Shared {
    current: watch::Sender<Option<Arc<Generation>>>,
    /// The current generation's number, to be read without a lock.
    number: AtomicU64,
    /// Generations up to this number are no good.
    rejected: watch::Sender<u64>,
    /// Somebody waits: a pause may end early.
    demand: Notify,
}

/// One object of Google's library that has given a bearer.
#[derive(Debug)]
struct Generation {
    number: u64,
    _ground: Ground,
    library: Library,
    latest: Mutex<Latest>,
}

/// What the library said last.
#[derive(Clone, Debug)]
struct Latest {
    tag: EntityTag,
    bearer: Bearer,
    /// When the bearer came.
    since: Instant,
    /// When the library was asked last.
    asked: Instant,
}

/// The runtime that one generation's tasks live on, a hanging fetch among them; they end with it.
#[derive(Debug)]
struct Ground(RuntimeThread);

impl Ground {
    fn new() -> std::io::Result<Self> {
        RuntimeThread::start("credentials".to_owned(), Duration::ZERO).map(Self)
    }

    /// Runs something there; `None` when it panicked.
    async fn run<F>(&self, future: F) -> Option<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.0.handle().spawn(future).await.ok()
    }
}

impl Generation {
    /// The library's bearer of this moment, or of one just before; waits while it refreshes an expired one.
    async fn bearer(&self, now: Instant) -> Option<Bearer> {
        let tag = match self.bearer_in_hand(now) {
            Ok((bearer, _)) => return Some(bearer),
            Err(tag) => tag,
        };
        let mut extensions = Extensions::new();
        extensions.insert(tag);
        let given = self.library.headers(extensions).await.ok()?;
        let mut latest = self.latest();
        if let CacheableResource::New { entity_tag, data } = given {
            let bearer = Bearer::from_headers(data, self.number)?;
            *latest = Latest { tag: entity_tag, bearer, since: Instant::now(), asked: now };
        }
        latest.asked = now.max(latest.asked);
        Some(latest.bearer.clone())
    }

    /// What the library gave just before, and when it was asked; or else by what it can tell whether there is something
    /// newer.
    fn bearer_in_hand(&self, now: Instant) -> Result<(Bearer, Instant), EntityTag> {
        let latest = self.latest();
        if is_fresh(latest.asked, now) { Ok((latest.bearer.clone(), latest.asked)) } else { Err(latest.tag.clone()) }
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn replace(&self, generation: Generation) {
        let number = generation.number;
        self.current.send_replace(Some(Arc::new(generation)));
        self.number.store(number, Ordering::Release);
    }
}

impl Credentials {
    /// Starts fetching.
    #[must_use]
    pub fn start(source: CredentialsSource, metadata_host: &str, log: Log) -> Self {
        let shared = Arc::new(Shared {
            current: watch::Sender::new(None),
            number: AtomicU64::new(0),
            rejected: watch::Sender::new(0),
            demand: Notify::new(),
        });
        tokio::spawn(keep(shared.clone(), source, format!("http://{metadata_host}"), log));
        Self { shared, copy: Mutex::default() }
    }

    /// The same for another thread.
    #[must_use]
    pub fn of_another_thread(&self) -> Self {
        Self { shared: self.shared.clone(), copy: Mutex::default() }
    }

    /// Whether there is a bearer that nobody has found to be no good.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let rejected = *self.shared.rejected.borrow();
        self.shared.current.borrow().as_ref().is_some_and(|current| current.number > rejected)
    }

    /// Since when the bearer in hand is in use; a refreshed one is, from the first request that it serves.
    #[must_use]
    pub fn bearer_age(&self) -> Option<Duration> {
        let current = self.shared.current.borrow();
        current.as_ref().map(|current| current.latest().since.elapsed())
    }

    /// The bearer at `now`, give or take a few milliseconds; waits a few seconds if there is none.
    ///
    /// # Errors
    /// When none could be had in time.
    pub async fn bearer(&self, now: Instant) -> Result<Bearer, Unavailable> {
        match self.bearer_in_hand(now) {
            Some(bearer) => Ok(bearer),
            None => self.after(0).await.map(|given| self.copy_of(given, now)),
        }
    }

    /// The bearer that the library gave just before.
    fn bearer_in_hand(&self, now: Instant) -> Option<Bearer> {
        let current = self.shared.number.load(Ordering::Acquire);
        let is_good = |copy: &&BearerCopy| copy.bearer.generation == current && is_fresh(copy.asked, now);
        if let Some(copy) = self.copy().as_ref().filter(is_good) {
            return Some(copy.bearer.clone());
        }
        let (given, asked) = self.shared.current.borrow().as_ref()?.bearer_in_hand(now).ok()?;
        Some(self.copy_of(given, asked))
    }

    /// This thread's copy of what the library gave, when it was asked then.
    fn copy_of(&self, given: Bearer, asked: Instant) -> Bearer {
        let mut copy = self.copy();
        let of = Arc::downgrade(&given.proof);
        let bearer = match copy.take().filter(|copy| copy.of.ptr_eq(&of)) {
            Some(copy) => copy.bearer,
            None => given.copy(),
        };
        *copy = Some(BearerCopy { of, bearer: bearer.clone(), asked });
        bearer
    }

    fn copy(&self) -> MutexGuard<'_, Option<BearerCopy>> {
        self.copy.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.shared.rejected.send_if_modified(|highest| {
            let newer = number > *highest;
            *highest = number.max(*highest);
            newer
        });
    }

    async fn after(&self, mut number: u64) -> Result<Bearer, Unavailable> {
        let begun = Instant::now();
        let deadline = begun + REQUEST_WAIT;
        loop {
            let generation = self.generation_after(number, deadline).await?;
            let asked = Instant::now();
            match timeout_at(deadline, generation.bearer(begun)).await {
                Ok(Some(bearer)) => return Ok(bearer),
                Ok(None) => {
                    number = generation.number;
                    self.reject(number);
                }
                Err(_) => {
                    // It had time enough, and the next to ask would wait as long: another one has to be made.
                    if asked.elapsed() >= FIRST_PAUSE {
                        self.reject(generation.number);
                    }
                    return Err(Unavailable);
                }
            }
        }
    }

    /// The current generation, if it is newer than `number`, or else the next one.
    async fn generation_after(&self, number: u64, deadline: Instant) -> Result<Arc<Generation>, Unavailable> {
        let newer = |current: &Option<Arc<Generation>>| current.as_ref().is_some_and(|current| current.number > number);
        if let Some(current) = self.shared.current.borrow().as_ref().filter(|current| current.number > number) {
            return Ok(current.clone());
        }
        let mut watcher = self.shared.current.subscribe();
        while Instant::now() < deadline {
            // Again and again: every pause of the keeper ends early while somebody waits.
            self.shared.demand.notify_one();
            let until = deadline.min(Instant::now() + FIRST_PAUSE);
            if let Ok(found) = timeout_at(until, watcher.wait_for(newer)).await {
                return found.ok().and_then(|current| current.clone()).ok_or(Unavailable);
            }
        }
        Err(Unavailable)
    }
}

/// Fetches one bearer and throws it away.
///
/// # Errors
/// Why there is none, in words that hold no secret.
pub async fn try_once(source: &CredentialsSource, metadata_host: &str) -> Result<(), String> {
    let fetched = timeout(FETCH_TIMEOUT, generation(source, &format!("http://{metadata_host}"), 1)).await;
    fetched.unwrap_or(Err(Reason::TimedOut)).map(drop).map_err(|reason| reason.to_string())
}

/// The keeper: makes a generation, waits until it is no good, makes the next.
async fn keep(shared: Arc<Shared>, source: CredentialsSource, metadata_url: String, log: Log) {
    let mut rejected = shared.rejected.subscribe();
    let mut pause = FIRST_PAUSE;
    for number in 1.. {
        let begun = Instant::now();
        match timeout(FETCH_TIMEOUT, generation(&source, &metadata_url, number)).await.unwrap_or(Err(Reason::TimedOut))
        {
            Ok(generation) => {
                if number > 1 || pause > FIRST_PAUSE {
                    log.event(Severity::Info, "Google credentials are available again");
                }
                pause = FIRST_PAUSE;
                shared.replace(generation);
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
async fn generation(source: &CredentialsSource, metadata_url: &str, number: u64) -> Result<Generation, Reason> {
    let ground = Ground::new().map_err(|error| Reason::NoRuntime(error.kind()))?;
    let first = ground.run(first_bearer(source.clone(), metadata_url.to_owned())).await;
    let (library, tag, headers) = first.ok_or(Reason::LibraryFailed)??;
    let bearer = Bearer::from_headers(headers, number).ok_or(Reason::NoToken)?;
    let now = Instant::now();
    let latest = Mutex::new(Latest { tag, bearer, since: now, asked: now });
    Ok(Generation { number, _ground: ground, library, latest })
}

async fn first_bearer(
    source: CredentialsSource,
    metadata_url: String,
) -> Result<(Library, EntityTag, HeaderMap), Reason> {
    // Google's library reads a file to its end, which a device or a mistake may not have.
    if let CredentialsSource::Default(Some(file)) = &source {
        refuse_endless(file).map_err(Reason::BadFile)?;
    }
    let library = match source {
        CredentialsSource::Default(_) => Builder::default().with_scopes([SCOPE]).build(),
        CredentialsSource::MetadataServer => {
            mds::Builder::default().with_endpoint(metadata_url).with_scopes([SCOPE]).build()
        }
    }
    .map_err(|error| Reason::of_build(&error))?;
    match library.headers(Extensions::new()).await {
        // The first is given away unseen. One that has expired by now would never be given again.
        Ok(CacheableResource::New { entity_tag, data }) => {
            let mut extensions = Extensions::new();
            extensions.insert(entity_tag.clone());
            match timeout(GIVEN_AGAIN_WITHIN, library.headers(extensions)).await {
                Ok(Ok(CacheableResource::NotModified)) => Ok((library, entity_tag, data)),
                Ok(Ok(CacheableResource::New { entity_tag, data })) => Ok((library, entity_tag, data)),
                Ok(Err(error)) => Err(Reason::of_fetch(&error)),
                Err(_) => Err(Reason::Expired),
            }
        }
        Ok(CacheableResource::NotModified) => Err(Reason::NoToken),
        Err(error) => Err(Reason::of_fetch(&error)),
    }
}

/// Refuses what is no file of credentials by its kind or its size. A pipe is read to its end: its owner writes it.
///
/// # Errors
/// What is wrong with it, as said of the file.
pub(crate) fn refuse_endless(file: &Path) -> Result<(), &'static str> {
    // What cannot be looked at cannot be read either, which is told then.
    let Ok(metadata) = file.metadata() else { return Ok(()) };
    let kind = metadata.file_type();
    if kind.is_char_device() || kind.is_block_device() {
        Err("it is a device")
    } else if metadata.len() > MAX_FILE_BYTES {
        Err("it is larger than 1 MiB")
    } else {
        Ok(())
    }
}

/// Why there is no bearer, for the log. Of the library's own errors only the kind is taken: their texts can quote a
/// token, a URL with its query, or what a program printed.
#[derive(Debug, thiserror::Error)]
enum Reason {
    #[error("no answer within {} seconds", FETCH_TIMEOUT.as_secs())]
    TimedOut,
    #[error("the file that GOOGLE_APPLICATION_CREDENTIALS or gcloud names cannot be read")]
    Unreadable,
    #[error("the credentials file is not what Google's library can use: {0}")]
    BadFile(&'static str),
    #[error("the token could not be fetched ({kind}{detail}); {advice}")]
    Fetch { kind: &'static str, detail: String, advice: &'static str },
    #[error("an answer without a token")]
    NoToken,
    #[error("the token that came has expired already")]
    Expired,
    #[error("the credentials library failed")]
    LibraryFailed,
    #[error("no thread for the credentials library: {0}")]
    NoRuntime(std::io::ErrorKind),
}

impl Reason {
    fn of_build(error: &google_cloud_auth::build_errors::Error) -> Self {
        if error.is_loading() {
            Self::Unreadable
        } else if error.is_unknown_type() {
            Self::BadFile("its 'type' is unknown")
        } else if error.is_missing_field() {
            Self::BadFile("a field is missing")
        } else if error.is_not_supported() {
            Self::BadFile("its 'type' is not supported")
        } else {
            Self::BadFile("it is not JSON of the expected form")
        }
    }

    fn of_fetch(error: &CredentialsError) -> Self {
        let mut detail = String::new();
        let mut next = std::error::Error::source(error);
        while let Some(cause) = next {
            if let Some(io) = cause.downcast_ref::<std::io::Error>() {
                detail = format!(", {}", io.kind());
            } else if let Some(status) = status_in(&cause.to_string()) {
                detail = format!(", HTTP status {status}");
            }
            next = cause.source();
        }
        let (kind, advice) = if error.is_transient() {
            ("temporary", "it is tried again")
        } else {
            ("refused", "check the credentials; it is tried again")
        };
        Self::Fetch { kind, detail, advice }
    }
}

/// The HTTP status that an error's text names: `… (404 Not Found) …`. Three digits hold no secret.
fn status_in(text: &str) -> Option<u16> {
    let digits = text.split_once(" error (")?.1.get(..3)?;
    digits.parse().ok().filter(|status| (100..600).contains(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Style;
    use std::io;

    #[test]
    fn bearers_are_never_printed() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer ya29.secret"));
        headers.insert("x-goog-user-project", HeaderValue::from_static("quota"));
        let bearer = Bearer::from_headers(headers, 1).unwrap();
        assert!(!format!("{bearer:?}").contains("ya29"));
        let out: HeaderMap = bearer.proof.fields().map(|(name, value)| (name.clone(), value.clone())).collect();
        assert!(out["authorization"].is_sensitive());
        assert!(!format!("{out:?}").contains("ya29"));
        assert_eq!(out["x-goog-user-project"], "quota");
        assert_eq!(bearer.end_of_head(), "authorization: Bearer ya29.secret\r\nx-goog-user-project: quota\r\n\r\n");
    }

    #[tokio::test]
    async fn threads_have_copies_of_their_own_until_there_is_another_bearer() {
        let first =
            Credentials::start(CredentialsSource::MetadataServer, "127.0.0.1:1", Log::start(Style::Json, io::sink()));
        let second = first.of_another_thread();
        let put = |number: u64| {
            let value = HeaderValue::try_from(format!("Bearer ya29.{number}")).unwrap();
            let headers =
                HeaderMap::from_iter([(AUTHORIZATION, value), (QUOTA_PROJECT.clone(), HeaderValue::from_static("q"))]);
            let bearer = Bearer::from_headers(headers, number).unwrap();
            let now = Instant::now();
            let latest = Mutex::new(Latest { tag: EntityTag::new(), bearer: bearer.clone(), since: now, asked: now });
            let library = mds::Builder::default().build().unwrap();
            let generation = Generation { number, _ground: Ground::new().unwrap(), library, latest };
            first.shared.replace(generation);
            bearer
        };
        for number in [1, 2] {
            let of_library = put(number);
            let now = Instant::now();
            let copies = [&first, &second].map(|credentials| credentials.bearer_in_hand(now).unwrap());
            for copy in &copies {
                assert_eq!(copy.end_of_head(), of_library.end_of_head());
                assert_ne!(copy.end_of_head().as_ptr(), of_library.end_of_head().as_ptr());
                assert!(copy.authorization().is_sensitive());
            }
            assert!(!Arc::ptr_eq(&copies[0].proof, &copies[1].proof));
            // As long as the library gives the same one, it is copied once.
            let again = first.bearer_in_hand(now).unwrap();
            assert!(Arc::ptr_eq(&again.proof, &copies[0].proof));
            assert!(first.bearer_in_hand(now + ASKED_AGAIN_AFTER).is_none(), "the library is to be asked");
        }
    }

    /// By looking into the process's own memory, where the bearer was.
    #[test]
    #[cfg(target_os = "linux")]
    fn a_bearer_is_cleared_with_its_last_holder() {
        use std::os::unix::fs::FileExt;
        let secret = format!("Bearer ya29.{}", "canary".repeat(200));
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_str(&secret).unwrap());
        let bearer = Bearer::from_headers(headers, 1).unwrap();
        let (value, lines) = (bearer.proof.authorization.clone(), bearer.end_of_head().clone());
        let places = [value.as_bytes().as_ptr() as u64, lines.as_ptr() as u64];
        let memory = std::fs::File::open("/proc/self/mem").unwrap();
        let is_there = |place: u64| {
            let mut found = vec![0; secret.len()];
            // Freed memory may be gone.
            memory.read_exact_at(&mut found, place).is_ok() && memchr::memmem::find(&found, b"canary").is_some()
        };
        drop(bearer);
        assert_eq!(places.map(is_there), [true; 2], "somebody holds it");
        drop((value, lines));
        assert_eq!(places.map(is_there), [false; 2]);
    }

    #[test]
    fn of_a_librarys_error_only_kind_and_status_are_told() {
        let secret = io::Error::new(io::ErrorKind::ConnectionRefused, "ya29.SECRET at https://x/?k=SECRET");
        let told = Reason::of_fetch(&CredentialsError::new(true, "body=<SECRET>", secret)).to_string();
        assert_eq!(told, "the token could not be fetched (temporary, connection refused); it is tried again");
        let text = io::Error::other("HTTP status client error (404 Not Found) for url (http://x/?k=SECRET)");
        assert_eq!(status_in(&text.to_string()), Some(404));
        assert_eq!(status_in("token error (SECRET)"), None);
    }
}
