//! What a proxy must do to headers: check the target, drop what concerns one hop only, and say who passed the request on.
//! RFC 9110 §7.6.1 (Connection), §7.6.3 (Via); RFC 7239 (Forwarded).

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{self, Entry},
    uri::{Authority, PathAndQuery},
};

use super::{error::Reason, framing};
use crate::{path, table::Target};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
/// The addresses that a request has come from.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Who the client has proved to be by TLS. What a client says of that itself is nobody's proof.
pub const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Names a request across hops.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What the client's connection says about every request on it, formatted once.
#[derive(Debug)]
pub struct ClientHeaders {
    address: HeaderValue,
    forwarded: String,
    via_11: HeaderValue,
    via_10: HeaderValue,
    via_20: HeaderValue,
    proto: HeaderValue,
    scheme: &'static str,
    certificate: Option<HeaderValue>,
}

impl ClientHeaders {
    /// For the requests of one client, over TLS if `secure`.
    pub fn new(peer: SocketAddr, secure: bool) -> Self {
        let scheme = if secure { "https" } else { "http" };
        // An IPv4 client of a dual-stack socket is an IPv4 client.
        let ip = peer.ip().to_canonical();
        let node = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("\"[{ip}]\""),
        };
        Self {
            // An address is ASCII.
            address: HeaderValue::from_str(&ip.to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown")),
            forwarded: format!("for={node};proto={scheme}"),
            via_11: HeaderValue::from_static("1.1 trimtab"),
            via_10: HeaderValue::from_static("1.0 trimtab"),
            via_20: HeaderValue::from_static("2.0 trimtab"),
            proto: HeaderValue::from_static(scheme),
            scheme,
            certificate: None,
        }
    }

    /// Has endpoints told of the client's certificate.
    pub fn set_certificate(&mut self, told: HeaderValue) {
        self.certificate = Some(told);
    }

    /// What endpoints are told of the client's certificate.
    pub fn certificate(&self) -> Option<&HeaderValue> {
        self.certificate.as_ref()
    }

    /// "http", or "https" over TLS.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The client's address, as `X-Forwarded-For` names it.
    pub fn address(&self) -> &[u8] {
        self.address.as_bytes()
    }

    /// Its element of `Forwarded`, to which the host is added.
    pub fn forwarded(&self) -> &str {
        &self.forwarded
    }
}

/// The protocol that a request asks to switch to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeTo(pub HeaderValue);

/// Checks the request's target against its headers, and puts it into origin form, and its path into normal form. Returns the host without its port,
/// lower case. `scheme` is that of the connection.
///
/// # Errors
/// A reason to answer 400 or 501 with, and to close the connection.
pub fn validate_target<B>(request: &mut Request<B>, scheme: &str) -> Result<String, Reason> {
    if request.method() == Method::CONNECT {
        return Err(Reason::MethodNotSupported);
    }
    // Of HTTP/1.1 framing has seen to it: neither hyper's HTTP/2 nor h2 minds two that are alike (RFC 9110 §8.6).
    if request.headers().get_all(header::CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Reason::BadRequest("more than one content-length"));
    }
    if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
        return Err(Reason::BadRequest("more than one host header"));
    }
    if request.version() == Version::HTTP_2
        && request.uri().authority().is_none()
        && !request.headers().contains_key(header::HOST)
    {
        return Err(Reason::BadRequest("neither :authority nor a host header"));
    }
    // Framing has seen to it that an HTTP/1.1 request has exactly one.
    let host = match request.headers().get(header::HOST) {
        Some(value) => authority(value)?,
        None => None,
    };
    let host_of = |authority: Option<&Authority>| authority.map(|a| a.host().to_ascii_lowercase()).unwrap_or_default();
    if request.uri().authority().is_none() {
        // An URI's path is "/" where nothing stands before its query.
        let written = request.uri().path_and_query().map_or("", PathAndQuery::as_str);
        if !(written.starts_with('/') || is_asterisk(request)) {
            return Err(Reason::BadRequest("the request target is not a path"));
        }
        if let Some(target) = request.uri().path_and_query()
            && let Some(normal) = normalized(target)?
        {
            *request.uri_mut() = Uri::from(normal);
        }
        return Ok(host_of(host.as_ref()));
    }
    // Absolute form (RFC 9112 §3.2.2): the target's authority counts, and a differing Host is an attack or a mistake.
    let uri = request.uri();
    // What is HTTP/2 here may have been taken off TLS by somebody in front.
    let other = request.version() == Version::HTTP_2 && matches!(uri.scheme_str(), Some("http" | "https"));
    if uri.scheme_str() != Some(scheme) && !other {
        return Err(Reason::BadRequest("the request target has another scheme than the connection"));
    }
    let named = uri.authority().cloned();
    if let (Some(host), Some(target)) = (&host, &named) {
        let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let port = |a: &Authority| a.port_u16().unwrap_or(default);
        if !host.host().eq_ignore_ascii_case(target.host()) || port(host) != port(target) {
            return Err(Reason::BadRequest("the host header contradicts the request target"));
        }
    }
    if named.as_ref().is_some_and(|a| a.as_str().contains('@')) {
        return Err(Reason::BadRequest("the request target has user information"));
    }
    if uri.path() == "*" && !is_asterisk(request) {
        return Err(Reason::BadRequest("the request target is not a path"));
    }
    let path = match uri.path_and_query() {
        // As it is displayed, with a slash.
        Some(path) if path.as_str().starts_with('?') => PathAndQuery::try_from(path.to_string()).ok(),
        path => path.cloned(),
    };
    let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
    let path = normalized(&path)?.unwrap_or(path);
    let name = host_of(named.as_ref());
    if let Some(Ok(value)) = named.as_ref().map(|a| HeaderValue::from_str(a.as_str())) {
        request.headers_mut().insert(header::HOST, value);
    }
    *request.uri_mut() = Uri::from(path);
    Ok(name)
}

