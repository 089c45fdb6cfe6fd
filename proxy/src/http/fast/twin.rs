//! The fast path's heads against their slow twins: whatever it accepts, hyper's path reads the same way, and says the same to the other side.
//! Fuzzing runs the same checks. Here heads are made of good and bad parts and then damaged, so that most are nearly right.
#![allow(clippy::unwrap_used, reason = "a finding is a panic")]

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request as HttpRequest, Response as HttpResponse, Version};
use proptest::prelude::*;

use super::{
    super::{
        edits::Edits,
        framing::{Fed, Framing},
        headers::{self, ClientHeaders},
        orca,
    },
    chunked::{Chunked, Malformed, write_size_before},
    request::{self, Body, Request, Seen},
    response::{self, Response},
};
use crate::{
    head::RequestHead,
    route::{
        filter::{Filters, PathRewrite, Rewrite},
        rule::Limits,
    },
};

pub(crate) const ID: [u8; 24] = *b"0123456789abcdef00000007";

/// Reads a chunked body in steps: its content, the bytes that belong to it, and whether it has ended.
pub(crate) fn read_chunks(bytes: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Malformed> {
    let mut body = Chunked::new();
    let (mut content, mut used) = (Vec::new(), 0);
    for part in bytes.chunks(step) {
        let mut part = part.to_vec();
        let decoded = body.decode(&mut part)?;
        content.extend_from_slice(&part[decoded.content]);
        used += decoded.used;
        if body.is_over() {
            break;
        }
    }
    Ok((content, used, body.is_over()))
}

/// Writes a chunk.
pub(crate) fn write_chunk(content: &[u8], out: &mut Vec<u8>) {
    let mut line = [0; 20];
    let at = write_size_before(&mut line, 20, content.len());
    out.extend_from_slice(&line[at..]);
    out.extend_from_slice(content);
    out.extend_from_slice(b"\r\n");
}

/// Fields as a map, as hyper makes it.
pub(crate) fn map(fields: &[httparse::Header<'_>]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_maybe_shared(Bytes::copy_from_slice(field.value)).unwrap());
    }
    map
}

/// Filters that touch what the proxy writes itself, what it copies, and what is not there.
pub(crate) fn edits() -> Edits {
    let mut filters = Filters::default();
    for edits in [&mut filters.request_headers, &mut filters.response_headers] {
        for name in ["x-forwarded-for", "x-request-id", "x-a", "date", "x-new"] {
            edits.set(HeaderName::from_static(name), HeaderValue::from_static("ours"));
        }
        for name in ["via", "cookie", "x-a"] {
            edits.add(HeaderName::from_static(name), HeaderValue::from_static("added"));
        }
    }
    let path = Some(PathRewrite::Prefix("/new".to_owned()));
    filters.rewrite = Rewrite { host: Some(HeaderValue::from_static("other.test")), path };
    Edits::of(filters, 0)
}

/// Names, and values of each in order.
pub(crate) fn sorted(headers: &HeaderMap) -> Vec<(String, Vec<Vec<u8>>)> {
    let mut all: Vec<_> = headers
        .keys()
        .map(|name| {
            (name.to_string(), headers.get_all(name).iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>())
        })
        .collect();
    all.sort();
    all
}

#[cfg(test)]
/// Fields with good and bad values, in any case.
fn field() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        Just("Host"),
        Just("host"),
        Just("Content-Length"),
        Just("content-length"),
        Just("Transfer-Encoding"),
        Just("Connection"),
        Just("Keep-Alive"),
        Just("Expect"),
        Just("Upgrade"),
        Just("TE"),
        Just("Trailer"),
        Just("Via"),
        Just("X-Forwarded-For"),
        Just("X-Forwarded-Proto"),
        Just("x-forwarded-host"),
        Just("Forwarded"),
        Just("X-Request-Id"),
        Just("Proxy-Connection"),
        Just("Proxy-Authorization"),
        Just("HTTP2-Settings"),
        Just("Cookie"),
        Just("Accept"),
        Just("x-a"),
        Just("Date"),
        Just("endpoint-load-metrics"),
        Just("endpoint-load-metrics-bin"),
        Just("bad name"),
        Just("x "),
        Just(""),
    ];
    let value = prop_oneof![
        Just("a"),
        Just("a.test:80"),
        Just("A.Test"),
        Just("[::1]"),
        Just("a@b"),
        Just(""),
        Just("0"),
        Just("5"),
        Just("007"),
        Just("+5"),
        Just("5, 5"),
        Just("5 "),
        Just("-1"),
        Just("99999999999999999999"),
        Just("chunked"),
        Just("Chunked"),
        Just("gzip, chunked"),
        Just("xchunked"),
        Just("identity"),
        Just("close"),
        Just("keep-alive"),
        Just("Keep-Alive, close"),
        Just("x-a"),
        Just("close, x-a, host"),
        Just("upgrade"),
        Just("100-continue"),
        Just("trailers"),
        Just("192.0.2.1"),
        Just("for=192.0.2.1"),
        Just("1.0 fred"),
        Just("caf\u{e9}"),
        Just("a\tb"),
        Just("a\0b"),
        Just("a\r\n folded"),
        Just("TEXT named_metrics.in_flight=7"),
        Just("Sun, 06 Nov 1994 08:49:37 GMT"),
    ];
    (name, prop_oneof![4 => Just(": "), 1 => Just(":"), 1 => Just(" : "), 1 => Just(":\t")], value)
        .prop_map(|(name, colon, value)| format!("{name}{colon}{value}"))
}

