//! An upstream that means harm, or might as well: bounded in memory and time, never mistaken for a good answer.
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use h2::Reason;
use support::h2::frame;
use support::{
    Authority, CHAT, CHAT_PATH, CHAT_STREAM, End, Gate, Gateway, H2Upstream, KEY, Pair, Request, Response, Treatment,
    Upstream, Watched, assert_bytes, show, skip, until,
};

/// A chat with so many bytes of content.
fn large_chat(bytes: usize) -> String {
    format!(r#"{{"model":"flash","messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(bytes))
}

/// Serves one connection by hand, as no server of the tests' own would.
fn by_hand(serve: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("a bound address"));
    std::thread::spawn(move || serve(listener.accept().expect("the gateway connects").0));
    base
}

/// A server may begin to answer while it still reads, and end only when it has read all.
#[test]
fn an_answer_that_begins_before_the_request_has_ended_comes_whole() {
    let body = large_chat(8 << 20);
    let expected = body.len() + "google/gemini-2.5-flash".len() - "flash".len();
    let base = by_hand(move |mut stream| {
        let mut piece = vec![0; 64 * 1024];
        let mut read = stream.read(&mut piece).expect("the request begins");
        let head = piece[..read].windows(4).position(|window| window == b"\r\n\r\n").expect("the head comes first") + 4;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n").expect("it reads");
        read -= head;
        while read < expected {
            match stream.read(&mut piece).expect("the request goes on") {
                0 => return,
                more => read += more,
            }
        }
        let _ = stream.write_all(b"3\r\nall\r\n0\r\n\r\n");
    });
    let gateway = Gateway::before(&base.as_str()).start();
    let answer = gateway.chat(&body);
    assert_eq!((answer.status, answer.end), (200, End::Complete));
    assert_bytes(&answer.body, "begunall", "the answer");
}

/// An upstream may answer before it has the request, and take no more of it. The client has its answer then, and nothing
/// is left of the request: not its body, not its stream.
#[test]
fn a_body_that_is_not_taken_is_given_up_with_the_end_of_the_answer() {
    let small = CHAT.to_owned();
    for (status, window, body, times) in [
        (200, 0, large_chat(2 << 20), 5),
        (413, 1 << 20, large_chat(2 << 20), 5),
        (200, 0, small.clone(), 120),
        (200, 10, small, 120),
        (429, 10, large_chat(20 << 10), 120),
    ] {
        let upstream = H2Upstream::with_treatment(
            move |_| Treatment::ServeUnread(window),
            move |mut exchange| async move {
                exchange.head(status, "application/json");
                exchange.send("{}").await;
                exchange.end();
                exchange.until_cancelled().await;
            },
        );
        let gateway = Gateway::before(&upstream)
            .env("MAX_BODY_BYTES", "3000000")
            .env("BODY_BUDGET_BYTES", "4000000")
            .env("METRICS_PORT", "0")
            .on_one_cpu()
            .start();
        for number in 0..times {
            let answer = gateway.chat(&body);
            assert_eq!((answer.status, answer.end), (status, End::Complete), "{window}, {number}");
            assert_bytes(&answer.body, "{}", "the answer");
            assert_eq!(upstream.wait_cancelled(number), Reason::CANCEL);
            until("the body to be gone", || {
                (gateway.metrics()["ai_proxy_body_budget_used_bytes"] == 0.0).then_some(())
            });
        }
        assert_eq!(upstream.seen().connections, 1);
    }
}

