//! TLS towards clients: certificates by the name that a client asks for, and one rustls configuration a socket. A new table brings a new
//! configuration for connections that follow; those that stand keep theirs, so that no reload costs a connection. [`clients`] is about who
//! clients prove to be, [`endpoints`] about the other side.

/// The methods of a rustls verifier that are about signatures, as another verifier does them. Verifiers of clients and of servers are two traits, whose
/// methods for this are the same.
macro_rules! signatures_as_by {
    ($this:ident => $verifier:expr) => {
        fn verify_tls12_signature(
            &$this,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $verifier.verify_tls12_signature(message, certificate, signature)
        }

        fn verify_tls13_signature(
            &$this,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signature: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            $verifier.verify_tls13_signature(message, certificate, signature)
        }

        fn supported_verify_schemes(&$this) -> Vec<rustls::SignatureScheme> {
            $verifier.supported_verify_schemes()
        }
    };
}

pub mod clients;
pub mod endpoints;

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use rustls::{
    ServerConfig, SupportedProtocolVersion,
    client::verify_server_name,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ProducesTickets, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, X509Certificate};

pub use clients::ClientValidation;

use crate::{
    api::v1,
    route::{ListenerConfig, hostname::Hostname},
};

/// A listener's part of TLS.
#[derive(Clone)]
pub struct ListenerTls {
    /// In the order in which they are tried; never empty.
    certificates: Vec<Arc<CertifiedKey>>,
    /// Name of each, and when it runs out.
    expiries: Vec<(String, i64)>,
    /// TLS 1.3 and nothing older.
    only_13: bool,
    /// What clients must prove; `None`: nothing.
    clients: Option<ClientValidation>,
    /// Whether endpoints are told.
    forwards_certificate: bool,
}

impl fmt::Debug for ListenerTls {
    /// Without the keys.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("ListenerTls")
            .field("certificates", &self.certificates.len())
            .field("only_13", &self.only_13)
            .finish()
    }
}

impl PartialEq for ListenerTls {
    /// A certificate names its key.
    fn eq(&self, other: &Self) -> bool {
        let chains = |tls: &Self| tls.certificates.iter().map(|key| key.cert.clone()).collect::<Vec<_>>();
        self.only_13 == other.only_13
            && self.clients == other.clients
            && self.forwards_certificate == other.forwards_certificate
            && chains(self) == chains(other)
    }
}

/// What makes TLS work: algorithms of aws-lc-rs, the post-quantum hybrid X25519MLKEM768 first.
fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider()))
}

/// Keys of session tickets: one for the process, so that a reload of certificates costs no client its session. It rolls over by itself every
/// six hours. `None` if the system has no randomness: then sessions are not resumed.
fn ticketer() -> Option<Arc<dyn ProducesTickets>> {
    static TICKETER: OnceLock<Option<Arc<dyn ProducesTickets>>> = OnceLock::new();
    TICKETER.get_or_init(|| aws_lc_rs::Ticketer::new().ok()).clone()
}

impl ListenerTls {
    /// Reads certificates and keys.
    ///
    /// # Errors
    /// The field that does not hold, and why.
    pub fn new(wire: &v1::Tls) -> Result<Self, (String, String)> {
        if wire.certificates.is_empty() {
            return Err(("certificates".to_owned(), "must hold at least one".to_owned()));
        }
        let mut certificates = Vec::with_capacity(wire.certificates.len());
        let mut expiries = Vec::new();
        for (index, certificate) in wire.certificates.iter().enumerate() {
            let key = certified_key(&certificate.chain_pem, &certificate.key_pem)
                .map_err(|(field, reason)| (format!("certificates[{index}].{field}"), reason))?;
            expiries.extend(expiry(&key).map(|at| (certificate.name.clone(), at)));
            certificates.push(Arc::new(key));
        }
        let versions = versions(wire.min_version)
            .ok_or_else(|| ("min_version".to_owned(), format!("{} is not a version", wire.min_version)))?;
        let clients = wire.client.as_ref().map(ClientValidation::new).transpose();
        let clients = clients.map_err(|reason| ("client.ca_pem".to_owned(), reason))?;
        let only_13 = versions.len() == 1;
        Ok(Self { certificates, expiries, only_13, clients, forwards_certificate: wire.forward_client_certificate })
    }
}

