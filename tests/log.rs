//! The log: one JSON line for each request, with nothing in it that is a client's or Google's secret.
mod support;

use serde_json::Value;
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, DISABLED_KEY, Gateway, KEY, Request, Response, UNKNOWN_KEY, Upstream, show,
};

const TRACE: &str = "logging.googleapis.com/trace";
const SPAN: &str = "logging.googleapis.com/spanId";

#[track_caller]
fn assert_fields(line: &Value) {
    for name in [
        "severity",
        "message",
        "time",
        "httpRequest",
        "request_id",
        "key_id",
        "alias",
        "stream",
        "status",
        "upstream_status",
        "ttfb_ms",
        "duration_ms",
        "request_bytes",
        "response_bytes",
        "overhead_ms",
        "model",
        "prompt_tokens",
        "cached_tokens",
        "completion_tokens",
        "reasoning_tokens",
        "outcome",
    ] {
        assert!(line.get(name).is_some(), "no {name} in {line}");
    }
    let http = &line["httpRequest"];
    for name in ["requestMethod", "requestUrl", "status", "requestSize", "responseSize", "latency", "protocol"] {
        assert!(http.get(name).is_some(), "no httpRequest.{name} in {line}");
    }
    let latency = http["latency"].as_str().expect("latency is text");
    assert!(latency.strip_suffix('s').is_some_and(|seconds| seconds.parse::<f64>().is_ok()), "{latency}");
    let time = line["time"].as_str().expect("time is text");
    assert!(time.ends_with('Z') && time.as_bytes()[10] == b'T' && time.starts_with("20"), "RFC 3339: {time}");
}

#[test]
fn a_completed_request_is_told_in_full() {
    let upstream = Upstream::queued();
    upstream.then(|exchange| exchange.json("{\"a\":1}"));
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    let line = gateway.log_of(&answer);
    assert_fields(&line);
    let http = &line["httpRequest"];
    assert_eq!(line["severity"], "INFO");
    assert_eq!((&line["key_id"], &line["alias"], &line["stream"]), (&"tester".into(), &"flash".into(), &false.into()));
    assert_eq!((&line["status"], &line["upstream_status"]), (&200.into(), &200.into()));
    assert_eq!((&line["request_bytes"], &line["response_bytes"]), (&CHAT.len().into(), &7.into()));
    assert_eq!(line["outcome"], "completed");
    assert!(line["ttfb_ms"].as_f64() <= line["duration_ms"].as_f64(), "{line}");
    assert!(line["overhead_ms"].as_f64() <= line["duration_ms"].as_f64(), "{line}");
    assert_eq!((&http["requestMethod"], &http["requestUrl"]), (&"POST".into(), &CHAT_PATH.into()));
    assert_eq!((&http["status"], &http["protocol"]), (&200.into(), &"HTTP/1.1".into()));
    assert_eq!(line.get(TRACE).filter(|trace| !trace.is_null()), None, "{line}");
}

#[test]
fn a_stream_is_told_when_its_last_byte_is_gone() {
    let upstream = Upstream::queued();
    let gate = support::Gate::new();
    let held = gate.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        exchange.chunk("data: 1\n\n");
        held.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body("data: 1\n\n");
    // Another request is told while the stream runs; the stream is not.
    gateway.log_of(&gateway.get("/health"));
    let id = answer.header("x-request-id").expect("an id").to_owned();
    assert!(!gateway.lines().iter().any(|line| line.contains(&id) && line.contains("\"outcome\"")), "told too early");
    gate.open();
    client.rest(&mut answer);
    let line = gateway.log_of(&answer);
    assert_eq!((&line["stream"], &line["outcome"]), (&true.into(), &"completed".into()));
    assert_eq!(line["response_bytes"], 23);
}

#[test]
fn each_request_has_one_line() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let mut ids: Vec<String> = Vec::new();
    for request in [
        Request::get("/health"),
        Request::chat(CHAT),
        Request::chat("x"),
        Request::get("/v1/models"),
        Request::get("/nothing"),
        Request::new("PUT", "/health"),
    ] {
        let answer = client.request(&request);
        ids.push(answer.header("x-request-id").expect("an id").to_owned());
        gateway.log_of(&answer);
    }
    gateway.log_of(&client.request(&Request::get("/health")));
    for id in ids {
        assert_eq!(gateway.lines().iter().filter(|line| line.contains(&id) && line.contains("\"outcome\"")).count(), 1);
    }
}

