//! Statuses of Gateway API objects and policies: what the translation says of them, written to the API server by the leader, and only where
//! it is not there already. What has become wrong is an Event as well.

mod services;
mod wanted;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::StreamExt;
use k8s_openapi::{api::core::v1::ObjectReference, jiff::Timestamp};
use kube::{
    Api, Client, Resource,
    api::{Patch, PatchParams},
    core::{ApiResource, DynamicObject},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::wanted::Write;
use crate::{
    FIELD_MANAGER, clock,
    gateway::{Config, Statuses, listeners::CONTROLLER_NAME, status::Condition},
    leader::Leadership,
    metrics::Metrics,
    policy::BackendTrafficPolicy,
    problem::ObjectId,
    provider::kubernetes::{Current, Currents},
};

/// Changes within this time of each other are written as one.
const GATHER: Duration = Duration::from_millis(100);
/// Writes under way at once.
const CONCURRENCY: usize = 8;
/// Until a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// An Event's note is at most 1 KiB.
const NOTE_BYTES_MAX: usize = 1000;

/// What the writer follows.
#[derive(Debug)]
pub struct Sources {
    /// What is to be said.
    pub config: watch::Receiver<Arc<Config>>,
    /// What stands there.
    pub currents: watch::Receiver<Arc<Currents>>,
    /// Whether to write.
    pub leadership: watch::Receiver<Leadership>,
}

/// Keeps statuses up until `shutdown`. `instance` names this controller in Events.
pub async fn run(
    client: Client,
    mut sources: Sources,
    metrics: Arc<Metrics>,
    instance: String,
    shutdown: CancellationToken,
) {
    let reporter = Reporter { controller: CONTROLLER_NAME.to_owned(), instance: Some(instance) };
    let mut writer = Writer {
        recorder: Recorder::new(client.clone(), reporter),
        services: services::Writer::new(client.clone()),
        client,
        metrics,
        ahead: HashMap::new(),
        told: HashMap::new(),
        unread: HashMap::new(),
    };
    loop {
        let clean = writer.round(&mut sources).await;
        let changed = async {
            tokio::select! {
                changed = sources.config.changed() => changed.is_ok(),
                changed = sources.currents.changed() => changed.is_ok(),
                changed = sources.leadership.changed() => changed.is_ok(),
                () = tokio::time::sleep(RETRY), if !clean => true,
            }
        };
        let open = tokio::select! {
            () = shutdown.cancelled() => false,
            open = changed => open,
        };
        if !open {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

struct Writer {
    client: Client,
    recorder: Recorder,
    metrics: Arc<Metrics>,
    /// What was written and has not come back through a watch.
    ahead: HashMap<ObjectId, Current>,
    /// What was told of Ingresses, whose status has no room for it.
    told: HashMap<ObjectId, Condition>,
    /// What was told of namespaces that may not be read.
    unread: HashMap<ObjectId, Condition>,
    services: services::Writer,
}

impl Writer {
    /// Writes what is to be written; `false` if some of it failed.
    async fn round(&mut self, sources: &mut Sources) -> bool {
        let mut config = sources.config.borrow_and_update().clone();
        let currents = sources.currents.borrow_and_update().clone();
        let leads = sources.leadership.borrow_and_update().leads();
        let mut clean = !leads || self.services.round(&config.gateway_services, clock::now().instant).await;
        if leads && self.services.refused().len() > 0 {
            let mut known = Config::clone(&config);
            self.services.refused().for_each(|(gateway, why)| known.statuses.refuse_service(gateway, why));
            config = Arc::new(known);
        }
        self.metrics.configured(&config);
        self.ahead.retain(|object, written| currents.get(object).is_some_and(|current| is_older(current, written)));
        if !leads {
            return true;
        }
        let writes = wanted::writes(&config.statuses, &currents, &self.ahead, Timestamp::now());
        let this = &*self;
        let written: Vec<_> = futures_util::stream::iter(writes)
            .map(|write| async move {
                let outcome = this.write(&write).await;
                (write, outcome)
            })
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        self.tell_of_ingresses(&config.statuses, &currents).await;
        self.tell_of_namespaces(&config).await;
        for (write, outcome) in written {
            match outcome {
                Ok(current) => {
                    self.metrics.status_written(write.object.kind);
                    self.ahead.insert(write.object.clone(), current);
                }
                // It was deleted in the meantime: nothing is left to be said but that.
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    self.metrics.status_gone(write.object.kind);
                    let (resource, note) =
                        (resource(write.object.kind), "it was deleted while its status was being written");
                    self.tell(&write.object, &write.current, &resource, "DeletedMeanwhile", note).await;
                }
                // It has changed: the watch will tell.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => {
                    clean = false;
                    self.metrics.status_failed(write.object.kind);
                    tracing::warn!(object = %write.object, %error, "status could not be written");
                }
            }
        }
        clean
    }

    /// Events for what has become wrong with Ingresses.
    async fn tell_of_ingresses(&mut self, statuses: &Statuses, currents: &Currents) {
        let mut told = HashMap::new();
        for ingress in &statuses.ingresses {
            let id = ObjectId::new("Ingress", &ingress.subject.namespace, &ingress.subject.name);
            let Some(current) = currents.get(&id).filter(|_| ingress.accepted.is_bad()) else { continue };
            if self.told.get(&id) != Some(&ingress.accepted) {
                let Condition { reason, message, .. } = &ingress.accepted;
                self.tell(&id, current, &resource("Ingress"), reason, message).await;
            }
            told.insert(id, ingress.accepted.clone());
        }
        self.told = told;
    }

    /// Events for namespaces in which something may not be read.
    async fn tell_of_namespaces(&mut self, config: &Config) {
        let mut told = HashMap::new();
        for unread in &config.unread {
            let id = ObjectId::new("Namespace", "", &unread.namespace);
            let reason = "NotReadable";
            let condition = Condition::no("Readable", reason, unread.message.clone());
            if self.unread.get(&id) != Some(&condition) {
                let current = Current { uid: unread.uid.clone(), resource_version: String::new(), status: json!(null) };
                self.tell(&id, &current, &resource("Namespace"), reason, &unread.message).await;
            }
            told.insert(id, condition);
        }
        self.unread = told;
    }

    async fn write(&self, write: &Write) -> Result<Current, kube::Error> {
        let resource = resource(write.object.kind);
        let api: Api<DynamicObject> = match write.object.namespace.as_str() {
            "" => Api::all_with(self.client.clone(), &resource),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &resource),
        };
        let mut metadata = json!({ "name": write.object.name, "uid": write.current.uid });
        if matches!(write.object.kind, "HTTPRoute" | "GRPCRoute" | "BackendTrafficPolicy" | "BackendTLSPolicy") {
            // Their lists are written as a whole: what another controller has added since must not be lost.
            metadata["resourceVersion"] = write.current.resource_version.as_str().into();
        }
        let object = json!({
            "apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, "status": write.status
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let written = api.patch_status(&write.object.name, &params, &Patch::Apply(&object)).await?;
        for (reason, message) in &write.news {
            self.tell(&write.object, &write.current, &resource, reason, message).await;
        }
        Ok(Current {
            uid: write.current.uid.clone(),
            resource_version: written.metadata.resource_version.unwrap_or_default(),
            status: written.data.get("status").cloned().unwrap_or_default(),
        })
    }

    /// An Event for people. One that cannot be written is no reason to do anything else: the status says the same.
    async fn tell(&self, object: &ObjectId, current: &Current, resource: &ApiResource, reason: &str, message: &str) {
        let reference = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            namespace: (!object.namespace.is_empty()).then(|| object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(current.uid.clone()).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(message[..message.floor_char_boundary(NOTE_BYTES_MAX)].to_owned()),
            action: "Translate".to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, &reference).await {
            tracing::debug!(%object, %error, "event could not be written");
        }
    }
}

/// Whether a watch has not brought yet what was written. The API server counts versions up.
fn is_older(current: &Current, written: &Current) -> bool {
    let number = |current: &Current| current.resource_version.parse::<u128>().ok();
    current.uid == written.uid
        && match (number(current), number(written)) {
            (Some(current), Some(written)) => current < written,
            _ => current.resource_version != written.resource_version,
        }
}

fn resource(kind: &str) -> ApiResource {
    match kind {
        "GatewayClass" => ApiResource::erase::<gateway_api::gatewayclasses::GatewayClass>(&()),
        "Gateway" => ApiResource::erase::<gateway_api::gateways::Gateway>(&()),
        "Namespace" => ApiResource::erase::<k8s_openapi::api::core::v1::Namespace>(&()),
        "Ingress" => ApiResource::erase::<k8s_openapi::api::networking::v1::Ingress>(&()),
        "HTTPRoute" => ApiResource::erase::<gateway_api::httproutes::HttpRoute>(&()),
        "GRPCRoute" => ApiResource::erase::<gateway_api::grpcroutes::GrpcRoute>(&()),
        "BackendTLSPolicy" => ApiResource::erase::<gateway_api::backendtlspolicies::BackendTlsPolicy>(&()),
        _ => ApiResource::erase::<BackendTrafficPolicy>(&()),
    }
}

/// The kinds whose status is written, for those who check permissions.
pub fn resources() -> [ApiResource; 7] {
    let ours = BackendTrafficPolicy::kind(&());
    ["GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "BackendTLSPolicy", "Ingress", ours.as_ref()].map(resource)
}
