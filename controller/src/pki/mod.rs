//! Mutual TLS between controllers and proxies: both sides show a certificate of one authority. Certificates come from files (cert-manager's,
//! or anybody's), or from Secrets that the controller keeps.

pub mod authority;
pub mod files;
pub mod rotation;
pub mod secrets;

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

use self::authority::Pair;

/// HTTP/2, which gRPC needs.
const ALPN: &[u8] = b"h2";

/// What one side shows, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Material {
    /// Its certificate, with those between it and the authority, and its key.
    pub own: Pair,
    /// Certificates of the authorities that the other side's must be of, PEM.
    pub authorities: String,
}

/// What is no certificate, no key, or does not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {reason}")]
pub struct PkiError {
    /// Where it stands.
    pub what: String,
    /// What is wrong.
    pub reason: String,
}

impl PkiError {
    /// Something is wrong with `what`.
    pub fn new(what: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { what: what.into(), reason: reason.to_string() }
    }
}

/// How a controller speaks TLS: it shows its certificate, and takes those only who show one of the same authority.
///
/// # Errors
/// What of it cannot be used.
pub fn server_config(material: &Material) -> Result<Arc<ServerConfig>, PkiError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in certificates("the authority's certificate", &material.authorities)? {
        roots.add(certificate).map_err(|error| PkiError::new("the authority's certificate", error))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| PkiError::new("the authority's certificate", error))?;
    let chain = certificates("the controller's certificate", &material.own.certificate)?;
    let key = PrivateKeyDer::from_pem_slice(material.own.key.as_bytes())
        .map_err(|error| PkiError::new("the controller's key", error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| PkiError::new("TLS", error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)
        .map_err(|error| PkiError::new("the controller's certificate and key", error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(found) if found.is_empty() => Err(PkiError::new(what, "holds no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(PkiError::new(what, error)),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::civil::date;

    use super::{
        authority::{Role, authority, issue},
        *,
    };

    fn material() -> Material {
        let today = date(2026, 1, 1);
        let ca = authority(today).unwrap();
        let own = issue(&ca, Role::Server, today).unwrap();
        Material { own, authorities: ca.certificate }
    }

    #[test]
    fn what_the_authority_issues_can_be_served_with() {
        assert!(server_config(&material()).is_ok());
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let check = |material: &Material, expected: &str| {
            let error = server_config(material).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let good = material();
        check(
            &Material { authorities: String::new(), ..good.clone() },
            "the authority's certificate: holds no certificate",
        );
        let own = Pair { key: "nonsense".to_owned(), ..good.own.clone() };
        check(&Material { own, ..good.clone() }, "the controller's key");
        let own = Pair { key: material().own.key, ..good.own.clone() };
        check(&Material { own, ..good }, "the controller's certificate and key");
    }
}