/// An error that is to be repaired is short and comes at once. Of one that does not, the client gets what there is.
#[test]
fn an_error_that_stalls_or_trickles_is_passed_on_as_it_comes() {
    const REST: &str = "[{\"error\":{\"message\":\"at last\"}}]";
    for (status, begin, trickles) in
        [("429 Busy", "[{\"err", false), ("503 Down", "", false), ("500 Broken", " ", true), ("429 Busy", " ", true)]
    {
        let gate = Gate::new();
        let held = gate.clone();
        let client_has_head = Watched::new(false);
        let told = client_has_head.clone();
        let upstream = Upstream::new(move |exchange| {
            exchange.send(format!(
                "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            ));
            if !begin.is_empty() {
                exchange.chunk(begin);
            }
            while trickles && told.wait_for(Duration::from_millis(50), |told| told.then_some(())).is_none() {
                exchange.chunk(" ");
            }
            held.wait();
            exchange.chunk(REST);
            exchange.last_chunk();
        });
        let gateway = Gateway::before(&upstream).env("UPSTREAM_TIMEOUT_SECONDS", "1").start();
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        let mut answer = client.head();
        client_has_head.change(|told| *told = true);
        assert_eq!(answer.status.to_string(), status[..3]);
        if !trickles {
            client.expect_body(begin);
        }
        gate.open();
        client.rest(&mut answer);
        assert_eq!(answer.end, End::Complete, "{status}");
        let text = String::from_utf8(answer.body).expect("text");
        assert_eq!(text.trim_start_matches(' '), REST, "{status}: nothing is lost, and nothing repaired");
    }
}

#[test]
fn whoever_leaves_an_error_that_stalls_frees_its_place() {
    let upstream = Upstream::new(|exchange| match exchange.number {
        0 => drop(exchange.send("HTTP/1.1 503 Down\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n[")),
        _ => exchange.json("{}"),
    });
    let keys = format!(r#"[{{"id":"tester","key":"{KEY}","max_concurrent":1}}]"#);
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &keys).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(0);
    drop(client);
    upstream.wait_left(0);
    assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up");
    assert_eq!(gateway.chat(CHAT).status, 200);
}

/// What an upstream sends until nobody takes it any more.
fn endlessly(begin: &'static [u8], again: &'static [u8]) -> Upstream {
    Upstream::new(move |exchange| {
        exchange.send(begin);
        while exchange.send(again) {}
    })
}

#[test]
fn a_head_without_an_end_is_a_502() {
    let line: &[u8] =
        b"x-canary: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n";
    let ways: [(&str, &[u8], &[u8]); 5] = [
        ("fields", b"HTTP/1.1 200 OK\r\n", line),
        (
            "one field",
            b"HTTP/1.1 200 OK\r\nx: ",
            b"yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
        ),
        ("a reason", b"HTTP/1.1 200 ", b"very very very very very very very very very very very very very very very "),
        ("interim answers", b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        ("line ends", b"", b"\r\n"),
    ];
    for (what, begin, again) in ways {
        let upstream = endlessly(begin, again);
        let gateway = Gateway::before(&upstream).start();
        let before = gateway.memory();
        gateway.chat(CHAT).assert_error(502, "upstream_broke");
        upstream.wait_left(0);
        let grown = gateway.memory() - before;
        assert!(grown < 4 << 20, "{what}: {grown} bytes");
        assert_eq!(upstream.requests().len(), 1, "{what}");
    }
}

/// An answer that never ends, piece by piece.
fn endless(status: &'static str, kind: &'static str) -> Upstream {
    Upstream::new(move |exchange| {
        exchange.send(format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n"));
        while exchange.chunk([b' '; 16 * 1024]) {}
    })
}

/// What is over 1 MiB is passed on as it comes, and what nobody wants is not read.
#[test]
fn an_answer_without_an_end_is_not_collected() {
    for status in ["500 Bad", "200 OK"] {
        let upstream = endless(status, "application/json");
        let gateway = Gateway::before(&upstream).start();
        let before = gateway.memory();
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        client.head();
        let mut passed = 0;
        while passed < 64 << 20 {
            passed += client.piece().unwrap_or_else(|end| panic!("{end:?} after {passed}")).len();
        }
        let grown = gateway.memory() - before;
        assert!(grown < 8 << 20, "{status}: {grown} bytes");
        drop(client);
        upstream.wait_left(0);
    }
    let upstream = endless("500 Bad", "text/html");
    let gateway = Gateway::before(&upstream).start();
    assert_eq!(gateway.chat(CHAT).code(), "upstream_html");
    upstream.wait_left(0);
    let upstream = endless("401 No", "application/json");
    let gateway = Gateway::before(&upstream).start();
    gateway.chat(CHAT).assert_error(502, "upstream_rejected_credentials");
    upstream.wait_left(0);
    upstream.wait_left(1);
}

#[test]
fn encodings_that_nobody_asked_for_pass_untouched() {
    const BYTES: &[u8] = b"\x1f\x8b\x08 no gzip at all \xff\x00";
    for (status, kind) in [(200, "application/json"), (200, "text/event-stream"), (500, "application/json")] {
        let upstream = Upstream::new(move |exchange| {
            exchange.answer(
                &format!("{status} X"),
                &format!("content-type: {kind}\r\ncontent-encoding: gzip\r\n"),
                BYTES,
            );
        });
        let gateway = Gateway::before(&upstream).start();
        let answer = gateway.chat(CHAT_STREAM);
        assert_eq!((answer.status, answer.header("content-encoding")), (status, Some("gzip")));
        assert_bytes(&answer.body, BYTES, kind);
    }
}

/// Over HTTP/2 the framing says nothing of a length that was announced.
#[test]
fn an_http2_answer_of_another_length_than_announced_is_cut() {
    for (announced, what) in [("20", "too short"), ("3", "too long")] {
        let upstream = H2Upstream::new(move |mut exchange| async move {
            exchange.head_with(200, &[("content-type", "application/json"), ("content-length", announced)]);
            exchange.send("{\"a\":\"b\"}").await;
            exchange.end();
        });
        let gateway = Gateway::before(&upstream).start();
        let answer = gateway.chat(CHAT);
        let is_visible = answer.end != End::Complete || answer.status == 502;
        assert!(is_visible, "{what}: {} {}", answer.head, show(&answer.body));
    }
}

fn unreachable_with_certificate(issue: impl FnOnce(&Authority) -> Pair) -> String {
    let upstream = H2Upstream::with_certificate(issue, |exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    answer.assert_error(502, "upstream_unreachable");
    assert_eq!(upstream.seen().requests.len(), 0, "no bearer goes there");
    gateway.log_of(&answer)["error"].as_str().expect("a cause").to_owned()
}

#[test]
fn certificates_that_are_no_good_are_named_in_the_log() {
    let expired = unreachable_with_certificate(Authority::issue_expired);
    assert!(expired.to_lowercase().contains("expired"), "{expired}");
    let foreign = unreachable_with_certificate(|authority| authority.issue_for(&["aiplatform.example"]));
    assert!(foreign.contains("name"), "{foreign}");
}

/// PING, SETTINGS and more, of which one request follows another without any answer.
#[test]
fn floods_of_frames_are_survived() {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const PUSH_PROMISE: u8 = 5;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;
    const CONTINUATION: u8 = 9;
    const END_HEADERS: u8 = 4;
    /// `:status: 200` by HPACK.
    const OK: &[u8] = &[0x88];
    // A literal field that is in no table.
    let field = [&[0, 8][..], b"x-canary", &[100], &[b'y'; 100]].concat();
    let floods: [(&str, Vec<u8>, Vec<u8>); 10] = [
        ("PING", vec![], frame(PING, 0, 0, b"canary!!")),
        ("SETTINGS", vec![], frame(SETTINGS, 0, 0, b"")),
        ("other SETTINGS", vec![], frame(SETTINGS, 0, 0, &[0, 1, 0, 0, 1, 0, 0, 1, 0, 0, 0, 0])),
        ("unknown", vec![], frame(99, 0, 0, &[0; 100])),
        ("RST_STREAM", vec![], frame(RST_STREAM, 0, 3, &[0, 0, 0, 8])),
        ("WINDOW_UPDATE", vec![], frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
        ("PUSH_PROMISE", vec![], frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x88])),
        ("CONTINUATION", frame(HEADERS, 0, 1, OK), frame(CONTINUATION, 0, 1, &field)),
        ("interim HEADERS", vec![], frame(HEADERS, END_HEADERS, 1, &[8, 3, b'1', b'0', b'3'])),
        ("a large list", vec![], frame(HEADERS, END_HEADERS, 1, &[OK, &field.repeat(140)].concat())),
    ];
    for (what, begin, again) in floods {
        let (begin, again) = (begin.clone(), again.repeat(1 + 16_000 / again.len()));
        let upstream = H2Upstream::with_treatment(
            move |_| Treatment::Flood(begin.clone(), again.clone()),
            |exchange| exchange.json("{}"),
        );
        let gateway = Gateway::before(&upstream).env("UPSTREAM_TIMEOUT_SECONDS", "2").start();
        let before = gateway.memory();
        let answer = gateway.chat(CHAT);
        assert!(matches!(answer.status, 502 | 504), "{what}: {} {}", answer.head, show(&answer.body));
        let grown = gateway.memory() - before;
        assert!(grown < 16 << 20, "{what}: {grown} bytes");
        assert_eq!(gateway.get("/health").status, 200, "{what}");
    }
    // Pieces of nothing are no bytes of the answer.
    let begin = frame(HEADERS, END_HEADERS, 1, OK);
    let upstream = H2Upstream::with_treatment(
        move |_| Treatment::Flood(begin.clone(), frame(DATA, 0, 1, b"").repeat(1000)),
        |exchange| exchange.json("{}"),
    );
    let gateway = Gateway::before(&upstream).start();
    let before = gateway.memory();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    assert_eq!(client.head().status, 200);
    for _ in 0..200 {
        assert_eq!(gateway.get("/health").status, 200);
    }
    drop(client);
    gateway.wait_for_log("the end of it", |line| {
        line["httpRequest"]["requestUrl"] == CHAT_PATH && line["outcome"] != "completed"
    });
    let grown = gateway.memory() - before;
    assert!(grown < 16 << 20, "empty DATA: {grown} bytes");
}

fn numbered(number: u8) -> impl Fn(&mut support::Exchange<'_>) + Send + Sync + 'static {
    move |exchange| {
        exchange.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", [b'0' + number])
    }
}

#[track_caller]
fn assert_answered_by(number: u8, answer: &Response) {
    assert_eq!((answer.status, show(&answer.body)), (200, show([b'0' + number])), "{}", answer.head);
}

/// Names are looked up for each connection, and all their addresses tried. The gateway's own `/etc/hosts` says what they
/// are, which takes a kernel that lets users have mounts of their own.
#[test]
fn each_connection_goes_to_the_address_that_lives() {
    if !Command::new("unshare").args(["-Urm", "true"]).status().is_ok_and(|status| status.success()) {
        skip("there are no mounts of one's own here");
        return;
    }
    let first = Upstream::new(numbered(1));
    let port = first.address.port();
    let home = tempfile::TempDir::new().expect("a temporary directory");
    let hosts = home.path().join("hosts");
    let resolves_to = |addresses: &[&str]| {
        let lines: String = addresses.iter().map(|address| format!("{address} vertex.test\n")).collect();
        // In place: what is mounted is this very file.
        std::fs::write(&hosts, lines).expect("a file can be written");
    };
    resolves_to(&["127.0.0.1"]);
    let gateway = Gateway::before(&format!("http://vertex.test:{port}").as_str()).hosts(&hosts).start();
    assert_answered_by(1, &gateway.chat(CHAT));
    // The name moves to an address of the other family, and back to one among dead ones.
    let second = Upstream::at(format!("[::1]:{port}").parse().expect("an address"), numbered(2));
    resolves_to(&["::1"]);
    assert_answered_by(2, &gateway.chat(CHAT));
    drop(second);
    gateway.chat(CHAT).assert_error(502, "upstream_unreachable");
    resolves_to(&["::1", "127.0.0.9", "127.0.0.1"]);
    assert_answered_by(1, &gateway.chat(CHAT));
    // It fails, and is there again.
    resolves_to(&[]);
    gateway.chat(CHAT).assert_error(502, "upstream_unreachable");
    resolves_to(&["127.0.0.1"]);
    assert_answered_by(1, &gateway.chat(CHAT));
}

#[test]
fn an_address_of_ipv6_is_spoken_to() {
    let upstream = Upstream::at("[::1]:0".parse().expect("an address"), numbered(1));
    let gateway = Gateway::before(&upstream).start();
    assert_answered_by(1, &gateway.chat(CHAT));
    assert_eq!(upstream.wait_request(0).header("host").as_deref(), Some(&*upstream.address.to_string()));
}
