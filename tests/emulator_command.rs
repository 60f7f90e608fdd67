//! `ai-proxy emulator` as those use it who test other software: its options, its control endpoint, captured exchanges.
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use support::{
    CHAT, CHAT_STREAM, Client, Emulator, End, Gateway, Request, Response, UPSTREAM_PATH, assert_bytes, run, show, until,
};
use tempfile::TempDir;

/// What an emulator of this endpoint has to do on demand, with the scenarios that do it.
const QUIRKS: &[(&str, &[&str])] = &[
    (
        "signatures: enforced, of every size, the dummy in each spelling",
        &[
            "signature-missing",
            "signature-short",
            "signature-long",
            "signature-huge",
            "dummy-raw",
            "dummy-base64",
            "dummy-neither",
        ],
    ),
    (
        "errors: array, object and HTML, every status, also to a stream",
        &[
            "invalid-argument",
            "object-error",
            "html-404",
            "failed-precondition",
            "token-refused",
            "forbidden",
            "wrong-location",
            "rate-limited",
            "cancelled",
            "internal",
            "unknown",
            "overloaded",
            "deadline",
        ],
    ),
    (
        "429 and 503: with and without Retry-After, in bursts, on the n-th call",
        &["rate-limited-retry-after", "overloaded-retry-after", "rate-limited-burst", "third-call", "sometimes"],
    ),
    ("models: bare, unknown, at another location", &["malformed-model", "wrong-location"]),
    ("missing parts of an answer", &["no-message", "no-tokens", "empty", "length"]),
    (
        "streams that fail midway",
        &[
            "json-tail",
            "error-event",
            "error-array-event",
            "no-done",
            "cut",
            "cut-in-character",
            "stall",
            "silent-middle",
            "reset",
        ],
    ),
    (
        "chunks: place of usage, the end apart",
        &["usage-every-chunk", "usage-extra-chunk", "usage-last-chunk-apart", "usage-nowhere", "finish-apart"],
    ),
    (
        "tool calls",
        &[
            "tool-stop",
            "no-index",
            "index-zero",
            "fragments",
            "parallel-fragments",
            "parallel-calls",
            "parallel-apart",
            "same-name",
        ],
    ),
    ("filters", &["content-filter", "blocked", "malformed-call", "malformed-call-refusal", "blocked-midway"]),
    ("tokens that are no good", &["token-expired", "token-refused", "forbidden"]),
    ("JSON that a re-serialising proxy alters", &["reordered", "indented", "odd-numbers", "escapes", "odd-stream"]),
    ("thoughts", &["thought-flag", "thought-tags", "thought-developer", "thought-signature-last"]),
    (
        "framing of streams",
        &[
            "crlf",
            "mixed-endings",
            "comments",
            "no-blank",
            "together",
            "pairs",
            "odd-pieces",
            "byte-by-byte",
            "big-event",
        ],
    ),
    ("parameters", &["unknown-field", "strict-parameters", "both-thinking", "thinking-level"]),
    (
        "the metadata server and the token endpoints",
        &[
            "metadata-short",
            "metadata-same",
            "metadata-404",
            "metadata-500",
            "metadata-slow",
            "metadata-garbled",
            "grant-refused",
        ],
    ),
    ("big bodies", &["request-too-large", "front-end-too-large", "big-answer"]),
    ("a slow first byte, and connections", &["late-headers", "late-json", "silent-start", "go-away", "stream-cap"]),
    ("pictures in an answer", &["image", "image-stream"]),
];

