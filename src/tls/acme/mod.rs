//! Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt: issued, kept, renewed in time.
//!
//! The authority asks its question on the gateway's own port (TLS-ALPN-01, RFC 8737), so that no other has to be open.
//! `challenges` answers it, `cache` keeps account and certificate over restarts, `http` carries the requests.

mod cache;
mod challenges;
mod http;

pub(super) use challenges::Challenges;

use super::Current;
use super::certificate::Certificate;
use crate::log::{Log, Severity};
use cache::Cache;
use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, NewAccount, NewOrder, Order, OrderStatus,
    RetryPolicy,
};
use rustls::ClientConfig;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Waits after failures, the last one again and again. Let's Encrypt takes five failed validations an hour for a name.
const WAITS_AFTER_FAILURE: [Duration; 4] =
    [Duration::from_secs(60), Duration::from_secs(300), Duration::from_secs(900), Duration::from_secs(3600)];
/// How long the authority may take to judge an order, and again to issue the certificate.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);
/// Even if certificates come that are valid for no time at all, they are not asked for more often than this.
const MIN_BETWEEN_ORDERS: Duration = Duration::from_secs(5);
/// The longest sleep at a time: the wall clock may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

/// What ACME needs to be told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The names in the certificate, in lower case.
    pub domains: Vec<String>,
    /// Where the authority may write to.
    pub email: Option<String>,
    /// The folder that keeps account and certificate over restarts.
    pub cache: PathBuf,
    /// The authority's directory.
    pub directory_url: String,
}

/// Has certificates issued.
pub(super) struct Issuer {
    settings: Settings,
    cache: Cache,
    challenges: Arc<Challenges>,
    tls: Arc<ClientConfig>,
    log: Log,
}

