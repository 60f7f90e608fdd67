//! What has to hold whatever upstream sends, and in whatever order things happen.

use super::super::error::SendError;
use super::super::frame::{FrameHead, flag};
use super::*;
use crate::hpack::Name;
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

/// `:status: 200`
const OK: &[u8] = &[0x88];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(&mut bytes, kind, flags, stream, payload);
    bytes
}

fn head(encoder: &mut Encoder, block: &mut Vec<u8>) {
    encoder.post_over_tls(block);
    encoder.once(block, Name::of(":path"), b"/chat");
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A connection that has settled, its first words taken.
fn settled() -> Protocol {
    let mut protocol = Protocol::default();
    protocol.receive(&frame(kind::SETTINGS, 0, 0, &[]));
    sent(&mut protocol);
    protocol
}

/// One with a request whose body has been sent.
fn asked() -> (Protocol, u32) {
    let mut protocol = settled();
    let id = open(&mut protocol, b"{}");
    sent(&mut protocol);
    (protocol, id)
}

fn open(protocol: &mut Protocol, body: &'static [u8]) -> u32 {
    let Poll::Ready(Ok(id)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
    protocol.send(id, &mut vec![Bytes::from_static(body)]);
    id
}

/// Takes what is to be sent, frame by frame.
fn sent(protocol: &mut Protocol) -> Vec<(FrameHead, Vec<u8>)> {
    let mut bytes = Vec::new();
    protocol.take_output(&mut bytes);
    protocol.note_left(protocol.taken);
    protocol.note_sent();
    let mut rest = bytes.strip_prefix(frame::PREFACE).unwrap_or(&bytes);
    let mut frames = Vec::new();
    while let Some((head, behind)) = rest.split_first_chunk() {
        let head = FrameHead::read(*head);
        let (payload, behind) = behind.split_at(head.length);
        frames.push((head, payload.to_vec()));
        rest = behind;
    }
    assert_eq!(rest, b"");
    frames
}

fn kinds(frames: &[(FrameHead, Vec<u8>)]) -> Vec<(u8, u32)> {
    frames.iter().map(|(head, _)| (head.kind, head.stream)).collect()
}

fn data(protocol: &mut Protocol, id: u32) -> Option<Result<Vec<u8>, String>> {
    match protocol.poll_data(id, &cx()) {
        Poll::Ready((piece, _)) => Some(piece?.map(|piece| piece.to_vec()).map_err(|error| error.to_string())),
        Poll::Pending => Some(Ok(Vec::new())),
    }
}

#[test]
fn first_words() {
    let mut protocol = Protocol::default();
    let mut bytes = Vec::new();
    protocol.take_output(&mut bytes);
    let settings = b"\0\x02\0\0\0\0\0\x04\0\x01\0\0\0\x06\0\0\x40\0";
    let window = frame(kind::WINDOW_UPDATE, 0, 0, &(8 * 1024 * 1024 - 65_535u32).to_be_bytes());
    assert_eq!(bytes, [frame::PREFACE, &frame(kind::SETTINGS, 0, 0, settings), &window].concat());
    assert_eq!(protocol.allowed(), 0);
    protocol.receive(&frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 7]));
    assert_eq!(protocol.allowed(), 7);
    assert_eq!(
        sent(&mut protocol),
        [(FrameHead { length: 0, kind: kind::SETTINGS, flags: flag::ACK, stream: 0 }, vec![])]
    );
}

#[test]
fn a_request_and_its_answer() {
    let mut protocol = settled();
    let id = open(&mut protocol, b"{}");
    let frames = sent(&mut protocol);
    assert_eq!(kinds(&frames), [(kind::HEADERS, 1), (kind::DATA, 1)]);
    assert_eq!((frames[0].0.flags, frames[1].0.flags), (flag::END_HEADERS, flag::END_STREAM));
    assert_eq!(frames[1].1, b"{}");
    assert!(protocol.poll_head(id, &cx()).is_pending());
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, id, OK));
    let Poll::Ready(Ok(head)) = protocol.poll_head(id, &cx()) else { panic!("it has come") };
    assert_eq!(head.status, 200);
    let body = frame(kind::DATA, flag::END_STREAM, id, b"hello");
    // What has come of a frame is there before the rest is.
    protocol.receive(&body[..11]);
    assert_eq!(data(&mut protocol, id), Some(Ok(b"he".to_vec())));
    assert_eq!(data(&mut protocol, id), Some(Ok(vec![])));
    protocol.receive(&body[11..]);
    assert_eq!(data(&mut protocol, id), Some(Ok(b"llo".to_vec())));
    assert_eq!(data(&mut protocol, id), None);
    protocol.close(id);
    assert_eq!(sent(&mut protocol), [], "nothing is left to be said");
}

