//! Upstream that breaks, does not come, or takes too long: never mistaken for a complete answer.
mod support;

use std::sync::Arc;
use std::time::Instant;

use h2::Reason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::Value;
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, End, Exchange, Gate, Gateway, H2Upstream, Hold, KEY, Request, Response, Upstream,
    assert_bytes, show, sse,
};

/// Starts of event streams, by what they break in the middle of.
const STARTS: [(&str, &[u8]); 17] = [
    ("before the first event", b""),
    ("on a boundary", b"data: {\"a\":1}\n\n"),
    ("on a boundary with CRLF", b"data: {\"a\":1}\r\n\r\n"),
    ("on a boundary with CR", b"data: {\"a\":1}\r\r"),
    ("on a mixed boundary", b"data: {\"a\":1}\r\n\n"),
    ("after a line end", b"data: {\"a\":1}\n\ndata: {\"b\":2}\n"),
    ("after a line end with CRLF", b"data: {\"a\":1}\r\n\r\ndata: {\"b\":2}\r\n"),
    ("inside a CRLF", b"data: {\"a\":1}\r\n\r\ndata: {\"b\":2}\r"),
    ("inside the second CRLF", b"data: {\"a\":1}\r\n\r"),
    ("in mid-event", b"data: {\"a\":1}\n\ndata: {\"b\":"),
    ("in mid-event with CRLF", b"data: {\"a\":1}\r\n\r\ndata: {\"b\":"),
    ("in the field's name", b"data: {\"a\":1}\n\nda"),
    ("after data:", b"data: {\"a\":1}\n\ndata:"),
    ("in mid-character", b"data: {\"a\":\"gr\xc3"),
    ("in mid-character of four bytes", b"data: \xf0\x9f\x99"),
    ("in a comment", b": keep-al"),
    ("after [DONE]", b"data: [DONE]\n\n"),
];

/// A way for upstream to break, and its name.
type Way = (&'static str, fn(&mut Exchange<'_>));

/// Ways to break a chunked body.
const BREAKS: [Way; 4] = [
    ("close", |exchange| exchange.close()),
    ("close in mid-chunk", |exchange| {
        // Of this chunk nothing is sent: what the client has is the same.
        exchange.send("ff\r\n");
        exchange.close();
    }),
    ("no chunk", |exchange| {
        exchange.send("no chunk\r\n");
    }),
    ("an end without its line end", |exchange| {
        exchange.send("0\r\n");
        exchange.close();
    }),
];

/// Checks that `answer` is `start`, a line break or two where it broke in mid-event, and one error event with `code`,
/// but nothing behind `[DONE]`; and that the connection does not end as if all were well.
#[track_caller]
fn assert_cut_stream(answer: &Response, start: &[u8], code: &str, what: &str) {
    assert_eq!(answer.status, 200, "{what}");
    assert!(answer.body.starts_with(start), "{what}: {} starts otherwise than {}", show(&answer.body), show(start));
    let added = &answer.body[start.len()..];
    assert_eq!(answer.end, End::Cut, "{what}: the chunked body must not be terminated");
    let says_done = |line: &[u8]| line.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]");
    if start.split(|byte| b"\r\n".contains(byte)).any(says_done) {
        assert_eq!(show(added), "", "{what}: nobody waits for more");
        return;
    }
    let at = added
        .windows(6)
        .position(|window| window == b"data: ")
        .unwrap_or_else(|| panic!("{what}: no frame: {}", show(&answer.body)));
    assert!(added[..at].iter().all(|byte| b"\r\n".contains(byte)), "{what}: {}", show(added));
    // What a client reads: the events that were complete, the half one closed, then exactly the error.
    let expected = sse::events(&[start, b"\n\n"].concat());
    let mut events = sse::events(&answer.body);
    let frame: Value = serde_json::from_str(&events.pop().expect("an event"))
        .unwrap_or_else(|error| panic!("{what}: {error}: {}", show(&answer.body)));
    assert_eq!(events, expected, "{what}: {}", show(&answer.body));
    let error = &frame["error"];
    assert_eq!(error["code"], code, "{what}");
    assert_eq!(error["type"], "upstream_error", "{what}");
    assert_eq!(error["param"], Value::Null, "{what}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}");
    assert!(answer.body.ends_with(b"\n\n"), "{what}: the frame is closed: {}", show(&answer.body));
    if sse::events(start).is_empty() && start.is_empty() || start.ends_with(b"\n\n") || start.ends_with(b"\r\n\r\n") {
        assert_eq!(at, 0, "{what}: nothing is needed on a boundary: {}", show(added));
    }
}

