//! The same model in several locations: which one is asked, when another is, and what that may cost.
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::gateway::Target;
use support::{
    CHAT, CHAT_STREAM, CHAT_UPSTREAM, End, Exchange, Gate, Gateway, H2Upstream, KEY, Request, Response, Treatment,
    Upstream, Watched, assert_bytes,
};

const LOCATIONS: &str = "us-central1, europe-west4,asia-east1";
const BUSY: &str = r#"{"error":{"code":429,"message":"Resource exhausted.","status":"RESOURCE_EXHAUSTED"}}"#;
const FIELD: &str = "x-ai-proxy-location";

fn before(upstream: &impl Target) -> Gateway {
    Gateway::before(upstream).env("GOOGLE_CLOUD_LOCATION", LOCATIONS).start()
}

/// The location that a request asks.
fn location_of(path: &str) -> &str {
    path.split('/').nth(5).unwrap_or_default()
}

/// The locations that were asked, in their order.
fn asked(upstream: &Upstream) -> Vec<String> {
    upstream.requests().iter().map(|request| location_of(request.path()).to_owned()).collect()
}

fn refuse(exchange: &mut Exchange<'_>, status: &str) {
    exchange.answer(status, "content-type: application/json\r\nretry-after: 7\r\n", format!("[{BUSY}]"));
}