#[test]
fn a_head_that_is_larger_than_a_frame_goes_on_in_the_next() {
    let mut protocol = settled();
    let value = "v".repeat(40_000);
    let long = |encoder: &mut Encoder, block: &mut Vec<u8>| encoder.once(block, Name::of("accept"), value.as_bytes());
    assert!(protocol.poll_open(&cx(), long, false).is_ready());
    let frames = sent(&mut protocol);
    assert_eq!(kinds(&frames), [(kind::HEADERS, 1), (kind::CONTINUATION, 1), (kind::CONTINUATION, 1)]);
    let flags: Vec<_> = frames.iter().map(|(head, _)| head.flags).collect();
    assert_eq!(flags, [flag::END_STREAM, 0, flag::END_HEADERS]);
    let block: Vec<u8> = frames.into_iter().flat_map(|(_, payload)| payload).collect();
    let mut shown = Vec::new();
    Decoder::default().decode(&block, |name, value| shown.push((name.to_vec(), value.to_vec()))).unwrap();
    assert_eq!(shown, [(b"accept".to_vec(), value.into_bytes())]);
}

#[test]
fn padding_and_priorities_and_what_nobody_knows_are_passed_over() {
    let (mut protocol, id) = asked();
    let block = [&[3, 0, 0, 0, 0, 9][..], OK, b"pad"].concat();
    let body = [&[4][..], b"body", b"\0\0\0\0"].concat();
    let frames = [
        frame(kind::PRIORITY, 0, id, &[0; 5]),
        frame(99, 0xff, 12, b"whatever"),
        frame(98, 0, id, b""),
        frame(kind::HEADERS, flag::PADDED | flag::PRIORITY | flag::END_HEADERS, id, &block),
        frame(kind::DATA, flag::PADDED, id, &body),
        frame(kind::DATA, flag::PADDED, id, b"\0"),
        frame(kind::DATA, 0, id, b""),
        frame(kind::DATA, flag::PADDED | flag::END_STREAM, id, &body),
    ];
    // Whatever comes at once.
    for byte in frames.concat() {
        protocol.receive(&[byte]);
    }
    assert!(protocol.poll_head(id, &cx()).is_ready());
    assert_eq!(data(&mut protocol, id), Some(Ok(b"bodybody".to_vec())));
    assert_eq!(data(&mut protocol, id), None);
}

#[test]
fn what_padding_took_of_a_window_is_given_back() {
    let (mut protocol, id) = asked();
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, id, OK));
    let padding = frame(kind::DATA, flag::PADDED, id, &[[255].as_slice(), &[0; 255]].concat());
    let mut given_back = 0;
    for _ in 0..1000 {
        protocol.receive(&padding);
        given_back += kinds(&sent(&mut protocol)).iter().filter(|told| **told == (kind::WINDOW_UPDATE, id)).count();
    }
    assert!(protocol.takes_requests());
    assert_eq!(given_back, 256_000 / (STREAM_WINDOW as usize / 2));
}

fn ok() -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, 1, OK)
}

