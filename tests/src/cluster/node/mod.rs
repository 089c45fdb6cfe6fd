//! Nodes for a test cluster: what kubelet, kube-scheduler and kube-proxy do, as far as tests need it.
//!
//! Pods are scheduled onto nodes in zones and run as real processes, each pod in a network namespace with an address of its own, each
//! container with a root of its own, its volumes where its spec mounts them, its user and a read-only root where the security context
//! says so. Images are programs of this tree (`images`). kube-controller-manager does the rest: Deployments and the other owners of Pods,
//! EndpointSlices, namespaces.

pub mod container;
pub mod environment;
pub mod images;
pub mod pod;
pub mod probe;
pub mod schedule;
pub mod services;
pub mod status;
pub mod volumes;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::pod::{Life, Shared};
use self::schedule::Candidate;
use super::access;
use super::network::{Network, PODS_FROM, Place};

/// Zones, one node each.
pub const ZONES: [&str; 3] = ["zone-a", "zone-b", "zone-c"];

/// How long is waited before the API server is asked again after an error.
const RETRY: Duration = Duration::from_millis(100);

/// The nodes of a cluster, in a thread and a runtime of their own: they outlive the tests that share them.
#[derive(Debug)]
pub struct Nodes {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Nodes {
    /// Starts the nodes and waits until the API server has them.
    ///
    /// # Errors
    /// If they cannot be made.
    pub async fn start(kubeconfig: &str, network: Arc<Network>) -> anyhow::Result<Self> {
        let (kubeconfig, (stop, stopped), (ready, started)) =
            (kubeconfig.to_owned(), oneshot::channel(), oneshot::channel());
        let thread = std::thread::Builder::new().name("nodes".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let runtime = runtime.expect("a runtime for the nodes");
            runtime.block_on(async move {
                tokio::select! {
                    _ = stopped => {}
                    () = run(kubeconfig, network, ready) => {}
                }
            });
            // Processes are killed with the network; nothing here is worth waiting for.
            runtime.shutdown_timeout(Duration::from_millis(500));
        })?;
        let nodes = Self { stop: Some(stop), thread: Some(thread) };
        started.await.context("the nodes ended early")??;
        Ok(nodes)
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there has been printed.
            let _ = thread.join();
        }
    }
}

async fn run(kubeconfig: String, network: Arc<Network>, ready: oneshot::Sender<anyhow::Result<()>>) {
    let nodes = match register(&kubeconfig, &network).await {
        Ok(nodes) => nodes,
        Err(error) => {
            // Whoever waits for it has the error; if nobody does, nobody needs it.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    let (client, nodes) = nodes;
    let shared = Arc::new(Shared { client, network });
    tokio::join!(
        services::run(Arc::clone(&shared)),
        Scheduler { shared, nodes, pods: HashMap::new(), placed: HashMap::new(), next: PODS_FROM }.run()
    );
}

/// Makes the nodes, in the network and in the API server.
async fn register(
    kubeconfig: &str,
    network: &Arc<Network>,
) -> anyhow::Result<(Client, Vec<(String, &'static str, Place)>)> {
    let client = access::client(kubeconfig).await?;
    let api: Api<Node> = Api::all(client.clone());
    let params = PatchParams::apply("tests-node").force();
    let mut nodes = Vec::new();
    for (index, zone) in (1..).zip(ZONES) {
        let (name, place) = (format!("node-{index}"), network.node(index));
        let (made, at) = (Arc::clone(network), place.clone());
        tokio::task::spawn_blocking(move || made.add(&at)).await??;
        let labels = json!({
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "topology.kubernetes.io/region": "region",
            "topology.kubernetes.io/zone": zone,
        });
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } });
        api.patch(&name, &params, &Patch::Apply(node)).await.with_context(|| format!("node {name}"))?;
        let room = json!({ "cpu": "64", "memory": "256Gi", "pods": "5000" });
        let status = json!({ "apiVersion": "v1", "kind": "Node", "status": {
            "addresses": [{ "type": "InternalIP", "address": place.address }, { "type": "Hostname", "address": name }],
            "capacity": room,
            "allocatable": room,
            "conditions": [{ "type": "Ready", "status": "True", "reason": "KubeletReady" }],
        }});
        api.patch_status(&name, &params, &Patch::Apply(status)).await.with_context(|| format!("status of {name}"))?;
        nodes.push((name, zone, place));
    }
    Ok((client, nodes))
}

