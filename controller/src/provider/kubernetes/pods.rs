//! What is known of pods beside their endpoints: annotations, and when they became ready. Pods are watched for their metadata alone: their
//! status changes several times a minute, and everything in it that matters is in the EndpointSlices.

use std::sync::Arc;

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};
use kube::core::PartialObjectMeta;
use trimtab_model::observation::EndpointKey;

use crate::{
    gateway::fingerprint::endpoint_key,
    keys::KeyMap,
    objects::{PodFacts, Pods},
};

/// Facts by endpoint, kept up with pods and slices.
#[derive(Debug, Default)]
pub(super) struct PodBook {
    facts: Pods,
    /// Pods that some slice names, and since when they have been ready.
    named: KeyMap<Option<i64>>,
    /// When pods were created.
    created_ms: KeyMap<i64>,
}

impl PodBook {
    /// All facts.
    pub fn facts(&self) -> Pods {
        self.facts.clone()
    }

    /// A pod is there, or has changed. Tells whether that matters to an endpoint.
    pub fn pod(&mut self, pod: &PartialObjectMeta<Pod>) -> bool {
        let Some(key) = pod.metadata.uid.as_deref().map(key) else { return false };
        if let Some(created) = &pod.metadata.creation_timestamp {
            self.created_ms.insert(key, created.0.as_millisecond());
        }
        let annotation = |name: &str| pod.metadata.annotations.as_ref()?.get(name).map(String::as_str);
        let path = annotation("prometheus.io/path").filter(|path| path.starts_with('/'));
        let facts = PodFacts {
            ready_since_ms: self.named.get(&key).copied().flatten(),
            scrape: annotation("prometheus.io/scrape").and_then(|value| value.parse().ok()),
            metrics_port: annotation("prometheus.io/port")
                .and_then(|value| value.parse().ok())
                .filter(|port| *port > 0),
            metrics_path: path.map(str::to_owned),
        };
        self.set(key, facts) && self.named.contains_key(&key)
    }

    /// A pod is gone.
    pub fn gone(&mut self, pod: &PartialObjectMeta<Pod>) {
        if let Some(key) = pod.metadata.uid.as_deref().map(key) {
            self.named.remove(&key);
            self.created_ms.remove(&key);
            if self.facts.contains_key(&key) {
                Arc::make_mut(&mut self.facts).remove(&key);
            }
        }
    }

    /// Reads from a slice which pods are ready. One that was ready when the controller came is taken to be so since it was created (since
    /// ever, if nobody says when that was); another one since now: that is what slow start goes by.
    pub fn slice(&mut self, slice: &EndpointSlice, first_listing: bool, now_ms: i64) {
        for endpoint in &slice.endpoints {
            let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref());
            let Some(key) = uid.map(key) else { continue };
            let ready = endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true);
            let before = self.named.get(&key).copied().flatten();
            let since = match (ready, before) {
                (false, _) => None,
                (true, Some(since)) => Some(since),
                (true, None) if first_listing => Some(self.created_ms.get(&key).copied().unwrap_or(0)),
                (true, None) => Some(now_ms),
            };
            self.named.insert(key, since);
            if since != before || !self.facts.contains_key(&key) {
                let facts = self.facts.get(&key).map(|facts| (**facts).clone()).unwrap_or_default();
                self.set(key, PodFacts { ready_since_ms: since, ..facts });
            }
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

fn key(uid: &str) -> EndpointKey {
    EndpointKey(endpoint_key(uid))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::{
        api::{
            core::v1::ObjectReference,
            discovery::v1::{Endpoint, EndpointConditions},
        },
        apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
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
        book.slice(&slice(true), true, 900_000);
        assert_eq!(ready_since(&book), Some(1_000));
        // It stays so, whatever else happens to the slice.
        book.slice(&slice(true), false, 950_000);
        assert_eq!(ready_since(&book), Some(1_000));
        book.slice(&slice(false), false, 960_000);
        assert_eq!(ready_since(&book), None);
        book.slice(&slice(true), false, 970_000);
        assert_eq!(ready_since(&book), Some(970_000));
    }

    #[test]
    fn annotations_that_make_no_sense_are_not_heeded() {
        let mut book = PodBook::default();
        book.slice(&slice(true), false, 5);
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
}