#[test]
fn severities_follow_the_status() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let told = |answer: &Response, severity: &str, outcome: &str| {
        let line = gateway.log_of(answer);
        assert_fields(&line);
        assert_eq!((&line["severity"], &line["outcome"]), (&severity.into(), &outcome.into()), "{line}");
        line
    };
    told(&gateway.get("/health"), "INFO", "completed");
    let line = told(&gateway.get("/v1/models"), "WARNING", "rejected");
    assert_eq!((&line["key_id"], &line["alias"], &line["upstream_status"]), (&Value::Null, &Value::Null, &Value::Null));
    let line = told(&gateway.chat("no JSON"), "WARNING", "rejected");
    assert_eq!((&line["key_id"], &line["alias"], &line["status"]), (&"tester".into(), &Value::Null, &400.into()));
    let line = told(&gateway.chat(r#"{"model":"canary"}"#), "WARNING", "rejected");
    assert_eq!(line["alias"], Value::Null, "what is no alias is not told");
    upstream.then(|exchange| exchange.answer("429 Busy", "content-type: application/json\r\n", "{}"));
    let line = told(&gateway.chat(CHAT), "WARNING", "completed");
    assert_eq!((&line["status"], &line["upstream_status"]), (&429.into(), &429.into()));
    upstream.then(|exchange| exchange.answer("500 Oh", "content-type: application/json\r\n", "{}"));
    told(&gateway.chat(CHAT), "ERROR", "completed");
    upstream.then(|exchange| exchange.close());
    told(&gateway.chat(CHAT), "ERROR", "rejected");
}

#[test]
fn the_url_is_the_route() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (path, route) in [
        ("/health?canary", "/health"),
        ("/canary", "unmatched"),
        ("/v1/canary", "unmatched"),
        ("/v1/models?canary", "/v1/models"),
    ] {
        let line = gateway.log_of(&gateway.request(&Request::get(path).key(KEY)));
        assert_eq!(line["httpRequest"]["requestUrl"], route);
    }
    let line = gateway.log_of(&gateway.request(&Request::get("/v1/models/canary").key(KEY)));
    assert!(line["httpRequest"]["requestUrl"].as_str().is_some_and(|url| url.starts_with("/v1/models/")), "{line}");
    assert!(!line.to_string().contains("canary"), "{line}");
}

#[test]
fn a_trace_is_taken_only_when_it_is_well_formed() {
    const ID: &str = "0af7651916cd43dd8448eb211c80319c";
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let trace = format!("projects/test-project/traces/{ID}");
    let good = [
        ("traceparent", format!("00-{ID}-b7ad6b7169203331-01"), Some("b7ad6b7169203331")),
        ("traceparent", format!("00-{ID}-b7ad6b7169203331-00"), Some("b7ad6b7169203331")),
        // Cloud Run's header has the span in decimal.
        ("x-cloud-trace-context", format!("{ID}/1;o=1"), Some("0000000000000001")),
        ("x-cloud-trace-context", format!("{ID}/18446744073709551615;o=1"), Some("ffffffffffffffff")),
        ("x-cloud-trace-context", format!("{ID}/1"), Some("0000000000000001")),
        ("x-cloud-trace-context", ID.to_owned(), None),
    ];
    for (name, value, span) in good {
        let line = gateway.log_of(&gateway.request(&Request::get("/health").header(name, &value)));
        assert_eq!(line[TRACE], trace, "{name}: {value}");
        assert_eq!(line.get(SPAN).and_then(Value::as_str), span, "{name}: {value}");
    }
    let zero = "0".repeat(32);
    let bad = [
        ("traceparent", ID.to_owned()),
        ("traceparent", format!("00-{ID}")),
        ("traceparent", format!("00-{}-b7ad6b7169203331-01", &ID[1..])),
        ("traceparent", format!("00-{zero}-b7ad6b7169203331-01")),
        ("traceparent", format!("00-{}x-b7ad6b7169203331-01", &ID[1..])),
        ("traceparent", format!("ff-{ID}-b7ad6b7169203331-01")),
        ("traceparent", format!("00-{}-b7ad6b7169203331-01", "é".repeat(16))),
        ("traceparent", "00-canary".to_owned()),
        ("x-cloud-trace-context", format!("{}/1;o=1", &ID[1..])),
        ("x-cloud-trace-context", format!("{ID}canary/1")),
        ("x-cloud-trace-context", "canary\",\"x\":\"y/1".to_owned()),
        ("x-cloud-trace-context", "g".repeat(32)),
    ];
    for (name, value) in bad {
        let line = gateway.log_of(&gateway.request(&Request::get("/health").header(name, &value)));
        assert!(line.get(TRACE).is_none_or(Value::is_null), "{name}: {value}: {line}");
        assert!(line.get(SPAN).is_none_or(Value::is_null), "{name}: {value}: {line}");
    }
}

/// A word for each place where a client or an upstream can put text.
const CANARIES: [&str; 14] = [
    "canary-body",
    "canary-header",
    "canary-query",
    "canary-path",
    "canary-agent",
    "canary-method",
    "canary-model",
    "canary-answer",
    "canary-upstream-header",
    "canary-trace",
    "canary-host",
    "canary-refresh",
    "canary-expect",
    "canary-origin",
];

