//! Answers that the proxy gives by itself: each has a status, a stable reason in `x-trimtab-reason`, and a short plain body.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::framing::Refusal;
use crate::{admission::Shed, observe::Blame, route::filter::HeaderEdits};

/// Header that tells an answer of the proxy from one of a backend.
pub const REASON_HEADER: http::HeaderName = http::HeaderName::from_static("x-trimtab-reason");

/// Why the proxy answers by itself. The first group is the client's fault, the second the upstream's, the third the configuration's or ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The head can be read in two ways, or lacks what it must have.
    Ambiguous(Refusal),
    /// The request line and the headers contradict each other, or the target cannot be used.
    BadRequest(&'static str),
    /// The connection was opened for a host of another listener.
    Misdirected,
    /// `CONNECT` and other methods that a reverse proxy does not do.
    MethodNotSupported,
    /// Another major version of HTTP than is spoken on the connection.
    VersionNotSupported,
    /// More headers than the listener allows.
    TooManyHeaders,
    /// The body is longer than the listener allows.
    BodyTooLarge,
    /// The client took too long to send its request.
    RequestTimeout,
    /// The client's body broke off or is malformed.
    ClientGone,

    /// No connection could be made, on any endpoint that was tried.
    ConnectFailed,
    /// The endpoint closed the connection before it answered.
    UpstreamReset,
    /// The endpoint's answer is not HTTP.
    UpstreamProtocol,
    /// No answer in time.
    UpstreamTimeout,
    /// It was tried on as many endpoints as may be, and none of them answered.
    RetriesExhausted,
    /// Every endpoint is ejected, draining, or there is none.
    NoHealthyUpstream,
    /// Admission control or the circuit breaker turned it away.
    Shed(Shed),
    /// The circuit breaker allows no more connections.
    TooManyConnections,
    /// The endpoint answered with a status that is worth another try, and there was none to be had after all.
    UpstreamStatus(StatusCode),

    /// The client may not ask here.
    Denied,
    /// More requests than the rate allows; after this long there may be another one.
    RateLimited(Duration),
    /// A fault that the configuration asks for.
    Fault(StatusCode),

    /// No route matches.
    NoRoute,
    /// The rule's backend reference does not resolve.
    UnresolvedBackend,

    /// The rule says what to answer.
    Local(Box<Local>),
}

impl From<Refusal> for Reason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Version => Self::VersionNotSupported,
            ambiguous => Self::Ambiguous(ambiguous),
        }
    }
}

/// A request that the proxy answers by itself.
#[derive(Debug)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// What a page of another origin must be told so that its browser lets it read the answer.
    pub cors: Option<Box<HeaderEdits>>,
}

impl From<Reason> for Refused {
    /// Before it was known which route, and so which filter, the request met.
    fn from(reason: Reason) -> Self {
        Self { reason, cors: None }
    }
}

impl Refused {
    /// The whole answer.
    pub fn answer(&self) -> Response<Bytes> {
        let mut answer = self.reason.answer();
        if let Some(cors) = &self.cors {
            cors.apply(answer.headers_mut());
        }
        answer
    }
}

/// An answer that a filter gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// As a reason's name.
    pub name: &'static str,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
}

