//! The doctor: what it finds, what it advises, and that it never shows a secret.
mod support;

use std::process::Output;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use support::{Emulator, Exchange, Hold, Metadata, TokenAnswer, Upstream, metadata::ACCOUNT, run};

const KEYS: &str = r#"[{"id":"me","key":"sk_live_0123456789abcdef"}]"#;

/// What a doctor in front of this upstream and this metadata server says, for machines.
fn examine(upstream: &str, metadata: &Metadata, more: &[(&str, &str)]) -> (Option<i32>, Value, Output) {
    doctor(&[], (upstream, &metadata.address.to_string()), more)
}

/// The same in front of what listens at two addresses, with further options.
fn doctor(options: &[&str], (upstream, metadata): (&str, &str), more: &[(&str, &str)]) -> (Option<i32>, Value, Output) {
    let mut environment = vec![
        ("API_KEYS_JSON", KEYS),
        ("GOOGLE_CLOUD_PROJECT", "test-project"),
        ("GOOGLE_VERTEX_BASE_URL", upstream),
        ("GCE_METADATA_HOST", metadata),
    ];
    environment.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    environment.extend_from_slice(more);
    let output = run(&[&["check", "--live", "--json"], options].concat(), &environment);
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("no report ({error}): {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), report, output)
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().find(|finding| finding["check"] == check).unwrap_or_else(|| panic!("no '{check}': {report:#}"))
}

fn remedy<'a>(report: &'a Value, check: &str) -> &'a str {
    finding(report, check)["remedy"].as_str().unwrap_or_else(|| panic!("'{check}' says not what to do: {report:#}"))
}

/// Answers as Vertex does: one token, in a stream where one was asked for.
fn answer(exchange: &mut Exchange<'_>) {
    let asked: Value = serde_json::from_slice(&exchange.request.body).expect("a chat");
    assert_eq!(asked["max_tokens"], 1, "a question costs next to nothing");
    if asked["stream"] == true {
        exchange.sse(["data: {\"choices\":[]}\n\n", "data: [DONE]\n\n"]);
    } else {
        exchange.json(r#"{"choices":[{"finish_reason":"length","index":0}]}"#);
    }
}

#[test]
fn a_gateway_that_works_is_said_to_work() {
    let upstream = Upstream::new(answer);
    let metadata = Metadata::start();
    let (code, report, _) = examine(&format!("http://{}", upstream.address), &metadata, &[]);
    assert_eq!((code, &report["ok"]), (Some(0), &json!(true)), "{report:#}");
    for check in ["token", "flash", "flash streaming", "pro-preview", "pro-preview streaming"] {
        assert_eq!(finding(&report, check)["verdict"], "ok", "{report:#}");
    }
    assert!(finding(&report, "flash")["ttfb_ms"].is_u64());
    assert!(finding(&report, "flash streaming")["ttfb_ms"].is_u64());
    let who = finding(&report, "credentials")["detail"].as_str().expect("text");
    assert!(who.starts_with("the machine's service account, from the metadata server at 127.0.0.1:"), "{who}");
    assert_eq!(upstream.requests().len(), 4);
    // Nobody's project: the metadata server knows it.
    let (code, report, _) =
        examine(&format!("http://{}", upstream.address), &metadata, &[("GOOGLE_CLOUD_PROJECT", "")]);
    assert_eq!(code, Some(0), "{report:#}");
    let last = upstream.requests().pop().expect("it was asked");
    assert!(last.path().contains("/projects/metadata-project/"), "{}", last.path());
}

#[test]
fn for_people_there_is_a_line_for_each_finding_and_what_to_do() {
    let upstream = Upstream::new(|exchange| {
        exchange.answer(
            "503 Unavailable",
            "content-type: application/json\r\n",
            r#"[{"error":{"code":503,"status":"UNAVAILABLE","message":"The model is overloaded.\u001b[31m"}}]"#,
        );
    });
    let (url, metadata) = (format!("http://{}", upstream.address), Metadata::start());
    let host = metadata.address.to_string();
    let environment = [
        ("API_KEYS_JSON", KEYS),
        ("GOOGLE_CLOUD_PROJECT", "test-project"),
        ("GOOGLE_VERTEX_BASE_URL", url.as_str()),
        ("GCE_METADATA_HOST", host.as_str()),
    ];
    let output = run(&["check", "--live"], &environment);
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0), "what may pass by itself is no failure");
    assert!(said.contains("\nWARN  flash          503 UNAVAILABLE: The model is overloaded. [31m\n"), "{said}");
    assert!(said.contains("-> it may pass by itself"), "{said}");
    assert!(!said.contains("streaming"), "what depends on a failure is not tried");
}

