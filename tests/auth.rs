//! Issued keys: which requests are let in, and that nothing else is judged, read or told before.
mod support;

use support::{
    CHAT, CHAT_PATH, DISABLED_KEY, Gateway, KEY, Request, Response, SECOND_KEY, UNKNOWN_KEY, Upstream, assert_bytes,
    show,
};

/// The answer without what differs from request to request.
fn comparable(answer: &Response) -> String {
    let lines = answer.head.split("\r\n").filter(|line| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !["date", "x-request-id", "server-timing"].contains(&name.as_str())
    });
    format!("{}\r\n{}", lines.collect::<Vec<_>>().join("\r\n"), show(&answer.body))
}

/// Every way to have no valid key.
fn bad_credentials() -> Vec<Vec<(&'static str, String)>> {
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let plain = |key: &str| ("x-api-key", key.to_owned());
    let mut all = vec![vec![]];
    for key in [
        UNKNOWN_KEY,
        DISABLED_KEY,
        "",
        " ",
        "x",
        "tester",
        "null",
        &KEY[..KEY.len() - 1],
        &KEY[1..],
        &KEY.to_uppercase(),
    ] {
        all.push(vec![bearer(key)]);
        all.push(vec![plain(key)]);
        all.push(vec![plain(key), bearer(UNKNOWN_KEY)]);
    }
    all.push(vec![plain(DISABLED_KEY), bearer(DISABLED_KEY)]);
    let longer = format!("{KEY}x");
    all.push(vec![bearer(&longer)]);
    all.push(vec![plain(&longer)]);
    for value in [
        KEY.to_owned(),
        format!("Basic {KEY}"),
        format!("Bearer{KEY}"),
        format!("Bearer: {KEY}"),
        format!("Bearer {KEY} x"),
        format!("Bearer {KEY},{KEY}"),
        format!("Bearer \"{KEY}\""),
        format!("XBearer {KEY}"),
        format!("Token {KEY}"),
        "Bearer".to_owned(),
    ] {
        all.push(vec![("authorization", value)]);
    }
    for value in [format!("Bearer {KEY}"), format!("\"{KEY}\""), format!("{KEY},{KEY}")] {
        all.push(vec![("x-api-key", value)]);
    }
    for (name, value) in
        [("api-key", KEY), ("x-goog-api-key", KEY), ("cookie", KEY), ("proxy-authorization", KEY), ("x-api-keys", KEY)]
    {
        all.push(vec![(name, value.to_owned())]);
    }
    all
}

