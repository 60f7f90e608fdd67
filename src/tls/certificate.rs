//! A certificate chain with its private key, read from PEM and judged.

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{Error, InconsistentKeys};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use yasna::tags::{TAG_GENERALIZEDTIME, TAG_UTCTIME};
use yasna::{ASN1Error, ASN1ErrorKind, ASN1Result, BERReader, Tag};

/// A chain that can be served, with the time in which clients accept it.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    /// When it begins to be valid, in seconds since 1970.
    not_before: i64,
    /// When it stops.
    not_after: i64,
}

/// What is wrong with a certificate or its key. No text of the files stands in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The chain has no certificate or one that is none.
    #[error("has no certificate in PEM form, or one that cannot be read")]
    Chain,
    /// There is no key that can be used.
    #[error(
        "has no private key in PEM form, or one that cannot be used (RSA with 2048, 3072 or 4096 bits, ECDSA on P-256 or \
         P-384 with its public key and Ed25519 can, encrypted keys cannot)"
    )]
    Key,
    /// Key and certificate do not belong together.
    #[error("has a key that does not belong to the certificate")]
    Mismatch,
}

impl Certificate {
    /// Reads a chain, the server's own certificate first, and its key.
    ///
    /// # Errors
    /// What is wrong with either.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| Unusable::Chain)?;
        let (not_before, not_after) = chain.first().and_then(|leaf| validity(leaf).ok()).ok_or(Unusable::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| Unusable::Key)?;
        let key = ring::default_provider().key_provider.load_private_key(key).map_err(|_| Unusable::Key)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            // A key that does not tell its public half cannot be compared.
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => return Err(Unusable::Mismatch),
            Err(_) => return Err(Unusable::Chain),
        }
        Ok(Self { key: Arc::new(key), not_before, not_after })
    }

    /// What handshakes need.
    pub(super) fn key(&self) -> Arc<CertifiedKey> {
        self.key.clone()
    }

    /// How long it is valid for in all.
    pub(super) fn lifetime(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.not_after.saturating_sub(self.not_before)).unwrap_or(0))
    }

    /// Whether its time has come.
    #[must_use]
    pub fn is_valid_yet(&self) -> bool {
        self.not_before <= jiff::Timestamp::now().as_second()
    }

    /// How long it is still valid; `None` when it is no longer.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let left = self.not_after.saturating_sub(jiff::Timestamp::now().as_second());
        u64::try_from(left).ok().filter(|left| *left > 0).map(Duration::from_secs)
    }

    /// When it begins to be valid, as text.
    #[must_use]
    pub fn valid_from(&self) -> String {
        show_time(self.not_before)
    }

    /// When it stops to be valid, as text.
    #[must_use]
    pub fn valid_until(&self) -> String {
        show_time(self.not_after)
    }
}

fn show_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "an unknown day".to_owned(), |time| time.to_string())
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("valid_until", &self.valid_until()).finish_non_exhaustive()
    }
}

/// Both ends of a certificate's validity (RFC 5280, section 4.1), in seconds since 1970.
fn validity(certificate: &[u8]) -> ASN1Result<(i64, i64)> {
    yasna::parse_der(certificate, |reader| {
        reader.read_sequence(|certificate| {
            let validity = certificate.next().read_sequence(|body| {
                body.read_optional(|reader| reader.read_tagged(Tag::context(0), |version| version.read_der()))?;
                let (_serial, _algorithm, _issuer) =
                    (body.next().read_der()?, body.next().read_der()?, body.next().read_der()?);
                let validity =
                    body.next().read_sequence(|ends| Ok((read_time(ends.next())?, read_time(ends.next())?)))?;
                // Subject, public key, identifiers, extensions.
                while body.read_optional(|reader| reader.read_der())?.is_some() {}
                Ok(validity)
            })?;
            let (_algorithm, _signature) = (certificate.next().read_der()?, certificate.next().read_der()?);
            Ok(validity)
        })
    })
}

fn read_time(reader: BERReader<'_, '_>) -> ASN1Result<i64> {
    match reader.lookahead_tag()? {
        TAG_UTCTIME => Ok(reader.read_utctime()?.datetime().unix_timestamp()),
        TAG_GENERALIZEDTIME => Ok(reader.read_generalized_time()?.datetime().unix_timestamp()),
        _ => Err(ASN1Error::new(ASN1ErrorKind::Invalid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn issue(from: (i32, u8, u8), until: (i32, u8, u8)) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["gateway.example".to_owned()]).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_tells_how_long_it_is_valid() {
        let (chain, key) = issue((2020, 1, 2), (2020, 4, 1));
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(certificate.lifetime(), Duration::from_secs(90 * 86_400));
        assert_eq!(certificate.time_left(), None);
        assert!(certificate.is_valid_yet());
        assert!(format!("{certificate:?}").contains("2020-04-01T00:00:00Z"));
        assert!(!format!("{certificate:?}").contains("PRIVATE"));
        // Years from 2050 on are spelled in another way.
        let (chain, key) = issue((2049, 12, 31), (2050, 1, 2));
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(certificate.lifetime(), Duration::from_secs(2 * 86_400));
        assert!(certificate.time_left().is_some());
        assert!(!certificate.is_valid_yet());
        assert_eq!(certificate.valid_from(), "2049-12-31T00:00:00Z");
    }

    #[test]
    fn what_cannot_be_served_is_refused() {
        let (chain, key) = issue((2020, 1, 1), (2040, 1, 1));
        let (_, other) = issue((2020, 1, 1), (2040, 1, 1));
        let judge = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes()).err();
        assert_eq!(judge(&chain, &key), None);
        assert_eq!(judge(&chain, &other), Some(Unusable::Mismatch));
        assert_eq!(judge(&chain, "no key"), Some(Unusable::Key));
        assert_eq!(judge(&chain, &chain), Some(Unusable::Key));
        assert_eq!(judge("", &key), Some(Unusable::Chain));
        assert_eq!(judge(&key, &key), Some(Unusable::Chain));
        let hollow = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        assert_eq!(judge(hollow, &key), Some(Unusable::Chain));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..500, flip in 1u8..) {
            let _ = validity(&bytes);
            let _ = Certificate::from_pem(&bytes, &bytes);
            let (chain, key) = issue((2020, 1, 1), (2040, 1, 1));
            let mut der = CertificateDer::from_pem_slice(chain.as_bytes()).unwrap().to_vec();
            let at = at % der.len();
            der[at] ^= flip;
            let _ = validity(&der);
            let _ = key;
        }
    }
}
