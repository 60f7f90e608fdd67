//! The Google bearer: fetched once for all, kept, renewed, waited for, and never guessed.
mod support;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::Value;
use support::{
    CHAT, CHAT_UPSTREAM, Client, Gate, Gateway, H2Upstream, Hold, Metadata, Request, TokenAnswer, Upstream,
    assert_bytes, show,
};

const HOUR: TokenAnswer = TokenAnswer::Token { expires_in: 3599 };

fn bearer(upstream: &Upstream, n: usize) -> String {
    upstream.wait_request(n).header("authorization").expect("a bearer")
}

#[test]
fn a_cold_herd_fetches_once() {
    let gate = Gate::new();
    let metadata = Metadata::answering(TokenAnswer::Held(gate.clone()));
    let upstream = H2Upstream::new(|exchange| exchange.json("{}"));
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    let mut clients: Vec<Client> = (0..100)
        .map(|_| {
            let mut client = gateway.client();
            client.send(Request::chat(CHAT).header("expect", "100-continue").head_bytes());
            client
        })
        .collect();
    for client in &mut clients {
        assert_eq!(client.head().status, 100);
        client.send(CHAT);
    }
    gate.open();
    for client in &mut clients {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(metadata.seen().token_calls, 1);
    let seen = upstream.seen();
    assert_eq!(seen.requests.len(), 100);
    assert!(seen.requests.iter().all(|request| request.headers["authorization"] == "Bearer ya29.test-1"));
}

#[test]
fn the_bearer_is_fetched_at_start_and_kept() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    for number in 0..20 {
        assert_eq!(gateway.chat(CHAT).status, 200);
        assert_eq!(bearer(&upstream, number), "Bearer ya29.test-1");
    }
    assert_eq!(metadata.seen().token_calls, 1);
    assert_eq!(gateway.get("/readyz").status, 200);
}

/// Metadata that first answers `first`: requests wait, and are served when it is well again.
#[track_caller]
fn assert_recovers(first: TokenAnswer) {
    let metadata = Metadata::answering(first);
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    assert_eq!(gateway.get("/readyz").status, 503);
    metadata.answer(HOUR);
    // The library alone would stay broken for ten seconds, or for ever.
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200, "{}", show(&answer.body));
    assert_eq!(bearer(&upstream, 0), "Bearer ya29.test-1");
    assert_eq!(gateway.get("/readyz").status, 200);
}

#[test]
fn a_stray_404_does_no_lasting_harm() {
    assert_recovers(TokenAnswer::Error(404, "not found"));
}

#[test]
fn a_stray_500_does_no_lasting_harm() {
    assert_recovers(TokenAnswer::Error(500, "oh"));
}

#[test]
fn a_stray_answer_that_is_no_token_does_no_lasting_harm() {
    assert_recovers(TokenAnswer::Error(200, "<html>captive portal</html>"));
}

#[test]
fn an_outage_is_a_503_and_ends_by_itself() {
    let gate = Gate::new();
    let metadata = Metadata::answering(TokenAnswer::Held(gate.clone()));
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    let ready = gateway.get("/readyz");
    assert_eq!(ready.status, 503, "{}", show(&ready.body));
    assert_eq!(gateway.get("/health").status, 200, "alive all the same");
    let began = Instant::now();
    let answer = gateway.chat(CHAT);
    let waited = began.elapsed();
    answer.assert_error(503, "credentials_unavailable");
    assert!(answer.retry_after() >= 1);
    assert!((Duration::from_secs(4)..Duration::from_secs(9)).contains(&waited), "waited {waited:?}");
    assert_eq!(upstream.connections(), 0, "nothing goes up without a bearer");
    metadata.answer(HOUR);
    gate.open();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(gateway.get("/readyz").status, 200);
}

#[test]
fn a_metadata_server_that_is_not_there_is_a_503() {
    let upstream = Upstream::queued();
    let nowhere = {
        let gone = Metadata::start();
        gone.address
    };
    let gateway = Gateway::before(&upstream).env("GCE_METADATA_HOST", &nowhere.to_string()).start();
    let answer = gateway.chat(CHAT);
    answer.assert_error(503, "credentials_unavailable");
    answer.retry_after();
}

