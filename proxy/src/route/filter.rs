//! Filters of a rule and of its backend references (HTTPRoute): what is done to heads on their way, validated and merged once, so that a
//! request applies one list. A rule's filters come first, then those of the reference that the request goes to.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, uri::PathAndQuery};

use super::{cors::Cors, matcher::Field};
use crate::{api::v1, config::InvalidResource};

/// Headers that say where a message ends or what one hop does: a filter that changes them would break the connection or open it to
/// smuggling.
const FRAMING: [&str; 10] = [
    "connection",
    "content-length",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// Whether a header says where a message ends or what one hop does.
pub(crate) fn is_framing(name: &HeaderName) -> bool {
    FRAMING.contains(&name.as_str())
}

/// Everything that filters ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filters {
    /// Changes to a request's headers.
    pub request_headers: HeaderEdits,
    /// Changes to an answer's headers.
    pub response_headers: HeaderEdits,
    /// Changes to a request's host and path.
    pub rewrite: Rewrite,
    /// Requests are answered with a redirect.
    pub redirect: Option<Redirect>,
    /// Requests of other origins.
    pub cors: Option<Cors>,
    /// Who gets a copy.
    pub mirrors: Vec<Mirror>,
}

/// Changes to headers in their shortest form: each name once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits(Vec<HeaderEdit>);

#[derive(Debug, Clone, PartialEq)]
struct HeaderEdit {
    name: HeaderName,
    /// Whether values that are there stay.
    keeps: bool,
    /// Added after them.
    values: Vec<HeaderValue>,
}

/// Another host or path towards the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// Replaces `Host`.
    pub host: Option<HeaderValue>,
    /// Replaces the path, or its beginning.
    pub path: Option<PathRewrite>,
}

/// Another path; the query stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathRewrite {
    /// This one.
    Full(String),
    /// This one in the place of the prefix that matched; without a slash at its end.
    Prefix(String),
}

/// A redirect; what is not set is the request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redirect {
    /// "http" or "https".
    pub scheme: Option<&'static str>,
    /// Host name.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
}

/// A backend that gets a copy of some requests; its answers go nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Its name; `None`: it does not resolve, and gets nothing.
    pub backend: Option<String>,
    /// So many of `denominator` requests are copied.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

/// Whether one filter by itself holds; the field of an error is that within the filter.
pub(crate) fn check(filter: v1::Filter) -> Result<(), InvalidResource> {
    let field = Field { resource: "Filter", path: String::new() };
    Filters::new(vec![filter], &field).map(drop).map_err(|error| {
        let within = error.field.trim_start_matches("filters[0].").to_owned();
        InvalidResource { field: within, ..error }
    })
}

impl Filters {
    pub(super) fn new(wire: Vec<v1::Filter>, field: &Field<'_>) -> Result<Self, InvalidResource> {
        use v1::filter::Kind;
        let mut filters = Self::default();
        for (index, filter) in wire.into_iter().enumerate() {
            let at = |name: &str| format!("filters[{index}].{name}");
            match filter.kind.ok_or_else(|| field.error(&at("kind"), "is of no known kind"))? {
                Kind::RequestHeaders(edits) => {
                    let edits = HeaderEdits::new(edits, &at("request_headers"), field)?;
                    filters.request_headers = filters.request_headers.then(&edits);
                }
                Kind::ResponseHeaders(edits) => {
                    let edits = HeaderEdits::new(edits, &at("response_headers"), field)?;
                    filters.response_headers = filters.response_headers.then(&edits);
                }
                Kind::Rewrite(rewrite) => {
                    filters.rewrite = filters.rewrite.then(&Rewrite::new(rewrite, &at("rewrite"), field)?);
                }
                Kind::Redirect(redirect) => {
                    filters.redirect = Some(Redirect::new(redirect, &at("redirect"), field)?);
                }
                Kind::Cors(cors) => filters.cors = Some(Cors::new(cors, &at("cors"), field)?),
                Kind::Mirror(mirror) => filters.mirrors.push(Mirror::new(mirror, &at("mirror"), field)?),
            }
        }
        Ok(filters)
    }

