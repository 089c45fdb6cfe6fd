//! Classes of requests of one backend: what its proxies found, pooled; which kinds become classes; what each costs, and where. The costs are
//! worked out by the model; this is what comes in, what goes out, and what stays the same in between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trimtab_model::classes::{ClassCosts, ClassMemory, Cost, CostIndex, Seen};
use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;
use trimtab_proxy::class::{ClassKey, identity, select};

use crate::clock::Now;
use crate::keys::KeyMap;

/// What a proxy found counts for this long after it told.
const FOUND_LATELY: Duration = Duration::from_secs(10);
/// Classes are chosen anew this often; proxies tell what they found once a second.
const CHOOSE_INTERVAL: Duration = Duration::from_secs(1);
/// Costs, factors and slots that moved by less than this factor are not worth a push, nor shares that moved by less than [`SHARE_MOVED`].
const MOVED: f64 = 1.05;
const SHARE_MOVED: f64 = 0.02;
/// A table of the same classes and endpoints is not pushed sooner than this after the last one, and a large one not sooner than it
/// takes at so many numbers a second: some number of many always moves.
const PUSH_INTERVAL_S: f64 = 2.0;
const NUMBERS_PER_S: f64 = 2_000.0;
/// Kinds that are taken from one proxy's report, and bytes of a name: what claims more is none of ours.
const TOP_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 512;

/// The state.
#[derive(Debug, Default)]
pub struct Classes {
    /// By proxy, what it found last.
    found: BTreeMap<Arc<str>, (Instant, v1::ClassCandidates)>,
    chosen: Vec<Chosen>,
    chosen_at: Option<Instant>,
    memory: ClassMemory,
    passed_at: Option<Instant>,
    /// Requests that proxies turned away, by class, since the previous tick; and shares of late.
    shed: BTreeMap<u64, Shed>,
    pushed: Option<Pushed>,
    /// Costs as they were when it was last looked whether to push them.
    index: Option<CostIndex>,
}

/// What proxies have.
#[derive(Debug)]
struct Pushed {
    table: v1::ClassTable,
    at: Instant,
}

/// A kind of request that is a class.
#[derive(Debug, Clone)]
struct Chosen {
    key: u64,
    /// What it is called in proxies, the same as long as it is a class.
    number: u8,
    name: String,
    /// Its cost by the samples of all proxies, until its answers have told better.
    sampled_cost_ms: f64,
    share: f64,
}

/// Requests of a class that were let in and that were turned away, older ones counting less.
#[derive(Debug, Clone, Copy, Default)]
struct Shed {
    answered: f64,
    shed: f64,
}

/// Share of a class's requests that were turned away is taken over about this long.
const SHED_MEMORY_S: f64 = 5.0;

impl Classes {
    /// Takes in a proxy's load report, as far as it is about endpoints that are `known`.
    pub fn reported(
        &mut self,
        proxy: &Arc<str>,
        load: &v1::BackendLoad,
        known: impl Fn(EndpointKey) -> bool,
        now: Now,
    ) {
        if let Some(found) = &load.candidates {
            self.found.insert(proxy.clone(), (now.instant, sane(found)));
        }
        for endpoint in load.endpoints.iter().filter(|endpoint| known(EndpointKey(endpoint.key))) {
            for class in &endpoint.classes {
                let seen = Seen { answers: class.successes, unqueued: class.unqueued, cost_ms: class.cost_ms };
                self.memory.add(endpoint.key, class.key, seen);
                if let Some(shed) = self.shed.get_mut(&class.key) {
                    shed.answered += f64::from(class.successes);
                }
            }
        }
        for class in &load.class_shed {
            if let Some(shed) = self.shed.get_mut(&class.key) {
                shed.shed += class.shed as f64;
            }
        }
    }

