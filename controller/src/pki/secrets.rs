//! Certificates from Secrets that the controllers keep: the authority in one, what proxies mount in another. Whichever controller comes first
//! makes them; the leader replaces them before they end, as `rotation` says. A controller's own certificate is never stored: it is issued at the start.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::{Timestamp, civil::Date, tz::TimeZone},
};
use kube::{Api, Client, api::PostParams};
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Material, PkiError,
    authority::{Pair, Role, authority, is_due, issue},
    rotation::{Authorities, Dated},
    server_config,
};
use crate::{FIELD_MANAGER, leader::Leadership};

/// The Secret with the authority's certificate and key. Only controllers read it.
pub const AUTHORITY_SECRET: &str = "trimtab-ca";
/// The Secret that proxies mount: certificate, key, and the authority's certificate.
pub const PROXY_SECRET: &str = "trimtab-proxy-tls";
/// When a certificate was issued, as an annotation of its Secret.
pub const ISSUED: &str = "trimtab.dev/issued";

/// When an authority began or ceased to sign, as an annotation of the authority's Secret.
pub const NEXT_ISSUED: &str = "trimtab.dev/next-issued";
/// See there.
pub const REPLACED: &str = "trimtab.dev/replaced";

/// How often it is looked whether something is to be replaced, or has been by another controller.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);
/// Between two attempts at a Secret that another controller makes as well.
const ATTEMPTS: u32 = 5;

/// Makes sure of the Secrets in `namespace`, and keeps certificates fresh until `shutdown`.
///
/// # Errors
/// The Secrets can be neither read nor made, or do not hold.
pub async fn follow(
    client: Client,
    namespace: &str,
    leadership: watch::Receiver<Leadership>,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<ServerConfig>>, PkiError> {
    let mut keeper = Keeper { api: Api::namespaced(client, namespace), held: None };
    let material = keeper.refresh(true, today()).await?.ok_or_else(|| PkiError::new("a certificate", "none"))?;
    let (sender, configs) = watch::channel(server_config(&material)?);
    tokio::spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let leads = leadership.borrow().leads();
            let refreshed = keeper.refresh(leads, today()).await;
            match refreshed.and_then(|material| material.as_ref().map(server_config).transpose()) {
                Ok(Some(config)) => drop(sender.send_replace(config)),
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "certificates cannot be renewed; those from before stay"),
            }
        }
    });
    Ok(configs)
}

/// What a controller shows, and since when.
struct Held {
    issued: Date,
    signer: String,
    material: Material,
}

/// Keeps the Secrets.
struct Keeper {
    api: Api<Secret>,
    held: Option<Held>,
}

impl Keeper {
    /// What the controller shows and trusts from now on, if that has changed. `keep`: whether to replace what is due.
    async fn refresh(&mut self, keep: bool, today: Date) -> Result<Option<Material>, PkiError> {
        let authorities = self.authorities(keep, today).await?;
        let (signer, bundle) = (&authorities.signing.pair, authorities.bundle());
        if keep {
            self.proxies(signer, &bundle, today).await?;
        }
        let good = self.held.as_ref().is_some_and(|held| {
            held.signer == signer.certificate && held.material.authorities == bundle && !is_due(held.issued, today)
        });
        if good {
            return Ok(None);
        }
        let own = issue(signer, Role::Server, today).map_err(|error| PkiError::new("a certificate", error))?;
        let material = Material { own, authorities: bundle };
        self.held = Some(Held { issued: today, signer: signer.certificate.clone(), material: material.clone() });
        Ok(Some(material))
    }

    /// The authorities, made if there are none; with `keep` moved on if the day for it has come.
    async fn authorities(&self, keep: bool, today: Date) -> Result<Authorities, PkiError> {
        let fault = |error: &dyn std::fmt::Display| PkiError::new(format!("Secret {AUTHORITY_SECRET}"), error);
        for _ in 0..ATTEMPTS {
            let found = self.api.get_opt(AUTHORITY_SECRET).await.map_err(|error| fault(&error))?;
            let wanted = match &found {
                None => {
                    let pair = authority(today).map_err(|error| fault(&error))?;
                    Authorities::new(Dated { pair, issued: today })
                }
                Some(found) => {
                    let held = read(found).map_err(|error| fault(&error))?;
                    let next = match keep {
                        true => held.step(today, || authority(today)).map_err(|error| fault(&error))?,
                        false => None,
                    };
                    match next {
                        Some(next) => next,
                        None => return Ok(held),
                    }
                }
            };
            if self.write(AUTHORITY_SECRET, found.as_ref(), authorities_secret(&wanted)).await? {
                tracing::info!(certificates = wanted.bundle().matches("BEGIN").count(), "authorities have changed");
                return Ok(wanted);
            }
        }
        Err(fault(&"changes all the time"))
    }