/// An upstream where some locations have no capacity and the others tell who they are.
fn without_capacity(status: &'static str, busy: &'static [&'static str]) -> Upstream {
    Upstream::new(move |exchange| {
        let location = location_of(exchange.request.path()).to_owned();
        if busy.contains(&&*location) { refuse(exchange, status) } else { exchange.json(format!("\"{location}\"")) }
    })
}

/// So many requests that end well have saved as many attempts as one request may make, and paid for the next.
const CALM: usize = 16;

/// An upstream where all is well for [`CALM`] requests, and nothing is from then on.
fn calm_before(status: &'static str) -> Upstream {
    let number = AtomicUsize::new(0);
    Upstream::new(move |exchange| {
        if number.fetch_add(1, Ordering::Relaxed) < CALM { exchange.json("{}") } else { refuse(exchange, status) }
    })
}

fn enjoy_calm(gateway: &Gateway) {
    let mut client = gateway.client();
    for _ in 0..CALM {
        assert_eq!(client.request(&Request::chat(CHAT)).status, 200);
    }
}

fn assert_from(answer: &Response, location: &str) {
    assert_eq!((answer.status, answer.header(FIELD)), (200, Some(location)), "{}", answer.head);
}

#[test]
fn one_location_is_asked_once_whatever_it_answers() {
    for status in ["429 Busy", "503 Down"] {
        let upstream = Upstream::new(move |exchange| refuse(exchange, status));
        let gateway = Gateway::before(&upstream).env("GOOGLE_CLOUD_LOCATION", "us-central1").start();
        for number in 1..4 {
            let answer = gateway.chat(CHAT);
            assert_eq!((answer.status.to_string(), answer.header(FIELD)), (status[..3].to_owned(), None));
            assert_eq!(upstream.requests().len(), number);
        }
        let line = gateway.wait_for_access(0);
        assert!(line["location"].is_null() && line["attempts"].is_null(), "{line}");
    }
}

#[test]
fn a_later_location_answers_where_the_first_has_no_capacity() {
    for status in ["429 Busy", "503 Down"] {
        let upstream = without_capacity(status, &["us-central1"]);
        let gateway = before(&upstream);
        let answer = gateway.chat(CHAT);
        assert_from(&answer, "europe-west4");
        assert_bytes(&answer.body, "\"europe-west4\"", "the answer");
        let line = gateway.log_of(&answer);
        assert_eq!((&line["location"], &line["status"]), (&"europe-west4".into(), &200.into()));
        assert_eq!((&line["attempts"], &line["error"]), (&2.into(), &serde_json::Value::Null));
        for request in upstream.requests() {
            assert_bytes(&request.body, CHAT_UPSTREAM, "what either location gets");
        }
        // The first is passed over while it cools down.
        assert_from(&gateway.chat(CHAT), "europe-west4");
        assert_eq!(asked(&upstream), ["us-central1", "europe-west4", "europe-west4"]);
    }
}

#[test]
fn the_first_is_asked_again_when_it_has_cooled_down() {
    let upstream = Upstream::queued();
    upstream.then(|exchange| refuse(exchange, "429 Busy"));
    let gateway = before(&upstream);
    let began = Instant::now();
    assert_from(&gateway.chat(CHAT), "europe-west4");
    let until = began + Duration::from_secs(20);
    while gateway.chat(CHAT).header(FIELD) != Some("us-central1") {
        assert!(Instant::now() < until, "it is never asked again");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(began.elapsed() >= Duration::from_secs(5), "after {:?}", began.elapsed());
}

#[test]
fn no_location_has_capacity_and_the_client_hears_it() {
    let upstream = calm_before("429 Busy");
    let gateway = before(&upstream);
    enjoy_calm(&gateway);
    let answer = gateway.chat(CHAT);
    assert_eq!((answer.status, answer.header(FIELD), answer.retry_after()), (429, Some("asia-east1"), 7));
    assert_bytes(&answer.body, BUSY, "the last answer, repaired as ever");
    assert_eq!(asked(&upstream)[CALM..], ["us-central1", "europe-west4", "asia-east1"]);
    assert_eq!(gateway.log_of(&answer)["attempts"], 3);
    // All cool down now: one says how things are.
    let next = gateway.chat(CHAT);
    assert_eq!((next.header(FIELD), gateway.log_of(&next)["attempts"].as_u64()), (Some("us-central1"), Some(1)));
    assert_eq!(upstream.requests().len(), CALM + 4);
}

#[test]
fn two_extra_attempts_are_all() {
    let upstream = calm_before("503 Down");
    let gateway = Gateway::before(&upstream).env("GOOGLE_CLOUD_LOCATION", "a,b,c,d,e").start();
    enjoy_calm(&gateway);
    assert_eq!(gateway.chat(CHAT).header(FIELD), Some("c"));
    assert_eq!(asked(&upstream)[CALM..], ["a", "b", "c"]);
}

#[test]
fn an_alias_has_a_list_of_its_own() {
    let upstream = without_capacity("429 Busy", &["us-central1", "eu"]);
    let gateway = Gateway::before(&upstream)
        .env("GOOGLE_CLOUD_LOCATION", LOCATIONS)
        .env("MODEL_FLASH_LOCATION", "eu,global")
        .env("MODEL_PRO_PREVIEW_LOCATION", "us")
        .start();
    assert_from(&gateway.chat(CHAT), "global");
    let only = gateway.chat(CHAT.replace("flash", "pro-preview"));
    assert_eq!((only.status, only.header(FIELD)), (200, None));
    assert_eq!(asked(&upstream), ["eu", "global", "us"]);
}

/// Only a lack of capacity and a failed connection are for elsewhere: a 500 may have cost something, a 400 is the
/// client's, an answer that broke off may have been given.
#[test]
fn other_failures_stay_where_they_are() {
    for status in ["400 Bad", "403 No", "404 None", "500 Broken", "502 Bad", "504 Late"] {
        let upstream = Upstream::new(move |exchange| refuse(exchange, status));
        let gateway = before(&upstream);
        let answer = gateway.chat(CHAT);
        assert_eq!((&*answer.status.to_string(), answer.header(FIELD)), (&status[..3], Some("us-central1")));
        assert_eq!(upstream.requests().len(), 1, "{status}");
    }
    let upstream = Upstream::new(|exchange| exchange.reset());
    before(&upstream).chat(CHAT).assert_error(502, "upstream_broke");
    assert_eq!(upstream.requests().len(), 1);
}

#[test]
fn a_stream_that_has_begun_stays_where_it_is() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: 1\n\n");
        exchange.close();
    });
    let answer = before(&upstream).chat(CHAT_STREAM);
    assert_eq!((answer.status, answer.end, answer.header(FIELD)), (200, End::Cut, Some("us-central1")));
    assert_eq!(upstream.requests().len(), 1);
}

/// A pool dials twice before it says that there is no connection.
#[test]
fn a_location_that_cannot_be_reached_is_passed_over() {
    let upstream = H2Upstream::with_treatment(
        |connection| if connection < 2 { Treatment::Close } else { Treatment::Serve },
        |exchange| async move { exchange.json("{}").await },
    );
    assert_from(&before(&upstream).chat(CHAT), "europe-west4");
}

#[test]
fn what_vertex_said_is_worth_more_than_a_failed_connection() {
    let gate = Gate::new();
    let last_dial = gate.clone();
    let upstream = H2Upstream::with_treatment(
        // There is room for one stream on the first connection, and there are no others.
        move |connection| match connection {
            0 => Treatment::Limit(1),
            1 => Treatment::Close,
            _ => {
                last_dial.open();
                Treatment::Close
            }
        },
        move |mut exchange| {
            let gate = gate.clone();
            async move {
                exchange.head(429, "application/json");
                gate.opened().await;
                exchange.send(BUSY).await;
                exchange.end();
            }
        },
    );
    let answer = before(&upstream).chat(CHAT);
    assert_eq!((answer.status, answer.header(FIELD)), (429, Some("us-central1")));
    assert_bytes(&answer.body, BUSY, "the answer that was kept");
}

