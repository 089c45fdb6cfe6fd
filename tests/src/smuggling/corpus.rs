//! The cases. Each is a request line, headers and a body in which a request for `/smuggled-N` stands where some reader ends the body too early;
//! `N` is the case's number, by which its traces are found. None of them may end in two requests, and none may come out as it went in.

/// One case.
#[derive(Debug, Clone)]
pub struct Case {
    /// For the table.
    pub category: &'static str,
    /// With `{n}` where its number goes and `{s}` where the smuggled request goes.
    text: String,
    /// That a reader takes what follows the head for another request is right: nothing says that there is a body.
    pub pipelined: bool,
}

impl Case {
    /// What is sent for it, as number `number`.
    pub fn bytes(&self, number: usize) -> Vec<u8> {
        let smuggled = format!("GET /smuggled-{number} HTTP/1.1\r\nHost: t\r\n\r\n");
        self.text.replace("{s}", &smuggled).replace("{n}", &number.to_string()).into_bytes()
    }
}

fn case(category: &'static str, text: impl Into<String>) -> Case {
    Case { category, text: text.into(), pipelined: false }
}

/// A POST with these header lines, each of which brings its own end, and this body.
fn post(category: &'static str, headers: &str, body: &str) -> Case {
    case(category, format!("POST /case-{{n}} HTTP/1.1\r\nHost: t\r\n{headers}\r\n{body}"))
}

/// Spellings of `Transfer-Encoding` that some take for `chunked` and others do not.
const CODINGS: &[&str] = &[
    "xchunked",
    "chunkedx",
    "chunked, identity",
    "identity, chunked",
    "gzip, chunked",
    "chunked, gzip",
    "chunked, chunked",
    ",chunked",
    "chunked,",
    "\x0bchunked",
    "\"chunked\"",
    "'chunked'",
    "chunked;q=1",
    "chu nked",
    "",
    "identity",
    "cow",
    "\\chunked",
    "chunked\u{a0}",
    "{chunked}",
    "chunked\x0c",
    "chunked\x01",
    "deflate",
    "compress, chunked",
];

/// Values of `Content-Length` that are no number to some.
const LENGTHS: &[&str] = &[
    "+5",
    "-5",
    "0x5",
    "5,5",
    "5, 5",
    "5, 6",
    "5;5",
    "5.0",
    "5e0",
    "\u{ff15}",
    "",
    "five",
    "18446744073709551621",
    "99999999999999999999999",
    "\x0b5",
    "5 5",
    "_5",
    "0_5",
    "5\x0c",
    "'5'",
    "5\u{a0}",
    "0x0",
    "--5",
    "5+",
];

/// Chunks that break their framing in one way or another, each followed by a request that some reader finds.
const CHUNKS: &[&str] = &[
    "0x5\r\nhello\r\n0\r\n\r\n{s}",
    "+5\r\nhello\r\n0\r\n\r\n{s}",
    "-5\r\nhello\r\n0\r\n\r\n{s}",
    " 5\r\nhello\r\n0\r\n\r\n{s}",
    "5\nhello\r\n0\r\n\r\n{s}",
    "5\r\nhello\n0\r\n\r\n{s}",
    "5\rhello\r\n0\r\n\r\n{s}",
    "5\r\nhello0\r\n\r\n{s}",
    "5\r\nhelloXX0\r\n\r\n{s}",
    "5\r\nhel\r\n0\r\n\r\n{s}",
    "zz\r\nhello\r\n0\r\n\r\n{s}",
    "\r\nhello\r\n0\r\n\r\n{s}",
    "100000000000000005\r\nhello\r\n0\r\n\r\n{s}",
    "fffffffffffffffff\r\nhello\r\n0\r\n\r\n{s}",
    "5;\0\r\nhello\r\n0\r\n\r\n{s}",
    "5;a\nb\r\nhello\r\n0\r\n\r\n{s}",
    "5;a\rb\r\nhello\r\n0\r\n\r\n{s}",
    "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n{s}",
    "5,5\r\nhello\r\n0\r\n\r\n{s}",
    "5_\r\nhello\r\n0\r\n\r\n{s}",
    "5\r\nhello\r\n0\n\r\n{s}",
    "5\r\nhello\r\n0\r\n\n{s}",
    "5\r\nhello\r\n0\r\nX\r\n\r\n{s}",
    "5\r\nhello\r\n0\r\n X: y\r\n\r\n{s}",
    "5\r\nhello\r\n0\r\nX : y\r\n\r\n{s}",
    "5\r\nhello\r\n0\r\nX: y\n\r\n{s}",
    "5.0\r\nhello\r\n0\r\n\r\n{s}",
    "5h\r\nhello\r\n0\r\n\r\n{s}",
    "\u{ff15}\r\nhello\r\n0\r\n\r\n{s}",
    "\"5\"\r\nhello\r\n0\r\n\r\n{s}",
];

