//! What a gateway is trusted with stays with it: keys, bearer and prompts are in no output, no answer, no request to
//! somebody else, no command line, no file, no core dump.
//!
//! Every other test is one of this too: `support/secrets.rs` searches what each gateway and each command has said.
mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::panic::catch_unwind;
use std::path::Path;
use std::process::{Command, Stdio};

use memchr::memmem;
use serde_json::json;
use support::h2::frame;
use support::secrets::{Given, SECRETS, assert_kept, assert_none_of, command_lines};
use support::{
    CHAT, CHAT_PATH, DISABLED_KEY, Gateway, H2Upstream, KEY, Metadata, Request, Response, SECOND_KEY, Treatment,
    UNKNOWN_KEY, Upstream, run, run_with_input, show, skip,
};

/// Only upstream may know it.
const PROMPT: &str = "canary-prompt-f7d1c0";
/// Only the client may know it.
const ANSWER: &str = "canary-answer-2b9e44";
/// Never leaves a credentials file but to its token endpoint.
const REFRESH_TOKEN: &str = "canary-refresh-token-91aa";
const CLIENT_SECRET: &str = "canary-client-secret-77c3";

fn chat(stream: bool) -> String {
    json!({"model": "flash", "stream": stream, "messages": [{"role": "user", "content": PROMPT}]}).to_string()
}

/// Every way to ask, right and wrong.
fn requests() -> Vec<Request> {
    let with = |name: &str, value: &str| Request::new("POST", CHAT_PATH).header(name, value).body(chat(false));
    vec![
        Request::chat(chat(false)),
        Request::chat(chat(true)),
        with("x-api-key", KEY),
        with("x-api-key", DISABLED_KEY),
        with("x-api-key", UNKNOWN_KEY),
        with("authorization", &format!("bearer {SECOND_KEY}")),
        with("authorization", &format!("Basic {KEY}")),
        with("authorization", KEY),
        with("x-api-key", &format!("{KEY} ")),
        with("x-api-key", &format!("{KEY}{KEY}")),
        with("cookie", &format!("key={KEY}")),
        Request::get(&format!("/{KEY}")),
        Request::get(&format!("/v1/models?key={KEY}")),
        Request::get(&format!("/v1/models/{KEY}")).key(KEY),
        Request::new(KEY, "/v1/models").key(KEY),
        Request::get("/v1/models").key(KEY),
        Request::get("/v1/models/nobody").key(KEY),
        Request::get("/metrics").key(KEY),
        Request::get("/"),
        Request::get("/docs"),
        Request::get("/health"),
        Request::get("/readyz"),
        Request::chat(format!("{{\"model\":\"{KEY}\"}}")),
        Request::chat(format!("{{\"{PROMPT}\": {KEY}")),
        Request::chat(chat(false)).header("content-encoding", KEY),
        Request::chat(chat(false)).header("expect", KEY),
        Request::chat(chat(false)).header("traceparent", KEY),
        Request::chat(chat(false)).header("x-vertex-ai-llm-request-type", "shared"),
    ]
}

/// An upstream that answers, refuses and breaks, each in its turn.
fn moody_upstream() -> Upstream {
    let upstream = Upstream::queued();
    for _ in 0..2 {
        upstream.then(|exchange| exchange.json(format!("{{\"x\":\"{ANSWER}\",\"usage\":{{\"prompt_tokens\":3}}}}")));
        upstream.then(|exchange| {
            exchange.sse_head();
            exchange.chunk(format!("data: {{\"x\":\"{ANSWER}\"}}\n\n"));
            exchange.chunk("data: [DONE]\n\n");
            exchange.last_chunk();
        });
        upstream.then(|exchange| exchange.answer("500 No", "content-type: text/html\r\n", ANSWER));
        upstream.then(|exchange| {
            exchange.sse_head();
            exchange.chunk(format!("data: {ANSWER}"));
            exchange.close();
        });
        upstream.then(|exchange| exchange.answer("401 No", "content-type: application/json\r\n", "[{\"error\":{}}]"));
        upstream.then(|exchange| exchange.reset());
        upstream.then(|exchange| {
            exchange.send(format!("{ANSWER}\r\n\r\n"));
            exchange.close();
        });
    }
    upstream
}

