//! The keys file: what an entry may say, and how a running gateway takes up a change.
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::gateway::Builder;
use support::{
    CHAT, CHAT_PATH, CHAT_STREAM, DEADLINE, DISABLED_KEY, End, Gate, Gateway, KEY, Request, SECOND_KEY, UNKNOWN_KEY,
    Upstream, run, show,
};
use tempfile::TempDir;

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A keys file as Kubernetes and Cloud Run mount it: a link to a link that is swapped.
struct Mount {
    folder: TempDir,
    versions: AtomicUsize,
}

impl Mount {
    fn new(content: &str) -> Self {
        let mount = Self { folder: tempfile::tempdir().expect("a folder"), versions: AtomicUsize::new(0) };
        mount.put(content);
        symlink("..data/keys.json", mount.file()).expect("a link");
        mount
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("keys.json")
    }

    fn swap(&self, prepare: impl FnOnce(&Path)) {
        let version = format!("..{}", self.versions.fetch_add(1, Ordering::SeqCst));
        let folder = self.folder.path().join(&version);
        fs::create_dir(&folder).expect("a folder");
        prepare(&folder.join("keys.json"));
        let next = self.folder.path().join("..next");
        symlink(&version, &next).expect("a link");
        fs::rename(&next, self.folder.path().join("..data")).expect("the link can be replaced");
    }

    fn put(&self, content: &str) {
        self.swap(|file| fs::write(file, content).expect("a file can be written"));
    }
}

fn before(upstream: &Upstream, mount: &Mount) -> Builder {
    let file = mount.file();
    Gateway::before(upstream).without("API_KEYS_JSON").env("API_KEYS_FILE", file.to_str().expect("the path is text"))
}

fn list(keys: &[&str]) -> String {
    keys.iter().map(|key| json!({"id": "tester", "key": key})).collect::<Value>().to_string()
}

fn models_with(gateway: &Gateway, key: &str) -> u16 {
    gateway.request(&Request::get("/v1/models").key(key)).status
}

const IN_USE: &str = "API_KEYS_FILE has changed and is in use";
const BROKEN: &str = "API_KEYS_FILE has changed and is broken, the keys stay as they were";
const GOOD_AGAIN: &str = "API_KEYS_FILE has changed and is again what it was";

/// All lines of the log whose message begins so.
fn said(gateway: &Gateway, beginning: &str) -> usize {
    let lines = gateway.lines();
    let lines = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(beginning))).count()
}

#[test]
fn a_leaked_file_of_digests_gives_nobody_a_key() {
    let upstream = Upstream::queued();
    let digest = sha256(KEY);
    let content = json!([{"id": "tester", "key_sha256": digest}]).to_string();
    let mount = Mount::new(&content);
    let gateway = before(&upstream, &mount).start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.log_of(&answer)["key_id"], "tester");
    let raw: Vec<u8> = (0..64).step_by(2).filter_map(|at| u8::from_str_radix(&digest[at..at + 2], 16).ok()).collect();
    let base64 = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
    for guess in [
        digest.clone(),
        digest.to_uppercase(),
        format!("sha256:{digest}"),
        format!("sk_live_{digest}"),
        base64(&raw),
        base64(digest.as_bytes()),
        sha256(&digest),
        content,
        "tester".to_owned(),
    ] {
        assert_eq!(models_with(&gateway, &guess), 401, "{guess}");
        let plain = Request::get("/v1/models").header("x-api-key", &guess);
        assert_eq!(gateway.request(&plain).status, 401, "{guess}");
    }
    assert!(!gateway.lines().iter().any(|line| line.contains(&digest) || line.contains(KEY)));
}

