//! The admin endpoint: `/metrics`, `/healthz`, `/readyz`, `/config`, the table as it is applied, and `/endpoints/NAME`, one endpoint of it. For
//! operators, so it listens on loopback unless told otherwise.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    backend::Backend,
    clock, hosts,
    load::{CLASSES_MAX, RequestClass},
    metrics::{self, Sources},
    outlier::Phase,
    peers::stats::PeerStats,
    table::{BackendEntry, Table},
    time::{Coarse, Timestamp},
};

/// What OpenMetrics text is called.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone)]
struct Admin {
    sources: Sources,
    registry: Arc<Registry>,
}

/// Serves the admin endpoint until `stop`.
///
/// # Errors
/// If the listener fails.
pub async fn serve(listener: TcpListener, sources: Sources, stop: CancellationToken) -> std::io::Result<()> {
    let on_loopback = listener.local_addr()?.ip().is_loopback();
    let names = Router::new().route("/config", get(config)).route("/endpoints/{name}", get(endpoints));
    // Elsewhere it is asked by whatever name its network knows it by.
    let names = if on_loopback { names.layer(from_fn(local_only)) } else { names };
    let admin = Admin { registry: Arc::new(metrics::registry(sources.clone())), sources };
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .merge(names)
        .with_state(admin);
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// What a browser on this machine asks for in the name of a page from elsewhere, whose host name its owner has made an address of this machine
/// (DNS rebinding), is not for that page to read.
async fn local_only(request: Request, next: Next) -> Response {
    let is_local =
        |host: &HeaderValue| host.to_str().ok().and_then(hosts::name).is_some_and(|name| hosts::is_local(&name));
    if request.headers().get(header::HOST).is_none_or(is_local) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "ask for localhost or an IP address: other names may be somebody else's\n").into_response()
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &admin.registry) {
        Ok(()) => (StatusCode::OK, [(header::CONTENT_TYPE, OPENMETRICS)], text),
        // Writing to a string does not fail.
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}

async fn ready(State(admin): State<Admin>) -> (StatusCode, &'static str) {
    let status = admin.sources.status.borrow();
    match (status.ready, status.draining) {
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (true, false) => (StatusCode::OK, "ready\n"),
        (false, false) => {
            (StatusCode::SERVICE_UNAVAILABLE, "no configuration yet, or none of its listeners is bound\n")
        }
    }
}

async fn config(State(admin): State<Admin>) -> Json<Value> {
    Json(dump(&admin.sources.table.load(), admin.sources.peers.as_deref()))
}

/// The endpoints of this name, usually one pod: a table of thousands is long.
async fn endpoints(State(admin): State<Admin>, Path(name): Path<String>) -> (StatusCode, Json<Value>) {
    let (table, now) = (admin.sources.table.load(), clock::now());
    let mut found = Vec::new();
    for entry in &table.backends {
        let positions = entry.backend.endpoints().iter().enumerate().filter(|(_, one)| one.config.name == name);
        for (index, _) in positions {
            let weight = entry.backend.effective_weights().get(index).copied().flatten();
            found.push(json!({ "backend": entry.backend.name(), "endpoint": endpoint(entry, index, weight, now) }));
        }
    }
    let status = if found.is_empty() { StatusCode::NOT_FOUND } else { StatusCode::OK };
    (status, Json(Value::Array(found)))
}

/// The table for people; a diagnostic, not an interface to build on.
fn dump(table: &Table, peers: Option<&PeerStats>) -> Value {
    let listeners: Vec<Value> = table
        .listeners
        .iter()
        .map(|listener| {
            json!({
                "name": listener.config.name,
                "address": listener.bound.as_ref().map(ToString::to_string).ok(),
                "error": listener.bound.as_ref().err(),
            })
        })
        .collect();
    json!({
        "version": table.version,
        "age_s": table.updated_at.map(|at| clock::now().since(at).as_secs_f64()),
        "listeners": listeners,
        "peers": peers.map(exchange),
        "routes": table.routing.describe(),
        "backends": table.backends.iter().map(|entry| backend(entry)).collect::<Vec<_>>(),
    })
}

/// Peers with the time since they were heard; `null`: never.
fn exchange(stats: &PeerStats) -> Value {
    let (known, now) = (stats.peers.load(), clock::now());
    let peers = known.peers.iter().map(|state| {
        json!({
            "key": format!("{:016x}", state.peer.key),
            "address": state.peer.address.to_string(),
            "age_ms": state.heard_at.map(|at| now.since(at).as_secs_f64() * 1e3),
        })
    });
    json!({
        "listen": stats.listen.to_string(),
        "advertised": stats.advertised.to_string(),
        "expected": known.expected,
        "peers": peers.collect::<Vec<_>>(),
    })
}

