//! Trimtab in the test cluster: controllers and proxies as processes of their own, with the tokens of ServiceAccounts that may do what the
//! deployed ones may. Each test has a namespace, a lease and ports of its own, and shares the cluster with the others.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use trimtab::demo::pod::{Pod, PodSpec};
use trimtab::demo::service_time::ServiceTime;

use crate::cluster::Cluster;
use crate::http::{Answer, Client as Http, eventually};
use crate::process::{Ended, Process};
use crate::tools::Tools;

/// How long anything may take that needs no patience in itself: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of the answers of pod 0; pod N's have N more.
const BODY_BYTES: u64 = 100;

/// What the deployment grants the controller.
pub const RBAC: &str = include_str!("../../deploy/kubernetes/controller-rbac.yaml");
/// Our own definitions.
const CRDS: &str = include_str!("../../deploy/crds/trimtab.dev.yaml");

static INSTALLED: OnceCell<()> = OnceCell::const_new();

/// One test's part of the cluster.
pub struct World {
    /// The cluster.
    pub cluster: &'static Cluster,
    /// The namespace of this test.
    pub namespace: String,
    /// An address of this machine that EndpointSlices take.
    pub host: IpAddr,
    /// An administrator's client.
    pub admin: Client,
    /// The file with the controller's kubeconfig.
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
}

impl World {
    /// A namespace of its own in the cluster that all tests of a file share, with everything installed.
    ///
    /// # Panics
    /// If something cannot be installed.
    pub async fn new(namespace: &str) -> World {
        let cluster = Cluster::shared().await;
        let all = async || {
            roles(cluster).await.expect("roles are taken");
            definitions(cluster).await.expect("definitions are taken");
        };
        INSTALLED.get_or_init(all).await;
        World::within(cluster, namespace).await
    }

