//! The guard is the contract with the operator: whatever the policy says, what is applied stays within these bounds,
//! and each intervention has a name.
//!
//! # Order
//!
//! 1. *Who is heard*: mode `Off` or `Shadow`, a faulty policy, unfamiliar input and a policy that does worse than its fallback
//!    put the capacity prior in the policy's place for the whole backend; stale or missing metrics for single endpoints.
//! 2. *Panic*: with fewer than [`GuardSettings::panic_healthy_min`] of the endpoints healthy, every endpoint gets its prior share
//!    whatever its health, and the steps below are skipped but for the share bounds: few pods must not carry everything. One that
//!    has not been ready yet is starting, and no sign of ill health: a Deployment that is scaled up threefold is not failing.
//! 3. *Step*: no weight moves further in one tick than allowed, relative to the others; shrinking may be faster than growing,
//!    and a failing endpoint may shrink at once.
//! 4. *Slow start*: new endpoints get a part of their share that grows with their age.
//! 5. *Share bounds*: floor and ceiling, last, so that they always hold. Adjustments, which steer in the place of weights where the rule knows
//!    how long a request takes, are held within the same two numbers, but not to steps.
//!
//! Shares are of weight among ready endpoints. With equal queues a proxy sends in proportion to them; its live
//! in-flight counts then shift requests within the tick. Endpoints that are not ready get the floor share, on top of
//! the others': proxies send them nothing, and no share is lost by them.

mod bounds;
mod settings;
mod watch;

pub use settings::{GuardConfig, GuardConfigError, GuardSettings};
pub(crate) use watch::{InForce, Watch};

use crate::decision::{GuardAction, Mode, Reason};
use crate::memory::EndpointMemory;
use crate::numbers::{STALE_S, normalise, softmax};
use crate::observation::{EndpointObservation, Observation};
use crate::policy::{Proposal, Strangeness};
use crate::prior::Prior;
use crate::service::Stale;

/// What the guard rules on.
pub(crate) struct Case<'a> {
    pub observation: &'a Observation,
    pub endpoints: &'a [EndpointMemory],
    pub prior: &'a Prior,
    /// What the policy wants; an error where it failed; `None` where it did not run.
    pub proposal: Option<Result<&'a Proposal, &'a str>>,
    /// Per endpoint, the feature that is furthest outside of what the policy was trained on, if too far.
    pub unfamiliar: &'a [Option<Strangeness>],
    /// The same of the backend as a whole.
    pub unfamiliar_backend: Option<Strangeness>,
    pub mode: Mode,
}

/// What the guard allows.
pub(crate) struct Verdict {
    pub weights: Vec<f64>,
    /// What is asked for beyond capacity, one an endpoint: the part of the policy's residual that was heard, times the ramp of a strict slow start.
    pub adjustments: Vec<f64>,
    /// Whether the policy's rule parameters hold.
    pub policy_applies: bool,
    pub actions: Vec<GuardAction>,
}

/// What there is to say where facts of the policy about the service are not believed. Nothing is taken from the policy by it but those facts.
pub(crate) fn stale_facts(stale: Stale) -> GuardAction {
    let Stale { contradicted, sure } = stale;
    let detail = format!(
        "the policy's facts are out of date: of {sure} endpoints whose slots are surely known, {contradicted} have others; learned slots count"
    );
    GuardAction { reason: Reason::StaleFacts, endpoint: None, detail }
}

/// Rules on a case. `watch` is what the guard itself remembers.
pub(crate) fn rule(case: &Case<'_>, config: &GuardConfig, watch: &mut Watch) -> Verdict {
    let settings = config.settings();
    let mut actions = Vec::new();
    let heard = hear(case, settings, watch, &mut actions);
    let policy_applies = heard.is_some();
    let residuals = heard.map(|proposal| heard_residuals(case, proposal, &mut actions));
    let mut adjustments = match &residuals {
        Some(residuals) => residuals.iter().map(|residual| residual.clamp(-20.0, 20.0).exp()).collect(),
        None => vec![1.0; case.endpoints.len()],
    };
    let wanted = match &residuals {
        Some(residuals) => softmax(
            &case.prior.log_capacity.iter().zip(residuals).map(|(log, residual)| log + residual).collect::<Vec<_>>(),
        ),
        None => case.prior.weights.clone(),
    };
    let weights = if in_panic(case, settings, &mut actions) {
        let mut weights = case.prior.weights.clone();
        bounds::hold(&mut weights, &vec![true; case.endpoints.len()], settings);
        adjustments.fill(1.0);
        weights
    } else {
        let mut weights = step(case, settings, wanted, &mut actions);
        slow_start(case, settings, &mut weights, &mut adjustments, &mut actions);
        share_bounds(case, settings, &mut weights, &mut actions);
        adjustment_bounds(case, settings, &mut adjustments, &mut actions);
        weights
    };
    Verdict { weights, adjustments, policy_applies, actions }
}

