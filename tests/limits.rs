//! What a key may do and how much of it: exactly, under load, and told in OpenAI's words.
mod support;

use std::cell::Cell;
use std::net::SocketAddr;
use std::thread;

use serde_json::{Value, json};
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, Client, Gate, Gateway, KEY, Request, Response, SECOND_KEY, Upstream, show,
};

/// As many as the promise is about.
const CLIENTS: usize = 200;

/// A gateway with these entries; each gets a key in its turn.
fn gateway(upstream: &Upstream, entries: &[Value]) -> Gateway {
    let mut entries = entries.to_vec();
    for (entry, key) in entries.iter_mut().zip([KEY, SECOND_KEY]) {
        entry["key"] = key.into();
        if entry["id"].is_null() {
            entry["id"] = "tester".into();
        }
    }
    Gateway::before(upstream).env("API_KEYS_JSON", &Value::from(entries).to_string()).start()
}

fn chat_with(key: &str) -> Request {
    Request::new("POST", CHAT_PATH).key(key).body(CHAT)
}

/// Sends `each` requests from every client at the same time, each on a connection of its own.
fn from_all_clients(address: SocketAddr, each: usize, key: impl Fn(usize) -> &'static str) -> Vec<Response> {
    let start = Gate::new();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let (start, request) = (start.clone(), chat_with(key(client)));
            thread::spawn(move || {
                let mut client = Client::connect(address);
                start.wait();
                (0..each).map(|_| client.request(&request)).collect::<Vec<_>>()
            })
        })
        .collect();
    start.open();
    clients.into_iter().flat_map(|client| client.join().expect("a client comes to its end")).collect()
}

fn count(answers: &[Response], status: u16) -> usize {
    answers.iter().filter(|answer| answer.status == status).count()
}

fn usage(prompt: u64, completion: u64, thinking: u64) -> Value {
    json!({
        "completion_tokens": completion,
        "completion_tokens_details": {"reasoning_tokens": thinking},
        "prompt_tokens": prompt,
        "total_tokens": prompt + completion + thinking,
    })
}

#[test]
fn requests_a_minute_are_exact_under_load() {
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let gateway = gateway(&upstream, &[json!({"rpm": 50})]);
    let answers = from_all_clients(gateway.address, 3, |_| KEY);
    assert_eq!((count(&answers, 200), count(&answers, 429)), (50, 3 * CLIENTS - 50));
    assert_eq!(upstream.requests().len(), 50);
    let mut left: Vec<u64> = Vec::new();
    for answer in &answers {
        assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("50"));
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), None);
        if answer.status == 200 {
            assert_eq!(answer.header("x-ratelimit-reset-requests"), Some("1m0s"));
            left.push(answer.header("x-ratelimit-remaining-requests").unwrap_or_default().parse().expect("a number"));
        } else {
            answer.assert_error(429, "rate_limit_exceeded");
            assert!((1..=60).contains(&answer.retry_after()), "{}", answer.head);
            assert_eq!(answer.header("x-ratelimit-remaining-requests"), Some("0"));
            assert_eq!(answer.header("x-should-retry"), None);
        }
    }
    left.sort_unstable();
    assert_eq!(left, (0..50).collect::<Vec<u64>>(), "each request was counted once");
    let refused = answers.iter().find(|answer| answer.status == 429).expect("one that was refused");
    let line = gateway.log_of(refused);
    assert_eq!((&line["error"], &line["outcome"]), (&json!("rate_limit_exceeded: rpm"), &json!("rejected")));
    assert_eq!(line["severity"], "WARNING");
}

#[test]
fn running_requests_are_exact_under_load() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        held.wait();
        exchange.json("{}");
    });
    let gateway = gateway(&upstream, &[json!({"max_concurrent": 7})]);
    let address = gateway.address;
    let all = thread::spawn(move || from_all_clients(address, 1, |_| KEY));
    upstream.wait_request(6);
    // All others are told at once, whatever upstream does.
    for n in 0..CLIENTS - 7 {
        assert_eq!(gateway.wait_for_access(n)["error"], "rate_limit_exceeded: max_concurrent");
    }
    gate.open();
    let answers = all.join().expect("the clients come to their end");
    assert_eq!((count(&answers, 200), count(&answers, 429)), (7, CLIENTS - 7));
    assert_eq!(upstream.requests().len(), 7);
    let refused = answers.iter().find(|answer| answer.status == 429).expect("one that was refused");
    refused.assert_error(429, "rate_limit_exceeded");
    assert_eq!(refused.retry_after(), 1);
    assert!(!refused.header_names().iter().any(|name| name.starts_with("x-ratelimit")), "{}", refused.head);
    assert_eq!(gateway.chat(CHAT).status, 200);
}