    /// A cluster of its own in which nothing is installed but the controller's permissions.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn bare(namespace: &str) -> World {
        // It ends with this process, as the shared one does.
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start().await.expect("a cluster starts")));
        roles(cluster).await.expect("roles are taken");
        World::within(cluster, namespace).await
    }

    /// A cluster of its own with everything installed.
    ///
    /// # Panics
    /// If it does not start, or something cannot be installed.
    pub async fn of_its_own(namespace: &str) -> World {
        let world = World::bare(namespace).await;
        world.install().await;
        world
    }

    /// The same, with the API server's audit log.
    ///
    /// # Panics
    /// The same.
    pub async fn audited(namespace: &str) -> World {
        let cluster: &'static Cluster = Box::leak(Box::new(Cluster::start_audited().await.expect("a cluster starts")));
        roles(cluster).await.expect("roles are taken");
        let world = World::within(cluster, namespace).await;
        world.install().await;
        world
    }

    /// Controllers that are started from now on are this account of the namespace `trimtab`.
    ///
    /// # Panics
    /// If there is none.
    pub async fn run_as(&mut self, account: &str) {
        let text = self.cluster.service_account_kubeconfig("trimtab", account).await.expect("a token");
        std::fs::write(&self.kubeconfig, text).expect("written");
    }

    /// Installs the definitions of the Gateway API and our own.
    ///
    /// # Panics
    /// If the API server refuses one.
    pub async fn install(&self) {
        definitions(self.cluster).await.expect("definitions are taken");
    }

    async fn within(cluster: &'static Cluster, namespace: &str) -> World {
        let namespaced =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {namespace}, labels: {{team: {namespace}}}}}");
        cluster.apply(&namespaced).await.expect("a namespace");
        let account = cluster.service_account_kubeconfig("trimtab", "trimtab-controller").await.expect("a token");
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("controller.kubeconfig");
        std::fs::write(&kubeconfig, account).expect("written");
        let admin = cluster.client().await;
        World { cluster, namespace: namespace.to_owned(), host: host(cluster), admin, kubeconfig, _folder: folder }
    }

    /// A controller with a lease of this test, and the port that proxies find it at.
    pub fn controller(&self, name: &str) -> (Process, u16) {
        self.controller_with(name, &[])
    }

    /// The same with more arguments.
    pub fn controller_with(&self, name: &str, more: &[&str]) -> (Process, u16) {
        let namespaces = format!("--namespaces={}", self.namespace);
        self.controller_everywhere(name, &[&[namespaces.as_str()], more].concat())
    }

    /// One that follows all namespaces.
    pub fn controller_everywhere(&self, name: &str, more: &[&str]) -> (Process, u16) {
        let grpc = free_port();
        let mut args: Vec<String> = [
            "controller",
            "--kubernetes",
            "--no-recordings",
            "--dashboard=127.0.0.1:0",
            "--lease-namespace=trimtab",
            "--gateway-address=127.0.0.1",
        ]
        .map(String::from)
        .into();
        args.push(format!("--kubeconfig={}", self.kubeconfig.display()));
        args.push(format!("--lease-name={}", self.namespace));
        args.push(format!("--controller-id={name}"));
        args.push(format!("--grpc=127.0.0.1:{grpc}"));
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        (Process::start(args), grpc)
    }

    /// A proxy of the controllers at these ports.
    pub fn proxy(&self, controllers: &[u16]) -> Process {
        self.proxy_with("http", controllers, &[])
    }

    /// The same by `https`, with more arguments.
    pub fn proxy_with(&self, scheme: &str, controllers: &[u16], more: &[String]) -> Process {
        let urls: Vec<String> = controllers.iter().map(|port| format!("{scheme}://127.0.0.1:{port}")).collect();
        let mut args = vec!["proxy".to_owned(), "--admin=127.0.0.1:0".to_owned(), "--workers=1".to_owned()];
        args.push(format!("--controller={}", urls.join(",")));
        args.extend(more.iter().cloned());
        Process::start(args)
    }

    /// Applies objects; those that name no namespace are in this test's.
    ///
    /// # Panics
    /// If the API server refuses one.
    pub async fn apply(&self, yaml: &str) {
        let yaml = yaml.replace("NAMESPACE", &self.namespace);
        self.cluster.apply(&yaml).await.unwrap_or_else(|error| panic!("{error:#}\n{yaml}"));
    }

    /// A Gateway of class `trimtab` that proxies on this machine listen for, and its address.
    pub async fn gateway(&self) -> SocketAddr {
        let port = free_port();
        self.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: g, namespace: NAMESPACE}}\nspec:\n  \
             gatewayClassName: trimtab\n  listeners:\n  - {{name: http, port: {port}, protocol: HTTP}}"
        ))
        .await;
        ([127, 0, 0, 1], port).into()
    }

    /// A Service without a selector, whose endpoints this test writes itself.
    pub async fn service(&self, name: &str) {
        self.apply(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: NAMESPACE}}\nspec:\n  ports: [{{name: http, port: 80}}]"
        ))
        .await;
    }

    /// A route for everything to a Service.
    pub async fn route(&self, name: &str, service: &str) {
        self.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: NAMESPACE}}\nspec:\n  \
             parentRefs: [{{name: g}}]\n  rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]"
        ))
        .await;
    }

    /// A pod that answers at once, in this process.
    ///
    /// # Panics
    /// If there is no port for it.
    pub async fn pod(&self, index: u64) -> Pod {
        let spec = PodSpec {
            name: format!("pod-{index}"),
            workers: 64,
            service: ServiceTime::Exponential { ms_mean: 2.0 },
            seed: index,
            // Tells pods apart by their answers.
            body_bytes: usize::try_from(BODY_BYTES + index).expect("a small number"),
            ..PodSpec::default()
        };
        Pod::start_at(spec, SocketAddr::new(self.host, 0)).await.expect("a pod starts")
    }

    /// Writes the endpoints of a Service: pods, and whether they are ready and terminating. One slice for each, as they have different ports.
    ///
    /// # Panics
    /// If the API server refuses one.
    pub async fn endpoints(&self, service: &str, pods: &[(&Pod, State)]) {
        for (index, (pod, state)) in pods.iter().enumerate() {
            self.endpoint(service, index, pod, *state).await;
        }
    }

    /// Writes one of them.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub async fn endpoint(&self, service: &str, index: usize, pod: &Pod, state: State) {
        self.endpoint_at(service, index, pod.address(), state).await;
    }

    /// Writes one that is anything at an address.
    ///
    /// # Panics
    /// If the API server refuses it.
    pub async fn endpoint_at(&self, service: &str, index: usize, address: SocketAddr, state: State) {
        let name = format!("{service}-{index}");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": address.port(), "protocol": "TCP" }],
            "endpoints": [{
                "addresses": [address.ip().to_string()],
                "conditions": {
                    "ready": state == State::Ready,
                    "serving": state != State::Unready,
                    "terminating": state == State::Terminating,
                },
                "targetRef": {
                    "kind": "Pod", "name": name, "namespace": self.namespace, "uid": format!("{}-{name}", self.namespace),
                },
            }],
        });
        let slices: Api<EndpointSlice> = Api::namespaced(self.admin.clone(), &self.namespace);
        let params = PatchParams::apply("test").force();
        slices.patch(&name, &params, &Patch::Apply(&slice)).await.expect("the slice is taken");
    }

    fn api(&self, group: &str, version: &str, kind: &str) -> Api<DynamicObject> {
        let kind_of = GroupVersionKind::gvk(group, version, kind);
        let resource = match kind {
            "BackendTrafficPolicy" => ApiResource::from_gvk_with_plural(&kind_of, "backendtrafficpolicies"),
            "GatewayClass" => ApiResource::from_gvk_with_plural(&kind_of, "gatewayclasses"),
            _ => ApiResource::from_gvk(&kind_of),
        };
        match kind {
            "GatewayClass" => Api::all_with(self.admin.clone(), &resource),
            _ => Api::namespaced_with(self.admin.clone(), &self.namespace, &resource),
        }
    }

    /// Deletes an object; one that is not there is none.
    ///
    /// # Panics
    /// If it may not be deleted.
    pub async fn delete(&self, group: &str, version: &str, kind: &str, name: &str) {
        let deleted = self.api(group, version, kind).delete(name, &DeleteParams::default()).await;
        match deleted {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => panic!("{kind} {name}: {error}"),
        }
    }

    /// An object as it stands.
    ///
    /// # Panics
    /// If it is not there.
    pub async fn stored(&self, group: &str, version: &str, kind: &str, name: &str) -> Value {
        let api = self.api(group, version, kind);
        let object = api.get(name).await.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
        serde_json::to_value(object).expect("an object is JSON")
    }

    /// Its status, with the `resourceVersion` of the object beside it.
    pub async fn status(&self, group: &str, version: &str, kind: &str, name: &str) -> Value {
        let mut object = self.stored(group, version, kind, name).await;
        let mut status = object["status"].take();
        if let Some(fields) = status.as_object_mut() {
            fields.insert("resourceVersion".to_owned(), object["metadata"]["resourceVersion"].take());
        }
        status
    }

    /// What `trimtab check` says, run by the administrator, of the cluster and of this controller.
    pub fn check(&self, leader: &Process) -> Ended {
        self.check_with(leader, &[])
    }

    /// The same with more arguments.
    pub fn check_with(&self, leader: &Process, more: &[&str]) -> Ended {
        let kubeconfig = format!("--kubeconfig={}", self.cluster.kubeconfig_file().display());
        let dashboard = format!("--dashboard=http://{}", leader.address("dashboard"));
        let args = ["check".to_owned(), kubeconfig, dashboard, format!("--lease={}", self.namespace)];
        Process::start(args.into_iter().chain(more.iter().map(|arg| (*arg).to_owned()))).end()
    }

    /// What a Secret holds.
    ///
    /// # Panics
    /// If there is none.
    pub async fn secret(&self, namespace: &str, name: &str) -> BTreeMap<String, Vec<u8>> {
        let secrets: Api<Secret> = Api::namespaced(self.admin.clone(), namespace);
        let secret = secrets.get(name).await.unwrap_or_else(|error| panic!("Secret {name}: {error}"));
        secret.data.unwrap_or_default().into_iter().map(|(name, bytes)| (name, bytes.0)).collect()
    }

    /// The Lease that the controllers of this test elect their leader by.
    pub async fn lease(&self) -> Value {
        let leases: Api<Lease> = Api::namespaced(self.admin.clone(), "trimtab");
        let lease = leases.get(&self.namespace).await.expect("there is a lease");
        serde_json::to_value(lease).expect("an object is JSON")
    }

    /// Events in this test's namespace, as `NAME REASON`.
    ///
    /// # Panics
    /// If they cannot be listed.
    pub async fn events(&self) -> Vec<String> {
        self.events_in(&self.namespace).await
    }

    /// The same in another namespace.
    ///
    /// # Panics
    /// If they cannot be listed.
    pub async fn events_in(&self, namespace: &str) -> Vec<String> {
        let events: Api<Event> = Api::namespaced(self.admin.clone(), namespace);
        let events = events.list(&ListParams::default()).await.expect("events are listed");
        let brief = |event: Event| {
            let name = event.regarding.and_then(|object| object.name).unwrap_or_default();
            format!("{name} {}", event.reason.unwrap_or_default())
        };
        events.items.into_iter().map(brief).collect()
    }

    /// The conditions of a route for its first parent.
    pub async fn route_conditions(&self, name: &str) -> Value {
        let status = self.status("gateway.networking.k8s.io", "v1", "HTTPRoute", name).await;
        status["parents"][0]["conditions"].clone()
    }

    /// Waits until a condition of a route is there, as [`brief`] says it.
    pub async fn route_says(&self, name: &str, kind: &str, wanted: &str) {
        let ask = || async { brief(&self.route_conditions(name).await, kind) };
        eventually(&format!("{name}: {kind} is {wanted}"), PATIENCE, ask, |found| found == wanted).await;
    }

    /// Waits until an Event in this test's namespace says so, as `NAME REASON`.
    pub async fn told(&self, wanted: &str) {
        eventually(wanted, PATIENCE, || self.events(), |events| events.iter().any(|event| event == wanted)).await;
    }

    /// A controller and a proxy that has its configuration.
    pub async fn served(&self, more: &[&str]) -> (Process, Process) {
        let (controller, port) = self.controller_with("one", more);
        controller.wait_for("proxies connect to");
        let proxy = self.proxy(&[port]);
        self.ready(&proxy).await;
        (controller, proxy)
    }

    /// Waits until a proxy has its configuration.
    pub async fn ready(&self, proxy: &Process) {
        let admin = proxy.address("admin");
        let http = Http::default();
        let ready = || async { http.get(admin, "/readyz").await.map(|answer| answer.status) };
        eventually("the proxy is ready", PATIENCE, ready, |status| *status == Ok(200)).await;
    }
}

