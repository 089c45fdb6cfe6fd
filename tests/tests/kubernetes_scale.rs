//! A Service of 5,000 endpoints in 50 slices whose pods are replaced at 20 a second under load: who gets the requests, how soon proxies know, and
//! what it costs.
//!
//! By default it is short and asks for little; `TRIMTAB_SCALE=full` takes what is promised: two minutes, 2,000 requests a second and a Pod
//! object for each endpoint. docs/kubernetes.md has the figures.

#![allow(clippy::disallowed_methods, reason = "tests of real processes run in real time")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{DeleteParams, PostParams};
use serde_json::{Value, json};
use trimtab_tests::cluster::crowd::{Crowd, PORT};
use trimtab_tests::http::{Client, eventually};
use trimtab_tests::process::Process;
use trimtab_tests::tools::own_binary;
use trimtab_tests::world::World;

const NAMESPACE: &str = "scale";
const PROXIES: usize = 3;
/// Pods replaced a second.
const REPLACED_PER_S: u32 = 20;
/// A pod serves for so long after its endpoint has been said to terminate, as pods with a `preStop` pause do.
const GRACE: Duration = Duration::from_secs(2);
/// Of so many changes one is followed to all proxies: following each would be much of the load.
const FOLLOWED: usize = 10;
const PATIENCE: Duration = Duration::from_secs(120);

/// How much of it.
struct Scale {
    full: bool,
    slices: usize,
    per_slice: usize,
    seconds: u32,
    rps: u32,
}

impl Scale {
    fn wanted() -> Self {
        match std::env::var("TRIMTAB_SCALE").as_deref() {
            Ok("full") => Self { full: true, slices: 50, per_slice: 100, seconds: 120, rps: 2000 },
            _ => Self { full: false, slices: 50, per_slice: 100, seconds: 8, rps: 500 },
        }
    }
}

/// One endpoint.
#[derive(Debug, Clone)]
struct Endpoint {
    number: u16,
    uid: String,
    terminating: bool,
}

/// What writes the cluster's objects, as kubelets and the endpoints controller would.
#[derive(Clone)]
struct Writer {
    crowd: Arc<Crowd>,
    slices: Api<EndpointSlice>,
    pods: Option<Api<Pod>>,
    members: Arc<Vec<Mutex<VecDeque<Endpoint>>>>,
    writing: Arc<Vec<tokio::sync::Mutex<()>>>,
    next: Arc<AtomicUsize>,
}

fn pod_name(number: u16) -> String {
    format!("app-{number}")
}

impl Writer {
    /// A new pod, ready at once.
    async fn pod(&self) -> Endpoint {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let number = u16::try_from(number).expect("fewer than 65,536 pods");
        let uid = match &self.pods {
            Some(pods) => {
                // On a node that nobody plays: it is the crowd that runs.
                let pod = json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": { "name": pod_name(number), "labels": { "app": "app" } },
                    "spec": { "nodeName": "crowd", "containers": [{ "name": "app", "image": "crowd" }] },
                });
                let pod = serde_json::from_value(pod).expect("a pod");
                let made = pods.create(&PostParams::default(), &pod).await.expect("the pod is taken");
                made.metadata.uid.expect("a UID")
            }
            None => format!("{NAMESPACE}-{number}"),
        };
        Endpoint { number, uid, terminating: false }
    }

    fn slice(&self, index: usize) -> EndpointSlice {
        let members = self.members[index].lock().expect("not poisoned");
        let endpoint = |member: &Endpoint| {
            json!({
                "addresses": [self.crowd.address(member.number)],
                "conditions": { "ready": !member.terminating, "serving": true, "terminating": member.terminating },
                "zone": "zone-a",
                "targetRef": { "kind": "Pod", "name": pod_name(member.number), "namespace": NAMESPACE, "uid": member.uid },
            })
        };
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": format!("app-{index}"), "labels": { "kubernetes.io/service-name": "app" } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": PORT, "protocol": "TCP" }],
            "endpoints": members.iter().map(endpoint).collect::<Vec<_>>(),
        });
        serde_json::from_value(slice).expect("a slice")
    }

    async fn write(&self, index: usize) {
        // Of two writes that overtake each other the older would stand.
        let _alone = self.writing[index].lock().await;
        self.slices
            .replace(&format!("app-{index}"), &PostParams::default(), &self.slice(index))
            .await
            .expect("written");
    }

    /// Replaces the oldest pod of a slice, and says when the API server had taken it, and who is new.
    async fn replace(&self, index: usize) -> (Instant, String) {
        let new = self.pod().await;
        let name = pod_name(new.number);
        let old = {
            let mut members = self.members[index].lock().expect("not poisoned");
            let old = members.iter_mut().find(|member| !member.terminating).expect("somebody is ready");
            old.terminating = true;
            let old = old.clone();
            members.push_back(new);
            old
        };
        self.write(index).await;
        let taken = Instant::now();
        let writer = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GRACE).await;
            writer.crowd.kill(old.number).await.expect("it dies");
            if let Some(pods) = &writer.pods {
                let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
                pods.delete(&pod_name(old.number), &now).await.expect("deleted");
            }
            writer.members[index].lock().expect("not poisoned").retain(|member| member.number != old.number);
            writer.write(index).await;
        });
        (taken, name)
    }
}

