//! Paths in the form that everybody reads alike (RFC 3986 §6.2.2): without dot segments, with unreserved characters as themselves. Routes are
//! matched against it and endpoints get it, so that nobody finds a way around a route, or its policies, that an endpoint does not see as one.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use memchr::{memchr, memchr2};

/// Whether a path, which begins with a slash, is in normal form.
pub fn is_normal(path: &[u8]) -> bool {
    !has_dot_segment(path) && escapes(path).all(|at| is_normal_escape(path, at)) && memchr(b'\\', path).is_none()
}

/// A path in normal form, or as it is where it has none.
pub fn normal_path(path: &str) -> String {
    let normal = path.parse().ok().and_then(|target| normalized(&target).ok().flatten());
    normal.map_or_else(|| path.to_owned(), |target| target.path().to_owned())
}

/// Percent signs without two digits that others would complete: nobody can say what is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undecided;

/// The same target in normal form; `None` if it is.
///
/// # Errors
/// It has none.
pub fn normalized(target: &PathAndQuery) -> Result<Option<PathAndQuery>, Undecided> {
    let path = target.path();
    if !path.starts_with('/') || is_normal(path.as_bytes()) {
        return Ok(None);
    }
    let mut normal = without_dot_segments(&unescaped(path.as_bytes()));
    if !is_normal(&normal) {
        return Err(Undecided);
    }
    if let Some(query) = target.query() {
        normal.push(b'?');
        normal.extend_from_slice(query.as_bytes());
    }
    PathAndQuery::try_from(normal.as_slice()).map(Some).map_err(|_| Undecided)
}

/// Where percent signs are.
fn escapes(path: &[u8]) -> impl Iterator<Item = usize> {
    memchr::memchr_iter(b'%', path)
}

/// The byte that is escaped here.
fn escaped(path: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    Some((digit(at + 1)? * 16 + digit(at + 2)?) as u8)
}

/// Characters that mean the same whether they are escaped or not (RFC 3986 §2.3).
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Whether what is escaped here must be, and is in upper case.
fn is_normal_escape(path: &[u8], at: usize) -> bool {
    match escaped(path, at) {
        Some(byte) => !is_unreserved(byte) && !path[at + 1..at + 3].iter().any(u8::is_ascii_lowercase),
        None => true,
    }
}

fn has_dot_segment(path: &[u8]) -> bool {
    memchr::memchr_iter(b'.', path).any(|at| {
        let rest = &path[at + 1..];
        let rest = rest.strip_prefix(b".").unwrap_or(rest);
        at > 0 && path[at - 1] == b'/' && matches!(rest.first(), None | Some(b'/'))
    })
}

/// Unreserved characters as themselves, other escapes in upper case, and backslashes, which URIs do not have and browsers and some servers take for
/// slashes, as slashes.
fn unescaped(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr2(b'%', b'\\', path) else { return Cow::Borrowed(path) };
    let mut out = path[..first].to_vec();
    let mut at = first;
    while let Some(&byte) = path.get(at) {
        let meant = if byte == b'%' { escaped(path, at) } else { None };
        match meant {
            Some(meant) if is_unreserved(meant) => out.push(meant),
            Some(_) => out.extend(path[at..at + 3].iter().map(u8::to_ascii_uppercase)),
            None => out.push(if byte == b'\\' { b'/' } else { byte }),
        }
        at += if meant.is_some() { 3 } else { 1 };
    }
    Cow::Owned(out)
}

/// RFC 3986 §5.2.4.
fn without_dot_segments(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path[1..].split(|byte| *byte == b'/').peekable();
    while let Some(segment) = segments.next() {
        let is_dot = matches!(segment, b"." | b"..");
        if segment == b".." {
            out.truncate(memchr::memrchr(b'/', &out).unwrap_or(0));
        }
        if !is_dot || segments.peek().is_none() {
            out.push(b'/');
        }
        if !is_dot {
            out.extend_from_slice(segment);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn normal(target: &str) -> String {
        let target = PathAndQuery::try_from(target).unwrap();
        normalized(&target).unwrap().unwrap_or(target).to_string()
    }

    #[test]
    fn dot_segments_are_resolved_as_rfc_3986_has_it() {
        for (target, expected) in [
            ("/a/b/c/./../../g", "/a/g"),
            ("/v1/../admin?x=/../y", "/admin?x=/../y"),
            ("/../../etc/passwd", "/etc/passwd"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/.", "/"),
            ("//x/../y", "//y"),
            ("/a//../b", "/a/b"),
            ("/v1/%2e%2E/admin", "/admin"),
            ("/v1/.%2e/%61dmin", "/admin"),
            ("/v1\\..\\admin", "/admin"),
            ("/%7Eana/%41", "/~ana/A"),
            ("/a%2fb/caf%c3%A9?%2f", "/a%2Fb/caf%C3%A9?%2f"),
        ] {
            assert_eq!(normal(target), expected, "{target}");
        }
    }

    #[test]
    fn what_is_in_normal_form_stays_byte_for_byte() {
        for target in [
            "/",
            "/a/b.c/..d/...?x=%41",
            "/.well-known/x",
            "/a..",
            "/a/%20b%2F%zz%",
            "/%252e%252e/x",
            "//a",
            "/a/",
            "/caf%C3%A9",
            "*",
        ] {
            assert_eq!(normalized(&PathAndQuery::try_from(target).unwrap()), Ok(None), "{target}");
        }
        for target in ["/%2%65/x", "/%a%61"] {
            assert_eq!(normalized(&PathAndQuery::try_from(target).unwrap()), Err(Undecided), "{target}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_normal_and_has_no_way_up(parts in prop::collection::vec(
            prop_oneof![Just("/"), Just("."), Just(".."), Just("%2e"), Just("%2F"), Just("\\"), Just("a"), Just("%"), Just("%61"), Just("%2f"), Just("%25"), Just("2e")], 0..12)
        ) {
            let target = PathAndQuery::try_from(format!("/{}", parts.concat())).unwrap();
            if let Ok(Some(once)) = normalized(&target) {
                prop_assert!(is_normal(once.path().as_bytes()), "{} to {}", target, once);
                prop_assert!(once.path().starts_with('/'));
                prop_assert!(once.path().split('/').all(|segment| segment != ".." && segment != "."), "{} to {}", target, once);
            }
        }
    }
}
