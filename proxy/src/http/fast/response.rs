//! The head of an endpoint's answer: whether it can be believed, what follows it, and how it is said to a client.

use std::mem::MaybeUninit;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CONTENT_LENGTH};

use super::{
    super::{framing::number, headers::NOT_LISTED, orca},
    field::{self, Field, elements},
};
use crate::{load::OrcaLoad, route::filter::HeaderEdits};

/// Fields in an answer; hyper's limit.
const FIELDS_MAX: usize = 100;
/// Bytes of an answer's head.
pub(super) const HEAD_MAX: usize = 256 << 10;

/// Where the fields of a head are kept while it is looked at.
pub(super) type Slots<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_MAX];

/// Room for the fields of one head.
pub(super) fn slots<'b>() -> Slots<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_MAX]
}

/// What some bytes at the start of an answer are.
pub(super) enum Seen<'h, 'b> {
    /// Not all of a head.
    Partial,
    /// Not HTTP, or nothing that can be read in one way only.
    Malformed,
    /// An interim answer of so many bytes, to be skipped.
    Interim(usize),
    /// The head of the answer.
    Final(Response<'h, 'b>),
}

/// The body that follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// None; `Some`: the length is told all the same, because the request was HEAD.
    Absent(Option<u64>),
    /// Of this length, which may be 0.
    Length(u64),
    /// In chunks.
    Chunked,
    /// All until the connection ends.
    UntilClose,
}

/// The head of a final answer.
pub(super) struct Response<'h, 'b> {
    pub status: StatusCode,
    pub body: Body,
    /// The endpoint leaves its connection open.
    pub keeps: bool,
    /// What it says of its load.
    pub load: Option<OrcaLoad>,
    /// Bytes of the head.
    pub len: usize,
    has_date: bool,
    /// `Connection` names other fields.
    lists: bool,
    fields: &'h [httparse::Header<'b>],
    /// What each of the fields is.
    kinds: [Field; FIELDS_MAX],
}