/// How long until all proxies know of a pod, ms; infinite if that is more than 20 s.
async fn known(client: &Client, admins: &[SocketAddr], name: &str, since: Instant) -> f64 {
    for admin in admins {
        while client.get(*admin, &format!("/endpoints/{name}")).await.map(|answer| answer.status) != Ok(200) {
            if since.elapsed() > Duration::from_secs(20) {
                return f64::INFINITY;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    since.elapsed().as_secs_f64() * 1e3
}

/// CPU seconds that a process has used, and the most memory it has had, MiB.
fn usage(process: u32) -> (f64, f64) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{process}/{file}")).expect("it runs");
    let stat = read("stat");
    let fields: Vec<f64> =
        stat.rsplit(") ").next().unwrap_or_default().split(' ').filter_map(|field| field.parse().ok()).collect();
    // The state is no number: utime and stime are the 14th and 15th fields, the 11th and 12th numbers here. A tick is 10 ms.
    let cpu_s = (fields[10] + fields[11]) / 100.0;
    let status = read("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a size");
    let kib: f64 = line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number");
    (cpu_s, kib / 1024.0)
}

/// A quantile of a histogram of the controller's metrics: the upper bound of its bucket, in milliseconds.
fn quantile_ms(text: &str, name: &str, quantile: f64) -> f64 {
    let bucket = |line: &str| -> Option<(f64, f64)> {
        let rest = line.strip_prefix(&format!("{name}_bucket{{le=\""))?;
        let (bound, count) = rest.split_once("\"} ")?;
        Some((bound.parse().unwrap_or(f64::INFINITY), count.trim().parse().ok()?))
    };
    let buckets: Vec<(f64, f64)> = text.lines().filter_map(bucket).collect();
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    buckets.iter().find(|(_, count)| *count >= quantile * total).map_or(f64::NAN, |(bound, _)| bound * 1e3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_endpoints_of_which_twenty_a_second_are_replaced_are_routed_to_as_they_live() {
    let scale = Scale::wanted();
    let world = World::new(NAMESPACE).await;
    let address = world.gateway().await;
    world.service("app").await;
    world.route("app", "app").await;
    // A process may have 20,000 connections open on many machines, and the crowd is one process.
    world
        .apply(
            "apiVersion: trimtab.dev/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {name: app, namespace: NAMESPACE}\n\
             spec: {targetRefs: [{name: app}], timeout: {http: {connectionIdleTimeout: 10s}}}",
        )
        .await;
    let writer = Writer {
        crowd: Arc::new(world.cluster.crowd().await.expect("a crowd")),
        slices: Api::namespaced(world.admin.clone(), NAMESPACE),
        pods: scale.full.then(|| Api::namespaced(world.admin.clone(), NAMESPACE)),
        members: Arc::new((0..scale.slices).map(|_| Mutex::default()).collect()),
        writing: Arc::new((0..scale.slices).map(|_| tokio::sync::Mutex::default()).collect()),
        next: Arc::new(AtomicUsize::new(1)),
    };
    let began = Instant::now();
    futures_util::stream::iter(0..scale.slices)
        .map(|index| {
            let writer = &writer;
            async move {
                let made: Vec<Endpoint> =
                    futures_util::stream::iter(0..scale.per_slice).then(|_| writer.pod()).collect().await;
                writer.members[index].lock().expect("not poisoned").extend(made);
                writer.slices.create(&PostParams::default(), &writer.slice(index)).await
            }
        })
        .buffer_unordered(8)
        .try_collect::<Vec<_>>()
        .await
        .expect("the slices are taken");
    println!("{} slices written in {:.1} s", scale.slices, began.elapsed().as_secs_f64());

    let (controller, port) = world.controller("one");
    controller.wait_for("proxies connect to");
    let proxies: Vec<Process> = (0..PROXIES).map(|_| world.proxy(&[port])).collect();
    for proxy in &proxies {
        world.ready(proxy).await;
    }
    let admins: Vec<SocketAddr> = proxies.iter().map(|proxy| proxy.address("admin")).collect();
    let (client, dashboard) = (Client::default(), controller.address("dashboard"));
    let total = scale.slices * scale.per_slice;
    let view = || async { client.get(dashboard, "/api/v1/view").await.expect("a view").json() };
    let counted = |view: &Value| view["backends"][0]["endpoints"].as_array().map_or(0, Vec::len);
    let listed = || async { counted(&view().await) };
    eventually("the controller has them all", PATIENCE, listed, |count| *count == total).await;
    tokio::time::sleep(Duration::from_secs(3)).await;

    let seconds = scale.seconds + 4;
    let load = Command::new(own_binary("cluster-crowd").expect("it is built"))
        .args(["load", "--address", &address.to_string(), "--rps", &scale.rps.to_string()])
        .args(["--connections", "96", "--seconds", &seconds.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a load");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let processes = || proxies.iter().map(Process::id).chain([controller.id(), writer.crowd.id()]);
    let before: Vec<f64> = processes().map(|process| usage(process).0).collect();
    let began = Instant::now();
    let mut followed = Vec::new();
    let mut due = tokio::time::interval(Duration::from_secs(1) / REPLACED_PER_S);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for change in 0..(scale.seconds * REPLACED_PER_S) as usize {
        due.tick().await;
        let (writer, client, admins) = (writer.clone(), client.clone(), admins.clone());
        let (index, follow) = (change % scale.slices, change % FOLLOWED == 0);
        followed.push(tokio::spawn(async move {
            let (taken, name) = writer.replace(index).await;
            match follow {
                true => Some(known(&client, &admins, &name, taken).await),
                false => None,
            }
        }));
    }
    let replaced = followed.len();
    let mut took_ms = Vec::new();
    for one in followed {
        took_ms.extend(one.await.expect("no panic"));
    }
    let elapsed_s = began.elapsed().as_secs_f64();
    let after: Vec<(f64, f64)> = processes().map(usage).collect();
    let cores: Vec<f64> = before.iter().zip(&after).map(|(before, (after, _))| (after - before) / elapsed_s).collect();
    took_ms.sort_by(f64::total_cmp);
    let at = |share: f64| took_ms[((took_ms.len() - 1) as f64 * share).round() as usize];
    let metrics = client.get(dashboard, "/metrics").await.expect("metrics").text();
    let output = tokio::task::spawn_blocking(move || load.wait_with_output()).await.expect("no panic").expect("a load");
    let sent: Value = serde_json::from_slice(&output.stdout).expect("what came of the load");
    let stats = writer.crowd.stats().await.expect("counts");
    let answers = sent["answers"].as_u64().expect("a number");
    let failed: u64 = sent["failed"].as_object().expect("counts").values().filter_map(Value::as_u64).sum();
    let answered = answers as f64 / (answers + failed) as f64;
    let rss_mib = after[PROXIES].1;
    println!(
        "{total} endpoints, {PROXIES} proxies, {replaced} pods replaced in {elapsed_s:.1} s; machine's load {}",
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    );
    println!("requests: {answers} answered, {failed} not ({:.4} %): {sent}", 100.0 * answered);
    println!("crowd: {stats}, {:.2} cores", cores[PROXIES + 1]);
    println!(
        "a change from the API server's answer to all proxies ({} followed): p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, worst {:.0} ms",
        took_ms.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
    println!("controller: {:.2} cores, at most {rss_mib:.0} MiB", cores[PROXIES]);
    println!(
        "proxies: {:.2?} cores, at most {:.0?} MiB",
        &cores[..PROXIES],
        after[..PROXIES].iter().map(|(_, mib)| *mib).collect::<Vec<_>>()
    );
    let tick = |quantile| quantile_ms(&metrics, "trimtab_controller_tick_seconds", quantile);
    println!("ticks: p50 <= {:.0} ms, p99 <= {:.0} ms", tick(0.5), tick(0.99));
    let propagation = |quantile| quantile_ms(&metrics, "trimtab_controller_propagation_seconds", quantile);
    println!(
        "a push until all proxies have acknowledged it: p50 <= {:.0} ms, p99 <= {:.0} ms",
        propagation(0.5),
        propagation(0.99)
    );

    if at(1.0).is_infinite() {
        let texts = proxies.iter().chain([&controller]).map(Process::text).collect::<Vec<_>>().join("\n\n");
        panic!("proxies have not heard of pods:\n{metrics}\n{texts}");
    }
    // Times are measured, not asserted: machines are shared. What must hold anywhere is that nobody is lost.
    assert!(answered >= 0.9999, "{sent}");
    tokio::time::sleep(GRACE + Duration::from_secs(3)).await;
    eventually("who has gone is gone, and nobody else", PATIENCE, listed, |count| *count == total).await;
    assert!(rss_mib <= if scale.full { 256.0 } else { 384.0 }, "{rss_mib}");
}