/// Status and body of a refusal, further settings, the verdict, and how the advice begins.
type Case<'a> = ((u16, String), &'a [(&'a str, &'a str)], &'a str, &'a str);

/// How the command begins that tells what a location serves.
const LISTING: &str = "curl -sS -H \"authorization: Bearer $(gcloud auth print-access-token)\"";

/// Google's error with a status, a reason and words.
fn error(code: u16, status: &str, reason: &str, message: &str) -> (u16, String) {
    let details = if reason.is_empty() {
        json!([])
    } else {
        json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reason, "domain": "googleapis.com"}])
    };
    let error = json!([{"error": {"code": code, "status": status, "message": message, "details": details}}]);
    (code, error.to_string())
}

#[test]
fn each_refusal_ends_in_what_to_do() {
    let role = format!(
        "gcloud projects add-iam-policy-binding test-project --member=serviceAccount:{ACCOUNT} --role=roles/aiplatform.user --condition=None"
    );
    let missing = "Publisher Model `projects/p/locations/l/publishers/google/models/m` was not found or your project does not have access to it.";
    let cases: [Case<'_>; 15] = [
        (
            error(403, "PERMISSION_DENIED", "SERVICE_DISABLED", "Vertex AI API has not been used"),
            &[],
            "failure",
            "gcloud services enable aiplatform.googleapis.com --project=test-project",
        ),
        (
            error(403, "PERMISSION_DENIED", "BILLING_DISABLED", "This API method requires billing"),
            &[],
            "failure",
            "gcloud billing projects link test-project --billing-account=",
        ),
        (
            error(
                403,
                "PERMISSION_DENIED",
                "IAM_PERMISSION_DENIED",
                "Permission 'aiplatform.endpoints.predict' denied",
            ),
            &[],
            "failure",
            &role,
        ),
        (error(403, "PERMISSION_DENIED", "", "no words for it"), &[], "failure", &role),
        (
            error(403, "PERMISSION_DENIED", "USER_PROJECT_DENIED", "Caller does not have serviceusage.services.use"),
            &[],
            "failure",
            "gcloud projects add-iam-policy-binding test-project --member=serviceAccount:",
        ),
        (
            error(403, "PERMISSION_DENIED", "CONSUMER_INVALID", "Project not found"),
            &[],
            "failure",
            "gcloud projects list --format='value(projectId)'  # GOOGLE_CLOUD_PROJECT has to be one of these",
        ),
        (
            error(403, "PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficient scopes"),
            &[],
            "failure",
            "gcloud auth application-default login --scopes=https://www.googleapis.com/auth/cloud-platform",
        ),
        (
            error(400, "INVALID_ARGUMENT", "", "Malformed publisher model (`model`: 'x')"),
            &[("MODEL_FLASH_ID", "x/gemini-2.5-flash")],
            "failure",
            "export MODEL_FLASH_ID=google/gemini-2.5-flash",
        ),
        (
            error(400, "FAILED_PRECONDITION", "", "Organization Policy constraint violated"),
            &[],
            "failure",
            "gcloud org-policies describe vertexai.allowedModels --effective --project=test-project",
        ),
        (
            error(404, "NOT_FOUND", "", missing),
            &[("GOOGLE_CLOUD_LOCATION", "us-central1")],
            "failure",
            "export MODEL_FLASH_LOCATION=global",
        ),
        (
            error(404, "NOT_FOUND", "", missing),
            &[("MODEL_FLASH_ID", "google/gemini-2.5-pro")],
            "failure",
            "export MODEL_FLASH_ID=google/gemini-2.5-flash  # or",
        ),
        // Nothing is proposed that is so already.
        (error(404, "NOT_FOUND", "", missing), &[], "failure", LISTING),
        (
            error(404, "NOT_FOUND", "", missing),
            &[("MODEL_ALIASES_JSON", r#"{"flash":"google/a","we/ird.Name":"google/b"}"#)],
            "failure",
            r#"export MODEL_ALIASES_JSON='{"flash":"google/gemini-2.5-flash","we/ird.Name":"google/b"}'"#,
        ),
        (
            error(429, "RESOURCE_EXHAUSTED", "", "Resource exhausted."),
            &[],
            "warning",
            "it may pass by itself; if it does not: https://console.cloud.google.com/iam-admin/quotas?project=test-project",
        ),
        (
            (404, "<!DOCTYPE html>".to_owned()),
            &[],
            "failure",
            "unset GOOGLE_VERTEX_BASE_URL; export GOOGLE_CLOUD_LOCATION=",
        ),
    ];
    for ((status, body), more, verdict, advice) in cases {
        let (told, metadata) = (body.clone(), Metadata::start());
        let upstream = Upstream::new(move |exchange| {
            exchange.answer(&format!("{status} Status"), "content-type: application/json\r\n", &told);
        });
        let (code, report, _) = examine(&format!("http://{}", upstream.address), &metadata, more);
        assert_eq!(code, Some(i32::from(verdict == "failure")), "{body}: {report:#}");
        assert_eq!(finding(&report, "flash")["verdict"], verdict, "{body}");
        assert!(remedy(&report, "flash").starts_with(advice), "{body}: {}", remedy(&report, "flash"));
    }
}

#[test]
fn what_fails_before_upstream_is_told_apart() {
    // No token.
    let (upstream, metadata) = (Upstream::new(answer), Metadata::start());
    metadata.answer(TokenAnswer::Error(404, "no service account"));
    let (code, report, _) = examine(&format!("http://{}", upstream.address), &metadata, &[]);
    assert_eq!(code, Some(1));
    assert!(remedy(&report, "token").starts_with("curl -sS -o /dev/null -w "), "{report:#}");
    assert_eq!(upstream.connections(), 0, "nobody is asked without a token");

    // Nobody there.
    let metadata = Metadata::start();
    let hold = Hold::closing();
    let (code, report, _) = examine(&format!("https://localhost:{}", hold.address.port()), &metadata, &[]);
    assert_eq!(code, Some(1));
    assert!(remedy(&report, "flash").contains("no connection can be made"), "{report:#}");
    assert!(remedy(&report, "flash").contains(&format!("https://localhost:{}/", hold.address.port())), "{report:#}");

    // Tokens are given, and refused.
    let refusing = Upstream::new(|exchange| exchange.answer("401 Unauthorized", "", "{}"));
    let (code, report, _) = examine(&format!("http://{}", refusing.address), &metadata, &[]);
    assert_eq!(code, Some(1));
    assert!(finding(&report, "flash")["detail"].as_str().is_some_and(|text| text.starts_with("upstream_rejected")));

    // Not a stream, though one was asked for.
    let buffering = Upstream::new(|exchange| exchange.json("{}"));
    let (code, report, _) = examine(&format!("http://{}", buffering.address), &metadata, &[]);
    assert_eq!((code, &finding(&report, "flash")["verdict"]), (Some(1), &json!("ok")));
    assert!(remedy(&report, "flash streaming").starts_with("unset GOOGLE_VERTEX_BASE_URL  # something in between"));

    // An answer that breaks off.
    let breaking = Upstream::new(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{");
        exchange.close();
    });
    let (code, report, _) = examine(&format!("http://{}", breaking.address), &metadata, &[]);
    assert_eq!((code, &finding(&report, "flash")["verdict"]), (Some(1), &json!("failure")));
    let url = format!("http://{}/", breaking.address);
    assert!(remedy(&report, "flash").contains(&url), "{report:#}");

    // A page, with 200.
    let page = Upstream::new(|exchange| exchange.answer("200 OK", "content-type: text/html\r\n", "<html>"));
    let (code, report, _) = examine(&format!("http://{}", page.address), &metadata, &[]);
    assert_eq!((code, &finding(&report, "flash")["verdict"]), (Some(1), &json!("failure")));
}

#[test]
fn what_breaks_every_chat_is_a_failure() {
    let emulator = Emulator::start(&["--speed", "1000"]);
    for scenario in ["no-http", "half-head", "closed", "two-lengths", "bad-chunk"] {
        emulator.next(scenario, 1000);
        let (code, report) = doctor_of(&emulator, &[], &[]);
        assert_eq!((code, &report["ok"]), (Some(1), &json!(false)), "{scenario}: {report:#}");
        let command = format!("http://{}/", emulator.address);
        assert!(remedy(&report, "flash").starts_with("curl -sS -o /dev/null -w "), "{scenario}: {report:#}");
        assert!(remedy(&report, "flash").contains(&command), "{scenario}: {report:#}");
        emulator.control("DELETE", "next", None);
    }
}

#[test]
fn clocks_are_compared() {
    let now = SystemTime::now();
    let date = |time: SystemTime| httpdate::fmt_http_date(time);
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    for (date, verdict, way) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), "failure", "ahead of"),
        ("Fri, 06 Nov 2093 08:49:37 GMT".to_owned(), "failure", "behind"),
        (date(now - minutes(2)), "warning", "ahead of"),
        (date(now + minutes(2)), "warning", "behind"),
        (date(now - minutes(6)), "failure", "ahead of"),
        (date(now), "ok", ""),
    ] {
        let told = date.clone();
        let upstream = Upstream::new(move |exchange| {
            let (kind, body) = if exchange.request.body.ends_with(b"true}") {
                ("text/event-stream", "data: [DONE]\n\n")
            } else {
                ("application/json", "{}")
            };
            exchange.answer("200 OK", &format!("content-type: {kind}\r\ndate: {told}\r\n"), body);
        });
        let metadata = Metadata::start();
        let (code, report, _) = examine(&format!("http://{}", upstream.address), &metadata, &[]);
        let clock = finding(&report, "clock");
        assert_eq!(clock["verdict"], verdict, "{date}: {report:#}");
        assert_eq!(code, Some(i32::from(verdict == "failure")), "{date}: {report:#}");
        if verdict != "ok" {
            assert!(clock["detail"].as_str().is_some_and(|detail| detail.contains(way)), "{date}: {clock}");
            assert_eq!(remedy(&report, "clock"), "sudo timedatectl set-ntp true");
        }
    }
}

