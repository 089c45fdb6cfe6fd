//! Tasks that serve streams, used again and again: making and ending one costs a stream a fifteenth of all, as the runtime wants its memory
//! aligned in a way that no allocator keeps at hand, and so does a timer of its own. A task that has nothing to do waits for the next stream
//! of any connection of its worker.

use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use tokio::time::Sleep;

use super::{
    super::connection::{Connection, Phase},
    Active,
};
use crate::{clock, time::Timestamp, worker::Worker};

/// So many tasks of a worker wait for streams at most; after a crowd the others end.
const IDLE_MAX: usize = 256;

/// Tasks of a worker that wait for a stream.
#[derive(Debug, Default)]
pub struct Runners {
    idle: RefCell<Vec<Rc<Runner>>>,
}

/// What a task is to serve next, and how it hears of it.
#[derive(Debug, Default)]
struct Runner {
    next: RefCell<Option<Stream>>,
    waker: RefCell<Option<Waker>>,
}

/// A stream to be served.
pub(super) struct Stream {
    /// hyper's part.
    pub future: Pin<Box<dyn Future<Output = ()>>>,
    /// Whose it is, with the deadline that it keeps.
    pub client: Rc<Connection>,
    /// Counts it.
    pub active: Active,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Has a stream served by a task of its own.
pub(super) fn start(worker: &Rc<Worker>, stream: Stream) {
    // Whose task was busy last is in the caches still.
    let idle = worker.runners.idle.borrow_mut().pop();
    let runner = idle.unwrap_or_else(|| {
        let runner = Rc::new(Runner::default());
        tokio::task::spawn_local(run(worker.clone(), runner.clone()));
        runner
    });
    runner.next.replace(Some(stream));
    if let Some(waker) = &*runner.waker.borrow() {
        waker.wake_by_ref();
    }
}

async fn run(worker: Rc<Worker>, runner: Rc<Runner>) {
    let mut alarm = Alarm { armed: Timestamp::MAX, timer: None };
    loop {
        let stream = std::future::poll_fn(|cx| {
            if let Some(stream) = runner.next.take() {
                return Poll::Ready(stream);
            }
            // It stays the same as long as the task lives.
            runner.waker.borrow_mut().get_or_insert_with(|| cx.waker().clone());
            Poll::Pending
        })
        .await;
        serve(stream, &mut alarm).await;
        let mut idle = worker.runners.idle.borrow_mut();
        if idle.len() >= IDLE_MAX {
            return;
        }
        idle.push(runner.clone());
    }
}

/// Serves a stream until it is over, or has not acted on the end of its time.
async fn serve(Stream { mut future, client, active }: Stream, alarm: &mut Alarm) {
    let _active = active;
    std::future::poll_fn(|cx| {
        loop {
            if future.as_mut().poll(cx).is_ready() {
                return Poll::Ready(());
            }
            if alarm.poll(&client, cx).is_pending() {
                return Poll::Pending;
            }
            // Its answer is over, or it was told and could not act: the client does not take what it is sent.
            if client.phase() != Phase::Request || client.is_expired() {
                return Poll::Ready(());
            }
            client.expire();
        }
    })
    .await;
    drop(future);
    // It has become a tunnel, and is a stream of its connection for as long as that lasts.
    if let Some(tunnel) = client.take_tunnel() {
        Box::pin(tunnel.join()).await;
    }
}

/// Rings when a stream's deadline has passed. Its timer stays from stream to stream: that of one before rings too early, if at all.
struct Alarm {
    armed: Timestamp,
    /// Made when it is first waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    fn poll(&mut self, client: &Connection, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // Once it was told, it has had its turn.
            if client.is_expired() {
                return Poll::Ready(());
            }
            let deadline = client.deadline();
            if deadline == Timestamp::MAX {
                self.timer = None;
                return Poll::Pending;
            }
            let timer = match &mut self.timer {
                Some(timer) if deadline >= self.armed => timer,
                Some(timer) => {
                    timer.as_mut().reset(clock::instant(deadline));
                    self.armed = deadline;
                    timer
                }
                None => {
                    self.armed = deadline;
                    self.timer.insert(Box::pin(tokio::time::sleep_until(clock::instant(deadline))))
                }
            };
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if clock::now() >= deadline {
                return Poll::Ready(());
            }
            // It was moved meanwhile.
            self.timer = None;
        }
    }
}
