//! Makes the read-only picture of the controller (`view`) out of its state.

use std::collections::HashSet;

use trimtab_model::decision::{Decision, Reason, RuleParameters};
use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;

use crate::clock::Now;
use crate::gateway::EndpointSpec;
use crate::keys::KeyMap;
use crate::objects::Replicas;
use crate::tick::{Backend, Outcome};
use crate::view::{BackendView, ClassView, EndpointState, EndpointView, GuardView, ModelView, ReplicasView};

/// The picture of one backend.
pub fn backend(backend: &Backend, now: Now) -> BackendView {
    let figures = backend.window.backend(now);
    let (objective_ms, derived) = backend.objective_ms();
    let decision = backend.last.as_ref().map(|last| &*last.decision);
    let endpoints = endpoints(backend, figures.rps, now);
    BackendView {
        name: backend.spec.name().to_owned(),
        algorithm: backend.spec.algorithm.name().to_owned(),
        mode: backend.spec.mode,
        tick: decision.map_or(0, |decision| decision.tick),
        objective_ms,
        objective_derived: derived && objective_ms.is_some(),
        rps: figures.rps,
        goodput_rps: figures.goodput_rps,
        shed_rps: figures.shed_rps,
        error_share: figures.error_share,
        latency_ms_p50: figures.latency_ms_p50,
        latency_ms_p99: figures.latency_ms_p99,
        concurrency_limit: backend.window.concurrency_limit(),
        parameters: decision.map_or(RuleParameters::LOCAL, |decision| decision.parameters),
        model: model(backend, decision),
        guard: decision.map(|decision| guard(backend, decision)).unwrap_or_default(),
        classes: classes(backend),
        replicas: backend.spec.replicas.map(|Replicas { current, desired }| ReplicasView { current, desired }),
        endpoints,
    }
}

fn model(backend: &Backend, decision: Option<&Decision>) -> ModelView {
    let decides = decision.map_or_else(String::new, |decision| decision.policy_version.clone());
    let Some(live) = &backend.live else { return ModelView { decides, drift: backend.drift, ..ModelView::default() } };
    let (rollout, progress) = (&live.rollout, live.rollout.progress());
    let trial = rollout.state().trial.as_ref().filter(|_| rollout.candidate().is_some());
    ModelView {
        decides,
        in_force: rollout.in_force().to_string(),
        pinned: rollout.state().pinned.is_some(),
        candidate: trial.map(|trial| trial.version.clone()),
        stage: trial.map(|trial| trial.stage.to_string()),
        stage_since_ms: trial.map(|trial| trial.since_ms),
        blocks: progress.blocks,
        difference: progress.difference,
        verdict: progress.verdict,
        drift: backend.drift,
    }
}

fn guard(backend: &Backend, decision: &Decision) -> Vec<GuardView> {
    decision
        .guard
        .iter()
        .map(|action| GuardView {
            reason: action.reason,
            endpoint: action.endpoint.and_then(|key| backend.name_of(key)).map(str::to_owned),
            detail: action.detail.clone(),
        })
        .collect()
}

fn classes(backend: &Backend) -> Vec<ClassView> {
    let one = |(index, (class, shed_share)): (usize, (&v1::ClassCost, f64))| {
        let factors = backend.classes.factors(index);
        ClassView {
            name: class.name.clone(),
            key: format!("{:016x}", class.key),
            share: f64::from(class.share),
            cost_ms: f64::from(class.cost_ms),
            factor_min: factors.map(|(min, _)| min),
            factor_max: factors.map(|(_, max)| max),
            priority: f64::from(class.priority),
            shed_share,
        }
    };
    backend.classes.pushed().enumerate().map(one).collect()
}

fn endpoints(backend: &Backend, backend_rps: f64, now: Now) -> Vec<EndpointView> {
    let positions: KeyMap<usize> = match &backend.last {
        Some(last) => last.decision.endpoints.iter().enumerate().map(|(index, key)| (*key, index)).collect(),
        None => KeyMap::default(),
    };
    let guard = backend.last.as_ref().map_or(&[][..], |last| &last.decision.guard);
    let slow_starting: HashSet<EndpointKey> =
        guard.iter().filter(|action| action.reason == Reason::SlowStart).filter_map(|action| action.endpoint).collect();
    backend
        .spec
        .endpoints
        .iter()
        .map(|spec| {
            let position = positions.get(&spec.key).copied();
            endpoint(backend, spec, position, slow_starting.contains(&spec.key), backend_rps, now)
        })
        .collect()
}

fn endpoint(
    backend: &Backend,
    spec: &EndpointSpec,
    position: Option<usize>,
    slow_starting: bool,
    backend_rps: f64,
    now: Now,
) -> EndpointView {
    let figures = backend.window.endpoint(spec.key, now);
    let last = backend.last.as_ref().zip(position);
    let weight =
        |of: fn(&Decision) -> &[f64]| last.and_then(|(last, at)| of(&last.decision).get(at).copied()).unwrap_or(0.0);
    let seen = last.and_then(|(Outcome { observation, .. }, at)| observation.endpoints.get(at));
    let reported = seen.and_then(|seen| seen.reported);
    let ejected_by = reported.map_or(0, |reported| reported.ejected_by);
    let proxies = backend.last.as_ref().map_or(1, |last| last.observation.proxies);
    let scrape = backend.scrapes.get(&spec.key);
    let failing = backend.checks.failing(spec.key);
    EndpointView {
        name: spec.name.clone(),
        address: spec.address.clone(),
        key: format!("{:016x}", spec.key.0),
        state: match () {
            () if spec.draining || !spec.ready => EndpointState::Draining,
            () if failing.is_some_and(|failing| failing.most) => EndpointState::Unhealthy,
            () if ejected_by >= proxies => EndpointState::Ejected,
            () if ejected_by > 0 => EndpointState::PartlyEjected,
            () if slow_starting => EndpointState::SlowStart,
            () => EndpointState::Active,
        },
        weight_baseline: weight(|decision| &decision.baseline),
        weight_proposed: weight(|decision| &decision.proposed),
        weight_applied: weight(|decision| &decision.applied),
        share: if backend_rps > 0.0 { figures.rps / backend_rps } else { 0.0 },
        rps: figures.rps,
        in_flight: reported.map_or(0.0, |reported| reported.in_flight_mean),
        latency_ms_p50: figures.latency_ms_p50,
        latency_ms_p99: figures.latency_ms_p99,
        error: backend.errors.of(spec.key, now.instant),
        ejected_by,
        failing_by: failing.map_or(0, |failing| failing.by),
        failing: failing.map(|failing| failing.reason.clone()),
        capacity_rps: last.and_then(|(last, at)| last.decision.capacity_rps.get(at).copied().flatten()),
        slots: last.and_then(|(last, at)| last.decision.slots.get(at).copied().flatten()),
        slots_learned: seen.is_some_and(|seen| seen.scraped.worker_limit.is_none()),
        adjustment: last.and_then(|(last, at)| last.decision.adjustments.get(at).copied()).unwrap_or(1.0),
        scrape_age_s: scrape.and_then(|scrape| scrape.succeeded_at).map(|at| now.since_s(at)),
        scrape_error: scrape.and_then(|scrape| scrape.error.clone()),
    }
}
