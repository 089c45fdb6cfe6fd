//! TLS towards endpoints: whom they must prove to be, and who the proxy is to them. One value a backend, shared by its endpoints, so that sessions
//! are resumed from one connection to the next.

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{certified_key, provider, versions};
use crate::api::v1;

/// How endpoints of a backend are spoken to over TLS.
#[derive(Clone)]
pub struct EndpointTls {
    /// What it was made of: two that were made of the same are the same.
    wire: v1::EndpointTls,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl fmt::Debug for EndpointTls {
    /// Without the key.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("EndpointTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PartialEq for EndpointTls {
    fn eq(&self, other: &Self) -> bool {
        self.wire == other.wire
    }
}

impl EndpointTls {
    /// Reads names, authorities and the proxy's own certificate.
    ///
    /// # Errors
    /// The field that does not hold, and why.
    pub fn new(wire: &v1::EndpointTls) -> Result<Self, (String, String)> {
        let name_of = |text: &str, field: &str| {
            ServerName::try_from(text.to_owned())
                .map_err(|_| (field.to_owned(), format!("{text:?} is not the name of a host")))
        };
        let name = name_of(&wire.hostname, "hostname")?;
        let alternatives = wire.subject_alt_names.iter().enumerate();
        let names = alternatives.map(|(index, text)| name_of(text, &format!("subject_alt_names[{index}]")));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let roots = match wire.ca_pem.as_slice() {
            _ if wire.nobody => Arc::new(RootCertStore::empty()),
            [] => system_roots(),
            pem => Arc::new(roots(pem).map_err(|reason| ("ca_pem".to_owned(), reason))?),
        };
        let verifier: Arc<dyn ServerCertVerifier> = if roots.is_empty() {
            Arc::new(Unverified { accepts: false })
        } else {
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider().clone())
                .build()
                .map_err(|error| ("ca_pem".to_owned(), format!("cannot be used: {error}")))?;
            if names.is_empty() { verifier } else { Arc::new(AnyName { verifier, names }) }
        };
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(
                versions(wire.min_version)
                    .ok_or_else(|| ("min_version".to_owned(), format!("{} is not a version", wire.min_version)))?,
            )
            .map_err(|error| ("min_version".to_owned(), error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &wire.client_certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let key = certified_key(&certificate.chain_pem, &certificate.key_pem)
                    .map_err(|(field, reason)| (format!("client_certificate.{field}"), reason))?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
        };
        Ok(Self { wire: wire.clone(), config: Arc::new(config), name })
    }

    /// With whoever answers, for health checks: it tells nothing to anybody.
    ///
    /// # Errors
    /// If `host` is neither a name nor an address.
    pub fn unverified(host: &str) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is not the name of a host"))?;
        let builder = ClientConfig::builder_with_provider(provider().clone())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .map_err(|error| error.to_string())?;
        let config = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified { accepts: true }))
            .with_no_client_auth();
        Ok(Self { wire: v1::EndpointTls::default(), config: Arc::new(config), name })
    }

    /// Speaks TLS over a connection, and in it `protocol` (ALPN), which an endpoint that knows ALPN must agree to.
    ///
    /// # Errors
    /// If the handshake fails.
    pub async fn connect(&self, socket: TcpStream, protocol: &[u8]) -> io::Result<TlsStream<TcpStream>> {
        let connector = TlsConnector::from(self.config.clone());
        let stream = connector.with_alpn(vec![protocol.to_vec()]).connect(self.name.clone(), socket).await?;
        match stream.get_ref().1.alpn_protocol() {
            Some(agreed) if agreed != protocol => Err(io::Error::other("another protocol was agreed on")),
            // HTTP/1.1 needs no agreement; HTTP/2 does (RFC 9113 §3.3).
            None if protocol == b"h2" => Err(io::Error::other("HTTP/2 was not agreed on (ALPN)")),
            _ => Ok(stream),
        }
    }
}

/// Certificates of authorities, in PEM.
pub(crate) fn roots(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| format!("is not PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("has a certificate that is none: {error}"))?;
    }
    if roots.is_empty() { Err("has no certificate in PEM".to_owned()) } else { Ok(roots) }
}

/// The authorities that the machine trusts, read once. If it trusts none, nobody can prove anything, and no connection comes about.
pub(crate) fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let read = || {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "certificates of the system's authorities");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::error!("the system trusts no authority: no endpoint can prove who it is");
        }
        Arc::new(roots)
    };
    ROOTS.get_or_init(read).clone()
}

/// Takes a certificate that is for any of some names (`subjectAltNames`), whatever name was asked for.
#[derive(Debug)]
struct AnyName {
    verifier: Arc<WebPkiServerVerifier>,
    names: Vec<ServerName<'static>>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verify = |name| self.verifier.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let mut failure = None;
        for name in &self.names {
            match verify(name) {
                Ok(verified) => return Ok(verified),
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or_else(|| verify(asked), Err)
    }

    signatures_as_by!(self => self.verifier);
}

/// Takes any certificate, or none.
#[derive(Debug)]
struct Unverified {
    accepts: bool,
}

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !self.accepts {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
