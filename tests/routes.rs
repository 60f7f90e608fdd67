//! The routes that ask nothing of upstream, and what every answer has in common.
mod support;

use serde_json::{Value, json};
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, End, Gateway, KEY, Metadata, Request, Response, TokenAnswer, Upstream, assert_bytes,
    show,
};

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    (upstream, gateway)
}

fn sorted(values: &Value) -> Vec<String> {
    let mut values: Vec<String> =
        values.as_array().into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect();
    values.sort();
    values
}

#[test]
fn health_lists_the_aliases() {
    let (_upstream, gateway) = start();
    for path in ["/health", "/healthz", "/health?x=y"] {
        let answer = gateway.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let body = answer.json();
        assert_eq!(body["ok"], true);
        assert_eq!(sorted(&body["models"]), ["flash", "pro-preview"]);
        assert_eq!(body.as_object().map(serde_json::Map::len), Some(2));
    }
}

#[test]
fn ready_is_who_holds_a_bearer() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let answer = gateway.get("/readyz");
    assert_eq!((answer.status, answer.json()), (200, json!({"ready": true})));
    let metadata = Metadata::answering(TokenAnswer::Error(404, ""));
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    let answer = gateway.get("/readyz");
    assert_eq!(answer.status, 503);
    assert_ne!(answer.json()["ready"], true);
}

#[test]
fn models_are_listed_and_retrieved() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("MODEL_ALIASES_JSON", r#"{"gemini-2.5-pro":"google/gemini-2.5-pro","org/name:x@1":"meta/llama-4@001"}"#)
        .start();
    let list = gateway.request(&Request::get("/v1/models").key(KEY));
    assert_eq!(list.status, 200);
    let list = list.json();
    assert_eq!(list["object"], "list");
    let data = list["data"].as_array().expect("an array");
    let expected = [
        ("flash", "flash", "google", "google/gemini-2.5-flash"),
        ("pro-preview", "pro%2Dpreview", "google", "google/gemini-3.1-pro-preview"),
        ("gemini-2.5-pro", "gemini-2%2e5-pro", "google", "google/gemini-2.5-pro"),
        ("org/name:x@1", "org%2Fname%3ax%401", "meta", "meta/llama-4@001"),
    ];
    assert_eq!(data.len(), expected.len());
    for (alias, encoded, owner, id) in expected {
        let model = data.iter().find(|model| model["id"] == alias).unwrap_or_else(|| panic!("{alias} is not listed"));
        assert_eq!(model["object"], "model");
        assert!(model["created"].is_u64(), "{model}");
        assert_eq!((&model["owned_by"], &model["vertex_id"]), (&owner.into(), &id.into()));
        assert_eq!(model.as_object().map(serde_json::Map::len), Some(5));
        let answer = gateway.request(&Request::get(&format!("/v1/models/{encoded}")).key(KEY));
        assert_eq!((answer.status, &answer.json()), (200, model), "{encoded}");
    }
}

#[test]
fn an_unknown_model_is_a_404() {
    let (_upstream, gateway) = start();
    for alias in [
        "unknown",
        "FLASH",
        "flash%00",
        "google%2Fgemini-2.5-flash",
        "google/gemini-2.5-flash",
        "%66lash%20",
        "%ff",
        "flash%",
    ] {
        let answer = gateway.request(&Request::get(&format!("/v1/models/{alias}")).key(KEY));
        assert_eq!(answer.status, 404, "{alias}");
        answer.assert_error(404, "model_not_found");
    }
}

#[test]
fn a_get_is_answered_to_head_without_the_body() {
    let (_upstream, gateway) = start();
    assert_eq!(gateway.chat(CHAT).status, 200, "ready from here on");
    for path in [
        "/",
        "/docs",
        "/health",
        "/healthz",
        "/readyz",
        "/v1/models",
        "/v1/models/flash",
        "/v1/models/unknown",
        "/nothing",
    ] {
        let full = gateway.request(&Request::get(path).key(KEY));
        let mut client = gateway.client();
        // On one connection with another request: a body would be taken for its answer.
        let head = client.request(&Request::new("HEAD", path).key(KEY));
        assert_eq!(client.request(&Request::get("/health")).status, 200, "{path}");
        assert_eq!(head.status, full.status, "{path}");
        assert_eq!(head.header_names(), full.header_names(), "{path}");
        assert_eq!(head.header("content-length"), full.header("content-length"), "{path}");
    }
}

