//! Cross-origin requests (the Fetch standard's CORS protocol, as HTTPRoute's filter configures it): which preflight is answered how, and what
//! is said with an answer so that a browser lets a page read it.

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::{filter::HeaderEdits, matcher::Field};
use crate::{
    api::v1,
    config::InvalidResource,
    head::{RequestHead, text},
};

/// How long a browser may keep the answer to a preflight, unless said otherwise: the Gateway API's default.
const MAX_AGE_S: u32 = 5;

/// What other origins may do.
#[derive(Debug, Clone, PartialEq)]
pub struct Cors {
    origins: Vec<Origin>,
    credentials: bool,
    /// `None`: "*".
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// A pattern of origins.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Origin {
    Any,
    Exact(String),
    /// What stands before and after the `*`.
    Wildcard(String, String),
}

impl Cors {
    pub(super) fn new(wire: v1::Cors, at: &str, field: &Field<'_>) -> Result<Self, InvalidResource> {
        let list = |names: &[String], at: &str, any: bool| {
            if any && names.iter().any(|name| name == "*") {
                return Ok(None);
            }
            let token = |name: &String| HeaderName::from_bytes(name.as_bytes()).is_ok();
            if let Some(wrong) = names.iter().find(|name| !token(name)) {
                return Err(field.error(at, format!("{wrong:?} is not a name")));
            }
            HeaderValue::from_str(&names.join(", ")).map(Some).map_err(|_| field.error(at, "is not a list of names"))
        };
        let mut origins = Vec::with_capacity(wire.allow_origins.len());
        for (index, text) in wire.allow_origins.iter().enumerate() {
            let origin = Origin::parse(text).ok_or_else(|| {
                field.error(
                    &format!("{at}.allow_origins[{index}]"),
                    format!("{text:?} is not an origin: \"*\" or \"https://host\", with \"*\" for labels on the left"),
                )
            })?;
            origins.push(origin);
        }
        Ok(Self {
            origins,
            credentials: wire.allow_credentials,
            methods: list(&wire.allow_methods, &format!("{at}.allow_methods"), true)?,
            headers: list(&wire.allow_headers, &format!("{at}.allow_headers"), true)?,
            exposed: if wire.expose_headers.iter().any(|name| name == "*") {
                Some(HeaderValue::from_static("*"))
            } else {
                list(&wire.expose_headers, &format!("{at}.expose_headers"), false)?
            },
            max_age: HeaderValue::from(wire.max_age_s.unwrap_or(MAX_AGE_S)),
        })
    }

