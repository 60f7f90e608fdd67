//! Many mixed requests with faults on: each status and each byte as it has to be, and nothing that grows.
//!
//! `SOAK_REQUESTS` says how many, over both kinds of connections to upstream; without it some thousands, as a part of
//! every run of the tests.
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use bytes::Bytes;
use h2::Reason;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use support::gateway::Target;
use support::{
    CHAT_PATH, Client, DEADLINE, End, Exchange, Gate, Gateway, H2Exchange, H2Upstream, KEY, Request, Response,
    UNKNOWN_KEY, Upstream, Watched, assert_bytes, show,
};

const DEFAULT_REQUESTS: usize = 6000;
/// Each asks for the next thing as soon as it has got the last.
const CLIENTS: usize = 16;
/// After each the gateway comes to rest and is looked at.
const LAPS: usize = 10;
/// Streams that are open at one time, if so many are in a lap.
const CROWD: usize = 1000;
/// What memory may grow by from the second lap to the last, beside a tenth: less than a few bytes for each of a million.
const SLACK_BYTES: usize = 6 << 20;
const DONE: &str = "data: [DONE]\n\n";
const BUSY: &str = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"2s"}]}}"#;

/// What the gateway speaks to upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Http1,
    Http2,
}

/// What one request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Large,
    Stream,
    /// A stream that breaks after its first event.
    Broken,
    /// No answer at all.
    Reset,
    /// A 429 in Vertex's own form.
    Busy,
    /// A page instead of an answer.
    Page,
    /// The client leaves in mid-stream.
    Leave,
    /// The client leaves in mid-body.
    HalfBody,
    /// A key that was never issued.
    BadKey,
    /// A body that is no JSON.
    BadJson,
    /// A model that does not exist.
    BadModel,
    /// A request that is no HTTP.
    Garbage,
    Models,
}

/// Of 40 requests in a row.
const MIX: [(Kind, usize); 14] = [
    (Kind::Json, 14),
    (Kind::Large, 1),
    (Kind::Stream, 8),
    (Kind::Broken, 2),
    (Kind::Reset, 2),
    (Kind::Busy, 2),
    (Kind::Page, 1),
    (Kind::Leave, 2),
    (Kind::HalfBody, 1),
    (Kind::BadKey, 1),
    (Kind::BadJson, 1),
    (Kind::BadModel, 1),
    (Kind::Garbage, 1),
    (Kind::Models, 3),
];

impl Kind {
    fn of(number: usize) -> Self {
        // Thinned out, so that one kind does not follow itself.
        let mut place = number * 17 % 40;
        for (kind, count) in MIX {
            if place < count {
                return kind;
            }
            place -= count;
        }
        unreachable!("the mix has 40")
    }

    fn named(name: &str) -> Self {
        let kinds = MIX.into_iter().map(|(kind, _)| kind);
        kinds.into_iter().find(|kind| format!("{kind:?}") == name).unwrap_or_else(|| panic!("no kind: {name}"))
    }

    /// What the log line says; `None` where there are two ways.
    fn end(self) -> (u64, &'static str) {
        match self {
            Self::Json | Self::Large | Self::Stream | Self::Models => (200, "completed"),
            Self::Busy => (429, "completed"),
            Self::Page => (503, "completed"),
            Self::Broken => (200, "upstream_broke"),
            Self::Reset => (502, "rejected"),
            Self::Leave => (200, "client_hung_up"),
            Self::HalfBody => (0, "client_hung_up"),
            Self::BadKey => (401, "rejected"),
            Self::BadJson | Self::BadModel | Self::Garbage => (400, "rejected"),
        }
    }
}

