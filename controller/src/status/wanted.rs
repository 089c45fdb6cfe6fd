//! Which statuses differ from what is to be said, and what to write then: pure. What others wrote stays theirs; a time of transition moves
//! only with what it is of.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    gateway::{
        GROUP, Statuses,
        listeners::CONTROLLER_NAME,
        status::{Condition, SUPPORTED_FEATURES, Subject},
    },
    policy_status::ANCESTORS_MAX,
    problem::ObjectId,
    provider::kubernetes::{Current, Currents},
};

/// One status to write.
#[derive(Debug, Clone, PartialEq)]
pub struct Write {
    /// Of which object.
    pub object: ObjectId,
    /// How it stood.
    pub current: Current,
    /// The whole status, as this field manager has it.
    pub status: Value,
    /// What has become wrong: reason and message.
    pub news: Vec<(&'static str, String)>,
}

/// What is to be written. `ahead` holds what was written and has not come back yet.
pub fn writes(
    statuses: &Statuses,
    currents: &Currents,
    ahead: &HashMap<ObjectId, Current>,
    now: Timestamp,
) -> Vec<Write> {
    let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let current = |object: &ObjectId| ahead.get(object).or_else(|| currents.get(object));
    let mut writes = Vec::new();
    let mut compare = |object: ObjectId, make: &dyn Fn(&mut Conditions<'_>, &Value) -> Value| {
        let Some(current) = current(&object) else { return };
        let mut conditions = Conditions { now: &now, news: Vec::new() };
        let status = make(&mut conditions, &current.status);
        if !covers(&current.status, &status) {
            writes.push(Write { object, current: current.clone(), status, news: conditions.news });
        }
    };
    for class in &statuses.classes {
        compare(object("GatewayClass", &class.subject), &|conditions, current| {
            let features: Vec<Value> = SUPPORTED_FEATURES.iter().map(|name| json!({ "name": name })).collect();
            let list = conditions.list(&class.conditions, class.subject.generation, &current["conditions"]);
            json!({ "conditions": list, "supportedFeatures": features })
        });
    }
    for gateway in &statuses.gateways {
        compare(object("Gateway", &gateway.subject), &|conditions, current| {
            let generation = gateway.subject.generation;
            let listeners: Vec<Value> = gateway
                .listeners
                .iter()
                .map(|listener| {
                    let before = entry(&current["listeners"], |entry| entry["name"] == listener.name.as_str());
                    let kinds: Vec<Value> =
                        listener.supported_kinds.iter().map(|kind| json!({ "group": GROUP, "kind": kind })).collect();
                    json!({
                        "name": listener.name,
                        "attachedRoutes": listener.attached_routes,
                        "supportedKinds": kinds,
                        "conditions": conditions.list(&listener.conditions, generation, &before["conditions"]),
                    })
                })
                .collect();
            let addresses: Vec<Value> = gateway
                .addresses
                .iter()
                .map(|address| {
                    json!({
                        "type": if address.parse::<std::net::IpAddr>().is_ok() { "IPAddress" } else { "Hostname" },
                        "value": address,
                    })
                })
                .collect();
            json!({
                "addresses": addresses,
                "conditions": conditions.list(&gateway.conditions, generation, &current["conditions"]),
                "listeners": listeners,
            })
        });
    }
    let mut said: BTreeMap<ObjectId, ()> = BTreeMap::new();
    for route in &statuses.routes {
        let id = object(route.kind, &route.subject);
        said.insert(id.clone(), ());
        compare(id, &|conditions, current| {
            let mut parents = others(&current["parents"]);
            for parent in &route.parents {
                let reference = serde_json::to_value(&parent.parent).unwrap_or_default();
                let before = entry(&current["parents"], |entry| is_ours(entry) && entry["parentRef"] == reference);
                let list = conditions.list(&parent.conditions, route.subject.generation, &before["conditions"]);
                parents.push(json!({
                    "parentRef": reference, "controllerName": CONTROLLER_NAME, "conditions": list
                }));
            }
            json!({ "parents": parents })
        });
    }
    for ingress in &statuses.ingresses {
        compare(object("Ingress", &ingress.subject), &|_, _| {
            let entry = |address: &String| match address.parse::<std::net::IpAddr>() {
                Ok(_) => json!({ "ip": address }),
                Err(_) => json!({ "hostname": address }),
            };
            match ingress.addresses.is_empty() {
                true => json!({ "loadBalancer": {} }),
                false => {
                    json!({ "loadBalancer": { "ingress": ingress.addresses.iter().map(entry).collect::<Vec<_>>() } })
                }
            }
        });
    }
    for policy in &statuses.policies {
        let id = object("BackendTrafficPolicy", &policy.subject);
        said.insert(id.clone(), ());
        compare(id, &|conditions, current| {
            let mut ancestors = others(&current["ancestors"]);
            for (ancestor, condition) in &policy.ancestors {
                let reference = serde_json::to_value(ancestor).unwrap_or_default();
                let before = entry(&current["ancestors"], |entry| is_ours(entry) && entry["ancestorRef"] == reference);
                let own = std::slice::from_ref(condition);
                let list = conditions.list(own, policy.subject.generation, &before["conditions"]);
                ancestors.push(json!({
                    "ancestorRef": reference, "controllerName": CONTROLLER_NAME, "conditions": list
                }));
            }
            ancestors.truncate(ANCESTORS_MAX);
            json!({ "ancestors": ancestors })
        });
    }
    for policy in &statuses.tls_policies {
        let id = object("BackendTLSPolicy", &policy.subject);
        said.insert(id.clone(), ());
        compare(id, &|conditions, current| {
            let mut ancestors = others(&current["ancestors"]);
            for (ancestor, own) in &policy.ancestors {
                let reference = serde_json::to_value(ancestor).unwrap_or_default();
                let before = entry(&current["ancestors"], |entry| is_ours(entry) && entry["ancestorRef"] == reference);
                let list = conditions.list(own, policy.subject.generation, &before["conditions"]);
                ancestors.push(json!({
                    "ancestorRef": reference, "controllerName": CONTROLLER_NAME, "conditions": list
                }));
            }
            ancestors.truncate(ANCESTORS_MAX);
            json!({ "ancestors": ancestors })
        });
    }
    // What has left us is told so: an old word of ours must not stand for ever.
    for object in currents.keys().filter(|object| !said.contains_key(object)) {
        let list = match object.kind {
            "HTTPRoute" | "GRPCRoute" => "parents",
            "BackendTrafficPolicy" | "BackendTLSPolicy" => "ancestors",
            _ => continue,
        };
        compare(object.clone(), &|_, current| match current[list].as_array() {
            Some(entries) if entries.iter().any(is_ours) => json!({ list: others(&current[list]) }),
            _ => json!({}),
        });
    }
    writes
}

fn object(kind: &'static str, subject: &Subject) -> ObjectId {
    ObjectId::new(kind, &subject.namespace, &subject.name)
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER_NAME
}

/// What other controllers wrote into a list of parents or ancestors.
fn others(list: &Value) -> Vec<Value> {
    list.as_array().into_iter().flatten().filter(|entry| !is_ours(entry)).cloned().collect()
}

fn entry(list: &Value, wanted: impl Fn(&Value) -> bool) -> Value {
    list.as_array().into_iter().flatten().find(|entry| wanted(entry)).cloned().unwrap_or_default()
}

/// Makes conditions from those that stand.
struct Conditions<'a> {
    now: &'a str,
    news: Vec<(&'static str, String)>,
}

impl Conditions<'_> {
    fn list(&mut self, wanted: &[Condition], generation: Option<i64>, before: &Value) -> Vec<Value> {
        let one = |condition: &Condition| {
            let status = if condition.holds { "True" } else { "False" };
            let before = entry(before, |entry| entry["type"] == condition.kind);
            let since = match before["lastTransitionTime"].as_str() {
                Some(since) if before["status"] == status => since,
                _ => self.now,
            };
            if condition.is_bad() && (before["status"] != status || before["reason"] != condition.reason) {
                self.news.push((condition.reason, condition.message.clone()));
            }
            let mut made = Map::new();
            made.insert("type".to_owned(), condition.kind.into());
            made.insert("status".to_owned(), status.into());
            made.insert("reason".to_owned(), condition.reason.into());
            made.insert("message".to_owned(), condition.message.as_str().into());
            made.insert("lastTransitionTime".to_owned(), since.into());
            if let Some(generation) = generation {
                made.insert("observedGeneration".to_owned(), generation.into());
            }
            Value::Object(made)
        };
        wanted.iter().map(one).collect()
    }
}

/// Whether a status says all that is wanted. Top-level conditions may hold more than ours: they are merged by type. Everything else that is
/// wanted must be there as it is.
fn covers(current: &Value, wanted: &Value) -> bool {
    let Some(fields) = wanted.as_object() else { return false };
    fields.iter().all(|(name, value)| match (name.as_str(), value.as_array(), current[name].as_array()) {
        ("conditions", Some(wanted), Some(held)) => wanted.iter().all(|condition| held.contains(condition)),
        (_, Some(wanted), None) => wanted.is_empty(),
        (_, Some(wanted), Some(held)) => same_entries(held, wanted),
        _ => current[name] == *value,
    })
}

/// Lists of entries, whose own conditions may come back in another order.
fn same_entries(held: &[Value], wanted: &[Value]) -> bool {
    held.len() == wanted.len()
        && held.iter().zip(wanted).all(|(held, wanted)| {
            let sorted = |value: &Value| {
                let mut value = value.clone();
                if let Some(conditions) = value["conditions"].as_array_mut() {
                    conditions.sort_by_key(|condition| condition["type"].to_string());
                }
                value
            };
            match wanted.get("conditions") {
                Some(_) => sorted(held) == sorted(wanted),
                None => held == wanted,
            }
        })
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
