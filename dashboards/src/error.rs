//! What a request can do wrong, answered as JSON that names the parameter and says what would be right.

use axum::Json;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

/// A refused request. None of them is worth a retry unchanged, except [`ApiError::Busy`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// A parameter has a value that makes no sense.
    #[error("{parameter}={value:?} makes no sense: {allowed}")]
    Value {
        /// The parameter.
        parameter: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// A parameter that this path does not know, or that came twice.
    #[error("{parameter:?} is {fault}: {allowed}")]
    Parameter {
        /// The parameter.
        parameter: String,
        /// "unknown" or "given twice".
        fault: &'static str,
        /// What is allowed.
        allowed: String,
    },
    /// The query string is not one.
    #[error("the query string cannot be read ({detail}): it must be name=value pairs joined by &, percent-encoded")]
    Query {
        /// What the parser said.
        detail: String,
    },
    /// A backend or an endpoint that is not there.
    #[error("{parameter}={value:?} is not known: {allowed}")]
    NotFound {
        /// The parameter.
        parameter: &'static str,
        /// What was given.
        value: String,
        /// What there is.
        allowed: String,
    },
    /// No such path.
    #[error(
        "there is nothing at {path:?}: see /, /api/v1/view, /api/v1/history, /api/v1/stream, /api/v1/reasons, /healthz"
    )]
    Path {
        /// The path.
        path: String,
    },
    /// The API only reads.
    #[error("{method} is not allowed: only GET and HEAD are")]
    Method {
        /// The method.
        method: Method,
    },
    /// The `Host` header names a host that this server is not.
    #[error("host {host:?} is not allowed: use localhost, an IP address, or a name that --dashboard-host gives")]
    Host {
        /// The header's value.
        host: String,
    },
    /// Too many open streams.
    #[error("too many open streams (at most {limit}): close a page or try again")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The controller's loop is gone.
    #[error("the controller no longer publishes: it is shutting down or has failed")]
    Gone,
}

impl ApiError {
    fn status(&self) -> StatusCode {
        match self {
            Self::Value { .. } | Self::Parameter { .. } | Self::Query { .. } => StatusCode::BAD_REQUEST,
            Self::NotFound { .. } | Self::Path { .. } => StatusCode::NOT_FOUND,
            Self::Method { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host { .. } => StatusCode::FORBIDDEN,
            Self::Busy { .. } | Self::Gone => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn parameter(&self) -> Option<&str> {
        match self {
            Self::Value { parameter, .. } | Self::Parameter { parameter, .. } => Some(parameter),
            Self::NotFound { parameter, .. } => Some(parameter),
            _ => None,
        }
    }

    fn allowed(&self) -> Option<&str> {
        match self {
            Self::Value { allowed, .. } | Self::Parameter { allowed, .. } | Self::NotFound { allowed, .. } => {
                Some(allowed)
            }
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
}

#[derive(Serialize)]
struct Inner<'a> {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a str>,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let inner = Inner { message: self.to_string(), parameter: self.parameter(), allowed: self.allowed() };
        let mut response = (self.status(), Json(Body { error: inner })).into_response();
        if matches!(self, Self::Busy { .. }) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        }
        if matches!(self, Self::Method { .. }) {
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}
