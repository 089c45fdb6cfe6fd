//! What is known of pods beside their endpoints: annotations, and when they became ready. Pods are watched for their metadata alone: their
//! status changes several times a minute, and everything in it that matters is in the EndpointSlices.

use std::sync::Arc;

use k8s_openapi::api::{
    core::v1::Pod,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::core::PartialObjectMeta;
use trimtab_model::observation::EndpointKey;

use crate::{
    gateway::fingerprint::endpoint_key,
    keys::KeyMap,
    objects::{PodFacts, Pods, Workload},
};

/// Label of pods of Deployments.
pub(super) const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// Facts by endpoint, kept up with pods and slices.
#[derive(Debug, Default)]
pub(super) struct PodBook {
    facts: Pods,
    /// Pods that slices name.
    named: KeyMap<Named>,
    /// When pods were created; a pod that is not here is not there, or may not be read.
    created_ms: KeyMap<i64>,
}

/// A pod that slices name, or have named.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    /// Since when it has been ready.
    since_ms: Option<i64>,
    /// How many slices name it.
    slices: u32,
}

impl PodBook {
    /// All facts.
    pub fn facts(&self) -> Pods {
        self.facts.clone()
    }

    /// A pod is there, or has changed. Tells whether that matters to an endpoint.
    pub fn pod(&mut self, pod: &PartialObjectMeta<Pod>) -> bool {
        let Some(key) = pod.metadata.uid.as_deref().map(key) else { return false };
        let created_ms = pod.metadata.creation_timestamp.as_ref().map_or(0, |created| created.0.as_millisecond());
        self.created_ms.insert(key, created_ms);
        let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let path = annotation("prometheus.io/path").filter(|path| path.starts_with('/'));
        let facts = PodFacts {
            ready_since_ms: self.named.get(&key).and_then(|named| named.since_ms),
            scrape: annotation("prometheus.io/scrape").and_then(|value| value.parse().ok()),
            metrics_port: annotation("prometheus.io/port")
                .and_then(|value| value.parse().ok())
                .filter(|port| *port > 0),
            metrics_path: path.map(str::to_owned),
            workload: workload(pod),
        };
        self.set(key, facts) && self.named.get(&key).is_some_and(|named| named.slices > 0)
    }

    /// A pod is gone.
    pub fn gone(&mut self, pod: &PartialObjectMeta<Pod>) {
        if let Some(key) = pod.metadata.uid.as_deref().map(key) {
            self.created_ms.remove(&key);
            self.forget(key);
        }
    }

    /// Forgets a pod that is neither there nor named: slices name pods for a moment after they are gone.
    fn forget(&mut self, key: EndpointKey) {
        if self.created_ms.contains_key(&key) || self.named.get(&key).is_some_and(|named| named.slices > 0) {
            return;
        }
        self.named.remove(&key);
        if self.facts.contains_key(&key) {
            Arc::make_mut(&mut self.facts).remove(&key);
        }
    }

    /// Reads from a slice which pods are ready. One that was ready when the controller came is taken to be so since it was created (since
    /// ever, if nobody says when that was); another one since now: that is what slow start goes by.
    pub fn slice(
        &mut self,
        old: Option<&EndpointSlice>,
        new: Option<&EndpointSlice>,
        first_listing: bool,
        now_ms: i64,
    ) {
        for endpoint in new.iter().flat_map(|slice| &slice.endpoints) {
            let Some(key) = key_of(endpoint) else { continue };
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let named = self.named.entry(key).or_default();
            named.slices += 1;
            let before = named.since_ms;
            let since = match (ready, before) {
                (false, _) => None,
                (true, Some(since)) => Some(since),
                (true, None) if first_listing => Some(self.created_ms.get(&key).copied().unwrap_or(0)),
                (true, None) => Some(now_ms),
            };
            named.since_ms = since;
            if since != before || !self.facts.contains_key(&key) {
                let facts = self.facts.get(&key).map(|facts| (**facts).clone()).unwrap_or_default();
                self.set(key, PodFacts { ready_since_ms: since, ..facts });
            }
        }
        for key in old.iter().flat_map(|slice| &slice.endpoints).filter_map(key_of) {
            if let Some(named) = self.named.get_mut(&key) {
                named.slices = named.slices.saturating_sub(1);
            }
            self.forget(key);
        }
    }

    fn set(&mut self, key: EndpointKey, facts: PodFacts) -> bool {
        if self.facts.get(&key).is_some_and(|held| **held == facts) {
            return false;
        }
        Arc::make_mut(&mut self.facts).insert(key, Arc::new(facts));
        true
    }
}

/// What a pod belongs to. Pods of a Deployment are owned by a ReplicaSet whose name is the Deployment's and the hash that is a label of the pod:
/// that saves watching ReplicaSets.
fn workload(pod: &PartialObjectMeta<Pod>) -> Option<Workload> {
    let owner = pod.metadata.owner_references.as_ref()?.iter().find(|owner| owner.controller == Some(true))?;
    let hash = pod.metadata.labels.as_ref().and_then(|labels| labels.get(TEMPLATE_HASH_LABEL));
    let deployment =
        hash.filter(|_| owner.kind == "ReplicaSet").and_then(|hash| owner.name.strip_suffix(hash.as_str()));
    match deployment.and_then(|name| name.strip_suffix('-')) {
        Some(name) => Some(Workload { kind: "Deployment".to_owned(), name: name.to_owned() }),
        None => Some(Workload { kind: owner.kind.clone(), name: owner.name.clone() }),
    }
}

fn key_of(endpoint: &Endpoint) -> Option<EndpointKey> {
    endpoint.target_ref.as_ref()?.uid.as_deref().map(key)
}

