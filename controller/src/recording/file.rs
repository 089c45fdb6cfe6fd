//! One Parquet file as it is written: rows are encoded off the runtime's threads and go to the store in pieces, so that a file costs
//! some MiB of memory whatever its size.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStore;
use object_store::buffered::BufWriter;
use object_store::path::Path;
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use trimtab_model::recording::{Row, schema, to_batch};

/// Encoded bytes of a row group before it is closed and sent.
const GROUP_BYTES: usize = 8 << 20;
/// Piece of an upload; stores want at least 5 MiB.
const PIECE_BYTES: usize = 8 << 20;
/// A store that takes longer for one piece is dead.
const STORE_TIME: Duration = Duration::from_secs(30);

/// What the encoder writes to: bytes wait here until the store takes them.
#[derive(Debug, Clone, Default)]
struct Outbox(Arc<Mutex<Vec<u8>>>);

impl Outbox {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An open file.
pub(super) struct OpenFile {
    encoder: ArrowWriter<Outbox>,
    outbox: Outbox,
    upload: BufWriter,
    /// The day that its name says.
    pub date: String,
    /// When it was opened.
    pub since: Instant,
    /// Rows in it.
    pub rows: u64,
    bytes: u64,
}

impl OpenFile {
    /// Begins a file for rows of type `R`. Nothing is visible at `path` until it is finished.
    pub fn begin<R: Row>(
        store: Arc<dyn ObjectStore>,
        path: Path,
        date: String,
        since: Instant,
    ) -> Result<Self, String> {
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(concat!("trimtab ", env!("CARGO_PKG_VERSION")).to_owned())
            .build();
        let outbox = Outbox::default();
        let encoder =
            ArrowWriter::try_new(outbox.clone(), schema::<R>(), Some(properties)).map_err(|error| error.to_string())?;
        let upload = BufWriter::with_capacity(store, path, PIECE_BYTES);
        Ok(Self { encoder, outbox, upload, date, since, rows: 0, bytes: 0 })
    }

    /// Size so far, about.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.encoder.in_progress_size() as u64
    }

    /// Adds rows.
    ///
    /// # Errors
    /// In words; the file is lost then.
    pub async fn add<R: Row + Send + 'static>(mut self, rows: Vec<R>) -> Result<Self, String> {
        let count = rows.len() as u64;
        let mut encoder = self.encoder;
        let encoded = tokio::task::spawn_blocking(move || {
            let batch = to_batch(&rows).map_err(|error| error.to_string())?;
            encoder.write(&batch).map_err(|error| error.to_string())?;
            if encoder.in_progress_size() >= GROUP_BYTES {
                encoder.flush().map_err(|error| error.to_string())?;
            }
            Ok::<_, String>(encoder)
        });
        self.encoder = match encoded.await {
            Ok(Ok(encoder)) => encoder,
            Ok(Err(error)) => return Err(lost(self.upload, error).await),
            Err(error) => return Err(lost(self.upload, error.to_string()).await),
        };
        self.rows += count;
        let piece = self.outbox.take();
        self.bytes += piece.len() as u64;
        match put(&mut self.upload, piece).await {
            Ok(()) => Ok(self),
            Err(error) => Err(lost(self.upload, error).await),
        }
    }

    /// Completes the file and makes it visible; returns its rows.
    ///
    /// # Errors
    /// In words; the file is lost then.
    pub async fn finish(self) -> Result<u64, String> {
        let Self { encoder, outbox, mut upload, rows, .. } = self;
        let closed = tokio::task::spawn_blocking(move || encoder.close().map(drop)).await;
        let finished = async {
            closed.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
            put(&mut upload, outbox.take()).await
        };
        if let Err(error) = finished.await {
            return Err(lost(upload, error).await);
        }
        let completed = tokio::time::timeout(STORE_TIME, tokio::io::AsyncWriteExt::shutdown(&mut upload));
        match completed.await {
            Ok(Ok(())) => Ok(rows),
            // The upload has been shut down: there is nothing to abort any more.
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(no_answer()),
        }
    }
}

async fn put(upload: &mut BufWriter, piece: Vec<u8>) -> Result<(), String> {
    if piece.is_empty() {
        return Ok(());
    }
    match tokio::time::timeout(STORE_TIME, upload.put(Bytes::from(piece))).await {
        Ok(put) => put.map_err(|error| error.to_string()),
        Err(_) => Err(no_answer()),
    }
}

/// Gives an upload up, so that the store does not keep its pieces.
async fn lost(mut upload: BufWriter, error: String) -> String {
    // What matters is the first error; one that follows from it says nothing new.
    let _ = tokio::time::timeout(STORE_TIME, upload.abort()).await;
    error
}

fn no_answer() -> String {
    format!("the store did not answer within {} s", STORE_TIME.as_secs())
}