#[test]
fn a_stream_that_breaks_gets_an_error_event_and_no_end() {
    for (way, break_it) in BREAKS {
        let upstream = Upstream::queued();
        let gateway = Gateway::before(&upstream).start();
        for (place, start) in STARTS {
            let what = format!("{way}, {place}");
            upstream.then(move |exchange| {
                exchange.sse_head();
                if !start.is_empty() {
                    exchange.chunk(start);
                }
                break_it(exchange);
            });
            let answer = gateway.chat(CHAT_STREAM);
            assert_cut_stream(&answer, start, "upstream_broke", &what);
            let line = gateway.log_of(&answer);
            assert_eq!(line["outcome"], "upstream_broke", "{what}");
            assert_eq!(line["severity"], "WARNING", "{what}");
        }
    }
}

#[test]
fn any_stream_that_breaks_gets_an_error_event() {
    let piece = prop_oneof![
        Just("data: ".as_bytes()),
        Just("data".as_bytes()),
        Just(":".as_bytes()),
        Just("\n".as_bytes()),
        Just("\r".as_bytes()),
        Just("\r\n".as_bytes()),
        Just("\n\n".as_bytes()),
        Just("{\"a\":1}".as_bytes()),
        Just("[DONE]".as_bytes()),
        Just("é".as_bytes()),
        Just(&b"\xc3"[..]),
        Just("event: x".as_bytes()),
        Just("\u{feff}".as_bytes()),
    ];
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let config = Config { cases: 300, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(&prop::collection::vec(piece, 1..12), |pieces| {
        let sent = pieces.clone();
        upstream.then(move |exchange| {
            exchange.sse_head();
            for piece in sent {
                exchange.chunk(piece);
            }
            exchange.close();
        });
        assert_cut_stream(&gateway.chat(CHAT_STREAM), &pieces.concat(), "upstream_broke", "");
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

#[test]
fn a_stream_that_is_reset_gets_an_error_event_and_no_end() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (place, start) in STARTS.into_iter().filter(|(_, start)| !start.is_empty()) {
        let read = Gate::new();
        let reset = read.clone();
        upstream.then(move |exchange| {
            exchange.sse_head();
            exchange.chunk(start);
            // A reset overtakes what the gateway has not read yet, so the client reads it first.
            reset.wait();
            exchange.reset();
        });
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        let mut answer = client.head();
        client.expect_body(start);
        read.open();
        client.rest(&mut answer);
        answer.body.splice(..0, start.iter().copied());
        assert_cut_stream(&answer, start, "upstream_broke", place);
    }
}

/// Ways in which HTTP/2 can reset a stream; none of them is its end, not even the one that names no error.
const RESETS: [Reason; 3] = [Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::CANCEL];

#[test]
fn an_http2_stream_that_is_reset_gets_an_error_event_and_no_end() {
    let read: Arc<Vec<Gate>> = Arc::new((0..RESETS.len() * STARTS.len()).map(|_| Gate::new()).collect());
    let gates = Arc::clone(&read);
    let upstream = H2Upstream::new(move |mut exchange| {
        let gate = gates[exchange.number].clone();
        async move {
            exchange.sse_head();
            exchange.send(STARTS[exchange.number % STARTS.len()].1).await;
            // A reset overtakes what was not sent yet, so the client reads it first.
            gate.opened().await;
            exchange.reset(RESETS[exchange.number / STARTS.len()]);
        }
    });
    let gateway = Gateway::before(&upstream).start();
    for (number, gate) in read.iter().enumerate() {
        let (place, start) = STARTS[number % STARTS.len()];
        let what = format!("{:?}, {place}", RESETS[number / STARTS.len()]);
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        let mut answer = client.head();
        client.expect_body(start);
        gate.open();
        client.rest(&mut answer);
        answer.body.splice(..0, start.iter().copied());
        assert_cut_stream(&answer, start, "upstream_broke", &what);
        assert_eq!(gateway.log_of(&answer)["outcome"], "upstream_broke", "{what}");
    }
}

#[test]
fn an_http2_answer_that_is_reset_is_cut() {
    const COUNTED: &[(&str, &str)] = &[("content-type", "application/json"), ("content-length", "100")];
    let fields = [COUNTED, &COUNTED[..1]];
    let read: Arc<Vec<Gate>> = Arc::new((0..RESETS.len() * fields.len()).map(|_| Gate::new()).collect());
    let gates = Arc::clone(&read);
    let upstream = H2Upstream::new(move |mut exchange| {
        let gate = gates[exchange.number].clone();
        async move {
            exchange.head_with(200, fields[exchange.number % fields.len()]);
            exchange.send("{\"a\":1").await;
            gate.opened().await;
            exchange.reset(RESETS[exchange.number / fields.len()]);
        }
    });
    let gateway = Gateway::before(&upstream).start();
    for (number, gate) in read.iter().enumerate() {
        let what = format!("{:?}, {:?}", RESETS[number / fields.len()], fields[number % fields.len()]);
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        let mut answer = client.head();
        assert_eq!(answer.header("content-length").is_some(), number % fields.len() == 0, "{}", answer.head);
        client.expect_body("{\"a\":1");
        gate.open();
        // Neither an end nor a further byte: the connection is closed, not kept.
        client.rest(&mut answer);
        assert_bytes(&answer.body, "", &what);
        assert_ne!(answer.end, End::Complete, "{what}");
        let line = gateway.log_of(&answer);
        assert_eq!((&line["outcome"], &line["severity"]), (&"upstream_broke".into(), &"WARNING".into()), "{what}");
    }
}

/// A length that upstream announces and does not keep must not take the next answer with it.
#[test]
fn an_answer_of_another_length_than_announced_never_puts_the_connection_out_of_step() {
    let announced = |length: &'static str| [("content-type", "application/json"), ("content-length", length)];
    let upstream = H2Upstream::new(move |mut exchange| async move {
        // Shorter, longer, and none at all.
        let (length, body) = [("10", "{}"), ("1", "{}"), ("10", "")][exchange.number];
        exchange.head_with(200, &announced(length));
        exchange.send(body).await;
        exchange.end();
    });
    let gateway = Gateway::before(&upstream).start();
    for number in 0..3 {
        let mut client = gateway.client();
        client.send([Request::chat(CHAT).bytes(), Request::get("/health").bytes()].concat());
        let answer = client.response();
        if answer.status == 200 {
            assert_ne!(answer.end, End::Complete, "case {number}: {}", show(&answer.body));
            assert!(!show(&answer.body).contains("ok"), "the next answer is not part of this one");
            assert_eq!(gateway.log_of(&answer)["outcome"], "upstream_broke", "case {number}");
        } else {
            answer.assert_error(502, "upstream_broke");
        }
    }
}

#[test]
fn a_body_where_none_can_be_is_not_taken_for_the_next_answer() {
    const SMUGGLED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nEVIL";
    let upstream = H2Upstream::new(|mut exchange| async move {
        exchange.head_with([204, 304][exchange.number % 2], &[("content-type", "application/json")]);
        if exchange.number < 2 {
            exchange.send(SMUGGLED).await;
            exchange.end();
        } else {
            // And one that never ends.
            while exchange.send(SMUGGLED).await {}
        }
    });
    let gateway = Gateway::before(&upstream).start();
    let gateway_is_well = show(&gateway.get("/health").body);
    for number in 0..4 {
        let mut client = gateway.client();
        client.send([Request::chat(CHAT).bytes(), Request::get("/health").bytes()].concat());
        let answer = client.response();
        assert_eq!((answer.status, show(&answer.body)), ([204, 304][number % 2], String::new()));
        let next = client.response();
        assert_eq!((next.status, show(&next.body)), (200, gateway_is_well.clone()), "case {number}");
        assert_eq!(gateway.log_of(&answer)["outcome"], "completed", "case {number}");
    }
}

#[test]
fn json_that_breaks_is_cut() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let heads = ["content-length: 100", "transfer-encoding: chunked"];
    for (number, head) in heads.into_iter().enumerate() {
        upstream.then(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n\r\n"));
            if number == 0 {
                exchange.send("{\"a\":1");
            } else {
                exchange.chunk("{\"a\":1");
            }
            exchange.close();
        });
        let answer = gateway.chat(CHAT);
        assert_eq!(answer.status, 200);
        assert_bytes(&answer.body, "{\"a\":1", "what came");
        assert_ne!(answer.end, End::Complete, "{head}");
        assert_eq!(gateway.log_of(&answer)["outcome"], "upstream_broke");
    }
}

/// Where the close is the end, a broken answer must not end with a mere close.
#[test]
fn an_answer_in_http_1_0_that_breaks_is_reset() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for kind in ["application/json", "text/event-stream"] {
        upstream.then(move |exchange| {
            exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"));
            exchange.chunk("data: 1\n\n");
            exchange.close();
        });
        let mut client = gateway.client();
        client.send(format!(
            "POST {CHAT_PATH} HTTP/1.0\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{CHAT}",
            CHAT.len()
        ));
        let answer = client.response();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.end, End::Reset, "{kind}: {}", show(&answer.body));
    }
}

