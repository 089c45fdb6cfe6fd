//! One backend of the proxy's table: an immutable value with its endpoints, weights, errors and ejections, and its algorithm ready to
//! pick. Every change makes a new value that shares the live loads with the old one.

mod newcomers;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderName, HeaderValue};
use rand::RngCore;

use crate::{
    admission::{Admission, AdmissionRules, Admitted, Shed},
    arrival::Tally,
    config::{
        Algorithm, BackendConfig, ClassKey, ClassTable, EndpointConfig, EndpointKey, EndpointState, ErrorTable,
        InvalidResource, RuleParameters, WeightTable,
    },
    govern::{Governor, Retrying},
    head::RequestHead,
    keys::KeyMap,
    load::{Attempt, EndpointLoad, OrcaLoad, Outcome, RequestClass},
    outlier::{Ejections, OutlierEvent, Phase},
    pick::{
        Candidate, Pick, PickRequest, Picker, Pool, Shared,
        costs::Costs,
        rule::{self, Terms, expected_wait, in_flight_all},
    },
    session::{Session, Sessions, Unsigned},
    sketch::AtomicSketch,
    time::{Coarse, Timestamp, millis},
};
use newcomers::Newcomers;

/// Up to this age a weight table is trusted in full: the controller may restart meanwhile.
pub const FULL_TRUST: Duration = Duration::from_secs(10);
/// From this age on nothing of it is left (`weightExpirationPeriod`).
pub const WEIGHT_EXPIRATION: Duration = Duration::from_secs(180);
/// A request that must expect to wait longer than this share of its own cost does not tell what it costs.
const WAIT_TELLING_MAX: f32 = 0.25;
/// Trust that moved by less than this is not worth a new table.
const TRUST_STEP: f32 = 0.02;
/// A weight is at least this share of the mean one: keeps scores finite whatever is pushed.
const WEIGHT_SHARE_MIN: f64 = 1e-9;

/// One backend at one moment.
#[derive(Debug, Clone)]
pub struct Backend {
    config: Arc<BackendConfig>,
    endpoints: Arc<[Endpoint]>,
    state: Arc<BackendState>,
    weights: Option<Received<Arc<Weights>>>,
    errors: Option<Received<Arc<[f32]>>>,
    costs: Option<Arc<Costs>>,
    ejections: Arc<Ejections>,
    failing: Failing,
    sessions: Option<Arc<Sessions>>,
    trust: f32,
    admission: AdmissionRules,
    parameters: RuleParameters,
    pool: Pool,
    picker: Picker,
    /// Positions of endpoints that are tried with one request at a time.
    half_open: Box<[u32]>,
    newcomers: Newcomers,
}

/// One endpoint with its live load.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// As configured.
    pub config: Arc<EndpointConfig>,
    /// Shared by all tables and workers.
    pub load: Arc<EndpointLoad>,
}

/// What outlives the values of one backend and is shared by all workers.
#[derive(Debug)]
pub struct BackendState {
    shared: Arc<Shared>,
    admission: Admission,
    governor: Governor,
    /// Requests for which an endpoint was chosen, while some endpoint is new.
    picked: Tally,
    pub(crate) shed: AtomicU64,
    pub(crate) unroutable: AtomicU64,
    pub(crate) within_objective: AtomicU64,
    pub(crate) latency: AtomicSketch,
    /// Active health checks by what came of them.
    pub(crate) checks_passed: AtomicU64,
    pub(crate) checks_failed: AtomicU64,
    /// Prequal's probes by what became of them.
    pub(crate) probes_answered: AtomicU64,
    pub(crate) probes_failed: AtomicU64,
    pub(crate) probes_skipped: AtomicU64,
}

/// Endpoints that active health checks keep out, and why.
type Failing = Arc<BTreeMap<EndpointKey, Arc<str>>>;

/// Something pushed, and when it came.
#[derive(Debug, Clone)]
struct Received<T> {
    value: T,
    at: Timestamp,
}