impl<'h, 'b> Response<'h, 'b> {
    /// Looks at the start of an answer, to a HEAD request if `to_head`.
    pub fn look(bytes: &'b [u8], slots: &'h mut Slots<'b>, to_head: bool) -> Seen<'h, 'b> {
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let len = match config.parse_response_with_uninit_headers(&mut parsed, bytes, slots) {
            Ok(httparse::Status::Complete(len)) if len <= HEAD_MAX => len,
            Ok(httparse::Status::Partial) if bytes.len() <= HEAD_MAX => return Seen::Partial,
            _ => return Seen::Malformed,
        };
        let (Some(version), Some(Ok(status))) = (parsed.version, parsed.code.map(StatusCode::from_u16)) else {
            return Seen::Malformed;
        };
        if status.is_informational() {
            // Nobody asked for another protocol.
            let switching = status == StatusCode::SWITCHING_PROTOCOLS;
            return if switching { Seen::Malformed } else { Seen::Interim(len) };
        }
        let fields: &'h [httparse::Header<'b>] = parsed.headers;
        Self::of(version, status, fields, len, to_head).map_or(Seen::Malformed, Seen::Final)
    }

    fn of(
        version: u8,
        status: StatusCode,
        fields: &'h [httparse::Header<'b>],
        len: usize,
        to_head: bool,
    ) -> Option<Self> {
        let (mut length, mut chunked, mut load) = (None, false, None);
        let (mut has_date, mut closes, mut stays, mut lists) = (false, false, version == 1, false);
        let mut kinds = [Field::Other; FIELDS_MAX];
        for (field, kind) in fields.iter().zip(&mut kinds) {
            *kind = Field::of(field.name);
            match *kind {
                Field::ContentLength if length.is_none() => length = Some(number(field.value)?),
                Field::TransferEncoding if !chunked && field.value.eq_ignore_ascii_case(b"chunked") => chunked = true,
                // As `headers::validate_response` has it.
                Field::ContentLength | Field::TransferEncoding => return None,
                Field::Connection => {
                    for token in elements(field.value) {
                        if token.eq_ignore_ascii_case(b"close") {
                            closes = true;
                        } else if token.eq_ignore_ascii_case(b"keep-alive") {
                            stays = true;
                        } else {
                            lists = true;
                        }
                    }
                }
                Field::Date => has_date = true,
                Field::Load if load.is_none() => load = Some(orca::read(field.value)),
                _ => {}
            }
        }
        let body = match status {
            StatusCode::NO_CONTENT => Body::Absent(None),
            StatusCode::NOT_MODIFIED if !to_head => Body::Absent(None),
            _ if to_head => Body::Absent(length.filter(|_| !chunked)),
            // HTTP/1.0 has no chunks.
            _ if chunked && version == 0 => return None,
            _ if chunked => Body::Chunked,
            _ => length.map_or(Body::UntilClose, Body::Length),
        };
        // Then `Connection` names a field that is there.
        lists |= closes && fields.iter().any(|field| field.name.eq_ignore_ascii_case("close"));
        // A length beside chunks is a lie at best: what comes after such an answer is not read.
        let keeps = stays && !closes && body != Body::UntilClose && !(chunked && length.is_some());
        Some(Self { status, body, keeps, load: load.flatten(), len, has_date, lists, fields, kinds })
    }

    /// The head for a client of another protocol: what `headers::prepare_response` makes of it. `None`: a field is none.
    pub fn headers(&self) -> Option<HeaderMap> {
        let mut headers = HeaderMap::with_capacity(self.fields.len() + 1);
        for (field, kind) in self.fields.iter().zip(&self.kinds) {
            if kind.is_of_one_hop() || self.lists && self.is_listed(field.name) {
                continue;
            }
            let name = HeaderName::from_bytes(field.name.as_bytes()).ok()?;
            headers.append(name, HeaderValue::from_bytes(field.value).ok()?);
        }
        if let Body::Absent(Some(length)) | Body::Length(length) = self.body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        Some(headers)
    }

    /// Writes the head for a client: what `headers::prepare_response` and hyper make of it. `date` is asked for if
    /// it has none in the end.
    pub fn write<'d>(
        &self,
        closes: bool,
        edits: Option<&HeaderEdits>,
        date: impl FnOnce() -> &'d str,
        out: &mut Vec<u8>,
    ) {
        if self.status == StatusCode::OK {
            out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
        } else {
            out.extend_from_slice(b"HTTP/1.1 ");
            out.extend_from_slice(self.status.as_str().as_bytes());
            out.push(b' ');
            // Not the endpoint's phrase, which is about its hop.
            out.extend_from_slice(self.status.canonical_reason().unwrap_or("<none>").as_bytes());
            out.extend_from_slice(b"\r\n");
        }
        for (field, kind) in self.fields.iter().zip(&self.kinds) {
            match kind {
                kind if kind.is_of_one_hop() => {}
                _ if self.lists && self.is_listed(field.name) => {}
                _ if edits.is_some_and(|edits| edits.drops(field.name)) => {}
                _ => field::write(out, field.name, field.value),
            }
        }
        match self.body {
            Body::Absent(None) => {}
            Body::Absent(Some(length)) | Body::Length(length) => {
                out.extend_from_slice(b"content-length: ");
                field::write_number(out, length);
                out.extend_from_slice(b"\r\n");
            }
            Body::Chunked | Body::UntilClose => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        if closes {
            out.extend_from_slice(b"connection: close\r\n");
        }
        let mut dated = self.has_date;
        if let Some(edits) = edits {
            for (name, value) in edits.added() {
                dated |= name == http::header::DATE;
                field::write(out, name.as_str(), value.as_bytes());
            }
            dated &= !edits.drops("date") || edits.added().any(|(name, _)| name == http::header::DATE);
        }
        if !dated {
            field::write(out, "date", date().as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }

    /// Whether `Connection` says that this field is for one hop.
    fn is_listed(&self, name: &str) -> bool {
        let kept = |kept: &HeaderName| name.eq_ignore_ascii_case(kept.as_str());
        let mut connections = self.fields.iter().filter(|field| Field::of(field.name) == Field::Connection);
        connections.any(|field| elements(field.value).any(|token| token.eq_ignore_ascii_case(name.as_bytes())))
            && !NOT_LISTED.iter().any(kept)
    }
}
