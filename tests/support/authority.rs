//! A certificate authority of a test's own.
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The authority.
pub(crate) struct Authority {
    /// Its certificate, in PEM.
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// The names by which tests call.
const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A certificate with its key, both in PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = KeyPair::generate().expect("a key pair");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let pem = params.self_signed(&key).expect("a certificate").pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// A certificate for the names by which tests call.
    pub(crate) fn issue(&self) -> Pair {
        self.issue_for(&NAMES)
    }

    /// A certificate for these names.
    pub(crate) fn issue_for(&self, names: &[&str]) -> Pair {
        self.sign(names, |_| {})
    }

    /// A certificate that was good until yesteryear.
    pub(crate) fn issue_expired(&self) -> Pair {
        self.issue_between(2020, 2021)
    }

    /// A certificate that will be good in a distant year.
    pub(crate) fn issue_for_later(&self) -> Pair {
        self.issue_between(2999, 3000)
    }

    /// A certificate that is good from one new year to the other.
    fn issue_between(&self, first: i32, last: i32) -> Pair {
        self.sign(&NAMES, |params| {
            params.not_before = rcgen::date_time_ymd(first, 1, 1);
            params.not_after = rcgen::date_time_ymd(last, 1, 1);
        })
    }

    fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let key = KeyPair::generate().expect("a key pair");
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("good names");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer);
        Pair { chain: certificate.expect("a certificate").pem(), key: key.serialize_pem() }
    }

    /// A store that trusts this authority and no other.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("its own certificate");
        roots.add(certificate).expect("a certificate");
        roots
    }
}

impl Pair {
    /// The certificate as it stands on the wire.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.chain.as_bytes()).expect("its own certificate")
    }
}