#[test]
fn every_location_of_every_alias_is_asked() {
    let upstream = Upstream::new(|exchange| {
        if ["us-east1", "us-east4"].iter().any(|place| exchange.request.path().contains(&format!("/{place}/"))) {
            let body = r#"[{"error":{"code":404,"status":"NOT_FOUND","message":"Publisher Model `x` was not found"}}]"#;
            exchange.answer("404 Not Found", "content-type: application/json\r\n", body);
        } else {
            answer(exchange);
        }
    });
    let metadata = Metadata::start();
    let more = [
        ("GOOGLE_CLOUD_LOCATION", "us-central1,us-east1,us-east4,global"),
        ("MODEL_PRO_PREVIEW_LOCATION", "global,eu"),
    ];
    let (code, report, _) = examine(&format!("http://{}", upstream.address), &metadata, &more);
    assert_eq!(code, Some(1), "{report:#}");
    let findings = report["findings"].as_array().expect("findings");
    let told: Vec<(&str, &str)> = findings
        .iter()
        .skip_while(|finding| finding["check"] != "token")
        .map(|finding| (finding["check"].as_str().expect("text"), finding["verdict"].as_str().expect("text")))
        .collect();
    let expected = [
        ("token", "ok"),
        ("flash", "ok"),
        ("flash streaming", "ok"),
        ("flash at us-east1", "failure"),
        ("flash at us-east4", "failure"),
        ("flash at global", "ok"),
        ("flash at global streaming", "ok"),
        ("pro-preview", "ok"),
        ("pro-preview streaming", "ok"),
        ("pro-preview at eu", "ok"),
        ("pro-preview at eu streaming", "ok"),
    ];
    assert_eq!(told, expected, "{report:#}");
    // Without the places that do not have it, in the order that was wanted.
    for check in ["flash at us-east1", "flash at us-east4"] {
        assert_eq!(remedy(&report, check), "export MODEL_FLASH_LOCATION=us-central1,global");
    }
    let mut asked: Vec<String> = Vec::new();
    for request in upstream.requests() {
        let place =
            request.path().split("/locations/").nth(1).and_then(|rest| rest.split('/').next()).expect("a place");
        asked.push(place.to_owned());
    }
    asked.dedup();
    assert_eq!(asked, ["us-central1", "us-east1", "us-east4", "global", "eu"]);
}

