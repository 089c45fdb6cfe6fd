//! A second, strict reader of request framing that stands before hyper and refuses what two servers could read differently.
//!
//! hyper repairs some ambiguous heads silently (it drops a repeated `Content-Length`, and one that follows `Transfer-Encoding`).
//! A proxy must refuse them (RFC 9112 §6.3, §11.2), and by the time a request reaches the service the evidence is gone. So this
//! follows the byte stream from head to head and says, for each head, whether it may pass. It looks at no body byte twice.
//!
//! A request of another major version is no request that hyper could hand on to be answered: it is found here, and shown to hyper as one of
//! HTTP/1.1 ([`Framing::foreign_at`]), which it is refused as.

use memchr::{memchr, memchr_iter};

/// Why a head was refused; the text is shown to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Two `Content-Length` headers, equal or not.
    DuplicateContentLength,
    /// A `Content-Length` that is not a number.
    InvalidContentLength,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndTransferEncoding,
    /// A transfer coding other than exactly one `chunked`, or any in HTTP/1.0.
    TransferEncoding,
    /// An HTTP/1.1 request without `Host`.
    MissingHost,
    /// More than one `Host`.
    DuplicateHost,
    /// White space before a colon, or a folded header line.
    MalformedHeader,
    /// A line that ends in a line feed alone, which some servers take for an end and others for a part of the line.
    BareLineFeed,
    /// Another major version than 1.
    Version,
}

impl Refusal {
    /// One line for the client.
    pub fn message(self) -> &'static str {
        match self {
            Self::DuplicateContentLength => "more than one content-length header",
            Self::InvalidContentLength => "content-length is not a number",
            Self::LengthAndTransferEncoding => "both content-length and transfer-encoding",
            Self::TransferEncoding => "transfer-encoding is not exactly \"chunked\"",
            Self::MissingHost => "no host header",
            Self::DuplicateHost => "more than one host header",
            Self::MalformedHeader => "malformed header line",
            Self::BareLineFeed => "a line ends without a carriage return",
            Self::Version => "this version of http is not supported here",
        }
    }
}

/// What became of the bytes that were fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// All may pass.
    All,
    /// Only this many may pass, and nothing may follow them for now. Either a head ended there that was refused, or that asks for an
    /// upgrade, and what follows may not be HTTP; or a body breaks its own framing there, and the connection cannot go on.
    Until(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    Held,
    Refused,
    /// A body broke its own framing.
    Broken,
    Open,
}

/// Longest chunk-size line; hyper allows 16 KiB of extensions, nobody sends any.
pub(super) const CHUNK_LINE_MAX: usize = 4096;

/// Follows one connection's bytes.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// The head, trailer or chunk-size line so far, if it came in pieces.
    partial: Vec<u8>,
    heads: u64,
    refusal: Option<Refusal>,
    foreign_at: Option<usize>,
}

impl Default for Framing {
    fn default() -> Self {
        Self { state: State::Head, partial: Vec::new(), heads: 0, refusal: None, foreign_at: None }
    }
}

impl Framing {
    /// Whether the next byte starts a new head, with none of it seen yet.
    pub fn between_messages(&self) -> bool {
        self.state == State::Head && self.partial.is_empty()
    }

    /// Whether a head has begun and is not complete.
    pub fn in_head(&self) -> bool {
        self.state == State::Head && !self.partial.is_empty()
    }

    /// Whether the client may still be sending a body, or was stopped.
    pub fn unread(&self) -> bool {
        !matches!(self.state, State::Head | State::Open)
    }

    /// The refusal of head number `head` (from 1), if it was refused.
    pub fn refusal_of(&self, head: u64) -> Option<Refusal> {
        if self.heads == head { self.refusal } else { None }
    }

    /// Whether an upgrade is waiting for its answer: nothing may be read until [`release`](Self::release) or [`open`](Self::open).
    pub fn held(&self) -> bool {
        matches!(self.state, State::Held | State::Refused)
    }