    /// Time passes: chooses classes anew where it is time, and returns the table to push, if it differs noticeably from the last one.
    /// `endpoints` are the backend's, in their order; `slots` tells how many requests an endpoint serves at once, where that is known.
    pub fn tick(
        &mut self,
        resource: &v1::Backend,
        endpoints: impl Iterator<Item = EndpointKey>,
        slots: impl Fn(EndpointKey) -> Option<f64>,
        now: Now,
    ) -> Option<v1::ClassTable> {
        if !tells_apart(resource) {
            let pushed = self.pushed.is_some();
            *self = Self::default();
            // Once more, empty: proxies forget the classes that they were told.
            return pushed.then(|| self.table(resource, Vec::new(), None));
        }
        let endpoints: Vec<u64> = endpoints.map(|key| key.0).collect();
        let passed_s = self.passed_at.replace(now.instant).map_or(0.0, |at| now.since_s(at));
        self.memory.pass(passed_s, &endpoints);
        self.shed.values_mut().for_each(|shed| shed.fade(passed_s));
        self.found.retain(|_, (at, _)| now.instant.saturating_duration_since(*at) < FOUND_LATELY);
        let due = self.chosen_at.is_none_or(|at| now.instant.saturating_duration_since(at) >= CHOOSE_INTERVAL);
        if due && !self.found.is_empty() {
            self.chosen_at = Some(now.instant);
            self.choose();
        }
        let mut slots: Vec<f32> = endpoints.iter().map(|key| slots(EndpointKey(*key)).map_or(0.0, slots_of)).collect();
        if slots.iter().all(|slots| *slots <= 0.0) {
            slots.clear();
        }
        // Slots do not wait as what moves all the time does: with them changes the rule.
        if let Some(pushed) = &self.pushed
            && pushed.is_about(resource, &self.chosen)
            && pushed.table.slots == slots
            && now.since_s(pushed.at) < pushed.keeps_s()
        {
            return None;
        }
        let costs = self.memory.costs(&endpoints);
        self.index = costs.clone().map(|costs| CostIndex::new(&self.memory, costs, &endpoints));
        if costs.is_none() && self.chosen.is_empty() {
            return None;
        }
        let table = self.table(resource, slots, costs.as_ref());
        if self.pushed.as_ref().is_some_and(|pushed| !differs(&pushed.table, &table)) {
            return None;
        }
        self.pushed = Some(Pushed { table: table.clone(), at: now.instant });
        Some(table)
    }

    /// What a request of a class costs at an endpoint, as of a few seconds ago; `None` where it is not known.
    pub fn cost(&self, endpoint: u64, class: u64) -> Option<Cost> {
        self.index.as_ref()?.at(endpoint, class)
    }

    /// The classes as last pushed, with the share of each that was turned away lately.
    pub fn pushed(&self) -> impl Iterator<Item = (&v1::ClassCost, f64)> {
        let classes = self.pushed.iter().flat_map(|pushed| &pushed.table.classes);
        classes.map(|class| (class, self.shed.get(&class.key).map_or(0.0, Shed::share)))
    }

    /// Cost of a class at each endpoint relative to the average one, lowest and highest; `None` where they are not known.
    pub fn factors(&self, class: usize) -> Option<(f64, f64)> {
        let table = &self.pushed.as_ref()?.table;
        let column = table.factors.iter().skip(class + 1).step_by(table.classes.len() + 1);
        let factors = column.map(|factor| f64::from(*factor));
        let range = factors.fold((f64::INFINITY, 0.0_f64), |(low, high), factor| (low.min(factor), high.max(factor)));
        (range.1 > 0.0).then_some(range)
    }

