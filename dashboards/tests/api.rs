//! The API over a real socket: what it answers, what it refuses and how it says so.

#![allow(clippy::unwrap_used, reason = "a test ends where it finds something else than it expects")]

mod common;

use common::feed::{BACKEND, Feed, START_MS, TICK_MS};
use common::server::Server;
use hyper::Method;
use serde_json::{Value, json};
use trimtab_controller::view::View;
use trimtab_dashboards::Hosts;

async fn told(ticks: usize) -> (Server, Feed) {
    let server = Server::start().await;
    let mut feed = Feed::new(12);
    server.publish_all(&mut feed, ticks).await;
    (server, feed)
}

/// Asks for a path and expects a status and parts of the text.
async fn check(server: &Server, path: &str, status: u16, parts: &[&str]) {
    let answer = server.get(path).await;
    assert_eq!(answer.status, status, "{path}: {}", answer.text);
    for part in parts {
        assert!(answer.text.contains(part), "{path} does not say {part:?}: {}", answer.text);
    }
}

#[tokio::test]
async fn the_view_is_served_as_it_was_published() {
    let (server, mut feed) = told(3).await;
    let view = feed.view();
    server.publish(view.clone()).await;
    let answer = server.get("/api/v1/view").await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert!(answer.text == serde_json::to_string(&view).unwrap(), "served: {}", answer.text);
    serde_json::from_str::<View>(&answer.text).unwrap();
}

#[tokio::test]
async fn health_says_waiting_then_ok_then_gone() {
    let mut server = Server::start().await;
    assert_eq!(server.get("/healthz").await.json(), json!({"status": "waiting", "at_ms": null}));
    server.publish(Feed::new(2).view()).await;
    assert_eq!(server.get("/healthz").await.json(), json!({"status": "ok", "at_ms": START_MS + TICK_MS}));
    server.lose_the_controller();
    for _ in 0..500 {
        let answer = server.get("/healthz").await;
        if answer.status == 503 {
            assert!(answer.text.contains("no longer publishes"), "{}", answer.text);
            assert_eq!(server.get("/api/v1/stream").await.status, 503);
            // What was there can still be read.
            assert_eq!(server.get("/api/v1/view").await.status, 200);
            return;
        }
    }
    panic!("nobody noticed that the controller is gone");
}

#[tokio::test]
async fn history_has_a_row_a_tick_and_an_entry_an_endpoint() {
    let (server, feed) = told(100).await;
    let all = server.get("/api/v1/history").await.json();
    assert_eq!(all["backend"], BACKEND);
    assert_eq!(all["at_ms"].as_array().unwrap().len(), 100);
    assert_eq!((&all["spacing_ms"], &all["endpoints_total"]), (&json!(TICK_MS), &json!(10)));
    assert_eq!(all["totals"]["latency_ms_p99"].as_array().unwrap().len(), 100);
    assert_eq!(all["spread"]["weight_applied"]["middle"].as_array().unwrap().len(), 100);
    let endpoints = all["endpoints"].as_array().unwrap();
    assert_eq!(endpoints.len(), 10, "the two late ones are not there yet");
    let sum: f64 = endpoints.iter().map(|endpoint| endpoint["weight_applied"][99].as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-3, "applied weights sum to {sum}");
    assert_eq!(all["guard"][0]["reason"], "StepLimit");

    let name = &feed.names()[3];
    let since = START_MS + 90 * TICK_MS;
    let query = format!("/api/v1/history?backend=shop%2Fcheckout%3A8080&endpoint={name}&since={since}&points=5");
    let part = server.get(&query).await.json();
    assert_eq!(part["at_ms"], json!([since + 1000, since + 2000, since + 3000, since + 4000, since + 5000]));
    assert_eq!(part["endpoints"].as_array().unwrap().len(), 1);
    assert_eq!(part["endpoints"][0]["name"], **name);
}