/// The status of the answer to `GET PATH`, or what went wrong.
pub async fn status(address: SocketAddr, path: &str) -> Result<u16, String> {
    Http::default().get(address, path).await.map(|answer| answer.status)
}

/// A number of a controller's metrics, summed over what begins like that; 0 where it is not there.
///
/// # Panics
/// If the controller does not answer.
pub async fn metric(controller: &Process, name: &str) -> f64 {
    let text = Http::default().get(controller.address("dashboard"), "/metrics").await.expect("metrics").text();
    let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.filter_map(|value| value.parse::<f64>().ok()).sum()
}

/// Which pod an answer is of, as [`World::pod`] numbered it.
pub fn pod_of(answer: &Answer) -> u64 {
    answer.body.len() as u64 - BODY_BYTES
}

/// What an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It gets requests.
    Ready,
    /// It does not, and is not on its way out.
    Unready,
    /// It is on its way out and still serves.
    Terminating,
}

/// The condition of this type in a list of them.
pub fn condition<'a>(conditions: &'a Value, kind: &str) -> &'a Value {
    conditions.as_array().and_then(|list| list.iter().find(|one| one["type"] == kind)).unwrap_or(&Value::Null)
}

/// `status reason` of the condition of this type.
pub fn brief(conditions: &Value, kind: &str) -> String {
    let condition = condition(conditions, kind);
    let text = |field: &str| condition[field].as_str().unwrap_or("-").to_owned();
    format!("{} {}", text("status"), text("reason"))
}

