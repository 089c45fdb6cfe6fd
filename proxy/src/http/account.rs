//! The account of one request: counted in when it is admitted, counted out exactly once when it ends, however it ends.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    task::Context,
    time::Duration,
};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{attempts, body::Progress, connection::Connection, error::Reason, grpc, pool::Pooled};
use crate::{
    admission::Admitted,
    api::v1,
    class::sampling::Kind,
    clock,
    config::traffic::RetryPolicy,
    govern::Retrying,
    load::{Attempt, OrcaLoad, Outcome, RequestClass},
    observe::{
        self, Blame,
        record::{Record, Try, Why},
        trace::Passed,
    },
    route::Rule,
    session::Session,
    table::BackendEntry,
    time::Timestamp,
    worker::Worker,
};

/// A request that was admitted. Dropped before [`finish`](Self::finish), it was cancelled.
///
/// An endpoint's latency runs from the attempt's begin to the last byte of the answer, without the time in which the client kept it waiting, nor that
/// in which this worker was too busy to read what had come ([`lateness`](crate::lateness)): neither a slow upload nor a slow reader makes an endpoint look slow.
#[derive(Debug)]
pub struct Account {
    worker: Rc<Worker>,
    client: Rc<Connection>,
    entry: Arc<BackendEntry>,
    rule: Arc<Rule>,
    /// The rule's target, under which it is counted; `None`: under none.
    target: Option<usize>,
    progress: Rc<Progress>,
    method: Method,
    started: Timestamp,
    class: RequestClass,
    kind: Option<Box<Kind>>,
    admitted: Option<Admitted>,
    running: Option<Running>,
    attempts: u32,
    /// Since when the endpoint has had its turn: to take a connection, or to answer.
    endpoint_turn: Cell<Timestamp>,
    /// What of the time until the head of the answer was this worker's own: before the first attempt, and while it did not look.
    own_time: Cell<Duration>,
    /// Nothing of an answer has come, and the worker's heart beats for it.
    waiting: bool,
    /// What consistent hashing goes by.
    hash_key: u64,
    /// The session that it belongs to, where sessions are kept.
    session: Option<Session>,
    /// It is held back this long before its first attempt.
    delay: Option<Duration>,
    /// Leave to try again, given when the present attempt failed.
    retrying: RefCell<Option<Retrying>>,
    /// The leave of the attempt that is under way.
    held: Option<Retrying>,
    /// No further try is possible.
    used_up: Cell<bool>,
    picked: Option<Picked>,
    status: Option<StatusCode>,
    /// It is gRPC, and says that the endpoint failed.
    grpc_failed: bool,
    orca: Option<OrcaLoad>,
    response_bytes: u64,
    /// Since when the next byte is the endpoint's to send.
    endpoint_since: Option<Timestamp>,
    answer: Option<Answer>,
    refreshed_at: Timestamp,
}

/// What an account begins with.
#[derive(Debug)]
pub struct Arrival {
    /// The backend that the request goes to.
    pub entry: Arc<BackendEntry>,
    /// The rule that said so.
    pub rule: Arc<Rule>,
    /// Which of the rule's targets; `None`: it is a copy, and not counted as a request of the rule.
    pub target: Option<usize>,
    /// Its method.
    pub method: Method,
    /// When its first byte came.
    pub started: Timestamp,
    /// That it was let in.
    pub admitted: Admitted,
    /// Its class.
    pub class: RequestClass,
    /// What kind it is, if it is one of those that are looked at.
    pub kind: Option<Box<Kind>>,
}

/// A request that lasts lets go of the table that it was routed by after this long, so that tunnels do not keep old tables alive.
const REFRESH: Duration = Duration::from_secs(10);

/// An attempt that is under way.
#[derive(Debug)]
struct Running {
    index: usize,
    attempt: Attempt,
    began: Timestamp,
    /// The request's `own_time` when it began.
    own_time: Duration,
}

#[derive(Debug, Clone, Copy)]
struct Picked {
    index: usize,
    in_flight: u32,
    in_flight_all: f32,
}

/// Times of an answer whose head has come.
#[derive(Debug, Clone, Copy)]
struct Answer {
    head_at: Timestamp,
    /// What the endpoint took for its body.
    body: Duration,
}

