//! RFC 9110 and 9112, section by section: what a client says, what the endpoint gets of it, what the endpoint says, what the client gets, and
//! whether the connection goes on. Every case is played on both paths. docs/conformance.md has the list.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Proxy, RawBackend, Setup};

/// What becomes of the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stays,
    Closes,
}
use Then::{Closes, Stays};

/// One case. Texts that begin with `!` must not be there.
struct Case {
    section: &'static str,
    what: &'static str,
    request: &'static str,
    /// In the head that the endpoint gets, lines in lower case; empty: it must hear nothing.
    seen: &'static [&'static str],
    /// What it answers; it closes its connection behind an answer that ends in `<close>`.
    endpoint: &'static str,
    status: u16,
    /// Headers of the answer, `name: value` in lower case.
    headers: &'static [&'static str],
    body: &'static str,
    then: Then,
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request that is forwarded and answered `OK`.
const fn passes(
    section: &'static str,
    what: &'static str,
    request: &'static str,
    seen: &'static [&'static str],
) -> Case {
    Case { section, what, request, seen, endpoint: OK, status: 200, headers: &[], body: "ok", then: Stays }
}

/// A request that is refused and ends its connection.
const fn refused(section: &'static str, what: &'static str, request: &'static str, status: u16) -> Case {
    Case { section, what, request, seen: &[], endpoint: OK, status, headers: &[], body: "*", then: Closes }
}

/// An answer to `GET /`.
const fn answered(
    section: &'static str,
    what: &'static str,
    endpoint: &'static str,
    status: u16,
    headers: &'static [&'static str],
    body: &'static str,
) -> Case {
    let request = "GET / HTTP/1.1\r\nhost: t\r\n\r\n";
    Case { section, what, request, seen: &["get / http/1.1"], endpoint, status, headers, body, then: Stays }
}

/// The same to `HEAD /`.
const fn to_head(
    section: &'static str,
    what: &'static str,
    endpoint: &'static str,
    headers: &'static [&'static str],
) -> Case {
    let request = "HEAD / HTTP/1.1\r\nhost: t\r\n\r\n";
    Case { section, what, request, seen: &["head / http/1.1"], endpoint, status: 200, headers, body: "", then: Stays }
}

