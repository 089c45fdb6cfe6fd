//! Who clients prove to be: certificates that lead to an authority that is trusted, and what endpoints are told of them.

use std::{fmt, fmt::Write as _, sync::Arc};

use aws_lc_rs::digest;
use http::HeaderValue;
use rustls::{
    DistinguishedName,
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{endpoints, provider};
use crate::api::v1;

/// A subject longer than this is not passed on: a header has to fit what endpoints take.
const TOLD_BYTES_MAX: usize = 4096;

/// What clients must prove.
#[derive(Clone)]
pub struct ClientValidation {
    wire: v1::ClientValidation,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for ClientValidation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ClientValidation").field("optional", &self.wire.optional).finish_non_exhaustive()
    }
}

impl PartialEq for ClientValidation {
    fn eq(&self, other: &Self) -> bool {
        self.wire == other.wire
    }
}

impl ClientValidation {
    /// Reads the authorities.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(wire: &v1::ClientValidation) -> Result<Self, String> {
        let roots = Arc::new(endpoints::roots(&wire.ca_pem)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider().clone())
            .build()
            .map_err(|error| format!("cannot be used: {error}"))?;
        Ok(Self { wire: wire.clone(), verifier })
    }

    /// For rustls.
    pub fn verifier(&self) -> Arc<dyn ClientCertVerifier> {
        if self.wire.optional { Arc::new(Lenient(self.verifier.clone())) } else { self.verifier.clone() }
    }

    /// What endpoints are told of a certificate, in the manner of Envoy's `x-forwarded-client-cert`; `None` if it does not hold.
    pub fn told(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Option<HeaderValue> {
        let (end_entity, intermediates) = chain.split_first()?;
        self.verifier.verify_client_cert(end_entity, intermediates, now).ok()?;
        let (_, certificate) = X509Certificate::from_der(end_entity).ok()?;
        let mut told = String::from("Hash=");
        for byte in digest::digest(&digest::SHA256, end_entity).as_ref() {
            let _ = write!(told, "{byte:02x}");
        }
        let _ = write!(told, ";Subject=\"{}\"", quoted(&certificate.subject().to_string()));
        let names = certificate.subject_alternative_name().ok().flatten();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            // A list of pairs cannot hold what ends one of them.
            let plain =
                |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b';' | b',' | b'"' | b'='));
            let _ = match name {
                GeneralName::URI(uri) if plain(uri) => write!(told, ";URI={uri}"),
                GeneralName::DNSName(name) if plain(name) => write!(told, ";DNS={name}"),
                _ => Ok(()),
            };
        }
        HeaderValue::from_str(&told).ok().filter(|told| told.len() <= TOLD_BYTES_MAX)
    }
}

/// Within double quotes, in ASCII.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            ' '..='~' => quoted.push(char),
            _ => quoted.extend(char.escape_unicode()),
        }
    }
    quoted
}

/// Lets everybody in. Who has proved what is looked at afterwards.
#[derive(Debug)]
struct Lenient(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    signatures_as_by!(self => self.0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_quotes_cannot_end_them() {
        for (text, expected) in [("CN=a", "CN=a"), ("CN=\"a\\", "CN=\\\"a\\\\"), ("CN=\u{e9}\n", "CN=\\u{e9}\\u{a}")] {
            assert_eq!(quoted(text), expected);
        }
    }
}
