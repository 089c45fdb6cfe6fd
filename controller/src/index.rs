//! All state of the controller, owned and written by one task, fed by events, read through snapshots: nothing here is locked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use tokio::sync::watch;
use trimtab_model::Policy;
use trimtab_model::observation::EndpointKey;
use trimtab_model::rollout::{Choice, What, Why};
use trimtab_proxy::api::v1;

use crate::clock::Now;
use crate::gateway::Config;
use crate::leader::Leadership;
use crate::metrics::{Metrics, ScrapeOutcome};
use crate::models::{Models, Seen};
use crate::peers::{self, MacKey};
use crate::picture;
use crate::policies::Policies;
use crate::proxies::Proxies;
use crate::recording::Recorder;
use crate::scrape::ScrapeResult;
use crate::session_keys::SessionKeys;
use crate::telemetry::{Lesson, TelemetryEvent};
use crate::tick::{Backend, Deciders};
use crate::view::View;
use crate::xds::{AdsEvent, Kind, Publisher};

/// Errors that arrive within this time of each other travel in one push. They are out of here well within the 20 ms that the promise
/// of 100 ms, proxy to proxy, leaves to the controller.
const GATHER: Duration = Duration::from_millis(5);
/// How often fading averages are looked at.
const FADE: Duration = Duration::from_millis(100);

/// The state.
#[derive(Debug)]
pub struct Index {
    config: Arc<Config>,
    backends: BTreeMap<Arc<str>, Backend>,
    proxies: Proxies,
    publisher: Publisher,
    policies: Policies,
    /// The store of models; `None`: there are no rollouts.
    models: Option<Models>,
    /// Generation of it that backends follow.
    models_followed: Option<u64>,
    recorder: Option<Recorder>,
    metrics: Arc<Metrics>,
    view: watch::Sender<Arc<View>>,
    leadership: watch::Receiver<Leadership>,
    /// What proxies tell each other is signed with it; `None`: they tell each other nothing.
    mac_key: Option<MacKey>,
    /// What the tokens of sessions are signed with.
    session_keys: Arc<SessionKeys>,
    rng: StdRng,
    tick: u64,
    /// Backends whose pooled errors have moved since the last push, and when to push.
    moved: BTreeSet<Arc<str>>,
    push_at: Option<Instant>,
    /// Backends on which a visit ends in the middle of the tick, and when.
    again: Vec<(Arc<str>, Instant)>,
    fade_at: Option<Instant>,
}

impl Index {
    /// An empty state that shows itself through `view`.
    #[expect(clippy::too_many_arguments, reason = "each is handed over once, by the one who starts the controller")]
    pub fn new(
        policies: Policies,
        models: Option<Models>,
        recorder: Option<Recorder>,
        metrics: Arc<Metrics>,
        view: watch::Sender<Arc<View>>,
        leadership: watch::Receiver<Leadership>,
        mac_key: Option<MacKey>,
        session_keys: Arc<SessionKeys>,
        rng: StdRng,
    ) -> Self {
        Self {
            config: Arc::default(),
            backends: BTreeMap::new(),
            proxies: Proxies::default(),
            publisher: Publisher::default(),
            policies,
            models,
            models_followed: None,
            recorder,
            metrics,
            view,
            leadership,
            mac_key,
            session_keys,
            rng,
            tick: 0,
            moved: BTreeSet::new(),
            push_at: None,
            again: Vec::new(),
            fade_at: None,
        }
    }

    /// What proxies should have, newest first and only.
    pub fn snapshots(&self) -> watch::Receiver<Arc<crate::xds::Snapshot>> {
        self.publisher.subscribe()
    }

