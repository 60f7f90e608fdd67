//! A client's bytes in, upstream's frames out.

use super::*;
use crate::payload::{Question, REWRITTEN};
use crate::upstream::http2::frame::MAX_WINDOW;
use std::time::Duration;

const SHAPE: StreamShape = StreamShape { events: 3, interval: Duration::from_millis(1) };

/// A question's body as the gateway sends it on.
fn body(question: &Question) -> Vec<u8> {
    [b"{\"model\":\"google/gemini-2.5-flash" as &[u8], &question.tail].concat()
}

/// One that a client has begun to talk on, and the body that it expects.
fn begun(body_bytes: usize, settings: &[(u16, u32)]) -> (Connection, Vec<u8>) {
    let question = Question::new(body_bytes, false);
    let body = body(&question);
    let mut connection = Connection::new(Rc::new(Shared::new(question.tail)));
    connection.receive(PREFACE).unwrap();
    connection.receive(&settings_frame(settings)).unwrap();
    connection.output.clear();
    (connection, body)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    Head { length: payload.len(), kind, flags, stream }.write(&mut wire);
    wire.extend_from_slice(payload);
    wire
}

fn number_frame(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

fn settings_frame(settings: &[(u16, u32)]) -> Vec<u8> {
    let payload = settings.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(kind::SETTINGS, 0, 0, &payload.collect::<Vec<_>>())
}

/// A head in the plainest form that there is.
fn block(path: &str, length: usize) -> Vec<u8> {
    let length = length.to_string();
    let fields = [
        (":method", "POST"),
        (":scheme", "https"),
        (":path", path),
        ("authorization", REWRITTEN.bearer),
        ("content-length", &length),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        block.extend([0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// A request in two frames.
fn request(stream: u32, body: &[u8]) -> Vec<u8> {
    let mut wire = frame(kind::HEADERS, flag::END_HEADERS, stream, &block(REWRITTEN.path, body.len()));
    let mut pieces = body.chunks(PAYLOAD_BYTES).peekable();
    while let Some(piece) = pieces.next() {
        let flags = if pieces.peek().is_none() { flag::END_STREAM } else { 0 };
        wire.extend(frame(kind::DATA, flags, stream, piece));
    }
    wire
}

/// All frames that wait to be sent, with their payloads.
fn sent(connection: &mut Connection) -> Vec<(Head, Vec<u8>)> {
    let mut output = &*std::mem::take(&mut connection.output);
    let mut frames = Vec::new();
    while let Some(head) = Head::read(output) {
        let (payload, rest) = output[HEAD_BYTES..].split_at(head.length);
        frames.push((head, payload.to_vec()));
        output = rest;
    }
    assert!(output.is_empty());
    frames
}

/// The bytes that were sent on a stream, and whether it ended.
fn data(frames: &[(Head, Vec<u8>)], stream: u32) -> (Vec<u8>, bool) {
    let of_stream = frames.iter().filter(|(head, _)| head.kind == kind::DATA && head.stream == stream);
    let (heads, payloads): (Vec<Head>, Vec<Vec<u8>>) = of_stream.cloned().unzip();
    (payloads.concat(), heads.last().is_some_and(|head| head.has(flag::END_STREAM)))
}

/// The numbers that frames of this kind say of a stream.
fn numbers(frames: &[(Head, Vec<u8>)], kind: u8, stream: u32) -> Vec<u32> {
    let of_kind = frames.iter().filter(|(head, _)| (head.kind, head.stream) == (kind, stream));
    of_kind.map(|(_, payload)| number(payload).unwrap()).collect()
}

#[test]
fn the_first_frames_announce_what_is_taken() {
    let question = Question::new(1024, false);
    let mut connection = Connection::new(Rc::new(Shared::new(question.tail)));
    let frames = sent(&mut connection);
    assert_eq!(frames.len(), 2);
    assert_eq!(frames[0].1, [0, 3, 0, 0, 0, 100, 0, 4, 0, 16, 0, 0]);
    assert_eq!(numbers(&frames, kind::WINDOW_UPDATE, 0), [16 * 1024 * 1024 - 65_535]);
}

#[test]
fn requests_however_they_are_cut() {
    let question = Question::new(200, false);
    let body = body(&question);
    let block = block(REWRITTEN.path, body.len());
    let mut wire = [PREFACE, &settings_frame(&[])].concat();
    // A usual one.
    wire.extend(request(1, &body));
    // Frames that nobody has to understand, or that ask nothing.
    wire.extend(frame(0xbe, 0xff, 1, b"abc"));
    wire.extend(frame(kind::PRIORITY, 0, 3, &[0; 5]));
    wire.extend(frame(kind::PING, 0, 0, b"12345678"));
    wire.extend(frame(kind::PING, flag::ACK, 0, b"12345678"));
    wire.extend(frame(kind::SETTINGS, flag::ACK, 0, &[]));
    // A head in pieces, with padding and priority; a body in pieces, with padding and an empty one at the end.
    let padded = [&[2, 0, 0, 0, 0, 7][..], &block[..9], &[0; 2]].concat();
    wire.extend(frame(kind::HEADERS, flag::PADDED | flag::PRIORITY, 3, &padded));
    wire.extend(frame(kind::CONTINUATION, 0, 3, &block[9..20]));
    wire.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[20..]));
    wire.extend(frame(kind::DATA, flag::PADDED, 3, &[&[3][..], &body[..50], &[0; 3]].concat()));
    wire.extend(frame(kind::DATA, 0, 3, &body[50..]));
    wire.extend(frame(kind::DATA, flag::END_STREAM, 3, &[]));
    let mut whole = None;
    for cut in 1..=wire.len() {
        let mut connection = Connection::new(Rc::new(Shared::new(question.tail.clone())));
        for piece in wire.chunks(cut) {
            assert_eq!(connection.receive(piece), Ok(()), "cut {cut}");
        }
        let counts = &connection.shared.counts;
        assert_eq!((counts.requests.get(), counts.wrong.get()), (2, 0), "cut {cut}");
        assert_eq!(counts.body_bytes.get(), 2 * body.len() as u64);
        assert!(connection.streams.is_empty() && connection.input.is_empty());
        let frames = sent(&mut connection);
        assert_eq!(*whole.get_or_insert(frames.clone()), frames, "cut {cut}");
    }
    let frames = whole.unwrap();
    let kinds: Vec<_> = frames.iter().map(|(head, _)| (head.kind, head.flags, head.stream)).collect();
    assert_eq!(
        kinds,
        [
            (kind::SETTINGS, 0, 0),
            (kind::WINDOW_UPDATE, 0, 0),
            (kind::SETTINGS, flag::ACK, 0),
            (kind::HEADERS, flag::END_HEADERS, 1),
            (kind::DATA, flag::END_STREAM, 1),
            (kind::PING, flag::ACK, 0),
            (kind::HEADERS, flag::END_HEADERS, 3),
            (kind::DATA, flag::END_STREAM, 3),
        ]
    );
    assert_eq!(data(&frames, 1), (crate::payload::answer().to_vec(), true));
    assert_eq!(frames[5].1, b"12345678");
}

#[test]
fn requests_that_are_not_what_was_asked_are_counted() {
    let wrong = |head: &[u8], body: &[u8], expected: u64| {
        let (mut connection, _) = begun(200, &[]);
        connection.receive(&frame(kind::HEADERS, flag::END_HEADERS, 1, head)).unwrap();
        connection.receive(&frame(kind::DATA, flag::END_STREAM, 1, body)).unwrap();
        assert_eq!(connection.shared.counts.requests.get(), 1);
        assert_eq!(connection.shared.counts.wrong.get(), expected);
        assert!(data(&sent(&mut connection), 1).1, "it is answered all the same");
    };
    let (_, body) = begun(200, &[]);
    wrong(&block(REWRITTEN.path, body.len()), &body, 0);
    wrong(&block("/", body.len()), &body, 1);
    wrong(&block(REWRITTEN.path, body.len() + 1), &body, 1);
    wrong(&block(REWRITTEN.path, body.len() - 1), &body[..body.len() - 1], 1);
    let mut flipped = body.clone();
    flipped[100] ^= 1;
    wrong(&block(REWRITTEN.path, body.len()), &flipped, 1);
}

#[test]
fn answers_keep_within_the_windows() {
    let (mut connection, body) = begun(200, &[(setting::INITIAL_WINDOW_SIZE, 100)]);
    let answer = crate::payload::answer();
    connection.receive(&request(1, &body)).unwrap();
    let mut frames = sent(&mut connection);
    assert_eq!(data(&frames, 1), (answer[..100].to_vec(), false));
    // More for this stream; then less for all, so that it owes some; then as much as it wants.
    for (wire, upto) in [
        (number_frame(kind::WINDOW_UPDATE, 1, 200), 300),
        (settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 50)]), 300),
        (number_frame(kind::WINDOW_UPDATE, 1, 60), 310),
        (settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 5000)]), answer.len()),
    ] {
        connection.receive(&wire).unwrap();
        frames.extend(sent(&mut connection));
        assert_eq!(data(&frames, 1), (answer[..upto].to_vec(), upto == answer.len()));
    }
    assert!(connection.streams.is_empty());
    // What is said of a stream that is over counts for nothing.
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 1, 200)).unwrap();
}

