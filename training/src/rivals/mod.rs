//! The rivals: what Trimtab is measured against, each as faithful to its original as a simulation can be, and tuned on the same scenarios
//! as Trimtab. docs/rivals.md says for each what it knows, where it comes from, and how it was tuned.
//!
//! A name may carry suffixes: a limiter (`least-request+aimd`), and Envoy's ejection of endpoints that fail (`c3+ejection`).

pub mod c3;
pub mod c3_local;
mod ejection;
pub mod latency_inverse;
pub mod least_request;
pub mod limiter;
pub mod orca;
pub mod peak_ewma;
pub mod pid;
pub mod prequal;
mod proxies;
mod random;
mod round_robin;
mod rule;
mod schedulers;
mod servers;
pub mod weighted_least_request;

pub use proxies::Proxies;
pub use rule::{Members, Needs, Rule, View};
pub use servers::{Load, Probe};

use self::limiter::{Limited, Limiter};
use crate::{contest::Contest, scenario::Scenario, simulator::Router};

/// Which rule, with its knobs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// [`random::Random`].
    Random,
    /// [`round_robin::RoundRobin`].
    RoundRobin,
    /// [`round_robin::SmoothWeightedRoundRobin`].
    SmoothWeightedRoundRobin,
    /// [`least_request::LeastRequest`].
    LeastRequest(least_request::LeastRequest),
    /// [`weighted_least_request::WeightedLeastRequest`].
    WeightedLeastRequest(weighted_least_request::Knobs),
    /// [`peak_ewma::PeakEwma`].
    PeakEwma(peak_ewma::Knobs),
    /// [`c3::C3`].
    C3(c3::Knobs),
    /// [`c3_local::C3Local`].
    C3Local(c3_local::Knobs),
    /// [`prequal::Prequal`].
    Prequal(prequal::Knobs),
    /// [`orca::Orca`].
    Orca(orca::Knobs),
    /// [`pid::Pid`].
    Pid(pid::Knobs),
    /// [`latency_inverse::LatencyInverse`].
    LatencyInverse(latency_inverse::Knobs),
}

impl Kind {
    /// A router for one run.
    pub fn router(&self, scenario: &Scenario, ejection: bool) -> Box<dyn Router> {
        let endpoints = scenario.endpoints.len();
        match *self {
            Self::Random => boxed(scenario, ejection, |_| random::Random),
            Self::RoundRobin => boxed(scenario, ejection, |_| round_robin::RoundRobin::default()),
            Self::SmoothWeightedRoundRobin => boxed(scenario, ejection, round_robin::SmoothWeightedRoundRobin::new),
            Self::LeastRequest(rule) => boxed(scenario, ejection, |_| rule),
            Self::WeightedLeastRequest(knobs) => {
                boxed(scenario, ejection, |scenario| weighted_least_request::WeightedLeastRequest::new(knobs, scenario))
            }
            Self::PeakEwma(knobs) => boxed(scenario, ejection, |_| peak_ewma::PeakEwma::new(knobs, endpoints)),
            Self::C3(knobs) => boxed(scenario, ejection, |scenario| c3::C3::new(knobs, scenario)),
            Self::C3Local(knobs) => boxed(scenario, ejection, |scenario| c3_local::C3Local::new(knobs, scenario)),
            Self::Prequal(knobs) => boxed(scenario, ejection, |scenario| prequal::Prequal::new(knobs, scenario)),
            Self::Orca(knobs) => boxed(scenario, ejection, |_| orca::Orca::new(knobs, endpoints)),
            Self::Pid(knobs) => boxed(scenario, ejection, |_| pid::Pid::new(knobs, endpoints)),
            Self::LatencyInverse(knobs) => {
                boxed(scenario, ejection, |_| latency_inverse::LatencyInverse::new(knobs, endpoints))
            }
        }
    }
}

fn boxed<R: Rule + 'static>(scenario: &Scenario, ejection: bool, make: impl Fn(&Scenario) -> R) -> Box<dyn Router> {
    let proxies = Proxies::new(scenario, make);
    Box::new(if ejection { proxies.with_ejection() } else { proxies })
}

/// Name, description and rule of a rival.
type Entry = (&'static str, &'static str, Kind);

