//! The model store: versions of the policy, and the log of what happened to them, on any object store.
//!
//! ```text
//! versions/VERSION/policy.safetensors   the policy
//! versions/VERSION/report.html          what its trainer has to say, if it says anything
//! versions/VERSION/manifest.json        where it comes from; written last: a version without one does not exist yet
//! events/00000001.json …                the log, one event a file
//! ```
//!
//! Nothing is ever overwritten. A version, once whole, stays as it is. An event is created under the next number, which only one writer
//! can win; the other reads what came first, and is told if its own event makes no sense any more. There is no lock to be left behind.

use std::sync::Arc;

use crc_fast::{CrcAlgorithm, checksum};
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::de::DeserializeOwned;
use thiserror::Error;
use trimtab_model::Policy;
use trimtab_model::checkpoint::CheckpointError;
use trimtab_model::rollout::{
    BackendState, Conflict, EVENT_SCHEMA_VERSION, Event, MANIFEST_SCHEMA_VERSION, NameError, StoredFile,
    VersionManifest, check_name,
};

use crate::store::{self, OpenError};

/// The policy's file.
pub const POLICY: &str = "policy.safetensors";
/// The manifest's file.
pub const MANIFEST: &str = "manifest.json";
/// The report's file.
pub const REPORT: &str = "report.html";
/// A larger file is not one of ours.
const FILE_BYTES_MAX: u64 = 64 << 20;
/// The same of an event or a manifest.
const JSON_BYTES_MAX: u64 = 4 << 20;
/// How often an event is tried under another number.
const TRIES: u32 = 50;

/// Why the store did not do what was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("model store {0}")]
    Open(#[from] OpenError),
    /// Reading or writing failed: no room, no permission, no network.
    #[error("model store {url}: {path}: {source}")]
    Io {
        /// The store.
        url: String,
        /// Which file.
        path: String,
        /// What the store says.
        source: object_store::Error,
    },
    /// No version can have this name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is a version of this name.
    #[error(
        "version {version} is in the store already, with another {file}: versions do not change; another trainer may have \
         made it, choose another name"
    )]
    Exists {
        /// The version.
        version: String,
        /// The file that differs.
        file: &'static str,
    },
    /// There is no such version.
    #[error("version {version} is not in the store {url}; there is {known}")]
    NoVersion {
        /// The version.
        version: String,
        /// The store.
        url: String,
        /// What there is.
        known: String,
    },
    /// A file does not hold what it should.
    #[error("model store {url}: {path}: {detail}")]
    Broken {
        /// The store.
        url: String,
        /// Which file.
        path: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The policy cannot be used.
    #[error("version {version}: {source}")]
    Policy {
        /// The version.
        version: String,
        /// Why.
        source: CheckpointError,
    },
    /// The event makes no sense after what has happened.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// The log goes on in a way that this Trimtab does not understand.
    #[error(
        "model store {url}: {path} has schema version {found}, this Trimtab reads up to {EVENT_SCHEMA_VERSION}: upgrade it"
    )]
    Future {
        /// The store.
        url: String,
        /// The first such event.
        path: String,
        /// Its version.
        found: u64,
    },
    /// What was read of the log is not there any more.
    #[error(
        "model store {url}: {path} was there and is gone: bring the log back, or restart who follows it to begin with what \
         there is"
    )]
    Gone {
        /// The store.
        url: String,
        /// The last event that was read.
        path: String,
    },
    /// Others were quicker every time.
    #[error("model store {url}: others wrote events {TRIES} times in a row before this one: try again")]
    Crowded {
        /// The store.
        url: String,
    },
}

/// What is put into the store as a version.
#[derive(Debug, Clone)]
pub struct VersionFiles {
    /// The checkpoint.
    pub policy: Vec<u8>,
    /// Where it comes from. `files` is filled in.
    pub manifest: VersionManifest,
    /// A page for people.
    pub report: Option<Vec<u8>>,
}

/// A version as it is listed.
#[derive(Debug, Clone)]
pub struct StoredVersion {
    /// Its name.
    pub version: String,
    /// What it says of itself; or what is wrong with that.
    pub manifest: Result<VersionManifest, String>,
}

/// An event with its number.
#[derive(Debug, Clone, PartialEq)]
pub struct Numbered {
    /// The number.
    pub number: u64,
    /// The event.
    pub event: Event,
}

