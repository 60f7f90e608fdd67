//! Who the gateway would be towards Google: which credentials there are, and of which kind.
//!
//! The search is that of Google's library: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, gcloud's well-known
//! file, the metadata server. Of a file only kind and account are ever shown.

use crate::config::{Config, Environment, Problem, WELL_KNOWN_CREDENTIALS as WELL_KNOWN, is_address, parse_project};
use crate::credentials::refuse_endless;
use crate::metadata;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::Path;

/// Which credentials would be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What kind they are of.
    pub(super) kind: Kind,
    place: Place,
    /// The service account's address, where the credentials tell it.
    pub(super) account: Option<String>,
    /// Whose quota is used, where it is not the project's own.
    pub(super) quota_project: Option<String>,
    /// Of workload identity federation: who is meant, as a policy names them.
    principal: Option<String>,
    /// The machine's name and zone, where it tells them.
    pub(super) machine: Option<(String, String)>,
}

/// What a file of credentials tells, apart from secrets.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    kind: Kind,
    account: Option<String>,
    quota_project: Option<String>,
    principal: Option<String>,
}

/// The kinds of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A key of a service account.
    ServiceAccount,
    /// A person, by gcloud.
    AuthorizedUser,
    /// Workload identity federation.
    ExternalAccount,
    /// A service account that other credentials stand for.
    Impersonated,
    /// The account that is attached to the machine.
    MetadataServer,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Variable,
    WellKnown,
    MetadataServer(String),
}

impl Kind {
    const IN_FILES: [(&'static str, Self); 4] = [
        ("service_account", Self::ServiceAccount),
        ("authorized_user", Self::AuthorizedUser),
        ("external_account", Self::ExternalAccount),
        ("impersonated_service_account", Self::Impersonated),
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ServiceAccount => "a service account's key",
            Self::AuthorizedUser => "a person's login by gcloud",
            Self::ExternalAccount => "workload identity federation",
            Self::Impersonated => "an impersonated service account",
            Self::MetadataServer => "the machine's service account",
        })
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind)?;
        if let Some(account) = &self.account {
            write!(f, " ({account})")?;
        }
        match &self.place {
            Place::Variable => f.write_str(", from GOOGLE_APPLICATION_CREDENTIALS"),
            Place::WellKnown => write!(f, ", from ~/{WELL_KNOWN}"),
            Place::MetadataServer(host) => write!(f, ", from the metadata server at {host}"),
        }
    }
}

impl Identity {
    fn new(place: Place, told: Told) -> Self {
        let Told { kind, account, quota_project, principal } = told;
        Self { kind, place, account, quota_project, principal, machine: None }
    }

    /// Where the metadata server is, if tokens come from there.
    pub(super) fn metadata_host(&self) -> Option<&str> {
        match &self.place {
            Place::MetadataServer(host) => Some(host),
            Place::Variable | Place::WellKnown => None,
        }
    }

    /// The service account, or a command that tells it.
    pub(super) fn account(&self) -> String {
        match (&self.account, &self.place) {
            (Some(account), _) => account.clone(),
            (None, Place::MetadataServer(host)) => {
                format!("\"$(curl -sS -H 'Metadata-Flavor: Google' http://{host}{})\"", metadata::SERVICE_ACCOUNT)
            }
            (None, Place::Variable) => "\"$(jq -r .client_email \"$GOOGLE_APPLICATION_CREDENTIALS\")\"".to_owned(),
            (None, Place::WellKnown) => format!("\"$(jq -r .client_email ~/{WELL_KNOWN})\""),
        }
    }

    /// How gcloud writes who is to get a role.
    pub(super) fn member(&self) -> String {
        match (&self.account, self.kind, &self.principal) {
            (None, Kind::AuthorizedUser, _) => "user:\"$(gcloud config get-value account)\"".to_owned(),
            (None, Kind::ExternalAccount, Some(principal)) => principal.clone(),
            _ => format!("serviceAccount:{}", self.account()),
        }
    }

    /// The same, with what only the metadata server can tell: the account, and the machine.
    pub(super) async fn completed(mut self) -> Self {
        if let Place::MetadataServer(host) = &self.place {
            self.account = metadata::service_account(host).await;
            if self.account.is_some() {
                self.machine = metadata::machine(host).await;
            }
        }
        self
    }
}

/// Finds the credentials, without any network.
///
/// # Errors
/// When there is a file and it cannot be used.
pub(super) fn find(environment: &Environment, config: &Config) -> Result<Identity, Problem> {
    const VARIABLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";
    let problem = |message| Problem { variable: VARIABLE.to_owned(), message };
    let with_quota = |mut identity: Identity| {
        let given = environment.get("GOOGLE_CLOUD_QUOTA_PROJECT").and_then(parse_project);
        identity.quota_project = given.or(identity.quota_project);
        identity
    };
    if let Some(file) = &config.credentials_file {
        let told = judge(file).map_err(|message| problem(format!("names a file that {message}")))?;
        return Ok(with_quota(Identity::new(Place::Variable, told)));
    }
    if let Some(file) = environment.well_known_credentials().filter(|file| file.exists()) {
        let told = judge(&file).map_err(|message| problem(format!("is not set, and ~/{WELL_KNOWN} {message}")))?;
        return Ok(with_quota(Identity::new(Place::WellKnown, told)));
    }
    let place = Place::MetadataServer(config.metadata_host.clone());
    let told = Told { kind: Kind::MetadataServer, account: None, quota_project: None, principal: None };
    Ok(with_quota(Identity::new(place, told)))
}

