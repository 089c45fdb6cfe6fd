//! Backends: small hyper servers, and raw ones that break the rules.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, request};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

pub type Body = BoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;

/// An answer with a text.
pub fn text(text: impl Into<Bytes>) -> Response<Body> {
    Response::new(body(text))
}

/// A body that is there already.
pub fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A hyper server on loopback, until it is dropped.
pub struct Backend {
    pub address: SocketAddr,
    /// Heads of the requests that it got.
    pub seen: Arc<Mutex<Vec<request::Parts>>>,
    /// Connections that it accepted.
    pub connections: Arc<AtomicUsize>,
    /// Requests that are being answered.
    pub inside: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Backend {
    /// Answers every request with the same text.
    pub async fn saying(answer: &'static str) -> Self {
        Self::new(move |_| async move { text(answer) }).await
    }

    /// Answers with what `answer` makes of the request.
    pub async fn new<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serving(false, answer).await
    }

    /// The same over HTTP/2 and nothing else.
    pub async fn http2<F, Fut>(answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::serving(true, answer).await
    }

    async fn serving<F, Fut>(http2: bool, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Response<Body>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, connections, inside) = <(Arc<Mutex<Vec<_>>>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
        let (seen2, connections2, inside2) = (seen.clone(), connections.clone(), inside.clone());
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                stream.set_nodelay(true).unwrap();
                connections2.fetch_add(1, SeqCst);
                let (answer, seen, inside) = (answer.clone(), seen2.clone(), inside2.clone());
                tasks.spawn(async move {
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (parts, body) = request.into_parts();
                        seen.lock().unwrap().push(parts.clone());
                        inside.fetch_add(1, SeqCst);
                        let inside = Inside(inside.clone());
                        let answer = answer(Request::from_parts(parts, body));
                        async move {
                            let response = answer.await;
                            drop(inside);
                            Ok::<_, Infallible>(response)
                        }
                    });
                    if http2 {
                        let builder = http2::Builder::new(TokioExecutor::new());
                        let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                        return;
                    }
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    let _ = connection.with_upgrades().await;
                });
            }
        });
        Self { address, seen, connections, inside, task }
    }

    /// Headers of the last request.
    pub fn last_headers(&self) -> HeaderMap {
        self.seen.lock().unwrap().last().expect("no request came").headers.clone()
    }

    pub fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub fn inside(&self) -> usize {
        self.inside.load(SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

/// A server that is handed each bare connection.
pub struct RawBackend {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawBackend {
    pub async fn new<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                tasks.spawn(serve(stream, number));
            }
        });
        Self { address, task }
    }
}
