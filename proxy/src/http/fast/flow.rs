//! A body on its way from one socket to another: read, decoded, written anew, and held back while the other side does not take it.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    chunked::{Chunked, LAST_CHUNK, Malformed, write_size_before},
    scratch::Scratch,
};

/// Why a body did not come to its end.
#[derive(Debug)]
pub(super) enum Cut {
    /// It broke off, or broke its own framing.
    Source,
    /// It is longer than it may be.
    TooLong,
    /// Nobody takes it any more.
    Sink,
}

impl From<Malformed> for Cut {
    fn from(_: Malformed) -> Self {
        Self::Source
    }
}

/// Where a body ends.
#[derive(Debug)]
enum Source {
    /// After so many bytes.
    Length(u64),
    Chunked(Chunked),
    /// With the connection.
    UntilClose,
    /// It has ended.
    Over,
    /// It broke its framing or a limit: what would follow it is not to be believed.
    Broken,
}

/// Told what moves.
pub(super) trait Meter {
    /// So many bytes of content have come, or the end.
    fn came(&mut self, bytes: usize) -> Result<(), Cut>;

    /// Nothing is there to be read.
    fn waits(&mut self);
}

/// A body, and what of it has not been written yet: at most one read's worth.
#[derive(Debug)]
pub(super) struct Flow {
    source: Source,
    chunks: bool,
    unsent: Vec<u8>,
    sent: usize,
}

impl Flow {
    /// No body.
    pub fn none() -> Self {
        Self::new(Source::Over, false)
    }

    /// Of a known length, written as it is.
    pub fn length(length: u64) -> Self {
        Self::new(if length == 0 { Source::Over } else { Source::Length(length) }, false)
    }

    /// In chunks, written in other chunks.
    pub fn chunked() -> Self {
        Self::new(Source::Chunked(Chunked::new()), true)
    }

    /// Until the connection ends, written in chunks.
    pub fn until_close() -> Self {
        Self::new(Source::UntilClose, true)
    }

    /// No body, and these bytes to be written.
    pub fn ready(unsent: Vec<u8>) -> Self {
        Self { unsent, ..Self::none() }
    }

    fn new(source: Source, chunks: bool) -> Self {
        Self { source, chunks, unsent: Vec::new(), sent: 0 }
    }

    /// Whether the last byte has been read.
    pub fn is_over(&self) -> bool {
        matches!(self.source, Source::Over)
    }

    /// Whether all that was read has been written.
    pub fn is_flushed(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Has these bytes written before anything of the body, of which nothing has been written yet.
    pub fn put_before(&mut self, bytes: &[u8]) {
        debug_assert!(bytes.is_empty() || self.is_flushed());
        self.unsent.extend_from_slice(bytes);
    }

    /// Whether it ends with its connection.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.source, Source::UntilClose)
    }

    /// Decodes bytes in place: where the content lies, and where what does not belong to the body begins.
    pub fn decode(&mut self, bytes: &mut [u8], at: Range<usize>) -> Result<(Range<usize>, usize), Cut> {
        let there = at.len();
        match &mut self.source {
            Source::Over => Ok((at.start..at.start, at.start)),
            Source::Broken => Err(Cut::Source),
            Source::UntilClose => Ok((at.clone(), at.end)),
            Source::Length(left) => {
                let step = (*left).min(there as u64) as usize;
                *left -= step as u64;
                if *left == 0 {
                    self.source = Source::Over;
                }
                Ok((at.start..at.start + step, at.start + step))
            }
            Source::Chunked(chunked) => {
                let decoded = chunked.decode(&mut bytes[at.clone()])?;
                if chunked.is_over() {
                    self.source = Source::Over;
                }
                let content = at.start + decoded.content.start..at.start + decoded.content.end;
                Ok((content, at.start + decoded.used))
            }
        }
    }

    /// Takes what belongs to the body from the start of `bytes`, and adds it to `out` as it is to be written.
    /// After an error the body never ends, and nothing is left that could pass for what follows it.
    pub fn take(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>, meter: &mut impl Meter) -> Result<(), Cut> {
        self.take_sound(bytes, out, meter).inspect_err(|_| {
            self.source = Source::Broken;
            bytes.clear();
        })
    }

    fn take_sound(&mut self, bytes: &mut Vec<u8>, out: &mut Vec<u8>, meter: &mut impl Meter) -> Result<(), Cut> {
        if self.is_over() || bytes.is_empty() {
            return Ok(());
        }
        let all = 0..bytes.len();
        let (content, used) = self.decode(bytes, all)?;
        meter.came(content.len())?;
        if self.chunks && !content.is_empty() {
            let mut line = [0; 20];
            let at = write_size_before(&mut line, 20, content.len());
            out.extend_from_slice(&line[at..]);
        }
        out.extend_from_slice(&bytes[content.clone()]);
        if self.chunks && !content.is_empty() {
            out.extend_from_slice(b"\r\n");
        }
        if self.chunks && self.is_over() {
            out.extend_from_slice(LAST_CHUNK);
        }
        bytes.drain(..used);
        Ok(())
    }

