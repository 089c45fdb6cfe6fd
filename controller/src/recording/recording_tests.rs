//! The recording against a real folder, a store that is full and one that does not answer.

use std::collections::HashMap;

use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutOptions,
    PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::SeedableRng;
use rand::rngs::StdRng;
use trimtab_model::Policy;
use trimtab_model::recording::{RequestRow, Row, TickRow, from_batch};

use super::*;
use crate::fixtures;
use crate::tick::{Backend, Deciders};

/// The outcomes of this many ticks of a backend with 10 endpoints.
fn outcomes(ticks: u64) -> Vec<Outcome> {
    let now = clock::now();
    let mut backend = Backend::new(Arc::new(fixtures::backend("shop/cart:80", 10)), now);
    let mut rng = StdRng::seed_from_u64(7);
    let policy = Policy::prior_only();
    (1..=ticks)
        .map(|tick| {
            backend.tick(tick, &Deciders::only(&policy), &mut rng, now.plus(Duration::from_millis(500 * tick)));
            backend.last.clone().unwrap()
        })
        .collect()
}

fn samples(count: u64) -> v1::RequestSamples {
    let sample = |at_ms| v1::RequestSample { at_ms, route: "shop/all".into(), status: 200, ..Default::default() };
    v1::RequestSamples { samples: (0..count as i64).map(sample).collect(), dropped: 0 }
}

/// All rows of a kind under a folder, by file.
fn rows<R: Row>(folder: &std::path::Path) -> HashMap<String, Vec<R>> {
    let mut found = HashMap::new();
    let Ok(days) = std::fs::read_dir(folder.join(R::KIND)) else { return found };
    for day in days {
        let day = day.unwrap();
        assert!(day.file_name().to_str().unwrap().starts_with("date=2"), "{day:?}");
        for file in std::fs::read_dir(day.path()).unwrap() {
            let path = file.unwrap().path();
            assert_eq!(path.extension().unwrap(), "parquet", "{path:?}");
            let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap()).unwrap();
            let batches = reader.build().unwrap();
            let rows = batches.flat_map(|batch| from_batch::<R>(&batch.unwrap()).unwrap()).collect();
            found.insert(path.display().to_string(), rows);
        }
    }
    found
}

fn start(store: Arc<dyn ObjectStore>, options: RecordingOptions) -> (Recorder, RecordingTask, CancellationToken) {
    let shutdown = CancellationToken::new();
    let (recorder, task) =
        Recorder::start_on(store, Path::default(), options, Arc::new(Metrics::default()), shutdown.clone());
    (recorder, task, shutdown)
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..400 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never came: {what}");
}

#[tokio::test]
async fn what_is_recorded_can_be_read_back_after_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let shutdown = CancellationToken::new();
    let options = RecordingOptions::new(folder.path().to_str().unwrap());
    let (recorder, task) = Recorder::start(options, Arc::new(Metrics::default()), shutdown.clone()).unwrap();
    outcomes(3).iter().for_each(|outcome| recorder.tick(outcome));
    recorder.requests(&"proxy-1".into(), samples(5));
    shutdown.cancel();
    task.flushed().await;

    let ticks = rows::<TickRow>(folder.path());
    let ticks: Vec<&TickRow> = ticks.values().flatten().collect();
    assert_eq!(ticks.len(), 30);
    assert_eq!((ticks[0].tick, ticks[29].tick), (1, 3));
    assert_eq!(ticks[0].endpoint_name, "pod-0");
    let requests = rows::<RequestRow>(folder.path());
    assert_eq!(requests.values().flatten().filter(|row| row.proxy == "proxy-1" && row.status == Some(200)).count(), 5);
    let view = recorder.view();
    assert_eq!((view.rows_written, view.rows_dropped, view.last_error), (35, 0, None));
}

