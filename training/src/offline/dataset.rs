//! Recorded ticks as what reinforcement learning learns from: episodes of steps, each with the state (the very features that the policy saw), the
//! action in force, and what the interval before it brought.
//!
//! Features are not recorded: they are made again, by the production code, from the recorded observations and a memory that is passed from tick to
//! tick as the controller passes it. A row holds the observation of the interval that *ended* with its tick and the decision for the one that
//! *begins*; so the outcome of a step's action is in the next step.
//!
//! Routing is a continuing task. Where a recording has a hole the episode is *truncated*: what came next is unknown, not worth nothing. Only a
//! backend without any endpoint that may get requests *terminates*.

use std::collections::BTreeMap;

use rand::{SeedableRng, rngs::SmallRng};
use serde::Serialize;
use trimtab_model::{
    GuardConfig, Memory, Policy, decide,
    decision::{Mode, RuleParameters},
    features::Features,
    observation::{EndpointKey, EndpointObservation, Measured, Observation, Reported, Scraped},
    policy::{EXPLORATION_TICKS, RULE_PARAMETERS},
    recording::TickRow,
    service::{Service, complete},
};

/// Reasons of the guard after which the policy's residual at an endpoint is not what is in force.
const UNHEARD: [&str; 8] = [
    "ModeOff",
    "ModeShadow",
    "StaleMetrics",
    "MissingMetrics",
    "PanicThreshold",
    "UnfamiliarInput",
    "PolicyFault",
    "WorseThanFallback",
];
/// How much of an endpoint's share is its weight, the rest being its answers of the last interval: one without answers is not without weight.
const WEIGHT_PART: f64 = 0.2;
/// Largest log residual that is believed; the guard's ceiling is a factor of 8.
const ACTION_MAX: f64 = 7.0;

/// What was recorded, ready to learn from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Dataset {
    /// Stretches without a hole, in order.
    pub episodes: Vec<Episode>,
    /// What was left out, and why.
    pub skipped: Skipped,
    /// Standard deviation of the exploration noise on each log weight; `None` where none was drawn.
    pub exploration_std: Option<f64>,
    /// Part of the ticks at which residuals came in as adjustments of expected times, since pods tell what they can do. At the others they came in as weights, over a
    /// prior that is read from latencies, which follow the weights.
    pub adjusted_share: f64,
}

/// Steps that follow on each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Episode {
    /// Of which backend.
    pub backend: String,
    /// At least two.
    pub steps: Vec<Step>,
    /// Why it ends.
    pub end: End,
}

/// How an episode ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// No endpoint may get requests: there is nothing left to route.
    Terminated,
    /// More came, but not here.
    Truncated(Cut),
}

/// Why an episode is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The recording ends, or a block of it (see [`Dataset::split`]).
    RecordingEnds,
    /// Ticks are missing.
    Gap,
    /// The clock jumped, or an interval has no length.
    ClockJump,
    /// There are other endpoints than before.
    EndpointsChanged,
    /// Another policy, another mode, or another controller decides.
    PolicyChanged,
    /// A tick with numbers that cannot be.
    BrokenTick,
}

/// One tick.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// When, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// What the policy saw.
    pub features: Features,
    /// The endpoints, in the order of the features' rows.
    pub endpoints: Vec<At>,
    /// Log factors on the rule's parameters in force, see [`RULE_PARAMETERS`].
    pub parameters: [f64; RULE_PARAMETERS.len()],
    /// Log-density of the exploration noise, where any was drawn.
    pub log_probability: Option<f64>,
    /// The latency objective.
    pub objective_ms: Option<f64>,
    /// Whether residuals came in as adjustments, see [`Dataset::adjusted_share`].
    pub adjusted: bool,
}

/// One endpoint at one tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct At {
    /// Which.
    pub key: EndpointKey,
    /// Whether it may get requests.
    pub ready: bool,
    /// Whether a policy's residual is heard there; where not, the prior counts whatever the policy says.
    pub heard: bool,
    /// Its part of the requests; those of a step sum to 1.
    pub share: f64,
    /// Log residual that was asked for where the policy is heard, else 0; less the mean of all by share, as adding the same to all changes nothing. Not what
    /// was in force: the guard's steps follow the prior's, and the prior follows what goes wrong.
    pub action: f64,
    /// Log residual that the policy proposed, noise included, up to what all endpoints of the step have in common.
    pub proposed: f64,
    /// What the proxies saw of it in the interval that ended with this tick.
    pub seen: Option<Reported>,
}