    /// Both, one after the other.
    pub fn then(&self, next: &Self) -> Self {
        Self {
            request_headers: self.request_headers.then(&next.request_headers),
            response_headers: self.response_headers.then(&next.response_headers),
            rewrite: self.rewrite.then(&next.rewrite),
            redirect: next.redirect.clone().or_else(|| self.redirect.clone()),
            cors: next.cors.clone().or_else(|| self.cors.clone()),
            mirrors: self.mirrors.iter().chain(&next.mirrors).cloned().collect(),
        }
    }

    /// Whether they change nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl HeaderEdits {
    fn new(wire: v1::HeaderModifier, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let mut edits = Self::default();
        let name_of = |name: &str, at: String| {
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| field.error(&at, format!("{name:?} is not a header name")))?;
            if parsed == header::HOST {
                return Err(field.error(&at, "\"host\" is changed by a rewrite's hostname, not as a header"));
            }
            if FRAMING.contains(&parsed.as_str()) {
                return Err(field.error(&at, format!("{name:?} is the proxy's own to set")));
            }
            Ok(parsed)
        };
        for (kind, headers, keeps) in [("set", wire.set, false), ("add", wire.add, true)] {
            for (index, wire) in headers.into_iter().enumerate() {
                let at = format!("{at}.{kind}[{index}]");
                let name = name_of(&wire.name, format!("{at}.name"))?;
                let value = HeaderValue::from_str(&wire.value)
                    .map_err(|_| field.error(&format!("{at}.value"), format!("{:?} is not a value", wire.value)))?;
                edits.push(HeaderEdit { name, keeps, values: vec![value] });
            }
        }
        for (index, name) in wire.remove.iter().enumerate() {
            let name = name_of(name, format!("{at}.remove[{index}]"))?;
            edits.push(HeaderEdit { name, keeps: false, values: Vec::new() });
        }
        Ok(edits)
    }

    fn push(&mut self, edit: HeaderEdit) {
        match self.0.iter_mut().find(|known| known.name == edit.name) {
            Some(known) if edit.keeps => known.values.extend(edit.values),
            Some(known) => *known = edit,
            None => self.0.push(edit),
        }
    }

    /// Both, one after the other, as one.
    pub fn then(&self, next: &Self) -> Self {
        let mut both = self.clone();
        next.0.iter().for_each(|edit| both.push(edit.clone()));
        both
    }

    /// Has this value and no other.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(HeaderEdit { name, keeps: false, values: vec![value] });
    }

    /// Has none.
    pub fn remove(&mut self, name: HeaderName) {
        self.push(HeaderEdit { name, keeps: false, values: Vec::new() });
    }

    /// Has this value too.
    pub fn add(&mut self, name: HeaderName, value: HeaderValue) {
        self.push(HeaderEdit { name, keeps: true, values: vec![value] });
    }

    /// Changes a map.
    pub fn apply(&self, headers: &mut HeaderMap) {
        for HeaderEdit { name, keeps, values } in &self.0 {
            if !keeps {
                headers.remove(name);
            }
            for value in values {
                headers.append(name, value.clone());
            }
        }
    }

    /// Whether values of this name, in any case, are dropped.
    pub fn drops(&self, name: &str) -> bool {
        self.0.iter().any(|edit| !edit.keeps && edit.name.as_str().eq_ignore_ascii_case(name))
    }

    /// What is written after those that stay.
    pub fn added(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().flat_map(|edit| edit.values.iter().map(|value| (&edit.name, value)))
    }
}

impl Rewrite {
    fn new(wire: v1::Rewrite, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let host = (!wire.hostname.is_empty()).then_some(wire.hostname);
        let host = host.map(|host| {
            let name = super::hostname::Hostname::parse(&host);
            let exact = matches!(name, Ok(super::hostname::Hostname::Exact(_)));
            let value = exact.then(|| HeaderValue::from_str(&host).ok()).flatten();
            value.ok_or_else(|| field.error(&format!("{at}.hostname"), format!("{host:?} is not a host name")))
        });
        Ok(Self { host: host.transpose()?, path: PathRewrite::new(wire.path, at, field)? })
    }

