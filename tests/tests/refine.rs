//! `trimtab train --from recordings` from outside: a folder of Parquet files goes in, a version in the model store comes out, and mistakes are named.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use parquet::arrow::ArrowWriter;
use serde_json::Value;
use trimtab_model::Policy;
use trimtab_model::checkpoint::SHIPPED;
use trimtab_model::recording::{Row, schema, to_batch};
use trimtab_tests::tools::own_binary;
use trimtab_training::fleet::{Fleet, FleetOptions, Recording};
use trimtab_training::scenario::world;
use trimtab_training::simulator::simulate;

const BACKEND: &str = "simulation/backend:80";

fn train(arguments: &[&str]) -> Output {
    let mut command = Command::new(own_binary("trimtab").expect("trimtab is built"));
    command.args(["train", "--from", "recordings"]).args(arguments).output().expect("it runs")
}

fn refused(arguments: &[&str], expected: &str) {
    let output = train(arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && stderr.contains(expected), "{arguments:?}: {stderr}");
}

fn summary(arguments: &[&str]) -> Value {
    let output = train(&[arguments, &["--output", "json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(&stdout).expect("standard output is one JSON line")
}

/// A service whose pods do not tell how many requests they serve at once, and where live learning does not find it out either: many slots that are seldom
/// full.
fn recording(seconds: u64) -> Recording {
    let scenario = world(18, seconds);
    let shipped = Policy::shipped().expect("the shipped policy loads");
    let mut fleet = Fleet::with_policy(&scenario, &FleetOptions::TRIMTAB, shipped).recording(0.0245);
    simulate(&scenario, &mut fleet).expect("it runs");
    fleet.into_recording()
}

fn write<R: Row>(folder: &Path, name: &str, rows: &[R]) {
    let folder = folder.join(R::KIND).join("date=2026-01-01");
    fs::create_dir_all(&folder).expect("a folder");
    let file = File::create(folder.join(name)).expect("a file");
    let mut writer = ArrowWriter::try_new(file, schema::<R>(), None).expect("a writer");
    writer.write(&to_batch(rows).expect("a batch")).expect("it writes");
    writer.close().expect("it closes");
}

#[test]
fn a_recording_becomes_a_version_that_is_proposed_once_and_broken_files_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).to_str().expect("plain").to_owned();
    let (recordings, models, out) = (at("recordings"), at("models"), at("out"));
    fs::create_dir(&recordings).expect("a folder");
    refused(&[&recordings, "--out", &out], "there are no files ticks/*/*.parquet");

    let Recording { ticks, requests } = recording(450);
    let path = Path::new(&recordings);
    write(path, "a.parquet", &ticks);
    write(path, "a.parquet", &requests);
    // A full disk cut this one short.
    write(path, "b.parquet", &requests[..100]);
    let cut = path.join("requests/date=2026-01-01/b.parquet");
    let whole = fs::read(&cut).expect("it is there");
    fs::write(&cut, &whole[..whole.len() / 2]).expect("it writes");

    refused(&[&recordings, "--out", &out, "--backend", "shop/web:80"], BACKEND);
    let bad = at("bad.safetensors");
    fs::write(&bad, &SHIPPED[..500]).expect("it writes");
    refused(&[&recordings, "--out", &out, "--candidate", &bad], "--candidate");
    let shipped = at("shipped.safetensors");
    fs::write(&shipped, SHIPPED).expect("it writes");
    let arguments = [&*recordings, "--out", &out, "--models", &models, "--search", "0", "--candidate", &shipped];
    let told = summary(&arguments);
    assert_eq!(told["outcome"], "promoted", "{told:#}");
    assert_eq!((&told["files_read"], &told["files_broken"]), (&2.into(), &1.into()));
    let judged = told["candidates"].as_array().expect("a list").iter().find(|one| one["name"] == "shipped");
    assert_eq!(judged.expect("it is judged")["passed"], false, "what is no better than the policy in force: {told:#}");
    let version = told["version"].as_str().expect("a version");
    let page = fs::read_to_string(Path::new(&out).join("report.html")).expect("a report");
    assert!(page.contains("is promoted") && page.contains("slots"), "{page}");

    let mut command = Command::new(own_binary("trimtab").expect("trimtab is built"));
    let listed = command.args(["models", "--store", &models, "list", "--output", "json"]).output().expect("it runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains(version) && listed.contains(BACKEND), "{listed}");

    // The same job again comes to the same version, which is being tried already.
    let again = summary(&arguments);
    assert_eq!(again["version"], told["version"]);
    assert!(again["not_proposed"].as_str().is_some_and(|why| why.contains("is being tried")), "{again:#}");
}

#[test]
fn too_little_is_said_to_be_too_little() {
    let folder = tempfile::tempdir().expect("a folder");
    let Recording { ticks, requests } = recording(60);
    write(folder.path(), "a.parquet", &ticks);
    write(folder.path(), "a.parquet", &requests[..500]);
    let (recordings, out) = (folder.path().to_str().expect("plain"), folder.path().join("out"));
    refused(&[recordings, "--out", out.to_str().expect("plain")], "at least 240 are needed");
}
