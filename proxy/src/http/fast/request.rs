//! A request's head: whether the fast path may have it, what it says, and how it is said to an endpoint.

use std::mem::MaybeUninit;

use http::{HeaderName, Method};
use memchr::memchr;

use super::{
    super::{
        edits::Edits,
        framing::{has_bare_line_feed, number},
        headers::ClientHeaders,
    },
    field::{self, Field, elements},
};
use crate::{
    head::RequestHead,
    observe::trace::{self, Passed},
    path::is_normal,
    route::rule::Limits,
};

/// Heads with more fields are hyper's.
const FIELDS_MAX: usize = 64;
/// Longer targets are hyper's.
const TARGET_MAX: usize = 8 << 10;
/// A longer body than this is no body.
const LENGTH_MAX: u64 = i64::MAX as u64;

/// Where the fields of a head are kept while it is looked at.
pub(super) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX];

/// Room for the fields of one head.
pub(super) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// What some bytes at the start of a head are.
pub(super) enum Seen<'h, 'b> {
    /// Not all of a head.
    Partial,
    /// Something for hyper, or for nobody.
    Unusual,
    /// A head that can be read in one way only.
    Plain(Request<'h, 'b>),
}

/// The body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// None, and nothing said of one.
    Absent,
    /// Of this length, which may be 0.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// A plain request.
pub(super) struct Request<'h, 'b> {
    pub method: Method,
    target: &'b str,
    /// Bytes of the target before its query.
    path_len: usize,
    /// Without the port, as the client wrote it.
    pub host: &'b str,
    pub authority: &'b [u8],
    pub body: Body,
    /// The client will send no more.
    pub last: bool,
    /// Bytes of the head.
    pub len: usize,
    fields: &'h [httparse::Header<'b>],
    /// What each of the fields is.
    kinds: [Field; FIELDS_MAX],
}

impl<'h, 'b> Request<'h, 'b> {
    /// Looks at the start of a stream. Whatever it does not know to be harmless is unusual.
    pub fn look(bytes: &'b [u8], slots: &'h mut Slots<'b>, limits: &Limits) -> Seen<'h, 'b> {
        match Self::parse(bytes, slots, limits) {
            Ok(Some(request)) => Seen::Plain(request),
            Ok(None) => Seen::Partial,
            Err(Unusual) => Seen::Unusual,
        }
    }

