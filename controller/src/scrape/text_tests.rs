//! Bodies as they come, good and bad.

use proptest::prelude::*;

use super::*;
use crate::policy::MetricNames;

fn lexicon() -> Lexicon {
    Lexicon::new(&MetricNames::default())
}

fn read(body: &[u8]) -> Result<Readings, TextError> {
    let lexicon = lexicon();
    let mut reader = Reader::new(&lexicon);
    reader.push(body)?;
    reader.finish()
}

/// The body gives this number for this role, and this reason for what was left out.
fn check(body: &str, role: Role, value: Option<f64>, ignored: Option<&str>) {
    let readings = read(body.as_bytes()).unwrap();
    assert_eq!(readings.get(role).map(|(value, _)| value), value, "{body}");
    assert_eq!(readings.ignored.as_deref(), ignored, "{body}");
}

#[test]
fn label_sets_are_added_up() {
    let body = "# TYPE http_requests counter\nhttp_requests_total{code=\"200\"} 10\nhttp_requests_total{code=\"500\"} 2 1700000000000\n";
    check(body, Role::Requests, Some(12.0), None);
}

#[test]
fn label_values_may_hold_braces_quotes_commas_and_anything_else() {
    let body = r#"http_requests_total{uri="/users/{id}",q="a\"},b=\\"} 3
http_requests_total {uri="/ü",} 4
"#;
    check(body, Role::Requests, Some(7.0), None);
}

#[test]
fn the_first_candidate_that_is_there_counts() {
    check("in_flight_requests 5\nhttp_requests_in_flight 3\n", Role::InFlight, Some(3.0), None);
    check("http_requests_in_flight 3\nin_flight_requests 5\n", Role::InFlight, Some(3.0), None);
}

#[test]
fn one_candidate_may_be_several_series_and_one_series_may_mean_two_things() {
    let body = "vllm:num_requests_running{model=\"m\"} 4\nvllm:num_requests_waiting{model=\"m\"} 6\n";
    check(body, Role::InFlight, Some(10.0), None);
    check(body, Role::Busy, Some(4.0), None);
}

#[test]
fn what_is_no_use_is_left_out_with_a_reason() {
    let cases = [
        ("http_requests_in_flight NaN\n", "http_requests_in_flight: its value is not finite"),
        ("http_requests_in_flight +Inf\n", "http_requests_in_flight: its value is not finite"),
        ("http_requests_in_flight 1e999\n", "http_requests_in_flight: its value is not finite"),
        ("http_requests_in_flight -3\n", "http_requests_in_flight: its value is negative"),
        ("http_requests_in_flight many\n", "http_requests_in_flight: its value is not a number"),
        ("http_requests_in_flight{a=\"b 3\n", "http_requests_in_flight: its labels do not end"),
        ("a 1\nhttp_requests_in_flight 12", "http_requests_in_flight: the text ends within the line"),
    ];
    for (body, reason) in cases {
        check(body, Role::InFlight, None, Some(reason));
    }
    let twice = "http_requests_in_flight 3\nhttp_requests_in_flight 4\n";
    let reason = "http_requests_in_flight: the same series stands there twice, the first counts";
    check(twice, Role::InFlight, Some(3.0), Some(reason));
    let bytes = b"http_requests_in_flight{a=\"\xff\"} 3\nhttp_requests_total 1\n";
    assert_eq!(read(bytes).unwrap().ignored.as_deref(), Some("http_requests_in_flight: it is not UTF-8"));
}

#[test]
fn usual_ways_to_say_no_number_are_no_reason_for_a_complaint() {
    check(
        "jvm_memory_max_bytes{area=\"a\"} -1.0\njvm_memory_max_bytes{area=\"b\"} 7\n",
        Role::MemoryLimit,
        Some(7.0),
        None,
    );
    check(
        "go_gc_gomemlimit_bytes 9.223372036854775807e+18\nbusy_threads 1\nrequests_total 1\n",
        Role::MemoryLimit,
        None,
        None,
    );
    check(
        "http_request_duration_seconds{quantile=\"0.99\"} NaN\nhttp_requests_total 1\n",
        Role::Requests,
        Some(1.0),
        None,
    );
}

#[test]
fn histograms_are_added_up_over_their_labels() {
    let body = r#"http_server_requests_seconds_bucket{uri="/{id}",le="0.1"} 1
http_server_requests_seconds_bucket{uri="/b",le="0.1"} 2
http_server_requests_seconds_bucket{uri="/b",le="+Inf"} 5
http_server_requests_seconds_bucket{uri="/{id}",le="+Inf"} 1
http_server_requests_seconds_sum{uri="/b"} 2.5
http_server_requests_seconds_count{uri="/b"} 5
"#;
    let durations = read(body.as_bytes()).unwrap().durations.unwrap();
    assert_eq!(durations.buckets, [(100.0, 3.0), (f64::INFINITY, 6.0)]);
    assert_eq!((durations.sum, durations.count), (Some(2500.0), Some(5.0)));
}

#[test]
fn bodies_that_are_no_use_say_why() {
    assert_eq!(read(b""), Err(TextError::NotMetrics));
    assert_eq!(read(b"<html>\n<body>hello</body>\n</html>\n"), Err(TextError::NotMetrics));
    assert_eq!(read(&[0xff; 1000]), Err(TextError::NotMetrics));
    assert_eq!(read(b"my_own_metric 1\nother 2\n"), Err(TextError::NothingKnown(2)));
    assert_eq!(read(&[b'a'; 100_000]), Err(TextError::LongLine(1)));
    assert_eq!(read("a 1\n".repeat(1_000_000).as_bytes()), Err(TextError::Lines));
    let many: String = (0..20_000).map(|user| format!("http_requests_total{{user=\"{user}\"}} 1\n")).collect();
    assert_eq!(read(many.as_bytes()), Err(TextError::Series("http_requests_total".into())));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = read(&body);
    }

    #[test]
    fn nothing_like_metrics_makes_it_panic(
        body in "(http_requests_in_flight|http_request_duration_seconds_bucket)[{}\"\\\\=,le 0-9.+\\-\n\u{e9}]{0,60}\n?",
    ) {
        let _ = read(body.as_bytes());
    }

    #[test]
    fn it_does_not_matter_how_the_body_is_cut(cuts in prop::collection::vec(0usize..160, 0..6)) {
        let body = "# HELP x y\nhttp_requests_total{uri=\"/{id}\"} 3\nhttp_requests_in_flight 7\n\
                    http_request_duration_seconds_bucket{le=\"0.5\"} 9\nprocess_cpu_seconds_total 1.5\n";
        let lexicon = lexicon();
        let mut reader = Reader::new(&lexicon);
        let mut cuts = cuts;
        cuts.sort_unstable();
        let mut at = 0;
        for cut in cuts {
            let cut = cut.min(body.len());
            reader.push(&body.as_bytes()[at..cut]).unwrap();
            at = cut;
        }
        reader.push(&body.as_bytes()[at..]).unwrap();
        prop_assert_eq!(reader.finish().unwrap(), read(body.as_bytes()).unwrap());
    }
}