/// All of them, in the order of tables.
const RIVALS: [Entry; 22] = [
    ("random", "any endpoint", Kind::Random),
    ("round-robin", "in turn", Kind::RoundRobin),
    ("smooth-wrr", "nginx's smooth weighted round robin, weights = true capacities", Kind::SmoothWeightedRoundRobin),
    ("least-request", "fewest own requests in flight, of all", Kind::LeastRequest(least_request::LeastRequest::SCAN)),
    (
        "least-request-p2c",
        "fewest own requests in flight, of two",
        Kind::LeastRequest(least_request::LeastRequest::TWO),
    ),
    (
        "weighted-least-request",
        "Envoy's, weight / (active + 1)^bias, weights = true capacities; tuned",
        Kind::WeightedLeastRequest(weighted_least_request::Knobs::TUNED),
    ),
    (
        "weighted-least-request-default",
        "the same with Envoy's bias of 1",
        Kind::WeightedLeastRequest(weighted_least_request::Knobs::DEFAULT),
    ),
    ("peak-ewma", "latency peak average x (in flight + 1); tuned", Kind::PeakEwma(peak_ewma::Knobs::TUNED)),
    ("peak-ewma-default", "the same as in Linkerd: 10 s, two choices", Kind::PeakEwma(peak_ewma::Knobs::DEFAULT)),
    ("c3", "C3's cubic ranking with server feedback (NSDI'15); tuned", Kind::C3(c3::Knobs::TUNED)),
    ("c3-default", "the same with the authors' values", Kind::C3(c3::Knobs::DEFAULT)),
    ("c3-local", "(own in flight x proxies + offset)^exponent x latency; tuned", Kind::C3Local(c3_local::Knobs::TUNED)),
    (
        "c3-local-default",
        "the same with C3's: (own in flight x proxies + 1)^3 x latency",
        Kind::C3Local(c3_local::Knobs::DEFAULT),
    ),
    ("prequal", "Prequal (NSDI'24): probes, hot-cold rule; tuned", Kind::Prequal(prequal::TUNED)),
    ("prequal-default", "the same with the paper's values, Q = 0.84", Kind::Prequal(prequal::Knobs::DEFAULT)),
    ("prequal-q60", "the same with Q = 0.6", Kind::Prequal(prequal::LOW_QUANTILE)),
    ("orca", "weights from ORCA load reports (gRFC A58, Envoy); tuned", Kind::Orca(orca::Knobs::TUNED)),
    ("orca-default", "the same with the defaults of both", Kind::Orca(orca::Knobs::DEFAULT)),
    ("pid", "weights by PID control of utilization (Robinhood); tuned", Kind::Pid(pid::Knobs::TUNED)),
    ("pid-default", "the same before tuning", Kind::Pid(pid::Knobs::DEFAULT)),
    (
        "latency-inverse",
        "weights in inverse proportion to latency; tuned",
        Kind::LatencyInverse(latency_inverse::Knobs::TUNED),
    ),
    ("latency-inverse-default", "the same over 10 s", Kind::LatencyInverse(latency_inverse::Knobs::DEFAULT)),
];

/// A rival with its suffixes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rival {
    name: String,
    description: String,
    kind: Kind,
    ejection: bool,
    limiter: Option<Limiter>,
}

impl Rival {
    /// A rule under a name, without limiter and ejection.
    pub fn new(name: impl Into<String>, description: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), description: description.into(), kind, ejection: false, limiter: None }
    }

    /// Its rule.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same with a limiter of this name in each proxy.
    #[must_use]
    pub fn limited(mut self, name: &str, description: &str, limiter: Limiter) -> Self {
        self.name = format!("{}+{name}", self.name);
        self.description = format!("{}; limiter: {description}", self.description);
        self.limiter = Some(limiter);
        self
    }

    /// The same with ejection of endpoints that fail.
    #[must_use]
    pub fn ejecting(mut self) -> Self {
        self.name += "+ejection";
        self.description += "; ejects endpoints after five errors in a row (Envoy)";
        self.ejection = true;
        self
    }
}

impl Contest for Rival {
    fn name(&self) -> &str {
        &self.name
    }

    fn describe(&self) -> &str {
        &self.description
    }

    fn router(&self, scenario: &Scenario) -> Box<dyn Router> {
        let router = self.kind.router(scenario, self.ejection);
        match self.limiter {
            Some(limiter) => Box::new(Limited::new(router, limiter, scenario)),
            None => router,
        }
    }
}

/// All rivals without suffixes, in the order of tables.
pub fn all() -> Vec<Rival> {
    RIVALS.iter().map(|(name, description, kind)| Rival::new(*name, *description, *kind)).collect()
}

/// The rival of this name, which may end in `+LIMITER`, in `+ejection`, or in both.
pub fn by_name(name: &str) -> Option<Rival> {
    let mut parts = name.split('+');
    let base = parts.next()?;
    let (_, description, kind) = RIVALS.iter().find(|(name, ..)| *name == base)?;
    parts.try_fold(Rival::new(base, *description, *kind), |rival, suffix| {
        if suffix == "ejection" {
            return (!rival.ejection).then(|| rival.ejecting());
        }
        let (description, limiter) = Limiter::by_name(suffix)?;
        rival.limiter.is_none().then(|| rival.limited(suffix, description, limiter))
    })
}