/// A weight table as far as it is about the present endpoints.
#[derive(Debug)]
struct Weights {
    tick: u64,
    /// One an endpoint; positive, mean 1.
    relative: Box<[f64]>,
    /// One an endpoint, > 0: its score is divided by it.
    adjustments: Box<[f64]>,
    parameters: RuleParameters,
    proxies: f32,
    /// Position among the proxies that send to the backend, if it is known.
    position: Option<u32>,
    objective: Option<Duration>,
}

impl Backend {
    /// From its configuration. Loads, weights, errors and ejections of endpoints that were there before are kept; new endpoints get the
    /// mean weight until the next table.
    pub fn new(config: BackendConfig, previous: Option<&Self>, now: Timestamp) -> Self {
        // Where each stood before.
        let origins: Vec<Option<usize>> = {
            let before: KeyMap<usize> = previous
                .iter()
                .flat_map(|previous| previous.endpoints.iter().enumerate())
                .map(|(index, endpoint)| (endpoint.config.key, index))
                .collect();
            config.endpoints.iter().map(|endpoint| before.get(&endpoint.key).copied()).collect()
        };
        let served = previous.is_some_and(|previous| active(&previous.endpoints).next().is_some());
        let of_origin = |index: Option<usize>| previous.zip(index).map(|(previous, index)| &previous.endpoints[index]);
        let endpoints: Arc<[Endpoint]> = config
            .endpoints
            .iter()
            .zip(&origins)
            .map(|(endpoint, origin)| {
                let origin = of_origin(*origin);
                let load = || Arc::new(EndpointLoad::new(endpoint.key, now));
                let load = origin.map_or_else(load, |origin| origin.load.clone());
                // Ready, and not before; but where there was nobody before, nobody is new.
                let ready = |endpoint: &EndpointConfig| endpoint.state == EndpointState::Ready;
                if served && ready(endpoint) && !origin.is_some_and(|origin| ready(&origin.config)) {
                    load.arrival().became_ready(now);
                }
                Endpoint { config: endpoint.clone(), load }
            })
            .collect();
        let weights = previous.and_then(|previous| previous.weights.as_ref()).map(|received| Received {
            at: received.at,
            value: Arc::new(Weights {
                relative: relative(origins.iter().map(|origin| origin.map_or(1.0, |at| received.value.relative[at]))),
                adjustments: origins
                    .iter()
                    .map(|origin| origin.map_or(1.0, |at| received.value.adjustments[at]))
                    .collect(),
                ..*received.value
            }),
        });
        let errors = previous.and_then(|previous| previous.errors.as_ref()).map(|received| Received {
            at: received.at,
            value: origins.iter().map(|origin| origin.map_or(0.0, |at| received.value[at])).collect(),
        });
        let costs = previous
            .and_then(|previous| previous.costs.as_ref())
            .map(|costs| Arc::new(costs.for_endpoints(origins.iter().copied())));
        let state = previous.map_or_else(|| Arc::new(BackendState::new()), |previous| previous.state.clone());
        let ejections = previous.map_or_else(Arc::default, |previous| {
            let staying: Vec<EndpointKey> = active(&endpoints).map(|endpoint| endpoint.config.key).collect();
            Arc::new(previous.ejections.restricted(now, staying.into_iter(), &config.outlier_detection))
        });
        let checked = previous.filter(|_| config.traffic.active.is_some());
        let failing = checked.map_or_else(Arc::default, |previous| {
            let failing = |endpoint: &Endpoint| {
                let key = endpoint.config.key;
                previous.failing.get(&key).map(|reason| (key, reason.clone()))
            };
            Arc::new(endpoints.iter().filter_map(failing).collect())
        });
        let sessions = config.traffic.session.as_ref().map(|policy| {
            Arc::new(Sessions::new(&config.name, policy, config.endpoints.iter().map(|endpoint| endpoint.key)))
        });
        Parts { config: Arc::new(config), endpoints, state, weights, errors, costs, ejections, failing, sessions }
            .build(now)
    }

