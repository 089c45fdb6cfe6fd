//! One tick of one backend: observe → decide → encode. What a backend carries from tick to tick lives here; when a tick happens, and
//! where its outcome goes, is decided by the owner of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng;
use trimtab_model::decision::{Decision, GuardAction, Reason, RuleParameters};
use trimtab_model::guard::GuardSettings;
use trimtab_model::observation::{EndpointKey, Observation};
use trimtab_model::rollout::{self, Arm, BackendState, Live, RolloutSettings, What};
use trimtab_model::slots::SlotMemory;
use trimtab_model::{GuardConfig, Memory, Policy, decide};
use trimtab_proxy::api::v1;

use crate::checks::Checks;
use crate::classes::Classes;
use crate::clock::Now;
use crate::collect::{self, Inputs};
use crate::errors::PooledErrors;
use crate::gateway::{BackendSpec, GuardrailSettings, fingerprint};
use crate::keys::KeyMap;
use crate::loads::{Loads, Summed};
use crate::objective::DerivedObjective;
use crate::scrape::ScrapeState;
use crate::window::Window;

/// A proxy that has not reported a load of the backend for this long does not send to it any more.
const REPORTED_LATELY: Duration = Duration::from_secs(5);
/// Weight that a new endpoint gets until the next tick, relative to the mean of the others, where endpoints ramp up.
const NEWCOMER: f64 = 0.1;

/// One backend's state.
#[derive(Debug)]
pub struct Backend {
    /// Its configuration.
    pub spec: Arc<BackendSpec>,
    /// Load reports since the last tick.
    pub loads: Loads,
    /// Pooled error averages.
    pub errors: PooledErrors,
    /// What active health checks say.
    pub checks: Checks,
    /// Kinds of requests, and what they cost.
    pub classes: Classes,
    /// How many requests endpoints serve at once, where their pods do not tell.
    pub slots: SlotMemory,
    /// What its endpoints' own metrics said.
    pub scrapes: KeyMap<ScrapeState>,
    /// What people see of the last seconds.
    pub window: Window,
    /// Outcome of the last tick.
    pub last: Option<Outcome>,
    /// Its rollout; `None` where configuration names the policy, or there is no store.
    pub live: Option<Live>,
    /// What to push again in the middle of the tick, where what was decided stands for half of it only.
    pub again: Option<Before>,
    /// What its rollout wants in the log, with the evidence; taken by the owner after each tick.
    pub wish: Option<(What, serde_json::Value)>,
    /// Versions whose rollback was counted: what is wished for again is counted once.
    pub counted: BTreeSet<String>,
    /// How far its input has lain outside of what the policy in force was trained on, see [`Memory::drift`].
    pub drift: f64,
    names: Arc<KeyMap<String>>,
    guard: GuardConfig,
    memory: Memory,
    derived: DerivedObjective,
    reporters: BTreeMap<Arc<str>, Instant>,
    ticked: Option<Instant>,
    /// What was decided last but for the shortest visits.
    before: Option<Before>,
}

/// What was in force before a short visit.
#[derive(Debug, Clone)]
pub struct Before {
    /// The table.
    pub weights: v1::WeightTable,
    /// Slots that went with it.
    slots: KeyMap<f64>,
}

/// What one tick of one backend came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What was known.
    pub observation: Arc<Observation>,
    /// What was decided.
    pub decision: Arc<Decision>,
    /// The endpoints' names for people.
    pub names: Arc<KeyMap<String>>,
}

/// Who may decide in a tick.
#[derive(Debug, Clone, Copy)]
pub struct Deciders<'p> {
    /// What is in force.
    pub in_force: &'p Policy,
    /// What is being tried, where it is at hand.
    pub candidate: Option<&'p Policy>,
    /// Why what should be in force cannot be, where `in_force` stands in for it.
    pub lost: Option<&'p str>,
}

impl<'p> Deciders<'p> {
    /// This policy and no other.
    pub fn only(policy: &'p Policy) -> Self {
        Self { in_force: policy, candidate: None, lost: None }
    }
}

