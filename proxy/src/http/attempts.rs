//! Endpoints are tried until one answers or nothing is left to try: pick → connection → exchange. Which request may be tried again, and
//! where, is decided here, for hyper's requests and the fast path's alike.

use std::{io, pin::pin, rc::Rc, sync::Arc, task::Poll, time::Duration};

use super::{
    account::Account,
    body::{BodyError, Progress},
    connection::Connection,
    error::Reason,
    pool::Pooled,
    upstream,
};
use crate::{
    clock,
    config::EndpointKey,
    load::Outcome,
    pick::PickRequest,
    table::{ConnectionPermit, Target},
    time::Timestamp,
    worker::Worker,
};

/// A request that got no answer on a connection.
#[derive(Debug)]
pub struct NoAnswer<R> {
    /// What to tell the client.
    pub reason: Reason,
    /// The request, if it may be sent once more: not a byte of it was sent, or the connection had been used before, closed without a byte of
    /// an answer, and what was sent has no body and may be repeated without harm (RFC 9110 §9.2.2). Of the latter sort also what the policy
    /// on retries says.
    pub again: Option<R>,
}

/// Tries endpoints until one answers. `exchange` sends the request on a connection, of which it is told whether it was used before, and waits
/// for the head of the answer. A request that never reached an endpoint is tried on another; one that did, only if the policy on
/// retries says so. Without an answer the account is finished.
///
/// # Errors
/// What to answer.
pub async fn attempts<C: Pooled, R, A>(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &mut Account,
    request: R,
    exchange: impl AsyncFnMut(&Account, &mut C, R, bool) -> Result<A, NoAnswer<R>>,
) -> Result<(A, Box<C>), Reason> {
    let result = endpoints(worker, client, account, request, exchange).await;
    if let Err(reason) = &result {
        account.fail(reason, outcome(reason), clock::now());
    }
    result
}

async fn endpoints<C: Pooled, R, A>(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &mut Account,
    mut request: R,
    mut exchange: impl AsyncFnMut(&Account, &mut C, R, bool) -> Result<A, NoAnswer<R>>,
) -> Result<(A, Box<C>), Reason> {
    let entry = account.entry().clone();
    let mut tried: Vec<EndpointKey> = Vec::new();
    let mut failure: Option<Reason> = None;
    if let Some(delay) = account.delay() {
        let now = clock::now();
        account.progress().touch_until(now, Timestamp::MAX);
        wait(client, account.progress(), tokio::time::sleep(delay)).await?;
    }
    for _ in 0..=entry.backend.config().num_retries {
        let now = clock::now();
        let kept = if tried.is_empty() { account.session_endpoint() } else { None };
        let picked = kept.or_else(|| {
            let rng = &mut *worker.rng.borrow_mut();
            let probed = worker.probing.choose(&entry, &tried, now, rng);
            let pick = PickRequest { class: account.class(), key: account.hash_key(), exclude: &tried, probed };
            entry.backend.pick(&pick, now, rng)
        });
        let Some(index) = picked else {
            break;
        };
        if let Some(reason) = &failure {
            account.fail_attempt(reason);
        }
        account.begin_attempt(index, now);
        match attempt(worker, client, account, &entry.targets[index], request, now, &mut exchange).await {
            Ok(answer) => return Ok(answer),
            Err(NoAnswer { reason, again }) => {
                let Some(again) = again else { return Err(account.gives_up(reason)) };
                request = again;
                failure = Some(reason);
                tried.push(entry.backend.endpoints()[index].config.key);
            }
        }
    }
    account.set_used_up();
    Err(failure.map_or_else(
        || {
            entry.backend.unroutable();
            Reason::NoHealthyUpstream
        },
        |failure| account.gives_up(failure),
    ))
}