/// The proposal, unless there is a reason for the fallback.
fn hear<'a>(
    case: &Case<'a>,
    settings: &GuardSettings,
    watch: &mut Watch,
    actions: &mut Vec<GuardAction>,
) -> Option<&'a Proposal> {
    let mut refuse = |reason, detail: String| {
        actions.push(GuardAction { reason, endpoint: None, detail });
        None
    };
    let strange = case.unfamiliar.iter().flatten().count();
    let share = strange as f64 / case.unfamiliar.len().max(1) as f64;
    let now_unfamiliar = case.unfamiliar_backend.is_some() || share > settings.unfamiliar_share_max;
    let unfamiliar = watch.unfamiliar(now_unfamiliar);
    match (case.mode, case.proposal) {
        (Mode::Off, _) => refuse(Reason::ModeOff, "the policy is off: the capacity prior is applied".to_owned()),
        (_, None) => {
            refuse(Reason::PolicyFault, "the policy did not propose: the capacity prior is applied".to_owned())
        }
        (_, Some(Err(fault))) => refuse(Reason::PolicyFault, format!("{fault}: the capacity prior is applied")),
        (Mode::Shadow, Some(Ok(_))) => {
            refuse(Reason::ModeShadow, "the policy's proposal is recorded, the capacity prior is applied".to_owned())
        }
        (Mode::Active, Some(Ok(proposal))) => {
            if proposal.log_weights.len() != case.endpoints.len() || !proposal.is_finite() {
                return refuse(
                    Reason::PolicyFault,
                    "the policy's output is not a finite number for each endpoint: the capacity prior is applied"
                        .to_owned(),
                );
            }
            if unfamiliar {
                let detail = unfamiliar_detail(case, now_unfamiliar, strange);
                return refuse(Reason::UnfamiliarInput, format!("{detail}: the capacity prior is applied"));
            }
            if watch.drifted() {
                let detail = format!(
                    "for minutes the input has lain {:.2} widths outside of what the policy was trained on, {} are allowed",
                    watch.drift_now(),
                    settings.drift_max
                );
                return refuse(Reason::UnfamiliarInput, format!("{detail}: the capacity prior is applied"));
            }
            if let Some(hold_s) = watch.worse_for_s() {
                return refuse(
                    Reason::WorseThanFallback,
                    format!("it did worse than the capacity prior, which is applied for another {hold_s:.0} s"),
                );
            }
            Some(proposal)
        }
    }
}

/// What is unfamiliar, in words: the feature that is furthest out, its value, and what training saw.
fn unfamiliar_detail(case: &Case<'_>, now: bool, strange: usize) -> String {
    let count = case.unfamiliar.len();
    let furthest = case.unfamiliar.iter().flatten().max_by(|a, b| a.distance.total_cmp(&b.distance));
    match (case.unfamiliar_backend, furthest) {
        (Some(strangeness), _) => format!("unlike anything the policy was trained on: {strangeness}"),
        (None, Some(strangeness)) if now => {
            format!("{strange} of {count} endpoints are unlike anything the policy was trained on: {strangeness}")
        }
        _ => "the input was unlike anything the policy was trained on a moment ago".to_owned(),
    }
}

