//! `trimtab simulate` from outside: tables, JSON, plots, replays bit for bit, and mistakes that are named.

use std::process::{Command, Output};

use serde_json::Value;
use trimtab_tests::tools::own_binary;

/// Short runs in a small service.
const SMALL: [&str; 6] = ["--seconds", "1", "--endpoints", "4", "--proxies", "2"];

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::new(own_binary("trimtab").expect("trimtab is built"));
    command.arg("simulate").args(arguments).output().expect("it runs")
}

/// Runs `trimtab simulate ARGUMENTS`, which must succeed, and returns what it prints.
fn text(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it prints text")
}

/// The same as a document; the bounds' runs are in it.
fn json(arguments: &[&str]) -> Value {
    let text = text(&[arguments, &["--output", "json", "--progress", "never"]].concat());
    serde_json::from_str(&text).expect("standard output is one JSON document")
}

#[test]
fn tables_have_a_row_for_each_family_and_a_column_for_each_policy() {
    let arguments = ["--family", "homogeneous,gray,burst", "--policy", "trimtab,c3-local", "--seeds", "2"];
    let text = text(&[&SMALL[..], &arguments].concat());
    let section = |title: &str| {
        let start = text.find(title).unwrap_or_else(|| panic!("no {title:?} in\n{text}"));
        text[start..].split("\n\n").next().expect("a section").to_owned()
    };
    for title in ["p99 / bound's", "p50 / bound's", "mean / bound's", "goodput, %"] {
        let section = section(title);
        for part in ["trimtab", "c3-local", "homogeneous", "gray", "burst", "ALL"] {
            assert!(section.contains(part), "no {part:?} in\n{section}");
        }
    }
    assert!(section("p99 of trimtab").contains("best rival"), "{text}");
    // One row for each of 3 families, 2 seeds and 2 policies, with a fingerprint.
    assert_eq!(section("runs").lines().count(), 2 + 12, "{text}");
}

#[test]
fn a_run_is_replayed_bit_for_bit_by_the_command_that_is_told_with_it() {
    let arguments = ["--family", "churn,swarm", "--policy", "trimtab", "--seeds", "2", "--load", "0.8"];
    let document = json(&[&SMALL[..], &arguments].concat());
    assert_eq!(document["schema"], "trimtab.dev/simulation/v1");
    let runs = document["runs"].as_array().expect("runs");
    assert!(runs.len() >= 8, "the bounds ran too: {}", runs.len());
    for run in runs {
        let replay = run["replay"].as_str().expect("a command");
        let arguments: Vec<&str> = replay.strip_prefix("trimtab simulate ").expect(replay).split(' ').collect();
        let again = json(&arguments);
        assert_eq!(again["runs"].as_array().map(Vec::len), Some(1), "{replay}");
        assert_eq!(again["runs"][0], *run, "{replay}");
        let table = text(&arguments);
        assert!(table.contains(run["fingerprint"].as_str().expect("a fingerprint")), "{replay}:\n{table}");
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let grid = ["--family", "interference,deploy", "--policy", "trimtab,c3-local", "--seeds", "3", "--proxies", "1,3"];
    let with = |jobs| text(&[&SMALL[..4], &["--output", "json", "--jobs", jobs], &grid].concat());
    assert_eq!(with("1"), with("4"));
}

#[test]
fn ratios_are_to_the_baseline_that_was_asked_for() {
    let arguments = ["--family", "homogeneous", "--policy", "trimtab,c3-local", "--seeds", "2"];
    let with = |baseline| json(&[&SMALL[..], &arguments, &["--baseline", baseline]].concat());
    let p99 = |document: &Value, policy: usize| {
        document["cells"][0]["policies"][policy]["metrics"]["p99"]["mean"].as_f64().expect("a number")
    };
    let (absolute, relative) = (with("none"), with("c3-local"));
    assert_eq!(p99(&relative, 1), 1.0);
    let ratio = p99(&absolute, 0) / p99(&absolute, 1);
    assert!((p99(&relative, 0) / ratio - 1.0).abs() < 1e-9, "{relative:#}");
    let runs = |baseline| with(baseline)["runs"].as_array().expect("runs").len();
    assert!(runs("best-bound") > runs("best-nonclairvoyant"), "one knows sizes");
    assert!(runs("best-nonclairvoyant") > 4, "the others ran");
}

#[test]
fn plots_are_written_where_they_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("plots").to_str().expect("UTF-8").to_owned();
    let arguments = ["--family", "gray,surge", "--policy", "trimtab,c3-local", "--seeds", "2", "--plot", &path];
    let printed = text(&[&SMALL[..], &arguments, &["--timeline"]].concat());
    let names =
        ["p99.svg", "goodput.svg", "timeline-gray-p2-n4-seed1000000.svg", "timeline-surge-p2-n4-seed1000000.svg"];
    for name in names {
        assert!(printed.contains(name), "no {name} in\n{printed}");
        let svg = std::fs::read_to_string(folder.path().join("plots").join(name)).expect(name);
        assert!(svg.starts_with("<svg") && svg.contains("c3-local") && svg.trim_end().ends_with("</svg>"), "{name}");
    }
}

#[test]
fn the_list_has_every_family_and_policy() {
    let list = text(&["--list"]);
    for part in ["swarm", "burst-classes-1.5", "affinity", "trimtab", "c3-local", "shortest-expected-delay"] {
        assert!(list.contains(part), "no {part:?} in\n{list}");
    }
}

#[test]
fn mistakes_are_named_with_what_would_be_right() {
    for (arguments, expected) in [
        (&["--family", "grey"][..], &["--family", "\"grey\"", "gray", "deploy"][..]),
        (&["--policy", "magic"], &["--policy", "\"magic\"", "trimtab", "c3-local"]),
        (&["--baseline", "magic"], &["--baseline", "\"magic\"", "trimtab"]),
        (&["--load", "0"], &["--load", "between 0.01 and 2"]),
        (&["--load", "high"], &["--load", "no number"]),
        (&["--seeds", "0"], &["--seeds", "1..=100000"]),
        (&["--proxies", "0"], &["--proxies", "1..=1024"]),
        (&["--timeline"], &["--plot"]),
    ] {
        let output = run(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        for part in expected {
            assert!(error.contains(part), "{arguments:?}: no {part:?} in\n{error}");
        }
    }
}

#[test]
fn what_a_grid_has_done_is_kept_and_not_done_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("runs.jsonl");
    let path = path.to_str().expect("a path");
    let small = [&SMALL[..], &["--family", "gray", "--policy", "trimtab,c3-local"]].concat();
    let first = json(&[&small[..], &["--seeds", "1", "--keep", path]].concat());
    let lines = |path: &str| std::fs::read_to_string(path).expect("it is there").lines().count();
    assert_eq!(lines(path), 1 + first["runs"].as_array().map_or(0, Vec::len));
    let progress = run(&[&small[..], &["--seeds", "2", "--keep", path, "--progress", "always"]].concat());
    let told = String::from_utf8_lossy(&progress.stderr);
    assert!(told.contains(&format!("{} runs are kept from before", lines(path) / 2)), "{told}");
    assert_eq!(json(&[&small[..], &["--seeds", "1", "--keep", path]].concat())["cells"], first["cells"]);

    std::fs::write(path, "notes of mine\n").expect("it is written");
    let refused = run(&[&small[..], &["--keep", path]].concat());
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && told.contains("--keep") && told.contains("runs.jsonl"), "{told}");
}
