//! The control endpoint, for tests: says which scenarios there are, sets one for the next calls, and tells what was
//! received and sent. Only for programs on this machine.

use std::net::{Ipv4Addr, Ipv6Addr};
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
    let text = authority.as_str();
    let end = if text.starts_with('[') {
        text.find(']').map_or(0, |end| end + 1)
    } else {
        text.find(':').unwrap_or(text.len())
    };
    let (host, port) = text.split_at(end);
    let port_is_one = port.strip_prefix(':').map_or(port.is_empty(), |digits| {
        digits.bytes().all(|byte| byte.is_ascii_digit()) && digits.parse().is_ok_and(|port: u16| port != 0)
    });
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_loopback = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse().is_ok_and(|address: Ipv6Addr| address.is_loopback()),
        None => name.parse().is_ok_and(|address: Ipv4Addr| address.is_loopback()),
    };
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let is_local_name = || name.split('.').all(is_label) && name.rsplit('.').next() == Some("localhost");
    port_is_one && (is_loopback || is_local_name())
}

fn told(status: StatusCode, value: &serde_json::Value) -> Response<Steps> {
    let mut response = Response::new(Steps::whole(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_meant() {
        let is_meant = |text: &str| text.parse().is_ok_and(|authority| is_this_machine(&authority));
        for text in
            ["localhost", "LOCALHOST:80", "localhost.", "a.localhost:1", "127.0.0.1", "127.1.2.3:8090", "[::1]:8090"]
        {
            assert!(is_meant(text), "{text}");
        }
        for text in [
            "evil.example",
            "localhost.evil.example",
            "a@localhost",
            "localhost:",
            "localhost:0",
            "localhost:99999",
            "localhost:+80",
            "localhost:x",
            "[::1]x",
            "[::1].",
            "[::1]:",
            "[127.0.0.1]",
            "[::2]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "127.1",
            "127.0.0.1.evil.example",
            ".localhost",
            "a..localhost",
            "evil!$.localhost",
        ] {
            assert!(!is_meant(text), "{text}");
        }
    }
}