/// Ticks and endpoints that were left out, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Skipped {
    /// Ticks in the recording.
    pub ticks: usize,
    /// Ticks with weights that are no shares, or with one endpoint twice.
    pub broken: usize,
    /// Ticks without a neighbour to learn from.
    pub alone: usize,
    /// Holes: ticks missing.
    pub gaps: usize,
    /// Holes: the clock jumped.
    pub clock_jumps: usize,
    /// Cuts where endpoints changed.
    pub endpoint_changes: usize,
    /// Cuts where another policy, mode or controller took over.
    pub policy_changes: usize,
    /// Endpoints × ticks at which the policy was not heard.
    pub unheard: usize,
}

impl Dataset {
    /// From the rows of one or more backends, each backend's in the order in which they were written. `service`: what the policy that decided knew of its
    /// service, see [`Policy::service`]; it saw its pods with that.
    pub fn new(rows: &[TickRow], service: Option<&Service>) -> Self {
        let mut backends: BTreeMap<&str, Vec<&TickRow>> = BTreeMap::new();
        for row in rows {
            backends.entry(&row.backend).or_default().push(row);
        }
        let mut dataset = Self::default();
        for (backend, rows) in backends {
            dataset.add(backend, &rows, service);
        }
        dataset.exploration_std = exploration_std(dataset.steps());
        let adjusted = dataset.steps().filter(|step| step.adjusted).count();
        dataset.adjusted_share = adjusted as f64 / dataset.steps().count().max(1) as f64;
        dataset
    }

    /// All steps.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.episodes.iter().flat_map(|episode| &episode.steps)
    }

    /// Transitions: steps that have a next one.
    pub fn transitions(&self) -> usize {
        self.episodes.iter().map(|episode| episode.steps.len() - 1).sum()
    }

    /// What to learn from, and what to judge by: blocks of `block` steps, of which every `nth` is held out. Steps at the seams are shared by neither, as
    /// they tell of the other side: noise that was drawn there still stands.
    pub fn split(&self, block: usize, nth: usize) -> (Self, Self) {
        const SEAM: usize = EXPLORATION_TICKS as usize;
        let (mut kept, mut held) = (self.with(Vec::new()), self.with(Vec::new()));
        let mut number = 0;
        for episode in &self.episodes {
            let blocks = episode.steps.len().div_ceil(block.max(SEAM + 2));
            for (index, steps) in episode.steps.chunks(block.max(SEAM + 2)).enumerate() {
                let to = if number % nth.max(2) == nth.max(2) - 1 { &mut held } else { &mut kept };
                let from = if index == 0 { 0 } else { SEAM };
                let end = if index + 1 == blocks { episode.end } else { End::Truncated(Cut::RecordingEnds) };
                if steps.len() >= from + 2 {
                    to.episodes.push(Episode { backend: episode.backend.clone(), steps: steps[from..].to_vec(), end });
                }
                number += 1;
            }
        }
        (kept, held)
    }

    fn with(&self, episodes: Vec<Episode>) -> Self {
        let Self { skipped, exploration_std, adjusted_share, .. } = *self;
        Self { episodes, skipped, exploration_std, adjusted_share }
    }

    fn add(&mut self, backend: &str, rows: &[&TickRow], service: Option<&Service>) {
        let mut replay = Replay { service, memory: Memory::default(), last_tick: None };
        let mut open: Vec<Step> = Vec::new();
        let mut before: Option<Vec<&TickRow>> = None;
        for tick in ticks(rows) {
            self.skipped.ticks += 1;
            let cut = before.as_deref().and_then(|before| cut(before, &tick));
            match cut {
                Some(Cut::Gap) => self.skipped.gaps += 1,
                Some(Cut::ClockJump) => self.skipped.clock_jumps += 1,
                Some(Cut::EndpointsChanged) => self.skipped.endpoint_changes += 1,
                Some(Cut::PolicyChanged) => self.skipped.policy_changes += 1,
                _ => {}
            }
            if let Some(cut) = cut {
                self.close(backend, &mut open, End::Truncated(cut));
            }
            match replay.step(&tick) {
                Some(step) => {
                    self.skipped.unheard += step.endpoints.iter().filter(|at| !at.heard).count();
                    let over = !step.endpoints.iter().any(|at| at.ready);
                    open.push(step);
                    if over {
                        self.close(backend, &mut open, End::Terminated);
                    }
                }
                None => {
                    self.skipped.broken += 1;
                    self.close(backend, &mut open, End::Truncated(Cut::BrokenTick));
                }
            }
            before = Some(tick);
        }
        self.close(backend, &mut open, End::Truncated(Cut::RecordingEnds));
    }

    fn close(&mut self, backend: &str, open: &mut Vec<Step>, end: End) {
        let steps = std::mem::take(open);
        if steps.len() >= 2 {
            self.episodes.push(Episode { backend: backend.to_owned(), steps, end });
        } else {
            self.skipped.alone += steps.len();
        }
    }
}