fn normalized(target: &PathAndQuery) -> Result<Option<PathAndQuery>, Reason> {
    path::normalized(target).map_err(|_| Reason::BadRequest("the request target has percent signs that mean nothing"))
}

fn is_asterisk<B>(request: &Request<B>) -> bool {
    request.method() == Method::OPTIONS && request.uri().path() == "*"
}

/// Parses `Host`; an empty one is allowed (RFC 9112 §3.2) and names nothing.
fn authority(value: &HeaderValue) -> Result<Option<Authority>, Reason> {
    const BAD: Reason = Reason::BadRequest("the host header is not a host");
    if value.is_empty() {
        return Ok(None);
    }
    let authority = Authority::try_from(value.as_bytes()).map_err(|_| BAD)?;
    if authority.as_str().contains('@') || authority.host().is_empty() { Err(BAD) } else { Ok(Some(authority)) }
}

/// These are end to end, or have a meaning of their own, whatever `Connection` lists: dropping them changes what a message means.
pub const NOT_LISTED: [HeaderName; 4] = [header::HOST, header::CONTENT_LENGTH, header::TE, header::UPGRADE];

/// Removes the headers that concern one hop only, those that `Connection` lists included. Returns the upgrade that they asked for.
fn strip_hop_by_hop(headers: &mut HeaderMap) -> Option<UpgradeTo> {
    let mut wants_upgrade = false;
    if headers.contains_key(header::CONNECTION) {
        let connection: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        headers.remove(header::CONNECTION);
        for token in connection.iter().flat_map(|value| value.as_bytes().split(|b| *b == b',')).map(<[u8]>::trim_ascii)
        {
            if token.eq_ignore_ascii_case(b"upgrade") {
                wants_upgrade = true;
            } else if let Ok(name) = HeaderName::from_bytes(token)
                && !NOT_LISTED.contains(&name)
            {
                headers.remove(name);
            }
        }
    }
    headers.remove(KEEP_ALIVE);
    headers.remove(PROXY_CONNECTION);
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(header::UPGRADE).filter(|_| wants_upgrade).map(UpgradeTo)
}

/// What [`prepare_request`] found out.
#[derive(Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The upgrade that is asked for; its headers have been put back.
    pub upgrade: bool,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