    /// With the weights of another tick. `Ok(None)` if they are about another list of endpoints: the next tick brings the right ones.
    ///
    /// # Errors
    /// If there is not one weight an endpoint.
    pub fn with_weights(&self, table: &WeightTable, now: Timestamp) -> Result<Option<Self>, InvalidResource> {
        if table.generation != self.config.generation {
            return Ok(None);
        }
        self.check_len("WeightTable", "weights", table.weights.len())?;
        if !table.adjustments.is_empty() {
            self.check_len("WeightTable", "adjustments", table.adjustments.len())?;
        }
        let weights = Weights {
            tick: table.tick,
            relative: relative(table.weights.iter().map(|&weight| f64::from(weight))),
            adjustments: match &*table.adjustments {
                [] => vec![1.0; table.weights.len()].into(),
                adjustments => {
                    adjustments.iter().map(|&adjustment| f64::from(adjustment).max(WEIGHT_SHARE_MIN)).collect()
                }
            },
            parameters: table.parameters,
            proxies: table.proxies.get() as f32,
            position: table.position,
            objective: table.objective,
        };
        let parts = Parts { weights: Some(Received { value: Arc::new(weights), at: now }), ..self.parts() };
        Ok(Some(parts.build(now)))
    }

    /// With other pooled errors. `Ok(None)` if they are about another list of endpoints.
    ///
    /// # Errors
    /// If there is not one error an endpoint.
    pub fn with_errors(&self, table: &ErrorTable, now: Timestamp) -> Result<Option<Self>, InvalidResource> {
        if table.generation != self.config.generation {
            return Ok(None);
        }
        self.check_len("ErrorTable", "errors", table.errors.len())?;
        let errors = Received { value: Arc::from(&*table.errors), at: now };
        Ok(Some(Parts { errors: Some(errors), ..self.parts() }.build(now)))
    }

    /// With other class costs. `Ok(None)` if they are about another list of endpoints.
    ///
    /// # Errors
    /// If there is not a factor for each endpoint and class, or not a number of slots an endpoint (where there are any).
    pub fn with_classes(&self, table: &ClassTable, now: Timestamp) -> Result<Option<Self>, InvalidResource> {
        if table.generation != self.config.generation {
            return Ok(None);
        }
        if !table.factors.is_empty() {
            self.check_len("ClassTable", "factors", table.factors.len() / (table.classes.len() + 1))?;
        }
        if !table.slots.is_empty() {
            self.check_len("ClassTable", "slots", table.slots.len())?;
        }
        let costs = Costs::new(table, self.endpoints.len());
        Ok(Some(Parts { costs: Some(Arc::new(costs)), ..self.parts() }.build(now)))
    }

    /// The class of requests with this key; class 0 if it has none of its own.
    #[inline]
    pub fn class_of(&self, key: ClassKey) -> RequestClass {
        self.costs.as_ref().map_or_else(RequestClass::default, |costs| costs.class_of(key))
    }

    /// What is known of the classes of requests.
    pub fn costs(&self) -> Option<&Costs> {
        self.costs.as_deref()
    }

    /// With what an outlier event changes; `None` if nothing.
    pub fn with_outlier_event(&self, event: &OutlierEvent, now: Timestamp) -> Option<Self> {
        let endpoints = active(&self.endpoints);
        let known = endpoints.clone().any(|endpoint| endpoint.config.key == event.endpoint);
        let next = self.ejections.on_event(now, event, endpoints.count(), &self.config.outlier_detection)?;
        known.then(|| Parts { ejections: Arc::new(next), ..self.parts() }.build(now))
    }

