//! TLS of the gateway's own: who is let in, certificates that change, and the same bytes inside.
mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustls::{HandshakeKind, ProtocolVersion};
use support::{
    Authority, CHAT, CHAT_STREAM, Client, DEADLINE, End, Gate, Gateway, Pair, Request, Tunnel, Upstream, assert_bytes,
    run, show,
};
use tempfile::TempDir;

const FIRST: &str = "data: {\"a\":1}\n\n";
const DONE: &str = "data: [DONE]\n\n";

/// A pair of files that can be replaced.
struct Files(TempDir);

impl Files {
    fn new(pair: &Pair) -> Self {
        let files = Self(TempDir::new().expect("a temporary directory"));
        files.replace(pair);
        files
    }

    fn chain(&self) -> PathBuf {
        self.0.path().join("chain.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key.pem")
    }

    fn replace(&self, pair: &Pair) {
        std::fs::write(self.chain(), &pair.chain).expect("a file can be written");
        std::fs::write(self.key(), &pair.key).expect("a file can be written");
    }

    fn variables(&self) -> [(&'static str, String); 2] {
        [("TLS_CERT_FILE", text(&self.chain())), ("TLS_KEY_FILE", text(&self.key()))]
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("the path is text").to_owned()
}

/// A gateway that speaks TLS.
fn start(upstream: &Upstream, files: &Files) -> Gateway {
    let [chain, key] = files.variables();
    Gateway::before(upstream).env(chain.0, &chain.1).env(key.0, &key.1).start()
}

fn held_upstream(gate: &Gate) -> Upstream {
    let gate = gate.clone();
    Upstream::new(move |exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        gate.wait();
        exchange.chunk(DONE);
        exchange.last_chunk();
    })
}

#[test]
fn answers_are_the_same_inside_and_each_piece_comes_at_once() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let versions =
        [(&rustls::version::TLS12, ProtocolVersion::TLSv1_2), (&rustls::version::TLS13, ProtocolVersion::TLSv1_3)];
    for (version, spoken) in versions {
        let gate = Gate::new();
        let upstream = held_upstream(&gate);
        let gateway = start(&upstream, &files);
        let tunnel = Tunnel::with(gateway.address, &authority, &[version], &["h2", "http/1.1"]);
        let mut client = tunnel.client();
        client.send(Request::chat(CHAT_STREAM).bytes());
        let mut answer = client.head();
        client.expect_body(FIRST);
        gate.open();
        client.rest(&mut answer);
        assert_eq!((answer.status, answer.end), (200, End::Complete));
        assert_bytes(&answer.body, DONE, "the rest");
        // The connection lives on.
        assert_eq!(client.request(&Request::get("/health")).status, 200);
        let handshake = tunnel.handshake(0).expect("they agree");
        assert_eq!(handshake.version, Some(spoken));
        assert_eq!(handshake.alpn.as_deref(), Some(&b"http/1.1"[..]));
        assert_eq!(gateway.wait_for_access(0)["outcome"], "completed");
    }
}

#[test]
fn pages_say_https_even_on_this_machine() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let gateway = start(&Upstream::queued(), &files);
    let tunnel = Tunnel::to(gateway.address, &authority);
    let mut client = tunnel.client();
    client.send("GET /docs HTTP/1.1\r\nhost: localhost:8443\r\n\r\n");
    let page = client.response();
    assert!(String::from_utf8_lossy(&page.body).contains("https://localhost:8443/v1"));
}

#[test]
fn large_bodies_pass_both_ways_and_a_slow_reader_gets_every_byte() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|number| number.to_le_bytes()).collect();
    let answer = large.clone();
    let upstream = Upstream::new(move |exchange| exchange.json(&answer));
    let gateway = start(&upstream, &files);
    let tunnel = Tunnel::to(gateway.address, &authority);
    let question = format!(r#"{{"model":"flash","messages":[],"x":"{}"}}"#, "y".repeat(10_000_000));
    let mut client = tunnel.client();
    client.send(Request::chat(&question).bytes());
    let mut answer = client.head();
    client.rest(&mut answer);
    assert_eq!(answer.end, End::Complete);
    assert_bytes(&answer.body, &large, "the answer");
    let sent = upstream.only_request();
    assert_bytes(&sent.body, question.replacen("flash", "google/gemini-2.5-flash", 1), "the question");
}

