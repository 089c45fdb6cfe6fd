//! Keys from a Secret that the controllers share. Whichever controller comes first makes it, with one key; who wants another key in it writes it there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{SessionKeyError, SessionKeys};
use crate::FIELD_MANAGER;

/// The Secret. Only controllers read it.
pub const SESSION_SECRET: &str = "trimtab-session-keys";
/// The entry of it that holds a key a line.
pub const SESSION_ENTRY: &str = "keys";

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(20);
/// Attempts at a Secret that another controller makes, or somebody deletes, at the same time.
const ATTEMPTS: u32 = 5;

/// Makes sure of the Secret in `namespace`, and follows it until `shutdown`; what does not hold is said, and what was good stays.
///
/// # Errors
/// The Secret can be neither read nor made, or does not hold.
pub async fn follow(
    client: Client,
    namespace: &str,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<SessionKeys>>, SessionKeyError> {
    let api: Api<Secret> = Api::namespaced(client, namespace);
    let place = format!("Secret {namespace}/{SESSION_SECRET}");
    let (sender, keys) = watch::channel(Arc::new(read_or_make(&api, &place).await?));
    tokio::spawn(async move {
        let mut failing = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            match look(&api, &place).await {
                Ok(Some(found)) => {
                    failing = None;
                    found.replace(&sender);
                }
                other => {
                    // One that was deleted is made anew by the next controller that starts, not under the feet of sessions that hold.
                    let error = other.err().unwrap_or_else(|| SessionKeyError::new(&place, "is not there any more"));
                    if failing.as_ref() != Some(&error) {
                        tracing::warn!(%error, "keys of sessions cannot be read; those from before stay");
                        failing = Some(error);
                    }
                }
            }
        }
    });
    Ok(keys)
}

async fn read_or_make(api: &Api<Secret>, place: &str) -> Result<SessionKeys, SessionKeyError> {
    for _ in 0..ATTEMPTS {
        if let Some(found) = look(api, place).await? {
            return Ok(found);
        }
        let made = SessionKeys::draw()?;
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        match api.create(&params, &secret(&made)).await {
            Ok(_) => {
                tracing::info!(secret = SESSION_SECRET, "a key for sessions was made");
                return Ok(made);
            }
            // Another controller was faster, and its one counts.
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(SessionKeyError::new(place, error)),
        }
    }
    Err(SessionKeyError::new(place, "comes and goes all the time"))
}

/// What stands there; `None`: there is no Secret.
async fn look(api: &Api<Secret>, place: &str) -> Result<Option<SessionKeys>, SessionKeyError> {
    let found = api.get_opt(SESSION_SECRET).await.map_err(|error| SessionKeyError::new(place, error))?;
    found.map(|secret| read(&secret, place)).transpose()
}

fn read(secret: &Secret, place: &str) -> Result<SessionKeys, SessionKeyError> {
    let text = secret.data.as_ref().and_then(|data| data.get(SESSION_ENTRY));
    let text = text.ok_or_else(|| {
        SessionKeyError::new(place, format!("has no entry \"{SESSION_ENTRY}\", expected one with a key a line"))
    })?;
    SessionKeys::parse(&text.0, &format!("{place}: {SESSION_ENTRY}"))
}

fn secret(keys: &SessionKeys) -> Secret {
    Secret {
        metadata: ObjectMeta { name: Some(SESSION_SECRET.to_owned()), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(SESSION_ENTRY.to_owned(), ByteString(keys.text().into_bytes()))])),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_gives_back_what_was_put_into_it_and_another_is_named() {
        let keys = SessionKeys::draw().unwrap();
        assert_eq!(read(&secret(&keys), "Secret a/b"), Ok(keys));
        let error = read(&Secret::default(), "Secret a/b").unwrap_err().to_string();
        assert!(error.starts_with("Secret a/b: has no entry \"keys\""), "{error}");
        let mut short = secret(&SessionKeys::draw().unwrap());
        short.data.as_mut().unwrap().insert(SESSION_ENTRY.to_owned(), ByteString(b"0011".to_vec()));
        let error = read(&short, "Secret a/b").unwrap_err().to_string();
        assert!(error.starts_with("Secret a/b: keys: line 1: is a key of 2 bytes"), "{error}");
    }
}
