//! What admission control goes by: the part of a table that it reads.

use std::time::Duration;

use crate::{
    config::{AdmissionControl, CircuitBreaker},
    load::{CLASSES_MAX, RequestClass},
    pick::costs::Costs,
    time::nanos,
};

/// Windows last at least this long.
pub(super) const WINDOW: Duration = Duration::from_millis(100);
/// A mean request weighs so much. Fine enough for one that costs a hundredth of it.
pub(super) const UNIT: f32 = 64.0;
/// No request weighs more than so many mean ones.
const WEIGHT_MAX: f64 = 1_000.0;
/// Share of the objective above which an answer counts as slow.
const SLOW_SHARE: f64 = 0.8;
/// More slow answers than this share are too many.
const SLOW_ANSWERS: f64 = 0.05;
/// And so many standard errors of their number: of the twenty answers of a window two are slow by chance where a few endpoints are.
const SLOW_ERRORS: f64 = 1.0;
/// The share where nobody asked for the objective: before anybody is turned away, and while somebody is.
const SLOW_SHARES_DERIVED: (f64, f64) = (0.5, 0.25);
/// How long it must go on there before anybody is turned away.
const PATIENCE_DERIVED: Duration = Duration::from_secs(2);
/// What a request takes by itself counts against that up to this share of the objective; a class that takes longer is given the rest on top, or
/// it would count as slow by its own nature.
const OWN_SHARE: f64 = 0.4;
/// While much is shed, requests wait for as long as so many mean ones take: enough for no slot to run empty. Longer queues only make answers late and
/// the limit slow to follow.
const QUEUE_COSTS: f64 = 2.0;
/// But for no less and no more than these shares of the objective.
const QUEUE_SHARE: (f64, f64) = (0.05, 0.4);
/// Share of the limit that is in use where shares decide. What is left is for cheap requests that come in a bunch: the limit itself, which asks
/// nobody for their class, is hardly ever met.
const TARGET: f32 = 0.5;
/// The limit grows by this in a window.
const INCREASE: f32 = 0.05;
/// As if it were at least so many times the smallest: otherwise proxies whose limits are unequal would stay so.
const INCREASE_FROM: f32 = 2.0;

/// The rules of one version of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct AdmissionRules {
    enabled: bool,
    min: f32,
    /// Somebody asked for it.
    min_configured: bool,
    max: f32,
    max_parallel: Option<u32>,
    objective: Option<Duration>,
    /// Nobody asked for the objective: it is what the service usually does.
    derived: bool,
    /// What is known of the classes; `None`: all requests are alike.
    classes: Option<Box<ClassRules>>,
}

/// What is known of the classes of requests.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ClassRules {
    /// Share of the limit that each may fill at least.
    pub priorities: [f32; CLASSES_MAX],
    /// What a request takes by itself.
    pub costs_us: [u64; CLASSES_MAX],
    /// The same of the mean request.
    pub mean_us: f64,
    /// What a request may wait while much is shed.
    pub wait_us: f64,
    /// What each weighs in flight, in [`UNIT`]s.
    weights: [u32; CLASSES_MAX],
    /// See [`AdmissionRules::target`].
    target: f32,
}

impl AdmissionRules {
    /// For a backend whose endpoints serve so many requests at once (one each where it is not known), shared by so many proxies, with this objective.
    /// Unless it is configured, the smallest limit is this proxy's part of them: below it requests are turned away while slots are free.
    pub fn new(
        control: &AdmissionControl,
        breaker: &CircuitBreaker,
        slots: f32,
        proxies: f32,
        objective: Option<Duration>,
    ) -> Self {
        let max = control.max_concurrency as f32;
        let min = control.min_concurrency.map_or_else(|| (slots / proxies.max(1.0)).max(1.0), |min| min as f32);
        Self {
            enabled: control.enabled,
            min: min.min(max),
            min_configured: control.min_concurrency.is_some(),
            max,
            max_parallel: breaker.max_parallel_requests,
            objective,
            derived: false,
            classes: None,
        }
    }

    /// The same for an objective that nobody asked for. Then nobody is turned away unless it is plain that more comes than can be done: most answers
    /// are slow, and have been for a while. A few requests that take their time by nature (long polls, streams), and endpoints that stop for
    /// a moment and go on (a collection of garbage, a CPU quota that is used up), would otherwise have others turned away for a number that nobody has set.
    #[must_use]
    pub fn derived(self, derived: bool) -> Self {
        Self { derived, ..self }
    }

