//! `/metrics`: off unless asked for, in Prometheus' text, and right to the request and to the token.
mod support;

use serde_json::json;
use support::metrics::{sample, scrape};
use support::{CHAT, CHAT_PATH, CHAT_STREAM, Client, Gate, Gateway, KEY, Request, SECOND_KEY, UNKNOWN_KEY, Upstream};

const USAGE: &str = r#"{"completion_tokens":45,"completion_tokens_details":{"reasoning_tokens":504},"prompt_tokens":27,"prompt_tokens_details":{"cached_tokens":3}}"#;

#[test]
fn they_are_off_by_default() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for request in [Request::get("/metrics"), Request::get("/metrics").key(KEY), Request::new("POST", "/metrics")] {
        let answer = gateway.request(&request);
        answer.assert_error(404, "not_found");
        assert_eq!(gateway.log_of(&answer)["httpRequest"]["requestUrl"], "unmatched");
    }
}

#[test]
fn a_key_that_allows_it_reads_them_on_the_main_port() {
    let upstream = Upstream::queued();
    let keys =
        json!([{"id": "scraper", "key": KEY, "metrics": true}, {"id": "other", "key": SECOND_KEY, "metrics": false}]);
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys.to_string()).start();
    let answer = gateway.request(&Request::get("/metrics").key(KEY));
    assert_eq!(answer.status, 200);
    let line = gateway.log_of(&answer);
    assert_eq!((&line["key_id"], &line["httpRequest"]["requestUrl"]), (&"scraper".into(), &"/metrics".into()));
    assert_eq!(gateway.request(&Request::get("/metrics").header("x-api-key", KEY)).status, 200);
    let head = gateway.request(&Request::new("HEAD", "/metrics").key(KEY));
    assert_eq!((head.status, head.body.len()), (200, 0));
    gateway.request(&Request::new("POST", "/metrics").key(KEY)).assert_error(405, "method_not_allowed");
    for key in [SECOND_KEY, UNKNOWN_KEY] {
        gateway.request(&Request::get("/metrics").key(key)).assert_error(404, "not_found");
    }
    gateway.get("/metrics").assert_error(404, "not_found");
}

#[test]
fn the_metrics_port_has_nothing_else() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").start();
    let address = gateway.metrics_port();
    let ask = |request: &Request| Client::connect(address).request(request);
    for path in ["/", "/health", "/v1/models", "/metrics/"] {
        ask(&Request::get(path).key(KEY)).assert_error(404, "not_found");
    }
    ask(&Request::chat(CHAT)).assert_error(404, "not_found");
    ask(&Request::new("POST", "/metrics")).assert_error(405, "method_not_allowed");
    scrape(address);
    gateway.get("/metrics").assert_error(404, "not_found");
    assert!(upstream.requests().is_empty());
}

