//! The controller of a simulated run: scrapes pods, takes in reports, pools errors, runs `decide` every 500 ms and pushes what
//! it says, with the delays that the scenario gives the network between them.

use std::{collections::BTreeMap, num::NonZeroU32};

use rand::{Rng, rngs::SmallRng};
use trimtab_model::{
    GuardConfig, Memory, Policy,
    classes::{ClassMemory, CostIndex, Seen},
    decide,
    decision::{Decision, Mode, RuleParameters},
    features::Features,
    observation::{EndpointKey as ModelKey, EndpointObservation, Observation, Scraped},
    recording::TickRow,
    service::complete,
    slots::{Sample as Lesson, SlotMemory},
};
use trimtab_proxy::{
    api::v1,
    average::ErrorAverage,
    config::{ClassTable, ErrorTable, RuleParameters as ProxyRuleParameters, WeightTable},
    load::CLASSES_MAX,
    time::Timestamp,
};

use super::{
    ClassKnowledge, Control, FleetOptions, classes,
    observe::{Loads, Sample, Scrapes},
    peers,
    proxy::{self, BACKEND, Proxy, learns_slots},
    rollout::{Rolling, Rollouts},
};
use crate::{
    scenario::Scenario,
    simulator::{
        endpoint::Endpoint,
        random::{Purpose, stream},
        time::{MILLISECOND, NEVER, SECOND},
    },
};

/// Time between two ticks, and between two load reports of a proxy.
const TICK_NS: u64 = 500 * MILLISECOND;
/// Time between two error reports.
const ERRORS_NS: u64 = 50 * MILLISECOND;
/// How often proxies look for ejections that are over.
const TIME_NS: u64 = 100 * MILLISECOND;
/// Pooled errors that moved less are not pushed.
const ERROR_NOTICEABLE: f32 = 0.003;

/// What the policy saw at a tick, and what came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// Its input.
    pub features: Features,
    /// What was decided on it.
    pub decision: Decision,
}

/// Something that happens at a time.
#[derive(Debug)]
enum Due {
    Scrape(u32),
    Scraped(u32, Sample),
    Report(usize),
    Reported(v1::BackendLoad, Vec<Lesson>),
    Errors(usize),
    ErrorsReported(v1::BackendErrors),
    Tick,
    PushWeights(WeightTable),
    PushErrors(ErrorTable),
    PushClasses(ClassTable),
    TellPeers,
    HearPeers(Vec<Vec<[u16; CLASSES_MAX]>>),
    PushEndpoints { ready: Vec<bool>, generation: u64 },
    PassTime,
}

/// Slots of an endpoint, as they had been learned before a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Known {
    /// Requests that it serves at once.
    pub slots: f64,
    /// How sure that is, see [`EndpointObservation::slots_deviation`].
    pub deviation: Option<f64>,
}

/// The simulated controller.
#[derive(Debug)]
pub(super) struct Controller {
    scenario: Scenario,
    options: FleetOptions,
    /// By time, then by order of entry.
    due: BTreeMap<(u64, u64), Due>,
    entered: u64,
    rng: SmallRng,
    memory: Memory,
    policy: Policy,
    /// Decides in the policy's place.
    rolling: Option<Rolling>,
    /// What it pushed last but for the shortest visits, and the slots that went with it.
    pushed: Option<(WeightTable, Vec<f32>)>,
    guard: GuardConfig,
    tick: u64,
    ready_since_ns: Vec<Option<u64>>,
    generation: u64,
    scrapes: Vec<Scrapes>,
    loads: Vec<Loads>,
    errors: Vec<ErrorAverage>,
    classes: ClassMemory,
    /// Slots, where pods do not tell them.
    learned: Option<SlotMemory>,
    /// What had been learned of them before the run, by endpoint: it counts until the run has learned as much.
    known: Vec<Option<Known>>,
    /// Costs, for those that learn slots.
    costs: Option<CostIndex>,
    errors_pushed: Vec<f32>,
    /// Requests that endpoints serve at once, by the last decision and as last pushed; 0: not known.
    slots: Vec<f32>,
    slots_pushed: Vec<f32>,
    /// Every tick so far, where somebody asked for them.
    ticks: Option<Vec<Tick>>,
    /// What is recorded, where it is.
    rows: Option<Vec<TickRow>>,
}