#[test]
fn unknown_paths_are_404() {
    let (_upstream, gateway) = start();
    for path in [
        "/nothing",
        "/v1/nothing",
        "/v1",
        "/v2/models",
        "//health",
        "/health/",
        "/HEALTH",
        "/v1/chat",
        "/v1/chat/completions/",
        "/favicon.ico",
        "/.env",
    ] {
        let answer = gateway.request(&Request::get(path).key(KEY));
        assert_eq!(answer.status, 404, "{path}");
        answer.assert_error(404, "not_found");
    }
}

#[test]
fn other_methods_are_405_with_what_is_allowed() {
    let (upstream, gateway) = start();
    let cases = [
        ("/health", "GET, HEAD"),
        ("/readyz", "GET, HEAD"),
        ("/", "GET, HEAD"),
        ("/docs", "GET, HEAD"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/flash", "GET, HEAD"),
        (CHAT_PATH, "POST"),
    ];
    for (path, allowed) in cases {
        for method in ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"] {
            if allowed.contains(method) {
                continue;
            }
            let answer = gateway.request(&Request::new(method, path).key(KEY).body(""));
            assert_eq!(answer.status, 405, "{method} {path}");
            answer.assert_error(405, "method_not_allowed");
            let mut allow: Vec<&str> = answer.header("allow").expect("allow").split(", ").collect();
            allow.retain(|method| *method != "OPTIONS");
            allow.sort_unstable();
            assert_eq!(allow.join(", "), allowed, "{method} {path}");
        }
    }
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn answers_of_its_own_cannot_be_sniffed() {
    let (_upstream, gateway) = start();
    for path in ["/", "/docs", "/health", "/readyz", "/v1/models", "/v1/models/flash", "/nothing", CHAT_PATH] {
        for request in [Request::get(path), Request::get(path).key(KEY)] {
            let answer = gateway.request(&request);
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
            assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "{path}");
            assert!(answer.header("date").is_some(), "{path}");
            assert_eq!(answer.header("server"), None, "{path}");
        }
    }
}

#[test]
fn pages_need_no_key() {
    let (_upstream, gateway) = start();
    for path in ["/", "/docs"] {
        let answer = gateway.get(path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{}", answer.head);
        assert!(show(&answer.body).to_ascii_lowercase().contains("<html"), "{path}");
    }
}

const ORIGIN: &str = "https://app.example";

fn from_origin(request: Request, origin: &str) -> Request {
    request.header("origin", origin)
}

#[track_caller]
fn assert_shared(answer: &Response, what: &str) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN), "{what}: {}", answer.head);
    assert!(
        answer.header("vary").is_some_and(|vary| vary.split(", ").any(|name| name == "Origin")),
        "{what}: {}",
        answer.head
    );
}

