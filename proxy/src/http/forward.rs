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
    account::Account,
    arrive::{Arrived, arrive, rejected, route},
    attempts::{NoAnswer, attempts, given_up},
    body::{ContinueGate, RequestBody, ResponseBody, read_over},
    connection::Connection,
    edits::Edits,
    error::{Reason, Refused},
    fast::{self, head, stream},
    framing::Refusal,
    grpc, headers, max_forwards, orca,
    resend::Loan,
    upgrade::Tunnel,
    upstream::{Unanswered, Upstream},
    websocket::{self, WebSocket},
};
use crate::{
    clock,
    config::Protocol,
    load::Outcome,
    observe::{
        self,
        record::Record,
        trace::{self, Passed, TRACEPARENT, TRACESTATE},
    },
    time::Timestamp,
    worker::{Socket, Worker},
};

/// Room for a usual head.
const FLIGHT: usize = 512;

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
    let http2 = request.version() == Version::HTTP_2;
    let grpc = http2 && grpc::is_grpc(request.headers());
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str().as_bytes(),
        None => request.headers().get(header::HOST).map_or(&b""[..], HeaderValue::as_bytes),
    };
    observe::begin(&worker, &client, &request, host, protocol(request.version()));
    let result = match refusal {
        Some(refusal) => Err(Reason::from(refusal).into()),
        None => forward(&worker, &socket, &client, request, grpc, started).await,
    };
    let mut response = result.unwrap_or_else(|refused| {
        let reason = &refused.reason;
        rejected(&worker, &client, reason);
        let mut answer = refused.answer();
        if http2 {
            answer.headers_mut().remove(header::CONNECTION);
        }
        if !grpc {
            return answer.map(ResponseBody::full);
        }
        // The failure is in the headers; to HTTP the answer is a good one.
        *answer.status_mut() = StatusCode::OK;
        grpc::trailers_only(reason, answer.headers_mut());
        answer.map(|_| ResponseBody::empty())
    });
    if upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        client.answer_upgrade(None);
    }
    worker.counters.answered(response.status());
    // Over HTTP/2 the connection says so itself.
    if !http2 && (client.is_closing() || socket.is_draining()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
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
    grpc: bool,
    started: Timestamp,
) -> Result<Response<ResponseBody>, Refused> {
    let patience = if grpc { grpc::timeout(request.headers()) } else { None };
    let looked = look(worker, client, &mut request);
    let (head, incoming) = request.into_parts();
    let (host, websocket) = match looked {
        Ok(Looked::On(host, websocket)) => (host, websocket),
        Ok(Looked::Here(answer)) => {
            unwanted(&head, incoming);
            return Ok(answer);
        }
        Err(reason) => {
            unwanted(&head, incoming);
            return Err(reason.into());
        }
    };
    let length = incoming.size_hint().exact();
    observe::came_by(worker, socket, client, &host, &head);
    let routed = route(worker, socket, client, &host, &head);
    let arrived = arrive(worker, socket, client, routed, (&host, &head), length, (started, patience));
    let mut arrived = match arrived {
        Ok(arrived) => arrived,
        Err(refused) => {
            unwanted(&head, incoming);
            return Err(refused);
        }
    };
    if grpc {
        // Calls may be streams, of which either side speaks when it has something to say.
        arrived.progress.free();
    }
    let edits = arrived.edits.take();
    let request = Request::from_parts(head, incoming);
    let answered = relay(worker, client, request, arrived, edits.as_deref(), grpc, websocket).await;
    answered.map_err(|reason| Edits::refused(edits.as_deref(), reason))
}

/// What a look at a head says.
enum Looked {
    /// It is for this host, and may be the beginning of a WebSocket.
    On(String, Option<WebSocket>),
    /// It goes no further than here.
    Here(Response<ResponseBody>),
}

