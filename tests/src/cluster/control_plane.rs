//! etcd, kube-apiserver and kube-controller-manager: the real ones, as processes in the cluster's network namespace.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use kube::Client;

use super::access::{Identity, client, kubeconfig};
use super::certificates::{Authority, token_keys};
use super::network::Network;
use crate::tools::Tools;

/// How long the API server may take to become ready. It takes three seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// Controllers that tests need. Left out is what plays no part (volumes, certificates, quotas, nodes, legacy Endpoints).
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,daemonset-controller,statefulset-controller,job-controller,\
    cronjob-controller,ttl-after-finished-controller,disruption-controller,endpointslice-controller,namespace-controller,\
    garbage-collector-controller,serviceaccount-controller,serviceaccount-token-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller";

/// Name of the audit log in the cluster's folder.
pub(super) const AUDIT_LOG: &str = "audit.log";

/// Who did what to which kind of object, without the objects.
const AUDIT_POLICY: &str =
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n";

/// A process of the control plane that can be stopped, paused and started again.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    namespace: String,
    program: PathBuf,
    args: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Part {
    fn start(network: &Network, tools: &Tools, name: &'static str, args: Vec<String>) -> anyhow::Result<Self> {
        let log = network.folder().join(format!("{name}.log"));
        let program = tools.path(name)?.to_owned();
        let mut part = Self { name, namespace: network.namespace().to_owned(), program, args, log, child: None };
        part.run()?;
        Ok(part)
    }

    /// Starts it if it does not run.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn run(&mut self) -> anyhow::Result<()> {
        if self.child.is_none() {
            let log = File::options().create(true).append(true).open(&self.log)?;
            let child = Network::command(&self.namespace, &self.program)
                .args(&self.args)
                .stdout(log.try_clone()?)
                .stderr(log)
                .spawn()
                .with_context(|| format!("cannot start {}", self.name))?;
            self.child = Some(child);
        }
        Ok(())
    }

    /// Kills it, as a crash of its machine would.
    ///
    /// # Errors
    /// If it cannot be killed.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Stops its clock: connections stay, nothing answers. [`Part::resume`] ends that.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    /// Lets it go on after [`Part::pause`].
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} does not run", self.name))?;
        let status = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status()?;
        anyhow::ensure!(status.success(), "kill -{name} of {} failed", self.name);
        Ok(())
    }

    /// An error with the end of its log, if it has ended by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()).transpose()? {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            bail!("{} ended with {status}:\n{}", self.name, lines[lines.len().saturating_sub(10)..].join("\n"));
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // The network's end kills what is left.
        let _ = self.kill();
    }
}

/// The control plane of a cluster. Its parts are public: tests of outages stop and pause them.
#[derive(Debug)]
pub struct ControlPlane {
    /// `kube-controller-manager`. First, so that it is dropped before what it talks to.
    pub controllers: Part,
    /// `kube-apiserver`.
    pub api: Part,
    /// `etcd`.
    pub etcd: Part,
    /// Where the API server is.
    pub server: String,
    /// The authority's certificate, PEM.
    pub authority: String,
    /// The kubeconfig of an administrator.
    pub kubeconfig: String,
}

