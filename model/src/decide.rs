//! One tick for one backend: observation to decision. Pure: same inputs and seed, same bits out.

use rand::Rng;

use crate::decision::{Decision, Mode, RuleParameters};
use crate::guard::{self, Case, GuardConfig};
use crate::memory::Memory;
use crate::numbers::{median, sane, softmax};
use crate::observation::Observation;
use crate::policy::Policy;
use crate::prior::Prior;

/// Decides. `previous` is the memory that the last tick of this backend returned (`Memory::default()` at first); the returned one
/// goes into the next. Any observation is answered with a valid decision: numbers that make no sense count as missing.
pub fn decide(
    observation: &Observation,
    previous: &Memory,
    policy: &Policy,
    guard: &GuardConfig,
    mode: Mode,
    rng: &mut impl Rng,
) -> (Decision, Memory) {
    let _ = &rng;
    let endpoints = previous.fold(observation);
    let prior = Prior::new(&endpoints);
    let proposal = (mode != Mode::Off).then(|| policy.propose(endpoints.len()));
    let mut watch = previous.watch;
    let case = Case {
        observation,
        endpoints: &endpoints,
        prior: &prior,
        proposal: proposal.as_ref().map(Ok),
        unfamiliar: &vec![false; endpoints.len()],
        mode,
    };
    let verdict = guard::rule(&case, guard, &mut watch);

    let base = base_rule(observation, &prior);
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
    let decision = Decision {
        tick: observation.tick,
        endpoints: observation.endpoints.iter().map(|endpoint| endpoint.key).collect(),
        baseline: prior.weights,
        proposed,
        applied: verdict.weights,
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

/// The rule that goes with the prior: its reference latency is the median endpoint's.
fn base_rule(observation: &Observation, prior: &Prior) -> RuleParameters {
    let base = if prior.informed { RuleParameters::WITH_WEIGHTS } else { RuleParameters::LOCAL };
    let latencies =
        observation.endpoints.iter().filter_map(|endpoint| endpoint.reported?.latency_ms_p50.and_then(sane));
    match median(&mut latencies.collect::<Vec<f64>>()) {
        Some(latency_ms) => RuleParameters { latency_reference_ms: latency_ms.clamp(0.01, 1e6) as f32, ..base },
        None => base,
    }
}
