//! Clients' connections: as many as there may be, one too many, and crowds that want nothing.
mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;
use support::gateway::{Builder, keys_json};
use support::{
    Authority, CHAT, CHAT_STREAM, Client, DEADLINE, End, Gate, Gateway, KEY, Request, Response, Tunnel, Upstream, show,
    until,
};

const FIRST: &str = "data: {\"a\":1}\n\n";

/// A gateway with so many places.
fn start(upstream: &Upstream, places: usize) -> Gateway {
    with_places(upstream, places).start()
}

fn with_places(upstream: &Upstream, places: usize) -> Builder {
    Gateway::before(upstream).env("MAX_CONNECTIONS", &places.to_string()).env("METRICS_PORT", "0")
}

/// When Linux will ask a silent client of this gateway whether it is still there.
#[cfg(target_os = "linux")]
#[test]
fn a_silent_client_is_asked_within_a_minute_whether_it_is_there() {
    const KEEPALIVE: &str = "02";
    let gateway = start(&Upstream::queued(), 10);
    let _clients = take_places(&gateway, 3);
    let gateways_end = format!("0100007F:{:04X}", gateway.address.port());
    let has_timer = |line: &str| {
        // sl local_address rem_address st tx_queue:rx_queue tr:tm->when …; st 1 is an open connection, times are hexadecimal.
        let fields: Vec<_> = line.split_whitespace().collect();
        let (timer, left) = fields[5].split_once(':').expect("a timer and its time");
        let seconds = u64::from_str_radix(left, 16).unwrap_or_default() / 100;
        fields[1] == gateways_end && fields[3] == "01" && timer == KEEPALIVE && (50..=60).contains(&seconds)
    };
    // While a last byte is not acknowledged another timer runs, and a list that is read in parts may lack a line.
    until("the kernel's timer of each connection", || {
        let sockets = std::fs::read_to_string("/proc/net/tcp").expect("Linux tells");
        (sockets.lines().skip(1).filter(|line| has_timer(line)).count() == 3).then_some(())
    });
}

/// Connections that have their place for certain.
fn take_places(gateway: &Gateway, count: usize) -> Vec<Client> {
    let take = |_| {
        let mut client = gateway.client();
        assert_eq!(client.request(&Request::get("/health")).status, 200);
        client
    };
    (0..count).map(take).collect()
}

#[track_caller]
fn assert_refused(client: &mut Client, request: &Request) -> Response {
    let answer = client.request(request);
    answer.assert_error(503, "too_many_connections");
    assert_eq!((answer.retry_after(), answer.header("connection")), (1, Some("close")));
    client.assert_closed();
    answer
}

/// Asks for the metrics until they are as wanted: what a client has closed is seen by the gateway a little later.
#[track_caller]
fn wait_for_metric(gateway: &Gateway, name: &str, wanted: impl Fn(f64) -> bool) {
    let until = Instant::now() + DEADLINE;
    loop {
        let value = gateway.metrics()[name];
        if wanted(value) {
            return;
        }
        assert!(Instant::now() < until, "{name} stays at {value}");
    }
}

fn descriptors(gateway: &Gateway) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("the gateway runs").count()
}

/// So many files may be open in this process, if that is allowed at all.
fn raise_own_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("a limit may be raised to its hard one");
    }
    wanted
}

