//! `ai-proxy usage`: its sums agree to the token with what clients got, whatever shape the log has.
mod support;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};
use support::{CHAT_PATH, Gateway, KEY, Request, Response, SECOND_KEY, run, sse};
use tempfile::TempDir;

const TOKENS: [&str; 4] = ["prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"];

/// Runs `usage` with a log on stdin.
fn usage(arguments: &[&str], log: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ai-proxy"));
    command.arg("usage").args(arguments).env_clear();
    with_input(command, log, 1)
}

/// Runs a command with a text on stdin, so many times.
fn with_input(mut command: Command, text: &str, times: u64) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    std::thread::scope(|scope| {
        scope.spawn(move || (0..times).try_for_each(|_| stdin.write_all(text.as_bytes())));
        child.wait_with_output().expect("the binary ends")
    })
}

#[track_caller]
fn report(output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), &*stderr), (Some(0), ""));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// What a client reads from an answer: the last usage.
fn usage_of(answer: &Response) -> Option<[u64; 4]> {
    let texts = if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
        sse::events(&answer.body)
    } else {
        vec![String::from_utf8_lossy(&answer.body).into_owned()]
    };
    let mut usages = texts.iter().filter_map(|text| {
        let value: Value = serde_json::from_str(text).ok()?;
        value.get("usage").filter(|usage| usage.is_object()).cloned()
    });
    let usage = usages.next_back()?;
    let paths = [
        "/prompt_tokens",
        "/prompt_tokens_details/cached_tokens",
        "/completion_tokens",
        "/completion_tokens_details/reasoning_tokens",
    ];
    Some(paths.map(|path| usage.pointer(path).and_then(Value::as_u64).unwrap_or(0)))
}

/// The emulator on a thread of its own, for as long as the test lives.
fn emulator() -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            sender.send(listener.local_addr().expect("a bound address")).expect("the test waits");
            let settings = ai_proxy_emulator::Settings::new("test-project");
            ai_proxy_emulator::serve(listener, settings).await;
        });
    });
    receiver.recv().expect("the emulator starts")
}

#[test]
fn the_sums_agree_to_the_token_with_what_clients_got_in_a_million_lines_too() {
    let emulator = emulator();
    let gateway = Gateway::before(&&*format!("http://{emulator}"))
        .env("GCE_METADATA_HOST", &emulator.to_string())
        .env("MODEL_THREE_ID", "google/gemini-3-flash-preview")
        .start();
    let mut sums: BTreeMap<(&str, &str), [u64; 5]> = BTreeMap::new();
    let texts = [
        "Say hi.",
        "Count to twenty.",
        "[emulator:empty]",
        "[emulator:rate-limited]",
        "[emulator:blocked]",
        "Ää 你好 [emulator:cut]",
    ];
    let ids: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = [("tester", KEY), ("second", SECOND_KEY)]
            .into_iter()
            .flat_map(|key| ["flash", "pro-preview", "three"].map(|alias| (key, alias)))
            .map(|((id, key), alias)| {
                let gateway = &gateway;
                scope.spawn(move || {
                    let mut sums = [0; 5];
                    let mut ids = Vec::new();
                    for round in 0..20 {
                        let text = texts[round % texts.len()];
                        let body = json!({"model": alias, "stream": round % 3 != 0, "messages": [{"role": "user", "content": format!("{text} {round}")}]});
                        let request = Request::new("POST", CHAT_PATH).key(key).body(body.to_string());
                        let answer = gateway.request(&request);
                        sums[4] += 1;
                        let usage = if answer.status == 200 { usage_of(&answer) } else { None };
                        for (sum, count) in sums.iter_mut().zip(usage.unwrap_or_default()) {
                            *sum += count;
                        }
                        ids.push(answer.header("x-request-id").expect("an id").to_owned());
                    }
                    ((id, alias), sums, ids)
                })
            })
            .collect();
        let mut ids = Vec::new();
        for client in clients {
            let (name, of_client, of_requests) = client.join().expect("the client's thread ends");
            sums.insert(name, of_client);
            ids.extend(of_requests);
        }
        ids
    });
    gateway.get("/health");
    for id in ids {
        gateway.wait_for_log("all requests", |line| line["request_id"] == id.as_str());
    }
    let log = gateway.lines().join("\n") + "\n";
    let report = report(&usage(&["--by", "key,alias", "--json"], &log));
    let groups = report["groups"].as_array().expect("groups");
    assert_eq!(groups.len(), sums.len());
    for group in groups {
        let name = (group["key"].as_str().expect("a key"), group["alias"].as_str().expect("an alias"));
        let told = ["prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "requests"]
            .map(|field| group[field].as_u64().expect("a count"));
        assert_eq!(Some(&told), sums.get(&name), "{name:?}: {group}");
        assert!(group["estimated_cost"].as_f64().is_some_and(|cost| cost > 0.0), "{group}");
        assert!(group["duration_ms"]["p50"].as_f64() <= group["duration_ms"]["p99"].as_f64(), "{group}");
    }
    for (place, field) in TOKENS.iter().enumerate() {
        let all: u64 = sums.values().map(|of_client| of_client[place]).sum();
        assert_eq!(report["total"][field], all, "{field}");
    }
    assert!(report["total"]["reasoning_tokens"].as_u64() > Some(0), "some have thought");
    assert!(report["total"]["errors_4xx"].as_u64() > Some(0), "some were refused");
    assert!(report["total"]["unknown_usage"].as_u64() > Some(0), "some were cut");

    // A million of those lines: as many times the tokens, in memory that does not grow.
    let times = 1_000_000_u64.div_ceil(log.lines().count() as u64);
    let of_many = usage_of_many(&log, times);
    for field in TOKENS.iter().chain(&["requests", "errors", "unknown_usage", "client_hung_up"]) {
        let one = report["total"][field].as_u64().expect("a count");
        assert_eq!(of_many["total"][field], one * times, "{field}");
    }
    let one = report["total"]["estimated_cost"].as_f64().expect("a cost");
    let many = of_many["total"]["estimated_cost"].as_f64().expect("a cost");
    assert!((many / (one * times as f64) - 1.0).abs() < 1e-6, "{many} for {one}");
}

