//! A record as one line of JSON with Cloud Logging's fields, or as a short line for people.
//!
//! The JSON is written by hand: names are literals with their punctuation, so that each is one copy of known length.
//! Through serde's generic path the line was an eighth of all instructions of a small request.

use super::{Outcome, Record, Trace, text};
use crate::log::clock;
use std::io::Write;
use std::time::Duration;

/// Appends the line for machines.
pub(super) fn append_json(out: &mut Vec<u8>, record: &Record, outcome: Outcome, duration: Duration) {
    out.reserve(1024);
    out.extend_from_slice(b"{\"severity\":\"");
    out.extend_from_slice(record.severity().as_str().as_bytes());
    // Method and route are the gateway's own words.
    out.extend_from_slice(b"\",\"message\":\"");
    out.extend_from_slice(record.method.as_bytes());
    out.push(b' ');
    out.extend_from_slice(record.route.as_bytes());
    out.push(b' ');
    match record.status {
        Some(status) => number(out, status.into()),
        None => out.extend_from_slice(b"unanswered"),
    }
    out.extend_from_slice(b"\",\"time\":\"");
    // Writing to memory cannot fail, here and below.
    let _ = write!(out, "{}", jiff::Timestamp::now());
    append_http_request(out, record, duration);
    if let Some(trace) = &record.trace {
        append_trace(out, &record.project, trace);
    }
    out.extend_from_slice(b",\"request_id\":\"");
    out.extend_from_slice(record.id.as_str().as_bytes());
    out.extend_from_slice(b"\",\"key_id\":");
    or_null(out, record.key_id.as_deref(), string);
    out.extend_from_slice(b",\"alias\":");
    or_null(out, record.alias.as_deref(), string);
    out.extend_from_slice(b",\"model\":");
    or_null(out, record.model.as_deref(), string);
    out.extend_from_slice(b",\"stream\":");
    or_null(out, record.stream, boolean);
    out.extend_from_slice(b",\"status\":");
    or_null(out, record.status.map(u64::from), number);
    out.extend_from_slice(b",\"upstream_status\":");
    or_null(out, record.upstream_status.map(u64::from), number);
    out.extend_from_slice(b",\"ttfb_ms\":");
    or_null(out, record.first_byte, milliseconds);
    out.extend_from_slice(b",\"duration_ms\":");
    milliseconds(out, duration);
    out.extend_from_slice(b",\"request_bytes\":");
    number(out, record.request_bytes);
    out.extend_from_slice(b",\"response_bytes\":");
    number(out, record.response_bytes);
    out.extend_from_slice(b",\"overhead_ms\":");
    or_null(out, record.overhead, milliseconds);
    out.extend_from_slice(b",\"signatures_kept\":");
    number(out, record.signatures.kept.into());
    out.extend_from_slice(b",\"signatures_skipped\":");
    number(out, record.signatures.skipped.into());
    let tokens = record.tokens.unwrap_or_default();
    out.extend_from_slice(b",\"prompt_tokens\":");
    or_null(out, tokens.prompt, number);
    out.extend_from_slice(b",\"cached_tokens\":");
    or_null(out, tokens.cached, number);
    out.extend_from_slice(b",\"completion_tokens\":");
    or_null(out, tokens.answer, number);
    out.extend_from_slice(b",\"reasoning_tokens\":");
    or_null(out, tokens.thinking, number);
    out.extend_from_slice(b",\"error\":");
    or_null(out, record.error.as_deref(), string);
    out.extend_from_slice(b",\"outcome\":\"");
    out.extend_from_slice(outcome.as_str().as_bytes());
    out.extend_from_slice(b"\"}\n");
}

/// Cloud Logging's own object; it writes 64-bit numbers as strings.
fn append_http_request(out: &mut Vec<u8>, record: &Record, duration: Duration) {
    out.extend_from_slice(b"\",\"httpRequest\":{\"requestMethod\":\"");
    out.extend_from_slice(record.method.as_bytes());
    out.extend_from_slice(b"\",\"requestUrl\":\"");
    out.extend_from_slice(record.route.as_bytes());
    if let Some(status) = record.status {
        out.extend_from_slice(b"\",\"status\":");
        number(out, status.into());
        out.extend_from_slice(b",\"requestSize\":\"");
    } else {
        out.extend_from_slice(b"\",\"requestSize\":\"");
    }
    number(out, record.request_bytes);
    out.extend_from_slice(b"\",\"responseSize\":\"");
    number(out, record.response_bytes);
    out.extend_from_slice(b"\",\"latency\":\"");
    number(out, duration.as_secs());
    out.push(b'.');
    fraction::<6>(out, duration.subsec_micros());
    out.extend_from_slice(b"s\",\"protocol\":\"");
    out.extend_from_slice(record.protocol.as_bytes());
    out.extend_from_slice(b"\"}");
}

fn append_trace(out: &mut Vec<u8>, project: &str, trace: &Trace) {
    out.extend_from_slice(b",\"logging.googleapis.com/trace\":");
    string(out, &format!("projects/{project}/traces/{}", text(&trace.id)));
    if let Some(span) = trace.span() {
        out.extend_from_slice(b",\"logging.googleapis.com/spanId\":\"");
        out.extend_from_slice(span.as_bytes());
        out.push(b'"');
    }
}

