//! What the integration tests share: the gateway as a child process, scripted upstreams, a metadata server and a raw
//! HTTP/1.1 client. Nothing here knows the gateway's code, only its contract.
//!
//! Every wait is for a condition and has a deadline; nothing sleeps. Every server listens on a port that the system chose.
#![allow(dead_code, reason = "each test file is a crate of its own and uses a part of this")]
#![allow(unused_imports, reason = "as above")]

pub(crate) mod authority;
pub(crate) mod client;
pub(crate) mod emulator;
pub(crate) mod gateway;
pub(crate) mod h2;
pub(crate) mod metadata;
pub(crate) mod metrics;
pub(crate) mod secrets;
pub(crate) mod sse;
pub(crate) mod tunnel;
pub(crate) mod upstream;
pub(crate) mod wait;

pub(crate) use authority::{Authority, Pair};
pub(crate) use client::{Client, End, Request, Response};
pub(crate) use emulator::{Emulator, until};
pub(crate) use gateway::{Gateway, run, run_with_input};
pub(crate) use h2::{H2Exchange, H2Upstream, Treatment};
pub(crate) use metadata::{Metadata, TokenAnswer};
pub(crate) use tunnel::Tunnel;
pub(crate) use upstream::{Exchange, Hold, Upstream};
pub(crate) use wait::{DEADLINE, Gate, Watched};

/// Says that a test cannot run on this machine, past the capture of what passing tests print. Where REQUIRE_ALL=1 is set
/// it fails.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "tests/run is told so, and the tests with it")]
pub(crate) fn skip(reason: &str) {
    let mut stderr = std::io::stderr();
    let _ = std::io::Write::write_all(&mut stderr, format!("skipped: {reason}\n").as_bytes());
    let is_required = std::env::var("REQUIRE_ALL").is_ok_and(|value| value == "1");
    assert!(!is_required, "REQUIRE_ALL=1, but {reason}");
}

/// The valid key of every gateway here, under the id `tester`.
pub(crate) const KEY: &str = "sk_live_canary-key-0123456789abcdef";
/// Another valid key, under the id `second`.
pub(crate) const SECOND_KEY: &str = "sk_live_second-key-0123456789abcdef";
/// A key that exists and is disabled, under the id `retired`.
pub(crate) const DISABLED_KEY: &str = "sk_live_disabled-key-0123456789abcd";
/// A key that was never issued.
pub(crate) const UNKNOWN_KEY: &str = "sk_live_unknown-key-0123456789abcde";

/// Where the chat route is.
pub(crate) const CHAT_PATH: &str = "/v1/chat/completions";
/// Where upstream is asked, for the project and the location of [`Gateway`]'s defaults.
pub(crate) const UPSTREAM_PATH: &str = "/v1/projects/test-project/locations/global/endpoints/openapi/chat/completions";

/// A chat request without a stream.
pub(crate) const CHAT: &str = r#"{"model":"flash","messages":[{"role":"user","content":"hello"}]}"#;
/// A chat request for a stream.
pub(crate) const CHAT_STREAM: &str =
    r#"{"model":"flash","stream":true,"messages":[{"role":"user","content":"hello"}]}"#;
/// What upstream gets for [`CHAT`].
pub(crate) const CHAT_UPSTREAM: &str =
    r#"{"model":"google/gemini-2.5-flash","messages":[{"role":"user","content":"hello"}]}"#;

/// Readable bytes for a failure message.
pub(crate) fn show(bytes: impl AsRef<[u8]>) -> String {
    let bytes = bytes.as_ref();
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 2000 {
        return text;
    }
    let head: String = text.chars().take(2000).collect();
    format!("{head}… ({} bytes)", bytes.len())
}

/// Fails with both sides readable; `assert_eq!` would print lists of numbers.
#[track_caller]
pub(crate) fn assert_bytes(actual: impl AsRef<[u8]>, expected: impl AsRef<[u8]>, what: &str) {
    let (actual, expected) = (actual.as_ref(), expected.as_ref());
    if actual == expected {
        return;
    }
    let at = actual.iter().zip(expected).take_while(|(a, b)| a == b).count();
    panic!("{what}: differs from byte {at}\n  actual: {}\nexpected: {}", show(actual), show(expected));
}
