//! From objects to what the data plane gets: pure, and total. Whatever is wrong becomes a problem that names object and field, and
//! the part of the configuration that it spoils answers 500, as the Gateway API says; the rest works.

pub mod backend_tls;
pub mod backends;
pub mod certificates;
mod client_address;
pub mod endpoints;
pub mod exposure;
pub mod filters;
pub mod fingerprint;
pub mod grpc;
mod health;
pub mod hostname;
pub mod ingress;
pub mod listeners;
pub mod matches;
pub mod policies;
pub mod routes;
pub mod services;
pub mod settings;
pub mod status;
pub mod traffic;
mod trust;

use std::{sync::Arc, time::Duration};

use http::Uri;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use trimtab_model::{decision::Mode, observation::EndpointKey};
use trimtab_proxy::api::{self, v1};

pub use status::Statuses;

use crate::{
    objects::{DEFAULT_NAMESPACE, Objects, Replicas, Unread},
    policy::{Algorithm, MetricNames},
    problem::{Problem, Report},
};

/// API group of Gateway and HTTPRoute.
pub const GROUP: &str = "gateway.networking.k8s.io";

/// Everything that the data plane and the control loop need to know of the configuration. Each list is sorted by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    /// Sockets to accept requests on.
    pub listeners: Vec<v1::Listener>,
    /// Rules for them.
    pub routes: Vec<v1::HttpRoute>,
    /// What the rules refer to. Shared: those that a change does not touch are the same values afterwards.
    pub backends: Vec<Arc<BackendSpec>>,
    /// Services that Gateways are to have of their own.
    pub gateway_services: exposure::GatewayServices,
    /// Namespaces of which not everything may be read that should be.
    pub unread: Vec<Unread>,
    /// What could not be translated.
    pub problems: Vec<Problem>,
    /// What is to be said of each object in its status.
    pub statuses: Statuses,
}

/// One backend: what is pushed to proxies, and what the control loop needs beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct BackendSpec {
    /// What is pushed, but for its endpoints. Its `objective_ms` is the one that was set, if any.
    pub resource: v1::Backend,
    /// The endpoints. Shared, as backends are.
    pub endpoints: Vec<Arc<EndpointSpec>>,
    /// The algorithm.
    pub algorithm: Algorithm,
    /// How far the learned policy may act.
    pub mode: Mode,
    /// Which policy decides; `None`: what the controller was started with.
    pub model: Option<String>,
    /// Bounds for the guard.
    pub guardrails: GuardrailSettings,
    /// How endpoints are scraped; `None`: not at all.
    pub scrape: Option<ScrapeSettings>,
    /// How many pods the autoscalers behind it say that there are, and are to be; `None`: there is none.
    pub replicas: Option<Replicas>,
}

impl BackendSpec {
    /// `namespace/service:port`.
    pub fn name(&self) -> &str {
        &self.resource.name
    }

    /// Fingerprint of the endpoints' keys, addresses and order.
    pub fn generation(&self) -> u64 {
        self.resource.generation
    }
}

/// One endpoint of a backend.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// Identity that outlives its address.
    pub key: EndpointKey,
    /// Pod name, or `host:port`.
    pub name: String,
    /// `host:port`, IPv6 in brackets.
    pub address: String,
    /// Whether it gets new requests.
    pub ready: bool,
    /// Whether it is on its way out: it finishes what it has.
    pub draining: bool,
    /// Its zone, where known.
    pub zone: Option<String>,
    /// Where its metrics are; `None`: it is not scraped.
    pub scrape_url: Option<Uri>,
    /// When it became ready, milliseconds since the Unix epoch, where the provider knows.
    pub ready_since_ms: Option<i64>,
    /// Container restarts, where the provider knows.
    pub restarts: Option<u32>,
}

impl EndpointSpec {
    /// What proxies get to know of it.
    pub fn resource(&self) -> v1::Endpoint {
        let (host, port) = self.host_and_port();
        let state = if self.ready { v1::endpoint::State::Ready } else { v1::endpoint::State::Draining };
        v1::Endpoint {
            key: self.key.0,
            host: host.to_owned(),
            port: u32::from(port),
            name: self.name.clone(),
            zone: self.zone.clone().unwrap_or_default(),
            state: state.into(),
        }
    }

    /// Fingerprint of that.
    pub fn fingerprint(&self) -> u64 {
        let zone = self.zone.as_deref().unwrap_or_default();
        api::endpoint_fingerprint(self.key.0, self.host_and_port(), &self.name, zone, self.ready)
    }