fn or_null<T>(out: &mut Vec<u8>, value: Option<T>, append: impl FnOnce(&mut Vec<u8>, T)) {
    match value {
        Some(value) => append(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// Ids and aliases may hold whatever their owner likes, causes whatever a library says.
fn string(out: &mut Vec<u8>, value: &str) {
    if value.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        let start = out.len();
        if serde_json::to_writer(&mut *out, value).is_err() {
            out.truncate(start);
            out.extend_from_slice(b"null");
        }
    } else {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
    }
}

fn boolean(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(if value { b"true" } else { b"false" });
}

fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three decimals.
fn milliseconds(out: &mut Vec<u8>, duration: Duration) {
    number(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
    out.push(b'.');
    fraction::<3>(out, duration.subsec_micros() % 1000);
}

/// Exactly N decimal digits.
fn fraction<const N: usize>(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        // A digit is less than ten.
        *digit += (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Appends the line for people.
pub(super) fn append_human(lines: &mut Vec<u8>, record: &Record, outcome: Outcome, duration: Duration) {
    let _ = write!(lines, "{} ", clock(jiff::Timestamp::now()));
    let _ = match record.status {
        Some(status) => write!(lines, "{status}"),
        None => write!(lines, "---"),
    };
    let _ = write!(lines, " {} {}", record.method, record.route);
    for (name, value) in [("alias", &record.alias), ("key", &record.key_id)] {
        if let Some(value) = value {
            let _ = write!(lines, " {name}={value}");
        }
    }
    if let Some(tokens) = &record.tokens {
        let _ = write!(lines, " tokens={}+{}", tokens.prompt.unwrap_or(0), tokens.output());
    }
    if let Some(first_byte) = record.first_byte {
        let _ = write!(lines, " ttfb={first_byte:.1?}");
    }
    let _ = write!(lines, " total={duration:.1?} {}B", record.response_bytes);
    match outcome {
        Outcome::Completed | Outcome::Rejected => {}
        other => {
            let _ = write!(lines, " {other:?}");
        }
    }
    if let Some(error) = &record.error {
        let _ = write!(lines, " ({error})");
    }
    lines.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::super::RequestId;
    use super::*;
    use crate::log::{Log, Style};
    use crate::metrics::Metrics;
    use crate::models::Models;
    use crate::tokens::Tokens;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn record() -> Record {
        let log = Log::start(Style::Json, std::io::sink());
        let metrics = Metrics::new(&Models::new(&BTreeMap::new(), "global"));
        Record::start(log, Arc::new(metrics), "project".into(), RequestId::next(7))
    }

    fn line(record: &Record, duration: Duration) -> Value {
        let mut out = Vec::new();
        append_json(&mut out, record, Outcome::Completed, duration);
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&out).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&out)))
    }

    #[test]
    fn what_is_not_known_is_null() {
        let line = line(&record(), Duration::from_micros(5_000_042));
        assert_eq!(line["message"], "OTHER unmatched unanswered");
        assert_eq!(line["httpRequest"].get("status"), None);
        assert_eq!(line["httpRequest"]["latency"], "5.000042s");
        assert_eq!(line["duration_ms"], 5000.042);
        for name in
            ["key_id", "alias", "model", "stream", "status", "upstream_status", "ttfb_ms", "overhead_ms", "error"]
        {
            assert!(line[name].is_null() && line.get(name).is_some(), "{name}");
        }
        assert_eq!(line.get("logging.googleapis.com/trace"), None);
    }

    #[test]
    fn what_is_known_is_told() {
        let mut record = record();
        (record.method, record.route, record.status) = ("POST", "/v1/chat/completions", Some(429));
        (record.stream, record.upstream_status) = (Some(true), Some(429));
        (record.request_bytes, record.response_bytes) = (u64::MAX, 12);
        record.first_byte = Some(Duration::from_micros(1_234_567));
        record.tokens = Some(Tokens { prompt: Some(7), thinking: Some(0), ..Tokens::default() });
        record.trace = Trace::from_cloud_trace(b"0af7651916cd43dd8448eb211c80319c/255;o=1");
        let line = line(&record, Duration::ZERO);
        assert_eq!((&line["severity"], &line["status"]), (&"WARNING".into(), &429.into()));
        assert_eq!(line["message"], "POST /v1/chat/completions 429");
        assert_eq!(line["httpRequest"]["status"], 429);
        assert_eq!(line["httpRequest"]["requestSize"], "18446744073709551615");
        assert_eq!((&line["ttfb_ms"], &line["duration_ms"]), (&1234.567.into(), &0.0.into()));
        assert_eq!((&line["prompt_tokens"], &line["reasoning_tokens"]), (&7.into(), &0.into()));
        assert!(line["cached_tokens"].is_null());
        assert_eq!(line["logging.googleapis.com/trace"], "projects/project/traces/0af7651916cd43dd8448eb211c80319c");
        assert_eq!(line["logging.googleapis.com/spanId"], "00000000000000ff");
        assert_eq!(line["outcome"], "completed");
    }

    proptest! {
        #[test]
        fn texts_of_any_kind_stay_what_they_are(key in any::<String>(), error in any::<String>()) {
            let mut record = record();
            (record.key_id, record.error) = (Some(key.as_str().into()), Some(error.clone()));
            let line = line(&record, Duration::ZERO);
            prop_assert_eq!((line["key_id"].as_str(), line["error"].as_str()), (Some(&*key), Some(&*error)));
        }
    }
}
