//! What HTTPS listeners show to clients: Secrets of type `kubernetes.io/tls`, checked by the data plane's own rules.

use std::collections::BTreeMap;

use gateway_api::gateways::{Gateway, GatewayListeners, GatewayListenersTlsMode};
use k8s_openapi::api::core::v1::Secret;
use trimtab_proxy::api::{self, v1};

use super::{
    name_of, namespace_of,
    status::reason,
    trust::{self, Reference, Refused},
};
use crate::{objects::Objects, problem::Report};

/// Key of `tls.options` that holds the oldest version of TLS that is spoken: "1.2", the default, or "1.3".
const MIN_VERSION: &str = "trimtab.dev/tls-min-version";

/// Key of `tls.options` that has endpoints told of the client's certificate: "true" or "false", the default.
const FORWARD_CERTIFICATE: &str = "trimtab.dev/forward-client-certificate";

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
    forwards_certificate(listener, field, report);
}

fn min_version(listener: &GatewayListeners, field: &str, report: &mut Report) -> v1::tls::Version {
    let options = listener.tls.as_ref().and_then(|tls| tls.options.as_ref());
    version(options, &format!("{field}.tls"), report)
}

/// The oldest version of TLS, as options say it.
pub(super) fn version(
    options: Option<&BTreeMap<String, String>>,
    field: &str,
    report: &mut Report,
) -> v1::tls::Version {
    match options.and_then(|options| options.get(MIN_VERSION)).map(String::as_str) {
        None | Some("1.2") => v1::tls::Version::Tls12,
        Some("1.3") => v1::tls::Version::Tls13,
        Some(other) => {
            let message = format!("\"{other}\" is not a version that can be asked for, expected 1.2 or 1.3");
            report.invalid(format!("{field}.options[{MIN_VERSION}]"), message);
            v1::tls::Version::Tls13
        }
    }
}

fn forwards_certificate(listener: &GatewayListeners, field: &str, report: &mut Report) -> bool {
    let options = listener.tls.as_ref().and_then(|tls| tls.options.as_ref());
    match options.and_then(|options| options.get(FORWARD_CERTIFICATE)).map(String::as_str) {
        None | Some("false") => false,
        Some("true") => true,
        Some(other) => {
            let message = format!("\"{other}\" is neither, expected true or false");
            report.invalid(format!("{field}.tls.options[{FORWARD_CERTIFICATE}]"), message);
            false
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
    let options = tls.options.iter().flatten().map(|(key, _)| key);
    report.unknown_keys(options, &[MIN_VERSION, FORWARD_CERTIFICATE], |key| format!("{field}.tls.options[{key}]"));
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
        let lead = Reference {
            group: reference.group.as_deref().unwrap_or_default(),
            kind: reference.kind.as_deref().unwrap_or("Secret"),
            name: &reference.name,
            namespace: reference.namespace.as_deref(),
        };
        match certificate(gateway, lead, objects) {
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
    if let Some(host) = listener.hostname.as_deref().filter(|host| !host.is_empty() && !host.starts_with('*'))
        && !certificates.iter().any(|certificate| api::is_certificate_for(certificate, host))
    {
        let message = format!("none is for {host}: clients that check will refuse it");
        report.noted(format!("{field}.tls.certificateRefs"), message);
    }
    // Said of the listener, whose status it is about.
    let mut refused = |at: String, why: Refused| {
        let reason = match why {
            Refused::Kind(_) => reason::INVALID_CA_CERTIFICATE_KIND,
            Refused::NotPermitted(_) => reason::REF_NOT_PERMITTED,
            Refused::Invalid(_) => reason::INVALID_CA_CERTIFICATE_REF,
        };
        report.refused(reason, format!("{field}.tls"), format!("{at}: {}", why.message()));
    };
    let Ok(client) = trust::clients(gateway, listener.port, objects, &mut refused) else {
        let message = "no authority of spec.tls.frontend resolves: the listener is not served";
        report.refused(reason::INVALID_CA_CERTIFICATE_REF, format!("{field}.tls"), message);
        return None;
    };
    let forward_client_certificate = forwards_certificate(listener, field, report);
    Some(v1::Tls { certificates, min_version, client, forward_client_certificate })
}

/// Notes what a listener does not get for the sake of others at its address and port, as they share handshakes.
pub(super) fn compare<'a>(
    listener: &v1::Listener,
    beside: impl Iterator<Item = &'a v1::Listener> + Clone,
    field: &str,
    report: &mut Report,
) {
    let Some(tls) = &listener.tls else { return };
    let another = |differs: fn(&v1::Tls) -> bool| {
        beside.clone().find(|other| other.tls.as_ref().is_some_and(differs)).map(|other| other.name.as_str())
    };
    if tls.min_version() == v1::tls::Version::Tls12
        && let Some(other) = another(|tls| tls.min_version() == v1::tls::Version::Tls13)
    {
        let message = format!("is 1.3 here, too: listener {other} asks for it, whose address and port are the same");
        report.noted(format!("{field}.tls.options[{MIN_VERSION}]"), message);
    }
    if tls.forward_client_certificate
        && let Some(other) = another(|tls| !tls.forward_client_certificate)
    {
        let message =
            format!("does nothing: listener {other} does not ask for it, whose address and port are the same");
        report.noted(format!("{field}.tls.options[{FORWARD_CERTIFICATE}]"), message);
    }
}

/// A certificate with its key that a Gateway refers to.
///
/// # Errors
/// The part of the reference that does not hold, and why.
pub(super) fn certificate(
    gateway: &Gateway,
    reference: Reference<'_>,
    objects: &Objects,
) -> Result<v1::Certificate, (&'static str, String)> {
    let kind = reference.kind;
    if (reference.group, kind) != ("", "Secret") {
        return Err(("kind", format!("{kind} is not supported, expected a Secret")));
    }
    let from = namespace_of(&gateway.metadata);
    let namespace = reference.namespace.unwrap_or(from);
    let id = format!("{namespace}/{}", reference.name);
    if namespace != from && !trust::granted(objects, ("Gateway", from), namespace, ("Secret", reference.name)) {
        return Err((
            "namespace",
            format!("no ReferenceGrant in {namespace} lets a Gateway of {from} refer to Secret {id}"),
        ));
    }
    of_secret(namespace, reference.name, objects).map_err(|message| ("name", message))
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
