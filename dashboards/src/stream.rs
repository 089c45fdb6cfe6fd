//! Server-sent events: one `tick` a tick, and an `endpoints` event before it whenever the list of endpoints has changed. A
//! reader that is too slow misses ticks and gets the newest; nothing queues up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::frame::Frame;

/// Streams that may be open at once. A browser opens one a page.
pub const STREAMS_MAX: usize = 64;

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(1);

/// How often a comment is sent while no tick comes, so that dead connections are noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

struct Reader {
    frames: watch::Receiver<Arc<Frame>>,
    backend: Option<String>,
    roster: Option<u64>,
    ready: VecDeque<Event>,
    /// Held as long as the stream is open.
    _permit: OwnedSemaphorePermit,
}

/// The events of `backend` (the first one by name if `None`), beginning with the present tick. The stream ends when the controller does.
pub fn events(
    frames: watch::Receiver<Arc<Frame>>,
    backend: Option<String>,
    permit: OwnedSemaphorePermit,
) -> Sse<impl Stream<Item = Result<Event, serde_json::Error>>> {
    let reader = Reader { frames, backend, roster: None, ready: VecDeque::new(), _permit: permit };
    Sse::new(stream::try_unfold(reader, next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

async fn next(mut reader: Reader) -> Result<Option<(Event, Reader)>, serde_json::Error> {
    if reader.ready.is_empty() {
        if reader.frames.changed().await.is_err() {
            return Ok(None);
        }
        let frame = reader.frames.borrow_and_update().clone();
        let name = reader.backend.as_deref();
        let roster = frame.roster(name);
        if reader.roster.replace(roster) != Some(roster) {
            let data = frame.endpoints_event(name)?;
            reader.ready.push_back(Event::default().event("endpoints").retry(RETRY).data(&*data));
        }
        let id = frame.view().at_ms.to_string();
        reader.ready.push_back(Event::default().event("tick").id(id).data(&*frame.tick_event(name)?));
    }
    Ok(reader.ready.pop_front().map(|event| (event, reader)))
}