impl Controller {
    pub fn new(scenario: &Scenario, options: &FleetOptions, policy: Policy) -> Self {
        let endpoints = scenario.endpoints.len();
        let mut controller = Self {
            scenario: scenario.clone(),
            options: *options,
            due: BTreeMap::new(),
            entered: 0,
            rng: stream(scenario.seed, Purpose::Control, 0),
            memory: Memory::default(),
            policy,
            rolling: None,
            pushed: None,
            guard: GuardConfig::default(),
            tick: 0,
            ready_since_ns: vec![Some(0); endpoints],
            generation: 0,
            scrapes: vec![Scrapes::default(); endpoints],
            loads: vec![Loads::default(); endpoints],
            errors: (0..endpoints).map(|_| ErrorAverage::fast()).collect(),
            classes: classes::memory(scenario),
            learned: learns_slots(scenario, options).then(SlotMemory::default),
            known: vec![None; endpoints],
            costs: None,
            errors_pushed: vec![0.0; endpoints],
            slots: vec![0.0; endpoints],
            slots_pushed: vec![0.0; endpoints],
            ticks: None,
            rows: None,
        };
        controller.start();
        controller
    }

    /// Has a rollout say who decides.
    pub fn roll_out(&mut self, rollouts: Rollouts) {
        self.rolling = Some(Rolling::new(rollouts));
    }

    /// The rollout, if there is one.
    pub fn rolling(&self) -> Option<&Rolling> {
        self.rolling.as_ref()
    }

    /// Has it know these slots from before.
    pub fn know(&mut self, known: Vec<Option<Known>>) {
        if self.learned.is_some() {
            self.known = known;
            self.known.resize(self.scenario.endpoints.len(), None);
        }
    }

    /// Has it know what classes cost from before.
    pub fn learn_costs(&mut self) {
        self.classes = classes::experienced(&self.scenario);
    }

    /// Slots of an endpoint, as learned in this run or before it.
    fn learned(&self, number: usize) -> Option<Known> {
        let learned = self.learned.as_ref()?;
        let here = learned.slots(number as u64);
        let here = here.map(|slots| Known { slots, deviation: learned.deviation(number as u64) });
        here.or(self.known[number])
    }

    /// Keeps every tick from now on.
    pub fn keep_ticks(&mut self) {
        self.ticks = Some(Vec::new());
    }

    /// Records every tick from now on.
    pub fn record(&mut self) {
        self.rows = Some(Vec::new());
    }

    /// What was recorded.
    pub fn into_rows(self) -> Vec<TickRow> {
        self.rows.unwrap_or_default()
    }

    /// The seed of its run.
    pub fn seed(&self) -> u64 {
        self.scenario.seed
    }

    /// The ticks that were kept.
    pub fn ticks(&self) -> &[Tick] {
        self.ticks.as_deref().unwrap_or_default()
    }

    /// When something is due next.
    pub fn next_ns(&self) -> u64 {
        self.due.first_key_value().map_or(NEVER, |((at_ns, _), _)| *at_ns)
    }

    /// The endpoint list has changed.
    pub fn readiness(&mut self, now_ns: u64, endpoint: u32, ready: bool) {
        self.ready_since_ns[endpoint as usize] = ready.then_some(now_ns);
        self.generation += 1;
        let ready = self.ready_since_ns.iter().map(Option::is_some).collect();
        let push = Due::PushEndpoints { ready, generation: self.generation };
        self.enter(now_ns + self.scenario.telemetry.control_delay_ns, push);
    }

    /// Does what is due at `now_ns`.
    pub fn act(&mut self, now_ns: u64, endpoints: &mut [Endpoint], proxies: &mut [Proxy]) {
        while let Some(entry) = self.due.first_entry() {
            if entry.key().0 > now_ns {
                break;
            }
            let due = entry.remove();
            self.act_on(due, now_ns, endpoints, proxies);
        }
    }

