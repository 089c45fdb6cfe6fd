//! The head of a request that came over HTTP/2 without a body, written for an endpoint straight from the map that h2 has made of it. Changing
//! the map first and writing it then, as hyper's path does, costs six times as much: each field that is looked for, dropped or added is hashed.

use http::{HeaderMap, HeaderName, HeaderValue, header, request};

use super::{
    super::{
        edits::Edits,
        headers::{ClientHeaders, X_FORWARDED_FOR},
    },
    field::{self, Field},
};
use crate::observe::trace::{self, Passed};

/// A head for hyper's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unusual;

/// List headers that came with the request, and others that are written behind the rest.
#[derive(Default)]
struct There {
    forwarded_for: bool,
    forwarded: bool,
    via: bool,
    cookie: bool,
    host: bool,
    id: bool,
}

/// Writes the head: what `headers::prepare_request` and then `edits` make of it on hyper's path. `passed` is what the endpoint is told of the
/// trace, if not what the client said; returned is where its span stands in `out`.
///
/// # Errors
/// Where it asks for more than a plain exchange; what was written is then of no use.
pub fn write(
    head: &request::Parts,
    client: &ClientHeaders,
    edits: Option<&Edits>,
    passed: Option<&Passed>,
    request_id: impl FnOnce() -> [u8; 24],
    out: &mut Vec<u8>,
) -> Result<Option<usize>, Unusual> {
    let drops = |name: &str| edits.is_some_and(|edits| edits.request().drops(name));
    out.extend_from_slice(head.method.as_str().as_bytes());
    out.push(b' ');
    match edits.and_then(|edits| edits.target(head.uri.path(), head.uri.query())) {
        Some(target) => out.extend_from_slice(target.as_bytes()),
        None => out.extend_from_slice(head.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let mut host: Option<&HeaderValue> = None;
    let mut there = There::default();
    for (name, value) in &head.headers {
        match Field::of(name.as_str()) {
            // Who can take trailers gets them; the others h2 lets nobody say.
            Field::Te | Field::Connection | Field::TransferEncoding | Field::Upgrade => return Err(Unusual),
            Field::KeepAlive
            | Field::ProxyConnection
            | Field::ProxyAuthorization
            | Field::Http2Settings
            | Field::ForwardedClientCert
            | Field::ForwardedProto => continue,
            Field::Host if host.is_some() => return Err(Unusual),
            Field::Host => {
                host = Some(value);
                continue;
            }
            Field::ForwardedFor => {
                there.forwarded_for = true;
                continue;
            }
            Field::Forwarded => {
                there.forwarded = true;
                continue;
            }
            Field::Via => {
                there.via = true;
                continue;
            }
            Field::Other if *name == header::COOKIE => {
                there.cookie = true;
                continue;
            }
            Field::RequestId => there.id = true,
            Field::TraceParent if passed.is_some() => continue,
            Field::TraceState if passed.is_some_and(|passed| !passed.keeps_state) => continue,
            Field::ForwardedHost => there.host = true,
            _ => {}
        }
        if !drops(name.as_str()) {
            field::write(out, name.as_str(), value.as_bytes());
        }
    }
    // HTTP/1.1 cannot do without.
    let said = edits.and_then(Edits::host).or(host).map_or(&b""[..], HeaderValue::as_bytes);
    field::write(out, "host", said);
    if there.cookie && !drops("cookie") {
        write_values(out, &head.headers, &header::COOKIE, b"cookie: ", b"; ");
        // The last piece has nothing behind it.
        out.truncate(out.len() - b"; ".len());
        out.extend_from_slice(b"\r\n");
    }
    if !drops("x-forwarded-for") {
        write_list(out, &head.headers, there.forwarded_for, &X_FORWARDED_FOR, b"x-forwarded-for: ");
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
    let host = host.filter(|host| !host.is_empty());
    if !drops("forwarded") {
        write_list(out, &head.headers, there.forwarded, &header::FORWARDED, b"forwarded: ");
        out.extend_from_slice(client.forwarded().as_bytes());
        if let Some(host) = host.and_then(|host| host.to_str().ok()) {
            out.extend_from_slice(b";host=\"");
            out.extend_from_slice(host.as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(b"\r\n");
    }
    if let Some(host) = host
        && !there.host
        && !drops("x-forwarded-host")
    {
        field::write(out, "x-forwarded-host", host.as_bytes());
    }
    if !drops("via") {
        write_list(out, &head.headers, there.via, &header::VIA, b"via: ");
        out.extend_from_slice(b"2.0 trimtab\r\n");
    }
    if !there.id && !drops("x-request-id") {
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
    Ok(span_at)
}

/// Writes a list header up to its last element, which is ours.
fn write_list(out: &mut Vec<u8>, headers: &HeaderMap, there: bool, which: &HeaderName, name: &[u8]) {
    if there {
        write_values(out, headers, which, name, b", ");
    } else {
        out.extend_from_slice(name);
    }
}

fn write_values(out: &mut Vec<u8>, headers: &HeaderMap, which: &HeaderName, name: &[u8], behind_each: &[u8]) {
    out.extend_from_slice(name);
    for value in headers.get_all(which) {
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(behind_each);
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Version};
    use proptest::prelude::*;

    use super::{
        super::twin::{ID, edits, map, sorted},
        *,
    };
    use crate::http::headers;

    fn field() -> impl Strategy<Value = (&'static str, &'static str)> {
        let name = prop::sample::select(vec![
            "accept",
            "connection",
            "content-length",
            "cookie",
            "cookie",
            "expect",
            "forwarded",
            "http2-settings",
            "keep-alive",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "upgrade",
            "via",
            "x-a",
            "x-forwarded-client-cert",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
        ]);
        let value = prop::sample::select(vec!["", "0", "a=b", "a.test:80", "1.0 fred", "192.0.2.1", "trailers", "x"]);
        (name, value)
    }

    /// The head of a stream, with what `validate_target` leaves of its authority.
    fn head(host: Option<&str>, fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().method(Method::GET).uri("/a/b?c=d").version(Version::HTTP_2);
        for (name, value) in fields.iter().copied().chain(host.map(|host| ("host", host))) {
            request = request.header(name, value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn client(told: bool) -> ClientHeaders {
        let mut client = ClientHeaders::new("192.0.2.7:1234".parse().unwrap(), true);
        if told {
            client.set_certificate(HeaderValue::from_static("Hash=00"));
        }
        client
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn a_head_is_said_as_on_hypers_path(
            host in prop::sample::select(vec![None, Some(""), Some("a.test"), Some("[::1]:80")]),
            fields in prop::collection::vec(field(), 0..7),
            told in any::<bool>(),
        ) {
            let client = client(told);
            let mut slow = head(host, &fields);
            let fast = slow.clone();
            let unusual = ["connection", "te", "upgrade"].iter().any(|name| fast.headers.contains_key(*name));
            let id = || HeaderValue::from_bytes(&ID).unwrap();
            headers::prepare_request(&mut slow.headers, Version::HTTP_2, &client, false, id);
            let check = |edits: Option<&Edits>, slow: &request::Parts| {
                let mut written = Vec::new();
                let wrote = write(&fast, &client, edits, None, || ID, &mut written);
                if unusual {
                    prop_assert_eq!(wrote, Err(Unusual));
                    return Ok(());
                }
                prop_assert_eq!(wrote, Ok(None));
                let mut fields = [httparse::EMPTY_HEADER; 80];
                let mut said = httparse::Request::new(&mut fields);
                prop_assert_eq!(said.parse(&written), Ok(httparse::Status::Complete(written.len())));
                prop_assert_eq!((said.method, said.version), (Some("GET"), Some(1)));
                prop_assert_eq!(said.path, slow.uri.path_and_query().map(|target| target.as_str()));
                // White space around a value is no part of it to who reads HTTP/1.1: empty cookies, joined, end with some.
                let mut expected = sorted(&slow.headers);
                expected.iter_mut().flat_map(|(_, values)| values).for_each(|value| *value = value.trim_ascii().to_vec());
                prop_assert_eq!(sorted(&map(said.headers)), expected);
                Ok(())
            };
            check(None, &slow)?;
            let edits = edits();
            prop_assert_eq!(edits.apply(&mut slow), Ok(()));
            check(Some(&edits), &slow)?;
        }
    }

    #[test]
    fn a_trace_is_told_where_its_span_can_be_changed() {
        let fields = [("traceparent", "theirs"), ("tracestate", "a=b"), ("traceparent", "twice")];
        for keeps_state in [false, true] {
            let passed = Passed { header: [b'x'; trace::LEN], keeps_state };
            let mut written = Vec::new();
            let wrote = write(&head(Some("a"), &fields), &client(false), None, Some(&passed), || ID, &mut written);
            let text = String::from_utf8(written).unwrap();
            let at = text.find(&"x".repeat(trace::LEN)).unwrap();
            assert_eq!(wrote, Ok(Some(at + trace::SPAN_AT)));
            assert_eq!(text.matches("traceparent").count(), 1, "{text}");
            assert_eq!(text.contains("tracestate: a=b\r\n"), keeps_state, "{text}");
        }
    }

    #[test]
    fn two_hosts_are_for_hypers_path() {
        let two = head(Some("a"), &[("host", "b")]);
        assert_eq!(write(&two, &client(false), None, None, || ID, &mut Vec::new()), Err(Unusual));
    }
}
