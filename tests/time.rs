//! What takes minutes or hours, with a clock that runs faster or jumps: slow clients, outages of Google's, wrong clocks.
//!
//! The clock is libfaketime's; where it is not installed these tests are skipped, as `tests/run` says.
mod support;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use support::gateway::faketime;
use support::{
    CHAT, CHAT_STREAM, Client, DEADLINE, Gateway, H2Upstream, KEY, Metadata, Request, SECOND_KEY, TokenAnswer,
    Upstream, skip,
};

fn is_skipped() -> bool {
    let is_missing = faketime().is_none();
    if is_missing {
        skip("libfaketime is not installed");
    }
    is_missing
}

/// Runs something and says how many seconds have passed for a gateway whose time runs so fast.
fn seconds(times: u32, what: impl FnOnce()) -> f64 {
    let began = Instant::now();
    what();
    began.elapsed().as_secs_f64() * f64::from(times)
}

/// With such a clock the five seconds that requests wait are over before the first bearer has come.
fn wait_for_bearer(client: &mut Client) {
    while client.request(&Request::get("/readyz")).status != 200 {}
}

#[track_caller]
fn assert_about(seconds: f64, expected: f64, what: &str) {
    // Whatever this machine does meanwhile takes many times as long for the gateway.
    assert!((expected - 2.0..expected * 2.0 + 30.0).contains(&seconds), "{what}: {seconds} s");
}

#[test]
fn slow_clients_have_their_time_and_no_more() {
    const TIMES: u32 = 40;
    if is_skipped() {
        return;
    }
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).hasten(TIMES).start();
    wait_for_bearer(&mut gateway.client());
    let refused = |client: &mut Client| client.response().assert_error(408, "request_timeout");

    let mut head = gateway.client();
    head.send("GET /health HTTP/1.1\r\nhos");
    assert_about(seconds(TIMES, || refused(&mut head)), 30.0, "half a head");

    // Bytes that come one by one are no excuse: these come for 20 seconds.
    let mut trickle = gateway.client();
    let took = seconds(TIMES, || {
        for byte in Request::get("/health").header("x", "yyyyyyyyyy").bytes().into_iter().take(25) {
            trickle.send([byte]);
            std::thread::sleep(Duration::from_millis(20));
        }
        refused(&mut trickle);
    });
    assert!((28.0..48.0).contains(&took), "a trickle of a head: {took} s");

    let mut body = gateway.client();
    body.send(Request::chat(CHAT).head_bytes());
    body.send("{");
    assert_about(seconds(TIMES, || refused(&mut body)), 60.0, "half a body");
    // These come for 40 seconds.
    let mut trickle = gateway.client();
    let took = seconds(TIMES, || {
        trickle.send(Request::chat(CHAT).head_bytes());
        for byte in CHAT.bytes().take(20) {
            trickle.send([byte]);
            std::thread::sleep(Duration::from_millis(50));
        }
        refused(&mut trickle);
    });
    assert_about(took, 60.0, "a trickle of a body");
    assert_eq!(upstream.requests().len(), 0);
    assert_eq!(gateway.chat(CHAT).status, 200);
}

#[test]
fn idle_connections_and_readers_that_stop_are_let_go() {
    const TIMES: u32 = 100;
    if is_skipped() {
        return;
    }
    let upstream = H2Upstream::new(|mut exchange| async move {
        exchange.sse_head();
        while exchange.send(vec![b'x'; 16 * 1024]).await {}
        exchange.until_cancelled().await;
    });
    let mut gateway = Gateway::before(&upstream).hasten(TIMES).start();
    wait_for_bearer(&mut gateway.client());
    let mut idle = gateway.client();
    assert_eq!(idle.request(&Request::get("/health")).status, 200);
    let mut reader = Client::connect_narrow(gateway.address);
    let took = seconds(TIMES, || {
        reader.send(Request::chat(CHAT_STREAM).bytes());
        assert_eq!(reader.head().status, 200);
        idle.assert_closed();
        upstream.wait_cancelled(0);
    });
    assert_about(took, 620.0, "an idle connection and a reader");
    // With such a clock the log is late until it is flushed.
    gateway.signal("TERM");
    assert!(gateway.wait_exit().success());
    let line = gateway.wait_for_log("the reader", |line| line["error"] == "client_stopped_reading");
    assert_eq!(line["outcome"], "client_hung_up");
}

