//! Paths in the form that everybody reads alike (RFC 3986 §6.2.2): without dot segments, with unreserved characters as themselves. Routes are
//! matched against it and endpoints get it, so that nobody finds a way around a route, or its policies, that an endpoint does not see as one.

use std::borrow::Cow;

use http::uri::PathAndQuery;
use memchr::{memchr, memchr2};

/// Whether a path, which begins with a slash, is in normal form.
pub fn is_normal(path: &[u8]) -> bool {
    !has_dot_segment(path) && escapes(path).all(|at| unreserved(path, at).is_none()) && memchr(b'\\', path).is_none()
}

/// The same target in normal form; `None` if it is.
pub fn normalized(target: &PathAndQuery) -> Option<PathAndQuery> {
    let path = target.path();
    if !path.starts_with('/') || is_normal(path.as_bytes()) {
        return None;
    }
    let mut normal = without_dot_segments(&unescaped(path.as_bytes()));
    if let Some(query) = target.query() {
        normal.push(b'?');
        normal.extend_from_slice(query.as_bytes());
    }
    PathAndQuery::try_from(normal.as_slice()).ok()
}

/// Where percent signs are.
fn escapes(path: &[u8]) -> impl Iterator<Item = usize> {
    memchr::memchr_iter(b'%', path)
}

/// The unreserved character (RFC 3986 §2.3) that is escaped here.
fn unreserved(path: &[u8], at: usize) -> Option<u8> {
    let digit = |at: usize| path.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let byte = (digit(at + 1)? * 16 + digit(at + 2)?) as u8;
    (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)).then_some(byte)
}

fn has_dot_segment(path: &[u8]) -> bool {
    memchr::memmem::find_iter(path, b"/.").any(|at| {
        let rest = &path[at + 2..];
        let rest = rest.strip_prefix(b".").unwrap_or(rest);
        matches!(rest.first(), None | Some(b'/'))
    })
}

/// Unreserved characters as themselves, and backslashes, which URIs do not have and browsers and some servers take for slashes, as slashes.
fn unescaped(path: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr2(b'%', b'\\', path) else { return Cow::Borrowed(path) };
    let mut out = path[..first].to_vec();
    let mut at = first;
    while let Some(&byte) = path.get(at) {
        let escaped = if byte == b'%' { unreserved(path, at) } else { None };
        out.push(escaped.unwrap_or(if byte == b'\\' { b'/' } else { byte }));
        at += if escaped.is_some() { 3 } else { 1 };
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
        normalized(&target).unwrap_or(target).to_string()
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
            assert_eq!(normalized(&PathAndQuery::try_from(target).unwrap()), None, "{target}");
        }
    }

    proptest! {
        #[test]
        fn normal_form_is_normal_and_has_no_way_up(parts in prop::collection::vec(
            prop_oneof![Just("/"), Just("."), Just(".."), Just("%2e"), Just("%2F"), Just("\\"), Just("a"), Just("%"), Just("%61"), Just("%25"), Just("2e")], 0..12)
        ) {
            let target = PathAndQuery::try_from(format!("/{}", parts.concat())).unwrap();
            if let Some(once) = normalized(&target) {
                prop_assert!(is_normal(once.path().as_bytes()), "{} to {}", target, once);
                prop_assert!(once.path().starts_with('/'));
                prop_assert!(once.path().split('/').all(|segment| segment != ".." && segment != "."), "{} to {}", target, once);
            }
        }
    }
}