/// The log as far as it can be understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Log {
    /// Events, oldest first.
    pub events: Vec<Numbered>,
    /// What cannot be read and was left out: file and reason.
    pub problems: Vec<String>,
    /// The first event of a newer Trimtab, and its schema version. What came after it is not in `events`: the last state that is
    /// understood stays, and nothing can be added.
    pub future: Option<(String, u64)>,
    /// The number of the last file, readable or not.
    last: u64,
}

impl Log {
    /// The events without their numbers.
    pub fn events(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|numbered| &numbered.event)
    }

    /// Where the rollout of a backend stands.
    pub fn state_of(&self, backend: &str) -> BackendState {
        BackendState::of(backend, self.events())
    }
}

/// Who adds an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Append {
    /// A person does, who may try again what was rolled back.
    pub by_hand: bool,
    /// It may take the place of a candidate.
    pub replace: bool,
}

/// A store of models.
#[derive(Debug, Clone)]
pub struct ModelStore {
    url: String,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

impl ModelStore {
    /// Opens a store by a folder's path or a URL. A folder is made if it is not there.
    ///
    /// # Errors
    /// The URL cannot be used, or the folder cannot be made.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let (store, prefix) = store::open(url)?;
        Ok(Self { url: url.to_owned(), store, prefix })
    }

    /// Where it is.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Puts a version into the store; it becomes visible when all of it is there. Putting the same version again changes nothing.
    ///
    /// # Errors
    /// The name cannot be, the policy cannot be used, there is another version of this name, or writing failed.
    pub async fn put_version(&self, version: &str, files: VersionFiles) -> Result<(), StoreError> {
        check_name(version)?;
        Policy::load(&files.policy).map_err(|source| StoreError::Policy { version: version.to_owned(), source })?;
        let VersionFiles { policy, mut manifest, report } = files;
        manifest.schema_version = MANIFEST_SCHEMA_VERSION;
        version.clone_into(&mut manifest.version);
        manifest.files.insert(POLICY.to_owned(), stored(&policy));
        self.put_once(version, POLICY, policy).await?;
        if let Some(report) = report {
            manifest.files.insert(REPORT.to_owned(), stored(&report));
            self.put_once(version, REPORT, report).await?;
        }
        let path = self.version_path(version, MANIFEST);
        let manifest = serde_json::to_vec_pretty(&manifest).map_err(|error| self.broken(&path, error.to_string()))?;
        self.put_once(version, MANIFEST, manifest).await
    }

    /// Versions by name. One that is not whole is not there yet; one whose manifest cannot be read is listed with the reason.
    ///
    /// # Errors
    /// Listing failed.
    pub async fn versions(&self) -> Result<Vec<StoredVersion>, StoreError> {
        let folder = self.prefix.clone().join("versions");
        let list = self.store.list_with_delimiter(Some(&folder)).await.map_err(|error| self.io(&folder, error))?;
        let mut versions = Vec::new();
        for prefix in list.common_prefixes {
            let Some(version) = prefix.filename().map(str::to_owned) else { continue };
            match self.manifest(&version).await {
                Err(StoreError::NoVersion { .. }) => {}
                Ok(manifest) => versions.push(StoredVersion { version, manifest: Ok(manifest) }),
                Err(error @ (StoreError::Broken { .. } | StoreError::Name(_))) => {
                    versions.push(StoredVersion { version, manifest: Err(error.to_string()) });
                }
                Err(error) => return Err(error),
            }
        }
        versions.sort_by(|a, b| a.version.cmp(&b.version));
        Ok(versions)
    }

    /// What a version says of itself.
    ///
    /// # Errors
    /// There is no such version, its manifest cannot be read, or it is of a newer Trimtab.
    pub async fn manifest(&self, version: &str) -> Result<VersionManifest, StoreError> {
        check_name(version)?;
        let path = self.version_path(version, MANIFEST);
        let Some(bytes) = self.get(&path, JSON_BYTES_MAX).await? else {
            return Err(StoreError::NoVersion {
                version: version.to_owned(),
                url: self.url.clone(),
                known: "no whole version of this name".to_owned(),
            });
        };
        let manifest: VersionManifest =
            self.parse(&path, &bytes, MANIFEST_SCHEMA_VERSION)?.map_err(|(path, found)| StoreError::Broken {
                url: self.url.clone(),
                path,
                detail: format!(
                    "schema_version is {found}, this Trimtab reads up to {MANIFEST_SCHEMA_VERSION}: upgrade it"
                ),
            })?;
        if manifest.version != version {
            return Err(
                self.broken(&path, format!("version is \"{}\", its folder says \"{version}\"", manifest.version))
            );
        }
        Ok(manifest)
    }

