//! Concurrency limiters that can be put before any rival, one in each proxy: `NAME+aimd`, `NAME+gradient2`, `NAME+vegas`. In overload they
//! decide, not the rule.

pub mod aimd;
mod gradient2;
mod vegas;

pub use aimd::{Aimd, WindowedAimd};
pub use gradient2::Gradient2;
pub use vegas::Vegas;

use std::fmt::Debug;

use crate::{
    scenario::Scenario,
    simulator::{
        Outcome, Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
        time::{MILLISECOND, SECOND},
    },
};

/// Netflix's initial and smallest limit. Its largest (200) is a setting of a service; here nothing bounds it but memory.
const LIMIT_MIN: f64 = 20.0;
const LIMIT_MAX: f64 = 20_000.0;

/// One answer, or an average of many.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// Now.
    pub now_ns: u64,
    /// From sending to the answer.
    pub rtt_ns: f64,
    /// Requests in flight as the request was let in, itself included.
    pub in_flight: u32,
    /// No answer came.
    pub dropped: bool,
}

/// A concurrency limit that follows what it sees.
pub trait Limit: Debug {
    /// Requests that may be in flight.
    fn limit(&self) -> f64;

    /// A request ended.
    fn update(&mut self, sample: &Sample);
}

/// Which limiter, with its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limiter {
    /// [`WindowedAimd`].
    Windows(aimd::Knobs),
    /// [`Aimd`].
    Aimd,
    /// [`Gradient2`] on windows.
    Gradient2 {
        /// The long-term latency times this is no reason to lower the limit.
        tolerance: f64,
        /// Length of a window.
        window_ns: u64,
    },
    /// [`Vegas`].
    Vegas {
        /// Length of a window; `None`: at each answer.
        window_ns: Option<u64>,
    },
}

/// Name after the `+`, description and limiter.
type Entry = (&'static str, &'static str, Limiter);

/// All of them, in the order of tables. Tuned ones: see docs/rivals.md, "Tuning".
const LIMITERS: [Entry; 6] = [
    (
        "aimd",
        "lowers the limit when over 5 % of a window's answers are late, else raises it; tuned",
        Limiter::Windows(aimd::Knobs::TUNED),
    ),
    ("aimd-default", "Netflix's AIMD: x 0.9 at an answer later than the objective, else + 1", Limiter::Aimd),
    ("gradient2", "Netflix's Gradient2; tuned", Limiter::Gradient2 { tolerance: 2.0, window_ns: 30 * MILLISECOND }),
    (
        "gradient2-default",
        "the same with Netflix's tolerance of 1.5 and windows of 1 s",
        Limiter::Gradient2 { tolerance: 1.5, window_ns: SECOND },
    ),
    ("vegas", "Netflix's Vegas on mean latencies of windows; tuned", Limiter::Vegas { window_ns: Some(SECOND) }),
    ("vegas-default", "the same at each answer, Netflix's default", Limiter::Vegas { window_ns: None }),
];

impl Limiter {
    /// The names that can follow a `+`, in the order of tables, with a line for people.
    pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
        LIMITERS.iter().map(|(name, description, _)| (*name, *description))
    }

    /// The limiter of this name, with its description.
    pub fn by_name(name: &str) -> Option<(&'static str, Self)> {
        LIMITERS.iter().find(|(other, ..)| *other == name).map(|(_, description, limiter)| (*description, *limiter))
    }

    fn make(self, objective_ns: f64) -> Box<dyn Limit> {
        match self {
            Self::Windows(knobs) => Box::new(WindowedAimd::new(knobs, objective_ns)),
            Self::Aimd => Box::new(Aimd::new(objective_ns)),
            Self::Gradient2 { tolerance, window_ns } => Box::new(Windowed::new(Gradient2::new(tolerance), window_ns)),
            Self::Vegas { window_ns: Some(window_ns) } => Box::new(Windowed::new(Vegas::new(), window_ns)),
            Self::Vegas { window_ns: None } => Box::new(Vegas::new()),
        }
    }
}

/// Netflix's `WindowedLimit`: hands on the mean latency and the most in flight of a window of some length and at least ten answers.
#[derive(Debug)]
struct Windowed<L> {
    inner: L,
    window_ns: u64,
    end_ns: u64,
    rtt_ns_sum: f64,
    answers: u32,
    in_flight_max: u32,
    dropped: bool,
}

impl<L: Limit> Windowed<L> {
    const ANSWERS_MIN: u32 = 10;

    fn new(inner: L, window_ns: u64) -> Self {
        Self { inner, window_ns, end_ns: 0, rtt_ns_sum: 0.0, answers: 0, in_flight_max: 0, dropped: false }
    }
}