    /// What proxies mount: replaced when it is due, and when other authorities sign or are trusted.
    async fn proxies(&self, signer: &Pair, bundle: &str, today: Date) -> Result<(), PkiError> {
        let fault = |error: &dyn std::fmt::Display| PkiError::new(format!("Secret {PROXY_SECRET}"), error);
        for _ in 0..ATTEMPTS {
            let found = self.api.get_opt(PROXY_SECRET).await.map_err(|error| fault(&error))?;
            if let Some(found) = &found {
                let trusts = text(found, "ca.crt").is_some_and(|held| held == bundle);
                let fresh = date(found, ISSUED).is_some_and(|issued| !is_due(issued, today));
                if trusts && fresh {
                    return pair(found).map(|_| ()).ok_or_else(|| fault(&"has no tls.crt and tls.key, expected both"));
                }
            }
            let made = issue(signer, Role::Client, today).map_err(|error| fault(&error))?;
            if self.write(PROXY_SECRET, found.as_ref(), secret(PROXY_SECRET, &made, Some(bundle), today)).await? {
                tracing::info!(secret = PROXY_SECRET, "certificate issued");
                return Ok(());
            }
        }
        Err(fault(&"changes all the time"))
    }

    /// Writes a Secret; `false`: another controller was faster, and its one counts.
    async fn write(&self, name: &str, found: Option<&Secret>, mut secret: Secret) -> Result<bool, PkiError> {
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match found {
            None => self.api.create(&params, &secret).await,
            Some(found) => {
                secret.metadata.resource_version.clone_from(&found.metadata.resource_version);
                self.api.replace(name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(PkiError::new(format!("Secret {name}"), error)),
        }
    }
}

/// The authorities in their Secret.
fn read(secret: &Secret) -> Result<Authorities, &'static str> {
    let signing = pair(secret).ok_or("has no tls.crt and tls.key, expected both")?;
    let issued = date(secret, ISSUED)
        .ok_or("has no annotation trimtab.dev/issued with a date, expected the day it was made on")?;
    let next = text(secret, "next.crt").zip(text(secret, "next.key")).zip(date(secret, NEXT_ISSUED));
    Ok(Authorities {
        signing: Dated { pair: signing, issued },
        next: next.map(|((certificate, key), issued)| Dated { pair: Pair { certificate, key }, issued }),
        previous: text(secret, "previous.crt").zip(date(secret, REPLACED)),
    })
}

fn authorities_secret(authorities: &Authorities) -> Secret {
    let Authorities { signing, next, previous } = authorities;
    let mut made = secret(AUTHORITY_SECRET, &signing.pair, None, signing.issued);
    let (data, annotations) = (made.data.get_or_insert_default(), made.metadata.annotations.get_or_insert_default());
    let mut put = |name: &str, text: &str| drop(data.insert(name.to_owned(), ByteString(text.as_bytes().to_vec())));
    if let Some(next) = next {
        put("next.crt", &next.pair.certificate);
        put("next.key", &next.pair.key);
        annotations.insert(NEXT_ISSUED.to_owned(), next.issued.to_string());
    }
    if let Some((certificate, since)) = previous {
        put("previous.crt", certificate);
        annotations.insert(REPLACED.to_owned(), since.to_string());
    }
    made
}

fn date(secret: &Secret, annotation: &str) -> Option<Date> {
    secret.metadata.annotations.as_ref()?.get(annotation)?.parse().ok()
}

fn text(secret: &Secret, name: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok()
}

fn pair(secret: &Secret) -> Option<Pair> {
    Some(Pair { certificate: text(secret, "tls.crt")?, key: text(secret, "tls.key")? })
}

fn secret(name: &str, pair: &Pair, bundle: Option<&str>, today: Date) -> Secret {
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let mut data =
        BTreeMap::from([("tls.crt".to_owned(), bytes(&pair.certificate)), ("tls.key".to_owned(), bytes(&pair.key))]);
    data.extend(bundle.map(|bundle| ("ca.crt".to_owned(), bytes(bundle))));
    Secret {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(BTreeMap::from([(ISSUED.to_owned(), today.to_string())])),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

fn today() -> Date {
    Timestamp::now().to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_gives_back_what_was_put_into_it() {
        let today = k8s_openapi::jiff::civil::date(2026, 1, 1);
        let ca = authority(today).unwrap();
        let stored = secret("x", &ca, Some("bundle"), today);
        assert_eq!(pair(&stored), Some(ca));
        assert_eq!(stored.metadata.annotations.unwrap()[ISSUED], "2026-01-01");
        assert_eq!(stored.data.unwrap()["ca.crt"].0, b"bundle");
        assert_eq!(pair(&Secret::default()), None);
    }

    #[test]
    fn authorities_come_back_as_they_were_put_into_their_secret() {
        let day = k8s_openapi::jiff::civil::date(2026, 1, 1);
        let made = |issued| Dated { pair: authority(issued).unwrap(), issued };
        let one = Authorities::new(made(day));
        assert_eq!(read(&authorities_secret(&one)), Ok(one.clone()));
        let all = Authorities { next: Some(made(day)), previous: Some(("old".to_owned(), day)), ..one };
        assert_eq!(read(&authorities_secret(&all)), Ok(all));
        assert!(read(&Secret::default()).unwrap_err().contains("tls.crt"));
    }
}
