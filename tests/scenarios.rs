//! The gateway against every scenario of the emulator, over HTTP/1.1 and HTTP/2, with streams and without.
//!
//! The list is the emulator's own. What is expected follows from what the emulator says it has sent; what a client sees
//! of it, and the log line, stands in `scenarios.txt`, where a new scenario is missing until somebody has thought of it.
mod support;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use support::metrics::{sample, scrape};
use support::{DEADLINE, Emulator, End, Gateway, KEY, Request, Response, assert_bytes, show, sse, until};

/// Pauses are so many times as short: 160 seconds are 160 ms.
const SPEED: [&str; 2] = ["--speed", "1000"];
/// What a client sees of each scenario, and how the log tells it.
const EXPECTED: &str = include_str!("scenarios.txt");
/// Idle connections that a gateway keeps for long, section 21.
const IDLE_CONNECTIONS: f64 = 8.0;
/// Once all scenarios have been seen, this much more memory is none that is lost.
const MEMORY_BYTES: f64 = 16.0 * 1024.0 * 1024.0;

/// A scenario as the emulator lists it.
#[derive(Clone)]
struct Scenario {
    name: String,
    marker: Option<String>,
    has_tools: bool,
}

fn chats(emulator: &Emulator) -> Vec<Scenario> {
    let listed = emulator.control("GET", "scenarios", None);
    let chats = listed["scenarios"].as_array().expect("a list").iter().filter(|scenario| scenario["of"] == "chat");
    chats
        .map(|scenario| Scenario {
            name: scenario["name"].as_str().expect("a name").to_owned(),
            marker: scenario["marker"].as_str().map(str::to_owned),
            has_tools: scenario["has_tools"] == true,
        })
        .collect()
}