#[test]
fn answers_share_the_window_of_the_connection() {
    let (mut connection, body) = begun(200, &[]);
    let answer = crate::payload::answer();
    let count = WINDOW as usize / answer.len() + 2;
    let ids: Vec<_> = (0..count as u32).map(|number| 2 * number + 1).collect();
    ids.iter().for_each(|id| connection.receive(&request(*id, &body)).unwrap());
    let mut frames = sent(&mut connection);
    let bytes = |frames: &[_]| ids.iter().map(|id| data(frames, *id).0.len()).sum::<usize>();
    assert_eq!(bytes(&frames), WINDOW as usize);
    assert_eq!(connection.streams.len(), 2);
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 0, 100)).unwrap();
    frames.extend(sent(&mut connection));
    assert_eq!(bytes(&frames), WINDOW as usize + 100);
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 0, 10_000)).unwrap();
    frames.extend(sent(&mut connection));
    assert!(ids.iter().all(|id| data(&frames, *id) == (answer.to_vec(), true)));
}

#[test]
fn large_bodies_get_their_windows_back() {
    let (mut connection, body) = begun(10_000_000, &[]);
    let mut window = i64::from(STREAM_WINDOW);
    let (mut frames, mut of_connection) = (Vec::new(), 0);
    let wire = request(1, &body);
    for piece in wire.chunks(PAYLOAD_BYTES) {
        window -= piece.len() as i64;
        assert!(window > 0);
        connection.receive(piece).unwrap();
        frames = sent(&mut connection);
        window += i64::from(numbers(&frames, kind::WINDOW_UPDATE, 1).iter().sum::<u32>());
        of_connection += numbers(&frames, kind::WINDOW_UPDATE, 0).iter().sum::<u32>();
    }
    assert_eq!(connection.shared.counts.wrong.get(), 0);
    assert!((8 << 20..10_000_010).contains(&of_connection));
    assert!(data(&frames, 1).1);
}

