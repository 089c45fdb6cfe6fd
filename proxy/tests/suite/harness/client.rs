//! A client that writes what it is told, byte by byte if need be, and reads answers strictly.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// Lower-case names.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The proxy's reason, if the answer is its own.
    pub fn reason(&self) -> Option<&str> {
        self.header("x-trimtab-reason")
    }
}

/// A bare connection, or one over TLS.
pub struct Raw<S = TcpStream> {
    pub stream: S,
    buffer: Vec<u8>,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    /// Over a connection that stands.
    pub fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub async fn try_write(&mut self, bytes: &str) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_bytes()).await
    }

    /// An answer with a length; `None` if the connection ends first.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        let text = loop {
            if let Some(end) = self.buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
                break String::from_utf8(head).unwrap();
            }
            if self.more().await.ok()? == 0 {
                return None;
            }
        };
        let mut lines = text.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: String::new(), trailers: Vec::new() };
        let length: usize = answer.header("content-length")?.parse().ok()?;
        while self.buffer.len() < length {
            if self.more().await.ok()? == 0 {
                return None;
            }
        }
        answer.body = String::from_utf8(self.buffer.drain(..length).collect()).unwrap();
        Some(answer)
    }

    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn more(&mut self) -> std::io::Result<usize> {
        let read = self.stream.read_buf(&mut self.buffer);
        tokio::time::timeout(PATIENCE, read).await.expect("nothing came for 10 s")
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|w| w == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                return String::from_utf8(line[..end].to_vec()).unwrap();
            }
            let read = self.more().await.expect("the connection failed within a line");
            assert!(read > 0, "the connection ended within a line: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    async fn headers(&mut self) -> Vec<(String, String)> {
        let mut headers = Vec::new();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                return headers;
            }
            let (name, value) = line.split_once(':').expect("a header line");
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// Reads a head; the status comes first.
    pub async fn head(&mut self) -> Answer {
        let line = self.line().await;
        let status =
            line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("status line {line:?}"));
        Answer { status, headers: self.headers().await, body: String::new(), trailers: Vec::new() }
    }

    /// Reads the head of a request, as an endpoint.
    pub async fn head_of_request(&mut self) -> Answer {
        self.line().await;
        Answer { status: 0, headers: self.headers().await, body: String::new(), trailers: Vec::new() }
    }

    /// Reads `len` bytes.
    pub async fn bytes(&mut self, len: usize) -> Vec<u8> {
        while self.buffer.len() < len {
            let read = self.more().await.expect("the connection failed within a body");
            assert!(read > 0, "the connection ended {} bytes early", len - self.buffer.len());
        }
        self.buffer.drain(..len).collect()
    }

    /// Reads an answer to anything but HEAD.
    pub async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        let mut body = Vec::new();
        if let Some(length) = answer.header("content-length") {
            let length = length.parse().unwrap();
            body = self.bytes(length).await;
        } else if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line().await, 16).unwrap();
                if size == 0 {
                    answer.trailers = self.headers().await;
                    break;
                }
                body.extend(self.bytes(size).await);
                assert_eq!(self.line().await, "");
            }
        } else if !matches!(answer.status, 100..200 | 204 | 304) {
            while self.more().await.unwrap() > 0 {}
            body = std::mem::take(&mut self.buffer);
        }
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// Reads to the end: what came, and whether the end was clean.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        loop {
            match self.more().await {
                Ok(0) => return (std::mem::take(&mut self.buffer), true),
                Ok(_) => {}
                Err(_) => return (std::mem::take(&mut self.buffer), false),
            }
        }
    }

    /// Fails unless the proxy closes the connection with nothing more on it.
    pub async fn is_closed(&mut self) {
        let (rest, _) = self.rest().await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }
}
