//! The corpus of request smuggling through Trimtab and through real nginx, HAProxy and Envoy. Ours must let nothing ambiguous out; the table of
//! all four is printed (`--nocapture`) and stands in docs/proxy.md.

use std::net::SocketAddr;
use std::time::Duration;

use trimtab_tests::compare::rival::{Protocol, Rival, Setup};
use trimtab_tests::smuggling::corpus::{Case, cases};
use trimtab_tests::smuggling::endpoint::Endpoint;
use trimtab_tests::smuggling::{self, Verdict};
use trimtab_tests::tools::Tools;

/// One of it, in front of these.
fn setup(pods: &[SocketAddr]) -> Setup<'_> {
    Setup { proxies: 1, workers: 1, objective: Duration::from_secs(1), protocol: Protocol::Http1, pods }
}

async fn verdicts(tools: &Tools, rival: Rival, cases: &[Case]) -> Vec<Verdict> {
    let endpoint = Endpoint::start().await.expect("a port");
    let front = rival.start(tools, &setup(&[endpoint.address])).await.expect("it starts");
    let verdicts = smuggling::run(front.targets[0], &endpoint, cases).await;
    front.stop().await.expect("it ends");
    verdicts
}

/// Whatever a corpus says, a proxy that is broken refuses everything.
async fn passes_what_is_good(rival: Rival, tools: &Tools) {
    let endpoint = Endpoint::start().await.expect("a port");
    let front = rival.start(tools, &setup(&[endpoint.address])).await.expect("it starts");
    let client = trimtab_tests::http::Client::default();
    let answer = client.get(front.targets[0], "/case-0").await.expect("an answer");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    front.stop().await.expect("it ends");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_ambiguous_leaves_our_proxy_whatever_others_do() {
    let tools = Tools::find(&["proxies"]).await.expect("the proxies are here");
    let cases = cases();
    passes_what_is_good(Rival::Trimtab, &tools).await;
    let rivals = [Rival::Trimtab, Rival::NginxRoundRobin, Rival::Haproxy, Rival::Envoy];
    let mut all = Vec::new();
    for rival in rivals {
        all.push(verdicts(&tools, rival, &cases).await);
    }
    println!("{} cases: refused / made clear / ambiguous / smuggled", cases.len());
    let counts: Vec<_> = all.iter().map(|verdicts| smuggling::count(&cases, verdicts)).collect();
    for category in counts[0].keys() {
        let row: Vec<String> =
            counts.iter().map(|counts| counts[category].map(|count| count.to_string()).join(" / ")).collect();
        println!("| {category} | {} |", row.join(" | "));
    }
    for (rival, verdicts) in rivals.iter().zip(&all) {
        for (number, verdict) in verdicts.iter().enumerate().filter(|(_, verdict)| **verdict >= Verdict::Ambiguous) {
            println!("{rival:?} {verdict:?}: {:?}", String::from_utf8_lossy(&cases[number].bytes(number)));
        }
    }
    let ours = all[0].iter().enumerate().filter(|(_, verdict)| **verdict >= Verdict::Ambiguous);
    let failed: Vec<_> = ours
        .map(|(number, verdict)| (verdict, String::from_utf8_lossy(&cases[number].bytes(number)).into_owned()))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