#[test]
fn faults_that_end_the_connection() {
    let settings = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
    let large = frame(kind::CONTINUATION, 0, 1, &[0; MAX_PAYLOAD]);
    let flood = [frame(kind::HEADERS, 0, 1, b""), large.repeat(3)].concat();
    for (number, (bytes, expected)) in [
        (frame(kind::DATA, 0, 0, b""), Reason::PROTOCOL_ERROR),
        (frame(kind::DATA, 0, 2, b""), Reason::PROTOCOL_ERROR),
        (frame(kind::DATA, 0, 3, b""), Reason::PROTOCOL_ERROR),
        ([ok(), frame(kind::DATA, flag::PADDED, 1, b"")].concat(), Reason::FRAME_SIZE_ERROR),
        ([ok(), frame(kind::DATA, flag::PADDED, 1, b"\x01")].concat(), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS, 0, OK), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS, 3, OK), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80]), Reason::COMPRESSION_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 1, &[9, 0x88]), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 1, &[]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 1, OK), Reason::FRAME_SIZE_ERROR),
        (frame(kind::CONTINUATION, 0, 1, b""), Reason::PROTOCOL_ERROR),
        ([frame(kind::HEADERS, 0, 1, b""), frame(kind::DATA, 0, 1, b"")].concat(), Reason::PROTOCOL_ERROR),
        ([frame(kind::HEADERS, 0, 1, b""), frame(kind::CONTINUATION, 0, 3, b"")].concat(), Reason::PROTOCOL_ERROR),
        ([frame(kind::HEADERS, 0, 1, b""), frame(99, 0, 1, b"")].concat(), Reason::PROTOCOL_ERROR),
        (flood, Reason::ENHANCE_YOUR_CALM),
        (frame(kind::PRIORITY, 0, 0, &[0; 5]), Reason::PROTOCOL_ERROR),
        (frame(kind::PRIORITY, 0, 1, &[0; 4]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::RST_STREAM, 0, 0, &[0; 4]), Reason::PROTOCOL_ERROR),
        (frame(kind::RST_STREAM, 0, 3, &[0; 4]), Reason::PROTOCOL_ERROR),
        (frame(kind::RST_STREAM, 0, 1, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, 0, 1, &[]), Reason::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 0, 0, &[0; 5]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::SETTINGS, 0, 0, &settings(2, 1)), Reason::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 0, 0, &settings(4, 1 << 31)), Reason::FLOW_CONTROL_ERROR),
        (frame(kind::SETTINGS, 0, 0, &settings(5, 16_383)), Reason::PROTOCOL_ERROR),
        (frame(kind::SETTINGS, 0, 0, &settings(5, 1 << 24)), Reason::PROTOCOL_ERROR),
        (frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        (frame(kind::PING, 0, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        (frame(kind::PING, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::GOAWAY, 0, 1, &[0; 8]), Reason::PROTOCOL_ERROR),
        (frame(kind::GOAWAY, 0, 0, &[0; 7]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Reason::PROTOCOL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), Reason::FRAME_SIZE_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), Reason::FLOW_CONTROL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1]), Reason::PROTOCOL_ERROR),
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], Reason::FRAME_SIZE_ERROR),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut protocol, id) = asked();
        protocol.receive(&bytes);
        let frames = sent(&mut protocol);
        let (_, payload) = frames.last().expect("a word in parting");
        assert_eq!(kinds(&frames), [(kind::GOAWAY, 0)], "{number}");
        assert_eq!(payload[4..], expected.0.to_be_bytes(), "{number}");
        assert!(!protocol.takes_requests() && protocol.is_done(true), "{number}");
        let error = match protocol.poll_head(id, &cx()) {
            Poll::Ready(Err(SendError::Broke(error))) => error.to_string(),
            _ => data(&mut protocol, id).expect("no end").expect_err("a fault"),
        };
        assert_eq!(error, format!("the connection was ended by the gateway: {expected}"));
        // What comes behind is not looked at.
        protocol.receive(&[0xff; 100]);
        protocol.close(id);
        assert_eq!(sent(&mut protocol), []);
    }
    let mut protocol = Protocol::default();
    sent(&mut protocol);
    protocol.receive(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    assert!(protocol.is_done(true));
}

#[test]
fn faults_that_end_a_stream() {
    let of_two = || frame(kind::HEADERS, flag::END_HEADERS, 1, &[&[0x88, 0x0f, 13, 1][..], b"2"].concat());
    let window = frame(kind::DATA, 0, 1, &[0; MAX_PAYLOAD]).repeat(4);
    for (number, (bytes, expected)) in [
        (frame(kind::DATA, 0, 1, b"x"), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS, 1, b""), Reason::PROTOCOL_ERROR),
        // 103 at the end, and another head.
        (frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, b"\x08\x03103"), Reason::PROTOCOL_ERROR),
        (frame(kind::HEADERS, flag::END_HEADERS, 1, b"\x08\x03103").repeat(65), Reason::PROTOCOL_ERROR),
        ([ok(), ok()].concat(), Reason::PROTOCOL_ERROR),
        // Trailers that are not the end.
        ([ok(), frame(kind::HEADERS, flag::END_HEADERS, 1, b"")].concat(), Reason::PROTOCOL_ERROR),
        // More, and less, than was announced.
        ([of_two(), frame(kind::DATA, 0, 1, b"123")].concat(), Reason::PROTOCOL_ERROR),
        ([of_two(), frame(kind::DATA, flag::END_STREAM, 1, b"1")].concat(), Reason::PROTOCOL_ERROR),
        ([ok(), window, frame(kind::DATA, 0, 1, b"x")].concat(), Reason::FLOW_CONTROL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0; 4]), Reason::PROTOCOL_ERROR),
        (frame(kind::WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]), Reason::FLOW_CONTROL_ERROR),
    ]
    .into_iter()
    .enumerate()
    {
        let (mut protocol, id) = asked();
        protocol.receive(&bytes);
        let frames = sent(&mut protocol);
        assert_eq!(kinds(&frames), [(kind::RST_STREAM, 1)], "{number}");
        assert_eq!(frames[0].1, expected.0.to_be_bytes(), "{number}");
        assert!(protocol.takes_requests(), "{number}");
        let error = loop {
            match (protocol.poll_head(id, &cx()), data(&mut protocol, id)) {
                (Poll::Ready(Err(SendError::Broke(error))), _) => break error.to_string(),
                (_, Some(Err(error))) => break error,
                (_, Some(Ok(piece))) => assert!(!piece.is_empty(), "{number}"),
                (_, None) => panic!("{number} ended well"),
            }
        };
        assert_eq!(error, format!("the stream was ended by the gateway: {expected}"));
        protocol.close(id);
        assert_eq!(sent(&mut protocol), [], "once");
    }
}