impl Backend {
    /// A backend that has not been seen before.
    pub fn new(spec: Arc<BackendSpec>, now: Now) -> Self {
        Self {
            guard: guard_config(&spec.guardrails),
            names: names(&spec),
            spec,
            loads: Loads::default(),
            errors: PooledErrors::default(),
            checks: Checks::default(),
            classes: Classes::default(),
            slots: SlotMemory::default(),
            scrapes: KeyMap::default(),
            window: Window::new(now),
            last: None,
            live: None,
            again: None,
            before: None,
            wish: None,
            counted: BTreeSet::new(),
            drift: 0.0,
            memory: Memory::default(),
            derived: DerivedObjective::default(),
            reporters: BTreeMap::new(),
            ticked: None,
        }
    }

    /// Takes over a new configuration and keeps what is known of the endpoints that stay.
    pub fn configure(&mut self, spec: Arc<BackendSpec>) {
        self.guard = guard_config(&spec.guardrails);
        self.names = names(&spec);
        self.spec = spec;
        let (names, scraped) = (&self.names, self.spec.scrape.is_some());
        self.scrapes.retain(|key, _| scraped && names.contains_key(key));
        self.window.retain(|key| names.contains_key(&key));
        self.loads.retain(|key| names.contains_key(&key));
        match self.spec.resource.active_health_check {
            Some(_) => self.checks.retain(|key| names.contains_key(&key)),
            None => self.checks = Checks::default(),
        }
    }

    /// Whether it has this endpoint.
    pub fn has(&self, key: EndpointKey) -> bool {
        self.names.contains_key(&key)
    }

    /// An endpoint's name for people.
    pub fn name_of(&self, key: EndpointKey) -> Option<&str> {
        self.names.get(&key).map(String::as_str)
    }

    /// The endpoints, in order.
    pub fn keys(&self) -> impl Iterator<Item = EndpointKey> + Clone {
        keys(&self.spec)
    }

    /// Takes in a proxy's load report.
    pub fn reported(&mut self, proxy: &Arc<str>, interval_ms: f32, load: &v1::BackendLoad, now: Now) {
        self.reporters.insert(proxy.clone(), now.instant);
        let known = |key| self.names.contains_key(&key);
        self.loads.add(proxy, interval_ms, load, known, now);
        self.window.latencies(load, known);
        self.classes.reported(proxy, load, known, now);
    }

    /// Proxies that have reported lately, at least 1.
    fn proxies(&mut self, now: Now) -> u32 {
        self.reporters.retain(|_, at| now.instant.saturating_duration_since(*at) < REPORTED_LATELY);
        u32::try_from(self.reporters.len()).unwrap_or(u32::MAX).max(1)
    }

    /// The objective in use, and whether it was derived.
    pub fn objective_ms(&self) -> (Option<f64>, bool) {
        match self.spec.resource.objective_ms {
            Some(set) => (Some(f64::from(set)), false),
            None => (self.derived.objective_ms(), true),
        }
    }

    /// Follows a rollout that stands like this; `None`: there is none.
    pub fn follow(&mut self, rollout: Option<(&BackendState, RolloutSettings)>) {
        match rollout {
            Some((state, settings)) => {
                let rollout = &mut self.live.get_or_insert_with(|| Live::new(settings)).rollout;
                rollout.follow(state);
                self.counted.retain(|version| rollout.candidate() != Some(version));
            }
            None => self.live = None,
        }
    }

    /// One tick: returns the table to push.
    pub fn tick(&mut self, tick: u64, deciders: &Deciders<'_>, rng: &mut impl Rng, now: Now) -> v1::WeightTable {
        let interval_s = self.ticked.map_or(0.0, |last| now.since_s(last));
        self.ticked = Some(now.instant);
        let proxies = self.proxies(now);
        let summed = self.loads.take(self.spec.endpoints.iter().map(|endpoint| endpoint.key), now);
        self.checks.add(&summed, now.at_ms);
        self.derive_objective(&summed, now);
        let silent = |key| self.scrapes.get(&key).is_none_or(|state| state.numbers.worker_limit.is_none());
        let keys = self.spec.endpoints.iter().map(|endpoint| endpoint.key).filter(|key| silent(*key));
        self.slots.pass(interval_s, keys.map(|key| key.0), |endpoint, class| self.classes.cost(endpoint, class));
        let (objective_ms, _) = self.objective_ms();
        let inputs = Inputs {
            spec: &self.spec,
            tick,
            now,
            interval_s,
            proxies,
            objective_ms,
            summed: &summed,
            errors: &self.errors,
            slots: &self.slots,
            checks: &self.checks,
        };
        let observation = collect::observe(&inputs, |key| self.scrapes.get(&key).map(|state| &state.numbers));
        let outcome = collect::outcome(&summed, interval_s, objective_ms);
        let (decision, arm, brief) = self.decide(&observation, &outcome, deciders, rng);
        if arm == Arm::Incumbent {
            self.drift = self.memory.drift();
        }
        self.window.add(&summed, now);
        let table = self.table((&decision.applied, &decision.adjustments), decision.parameters, tick, proxies);
        self.again = None;
        if brief {
            let same_list = |before: &Before| before.weights.generation == table.generation;
            self.again = self.before.clone().filter(same_list);
            if let Some(before) = &mut self.again {
                before.weights.tick = tick;
            }
        } else if self.live.is_some() {
            self.before = Some(Before { weights: table.clone(), slots: slots(&decision) });
        }
        self.last = Some(Outcome {
            observation: Arc::new(observation),
            decision: Arc::new(decision),
            names: self.names.clone(),
        });
        table
    }

