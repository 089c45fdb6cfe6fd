//! A rule's filters as they apply to one request: both paths change heads by these, hyper's in a map and the fast path as it writes.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, header, request};

use super::error::{Local, Reason, Refused};
use crate::{
    head::RequestHead,
    route::{
        SocketRoutes,
        filter::{Filters, HeaderEdits},
        table::Target,
    },
};

/// The reason of an answer to a preflight.
const PREFLIGHT: &str = "cors_preflight";

/// What is changed about one request and its answer.
#[derive(Debug)]
pub struct Edits {
    filters: Arc<Filters>,
    /// Bytes of the path that the rule matched as a prefix.
    prefix: usize,
    /// What the answer says to a page of another origin, also if it is the proxy's own.
    cors: Option<HeaderEdits>,
    /// The same and the filters' changes to the answer; `None`: those alone.
    response: Option<HeaderEdits>,
}

/// A request as a redirect needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Lower case and without a port.
    pub host: &'a str,
    /// "http" or "https".
    pub scheme: &'a str,
    /// Bytes of the path that the rule matched as a prefix.
    pub prefix: usize,
}

impl Edits {
    /// Of a request that goes to `target`; `None`: nothing is changed.
    pub fn new(target: &Target, prefix: usize, head: &impl RequestHead) -> Option<Box<Self>> {
        let filters = target.filters.clone()?;
        let cors = cors(&filters, head);
        let response = cors.as_ref().map(|edits| edits.then(&filters.response_headers));
        Some(Box::new(Self { filters, prefix, cors, response }))
    }

    /// Of these filters alone.
    #[cfg(any(test, fuzzing))]
    pub fn of(filters: Filters, prefix: usize) -> Self {
        Self { filters: Arc::new(filters), prefix, cors: None, response: None }
    }

    /// The `Host` that an endpoint gets, if not the client's.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.filters.rewrite.host.as_ref()
    }

    /// The target that an endpoint gets, if not the client's.
    pub fn target(&self, path: &str, query: Option<&str>) -> Option<String> {
        let rewrite = self.filters.rewrite.path.as_ref().filter(|_| path.starts_with('/'))?;
        Some(rewrite.target(path, self.prefix, query))
    }

    /// Changes to the request's headers.
    pub fn request(&self) -> &HeaderEdits {
        &self.filters.request_headers
    }

    /// Changes to the answer's headers.
    pub fn response(&self) -> &HeaderEdits {
        self.response.as_ref().unwrap_or(&self.filters.response_headers)
    }

    /// What makes of a reason not to pass the request on, or not to get an answer, one of the proxy's own.
    pub fn refused(edits: Option<&Self>, reason: Reason) -> Refused {
        Refused { reason, cors: edits.and_then(|edits| edits.cors.clone()).map(Box::new) }
    }

    /// Changes a head that is otherwise ready to be sent.
    ///
    /// # Errors
    /// If the target would be none; filters are checked beforehand, so this is a bug of ours.
    pub fn apply(&self, head: &mut request::Parts) -> Result<(), Reason> {
        if let Some(target) = self.target(head.uri.path(), head.uri.query()) {
            head.uri = target.try_into().map_err(|_| Reason::BadRequest("the rewritten target is not a path"))?;
        }
        if let Some(host) = self.host() {
            head.headers.insert(header::HOST, host.clone());
        }
        self.request().apply(&mut head.headers);
        Ok(())
    }

    /// Changes an answer.
    pub fn apply_to_answer<B>(&self, response: &mut Response<B>) {
        self.response().apply(response.headers_mut());
    }
}

fn cors(filters: &Filters, head: &impl RequestHead) -> Option<HeaderEdits> {
    filters.cors.as_ref().map(|cors| cors.edits(head))
}

/// Why a request that met these filters is answered here.
#[cold]
pub fn refused(filters: Option<&Arc<Filters>>, head: &impl RequestHead, reason: Reason) -> Refused {
    // The answer to a preflight says itself what is allowed.
    let asks = matches!(&reason, Reason::Local(local) if local.name == PREFLIGHT);
    let cors = filters.filter(|_| !asks).and_then(|filters| cors(filters, head));
    Refused { reason, cors: cors.map(Box::new) }
}

/// The answer that a rule's filters give by themselves, without asking a backend.
pub fn local_answer(
    filters: Option<&Arc<Filters>>,
    routes: &SocketRoutes,
    asked: Asked<'_>,
    head: &impl RequestHead,
) -> Option<Reason> {
    let filters = filters?;
    if let Some(headers) = filters.cors.as_ref().and_then(|cors| cors.preflight(head)) {
        return Some(Reason::Local(Box::new(Local { name: PREFLIGHT, status: http::StatusCode::OK, headers })));
    }
    let redirect = filters.redirect.as_ref()?;
    let Asked { host, scheme, prefix } = asked;
    let location = redirect.location(scheme, (host, routes.port), (head.path(), prefix, head.query()));
    let mut headers = HeaderMap::new();
    // Made of what came as a head and was configured as text.
    headers.insert(header::LOCATION, HeaderValue::from_str(&location).ok()?);
    Some(Reason::Local(Box::new(Local { name: "redirect", status: redirect.status, headers })))
}
