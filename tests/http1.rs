//! HTTP/1.1 as the gateway takes it: strict where leniency would let a request be read in two ways.
mod support;

use std::time::Instant;

use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, CHAT_UPSTREAM, DEADLINE, End, Gate, Gateway, KEY, Request, Upstream, assert_bytes,
    show,
};

/// Sends raw bytes on a connection of their own and checks the refusal and that the connection ends.
#[track_caller]
fn assert_refused(gateway: &Gateway, raw: impl AsRef<[u8]>, status: u16, code: &str) {
    let mut client = gateway.client();
    client.try_send(raw.as_ref());
    let answer = client.response();
    assert_eq!(answer.status, status, "{} was answered {}", show(raw.as_ref()), show(&answer.body));
    answer.assert_error(status, code);
    client.assert_closed();
}

fn start(upstream: &Upstream) -> Gateway {
    Gateway::before(upstream).start()
}

/// A chat request with these header lines (each with its line end) and this body.
fn raw_chat(headers: &str, body: &str) -> String {
    format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n{headers}\r\n{body}")
}

#[test]
fn two_framings_are_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let length = CHAT.len();
    let chunked = format!("{length:x}\r\n{CHAT}\r\n0\r\n\r\n");
    let cases = [
        format!("content-length: {length}\r\ntransfer-encoding: chunked\r\n"),
        format!("transfer-encoding: chunked\r\ncontent-length: {length}\r\n"),
        format!("Transfer-Encoding: Chunked\r\nContent-Length: {}\r\n", chunked.len()),
        "content-length: 0\r\ntransfer-encoding: chunked\r\n".to_owned(),
        format!("content-length: {length}\r\ncontent-length: {}\r\n", length + 1),
        format!("content-length: {length}, {}\r\n", length + 1),
        format!("content-length: {}\r\nx: y\r\ncontent-length: 0\r\n", chunked.len()),
    ];
    for headers in cases {
        assert_refused(&gateway, raw_chat(&headers, &chunked), 400, "bad_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_length_that_is_no_number_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for length in ["", "+64", "-1", "0x40", "6 4", "64.0", "1e2", "x", "６４", "64;", "99999999999999999999999999"] {
        assert_refused(&gateway, raw_chat(&format!("content-length: {length}\r\n"), CHAT), 400, "bad_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn other_transfer_encodings_are_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for coding in ["gzip", "gzip, chunked", "identity", "xchunked", "deflate"] {
        let raw = raw_chat(&format!("transfer-encoding: {coding}\r\n"), "0\r\n\r\n");
        assert_refused(&gateway, raw, 501, "unsupported_transfer_encoding");
    }
    // Two ways to say it twice, and codings that some servers take for chunked: refused with either code.
    for headers in [
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding: chunked;q=1\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: \x0bchunked\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding:\r\n",
    ] {
        let mut client = gateway.client();
        client.try_send(raw_chat(headers, "0\r\n\r\n"));
        let answer = client.response();
        assert!([400, 501].contains(&answer.status), "{headers} was answered {}", answer.status);
        client.assert_closed();
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_head_that_is_no_http_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let get = |rest: &str| format!("GET /health HTTP/1.1\r\n{rest}");
    let heads = [
        // Line ends.
        "GET /health HTTP/1.1\nhost: x\n\n".to_owned(),
        get("host: x\n\r\n"),
        get("host: x\r\na: b\nc: d\r\n\r\n"),
        "GET /health HTTP/1.1\nhost: x\r\n\r\n".to_owned(),
        get("host: x\r\na: b\rc: d\r\n\r\n"),
        get("host: x\r\n\n"),
        // Host.
        get("\r\n"),
        get("a: b\r\n\r\n"),
        get("host: x\r\nhost: x\r\n\r\n"),
        get("host: x\r\nHost: y\r\n\r\n"),
        // Fields.
        get("host: x\r\na : b\r\n\r\n"),
        get("host: x\r\n a: b\r\n\r\n"),
        get("host: x\r\na: b\r\n c\r\n\r\n"),
        get("host: x\r\na: b\r\n\tc\r\n\r\n"),
        get(" host: x\r\n\r\n"),
        get("host: x\r\nno colon\r\n\r\n"),
        get("host: x\r\n: empty name\r\n\r\n"),
        get("host: x\r\na b: c\r\n\r\n"),
        get("host: x\r\nä: c\r\n\r\n"),
        get("host: x\r\na: b\0c\r\n\r\n"),
        get("host: x\r\na: b\x7fc\r\n\r\n"),
        get("host: x\r\na(b): c\r\n\r\n"),
        // The first line.
        "GET  /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /health\r\nhost: x\r\n\r\n".to_owned(),
        "GET\r\nhost: x\r\n\r\n".to_owned(),
        "/health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GE(T /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GET /he\0alth HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        " GET /health HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "\u{1}\u{2}\u{3}\u{4}\r\n\r\n".to_owned(),
    ];
    for head in heads {
        assert_refused(&gateway, head, 400, "bad_request");
    }
}

#[test]
fn a_version_that_is_none_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for line in [
        "GET /health  HTTP/1.1",
        "GET /health HTTP/1.1 ",
        "GET /health HTP/1.1",
        "GET /health http/1.1",
        "GET /health HTTP/1",
        "GET /health HTTP/1.10",
        "GET /he alth HTTP/1.1",
    ] {
        let mut client = gateway.client();
        client.send(format!("{line}\r\nhost: x\r\n\r\n"));
        let answer = client.response();
        // Whether it is no request line or another version is a matter of taste.
        assert!([400, 505].contains(&answer.status), "{line} was answered {}", answer.status);
        client.assert_closed();
    }
}

#[test]
fn other_versions_are_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for head in [
        "GET /health HTTP/2.0\r\nhost: x\r\n\r\n",
        "GET /health HTTP/1.2\r\nhost: x\r\n\r\n",
        "GET /health HTTP/0.9\r\nhost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert_refused(&gateway, head, 505, "http_version_not_supported");
    }
}