/// Follows the pods of the API server: places those that have no node, and lives the lives of those that have one.
struct Scheduler {
    shared: Arc<Shared>,
    nodes: Vec<(String, &'static str, Place)>,
    /// Pods that live, by UID.
    pods: HashMap<String, Handle>,
    /// Those that were placed, which may not have come back yet.
    placed: HashMap<String, Placed>,
    next: u16,
}

/// Where a pod was placed.
struct Placed {
    node: String,
    /// What it belongs to.
    owner: Option<String>,
}

/// A pod that lives, as seen by the scheduler.
struct Handle {
    latest: watch::Sender<Arc<Pod>>,
    gone: CancellationToken,
    /// Whether a listing that is under way has shown it.
    listed: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

impl Scheduler {
    async fn run(mut self) {
        let pods: Api<Pod> = Api::all(self.shared.client.clone());
        let mut events = std::pin::pin!(watcher(pods, watcher::Config::default()));
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Init) => self.pods.values_mut().for_each(|handle| handle.listed = false),
                Ok(Event::InitApply(pod) | Event::Apply(pod)) => self.seen(pod).await,
                Ok(Event::InitDone) => {
                    self.pods.retain(|_, handle| handle.listed);
                    self.placed.retain(|uid, _| self.pods.contains_key(uid));
                }
                Ok(Event::Delete(pod)) => {
                    let uid = pod.metadata.uid.unwrap_or_default();
                    self.pods.remove(&uid);
                    self.placed.remove(&uid);
                }
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        }
    }

    async fn seen(&mut self, pod: Pod) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        if let Some(handle) = self.pods.get_mut(&uid) {
            handle.listed = true;
            handle.latest.send_replace(Arc::new(pod));
            return;
        }
        match pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
            Some(node) => self.start(uid, node, pod),
            None if pod.metadata.deletion_timestamp.is_none() => self.place(&pod).await,
            None => {}
        }
    }

    fn start(&mut self, uid: String, node: String, pod: Pod) {
        let Some((name, _, place)) = self.nodes.iter().find(|(name, ..)| *name == node).cloned() else { return };
        // 65,280 pods fit into the life of a cluster; addresses are not used twice, so that nobody mistakes a new pod for an old one.
        let index = self.next;
        self.next = self.next.checked_add(1).expect("addresses for more pods");
        let (latest, receiver) = watch::channel(Arc::new(pod));
        let gone = CancellationToken::new();
        let life =
            Life { shared: Arc::clone(&self.shared), node: (name, place), index, latest: receiver, gone: gone.clone() };
        tokio::spawn(life.live());
        self.pods.insert(uid, Handle { latest, gone, listed: true });
    }

    /// Binds a pod to a node. It comes back with the node in its spec.
    async fn place(&mut self, pod: &Pod) {
        let owner = schedule::owner(pod);
        let candidates: Vec<Candidate> = self
            .nodes
            .iter()
            .map(|(name, zone, _)| {
                let there = || self.placed.values().filter(|placed| placed.node == *name);
                let siblings = there().filter(|placed| owner.is_some() && placed.owner == owner).count();
                Candidate { name: name.clone(), zone: (*zone).to_owned(), siblings, pods: there().count() }
            })
            .collect();
        let Some(node) = schedule::choose(pod, &candidates) else { return };
        let node = node.name.clone();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": name, "namespace": namespace },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        // A pod that is gone meanwhile needs no node; a server that is away comes back with a new listing.
        let bound: kube::Result<serde_json::Value> =
            pods.create_subresource("binding", &name, &PostParams::default(), &binding).await;
        if bound.is_ok() {
            self.placed.insert(pod.metadata.uid.clone().unwrap_or_default(), Placed { node, owner });
        }
    }
}