#[test]
fn one_too_many_is_told_so_and_the_served_notice_nothing() {
    let gate = Gate::new();
    let to_end = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        to_end.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let gateway = start(&upstream, 3);
    let mut served = take_places(&gateway, 2);
    let mut stream = gateway.client();
    stream.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = stream.head();
    stream.expect_body(FIRST);
    for request in [Request::chat(CHAT), Request::get("/v1/models").key(KEY), Request::get("/"), Request::chat("{")] {
        let refused = assert_refused(&mut gateway.client(), &request);
        let line = gateway.log_of(&refused);
        assert_eq!((&line["error"], &line["status"]), (&"too_many_connections".into(), &503.into()));
    }
    // A key is not even looked at.
    assert_refused(&mut gateway.client(), &Request::get("/v1/models"));
    assert_eq!(upstream.requests().len(), 1);
    for client in &mut served {
        assert_eq!(client.request(&Request::get("/v1/models").key(KEY)).status, 200);
    }
    gate.open();
    stream.rest(&mut answer);
    assert_eq!((answer.end, show(&answer.body)), (End::Complete, show("data: [DONE]\n\n")));
    // A place that comes free is taken.
    served.clear();
    wait_for_metric(&gateway, "ai_proxy_connections_open", |open| open <= 2.0);
    assert_eq!(gateway.chat(CHAT).status, 200);
    let told = gateway.wait_for_message("3 connections are open, as many as MAX_CONNECTIONS allows", 0);
    assert_eq!(told["severity"], "WARNING");
    let lines = gateway.lines();
    assert_eq!(lines.iter().filter(|line| line.contains("as many as")).count(), 1, "told once a minute");
    let metrics = gateway.metrics();
    assert_eq!(metrics["ai_proxy_connections_limit"], 3.0);
    assert_eq!(metrics["ai_proxy_connections_refused_total{told=\"503\"}"], 5.0);
}

#[test]
fn probes_are_answered_by_a_full_gateway() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream, 1);
    let mut served = gateway.client();
    assert_eq!(served.request(&Request::chat(CHAT)).status, 200);
    assert_refused(&mut gateway.client(), &Request::chat(CHAT));
    for path in ["/health", "/healthz", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let mut client = gateway.client();
            let answer = client.request(&Request::new(method, path));
            assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{method} {path}");
            client.assert_closed();
        }
    }
    drop(served);
}

#[test]
fn one_too_many_is_told_so_inside_tls() {
    let authority = Authority::new();
    let (upstream, pair) = (Upstream::queued(), authority.issue());
    let gateway = with_places(&upstream, 1)
        .env("HTTP_REDIRECT_PORT", "0")
        .file("TLS_CERT_FILE", &pair.chain)
        .file("TLS_KEY_FILE", &pair.key)
        .start();
    let tunnel = Tunnel::to(gateway.address, &authority);
    let mut served = tunnel.client();
    assert_eq!(served.request(&Request::get("/health")).status, 200);
    for _ in 0..3 {
        assert_refused(&mut tunnel.client(), &Request::chat(CHAT));
        assert_eq!(tunnel.client().request(&Request::get("/readyz")).header("connection"), Some("close"));
    }
    // The plain port shares the places.
    let line = gateway.wait_for_message("redirecting to https from http://", 0);
    let plain = line["message"].as_str().and_then(|message| message.rsplit('/').next()).expect("an address");
    assert_refused(&mut Client::connect(plain.parse().expect("an address")), &Request::get("/docs"));
    assert_eq!(served.request(&Request::chat(CHAT)).status, 200);
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream, 1);
    let _served = take_places(&gateway, 1);
    let body = vec![b'x'; 4 << 20];
    let mut client = gateway.client();
    let request = Request::chat(&body);
    client.send(request.head_bytes());
    // What the kernel does not take any more is not wanted.
    client.try_send(&body);
    client.response().assert_error(503, "too_many_connections");
    // And one that asks first is told at once.
    let mut asking = gateway.client();
    asking.send(Request::chat(&body).header("expect", "100-continue").head_bytes());
    asking.response().assert_error(503, "too_many_connections");
}

