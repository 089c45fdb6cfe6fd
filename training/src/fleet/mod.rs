//! The code that ships, as a simulated [`Router`]: every proxy holds its own production `Backend` (pick rule, in-flight accounting,
//! outlier detection, admission), and the controller runs the production `decide` on observations made of simulated scrapes and
//! of the proxies' own load reports.

mod classes;
mod controller;
mod observe;
mod peers;
mod proxy;
mod recorder;
pub mod rollout;

use trimtab_model::{
    Policy,
    decision::RuleParameters,
    rollout::{Arm, Event},
};
use trimtab_proxy::config::{Algorithm, RuleTerms};

use crate::{
    scenario::Scenario,
    simulator::{
        Router, Routing,
        endpoint::Endpoint,
        router::{Arrival, Departure},
    },
};
pub use controller::{Known, Tick};
pub(crate) use proxy::BACKEND;
pub use recorder::Recording;
pub use rollout::Rollouts;

use controller::Controller;
use proxy::Proxy;
use recorder::Sampler;
use rollout::Rolling;

/// How often proxies tell each other what they have in flight: as those that ship.
const PEERS_NS: u64 = trimtab_proxy::peers::INTERVAL.as_nanos() as u64;

/// What the proxies of a run are configured with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FleetOptions {
    /// How endpoints are chosen.
    pub algorithm: Algorithm,
    /// What the controller sends.
    pub control: Control,
    /// Replaces the rule parameters that would be sent, but for the latency reference.
    pub parameters: Option<RuleParameters>,
    /// What proxies are told of the classes of requests.
    pub classes: ClassKnowledge,
    /// Whether the controller learns slots where pods do not tell them.
    pub learns_slots: bool,
    /// Time between two exchanges of in-flight counts between proxies; `None`: there are none.
    pub peers_ns: Option<u64>,
    /// Terms of the rule that act.
    pub terms: RuleTerms,
    /// Whether proxies shed load.
    pub admission: bool,
    /// Whether proxies eject endpoints.
    pub outlier_detection: bool,
}

/// What the controller sends to the proxies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Nothing but the endpoint list: each proxy is on its own.
    None,
    /// Equal weights, how many proxies there are, and pooled errors.
    Equal,
    /// What `decide` decides, and pooled errors.
    Decide,
}

/// What proxies are told of the classes of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClassKnowledge {
    /// Nothing: all requests are alike.
    None,
    /// What was learned from the proxies' reports.
    Learned,
    /// The truth from the start, but for changes of speed: how much learning costs.
    True,
}

impl FleetOptions {
    /// Trimtab as it ships: its rule, `decide`, admission control and outlier detection.
    pub const TRIMTAB: Self = Self {
        algorithm: Algorithm::Adaptive,
        control: Control::Decide,
        parameters: None,
        classes: ClassKnowledge::Learned,
        learns_slots: true,
        peers_ns: Some(PEERS_NS),
        terms: RuleTerms::ALL,
        admission: true,
        outlier_detection: true,
    };

    /// Trimtab's rule without weights.
    pub const LOCAL: Self = Self { control: Control::Equal, ..Self::TRIMTAB };

    /// A baseline as its original comes: it neither sheds nor ejects. Weights are sent to those that read them.
    pub const fn baseline(algorithm: Algorithm) -> Self {
        let control = match algorithm {
            Algorithm::WeightedRoundRobin | Algorithm::DecayingWeights | Algorithm::Locality => Control::Decide,
            Algorithm::C3Local | Algorithm::Prequal => Control::Equal,
            _ => Control::None,
        };
        Self {
            algorithm,
            control,
            classes: ClassKnowledge::None,
            learns_slots: false,
            peers_ns: None,
            admission: false,
            outlier_detection: false,
            ..Self::TRIMTAB
        }
    }
}

/// The proxies of a run and their controller.
#[derive(Debug)]
pub struct Fleet {
    proxies: Vec<Proxy>,
    controller: Controller,
}

impl Fleet {
    /// For a run of `scenario`, with the capacity prior alone.
    pub fn new(scenario: &Scenario, options: &FleetOptions) -> Self {
        Self::with_policy(scenario, options, Policy::prior_only())
    }