fn text_of(answer: &Response) -> Vec<u8> {
    [answer.head.as_bytes(), &answer.body].concat()
}

/// A GOAWAY has room for what upstream was sent, and the errors of HTTP/2 quote it.
#[test]
fn what_upstream_says_as_it_leaves_stays_with_the_gateway() {
    const GOAWAY: u8 = 7;
    // The stream was not processed, and the same with an error.
    for (reason, told) in [(0, "NO_ERROR"), (11, "ENHANCE_YOUR_CALM")] {
        let parting =
            [&[0, 0, 0, 0, 0, 0, 0, reason][..], format!("ya29.x {PROMPT} {ANSWER} {KEY}").as_bytes()].concat();
        let parting = frame(GOAWAY, 0, 0, &parting);
        let upstream = H2Upstream::with_treatment(
            move |_| Treatment::Flood(parting.clone(), frame(GOAWAY, 0, 0, &[0; 8])),
            |exchange| exchange.json("{}"),
        );
        let gateway = Gateway::before(&upstream).start();
        let answer = gateway.chat(CHAT);
        answer.assert_error(502, "upstream_broke");
        assert_none_of(&[PROMPT, ANSWER, KEY, "ya29."], text_of(&answer), "the answer");
        let line = gateway.log_of(&answer);
        assert_none_of(&[PROMPT, ANSWER, KEY, "ya29."], line.to_string(), "the log");
        let cause = line["error"].as_str().expect("a text");
        assert!(cause.contains(&format!("the connection was ended by upstream: {told}")), "{cause}");
    }
}

#[test]
fn no_secret_leaves_by_any_way() {
    let upstream = moody_upstream();
    let metadata = Metadata::start();
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.json");
    let list = json!([
        {"id": "tester", "key": KEY, "metrics": true},
        {"id": "second", "key": SECOND_KEY},
        {"id": "retired", "key": DISABLED_KEY, "enabled": false},
    ]);
    fs::write(&keys, list.to_string()).expect("a file can be written");
    let mut gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .without("API_KEYS_JSON")
        .env("API_KEYS_FILE", keys.to_str().expect("the path is text"))
        .env("PLAYGROUND", "on")
        .start();
    // The keys too, which a client may not learn from an answer although it has sent one itself.
    for _ in 0..2 {
        for request in requests() {
            let mut client = gateway.client();
            client.send(request.bytes());
            let answer = client.response();
            assert_none_of(&SECRETS, text_of(&answer), "an answer");
            assert_none_of(&[PROMPT], text_of(&answer), "an answer");
        }
    }
    for raw in [format!("{KEY}\r\n\r\n"), format!("GET /{KEY} HTTP/9.9\r\nx-api-key: {KEY}\r\n\r\n"), KEY.repeat(2000)]
    {
        let mut client = gateway.client();
        client.try_send(raw);
        client.close_sending_side();
        assert_none_of(&SECRETS, client.raw_to_end(), "the answer to nonsense");
    }
    // Files that are broken at a key, and ones that are good again.
    fs::write(&keys, format!("[{{\"id\":\"tester\",\"key\":\"{KEY}\" {SECOND_KEY}")).expect("a file can be written");
    gateway.wait_for_message("API_KEYS_FILE has changed and is broken", 0);
    fs::write(&keys, json!([{"id": KEY, "key": SECOND_KEY}]).to_string()).expect("a file can be written");
    gateway.wait_for_message("API_KEYS_FILE has changed and is broken", 1);
    fs::write(&keys, json!([{"id": "other", "key": SECOND_KEY}]).to_string()).expect("a file can be written");
    gateway.wait_for_message("API_KEYS_FILE has changed and is in use", 0);
    fs::write(&keys, list.to_string()).expect("a file can be written");
    gateway.wait_for_message("API_KEYS_FILE has changed and is in use", 1);

    assert_none_of(&SECRETS, command_lines(gateway.pid()), "the command line");
    gateway.signal("TERM");
    assert_eq!(gateway.wait_exit().code(), Some(0));
    let output = format!("{}\n{}", gateway.lines().join("\n"), gateway.stderr_text());
    assert!(gateway.lines().len() > 2 * requests().len(), "{output}");
    assert_none_of(&SECRETS, &output, "the log");
    assert_none_of(&[PROMPT, ANSWER], &output, "the log");

    // To upstream goes the bearer, to the metadata server nothing; keys go nowhere.
    let keys: Vec<&str> = SECRETS.into_iter().filter(|secret| *secret != "ya29.").collect();
    let asked = upstream.requests();
    assert!(asked.iter().any(|request| String::from_utf8_lossy(&request.body).contains(PROMPT)));
    for request in asked {
        assert!(request.header("authorization").is_some_and(|value| value.starts_with("Bearer ya29.")), "{request:?}");
        assert_none_of(&keys, format!("{}{}", request.head, String::from_utf8_lossy(&request.body)), "a request");
    }
    let heads = metadata.seen().heads.join("\n");
    assert!(!heads.is_empty());
    assert_none_of(&SECRETS, &heads, "a question to the metadata server");
    assert_none_of(&[PROMPT, ANSWER], &heads, "a question to the metadata server");
    let files: Vec<_> = fs::read_dir(folder.path()).expect("a folder").flatten().map(|file| file.file_name()).collect();
    assert_eq!(files, ["keys.json"], "nothing is written");
}