#[tokio::test]
async fn files_rotate_by_size_and_only_finished_ones_are_visible() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> =
        Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let options = RecordingOptions { file_bytes_max: 20_000, ..RecordingOptions::new("test") };
    let (recorder, task, shutdown) = start(store, options);
    // Five batches, each large enough for a file, no faster than the writer takes them.
    for batch in outcomes(5 * 900).chunks(900) {
        batch.iter().for_each(|outcome| recorder.tick(outcome));
        until("an empty queue", || recorder.shared.waiting.load(Ordering::Relaxed) == 0).await;
    }
    until("a finished file", || recorder.view().rows_written > 0).await;
    assert!(!rows::<TickRow>(folder.path()).is_empty());
    shutdown.cancel();
    task.flushed().await;
    let files = rows::<TickRow>(folder.path());
    assert!(files.len() >= 3, "{} files", files.len());
    assert_eq!(files.values().map(Vec::len).sum::<usize>(), 45_000);
}

#[tokio::test]
async fn files_rotate_by_age() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn ObjectStore> =
        Arc::new(object_store::local::LocalFileSystem::new_with_prefix(folder.path()).unwrap());
    let options = RecordingOptions { file_age_max: Duration::from_millis(1), ..RecordingOptions::new("test") };
    let (recorder, task, shutdown) = start(store, options);
    recorder.tick(&outcomes(1)[0]);
    until("the first file", || recorder.view().rows_written == 10).await;
    recorder.tick(&outcomes(1)[0]);
    until("the second file", || recorder.view().rows_written == 20).await;
    assert_eq!(rows::<TickRow>(folder.path()).len(), 2);
    shutdown.cancel();
    task.flushed().await;
}

/// A store with this many bytes of room, which may also never answer.
#[derive(Debug)]
struct Narrow {
    inner: InMemory,
    room: u64,
    answers: bool,
}

impl std::fmt::Display for Narrow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("narrow")
    }
}

fn full() -> object_store::Error {
    let source = std::io::Error::new(std::io::ErrorKind::StorageFull, "no space left on device");
    object_store::Error::Generic { store: "narrow", source: Box::new(source) }
}

#[tonic::async_trait]
impl ObjectStore for Narrow {
    async fn put_opts(&self, to: &Path, payload: PutPayload, options: PutOptions) -> object_store::Result<PutResult> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        if payload.content_length() as u64 > self.room {
            return Err(full());
        }
        self.inner.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        _to: &Path,
        _options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(full())
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(from, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn a_full_store_drops_rows_and_says_so() {
    let store = Arc::new(Narrow { inner: InMemory::new(), room: 100, answers: true });
    let options = RecordingOptions { file_age_max: Duration::from_millis(1), ..RecordingOptions::new("narrow") };
    let (recorder, task, shutdown) = start(store, options);
    recorder.tick(&outcomes(1)[0]);
    until("the loss", || recorder.view().rows_dropped == 10).await;
    let view = recorder.view();
    assert_eq!(view.rows_written, 0);
    assert!(view.last_error.as_ref().unwrap().contains("no space left on device"), "{view:?}");
    // While the store rests, rows are dropped at once.
    recorder.tick(&outcomes(1)[0]);
    until("the second loss", || recorder.view().rows_dropped == 20).await;
    shutdown.cancel();
    task.flushed().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_holds_nobody_up_and_memory_is_bounded() {
    let store = Arc::new(Narrow { inner: InMemory::new(), room: u64::MAX, answers: false });
    let options = RecordingOptions { file_bytes_max: 1, ..RecordingOptions::new("narrow") };
    let (recorder, _task, _shutdown) = start(store, options);
    let outcome = &outcomes(1)[0];
    // The writer takes one batch and hangs on it; the queue takes some more; the rest is lost, at once.
    let sent = 2 * MESSAGES_MAX as u64;
    for _ in 0..sent {
        recorder.tick(outcome);
        tokio::task::yield_now().await;
    }
    let view = recorder.view();
    assert!(view.rows_dropped > 0, "{view:?}");
    assert!(view.rows_dropped < sent * 10);
}
