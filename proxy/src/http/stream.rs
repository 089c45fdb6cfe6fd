//! A connection to a client or an endpoint: the bare socket, or TLS over it. Both paths read and write it alike; for the bare socket each call
//! is the socket's own behind one branch.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{client, server};

/// A connection.
#[derive(Debug)]
pub enum Secured<T> {
    /// In clear text.
    Plain(TcpStream),
    /// Over TLS.
    Tls(Box<T>),
}

/// One to a client.
pub type ClientStream = Secured<server::TlsStream<TcpStream>>;

/// One to an endpoint.
pub type EndpointSocket = Secured<client::TlsStream<TcpStream>>;

/// How long a client may take to hear that nothing more comes.
const FAREWELL: Duration = Duration::from_secs(1);

impl ClientStream {
    /// The socket itself.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    /// Whether HTTP/2 was agreed on with the handshake.
    pub fn speaks_http2(&self) -> bool {
        matches!(self, Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2"))
    }

    /// Writes what can be written at once.
    pub fn write_now(&mut self, bytes: &[u8]) {
        let _ = async { self.write_all(bytes).await.is_ok() && self.flush().await.is_ok() }.now_or_never();
    }

    /// Says that nothing more comes, where that must be said for the end to be believed: a TLS stream that just stops may have been cut.
    pub async fn farewell(&mut self) {
        if let Self::Tls(stream) = self {
            let _ = tokio::time::timeout(FAREWELL, stream.shutdown()).await;
        }
    }

    /// Makes the coming close a reset: what the client has is not the whole answer, and it must not take an end of stream for one.
    pub fn reset(&self) {
        let _ = socket2::SockRef::from(self.socket()).set_linger(Some(Duration::ZERO));
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Secured<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_read(cx, buffer),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Secured<T> {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write_vectored(cx, slices),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(socket) => socket.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}