impl Account {
    /// Of a request that was admitted.
    pub fn new(worker: Rc<Worker>, client: Rc<Connection>, progress: Rc<Progress>, arrival: Arrival) -> Self {
        let Arrival { entry, rule, target, method, started, admitted, class, kind } = arrival;
        worker.heart.somebody_waits();
        Self {
            worker,
            client,
            entry,
            rule,
            target,
            progress,
            method,
            started,
            class,
            kind,
            admitted: Some(admitted),
            running: None,
            attempts: 0,
            endpoint_turn: Cell::new(started),
            own_time: Cell::new(Duration::ZERO),
            waiting: true,
            hash_key: 0,
            session: None,
            delay: None,
            retrying: RefCell::new(None),
            held: None,
            used_up: Cell::new(false),
            picked: None,
            status: None,
            grpc_failed: false,
            orca: None,
            response_bytes: 0,
            endpoint_since: None,
            answer: None,
            refreshed_at: started,
        }
    }

    /// How far the request is.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// The same, shared.
    pub fn shared_progress(&self) -> Rc<Progress> {
        self.progress.clone()
    }

    /// When an attempt that begins now must be over.
    pub fn attempt_deadline(&self, now: Timestamp) -> Timestamp {
        let limits = [self.rule.timeouts.backend_request, self.retry_policy().per_try];
        limits.into_iter().flatten().min().map_or(Timestamp::MAX, |limit| now + limit)
    }

    /// Says what consistent hashing goes by.
    pub fn set_hash_key(&mut self, key: u64) {
        self.hash_key = key;
    }

    /// What consistent hashing goes by.
    pub fn hash_key(&self) -> u64 {
        self.hash_key
    }

    /// Says which session it belongs to.
    pub fn set_session(&mut self, session: Option<Session>) {
        self.session = session;
    }

    /// The endpoint of its session, if that may be picked.
    pub fn session_endpoint(&self) -> Option<usize> {
        self.session.map(|session| session.endpoint).filter(|index| self.entry.backend.is_candidate(*index))
    }

    /// What the client is to be told of its session, now that an endpoint has answered.
    pub fn told_session(&self) -> Option<(HeaderName, HeaderValue)> {
        self.entry.backend.config().traffic.session.as_ref()?;
        let index = self.picked?.index;
        let kept = self.session.filter(|session| session.endpoint == index);
        if kept.is_some_and(|session| !session.renew) {
            return None;
        }
        let now_s = u64::try_from(clock::unix_ms() / 1_000).unwrap_or_default();
        let created_s = kept.map_or(now_s, |session| session.created_s);
        self.entry.backend.told_session(index, (created_s, now_s), self.client.client.scheme() == "https")
    }

    /// Holds the request back.
    pub fn set_delay(&mut self, delay: Option<Duration>) {
        self.delay = delay;
    }

    /// How long it is held back.
    pub fn delay(&self) -> Option<Duration> {
        self.delay
    }

    fn retry_policy(&self) -> &RetryPolicy {
        &self.entry.backend.config().traffic.retry
    }

    /// Whether anything but a failure to connect is worth another try.
    pub fn retries_answers(&self) -> bool {
        let policy = self.retry_policy();
        policy.reset || policy.per_try.is_some() || !policy.statuses.is_empty()
    }

    /// Whether an answer of this status, to a request that may be repeated, is thrown away and the request sent elsewhere.
    pub fn retries_status(&self, status: StatusCode) -> bool {
        self.retry_policy().statuses.contains(&status) && self.ask_for_retry()
    }

    /// The same where no answer came.
    pub fn retries_failure(&self, reason: &Reason) -> bool {
        let policy = self.retry_policy();
        let kind = match reason {
            Reason::UpstreamReset => policy.reset,
            // The try's own time was up, not the request's.
            Reason::UpstreamTimeout => policy.per_try.is_some() && !self.progress.is_over(clock::now()),
            _ => false,
        };
        kind && self.ask_for_retry()
    }

    /// Whether the present attempt failed in a way for which leave to try again was given.
    pub fn is_retrying(&self) -> bool {
        self.retrying.borrow().is_some()
    }

    fn ask_for_retry(&self) -> bool {
        let backend = &self.entry.backend;
        let leave = if backend.has_another(self.attempts) {
            backend.retry()
        } else {
            self.set_used_up();
            None
        };
        let granted = leave.is_some();
        if !granted {
            self.worker.counters.retries_refused.add(1);
        }
        *self.retrying.borrow_mut() = leave;
        granted
    }

