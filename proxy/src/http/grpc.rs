//! What of gRPC concerns a proxy (the protocol over HTTP/2): deadlines, outcomes that stand in trailers, and answers that its clients understand.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::error::Reason;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// Codes of `grpc-status` that the proxy gives by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// What the request asks for cannot be.
    Unknown = 2,
    /// Time is up.
    DeadlineExceeded = 4,
    /// The caller may not.
    PermissionDenied = 7,
    /// More than is allowed.
    ResourceExhausted = 8,
    /// Nobody does that.
    Unimplemented = 12,
    /// Something broke.
    Internal = 13,
    /// Try again later.
    Unavailable = 14,
}

/// Whether a request is gRPC.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| {
        let rest = kind.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

/// How long the caller waits for the end of the answer.
pub fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse_timeout(headers.get(GRPC_TIMEOUT)?.to_str().ok()?)
}

/// At most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Whether headers or trailers tell of a failure of the endpoint, as a 5xx status does: UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE and
/// DATA_LOSS. Others are about the request.
pub fn is_failure(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| matches!(status.as_bytes(), b"2" | b"4" | b"13" | b"14" | b"15"))
}

impl Code {
    /// What a reason to answer is called in gRPC.
    pub fn of(reason: &Reason) -> Self {
        match (reason, reason.status()) {
            (Reason::UpstreamTimeout | Reason::RequestTimeout, _) => Self::DeadlineExceeded,
            (Reason::BodyTooLarge, _) => Self::ResourceExhausted,
            (Reason::RetriesExhausted, _) => Self::Unavailable,
            (_, StatusCode::BAD_REQUEST) => Self::Internal,
            (_, StatusCode::FORBIDDEN) => Self::PermissionDenied,
            (_, StatusCode::NOT_FOUND | StatusCode::NOT_IMPLEMENTED) => Self::Unimplemented,
            (_, StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE) => {
                Self::Unavailable
            }
            _ => Self::Unknown,
        }
    }

    /// The end of an answer that broke off.
    pub fn trailers(self, message: &'static str) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(GRPC_STATUS, HeaderValue::from(self as u16));
        // No character in our messages needs percent-encoding.
        trailers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
        trailers
    }
}

/// Turns an answer of the proxy's into one that is nothing but trailers.
pub fn trailers_only(reason: &Reason, headers: &mut HeaderMap) {
    headers.remove(header::CONTENT_LENGTH);
    headers.extend(Code::of(reason).trailers(reason.message()));
    headers.insert(header::CONTENT_TYPE, CONTENT_TYPE);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_says() {
        for (text, expected) in [
            ("1H", Some(3_600_000)),
            ("2M", Some(120_000)),
            ("3S", Some(3_000)),
            ("150m", Some(150)),
            ("99999999m", Some(99_999_999)),
            ("999u", Some(0)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("+1S", None),
            ("1.5S", None),
            ("123456789S", None),
            ("1ä", None),
        ] {
            assert_eq!(parse_timeout(text).map(|timeout| timeout.as_millis()), expected, "{text:?}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        let check = |kind: &'static str, expected: bool| {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), expected, "{kind}");
        };
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=x", true);
        check("application/grpc-web", false);
        check("application/json", false);
        assert!(!is_grpc(&HeaderMap::new()));
    }

    #[test]
    fn failures_of_the_endpoint_are_told_from_those_of_the_request() {
        let failed: Vec<u16> = (0..=16)
            .filter(|code| is_failure(&HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from(*code))])))
            .collect();
        assert_eq!(failed, [2, 4, 13, 14, 15]);
    }
}
