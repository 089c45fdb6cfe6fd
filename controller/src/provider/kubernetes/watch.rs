//! One watch of one kind: from the API server's events to changes of the state, kept up for ever. When the API server is gone, what was
//! read stays; when it is back, the watch goes on where it was, or lists anew where too much has happened since (410).

use std::{fmt::Debug, time::Duration};

use futures_util::{StreamExt, stream::BoxStream};
use kube::{
    Api, Resource,
    runtime::watcher::{Config, Error, Event, watcher},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{kinds::Watched, state::State, store::Scope};
use crate::clock;

/// First wait after a failure, and the longest. Short: the API server is back before the proxies' numbers are stale.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Between two looks for a kind that is not installed, or that may not be read.
const MISSING_RETRY: Duration = Duration::from_secs(5);
/// The API server ends a watch after so long, and it is taken up again; silence for longer than that is a broken connection.
const WATCH_S: u32 = 50;

/// How the reason begins why a kind that may not be read is not read.
pub(super) const NOT_ALLOWED: &str = "not allowed: ";

/// What a watch does to the state. Boxed: there is a type of event for each kind, and one queue for all of them.
pub(super) type Change = Box<dyn FnOnce(&mut State) + Send>;

/// Events of one kind, as one of its versions has them.
pub(super) type Events<K> = BoxStream<'static, Result<Event<K>, Error>>;

/// The events of what `api` has, of one object where `fields` selects it.
pub(super) fn events<A>(api: Api<A>, fields: Option<&str>) -> BoxStream<'static, Result<Event<A>, Error>>
where
    A: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let config = Config::default().timeout(WATCH_S);
    watcher(api, fields.iter().fold(config, |config, fields| config.fields(fields))).boxed()
}

/// Watches until nobody takes changes any more. `versions` are where the kind may be found, newest first: a cluster need not have them all.
pub(super) async fn keep<K: Watched>(scope: Scope, mut versions: Vec<Events<K>>, changes: mpsc::Sender<Change>) {
    let mut rng = StdRng::from_os_rng();
    let mut backoff = BACKOFF_MIN;
    let (mut version, mut absent) = (0, 0);
    while let Some(event) = versions[version].next().await {
        let wait = match event {
            Ok(event) => {
                // The beginning of a listing is told before it is known whether there is anything to list.
                if !matches!(event, Event::Init) {
                    (backoff, absent) = (BACKOFF_MIN, 0);
                }
                if send(&changes, move |state| state.apply::<K>(scope, event, clock::now().at_ms)).await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) => match missing::<K>(&error) {
                Some(reason) => {
                    absent += 1;
                    version = (version + 1) % versions.len();
                    if absent < versions.len() {
                        continue;
                    }
                    if send(&changes, move |state| miss::<K>(state, scope, reason)).await.is_err() {
                        return;
                    }
                    MISSING_RETRY
                }
                None => {
                    if is_expired(&error) {
                        tracing::info!(kind = K::NAME, "watch expired, listing anew");
                    } else {
                        tracing::warn!(kind = K::NAME, %error, retry_in = ?backoff, "watch broke; what was read stays");
                    }
                    let wait = backoff;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                    wait
                }
            },
        };
        let jitter = rng.random_range(0.5..1.0);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
        if changes.is_closed() {
            return;
        }
    }
}

async fn send(
    changes: &mpsc::Sender<Change>,
    change: impl FnOnce(&mut State) + Send + 'static,
) -> Result<(), mpsc::error::SendError<Change>> {
    changes.send(Box::new(change)).await
}

fn miss<K: Watched>(state: &mut State, scope: Scope, reason: String) {
    if state.miss::<K>(scope, reason.clone()) {
        tracing::warn!(kind = K::NAME, reason, "not read; looked for again every few seconds");
    }
}

/// Why the kind has nothing to watch, where that is what the error says.
fn missing<K: Watched>(error: &Error) -> Option<String> {
    let (Error::InitialListFailed(kube::Error::Api(status)) | Error::WatchStartFailed(kube::Error::Api(status))) =
        error
    else {
        return None;
    };
    match status.code {
        404 => Some(format!("{} is not installed in this cluster", K::api_version(&()))),
        403 => Some(format!("{NOT_ALLOWED}{}", status.message)),
        _ => None,
    }
}

fn is_expired(error: &Error) -> bool {
    let code = match error {
        Error::WatchError(status) => Some(status.code),
        Error::WatchStartFailed(kube::Error::Api(status)) | Error::WatchFailed(kube::Error::Api(status)) => {
            Some(status.code)
        }
        _ => None,
    };
    code == Some(410)
}

/// The same event of an object in another form.
pub(super) fn map<A, B>(event: Event<A>, form: impl Fn(A) -> B) -> Event<B> {
    match event {
        Event::Init => Event::Init,
        Event::InitDone => Event::InitDone,
        Event::InitApply(object) => Event::InitApply(form(object)),
        Event::Apply(object) => Event::Apply(form(object)),
        Event::Delete(object) => Event::Delete(form(object)),
    }
}
