//! Records with the real controller and reads the files with the tool that people will use.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trimtab_controller::gateway::{BackendSpec, Config, EndpointSpec, GuardrailSettings};
use trimtab_controller::policy::Algorithm;
use trimtab_controller::recording::RecordingOptions;
use trimtab_controller::{Controller, ControllerOptions};
use trimtab_model::decision::Mode;
use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;

fn config() -> Config {
    let endpoint = |index: u64| EndpointSpec {
        key: EndpointKey(index),
        name: format!("pod-{index}"),
        address: format!("10.0.0.{index}:80"),
        ready: true,
        draining: false,
        zone: None,
        scrape_url: None,
        ready_since_ms: None,
        restarts: None,
    };
    let backend = BackendSpec {
        resource: v1::Backend { name: "shop/cart:80".into(), ..Default::default() },
        endpoints: (1..=4).map(endpoint).map(Arc::new).collect(),
        algorithm: Algorithm::Trimtab,
        mode: Mode::Active,
        model: None,
        guardrails: GuardrailSettings::default(),
        scrape: None,
        replicas: None,
    };
    Config { backends: vec![Arc::new(backend)], ..Default::default() }
}

#[tokio::test]
async fn pyarrow_reads_what_the_controller_records() {
    let folder = tempfile::tempdir().unwrap();
    let (_config, followed) = watch::channel(Arc::new(config()));
    let shutdown = CancellationToken::new();
    let options = ControllerOptions {
        tick_interval: Duration::from_millis(20),
        recording: Some(RecordingOptions::new(folder.path().to_str().unwrap())),
        ..ControllerOptions::new(followed, shutdown.clone())
    };
    let controller = Controller::start(options).await.unwrap();
    let mut view = controller.view();
    view.wait_for(|view| view.backends.first().is_some_and(|backend| backend.tick >= 10)).await.unwrap();
    shutdown.cancel();
    controller.stopped().await.unwrap();
    let recorded = view.borrow().recording.clone().unwrap();
    assert_eq!(recorded.rows_dropped, 0, "{recorded:?}");

    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/read_recording.py");
    let output = Command::new("python3").arg(script).arg(folder.path()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => return println!("SKIPPED: python3 cannot be run: {error}"),
    };
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(77) {
        return println!("SKIPPED: {said}");
    }
    assert!(output.status.success(), "{said}{complained}");
    let rows: u64 = said.split_whitespace().next().and_then(|rows| rows.parse().ok()).unwrap();
    assert!(rows >= 40 && rows.is_multiple_of(4), "{said}");
}
