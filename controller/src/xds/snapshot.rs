//! Every resource that proxies should have, as one immutable value behind one watch channel. A resource is encoded once, when it
//! changes, and shared by all streams. A reader that is slow finds only the newest value: nothing queues up.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

use prost::Message;
use tokio::sync::watch;
use trimtab_proxy::api;

use super::changes::BackendBody;
use crate::gateway::BackendSpec;
use crate::session_keys::SessionKeys;

/// The resource types, in the order in which a proxy must see additions: what is referred to comes before what refers to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1::Backend`.
    Backend,
    /// `v1::HttpRoute`. A listener that opens before its routes are known would answer 404 to its first clients.
    HttpRoute,
    /// `v1::Listener`.
    Listener,
    /// `v1::WeightTable`.
    WeightTable,
    /// `v1::ErrorTable`.
    ErrorTable,
    /// `v1::ClassTable`. After what matters more: proxies that do not know of classes get all of that.
    ClassTable,
    /// `v1::PeerTable`.
    PeerTable,
}

impl Kind {
    /// All types, in order of addition. Removals go the other way round.
    pub const ALL: [Self; 7] = [
        Self::Backend,
        Self::HttpRoute,
        Self::Listener,
        Self::WeightTable,
        Self::ErrorTable,
        Self::ClassTable,
        Self::PeerTable,
    ];

    /// Its type URL on the wire.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Backend => api::BACKEND_TYPE,
            Self::Listener => api::LISTENER_TYPE,
            Self::HttpRoute => api::HTTP_ROUTE_TYPE,
            Self::WeightTable => api::WEIGHT_TABLE_TYPE,
            Self::ErrorTable => api::ERROR_TABLE_TYPE,
            Self::ClassTable => api::CLASS_TABLE_TYPE,
            Self::PeerTable => api::PEER_TABLE_TYPE,
        }
    }

    /// The type of a URL; `None` for one that this server does not serve.
    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether it is a table that stands by itself, so that no other type waits until it is acknowledged: packed ones, which refer to a
    /// backend's endpoints by position, and that of peers.
    pub fn is_table(self) -> bool {
        matches!(self, Self::WeightTable | Self::ErrorTable | Self::ClassTable | Self::PeerTable)
    }

    /// Its position in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// One resource.
#[derive(Debug)]
pub struct Resource {
    /// Fingerprint of the content: a restarted controller gives equal content the version that proxies already have.
    pub version: Arc<str>,
    body: Body,
}

#[derive(Debug)]
enum Body {
    /// The protobuf message.
    Encoded(Vec<u8>),
    /// A backend, which may be sent in part.
    Backend(BackendBody),
}

impl Resource {
    /// Encodes a message.
    pub fn new(message: &impl Message) -> Self {
        let bytes = message.encode_to_vec();
        Self { version: version(&bytes), body: Body::Encoded(bytes) }
    }

    /// A backend, whose clients' sessions are signed with `keys`, and which proxies have as `before` if they have it.
    pub fn backend(spec: &BackendSpec, keys: &SessionKeys, before: Option<&Self>) -> Self {
        let before = before.and_then(|before| match &before.body {
            Body::Backend(body) => Some((&before.version, body)),
            Body::Encoded(_) => None,
        });
        let body = BackendBody::new(spec, keys, before);
        Self { version: version(body.head()), body: Body::Backend(body) }
    }

    /// The protobuf message.
    pub fn bytes(&self) -> &[u8] {
        match &self.body {
            Body::Encoded(bytes) => bytes,
            Body::Backend(body) => body.whole(),
        }
    }

    /// What is different from a version, where that can be said in less than the whole.
    pub fn since(&self, version: &str) -> Option<Vec<u8>> {
        match &self.body {
            Body::Encoded(_) => None,
            Body::Backend(body) => body.since(version),
        }
    }

    /// About how many bytes it takes for one who has a version, or none.
    pub fn size(&self, version: Option<&str>) -> usize {
        match &self.body {
            Body::Encoded(bytes) => bytes.len(),
            Body::Backend(body) => body.size(version),
        }
    }
}