#[test]
fn frames_are_as_large_as_the_client_takes_them() {
    let (mut connection, _) = begun(200, &[(setting::INITIAL_WINDOW_SIZE, 1 << 20)]);
    connection.shared.expect(Question::new(200, true).tail, Some(SHAPE));
    let body = body(&Question::new(200, true));
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 0, 1 << 20)).unwrap();
    connection.receive(&request(1, &body)).unwrap();
    assert!(connection.send(1, &[b'x'; 40_000], false));
    connection.receive(&settings_frame(&[(setting::MAX_FRAME_SIZE, 30_000)])).unwrap();
    assert!(connection.send(1, &[b'x'; 40_000], true));
    let frames = sent(&mut connection);
    let lengths: Vec<_> =
        frames.iter().filter(|(head, _)| head.kind == kind::DATA).map(|(head, _)| head.length).collect();
    assert_eq!(lengths, [16_384, 16_384, 7_232, 30_000, 10_000]);
}

#[test]
fn events_are_sent_until_the_client_resets_them() {
    let (mut connection, _) = begun(200, &[(setting::INITIAL_WINDOW_SIZE, 5)]);
    let question = Question::new(200, true);
    connection.shared.expect(question.tail.clone(), Some(SHAPE));
    for id in [1, 3] {
        connection.receive(&request(id, &body(&question))).unwrap();
    }
    assert_eq!(connection.to_pace.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 3]);
    assert!(connection.output.is_empty(), "the head waits for the first event");
    connection.begin_events(1);
    assert!(connection.send(1, b"abc", false) && connection.send(1, b"def", false) && connection.send(1, b"g", true));
    assert_eq!(data(&sent(&mut connection), 1), (b"abcde".to_vec(), false));
    connection.receive(&number_frame(kind::RST_STREAM, 3, 8)).unwrap();
    connection.begin_events(3);
    assert!(!connection.send(3, b"abc", false) && connection.output.is_empty());
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 1, 5)).unwrap();
    assert_eq!(data(&sent(&mut connection), 1), (b"fg".to_vec(), true));
    assert!(!connection.send(1, b"h", true));
}

