//! The loop that looks at files: off the runtime's threads, until shutdown, telling of what changed.

use std::sync::Arc;

use tokio::{sync::watch, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Snapshot, watched::POLL_INTERVAL};
use crate::problem::Problem;

/// Runs `work`, which reads files, where it may block.
///
/// # Errors
/// It panicked.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Problem {
        origin: None,
        object: None,
        field: None,
        message: format!("reading the configuration failed: {error}"),
    })
}

/// Lets `state` look every 250 ms, and publishes what it finds.
pub async fn follow<S: Send + 'static>(
    mut state: S,
    look: fn(&mut S) -> Option<Snapshot>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    shutdown: CancellationToken,
) {
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = snapshots.closed() => return,
            _ = ticks.tick() => {}
        }
        let looked = blocking(move || {
            let snapshot = look(&mut state);
            (state, snapshot)
        });
        match looked.await {
            Ok((back, snapshot)) => {
                state = back;
                if let Some(snapshot) = snapshot {
                    publish(snapshot, &snapshots);
                }
            }
            Err(problem) => {
                tracing::error!(%problem, "configuration is no longer followed");
                return;
            }
        }
    }
}

/// Publishes a snapshot. Its problems are logged where it is translated, with those that are found there.
fn publish(snapshot: Snapshot, snapshots: &watch::Sender<Arc<Snapshot>>) {
    if **snapshots.borrow() == snapshot {
        return;
    }
    let count = snapshot.objects.len();
    tracing::info!(objects = count, problems = snapshot.problems.len(), "configuration changed");
    snapshots.send_replace(Arc::new(snapshot));
}