#[test]
fn the_secrets_of_a_credentials_file_go_to_its_token_endpoint_only() {
    let upstream = moody_upstream();
    let metadata = Metadata::start();
    let file = json!({
        "type": "authorized_user", "client_id": "client", "client_secret": CLIENT_SECRET,
        "refresh_token": REFRESH_TOKEN, "token_uri": metadata.oauth_uri(),
    });
    let mut gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .file("GOOGLE_APPLICATION_CREDENTIALS", &file.to_string())
        .start();
    for request in requests() {
        let mut client = gateway.client();
        client.send(request.bytes());
        assert_none_of(&[REFRESH_TOKEN, CLIENT_SECRET], text_of(&client.response()), "an answer");
    }
    assert_none_of(&[REFRESH_TOKEN, CLIENT_SECRET], command_lines(gateway.pid()), "the command line");
    gateway.signal("TERM");
    gateway.wait_exit();
    let output = format!("{}\n{}", gateway.lines().join("\n"), gateway.stderr_text());
    assert_none_of(&[REFRESH_TOKEN, CLIENT_SECRET, PROMPT, ANSWER], output, "the log");
    for request in upstream.requests() {
        assert_none_of(&[REFRESH_TOKEN, CLIENT_SECRET], format!("{request:?}"), "a request");
    }
    let bodies = metadata.seen().oauth_bodies;
    assert!(bodies.iter().any(|body| body.contains(REFRESH_TOKEN)), "{bodies:?}");
}

/// `run` itself searches what each of them prints.
#[test]
fn no_command_shows_a_key_that_it_was_given() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let path = file.to_str().expect("the path is text");
    let project = ("GOOGLE_CLOUD_PROJECT", "test-project");
    let lists = [
        json!([{"id": "a", "key": KEY}, {"id": "b", "key": SECOND_KEY, "expires_at": "2020-01-01T00:00:00Z"}])
            .to_string(),
        json!([{"id": "a", "key": KEY}, {"id": "b", "key": KEY}]).to_string(),
        json!([{"id": "a", "key": KEY, "enabled": KEY, "rpm": KEY, (KEY): 1}]).to_string(),
        json!([{"id": "a", "key_sha256": KEY}]).to_string(),
        format!("[{{\"id\":\"a\",\"key\":\"{KEY}\" {KEY}"),
        KEY.to_owned(),
    ];
    for list in &lists {
        fs::write(&file, list).expect("a file can be written");
        run(&["check"], &[project, ("API_KEYS_JSON", list)]);
        run(&["check", "--json"], &[project, ("API_KEYS_FILE", path)]);
        run(&["serve"], &[("API_KEYS_JSON", list), ("PORT", KEY), ("GOOGLE_CLOUD_PROJECT", KEY), ("HOST", KEY)]);
        for command in [&["list"][..], &["disable", "a"], &["enable", "a"], &["rotate", "a"], &["hash"], &["prune"]] {
            fs::write(&file, list).expect("a file can be written");
            run(&[&["keys"], command, &["--file", path]].concat(), &[]);
        }
        run_with_input(&["keys", "hash", "-"], &[], list);
        run_with_input(&["usage"], &[], list);
    }
    run(&["serve", CHAT], &[project]);
}

