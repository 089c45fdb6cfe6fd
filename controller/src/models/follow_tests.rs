//! The task between a real folder and the loop.

use trimtab_model::checkpoint::SHIPPED;
use trimtab_model::rollout::{Stage, VersionManifest};

use super::super::store::VersionFiles;
use super::*;

const BACKEND: &str = "default/web:80";

struct World {
    folder: tempfile::TempDir,
    store: ModelStore,
    models: Models,
    _stop: tokio_util::sync::DropGuard,
}

async fn follow(folder: tempfile::TempDir) -> World {
    let url = folder.path().to_str().unwrap().to_owned();
    let store = ModelStore::open(&url).unwrap();
    let stop = CancellationToken::new();
    let options = ModelsOptions {
        url,
        id: "a".to_owned(),
        settings: RolloutSettings::default(),
        exploration_std: 0.0,
        audit: None,
    };
    let models = Models::start(options, stop.clone()).await.unwrap();
    World { folder, store, models, _stop: stop.drop_guard() }
}

impl World {
    async fn put(&self, version: &str) {
        let manifest = VersionManifest::new(version, 1, "a test");
        let files = VersionFiles { policy: SHIPPED.to_vec(), manifest, report: None };
        self.store.put_version(version, files).await.unwrap();
    }

    async fn propose(&self, version: &str) {
        let event = Event::new(1, "a test", None, What::Proposed { version: version.to_owned() });
        self.store.append(&event, Append { by_hand: true, replace: true }).await.unwrap();
    }

    async fn eventually(&self, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let start = crate::clock::now().instant;
        while !wanted(&self.models.seen()) {
            assert!(start.elapsed() < Duration::from_secs(10), "{what}: {:?}", self.models.seen());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn enter(stage: Stage) -> What {
    What::StageEntered { version: "v1".to_owned(), stage }
}

#[tokio::test]
async fn what_is_proposed_is_loaded_and_wishes_come_into_the_log_once() {
    let world = follow(tempfile::tempdir().unwrap()).await;
    world.put("v1").await;
    world.propose("v1").await;
    world.eventually("loaded", |seen| matches!(seen.policy("v1"), Some(Ok(policy)) if policy.version() == "v1")).await;

    for _ in 0..3 {
        world.models.wish(5, BACKEND, enter(Stage::Five), serde_json::json!({ "blocks": 7 }));
    }
    let entered = |seen: &Seen| seen.state_of(BACKEND).trial.is_some_and(|trial| trial.stage == Stage::Five);
    world.eventually("entered", entered).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let log = world.store.events().await.unwrap();
    assert_eq!(log.events.len(), 2, "{log:?}");
    assert_eq!((&*log.events[1].event.by, &log.events[1].event.evidence["blocks"]), ("controller a", &7.into()));
    assert_eq!(world.models.seen().problems().count(), 0);
}

#[tokio::test]
async fn another_controller_starts_with_what_is_in_force() {
    let world = follow(tempfile::tempdir().unwrap()).await;
    world.put("v1").await;
    world.propose("v1").await;
    for what in [enter(Stage::Five), enter(Stage::TwentyFive), enter(Stage::Half)] {
        world.store.append(&Event::new(1, "c", Some(BACKEND), what), Append::default()).await.unwrap();
    }
    let confirmed = What::Confirmed { version: "v1".to_owned() };
    world.store.append(&Event::new(1, "c", Some(BACKEND), confirmed), Append::default()).await.unwrap();
    let other = follow(world.folder).await;
    let seen = other.models.seen();
    assert_eq!(seen.state_of(BACKEND).in_force(), &Choice::Version("v1".to_owned()), "from the first tick on");
    assert!(matches!(seen.policy("v1"), Some(Ok(_))));
    // What was loaded stays when its file breaks.
    std::fs::write(other.folder.path().join("versions/v1/policy.safetensors"), "x").unwrap();
    other.propose("v1-again").await;
    other.eventually("the missing one is named", |seen| matches!(seen.policy("v1-again"), Some(Err(_)))).await;
    assert!(matches!(other.models.seen().policy("v1"), Some(Ok(_))));
}

#[tokio::test]
async fn a_file_that_was_of_no_use_is_read_again() {
    let world = follow(tempfile::tempdir().unwrap()).await;
    world.put("v1").await;
    let file = world.folder.path().join("versions/v1/policy.safetensors");
    std::fs::write(&file, "half").unwrap();
    let pinned = What::Pinned { to: Choice::Version("v1".to_owned()) };
    world.store.append(&Event::new(1, "a test", Some(BACKEND), pinned), Append::default()).await.unwrap();
    world.eventually("it is of no use", |seen| matches!(seen.policy("v1"), Some(Err(_)))).await;
    std::fs::write(&file, SHIPPED).unwrap();
    world.eventually("it is put right", |seen| matches!(seen.policy("v1"), Some(Ok(_)))).await;
}

#[tokio::test]
async fn a_store_that_is_gone_is_a_problem_until_it_is_back() {
    let world = follow(tempfile::tempdir().unwrap()).await;
    world.put("v1").await;
    world.propose("v1").await;
    world.eventually("loaded", |seen| matches!(seen.policy("v1"), Some(Ok(_)))).await;
    let (events, away) = (world.folder.path().join("events"), world.folder.path().join("away"));
    std::fs::rename(&events, &away).unwrap();
    let gone =
        |seen: &Seen| seen.problems().any(|problem| problem.contains("events/00000001.json was there and is gone"));
    world.eventually("it is gone", gone).await;
    assert!(matches!(world.models.seen().policy("v1"), Some(Ok(_))), "what is in force stays");
    // Nothing is written after a log that is not there.
    let pinned = What::Pinned { to: Choice::Fallback };
    world.models.wish(1, BACKEND, pinned, serde_json::Value::Null);
    let unwritten = |seen: &Seen| seen.problems().any(|problem| problem.contains("is not in the log yet"));
    world.eventually("it cannot be written", unwritten).await;
    assert!(!events.exists());
    std::fs::rename(&away, &events).unwrap();
    world.propose("v1-again").await;
    let goes_on = |seen: &Seen| seen.state_of(BACKEND).trial.is_some_and(|trial| trial.version == "v1-again");
    world.eventually("it is back and goes on", |seen| goes_on(seen) && !gone(seen)).await;
}

#[tokio::test]
async fn a_store_that_cannot_be_written_is_a_problem_until_it_can_be_again() {
    let world = follow(tempfile::tempdir().unwrap()).await;
    world.put("v1").await;
    // A file where the folder of events must be: unwritable for everybody.
    std::fs::write(world.folder.path().join("events"), "in the way").unwrap();
    let pinned = || What::Pinned { to: Choice::Fallback };
    world.models.wish(1, BACKEND, pinned(), serde_json::Value::Null);
    world.eventually("a problem", |seen| seen.problems().any(|problem| problem.contains("events"))).await;
    std::fs::remove_file(world.folder.path().join("events")).unwrap();
    world.propose("v1").await;
    world.eventually("it has come back", |seen| seen.problems().count() == 0 && seen.policy("v1").is_some()).await;
}
