//! Which node a pod goes to. Pure: a small part of what kube-scheduler does, the part that places pods evenly.

use k8s_openapi::api::core::v1::Pod;

/// A node, as far as scheduling is concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Pods on it that belong to the same as the pod, a ReplicaSet say.
    pub siblings: usize,
    /// Pods on it.
    pub pods: usize,
}

/// The node with the fewest siblings, then with the fewest pods, among those which the pod may go to; the first of them.
pub fn choose<'a>(pod: &Pod, nodes: &'a [Candidate]) -> Option<&'a Candidate> {
    nodes.iter().filter(|node| allowed(pod, node)).min_by_key(|node| (node.siblings, node.pods))
}

/// UID of what the pod belongs to.
pub fn owner(pod: &Pod) -> Option<String> {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone())
}

/// By `nodeSelector` on name and zone, and by the node that a DaemonSet's controller wrote into the affinity.
fn allowed(pod: &Pod, node: &Candidate) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let selected = spec.node_selector.iter().flatten().all(|(label, value)| match label.as_str() {
        "kubernetes.io/hostname" => *value == node.name,
        "topology.kubernetes.io/zone" => *value == node.zone,
        "kubernetes.io/os" => value == "linux",
        _ => false,
    });
    let required = spec
        .affinity
        .as_ref()
        .and_then(|affinity| affinity.node_affinity.as_ref())
        .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    let named = required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            term.match_fields.iter().flatten().all(|field| {
                field.key == "metadata.name" && field.values.iter().flatten().any(|value| *value == node.name)
            })
        })
    });
    selected && named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes() -> Vec<Candidate> {
        [("node-1", "a", 2), ("node-2", "b", 1), ("node-3", "a", 1)]
            .map(|(name, zone, pods)| Candidate { name: name.to_owned(), zone: zone.to_owned(), siblings: 0, pods })
            .into()
    }

    fn check(spec: serde_json::Value, expected: Option<&str>) {
        let pod: Pod = serde_json::from_value(serde_json::json!({ "spec": spec })).expect("a pod");
        assert_eq!(choose(&pod, &nodes()).map(|node| node.name.as_str()), expected, "{spec}");
    }

    #[test]
    fn a_pod_goes_to_the_emptiest_node_that_it_may_go_to() {
        let containers = serde_json::json!([]);
        check(serde_json::json!({ "containers": containers }), Some("node-2"));
        let selector = serde_json::json!({ "topology.kubernetes.io/zone": "a" });
        check(serde_json::json!({ "containers": containers, "nodeSelector": selector }), Some("node-3"));
        let selector = serde_json::json!({ "topology.kubernetes.io/zone": "c" });
        check(serde_json::json!({ "containers": containers, "nodeSelector": selector }), None);
        let field = serde_json::json!({ "key": "metadata.name", "operator": "In", "values": ["node-1"] });
        let affinity = serde_json::json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{ "matchFields": [field] }],
        }}});
        check(serde_json::json!({ "containers": containers, "affinity": affinity }), Some("node-1"));
    }

    #[test]
    fn what_belongs_together_is_spread_before_nodes_are_filled_evenly() {
        let mut nodes = nodes();
        nodes[1].siblings = 1;
        nodes[2].siblings = 1;
        assert_eq!(choose(&Pod::default(), &nodes).map(|node| node.name.as_str()), Some("node-1"));
    }
}
