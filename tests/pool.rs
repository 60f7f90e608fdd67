//! Connections to upstream: enough of them, few of them, and what was provably not processed is sent once more. The
//! gateway has one CPU here, and so one thread, which alone has connections.
mod support;

use std::time::Instant;

use h2::Reason;
use support::{
    CHAT, CHAT_STREAM, CHAT_UPSTREAM, Client, End, Gate, Gateway, H2Upstream, Hold, Request, Response, Treatment,
    Upstream, Watched, assert_bytes, show,
};

const FIRST: &str = "data: {\"a\":1}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// An upstream whose streams send [`FIRST`], wait for the gate, and end.
fn held_streams(gate: &Gate) -> H2Upstream {
    held_streams_of(gate, |_| Treatment::Serve)
}

fn held_streams_of(gate: &Gate, treatment: fn(usize) -> Treatment) -> H2Upstream {
    let gate = gate.clone();
    H2Upstream::with_treatment(treatment, move |mut exchange| {
        let gate = gate.clone();
        async move {
            exchange.sse_head();
            exchange.send(FIRST).await;
            gate.opened().await;
            exchange.send(DONE).await;
            exchange.end();
        }
    })
}

/// Starts a stream and reads its first event.
fn start_stream(gateway: &Gateway) -> (Client, Response) {
    let mut client = gateway.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let answer = client.head();
    client.expect_body(FIRST);
    (client, answer)
}

/// Starts a herd: all requests leave before the first answer is read. As no stream ends before the gate of its upstream
/// opens, all that are given back are open at once.
fn start_streams(gateway: &Gateway, count: usize) -> Vec<(Client, Response)> {
    let mut clients: Vec<Client> = (0..count).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(Request::chat(CHAT_STREAM).bytes()));
    let read_first = |mut client: Client| {
        let answer = client.head();
        client.expect_body(FIRST);
        (client, answer)
    };
    clients.into_iter().map(read_first).collect()
}

#[track_caller]
fn assert_ends_well((mut client, mut answer): (Client, Response)) {
    client.rest(&mut answer);
    assert_bytes(&answer.body, DONE, "the rest of the stream");
    assert_eq!((answer.status, answer.end), (200, End::Complete));
}