/// Sums of a log that stands so often in stdin.
fn usage_of_many(log: &str, times: u64) -> Value {
    // Less memory than the log has bytes.
    let limited = format!("ulimit -v 400000; exec {} usage --json", env!("CARGO_BIN_EXE_ai-proxy"));
    let mut command = Command::new("sh");
    command.args(["-c", &limited]);
    report(&with_input(command, log, times))
}

#[test]
fn lines_are_found_behind_what_others_put_in_front() {
    let (line, tokens) = line(1000);
    let array = format!("[{{\"jsonPayload\":{line},\"timestamp\":\"2026-11-26T01:00:00Z\"}}]");
    for (what, log) in [
        ("a byte order mark", format!("\u{feff}{line}\n")),
        ("a byte order mark before an array", format!("\u{feff}{array}")),
        ("Docker Compose", format!("ai-proxy-1  | {line}\n")),
        ("kubectl logs --prefix", format!("[pod/ai-proxy-5d9/ai-proxy] {line}\n")),
        ("a journal", format!("Nov 26 12:00:00 host ai-proxy[7]: {line}\n")),
        ("a time", format!("2026-11-26T12:00:00.000000000Z stdout F {line}\n")),
        ("another line before", format!("started {{\n{line}\n")),
    ] {
        let told = report(&usage(&["--json"], &log));
        assert_eq!(
            (&told["total"]["requests"], &told["total"]["prompt_tokens"]),
            (&1.into(), &tokens[0].into()),
            "{what}"
        );
    }
    // A line in a line is none.
    let quoted = json!({ "message": line }).to_string();
    let nested = format!("{{\"a\":{line}}}");
    for foreign in [quoted, nested, format!("x {line} y"), line.replace("completed\"}", "completed\"}}")] {
        let told = report(&usage(&["--json"], &format!("x\n{foreign}\n")));
        assert_eq!((&told["total"]["requests"], &told["entries"]["skipped"]), (&0.into(), &2.into()), "{foreign}");
    }
}

#[test]
fn what_a_log_says_cannot_turn_a_table_around() {
    let (line, _) = line(1000);
    let table = usage(&["--by", "key"], &line.replace("team-0", "\u{202e}team\u{2066}"));
    let table = String::from_utf8(table.stdout).expect("text");
    assert!(table.contains("?team?") && !table.contains(['\u{202e}', '\u{2066}']), "{table}");
}