impl ListenerTls {
    /// Names of the certificates, and when each or one of its chain runs out, in seconds since the Unix epoch.
    pub fn expiries(&self) -> &[(String, i64)] {
        &self.expiries
    }
}

const VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

/// The versions from this one of the wire on; `None`: it is none.
fn versions(min: i32) -> Option<&'static [&'static SupportedProtocolVersion]> {
    match v1::tls::Version::try_from(min) {
        Ok(v1::tls::Version::Tls12) => Some(VERSIONS),
        Ok(v1::tls::Version::Tls13) => Some(&VERSIONS[..1]),
        Err(_) => None,
    }
}

/// How a socket speaks TLS.
#[derive(Debug, Clone)]
pub struct SocketTls {
    /// For rustls.
    pub config: Arc<ServerConfig>,
    /// Makes what endpoints are told of a client's certificate; `None`: they are told nothing.
    pub told: Option<ClientValidation>,
}

/// A chain with its key, both in PEM.
///
/// # Errors
/// `chain_pem` or `key_pem`, and what is wrong with it.
pub(crate) fn certified_key(chain_pem: &[u8], key_pem: &[u8]) -> Result<CertifiedKey, (&'static str, String)> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain_pem).collect();
    let chain = chain.map_err(|error| ("chain_pem", format!("is not PEM: {error}")))?;
    if chain.is_empty() {
        return Err(("chain_pem", "has no certificate in PEM".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem)
        .map_err(|error| ("key_pem", format!("has no private key in PEM (PKCS#8, PKCS#1 or SEC1): {error}")))?;
    CertifiedKey::from_der(chain, key, provider())
        .map_err(|error| ("key_pem", format!("does not go with the certificate: {error}")))
}

/// When the first certificate of a chain runs out, in seconds since the Unix epoch.
fn expiry(key: &CertifiedKey) -> Option<i64> {
    let of_one = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed.validity().not_after.timestamp())
    };
    key.cert.iter().filter_map(of_one).min()
}

/// The configuration of a socket, of its listeners that have TLS; `None` if none has.
pub fn server_config(listeners: &[ListenerConfig]) -> Option<SocketTls> {
    let mut by_host: Vec<(Hostname, Vec<Arc<CertifiedKey>>)> = listeners
        .iter()
        .filter_map(|listener| Some((listener.hostname.clone(), listener.tls.as_ref()?.certificates.clone())))
        .collect();
    if by_host.is_empty() {
        return None;
    }
    let now = UnixTime::now().as_secs();
    for listener in listeners {
        for (certificate, at) in listener.tls.iter().flat_map(|tls| tls.expiries()) {
            if u64::try_from(*at).is_ok_and(|at| at < now) {
                tracing::warn!(
                    listener = listener.name,
                    certificate,
                    "a certificate has run out: clients will refuse it"
                );
            }
        }
    }
    by_host.sort_by_cached_key(|(hostname, _)| hostname.precedence());
    let only_13 = listeners.iter().any(|listener| listener.tls.as_ref().is_some_and(|tls| tls.only_13));
    let versions = if only_13 { &VERSIONS[..1] } else { VERSIONS };
    let mut secured = listeners.iter().filter_map(|listener| listener.tls.as_deref());
    let first = secured.next()?;
    if secured.any(|other| other.clients != first.clients) {
        tracing::error!(
            "listeners of one socket ask clients for different certificates: none of them gets a handshake"
        );
        by_host.clear();
    }
    let forwards = listeners.iter().filter_map(|l| l.tls.as_ref()).all(|tls| tls.forwards_certificate);
    // Fails only where the provider has no algorithms for the versions.
    let builder = ServerConfig::builder_with_provider(provider().clone()).with_protocol_versions(versions).ok()?;
    let builder = match &first.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => builder.with_client_cert_verifier(clients.verifier()),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates { by_host }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A ticket of a socket that asks for nothing must not stand for a certificate here, nor one from before an authority lost its trust.
    if first.clients.is_some() {
        config.send_tls13_tickets = 0;
    } else if let Some(ticketer) = ticketer() {
        config.ticketer = ticketer;
    }
    // Tickets hold all that is needed.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Some(SocketTls { config: Arc::new(config), told: first.clients.clone().filter(|_| forwards) })
}