#[test]
fn whoever_has_the_whole_answer_may_send_the_next_request() {
    let upstream = Upstream::new(|exchange| {
        if show(&exchange.request.body).contains("stream") {
            exchange.sse(["data: {}\n\n", "data: [DONE]\n\n"]);
        } else {
            exchange.json(vec![b' '; 20_000]);
        }
    });
    let gateway = gateway(&upstream, &[json!({"max_concurrent": 1})]);
    for round in 0..150 {
        for body in [CHAT, CHAT_STREAM] {
            let answer = gateway.chat(body);
            assert_eq!(answer.status, 200, "round {round}: {}", show(&answer.body));
        }
    }
}

#[test]
fn a_slot_comes_back_however_an_exchange_ends() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"max_concurrent": 1})]);
    // Log lines that have been waited for: each tells that a request is over.
    let lines = Cell::new(0);
    let ended = |what: &str| {
        gateway.wait_for_access(lines.get());
        let answer = gateway.chat(CHAT);
        assert_eq!(answer.status, 200, "after {what}: {}", show(&answer.body));
        gateway.wait_for_access(lines.get() + 1);
        lines.set(lines.get() + 2);
    };
    // Refused for another reason, while the body is not read yet and after it.
    assert_eq!(gateway.chat("no JSON").status, 400);
    ended("bad JSON");
    assert_eq!(gateway.request(&Request::chat(CHAT).header("content-encoding", "gzip")).status, 415);
    ended("an encoding");
    // The client goes while it sends its body, before the answer, and in the middle of it.
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).head_bytes());
    client.send(&CHAT[..10]);
    client.reset();
    ended("half a body");
    for is_reset in [true, false] {
        let gate = Gate::new();
        let held = gate.clone();
        upstream.then(move |exchange| {
            held.wait();
            exchange.close();
        });
        let before = upstream.requests().len();
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        upstream.wait_request(before);
        if is_reset {
            client.reset()
        } else {
            drop(client)
        }
        gate.open();
        ended("a hang-up before the answer");
        let gate = Gate::new();
        let held = gate.clone();
        upstream.then(move |exchange| {
            exchange.sse_head();
            exchange.chunk("data: 1\n\n");
            held.wait();
            exchange.close();
        });
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        client.head();
        client.expect_body("data: 1\n\n");
        assert_eq!(gateway.chat(CHAT).status, 429, "it runs");
        gateway.wait_for_access(lines.get());
        lines.set(lines.get() + 1);
        if is_reset {
            client.reset()
        } else {
            drop(client)
        }
        gate.open();
        ended("a hang-up in the answer");
        // Upstream answers with an error, breaks before its answer and in it.
        upstream.then(|exchange| exchange.answer("500 Oh", "content-type: application/json\r\n", "{}"));
        assert_eq!(gateway.chat(CHAT).status, 500);
        ended("an error of upstream");
        upstream.then(|exchange| exchange.reset());
        assert_eq!(gateway.chat(CHAT).status, 502);
        ended("a reset of upstream");
        upstream.then(|exchange| {
            exchange.sse_head();
            exchange.chunk("data: 1\n\n");
            exchange.reset();
        });
        assert!(show(gateway.chat(CHAT_STREAM).body).contains("upstream_broke"));
        ended("an answer that broke");
    }
}

#[test]
fn tokens_of_a_day_are_counted_as_upstream_tells_them() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"tokens_per_day": 100}), json!({"id": "other", "tokens_per_day": 1})]);
    let tell = |usage: Value| upstream.then(move |exchange| exchange.json(json!({ "usage": usage }).to_string()));
    let told = |answer: &Response| {
        let header = |what: &str| answer.header(&format!("x-ratelimit-{what}-tokens")).unwrap_or_default().to_owned();
        (header("limit"), header("remaining"), header("reset"))
    };
    tell(usage(10, 15, 5));
    let first = gateway.chat(CHAT);
    assert_eq!(told(&first), ("100".into(), "100".into(), "0s".into()));
    // An answer without usage costs nothing that anybody could know.
    assert_eq!(gateway.chat(CHAT).status, 200);
    // A stream, with the usage in its last event.
    let events = [
        "data: {\"choices\":[]}\n\n".to_owned(),
        format!("data: {}\n\n", json!({ "usage": usage(20, 19, 0) })),
        "data: [DONE]\n\n".to_owned(),
    ];
    upstream.then(move |exchange| exchange.sse(events));
    let second = gateway.chat(CHAT_STREAM);
    assert_eq!(told(&second).1, "70");
    // One token is left, and a request may use more than that.
    tell(usage(30, 30, 30));
    let third = gateway.chat(CHAT);
    assert_eq!((third.status, &*told(&third).1), (200, "31"));
    let refused = gateway.chat(CHAT);
    refused.assert_error(429, "insufficient_quota");
    let (limit, remaining, reset) = told(&refused);
    assert_eq!((&*limit, &*remaining), ("100", "0"));
    assert!(reset.ends_with('s') && (1..=86_400).contains(&refused.retry_after()), "{}", refused.head);
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(gateway.log_of(&refused)["error"], "insufficient_quota: tokens_per_day");
    assert_eq!(upstream.requests().len(), 4);
    // Another id has its own.
    assert_eq!(gateway.request(&chat_with(SECOND_KEY)).status, 200);
    // Nothing else is refused for that.
    assert_eq!(gateway.request(&Request::get("/v1/models").key(KEY)).status, 200);
}