/// A policy's residuals at a step, as they would be in force: 0 where it is not heard or finds the endpoint unfamiliar.
pub fn residuals(policy: &Policy, step: &Step) -> Vec<f64> {
    let unheard = || vec![0.0; step.endpoints.len()];
    // Without exploration nothing is drawn.
    let mut rng = SmallRng::seed_from_u64(0);
    let Ok(proposal) = policy.clone().with_exploration(0.0).propose(&step.features, &mut rng) else {
        return unheard();
    };
    if !proposal.is_finite() {
        return unheard();
    }
    let margin = GuardConfig::default().settings().unfamiliar_margin;
    let far = |strange: Option<trimtab_model::policy::Strangeness>| {
        strange.is_some_and(|strange| f64::from(strange.distance) > margin)
    };
    if far(proposal.strange_context) {
        return unheard();
    }
    let endpoints = step.endpoints.iter().zip(&proposal.log_weights).zip(&proposal.strange);
    endpoints.map(|((at, residual), strange)| if at.heard && !far(*strange) { *residual } else { 0.0 }).collect()
}

/// A policy's log factors on the rule's parameters at a step.
pub fn parameters(policy: &Policy, step: &Step) -> [f64; RULE_PARAMETERS.len()] {
    let mut rng = SmallRng::seed_from_u64(0);
    let proposal = policy.clone().with_exploration(0.0).propose(&step.features, &mut rng);
    proposal.map_or([0.0; RULE_PARAMETERS.len()], |proposal| proposal.parameters)
}

/// Takes their mean by share from residuals.
pub fn centre(step: &Step, residuals: &mut [f64]) {
    let mean: f64 = step.endpoints.iter().zip(&*residuals).map(|(at, residual)| at.share * residual).sum();
    residuals.iter_mut().for_each(|residual| *residual -= mean);
}

/// The standard deviation that makes the recorded log-densities most likely; `None` without any.
///
/// The noise itself is not recorded, but `−½Σz² − n ln σ − ½n ln 2π` is, and Σz² is n on average. It is the same as long as the deviation is.
fn exploration_std<'a>(steps: impl Iterator<Item = &'a Step>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0.0);
    for step in steps {
        if let Some(log_probability) = step.log_probability {
            sum += log_probability;
            count += step.endpoints.len() as f64;
        }
    }
    let std = (-sum / count - 0.5 - 0.5 * std::f64::consts::TAU.ln()).exp();
    (count > 0.0 && std.is_finite()).then_some(std)
}

/// Rows of one tick each, in order.
fn ticks<'a>(rows: &[&'a TickRow]) -> Vec<Vec<&'a TickRow>> {
    let mut ticks: Vec<Vec<&TickRow>> = Vec::new();
    for row in rows {
        match ticks.last_mut() {
            Some(tick) if (tick[0].tick, tick[0].at_ms) == (row.tick, row.at_ms) => tick.push(row),
            _ => ticks.push(vec![row]),
        }
    }
    ticks
}

