//! The delta protocol of one stream, without sockets or clocks: what the proxy was sent, what it acknowledged, what it should
//! get next.
//!
//! At most one response of each type is unanswered, so a slow proxy is sent the newest version when it is ready for one and
//! never a queue of old ones. Types are added in the order of [`Kind::ALL`] and removed in the opposite order. A response that is
//! refused is sent again in halves, until the resource that is at fault stands alone: one bad resource does not keep the others
//! back. A version that was refused alone is not sent again; a new version is. What a proxy has acknowledged it is sent as changes of that, where there
//! are some; what it refused, as a whole.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource,
};
use envoy_types::pb::google::protobuf::Any;

use super::snapshot::{Kind, Resources, Snapshot};

/// A response holds about this many bytes of resources (at least one resource): below gRPC's usual limit of 4 MiB a message.
const RESPONSE_BYTES: usize = 1 << 20;

/// Longest text of a refusal that is kept.
const NACK_TEXT_BYTES: usize = 1024;

#[derive(Debug)]
struct Unanswered {
    nonce: String,
    names: Vec<Arc<str>>,
    /// Whether some of it was said as changes.
    changes: bool,
}

#[derive(Debug, Default)]
struct TypeState {
    subscribed: bool,
    /// The first response goes out even if it is empty: it tells the proxy that this is all there is.
    greeted: bool,
    /// Version by name of what the proxy was sent or said that it has.
    sent: BTreeMap<Arc<str>, Arc<str>>,
    /// Names of which it refused the version that it was sent.
    refused: BTreeSet<Arc<str>>,
    /// The resources after which there was nothing left to send: while they are the newest, nothing has to be compared.
    complete: Option<Arc<Resources>>,
    unanswered: Option<Unanswered>,
    /// Groups of resources to send again after a refusal, each in a response of its own.
    again: VecDeque<Vec<Arc<str>>>,
}

/// One stream's state.
#[derive(Debug, Default)]
pub struct Session {
    types: [TypeState; Kind::ALL.len()],
    nonce: u64,
    /// Responses that the proxy acknowledged.
    pub acks: u64,
    /// Responses that it refused.
    pub nacks: u64,
    /// Why it refused the last one.
    pub last_nack: Option<String>,
}

impl Session {
    /// Takes a request: a subscription, an acknowledgement or a refusal. Requests for unknown types, and answers to responses that
    /// are no longer awaited, are ignored. Resource names to subscribe to are not told apart: every subscription is a wildcard.
    pub fn receive(&mut self, request: DeltaDiscoveryRequest) {
        let Some(kind) = Kind::from_type_url(&request.type_url) else {
            tracing::debug!(type_url = request.type_url, "unknown resource type");
            return;
        };
        let state = &mut self.types[kind.index()];
        if request.resource_names_unsubscribe.iter().any(|name| name == "*") {
            *state = TypeState::default();
            return;
        }
        if !state.subscribed {
            state.subscribed = true;
            let initial = request.initial_resource_versions.into_iter();
            state.sent = initial.map(|(name, version)| (name.into(), version.into())).collect();
        }
        if request.response_nonce.is_empty() {
            return;
        }
        let Some(answered) = state.unanswered.take_if(|unanswered| unanswered.nonce == request.response_nonce) else {
            return;
        };
        match request.error_detail {
            None => {
                self.acks += 1;
                for name in &answered.names {
                    state.refused.remove(name);
                }
            }
            Some(error) => {
                self.nacks += 1;
                let mut text = error.message;
                text.truncate(text.floor_char_boundary(NACK_TEXT_BYTES));
                self.last_nack = Some(text);
                state.refused.extend(answered.names.iter().cloned());
                if answered.names.len() > 1 {
                    let mut first = answered.names;
                    let second = first.split_off(first.len() / 2);
                    state.again.extend([first, second]);
                } else if answered.changes {
                    // It may be that the proxy does not have what changed; the whole depends on nothing.
                    state.again.push_back(answered.names);
                }
            }
        }
    }

    /// Whether the proxy has subscribed to every type that comes before `kind`.
    fn subscribed_before(&self, kind: Kind) -> bool {
        self.types[..kind.index()].iter().all(|state| state.subscribed)
    }

    /// Whether all types are subscribed to.
    pub fn subscribed_to_all(&self) -> bool {
        self.types.iter().all(|state| state.subscribed)
    }