#[test]
fn kinds_of_credentials_are_told_and_their_content_is_not() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("credentials.json");
    let path = file.to_str().expect("text");
    std::fs::write(
        &file,
        r#"{"type":"authorized_user","client_id":"x","client_secret":"S3CRET","refresh_token":"S3CRET"}"#,
    )
    .expect("a file can be written");
    let environment =
        [("API_KEYS_JSON", KEYS), ("GOOGLE_CLOUD_PROJECT", "p"), ("GOOGLE_APPLICATION_CREDENTIALS", path)];
    let output = run(&["check"], &environment);
    let said = String::from_utf8(output.stdout).expect("text");
    assert_eq!(output.status.code(), Some(0));
    assert!(said.contains("credentials    a person's login by gcloud, from GOOGLE_APPLICATION_CREDENTIALS"), "{said}");
    assert!(!said.contains("S3CRET"));
    std::fs::write(&file, r#"{"type":"S3CRET"}"#).expect("a file can be written");
    let output = run(&["check", "--json"], &environment);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!((output.status.code(), &report["ok"]), (Some(64), &json!(false)));
    assert!(!report.to_string().contains("S3CRET"));
    assert!(finding(&report, "GOOGLE_APPLICATION_CREDENTIALS")["remedy"].is_string());
    // Every problem of the configuration, for machines too.
    let output = run(&["check", "--json"], &[("PORT", "x"), ("API_KEYS_JSON", "[]")]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
    assert_eq!(output.status.code(), Some(64));
    for variable in ["PORT", "API_KEYS_JSON"] {
        assert_eq!(finding(&report, variable)["verdict"], "failure");
    }
}

/// The emulator's own service account.
const EMULATED_ACCOUNT: &str = "emulator@test-project.iam.gserviceaccount.com";

/// A doctor in front of the emulator.
fn doctor_of(emulator: &Emulator, options: &[&str], more: &[(&str, &str)]) -> (Option<i32>, Value) {
    let address = emulator.address.to_string();
    let (code, report, _) = doctor(options, (&format!("http://{address}"), &address), more);
    (code, report)
}

/// Every message that an answer of Google's can lead to, from the emulator's scenario of that fault: which calls of the
/// doctor's get it, what is set besides, where it is told, the verdict, and how the advice begins.
#[test]
fn each_message_has_a_fault_of_the_emulator() {
    type Fault<'a> = (&'a [(&'a str, u64)], &'a [(&'a str, &'a str)], &'a str, &'a str, &'a str);
    const PASSES: &str = "it may pass by itself";
    const ASK_METADATA: &str =
        "curl -sS -o /dev/null -w '%{http_code} %{content_type}\\n' -H 'Metadata-Flavor: Google' http://127.0.0.1:";
    const WELL: (&str, u64) = ("usage-nowhere", 1);
    let role = format!(
        "gcloud projects add-iam-policy-binding test-project --member=serviceAccount:{EMULATED_ACCOUNT} --role=roles/aiplatform.user"
    );
    let attach = "gcloud auth application-default login  # on Google Cloud: attach a service account to the machine";
    let quota = format!(
        "gcloud projects add-iam-policy-binding test-project --member=serviceAccount:{EMULATED_ACCOUNT} --role=roles/serviceusage.serviceUsageConsumer --condition=None  # or: unset GOOGLE_CLOUD_QUOTA_PROJECT"
    );
    let other_quota = quota.replacen("test-project", "another-project", 1);
    let machine = "emulated-machine --zone=us-central1-a --project=test-project";
    let scope = format!(
        "gcloud compute instances stop {machine} && gcloud compute instances set-service-account {machine} --service-account={EMULATED_ACCOUNT} --scopes=cloud-platform && gcloud compute instances start {machine}"
    );
    let region = [("GOOGLE_CLOUD_LOCATION", "us-central1")];
    let faults: &[Fault<'_>] = &[
        (
            &[("service-disabled", 1)],
            &[],
            "flash",
            "failure",
            "gcloud services enable aiplatform.googleapis.com --project=test-project",
        ),
        (&[("billing-disabled", 1)], &[], "flash", "failure", "gcloud billing projects link test-project"),
        (&[("scope-insufficient", 1)], &[], "flash", "failure", &scope),
        (&[("quota-project", 1)], &[], "flash", "failure", &quota),
        (
            &[("quota-project", 1)],
            &[("GOOGLE_CLOUD_QUOTA_PROJECT", "another-project")],
            "flash",
            "failure",
            &other_quota,
        ),
        (
            &[("project-unknown", 1)],
            &[],
            "flash",
            "failure",
            "gcloud projects list --format='value(projectId)'  # GOOGLE_CLOUD_PROJECT has to be one of these",
        ),
        (&[("forbidden", 1)], &[], "flash", "failure", &role),
        (&[("malformed-model", 1)], &[], "flash", "failure", LISTING),
        (
            &[("failed-precondition", 1)],
            &[],
            "flash",
            "failure",
            "gcloud org-policies describe vertexai.allowedModels --effective --project=test-project",
        ),
        (&[("wrong-location", 1)], &region, "flash", "failure", "export MODEL_FLASH_LOCATION=global"),
        (&[("wrong-location", 1)], &[], "flash", "failure", LISTING),
        (&[("token-refused", 2)], &[], "flash", "failure", attach),
        (&[("token-missing", 2)], &[], "flash", "failure", attach),
        (&[("rate-limited", 1)], &[], "flash", "warning", PASSES),
        (&[("overloaded", 1)], &[], "flash", "warning", PASSES),
        (&[("internal", 1)], &[], "flash", "warning", PASSES),
        (&[("deadline", 1)], &[], "flash", "warning", PASSES),
        (
            &[("invalid-argument", 1)],
            &[],
            "flash",
            "failure",
            "gcloud logging read 'protoPayload.serviceName=\"aiplatform.googleapis.com\" severity>=ERROR' --project=test-project",
        ),
        (
            &[("invalid-argument", 1)],
            &[("MODEL_FLASH_ID", "google/gemini-2.5-pro")],
            "flash",
            "failure",
            "export MODEL_FLASH_ID=google/gemini-2.5-flash  # does it answer?",
        ),
        (
            &[("html-404", 1)],
            &[],
            "flash",
            "failure",
            "unset GOOGLE_VERTEX_BASE_URL; export GOOGLE_CLOUD_LOCATION=global",
        ),
        // A server in between may have its bad days too.
        (&[("html-502", 1)], &[], "flash", "warning", PASSES),
        (&[("html-503", 1)], &[], "flash", "warning", PASSES),
        (&[("empty-error", 1)], &[], "flash", "warning", PASSES),
        (&[("json-cut", 1)], &[], "flash", "warning", "it may pass by itself; check again"),
        (&[("no-http", 1)], &[], "flash", "warning", "it may pass by itself; check again"),
        (
            &[("never", 1)],
            &[("UPSTREAM_TIMEOUT_SECONDS", "1")],
            "flash",
            "warning",
            "it may pass by itself; check again",
        ),
        (&[WELL, ("rate-limited", 1)], &[], "flash streaming", "warning", PASSES),
        (
            &[WELL, ("no-done", 1)],
            &[],
            "flash streaming",
            "failure",
            "unset GOOGLE_VERTEX_BASE_URL  # something in between",
        ),
        (&[WELL, ("json-tail", 1)], &[], "flash streaming", "warning", PASSES),
        (&[WELL, ("error-event", 1)], &[], "flash streaming", "warning", PASSES),
        (&[WELL, ("cut", 1)], &[], "flash streaming", "warning", "it may pass by itself; check again"),
        (&[WELL, ("cut-at-once", 1)], &[], "flash streaming", "warning", "it may pass by itself; check again"),
        (&[("clock-wrong", 4)], &[], "clock", "failure", "sudo timedatectl set-ntp true"),
        (&[("metadata-404", 1000)], &[], "token", "failure", ASK_METADATA),
        (&[("metadata-garbled", 1000)], &[], "token", "failure", ASK_METADATA),
        (&[("metadata-html", 1000)], &[], "token", "failure", ASK_METADATA),
        (&[("metadata-500", 1000)], &[], "token", "failure", ASK_METADATA),
    ];
    let emulator = Emulator::start(&["--speed", "1000"]);
    for (scenarios, more, check, verdict, advice) in faults {
        for (scenario, calls) in *scenarios {
            emulator.next(scenario, *calls);
        }
        let (code, report) = doctor_of(&emulator, &[], more);
        let told = finding(&report, check);
        assert_eq!(told["verdict"], *verdict, "{scenarios:?}: {report:#}");
        assert!(remedy(&report, check).starts_with(advice), "{scenarios:?}: {}", remedy(&report, check));
        let failed = report["findings"].as_array().expect("findings").iter().any(|one| one["verdict"] == "failure");
        assert_eq!(code, Some(i32::from(failed)), "{scenarios:?}");
        emulator.control("DELETE", "next", None);
    }
    // One bad moment is no failure.
    for scenario in ["metadata-429", "metadata-500"] {
        emulator.next(scenario, 1);
        let (code, report) = doctor_of(&emulator, &[], &[]);
        assert_eq!(code, Some(0), "{scenario}: {report:#}");
    }
    // A person's login is refused by the token endpoint; and one who may ask, but for no project.
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("credentials.json");
    let login = json!({"type": "authorized_user", "client_id": "x", "client_secret": "y", "refresh_token": "z",
        "token_uri": format!("http://{}/token", emulator.address)});
    std::fs::write(&file, login.to_string()).expect("a file can be written");
    let path = file.to_str().expect("text");
    emulator.next("grant-refused", 1);
    let (code, report) = doctor_of(&emulator, &[], &[("GOOGLE_APPLICATION_CREDENTIALS", path)]);
    assert_eq!((code, remedy(&report, "token")), (Some(1), "gcloud auth application-default login"), "{report:#}");
    emulator.control("DELETE", "next", None);
    let nobody = Hold::closing();
    let nowhere = nobody.address.to_string();
    let (code, report) = doctor_of(
        &emulator,
        &[],
        &[("GOOGLE_APPLICATION_CREDENTIALS", path), ("GOOGLE_CLOUD_PROJECT", ""), ("GCE_METADATA_HOST", &nowhere)],
    );
    let projects = report["findings"].as_array().expect("findings").iter().rfind(|one| one["check"] == "project");
    let told = projects.and_then(|one| one["remedy"].as_str());
    assert_eq!(
        (code, told),
        (Some(1), Some("export GOOGLE_CLOUD_PROJECT=\"$(gcloud config get-value project)\"")),
        "{report:#}"
    );
}

#[test]
fn what_is_recorded_can_be_replayed_and_tells_nobody() {
    let emulator = Emulator::start(&["--speed", "1000"]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let captures = folder.path().join("captures");
    let into = captures.to_str().expect("text");
    let (code, report) = doctor_of(&emulator, &["--record", into], &[]);
    assert_eq!(code, Some(0), "{report:#}");
    for alias in ["flash", "pro-preview"] {
        let told = finding(&report, &format!("{alias} recorded"));
        assert_eq!((&told["verdict"], &told["detail"]), (&json!("ok"), &json!(format!("21 answers in {into}"))));
    }
    let mut files = 0;
    for entry in std::fs::read_dir(&captures).expect("the folder") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        for secret in
            ["test-project", "gserviceaccount", "ya29.", "Bearer", "sk_live", "Say ok.", "What is the weather in"]
        {
            assert!(!text.contains(secret), "{}: {secret}", path.display());
        }
        files += 1;
    }
    assert_eq!(files, 2 * 21 + 1);
    let observed = std::fs::read_to_string(captures.join("observed.md")).expect("text");
    for form in [
        "| 01-flash-01-chat | indentation, header fields, an answer without room | 200 | HTTP/1.1; application/json",
        "array of 1; error INVALID_ARGUMENT",
        "array of 1; error NOT_FOUND",
        "; LF; ",
        "usage on the last choice",
        "index 0, signature of ",
        "Not asked",
    ] {
        assert!(observed.contains(form), "{form}: {observed}");
    }

    // The doctor finds what was recorded as good as the original, and gets its very bytes.
    let replay = Emulator::start(&["--replay", into, "--speed", "1000"]);
    let (code, report) = doctor_of(&replay, &[], &[]);
    assert_eq!(code, Some(0), "{report:#}");
    let file: Value = serde_json::from_slice(&std::fs::read(captures.join("01-flash-02-stream.json")).expect("a file"))
        .expect("JSON");
    let frames = file["response"]["frames"].as_array().expect("frames");
    let bytes: String = frames.iter().map(|frame| frame["text"].as_str().expect("text")).collect();
    let sent = replay.chats_since(0);
    assert!(sent.iter().any(|exchange| exchange["answer"]["text"] == bytes.as_str()), "{bytes}");

    // What is there is not mixed with what is new; and without Google there is nothing to record.
    let refused =
        run(&["check", "--live", "--record", into], &[("API_KEYS_JSON", KEYS), ("GOOGLE_CLOUD_PROJECT", "p")]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("captures: is not empty"));
    assert_eq!(run(&["check", "--record", into], &[]).status.code(), Some(2));
}

#[test]
fn a_recording_of_nothing_says_so() {
    let emulator = Emulator::start(&["--always", "rate-limited"]);
    let folder = tempfile::tempdir().expect("a temporary directory");
    let (code, report) = doctor_of(&emulator, &["--record", folder.path().to_str().expect("text")], &[]);
    assert_eq!((code, &finding(&report, "recorded")["verdict"]), (Some(1), &json!("failure")), "{report:#}");
}

#[test]
fn what_an_answer_says_is_not_recorded_however_it_is_spelled_and_spread() {
    let scenarios = tempfile::tempdir().expect("a temporary directory");
    let chunk = |text: &str| {
        format!(
            "data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\",\"role\":\"assistant\"}},\"index\":0}}]}}\n\n"
        )
    };
    let whole = r#"{"choices":[{"index":0,"message":{"content":"TEST-Project, jane\u0040doe.example","role":"assistant"},"test_project":1}],"model":"google/test-project"}"#;
    let answers = [
        (
            "spread",
            true,
            json!([{"send": chunk("at te")}, {"send": chunk("st-project, jane\\u0040doe.example, ")},
            {"send": chunk("AIzaSyD\\u0033adB33f")}, {"send": ": jane\n\ndata: [DONE]\n\n"}]),
        ),
        ("spelled", false, json!([{"send": whole}])),
    ];
    for (name, stream, frames) in answers {
        let kind = if stream { "text/event-stream" } else { "application/json" };
        let headers = json!({"content-type": kind, "x-test-project": "1", "x-vertex-ai-llm-for": "TEST_PROJECT"});
        let scenario = json!({"name": name, "about": "Says whose it is.", "when": {"stream": stream},
            "answer": {"raw": {"code": 200, "headers": headers, "frames": frames}}});
        std::fs::write(scenarios.path().join(format!("{name}.json")), scenario.to_string()).expect("a file");
    }
    let emulator = Emulator::start(&["--speed", "1000", "--scenarios", scenarios.path().to_str().expect("text")]);
    let captures = scenarios.path().join("captures");
    let (code, report) = doctor_of(&emulator, &["--record", captures.to_str().expect("text")], &[]);
    assert_eq!(code, Some(0), "{report:#}");
    let mut files = 0;
    for entry in std::fs::read_dir(&captures).expect("the folder") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text").to_lowercase();
        for part in ["st-project", "st_project", "jane", "doe", "aiza", "adb33f", "\\\\u0033"] {
            assert!(!text.contains(part), "{}: {part}: {text}", path.display());
        }
        files += 1;
    }
    assert_eq!(files, 2 * 21 + 1);
    let stream = std::fs::read_to_string(captures.join("01-flash-02-stream.json")).expect("text");
    let file: Value = serde_json::from_str(&stream).expect("JSON");
    let frames = file["response"]["frames"].as_array().expect("frames");
    let bytes: String = frames.iter().map(|frame| frame["text"].as_str().expect("text")).collect();
    let expected =
        [chunk("xx xx"), chunk("xx-xxxxxxx, xxxx\\u0040xxx.xxxxxxx, "), chunk("xxxxxxx\\u0078xxx11x")].concat();
    assert_eq!(bytes, format!("{expected}: xxxx\n\ndata: [DONE]\n\n"));
}