    /// Whether a body broke its own framing: there is nothing more that could be read.
    pub fn broken(&self) -> bool {
        self.state == State::Broken
    }

    /// The upgrade was not granted: HTTP goes on.
    pub fn release(&mut self) {
        if self.state == State::Held {
            self.state = State::Head;
        }
    }

    /// The upgrade was granted: the rest is not HTTP.
    pub fn open(&mut self) {
        self.state = State::Open;
    }

    /// Where, in what was fed last, a request line names another major version than 1: of its number, three bytes. The head is going to be refused.
    /// `None`, too, where the number did not come in one piece.
    pub fn foreign_at(&self) -> Option<usize> {
        self.foreign_at
    }

    /// Takes the next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) -> Fed {
        let mut at = 0;
        self.foreign_at = None;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match self.state {
                State::Open => return Fed::All,
                State::Held | State::Refused | State::Broken => return Fed::Until(at),
                State::Length(left) => at += self.skip(left, rest.len(), State::Length, State::Head),
                State::ChunkData(left) => at += self.skip(left, rest.len(), State::ChunkData, State::ChunkEnd),
                State::ChunkEnd | State::ChunkSize => match self.line(rest) {
                    Line::Partial if self.partial.len() > CHUNK_LINE_MAX => self.state = State::Broken,
                    Line::Partial => return Fed::All,
                    Line::Ends(used) if self.chunk_line() => at += used,
                    Line::Ends(_) => self.state = State::Broken,
                },
                State::Head | State::Trailers => {
                    let ended = self.block(rest);
                    self.foreign_at = self.foreign_at.map(|foreign_at| at + foreign_at);
                    match ended {
                        None => return Fed::All,
                        Some(used) if self.block_ended() => at += used,
                        Some(_) => self.state = State::Broken,
                    }
                }
            }
        }
        if self.held() { Fed::Until(at) } else { Fed::All }
    }

    fn skip(&mut self, left: u64, there: usize, more: fn(u64) -> State, done: State) -> usize {
        let step = left.min(there as u64);
        self.state = if step == left { done } else { more(left - step) };
        step as usize
    }

    /// Collects one line into `partial`.
    fn line(&mut self, bytes: &[u8]) -> Line {
        match memchr(b'\n', bytes) {
            Some(end) => {
                self.partial.extend_from_slice(&bytes[..=end]);
                Line::Ends(end + 1)
            }
            None => {
                self.partial.extend_from_slice(bytes);
                Line::Partial
            }
        }
    }

    /// `partial` holds a whole chunk-size line, or the line end after chunk data.
    fn chunk_line(&mut self) -> bool {
        let line = std::mem::take(&mut self.partial);
        let Some(text) = line.strip_suffix(b"\r\n") else { return false };
        if self.state == State::ChunkEnd {
            self.state = State::ChunkSize;
            return text.is_empty();
        }
        self.state = match chunk_size(text) {
            None => return false,
            Some(0) => State::Trailers,
            Some(size) => State::ChunkData(size),
        };
        self.partial = line;
        self.partial.clear();
        true
    }

    /// Looks for the empty line that ends a head or a trailer section. Returns how many bytes of `bytes` belong to it; `partial`
    /// then holds the whole block, empty line included.
    fn block(&mut self, bytes: &[u8]) -> Option<usize> {
        let before = self.partial.len();
        let mut line_start = memchr::memrchr(b'\n', &self.partial).map_or(0, |i| i + 1);
        self.partial.extend_from_slice(bytes);
        let mut from = before;
        while let Some(i) = memchr(b'\n', &self.partial[from..]) {
            let end = from + i;
            let line = &self.partial[line_start..end];
            let empty = line.is_empty() || line == b"\r";
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            // Empty lines before a request line are skipped (RFC 9112 §2.2); in trailers the first one ends the section.
            let leading =
                self.state == State::Head && self.partial[..line_start].iter().all(|b| matches!(b, b'\r' | b'\n'));
            if empty && !leading {
                self.partial.truncate(end + 1);
                return Some(end + 1 - before);
            }
            if leading && let Some(foreign_at) = foreign_version(line) {
                self.foreign_at = (line_start + foreign_at).checked_sub(before);
            }
            line_start = end + 1;
            from = end + 1;
        }
        None
    }

    /// `false` if it is a trailer section that two servers could read differently.
    fn block_ended(&mut self) -> bool {
        let block = std::mem::take(&mut self.partial);
        self.state = if self.state == State::Trailers {
            if has_bare_line_feed(&block) {
                return false;
            }
            State::Head
        } else {
            self.heads += 1;
            match judge(&block) {
                Err(refusal) => {
                    self.refusal = Some(refusal);
                    State::Refused
                }
                Ok(After::Nothing { upgrade: true }) => State::Held,
                Ok(After::Nothing { upgrade: false }) => State::Head,
                Ok(After::Length(length)) => State::Length(length),
                Ok(After::Chunked) => State::ChunkSize,
            }
        };
        // Keep the allocation for the next head.
        self.partial = block;
        self.partial.clear();
        true
    }
}