#[test]
fn every_request_and_token_is_counted_once() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").start();
    let address = gateway.metrics_port();
    let whole = format!(r#"{{"choices":[],"usage":{USAGE}}}"#);
    for _ in 0..3 {
        let whole = whole.clone();
        upstream.then(move |exchange| exchange.json(whole));
    }
    let event = format!("data: {whole}\n\ndata: [DONE]\n\n");
    upstream.then(move |exchange| exchange.sse([event]));
    upstream.then(|exchange| exchange.sse(["data: {}\n\ndata: [DONE]\n\n"]));
    upstream.then(|exchange| exchange.answer("429 Too Many Requests", "content-type: application/json\r\n", "{}"));
    upstream.then(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: {}\n\n");
        exchange.close();
    });
    let mut answers = vec![gateway.chat(CHAT), gateway.chat(CHAT)];
    answers.push(gateway.request(&Request::new("POST", CHAT_PATH).key(SECOND_KEY).body(CHAT)));
    answers.extend([
        gateway.chat(CHAT_STREAM),
        gateway.chat(CHAT_STREAM),
        gateway.chat(CHAT),
        gateway.chat(CHAT_STREAM),
    ]);
    answers.push(gateway.chat("no JSON"));
    answers.push(gateway.request(&Request::new("POST", CHAT_PATH).key(UNKNOWN_KEY).body(CHAT)));
    answers.push(gateway.get("/health"));
    for answer in &answers {
        gateway.log_of(answer);
    }
    let told = scrape(address);
    let at = |name: &str| sample(&told, name);
    let chats = |key: &str, alias: &str, status: &str, outcome: &str| {
        at(&format!(r#"ai_proxy_chats_total{{key="{key}",alias="{alias}",status="{status}",outcome="{outcome}"}}"#))
    };
    assert_eq!(chats("tester", "flash", "2xx", "completed"), 4.0);
    assert_eq!(chats("second", "flash", "2xx", "completed"), 1.0);
    assert_eq!(chats("tester", "flash", "4xx", "completed"), 1.0);
    assert_eq!(chats("tester", "flash", "2xx", "upstream_broke"), 1.0);
    assert_eq!(chats("tester", "", "4xx", "rejected"), 1.0);
    let tokens =
        |key: &str, kind: &str| at(&format!(r#"ai_proxy_tokens_total{{key="{key}",alias="flash",type="{kind}"}}"#));
    let kinds = ["prompt", "cached", "completion", "reasoning"];
    assert_eq!(kinds.map(|kind| tokens("tester", kind)), [81.0, 9.0, 135.0, 1512.0]);
    assert_eq!(kinds.map(|kind| tokens("second", kind)), [27.0, 3.0, 45.0, 504.0]);
    assert_eq!(at(r#"ai_proxy_chats_of_unknown_usage_total{key="tester",alias="flash"}"#), 2.0);
    assert_eq!(at(r#"ai_proxy_http_requests_total{route="/v1/chat/completions",status="4xx"}"#), 3.0);
    assert_eq!(at(r#"ai_proxy_http_requests_total{route="/health",status="2xx"}"#), 1.0);

    let common = r#"gen_ai_operation_name="chat",gen_ai_provider_name="gcp.vertex_ai",gen_ai_request_model="google/gemini-2.5-flash",alias="flash""#;
    let usage =
        |kind: &str, of: &str| at(&format!(r#"gen_ai_client_token_usage_{of}{{{common},gen_ai_token_type="{kind}"}}"#));
    assert_eq!((usage("input", "count"), usage("input", "sum")), (4.0, 108.0));
    assert_eq!((usage("output", "count"), usage("output", "sum")), (4.0, 2196.0));
    let bucket =
        |le: &str| at(&format!(r#"gen_ai_client_token_usage_bucket{{{common},gen_ai_token_type="input",le="{le}"}}"#));
    assert_eq!((bucket("16"), bucket("64"), bucket("+Inf")), (0.0, 4.0, 4.0));
    let duration = |error: &str| at(&format!("gen_ai_server_request_duration_seconds_count{{{common}{error}}}"));
    assert_eq!((duration(""), duration(r#",error_type="4xx""#), duration(r#",error_type="cut""#)), (5.0, 1.0, 1.0));
    assert_eq!(at(&format!("gen_ai_server_time_to_first_token_seconds_count{{{common}}}")), 3.0);

    assert_eq!((at("ai_proxy_requests_running"), at("ai_proxy_bearer_ready")), (1.0, 1.0));
    assert_eq!(at("ai_proxy_body_budget_used_bytes"), 0.0);
    for positive in [
        "ai_proxy_connections_open",
        "ai_proxy_body_budget_limit_bytes",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
        "process_open_fds",
    ] {
        assert!(at(positive) > 0.0, "{positive}");
    }
    assert!(at("ai_proxy_bearer_age_seconds") >= 0.0 && at("process_cpu_seconds_total") >= 0.0);
    assert_eq!(at(concat!("ai_proxy_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}")), 1.0);
}

#[test]
fn gauges_rise_and_fall() {
    let upstream = Upstream::queued();
    let gate = Gate::new();
    let held = gate.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        held.wait();
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").start();
    let address = gateway.metrics_port();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    // The stream and the scrape.
    assert_eq!(sample(&scrape(address), "ai_proxy_requests_running"), 2.0);
    gate.open();
    client.rest(&mut answer);
    gateway.log_of(&answer);
    gateway.wait_for_log("the end of the scrape", |line| line["httpRequest"]["requestUrl"] == "/metrics");
    assert_eq!(sample(&scrape(address), "ai_proxy_requests_running"), 1.0);
}

#[test]
fn labels_cannot_be_forged() {
    let upstream = Upstream::queued();
    let keys = json!([{"id": "a\"} 1\\ä", "key": KEY}]).to_string();
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys).env("METRICS_PORT", "0").start();
    gateway.log_of(&gateway.chat(CHAT));
    let told = scrape(gateway.metrics_port());
    let name = r#"ai_proxy_chats_total{key="a\"} 1\\ä",alias="flash",status="2xx",outcome="completed"}"#;
    assert_eq!(sample(&told, name), 1.0);
}

#[test]
fn a_port_that_cannot_be_is_refused() {
    for (port, code, message) in
        [("8080", 64, "METRICS_PORT: must be another port"), ("x", 64, "METRICS_PORT: must be a whole number")]
    {
        let keys = json!([{"id": "a", "key": KEY}]).to_string();
        let environment = [("API_KEYS_JSON", &*keys), ("GOOGLE_CLOUD_PROJECT", "p"), ("METRICS_PORT", port)];
        let output = support::run(&["check"], &environment);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.starts_with(message), "{stderr}");
    }
}

#[test]
fn a_broken_keys_file_is_seen() {
    let upstream = Upstream::queued();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let list = json!([{"id": "a", "key": KEY}]).to_string();
    let put = |text: &str| std::fs::write(&file, text).expect("a file can be written");
    put(&list);
    let path = file.to_str().expect("the path is text");
    let gateway =
        Gateway::before(&upstream).without("API_KEYS_JSON").env("API_KEYS_FILE", path).env("METRICS_PORT", "0").start();
    let address = gateway.metrics_port();
    let told = || {
        let samples = scrape(address);
        let at = |name: &str| sample(&samples, name);
        let reloads = |result: &str| at(&format!("ai_proxy_keys_reloads_total{{result=\"{result}\"}}"));
        (at("ai_proxy_keys_file_broken"), reloads("ok"), reloads("failed"))
    };
    assert_eq!(told(), (0.0, 0.0, 0.0));
    put(&list[1..]);
    gateway.wait_for_message("API_KEYS_FILE has changed and is broken", 0);
    assert_eq!(told(), (1.0, 0.0, 1.0));
    put(&list.replace(KEY, SECOND_KEY));
    gateway.wait_for_message("API_KEYS_FILE has changed and is in use", 0);
    assert_eq!(told(), (0.0, 1.0, 1.0));
}

#[test]
fn an_id_may_have_the_name_of_the_others() {
    let upstream = Upstream::queued();
    // Each id has a line of its own until there are too many.
    let key = |number: usize| format!("sk_live_{number:032}");
    let id = |number: usize| if number == 0 { "(others)".to_owned() } else { format!("id-{number}") };
    let keys: serde_json::Value = (0..1100).map(|number| json!({"id": id(number), "key": key(number)})).collect();
    let gateway = Gateway::before(&upstream)
        .without("API_KEYS_JSON")
        .env("API_KEYS_JSON", &keys.to_string())
        .env("METRICS_PORT", "0")
        .start();
    let mut client = gateway.client();
    for number in 0..1100 {
        let request = Request::new("POST", CHAT_PATH).key(&key(number)).body(r#"{"model":"nope"}"#);
        assert_eq!(client.request(&request).status, 400);
    }
    gateway.wait_for_access(1099);
    let told = scrape(gateway.metrics_port());
    let of_chats: Vec<(&String, &f64)> =
        told.iter().filter(|(name, _)| name.starts_with("ai_proxy_chats_total{")).collect();
    assert_eq!(of_chats.len(), 1025, "labels are bounded");
    assert_eq!(of_chats.iter().map(|(_, count)| **count).sum::<f64>(), 1100.0);
}