/// Why these two ticks do not follow on each other; `None` if they do.
fn cut(before: &[&TickRow], now: &[&TickRow]) -> Option<Cut> {
    let (last, next) = (before[0], now[0]);
    if next.tick <= last.tick {
        return Some(Cut::PolicyChanged);
    }
    if next.tick != last.tick + 1 {
        return Some(Cut::Gap);
    }
    let passed_ms = next.at_ms.saturating_sub(last.at_ms) as f64;
    let expected_ms = 1e3 * next.interval_s;
    let right = expected_ms > 0.0 && (passed_ms - expected_ms).abs() <= (0.5 * expected_ms).max(100.0);
    if !right {
        return Some(Cut::ClockJump);
    }
    if (&last.policy_version, &last.mode) != (&next.policy_version, &next.mode) {
        return Some(Cut::PolicyChanged);
    }
    let same = before.len() == now.len() && before.iter().zip(now).all(|(a, b)| a.endpoint == b.endpoint);
    (!same).then_some(Cut::EndpointsChanged)
}

/// The controller's memory, tick after tick.
struct Replay<'a> {
    service: Option<&'a Service>,
    memory: Memory,
    last_tick: Option<u64>,
}

impl Replay<'_> {
    /// The step of a tick; `None` where its numbers cannot be. The observation counts all the same.
    fn step(&mut self, rows: &[&TickRow]) -> Option<Step> {
        let observation = observation(rows);
        let observation = complete(&observation, self.service).observation;
        if self.last_tick.is_some_and(|last| observation.tick <= last) {
            // A controller that has started anew remembers nothing.
            self.memory = Memory::default();
        }
        self.last_tick = Some(observation.tick);
        let features = Features::of(&observation, &self.memory);
        // What is remembered depends on the observation and not on what was decided on it, so the cheapest policy will do; and what `decide`
        // answers where no policy is heard is the rule that the recorded one's factors are of.
        let mut rng = SmallRng::seed_from_u64(0);
        let (base, memory) =
            decide(&observation, &self.memory, &Policy::prior_only(), &GuardConfig::default(), Mode::Off, &mut rng);
        self.memory = memory;
        step(rows, &observation, features, &base.parameters)
    }
}

fn step(rows: &[&TickRow], observation: &Observation, features: Features, base: &RuleParameters) -> Option<Step> {
    let log_ratio =
        |of: f64, to: f64| (of > 0.0 && to > 0.0).then(|| (of / to).ln()).filter(|log| log.abs() < ACTION_MAX);
    let total: f64 = observation.endpoints.iter().filter(|endpoint| endpoint.ready).map(answers).sum();
    let ready = || rows.iter().filter(|row| row.ready);
    let weights: f64 = ready().map(|row| row.weight_applied).sum();
    let mut endpoints = Vec::with_capacity(rows.len());
    let mut keys: Vec<u64> = rows.iter().map(|row| row.endpoint).collect();
    keys.sort_unstable();
    keys.dedup();
    if keys.len() != rows.len() || !weights.is_finite() {
        return None;
    }
    for (row, endpoint) in rows.iter().zip(&observation.endpoints) {
        log_ratio(row.weight_applied, row.weight_baseline)?;
        let proposed = log_ratio(row.weight_proposed, row.weight_baseline)?;
        let heard = row.ready && !row.guard.iter().any(|reason| UNHEARD.contains(&&**reason));
        let by_weight = if weights > 0.0 { row.weight_applied / weights } else { 0.0 };
        let by_answers = if total > 0.0 { answers(endpoint) / total } else { by_weight };
        let share = if row.ready { WEIGHT_PART * by_weight + (1.0 - WEIGHT_PART) * by_answers } else { 0.0 };
        let proposed = match row.adjustment {
            // The residual itself, not only up to what all have in common.
            Some(adjustment) if heard => log_ratio(adjustment, 1.0)?,
            _ => proposed,
        };
        let action = if heard { proposed } else { 0.0 };
        endpoints.push(At {
            key: endpoint.key,
            ready: row.ready,
            heard,
            share,
            action,
            proposed,
            seen: endpoint.reported,
        });
    }
    let whole: f64 = endpoints.iter().map(|at| at.share).sum();
    if whole > 0.0 {
        endpoints.iter_mut().for_each(|at| at.share /= whole);
    }
    let mean: f64 = endpoints.iter().map(|at| at.share * at.action).sum();
    for at in &mut endpoints {
        at.action = if at.ready { at.action - mean } else { 0.0 };
    }
    let first = rows[0];
    let factor = |pushed: Option<f32>, base: f32| {
        pushed.and_then(|pushed| log_ratio(f64::from(pushed), f64::from(base))).unwrap_or(0.0)
    };
    Some(Step {
        at_ms: first.at_ms,
        features,
        endpoints,
        parameters: [
            factor(Some(first.rule_offset), base.offset),
            factor(Some(first.rule_latency_exponent), base.latency_exponent),
            factor(Some(first.rule_error_exponent), base.error_exponent),
            factor(first.rule_weight_exponent, base.weight_exponent),
            factor(first.rule_work_share, base.work_share),
        ],
        log_probability: first.log_probability.filter(|log| log.is_finite()),
        objective_ms: first.objective_ms.filter(|ms| ms.is_finite() && *ms > 0.0),
        adjusted: first.adjustment.is_some(),
    })
}