enum Line {
    Partial,
    Ends(usize),
}

/// What follows a head.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Nothing { upgrade: bool },
    Length(u64),
    Chunked,
}

fn judge(head: &[u8]) -> Result<After, Refusal> {
    if has_bare_line_feed(head) {
        return Err(Refusal::BareLineFeed);
    }
    let mut lines = Lines { rest: head };
    // hyper judges the request line itself; only the version matters here.
    let request_line = lines.find(|line| !line.is_empty()).unwrap_or_default();
    if foreign_version(request_line).is_some() {
        return Err(Refusal::Version);
    }
    let http_10 = request_line.ends_with(b"HTTP/1.0");
    let (mut length, mut chunked, mut hosts, mut upgrade) = (None, false, 0, false);
    for line in lines.take_while(|line| !line.is_empty()) {
        let Some(colon) = memchr(b':', line) else { return Err(Refusal::MalformedHeader) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.last().is_none_or(u8::is_ascii_whitespace) || name[0].is_ascii_whitespace() {
            return Err(Refusal::MalformedHeader);
        }
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => hosts += 1,
            7 if name.eq_ignore_ascii_case(b"upgrade") => upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if length.is_some() {
                    return Err(Refusal::DuplicateContentLength);
                }
                length = Some(number(value).ok_or(Refusal::InvalidContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if chunked || http_10 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferEncoding);
                }
                chunked = true;
            }
            _ => {}
        }
    }
    match (hosts, length, chunked) {
        (0, ..) if !http_10 => Err(Refusal::MissingHost),
        (2.., ..) => Err(Refusal::DuplicateHost),
        (_, Some(_), true) => Err(Refusal::LengthAndTransferEncoding),
        (_, None | Some(0), false) => Ok(After::Nothing { upgrade: upgrade && !http_10 }),
        (_, Some(length), false) => Ok(After::Length(length)),
        (_, None, true) => Ok(After::Chunked),
    }
}

/// Where the number of the version stands in a request line, if it is well-formed (RFC 9112 §2.3) and of another major version than 1.
fn foreign_version(request_line: &[u8]) -> Option<usize> {
    let (rest, number) = request_line.split_last_chunk::<3>()?;
    let [major, b'.', minor] = number else { return None };
    let foreign = major.is_ascii_digit() && *major != b'1' && minor.is_ascii_digit();
    (foreign && rest.ends_with(b" HTTP/")).then_some(rest.len())
}

/// Whether any line ends in a line feed alone.
pub(super) fn has_bare_line_feed(lines: &[u8]) -> bool {
    memchr_iter(b'\n', lines).any(|at| at == 0 || lines[at - 1] != b'\r')
}