#[cfg(test)]
/// Ends of lines, mostly right.
fn end() -> impl Strategy<Value = &'static str> {
    prop_oneof![40 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("\r\r\n")]
}

#[cfg(test)]
/// A byte that is put in, taken out or overwritten, now and then.
fn damage() -> impl Strategy<Value = Option<(prop::sample::Index, u8, u8)>> {
    let byte = prop_oneof![Just(b'\r'), Just(b'\n'), Just(0), Just(b' '), Just(b':'), Just(b'\t'), any::<u8>()];
    prop::option::weighted(0.3, (any::<prop::sample::Index>(), 0_u8..3, byte))
}

#[cfg(test)]
fn damaged(mut head: Vec<u8>, damage: Option<(prop::sample::Index, u8, u8)>) -> Vec<u8> {
    if let Some((index, how, byte)) = damage {
        let at = index.index(head.len());
        match how {
            0 => head.insert(at, byte),
            1 => head[at] = byte,
            _ => drop(head.remove(at)),
        }
    }
    head
}

#[cfg(test)]
fn request_head() -> impl Strategy<Value = Vec<u8>> {
    let method = prop_oneof![
        6 => Just("GET"), 3 => Just("POST"), 1 => Just("HEAD"), 1 => Just("PURGE"), 1 => Just("CONNECT"), 1 => Just("get"), 1 => Just("")
    ];
    let target = prop_oneof![
        6 => Just("/"), 3 => Just("/a/b?c=d&e=%20"), 1 => Just("*"), 1 => Just("http://a/"), 1 => Just("//x/../y"), 1 => Just("/a/%2e./b?/../"), 1 => Just("/%61"), 1 => Just("/a#b"),
        1 => Just("/a\"b"), 1 => Just("/{}"), 1 => Just("a"), 1 => Just("/?")
    ];
    let version =
        prop_oneof![20 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => Just("HTTP/2.0"), 1 => Just("http/1.1")];
    let host = prop_oneof![8 => Just(Some("Host: a.test")), 2 => Just(Some("host: A.test:8080")), 1 => Just(None)];
    let fields = prop::collection::vec((field(), end()), 0..5);
    (method, target, version, host, fields, end(), damage()).prop_map(
        |(method, target, version, host, fields, last, damage)| {
            let mut head = format!("{method} {target} {version}\r\n");
            head.extend(host.map(|host| format!("{host}\r\n")));
            head.extend(fields.iter().map(|(field, end)| format!("{field}{end}")));
            head.push_str(last);
            damaged(head.into_bytes(), damage)
        },
    )
}