fn backend(entry: &BackendEntry) -> Value {
    let backend: &Backend = &entry.backend;
    let parameters = backend.parameters();
    let weights = backend.effective_weights();
    let now = clock::now();
    let endpoints: Vec<Value> =
        weights.iter().enumerate().map(|(index, weight)| endpoint(entry, index, *weight, now)).collect();
    json!({
        "name": backend.name(),
        "generation": format!("{:016x}", backend.generation()),
        "algorithm": backend.algorithm().as_str(),
        "tick": backend.tick(),
        "trust": backend.trust(),
        "objective_ms": backend.objective().map(|objective| objective.as_secs_f64() * 1e3),
        "concurrency_limit": backend.concurrency_limit(),
        "in_flight": backend.in_flight(),
        "parameters": {
            "exponent": parameters.exponent,
            "offset": parameters.offset,
            "latency_exponent": parameters.latency_exponent,
            "latency_reference_ms": parameters.latency_reference_ms,
            "error_exponent": parameters.error_exponent,
            "weight_exponent": parameters.weight_exponent,
            "work_share": parameters.work_share,
            "affinity_proxies": parameters.affinity_proxies,
            "affinity_factor": parameters.affinity_factor,
        },
        "classes": classes(backend),
        "endpoints": endpoints,
    })
}

fn endpoint(entry: &BackendEntry, index: usize, weight: Option<f32>, now: Timestamp) -> Value {
    let (backend, target) = (&*entry.backend, &entry.targets[index]);
    let endpoint = &backend.endpoints()[index];
    json!({
        "key": endpoint.config.key.to_string(),
        "failing_check": backend.failing(endpoint.config.key),
        "name": endpoint.config.name,
        "address": target.address.to_string(),
        "state": format!("{:?}", endpoint.config.state),
        "weight": weight,
        "in_flight": endpoint.load.in_flight(),
        "in_flight_peers": endpoint.load.peers(Coarse::of(now)).map(|counts| counts.map(u32::from).iter().sum::<u32>()),
        "latency_ms": endpoint.load.latency_ms(now),
        "error": endpoint.load.error(now),
        "scores": scores(backend, index, now),
        "outlier": backend.phase(endpoint.config.key).map(|phase| match phase {
            Phase::Ejected { until } => format!("ejected for {:.1} s more", until.since(now).as_secs_f64()),
            Phase::HalfOpen => "half open".to_owned(),
            Phase::Healthy { .. } => "healthy again".to_owned(),
        }),
    })
}

/// With more endpoints than these only requests without a class are explained: the answer would grow too long.
const EXPLAINED_BY_CLASS_MAX: usize = 200;

/// What the rule makes of an endpoint for each class of requests, term by term; the lowest score is picked.
fn scores(backend: &Backend, index: usize, now: Timestamp) -> Vec<Value> {
    let numbers = if backend.endpoints().len() > EXPLAINED_BY_CLASS_MAX { 0..1 } else { 0..CLASSES_MAX };
    numbers
        .map(|number| RequestClass(number as u8))
        .filter(|class| *class == RequestClass(0) || backend.costs().is_some_and(|costs| costs.key(*class).is_some()))
        .filter_map(|class| Some((class, backend.explain(index, class, now)?)))
        .map(|(class, terms)| {
            json!({
                "class": class.0,
                "score": terms.score(),
                "in_flight": terms.in_flight,
                "wait": terms.wait,
                "cost": terms.cost,
                "count_factor": terms.count_factor,
                "weight_factor": terms.weight_factor,
                "latency_factor": terms.latency_factor,
                "error_factor": terms.error_factor,
                "affinity_factor": terms.affinity_factor,
            })
        })
        .collect()
}

/// What is known of the classes of requests; the first is what has no class of its own.
fn classes(backend: &Backend) -> Vec<Value> {
    let Some(costs) = backend.costs() else { return Vec::new() };
    (0..CLASSES_MAX)
        .map(|number| RequestClass(number as u8))
        .filter(|class| class.0 == 0 || costs.key(*class).is_some())
        .map(|class| {
            json!({
                "class": class.0,
                "key": costs.key(class).map(|key| key.to_string()),
                "name": costs.key(class).map_or("others", |_| costs.name(class)),
                "cost_ms": costs.cost_ms(class),
                "share": costs.share(class),
                "limit_share": backend.limit_share(class),
                "in_flight": backend.endpoints().iter().map(|endpoint| endpoint.load.in_flight_of(class)).sum::<u32>(),
                "shed": backend.shed_of(class),
            })
        })
        .collect()
}