#[test]
fn sessions_are_resumed_and_clients_without_alpn_are_served() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let gateway = start(&upstream, &files);
    let tunnel = Tunnel::with(gateway.address, &authority, rustls::ALL_VERSIONS, &[]);
    assert_eq!(tunnel.client().request(&Request::chat(CHAT)).status, 200);
    assert_eq!(tunnel.client().request(&Request::chat(CHAT)).status, 200);
    assert_eq!(tunnel.handshake(0).expect("they agree").kind, Some(HandshakeKind::Full));
    let second = tunnel.handshake(1).expect("they agree");
    assert_eq!((second.kind, second.alpn), (Some(HandshakeKind::Resumed), None));
}

#[test]
fn clients_that_speak_something_else_are_told_so() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let gateway = start(&upstream, &files);
    // HTTP/2 only.
    let tunnel = Tunnel::with(gateway.address, &authority, rustls::ALL_VERSIONS, &["h2"]);
    let _client = tunnel.client();
    let refusal = tunnel.handshake(0).expect_err("no protocol in common");
    assert!(refusal.contains("NoApplicationProtocol"), "{refusal}");
    // No TLS at all: an end at once, and not a byte that could be taken for an answer.
    let mut plain = Client::connect(gateway.address);
    plain.send(Request::chat(CHAT).bytes());
    let said = plain.raw_to_end();
    assert!(!said.starts_with(b"HTTP"), "{}", show(said));
    assert_eq!(upstream.connections(), 0);
}

/// The first words of a client that knows no version after this one and all else that is needed, and what it is told.
fn told_to_a_client_of(version: [u8; 2], address: SocketAddr) -> [u8; 7] {
    let mut hello = vec![version[0], version[1]];
    hello.extend_from_slice(&[7; 32]); // random
    hello.push(0); // no session
    hello.extend_from_slice(&[0, 6, 0xc0, 0x2b, 0xc0, 0x09, 0x00, 0x2f]); // with ECDHE: AES-GCM, AES-CBC; with RSA
    hello.extend_from_slice(&[1, 0]); // no compression
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..], // groups: P-256
        &[0, 11, 0, 2, 1, 0],            // points: uncompressed
        &[0, 13, 0, 4, 0, 2, 4, 3],      // signatures: ECDSA with P-256 and SHA-256
        &[0, 23, 0, 0],                  // extended master secret
    ]
    .concat();
    hello.extend_from_slice(&[0, extensions.len() as u8]);
    hello.extend_from_slice(&extensions);
    let mut message = vec![1, 0, 0, hello.len() as u8];
    message.extend_from_slice(&hello);
    let mut record = vec![22, 3, 0, 0, message.len() as u8];
    record.extend_from_slice(&message);
    let mut stream = TcpStream::connect(address).expect("the gateway accepts connections");
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout can be set");
    stream.write_all(&record).expect("the gateway reads");
    let mut told = [0; 7];
    stream.read_exact(&mut told).expect("the gateway says something");
    told
}

#[test]
fn old_protocols_are_refused() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let gateway = start(&upstream, &files);
    for version in [[3, 0], [3, 1], [3, 2]] {
        let told = told_to_a_client_of(version, gateway.address);
        // An alert, fatal: protocol_version (70).
        assert_eq!((told[0], &told[5..]), (21, &[2, 70][..]), "{version:?}: {}", show(told));
    }
    // The same words with TLS 1.2 are understood: a handshake record with a ServerHello.
    let told = told_to_a_client_of([3, 3], gateway.address);
    assert_eq!((told[0], told[5]), (22, 2), "{}", show(told));
}

#[test]
fn a_handshake_that_does_not_go_on_is_ended() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let gateway = start(&upstream, &files);
    let mut silent = Client::connect(gateway.address);
    let mut halting = Client::connect(gateway.address);
    halting.send([22, 3, 1, 1, 0, 1]);
    // Others do not wait for them.
    assert_eq!(Tunnel::to(gateway.address, &authority).client().request(&Request::chat(CHAT)).status, 200);
    silent.assert_closed();
    halting.assert_closed();
}