    fn choose(&mut self) {
        let pooled = pool(self.found.values().map(|(_, found)| found));
        let previous: Vec<ClassKey> = self.chosen.iter().map(|chosen| ClassKey(chosen.key)).collect();
        let selected = select::select(&previous, &pooled);
        let keys: Vec<ClassKey> = selected.iter().map(|&index| ClassKey(pooled.top[index].key)).collect();
        let before: Vec<_> = self.chosen.iter().map(|chosen| (ClassKey(chosen.key), chosen.number)).collect();
        let whole = f64::from(pooled.requests_per_s).max(f64::MIN_POSITIVE);
        self.chosen = selected
            .iter()
            .zip(select::numbers(&before, &keys))
            .map(|(&index, number)| {
                let candidate = &pooled.top[index];
                Chosen {
                    key: candidate.key,
                    number,
                    name: candidate.name.clone(),
                    sampled_cost_ms: f64::from(candidate.cost_ms),
                    share: (f64::from(candidate.requests_per_s) / whole).clamp(0.0, 1.0),
                }
            })
            .collect();
        let keys: Vec<u64> = self.chosen.iter().map(|chosen| chosen.key).collect();
        self.memory.choose(&keys);
        self.shed.retain(|key, _| keys.contains(key));
        for key in keys {
            self.shed.entry(key).or_default();
        }
    }

    fn table(&self, resource: &v1::Backend, slots: Vec<f32>, costs: Option<&ClassCosts>) -> v1::ClassTable {
        // While a class has no answers of its own yet, its samples must do.
        let learned = |column: usize| costs.and_then(|costs| costs.cost_ms.get(column).copied().flatten());
        let class = |(index, chosen): (usize, &Chosen)| v1::ClassCost {
            key: chosen.key,
            number: u32::from(chosen.number),
            name: chosen.name.clone(),
            cost_ms: cost(learned(index + 1).unwrap_or(chosen.sampled_cost_ms)),
            share: chosen.share as f32,
            priority: priority_of(resource, &chosen.name),
        };
        let classes: Vec<v1::ClassCost> = self.chosen.iter().enumerate().map(class).collect();
        let mean_ms = {
            let shares: f64 = self.chosen.iter().map(|chosen| chosen.share).sum();
            let logs = classes.iter().map(|class| f64::from(class.share) * f64::from(class.cost_ms).ln());
            if shares > 0.0 { (logs.sum::<f64>() / shares).exp() } else { 1.0 }
        };
        v1::ClassTable {
            backend: resource.name.clone(),
            generation: resource.generation,
            classes,
            other_cost_ms: cost(learned(0).unwrap_or(mean_ms)),
            factors: costs.map(|costs| costs.factors.iter().map(|factor| *factor as f32).collect()).unwrap_or_default(),
            slots,
        }
    }
}

impl Pushed {
    /// Whether it is about these endpoints and classes.
    fn is_about(&self, resource: &v1::Backend, chosen: &[Chosen]) -> bool {
        let keys = self.table.classes.iter().map(|class| class.key);
        self.table.generation == resource.generation && keys.eq(chosen.iter().map(|chosen| chosen.key))
    }

    /// Seconds before another such table may follow.
    fn keeps_s(&self) -> f64 {
        (self.table.factors.len() as f64 / NUMBERS_PER_S).max(PUSH_INTERVAL_S)
    }
}

impl Shed {
    fn fade(&mut self, passed_s: f64) {
        let kept = (-passed_s / SHED_MEMORY_S).exp();
        self.answered *= kept;
        self.shed *= kept;
    }

    fn share(&self) -> f64 {
        let all = self.answered + self.shed;
        if all > 0.0 { self.shed / all } else { 0.0 }
    }
}

/// Whether proxies tell the requests of a backend apart.
fn tells_apart(resource: &v1::Backend) -> bool {
    let enabled = resource.classes.as_ref().and_then(|classes| classes.enabled).unwrap_or(true);
    enabled && resource.algorithm() == v1::Algorithm::Adaptive
}

