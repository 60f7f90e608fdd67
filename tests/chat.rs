//! What a chat request becomes on its way up: the client's body with the bytes of `model` replaced, and a short list of
//! headers. What is no JSON object with a known alias never goes up.
mod support;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use support::{CHAT, CHAT_UPSTREAM, Client, Gateway, KEY, Request, UPSTREAM_PATH, Upstream, assert_bytes, show};

/// Stands in the corpus for the value of the `model` that counts.
const MODEL: &str = "@MODEL@";
const FLASH: &str = "google/gemini-2.5-flash";

/// Sends each body of `corpus` with the alias at [`MODEL`], and checks that upstream got the Vertex id there instead.
fn assert_only_model_replaced<S: AsRef<str>>(corpus: &[S]) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    for (number, body) in corpus.iter().enumerate() {
        let body = body.as_ref();
        assert_eq!(body.matches(MODEL).count(), 1, "{body}");
        let answer = client.request(&Request::chat(body.replace(MODEL, "\"flash\"")));
        assert_eq!(answer.status, 200, "{} {}", show(body), show(&answer.body));
        let request = upstream.wait_request(number);
        assert_bytes(&request.body, body.replace(MODEL, &format!("\"{FLASH}\"")), "the body upstream");
        assert_eq!(request.header("content-length"), Some(request.body.len().to_string()));
    }
}

#[test]
fn everything_but_the_model_is_kept_to_the_byte() {
    assert_only_model_replaced(&[
        // Numbers that a re-serialiser changes.
        r#"{"model":@MODEL@,"a":[1e-7,1.0,1E2,1E+2,-0,-0.0,0.10,1e999,-1e-999,123456789012345678901234567890,0.1e1]}"#,
        // Escapes and what need not be escaped.
        r#"{"model":@MODEL@,"a":"\/\u0041\u00e9\"\\\b\f\n\r\t\u0000\u001F\u001f","\u0061":"/"}"#,
        // Surrogates: a pair, and single ones, which the grammar allows.
        r#"{"model":@MODEL@,"a":"\ud83d\ude00 \ud800 \udc00\ud800 \uDBFF"}"#,
        // Not ASCII, with every length of UTF-8, also as names; U+2028; a noncharacter; U+FEFF inside.
        "{\"model\":@MODEL@,\"größe\":\"日本語 🙂 \u{2028}\u{ffff}\u{10ffff}\u{feff}\u{7f}\u{80}\",\"🙂\":\"é\u{301}\"}",
        // Whitespace of all four kinds in all places.
        " \t\r\n{ \t\r\n\"model\" \t\r\n: \t\r\n@MODEL@ \t\r\n, \t\r\n\"a\" : [ 1 , 2 ] , \"b\" : { } } \t\r\n\n",
        "{\r\n  \"model\": @MODEL@,\r\n  \"messages\": []\r\n}\r\n",
        // Order of names.
        r#"{"model":@MODEL@}"#,
        r#"{"zzz":1,"model":@MODEL@,"aaa":2}"#,
        r#"{"messages":[],"stream":false,"model":@MODEL@}"#,
        // Other names twice are the client's affair.
        r#"{"a":1,"a":2,"model":@MODEL@,"a":{"b":1,"b":2}}"#,
        // Odd names.
        r#"{"":0,"model":@MODEL@," model":1,"model ":2,"Model":3,"MODEL":4,"models":5,"mode":6,"model\u0000":7}"#,
        // `model` elsewhere.
        r#"{"a":{"model":"flash"},"model":@MODEL@,"b":[{"model":"flash"},{"model":"flash","model":1}],"c":"model","d":"\"model\":\"flash\""}"#,
        r#"{"messages":[{"role":"user","content":"{\"model\":\"flash\"}"}],"model":@MODEL@,"extra_body":{"google":{"model":"pro-preview"}}}"#,
        // The name itself with escapes.
        r#"{"mod\u0065l":@MODEL@,"a":1}"#,
        r#"{"\u006d\u006F\u0064\u0065\u006c":@MODEL@}"#,
        // Literals and empty things.
        r#"{"a":null,"b":true,"c":false,"d":"","e":[],"f":{},"model":@MODEL@,"g":[[],{},[{}]]}"#,
        // Single surrogates in a name.
        r#"{"\ud800":1,"model":@MODEL@}"#,
    ]);
}