#[test]
fn failures_do_not_flood_the_metadata_server() {
    let metadata = Metadata::answering(TokenAnswer::Error(404, "not found"));
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    let began = Instant::now();
    let mut clients: Vec<Client> = (0..50).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(Request::chat(CHAT).bytes()));
    for client in &mut clients {
        client.response().assert_error(503, "credentials_unavailable");
    }
    // At most once a second on demand, beside the retries by itself.
    let seconds = began.elapsed().as_secs() as usize;
    let calls = metadata.seen().token_calls;
    assert!(calls <= 2 * (seconds + 2), "{calls} calls in {seconds} s");
}

/// A fetch that hangs ends with its attempt, which takes ten seconds.
#[test]
fn a_metadata_server_that_never_answers_holds_few_connections() {
    let metadata = Hold::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("GCE_METADATA_HOST", &metadata.address.to_string()).start();
    metadata.wait_connections(1);
    gateway.chat(CHAT).assert_error(503, "credentials_unavailable");
    metadata.wait_connections(2);
    metadata.wait_left();
    assert_eq!(metadata.open(), metadata.connections() - 1, "the second attempt's only");
    assert_eq!(upstream.connections(), 0);
}

#[test]
fn a_failed_refresh_keeps_the_good_bearer() {
    // A life this short is renewed every ten seconds.
    let metadata = Metadata::answering(TokenAnswer::Token { expires_in: 200 });
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    metadata.answer(TokenAnswer::Error(500, "oh"));
    metadata.wait_token_calls(2);
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(bearer(&upstream, 1), "Bearer ya29.test-1");
    assert_eq!(gateway.get("/readyz").status, 200);
}

const UNAUTHENTICATED: &str = r#"[{"error":{"code":401,"message":"canary","status":"UNAUTHENTICATED"}}]"#;

#[test]
fn a_401_gets_a_new_bearer_and_one_more_try() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    upstream
        .then(|exchange| exchange.answer("401 Unauthorized", "content-type: application/json\r\n", UNAUTHENTICATED));
    upstream.then(|exchange| exchange.json("{\"a\":1}"));
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200);
    assert_bytes(&answer.body, "{\"a\":1}", "the second answer");
    assert_eq!(bearer(&upstream, 0), "Bearer ya29.test-1");
    assert_eq!(bearer(&upstream, 1), "Bearer ya29.test-2");
    for request in upstream.requests() {
        assert_bytes(&request.body, CHAT_UPSTREAM, "the body, both times");
    }
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(bearer(&upstream, 2), "Bearer ya29.test-2");
    assert_eq!(metadata.seen().token_calls, 2);
}

#[test]
fn a_second_401_is_a_502_and_no_key_is_blamed() {
    let upstream = Upstream::new(|exchange| {
        exchange.answer(
            "401 Unauthorized",
            "content-type: application/json\r\nwww-authenticate: Bearer\r\n",
            UNAUTHENTICATED,
        );
    });
    let gateway = Gateway::before(&upstream).start();
    let answer = gateway.chat(CHAT);
    answer.assert_error(502, "upstream_rejected_credentials");
    assert_eq!(answer.header("www-authenticate"), None);
    assert!(!show(&answer.body).contains("canary"));
    assert_eq!(upstream.requests().len(), 2);
    let line = gateway.log_of(&answer);
    assert_eq!((&line["status"], &line["upstream_status"]), (&502.into(), &401.into()));
}

/// An answer that will not be used holds no place while a bearer is waited for.
#[test]
fn a_401_is_let_go_before_the_new_bearer_comes() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    // One that ends, and one that would go on for ever.
    for unfinished in [false, true] {
        let number = upstream.requests().len();
        upstream.then(move |exchange| {
            if unfinished {
                exchange
                    .send("HTTP/1.1 401 No\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n");
                exchange.chunk("[{");
            } else {
                exchange.answer("401 No", "content-type: application/json\r\nconnection: close\r\n", UNAUTHENTICATED);
            }
        });
        let gate = Gate::new();
        // The bearer that is held at the moment is still good.
        let calls = metadata.seen().token_calls.max(1);
        metadata.wait_tokens_given(calls);
        metadata.answer(TokenAnswer::Held(gate.clone()));
        let mut client = gateway.client();
        client.send(Request::chat(CHAT).bytes());
        let refused = upstream.wait_request(number).connection;
        metadata.wait_token_calls(calls + 1);
        upstream.wait_left(refused);
        metadata.answer(HOUR);
        gate.open();
        let answer = client.response();
        assert_eq!(answer.status, 200, "{}", show(&answer.body));
        assert_eq!(upstream.requests().len(), number + 2);
    }
}

