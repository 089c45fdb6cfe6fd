//! Kinds of requests: told to the controller, classed as it says, shown to people.

use serde_json::Value;
use trimtab_proxy::{api, api::v1, class::identity};

use crate::harness::{Backend, Proxy, Raw, Setup, eventually, proxy::BACKEND};

fn adaptive(backend: &mut v1::Backend) {
    backend.algorithm = v1::Algorithm::Adaptive.into();
    backend.classes = Some(v1::RequestClasses { header: "x-request-class".into(), ..Default::default() });
}

/// A table of these classes, by name and cost.
fn table(generation: u64, classes: &[(&str, f32)]) -> v1::ClassTable {
    let class = |(&(name, cost_ms), number): (&(&str, f32), u32)| v1::ClassCost {
        number,
        key: identity::key_of(name).0,
        name: name.to_owned(),
        cost_ms,
        share: 0.25,
        priority: 0.0,
    };
    v1::ClassTable {
        backend: BACKEND.into(),
        generation,
        classes: classes.iter().zip(1..).map(class).collect(),
        other_cost_ms: 1.0,
        ..Default::default()
    }
}

pub async fn admin(proxy: &Proxy, path: &str) -> String {
    let mut raw = Raw::connect(proxy.admin_address()).await;
    raw.write(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
    raw.answer().await.body
}

async fn classes(proxy: &Proxy) -> Vec<Value> {
    let config: Value = serde_json::from_str(&admin(proxy, "/config").await).unwrap();
    config["backends"][0]["classes"].as_array().unwrap().clone()
}

async fn classed(proxy: &Proxy, count: usize) {
    eventually("the table is acknowledged", || async { proxy.controller.acknowledged(api::CLASS_TABLE_TYPE) == count })
        .await;
}

#[tokio::test]
async fn kinds_of_requests_are_found_and_told_with_folded_names() {
    let backend = Backend::saying("x").await;
    let proxy = Setup::to(&[backend.address]).backend(adaptive).start().await;
    for id in 0..20 {
        proxy.get(&format!("/users/{}?q={id}", 1_000 + id)).await;
        proxy.send("GET /a HTTP/1.1\r\nhost: t\r\nx-request-class: report\r\nconnection: close\r\n\r\n").await;
    }
    let names = || {
        let loads = proxy.controller.loads();
        let found = loads.iter().rev().find_map(|load| load.backends.first()?.candidates.clone());
        let mut names: Vec<String> = found.unwrap_or_default().top.into_iter().map(|one| one.name).collect();
        names.sort();
        names
    };
    eventually("both kinds are told", || async { names() == ["GET /users/{}", "x-request-class: report"] }).await;
}

#[tokio::test]
async fn requests_are_classed_as_the_controller_says_and_shown_as_such() {
    let backend = Backend::saying("x").await;
    let setup = Setup::to(&[backend.address]).backend(adaptive).with_admin();
    let generation = setup.backends[0].generation;
    let proxy = setup.start().await;
    assert_eq!(classes(&proxy).await.len(), 0);
    proxy.controller.set_classes(&table(generation + 1, &[("GET /old", 1.0)]));
    classed(&proxy, 1).await;
    assert_eq!(classes(&proxy).await.len(), 0, "it is about other endpoints");

    proxy.controller.set_classes(&table(generation, &[("GET /users/{}", 4.0), ("GET /report", 400.0)]));
    classed(&proxy, 2).await;
    let shown = classes(&proxy).await;
    let names: Vec<&str> = shown.iter().filter_map(|class| class["name"].as_str()).collect();
    assert_eq!(names, ["others", "GET /users/{}", "GET /report"]);
    assert!((shown[2]["cost_ms"].as_f64().unwrap() - 400.0).abs() < 0.1, "{shown:?}");

    for target in ["/users/12", "/users/13", "/report", "/else"] {
        proxy.get(target).await;
    }
    let answers = || {
        let loads = proxy.controller.loads();
        let classes = loads.iter().flat_map(|load| &load.backends).flat_map(|load| &load.endpoints);
        let classes: Vec<&v1::ClassLoad> = classes.flat_map(|endpoint| &endpoint.classes).collect();
        let count =
            |key: u64| classes.iter().filter(|class| class.key == key).map(|class| class.successes).sum::<u32>();
        [identity::key_of("GET /users/{}").0, identity::key_of("GET /report").0, 0].map(count)
    };
    eventually("answers are told by class", || async { answers() == [2, 1, 1] }).await;
    let metrics = admin(&proxy, "/metrics").await;
    let cost = format!("trimtab_proxy_class_cost_seconds{{backend=\"{BACKEND}\",class=\"GET /report\"}} 0.4");
    assert!(metrics.contains(&cost), "{metrics}");
}

#[tokio::test]
async fn a_class_table_that_does_not_hold_is_refused_by_its_field() {
    let backend = Backend::saying("x").await;
    let setup = Setup::to(&[backend.address]).backend(adaptive);
    let generation = setup.backends[0].generation;
    let proxy = setup.start().await;
    let mut wrong = table(generation, &[("GET /a", 1.0)]);
    wrong.classes[0].cost_ms = 0.0;
    proxy.controller.set_classes(&wrong);
    let refused = |part: &'static str| {
        let refusals = proxy.controller.refusals();
        async move { refusals.iter().any(|refusal| refusal.contains(part)) }
    };
    eventually("its cost is refused", || refused("ClassTable test/web:80: classes[0].cost_ms: 0 is not")).await;
    proxy.controller.set_classes(&v1::ClassTable { factors: vec![1.0; 7], ..table(generation, &[("GET /a", 1.0)]) });
    eventually("its length is refused", || refused("ClassTable test/web:80: factors:")).await;
    assert_eq!(proxy.get("/").await.status, 200);
}

#[tokio::test]
async fn baselines_and_backends_with_classes_off_tell_nothing_apart() {
    let backend = Backend::saying("x").await;
    for (algorithm, enabled) in [(v1::Algorithm::RoundRobin, true), (v1::Algorithm::Adaptive, false)] {
        let set = |backend: &mut v1::Backend| {
            backend.algorithm = algorithm.into();
            backend.classes = Some(v1::RequestClasses { enabled: Some(enabled), ..Default::default() });
        };
        let proxy = Setup::to(&[backend.address]).backend(set).start().await;
        for _ in 0..20 {
            proxy.get("/a").await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        let loads = proxy.controller.loads();
        assert!(loads.iter().flat_map(|load| &load.backends).all(|load| load.candidates.is_none()), "{algorithm:?}");
    }
}