impl ControlPlane {
    /// Starts everything and waits until the API server is ready.
    ///
    /// # Errors
    /// If a part ends early (with the end of its log), or is not ready in time.
    pub async fn start(network: &Network, tools: &Tools, audited: bool) -> anyhow::Result<Self> {
        let (authority, server) = (Authority::new()?, format!("https://{}:6443", network.api()));
        let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"];
        let serving = authority.server(&names, &[network.api().into(), network.kubernetes().into()])?;
        let (token_key, token_public_key) = token_keys()?;
        let folder = network.folder();
        let admin = Identity::Certificate(authority.user("admin", Some("system:masters"))?);
        // All controllers as one user, who needs the rights of all of them: with accounts of their own each would ask for a token first.
        let manager = Identity::Certificate(authority.user("system:kube-controller-manager", Some("system:masters"))?);
        let kubeconfig = |identity| kubeconfig(&server, authority.certificate(), identity);
        let admin = kubeconfig(&admin);
        for (name, text) in [
            ("ca.crt", authority.certificate()),
            ("server.crt", &serving.certificate),
            ("server.key", &serving.key),
            ("token.key", &token_key),
            ("token.pub", &token_public_key),
            ("admin.kubeconfig", &admin),
            ("manager.kubeconfig", &kubeconfig(&manager)),
        ] {
            std::fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
        }
        let etcd = Part::start(network, tools, "etcd", etcd_args(folder))?;
        let mut args = api_args(network);
        if audited {
            std::fs::write(folder.join("audit.yaml"), AUDIT_POLICY).context("cannot write the audit policy")?;
            args.push(format!("--audit-policy-file={}", file(folder, "audit.yaml")));
            args.push(format!("--audit-log-path={}", file(folder, AUDIT_LOG)));
        }
        let api = Part::start(network, tools, "kube-apiserver", args)?;
        // It would wait for the API server by itself, but with back-off.
        let mut ready = Readiness { etcd, api };
        ready.wait(&client(&admin).await?).await?;
        let Readiness { etcd, api } = ready;
        let controllers = Part::start(network, tools, "kube-controller-manager", manager_args(folder))?;
        let authority = authority.certificate().to_owned();
        Ok(Self { controllers, api, etcd, server, authority, kubeconfig: admin })
    }
}

/// Waits until the API server answers `/readyz` with `ok`.
pub(super) async fn wait_until_ready(kubeconfig: &str) -> anyhow::Result<()> {
    let client = client(kubeconfig).await?;
    let start = Instant::now();
    while !is_ready(&client).await {
        anyhow::ensure!(start.elapsed() < PATIENCE, "kube-apiserver is not ready after {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    Ok(())
}

struct Readiness {
    etcd: Part,
    api: Part,
}

impl Readiness {
    async fn wait(&mut self, client: &Client) -> anyhow::Result<()> {
        let start = Instant::now();
        while !is_ready(client).await {
            self.etcd.check()?;
            self.api.check()?;
            anyhow::ensure!(start.elapsed() < PATIENCE, "kube-apiserver is not ready after {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        Ok(())
    }
}

async fn is_ready(client: &Client) -> bool {
    let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
    client.request_text(request).await.is_ok_and(|text| text == "ok")
}

fn file(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// Durability is for those who keep data longer than a test.
fn etcd_args(folder: &Path) -> Vec<String> {
    let (client, peer) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        format!("--data-dir={}", file(folder, "etcd")),
        "--unsafe-no-fsync".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ]
}

fn api_args(network: &Network) -> Vec<String> {
    let folder = network.folder();
    vec![
        "--etcd-servers=http://127.0.0.1:2379".to_owned(),
        format!("--bind-address={}", network.api()),
        format!("--advertise-address={}", network.api()),
        "--secure-port=6443".to_owned(),
        format!("--tls-cert-file={}", file(folder, "server.crt")),
        format!("--tls-private-key-file={}", file(folder, "server.key")),
        format!("--client-ca-file={}", file(folder, "ca.crt")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", file(folder, "token.pub")),
        format!("--service-account-signing-key-file={}", file(folder, "token.key")),
        format!("--service-cluster-ip-range={}", network.services()),
        "--allow-privileged=true".to_owned(),
        // New nodes would be tainted until the controller that watches over nodes, which does not run, has seen them.
        "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
        // Pods get the zone of their node as a label, as they do by default from Kubernetes 1.35 on (KEP-4742).
        "--feature-gates=PodTopologyLabelsAdmission=true".to_owned(),
        "--profiling=false".to_owned(),
    ]
}

/// The limits on requests are far above the defaults: tests wait for what it does.
fn manager_args(folder: &Path) -> Vec<String> {
    vec![
        format!("--kubeconfig={}", file(folder, "manager.kubeconfig")),
        format!("--controllers={CONTROLLERS}"),
        "--bind-address=127.0.0.1".to_owned(),
        "--leader-elect=false".to_owned(),
        format!("--service-account-private-key-file={}", file(folder, "token.key")),
        format!("--root-ca-file={}", file(folder, "ca.crt")),
        "--kube-api-qps=500".to_owned(),
        "--kube-api-burst=1000".to_owned(),
        "--profiling=false".to_owned(),
    ]
}