#[test]
fn refused_connections_do_not_pile_up() {
    let upstream = Upstream::queued();
    let gateway = start(&upstream, 2);
    let mut served = take_places(&gateway, 2);
    let before = descriptors(&gateway);
    raise_own_limit(4000);
    let silent: Vec<_> = (0..1000).map(|_| gateway.client()).collect();
    wait_for_metric(&gateway, "ai_proxy_connections_refused_total{told=\"nothing\"}", |count| count >= 700.0);
    let held = descriptors(&gateway) - before;
    assert!(held <= 300, "{held} descriptors for those who are refused");
    // Each is closed by the gateway, also those that never said a word.
    for mut client in silent {
        client.assert_closed();
    }
    wait_for_metric(&gateway, "process_open_fds", |open| open <= before as f64 + 8.0);
    assert_refused(&mut gateway.client(), &Request::chat(CHAT));
    for client in &mut served {
        assert_eq!(client.request(&Request::chat(CHAT)).status, 200);
    }
}

#[test]
fn whoever_is_idle_makes_room_and_whoever_is_not_does_not() {
    let gate = Gate::new();
    let to_end = gate.clone();
    let upstream = Upstream::new(move |exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        to_end.wait();
        exchange.last_chunk();
    });
    let gateway = start(&upstream, 4);
    let mut stream = gateway.client();
    stream.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = stream.head();
    stream.expect_body(FIRST);
    let mut idle = take_places(&gateway, 2);
    let mut slow = gateway.client();
    slow.send("GET /health HTTP/1.1\r\nhos");
    // All places are taken: who waits for a request leaves when it has waited for long enough, and then one for each
    // newcomer.
    let mut newcomers = Vec::new();
    for left in [1.0, 2.0, 3.0] {
        wait_for_metric(&gateway, "ai_proxy_connections_made_room_total", |count| count >= left);
        // The scrape is one of them.
        wait_for_metric(&gateway, "ai_proxy_connections_open", |open| open <= 4.0);
        newcomers.extend(take_places(&gateway, 1));
    }
    for client in idle.iter_mut().chain([&mut slow]) {
        client.assert_closed();
    }
    gate.open();
    stream.rest(&mut answer);
    assert_eq!(answer.end, End::Complete);
}

/// A body that nobody wants is still being sent: its end is where the rest begins.
#[test]
fn whoever_sends_the_rest_of_a_refused_body_is_not_idle() {
    let gateway = start(&Upstream::queued(), 3);
    let mut sending = gateway.client();
    sending.send("POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n");
    assert_eq!(sending.response().status, 401);
    let mut idle = take_places(&gateway, 1);
    // So that there is no doubt about who rests for longer.
    std::thread::sleep(Duration::from_millis(300));
    sending.send("{}");
    let _newcomer = take_places(&gateway, 1);
    wait_for_metric(&gateway, "ai_proxy_connections_made_room_total", |count| count >= 1.0);
    idle[0].assert_closed();
    assert_eq!(sending.request(&Request::get("/health")).status, 200);
}

/// Of a crowd that sends no whole head the first leaves for each newcomer, however young it is, also in its handshake.
#[test]
fn whoever_only_connects_keeps_nobody_out() {
    const PLACES: usize = 20;
    // Sooner nobody counts as idle.
    const REST: Duration = Duration::from_secs(5);
    let authority = Authority::new();
    let (upstream, pair) = (Upstream::queued(), authority.issue());
    let plain = start(&upstream, PLACES);
    let tls = with_places(&upstream, PLACES).file("TLS_CERT_FILE", &pair.chain).file("TLS_KEY_FILE", &pair.key).start();
    let tunnel = Tunnel::to(tls.address, &authority);
    for (gateway, stalled) in [(&plain, &b"GET /health HTTP/1.1\r\n"[..]), (&tls, &b"\x16\x03\x01\x02\x00\x01"[..])] {
        let begun = Instant::now();
        let mut crowd = Vec::new();
        let is_tls = std::ptr::eq(gateway, &tls);
        for _ in 0..5 {
            for _ in 0..PLACES {
                let mut client = Client::connect(gateway.address);
                client.try_send(stalled);
                crowd.push(client);
            }
            // The crowd has all places; whoever wants something is served as soon as the first has left.
            let mut statuses = Vec::new();
            while statuses.last() != Some(&200) {
                let mut client = if is_tls { tunnel.client() } else { gateway.client() };
                statuses.push(client.request(&Request::chat(CHAT)).status);
                assert!(begun.elapsed() < REST, "{statuses:?}");
            }
        }
        // A byte now and then is no way to stay.
        crowd[0].assert_closed();
        assert!(begun.elapsed() < REST);
    }
}