#[test]
fn a_herd_that_meets_401_fetches_once() {
    let metadata = Metadata::start();
    let upstream = H2Upstream::new(|mut exchange| async move {
        if exchange.request.headers["authorization"] == "Bearer ya29.test-1" {
            exchange.head(401, "application/json");
            exchange.send(UNAUTHENTICATED).await;
            exchange.end();
        } else {
            exchange.json("{}").await;
        }
    });
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    let mut clients: Vec<Client> = (0..60).map(|_| gateway.client()).collect();
    clients.iter_mut().for_each(|client| client.send(Request::chat(CHAT).bytes()));
    for client in &mut clients {
        let answer = client.response();
        assert_eq!(answer.status, 200, "{}", show(&answer.body));
    }
    let calls = metadata.seen().token_calls;
    assert_eq!(calls, 2, "one bearer for all");
}

#[test]
fn other_answers_are_not_tried_again() {
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).start();
    for (number, status) in ["403 Forbidden", "429 Busy", "500 Oh", "503 No"].into_iter().enumerate() {
        upstream.then(move |exchange| exchange.answer(status, "content-type: application/json\r\n", "{}"));
        assert_eq!(gateway.chat(CHAT).status.to_string(), status[..3]);
        assert_eq!(upstream.requests().len(), number + 1);
    }
}

/// A credentials file that is broken, or not there, never lets the search go on to the metadata server.
#[test]
fn a_broken_file_never_falls_through() {
    let files = [
        "",
        "no JSON",
        "{}",
        "[]",
        r#"{"type":"unknown"}"#,
        r#"{"type":"service_account"}"#,
        r#"{"type":"authorized_user","client_id":"c"}"#,
        r#"{"type":"service_account","client_email":"a@b","private_key_id":"1","private_key":"canary","project_id":"p"}"#,
    ];
    // Each keeps a request waiting for as long as one waits for a bearer, so they are all tried together.
    let tried: Vec<_> = files
        .into_iter()
        .map(Some)
        .chain([None])
        .map(|file| {
            const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
            let metadata = Metadata::start();
            let upstream = Upstream::queued();
            let builder = Gateway::before(&upstream).metadata(&metadata);
            let gateway = match file {
                Some(content) => builder.file(VARIABLE, content),
                None => builder.env(VARIABLE, "/nonexistent/credentials.json"),
            }
            .start();
            let mut client = gateway.client();
            client.send(Request::chat(CHAT).bytes());
            (file, metadata, upstream, gateway, client)
        })
        .collect();
    for (file, metadata, upstream, gateway, mut client) in tried {
        let answer = client.response();
        answer.assert_error(503, "credentials_unavailable");
        assert!(!show(&answer.body).contains("canary"));
        assert_eq!(gateway.get("/readyz").status, 503);
        assert_eq!(metadata.seen().token_calls, 0, "{file:?}");
        assert_eq!(upstream.connections(), 0, "{file:?}");
    }
}

/// Waits for the line that says why there is no bearer, and checks that no line has a secret in it.
#[track_caller]
fn told_reason(gateway: &Gateway, what: &str) -> String {
    let line = gateway.wait_for_log("why there is no bearer", |line| {
        line["message"].as_str().is_some_and(|message| message.contains("credentials are not available"))
    });
    for line in gateway.lines() {
        assert!(!line.to_lowercase().contains("canary"), "{what}: {line}");
        assert!(!line.contains('?'), "a query, in {what}: {line}");
    }
    let message = line["message"].as_str().expect("a message");
    let (_, reason) = message.split_once(": ").unwrap_or_else(|| panic!("{what}: no reason in {message}"));
    reason.to_owned()
}