#[tokio::test]
async fn bad_requests_name_the_parameter_and_what_is_allowed() {
    let (server, _) = told(2).await;
    let history = "/api/v1/history";
    check(
        &server,
        &format!("{history}?since=yesterday"),
        400,
        &["\"parameter\":\"since\"", "milliseconds since the Unix epoch"],
    )
    .await;
    check(&server, &format!("{history}?limit=201"), 400, &["\"parameter\":\"limit\"", "a whole number from 0 to 200"])
        .await;
    check(&server, &format!("{history}?points=1"), 400, &["\"parameter\":\"points\"", "from 2 to 1500"]).await;
    check(
        &server,
        &format!("{history}?backend=nope"),
        404,
        &["\"parameter\":\"backend\"", "the backends are shop/checkout:8080"],
    )
    .await;
    check(
        &server,
        &format!("{history}?endpoint=nope"),
        404,
        &["\"parameter\":\"endpoint\"", "had no endpoint of that name"],
    )
    .await;
    check(
        &server,
        &format!("{history}?bakend=x"),
        400,
        &["\"parameter\":\"bakend\"", "backend, endpoint, since, limit, points"],
    )
    .await;
    check(&server, "/api/v1/stream?backend=nope", 404, &["\"parameter\":\"backend\"", "shop/checkout:8080"]).await;
    check(&server, "/api/v1/stream?since=1", 400, &["\"parameter\":\"since\"", "each of backend is allowed once"])
        .await;
    check(&server, "/api/v1/view?backend=x", 400, &["no parameters are allowed here"]).await;
    check(&server, "/api/v2/view", 404, &["there is nothing at", "/api/v2/view", "/api/v1/view"]).await;
    check(&server, "/assets/../Cargo.toml", 404, &["there is nothing at"]).await;
    let post = server.send(Method::POST, "/api/v1/view", None).await;
    assert_eq!((post.status, post.headers["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    assert!(post.json()["error"]["message"].as_str().unwrap().contains("POST is not allowed"));
}

#[tokio::test]
async fn before_the_first_tick_history_says_that_there_is_no_backend_yet() {
    let server = Server::start().await;
    check(&server, "/api/v1/history", 404, &["there is no backend yet"]).await;
    check(&server, "/api/v1/view", 200, &["\"backends\":[]"]).await;
    let (name, tick) = {
        let mut events = server.stream("/api/v1/stream").await;
        events.next().await.unwrap();
        events.next().await.unwrap()
    };
    assert_eq!((name.as_str(), &tick["backend"]), ("tick", &Value::Null));
}

#[tokio::test]
async fn every_reason_is_explained() {
    let (server, _) = told(1).await;
    let reasons = server.get("/api/v1/reasons").await.json();
    let names: Vec<_> = reasons.as_array().unwrap().iter().map(|reason| reason["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 16);
    assert!(names.contains(&"WorseThanFallback"));
    assert!(reasons.as_array().unwrap().iter().all(|reason| reason["meaning"].as_str().unwrap().len() > 40));
}

#[tokio::test]
async fn the_stream_sends_names_once_and_numbers_every_tick() {
    let (server, mut feed) = told(719).await;
    let mut events = server.stream(&format!("/api/v1/stream?backend={BACKEND}")).await;
    let (kind, names) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), names["name"].as_array().unwrap().len()), ("endpoints", 10));
    let (kind, tick) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), &tick["roster"]), ("tick", &names["roster"]));
    let columns = &tick["backend"]["endpoints"];
    for column in ["state", "weight_baseline", "weight_applied", "in_flight", "latency_ms_p99", "error", "reasons"] {
        assert_eq!(columns[column].as_array().unwrap().len(), 10, "{column}");
    }
    assert_eq!(columns["scrape_errors"], json!([[7, "GET /metrics: 404 Not Found"]]));

    // The late pods come at tick 720: their names come before their numbers.
    server.publish(feed.view()).await;
    let (kind, names) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), names["name"].as_array().unwrap().len()), ("endpoints", 12));
    let (_, tick) = events.next().await.unwrap();
    assert_eq!(tick["backend"]["endpoints"]["state"].as_array().unwrap().len(), 12);
    server.publish(feed.view()).await;
    let (kind, next) = events.next().await.unwrap();
    assert_eq!((kind.as_str(), next["at_ms"].as_i64()), ("tick", tick["at_ms"].as_i64().map(|at_ms| at_ms + TICK_MS)));
}