    /// The same with what lies in the worker's buffer: where it is to be written from. What does not belong to the body goes to `rest`.
    pub fn take_in_place(
        &mut self,
        scratch: &mut [u8],
        at: Range<usize>,
        rest: &mut Vec<u8>,
        meter: &mut impl Meter,
    ) -> Result<Range<usize>, Cut> {
        let decoded = self.decode(scratch, at.clone());
        let sound = decoded.and_then(|(content, used)| meter.came(content.len()).map(|()| (content, used)));
        let (content, used) = sound.inspect_err(|_| self.source = Source::Broken)?;
        rest.extend_from_slice(&scratch[used..at.end]);
        // Without content, only an end may have to be written; there is room for it where the body begins.
        let mut out = if content.is_empty() { at.start..at.start } else { content };
        if self.chunks {
            if !out.is_empty() {
                let size = out.len();
                out.start = write_size_before(scratch, out.start, size);
                scratch[out.end..out.end + 2].copy_from_slice(b"\r\n");
                out.end += 2;
            }
            if self.is_over() {
                scratch[out.end..out.end + LAST_CHUNK.len()].copy_from_slice(LAST_CHUNK);
                out.end += LAST_CHUNK.len();
            }
        }
        Ok(out)
    }

    /// Writes bytes, after those that wait; what is not taken waits.
    pub fn push(&mut self, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> io::Result<()> {
        let mut from = 0;
        while self.unsent.is_empty() && from < bytes.len() {
            match Pin::new(&mut *to).poll_write(cx, &bytes[from..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(written)) => from += written,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        self.unsent.extend_from_slice(&bytes[from..]);
        Ok(())
    }

    /// Writes what waits.
    pub fn poll_flush(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.unsent.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.unsent[self.sent..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        // Not kept: a connection that was held back once need not hold memory for ever.
        (self.unsent, self.sent) = (Vec::new(), 0);
        // TLS has a buffer of its own; for a bare socket this is nothing.
        Pin::new(to).poll_flush(cx)
    }

    /// Moves what can be moved: what was read before (`rest`, which holds what comes after the body in the end), then what can be read. Ready
    /// once the last byte has been read and written.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        rest: &mut Vec<u8>,
        to: &mut (impl AsyncWrite + Unpin),
        scratch: &mut Scratch,
        meter: &mut impl Meter,
    ) -> Poll<Result<(), Cut>> {
        loop {
            ready!(self.poll_flush(to, cx)).map_err(|_| Cut::Sink)?;
            if self.is_over() {
                return Poll::Ready(Ok(()));
            }
            if !rest.is_empty() {
                let mut out = Vec::new();
                self.take(rest, &mut out, meter)?;
                self.push(&out, to, cx).map_err(|_| Cut::Sink)?;
                continue;
            }
            let at = match scratch.poll_read(from, cx) {
                Poll::Ready(Ok(at)) => at,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Cut::Source)),
                Poll::Pending => {
                    meter.waits();
                    return Poll::Pending;
                }
            };
            if at.is_empty() {
                if !matches!(self.source, Source::UntilClose) {
                    return Poll::Ready(Err(Cut::Source));
                }
                self.source = Source::Over;
                meter.came(0)?;
                self.push(LAST_CHUNK, to, cx).map_err(|_| Cut::Sink)?;
                continue;
            }
            let out = self.take_in_place(&mut scratch.bytes, at, rest, meter)?;
            self.push(&scratch.bytes[out], to, cx).map_err(|_| Cut::Sink)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A meter that knows how much came, and has a limit.
    struct Count(usize, usize);

    impl Meter for Count {
        fn came(&mut self, bytes: usize) -> Result<(), Cut> {
            self.0 += bytes;
            if self.0 > self.1 { Err(Cut::TooLong) } else { Ok(()) }
        }

        fn waits(&mut self) {}
    }

    #[test]
    fn a_body_that_breaks_never_ends_and_leaves_nothing_that_could_be_a_request() {
        // All of it, and another request, came at once: too long by a byte, and broken framing.
        for (text, max) in
            [("5\r\nhello\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n", 4), ("5\r\nhelloGET / HTTP/1.1\r\n\r\n", 99)]
        {
            let mut flow = Flow::chunked();
            let (mut rest, mut out) = (text.as_bytes().to_vec(), Vec::new());
            assert!(flow.take(&mut rest, &mut out, &mut Count(0, max)).is_err(), "{text:?}");
            assert!(!flow.is_over() && rest.is_empty(), "{text:?}");
            assert!(flow.take(&mut text.as_bytes().to_vec(), &mut out, &mut Count(0, 99)).is_err(), "{text:?}");
        }
    }

    /// A socket that takes so many bytes a poll, and no more than so many until it is given more room.
    struct Narrow {
        taken: Vec<u8>,
        step: usize,
        room: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let step = bytes.len().min(self.step).min(self.room);
            if step == 0 {
                return Poll::Pending;
            }
            self.room -= step;
            self.taken.extend_from_slice(&bytes[..step]);
            Poll::Ready(Ok(step))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn poll(flow: &mut Flow, from: &mut &[u8], rest: &mut Vec<u8>, to: &mut Narrow) -> Poll<Result<(), Cut>> {
        let mut cx = Context::from_waker(Waker::noop());
        flow.poll(&mut cx, from, rest, to, &mut Scratch::default(), &mut Count(0, usize::MAX))
    }

    /// Relays `text` in pieces that the sink takes: what was written, and what is left of the stream.
    fn relayed(mut flow: Flow, before: &str, text: &str) -> (String, String) {
        let mut rest = before.as_bytes().to_vec();
        let mut from = text.as_bytes();
        let mut to = Narrow { taken: Vec::new(), step: 3, room: 0 };
        for _ in 0..1_000 {
            if poll(&mut flow, &mut from, &mut rest, &mut to).is_ready() {
                let left = String::from_utf8(rest).unwrap() + std::str::from_utf8(from).unwrap();
                return (String::from_utf8(to.taken).unwrap(), left);
            }
            to.room = 5;
        }
        panic!("no end: {flow:?}");
    }

    #[test]
    fn a_body_ends_where_its_framing_says_and_the_rest_is_left() {
        let check = |flow: Flow, before: &str, text: &str, written: &str, left: &str| {
            assert_eq!(relayed(flow, before, text), (written.to_owned(), left.to_owned()), "{before:?} {text:?}");
        };
        check(Flow::length(10), "", "0123456789GET", "0123456789", "GET");
        check(Flow::length(10), "0123", "456789GET", "0123456789", "GET");
        check(Flow::length(3), "0123", "", "012", "3");
        check(Flow::chunked(), "", "3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\nGET", "5\r\nabcde\r\n0\r\n\r\n", "GET");
        check(Flow::chunked(), "3\r\nab", "c\r\n0\r\n\r\n", "2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", "");
        check(Flow::until_close(), "", "until the end", "d\r\nuntil the end\r\n0\r\n\r\n", "");
        check(Flow::until_close(), "", "", "0\r\n\r\n", "");
        check(Flow::none(), "", "GET", "", "GET");
    }

    #[test]
    fn what_was_not_written_of_the_head_goes_before_the_body() {
        let mut flow = Flow::length(5);
        flow.put_before(b"rest of the head, ");
        assert!(!flow.is_flushed());
        assert_eq!(relayed(flow, "he", "llo!"), ("rest of the head, hello".to_owned(), "!".to_owned()));
        let mut flow = Flow::none();
        flow.put_before(b"head");
        assert!(flow.is_over() && !flow.is_flushed(), "a connection that is not clean");
    }

    #[test]
    fn a_body_that_breaks_off_or_is_too_long_is_cut() {
        let mut to = Narrow { taken: Vec::new(), step: 100, room: 1_000 };
        for (mut flow, text) in [(Flow::length(10), "012"), (Flow::chunked(), "3\r\nab"), (Flow::chunked(), "x\r\n")] {
            let cut = poll(&mut flow, &mut text.as_bytes(), &mut Vec::new(), &mut to);
            assert!(matches!(cut, Poll::Ready(Err(Cut::Source))), "{text:?}");
        }
        let mut cx = Context::from_waker(Waker::noop());
        let (mut scratch, mut meter) = (Scratch::default(), Count(0, 4));
        let cut =
            Flow::length(10).poll(&mut cx, &mut &b"0123456789"[..], &mut Vec::new(), &mut to, &mut scratch, &mut meter);
        assert!(matches!(cut, Poll::Ready(Err(Cut::TooLong))));
        assert!(!to.taken.ends_with(b"0\r\n\r\n"), "never ended as if it were whole");
    }

    #[test]
    fn a_sink_that_takes_nothing_holds_its_source_back() {
        let text = vec![b'x'; 1_000_000];
        let mut from = &text[..];
        let mut to = Narrow { taken: Vec::new(), step: 100, room: 100 };
        let mut flow = Flow::length(1_000_000);
        for _ in 0..10 {
            assert!(poll(&mut flow, &mut from, &mut Vec::new(), &mut to).is_pending());
        }
        assert!(text.len() - from.len() <= super::super::scratch::READ, "{} bytes were read", text.len() - from.len());
    }
}
