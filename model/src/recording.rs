//! What is written down, as Arrow: one row an endpoint and tick, one row a sampled request. The writer (the controller)
//! and the readers (the trainer, people with pyarrow) share these types, so a column is named, typed and documented
//! once.
//!
//! A tick's row holds the observation of the interval that *ended* with it, and the decision for the one that *begins*:
//! the outcome of a decision is in the same endpoint's row of the next tick.

mod columns;
mod request;
mod tick;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};
use thiserror::Error;

pub use columns::{Column, Row};
pub use request::RequestRow;
pub use tick::TickRow;

/// Version of both schemas; changes when a column changes its name, type or meaning. New columns at the end do not.
pub const SCHEMA_VERSION: u32 = 1;
/// Key of the version in the schema's metadata.
pub const VERSION_KEY: &str = "trimtab.schema_version";
/// Key of the kind of rows in the schema's metadata.
pub const KIND_KEY: &str = "trimtab.kind";

/// Why a batch is refused.
#[derive(Debug, Error)]
pub enum RecordingError {
    /// A column that is not there.
    #[error("recording of {kind}: column `{column}` is missing, it must be {expected}")]
    MissingColumn {
        /// Kind of rows.
        kind: &'static str,
        /// The column.
        column: &'static str,
        /// Its type.
        expected: String,
    },
    /// A column of another type.
    #[error("recording of {kind}: column `{column}` is {found}, it must be {expected}")]
    ColumnType {
        /// Kind of rows.
        kind: &'static str,
        /// The column.
        column: &'static str,
        /// Its type there.
        found: String,
        /// Its type.
        expected: String,
    },
    /// A column with a null where there must be a value, or a value that makes no sense.
    #[error("recording of {kind}: column `{column}`, row {row}: {found}, it must be {expected}")]
    Value {
        /// Kind of rows.
        kind: &'static str,
        /// The column.
        column: &'static str,
        /// The row, from 0.
        row: usize,
        /// What is there.
        found: &'static str,
        /// What would be right.
        expected: String,
    },
    /// Another version of the schema.
    #[error("recording of {kind} has schema version {found}, this Trimtab reads {SCHEMA_VERSION}")]
    SchemaVersion {
        /// Kind of rows.
        kind: &'static str,
        /// Its version, as written.
        found: String,
    },
    /// Arrow refuses.
    #[error("recording: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// Schema of the ticks.
pub fn tick_schema() -> SchemaRef {
    schema::<TickRow>()
}

/// Schema of the sampled requests.
pub fn request_schema() -> SchemaRef {
    schema::<RequestRow>()
}

/// Schema of a kind of rows.
pub fn schema<R: Row>() -> SchemaRef {
    let metadata = HashMap::from([
        (VERSION_KEY.to_owned(), SCHEMA_VERSION.to_string()),
        (KIND_KEY.to_owned(), R::KIND.to_owned()),
    ]);
    let fields: Vec<Field> = R::fields();
    Arc::new(Schema::new_with_metadata(fields, metadata))
}

/// Rows to columns.
///
/// # Errors
/// Arrow's, which rows of one type do not cause.
pub fn to_batch<R: Row>(rows: &[R]) -> Result<RecordBatch, RecordingError> {
    Ok(RecordBatch::try_new(schema::<R>(), R::encode(rows))?)
}

/// Columns to rows. Columns are found by name; those that are not known are passed over. A batch without a version in
/// its metadata is taken to be of this one, since tools that rewrite Parquet files drop it.
///
/// # Errors
/// The column that is missing, of another type or null, or the version that is not this one.
pub fn from_batch<R: Row>(batch: &RecordBatch) -> Result<Vec<R>, RecordingError> {
    match batch.schema_ref().metadata().get(VERSION_KEY) {
        Some(found) if *found != SCHEMA_VERSION.to_string() => {
            Err(RecordingError::SchemaVersion { kind: R::KIND, found: found.clone() })
        }
        _ => R::decode(batch),
    }
}
