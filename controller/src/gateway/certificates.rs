//! What HTTPS listeners show to clients: Secrets of type `kubernetes.io/tls`, checked by the data plane's own rules.

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersTlsCertificateRefs, GatewayListenersTlsMode};
use k8s_openapi::api::core::v1::Secret;
use trimtab_proxy::api::{self, v1};

use super::{GROUP, name_of, namespace_of, status::reason};
use crate::{objects::Objects, problem::Report};

/// Key of `tls.options` that holds the oldest version of TLS that is spoken: "1.2", the default, or "1.3".
const MIN_VERSION: &str = "trimtab.dev/tls-min-version";

/// Type of a Secret with a certificate and its key.
const TLS_SECRET: &str = "kubernetes.io/tls";

/// Checks what can be told of a listener's `tls` alone.
pub(super) fn check(listener: &GatewayListeners, field: &str, report: &mut Report) {
    let Some(tls) = &listener.tls else {
        report.invalid(format!("{field}.tls"), "is missing, expected certificateRefs with protocol HTTPS");
        return;
    };
    if tls.certificate_refs.as_ref().is_none_or(Vec::is_empty) {
        report.invalid(format!("{field}.tls.certificateRefs"), "is missing, expected the name of a Secret");
    }
    min_version(listener, field, report);
}

fn min_version(listener: &GatewayListeners, field: &str, report: &mut Report) -> v1::tls::Version {
    let options = listener.tls.as_ref().and_then(|tls| tls.options.as_ref());
    match options.and_then(|options| options.get(MIN_VERSION)).map(String::as_str) {
        None | Some("1.2") => v1::tls::Version::Tls12,
        Some("1.3") => v1::tls::Version::Tls13,
        Some(other) => {
            let message = format!("\"{other}\" is not a version that can be asked for, expected 1.2 or 1.3");
            report.invalid(format!("{field}.tls.options[{MIN_VERSION}]"), message);
            v1::tls::Version::Tls13
        }
    }
}

/// TLS of a listener; `None` where it cannot be served.
pub(super) fn translate(
    gateway: &Gateway,
    listener: &GatewayListeners,
    field: &str,
    objects: &Objects,
    report: &mut Report,
) -> Option<v1::Tls> {
    let tls = listener.tls.as_ref()?;
    if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
        report.unresolved(
            format!("{field}.tls.mode"),
            "Passthrough does not go with protocol HTTPS, expected Terminate; the listener is not served",
        );
        return None;
    }
    let mut certificates = Vec::new();
    for (index, reference) in tls.certificate_refs.iter().flatten().enumerate() {
        let field = format!("{field}.tls.certificateRefs[{index}]");
        match certificate(gateway, reference, objects) {
            Ok(certificate) => certificates.push(certificate),
            Err((name, message)) => {
                // The one thing that is wrong with a namespace is that nobody has granted it.
                let why = if name == "namespace" { reason::REF_NOT_PERMITTED } else { reason::INVALID_CERTIFICATE_REF };
                report.refused(why, format!("{field}.{name}"), message);
            }
        }
    }
    let min_version = min_version(listener, field, report).into();
    if certificates.is_empty() {
        let message = "none resolves: the listener is not served";
        report.refused(reason::INVALID_CERTIFICATE_REF, format!("{field}.tls.certificateRefs"), message);
        return None;
    }
    Some(v1::Tls { certificates, min_version })
}

fn certificate(
    gateway: &Gateway,
    reference: &GatewayListenersTlsCertificateRefs,
    objects: &Objects,
) -> Result<v1::Certificate, (&'static str, String)> {
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if (reference.group.as_deref().unwrap_or_default(), kind) != ("", "Secret") {
        return Err(("kind", format!("{kind} is not supported, expected a Secret")));
    }
    let from = namespace_of(&gateway.metadata);
    let namespace = reference.namespace.as_deref().unwrap_or(from);
    let id = format!("{namespace}/{}", reference.name);
    if namespace != from && !granted(objects, from, namespace, &reference.name) {
        return Err((
            "namespace",
            format!("no ReferenceGrant in {namespace} lets a Gateway of {from} refer to Secret {id}"),
        ));
    }
    of_secret(namespace, &reference.name, objects).map_err(|message| ("name", message))
}

/// The certificate in a Secret, or what is wrong with it.
pub(super) fn of_secret(namespace: &str, name: &str, objects: &Objects) -> Result<v1::Certificate, String> {
    let id = format!("{namespace}/{name}");
    let found = |secret: &&Secret| namespace_of(&secret.metadata) == namespace && name_of(&secret.metadata) == name;
    let secret = objects.secrets.iter().find(found).ok_or_else(|| format!("there is no Secret {id}"))?;
    let of_type = secret.type_.as_deref().unwrap_or_default();
    if of_type != TLS_SECRET {
        return Err(format!("Secret {id} is of type \"{of_type}\", expected {TLS_SECRET}"));
    }
    let part = |name: &str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.clone());
        bytes.ok_or_else(|| format!("Secret {id} has no {name}"))
    };
    let certificate = v1::Certificate { name: id.clone(), chain_pem: part("tls.crt")?, key_pem: part("tls.key")? };
    match api::refusal_of_certificate(&certificate) {
        Some((field, reason)) => {
            let part = if field == "chain_pem" { "tls.crt" } else { "tls.key" };
            Err(format!("Secret {id}: {part} {reason}"))
        }
        None => Ok(certificate),
    }
}

fn granted(objects: &Objects, from: &str, to: &str, secret: &str) -> bool {
    objects.reference_grants.iter().filter(|grant| namespace_of(&grant.metadata) == to).any(|grant| {
        grant.spec.from.iter().any(|f| f.group == GROUP && f.kind == "Gateway" && f.namespace == from)
            && grant.spec.to.iter().any(|target| {
                target.group.is_empty()
                    && target.kind == "Secret"
                    && target.name.as_deref().is_none_or(|name| name.is_empty() || name == secret)
            })
    })
}