fn version(bytes: &[u8]) -> Arc<str> {
    let mut hasher = DefaultHasher::new();
    hasher.write(bytes);
    format!("{:016x}", hasher.finish()).into()
}

/// Resources of one type by name.
pub type Resources = BTreeMap<Arc<str>, Arc<Resource>>;

/// All resources at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Counts up with every publication.
    pub number: u64,
    kinds: [Arc<Resources>; Kind::ALL.len()],
}

impl Snapshot {
    /// The resources of one type. As long as they do not change they are the same value.
    pub fn of(&self, kind: Kind) -> &Arc<Resources> {
        &self.kinds[kind.index()]
    }
}

/// The writing side: collects changes, then publishes them as one snapshot.
#[derive(Debug)]
pub struct Publisher {
    next: Snapshot,
    changed: bool,
    sender: watch::Sender<Arc<Snapshot>>,
}

impl Default for Publisher {
    fn default() -> Self {
        Self { next: Snapshot::default(), changed: false, sender: watch::channel(Arc::new(Snapshot::default())).0 }
    }
}

impl Publisher {
    /// A reader that always finds the newest snapshot.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }

    /// Number of the last published snapshot.
    pub fn number(&self) -> u64 {
        self.sender.borrow().number
    }

    /// Adds or replaces a resource; equal content changes nothing.
    pub fn set(&mut self, kind: Kind, name: &str, message: &impl Message) {
        self.put(kind, name, Resource::new(message));
    }

    /// Adds or replaces a backend, and remembers how its endpoints came to be what they are.
    pub fn set_backend(&mut self, spec: &BackendSpec, keys: &SessionKeys) {
        let kept = self.next.of(Kind::Backend).get(spec.name());
        let resource = Resource::backend(spec, keys, kept.map(|kept| &**kept));
        self.put(Kind::Backend, spec.name(), resource);
    }

    fn put(&mut self, kind: Kind, name: &str, resource: Resource) {
        let kept = self.next.of(kind).get(name);
        if kept.is_some_and(|kept| kept.version == resource.version) {
            return;
        }
        Arc::make_mut(&mut self.next.kinds[kind.index()]).insert(name.into(), Arc::new(resource));
        self.changed = true;
    }

    /// Removes a resource.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        if self.next.of(kind).contains_key(name) {
            Arc::make_mut(&mut self.next.kinds[kind.index()]).remove(name);
            self.changed = true;
        }
    }

    /// Removes every resource of the type whose name is not among `names`.
    pub fn retain(&mut self, kind: Kind, names: &BTreeSet<&str>) {
        if self.next.of(kind).keys().any(|name| !names.contains(&**name)) {
            Arc::make_mut(&mut self.next.kinds[kind.index()]).retain(|name, _| names.contains(&**name));
            self.changed = true;
        }
    }

    /// Publishes what changed; tells whether anything did.
    pub fn publish(&mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        self.next.number += 1;
        self.sender.send_replace(Arc::new(self.next.clone()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trimtab_proxy::api::v1;

    fn table(tick: u64) -> v1::WeightTable {
        v1::WeightTable { backend: "a/b:1".into(), tick, ..Default::default() }
    }

    #[test]
    fn equal_content_is_not_published_again() {
        let mut publisher = Publisher::default();
        publisher.set(Kind::WeightTable, "a/b:1", &table(1));
        assert!(publisher.publish());
        publisher.set(Kind::WeightTable, "a/b:1", &table(1));
        assert!(!publisher.publish());
        publisher.set(Kind::WeightTable, "a/b:1", &table(2));
        assert!(publisher.publish());
        assert_eq!(publisher.number(), 2);
    }

    #[test]
    fn a_published_snapshot_does_not_change_under_its_readers() {
        let mut publisher = Publisher::default();
        publisher.set(Kind::WeightTable, "a/b:1", &table(1));
        publisher.publish();
        let held = publisher.subscribe().borrow().clone();
        publisher.remove(Kind::WeightTable, "a/b:1");
        publisher.publish();
        assert_eq!(held.of(Kind::WeightTable).len(), 1);
        assert_eq!(publisher.subscribe().borrow().of(Kind::WeightTable).len(), 0);
    }
}