/// What Google's library says of a failure can quote what it read, so none of it is passed on.
#[test]
fn a_failure_is_told_by_its_kind_and_without_secrets() {
    let directory = tempfile::TempDir::new().expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).to_str().expect("the path is text").to_owned();
    let (subject, program) = (path("subject"), path("program"));
    std::fs::write(&subject, "canary-subject").expect("a file can be written");
    std::fs::write(&program, "#!/bin/sh\necho 'ya29.canary no JSON'; echo canary >&2; exit \"$1\"\n")
        .expect("a file can be written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("it can be made a program");
    let nowhere = "http://127.0.0.1:1/token?key=canary";
    let user = |token_uri: &str| {
        serde_json::json!({
            "type": "authorized_user", "client_id": "canary", "client_secret": "canary", "refresh_token": "canary",
            "token_uri": token_uri,
        })
    };
    let external = |token_url: &str, source: Value| {
        serde_json::json!({
            "type": "external_account", "audience": "//iam.googleapis.com/canary", "token_url": token_url,
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "credential_source": source,
        })
    };
    let from_file = serde_json::json!({"file": subject});
    let from_url = serde_json::json!({"url": "http://127.0.0.1:1/subject?key=canary"});
    let from_program =
        |code: u8| serde_json::json!({"executable": {"command": format!("{program} {code}"), "timeout_millis": 5000}});
    let service = |key: Value| {
        serde_json::json!({"type": "service_account", "client_email": "canary", "private_key_id": "1",
            "private_key": key, "project_id": "p"})
    };
    // With `None` the metadata server is asked; a URL `here` is its token endpoint.
    const BARE: TokenAnswer = TokenAnswer::Error(200, "\"ya29.canary\"");
    const REFUSED: TokenAnswer = TokenAnswer::Error(403, r#"{"error":"canary","error_description":"canary"}"#);
    const SHAPE: TokenAnswer = TokenAnswer::Error(200, r#"{"access_token":["ya29.canary"],"expires_in":"canary"}"#);
    type File<'a> = Box<dyn Fn(&str) -> Value + 'a>;
    let cases: Vec<(&str, TokenAnswer, Option<File<'_>>, &str)> = vec![
        ("metadata: a bare string", BARE, None, "refused"),
        ("metadata: another shape", SHAPE, None, "refused"),
        ("metadata: refused", REFUSED, None, "refused"),
        ("user: a bare string", BARE, Some(Box::new(user)), "refused"),
        ("user: another shape", SHAPE, Some(Box::new(user)), "refused"),
        ("user: refused", REFUSED, Some(Box::new(user)), "403"),
        ("user: nobody there", HOUR, Some(Box::new(|_| user(nowhere))), "connection refused"),
        ("file: a bare string", BARE, Some(Box::new(|here| external(here, from_file.clone()))), "refused"),
        ("file: refused", REFUSED, Some(Box::new(|here| external(here, from_file.clone()))), "403"),
        ("file: nobody there", HOUR, Some(Box::new(|_| external(nowhere, from_file.clone()))), "connection refused"),
        ("url: nobody there", HOUR, Some(Box::new(|here| external(here, from_url.clone()))), "connection refused"),
        ("program: no JSON", HOUR, Some(Box::new(|here| external(here, from_program(0)))), "refused"),
        ("program: failed", HOUR, Some(Box::new(|here| external(here, from_program(3)))), "temporary"),
        ("a key of another shape", HOUR, Some(Box::new(|_| service(serde_json::json!({"canary": 1})))), "file"),
        ("a key that is none", HOUR, Some(Box::new(|_| service("canary".into()))), "refused"),
        ("a source of another shape", HOUR, Some(Box::new(|here| external(here, "canary".into()))), "file"),
        ("an unknown type", HOUR, Some(Box::new(|_| serde_json::json!({"type": "canary"}))), "'type'"),
        ("a bare string", HOUR, Some(Box::new(|_| "ya29.canary".into())), "file"),
    ];
    let upstream = Upstream::queued();
    for (what, answer, file, kind) in cases {
        let metadata = Metadata::answering(answer);
        let mut builder = Gateway::before(&upstream).metadata(&metadata);
        if let Some(file) = file {
            let here = format!("{}?key=canary", metadata.oauth_uri());
            builder = builder
                .file("GOOGLE_APPLICATION_CREDENTIALS", &file(&here).to_string())
                .env("GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES", "1");
        }
        let gateway = builder.start();
        let reason = told_reason(&gateway, what);
        assert!(reason.contains(kind), "{what}: {reason}");
    }
}

fn authorized_user(metadata: &Metadata) -> String {
    serde_json::json!({
        "type": "authorized_user",
        "client_id": "client",
        "client_secret": "secret",
        "refresh_token": "refresh",
        "token_uri": metadata.oauth_uri(),
        "quota_project_id": "file-quota",
    })
    .to_string()
}

#[test]
fn an_authorized_user_is_refreshed() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .file("GOOGLE_APPLICATION_CREDENTIALS", &authorized_user(&metadata))
        .start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(bearer(&upstream, 0), "Bearer ya29.test-1");
    assert_eq!(upstream.only_request().header("x-goog-user-project").as_deref(), Some("file-quota"));
    let seen = metadata.seen();
    assert_eq!((seen.token_calls, seen.oauth_bodies.len()), (1, 1), "only the file's own token endpoint was asked");
    assert!(seen.oauth_bodies[0].contains("refresh_token"), "{}", seen.oauth_bodies[0]);
}

#[test]
fn the_file_of_gcloud_is_found() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .home_file(".config/gcloud/application_default_credentials.json", &authorized_user(&metadata))
        .start();
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(metadata.seen().oauth_bodies.len(), 1);
}