fn key(uid: &str) -> EndpointKey {
    EndpointKey(endpoint_key(uid))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::{
        api::{core::v1::ObjectReference, discovery::v1::EndpointConditions},
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time},
        jiff::Timestamp,
    };

    use super::*;

    fn pod(annotations: &[(&str, &str)], created_ms: i64) -> PartialObjectMeta<Pod> {
        let text = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let annotations: BTreeMap<String, String> = annotations.iter().map(text).collect();
        let created = Timestamp::from_millisecond(created_ms).unwrap();
        PartialObjectMeta {
            metadata: ObjectMeta {
                uid: Some("u".to_owned()),
                annotations: Some(annotations),
                creation_timestamp: Some(Time(created)),
                ..ObjectMeta::default()
            },
            ..PartialObjectMeta::default()
        }
    }

    fn slice(ready: bool) -> EndpointSlice {
        let conditions = EndpointConditions { ready: Some(ready), ..EndpointConditions::default() };
        let target = ObjectReference { uid: Some("u".to_owned()), ..ObjectReference::default() };
        let endpoint = Endpoint { conditions: Some(conditions), target_ref: Some(target), ..Endpoint::default() };
        EndpointSlice { endpoints: vec![endpoint], ..EndpointSlice::default() }
    }

    fn ready_since(book: &PodBook) -> Option<i64> {
        book.facts().get(&key("u")).and_then(|facts| facts.ready_since_ms)
    }

    #[test]
    fn a_pod_is_new_when_it_becomes_ready_and_not_when_the_controller_comes() {
        let mut book = PodBook::default();
        book.pod(&pod(&[], 1_000));
        book.slice(None, Some(&slice(true)), true, 900_000);
        assert_eq!(ready_since(&book), Some(1_000));
        // It stays so, whatever else happens to the slice.
        book.slice(Some(&slice(true)), Some(&slice(true)), false, 950_000);
        assert_eq!(ready_since(&book), Some(1_000));
        book.slice(Some(&slice(true)), Some(&slice(false)), false, 960_000);
        assert_eq!(ready_since(&book), None);
        book.slice(Some(&slice(false)), Some(&slice(true)), false, 970_000);
        assert_eq!(ready_since(&book), Some(970_000));
    }

    #[test]
    fn annotations_that_make_no_sense_are_not_heeded() {
        let mut book = PodBook::default();
        book.slice(None, Some(&slice(true)), false, 5);
        let said = [("prometheus.io/scrape", "yes"), ("prometheus.io/port", "0"), ("prometheus.io/path", "metrics")];
        book.pod(&pod(&said, 1));
        assert_eq!(
            book.facts().get(&key("u")).map(|facts| (**facts).clone()),
            Some(PodFacts { ready_since_ms: Some(5), ..PodFacts::default() })
        );
        let said = [("prometheus.io/scrape", "false"), ("prometheus.io/port", "81"), ("prometheus.io/path", "/m")];
        assert!(book.pod(&pod(&said, 1)), "its endpoint is told of it");
        let facts = book.facts().get(&key("u")).cloned().unwrap();
        assert_eq!(
            (facts.scrape, facts.metrics_port, facts.metrics_path.as_deref()),
            (Some(false), Some(81), Some("/m"))
        );
    }

    #[test]
    fn a_pod_that_no_slice_names_disturbs_nobody() {
        let mut book = PodBook::default();
        assert!(!book.pod(&pod(&[("prometheus.io/port", "81")], 1)));
        book.gone(&pod(&[], 1));
        assert!(book.facts().is_empty());
    }

    #[test]
    fn a_pod_belongs_to_what_its_replica_set_was_made_for() {
        let owned = |kind: &str, name: &str| {
            let owner = OwnerReference {
                kind: kind.to_owned(),
                name: name.to_owned(),
                controller: Some(true),
                ..OwnerReference::default()
            };
            let mut pod = pod(&[], 1);
            pod.metadata.labels = Some(BTreeMap::from([(TEMPLATE_HASH_LABEL.to_owned(), "5d5f7c8b9d".to_owned())]));
            pod.metadata.owner_references = Some(vec![owner]);
            workload(&pod).map(|workload| format!("{} {}", workload.kind, workload.name))
        };
        assert_eq!(owned("ReplicaSet", "web-app-5d5f7c8b9d").as_deref(), Some("Deployment web-app"));
        assert_eq!(owned("ReplicaSet", "by-hand").as_deref(), Some("ReplicaSet by-hand"));
        assert_eq!(owned("StatefulSet", "db").as_deref(), Some("StatefulSet db"));
        assert_eq!(workload(&pod(&[], 1)), None);
    }

    #[test]
    fn what_was_known_of_a_pod_is_forgotten_when_nobody_names_it_any_more() {
        // Either may be the last to be heard of.
        for slice_first in [true, false] {
            let mut book = PodBook::default();
            book.pod(&pod(&[], 1));
            book.slice(None, Some(&slice(true)), false, 5);
            if slice_first {
                book.slice(Some(&slice(true)), None, false, 6);
                // It may move from one slice to another.
                assert_eq!(ready_since(&book), Some(5));
                book.gone(&pod(&[], 1));
            } else {
                book.gone(&pod(&[], 1));
                book.slice(Some(&slice(true)), Some(&slice(true)), false, 6);
                assert_eq!(ready_since(&book), Some(5));
                book.slice(Some(&slice(true)), None, false, 7);
            }
            assert!(book.facts().is_empty() && book.named.is_empty(), "{slice_first}");
        }
    }
}
