//! `ai-proxy keys`: what it does to a file, what it shows, and what it refuses.
mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Output;
use std::thread;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use support::{CHAT, DEADLINE, DISABLED_KEY, Gateway, KEY, Request, SECOND_KEY, Upstream, run, run_with_input, show};
use tempfile::TempDir;

fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder with a keys file, and the command on it.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn empty() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn with(content: &str) -> Self {
        let desk = Self::empty();
        desk.put(content);
        desk
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("api-keys.json")
    }

    fn put(&self, content: &str) {
        fs::write(self.file(), content).expect("a file can be written");
    }

    fn text(&self) -> String {
        fs::read_to_string(self.file()).expect("the file is there")
    }

    fn entries(&self) -> Vec<Value> {
        serde_json::from_str(&self.text()).expect("a list")
    }

    /// The command with this file in the environment.
    fn keys(&self, words: &[&str]) -> Output {
        let file = self.file();
        run(&[&["keys"], words].concat(), &[("API_KEYS_FILE", file.to_str().expect("the path is text"))])
    }

    #[track_caller]
    fn does(&self, words: &[&str]) -> String {
        let output = self.keys(words);
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", show(&output.stderr));
        assert_eq!(show(&output.stderr), "", "{words:?}");
        let names: Vec<_> =
            fs::read_dir(self.folder.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["api-keys.json"], "nothing is left behind");
        String::from_utf8(output.stdout).expect("text")
    }

    /// Refused, with the file as it was and nothing on stdout.
    #[track_caller]
    fn refuses(&self, words: &[&str], code: i32) -> String {
        let before = fs::read(self.file()).ok();
        let output = self.keys(words);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {}{}", show(&output.stdout), show(&output.stderr));
        assert_eq!(fs::read(self.file()).ok(), before, "{words:?} changed the file");
        assert_eq!(show(&output.stdout), "", "{words:?}");
        String::from_utf8(output.stderr).expect("text")
    }
}

/// The only key that a text has in it.
#[track_caller]
fn key_in(told: &str) -> String {
    let keys: Vec<&str> = told.split_whitespace().filter(|word| word.contains("sk_live_")).collect();
    let [key] = keys[..] else { panic!("one key, once: {told}") };
    assert_eq!(key.len(), "sk_live_".len() + 43, "{told}");
    key.to_owned()
}

#[test]
fn a_new_key_is_shown_once_and_only_its_digest_is_kept() {
    let desk = Desk::empty();
    let options = ["--expires", "90d", "--models=flash,pro-preview", "--rpm", "60", "--max-concurrent=4"];
    let told = desk.does(
        &[&["new", "ci"][..], &options, &["--tokens-per-day", "1000000", "--tokens-if-unknown=9", "--metrics"]]
            .concat(),
    );
    let key = key_in(&told);
    assert_eq!(fs::metadata(desk.file()).expect("a file").mode() & 0o777, 0o600);
    assert!(!desk.text().contains(&key));
    let [entry] = &desk.entries()[..] else { panic!("one entry") };
    let expires: Timestamp = entry["expires_at"].as_str().expect("a time").parse().expect("a time");
    let days = expires.duration_since(Timestamp::now()).as_hours() / 24;
    assert!((89..=90).contains(&days), "{expires}");
    let mut rest = entry.clone();
    rest.as_object_mut().expect("an object").remove("expires_at");
    assert_eq!(
        rest,
        json!({"id": "ci", "key_sha256": sha256(&key), "enabled": true, "models": ["flash", "pro-preview"],
            "metrics": true, "rpm": 60, "max_concurrent": 4, "tokens_per_day": 1_000_000, "tokens_if_unknown": 9})
    );
    // The gateway takes it.
    let upstream = Upstream::queued();
    let file = desk.file();
    let gateway = Gateway::before(&upstream)
        .without("API_KEYS_JSON")
        .env("API_KEYS_FILE", file.to_str().expect("the path is text"))
        .start();
    let answer = gateway.request(&Request::new("POST", support::CHAT_PATH).key(&key).body(CHAT));
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("60"));
    // A second one for another id; the same id is rotated instead.
    assert!(desk.refuses(&["new", "ci"], 1).contains("keys rotate"));
    let plain = key_in(&desk.does(&["new", "other", "--plain"]));
    assert!(desk.entries()[1] == json!({"id": "other", "key": plain, "enabled": true}));
    gateway.wait_for_message("API_KEYS_FILE has changed and is in use: 2 keys", 0);
    assert_eq!(gateway.request(&Request::get("/v1/models").key(&plain)).status, 200);
}