    fn decide(
        &mut self,
        observation: &Observation,
        outcome: &rollout::Interval,
        deciders: &Deciders<'_>,
        rng: &mut impl Rng,
    ) -> (Decision, Arm, bool) {
        let Some(live) = &mut self.live else {
            let (decision, memory) =
                decide(observation, &self.memory, deciders.in_force, &self.guard, self.spec.mode, rng);
            self.memory = memory;
            return (decision, Arm::Incumbent, false);
        };
        let policies = rollout::Policies { in_force: deciders.in_force, candidate: deciders.candidate };
        let ticked = live.tick(observation, outcome, &mut self.memory, policies, &self.guard, self.spec.mode, rng);
        self.wish = ticked.ask;
        let mut decision = ticked.decision;
        if let Some(why) = deciders.lost.filter(|_| ticked.arm == Arm::Incumbent) {
            let detail = format!("{why}: the capacity prior is applied");
            decision.guard.insert(0, GuardAction { reason: Reason::PolicyFault, endpoint: None, detail });
        }
        (decision, ticked.arm, ticked.brief)
    }

    /// The table of classes, if it is to be pushed anew. Once a tick.
    pub fn class_table(&mut self, now: Now) -> Option<v1::ClassTable> {
        let slots = self.last.as_ref().map(|last| slots(&last.decision)).unwrap_or_default();
        self.classes.tick(&self.spec.resource, keys(&self.spec), |key| slots.get(&key).copied(), now)
    }

    /// A short visit is over: the weights to push, and the classes if slots have changed with it.
    pub fn end_visit(&mut self, now: Now) -> Option<(v1::WeightTable, Option<v1::ClassTable>)> {
        let generation = self.spec.generation();
        let Before { weights, slots } = self.again.take().filter(|before| before.weights.generation == generation)?;
        let classes = self.classes.tick(&self.spec.resource, keys(&self.spec), |key| slots.get(&key).copied(), now);
        Some((weights, classes))
    }

    /// A table for endpoints that have just changed, until the next tick decides: those that stay keep their weights.
    pub fn interim_table(&mut self, tick: u64, now: Now) -> v1::WeightTable {
        let before = |of: fn(&Decision) -> &[f64]| -> KeyMap<f64> {
            let pairs = |last: &Outcome| -> KeyMap<f64> {
                last.decision.endpoints.iter().copied().zip(of(&last.decision).iter().copied()).collect()
            };
            self.last.as_ref().map(pairs).unwrap_or_default()
        };
        let known = before(|decision| &decision.applied);
        let adjusted = before(|decision| &decision.adjustments);
        let stay: Vec<f64> = self.keys().filter_map(|key| known.get(&key).copied()).collect();
        let ramps = self.spec.guardrails.slow_start.is_none_or(|window| !window.is_zero());
        let start = if ramps && !stay.is_empty() { NEWCOMER } else { 1.0 };
        let newcomer = if stay.is_empty() { 1.0 } else { stay.iter().sum::<f64>() / stay.len() as f64 * start };
        let strict = self.guard.settings().slow_start_strict;
        let adjustments: Vec<f64> = match adjusted.is_empty() {
            true => Vec::new(),
            false => {
                self.keys().map(|key| adjusted.get(&key).copied().unwrap_or(if strict { start } else { 1.0 })).collect()
            }
        };
        let weights: Vec<f64> = self.keys().map(|key| known.get(&key).copied().unwrap_or(newcomer)).collect();
        let parameters = self.last.as_ref().map_or(RuleParameters::LOCAL, |last| last.decision.parameters);
        let proxies = self.proxies(now);
        self.table((&weights, &adjustments), parameters, tick, proxies)
    }

