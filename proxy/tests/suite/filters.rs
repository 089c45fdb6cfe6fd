//! Filters of rules and of backend references, on both paths: the same requests to a proxy with the fast path and to one without.

use http_body_util::BodyExt;
use trimtab_proxy::api::v1::{self, filter::Kind};

use crate::harness::{Backend, Proxy, Setup, eventually, proxy, text};

const MIRROR: &str = "test/mirror:80";

fn filter(kind: Kind) -> v1::Filter {
    v1::Filter { kind: Some(kind) }
}

fn headers(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> v1::HeaderModifier {
    let header = |(name, value): &(&str, &str)| v1::Header { name: (*name).into(), value: (*value).into() };
    v1::HeaderModifier {
        set: set.iter().map(header).collect(),
        add: add.iter().map(header).collect(),
        remove: remove.iter().map(|name| (*name).into()).collect(),
    }
}

/// A proxy for each path, and their backend, with one rule for `/api` that has these filters.
async fn with(filters: Vec<v1::Filter>, on_backend: Vec<v1::Filter>) -> (Backend, Vec<Proxy>) {
    let backend = Backend::new(|_| async {
        let mut answer = text("hello");
        answer.headers_mut().insert("x-old", "1".parse().unwrap());
        answer.headers_mut().insert("server", "endpoint".parse().unwrap());
        answer
    })
    .await;
    let mut proxies = Vec::new();
    for fast_path in [true, false] {
        let setup = Setup::to(&[backend.address]).fast_path(fast_path).rule(|rule| {
            let path = v1::PathMatch { kind: v1::path_match::Kind::Prefix.into(), value: "/api".into() };
            rule.matches = vec![v1::RouteMatch { path: Some(path), ..Default::default() }];
            rule.filters = filters.clone();
            rule.backends[0].filters = on_backend.clone();
        });
        proxies.push(setup.start().await);
    }
    (backend, proxies)
}

fn prefix(path: &str) -> Option<v1::PathRewrite> {
    Some(v1::PathRewrite { kind: Some(v1::path_rewrite::Kind::Prefix(path.into())) })
}

#[tokio::test]
async fn headers_are_changed_on_the_way_there_and_back_first_by_the_rule_then_by_the_backend() {
    let (backend, proxies) = with(
        vec![
            filter(Kind::RequestHeaders(headers(&[("x-set", "rule")], &[("x-add", "rule")], &["x-gone"]))),
            filter(Kind::ResponseHeaders(headers(&[("x-set", "rule")], &[], &["x-old"]))),
        ],
        vec![
            filter(Kind::RequestHeaders(headers(&[("x-set", "backend")], &[("x-add", "backend")], &["via"]))),
            filter(Kind::ResponseHeaders(headers(&[("server", "ours")], &[("x-set", "backend")], &[]))),
        ],
    )
    .await;
    for proxy in &proxies {
        let answer = proxy
            .send("GET /api HTTP/1.1\r\nhost: t\r\nx-add: client\r\nX-Gone: 1\r\nx-set: client\r\nconnection: close\r\n\r\n")
            .await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        let all = |name: &str| {
            let values = answer.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
            values.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            (all("x-set").as_str(), all("x-old").as_str(), all("server").as_str()),
            ("rule, backend", "", "ours")
        );
        let seen = backend.last_headers();
        let all = |name: &str| {
            let values = seen.get_all(name).iter().map(|value| value.to_str().unwrap());
            values.collect::<Vec<_>>().join(", ")
        };
        assert_eq!(all("x-set"), "backend");
        assert_eq!(all("x-add"), "client, rule, backend");
        assert_eq!((all("x-gone").as_str(), all("via").as_str()), ("", ""));
    }
}

#[tokio::test]
async fn host_and_path_are_rewritten_and_the_original_host_is_told() {
    let rewrite = v1::Rewrite { hostname: "inner.test".into(), path: prefix("/v2") };
    let (backend, proxies) = with(vec![filter(Kind::Rewrite(rewrite))], vec![]).await;
    for proxy in &proxies {
        let mut raw = proxy.raw().await;
        // Two on one connection: the second is read from what is left of the first.
        raw.write(
            "GET /api/x?q=1 HTTP/1.1\r\nhost: outer.test\r\n\r\nPOST /api HTTP/1.1\r\nhost: outer.test\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await;
        assert_eq!((raw.answer().await.status, raw.answer().await.status), (200, 200));
        let seen: Vec<_> = backend.seen.lock().unwrap().drain(..).collect();
        let targets: Vec<String> = seen.iter().map(|head| head.uri.to_string()).collect();
        assert_eq!(targets, ["/v2/x?q=1", "/v2"]);
        assert_eq!(seen[0].headers["host"], "inner.test");
        assert_eq!(seen[0].headers["x-forwarded-host"], "outer.test");
    }
}

#[tokio::test]
async fn a_redirect_is_answered_without_a_backend_and_the_connection_goes_on() {
    let redirect = v1::Redirect {
        scheme: "https".into(),
        hostname: "www.test".into(),
        path: prefix("/new"),
        status: 308,
        ..Default::default()
    };
    let (backend, proxies) = with(vec![filter(Kind::Redirect(redirect))], vec![]).await;
    for proxy in &proxies {
        let mut raw = proxy.raw().await;
        raw.write(
            "GET /api/x?q HTTP/1.1\r\nhost: t\r\n\r\nPOST /api HTTP/1.1\r\nhost: t\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await;
        for expected in ["https://www.test/new/x?q", "https://www.test/new"] {
            let answer = raw.answer().await;
            assert_eq!((answer.status, answer.header("location")), (308, Some(expected)));
            assert_eq!(answer.reason(), None, "a redirect is no failure");
        }
        let port = proxy.address().port();
        assert_eq!(backend.requests(), 0, "{port}");
    }
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_read_the_answer() {
    let cors = v1::Cors {
        allow_origins: vec!["https://*.a.test".into()],
        allow_methods: vec!["PUT".into()],
        expose_headers: vec!["x-old".into()],
        max_age_s: Some(60),
        ..Default::default()
    };
    let (backend, proxies) = with(vec![filter(Kind::Cors(cors))], vec![]).await;
    for proxy in &proxies {
        let preflight = |origin: &str| {
            format!(
                "OPTIONS /api HTTP/1.1\r\nhost: t\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n"
            )
        };
        let answer = proxy.send(&preflight("https://x.a.test")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, ""));
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://x.a.test"));
        assert_eq!(answer.header("access-control-allow-methods"), Some("PUT"));
        assert_eq!(answer.header("access-control-max-age"), Some("60"));
        let answer = proxy.send(&preflight("https://evil.test")).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
        assert_eq!(backend.requests(), 0);
        let get =
            |origin: &str| format!("GET /api HTTP/1.1\r\nhost: t\r\norigin: {origin}\r\nconnection: close\r\n\r\n");
        let answer = proxy.send(&get("https://x.a.test")).await;
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://x.a.test"));
        assert_eq!(answer.header("access-control-expose-headers"), Some("x-old"));
        assert_eq!((answer.header("vary"), answer.body.as_str()), (Some("origin"), "hello"));
        let answer = proxy.send(&get("https://evil.test")).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
        backend.seen.lock().unwrap().clear();
    }
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_read_what_the_proxy_answers_by_itself() {
    for fast_path in [true, false] {
        let cors = v1::Cors { allow_origins: vec!["https://a.test".into()], ..Default::default() };
        let limited = |backend: &mut v1::Backend| backend.max_request_body_bytes = Some(3);
        let with_cors = |rule: &mut v1::RouteRule| rule.filters = vec![filter(Kind::Cors(cors.clone()))];
        let backend = Backend::new(|request| async move {
            let _ = request.into_body().collect().await;
            text("hello")
        })
        .await;
        // Before and after the request was let in, and where nobody is there to answer.
        let proxy = Setup::to(&[backend.address]).fast_path(fast_path).backend(limited).rule(with_cors).start().await;
        let nobody = Setup::to(&[]).fast_path(fast_path).rule(with_cors).start().await;
        let told = "POST / HTTP/1.1\r\nhost: t\r\norigin: https://ORIGIN\r\ncontent-length: 9\r\n\r\ntoo large";
        let chunked = "POST / HTTP/1.1\r\nhost: t\r\norigin: https://ORIGIN\r\ntransfer-encoding: chunked\r\n\r\n9\r\ntoo large\r\n0\r\n\r\n";
        let get = "GET / HTTP/1.1\r\nhost: t\r\norigin: https://ORIGIN\r\n\r\n";
        for (proxy, request, status) in [(&proxy, told, 413), (&proxy, chunked, 413), (&nobody, get, 503)] {
            let answer = proxy.send(&request.replace("ORIGIN", "a.test")).await;
            assert_eq!((answer.status, answer.reason().is_some()), (status, true), "{request:?}");
            assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.test"), "{request:?}");
            let answer = proxy.send(&request.replace("ORIGIN", "b.test")).await;
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (status, None), "{request:?}");
        }
    }
}

#[tokio::test]
async fn a_mirror_gets_a_copy_and_its_failures_touch_nobody() {
    let mirror = Backend::new(|request| async move {
        let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let mut answer = text(format!("copy of {} bytes", body.len()));
        *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        answer
    })
    .await;
    let backend =
        Backend::new(|request| async move { text(request.into_body().collect().await.unwrap().to_bytes()) }).await;
    let mut setup = Setup::to(&[backend.address]);
    setup.backends.push(proxy::backend(MIRROR, &[mirror.address]));
    let all = v1::Mirror { backend: MIRROR.into(), numerator: 1, denominator: 1 };
    setup.route.rules[0].filters = vec![
        filter(Kind::RequestHeaders(headers(&[("x-set", "1")], &[], &[]))),
        filter(Kind::Mirror(all)),
        filter(Kind::Mirror(v1::Mirror { backend: "test/none:80".into(), numerator: 1, denominator: 1 })),
    ];
    let proxy = setup.start().await;
    let mut raw = proxy.raw().await;
    for number in 1..=5 {
        raw.write(format!(
            "POST /{number} HTTP/1.1\r\nhost: t\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        ))
        .await;
        assert_eq!(raw.answer().await.body, "hello");
        eventually("the copy comes", || async { mirror.requests() == number }).await;
        let seen = mirror.seen.lock().unwrap().last().unwrap().clone();
        assert_eq!((seen.uri.path(), &seen.headers["x-set"]), (format!("/{number}").as_str(), &"1".parse().unwrap()));
    }
    // Nobody listens there any more: the original goes on.
    drop(mirror);
    raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_mirror_gets_its_share() {
    let (mirror, backend) = (Backend::saying("copy").await, Backend::saying("original").await);
    let mut setup = Setup::to(&[backend.address]);
    setup.workers = 1;
    setup.backends.push(proxy::backend(MIRROR, &[mirror.address]));
    let quarter = v1::Mirror { backend: MIRROR.into(), numerator: 1, denominator: 4 };
    setup.route.rules[0].filters = vec![filter(Kind::Mirror(quarter))];
    let proxy = setup.start().await;
    let mut raw = proxy.raw().await;
    for _ in 0..400 {
        raw.write("GET / HTTP/1.1\r\nhost: t\r\n\r\n").await;
        assert_eq!(raw.answer().await.body, "original");
    }
    let copies = || mirror.requests();
    eventually("all copies came", || async { (60..=140).contains(&copies()) }).await;
}

#[tokio::test]
async fn a_filter_that_would_break_messages_is_refused_with_its_field() {
    let backend = Backend::saying("").await;
    let proxy = Setup::to(&[backend.address]).start().await;
    let mut route =
        v1::HttpRoute { name: "test/bad".into(), listeners: vec![proxy::LISTENER.into()], ..Default::default() };
    let bad = filter(Kind::RequestHeaders(headers(&[("Transfer-Encoding", "chunked")], &[], &[])));
    route.rules = vec![v1::RouteRule { filters: vec![bad], ..proxy::rule(proxy::BACKEND) }];
    proxy.controller.set_route(&route);
    eventually("it is refused", || async { !proxy.controller.refusals().is_empty() }).await;
    let refusals = proxy.controller.refusals().join("\n");
    assert!(refusals.contains("rules[0].filters[0].request_headers.set[0].name"), "{refusals}");
    assert_eq!(proxy.get("/").await.status, 200, "the last good routes stand");
}
