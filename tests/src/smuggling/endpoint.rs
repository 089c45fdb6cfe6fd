//! An endpoint that notes every request as it came, and reads as strictly as can be: whatever it finds odd in a head is odd to somebody.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::Verdict;
use super::corpus::Case;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    /// Where.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<Vec<u8>>>>,
    _accepting: JoinSet<()>,
}

impl Endpoint {
    /// Starts one.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let heads: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let seen = heads.clone();
        let mut accepting = JoinSet::new();
        accepting.spawn(async move {
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, seen.clone()));
            }
        });
        Ok(Self { address, heads, _accepting: accepting })
    }

    /// What came of a case.
    pub fn verdict(&self, number: usize, case: &Case) -> Verdict {
        let heads = self.heads.lock().unwrap_or_else(|broken| broken.into_inner());
        let of = |path: &str| {
            let wanted = format!("{path}-{number}");
            heads
                .iter()
                .filter(move |head| target(head).is_some_and(|target| target.trim_start_matches('/') == wanted))
                .collect::<Vec<_>>()
        };
        if !case.pipelined && !of("smuggled").is_empty() {
            return Verdict::Smuggled;
        }
        let of_case: Vec<_> = of("case").into_iter().chain(of("smuggled")).collect();
        match of_case.iter().find_map(|head| oddity(head)) {
            Some(_) => Verdict::Ambiguous,
            None if of_case.is_empty() => Verdict::Refused,
            None => Verdict::MadeClear,
        }
    }
}

/// The path of a request, if its first line has one somewhere.
fn target(head: &[u8]) -> Option<&str> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let from = text.find("case-").or_else(|| text.find("smuggled-"))?;
    let rest = &text[from..];
    let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// What of a head can be read in two ways.
fn oddity(head: &[u8]) -> Option<&'static str> {
    let text = head.strip_suffix(b"\r\n\r\n")?;
    let mut lines = text.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (mut lengths, mut codings, mut hosts) = (0, 0, 0);
    let bare = head.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        b'\0' => true,
        _ => false,
    });
    if bare {
        return Some("a bare CR or LF, or a NUL");
    }
    let first = std::str::from_utf8(lines.next()?).ok().unwrap_or_default();
    let parts: Vec<&str> = first.split(' ').collect();
    if parts.len() != 3 || parts.iter().any(|part| part.is_empty() || part.contains(char::is_whitespace)) {
        return Some("a request line that is none");
    }
    let http_10 = parts[2] == "HTTP/1.0";
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return Some("a line without a colon") };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name.is_empty() || !name.iter().all(is_token) {
            return Some("a name that is none");
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            lengths += 1;
            if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                return Some("a length that is no number");
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            codings += 1;
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Some("a coding other than chunked");
            }
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    if lengths + codings > 1 {
        return Some("two lengths");
    }
    if hosts > 1 || hosts == 0 && !http_10 {
        return Some("no host, or two");
    }
    None
}

/// Answers requests one after the other; bodies are read by their framing.
async fn serve(mut stream: TcpStream, heads: Arc<Mutex<Vec<Vec<u8>>>>) {
    let mut bytes = Vec::new();
    loop {
        while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = bytes.drain(..end + 4).collect();
            let length = value(&head, "content-length").and_then(|value| value.parse::<usize>().ok());
            let chunked = value(&head, "transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
            heads.lock().unwrap_or_else(|broken| broken.into_inner()).push(head);
            let read = if chunked {
                chunks(&mut stream, &mut bytes).await
            } else {
                take(&mut stream, &mut bytes, length.unwrap_or(0)).await
            };
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            if read.is_none() || stream.write_all(answer).await.is_err() {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return;
        }
    }
}

fn value(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head).into_owned();
    let found = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.eq_ignore_ascii_case(name));
    found.map(|(_, value)| value.trim().to_owned())
}

async fn take(stream: &mut TcpStream, bytes: &mut Vec<u8>, length: usize) -> Option<()> {
    while bytes.len() < length {
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return None;
        }
    }
    bytes.drain(..length);
    Some(())
}

async fn chunks(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    loop {
        let line = line(stream, bytes).await?;
        let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            while !self::line(stream, bytes).await?.is_empty() {}
            return Some(());
        }
        take(stream, bytes, size + 2).await?;
    }
}

async fn line(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
            let line: Vec<u8> = bytes.drain(..end + 2).collect();
            return Some(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        if !matches!(stream.read_buf(bytes).await, Ok(1..)) {
            return None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_in_two_ways_is_found() {
        let check = |head: &str, expected: Option<&str>| assert_eq!(oddity(head.as_bytes()), expected, "{head:?}");
        check("GET /case-1 HTTP/1.1\r\nhost: t\r\n\r\n", None);
        check("POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n", None);
        check("GET / HTTP/1.1\r\n\r\n", Some("no host, or two"));
        check(
            "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            Some("two lengths"),
        );
        check("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: x\r\n\r\n", Some("a coding other than chunked"));
        check("GET / HTTP/1.1\r\nhost: t\r\nx : y\r\n\r\n", Some("a name that is none"));
        check("GET / HTTP/1.1\r\nhost: t\r\nx: a\rb\r\n\r\n", Some("a bare CR or LF, or a NUL"));
        check("GET /a b HTTP/1.1\r\nhost: t\r\n\r\n", Some("a request line that is none"));
        assert_eq!(target(b"GET http://t/case-12?x HTTP/1.1\r\n"), Some("case-12"));
    }
}
