//! The one task that follows the controller's view: it keeps the history and hands each view to the streams.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use trimtab_controller::view::View;

use crate::error::ApiError;
use crate::frame::Frame;
use crate::history::History;

/// What the requests read.
#[derive(Debug, Clone)]
pub struct Feed {
    frames: watch::Receiver<Arc<Frame>>,
    history: Arc<Mutex<History>>,
}

impl Feed {
    /// Starts the task. It ends when `view`'s sender is gone, or when every clone of the feed is.
    pub fn start(mut view: watch::Receiver<Arc<View>>) -> Self {
        let first = view.borrow_and_update().clone();
        let mut history = History::default();
        history.push(&first);
        let history = Arc::new(Mutex::new(history));
        let (sender, frames) = watch::channel(Arc::new(Frame::new(first)));
        tokio::spawn(follow(view, sender, history.clone()));
        Self { frames, history }
    }

    /// The present frame.
    pub fn frame(&self) -> Arc<Frame> {
        self.frames.borrow().clone()
    }

    /// A receiver of all frames from now on, the present one included. It closes when the task ends, however it ends.
    pub fn frames(&self) -> watch::Receiver<Arc<Frame>> {
        let mut frames = self.frames.clone();
        frames.mark_changed();
        frames
    }

    /// Fails if no view can come any more: the controller has stopped, or the task has died.
    pub fn check(&self) -> Result<(), ApiError> {
        self.frames.has_changed().map(|_| ()).map_err(|_| ApiError::Gone)
    }

    /// Reads the history.
    pub fn history<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn follow(mut view: watch::Receiver<Arc<View>>, frames: watch::Sender<Arc<Frame>>, history: Arc<Mutex<History>>) {
    loop {
        tokio::select! {
            changed = view.changed() => if changed.is_err() { break },
            () = frames.closed() => break,
        }
        let view = view.borrow_and_update().clone();
        history.lock().unwrap_or_else(PoisonError::into_inner).push(&view);
        frames.send_replace(Arc::new(Frame::new(view)));
    }
    tracing::debug!("the dashboard stopped following the controller");
}
