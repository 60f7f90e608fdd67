//! What comes down: upstream's bytes as they are and as soon as they are there, and a short list of headers.
mod support;

use std::sync::mpsc;

use support::h2::frame;
use support::{
    CHAT, CHAT_STREAM, End, Exchange, Gate, Gateway, H2Upstream, Request, Treatment, Upstream, assert_bytes, show,
};

/// Event streams with everything that a reader that splits lines, or re-encodes, gets wrong.
const STREAMS: [&[u8]; 8] = [
    b"data: {\"a\":1e-7,\"b\":1.0}\n\ndata: [DONE]\n\n",
    b"data: {\"a\":1}\r\n\r\ndata: [DONE]\r\n\r\n",
    b": comment\n\nevent: x\nid: 7\nretry: 10\ndata:{\"no\":\"space\"}\ndata:second line\n\ndata:[DONE]\n\n",
    b"data: {\"a\":1}\n\ndata: [DONE]",
    b"data: {\"a\":1}\r\rdata: [DONE]\r\r",
    "data: {\"t\":\"größe 日本語 🙂\u{2028}\"}\n\ndata: {\"t\":\"\\u00e9\"}\r\n\n\ndata: [DONE]\n\n".as_bytes(),
    b"\n\n\ndata\n\ndata:\n\n{\n  \"error\": {}\n}\n\xff\xfe\0data: [DONE]\n",
    b"\xef\xbb\xbfdata: bom\n\n",
];

#[test]
fn a_stream_split_anywhere_arrives_split_there() {
    let (next, parts) = mpsc::channel::<(Vec<u8>, Vec<u8>, Gate)>();
    let parts = std::sync::Mutex::new(parts);
    let upstream = Upstream::new(move |exchange| {
        let (first, second, gate) = parts.lock().expect("no test thread died").recv().expect("parts for each request");
        exchange.sse_head();
        exchange.chunk(first);
        gate.wait();
        exchange.chunk(second);
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for stream in STREAMS {
        for at in 1..stream.len() {
            let (first, second) = stream.split_at(at);
            let gate = Gate::new();
            next.send((first.to_vec(), second.to_vec(), gate.clone())).expect("upstream lives");
            client.send(Request::chat(CHAT_STREAM).bytes());
            let mut answer = client.head();
            // Upstream holds the second part until the first has been read here.
            client.expect_body(first);
            gate.open();
            client.rest(&mut answer);
            assert_bytes(&answer.body, second, "the second part");
            assert_eq!((answer.status, answer.end), (200, End::Complete), "{} at {at}", show(stream));
        }
    }
}

#[test]
fn a_stream_in_single_bytes_arrives_whole() {
    let upstream = Upstream::new(|exchange| exchange.sse(STREAMS.concat().chunks(1)));
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT_STREAM);
    assert_eq!(answer.end, End::Complete);
    assert_bytes(&answer.body, STREAMS.concat(), "the stream");
}

#[test]
fn a_stream_whose_framing_is_split_anywhere_arrives_whole() {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let wire = format!("{head}a;ext=1\r\ndata: [DON\r\n4\r\nE]\n\n\r\n0\r\n\r\n").into_bytes();
    let (next, splits) = mpsc::channel::<usize>();
    let splits = std::sync::Mutex::new(splits);
    let bytes = wire.clone();
    let upstream = Upstream::new(move |exchange| {
        let at = splits.lock().expect("no test thread died").recv().expect("a split for each request");
        exchange.send(&bytes[..at]);
        exchange.send(&bytes[at..]);
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for at in 1..wire.len() {
        next.send(at).expect("upstream lives");
        let answer = client.request(&Request::chat(CHAT_STREAM));
        assert_eq!((answer.status, answer.end), (200, End::Complete), "split at {at}");
        assert_bytes(&answer.body, "data: [DONE]\n\n", "the stream");
    }
}

#[test]
fn json_arrives_byte_for_byte() {
    let bodies: [&[u8]; 6] = [
        b"{\"choices\":[],\"x\":1e-7,\"y\":1.0,\"z\":1E2}\n",
        "{\n  \"größe\" : \"\\u00e9🙂\"\r\n}".as_bytes(),
        b"not JSON at all \xff\0",
        b"",
        b"[{\"error\":{}}]",
        b"\xef\xbb\xbf{}",
    ];
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for body in bodies {
        upstream.then(move |exchange| exchange.json(body));
        let answer = client.request(&Request::chat(CHAT));
        assert_bytes(&answer.body, body, "a counted answer");
        assert_eq!(answer.header("content-length"), Some(body.len().to_string().as_str()));
        assert_eq!(answer.end, End::Complete);
        upstream.then(move |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
            for piece in body.chunks(3) {
                exchange.chunk(piece);
            }
            exchange.last_chunk();
        });
        let answer = client.request(&Request::chat(CHAT));
        assert_bytes(&answer.body, body, "a chunked answer");
        assert_eq!((answer.header("content-length"), answer.end), (None, End::Complete));
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_arrives_whole() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    upstream.then(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{\"a\":1}");
        exchange.close();
    });
    let answer = gateway.chat(CHAT);
    assert_bytes(&answer.body, "{\"a\":1}", "the answer");
    assert_eq!(answer.end, End::Complete);
}

#[test]
fn a_large_answer_arrives_whole() {
    let large: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let expected = large.clone();
    let upstream = Upstream::new(move |exchange| exchange.json(&large));
    let gateway = Gateway::before(&upstream).start();
    assert_bytes(gateway.chat(CHAT).body, expected, "the answer");
}

#[test]
fn a_counted_answer_arrives_piece_by_piece() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let (gate, held) = (Gate::new(), Gate::new());
    let (first, second) = (gate.clone(), held.clone());
    upstream.then(move |exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 6\r\n\r\n");
        first.wait();
        exchange.send("{\"a");
        second.wait();
        exchange.send("\":1");
    });
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    // The head comes before any byte of the body.
    assert_eq!(client.head().status, 200);
    gate.open();
    client.expect_body("{\"a");
    held.open();
    client.expect_body("\":1");
}