/// What the fast path takes is what hyper's path would have let through, routed alike and said alike to the endpoint.
pub(crate) fn check_request(head: &[u8]) -> Result<bool, TestCaseError> {
    let mut slots = request::slots();
    let Seen::Plain(plain) = Request::look(head, &mut slots, &Limits::default()) else { return Ok(false) };
    let bytes = &head[..plain.len];

    let mut framing = Framing::default();
    prop_assert_eq!(framing.feed(bytes), Fed::All);
    prop_assert_eq!(framing.refusal_of(1), None);
    let body = match plain.body {
        Body::Absent => Vec::new(),
        // Long ones are not written out.
        Body::Length(length) => vec![b'x'; length.min(10_000) as usize],
        Body::Chunked => b"1\r\nx\r\n0\r\n\r\n".to_vec(),
    };
    for (index, byte) in body.iter().enumerate() {
        prop_assert!(!framing.between_messages(), "the body ends at {} of {}", index, body.len());
        prop_assert_eq!(framing.feed(&[*byte]), Fed::All);
    }
    prop_assert!(framing.between_messages() || body.len() == 10_000);

    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Request::new(&mut fields);
    prop_assert_eq!(parsed.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
    let mut slow = HttpRequest::new(());
    *slow.method_mut() = Method::from_bytes(parsed.method.unwrap().as_bytes()).unwrap();
    *slow.uri_mut() = http::Uri::try_from(parsed.path.unwrap()).unwrap();
    *slow.headers_mut() = map(parsed.headers);
    let host = headers::validate_target(&mut slow, "http");
    prop_assert_eq!(host, Ok(plain.host.to_ascii_lowercase()));
    let (mut slow, ()) = slow.into_parts();
    prop_assert_eq!((&slow.method, slow.path(), slow.query()), (&plain.method, plain.path(), plain.query()));
    for name in slow.headers.keys() {
        let values: Vec<_> = slow.values(name).collect();
        prop_assert_eq!(values, plain.values(name).collect::<Vec<_>>());
    }

    let client = ClientHeaders::new("192.0.2.7:1234".parse().unwrap(), false);
    let has_body = !matches!(plain.body, Body::Absent | Body::Length(0));
    let id = || HeaderValue::from_bytes(&ID).unwrap();
    let prepared = headers::prepare_request(&mut slow.headers, Version::HTTP_11, &client, has_body, id);
    prop_assert!(!prepared.upgrade && !prepared.expects_continue);
    // Written anew from its value.
    if let Body::Length(length) = plain.body {
        slow.headers.insert("content-length", HeaderValue::from(length));
    }
    let check = |edits: Option<&Edits>, slow: &http::request::Parts| {
        let mut written = Vec::new();
        plain.write(&client, edits, None, || ID, &mut written);
        let mut fields = [httparse::EMPTY_HEADER; 80];
        let mut said = httparse::Request::new(&mut fields);
        prop_assert_eq!(said.parse(&written), Ok(httparse::Status::Complete(written.len())));
        prop_assert_eq!((said.method, said.version), (Some(slow.method.as_str()), Some(1)));
        prop_assert_eq!(said.path, slow.uri.path_and_query().map(|target| target.as_str()));
        prop_assert_eq!(sorted(&map(said.headers)), sorted(&slow.headers));
        prop_assert!(
            !written.iter().any(u8::is_ascii_uppercase) || written.starts_with(slow.method.as_str().as_bytes())
        );
        Ok(())
    };
    check(None, &slow)?;
    let edits = edits();
    prop_assert_eq!(edits.apply(&mut slow), Ok(()));
    check(Some(&edits), &slow)?;
    Ok(true)
}

#[cfg(test)]
fn response_head() -> impl Strategy<Value = Vec<u8>> {
    let version = prop_oneof![8 => Just("HTTP/1.1"), 2 => Just("HTTP/1.0"), 1 => Just("HTTP/2"), 1 => Just("ICY")];
    let status = prop_oneof![
        8 => Just("200 OK"), 1 => Just("204 No Content"), 1 => Just("304 Not Modified"), 1 => Just("404 Nope"), 1 => Just("500"),
        1 => Just("299 Odd"), 1 => Just("101 Switching"), 1 => Just("103 Early Hints"), 1 => Just("099 x"), 1 => Just("abc")
    ];
    (version, status, prop::collection::vec((field(), end()), 0..6), end(), damage()).prop_map(
        |(version, status, fields, last, damage)| {
            let mut head = format!("{version} {status}\r\n");
            head.extend(fields.iter().map(|(field, end)| format!("{field}{end}")));
            head.push_str(last);
            damaged(head.into_bytes(), damage)
        },
    )
}

/// Both paths believe the same answers, and say the same of them to the client.
pub(crate) fn check_response(head: &[u8], to_head: bool) -> Result<bool, TestCaseError> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut parsed = httparse::Response::new(&mut fields);
    let slow_len = match parsed.parse(head) {
        Ok(httparse::Status::Complete(len)) => Some(len),
        _ => None,
    };
    let mut slots = response::slots();
    let plain = match Response::look(head, &mut slots, to_head) {
        response::Seen::Final(response) => response,
        response::Seen::Interim(len) => {
            prop_assert_eq!(Some(len), slow_len);
            prop_assert!(matches!(parsed.code, Some(100 | 102..=199)));
            return Ok(false);
        }
        response::Seen::Partial => return Ok(false),
        response::Seen::Malformed => {
            // What hyper's path refuses or cannot parse, and nothing else.
            if slow_len.is_some() && parsed.code.is_some_and(|code| code >= 200) {
                let map = map(parsed.headers);
                let chunks_of_old = parsed.version == Some(0) && map.contains_key("transfer-encoding");
                prop_assert!(headers::validate_response(&map).is_err() || chunks_of_old, "{:?}", map);
            }
            return Ok(false);
        }
    };
    prop_assert_eq!(Some(plain.len), slow_len);
    let mut slow = HttpResponse::new(());
    *slow.status_mut() = http::StatusCode::from_u16(parsed.code.unwrap()).unwrap();
    *slow.headers_mut() = map(parsed.headers);
    prop_assert_eq!(plain.status, slow.status());
    prop_assert_eq!(headers::validate_response(slow.headers()), Ok(()));
    prop_assert_eq!(plain.load, orca::take(slow.headers_mut()));
    let chunked = slow.headers().contains_key("transfer-encoding");
    let length = slow.headers().get("content-length").map(|length| length.to_str().unwrap().parse::<u64>().unwrap());
    let empty = to_head || matches!(slow.status().as_u16(), 204 | 304);
    let expected = match (empty, chunked, length) {
        (true, ..) => Body::Absent,
        (false, true, _) => Body::Chunked,
        (false, false, Some(length)) => Body::Length(length),
        // Until the connection ends: said as chunks.
        (false, false, None) => Body::Chunked,
    };
    let read = match plain.body {
        response::Body::Absent(_) => Body::Absent,
        response::Body::Length(length) => Body::Length(length),
        response::Body::Chunked | response::Body::UntilClose => Body::Chunked,
    };
    prop_assert_eq!(read, expected);
    prop_assert!(!(plain.keeps && plain.body == response::Body::UntilClose));

    headers::prepare_response(&mut slow);
    let no_date = !slow.headers().contains_key("date");
    // What hyper adds and takes away when it writes.
    let mut slow = slow.into_parts().0.headers;
    if plain.status == 204 || plain.status == 304 && !to_head {
        slow.remove("content-length");
    } else if let Some(length) = length.filter(|_| slow.contains_key("content-length")) {
        slow.insert("content-length", HeaderValue::from(length));
    }
    if read == Body::Chunked {
        slow.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    }
    slow.insert("connection", HeaderValue::from_static("close"));
    if no_date {
        slow.insert("date", HeaderValue::from_static("now"));
    }
    let check = |edits: Option<&Edits>, slow: &HeaderMap| {
        let mut written = Vec::new();
        plain.write(true, edits.map(Edits::response), || "now", &mut written);
        let mut fields = [httparse::EMPTY_HEADER; 120];
        let mut said = httparse::Response::new(&mut fields);
        prop_assert_eq!(said.parse(&written), Ok(httparse::Status::Complete(written.len())));
        prop_assert_eq!((said.version, said.code), (Some(1), parsed.code));
        prop_assert_eq!(sorted(&map(said.headers)), sorted(slow));
        Ok(())
    };
    check(None, &slow)?;
    let edits = edits();
    edits.response().apply(&mut slow);
    check(Some(&edits), &slow)?;
    Ok(true)
}

