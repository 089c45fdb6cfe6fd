//! Services of Gateways: made, changed and deleted by the leader, only where they do not stand as they are to.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{FIELD_MANAGER, gateway::exposure::GatewayServices};

/// Writes Services.
pub struct Writer {
    client: Client,
    /// What was written, by name. Labels and annotations are compared with it: watches do not keep them.
    written: HashMap<String, Service>,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self { client, written: HashMap::new() }
    }

    /// Writes what is to be written; `false` if some of it failed.
    pub async fn round(&mut self, services: &GatewayServices) -> bool {
        let mut clean = true;
        for wanted in &services.wanted {
            let (namespace, name) = id(&wanted.service);
            let known = self.written.get(name);
            if wanted.stands && known == Some(&wanted.service) {
                continue;
            }
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            let mut object = json!(wanted.service);
            object["apiVersion"] = "v1".into();
            object["kind"] = "Service".into();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            match api.patch(name, &params, &Patch::Apply(&object)).await {
                Ok(_) => {
                    tracing::info!(service = name, namespace, "a Gateway's Service was written");
                    self.written.insert(name.to_owned(), wanted.service.clone());
                }
                Err(error) => {
                    clean = false;
                    tracing::warn!(service = name, namespace, %error, "a Gateway's Service could not be written");
                }
            }
        }
        for (namespace, name) in &services.gone {
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            self.written.remove(name);
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => tracing::info!(service = name, namespace, "the Service of a Gateway that is gone was deleted"),
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    clean = false;
                    tracing::warn!(service = name, namespace, %error, "a Gateway's Service could not be deleted");
                }
            }
        }
        clean
    }
}

fn id(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}