/// Looks at a head by itself, before it is known where it goes.
fn look(worker: &Worker, client: &Connection, request: &mut Request<Incoming>) -> Result<Looked, Reason> {
    // On HTTP/1.1 hyper has counted them.
    if request.version() == Version::HTTP_2 && request.headers().len() > client.limits().headers_max {
        return Err(Reason::TooManyHeaders);
    }
    let nonce = || (u128::from(worker.random()) << 64 | u128::from(worker.random())).to_be_bytes();
    let websocket = WebSocket::of(request, nonce);
    let host = headers::validate_target(request, client.client.scheme())?;
    if let Some(answer) = max_forwards::step(request)? {
        client.end_request(clock::now());
        return Ok(Looked::Here(answer));
    }
    Ok(Looked::On(host, websocket))
}

/// The request is answered without its body.
fn unwanted(head: &http::request::Parts, incoming: Incoming) {
    if head.version == Version::HTTP_2 {
        read_over(incoming);
    }
}

/// Passes a request that was let in on, and its answer back: by a connection of the fast path's if it is plain and came over HTTP/2, which
/// costs less, and by hyper's otherwise.
async fn relay(
    worker: &Rc<Worker>,
    client: &Rc<Connection>,
    request: Request<Incoming>,
    arrived: Arrived,
    edits: Option<&Edits>,
    grpc: bool,
    websocket: Option<WebSocket>,
) -> Result<Response<ResponseBody>, Reason> {
    let plain = request.version() == Version::HTTP_2
        && worker.fast_path
        && arrived.account.entry().backend.config().protocol == Protocol::Http1
        && request.body().is_end_stream()
        && !(grpc || websocket.is_some() || arrived.mirroring.is_some());
    let (head, incoming) = request.into_parts();
    if plain {
        let passed = client.recorded(Record::passed_on);
        let mut flight = Vec::with_capacity(FLIGHT);
        let written = head::write(&head, &client.client, edits, passed.as_ref(), || named(worker, client), &mut flight);
        if let Ok(span_at) = written {
            let asks = (head.method == Method::HEAD, head.method.is_idempotent());
            drop((head, incoming));
            return relay_plain(worker, client, asks, (flight, span_at), arrived.account, edits).await;
        }
    }
    // In a box of its own: it is larger than all the rest, which is what most requests of HTTP/2 need.
    Box::pin(relay_by_hyper(worker, client, (head, incoming), arrived, edits, grpc, websocket)).await
}

/// The name of a request that has none.
fn named(worker: &Worker, client: &Connection) -> [u8; 24] {
    let made = client.recorded(|record| record.made_id);
    made.unwrap_or_else(|| worker.next_request_id())
}