#[cfg(test)]
/// How many of so many heads made by `strategy` pass `check`; it must not be next to none.
fn run(strategy: impl Strategy<Value = Vec<u8>>, check: impl Fn(&[u8]) -> Result<bool, TestCaseError>) {
    let accepted = std::cell::Cell::new(0_u32);
    let cases = 20_000;
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(cases));
    let result = runner.run(&strategy, |head| {
        accepted.set(accepted.get() + u32::from(check(&head)?));
        Ok(())
    });
    result.unwrap();
    assert!(accepted.get() > cases / 20, "{} of {cases} were accepted", accepted.get());
}

#[test]
fn a_request_that_the_fast_path_takes_is_read_and_said_as_on_hypers_path() {
    run(request_head(), check_request);
}

#[test]
fn an_answer_is_believed_and_said_as_on_hypers_path() {
    run(response_head(), |head| check_response(head, false));
    run(response_head(), |head| check_response(head, true));
}

#[test]
fn anything_unusual_is_left_to_hyper() {
    let look = |head: &str| {
        let mut slots = request::slots();
        matches!(Request::look(head.as_bytes(), &mut slots, &Limits::default()), Seen::Unusual)
    };
    let with = |line: &str| look(&format!("POST /a HTTP/1.1\r\nHost: a\r\n{line}\r\n"));
    for line in [
        "Upgrade: websocket\r\n",
        "Expect: 100-continue\r\n",
        "TE: trailers\r\n",
        "Trailer: x\r\n",
        "HTTP2-Settings: x\r\n",
        "Connection: x-a\r\n",
        "Host: a\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n",
        "Content-Length: +1\r\n",
        "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "x: a\r\n b\r\n",
        "x : a\r\n",
        "x: a\0b\r\n",
        "x: a\n",
        "Content-Length: 18446744073709551615\r\n",
    ] {
        assert!(with(line), "{line:?}");
    }
    assert!(!with("Connection: keep-alive, close\r\nContent-Length: 5\r\n"));
    for head in [
        "GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]\r\n\r\n",
        "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a\"b HTTP/1.1\r\nHost: a\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
    ] {
        assert!(look(head), "{head:?}");
    }
}