#[test]
fn a_service_account_key_signs_its_own_bearer() {
    let made = Command::new("openssl").args(["genpkey", "-algorithm", "RSA"]).output().expect("openssl is there");
    assert!(made.status.success(), "openssl makes a key");
    let pem = String::from_utf8(made.stdout).expect("PEM is text");
    let file = serde_json::json!({
        "type": "service_account",
        "client_email": "robot@test-project.iam.gserviceaccount.com",
        "private_key_id": "key-1",
        "private_key": pem,
        "project_id": "test-project",
    });
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .file("GOOGLE_APPLICATION_CREDENTIALS", &file.to_string())
        .start();
    let answer = gateway.chat(CHAT);
    assert_eq!(answer.status, 200, "{}", show(&answer.body));
    let bearer = bearer(&upstream, 0);
    let claims = bearer.strip_prefix("Bearer eyJ").and_then(|token| token.split('.').nth(1)).expect("a JWT");
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["iss"], "robot@test-project.iam.gserviceaccount.com");
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    assert_eq!(metadata.seen().token_calls, 0);
}

#[test]
fn a_bearer_that_is_no_good_and_cannot_be_replaced_is_not_ready() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    upstream.then(|exchange| exchange.answer("401 Unauthorized", "", "{}"));
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    metadata.wait_token_calls(1);
    metadata.answer(TokenAnswer::Error(404, "gone"));
    gateway.chat(CHAT).assert_error(503, "credentials_unavailable");
    assert_eq!(gateway.get("/readyz").status, 503);
}

#[test]
fn a_token_that_has_expired_when_it_comes_is_none() {
    let metadata = Metadata::answering(TokenAnswer::Token { expires_in: 0 });
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).metadata(&metadata).start();
    let told = gateway.wait_for_message("Google credentials are not available: the token that came has expired", 0);
    assert_eq!(told["severity"], "ERROR");
    assert_eq!(gateway.get("/readyz").status, 503);
    gateway.chat(CHAT).assert_error(503, "credentials_unavailable");
    assert_eq!(gateway.get("/readyz").status, 503);
    metadata.answer(HOUR);
    assert_eq!(gateway.chat(CHAT).status, 200);
    assert_eq!(gateway.get("/readyz").status, 200);
}

#[test]
fn a_file_of_credentials_without_an_end_is_not_read() {
    let told =
        "Google credentials are not available: the credentials file is not what Google's library can use: it is ";
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream).env("GOOGLE_APPLICATION_CREDENTIALS", "/dev/zero").start();
    gateway.wait_for_message(&format!("{told}a device"), 0);
    assert_eq!(gateway.get("/readyz").status, 503);
    let gateway = Gateway::before(&upstream).file("GOOGLE_APPLICATION_CREDENTIALS", &" ".repeat(2 << 20)).start();
    gateway.wait_for_message(&format!("{told}larger than 1 MiB"), 0);
    // Nor the one that gcloud writes.
    let well_known = ".config/gcloud/application_default_credentials.json";
    let gateway = Gateway::before(&upstream).home_file(well_known, &" ".repeat(2 << 20)).start();
    gateway.wait_for_message(&format!("{told}larger than 1 MiB"), 0);
}

#[test]
fn a_web_proxy_never_sees_the_metadata_server() {
    let upstream = Upstream::queued();
    // A proxy that is not there: whoever asked it would get nothing.
    let proxy = "http://127.0.0.1:9";
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
        let gateway = Gateway::before(&upstream).env(variable, proxy).env("NO_PROXY", "example.com").start();
        assert_eq!(gateway.chat(CHAT).status, 200, "{variable}");
    }
}