/// Header lines that hide a framing header from some readers. Each stands beside a `Content-Length` that says otherwise.
const HIDDEN: &[&str] = &[
    "Transfer-Encoding : chunked\r\n",
    "Transfer-Encoding\t: chunked\r\n",
    " Transfer-Encoding: chunked\r\n",
    "\tTransfer-Encoding: chunked\r\n",
    "X: y\r\n Transfer-Encoding: chunked\r\n",
    "X: y\nTransfer-Encoding: chunked\r\n",
    "X: y\rTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding:\r\n chunked\r\n",
    "Transfer-Encoding: chunked\n",
    "Transfer-Encoding\x0b: chunked\r\n",
    "Transfer-Encoding\0: chunked\r\n",
    "\0Transfer-Encoding: chunked\r\n",
    "Transfer Encoding: chunked\r\n",
    "Transfer-Encoding: chun\0ked\r\n",
    "X: a\0b\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding chunked\r\n",
    ": chunked\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding\r\n: chunked\r\n",
    "Transfer-Encoding;: chunked\r\n",
    "Transfer-Encoding\u{a0}: chunked\r\n",
    "X: y\r\rTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: chunked\r\r\n",
    "(Transfer-Encoding): chunked\r\n",
    "\"Transfer-Encoding\": chunked\r\n",
];

/// Request lines, and lines after them, that are read differently.
const LINES: &[&str] = &[
    "GET  /case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n}  HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET\t/case-{n}\tHTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1 \r\nHost: t\r\n\r\n",
    " GET /case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\r\n\n{s}",
    "GET /case-{n}\0 HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} http/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.10\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/01.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/9.9\r\nHost: t\r\n\r\n",
    "GET /case-{n} x HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n}\rHTTP/1.1\r\nHost: t\r\n\r\n",
    "GET case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "G\x00T /case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\rHost: t\r\n\r\n",
    "GE T /case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n}\u{b}HTTP/1.1\r\nHost: t\r\n\r\n",
];

/// Who is meant: hosts that are none, or two.
const HOSTS: &[&str] = &[
    "GET /case-{n} HTTP/1.1\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\r\nHost: u\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t u\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: u@t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t/u\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t#u\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost : t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\n Host: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\r\n u\r\n\r\n",
    "GET http://t/case-{n} HTTP/1.1\r\nHost: u\r\n\r\n",
    "GET http://t:81/case-{n} HTTP/1.1\r\nHost: t:82\r\n\r\n",
    "GET http://u@t/case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET ftp://t/case-{n} HTTP/1.1\r\nHost: t\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\0u\r\n\r\n",
    "GET /case-{n} HTTP/1.1\r\nHost: t\rHost: u\r\n\r\n",
];

/// All of them.
pub fn cases() -> Vec<Case> {
    // Chunked, this ends at the 0; by its length of 5 it goes on with what follows the first five bytes, which begins no request.
    const EARLY: &str = "0\r\n\r\n{s}";
    let mut cases = Vec::new();
    for coding in ["chunked", "Chunked", " chunked ", "\tchunked"] {
        for headers in [
            format!("Content-Length: 60\r\nTransfer-Encoding:{coding}\r\n"),
            format!("Transfer-Encoding:{coding}\r\nContent-Length: 60\r\n"),
            format!("Content-Length: 0\r\nTransfer-Encoding:{coding}\r\n"),
        ] {
            cases.push(post("length and chunked", &headers, EARLY));
        }
    }
    for coding in CODINGS {
        cases.push(post("odd transfer coding", &format!("Transfer-Encoding: {coding}\r\n"), EARLY));
        let both = format!("Content-Length: 60\r\nTransfer-Encoding: {coding}\r\n");
        cases.push(post("odd transfer coding and length", &both, EARLY));
    }
    for (one, two) in [
        ("chunked", "chunked"),
        ("chunked", "identity"),
        ("identity", "chunked"),
        ("gzip", "chunked"),
        ("chunked", "x"),
    ] {
        let twice = format!("Transfer-Encoding: {one}\r\nTransfer-Encoding: {two}\r\n");
        cases.push(post("transfer coding twice", &twice, EARLY));
        cases.push(post("transfer coding twice", &format!("Content-Length: 60\r\n{twice}"), EARLY));
    }
    cases.push(case(
        "transfer coding twice",
        "POST /case-{n} HTTP/1.0\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{s}",
    ));
    for length in LENGTHS {
        cases.push(post("odd length", &format!("Content-Length: {length}\r\n"), "hello{s}"));
    }
    for (one, two) in [("5", "5"), ("5", "6"), ("5", "0"), ("0", "5"), ("5", "x"), ("x", "5")] {
        cases.push(post("length twice", &format!("Content-Length: {one}\r\nContent-Length: {two}\r\n"), "hello{s}"));
        cases.push(post(
            "length twice",
            &format!("Content-Length: {one}\r\nX: y\r\ncontent-length: {two}\r\n"),
            "hello{s}",
        ));
    }
    for hidden in HIDDEN {
        cases.push(post("hidden header", &format!("Content-Length: 60\r\n{hidden}"), EARLY));
    }
    for chunks in CHUNKS {
        cases.push(post("broken chunks", "Transfer-Encoding: chunked\r\n", chunks));
    }
    cases.extend(LINES.iter().map(|text| Case { pipelined: true, ..case("odd lines", *text) }));
    cases.extend(HOSTS.iter().map(|text| case("odd hosts", *text)));
    cases
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn there_are_many_and_no_two_are_alike() {
        let all: BTreeSet<Vec<u8>> = cases().iter().map(|case| case.bytes(7)).collect();
        assert!(all.len() >= 150, "{} cases", all.len());
        assert_eq!(all.len(), cases().len());
    }
}