    /// With what active health checks say of an endpoint: why it is not well, or that it is; `None` if that changes nothing.
    pub fn with_check(&self, endpoint: EndpointKey, failing: Option<&str>, now: Timestamp) -> Option<Self> {
        // What a check of another configuration, or of an endpoint that has left, still had to say.
        let known = self.config.traffic.active.is_some() && self.endpoints.iter().any(|e| e.config.key == endpoint);
        if !known || self.failing(endpoint) == failing {
            return None;
        }
        let mut next = BTreeMap::clone(&self.failing);
        match failing {
            Some(reason) => drop(next.insert(endpoint, reason.into())),
            None => drop(next.remove(&endpoint)),
        }
        Some(Parts { failing: Arc::new(next), ..self.parts() }.build(now))
    }

    /// Why active health checks keep an endpoint out; `None`: they do not.
    pub fn failing(&self, endpoint: EndpointKey) -> Option<&str> {
        self.failing.get(&endpoint).map(|reason| &**reason)
    }

    /// With what the passing of time changes: ejections that are over, and weights that have aged; `None` if nothing. Worth calling
    /// at [`Self::next_deadline`] and every second or so.
    pub fn with_time(&self, now: Timestamp) -> Option<Self> {
        let ejections = self.ejections.on_time(now, &self.config.outlier_detection);
        let trust = trust(self.weights.as_ref(), now);
        let aged = (trust - self.trust).abs() >= TRUST_STEP || (trust == 0.0) != (self.trust == 0.0);
        if ejections.is_none() && !aged {
            return None;
        }
        let ejections = ejections.map_or_else(|| self.ejections.clone(), Arc::new);
        Some(Parts { ejections, ..self.parts() }.build(now))
    }

