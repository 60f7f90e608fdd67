//! What upstream's refusals mean, and what to do about each.

use super::credentials::{Identity, Kind};
use super::report::{Finding, plain};
use crate::config::{BaseUrl, variable_spelling};
use crate::upstream::host_of;
use serde_json::{Map, Value};

/// As much of Google's own words as is shown, in characters.
const MAX_SHOWN: usize = 300;

/// A model that every project may use, everywhere.
const MODEL_THAT_ANSWERS: &str = "google/gemini-2.5-flash";

const MODELS_PAGE: &str = "https://cloud.google.com/vertex-ai/generative-ai/docs/models";

/// What a question was about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'a> {
    /// The name of the finding.
    pub(super) check: &'a str,
    pub(super) alias: &'a str,
    pub(super) vertex_id: &'a str,
    pub(super) location: &'a str,
    /// What `MODEL_ALIASES_JSON` says.
    pub(super) listed: &'a Map<String, Value>,
    /// Where it goes in place of Google's own address.
    pub(super) base_url: Option<&'a BaseUrl>,
    /// All locations of the alias, the most wanted first.
    pub(super) locations: &'a [&'a str],
    pub(super) project: &'a str,
    pub(super) identity: &'a Identity,
}

/// Google's error, out of whatever shape it came in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Refusal {
    /// `PERMISSION_DENIED` and the like.
    status: String,
    message: String,
    /// `SERVICE_DISABLED` and the like.
    reason: String,
}

impl Refusal {
    /// Reads an error body: an object, or the array of one object that this endpoint prefers.
    fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(body).ok()?;
        let error = value.get(0).unwrap_or(&value).get("error")?;
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let details = error.get("details").and_then(Value::as_array);
        let reason = details.into_iter().flatten().find_map(|detail| detail.get("reason"));
        Some(Self { status: text(error.get("status")), message: text(error.get("message")), reason: text(reason) })
    }

    fn says(&self, words: &str) -> bool {
        self.message.to_ascii_lowercase().contains(words)
    }
}

/// Judges an answer other than 2xx.
pub(super) fn refusal(subject: Subject<'_>, status: u16, body: &[u8]) -> Finding {
    let Subject { check, vertex_id, location, project, identity, .. } = subject;
    let Some(refusal) = Refusal::parse(body) else {
        let detail = format!("{status}, and not as Vertex AI answers: another server may be in between");
        if status == 429 || status >= 500 {
            let remedy =
                "it may pass by itself; if it does not, check what is in between: GOOGLE_VERTEX_BASE_URL, proxies";
            return Finding::warning(check, detail, remedy);
        }
        return Finding::failure(
            check,
            detail,
            "unset GOOGLE_VERTEX_BASE_URL; export GOOGLE_CLOUD_LOCATION=global  # or us, eu, a region such as us-central1",
        );
    };
    let detail = format!("{status} {}", shown(&refusal));
    let failure = |remedy: String| Finding::failure(check, detail.clone(), remedy);
    match (status, refusal.reason.as_str()) {
        (403, "SERVICE_DISABLED") => {
            failure(format!("gcloud services enable aiplatform.googleapis.com --project={project}"))
        }
        (403, "BILLING_DISABLED") => failure(format!(
            "gcloud billing projects link {project} --billing-account=\"$(gcloud billing accounts list --filter=open=true --format='value(name)' --limit=1)\""
        )),
        (403, "ACCESS_TOKEN_SCOPE_INSUFFICIENT") => failure(wider_scope(identity, project)),
        (403, "USER_PROJECT_DENIED") => failure(quota_project(identity, project)),
        (403, _) if refusal.says("serviceusage.services.use") => failure(quota_project(identity, project)),
        (403, "CONSUMER_INVALID" | "RESOURCE_PROJECT_INVALID") => failure(
            "gcloud projects list --format='value(projectId)'  # GOOGLE_CLOUD_PROJECT has to be one of these"
                .to_owned(),
        ),
        (403, _) => failure(format!(
            "gcloud projects add-iam-policy-binding {project} --member={} --role=roles/aiplatform.user --condition=None",
            identity.member()
        )),
        (400, _) if refusal.says("malformed publisher model") => {
            let id = format!("google/{}", vertex_id.rsplit('/').next().unwrap_or(vertex_id));
            failure(other_id(subject, &id).unwrap_or_else(|| list_models(subject)))
        }
        (400, _) if refusal.status == "FAILED_PRECONDITION" => failure(format!(
            "gcloud org-policies describe vertexai.allowedModels --effective --project={project}  # what the organisation allows; who administers it can change that"
        )),
        (404, _) if refusal.says("publisher model") => failure(elsewhere(subject, &[location])),
        (401, _) => failure(new_token(identity)),
        (429, _) => Finding::warning(
            check,
            detail,
            format!(
                "it may pass by itself; if it does not: https://console.cloud.google.com/iam-admin/quotas?project={project}"
            ),
        ),
        (500.., _) => {
            Finding::warning(check, detail, "it may pass by itself; if it does not: https://status.cloud.google.com")
        }
        _ if vertex_id != MODEL_THAT_ANSWERS => failure(format!(
            "{}  # does it answer? then it is {vertex_id} that does not, at {location}",
            other_id(subject, MODEL_THAT_ANSWERS).unwrap_or_else(|| list_models(subject))
        )),
        _ => failure(format!(
            "gcloud logging read 'protoPayload.serviceName=\"aiplatform.googleapis.com\" severity>=ERROR' --project={project} --limit=5  # what Google has noted of it"
        )),
    }
}