/// Certificates of the listeners of one socket.
#[derive(Debug)]
struct Certificates {
    /// The most specific host first.
    by_host: Vec<(Hostname, Vec<Arc<CertifiedKey>>)>,
}

impl ResolvesServerCert for Certificates {
    /// Of the listener that the name belongs to, the first certificate that is for the name and of a kind that the client takes; otherwise the
    /// first of such a kind. A name that belongs to no listener gets no handshake.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let keys = match &name {
            Some(name) => &self.by_host.iter().find(|(hostname, _)| hostname.matches(name))?.1,
            // Without a name, the listener for any host, or the only ones there are.
            None => &self.by_host.last()?.1,
        };
        let mut fitting = keys.iter().filter(|key| key.key.choose_scheme(hello.signature_schemes()).is_some());
        let first = fitting.clone().next()?;
        let named = name.and_then(|name| fitting.find(|key| is_for(key, &name)));
        Some(named.unwrap_or(first).clone())
    }
}

/// Whether a certificate is for a name.
pub(crate) fn is_for(key: &CertifiedKey, name: &str) -> bool {
    let holds = || {
        let certificate = ParsedCertificate::try_from(key.end_entity_cert().ok()?).ok()?;
        verify_server_name(&certificate, &ServerName::try_from(name).ok()?).ok()
    };
    holds().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate(names: &[&str]) -> v1::Certificate {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        v1::Certificate {
            name: "test/cert".into(),
            chain_pem: made.cert.pem().into_bytes(),
            key_pem: made.signing_key.serialize_pem().into_bytes(),
        }
    }

    #[track_caller]
    fn check(certificates: Vec<v1::Certificate>, field: &str, reason: &str) {
        let error = ListenerTls::new(&v1::Tls { certificates, ..Default::default() }).unwrap_err();
        assert_eq!(error.0, field);
        assert!(error.1.contains(reason), "{}", error.1);
    }

    #[test]
    fn what_is_no_certificate_is_refused_with_its_field() {
        let good = certificate(&["a.test"]);
        let other = certificate(&["b.test"]);
        check(vec![], "certificates", "at least one");
        let key = |key_pem: &[u8]| v1::Certificate { key_pem: key_pem.to_vec(), ..good.clone() };
        check(vec![key(b"")], "certificates[0].key_pem", "has no private key");
        check(vec![key(&other.key_pem)], "certificates[0].key_pem", "does not go with the certificate");
        let chain = v1::Certificate { chain_pem: b"nonsense".to_vec(), ..good.clone() };
        check(vec![good.clone(), chain], "certificates[1].chain_pem", "has no certificate");
        assert!(
            ListenerTls::new(&v1::Tls { certificates: vec![good], min_version: 1, ..Default::default() })
                .unwrap()
                .only_13
        );
    }

    #[test]
    fn a_chain_runs_out_with_the_first_of_its_certificates() {
        let until = |year: i32| {
            let mut params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            let key = rcgen::KeyPair::generate().unwrap();
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        };
        let ((leaf, key), (above, _)) = (until(2032), until(2031));
        let chain_pem = format!("{leaf}{above}").into_bytes();
        let both = v1::Certificate { name: "test/chain".into(), chain_pem, key_pem: key.into_bytes() };
        let tls = ListenerTls::new(&v1::Tls { certificates: vec![both], ..Default::default() }).unwrap();
        assert_eq!(tls.expiries(), [("test/chain".to_owned(), 1_924_992_000)]);
    }

    #[test]
    fn keys_are_not_shown() {
        let certificate = certificate(&["a.test"]);
        let wire = v1::Tls { certificates: vec![certificate], ..Default::default() };
        let shown = format!("{wire:?} {:?}", ListenerTls::new(&wire).unwrap());
        assert!(!shown.contains("key_pem: [") && !shown.contains("PRIVATE"), "{shown}");
    }
}