    fn parse(bytes: &'b [u8], slots: &'h mut Slots<'b>, limits: &Limits) -> Result<Option<Self>, Unusual> {
        // Empty lines before a request are allowed (RFC 9112 §2.2) and rare.
        if matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return Err(Unusual);
        }
        let mut parsed = httparse::Request::new(&mut []);
        let len = match parsed.parse_with_uninit_headers(bytes, slots) {
            Ok(httparse::Status::Complete(len)) => len,
            Ok(httparse::Status::Partial) if bytes.len() <= limits.header_bytes_max => return Ok(None),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Unusual),
        };
        let (Some(method), Some(target), Some(1)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(Unusual);
        };
        let fields: &'h [httparse::Header<'b>] = parsed.headers;
        let too_large = len > limits.header_bytes_max || fields.len() > limits.headers_max;
        let path_len = memchr(b'?', target.as_bytes()).unwrap_or(target.len());
        let odd_target = !is_plain_target(target) || !is_normal(&target.as_bytes()[..path_len]);
        if too_large || odd_target || has_bare_line_feed(&bytes[..len]) {
            return Err(Unusual);
        }
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Unusual)?;
        if method == Method::CONNECT {
            return Err(Unusual);
        }
        // How far they may go is counted on hyper's path.
        let counts = || fields.iter().any(|field| field.name.eq_ignore_ascii_case("max-forwards"));
        if (method == Method::OPTIONS || method == Method::TRACE) && counts() {
            return Err(Unusual);
        }
        let (mut authority, mut body, mut last) = (None, Body::Absent, false);
        let mut kinds = [Field::Other; FIELDS_MAX];
        for (field, kind) in fields.iter().zip(&mut kinds) {
            *kind = Field::of(field.name);
            match *kind {
                Field::Host if authority.is_none() => authority = Some(field.value),
                Field::ContentLength if body == Body::Absent => {
                    let length = number(field.value).filter(|length| *length <= LENGTH_MAX);
                    body = Body::Length(length.ok_or(Unusual)?);
                }
                Field::TransferEncoding if body == Body::Absent && field.value.eq_ignore_ascii_case(b"chunked") => {
                    body = Body::Chunked;
                }
                Field::Connection => {
                    for token in elements(field.value) {
                        if token.eq_ignore_ascii_case(b"close") {
                            last = true;
                        } else if !token.eq_ignore_ascii_case(b"keep-alive") {
                            return Err(Unusual);
                        }
                    }
                }
                // Twice, or at odds with another, or what asks for more than a plain exchange.
                Field::Host
                | Field::ContentLength
                | Field::TransferEncoding
                | Field::Expect
                | Field::Http2Settings
                | Field::Te
                | Field::Trailer
                | Field::Upgrade => return Err(Unusual),
                _ => {}
            }
        }
        // Then `Connection` names a field that is there, and which must stop here.
        if last && fields.iter().any(|field| field.name.eq_ignore_ascii_case("close")) {
            return Err(Unusual);
        }
        let authority = authority.ok_or(Unusual)?;
        let host = plain_host(authority).ok_or(Unusual)?;
        Ok(Some(Self { method, target, path_len, host, authority, body, last, len, fields, kinds }))
    }

    /// Writes the head for an endpoint: what `headers::prepare_request` and then `edits` make of it on hyper's path. `passed` is what the
    /// endpoint is told of the trace, if not what the client said; returned is where its span stands in `out`.
    pub fn write(
        &self,
        client: &ClientHeaders,
        edits: Option<&Edits>,
        passed: Option<&Passed>,
        request_id: impl FnOnce() -> [u8; 24],
        out: &mut Vec<u8>,
    ) -> Option<usize> {
        let drops = |name: &str| edits.is_some_and(|edits| edits.request().drops(name));
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        match edits.and_then(|edits| edits.target(self.path(), self.query())) {
            Some(target) => out.extend_from_slice(target.as_bytes()),
            None => out.extend_from_slice(self.target.as_bytes()),
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let (mut has_id, mut has_host) = (false, false);
        let mut lists = Lists::default();
        for (field, kind) in self.fields.iter().zip(&self.kinds) {
            match kind {
                Field::Connection
                | Field::KeepAlive
                | Field::ProxyConnection
                | Field::ProxyAuthorization
                | Field::ContentLength
                | Field::TransferEncoding
                | Field::ForwardedClientCert
                | Field::ForwardedProto => continue,
                Field::ForwardedFor => lists.forwarded_for = true,
                Field::Forwarded => lists.forwarded = true,
                Field::Via => lists.via = true,
                Field::Host => {
                    let host = edits.and_then(Edits::host).map_or(field.value, |host| host.as_bytes());
                    field::write(out, field.name, host);
                    continue;
                }
                Field::RequestId => has_id = true,
                Field::TraceParent if passed.is_some() => continue,
                Field::TraceState if passed.is_some_and(|passed| !passed.keeps_state) => continue,
                Field::ForwardedHost => has_host = true,
                _ => {}
            }
            if !matches!(kind, Field::ForwardedFor | Field::Forwarded | Field::Via) && !drops(field.name) {
                field::write(out, field.name, field.value);
            }
        }
        match self.body {
            Body::Absent => {}
            Body::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                field::write_number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Body::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        if !drops("x-forwarded-for") {
            self.write_list(out, lists.forwarded_for, Field::ForwardedFor, b"x-forwarded-for: ");
            out.extend_from_slice(client.address());
            out.extend_from_slice(b"\r\n");
        }
        if !drops("x-forwarded-proto") {
            field::write(out, "x-forwarded-proto", client.scheme().as_bytes());
        }
        if let Some(told) = client.certificate()
            && !drops("x-forwarded-client-cert")
        {
            field::write(out, "x-forwarded-client-cert", told.as_bytes());
        }
        if !drops("forwarded") {
            self.write_list(out, lists.forwarded, Field::Forwarded, b"forwarded: ");
            out.extend_from_slice(client.forwarded().as_bytes());
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(self.authority);
            out.extend_from_slice(b"\"\r\n");
        }
        if !has_host && !drops("x-forwarded-host") {
            field::write(out, "x-forwarded-host", self.authority);
        }
        if !drops("via") {
            self.write_list(out, lists.via, Field::Via, b"via: ");
            out.extend_from_slice(b"1.1 trimtab\r\n");
        }
        if !has_id && !drops("x-request-id") {
            field::write(out, "x-request-id", &request_id());
        }
        let mut span_at = None;
        if let Some(passed) = passed.filter(|_| !drops("traceparent")) {
            field::write(out, "traceparent", &passed.header);
            span_at = Some(out.len() - b"\r\n".len() - trace::LEN + trace::SPAN_AT);
        }
        for (name, value) in edits.into_iter().flat_map(|edits| edits.request().added()) {
            field::write(out, name.as_str(), value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        span_at
    }

    /// Writes a list header up to its last element, which is ours.
    fn write_list(&self, out: &mut Vec<u8>, there: bool, which: Field, name: &[u8]) {
        out.extend_from_slice(name);
        if there {
            for (field, _) in self.fields.iter().zip(&self.kinds).filter(|(_, kind)| **kind == which) {
                out.extend_from_slice(field.value);
                out.extend_from_slice(b", ");
            }
        }
    }
}

impl RequestHead for Request<'_, '_> {
    fn method(&self) -> &Method {
        &self.method
    }

    fn path(&self) -> &str {
        &self.target[..self.path_len]
    }

    fn query(&self) -> Option<&str> {
        self.target.get(self.path_len + 1..)
    }

    fn values<'a>(&'a self, name: &'a HeaderName) -> impl Iterator<Item = &'a [u8]> {
        let named = |field: &&httparse::Header<'_>| field.name.eq_ignore_ascii_case(name.as_str());
        self.fields.iter().filter(named).map(|field| field.value)
    }
}

/// Not for the fast path.
struct Unusual;

/// List headers that came with the request.
#[derive(Default)]
struct Lists {
    forwarded_for: bool,
    forwarded: bool,
    via: bool,
}

/// A path, and a query, of bytes that mean the same to everybody (RFC 3986 §3.3, §3.4).
fn is_plain_target(target: &str) -> bool {
    target.starts_with('/') && target.len() <= TARGET_MAX && target.bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// Bytes of plain targets.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let marks = b"-._~!$&'()*+,;=:@/%?";
    let mut at = 0;
    while at < marks.len() {
        plain[marks[at] as usize] = true;
        at += 1;
    }
    plain
};

/// The name in a `Host` that is a DNS name or an IPv4 address, with or without a port.
fn plain_host(authority: &[u8]) -> Option<&str> {
    let len = authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len());
    let (name, port) = (&authority[..len], authority.get(len + 1..));
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_port = |port: &[u8]| (1..=5).contains(&port.len()) && port.iter().all(u8::is_ascii_digit);
    let is_plain = !name.is_empty() && name.len() <= 255 && name.iter().all(plain) && port.is_none_or(is_port);
    if is_plain { std::str::from_utf8(name).ok() } else { None }
}
