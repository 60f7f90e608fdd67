//! `SSE_KEEPALIVE_SECONDS`: comments on a silent stream keep its line open, and change no event.
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{
    CHAT, CHAT_STREAM, Client, Emulator, End, Exchange, Gateway, Request, Response, Upstream, assert_bytes, show, sse,
};

const COMMENT: &str = ": keep-alive\n\n";
/// Time is this many times as fast as in the promise: 160 seconds of silence are 3.2, and 120 are 2.4.
const SPEED: &str = "50";
const IDLE_LIMIT: Duration = Duration::from_millis(120_000 / 50);

/// A proxy, as they stand in the middle: it cuts a connection on which the server has said nothing for too long.
fn proxy_with_idle_limit(server: SocketAddr, limit: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound address");
    std::thread::spawn(move || {
        // One connection is all that a test makes.
        let (mut client, _) = listener.accept().expect("the client connects");
        let mut upstream = TcpStream::connect(server).expect("the gateway accepts connections");
        upstream.set_read_timeout(Some(limit)).expect("a read timeout can be set");
        let (mut from, mut to) = (client.try_clone().expect("a clone"), upstream.try_clone().expect("a clone"));
        std::thread::spawn(move || std::io::copy(&mut from, &mut to));
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = upstream.read(&mut piece) {
            if client.write_all(&piece[..length]).is_err() {
                break;
            }
        }
        let _ = client.shutdown(std::net::Shutdown::Both);
        let _ = upstream.shutdown(std::net::Shutdown::Both);
    });
    address
}

fn marked(marker: &str) -> Request {
    let messages = json!([{"role": "user", "content": format!("Say hi. [emulator:{marker}]")}]);
    Request::chat(json!({"model": "flash", "stream": true, "messages": messages}).to_string())
}

/// Takes the comments out, and says how many they were.
fn without_comments(answer: &Response) -> (Vec<u8>, usize) {
    let text = String::from_utf8(answer.body.clone()).expect("a text");
    (text.replace(COMMENT, "").into_bytes(), text.matches(COMMENT).count())
}

#[test]
fn a_long_silence_survives_a_proxy_that_cuts_idle_lines() {
    let emulator = Emulator::start(&["--speed", SPEED]);
    let with = emulator.gateway().env("SSE_KEEPALIVE_SECONDS", "1").start();
    let without = emulator.gateway().start();
    std::thread::scope(|scope| {
        // At the start, between two events, and over HTTP/2 too.
        for marker in ["silent-start", "silent-middle"] {
            scope.spawn(|| {
                let marker = marker.to_owned();
                let lost =
                    Client::connect(proxy_with_idle_limit(without.address, IDLE_LIMIT)).request(&marked(&marker));
                assert_eq!(lost.end, End::Cut, "{marker}: the limit is real");
            });
            scope.spawn(|| {
                let marker = marker.to_owned();
                let kept = Client::connect(proxy_with_idle_limit(with.address, IDLE_LIMIT)).request(&marked(&marker));
                assert_eq!(kept.end, End::Complete, "{marker}: {}", show(&kept.body));
                let (body, comments) = without_comments(&kept);
                assert!((2..=3).contains(&comments), "{marker}: {comments} in 3.2 seconds");
                let line = with.log_of(&kept);
                assert_eq!(line["outcome"], "completed");
                assert_eq!(line["response_bytes"], body.len(), "comments are none of the answer's bytes");
                let exchanges = emulator.chats_since(0);
                let sent =
                    exchanges.iter().find(|exchange| exchange["scenario"] == marker && exchange["ended"] == "complete");
                let sent = &sent.expect("the exchange")["answer"];
                assert_bytes(&body, sent["text"].as_str().expect("a text"), "the stream");
            });
        }
        // Within an event nothing can be sent, and nothing is.
        scope.spawn(|| {
            let answer = with.client().request(&marked("silent-in-event"));
            assert_eq!(without_comments(&answer).1, 0, "{}", show(&answer.body));
            assert_eq!(answer.end, End::Complete);
        });
    });
}

/// A stream of upstream's: sent, then silence until the gateway's comments have come, then more.
fn quiet_after(start: &'static str, more: &'static str) -> impl Fn(&mut Exchange<'_>) + Send + Sync {
    move |exchange| {
        exchange.sse_head();
        if !start.is_empty() {
            exchange.chunk(start);
        }
        std::thread::sleep(Duration::from_millis(1500));
        if !more.is_empty() {
            exchange.chunk(more);
        }
        exchange.last_chunk();
    }
}

#[test]
fn comments_are_in_the_line_ends_of_the_stream() {
    const CRLF: &str = ": keep-alive\r\n\r\n";
    let cases = [
        ("", "data: [DONE]\n\n", Some(COMMENT)),
        ("data: 1\n\n", "data: [DONE]\n\n", Some(COMMENT)),
        ("data: 1\r\n\r\n", "data: [DONE]\r\n\r\n", Some(CRLF)),
        ("data: 1\r\r", "data: [DONE]\r\r", Some(": keep-alive\r\r")),
        // The LF of a blank line that a CR seemed to end alone.
        ("data: 1\r\r", "\ndata: [DONE]\r\n\r\n", Some(": keep-alive\r\r")),
        // Nothing behind the end, though upstream keeps the stream open.
        ("data: 1\n\ndata: [DONE]\n\n", "", None),
        ("data: [DONE]\r\r", ": bye\r\r", None),
        ("data: 1\n\n: processing\n\n", "data: [DONE]\n\n", Some(COMMENT)),
        ("data: 1\n", "\ndata: [DONE]\n\n", None),
        ("data: 1\r\n\r", "\ndata: [DONE]\r\n\r\n", None),
        ("data: {\"a\":", "1}\n\ndata: [DONE]\n\n", None),
    ];
    std::thread::scope(|scope| {
        for (start, more, comment) in cases {
            scope.spawn(move || {
                let upstream = Upstream::new(quiet_after(start, more));
                let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
                let answer = gateway.chat(CHAT_STREAM);
                assert_bytes(&answer.body, format!("{start}{}{more}", comment.unwrap_or_default()), start);
                let plain = format!("{start}{more}");
                assert_eq!(sse::events(&answer.body), sse::events(plain.as_bytes()));
                assert_eq!(gateway.log_of(&answer)["outcome"], "completed");
            });
        }
    });
}

