//! A certificate authority for controllers and proxies, and what it issues: pure but for the keys, which the cryptography library draws.

use k8s_openapi::jiff::{ToSpan, civil::Date};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// What every controller's certificate names, and what proxies expect unless they are told otherwise. Addresses of pods come and go.
pub const SERVER_NAME: &str = "trimtab-controller";

/// What every proxy's certificate names.
const CLIENT_NAME: &str = "trimtab-proxy";

/// The name of the authority. It is the same for each: issuers are told apart by their keys.
const AUTHORITY_NAME: &str = "Trimtab";

/// How long an authority is good for.
const AUTHORITY_YEARS: i32 = 10;
/// How long a certificate is good for, in days. A new one is issued in the last third of that.
pub const CERTIFICATE_DAYS: i32 = 90;
/// Clocks of machines may differ by as much.
const BACKDATED_DAYS: i32 = 1;

/// A certificate (or several) and the key of the first, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Pair(…)")
    }
}

/// Who a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A controller.
    Server,
    /// A proxy.
    Client,
}

/// A new authority.
///
/// # Errors
/// The cryptography library refuses.
pub fn authority(today: Date) -> Result<Pair, rcgen::Error> {
    let params = authority_params(today);
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: key.serialize_pem() })
}

/// A certificate of `authority`.
///
/// # Errors
/// The authority's key is none, or the cryptography library refuses.
pub fn issue(authority: &Pair, role: Role, today: Date) -> Result<Pair, rcgen::Error> {
    // Who issued is written down by name and key; what else the authority's certificate says is not needed.
    let issuer = Issuer::new(authority_params(today), KeyPair::from_pem(&authority.key)?);
    let (name, usage) = match role {
        Role::Server => (SERVER_NAME, ExtendedKeyUsagePurpose::ServerAuth),
        Role::Client => (CLIENT_NAME, ExtendedKeyUsagePurpose::ClientAuth),
    };
    let mut params = CertificateParams::new(vec![name.to_owned()])?;
    params.distinguished_name = named(name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, today.saturating_sub(BACKDATED_DAYS.days()), today.saturating_add(CERTIFICATE_DAYS.days()));
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: key.serialize_pem() })
}

/// Whether a certificate that was issued on `issued` is to be replaced.
pub fn is_due(issued: Date, today: Date) -> bool {
    issued.saturating_add((CERTIFICATE_DAYS * 2 / 3).days()) <= today
}

/// The day on which an authority that was made on `issued` ends.
pub fn expires(issued: Date) -> Date {
    issued.saturating_add(AUTHORITY_YEARS.years())
}

fn authority_params(today: Date) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, today.saturating_sub(BACKDATED_DAYS.days()), expires(today));
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn validity(params: &mut CertificateParams, from: Date, to: Date) {
    // The type of rcgen's dates is another crate's, which need not be named.
    let day =
        |day: Date| rcgen::date_time_ymd(i32::from(day.year()), day.month().unsigned_abs(), day.day().unsigned_abs());
    (params.not_before, params.not_after) = (day(from), day(to));
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::civil::date;

    use super::*;

    #[test]
    fn certificates_are_replaced_in_the_last_third_of_their_time() {
        let issued = date(2026, 1, 1);
        assert!(!is_due(issued, date(2026, 3, 1)));
        assert!(is_due(issued, date(2026, 3, 2)));
    }

    #[test]
    fn keys_are_not_shown() {
        let pair = authority(date(2026, 1, 1)).unwrap();
        assert_eq!(format!("{pair:?}"), "Pair(…)");
    }
}
