//! One match of a rule: path, method, headers and query parameters, all of which must hold.

use std::{borrow::Cow, cmp::Reverse, fmt};

use http::{HeaderName, Method};
use regex::Regex;

use crate::{
    api::v1,
    config::InvalidResource,
    head::{RequestHead, text},
    path::normal_path,
};

/// Memory that one compiled expression may take; a larger one is refused.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Conditions on a request; all must hold.
#[derive(Debug, Clone)]
pub struct Matcher {
    path: PathMatcher,
    method: Option<Method>,
    headers: Vec<(HeaderName, TextMatcher)>,
    query: Vec<(String, TextMatcher)>,
}

/// A condition on the path.
#[derive(Debug, Clone)]
enum PathMatcher {
    Exact(String),
    /// Without a trailing slash; empty: every path.
    Prefix(String),
    Regex(Regex),
    /// The second of two segments.
    GrpcMethod(String),
}

#[derive(Debug, Clone)]
enum TextMatcher {
    Exact(String),
    Regex(Regex),
}

/// Names the field of a resource in errors.
pub(super) struct Field<'a> {
    pub resource: &'a str,
    pub path: String,
}

impl Field<'_> {
    pub fn error(&self, name: &str, reason: impl Into<String>) -> InvalidResource {
        let separator = if self.path.is_empty() || name.is_empty() { "" } else { "." };
        InvalidResource {
            resource: self.resource.to_owned(),
            field: format!("{}{separator}{name}", self.path),
            reason: reason.into(),
        }
    }
}

impl Matcher {
    /// Matches every request.
    pub fn any() -> Self {
        Self { path: PathMatcher::Prefix(String::new()), method: None, headers: Vec::new(), query: Vec::new() }
    }

    pub(super) fn new(wire: v1::RouteMatch, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let path = match wire.path {
            None => PathMatcher::Prefix(String::new()),
            Some(path) => PathMatcher::new(path, field)?,
        };
        let method = wire
            .method
            .map(|name| {
                Method::from_bytes(name.as_bytes())
                    .map_err(|_| field.error("method", format!("{name:?} is not an HTTP method")))
            })
            .transpose()?;
        let mut headers: Vec<(HeaderName, TextMatcher)> = Vec::new();
        for (index, wire) in wire.headers.into_iter().enumerate() {
            let at = format!("headers[{index}]");
            let name = HeaderName::from_bytes(wire.name.as_bytes())
                .map_err(|_| field.error(&format!("{at}.name"), format!("{:?} is not a header name", wire.name)))?;
            // Of equivalent names only the first counts (Gateway API, HTTPHeaderMatch.name).
            if headers.iter().all(|(known, _)| *known != name) {
                headers.push((name, TextMatcher::new(wire, &at, field)?));
            }
        }
        let mut query: Vec<(String, TextMatcher)> = Vec::new();
        for (index, wire) in wire.query_params.into_iter().enumerate() {
            let at = format!("query_params[{index}]");
            if wire.name.is_empty() {
                return Err(field.error(&format!("{at}.name"), "must not be empty"));
            }
            if query.iter().all(|(known, _)| *known != wire.name) {
                query.push((wire.name.clone(), TextMatcher::new(wire, &at, field)?));
            }
        }
        Ok(Self { path, method, headers, query })
    }

    /// Whether a request fulfils it.
    pub fn matches(&self, head: &impl RequestHead) -> bool {
        self.path.matches(head.path())
            && self.method.as_ref().is_none_or(|method| method == head.method())
            && self
                .headers
                .iter()
                .all(|(name, value)| header_value(head, name).is_some_and(|text| value.matches(&text)))
            && (self.query.is_empty() || self.query_matches(head.query().unwrap_or_default()))
    }

    /// Bytes of a path that it matched as a prefix; an exact match and an expression match all of it.
    pub fn prefix_len(&self, path: &str) -> usize {
        match &self.path {
            PathMatcher::Prefix(prefix) => prefix.len(),
            PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::GrpcMethod(_) => path.len(),
        }
    }

    fn query_matches(&self, query: &str) -> bool {
        // Of a parameter that stands there twice, the first counts.
        self.query.iter().all(|(name, matcher)| {
            query
                .split('&')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .find(|(given, _)| percent_decoded(given) == name.as_str())
                .is_some_and(|(_, value)| matcher.matches(&percent_decoded(value)))
        })
    }

