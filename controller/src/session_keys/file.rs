//! Keys from a file, read again when it changes, as certificates are: an editor, the kubelet or whoever else replaces it in its place.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{SessionKeyError, SessionKeys};
use crate::provider::watched::{self, Reading};

/// How often it is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Follows the file until `shutdown`; what does not hold is said, and what was good stays.
///
/// # Errors
/// It does not hold at the start.
pub fn follow(
    path: PathBuf,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<SessionKeys>>, SessionKeyError> {
    follow_every(LOOK_INTERVAL, path, shutdown)
}

fn follow_every(
    interval: Duration,
    path: PathBuf,
    shutdown: CancellationToken,
) -> Result<watch::Receiver<Arc<SessionKeys>>, SessionKeyError> {
    let (sender, keys) = watch::channel(Arc::new(read(&path)?));
    tokio::spawn(async move {
        let mut failing = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            // A few hundred bytes, every ten seconds: not worth a thread of its own.
            match read(&path) {
                Ok(found) => {
                    failing = None;
                    found.replace(&sender);
                }
                Err(error) if failing.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "keys of sessions cannot be used; those from before stay");
                    failing = Some(error);
                }
                Err(_) => {}
            }
        }
    });
    Ok(keys)
}

fn read(path: &Path) -> Result<SessionKeys, SessionKeyError> {
    let place = format!("--session-key-file {}", path.display());
    match watched::read(path) {
        Reading::Bytes(text) => SessionKeys::parse(&text, &place),
        Reading::Gone => Err(SessionKeyError::new(place, "is not there, expected a file with a key a line")),
        Reading::Unreadable(reason) => Err(SessionKeyError::new(place, reason)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(byte: u8) -> String {
        format!("{byte:02x}").repeat(32) + "\n"
    }

    #[tokio::test]
    async fn a_file_is_followed_and_what_does_not_hold_leaves_the_keys_as_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let replace = |text: String| {
            let new = folder.path().join("new");
            std::fs::write(&new, text).unwrap();
            std::fs::rename(new, &path).unwrap();
        };
        replace(line(1));
        let stop = CancellationToken::new();
        let interval = Duration::from_millis(10);
        let mut keys = follow_every(interval, path.clone(), stop.clone()).unwrap();
        assert_eq!(keys.borrow_and_update().count(), 1);
        replace("nonsense".to_owned());
        tokio::time::sleep(10 * interval).await;
        assert!(!keys.has_changed().unwrap());
        replace(line(2) + &line(1));
        tokio::time::timeout(Duration::from_secs(30), keys.changed()).await.unwrap().unwrap();
        assert_eq!(keys.borrow_and_update().count(), 2);
        // Another comment is no other key.
        replace(format!("# since today\n{}{}", line(2), line(1)));
        tokio::time::sleep(10 * interval).await;
        assert!(!keys.has_changed().unwrap());
        stop.cancel();
        assert!(keys.changed().await.is_err());
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_or_none_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let check = |path: PathBuf, expected: &str| {
            let error = follow(path.clone(), CancellationToken::new()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--session-key-file {}: {expected}", path.display())), "{error}");
        };
        check(folder.path().join("none"), "is not there, expected");
        check(folder.path().to_owned(), "is not a regular file");
        let short = folder.path().join("short");
        std::fs::write(&short, "0011").unwrap();
        check(short, "line 1: is a key of 2 bytes");
    }
}
