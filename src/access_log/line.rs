//! A record as one line of JSON with Cloud Logging's fields, or as a short line for people.
//!
//! The JSON is written by hand: names are literals with their punctuation, so that each is one copy of known length.
//! Through serde's generic path the line was an eighth of all instructions of a small request.

use super::{Outcome, Record, Trace, text};
use crate::clock::append_rfc3339;
use crate::json;
use crate::log::clock;
use crate::numbers::{append_digits, append_milliseconds, append_number};
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
        Some(status) => append_number(out, status.into()),
        None => out.extend_from_slice(b"unanswered"),
    }
    out.extend_from_slice(b"\",\"time\":\"");
    append_rfc3339(out);
    append_http_request(out, record, duration);
    if let Some(trace) = &record.trace {
        append_trace(out, &record.writer.project, trace);
    }
    out.extend_from_slice(b",\"request_id\":\"");
    out.extend_from_slice(record.id.as_str().as_bytes());
    out.extend_from_slice(b"\",\"key_id\":");
    or_null(out, record.key_id.as_deref(), string);
    out.extend_from_slice(b",\"alias\":");
    or_null(out, record.alias.as_deref(), string);
    out.extend_from_slice(b",\"model\":");
    or_null(out, record.model.as_deref(), string);
    out.extend_from_slice(b",\"location\":");
    or_null(out, record.location.as_deref(), string);
    out.extend_from_slice(b",\"attempts\":");
    or_null(out, record.attempts.map(u64::from), append_number);
    out.extend_from_slice(b",\"stream\":");
    or_null(out, record.stream, boolean);
    out.extend_from_slice(b",\"status\":");
    or_null(out, record.status.map(u64::from), append_number);
    out.extend_from_slice(b",\"upstream_status\":");
    or_null(out, record.upstream_status.map(u64::from), append_number);
    out.extend_from_slice(b",\"ttfb_ms\":");
    or_null(out, record.first_byte, append_milliseconds);
    out.extend_from_slice(b",\"duration_ms\":");
    append_milliseconds(out, duration);
    out.extend_from_slice(b",\"request_bytes\":");
    append_number(out, record.request_bytes);
    out.extend_from_slice(b",\"response_bytes\":");
    append_number(out, record.response_bytes);
    out.extend_from_slice(b",\"overhead_ms\":");
    or_null(out, record.overhead, append_milliseconds);
    out.extend_from_slice(b",\"signatures_kept\":");
    append_number(out, record.signatures.kept.into());
    out.extend_from_slice(b",\"signatures_skipped\":");
    append_number(out, record.signatures.skipped.into());
    let tokens = record.tokens.unwrap_or_default();
    out.extend_from_slice(b",\"prompt_tokens\":");
    or_null(out, tokens.prompt, append_number);
    out.extend_from_slice(b",\"cached_tokens\":");
    or_null(out, tokens.cached, append_number);
    out.extend_from_slice(b",\"completion_tokens\":");
    or_null(out, tokens.answer, append_number);
    out.extend_from_slice(b",\"reasoning_tokens\":");
    or_null(out, tokens.thinking, append_number);
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
        append_number(out, status.into());
        out.extend_from_slice(b",\"requestSize\":\"");
    } else {
        out.extend_from_slice(b"\",\"requestSize\":\"");
    }
    append_number(out, record.request_bytes);
    out.extend_from_slice(b"\",\"responseSize\":\"");
    append_number(out, record.response_bytes);
    out.extend_from_slice(b"\",\"latency\":\"");
    append_number(out, duration.as_secs());
    out.push(b'.');
    append_digits::<6>(out, duration.subsec_micros());
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
    if json::Specials::of(value.as_bytes()).next(0).is_some() {
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

/// Appends the line for people.
pub(super) fn append_human(lines: &mut Vec<u8>, record: &Record, outcome: Outcome, duration: Duration) {
    // Writing to memory cannot fail.
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
    use super::super::{Writer, hexadecimal};
    use super::*;
    use crate::json::Fields;
    use crate::log::{Log, Style};
    use crate::models::Models;
    use crate::signatures::Restored;
    use crate::tokens::Tokens;
    use crate::usage::{Dimension, Ledger, Prices, Question};
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::sync::{Arc, LazyLock};

    /// One for all: each has a thread.
    static LOG: LazyLock<Log> = LazyLock::new(|| Log::start(Style::Json, std::io::sink()));

    fn record_in(project: &str) -> Record {
        let models = Models::new(&BTreeMap::new(), &["global".to_owned()]);
        Record::start(&Arc::new(Writer::new(LOG.clone(), &models, project, 7)))
    }

    fn record() -> Record {
        record_in("project")
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
            "key_id alias model location attempts stream status upstream_status ttfb_ms overhead_ms error".split(' ')
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

    /// The same line, as serde writes it.
    fn by_serde(record: &Record, time: &Value, duration: Duration) -> Value {
        let milliseconds = |duration: Duration| duration.as_micros() as f64 / 1000.0;
        let tokens = record.tokens.unwrap_or_default();
        let status = record.status.map_or_else(|| "unanswered".to_owned(), |status| status.to_string());
        let latency = format!("{}.{:06}s", duration.as_secs(), duration.subsec_micros());
        let mut expected = json!({
            "severity": record.severity().as_str(),
            "message": format!("{} {} {status}", record.method, record.route),
            "time": time,
            "httpRequest": {
                "requestMethod": record.method,
                "requestUrl": record.route,
                "requestSize": record.request_bytes.to_string(),
                "responseSize": record.response_bytes.to_string(),
                "latency": latency,
                "protocol": record.protocol,
            },
            "request_id": record.id.as_str(),
            "key_id": record.key_id.as_deref(),
            "alias": record.alias.as_deref(),
            "model": record.model.as_deref(),
            "location": record.location.as_deref(),
            "attempts": record.attempts,
            "stream": record.stream,
            "status": record.status,
            "upstream_status": record.upstream_status,
            "ttfb_ms": record.first_byte.map(milliseconds),
            "duration_ms": milliseconds(duration),
            "request_bytes": record.request_bytes,
            "response_bytes": record.response_bytes,
            "overhead_ms": record.overhead.map(milliseconds),
            "signatures_kept": record.signatures.kept,
            "signatures_skipped": record.signatures.skipped,
            "prompt_tokens": tokens.prompt,
            "cached_tokens": tokens.cached,
            "completion_tokens": tokens.answer,
            "reasoning_tokens": tokens.thinking,
            "error": record.error,
            "outcome": "completed",
        });
        if let Some(status) = record.status {
            expected["httpRequest"]["status"] = status.into();
        }
        if let Some(trace) = record.trace {
            let id = text(&trace.id).to_owned();
            expected["logging.googleapis.com/trace"] = format!("projects/{}/traces/{id}", record.writer.project).into();
            if let Some(span) = trace.span() {
                expected["logging.googleapis.com/spanId"] = span.into();
            }
        }
        expected
    }

    fn any_time() -> impl Strategy<Value = Duration> {
        // The longest is a month: a number of microseconds that a floating one holds exactly.
        (0..31 * 86_400_u64, 0..1_000_000_000_u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos))
    }

    /// Texts with more of what JSON escapes than chance would give them.
    fn any_text() -> impl Strategy<Value = String> {
        let escaped = prop::char::range('\0', '\x7f').prop_map(String::from);
        prop::collection::vec(prop_oneof![escaped, any::<String>(), "[a-z]{0,200}"], 0..12).prop_map(|all| all.concat())
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let texts = prop::collection::vec(prop::option::of(any_text()), 5);
        let (project, trace) = (any_text(), any::<Option<([u8; 16], Option<u64>)>>());
        let numbers = any::<(u64, u64, u32, u32, Option<[Option<u64>; 4]>)>();
        let statuses = (prop::option::of(100..600_u16), prop::option::of(100..600_u16), any::<Option<bool>>());
        let times = (prop::option::of(any_time()), prop::option::of(any_time()));
        (texts, project, trace, numbers, statuses, times).prop_map(
            |(mut texts, project, trace, numbers, statuses, times)| {
                let mut record = record_in(&project);
                let mut next = || texts.pop().flatten();
                (record.key_id, record.alias) = (next().map(Into::into), next().map(Into::into));
                (record.model, record.location) = (next().map(Into::into), next().map(Into::into));
                record.error = next();
                record.attempts = record.location.as_ref().map(|name| name.len() as u32);
                record.trace = trace.map(|(id, span)| {
                    let (mut digits, mut span_digits) = ([0; 32], [0; 16]);
                    for (byte, digits) in id.into_iter().zip(digits.chunks_exact_mut(2)) {
                        hexadecimal(byte.into(), digits);
                    }
                    hexadecimal(span.unwrap_or(0), &mut span_digits);
                    Trace { id: digits, span: span.map(|_| span_digits) }
                });
                (record.request_bytes, record.response_bytes) = (numbers.0, numbers.1);
                record.signatures = Restored { kept: numbers.2, skipped: numbers.3 };
                record.tokens =
                    numbers.4.map(|[prompt, cached, answer, thinking]| Tokens { prompt, cached, answer, thinking });
                (record.status, record.upstream_status, record.stream) = statuses;
                (record.first_byte, record.overhead) = times;
                record
            },
        )
    }

    proptest! {
        #[test]
        fn a_line_says_what_serde_would(record in any_record(), duration in any_time()) {
            let mut out = Vec::new();
            append_json(&mut out, &record, Outcome::Completed, duration);
            let fields: Fields<'_> = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(fields.repeated(), None);
            let line = line(&record, duration);
            prop_assert!(line["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
            prop_assert_eq!(&line, &by_serde(&record, &line["time"], duration));
        }

        #[test]
        fn a_usage_report_reads_what_was_written(
            mut record in any_record(), duration in any_time(), key in "[^\\p{Cc}]{1,128}", alias in "[^\\p{Cc}]{1,128}",
        ) {
            (record.method, record.route) = ("POST", "/v1/chat/completions");
            (record.key_id, record.alias) = (Some(key.as_str().into()), Some(alias.as_str().into()));
            let mut out = Vec::new();
            append_json(&mut out, &record, Outcome::Completed, duration);
            let by = vec![Dimension::Key, Dimension::Alias];
            let mut ledger = Ledger::new(Question { by, since: None, until: None, prices: Prices::embedded() });
            ledger.read(&*out, |_, _| {}).unwrap();
            let report: Value = serde_json::from_str(&ledger.to_json()).unwrap();
            let group = &report["groups"][0];
            prop_assert_eq!((group["key"].as_str(), group["alias"].as_str()), (Some(&*key), Some(&*alias)));
            let tokens = record.tokens.unwrap_or_default();
            for (field, count) in [
                ("prompt_tokens", tokens.prompt),
                ("cached_tokens", tokens.cached),
                ("completion_tokens", tokens.answer),
                ("reasoning_tokens", tokens.thinking),
            ] {
                prop_assert_eq!(group[field].as_u64(), Some(count.unwrap_or(0)), "{}", field);
            }
        }

        #[test]
        fn texts_are_escaped_as_serde_does(text in any_text()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            prop_assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn every_byte_that_json_escapes_is_escaped() {
        for character in '\0'..='\u{ff}' {
            let mut out = Vec::new();
            string(&mut out, &character.to_string());
            assert_eq!(String::from_utf8(out).unwrap(), serde_json::to_string(&character.to_string()).unwrap());
        }
    }
}