fn with(request: Request, headers: &[(&str, String)]) -> Request {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

#[test]
fn every_refusal_is_the_same() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let bare = |method: &str, path: &str| Request::new(method, path);
    let requests = [
        bare("POST", CHAT_PATH).body(CHAT),
        bare("POST", CHAT_PATH).body("no JSON"),
        bare("POST", CHAT_PATH).body(""),
        bare("POST", CHAT_PATH).body(r#"{"model":"unknown"}"#),
        bare("POST", CHAT_PATH).header("content-encoding", "gzip").body(CHAT),
        bare("POST", CHAT_PATH).header("expect", "tea").body(CHAT),
        bare("POST", &format!("{CHAT_PATH}?key={KEY}&api_key={KEY}")).body(CHAT),
        bare("GET", CHAT_PATH),
        bare("DELETE", CHAT_PATH),
        bare("PATCH", "/v1/models"),
        bare("GET", "/v1/models"),
        bare("GET", "/v1/models/flash"),
        bare("GET", "/v1/models/unknown"),
        bare("GET", "/v1/unknown"),
        bare("GET", "/v1/"),
        bare("GET", "/v1/../health"),
        bare("POST", "/v1/embeddings").body("{}"),
        bare("OPTIONS", "/v1/models"),
        bare("BREW", "/v1/models"),
    ];
    let first = gateway.request(&requests[0]);
    first.assert_error(401, "invalid_api_key");
    assert_eq!(first.header("www-authenticate"), Some("Bearer"));
    let expected = comparable(&first);
    for request in &requests {
        let answer = gateway.request(request);
        assert_eq!(comparable(&answer), expected, "{}", show(request.bytes()));
    }
    for credentials in bad_credentials() {
        for request in [&requests[0], &requests[10]] {
            let request = with(request.clone(), &credentials);
            let answer = gateway.request(&request);
            assert_eq!(comparable(&answer), expected, "{}", show(request.bytes()));
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn one_valid_credential_admits() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let bearer = |key: &str| ("authorization", format!("Bearer {key}"));
    let plain = |key: &str| ("x-api-key", key.to_owned());
    let cases = [
        vec![bearer(KEY)],
        vec![plain(KEY)],
        vec![plain(KEY), bearer(UNKNOWN_KEY)],
        vec![plain(UNKNOWN_KEY), bearer(KEY)],
        vec![plain(DISABLED_KEY), bearer(KEY)],
        vec![plain(KEY), bearer(DISABLED_KEY)],
        vec![bearer(KEY), plain("")],
        vec![plain(KEY), ("authorization", "Basic x".to_owned())],
        vec![("authorization", format!("bearer {KEY}"))],
        vec![("authorization", format!("BEARER {KEY}"))],
        vec![("authorization", format!("bEaReR {KEY}"))],
        vec![("Authorization", format!("Bearer {KEY}"))],
        vec![("X-API-Key", KEY.to_owned())],
    ];
    for credentials in cases {
        let answer = gateway.request(&with(Request::get("/v1/models"), &credentials));
        assert_eq!(answer.status, 200, "{credentials:?}: {}", show(&answer.body));
    }
}

#[test]
fn x_api_key_is_tried_first() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (first, second, id) in [(KEY, SECOND_KEY, "tester"), (SECOND_KEY, KEY, "second"), (UNKNOWN_KEY, KEY, "tester")]
    {
        let request = Request::get("/v1/models").key(second).header("x-api-key", first);
        let answer = gateway.request(&request);
        assert_eq!(gateway.log_of(&answer)["key_id"], id);
    }
}

#[test]
fn two_keys_may_share_an_id() {
    let keys = format!(
        r#"[{{"id":"a","key":"{KEY}"}},{{"id":"a","key":"{SECOND_KEY}","enabled":true}},{{"id":"a","key":"{DISABLED_KEY}","enabled":false}}]"#
    );
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys).start();
    for (key, status) in [(KEY, 200), (SECOND_KEY, 200), (DISABLED_KEY, 401)] {
        assert_eq!(gateway.request(&Request::get("/v1/models").key(key)).status, status);
    }
}

#[test]
fn the_body_is_not_asked_for_before_the_key_is_known() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let request = Request::new("POST", CHAT_PATH).key(UNKNOWN_KEY).header("expect", "100-continue").body(CHAT);
    client.send(request.head_bytes());
    // The first thing that comes is the final status: no 100 before it.
    client.response().assert_error(401, "invalid_api_key");
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).header("expect", "100-continue").head_bytes());
    assert_eq!(client.head().status, 100);
    client.send(CHAT);
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_refusal_does_not_wait_for_the_body() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for framing in ["content-length: 1000000", "transfer-encoding: chunked"] {
        let mut client = gateway.client();
        client.send(format!(
            "POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {UNKNOWN_KEY}\r\n{framing}\r\n\r\n"
        ));
        client.response().assert_error(401, "invalid_api_key");
    }
}

#[test]
fn a_refusal_in_mid_body_reaches_a_client_that_sends_on() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let body = vec![b'x'; 8 << 20];
    let request = Request::new("POST", CHAT_PATH).key(UNKNOWN_KEY).body(body);
    // The gateway may close before it has all; what it said must be readable then.
    client.try_send(request.bytes());
    client.response().assert_error(401, "invalid_api_key");
}

#[test]
fn a_refused_body_is_never_taken_for_a_request() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let hidden = Request::get("/v1/models").key(KEY).bytes();
    let mut client = gateway.client();
    client.send(Request::new("POST", CHAT_PATH).key(UNKNOWN_KEY).body(hidden).bytes());
    client.close_sending_side();
    let raw = client.raw_to_end();
    assert_eq!(raw.windows(9).filter(|window| window == b"HTTP/1.1 ").count(), 1, "{}", show(&raw));
}

#[test]
fn a_key_admits_again_after_a_refusal_on_the_same_connection() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    assert_eq!(client.request(&Request::get("/v1/models")).status, 401);
    assert_eq!(client.request(&Request::get("/v1/models").key(KEY)).status, 200);
    assert_eq!(client.request(&Request::get("/v1/models")).status, 401, "a connection remembers no key");
}

#[test]
fn two_headers_of_one_kind_do_not_smuggle() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.request(&Request::get("/v1/models").key(UNKNOWN_KEY).key(DISABLED_KEY));
    assert_eq!(answer.status, 401);
    // Any one valid credential admits, wherever it stands; a refusal would do no harm, a crash would.
    let answer = gateway.request(&Request::get("/v1/models").key(UNKNOWN_KEY).key(KEY));
    assert!([200, 401].contains(&answer.status), "{}", answer.head);
}

#[test]
fn every_visible_ascii_character_may_stand_in_a_key() {
    let key: String = (0x21..=0x7e_u8).map(char::from).collect();
    let keys = serde_json::json!([{"id": "odd", "key": key}]).to_string();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys).start();
    for request in [Request::get("/v1/models").key(&key), Request::get("/v1/models").header("x-api-key", &key)] {
        let answer = gateway.request(&request);
        assert_eq!(answer.status, 200);
        assert_bytes(gateway.log_of(&answer)["key_id"].as_str().unwrap_or_default(), "odd", "the key's id");
    }
}
