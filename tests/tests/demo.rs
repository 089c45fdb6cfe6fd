//! `trimtab demo` from outside: it ends by itself, says what it should in each form, and gives way to Ctrl-C.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;
use trimtab_tests::tools::own_binary;

fn demo(arguments: &[&str]) -> Command {
    let mut command = Command::new(own_binary("trimtab").expect("trimtab is built"));
    command.arg("demo").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn output(mut command: Command) -> (Output, String, String) {
    let output =
        tokio::time::timeout(Duration::from_secs(90), command.output()).await.expect("it ends").expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it prints text");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

#[tokio::test]
async fn the_json_report_stands_alone_and_tells_the_story() {
    let (output, out, err) =
        output(demo(&["--duration", "20s", "--output", "json", "--no-dashboard", "--seed", "3"])).await;
    assert!(output.status.success(), "{err}");
    let report: Value = serde_json::from_str(&out).expect("standard output is one JSON document");
    assert_eq!((&report["seed"], &report["baseline"]), (&3.into(), &"round-robin".into()));
    let names: Vec<_> = report["chapters"].as_array().unwrap().iter().map(|chapter| &chapter["name"]).collect();
    assert_eq!(names, ["heterogeneous", "noisy neighbour", "gray failure", "cold start", "burst"]);
    for chapter in report["chapters"].as_array().unwrap() {
        let requests = ["trimtab", "baseline"].map(|world| chapter[world]["requests"].as_u64().unwrap());
        assert!(requests[0] > 500 && requests[0] == requests[1], "both worlds get the same load: {chapter:#}");
    }
    // Far from the figures that the README quotes: this machine may be busy, and the story is short.
    let number =
        |chapter: usize, path: &str| report["chapters"][chapter].pointer(path).and_then(Value::as_f64).unwrap();
    assert!(number(0, "/ratio/latency_p99_lower") > 1.5, "{report:#}");
    assert!(number(2, "/trimtab/error_share") < 0.03, "{report:#}");
    assert!((0.06..0.12).contains(&number(2, "/baseline/error_share")), "{report:#}");
    assert!(number(4, "/ratio/goodput_higher") > 1.2, "{report:#}");
}

#[tokio::test]
async fn without_a_terminal_there_are_plain_lines_and_a_table_and_ctrl_c_sums_up() {
    let mut command = demo(&["--duration", "60s", "--baseline", "least-request"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id().unwrap().to_string();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let sent = Command::new("kill").args(["-INT", &pid]).status().await.unwrap();
    assert!(sent.success());
    let output =
        tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.expect("it ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(130), "{text}");
    assert!(!text.contains('\u{1b}'), "escape sequences in {text:?}");
    for part in [
        "dashboard http://127.0.0.1:",
        "chapter 1 of 5: heterogeneous",
        "least-request",
        "all chapters",
        "stopped before its end",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

#[tokio::test]
async fn flags_that_make_no_sense_are_refused() {
    for (arguments, expected) in [
        (&["--baseline", "rond-robin"][..], "round-robin"),
        (&["--duration", "3s"], "at least 15 s"),
        (&["--duration", "soon"], "150ms"),
        (&["--output", "xml"], "json"),
        (&["--no-dashboard", "--dashboard", "127.0.0.1:1"], "cannot be used with"),
    ] {
        let (output, _, err) = output(demo(arguments)).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {err}");
        assert!(err.contains(expected), "{arguments:?}: no {expected:?} in\n{err}");
    }
}
