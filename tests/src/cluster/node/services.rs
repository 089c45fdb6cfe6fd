//! Services: what kube-proxy and the cluster's DNS do. This machine has the cluster IPs, and passes each TCP connection there on to an
//! endpoint; names of Services are in the `hosts` file that every container has.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event, watcher};
use rand::Rng;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::RETRY;
use super::pod::Shared;
use crate::cluster::network::Network;

/// Endpoints of one port of a Service.
type Endpoints = Arc<Mutex<Vec<SocketAddr>>>;

/// Changes that come within this time of each other are taken over together, as kube-proxy does: of thousands of endpoints some change all the time.
const GATHER: Duration = Duration::from_millis(50);

/// Follows Services and their endpoints, without end.
pub(super) async fn run(shared: Arc<Shared>) {
    let (client, config) = (&shared.client, watcher::Config::default);
    let mut services = watcher(Api::<Service>::all(client.clone()), config()).boxed();
    let mut slices = watcher(Api::<EndpointSlice>::all(client.clone()), config()).boxed();
    let mut namespaces = watcher(Api::<Namespace>::all(client.clone()), config()).boxed();
    let mut known = Known::default();
    let mut forwarding = HashMap::new();
    let mut due: Option<Instant> = None;
    loop {
        let fine = tokio::select! {
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = None;
                known.forward(&shared.network, &mut forwarding).await;
                for namespace in known.namespaces.all.values().filter_map(|namespace| namespace.metadata.name.as_deref()) {
                    write_names(&shared.network, namespace, &known.names(namespace));
                }
                continue;
            }
            Some(event) = services.next() => known.services.take(event),
            Some(event) = slices.next() => known.slices.take(event),
            Some(event) = namespaces.next() => known.namespaces.take(event),
        };
        due = due.or_else(|| Some(Instant::now() + GATHER));
        if !fine {
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Objects of one kind.
struct Objects<K: kube::Resource<DynamicType = ()>> {
    all: HashMap<ObjectRef<K>, K>,
    listed: HashMap<ObjectRef<K>, K>,
}

impl<K: kube::Resource<DynamicType = ()>> Default for Objects<K> {
    fn default() -> Self {
        Self { all: HashMap::new(), listed: HashMap::new() }
    }
}

impl<K: kube::Resource<DynamicType = ()> + Clone> Objects<K> {
    /// Takes an event of a watch; false if it was an error.
    fn take(&mut self, event: Result<Event<K>, watcher::Error>) -> bool {
        match event {
            Ok(Event::Apply(object)) => {
                self.all.insert(ObjectRef::from_obj(&object), object);
            }
            Ok(Event::Delete(object)) => {
                self.all.remove(&ObjectRef::from_obj(&object));
            }
            Ok(Event::Init) => self.listed.clear(),
            Ok(Event::InitApply(object)) => {
                self.listed.insert(ObjectRef::from_obj(&object), object);
            }
            Ok(Event::InitDone) => self.all = std::mem::take(&mut self.listed),
            Err(_) => return false,
        }
        true
    }
}

#[derive(Default)]
struct Known {
    services: Objects<Service>,
    slices: Objects<EndpointSlice>,
    namespaces: Objects<Namespace>,
}

impl Known {
    /// Where requests for a port of a Service may go: endpoints that are ready, else those that still serve while they end.
    fn endpoints(&self, service: &Service, port_name: Option<&str>) -> Vec<SocketAddr> {
        let (mut ready, mut ending) = (Vec::new(), Vec::new());
        for slice in self.slices_of(service) {
            let named = |name: &Option<String>| name.as_deref().unwrap_or_default() == port_name.unwrap_or_default();
            let port = slice.ports.iter().flatten().find(|port| named(&port.name)).and_then(|port| port.port);
            let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { continue };
            for endpoint in &slice.endpoints {
                let conditions = endpoint.conditions.clone().unwrap_or_default();
                let addresses = endpoint.addresses.iter().filter_map(|address| address.parse::<IpAddr>().ok());
                let addresses = addresses.map(|address| SocketAddr::new(address, port));
                if conditions.ready != Some(false) {
                    ready.extend(addresses);
                } else if conditions.serving == Some(true) {
                    ending.extend(addresses);
                }
            }
        }
        if ready.is_empty() { ending } else { ready }
    }

    fn slices_of<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a EndpointSlice> {
        self.slices.all.values().filter(|slice| {
            let label = slice.metadata.labels.as_ref().and_then(|labels| labels.get("kubernetes.io/service-name"));
            slice.metadata.namespace == service.metadata.namespace && label == service.metadata.name.as_ref()
        })
    }

    /// Brings the listeners on cluster IPs in line with the Services.
    async fn forward(&self, network: &Network, forwarding: &mut HashMap<SocketAddr, (Endpoints, AbortHandle)>) {
        let mut wanted = HashMap::new();
        for service in self.services.all.values() {
            let Some(address) = cluster_ip(service) else { continue };
            for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                let tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
                if let (true, Ok(number)) = (tcp, u16::try_from(port.port)) {
                    let at = SocketAddr::new(address.into(), number);
                    wanted.insert(at, self.endpoints(service, port.name.as_deref()));
                }
            }
        }
        let addresses = |all: &mut dyn Iterator<Item = &SocketAddr>| all.map(SocketAddr::ip).collect::<BTreeSet<_>>();
        let before = addresses(&mut forwarding.keys());
        forwarding.retain(|at, (_, task)| {
            let keep = wanted.contains_key(at);
            if !keep {
                task.abort();
            }
            keep
        });
        let after = addresses(&mut wanted.keys());
        for address in before.difference(&after) {
            // An address that is gone already is what was wanted.
            if let IpAddr::V4(address) = address {
                let _ = network.remove_service(*address);
            }
        }
        for (at, endpoints) in wanted {
            if let Some((current, _)) = forwarding.get(&at) {
                *current.lock().unwrap_or_else(PoisonError::into_inner) = endpoints;
                continue;
            }
            let IpAddr::V4(address) = at.ip() else { continue };
            // A Service whose address cannot be had is tried again at the next event.
            if network.add_service(address).is_err() {
                continue;
            }
            if let Ok(listener) = TcpListener::bind(at).await {
                let endpoints = Arc::new(Mutex::new(endpoints));
                let task = tokio::spawn(accept(listener, Arc::clone(&endpoints))).abort_handle();
                forwarding.insert(at, (endpoints, task));
            }
        }
    }

    /// Addresses by name, as a pod of this namespace finds them.
    fn names(&self, namespace: &str) -> BTreeMap<String, Vec<IpAddr>> {
        let mut names = BTreeMap::new();
        for service in self.services.all.values() {
            let (Some(name), Some(own)) = (&service.metadata.name, &service.metadata.namespace) else { continue };
            let addresses: Vec<IpAddr> = match cluster_ip(service) {
                Some(address) => vec![address.into()],
                None => self.slices_of(service).flat_map(ready_addresses).collect(),
            };
            let mut all =
                vec![format!("{name}.{own}"), format!("{name}.{own}.svc"), format!("{name}.{own}.svc.cluster.local")];
            if own == namespace {
                all.push(name.clone());
            }
            names.extend(all.into_iter().map(|name| (name, addresses.clone())));
        }
        names
    }
}

fn ready_addresses(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    slice
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false))
        .flat_map(|endpoint| &endpoint.addresses)
        .filter_map(|address| address.parse().ok())
}