    /// When an ejection is over next.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.ejections.next_deadline()
    }

    /// Chooses the endpoint of a request: its position in [`Self::endpoints`]. `None` if none may be picked. Follow it by
    /// [`Self::begin`] at once.
    pub fn pick<R: RngCore + ?Sized>(&self, request: &PickRequest<'_>, now: Timestamp, rng: &mut R) -> Option<usize> {
        // A request that is being retried is not risked on a trial.
        if !self.half_open.is_empty() && request.exclude.is_empty() {
            let granted = |index: &&u32| self.endpoints[**index as usize].load.try_trial(now);
            if let Some(&index) = self.half_open.iter().find(granted) {
                return Some(index as usize);
            }
        }
        let position = self.picker.pick(&self.pool, request, now, rng)?;
        let index = self.pool.candidates[position].index as usize;
        Some(if self.newcomers.are_some(now) { self.within_share(index, request, now, rng) } else { index })
    }

    /// A request is sent to the endpoint at `index`.
    pub fn begin(&self, index: usize, now: Timestamp, class: RequestClass) -> Attempt {
        let load = &self.endpoints[index].load;
        let Some(costs) = &self.costs else { return load.begin(now, class) };
        let wait = expected_wait(costs, index, load, Coarse::of(now), self.pool.proxies, self.pool.peers);
        let cost = costs.at(index, class);
        // Chosen by what is expected, not by how it turns out: otherwise long waits would pass for service.
        let wait_ms = (wait <= WAIT_TELLING_MAX * cost).then_some(wait * costs.mean_ms());
        load.begin(now, class).known(cost, wait_ms)
    }

    /// Requests of all proxies in flight at the endpoint at `index`, as the rule takes them to be.
    pub fn in_flight_all(&self, index: usize, now: Timestamp) -> f32 {
        in_flight_all(&self.endpoints[index].load, Coarse::of(now), self.pool.proxies, self.pool.peers)
    }

    /// It ended; the endpoint at the same `index` as [`Self::begin`]'s took `latency` for it, `None` where that is not known. The event, if there is one,
    /// goes to the owner of the table.
    pub fn finish(
        &self,
        index: usize,
        attempt: Attempt,
        now: Timestamp,
        outcome: Outcome,
        latency: impl Into<Option<Duration>>,
        orca: Option<OrcaLoad>,
    ) -> Option<OutlierEvent> {
        let latency = latency.into();
        if let Some(latency) = latency {
            if outcome == Outcome::Success {
                self.state.shared.latency.answered(now, millis(latency) / attempt.relative_cost());
            }
            self.state.shared.in_flight.ended(now, latency);
        }
        // A baseline forgets and learns as its original does.
        let adaptive = self.config.algorithm == Algorithm::Adaptive;
        let attempt = if adaptive { attempt.in_haste(rule::haste(&self.pool, Coarse::of(now))) } else { attempt };
        self.endpoints[index].load.finish(attempt, now, outcome, latency, orca, &self.config.outlier_detection)
    }

    /// Counts a client's request against the rate limits.
    ///
    /// # Errors
    /// How long the client should wait.
    pub fn take_rate(
        &self,
        client: IpAddr,
        route: &str,
        head: &impl RequestHead,
        now: Timestamp,
    ) -> Result<(), Duration> {
        self.state.governor.take(&self.config.traffic.rate_limits, (client, route, head), now)
    }

    /// The session that a request belongs to; `None` if it says none that holds, or there are none here.
    ///
    /// # Errors
    /// What it says is signed by none of the keys.
    pub fn session(&self, head: &impl RequestHead, now_s: u64) -> Result<Option<Session>, Unsigned> {
        match (&self.sessions, &self.config.traffic.session) {
            (Some(sessions), Some(policy)) => sessions.read(policy, head, now_s),
            _ => Ok(None),
        }
    }

    /// What tells a client that its session is with the endpoint at `index`.
    pub fn told_session(&self, index: usize, times: (u64, u64), secure: bool) -> Option<(HeaderName, HeaderValue)> {
        let endpoint = self.endpoints.get(index)?.config.key;
        self.sessions.as_ref()?.told(self.config.traffic.session.as_ref()?, endpoint, times, secure)
    }

    /// Those that may be picked, in the order of the endpoints.
    pub fn candidates(&self) -> &[Candidate] {
        &self.pool.candidates
    }

    /// Whether the endpoint at `index` is one that may be picked.
    pub fn is_candidate(&self, index: usize) -> bool {
        // They stand in the order of the endpoints.
        self.pool.candidates.binary_search_by_key(&index, |candidate| candidate.index as usize).is_ok()
    }

    /// Whether a request may be tried on another endpoint after so many tries, and there is one.
    pub fn has_another(&self, tries: u32) -> bool {
        tries <= self.config.num_retries && self.pool.candidates.len() > tries as usize
    }

    /// Leave to send a request to another endpoint though it had reached one.
    pub fn retry(&self) -> Option<Retrying> {
        self.state.governor.retry(&self.config.traffic.retry, self.in_flight())
    }

    /// Lets a client's request in or turns it away, before an endpoint is chosen.
    ///
    /// # Errors
    /// [`Shed`]: to be answered 503 with `Retry-After`.
    pub fn admit(&self, class: RequestClass) -> Result<Admitted, Shed> {
        self.state.admission.admit(&self.admission, class).inspect_err(|_| {
            self.state.shed.fetch_add(1, Relaxed);
        })
    }

    /// A client's request that was let in is over, retries included, `latency` after it came, of which `own` was this proxy's own time: no queue of an
    /// endpoint's.
    pub fn answered(&self, admitted: Admitted, now: Timestamp, outcome: Outcome, latency: Duration, own: Duration) {
        self.state.admission.finish(admitted, &self.admission, now, outcome, latency.saturating_sub(own));
        if outcome == Outcome::Success && self.objective().is_none_or(|objective| latency <= objective) {
            self.state.within_objective.fetch_add(1, Relaxed);
        }
        if matches!(outcome, Outcome::Success | Outcome::ServerError) {
            self.state.latency.record(latency);
        }
    }

    /// A request for which no endpoint was to be had.
    pub fn unroutable(&self) {
        self.state.unroutable.fetch_add(1, Relaxed);
    }

    /// Its configuration.
    pub fn config(&self) -> &BackendConfig {
        &self.config
    }

    /// `namespace/service:port`.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Fingerprint of the endpoint list.
    pub fn generation(&self) -> u64 {
        self.config.generation
    }

    /// Endpoints in the order of the configuration.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The part that outlives this value.
    pub fn state(&self) -> &Arc<BackendState> {
        &self.state
    }

    /// Its algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.config.algorithm
    }

    /// Where the endpoint stands with outlier detection; `None`: it was not ejected lately.
    pub fn phase(&self, endpoint: EndpointKey) -> Option<Phase> {
        self.ejections.phase(endpoint)
    }

    /// Whether this proxy has taken the endpoint out.
    pub fn is_ejected(&self, endpoint: EndpointKey) -> bool {
        self.ejections.is_out(endpoint)
    }

    /// The latency objective in force: the configured one, else the one that came with the weights.
    pub fn objective(&self) -> Option<Duration> {
        self.admission_objective()
    }

    /// The concurrency limit in force; `None` where the limiter does not act.
    pub fn concurrency_limit(&self) -> Option<f32> {
        self.state.admission.limit(&self.admission)
    }

    /// Share of the concurrency limit that requests of a class may fill at present.
    pub fn limit_share(&self, class: RequestClass) -> f32 {
        self.state.admission.share(&self.admission, class)
    }

    /// Requests of a class that met the concurrency limit so far.
    pub fn shed_of(&self, class: RequestClass) -> u64 {
        self.state.admission.shed_of(class)
    }

    /// Requests let in and not over yet.
    pub fn in_flight(&self) -> u32 {
        self.state.admission.in_flight()
    }

    /// How far the last weight table is still trusted, 0..=1; 0 if there is none.
    pub fn trust(&self) -> f32 {
        self.trust
    }

    /// Tick of the last weight table.
    pub fn tick(&self) -> Option<u64> {
        self.weights.as_ref().map(|weights| weights.value.tick)
    }

    /// The rule's parameters in force.
    pub fn parameters(&self) -> &RuleParameters {
        &self.parameters
    }

    /// The weights in force, relative to their mean, by position in [`Self::endpoints`]; `None` for endpoints that are not in the choice.
    pub fn effective_weights(&self) -> Vec<Option<f32>> {
        let mut weights = vec![None; self.endpoints.len()];
        for candidate in &self.pool.candidates {
            weights[candidate.index as usize] = Some(1.0 / candidate.inverse_weight);
        }
        weights
    }

    /// The weight in force of one endpoint, relative to the mean.
    pub fn weight(&self, index: usize) -> Option<f32> {
        let candidate = self.pool.candidates.iter().find(|candidate| candidate.index as usize == index)?;
        Some(1.0 / candidate.inverse_weight)
    }

    /// What the rule makes of an endpoint for a request of this class now, term by term; `None` if it is not in the choice or the algorithm is another one.
    pub fn explain(&self, index: usize, class: RequestClass, now: Timestamp) -> Option<Terms> {
        let Picker::Adaptive(rule) = &self.picker else { return None };
        let candidate = self.pool.candidates.iter().find(|candidate| candidate.index as usize == index)?;
        Some(rule.explain(&self.pool, candidate, class, now))
    }

    /// The pooled error of an endpoint as it was received, 0..=1.
    pub(crate) fn pooled_error(&self, index: usize) -> f32 {
        self.errors.as_ref().map_or(0.0, |errors| errors.value[index])
    }

    fn admission_objective(&self) -> Option<Duration> {
        objective(&self.config, self.weights.as_ref())
    }

    fn check_len(&self, kind: &str, field: &str, len: usize) -> Result<(), InvalidResource> {
        let endpoints = self.endpoints.len();
        if len == endpoints {
            return Ok(());
        }
        Err(InvalidResource {
            resource: format!("{kind} {}", self.config.name),
            field: field.to_owned(),
            reason: format!("{len} numbers for {endpoints} endpoints of generation {:016x}", self.config.generation),
        })
    }

    fn parts(&self) -> Parts {
        Parts {
            config: self.config.clone(),
            endpoints: self.endpoints.clone(),
            state: self.state.clone(),
            weights: self.weights.clone(),
            errors: self.errors.clone(),
            costs: self.costs.clone(),
            ejections: self.ejections.clone(),
            failing: self.failing.clone(),
            sessions: self.sessions.clone(),
        }
    }
}