    /// The same with what is known of the classes: costly ones are shed first.
    #[must_use]
    pub fn with_classes(mut self, costs: &Costs) -> Self {
        let classes = || (0..CLASSES_MAX as u8).map(RequestClass);
        let each = |of: &dyn Fn(RequestClass) -> f64| -> [f64; CLASSES_MAX] {
            std::array::from_fn(|class| of(RequestClass(class as u8)))
        };
        let mean_us = f64::from(costs.mean_ms()).max(1e-3) * 1e3;
        let objective_us = self.objective.map_or(0.0, |objective| nanos(objective) as f64 / 1e3);
        let (least, most) = QUEUE_SHARE;
        let wait_us = (QUEUE_COSTS * mean_us).max(least * objective_us).min(most * objective_us);
        let costs_us = each(&|class| f64::from(costs.cost_ms(class)) * 1e3);
        // A costly request ahead delays others for as long as they take to pass by it, not for as long as it takes itself.
        let weigh = |cost_us: f64| f64::from(UNIT) * (cost_us.min(mean_us + wait_us) / mean_us).min(WEIGHT_MAX);
        // With a single class there is nobody to hold back for another.
        let several = classes().filter(|class| costs.share(*class) > 0.0).count() > 1;
        let target = if several { TARGET } else { 1.0 };
        if !self.min_configured {
            self.min = (self.min / target).min(self.max);
        }
        self.classes = Some(Box::new(ClassRules {
            priorities: each(&|class| f64::from(costs.priority(class))).map(|priority| priority.clamp(0.0, 1.0) as f32),
            weights: costs_us.map(|cost_us| weigh(cost_us).round().max(1.0) as u32),
            costs_us: costs_us.map(|cost_us| cost_us as u64),
            mean_us,
            wait_us,
            target,
        }));
        self
    }

    /// The circuit breaker's limit.
    pub(super) fn max_parallel(&self) -> Option<u32> {
        self.max_parallel
    }

    /// The objective, if the limiter is on: without one it does not act.
    pub(super) fn objective(&self) -> Option<Duration> {
        self.objective.filter(|_| self.enabled)
    }

    /// The same in microseconds; 0 without one.
    pub(super) fn objective_us(&self) -> f64 {
        self.objective().map_or(0.0, |objective| nanos(objective) as f64 / 1e3)
    }

    /// What is known of the classes, unless all requests are to be taken for alike.
    pub(super) fn classes(&self) -> Option<&ClassRules> {
        self.classes.as_deref()
    }

    /// What a request of this class weighs in flight.
    pub(super) fn weight(&self, class: RequestClass) -> u32 {
        self.classes().map_or(UNIT as u32, |classes| classes.weights[class.index()])
    }

    /// What a request of this class takes by itself; 0 where that is not known.
    pub(super) fn cost_us(&self, class: RequestClass) -> u64 {
        self.classes().map_or(0, |classes| classes.costs_us[class.index()])
    }

    /// An answer that takes longer than this is slow, whatever was asked for.
    pub(super) fn slow_mark(&self) -> Duration {
        self.objective.unwrap_or_default().mul_f64(SLOW_SHARE)
    }

    /// An answer to a request of this class that takes longer is slow.
    pub(super) fn slow_us(&self, class: RequestClass) -> u64 {
        let own_us = self.cost_us(class) as f64 - OWN_SHARE * self.objective_us();
        (SLOW_SHARE * self.objective_us() + own_us.max(0.0)) as u64
    }

    /// Share of the limit that is in use where shares decide; 1 where the limit does.
    pub(super) fn target(&self) -> f32 {
        self.classes().map_or(1.0, |classes| classes.target)
    }

    /// More slow answers among so many of a window are too many; `shed`: while requests are turned away.
    pub(super) fn slow_max(&self, answers: f64, shed: bool) -> f64 {
        if self.derived {
            // Patience sees to chance.
            let (before, meanwhile) = SLOW_SHARES_DERIVED;
            return answers * if shed { meanwhile } else { before };
        }
        let usual = SLOW_ANSWERS * answers;
        usual + SLOW_ERRORS * usual.sqrt()
    }

    /// For so long each window must give reason to lower the limit before it is lowered for the first time.
    pub(super) fn patience(&self) -> Duration {
        if self.derived { PATIENCE_DERIVED } else { Duration::ZERO }
    }

    /// Whether the objective is one that nobody asked for.
    pub(super) fn is_derived(&self) -> bool {
        self.derived
    }

    /// Whether a limit is the largest there is: it was never lowered, or has risen again all the way.
    pub(super) fn is_largest(&self, limit: f32) -> bool {
        limit >= self.max
    }

    /// A limit within its range.
    pub(super) fn clamped(&self, limit: f32) -> f32 {
        limit.clamp(self.min, self.max)
    }

    /// A limit after a window that gave no reason to lower it. Whether it is in use does not matter: it sinks from what is in use, and one that
    /// was lowered in bad times should be gone in good ones.
    pub(super) fn raised(&self, limit: f32) -> f32 {
        limit + INCREASE * limit.max(INCREASE_FROM * self.min)
    }
}
