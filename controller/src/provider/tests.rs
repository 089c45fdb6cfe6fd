//! Providers over real files that vanish, are half-written, are swapped behind symlinks, or hold nonsense.

use std::{fs, os::unix::fs::symlink, path::Path, time::Duration};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{Snapshot, Source, files::Files, flags::Flags, flags::FlagsProvider, start};
use crate::{gateway::translate, policy::Algorithm};

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n  ports:\n  - port: 80\n")
}

/// Writes files into a new folder.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn services(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.objects.services.iter().filter_map(|service| service.metadata.name.as_deref()).collect()
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    snapshot.problems.iter().map(ToString::to_string).collect()
}

/// Looks as often as it takes for something to settle.
fn settled(files: &mut Files) -> Snapshot {
    (0..5).find_map(|_| files.look()).expect("nothing changed")
}

/// A folder with the Services `a` and `b` in a file each, loaded.
fn loaded() -> (TempDir, Files) {
    let folder =
        folder(&[("a.yaml", &service("a")), ("b.yml", &service("b")), ("notes.txt", "x"), (".hidden.yaml", "x")]);
    let mut files = Files::new(folder.path().to_owned());
    assert_eq!(services(&files.load().unwrap()), ["a", "b"]);
    (folder, files)
}

#[test]
fn the_start_refuses_what_does_not_hold_and_tells_everything() {
    let folder =
        folder(&[("a.yaml", "kind: Service\n"), ("b.yaml", &service("b")), ("c.yaml", &service("b")), ("d.yaml", "[")]);
    let error = Files::new(folder.path().to_owned()).load().unwrap_err();
    let text = error.to_string();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "a.yaml:1: apiVersion: is missing, expected a version such as gateway.networking.k8s.io/v1");
    assert!(lines[1].starts_with("d.yaml:1: ") || lines[1].starts_with("d.yaml:2: "), "{text}");
    assert_eq!(lines[2], "c.yaml:1: Service default/b stands twice, the other one is in b.yaml:1 and is used");
    assert_eq!(lines.len(), 3, "{text}");
}

#[test]
fn the_start_refuses_a_path_with_nothing_in_it() {
    let empty = folder(&[]);
    let check = |path: &Path, expected: &str| {
        let error = Files::new(path.to_owned()).load().unwrap_err();
        assert_eq!(error.to_string(), format!("{}: {expected}", path.display()));
    };
    check(empty.path(), "holds no *.yaml, *.yml or *.json file");
    check(&empty.path().join("none"), "cannot be read: No such file or directory (os error 2)");
}

#[test]
fn a_file_that_breaks_keeps_its_last_good_version_until_it_is_put_right() {
    let (folder, mut files) = loaded();
    fs::write(folder.path().join("a.yaml"), "kind: [\n").unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b"]);
    assert_eq!(problems(&snapshot).last().unwrap(), "a.yaml: does not hold: the last good version of the file stays");
    fs::write(folder.path().join("a.yaml"), service("c")).unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["b", "c"]);
    assert!(snapshot.problems.is_empty());
}

#[test]
fn a_file_that_is_being_written_is_not_believed() {
    let (folder, mut files) = loaded();
    let path = folder.path().join("a.yaml");
    let text = format!("{}---\n{}", service("a"), service("a2"));
    for end in [0, 10, service("a").len()] {
        fs::write(&path, &text[..end]).unwrap();
        assert_eq!(files.look(), None, "{end}");
    }
    fs::write(&path, &text).unwrap();
    assert_eq!(services(&settled(&mut files)), ["a", "a2", "b"]);
}

#[test]
fn a_file_that_is_emptied_keeps_its_objects() {
    let (folder, mut files) = loaded();
    fs::write(folder.path().join("a.yaml"), "").unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b"]);
    assert_eq!(
        problems(&snapshot),
        [
            "a.yaml: holds no object any more: the last good version of the file stays; delete the file to remove its objects"
        ]
    );
}

#[test]
fn a_symlink_that_comes_to_lead_nowhere_keeps_its_objects_until_it_is_deleted() {
    let target = folder(&[("s", &service("c"))]);
    let (folder, _) = loaded();
    symlink(target.path().join("s"), folder.path().join("c.yaml")).unwrap();
    let mut files = Files::new(folder.path().to_owned());
    assert_eq!(services(&files.load().unwrap()), ["a", "b", "c"]);
    fs::remove_file(target.path().join("s")).unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b", "c"]);
    assert_eq!(
        problems(&snapshot),
        ["c.yaml: leads nowhere", "c.yaml: does not hold: the last good version of the file stays"]
    );
    fs::remove_file(folder.path().join("c.yaml")).unwrap();
    // A folder in its place is no deletion either.
    symlink(target.path(), folder.path().join("c.yaml")).unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b", "c"]);
    assert_eq!(problems(&snapshot)[0], "c.yaml: is a folder now");
    fs::remove_file(folder.path().join("c.yaml")).unwrap();
    assert_eq!(services(&settled(&mut files)), ["a", "b"]);
}