#[test]
fn large_and_deep_bodies_are_kept_to_the_byte() {
    let large = "abc\\n\\u00e9é🙂 ".repeat(600_000);
    assert!(large.len() > 10_000_000);
    let deep = 300_000;
    let arrays = format!("{}{}", "[".repeat(deep), "]".repeat(deep));
    let objects = format!("{}1{}", "{\"a\":".repeat(deep), "}".repeat(deep));
    assert_only_model_replaced(&[
        format!(r#"{{"model":@MODEL@,"a":"{large}"}}"#),
        format!(r#"{{"a":"{large}","model":@MODEL@}}"#),
        format!(r#"{{"a":{arrays},"model":@MODEL@,"b":{arrays}}}"#),
        format!(r#"{{"a":{objects},"model":@MODEL@}}"#),
    ]);
}

/// JSON text of any kind, with whitespace anywhere.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "-?(0|[1-9][0-9]{0,18})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?",
        json_string(),
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..4), space())
                .prop_map(|(items, space)| format!("[{space}{}{space}]", items.join(&format!("{space},")))),
            (prop::collection::vec((json_string(), inner), 0..4), space()).prop_map(|(fields, space)| {
                let fields: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{space}{name}{space}:{value}")).collect();
                format!("{{{}{space}}}", fields.join(","))
            }),
        ]
    })
}

fn json_string() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[ !#-\\[\\]-~]{1,4}",
        "\\\\[\"\\\\/bfnrt]",
        "\\\\u[0-9a-fA-F]{4}"
            .prop_filter("single surrogates are tried elsewhere", |text| { !text[2..3].eq_ignore_ascii_case("d") }),
        "[é日🙂\u{2028}\u{ffff}]",
        Just("model".to_owned()),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|pieces| format!("\"{}\"", pieces.concat()))
}

fn space() -> impl Strategy<Value = String> {
    "[ \t\r\n]{0,3}"
}

/// Whether the JSON string `name` spells `model`.
fn is_model(name: &str) -> bool {
    serde_json::from_str::<String>(name).is_ok_and(|name| name == "model")
}

