//! The controller's port with mutual TLS: connections of proxies that have shown a certificate, as a stream for the gRPC server.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// A proxy that does not finish its handshake in this time is cut off.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections that wait for the server to take them.
const WAITING_MAX: usize = 16;
/// After the system had no socket to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Accepts until `stop`, with whatever configuration is the newest.
pub fn accept(
    listener: TcpListener,
    configs: watch::Receiver<Arc<ServerConfig>>,
    stop: CancellationToken,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, connections) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let (sender, config) = (sender.clone(), configs.borrow().clone());
            // A task of its own: nobody waits for somebody else's handshake.
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
                    // Nobody takes it any more where the server has stopped.
                    Ok(Ok(stream)) => drop(sender.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::warn!(%peer, %error, "a proxy's handshake failed"),
                    Err(_) => tracing::warn!(%peer, "a proxy's handshake took too long"),
                }
            });
        }
    });
    ReceiverStream::new(connections)
}