/// A port that nobody has at the moment.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a socket").local_addr().expect("bound").port()
}

/// The address of this machine that faces the API server.
fn host(cluster: &Cluster) -> IpAddr {
    let kubeconfig: Value = serde_json::from_str(cluster.kubeconfig()).expect("a kubeconfig in JSON");
    let server = kubeconfig["clusters"][0]["cluster"]["server"].as_str().expect("a server");
    let server: http::Uri = server.parse().expect("a URL");
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect((server.host().expect("a host"), 9)).expect("a route");
    socket.local_addr().expect("bound").ip()
}

async fn roles(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: trimtab}").await?;
    cluster.apply(RBAC).await
}

async fn definitions(cluster: &Cluster) -> anyhow::Result<()> {
    let tools = Tools::find(&["gateway-api"]).await?;
    let folder = tools.path("gateway-crds")?;
    for kind in ["gatewayclasses", "gateways", "httproutes", "grpcroutes", "referencegrants", "backendtlspolicies"] {
        let text = std::fs::read_to_string(folder.join(format!("gateway.networking.k8s.io_{kind}.yaml")))?;
        cluster.apply(&text).await?;
    }
    cluster.apply(CRDS).await?;
    let class = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: trimtab}\n\
                 spec: {controllerName: trimtab.dev/gateway-controller}";
    // What was just defined is served a moment later; the last one is awaited as well.
    for _ in 0..100 {
        let policies: Api<DynamicObject> = Api::all_with(
            cluster.client().await,
            &ApiResource::from_gvk_with_plural(
                &GroupVersionKind::gvk("trimtab.dev", "v1alpha1", "BackendTrafficPolicy"),
                "backendtrafficpolicies",
            ),
        );
        if policies.list(&ListParams::default()).await.is_ok() && cluster.apply(class).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.apply(class).await
}