/// The size in a chunk's first line, of which the end has been cut off; `None` if it is none. The rest is an extension, which is ignored.
pub(super) fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|b| b.is_ascii_hexdigit()).count();
    // `;` begins an extension; white space before it is bad but common, and anything else than an extension behind it is none.
    let blank = line[digits..].iter().take_while(|b| matches!(b, b' ' | b'\t')).count();
    let extension = matches!(line.get(digits + blank), None | Some(b';'));
    let text = line[digits..].iter().all(|b| *b == b'\t' || !b.is_ascii_control());
    if digits == 0 || digits > 16 || !extension || !text {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

/// A `Content-Length`: digits and nothing else.
pub(super) fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// Lines without their ends.
struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = memchr(b'\n', self.rest)?;
        let line = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// Feeds the text whole and byte by byte; both must agree.
    #[track_caller]
    fn check(text: &str, expected: Result<u64, Refusal>) {
        for step in [text.len(), 1, 7] {
            let mut framing = Framing::default();
            for chunk in text.as_bytes().chunks(step.max(1)) {
                framing.feed(chunk);
                assert!(!framing.broken(), "broken: {text:?}");
            }
            let seen = framing.refusal.map_or(Ok(framing.heads), Err);
            assert_eq!(seen, expected, "{text:?} in steps of {step}");
        }
    }

    fn post(headers: &str, body: &str) -> String {
        format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
    }

    #[test]
    fn plain_requests_pass_and_are_counted() {
        check(GET, Ok(1));
        check(&GET.repeat(3), Ok(3));
        check(&format!("\r\n{GET}\r\n{GET}"), Ok(2));
        check("GET / HTTP/1.0\r\n\r\n", Ok(1));
    }

    #[test]
    fn bodies_are_skipped_and_not_read_as_heads() {
        check(&(post("Content-Length: 28\r\n", GET) + GET), Ok(2));
        check(
            &(post(
                "Transfer-Encoding: chunked\r\n",
                "5\r\nHost:\r\n1c;x=y\r\n0123456789012345678901234567\r\n0\r\n\r\n",
            ) + GET),
            Ok(2),
        );
        check(&(post("Transfer-Encoding: Chunked\r\n", "0\r\nx-sum: 1\r\n\r\n") + GET), Ok(2));
        check(&(post("Content-Length: 0\r\n", "") + GET), Ok(2));
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        check(&post("Content-Length: 1\r\nContent-Length: 1\r\n", "x"), Err(Refusal::DuplicateContentLength));
        check(&post("Content-Length: 1\r\nContent-Length: 2\r\n", "x"), Err(Refusal::DuplicateContentLength));
        check(&post("Content-Length: 1, 1\r\n", "x"), Err(Refusal::InvalidContentLength));
        check(&post("Content-Length: +1\r\n", "x"), Err(Refusal::InvalidContentLength));
        check(
            &post("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "x"),
            Err(Refusal::LengthAndTransferEncoding),
        );
        check(
            &post("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n", "x"),
            Err(Refusal::LengthAndTransferEncoding),
        );
        check(&post("Transfer-Encoding: gzip, chunked\r\n", ""), Err(Refusal::TransferEncoding));
        check(
            &post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""),
            Err(Refusal::TransferEncoding),
        );
        check("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err(Refusal::TransferEncoding));
        check(&post("Content-Length : 1\r\n", "x"), Err(Refusal::MalformedHeader));
        check(&post("x: y\r\n Content-Length: 1\r\n", "x"), Err(Refusal::MalformedHeader));
    }

    #[test]
    fn a_line_feed_alone_ends_no_line() {
        check("GET / HTTP/1.1\nhost: a\n\n", Err(Refusal::BareLineFeed));
        check("GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n", Err(Refusal::BareLineFeed));
        check("GET / HTTP/1.1\r\nhost: a\r\n\n", Err(Refusal::BareLineFeed));
        check("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", Err(Refusal::BareLineFeed));
    }

    #[test]
    fn exactly_one_host_is_needed() {
        check("GET / HTTP/1.1\r\n\r\n", Err(Refusal::MissingHost));
        check("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Err(Refusal::DuplicateHost));
    }

    #[test]
    fn another_major_version_is_refused_whatever_else_the_head_says() {
        for version in ["HTTP/0.9", "HTTP/2.0", "HTTP/3.0", "HTTP/9.9"] {
            check(&format!("GET / {version}\r\nHost: a\r\n\r\n"), Err(Refusal::Version));
            check(&format!("GET / {version}\r\n\r\n"), Err(Refusal::Version));
            check(
                &format!("\r\nPOST / {version}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n"),
                Err(Refusal::Version),
            );
            check(&format!("GET / {version}\nHost: a\r\n\r\n"), Err(Refusal::BareLineFeed));
        }
        // What is no version, or one of ours: for hyper to say.
        for version in ["HTTP/1.2", "HTTP/2", "HTTP/2.00", "HTTP/20.0", "HTTP/a.0", "http/2.0", "xHTTP/2.0"] {
            check(&format!("GET / {version}\r\nHost: a\r\n\r\n"), Ok(1));
        }
    }

    #[test]
    fn it_is_told_where_another_major_version_stands() {
        let line = "GET / HTTP/2.0\r\n";
        let mut framing = Framing::default();
        framing.feed(format!("{GET}\r\n{line}Host: a\r\n\r\n").as_bytes());
        assert_eq!(framing.foreign_at(), Some(GET.len() + 2 + "GET / HTTP/".len()));
        framing.feed(b"x");
        assert_eq!(framing.foreign_at(), None);
        // The head comes in pieces.
        for (cut, expected) in [(3, Some(8)), (11, Some(0)), (12, None), (15, None)] {
            let mut framing = Framing::default();
            framing.feed(&line.as_bytes()[..cut]);
            assert_eq!(framing.foreign_at(), None, "{cut}");
            framing.feed(&line.as_bytes()[cut..]);
            assert_eq!(framing.foreign_at(), expected, "{cut}");
        }
        // Neither another line nor a body has a version.
        for other in
            [format!("GET / HTTP/1.1\r\n{line}\r\n"), post(&format!("Content-Length: {}\r\n", line.len()), line)]
        {
            let mut framing = Framing::default();
            framing.feed(other.as_bytes());
            assert_eq!(framing.foreign_at(), None, "{other:?}");
        }
    }

    #[test]
    fn nothing_passes_after_a_refused_head() {
        let mut framing = Framing::default();
        let bad = "GET / HTTP/1.1\r\n\r\n";
        assert_eq!(framing.feed(format!("{bad}{GET}").as_bytes()), Fed::Until(bad.len()));
        assert_eq!(framing.feed(GET.as_bytes()), Fed::Until(0));
        assert_eq!((framing.refusal_of(1), framing.refusal_of(2)), (Some(Refusal::MissingHost), None));
    }

    #[test]
    fn what_follows_an_upgrade_request_waits_for_the_answer() {
        let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        let mut framing = Framing::default();
        assert_eq!(framing.feed(format!("{upgrade}\x01\x02").as_bytes()), Fed::Until(upgrade.len()));
        assert!(framing.held());
        framing.release();
        assert_eq!(framing.feed(GET.as_bytes()), Fed::All);
        assert_eq!(framing.heads, 2);
    }

    #[test]
    fn broken_chunks_are_noticed() {
        for body in [
            "x\r\n",
            "\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX\r\n",
            "11111111111111111\r\n",
            "5;a\0\r\nhello\r\n",
            "0\r\nx: y\n\r\n",
        ] {
            let mut framing = Framing::default();
            let head = post("Transfer-Encoding: chunked\r\n", "");
            let fed = framing.feed((head.clone() + body).as_bytes());
            assert!(matches!(fed, Fed::Until(end) if (head.len()..head.len() + body.len()).contains(&end)), "{body:?}");
            assert!(framing.broken());
        }
    }
}