    /// The origin of a request, if it may see the answer.
    fn allowed<'h>(&self, head: &'h impl RequestHead) -> Option<&'h str> {
        let origin = text(head.value(&header::ORIGIN)?)?;
        self.origins.iter().any(|pattern| pattern.matches(origin)).then_some(origin)
    }

    /// Headers that answer a preflight; `None`: it is none. Without a header that allows anything, the browser will not go on.
    pub fn preflight(&self, head: &impl RequestHead) -> Option<HeaderMap> {
        let asked = head.value(&header::ACCESS_CONTROL_REQUEST_METHOD)?;
        if *head.method() != Method::OPTIONS || head.value(&header::ORIGIN).is_none() {
            return None;
        }
        let mut headers = HeaderMap::new();
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let Some(origin) = self.allowed(head).and_then(|origin| HeaderValue::from_str(origin).ok()) else {
            return Some(headers);
        };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        // A star means itself to a request with credentials: what was asked for is said instead.
        let say = |headers: &mut HeaderMap, name: HeaderName, listed: &Option<HeaderValue>, asked: Option<&[u8]>| {
            let value = match listed {
                Some(listed) => Some(listed.clone()).filter(|listed| !listed.is_empty()),
                None => asked.and_then(|asked| HeaderValue::from_bytes(asked).ok()),
            };
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
        say(&mut headers, header::ACCESS_CONTROL_ALLOW_METHODS, &self.methods, Some(asked));
        let asked = head.value(&header::ACCESS_CONTROL_REQUEST_HEADERS);
        say(&mut headers, header::ACCESS_CONTROL_ALLOW_HEADERS, &self.headers, asked);
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        Some(headers)
    }

    /// What is said with an answer: to an origin that is allowed what it may do, and to nobody what the endpoint says of that. Caches keep answers to
    /// different origins apart.
    pub fn edits(&self, head: &impl RequestHead) -> HeaderEdits {
        let mut edits = HeaderEdits::default();
        edits.add(header::VARY, HeaderValue::from_static("origin"));
        let mut say = |name: HeaderName, value: Option<HeaderValue>| match value {
            Some(value) => edits.set(name, value),
            None => edits.remove(name),
        };
        let origin = self.allowed(head).and_then(|origin| HeaderValue::from_str(origin).ok());
        let credentials = (self.credentials && origin.is_some()).then(|| HeaderValue::from_static("true"));
        // With credentials a star would mean a header of that name.
        let says = |value: &&HeaderValue| {
            origin.is_some() && !(value.is_empty() || self.credentials && value.as_bytes() == b"*")
        };
        let exposed = self.exposed.as_ref().filter(says).cloned();
        say(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        say(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials);
        say(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        for name in
            [header::ACCESS_CONTROL_ALLOW_METHODS, header::ACCESS_CONTROL_ALLOW_HEADERS, header::ACCESS_CONTROL_MAX_AGE]
        {
            say(name, None);
        }
        edits
    }
}

impl Origin {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (scheme, rest) = lower.split_once("://")?;
        let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let name = |host: &str| {
            !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
        };
        let fits = matches!(scheme, "http" | "https")
            && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
            && (host == "*" || name(host.strip_prefix("*.").unwrap_or(host)));
        // A default port is not said in an origin.
        let default = matches!((scheme, port), ("http", Some("80")) | ("https", Some("443")));
        let lower = if default { format!("{scheme}://{host}") } else { lower.clone() };
        fits.then(|| match lower.split_once('*') {
            Some((before, after)) => Self::Wildcard(before.to_owned(), after.to_owned()),
            None => Self::Exact(lower),
        })
    }

    fn matches(&self, origin: &str) -> bool {
        let origin = origin.to_ascii_lowercase();
        match self {
            Self::Any => true,
            Self::Exact(exact) => *exact == origin,
            Self::Wildcard(before, after) => {
                let between = origin.strip_prefix(before.as_str()).and_then(|rest| rest.strip_suffix(after.as_str()));
                // A star stands for labels: never for a port or another authority.
                between.is_some_and(|labels| !labels.is_empty() && !labels.contains([':', '/', '@']))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[track_caller]
    fn check_origin(pattern: &str, origin: &str, expected: bool) {
        assert_eq!(Origin::parse(pattern).unwrap().matches(origin), expected, "{pattern} {origin}");
    }

    #[test]
    fn origins_match_as_a_whole() {
        check_origin("*", "null", true);
        check_origin("https://a.test", "https://a.test", true);
        check_origin("https://a.test:443", "https://a.test", true);
        check_origin("https://a.test", "http://a.test", false);
        check_origin("https://a.test", "https://a.test:8443", false);
        check_origin("https://a.test", "https://a.test.evil", false);
        check_origin("https://*.a.test", "https://x.y.a.test", true);
        check_origin("https://*.a.test", "https://a.test", false);
        check_origin("https://*.a.test", "https://evil/x.a.test", false);
        check_origin("https://*", "https://anything.test", true);
        check_origin("https://*", "https://anything.test:8443", false);
        for text in ["a.test", "ftp://a", "https://", "https://a/b", "https://a*b", "https://a:0", "https://a:x"] {
            assert!(Origin::parse(text).is_none(), "{text}");
        }
    }

    fn cors(change: impl FnOnce(&mut v1::Cors)) -> Cors {
        let mut wire = v1::Cors { allow_origins: vec!["https://a.test".into()], ..Default::default() };
        change(&mut wire);
        Cors::new(wire, "cors", &Field { resource: "HttpRoute a/b", path: String::new() }).unwrap()
    }

    fn head(method: &str, headers: &[(&str, &str)]) -> http::request::Parts {
        let mut request = Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const PREFLIGHT: [(&str, &str); 3] = [
        ("origin", "https://a.test"),
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "x-a, x-b"),
    ];

    #[test]
    fn a_preflight_is_told_what_is_allowed() {
        let cors = cors(|wire| {
            wire.allow_methods = vec!["PUT".into(), "DELETE".into()];
            wire.allow_headers = vec!["*".into()];
            wire.allow_credentials = true;
        });
        let headers = cors.preflight(&head("OPTIONS", &PREFLIGHT)).unwrap();
        let value = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(value("access-control-allow-origin").as_deref(), Some("https://a.test"));
        assert_eq!(value("access-control-allow-methods").as_deref(), Some("PUT, DELETE"));
        assert_eq!(value("access-control-allow-headers").as_deref(), Some("x-a, x-b"));
        assert_eq!(value("access-control-allow-credentials").as_deref(), Some("true"));
        assert_eq!(value("access-control-max-age").as_deref(), Some("5"));
    }

    #[test]
    fn an_origin_that_is_not_allowed_is_told_nothing() {
        let cors = cors(|_| {});
        let mut strange = PREFLIGHT;
        strange[0].1 = "https://b.test";
        let headers = cors.preflight(&head("OPTIONS", &strange)).unwrap();
        assert_eq!(headers.len(), 1, "{headers:?}");
        // Nor what the endpoint would tell it.
        let told = |request: &[(&str, &str)]| {
            let says = ["access-control-allow-origin", "access-control-allow-credentials", "access-control-max-age"];
            let mut answer: HeaderMap =
                says.map(|name| (HeaderName::from_static(name), HeaderValue::from_static("*"))).into_iter().collect();
            cors.edits(&head("GET", request)).apply(&mut answer);
            assert_eq!(answer.remove("vary").unwrap(), "origin");
            answer
        };
        assert!(told(&strange[..1]).is_empty() && told(&[]).is_empty());
        let allowed = told(&PREFLIGHT[..1]);
        assert_eq!((allowed.len(), &allowed["access-control-allow-origin"]), (1, &"https://a.test".parse().unwrap()));
        // These are no preflights.
        assert!(cors.preflight(&head("GET", &PREFLIGHT)).is_none());
        assert!(cors.preflight(&head("OPTIONS", &PREFLIGHT[..1])).is_none());
        assert!(cors.preflight(&head("OPTIONS", &PREFLIGHT[1..])).is_none());
    }
}
