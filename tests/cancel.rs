//! A client that hangs up, in whatever phase and way, ends the request upstream at once.
mod support;

use support::{
    CHAT, CHAT_STREAM, CHAT_UPSTREAM, Client, Gate, Gateway, H2Upstream, Hold, Metadata, Request, TokenAnswer,
    Treatment, Upstream, Watched, assert_bytes,
};

/// How a client can go.
#[derive(Clone, Copy, Debug)]
enum HangUp {
    Close,
    CloseSendingSide,
    Reset,
}

const WAYS: [HangUp; 3] = [HangUp::Close, HangUp::CloseSendingSide, HangUp::Reset];

/// How far upstream is when the client goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    BeforeHeaders,
    BeforeFirstByte,
    MidStream,
}

const PHASES: [Phase; 3] = [Phase::BeforeHeaders, Phase::BeforeFirstByte, Phase::MidStream];

const PIECE: &str = "data: {\"a\":1}\n\n";

/// Hangs up; a connection that was only half closed is given back, so that it stays open.
#[must_use]
fn hang_up(client: Client, way: HangUp) -> Option<Client> {
    match way {
        HangUp::Close => None,
        HangUp::Reset => {
            client.reset();
            None
        }
        HangUp::CloseSendingSide => {
            client.close_sending_side();
            Some(client)
        }
    }
}

fn combinations() -> Vec<(Phase, HangUp, &'static str)> {
    let bodies = [CHAT, CHAT_STREAM];
    PHASES.iter().flat_map(|phase| WAYS.iter().flat_map(move |way| bodies.map(|body| (*phase, *way, body)))).collect()
}

/// Takes a request as far as `phase`, then hangs up.
fn go_as_far_as(gateway: &Gateway, phase: Phase, way: HangUp, body: &str, reached: impl FnOnce()) -> Option<Client> {
    let mut client = gateway.client();
    client.send(Request::chat(body).bytes());
    reached();
    if phase != Phase::BeforeHeaders {
        assert_eq!(client.head().status, 200);
    }
    if phase == Phase::MidStream {
        client.expect_body(PIECE);
    }
    hang_up(client, way)
}

#[test]
fn http1_upstream_sees_the_end_in_every_phase() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (number, (phase, way, body)) in combinations().into_iter().enumerate() {
        upstream.then(move |exchange| {
            match (phase, body) {
                (Phase::BeforeHeaders, _) => return,
                (_, CHAT_STREAM) => exchange.sse_head(),
                _ => {
                    exchange.send("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n");
                }
            }
            match (phase, body) {
                (Phase::MidStream, CHAT_STREAM) => {
                    exchange.chunk(PIECE);
                }
                (Phase::MidStream, _) => {
                    exchange.send(PIECE);
                }
                _ => {}
            }
        });
        let mut connection = 0;
        let _half = go_as_far_as(&gateway, phase, way, body, || connection = upstream.wait_request(number).connection);
        upstream.wait_left(connection);
        let line = gateway.wait_for_access(number);
        assert_eq!(line["outcome"], "client_hung_up", "{phase:?} {way:?} {body}: {line}");
    }
    assert_eq!(upstream.requests().len(), combinations().len(), "nothing was sent twice");
}

