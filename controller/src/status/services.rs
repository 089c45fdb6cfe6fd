//! Services of Gateways: made, changed and deleted by the leader, only where they do not stand as they are to. What the API server refuses is said of
//! the Gateway until it is taken, and tried again less and less often.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{FIELD_MANAGER, gateway::exposure::GatewayServices};

/// What was refused is tried again after so long at first, twice as long each time up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A Service that the API server did not take.
struct Refused {
    service: Service,
    /// What is said of the Gateway.
    message: String,
    pause: Duration,
    again_at: Instant,
}

/// Writes Services.
pub struct Writer {
    client: Client,
    /// What was written, by name. Labels and annotations are compared with it: watches do not keep them.
    written: HashMap<String, Service>,
    /// By namespace and name of the Gateway.
    refused: BTreeMap<(String, String), Refused>,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self { client, written: HashMap::new(), refused: BTreeMap::new() }
    }

    /// Gateways whose Service was refused, by namespace and name, and why.
    pub fn refused(&self) -> impl ExactSizeIterator<Item = (&(String, String), &str)> {
        self.refused.iter().map(|(gateway, refused)| (gateway, refused.message.as_str()))
    }

    /// Writes what is to be written; `false` if some of it failed.
    pub async fn round(&mut self, services: &GatewayServices, now: Instant) -> bool {
        let mut clean = true;
        self.refused.retain(|gateway, _| services.wanted.iter().any(|wanted| wanted.gateway == *gateway));
        for wanted in &services.wanted {
            let (namespace, name) = id(&wanted.service);
            let known = self.written.get(name);
            if wanted.stands && known == Some(&wanted.service) {
                self.refused.remove(&wanted.gateway);
                continue;
            }
            let before = self.refused.get(&wanted.gateway).filter(|refused| refused.service == wanted.service);
            if before.is_some_and(|refused| now < refused.again_at) {
                clean = false;
                continue;
            }
            let pause = before.map_or(AGAIN.0, |refused| AGAIN.1.min(refused.pause * 2));
            let api: Api<Service> = Api::namespaced(self.client.clone(), namespace);
            let mut object = json!(wanted.service);
            object["apiVersion"] = "v1".into();
            object["kind"] = "Service".into();
            let params = PatchParams::apply(FIELD_MANAGER).force();
            match api.patch(name, &params, &Patch::Apply(&object)).await {
                Ok(_) => {
                    tracing::info!(service = name, namespace, "a Gateway's Service was written");
                    self.written.insert(name.to_owned(), wanted.service.clone());
                    self.refused.remove(&wanted.gateway);
                }
                Err(error) => {
                    clean = false;
                    if let Some(message) = refusal(&error) {
                        let message =
                            format!("Service {namespace}/{name}, which was to be made for it, is refused: {message}");
                        let service = wanted.service.clone();
                        let refused = Refused { service, message, pause, again_at: now + pause };
                        self.refused.insert(wanted.gateway.clone(), refused);
                    }
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

/// What the API server says of what it does not take; `None` where it may take it the next time.
fn refusal(error: &kube::Error) -> Option<&str> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Some(&status.message),
        _ => None,
    }
}

fn id(service: &Service) -> (&str, &str) {
    let metadata = &service.metadata;
    (metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default())
}