#[test]
fn a_head_that_is_too_large_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let with = |fields: &str| format!("GET /health HTTP/1.1\r\nhost: x\r\n{fields}\r\n");
    let fields = |count: usize| (0..count).map(|n| format!("a{n}: b\r\n")).collect::<String>();
    let field = |length: usize| format!("a: {}\r\n", "b".repeat(length));
    for raw in [
        with(&fields(100)),
        with(&fields(101)),
        with(&fields(1000)),
        with(&field(33 * 1024)),
        with(&field(1 << 20)),
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "a".repeat(33 * 1024)),
        // Without an end at all.
        format!("GET /health HTTP/1.1\r\nhost: x\r\na: {}", "b".repeat(40 * 1024)),
    ] {
        let head: String = raw.chars().take(60).collect();
        let mut client = gateway.client();
        client.try_send(&raw);
        let answer = client.response();
        assert_eq!(answer.status, 431, "{head}… of {} bytes", raw.len());
        answer.assert_error(431, "headers_too_large");
        client.assert_closed();
    }
    for fields in [fields(99), field(32 * 1024 - 100)] {
        let mut client = gateway.client();
        client.send(with(&fields));
        assert_eq!(client.response().status, 200, "within the limits");
    }
}

#[test]
fn a_chunk_that_is_none_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let length = CHAT.len();
    let cases = [
        "zz\r\n".to_owned(),
        format!("-1\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("+{length:x}\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("0x{length:x}\r\n{CHAT}\r\n0\r\n\r\n"),
        format!(" {length:x}\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("\r\n{length:x}\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("{length:x}\n{CHAT}\r\n0\r\n\r\n"),
        format!("{length:x}\r\n{CHAT}0\r\n\r\n"),
        format!("{length:x}\r\n{CHAT}xx0\r\n\r\n"),
        format!("{length:x}\r\n{CHAT}\n0\r\n\r\n"),
        format!("{:x}\r\n{CHAT}\r\n0\r\n\r\n", length - 1),
        format!("{length:x};a\nb\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("fffffffffffffffff\r\n{CHAT}\r\n0\r\n\r\n"),
        format!("{length:x}\r\n{CHAT}\r\n0\r\nno trailer\r\n\r\n"),
        // A body that never becomes long, however much is sent.
        format!("1;{}\r\n \r\n", "x".repeat(1000)).repeat(66),
    ];
    for body in cases {
        assert_refused(&gateway, raw_chat("transfer-encoding: chunked\r\n", &body), 400, "bad_request");
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_chunked_request_goes_up_counted() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let (first, second) = CHAT.split_at(10);
    let bodies = [
        format!("{:x}\r\n{CHAT}\r\n0\r\n\r\n", CHAT.len()),
        format!("{:X}\r\n{first}\r\n{:X}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len()),
        format!("00{:x};name=value;other=\"q\"\r\n{CHAT}\r\n000\r\n\r\n", CHAT.len()),
        format!("{:x}\r\n{CHAT}\r\n0\r\nx-trailer: canary\r\n\r\n", CHAT.len()),
    ];
    let mut client = gateway.client();
    for (number, body) in bodies.iter().enumerate() {
        client.send(raw_chat("Transfer-Encoding: Chunked\r\n", body));
        let answer = client.response();
        assert_eq!(answer.status, 200, "{body}: {}", show(&answer.body));
        let request = upstream.wait_request(number);
        assert_bytes(&request.body, CHAT_UPSTREAM, "the body upstream");
        assert_eq!(request.header("content-length"), Some(CHAT_UPSTREAM.len().to_string()));
        assert_eq!(request.header("transfer-encoding"), None);
        assert!(!request.head.contains("canary"));
    }
}

#[test]
fn requests_share_a_connection() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut client = gateway.client();
    for _ in 0..3 {
        assert_eq!(client.request(&Request::get("/health")).status, 200);
        assert_eq!(client.request(&Request::chat(CHAT)).status, 200);
        assert_eq!(client.request(&Request::chat("no JSON")).status, 400);
        assert_eq!(client.request(&Request::get("/nothing")).status, 404);
        assert_eq!(client.request(&Request::new("HEAD", "/health")).status, 200);
    }
    let answer = client.request(&Request::get("/health").header("connection", "close"));
    assert_eq!(answer.header("connection"), Some("close"));
    client.assert_closed();
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    let upstream = Upstream::queued();
    upstream.then(|exchange| exchange.json("{\"n\":1}"));
    upstream.then(|exchange| exchange.sse(["data: 2\n\n", "data: [DONE]\n\n"]));
    upstream.then(|exchange| exchange.json("{\"n\":3}"));
    let gateway = start(&upstream);
    let mut client = gateway.client();
    let bodies = [CHAT, CHAT_STREAM, CHAT];
    let all: Vec<u8> = bodies.iter().flat_map(|body| Request::chat(body).bytes()).collect();
    client.send([all, Request::get("/health").bytes()].concat());
    assert_bytes(client.response().body, "{\"n\":1}", "the first");
    assert_bytes(client.response().body, "data: 2\n\ndata: [DONE]\n\n", "the second");
    assert_bytes(client.response().body, "{\"n\":3}", "the third");
    assert_eq!(client.response().json()["ok"], true);
    assert_eq!(upstream.requests().len(), 3);
}

#[test]
fn http_1_0_gets_an_answer_without_chunks() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    upstream.then(|exchange| exchange.sse(["data: 1\n\n", "data: [DONE]\n\n"]));
    let mut client = gateway.client();
    let length = CHAT_STREAM.len();
    client.send(format!(
        "POST {CHAT_PATH} HTTP/1.0\r\nauthorization: Bearer {KEY}\r\ncontent-length: {length}\r\n\r\n{CHAT_STREAM}"
    ));
    let answer = client.response();
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert_eq!(answer.header("transfer-encoding"), None);
    assert_bytes(&answer.body, "data: 1\n\ndata: [DONE]\n\n", "the stream");
    client.assert_closed();
    let mut client = gateway.client();
    client.send("GET /health HTTP/1.0\r\n\r\n");
    assert_eq!(client.response().status, 200, "host is not required");
    client.assert_closed();
}

#[test]
fn continue_is_said_once_when_the_body_is_wanted() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("MAX_BODY_BYTES", "1000").start();
    for expectation in ["100-continue", "100-Continue"] {
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).header("expect", expectation).head_bytes());
        let interim = client.head();
        assert_eq!(interim.head, "HTTP/1.1 100 Continue\r\n\r\n");
        client.send(CHAT);
        assert_eq!(client.response().status, 200);
    }
    // What is refused by its head alone gets the final status alone.
    let large = "x".repeat(1001);
    let refused = [
        (Request::chat(large), 413),
        (Request::chat(CHAT).header("content-encoding", "gzip"), 415),
        (Request::new("POST", "/v1/nothing").key(KEY).body(CHAT), 404),
        (Request::new("PUT", CHAT_PATH).key(KEY).body(CHAT), 405),
        (Request::new("POST", CHAT_PATH).body(CHAT), 401),
    ];
    for (request, status) in refused {
        let mut client = gateway.client();
        client.send(request.header("expect", "100-continue").head_bytes());
        assert_eq!(client.response().status, status);
    }
    // Sent along without waiting.
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).header("expect", "100-continue").bytes());
    let mut answer = client.head();
    if answer.status == 100 {
        answer = client.head();
    }
    assert_eq!(answer.status, 200);
}

