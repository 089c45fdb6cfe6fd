//! How one authority follows another, so that nobody has to be told to trust the new one at the moment that it begins to sign: pure.
//!
//! A new one is made while the old one has a year to go, and everybody is told of both. A week later, when everybody has heard, the new one
//! signs. The old one is trusted until the last certificate that it signed has ended.

use k8s_openapi::jiff::{ToSpan, civil::Date};

use super::authority::{CERTIFICATE_DAYS, Pair, expires};

/// A new authority is made when the old one has so long to go, in days.
pub const AHEAD_DAYS: i32 = 365;
/// For so long the next one is trusted before it signs, in days: files of Secrets are renewed within minutes, and proxies read them whenever
/// they connect.
pub const OVERLAP_DAYS: i32 = 7;

/// An authority, and the day that it was made on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dated {
    /// Its certificate and key.
    pub pair: Pair,
    /// When it was made.
    pub issued: Date,
}

/// The authorities at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authorities {
    /// The one that signs.
    pub signing: Dated,
    /// The one that will.
    pub next: Option<Dated>,
    /// The certificate of the one that did, and the day that it stopped.
    pub previous: Option<(String, Date)>,
}

impl Authorities {
    /// A first one.
    pub fn new(signing: Dated) -> Self {
        Self { signing, next: None, previous: None }
    }

    /// The certificates that are trusted, PEM: first the one that signs.
    pub fn bundle(&self) -> String {
        let next = self.next.iter().map(|next| next.pair.certificate.as_str());
        let previous = self.previous.iter().map(|(certificate, _)| certificate.as_str());
        let all = std::iter::once(self.signing.pair.certificate.as_str()).chain(next).chain(previous);
        all.flat_map(|certificate| [certificate.trim_end(), "\n"]).collect()
    }

    /// What comes today; `None`: all stays as it is.
    ///
    /// # Errors
    /// A new authority was needed, and `make` failed.
    pub fn step<E>(&self, today: Date, make: impl FnOnce() -> Result<Pair, E>) -> Result<Option<Self>, E> {
        let ends = expires(self.signing.issued);
        if let Some(next) = &self.next {
            let known = next.issued.saturating_add(OVERLAP_DAYS.days()) <= today;
            // One that has ended serves nobody: there is nothing to wait for.
            return Ok((known || ends <= today).then(|| Self {
                signing: next.clone(),
                next: None,
                previous: Some((self.signing.pair.certificate.clone(), today)),
            }));
        }
        if let Some((_, since)) = &self.previous
            && since.saturating_add((CERTIFICATE_DAYS + 1).days()) <= today
        {
            return Ok(Some(Self { previous: None, ..self.clone() }));
        }
        if ends.saturating_sub(AHEAD_DAYS.days()) <= today && self.previous.is_none() {
            let next = Some(Dated { pair: make()?, issued: today });
            return Ok(Some(Self { next, ..self.clone() }));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::jiff::civil::date;
    use rustls::{
        ClientConfig, ClientConnection, RootCertStore, ServerConnection,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    };

    use super::{
        super::{
            Material,
            authority::{Role, authority, issue},
            server_config,
        },
        *,
    };

    fn today() -> Date {
        k8s_openapi::jiff::Timestamp::now().to_zoned(k8s_openapi::jiff::tz::TimeZone::UTC).date()
    }

    fn step(authorities: &Authorities, day: Date) -> Option<Authorities> {
        authorities.step(day, || authority(day)).unwrap()
    }

    #[test]
    fn an_authority_is_followed_by_another_in_three_steps_and_nothing_happens_in_between() {
        let made = date(2026, 1, 1);
        let first = Authorities::new(Dated { pair: authority(made).unwrap(), issued: made });
        assert_eq!(step(&first, date(2034, 12, 30)), None);
        let both = step(&first, date(2035, 1, 1)).unwrap();
        assert_eq!(both.signing, first.signing);
        assert_eq!(both.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(step(&both, date(2035, 1, 7)), None);
        let second = step(&both, date(2035, 1, 8)).unwrap();
        assert_eq!(Some(&second.signing), both.next.as_ref());
        assert_eq!(second.bundle().matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(step(&second, date(2035, 4, 1)), None, "certificates of the old one may still be about");
        let alone = step(&second, date(2035, 4, 10)).unwrap();
        assert_eq!(alone, Authorities::new(second.signing.clone()));
        assert_eq!(step(&alone, date(2035, 6, 1)), None);
    }

    #[test]
    fn after_a_long_absence_an_authority_that_has_ended_is_replaced_at_once() {
        let made = date(2026, 1, 1);
        let first = Authorities::new(Dated { pair: authority(made).unwrap(), issued: made });
        let day = date(2037, 1, 1);
        let both = step(&first, day).unwrap();
        let second = step(&both, day).unwrap();
        assert_eq!(second.signing.issued, day);
    }

    /// Whether a proxy with this certificate and bundle and a controller with that one complete a handshake of mutual TLS.
    fn meet(proxy: &Material, controller: &Material) -> bool {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let ders =
            |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).map(|one| one.unwrap()).collect::<Vec<_>>();
        let mut roots = RootCertStore::empty();
        ders(&proxy.authorities).into_iter().for_each(|one| roots.add(one).unwrap());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                ders(&proxy.own.certificate),
                PrivateKeyDer::from_pem_slice(proxy.own.key.as_bytes()).unwrap(),
            )
            .unwrap();
        let name = super::super::authority::SERVER_NAME.try_into().unwrap();
        let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
        let mut server = ServerConnection::new(server_config(controller).unwrap()).unwrap();
        for _ in 0..10 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            server.read_tls(&mut wire.as_slice()).unwrap();
            if server.process_new_packets().is_err() {
                return false;
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            client.read_tls(&mut wire.as_slice()).unwrap();
            if client.process_new_packets().is_err() {
                return false;
            }
        }
        !client.is_handshaking() && !server.is_handshaking()
    }

    #[test]
    fn proxies_and_controllers_that_are_one_step_apart_take_each_other() {
        let (today, made) = (today(), today().saturating_sub(3300.days()));
        let mut at = Authorities::new(Dated { pair: authority(made).unwrap(), issued: made });
        let material = |at: &Authorities, role| Material {
            own: issue(&at.signing.pair, role, today).unwrap(),
            authorities: at.bundle(),
        };
        let mut stages = vec![at.clone()];
        for day in [today, today.saturating_add(OVERLAP_DAYS.days()), today.saturating_add(120.days())] {
            at = at.step(day, || authority(today)).unwrap().expect("a step");
            stages.push(at.clone());
        }
        for (index, stage) in stages.iter().enumerate() {
            for other in &stages[index..(index + 2).min(stages.len())] {
                for (one, two) in [(stage, other), (other, stage)] {
                    assert!(meet(&material(one, Role::Client), &material(two, Role::Server)), "stage {index}");
                }
            }
        }
        // What is more than a step apart is not: that is what the overlap is for.
        assert!(!meet(&material(&stages[0], Role::Client), &material(&stages[3], Role::Server)));
    }
}
