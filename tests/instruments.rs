//! The instruments of the other tests, tried against each other: a client that calls a cut body complete, or an upstream
//! that does not see a hang-up, would let every other test pass.
mod support;

use support::upstream::Left;
use support::{CHAT, Client, End, Request, Upstream, assert_bytes, sse};

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n";

/// What the client makes of raw bytes and the end of the connection.
fn reads(raw: String, reset: bool) -> support::Response {
    let upstream = Upstream::new(move |exchange| {
        exchange.send(&raw);
        if reset { exchange.reset() } else { exchange.close() }
    });
    Client::connect(upstream.address).request(&Request::chat(CHAT))
}

#[test]
fn the_client_tells_ends_apart() {
    let cases = [
        ("content-length: 3\r\n\r\nabc", End::Complete),
        ("content-length: 4\r\n\r\nabc", End::Cut),
        ("\r\nabc", End::Complete),
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", End::Complete),
        ("transfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", End::Complete),
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", End::Cut),
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", End::Cut),
        ("transfer-encoding: chunked\r\n\r\n3\r\nabc", End::Cut),
        ("transfer-encoding: chunked\r\n\r\n4\r\nabc", End::Cut),
    ];
    for (rest, end) in cases {
        let answer = reads(format!("{HEAD}{rest}"), false);
        assert_eq!((answer.status, answer.end), (200, end), "{rest}");
        assert_bytes(&answer.body, "abc", rest);
    }
    let answer = reads(format!("{HEAD}transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"), true);
    assert_eq!(answer.end, End::Reset);
}

#[test]
fn pieces_are_kept_apart() {
    let answer = reads(format!("{HEAD}transfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), false);
    assert_eq!(answer.pieces, [b"a".to_vec(), b"bc".to_vec()]);
}

#[test]
fn upstream_sees_how_it_is_left() {
    let upstream = Upstream::queued();
    let mut client = Client::connect(upstream.address);
    assert_bytes(client.request(&Request::chat(CHAT)).body, "{}", "the answer");
    assert_bytes(upstream.only_request().body, CHAT, "the request");
    drop(client);
    assert_eq!(upstream.wait_left(0), Left::Closed);
    Client::connect(upstream.address).reset();
    assert_eq!(upstream.wait_left(1), Left::Reset);
}

#[test]
fn events_are_read_as_browsers_do() {
    let cases: [(&str, &[&str]); 9] = [
        ("data: a\n\ndata: b\n\n", &["a", "b"]),
        ("data: a\r\n\r\ndata: b\r\n\r\n", &["a", "b"]),
        ("data: a\r\rdata: b\r\r", &["a", "b"]),
        ("data:a\ndata:  b\n\n", &["a\n b"]),
        (": comment\nevent: x\ndata: a\n\n", &["a"]),
        ("data: a\n\ndata: half\n", &["a"]),
        ("data: a\n\ndata: half", &["a"]),
        ("\u{feff}data: a\n\n", &["a"]),
        ("database: a\n\n", &[]),
    ];
    for (stream, expected) in cases {
        assert_eq!(sse::events(stream.as_bytes()), expected, "{stream:?}");
    }
}