/// Neither the name of a variable nor the value of any but one is the place of a key, and both are told: in problems, in
/// `/health` and on the pages, as an alias also in another spelling.
#[test]
fn no_variable_may_be_a_key_but_one_and_none_is_shown() {
    let list = json!([{"id": "a", "key": SECOND_KEY}]).to_string();
    let good = [("GOOGLE_CLOUD_PROJECT", "test-project"), ("API_KEYS_JSON", &list)];
    let refused = |command: &[&str], variable: &str, value: &str, named: &str| {
        let mut environment = good.to_vec();
        if command == ["dev"] || variable == "GOOGLE_CLOUD_PROJECT" {
            environment.remove(0);
        }
        environment.push((variable, value));
        let output = run(command, &environment);
        assert_eq!(output.status.code(), Some(64), "{command:?} {variable}: {}", show(&output.stderr));
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        // An alias that a variable spells is in lower case and has dashes.
        assert_kept(said.replace('-', "_").replace("canary_key_", "canary-key-"), "what is said");
        assert!(said.contains(named), "{command:?} {variable}: {said}");
    };
    let commands = [&["check"][..], &["check", "--json"], &["serve"], &["dev"]];
    for command in commands {
        for key in [KEY, &KEY.to_uppercase()] {
            for value in ["google/gemini-2.5-flash", "no id and no location"] {
                refused(command, &format!("MODEL_{key}_ID"), value, "MODEL_…_ID");
            }
            for value in ["global", "no id and no location"] {
                refused(command, &format!("MODEL_MY_{key}_LOCATION"), value, "MODEL_…_LOCATION");
            }
        }
        for (variable, value) in [
            ("PORT", KEY.to_owned()),
            ("API_KEYS_FILE", KEY.to_owned()),
            ("MODEL_FLASH_ID", format!("google/{KEY}")),
            ("MODEL_ALIASES_JSON", json!({ (KEY): "google/gemini-2.5-flash" }).to_string()),
            ("MODEL_ALIASES_JSON", json!({ "x": KEY }).to_string()),
            ("PUBLIC_URL", format!("https://{KEY}")),
            ("CORS_ALLOW_ORIGINS", format!("https://{KEY}.example")),
            ("THOUGHT_SIGNATURE_SKIP_VALUE", KEY.to_owned()),
        ] {
            refused(command, variable, &value, variable);
        }
    }
    for (variable, value) in [("GCE_METADATA_HOST", KEY), ("GOOGLE_APPLICATION_CREDENTIALS", KEY)] {
        refused(&["check"], variable, value, variable);
    }
    refused(&["keys", "list"], "API_KEYS_FILE", KEY, "API_KEYS_FILE");
    refused(&["keys", "new"], "API_KEYS_FILE", KEY, "API_KEYS_FILE");
    for variable in ["GOOGLE_CLOUD_PROJECT", "CLOUD_RUN_SERVICE"] {
        refused(&["usage", "--gcloud"], variable, KEY, variable);
    }
    // Ids and aliases of entries are told as well, and nobody knows which keys others have issued.
    for entry in [json!({"id": UNKNOWN_KEY, "key": KEY}), json!({"id": "a", "key": KEY, "models": [UNKNOWN_KEY]})] {
        refused(&["check"], "API_KEYS_JSON", &json!([entry]).to_string(), "API_KEYS_JSON");
    }
}

