//! The doctor: what it finds, what it advises, and that it never shows a secret.
mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Exchange, Hold, Metadata, TokenAnswer, Upstream, metadata::ACCOUNT, run};

const KEYS: &str = r#"[{"id":"me","key":"sk_live_0123456789abcdef"}]"#;

/// What a doctor in front of this upstream and this metadata server says, for machines.
fn examine(upstream: &str, metadata: &Metadata, more: &[(&str, &str)]) -> (Option<i32>, Value, Output) {
    let metadata = metadata.address.to_string();
    let mut environment = vec![
        ("API_KEYS_JSON", KEYS),
        ("GOOGLE_CLOUD_PROJECT", "test-project"),
        ("GOOGLE_VERTEX_BASE_URL", upstream),
        ("GCE_METADATA_HOST", metadata.as_str()),
    ];
    environment.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    environment.extend_from_slice(more);
    let output = run(&["check", "--live", "--json"], &environment);
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
    let cases: [Case<'_>; 13] = [
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
            "unset GOOGLE_CLOUD_QUOTA_PROJECT, or: gcloud projects add-iam-policy-binding QUOTA_PROJECT",
        ),
        (
            error(403, "PERMISSION_DENIED", "CONSUMER_INVALID", "Project not found"),
            &[],
            "failure",
            "set GOOGLE_CLOUD_PROJECT to one of: gcloud projects list",
        ),
        (
            error(403, "PERMISSION_DENIED", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "insufficient scopes"),
            &[],
            "failure",
            "give the machine the scope cloud-platform",
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
            "a policy of the organisation may forbid the model: gcloud org-policies describe",
        ),
        (
            error(404, "NOT_FOUND", "", missing),
            &[("GOOGLE_CLOUD_LOCATION", "us-central1")],
            "failure",
            "export MODEL_FLASH_LOCATION=global",
        ),
        (error(404, "NOT_FOUND", "", missing), &[], "failure", "export MODEL_FLASH_ID=google/gemini-2.5-flash, or"),
        (
            error(429, "RESOURCE_EXHAUSTED", "", "Resource exhausted."),
            &[],
            "warning",
            "it may pass by itself; if it does not: https://console.cloud.google.com/iam-admin/quotas?project=test-project",
        ),
        ((404, "<!DOCTYPE html>".to_owned()), &[], "failure", "check GOOGLE_CLOUD_LOCATION"),
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
    assert!(remedy(&report, "token").starts_with("on Google Cloud attach a service account"), "{report:#}");
    assert_eq!(upstream.connections(), 0, "nobody is asked without a token");

    // Nobody there.
    let metadata = Metadata::start();
    let hold = Hold::closing();
    let (code, report, _) = examine(&format!("https://localhost:{}", hold.address.port()), &metadata, &[]);
    assert_eq!(code, Some(1));
    assert!(remedy(&report, "flash").contains("no connection can be made"), "{report:#}");

    // Tokens are given, and refused.
    let refusing = Upstream::new(|exchange| exchange.answer("401 Unauthorized", "", "{}"));
    let (code, report, _) = examine(&format!("http://{}", refusing.address), &metadata, &[]);
    assert_eq!(code, Some(1));
    assert!(finding(&report, "flash")["detail"].as_str().is_some_and(|text| text.starts_with("upstream_rejected")));

    // Not a stream, though one was asked for.
    let buffering = Upstream::new(|exchange| exchange.json("{}"));
    let (code, report, _) = examine(&format!("http://{}", buffering.address), &metadata, &[]);
    assert_eq!((code, &finding(&report, "flash")["verdict"]), (Some(1), &json!("ok")));
    assert!(remedy(&report, "flash streaming").starts_with("something in between may buffer or cut it"));

    // An answer that breaks off.
    let breaking = Upstream::new(|exchange| {
        exchange.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{");
        exchange.close();
    });
    let (code, report, _) = examine(&format!("http://{}", breaking.address), &metadata, &[]);
    assert_eq!((code, &finding(&report, "flash")["verdict"]), (Some(0), &json!("warning")));
}

#[test]
fn clocks_are_compared() {
    for (date, verdict) in [("Sun, 06 Nov 1994 08:49:37 GMT", "failure"), ("Fri, 06 Nov 2093 08:49:37 GMT", "failure")]
    {
        let upstream = Upstream::new(move |exchange| exchange.answer("200 OK", &format!("date: {date}\r\n"), "{}"));
        let metadata = Metadata::start();
        let (_, report, _) = examine(&format!("http://{}", upstream.address), &metadata, &[]);
        assert_eq!(finding(&report, "clock")["verdict"], verdict);
        assert_eq!(remedy(&report, "clock"), "sudo timedatectl set-ntp true");
    }
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
