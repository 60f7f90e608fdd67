//! What people want to know of a captured answer, in a row of a table. Only forms, no words of the answer.

use super::super::probe::Answered;
use crate::relay::is_event_stream;
use ai_proxy_emulator::replay::End;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use serde_json::Value;
use std::collections::BTreeSet;

/// The table's head.
pub(super) const HEAD: &str = "| file | what it is about | status | form |\n|---|---|---|---|";
/// The table's foot.
pub(super) const NOT_ASKED: &str = "Not asked, since the gateway's own way up has no room for it: the shape of a 401, the largest request, compression, streams at one time on a connection.\n";

/// Status and form of an answer.
pub(super) fn row(answered: &Answered, end: End) -> String {
    let mut facts = vec![format!("{:?}", answered.version)];
    let field = |name| answered.headers.get(name).and_then(|value| value.to_str().ok());
    facts.push(field(CONTENT_TYPE).unwrap_or("no content-type").replace('|', " "));
    if let Some(encoding) = field(CONTENT_ENCODING) {
        facts.push(format!("encoded: {}", encoding.replace('|', " ")));
    }
    facts.push(if field(CONTENT_LENGTH).is_some() { "with length".to_owned() } else { "without length".to_owned() });
    if is_event_stream(&answered.headers) {
        facts.extend(of_stream(&answered.body));
    } else {
        facts.extend(of_body(&answered.body));
    }
    if end == End::Cut {
        facts.push("cut".to_owned());
    }
    format!("{} | {}", answered.status, facts.join("; "))
}

fn of_body(body: &[u8]) -> Vec<String> {
    let Ok(value) = serde_json::from_slice::<Value>(body) else {
        let form = if body.is_empty() {
            "empty"
        } else if body.starts_with(b"<") {
            "HTML"
        } else {
            "not JSON"
        };
        return vec![form.to_owned()];
    };
    let indented = body.trim_ascii().contains(&b'\n');
    let mut facts = vec![if indented { "indented" } else { "compact" }.to_owned()];
    facts.push(match &value {
        Value::Array(items) => format!("array of {}", items.len()),
        Value::Object(_) => "object".to_owned(),
        _ => "neither array nor object".to_owned(),
    });
    if let Some(error) = value.get(0).unwrap_or(&value).get("error") {
        facts.push(format!("error {}", word(error.get("status"))));
    }
    if let Some(choice) = value.pointer("/choices/0") {
        facts.extend(of_choice(choice, "message"));
    }
    if let Some(usage) = value.get("usage") {
        facts.push(format!("usage: {}", keys(usage)));
    }
    facts
}

fn of_stream(body: &[u8]) -> Vec<String> {
    let count = |ending: &[u8]| body.windows(ending.len()).filter(|window| *window == ending).count();
    let (lf, crlf) = (count(b"\n"), count(b"\r\n"));
    let mut facts = vec![
        match (lf - crlf, crlf) {
            (_, 0) => "LF",
            (0, _) => "CRLF",
            _ => "LF and CRLF",
        }
        .to_owned(),
    ];
    let text = String::from_utf8_lossy(body);
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).collect();
    facts.push(format!("{} events", data.len()));
    facts.push(if data.last() == Some(&"[DONE]") { "[DONE]" } else { "no [DONE]" }.to_owned());
    if text.lines().any(|line| line.starts_with(':')) {
        facts.push("comments".to_owned());
    }
    if text.lines().any(|line| !line.is_empty() && !line.starts_with("data:") && !line.starts_with(':')) {
        facts.push("lines that are no data".to_owned());
    }
    let chunks: Vec<Value> = data.iter().filter_map(|data| serde_json::from_str(data).ok()).collect();
    let with_usage: Vec<usize> = (0..chunks.len()).filter(|at| chunks[*at].get("usage").is_some()).collect();
    facts.push(match &with_usage[..] {
        [] => "no usage".to_owned(),
        [at] if at + 1 == chunks.len() && chunks[*at].pointer("/choices/0").is_some() => {
            "usage on the last choice".to_owned()
        }
        [at] if chunks[*at].pointer("/choices/0").is_none() => "usage on a chunk without choices".to_owned(),
        some => format!("usage on {} of {} chunks", some.len(), chunks.len()),
    });
    let mut seen = BTreeSet::new();
    for choice in chunks.iter().filter_map(|chunk| chunk.pointer("/choices/0")) {
        seen.extend(of_choice(choice, "delta"));
    }
    facts.extend(seen);
    facts
}

/// Names and forms in a choice.
fn of_choice(choice: &Value, holder: &str) -> Vec<String> {
    let mut facts = Vec::new();
    if let Some(reason) = choice.get("finish_reason").filter(|reason| !reason.is_null()) {
        facts.push(format!("finish_reason {}", word(Some(reason))));
    }
    let Some(message) = choice.get(holder) else {
        facts.push(format!("no {holder}"));
        return facts;
    };
    facts.push(format!("{holder}: {}", keys(message)));
    for call in message.get("tool_calls").and_then(Value::as_array).into_iter().flatten() {
        let signature = call.pointer("/extra_content/google/thought_signature").and_then(Value::as_str);
        let length = signature.map_or_else(String::new, |text| format!(", signature of {} characters", text.len()));
        facts.push(format!("call: {}, index {}{length}", keys(call), call.get("index").unwrap_or(&Value::Null)));
    }
    facts
}

fn keys(value: &Value) -> String {
    let names = value.as_object().into_iter().flatten().map(|(name, _)| word(Some(&Value::from(name.as_str()))));
    names.collect::<Vec<String>>().join(" ")
}

/// A word of upstream's that a table can take.
fn word(value: Option<&Value>) -> String {
    let text = value.and_then(Value::as_str).unwrap_or("?");
    text.chars().filter(|c| c.is_ascii_alphanumeric() || "_-.: ".contains(*c)).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_of_bodies_are_told() {
        assert_eq!(of_body(b"<html>"), ["HTML"]);
        assert_eq!(of_body(b""), ["empty"]);
        assert_eq!(
            of_body(b"[{\n\"error\":{\"status\":\"NOT_FOUND\"}}]"),
            ["indented", "array of 1", "error NOT_FOUND"]
        );
        let told = of_body(br#"{"choices":[{"finish_reason":"length","index":0}],"usage":{"total_tokens":1}}"#);
        assert_eq!(told, ["compact", "object", "finish_reason length", "no message", "usage: total_tokens"]);
    }

    #[test]
    fn forms_of_streams_are_told() {
        let call = r#"{"choices":[{"delta":{"role":"assistant","tool_calls":[{"id":"1","index":0}]}}]}"#;
        let last = r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}],"usage":{}}"#;
        let told =
            of_stream(format!("data: {call}\r\n\r\ndata: {last}\r\n\r\ndata: [DONE]\r\n\r\n").as_bytes()).join("; ");
        for fact in ["CRLF", "3 events", "[DONE]", "usage on the last choice", "index 0", "finish_reason tool_calls"] {
            assert!(told.contains(fact), "{fact}: {told}");
        }
        let told = of_stream(b"data: {}\n\n{\"error\":1}").join("; ");
        assert!(
            told.contains("no [DONE]") && told.contains("lines that are no data") && told.starts_with("LF;"),
            "{told}"
        );
    }
}
