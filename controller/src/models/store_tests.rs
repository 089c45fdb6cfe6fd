//! The store on a real folder.

use std::collections::BTreeSet;
use std::path::PathBuf;

use trimtab_model::checkpoint::SHIPPED;
use trimtab_model::rollout::{Choice, Stage, What, Why};

use super::*;

const BY_HAND: Append = Append { by_hand: true, replace: false };

struct Folder {
    folder: tempfile::TempDir,
    store: ModelStore,
}

fn folder() -> Folder {
    let folder = tempfile::tempdir().unwrap();
    let store = ModelStore::open(folder.path().to_str().unwrap()).unwrap();
    Folder { folder, store }
}

impl Folder {
    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        std::fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        std::fs::write(self.path(path), text).unwrap();
    }

    async fn put(&self, version: &str) -> Result<(), StoreError> {
        self.store.put_version(version, files(version, "a test")).await
    }
}

fn files(version: &str, by: &str) -> VersionFiles {
    VersionFiles { policy: SHIPPED.to_vec(), manifest: VersionManifest::new(version, 1, by), report: None }
}

fn proposed(version: &str, backend: Option<&str>) -> Event {
    Event::new(1_000, "a test", backend, What::Proposed { version: version.to_owned() })
}

#[tokio::test]
async fn a_version_is_there_when_it_is_whole_and_then_never_changes() {
    let f = folder();
    assert!(f.store.versions().await.unwrap().is_empty());
    f.write("versions/half/policy.safetensors", SHIPPED);
    assert!(f.store.versions().await.unwrap().is_empty(), "without a manifest it does not exist yet");

    f.put("v1").await.unwrap();
    f.put("v1").await.unwrap();
    f.put("half").await.unwrap();
    let versions = f.store.versions().await.unwrap();
    assert_eq!(versions.iter().map(|v| &*v.version).collect::<Vec<_>>(), ["half", "v1"]);
    assert_eq!(f.store.policy("v1").await.unwrap().version(), "v1");

    let error = f.store.put_version("v1", files("v1", "somebody else")).await.unwrap_err().to_string();
    assert!(error.contains("version v1 is in the store already, with another manifest.json"), "{error}");
    assert_eq!(f.store.read("v1").await.unwrap().manifest.created_by, "a test", "the first one stays");
}

#[tokio::test]
async fn what_cannot_be_a_version_is_refused_with_the_reason() {
    let f = folder();
    for name in ["", "builtin", "fallback", "../x", "a/b", ".hidden", &"x".repeat(65)] {
        assert!(matches!(f.put(name).await, Err(StoreError::Name(_))), "{name}");
    }
    let broken = VersionFiles { policy: SHIPPED[..100].to_vec(), ..files("v1", "a test") };
    let error = f.store.put_version("v1", broken).await.unwrap_err().to_string();
    assert!(error.contains("version v1") && error.contains("not a whole safetensors file"), "{error}");
    assert!(f.store.versions().await.unwrap().is_empty());
}

#[tokio::test]
async fn files_that_were_cut_off_or_are_of_a_newer_trimtab_are_named() {
    let f = folder();
    for version in ["cut", "swapped", "gone", "no-json", "newer", "other-name", "no-field"] {
        f.put(version).await.unwrap();
    }
    f.write("versions/cut/policy.safetensors", &SHIPPED[..SHIPPED.len() / 2]);
    let mut swapped = SHIPPED.to_vec();
    *swapped.last_mut().unwrap() ^= 1;
    f.write("versions/swapped/policy.safetensors", swapped);
    std::fs::remove_file(f.path("versions/gone/policy.safetensors")).unwrap();
    f.write("versions/no-json/manifest.json", "{\"schema_version\": 1, \"vers");
    f.write("versions/newer/manifest.json", "{\"schema_version\": 99}");
    f.write("versions/other-name/manifest.json", serde_json::to_vec(&VersionManifest::new("x", 1, "")).unwrap());
    f.write("versions/no-field/manifest.json", "{\"schema_version\": 1, \"version\": \"no-field\"}");
    for (version, wanted) in [
        ("cut", "cut off or changed"),
        ("swapped", "CRC-32C"),
        ("gone", "it is missing"),
        ("no-json", "manifest.json: it is no JSON"),
        ("newer", "schema_version is 99"),
        ("other-name", "version is \"x\""),
        ("no-field", "missing field `created_at_ms`"),
        ("never", "not in the store"),
    ] {
        let error = f.store.policy(version).await.unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains(version), "{version}: {error}");
    }
    assert_eq!(f.store.versions().await.unwrap().iter().filter(|v| v.manifest.is_err()).count(), 4);
}