    fn then(&self, next: &Self) -> Self {
        Self {
            host: next.host.clone().or_else(|| self.host.clone()),
            path: next.path.clone().or_else(|| self.path.clone()),
        }
    }
}

impl PathRewrite {
    fn new(wire: Option<v1::PathRewrite>, at: &str, field: &Field<'_>) -> Result<Option<Self>, InvalidResource> {
        use v1::path_rewrite::Kind;
        let Some(kind) = wire.and_then(|wire| wire.kind) else { return Ok(None) };
        let (Kind::Full(path) | Kind::Prefix(path)) = &kind;
        let empty = path.is_empty() && matches!(kind, Kind::Prefix(_));
        let is_path = path.starts_with('/')
            && !path.contains(['?', '#'])
            && path.is_ascii()
            && PathAndQuery::try_from(path.as_str()).is_ok();
        if !empty && !is_path {
            return Err(field.error(&format!("{at}.path"), format!("{path:?} is not a path that starts with \"/\"")));
        }
        Ok(Some(match kind {
            Kind::Full(path) => Self::Full(path),
            Kind::Prefix(path) => Self::Prefix(path.trim_end_matches('/').to_owned()),
        }))
    }

    /// The new target of a request for `path`, of which the first `prefix` bytes matched.
    pub fn target(&self, path: &str, prefix: usize, query: Option<&str>) -> String {
        let mut target = match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(replacement) => {
                let rest = path.get(prefix..).unwrap_or_default();
                let slash = if rest.is_empty() || rest.starts_with('/') { "" } else { "/" };
                format!("{replacement}{slash}{rest}")
            }
        };
        if target.is_empty() {
            target.push('/');
        }
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        target
    }
}

impl Redirect {
    fn new(wire: v1::Redirect, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let scheme = match wire.scheme.as_str() {
            "" => None,
            "http" => Some("http"),
            "https" => Some("https"),
            other => return Err(field.error(&format!("{at}.scheme"), format!("{other:?} is neither http nor https"))),
        };
        let port = match wire.port {
            0 => None,
            port => Some(
                u16::try_from(port)
                    .map_err(|_| field.error(&format!("{at}.port"), format!("{port} is not a port: 1..=65535")))?,
            ),
        };
        let status = match wire.status {
            0 => StatusCode::FOUND,
            301 | 302 | 303 | 307 | 308 => StatusCode::from_u16(wire.status as u16).unwrap_or(StatusCode::FOUND),
            other => {
                let reason = format!("{other} is not a redirect: 301, 302, 303, 307 or 308");
                return Err(field.error(&format!("{at}.status"), reason));
            }
        };
        let rewrite = Rewrite::new(v1::Rewrite { hostname: wire.hostname, path: wire.path }, at, field)?;
        let host = rewrite.host.and_then(|host| host.to_str().ok().map(str::to_owned));
        Ok(Self { scheme, host, port, path: rewrite.path, status })
    }

    /// `Location` for a request that came by `scheme` to `host` (without a port) and `port`; `path`, `prefix` and `query` as for a rewrite.
    pub fn location(
        &self,
        scheme: &str,
        (host, port): (&str, u16),
        (path, prefix, query): (&str, usize, Option<&str>),
    ) -> String {
        let target = match &self.path {
            Some(rewrite) => rewrite.target(path, prefix, query),
            None => query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")),
        };
        let host = self.host.as_deref().unwrap_or(host);
        if host.is_empty() {
            // Nothing to name: the client fills in what it asked.
            return target;
        }
        let well_known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
        let port = self.port.unwrap_or_else(|| self.scheme.map_or(port, well_known));
        let scheme = self.scheme.unwrap_or(scheme);
        if port == well_known(scheme) {
            format!("{scheme}://{host}{target}")
        } else {
            format!("{scheme}://{host}:{port}{target}")
        }
    }
}