    /// Sorts what must be tried first to the front: exact paths, longer prefixes, a method, more headers, more query parameters.
    /// Expressions stand between exact paths and prefixes, longer ones first, as in Envoy Gateway.
    pub fn precedence(&self) -> impl Ord + use<> {
        let (kind, length) = match &self.path {
            PathMatcher::Exact(path) => (0, path.len()),
            PathMatcher::Regex(regex) => (1, regex.as_str().len()),
            PathMatcher::Prefix(path) if !path.is_empty() => (2, path.len()),
            // After what matches a service, before what matches everything (GRPCRoute).
            PathMatcher::GrpcMethod(method) => (3, method.len()),
            PathMatcher::Prefix(_) => (4, 0),
        };
        (kind, Reverse(length), self.method.is_none(), Reverse(self.headers.len()), Reverse(self.query.len()))
    }
}

impl PathMatcher {
    fn new(wire: v1::PathMatch, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let kind = v1::path_match::Kind::try_from(wire.kind)
            .map_err(|_| field.error("path.kind", format!("{} is not a kind of path match", wire.kind)))?;
        let (is_path, is_method) = (wire.value.starts_with('/'), !wire.value.is_empty() && !wire.value.contains('/'));
        if kind == v1::path_match::Kind::GrpcMethod && !is_method {
            return Err(field.error("path.value", format!("{:?} is not the name of a method", wire.value)));
        }
        if matches!(kind, v1::path_match::Kind::Exact | v1::path_match::Kind::Prefix) && !is_path {
            return Err(field.error("path.value", format!("{:?} must start with \"/\"", wire.value)));
        }
        Ok(match kind {
            // As paths of requests are when they are compared.
            v1::path_match::Kind::Exact => Self::Exact(normal_path(&wire.value)),
            v1::path_match::Kind::Prefix => Self::Prefix(normal_path(&wire.value).trim_end_matches('/').to_owned()),
            v1::path_match::Kind::RegularExpression => {
                Self::Regex(anchored(&wire.value).map_err(|reason| field.error("path.value", reason))?)
            }
            v1::path_match::Kind::GrpcMethod => Self::GrpcMethod(wire.value),
        })
    }

    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                // `OPTIONS *` asks about the server as a whole.
                || prefix.is_empty()
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::GrpcMethod(method) => {
                let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
                parts.is_some_and(|(service, called)| !service.is_empty() && called == method)
            }
        }
    }
}

impl TextMatcher {
    fn new(wire: v1::ValueMatch, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        match v1::value_match::Kind::try_from(wire.kind) {
            Ok(v1::value_match::Kind::Exact) => Ok(Self::Exact(wire.value)),
            Ok(v1::value_match::Kind::RegularExpression) => {
                anchored(&wire.value).map(Self::Regex).map_err(|reason| field.error(&format!("{at}.value"), reason))
            }
            Err(_) => Err(field.error(&format!("{at}.kind"), format!("{} is not a kind of match", wire.kind))),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn anchored(pattern: &str) -> Result<Regex, String> {
    // Parsed by itself first, so that `a)(b` is an error and not a clever anchor.
    Regex::new(pattern)
        .and_then(|_| regex::RegexBuilder::new(&format!("^(?:{pattern})$")).size_limit(REGEX_BYTES_MAX).build())
        .map_err(|error| format!("not a regular expression: {error}"))
}

/// The value of a header, several lines joined as RFC 9110 §5.3 says; `None` if it is absent or not text.
fn header_value<'a>(head: &'a impl RequestHead, name: &'a HeaderName) -> Option<Cow<'a, str>> {
    let mut values = head.values(name);
    let first = text(values.next()?)?;
    values.try_fold(Cow::Borrowed(first), |joined, value| Some(Cow::Owned(format!("{joined}, {}", text(value)?))))
}

/// `%41` → `A`, `+` → space; what is not an escape stands as it is.
fn percent_decoded(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| b == b'%' || b == b'+') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            // A sign is no digit, though Rust takes `+5` for a number.
            .filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match hex {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

impl fmt::Display for Matcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(formatter, "{method} ")?;
        }
        match &self.path {
            PathMatcher::Exact(path) => write!(formatter, "={path}")?,
            PathMatcher::Prefix(path) => write!(formatter, "{path}/*")?,
            PathMatcher::Regex(regex) => write!(formatter, "~{regex}")?,
            PathMatcher::GrpcMethod(method) => write!(formatter, "/*/{method}")?,
        }
        self.headers.iter().try_for_each(|(name, value)| write!(formatter, " {name}:{value}"))?;
        self.query.iter().try_for_each(|(name, value)| write!(formatter, " ?{name}={value}"))
    }
}

impl fmt::Display for TextMatcher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => formatter.write_str(text),
            Self::Regex(regex) => write!(formatter, "~{regex}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn value(name: &str, value: &str, kind: v1::value_match::Kind) -> v1::ValueMatch {
        v1::ValueMatch { kind: kind.into(), name: name.into(), value: value.into() }
    }