#[test]
fn a_byte_order_mark_behind_a_comment_spoils_no_event() {
    // It belongs to the stream's start, where the comment is by now.
    let upstream = Upstream::new(quiet_after("", "\u{feff}data: 1\n\ndata: [DONE]\n\n"));
    let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
    let answer = gateway.chat(CHAT_STREAM);
    assert_bytes(&answer.body, format!("{COMMENT}\u{feff}\ndata: 1\n\ndata: [DONE]\n\n"), "the stream");
    assert_eq!(sse::events(&answer.body), ["1", "[DONE]"]);
}

#[test]
fn an_upstream_that_breaks_behind_the_end_is_told_of_by_nothing() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: 1\n\ndata: [DONE]\n\n: bye\n\n");
        exchange.close();
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT_STREAM);
    assert_bytes(&answer.body, "data: 1\n\ndata: [DONE]\n\n: bye\n\n", "nothing is made up");
    assert_eq!(answer.end, End::Cut);
    assert_eq!(gateway.log_of(&answer)["outcome"], "upstream_broke");
}

#[test]
fn only_streams_that_can_take_comments_get_them() {
    const GZIP: &str = "content-type: text/event-stream\r\ncontent-encoding: gzip\r\ntransfer-encoding: chunked\r\n";
    const COUNTED: &str = "content-type: text/event-stream\r\ncontent-length: 14\r\n";
    const JSON: &str = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    const ERROR: &str = "content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n";
    let cases = [("200 OK", GZIP, true), ("200 OK", COUNTED, false), ("200 OK", JSON, true), ("500 Oh", ERROR, true)];
    std::thread::scope(|scope| {
        for (status, headers, is_chunked) in cases {
            scope.spawn(move || {
                let upstream = Upstream::new(move |exchange| {
                    exchange.send(format!("HTTP/1.1 {status}\r\n{headers}\r\n"));
                    std::thread::sleep(Duration::from_millis(1500));
                    if is_chunked {
                        exchange.chunk("data: [DONE]\n\n");
                        exchange.last_chunk();
                    } else {
                        exchange.send("data: [DONE]\n\n");
                    }
                });
                let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
                assert_bytes(&gateway.chat(CHAT_STREAM).body, "data: [DONE]\n\n", headers);
            });
        }
        // HTTP/1.0 has no chunks.
        scope.spawn(|| {
            let upstream = Upstream::new(quiet_after("data: 1\n\n", "data: [DONE]\n\n"));
            let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
            let request = String::from_utf8(Request::chat(CHAT_STREAM).bytes()).expect("a text");
            let mut client = gateway.client();
            client.send(request.replace("HTTP/1.1", "HTTP/1.0"));
            assert_bytes(&client.response().body, "data: 1\n\ndata: [DONE]\n\n", "HTTP/1.0");
        });
        // Off, which is the default.
        scope.spawn(|| {
            let upstream = Upstream::new(quiet_after("data: 1\n\n", "data: [DONE]\n\n"));
            let gateway = Gateway::before(&upstream).start();
            assert_bytes(&gateway.chat(CHAT_STREAM).body, "data: 1\n\ndata: [DONE]\n\n", "off");
        });
    });
}

#[test]
fn a_stream_that_is_never_silent_gets_none() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        for _ in 0..16 {
            std::thread::sleep(Duration::from_millis(100));
            exchange.chunk("data: 1\n\n");
        }
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
    let began = Instant::now();
    let answer = gateway.chat(CHAT_STREAM);
    assert!(began.elapsed() > Duration::from_millis(1500), "long enough for a timer that nothing resets");
    assert_bytes(&answer.body, format!("{}data: [DONE]\n\n", "data: 1\n\n".repeat(16)), "the stream");
}

#[test]
fn an_upstream_that_breaks_after_a_comment_is_told_of_on_a_boundary() {
    let upstream = Upstream::queued();
    upstream.then(|exchange| {
        exchange.sse_head();
        exchange.chunk("data: 1\n\n");
        std::thread::sleep(Duration::from_millis(1500));
        exchange.close();
    });
    let gateway = Gateway::before(&upstream).env("SSE_KEEPALIVE_SECONDS", "1").start();
    let answer = gateway.chat(CHAT_STREAM);
    assert!(answer.body.starts_with(b"data: 1\n\n: keep-alive\n\ndata: {\"error\":"), "{}", show(&answer.body));
    assert_ne!(answer.end, End::Complete);
    // And a client that leaves meanwhile is noticed as ever.
    upstream.then(|exchange| {
        exchange.sse_head();
    });
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    client.head();
    client.expect_body(COMMENT);
    drop(client);
    gateway.wait_for_log("the hang-up", |line| line["outcome"] == "client_hung_up");
    assert_eq!(gateway.chat(CHAT).json(), Value::Object(serde_json::Map::new()));
}