    /// The host without brackets, and the port; 0 if there is none.
    fn host_and_port(&self) -> (&str, u16) {
        let (host, port) = self.address.rsplit_once(':').unwrap_or((&self.address, "0"));
        (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(0))
    }
}

/// What the user said on the guard's bounds; `None`: the guard's own default. Shares are multiples of the
/// mean share of the other endpoints.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GuardrailSettings {
    /// Smallest share of a ready endpoint, 0.001..=1.
    pub share_min: Option<f64>,
    /// Largest share of an endpoint, 1..=1000.
    pub share_max: Option<f64>,
    /// Largest factor by which a weight moves in one tick, up or down, 1.02..=1000.
    pub step_max: Option<f64>,
    /// Metrics older than this are not used.
    pub stale_after: Option<Duration>,
    /// For this long after it became ready an endpoint's own numbers do not move its weight. Reported as not supported yet.
    pub blackout: Option<Duration>,
    /// After this long without numbers a learned weight is forgotten. Reported as not supported yet.
    pub weight_expiration: Option<Duration>,
    /// Share of endpoints that must be healthy, 0..=1.
    pub panic_threshold: Option<f64>,
    /// A new endpoint ramps up over this long; zero: at once.
    pub slow_start: Option<Duration>,
}

/// How the endpoints of a backend are scraped.
#[derive(Debug, Clone, PartialEq)]
pub struct ScrapeSettings {
    /// How often.
    pub interval: Duration,
    /// Names of series that the user gave.
    pub names: MetricNames,
}

/// Translates objects. The same objects give the same result, whatever their order.
pub fn translate(objects: &Objects) -> Config {
    Translator::default().translate(objects)
}

/// Translates one state of the objects after the other. What it remembers of the last one makes it quicker, and nothing else: endpoints of
/// slices that have not changed are shared with what was made of them before.
#[derive(Debug, Default)]
pub struct Translator {
    memo: backends::Memo,
}

impl Translator {
    /// See [`translate`].
    pub fn translate(&mut self, objects: &Objects) -> Config {
        translate_with(objects, &mut self.memo)
    }
}

fn translate_with(objects: &Objects, memo: &mut backends::Memo) -> Config {
    let mut problems = Vec::new();
    let mut translated = listeners::translate(objects, &mut problems);
    let mut resolver = backends::Resolver::new(objects, &mut problems);
    let (mut routes, route_statuses) =
        routes::translate(objects, &translated.attachables, &mut resolver, &mut problems);
    listeners::count_routes(&mut translated, &routes);
    let (more, ingresses) = ingress::translate(objects, &mut translated, &mut resolver, &mut problems);
    routes.extend(more);
    routes.sort_by(|a, b| a.name.cmp(&b.name));
    let listeners::Translated { mut listeners, gateways, services: gateway_services, .. } = translated;
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    if listeners.is_empty() {
        let message =
            format!("no Gateway of class {} has a listener that can be served: nothing is", listeners::GATEWAY_CLASS);
        problems.push(Problem { origin: None, object: None, field: None, message });
    }
    let policies = resolver.take_policy_statuses();
    let uses = backend_tls::Uses::of(&routes);
    let tls_policies = resolver.tls_policy_statuses(&uses);
    let backends = resolver.into_backends(&uses, memo, &mut problems);
    problems.sort();
    problems.dedup();
    let classes = listeners::our_classes(objects).map(status::class).collect();
    let statuses = Statuses { classes, gateways, routes: route_statuses, ingresses, policies, tls_policies };
    let unread = objects.unread.clone();
    Config { listeners, routes, backends, gateway_services, unread, problems, statuses }
}

fn namespace_of(metadata: &ObjectMeta) -> &str {
    metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
}

fn name_of(metadata: &ObjectMeta) -> &str {
    metadata.name.as_deref().unwrap_or_default()
}

/// Seconds since the Unix epoch; 0 where nobody wrote it down.
fn created_at_s(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second())
}

/// What decides between objects that want the same: the older one, then the one whose name sorts first.
fn age_and_name(metadata: &ObjectMeta) -> (i64, String, String) {
    (created_at_s(metadata), namespace_of(metadata).to_owned(), name_of(metadata).to_owned())
}

fn close(report: Report, objects: &Objects, problems: &mut Vec<Problem>) {
    let origin = objects.origins.get(report.object());
    problems.extend(report.into_problems(origin));
}

#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod tests;