impl Scenario {
    /// A request that is a case of it.
    fn request(&self, emulator: &Emulator, stream: bool) -> Value {
        if self.marker.is_none() {
            emulator.next(&self.name, 1);
        }
        let text = format!("What is the weather in Paris? {}", self.marker.as_deref().unwrap_or_default());
        // The one that signs its calls, where there are any.
        let model = if self.has_tools { "pro-preview" } else { "flash" };
        let mut request = json!({"model": model, "messages": [{"role": "user", "content": text}], "stream": stream});
        if self.has_tools {
            request["tools"] = json!([{"type": "function", "function": {"name": "get_weather", "parameters":
                {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]);
        }
        request
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// One scenario, asked for in one way.
struct Case<'a> {
    what: String,
    emulator: &'a Emulator,
    gateway: &'a Gateway,
    repairs: bool,
}

impl Case<'_> {
    /// Asks, judges everything, and tells what the client sees and the log says.
    #[track_caller]
    fn run(&self, scenario: &Scenario, stream: bool) -> String {
        let (what, emulator) = (&self.what, self.emulator);
        let request = scenario.request(emulator, stream);
        let before = emulator.next_number();
        let answer = self.gateway.chat(request.to_string());
        let exchanges = emulator.chats_since(before);
        let line = self.gateway.log_of(&answer);
        self.judge_upstream(&request, &exchanges);
        let last = exchanges.last().expect("at least one");
        self.judge_answer(&answer, last, stream);

        assert_eq!(line["status"], answer.status, "{what}");
        assert_eq!(line["response_bytes"], answer.body.len(), "{what}");
        assert_eq!(line["request_bytes"], request.to_string().len(), "{what}");
        assert_eq!(line["stream"], stream, "{what}");
        let went_well = last["ended"] == "complete";
        if !last["status"].is_null() {
            assert_eq!(line["upstream_status"], last["status"], "{what}");
        }
        // Whatever it was, the next request is answered, and not on a connection that something is left on.
        let before = emulator.next_number();
        let next = self.gateway.chat(support::CHAT.replace("hello", "Say hi."));
        assert!(show(&next.body).contains("Hi there!"), "after {what}: {} {}", next.status, show(&next.body));
        let after = emulator.chats_since(before);
        if !went_well && last["protocol"] == "HTTP/1.1" {
            assert_ne!(after[0]["connection"], last["connection"], "{what}: a connection is used again");
        }
        let mut seen = format!("{} {}", answer.status, line["outcome"].as_str().expect("an outcome"));
        if let Some(error) = line["error"].as_str() {
            let code = error.split(':').next().unwrap_or_default();
            seen = format!("{seen} {code}");
        }
        seen
    }

    /// What upstream saw: the client's request and nothing of the client.
    #[track_caller]
    fn judge_upstream(&self, request: &Value, exchanges: &[Value]) {
        let what = &self.what;
        let mut expected = request.to_string();
        for (alias, id) in [("flash", "google/gemini-2.5-flash"), ("pro-preview", "google/gemini-3.1-pro-preview")] {
            expected = expected.replace(&format!("\"model\":\"{alias}\""), &format!("\"model\":\"{id}\""));
        }
        for exchange in exchanges {
            assert_eq!(exchange["method"], "POST", "{what}");
            // A stream that was refused may not have been read.
            if exchange["request"]["bytes"] != 0 {
                assert_eq!(exchange["request"]["text"], expected, "{what}");
            }
            let headers: BTreeMap<&str, &str> = exchange["headers"]
                .as_array()
                .expect("a list")
                .iter()
                .map(|field| (field[0].as_str().expect("a name"), field[1].as_str().expect("a value")))
                .collect();
            assert!(headers["authorization"].starts_with("sha256:"), "{what}: {headers:?}");
            assert!(headers["user-agent"].starts_with("ai-proxy/"), "{what}: {headers:?}");
            assert_eq!(headers["accept-encoding"], "identity", "{what}");
            assert!(!exchange.to_string().contains(KEY), "{what}");
        }
        // Sent again only with a new bearer, or where nothing was processed.
        let again = exchanges.len() > 1;
        let may = exchanges[0]["status"] == 401 || exchanges[0]["status"].is_null();
        assert!(exchanges.len() <= 2 && (!again || may), "{what}: sent {} times", exchanges.len());
    }

    /// What the client got, against what upstream has sent.
    #[track_caller]
    fn judge_answer(&self, answer: &Response, upstream: &Value, stream: bool) {
        let what = format!("{}: {} {:?}", self.what, answer.status, answer.end);
        let sent = &upstream["answer"];
        let (length, sum) = (sent["bytes"].as_u64().expect("a length") as usize, &sent["sha256"]);
        let same = |bytes: &[u8]| bytes.len() == length && sha256(bytes) == *sum;
        let complete = upstream["ended"] == "complete";
        match upstream["status"].as_u64() {
            // Below HTTP: nothing of it may look like an answer of upstream's, unless it is one.
            None => {
                if answer.status == 200 {
                    let whole = sent["text"].as_str().expect("a text");
                    let body = std::str::from_utf8(&answer.body).expect("a text");
                    assert!(whole.contains(body), "{what}: {}", show(&answer.body));
                    assert!(!body.is_empty() || answer.end != End::Complete, "{what}");
                } else {
                    assert_eq!(answer.end, End::Complete, "{what}");
                    assert!(matches!(answer.status, 502 | 504), "{what}");
                }
            }
            Some(200..=299) if complete => {
                assert_eq!(u64::from(answer.status), upstream["status"], "{what}");
                assert_eq!(answer.end, End::Complete, "{what}");
                assert!(same(&answer.body), "{what}: other bytes: {}", show(&answer.body));
            }
            Some(200..=299) => {
                assert_ne!(answer.end, End::Complete, "{what}");
                let all = answer.body.get(..length).unwrap_or_else(|| panic!("{what}: bytes are missing"));
                assert!(same(all), "{what}: other bytes: {}", show(&answer.body));
                let more = &answer.body[length..];
                let was_done = show(all).contains("data: [DONE]");
                if stream && !was_done && answer.header("content-encoding").is_none() {
                    let last = sse::events(&answer.body).pop().unwrap_or_default();
                    assert!(last.contains("upstream_broke"), "{what}: {}", show(more));
                } else {
                    assert_bytes(more, "", &what);
                }
            }
            Some(401) => assert_eq!(answer.code(), "upstream_rejected_credentials", "{what}"),
            Some(_) if !complete => assert!(answer.end != End::Complete || answer.status == 502, "{what}"),
            Some(status) => {
                assert_eq!(u64::from(answer.status), status, "{what}");
                assert_eq!(answer.end, End::Complete, "{what}");
                let text = sent["text"].as_str().expect("a text");
                let one = text.starts_with('[')
                    && serde_json::from_str::<Value>(text).is_ok_and(|errors| errors[1].is_null());
                if self.repairs && one {
                    let inner = text.trim_start_matches('[').trim_end_matches(']');
                    assert_bytes(&answer.body, inner, &what);
                } else if self.repairs && text.starts_with('<') {
                    assert_eq!(answer.code(), "upstream_html", "{what}");
                } else {
                    assert!(same(&answer.body), "{what}: other bytes: {}", show(&answer.body));
                }
            }
        }
    }
}

/// What is seen of every scenario, with repairs. Each gateway has an emulator of its own, whose connections are its.
fn run_all([emulator, other]: &[Emulator; 2]) -> BTreeMap<String, [String; 2]> {
    let gateway = |emulator: &Emulator, errors: &str| {
        let gateway = emulator.gateway().env("UPSTREAM_ERRORS", errors).env("UPSTREAM_TIMEOUT_SECONDS", "2");
        gateway.env("METRICS_PORT", "0").start()
    };
    let (repairing, raw) = (gateway(emulator, "openai"), gateway(other, "raw"));
    let mut seen = BTreeMap::new();
    let scenarios = chats(emulator);
    for scenario in &scenarios {
        let both = [false, true].map(|stream| {
            let case = |gateway, repairs| Case {
                what: format!("{} (stream: {stream}, repairs: {repairs})", scenario.name),
                emulator: if repairs { emulator } else { other },
                gateway,
                repairs,
            };
            let told = case(&repairing, true).run(scenario, stream);
            // Repairs are of errors only: one look without them is enough at what is none.
            if !stream || !told.starts_with("200") {
                case(&raw, false).run(scenario, stream);
            }
            told
        });
        seen.insert(scenario.name.clone(), both);
    }
    returns_to_its_start(emulator, &repairing, &scenarios);
    seen
}

/// What a gateway holds when nothing runs.
#[derive(Debug)]
struct Held {
    /// Requests that run, clients' connections, the emulator's exchanges under way: the scrape is among the first two.
    running: [f64; 3],
    /// Connections to the emulator. Idle ones are kept for later, so that one more or less says nothing.
    upstream: f64,
    /// Open files that are no connection of either side.
    files: f64,
    memory: f64,
}

impl Held {
    fn by(gateway: &Gateway, emulator: &Emulator) -> Self {
        let state = emulator.control("GET", "state", None);
        let number = |name: &str| state[name].as_f64().expect("a number");
        let samples = scrape(gateway.metrics_port());
        let told = |name: &str| sample(&samples, name);
        let clients = told("ai_proxy_connections_open");
        // The control endpoint was asked over a connection too.
        let upstream = number("connections") - 1.0;
        Self {
            running: [told("ai_proxy_requests_running"), clients, number("running")],
            upstream,
            files: told("process_open_fds") - clients - upstream,
            memory: told("process_resident_memory_bytes"),
        }
    }

    fn is_at_rest(&self) -> bool {
        self.running == [1.0, 1.0, 0.0]
    }
}

/// Looks again until something holds of what is held; tells what was held when it never does.
#[track_caller]
fn held_until(what: &str, look: impl Fn() -> Held, holds: impl Fn(&Held) -> bool) -> Held {
    let began = Instant::now();
    loop {
        let held = look();
        if holds(&held) {
            return held;
        }
        assert!(began.elapsed() < DEADLINE, "{what}: {held:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Memory and open connections do not grow with the number of faults.
#[track_caller]
fn returns_to_its_start(emulator: &Emulator, gateway: &Gateway, scenarios: &[Scenario]) {
    let look = || Held::by(gateway, emulator);
    // The two sides of a connection do not end at one moment: of several looks the one with most files saw them all.
    let looks = (0..10).map(|_| held_until("not at rest before", look, Held::is_at_rest));
    let start = looks.max_by(|one, other| one.files.total_cmp(&other.files)).expect("ten of them");
    for scenario in scenarios {
        // The one that waits for a time-out would only take time.
        for stream in [false, true].into_iter().filter(|_| scenario.name != "never") {
            gateway.chat(scenario.request(emulator, stream).to_string());
        }
    }
    held_until("still at work, as requests, clients, exchanges", look, Held::is_at_rest);
    let what = format!("files are left open, and before it was {start:?}");
    held_until(&what, look, |held| held.files <= start.files);
    // Two hundred requests one after the other, of which any that leaves one behind would show.
    let what = format!("connections to upstream are left open, and before it was {start:?}");
    held_until(&what, look, |held| held.upstream <= start.upstream + IDLE_CONNECTIONS);
    let what = format!("memory is not given back, and before it was {start:?}");
    held_until(&what, look, |held| held.memory < start.memory + MEMORY_BYTES);
}

/// `name | what is seen without a stream | with one`, a line for each.
fn expected(protocol: &str) -> BTreeMap<String, [String; 2]> {
    let mut expected = BTreeMap::new();
    for line in EXPECTED.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [name, json, stream] = cells[..] else { panic!("three cells: {line}") };
        // What differs between the protocols has a line for each.
        let (name, of) = name.split_once('@').unwrap_or((name, protocol));
        if of == protocol {
            expected.insert(name.to_owned(), [json.to_owned(), stream.to_owned()]);
        }
    }
    expected
}

#[track_caller]
fn compare(seen: &BTreeMap<String, [String; 2]>, protocol: &str) {
    let expected = expected(protocol);
    let mut differences = String::new();
    for name in seen.keys().chain(expected.keys()).collect::<std::collections::BTreeSet<_>>() {
        if seen.get(name) != expected.get(name) {
            let [json, stream] = seen.get(name).cloned().unwrap_or_default();
            let _ = writeln!(differences, "{name} | {json} | {stream}");
        }
    }
    assert!(differences.is_empty(), "tests/scenarios.txt says otherwise, over {protocol}:\n{differences}");
}

#[test]
fn every_scenario_over_http1() {
    compare(&run_all(&[Emulator::start(&SPEED), Emulator::start(&SPEED)]), "http1");
}

#[test]
fn every_scenario_over_http2() {
    compare(&run_all(&[Emulator::start_tls(&SPEED), Emulator::start_tls(&SPEED)]), "http2");
}

#[test]
fn a_client_that_leaves_half_an_answer_leaves_no_connection_that_is_used_again() {
    for emulator in [Emulator::start(&[]), Emulator::start_tls(&[])] {
        let gateway = emulator.gateway().start();
        let before = emulator.next_number();
        let mut client = gateway.client();
        let body =
            json!({"model": "flash", "stream": true, "messages": [{"role": "user", "content": "[emulator:trickle]"}]});
        client.send(Request::chat(body.to_string()).bytes());
        client.head();
        client.piece().expect("a piece");
        drop(client);
        let left = emulator.chats_since(before);
        assert_eq!(left[0]["ended"], "abandoned");
        let before = emulator.next_number();
        assert_eq!(gateway.chat(support::CHAT).status, 200);
        let next = emulator.chats_since(before);
        if left[0]["protocol"] == "HTTP/1.1" {
            assert_ne!(next[0]["connection"], left[0]["connection"]);
        } else {
            assert_eq!(next[0]["connection"], left[0]["connection"], "one stream's end is not the connection's");
        }
        gateway.wait_for_log("the hang-up", |line| line["outcome"] == "client_hung_up");
    }
}

/// What the metadata server does, and whether a chat is answered while it does so.
#[test]
fn every_scenario_of_tokens() {
    let emulator = Emulator::start(&SPEED);
    let listed = emulator.control("GET", "scenarios", None);
    let of_tokens = listed["scenarios"].as_array().expect("a list").iter().filter(|scenario| scenario["of"] == "token");
    let mut count = 0;
    for scenario in of_tokens {
        let name = scenario["name"].as_str().expect("a name");
        // Whatever comes first, the gateway gets to a token in the end, and answers with it.
        emulator.next(name, 1);
        let gateway = emulator.gateway().start();
        until(name, || (gateway.get("/readyz").status == 200).then_some(()));
        let answer = gateway.request(&Request::chat(support::CHAT));
        assert_eq!(answer.status, 200, "{name}: {}", show(&answer.body));
        assert_eq!(emulator.control("GET", "next", None)["next"], json!([]), "{name} was asked for");
        count += 1;
    }
    assert!(count >= 10, "{count}");
}