/// Whether an answer says that the location does not have the model.
pub(super) fn is_missing_model(status: u16, body: &[u8]) -> bool {
    status == 404 && Refusal::parse(body).is_some_and(|refusal| refusal.says("publisher model"))
}

/// What to do about a model that some of its locations do not have.
pub(super) fn elsewhere(subject: Subject<'_>, missing: &[&str]) -> String {
    let spelled = variable_spelling(subject.alias);
    let left: Vec<&str> = subject.locations.iter().copied().filter(|location| !missing.contains(location)).collect();
    if !left.is_empty() {
        format!("export MODEL_{spelled}_LOCATION={}", left.join(","))
    } else if !missing.contains(&"global") {
        format!("export MODEL_{spelled}_LOCATION=global")
    } else if let Some(export) = other_id(subject, MODEL_THAT_ANSWERS) {
        format!("{export}  # or another model that the project may use: {MODELS_PAGE}")
    } else {
        list_models(subject)
    }
}

/// The command that gives the alias another id, where it comes from; nothing if it has that id.
fn other_id(subject: Subject<'_>, id: &str) -> Option<String> {
    if subject.vertex_id == id {
        return None;
    }
    if !subject.listed.contains_key(subject.alias) {
        return Some(format!("export MODEL_{}_ID={id}", variable_spelling(subject.alias)));
    }
    let mut listed = subject.listed.clone();
    listed.insert(subject.alias.to_owned(), id.into());
    // Neither aliases nor ids have quotes.
    Some(format!("export MODEL_ALIASES_JSON='{}'", Value::Object(listed)))
}

fn list_models(subject: Subject<'_>) -> String {
    let Subject { project, location, .. } = subject;
    format!(
        "curl -sS -H \"authorization: Bearer $(gcloud auth print-access-token)\" -H 'x-goog-user-project: {project}' 'https://{}/v1beta1/publishers/google/models?pageSize=300' | grep '\"name\"'  # what {location} serves; or see {MODELS_PAGE}",
        host_of(location)
    )
}

/// Google's error within a stream, in an event or behind the last one, and its status.
pub(super) fn error_in_stream(body: &[u8]) -> Option<(u16, Vec<u8>)> {
    let text = String::from_utf8_lossy(body);
    let in_event = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::to_owned);
    // In place of an event: what is no line of one, up to the end.
    let behind: String = text
        .lines()
        .skip_while(|line| !line.starts_with(['{', '[']))
        .fold(String::new(), |behind, line| behind + line + "\n");
    in_event.chain([behind]).find_map(|error| {
        Refusal::parse(error.as_bytes())?;
        let value: Value = serde_json::from_str(&error).ok()?;
        let code = value.get(0).unwrap_or(&value).get("error")?.get("code").and_then(Value::as_u64);
        Some((code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500), error.into_bytes()))
    })
}