/// In whatever place of whatever command it stands, also where any text is good: others on the machine have seen it.
#[test]
fn no_argument_may_be_a_key_and_none_is_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let path = file.to_str().expect("the path is text");
    let commands = [
        "",
        "serve",
        "dev",
        "emulator",
        "check",
        "help",
        "keys",
        "keys new",
        "keys new x",
        "keys hash",
        "keys hash x",
        "keys list",
        "keys disable",
        "keys disable x",
        "keys enable",
        "keys enable x",
        "keys rotate",
        "keys rotate x",
        "keys prune",
        "usage",
        "usage a.log",
    ];
    let options = [
        "--file",
        "--expires",
        "--overlap",
        "--models",
        "--metrics",
        "--rpm",
        "--max-concurrent",
        "--tokens-per-day",
        "--tokens-if-unknown",
        "--key",
        "--hashed",
        "--by",
        "--since",
        "--until",
        "--prices",
        "--project",
        "--service",
        "--freshness",
        "--json",
        "--live",
        "--record",
        "--scenarios",
        "--replay",
        "--always",
        "--speed",
        "--tls",
        "--list",
        "--help",
        "--version",
        "-x",
    ];
    let assert_refused = |words: &[&str]| {
        // No command gets as far as to need more than this.
        let output = run(words, &[("API_KEYS_FILE", path)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("looks like a key"), "{words:?}: {said}");
        assert!(!file.exists(), "{words:?} stores it");
    };
    for command in commands {
        let words: Vec<&str> = command.split_whitespace().collect();
        for given in [KEY, "ya29.token", &format!("--{KEY}"), &format!("-{KEY}"), &format!("a,{KEY}")] {
            assert_refused(&[&words[..], &[given]].concat());
            assert_refused(&[&[given], &words[..]].concat());
        }
        for option in options {
            assert_refused(&[&words[..], &[option, KEY]].concat());
            assert_refused(&[&words[..], &[&format!("{option}={KEY}")]].concat());
        }
    }
}

/// Else none of these tests shows anything.
#[test]
fn the_search_finds_a_secret_in_whatever_form() {
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("{KEY}."));
    let hexadecimal: String = KEY.bytes().map(|byte| format!("{byte:02X}")).collect();
    for told in [KEY, "bearer YA29.x", &KEY[..20], &KEY.to_uppercase(), &base64, &hexadecimal, UNKNOWN_KEY] {
        let search = || assert_kept(format!("a line\nwith \"{told}\" in it\n"), "here");
        assert!(catch_unwind(search).is_err(), "{told}");
    }
    assert_kept("sk_live_ and ya29 alone tell nothing", "here");

    let own = "sk_live_of-one-process-only";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    fs::write(&file, format!("[{{\"key\":\"{own}\"}}]")).expect("a file can be written");
    let file = file.to_str().expect("the path is text");
    for given in [
        Given::of([("API_KEYS_JSON", &*format!("[{{\"key\":\"{own}\"}}]"))], ""),
        Given::of([("API_KEYS_FILE", file)], ""),
        Given::of([], &format!("{own}\n")),
    ] {
        assert!(catch_unwind(|| given.assert_kept(format!("<{own}>"), "here")).is_err(), "{given:?}");
    }
}

/// What a debugger would find. Other processes of root may look, and nobody else may.
#[test]
#[cfg(target_os = "linux")]
fn no_key_stays_in_memory_once_the_list_is_read() {
    let upstream = Upstream::queued();
    // So many that what is freed is not all written over by chance.
    let entries: Vec<_> = (0..500).map(|n| json!({"id": format!("{n}"), "key": format!("{KEY}-{n}")})).collect();
    let list = json!(entries).to_string();
    let gateway = Gateway::before(&upstream).without("API_KEYS_JSON").file("API_KEYS_FILE", &list).start();
    let Some(memory) = memory_of(gateway.pid()) else { return skip("the memory of other processes may not be read") };
    let counted = |memory: &[u8], text: &str| memmem::find_iter(memory, text).count();
    assert!(counted(&memory, "GOOGLE_CLOUD_PROJECT=test-project") > 0, "else this shows nothing");
    assert_eq!(counted(&memory, KEY), 0);

    // The block that the process was started with is the kernel's to fill; the copy that is read goes.
    let gateway = Gateway::before(&upstream).env("API_KEYS_JSON", &list).start();
    let memory = memory_of(gateway.pid()).expect("as before");
    assert_eq!(counted(&memory, KEY), entries.len());
}