#[test]
fn other_expectations_are_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for expectation in ["200-ok", "tea", "100-continue, tea"] {
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).header("expect", expectation).bytes());
        client.response().assert_error(417, "expectation_failed");
    }
    // The key comes first.
    let answer = gateway.request(&Request::new("POST", CHAT_PATH).header("expect", "tea").body(CHAT));
    answer.assert_error(401, "invalid_api_key");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_body_over_the_limit_is_refused() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("MAX_BODY_BYTES", "1000").start();
    let body = |length: usize| format!(r#"{{"model":"flash","a":"{}"}}"#, "x".repeat(length - 24));
    let chunked =
        |body: String| raw_chat("transfer-encoding: chunked\r\n", &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()));
    assert_eq!(body(1000).len(), 1000);
    assert_eq!(gateway.chat(body(1000)).status, 200, "exactly the limit");
    let mut client = gateway.client();
    client.send(chunked(body(1000)));
    assert_eq!(client.response().status, 200, "exactly the limit, chunked");
    for raw in
        [Request::chat(body(1001)).bytes(), chunked(body(1001)).into_bytes(), chunked(body(100_000)).into_bytes()]
    {
        let mut client = gateway.client();
        client.try_send(raw);
        let answer = client.response();
        answer.assert_error(413, "request_too_large");
        assert!(show(&answer.body).contains("1000"), "names the limit: {}", show(&answer.body));
    }
    // Announced and never sent.
    let mut client = gateway.client();
    client.send(raw_chat("content-length: 18446744073709551615\r\n", ""));
    client.response().assert_error(413, "request_too_large");
    // A chunked body that never ends.
    let mut client = gateway.client();
    client.send(raw_chat("transfer-encoding: chunked\r\n", &format!("{:x}\r\n{}", 2000, "x".repeat(1500))));
    client.response().assert_error(413, "request_too_large");
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn the_default_limit_is_32_mib() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut client = gateway.client();
    client.send(raw_chat(&format!("content-length: {}\r\n", 33_554_433), ""));
    let answer = client.response();
    answer.assert_error(413, "request_too_large");
    assert!(show(&answer.body).contains("33554432"), "{}", show(&answer.body));
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("MAX_BODY_BYTES", "1000").start();
    for _ in 0..10 {
        let mut client = gateway.client();
        // Far more than socket buffers hold, written before the first byte of the answer is read.
        client.try_send(Request::chat(vec![b'x'; 16 << 20]).bytes());
        client.response().assert_error(413, "request_too_large");
    }
}