    /// A version with its policy, checked against the manifest.
    ///
    /// # Errors
    /// There is no such version, or a file of it is missing, truncated or not what the manifest says.
    pub async fn read(&self, version: &str) -> Result<VersionFiles, StoreError> {
        let manifest = self.manifest(version).await?;
        let policy = self.file(version, &manifest, POLICY).await?;
        let path = self.version_path(version, POLICY);
        let policy = policy.ok_or_else(|| self.broken(&path, "it is missing".to_owned()))?;
        let report = self.file(version, &manifest, REPORT).await?;
        Ok(VersionFiles { policy, manifest, report })
    }

    /// A version's policy under the version's name, ready to propose.
    ///
    /// # Errors
    /// As [`Self::read`], or the policy cannot be used.
    pub async fn policy(&self, version: &str) -> Result<Policy, StoreError> {
        let files = self.read(version).await?;
        let unusable = |source| StoreError::Policy { version: version.to_owned(), source };
        Ok(Policy::load(&files.policy).map_err(unusable)?.named(version))
    }

    /// The whole log.
    ///
    /// # Errors
    /// Reading failed. What is in single files is never an error.
    pub async fn events(&self) -> Result<Log, StoreError> {
        self.events_after(Log::default()).await
    }

    /// Whether there are events that this log does not have. Cheaper than reading them: who looks every second asks this first.
    ///
    /// # Errors
    /// Listing failed, or what this log has is gone.
    pub async fn has_news(&self, log: &Log) -> Result<bool, StoreError> {
        Ok(!self.files_after(log.last).await?.is_empty())
    }

    /// The log, of which this much is known.
    ///
    /// # Errors
    /// As [`Self::events`], or what this log has is gone.
    pub async fn events_after(&self, mut log: Log) -> Result<Log, StoreError> {
        for (number, path) in self.files_after(log.last).await? {
            if number > log.last + 1 {
                log.problems.push(format!("{}: the events before it, from {} on, are missing", path, log.last + 1));
            }
            log.last = number;
            if log.future.is_some() {
                continue;
            }
            // It was listed, so that it is there.
            let bytes = self.get(&path, JSON_BYTES_MAX).await?.unwrap_or_default();
            match self.parse::<Event>(&path, &bytes, EVENT_SCHEMA_VERSION) {
                Ok(Ok(event)) => log.events.push(Numbered { number, event }),
                Ok(Err(future)) => log.future = Some(future),
                Err(error) => log.problems.push(error.to_string()),
            }
        }
        Ok(log)
    }

    /// Adds an event to the log, if it makes sense after all that has happened, others' news of a moment ago included. Tells its number.
    ///
    /// # Errors
    /// It makes no sense (any more), the log goes on in a way that is not understood, or writing failed.
    pub async fn append(&self, event: &Event, how: Append) -> Result<u64, StoreError> {
        self.append_after(Log::default(), event, how).await
    }

    /// The same, where this much of the log is known.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub async fn append_after(&self, mut log: Log, event: &Event, how: Append) -> Result<u64, StoreError> {
        for _ in 0..TRIES {
            log = self.events_after(log).await?;
            if let Some((path, found)) = &log.future {
                return Err(StoreError::Future { url: self.url.clone(), path: path.clone(), found: *found });
            }
            let events: Vec<Event> = log.events().cloned().collect();
            BackendState::check_all(&events, event, how.by_hand, how.replace)?;
            let number = log.last + 1;
            let path = self.prefix.clone().join("events").join(file_name(number));
            let bytes = serde_json::to_vec_pretty(event).map_err(|error| self.broken(&path, error.to_string()))?;
            match self.create(&path, bytes).await {
                Ok(()) => return Ok(number),
                Err(object_store::Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(self.io(&path, error)),
            }
        }
        Err(StoreError::Crowded { url: self.url.clone() })
    }

