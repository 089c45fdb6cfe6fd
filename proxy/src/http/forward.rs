//! The life of a request: validate → route → admit → pick → connection → exchange → answer, all on the worker that accepted it.

use std::{
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use hyper::body::{Body, Incoming};

use super::{
    account::{Account, Arrival},
    body::{BodyError, ContinueGate, Progress, RequestBody, ResponseBody},
    connection::Connection,
    error::Reason,
    framing::Refusal,
    headers, orca,
    upgrade::Tunnel,
    upstream::{Unanswered, Upstream},
};
use crate::{
    backend::Backend,
    class::{finder::tells_apart, identity, sampling::Kind},
    clock,
    config::EndpointKey,
    load::{Outcome, RequestClass},
    pick::PickRequest,
    route::rule::{RequestTimeout, STALL_TIMEOUT},
    table::Target,
    time::Timestamp,
    worker::{Socket, Worker},
};

/// Answers one request, whatever happens. The request counts as begun when this is called, not when its future is polled: until then
/// hyper may already find that the client has half-closed, which means one thing during a request and another between two.
pub fn serve(
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    client: Rc<Connection>,
    request: Request<Incoming>,
) -> impl Future<Output = Response<ResponseBody>> {
    let begun = client.begin_request(ends_connection(&request));
    answer(worker, socket, client, request, begun)
}

async fn answer(
    worker: Rc<Worker>,
    socket: Rc<Socket>,
    client: Rc<Connection>,
    request: Request<Incoming>,
    (started, refusal): (Timestamp, Option<Refusal>),
) -> Response<ResponseBody> {
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let result = match refusal {
        Some(refusal) => Err(Reason::Ambiguous(refusal)),
        None => forward(&worker, &socket, &client, request, started).await,
    };
    let mut response = result.unwrap_or_else(|reason| {
        worker.counters.rejected(&reason);
        client.end_request(clock::now());
        if reason.closes() {
            client.close_after_request();
        }
        reason.response()
    });
    if upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        client.answer_upgrade(None);
    }
    worker.counters.answered(response.status());
    if client.is_closing() || socket.is_draining() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the client said that it will send nothing more: its half-close is then no cancellation.
fn ends_connection(request: &Request<Incoming>) -> bool {
    let says = |token: &str| {
        let values = request.headers().get_all(header::CONNECTION);
        values
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .any(|t| t.trim().eq_ignore_ascii_case(token))
    };
    if request.version() == Version::HTTP_11 { says("close") } else { !says("keep-alive") }
}

async fn forward(
    worker: &Rc<Worker>,
    socket: &Socket,
    client: &Rc<Connection>,
    mut request: Request<Incoming>,
    started: Timestamp,
) -> Result<Response<ResponseBody>, Reason> {
    let host = headers::validate_target(&mut request)?;
    let (mut head, incoming) = request.into_parts();
    let table = worker.table();
    let routes = table.routing.socket(socket.id).ok_or(Reason::NoRoute)?;
    let rule = routes.find(&host, &head).ok_or(Reason::NoRoute)?.clone();
    let body_max = routes.limits.body_bytes_max;
    let length = incoming.size_hint().exact();
    if body_max.zip(length).is_some_and(|(max, length)| length > max) {
        return Err(Reason::BodyTooLarge);
    }
    let entry = rule.next_backend().map(|index| table.backends[index].clone()).ok_or(Reason::UnresolvedBackend)?;
    drop(table);
    let (class, kind) = tell_apart(worker, &entry.backend, &head, length, started);
    let admitted = entry.backend.admit(class).map_err(Reason::Shed)?;

    let (stall, total) = match rule.timeouts.request {
        RequestTimeout::WhileProgressing => (Some(STALL_TIMEOUT), Timestamp::MAX),
        RequestTimeout::Total(limit) => (Some(STALL_TIMEOUT), started + limit),
        RequestTimeout::Unlimited => (None, Timestamp::MAX),
    };
    let progress = Rc::new(Progress::new(client.clone(), stall, total));
    let arrival = Arrival { entry, rule, method: head.method.clone(), started, admitted, class, kind };
    let account = Account::new(worker.clone(), client.clone(), progress.clone(), arrival);
    let mut account = Box::new(account);

    let has_body = !incoming.is_end_stream();
    let version = head.version;
    let prepared =
        headers::prepare_request(&mut head.headers, version, &client.client, has_body, || worker.request_id());
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let mut request = Request::from_parts(head, RequestBody::new(incoming, progress, body_max));
    if prepared.expects_continue {
        let open = Arc::new(AtomicBool::new(false));
        let opens = open.clone();
        hyper::ext::on_informational(&mut request, move |head| {
            if head.status() == StatusCode::CONTINUE {
                opens.store(true, Relaxed);
            }
        });
        request.body_mut().set_gate(ContinueGate::new(open));
    }
    let outcome = attempts(worker, client, &mut account, request).await;
    let (mut response, upstream) = match outcome {
        Ok(answer) => answer,
        Err(reason) => {
            let clients_fault = matches!(reason, Reason::BodyTooLarge | Reason::RequestTimeout | Reason::ClientGone);
            account.finish(if clients_fault { Outcome::Cancelled } else { Outcome::Failure });
            return Err(reason);
        }
    };

    let status = response.status();
    account.answered(status, orca::take(response.headers_mut()), clock::now());
    if status == StatusCode::SWITCHING_PROTOCOLS {
        if !prepared.upgrade {
            account.finish(Outcome::Failure);
            return Err(Reason::UpstreamProtocol);
        }
        let Ok((socket, read, permit)) = upstream.into_tunnel().await else {
            account.finish(Outcome::Failure);
            return Err(Reason::UpstreamReset);
        };
        worker.counters.upgrades.add(1);
        client.set_deadline(Timestamp::MAX);
        client.answer_upgrade(Some(Tunnel { socket, read, permit, account }));
        headers::prepare_response(&mut response);
        return Ok(response.map(|_| ResponseBody::empty()));
    }
    headers::prepare_response(&mut response);
    let (head, incoming) = response.into_parts();
    let body = if incoming.is_end_stream() {
        let mut upstream = Some(upstream);
        std::future::poll_fn(|cx| {
            if let Some(upstream) = upstream.take() {
                account.complete(upstream, cx);
            }
            std::task::Poll::Ready(())
        })
        .await;
        ResponseBody::empty()
    } else {
        account.progress().touch(clock::now());
        ResponseBody::upstream(incoming, upstream, account, client.clone())
    };
    // Not the endpoint's reason phrase and extensions: they are about its hop.
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// The request's class and, if it is one of those that are looked at to find out what kinds there are, what it is.
fn tell_apart(
    worker: &Worker,
    backend: &Backend,
    head: &http::request::Parts,
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

/// Tries endpoints until one answers or nothing is left to try. Only a request that never reached an endpoint is tried on another.
async fn attempts(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &mut Account,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Box<Upstream>), Reason> {
    let entry = account.entry().clone();
    let mut tried: Vec<EndpointKey> = Vec::new();
    let mut failure = None;
    for _ in 0..=entry.backend.config().num_retries {
        let now = clock::now();
        let pick = PickRequest { class: account.class(), exclude: &tried };
        let Some(index) = entry.backend.pick(&pick, now, &mut *worker.rng.borrow_mut()) else {
            break;
        };
        if failure.is_some() {
            account.fail_attempt();
        }
        account.begin_attempt(index, now);
        match attempt(worker, client, account, &entry.targets[index], request).await {
            Ok(answer) => return Ok(answer),
            Err(Failed { reason, unsent }) => {
                let Some(unsent) = unsent else { return Err(reason) };
                request = *unsent;
                failure = Some(reason);
                tried.push(entry.backend.endpoints()[index].config.key);
            }
        }
    }
    Err(failure.unwrap_or_else(|| {
        entry.backend.unroutable();
        Reason::NoHealthyUpstream
    }))
}

/// An attempt without an answer; with the request if it may be tried elsewhere.
struct Failed {
    reason: Reason,
    unsent: Option<Box<Request<RequestBody>>>,
}

async fn attempt(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &Account,
    target: &Arc<Target>,
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Box<Upstream>), Failed> {
    let progress = account.progress();
    let now = clock::now();
    let mut pooled = worker.pool.take(target, now);
    loop {
        let mut upstream = match pooled.take() {
            Some(upstream) => upstream,
            None => match connect(worker, client, account, target).await {
                Ok(upstream) => upstream,
                Err(reason @ (Reason::ConnectFailed | Reason::TooManyConnections)) => {
                    return Err(Failed { reason, unsent: Some(Box::new(request)) });
                }
                Err(reason) => return Err(Failed { reason, unsent: None }),
            },
        };
        let reused = upstream.reused;
        let now = clock::now();
        progress.limit_attempt(account.attempt_deadline(now));
        progress.touch(now);
        // A connection that was used before may be closed by the endpoint at the moment that a request is written to it. What may be
        // repeated without harm (RFC 9110 §9.2.2) is kept for that case.
        let spare =
            (reused && request.body().is_end_stream() && request.method().is_idempotent()).then(|| spare(&request));
        match upstream.exchange(request, || given_up(client, progress)).await {
            Ok(response) => return Ok((response, upstream)),
            Err(Unanswered { reason, unsent, before_answer }) => {
                let reason = match progress.fault() {
                    Some(BodyError::TooLarge) => Reason::BodyTooLarge,
                    Some(_) => Reason::ClientGone,
                    None => reason,
                };
                let again = unsent.or_else(|| spare.filter(|_| before_answer).map(|head| head.into_request(account)));
                match again {
                    // The endpoint closed an idle connection, which says nothing against it: a fresh one to the same endpoint.
                    Some(again) if reused && progress.fault().is_none() => {
                        worker.counters.stale.add(1);
                        request = again;
                    }
                    Some(again) if progress.fault().is_none() => {
                        return Err(Failed { reason, unsent: Some(Box::new(again)) });
                    }
                    _ => return Err(Failed { reason, unsent: None }),
                }
            }
        }
    }
}

/// The reason to stop waiting, if the deadline has passed.
fn given_up(client: &Connection, progress: &Progress) -> Option<Reason> {
    client.is_expired().then(|| {
        let clients_turn = progress.waits_for_client() && !progress.is_over(clock::now());
        if clients_turn { Reason::RequestTimeout } else { Reason::UpstreamTimeout }
    })
}

async fn connect(
    worker: &Rc<Worker>,
    client: &Connection,
    account: &Account,
    target: &Target,
) -> Result<Box<Upstream>, Reason> {
    let permit = account.entry().open_connection().ok_or(Reason::TooManyConnections)?;
    let now = clock::now();
    let progress = account.progress();
    progress.touch_until(now, now + account.entry().backend.config().timeouts.connect);
    worker.counters.connects.add(1);
    let mut connecting = std::pin::pin!(Upstream::connect(&target.address, permit));
    let connected = std::future::poll_fn(|cx| {
        if client.is_expired() {
            let late = progress.is_over(clock::now());
            return std::task::Poll::Ready(Err(if late { Reason::UpstreamTimeout } else { Reason::ConnectFailed }));
        }
        connecting.as_mut().poll(cx).map_err(|error| {
            tracing::debug!(address = %target.address, %error, "connect failed");
            Reason::ConnectFailed
        })
    })
    .await;
    if connected.is_err() {
        worker.counters.connect_failures.add(1);
    }
    connected.map(Box::new)
}

/// The head of a request without a body, kept to send it once more.
struct Spare {
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
}

fn spare(request: &Request<RequestBody>) -> Spare {
    Spare { method: request.method().clone(), uri: request.uri().clone(), headers: request.headers().clone() }
}

impl Spare {
    fn into_request(self, account: &Account) -> Request<RequestBody> {
        let mut request = Request::new(RequestBody::empty(account.shared_progress()));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        request
    }
}
