//! A worker's buffer: what is read from any socket is handled before another is read, so one buffer serves all connections, and idle ones
//! hold no memory. It stays in the processor's cache.

use std::{
    io,
    ops::Range,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, ReadBuf};

use super::date::Date;

/// What one read takes at most.
pub(super) const READ: usize = 64 << 10;
/// Room before what is read: a new head, or the size of a chunk, is written right before the bytes that follow it, so that both leave in one
/// system call and no body byte is copied.
pub(super) const FRONT: usize = 2 << 10;
/// Room behind it, for the end of a chunk and of all chunks.
const BACK: usize = 16;

/// One worker's.
#[derive(Debug)]
pub struct Scratch {
    /// Read into from [`FRONT`] on.
    pub(super) bytes: Box<[u8]>,
    /// The head that is being written to a client.
    pub(super) head: Vec<u8>,
    /// For answers without one.
    pub(super) date: Date,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { bytes: vec![0; FRONT + READ + BACK].into(), head: Vec::new(), date: Date::default() }
    }
}

impl Scratch {
    /// Reads once. Where it lies; empty at the end.
    pub(super) fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Range<usize>>> {
        let mut buffer = ReadBuf::new(&mut self.bytes[FRONT..FRONT + READ]);
        ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(FRONT..FRONT + buffer.filled().len()))
    }
}
