//! When others are in trouble: a metadata server that is late, an upstream that half works.
mod support;

use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use support::{
    CHAT, CHAT_STREAM, DEADLINE, End, Gate, Gateway, Metadata, Request, TokenAnswer, UPSTREAM_PATH, Upstream, Watched,
    assert_bytes, show,
};

/// The address of a metadata server that is not ready for its first calls: it closes connections, answers with a 503,
/// and at last is what it should be.
fn late(metadata: &Metadata) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let (address, ready) = (listener.local_addr().expect("a bound address"), metadata.address);
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { continue };
            match number {
                0 | 1 => {}
                2 => {
                    let _ = stream.write_all(b"HTTP/1.1 503 Not yet\r\ncontent-length: 0\r\n\r\n");
                }
                _ => {
                    let Ok(other) = TcpStream::connect(ready) else { return };
                    join(stream.try_clone(), other.try_clone());
                    join(Ok(other), Ok(stream));
                }
            }
        }
    });
    address.to_string()
}

/// Passes on what comes on one connection to the other.
fn join(from: std::io::Result<TcpStream>, to: std::io::Result<TcpStream>) {
    std::thread::spawn(move || {
        let (mut from, mut to) = (from.expect("a handle"), to.expect("a handle"));
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
}

#[test]
fn a_metadata_server_that_is_late_at_start_is_waited_for() {
    let (upstream, metadata) = (Upstream::queued(), Metadata::start());
    let gateway =
        Gateway::before(&upstream).without("GOOGLE_CLOUD_PROJECT").env("GCE_METADATA_HOST", &late(&metadata)).start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(upstream.only_request().path(), UPSTREAM_PATH.replace("test-project", "metadata-project"));
}

#[test]
fn a_slow_token_delays_and_fails_nothing() {
    let gate = Gate::new();
    let metadata = Metadata::answering(TokenAnswer::Held(gate.clone()));
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    gateway.get("/readyz").assert_error(503, "credentials_unavailable");
    assert_eq!(gateway.get("/health").status, 200, "it lives, though it is not ready");
    let mut waiting: Vec<_> = (0..50).map(|_| gateway.client()).collect();
    for client in &mut waiting {
        client.send(Request::chat(CHAT).bytes());
    }
    gate.open();
    for client in &mut waiting {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(gateway.get("/readyz").status, 200);
    assert_eq!(metadata.seen().token_calls, 1);
}

/// What the gateway holds open, without what its clients do.
fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("the gateway runs").count()
}

/// Half of the requests fail in one way or another, the others are slow; a crowd keeps asking. Each gets what belongs to
/// it, nobody waits for somebody else's failure, and afterwards nothing is left.
#[test]
fn a_brown_out_fails_those_that_fail_and_no_others() {
    const CLIENTS: usize = 40;
    const EACH: usize = 25;
    let running = Watched::new(0);
    let most = Watched::new(0);
    let seen_most = most.clone();
    let number = AtomicUsize::new(0);
    let upstream = Upstream::new(move |exchange| {
        let now = running.change(|running| {
            *running += 1;
            *running
        });
        most.change(|most| *most = now.max(*most));
        // Slow: a brown-out is no failure that is told at once.
        std::thread::sleep(Duration::from_millis(20));
        match number.fetch_add(1, Ordering::Relaxed) % 8 {
            0 => exchange.answer("503 Busy", "content-type: application/json\r\nretry-after: 7\r\n", "{\"error\":{}}"),
            1 => exchange.reset(),
            2 => exchange.close(),
            3 => {
                exchange.sse_head();
                exchange.chunk("data: 1\n\n");
                exchange.close();
            }
            _ => exchange.sse(["data: 1\n\n", "data: [DONE]\n\n"]),
        }
        running.change(|running| *running -= 1);
    });
    let gateway = Gateway::before(&upstream).start();
    assert!(matches!(gateway.chat(CHAT_STREAM).status, 200 | 502 | 503));
    let before = descriptors(&gateway);
    let began = Instant::now();
    let kinds: Vec<[usize; 4]> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut kinds = [0; 4];
                    for _ in 0..EACH {
                        let answer = gateway.chat(CHAT_STREAM);
                        let kind = match (answer.status, answer.end) {
                            (200, End::Complete) => {
                                assert_bytes(&answer.body, "data: 1\n\ndata: [DONE]\n\n", "a good answer");
                                0
                            }
                            (200, _) => {
                                let text = show(&answer.body);
                                assert!(text.starts_with("data: 1\\n\\n") && text.contains("upstream_broke"), "{text}");
                                1
                            }
                            (503, End::Complete) => {
                                assert_eq!((answer.retry_after(), show(&answer.body)), (7, show("{\"error\":{}}")));
                                2
                            }
                            _ => {
                                answer.assert_error(502, "upstream_broke");
                                3
                            }
                        };
                        kinds[kind] += 1;
                    }
                    kinds
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("a client has no complaints")).collect()
    });
    let sum = |kind: usize| kinds.iter().map(|kinds| kinds[kind]).sum::<usize>();
    let total = CLIENTS * EACH;
    assert_eq!((0..4).map(sum).sum::<usize>(), total);
    // One in eight of each kind, two of those that end before an answer; the one request before them counts too.
    assert!(sum(0).abs_diff(total / 2) <= 1, "{}", sum(0));
    assert!(sum(1).abs_diff(total / 8) <= 1 && sum(2).abs_diff(total / 8) <= 1 && sum(3).abs_diff(total / 4) <= 1);
    assert_eq!(upstream.requests().len(), total + 1, "nothing is sent twice");
    // A client that has its answer may ask again before upstream has noted the end of that.
    assert!(seen_most.read(|most| *most) <= 2 * CLIENTS, "upstream gets no more at one time than clients ask");
    assert!(began.elapsed() < DEADLINE / 2, "each waits for its own answer only");
    // Idle connections to upstream may be left, as many as were in use together.
    assert!(descriptors(&gateway) <= before + CLIENTS + 2, "{} descriptors", descriptors(&gateway));
}
