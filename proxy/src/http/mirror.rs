//! Copies of requests to other backends (HTTPRoute's RequestMirror). A copy is a request of its own: admitted, picked, accounted for, and its
//! answer read and dropped. It never holds the original back: what a copy has not taken waits for it up to a limit, and beyond it the copy is
//! given up.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header, request};
use hyper::body::{Body, Frame};
use rand::RngCore;

use super::{
    account::{Account, Arrival},
    arrive::tell_apart,
    attempts::attempts,
    body::{BodyError, Progress, RequestBody, ResponseBody},
    connection::Connection,
    forward::exchange,
    headers, orca,
    upstream::Upstream,
};
use crate::{
    clock,
    load::Outcome,
    route::{Rule, rule::STALL_TIMEOUT, table::Target},
    table::{BackendEntry, Table},
    time::Timestamp,
    worker::Worker,
};

/// What may wait for a copy that is slower than its original.
const WAITING_MAX: usize = 1 << 20;
/// A copy that is not answered by then is given up.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Backends that get a copy of one request.
#[derive(Debug)]
pub struct Mirroring {
    rule: Arc<Rule>,
    to: Vec<Arc<BackendEntry>>,
}

impl Mirroring {
    /// Draws which mirrors get this request. `None`: none of them.
    pub fn draw(worker: &Worker, table: &Table, rule: &Arc<Rule>, target: &Target) -> Option<Box<Self>> {
        let filters = target.filters.as_ref()?;
        let mut to = Vec::new();
        for (mirror, backend) in filters.mirrors.iter().zip(&target.mirrors) {
            let Some(backend) = *backend else { continue };
            let draw = (u64::from(worker.rng.borrow_mut().next_u32()) * u64::from(mirror.denominator)) >> 32;
            if draw < u64::from(mirror.numerator) {
                to.push(table.backends[backend].clone());
            }
        }
        (!to.is_empty()).then(|| Box::new(Self { rule: rule.clone(), to }))
    }

    /// Sends copies of a request whose head is ready to be sent. Its body is to be told to the returned taps.
    pub fn start(self, worker: &Rc<Worker>, client: &Connection, head: &request::Parts, body: &impl Body) -> Vec<Tap> {
        let has_body = !body.is_end_stream();
        let length = body.size_hint().exact();
        let now = clock::now();
        let mut taps = Vec::new();
        for entry in self.to {
            let (class, kind) = tell_apart(worker, &entry.backend, head, length, now);
            let Ok(admitted) = entry.backend.admit(class) else {
                worker.counters.mirrors_abandoned.add(1);
                continue;
            };
            worker.counters.mirrored.add(1);
            // Its own, so that nothing about the copy touches the client's connection.
            let own = Rc::new(client.detached(now));
            let progress = Rc::new(Progress::new(own.clone(), Some(STALL_TIMEOUT), Timestamp::MAX, None));
            let rule = self.rule.clone();
            // It is not the route's request: it is counted at its endpoint alone.
            let target = None;
            let method = head.method.clone();
            let arrival = Arrival { entry, rule, target, method, started: now, admitted, class, kind };
            let account = Box::new(Account::new(worker.clone(), own.clone(), progress.clone(), arrival));
            let body = if has_body {
                let tap = Tap::default();
                let body = RequestBody::copied(tap.clone(), length, progress);
                taps.push(tap);
                body
            } else {
                RequestBody::empty(progress)
            };
            let mut request = Request::from_parts(head.clone(), body);
            request.headers_mut().remove(header::EXPECT);
            let worker = worker.clone();
            tokio::task::spawn_local(async move {
                let sent = tokio::time::timeout(TIMEOUT, Box::pin(send(&worker, own, account, request))).await;
                if !matches!(sent, Ok(true)) {
                    worker.counters.mirrors_abandoned.add(1);
                }
            });
        }
        taps
    }
}

/// Sends a copy and reads its answer. Whether all went well.
async fn send(
    worker: &Rc<Worker>,
    client: Rc<Connection>,
    mut account: Box<Account>,
    request: Request<RequestBody>,
) -> bool {
    let on_one = async |account: &Account, upstream: &mut Upstream, request, reused| {
        exchange(&client, account, upstream, request, reused).await
    };
    let Ok((mut response, upstream)) = attempts(worker, &client, &mut account, request, on_one).await else {
        return false;
    };
    if headers::validate_response(response.headers()).is_err() {
        account.finish(Outcome::Failure, clock::now());
        return false;
    }
    account.answered(response.status(), orca::take(response.headers_mut()), clock::now());
    let mut body = pin!(ResponseBody::upstream(response.into_body(), upstream, account, client.clone(), false));
    loop {
        match std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            Some(Ok(_)) => {}
            Some(Err(_)) => return false,
            None => return true,
        }
    }
}

/// Where a body is told to, frame by frame, for one copy.
#[derive(Debug, Clone, Default)]
pub struct Tap(Rc<RefCell<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    ended: Option<Result<(), BodyError>>,
    reader: Option<Waker>,
}

impl Tap {
    /// The original has passed on a frame.
    pub fn push(&self, frame: &Frame<Bytes>) {
        let mut waiting = self.0.borrow_mut();
        if waiting.ended.is_some() {
            return;
        }
        if let Some(data) = frame.data_ref() {
            waiting.bytes += data.len();
            waiting.frames.push_back(Frame::data(data.clone()));
        } else if let Some(trailers) = frame.trailers_ref() {
            waiting.frames.push_back(Frame::trailers(trailers.clone()));
        }
        if waiting.bytes > WAITING_MAX {
            waiting.frames.clear();
            waiting.ended = Some(Err(BodyError::TooLarge));
        }
        waiting.wake();
    }

    /// The original has come to its end; if it broke off, so does the copy.
    pub fn end(&self, end: Result<(), BodyError>) {
        let mut waiting = self.0.borrow_mut();
        waiting.ended.get_or_insert(end);
        waiting.wake();
    }

    /// The next frame for the copy.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut waiting = self.0.borrow_mut();
        if let Some(frame) = waiting.frames.pop_front() {
            waiting.bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        match waiting.ended {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => {
                waiting.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Waiting {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(tap: &Tap) -> Poll<Option<Result<usize, BodyError>>> {
        let polled = tap.poll(&mut Context::from_waker(Waker::noop()));
        polled.map(|next| next.map(|frame| frame.map(|frame| frame.data_ref().map_or(0, Bytes::len))))
    }

    #[test]
    fn a_copy_gets_what_the_original_passed_on() {
        let tap = Tap::default();
        assert_eq!(next(&tap), Poll::Pending);
        tap.push(&Frame::data(Bytes::from_static(b"hello")));
        tap.end(Ok(()));
        assert_eq!(next(&tap), Poll::Ready(Some(Ok(5))));
        assert_eq!(next(&tap), Poll::Ready(None));
    }

    #[test]
    fn a_copy_that_takes_nothing_is_given_up_and_holds_no_memory() {
        let tap = Tap::default();
        for _ in 0..100 {
            tap.push(&Frame::data(Bytes::from(vec![0; 64 << 10])));
        }
        assert!(tap.0.borrow().frames.is_empty());
        tap.end(Ok(()));
        assert_eq!(next(&tap), Poll::Ready(Some(Err(BodyError::TooLarge))));
    }
}