#[test]
fn a_counted_stream_that_breaks_is_cut() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    upstream.then(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 20\r\n\r\ndata: 1\n\n");
        exchange.close();
    });
    let answer = gateway.chat(CHAT_STREAM);
    assert!(answer.body.starts_with(b"data: 1\n\n"), "{}", show(&answer.body));
    assert_ne!(answer.end, End::Complete);
    assert_eq!(gateway.log_of(&answer)["outcome"], "upstream_broke");
}

#[test]
fn an_error_that_breaks_is_not_complete() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for body in ["[{\"error\":", "{\"error\":", ""] {
        upstream.then(move |exchange| {
            exchange.send(format!(
                "HTTP/1.1 429 Busy\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{body}"
            ));
            exchange.close();
        });
        let answer = gateway.chat(CHAT);
        // Nothing of it has to go out before the break is known, so the gateway may answer for itself.
        if answer.end == End::Complete {
            answer.assert_error(502, "upstream_broke");
        } else {
            assert_eq!(answer.status, 429);
        }
    }
}

#[test]
fn a_clean_end_is_left_alone() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    let cases: [(&[u8], &str); 9] = [
        (b"data: 1\n\n", "ended_without_done"),
        (b"data: 1\n\ndata: {\"half", "ended_without_done"),
        (b"", "ended_without_done"),
        (b"data: {\"text\":\"[DONE]\"}\n\n", "ended_without_done"),
        (b"data: 1\n\ndata: [DONE]\n\n", "completed"),
        (b"data: 1\r\n\r\ndata: [DONE]\r\n\r\n", "completed"),
        (b"data:1\n\ndata:[DONE]\n\n", "completed"),
        (b"data: 1\n\ndata: [DONE]", "completed"),
        (b"data: [DONE]\n\n: bye\n\n", "completed"),
    ];
    for (stream, outcome) in cases {
        for size in [1, 1000] {
            upstream.then(move |exchange| exchange.sse(stream.chunks(size)));
            let answer = gateway.chat(CHAT_STREAM);
            assert_bytes(&answer.body, stream, "the stream");
            assert_eq!(answer.end, End::Complete);
            let line = gateway.log_of(&answer);
            assert_eq!(line["outcome"], outcome, "{} in pieces of {size}", show(stream));
        }
    }
}