    /// Its class.
    pub fn class(&self) -> RequestClass {
        self.class
    }

    /// The backend that it goes to.
    pub fn entry(&self) -> &Arc<BackendEntry> {
        &self.entry
    }

    /// It is sent to the endpoint at `index`.
    pub fn begin_attempt(&mut self, index: usize, now: Timestamp) {
        if self.attempts == 0 {
            // A head that came in pieces, a delay that was injected, others that had their turn: no queue of the endpoint's.
            self.own_time.set(now.since(self.started));
        }
        self.endpoint_turn.set(now);
        self.attempts += 1;
        self.held = self.retrying.take();
        // The time of the attempt before is no limit to this one.
        self.progress.limit_attempt(Timestamp::MAX);
        let in_flight = self.entry.backend.endpoints()[index].load.in_flight();
        let in_flight_all = self.entry.backend.in_flight_all(index, now);
        self.picked = Some(Picked { index, in_flight, in_flight_all });
        let attempt = self.entry.backend.begin(index, now, self.class);
        self.client.note(|record| {
            let why = match self.attempts {
                _ if attempt.is_trial() => Why::Trial,
                0 | 1 => Why::Rule,
                _ => Why::Retry,
            };
            record.tries.push(self.describe(index, (in_flight, in_flight_all), why, now));
        });
        self.running = Some(Running { index, attempt, began: now, own_time: self.own_time.get() });
    }

    /// What the endpoint could have done nothing about was waited for until `now`.
    pub fn waited_for_us(&self, now: Timestamp) {
        let waited = now.since(self.endpoint_turn.replace(now));
        self.own_time.set(self.own_time.get() + waited);
    }

    /// What the endpoint was waited for has been noticed at `now`: a connection stands, an answer begins, or there will be none. It may have been so
    /// for some time.
    pub fn endpoint_heard(&self, now: Timestamp) {
        let waited = now.since(self.endpoint_turn.replace(now));
        self.own_time.set(self.own_time.get() + self.worker.heart.lateness(now).min(waited));
    }