#[rustfmt::skip]
const CASES: &[Case] = &[
    // Fields.
    passes("9110 §5.1", "names in any case are one name", "GET / HTTP/1.1\r\nHOST: t\r\nX-A: 1\r\n\r\n", &["host: t", "x-a: 1"]),
    passes("9110 §5.3", "lines of one name keep their order", "GET / HTTP/1.1\r\nhost: t\r\nx-a: 1\r\nx-b: 2\r\nx-a: 3\r\n\r\n", &["x-a: 1", "x-a: 3"]),
    passes("9110 §5.5", "white space around a value is not part of it", "GET / HTTP/1.1\r\nhost: t\r\nx-a: \t 1 \t\r\n\r\n", &["x-a: 1"]),
    passes("9110 §5.5", "an empty value is one", "GET / HTTP/1.1\r\nhost: t\r\nx-a:\r\n\r\n", &["x-a: "]),
    refused("9110 §5.5", "NUL is in no value", "GET / HTTP/1.1\r\nhost: t\r\nx-a: 1\x002\r\n\r\n", 400),
    refused("9110 §5.6.2", "a name is a token", "GET / HTTP/1.1\r\nhost: t\r\nx a: 1\r\n\r\n", 400),
    refused("9110 §5.6.2", "no name is empty", "GET / HTTP/1.1\r\nhost: t\r\n: 1\r\n\r\n", 400),
    // Host and target.
    refused("9110 §7.2", "HTTP/1.1 has a host", "GET / HTTP/1.1\r\n\r\n", 400),
    refused("9110 §7.2", "and one only", "GET / HTTP/1.1\r\nhost: t\r\nhost: t\r\n\r\n", 400),
    refused("9110 §4.2.4", "a host names no user", "GET / HTTP/1.1\r\nhost: u@t\r\n\r\n", 400),
    passes("9110 §7.2", "an address of IPv6 is a host", "GET / HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", &["host: [::1]:80"]),
    passes("9112 §3.2.1", "a query goes with its path, as it is", "GET /a/b//c%2Fd?e=%zz&/../f HTTP/1.1\r\nhost: t\r\n\r\n", &["get /a/b//c%2fd?e=%zz&/../f http/1.1"]),
    passes("3986 §6.2.2", "dot segments are resolved", "GET /a/../b/./%2e%2e/c HTTP/1.1\r\nhost: t\r\n\r\n", &["get /c http/1.1"]),
    passes("3986 §6.2.2", "unreserved characters are as good as escaped ones", "GET /%7e%61/b HTTP/1.1\r\nhost: t\r\n\r\n", &["get /~a/b http/1.1"]),
    passes("9112 §3.2.2", "absolute form becomes origin form", "GET http://t/a?b HTTP/1.1\r\nhost: t\r\n\r\n", &["get /a?b http/1.1", "host: t"]),
    passes("9112 §3.2.2", "without a path it is the root", "GET http://t HTTP/1.1\r\nhost: t\r\n\r\n", &["get / http/1.1"]),
    refused("9112 §3.2.2", "a host that contradicts the target is not believed", "GET http://t/ HTTP/1.1\r\nhost: u\r\n\r\n", 400),
    passes("9112 §3.2.4", "asterisk form is kept", "OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n", &["options * http/1.1"]),
    refused("9112 §3.2.4", "asterisk form is for OPTIONS alone", "GET * HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    // A request line.
    refused("9112 §3", "one space stands between its parts", "GET  / HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    refused("9112 §3", "none stands in the target", "GET /a b HTTP/1.1\r\nhost: t\r\n\r\n", 400),
    refused("9112 §2.3", "HTTP is in upper case", "GET / http/1.1\r\nhost: t\r\n\r\n", 400),
    refused("9110 §15.6.6", "of another major version is no request here", "GET / HTTP/2.0\r\nhost: t\r\n\r\n", 505),
    refused("9110 §15.6.6", "whichever it is, with a host or without", "GET / HTTP/0.9\r\n\r\n", 505),
    refused("9112 §2.3", "a version is two digits", "GET / HTTP/20.0\r\nhost: t\r\n\r\n", 400),
    refused("9112 §2.2", "white space before the first field is none", "GET / HTTP/1.1\r\n host: t\r\n\r\n", 400),
    passes("9112 §2.2", "an empty line before a request is overlooked", "\r\nGET / HTTP/1.1\r\nhost: t\r\n\r\n", &["get / http/1.1"]),
    refused("9112 §2.2", "a bare line feed ends no line", "GET / HTTP/1.1\nhost: t\n\n", 400),
    refused("9112 §5.1", "no white space before a colon", "GET / HTTP/1.1\r\nhost: t\r\nx-a : 1\r\n\r\n", 400),
    refused("9112 §5.2", "a folded line is refused", "GET / HTTP/1.1\r\nhost: t\r\nx-a: 1\r\n 2\r\n\r\n", 400),
    // Methods.
    passes("9110 §9.1", "a method that nobody knows is passed on", "PURGE / HTTP/1.1\r\nhost: t\r\n\r\n", &["purge / http/1.1"]),
    passes("9110 §9.3.1", "a GET may have a body", "GET / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi", &["content-length: 2"]),
    passes("9110 §9.3.7", "OPTIONS of a path is a request like others", "OPTIONS /a HTTP/1.1\r\nhost: t\r\n\r\n", &["options /a http/1.1"]),
    passes("9110 §8.6", "a POST without content says so", "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n", &["content-length: 0"]),
    Case { section: "9110 §9.3.6", what: "CONNECT makes no tunnel here", request: "CONNECT t:80 HTTP/1.1\r\nhost: t:80\r\n\r\n", seen: &[], endpoint: OK, status: 501, headers: &[], body: "*", then: Closes },
    // Max-Forwards.
    Case { section: "9110 §7.6.2", what: "OPTIONS that may go no further is answered here", request: "OPTIONS / HTTP/1.1\r\nhost: t\r\nmax-forwards: 0\r\n\r\n", seen: &[], endpoint: OK, status: 204, headers: &["server: trimtab"], body: "", then: Stays },
    refused("9110 §7.6.2", "TRACE that may go no further is refused: it would show what was added on the way", "TRACE /x HTTP/1.1\r\nhost: t\r\nmax-forwards: 0\r\n\r\n", 501),
    passes("9110 §7.6.2", "one less at each step", "OPTIONS / HTTP/1.1\r\nhost: t\r\nmax-forwards: 7\r\n\r\n", &["max-forwards: 6"]),
    passes("9110 §7.6.2", "it means nothing to other methods", "GET / HTTP/1.1\r\nhost: t\r\nmax-forwards: 0\r\n\r\n", &["max-forwards: 0"]),
    // One hop.
    passes("9110 §7.6.1", "fields of one hop stop here", "GET / HTTP/1.1\r\nhost: t\r\nconnection: x-a, keep-alive\r\nx-a: 1\r\nkeep-alive: 5\r\nproxy-connection: x\r\n\r\n", &["!x-a", "!keep-alive", "!proxy-connection", "!connection"]),
    passes("9110 §7.6.1", "what an endpoint needs cannot be taken from it so", "GET / HTTP/1.1\r\nhost: t\r\nconnection: host, content-length\r\ncontent-length: 0\r\n\r\n", &["host: t"]),
    passes("9110 §7.6.3", "Via grows", "GET / HTTP/1.1\r\nhost: t\r\nvia: 1.0 a\r\n\r\n", &["via: 1.0 a, 1.1 trimtab"]),
    passes("9110 §7.6.3", "by the version that was received", "GET / HTTP/1.0\r\nhost: t\r\nconnection: keep-alive\r\n\r\n", &["via: 1.0 trimtab", "get / http/1.1"]),
    passes("9110 §7.8", "an upgrade is asked for on this hop alone, if it can be granted", "GET / HTTP/1.1\r\nhost: t\r\nupgrade: h2c\r\nconnection: upgrade, http2-settings\r\nhttp2-settings: x\r\n\r\n", &["!http2-settings", "!upgrade: h2c"]),
    passes("9110 §10.1.4", "of TE, what is about trailers", "GET / HTTP/1.1\r\nhost: t\r\nte: gzip, trailers\r\nconnection: te\r\n\r\n", &["te: trailers", "!gzip"]),
    passes("9110 §11.7.2", "credentials for a proxy stop at it", "GET / HTTP/1.1\r\nhost: t\r\nproxy-authorization: x\r\n\r\n", &["!proxy-authorization"]),
    passes("9110 §7.7", "nothing is transformed", "GET / HTTP/1.1\r\nhost: t\r\naccept-encoding: br\r\nrange: bytes=0-1\r\nif-none-match: \"a\"\r\n\r\n", &["accept-encoding: br", "range: bytes=0-1", "if-none-match: \"a\""]),
    // Framing.
    refused("9112 §6.1", "a length beside chunks", "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    refused("9112 §6.1", "a coding that is not known", "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    refused("9112 §6.1", "chunks in HTTP/1.0", "POST / HTTP/1.0\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    refused("9112 §6.3", "two lengths", "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi", 400),
    refused("9112 §6.3", "a length that is no number", "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2x\r\n\r\nhi", 400),
    refused("9110 §8.6", "a length beyond all numbers", "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 99999999999999999999\r\n\r\nhi", 400),
    passes("9112 §7.1.1", "extensions of chunks are read over", "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2;a=b;c=\"d\"\r\nhi\r\n0;e\r\n\r\n", &["transfer-encoding: chunked"]),
    passes("9112 §7.1.2", "trailers are read over, or passed", "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n", &["!x-sum: 1"]),
    passes("9112 §7", "the name of a coding has no case", "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\n", &["transfer-encoding: chunked"]),
    // Expectations.
    Case { section: "9110 §10.1.1", what: "a client of HTTP/1.0 is told no interim answer", request: "POST / HTTP/1.0\r\nhost: t\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\nhi", seen: &["content-length: 2"], endpoint: OK, status: 200, headers: &[], body: "ok", then: Closes },
    // Answers.
    answered("9112 §4", "a status needs no words", "HTTP/1.1 200\r\ncontent-length: 2\r\n\r\nok", 200, &[], "ok"),
    answered("9110 §15", "a status that nobody knows is passed on", "HTTP/1.1 299 Odd\r\ncontent-length: 2\r\n\r\nok", 299, &[], "ok"),
    answered("9110 §15", "one that is none is not", "HTTP/1.1 099 x\r\ncontent-length: 2\r\n\r\nok", 502, &["x-trimtab-reason: upstream_protocol_error"], "*"),
    answered("9110 §15.2", "an interim answer is not the answer", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", 200, &["!link"], "ok"),
    answered("9110 §15.2.2", "nobody is switched who did not ask", "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 502, &[], "*"),
    answered("9110 §8.6", "204 has no length", "HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", 204, &["!content-length", "!transfer-encoding"], ""),
    answered("9112 §6.3", "304 has no body", "HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\n\r\n", 304, &["etag: \"a\"", "!transfer-encoding"], ""),
    to_head("9110 §9.3.2", "HEAD is told the length of what it does not get", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", &["content-length: 5"]),
    to_head("9112 §6.3", "and no chunk", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &[]),
    answered("9112 §6.3", "an answer without a length ends with its connection", "HTTP/1.1 200 OK\r\n\r\nok<close>", 200, &["transfer-encoding: chunked"], "ok"),
    answered("9112 §6.3", "one with two is not believed", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nok", 502, &["x-trimtab-reason: upstream_protocol_error"], "*"),
    answered("9112 §6.3", "nor one with none that is a number", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok", 502, &["x-trimtab-reason: upstream_protocol_error"], "*"),
    answered("9112 §6.3", "chunks come before a length", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n<close>", 200, &["!content-length"], "ok"),
    answered("9112 §6.1", "an answer in a coding that is not known is not believed", "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nok<close>", 502, &[], "*"),
    answered("9112 §5.2", "a folded line of an answer is not believed", "HTTP/1.1 200 OK\r\nx-a: 1\r\n 2\r\ncontent-length: 2\r\n\r\nok<close>", 502, &[], "*"),
    answered("9112 §7.1.1", "extensions of chunks are read over", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;a\r\nok\r\n0\r\n\r\n", 200, &[], "ok"),
    answered("9110 §7.6.1", "fields of one hop stop here, too", "HTTP/1.1 200 OK\r\nconnection: x-a\r\nx-a: 1\r\nkeep-alive: 5\r\ncontent-length: 2\r\n\r\nok", 200, &["!x-a", "!keep-alive"], "ok"),
    answered("9110 §6.6.1", "an answer without a date gets one", OK, 200, &["date: *"], "ok"),
    answered("9110 §6.6.1", "and keeps its own", "HTTP/1.1 200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\ncontent-length: 2\r\n\r\nok", 200, &["date: sun, 06 nov 1994 08:49:37 gmt"], "ok"),
    answered("9110 §5.3", "cookies that are set are not joined", "HTTP/1.1 200 OK\r\nset-cookie: a=1\r\nset-cookie: b=2\r\ncontent-length: 2\r\n\r\nok", 200, &["set-cookie: a=1", "set-cookie: b=2"], "ok"),
    answered("9110 §10.2.4", "an endpoint's name is its own", "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 2\r\n\r\nok", 200, &["server: x"], "ok"),
    Case { section: "9112 §8", what: "an answer that breaks off is none", request: "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n", seen: &["post / http/1.1"], endpoint: "HTTP/1.1 200 OK\r\ncontent-len<close>", status: 502, headers: &[], body: "*", then: Stays },
    answered("9112 §2.3", "an endpoint of HTTP/1.0 is understood", "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok<close>", 200, &[], "ok"),
    // Connections.
    Case { section: "9112 §9.6", what: "who asks to close is told so", request: "GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n", seen: &["!connection: close"], endpoint: OK, status: 200, headers: &["connection: close"], body: "ok", then: Closes },
    Case { section: "9112 §9.3", what: "HTTP/1.0 closes", request: "GET / HTTP/1.0\r\nhost: t\r\n\r\n", seen: &["get / http/1.1"], endpoint: OK, status: 200, headers: &[], body: "ok", then: Closes },
    Case { section: "9112 §9.3", what: "unless it asks to stay", request: "GET / HTTP/1.0\r\nhost: t\r\nconnection: keep-alive\r\n\r\n", seen: &["get / http/1.1"], endpoint: OK, status: 200, headers: &["connection: keep-alive"], body: "ok", then: Stays },
    Case { section: "9112 §6.1", what: "a client of HTTP/1.0 gets no chunks", request: "GET / HTTP/1.0\r\nhost: t\r\n\r\n", seen: &["get / http/1.1"], endpoint: "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", status: 200, headers: &["!transfer-encoding"], body: "ok", then: Closes },
    answered("9112 §9.6", "that an endpoint closes is not the client's matter", "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok<close>", 200, &["!connection"], "ok"),
];

/// What the endpoint answers next, and the heads that it got.
#[derive(Default)]
struct Script {
    answer: &'static str,
    heads: Vec<String>,
}

/// Reads a request to its end; its head.
async fn request_of(stream: &mut TcpStream, rest: &mut Vec<u8>) -> Option<String> {
    let position = |bytes: &[u8], end: &[u8]| bytes.windows(end.len()).position(|window| window == end);
    let end = loop {
        if let Some(end) = position(rest, b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(rest).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(rest.drain(..end).collect()).unwrap().to_ascii_lowercase();
    if let Some((_, length)) = head.split_once("\r\ncontent-length: ") {
        let length: usize = length.split("\r\n").next()?.parse().unwrap();
        while rest.len() < length {
            if stream.read_buf(rest).await.ok()? == 0 {
                return None;
            }
        }
        rest.drain(..length);
    } else if head.contains("\r\ntransfer-encoding: chunked\r\n") {
        let end = loop {
            if let Some(end) = position(rest, b"0\r\n\r\n") {
                break end + 5;
            }
            if stream.read_buf(rest).await.ok()? == 0 {
                return None;
            }
        };
        rest.drain(..end);
    }
    Some(head)
}

async fn endpoint(script: Arc<Mutex<Script>>) -> RawBackend {
    RawBackend::new(move |mut stream, _| {
        let script = script.clone();
        async move {
            stream.set_nodelay(true).unwrap();
            let mut rest = Vec::new();
            while let Some(head) = request_of(&mut stream, &mut rest).await {
                let mut answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nafter";
                if !head.starts_with("get /after ") {
                    let mut script = script.lock().unwrap();
                    script.heads.push(head);
                    answer = script.answer;
                }
                let (bytes, closes) = answer.split_once("<close>").map_or((answer, false), |(bytes, _)| (bytes, true));
                if stream.write_all(bytes.as_bytes()).await.is_err() || closes {
                    return;
                }
            }
        }
    })
    .await
}

async fn play(case: &Case, proxy: &Proxy, script: &Mutex<Script>) -> Result<(), String> {
    *script.lock().unwrap() = Script { answer: case.endpoint, heads: Vec::new() };
    let mut raw = proxy.raw().await;
    raw.write(case.request).await;
    let answer = if case.request.starts_with("HEAD ") { raw.head().await } else { raw.answer().await };
    let mut wrong = Vec::new();
    if answer.status != case.status {
        wrong.push(format!("answered {}", answer.status));
    }
    if case.body != "*" && answer.body != case.body {
        wrong.push(format!("body {:?}", answer.body));
    }
    let lines: Vec<String> =
        answer.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_ascii_lowercase())).collect();
    let there = |lines: &[String], wanted: &str| match wanted.strip_suffix('*') {
        Some(start) => lines.iter().any(|line| line.starts_with(start)),
        None => lines.iter().any(|line| line == wanted),
    };
    let named =
        |lines: &[String], name: &str| lines.iter().any(|line| line == name || line.starts_with(&format!("{name}:")));
    let mut check = |what: &str, lines: &[String], wanted: &[&str]| {
        for text in wanted {
            let holds = match text.strip_prefix('!') {
                Some(name) => !named(lines, name) && !lines.iter().any(|line| line == name),
                None => there(lines, text),
            };
            if !holds {
                wrong.push(format!("{what}: {text:?} in {lines:#?}"));
            }
        }
    };
    check("the answer", &lines, case.headers);
    match case.then {
        Closes => {
            let (rest, _) = raw.rest().await;
            if !rest.is_empty() {
                check("what follows", &[String::from_utf8_lossy(&rest).into_owned()], &["nothing"]);
            }
        }
        Stays => {
            raw.write("GET /after HTTP/1.1\r\nhost: t\r\n\r\n").await;
            let after = raw.answer().await;
            if after.body != "after" {
                check("the next answer", &[format!("{after:?}")], &["after"]);
            }
        }
    }
    let heads = script.lock().unwrap().heads.clone();
    let got: Vec<String> = heads.iter().flat_map(|head| head.lines().map(str::to_owned)).collect();
    if case.seen.is_empty() && !got.is_empty() {
        check("the endpoint", &got, &["nothing"]);
    }
    if !case.seen.is_empty() && heads.len() != 1 {
        check("the endpoint", &got, &["one request"]);
    }
    check("the endpoint", &got, case.seen);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n  ")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_section_of_the_list_holds_on_both_paths() {
    let script: Arc<Mutex<Script>> = Arc::default();
    let backend = endpoint(script.clone()).await;
    let mut failed = Vec::new();
    for fast_path in [true, false] {
        // Answers that are not believed must not eject the one endpoint.
        let setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
            let off = trimtab_proxy::api::v1::OutlierDetection { disabled: true, ..Default::default() };
            backend.outlier_detection = Some(off);
        });
        let proxy = setup.start().await;
        for case in CASES {
            if let Err(wrong) = play(case, &proxy, &script).await {
                failed.push(format!("{} {} (fast path {fast_path}): {wrong}", case.section, case.what));
            }
        }
    }
    assert!(CASES.len() >= 70, "{}", CASES.len());
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), 2 * CASES.len(), failed.join("\n"));
}

/// The list in the docs has every case, and no other.
#[test]
fn the_docs_have_the_list() {
    let docs = include_str!("../../../docs/conformance.md");
    let rows: Vec<&str> = docs.lines().filter(|line| line.starts_with("| 91") || line.starts_with("| 39")).collect();
    let expected: Vec<String> = CASES.iter().map(|case| format!("| {} | {} |", case.section, case.what)).collect();
    assert_eq!(rows, expected, "docs/conformance.md should have these rows:\n{}", expected.join("\n"));
}