    fn start(&mut self) {
        self.enter(0, Due::PassTime);
        if self.options.control == Control::None {
            return;
        }
        self.enter(TICK_NS, Due::Tick);
        if self.options.peers_ns.is_some() && self.scenario.shares.len() > 1 {
            self.enter(0, Due::TellPeers);
        }
        for proxy in 0..self.scenario.shares.len() {
            // Proxies report at the same pace, not at the same time.
            let phase_ns = self.rng.random_range(0..TICK_NS);
            self.enter(phase_ns, Due::Report(proxy));
            self.enter(phase_ns % ERRORS_NS, Due::Errors(proxy));
        }
        if self.options.control == Control::Decide && self.scenario.telemetry.scraped {
            for endpoint in 0..self.scenario.endpoints.len() as u32 {
                let phase_ns = self.rng.random_range(0..self.scenario.telemetry.scrape_interval_ns);
                self.enter(phase_ns, Due::Scrape(endpoint));
            }
        }
    }

    fn enter(&mut self, at_ns: u64, due: Due) {
        self.entered += 1;
        self.due.insert((at_ns, self.entered), due);
    }

    fn act_on(&mut self, due: Due, now_ns: u64, endpoints: &mut [Endpoint], proxies: &mut [Proxy]) {
        let telemetry = self.scenario.telemetry;
        let heard_ns = now_ns + telemetry.control_delay_ns;
        match due {
            Due::Scrape(endpoint) => {
                self.enter(now_ns + telemetry.scrape_interval_ns, Due::Scrape(endpoint));
                let lost = telemetry.scrape_loss > 0.0 && self.rng.random_bool(telemetry.scrape_loss.min(1.0));
                let late_ns = self.rng.random_range(0..=telemetry.scrape_jitter_ns);
                let number = endpoint as usize;
                let lie = self.scenario.lies.get(number).copied().unwrap_or_default();
                let sample = self.scrapes[number].read(now_ns, &mut endpoints[number], lie);
                if let Some(sample) = sample.filter(|_| !lost) {
                    self.enter(now_ns + telemetry.scrape_delay_ns + late_ns, Due::Scraped(endpoint, sample));
                }
            }
            Due::Scraped(endpoint, sample) => self.scrapes[endpoint as usize].add(sample),
            Due::Report(proxy) => {
                self.enter(now_ns + TICK_NS, Due::Report(proxy));
                let report = proxies[proxy].report(now_ns);
                let lessons = proxies[proxy].lessons();
                self.enter(heard_ns, Due::Reported(report, lessons));
            }
            Due::Reported(report, lessons) => {
                if let Some(learned) = &mut self.learned {
                    lessons.into_iter().for_each(|sample| learned.add(sample));
                }
                if let Some(rolling) = &mut self.rolling {
                    rolling.report(&report);
                }
                let interval_s = TICK_NS as f64 / SECOND as f64;
                let mut idle = vec![true; self.loads.len()];
                for load in &report.endpoints {
                    idle[load.key as usize] = false;
                    for class in &load.classes {
                        let seen = Seen { answers: class.successes, unqueued: class.unqueued, cost_ms: class.cost_ms };
                        self.classes.add(load.key, class.key, seen);
                    }
                    self.loads[load.key as usize].add(interval_s, load);
                }
                // What a report leaves out is idle.
                for (loads, _) in self.loads.iter_mut().zip(idle).filter(|(_, idle)| *idle) {
                    loads.add(interval_s, &v1::EndpointLoad::default());
                }
            }
            Due::Errors(proxy) => {
                self.enter(now_ns + ERRORS_NS, Due::Errors(proxy));
                if let Some(report) = proxies[proxy].errors(now_ns) {
                    self.enter(heard_ns, Due::ErrorsReported(report));
                }
            }
            Due::ErrorsReported(report) => self.pool(now_ns, &report),
            Due::Tick => {
                self.enter(now_ns + TICK_NS, Due::Tick);
                let table = self.decide(now_ns);
                self.classes.pass(TICK_NS as f64 / SECOND as f64, &self.keys());
                self.push_classes(self.slots.clone(), heard_ns);
                if self.rolling.as_ref().is_some_and(Rolling::is_brief)
                    && let Some((before, slots)) = self.pushed.clone()
                {
                    self.enter(heard_ns + TICK_NS / 2, Due::PushWeights(before));
                    self.push_classes(slots, heard_ns + TICK_NS / 2);
                } else if self.rolling.is_some() {
                    self.pushed = Some((table.clone(), self.slots.clone()));
                }
                self.enter(heard_ns, Due::PushWeights(table));
            }
            Due::PushWeights(table) => proxies.iter_mut().for_each(|proxy| proxy.apply_weights(now_ns, &table)),
            Due::PushClasses(table) => proxies.iter_mut().for_each(|proxy| proxy.apply_classes(now_ns, &table)),
            Due::TellPeers => {
                self.enter(now_ns + self.options.peers_ns.unwrap_or(NEVER), Due::TellPeers);
                let counts = proxies.iter().map(Proxy::in_flight).collect();
                self.enter(now_ns + self.scenario.one_way_ns, Due::HearPeers(counts));
            }
            Due::HearPeers(counts) => peers::tell(now_ns, proxies, &counts),
            Due::PushErrors(table) => proxies.iter_mut().for_each(|proxy| proxy.apply_errors(now_ns, &table)),
            Due::PushEndpoints { ready, generation } => {
                for proxy in proxies {
                    proxy.configure(now_ns, proxy::config(&self.scenario, &self.options, &ready, generation));
                }
            }
            Due::PassTime => {
                self.enter(now_ns + TIME_NS, Due::PassTime);
                proxies.iter_mut().for_each(|proxy| proxy.pass_time(now_ns));
            }
        }
    }

