//! An upstream that means harm, or might as well: bounded in memory and time, never mistaken for a good answer.
mod support;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use support::{CHAT, End, Gateway, Upstream, assert_bytes};

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

/// What an upstream sends until nobody takes it any more.
fn endlessly(begin: &'static [u8], again: &'static [u8]) -> Upstream {
    Upstream::new(move |exchange| {
        exchange.send(begin);
        while exchange.send(again) {}
    })
}

fn memory(gateway: &Gateway) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gateway.pid())).expect("the gateway runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
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
        let before = memory(&gateway);
        gateway.chat(CHAT).assert_error(502, "upstream_broke");
        upstream.wait_left(0);
        let grown = memory(&gateway) - before;
        assert!(grown < 4 << 20, "{what}: {grown} bytes");
        assert_eq!(upstream.requests().len(), 1, "{what}");
    }
}