    /// The next response to send now, if any. With `in_order`, a type also waits for the subscription to the types before it.
    pub fn next(&mut self, snapshot: &Snapshot, in_order: bool) -> Option<DeltaDiscoveryResponse> {
        for kind in Kind::ALL {
            if in_order && !self.subscribed_before(kind) {
                return None;
            }
            let state = &self.types[kind.index()];
            if !state.subscribed {
                continue;
            }
            if state.unanswered.is_some() {
                if kind.is_table() {
                    continue;
                }
                return None;
            }
            let state = &mut self.types[kind.index()];
            let names = state.changes(snapshot.of(kind));
            if !names.is_empty() || !state.greeted {
                return Some(self.respond(kind, snapshot, names, Vec::new()));
            }
        }
        for kind in Kind::ALL.into_iter().rev() {
            let state = &mut self.types[kind.index()];
            // What refers to a resource is gone for certain before the resource goes.
            if state.unanswered.is_some() {
                return None;
            }
            let removed = state.removals(snapshot.of(kind));
            if !removed.is_empty() {
                return Some(self.respond(kind, snapshot, Vec::new(), removed));
            }
        }
        None
    }

    /// Whether the proxy has acknowledged everything in the snapshot; to be asked when there is nothing more to send.
    pub fn in_sync(&self, snapshot: &Snapshot) -> bool {
        Kind::ALL.into_iter().all(|kind| {
            let state = &self.types[kind.index()];
            state.unanswered.is_none() && state.refused.is_empty() && state.is_complete(snapshot.of(kind))
        })
    }

    fn respond(
        &mut self,
        kind: Kind,
        snapshot: &Snapshot,
        names: Vec<Arc<str>>,
        removed: Vec<Arc<str>>,
    ) -> DeltaDiscoveryResponse {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let state = &mut self.types[kind.index()];
        let resources = snapshot.of(kind);
        let mut wire = Vec::with_capacity(names.len());
        let mut changes = false;
        for name in &names {
            let Some(resource) = resources.get(name) else {
                continue;
            };
            let part = state.acknowledged(name).and_then(|version| resource.since(version));
            changes |= part.is_some();
            let value = part.unwrap_or_else(|| resource.bytes().to_vec());
            wire.push(WireResource {
                name: name.to_string(),
                version: resource.version.to_string(),
                resource: Some(Any { type_url: kind.type_url().to_owned(), value }),
                ..Default::default()
            });
            state.sent.insert(name.clone(), resource.version.clone());
        }
        for name in &removed {
            state.sent.remove(name);
            state.refused.remove(name);
        }
        state.greeted = true;
        state.unanswered = Some(Unanswered { nonce: nonce.clone(), names, changes });
        DeltaDiscoveryResponse {
            system_version_info: snapshot.number.to_string(),
            resources: wire,
            type_url: kind.type_url().to_owned(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            nonce,
            ..Default::default()
        }
    }
}

impl TypeState {
    /// The version that the proxy has of a resource, as far as that is certain while no response is unanswered.
    fn acknowledged(&self, name: &Arc<str>) -> Option<&str> {
        self.sent.get(name).filter(|_| !self.refused.contains(name)).map(|version| &**version)
    }

    fn is_complete(&self, resources: &Arc<Resources>) -> bool {
        self.greeted
            && self.again.is_empty()
            && self.complete.as_ref().is_some_and(|known| Arc::ptr_eq(known, resources))
    }

    /// Names to put into the next response: a group that is to be sent again, or what differs from what was sent.
    fn changes(&mut self, resources: &Arc<Resources>) -> Vec<Arc<str>> {
        if self.is_complete(resources) {
            return Vec::new();
        }
        while let Some(mut group) = self.again.pop_front() {
            group.retain(|name| resources.contains_key(name));
            if !group.is_empty() {
                return group;
            }
        }
        let mut bytes = 0;
        resources
            .iter()
            .filter(|(name, resource)| self.sent.get(*name).is_none_or(|version| *version != resource.version))
            .take_while(|(name, resource)| {
                let first = bytes == 0;
                bytes += resource.size(self.acknowledged(name)).max(1);
                first || bytes <= RESPONSE_BYTES
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Names that the proxy has and should not. Asked only after there were no changes: where nothing is to be removed either, all is
    /// sent.
    fn removals(&mut self, resources: &Arc<Resources>) -> Vec<Arc<str>> {
        if !self.subscribed || self.is_complete(resources) {
            return Vec::new();
        }
        let removed: Vec<Arc<str>> = self.sent.keys().filter(|name| !resources.contains_key(*name)).cloned().collect();
        if removed.is_empty() {
            self.complete = Some(resources.clone());
        }
        removed
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
