//! Controllers that share the key of sessions by a Secret.

use std::net::SocketAddr;

use trimtab_tests::http::{Answer, Client, eventually};
use trimtab_tests::world::{PATIENCE, State, World, pod_of};

const POLICY: &str = "
apiVersion: trimtab.dev/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: p, namespace: NAMESPACE}
spec:
  targetRefs: [{name: app}]
  sessionPersistence: {sessionName: sid}
";

async fn ask(address: SocketAddr, cookie: &str) -> Answer {
    let request = http::Request::get(format!("http://{address}/")).header("cookie", cookie).body(Default::default());
    Client::default().send(request.expect("a request")).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_hold_when_another_controller_leads() {
    let world = World::new("sessions").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pods = [world.pod(1).await, world.pod(2).await, world.pod(3).await];
    let ready: Vec<_> = pods.iter().map(|pod| (pod, State::Ready)).collect();
    world.endpoints("app", &ready).await;
    world.route("app", "app").await;
    world.apply(POLICY).await;
    let (first, first_port) = world.controller_with("first", &["--session-key-secret"]);
    first.wait_for("proxies connect to");
    let stored = world.secret("trimtab", "trimtab-session-keys").await;
    let (second, second_port) = world.controller_with("second", &["--session-key-secret"]);
    second.wait_for("proxies connect to");
    assert_eq!(world.secret("trimtab", "trimtab-session-keys").await, stored, "there is one for both");
    let key = String::from_utf8(stored["keys"].clone()).expect("text");
    let proxy = world.proxy(&[second_port, first_port]);
    world.ready(&proxy).await;

    let begun = || async { ask(address, "a=b").await };
    eventually("sessions begin", PATIENCE, begun, |answer| answer.headers.contains_key("set-cookie")).await;
    let begun = begun().await;
    let cookie = begun.headers["set-cookie"].to_str().expect("text").split(';').next().expect("a cookie").to_owned();
    let pod = pod_of(&begun);
    let holds = async |when: &str| {
        for _ in 0..12 {
            let answer = ask(address, &cookie).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert_eq!((pod_of(&answer), answer.headers.get("set-cookie")), (pod, None), "{when}");
        }
    };
    holds("the first leads").await;
    first.signal("KILL");
    let said = first.end().text;
    let view = || async {
        let view = Client::default().get(second.address("dashboard"), "/api/v1/view").await.expect("a view").json();
        view["proxies"][0]["in_sync"] == true
    };
    eventually("the proxy is the second one's", PATIENCE, view, |in_sync| *in_sync).await;
    holds("the second leads").await;
    for text in [said, second.text(), proxy.text()] {
        assert!(!text.contains(key.trim()), "the key is logged: {text}");
    }
}