/// The policy's residuals, 0 where an endpoint's metrics do not allow a judgement.
fn heard_residuals(case: &Case<'_>, proposal: &Proposal, actions: &mut Vec<GuardAction>) -> Vec<f64> {
    let mut missing = Vec::new();
    let mut residuals = Vec::with_capacity(case.endpoints.len());
    for (index, endpoint) in case.observation.endpoints.iter().enumerate() {
        let age_s = information_age_s(endpoint);
        let strange = case.unfamiliar_backend.or(case.unfamiliar.get(index).copied().flatten());
        let residual = match age_s {
            Some(age_s) if age_s > STALE_S => {
                actions.push(GuardAction {
                    reason: Reason::StaleMetrics,
                    endpoint: Some(endpoint.key),
                    detail: format!("metrics are {age_s:.1} s old, {STALE_S:.0} s are allowed: its prior counts"),
                });
                0.0
            }
            Some(_) => match strange {
                Some(strangeness) => {
                    actions.push(GuardAction {
                        reason: Reason::UnfamiliarInput,
                        endpoint: Some(endpoint.key),
                        detail: format!("unlike anything the policy was trained on: {strangeness}: its prior counts"),
                    });
                    0.0
                }
                None => proposal.log_weights[index],
            },
            None => {
                missing.push(endpoint.key);
                0.0
            }
        };
        residuals.push(residual);
    }
    // One line, not thousands, for a backend that nobody has reported on yet.
    if missing.len() == case.endpoints.len() && !missing.is_empty() {
        actions.push(GuardAction {
            reason: Reason::MissingMetrics,
            endpoint: None,
            detail: "neither the endpoints nor the proxies have told anything yet: the prior counts".to_owned(),
        });
    } else {
        actions.extend(missing.into_iter().map(|key| GuardAction {
            reason: Reason::MissingMetrics,
            endpoint: Some(key),
            detail: "it has no metrics and no proxy reports on it: its prior counts".to_owned(),
        }));
    }
    residuals
}

/// Age of what is known of an endpoint: of its own metrics where it has any, else of the proxies' reports.
fn information_age_s(endpoint: &EndpointObservation) -> Option<f32> {
    let age = |age_s: f32| if age_s.is_nan() { f32::INFINITY } else { age_s };
    endpoint.scraped.age_s().or_else(|| endpoint.reported.map(|reported| age(reported.age_s)))
}

/// Healthy: ready, not failing most of its answers, and not ejected by most proxies.
fn healthy(observation: &Observation, endpoint: &EndpointObservation, memory: &EndpointMemory) -> bool {
    let ejected = endpoint.reported.map_or(0, |reported| reported.ejected_by);
    endpoint.ready && memory.error_fast < 0.5 && u64::from(ejected) * 2 <= u64::from(observation.proxies.max(1))
}

fn in_panic(case: &Case<'_>, settings: &GuardSettings, actions: &mut Vec<GuardAction>) -> bool {
    let total = case.endpoints.iter().filter(|memory| memory.was_ready).count();
    let healthy = case
        .observation
        .endpoints
        .iter()
        .zip(case.endpoints)
        .filter(|(endpoint, memory)| healthy(case.observation, endpoint, memory))
        .count();
    let panic = total > 0 && (healthy as f64) < settings.panic_healthy_min * total as f64;
    if panic {
        actions.push(GuardAction {
            reason: Reason::PanicThreshold,
            endpoint: None,
            detail: format!(
                "{healthy} of {total} endpoints are healthy, below {:.0} %: all get their prior share",
                100.0 * settings.panic_healthy_min
            ),
        });
    }
    panic
}