    /// For a run of `scenario`, with this policy.
    pub fn with_policy(scenario: &Scenario, options: &FleetOptions, policy: Policy) -> Self {
        let proxies = (0..scenario.shares.len()).map(|number| Proxy::new(scenario, options, number)).collect();
        Self { proxies, controller: Controller::new(scenario, options, policy) }
    }

    /// For a run of `scenario` in which a rollout says who decides.
    pub fn with_rollouts(scenario: &Scenario, options: &FleetOptions, rollouts: Rollouts) -> Self {
        let mut fleet = Self::with_policy(scenario, options, rollouts.builtin.clone());
        fleet.controller.roll_out(rollouts);
        fleet
    }

    /// The log of its rollout.
    pub fn log(&self) -> &[Event] {
        self.controller.rolling().map_or(&[], Rolling::log)
    }

    /// Who decided, tick by tick, from this time on in nanoseconds.
    pub fn arms(&self) -> &[(u64, Arm)] {
        self.controller.rolling().map_or(&[], Rolling::arms)
    }

    /// The same, and it keeps what the policy saw and what was decided at every tick.
    #[must_use]
    pub fn keeping_ticks(mut self) -> Self {
        self.controller.keep_ticks();
        self
    }

    /// The same with a controller that has been running for a while: these slots, by endpoint, were learned before.
    #[must_use]
    pub fn knowing(mut self, slots: Vec<Option<Known>>) -> Self {
        self.controller.know(slots);
        self
    }

    /// The same with a controller that has learned within a minute before the run what classes of requests cost at each endpoint, as far as nothing was wrong.
    #[must_use]
    pub fn experienced(mut self) -> Self {
        self.controller.learn_costs();
        self
    }

    /// The same, and it records as the controller that ships does: every tick, and this share of the requests.
    #[must_use]
    pub fn recording(mut self, share: f64) -> Self {
        self.controller.record();
        for (number, proxy) in self.proxies.iter_mut().enumerate() {
            proxy.sample(Sampler::new(self.controller.seed(), number, share));
        }
        self
    }

    /// What was recorded; nothing unless the run was [`recording`](Self::recording).
    pub fn into_recording(self) -> Recording {
        let mut requests: Vec<_> = self.proxies.into_iter().flat_map(Proxy::into_samples).collect();
        requests.sort_by_key(|row| row.at_ms);
        Recording { ticks: self.controller.into_rows(), requests }
    }

    /// The ticks that were kept, in order; none unless the run was [`keeping_ticks`](Self::keeping_ticks).
    pub fn ticks(&self) -> &[Tick] {
        self.controller.ticks()
    }
}

impl Router for Fleet {
    #[inline]
    fn route(&mut self, arrival: &Arrival, _endpoints: &[Endpoint]) -> Routing {
        self.proxies[arrival.proxy].route(arrival)
    }

    #[inline]
    fn ended(&mut self, departure: &Departure) {
        self.proxies[departure.proxy].ended(departure);
    }

    fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.controller.readiness(now_ns, endpoint, ready);
    }

    fn control_at_ns(&self) -> u64 {
        self.controller.next_ns()
    }

    fn control(&mut self, now_ns: u64, endpoints: &mut [Endpoint]) {
        self.controller.act(now_ns, endpoints, &mut self.proxies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_proxy::config::RuleParameters as ProxyRuleParameters;

    #[test]
    fn a_proxy_without_a_controller_uses_the_models_local_rule() {
        let (ours, theirs) = (RuleParameters::LOCAL, ProxyRuleParameters::LOCAL);
        assert_eq!(
            [ours.exponent, ours.offset, ours.latency_exponent, ours.error_exponent, ours.weight_exponent],
            [theirs.exponent, theirs.offset, theirs.latency_exponent, theirs.error_exponent, theirs.weight_exponent]
        );
        assert_eq!(
            [ours.work_share, ours.affinity_proxies, ours.affinity_factor],
            [theirs.work_share, theirs.affinity_proxies, theirs.affinity_factor]
        );
    }
}
