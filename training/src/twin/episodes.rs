//! What happened to endpoints while they were recorded: spells in which they were slow, errors, absences; and how the load moved. Tick by tick,
//! so that a stretch of a recording can be played again.

use super::{
    fit::Fit,
    median,
    trace::{Seen, Trace},
};

/// How much slower an endpoint may be in a spell, as tried; the last stands still.
const SLOWER: [f64; 5] = [1.0, 2.0, 4.0, 10.0, 40.0];
/// What a change between them must be worth, in log-likelihood: a false spell in some hundred ticks.
const CHANGE: f64 = 4.0;
/// Completions of a tick vary more than a Poisson count with its mean, as work varies; at least by this.
const OVERDISPERSION_MIN: f64 = 2.0;
/// Residuals further away than this are not of this tick's speed.
const OUTLIER: f64 = 2.5;
/// Ticks with less expected than this say nothing.
const EXPECTED_MIN: f64 = 0.5;
/// Share of errors from which on an endpoint is taken to fail, and ticks over which it is looked at.
const FAILING: f64 = 0.02;
const FAILING_TICKS: usize = 3;
/// Errors that come sooner than this share of the usual time were answered without doing the work.
const FAST: f64 = 0.4;
/// Bins of the utilisation curve.
const BINS: usize = 24;

/// What an endpoint went through in one tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// Its speed as a share of its own.
    pub speed: f64,
    /// Share of requests that it fails.
    pub error: f64,
    /// Whether the endpoint list lets it have requests.
    pub ready: bool,
    /// Whether it answers at all.
    pub up: bool,
}

impl State {
    /// Nothing wrong.
    pub const WELL: Self = Self { speed: 1.0, error: 0.0, ready: true, up: true };
    /// Not there.
    pub const AWAY: Self = Self { speed: 1.0, error: 0.0, ready: false, up: false };
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Episodes {
    /// By tick, then by endpoint.
    pub states: Vec<Vec<State>>,
    /// Requests that ended in each tick, per second.
    pub rate_rps: Vec<f64>,
    /// When errors come that are answered without doing the work, in milliseconds; `None`: they take as long as answers do.
    pub fast_error_ms: Option<f64>,
}

impl Episodes {
    /// Those of a trace.
    pub fn of(trace: &Trace, fit: &Fit) -> Self {
        let mut states: Vec<Vec<State>> = trace.ticks.iter().map(|tick| presence(&tick.endpoints)).collect();
        let curve = Curve::of(trace, fit);
        let residuals = residuals(trace, fit);
        let deviation = fit.deviation.max(0.05);
        for (endpoint, residuals) in residuals.into_iter().enumerate() {
            let evidence: Vec<Evidence> = trace
                .ticks
                .iter()
                .zip(residuals)
                .map(|(tick, residuals)| Evidence {
                    completed: tick.endpoints[endpoint].and_then(|seen| {
                        Some((curve.expected(&seen, fit, endpoint, tick.interval_s)?, seen.outcomes[0] as f64))
                    }),
                    residuals,
                })
                .collect();
            let dispersion = fit.variation(endpoint).max(OVERDISPERSION_MIN);
            let spells = spells(&evidence, Noise { dispersion, deviation });
            for (tick, slower) in spells.into_iter().enumerate() {
                states[tick][endpoint].speed = 1.0 / slower;
                states[tick][endpoint].error = error_share(trace, endpoint, tick);
            }
        }
        let rate_rps = trace.ticks.iter().map(|tick| {
            let ended: u64 = tick.endpoints.iter().flatten().map(Seen::ended).sum();
            if tick.interval_s > 0.0 { ended as f64 / tick.interval_s } else { 0.0 }
        });
        Self { states, rate_rps: rate_rps.collect(), fast_error_ms: fast_error_ms(trace, fit) }
    }

