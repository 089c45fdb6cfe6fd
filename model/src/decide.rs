//! One tick for one backend: observation to decision. Pure: same inputs and seed, same bits out.

use rand::Rng;

use crate::decision::{Decision, Mode, RuleParameters};
use crate::features::Features;
use crate::guard::{self, Case, GuardConfig, InForce};
use crate::memory::Memory;
use crate::numbers::{interval_s, median, sane, softmax};
use crate::observation::Observation;
use crate::policy::{Policy, Proposal, Strangeness};
use crate::prior::Prior;
use crate::service::{Completed, complete};

/// A residual below this changes nothing that could be told apart: 2 % of a weight.
const MATERIAL: f64 = 0.02;

/// Decides. `previous` is the memory that the last tick of this backend returned (`Memory::default()` at first); the
/// returned one goes into the next. Any observation is answered with a valid decision: numbers that make no sense count
/// as missing.
pub fn decide(
    observation: &Observation,
    previous: &Memory,
    policy: &Policy,
    guard: &GuardConfig,
    mode: Mode,
    rng: &mut impl Rng,
) -> (Decision, Memory) {
    let facts = policy.service().filter(|_| mode == Mode::Active);
    let Completed { observation, stale } = complete(observation, facts);
    let observation = &*observation;
    let mut endpoints = previous.fold(observation);
    let prior = Prior::new(&endpoints);
    let proposal = (mode != Mode::Off).then(|| {
        let features = Features::new(observation, &endpoints, &prior);
        let held = policy.holds_noise(previous.ticks);
        let noise = endpoints.iter().filter(|_| held).map(|endpoint| endpoint.noise).collect::<Vec<_>>();
        policy.propose_holding(&features, &noise, rng).map_err(|fault| fault.to_string())
    });
    let margin = guard.settings().unfamiliar_margin;
    let far = |strange: &Option<Strangeness>| strange.filter(|strange| f64::from(strange.distance) > margin);
    let answered = proposal.as_ref().and_then(|proposal| proposal.as_ref().ok());
    let unfamiliar = answered.map_or_else(Vec::new, |proposal| proposal.strange.iter().map(far).collect::<Vec<_>>());
    let unfamiliar_backend = answered.and_then(|proposal| far(&proposal.strange_context));
    let mut watch = previous.watch;
    watch.fold(observation, interval_s(observation.interval_s));
    if let Some(proposal) = answered {
        watch.drift(proposal.distance(), interval_s(observation.interval_s), guard.settings().drift_max);
    }
    let case = Case {
        observation,
        endpoints: &endpoints,
        prior: &prior,
        proposal: proposal.as_ref().map(|proposal| proposal.as_ref().map_err(String::as_str)),
        unfamiliar: &unfamiliar,
        unfamiliar_backend,
        mode,
    };
    let mut verdict = guard::rule(&case, guard, &mut watch);
    verdict.actions.extend(stale.map(guard::stale_facts));

    let base = base_rule(observation, &prior);
    let proposal = proposal.and_then(Result::ok).filter(Proposal::is_finite);
    let proposed = match &proposal {
        Some(proposal) => {
            let logs = prior.log_capacity.iter().zip(&proposal.log_weights).map(|(log, residual)| log + residual);
            softmax(&logs.collect::<Vec<f64>>())
        }
        None => prior.weights.clone(),
    };
    let parameters = match &proposal {
        Some(proposal) if verdict.policy_applies => proposal.rule(base),
        _ => base,
    };
    watch.put_in_force(match &proposal {
        Some(proposal) if verdict.policy_applies && proposal.largest() >= MATERIAL => InForce::Policy,
        _ if verdict.policy_applies => InForce::Neither,
        _ => InForce::Fallback,
    });
    for (place, endpoint) in endpoints.iter_mut().enumerate() {
        endpoint.noise = proposal.as_ref().and_then(|proposal| proposal.noise.get(place).copied());
    }
    let decision = Decision {
        tick: observation.tick,
        endpoints: observation.endpoints.iter().map(|endpoint| endpoint.key).collect(),
        baseline: prior.weights,
        proposed,
        applied: verdict.weights,
        adjustments: if knows_slots(observation) { verdict.adjustments } else { Vec::new() },
        slots: observation.endpoints.iter().map(|e| Some(e.scraped.worker_limit?.value)).collect(),
        parameters,
        capacity_rps: prior.capacity_rps,
        guard: verdict.actions,
        log_probability: proposal.and_then(|proposal| proposal.log_probability),
        policy_version: policy.version().to_owned(),
        mode,
    };
    let memory = previous.remember(observation, endpoints, &decision.applied, watch);
    (decision, memory)
}

/// Whether most endpoints tell how many requests they serve at once: then the rule knows how long a request takes.
fn knows_slots(observation: &Observation) -> bool {
    let telling = observation.endpoints.iter().filter(|endpoint| endpoint.scraped.worker_limit.is_some()).count();
    2 * telling > observation.endpoints.len()
}

/// The rule that goes with the prior and with what endpoints tell of themselves; its reference latency is the median endpoint's.
fn base_rule(observation: &Observation, prior: &Prior) -> RuleParameters {
    let base = if knows_slots(observation) {
        RuleParameters::WITH_SLOTS
    } else if prior.informed {
        RuleParameters::WITH_WEIGHTS
    } else {
        RuleParameters::LOCAL
    };
    let latencies =
        observation.endpoints.iter().filter_map(|endpoint| endpoint.reported?.latency_ms_p50.and_then(sane));
    match median(&mut latencies.collect::<Vec<f64>>()) {
        Some(latency_ms) => RuleParameters { latency_reference_ms: latency_ms.clamp(0.01, 1e6) as f32, ..base },
        None => base,
    }
}