#[test]
fn http2_upstream_sees_the_end_in_every_phase() {
    let upstream = H2Upstream::new(|mut exchange| async move {
        let (phase, _, body) = combinations()[exchange.number];
        if phase != Phase::BeforeHeaders {
            exchange.head(200, if body == CHAT_STREAM { "text/event-stream" } else { "application/json" });
        }
        if phase == Phase::MidStream {
            exchange.send(PIECE).await;
        }
        exchange.until_cancelled().await;
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for (number, (phase, way, body)) in combinations().into_iter().enumerate() {
        let _half = go_as_far_as(&gateway, phase, way, body, || {
            upstream.wait_request(number);
        });
        let reason = upstream.wait_cancelled(number);
        assert_eq!(reason, h2::Reason::CANCEL, "{phase:?} {way:?}");
        let line = gateway.wait_for_access(number);
        assert_eq!(line["outcome"], "client_hung_up", "{phase:?} {way:?} {body}: {line}");
    }
    // Other streams of the connection live on: it was never given up.
    assert_eq!(upstream.seen().connections, 1);
}

#[test]
fn one_hang_up_leaves_the_other_streams_alone() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = H2Upstream::new(move |mut exchange| {
        let held = held.clone();
        async move {
            exchange.sse_head();
            exchange.send(PIECE).await;
            if exchange.number == 0 {
                return exchange.until_cancelled().await;
            }
            held.opened().await;
            exchange.send("data: [DONE]\n\n").await;
            exchange.end();
        }
    });
    let gateway = Gateway::before(&upstream).start();
    let start = || {
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        let answer = client.head();
        client.expect_body(PIECE);
        (client, answer)
    };
    let (leaving, _) = start();
    let (mut staying, mut answer) = start();
    drop(leaving);
    upstream.wait_cancelled(0);
    gate.open();
    staying.rest(&mut answer);
    assert_bytes(&answer.body, "data: [DONE]\n\n", "the stream that stayed");
    assert_eq!(answer.end, support::End::Complete);
}

#[test]
fn a_hang_up_while_waiting_for_a_connection_is_seen() {
    for way in WAYS {
        for body in [CHAT, CHAT_STREAM] {
            let upstream = Hold::start();
            let gateway = Gateway::before(&upstream).start();
            let mut client = gateway.client();
            client.send(Request::chat(body).bytes());
            upstream.wait_connection();
            let _half = hang_up(client, way);
            assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up", "{way:?}");
        }
    }
}

#[test]
fn what_hung_up_while_waiting_for_a_connection_never_goes_up() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        H2Upstream::with_treatment(move |_| Treatment::HoldHandshake(held.clone()), |exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    upstream.seen.wait("a connection", |seen| (seen.connections > 0).then_some(()));
    drop(client);
    assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up");
    gate.open();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let seen = upstream.seen();
    assert_eq!(seen.requests.len(), 1, "{:?}", seen.requests);
    assert_bytes(&seen.requests[0].body, CHAT_UPSTREAM, "the one that stayed");
}

#[test]
fn a_hang_up_while_waiting_for_a_bearer_is_seen() {
    let gate = Gate::new();
    let metadata = Metadata::answering(TokenAnswer::Held(gate.clone()));
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    for (number, way) in WAYS.into_iter().enumerate() {
        let mut client = gateway.client();
        // With 100-continue the client knows that its body was asked for, so the next thing is the wait.
        client.send(Request::chat(CHAT_STREAM).header("expect", "100-continue").head_bytes());
        assert_eq!(client.head().status, 100);
        client.send(CHAT_STREAM);
        let _half = hang_up(client, way);
        assert_eq!(gateway.wait_for_access(number)["outcome"], "client_hung_up", "{way:?}");
    }
    gate.open();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_bytes(&upstream.only_request().body, CHAT_UPSTREAM, "the one that stayed");
}

#[test]
fn a_hang_up_in_mid_body_is_seen() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (number, way) in WAYS.into_iter().enumerate() {
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).header("expect", "100-continue").head_bytes());
        assert_eq!(client.head().status, 100);
        client.send(&CHAT[..20]);
        let _half = hang_up(client, way);
        let line = gateway.wait_for_access(number);
        assert_eq!(line["outcome"], "client_hung_up", "{way:?}: {line}");
        assert_eq!(line["key_id"], "tester", "{line}");
    }
    assert_eq!(upstream.connections(), 0, "half a body is nothing to connect for");
}

/// Long after the sockets between are full, the gateway still sees that its client goes.
#[test]
fn a_hang_up_of_a_reader_that_stopped_is_seen() {
    for way in WAYS {
        let taken: Watched<usize> = Watched::default();
        let progress = taken.clone();
        let upstream = H2Upstream::new(move |mut exchange| {
            let progress = progress.clone();
            async move {
                exchange.sse_head();
                let held = exchange.send_until_full(vec![b'x'; 65536], 1000).await;
                progress.change(|taken| *taken = held);
                exchange.until_cancelled().await;
            }
        });
        let gateway = Gateway::before(&upstream).start();
        let mut client = Client::connect_narrow(gateway.address);
        client.send(Request::chat(CHAT_STREAM).bytes());
        assert_eq!(client.head().status, 200);
        // No byte of the body is read: upstream comes to a halt.
        let held = taken.wait("upstream to be stopped", |taken| (*taken > 0).then_some(*taken));
        assert!(held < 60 << 20, "{held} bytes were taken for a client that reads nothing");
        let _half = hang_up(client, way);
        upstream.wait_cancelled(0);
        assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up", "{way:?}");
    }
}

#[test]
fn a_hang_up_behind_a_pipelined_request_is_seen() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (number, way) in WAYS.into_iter().enumerate() {
        upstream.then(|exchange| {
            exchange.sse_head();
            exchange.chunk(PIECE);
        });
        let mut client = gateway.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        client.head();
        client.expect_body(PIECE);
        client.send(Request::get("/health").bytes());
        let _half = hang_up(client, way);
        upstream.wait_left(upstream.wait_request(number).connection);
        gateway.wait_for_log("the hang-up", |line| line["outcome"] == "client_hung_up" && line["alias"] == "flash");
    }
}

/// More than the gateway keeps of what is sent ahead does not hide the end behind it.
#[test]
fn a_hang_up_behind_a_flood_is_seen() {
    let flood = Request::get("/health").bytes().repeat(5000);
    assert!(flood.len() > 3 * 64 * 1024);
    let upstream = Upstream::new(|_| {});
    let gateway = Gateway::before(&upstream).start();
    for (number, way) in WAYS.into_iter().enumerate() {
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        let connection = upstream.wait_request(number).connection;
        client.send(&flood);
        let _half = hang_up(client, way);
        upstream.wait_left(connection);
        let line = gateway.wait_for_access(number);
        assert_eq!((&line["outcome"], &line["alias"]), (&"client_hung_up".into(), &"flash".into()), "{way:?}: {line}");
    }
}

#[test]
fn a_pipelined_request_is_no_hang_up() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::queued();
    upstream.then(move |exchange| {
        exchange.sse_head();
        exchange.chunk(PIECE);
        held.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body(PIECE);
    client.send(Request::get("/health").bytes());
    // Another client's whole request is served meanwhile, so the gateway had time to misjudge.
    assert_eq!(gateway.chat(CHAT).status, 200);
    gate.open();
    client.rest(&mut answer);
    assert_bytes(&answer.body, "data: [DONE]\n\n", "the rest");
    assert_eq!(client.response().status, 200, "the pipelined one");
}
