//! The proxy's own answers, written by hand.

use super::{super::error::Refused, field};

/// Writes the whole answer; without its body, of which the length is told, if it is to a HEAD request.
pub(super) fn write(refused: &Refused, to_head: bool, closes: bool, date: &str, out: &mut Vec<u8>) {
    let answer = refused.answer();
    let status = answer.status();
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(status.canonical_reason().unwrap_or("<none>").as_bytes());
    out.extend_from_slice(b"\r\n");
    for (name, value) in answer.headers().iter().filter(|(name, _)| *name != http::header::CONNECTION) {
        field::write(out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"content-length: ");
    field::write_number(out, answer.body().len() as u64);
    out.extend_from_slice(b"\r\n");
    if closes {
        out.extend_from_slice(b"connection: close\r\n");
    }
    field::write(out, "date", date.as_bytes());
    out.extend_from_slice(b"\r\n");
    if !to_head {
        out.extend_from_slice(answer.body());
    }
}