#[test]
fn a_client_that_leaves_ends_the_search() {
    let gate = Gate::new();
    let opened = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        opened.wait();
        refuse(exchange, "429 Busy");
    });
    let gateway = before(&upstream);
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(0);
    drop(client);
    assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up");
    gate.open();
    assert_eq!(gateway.get("/health").status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

/// The second location has the request and takes its time.
#[test]
fn a_client_that_leaves_during_the_second_attempt_ends_that_too() {
    let upstream = H2Upstream::new(|mut exchange| async move {
        if exchange.number == 0 {
            exchange.head(429, "application/json");
            exchange.send(BUSY).await;
            exchange.end();
        } else {
            exchange.until_cancelled().await;
        }
    });
    let gateway = before(&upstream);
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(1);
    drop(client);
    upstream.wait_cancelled(1);
    assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up");
    assert_eq!(upstream.seen().requests.len(), 2);
}

#[test]
fn over_http2_both_locations_get_the_same_bytes() {
    let text = "x".repeat(300_000);
    let chat = format!(r#"{{"model":"flash","messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let upstream = H2Upstream::new(|mut exchange| async move {
        if exchange.number == 0 {
            exchange.head(503, "application/json");
            exchange.send(BUSY).await;
            exchange.end();
        } else {
            exchange.json("{}").await;
        }
    });
    assert_from(&before(&upstream).chat(&chat), "europe-west4");
    let requests = upstream.seen().requests;
    assert_eq!(
        requests.iter().map(|request| location_of(&request.path)).collect::<Vec<_>>(),
        ["us-central1", "europe-west4"]
    );
    for request in &requests {
        assert_bytes(&request.body, chat.replace("flash", "google/gemini-2.5-flash"), "what either location gets");
    }
}

#[test]
fn a_request_counts_once_for_its_key_wherever_it_was_tried() {
    let upstream = without_capacity("429 Busy", &["us-central1"]);
    let keys = serde_json::json!([{"id": "tester", "key": KEY, "rpm": 2}]).to_string();
    let gateway =
        Gateway::before(&upstream).env("GOOGLE_CLOUD_LOCATION", LOCATIONS).env("API_KEYS_JSON", &keys).start();
    let first = gateway.chat(CHAT);
    assert_from(&first, "europe-west4");
    assert_eq!(first.header("x-ratelimit-remaining-requests"), Some("1"));
    assert_from(&gateway.chat(CHAT), "europe-west4");
    gateway.chat(CHAT).assert_error(429, "rate_limit_exceeded");
}

/// After a cool-down one request finds out how the location does; nobody else waits for what it finds.
#[test]
fn one_request_alone_tries_a_location_that_has_cooled_down() {
    let (gate, on_trial) = (Gate::new(), Watched::new(0));
    let (opened, tried) = (gate.clone(), on_trial.clone());
    let number = AtomicUsize::new(0);
    let upstream = Upstream::new(move |exchange| {
        if number.fetch_add(1, Ordering::Relaxed) == 0 {
            return refuse(exchange, "429 Busy");
        }
        if location_of(exchange.request.path()) == "us-central1" {
            tried.change(|tried| *tried += 1);
            opened.wait();
        }
        exchange.json("{}");
    });
    let gateway = before(&upstream);
    assert_from(&gateway.chat(CHAT), "europe-west4");
    let until = Instant::now() + Duration::from_secs(20);
    std::thread::scope(|scope| {
        let mut chats = Vec::new();
        while on_trial.read(|tried| *tried == 0) {
            assert!(Instant::now() < until, "it is never tried again");
            chats.push(scope.spawn(|| gateway.chat(CHAT)));
            std::thread::sleep(Duration::from_millis(50));
        }
        for _ in 0..5 {
            assert_from(&gateway.chat(CHAT), "europe-west4");
        }
        gate.open();
        let answers = chats.into_iter().map(|chat| chat.join().expect("an answer"));
        assert_eq!(answers.filter(|answer| answer.header(FIELD) == Some("us-central1")).count(), 1);
    });
    assert_from(&gateway.chat(CHAT), "us-central1");
}

