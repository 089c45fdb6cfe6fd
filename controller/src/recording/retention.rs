//! Recordings that are older than is asked for are deleted, by the time in their files' names: a folder that nobody looks after does not fill the disk.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio_util::sync::CancellationToken;
use trimtab_model::recording::{RequestRow, Row, TickRow};

use crate::clock;

/// How often it is looked for what is too old, and once at the start.
const LOOK: Duration = Duration::from_secs(3600);

/// Deletes what is older than `keep` until `shutdown`.
pub(super) async fn run(store: Arc<dyn ObjectStore>, prefix: Path, keep: Duration, shutdown: CancellationToken) {
    loop {
        let swept = tokio::select! {
            swept = sweep(&*store, &prefix, keep, clock::now().at_ms) => swept,
            () = shutdown.cancelled() => return,
        };
        match swept {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, ?keep, "deleted recordings that are older than is kept"),
            Err(error) => tracing::warn!(%error, "recordings that are older than is kept cannot be deleted"),
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Deletes the recorder's own files that were begun more than `keep` before now, or before the newest of them if that is earlier: a clock that has jumped ahead
/// makes nothing old. Returns how many.
async fn sweep(
    store: &dyn ObjectStore,
    prefix: &Path,
    keep: Duration,
    now_ms: i64,
) -> Result<usize, object_store::Error> {
    let mut found = Vec::new();
    for kind in [TickRow::KIND, RequestRow::KIND] {
        let files: Vec<_> = store.list(Some(&prefix.clone().join(kind))).try_collect().await?;
        found.extend(files.into_iter().filter_map(|file| Some((begun_ms(kind, &file.location)?, file.location))));
    }
    let newest_ms = found.iter().map(|(begun_ms, _)| *begun_ms).max().unwrap_or(now_ms);
    let oldest_ms = now_ms.min(newest_ms).saturating_sub(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX));
    let mut deleted = 0;
    for (_, path) in found.into_iter().filter(|(begun_ms, _)| *begun_ms < oldest_ms) {
        store.delete(&path).await?;
        deleted += 1;
    }
    Ok(deleted)
}

/// When a file was begun, milliseconds since the Unix epoch; `None` if it is not one of the recorder's.
fn begun_ms(kind: &str, path: &Path) -> Option<i64> {
    let name = path.filename()?.strip_prefix(kind)?.strip_prefix('-')?.strip_suffix(".parquet")?;
    name.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    const DAY_MS: i64 = 86_400_000;
    const NOW_MS: i64 = 1_764_547_200_000;

    /// What is left of these files, named by their kind and age in days, or as they are.
    async fn left(files: &[&str], now_ms: i64) -> Vec<String> {
        let store = InMemory::new();
        for file in files {
            store.put(&Path::from(format!("here/{file}")), "x".into()).await.unwrap();
        }
        sweep(&store, &Path::from("here"), Duration::from_millis(7 * DAY_MS as u64), now_ms).await.unwrap();
        let mut left: Vec<_> = store.list(None).try_collect::<Vec<_>>().await.unwrap();
        left.sort_by(|a, b| a.location.cmp(&b.location));
        left.into_iter().map(|file| file.location.to_string()).collect()
    }

    fn file(kind: &str, days: i64) -> String {
        format!("{kind}/date=any/{kind}-{}-4711-1.parquet", NOW_MS - days * DAY_MS)
    }

    #[tokio::test]
    async fn what_is_older_than_is_kept_goes_and_nothing_else() {
        let (old, young, today) = (file("ticks", 8), file("requests", 6), file("ticks", 0));
        let strange = "ticks/date=any/notes.parquet";
        let elsewhere = "reports/ticks-1-2-3.parquet";
        let left = left(&[&old, &young, &today, strange, elsewhere], NOW_MS).await;
        assert_eq!(left, [elsewhere, &young, strange, &today].map(|file| format!("here/{file}")));
    }

    #[tokio::test]
    async fn a_clock_that_has_jumped_ahead_makes_nothing_old() {
        let files = [file("requests", 2), file("ticks", 0)];
        let left = left(&[&files[0], &files[1]], NOW_MS + 400 * DAY_MS).await;
        assert_eq!(left, files.map(|file| format!("here/{file}")));
    }
}