#[test]
fn nothing_of_a_request_or_an_answer_is_told() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("CORS_ALLOW_ORIGINS", "https://app.example").start();
    let loud = |request: Request| {
        request
            .header("x-canary", "canary-header")
            .header("user-agent", "canary-agent")
            .header("traceparent", "canary-trace")
            .header("referer", "canary-header")
            .header("origin", "https://canary-origin.example")
    };
    let mut body = r#"{"model":"flash","messages":[{"role":"user","content":"canary-body"}]}"#.to_owned();
    let mut requests = vec![
        loud(Request::chat(&body)),
        loud(Request::get("/canary-path?canary-query")),
        loud(Request::get("/v1/models/canary-path").key(KEY)),
        loud(Request::new("CANARY-METHOD", "/health")),
        loud(Request::new("canary-method", "/v1/models").key(UNKNOWN_KEY)),
        loud(Request::chat(r#"{"model":"canary-model"}"#)),
        loud(Request::chat(r#"{"canary-body": nonsense}"#)),
        loud(Request::chat(CHAT).header("expect", "canary-expect")),
        loud(Request::chat(CHAT).header("content-encoding", "canary-header")),
        loud(Request::get("/v1/models").key(DISABLED_KEY)),
        loud(Request::get(&format!("/v1/models?key={KEY}"))),
    ];
    // Upstream answers, errors and breaks.
    body.push(' ');
    for _ in 0..5 {
        requests.push(loud(Request::chat(&body)));
    }
    upstream.then(|exchange| {
        exchange.answer(
            "200 OK",
            "content-type: canary-upstream-header\r\nx-y: canary-upstream-header\r\n",
            "canary-answer",
        )
    });
    upstream.then(|exchange| exchange.json("{}")); // the request with the odd Expect, if it came so far
    upstream.then(|exchange| {
        exchange.answer(
            "400 Bad canary-answer",
            "content-type: application/json\r\n",
            "[{\"error\":{\"message\":\"canary-answer\"}}]",
        )
    });
    upstream.then(|exchange| exchange.answer("401 No", "content-type: application/json\r\n", "{\"canary-answer\":1}"));
    upstream.then(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: canary-answer");
        exchange.close();
    });
    upstream.then(|exchange| {
        exchange.send("canary-answer is no HTTP\r\n\r\n");
        exchange.close();
    });
    let mut told = 0;
    for request in requests {
        let mut client = gateway.client();
        client.send(request.bytes());
        gateway.log_of(&client.response());
        told += 1;
    }
    for raw in [
        "canary-body\r\n\r\n",
        "GET /canary-path HTTP/1.1\r\n\r\n",
        "GET /canary-path HTTP/9.9\r\nhost: canary-host\r\n\r\n",
    ] {
        let mut client = gateway.client();
        client.send(raw);
        client.response();
    }
    gateway.log_of(&gateway.get("/health"));
    assert!(told > 10);
    let output = format!("{}\n{}", gateway.lines().join("\n"), gateway.stderr_text()).to_lowercase();
    for secret in CANARIES.into_iter().chain([KEY, DISABLED_KEY, UNKNOWN_KEY, "ya29.", "bearer ", "203.0.113"]) {
        let line = output.lines().find(|line| line.contains(&secret.to_lowercase()));
        assert_eq!(line, None, "{secret} is told");
    }
}

#[test]
fn no_text_forges_a_line() {
    let upstream = Upstream::queued();
    // Everything that a client chooses and the log repeats: the key's id is the operator's, the alias a known one.
    let keys = serde_json::json!([{"id": "a\"},{\"severity\":\"FORGED\" \u{2028}ä", "key": KEY}]).to_string();
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys).start();
    let answer = gateway.request(&Request::get("/v1/models\"},{\"severity\":\"FORGED").key(KEY));
    let line = gateway.log_of(&answer);
    assert_eq!(line["severity"], "WARNING", "{line}");
    let answer = gateway.request(&Request::get("/%0a%7b%22severity%22:%22FORGED%22%7d").key(KEY));
    gateway.log_of(&answer);
    let answer = gateway.chat(CHAT);
    let line = gateway.log_of(&answer);
    assert_eq!(line["key_id"], "a\"},{\"severity\":\"FORGED\" \u{2028}ä", "{line}");
    for line in gateway.lines() {
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_ne!(parsed["severity"], "FORGED", "{}", show(&line));
    }
}

#[test]
fn a_closed_stdout_never_stops_serving() {
    let upstream = Upstream::queued();
    let mut gateway = Gateway::before(&upstream).close_stdout().start().lenient();
    for _ in 0..50 {
        assert_eq!(gateway.chat(CHAT).status, 200);
        assert_eq!(gateway.get("/nothing").status, 404);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn a_blocked_stdout_never_stops_serving() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).block_stdout().start().lenient();
    let mut client = gateway.client();
    // Each line has some hundred bytes: far more than a pipe and any sensible buffer hold.
    for _ in 0..20_000 {
        assert_eq!(client.request(&Request::get("/nothing")).status, 404);
    }
    assert_eq!(gateway.chat(CHAT).status, 200);
}