/// A line as the gateway writes it, a pure function of its number.
fn line(number: u64) -> (String, [u64; 4]) {
    let tokens = [number % 100_000, number % 7, number % 1009, number % 13 * 100];
    let counts: Vec<String> = TOKENS
        .iter()
        .zip(tokens)
        .map(|(name, count)| if count == 0 { format!("\"{name}\":null") } else { format!("\"{name}\":{count}") })
        .collect();
    let (day, key, counts) = (1 + number % 28, number % 5, counts.join(","));
    let alias = if number.is_multiple_of(2) { "flash" } else { "pro-preview" };
    let model = if number.is_multiple_of(2) { "google/gemini-2.5-flash" } else { "google/gemini-3.1-pro-preview" };
    let line = format!(
        r#"{{"severity":"INFO","message":"POST /v1/chat/completions 200","time":"2026-11-{day:02}T12:00:00.123456Z","httpRequest":{{"requestMethod":"POST","requestUrl":"/v1/chat/completions","status":200,"requestSize":"63","responseSize":"400","latency":"0.050000s","protocol":"HTTP/1.1"}},"logging.googleapis.com/trace":"projects/p/traces/0af7651916cd43dd8448eb211c80319c","request_id":"{number:032x}","key_id":"team-{key}","alias":"{alias}","model":"{model}","stream":true,"status":200,"upstream_status":200,"ttfb_ms":12.5,"duration_ms":{},"request_bytes":63,"response_bytes":400,"overhead_ms":0.21,"signatures_kept":0,"signatures_skipped":0,{counts},"error":null,"outcome":"completed"}}"#,
        number % 1000 + 1,
    );
    (line, tokens)
}

#[test]
fn many_lines_are_summed_in_any_shape() {
    const LINES: u64 = 50_000;
    let (mut log, mut array, mut sums) = (String::new(), String::from("[\n"), [0; 4]);
    for number in 0..LINES {
        let (line, tokens) = line(number);
        if number % 1000 == 0 {
            log.push_str("2026/11/26 12:00:00 [notice] something else {\n");
        }
        let day = 1 + number % 28;
        // Cloud Logging takes these out of the payload.
        let payload = line.replace(&format!("\"time\":\"2026-11-{day:02}T12:00:00.123456Z\","), "");
        array.push_str(&format!("{{\n  \"insertId\": \"{number}\",\n  \"jsonPayload\": {payload},\n  \"timestamp\": \"2026-11-{day:02}T12:00:00.123456Z\"\n}},\n"));
        log.push_str(&line);
        log.push('\n');
        sums.iter_mut().zip(tokens).for_each(|(sum, count)| *sum += count);
    }
    array.truncate(array.len() - 2);
    array.push_str("\n]\n");
    let one = report(&usage(&["--json", "--by", "key,alias,day"], &log));
    let two = report(&usage(&["--json", "--by", "key,alias,day", "-"], &array));
    assert_eq!((&one["entries"]["chats"], &one["entries"]["skipped"]), (&LINES.into(), &(LINES / 1000).into()));
    assert_eq!(two["entries"]["skipped"], 0);
    assert_eq!((&one["groups"], &one["total"]), (&two["groups"], &two["total"]));
    assert_eq!(one["groups"].as_array().map(Vec::len), Some(5 * 28));
    for (field, sum) in TOKENS.iter().zip(sums) {
        assert_eq!(one["total"][field], sum, "{field}");
        let groups = one["groups"].as_array().expect("groups");
        assert_eq!(groups.iter().filter_map(|group| group[field].as_u64()).sum::<u64>(), sum, "{field}");
    }
    for (name, exact) in [("p50", 500.0), ("p95", 950.0), ("p99", 990.0)] {
        let told = one["total"]["duration_ms"][name].as_f64().expect("a duration");
        assert!((told / exact - 1.0).abs() <= 1.0 / 128.0, "{name}: {told}");
    }
    // Files add up, and times cut them.
    let folder = TempDir::new().expect("a temporary directory");
    let file = folder.path().join("a.log");
    fs::write(&file, &log).expect("a file can be written");
    let file = file.to_str().expect("the path is text");
    let arguments =
        ["usage", "--json", "--by=total", "--since", "2026-11-02", "--until=2026-11-03T00:00:00Z", file, file];
    let cut = report(&run(&arguments, &[]));
    let of_the_day = (0..LINES).filter(|number| number % 28 == 1);
    assert_eq!(cut["total"]["requests"], 2 * of_the_day.count());
    assert_eq!((&cut["since"], &cut["until"]), (&"2026-11-02T00:00:00Z".into(), &"2026-11-03T00:00:00Z".into()));
}