#[test]
fn a_listed_origin_reads_every_answer() {
    let upstream = Upstream::queued();
    let gateway =
        Gateway::before(&upstream).env("CORS_ALLOW_ORIGINS", "http://localhost:3000, https://app.example").start();
    let requests = [
        Request::get("/"),
        Request::get("/health"),
        Request::get("/nothing"),
        Request::get("/v1/models"),
        Request::get("/v1/models").key(KEY),
        Request::get("/v1/models/unknown").key(KEY),
        Request::get(CHAT_PATH).key(KEY),
        Request::chat("no JSON"),
        Request::chat(CHAT),
        Request::chat(CHAT).header("content-encoding", "br"),
    ];
    for request in requests {
        let answer = gateway.request(&from_origin(request.clone(), ORIGIN));
        assert_shared(&answer, &show(request.head_bytes()));
        let answer = gateway.request(&from_origin(request.clone(), "https://evil.example"));
        assert_eq!(answer.header("access-control-allow-origin"), None, "{}", answer.head);
        let answer = gateway.request(&request);
        assert_eq!(answer.header("access-control-allow-origin"), None, "{}", answer.head);
    }
    upstream.then(|exchange| exchange.sse(["data: [DONE]\n\n"]));
    assert_shared(&gateway.request(&from_origin(Request::chat(CHAT_STREAM), ORIGIN)), "a stream");
    upstream.then(|exchange| {
        exchange.answer(
            "429 Busy",
            "content-type: application/json\r\nvary: X\r\naccess-control-allow-origin: https://upstream.example\r\n",
            "{}",
        )
    });
    assert_shared(&gateway.request(&from_origin(Request::chat(CHAT), ORIGIN)), "an error of upstream");
    upstream.then(|exchange| exchange.close());
    assert_shared(&gateway.request(&from_origin(Request::chat(CHAT), ORIGIN)), "a broken upstream");
}

fn preflight(path: &str, origin: &str) -> Request {
    from_origin(Request::new("OPTIONS", path), origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-stainless-os")
}

#[test]
fn a_preflight_from_a_listed_origin_needs_no_key() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("CORS_ALLOW_ORIGINS", ORIGIN).start();
    for path in [CHAT_PATH, "/v1/models", "/v1/models/flash"] {
        let mut client = gateway.client();
        let answer = client.request(&preflight(path, ORIGIN));
        assert_eq!(answer.status, 204, "{path}: {}", answer.head);
        assert_shared(&answer, path);
        let methods = answer.header("access-control-allow-methods").unwrap_or_default();
        assert!(methods.contains("POST") && methods.contains("GET"), "{}", answer.head);
        let headers = answer.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        // `*` would not cover authorization.
        for name in ["authorization", "content-type", "x-stainless-os"] {
            assert!(
                headers.contains(name) || (name.starts_with("x-") && headers.contains('*')),
                "{name}: {}",
                answer.head
            );
        }
        assert_eq!(answer.header("access-control-allow-credentials"), None);
        assert_eq!(client.request(&Request::get("/health")).status, 200, "a 204 has no body");
    }
    assert_eq!(gateway.request(&preflight(CHAT_PATH, "https://evil.example")).status, 401);
    assert_eq!(gateway.request(&from_origin(Request::new("OPTIONS", CHAT_PATH), ORIGIN)).status, 401, "no preflight");
    assert_eq!(gateway.request(&preflight(CHAT_PATH, "https://app.example.evil.example")).status, 401);
    assert_eq!(gateway.request(&preflight(CHAT_PATH, "http://app.example")).status, 401, "another scheme");
    assert_eq!(gateway.request(&preflight(CHAT_PATH, "null")).status, 401);
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_star_lets_every_origin_in() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("CORS_ALLOW_ORIGINS", "*").start();
    for origin in [ORIGIN, "https://other.example", "null"] {
        let answer = gateway.request(&preflight(CHAT_PATH, origin));
        assert_eq!(answer.status, 204, "{origin}");
        let allowed = answer.header("access-control-allow-origin");
        assert!(allowed == Some("*") || allowed == Some(origin), "{}", answer.head);
    }
}

#[test]
fn without_a_list_no_browser_comes_in() {
    let (_upstream, gateway) = start();
    let answer = gateway.request(&preflight(CHAT_PATH, ORIGIN));
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (401, None));
}

#[test]
fn own_answers_are_counted() {
    let (_upstream, gateway) = start();
    for path in ["/", "/docs", "/health", "/nothing"] {
        let answer = gateway.get(path);
        assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()), "{path}");
        assert_eq!(answer.end, End::Complete);
    }
    assert_bytes(gateway.get("/health?x").body, gateway.get("/health").body, "a query changes nothing");
}
