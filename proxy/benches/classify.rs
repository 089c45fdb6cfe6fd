//! What telling a request's kind costs: it is done once for each request. Compare with `pick`.

use divan::Bencher;
use http::{HeaderName, Request, request};
use trimtab_proxy::class::identity;

fn main() {
    divan::main();
}

fn head(target: &str) -> request::Parts {
    let request = Request::get(target)
        .header("host", "shop.example.org")
        .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0")
        .header("accept", "application/json")
        .header("content-type", "application/json");
    request.body(()).expect("a request").into_parts().0
}

/// The shortest path there is, a usual one, and the longest of which every segment is read.
const TARGETS: [&str; 3] = [
    "/",
    "/api/v1/users/550e8400-e29b-41d4-a716-446655440000/orders/12345678",
    "/some-long-names-of-segments/that-say-what-it-is/and-go-on-and/on-until-eight-of-them/have-been-read-by/the-proxy-that-looks/at-each-byte-of/every-single-one?a=b",
];

#[divan::bench(args = [0, 1, 2])]
fn classify(bencher: Bencher<'_, '_>, target: usize) {
    let head = head(TARGETS[target]);
    bencher.bench_local(|| identity::classify(divan::black_box(&head), Some(0), None));
}

/// With a header that goes before the path, where the request does not have it.
#[divan::bench]
fn classify_with_header(bencher: Bencher<'_, '_>) {
    let (head, header) = (head(TARGETS[1]), HeaderName::from_static("x-request-class"));
    bencher.bench_local(|| identity::classify(divan::black_box(&head), Some(0), Some(&header)));
}

/// For the few that are sampled.
#[divan::bench]
fn name_of(bencher: Bencher<'_, '_>) {
    let head = head(TARGETS[1]);
    bencher.bench_local(|| identity::name_of(divan::black_box(&head), Some(0), None));
}