#[tokio::test]
async fn streams_end_with_the_controller() {
    let (server, _) = told(2).await;
    let mut events = server.stream("/api/v1/stream").await;
    events.next().await.unwrap();
    events.next().await.unwrap();
    server.stop().await;
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn more_streams_than_allowed_are_told_to_come_back() {
    let (server, _) = told(2).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(server.stream("/api/v1/stream").await);
    }
    let refused = server.get("/api/v1/stream").await;
    assert_eq!((refused.status, refused.headers["retry-after"].to_str().unwrap()), (503, "5"));
    drop(open);
    for _ in 0..200 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        if server.open(Method::GET, "/api/v1/stream", None).await.status() == 200 {
            return;
        }
    }
    panic!("closed streams were not given back");
}

#[tokio::test]
async fn every_answer_carries_the_security_headers() {
    let (server, _) = told(1).await;
    for (path, host) in [
        ("/", None),
        ("/api/v1/view", None),
        ("/nothing", None),
        ("/assets/main.js", None),
        ("/", Some("evil.example")),
    ] {
        let answer = server.send(Method::GET, path, host).await;
        let header = |name: &str| answer.headers[name].to_str().unwrap();
        assert!(header("content-security-policy").starts_with("default-src 'self';"), "{path}");
        assert!(header("content-security-policy").contains("frame-ancestors 'none'"), "{path}");
        assert!(!header("content-security-policy").contains("unsafe"), "{path}");
        assert_eq!((header("x-content-type-options"), header("x-frame-options")), ("nosniff", "DENY"), "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
    }
}

#[tokio::test]
async fn foreign_hosts_are_refused_and_configured_ones_are_not() {
    let server = Server::start_for(Hosts::Named(vec!["trimtab.example.com".into()])).await;
    let port = server.address.port();
    for (host, status) in [
        (format!("localhost:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        ("trimtab.example.com".into(), 200),
        ("rebound.example".into(), 403),
        (format!("localhost.rebound.example:{port}"), 403),
    ] {
        let answer = server.send(Method::GET, "/api/v1/view", Some(&host)).await;
        assert_eq!(answer.status, status, "{host}");
        if status == 403 {
            assert!(answer.json()["error"]["message"].as_str().unwrap().contains(&host), "{}", answer.text);
        }
    }
}

#[tokio::test]
async fn the_page_needs_only_what_is_served_and_sets_no_markup() {
    let server = Server::start().await;
    let mut open = vec!["/".to_owned()];
    let mut seen = Vec::new();
    while let Some(path) = open.pop() {
        let answer = server.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = answer.text.replace("http://www.w3.org/2000/svg", "");
        for forbidden in [
            "http://",
            "https://",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=\"",
        ] {
            assert!(!text.contains(forbidden), "{path} contains {forbidden}");
        }
        let absolute = text.split('"').filter(|part| part.starts_with("/assets/")).map(str::to_owned);
        let imported =
            text.split("from './").skip(1).filter_map(|rest| Some(format!("/assets/{}", rest.split_once('\'')?.0)));
        let named: Vec<String> = absolute.chain(imported).collect();
        seen.push(path);
        open.extend(named.into_iter().filter(|path| !seen.contains(path)));
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 22, "{seen:?}");
}

#[tokio::test]
async fn five_thousand_endpoints_stay_small_on_the_wire() {
    let server = Server::start().await;
    let mut feed = Feed::new(5_000);
    server.publish_all(&mut feed, 3).await;
    let mut events = server.stream("/api/v1/stream").await;
    let (_, names) = events.next().await.unwrap();
    let (_, tick) = events.next().await.unwrap();
    let (names, tick, view) =
        (names.to_string().len(), tick.to_string().len(), server.get("/api/v1/view").await.text.len());
    println!("5,000 endpoints: names {names} bytes once, tick {tick} bytes, whole view {view} bytes");
    assert!(tick < 500_000, "{tick} bytes a tick");
    assert!(tick * 4 < view, "a tick of {tick} bytes is not much smaller than the view of {view}");
}