/// Makes a client's head fit to be sent upstream. `request_id` is called if the request has none.
pub fn prepare_request(
    headers: &mut HeaderMap,
    version: Version,
    client: &ClientHeaders,
    has_body: bool,
    request_id: impl FnOnce() -> HeaderValue,
) -> Prepared {
    // A body of unknown length: its framing is said anew, because hyper assumes that GET has none.
    let untold = version == Version::HTTP_2 && has_body && !headers.contains_key(header::CONTENT_LENGTH);
    let chunked = headers.contains_key(header::TRANSFER_ENCODING) || untold;
    let trailers = accepts_trailers(headers);
    let upgrade = strip_hop_by_hop(headers);
    headers.remove(HTTP2_SETTINGS);
    headers.remove(header::TE);
    headers.remove(header::PROXY_AUTHORIZATION);
    headers.reserve(8);
    if chunked {
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.append(header::CONNECTION, HeaderValue::from_static("te"));
    }
    // Going over to HTTP/2 behind the proxy's back is a way around its rules (h2c smuggling); the client may go on in HTTP/1.1.
    // HTTP/1.0 knows no upgrades (RFC 9110 §7.8).
    let upgrade = upgrade.filter(|_| version != Version::HTTP_10);
    let upgrade = upgrade.filter(|to| !has_body && !to.0.as_bytes().to_ascii_lowercase().starts_with(b"h2"));
    let upgrades = upgrade.is_some();
    if let Some(UpgradeTo(protocol)) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    append_list(headers, X_FORWARDED_FOR, &client.address);
    headers.insert(X_FORWARDED_PROTO, client.proto.clone());
    match &client.certificate {
        Some(told) => drop(headers.insert(X_FORWARDED_CLIENT_CERT, told.clone())),
        None => drop(headers.remove(X_FORWARDED_CLIENT_CERT)),
    }
    // These can do without; the request goes on in HTTP/1.1, which cannot.
    if version != Version::HTTP_11 {
        headers.entry(header::HOST).or_insert(HeaderValue::from_static(""));
    }
    if version == Version::HTTP_2 {
        join_cookies(headers);
    }
    let host = headers.get(header::HOST).filter(|host| !host.is_empty()).cloned();
    append_forwarded(headers, client, host.as_ref());
    if let Some(host) = host {
        headers.entry(X_FORWARDED_HOST).or_insert(host);
    }
    let via = match version {
        Version::HTTP_10 => &client.via_10,
        Version::HTTP_2 => &client.via_20,
        _ => &client.via_11,
    };
    append_list(headers, header::VIA, via);
    if let Entry::Vacant(vacant) = headers.entry(X_REQUEST_ID) {
        vacant.insert(request_id());
    }
    let expects_continue = has_body
        && version == Version::HTTP_11
        && headers.get(header::EXPECT).is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    Prepared { upgrade: upgrades, expects_continue }
}

/// Checks that an endpoint's answer has one length that everybody reads alike: one `Content-Length` that is a number, and no transfer coding
/// but `chunked`, which would be lost with the header that names it.
///
/// # Errors
/// A reason to answer 502 with.
pub fn validate_response(headers: &HeaderMap) -> Result<(), Reason> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length_holds = lengths.next().is_none_or(|length| framing::number(length.as_bytes()).is_some());
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let coding_holds = codings.next().is_none_or(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
    let holds = length_holds && coding_holds && lengths.next().is_none() && codings.next().is_none();
    if holds { Ok(()) } else { Err(Reason::UpstreamProtocol) }
}

/// Makes an endpoint's head fit to be sent to the client.
pub fn prepare_response<B>(response: &mut Response<B>) {
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    // Chunked overrides a length (RFC 9112 §6.3), which would be a lie towards the client.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let upgrade = strip_hop_by_hop(headers);
    if switching && let Some(UpgradeTo(protocol)) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

/// HTTP/2 may send cookies in pieces, which are one field for everybody else (RFC 9113 §8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let Entry::Occupied(mut cookies) = headers.entry(header::COOKIE) else { return };
    if cookies.iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = cookies.iter().map(HeaderValue::as_bytes).collect();
    // Valid values joined by valid bytes are valid.
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        cookies.insert(joined);
    }
}