impl BackendState {
    fn new() -> Self {
        Self {
            shared: Arc::default(),
            picked: Tally::default(),
            admission: Admission::new(),
            governor: Governor::default(),
            shed: AtomicU64::new(0),
            unroutable: AtomicU64::new(0),
            within_objective: AtomicU64::new(0),
            latency: AtomicSketch::new(),
            checks_passed: AtomicU64::new(0),
            checks_failed: AtomicU64::new(0),
            probes_answered: AtomicU64::new(0),
            probes_failed: AtomicU64::new(0),
            probes_skipped: AtomicU64::new(0),
        }
    }
}

/// What a backend is made of, before it is prepared for picking.
struct Parts {
    config: Arc<BackendConfig>,
    endpoints: Arc<[Endpoint]>,
    state: Arc<BackendState>,
    weights: Option<Received<Arc<Weights>>>,
    errors: Option<Received<Arc<[f32]>>>,
    costs: Option<Arc<Costs>>,
    ejections: Arc<Ejections>,
    failing: Failing,
    sessions: Option<Arc<Sessions>>,
}

impl Parts {
    fn build(self, now: Timestamp) -> Backend {
        let trust = trust(self.weights.as_ref(), now);
        let weights = self.weights.as_ref().map(|received| &*received.value);
        let parameters =
            weights.map_or(RuleParameters::LOCAL, |weights| weights.parameters.faded(&RuleParameters::LOCAL, trust));
        let terms = self.config.terms;
        let parameters = terms.applied_to(parameters);
        let candidate = |index: usize| {
            let faded = |number: f64| 1.0 + (number - 1.0) * f64::from(trust);
            let weight = weights.map_or(1.0, |weights| faded(weights.relative[index]));
            let adjustment = weights.filter(|_| terms.weights).map_or(1.0, |weights| faded(weights.adjustments[index]));
            Candidate {
                load: self.endpoints[index].load.clone(),
                index: index as u32,
                inverse_weight: (1.0 / weight) as f32,
                weight_factor: weight.powf(-f64::from(parameters.weight_exponent)) / adjustment,
                pooled_error: self.errors.as_ref().map_or(0.0, |errors| errors.value[index]),
                preferred: weights.is_none_or(|weights| prefers(weights, parameters.affinity_proxies, index)),
            }
        };
        let available = |ejected_too: bool, failing_too: bool| {
            let may = |(_, endpoint): &(usize, &Endpoint)| {
                endpoint.config.state == EndpointState::Ready
                    && (ejected_too || !self.ejections.is_out(endpoint.config.key))
                    && (failing_too || !self.failing.contains_key(&endpoint.config.key))
            };
            self.endpoints.iter().enumerate().filter(may).map(|(index, _)| candidate(index)).collect::<Box<[_]>>()
        };
        let healthy = available(false, false);
        let panic_percent = match &self.config.traffic.active {
            Some(active) if !self.failing.is_empty() => usize::from(active.panic_threshold),
            _ => 0,
        };
        // Panic: if too few are well, or all are ejected, all that are not draining are better than none. That checks keep all out is believed
        // where the threshold is 0.
        let candidates = if healthy.len() * 100 < panic_percent * active(&self.endpoints).count() {
            available(true, true)
        } else if healthy.is_empty() {
            available(true, false)
        } else {
            healthy
        };
        let half_open = |(_, endpoint): &(usize, &Endpoint)| {
            endpoint.config.state == EndpointState::Ready
                && self.ejections.phase(endpoint.config.key) == Some(Phase::HalfOpen)
                && !self.failing.contains_key(&endpoint.config.key)
        };
        let pool = Pool {
            candidates,
            proxies: weights.map_or(1.0, |weights| weights.proxies),
            errors_at: self.errors.as_ref().map(|errors| Coarse::of(errors.at)),
            peers: terms.peers,
            costs: self.costs.clone().filter(|_| terms.class_costs),
            shared: self.state.shared.clone(),
        };
        let slots_of = |index: usize| self.costs.as_ref().map_or(1.0, |costs| costs.slots(index).max(1.0));
        let slots = (0..self.endpoints.len()).map(slots_of).sum();
        let admission = AdmissionRules::new(
            &self.config.admission_control,
            &self.config.circuit_breaker,
            slots,
            pool.proxies,
            objective(&self.config, self.weights.as_ref()),
        )
        .derived(self.config.objective.is_none());
        let admission = match &self.costs {
            Some(costs) if terms.class_shedding => admission.with_classes(costs),
            _ => admission,
        };
        // A baseline does as its original does.
        let newcomers = match self.config.algorithm {
            Algorithm::Adaptive => Newcomers::of(&self.endpoints, pool.candidates.len(), self.costs.as_deref(), now),
            _ => Newcomers::default(),
        };
        Backend {
            newcomers,
            admission,
            picker: {
                let set = &self.config.traffic.balancing;
                let is_near = |index: usize| !set.zone.is_empty() && self.endpoints[index].config.zone == set.zone;
                Picker::new(self.config.algorithm, &pool, &parameters, set, is_near)
            },
            half_open: self.endpoints.iter().enumerate().filter(half_open).map(|(index, _)| index as u32).collect(),
            pool,
            parameters,
            trust,
            config: self.config,
            endpoints: self.endpoints,
            state: self.state,
            weights: self.weights,
            errors: self.errors,
            costs: self.costs,
            ejections: self.ejections,
            failing: self.failing,
            sessions: self.sessions,
        }
    }
}