#[test]
fn a_new_certificate_is_taken_without_a_restart_and_running_streams_stay() {
    let authority = Authority::new();
    let (old, new) = (authority.issue(), authority.issue());
    let files = Files::new(&old);
    let gate = Gate::new();
    let upstream = held_upstream(&gate);
    let gateway = start(&upstream, &files);
    let before = Tunnel::to(gateway.address, &authority);
    let mut client = before.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body(FIRST);

    // What cannot be used changes nothing, and is told without a word of the file.
    std::fs::write(files.key(), "S3CRET is no key").expect("a file can be written");
    let told = gateway.wait_for_log("the broken key", |line| line["severity"] == "ERROR");
    assert_eq!(
        told["message"],
        "TLS_KEY_FILE: has no private key in PEM form, or one that cannot be used (RSA with 2048, 3072 or 4096 bits, \
         ECDSA on P-256 or P-384 with its public key and Ed25519 can, encrypted keys cannot); the certificate in use stays"
    );
    let during = Tunnel::to(gateway.address, &authority);
    assert_eq!(during.client().request(&Request::get("/health")).status, 200);
    assert_eq!(during.handshake(0).expect("they agree").certificate, Some(old.der()));

    files.replace(&new);
    gateway.wait_for_log("the new certificate", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("new certificate in use, valid until"))
    });
    let after = Tunnel::to(gateway.address, &authority);
    assert_eq!(after.client().request(&Request::get("/health")).status, 200);
    assert_eq!(after.handshake(0).expect("they agree").certificate, Some(new.der()));

    gate.open();
    client.rest(&mut answer);
    assert_bytes(&answer.body, DONE, "the stream that began with the old certificate");
    assert_eq!(answer.end, End::Complete);
}

#[test]
fn a_certificate_whose_time_has_not_come_is_told() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue_for_later());
    let gateway = start(&Upstream::new(|_| {}), &files);
    let told = gateway.wait_for_log("the certificate of the future", |line| line["severity"] == "ERROR");
    assert_eq!(
        told["message"],
        "TLS_CERT_FILE: the certificate is valid only from 2999-01-01T00:00:00Z, so clients refuse it"
    );
}

#[test]
fn a_hang_up_inside_tls_ends_the_request_upstream() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let gate = Gate::new();
    let upstream = held_upstream(&gate);
    let gateway = start(&upstream, &files);
    let tunnel = Tunnel::to(gateway.address, &authority);
    let mut client = tunnel.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    client.head();
    client.expect_body(FIRST);
    drop(client);
    assert_eq!(gateway.wait_for_access(0)["outcome"], "client_hung_up");
    gate.open();
}

#[test]
fn a_stream_that_breaks_upstream_is_cut_visibly_inside_tls_too() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| {
        exchange.sse_head();
        exchange.chunk(FIRST);
        exchange.close();
    });
    let gateway = start(&upstream, &files);
    let tunnel = Tunnel::to(gateway.address, &authority);
    let mut client = tunnel.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let answer = client.response();
    assert_ne!(answer.end, End::Complete);
    let told = String::from_utf8(answer.body).expect("text");
    assert!(told.starts_with(FIRST) && told.contains("\"code\":\"upstream_broke\""), "{told}");
}

#[test]
fn a_stop_lets_streams_inside_tls_finish() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let gate = Gate::new();
    let upstream = held_upstream(&gate);
    let mut gateway = start(&upstream, &files);
    let tunnel = Tunnel::to(gateway.address, &authority);
    let mut client = tunnel.client();
    client.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = client.head();
    client.expect_body(FIRST);
    let _half_way = Client::connect(gateway.address);
    gateway.signal("TERM");
    gateway.wait_for_log("the stop", |line| line["message"] == "stopping: running requests may finish");
    gate.open();
    client.rest(&mut answer);
    assert_eq!(answer.end, End::Complete);
    assert!(gateway.wait_exit().success());
}