    fn path(kind: v1::path_match::Kind, value: &str) -> v1::RouteMatch {
        let path = Some(v1::PathMatch { kind: kind.into(), value: value.into() });
        v1::RouteMatch { path, ..Default::default() }
    }

    #[track_caller]
    fn check(wire: &v1::RouteMatch, target: &str, expected: bool) {
        let field = Field { resource: "HttpRoute a/b", path: "rules[0].matches[0]".into() };
        let matcher = Matcher::new(wire.clone(), &field).unwrap();
        let request = Request::builder().uri(target).header("x-a", "1").header("x-a", "2").body(()).unwrap();
        assert_eq!(matcher.matches(&request.into_parts().0), expected, "{target} {wire:?}");
    }

    #[test]
    fn a_prefix_matches_whole_segments() {
        let prefix = path(v1::path_match::Kind::Prefix, "/foo/");
        for (target, expected) in
            [("/foo", true), ("/foo/bar", true), ("/foobar", false), ("/foo?x", true), ("/", false)]
        {
            check(&prefix, target, expected);
        }
        check(&path(v1::path_match::Kind::Prefix, "/"), "/anything", true);
    }

    #[test]
    fn exact_paths_and_expressions_match_the_whole_path() {
        check(&path(v1::path_match::Kind::Exact, "/foo"), "/foo", true);
        check(&path(v1::path_match::Kind::Exact, "/foo"), "/foo/", false);
        check(&path(v1::path_match::Kind::RegularExpression, "/f|/foo[0-9]"), "/foo1", true);
        check(&path(v1::path_match::Kind::RegularExpression, "/f|/foo[0-9]"), "/foo12", false);
    }

    #[test]
    fn headers_and_query_parameters_match_by_value_or_expression() {
        use v1::value_match::Kind::{Exact, RegularExpression};
        let with = |headers: Vec<v1::ValueMatch>, query_params: Vec<v1::ValueMatch>| v1::RouteMatch {
            headers,
            query_params,
            ..Default::default()
        };
        check(&with(vec![value("X-A", "1, 2", Exact)], vec![]), "/", true);
        check(&with(vec![value("x-a", "1", Exact)], vec![]), "/", false);
        check(&with(vec![value("x-b", ".*", RegularExpression)], vec![]), "/", false);
        check(&with(vec![], vec![value("q", "a b", Exact)]), "/?p=1&q=a%20b&q=c", true);
        check(&with(vec![], vec![value("q", "c", Exact)]), "/?q=a&q=c", false);
        check(&with(vec![], vec![value("q", "[ab]+", RegularExpression)]), "/?q=abba", true);
    }

    #[test]
    fn what_does_not_hold_is_named() {
        let field = Field { resource: "HttpRoute a/b", path: "rules[0].matches[1]".into() };
        let error = |wire| Matcher::new(wire, &field).unwrap_err().to_string();
        assert_eq!(
            error(path(v1::path_match::Kind::Exact, "foo")),
            "HttpRoute a/b: rules[0].matches[1].path.value: \"foo\" must start with \"/\""
        );
        assert!(error(path(v1::path_match::Kind::RegularExpression, "a)(b")).contains("not a regular expression"));
        let method = v1::RouteMatch { method: Some("G T".into()), ..Default::default() };
        assert!(error(method).contains("rules[0].matches[1].method"));
    }
}