#[test]
fn a_farewell_leaves_behind_what_is_beyond_it() {
    let mut protocol = settled();
    let ids = [open(&mut protocol, b"{}"), open(&mut protocol, b"{}"), open(&mut protocol, b"{}")];
    sent(&mut protocol);
    let farewell = |last: u32, reason: u32| {
        frame(kind::GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &reason.to_be_bytes(), b"words"].concat())
    };
    protocol.receive(&farewell(MAX_STREAM, 0));
    assert!(!protocol.takes_requests() && !protocol.is_done(true));
    protocol.receive(&farewell(3, 11));
    // It may not take back what it took back.
    protocol.receive(&farewell(5, 0));
    let Poll::Ready(Err(SendError::LeftBehind(error))) = protocol.poll_head(ids[2], &cx()) else { panic!("it is") };
    assert_eq!(error.to_string(), "the connection was ended by upstream: ENHANCE_YOUR_CALM");
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, OK));
    assert!(matches!(protocol.poll_head(ids[0], &cx()), Poll::Ready(Ok(_))));
    protocol.end(&StreamError::Closed);
    assert!(matches!(protocol.poll_head(ids[1], &cx()), Poll::Ready(Err(SendError::Broke(_)))));
    assert!(matches!(protocol.poll_open(&cx(), head, true), Poll::Ready(Err(_))));
}

#[test]
fn what_nobody_waits_for_any_more_is_still_read_right() {
    let (mut protocol, id) = asked();
    protocol.close(id);
    assert_eq!(kinds(&sent(&mut protocol)), [(kind::RST_STREAM, id)]);
    let second = open(&mut protocol, b"{}");
    sent(&mut protocol);
    // Its head puts something into the table that the next one's refers to.
    let first = [OK, b"\x40\x01a\x01b"].concat();
    let frames = [
        frame(kind::HEADERS, flag::END_HEADERS, id, &first),
        frame(kind::DATA, 0, id, &[0; 1000]).repeat(200),
        frame(kind::RST_STREAM, 0, id, &[0; 4]),
        frame(kind::WINDOW_UPDATE, 0, id, &[0, 0, 0, 1]),
        frame(kind::HEADERS, flag::END_HEADERS, second, &[0x88, 0xbe]),
    ];
    protocol.receive(&frames.concat());
    let Poll::Ready(Ok(head)) = protocol.poll_head(second, &cx()) else { panic!("it has come") };
    assert_eq!(head.value("a"), Some(&b"b"[..]));
}

#[test]
fn who_asks_much_and_takes_nothing_is_not_listened_to() {
    let mut protocol = settled();
    let mut asked = 0;
    while !protocol.owes_too_much() {
        protocol.receive(&frame(kind::PING, 0, 0, &[0; 8]));
        asked += 1;
    }
    assert_eq!(asked, MAX_OWED_BYTES / 17 + 1);
    sent(&mut protocol);
    assert!(!protocol.owes_too_much());
}

/// A connection whose windows no upload fills.
fn boundless() -> Protocol {
    let mut protocol = settled();
    let much = 0x7fff_0000u32;
    let settings = [&[0, 4][..], &much.to_be_bytes()].concat();
    protocol.receive(
        &[frame(kind::SETTINGS, 0, 0, &settings), frame(kind::WINDOW_UPDATE, 0, 0, &much.to_be_bytes())].concat(),
    );
    sent(&mut protocol);
    protocol
}

#[test]
fn large_bodies_take_turns_and_small_ones_do_not_wait_for_them() {
    (2..=6).for_each(take_turns);
}