/// What the first location took of the time is not given to the second once more; and what was said stays said.
#[test]
fn all_attempts_together_have_the_time_for_an_answer() {
    const FIRST: Duration = Duration::from_millis(1500);
    let held = Gate::new();
    let end = held.clone();
    let upstream = Upstream::new(move |exchange| {
        if location_of(exchange.request.path()) == "us-central1" {
            std::thread::sleep(FIRST);
            refuse(exchange, "503 Down");
        } else {
            held.wait();
        }
    });
    let gateway =
        Gateway::before(&upstream).env("GOOGLE_CLOUD_LOCATION", LOCATIONS).env("UPSTREAM_TIMEOUT_SECONDS", "2").start();
    let began = Instant::now();
    let answer = gateway.chat(CHAT);
    let took = began.elapsed();
    end.open();
    assert_eq!((answer.status, answer.header(FIELD)), (503, Some("us-central1")));
    assert_eq!(asked(&upstream), ["us-central1", "europe-west4"]);
    assert!(took < FIRST + Duration::from_secs(2), "{took:?}");
    let line = gateway.log_of(&answer);
    assert_eq!((&line["attempts"], &line["outcome"]), (&2.into(), &"completed".into()), "{line}");
    assert_eq!(line["error"], "upstream_timeout: europe-west4: no response headers");
}

/// The client gets what Vertex AI has said; the log says too what became of the second attempt.
#[test]
fn a_second_attempt_that_fails_is_in_the_log() {
    for (breaks, code) in [(true, "upstream_broke"), (false, "upstream_rejected_credentials")] {
        let upstream = Upstream::new(move |exchange| {
            if location_of(exchange.request.path()) == "us-central1" {
                refuse(exchange, "429 Busy");
            } else if breaks {
                exchange.close();
            } else {
                exchange.answer("401 Unauthorized", "content-type: application/json\r\n", "{}");
            }
        });
        let gateway = before(&upstream);
        let answer = gateway.chat(CHAT);
        assert_eq!((answer.status, answer.header(FIELD)), (429, Some("us-central1")));
        assert_bytes(&answer.body, BUSY, "the answer that was kept");
        let line = gateway.log_of(&answer);
        assert!(
            line["error"].as_str().is_some_and(|text| text.starts_with(&format!("{code}: europe-west4: "))),
            "{line}"
        );
        assert_eq!((&line["upstream_status"], &line["outcome"]), (&429.into(), &"completed".into()), "{line}");
    }
}

/// The budget of a gateway that has just started, where everything fails: at most a fifth more, rounded up.
fn within_budget(attempts: usize, requests: usize) -> bool {
    attempts <= (requests * 6).div_ceil(5)
}

/// Every location is out of capacity and everybody asks at once, so that no cool-down is known to anybody; a crowd of
/// any size, from the first request on. Then one after the other, as the cool-down ends.
#[test]
fn in_a_storm_load_stays_within_a_fifth() {
    const LATER: usize = 150;
    for (crowd, status) in [(1, "429 Busy"), (2, "503 Down"), (7, "429 Busy"), (24, "429 Busy"), (150, "503 Down")] {
        let (waiting, gate) = (Watched::new(0), Gate::new());
        let (arrived, opened) = (waiting.clone(), gate.clone());
        let number = AtomicUsize::new(0);
        let upstream = Upstream::new(move |exchange| {
            if number.fetch_add(1, Ordering::Relaxed) < crowd {
                arrived.change(|waiting| *waiting += 1);
                opened.wait();
            }
            refuse(exchange, status);
        });
        let gateway = Gateway::before(&upstream)
            .env("GOOGLE_CLOUD_LOCATION", "us-central1,europe-west4")
            .env("METRICS_PORT", "0")
            .start();
        let refused: u16 = status[..3].parse().expect("a number");
        std::thread::scope(|scope| {
            for _ in 0..crowd {
                scope.spawn(|| assert_eq!(gateway.chat(CHAT).status, refused));
            }
            waiting.wait("the crowd", |waiting| (*waiting == crowd).then_some(()));
            gate.open();
        });
        let attempts = upstream.requests().len();
        assert!(attempts > crowd, "some are tried elsewhere");
        assert!(within_budget(attempts, crowd), "{attempts} attempts for {crowd} requests");
        let samples = gateway.metrics();
        let of_alias = |family: &str| samples[&format!("{family}{{alias=\"flash\"}}")] as usize;
        assert_eq!(of_alias("ai_proxy_extra_attempts_total"), attempts - crowd);
        assert!(of_alias("ai_proxy_extra_attempts_over_budget_total") <= crowd);
        if crowd == 150 {
            assert!(of_alias("ai_proxy_extra_attempts_over_budget_total") > 0);
        }
        let mut client = gateway.client();
        for later in 1..=LATER {
            assert_eq!(client.request(&Request::chat(CHAT)).status, refused);
            let (attempts, requests) = (upstream.requests().len(), crowd + later);
            assert!(within_budget(attempts, requests), "{attempts} attempts for {requests} requests");
        }
    }
}
