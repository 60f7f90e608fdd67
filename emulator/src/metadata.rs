//! The metadata server of a Google Cloud machine, as far as credentials ask it, and the tokens that it has issued.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use serde::Serialize;

use super::body::Steps;
use super::journal::Recorder;
use super::scenarios::{Answer, TokenAnswer};
use super::{Emulator, errors, random};

/// Everything the metadata server has is below this path.
pub(super) const ROOT: &str = "/computeMetadata/";

/// A token's life, in seconds as the server reports it.
const LIFETIME: Duration = Duration::from_secs(3599);
/// The same token is handed out until it has less than this left.
const RENEWAL: Duration = Duration::from_secs(300);

const FLAVOR: &str = "metadata-flavor";
const EMAIL: &str = "emulator@";
const DEFAULT_ACCOUNT: &str = "/computeMetadata/v1/instance/service-accounts/default";

/// The tokens in circulation.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    issued: Mutex<Vec<(String, Instant)>>,
    /// How often one was asked for.
    asked: AtomicU64,
}

/// More tokens than this are not in circulation; the oldest is good no longer then.
const MOST_TOKENS: usize = 1000;

impl Tokens {
    /// The current token and the time it has left; a new one when the last is near its end.
    fn current(&self, now: Instant) -> (String, Duration) {
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.retain(|(_, expiry)| *expiry > now);
        if let Some((token, expiry)) = issued.last() {
            let left = expiry.saturating_duration_since(now);
            if left > RENEWAL {
                return (token.clone(), left);
            }
        }
        drop(issued);
        (self.issue(now, LIFETIME), LIFETIME)
    }

    /// A new token.
    pub(super) fn issue(&self, now: Instant, life: Duration) -> String {
        let token = random::access_token();
        let mut issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        if issued.len() == MOST_TOKENS {
            issued.remove(0);
        }
        issued.push((token.clone(), now + life));
        token
    }

    /// The last token, if it still lives.
    fn last(&self, now: Instant) -> Option<String> {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.last().filter(|(_, expiry)| *expiry > now).map(|(token, _)| token.clone())
    }

    /// From now on none that was issued is good.
    pub(super) fn revoke(&self) {
        self.issued.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How often a token was asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether a bearer is a token issued here that still lives.
    pub(super) fn accepts(&self, bearer: &str, now: Instant) -> bool {
        let issued = self.issued.lock().unwrap_or_else(PoisonError::into_inner);
        issued.iter().any(|(token, expiry)| token == bearer && *expiry > now)
    }
}

#[derive(Serialize)]
struct Token {
    access_token: String,
    expires_in: u64,
    token_type: &'static str,
}

/// A token as it is told, or what a scenario says in its place.
pub(super) async fn token(emulator: &Emulator, recorder: &Recorder) -> Result<(String, u64), Response<Steps>> {
    let tokens = &emulator.tokens;
    tokens.asked.fetch_add(1, Ordering::Relaxed);
    let scenario = emulator.settings.library.for_token();
    let Some(scenario) = scenario else {
        let (token, left) = tokens.current(Instant::now());
        return Ok((token, left.as_secs()));
    };
    recorder.scenario(&scenario.name);
    let plain = TokenAnswer::default();
    let different = if let Answer::Token(different) = &scenario.answer { different } else { &plain };
    emulator.pause(different.wait_ms).await;
    if different.code != 200 || different.body.is_some() {
        let mut response = Response::new(Steps::whole(different.body.clone().unwrap_or_default()));
        *response.status_mut() = StatusCode::from_u16(different.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        return Err(response);
    }
    let now = Instant::now();
    let life = different.expires_in.unwrap_or(LIFETIME.as_secs());
    let token = tokens.last(now).filter(|_| different.same);
    Ok((token.unwrap_or_else(|| tokens.issue(now, Duration::from_secs(life))), life))
}

/// Answers a request below [`ROOT`].
pub(super) async fn answer(
    emulator: &Emulator,
    method: &Method,
    path: &str,
    headers: &HeaderMap,
    recorder: &Recorder,
) -> Response<Steps> {
    let project = &emulator.settings.project;
    let asked_rightly = headers.get(FLAVOR).is_some_and(|flavor| flavor.as_bytes().eq_ignore_ascii_case(b"google"));
    if !asked_rightly || headers.contains_key("x-forwarded-for") {
        return flavored(errors::html(
            StatusCode::FORBIDDEN,
            "Your client does not have permission to get URL <code>",
            path,
            "</code> from this server. Missing Metadata-Flavor:Google header.",
        ));
    }
    if method != Method::GET && method != Method::HEAD {
        return flavored(errors::html(
            StatusCode::METHOD_NOT_ALLOWED,
            "The request method is inappropriate for the URL <code>",
            path,
            "</code>.",
        ));
    }
    let account = path.strip_prefix(DEFAULT_ACCOUNT);
    let (content_type, body) = match (path, account) {
        (_, Some("/token")) => {
            let (access_token, expires_in) = match token(emulator, recorder).await {
                Ok(token) => token,
                Err(response) => return flavored(response),
            };
            let token = Token { access_token, expires_in, token_type: "Bearer" };
            let body = serde_json::to_string(&token).expect("a token is plain strings and a number");
            ("application/json", body)
        }
        (_, Some("/email")) => ("application/text", format!("{EMAIL}{project}.iam.gserviceaccount.com")),
        (_, Some("/scopes")) => ("application/text", "https://www.googleapis.com/auth/cloud-platform\n".to_owned()),
        ("/computeMetadata/v1/instance/name", _) => ("application/text", "emulated-machine".to_owned()),
        ("/computeMetadata/v1/instance/zone", _) => {
            ("application/text", "projects/123456789012/zones/us-central1-a".to_owned())
        }
        ("/computeMetadata/v1/project/project-id", _) => ("application/text", project.to_owned()),
        ("/computeMetadata/v1/universe/universe-domain" | "/computeMetadata/v1/universe/universe_domain", _) => {
            ("application/text", "googleapis.com".to_owned())
        }
        _ => {
            return flavored(errors::html(
                StatusCode::NOT_FOUND,
                "The requested URL <code>",
                path,
                "</code> was not found on this server.",
            ));
        }
    };
    let mut response = Response::new(Steps::whole(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    flavored(response)
}

fn flavored(mut response: Response<Steps>) -> Response<Steps> {
    let headers = response.headers_mut();
    headers.insert(FLAVOR, HeaderValue::from_static("Google"));
    headers.insert("server", HeaderValue::from_static("Metadata Server for VM"));
    headers.insert("x-xss-protection", HeaderValue::from_static("0"));
    headers.insert("x-frame-options", HeaderValue::from_static("SAMEORIGIN"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_kept_until_five_minutes_before_its_end() {
        let tokens = Tokens::default();
        let start = Instant::now();
        let (first, left) = tokens.current(start);
        assert!(first.starts_with("ya29."));
        assert_eq!(left, LIFETIME);

        let late = start + LIFETIME - RENEWAL - Duration::from_secs(1);
        assert_eq!(tokens.current(late), (first.clone(), RENEWAL + Duration::from_secs(1)));

        let later = start + LIFETIME - RENEWAL;
        let (second, left) = tokens.current(later);
        assert_ne!(second, first);
        assert_eq!(left, LIFETIME);
        assert!(tokens.accepts(&first, later), "the old one lives on");
        assert!(!tokens.accepts(&first, start + LIFETIME));
        assert!(tokens.accepts(&second, start + LIFETIME));
        assert!(!tokens.accepts("ya29.other", start));
    }
}
