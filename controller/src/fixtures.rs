//! What tests of several modules need.

use std::sync::Arc;

use trimtab_model::decision::Mode;
use trimtab_model::observation::EndpointKey;
use trimtab_proxy::api::v1;

use crate::gateway::{BackendSpec, EndpointSpec, GuardrailSettings};
use crate::policy::Algorithm;
use crate::session_keys::SessionKeys;

/// Something to sign sessions with.
pub fn session_keys() -> SessionKeys {
    SessionKeys::parse("7a".repeat(32).as_bytes(), "a test").expect("a key")
}

/// A backend with this many endpoints, ready since long ago, not scraped.
pub fn backend(name: &str, endpoints: usize) -> BackendSpec {
    let specs: Vec<Arc<EndpointSpec>> = (0..endpoints)
        .map(|index| EndpointSpec {
            key: EndpointKey(0xA000 + index as u64),
            name: format!("pod-{index}"),
            address: format!("10.0.{}.{}:80", index / 250, index % 250 + 1),
            ready: true,
            draining: false,
            zone: None,
            scrape_url: None,
            ready_since_ms: None,
            restarts: None,
        })
        .map(Arc::new)
        .collect();
    BackendSpec {
        resource: v1::Backend { name: name.into(), generation: endpoints as u64, ..Default::default() },
        endpoints: specs,
        algorithm: Algorithm::Trimtab,
        mode: Mode::Active,
        model: None,
        guardrails: GuardrailSettings::default(),
        scrape: None,
        replicas: None,
    }
}