/// The token is good for an hour. Its endpoint is down for 58 minutes, in the last two of which a new one is asked for.
#[test]
fn a_token_endpoint_that_is_down_while_the_token_is_good_fails_no_request() {
    const TIMES: u32 = 150;
    if is_skipped() {
        return;
    }
    let (upstream, metadata) = (Upstream::queued(), Metadata::start());
    let gateway = Gateway::before(&upstream).metadata(&metadata).env("METRICS_PORT", "0").hasten(TIMES).start();
    let mut client = gateway.client();
    metadata.wait_tokens_given(1);
    wait_for_bearer(&mut client);
    metadata.answer(TokenAnswer::Error(503, "{}"));
    // Whoever is slow at start is asked again: a call takes many seconds of such a clock.
    let before = metadata.seen();
    let age = || gateway.metrics()["ai_proxy_bearer_age_seconds"];
    let mut asked = 0;
    let mut ask = || {
        assert_eq!(client.request(&Request::chat(CHAT)).status, 200, "request {asked}");
        asked += 1;
    };
    while age() < 58.0 * 60.0 {
        ask();
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(metadata.seen().token_calls > before.token_calls, "a new one was asked for, in vain");
    assert_eq!(metadata.seen().tokens_given, before.tokens_given);
    let bearer = || upstream.requests().last().and_then(|request| request.header("authorization"));
    let old = bearer();
    metadata.answer(TokenAnswer::Token { expires_in: 3599 });
    // Across the end of the old one.
    let until = Instant::now() + DEADLINE;
    while bearer() == old {
        ask();
        assert!(Instant::now() < until, "the old bearer stays");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(asked > 300, "{asked} requests");
}

/// Tokens live by the time that has passed, keys by the calendar. Neither minds a clock that was set.
#[test]
fn a_clock_that_jumps_changes_what_depends_on_it_and_nothing_else() {
    if is_skipped() {
        return;
    }
    let folder = tempfile::TempDir::new().expect("a temporary directory");
    let file = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&file, format!("{offset}\n")).expect("a file can be written");
    set("+0");
    let now = httpdate::fmt_http_date(std::time::SystemTime::now() + Duration::from_secs(86_400));
    let tomorrow = tomorrow(&now);
    let keys = json!([
        {"id": "tester", "key": KEY, "rpm": 1000},
        {"id": "second", "key": SECOND_KEY, "expires_at": tomorrow},
    ]);
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys.to_string()).wall_clock(&file).start();
    let until_tomorrow = |status: u16| {
        let of = |key: &str| gateway.request(&Request::new("POST", support::CHAT_PATH).key(key).body(CHAT)).status;
        assert_eq!((of(KEY), of(SECOND_KEY)), (200, status));
        assert_eq!(gateway.get("/readyz").status, 200);
    };
    until_tomorrow(200);
    for (offset, status) in [("+3d", 401), ("-3d", 200), ("+10y", 401), ("-10y", 200), ("+0", 200)] {
        set(offset);
        until_tomorrow(status);
    }
    assert_eq!(gateway.metadata().seen().tokens_given, 1, "the token is as good as it was");
    assert_eq!(upstream.requests().iter().filter_map(|request| request.header("authorization")).count(), 10);
    let durations: Vec<f64> = gateway
        .lines()
        .iter()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["duration_ms"].as_f64())
        .collect();
    assert!(durations.iter().all(|duration| (0.0..60_000.0).contains(duration)), "{durations:?}");
}

/// The day of a `date` field as RFC 3339 has it, at noon.
fn tomorrow(date: &str) -> String {
    let months: BTreeMap<&str, usize> =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
            .into_iter()
            .zip(1..)
            .collect();
    let words: Vec<&str> = date.split(' ').collect();
    format!("{}-{:02}-{}T23:59:59Z", words[3], months[words[2]], words[1])
}