fn take_turns(uploads: usize) {
    let mut protocol = boundless();
    // None of them ends meanwhile.
    let endless = Bytes::from(vec![0; 30_000_000]);
    let mut bodies: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
    for _ in 0..uploads {
        let Poll::Ready(Ok(id)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
        bodies.insert(id, vec![endless.clone()]);
    }
    bodies.iter_mut().for_each(|(id, pieces)| protocol.send(*id, pieces));
    let mut bytes_of: BTreeMap<u32, usize> = BTreeMap::new();
    for turn in 0..30 {
        let small = open(&mut protocol, b"{}");
        let waiting = protocol.blocked.clone();
        let frames = sent(&mut protocol);
        assert!(kinds(&frames).contains(&(kind::DATA, small)), "{turn}");
        for (head, payload) in frames {
            *bytes_of.entry(head.stream).or_default() += payload.len();
        }
        // As their tasks do, in the order in which they were woken.
        for id in waiting.into_iter().take(TURNS) {
            protocol.send(id, bodies.get_mut(&id).expect("one of them"));
        }
    }
    bytes_of.retain(|id, _| bodies.contains_key(id));
    let (least, most) = (bytes_of.values().min().unwrap(), bytes_of.values().max().unwrap());
    assert!(bytes_of.len() == uploads && most - least <= 2 * GATHERED_BYTES, "{bytes_of:?}");
}

/// What is more than the stream below takes at once leaves in a record and a packet of its own.
#[test]
fn what_is_gathered_of_a_large_body_is_what_is_taken_at_once() {
    let mut protocol = boundless();
    let Poll::Ready(Ok(id)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
    let mut pieces = vec![Bytes::from(vec![0; 1_000_000])];
    let (mut lengths, mut sending) = (Vec::new(), Vec::new());
    while !pieces.is_empty() {
        protocol.send(id, &mut pieces);
        lengths.push(protocol.output.len());
        assert!(protocol.output.capacity() <= GATHERED_BYTES);
        protocol.take_output(&mut sending);
        protocol.note_sent();
    }
    protocol.take_output(&mut sending);
    assert_eq!((sending.capacity(), protocol.output.capacity()), (0, 0), "nothing of it stays");
    let last = lengths.pop().expect("some");
    assert!(last < GATHERED_BYTES && lengths == [GATHERED_BYTES; 3], "{lengths:?}, {last}");
}

/// Upstream takes nothing, clients come and go.
#[test]
fn what_waits_for_upstream_has_a_bound() {
    let mut protocol = settled();
    protocol.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &[0x70, 0, 0, 0]));
    sent(&mut protocol);
    while protocol.allowed() > 0 {
        let Poll::Ready(Ok(id)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
        protocol.send(id, &mut vec![Bytes::from(vec![0; 16 * 1024])]);
        protocol.close(id);
    }
    assert!(protocol.output.len() <= MAX_WAITING_BYTES + (17 << 10), "{} bytes wait", protocol.output.len());
    sent(&mut protocol);
    assert!(protocol.allowed() > 0);
}

/// A fault behind the end of an answer takes nothing of it back.
#[test]
fn a_whole_answer_outlives_a_malformed_window_update_behind_it() {
    let mut protocol = settled();
    let id = open(&mut protocol, b"{}");
    sent(&mut protocol);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, id, OK));
    protocol.receive(&frame(kind::DATA, flag::END_STREAM, id, b"whole"));
    protocol.receive(&frame(kind::WINDOW_UPDATE, 0, id, &[0, 0, 0, 0]));
    assert!(matches!(protocol.poll_head(id, &cx()), Poll::Ready(Ok(_))));
    assert_eq!(data(&mut protocol, id), Some(Ok(b"whole".to_vec())));
    assert_eq!(data(&mut protocol, id), None);
}

/// Whoever has a piece and does not ask for the next one holds one window, not two.
#[test]
fn a_window_opens_when_the_piece_before_is_done_with() {
    let (mut protocol, id) = asked();
    protocol.receive(&ok());
    protocol.receive(&frame(kind::DATA, 0, id, &[0; 10_000]).repeat(6));
    assert_eq!(data(&mut protocol, id).unwrap().unwrap().len(), 60_000);
    assert_eq!(kinds(&sent(&mut protocol)), []);
    assert_eq!(data(&mut protocol, id), Some(Ok(vec![])));
    assert_eq!(kinds(&sent(&mut protocol)), [(kind::WINDOW_UPDATE, id)]);
}