#[test]
fn three_hundred_streams_are_open_at_once() {
    let gate = Gate::new();
    let upstream = held_streams(&gate);
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let streams = start_streams(&gateway, 300);
    let seen = upstream.seen();
    assert_eq!(seen.open, 300);
    assert!((3..=5).contains(&seen.connections), "{} connections", seen.connections);
    let fullest = (0..seen.connections)
        .map(|number| seen.requests.iter().filter(|request| request.connection == number).count())
        .max();
    assert!(fullest <= Some(100), "{fullest:?} streams on one connection");
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn streams_that_come_one_by_one_fill_connections() {
    let gate = Gate::new();
    let upstream = held_streams(&gate);
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let streams: Vec<_> = (0..150).map(|_| start_stream(&gateway)).collect();
    assert_eq!(upstream.seen().connections, 2);
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn each_thread_has_connections_of_its_own() {
    let gate = Gate::new();
    let upstream = held_streams(&gate);
    let gateway = Gateway::before(&upstream).start();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let streams: Vec<_> = (0..3 * cpus).map(|_| start_stream(&gateway)).collect();
    let seen = upstream.seen();
    assert_eq!(seen.connections, cpus, "one for each thread");
    for number in 0..cpus {
        let streams = seen.requests.iter().filter(|request| request.connection == number).count();
        assert_eq!(streams, 3, "on connection {number} of {cpus}");
    }
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn one_connection_serves_request_after_request() {
    let upstream = H2Upstream::new(|exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for _ in 0..250 {
        assert_eq!(gateway.chat(CHAT).status, 200);
    }
    assert_eq!(upstream.seen().connections, 1);
}

#[test]
fn a_hang_up_gives_its_place_back() {
    let upstream = H2Upstream::new(|mut exchange| async move {
        exchange.sse_head();
        exchange.send(FIRST).await;
        exchange.until_cancelled().await;
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for number in 0..150 {
        drop(start_stream(&gateway));
        upstream.wait_cancelled(number);
        gateway.wait_for_access(number);
    }
    assert_eq!(upstream.seen().connections, 1);
}

#[test]
fn http1_connections_are_kept_and_grow_with_the_streams() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        if exchange.request.body == CHAT_UPSTREAM.as_bytes() {
            return exchange.json("{}");
        }
        exchange.sse_head();
        exchange.chunk(FIRST);
        held.wait();
        exchange.chunk(DONE);
        exchange.last_chunk();
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for _ in 0..20 {
        assert_eq!(gateway.chat(CHAT).status, 200);
    }
    // A request may come just before the last one's connection is free again, so one is not promised.
    let kept = upstream.connections();
    assert!(kept <= 5, "{kept} connections for one request at a time");
    let streams: Vec<_> = (0..50).map(|_| start_stream(&gateway)).collect();
    assert!((50..=55).contains(&upstream.connections()), "{} connections", upstream.connections());
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn upstream_without_http2_is_spoken_to_in_http1() {
    let upstream = H2Upstream::with_treatment(|_| Treatment::Http1, |exchange| exchange.json("not reached"));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for _ in 0..20 {
        let answer = gateway.chat(CHAT);
        assert_bytes(&answer.body, "{}", "the answer");
    }
    let seen = upstream.seen();
    assert_eq!(seen.requests.len(), 20);
    assert!(seen.connections <= 5, "{} connections for one request at a time", seen.connections);
    assert_eq!(seen.requests[0].path, support::UPSTREAM_PATH);
    assert_bytes(&seen.requests[0].body, CHAT_UPSTREAM, "the body");
}

#[test]
fn slow_readers_do_not_stop_a_stream_and_hold_little() {
    const LARGE: usize = 64 << 20;
    let taken: Watched<[usize; 31]> = Watched::new([0; 31]);
    let progress = taken.clone();
    let upstream = H2Upstream::new(move |mut exchange| {
        let progress = progress.clone();
        async move {
            exchange.sse_head();
            for _ in 0..LARGE / 65536 {
                if !exchange.send(vec![b'x'; 65536]).await {
                    return;
                }
                progress.change(|taken| taken[exchange.number] += 65536);
            }
            exchange.end();
        }
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let slow: Vec<Client> = (0..30)
        .map(|number| {
            let mut client = Client::connect_narrow(gateway.address);
            client.send(Request::chat(CHAT_STREAM).bytes());
            taken.wait("the stream to start", |taken| (taken[number] > 0).then_some(()));
            client
        })
        .collect();
    let answer = gateway.chat(CHAT_STREAM);
    assert_eq!((answer.body.len(), answer.end), (LARGE, End::Complete));
    assert_eq!(upstream.seen().connections, 1, "all on one connection");
    // While 64 MiB went to the one that reads, the others got what fits into sockets and one window.
    let most = taken.read(|taken| taken[..30].iter().copied().max());
    assert!(most < Some(12 << 20), "{most:?} bytes of an unread stream were taken");
    drop(slow);
}

#[test]
fn a_refused_stream_is_sent_once_more() {
    let upstream = H2Upstream::new(|mut exchange| async move {
        if exchange.number == 0 { exchange.reset(Reason::REFUSED_STREAM) } else { exchange.json("{}").await }
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200);
    let requests = upstream.seen().requests;
    assert_eq!(requests.len(), 2);
    assert_bytes(&requests[0].body, CHAT_UPSTREAM, "the first time");
    assert_bytes(&requests[1].body, CHAT_UPSTREAM, "the second time");
}

#[test]
fn a_stream_that_is_refused_twice_is_a_502() {
    let upstream = H2Upstream::new(|mut exchange| async move { exchange.reset(Reason::REFUSED_STREAM) });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    gateway.chat(CHAT).assert_error(502, "upstream_broke");
    assert_eq!(upstream.seen().requests.len(), 2);
}

/// An upstream that takes one stream on each connection, whatever it has announced.
fn one_stream_on_each(gate: &Gate) -> H2Upstream {
    let gate = gate.clone();
    H2Upstream::new(move |mut exchange| {
        let gate = gate.clone();
        async move {
            if !exchange.is_first() {
                return exchange.reset(Reason::REFUSED_STREAM);
            }
            exchange.sse_head();
            exchange.send(FIRST).await;
            gate.opened().await;
            exchange.send(DONE).await;
            exchange.end();
        }
    })
}

#[test]
fn a_refusal_sends_those_that_follow_elsewhere() {
    let gate = Gate::new();
    let upstream = one_stream_on_each(&gate);
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let streams: Vec<_> = (0..20).map(|_| start_stream(&gateway)).collect();
    assert!(streams.iter().all(|(_, answer)| answer.status == 200));
    let seen = upstream.seen();
    // Each but the first met one refusal: those that have refused are not asked again.
    assert_eq!((seen.connections, seen.requests.len()), (20, 39));
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn connections_that_refuse_count_as_long_as_they_carry_streams() {
    const MOST: usize = 256;
    let gate = Gate::new();
    let upstream = one_stream_on_each(&gate);
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let mut clients: Vec<Client> = (0..MOST + 40).map(|_| gateway.client()).collect();
    let mut streams = Vec::new();
    let mut refused = 0;
    for mut client in clients.drain(..) {
        client.send(Request::chat(CHAT_STREAM).bytes());
        let answer = client.head();
        if answer.status == 200 {
            client.expect_body(FIRST);
            streams.push((client, answer));
        } else {
            assert_eq!(answer.status, 503, "{}", show(&answer.body));
            refused += 1;
        }
    }
    assert_eq!((streams.len(), refused, upstream.seen().connections), (MOST, 40, MOST));
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn only_a_refusal_is_sent_again() {
    for reason in [Reason::CANCEL, Reason::INTERNAL_ERROR, Reason::NO_ERROR, Reason::ENHANCE_YOUR_CALM] {
        let upstream = H2Upstream::new(move |mut exchange| async move { exchange.reset(reason) });
        let gateway = Gateway::before(&upstream).on_one_cpu().start();
        gateway.chat(CHAT).assert_error(502, "upstream_broke");
        assert_eq!(upstream.seen().requests.len(), 1, "{reason:?}");
    }
}

#[test]
fn what_a_goaway_left_unprocessed_is_sent_again() {
    let upstream = H2Upstream::with_treatment(
        |number| if number == 0 { Treatment::RefuseAll } else { Treatment::Serve },
        |exchange| exchange.json("{}"),
    );
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let seen = upstream.seen();
    assert_eq!((seen.refused, seen.requests.len()), (1, 1));
    assert_bytes(&seen.requests[0].body, CHAT_UPSTREAM, "the body");
}

/// Upstream that is being replaced says goodbye on one connection after the other.
#[test]
fn what_several_goaways_left_unprocessed_is_sent_until_it_is_taken() {
    let upstream = H2Upstream::with_treatment(
        |number| if number < 8 { Treatment::RefuseAll } else { Treatment::Serve },
        |exchange| exchange.json("{}"),
    );
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let seen = upstream.seen();
    assert_eq!((seen.refused, seen.requests.len()), (8, 1));
    assert_bytes(&seen.requests[0].body, CHAT_UPSTREAM, "the body");
}

#[test]
fn endless_goaways_are_a_502() {
    let upstream = H2Upstream::with_treatment(|_| Treatment::RefuseAll, |exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    gateway.chat(CHAT).assert_error(502, "upstream_broke");
    assert_eq!(upstream.seen().refused, 9);
}

#[test]
fn a_goaway_that_counts_the_stream_as_processed_is_a_502() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = H2Upstream::new(move |exchange| {
        let held = held.clone();
        async move {
            held.opened().await;
            exchange.json("{}").await;
        }
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let mut client = gateway.client();
    client.send(Request::chat(CHAT).bytes());
    upstream.wait_request(0);
    upstream.break_connections();
    client.response().assert_error(502, "upstream_broke");
    gate.open();
    assert_eq!(upstream.seen().requests.len(), 1, "it may have been processed, so it is not sent twice");
}

#[test]
fn a_lower_limit_of_streams_is_kept() {
    let gate = Gate::new();
    let upstream = held_streams_of(&gate, |_| Treatment::Limit(10));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    // One by one: none waits for another to end.
    let streams: Vec<_> = (0..50).map(|_| start_stream(&gateway)).collect();
    assert_eq!(upstream.seen().connections, 5);
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn a_cold_herd_keeps_to_a_lower_limit_of_streams() {
    let gate = Gate::new();
    let upstream = held_streams_of(&gate, |_| Treatment::Limit(10));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let streams = start_streams(&gateway, 50);
    assert_eq!(upstream.seen().open, 50);
    gate.open();
    streams.into_iter().for_each(assert_ends_well);
}

#[test]
fn a_goaway_lets_streams_finish_and_sends_others_elsewhere() {
    let gate = Gate::new();
    let upstream = held_streams(&gate);
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let old = start_stream(&gateway);
    upstream.go_away();
    // When the gateway has seen the GOAWAY is its affair: either connection will do, an error will not.
    let news: Vec<_> = (0..20).map(|_| start_stream(&gateway)).collect();
    gate.open();
    assert_ends_well(old);
    news.into_iter().for_each(assert_ends_well);
}

/// `count` connections with room for one more stream each are all told to go away.
#[track_caller]
fn assert_goaways_do_no_harm(count: usize) {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = H2Upstream::with_treatment(
        move |number| if number < count { Treatment::Limit(2) } else { Treatment::Serve },
        move |mut exchange| {
            let held = held.clone();
            async move {
                if exchange.number >= 2 * count {
                    return exchange.json("{}").await;
                }
                exchange.sse_head();
                exchange.send(FIRST).await;
                if exchange.number % 2 == 0 {
                    return exchange.until_cancelled().await;
                }
                held.opened().await;
                exchange.send(DONE).await;
                exchange.end();
            }
        },
    );
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    // Two and two they fill the connections; then one of each two leaves.
    let mut streams: Vec<_> = (0..2 * count).map(|_| Some(start_stream(&gateway))).collect();
    for number in (0..2 * count).step_by(2) {
        streams[number] = None;
        assert_eq!(upstream.wait_cancelled(number), Reason::CANCEL);
        gateway.wait_for_access(number / 2);
    }
    let open: Vec<usize> =
        upstream.seen().requests.iter().skip(1).step_by(2).map(|request| request.connection).collect();
    assert_eq!(open, (0..count).collect::<Vec<_>>(), "an open stream on each connection");
    upstream.go_away_and_wait(count);
    for number in 0..5 {
        let answer = gateway.chat(CHAT);
        assert_eq!(answer.status, 200, "request {number}: {}", show(&answer.body));
    }
    let seen = upstream.seen();
    let news: Vec<usize> = seen.requests.iter().skip(2 * count).map(|request| request.connection).collect();
    assert_eq!(news, [count; 5], "each once, on the fresh connection");
    assert_eq!(seen.connections, count + 1);
    gate.open();
    streams.into_iter().flatten().for_each(assert_ends_well);
}

#[test]
fn goaways_on_two_connections_do_no_harm() {
    assert_goaways_do_no_harm(2);
}

#[test]
fn goaways_on_five_connections_do_no_harm() {
    assert_goaways_do_no_harm(5);
}

/// A GOAWAY that comes while the last stream that a connection has room for is about to leave: nothing of it was sent, so
/// it goes elsewhere.
#[test]
fn a_last_stream_that_meets_a_goaway_is_taken_elsewhere() {
    const ROUNDS: usize = 100;
    let upstream = H2Upstream::with_treatment(
        |_| Treatment::Limit(2),
        |mut exchange| async move {
            if exchange.request.body == CHAT_UPSTREAM {
                return exchange.json("{}").await;
            }
            exchange.sse_head();
            exchange.send(FIRST).await;
            exchange.until_cancelled().await;
        },
    );
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let mut client = gateway.client();
    let mut broken = Vec::new();
    for _ in 0..ROUNDS {
        // A stream that runs keeps the connection open, and takes the other place.
        let _stream = start_stream(&gateway);
        upstream.go_away();
        let answer = client.request(&Request::chat(CHAT));
        if answer.status != 200 {
            broken.push(gateway.log_of(&answer)["error"].to_string());
        }
    }
    assert!(broken.is_empty(), "{} of {ROUNDS} failed: {broken:?}", broken.len());
    assert_eq!(upstream.seen().requests.len(), 2 * ROUNDS, "each once");
}

#[test]
fn settings_that_come_late_are_waited_for() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream =
        H2Upstream::with_treatment(move |_| Treatment::HoldSettings(held.clone()), |exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    let mut clients: Vec<Client> = (0..20).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(Request::chat(CHAT).bytes()));
    upstream.seen.wait("the gateway to speak first", |seen| (seen.held > 0).then_some(()));
    // Many other requests are served meanwhile: the gateway is done with all that it can do without SETTINGS.
    for _ in 0..100 {
        assert_eq!(gateway.get("/health").status, 200);
    }
    assert_eq!(upstream.seen().requests.len(), 0, "nothing is sent before upstream has said how much it takes");
    gate.open();
    let began = Instant::now();
    for client in &mut clients {
        let answer = client.response();
        assert_eq!(answer.status, 200, "{}", show(&answer.body));
    }
    let took = began.elapsed().as_secs_f64();
    assert!(took < 4.0, "{took} s after SETTINGS came");
    assert_eq!(upstream.seen().requests.len(), 20, "each once");
}

#[test]
fn a_stock_server_is_understood() {
    for _ in 0..5 {
        let upstream = H2Upstream::with_treatment(|_| Treatment::Stock, |exchange| exchange.json("{}"));
        let gateway = Gateway::before(&upstream).on_one_cpu().start();
        let began = Instant::now();
        for _ in 0..20 {
            let answer = gateway.chat(CHAT);
            assert_eq!(answer.status, 200, "{}", show(&answer.body));
        }
        let took = began.elapsed().as_secs_f64();
        assert!(took < 4.0, "{took} s");
        assert_eq!(upstream.seen().connections, 1);
    }
}

/// An upstream that ends every connection before it can be used.
#[track_caller]
fn assert_dialled_seldom(what: &str, gateway: &Gateway, dials: impl Fn() -> usize) {
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 502, "{what}: {}", show(&answer.body));
    let code = answer.code();
    assert!(["upstream_unreachable", "upstream_broke"].contains(&code.as_str()), "{what}: {code}");
    answer.assert_error(502, &code);
    let at_answer = dials();
    assert!((1..=4).contains(&at_answer), "{what}: {at_answer} dials for one request");
    for _ in 0..100 {
        assert_eq!(gateway.get("/health").status, 200);
    }
    assert!(dials() <= 4, "{what}: dialling goes on: {}", dials());
}

#[test]
fn an_upstream_that_goes_away_at_once_is_not_dialled_for_ever() {
    for (what, treatment) in
        [("GOAWAY", (|_| Treatment::GoAway) as fn(usize) -> Treatment), ("close", |_| Treatment::Close)]
    {
        let upstream = H2Upstream::with_treatment(treatment, |exchange| exchange.json("not reached"));
        let gateway = Gateway::before(&upstream).on_one_cpu().start();
        assert_dialled_seldom(what, &gateway, || upstream.seen().connections);
    }
}

#[test]
fn an_upstream_that_closes_what_it_accepts_is_not_dialled_for_ever() {
    for scheme in ["http", "https"] {
        let upstream = Hold::closing();
        let gateway = Gateway::before(&format!("{scheme}://{}", upstream.address).as_str()).on_one_cpu().start();
        assert_dialled_seldom(scheme, &gateway, || upstream.connections());
    }
}

#[test]
fn an_idle_connection_that_upstream_closed_does_no_harm() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for number in 0..20 {
        let answer = gateway.chat(CHAT);
        assert_eq!(answer.status, 200, "after {number}");
        upstream.close_connections();
    }
    assert_eq!(upstream.requests().len(), 20, "each once");
}

#[test]
fn an_answer_that_closes_its_connection_does_no_harm() {
    let upstream = Upstream::new(|exchange| {
        exchange.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", "{}");
        exchange.close();
    });
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    for _ in 0..20 {
        assert_eq!(gateway.chat(CHAT).status, 200);
    }
    assert_eq!(upstream.requests().len(), 20, "each once");
}

#[test]
fn what_may_have_been_processed_is_not_sent_again() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).on_one_cpu().start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    // On the connection that was kept: the request is read whole, then it breaks.
    upstream.then(|exchange| exchange.close());
    gateway.chat(CHAT).assert_error(502, "upstream_broke");
    assert_eq!(upstream.requests().len(), 2);
    assert_eq!(upstream.requests()[1].connection, 0, "the kept connection");
}
