//! A worker's heart: it beats while requests wait for answers, and tells by when it does how late the worker is ([`lateness`]).

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Poll, Waker},
    time::Duration,
};

use crate::{
    clock,
    lateness::{self, Lateness},
    time::{Timestamp, nanos},
    worker::Worker,
};

/// A worker's heartbeat, which tells how late it is. It costs a timer while somebody waits, and nothing when nobody does.
#[derive(Debug, Default)]
pub struct Heart {
    lateness: Cell<Lateness>,
    /// Requests that wait for an answer.
    waiting: Cell<usize>,
    /// Of the task that beats, while it rests.
    resting: RefCell<Option<Waker>>,
}

impl Heart {
    /// One more request waits for an answer.
    #[inline]
    pub fn somebody_waits(&self) {
        self.waiting.set(self.waiting.get() + 1);
        if let Some(resting) = self.resting.take() {
            // From now on, not from when it has its turn.
            self.beat(clock::now());
            resting.wake();
        }
    }

    /// One fewer.
    #[inline]
    pub fn nobody_waits(&self) {
        self.waiting.set(self.waiting.get() - 1);
    }

    /// For how long what is read now may have lain unread.
    #[inline]
    pub fn lateness(&self, now: Timestamp) -> Duration {
        self.lateness.get().at(now)
    }

    fn beat(&self, now: Timestamp) -> Duration {
        let mut lateness = self.lateness.get();
        let late = lateness.beat(now);
        self.lateness.set(lateness);
        late
    }
}

/// Beats while somebody waits, for as long as the worker runs.
pub async fn beat(worker: Rc<Worker>) {
    let heart = &worker.heart;
    loop {
        if heart.waiting.get() == 0 {
            heart.lateness.take();
            std::future::poll_fn(|cx| {
                if heart.waiting.get() > 0 {
                    return Poll::Ready(());
                }
                *heart.resting.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            })
            .await;
        }
        let now = clock::now();
        worker.counters.late_ns.add(nanos(heart.beat(now)));
        tokio::time::sleep_until(clock::instant(now + lateness::PERIOD)).await;
    }
}
