//! The end: running requests finish, what cannot is cut visibly, and the exit code says that all is well.
mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, Client, End, Gate, Gateway, Metadata, Request, Response, Upstream, assert_bytes,
    show, sse,
};

const FIRST: &str = "data: {\"a\":1}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// An upstream whose stream waits for the gate after its first event.
fn held_upstream(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::new(move |exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        gate.wait();
        exchange.chunk(DONE);
        exchange.last_chunk();
    })
}

fn start_stream(gateway: &Gateway) -> (Client, Response) {
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let answer = client.head();
    client.expect_body(FIRST);
    (client, answer)
}

/// Waits until the gateway takes no new connections.
fn wait_closed_door(gateway: &Gateway) {
    let until = Instant::now() + support::DEADLINE;
    // The condition is outside this process, so it has to be asked again and again.
    while TcpStream::connect(gateway.address).is_ok() {
        assert!(Instant::now() < until, "the gateway goes on accepting");
        std::thread::yield_now();
    }
}

#[test]
fn a_running_stream_finishes() {
    for signal in ["TERM", "INT"] {
        let gate = Gate::new();
        let upstream = held_upstream(&gate);
        let mut gateway = Gateway::before(&upstream).start();
        let (mut client, mut answer) = start_stream(&gateway);
        let mut idle = gateway.client();
        assert_eq!(idle.request(&Request::get("/health")).status, 200);
        gateway.signal(signal);
        wait_closed_door(&gateway);
        // Idle connections are closed while the stream runs.
        idle.assert_closed();
        gate.open();
        client.rest(&mut answer);
        assert_bytes(&answer.body, DONE, "the rest");
        assert_eq!(answer.end, End::Complete);
        client.assert_closed();
        assert_eq!(gateway.wait_exit().code(), Some(0), "{signal}");
        assert_eq!(gateway.log_of(&answer)["outcome"], "completed");
    }
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let upstream = Upstream::queued();
    let mut gateway = Gateway::before(&upstream).start();
    let mut idle = gateway.client();
    assert_eq!(idle.request(&Request::chat(CHAT)).status, 200);
    let silent = gateway.client();
    let began = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(7), "it waited for nothing: {:?}", began.elapsed());
    idle.assert_closed();
    drop(silent);
}

/// Connections without a request, in every state in which they can be, are no reason to wait.
#[test]
fn connections_without_a_request_are_not_waited_for() {
    let health = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let refused = format!("POST {CHAT_PATH} HTTP/1.1\r\nhost: x\r\n");
    let sent = [
        ("a stray line end", format!("{health}\r\n")),
        ("half a line end", format!("{health}\r")),
        ("half a head", format!("{health}GET /hea")),
        ("half a field", format!("{health}GET /health HTTP/1.1\r\nhost")),
        ("the answer before the end", health.replace("host", "connection: close\r\nhost")),
        ("a refused body that does not come", format!("{refused}content-length: 100\r\n\r\n")),
        ("a refused body that comes in part", format!("{refused}content-length: 100\r\n\r\nxxx")),
        ("a refused body in chunks", format!("{refused}transfer-encoding: chunked\r\n\r\n5\r\nxx")),
        ("nothing but a line end", "\r\n".to_owned()),
        ("nothing but half a head", "GET /hea".to_owned()),
    ];
    for (what, bytes) in sent {
        let upstream = Upstream::queued();
        let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "60").start();
        let mut client = gateway.client();
        client.send(&bytes);
        if bytes.contains("HTTP/1.1\r\n") {
            // What was sent along with the answered request has been read with it.
            let answer = client.response();
            assert_eq!(answer.status, if bytes.starts_with("GET") { 200 } else { 401 }, "{what}");
        } else {
            assert_eq!(gateway.get("/health").status, 200);
        }
        let began = Instant::now();
        gateway.signal("TERM");
        assert_eq!(gateway.wait_exit().code(), Some(0), "{what}");
        let took = began.elapsed();
        assert!(took < Duration::from_secs(7), "{what}: {took:?}");
        client.assert_closed();
    }
}

