//! The authority between proxies and controllers is replaced while they are connected.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{Timestamp, ToSpan, tz::TimeZone};
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use trimtab_controller::pki::authority::authority;
use trimtab_tests::http::eventually;
use trimtab_tests::load::Load;
use trimtab_tests::world::{PATIENCE, State, World};

/// Controllers look at their Secrets every 20 s.
const LOOKS: Duration = Duration::from_secs(90);

/// What kubelet does with a Secret that is a volume: its files follow it.
async fn mount(world: &World, folder: &Path) {
    for (name, bytes) in world.secret("trimtab", "trimtab-proxy-tls").await {
        let new = folder.join(format!("{name}.new"));
        std::fs::write(&new, bytes).expect("written");
        std::fs::rename(new, folder.join(name)).expect("renamed");
    }
}

async fn trusted(world: &World) -> usize {
    let secret = world.secret("trimtab", "trimtab-proxy-tls").await;
    String::from_utf8_lossy(&secret["ca.crt"]).matches("BEGIN CERTIFICATE").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_authority_is_replaced_under_load_and_proxies_are_connected_before_and_after() {
    let world = World::of_its_own("rotation").await;
    let address = world.gateway().await;
    world.service("app").await;
    let pod = world.pod(0).await;
    world.endpoints("app", &[(&pod, State::Ready)]).await;
    world.route("app", "app").await;
    let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
    // An authority with half a year to go.
    let made = today.saturating_sub(3470.days());
    let old = authority(made).expect("an authority");
    let secrets: Api<Secret> = Api::namespaced(world.admin.clone(), "trimtab");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "trimtab-ca", "annotations": {"trimtab.dev/issued": made.to_string()}},
        "stringData": {"tls.crt": old.certificate, "tls.key": old.key},
    });
    secrets.patch("trimtab-ca", &PatchParams::apply("test").force(), &Patch::Apply(&secret)).await.expect("stored");
    let date = async |annotation: &str, days: i32| {
        let day = today.saturating_sub(days.days()).to_string();
        let patch = json!({ "metadata": { "annotations": { annotation: day } } });
        secrets.patch("trimtab-ca", &PatchParams::default(), &Patch::Merge(&patch)).await.expect("patched");
    };

    let (controller, port) = world.controller_with("one", &["--tls-secrets"]);
    controller.wait_for("proxies connect to");
    assert_eq!(trusted(&world).await, 2, "the old one signs, and the next one is trusted already");
    let folder = tempfile::tempdir().expect("a folder");
    mount(&world, folder.path()).await;
    let file = |name: &str| folder.path().join(name).display().to_string();
    let tls = vec![
        format!("--tls-cert={}", file("tls.crt")),
        format!("--tls-key={}", file("tls.key")),
        format!("--tls-ca={}", file("ca.crt")),
    ];
    let first = world.proxy_with("https", &[port], &tls);
    world.ready(&first).await;
    let load = Load::start(address, 2);
    let issued_by_old = world.secret("trimtab", "trimtab-proxy-tls").await["tls.crt"].clone();

    // A week later, as far as the controller can tell.
    date("trimtab.dev/next-issued", 8).await;
    let current = || async { world.secret("trimtab", "trimtab-ca").await["tls.crt"].clone() };
    eventually("the new one signs", LOOKS, current, |found| *found != old.certificate.as_bytes()).await;
    let own = || async { world.secret("trimtab", "trimtab-proxy-tls").await["tls.crt"].clone() };
    eventually("proxies get a new certificate", LOOKS, own, |found| *found != issued_by_old).await;
    assert_eq!(trusted(&world).await, 2, "the old one is trusted for a while");
    tokio::time::sleep(Duration::from_secs(2)).await;
    // One whose files have not followed yet, and one whose files have, are both taken.
    let late = world.proxy_with("https", &[port], &tls);
    world.ready(&late).await;
    mount(&world, folder.path()).await;
    let next = world.proxy_with("https", &[port], &tls);
    world.ready(&next).await;

    // Another 91 days later.
    date("trimtab.dev/replaced", 92).await;
    eventually("the old one is trusted no more", LOOKS, || trusted(&world), |count| *count == 1).await;
    mount(&world, folder.path()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let last = world.proxy_with("https", &[port], &tls);
    world.ready(&last).await;
    // Those that were connected all the time still are, or are again.
    let view = || async {
        let dashboard = controller.address("dashboard");
        let view = trimtab_tests::http::Client::default().get(dashboard, "/api/v1/view").await.expect("a view").json();
        view["proxies"].as_array().map_or(0, |all| all.iter().filter(|one| one["in_sync"] == true).count())
    };
    eventually("four proxies are in sync", PATIENCE, view, |count| *count == 4).await;
    load.lost_nothing().await;
}