impl Issuer {
    /// Prepares the cache.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(super) fn new(
        settings: Settings,
        challenges: Arc<Challenges>,
        tls: Arc<ClientConfig>,
        log: Log,
    ) -> Result<Self, String> {
        let cache = Cache::open(&settings)
            .map_err(|error| format!("ACME_CACHE_DIR: names a folder that cannot be written to: {}", error.kind()))?;
        Ok(Self { settings, cache, challenges, tls, log })
    }

    /// Serves the cached certificate if there is one, and for ever has a new one issued when it is time.
    pub(super) async fn keep_up_to_date(self, current: Arc<Current>) {
        if self.cache.is_open_to_others() {
            self.log.event(
                Severity::Warning,
                "ACME_CACHE_DIR: everybody may write to this folder, which holds private keys",
            );
        }
        let mut in_use = self.cache.certificate();
        let mut wait = Duration::ZERO;
        if let Some(certificate) = &in_use {
            current.replace(certificate);
            let until = certificate.valid_until();
            self.log.event(Severity::Info, &format!("certificate from ACME_CACHE_DIR, valid until {until}"));
            wait = time_to_renewal(certificate);
        }
        let mut failures = 0;
        loop {
            while !wait.is_zero() {
                let nap = wait.min(LOOK_EVERY);
                tokio::time::sleep(nap).await;
                wait -= nap;
            }
            wait = match self.issue().await {
                Ok(certificate) => {
                    failures = 0;
                    current.replace(&certificate);
                    let until = certificate.valid_until();
                    self.log.event(Severity::Info, &format!("new certificate by ACME, valid until {until}"));
                    // By its lifetime and not by the clock: one that is wrong must not order again and again.
                    let wait = (certificate.lifetime() * 2 / 3).max(MIN_BETWEEN_ORDERS);
                    in_use = Some(certificate);
                    wait
                }
                Err(error) => {
                    let wait = WAITS_AFTER_FAILURE[failures.min(WAITS_AFTER_FAILURE.len() - 1)];
                    failures += 1;
                    let next = wait.as_secs() / 60;
                    let state = in_use.as_ref().map_or_else(
                        || "there is none to serve".to_owned(),
                        |certificate| format!("the one in use is valid until {}", certificate.valid_until()),
                    );
                    let message = format!("no certificate by ACME: {error}; {state}; next attempt in {next} min");
                    self.log.event(Severity::Error, &message);
                    wait
                }
            };
        }
    }

    /// One certificate, from order to cache.
    async fn issue(&self) -> Result<Certificate, Error> {
        let account = self.account().await?;
        let identifiers: Vec<_> = self.settings.domains.iter().cloned().map(Identifier::Dns).collect();
        let mut order = match account.new_order(&NewOrder::new(&identifiers)).await {
            // The authority has forgotten the account, as one for tests does when it starts again.
            Err(Error::Api(problem)) if is_unknown_account(problem.r#type.as_deref()) => {
                self.cache.forget_account();
                self.account().await?.new_order(&NewOrder::new(&identifiers)).await?
            }
            order => order?,
        };
        let answered = self.answer_challenges(&mut order).await;
        let issued = match answered {
            Ok(()) => finish(&mut order).await,
            Err(error) => Err(error),
        };
        self.challenges.clear();
        let (chain, key) = issued?;
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes())
            .map_err(|error| Error::Other(format!("the authority's certificate {error}").into()))?;
        if let Err(error) = self.cache.keep_certificate(&chain, &key) {
            let message = format!("ACME_CACHE_DIR: the new certificate cannot be kept: {}", error.kind());
            self.log.event(Severity::Error, &message);
        }
        Ok(certificate)
    }

    /// The account at the authority, made when there is none.
    async fn account(&self) -> Result<Account, Error> {
        let builder = || Account::builder_with_http(Box::new(http::Client::new(self.tls.clone())));
        if let Some(credentials) = self.cache.account() {
            match builder().from_credentials(credentials).await {
                // What no attempt can ever use is as good as missing.
                Err(Error::KeyRejected | Error::Crypto) => self.cache.forget_account(),
                account => return account,
            }
        }
        let contact: Vec<String> = self.settings.email.iter().map(|email| format!("mailto:{email}")).collect();
        let contact: Vec<&str> = contact.iter().map(String::as_str).collect();
        // Whoever sets ACME_DOMAINS agrees: the documentation of the variable says so.
        let account = NewAccount { contact: &contact, terms_of_service_agreed: true, only_return_existing: false };
        let (account, credentials) = builder().create(&account, self.settings.directory_url.clone(), None).await?;
        if let Err(error) = self.cache.keep_account(&credentials) {
            let message = format!("ACME_CACHE_DIR: the new account cannot be kept: {}", error.kind());
            self.log.event(Severity::Error, &message);
        }
        Ok(account)
    }

    /// Puts the answers in place, then lets the authority ask.
    async fn answer_challenges(&self, order: &mut Order) -> Result<(), Error> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = authorization?;
            if authorization.status == AuthorizationStatus::Valid {
                continue;
            }
            let name = authorization.identifier().to_string();
            let mut challenge = authorization
                .challenge(ChallengeType::TlsAlpn01)
                .ok_or(Error::Unsupported("TLS-ALPN-01, which is all that the gateway can answer"))?;
            self.challenges.put(&name, challenge.key_authorization().digest().as_ref())?;
            challenge.set_ready().await?;
        }
        Ok(())
    }
}

/// Waits for the authority's judgement and takes the certificate: chain and key in PEM form.
async fn finish(order: &mut Order) -> Result<(String, String), Error> {
    let patience = RetryPolicy::new().timeout(ORDER_TIMEOUT);
    if order.poll_ready(&patience).await? != OrderStatus::Ready {
        return Err(why_refused(order).await);
    }
    let key = order.finalize().await?;
    let chain = order.poll_certificate(&patience).await?;
    Ok((chain, key))
}

/// What the authority holds against the order. It says so with the challenges only.
async fn why_refused(order: &mut Order) -> Error {
    let mut authorizations = order.authorizations();
    while let Some(Ok(mut authorization)) = authorizations.next().await {
        if authorization.refresh().await.is_ok()
            && let Some(problem) = authorization.challenges.iter().find_map(|challenge| challenge.error.clone())
        {
            return problem.into();
        }
    }
    Error::Str("the authority refused the order and did not say why")
}

fn is_unknown_account(problem: Option<&str>) -> bool {
    problem == Some("urn:ietf:params:acme:error:accountDoesNotExist")
}

/// A certificate is renewed when a third of its life is left, as Let's Encrypt recommends.
fn time_to_renewal(certificate: &Certificate) -> Duration {
    certificate.time_left().unwrap_or_default().saturating_sub(certificate.lifetime() / 3)
}