/// Holds each weight to within a step of the last applied one, relative to the endpoints that were there before and
/// stay.
fn step(case: &Case<'_>, settings: &GuardSettings, mut wanted: Vec<f64>, actions: &mut Vec<GuardAction>) -> Vec<f64> {
    let window_s = settings.slow_start_window_s;
    let before: Vec<Option<f64>> = case
        .observation
        .endpoints
        .iter()
        .zip(case.endpoints)
        // Slow start is the bound on the growth of a new endpoint.
        .map(|(endpoint, memory)| memory.applied.filter(|_| endpoint.ready && memory.ready_age_s(endpoint) >= window_s))
        .collect();
    let (mass_before, mass_wanted) = before
        .iter()
        .zip(&wanted)
        .filter_map(|(before, wanted)| Some(((*before)?, *wanted)))
        .fold((0.0, 0.0), |(b, w), (before, wanted)| (b + before, w + wanted));
    if mass_before <= 0.0 {
        return wanted;
    }
    for (index, before) in before.iter().enumerate() {
        let Some(before) = before else { continue };
        let endpoint = &case.observation.endpoints[index];
        let reference = before / mass_before * mass_wanted;
        let failing = !healthy(case.observation, endpoint, &case.endpoints[index])
            || case.endpoints[index].error_fast > settings.failing_error_share;
        let lowest = if failing { 0.0 } else { reference * (-settings.step_down_max).exp() };
        let highest = reference * settings.step_up_max.exp();
        let allowed = wanted[index].clamp(lowest, highest);
        if (allowed / wanted[index]).ln().abs() > 1e-9 {
            actions.push(GuardAction {
                reason: Reason::StepLimit,
                endpoint: Some(endpoint.key),
                detail: format!(
                    "x{:.2} of its last weight was wanted, x{:.2} is allowed in one tick",
                    wanted[index] / reference,
                    allowed / reference
                ),
            });
            wanted[index] = allowed;
        }
    }
    normalise(&mut wanted);
    wanted
}

fn slow_start(
    case: &Case<'_>,
    settings: &GuardSettings,
    weights: &mut [f64],
    adjustments: &mut [f64],
    actions: &mut Vec<GuardAction>,
) {
    if settings.slow_start_window_s <= 0.0 {
        return;
    }
    let ages = case.observation.endpoints.iter().zip(case.endpoints).map(|(e, memory)| (e, memory.ready_age_s(e)));
    let mut any_grown = false;
    let mut ramps = Vec::new();
    for (index, (endpoint, age_s)) in ages.enumerate() {
        if !endpoint.ready {
            continue;
        }
        if age_s >= settings.slow_start_window_s {
            any_grown = true;
            continue;
        }
        let start = settings.slow_start_share;
        ramps.push((index, age_s, start + (1.0 - start) * age_s / settings.slow_start_window_s));
    }
    // With nobody to take the load meanwhile there is nothing to ramp against.
    if !any_grown {
        return;
    }
    for (index, age_s, ramp) in ramps {
        weights[index] *= ramp;
        if settings.slow_start_strict {
            adjustments[index] *= ramp;
        }
        actions.push(GuardAction {
            reason: Reason::SlowStart,
            endpoint: Some(case.observation.endpoints[index].key),
            detail: format!(
                "ready for {age_s:.1} s of {:.0} s: {:.0} % of its share",
                settings.slow_start_window_s,
                100.0 * ramp
            ),
        });
    }
    normalise(weights);
}

/// What is asked for beyond capacity is held within the bounds of shares.
fn adjustment_bounds(
    case: &Case<'_>,
    settings: &GuardSettings,
    adjustments: &mut [f64],
    actions: &mut Vec<GuardAction>,
) {
    for (endpoint, adjustment) in case.observation.endpoints.iter().zip(adjustments) {
        let held = adjustment.clamp(settings.share_floor.clamp(1e-3, 1.0), settings.share_ceiling.clamp(1.0, 1e3));
        if held != *adjustment {
            let (reason, word) =
                if held > *adjustment { (Reason::ShareFloor, "floor") } else { (Reason::ShareCeiling, "ceiling") };
            actions.push(GuardAction {
                reason,
                endpoint: Some(endpoint.key),
                detail: format!("an adjustment by x{adjustment:.3} is held at the {word} of x{held:.3}"),
            });
            *adjustment = held;
        }
    }
}

fn share_bounds(case: &Case<'_>, settings: &GuardSettings, weights: &mut [f64], actions: &mut Vec<GuardAction>) {
    let ready: Vec<bool> = case.observation.endpoints.iter().map(|endpoint| endpoint.ready).collect();
    for (index, moved) in bounds::hold(weights, &ready, settings) {
        let (reason, word) = match moved {
            bounds::Moved::Up => (Reason::ShareFloor, "floor"),
            bounds::Moved::Down => (Reason::ShareCeiling, "ceiling"),
        };
        actions.push(GuardAction {
            reason,
            endpoint: Some(case.observation.endpoints[index].key),
            detail: format!("its share is held at the {word} of {:.2} %", 100.0 * weights[index]),
        });
    }
}
