//! The same bytes to two proxies, one with the fast path and one with hyper alone: clients must get the same answers, and endpoints the same
//! requests. A failure prints the bytes; the random cases come from a seed that it prints too.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::harness::{Proxy, RawBackend, Setup};

/// One message as it can be compared: first line, headers by name, body, and whether it came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    first: String,
    headers: BTreeMap<String, Vec<String>>,
    body: Vec<u8>,
    whole: bool,
}

/// What stays of a stream of messages.
struct Reader {
    bytes: Vec<u8>,
    at: usize,
}

impl Reader {
    fn line(&mut self) -> Option<String> {
        let rest = &self.bytes[self.at..];
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let line = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.at += end + 2;
        Some(line)
    }

    fn take(&mut self, length: usize) -> (Vec<u8>, bool) {
        let end = (self.at + length).min(self.bytes.len());
        let taken = self.bytes[self.at..end].to_vec();
        let whole = taken.len() == length;
        self.at = end;
        (taken, whole)
    }

    /// The next message. `bodiless` says of which first lines no body follows; without a length one follows until the end if `until_end`.
    fn message(&mut self, bodiless: impl Fn(&str) -> bool, until_end: bool) -> Option<Message> {
        let first = self.line()?;
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        loop {
            let Some(line) = self.line() else {
                return Some(Message { first, headers, body: Vec::new(), whole: false });
            };
            let Some((name, value)) = line.split_once(": ") else { break };
            assert_eq!(name, name.to_ascii_lowercase(), "both write names in lower case");
            let value = match name {
                "date" | "x-request-id" => "any".to_owned(),
                // The fast path writes lengths anew from their values.
                "content-length" => value.parse::<u64>().unwrap().to_string(),
                _ => value.to_owned(),
            };
            headers.entry(name.to_owned()).or_default().push(value);
        }
        let length = headers.get("content-length").map(|lengths| lengths[0].parse().unwrap());
        let (body, whole) = if bodiless(&first) {
            (Vec::new(), true)
        } else if headers.contains_key("transfer-encoding") {
            self.chunks()
        } else if let Some(length) = length {
            self.take(length)
        } else if until_end {
            self.take(self.bytes.len() - self.at)
        } else {
            (Vec::new(), true)
        };
        Some(Message { first, headers, body, whole })
    }

    fn chunks(&mut self) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.line().and_then(|line| usize::from_str_radix(&line, 16).ok()) else {
                return (body, false);
            };
            let (part, whole) = self.take(size);
            body.extend(part);
            if !whole || self.line().as_deref() != Some("") {
                return (body, false);
            }
            if size == 0 {
                return (body, true);
            }
        }
    }
}