#[test]
fn an_encoded_body_is_refused() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    for coding in ["gzip", "br", "deflate", "zstd", "gzip, identity", "x"] {
        let answer = gateway.request(&Request::chat(CHAT).header("content-encoding", coding));
        answer.assert_error(415, "unsupported_content_encoding");
    }
    for codings in [["identity", "gzip"], ["gzip", "identity"]] {
        let request =
            codings.iter().fold(Request::chat(CHAT), |request, coding| request.header("content-encoding", coding));
        gateway.request(&request).assert_error(415, "unsupported_content_encoding");
    }
    for coding in ["identity", "Identity"] {
        assert_eq!(gateway.request(&Request::chat(CHAT).header("content-encoding", coding)).status, 200);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[test]
fn bodies_are_counted_against_the_budget() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("BODY_BUDGET_BYTES", "100000")
        .env("MAX_BODY_BYTES", "100000")
        .env("METRICS_PORT", "0")
        .start();
    let body = format!(r#"{{"model":"flash","a":"{}"}}"#, "x".repeat(60_000));
    let mut first = gateway.client();
    first.send(Request::chat(&body).header("expect", "100-continue").head_bytes());
    assert_eq!(first.head().status, 100);
    first.send(&body[..50_000]);
    wait_for_held(&gateway, body.len());
    let answer = gateway.chat(&body);
    answer.assert_error(503, "out_of_memory");
    assert!(answer.retry_after() >= 1);
    // Chunked bodies count as they come.
    let mut chunked = gateway.client();
    chunked.try_send(raw_chat("transfer-encoding: chunked\r\n", &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len())));
    chunked.response().assert_error(503, "out_of_memory");
    assert_eq!(gateway.chat(CHAT).status, 200, "a small one fits");
    first.send(&body[50_000..]);
    assert_eq!(first.response().status, 200);
    assert_eq!(gateway.chat(&body).status, 200, "what was counted is given back");
    // A client that leaves gives it back too.
    let mut leaving = gateway.client();
    leaving.send(Request::chat(&body).header("expect", "100-continue").head_bytes());
    assert_eq!(leaving.head().status, 100);
    drop(leaving);
    gateway.wait_for_log("the client that left", |line| line["outcome"] == "client_hung_up");
    assert_eq!(gateway.chat(&body).status, 200);
}