    /// Takes over a configuration and pushes what changed at once: endpoint changes do not wait for the tick.
    pub fn configure(&mut self, config: Arc<Config>, now: Now) {
        let names: BTreeSet<&str> = config.backends.iter().map(|spec| spec.name()).collect();
        for gone in self.backends.keys().filter(|name| !names.contains(&***name)) {
            self.metrics.forget(gone);
        }
        self.backends.retain(|name, _| names.contains(&**name));
        // Backends that are new, or whose configuration names another policy, look at the store again.
        self.models_followed = None;
        for spec in &config.backends {
            let kept = self.backends.get_mut(spec.name());
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.spec, spec) || kept.spec == *spec) {
                continue;
            }
            let reordered = kept.as_ref().is_none_or(|kept| kept.spec.generation() != spec.generation());
            let backend = match kept {
                Some(kept) => {
                    kept.configure(spec.clone());
                    kept
                }
                None => self.backends.entry(spec.name().into()).or_insert_with(|| Backend::new(spec.clone(), now)),
            };
            self.publisher.set_backend(spec, &self.session_keys);
            if reordered {
                self.publisher.set(Kind::WeightTable, spec.name(), &backend.interim_table(self.tick, now));
                match backend.error_table(true, now) {
                    Some(table) => self.publisher.set(Kind::ErrorTable, spec.name(), &table),
                    None => self.publisher.remove(Kind::ErrorTable, spec.name()),
                }
            }
        }
        for kind in [Kind::Backend, Kind::WeightTable, Kind::ErrorTable, Kind::ClassTable] {
            self.publisher.retain(kind, &names);
        }
        for listener in &config.listeners {
            self.publisher.set(Kind::Listener, &listener.name, listener);
        }
        self.publisher.retain(Kind::Listener, &config.listeners.iter().map(|l| l.name.as_str()).collect());
        for route in &config.routes {
            self.publisher.set(Kind::HttpRoute, &route.name, route);
        }
        self.publisher.retain(Kind::HttpRoute, &config.routes.iter().map(|route| route.name.as_str()).collect());
        self.policies.want(config.backends.iter().filter_map(|spec| spec.model.as_deref()));
        self.config = config;
        self.publish(now);
    }

    /// Has sessions signed with other keys, at once.
    pub fn sign_sessions_with(&mut self, keys: Arc<SessionKeys>, now: Now) {
        self.session_keys = keys;
        for backend in self.backends.values().filter(|backend| backend.spec.resource.session.is_some()) {
            self.publisher.set_backend(&backend.spec, &self.session_keys);
        }
        self.publish(now);
    }

    /// Takes in what happened on an ADS stream.
    pub fn ads(&mut self, event: AdsEvent, now: Now) {
        let comes_or_goes = !matches!(event, AdsEvent::Answered { .. });
        let answers = self.proxies.ads(event, now);
        if comes_or_goes {
            self.introduce(now);
        }
        self.metrics.answered(&answers);
        self.metrics.proxies(self.proxies.len());
    }

    /// Tells the proxies who the others are, at once.
    fn introduce(&mut self, now: Now) {
        let Some(key) = &self.mac_key else { return };
        let table = peers::table(self.proxies.peers(), self.proxies.connected(), key);
        // Where nobody takes part, nobody has to be told.
        if table.peers.is_empty() {
            self.publisher.remove(Kind::PeerTable, &table.name);
        } else {
            self.publisher.set(Kind::PeerTable, &table.name, &table);
        }
        self.publish(now);
    }

    /// Takes in what a proxy told.
    pub fn telemetry(&mut self, event: TelemetryEvent, now: Now) {
        match event {
            TelemetryEvent::Connected { proxy, stream } => self.proxies.telemetry_connected(&proxy, stream),
            TelemetryEvent::Closed { proxy, stream } => self.proxies.telemetry_closed(&proxy, stream),
            TelemetryEvent::Load { proxy, report } => {
                self.proxies.reported(&proxy, now);
                for load in &report.backends {
                    if let Some(backend) = self.backends.get_mut(&*load.backend) {
                        backend.reported(&proxy, report.interval_ms, load, now);
                    }
                }
            }
            TelemetryEvent::Errors { report } => self.errors(&report, now),
            TelemetryEvent::Lessons { lessons } => self.lessons(&lessons),
        }
    }

    fn lessons(&mut self, lessons: &[Lesson]) {
        for lesson in lessons {
            if let Some(backend) = self.backends.get_mut(&*lesson.backend)
                && backend.has(EndpointKey(lesson.sample.endpoint))
            {
                backend.slots.add(lesson.sample);
            }
        }
    }

    fn errors(&mut self, report: &v1::ErrorReport, now: Now) {
        for errors in &report.backends {
            let Some(backend) = self.backends.get_mut(&*errors.backend) else {
                continue;
            };
            let outcomes = errors.keys.iter().zip(&errors.answers).zip(&errors.failures);
            for ((&key, &answers), &failures) in outcomes {
                let key = EndpointKey(key);
                if backend.has(key) {
                    backend.errors.add(key, answers, failures, now.instant);
                }
            }
            self.moved.insert(errors.backend.as_str().into());
            self.push_at.get_or_insert(now.instant + GATHER);
        }
    }

    /// Takes in what an endpoint's metrics said.
    pub fn scraped(&mut self, result: ScrapeResult) {
        self.metrics.scraped(if result.numbers.is_ok() { ScrapeOutcome::Ok } else { ScrapeOutcome::Error });
        let Some(backend) = self.backends.get_mut(&result.backend) else { return };
        if backend.has(result.key) {
            backend.scrapes.entry(result.key).or_default().take_in(result);
        }
    }

    /// When something is due between two ticks, if ever: pooled errors to be looked at, visits that end.
    pub fn due(&self) -> Option<Instant> {
        [self.push_at, self.fade_at].into_iter().flatten().chain(self.again.iter().map(|(_, at)| *at)).min()
    }

    /// Pushes the error averages that moved or faded noticeably, and the tables from before visits that are over.
    pub fn push_due(&mut self, now: Now) {
        for (name, _) in self.again.extract_if(.., |(_, at)| *at <= now.instant) {
            let Some(backend) = self.backends.get_mut(&name) else { continue };
            let Some((weights, classes)) = backend.end_visit(now) else { continue };
            self.publisher.set(Kind::WeightTable, &name, &weights);
            if let Some(classes) = classes {
                self.publisher.set(Kind::ClassTable, &name, &classes);
            }
        }
        if self.push_at.is_some_and(|at| at <= now.instant) {
            self.push_at = None;
            for name in std::mem::take(&mut self.moved) {
                self.set_errors(&name, now);
            }
        }
        if self.fade_at.is_some_and(|at| at <= now.instant) {
            let active: Vec<Arc<str>> =
                self.backends.iter().filter(|(_, b)| b.errors.active()).map(|(name, _)| name.clone()).collect();
            for name in &active {
                self.set_errors(name, now);
            }
            self.fade_at = None;
        }
        if self.fade_at.is_none() && self.backends.values().any(|backend| backend.errors.active()) {
            self.fade_at = Some(now.instant + FADE);
        }
        self.publish(now);
    }

    fn set_errors(&mut self, name: &str, now: Now) {
        if let Some(table) = self.backends.get_mut(name).and_then(|backend| backend.error_table(false, now)) {
            self.publisher.set(Kind::ErrorTable, name, &table);
        }
    }

    /// One tick of all backends: decide, push, record, show.
    pub fn tick(&mut self, now: Now) {
        // Proxies are asked about what they have had half a second to acknowledge, not about what is pushed in this tick.
        let proxies = self.proxies.view(self.publisher.number(), now);
        self.tick += 1;
        // One that follows decides as well, from what it scrapes: it is ready to lead. Nobody hears of it, and it writes nothing down.
        let leads = self.leadership.borrow().leads();
        self.metrics.leading(leads);
        let seen = self.follow();
        for (name, backend) in &mut self.backends {
            let deciders = Chosen::new(backend, &self.policies, seen.as_deref());
            let table = backend.tick(self.tick, &deciders.borrowed(), &mut self.rng, now);
            let unusable = deciders.unusable(backend);
            let wish = backend.wish.take().or(unusable).filter(|_| leads);
            if let (Some(models), Some((what, evidence))) = (&self.models, wish) {
                if let What::RolledBack { version, why, .. } = &what
                    && backend.counted.insert(version.clone())
                {
                    self.metrics.rolled_back(name, *why);
                }
                models.wish(now.at_ms, name, what, evidence);
            }
            self.publisher.set(Kind::WeightTable, name, &table);
            if let (Some(_), Some(last)) = (&backend.again, &backend.last) {
                let half = Duration::from_secs_f64(0.5 * last.observation.interval_s.clamp(0.0, 60.0));
                self.again.push((name.clone(), now.instant + half));
            }
            if let Some(classes) = backend.class_table(now) {
                self.publisher.set(Kind::ClassTable, name, &classes);
            }
            if let Some(last) = &backend.last {
                self.metrics.decided(&last.decision);
                self.metrics.rollout(name, backend);
                self.metrics.replicas(name, backend.spec.replicas);
                if let Some(recorder) = self.recorder.as_ref().filter(|_| leads) {
                    recorder.tick(last);
                }
            }
        }
        self.publish(now);
        let mut problems: Vec<String> = self.config.problems.iter().map(ToString::to_string).collect();
        problems.extend(self.policies.problems());
        problems.extend(seen.iter().flat_map(|seen| seen.problems()));
        let tick_ms = crate::clock::now().since_s(now.instant) * 1e3;
        self.metrics.ticked(tick_ms);
        self.view.send_replace(Arc::new(View {
            at_ms: now.at_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            policy_version: self.policies.of(None).version().to_owned(),
            tick_ms,
            proxies,
            backends: self.backends.values().map(|backend| picture::backend(backend, now)).collect(),
            problems,
            recording: self.recorder.as_ref().map(Recorder::view),
        }));
    }

    /// What was last seen of the model store; when it has changed, every backend's rollout takes it over.
    fn follow(&mut self) -> Option<Arc<Seen>> {
        let models = self.models.as_ref()?;
        let seen = models.seen();
        if self.models_followed != Some(seen.generation) {
            self.models_followed = Some(seen.generation);
            for (name, backend) in &mut self.backends {
                let own = self.policies.named(backend.spec.model.as_deref()).is_some();
                let state = (!own).then(|| seen.state_of(name));
                backend.follow(state.as_ref().map(|state| (state, models.settings())));
            }
        }
        Some(seen)
    }

    fn publish(&mut self, now: Now) {
        if self.publisher.publish() {
            self.proxies.published(self.publisher.number(), now);
            self.metrics.pushed();
        }
    }
}