    /// Share of ticks and endpoints in which something was wrong.
    pub fn trouble_share(&self) -> f64 {
        let wrong =
            self.states.iter().flatten().filter(|state| **state != State::WELL && **state != State::AWAY).count();
        wrong as f64 / self.states.iter().map(Vec::len).sum::<usize>().max(1) as f64
    }
}

fn presence(endpoints: &[Option<Seen>]) -> Vec<State> {
    let state = |seen: &Option<Seen>| match seen {
        None => State::AWAY,
        // One that fails every request without an answer is dead, whatever the endpoint list says.
        Some(seen) => State { ready: seen.ready, up: seen.outcomes[2] == 0 || seen.outcomes[0] > 0, ..State::WELL },
    };
    endpoints.iter().map(state).collect()
}

/// How much of an endpoint is in use when so many requests a slot are in flight there: as usual for this service, whatever the
/// distribution of its work. Slow ticks are outliers to it.
struct Curve {
    /// Median of (work completed ÷ what all slots could complete) by bins of requests a slot.
    used: [f64; BINS],
}

impl Curve {
    fn of(trace: &Trace, fit: &Fit) -> Self {
        let mut bins: Vec<Vec<f64>> = vec![Vec::new(); BINS];
        for tick in &trace.ticks {
            for (endpoint, seen) in tick.endpoints.iter().enumerate() {
                let Some((seen, inside)) = seen.and_then(|seen| Some((seen, seen.in_flight?))) else { continue };
                let capacity = capacity(fit, endpoint, tick.interval_s);
                if capacity > 0.0 && inside > 0.0 {
                    let slots = f64::from(fit.endpoints[endpoint].slots);
                    bins[bin(inside / slots)].push(seen.outcomes[0] as f64 / capacity);
                }
            }
        }
        let mut used = [0.0; BINS];
        let mut so_far: f64 = 0.0;
        for (used, ratios) in used.iter_mut().zip(&mut bins) {
            // More in flight never means less in use.
            so_far = so_far.max(if ratios.len() >= 20 { median(ratios).unwrap_or(0.0) } else { 0.0 });
            *used = so_far;
        }
        Self { used }
    }