#[test]
fn more_streams_than_announced_are_refused() {
    let (mut connection, body) = begun(200, &[]);
    for number in 0..=MAX_STREAMS {
        let head = block(REWRITTEN.path, body.len());
        connection.receive(&frame(kind::HEADERS, flag::END_HEADERS, 2 * number + 1, &head)).unwrap();
    }
    assert_eq!(numbers(&sent(&mut connection), kind::RST_STREAM, 201), [Code::RefusedStream as u32]);
    // Its body was on the way.
    connection.receive(&frame(kind::DATA, flag::END_STREAM, 201, &body)).unwrap();
    connection.receive(&frame(kind::DATA, flag::END_STREAM, 1, &body)).unwrap();
    connection.receive(&request(203, &body)).unwrap();
    assert_eq!((connection.shared.counts.requests.get(), connection.shared.counts.wrong.get()), (2, 0));
}

#[test]
fn who_leaves_gets_the_answers_first() {
    let (mut connection, body) = begun(200, &[(setting::INITIAL_WINDOW_SIZE, 100)]);
    connection.receive(&request(1, &body)).unwrap();
    connection.receive(&frame(kind::GOAWAY, 0, 0, &[0; 8])).unwrap();
    assert!(!connection.is_over());
    connection.receive(&number_frame(kind::WINDOW_UPDATE, 1, 10_000)).unwrap();
    assert!(!connection.is_over());
    sent(&mut connection);
    assert!(connection.is_over());
}