/// What a file of credentials tells, or what is wrong with it.
fn judge(file: &Path) -> Result<Told, String> {
    refuse_endless(file).map_err(|problem| format!("cannot be used: {problem}"))?;
    let text = fs::read_to_string(file).map_err(|error| format!("cannot be read: {}", error.kind()))?;
    let value: Value = serde_json::from_str(&text).map_err(|_| "is not JSON".to_owned())?;
    let named = value.get("type").and_then(Value::as_str);
    let Some((_, kind)) = Kind::IN_FILES.into_iter().find(|(name, _)| named == Some(name)) else {
        let names = Kind::IN_FILES.map(|(name, _)| name);
        return Err(format!("has a 'type' that is none of {}", names.join(", ")));
    };
    let account = match kind {
        Kind::ServiceAccount => value.get("client_email").and_then(Value::as_str),
        // …/serviceAccounts/ACCOUNT:generateAccessToken
        _ => value.get("service_account_impersonation_url").and_then(Value::as_str).and_then(|url| {
            let (_, rest) = url.rsplit_once("/serviceAccounts/")?;
            rest.split(':').next()
        }),
    };
    let account = account.filter(|account| is_address(account)).map(ToOwned::to_owned);
    let quota_project = value.get("quota_project_id").and_then(Value::as_str).and_then(parse_project);
    // //iam.googleapis.com/projects/N/locations/global/workloadIdentityPools/POOL/providers/PROVIDER
    let audience = value.get("audience").and_then(Value::as_str).unwrap_or_default();
    let is_plain = audience.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/.-_:".contains(&byte));
    let pool = audience.strip_prefix("//").filter(|_| is_plain).and_then(|rest| rest.split_once("/providers/"));
    let principal = pool.map(|(pool, _)| format!("\"principalSet://{pool}/*\""));
    Ok(Told { kind, account, quota_project, principal })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(content: &str) -> Result<Told, String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.json");
        fs::write(&file, content).unwrap();
        judge(&file)
    }

    fn of(content: &str) -> Result<(Kind, Option<String>), String> {
        told(content).map(|told| (told.kind, told.account))
    }

    #[test]
    fn who_is_to_get_a_role_is_always_named() {
        let audience = "//iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/providers/p";
        let federated =
            format!(r#"{{"type":"external_account","audience":"{audience}","quota_project_id":"my-quota"}}"#);
        let identity = Identity::new(Place::Variable, told(&federated).unwrap());
        let pool = "\"principalSet://iam.googleapis.com/projects/123/locations/global/workloadIdentityPools/pool/*\"";
        assert_eq!(identity.member(), pool);
        assert_eq!(identity.quota_project.as_deref(), Some("my-quota"));
        let login = Identity::new(Place::WellKnown, told(r#"{"type":"authorized_user"}"#).unwrap());
        assert_eq!(login.member(), "user:\"$(gcloud config get-value account)\"");
        let machine = Told { kind: Kind::MetadataServer, account: None, quota_project: None, principal: None };
        let machine = Identity::new(Place::MetadataServer("metadata.google.internal".to_owned()), machine);
        assert!(
            machine.member().starts_with("serviceAccount:\"$(curl -sS -H 'Metadata-Flavor: Google' http://metadata.")
        );
        // What would be a command of somebody else's.
        let hostile = r#"{"type":"external_account","audience":"//x/$(rm)/providers/p","quota_project_id":"$(rm)"}"#;
        let hostile = Identity::new(Place::Variable, told(hostile).unwrap());
        assert!(!format!("{} {hostile:?}", hostile.member()).contains("$(rm)"));
    }

    #[test]
    fn kinds_and_accounts() {
        let account = Some("sa@p.iam.gserviceaccount.com".to_owned());
        let key = r#"{"type":"service_account","client_email":"sa@p.iam.gserviceaccount.com","private_key":"S3CRET"}"#;
        assert_eq!(of(key), Ok((Kind::ServiceAccount, account.clone())));
        assert_eq!(of(r#"{"type":"authorized_user"}"#), Ok((Kind::AuthorizedUser, None)));
        let url = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/sa@p.iam.gserviceaccount.com:generateAccessToken";
        let federated = format!(r#"{{"type":"external_account","service_account_impersonation_url":"{url}"}}"#);
        assert_eq!(of(&federated), Ok((Kind::ExternalAccount, account.clone())));
        let impersonated =
            format!(r#"{{"type":"impersonated_service_account","service_account_impersonation_url":"{url}"}}"#);
        assert_eq!(of(&impersonated), Ok((Kind::Impersonated, account)));
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        assert_eq!(judge(Path::new("/dev/zero")), Err("cannot be used: it is a device".to_owned()));
        assert_eq!(of(&" ".repeat((1 << 20) + 1)), Err("cannot be used: it is larger than 1 MiB".to_owned()));
        assert_eq!(of(&" ".repeat(1 << 20)), Err("is not JSON".to_owned()));
    }

    #[test]
    fn what_cannot_be_used_is_told_and_not_shown() {
        assert_eq!(of("S3CRET"), Err("is not JSON".to_owned()));
        let said = of(r#"{"type":"S3CRET"}"#).unwrap_err();
        assert!(said.starts_with("has a 'type' that is none of service_account") && !said.contains("S3CRET"));
        assert_eq!(of(r#"{"type":"service_account","client_email":"a b@c; rm"}"#), Ok((Kind::ServiceAccount, None)));
        assert!(judge(Path::new("/nowhere")).unwrap_err().starts_with("cannot be read"));
    }
}
