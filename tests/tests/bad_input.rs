//! What a person gets who says something that makes no sense: the flag, file, line or field, and what would be right.

use std::path::Path;

use trimtab_tests::process::Process;

/// Runs `trimtab ARGS`, which must fail with `code` and print every text of `wanted`.
fn check(args: &[&str], code: i32, wanted: &[&str]) {
    let ended = Process::start(args).end();
    assert_eq!(ended.status.code(), Some(code), "trimtab {args:?} printed:\n{}", ended.text);
    for text in wanted {
        assert!(ended.text.contains(text), "trimtab {args:?}: no {text:?} in:\n{}", ended.text);
    }
    assert!(!ended.text.contains("panicked"), "{}", ended.text);
}

fn file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

#[test]
fn flags_that_make_no_sense_are_named() {
    check(&["up"], 2, &["--to"]);
    check(&["up", "--to", "127.0.0.1"], 2, &["--to", "has no port"]);
    check(&["up", "--to", "127.0.0.1:0"], 2, &["--to", "not a port"]);
    check(&["up", "--to", "a:1", "--algorithm", "best"], 2, &["--algorithm", "best", "least-request"]);
    check(&["up", "--to", "a:1", "--slo", "soon"], 2, &["--slo", "soon", "150ms"]);
    check(&["up", "--to", "a:1", "--slo", "0ms"], 2, &["--slo", "more than 0"]);
    check(&["up", "--to", "a:1", "--tick", "1ms"], 2, &["--tick", "50ms"]);
    check(&["up", "--to", "a:1", "--listen", "8080"], 2, &["--listen"]);
    check(&["up", "--to", "a:1", "--backends", "b"], 2, &["--to", "--backends"]);
    check(&["up", "--to", "a:1", "--workers", "0"], 2, &["--workers"]);
    check(&["up", "--to", "a:1", "--recordings", "gopher://x"], 1, &["gopher"]);
    check(&["proxy", "--controller", "not a uri"], 2, &["--controller"]);
    check(&["demo", "--baseline", "magic"], 2, &["--baseline", "magic"]);
    check(&["weights", "--address", "http://127.0.0.1:1"], 1, &["no controller at http://127.0.0.1:1"]);
}

#[test]
fn training_that_cannot_be_names_the_file_or_the_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    check(&["train"], 2, &["--from"]);
    check(&["train", "--from", "dreams", "--out", "x"], 2, &["--from", "dreams", "simulation"]);
    check(&["train", "--from", "simulation", "--out", "x", "--policy", "deep"], 2, &["--policy", "deep", "network"]);
    check(&["train", "--from", "simulation", "--out", "x", "--time-budget", "long"], 2, &["--time-budget", "long"]);
    let simulation = |more: &[&str], code: i32, wanted: &[&str]| {
        check(&[&["train", "--from", "simulation", "--out"], more].concat(), code, wanted);
    };
    simulation(&[&out("none"), "--resume"], 1, &["--resume", "none", "state.safetensors", "is not there"]);
    let taken = file(folder.path(), "taken", "a file");
    simulation(&[&taken], 1, &["--out", "taken"]);
    std::fs::create_dir(out("run")).expect("a folder");
    file(&folder.path().join("run"), "state.safetensors", "nonsense");
    simulation(&[&out("run")], 1, &["--out", "run", "--resume"]);
    simulation(&[&out("run"), "--resume"], 1, &["state.safetensors", "not the state of a training"]);
    let broken = file(folder.path(), "policy.safetensors", "nonsense");
    check(&["train", "--evaluate", &broken], 1, &["--evaluate", "policy.safetensors", "not a whole safetensors file"]);
    check(&["train", "--evaluate", &out("absent")], 1, &["--evaluate", "absent"]);
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = taken.local_addr().expect("bound").to_string();
    let quiet = ["--no-recordings", "--admin", "127.0.0.1:0"];
    let dashboard =
        [&["up", "--to", "127.0.0.1:9", "--listen", "127.0.0.1:0", "--dashboard", &address][..], &quiet].concat();
    check(&dashboard, 1, &[&address, "in use", "--dashboard"]);
    let listen = [&["up", "--to", "127.0.0.1:9", "--listen", &address, "--no-dashboard"][..], &quiet].concat();
    check(&listen, 1, &[&address, "in use"]);
    check(
        &["controller", "--to", "127.0.0.1:9", "--no-dashboard", "--no-recordings", "--grpc", &address],
        1,
        &[&address, "in use", "--grpc"],
    );
}

#[test]
fn a_backends_file_is_checked_line_by_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("nothing").to_str().expect("UTF-8").to_owned();
    check(&["up", "--no-recordings", "--backends", &missing], 1, &["nothing"]);
    let broken = file(folder.path(), "backends", "127.0.0.1:9001\n\n# ok\n127.0.0.1:99999\n");
    check(&["up", "--no-recordings", "--backends", &broken], 1, &["backends:4", "99999", "1 to 65535"]);
}

#[test]
fn yaml_errors_name_file_line_and_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let objects = include_str!("objects.yaml").replace("PORT_A", "9001").replace("PORT_B", "9002");
    let unknown = objects.replace("matches: [{path: {type: Exact,", "matches: [{path: {typ: Exact,");
    let line = 1 + unknown.lines().position(|line| line.contains("typ:")).expect("replaced");
    file(folder.path(), "objects.yaml", &unknown);
    let path = folder.path().to_str().expect("UTF-8");
    check(
        &["up", "--no-recordings", "-f", path],
        1,
        &[&format!("objects.yaml:{line}"), "spec.rules[1].matches[0].path.typ", "unknown"],
    );

    let wrong = objects.replace("port: 18089", "port: eighty");
    file(folder.path(), "objects.yaml", &wrong);
    check(&["up", "--no-recordings", "-f", path], 1, &["objects.yaml:8", "spec.listeners[0].port"]);
}

#[test]
fn keys_of_sessions_that_are_none_are_named_by_flag_file_and_line_and_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let said = |path: &str, wanted: &str| {
        let args = ["--no-recordings", "--to", "127.0.0.1:9", "--session-key-file", path];
        for command in ["up", "controller"] {
            check(&[&[command], &args[..]].concat(), 1, &[&format!("--session-key-file {path}: {wanted}")]);
        }
    };
    said(&folder.path().join("none").display().to_string(), "is not there, expected a file with a key a line");
    let key = "6b6579206f6620612073657373696f6e20746f6b656e20666f722061207465737421";
    let short = file(folder.path(), "short", &format!("# the new one\n{key}\n{}\n", &key[..32]));
    said(&short, "line 3: is a key of 16 bytes, expected at least 32; `openssl rand -base64 32` makes one");
    let garbled = file(folder.path(), "garbled", &format!("{key}!\n"));
    said(&garbled, "line 1: is neither base64 nor hexadecimal");
    let ended = Process::start(["up", "--to", "127.0.0.1:9", "--session-key-file", &garbled]).end();
    assert!(!ended.text.contains(&key[..16]), "{}", ended.text);
    check(&["controller", "--session-key-secret", "--to", "a:1"], 2, &["--session-key-secret", "--to"]);
    check(&["controller", "--session-key-secret", "--session-key-file", "x"], 2, &["--session-key-file"]);
}

#[test]
fn a_checkpoint_that_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let broken = file(folder.path(), "policy.safetensors", "not a checkpoint");
    check(&["up", "--no-recordings", "--to", "127.0.0.1:9", "--checkpoint", &broken], 1, &["policy.safetensors"]);
}