/// One endpoint. The request comes back if it may be tried elsewhere.
async fn attempt<C: Pooled, R, A>(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &Account,
    target: &Arc<Target>,
    mut request: R,
    mut now: Timestamp,
    exchange: &mut impl AsyncFnMut(&Account, &mut C, R, bool) -> Result<A, NoAnswer<R>>,
) -> Result<(A, Box<C>), NoAnswer<R>> {
    let progress = account.progress();
    // Whether one that stands will do, and how often others were asked for room.
    let (mut may_stand, mut asked) = (true, 0);
    loop {
        let pooled = if may_stand { standing(worker, client, account, target, &mut now).await } else { Ok(None) };
        let (mut connection, reused) = match pooled {
            Ok(Some(connection)) => (connection, true),
            Ok(None) => match connect(worker, client, account, target, &mut asked).await {
                Ok(Some(connection)) => {
                    now = clock::now();
                    account.endpoint_heard(now);
                    (connection, false)
                }
                // There is none more to be had, and it took a while to know: one may have come free.
                Ok(None) => {
                    now = clock::now();
                    may_stand = true;
                    continue;
                }
                Err(reason @ (Reason::ConnectFailed | Reason::TooManyConnections)) => {
                    return Err(NoAnswer { reason, again: Some(request) });
                }
                Err(reason) => return Err(NoAnswer { reason, again: None }),
            },
            Err(reason) => return Err(NoAnswer { reason, again: None }),
        };
        if asked > 0 {
            account.entry().connections.found_one();
        }
        progress.limit_attempt(account.attempt_deadline(now));
        progress.touch(now);
        let NoAnswer { reason, again } = match exchange(account, &mut connection, request, reused).await {
            Ok(answer) => return Ok((answer, connection)),
            Err(no_answer) => no_answer,
        };
        match (progress.fault(), again) {
            (Some(BodyError::TooLarge), _) => return Err(NoAnswer { reason: Reason::BodyTooLarge, again: None }),
            (Some(_), _) => return Err(NoAnswer { reason: Reason::ClientGone, again: None }),
            // The endpoint closed an idle connection, which says nothing against it: a fresh one to the same endpoint.
            (None, Some(again)) if reused && reason == Reason::UpstreamReset && !account.is_retrying() => {
                worker.counters.stale.add(1);
                (request, may_stand) = (again, false);
            }
            (None, again) => return Err(NoAnswer { reason, again }),
        }
    }
}

/// A connection that is there: an idle one, or part of one that requests share.
async fn standing<C: Pooled>(
    worker: &Worker,
    client: &Connection,
    account: &Account,
    target: &Arc<Target>,
    now: &mut Timestamp,
) -> Result<Option<Box<C>>, Reason> {
    let mut pooled = C::take(worker, target, *now);
    // One that another request opens may have room for this one too.
    while pooled.is_none()
        && let Some(opened) = C::opening(worker, target)
    {
        wait(client, account.progress(), opened.notified()).await?;
        *now = clock::now();
        account.endpoint_heard(*now);
        pooled = C::take(worker, target, *now);
    }
    Ok(pooled)
}

/// Waits for something within the request's time.
async fn wait(client: &Connection, progress: &Progress, for_it: impl Future<Output = ()>) -> Result<(), Reason> {
    let mut for_it = pin!(for_it);
    std::future::poll_fn(|cx| match given_up(client, progress) {
        Some(reason) => Poll::Ready(Err(reason)),
        None => for_it.as_mut().poll(cx).map(Ok),
    })
    .await
}

/// The reason to stop waiting, if the deadline has passed: whose turn it was.
pub fn given_up(client: &Connection, progress: &Progress) -> Option<Reason> {
    client
        .is_expired()
        .then(|| if progress.is_clients_turn(clock::now()) { Reason::RequestTimeout } else { Reason::UpstreamTimeout })
}

