//! Chunked bodies: the fast path's decoder against a slow twin that has all bytes at once, against the reader of framing that stands before
//! hyper, and against itself when what it has read is written again.

use crate::http::{
    fast::twin::{read_chunks, write_chunk},
    framing::{Fed, Framing},
};

/// What a reader makes of bytes that begin with a chunked body.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// It ended after so many bytes, with this content.
    Whole(Vec<u8>, usize),
    /// It breaks its framing.
    Malformed,
    /// More must come.
    Partial,
}

/// The first byte says in how large steps the others come.
pub fn chunked(data: &[u8]) {
    let Some((first, bytes)) = data.split_first() else { return };
    let step = usize::from(*first % 64) + 1;
    let fast = in_steps(bytes, step);
    assert_eq!(fast, in_steps(bytes, bytes.len().max(1)), "in steps of {step} and in one");
    match (&fast, twin(bytes)) {
        // Whether trailers are fields is httparse's to say, in both.
        (Read::Malformed, Some(Read::Whole(_, end))) => {
            assert!(bytes[..end].ends_with(b"\r\n\r\n"), "only trailers may be refused");
        }
        (_, Some(read)) => assert_eq!(fast, read, "the twin"),
        // Lines longer than either takes.
        (_, None) => {}
    }
    let framed = framing(bytes);
    match &fast {
        Read::Whole(_, end) => assert_eq!(framed, Ok(Some(*end)), "framing"),
        Read::Partial => assert_eq!(framed, Ok(None), "framing"),
        // Framing looks at no trailer.
        Read::Malformed => {}
    }
    if let Read::Whole(content, _) = &fast {
        let mut written = Vec::new();
        content.chunks(step).for_each(|part| write_chunk(part, &mut written));
        written.extend_from_slice(b"0\r\n\r\n");
        let end = written.len();
        assert_eq!(in_steps(&written, step), Read::Whole(content.clone(), end), "written again");
    }
}

fn in_steps(bytes: &[u8], step: usize) -> Read {
    match read_chunks(bytes, step) {
        Ok((content, used, true)) => Read::Whole(content, used),
        Ok(_) => Read::Partial,
        Err(_) => Read::Malformed,
    }
}

/// The grammar of RFC 9112 §7.1, on bytes that are all there. `None`: a line is too long to be compared.
fn twin(bytes: &[u8]) -> Option<Read> {
    let mut content = Vec::new();
    let mut at = 0;
    let line = |at: usize| bytes[at..].iter().position(|byte| *byte == b'\n').map(|end| &bytes[at..=at + end]);
    loop {
        let Some(size) = line(at) else { return (bytes.len() - at <= 4_000).then_some(Read::Partial) };
        if size.len() > 4_000 {
            return None;
        }
        at += size.len();
        let Some(size) = size.strip_suffix(b"\r\n") else { return Some(Read::Malformed) };
        let digits = size.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = &size[digits..];
        let blank = extension.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let follows = extension.get(blank).is_none_or(|byte| *byte == b';');
        let control = extension.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127));
        if digits == 0 || digits > 16 || !follows || control {
            return Some(Read::Malformed);
        }
        let number = size[..digits].iter().try_fold(0_u64, |number, digit| {
            let digit = char::from(*digit).to_digit(16)?;
            number.checked_mul(16)?.checked_add(digit.into())
        });
        let Some(number) = number else { return Some(Read::Malformed) };
        if number == 0 {
            break;
        }
        let Ok(number) = usize::try_from(number) else { return Some(Read::Malformed) };
        let rest = &bytes[at..];
        if rest.len() < number {
            return Some(Read::Partial);
        }
        content.extend_from_slice(&rest[..number]);
        at += number;
        let Some(end) = line(at) else {
            return (bytes.len() - at <= 4_000).then_some(Read::Partial);
        };
        if end != b"\r\n" {
            return if end.len() > 4_000 { None } else { Some(Read::Malformed) };
        }
        at += 2;
    }
    let trailers = at;
    loop {
        let Some(field) = line(at) else { return (bytes.len() - at <= 4_000).then_some(Read::Partial) };
        at += field.len();
        if field.len() > 4_000 || at - trailers > 16_000 {
            return None;
        }
        match field.strip_suffix(b"\r\n") {
            None => return Some(Read::Malformed),
            Some(b"") => return Some(Read::Whole(content, at)),
            Some(_) => {}
        }
    }
}

/// Where framing sees the end of the body; an error where it is broken.
fn framing(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let mut framing = Framing::default();
    let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(framing.feed(head), Fed::All);
    for (at, byte) in bytes.iter().enumerate() {
        let fed = framing.feed(&[*byte]);
        if framing.broken() {
            return Err(());
        }
        assert_eq!(fed, Fed::All);
        if framing.between_messages() {
            return Ok(Some(at + 1));
        }
    }
    Ok(None)
}