/// The body of a request, with the model as given.
fn question(model: &str, kind: Kind, number: usize) -> String {
    let stream = matches!(kind, Kind::Stream | Kind::Broken | Kind::Leave);
    let bytes = if kind == Kind::Large { 100_000 } else { number % 2000 };
    let padding = "\u{e9}\\n\\\"".repeat(bytes / 6);
    format!(r#"{{"kind":"{kind:?}","n":{number},"model":"{model}","stream":{stream},"pad":"{padding}"}}"#)
}

fn answer(kind: Kind, number: usize) -> String {
    let bytes = if kind == Kind::Large { 200_000 } else { number * 7 % 3000 };
    format!(r#"{{"n":{number},"pad":"{}"}}"#, "z".repeat(bytes))
}

fn events(number: usize) -> Vec<String> {
    let event = |event: usize| format!("data: {{\"n\":{number},\"event\":{event}}}\n\n");
    (0..1 + number % 9).map(event).chain([DONE.to_owned()]).collect()
}

/// Kind and number of a request that upstream got, of which every byte is as it was sent.
fn judge(body: &[u8], complaints: &Watched<Vec<String>>) -> (Kind, usize) {
    let judged = serde_json::from_slice::<Value>(body)
        .ok()
        .and_then(|value| Some((Kind::named(value["kind"].as_str()?), usize::try_from(value["n"].as_u64()?).ok()?)));
    let Some((kind, number)) = judged else {
        complaints.change(|complaints| complaints.push(format!("upstream got {}", show(body))));
        return (Kind::Json, 0);
    };
    if body != question("google/gemini-2.5-flash", kind, number).as_bytes() {
        complaints.change(|complaints| complaints.push(format!("upstream got for {number}: {}", show(body))));
    }
    (kind, number)
}

fn answer_over_http1(exchange: &mut Exchange<'_>, complaints: &Watched<Vec<String>>) {
    let (kind, number) = judge(&exchange.request.body, complaints);
    match kind {
        Kind::Stream => exchange.sse(events(number)),
        Kind::Broken => {
            exchange.sse_head();
            exchange.chunk(&events(number)[0]);
            exchange.close();
        }
        Kind::Leave => {
            exchange.sse_head();
            while exchange.chunk(&events(number)[0]) {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        Kind::Reset if number.is_multiple_of(2) => exchange.reset(),
        Kind::Reset => exchange.close(),
        Kind::Busy => {
            exchange.answer("429 Busy", "content-type: application/json\r\n", format!("[{BUSY}]"));
        }
        Kind::Page => exchange.answer("503 Down", "content-type: text/html\r\n", "<html>down</html>"),
        _ => exchange.json(answer(kind, number)),
    }
}

async fn answer_over_http2(mut exchange: H2Exchange, gate: Gate, complaints: Watched<Vec<String>>) {
    if exchange.request.body.windows(7).any(|window| window == b"\"crowd\"") {
        exchange.sse_head();
        exchange.send("data: 1\n\n").await;
        gate.opened().await;
        exchange.send(DONE).await;
        return exchange.end();
    }
    let (kind, number) = judge(&exchange.request.body, &complaints);
    match kind {
        Kind::Stream => {
            exchange.sse_head();
            for event in events(number) {
                exchange.send(event).await;
            }
            exchange.end();
        }
        Kind::Broken => {
            exchange.sse_head();
            exchange.send(events(number)[0].clone()).await;
            exchange.reset(Reason::INTERNAL_ERROR);
        }
        Kind::Leave => {
            exchange.sse_head();
            exchange.send(events(number)[0].clone()).await;
            exchange.until_cancelled().await;
        }
        Kind::Reset => exchange.reset(Reason::INTERNAL_ERROR),
        Kind::Busy => {
            exchange.head(429, "application/json");
            exchange.send(format!("[{BUSY}]")).await;
            exchange.end();
        }
        Kind::Page => {
            exchange.head(503, "text/html");
            exchange.send(Bytes::from_static(b"<html>down</html>")).await;
            exchange.end();
        }
        _ => exchange.json(answer(kind, number)).await,
    }
}

/// Asks once and judges the answer. The client comes back if its connection is good for more.
fn ask(mut client: Client, wire: Wire, number: usize) -> Option<Client> {
    let kind = Kind::of(number);
    let request = match kind {
        Kind::Models => Request::get("/v1/models").key(KEY),
        Kind::BadKey => Request::new("POST", CHAT_PATH).key(UNKNOWN_KEY).body("{}"),
        Kind::BadJson => Request::chat("{\"model\":\"flash\",}"),
        Kind::BadModel => Request::chat(question("nobody", kind, number)),
        _ => Request::chat(question("flash", kind, number)),
    };
    let check = |answer: &Response, status: u16, body: &str| {
        assert_eq!((answer.status, answer.end), (status, End::Complete), "{kind:?} {number}: {}", answer.head);
        assert_bytes(&answer.body, body, &format!("the answer to {kind:?} {number}"));
    };
    match kind {
        Kind::Garbage => {
            client.send("GET /health HTTP/1.1\nhost: x\n\n");
            client.response().assert_error(400, "bad_request");
            return None;
        }
        Kind::HalfBody => {
            let bytes = request.bytes();
            client.send(&bytes[..bytes.len() - 1]);
            return None;
        }
        Kind::Leave => {
            client.send(request.bytes());
            assert_eq!(client.head().status, 200);
            client.expect_body(&events(number)[0]);
            if number.is_multiple_of(3) {
                client.reset();
            }
            return None;
        }
        _ => {}
    }
    let answer_to = client.request(&request);
    match kind {
        Kind::Json | Kind::Large => check(&answer_to, 200, &answer(kind, number)),
        Kind::Stream => check(&answer_to, 200, &events(number).concat()),
        // A reset overtakes what came before it in its connection, the answer's head too.
        Kind::Broken if wire == Wire::Http2 && answer_to.status == 502 => answer_to.assert_error(502, "upstream_broke"),
        Kind::Broken => {
            let (text, begin) = (String::from_utf8_lossy(&answer_to.body), &events(number)[0]);
            let told = text.strip_prefix(begin).unwrap_or_else(|| panic!("{number}: {text}"));
            assert!(told.starts_with("data: {\"error\":") && told.contains("\"code\":\"upstream_broke\""), "{told}");
            assert_eq!((answer_to.status, answer_to.end), (200, End::Cut), "{number}");
            return None;
        }
        Kind::Reset => answer_to.assert_error(502, "upstream_broke"),
        Kind::Busy => {
            assert_eq!(answer_to.retry_after(), 2);
            check(&answer_to, 429, BUSY);
        }
        Kind::Page => assert_eq!((answer_to.status, &*answer_to.code()), (503, "upstream_html"), "{number}"),
        Kind::BadKey => answer_to.assert_error(401, "invalid_api_key"),
        Kind::BadJson => answer_to.assert_error(400, "invalid_json"),
        Kind::BadModel => answer_to.assert_error(400, "model_not_found"),
        Kind::Models => {
            assert_eq!((answer_to.status, answer_to.json()["data"][0]["id"].as_str()), (200, Some("flash")))
        }
        Kind::Leave | Kind::HalfBody | Kind::Garbage => unreachable!("they have returned"),
    }
    (answer_to.header("connection") != Some("close")).then_some(client)
}

/// What the gateway holds when nobody asks for anything.
#[derive(Clone, Copy, Debug)]
struct Holdings {
    memory: usize,
    descriptors: usize,
    threads: usize,
    tasks: usize,
}

/// Waits until the gateway has nothing to do, and looks what it holds then.
fn at_rest(gateway: &Gateway, scrapes: &mut usize) -> Holdings {
    let until = Instant::now() + DEADLINE;
    let samples = loop {
        let samples = gateway.metrics();
        *scrapes += 1;
        // This scrape is among them; another may still be ending.
        if samples["ai_proxy_requests_running"] == 1.0
            && samples["ai_proxy_connections_open"] == 1.0
            && samples["ai_proxy_body_budget_used_bytes"] == 0.0
        {
            break samples;
        }
        assert!(Instant::now() < until, "it does not come to rest: {samples:#?}");
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("the gateway runs");
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).expect("a line");
    let count = |name: &str| samples[name] as usize;
    Holdings {
        memory: count("process_resident_memory_bytes"),
        descriptors: count("process_open_fds"),
        threads: threads.trim().parse().expect("a number"),
        tasks: count("ai_proxy_tasks"),
    }
}

/// Opens many streams, has them all wait, and lets them end.
fn crowd(gateway: &Gateway, count: usize, gate: &Gate) {
    let mut streams: Vec<_> = (0..count)
        .map(|_| {
            let mut client = gateway.client();
            client.send(Request::chat(r#"{"model":"flash","stream":true,"user":"crowd"}"#).bytes());
            client
        })
        .collect();
    for stream in &mut streams {
        assert_eq!(stream.head().status, 200);
        stream.expect_body("data: 1\n\n");
    }
    gate.open();
    for stream in &mut streams {
        stream.expect_body(DONE);
        assert_eq!(stream.piece(), Err(End::Complete));
    }
}

/// Soaks one gateway. `between` is called in the middle of each lap, from beside the clients.
fn soak(
    wire: Wire,
    upstream: &impl Target,
    requests: usize,
    complaints: &Watched<Vec<String>>,
    between: impl Fn(&Gateway) -> usize + Sync,
) {
    let gateway = Gateway::before(upstream).env("METRICS_PORT", "0").tally().start();
    let lap = requests.div_ceil(LAPS);
    let mut expected: BTreeMap<(u64, String), usize> = BTreeMap::new();
    let (mut held, mut scrapes) = (Vec::new(), 0);
    for number in 0..LAPS {
        let next = AtomicUsize::new(number * lap);
        let end = (number + 1) * lap;
        let extra = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    scope.spawn(|| {
                        let mut kept = None;
                        loop {
                            let number = next.fetch_add(1, Ordering::Relaxed);
                            if number >= end {
                                return;
                            }
                            kept = ask(kept.unwrap_or_else(|| gateway.client()), wire, number);
                        }
                    })
                })
                .collect();
            let extra = between(&gateway);
            for client in clients {
                client.join().expect("a client has no complaints");
            }
            extra
        });
        for number in number * lap..end {
            let (status, outcome) = Kind::of(number).end();
            *expected.entry((status, outcome.to_owned())).or_default() += 1;
        }
        *expected.entry((200, "completed".to_owned())).or_default() += extra;
        let now = at_rest(&gateway, &mut scrapes);
        println!("{wire:?}, {end} requests: {now:?}");
        assert_eq!(complaints.read(Clone::clone), Vec::<String>::new());
        held.push(now);
    }
    // The first lap fills caches and pools.
    let (first, last) = (held[1], held[LAPS - 1]);
    assert!(last.memory <= first.memory + first.memory / 10 + SLACK_BYTES, "memory grows: {held:#?}");
    // Idle connections to upstream come and go.
    assert!(last.descriptors <= first.descriptors + CLIENTS, "descriptors grow: {held:#?}");
    assert!(last.tasks <= first.tasks + CLIENTS, "tasks grow: {held:#?}");
    // So do threads on which names are resolved, one for each connection that is made at the same time.
    assert!(last.threads <= first.threads + CLIENTS, "threads grow: {held:#?}");
    // Each request has its line, and no line is of another kind. Scrapes have theirs too.
    *expected.entry((200, "completed".to_owned())).or_default() += scrapes;
    let until = Instant::now() + DEADLINE;
    let by_end = |mut ends: BTreeMap<(u64, String), usize>| {
        if wire == Wire::Http2 {
            let broken = ends.remove(&(200, "upstream_broke".to_owned())).unwrap_or(0);
            *ends.entry((502, "rejected".to_owned())).or_default() += broken;
        }
        ends
    };
    let expected = by_end(expected);
    loop {
        let told = by_end(gateway.requests_by_end());
        if told == expected {
            break;
        }
        assert!(Instant::now() < until, "{wire:?}: {told:?}, expected {expected:?}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

#[expect(clippy::disallowed_methods, reason = "a test is told so how long it takes")]
fn requests() -> usize {
    // The gateway, clients and upstream have descriptors for the crowd.
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let given = std::env::var("SOAK_REQUESTS").ok();
    given.map_or(DEFAULT_REQUESTS, |number| number.parse().expect("SOAK_REQUESTS is a number"))
}

#[test]
fn over_http1_nothing_grows_and_nothing_is_wrong() {
    let complaints: Watched<Vec<String>> = Watched::default();
    let of_upstream = complaints.clone();
    let upstream = Upstream::forgetful(move |exchange| answer_over_http1(exchange, &of_upstream));
    soak(Wire::Http1, &upstream, requests() / 2, &complaints, |_| 0);
}

#[test]
fn over_http2_nothing_grows_and_nothing_is_wrong() {
    let complaints: Watched<Vec<String>> = Watched::default();
    let gates: Watched<Arc<Gate>> = Watched::new(Arc::new(Gate::new()));
    let (of_upstream, current) = (complaints.clone(), gates.clone());
    let upstream = H2Upstream::forgetful(move |exchange| {
        let gate = current.read(|gate| Gate::clone(gate));
        answer_over_http2(exchange, gate, of_upstream.clone())
    });
    let requests = requests() / 2;
    let count = CROWD.min(requests / LAPS / 4);
    soak(Wire::Http2, &upstream, requests, &complaints, |gateway| {
        // Upstream's connections go away under the clients, and a crowd is on the new ones.
        upstream.go_away();
        let gate = Gate::new();
        gates.change(|current| *current = Arc::new(gate.clone()));
        crowd(gateway, count, &gate);
        count
    });
}