#[test]
fn a_stop_while_the_bearer_is_awaited_is_quick() {
    let metadata = Metadata::answering(support::TokenAnswer::Held(Gate::new()));
    let upstream = Upstream::queued();
    let mut gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    let began = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

#[test]
fn an_answer_while_stopping_closes_its_connection() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        held.wait();
        exchange.json("{}");
    });
    let mut gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(0);
    let mut idle = gateway.client();
    assert_eq!(idle.request(&Request::get("/health")).status, 200);
    gateway.signal("TERM");
    // That it takes no new connections is not yet a proof that the running ones know.
    idle.assert_closed();
    gate.open();
    let answer = client.response();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{}", answer.head);
    client.assert_closed();
    assert_eq!(gateway.wait_exit().code(), Some(0));
}

#[test]
fn what_outlives_the_grace_period_is_cut_visibly() {
    let upstream = Upstream::queued();
    upstream.then(|exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
    });
    upstream.then(|exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        exchange.chunk("data: {\"half");
    });
    upstream.then(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
        exchange.chunk("{\"a\":");
    });
    let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "1").start();
    let mut whole = start_stream(&gateway);
    let mut half = start_stream(&gateway);
    half.0.expect_body("data: {\"half");
    let mut json = gateway.client();
    json.send(Request::chat(CHAT).bytes());
    let mut json_answer = json.head();
    json.expect_body("{\"a\":");
    let began = Instant::now();
    gateway.signal("TERM");
    for (client, answer) in [&mut whole, &mut half] {
        client.rest(answer);
        assert_eq!(answer.end, End::Cut, "{}", show(&answer.body));
        let frame = sse::events(&answer.body).pop().expect("an event");
        let frame: Value =
            serde_json::from_str(&frame).unwrap_or_else(|error| panic!("{error}: {}", show(&answer.body)));
        assert_eq!(frame["error"]["code"], "shutting_down");
        assert!(frame["error"]["type"].is_string() && frame["error"]["message"].is_string(), "{frame}");
    }
    assert!(half.1.body.starts_with(b"\n"), "the half event is closed: {}", show(&half.1.body));
    assert!(whole.1.body.starts_with(b"data: "), "nothing else on a boundary: {}", show(&whole.1.body));
    json.rest(&mut json_answer);
    assert_ne!(json_answer.end, End::Complete);
    assert_bytes(&json_answer.body, "", "nothing is added to JSON");
    let took = began.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    for answer in [&whole.1, &half.1, &json_answer] {
        let line = gateway.log_of(answer);
        assert_eq!((&line["outcome"], &line["severity"]), (&"cut_by_shutdown".into(), &"WARNING".into()), "{line}");
    }
}

#[test]
fn what_waits_for_headers_is_cut_too() {
    let upstream = Upstream::new(|_| {});
    let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "0").start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(0);
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert_eq!(gateway.wait_for_access(0)["outcome"], "cut_by_shutdown");
    upstream.wait_left(0);
    client.raw_to_end();
}

#[test]
fn a_second_signal_stops_at_once() {
    for second in ["TERM", "INT"] {
        let gate = Gate::new();
        let upstream = held_upstream(&gate);
        let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "600").start();
        let (mut client, mut answer) = start_stream(&gateway);
        gateway.signal("TERM");
        wait_closed_door(&gateway);
        gateway.signal(second);
        assert_eq!(gateway.wait_exit().code(), Some(1));
        client.rest(&mut answer);
        assert_ne!(answer.end, End::Complete);
    }
}

#[test]
fn a_client_that_does_not_read_does_not_hold_the_stop_up() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        while exchange.chunk(vec![b'x'; 65536]) {}
    });
    let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "1").start();
    let mut client = Client::connect_narrow(gateway.address);
    client.send(Request::chat(CHAT_STREAM).bytes());
    assert_eq!(client.head().status, 200);
    let began = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(gateway.wait_for_access(0)["outcome"], "cut_by_shutdown");
}

#[test]
fn a_body_that_is_being_sent_does_not_hold_the_stop_up() {
    let upstream = Upstream::queued();
    let mut gateway = Gateway::before(&upstream).env("SHUTDOWN_GRACE_SECONDS", "1").start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).header("expect", "100-continue").head_bytes());
    assert_eq!(client.head().status, 100);
    client.send(&CHAT[..10]);
    let began = Instant::now();
    gateway.signal("TERM");
    let answer = client.response();
    let took = began.elapsed();
    answer.assert_error(503, "shutting_down");
    assert!(answer.retry_after() >= 1);
    client.assert_closed();
    assert_eq!(gateway.wait_exit().code(), Some(0));
    assert!((Duration::from_millis(900)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert_eq!(gateway.log_of(&answer)["outcome"], "cut_by_shutdown");
    assert_eq!(upstream.connections(), 0);
}
