//! Trimtab in a real cluster: objects through the API server, controllers and proxies as processes with ServiceAccounts' tokens.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use trimtab_tests::http::{Client, eventually};
use trimtab_tests::load::Load;
use trimtab_tests::world::{PATIENCE, State, World, brief, condition, metric, pod_of, status};

const GATEWAY_API: (&str, &str) = ("gateway.networking.k8s.io", "v1");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_a_route_and_a_service_are_served_and_their_statuses_say_so_once() {
    let world = World::new("serves").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(1).await, world.pod(2).await];
    world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
    world.route("app", "app").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    // Many at once, and again if need be: a pod that has not answered yet is taken for slow, and the other may be quick enough for all.
    let mut seen = [0_u32; 3];
    for _ in 0..10 {
        let answers =
            futures_util::future::join_all((0..60).map(async |_| Client::default().get(address, "/").await)).await;
        for answer in answers {
            let answer = answer.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            seen[pod_of(&answer) as usize] += 1;
        }
        if seen[1] > 5 && seen[2] > 5 {
            break;
        }
    }
    assert!(seen[1] > 5 && seen[2] > 5, "both pods are used: {seen:?}");

    let accepted = || async { world.route_conditions("app").await };
    eventually("the route is accepted", PATIENCE, accepted, |conditions| {
        brief(conditions, "Accepted") == "True Accepted" && brief(conditions, "ResolvedRefs") == "True ResolvedRefs"
    })
    .await;
    let gateway = world.status(GATEWAY_API.0, GATEWAY_API.1, "Gateway", "g").await;
    assert_eq!(brief(&gateway["conditions"], "Accepted"), "True Accepted");
    assert_eq!(brief(&gateway["conditions"], "Programmed"), "True Programmed");
    assert_eq!(condition(&gateway["conditions"], "Accepted")["observedGeneration"], 1);
    assert_eq!(gateway["addresses"][0]["value"], "127.0.0.1");
    let listener = &gateway["listeners"][0];
    assert_eq!((&listener["name"], &listener["attachedRoutes"]), (&"http".into(), &1.into()));
    assert_eq!(listener["supportedKinds"][0]["kind"], "HTTPRoute");
    assert_eq!(brief(&listener["conditions"], "Conflicted"), "False NoConflicts");
    let class = world.status(GATEWAY_API.0, GATEWAY_API.1, "GatewayClass", "trimtab").await;
    assert_eq!(brief(&class["conditions"], "Accepted"), "True Accepted");
    let features: Vec<&str> =
        class["supportedFeatures"].as_array().expect("a list").iter().filter_map(|one| one["name"].as_str()).collect();
    assert!(features.contains(&"HTTPRoute") && features.is_sorted(), "{features:?}");

    // Nothing changes any more, so nothing is written, although endpoints come and go.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let writes = metric(&controller, "trimtab_controller_status_writes_total").await;
    // The class is everybody's: another test's controller may have written that one.
    assert!(writes >= 2.0, "{writes}");
    let versions = || async {
        let route = world.status(GATEWAY_API.0, GATEWAY_API.1, "HTTPRoute", "app").await;
        let gateway = world.status(GATEWAY_API.0, GATEWAY_API.1, "Gateway", "g").await;
        (route["resourceVersion"].clone(), gateway["resourceVersion"].clone())
    };
    let before = versions().await;
    world.endpoint("app", 1, &pods[1], State::Unready).await;
    world.endpoint("app", 1, &pods[1], State::Ready).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(metric(&controller, "trimtab_controller_status_writes_total").await, writes);
    assert_eq!(versions().await, before);
    assert_eq!(metric(&controller, "trimtab_controller_status_write_failures_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_not_ready_any_more_gets_no_new_request_within_200_ms() {
    let world = World::new("unready").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(0).await, world.pod(1).await];
    world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
    world.route("app", "app").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxies = [world.proxy(&[port]), world.proxy(&[port])];
    for proxy in &proxies {
        world.ready(proxy).await;
    }
    // Connections of their own, so that both proxies, which share the port, are asked.
    let ask = || async {
        let answer = Client::default().get(address, "/").await.expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
        pod_of(&answer)
    };
    let mut took_ms = Vec::new();
    for round in 0..12 {
        let state = if round % 2 == 0 { State::Unready } else { State::Terminating };
        let both = || async {
            let mut seen = [false; 2];
            for _ in 0..20 {
                seen[ask().await as usize] = true;
            }
            seen
        };
        eventually("both pods are used", PATIENCE, both, |seen| *seen == [true, true]).await;
        world.endpoint("app", 1, &pods[1], state).await;
        // From here on the API server has told everybody who watches.
        let told = Instant::now();
        let mut last = Duration::ZERO;
        while told.elapsed() < Duration::from_millis(600) {
            let sent = told.elapsed();
            if ask().await == 1 {
                last = sent;
            }
        }
        took_ms.push(last.as_secs_f64() * 1e3);
        world.endpoint("app", 1, &pods[1], State::Ready).await;
    }
    took_ms.sort_by(f64::total_cmp);
    println!("last new request after the change: {took_ms:.1?} ms");
    let worst = took_ms[took_ms.len() - 1];
    assert!(worst <= 200.0, "a request went to a pod {worst:.0} ms after it was not ready: {took_ms:.1?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn references_that_lead_nowhere_answer_500_and_say_why_and_work_once_they_lead_somewhere() {
    let world = World::new("references").await;
    let address = world.gateway().await;
    let pods = [world.pod(0).await, world.pod(1).await];
    world.service("app").await;
    world.endpoints("app", &[(&pods[0], State::Ready)]).await;
    world
        .apply(
            "
apiVersion: v1
kind: Namespace
metadata: {name: NAMESPACE-b}
---
apiVersion: v1
kind: Service
metadata: {name: theirs, namespace: NAMESPACE-b}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: gone, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{path: {value: /gone}}], backendRefs: [{name: gone, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: app, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{path: {value: /app}}], backendRefs: [{name: app, port: 80}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: foreign, namespace: NAMESPACE}
spec:
  parentRefs: [{name: g}]
  rules: [{matches: [{path: {value: /foreign}}], backendRefs: [{name: theirs, namespace: NAMESPACE-b, port: 80}]}]
",
        )
        .await;
    let (controller, port) = world.controller_with("one", &["--namespaces=references-b"]);
    controller.wait_for("proxies connect to");
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    assert_eq!(status(address, "/gone").await, Ok(500));
    assert_eq!(status(address, "/foreign").await, Ok(500));
    assert_eq!(status(address, "/app").await, Ok(200), "the others are served as before");
    let resolved = async |name: &str, wanted: &str| {
        let ask = || async { brief(&world.route_conditions(name).await, "ResolvedRefs") };
        eventually(name, PATIENCE, ask, |found| found == wanted).await;
    };
    resolved("gone", "False BackendNotFound").await;
    resolved("foreign", "False RefNotPermitted").await;
    resolved("app", "True ResolvedRefs").await;
    assert!(metric(&controller, "trimtab_controller_bad_conditions{kind=\"HTTPRoute\"").await >= 2.0);
    let told = || world.events();
    eventually("an Event says so", PATIENCE, told, |events| {
        events.contains(&"gone BackendNotFound".to_owned()) && events.contains(&"foreign RefNotPermitted".to_owned())
    })
    .await;

    // A grant and a Service later.
    world
        .apply(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: ReferenceGrant
metadata: {name: grant, namespace: NAMESPACE-b}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: NAMESPACE}]
  to: [{group: '', kind: Service}]
",
        )
        .await;
    world.service("gone").await;
    world.endpoints("gone", &[(&pods[1], State::Ready)]).await;
    resolved("gone", "True ResolvedRefs").await;
    resolved("foreign", "True ResolvedRefs").await;
    let ask = || status(address, "/gone");
    eventually("the new Service answers", PATIENCE, ask, |status| *status == Ok(200)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_routes_for_the_same_requests_the_older_one_gets_them_and_the_other_what_is_left() {
    let world = World::new("conflict").await;
    let address = world.gateway().await;
    let pods = [world.pod(0).await, world.pod(1).await];
    for (index, name) in ["first", "second"].into_iter().enumerate() {
        world.service(name).await;
        world.endpoints(name, &[(&pods[index], State::Ready)]).await;
    }
    world.route("z-older", "first").await;
    // Ages are told by the second.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.route("a-newer", "second").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxy = world.proxy(&[port]);
    world.ready(&proxy).await;
    for _ in 0..20 {
        let answer = Client::default().get(address, "/").await.expect("an answer");
        assert_eq!((answer.status, pod_of(&answer)), (200, 0));
    }
    for name in ["z-older", "a-newer"] {
        let ask = || async { brief(&world.route_conditions(name).await, "Accepted") };
        eventually(name, PATIENCE, ask, |found| found == "True Accepted").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_makes_no_sense_is_refused_by_the_api_server_and_of_two_the_older_is_in_force() {
    let world = World::new("policies").await;
    world.gateway().await;
    world.service("app").await;
    world.route("app", "app").await;
    let policy = |name: &str, spec: &str| {
        format!(
            "apiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: {name}, namespace: policies}}\nspec: \
             {{targetRefs: [{{name: app}}], {spec}}}"
        )
    };
    for (spec, why) in [
        ("loadBalancer: {type: RoundRobin}, adaptive: {mode: Active}", "needs an algorithm that heeds weights"),
        ("healthCheck: {passive: {baseEjectionTime: 10s, maxEjectionTime: 5s}}", "is below baseEjectionTime"),
        ("admissionControl: {minConcurrency: 9, maxConcurrency: 3}", "is below minConcurrency"),
        ("adaptive: {metrics: {interval: 50ms}}", "at least 100ms"),
        ("adaptive: {objective: {latency: 0s}}", "is 0"),
        ("adaptive: {guardrails: {shareMin: 2}}", "less than or equal to 1"),
        ("slowStart: {window: soon}", "should match"),
    ] {
        let refused = world.cluster.apply(&policy("bad", spec)).await.expect_err(spec);
        assert!(format!("{refused:#}").contains(why), "{spec}: {refused:#}");
    }
    let refused = world.cluster.apply(&policy("bad", "retry: {}").replace("[{name: app}]", "[]")).await;
    assert!(format!("{:#}", refused.expect_err("no target")).contains("at least 1 items"));

    world.apply(&policy("z-older", "loadBalancer: {}, retry: {numRetries: 2}")).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    world.apply(&policy("a-newer", "loadBalancer: {type: Random}")).await;
    world.apply(&policy("lost", "retry: {}").replace("{name: app}", "{name: gone}")).await;
    let (controller, _) = world.controller("one");
    controller.wait_for("proxies connect to");
    for (name, wanted) in
        [("z-older", "True Accepted"), ("a-newer", "False Conflicted"), ("lost", "False TargetNotFound")]
    {
        let ask = || async {
            let status = world.status("trimtab.dev", "v1alpha1", "BackendTrafficPolicy", name).await;
            brief(&status["ancestors"][0]["conditions"], "Accepted")
        };
        eventually(name, PATIENCE, ask, |found| found == wanted).await;
    }
    // The defaults of the schema are in the object: it says what it does.
    let policies = world.stored("trimtab.dev", "v1alpha1", "BackendTrafficPolicy", "z-older").await;
    assert_eq!(policies["spec"]["loadBalancer"]["type"], "Trimtab");
    let view = Client::default().get(controller.address("dashboard"), "/api/v1/view").await.expect("a view").json();
    assert_eq!(view["backends"][0]["algorithm"], "trimtab", "{view}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_move_again_within_3_s_of_a_leader_that_is_killed_and_no_request_is_lost() {
    let world = World::new("leader").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(0).await, world.pod(1).await];
    world.endpoints("app", &[(&pods[0], State::Ready), (&pods[1], State::Ready)]).await;
    world.route("app", "app").await;
    let (first, first_port) = world.controller("first");
    first.wait_for("this controller leads");
    let (second, second_port) = world.controller("second");
    second.wait_for("this controller follows");
    let proxy = world.proxy(&[second_port, first_port]);
    world.ready(&proxy).await;
    let load = Load::start(address, 4);
    let connected = |controller: SocketAddr| async move {
        let view = Client::default().get(controller, "/api/v1/view").await.map(|answer| answer.json());
        view.is_ok_and(|view| view["proxies"][0]["in_sync"] == true && view["backends"][0]["rps"].as_f64() > Some(0.0))
    };
    let (leader, follower) = (first.address("dashboard"), second.address("dashboard"));
    eventually("the leader has the proxy", PATIENCE, || connected(leader), |yes| *yes).await;
    assert!(!connected(follower).await);
    assert_eq!(metric(&first, "trimtab_controller_leading").await, 1.0);
    assert_eq!(metric(&second, "trimtab_controller_leading").await, 0.0);

    let before = load.answered();
    first.signal("KILL");
    let killed = Instant::now();
    // The new leader has heard of loads, has decided, and the proxy has what it decided.
    eventually("weights move again", PATIENCE, || connected(follower), |yes| *yes).await;
    let took = killed.elapsed();
    println!("weights move again {:.2} s after the leader was killed", took.as_secs_f64());
    assert!(load.answered() > before);
    load.lost_nothing().await;
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!(metric(&second, "trimtab_controller_leading").await, 1.0);

    // One that is told to stop gives the lease up: the next one need not wait.
    let (third, third_port) = world.controller("third");
    third.wait_for("this controller follows");
    let others = world.proxy(&[second_port, third_port]);
    world.ready(&others).await;
    second.signal("TERM");
    let stopped = Instant::now();
    third.wait_for("this controller leads");
    let took = stopped.elapsed();
    println!("the next one leads {:.2} s after the leader was stopped", took.as_secs_f64());
    assert!(took < Duration::from_millis(1500), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollout_of_the_whole_deployment_under_load_loses_nothing() {
    let world = World::new("rollout").await;
    let address = world.gateway().await;
    let deployment = |version: u32| {
        format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: app, namespace: NAMESPACE}}
spec:
  selector: {{app: app}}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: app, namespace: NAMESPACE}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: app}}}}
  template:
    metadata: {{labels: {{app: app, version: '{version}'}}}}
    spec:
      terminationGracePeriodSeconds: 10
      containers:
      - name: app
        image: pod
        # As most deployments do: serve on for a moment, for those who have not heard yet.
        args: [--linger-ms=1500, '--spec={{\"workers\": 16, \"service\": {{\"shape\": \"exponential\", \"ms_mean\": 10.0}}}}']
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: 9090}}, periodSeconds: 1, failureThreshold: 1}}
"
        )
    };
    world.apply(&deployment(1)).await;
    world.route("app", "app").await;
    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxies = [world.proxy(&[port]), world.proxy(&[port])];
    for proxy in &proxies {
        world.ready(proxy).await;
    }
    let view = || async {
        let view = Client::default().get(controller.address("dashboard"), "/api/v1/view").await;
        let endpoints = view.map(|view| view.json()["backends"][0]["endpoints"].clone()).unwrap_or_default();
        let active = endpoints.as_array().into_iter().flatten().filter(|one| one["state"] != "Draining");
        active.map(|one| one["key"].to_string()).collect::<Vec<_>>()
    };
    eventually("three pods are ready", 3 * PATIENCE, view, |active| active.len() == 3).await;
    let before = view().await;
    let load = Load::start(address, 6);
    let began = Instant::now();
    world.apply(&deployment(2)).await;
    eventually("all pods were replaced", 3 * PATIENCE, view, |active| {
        active.len() == 3 && active.iter().all(|key| !before.contains(key))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("{} requests in a rollout of {:.1} s", load.answered(), began.elapsed().as_secs_f64());
    assert!(load.answered() > 500, "{}", load.answered());
    load.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_and_controllers_speak_tls_with_certificates_from_secrets_that_the_controllers_keep() {
    let world = World::new("tls").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.route("app", "app").await;
    let (first, first_port) = world.controller_with("first", &["--tls-secrets"]);
    assert!(first.wait_for("proxies connect to").contains("https://"));
    let (second, second_port) = world.controller_with("second", &["--tls-secrets"]);
    second.wait_for("proxies connect to");

    // What a proxy's pod would mount.
    let folder = tempfile::tempdir().expect("a folder");
    let secret = world.secret("trimtab", "trimtab-proxy-tls").await;
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, &secret[name]).expect("written");
        path.display().to_string()
    };
    let tls = |cert: &str, key: &str, ca: &str| {
        vec![format!("--tls-cert={cert}"), format!("--tls-key={key}"), format!("--tls-ca={ca}")]
    };
    let own = tls(&file("tls.crt"), &file("tls.key"), &file("ca.crt"));
    let proxy = world.proxy_with("https", &[second_port, first_port], &own);
    world.ready(&proxy).await;
    assert_eq!(status(address, "/").await, Ok(200));

    // Who has no certificate of the authority gets nothing, and so does who does not speak TLS.
    let stranger = rcgen::generate_simple_self_signed(vec!["trimtab-proxy".to_owned()]).expect("a certificate");
    let path = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    };
    let theirs = tls(
        &path("stranger.crt", stranger.cert.pem()),
        &path("stranger.key", stranger.signing_key.serialize_pem()),
        &file("ca.crt"),
    );
    let strange = world.proxy_with("https", &[first_port], &theirs);
    let plain = world.proxy(&[first_port]);
    first.wait_for("a proxy's handshake failed");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for proxy in [&strange, &plain] {
        let admin = proxy.address("admin");
        assert_eq!(status(admin, "/readyz").await, Ok(503), "{}", proxy.text());
    }
}