/// The cluster IP of a Service that has one.
fn cluster_ip(service: &Service) -> Option<Ipv4Addr> {
    service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

/// Passes connections on to endpoints, one drawn for each.
async fn accept(listener: TcpListener, endpoints: Endpoints) {
    let mut rng = StdRng::from_os_rng();
    loop {
        let Ok((mut client, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let target = {
            let endpoints = endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            // No endpoint: the connection is closed, as kube-proxy rejects it.
            if endpoints.is_empty() {
                continue;
            }
            endpoints[rng.random_range(0..endpoints.len())]
        };
        tokio::spawn(async move {
            let connecting = tokio::time::timeout(Duration::from_secs(5), TcpStream::connect(target));
            if let Ok(Ok(mut endpoint)) = connecting.await {
                let _ = (client.set_nodelay(true), endpoint.set_nodelay(true));
                // Either side may end the connection as it likes.
                let _ = copy_bidirectional(&mut client, &mut endpoint).await;
            }
        });
    }
}

fn write_names(network: &Network, namespace: &str, names: &BTreeMap<String, Vec<IpAddr>>) {
    let mut text = "127.0.0.1 localhost\n".to_owned();
    for (name, addresses) in names {
        for address in addresses {
            let _ = writeln!(text, "{address} {name}");
        }
    }
    // Replaced as a whole: who reads it meanwhile sees the old or the new one. The folder is there until the cluster ends.
    if let Ok(folder) = network.names(namespace) {
        let (file, next) = (folder.join("hosts"), folder.join("next"));
        if std::fs::read_to_string(&file).is_ok_and(|old| old == text) {
            return;
        }
        let _ = std::fs::write(&next, text).and_then(|()| std::fs::rename(&next, &file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(service: serde_json::Value, endpoints: serde_json::Value) -> (Known, Service) {
        let meta = serde_json::json!({ "name": "web", "namespace": "shop" });
        let service: Service =
            serde_json::from_value(serde_json::json!({ "metadata": meta, "spec": service })).expect("a Service");
        let slice = serde_json::json!({
            "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9 }],
            "endpoints": endpoints,
        });
        let slice: EndpointSlice = serde_json::from_value(slice).expect("a slice");
        let mut known = Known::default();
        assert!(known.services.take(Ok(Event::Apply(service.clone()))) && known.slices.take(Ok(Event::Apply(slice))));
        (known, service)
    }

    #[test]
    fn ready_endpoints_are_taken_else_those_that_still_serve() {
        let endpoint = |address: &str, ready: bool, serving: bool| serde_json::json!({ "addresses": [address], "conditions": { "ready": ready, "serving": serving } });
        let (one, two, three) =
            (endpoint("10.0.0.1", true, true), endpoint("10.0.0.2", false, true), endpoint("10.0.0.3", false, false));
        let check = |endpoints: serde_json::Value, expected: &[&str]| {
            let (known, service) = known(serde_json::json!({ "clusterIP": "10.1.0.1" }), endpoints);
            let found: Vec<String> =
                known.endpoints(&service, Some("http")).iter().map(SocketAddr::to_string).collect();
            assert_eq!(found, expected);
        };
        check(serde_json::json!([one, two, three]), &["10.0.0.1:8080"]);
        check(serde_json::json!([two, three]), &["10.0.0.2:8080"]);
        check(serde_json::json!([three]), &[]);
    }

    #[test]
    fn names_lead_to_the_cluster_ip_or_to_the_endpoints() {
        let endpoints = serde_json::json!([{ "addresses": ["10.0.0.1"], "conditions": { "ready": true } }]);
        let address = |cluster_ip: &str, name: &str, namespace: &str| {
            let (known, _) = known(serde_json::json!({ "clusterIP": cluster_ip }), endpoints.clone());
            known.names(namespace).get(name).and_then(|all| all.first()).map(IpAddr::to_string)
        };
        assert_eq!(address("10.1.0.1", "web", "shop").as_deref(), Some("10.1.0.1"));
        assert_eq!(address("10.1.0.1", "web", "other"), None);
        assert_eq!(address("10.1.0.1", "web.shop.svc", "other").as_deref(), Some("10.1.0.1"));
        assert_eq!(address("None", "web.shop.svc.cluster.local", "other").as_deref(), Some("10.0.0.1"));
    }
}