#[test]
fn a_deleted_file_takes_its_objects_with_it_but_not_at_the_first_look() {
    let (folder, mut files) = loaded();
    fs::remove_file(folder.path().join("a.yaml")).unwrap();
    assert_eq!(files.look(), None);
    assert_eq!(services(&settled(&mut files)), ["b"]);
}

#[test]
fn a_folder_that_vanishes_or_is_suddenly_empty_keeps_everything() {
    let (folder, mut files) = loaded();
    for name in ["a.yaml", "b.yml"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b"]);
    assert!(problems(&snapshot)[0].ends_with(": holds no *.yaml, *.yml or *.json file: the last configuration stays"));
    let path = folder.path().to_owned();
    drop(folder);
    let snapshot = settled(&mut files);
    assert_eq!(services(&snapshot), ["a", "b"]);
    assert!(problems(&snapshot)[0].ends_with("No such file or directory (os error 2): the last configuration stays"));
    fs::create_dir(&path).unwrap();
    fs::write(path.join("b.yml"), service("b")).unwrap();
    let snapshot = (0..5).filter_map(|_| files.look()).last().unwrap();
    fs::remove_dir_all(&path).unwrap();
    assert_eq!((services(&snapshot), problems(&snapshot)), (vec!["b"], vec![]));
}

#[test]
fn a_config_map_volume_that_swaps_its_symlink_is_followed() {
    let root = tempfile::tempdir().unwrap();
    for (version, text) in [("..1", service("a")), ("..2", service("b"))] {
        fs::create_dir(root.path().join(version)).unwrap();
        fs::write(root.path().join(version).join("s.yaml"), text).unwrap();
    }
    symlink("..1", root.path().join("..data")).unwrap();
    symlink("..data/s.yaml", root.path().join("s.yaml")).unwrap();
    let mut files = Files::new(root.path().to_owned());
    assert_eq!(services(&files.load().unwrap()), ["a"]);
    symlink("..2", root.path().join("..data_tmp")).unwrap();
    fs::rename(root.path().join("..data_tmp"), root.path().join("..data")).unwrap();
    assert_eq!(services(&settled(&mut files)), ["b"]);
}

#[test]
fn of_two_objects_with_one_name_the_one_that_was_there_first_stays() {
    let (folder, mut files) = loaded();
    fs::write(folder.path().join("0.yaml"), format!("# moved\n{}", service("b"))).unwrap();
    let snapshot = settled(&mut files);
    assert_eq!(
        problems(&snapshot),
        ["0.yaml:2: Service default/b stands twice, the other one is in b.yml:1 and is used"]
    );
    fs::remove_file(folder.path().join("b.yml")).unwrap();
    let snapshot = settled(&mut files);
    assert_eq!((services(&snapshot), problems(&snapshot)), (vec!["a", "b"], vec![]));
}

fn flags(backends: Option<&Path>, to: &[&str]) -> Flags {
    Flags {
        listen: vec!["127.0.0.1:8080".parse().unwrap(), "[::1]:0".parse().unwrap()],
        to: to.iter().map(|address| address.parse().unwrap()).collect(),
        backends: backends.map(Path::to_owned),
        ..Flags::default()
    }
}

fn endpoints(snapshot: &Snapshot) -> Vec<String> {
    let config = translate(&snapshot.objects);
    assert!(config.problems.is_empty(), "{:?}", config.problems);
    config.backends[0].endpoints.iter().map(|endpoint| endpoint.address.clone()).collect()
}

#[test]
fn flags_become_a_whole_configuration() {
    let mut flags = flags(None, &["127.0.0.1:9002", "[::1]:9001", "localhost:9001", "127.0.0.1:9001"]);
    flags.algorithm = Algorithm::LeastRequest;
    flags.objective = Some("150ms".parse().unwrap());
    let snapshot = FlagsProvider::new(flags).load().unwrap();
    let config = translate(&snapshot.objects);
    assert_eq!(config.problems, []);
    let listeners: Vec<_> = config.listeners.iter().map(|l| (l.name.as_str(), l.address.as_str(), l.port)).collect();
    assert_eq!(listeners, [("default/listen-1/http", "127.0.0.1", 8080), ("default/listen-2/http", "::1", 0)]);
    assert_eq!(config.routes[0].listeners, ["default/listen-1/http", "default/listen-2/http"]);
    assert_eq!(config.routes[0].rules[0].backends[0].backend, "default/app:80");
    assert_eq!(endpoints(&snapshot), ["127.0.0.1:9001", "127.0.0.1:9002", "[::1]:9001", "localhost:9001"]);
    assert_eq!(config.backends[0].algorithm, Algorithm::LeastRequest);
    assert_eq!(config.backends[0].resource.objective_ms, Some(150.0));
}

#[test]
fn flags_that_make_no_sense_are_refused_by_name() {
    let check = |flags: Flags, expected: &[&str]| {
        let error = FlagsProvider::new(flags).load().unwrap_err();
        assert_eq!(error.problems.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    };
    check(
        Flags::default(),
        &[
            "--listen: is missing, expected an address such as 127.0.0.1:8080",
            "--to: is missing, expected --to host:port or --backends FILE",
        ],
    );
    let mut twice = flags(None, &["a:1", "a:1"]);
    twice.metrics.path = Some("metrics".to_owned());
    twice.objective = Some("0s".parse().unwrap());
    check(
        twice,
        &[
            "--to: a:1 is given twice",
            "--slo: is zero, expected at least 1ms",
            "--metrics-path: \"metrics\" is not a path, expected one such as /metrics",
        ],
    );
    check(flags(Some(Path::new("/nowhere/b")), &[]), &["/nowhere/b: is not there"]);
}

#[test]
fn a_backends_file_that_vanishes_or_breaks_keeps_the_last_good_list() {
    let folder = folder(&[("b", "127.0.0.1:9001\n127.0.0.1:9002\n")]);
    let path = folder.path().join("b");
    let mut provider = FlagsProvider::new(flags(Some(&path), &[]));
    provider.load().unwrap();
    let mut step = |text: Option<&str>, expected: &[&str], fault: Option<&str>| {
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        let snapshot = (0..5).find_map(|_| provider.look()).expect("nothing changed");
        assert_eq!(endpoints(&snapshot), expected, "{text:?}");
        let expected: Vec<String> = fault
            .into_iter()
            .flat_map(|fault| {
                [
                    format!("{}{fault}", path.display()),
                    format!("{}: does not hold: the last good list stays", path.display()),
                ]
            })
            .collect();
        assert_eq!(problems(&snapshot), expected, "{text:?}");
    };
    let both = ["127.0.0.1:9001", "127.0.0.1:9002"];
    step(Some(""), &both, Some(": names no endpoint, expected a host:port a line"));
    step(
        Some("127.0.0.1:9001\n127.0.0.1:\n"),
        &both,
        Some(":2: \"127.0.0.1:\": \"\" is not a port, expected 1 to 65535"),
    );
    step(None, &both, Some(": is not there"));
    step(Some("127.0.0.1:9003"), &["127.0.0.1:9003"], None);
}

#[tokio::test]
async fn a_running_provider_tells_of_changes_within_a_second_and_ends_on_shutdown() {
    let folder = folder(&[("b", "127.0.0.1:9001\n")]);
    let path = folder.path().join("b");
    let shutdown = CancellationToken::new();
    let mut running = start(Source::Flags(flags(Some(&path), &[])), shutdown.clone()).await.unwrap();
    assert_eq!(endpoints(&running.snapshots.borrow_and_update()), ["127.0.0.1:9001"]);
    fs::write(&path, "127.0.0.1:9001\n127.0.0.1:9002\n").unwrap();
    let changed = tokio::time::timeout(Duration::from_secs(5), running.snapshots.changed()).await;
    changed.expect("no change was seen").unwrap();
    assert_eq!(endpoints(&running.snapshots.borrow_and_update()), ["127.0.0.1:9001", "127.0.0.1:9002"]);
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(5), running.task).await.expect("it did not end").unwrap();
}

#[test]
fn the_example_folder_holds() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples/local");
    let config = translate(&Files::new(path).load().unwrap().objects);
    assert_eq!(config.problems, []);
    let names: Vec<_> = config.backends.iter().map(|backend| backend.name()).collect();
    assert_eq!(names, ["default/api-next:80", "default/api:80", "default/web:80"]);
}
