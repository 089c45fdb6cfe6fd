//! Scraping a real HTTP server that behaves, and many that do not.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use trimtab_model::observation::EndpointKey;

use super::*;
use crate::fixtures;
use crate::gateway::ScrapeSettings;
use crate::policy::MetricNames;
use crate::scrape::TextError;

const GOOD: &str = "http_requests_in_flight 3\nhttp_requests_total 100\n";
const INTERVAL: Duration = Duration::from_millis(400);

type Body = BoxBody<Bytes, Infallible>;

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

/// A piece again and again: `times` times, a millisecond apart, or for ever.
fn pieces(piece: &'static [u8], times: usize) -> Body {
    let stream = futures_util::stream::unfold(0, move |sent| async move {
        if sent == times {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        Some((Ok(Frame::data(Bytes::from_static(piece))), sent + 1))
    });
    BodyExt::boxed(StreamBody::new(stream))
}

/// A server whose path says how it misbehaves.
async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = hyper::service::service_fn(|request: Request<Incoming>| async move {
                let body = match request.uri().path() {
                    "/good" => whole(GOOD),
                    "/truncated" => whole("http_requests_in_flight 3\nhttp_requests_total 10"),
                    "/nan" => whole("http_requests_in_flight NaN\nhttp_requests_total 100\n"),
                    "/binary" => whole(vec![0xff; 4000]),
                    "/empty" => whole(""),
                    "/million" => whole("a 1\n".repeat(1_000_000)),
                    "/huge" => whole(vec![b'\n'; 5 << 20]),
                    "/huge-in-pieces" => pieces(&[b'\n'; 1 << 18], 100),
                    "/slow" => {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        whole(GOOD)
                    }
                    "/endless" => pieces(b"# still here\n", usize::MAX),
                    _ => return Ok(Response::builder().status(404).body(whole("")).unwrap()),
                };
                Ok::<_, Infallible>(Response::new(body))
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service));
        }
    });
    address
}

async fn fetch(address: SocketAddr, path: &str) -> Result<super::super::Readings, ScrapeError> {
    let url = format!("http://{address}{path}").parse().unwrap();
    Fetcher::default().fetch(&url, &Lexicon::new(&MetricNames::default()), INTERVAL).await
}

#[tokio::test]
async fn every_kind_of_bad_answer_is_told_apart_and_takes_no_longer_than_the_interval() {
    let address = serve().await;
    let cases = [
        ("/binary", ScrapeError::Text(TextError::NotMetrics)),
        ("/empty", ScrapeError::Text(TextError::NotMetrics)),
        ("/million", ScrapeError::Text(TextError::Lines)),
        ("/huge", ScrapeError::Size),
        ("/slow", ScrapeError::Timeout(INTERVAL)),
        ("/endless", ScrapeError::Timeout(INTERVAL)),
        ("/nothing-here", ScrapeError::Status(http::StatusCode::NOT_FOUND)),
    ];
    for (path, error) in cases {
        let started = clock::now().instant;
        assert_eq!(fetch(address, path).await, Err(error), "{path}");
        assert!(started.elapsed() < INTERVAL * 2, "{path}");
    }
    let pieces = fetch(address, "/huge-in-pieces").await.unwrap_err();
    assert!(matches!(pieces, ScrapeError::Size | ScrapeError::Text(TextError::Lines)), "{pieces}");
    assert_eq!(fetch(address, "/good").await.unwrap().ignored, None);
    for path in ["/truncated", "/nan"] {
        assert!(fetch(address, path).await.unwrap().ignored.is_some(), "{path}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_or_breaks_off_is_a_connection_error() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = fetch(free, "/good").await.unwrap_err();
    assert!(matches!(&error, ScrapeError::Connection(text) if text.contains("refused")), "{error}");

    for answer in
        [&b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhttp_requests_total 1\n"[..], b"garbage\r\n\r\n", b""]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = [0; 1000];
            tokio::io::AsyncReadExt::read(&mut socket, &mut request).await.unwrap();
            socket.write_all(answer).await.unwrap();
        });
        let error = fetch(address, "/good").await.unwrap_err();
        assert!(matches!(error, ScrapeError::Connection(_)), "{error}");
    }
}