/// What the configuration says of a class of this name.
fn priority_of(resource: &v1::Backend, name: &str) -> f32 {
    let priorities = resource.classes.iter().flat_map(|classes| &classes.priorities);
    let mut matching = priorities.filter(|priority| identity::matches(&priority.r#match, name));
    matching.next().map_or(0.0, |priority| priority.priority)
}

/// What all proxies found together.
fn pool<'a>(found: impl Iterator<Item = &'a v1::ClassCandidates>) -> v1::ClassCandidates {
    let mut pooled = v1::ClassCandidates::default();
    let mut positions: KeyMap<usize> = KeyMap::default();
    for found in found {
        pooled.requests_per_s += found.requests_per_s;
        pooled.work_ms_per_s += found.work_ms_per_s;
        for candidate in &found.top {
            let position = *positions.entry(EndpointKey(candidate.key)).or_insert_with(|| {
                pooled.top.push(v1::ClassCandidate {
                    key: candidate.key,
                    name: candidate.name.clone(),
                    ..Default::default()
                });
                pooled.top.len() - 1
            });
            let sum = &mut pooled.top[position];
            // Each proxy's estimate weighs as much as the samples behind it.
            let samples = sum.samples + candidate.samples;
            if samples > 0.0 {
                sum.cost_ms += (candidate.cost_ms - sum.cost_ms) * candidate.samples / samples;
            }
            sum.samples = samples;
            sum.requests_per_s += candidate.requests_per_s;
            sum.work_ms_per_s += candidate.work_ms_per_s;
        }
    }
    pooled
}

/// A proxy's report as far as it holds.
fn sane(found: &v1::ClassCandidates) -> v1::ClassCandidates {
    let number = |value: f32| if value.is_finite() { value.max(0.0) } else { 0.0 };
    let holds = |candidate: &&v1::ClassCandidate| {
        (1..=NAME_BYTES_MAX).contains(&candidate.name.len()) && identity::key_of(&candidate.name).0 == candidate.key
    };
    let one = |candidate: &v1::ClassCandidate| v1::ClassCandidate {
        key: candidate.key,
        name: candidate.name.clone(),
        requests_per_s: number(candidate.requests_per_s),
        work_ms_per_s: number(candidate.work_ms_per_s),
        cost_ms: number(candidate.cost_ms),
        samples: number(candidate.samples),
    };
    v1::ClassCandidates {
        top: found.top.iter().filter(holds).take(TOP_MAX).map(one).collect(),
        requests_per_s: number(found.requests_per_s),
        work_ms_per_s: number(found.work_ms_per_s),
    }
}

/// A cost as proxies take it.
fn cost(cost_ms: f64) -> f32 {
    if cost_ms.is_finite() { cost_ms.clamp(1e-3, 3.6e6) as f32 } else { 1.0 }
}

/// Slots as proxies take them; 0 where they cannot be.
fn slots_of(slots: f64) -> f32 {
    if slots.is_finite() { slots.clamp(0.0, 1e6) as f32 } else { 0.0 }
}

/// Whether a table says something else, beyond what is noise.
fn differs(pushed: &v1::ClassTable, table: &v1::ClassTable) -> bool {
    let moved = |a: &f32, b: &f32| {
        let (low, high) = (f64::from(a.min(*b)), f64::from(a.max(*b)));
        high > low * MOVED
    };
    let lists = |a: &[f32], b: &[f32]| a.len() != b.len() || a.iter().zip(b).any(|(a, b)| moved(a, b));
    let classes = |a: &v1::ClassCost, b: &v1::ClassCost| {
        (a.key, a.number) != (b.key, b.number)
            || a.priority != b.priority
            || moved(&a.cost_ms, &b.cost_ms)
            || f64::from((a.share - b.share).abs()) >= SHARE_MOVED
    };
    pushed.generation != table.generation
        || pushed.classes.len() != table.classes.len()
        || pushed.classes.iter().zip(&table.classes).any(|(a, b)| classes(a, b))
        || moved(&pushed.other_cost_ms, &table.other_cost_ms)
        || lists(&pushed.factors, &table.factors)
        || lists(&pushed.slots, &table.slots)
}

#[cfg(test)]
#[path = "classes_tests.rs"]
mod tests;