#[test]
fn an_http2_stream_arrives_piece_by_piece() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = H2Upstream::new(move |mut exchange| {
        let held = held.clone();
        async move {
            exchange.sse_head();
            exchange.send("data: 1\n\n").await;
            held.opened().await;
            exchange.send("data: [DONE]\n\n").await;
            exchange.end();
        }
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body("data: 1\n\n");
    gate.open();
    client.rest(&mut answer);
    assert_bytes(&answer.body, "data: [DONE]\n\n", "the second part");
    assert_eq!(answer.end, End::Complete);
    let request = upstream.wait_request(0);
    assert_eq!(request.path, support::UPSTREAM_PATH);
    assert_eq!(request.authority, format!("localhost:{}", upstream.address.port()));
    let mut names: Vec<&str> = request.headers.keys().map(http::HeaderName::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept-encoding", "authorization", "content-length", "content-type", "user-agent"]);
}

/// Headers of upstream that pass, and many that do not.
const PASSING: &str = "content-encoding: gzip\r\ncontent-language: de\r\ncontent-disposition: attachment\r\n\
    retry-after: 7\r\nretry-after-ms: 7000\r\nx-should-retry: false\r\n\
    x-vertex-ai-llm-request-type: shared\r\nx-vertex-ai-llm-shared-request-type: flex\r\n";
const STAYING: &str = "server: canary\r\nset-cookie: canary=1\r\nlocation: https://canary.example/\r\nvia: 1.1 canary\r\n\
    alt-svc: h3=\":443\"\r\nvary: Origin\r\nx-frame-options: SAMEORIGIN\r\nx-xss-protection: 0\r\n\
    strict-transport-security: max-age=1\r\nwww-authenticate: canary\r\naccess-control-allow-origin: *\r\n\
    x-goog-canary: 1\r\nx-request-id: canary\r\nserver-timing: canary;dur=1\r\netag: canary\r\nkeep-alive: timeout=5\r\n\
    date: Thu, 01 Jan 1970 00:00:00 GMT\r\nx-content-type-options: nosniff\r\nlink: <canary>\r\nage: 7\r\nx-accel-buffering: yes\r\n";

#[test]
fn response_headers_pass_by_list() {
    let upstream = Upstream::new(|exchange| {
        exchange.answer(
            "200 OK",
            &format!("content-type: application/json; charset=UTF-8\r\ncache-control: private\r\n{PASSING}{STAYING}"),
            "{}",
        );
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    assert_eq!(
        answer.header_names(),
        [
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-length",
            "content-type",
            "date",
            "retry-after",
            "retry-after-ms",
            "server-timing",
            "x-request-id",
            "x-should-retry",
            "x-vertex-ai-llm-request-type",
            "x-vertex-ai-llm-shared-request-type",
        ],
        "{}",
        answer.head
    );
    assert!(!answer.head.contains("canary"), "{}", answer.head);
    assert!(!answer.head.contains("1970"), "the date is the gateway's own: {}", answer.head);
    assert_eq!(answer.header("content-type"), Some("application/json; charset=UTF-8"));
    assert_eq!(answer.header("cache-control"), Some("private"));
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_eq!(answer.header("retry-after"), Some("7"));
}

#[test]
fn an_event_stream_gains_headers() {
    let upstream = Upstream::new(|exchange| {
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: public, max-age=9\r\n\
             transfer-encoding: chunked\r\n{STAYING}\r\n"
        ));
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT_STREAM);
    let names = [
        "cache-control",
        "content-type",
        "date",
        "server-timing",
        "transfer-encoding",
        "x-accel-buffering",
        "x-request-id",
    ];
    assert_eq!(answer.header_names(), names, "{}", answer.head);
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-accel-buffering"), Some("no"));
}

#[test]
fn server_timing_tells_gateway_from_upstream() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    let timing = answer.header("server-timing").expect("the header");
    let (own, other) = timing.split_once(", ").expect("two metrics");
    let own: f64 = own.strip_prefix("gateway;dur=").and_then(|ms| ms.parse().ok()).expect(timing);
    let other: f64 = other.strip_prefix("upstream;dur=").and_then(|ms| ms.parse().ok()).expect(timing);
    assert!(own >= 0.0 && other >= 0.0, "{timing}");
}

#[test]
fn every_answer_has_a_request_id_of_its_own() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let mut ids: Vec<String> = (0..5)
        .map(|_| client.request(&Request::chat(CHAT)).header("x-request-id").expect("an id").to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

/// Lets upstream give one answer, through a gateway with `errors` as `UPSTREAM_ERRORS`.
#[track_caller]
fn relayed(errors: &str, script: impl FnOnce(&mut Exchange<'_>) + Send + 'static) -> support::Response {
    let upstream = Upstream::queued();
    upstream.then(script);
    let gateway = Gateway::before(&upstream).env("UPSTREAM_ERRORS", errors).start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.end, End::Complete, "{}", answer.head);
    assert!(answer.header("x-request-id").is_some(), "{}", answer.head);
    upstream.only_request();
    answer
}

const JSON: &str = "content-type: application/json; charset=UTF-8\r\n";

#[test]
fn an_error_of_upstream_passes_with_status_and_bytes() {
    let body = "{\n  \"error\": {\"code\": 400.0, \"message\": \"größe\"}\n}\n";
    for status in [
        "400 Bad Request",
        "403 Forbidden",
        "404 Not Found",
        "409 Conflict",
        "418 Teapot",
        "429 Busy",
        "500 Oh",
        "503 No",
        "504 Late",
        "599 Odd",
    ] {
        let answer = relayed("openai", move |exchange| exchange.answer(status, JSON, body));
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_bytes(&answer.body, body, status);
        assert_eq!(answer.header("content-type"), Some("application/json; charset=UTF-8"));
        assert_eq!(answer.header("retry-after"), None);
    }
}

#[test]
fn an_array_around_an_error_loses_its_brackets_only() {
    let body = "[{\n  \"error\": {\n    \"code\": 400.0,\n    \"message\": \"a [b] \\u005d\"\n  }\n}\n]\n";
    let bare = "{\n  \"error\": {\n    \"code\": 400.0,\n    \"message\": \"a [b] \\u005d\"\n  }\n}\n\n";
    let answer = relayed("openai", move |exchange| exchange.answer("400 Bad Request", JSON, body));
    assert_bytes(&answer.body, bare, "without brackets");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-length"), Some(bare.len().to_string().as_str()));
    let answer = relayed("openai", move |exchange| {
        exchange.send(format!("HTTP/1.1 400 Bad Request\r\n{JSON}transfer-encoding: chunked\r\n\r\n"));
        for piece in body.as_bytes().chunks(5) {
            exchange.chunk(piece);
        }
        exchange.last_chunk();
    });
    assert_bytes(&answer.body, bare, "without brackets, chunked");
    let answer = relayed("raw", move |exchange| exchange.answer("400 Bad Request", JSON, body));
    assert_bytes(&answer.body, body, "raw");
}

#[test]
fn other_arrays_keep_their_brackets() {
    let bodies = [
        "[]",
        "[1]",
        "[{}]",
        "[{\"message\":\"x\"}]",
        "[{\"error\":{}},{\"error\":{}}]",
        "[{\"error\":{}},1]",
        "[[{\"error\":{}}]]",
        "[{\"error\":{}}",
        "[{\"error\":{}}] x",
        "[{\"a\":{\"error\":{}}}]",
        "\"[{\\\"error\\\":{}}]\"",
    ];
    for body in bodies {
        let answer = relayed("openai", move |exchange| exchange.answer("400 Bad Request", JSON, body));
        assert_bytes(&answer.body, body, "as it was");
    }
}

#[test]
fn a_retry_info_becomes_retry_after() {
    let body = |delay: &str| {
        format!(
            r#"{{"error":{{"code":429,"message":"m","status":"RESOURCE_EXHAUSTED","details":[{{"@type":"type.googleapis.com/google.rpc.ErrorInfo"}},{{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]}}}}"#
        )
    };
    let cases = [
        ("429 Busy", "7s", Some("7")),
        ("429 Busy", "7.2s", Some("8")),
        ("503 No", "0.000000001s", Some("1")),
        ("503 No", "60s", Some("60")),
        ("400 Bad", "7s", None),
        ("500 Oh", "7s", None),
        ("429 Busy", "soon", None),
        ("429 Busy", "-5s", None),
    ];
    for (status, delay, expected) in cases {
        let object = body(delay);
        let sent = object.clone();
        let answer = relayed("openai", move |exchange| exchange.answer(status, JSON, sent));
        assert_eq!(answer.header("retry-after"), expected, "{status} {delay}");
        assert_bytes(&answer.body, object, "the body");
        let array = format!("[{}]", body(delay));
        let answer = relayed("openai", move |exchange| exchange.answer(status, JSON, array));
        assert_eq!(answer.header("retry-after"), expected, "in an array: {status} {delay}");
        assert_bytes(&answer.body, body(delay), "the body without brackets");
    }
    let answer = relayed("openai", move |exchange| {
        exchange.answer("429 Busy", &format!("{JSON}retry-after: 99\r\n"), body("7s"))
    });
    assert_eq!(answer.header("retry-after"), Some("99"), "upstream's own wins");
    let answer = relayed("raw", move |exchange| exchange.answer("429 Busy", JSON, body("7s")));
    assert_eq!(answer.header("retry-after"), None, "raw");
}

#[test]
fn a_page_becomes_a_json_error() {
    let page = "<!DOCTYPE html>\n<html><title>Error 404 (Not Found)!!1</title> canary</html>";
    for kind in ["text/html", "text/html; charset=UTF-8", "Text/HTML"] {
        let answer = relayed("openai", move |exchange| {
            exchange.answer("404 Not Found", &format!("content-type: {kind}\r\n"), page)
        });
        assert_eq!((answer.status, answer.code().as_str()), (404, "upstream_html"));
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let message = answer.json()["error"]["message"].to_string();
        assert!(
            message.contains("GOOGLE_CLOUD_LOCATION") || message.contains("GOOGLE_VERTEX_BASE_URL"),
            "says what to check: {message}"
        );
        assert!(!message.contains("canary"));
        let answer = relayed("raw", move |exchange| {
            exchange.answer("404 Not Found", &format!("content-type: {kind}\r\n"), page)
        });
        assert_eq!((answer.status, answer.header("content-type")), (404, Some(kind)));
        assert_bytes(&answer.body, page, "raw");
    }
}

#[test]
fn a_page_keeps_what_it_says_of_trying_again() {
    const FIELDS: [(&str, &str); 3] = [("retry-after", "77"), ("retry-after-ms", "77000"), ("x-should-retry", "false")];
    let lines: String = FIELDS.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = relayed("openai", move |exchange| {
        exchange.answer("503 No", &format!("content-type: text/html\r\n{lines}{STAYING}"), "<html>busy</html>");
    });
    assert_eq!((answer.status, answer.code().as_str()), (503, "upstream_html"));
    for (name, value) in FIELDS {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    assert!(!answer.head.contains("canary"), "{}", answer.head);
}

#[test]
fn a_page_with_200_passes() {
    let answer = relayed("openai", |exchange| exchange.answer("200 OK", "content-type: text/html\r\n", "<html>"));
    assert_eq!(answer.header("content-type"), Some("text/html"));
    assert_bytes(&answer.body, "<html>", "2xx is never looked into");
}

#[test]
fn redirects_are_not_followed() {
    let other = Upstream::queued();
    for status in ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"] {
        let location = format!("content-type: text/plain\r\nlocation: http://{}/elsewhere\r\n", other.address);
        let answer = relayed("openai", move |exchange| exchange.answer(status, &location, "moved"));
        assert_eq!(answer.status.to_string(), status[..3]);
        assert_eq!(answer.header("location"), None);
        assert_bytes(&answer.body, "moved", status);
    }
    assert_eq!(other.connections(), 0);
}

#[test]
fn an_error_over_1_mib_is_passed_on_unrepaired() {
    for (padding, repaired) in [(1024 * 1024 - 100, true), (1024 * 1024, false), (5 * 1024 * 1024, false)] {
        let body = format!(r#"[{{"error":{{"message":"{}"}}}}]"#, "x".repeat(padding));
        let expected = if repaired { body[1..body.len() - 1].to_owned() } else { body.clone() };
        let counted = body.clone();
        let answer = relayed("openai", move |exchange| exchange.answer("400 Bad Request", JSON, counted));
        assert_bytes(&answer.body, &expected, "counted");
        let answer = relayed("openai", move |exchange| {
            exchange.send(format!("HTTP/1.1 400 Bad Request\r\n{JSON}transfer-encoding: chunked\r\n\r\n"));
            for piece in body.as_bytes().chunks(100_000) {
                exchange.chunk(piece);
            }
            exchange.last_chunk();
        });
        assert_bytes(&answer.body, &expected, "chunked");
    }
}

#[test]
fn an_encoded_error_is_passed_on_unrepaired() {
    let answer = relayed("openai", |exchange| {
        exchange.answer("400 Bad Request", &format!("{JSON}content-encoding: gzip\r\n"), "[{\"error\":{}}]");
    });
    assert_eq!(answer.header("content-encoding"), Some("gzip"));
    assert_bytes(&answer.body, "[{\"error\":{}}]", "bytes that are only seemingly JSON");
}

#[test]
fn an_early_hint_is_not_the_answer() {
    let answer = relayed("openai", |exchange| {
        exchange.send("HTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n");
        exchange.json("{\"a\":1}");
    });
    assert_bytes(&answer.body, "{\"a\":1}", "the final answer");
}

#[test]
fn an_answer_before_the_body_was_read_arrives() {
    let upstream = H2Upstream::with_treatment(
        |_| Treatment::ServeUnread(1 << 20),
        |mut exchange| async move {
            exchange.head(400, "application/json");
            exchange.send("{\"error\":{\"message\":\"too large\"}}").await;
            exchange.end();
        },
    );
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(format!(r#"{{"model":"flash","a":"{}"}}"#, "x".repeat(10_000_000)));
    assert_eq!((answer.status, answer.end), (400, End::Complete), "{}", show(&answer.body));
    assert_bytes(&answer.body, "{\"error\":{\"message\":\"too large\"}}", "upstream's answer");
}

#[test]
fn trailers_do_not_pass_and_do_no_harm() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: [DONE]\n\n");
        exchange.send("0\r\nx-canary: 1\r\nset-cookie: a=b\r\n\r\n");
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for _ in 0..2 {
        // The client fails if anything stands between the last chunk and its blank line.
        let answer = client.request(&Request::chat(CHAT_STREAM));
        assert_eq!(answer.end, End::Complete);
        assert_bytes(&answer.body, "data: [DONE]\n\n", "the stream");
    }
}

#[test]
fn an_answer_without_a_body_keeps_the_connection_in_step() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for status in ["204 No Content", "304 Not Modified"] {
        for kind in ["application/json", "text/html"] {
            upstream.then(move |exchange| {
                exchange.send(format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n\r\n"));
            });
            let answer = client.request(&Request::chat(CHAT));
            assert_eq!(answer.status.to_string(), status[..3], "{kind}");
            assert_eq!(client.request(&Request::get("/health")).json()["ok"], true, "after {status}, {kind}");
            assert_eq!(gateway.log_of(&answer)["outcome"], "completed", "{status}, {kind}");
        }
    }
    // The length is that of a body which does not come.
    upstream.then(|exchange| {
        exchange.send("HTTP/1.1 304 Not Modified\r\ncontent-type: text/html\r\ncontent-length: 100\r\n\r\n");
    });
    let answer = client.request(&Request::chat(CHAT));
    assert_eq!(answer.status, 304);
    assert_eq!(client.request(&Request::get("/health")).json()["ok"], true, "after a length");
    assert_eq!(gateway.log_of(&answer)["outcome"], "completed", "with a length");
}

/// HTTP/2 says that a body was all of it in a frame of its own, which may come later. The client has its answer by then.
#[test]
fn the_next_request_does_not_wait_until_an_http2_upstream_says_that_this_was_all() {
    let gate = Gate::new();
    let (told, was_reset) = mpsc::channel();
    let shared = (gate.clone(), told);
    let upstream = H2Upstream::new(move |mut exchange| {
        let (gate, told) = shared.clone();
        async move {
            if exchange.number > 0 {
                return exchange.json("second").await;
            }
            exchange.head_with(200, &[("content-type", "application/json"), ("content-length", "5")]);
            exchange.send("first").await;
            gate.opened().await;
            told.send(exchange.is_reset()).expect("the test lives");
            exchange.end();
        }
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let first = client.request(&Request::chat(CHAT));
    assert_eq!(first.body, b"first");
    // More than is read ahead of its turn.
    let large = format!(r#"{{"model":"flash","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(200_000));
    assert_eq!(client.request(&Request::chat(&large)).body, b"second");
    gate.open();
    assert!(!was_reset.recv().expect("upstream lives"), "its stream is left to its end");
    assert_eq!(gateway.log_of(&first)["outcome"], "completed");
}

#[test]
fn an_answer_whose_announced_bytes_are_there_is_not_broken_by_what_follows() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const PING: u8 = 6;
    const END_HEADERS: u8 = 4;
    // `:status: 200` and `content-length: 2` by HPACK, the body, and at once an INTERNAL_ERROR.
    let head = frame(HEADERS, END_HEADERS, 1, b"\x88\x0f\x0d\x012");
    let answer = [head, frame(DATA, 0, 1, b"{}"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 2])].concat();
    let upstream = H2Upstream::with_treatment(
        move |_| Treatment::Flood(answer.clone(), frame(PING, 1, 0, b"whatever")),
        |exchange| exchange.json("second"),
    );
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.body, b"{}");
    assert_eq!(gateway.log_of(&answer)["outcome"], "completed");
}

#[test]
fn an_http2_error_is_repaired_before_upstream_says_that_this_was_all() {
    let upstream = H2Upstream::new(move |mut exchange| async move {
        let body = r#"[{"error":{"code":400,"message":"no"}}]"#;
        let length = body.len().to_string();
        exchange.head_with(400, &[("content-type", "application/json"), ("content-length", &length)]);
        exchange.send(body).await;
        exchange.until_cancelled().await;
    });
    let gateway = Gateway::before(&upstream).start();
    let started = std::time::Instant::now();
    let answer = gateway.chat(CHAT);
    assert_eq!((answer.status, &answer.body[..]), (400, &br#"{"error":{"code":400,"message":"no"}}"#[..]));
    assert!(started.elapsed() < std::time::Duration::from_secs(4), "nobody waits for the end");
}

#[test]
fn an_http2_error_is_repaired_too() {
    let upstream = H2Upstream::new(|mut exchange| async move {
        exchange.head(429, "application/json; charset=UTF-8");
        exchange
            .send("[{\"error\":{\"code\":429,\"details\":[{\"@type\":\"type.googleapis.com/google.rpc.RetryInfo\",")
            .await;
        exchange.send("\"retryDelay\":\"3s\"}]}}]").await;
        exchange.end();
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3")));
    assert!(answer.body.starts_with(b"{\"error\"") && answer.body.ends_with(b"}"), "{}", show(&answer.body));
}