/// Makes a request that is ready for HTTP/1.1 fit for HTTP/2: its host becomes the authority, and nothing is said of the connection. A request
/// that names no host, as one of HTTP/1.0 may, is for the endpoint itself.
pub fn for_http2<B>(request: Request<B>, endpoint: &Target) -> Request<B> {
    let (mut head, body) = request.into_parts();
    head.version = Version::HTTP_2;
    for name in [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE] {
        head.headers.remove(name);
    }
    let host = head.headers.remove(header::HOST).filter(|host| !host.is_empty());
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let authority = authority.or_else(|| Authority::try_from(endpoint.address.to_string()).ok());
    let scheme = if endpoint.tls.is_some() { "https" } else { "http" };
    if let Some(authority) = authority
        && let Some(path) = head.uri.path_and_query()
        && let Ok(uri) = Uri::builder().scheme(scheme).authority(authority).path_and_query(path.clone()).build()
    {
        head.uri = uri;
    }
    Request::from_parts(head, body)
}

/// Whether `TE` lists `trailers`, the one transfer coding that has a meaning across hops.
fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Adds an element to a list header, after what other proxies wrote.
fn append_list(headers: &mut HeaderMap, name: HeaderName, element: &HeaderValue) {
    match headers.entry(name) {
        Entry::Vacant(vacant) => {
            vacant.insert(element.clone());
        }
        Entry::Occupied(mut occupied) => {
            let parts: Vec<&[u8]> = occupied.iter().map(HeaderValue::as_bytes).chain([element.as_bytes()]).collect();
            // Valid values joined by valid bytes are valid.
            if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b", "[..])) {
                occupied.insert(joined);
            }
        }
    }
}