    /// Files of events after this number, in order. The file of this number must be there still: a store that is gone looks like an empty one.
    async fn files_after(&self, last: u64) -> Result<Vec<(u64, Path)>, StoreError> {
        let folder = self.prefix.clone().join("events");
        let after = folder.clone().join(file_name(last.saturating_sub(1)));
        let listed: Vec<_> = self
            .store
            .list_with_offset(Some(&folder), &after)
            .try_collect()
            .await
            .map_err(|error| self.io(&folder, error))?;
        let mut files: Vec<(u64, Path)> = listed
            .into_iter()
            .filter_map(|file| Some((number_of(file.location.filename()?)?, file.location)))
            .filter(|(number, _)| *number >= last)
            .collect();
        files.sort_unstable();
        if last > 0 {
            if files.first().is_none_or(|(number, _)| *number != last) {
                let path = folder.join(file_name(last)).to_string();
                return Err(StoreError::Gone { url: self.url.clone(), path });
            }
            files.remove(0);
        }
        Ok(files)
    }

    async fn file(&self, version: &str, manifest: &VersionManifest, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.version_path(version, name);
        let said = manifest.files.get(name);
        let Some(bytes) = self.get(&path, FILE_BYTES_MAX).await? else {
            return match said {
                Some(_) => Err(self.broken(&path, format!("it is missing, {MANIFEST} names it"))),
                None => Ok(None),
            };
        };
        let found = stored(&bytes);
        match said {
            Some(said) if *said != found => {
                let detail = format!(
                    "it has {} bytes with CRC-32C {:08x}, files.{name} of {MANIFEST} says {} and {:08x}: it was cut off or changed",
                    found.bytes, found.crc32c, said.bytes, said.crc32c
                );
                Err(self.broken(&path, detail))
            }
            _ => Ok(Some(bytes)),
        }
    }

    /// Writes a file that is not there yet; the same file again is no error.
    async fn put_once(&self, version: &str, file: &'static str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let path = self.version_path(version, file);
        match self.create(&path, bytes.clone()).await {
            Ok(()) => Ok(()),
            Err(object_store::Error::AlreadyExists { .. }) => match self.get(&path, FILE_BYTES_MAX).await? {
                Some(there) if there == bytes => Ok(()),
                _ => Err(StoreError::Exists { version: version.to_owned(), file }),
            },
            Err(error) => Err(self.io(&path, error)),
        }
    }

    async fn create(&self, path: &Path, bytes: Vec<u8>) -> Result<(), object_store::Error> {
        let options = PutOptions::from(PutMode::Create);
        self.store.put_opts(path, bytes.into(), options).await.map(|_| ())
    }

    async fn get(&self, path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let got = match self.store.get(path).await {
            Ok(got) => got,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.io(path, error)),
        };
        if got.meta.size > bytes_max {
            let detail =
                format!("it has {} bytes, at most {bytes_max} are read: it is none of Trimtab's", got.meta.size);
            return Err(self.broken(path, detail));
        }
        got.bytes().await.map(|bytes| Some(bytes.to_vec())).map_err(|error| self.io(path, error))
    }

    /// The content of a JSON file; inside, the path and the schema version of one that a newer Trimtab wrote.
    fn parse<T: DeserializeOwned>(
        &self,
        path: &Path,
        bytes: &[u8],
        newest: u32,
    ) -> Result<Result<T, (String, u64)>, StoreError> {
        let value: serde_json::Value =
            serde_json::from_slice(bytes).map_err(|error| self.broken(path, format!("it is no JSON: {error}")))?;
        match value.get("schema_version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(newest) => return Ok(Err((path.to_string(), found))),
            Some(_) => {}
            None => return Err(self.broken(path, "schema_version is missing: it is none of Trimtab's".to_owned())),
        }
        serde_path_to_error::deserialize(value).map(Ok).map_err(|error| self.broken(path, error.to_string()))
    }

    fn version_path(&self, version: &str, file: &str) -> Path {
        self.prefix.clone().join("versions").join(version).join(file)
    }

    fn io(&self, path: &Path, source: object_store::Error) -> StoreError {
        StoreError::Io { url: self.url.clone(), path: path.to_string(), source }
    }

    fn broken(&self, path: &Path, detail: String) -> StoreError {
        StoreError::Broken { url: self.url.clone(), path: path.to_string(), detail }
    }
}

fn stored(bytes: &[u8]) -> StoredFile {
    StoredFile { bytes: bytes.len() as u64, crc32c: checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32 }
}

fn file_name(number: u64) -> String {
    format!("{number:08}.json")
}

/// The number of an event's file; `None` for what is none.
fn number_of(file: &str) -> Option<u64> {
    let digits = file.strip_suffix(".json")?;
    let plain = digits.len() >= 8 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