    /// Requests that an endpoint in good health would have completed.
    fn expected(&self, seen: &Seen, fit: &Fit, endpoint: usize, interval_s: f64) -> Option<f64> {
        let slots = f64::from(fit.endpoints[endpoint].slots);
        let expected = self.used[bin(seen.in_flight? / slots)] * capacity(fit, endpoint, interval_s);
        (expected >= EXPECTED_MIN).then_some(expected)
    }
}

/// Requests of the usual mix that all slots of an endpoint could complete in so many seconds.
fn capacity(fit: &Fit, endpoint: usize, interval_s: f64) -> f64 {
    interval_s * 1e3 * f64::from(fit.endpoints[endpoint].slots) / fit.mean_ms(endpoint).max(1e-6)
}

/// By endpoint and tick: how much longer the sampled requests that were half done then took than was to be expected.
fn residuals(trace: &Trace, fit: &Fit) -> Vec<Vec<Vec<f64>>> {
    let mut residuals = vec![vec![Vec::new(); trace.ticks.len()]; trace.keys.len()];
    for request in trace.requests.iter().filter(|request| request.good) {
        let half_ms = request.at_ms + (request.latency_ms / 2.0) as i64;
        let tick = trace.ticks.partition_point(|tick| tick.at_ms < half_ms);
        if tick < trace.ticks.len() {
            residuals[request.endpoint][tick].push(fit.residual(request));
        }
    }
    residuals
}

/// What one tick says of an endpoint's speed.
#[derive(Debug, Clone, PartialEq, Default)]
struct Evidence {
    /// Requests that it would have completed in good health, and those that it did.
    completed: Option<(f64, f64)>,
    /// See [`residuals`].
    residuals: Vec<f64>,
}

/// How much chance there is in the evidence.
#[derive(Debug, Clone, Copy)]
struct Noise {
    /// Variance of completions over their mean.
    dispersion: f64,
    /// Mean absolute deviation of residuals.
    deviation: f64,
}

impl Evidence {
    /// Log-likelihood of an endpoint that is so many times slower than usual, up to a constant: completions as an overdispersed Poisson count,
    /// residuals as Laplace's.
    fn log_likelihood(&self, slower: f64, noise: Noise) -> f64 {
        let counted = self.completed.map_or(0.0, |(expected, completed)| {
            let mean = expected / slower;
            (completed * mean.ln() - mean) / noise.dispersion
        });
        let log = slower.ln();
        let deviation = self.residuals.iter().map(|residual| (residual - log).abs().min(OUTLIER)).sum::<f64>();
        counted - deviation / noise.deviation
    }
}

/// Bins of requests a slot, from a tenth to eight, evenly in logarithms.
fn bin(inside_a_slot: f64) -> usize {
    let place = (inside_a_slot.max(1e-3) / 0.1).ln() / 80f64.ln() * BINS as f64;
    (place.max(0.0) as usize).min(BINS - 1)
}

/// How much slower the endpoint was in each tick: the likeliest path through [`SLOWER`] (Viterbi 1967), then what each spell says by itself.
fn spells(evidence: &[Evidence], noise: Noise) -> Vec<f64> {
    const COUNT: usize = SLOWER.len();
    // Well until something says otherwise.
    let mut score: [f64; COUNT] = std::array::from_fn(|state| if state == 0 { 0.0 } else { -CHANGE });
    let mut from: Vec<[usize; COUNT]> = Vec::with_capacity(evidence.len());
    for tick in evidence {
        let (best, best_score) =
            score.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
        let stays = score.map(|score| score >= best_score - CHANGE);
        from.push(std::array::from_fn(|state| if stays[state] { state } else { best }));
        score = std::array::from_fn(|state| {
            let before = if stays[state] { score[state] } else { best_score - CHANGE };
            before + tick.log_likelihood(SLOWER[state], noise)
        });
    }
    let mut state = (0..COUNT).max_by(|a, b| score[*a].total_cmp(&score[*b])).unwrap_or(0);
    let mut path = vec![0; evidence.len()];
    for (tick, came) in from.iter().enumerate().rev() {
        path[tick] = state;
        state = came[state];
    }
    let mut slower = vec![1.0; evidence.len()];
    let mut start = 0;
    for stretch in path.chunk_by(|a, b| a == b) {
        let end = start + stretch.len();
        if stretch[0] != 0 {
            slower[start..end].fill(factor(&evidence[start..end], SLOWER[stretch[0]], noise));
        }
        start = end;
    }
    slower
}

/// The likeliest factor near `about`.
fn factor(evidence: &[Evidence], about: f64, noise: Noise) -> f64 {
    const STEPS: i32 = 12;
    let tried = (-STEPS..=STEPS).map(|step| about * 2.5f64.powf(f64::from(step) / f64::from(STEPS)));
    let likely = |slower: f64| evidence.iter().map(|tick| tick.log_likelihood(slower, noise)).sum::<f64>();
    let best = tried.map(|slower| (slower, likely(slower))).max_by(|a, b| a.1.total_cmp(&b.1));
    best.map_or(about, |(slower, _)| slower.max(1.0))
}

/// Share of an endpoint's answers around a tick that were errors; 0 where they are few.
fn error_share(trace: &Trace, endpoint: usize, tick: usize) -> f64 {
    let window = tick.saturating_sub(FAILING_TICKS / 2)..(tick + FAILING_TICKS.div_ceil(2)).min(trace.ticks.len());
    let (errors, answers) = trace.ticks[window]
        .iter()
        .filter_map(|tick| tick.endpoints[endpoint])
        .fold((0, 0), |(errors, answers), seen| {
            (errors + seen.outcomes[1], answers + seen.outcomes[0] + seen.outcomes[1])
        });
    let share = if answers == 0 { 0.0 } else { errors as f64 / answers as f64 };
    if share >= FAILING { share } else { 0.0 }
}

fn fast_error_ms(trace: &Trace, fit: &Fit) -> Option<f64> {
    let errors = trace.requests.iter().filter(|request| !request.good);
    let (mut took, mut relative): (Vec<f64>, Vec<f64>) =
        errors.map(|r| (r.latency_ms, r.latency_ms / fit.cost_ms(r.class, r.endpoint))).unzip();
    median(&mut relative).filter(|relative| *relative < FAST).and_then(|_| median(&mut took))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: Noise = Noise { dispersion: 2.0, deviation: 0.5 };

    fn counted(completed: f64) -> Evidence {
        Evidence { completed: Some((20.0, completed)), residuals: Vec::new() }
    }

    fn check(evidence: &[Evidence], slow: std::ops::Range<usize>) {
        let slower = spells(evidence, NOISE);
        for (tick, factor) in slower.iter().enumerate() {
            let right = if slow.contains(&tick) { (3.3..4.8).contains(factor) } else { *factor == 1.0 };
            assert!(right, "tick {tick}: {slower:?}");
        }
    }

    #[test]
    fn a_spell_is_found_with_its_factor_and_noise_is_not() {
        let quiet = |tick: usize| counted(if tick.is_multiple_of(2) { 16.0 } else { 24.0 });
        let slow = |tick| if (20..30).contains(&tick) { counted(5.0) } else { quiet(tick) };
        check(&(0..60).map(slow).collect::<Vec<_>>(), 20..30);
    }

    #[test]
    fn sampled_requests_tell_of_a_spell_where_completions_are_too_few_to() {
        let sampled = |residuals: &[f64]| Evidence { completed: None, residuals: residuals.to_vec() };
        let slow = |tick| if (20..30).contains(&tick) { sampled(&[1.2, 1.6]) } else { sampled(&[-0.4, 0.3]) };
        check(&(0..60).map(slow).collect::<Vec<_>>(), 20..30);
    }

    #[test]
    fn ticks_that_say_nothing_change_nothing() {
        check(&vec![Evidence::default(); 5], 0..0);
        check(&[], 0..0);
        check(&[counted(4.0), counted(6.0), Evidence::default(), Evidence::default(), counted(5.0)], 0..5);
    }
}