fn answers(endpoint: &EndpointObservation) -> f64 {
    endpoint.reported.map_or(0.0, |seen| seen.successes as f64 + seen.errors as f64)
}

/// The observation that a tick's rows were written from.
pub fn observation(rows: &[&TickRow]) -> Observation {
    let first = rows[0];
    Observation {
        backend: first.backend.clone(),
        tick: first.tick,
        at_ms: first.at_ms,
        interval_s: first.interval_s,
        proxies: first.proxies,
        objective_ms: first.objective_ms,
        endpoints: rows.iter().map(|row| endpoint(row)).collect(),
    }
}

fn endpoint(row: &TickRow) -> EndpointObservation {
    let measured = |value: Option<f64>, age_s: Option<f32>| {
        value.map(|value| Measured { value, age_s: age_s.unwrap_or(f32::INFINITY) })
    };
    let reported = row.reported_interval_s.map(|interval_s| Reported {
        interval_s,
        age_s: row.reported_age_s.unwrap_or(0.0),
        successes: row.reported_successes.unwrap_or(0),
        errors: row.reported_errors.unwrap_or(0),
        failures: row.reported_failures.unwrap_or(0),
        in_flight_mean: row.reported_in_flight_mean.unwrap_or(0.0),
        in_flight: row.reported_in_flight.unwrap_or(0),
        latency_ms_mean: row.reported_latency_ms_mean,
        latency_ms_p10: row.reported_latency_ms_p10,
        latency_ms_p50: row.reported_latency_ms_p50,
        latency_ms_p99: row.reported_latency_ms_p99,
        ejected_by: row.reported_ejected_by.unwrap_or(0),
        error: row.reported_error.unwrap_or(0.0),
    });
    EndpointObservation {
        key: EndpointKey(row.endpoint),
        ready: row.ready,
        ready_age_s: row.ready_age_s,
        restarts: row.restarts,
        zone_match: row.zone_match,
        slots: row.slots_learned,
        slots_deviation: row.slots_deviation,
        reported,
        scraped: Scraped {
            in_flight: measured(row.in_flight, row.in_flight_age_s),
            busy: measured(row.busy, row.busy_age_s),
            worker_limit: measured(row.worker_limit, row.worker_limit_age_s),
            completed_rps: measured(row.completed_rps, row.completed_rps_age_s),
            latency_ms_mean: measured(row.latency_ms_mean, row.latency_ms_mean_age_s),
            latency_ms_p99: measured(row.latency_ms_p99, row.latency_ms_p99_age_s),
            cpu_cores: measured(row.cpu_cores, row.cpu_cores_age_s),
            cpu_limit_cores: measured(row.cpu_limit_cores, row.cpu_limit_cores_age_s),
            memory_bytes: measured(row.memory_bytes, row.memory_bytes_age_s),
            memory_limit_bytes: measured(row.memory_limit_bytes, row.memory_limit_bytes_age_s),
            start_time_s: measured(row.start_time_s, row.start_time_s_age_s),
        },
    }
}

#[cfg(test)]
mod tests;