    fn keys(&self) -> Vec<u64> {
        (0..self.scenario.endpoints.len() as u64).collect()
    }

    /// Every other second, as learned averages move slowly; and at once for other slots.
    fn push_classes(&mut self, slots: Vec<f32>, heard_ns: u64) {
        const EVERY_TICKS: u64 = 4;
        if self.tick > 20 && self.tick % EVERY_TICKS != 1 && slots == self.slots_pushed {
            return;
        }
        self.slots_pushed.clone_from(&slots);
        let endpoints = self.keys();
        let table = match self.options.classes {
            ClassKnowledge::None => None,
            ClassKnowledge::Learned => {
                classes::learned(&self.scenario, &mut self.classes, &endpoints, slots, self.generation)
            }
            ClassKnowledge::True => Some(classes::truth(&self.scenario, slots, self.generation)),
        };
        if let Some(table) = table {
            self.enter(heard_ns, Due::PushClasses(table));
        }
    }

    /// Pools one proxy's outcomes; failures are taken as evenly spread over its answers.
    fn pool(&mut self, now_ns: u64, report: &v1::BackendErrors) {
        let now = Timestamp(now_ns);
        for ((key, answers), failures) in report.keys.iter().zip(&report.answers).zip(&report.failures) {
            let average = &self.errors[*key as usize];
            let mut owed = 0;
            for _ in 0..*answers {
                owed += failures;
                let failed = owed >= *answers;
                if failed {
                    owed -= answers;
                }
                average.ended(now, failed);
            }
        }
        let errors: Vec<f32> = self.errors.iter().map(|average| average.get(now)).collect();
        let moved = errors.iter().zip(&self.errors_pushed).any(|(new, old)| (new - old).abs() > ERROR_NOTICEABLE);
        if moved {
            self.errors_pushed.clone_from(&errors);
            let table = ErrorTable { backend: BACKEND.into(), generation: self.generation, errors };
            self.enter(now_ns + self.scenario.telemetry.control_delay_ns, Due::PushErrors(table));
        }
    }

