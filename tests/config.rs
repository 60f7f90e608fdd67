//! The command line and the environment: what is judged at start, how it is told, and where it shows.
mod support;

use std::collections::BTreeSet;
use std::process::Output;

use support::gateway::keys_json;
use support::{CHAT, Gateway, KEY, Metadata, Request, Upstream, assert_bytes, run, show};

/// An environment that is good enough for `check`, with changes.
fn check(changes: &[(&str, &str)]) -> Output {
    let keys = keys_json();
    let mut environment = vec![("GOOGLE_CLOUD_PROJECT", "test-project"), ("API_KEYS_JSON", keys.as_str())];
    environment.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    environment.extend_from_slice(changes);
    run(&["check"], &environment)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is text")
}

/// The variables that `output` complains of, in lines `VARIABLE: what is wrong`.
#[track_caller]
fn complaints(output: &Output) -> BTreeSet<String> {
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "stdout {} stderr {stderr}", show(&output.stdout));
    let lines = stderr.lines().map(|line| line.strip_prefix("ai-proxy: ").unwrap_or(line));
    let variables = lines.filter_map(|line| line.split_once(": ")).map(|(name, _)| name.to_owned());
    let variables = variables.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    variables.collect()
}

#[test]
fn good_configuration_passes() {
    let output = check(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", show(&output.stderr));
    assert_bytes(&output.stderr, "", "stderr");
}

#[test]
fn all_problems_are_told_together_and_no_value() {
    let bad = [
        ("PORT", "canary"),
        ("HOST", "canary.example"),
        ("GOOGLE_CLOUD_LOCATION", "can ary/"),
        ("GOOGLE_VERTEX_BASE_URL", "canary://host"),
        ("API_KEYS_JSON", r#"[{"id":"canary","key":"canary"}]"#),
        ("MODEL_FLASH_ID", "canary"),
        ("MODEL_OTHER_ID", "canary/"),
        ("MODEL_ALIASES_JSON", "[\"canary\"]"),
        ("MODEL_FLASH_LOCATION", "can ary"),
        ("CORS_ALLOW_ORIGINS", "canary"),
        ("MAX_BODY_BYTES", "canary"),
        ("BODY_BUDGET_BYTES", "-1canary"),
        ("UPSTREAM_TIMEOUT_SECONDS", "canary"),
        ("UPSTREAM_ERRORS", "canary"),
        ("SHUTDOWN_GRACE_SECONDS", "canary"),
        ("SSE_KEEPALIVE_SECONDS", "canary"),
    ];
    let expected: BTreeSet<String> = bad.iter().map(|(name, _)| (*name).to_owned()).collect();
    for command in [&["check"][..], &[], &["serve"]] {
        let mut environment = bad.to_vec();
        environment.push(("GOOGLE_CLOUD_PROJECT", "test-project"));
        let output = run(command, &environment);
        assert_eq!(complaints(&output), expected, "{command:?}");
        for stream in [&output.stdout, &output.stderr] {
            assert!(!show(stream).to_lowercase().contains("canary"), "a value is told: {}", text(stream));
        }
        // One line each.
        let stderr = text(&output.stderr);
        for name in &expected {
            let lines = stderr.lines().filter(|line| line.contains(&format!("{name}: "))).count();
            assert_eq!(lines, 1, "{name}: {stderr}");
        }
    }
}

#[test]
fn every_bad_value_is_found() {
    let cases: &[(&str, &[&str])] = &[
        ("PORT", &["-1", "65536", "x", "80 80", "0x50", "8080.0"]),
        ("HOST", &["localhost", "1.2.3", "256.0.0.1", "::1::", "0.0.0.0:80"]),
        (
            "GOOGLE_VERTEX_BASE_URL",
            &[
                "localhost",
                "ftp://x",
                "https://",
                "https://host/path",
                "https://host/?q",
                "https://host#f",
                "https://user@host",
                "https://host:port",
                "https://host:99999",
                "https://ho st",
                "//host",
            ],
        ),
        (
            "MODEL_FLASH_ID",
            &["gemini", "/gemini", "google/", "a/b/c", "google/gem ini", "google/gemini?x", "google/\"", "google/ä"],
        ),
        ("MODEL_NEW_ID", &["gemini"]),
        (
            "MODEL_ALIASES_JSON",
            &[
                "x",
                "[]",
                "null",
                "{",
                r#"{"a":1}"#,
                r#"{"a":"no-slash"}"#,
                r#"{"":"google/x"}"#,
                r#"{"a b":"google/x"}"#,
                r#"{"ä":"google/x"}"#,
                r#"{"a":"google/x","a":"google/y"}"#,
                r#"{"a":"google/x"} x"#,
            ],
        ),
        (
            "CORS_ALLOW_ORIGINS",
            &["app.example", "https://app.example/", "https://app.example/path", "https://", "ftp", "https://a b"],
        ),
        ("MAX_BODY_BYTES", &["-1", "x", "1.5", "1k"]),
        ("BODY_BUDGET_BYTES", &["-1", "x"]),
        ("MAX_CONNECTIONS", &["0", "-1", "x", "1073741825"]),
        ("UPSTREAM_TIMEOUT_SECONDS", &["-1", "x", "0"]),
        ("UPSTREAM_ERRORS", &["RAW!", "on", "vertex"]),
        ("SHUTDOWN_GRACE_SECONDS", &["-1", "x"]),
        ("SSE_KEEPALIVE_SECONDS", &["-1", "x", "0", "0.5", "86401"]),
        (
            "API_KEYS_JSON",
            &[
                "x",
                "null",
                "{}",
                "\"x\"",
                "[]",
                "[1]",
                "[[]]",
                r#"[{"id":"a"}]"#,
                r#"[{"key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"","key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"a","key":""}]"#,
                r#"[{"id":"a","key":"0123456789012345678"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","x":1}]"#,
                r#"[{"id":1,"key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"a","key":12345678901234567890}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","enabled":"yes"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","enabled":1}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","enabled":null}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","enabled":false}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789 abcdef"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef\n"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdefä"}]"#,
                r#"[{"id":"a\u0007","key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef"},{"id":"b","key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef"},{"id":"b","key":"sk_live_0123456789abcdef","enabled":false}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef"},]"#,
                r#"[{"id":"a","id":"a","key":"sk_live_0123456789abcdef"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","key":"sk_live_0123456789abcdeg"}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","enabled":false,"enabled":true}]"#,
                r#"[{"id":"a","key":"sk_live_0123456789abcdef","k\u0065y":"sk_live_0123456789abcdef"}]"#,
            ],
        ),
        ("GOOGLE_CLOUD_PROJECT", &["..", ".", "-", "a/..", "../a", ".a", "a.", "a-", "a b", "a?b", "a#b", "a%2fb"]),
        ("MODEL_flash_ID", &["gemini"]),
        ("SSL_CERT_FILE", &["/nonexistent/certificates.pem", "/", "/dev/null"]),
    ];
    let mut taken = Vec::new();
    for (variable, values) in cases {
        for value in *values {
            let output = check(&[(variable, value)]);
            if output.status.code() != Some(64) {
                taken.push(format!("{variable}={value} is taken"));
                continue;
            }
            let complaints = complaints(&output);
            assert_eq!(complaints, BTreeSet::from([(*variable).to_owned()]), "{value}: {}", text(&output.stderr));
        }
    }
    assert!(taken.is_empty(), "{}", taken.join("\n"));
    let long_id = format!(r#"[{{"id":"{}","key":"sk_live_0123456789abcdef"}}]"#, "x".repeat(129));
    assert_eq!(complaints(&check(&[("API_KEYS_JSON", &long_id)])), BTreeSet::from(["API_KEYS_JSON".to_owned()]));
    let long_alias = format!(r#"{{"{}":"google/x"}}"#, "x".repeat(129));
    assert_eq!(
        complaints(&check(&[("MODEL_ALIASES_JSON", &long_alias)])),
        BTreeSet::from(["MODEL_ALIASES_JSON".to_owned()])
    );
}

#[test]
fn values_at_the_edge_are_taken() {
    let id = "x".repeat(128);
    let keys = format!(r#"[{{"id":"{id}","key":"01234567890123456789"}}]"#);
    let alias =
        format!(r#"{{"{id}":"google/x","A.b_c-d/e:f@g":"a.b_c-d@e:f/g.h_i-j@k:l","flash":"google/gemini-2.5-flash"}}"#);
    let cases = [
        ("PORT", "65535"),
        ("PORT", "0"),
        ("PORT", ""),
        ("HOST", "::"),
        ("HOST", "127.0.0.1"),
        ("HOST", ""),
        ("API_KEYS_JSON", keys.as_str()),
        ("MODEL_ALIASES_JSON", alias.as_str()),
        ("MODEL_ALIASES_JSON", "{}"),
        ("CORS_ALLOW_ORIGINS", "*"),
        ("CORS_ALLOW_ORIGINS", "https://a.example, http://localhost:3000,http://127.0.0.1"),
        ("GOOGLE_VERTEX_BASE_URL", "http://127.0.0.1:1"),
        ("GOOGLE_VERTEX_BASE_URL", "https://[::1]:8443"),
        ("UPSTREAM_ERRORS", "raw"),
        ("UPSTREAM_ERRORS", "openai"),
        ("SHUTDOWN_GRACE_SECONDS", "0"),
        ("SSE_KEEPALIVE_SECONDS", "30"),
        ("GOOGLE_CLOUD_LOCATION", "us-central1"),
        ("GOOGLE_CLOUD_LOCATION", "eu"),
        ("MODEL_FLASH_ID", ""),
        ("MODEL_PRO_PREVIEW_LOCATION", "us"),
    ];
    for (variable, value) in cases {
        let output = check(&[(variable, value)]);
        assert_eq!(output.status.code(), Some(0), "{variable}={value}: {}", show(&output.stderr));
    }
}

#[test]
fn one_alias_with_two_ids_is_a_problem() {
    let json = r#"{"flash":"google/one","x-y":"google/one"}"#;
    for (variable, same) in [("MODEL_FLASH_ID", "google/one"), ("MODEL_X_Y_ID", "google/one")] {
        let flash = ("MODEL_FLASH_ID", "google/one");
        assert_eq!(
            check(&[flash, ("MODEL_ALIASES_JSON", json), (variable, same)]).status.code(),
            Some(0),
            "{variable}"
        );
        let other = [("MODEL_ALIASES_JSON", json), ("MODEL_FLASH_ID", "google/one"), (variable, "google/two")];
        let complaints = complaints(&check(&other));
        assert!(
            complaints.iter().all(|name| [variable, "MODEL_ALIASES_JSON"].contains(&name.as_str())),
            "{complaints:?}"
        );
        assert!(!complaints.is_empty());
    }
}

#[test]
fn variables_that_differ_in_case_only_may_not_disagree() {
    let ids = |one, two| check(&[("MODEL_FLASH_ID", one), ("MODEL_flash_ID", two)]);
    assert_eq!(ids("google/one", "google/one").status.code(), Some(0));
    for (one, two) in [("google/one", "google/two"), ("google/two", "google/one")] {
        let complaints = complaints(&ids(one, two));
        assert!(["MODEL_FLASH_ID", "MODEL_flash_ID"].iter().any(|name| complaints.contains(*name)), "{complaints:?}");
        assert_eq!(complaints.len(), 1, "{complaints:?}");
    }
    // Either is a variable that the list may not contradict.
    let json = ("MODEL_ALIASES_JSON", r#"{"x-y":"google/one"}"#);
    for variable in ["MODEL_X_Y_ID", "MODEL_x_y_ID", "MODEL_X_y_ID"] {
        assert_eq!(check(&[json, (variable, "google/one")]).status.code(), Some(0), "{variable}");
        assert!(!complaints(&check(&[json, (variable, "google/two")])).is_empty(), "{variable}");
    }
}

#[test]
fn a_budget_that_holds_no_largest_body_is_a_problem() {
    let budget = |budget, body| check(&[("BODY_BUDGET_BYTES", budget), ("MAX_BODY_BYTES", body)]);
    for (small, body) in [("999", "1000"), ("0", "1"), ("33554431", "")] {
        let complaints = complaints(&budget(small, body));
        assert_eq!(complaints, BTreeSet::from(["BODY_BUDGET_BYTES".to_owned()]), "{small} for {body}");
    }
    for (enough, body) in [("1000", "1000"), ("33554432", ""), ("", "1000")] {
        assert_eq!(budget(enough, body).status.code(), Some(0), "{enough} for {body}");
    }
}

#[test]
fn certificates_that_are_not_there_are_told() {
    let keys = keys_json();
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let empty = directory.path().join("canary.pem");
    std::fs::write(&empty, "no canary certificate\n").expect("a file can be written");
    let empty = empty.to_str().expect("the path is text");
    for file in ["/nonexistent/canary.pem", empty] {
        for command in [&["check"][..], &["serve"], &[]] {
            let environment = [
                ("GOOGLE_CLOUD_PROJECT", "test-project"),
                ("API_KEYS_JSON", keys.as_str()),
                ("PORT", "0"),
                ("HOST", "127.0.0.1"),
                ("SSL_CERT_FILE", file),
            ];
            let output = run(command, &environment);
            assert_eq!(complaints(&output), BTreeSet::from(["SSL_CERT_FILE".to_owned()]), "{command:?} {file}");
            assert_bytes(&output.stdout, "", "stdout");
            let stderr = text(&output.stderr);
            assert_eq!(stderr.lines().count(), 1, "one plain line: {stderr}");
            assert!(!stderr.contains("canary"), "the value is told: {stderr}");
        }
    }
}

#[test]
fn each_problem_is_a_plain_line() {
    let output = check(&[("PORT", "x"), ("MAX_BODY_BYTES", "x")]);
    let stderr = text(&output.stderr);
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
    for (line, name) in stderr.lines().zip(["PORT: ", "MAX_BODY_BYTES: "]) {
        assert!(line.starts_with(name), "{stderr}");
    }
}

#[test]
fn missing_keys_are_told() {
    assert_eq!(
        complaints(&run(&["check"], &[("GOOGLE_CLOUD_PROJECT", "p")])),
        BTreeSet::from(["API_KEYS_JSON".to_owned()])
    );
    assert_eq!(
        complaints(&check(&[("API_KEYS_JSON", "")])),
        BTreeSet::from(["API_KEYS_JSON".to_owned()]),
        "empty is unset"
    );
}

#[test]
fn a_port_in_use_is_told_clearly() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let keys = keys_json();
    let environment = [
        ("PORT", port.as_str()),
        ("HOST", "127.0.0.1"),
        ("API_KEYS_JSON", keys.as_str()),
        ("GOOGLE_CLOUD_PROJECT", "p"),
        ("GCE_METADATA_HOST", "127.0.0.1:9"),
    ];
    let output = run(&[], &environment);
    let told = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains(&port) && told.contains("in use"), "{told}");
    assert_eq!(text(&output.stderr).lines().count(), 1, "one plain line: {told}");
}

#[test]
fn help_and_version_are_printed() {
    for flag in ["--help", "-h"] {
        let output = run(&[flag], &[]);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        for word in [
            "PORT",
            "HOST",
            "GOOGLE_CLOUD_PROJECT",
            "GOOGLE_CLOUD_LOCATION",
            "GOOGLE_VERTEX_BASE_URL",
            "API_KEYS_JSON",
            "MODEL_FLASH_ID",
            "MODEL_PRO_PREVIEW_ID",
            "MODEL_ALIASES_JSON",
            "CORS_ALLOW_ORIGINS",
            "MAX_BODY_BYTES",
            "BODY_BUDGET_BYTES",
            "MAX_CONNECTIONS",
            "UPSTREAM_TIMEOUT_SECONDS",
            "UPSTREAM_ERRORS",
            "SHUTDOWN_GRACE_SECONDS",
            "SSE_KEEPALIVE_SECONDS",
            "GOOGLE_APPLICATION_CREDENTIALS",
            "GCE_METADATA_HOST",
            "GOOGLE_CLOUD_QUOTA_PROJECT",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "serve",
            "dev",
            "check",
            "keys new",
        ] {
            assert!(help.contains(word), "{flag} does not name {word}");
        }
        assert!(help.contains("_LOCATION") && help.contains("MODEL_<ALIAS>"), "{help}");
    }
    let output = run(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(text(&output.stdout), format!("ai-proxy {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_are_refused() {
    for arguments in [
        &["--nope"][..],
        &["nope"],
        &["keys"],
        &["keys", "old"],
        &["serve", "extra"],
        &["check", "extra"],
        &["keys", "new", "a", "b"],
        &["--port", "1"],
    ] {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?} says why");
        assert_bytes(&output.stdout, "", "stdout");
    }
}

#[test]
fn new_keys_are_good_keys() {
    let mut keys = BTreeSet::new();
    for arguments in
        [&["keys", "new"][..], &["keys", "new"], &["keys", "new", "team-a"], &["keys", "new", "ID \"quoted\" ä"]]
    {
        let output = run(arguments, &[]);
        assert_eq!(output.status.code(), Some(0), "{}", show(&output.stderr));
        let stdout = text(&output.stdout);
        let entry = stdout.lines().find_map(|line| line.find('{').map(|at| &line[at..])).expect("an entry");
        let entry: serde_json::Value = serde_json::from_str(entry).expect("JSON");
        let key = entry["key"].as_str().expect("a key").to_owned();
        let random = key.strip_prefix("sk_live_").expect("the prefix");
        assert_eq!(random.len(), 43, "32 bytes in base64url");
        assert!(random.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{random}");
        assert!(stdout.lines().any(|line| line.trim() == key || line.ends_with(&key)), "the key by itself: {stdout}");
        if let Some(id) = arguments.get(2) {
            assert_eq!(entry["id"], *id);
        }
        let output = check(&[("API_KEYS_JSON", &format!("[{entry}]"))]);
        assert_eq!(output.status.code(), Some(0), "the entry is good: {}", show(&output.stderr));
        assert!(keys.insert(key), "a key came twice");
    }
}

/// The path and the model that upstream sees for an alias.
#[track_caller]
fn goes_to(gateway: &Gateway, upstream: &Upstream, number: usize, alias: &str) -> (String, String) {
    let answer = gateway.chat(format!(r#"{{"model":"{alias}"}}"#));
    assert_eq!(answer.status, 200, "{alias}: {}", show(&answer.body));
    let request = upstream.wait_request(number);
    let body: serde_json::Value = serde_json::from_slice(&request.body).expect("JSON");
    (request.path().to_owned(), body["model"].as_str().unwrap_or_default().to_owned())
}

fn path(project: &str, location: &str) -> String {
    format!("/v1/projects/{project}/locations/{location}/endpoints/openapi/chat/completions")
}

#[test]
fn aliases_come_from_variables_and_json() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .env("GOOGLE_CLOUD_LOCATION", "europe-west4")
        .env("MODEL_FLASH_ID", "google/gemini-3-flash")
        .env("MODEL_FLASH_LITE_ID", "google/gemini-2.5-flash-lite")
        .env("MODEL_LLAMA_ID", "meta/llama-4@001")
        .env("MODEL_EMPTY_ID", "")
        .env("MODEL_ALIASES_JSON", r#"{"gpt-4o":"google/gemini-2.5-pro","gemini-2.5-pro":"google/gemini-2.5-pro"}"#)
        .env("MODEL_PRO_PREVIEW_LOCATION", "global")
        .env("MODEL_FLASH_LITE_LOCATION", "us-central1")
        .env("MODEL_GEMINI_2_5_PRO_LOCATION", "eu")
        .start();
    let cases = [
        ("flash", "europe-west4", "google/gemini-3-flash"),
        ("flash-lite", "us-central1", "google/gemini-2.5-flash-lite"),
        ("llama", "europe-west4", "meta/llama-4@001"),
        ("pro-preview", "global", "google/gemini-3.1-pro-preview"),
        ("gpt-4o", "europe-west4", "google/gemini-2.5-pro"),
        ("gemini-2.5-pro", "eu", "google/gemini-2.5-pro"),
    ];
    for (number, (alias, location, id)) in cases.into_iter().enumerate() {
        assert_eq!(
            goes_to(&gateway, &upstream, number, alias),
            (path("test-project", location), id.to_owned()),
            "{alias}"
        );
    }
    let list = gateway.request(&Request::get("/v1/models").key(KEY)).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(cases.len()));
}

#[test]
fn a_location_for_no_alias_is_a_problem() {
    let output = check(&[("MODEL_NOBODY_LOCATION", "global")]);
    assert_eq!(complaints(&output), BTreeSet::from(["MODEL_NOBODY_LOCATION".to_owned()]));
}

#[test]
fn the_project_may_come_from_the_metadata_server() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).without("GOOGLE_CLOUD_PROJECT").start();
    assert_eq!(goes_to(&gateway, &upstream, 0, "flash").0, path("metadata-project", "global"));
}

#[test]
fn no_project_anywhere_is_told() {
    let gone = {
        let metadata = Metadata::start();
        metadata.address.to_string()
    };
    let keys = keys_json();
    let output = run(
        &[],
        &[("API_KEYS_JSON", keys.as_str()), ("PORT", "0"), ("HOST", "127.0.0.1"), ("GCE_METADATA_HOST", gone.as_str())],
    );
    assert_eq!(complaints(&output), BTreeSet::from(["GOOGLE_CLOUD_PROJECT".to_owned()]));
}

#[test]
fn the_environment_is_read_once_and_nothing_is_needed_beyond_it() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).without("HOME").env("UNRELATED", "x").start();
    assert_eq!(gateway.chat(CHAT).status, 200);
}

#[test]
fn dev_refuses_a_foreign_metadata_server() {
    let output = run(&["dev"], &[("PORT", "0"), ("GCE_METADATA_HOST", "127.0.0.1:9")]);
    assert_eq!(complaints(&output), BTreeSet::from(["GCE_METADATA_HOST".to_owned()]));
}

#[test]
fn keys_from_a_file() {
    let upstream = Upstream::queued();
    let keys = format!(r#"[{{"id":"filed","key":"{KEY}"}}]"#);
    let gateway = Gateway::before(&upstream).without("API_KEYS_JSON").file("API_KEYS_FILE", &keys).start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.log_of(&answer)["key_id"], "filed");

    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("keys.json");
    std::fs::write(&file, r#"[{"id":"a","key":"canary"}]"#).expect("a file");
    let file = file.to_str().expect("a UTF-8 path");
    let missing = format!("{file}.missing");
    for (environment, expected) in [
        (vec![("API_KEYS_FILE", file)], "API_KEYS_FILE: entry 1: 'key' is shorter"),
        (vec![("API_KEYS_FILE", &*missing)], "API_KEYS_FILE: names a file that cannot be read: entity not found"),
        (vec![("API_KEYS_FILE", file), ("API_KEYS_JSON", &*keys)], "API_KEYS_FILE: must not be set together"),
    ] {
        let output = run(&["check"], &environment);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.starts_with(expected) && said.lines().count() == 1 && !said.contains("canary"), "{said}");
    }
}
