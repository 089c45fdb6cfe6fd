//! From a head to a request that was let in: route → limits → class → admission. The same for hyper's requests and the fast path's.

use std::{fmt::Write as _, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use http::header;
use rand::RngCore;

use super::{
    account::{Account, Arrival},
    body::Progress,
    connection::{Connection, Security},
    edits::{self, Asked, Edits},
    error::{Reason, Refused},
    mirror::Mirroring,
};
use crate::{
    backend::Backend,
    class::{finder::tells_apart, identity, sampling::Kind},
    clock,
    config::{Algorithm, Protocol, traffic::HashBy},
    hash::Fnv1a,
    head::RequestHead,
    load::RequestClass,
    observe::{self, red::Series},
    route::{
        Rule,
        filter::Filters,
        rule::{RequestTimeout, STALL_TIMEOUT},
    },
    session::{Unsigned, cookie},
    table::BackendEntry,
    time::Timestamp,
    worker::{LocalTable, Socket, Worker},
};

/// A request that was let in.
#[derive(Debug)]
pub struct Arrived {
    /// Counts it out when it ends, however it ends.
    pub account: Box<Account>,
    /// How far it is.
    pub progress: Rc<Progress>,
    /// Bytes that its body may have.
    pub body_bytes_max: Option<u64>,
    /// What filters change about it; `None`: nothing.
    pub edits: Option<Box<Edits>>,
    /// Who gets a copy of it.
    pub mirroring: Option<Box<Mirroring>>,
}

/// The rule that a request met.
#[derive(Debug)]
pub struct Routed {
    table: LocalTable,
    rule: Arc<Rule>,
    prefix: usize,
}

impl Routed {
    /// Whether the fast path can serve it: copies need bodies that are shared, and it speaks HTTP/1.1 to endpoints.
    pub fn is_plain(&self) -> bool {
        let speaks = |index: usize| self.table.backends[index].backend.config().protocol;
        self.rule.targets().iter().all(|target| {
            target.mirrors.is_empty() && target.backend.is_none_or(|index| speaks(index) == Protocol::Http1)
        })
    }
}

/// Finds a request's rule. `host` is lower case and without a port.
///
/// # Errors
/// What to answer.
pub fn route(
    worker: &Worker,
    socket: &Socket,
    client: &Connection,
    host: &str,
    head: &impl RequestHead,
) -> Result<Routed, Reason> {
    let table = worker.table();
    let routes = table.routing.socket(socket.id).ok_or(Reason::NoRoute)?;
    if let Security::Tls { sni: Some(sni), .. } = &client.security
        && routes.is_misdirected(sni, host)
    {
        return Err(Reason::Misdirected);
    }
    let (rule, prefix) = routes.find(host, head).ok_or(Reason::NoRoute)?;
    let rule = rule.clone();
    Ok(Routed { table, rule, prefix })
}

/// Lets a request in, or says why not. `host` is lower case and without a port; `length` that of the body, where it is known beforehand;
/// `started` when its first byte came, and how long the client says that it waits.
///
/// # Errors
/// What to answer.
pub fn arrive(
    worker: &Rc<Worker>,
    socket: &Socket,
    client: &Rc<Connection>,
    routed: Result<Routed, Reason>,
    (host, head): (&str, &impl RequestHead),
    length: Option<u64>,
    (started, patience): (Timestamp, Option<Duration>),
) -> Result<Arrived, Refused> {
    let Routed { table, rule, prefix } = routed?;
    let routes = table.routing.socket(socket.id).ok_or(Reason::NoRoute)?;
    let asked = Asked { host, scheme: client.client.scheme(), prefix };
    let refused = |series: &Series, filters: Option<&Arc<Filters>>, reason| {
        observe::refused(worker, client, series, &reason, clock::now());
        edits::refused(filters, head, reason)
    };
    let of_rule = |reason| refused(&rule.series, rule.filters.as_ref(), reason);
    if let Some(answer) = edits::local_answer(rule.filters.as_ref(), routes, asked, head) {
        return Err(of_rule(answer));
    }
    let body_bytes_max = routes.limits.body_bytes_max;
    let too_large = |max: Option<u64>| max.zip(length).is_some_and(|(max, length)| length > max);
    if too_large(body_bytes_max) {
        return Err(of_rule(Reason::BodyTooLarge));
    }
    let target = rule.next_target().ok_or_else(|| of_rule(Reason::UnresolvedBackend))?;
    let refused = |reason| refused(&target.series, target.filters.as_ref(), reason);
    if let Some(answer) = edits::local_answer(target.filters.as_ref(), routes, asked, head) {
        return Err(refused(answer));
    }
    let entry = target.backend.map(|index| table.backends[index].clone());
    let entry = entry.ok_or_else(|| refused(Reason::UnresolvedBackend))?;
    let traffic = &entry.backend.config().traffic;
    let body_bytes_max = match (body_bytes_max, traffic.body_bytes_max) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    if too_large(body_bytes_max) {
        return Err(refused(Reason::BodyTooLarge));
    }
    let address = routes.client(head, client.peer.ip().to_canonical());
    let delay = govern(worker, address, (&rule.route, head), &entry, started).map_err(refused)?;
    let edits = Edits::new(target, prefix, head);
    let mirroring = Mirroring::draw(worker, &table, &rule, target);
    let hash_key = hash_key(&entry.backend, address, head);
    let session = traffic.session.as_ref().and_then(|_| {
        let now_s = u64::try_from(clock::unix_ms() / 1_000).unwrap_or_default();
        entry.backend.session(head, now_s).unwrap_or_else(|Unsigned| {
            worker.counters.tokens_refused.add(1);
            None
        })
    });
    let (class, kind) = tell_apart(worker, &entry.backend, head, length, started);
    let admitted = entry.backend.admit(class).map_err(|shed| refused(Reason::Shed(shed)))?;
    client.note(|record| record.goes(&target.series.route, &target.series.backend));
    let target = Some(target.index);
    let rate = entry.backend.config().timeouts.body_rate;
    let (stall, total, rate) = match rule.timeouts.request {
        RequestTimeout::WhileProgressing => (Some(STALL_TIMEOUT), Timestamp::MAX, rate),
        RequestTimeout::Total(limit) => (Some(STALL_TIMEOUT), started + limit, rate),
        RequestTimeout::Unlimited => (None, Timestamp::MAX, None),
    };
    let total = patience.map_or(total, |patience| total.min(started + patience));
    let progress = Rc::new(Progress::new(client.clone(), stall, total, rate));
    let arrival = Arrival { entry, rule, target, method: head.method().clone(), started, admitted, class, kind };
    let mut account = Box::new(Account::new(worker.clone(), client.clone(), progress.clone(), arrival));
    account.set_delay(delay);
    account.set_hash_key(hash_key);
    account.set_session(session);
    Ok(Arrived { account, progress, body_bytes_max, edits, mirroring })
}

/// What the backend's policy says before anything else is decided: who may ask, how often, and faults. Returns how long the request is to be
/// held back.
fn govern(
    worker: &Worker,
    address: IpAddr,
    (route, head): (&str, &impl RequestHead),
    entry: &BackendEntry,
    now: Timestamp,
) -> Result<Option<Duration>, Reason> {
    let policy = &entry.backend.config().traffic;
    if !policy.looks() {
        return Ok(None);
    }
    if policy.access.as_ref().is_some_and(|access| !access.allows(address)) {
        return Err(Reason::Denied);
    }
    entry.backend.take_rate(address, route, head, now).map_err(Reason::RateLimited)?;
    let drawn =
        |share: f64| f64::from(worker.rng.borrow_mut().next_u32()) < share * f64::from(u32::MAX) + 1.0 && share > 0.0;
    if let Some((status, share)) = policy.faults.abort
        && drawn(share)
    {
        return Err(Reason::Fault(status));
    }
    Ok(policy.faults.delay.and_then(|(delay, share)| drawn(share).then_some(delay)))
}

/// What consistent hashing goes by: a stable hash, the same in every proxy. 0 where nothing hashes.
fn hash_key(backend: &Backend, client: IpAddr, head: &impl RequestHead) -> u64 {
    let config = backend.config();
    if !matches!(config.algorithm, Algorithm::RingHash | Algorithm::Maglev) {
        return 0;
    }
    let policy = &config.traffic.hash;
    let said = match &policy.by {
        None => None,
        Some(HashBy::Header(name)) => head.value(name),
        Some(HashBy::Cookie(name)) => head.values(&header::COOKIE).find_map(|cookies| cookie(cookies, name)),
    };
    let mut hash = Fnv1a::default();
    match said {
        Some(value) => hash.write_bytes(value),
        // As it is written: the same in every proxy.
        None => {
            let _ = write!(hash, "{client}");
        }
    }
    if !policy.version.is_empty() {
        hash.write_bytes(b"\0");
        hash.write_bytes(policy.version.as_bytes());
    }
    hash.get()
}

/// The request's class and, if it is one of those that are looked at to find out what kinds there are, what it is.
pub(super) fn tell_apart(
    worker: &Worker,
    backend: &Backend,
    head: &impl RequestHead,
    length: Option<u64>,
    now: Timestamp,
) -> (RequestClass, Option<Box<Kind>>) {
    if !tells_apart(backend) {
        return (RequestClass::default(), None);
    }
    let header = backend.config().classes.header.as_ref();
    let key = identity::classify(head, length, header);
    let sampled = worker.class_sampler.draw(now);
    let kind = sampled.map(|weight| Box::new(Kind { key, name: identity::name_of(head, length, header), weight }));
    (backend.class_of(key), kind)
}

/// Takes note that the proxy answers by itself.
pub fn rejected(worker: &Worker, client: &Connection, reason: &Reason) {
    let now = clock::now();
    worker.counters.rejected(reason);
    observe::answered_by_us(worker, client, reason, now);
    client.end_request(now);
    if reason.closes() {
        client.close_after_request();
    }
}