/// The policies that may decide on a backend in a tick.
struct Chosen {
    in_force: Arc<Policy>,
    candidate: Option<Arc<Policy>>,
    /// Why what should be in force cannot be.
    lost: Option<String>,
    /// Why the candidate cannot be used.
    unusable: Option<String>,
}

impl Chosen {
    fn new(backend: &Backend, policies: &Policies, seen: Option<&Seen>) -> Self {
        let only = |in_force| Self { in_force, candidate: None, lost: None, unusable: None };
        let (Some(live), Some(seen)) = (&backend.live, seen) else {
            return only(policies.of(backend.spec.model.as_deref()));
        };
        let mut chosen = only(policies.builtin());
        if let Choice::Version(version) = live.rollout.in_force() {
            match seen.policy(version) {
                Some(Ok(policy)) => chosen.in_force = policy.clone(),
                Some(Err(why)) => chosen.lose(why.clone()),
                None => chosen.lose(format!("{version} is not loaded yet")),
            }
        }
        match live.rollout.candidate().and_then(|version| seen.policy(version)) {
            Some(Ok(policy)) => chosen.candidate = Some(policy.clone()),
            Some(Err(why)) => chosen.unusable = Some(why.clone()),
            None => {}
        }
        chosen
    }

    fn lose(&mut self, why: String) {
        self.in_force = Arc::new(Policy::prior_only());
        self.lost = Some(why);
    }

    fn borrowed(&self) -> Deciders<'_> {
        Deciders { in_force: &self.in_force, candidate: self.candidate.as_deref(), lost: self.lost.as_deref() }
    }

    /// What to write of a candidate whose file cannot be used.
    fn unusable(&self, backend: &mut Backend) -> Option<(What, serde_json::Value)> {
        let detail = self.unusable.clone()?;
        let rollout = &mut backend.live.as_mut()?.rollout;
        rollout.give_up(Why::Unusable, detail)
    }
}
