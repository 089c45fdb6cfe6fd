//! A Kubernetes cluster for tests: a real etcd, kube-apiserver and kube-controller-manager, and a small node that runs Pods as processes.
//!
//! `network` is where all of it runs, `control_plane` the real parts, `node` what runs Pods, `crowd` thousands of them in one
//! process, `access` the ways in. tests/README.md is the guide.

pub mod access;
pub mod certificates;
pub mod control_plane;
pub mod crowd;
pub mod network;
pub mod node;
pub mod objects;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{DynamicObject, PostParams};
use kube::{Api, Client};
use tokio::sync::OnceCell;

use self::access::Identity;
use self::control_plane::ControlPlane;
use self::crowd::Crowd;
use self::network::Network;
use self::node::Nodes;
use crate::tools::Tools;

/// A running cluster. Dropping it ends every process of it and removes its network and files; so does the end of this process.
#[derive(Debug)]
pub struct Cluster {
    /// First: who runs Pods stops before the API server does.
    _nodes: Nodes,
    control_plane: Mutex<ControlPlane>,
    kubeconfig: String,
    authority: String,
    server: String,
    /// Last: what runs in it is dropped before it.
    network: Arc<Network>,
}

static SHARED: OnceCell<Cluster> = OnceCell::const_new();

impl Cluster {
    /// Starts a cluster of its own.
    ///
    /// # Errors
    /// If a tool is missing, this is not root, or a part does not start.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(false).await
    }

    /// The same, with an audit log of who asked the API server for what.
    ///
    /// # Errors
    /// The same.
    pub async fn start_audited() -> anyhow::Result<Self> {
        Self::start_with(true).await
    }

    async fn start_with(audited: bool) -> anyhow::Result<Self> {
        let tools = Tools::find(&["kubernetes"]).await?;
        let network = Arc::new(Network::create()?);
        let control_plane = ControlPlane::start(&network, &tools, audited).await?;
        Ok(Self {
            _nodes: Nodes::start(&control_plane.kubeconfig, Arc::clone(&network)).await?,
            kubeconfig: control_plane.kubeconfig.clone(),
            authority: control_plane.authority.clone(),
            server: control_plane.server.clone(),
            control_plane: Mutex::new(control_plane),
            network,
        })
    }

    /// The cluster that the tests of a file share; started by the first of them.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn shared() -> &'static Self {
        SHARED.get_or_init(async || Self::start().await.expect("a cluster starts")).await
    }

    /// The administrator's kubeconfig: the text of one, as a file would have it.
    pub fn kubeconfig(&self) -> &str {
        &self.kubeconfig
    }

    /// The file with [`Cluster::kubeconfig`].
    pub fn kubeconfig_file(&self) -> PathBuf {
        self.network.folder().join("admin.kubeconfig")
    }

    /// A client of the administrator. It lives in the calling runtime: each test makes its own.
    ///
    /// # Panics
    /// If the kubeconfig is none, which would be a mistake of this harness.
    pub async fn client(&self) -> Client {
        access::client(&self.kubeconfig).await.expect("the administrator's kubeconfig is one")
    }

    /// A kubeconfig with a real token of a ServiceAccount, valid for an hour.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> anyhow::Result<String> {
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .with_context(|| format!("a token of ServiceAccount {namespace}/{name}"))?;
        let token = answer.status.context("a TokenRequest is answered with a token")?.token;
        Ok(access::kubeconfig(&self.server, &self.authority, &Identity::Token(token)))
    }

    /// A client with a real token of a ServiceAccount: it may do what RBAC grants that account.
    ///
    /// # Errors
    /// If there is no such account.
    pub async fn service_account(&self, namespace: &str, name: &str) -> anyhow::Result<Client> {
        access::client(&self.service_account_kubeconfig(namespace, name).await?).await
    }

    /// What a container of a pod has printed, over all its restarts; also after the pod is gone.
    pub fn logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        let file = self.network.logs(namespace, pod).join(format!("{container}.log"));
        std::fs::read_to_string(file).unwrap_or_default()
    }

    /// The audit log of [`Cluster::start_audited`]: an `audit.k8s.io/v1` Event in JSON a line.
    pub fn audit_log(&self) -> PathBuf {
        self.network.folder().join(control_plane::AUDIT_LOG)
    }

    /// Where the logs are: `NAMESPACE/POD/CONTAINER.log`.
    pub fn logs_folder(&self) -> PathBuf {
        self.network.folder().join("logs")
    }

    /// etcd, the API server and the controllers, for tests of outages. Held as a lock: do not keep it over an `await`.
    pub fn control_plane(&self) -> MutexGuard<'_, ControlPlane> {
        self.control_plane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has etcd forget all revisions but the present one, as it does by itself from time to time, and returns its number: watches that go on from
    /// an older one have expired.
    ///
    /// # Errors
    /// If etcd does not answer.
    pub async fn compact(&self) -> anyhow::Result<u64> {
        let network = Arc::clone(&self.network);
        tokio::task::spawn_blocking(move || {
            // The JSON face of etcd's own API.
            let ask = |path: &str, body: &str| -> anyhow::Result<serde_json::Value> {
                const POST: &str = r#"exec 3<>/dev/tcp/127.0.0.1/2379
printf 'POST %s HTTP/1.0\r\nContent-Length: %s\r\n\r\n%s' "$1" "${#2}" "$2" >&3
cat <&3"#;
                let output =
                    Network::command(network.namespace(), "bash").args(["-c", POST, "post", path, body]).output()?;
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                let (head, body) = text.split_once("\r\n\r\n").context("no answer")?;
                anyhow::ensure!(head.contains(" 200 "), "{path}: {text}");
                Ok(serde_json::from_str(body)?)
            };
            let status = ask("/v3/maintenance/status", "{}")?;
            let revision = status["header"]["revision"].as_str().context("no revision")?.to_owned();
            ask("/v3/kv/compaction", &format!(r#"{{"revision": "{revision}", "physical": true}}"#))?;
            Ok(revision.parse()?)
        })
        .await?
    }

    /// Starts thousands of pods that share a process; endpoints are the test's to write.
    ///
    /// # Errors
    /// If their network or process cannot be had.
    pub async fn crowd(&self) -> anyhow::Result<Crowd> {
        Crowd::start(&self.network).await
    }

    /// Waits until the API server is ready (again).
    ///
    /// # Errors
    /// If it is not in time.
    pub async fn api_ready(&self) -> anyhow::Result<()> {
        control_plane::wait_until_ready(&self.kubeconfig).await
    }

    /// Applies the objects of a YAML text, in its order, as server-side apply by the administrator.
    ///
    /// # Errors
    /// If the text is no YAML, or the API server refuses an object (which one is said).
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        objects::apply(&self.client().await, objects::parse(yaml)?, false).await
    }

    /// Has the API server check objects as if they were applied, and change nothing.
    ///
    /// # Errors
    /// If it refuses one (which one is said).
    pub async fn try_apply(&self, objects: Vec<DynamicObject>) -> anyhow::Result<()> {
        objects::apply(&self.client().await, objects, true).await
    }
}