async fn relay_by_hyper(
    worker: &Rc<Worker>,
    client: &Rc<Connection>,
    (mut head, incoming): (http::request::Parts, Incoming),
    Arrived { mut account, progress, body_bytes_max, mirroring, .. }: Arrived,
    edits: Option<&Edits>,
    grpc: bool,
    websocket: Option<WebSocket>,
) -> Result<Response<ResponseBody>, Reason> {
    let has_body = !incoming.is_end_stream();
    let version = head.version;
    let request_id = || worker.named(named(worker, client));
    let prepared = headers::prepare_request(&mut head.headers, version, &client.client, has_body, request_id);
    let passed = client.recorded(Record::passed_on);
    if let Some(passed) = &passed {
        pass_on(passed, &mut head.headers);
    }
    if let Some(Err(reason)) = edits.map(|edits| edits.apply(&mut head)) {
        unwanted(&head, incoming);
        return Err(reason);
    }
    head.version = Version::HTTP_11;
    head.extensions.clear();
    // A filter may have had another mind about it.
    let traced = passed
        .is_some_and(|passed| head.headers.get(TRACEPARENT).is_some_and(|value| value.as_bytes() == passed.header));
    let taps = match mirroring {
        Some(mirroring) if !prepared.upgrade => mirroring.start(worker, client, &head, &incoming),
        _ => Vec::new(),
    };
    let wanted = prepared.expects_continue.then(|| Arc::new(AtomicBool::new(false)));
    let gate = wanted.clone().map(ContinueGate::new);
    let mut request =
        Request::from_parts(head, RequestBody::new((incoming, version), progress, body_bytes_max, taps, gate));
    if let Some(wanted) = wanted {
        hyper::ext::on_informational(&mut request, move |head| {
            if head.status() == StatusCode::CONTINUE {
                wanted.store(true, Relaxed);
            }
        });
    }
    let exchange = async |account: &Account, upstream: &mut Upstream, mut request: Request<RequestBody>, reused| {
        // Each attempt is a span of its own.
        if let Some(passed) = account.passed_on().filter(|_| traced) {
            pass_on(&passed, request.headers_mut());
        }
        exchange(client, account, upstream, request, reused).await
    };
    let (mut response, upstream) = attempts(worker, client, &mut account, request, exchange).await?;

    if let Err(reason) = headers::validate_response(response.headers()) {
        account.fail(&reason, Outcome::Failure, clock::now());
        return Err(reason);
    }
    let status = response.status();
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    // To a client of HTTP/2 any good answer means that it may go on as it asked to.
    let misleads =
        |websocket: &WebSocket| status.is_success() || switches && !websocket.is_accepted(response.headers());
    if switches && !prepared.upgrade || websocket.as_ref().is_some_and(misleads) {
        account.fail(&Reason::UpstreamProtocol, Outcome::Failure, clock::now());
        return Err(Reason::UpstreamProtocol);
    }
    let told_status = if switches && websocket.is_some() { StatusCode::OK } else { status };
    account.answered(told_status, orca::take(response.headers_mut()), clock::now());
    if grpc {
        account.grpc_ended(response.headers());
    }
    let told = account.told_session();
    if switches {
        let Ok((socket, read, permit)) = upstream.into_tunnel().await else {
            account.fail(&Reason::UpstreamReset, Outcome::Failure, clock::now());
            return Err(Reason::UpstreamReset);
        };
        worker.counters.upgrades.add(1);
        client.set_deadline(Timestamp::MAX);
        headers::prepare_response(&mut response);
        if websocket.is_some() {
            websocket::granted(&mut response);
        }
        let stream = websocket.map(|websocket| websocket.stream);
        client.answer_upgrade(Some(Tunnel { socket, read, permit, account, stream }));
        if let Some(edits) = edits {
            edits.apply_to_answer(&mut response);
        }
        if let Some((name, value)) = told {
            response.headers_mut().append(name, value);
        }
        return Ok(response.map(|_| ResponseBody::empty()));
    }
    headers::prepare_response(&mut response);
    if let Some(edits) = edits {
        edits.apply_to_answer(&mut response);
    }
    if let Some((name, value)) = told {
        response.headers_mut().append(name, value);
    }
    let (head, incoming) = response.into_parts();
    let body = if incoming.is_end_stream() {
        let mut upstream = Some(upstream);
        std::future::poll_fn(|cx| {
            if let Some(upstream) = upstream.take() {
                account.complete(upstream, cx, clock::now());
            }
            std::task::Poll::Ready(())
        })
        .await;
        ResponseBody::empty()
    } else {
        account.progress().touch(clock::now());
        ResponseBody::upstream(incoming, upstream, account, client.clone(), grpc)
    };
    // Not the endpoint's reason phrase and extensions: they are about its hop.
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Passes a request without a body on by a connection of the fast path's. `flight` is its head, and where in it the span of an attempt stands;
/// it is to be told whether it is HEAD, and whether it may be sent twice without harm.
async fn relay_plain(
    worker: &Rc<Worker>,
    client: &Rc<Connection>,
    asks: (bool, bool),
    (mut flight, span_at): (Vec<u8>, Option<usize>),
    mut account: Box<Account>,
    edits: Option<&Edits>,
) -> Result<Response<ResponseBody>, Reason> {
    let exchange = async |account: &Account, endpoint: &mut fast::Endpoint, (): (), reused| {
        // Each attempt is a span of its own.
        if let Some(at) = span_at
            && let Some(passed) = account.passed_on()
        {
            let span = at..at + trace::SPAN_LEN;
            flight[span].copy_from_slice(&passed.header[trace::SPAN_AT..trace::SPAN_AT + trace::SPAN_LEN]);
        }
        stream::exchange((worker, client), account, endpoint, &flight, asks, reused).await
    };
    let (mut answer, endpoint) = attempts(worker, client, &mut account, (), exchange).await?;
    account.answered(answer.status, answer.load, answer.at);
    let mut response = Response::new(());
    *response.status_mut() = answer.status;
    *response.headers_mut() = std::mem::take(&mut answer.headers);
    if let Some(edits) = edits {
        edits.apply_to_answer(&mut response);
    }
    if let Some((name, value)) = account.told_session() {
        response.headers_mut().append(name, value);
    }
    let body = answer.into_body(worker.clone(), client.clone(), account, endpoint);
    Ok(response.map(|()| body.map_or_else(ResponseBody::Plain, ResponseBody::whole)))
}

fn pass_on(passed: &Passed, headers: &mut HeaderMap) {
    if let Ok(value) = HeaderValue::from_bytes(&passed.header) {
        headers.insert(TRACEPARENT, value);
    }
    if !passed.keeps_state {
        headers.remove(TRACESTATE);
    }
}

/// One request on one connection.
pub(super) async fn exchange(
    client: &Connection,
    account: &Account,
    upstream: &mut Upstream,
    request: Request<RequestBody>,
    reused: bool,
) -> Result<Response<Incoming>, NoAnswer<Request<RequestBody>>> {
    let progress = account.progress();
    let bodiless = request.body().is_end_stream();
    // A connection that was used before may be closed by the endpoint at the moment that a request is written to it. What may be
    // repeated without harm (RFC 9110 §9.2.2) is kept for that case.
    let repeats = (reused || account.retries_answers()) && request.method().is_idempotent() && bodiless;
    // Over HTTP/2 an endpoint may say that it has done nothing for a request (RFC 9113 §8.7).
    let (request, spare) = if repeats || upstream.is_shared() { Spare::of(request) } else { (request, None) };
    let answer = upstream.exchange(request, || given_up(client, progress)).await;
    let Some(spare) = spare else {
        return answer.map_err(|Unanswered { reason, unsent, .. }| NoAnswer { reason, again: unsent });
    };
    match answer {
        Ok(response) if repeats && account.retries_status(response.status()) => {
            let reason = Reason::UpstreamStatus(response.status());
            Err(NoAnswer { reason, again: spare.into_request(account) })
        }
        Ok(response) => Ok(response),
        Err(Unanswered { reason, unsent, before_answer, refused }) => {
            let again = unsent.or_else(|| {
                // A connection that was closed while it was idle is no failure that the policy is about.
                let stale = reused && reason == Reason::UpstreamReset;
                let silent = repeats && before_answer && (stale || account.retries_failure(&reason));
                if refused || silent { spare.into_request(account) } else { None }
            });
            Err(NoAnswer { reason, again })
        }
    }
}

/// What it takes to send a request once more.
struct Spare {
    method: Method,
    uri: http::Uri,
    headers: HeaderMap,
    /// `None`: there is none.
    body: Option<Loan>,
}

impl Spare {
    fn of(request: Request<RequestBody>) -> (Request<RequestBody>, Option<Self>) {
        let (head, body) = request.into_parts();
        let (body, loan) = if body.is_end_stream() {
            (body, None)
        } else {
            let (body, loan) = body.lend();
            (body, Some(loan))
        };
        let spare =
            Self { method: head.method.clone(), uri: head.uri.clone(), headers: head.headers.clone(), body: loan };
        (Request::from_parts(head, body), Some(spare))
    }

    /// `None`: more of its body was sent than is kept.
    fn into_request(self, account: &Account) -> Option<Request<RequestBody>> {
        let body = match self.body {
            Some(loan) => RequestBody::Once(loan.recall()?),
            None => RequestBody::empty(account.shared_progress()),
        };
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.headers_mut() = self.headers;
        Some(request)
    }
}