/// Answers a chat request and checks the error, and its log line.
#[track_caller]
fn assert_failed(gateway: &Gateway, status: u16, code: &str, what: &str) {
    for body in [CHAT, CHAT_STREAM] {
        let answer = gateway.chat(body);
        assert_eq!(answer.status, status, "{what}: {}", show(&answer.body));
        answer.assert_error(status, code);
        let line = gateway.log_of(&answer);
        assert_eq!((&line["outcome"], &line["severity"]), (&"rejected".into(), &"ERROR".into()), "{what}");
        assert_eq!(line["upstream_status"], Value::Null, "{what}");
    }
}

#[test]
fn upstream_that_breaks_before_headers_is_a_502() {
    let ways: [Way; 6] = [
        ("close", |exchange| exchange.close()),
        ("reset", |exchange| exchange.reset()),
        ("half a head", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\ncontent-ty");
            exchange.close();
        }),
        ("another protocol", |exchange| {
            exchange.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: canary\r\nconnection: upgrade\r\n\r\n");
        }),
        ("no HTTP", |exchange| {
            exchange.send("SSH-2.0-canary\r\n\r\n");
        }),
        ("both framings, in error", |exchange| {
            exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}");
        }),
    ];
    for (what, way) in ways {
        let upstream = Upstream::new(way);
        let gateway = Gateway::before(&upstream).start();
        assert_failed(&gateway, 502, "upstream_broke", what);
        assert_eq!(upstream.requests().len(), 2, "{what}: nothing is sent twice");
    }
}

