//! A certificate authority for the length of one run, and a server certificate of it.

use crate::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// One that speaks HTTP/2 or HTTP/1.1, and one that speaks HTTP/1.1 only. The authority's certificate goes to a file.
pub(super) fn acceptors(authority_file: &Path) -> Result<[TlsAcceptor; 2]> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With the server's name for it OpenSSL would take the server's certificate for its own issuer.
    params.distinguished_name.push(DnType::CommonName, "bench authority");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    fs::write(authority_file, certificate.pem())?;
    let issuer = Issuer::new(params, key);
    let server_key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&server_key, &issuer)?;
    let mut acceptors = Vec::new();
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![server.der().clone()], key)?;
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        acceptors.push(TlsAcceptor::from(Arc::new(config)));
    }
    acceptors.try_into().map_err(|_| "there are two acceptors".into())
}