#[tokio::test]
async fn endpoints_are_scraped_as_configured_and_no_longer_when_gone() {
    let address = serve().await;
    let mut spec = fixtures::backend("a/b:80", 3);
    spec.scrape = Some(ScrapeSettings { interval: Duration::from_millis(100), names: MetricNames::default() });
    let url = |path: &str| Some(format!("http://{address}{path}").parse().unwrap());
    Arc::make_mut(&mut spec.endpoints[0]).scrape_url = url("/good");
    Arc::make_mut(&mut spec.endpoints[1]).scrape_url = url("/slow");
    let config = Config { backends: vec![Arc::new(spec)], ..Default::default() };
    let (sender, mut results) = mpsc::channel(100);
    let mut scraper = Scraper::new(sender);
    scraper.follow(&config);

    let (mut good, mut slow) = (0, 0);
    let started = clock::now().instant;
    while good < 3 || slow < 2 {
        let result = tokio::time::timeout(Duration::from_secs(5), results.recv()).await.unwrap().unwrap();
        match result.numbers {
            Ok(numbers) => {
                assert_eq!(result.key, EndpointKey(0xA000));
                assert_eq!(numbers.in_flight.map(|number| number.value), Some(3.0));
                good += 1;
                // No rate at the first scrape, and none completed since.
                assert_eq!(numbers.completed_rps.map(|number| number.value), (good > 1).then_some(0.0));
            }
            Err(error) => {
                assert_eq!(
                    (result.key, error),
                    (EndpointKey(0xA001), ScrapeError::Timeout(Duration::from_millis(100)))
                );
                slow += 1;
            }
        }
    }
    assert!(started.elapsed() < Duration::from_secs(3), "the slow one delays nobody");

    scraper.follow(&Config::default());
    tokio::time::sleep(Duration::from_millis(50)).await;
    while results.try_recv().is_ok() {}
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(results.try_recv().is_err());
}

#[tokio::test]
async fn with_more_endpoints_than_can_be_scraped_in_time_each_is_scraped_less_often() {
    let address = serve().await;
    let mut spec = fixtures::backend("a/b:80", 600);
    spec.scrape = Some(ScrapeSettings { interval: Duration::from_millis(100), names: MetricNames::default() });
    for endpoint in &mut spec.endpoints {
        Arc::make_mut(endpoint).scrape_url = Some(format!("http://{address}/good").parse().unwrap());
    }
    let (sender, mut results) = mpsc::channel(100);
    let mut scraper = Scraper::new(sender);
    scraper.follow(&Config { backends: vec![Arc::new(spec.clone())], ..Default::default() });
    assert!((scraper.stretch.get() - 6000.0 / SCRAPES_PER_S_MAX).abs() < 1e-9, "{}", scraper.stretch.get());
    // The first scrape of each does not wait for the pace.
    let mut seen = std::collections::HashSet::new();
    while seen.len() < 600 {
        let result = tokio::time::timeout(Duration::from_secs(20), results.recv()).await.unwrap().unwrap();
        seen.insert(result.key);
    }
    spec.endpoints.truncate(10);
    scraper.follow(&Config { backends: vec![Arc::new(spec)], ..Default::default() });
    assert_eq!(scraper.stretch.get(), 1.0);
    assert_eq!(scraper.backends["a/b:80"].running.len(), 10);
}

#[tokio::test]
async fn scrapes_go_on_where_nothing_that_they_depend_on_is_different() {
    let mut spec = fixtures::backend("a/b:80", 4);
    spec.scrape = Some(ScrapeSettings { interval: Duration::from_secs(5), names: MetricNames::default() });
    let url = |number: usize| Some(format!("http://10.0.0.{number}/metrics").parse().unwrap());
    for (number, endpoint) in spec.endpoints.iter_mut().enumerate() {
        Arc::make_mut(endpoint).scrape_url = url(number);
    }
    let (sender, _results) = mpsc::channel(1);
    let mut scraper = Scraper::new(sender);
    let keys: Vec<EndpointKey> = spec.endpoints.iter().map(|endpoint| endpoint.key).collect();
    let mut follow = |spec: &BackendSpec| {
        scraper.follow(&Config { backends: vec![Arc::new(spec.clone())], ..Default::default() });
        let running = &scraper.backends["a/b:80"].running;
        keys.iter().map(|key| running.get(key).map(|running| running._scrapes.abort_handle().id())).collect::<Vec<_>>()
    };
    let first = follow(&spec);
    assert!(first.iter().all(Option::is_some));

    // One says something else of itself, one is elsewhere, and one is gone.
    Arc::make_mut(&mut spec.endpoints[1]).restarts = Some(7);
    Arc::make_mut(&mut spec.endpoints[2]).scrape_url = url(20);
    spec.endpoints.pop();
    let second = follow(&spec);
    assert_eq!((second[0], second[1]), (first[0], first[1]));
    assert!(second[2].is_some() && second[2] != first[2]);
    assert_eq!(second[3], None);

    spec.scrape = Some(ScrapeSettings { interval: Duration::from_secs(6), names: MetricNames::default() });
    let third = follow(&spec);
    assert!((0..3).all(|at| third[at].is_some() && third[at] != second[at]));
}