#[test]
fn any_object_is_kept_to_the_byte() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let client = std::cell::RefCell::new(gateway.client());
    let sent = std::cell::Cell::new(0);
    let field = (json_string().prop_filter("one model only", |name| !is_model(name)), json_text(), space());
    let fields = prop::collection::vec(field, 0..6);
    let mut runner = TestRunner::new(Config { cases: 200, failure_persistence: None, ..Config::default() });
    let result = runner.run(&(fields, any::<prop::sample::Index>(), space()), |(fields, at, space)| {
        let mut parts: Vec<String> =
            fields.iter().map(|(name, value, space)| format!("{name}{space}:{space}{value}{space}")).collect();
        parts.insert(at.index(parts.len() + 1), format!("\"model\"{space}:{space}{MODEL}{space}"));
        let body = format!("{space}{{{space}{}}}{space}", parts.join(&format!(",{space}")));
        let answer = client.borrow_mut().request(&Request::chat(body.replace(MODEL, "\"flash\"")));
        prop_assert_eq!(answer.status, 200, "{}", show(&answer.body));
        let request = upstream.wait_request(sent.replace(sent.get() + 1));
        let expected = body.replace(MODEL, &format!("\"{FLASH}\""));
        prop_assert_eq!(show(&request.body), show(expected));
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn an_alias_may_be_escaped_and_is_replaced_whole() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("MODEL_ALIASES_JSON", r#"{"a/b:c":"google/slash"}"#).start();
    let cases = [
        (r#""fl\u0061sh""#, FLASH),
        (r#""\u0066\u006C\u0061\u0073\u0068""#, FLASH),
        (r#""pro\u002dpreview""#, "google/gemini-3.1-pro-preview"),
        (r#""a\/b:c""#, "google/slash"),
    ];
    for (number, (alias, id)) in cases.into_iter().enumerate() {
        let answer = gateway.chat(format!(r#"{{"a":1.0,"model" :{alias} ,"b":[]}}"#));
        assert_eq!(answer.status, 200, "{alias}: {}", show(&answer.body));
        let expected = format!(r#"{{"a":1.0,"model" :"{id}" ,"b":[]}}"#);
        assert_bytes(&upstream.wait_request(number).body, expected, alias);
    }
}

/// Sends bodies that must be refused with `code`, then one good request: upstream may see that one only.
#[track_caller]
fn assert_refused<B: AsRef<[u8]>>(code: &str, bodies: &[B]) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    let mut let_in = Vec::new();
    for body in bodies {
        let answer = client.request(&Request::chat(body));
        if answer.status != 400 || answer.code() != code {
            let_in.push(format!("{} was answered {} {}", show(body), answer.status, show(&answer.body)));
            continue;
        }
        answer.assert_error(400, code);
        let error = &answer.json()["error"];
        let param = if code == "invalid_json" { serde_json::Value::Null } else { "model".into() };
        assert_eq!(error["param"], param, "{}", show(body));
        if code == "model_not_found" {
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains("flash") && message.contains("pro-preview"), "names the aliases: {message}");
        }
    }
    assert!(let_in.is_empty(), "{}", let_in.join("\n"));
    assert_eq!(client.request(&Request::chat(CHAT)).status, 200);
    assert_bytes(&upstream.only_request().body, CHAT_UPSTREAM, "the good request");
}

#[test]
fn what_is_not_one_json_object_is_refused() {
    let long = "x".repeat(100_000);
    let deep = "[".repeat(1_000_000);
    let closed_wrongly = format!(r#"{{"model":"flash","a":{}{}}}"#, "[".repeat(200_000), "]".repeat(199_999));
    let mut bodies: Vec<Vec<u8>> = [
        "",
        " ",
        "\r\n",
        "null",
        "true",
        "5",
        "\"flash\"",
        "[]",
        r#"["model","flash"]"#,
        r#"[{"model":"flash"}]"#,
        "nul",
        "{",
        "}",
        "{}}",
        r#"{"model":"flash""#,
        r#"{"model":"flash","#,
        r#"{"model":"flash",}"#,
        r#"{,"model":"flash"}"#,
        r#"{"model":"flash" "a":1}"#,
        r#"{"model" "flash"}"#,
        r#"{"model"="flash"}"#,
        r#"{"model":"flash":1}"#,
        // Something behind it.
        r#"{"model":"flash"} x"#,
        r#"{"model":"flash"}{"model":"flash"}"#,
        r#"{"model":"flash"},"#,
        "{\"model\":\"flash\"}\0",
        "{\"model\":\"flash\"}\u{a0}",
        "{\"model\":\"flash\"}\u{feff}",
        // Not JSON, though some parsers take it.
        r#"{model:"flash"}"#,
        r#"{'model':'flash'}"#,
        r#"{"model":'flash'}"#,
        r#"{"model":flash}"#,
        r#"{"model":"flash","a":NaN}"#,
        r#"{"model":"flash","a":Infinity}"#,
        r#"{"model":"flash","a":-Infinity}"#,
        r#"{"model":"flash","a":undefined}"#,
        r#"{"model":"flash","a":True}"#,
        r#"{"model":"flash","a":nulll}"#,
        r#"{"model":"flash","a":01}"#,
        r#"{"model":"flash","a":-01}"#,
        r#"{"model":"flash","a":1.}"#,
        r#"{"model":"flash","a":.5}"#,
        r#"{"model":"flash","a":+1}"#,
        r#"{"model":"flash","a":-}"#,
        r#"{"model":"flash","a":1e}"#,
        r#"{"model":"flash","a":1e+}"#,
        r#"{"model":"flash","a":0x10}"#,
        r#"{"model":"flash","a":1_000}"#,
        r#"{"model":"flash","a":[1,]}"#,
        r#"{"model":"flash","a":[,1]}"#,
        r#"{"model":"flash","a":[1 2]}"#,
        r#"{"model":"flash","a":[}]}"#,
        r#"{"model":"flash","a":{]}"#,
        r#"{"model":"flash" /* comment */}"#,
        "{\"model\":\"flash\" // comment\n}",
        "# comment\n{\"model\":\"flash\"}",
        // Whitespace that is none.
        "{\u{b}\"model\":\"flash\"}",
        "{\u{c}\"model\":\"flash\"}",
        "{\u{a0}\"model\":\"flash\"}",
        "{\u{2028}\"model\":\"flash\"}",
        "\u{feff}{\"model\":\"flash\"}",
        // Escapes that are none, strings that do not end.
        r#"{"model":"flash","a":"\x41"}"#,
        r#"{"model":"flash","a":"\u12"}"#,
        r#"{"model":"flash","a":"\u12G4"}"#,
        r#"{"model":"flash","a":"\U0041"}"#,
        r#"{"model":"flash","a":"\'"}"#,
        r#"{"model":"flash","a":"x}"#,
        r#"{"model":"flash","a":"\"}"#,
        r#"{"model":"flash","\q":1}"#,
        // Names that are none.
        r#"{"model":"flash",1:2}"#,
        r#"{"model":"flash",null:2}"#,
        r#"{"model":"flash",{}:2}"#,
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    // Control characters, raw.
    for control in 0..0x20_u8 {
        bodies.push([b"{\"model\":\"flash\",\"a\":\"x", &[control][..], b"y\"}"].concat());
    }
    bodies.push(b"{\"model\":\"flash\",\"a\nb\":1}".to_vec());
    // Bytes that are not UTF-8: in a string, a name, deep inside, behind the end; overlong, a surrogate, too high, cut short.
    for bad in [
        &b"\xff"[..],
        b"\x80",
        b"\xc0\xaf",
        b"\xe0\x80\xaf",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x9f\x99",
        b"\xc3",
    ] {
        bodies.push([b"{\"model\":\"flash\",\"a\":\"x", bad, b"y\"}"].concat());
        bodies.push([b"{\"x", bad, b"\":1,\"model\":\"flash\"}"].concat());
        bodies.push([b"{\"a\":{\"b\":[\"", bad, b"\"]},\"model\":\"flash\"}"].concat());
        bodies.push([b"{\"model\":\"flash\"}", bad].concat());
    }
    // Other encodings of Unicode.
    bodies.push(r#"{"model":"flash"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect());
    bodies.push(r#"{"model":"flash"}"#.encode_utf16().flat_map(u16::to_be_bytes).collect());
    // Long or deep, and wrong at the end only.
    bodies.push(format!(r#"{{"model":"flash","a":"{long}"#).into());
    bodies.push(format!(r#"{{"model":"flash","a":"{long}",}}"#).into());
    bodies.push(format!(r#"{{"model":"flash","a":{deep}"#).into());
    bodies.push(deep.into());
    bodies.push(closed_wrongly.into());
    assert_refused("invalid_json", &bodies);
}

#[test]
fn a_model_that_is_missing_is_refused() {
    let bodies = [
        "{}",
        " { } ",
        r#"{"messages":[]}"#,
        r#"{"Model":"flash"}"#,
        r#"{"a":{"model":"flash"}}"#,
        r#"{"model\u0000":"flash"}"#,
    ];
    assert_refused("missing_model", &bodies);
}

#[test]
fn a_model_that_is_no_string_is_refused() {
    let bodies = ["null", "5", "true", "[]", r#"["flash"]"#, "{}", r#"{"model":"flash"}"#];
    assert_refused("invalid_model", &bodies.map(|value| format!(r#"{{"a":1,"model":{value}}}"#)));
}

#[test]
fn a_model_that_stands_twice_is_refused() {
    assert_refused(
        "duplicate_model",
        &[
            r#"{"model":"flash","model":"flash"}"#,
            r#"{"model":"flash","model":"google/gemini-3.1-pro-preview"}"#,
            r#"{"model":"flash","mod\u0065l":"flash"}"#,
            r#"{"mod\u0065l":"flash","model":"flash"}"#,
            r#"{"\u006dodel":"flash","mode\u006C":"pro-preview"}"#,
            r#"{"model":"flash","a":{"model":1},"model":"pro-preview"}"#,
            r#"{"model":"flash","a":1,"model":null}"#,
            r#"{"model":"flash","model":"flash","model":"flash"}"#,
        ],
    );
}

#[test]
fn a_model_that_is_no_alias_is_refused() {
    let long = "x".repeat(10_000);
    let values = [
        "",
        " ",
        "google/gemini-2.5-flash",
        "google/gemini-3.1-pro-preview",
        "gemini-2.5-flash",
        "FLASH",
        "Flash",
        " flash",
        "flash ",
        "flash\\u0000",
        "flash\\n",
        "fla\u{200b}sh",
        "ﬂash",
        "pro_preview",
        "flash\\\"",
        "../flash",
        long.as_str(),
    ];
    assert_refused("model_not_found", &values.map(|value| format!(r#"{{"a":1,"model":"{value}"}}"#)));
}

#[test]
fn a_model_of_half_a_surrogate_never_goes_up() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(r#"{"model":"flash\ud800"}"#);
    assert_eq!(answer.status, 400, "{}", show(&answer.body));
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_bytes(&upstream.only_request().body, CHAT_UPSTREAM, "the good request");
}

/// A request with every kind of header that must stay down.
fn talkative_request() -> Request {
    Request::chat(CHAT)
        .header("x-api-key", KEY)
        .header("cookie", "session=canary")
        .header("x-forwarded-for", "203.0.113.9")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "canary.example")
        .header("x-real-ip", "203.0.113.9")
        .header("forwarded", "for=203.0.113.9")
        .header("via", "1.1 canary")
        .header("connection", "keep-alive, x-hop")
        .header("keep-alive", "timeout=5")
        .header("x-hop", "canary")
        .header("te", "trailers")
        .header("upgrade", "h2c")
        .header("proxy-authorization", "Basic canary")
        .header("proxy-connection", "keep-alive")
        .header("trailer", "x-canary")
        .header("user-agent", "OpenAI/Python canary")
        .header("accept-encoding", "gzip, br")
        .header("accept-language", "de")
        .header("origin", "https://canary.example")
        .header("referer", "https://canary.example/")
        .header("openai-organization", "canary")
        .header("x-stainless-lang", "python")
        .header("x-goog-api-key", "canary")
        .header("x-goog-user-project", "canary")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .header("x-cloud-trace-context", "0af7651916cd43dd8448eb211c80319c/1;o=1")
        .header("x-request-id", "canary")
        .header("if-none-match", "canary")
        .header("range", "bytes=0-1")
        .header("x-vertex-ai-llm-canary", "canary")
}

#[test]
fn upstream_gets_a_short_list_of_headers() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.request(&talkative_request()).status, 200);
    let request = upstream.only_request();
    assert!(request.head.starts_with(&format!("POST {UPSTREAM_PATH} HTTP/1.1\r\n")), "{}", request.head);
    let mut headers = request.headers();
    headers.sort();
    let length = CHAT_UPSTREAM.len().to_string();
    let expected = [
        ("accept-encoding", "identity"),
        ("authorization", "Bearer ya29.test-1"),
        ("content-length", length.as_str()),
        ("content-type", "application/json"),
        ("host", &upstream.address.to_string()),
        ("user-agent", concat!("ai-proxy/", env!("CARGO_PKG_VERSION"))),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for secret in ["canary", "203.0.113.9", KEY] {
        assert!(!request.head.contains(secret), "{secret} went up: {}", request.head);
    }
}

#[test]
fn four_headers_of_the_client_pass() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let passing = [
        ("accept", "text/event-stream, */*;q=0.1"),
        ("x-vertex-ai-llm-request-type", "shared"),
        ("x-vertex-ai-llm-shared-request-type", "flex"),
        ("x-server-timeout", "600"),
    ];
    let request = passing.into_iter().fold(talkative_request(), |request, (name, value)| request.header(name, value));
    assert_eq!(gateway.request(&request).status, 200);
    let request = upstream.only_request();
    for (name, value) in passing {
        assert_eq!(request.header(name).as_deref(), Some(value));
    }
    assert_eq!(request.headers().len(), 6 + passing.len(), "{}", request.head);
}

#[test]
fn a_quota_project_goes_up() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("GOOGLE_CLOUD_QUOTA_PROJECT", "quota-project").start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(upstream.only_request().header("x-goog-user-project").as_deref(), Some("quota-project"));
}

#[test]
fn the_content_type_of_the_client_does_not_matter() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (number, kind) in ["text/plain", "application/json; charset=utf-8", ""].into_iter().enumerate() {
        let request = Request::new("POST", "/v1/chat/completions").key(KEY).header("content-type", kind).body(CHAT);
        assert_eq!(gateway.request(&request).status, 200);
        assert_eq!(upstream.wait_request(number).header("content-type").as_deref(), Some("application/json"));
    }
}

#[test]
fn a_query_of_the_client_does_not_go_up() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let request = Request::new("POST", "/v1/chat/completions?key=canary").key(KEY).body(CHAT);
    assert_eq!(gateway.request(&request).status, 200);
    assert_eq!(upstream.only_request().path(), UPSTREAM_PATH);
}

#[test]
fn a_body_that_dribbles_in_is_forwarded_whole() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let mut client = Client::connect(gateway.address);
    for byte in Request::chat(CHAT).bytes() {
        client.send([byte]);
    }
    assert_eq!(client.response().status, 200);
    assert_bytes(&upstream.only_request().body, CHAT_UPSTREAM, "the body upstream");
}