#[tokio::test]
async fn the_log_is_numbered_read_back_and_makes_the_state() {
    let f = folder();
    let evidence = serde_json::json!({ "score": 0.5 });
    let event = proposed("v1", None).resting_on(evidence.clone());
    assert_eq!(f.store.append(&event, BY_HAND).await.unwrap(), 1);
    let entered = What::StageEntered { version: "v1".into(), stage: Stage::Five };
    let entered = Event::new(2_000, "controller a", Some("default/web:80"), entered);
    assert_eq!(f.store.append(&entered, Append::default()).await.unwrap(), 2);
    let log = f.store.events().await.unwrap();
    assert_eq!(log.events.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(log.events[0].event.evidence, evidence);
    assert_eq!(log.state_of("default/web:80").trial.unwrap().stage, Stage::Five);
    assert_eq!(log.state_of("default/other:80").trial.unwrap().stage, Stage::Shadow);

    let error = f.store.append(&proposed("v2", None), BY_HAND).await.unwrap_err().to_string();
    assert!(error.contains("v1 is being tried on default/web:80 (stage 5%)"), "{error}");
    let replace = Append { by_hand: true, replace: true };
    f.store.append(&proposed("v2", None), replace).await.unwrap();
    let state = f.store.events().await.unwrap().state_of("default/web:80");
    assert_eq!(state.rolled_back["v1"].why, Why::Superseded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_each_number_goes_to_one_and_the_losers_hear_of_it() {
    let f = folder();
    // All propose at once: one is tried, the others are told of it.
    let writers: Vec<_> = (0..12)
        .map(|writer| {
            let store = ModelStore::open(f.folder.path().to_str().unwrap()).unwrap();
            tokio::spawn(async move { store.append(&proposed(&format!("v{writer}"), None), Append::default()).await })
        })
        .collect();
    let mut won = 0;
    for writer in writers {
        match writer.await.unwrap() {
            Ok(number) => {
                assert_eq!(number, 1);
                won += 1;
            }
            Err(error) => assert!(matches!(error, StoreError::Conflict(Conflict::InTrial { .. })), "{error}"),
        }
    }
    assert_eq!(won, 1);

    // Events that get along all come through, each under a number of its own.
    let pins: Vec<_> = (0..12)
        .map(|writer| {
            let store = ModelStore::open(f.folder.path().to_str().unwrap()).unwrap();
            let pin = What::Pinned { to: Choice::Fallback };
            let event = Event::new(0, "a test", Some(&format!("default/s{writer}:80")), pin);
            tokio::spawn(async move { store.append(&event, Append::default()).await })
        })
        .collect();
    let mut numbers = BTreeSet::new();
    for pin in pins {
        numbers.insert(pin.await.unwrap().unwrap());
    }
    assert_eq!(numbers, (2..14).collect());
}

#[tokio::test]
async fn events_that_cannot_be_read_are_named_and_left_out() {
    let f = folder();
    f.store.append(&proposed("v1", None), BY_HAND).await.unwrap();
    f.write("events/00000002.json", "{\"schema_ver");
    f.write("events/00000003.json", "{\"schema_version\": 1, \"at_ms\": 0, \"by\": \"x\", \"event\": \"nonsense\"}");
    f.write("events/README", "not an event");
    f.write("events/x.json", "{}");
    let out = What::RolledBack { version: "v1".into(), why: Why::Errors, detail: String::new() };
    f.store.append(&Event::new(1, "c", Some("a/b:1"), out), Append::default()).await.unwrap();
    let log = f.store.events().await.unwrap();
    assert_eq!(log.events.iter().map(|e| e.number).collect::<Vec<_>>(), [1, 4]);
    assert_eq!(log.problems.len(), 2, "{:?}", log.problems);
    assert!(log.problems[0].contains("events/00000002.json") && log.problems[1].contains("events/00000003.json"));
    assert_eq!(log.state_of("a/b:1").trial, None);
}

#[tokio::test]
async fn an_event_of_a_newer_trimtab_leaves_the_last_state_that_is_understood() {
    let f = folder();
    f.store.append(&proposed("v1", None), BY_HAND).await.unwrap();
    f.write("events/00000002.json", "{\"schema_version\": 2, \"event\": \"quarantined\"}");
    let later = proposed("v2", None);
    f.write("events/00000003.json", serde_json::to_vec(&later).unwrap());
    let log = f.store.events().await.unwrap();
    assert_eq!(log.state_of("a/b:1").trial.unwrap().version, "v1");
    let error = f.store.append(&later, BY_HAND).await.unwrap_err().to_string();
    assert!(error.contains("events/00000002.json has schema version 2"), "{error}");
}

#[tokio::test]
async fn what_is_known_of_the_log_is_not_read_again() {
    let f = folder();
    f.store.append(&proposed("v1", None), BY_HAND).await.unwrap();
    let known = f.store.events().await.unwrap();
    std::fs::write(f.path("events/00000001.json"), "gone").unwrap();
    let log = f.store.events_after(known.clone()).await.unwrap();
    assert_eq!(log, known);
}

#[tokio::test]
async fn a_store_that_cannot_be_written_says_which_file_and_why() {
    let f = folder();
    f.put("v1").await.unwrap();
    // A file where a folder must be: as unwritable for root as for anybody.
    f.write("events", "in the way");
    let error = f.store.append(&proposed("v1", None), BY_HAND).await.unwrap_err().to_string();
    assert!(error.contains("model store") && error.contains("events"), "{error}");
    assert_eq!(f.store.policy("v1").await.unwrap().version(), "v1", "what is there is still read");
}
