//! The Google bearer: fetched once for all, kept, renewed, waited for, and never guessed.
mod support;

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use support::{
    CHAT, CHAT_UPSTREAM, Client, Gate, Gateway, H2Upstream, Metadata, Request, TokenAnswer, Upstream, assert_bytes,
    show,
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

/// A credentials file that is broken never lets the search go on to the metadata server.
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
    for file in files {
        let metadata = Metadata::start();
        let upstream = Upstream::queued();
        let gateway =
            Gateway::before(&upstream).metadata(&metadata).file("GOOGLE_APPLICATION_CREDENTIALS", file).start();
        let answer = gateway.chat(CHAT);
        answer.assert_error(503, "credentials_unavailable");
        assert!(!show(&answer.body).contains("canary"));
        assert_eq!(gateway.get("/readyz").status, 503);
        assert_eq!(metadata.seen().token_calls, 0, "{file}");
        assert_eq!(upstream.connections(), 0, "{file}");
    }
}

#[test]
fn a_file_that_is_not_there_never_falls_through() {
    let metadata = Metadata::start();
    let upstream = Upstream::queued();
    let gateway = Gateway::before(&upstream)
        .metadata(&metadata)
        .env("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/credentials.json")
        .start();
    gateway.chat(CHAT).assert_error(503, "credentials_unavailable");
    assert_eq!(metadata.seen().token_calls, 0);
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
    use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
    let pair = aws_lc_rs::rsa::KeyPair::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key pair");
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("a key can be encoded");
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()));
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
    let claims: serde_json::Value = serde_json::from_slice(&claims).expect("JSON");
    assert_eq!(claims["iss"], "robot@test-project.iam.gserviceaccount.com");
    assert_eq!(claims["scope"], "https://www.googleapis.com/auth/cloud-platform");
    assert_eq!(metadata.seen().token_calls, 0);
}
