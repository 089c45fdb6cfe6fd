//! Recordings read back: every file that can be read, and why the others cannot. What a trainer learns from must not depend on one file that a full
//! disk cut short.

use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use thiserror::Error;
use trimtab_model::recording::{RequestRow, Row, TickRow, from_batch};

use crate::store::{self, OpenError};

/// A larger file is not one of ours: they are closed at 64 MiB.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Why nothing can be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store cannot be opened.
    #[error("recordings {0}")]
    Open(#[from] OpenError),
    /// Listing or fetching failed.
    #[error("recordings {url}: {source}")]
    Store {
        /// Which.
        url: String,
        /// What the store says.
        source: object_store::Error,
    },
    /// There is nothing.
    #[error(
        "recordings {url}: there are no files ticks/*/*.parquet; record some with `trimtab up --recordings {url}` or \
         `trimtab controller --recordings {url}`"
    )]
    Empty {
        /// Where.
        url: String,
    },
}

/// What was read.
#[derive(Debug, Default)]
pub struct Recordings {
    /// In the order of the files' names, which is that of time.
    pub ticks: Vec<TickRow>,
    /// See `ticks`.
    pub requests: Vec<RequestRow>,
    /// Files that were read.
    pub files: usize,
    /// Bytes of them.
    pub bytes: u64,
    /// Files that could not be, with the reason.
    pub broken: Vec<(String, String)>,
}

/// Reads all recordings in a folder or under a URL. `tell` hears how many files of how many have been read.
///
/// # Errors
/// If there is nothing to read from. Files that cannot be read are not an error.
pub async fn read(url: &str, mut tell: impl FnMut(usize, usize)) -> Result<Recordings, ReadError> {
    // Opening makes a folder that is not there, which is right for who writes only.
    if url::Url::parse(url).is_err() && !std::path::Path::new(url).is_dir() {
        return Err(ReadError::Empty { url: url.to_owned() });
    }
    let (store, prefix) = store::open(url)?;
    let failed = |source| ReadError::Store { url: url.to_owned(), source };
    let mut files: Vec<(Path, u64)> = Vec::new();
    for kind in [TickRow::KIND, RequestRow::KIND] {
        let folder = prefix.clone().join(kind);
        let mut found: Vec<_> = store.list(Some(&folder)).try_collect().await.map_err(failed)?;
        found.retain(|meta| meta.location.extension() == Some("parquet"));
        found.sort_by(|a, b| a.location.cmp(&b.location));
        files.extend(found.into_iter().map(|meta| (meta.location, meta.size)));
    }
    if !files.iter().any(|(path, _)| is_of::<TickRow>(path, &prefix)) {
        return Err(ReadError::Empty { url: url.to_owned() });
    }
    let mut read = Recordings::default();
    for (number, (path, size)) in files.iter().enumerate() {
        tell(number, files.len());
        let outcome = if *size > FILE_BYTES_MAX {
            Err(format!("{size} bytes, at most {FILE_BYTES_MAX} are read"))
        } else {
            let bytes = match store.get(path).await {
                Ok(object) => object.bytes().await,
                Err(error) => Err(error),
            };
            let bytes = bytes.map_err(failed)?;
            if is_of::<TickRow>(path, &prefix) {
                rows(bytes).map(|rows| read.ticks.extend(rows))
            } else {
                rows(bytes).map(|rows| read.requests.extend(rows))
            }
        };
        match outcome {
            Ok(()) => {
                read.files += 1;
                read.bytes += size;
            }
            Err(why) => read.broken.push((path.to_string(), why)),
        }
    }
    tell(files.len(), files.len());
    Ok(read)
}

fn is_of<R: Row>(path: &Path, prefix: &Path) -> bool {
    path.prefix_matches(&prefix.clone().join(R::KIND))
}

/// The rows of one file, all or none.
fn rows<R: Row>(bytes: Bytes) -> Result<Vec<R>, String> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(ParquetRecordBatchReaderBuilder::build);
    let mut rows = Vec::new();
    for batch in reader.map_err(|error| error.to_string())? {
        let batch = batch.map_err(|error| error.to_string())?;
        rows.extend(from_batch::<R>(&batch).map_err(|error| error.to_string())?);
    }
    Ok(rows)
}
