//! Recordings: rows come back from batches, and batches that do not fit are refused by column.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod support;

use std::sync::Arc;

use arrow::array::{Float64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use support::wild;
use trimtab_model::decision::Mode;
use trimtab_model::recording::{RequestRow, TickRow, VERSION_KEY, from_batch, request_schema, tick_schema, to_batch};
use trimtab_model::{GuardConfig, Memory, Policy, decide};

fn request() -> impl Strategy<Value = RequestRow> {
    let numbers = (any::<i64>(), any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u32>());
    let texts = (".*", ".*", "[A-Z]{0,7}", ".*");
    (numbers, texts, -1e9..1e9f64, any::<Option<u32>>()).prop_map(|(n, t, latency_ms, status)| RequestRow {
        at_ms: n.0,
        proxy: t.0,
        route: t.1,
        method: t.2,
        class: n.1,
        backend: t.3,
        endpoint: n.2,
        in_flight: n.3,
        latency_ms,
        status,
        request_bytes: n.4,
        response_bytes: n.5,
        attempts: n.6,
        class_key: status.map(u64::from),
        class_name: status.map(|status| format!("GET /{status}")),
        in_flight_all: status.map(|status| status as f32),
    })
}

/// Rows as text: NaN equals NaN there.
fn text<R: std::fmt::Debug>(rows: &[R]) -> String {
    format!("{rows:?}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn requests_come_back(rows in proptest::collection::vec(request(), 0..20)) {
        let batch = to_batch(&rows).unwrap();
        prop_assert_eq!(batch.schema(), request_schema());
        prop_assert_eq!(from_batch::<RequestRow>(&batch).unwrap(), rows);
    }

    #[test]
    fn ticks_come_back(observation in wild::observation()) {
        let mut rng = StdRng::seed_from_u64(1);
        let policy = Policy::prior_only().with_exploration(0.1);
        let (decision, _) =
            decide(&observation, &Memory::default(), &policy, &GuardConfig::default(), Mode::Shadow, &mut rng);
        let rows = TickRow::of(&observation, &decision, |key| format!("pod-{}", key.0));
        prop_assert_eq!(rows.len(), observation.endpoints.len());
        prop_assert!(rows.iter().all(|row| row.guard.iter().any(|reason| reason == "ModeShadow")));
        let batch = to_batch(&rows).unwrap();
        prop_assert_eq!(batch.schema(), tick_schema());
        prop_assert_eq!(text(&from_batch::<TickRow>(&batch).unwrap()), text(&rows));
    }
}

fn refused(batch: &RecordBatch, expected: &str) {
    assert_eq!(from_batch::<RequestRow>(batch).unwrap_err().to_string(), expected);
}

#[test]
fn what_does_not_fit_is_refused_by_column() {
    let batch = to_batch::<RequestRow>(&[]).unwrap();
    let mut without = batch.clone();
    without.remove_column(4);
    refused(&without, "recording of requests: column `class` is missing, it must be UInt32");

    let mut older = batch.clone();
    for _ in ["in_flight_all", "class_name", "class_key"] {
        older.remove_column(older.num_columns() - 1);
    }
    assert!(from_batch::<RequestRow>(&older).is_ok(), "columns that may be null may be missing");

    let other = Schema::new(vec![Field::new("at_ms", DataType::Float64, false)]);
    let other = RecordBatch::try_new(Arc::new(other), vec![Arc::new(Float64Array::from(vec![1.0]))]).unwrap();
    refused(&other, "recording of requests: column `at_ms` is Float64, it must be Int64");

    let row = RequestRow {
        at_ms: 1,
        proxy: "p".to_owned(),
        route: "default/r".to_owned(),
        method: "GET".to_owned(),
        class: 0,
        backend: "default/web:80".to_owned(),
        endpoint: 7,
        in_flight: 0,
        latency_ms: 1.5,
        status: None,
        request_bytes: 0,
        response_bytes: 0,
        attempts: 1,
        class_key: None,
        class_name: None,
        in_flight_all: None,
    };
    let batch = to_batch(&[row]).unwrap();
    let mut columns = batch.columns().to_vec();
    columns[6] = Arc::new(UInt64Array::from(vec![None]));
    let fields: Vec<Field> =
        request_schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let nulls = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap();
    refused(&nulls, "recording of requests: column `endpoint`, row 0: null, it must be UInt64");

    let mut metadata = request_schema().metadata().clone();
    metadata.insert(VERSION_KEY.to_owned(), "9".to_owned());
    let schema = request_schema().as_ref().clone().with_metadata(metadata);
    let newer = RecordBatch::try_new(Arc::new(schema), batch.columns().to_vec()).unwrap();
    refused(&newer, "recording of requests has schema version 9, this Trimtab reads 1");
}