impl Mirror {
    fn new(wire: v1::Mirror, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        if wire.denominator == 0 {
            return Err(field.error(&format!("{at}.denominator"), "must be at least 1"));
        }
        if wire.numerator > wire.denominator {
            let reason = format!("{} is more than the denominator, {}", wire.numerator, wire.denominator);
            return Err(field.error(&format!("{at}.numerator"), reason));
        }
        let backend = (!wire.backend.is_empty()).then_some(wire.backend);
        Ok(Self { backend, numerator: wire.numerator, denominator: wire.denominator })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field() -> Field<'static> {
        Field { resource: "HttpRoute a/b", path: "rules[0]".into() }
    }

    fn header(name: &str, value: &str) -> v1::Header {
        v1::Header { name: name.into(), value: value.into() }
    }

    fn edits(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> HeaderEdits {
        let all = |headers: &[(&str, &str)]| headers.iter().map(|(name, value)| header(name, value)).collect();
        let remove = remove.iter().map(|name| (*name).to_owned()).collect();
        HeaderEdits::new(v1::HeaderModifier { set: all(set), add: all(add), remove }, "x", &field()).unwrap()
    }

    #[test]
    fn one_list_does_what_two_would_one_after_the_other() {
        let steps = [
            edits(&[("x-a", "1")], &[("x-b", "2")], &["x-c"]),
            edits(&[("x-c", "3")], &[("X-A", "4")], &["x-b"]),
            edits(&[], &[("x-c", "5"), ("x-b", "6")], &[]),
        ];
        for first in &steps {
            for second in &steps {
                let mut one: HeaderMap = HeaderMap::new();
                for name in ["x-a", "x-b", "x-c", "x-d"] {
                    one.append(name, HeaderValue::from_static("old"));
                }
                let mut two = one.clone();
                first.then(second).apply(&mut one);
                first.apply(&mut two);
                second.apply(&mut two);
                assert_eq!(one, two, "{first:?} {second:?}");
            }
        }
    }

    #[test]
    fn a_prefix_is_replaced_as_the_gateway_api_says() {
        // Path, prefix that matched (without its last slash), replacement, result: the table of `HTTPPathModifier`.
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "", "/xyz", "/xyz/foo/bar"),
        ] {
            let kind = Some(v1::path_rewrite::Kind::Prefix(replacement.into()));
            let rewrite = PathRewrite::new(Some(v1::PathRewrite { kind }), "x", &field()).unwrap().unwrap();
            assert_eq!(rewrite.target(path, prefix.len(), Some("q")), format!("{expected}?q"), "{path} {replacement}");
        }
    }

    #[test]
    fn a_redirect_names_a_port_only_where_it_must() {
        let redirect = |scheme: &str, port: u32| {
            Redirect::new(v1::Redirect { scheme: scheme.into(), port, ..Default::default() }, "x", &field()).unwrap()
        };
        let check = |redirect: Redirect, port: u16, expected: &str| {
            assert_eq!(redirect.location("http", ("a.test", port), ("/x", 0, Some("y"))), expected);
        };
        check(redirect("", 0), 80, "http://a.test/x?y");
        check(redirect("", 0), 8080, "http://a.test:8080/x?y");
        check(redirect("https", 0), 8080, "https://a.test/x?y");
        check(redirect("https", 8443), 80, "https://a.test:8443/x?y");
        check(redirect("http", 80), 8080, "http://a.test/x?y");
    }

    #[test]
    fn what_would_break_a_message_is_refused() {
        for (name, value, expected) in [
            ("content-length", "1", "rules[0].x.set[0].name: \"content-length\" is the proxy's own"),
            ("Host", "a", "rewrite's hostname"),
            ("a b", "1", "is not a header name"),
            ("x-a", "1\r\nx-b: 2", "is not a value"),
        ] {
            let wire = v1::HeaderModifier { set: vec![header(name, value)], ..Default::default() };
            let error = HeaderEdits::new(wire, "x", &field()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        for path in ["x", "/a?b", "/a b", "/\r\n", "/ä"] {
            let kind = Some(v1::path_rewrite::Kind::Full(path.into()));
            assert!(PathRewrite::new(Some(v1::PathRewrite { kind }), "x", &field()).is_err(), "{path}");
        }
    }
}