#[test]
fn what_no_client_may_send_ends_the_connection() {
    let head = block(REWRITTEN.path, 200);
    let open = frame(kind::HEADERS, flag::END_HEADERS, 1, &head);
    let asked = frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 1, &head);
    let unfinished = frame(kind::HEADERS, 0, 1, &head);
    let update = |stream, more| number_frame(kind::WINDOW_UPDATE, stream, more);
    for (wire, code, why) in [
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], Code::FrameSize, "a frame that is too large"),
        (frame(kind::DATA, 0, 0, b""), Code::Protocol, "a body of the connection"),
        (frame(kind::DATA, 0, 1, b""), Code::Protocol, "a body without a head"),
        (frame(kind::HEADERS, flag::END_HEADERS, 0, &head), Code::Protocol, "a head of the connection"),
        (frame(kind::HEADERS, flag::END_HEADERS, 2, &head), Code::Protocol, "a stream of ours"),
        ([&open[..], &open].concat(), Code::Protocol, "two heads"),
        (frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80]), Code::Compression, "no head"),
        (frame(kind::CONTINUATION, 0, 1, &head), Code::Protocol, "a head without its beginning"),
        ([&unfinished[..], &frame(kind::PING, 0, 0, &[0; 8])].concat(), Code::Protocol, "something within a head"),
        ([&unfinished[..], &frame(kind::CONTINUATION, 0, 3, &head)].concat(), Code::Protocol, "another's head"),
        (frame(kind::PRIORITY, 0, 1, &[0; 4]), Code::FrameSize, "a short priority"),
        (frame(kind::RST_STREAM, 0, 1, &[0; 4]), Code::Protocol, "an end without a beginning"),
        ([&open[..], &frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(), Code::FrameSize, "a short end"),
        (frame(kind::SETTINGS, 0, 1, &[]), Code::Protocol, "settings of a stream"),
        (frame(kind::SETTINGS, 0, 0, &[0; 5]), Code::FrameSize, "short settings"),
        (frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]), Code::FrameSize, "an acknowledgement that says something"),
        (settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]), Code::FlowControl, "too large a window"),
        (settings_frame(&[(setting::MAX_FRAME_SIZE, 16_383)]), Code::Protocol, "too small frames"),
        (settings_frame(&[(setting::MAX_FRAME_SIZE, 1 << 24)]), Code::Protocol, "too large frames"),
        (frame(kind::PUSH_PROMISE, 0, 1, &head), Code::Protocol, "a promise"),
        (frame(kind::PING, 0, 0, &[0; 7]), Code::FrameSize, "a short ping"),
        (update(0, 0), Code::Protocol, "no more window"),
        (update(0, MAX_WINDOW as u32), Code::FlowControl, "too large a window of the connection"),
        (update(1, 1), Code::Protocol, "a window of no stream"),
        ([&open[..], &update(1, MAX_WINDOW as u32)].concat(), Code::FlowControl, "too large a window of a stream"),
    ] {
        let (mut connection, _) = begun(200, &[]);
        assert_eq!(connection.receive(&wire), Err(code), "{why}");
        let (last, payload) = sent(&mut connection).pop().unwrap();
        assert_eq!((last.kind, &payload[4..]), (kind::GOAWAY, &(code as u32).to_be_bytes()[..]), "{why}");
    }
    let (mut connection, _) = begun(200, &[]);
    connection.shared.expect(Question::new(200, true).tail, Some(SHAPE));
    connection.receive(&asked).unwrap();
    assert_eq!(connection.receive(&frame(kind::DATA, 0, 1, b"")), Err(Code::StreamClosed));
    let mut connection = Connection::new(connection.shared);
    assert_eq!(connection.receive(b"GET / HTTP/1.1\r\n"), Err(Code::Protocol));
}

#[test]
fn bytes_that_were_changed_break_nothing() {
    let (_, body) = begun(200, &[]);
    let wire = [
        settings_frame(&[(setting::INITIAL_WINDOW_SIZE, 100)]),
        request(1, &body),
        number_frame(kind::WINDOW_UPDATE, 1, 200),
        number_frame(kind::RST_STREAM, 1, 8),
        request(3, &body),
    ]
    .concat();
    let mut random: u32 = 1;
    for _ in 0..20_000 {
        let mut wire = wire.clone();
        for _ in 0..3 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = (random >> 16) as usize % wire.len();
            wire[at] ^= (random >> 8) as u8;
        }
        let (mut connection, _) = begun(200, &[]);
        let _ = wire.chunks(97).try_for_each(|piece| connection.receive(piece));
    }
}