#[test]
fn the_plain_port_leads_browsers_over_and_refuses_the_api() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let upstream = Upstream::new(|exchange| exchange.json("{}"));
    let [chain, key] = files.variables();
    let builder = Gateway::before(&upstream).env(chain.0, &chain.1).env(key.0, &key.1);
    let gateway = builder.env("HTTP_REDIRECT_PORT", "0").start();
    let line = gateway.wait_for_log("the redirect", |line| {
        line["message"].as_str().is_some_and(|message| message.starts_with("redirecting to https from http://"))
    });
    let address = line["message"].as_str().and_then(|message| message.rsplit('/').next()).expect("an address");
    let address: SocketAddr = address.parse().expect("an address");
    let port = gateway.address.port();
    let ask = |request: Request| Client::connect(address).request(&request);

    let moved = ask(Request::get("/docs?x=1"));
    assert_eq!(moved.status, 308);
    assert_eq!(moved.header("location"), Some(format!("https://gateway.test:{port}/docs").as_str()));
    assert_eq!(ask(Request::new("HEAD", "/")).status, 308);
    for refused in [
        Request::chat(CHAT),
        Request::get("/v1/models").key(support::KEY),
        Request::new("POST", "/"),
        Request::get("//evil.example/x"),
        Request::get("/\\evil.example"),
    ] {
        let answer = ask(refused);
        answer.assert_error(403, "https_required");
        assert!(answer.header("location").is_none());
    }
    let no_host = (400, "bad_request");
    let another = (403, "https_required");
    for (hostile, (status, code)) in [
        ("user@evil.example", no_host),
        ("evil.example/", no_host),
        ("evil.example:0", another),
        ("evil.example:99999", another),
        ("-evil.example", another),
        ("a..b", another),
    ] {
        let mut client = Client::connect(address);
        client.send(format!("GET / HTTP/1.1\r\nhost: {hostile}\r\n\r\n"));
        let answer = client.response();
        answer.assert_error(status, code);
        assert!(answer.header("location").is_none());
    }
    // A full name is the same one.
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nhost: Gateway.TEST.:80\r\n\r\n");
    assert_eq!(client.response().header("location"), Some(format!("https://gateway.test:{port}/").as_str()));
    assert_eq!(upstream.connections(), 0);
    // Its log line knows no key and no path of the client's.
    assert_eq!(gateway.log_of(&moved)["httpRequest"]["requestUrl"], "redirect");
}

#[test]
fn certificates_that_cannot_be_used_are_named_at_start() {
    let authority = Authority::new();
    let files = Files::new(&authority.issue());
    let other = authority.issue();
    let keys = support::gateway::keys_json();
    let judge = |variables: &[(&str, &str)]| {
        let mut environment = vec![("API_KEYS_JSON", keys.as_str()), ("GOOGLE_CLOUD_PROJECT", "p")];
        environment.extend_from_slice(variables);
        let output = run(&["check"], &environment);
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let [chain, key] = files.variables();
    let good = [(chain.0, chain.1.as_str()), (key.0, key.1.as_str())];
    assert_eq!(judge(&good).0, Some(0));
    assert!(judge(&good[..1]).1.starts_with("TLS_KEY_FILE: is required with TLS_CERT_FILE"));
    std::fs::write(files.key(), &other.key).expect("a file can be written");
    assert_eq!(
        judge(&good),
        (Some(64), "TLS_KEY_FILE: has a key that does not belong to the certificate\n".to_owned())
    );
    // Of a kind that rustls cannot sign with here.
    let curve = ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521", "-out", &text(&files.key())];
    assert!(Command::new("openssl").args(curve).output().expect("openssl is there").status.success());
    let (code, said) = judge(&good);
    assert!(
        code == Some(64) && said.contains("or one that cannot be used (RSA with 2048, 3072 or 4096 bits, ECDSA"),
        "{said}"
    );
    std::fs::write(files.chain(), "S3CRET").expect("a file can be written");
    let (code, said) = judge(&good);
    assert!(code == Some(64) && said.starts_with("TLS_CERT_FILE: has no certificate") && !said.contains("S3CRET"));
    std::fs::remove_file(files.chain()).expect("it is there");
    assert!(judge(&good).1.starts_with("TLS_CERT_FILE: names a file that cannot be read"));
    // Opening these would wait for ever.
    let pipe = files.0.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there").success());
    for other in [text(&pipe), text(files.0.path()), "/dev/zero".to_owned()] {
        let (code, said) = judge(&[("TLS_CERT_FILE", &other), good[1]]);
        let expected = "TLS_CERT_FILE: names a file that cannot be read: not a regular file\n";
        assert_eq!((code, said.as_str()), (Some(64), expected), "{other}");
    }
    let (code, said) = judge(&[("ACME_DOMAINS", "ai.example.com")]);
    assert!(code == Some(64) && said.starts_with("ACME_CACHE_DIR: is required with ACME_DOMAINS"), "{said}");
}