impl Reason {
    /// The answer's status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Ambiguous(_) | Self::BadRequest(_) | Self::ClientGone => StatusCode::BAD_REQUEST,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::MethodNotSupported => StatusCode::NOT_IMPLEMENTED,
            Self::VersionNotSupported => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TooManyHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::ConnectFailed | Self::UpstreamReset | Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout | Self::RetriesExhausted => StatusCode::GATEWAY_TIMEOUT,
            Self::NoHealthyUpstream | Self::Shed(_) | Self::TooManyConnections => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamStatus(status) | Self::Fault(status) => *status,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::RateLimited(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::UnresolvedBackend => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Local(local) => local.status,
        }
    }

    /// Who is to blame; `None`: nothing went wrong.
    pub fn blame(&self) -> Option<Blame> {
        Some(match self {
            Self::Local(_) => return None,
            Self::Shed(_) | Self::TooManyConnections | Self::Denied | Self::RateLimited(_) | Self::Fault(_) => {
                Blame::Policy
            }
            Self::NoRoute | Self::UnresolvedBackend => Blame::Configuration,
            // The proxy does not do that, whoever asks.
            Self::MethodNotSupported | Self::VersionNotSupported => Blame::Client,
            reason if reason.status().is_client_error() => Blame::Client,
            _ => Blame::Upstream,
        })
    }

    /// The stable name, in the reason header and as a metric label.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ambiguous(_) | Self::BadRequest(_) => "bad_request",
            Self::Misdirected => "misdirected",
            Self::MethodNotSupported => "method_not_supported",
            Self::VersionNotSupported => "version_not_supported",
            Self::TooManyHeaders => "too_many_headers",
            Self::BodyTooLarge => "body_too_large",
            Self::RequestTimeout => "request_timeout",
            Self::ClientGone => "client_gone",
            Self::ConnectFailed => "connect_failed",
            Self::UpstreamReset => "upstream_reset",
            Self::UpstreamProtocol => "upstream_protocol_error",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::RetriesExhausted => "retries_exhausted",
            Self::NoHealthyUpstream => "no_healthy_upstream",
            Self::Shed(Shed::Overload { .. }) => "overload",
            Self::Shed(Shed::CircuitOpen { .. }) => "max_parallel_requests",
            Self::TooManyConnections => "max_connections",
            Self::UpstreamStatus(_) => "upstream_status",
            Self::Denied => "denied",
            Self::RateLimited(_) => "rate_limited",
            Self::Fault(_) => "fault",
            Self::NoRoute => "no_route",
            Self::UnresolvedBackend => "unresolved_backend",
            Self::Local(local) => local.name,
        }
    }

    /// All names, for metrics.
    pub const NAMES: [&str; 25] = [
        "bad_request",
        "misdirected",
        "method_not_supported",
        "version_not_supported",
        "too_many_headers",
        "body_too_large",
        "request_timeout",
        "client_gone",
        "connect_failed",
        "upstream_reset",
        "upstream_protocol_error",
        "upstream_timeout",
        "retries_exhausted",
        "no_healthy_upstream",
        "overload",
        "max_parallel_requests",
        "max_connections",
        "upstream_status",
        "denied",
        "rate_limited",
        "fault",
        "no_route",
        "unresolved_backend",
        "redirect",
        "cors_preflight",
    ];

    /// One line for the client.
    pub fn message(&self) -> &'static str {
        match self {
            Self::Ambiguous(refusal) => refusal.message(),
            Self::BadRequest(message) => message,
            Self::Misdirected => "this connection was opened for another host",
            Self::MethodNotSupported => "this method is not supported",
            Self::VersionNotSupported => Refusal::Version.message(),
            Self::TooManyHeaders => "too many headers",
            Self::BodyTooLarge => "the request body is too large",
            Self::RequestTimeout => "the request took too long to arrive",
            Self::ClientGone => "the request body broke off",
            Self::ConnectFailed => "no connection to the upstream",
            Self::UpstreamReset => "the upstream closed the connection before it answered",
            Self::UpstreamProtocol => "the upstream's answer is not valid http",
            Self::UpstreamTimeout => "the upstream did not answer in time",
            Self::RetriesExhausted => "none of the upstreams that were tried answered",
            Self::NoHealthyUpstream => "no healthy upstream",
            Self::Shed(_) | Self::TooManyConnections => "overloaded, try again later",
            Self::UpstreamStatus(_) => "the upstream failed",
            Self::Denied => "this client may not ask here",
            Self::RateLimited(_) => "too many requests, try again later",
            Self::Fault(_) => "a fault was injected",
            Self::NoRoute => "no route matches the request",
            Self::UnresolvedBackend => "the route's backend does not resolve",
            Self::Local(_) => "",
        }
    }

    /// Whether the connection must not be used again: what follows on it cannot be trusted, or is a body nobody will read.
    pub fn closes(&self) -> bool {
        matches!(
            self,
            Self::Ambiguous(_)
                | Self::BadRequest(_)
                | Self::MethodNotSupported
                | Self::VersionNotSupported
                | Self::BodyTooLarge
                | Self::RequestTimeout
                | Self::ClientGone
        )
    }

    /// The whole answer.
    pub fn answer(&self) -> Response<Bytes> {
        if let Self::Local(local) = self {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = local.status;
            *response.headers_mut() = local.headers.clone();
            response.headers_mut().insert(header::SERVER, HeaderValue::from_static("trimtab"));
            return response;
        }
        let mut response = Response::new(Bytes::from(format!("{}\n", self.message())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.reserve(5);
        headers.insert(header::SERVER, HeaderValue::from_static("trimtab"));
        headers.insert(REASON_HEADER, HeaderValue::from_static(self.name()));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        let retry_after = match self {
            Self::Shed(shed) => Some(shed.retry_after()),
            Self::RateLimited(wait) => Some(*wait),
            _ => None,
        };
        if let Some(wait) = retry_after {
            // In whole seconds, and not too early.
            headers.insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs_f64().ceil().max(1.0) as u64));
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
