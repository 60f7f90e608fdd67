//! The same model in several locations: which one is asked, when another is, and what that may cost.
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::gateway::Target;
use support::{
    CHAT, CHAT_STREAM, CHAT_UPSTREAM, End, Exchange, Gate, Gateway, H2Upstream, Request, Response, Treatment, Upstream,
    Watched, assert_bytes,
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
        assert_eq!(gateway.wait_for_access(0)["location"], serde_json::Value::Null);
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
    let upstream = without_capacity("429 Busy", &["us-central1", "europe-west4", "asia-east1"]);
    let gateway = before(&upstream);
    let answer = gateway.chat(CHAT);
    assert_eq!((answer.status, answer.header(FIELD), answer.retry_after()), (429, Some("asia-east1"), 7));
    assert_bytes(&answer.body, BUSY, "the last answer, repaired as ever");
    assert_eq!(asked(&upstream), ["us-central1", "europe-west4", "asia-east1"]);
    // All cool down now: one says how things are.
    assert_eq!(gateway.chat(CHAT).header(FIELD), Some("us-central1"));
    assert_eq!(upstream.requests().len(), 4);
}

#[test]
fn two_extra_attempts_are_all() {
    let upstream = Upstream::new(|exchange| refuse(exchange, "503 Down"));
    let gateway = Gateway::before(&upstream).env("GOOGLE_CLOUD_LOCATION", "a,b,c,d,e").start();
    assert_eq!(gateway.chat(CHAT).header(FIELD), Some("c"));
    assert_eq!(asked(&upstream), ["a", "b", "c"]);
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
            1..4 => Treatment::Close,
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

/// Every location is out of capacity and everybody asks at once, so that no cool-down is known to anybody; then again,
/// wave after wave, as the cool-down ends.
#[test]
fn in_a_storm_load_stays_within_a_fifth() {
    const CROWD: usize = 150;
    const LATER: usize = 150;
    let (waiting, gate) = (Watched::new(0), Gate::new());
    let (arrived, opened) = (waiting.clone(), gate.clone());
    let number = AtomicUsize::new(0);
    let upstream = Upstream::new(move |exchange| {
        if number.fetch_add(1, Ordering::Relaxed) < CROWD {
            arrived.change(|waiting| *waiting += 1);
            opened.wait();
        }
        refuse(exchange, "503 Down");
    });
    let gateway = before(&upstream);
    std::thread::scope(|scope| {
        for _ in 0..CROWD {
            scope.spawn(|| assert_eq!(gateway.chat(CHAT).status, 503));
        }
        waiting.wait("the crowd", |waiting| (*waiting == CROWD).then_some(()));
        gate.open();
    });
    let of_crowd = upstream.requests().len();
    assert!(of_crowd > CROWD, "some are tried elsewhere");
    assert!(of_crowd * 5 <= CROWD * 6, "{of_crowd} attempts for {CROWD} requests");
    let mut client = gateway.client();
    for _ in 0..LATER {
        assert_eq!(client.request(&Request::chat(CHAT)).status, 503);
    }
    let (all, asked) = (upstream.requests().len(), CROWD + LATER);
    assert!(all * 5 <= asked * 6, "{all} attempts for {asked} requests");
}
