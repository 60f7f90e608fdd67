//! `/openapi.json`: that it is served as a page is, and that it knows every route and no other. Whether answers are as it
//! says is `tests/schemathesis/`.
mod support;

use flate2::read::GzDecoder;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Read;
use support::{Gateway, KEY, Request, Upstream};

const PATH: &str = "/openapi.json";

fn start() -> (Upstream, Gateway) {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("PLAYGROUND", "on").start();
    (upstream, gateway)
}

/// The routes by the names that the log has for them, as `src/routes.rs` spells them.
fn routes() -> BTreeSet<String> {
    let source = include_str!("../src/routes.rs");
    let (_, names) = source.split_once("fn name(").expect("routes have names");
    let (names, _) = names.split_once("\n    }\n").expect("the function ends");
    names
        .lines()
        .filter(|line| line.contains("=> \""))
        .map(|line| line.rsplit('"').nth(1).expect("a string").to_owned())
        .collect()
}

fn paths(document: &Value) -> &serde_json::Map<String, Value> {
    document["paths"].as_object().expect("paths")
}

/// A path with its parameters filled in.
fn example(path: &str) -> String {
    path.replace("{digest}", "0").replace("{name}", "site.css").replace("{alias}", "flash")
}

#[test]
fn it_is_served_as_a_page_is() {
    let (_upstream, gateway) = start();
    let plain = gateway.get(PATH);
    assert_eq!(plain.status, 200);
    assert_eq!(plain.header("content-type"), Some("application/json"));
    assert_eq!(plain.header("cache-control"), Some("no-cache"));
    assert_eq!(plain.header("vary"), Some("Accept-Encoding"));
    assert_eq!(plain.header("x-content-type-options"), Some("nosniff"));
    let mut tags = Vec::new();
    for encoding in ["identity", "gzip"] {
        let request = Request::get(PATH).header("accept-encoding", encoding);
        let answer = gateway.request(&request);
        let tag = answer.header("etag").expect("a tag").to_owned();
        if encoding == "gzip" {
            assert_eq!(answer.header("content-encoding"), Some("gzip"));
            assert!(answer.body.len() < 12_000, "{} bytes", answer.body.len());
            let mut unzipped = Vec::new();
            GzDecoder::new(&answer.body[..]).read_to_end(&mut unzipped).expect("a gzip");
            assert!(unzipped == plain.body);
        }
        let again = gateway.request(&request.header("if-none-match", &tag));
        assert_eq!((again.status, again.body.len()), (304, 0));
        tags.push(tag);
    }
    assert_ne!(tags[0], tags[1]);
    assert_eq!(gateway.log_of(&plain)["httpRequest"]["requestUrl"], PATH);
}

#[test]
fn it_names_the_aliases_of_the_running_gateway() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("MODEL_ALIASES_JSON", r#"{"org/name:x@1":"meta/llama-4@001","gpt-4.1_mini":"google/gemini-2.5-flash"}"#)
        .start();
    let document = gateway.get(PATH).json();
    let named: BTreeSet<&str> = document["components"]["schemas"]["Alias"]["enum"]
        .as_array()
        .expect("an array")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(named, BTreeSet::from(["flash", "gpt-4.1_mini", "org/name:x@1", "pro-preview"]));
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(!document.to_string().contains("{{"));
}

#[test]
fn it_has_every_route_and_no_other() {
    let (_upstream, gateway) = start();
    let document = gateway.get(PATH).json();
    let described: BTreeSet<String> = paths(&document).keys().cloned().collect();
    assert!(described.len() > 10);
    assert_eq!(described, routes());
    // The contract and the runbook tell of the same; what pages load is no affair of the latter's readers.
    for (file, text) in
        [("SPEC.md", include_str!("../SPEC.md")), ("04-endpoints.md", include_str!("../docs/runbook/04-endpoints.md"))]
    {
        for path in described.iter().filter(|path| file == "SPEC.md" || !path.starts_with("/assets")) {
            let method = if paths(&document)[path].get("post").is_some() { "POST" } else { "GET" };
            assert!(text.contains(&format!("`{method} {path}`")), "{file} does not have {method} {path}");
        }
    }
}

#[test]
fn every_path_answers_to_the_methods_that_are_described() {
    let (_upstream, gateway) = start();
    for (path, item) in paths(&gateway.get(PATH).json()) {
        let described: Vec<String> =
            item.as_object().expect("methods").keys().map(|name| name.to_uppercase()).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"] {
            let answer = gateway.request(&Request::new(method, &example(path)).key(KEY).body(""));
            let is_described = described.iter().any(|one| one == method);
            if path == "/metrics" {
                // Not for this key.
                assert_eq!(answer.status, 404);
                continue;
            }
            assert_eq!(answer.status != 405, is_described, "{method} {path} is {}", answer.status);
            assert_ne!(answer.status, 404, "{method} {path}");
            if let Some(allowed) = answer.header("allow") {
                assert_eq!(allowed, described.join(", "), "{path}");
            }
        }
    }
}

#[test]
fn what_needs_a_key_is_described_so() {
    let (_upstream, gateway) = start();
    for (path, item) in paths(&gateway.get(PATH).json()) {
        for (method, operation) in item.as_object().expect("methods") {
            let answer = gateway.request(&Request::new(&method.to_uppercase(), &example(path)).body(""));
            let needs_key = operation["security"].as_array().is_some_and(|ways| !ways.contains(&serde_json::json!({})));
            assert_eq!(answer.status == 401, needs_key, "{method} {path}");
            assert_eq!(operation["responses"].get("401").is_some(), needs_key, "{method} {path}");
        }
    }
}

#[test]
fn every_reference_leads_somewhere_and_everything_is_referred_to() {
    let (_upstream, gateway) = start();
    let document = gateway.get(PATH).json();
    let mut references = BTreeSet::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 20);
    for reference in &references {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
    for kind in ["headers", "responses", "schemas"] {
        for name in document["components"][kind].as_object().expect("components").keys() {
            assert!(references.contains(&format!("#/components/{kind}/{name}")), "{kind}/{name} is not used");
        }
    }
}

fn collect_references(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            into.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect_references(value, into));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, into)),
        _ => {}
    }
}
