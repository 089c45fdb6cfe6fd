//! Configuration from the Kubernetes API: every kind is watched, and what it amounts to is published as a whole, a few milliseconds after
//! the first change. A kind that is not installed, or may not be read, does not stop the others.

mod kinds;
mod pods;
mod state;
mod store;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use gateway_api::{
    backendtlspolicies::BackendTlsPolicy,
    gatewayclasses::GatewayClass,
    gateways::Gateway,
    grpcroutes::GrpcRoute,
    httproutes::HttpRoute,
    referencegrants::{ReferenceGrant, ReferenceGrantSpec},
};
use k8s_openapi::api::{
    autoscaling::v2::HorizontalPodAutoscaler,
    core::v1::{ConfigMap, Namespace, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
    networking::v1::{Ingress, IngressClass},
};
use kube::{
    Api, Client, Config, Resource,
    config::{KubeConfigOptions, Kubeconfig},
    core::{ApiResource, NamespaceResourceScope, NotUsed, Object, PartialObjectMeta},
};
use tokio::{
    sync::{mpsc, watch as channel},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

pub use kinds::Current;
pub use state::{Currents, ProxyAddresses};

use self::{
    kinds::Watched,
    state::State,
    store::{Id, Scope},
    watch::{Change, Events, events},
};
use super::{Provider, ProviderError, Snapshot};
use crate::{clock, gateway::ingress::IngressPorts, policy::BackendTrafficPolicy, problem::Problem};

/// A change waits so long for others that come with it: a Deployment's rollout touches several objects at once.
const GATHER: Duration = Duration::from_millis(5);
/// Changes that wait to be taken in; then watches wait too.
const WAITING_MAX: usize = 4096;
/// A request to the API server that is not a watch; a watch is silent for less than the second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Which cluster, and what of it.
#[derive(Debug, Clone, Default)]
pub struct KubernetesOptions {
    /// A kubeconfig file; `None`: `KUBECONFIG`, the user's own, or the pod's service account, whichever is there first.
    pub kubeconfig: Option<PathBuf>,
    /// Namespaces to watch; empty: all of them.
    pub namespaces: Vec<String>,
    /// Where clients reach the proxies.
    pub addresses: ProxyAddresses,
    /// The ports of Ingresses.
    pub ingress_ports: IngressPorts,
}

/// A client for the API server that `kubeconfig` names, or the environment.
///
/// # Errors
/// The kubeconfig or the service account cannot be used.
pub async fn client(kubeconfig: Option<&PathBuf>) -> Result<Client, ProviderError> {
    let fault = |message: String| Problem { origin: None, object: None, field: None, message };
    let mut config = match kubeconfig {
        Some(path) => {
            let named = |error| fault(format!("{}: {error}", path.display()));
            let file = Kubeconfig::read_from(path).map_err(named)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(named)?
        }
        None => Config::infer().await.map_err(|error| fault(format!("no cluster to talk to: {error}")))?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(Client::try_from(config).map_err(|error| fault(format!("the API server's certificates or address: {error}")))?)
}

/// Watches of single objects, by what they are of.
type Singles = BTreeMap<Id, (Scope, AbortOnDropHandle<()>)>;

/// Follows a cluster.
pub struct Kubernetes {
    client: Client,
    namespaces: Vec<String>,
    /// The namespace of the Services in front of the proxies.
    home: Option<String>,
    state: State,
    sender: mpsc::Sender<Change>,
    changes: mpsc::Receiver<Change>,
    currents: channel::Sender<Arc<Currents>>,
    watches: Vec<AbortOnDropHandle<()>>,
    /// Watches of single Secrets, by what they are of.
    secrets: Singles,
    /// The same of ConfigMaps.
    config_maps: Singles,
    scopes: Scope,
}

impl Kubernetes {
    /// Follows the cluster that `client` talks to.
    pub fn new(client: Client, options: KubernetesOptions) -> Self {
        let (sender, changes) = mpsc::channel(WAITING_MAX);
        let ProxyAddresses { service, per_gateway, .. } = &options.addresses;
        let made = per_gateway.as_ref().and_then(|template| template.metadata.namespace.clone());
        let home = service.as_ref().map(|(namespace, _)| namespace.clone()).or(made);
        Self {
            client,
            namespaces: options.namespaces,
            home,
            state: State::new(options.addresses, options.ingress_ports),
            sender,
            changes,
            currents: channel::channel(Arc::default()).0,
            watches: Vec::new(),
            secrets: Singles::new(),
            config_maps: Singles::new(),
            scopes: 0,
        }
    }

    /// What is needed to write statuses, always the newest.
    pub fn currents(&self) -> channel::Receiver<Arc<Currents>> {
        self.currents.subscribe()
    }

    fn start(&mut self) {
        self.follow(|client| vec![events(Api::<GatewayClass>::all(client.clone()), None)]);
        self.follow(|client| vec![events(Api::<Namespace>::all(client.clone()), None)]);
        self.everywhere::<Gateway>();
        self.everywhere::<HttpRoute>();
        self.everywhere::<GrpcRoute>();
        self.follow(|client| vec![events(Api::<IngressClass>::all(client.clone()), None)]);
        self.everywhere::<Ingress>();
        self.everywhere::<Service>();
        self.everywhere::<EndpointSlice>();
        self.proxies();
        self.everywhere::<BackendTrafficPolicy>();
        self.everywhere::<BackendTlsPolicy>();
        self.everywhere::<PartialObjectMeta<Pod>>();
        self.everywhere::<HorizontalPodAutoscaler>();
        self.grants();
    }

    fn follow<K: Watched>(&mut self, versions: impl Fn(&Client) -> Vec<Events<K>>) -> Scope {
        let scope = self.scopes;
        self.scopes += 1;
        K::store(&mut self.state).begin(scope);
        let task = tokio::spawn(watch::keep(scope, versions(&self.client), self.sender.clone()));
        self.watches.push(AbortOnDropHandle::new(task));
        scope
    }

    /// Watches a kind in all namespaces that were asked for.
    fn everywhere<K: Watched + Resource<Scope = NamespaceResourceScope>>(&mut self) {
        for namespace in self.places() {
            let scope = self.follow(|client| match &namespace {
                Some(namespace) => vec![events(Api::<K>::namespaced(client.clone(), namespace), None)],
                None => vec![events(Api::<K>::all(client.clone()), None)],
            });
            namespace.iter().for_each(|namespace| self.state.place(scope, namespace));
        }
    }

    /// The Services in front of the proxies, whose namespace need not be among those that are followed.
    fn proxies(&mut self) {
        let Some(namespace) = self.home.clone() else { return };
        if !self.namespaces.is_empty() && !self.namespaces.contains(&namespace) {
            self.follow(|client| vec![events(Api::<Service>::namespaced(client.clone(), &namespace), None)]);
            self.follow(|client| vec![events(Api::<EndpointSlice>::namespaced(client.clone(), &namespace), None)]);
        }
    }

    /// ReferenceGrants were in v1beta1 for years, and are the same there.
    fn grants(&mut self) {
        type Older = Object<ReferenceGrantSpec, NotUsed>;
        let older = ApiResource {
            version: "v1beta1".to_owned(),
            api_version: "gateway.networking.k8s.io/v1beta1".to_owned(),
            ..ApiResource::erase::<ReferenceGrant>(&())
        };
        let newer = |older: Older| ReferenceGrant { metadata: older.metadata, spec: older.spec };
        for namespace in self.places() {
            let scope = self.follow(|client| {
                let (new, old) = match &namespace {
                    Some(namespace) => (
                        Api::namespaced(client.clone(), namespace),
                        Api::<Older>::namespaced_with(client.clone(), namespace, &older),
                    ),
                    None => (Api::all(client.clone()), Api::<Older>::all_with(client.clone(), &older)),
                };
                let old = events(old, None).map(move |event| event.map(|event| watch::map(event, newer)));
                vec![events(new, None), old.boxed()]
            });
            namespace.iter().for_each(|namespace| self.state.place(scope, namespace));
        }
    }

    fn places(&self) -> Vec<Option<String>> {
        match self.namespaces.is_empty() {
            true => vec![None],
            false => self.namespaces.iter().cloned().map(Some).collect(),
        }
    }

    /// Secrets and ConfigMaps are watched one by one, those alone that somebody refers to: nobody else's are read, and none lie about in memory.
    fn follow_singles(&mut self) {
        let mut secrets = std::mem::take(&mut self.secrets);
        self.follow_each::<Secret>(&mut secrets, self.state.wanted_secrets());
        self.secrets = secrets;
        let mut config_maps = std::mem::take(&mut self.config_maps);
        self.follow_each::<ConfigMap>(&mut config_maps, self.state.wanted_config_maps());
        self.config_maps = config_maps;
    }

    fn follow_each<K: Watched + Resource<Scope = NamespaceResourceScope>>(
        &mut self,
        followed: &mut Singles,
        wanted: BTreeSet<Id>,
    ) {
        for (_, (scope, _)) in followed.extract_if(.., |id, _| !wanted.contains(id)) {
            self.state.end::<K>(scope);
        }
        for id in wanted {
            if followed.contains_key(&id) {
                continue;
            }
            let (namespace, name) = &id;
            let api = Api::<K>::namespaced(self.client.clone(), namespace);
            let scope = self.scopes;
            self.scopes += 1;
            K::store(&mut self.state).begin(scope);
            self.state.place(scope, namespace);
            let versions = vec![events(api, Some(&format!("metadata.name={name}")))];
            let task = tokio::spawn(watch::keep::<K>(scope, versions, self.sender.clone()));
            followed.insert(id, (scope, AbortOnDropHandle::new(task)));
        }
    }

    /// Takes in what has come, waiting for the first of it. `false`: nothing will come any more.
    async fn take_in(&mut self) -> bool {
        let mut batch = Vec::new();
        if self.changes.recv_many(&mut batch, WAITING_MAX).await == 0 {
            return false;
        }
        batch.into_iter().for_each(|change| change(&mut self.state));
        true
    }

    /// Tells those who write statuses what has become of the objects.
    fn restate(&mut self) {
        if self.state.take_restated() {
            self.currents.send_replace(Arc::new(self.state.currents().clone()));
        }
    }
}

impl Provider for Kubernetes {
    /// Waits until everything has been listed, however long the API server takes: there is nothing to serve before.
    async fn first(&mut self) -> Result<Snapshot, ProviderError> {
        self.start();
        loop {
            if !self.take_in().await {
                let message = "the watches of the cluster have ended; this is a bug".to_owned();
                return Err(Problem { origin: None, object: None, field: None, message }.into());
            }
            if self.state.is_listed() {
                self.follow_singles();
            }
            if self.state.is_listed() {
                break;
            }
        }
        self.state.start(clock::now().at_ms);
        self.state.take_changed();
        self.restate();
        Ok(self.state.snapshot())
    }

    async fn watch(mut self, snapshots: channel::Sender<Arc<Snapshot>>, shutdown: CancellationToken) {
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = snapshots.closed() => return,
                open = self.take_in() => if !open { return },
                () = sleep_until(due), if due.is_some() => {
                    due = None;
                    snapshots.send_replace(Arc::new(self.state.snapshot()));
                }
            }
            self.restate();
            if self.state.take_changed() {
                self.follow_singles();
                due.get_or_insert_with(|| Instant::from_std(clock::now().instant + GATHER));
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