/// All that a process may write, and so all that it has not got from a file. `None` where that may not be read.
fn memory_of(pid: u32) -> Option<Vec<u8>> {
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    let maps = match fs::read_to_string(format!("/proc/{pid}/maps")) {
        Err(error) if refused(&error) => return None,
        maps => maps.expect("the process runs"),
    };
    let memory = match fs::File::open(format!("/proc/{pid}/mem")) {
        Err(error) if refused(&error) => return None,
        memory => memory.expect("the process runs"),
    };
    let mut bytes = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, rest) = line.split_once('-').expect("a range");
        let end = rest.split_whitespace().next().expect("a range");
        let address = |digits: &str| u64::from_str_radix(digits, 16).expect("a number");
        let mut region = vec![0; usize::try_from(address(end) - address(start)).expect("it fits")];
        // A region may have gone since.
        if memory.read_exact_at(&mut region, address(start)).is_ok() {
            bytes.extend(region);
        }
    }
    Some(bytes)
}

fn status_line(pid: u32, file: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process runs");
    text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {text}")).to_owned()
}

#[test]
#[cfg(target_os = "linux")]
fn a_crash_leaves_no_core_and_nobody_gains_privileges() {
    let upstream = Upstream::queued();
    let mut gateway = Gateway::before(&upstream).start().lenient();
    let words = |line: String| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let limits = words(status_line(gateway.pid(), "limits", "Max core file size"));
    assert_eq!(limits, ["Max", "core", "file", "size", "0", "0", "bytes"]);
    for task in fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("the process runs").flatten() {
        let status = fs::read_to_string(task.path().join("status")).expect("the thread runs");
        // The allocator's own thread is older than the program's first line, and starts nothing.
        if !status.starts_with("Name:\tjemalloc_bg_thd\n") {
            assert!(status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        }
    }
    gateway.signal("ABRT");
    let status = gateway.wait_exit();
    assert!(status.signal().is_some() && !status.core_dumped(), "{status:?}");
}

/// As another process of the same user would read it; of root none would be refused.
#[test]
#[cfg(target_os = "linux")]
fn others_of_the_same_user_cannot_read_its_environment() {
    const NOBODY: u32 = 65534;
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("ai-proxy");
    fs::copy(env!("CARGO_BIN_EXE_ai-proxy"), &program).expect("the binary can be copied");
    for path in [folder.path(), &program] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("the mode can be set");
    }
    let user = match folder.path().metadata().expect("a folder").uid() {
        0 => NOBODY,
        user => user,
    };
    let as_user = |program: &Path| {
        let mut command = Command::new(program);
        // Who is not root can only be itself.
        if user == NOBODY {
            command.uid(user).gid(user);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    };
    let read_environment = |pid: u32| {
        let output = as_user(Path::new("cat")).arg(format!("/proc/{pid}/environ")).stderr(Stdio::null()).output();
        String::from_utf8_lossy(&output.expect("cat runs").stdout).into_owned()
    };
    let mut open = as_user(Path::new("cat")).env("SECRET", KEY).stdin(Stdio::piped()).spawn().expect("cat runs");
    assert!(read_environment(open.id()).contains(KEY), "else this shows nothing");
    drop(open.stdin.take());
    open.wait().expect("cat ends");

    let mut gateway = as_user(&program)
        .env_clear()
        .env("HOST", "127.0.0.1")
        .env("PORT", "0")
        .env("GOOGLE_CLOUD_PROJECT", "test-project")
        .env("GCE_METADATA_HOST", "127.0.0.1:1")
        .env("API_KEYS_JSON", json!([{"id": "tester", "key": KEY}]).to_string())
        .spawn()
        .expect("the binary runs");
    let lines = BufReader::new(gateway.stdout.take().expect("a pipe")).lines();
    let told: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.contains("listening on")).collect();
    let seen = read_environment(gateway.id());
    gateway.kill().expect("it runs");
    gateway.wait().expect("it ends");
    assert_eq!(seen, "");
    assert!(!told.iter().any(|line| line.contains("refuses a protection")), "{told:?}");
}
