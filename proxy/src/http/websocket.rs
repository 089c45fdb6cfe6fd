//! WebSocket over HTTP/2 (RFC 8441): a client opens a stream by an extended CONNECT; an endpoint that speaks HTTP/1.1 is asked to switch
//! protocols, as it would be for a client of HTTP/1.1, and both are joined. The handshake that HTTP/2 does without is ours to make and to check.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::{ext::Protocol, upgrade::OnUpgrade};

/// What an endpoint adds to a key to show that it knows what it is asked for (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A client that waits for its stream to become a WebSocket.
#[derive(Debug)]
pub struct WebSocket {
    /// What the endpoint must answer.
    accept: String,
    /// The client's stream, once it has been told.
    pub stream: OnUpgrade,
}

impl WebSocket {
    /// Makes of an extended CONNECT the request that it would be over HTTP/1.1. `None`: it is none, or asks for another protocol, and stays as it
    /// is. `nonce` is for the key, which needs not be secret.
    pub fn of<B>(request: &mut Request<B>, nonce: impl FnOnce() -> [u8; 16]) -> Option<Self> {
        let asks = request.version() == Version::HTTP_2 && request.method() == Method::CONNECT;
        let protocol = request.extensions().get::<Protocol>().filter(|_| asks)?;
        if !protocol.as_str().eq_ignore_ascii_case("websocket") {
            return None;
        }
        let key = BASE64_STANDARD.encode(nonce());
        let value = HeaderValue::from_str(&key).ok()?;
        let stream = hyper::upgrade::on(&mut *request);
        *request.method_mut() = Method::GET;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_KEY, value);
        Some(Self { accept: accept(&key), stream })
    }

    /// Whether an endpoint that switched protocols has shown that it switched to this one.
    pub fn is_accepted(&self, answer: &HeaderMap) -> bool {
        let upgraded = answer.get(header::UPGRADE).is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
        upgraded && answer.get(header::SEC_WEBSOCKET_ACCEPT).is_some_and(|accept| *accept == *self.accept)
    }
}

/// Makes of an endpoint's answer that it switches what a client of HTTP/2 is told.
pub fn granted<B>(answer: &mut Response<B>) {
    *answer.status_mut() = StatusCode::OK;
    for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
        answer.headers_mut().remove(name);
    }
}

fn accept(key: &str) -> String {
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{GUID}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_accepted_as_the_rfc_has_it() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
