//! HTTPRoutes: weights, and what filters do to requests and answers.

use std::net::SocketAddr;

use trimtab_tests::echo::Echo;
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::world::{PATIENCE, State, World, pod_of};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_between_backends_are_kept_within_5_percent() {
    let world = World::new("weights").await;
    let address = world.gateway().await;
    let pods = [world.pod(0).await, world.pod(1).await, world.pod(2).await];
    for (index, name) in ["a", "b", "none"].into_iter().enumerate() {
        world.service(name).await;
        world.endpoints(name, &[(&pods[index], State::Ready)]).await;
    }
    world
        .apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules:
  - backendRefs:
    - {name: a, port: 80, weight: 70}
    - {name: b, port: 80, weight: 30}
    - {name: none, port: 80, weight: 0}
",
        )
        .await;
    let (_controller, _proxy) = world.served(&[]).await;
    const REQUESTS: u32 = 3_000;
    let ask = async |client: Client| {
        let mut seen = [0_u32; 3];
        for _ in 0..REQUESTS / 6 {
            let answer = client.get(address, "/").await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            seen[pod_of(&answer) as usize] += 1;
        }
        seen
    };
    let all = futures_util::future::join_all((0..6).map(|_| ask(Client::default()))).await;
    let sum = |index: usize| all.iter().map(|seen| seen[index]).sum::<u32>();
    let (a, b, none) = (sum(0), sum(1), sum(2));
    println!("weights 70, 30, 0 became {a}, {b}, {none} of {REQUESTS} requests");
    assert_eq!((a + b, none), (REQUESTS, 0));
    let share = f64::from(a) / f64::from(REQUESTS);
    assert!((0.665..=0.735).contains(&share), "{share}");
}

const FILTERS: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: filters, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules:
  - matches: [{path: {value: /headers}}]
    filters:
    - type: RequestHeaderModifier
      requestHeaderModifier: {set: [{name: x-set, value: ours}], add: [{name: x-add, value: more}], remove: [x-secret]}
    - type: ResponseHeaderModifier
      responseHeaderModifier: {set: [{name: x-endpoint, value: hidden}], add: [{name: x-more, value: 'yes'}]}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /old}}]
    filters:
    - type: RequestRedirect
      requestRedirect: {scheme: https, hostname: new.test, port: 8443, statusCode: 301, path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}
  - matches: [{path: {value: /api}}]
    filters:
    - type: URLRewrite
      urlRewrite: {hostname: inside.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /v2}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /mirror}}]
    filters:
    - type: RequestMirror
      requestMirror: {backendRef: {name: two, port: 80}}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /cors}}]
    filters:
    - type: CORS
      cors: {allowOrigins: ['https://app.test'], allowMethods: [GET], maxAge: 60}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /slow}}]
    timeouts: {request: 200ms}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /slow-backend}}]
    timeouts: {backendRequest: 200ms}
    backendRefs: [{name: one, port: 80}]
  - matches: [{path: {value: /match}, method: POST, headers: [{name: x-kind, value: blue}], queryParams: [{name: q, value: '1'}]}]
    backendRefs: [{name: two, port: 80}]
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_matches_do_to_requests_what_the_route_says() {
    let world = World::new("filters").await;
    let address = world.gateway().await;
    let (one, two) = (
        Echo::start("one", SocketAddr::new(world.host, 0)).await,
        Echo::start("two", SocketAddr::new(world.host, 0)).await,
    );
    for (name, echo) in [("one", &one), ("two", &two)] {
        world.service(name).await;
        world.endpoint_at(name, 0, echo.address(), State::Ready).await;
    }
    world.apply(FILTERS).await;
    let (_controller, _proxy) = world.served(&[]).await;
    world.route_says("filters", "Accepted", "True Accepted").await;
    world.route_says("filters", "ResolvedRefs", "True ResolvedRefs").await;
    let client = Client::default();
    let send = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut request = http::Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send(request.body(Default::default()).expect("a request")).await.expect("an answer")
    };
    let header = |answer: &trimtab_tests::http::Answer, name: &str| {
        answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned()
    };

    let answer = send("GET", "/headers", &[("x-set", "theirs"), ("x-add", "first"), ("x-secret", "s")]).await;
    let seen = answer.json()["headers"].clone();
    assert_eq!(seen["x-set"], "ours");
    assert!(seen["x-add"].as_str().is_some_and(|value| value.ends_with("more")), "{seen}");
    assert!(seen["x-secret"].is_null(), "{seen}");
    assert_eq!((header(&answer, "x-endpoint"), header(&answer, "x-more")), ("hidden".to_owned(), "yes".to_owned()));

    let answer = send("GET", "/old/page?x=1", &[]).await;
    assert_eq!(answer.status, 301);
    assert_eq!(header(&answer, "location"), "https://new.test:8443/new/page?x=1");

    let seen = send("GET", "/api/users?x=1", &[]).await.json();
    assert_eq!((&seen["path"], &seen["headers"]["host"]), (&"/v2/users?x=1".into(), &"inside.test".into()));

    let before = two.requests();
    assert_eq!(send("GET", "/mirror", &[]).await.json()["name"], "one");
    eventually("the other one has a copy", PATIENCE, || async { two.requests() }, |count| *count == before + 1).await;

    let preflight = [("origin", "https://app.test"), ("access-control-request-method", "GET")];
    let answer = send("OPTIONS", "/cors", &preflight).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), "https://app.test");
    assert_eq!(header(&answer, "access-control-max-age"), "60");
    let answer = send("GET", "/cors", &[("origin", "https://evil.test")]).await;
    assert_eq!(header(&answer, "access-control-allow-origin"), "-");

    assert_eq!(send("GET", "/slow", &[]).await.status, 504);
    assert_eq!(send("GET", "/slow-backend", &[]).await.status, 504);

    let matching = [("x-kind", "blue")];
    assert_eq!(send("POST", "/match?q=1", &matching).await.json()["name"], "two");
    assert_eq!(send("GET", "/match?q=1", &matching).await.status, 404);
    assert_eq!(send("POST", "/match?q=2", &matching).await.status, 404);
    assert_eq!(send("POST", "/match?q=1", &[]).await.status, 404);
}