/// Until bodies under way hold so much of the budget.
#[track_caller]
fn wait_for_held(gateway: &Gateway, bytes: usize) {
    let until = Instant::now() + DEADLINE;
    while gateway.metrics()["ai_proxy_body_budget_used_bytes"] != bytes as f64 {
        assert!(Instant::now() < until, "{}", gateway.metrics()["ai_proxy_body_budget_used_bytes"]);
    }
}

/// What is announced and does not come keeps nobody out.
#[test]
fn announced_bodies_hold_what_has_come_of_them() {
    const EACH: usize = 1 << 20;
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("MAX_BODY_BYTES", &EACH.to_string())
        .env("BODY_BUDGET_BYTES", &(2 * EACH).to_string())
        .env("METRICS_PORT", "0")
        .start();
    let (begin, end) = (r#"{"model":"flash","a":""#, r#""}"#);
    let body = format!("{begin}{}{end}", "x".repeat(EACH - begin.len() - end.len()));
    let mut announced: Vec<_> = (0..20)
        .map(|_| {
            let mut client = gateway.client();
            client.send(Request::chat(&body).head_bytes());
            client.send(&body[..1]);
            client
        })
        .collect();
    wait_for_held(&gateway, 20 * 16 * 1024);
    assert_eq!(gateway.chat(&body).status, 200, "a whole one fits");
    // All at once they do not fit: some are refused in the middle, and the others come to their end.
    for client in &mut announced {
        client.try_send(&body[1..EACH / 2]);
    }
    for client in &mut announced {
        client.try_send(&body[EACH / 2..]);
    }
    let (mut served, mut refused) = (0, 0);
    for client in &mut announced {
        let answer = client.response();
        if answer.status == 200 {
            served += 1;
        } else {
            answer.assert_error(503, "out_of_memory");
            assert!(answer.retry_after() >= 1 && answer.header("connection") == Some("close"));
            refused += 1;
        }
    }
    assert!(served >= 1 && refused >= 1, "{served} served, {refused} refused");
    wait_for_held(&gateway, 0);
}

/// However many clients send as much as they may, memory is bounded by the budget.
#[test]
fn large_bodies_take_no_more_memory_than_their_budget() {
    const EACH: usize = 4 << 20;
    const HELD: usize = 8;
    const REFUSED: usize = 40;
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("MAX_BODY_BYTES", &EACH.to_string())
        .env("BODY_BUDGET_BYTES", &(HELD * EACH).to_string())
        .env("METRICS_PORT", "0")
        .start();
    let (begin, end) = (r#"{"model":"flash","a":""#, r#""}"#);
    let body = format!("{begin}{}{end}", "x".repeat(EACH - begin.len() - end.len()));
    let before = gateway.memory();
    let mut held: Vec<_> = (0..HELD)
        .map(|_| {
            let mut client = gateway.client();
            client.send(Request::chat(&body).header("expect", "100-continue").head_bytes());
            assert_eq!(client.head().status, 100);
            client.send(&body[..EACH - 1]);
            client
        })
        .collect();
    wait_for_held(&gateway, HELD * EACH);
    let refused: Vec<_> = (0..REFUSED)
        .map(|_| {
            let mut client = gateway.client();
            client.try_send(Request::chat(&body).bytes());
            let answer = client.response();
            answer.assert_error(503, "out_of_memory");
            assert!(answer.retry_after() >= 1);
            client
        })
        .collect();
    assert_eq!(gateway.metrics()["ai_proxy_body_budget_used_bytes"], (HELD * EACH) as f64);
    let grown = gateway.memory() - before;
    assert!(grown < HELD * EACH + HELD * EACH / 2, "{grown} bytes for {} clients", HELD + REFUSED);
    drop(refused);
    for client in &mut held {
        client.send(&body[EACH - 1..]);
        assert_eq!(client.response().status, 200);
    }
}

/// Small bodies are many: those that wait for upstream's headers are counted until then.
#[test]
fn small_bodies_are_counted_while_upstream_is_silent() {
    let body = format!(r#"{{"model":"flash","a":"{}"}}"#, "x".repeat(10_000));
    let (headers, end) = (Gate::new(), Gate::new());
    let (to_headers, to_end) = (headers.clone(), end.clone());
    let upstream = Upstream::new(move |exchange| {
        to_headers.wait();
        exchange.sse_head();
        exchange.chunk("data: 1\n\n");
        to_end.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let budget = (body.len() * 3 + 5000).to_string();
    let gateway = Gateway::before(&upstream).env("BODY_BUDGET_BYTES", &budget).env("MAX_BODY_BYTES", "20000").start();
    let send = |body: &str| {
        let mut client = gateway.client();
        client.send(Request::chat(body).bytes());
        client
    };
    let mut waiting: Vec<_> = (0..3)
        .map(|number| {
            let client = send(&body);
            upstream.wait_request(number);
            client
        })
        .collect();
    for _ in 0..3 {
        gateway.chat(&body).assert_error(503, "out_of_memory");
    }
    assert_eq!(upstream.requests().len(), 3);
    // Upstream's headers give the bodies' room back, while the answers still run.
    headers.open();
    for client in &mut waiting {
        assert_eq!(client.head().status, 200);
        client.expect_body("data: 1\n\n");
    }
    let mut more: Vec<_> = (0..3).map(|_| send(&body)).collect();
    for client in &mut more {
        assert_eq!(client.head().status, 200);
        client.expect_body("data: 1\n\n");
    }
    end.open();
    for client in waiting.iter_mut().chain(&mut more) {
        client.expect_body("data: [DONE]\n\n");
        assert_eq!(client.piece(), Err(End::Complete));
    }
}

#[test]
fn empty_lines_between_requests_are_skipped() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut client = gateway.client();
    for before in ["", "\r\n", "\r\n\r\n", &"\r\n".repeat(1000)] {
        for request in [Request::get("/health"), Request::chat(CHAT)] {
            client.send([before.as_bytes(), &request.bytes()].concat());
            assert_eq!(client.response().status, 200, "after {} bytes", before.len());
        }
    }
    // In pieces, each of which is read before the next is sent: the answer before it proves that.
    let health = String::from_utf8(Request::get("/health").bytes()).expect("a request is text");
    for (ahead, rest) in [("\r", "\n"), ("\r\n", ""), ("\r\n\r", "\n"), ("\r\n\r\nGET /hea", "")] {
        client.send(format!("{health}{ahead}"));
        assert_eq!(client.response().status, 200);
        let next = if ahead.ends_with("GET /hea") { &health["GET /hea".len()..] } else { &health };
        client.send(rest);
        assert_eq!(gateway.get("/health").status, 200, "others are served meanwhile");
        client.send(next);
        assert_eq!(client.response().status, 200, "{} and {}", show(ahead), show(rest));
    }
    // Neither half of a line end is one, and a head that follows is no excuse.
    for stray in ["\n", "\r", "\n\n", "\r\r", "\r\r\n", "\n\r\n", "\r\n\n", "\r\n\r"] {
        assert_refused(&gateway, format!("{stray}{health}"), 400, "bad_request");
        let mut client = gateway.client();
        client.send(format!("{health}{stray}{health}"));
        assert_eq!(client.response().status, 200);
        client.response().assert_error(400, "bad_request");
        client.assert_closed();
    }
}

#[test]
fn an_absolute_target_is_understood() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    assert_eq!(gateway.get("http://gateway.test/health").status, 200);
    assert_eq!(gateway.get("http://gateway.test/v1/models").status, 401);
    assert_eq!(gateway.request(&Request::get("http://gateway.test/v1/models").key(KEY)).status, 200);
    for without_path in ["http://gateway.test", "http://gateway.test?x"] {
        assert_eq!(gateway.get(without_path).body, gateway.get("/").body);
    }
    let answer = gateway.request(&Request::new("CONNECT", "gateway.test:443"));
    assert!((400..500).contains(&answer.status), "{}", answer.head);
}

#[test]
fn an_idle_crowd_does_not_stop_a_request() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut crowd: Vec<_> = (0..200).map(|_| gateway.client()).collect();
    for client in crowd.iter_mut().step_by(2) {
        client.send("POST /v1/chat/completions HTTP/1.1\r\nhost");
    }
    assert_eq!(gateway.chat(CHAT).status, 200);
    // Those in mid-head go on as if nothing had been.
    let rest = format!(": x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{CHAT}", CHAT.len());
    for client in crowd.iter_mut().step_by(2) {
        client.send(&rest);
        assert_eq!(client.response().status, 200);
    }
}

#[test]
fn bytes_beyond_ascii_may_stand_in_a_value() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut client = gateway.client();
    client.send(b"GET /health HTTP/1.1\r\nhost: x\r\na: \xff\x80\xc3\xa9\ttab\r\nb:\r\nc:d\r\ne: f \t \r\n\r\n");
    assert_eq!(client.response().status, 200);
}

#[test]
fn what_follows_a_body_is_the_next_request() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream);
    let mut client = gateway.client();
    client.send([Request::chat(CHAT).bytes(), b"garbage\r\n\r\n".to_vec()].concat());
    assert_eq!(client.response().status, 200);
    client.response().assert_error(400, "bad_request");
    client.assert_closed();
    assert_bytes(&upstream.only_request().body, CHAT_UPSTREAM, "the body");
}