    /// Nothing more is waited for that tells of the endpoint's time.
    fn waits_no_more(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.worker.heart.nobody_waits();
        }
    }

    /// An attempt for the record.
    #[cold]
    fn describe(&self, index: usize, (in_flight, in_flight_all): (u32, f32), why: Why, now: Timestamp) -> Try {
        let backend = &self.entry.backend;
        Try {
            span: self.worker.random() | 1,
            began: now,
            ended: None,
            endpoint: backend.endpoints()[index].config.name.to_string(),
            address: self.entry.targets[index].address.to_string(),
            algorithm: backend.algorithm().as_str(),
            why,
            weight: backend.weight(index),
            // With this request in flight already, which the pick did not see.
            score: backend.explain(index, self.class, now).map(|terms| terms.score()),
            in_flight,
            in_flight_all,
            outcome: None,
            failure: None,
        }
    }

    /// The `traceparent` that the endpoint of the present attempt is told, if not the client's.
    pub fn passed_on(&self) -> Option<Passed> {
        self.client.recorded(Record::passed_on)
    }

    fn note_failure(&self, reason: &Reason) {
        self.client.note(|record| {
            if let Some(last) = record.tries.last_mut() {
                last.failure.get_or_insert(reason.name());
            }
        });
    }

    /// What is to be answered now that a try got no answer for this reason, and none follows.
    pub fn gives_up(&self, reason: Reason) -> Reason {
        let silent = matches!(reason, Reason::ConnectFailed | Reason::UpstreamReset);
        if !(silent && self.attempts > 1 && self.used_up.get()) {
            return reason;
        }
        self.note_failure(&reason);
        Reason::RetriesExhausted
    }

    /// There is no further endpoint on which the request may be tried.
    pub fn set_used_up(&self) {
        self.used_up.set(true);
    }

    /// The present attempt got no answer that is passed on, and another follows.
    pub fn fail_attempt(&mut self, reason: &Reason) {
        self.note_failure(reason);
        self.end_attempt(attempts::outcome(reason), clock::now());
        self.worker.counters.retries.add(1);
    }

    /// The head of an answer has come.
    pub fn answered(&mut self, status: StatusCode, orca: Option<OrcaLoad>, now: Timestamp) {
        self.status = Some(status);
        self.orca = orca;
        self.endpoint_heard(now);
        self.waits_no_more();
        self.progress.answer_began();
        self.answer = Some(Answer { head_at: now, body: Duration::ZERO });
    }

    /// Headers or trailers of a gRPC answer have come, which may tell how it went.
    pub fn grpc_ended(&mut self, headers: &HeaderMap) {
        self.grpc_failed |= grpc::is_failure(headers);
    }

    /// The next byte is the endpoint's to send.
    pub fn endpoint_waits(&mut self, now: Timestamp) {
        self.endpoint_since.get_or_insert(now);
    }

    /// The endpoint sent something, or the end.
    pub fn endpoint_sent(&mut self, now: Timestamp) {
        if let (Some(since), Some(answer)) = (self.endpoint_since.take(), &mut self.answer) {
            let waited = now.since(since);
            answer.body += waited.saturating_sub(self.worker.heart.lateness(now));
        }
        self.progress.touch(now);
        self.refresh(now);
    }

    /// Goes over to the present table, if it has been long and the endpoint is still there.
    pub fn refresh(&mut self, now: Timestamp) {
        if now.since(self.refreshed_at) < REFRESH {
            return;
        }
        self.refreshed_at = now;
        let Some(picked) = &mut self.picked else { return };
        let key = self.entry.backend.endpoints()[picked.index].config.key;
        let table = self.worker.table();
        let Some(entry) = table.backend(self.entry.backend.name()) else { return };
        let same = Arc::ptr_eq(entry.backend.state(), self.entry.backend.state());
        let Some(index) = entry.backend.endpoints().iter().position(|e| e.config.key == key).filter(|_| same) else {
            return;
        };
        picked.index = index;
        if let Some(running) = &mut self.running {
            running.index = index;
        }
        self.entry = entry.clone();
    }

    /// Bytes of the request's body.
    pub fn add_request_bytes(&self, bytes: u64) {
        self.progress.add_request_bytes(bytes);
    }

    /// Bytes of the answer's body.
    pub fn add_response_bytes(&mut self, bytes: u64) {
        self.response_bytes += bytes;
        self.progress.add_response_bytes(bytes);
    }

    /// The whole answer has come: its connection goes back to the pool if it can be used again.
    pub fn complete<C: Pooled>(&mut self, mut upstream: Box<C>, cx: &mut Context<'_>, now: Timestamp) {
        if upstream.is_reusable(cx)
            && let Some(picked) = self.picked
        {
            let target = &self.entry.targets[picked.index];
            let timeout = self.entry.backend.config().timeouts.connection_idle;
            C::pool(&self.worker).put(target, timeout, upstream, now);
        }
        self.finish(self.outcome(), now);
    }

    /// What the status says, or the one of gRPC within it.
    pub fn outcome(&self) -> Outcome {
        match self.status {
            Some(status) if status.is_server_error() || self.grpc_failed => Outcome::ServerError,
            Some(_) => Outcome::Success,
            None => Outcome::Failure,
        }
    }

    /// The request is over, and the proxy is about to answer it by itself.
    pub fn fail(&mut self, reason: &Reason, outcome: Outcome, now: Timestamp) {
        self.note_failure(reason);
        self.end(outcome, Some(reason), now);
    }

    /// The request is over.
    pub fn finish(&mut self, outcome: Outcome, now: Timestamp) {
        self.end(outcome, None, now);
    }

    fn end(&mut self, outcome: Outcome, reason: Option<&Reason>, now: Timestamp) {
        let Some(admitted) = self.admitted.take() else { return };
        self.retrying.take();
        self.held = None;
        self.end_attempt(outcome, now);
        self.waits_no_more();
        let latency = self.latency(self.started, now);
        let own = self.own_time.get().min(latency);
        self.entry.backend.answered(admitted, now, outcome, latency, own);
        self.worker.counters.response_bytes.add(self.response_bytes);
        self.worker.counters.request_bytes.add(self.progress.request_bytes());
        let blame = reason.map_or_else(|| Blame::of(outcome), Reason::blame);
        let status = reason.map_or(self.status, |reason| Some(reason.status()));
        if let Some(target) = self.target {
            self.rule.targets()[target].series.add(self.worker.index, status, blame, now.since(self.started));
            self.client.counted(reason.is_some());
        }
        self.client.note(|record| {
            record.request_bytes = self.progress.request_bytes();
            record.response_bytes = self.response_bytes;
            record.head_after = self.answer.map(|answer| answer.head_at.since(self.started));
        });
        if reason.is_none() {
            let why = match (outcome, self.status) {
                (Outcome::Cancelled, _) => Some("client_gone"),
                (Outcome::Failure, Some(_)) => Some("upstream_broke_off"),
                _ => None,
            };
            observe::conclude(&self.worker, &self.client, status, why, blame, now);
        }
        self.client.end_request(now);
        if let Some(latency) = took(outcome, latency, own) {
            self.worker.sampler.offer(|| self.sample(latency));
        }
    }

    fn end_attempt(&mut self, outcome: Outcome, now: Timestamp) {
        let Some(Running { index, attempt, began, own_time }) = self.running.take() else { return };
        if self.answer.is_none() {
            self.endpoint_heard(now);
        }
        let latency = took(outcome, self.latency(began, now), self.own_time.get() - own_time);
        self.client.note(|record| record.tried(outcome, now));
        if outcome == Outcome::Success
            && let Some(latency) = latency
            && let Some(kind) = self.kind.take()
        {
            let latency_ms = latency.as_secs_f32() * 1e3;
            self.worker.class_sampler.offer(self.entry.backend.name(), *kind, latency_ms);
        }
        if let Some(event) = self.entry.backend.finish(index, attempt, now, outcome, latency, self.orca) {
            self.worker.report_outlier(&self.entry, event);
        }
    }

    fn latency(&self, since: Timestamp, now: Timestamp) -> Duration {
        let (end, body) = self.answer.map_or((now, Duration::ZERO), |answer| (answer.head_at, answer.body));
        end.since(since).saturating_sub(self.progress.client_time()) + body
    }

    fn sample(&self, latency: Duration) -> v1::RequestSample {
        let key_of = |picked: Picked| self.entry.backend.endpoints()[picked.index].config.key.0;
        let class = self.entry.backend.costs().and_then(|costs| {
            let key = costs.key(self.class)?;
            Some((key.0, costs.name(self.class).to_owned()))
        });
        let (class_key, class_name) = class.unwrap_or_default();
        v1::RequestSample {
            at_ms: clock::unix_ms() - clock::now().since(self.started).as_millis() as i64,
            route: self.rule.route.to_string(),
            method: self.method.to_string(),
            class: u32::from(self.class.0),
            backend: self.entry.backend.name().to_owned(),
            endpoint: self.picked.map_or(0, key_of),
            in_flight: self.picked.map_or(0, |picked| picked.in_flight),
            in_flight_all: self.picked.map_or(0.0, |picked| picked.in_flight_all),
            latency_ms: (latency.as_secs_f64() * 1e3) as f32,
            status: self.status.map_or(0, |status| u32::from(status.as_u16())),
            request_bytes: self.progress.request_bytes(),
            response_bytes: self.response_bytes,
            attempts: self.attempts,
            class_key,
            class_name,
        }
    }
}

/// How long an endpoint took, where `own` of the time that it was waited for was this worker's. `None`: it is not known, of an answer that may have lain
/// here all the time, and nobody learns from it.
fn took(outcome: Outcome, waited: Duration, own: Duration) -> Option<Duration> {
    let took = waited.saturating_sub(own);
    (!took.is_zero() || outcome != Outcome::Success).then_some(took)
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.admitted.is_some() {
            self.finish(Outcome::Cancelled, clock::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn how_long_an_endpoint_took_is_not_known_of_an_answer_that_may_have_lain_here_all_the_time() {
        assert_eq!(took(Outcome::Success, ms(30), ms(0)), Some(ms(30)));
        assert_eq!(took(Outcome::Success, ms(30), ms(29)), Some(ms(1)));
        assert_eq!(took(Outcome::Success, ms(30), ms(30)), None);
        assert_eq!(took(Outcome::Success, ms(30), ms(31)), None);
        // What failed, or was given up, took at least that long.
        assert_eq!(took(Outcome::Failure, ms(30), ms(31)), Some(ms(0)));
        assert_eq!(took(Outcome::Cancelled, ms(30), ms(10)), Some(ms(20)));
    }
}