/// Answers by the number in `x-answer`: what an endpoint may say, and whether it closes after it.
const ANSWERS: &[(&[u8], bool)] = &[
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
    (b"HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: 1\r\nX-A: 2\r\nDate: now\r\nServer: s\r\n\r\nok", false),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2;x=y\r\nok\r\n3\r\nay!\r\n0\r\nx-t: 1\r\n\r\n", false),
    (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", true),
    (b"HTTP/1.0 200 OK\r\n\r\nold", true),
    (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nold", true),
    (b"HTTP/1.1 204 No Content\r\nx: y\r\n\r\n", false),
    (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\netag: \"x\"\r\n\r\n", false),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 404 Nope\r\ncontent-length: 0\r\n\r\n", false),
    (b"HTTP/1.1 200 OK\r\nconnection: close, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\ncontent-length: 1\r\n\r\nx", true),
    (b"HTTP/1.1 200 OK\r\nendpoint-load-metrics: TEXT named_metrics.in_flight=1\r\ncontent-length: 1\r\n\r\nx", false),
    (b"HTTP/1.1 299 \r\nx: caf\xe9\r\ncontent-length: 1\r\n\r\nx", false),
    (b"HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 0\r\n\r\n", false),
    // Broken in one way or another.
    (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nok", true),
    (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nok", true),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", true),
    (b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", true),
    (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", true),
    (b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", true),
    (b"HTTP/1.1 200 OK\r\nx : y\r\n\r\n", true),
    (b"HTTP/1.1 099 OK\r\n\r\n", true),
    (b"\x16\x03\x01\x02\x00\r\n\r\n", true),
    (b"HTTP/1.1 200 OK\r\ncontent-le", true),
    (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n", true),
];

/// An endpoint that notes what it gets, and does as `x-answer` says.
async fn endpoint(seen: Arc<Mutex<Vec<Message>>>) -> RawBackend {
    RawBackend::new(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let mut bytes = Vec::new();
            let mut at = 0;
            loop {
                let mut reader = Reader { bytes: bytes.clone(), at };
                if let Some(message) = reader.message(|_| false, false).filter(|message| message.whole) {
                    at = reader.at;
                    let answer = message.headers.get("x-answer").and_then(|answer| answer[0].parse::<usize>().ok());
                    seen.lock().unwrap().push(message);
                    let (answer, closes) = ANSWERS.get(answer.unwrap_or_default()).copied().unwrap_or(ANSWERS[0]);
                    if stream.write_all(answer).await.is_err() || closes {
                        let _ = stream.shutdown().await;
                        // Not reset while the proxy may still be reading.
                        let mut rest = [0; 1024];
                        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
                        return;
                    }
                    continue;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        }
    })
    .await
}

/// A proxy and its endpoint.
struct Side {
    proxy: Proxy,
    _backend: RawBackend,
    /// What the endpoint got.
    seen: Arc<Mutex<Vec<Message>>>,
}

/// Two proxies, each with an endpoint of its own.
struct Pair {
    sides: Vec<Side>,
}

/// What became of a connection: the answers, whether the end was clean, and what the endpoint got.
type Outcome = (Vec<Message>, bool, Vec<Message>);

impl Pair {
    async fn start() -> Self {
        let mut sides = Vec::new();
        for fast_path in [true, false] {
            let seen: Arc<Mutex<Vec<Message>>> = Arc::default();
            let backend = endpoint(seen.clone()).await;
            let mut setup = Setup::to(&[backend.address]).fast_path(fast_path).backend(|backend| {
                // Broken answers are on purpose here.
                backend.outlier_detection =
                    Some(trimtab_proxy::api::v1::OutlierDetection { disabled: true, ..Default::default() });
            });
            setup.workers = 1;
            sides.push(Side { proxy: setup.start().await, _backend: backend, seen });
        }
        Self { sides }
    }

    /// Writes `parts` with a pause between them, and a last request that ends the connection.
    async fn outcomes(&self, parts: &[&[u8]]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for Side { proxy, seen, .. } in &self.sides {
            seen.lock().unwrap().clear();
            let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
            stream.set_nodelay(true).unwrap();
            const LAST: &[u8] = b"GET /last HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n";
            for (index, part) in parts.iter().enumerate() {
                if index > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                // In one piece, so that both read the same at once. A proxy that has closed already is heard below.
                let last = index + 1 == parts.len();
                let _ = stream.write_all(&[*part, if last { LAST } else { &[] }].concat()).await;
            }
            let mut bytes = Vec::new();
            let clean = loop {
                let read = tokio::time::timeout(Duration::from_secs(5), stream.read_buf(&mut bytes)).await;
                match read.unwrap_or_else(|_| panic!("no end: {}", show(parts))) {
                    Ok(0) => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            let text = parts.concat();
            let heads = text.windows(5).filter(|window| window == b"HEAD ").count();
            let mut reader = Reader { bytes, at: 0 };
            let mut answers = Vec::new();
            // Only cases with one request by HEAD, which comes first, can be read.
            let bodiless = |first: &str| [" 100 ", " 204 ", " 304 "].iter().any(|status| first.contains(status));
            while let Some(answer) = reader.message(|first| heads > 0 && answers.is_empty() || bodiless(first), true) {
                answers.push(answer);
            }
            let mut seen = seen.lock().unwrap().clone();
            // hyper's path sends what may be repeated once more when an answer breaks off within its head; the fast path does not.
            seen.dedup();
            outcomes.push((answers, clean, seen));
        }
        outcomes
    }

    async fn check(&self, parts: &[&[u8]]) {
        let outcomes = self.outcomes(parts).await;
        assert_eq!(outcomes[0], outcomes[1], "the fast path and hyper differ on {}", show(parts));
    }
}

fn show(parts: &[&[u8]]) -> String {
    parts.iter().map(|part| format!("{:?}", String::from_utf8_lossy(part))).collect::<Vec<_>>().join(" … ")
}

#[tokio::test]
async fn every_answer_of_an_endpoint_reaches_the_client_alike() {
    let pair = Pair::start().await;
    for number in 0..ANSWERS.len() {
        for (method, body) in [("GET", ""), ("HEAD", ""), ("POST", "content-length: 5\r\n\r\nhello")] {
            let end = if body.is_empty() { "\r\n" } else { "" };
            let request = format!("{method} /a?b HTTP/1.1\r\nhost: t\r\nx-answer: {number}\r\n{body}{end}");
            pair.check(&[request.as_bytes()]).await;
        }
    }
}

#[tokio::test]
async fn every_way_to_send_a_request_reaches_the_endpoint_alike() {
    let pair = Pair::start().await;
    for request in [
        "GET / HTTP/1.1\r\nHost: A.test:80\r\nAccept: */*\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nX-Forwarded-For: 192.0.2.1\r\nx-forwarded-for: 192.0.2.2\r\nVia: 1.1 a\r\nforwarded: for=x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nx-forwarded-proto: https\r\nx-forwarded-host: h\r\nx-request-id: mine\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nconnection: keep-alive\r\nkeep-alive: 5\r\nproxy-connection: x\r\nproxy-authorization: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nconnection: close\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nconnection: x-a\r\nx-a: 1\r\nx-b: 2\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nte: trailers\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: \r\n\r\n",
        "GET / HTTP/1.1\r\nhost: [::1]:8080\r\n\r\n",
        "GET http://t/x?y HTTP/1.1\r\nhost: t\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: t\r\n\r\n",
        "PURGE /x HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET //a/../b HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET /a#b HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET /?a=%00%ff HTTP/1.1\r\nhost: t\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nhost: t\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n1;x\r\n!\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx-sum: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nhost: t\r\n\r\nPOST / HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhiGET /x HTTP/1.1\r\nhost: t\r\nte: trailers\r\n\r\n",
    ] {
        pair.check(&[request.as_bytes()]).await;
        // In pieces: at each third of it.
        let (first, rest) = request.as_bytes().split_at(request.len() / 3);
        let (second, third) = rest.split_at(rest.len() / 2);
        pair.check(&[first, second, third]).await;
    }
}

#[tokio::test]
async fn what_is_ambiguous_is_refused_alike() {
    let pair = Pair::start().await;
    for request in [
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: +5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked \r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\nx: a\r\n folded\r\n\r\n",
        "GET / HTTP/1.1\r\nhost : t\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: u@t\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
        "GET / HTTP/1.1\nhost: t\n\n",
        "GET / HTTP/1.1\r\nhost: t\nx: y\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: t\r\n\n",
        "GET / HTTP/1.1\r\nhost: t\r\nx: a\0b\r\n\r\n",
        "GET /\0 HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET /  HTTP/1.1\r\nhost: t\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: t\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: t\r\n\r\n",
        "POST / HTTP/3.0\r\nhost: t\r\ncontent-length: 5\r\n\r\nhello",
        "GET x HTTP/1.1\r\nhost: t\r\n\r\n",
        "CONNECT t:80 HTTP/1.1\r\nhost: t:80\r\n\r\n",
    ] {
        let outcomes = pair.outcomes(&[request.as_bytes()]).await;
        assert_eq!(outcomes[0], outcomes[1], "the fast path and hyper differ on {request:?}");
        let (answers, _, seen) = &outcomes[0];
        assert!(seen.is_empty(), "{request:?} was forwarded: {seen:?}");
        assert!(
            answers.len() == 1 && answers[0].first.starts_with("HTTP/1.1 4")
                || answers[0].first.starts_with("HTTP/1.1 501")
                || answers[0].first.starts_with("HTTP/1.1 505")
        );
    }
}

#[tokio::test]
async fn chunks_that_break_their_framing_never_make_another_request() {
    let pair = Pair::start().await;
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "0\r\n\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "11111111111111111\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0\r\nx\r\n\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        for (answers, _, seen) in pair.outcomes(&[request.as_bytes()]).await {
            assert!(seen.is_empty(), "{body:?} was forwarded: {seen:?}");
            assert!(answers.iter().all(|answer| answer.first.starts_with("HTTP/1.1 400")), "{body:?}: {answers:?}");
        }
    }
}

/// A request made of parts that are mostly good, now and then with a byte put in or taken out.
fn random_request(rng: &mut SmallRng) -> Vec<u8> {
    const FIELDS: &[&str] = &[
        "accept: */*",
        "X-A: 1",
        "x-a:2",
        "via: 1.0 x",
        "connection: keep-alive",
        "connection: close",
        "connection: x-a",
        "te: trailers",
        "expect: 100-continue",
        "upgrade: h2c",
        "content-length: 3",
        "content-length: 0",
        "content-length: 03",
        "transfer-encoding: chunked",
        "transfer-encoding: identity",
        "host: other",
        "x-forwarded-for: 192.0.2.9",
        "trailer: x",
        "x: caf\u{e9}",
        "date: x",
    ];
    const BODIES: &[&str] = &["", "", "abc", "3\r\nabc\r\n0\r\n\r\n", "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", "0\r\n\r\n"];
    let method = ["GET", "GET", "POST", "PUT", "OPTIONS"].choose(rng).unwrap();
    let target = ["/", "/a/b?c", "/%41", "*", "http://t/", "/a b", "/\"", "//"].choose(rng).unwrap();
    let mut text = format!("{method} {target} HTTP/1.1\r\nhost: t\r\nx-answer: {}\r\n", rng.random_range(0..13));
    for _ in 0..rng.random_range(0..4) {
        text.push_str(FIELDS.choose(rng).unwrap());
        text.push_str(if rng.random_bool(0.97) { "\r\n" } else { "\n" });
    }
    text.push_str("\r\n");
    text.push_str(BODIES.choose(rng).unwrap());
    let mut bytes = text.into_bytes();
    if rng.random_bool(0.3) {
        let at = rng.random_range(0..bytes.len());
        match rng.random_range(0..3) {
            0 => bytes.insert(at, *b"\r\n\0 :x".choose(rng).unwrap()),
            1 => bytes[at] = *b"\r\n\0 :x".choose(rng).unwrap(),
            _ => drop(bytes.remove(at)),
        }
    }
    bytes
}

/// `TRIMTAB_SEED` replays a run, `TRIMTAB_CASES` makes it longer.
#[tokio::test]
async fn random_requests_fare_alike() {
    let number =
        |name: &str, default: u64| std::env::var(name).ok().and_then(|set| set.parse().ok()).unwrap_or(default);
    let (seed, cases) = (number("TRIMTAB_SEED", 1), number("TRIMTAB_CASES", 400));
    let pair = Pair::start().await;
    for case in seed..seed + cases {
        let mut rng = SmallRng::seed_from_u64(case);
        let first = random_request(&mut rng);
        let second = if rng.random_bool(0.3) { random_request(&mut rng) } else { Vec::new() };
        let outcomes = pair.outcomes(&[&[first.clone(), second.clone()].concat()]).await;
        assert_eq!(outcomes[0], outcomes[1], "TRIMTAB_SEED={case}: they differ on {}", show(&[&first, &second]));
    }
}
