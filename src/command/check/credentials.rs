//! Who the gateway would be towards Google: which credentials there are, and of which kind.
//!
//! The search is that of Google's library: the file that `GOOGLE_APPLICATION_CREDENTIALS` names, gcloud's well-known
//! file, the metadata server. Of a file only kind and account are ever shown.

use crate::config::{Config, Environment, Problem, is_address};
use crate::metadata;
use serde_json::Value;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

/// Where gcloud keeps the credentials of `gcloud auth application-default login`, below the home folder.
const WELL_KNOWN: &str = ".config/gcloud/application_default_credentials.json";

/// Which credentials would be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    /// What kind they are of.
    pub(super) kind: Kind,
    place: Place,
    /// The service account's address, where the credentials tell it.
    pub(super) account: Option<String>,
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
    /// How gcloud writes who is to get a role.
    pub(super) fn member(&self) -> String {
        match (&self.account, self.kind) {
            (Some(account), _) => format!("serviceAccount:{account}"),
            (None, Kind::AuthorizedUser) => "user:\"$(gcloud config get-value account)\"".to_owned(),
            (None, Kind::ExternalAccount) => "PRINCIPAL_OF_THE_WORKLOAD".to_owned(),
            (None, _) => "serviceAccount:ACCOUNT".to_owned(),
        }
    }

    /// The same, with the account that only the metadata server can tell.
    pub(super) async fn completed(mut self) -> Self {
        if let Place::MetadataServer(host) = &self.place {
            self.account = metadata::service_account(host).await;
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
    if let Some(file) = &config.credentials_file {
        let (kind, account) = judge(file).map_err(|message| problem(format!("names a file that {message}")))?;
        return Ok(Identity { kind, place: Place::Variable, account });
    }
    let well_known = environment.get("HOME").map(|home| PathBuf::from(home).join(WELL_KNOWN));
    if let Some(file) = well_known.filter(|file| file.exists()) {
        let (kind, account) =
            judge(&file).map_err(|message| problem(format!("is not set, and ~/{WELL_KNOWN} {message}")))?;
        return Ok(Identity { kind, place: Place::WellKnown, account });
    }
    let place = Place::MetadataServer(config.metadata_host.clone());
    Ok(Identity { kind: Kind::MetadataServer, place, account: None })
}

/// The kind of a file of credentials and its account, or what is wrong with it.
fn judge(file: &Path) -> Result<(Kind, Option<String>), String> {
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
    Ok((kind, account))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(content: &str) -> Result<(Kind, Option<String>), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("credentials.json");
        fs::write(&file, content).unwrap();
        judge(&file)
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
    fn what_cannot_be_used_is_told_and_not_shown() {
        assert_eq!(of("S3CRET"), Err("is not JSON".to_owned()));
        let said = of(r#"{"type":"S3CRET"}"#).unwrap_err();
        assert!(said.starts_with("has a 'type' that is none of service_account") && !said.contains("S3CRET"));
        assert_eq!(of(r#"{"type":"service_account","client_email":"a b@c; rm"}"#), Ok((Kind::ServiceAccount, None)));
        assert!(judge(Path::new("/nowhere")).unwrap_err().starts_with("cannot be read"));
    }
}