#[test]
fn an_answer_of_unknown_usage_counts_as_its_owner_says() {
    let upstream = Upstream::queued();
    let limits = json!({"tokens_per_day": 1000, "tokens_if_unknown": 300});
    let gateway = gateway(&upstream, &[limits, json!({"id": "other", "tokens_per_day": 1000})]);
    // Judged once the log line of what came before has been written.
    let left = |key: &str, lines: usize| {
        gateway.wait_for_access(lines - 1);
        let answer = gateway.request(&chat_with(key).body(r#"{"model":"nope"}"#));
        gateway.wait_for_access(lines);
        answer.header("x-ratelimit-remaining-tokens").unwrap_or_default().to_owned()
    };
    // The client goes before the usage has come, which would cost nothing otherwise.
    let gate = Gate::new();
    let held = gate.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        exchange.chunk("data: {\"choices\":[]}\n\n");
        held.wait();
        exchange.close();
    });
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    client.head();
    client.expect_body("data: {\"choices\":[]}\n\n");
    drop(client);
    assert_eq!(left(KEY, 1), "700");
    gate.open();
    // One that was told costs what was told, and what is refused nothing.
    upstream.then(|exchange| exchange.json(json!({ "usage": usage(10, 10, 10) }).to_string()));
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(left(KEY, 3), "670");
    upstream.then(|exchange| exchange.answer("400 Bad Request", "content-type: application/json\r\n", "{}"));
    assert_eq!(gateway.chat(CHAT).status, 400);
    assert_eq!(left(KEY, 5), "670");
    // An answer without usage, to its end.
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(left(KEY, 7), "370");
    // Where nothing is said, nothing is counted.
    assert_eq!(gateway.request(&chat_with(SECOND_KEY)).status, 200);
    assert_eq!(left(SECOND_KEY, 9), "1000");
    // No count is made up for the log.
    let lines = gateway.lines();
    let told = lines.iter().filter(|line| line.contains("\"prompt_tokens\":10"));
    assert_eq!(told.count(), 1);
    assert!(!lines.iter().any(|line| line.contains("_tokens\":300")));
}

#[test]
fn a_stream_that_nobody_reads_to_its_end_costs_what_it_had_told() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"tokens_per_day": 10})]);
    let hang_up_after = |event: String| {
        let gate = Gate::new();
        let (held, sent) = (gate.clone(), event.clone());
        upstream.then(move |exchange| {
            exchange.sse_head();
            exchange.chunk(sent);
            held.wait();
            exchange.close();
        });
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        client.head();
        client.expect_body(&event);
        drop(client);
        gate.open();
    };
    hang_up_after("data: {\"choices\":[]}\n\n".to_owned());
    gateway.wait_for_access(0);
    assert_eq!(gateway.chat(CHAT).header("x-ratelimit-remaining-tokens"), Some("10"), "unknown is not invented");
    gateway.wait_for_access(1);
    hang_up_after(format!("data: {}\n\n", json!({ "usage": usage(3, 1, 0) })));
    gateway.wait_for_access(2);
    assert_eq!(gateway.chat(CHAT).header("x-ratelimit-remaining-tokens"), Some("6"));
}

#[test]
fn tokens_are_exact_under_load() {
    let upstream = Upstream::new(|exchange| exchange.json(json!({ "usage": usage(1, 1, 1) }).to_string()));
    let entries = [json!({"tokens_per_day": 1_000_000}), json!({"tokens_per_day": 3 * 2 * CLIENTS})];
    let gateway = gateway(&upstream, &entries);
    // Two keys of one id, half of the clients each.
    let answers = from_all_clients(gateway.address, 2, |client| [KEY, SECOND_KEY][client % 2]);
    assert_eq!(count(&answers, 200), 2 * CLIENTS);
    gateway.request(&chat_with(SECOND_KEY)).assert_error(429, "insufficient_quota");
    let other = gateway.chat(CHAT);
    let left = 1_000_000 - 3 * 2 * CLIENTS;
    assert_eq!(other.header("x-ratelimit-remaining-tokens"), Some(&*left.to_string()));
}

