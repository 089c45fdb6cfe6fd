//! The dashboard on a real socket, and a plain client.

#![allow(dead_code, reason = "every test binary uses its own part of this")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use trimtab_controller::view::View;
use trimtab_dashboards::Hosts;

use super::feed::Feed;

/// A served dashboard and the sender of its views.
pub struct Server {
    pub address: SocketAddr,
    pub views: watch::Sender<Arc<View>>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    client: Client<HttpConnector, Empty<Bytes>>,
}

/// An answer, read to its end.
pub struct Answer {
    pub status: u16,
    pub headers: hyper::HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }
}

impl Server {
    /// Serves the dashboard, which waits for its first tick.
    pub async fn start() -> Self {
        Self::start_for(Hosts::Local).await
    }

    /// Serves the dashboard for `hosts`.
    pub async fn start_for(hosts: Hosts) -> Self {
        Self::start_at(0, hosts).await
    }

    /// Serves the dashboard on a port; 0: any that is free.
    pub async fn start_at(port: u16, hosts: Hosts) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (views, view) = watch::channel(Arc::new(View::default()));
        let router = trimtab_dashboards::router_for(view, hosts);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let shutdown = async move { drop(stopped.await) };
            axum::serve(listener, router).with_graceful_shutdown(shutdown).await.unwrap();
        });
        Self { address, views, stop, serving, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Drops the sender of the views, as a controller that has failed does; the server stays.
    pub fn lose_the_controller(&mut self) {
        self.views = watch::channel(Arc::default()).0;
    }

    /// Stops as the controller does: no more views, and the open streams end by that alone.
    pub async fn stop(self) {
        let Self { views, stop, serving, client, .. } = self;
        drop((views, client));
        stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(10), serving).await.expect("the server stops within 10 s").unwrap();
    }

    /// Publishes a view and waits until it is what the API serves.
    pub async fn publish(&self, view: View) {
        let at_ms = view.at_ms;
        self.views.send_replace(Arc::new(view));
        for _ in 0..2_000 {
            if self.get("/healthz").await.json()["at_ms"] == at_ms {
                return;
            }
        }
        panic!("the view of {at_ms} was not taken up");
    }

    /// Publishes `ticks` views of `feed` as fast as they are taken up.
    pub async fn publish_all(&self, feed: &mut Feed, ticks: usize) {
        for _ in 0..ticks {
            self.publish(feed.view()).await;
        }
    }

    /// Goes on publishing at the usual pace.
    pub fn keep_publishing(&self, mut feed: Feed) -> JoinHandle<()> {
        let views = self.views.clone();
        tokio::spawn(async move {
            loop {
                views.send_replace(Arc::new(feed.view()));
                tokio::time::sleep(Duration::from_millis(super::feed::TICK_MS as u64)).await;
            }
        })
    }

    /// GET, with the right `Host`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    /// Any request, with the `Host` that is given.
    pub async fn send(&self, method: Method, path: &str, host: Option<&str>) -> Answer {
        let (parts, body) = self.open(method, path, host).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status.as_u16(), headers: parts.headers, text }
    }

    /// A response whose body is still to be read.
    pub async fn open(&self, method: Method, path: &str, host: Option<&str>) -> Response<Incoming> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if let Some(host) = host {
            request = request.header("host", host);
        }
        self.client.request(request.body(Empty::new()).unwrap()).await.unwrap()
    }

    /// A stream of events.
    pub async fn stream(&self, path: &str) -> Events {
        let response = self.open(Method::GET, path, None).await;
        assert_eq!(response.status(), 200, "{path}");
        Events { body: response.into_body(), text: String::new() }
    }
}

/// A reader of server-sent events.
pub struct Events {
    body: Incoming,
    text: String,
}

impl Events {
    /// The next event's name and data; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<(String, serde_json::Value)> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let event: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                if let (Some(name), Some(data)) = (field("event:"), field("data:")) {
                    return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
                }
                continue;
            }
            let frame =
                tokio::time::timeout(Duration::from_secs(10), self.body.frame()).await.expect("an event in 10 s")?;
            if let Ok(data) = frame.unwrap().into_data() {
                self.text.push_str(std::str::from_utf8(&data).unwrap());
            }
        }
    }
}
