//! A body that can be had back. An endpoint may say that it has done nothing for a request (RFC 9113 §8.7), and what it was sent until then
//! is kept, so that all of it can be sent to another one.

use std::{
    cell::RefCell,
    mem,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;

use super::body::{BodyError, Flow};

/// What is kept of one body. Of a longer one nothing is: it can be sent only once.
const KEPT_MAX: usize = 64 << 10;

/// A body on its way: the connection's side, which sends it.
#[derive(Debug)]
pub struct OnLoan(Rc<RefCell<State>>);

/// The request's side, which can have it back. Once this is dropped nothing is kept any more.
#[derive(Debug)]
pub struct Loan(Rc<RefCell<State>>);

#[derive(Debug)]
struct State {
    /// `None`: it was had back.
    flow: Option<Flow>,
    sent: Sent,
}

/// What has been sent.
#[derive(Debug, Default)]
struct Sent {
    data: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// It was too much, or nobody will ask for it.
    lost: bool,
}

impl Loan {
    /// The body, from its beginning. `None` if too much of it was sent.
    pub fn recall(self) -> Option<Flow> {
        let mut state = self.0.borrow_mut();
        let Sent { data, trailers, lost } = mem::take(&mut state.sent);
        let mut flow = state.flow.take().filter(|_| !lost)?;
        flow.rewind(Bytes::from(data), trailers);
        Some(flow)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        self.0.borrow_mut().sent.lose();
    }
}

impl OnLoan {
    /// Of a body of which nothing was sent.
    pub fn new(flow: Flow) -> Self {
        Self(Rc::new(RefCell::new(State { flow: Some(flow), sent: Sent::default() })))
    }

    /// Keeps what is sent from now on. There is one at a time.
    pub fn loan(&self) -> Loan {
        self.0.borrow_mut().sent = Sent::default();
        Loan(self.0.clone())
    }

    /// The next frame; the end if it was had back.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let State { flow, sent } = &mut *self.0.borrow_mut();
        let Some(flow) = flow else { return Poll::Ready(None) };
        let polled = flow.poll(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            sent.keep(frame);
        }
        polled
    }

    /// What it says of itself, if it was not had back.
    pub fn look<T>(&self, look: impl FnOnce(&Flow) -> T) -> Option<T> {
        self.0.borrow().flow.as_ref().map(look)
    }
}

impl Sent {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        match frame.data_ref() {
            Some(data) if self.data.len() + data.len() > KEPT_MAX => self.lose(),
            Some(data) => self.data.extend_from_slice(data),
            None => self.trailers = frame.trailers_ref().cloned(),
        }
    }

    fn lose(&mut self) {
        *self = Self { lost: true, ..Self::default() };
    }
}
