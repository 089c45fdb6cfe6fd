//! Certificates from Secrets that the controllers keep: the authority in one, what proxies mount in another. Whichever controller comes first
//! makes them; the leader replaces the proxies' before it ends. A controller's own certificate is never stored: it is issued at the start.

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
    server_config,
};
use crate::{FIELD_MANAGER, leader::Leadership};

/// The Secret with the authority's certificate and key. Only controllers read it.
pub const AUTHORITY_SECRET: &str = "trimtab-ca";
/// The Secret that proxies mount: certificate, key, and the authority's certificate.
pub const PROXY_SECRET: &str = "trimtab-proxy-tls";
/// When a certificate was issued, as an annotation of its Secret.
pub const ISSUED: &str = "trimtab.dev/issued";

/// How often it is looked whether something is to be replaced.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);
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
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let (sender, configs) = watch::channel(refresh(&api, true).await?);
    tokio::spawn(async move {
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            let leads = leadership.borrow().leads();
            match refresh(&api, leads).await {
                Ok(config) => drop(sender.send_replace(config)),
                Err(error) => tracing::warn!(%error, "certificates cannot be renewed; those from before stay"),
            }
        }
    });
    Ok(configs)
}

/// The controller's side of TLS, with a certificate issued now. `keep`: whether to look after the proxies' as well.
async fn refresh(api: &Api<Secret>, keep: bool) -> Result<Arc<ServerConfig>, PkiError> {
    let today = today();
    let made = |error| PkiError::new("a certificate", error);
    let ca = ensure(api, AUTHORITY_SECRET, |_| false, || Ok((authority(today)?, None)), today).await?;
    let own = issue(&ca, Role::Server, today).map_err(made)?;
    if keep {
        let bundle = || Ok((issue(&ca, Role::Client, today)?, Some(ca.certificate.clone())));
        ensure(api, PROXY_SECRET, |issued| is_due(issued, today), bundle, today).await?;
    }
    server_config(&Material { own, authorities: ca.certificate })
}

/// The pair in a Secret, made if it is not there or due to be replaced.
async fn ensure(
    api: &Api<Secret>,
    name: &str,
    due: impl Fn(Date) -> bool,
    make: impl Fn() -> Result<(Pair, Option<String>), rcgen::Error>,
    today: Date,
) -> Result<Pair, PkiError> {
    let fault = |error: &dyn std::fmt::Display| PkiError::new(format!("Secret {name}"), error);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    for _ in 0..ATTEMPTS {
        let found = api.get_opt(name).await.map_err(|error| fault(&error))?;
        if let Some(found) = &found {
            let issued = found.metadata.annotations.as_ref().and_then(|all| all.get(ISSUED)?.parse::<Date>().ok());
            if !issued.is_some_and(&due) {
                return pair(found).ok_or_else(|| fault(&"has no tls.crt and tls.key, expected both"));
            }
        }
        let (pair, bundle) = make().map_err(|error| fault(&error))?;
        let mut secret = secret(name, &pair, bundle.as_deref(), today);
        let written = match &found {
            None => api.create(&params, &secret).await,
            Some(found) => {
                secret.metadata.resource_version.clone_from(&found.metadata.resource_version);
                api.replace(name, &params, &secret).await
            }
        };
        match written {
            Ok(_) => {
                tracing::info!(secret = name, "certificate issued");
                return Ok(pair);
            }
            // Another controller was faster: its one counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(fault(&error)),
        }
    }
    Err(fault(&"changes all the time"))
}

fn pair(secret: &Secret) -> Option<Pair> {
    let text = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    Some(Pair { certificate: text("tls.crt")?, key: text("tls.key")? })
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
}
