//! The control endpoint, for tests: says which scenarios there are, sets one for the next calls, and tells what was
//! received and sent. Only for programs on this machine.

use std::net::IpAddr;
use std::sync::atomic::Ordering;

use http::header::{CONTENT_TYPE, HOST, HeaderValue, ORIGIN};
use http::uri::Authority;
use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Emulator;
use super::body::Steps;
use super::line::Line;
use super::scenarios::Scenario;

/// Everything that it serves is below this path.
pub(super) const ROOT: &str = "/_emulator/";

/// A scenario for the next calls.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Next {
    scenario: String,
    #[serde(default = "once")]
    calls: u64,
}

fn once() -> u64 {
    1
}

#[derive(Serialize)]
struct Listed<'a> {
    name: &'a str,
    family: &'a str,
    about: &'a str,
    marker: Option<String>,
    /// What it is a case of.
    of: &'static str,
    /// What the request has to ask for, where that matters.
    stream: Option<bool>,
    has_tools: Option<bool>,
}

impl<'a> From<&'a Scenario> for Listed<'a> {
    fn from(scenario: &'a Scenario) -> Self {
        Self {
            name: &scenario.name,
            family: &scenario.family,
            about: &scenario.about,
            marker: scenario.marker(),
            of: if scenario.is_of_tokens() { "token" } else { "chat" },
            stream: scenario.when.stream,
            has_tools: scenario.when.has_tools,
        }
    }
}

/// Answers a request below [`ROOT`].
pub(super) async fn answer(emulator: &Emulator, head: &request::Parts, body: Incoming, line: &Line) -> Response<Steps> {
    if !line.is_local || is_of_a_page(head) {
        return told(StatusCode::FORBIDDEN, &json!({"error": "only for programs on this machine"}));
    }
    let library = &emulator.settings.library;
    let journal = &emulator.journal;
    let path = head.uri.path().strip_prefix(ROOT).unwrap_or_default();
    match (&head.method, path) {
        (&Method::GET, "scenarios") => {
            let listed: Vec<Listed<'_>> = library.iter().map(Listed::from).collect();
            told(StatusCode::OK, &json!({"scenarios": listed}))
        }
        (&Method::POST, "next") => {
            let body = super::read(body).await.unwrap_or_default();
            match serde_json::from_slice::<Next>(&body) {
                Ok(next) if library.enqueue(&next.scenario, next.calls) => {
                    told(StatusCode::OK, &json!({"next": library.queued()}))
                }
                Ok(_) => told(StatusCode::NOT_FOUND, &json!({"error": "there is no scenario of that name"})),
                Err(error) => told(StatusCode::BAD_REQUEST, &json!({"error": error.to_string()})),
            }
        }
        (&Method::GET, "next") => told(StatusCode::OK, &json!({"next": library.queued()})),
        (&Method::DELETE, "next") => {
            library.clear_queue();
            told(StatusCode::OK, &json!({"next": []}))
        }
        (&Method::GET, "exchanges") => {
            let since = head.uri.query().and_then(|query| query.strip_prefix("since=")?.parse().ok()).unwrap_or(0);
            told(StatusCode::OK, &json!({"exchanges": journal.since(since), "next": journal.next()}))
        }
        (&Method::DELETE, "exchanges") => {
            journal.clear();
            told(StatusCode::OK, &json!({"exchanges": [], "next": journal.next()}))
        }
        (&Method::POST, "revoke-tokens") => {
            emulator.tokens.revoke();
            told(StatusCode::OK, &json!({}))
        }
        (&Method::GET, "state") => told(
            StatusCode::OK,
            &json!({
                "connections": emulator.connections.load(Ordering::Relaxed),
                "running": journal.running(),
                "token_calls": emulator.tokens.asked(),
            }),
        ),
        _ => told(StatusCode::NOT_FOUND, &json!({"error": "no such thing"})),
    }
}

/// A page in a browser is on this machine too, and is not what this is for. One that was led here by a name of its own
/// tells neither origin nor site, but the name.
fn is_of_a_page(head: &request::Parts) -> bool {
    let host = match head.uri.authority() {
        Some(authority) => Some(authority.clone()),
        None => head.headers.get(HOST).and_then(|value| Authority::try_from(value.as_bytes()).ok()),
    };
    head.headers.contains_key(ORIGIN)
        || head.headers.get("sec-fetch-site").is_some_and(|site| site != "none")
        || !host.is_some_and(|host| is_this_machine(&host))
}

/// Whether a request's host can only mean the machine that it is written on.
fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host().to_ascii_lowercase();
    let name = host.strip_suffix('.').unwrap_or(&host);
    let address = name.trim_matches(['[', ']']).parse();
    !authority.as_str().contains('@')
        && (name == "localhost"
            || name.ends_with(".localhost")
            || address.is_ok_and(|address: IpAddr| address.is_loopback()))
}

fn told(status: StatusCode, value: &serde_json::Value) -> Response<Steps> {
    let mut response = Response::new(Steps::whole(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