#[test]
fn a_fault_counts_nothing_as_sent() {
    let (mut protocol, first) = asked();
    let Poll::Ready(Ok(second)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
    sent(&mut protocol);
    protocol.send(second, &mut vec![Bytes::from_static(b"{}")]);
    protocol.receive(&frame(kind::PUSH_PROMISE, 0, first, &[0; 4]));
    assert_eq!(kinds(&sent(&mut protocol)), [(kind::GOAWAY, 0)]);
    assert!(matches!(protocol.poll_head(second, &cx()), Poll::Ready(Err(SendError::LeftBehind(_)))));
}

/// Whether somebody was woken.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What can happen to a connection. Streams are told by their place among those that were ever opened.
#[derive(Clone, Debug)]
enum Event {
    Open(usize),
    /// Whoever was woken looks.
    Look,
    Drop(usize),
    Flush,
    Head {
        stream: usize,
        block: Vec<u8>,
        ends: bool,
        is_cut: bool,
    },
    Data {
        stream: usize,
        length: usize,
        padding: Option<u8>,
        ends: bool,
    },
    Window {
        stream: Option<usize>,
        more: u32,
    },
    Settings(Vec<(u16, u32)>),
    Ping(bool),
    Reset(usize),
    Farewell(u32),
    Noise(Vec<u8>),
    End,
}

fn event() -> impl Strategy<Value = Event> {
    let block = prop_oneof![
        6 => Just(OK.to_vec()),
        2 => Just(b"\x88\x40\x01a\x01b".to_vec()),
        1 => Just(b"\x08\x03103".to_vec()),
        1 => Just(b"\x88\x0f\x0d\x0510000".to_vec()),
        1 => Just(Vec::new()),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    let setting = prop_oneof![
        (Just(1), 0u32..5000),
        (Just(3), 0u32..6),
        (Just(4), 0u32..200_000),
        (Just(5), 16_384u32..40_000),
        (any::<u16>(), any::<u32>()),
    ];
    prop_oneof![
        12 => prop_oneof![0usize..200, Just(20_000), Just(300_000)].prop_map(Event::Open),
        20 => Just(Event::Look),
        4 => (0usize..8).prop_map(Event::Drop),
        16 => Just(Event::Flush),
        12 => (0usize..8, block, any::<bool>(), any::<bool>())
            .prop_map(|(stream, block, ends, is_cut)| Event::Head { stream, block, ends: ends && is_cut, is_cut }),
        12 => (0usize..8, prop_oneof![0usize..100, Just(10_000), Just(16_000)], any::<Option<u8>>(), 0u8..4)
            .prop_map(|(stream, length, padding, ends)| Event::Data { stream, length, padding, ends: ends == 0 }),
        12 => (proptest::option::of(0usize..8), 1u32..100_000).prop_map(|(stream, more)| Event::Window { stream, more }),
        4 => proptest::collection::vec(setting, 0..3).prop_map(Event::Settings),
        2 => any::<bool>().prop_map(Event::Ping),
        2 => (0usize..8).prop_map(Event::Reset),
        1 => (0u32..30).prop_map(Event::Farewell),
        1 => proptest::collection::vec(any::<u8>(), 0..40).prop_map(Event::Noise),
        1 => Just(Event::End),
    ]
}

/// A request, whoever waits for it, and what it has got.
struct Client {
    pieces: Vec<Bytes>,
    flag: Arc<Flag>,
    is_waiting: bool,
    has_head: bool,
    got: usize,
}

/// What upstream has said and heard.
struct World {
    protocol: Protocol,
    ids: Vec<u32>,
    clients: BTreeMap<u32, Client>,
    initial: i64,
    connection: i64,
    windows: BTreeMap<u32, i64>,
    heard: BTreeMap<u32, usize>,
}

impl World {
    fn new() -> Self {
        Self {
            protocol: settled(),
            ids: Vec::new(),
            clients: BTreeMap::new(),
            initial: INITIAL_WINDOW.into(),
            connection: INITIAL_WINDOW.into(),
            windows: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    fn id(&self, number: usize) -> u32 {
        self.ids.iter().rev().nth(number).copied().unwrap_or(1)
    }

    fn look(&mut self, id: u32) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.flag.0.store(false, Ordering::Relaxed);
        client.is_waiting = false;
        let waker = Waker::from(client.flag.clone());
        let cx = Context::from_waker(&waker);
        self.protocol.send(id, &mut client.pieces);
        if !client.has_head {
            match self.protocol.poll_head(id, &cx) {
                Poll::Ready(Ok(_)) => client.has_head = true,
                Poll::Ready(Err(_)) => return self.drop(id),
                Poll::Pending => client.is_waiting = true,
            }
        }
        if self.clients.get(&id).is_some_and(|client| client.has_head) {
            loop {
                let Some(client) = self.clients.get_mut(&id) else { return };
                match self.protocol.poll_data(id, &cx) {
                    Poll::Ready((Some(Ok(piece)), _)) => {
                        assert!(!piece.is_empty());
                        client.got += piece.len();
                    }
                    Poll::Ready(_) => return self.drop(id),
                    Poll::Pending => {
                        client.is_waiting = true;
                        return;
                    }
                }
            }
        }
    }

    fn look_all(&mut self, also_who_was_not_woken: bool) {
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let was_woken = |client: &Client| client.flag.0.load(Ordering::Relaxed) || !client.is_waiting;
            if also_who_was_not_woken || self.clients.get(&id).is_some_and(was_woken) {
                self.look(id);
            }
        }
    }

    fn drop(&mut self, id: u32) {
        if self.clients.remove(&id).is_some() {
            self.protocol.close(id);
        }
    }

    fn flush(&mut self) {
        for (head, payload) in sent(&mut self.protocol) {
            match head.kind {
                kind::HEADERS => drop(self.windows.insert(head.stream, self.initial)),
                kind::DATA => {
                    self.connection -= payload.len() as i64;
                    *self.windows.get_mut(&head.stream).expect("it was opened") -= payload.len() as i64;
                    *self.heard.entry(head.stream).or_default() += payload.len();
                    assert!(head.length <= self.protocol.max_payload.max(MAX_PAYLOAD));
                }
                _ => {}
            }
        }
        // As the task does at the end of its turns.
        while self.protocol.note_sent() {}
    }

    fn receive(&mut self, bytes: &[u8]) {
        // Cut somewhere, which must not matter.
        let (first, second) = bytes.split_at(bytes.len() / 3);
        self.protocol.receive(first);
        self.protocol.receive(second);
        // As the task does at the end of its turns.
        while self.protocol.note_sent() {}
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Open(length) => {
                if let Poll::Ready(Ok(id)) = self.protocol.poll_open(&cx(), head, true) {
                    self.ids.push(id);
                    let pieces = vec![Bytes::from(vec![7; length + 1])];
                    let client = Client { pieces, flag: Arc::default(), is_waiting: false, has_head: false, got: 0 };
                    self.clients.insert(id, client);
                    self.look(id);
                }
            }
            Event::Look => self.look_all(false),
            Event::Drop(number) => self.drop(self.id(number)),
            Event::Flush => self.flush(),
            Event::Head { stream, block, ends, is_cut } => {
                let (stream, ends) = (self.id(stream), if ends { flag::END_STREAM } else { 0 });
                let (first, second) = block.split_at(if is_cut { block.len() / 2 } else { block.len() });
                self.receive(&frame(kind::HEADERS, ends, stream, first));
                self.receive(&frame(kind::CONTINUATION, flag::END_HEADERS, stream, second));
            }
            Event::Data { stream, length, padding, ends } => {
                let stream = self.id(stream);
                let ends = if ends { flag::END_STREAM } else { 0 };
                let payload = match padding {
                    Some(padding) => [vec![padding], vec![1; length], vec![0; padding.into()]].concat(),
                    None => vec![1; length],
                };
                let padded = if padding.is_some() { flag::PADDED } else { 0 };
                self.receive(&frame(kind::DATA, ends | padded, stream, &payload));
            }
            Event::Window { stream, more } => {
                let id = stream.map(|stream| self.id(stream));
                match id {
                    Some(id) => *self.windows.entry(id).or_default() += i64::from(more),
                    None => self.connection += i64::from(more),
                }
                self.receive(&frame(kind::WINDOW_UPDATE, 0, id.unwrap_or(0), &more.to_be_bytes()));
            }
            Event::Settings(settings) => {
                for (name, value) in &settings {
                    if *name == setting::INITIAL_WINDOW_SIZE {
                        self.windows.values_mut().for_each(|window| *window += i64::from(*value) - self.initial);
                        self.initial = (*value).into();
                    }
                }
                let settings = settings
                    .into_iter()
                    .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
                // What is on its way was sent by the windows of before.
                self.flush();
                self.receive(&frame(kind::SETTINGS, 0, 0, &settings.collect::<Vec<_>>()));
            }
            Event::Ping(is_answer) => {
                self.receive(&frame(kind::PING, if is_answer { flag::ACK } else { 0 }, 0, &PING));
            }
            Event::Reset(stream) => self.receive(&frame(kind::RST_STREAM, 0, self.id(stream), &[0, 0, 0, 8])),
            Event::Farewell(last) => {
                self.receive(&frame(kind::GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()));
            }
            Event::Noise(bytes) => self.receive(&bytes),
            Event::End => self.protocol.end(&StreamError::Closed),
        }
    }

    /// What has to be so whatever has happened.
    fn judge(&mut self) -> Result<(), TestCaseError> {
        let protocol = &self.protocol;
        prop_assert_eq!(protocol.streams.len(), self.clients.len());
        let blocked = protocol.streams.values().filter(|stream| stream.is_blocked).count();
        prop_assert_eq!(protocol.blocked.len(), blocked, "somebody waits twice, or in vain");
        prop_assert!(protocol.streams.values().all(|stream| stream.data.len() <= STREAM_WINDOW as usize));
        // Nobody who was not woken finds anything.
        let found = |world: &Self| {
            world.clients.values().map(|client| client.got + usize::from(client.has_head)).sum::<usize>()
        };
        for id in self.clients.keys().copied().collect::<Vec<_>>() {
            let was_told = |client: &Client| !client.is_waiting || client.flag.0.load(Ordering::Relaxed);
            if self.clients.get(&id).is_none_or(was_told) {
                continue;
            }
            let (before, left) = (found(self), self.clients[&id].pieces.iter().map(Bytes::len).sum::<usize>());
            self.look(id);
            let client = self.clients.get(&id);
            prop_assert!(client.is_some(), "{} was not told of its end", id);
            prop_assert_eq!(found(self), before, "{} was not told of what came", id);
            let now = self.clients[&id].pieces.iter().map(Bytes::len).sum::<usize>();
            prop_assert_eq!(now, left, "{} was not told of room", id);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_happens_loses_a_wake_up_a_byte_or_a_place(events in proptest::collection::vec(event(), 1..80)) {
        let mut world = World::new();
        for event in events {
            world.happen(event);
            world.judge()?;
        }
        if world.protocol.ended.is_none() {
            world.flush();
            prop_assert!(world.connection >= 0, "more was sent than upstream has room for");
            // When upstream takes everything, everything goes up.
            let much = [0x10, 0, 0, 0];
            world.protocol.receive(&frame(kind::WINDOW_UPDATE, 0, 0, &much));
            for id in world.clients.keys().copied().collect::<Vec<_>>() {
                world.protocol.receive(&frame(kind::WINDOW_UPDATE, 0, id, &much));
            }
            for _ in 0..200 {
                world.look_all(false);
                sent(&mut world.protocol);
            }
            let stuck = world.clients.iter().filter(|(_, client)| !client.pieces.is_empty());
            let stuck: Vec<_> = stuck.map(|(id, _)| &world.protocol.streams[id]).filter(|stream| stream.is_open()).collect();
            prop_assert!(stuck.is_empty(), "{stuck:?}");
        }
        world.protocol.end(&StreamError::Closed);
        world.look_all(true);
        prop_assert!(world.clients.is_empty(), "somebody waits for a connection that has ended");
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut protocol, id) = asked();
        protocol.receive(&bytes);
        let _ = protocol.poll_head(id, &cx());
        protocol.close(id);
        sent(&mut protocol);
    }
}

#[test]
fn what_upstream_has_read_is_known_by_what_it_answers() {
    let mut protocol = settled();
    let status = |status: &[u8]| [&[0x08, 3][..], status].concat();
    let ids = [b"{}"; 4].map(|body| open(&mut protocol, body));
    let later = open(&mut protocol, b"{}");
    let later_ends = protocol.streams[&later].ends_at;
    let Poll::Ready(Ok(unsent)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
    let heads = ids.map(|id| protocol.streams[&id].head_ends_at);
    sent(&mut protocol);
    assert_eq!(protocol.read_up_to(), 0);
    // Interim answers say nothing, as they may come from anywhere in between.
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, ids[0], &status(b"103")));
    assert_eq!(protocol.read_up_to(), 0);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, ids[1], &status(b"413")));
    assert_eq!(protocol.read_up_to(), heads[1], "its body may not have been read");
    protocol.note_left(protocol.streams[&ids[3]].ends_at - 1);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, ids[3], OK));
    assert_eq!(protocol.read_up_to(), heads[3], "its body is on its way");
    protocol.note_left(protocol.taken);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, later, OK));
    assert_eq!(protocol.read_up_to(), later_ends);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, ids[0], OK));
    assert_eq!(protocol.read_up_to(), later_ends, "it knew more");
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, unsent, OK));
    let known = protocol.streams[&unsent].head_ends_at;
    assert_eq!(protocol.read_up_to(), known, "there is nothing of its body yet");
    protocol.ping();
    sent(&mut protocol);
    let sent_with_ping = protocol.taken;
    open(&mut protocol, b"{}");
    sent(&mut protocol);
    assert!(protocol.in_front_of_ping() == sent_with_ping && sent_with_ping < protocol.left);
    protocol.receive(&frame(kind::PING, flag::ACK, 0, b"another!"));
    assert_eq!(protocol.read_up_to(), known);
    for _ in 0..2 {
        protocol.receive(&frame(kind::PING, flag::ACK, 0, &PING));
        assert_eq!(protocol.read_up_to(), sent_with_ping);
    }
    assert_eq!(protocol.in_front_of_ping(), protocol.left);
}

#[test]
fn who_refuses_a_head_may_not_have_read_what_stands_between_it_and_the_body() {
    let mut protocol = settled();
    let Poll::Ready(Ok(id)) = protocol.poll_open(&cx(), head, true) else { panic!("it is open") };
    sent(&mut protocol);
    // Others have their turn before its body has one.
    for _ in 0..3 {
        open(&mut protocol, &[0; 16 * 1024]);
    }
    protocol.send(id, &mut vec![Bytes::from_static(b"{}")]);
    protocol.receive(&frame(kind::HEADERS, flag::END_HEADERS, id, &[&[0x08, 3][..], b"429"].concat()));
    assert_eq!(protocol.read_up_to(), protocol.left);
}