/// Neither a page nor a stream can be used to hold a place for ever.
#[test]
fn whoever_does_not_read_makes_room() {
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        while exchange.chunk(vec![b'x'; 64 * 1024]) {}
    });
    let gateway = start(&upstream, 3);
    let mut reader = Client::connect_narrow(gateway.address);
    reader.send(Request::chat(CHAT_STREAM).bytes());
    assert_eq!(reader.head().status, 200);
    // Many answers that nobody reads, on a connection without a key.
    let mut asking = Client::connect_narrow(gateway.address);
    asking.send(Request::get("/docs").bytes().repeat(500));
    let stalled = |count| {
        let is_stalled = |line: &Value| line["error"] == "client_stopped_reading";
        gateway.wait_for_logs_within(Duration::from_millis(200), count, is_stalled)
    };
    // Newcomers are served all the time; while one is, no place is free.
    let until = Instant::now() + DEADLINE;
    let mut newcomers = Vec::new();
    for count in [1, 2] {
        while !stalled(count) {
            assert_eq!(gateway.get("/health").status, 200);
            assert!(Instant::now() < until, "the place is still held");
        }
        newcomers.extend(take_places(&gateway, 1));
    }
    gateway.wait_for_log("the stream", |line| line["stream"] == true && line["outcome"] == "client_hung_up");
    upstream.wait_left(0);
    drop((reader, asking, newcomers));
}

#[test]
fn the_limit_of_descriptors_is_raised() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").descriptors(64, 3000).start();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", gateway.pid())).expect("the gateway runs");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    assert_eq!(line.split_whitespace().nth(3), Some("3000"), "{line}");
    // An upstream without HTTP/2 takes as many as the clients.
    assert_eq!(gateway.metrics()["ai_proxy_connections_limit"], 1116.0);
    let mut clients = take_places(&gateway, 300);
    assert_eq!(clients[299].request(&Request::chat(CHAT)).status, 200);
}

#[test]
fn descriptors_that_run_out_are_waited_for() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("MAX_CONNECTIONS", "5000").descriptors(100, 100).start();
    gateway.wait_for_message("MAX_CONNECTIONS is more than the 100 files that may be open", 0);
    let mut first = gateway.client();
    assert_eq!(first.request(&Request::chat(CHAT)).status, 200);
    // Again and again, and in between there is room.
    for _ in 0..3 {
        let crowd: Vec<_> = (0..150).map(|_| gateway.client()).collect();
        until("a crowd", || (descriptors(&gateway) >= 98).then_some(()));
        drop(crowd);
        until("calm", || (descriptors(&gateway) < 60).then_some(()));
    }
    let crowd: Vec<_> = (0..150).map(|_| gateway.client()).collect();
    gateway.wait_for_message("cannot accept connections at the moment", 0);
    // Those inside are served: the connection to upstream was there before.
    assert_eq!(first.request(&Request::chat(CHAT)).status, 200);
    let mut waiting = gateway.client();
    waiting.send(Request::chat(CHAT).bytes());
    drop(crowd);
    assert_eq!(waiting.response().status, 200);
    assert_eq!(gateway.chat(CHAT).status, 200);
    let told = gateway.lines().iter().filter(|line| line.contains("cannot accept")).count();
    assert_eq!(told, 1, "once a minute");
}