/// What users report of this endpoint, as far as a gateway can see it.
const SYMPTOMS: &[(&str, &[&str])] = &[
    ("400 on the second step of a tool", &["signature-missing", "signature-corrupted"]),
    ("429 with free quota", &["rate-limited", "rate-limited-burst"]),
    ("404 Publisher Model", &["wrong-location"]),
    ("`400 status code (no body)`", &["invalid-argument", "array-in-pieces"]),
    ("400 Malformed publisher model", &["malformed-model"]),
    ("empty answers", &["empty", "no-message", "no-tokens", "no-choices"]),
    ("a tool's turn ends with stop", &["tool-stop"]),
    ("no index, or always the same", &["no-index", "index-zero"]),
    ("a token dies after an hour", &["token-expired"]),
    ("400 thinking level", &["thinking-level", "both-thinking"]),
    ("Unknown name", &["unknown-field", "strict-parameters"]),
    ("thoughts in the content", &["thought-flag", "thought-developer"]),
    ("400 for a role", &["wrong-role", "developer-role"]),
    ("a stream stops without an error", &["json-tail", "no-done", "cut"]),
    ("too few tokens are told", &["no-tokens", "usage-nowhere"]),
    ("a blocked prompt", &["blocked", "content-filter"]),
    ("an error without detail", &["invalid-argument"]),
    ("parallel calls of one name, then 400 for their count", &["same-name", "part-count"]),
];

const PRO: &str = "google/gemini-3.1-pro-preview";