/// How to see what is there where the gateway asks.
pub(super) fn look_in_between(subject: Subject<'_>) -> String {
    let (url, advice) = match subject.base_url {
        Some(base) => {
            let scheme = if base.tls { "https" } else { "http" };
            (format!("{scheme}://{}/", base.authority), "what GOOGLE_VERTEX_BASE_URL names; to do without: unset it")
        }
        None => (
            format!("https://{}/", host_of(subject.location)),
            "of GOOGLE_CLOUD_LOCATION; see the network, SSL_CERT_FILE",
        ),
    };
    format!("curl -sS -o /dev/null -w '%{{http_code}} %{{http_version}} %{{remote_ip}}\\n' {url}  # {advice}")
}

/// What to do when no token could be had.
pub(super) fn no_token(identity: &Identity) -> String {
    match identity.metadata_host() {
        Some(host) => format!(
            "curl -sS -o /dev/null -w '%{{http_code}} %{{content_type}}\\n' -H 'Metadata-Flavor: Google' http://{host}/computeMetadata/v1/instance/service-accounts/default/token  # GCE_METADATA_HOST is {host}; 404: attach a service account to the machine; elsewhere than on Google Cloud: gcloud auth application-default login"
        ),
        None => new_token(identity),
    }
}

/// What to do when tokens are refused, or none can be had.
pub(super) fn new_token(identity: &Identity) -> String {
    match identity.kind {
        Kind::AuthorizedUser => "gcloud auth application-default login".to_owned(),
        Kind::ServiceAccount => format!(
            "gcloud iam service-accounts keys list --iam-account={}  # is the key still there? else the clock is wrong",
            identity.account()
        ),
        Kind::ExternalAccount | Kind::Impersonated => {
            format!("gcloud iam service-accounts get-iam-policy {}", identity.account())
        }
        Kind::MetadataServer => {
            "gcloud auth application-default login  # on Google Cloud: attach a service account to the machine"
                .to_owned()
        }
    }
}

/// A machine's scopes are set while it is stopped.
fn wider_scope(identity: &Identity, project: &str) -> String {
    const LOGIN: &str = "gcloud auth application-default login --scopes=https://www.googleapis.com/auth/cloud-platform";
    let Some((name, zone)) = &identity.machine else { return LOGIN.to_owned() };
    let machine = format!("{name} --zone={zone} --project={project}");
    let account = identity.account();
    format!(
        "gcloud compute instances stop {machine} && gcloud compute instances set-service-account {machine} --service-account={account} --scopes=cloud-platform && gcloud compute instances start {machine}  # from another machine"
    )
}

fn quota_project(identity: &Identity, project: &str) -> String {
    format!(
        "gcloud projects add-iam-policy-binding {} --member={} --role=roles/serviceusage.serviceUsageConsumer --condition=None  # or: unset GOOGLE_CLOUD_QUOTA_PROJECT",
        identity.quota_project.as_deref().unwrap_or(project),
        identity.member()
    )
}

/// Google's own words, in one line that no terminal takes for a command.
fn shown(refusal: &Refusal) -> String {
    let kind = if refusal.reason.is_empty() { &refusal.status } else { &refusal.reason };
    let text = plain(&format!("{kind}: {}", refusal.message));
    let clean: String = text.chars().take(MAX_SHOWN).collect();
    if clean.chars().count() == MAX_SHOWN { format!("{clean}…") } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_shapes_of_an_error_are_read() {
        let object = r#"{"error":{"code":403,"status":"PERMISSION_DENIED","message":"no","details":[{"x":1},{"reason":"SERVICE_DISABLED"}]}}"#;
        let read = Refusal::parse(object.as_bytes()).unwrap();
        assert_eq!((read.status.as_str(), read.reason.as_str()), ("PERMISSION_DENIED", "SERVICE_DISABLED"));
        assert_eq!(Refusal::parse(format!("[{object}]").as_bytes()), Some(read));
        for bad in ["", "<html>", "[]", "{}", "5", "[5]"] {
            assert_eq!(Refusal::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_words_of_upstream_reach_the_terminal_raw(message in "(?s).{0,600}") {
            let text = shown(&Refusal { message, ..Refusal::default() });
            prop_assert!(!text.chars().any(char::is_control));
            prop_assert!(text.chars().count() <= MAX_SHOWN + 1);
        }
    }
}