#[test]
fn an_http2_stream_that_is_reset_before_headers_is_a_502() {
    let upstream = H2Upstream::new(|mut exchange| async move { exchange.reset(Reason::INTERNAL_ERROR) });
    let gateway = Gateway::before(&upstream).start();
    assert_failed(&gateway, 502, "upstream_broke", "reset");
    assert_eq!(upstream.seen().requests.len(), 2, "nothing is sent twice");
}

#[test]
fn upstream_that_is_not_there_is_a_502() {
    // A port that was free a moment ago; bound without listening it stays so.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().expect("an address").into()).expect("a free port");
    let port = socket.local_addr().expect("bound").as_socket().expect("an IP address").port();
    for base in
        [format!("http://127.0.0.1:{port}"), format!("https://127.0.0.1:{port}"), "http://nobody.invalid".to_owned()]
    {
        let gateway = Gateway::before(&base.as_str()).start();
        assert_failed(&gateway, 502, "upstream_unreachable", &base);
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_a_502() {
    let upstream = H2Upstream::new(|exchange| exchange.json("{}"));
    let other = H2Upstream::new(|exchange| exchange.json("{}"));
    let certificates = support::gateway::Target::certificates(&other).expect("a file");
    let gateway = Gateway::before(&upstream).env("SSL_CERT_FILE", certificates.to_str().expect("text")).start();
    assert_failed(&gateway, 502, "upstream_unreachable", "a foreign authority");
    assert_eq!(upstream.seen().requests.len(), 0);
}

#[test]
fn upstream_that_takes_too_long_is_a_504() {
    let upstream = Upstream::new(|_| {});
    let gateway = Gateway::before(&upstream).env("UPSTREAM_TIMEOUT_SECONDS", "1").start();
    let began = Instant::now();
    let answer = gateway.chat(CHAT);
    answer.assert_error(504, "upstream_timeout");
    let took = began.elapsed().as_secs_f64();
    assert!((1.0..8.0).contains(&took), "{took} s");
    // The request is given up, and is not sent again.
    upstream.wait_left(0);
    upstream.only_request();
}

#[test]
fn an_http2_upstream_that_takes_too_long_is_a_504() {
    let upstream = H2Upstream::new(|exchange| exchange.until_cancelled());
    let gateway = Gateway::before(&upstream).env("UPSTREAM_TIMEOUT_SECONDS", "1").start();
    gateway.chat(CHAT).assert_error(504, "upstream_timeout");
    assert_eq!(upstream.wait_cancelled(0), Reason::CANCEL);
    assert_eq!(upstream.seen().requests.len(), 1);
}

#[test]
fn an_upstream_that_never_finishes_its_handshake_is_a_502() {
    let upstream = Hold::start();
    let gateway = Gateway::before(&upstream).start();
    let began = Instant::now();
    gateway.chat(CHAT).assert_error(502, "upstream_unreachable");
    let took = began.elapsed().as_secs_f64();
    assert!((9.0..20.0).contains(&took), "{took} s");
    upstream.wait_left();
}

#[test]
fn the_time_limit_ends_with_the_headers() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("UPSTREAM_TIMEOUT_SECONDS", "1").start();
    let gate = Gate::new();
    let held = gate.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        held.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    // Another request runs into the limit meanwhile, so it is over for the first one too.
    upstream.then(|_| {});
    gateway.chat(CHAT).assert_error(504, "upstream_timeout");
    gate.open();
    client.rest(&mut answer);
    assert_bytes(&answer.body, "data: [DONE]\n\n", "the stream");
    assert_eq!(answer.end, End::Complete);
}
