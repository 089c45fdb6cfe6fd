//! What a change of one pod costs where a Service has 5,000: putting the snapshot together is next to nothing, since slices are shared; this
//! is the translation, of all of it and of what is new. It must stay far below the 50 ms between two changes at 20 pods a second.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trimtab_controller::gateway::{self, backends::SERVICE_NAME_LABEL};
use trimtab_controller::objects::Objects;
use trimtab_controller::provider::yaml::document;

const ENDPOINTS: usize = 5_000;
const PER_SLICE: usize = 100;

const ROUTES: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: g, namespace: a}
spec:
  gatewayClassName: trimtab
  listeners: [{name: http, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: a}
spec:
  parentRefs: [{name: g}]
  rules: [{backendRefs: [{name: s, port: 80}]}]
";

fn main() {
    divan::main();
}

fn metadata(name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: Some("a".to_owned()), ..ObjectMeta::default() }
}

fn endpoint(number: usize) -> Endpoint {
    let conditions = EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) };
    Endpoint {
        addresses: vec![format!("10.{}.{}.{}", number >> 16, (number >> 8) & 255, number & 255)],
        conditions: Some(conditions),
        zone: Some("eu-1a".to_owned()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some("a".to_owned()),
            name: Some(format!("s-5d5f7c8b9d-{number:05}")),
            uid: Some(format!("6a0f7c1e-0000-4000-8000-{number:012}")),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn objects() -> Objects {
    let mut objects = Objects::default();
    for placed in document::read("bench.yaml", ROUTES.as_bytes()).expect("valid objects") {
        placed.object.insert_into(&mut objects);
    }
    let port = ServicePort { name: Some("http".to_owned()), port: 80, ..ServicePort::default() };
    let spec = ServiceSpec { ports: Some(vec![port]), ..ServiceSpec::default() };
    objects.services.push(Arc::new(Service { metadata: metadata("s".to_owned()), spec: Some(spec), status: None }));
    let slice = |number: usize| EndpointSlice {
        metadata: ObjectMeta {
            labels: Some(BTreeMap::from([(SERVICE_NAME_LABEL.to_owned(), "s".to_owned())])),
            ..metadata(format!("s-{number}"))
        },
        address_type: "IPv4".to_owned(),
        endpoints: (number * PER_SLICE..(number + 1) * PER_SLICE).map(endpoint).collect(),
        ports: Some(vec![EndpointPort { name: Some("http".to_owned()), port: Some(8080), ..EndpointPort::default() }]),
    };
    objects.endpoint_slices = (0..ENDPOINTS / PER_SLICE).map(slice).map(Arc::new).collect();
    objects
}

#[divan::bench]
fn translate_5000(bencher: divan::Bencher<'_, '_>) {
    let objects = objects();
    bencher.bench_local(|| gateway::translate(divan::black_box(&objects)));
}

/// What really happens: one slice is another one, the others are the same.
#[divan::bench]
fn translate_a_change_among_5000(bencher: divan::Bencher<'_, '_>) {
    let mut objects = objects();
    let mut translator = gateway::Translator::default();
    translator.translate(&objects);
    bencher.bench_local(|| {
        let slice = Arc::make_mut(&mut objects.endpoint_slices[7]);
        let conditions = slice.endpoints[3].conditions.get_or_insert_default();
        conditions.ready = Some(conditions.ready != Some(true));
        objects.endpoint_slices[7] = Arc::new(objects.endpoint_slices[7].as_ref().clone());
        translator.translate(divan::black_box(&objects))
    });
}

#[divan::bench]
fn snapshot_5000(bencher: divan::Bencher<'_, '_>) {
    let objects = objects();
    bencher.bench_local(|| divan::black_box(&objects).clone());
}

#[divan::bench]
fn compare_5000(bencher: divan::Bencher<'_, '_>) {
    let (one, other) = (gateway::translate(&objects()), gateway::translate(&objects()));
    bencher.bench_local(|| divan::black_box(&one) == divan::black_box(&other));
}