    fn table(
        &self,
        (weights, adjustments): (&[f64], &[f64]),
        parameters: RuleParameters,
        tick: u64,
        proxies: u32,
    ) -> v1::WeightTable {
        let objective_ms = match self.objective_ms() {
            (Some(derived), true) => Some(derived as f32),
            _ => None,
        };
        v1::WeightTable {
            backend: self.spec.name().to_owned(),
            generation: self.spec.generation(),
            tick,
            // A weight is finite and > 0; as f32 a tiny one must not become 0.
            weights: weights.iter().map(|&weight| (weight as f32).max(f32::MIN_POSITIVE)).collect(),
            // Most of the time nothing is asked for, and nothing is sent.
            adjustments: if adjustments.iter().all(|adjustment| *adjustment == 1.0) {
                Vec::new()
            } else {
                adjustments.iter().map(|&adjustment| (adjustment as f32).max(f32::MIN_POSITIVE)).collect()
            },
            parameters: Some(v1::RuleParameters {
                exponent: parameters.exponent,
                offset: parameters.offset,
                latency_exponent: parameters.latency_exponent,
                latency_reference_ms: parameters.latency_reference_ms,
                error_exponent: parameters.error_exponent,
                weight_exponent: Some(parameters.weight_exponent),
                work_share: parameters.work_share,
                affinity_proxies: parameters.affinity_proxies,
                affinity_factor: Some(parameters.affinity_factor),
            }),
            proxies,
            objective_ms,
            proxy_keys: {
                let mut keys: Vec<u64> = self.reporters.keys().map(|id| fingerprint::proxy_key(id)).collect();
                keys.sort_unstable();
                keys
            },
        }
    }

    fn derive_objective(&mut self, summed: &Summed, now: Now) {
        let failed = summed
            .endpoints
            .values()
            .map(|sum| sum.reported.errors.saturating_add(sum.reported.failures))
            .fold(0, u64::saturating_add);
        self.derived.observe(&summed.totals.latency, failed, summed.totals.shed, now.instant);
    }

    /// The table of pooled errors, if it moved; with `whole`, for a new order of endpoints: any that is not all zero.
    pub fn error_table(&mut self, whole: bool, now: Now) -> Option<v1::ErrorTable> {
        let order = self.spec.endpoints.iter().map(|endpoint| endpoint.key);
        let errors =
            if whole { self.errors.whole_table(order, now.instant) } else { self.errors.table(order, now.instant) }?;
        Some(v1::ErrorTable { backend: self.spec.name().to_owned(), generation: self.spec.generation(), errors })
    }
}

/// Requests that endpoints serve at once, as far as a decision knew.
fn slots(decision: &Decision) -> KeyMap<f64> {
    decision.endpoints.iter().zip(&decision.slots).filter_map(|(key, slots)| Some((*key, (*slots)?))).collect()
}

/// The endpoints, in order.
fn keys(spec: &BackendSpec) -> impl Iterator<Item = EndpointKey> + Clone {
    spec.endpoints.iter().map(|endpoint| endpoint.key)
}

fn names(spec: &BackendSpec) -> Arc<KeyMap<String>> {
    Arc::new(spec.endpoints.iter().map(|endpoint| (endpoint.key, endpoint.name.clone())).collect())
}

/// The guard's bounds, with what the user said in place of the defaults. Bounds that do not hold together are left at the defaults;
/// configuration has checked each by itself.
fn guard_config(said: &GuardrailSettings) -> GuardConfig {
    let mut settings = GuardSettings::default();
    let set = |field: &mut f64, said: Option<f64>| {
        if let Some(said) = said {
            *field = said;
        }
    };
    set(&mut settings.share_floor, said.share_min);
    set(&mut settings.share_ceiling, said.share_max);
    set(&mut settings.step_up_max, said.step_max.map(f64::ln));
    set(&mut settings.step_down_max, said.step_max.map(f64::ln));
    set(&mut settings.panic_healthy_min, said.panic_threshold);
    set(&mut settings.slow_start_window_s, said.slow_start.map(|window| window.as_secs_f64()));
    settings.slow_start_strict = said.slow_start.is_some();
    GuardConfig::new(settings).unwrap_or_else(|error| {
        tracing::warn!(%error, "guardrails are left at their defaults");
        GuardConfig::default()
    })
}