#[test]
fn without_a_file_an_entry_is_printed() {
    for (words, field) in [(&["keys", "new", "me"][..], "key"), (&["keys", "new", "me", "--hashed"], "key_sha256")] {
        let output = run(words, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", show(&output.stderr));
        let told = String::from_utf8(output.stdout).expect("text");
        let key = told.lines().find_map(|line| line.strip_prefix("key    ")).expect("a key").to_owned();
        let entry = told.lines().find_map(|line| line.strip_prefix("entry  ")).expect("an entry");
        let entry: Value = serde_json::from_str(entry).expect("JSON");
        let expected = if field == "key" { key.clone() } else { sha256(&key) };
        assert_eq!(entry[field], expected.as_str());
    }
    let output = run(&["keys", "list"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(show(&output.stderr).contains("--file"));
}

#[test]
fn a_file_is_named_by_option_or_variable() {
    let (one, two) = (Desk::empty(), Desk::empty());
    let file = two.file();
    one.keys(&["new", "a", "--file", file.to_str().expect("the path is text")]);
    assert!(!one.file().exists() && two.file().exists());
}

fn team() -> Desk {
    Desk::with(&format!(
        "[\n    {{\"id\": \"a\", \"key\": \"{KEY}\", \"rpm\": 5}},\n    {{\"id\": \"b\", \"key\": \"{SECOND_KEY}\"}},\n    {{\"id\": \"a\", \"key\": \"{DISABLED_KEY}\", \"enabled\": false}}\n]\n"
    ))
}

#[test]
fn keys_are_disabled_and_enabled_in_place() {
    let desk = team();
    let before = desk.text();
    desk.does(&["disable", "b"]);
    let entry = format!("{{\"id\": \"b\", \"key\": \"{SECOND_KEY}\"}}");
    let disabled = format!("{{\"id\": \"b\", \"key\": \"{SECOND_KEY}\",\"enabled\": false}}");
    assert_eq!(desk.text(), before.replace(&entry, &disabled));
    desk.does(&["disable", "b"]);
    desk.does(&["enable", "b"]);
    assert_eq!(desk.text(), before.replace(&entry, &disabled.replace("false", "true")));
    // All keys of an id at once, and back one by one.
    let told = desk.does(&["disable", "a"]);
    assert_eq!(told.matches("is disabled").count(), 1, "{told}");
    assert!(desk.refuses(&["enable", "a"], 2).contains(&sha256(DISABLED_KEY)[..8]));
    desk.does(&["enable", "a", "--key", &sha256(KEY)[..8]]);
    assert_eq!(desk.entries().iter().map(|entry| entry["enabled"] != false).collect::<Vec<_>>(), [true, true, false]);
    for (words, code) in [
        (&["disable", "nobody"][..], 1),
        (&["disable", "a", "--key", "abc"], 2),
        (&["disable", "a", "--key", "0000"], 1),
        (&["disable", "b", "--key", &sha256(KEY)[..8]], 1),
    ] {
        desk.refuses(words, code);
    }
    // The last ones too: a key that is known to others has to go, whatever that means.
    desk.does(&["disable", "a"]);
    assert!(desk.does(&["disable", "b"]).contains("None is enabled"));
}

#[test]
fn a_rotation_overlaps_as_long_as_it_should() {
    let desk = team();
    let key = key_in(&desk.does(&["rotate", "a", "--overlap", "24h"]));
    let entries = desk.entries();
    assert_eq!(entries[3], json!({"id": "a", "key_sha256": sha256(&key), "enabled": true, "rpm": 5}));
    let end: Timestamp = entries[0]["expires_at"].as_str().expect("a time").parse().expect("a time");
    let left = end.duration_since(Timestamp::now());
    assert!(left > SignedDuration::from_hours(23) && left <= SignedDuration::from_hours(24), "{left}");
    assert_eq!((&entries[1]["expires_at"], &entries[2]["expires_at"]), (&Value::Null, &Value::Null));
    // The next one ends the newest; what ends earlier already stays.
    desk.does(&["rotate", "a", "--overlap", "48h"]);
    assert_eq!(desk.entries()[0], entries[0]);
    assert!(desk.entries()[3]["expires_at"].is_string());
    // Without an overlap the old key works on, and the text says how to end it.
    let told = desk.does(&["rotate", "b", "--plain"]);
    assert!(told.contains(&format!("keys disable b --key {}", &sha256(SECOND_KEY)[..8])), "{told}");
    assert_eq!(desk.entries()[1], json!({"id": "b", "key": SECOND_KEY}));

    // A key that ends takes a decision about the new one's end.
    let ends = Desk::with(&json!([{"id": "a", "key": KEY, "expires_at": "2999-01-01T00:00:00Z"}]).to_string());
    assert!(ends.refuses(&["rotate", "a"], 2).contains("--expires"));
    ends.does(&["rotate", "a", "--expires", "never", "--overlap", "0s"]);
    assert_eq!(ends.entries()[1]["expires_at"], Value::Null);
    assert!(ends.does(&["list"]).contains("expired"));
    assert!(ends.does(&["prune"]).contains(&sha256(KEY)[..8]));
    assert_eq!(ends.entries().len(), 1);
    let gone = Desk::with(&json!([{"id": "a", "key": KEY, "enabled": false}]).to_string());
    gone.refuses(&["rotate", "a"], 1);
}

#[test]
fn prune_removes_what_is_over_and_never_all() {
    let desk = Desk::with(
        &json!([
            {"id": "gone", "key": DISABLED_KEY, "enabled": false},
            {"id": "old", "key": SECOND_KEY, "expires_at": "2020-01-01T00:00:00Z"},
            {"id": "here", "key": KEY},
        ])
        .to_string(),
    );
    let told = desk.does(&["prune"]);
    assert!(told.contains("of gone is removed: it was disabled") && told.contains("of old is removed: it was expired"));
    assert_eq!(desk.entries(), [json!({"id": "here", "key": KEY})]);
    let before = desk.text();
    assert!(desk.does(&["prune"]).contains("nothing to remove"));
    assert_eq!(desk.text(), before);
    desk.does(&["disable", "here"]);
    assert!(desk.refuses(&["prune"], 1).contains("no key would be left"));
}

#[test]
fn a_list_shows_no_key_and_draws_nothing() {
    let desk = Desk::with(
        &json!([
            {"id": "a", "key": KEY, "rpm": 5, "max_concurrent": 6, "tokens_per_day": 7, "tokens_if_unknown": 8,
                "models": ["flash"], "metrics": true},
            {"id": "evil \u{202e}id", "key_sha256": sha256(SECOND_KEY), "expires_at": "2020-01-01T00:00:00Z"},
            {"id": "c", "key": DISABLED_KEY, "enabled": false},
        ])
        .to_string(),
    );
    let told = desk.does(&["list"]);
    let rows: Vec<Vec<&str>> =
        told.lines().map(|line| line.split("  ").filter(|cell| !cell.is_empty()).map(str::trim).collect()).collect();
    let limits = ["RPM", "CONCURRENT", "TOKENS/DAY", "IF UNKNOWN"];
    let head = [&["ID", "STATE", "SHA-256", "STORED", "EXPIRES"][..], &limits, &["METRICS", "MODELS"]].concat();
    assert_eq!(rows[0], head);
    assert_eq!(rows[1], ["a", "enabled", &sha256(KEY)[..8], "key", "-", "5", "6", "7", "8", "yes", "flash"]);
    let second = ["\"evil \\u{202e}id\"", "expired", &sha256(SECOND_KEY)[..8], "digest", "2020-01-01T00:00:00Z"];
    assert_eq!(rows[2][..5], second);
    assert_eq!(rows[3][1], "disabled");
    assert!(!told.contains("sk_live_") && !told.contains(&sha256(SECOND_KEY)));
    // The same for programs.
    let told = desk.does(&["list", "--json"]);
    assert!(!told.contains("sk_live_") && !told.contains(&sha256(SECOND_KEY)));
    let entry = |id: &str, state: &str, key: &str, stored: &str| {
        json!({"id": id, "state": state, "sha256": &sha256(key)[..8], "stored": stored, "expires_at": null, "models": null,
            "metrics": false, "rpm": null, "max_concurrent": null, "tokens_per_day": null, "tokens_if_unknown": null})
    };
    let mut expected = [
        entry("a", "enabled", KEY, "key"),
        entry("evil \u{202e}id", "expired", SECOND_KEY, "digest"),
        entry("c", "disabled", DISABLED_KEY, "key"),
    ];
    for (field, value) in [("rpm", 5), ("max_concurrent", 6), ("tokens_per_day", 7), ("tokens_if_unknown", 8)] {
        expected[0][field] = value.into();
    }
    (expected[0]["models"], expected[0]["metrics"]) = (json!(["flash"]), true.into());
    expected[1]["expires_at"] = "2020-01-01T00:00:00Z".into();
    assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON"), Value::from(expected.to_vec()));
}

#[test]
fn a_long_list_is_changed_in_a_moment() {
    const ENTRIES: usize = 20_000;
    let key = |number: usize| format!("sk_live_{number:032}");
    let entries = (0..ENTRIES)
        .map(|number| json!({"id": format!("id-{number}"), "key": key(number), "enabled": number % 2 == 0}));
    let desk = Desk::with(&entries.collect::<Value>().to_string());
    let began = Instant::now();
    assert!(desk.does(&["hash"]).starts_with(&format!("{ENTRIES} keys are")));
    let entries = desk.entries();
    assert!((0..ENTRIES).all(|number| entries[number]["key_sha256"] == sha256(&key(number))));
    desk.does(&["prune"]);
    let left: Vec<Value> = entries.into_iter().step_by(2).collect();
    assert_eq!(desk.entries(), left);
    assert!(began.elapsed() < DEADLINE, "{:?}", began.elapsed());
}

#[test]
fn a_key_in_the_place_of_an_id_goes_nowhere() {
    let desk = team();
    for action in ["new", "hash", "disable", "enable", "rotate"] {
        let said = desk.refuses(&[action, "sk_live_canary_0123456789abcdef"], 2);
        assert!(said.contains("looks like a key") && !said.contains("canary"), "{action}: {said}");
    }
    // Nor in a list that somebody writes.
    for (key, problem) in [(KEY, "looks like a key"), ("correct-horse-battery", "is a key of the list")] {
        let twice = json!([{"id": "a", "key": key}, {"id": key, "key": SECOND_KEY}]).to_string();
        let said = Desk::with(&twice).refuses(&["list"], 64);
        assert!(said.contains(&format!("entry 2: 'id' {problem}")) && !said.contains(key), "{said}");
    }
}

#[test]
fn keys_become_digests() {
    let desk = team();
    desk.does(&["hash", "b"]);
    assert_eq!(desk.entries()[1], json!({"id": "b", "key_sha256": sha256(SECOND_KEY)}));
    assert!(desk.text().contains(KEY));
    assert!(desk.does(&["hash"]).starts_with("2 keys are"));
    assert!(!desk.text().contains("sk_live_"));
    assert!(desk.does(&["hash"]).starts_with("0 keys are"));
    assert!(desk.refuses(&["hash", "nobody"], 1).contains("no entry with the id nobody"));
    let nowhere = run(&["keys", "hash", "b"], &[]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(show(&nowhere.stderr).contains("which file?"), "{}", show(&nowhere.stderr));

    let hash = |input: &str| run_with_input(&["keys", "hash"], &[], input);
    for input in [KEY.to_owned(), format!("{KEY}\n"), format!("  {KEY}\r\nmore\n")] {
        assert_eq!(show(hash(&input).stdout), format!("{}\\n", sha256(KEY)));
    }
    for input in ["", "\n", "short\n", "sk_live_canary 0123456789abcdef\n", "sk_live_canary_0123456789ä\n"] {
        let output = hash(input);
        assert_eq!(output.status.code(), Some(2), "{input}");
        assert!(output.stdout.is_empty() && !show(&output.stderr).contains("canary"), "{input}");
    }
    let file = desk.file();
    let environment = [("API_KEYS_FILE", file.to_str().expect("the path is text"))];
    let output = run_with_input(&["keys", "hash", "-"], &environment, KEY);
    assert_eq!(show(output.stdout), format!("{}\\n", sha256(KEY)));
}

#[test]
fn a_file_that_is_no_list_is_never_touched() {
    let huge = format!("[{}]", " ".repeat(17 << 20));
    let deep = "[".repeat(200_000);
    let contents: &[&[u8]] = &[
        b"",
        b" \n",
        b"[",
        b"[]",
        b"{}",
        b"null",
        b"[1]",
        b"\xff\xfe[\0]\0",
        b"\xef\xbb\xbf[]",
        br#"[{"id":"a","key":"canary-key-0123456789"},]"#,
        br#"[{"id":"a","key":"canary-key-0123456789","unknown":1}]"#,
        br#"[{"id":"a","key":"canary-key-0123456789","id":"b"}]"#,
        br#"[{"id":"a","key":"canary-key-0123456789"}] x"#,
        br#"[{"id":"a","key":"canary-key-0123456789"},{"id":"b","key":"canary-key-0123456789"}]"#,
        b"API_KEY=canary-key-0123456789",
        huge.as_bytes(),
        deep.as_bytes(),
    ];
    for content in contents {
        let desk = Desk::empty();
        fs::write(desk.file(), content).expect("written");
        for words in
            [&["new", "x"][..], &["list"], &["hash"], &["disable", "a"], &["enable", "a"], &["rotate", "a"], &["prune"]]
        {
            let said = desk.refuses(words, 64);
            assert!(said.contains("api-keys.json: ") && !said.contains("canary"), "{words:?}: {said}");
        }
    }
    let marked = Desk::with(&format!("\u{feff}[{{\"id\":\"a\",\"key\":\"{KEY}\"}}]"));
    assert!(marked.refuses(&["list"], 64).contains("byte order mark"));
    let desk = Desk::empty();
    for words in [&["list"][..], &["hash"], &["disable", "a"], &["prune"]] {
        assert!(desk.refuses(words, 1).contains("entity not found"), "{words:?}");
    }
    fs::create_dir(desk.file()).expect("a folder");
    assert!(!desk.keys(&["new", "a"]).status.success());
}

#[test]
fn words_that_would_break_the_list_are_refused() {
    let desk = team();
    for words in [
        &["new", ""][..],
        &["new", "a\u{7}"],
        &["new", "x", "--rpm", "0"],
        &["new", "x", "--rpm", "-5"],
        &["new", "x", "--models", ""],
        &["new", "x", "--models", "flash,flash"],
        &["new", "x", "--expires", "2030-01-01"],
        &["new", "x", "--tokens-per-day", "99999999999999999999"],
        &["new", "x", "--tokens-if-unknown", "5"],
        &["rotate", "a", "--overlap", "soon"],
        &["list", "--rpm", "5"],
    ] {
        desk.refuses(words, 2);
    }
}

#[test]
fn a_link_stays_a_link_and_the_mode_what_it_was() {
    let desk = team();
    let link = desk.folder.path().join("link.json");
    symlink("api-keys.json", &link).expect("a link");
    fs::set_permissions(desk.file(), fs::Permissions::from_mode(0o640)).expect("a mode");
    let inode = fs::metadata(desk.file()).expect("a file").ino();
    let output = run(&["keys", "disable", "b", "--file", link.to_str().expect("the path is text")], &[]);
    assert_eq!(output.status.code(), Some(0), "{}", show(&output.stderr));
    assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
    let metadata = fs::metadata(desk.file()).expect("a file");
    assert_eq!((metadata.mode() & 0o777, metadata.ino() == inode), (0o640, false), "another file of the same mode");
    assert_eq!(desk.entries()[1]["enabled"], false);
}

#[test]
fn editors_wait_for_each_other_and_lose_nothing() {
    let desk = team();
    thread::scope(|scope| {
        for number in 0..20 {
            let desk = &desk;
            scope.spawn(move || {
                let output = desk.keys(&["new", &format!("id-{number}")]);
                assert_eq!(output.status.code(), Some(0), "{}", show(&output.stderr));
            });
        }
        // A reader sees a whole list at any time.
        for _ in 0..200 {
            let text = desk.text();
            assert!(serde_json::from_str::<Vec<Value>>(&text).is_ok_and(|entries| entries.len() >= 3), "{text}");
        }
    });
    assert_eq!(desk.entries().len(), 23);
}