#[test]
fn a_key_ends_at_its_time_without_a_reload() {
    let upstream = Upstream::queued();
    let end = Timestamp::now() + SignedDuration::from_millis(1500);
    let entries = json!([
        {"id": "a", "key": KEY, "expires_at": end.to_string()},
        {"id": "b", "key": SECOND_KEY, "expires_at": "2020-01-01T00:00:00Z"},
        {"id": "c", "key": DISABLED_KEY, "expires_at": "2999-12-31T23:59:59.999+14:00"},
    ]);
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &entries.to_string()).start();
    assert_eq!((models_with(&gateway, SECOND_KEY), models_with(&gateway, DISABLED_KEY)), (401, 200));
    let mut client = gateway.client();
    loop {
        let before = Timestamp::now();
        match client.request(&Request::get("/v1/models").key(KEY)).status {
            200 => assert!(before < end, "it is over"),
            401 => break assert!(Timestamp::now() >= end, "it is not over yet"),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn fields_that_make_no_sense_are_told_at_start() {
    for (field, value) in [
        ("key_sha256", json!(sha256(KEY))),
        ("expires_at", json!("2030-01-01")),
        ("models", json!(["unknown"])),
        ("models", json!([])),
        ("rpm", json!(0)),
        ("max_concurrent", json!(-1)),
        ("tokens_per_day", json!(1.5)),
        ("tokens_if_unknown", json!(5)),
        ("tokens_per_minute", json!(1)),
    ] {
        let entries = json!([{"id": "canary", "key": format!("{KEY}-canary"), field: value}]).to_string();
        let output = run(&["check"], &[("GOOGLE_CLOUD_PROJECT", "p"), ("API_KEYS_JSON", &entries)]);
        let said = show(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{field}: {said}");
        assert!(said.starts_with("API_KEYS_JSON: entry 1: ") && !said.contains("canary"), "{field}: {said}");
        assert!(said.contains(field) || said.contains("a field other than"), "{field}: {said}");
    }
    let own_alias = json!([{"id": "a", "key": KEY, "models": ["mine", "flash"], "rpm": 100_000}]).to_string();
    let environment =
        [("GOOGLE_CLOUD_PROJECT", "p"), ("API_KEYS_JSON", &*own_alias), ("MODEL_MINE_ID", "google/gemini-2.5-flash")];
    assert_eq!(run(&["check"], &environment).status.code(), Some(0));
}

#[test]
fn a_change_is_taken_up_and_what_runs_goes_on() {
    let upstream = Upstream::queued();
    let gate = Gate::new();
    let held = gate.clone();
    upstream.then(move |exchange| {
        exchange.sse_head();
        exchange.chunk("data: 1\n\n");
        held.wait();
        exchange.chunk("data: [DONE]\n\n");
        exchange.last_chunk();
    });
    let mount = Mount::new(&list(&[KEY]));
    let gateway = before(&upstream, &mount).start();
    let mut running = gateway.client();
    running.send(Request::chat(CHAT_STREAM).bytes());
    let mut answer = running.head();
    running.expect_body("data: 1\n\n");
    assert_eq!(models_with(&gateway, SECOND_KEY), 401);
    mount.put(&list(&[SECOND_KEY]));
    let line = gateway.wait_for_message(IN_USE, 0);
    assert_eq!(line["message"], format!("{IN_USE}: 1 keys, 1 of them enabled"));
    assert_eq!(line["severity"], "INFO");
    assert_eq!((models_with(&gateway, KEY), models_with(&gateway, SECOND_KEY)), (401, 200));
    gate.open();
    running.rest(&mut answer);
    assert_eq!((answer.end, show(&answer.body)), (End::Complete, "data: [DONE]\\n\\n".to_owned()));
    // The next request of that connection is a new one.
    assert_eq!(running.request(&Request::chat(CHAT)).status, 401);
}

#[test]
fn a_broken_file_keeps_the_keys_and_says_so() {
    let upstream = Upstream::queued();
    let good = list(&[KEY]);
    let mount = Mount::new(&good);
    let gateway = before(&upstream, &mount).start();
    // Once a bearer is held.
    assert_eq!(gateway.chat(CHAT).status, 200);
    let secret = format!("{KEY}-canary");
    type Breaking<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);
    let broken: [Breaking<'_>; 4] = [
        ("cut", &|file| fs::write(file, &good[..good.len() - 1]).expect("written"), "must be a JSON array"),
        ("empty", &|file| fs::write(file, "").expect("written"), "is empty"),
        ("missing", &|_| {}, "cannot be read: entity not found"),
        (
            "an unknown model",
            &|file| {
                let list = json!([{"id": "canary", "key": secret, "models": ["nope"]}, {"id": "tester", "key": KEY}]);
                fs::write(file, list.to_string()).expect("written");
            },
            "entry 1: 'models' names an alias that does not exist",
        ),
    ];
    for (n, (what, prepare, expected)) in broken.iter().enumerate() {
        mount.swap(prepare);
        let line = gateway.wait_for_message(BROKEN, n);
        assert!(line["message"].as_str().is_some_and(|text| text.contains(expected)), "{what}: {line}");
        assert_eq!(line["severity"], "ERROR", "{what}");
        assert_eq!(models_with(&gateway, KEY), 200, "{what}");
        assert_eq!(gateway.get("/readyz").status, 200, "{what}");
    }
    mount.put(&good);
    gateway.wait_for_message(GOOD_AGAIN, 0);
    mount.put(&list(&[KEY, SECOND_KEY]));
    gateway.wait_for_message(IN_USE, 0);
    assert_eq!(models_with(&gateway, SECOND_KEY), 200);
    assert_eq!((said(&gateway, BROKEN), said(&gateway, GOOD_AGAIN)), (broken.len(), 1), "once for each change");
    assert!(!gateway.lines().iter().any(|line| line.contains("canary") || line.contains(KEY)));
}

#[test]
fn the_last_key_can_be_revoked() {
    let upstream = Upstream::queued();
    let mount = Mount::new(&list(&[KEY]));
    let gateway = before(&upstream, &mount).start();
    mount.put(&json!([{"id": "tester", "key": KEY, "enabled": false}]).to_string());
    gateway.wait_for_message(IN_USE, 0);
    assert_eq!(models_with(&gateway, KEY), 401);
    assert_eq!(gateway.get("/health").status, 200);
}

#[test]
fn what_was_done_outlives_a_reload() {
    let upstream = Upstream::queued();
    let limited = |rpm: u32| json!([{"id": "tester", "key": KEY, "rpm": rpm}]).to_string();
    let mount = Mount::new(&limited(2));
    let gateway = before(&upstream, &mount).start();
    assert_eq!([gateway.chat(CHAT).status, gateway.chat(CHAT).status, gateway.chat(CHAT).status], [200, 200, 429]);
    mount.put(&limited(3));
    gateway.wait_for_message(IN_USE, 0);
    assert_eq!([gateway.chat(CHAT).status, gateway.chat(CHAT).status], [200, 429], "one more than before");
    // Nor is anything forgotten while the limit is a lower one.
    mount.put(&limited(1));
    gateway.wait_for_message(IN_USE, 1);
    mount.put(&limited(4));
    gateway.wait_for_message(IN_USE, 2);
    assert_eq!([gateway.chat(CHAT).status, gateway.chat(CHAT).status], [200, 429], "one more than before");
    // Another key of the id does not begin anew either.
    mount.put(&json!([{"id": "tester", "key": SECOND_KEY, "rpm": 4}]).to_string());
    gateway.wait_for_message(IN_USE, 3);
    let request = Request::new("POST", CHAT_PATH).key(SECOND_KEY).body(CHAT);
    gateway.request(&request).assert_error(429, "rate_limit_exceeded");
}

#[test]
fn a_reload_under_load_loses_no_request() {
    let upstream = Upstream::new(|exchange| {
        if show(&exchange.request.body).contains("stream") {
            exchange.sse(["data: {}\n\n", "data: [DONE]\n\n"]);
        } else {
            exchange.json("{}");
        }
    });
    let mount = Mount::new(&list(&[KEY, SECOND_KEY]));
    let gateway = before(&upstream, &mount).start();
    let address = gateway.address;
    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let body = if number % 2 == 0 { CHAT } else { CHAT_STREAM };
                let key = if number % 4 < 2 { KEY } else { SECOND_KEY };
                let request = Request::new("POST", CHAT_PATH).key(key).body(body);
                let mut client = support::Client::connect(address);
                let mut sent = 0;
                while !over.load(Ordering::SeqCst) {
                    let answer = client.request(&request);
                    assert_eq!((answer.status, answer.end), (200, End::Complete), "{}", show(&answer.body));
                    sent += 1;
                    if sent % 50 == 0 {
                        client = support::Client::connect(address);
                    }
                }
                sent
            })
        })
        .collect();
    // The log is full of requests; that a version is in use is seen by a key which only that version has.
    for version in 0..3 {
        let own_key = format!("{UNKNOWN_KEY}-{version}");
        mount.put(&list(&[KEY, &own_key, SECOND_KEY]));
        let until = Instant::now() + DEADLINE;
        while models_with(&gateway, &own_key) != 200 {
            assert!(Instant::now() < until, "version {version} is not taken up");
        }
    }
    over.store(true, Ordering::SeqCst);
    let sent: Vec<usize> = clients.into_iter().map(|client| client.join().expect("no request is lost")).collect();
    assert!(sent.iter().all(|sent| *sent > 0), "{sent:?}");
}

#[test]
fn a_pipe_is_read_once() {
    let upstream = Upstream::queued();
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("keys");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let path = pipe.to_str().expect("the path is text").to_owned();
    let writer = thread::spawn(move || fs::write(&pipe, list(&[KEY])).expect("somebody reads it"));
    let gateway = Gateway::before(&upstream).without("API_KEYS_JSON").env("API_KEYS_FILE", &path).start();
    writer.join().expect("it was read");
    gateway.wait_for_message("API_KEYS_FILE is not a regular file", 0);
    assert_eq!(models_with(&gateway, KEY), 200);
}
