//! What scraping costs: the text of 5,000 pods with 60 series each, twice a second. The goal is 250 ms a tick for all.

use std::time::{Duration, Instant};

use divan::Bencher;
use trimtab_controller::clock;
use trimtab_controller::policy::MetricNames;
use trimtab_controller::scrape::{Counters, Lexicon, Reader, rates};

const PODS: usize = 5000;

fn main() {
    divan::main();
}

/// 60 series as a Go service has them: 24 that are looked for, 36 of the runtime, and their HELP and TYPE lines.
fn body(requests: u64) -> String {
    let mut text = String::new();
    let mut family = |name: &str, kind: &str| {
        text.push_str(&format!(
            "# HELP {name} What {name} counts, in a sentence of usual length.\n# TYPE {name} {kind}\n"
        ));
    };
    family("http_requests_in_flight", "gauge");
    family("http_request_duration_seconds", "histogram");
    family("process_cpu_seconds_total", "counter");
    text.push_str("http_requests_in_flight 7\nhttp_workers_busy 4\nhttp_workers_limit 8\n");
    for code in [200, 404, 500] {
        text.push_str(&format!("http_requests_total{{code=\"{code}\",method=\"GET\"}} {requests}\n"));
    }
    for le in ["0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "0.75", "1", "2.5", "5", "10", "+Inf"] {
        text.push_str(&format!(
            "http_request_duration_seconds_bucket{{le=\"{le}\",route=\"/users/{{id}}\"}} {requests}\n"
        ));
    }
    text.push_str(&format!(
        "http_request_duration_seconds_sum {requests}.5\nhttp_request_duration_seconds_count {requests}\n"
    ));
    text.push_str("process_cpu_seconds_total 123.45\nprocess_resident_memory_bytes 1.23456e+08\nprocess_start_time_seconds 1.76e+09\n");
    for runtime in 0..36 {
        text.push_str(&format!("# HELP go_memstats_{runtime}_bytes Bytes of something that the runtime keeps.\n"));
        text.push_str(&format!("# TYPE go_memstats_{runtime}_bytes gauge\ngo_memstats_{runtime}_bytes 1.048576e+06\n"));
    }
    assert_eq!(text.lines().filter(|line| !line.starts_with('#')).count(), 60);
    text
}

fn scrape(lexicon: &Lexicon, body: &str, previous: Option<&Counters>, at: Instant) -> Counters {
    let mut reader = Reader::new(lexicon);
    // As it comes from the socket.
    for piece in body.as_bytes().chunks(8192) {
        reader.push(piece).expect("a good body");
    }
    let (numbers, counters) = rates(previous, reader.finish().expect("a good body"), at);
    divan::black_box(numbers);
    counters
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn text_of_5000_pods(bencher: Bencher<'_, '_>) {
    let lexicon = Lexicon::new(&MetricNames::default());
    let (first, second) = (body(1000), body(1100));
    let start = clock::now().instant;
    let previous: Vec<Counters> = (0..PODS).map(|_| scrape(&lexicon, &first, None, start)).collect();
    bencher.bench_local(|| {
        for counters in &previous {
            divan::black_box(scrape(&lexicon, &second, Some(counters), start + Duration::from_millis(500)));
        }
    });
}
