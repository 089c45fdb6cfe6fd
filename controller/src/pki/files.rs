//! Certificates from files, read again when they change: whoever issues them replaces them in their place, as cert-manager and the kubelet do.

use std::{path::PathBuf, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Material, PkiError, authority::Pair, server_config};

/// How often files are looked at. A certificate is replaced weeks before it ends.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Where certificate, key and authority stand.
#[derive(Debug, Clone)]
pub struct PemFiles {
    /// The certificate, with those between it and the authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Certificates of the authorities that are believed.
    pub authorities: PathBuf,
}

impl PemFiles {
    /// Reads them.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn read(&self) -> Result<Material, PkiError> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| PkiError::new(path.display().to_string(), error))
        };
        let own = Pair { certificate: read(&self.certificate)?, key: read(&self.key)? };
        Ok(Material { own, authorities: read(&self.authorities)? })
    }
}

/// Follows the files until `shutdown`; what does not hold is said, and what was good stays.
///
/// # Errors
/// They do not hold at the start.
pub fn follow(files: PemFiles, shutdown: CancellationToken) -> Result<watch::Receiver<Arc<ServerConfig>>, PkiError> {
    let mut last = files.read()?;
    let (sender, configs) = watch::channel(server_config(&last)?);
    tokio::spawn(async move {
        let mut failing = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_INTERVAL)).await.is_some() {
            // A few kilobytes, every ten seconds: not worth a thread of its own.
            let looked = files.read().and_then(|found| match found == last {
                true => Ok(None),
                false => server_config(&found).map(|config| Some((found, config))),
            });
            match looked {
                Ok(Some((found, config))) => {
                    tracing::info!(certificate = %files.certificate.display(), "certificates were replaced");
                    (last, failing) = (found, None);
                    sender.send_replace(config);
                }
                Ok(None) => failing = None,
                Err(error) if failing.as_ref() != Some(&error) => {
                    tracing::warn!(%error, "certificates cannot be used; those from before stay");
                    failing = Some(error);
                }
                Err(_) => {}
            }
        }
    });
    Ok(configs)
}
