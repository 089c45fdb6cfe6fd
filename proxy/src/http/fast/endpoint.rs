//! A connection to an endpoint on the fast path: the socket, or TLS over it. Nothing is ever read ahead on it: a connection with anything left over is
//! not used again.

use std::{future::Future, io, pin::Pin, sync::Arc, task::Context, time::Duration};

use tokio::io::{AsyncRead, ReadBuf};

use super::super::{
    pool::{Pool, Pooled},
    stream::EndpointSocket,
    upstream::EndpointStream,
};
use crate::{
    table::{ConnectionPermit, Target},
    worker::Worker,
};

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) stream: EndpointStream,
    /// Request and answer have come to their ends, the endpoint lets the connection stand, and nothing is left on it.
    pub(super) reusable: bool,
    _permit: ConnectionPermit,
}

impl Pooled for Endpoint {
    async fn open(
        _: &Worker,
        _: &Arc<Target>,
        _: Duration,
        permit: ConnectionPermit,
        connect: impl Future<Output = io::Result<EndpointSocket>>,
    ) -> io::Result<Self> {
        Ok(Self { stream: EndpointStream::new(connect.await?), reusable: false, _permit: permit })
    }

    fn pool(worker: &Worker) -> &Pool<Self> {
        &worker.plain_pool
    }

    /// Costs no system call unless something has happened on it.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        // Ready would be its end, or an answer that nobody asked for.
        Pin::new(&mut self.stream).poll_read(cx, &mut buffer).is_pending()
    }

    fn is_reusable(&mut self, _: &mut Context<'_>) -> bool {
        self.reusable
    }
}