#[test]
fn keys_of_one_id_share_what_it_did() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"rpm": 4}), json!({"rpm": 3})]);
    let status = |key: &str| gateway.request(&chat_with(key)).status;
    assert_eq!([status(KEY), status(SECOND_KEY), status(KEY)], [200, 200, 200]);
    // Each is judged by its own number.
    assert_eq!([status(SECOND_KEY), status(KEY), status(KEY)], [429, 200, 429]);
}

#[test]
fn every_chat_counts_and_nothing_else() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"rpm": 2}), json!({"id": "free"})]);
    assert_eq!(gateway.request(&Request::get("/v1/models").key(KEY)).header("x-ratelimit-limit-requests"), None);
    assert_eq!(gateway.request(&Request::get(CHAT_PATH).key(KEY)).status, 405);
    let bad = gateway.chat(r#"{"model":"unknown"}"#);
    bad.assert_error(400, "model_not_found");
    assert_eq!(bad.header("x-ratelimit-remaining-requests"), Some("1"), "it took a place");
    assert_eq!(gateway.chat(CHAT).header("x-ratelimit-remaining-requests"), Some("0"));
    // Refused before a byte of the body is read or asked for.
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).header("expect", "100-continue").head_bytes());
    client.response().assert_error(429, "rate_limit_exceeded");
    let free = gateway.request(&chat_with(SECOND_KEY));
    assert_eq!(free.status, 200);
    assert!(!free.header_names().iter().any(|name| name.starts_with("x-ratelimit")), "{}", free.head);
}

#[test]
fn pages_may_read_what_is_left() {
    let upstream = Upstream::queued();
    let keys = json!([{"id": "a", "key": KEY, "rpm": 1}, {"id": "b", "key": SECOND_KEY}]).to_string();
    let gateway =
        Gateway::before(&upstream).env("API_KEYS_JSON", &keys).env("CORS_ALLOW_ORIGINS", "https://app.example").start();
    let exposed = |key: &str| {
        let answer = gateway.request(&chat_with(key).header("origin", "https://app.example"));
        answer.header("access-control-expose-headers").unwrap_or_default().to_owned()
    };
    for _ in 0..2 {
        assert!(exposed(KEY).ends_with("x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"));
    }
    assert!(exposed(SECOND_KEY).ends_with("x-ai-proxy-thought-signatures"));
}

#[test]
fn a_key_may_use_its_models_only() {
    let upstream = Upstream::queued();
    let gateway = gateway(&upstream, &[json!({"models": ["flash"]}), json!({"id": "all"})]);
    let ask = |key: &str, model: &str| {
        gateway.request(&chat_with(key).body(json!({"model": model, "messages": []}).to_string()))
    };
    assert_eq!(ask(KEY, "flash").status, 200);
    let refused = ask(KEY, "pro-preview");
    refused.assert_error(403, "model_not_allowed");
    let error = &refused.json()["error"];
    assert_eq!(error["param"], "model");
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with("flash") && !text.contains("pro-preview")));
    let line = gateway.log_of(&refused);
    assert_eq!((&line["alias"], &line["error"]), (&json!("pro-preview"), &json!("model_not_allowed")));
    let unknown = ask(KEY, "nope");
    unknown.assert_error(400, "model_not_found");
    assert!(!show(&unknown.body).contains("pro-preview"));
    assert!(!show(ask(KEY, "").body).contains("pro-preview"));
    assert_eq!(ask(SECOND_KEY, "pro-preview").status, 200);
    assert_eq!(upstream.requests().len(), 2);

    let get = |key: &str, path: &str| gateway.request(&Request::get(path).key(key));
    let ids = |key: &str| {
        let list = get(key, "/v1/models").json();
        assert_eq!(list["object"], "list");
        let models = list["data"].as_array().expect("a list").clone();
        models.iter().map(|model| model["id"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(KEY), ["flash"]);
    assert_eq!(ids(SECOND_KEY), ["flash", "pro-preview"]);
    assert_eq!(get(KEY, "/v1/models/flash").status, 200);
    get(KEY, "/v1/models/pro-preview").assert_error(403, "model_not_allowed");
    get(KEY, "/v1/models/nope").assert_error(404, "model_not_found");
}