/// A `gcloud` that notes its arguments, prints a file and ends as told.
fn fake_gcloud(folder: &TempDir, output: &str, code: u8) -> String {
    let path = folder.path();
    fs::write(path.join("output.json"), output).expect("a file can be written");
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$@\" > '{0}/arguments'\ncat '{0}/output.json'\n[ {code} = 0 ] || echo 'ERROR: (gcloud.logging.read) no access' >&2\nexit {code}\n",
        path.display()
    );
    let gcloud = path.join("gcloud");
    fs::write(&gcloud, script).expect("a file can be written");
    fs::set_permissions(&gcloud, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    format!("{}:/usr/bin:/bin", path.display())
}

#[test]
fn gcloud_is_asked_for_the_log_of_a_service() {
    let folder = TempDir::new().expect("a temporary directory");
    let (line, tokens) = line(27);
    let output = format!("[\n  {{\"jsonPayload\": {line}, \"timestamp\": \"2026-11-26T01:00:00Z\"}}\n]\n");
    let path = fake_gcloud(&folder, &output, 0);
    let arguments = ["usage", "--gcloud", "--since", "2026-11-26", "--until", "2026-11-27", "--json", "--by", "day"];
    let environment = [("PATH", &*path), ("GOOGLE_CLOUD_PROJECT", "my-project"), ("CLOUD_RUN_SERVICE", "my-service")];
    let told = report(&run(&arguments, &environment));
    assert_eq!((&told["groups"][0]["day"], &told["total"]["prompt_tokens"]), (&"2026-11-26".into(), &tokens[0].into()));
    let asked = fs::read_to_string(folder.path().join("arguments")).expect("gcloud was called");
    assert_eq!(
        asked.lines().collect::<Vec<_>>(),
        [
            "logging",
            "read",
            "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"my-service\" AND jsonPayload.request_id:* AND jsonPayload.outcome:* AND timestamp>=\"2026-11-26T00:00:00Z\" AND timestamp<\"2026-11-27T00:00:00Z\"",
            "--format=json",
            "--order=asc",
            "--project=my-project",
        ]
    );
    let arguments = ["usage", "--gcloud", "--project=p", "--service=s", "--freshness=7d"];
    assert_eq!(run(&arguments, &environment).status.code(), Some(0));
    let asked = fs::read_to_string(folder.path().join("arguments")).expect("gcloud was called");
    assert!(asked.contains("service_name=\"s\"") && asked.contains("--project=p"), "{asked}");
}

#[test]
fn a_gcloud_that_fails_or_is_missing_is_a_failure() {
    let folder = TempDir::new().expect("a temporary directory");
    let path = fake_gcloud(&folder, "[]", 1);
    for (path, message) in [(&*path, "gcloud failed"), ("/nowhere", "no gcloud on the PATH")] {
        let output = run(&["usage", "--gcloud"], &[("PATH", path)]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[test]
fn prices_can_be_replaced() {
    let folder = TempDir::new().expect("a temporary directory");
    let file = folder.path().join("prices.json");
    let file = file.to_str().expect("the path is text");
    let (line, tokens) = line(1000);
    assert_eq!(tokens, [1000, 6, 1000, 1200]);
    fs::write(
        file,
        r#"{"date":"2027-02-01","currency":"EUR","models":{"flash":{"input":1,"cached_input":0,"output":2}}}"#,
    )
    .expect("a file can be written");
    let told = report(&usage(&["--json", "--prices", file], &line));
    assert_eq!(told["total"]["estimated_cost"], 0.005_394);
    assert_eq!((&told["prices"]["date"], &told["prices"]["currency"]), (&"2027-02-01".into(), &"EUR".into()));
    fs::write(file, "{").expect("a file can be written");
    assert_eq!(usage(&["--prices", file], &line).status.code(), Some(2));
    assert_eq!(usage(&["--prices", "/nowhere"], &line).status.code(), Some(2));
}

#[test]
fn wrong_words_and_missing_files_have_their_exit_codes() {
    for (arguments, code) in [
        (&["usage", "--by", "colour"][..], 2),
        (&["usage", "--since", "soon"], 2),
        (&["usage", "--colour"], 2),
        (&["usage", "/nowhere.log"], 1),
        (&["usage", "/"], 1),
        (&["usage", "--help"], 0),
        (&["usage"], 0),
    ] {
        let output = run(arguments, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        assert_eq!(stderr.is_empty(), code == 0, "{arguments:?}: {stderr}");
    }
    // An empty log is no failure, and a table is what people get.
    let table = usage(&[], "").stdout;
    assert!(String::from_utf8_lossy(&table).starts_with("day    key  alias  requests"), "{}", support::show(table));
}