fn folder(files: &[(&str, Value)]) -> TempDir {
    let folder = TempDir::new().expect("a temporary directory");
    for (name, content) in files {
        fs::write(folder.path().join(name), content.to_string()).expect("a file can be written");
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the path is text")
}

/// A chat as upstream gets it, with a bearer that every emulator takes.
fn asking(body: &Value) -> Request {
    let request = Request::new("POST", UPSTREAM_PATH).header("content-type", "application/json");
    request.header("authorization", "Bearer eyJhbGciOi.eyJpc3MiOi.c2lnbg").body(body.to_string())
}

fn saying(said: &str, stream: bool) -> Request {
    let messages = json!([{"role": "user", "content": said}]);
    asking(&json!({"model": "google/gemini-2.5-flash", "stream": stream, "messages": messages}))
}

#[track_caller]
fn content(answer: &Response) -> String {
    let content = answer.json()["choices"][0]["message"]["content"].as_str().map(str::to_owned);
    content.unwrap_or_else(|| panic!("no content: {}", show(&answer.body)))
}

#[test]
fn the_list_has_a_line_for_each_scenario() {
    let listed = run(&["emulator", "--list"], &[]);
    assert!(listed.status.success());
    let listed = String::from_utf8(listed.stdout).expect("a text");
    let emulator = Emulator::start(&[]);
    let scenarios = emulator.control("GET", "scenarios", None);
    let scenarios = scenarios["scenarios"].as_array().expect("a list");
    assert!(scenarios.len() > 150);
    let mut families = std::collections::BTreeSet::new();
    for scenario in scenarios {
        let (name, about) = (scenario["name"].as_str().expect("a name"), scenario["about"].as_str().expect("a line"));
        let lines = listed.lines().filter(|line| line[2.min(line.len())..].starts_with(&format!("{name} ")));
        let lines: Vec<&str> = lines.collect();
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(lines[0].ends_with(about), "{name}: {lines:?}");
        families.insert(scenario["family"].as_str().expect("a family"));
    }
    assert_eq!(families.len(), 20, "{families:?}");
    // Nothing of what is known of the endpoint's habits may get lost.
    let names: std::collections::BTreeSet<&str> =
        scenarios.iter().map(|scenario| scenario["name"].as_str().expect("a name")).collect();
    for (what, of) in QUIRKS.iter().chain(SYMPTOMS) {
        for name in *of {
            assert!(names.contains(name), "{what}: no scenario '{name}'");
        }
    }
}

#[test]
fn scenarios_of_a_folder_are_added_and_take_the_place_of_embedded_ones() {
    let mine = folder(&[
        (
            "a.json",
            json!({"name": "rate-limited", "about": "mine", "when": {"marker": "rate-limited"},
            "answer": {"error": {"code": 418, "message": "I am mine, {project}.", "status": "TEAPOT"}}}),
        ),
        (
            "b.json",
            json!({"name": "by-header", "about": "mine", "when": {"headers": {"x-server-timeout": "7"}},
            "answer": {"completion": {"text": "By header."}}}),
        ),
        ("ignored.txt", json!("no scenario")),
    ]);
    let emulator = Emulator::start(&["--scenarios", text(mine.path())]);
    let answer = emulator.request(&saying("[emulator:rate-limited]", false));
    assert_eq!(answer.status, 418);
    assert_eq!(answer.json()[0]["error"]["message"], "I am mine, test-project.");
    assert_eq!(content(&emulator.request(&saying("Hm.", false).header("x-server-timeout", "7"))), "By header.");
    assert_eq!(emulator.request(&saying("[emulator:overloaded]", false)).status, 503, "the others stay");
    let names = emulator.control("GET", "scenarios", None);
    let same = names["scenarios"].as_array().expect("a list").iter().filter(|one| one["name"] == "rate-limited");
    assert_eq!(same.count(), 1);
}

#[test]
fn a_bad_file_is_refused_with_its_name_and_the_field() {
    let scenario = |answer: Value| json!({"name": "x", "about": "x", "when": {"marker": "x"}, "answer": answer});
    let exchange = json!({"version": 1, "request": {"method": "POST", "path": "/"},
        "response": {"status": 200, "headers": [], "frames": [{"after_ms": -1, "text": ""}]}});
    for (option, content, field) in [
        (
            "--scenarios",
            scenario(json!({"raw": {"code": 200, "frames": [{"wait_ms": "long"}]}})),
            "answer.raw.frames[0]",
        ),
        (
            "--scenarios",
            scenario(json!({"error": {"code": 42, "message": "", "status": ""}})),
            "answer.error.code: must",
        ),
        ("--scenarios", json!([]), "bad.json: "),
        ("--replay", exchange, "response.frames[0].after_ms"),
    ] {
        let folder = folder(&[("bad.json", content)]);
        for command in ["emulator", "dev"] {
            let refused = run(&[command, option, text(folder.path())], &[("PORT", "0")]);
            let said = String::from_utf8(refused.stderr).expect("a text");
            assert_eq!(refused.status.code(), Some(2), "{said}");
            assert!(said.contains("bad.json: ") && said.contains(field), "{option}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
    }
    for (arguments, said) in [
        (&["emulator", "--always", "no-such"][..], "--always: there is no scenario"),
        (&["emulator", "--always", "metadata-404"], "--always: there is no scenario"),
        (&["emulator", "--scenarios", "/no/such/folder"], "--scenarios: /no/such/folder: "),
        (&["emulator", "--tls", "/no/such/folder/x"], "--tls: cannot write"),
        (&["serve", "--replay", "x"], "these options are for"),
    ] {
        let refused = run(arguments, &[("PORT", "0")]);
        assert_eq!(refused.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(said), "{}", show(&refused.stderr));
    }
    assert_eq!(run(&["emulator"], &[("PORT", "x")]).status.code(), Some(64));
}

#[test]
fn a_marker_that_is_misspelt_is_told() {
    let emulator = Emulator::start(&[]);
    let answer = emulator.request(&saying("Say hi. [emulator:rate-limit]", true));
    assert_eq!(answer.status, 400);
    assert!(show(&answer.body).contains("The emulator has no scenario \\'rate-limit\\'"), "{}", show(&answer.body));
}

#[test]
fn refusals_of_a_model_name_the_one_that_was_asked_for() {
    let emulator = Emulator::start(&[]);
    for (scenario, said) in [
        ("wrong-location", "/publishers/google/models/gemini-2.5-flash` was not found"),
        ("malformed-model", "(`model`: 'gemini-2.5-flash')"),
    ] {
        let answer = emulator.request(&saying(&format!("[emulator:{scenario}]"), false));
        let text = answer.json().to_string();
        assert!(text.contains(said), "{scenario}: {text}");
    }
}

#[test]
fn one_scenario_can_be_there_always() {
    let emulator = Emulator::start(&["--always", "overloaded"]);
    assert_eq!(emulator.request(&saying("Say hi.", false)).status, 503);
    assert_eq!(emulator.request(&saying("[emulator:internal]", false)).status, 500, "another can be asked for");
}

#[test]
fn the_next_calls_are_set_and_what_was_received_is_told() {
    let emulator = Emulator::start(&[]);
    emulator.next("overloaded", 2);
    emulator.next("internal", 1);
    assert_eq!(emulator.control("GET", "next", None)["next"], json!([["overloaded", 2], ["internal", 1]]));
    let statuses = (0..4).map(|_| emulator.request(&saying("Say hi.", false)).status);
    assert_eq!(statuses.collect::<Vec<u16>>(), [503, 503, 500, 200]);

    let exchanges = emulator.chats_since(0);
    let told: Vec<(&Value, &Value)> = exchanges.iter().map(|one| (&one["scenario"], &one["status"])).collect();
    assert_eq!(told[0], (&json!("overloaded"), &json!(503)));
    assert_eq!(told[3], (&Value::Null, &json!(200)));
    assert!(exchanges[3]["request"]["text"].as_str().expect("a text").contains("Say hi."));
    assert!(exchanges[3]["answer"]["text"].as_str().expect("a text").contains("Hi there!"));
    let everything = emulator.control("GET", "exchanges", None).to_string();
    assert!(!everything.contains("eyJhbGciOi"), "a bearer is told");
    assert!(everything.contains(r#"["authorization","sha256:"#));
    assert_eq!(emulator.chats_since(3).len(), 1);
    emulator.control("DELETE", "exchanges", None);
    assert_eq!(emulator.control("GET", "exchanges", None)["exchanges"], json!([]));

    emulator.next("overloaded", 5);
    emulator.control("DELETE", "next", None);
    assert_eq!(emulator.request(&saying("Say hi.", false)).status, 200);

    let control = |request: Request| emulator.request(&request.host("127.0.0.1:8090")).status;
    assert_eq!(control(Request::new("POST", "/_emulator/next").body(r#"{"scenario":"no-such"}"#)), 404);
    assert_eq!(control(Request::new("POST", "/_emulator/next").body(r#"{"scenari":"x"}"#)), 400);
    assert_eq!(control(Request::get("/_emulator/other")), 404);
    // A page in a browser could reach it too.
    let exchanges = || Request::get("/_emulator/exchanges");
    assert_eq!(control(exchanges()), 200);
    assert_eq!(control(exchanges().header("origin", "https://evil.example")), 403);
    assert_eq!(control(exchanges().header("sec-fetch-site", "same-origin")), 403);
    assert_eq!(emulator.request(&exchanges().host("evil.example")).status, 403, "a name that leads here");
}

#[test]
fn tokens_can_be_revoked() {
    let emulator = Emulator::start(&[]);
    let gateway = emulator.gateway().start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let calls = emulator.control("GET", "state", None)["token_calls"].as_u64();
    emulator.control("POST", "revoke-tokens", None);
    // The gateway is told with a 401, gets another, and asks again.
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200, "{}", show(&answer.body));
    assert!(emulator.control("GET", "state", None)["token_calls"].as_u64() > calls);
    assert_eq!(emulator.chats_since(0).iter().filter(|exchange| exchange["status"] == 401).count(), 1);
}

#[test]
fn captured_exchanges_are_answered_again() {
    let path = UPSTREAM_PATH.replace("test-project", "captured");
    let chat = |model: &str, stream: bool, response: Value| {
        json!({"version": 1, "request": {"method": "POST", "path": path, "model": model, "stream": stream},
            "response": response})
    };
    let flash = "google/gemini-2.5-flash";
    let json_answer = |status: u16, body: &str| {
        json!({"status": status, "headers": [["content-type", "application/json"], ["x-captured", "yes"],
            ["transfer-encoding", "chunked"]], "frames": [{"text": body}]})
    };
    let stream = json!({"status": 200, "headers": [["content-type", "text/event-stream"]], "frames": [
        {"after_ms": 1000, "text": "data: {\"é\":"}, {"after_ms": 1000, "base64": "MX0KCg=="}], "end": "cut"});
    let captured = folder(&[
        ("1.json", chat(flash, false, json_answer(200, "{ \"first\" : 1.0 }"))),
        ("2.json", chat(flash, false, json_answer(429, "[{\"error\":{\"message\":\"second\"}}]"))),
        ("3.json", chat(flash, true, stream)),
        (
            "4.json",
            json!({"version": 1, "request": {"method": "GET", "path": "/v1beta1/publishers/google/models"},
            "response": json_answer(200, "{\"publisherModels\":[]}")}),
        ),
    ]);
    let emulator = Emulator::start(&["--replay", text(captured.path()), "--speed", "10"]);
    // They come in turn, and then again; no bearer is judged.
    let request = Request::new("POST", UPSTREAM_PATH).body(CHAT.replace("\"flash\"", &format!("\"{flash}\"")));
    for (status, body) in [(200, "{ \"first\" : 1.0 }"), (429, "[{\"error\":{\"message\":\"second\"}}]")].repeat(2) {
        let answer = emulator.request(&request);
        assert_eq!((answer.status, answer.header("x-captured")), (status, Some("yes")));
        assert_bytes(&answer.body, body, "captured");
    }
    let began = Instant::now();
    let answer = emulator.request(&saying("Whatever", true));
    let took = began.elapsed();
    assert_bytes(&answer.body, "data: {\"é\":1}\n\n", "a stream");
    assert_eq!((answer.end, answer.pieces.len()), (End::Cut, 2));
    assert!(took > Duration::from_millis(190) && took < Duration::from_secs(2), "{took:?}: two seconds, at ten times");
    assert_eq!(
        emulator.request(&Request::get("/v1beta1/publishers/google/models")).json(),
        json!({"publisherModels": []})
    );
    let none = emulator.request(&asking(&json!({"model": PRO, "messages": []})));
    assert_eq!(none.status, 404);
    assert!(show(&none.body).contains("No captured exchange is like this request"), "{}", show(&none.body));

    // The same behind the gateway, which gets its tokens as ever.
    let gateway = emulator.gateway().start();
    assert_bytes(gateway.chat(CHAT).body, "{ \"first\" : 1.0 }", "through the gateway");
    assert_bytes(gateway.chat(CHAT).body, "{\"error\":{\"message\":\"second\"}}", "through the gateway");
}

/// A step of a tool's turn: what is called, and what a client sends back that keeps `signature` of it.
fn history(call: &Value, marker: &str) -> Value {
    json!([{"role": "user", "content": format!("What is the weather in Paris? {marker}")},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "Rain."}])
}

fn weather(model: &str, messages: &Value) -> Value {
    json!({"model": model, "messages": messages, "tools": [{"type": "function", "function": {"name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]})
}

fn first_call(answer: &Response) -> Value {
    answer.json()["choices"][0]["message"]["tool_calls"][0].clone()
}

fn signature(call: &Value) -> &str {
    call["extra_content"]["google"]["thought_signature"].as_str().unwrap_or_default()
}

#[test]
fn signatures_are_of_the_size_and_kind_that_is_asked_for() {
    let emulator = Emulator::start(&[]);
    let ask = |marker: &str| {
        let messages =
            json!([{"role": "user", "content": format!("What is the weather in Paris? [emulator:{marker}]")}]);
        first_call(&emulator.request(&asking(&weather(PRO, &messages))))
    };
    for (marker, least, most) in [
        ("signature-short", 96, 100),
        ("signature-long", 10_676, 10_680),
        ("signature-huge", 99_996, 100_000),
        ("signature-absent", 0, 0),
    ] {
        let call = ask(marker);
        let length = signature(&call).len();
        assert!((least..=most).contains(&length), "{marker}: {length}");
        let back = emulator.request(&asking(&weather(PRO, &history(&call, ""))));
        assert_eq!(back.status, if marker == "signature-absent" { 400 } else { 200 }, "{marker}");
    }
    let corrupted = ask("signature-corrupted");
    let back = emulator.request(&asking(&weather(PRO, &history(&corrupted, ""))));
    assert_eq!((back.status, &back.json()[0]["error"]["message"]), (400, &json!("Corrupted thought signature.")));

    // The dummy, in the spellings that are taken; and the words in which a missing one is refused.
    let mut call = ask("signature-absent");
    let refused = emulator.request(&asking(&weather(PRO, &history(&call, "[emulator:developer-wording]"))));
    assert!(
        show(&refused.body).contains("is missing a thought_signature in functionCall parts"),
        "{}",
        show(&refused.body)
    );
    for (spelling, of) in
        [("skip_thought_signature_validator", "raw"), ("c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=", "base64")]
    {
        call["extra_content"] = json!({"google": {"thought_signature": spelling}});
        for marker in ["raw", "base64", "neither"] {
            let request = weather(PRO, &history(&call, &format!("[emulator:dummy-{marker}]")));
            let taken = emulator.request(&asking(&request)).status == 200;
            assert_eq!(taken, marker == of, "{spelling} with dummy-{marker}");
        }
        assert_eq!(emulator.request(&asking(&weather(PRO, &history(&call, "")))).status, 200, "either, by itself");
    }
}

#[test]
fn the_gateway_keeps_signatures_of_every_size() {
    let emulator = Emulator::start(&[]);
    let gateway = emulator.gateway().start();
    // One beyond what is remembered is not, and the model is told to do without.
    let cases = [
        ("signature-short", "kept=1, skipped=0"),
        ("signature-long", "kept=1, skipped=0"),
        ("signature-huge", "kept=0, skipped=1"),
    ];
    for (marker, told) in cases {
        let messages =
            json!([{"role": "user", "content": format!("What is the weather in Paris? [emulator:{marker}]")}]);
        let mut call = first_call(&gateway.chat(weather("pro-preview", &messages).to_string()));
        assert!(!signature(&call).is_empty());
        // As a client does that knows nothing of them.
        call.as_object_mut().expect("an object").remove("extra_content");
        let answer = gateway.chat(weather("pro-preview", &history(&call, "")).to_string());
        assert_eq!(answer.status, 200, "{marker}: {}", show(&answer.body));
        assert_eq!(answer.header("x-ai-proxy-thought-signatures"), Some(told), "{marker}");
    }
}

#[test]
fn strictness_is_asked_for() {
    let emulator = Emulator::start(&[]);
    let ask = |marker: &str, role: &str| {
        let messages =
            json!([{"role": role, "content": "Be brief."}, {"role": "user", "content": format!("Say hi. {marker}")}]);
        let request = json!({"model": "google/gemini-2.5-flash", "messages": messages, "store": true, "metadata": {}});
        emulator.request(&asking(&request))
    };
    assert_eq!(ask("", "system").status, 200);
    assert!(show(&ask("[emulator:strict-parameters]", "system").body).contains("Unknown name"));
    assert!(show(&ask("", "developer").body).contains("Please use a valid role"));
    assert_eq!(ask("[emulator:developer-role]", "developer").status, 200);
}

#[test]
fn credentials_of_other_kinds_get_tokens() {
    let emulator = Emulator::start(&[]);
    let token = |path: &str, kind: &str, body: &str| {
        let answer = emulator.request(&Request::new("POST", path).header("content-type", kind).body(body));
        (answer.status, answer.json())
    };
    const FORM: &str = "application/x-www-form-urlencoded";
    let jwt = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJ.canary.x";
    let refresh =
        json!({"grant_type": "refresh_token", "refresh_token": "canary", "client_id": "x", "client_secret": "x"});
    let exchange = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&subject_token=canary";
    let mut bearers = Vec::new();
    for (path, kind, body) in
        [("/token", FORM, jwt), ("/token", "application/json", &refresh.to_string()), ("/v1/token", FORM, exchange)]
    {
        let (status, told) = token(path, kind, body);
        assert_eq!((status, &told["token_type"]), (200, &json!("Bearer")), "{path}: {told}");
        bearers.push(told["access_token"].as_str().expect("a token").to_owned());
    }
    let impersonate = "/v1/projects/-/serviceAccounts/me@x.iam.gserviceaccount.com:generateAccessToken";
    let told =
        emulator.request(&Request::new("POST", impersonate).header("authorization", "Bearer x").body("{}")).json();
    bearers.push(told["accessToken"].as_str().expect("a token").to_owned());
    for bearer in bearers {
        let request = Request::new("POST", UPSTREAM_PATH).header("authorization", &format!("Bearer {bearer}"));
        assert_eq!(emulator.request(&request.body(CHAT.replace("flash", "google/gemini-2.5-flash"))).status, 200);
    }
    assert_eq!(token("/token", FORM, "grant_type=password").1["error"], "unsupported_grant_type");
    assert_eq!(token("/token", FORM, "grant_type=refresh_token").1["error"], "invalid_request");
    emulator.next("grant-refused", 1);
    assert_eq!(
        token("/token", FORM, jwt),
        (400, json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."}))
    );
    assert!(!emulator.control("GET", "exchanges", None).to_string().contains("canary"), "a secret is told");

    // Google's own library, with a user's credentials.
    let user = json!({"type": "authorized_user", "client_id": "x", "client_secret": "x", "refresh_token": "x",
        "token_uri": format!("http://{}/token", emulator.address)});
    let gateway = Gateway::before(&emulator).file("GOOGLE_APPLICATION_CREDENTIALS", &user.to_string()).start();
    until("a bearer", || (gateway.get("/readyz").status == 200).then_some(()));
    assert_eq!(gateway.chat(CHAT).status, 200);
}

#[test]
fn http2_is_spoken_with_prior_knowledge() {
    let emulator = Emulator::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let stream = tokio::net::TcpStream::connect(emulator.address).await.expect("the emulator accepts connections");
        let handshake =
            hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("HTTP/2");
        let ended = tokio::spawn(connection);
        let ask = |marker: &str| {
            let messages = json!([{"role": "user", "content": format!("[emulator:{marker}]")}]);
            let body = json!({"model": "google/gemini-2.5-flash", "stream": true, "messages": messages}).to_string();
            http::Request::post(format!("http://{}{UPSTREAM_PATH}", emulator.address))
                .header("authorization", "Bearer eyJhbGciOi.eyJpc3MiOi.c2lnbg")
                .body(Full::from(body))
                .expect("a request")
        };
        let answer = sender.send_request(ask("together")).await.expect("an answer");
        assert_eq!((answer.status(), answer.version()), (http::StatusCode::OK, http::Version::HTTP_2));
        let refused = sender.send_request(ask("refused-stream")).await.expect_err("refused");
        let reason = std::error::Error::source(&refused).and_then(|cause| cause.downcast_ref::<h2::Error>()?.reason());
        assert_eq!(reason, Some(h2::Reason::REFUSED_STREAM));
        // The stream on which it goes away ends well; then the connection does.
        let going = sender.send_request(ask("go-away")).await.expect("an answer");
        let body = going.into_body().collect().await.expect("all of it").to_bytes();
        assert!(body.ends_with(b"data: [DONE]\n\n"), "{}", show(&body));
        ended.await.expect("no panic").expect("a good end");
    });
}

#[test]
fn a_client_that_leaves_is_noticed() {
    let emulator = Emulator::start(&[]);
    for marker in ["never", "silent-start", "trickle", "closed"] {
        let before = emulator.next_number();
        let mut client = Client::connect(emulator.address);
        client.send(saying(&format!("[emulator:{marker}]"), true).bytes());
        until("the request to come", || (emulator.next_number() > before).then_some(()));
        drop(client);
        let ended = emulator.chats_since(before)[0]["ended"].clone();
        assert!(ended == "abandoned" || marker == "closed", "{marker}: {ended}");
    }
    until("no connection but this one", || (emulator.control("GET", "state", None)["connections"] == 1).then_some(()));
}

#[test]
fn a_signal_stops_it() {
    assert!(Emulator::start(&[]).stop("TERM"));
    assert!(Emulator::start(&[]).stop("INT"));
}

#[test]
fn dev_takes_the_same_options() {
    let mine = folder(&[(
        "a.json",
        json!({"name": "mine", "about": "mine", "when": {"marker": "mine"},
        "answer": {"completion": {"text": "It is mine."}}}),
    )]);
    let gateway = Gateway::dev(&["--scenarios", text(mine.path()), "--speed", "1000"]);
    let body = |marker: &str| CHAT.replace("hello", &format!("[emulator:{marker}]"));
    assert_eq!(content(&gateway.chat(body("mine"))), "It is mine.");
    let began = Instant::now();
    assert_eq!(gateway.chat(body("slow")).status, 200);
    assert!(began.elapsed() < Duration::from_secs(2), "three seconds, a thousand times as fast");
}

#[test]
fn dev_answers_from_captured_exchanges_too() {
    let exchange = json!({"version": 1,
        "request": {"method": "POST", "path": "/v1/projects/p/locations/l/endpoints/openapi/chat/completions",
            "model": "google/gemini-2.5-flash", "stream": false},
        "response": {"status": 200, "headers": [["content-type", "application/json"], ["content-length", "11"]],
            "frames": [{"after_ms": 5, "text": "{\"a\": "}, {"after_ms": 5, "text": "\"b\" }"}]}});
    let captures = folder(&[("a.json", exchange)]);
    let gateway = Gateway::dev(&["--replay", text(captures.path())]);
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200);
    assert_bytes(&answer.body, "{\"a\": \"b\" }", "the captured answer");
    // Another model was not captured; the answer says so in plain words.
    let answer = gateway.chat(CHAT.replace("flash", "pro-preview"));
    assert_eq!(answer.status, 404);
    let said = String::from_utf8_lossy(&answer.body);
    assert!(said.contains(", model 'google/gemini-3.1-pro-preview', no stream") && !said.contains("Some("), "{said}");
}

#[test]
fn an_address_that_is_everywhere_is_told_as_one_that_can_be_reached() {
    // The helper reads the address from the banner, and the control endpoint is asked there.
    let emulator = Emulator::start_with(&[], &[("HOST", "0.0.0.0")]);
    assert!(emulator.address.ip().is_loopback(), "{}", emulator.address);
    assert_eq!(emulator.control("GET", "state", None)["running"], 0);
}

#[cfg(unix)]
#[test]
fn a_pipe_among_the_files_stops_nothing() {
    let folder = folder(&[]);
    let made = std::process::Command::new("mkfifo").arg(folder.path().join("x.json")).status().expect("mkfifo runs");
    assert!(made.success());
    for option in ["--scenarios", "--replay"] {
        let refused = run(&["emulator", option, text(folder.path())], &[("PORT", "0")]);
        let said = String::from_utf8(refused.stderr).expect("a text");
        assert_eq!(refused.status.code(), Some(2), "{said}");
        assert!(said.contains("x.json: the file: must be a regular file"), "{said}");
    }
}

#[test]
fn a_connection_takes_a_hundred_streams() {
    let emulator = Emulator::start_tls(&[]);
    let gateway = emulator.gateway().start();
    // One that is there already is what all of them would like to have.
    assert_eq!(gateway.chat(CHAT).status, 200);
    let before = emulator.next_number();
    let mut clients: Vec<_> = (0..101).map(|_| gateway.client()).collect();
    for client in &mut clients {
        client.send(Request::chat(CHAT_STREAM.replace("hello", "[emulator:stream-cap]")).bytes());
    }
    for client in &mut clients {
        client.head();
        client.piece().expect("a piece");
    }
    let told = emulator.control("GET", &format!("exchanges?since={before}"), None);
    let mut streams: BTreeMap<u64, usize> = BTreeMap::new();
    for exchange in told["exchanges"].as_array().expect("a list") {
        if exchange["scenario"] == "stream-cap" {
            assert_eq!(exchange["protocol"], "HTTP/2.0");
            *streams.entry(exchange["connection"].as_u64().expect("a number")).or_default() += 1;
        }
    }
    assert_eq!(streams.values().sum::<usize>(), 101);
    assert!(streams.len() > 1 && streams.values().all(|count| *count <= 100), "{streams:?}");
}
