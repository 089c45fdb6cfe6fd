//! What a version says of itself: the manifest that lies beside its policy. The checkpoint's own manifest says what the network must be given;
//! this one says where it comes from and why it should be believed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use thiserror::Error;

/// Version of the layout; changes when a manifest of the new one would be misread by an old Trimtab.
pub const MANIFEST_SCHEMA_VERSION: u32 = 1;

/// What is known of a version. Sections that only trainers and people read are free-form, and unknown ones are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionManifest {
    /// [`MANIFEST_SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// Its name.
    pub version: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// What made it: a command.
    pub created_by: String,
    /// Trimtab's version that made it.
    pub code_version: String,
    /// The version from which it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its files with their sizes and checksums; filled in by the store.
    #[serde(default)]
    pub files: BTreeMap<String, StoredFile>,
    /// What the offline gate said; nothing: it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub data: Value,
    /// What its randomness was drawn from.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub seeds: Value,
    /// How it fared, and others beside it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub scores: Value,
    /// Everything else.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

impl VersionManifest {
    /// One that says no more than it must.
    pub fn new(version: &str, created_at_ms: i64, created_by: &str) -> Self {
        Self {
            schema_version: MANIFEST_SCHEMA_VERSION,
            version: version.to_owned(),
            created_at_ms,
            created_by: created_by.to_owned(),
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            parent: None,
            files: BTreeMap::new(),
            gate: None,
            data: Value::Null,
            seeds: Value::Null,
            scores: Value::Null,
            more: BTreeMap::new(),
        }
    }
}

/// One file of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredFile {
    /// Its size.
    pub bytes: u64,
    /// CRC-32C of its bytes.
    pub crc32c: u32,
}

/// The verdict of the offline gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Whether it may be tried.
    pub passed: bool,
    /// What that rests on.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// A name that no version can have.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "version {name:?}: a name has 1 to 64 letters, digits, dots, dashes or underscores, begins with a letter or digit, \
     and is neither `builtin` nor `fallback`"
)]
pub struct NameError {
    name: String,
}

/// Whether a version can have this name: it is a folder of the store, and stands beside the words `builtin` and `fallback`.
///
/// # Errors
/// If it cannot.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    let right = first && name.len() <= 64 && name.chars().all(plain) && !matches!(name, "builtin" | "fallback");
    if right { Ok(()) } else { Err(NameError { name: name.to_owned() }) }
}