/// A new connection. `None`: the circuit breaker allows none; others were `asked` for room, and it is worth looking again for one that stands.
async fn connect<C: Pooled>(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &Account,
    target: &Arc<Target>,
    asked: &mut usize,
) -> Result<Option<Box<C>>, Reason> {
    let now = clock::now();
    let progress = account.progress();
    let timeouts = &account.entry().backend.config().timeouts;
    progress.touch_until(now, now + timeouts.connect);
    let Some(permit) = permit(worker, client, account, asked).await? else { return Ok(None) };
    worker.counters.connects.add(1);
    let socket = upstream::connect(target);
    let mut connecting = pin!(C::open(worker, target, timeouts.connection_idle, permit, socket));
    let connected = std::future::poll_fn(|cx| {
        if client.is_expired() {
            let late = progress.is_over(clock::now());
            return Poll::Ready(Err(if late { Reason::UpstreamTimeout } else { Reason::ConnectFailed }));
        }
        connecting.as_mut().poll(cx).map_err(|error| {
            let mut failures = worker.unconnected.get();
            if let Some(others) = failures.tell(clock::now()) {
                tracing::warn!(address = %target.address, %error, others, "no connection to an endpoint");
            }
            worker.unconnected.set(failures);
            if is_own(&error) { Reason::TooManyConnections } else { Reason::ConnectFailed }
        })
    })
    .await;
    if connected.is_err() {
        worker.counters.connect_failures.add(1);
    }
    connected.map(|connection| Some(Box::new(connection)))
}

/// What an attempt without an answer says of its endpoint: nothing, where the client is to blame, or this proxy, which may not or cannot connect.
pub fn outcome(reason: &Reason) -> Outcome {
    match reason {
        Reason::BodyTooLarge | Reason::RequestTimeout | Reason::ClientGone | Reason::TooManyConnections => {
            Outcome::Cancelled
        }
        Reason::UpstreamStatus(_) => Outcome::ServerError,
        _ => Outcome::Failure,
    }
}

/// Whether a connection could not be made for want of something here: file descriptors, ports, memory.
fn is_own(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let code = error.raw_os_error().map(Errno::from_raw_os_error);
    code.is_some_and(|code| {
        [Errno::MFILE, Errno::NFILE, Errno::ADDRNOTAVAIL, Errno::NOBUFS, Errno::NOMEM].contains(&code)
    })
}

/// How long it is waited before other workers are asked for an idle connection, each time: one whose answer a client has just had may be about to be idle.
const ASKING_PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(2), Duration::from_millis(8)];

/// Leave to open one more connection. Where the circuit breaker allows no more, an idle one that this request cannot use gives way: one of this worker's,
/// else of another's. `None`: they were `asked` once more, and that made no room.
async fn permit(
    worker: &Worker,
    client: &Connection,
    account: &Account,
    asked: &mut usize,
) -> Result<Option<ConnectionPermit>, Reason> {
    let (entry, progress) = (account.entry(), account.progress());
    let open = entry.open_connection();
    let open = open.or_else(|| if worker.close_idle(entry) { entry.open_connection() } else { None });
    if open.is_some() {
        return Ok(open);
    }
    let pause = ASKING_PAUSES.get(*asked).filter(|_| *asked > 0 || !entry.connections.were_busy(clock::now()));
    let pause = *pause.ok_or(Reason::TooManyConnections)?;
    *asked += 1;
    let mut closed = None;
    let asking = async {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        closed = worker.ask_to_close_idle(entry).recv().await;
    };
    let waited = wait(client, progress, asking).await;
    let now = clock::now();
    account.waited_for_us(now);
    // That other workers are too busy to answer says nothing against an endpoint.
    waited.map_err(|reason| if progress.is_over(now) { reason } else { Reason::TooManyConnections })?;
    if closed.is_none() {
        entry.connections.found_busy(now);
    }
    Ok(entry.open_connection())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_not_blamed_for_what_this_proxy_is_short_of() {
        let reason = |code: i32| is_own(&io::Error::from_raw_os_error(code));
        assert!(reason(24) && reason(23) && reason(99), "file descriptors of the process and of the machine, ports");
        assert!(!reason(111) && !reason(113), "refused, no route");
        assert!(!is_own(&io::Error::other("TLS")));
        assert_eq!(outcome(&Reason::TooManyConnections), Outcome::Cancelled);
        assert_eq!(outcome(&Reason::ConnectFailed), Outcome::Failure);
        assert_eq!(outcome(&Reason::UpstreamStatus(http::StatusCode::BAD_GATEWAY)), Outcome::ServerError);
    }
}