impl<L: Limit> Limit for Windowed<L> {
    fn limit(&self) -> f64 {
        self.inner.limit()
    }

    fn update(&mut self, sample: &Sample) {
        self.rtt_ns_sum += sample.rtt_ns;
        self.answers += 1;
        self.in_flight_max = self.in_flight_max.max(sample.in_flight);
        self.dropped |= sample.dropped;
        if sample.now_ns >= self.end_ns && self.answers >= Self::ANSWERS_MIN {
            self.inner.update(&Sample {
                rtt_ns: self.rtt_ns_sum / f64::from(self.answers),
                in_flight: self.in_flight_max,
                dropped: self.dropped,
                ..*sample
            });
            (self.rtt_ns_sum, self.answers, self.in_flight_max, self.dropped) = (0.0, 0, 0, false);
            self.end_ns = sample.now_ns + self.window_ns;
        }
    }
}

/// A router with a limiter in each proxy before it.
pub struct Limited {
    inner: Box<dyn Router>,
    proxies: Vec<Proxy>,
    /// Requests in flight at their proxy as each was let in, by request.
    in_flight: Vec<u32>,
}

struct Proxy {
    limit: Box<dyn Limit>,
    in_flight: u32,
}

impl Limited {
    /// Puts `limiter` before `inner`.
    pub fn new(inner: Box<dyn Router>, limiter: Limiter, scenario: &Scenario) -> Self {
        let proxy = |_| Proxy { limit: limiter.make(scenario.objective_ns as f64), in_flight: 0 };
        Self { inner, proxies: scenario.shares.iter().map(proxy).collect(), in_flight: Vec::new() }
    }
}

impl Router for Limited {
    fn route(&mut self, arrival: &Arrival, endpoints: &[Endpoint]) -> Routing {
        let proxy = &mut self.proxies[arrival.proxy];
        if arrival.tried.is_some() {
            // It was let in before; only if it ends here it leaves.
            let routing = self.inner.route(arrival, endpoints);
            proxy.in_flight -= u32::from(matches!(routing, Routing::Shed | Routing::Unroutable));
            return routing;
        }
        if f64::from(proxy.in_flight) >= proxy.limit.limit() {
            return Routing::Shed;
        }
        let routing = self.inner.route(arrival, endpoints);
        if matches!(routing, Routing::To(_) | Routing::Wait) {
            proxy.in_flight += 1;
            let number = arrival.request as usize;
            if self.in_flight.len() <= number {
                self.in_flight.resize(number + 1, 0);
            }
            self.in_flight[number] = proxy.in_flight;
        }
        routing
    }

    fn ended(&mut self, departure: &Departure) {
        self.inner.ended(departure);
        if departure.retried {
            return;
        }
        let proxy = &mut self.proxies[departure.proxy];
        proxy.in_flight -= 1;
        // A fast error says nothing about a queue.
        if departure.outcome != Outcome::Error {
            proxy.limit.update(&Sample {
                now_ns: departure.now_ns,
                rtt_ns: departure.latency_ns as f64,
                in_flight: self.in_flight[departure.request as usize],
                dropped: departure.outcome != Outcome::Success,
            });
        }
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.inner.readiness(now_ns, endpoint, ready);
    }

    fn next_waiting(&mut self, now_ns: u64, endpoints: &[Endpoint]) -> Option<(u32, u32)> {
        self.inner.next_waiting(now_ns, endpoints)
    }

    fn control_at_ns(&self) -> u64 {
        self.inner.control_at_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.inner.control(now_ns, endpoints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Recorder(Vec<Sample>);

    impl Limit for Recorder {
        fn limit(&self) -> f64 {
            1.0
        }

        fn update(&mut self, sample: &Sample) {
            self.0.push(*sample);
        }
    }

    #[test]
    fn a_window_hands_on_its_mean_once_it_is_over_and_full() {
        let mut windowed = Windowed::new(Recorder::default(), 100);
        for now_ns in 0..30 {
            windowed.update(&Sample { now_ns: now_ns * 10, rtt_ns: now_ns as f64, in_flight: 3, dropped: false });
        }
        // Answers 0..=9 fill the first window (at 90); the second ends at 190 with answers 10..=19; the third at 290.
        let means: Vec<(u64, f64)> = windowed.inner.0.iter().map(|sample| (sample.now_ns, sample.rtt_ns)).collect();
        assert_eq!(means, [(90, 4.5), (190, 14.5), (290, 24.5)]);
    }
}