    fn decide(&mut self, now_ns: u64) -> WeightTable {
        let observation = self.observe(now_ns);
        let (weights, adjustments, parameters) = if self.options.control == Control::Decide {
            let seen = || complete(&observation, self.policy.service()).observation;
            let features = self.ticks.as_ref().map(|_| Features::of(&seen(), &self.memory));
            let decision = match &mut self.rolling {
                Some(rolling) => rolling.decide(&observation, &mut self.memory, &self.guard, &mut self.rng),
                None => {
                    let (decision, memory) =
                        decide(&observation, &self.memory, &self.policy, &self.guard, Mode::Active, &mut self.rng);
                    self.memory = memory;
                    decision
                }
            };
            self.slots = decision.slots.iter().map(|slots| slots.map_or(0.0, |slots| slots as f32)).collect();
            let narrow = |numbers: &[f64]| numbers.iter().map(|number| *number as f32).collect();
            let pushed = (narrow(&decision.applied), narrow(&decision.adjustments), decision.parameters);
            if let Some(rows) = &mut self.rows {
                rows.extend(TickRow::of(&observation, &decision, |key| format!("pod-{}", key.0)));
            }
            if let Some((ticks, features)) = self.ticks.as_mut().zip(features) {
                ticks.push(Tick { features, decision });
            }
            pushed
        } else {
            (vec![1.0; observation.endpoints.len()], Vec::new(), RuleParameters::LOCAL)
        };
        let latency_reference_ms = parameters.latency_reference_ms;
        let parameters = self.options.parameters.unwrap_or(parameters);
        WeightTable {
            backend: BACKEND.into(),
            generation: self.generation,
            tick: observation.tick,
            weights,
            adjustments,
            parameters: ProxyRuleParameters {
                exponent: parameters.exponent,
                offset: parameters.offset,
                latency_exponent: parameters.latency_exponent,
                latency_reference_ms,
                error_exponent: parameters.error_exponent,
                weight_exponent: parameters.weight_exponent,
                work_share: parameters.work_share,
                affinity_proxies: parameters.affinity_proxies,
                affinity_factor: parameters.affinity_factor,
            },
            proxies: NonZeroU32::new(observation.proxies).unwrap_or(NonZeroU32::MIN),
            objective: None,
            proxy_keys: Vec::new(),
            position: None,
        }
    }

    /// What an endpoint's metrics tell.
    fn scraped(&self, number: usize, now_ns: u64) -> Scraped {
        let scraped = self.scrapes[number].scraped(now_ns);
        if self.scenario.telemetry.slots_told {
            scraped
        } else {
            // A server that does not tell how many workers it has does not tell how many of them are busy either.
            Scraped { worker_limit: None, busy: None, cpu_limit_cores: None, ..scraped }
        }
    }

    /// Works out slots where that is due.
    fn learn_slots(&mut self) {
        const EVERY_TICKS: u64 = 4;
        let endpoints = self.keys();
        let Some(learned) = &mut self.learned else { return };
        if self.tick.is_multiple_of(EVERY_TICKS) || self.costs.is_none() {
            let costs = self.classes.costs(&endpoints);
            self.costs = costs.map(|costs| CostIndex::new(&self.classes, costs, &endpoints));
        }
        let cost = |endpoint, class| self.costs.as_ref()?.at(endpoint, class);
        learned.pass(TICK_NS as f64 / SECOND as f64, endpoints.into_iter(), cost);
    }

    fn observe(&mut self, now_ns: u64) -> Observation {
        self.tick += 1;
        self.learn_slots();
        let now = Timestamp(now_ns);
        let endpoints = (0..self.scenario.endpoints.len())
            .map(|number| EndpointObservation {
                key: ModelKey(number as u64),
                ready: self.ready_since_ns[number].is_some(),
                // Those that were there before the controller have no known age.
                ready_age_s: self.ready_since_ns[number]
                    .filter(|since_ns| *since_ns > 0)
                    .map(|since_ns| (now_ns - since_ns) as f64 / SECOND as f64),
                restarts: None,
                zone_match: None,
                slots: self.learned(number).map(|known| known.slots),
                slots_deviation: self.learned(number).and_then(|known| known.deviation),
                reported: self.loads[number].take(f64::from(self.errors[number].get(now))),
                scraped: self.scraped(number, now_ns),
            })
            .collect();
        Observation {
            backend: BACKEND.into(),
            tick: self.tick,
            at_ms: (now_ns / MILLISECOND) as i64,
            interval_s: TICK_NS as f64 / SECOND as f64,
            proxies: self.scenario.shares.len() as u32,
            objective_ms: Some(self.scenario.objective_ns as f64 / MILLISECOND as f64),
            endpoints,
        }
    }
}
