//! Whom TLS trusts: certificates of authorities in ConfigMaps, for clients (a Gateway's `spec.tls.frontend`) and for endpoints (BackendTLSPolicy).

use gateway_api::gateways::{
    Gateway, GatewayTlsFrontendDefaultValidationMode as DefaultMode,
    GatewayTlsFrontendPerPortTlsValidationMode as PortMode,
};
use k8s_openapi::api::core::v1::ConfigMap;
use trimtab_proxy::api::{self, v1};

use super::{GROUP, name_of, namespace_of};
use crate::objects::Objects;

/// Key of a ConfigMap under which the certificates are, in PEM.
pub const CA_KEY: &str = "ca.crt";

/// A reference to an object, as the Gateway API has many types for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reference<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub name: &'a str,
    /// `None`: the namespace of who refers.
    pub namespace: Option<&'a str>,
}

/// Why a reference leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is to something that can hold no authority.
    Kind(String),
    /// Nobody has granted it.
    NotPermitted(String),
    /// What it leads to is not there, or does not hold.
    Invalid(String),
}

impl Refused {
    /// For people.
    pub fn message(&self) -> &str {
        match self {
            Self::Kind(message) | Self::NotPermitted(message) | Self::Invalid(message) => message,
        }
    }
}

/// The certificates that an object of kind `who` in `from` refers to.
///
/// # Errors
/// Why there are none.
pub(super) fn authorities(
    objects: &Objects,
    who: &str,
    from: &str,
    reference: Reference<'_>,
) -> Result<Vec<u8>, Refused> {
    if (reference.group, reference.kind) != ("", "ConfigMap") {
        return Err(Refused::Kind(format!("{} is not supported, expected a ConfigMap", reference.kind)));
    }
    let namespace = reference.namespace.unwrap_or(from);
    let id = format!("{namespace}/{}", reference.name);
    if namespace != from && !granted(objects, (who, from), namespace, ("ConfigMap", reference.name)) {
        return Err(Refused::NotPermitted(format!(
            "no ReferenceGrant in {namespace} lets a {who} of {from} refer to ConfigMap {id}"
        )));
    }
    let found = |map: &&ConfigMap| namespace_of(&map.metadata) == namespace && name_of(&map.metadata) == reference.name;
    let Some(map) = objects.config_maps.iter().find(found) else {
        return Err(Refused::Invalid(format!("there is no ConfigMap {id}")));
    };
    let text = map.data.as_ref().and_then(|data| data.get(CA_KEY)).map(|text| text.clone().into_bytes());
    let bytes = || map.binary_data.as_ref().and_then(|data| data.get(CA_KEY)).map(|bytes| bytes.0.clone());
    let Some(pem) = text.or_else(bytes) else {
        return Err(Refused::Invalid(format!("ConfigMap {id} has no {CA_KEY}")));
    };
    match api::refusal_of_authorities(&pem) {
        Some(reason) => Err(Refused::Invalid(format!("ConfigMap {id}: {CA_KEY} {reason}"))),
        None => Ok(pem),
    }
}

/// Whether a ReferenceGrant in `to` lets an object of a kind and namespace refer to an object of the core group there.
pub(super) fn granted(objects: &Objects, (who, from): (&str, &str), to: &str, (kind, name): (&str, &str)) -> bool {
    objects.reference_grants.iter().filter(|grant| namespace_of(&grant.metadata) == to).any(|grant| {
        grant.spec.from.iter().any(|f| f.group == GROUP && f.kind == who && f.namespace == from)
            && grant.spec.to.iter().any(|target| {
                target.group.is_empty()
                    && target.kind == kind
                    && target.name.as_deref().is_none_or(|allowed| allowed.is_empty() || allowed == name)
            })
    })
}

/// What a Gateway asks of the clients of one of its ports: where that is said, the references and whether clients may do without.
pub(super) fn frontend(gateway: &Gateway, port: i32) -> Option<(String, Vec<Reference<'_>>, bool)> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let per_port = frontend.per_port.iter().flatten().enumerate().find(|(_, entry)| entry.port == port);
    if let Some((index, entry)) = per_port {
        // An entry for a port stands for the default as a whole, also if it asks for nothing.
        let validation = entry.tls.validation.as_ref()?;
        let references = validation.ca_certificate_refs.iter().map(|reference| Reference {
            group: &reference.group,
            kind: &reference.kind,
            name: &reference.name,
            namespace: reference.namespace.as_deref(),
        });
        let optional = validation.mode == Some(PortMode::AllowInsecureFallback);
        return Some((format!("spec.tls.frontend.perPort[{index}].tls.validation"), references.collect(), optional));
    }
    let validation = frontend.default.validation.as_ref()?;
    let references = validation.ca_certificate_refs.iter().map(|reference| Reference {
        group: &reference.group,
        kind: &reference.kind,
        name: &reference.name,
        namespace: reference.namespace.as_deref(),
    });
    let optional = validation.mode == Some(DefaultMode::AllowInsecureFallback);
    Some(("spec.tls.frontend.default.validation".to_owned(), references.collect(), optional))
}

/// What clients of a Gateway's port must prove; `None`: nothing. References that lead nowhere are handed to `refused`.
///
/// # Errors
/// Nothing that is asked for could be proved by anybody.
pub(super) fn clients(
    gateway: &Gateway,
    port: i32,
    objects: &Objects,
    mut refused: impl FnMut(String, Refused),
) -> Result<Option<v1::ClientValidation>, ()> {
    let Some((field, references, optional)) = frontend(gateway, port) else { return Ok(None) };
    let mut ca_pem = Vec::new();
    for (index, reference) in references.into_iter().enumerate() {
        match authorities(objects, "Gateway", namespace_of(&gateway.metadata), reference) {
            Ok(pem) => {
                ca_pem.extend(pem);
                ca_pem.push(b'\n');
            }
            Err(why) => refused(format!("{field}.caCertificateRefs[{index}]"), why),
        }
    }
    if ca_pem.is_empty() { Err(()) } else { Ok(Some(v1::ClientValidation { ca_pem, optional })) }
}
