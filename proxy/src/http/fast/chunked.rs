//! Reads a chunked body (RFC 9112 §7.1) in place. Extensions and trailers are checked and dropped: chunks are written anew, and who wants
//! trailers says so with `TE`, which hyper's path sees to.

use std::ops::Range;

use memchr::memchr;

use super::super::framing::{CHUNK_LINE_MAX, chunk_size};

/// Bytes of trailers; more are no trailers.
const TRAILERS_MAX: usize = 16 << 10;
/// Trailer fields.
const TRAILER_FIELDS_MAX: usize = 64;

/// It breaks its own framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Where a chunked body stands.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    /// A line that came in pieces.
    line: Vec<u8>,
    trailers: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    DataEnd,
    Trailers,
    Over,
}

/// What was made of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Where the content lies now, in one piece.
    pub content: Range<usize>,
    /// How many bytes belong to the body.
    pub used: usize,
}

impl Chunked {
    pub fn new() -> Self {
        Self { state: State::Size, line: Vec::new(), trailers: Vec::new() }
    }

    /// Whether the last byte of the body has come.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes the next bytes, up to the end of the body, and moves the content of all chunks together.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Malformed> {
        let mut content = 0..0;
        let mut at = 0;
        while at < bytes.len() && self.state != State::Over {
            if let State::Data(left) = self.state {
                let step = left.min((bytes.len() - at) as u64) as usize;
                if content.is_empty() {
                    content = at..at + step;
                } else {
                    bytes.copy_within(at..at + step, content.end);
                    content.end += step;
                }
                at += step;
                let left = left - step as u64;
                self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                continue;
            }
            let rest = &bytes[at..];
            let Some(end) = memchr(b'\n', rest) else {
                self.line.extend_from_slice(rest);
                at = bytes.len();
                if self.line.len() > CHUNK_LINE_MAX {
                    return Err(Malformed);
                }
                break;
            };
            at += end + 1;
            if self.line.is_empty() {
                self.ended_line(&rest[..=end])?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&rest[..=end]);
                self.ended_line(&line)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(Decoded { content, used: at })
    }

    fn ended_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        if line.len() > CHUNK_LINE_MAX {
            return Err(Malformed);
        }
        let text = line.strip_suffix(b"\r\n").ok_or(Malformed)?;
        self.state = match self.state {
            State::Size => match chunk_size(text).ok_or(Malformed)? {
                0 => State::Trailers,
                size => State::Data(size),
            },
            State::DataEnd if text.is_empty() => State::Size,
            State::DataEnd => return Err(Malformed),
            State::Trailers => {
                self.trailers.extend_from_slice(line);
                if self.trailers.len() > TRAILERS_MAX {
                    return Err(Malformed);
                }
                if text.is_empty() {
                    check_trailers(&std::mem::take(&mut self.trailers))?;
                    State::Over
                } else {
                    State::Trailers
                }
            }
            state @ (State::Data(_) | State::Over) => state,
        };
        Ok(())
    }
}

/// Trailers must be header fields, though nobody reads them.
fn check_trailers(block: &[u8]) -> Result<(), Malformed> {
    if block == b"\r\n" {
        return Ok(());
    }
    let mut fields = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
    match httparse::parse_headers(block, &mut fields) {
        Ok(httparse::Status::Complete((len, _))) if len == block.len() => Ok(()),
        _ => Err(Malformed),
    }
}

/// Writes a chunk's first line right before `start`. Returns where it begins.
pub(super) fn write_size_before(bytes: &mut [u8], start: usize, size: usize) -> usize {
    let mut at = start - 2;
    bytes[at..start].copy_from_slice(b"\r\n");
    let mut left = size;
    loop {
        at -= 1;
        bytes[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
        if left == 0 {
            return at;
        }
    }
}

/// What ends a body.
pub(super) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The content, and what follows the body; read in steps of `step` bytes.
    fn read(text: &[u8], step: usize) -> Result<(Vec<u8>, Vec<u8>, bool), Malformed> {
        let mut body = Chunked::new();
        let (mut content, mut rest) = (Vec::new(), Vec::new());
        for part in text.chunks(step) {
            let mut part = part.to_vec();
            let decoded = body.decode(&mut part)?;
            content.extend_from_slice(&part[decoded.content]);
            rest.extend_from_slice(&part[decoded.used..]);
        }
        Ok((content, rest, body.is_over()))
    }

    #[track_caller]
    fn check(text: &str, content: &str, rest: &str) {
        for step in [1, 2, 3, 7, text.len()] {
            let expected = (content.as_bytes().to_vec(), rest.as_bytes().to_vec(), true);
            assert_eq!(read(text.as_bytes(), step), Ok(expected), "{text:?} in steps of {step}");
        }
    }

    #[test]
    fn content_is_put_together_and_what_follows_is_left() {
        check("5\r\nhello\r\n0\r\n\r\nGET /", "hello", "GET /");
        check("5\r\nhello\r\n6;a=b\r\n world\r\n0\r\nx-sum: 1\r\n\r\n", "hello world", "");
        check("0000A \r\n0123456789\r\n00\r\n\r\n", "0123456789", "");
        check("0\r\n\r\n0\r\n\r\n", "", "0\r\n\r\n");
    }

    #[test]
    fn what_breaks_its_framing_is_malformed() {
        for text in [
            "x\r\n",
            "\r\n",
            "5\nhello\r\n",
            "5\r\nhello0\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "-1\r\n",
            "+5\r\nhello\r\n",
            "0x5\r\nhello\r\n",
            "11111111111111111\r\n",
            "5;a\0b\r\nhello\r\n",
            "5;a\rb\r\nhello\r\n",
            "0\r\n\n",
            "0\r\nno colon\r\n\r\n",
            "0\r\n folded: x\r\n\r\n",
            "0\r\nx : y\r\n\r\n",
        ] {
            for step in [1, 7, text.len()] {
                assert_eq!(read(text.as_bytes(), step), Err(Malformed), "{text:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let long = "1;".to_owned() + &"x".repeat(CHUNK_LINE_MAX);
        let many = "0\r\n".to_owned() + &"x-a: b\r\n".repeat(TRAILERS_MAX / 8 + 1);
        for text in [long, many] {
            for step in [1, 1_000, text.len()] {
                assert_eq!(read(text.as_bytes(), step), Err(Malformed), "in steps of {step}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_as_chunks_is_read_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6), step in 1_usize..50,
        ) {
            let mut text = Vec::new();
            for part in &parts {
                let mut line = [0; 20];
                let at = write_size_before(&mut line, 20, part.len());
                text.extend_from_slice(&line[at..]);
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(LAST_CHUNK);
            text.extend_from_slice(b"next");
            prop_assert_eq!(read(&text, step), Ok((parts.concat(), b"next".to_vec(), true)));
        }
    }
}
