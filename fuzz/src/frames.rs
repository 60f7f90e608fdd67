//! What an upstream that speaks HTTP/2 sends does the same however it comes, and a body that ends well is what a plain
//! reader of frames finds in it.

use super::cuts;
use ai_proxy::upstream::http2::Protocol;
use std::fmt::Write;
use std::task::{Context, Poll, Waker};

/// The numbers of the requests that are open.
const STREAMS: [u32; 2] = [1, 3];

/// A connection on which two requests wait.
fn waiting() -> Protocol {
    let mut protocol = Protocol::default();
    protocol.receive(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    for id in STREAMS {
        let opened = protocol.poll_open(
            &Context::from_waker(Waker::noop()),
            |encoder, block| encoder.post_over_tls(block),
            true,
        );
        assert!(matches!(opened, Poll::Ready(Ok(opened)) if opened == id));
        protocol.send(id, &mut vec![bytes::Bytes::from_static(b"{}")]);
    }
    protocol.take_output(&mut Vec::new());
    protocol
}

/// What becomes of the requests, what is said to upstream, and the bodies that ended well.
fn read(pieces: &[&[u8]]) -> (String, Vec<u8>, [Option<Vec<u8>>; 2]) {
    let mut protocol = waiting();
    pieces.iter().for_each(|piece| protocol.receive(piece));
    let mut said = Vec::new();
    protocol.take_output(&mut said);
    let cx = Context::from_waker(Waker::noop());
    let mut told = format!("takes requests: {}\n", protocol.takes_requests());
    let bodies = STREAMS.map(|id| {
        match protocol.poll_head(id, &cx) {
            Poll::Ready(Ok(head)) => writeln!(told, "{id}: {} {:?}", head.status, head.to_map()),
            Poll::Ready(Err(error)) => writeln!(told, "{id}: {error:?}"),
            Poll::Pending => writeln!(told, "{id}: nothing"),
        }
        .expect("a text takes everything");
        let mut body = Vec::new();
        let end = loop {
            match protocol.poll_data(id, &cx) {
                Poll::Ready((Some(Ok(piece)), _)) => body.extend_from_slice(&piece),
                Poll::Ready((None, _)) => return Some(body),
                Poll::Ready((Some(Err(error)), _)) => break error.to_string(),
                Poll::Pending => break "to be continued".to_owned(),
            }
        };
        writeln!(told, "{id}: {body:?} {end}").expect("a text takes everything");
        None
    });
    (told, said, bodies)
}

/// The payloads of DATA on a stream, up to the one that says it is the last, padding left out.
fn body(mut input: &[u8], wanted: u32) -> Vec<u8> {
    let mut body = Vec::new();
    while let [l1, l2, l3, kind, flags, s1, s2, s3, s4, rest @ ..] = input {
        let length = u32::from_be_bytes([0, *l1, *l2, *l3]) as usize;
        let stream = u32::from_be_bytes([s1 & 0x7f, *s2, *s3, *s4]);
        let (payload, rest) = rest.split_at(length.min(rest.len()));
        input = rest;
        if stream == wanted && *kind == 0 {
            match payload {
                [padding, there @ ..] if flags & 8 != 0 => {
                    let bytes = length.saturating_sub(1 + usize::from(*padding));
                    body.extend_from_slice(&there[..bytes.min(there.len())]);
                }
                payload => body.extend_from_slice(payload),
            }
        }
        if stream == wanted && *kind <= 1 && flags & 1 != 0 {
            break;
        }
    }
    body
}

/// Panics where the promise is broken.
pub fn check(input: &[u8]) {
    let whole = read(&[input]);
    for pieces in cuts(input) {
        assert_eq!(read(&pieces), whole);
    }
    for (id, found) in STREAMS.into_iter().zip(whole.2) {
        if let Some(found) = found {
            assert_eq!(found, body(input, id));
        }
    }
}