#[test]
fn a_keys_file_that_cannot_be_opened_is_not_called_broken() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("keys.json");
    let write = |content: &str| std::fs::write(&file, content).expect("a file can be written");
    write(&keys_json());
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .without("API_KEYS_JSON")
        .env("API_KEYS_FILE", file.to_str().expect("the path is text"))
        .env("MAX_CONNECTIONS", "5000")
        .descriptors(100, 100)
        .start();
    let crowd: Vec<_> = (0..150).map(|_| gateway.client()).collect();
    gateway.wait_for_message("cannot accept connections at the moment", 0);
    // It is read when it may have changed.
    write(&keys_json());
    gateway.wait_for_message("API_KEYS_FILE could not be looked at", 0);
    drop(crowd);
    write(&format!(r#"[{{"id":"tester","key":"{KEY}"}}]"#));
    gateway.wait_for_message("API_KEYS_FILE has changed and is in use: 1 keys", 0);
    let lines = gateway.lines();
    assert!(lines.iter().all(|line| !line.contains("broken")), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line.contains("looked at")).count(), 1, "once");
}

/// However few descriptors there are, those who are refused take none from those who are served.
#[test]
fn a_crowd_takes_no_descriptor_from_the_served() {
    let upstream = Upstream::new(|exchange| {
        exchange.answer("200 OK", "content-type: application/json\r\nconnection: close\r\n", "{}");
        exchange.close();
    });
    for descriptors in [64, 200] {
        let gateway = Gateway::before(&upstream)
            .without("API_KEYS_JSON")
            .file("API_KEYS_FILE", &keys_json())
            .descriptors(descriptors, descriptors)
            .start();
        let mut served = gateway.client();
        assert_eq!(served.request(&Request::chat(CHAT)).status, 200);
        let began = Instant::now();
        let mut crowd = std::collections::VecDeque::new();
        // As long as the keys file is looked at and read, and refusals last.
        while began.elapsed() < Duration::from_secs(5) {
            crowd.extend((0..20).map(|_| gateway.client()));
            crowd.drain(..crowd.len().saturating_sub(300));
            assert_eq!(served.request(&Request::chat(CHAT)).status, 200, "{descriptors}");
        }
        let lines = gateway.lines();
        let bad = lines.iter().find(|line| line.contains("API_KEYS_FILE") || line.contains("cannot accept"));
        assert_eq!(bad, None, "{descriptors}");
    }
}

#[test]
fn by_default_there_are_fewer_places_than_descriptors() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").descriptors(100, 100).start();
    assert_eq!(gateway.metrics()["ai_proxy_connections_limit"], 25.0);
    let mut served = take_places(&gateway, 25);
    for _ in 0..50 {
        assert_refused(&mut gateway.client(), &Request::chat(CHAT));
    }
    for client in &mut served {
        assert_eq!(client.request(&Request::chat(CHAT)).status, 200);
    }
    assert!(gateway.lines().iter().all(|line| !line.contains("cannot accept")));
}

#[test]
fn ten_thousand_idle_connections_cost_little() {
    let room = raise_own_limit(24_000);
    let count = 10_000.min(usize::try_from(room).expect("it fits") / 2 - 500);
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("METRICS_PORT", "0").env("MAX_CONNECTIONS", "100000").start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    let before = gateway.memory();
    let connect = |_| TcpStream::connect(gateway.address).expect("the gateway accepts connections");
    let crowd: Vec<TcpStream> = (0..count).map(connect).collect();
    wait_for_metric(&gateway, "ai_proxy_connections_open", |open| open >= count as f64);
    let each = (gateway.memory().saturating_sub(before)) / count;
    assert!(each <= 8 * 1024, "{each} bytes for an idle connection");
    assert_eq!(gateway.chat(CHAT).status, 200);
    drop(crowd);
    wait_for_metric(&gateway, "ai_proxy_connections_open", |open| open <= 2.0);
    assert_eq!(gateway.chat(CHAT).status, 200);
}