fn append_forwarded(headers: &mut HeaderMap, client: &ClientHeaders, host: Option<&HeaderValue>) {
    let mut element = String::with_capacity(client.forwarded.len() + 40);
    element.push_str(&client.forwarded);
    // A host with a port or brackets needs quotes; one that was accepted holds no quote or backslash.
    if let Some(host) = host.and_then(|host| host.to_str().ok()).filter(|host| !host.is_empty()) {
        element.push_str(";host=\"");
        element.push_str(host);
        element.push('"');
    }
    if let Ok(element) = HeaderValue::from_str(&element) {
        append_list(headers, header::FORWARDED, &element);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    #[track_caller]
    fn check_target(target: &str, host: &str, expected: Result<(&str, &str), Reason>) {
        let mut request = request(target, &[("host", host)]);
        let found = validate_target(&mut request, "http");
        let found = found.as_deref().map(|host| (host, request.uri().to_string())).map_err(Clone::clone);
        assert_eq!(found, expected.map(|(host, uri)| (host, uri.to_owned())), "{target} {host}");
    }

    #[test]
    fn the_host_names_the_request_whatever_the_form_of_its_target() {
        check_target("/a?b", "Example.com:8080", Ok(("example.com", "/a?b")));
        check_target("http://example.com/a?b", "Example.com:80", Ok(("example.com", "/a?b")));
        check_target("http://example.com", "example.com", Ok(("example.com", "/")));
        check_target("http://example.com?b", "example.com", Ok(("example.com", "/?b")));
        check_target("/", "[::1]:80", Ok(("[::1]", "/")));
        check_target("/", "", Ok(("", "/")));
        check_target("/v1/../admin?a", "a.test", Ok(("a.test", "/admin?a")));
        check_target("http://a.test/v1/%2e./admin", "a.test", Ok(("a.test", "/admin")));
    }

    #[test]
    fn a_target_that_contradicts_its_host_is_refused() {
        let contradicts = Reason::BadRequest("the host header contradicts the request target");
        check_target("http://a/", "b", Err(contradicts.clone()));
        check_target("http://a:81/", "a", Err(contradicts));
        check_target(
            "ftp://a/",
            "a",
            Err(Reason::BadRequest("the request target has another scheme than the connection")),
        );
        check_target("/", "a@b", Err(Reason::BadRequest("the host header is not a host")));
        check_target("/", "a b", Err(Reason::BadRequest("the host header is not a host")));
    }

    #[test]
    fn requests_of_http2_are_held_to_what_goes_on_as_http1() {
        let check = |target: &str, headers: &[(&str, &str)], method: Method, expected: Option<&'static str>| {
            let mut request = request(target, headers);
            (*request.version_mut(), *request.method_mut()) = (Version::HTTP_2, method);
            let found = validate_target(&mut request, "http").err();
            assert_eq!(found, expected.map(Reason::BadRequest), "{target} {headers:?}");
        };
        check("http://a.test/", &[("content-length", "3")], Method::POST, None);
        let twice = [("content-length", "3"), ("content-length", "3")];
        check("http://a.test/", &twice, Method::POST, Some("more than one content-length"));
        check("/", &[("host", "a.test"), ("host", "b.test")], Method::GET, Some("more than one host header"));
        check("/", &[], Method::GET, Some("neither :authority nor a host header"));
        check("/", &[("host", "a.test")], Method::GET, None);
        let mut no_path = request("/", &[("host", "a.test")]);
        (*no_path.version_mut(), *no_path.uri_mut()) = (Version::HTTP_2, Uri::from(PathAndQuery::from_static("?b")));
        assert!(validate_target(&mut no_path, "http").is_err());
        let asterisk = Uri::builder().scheme("http").authority("a.test").path_and_query("*").build().unwrap();
        for (method, holds) in [(Method::GET, false), (Method::OPTIONS, true)] {
            let mut request = request("/", &[]);
            (*request.version_mut(), *request.method_mut()) = (Version::HTTP_2, method);
            *request.uri_mut() = asterisk.clone();
            assert_eq!(validate_target(&mut request, "http").is_ok(), holds, "{}", request.method());
        }
    }

    fn prepared(headers: &[(&str, &str)], has_body: bool) -> (HeaderMap, Prepared) {
        let mut headers = request("/", headers).headers().clone();
        let client = ClientHeaders::new("192.0.2.7:1234".parse().unwrap(), false);
        let id = || HeaderValue::from_static("made");
        let prepared = prepare_request(&mut headers, Version::HTTP_11, &client, has_body, id);
        (headers, prepared)
    }

    #[track_caller]
    fn check_header(given: &[(&str, &str)], name: &str, expected: Option<&str>) {
        let (headers, _) = prepared(given, false);
        assert_eq!(headers.get(name).map(|v| v.to_str().unwrap()), expected, "{name} of {given:?}");
    }

    #[test]
    fn hop_by_hop_headers_stop_here() {
        let given = [
            ("connection", "close, X-Secret"),
            ("keep-alive", "5"),
            ("x-secret", "1"),
            ("x-kept", "1"),
            ("te", "gzip"),
        ];
        for name in ["connection", "keep-alive", "x-secret", "te"] {
            check_header(&given, name, None);
        }
        check_header(&given, "x-kept", Some("1"));
        check_header(&[("te", "gzip, trailers")], "te", Some("trailers"));
        check_header(&[("connection", "host"), ("host", "a")], "host", Some("a"));
    }

    #[test]
    fn the_request_says_who_passed_it_on() {
        check_header(&[("x-forwarded-for", "198.51.100.1")], "x-forwarded-for", Some("198.51.100.1, 192.0.2.7"));
        check_header(&[], "x-forwarded-for", Some("192.0.2.7"));
        check_header(&[], "x-forwarded-proto", Some("http"));
        check_header(&[("host", "a:80")], "x-forwarded-host", Some("a:80"));
        check_header(&[("host", "a"), ("x-forwarded-host", "b")], "x-forwarded-host", Some("b"));
        check_header(&[("host", "a:80")], "forwarded", Some("for=192.0.2.7;proto=http;host=\"a:80\""));
        check_header(&[("via", "1.0 fred")], "via", Some("1.0 fred, 1.1 trimtab"));
        check_header(&[("x-request-id", "theirs")], "x-request-id", Some("theirs"));
        check_header(&[], "x-request-id", Some("made"));
    }

    #[test]
    fn an_upgrade_is_kept_unless_it_is_to_http_2_or_has_a_body() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        check_header(&websocket, "upgrade", Some("websocket"));
        check_header(&websocket, "connection", Some("upgrade"));
        check_header(&[("upgrade", "websocket")], "upgrade", None);
        check_header(&[("connection", "upgrade"), ("upgrade", "h2c")], "upgrade", None);
        assert!(!prepared(&websocket, true).1.upgrade);
    }
}
