//! The paths, and what each of them reads.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{Method, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use trimtab_controller::view::View;

use crate::error::ApiError;
use crate::feed::Feed;
use crate::history::Choice;
use crate::hosts::Hosts;
use crate::query::Parameters;
use crate::{assets, reasons, security, stream};

/// Endpoints in a history that does not say how many.
const LIMIT_DEFAULT: usize = 24;

/// Rows in a history that does not say how many: all that are kept.
const POINTS_DEFAULT: usize = 1_500;

/// Names that an error lists, so that a long list stays readable.
const NAMES_LISTED_MAX: usize = 20;

#[derive(Debug, Clone)]
struct App {
    feed: Feed,
    streams: Arc<Semaphore>,
}

/// The dashboard of `view` for a listener on loopback: it answers to `localhost` and to IP addresses.
///
/// Must be called within a tokio runtime: it starts a small task that keeps the history, which ends with the router or with `view`'s sender. Open
/// streams end when the sender is dropped; a graceful shutdown should drop it, or bound its wait.
pub fn router(view: watch::Receiver<Arc<View>>) -> Router {
    router_for(view, Hosts::Local)
}

/// Like [`router`], for the hosts that are given.
pub fn router_for(view: watch::Receiver<Arc<View>>, hosts: Hosts) -> Router {
    let app = App { feed: Feed::start(view), streams: Arc::new(Semaphore::new(stream::STREAMS_MAX)) };
    let mut router = Router::new()
        .route("/api/v1/view", get(view_now))
        .route("/api/v1/history", get(history))
        .route("/api/v1/stream", get(events))
        .route("/api/v1/reasons", get(all_reasons))
        .route("/healthz", get(health));
    for asset in assets::ALL {
        let answer = ([(header::CONTENT_TYPE, asset.content_type)], asset.body);
        router = router.route(asset.path, get(async move || answer));
    }
    router
        .fallback(|uri: Uri| async move { ApiError::Path { path: uri.path().chars().take(200).collect() } })
        .method_not_allowed_fallback(|method: Method| async move { ApiError::Method { method } })
        .with_state(app)
        .layer(middleware::from_fn_with_state(hosts, security::guard))
}

async fn view_now(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[])?;
    Ok(Json(app.feed.frame().view()).into_response())
}

async fn history(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let parameters = Parameters::read(&uri, &["backend", "endpoint", "since", "limit", "points"])?;
    let since = parameters.whole("since", 0, i64::MAX, "a time in milliseconds since the Unix epoch")?;
    let limit = parameters.whole("limit", 0, 200, "the most endpoints to send")?;
    let points = parameters.whole("points", 2, 1_500, "the most rows to send")?;
    let endpoint = parameters.name("endpoint")?;
    let choice = Choice {
        since_ms: since.unwrap_or(0),
        endpoint: endpoint.map(str::to_owned),
        limit: limit.map_or(LIMIT_DEFAULT, |limit| limit as usize),
        points: points.map_or(POINTS_DEFAULT, |points| points as usize),
    };
    let frame = app.feed.frame();
    let backend = match parameters.name("backend")? {
        Some(name) => name,
        None => match frame.backend(None) {
            Some(first) => &first.name,
            None => return Err(unknown_backend("", frame.view())),
        },
    };
    let answer = app.feed.history(|history| {
        history.answer(backend, &choice).ok_or_else(|| match endpoint {
            Some(endpoint) if history.knows(backend) => ApiError::NotFound {
                parameter: "endpoint",
                value: endpoint.chars().take(80).collect(),
                allowed: format!("{backend} had no endpoint of that name in the last ten minutes"),
            },
            _ => unknown_backend(backend, frame.view()),
        })
    })?;
    Ok(Json(answer).into_response())
}

async fn events(State(app): State<App>, uri: Uri) -> Result<Response, ApiError> {
    let parameters = Parameters::read(&uri, &["backend"])?;
    app.feed.check()?;
    let backend = parameters.name("backend")?;
    let frame = app.feed.frame();
    if let Some(name) = backend.filter(|&name| frame.backend(Some(name)).is_none()) {
        return Err(unknown_backend(name, frame.view()));
    }
    let permit = app.streams.clone().try_acquire_owned().map_err(|_| ApiError::Busy { limit: stream::STREAMS_MAX })?;
    Ok(stream::events(app.feed.frames(), backend.map(str::to_owned), permit).into_response())
}

async fn all_reasons(uri: Uri) -> Result<Response, ApiError> {
    Parameters::read(&uri, &[])?;
    Ok(Json(reasons::explained().collect::<Vec<_>>()).into_response())
}

#[derive(Serialize)]
struct Health {
    /// "ok", or "waiting" before the first tick.
    status: &'static str,
    /// When the last tick was made, milliseconds since the Unix epoch; `None` before the first.
    at_ms: Option<i64>,
}

async fn health(State(app): State<App>) -> Result<Json<Health>, ApiError> {
    app.feed.check()?;
    let at_ms = Some(app.feed.frame().view().at_ms).filter(|&at_ms| at_ms > 0);
    Ok(Json(Health { status: if at_ms.is_some() { "ok" } else { "waiting" }, at_ms }))
}

fn unknown_backend(name: &str, view: &View) -> ApiError {
    let names: Vec<&str> = view.backends.iter().take(NAMES_LISTED_MAX).map(|backend| backend.name.as_str()).collect();
    let more = view.backends.len().saturating_sub(NAMES_LISTED_MAX);
    let allowed = match (names.as_slice(), more) {
        ([], _) => "there is no backend yet".to_owned(),
        (names, 0) => format!("the backends are {}", names.join(", ")),
        (names, more) => format!("the backends are {} and {more} more", names.join(", ")),
    };
    ApiError::NotFound { parameter: "backend", value: name.chars().take(80).collect(), allowed }
}