/// Whether this proxy is one of the `affinity` that prefer the endpoint at `index`: every endpoint has as many, every proxy as many endpoints, and
/// neighbours in the list of proxies share few of them.
fn prefers(weights: &Weights, affinity: f32, index: usize) -> bool {
    let proxies = weights.proxies as u64;
    let Some(position) = weights.position else { return true };
    let affinity = affinity.round() as u64;
    affinity == 0
        || proxies <= affinity
        || (index as u64 * affinity + proxies - u64::from(position) % proxies) % proxies < affinity
}

fn active(endpoints: &[Endpoint]) -> impl Iterator<Item = &Endpoint> + Clone {
    endpoints.iter().filter(|endpoint| endpoint.config.state == EndpointState::Ready)
}

fn objective(config: &BackendConfig, weights: Option<&Received<Arc<Weights>>>) -> Option<Duration> {
    config.objective.or_else(|| weights.and_then(|weights| weights.value.objective))
}

/// Full until [`FULL_TRUST`], none from [`WEIGHT_EXPIRATION`] on, linear between.
fn trust(weights: Option<&Received<Arc<Weights>>>, now: Timestamp) -> f32 {
    let Some(weights) = weights else { return 0.0 };
    let age = now.since(weights.at).saturating_sub(FULL_TRUST);
    (1.0 - age.as_secs_f32() / (WEIGHT_EXPIRATION - FULL_TRUST).as_secs_f32()).max(0.0)
}

/// Positive weights relative to their mean.
fn relative(weights: impl ExactSizeIterator<Item = f64> + Clone) -> Box<[f64]> {
    let mean = weights.clone().sum::<f64>() / weights.len().max(1) as f64;
    weights.map(|weight| (weight / mean).max(WEIGHT_SHARE_MIN)).collect()
}

#[cfg(test)]
mod tests;
