//! What Trimtab needs of a cluster: an API server, definitions, permissions, a leader, certificates.

use k8s_openapi::{
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        coordination::v1::Lease,
        core::v1::Secret,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone},
};
use kube::{Api, Client, api::PostParams};

use super::{CheckOptions, Verdict, answer};
use crate::pki::{
    authority::{expires, is_due},
    secrets::{AUTHORITY_SECRET, ISSUED, PROXY_SECRET},
};

/// Definitions that are needed: name, version, and whose they are.
const DEFINITIONS: [(&str, &str); 5] = [
    ("gatewayclasses.gateway.networking.k8s.io", "v1"),
    ("gateways.gateway.networking.k8s.io", "v1"),
    ("httproutes.gateway.networking.k8s.io", "v1"),
    ("referencegrants.gateway.networking.k8s.io", "v1beta1"),
    ("backendtrafficpolicies.trimtab.dev", "v1alpha1"),
];

/// What the controller does everywhere: group, resource, verbs. deploy/kubernetes/controller-rbac.yaml grants it.
const PERMISSIONS: [(&str, &str, &[&str]); 24] = [
    ("", "services", &["list", "watch"]),
    ("", "namespaces", &["list", "watch"]),
    ("", "pods", &["list", "watch"]),
    ("", "secrets", &["list", "watch"]),
    ("", "configmaps", &["list", "watch"]),
    ("discovery.k8s.io", "endpointslices", &["list", "watch"]),
    ("autoscaling", "horizontalpodautoscalers", &["list", "watch"]),
    ("gateway.networking.k8s.io", "gatewayclasses", &["list", "watch"]),
    ("gateway.networking.k8s.io", "gateways", &["list", "watch"]),
    ("gateway.networking.k8s.io", "httproutes", &["list", "watch"]),
    ("gateway.networking.k8s.io", "grpcroutes", &["list", "watch"]),
    ("gateway.networking.k8s.io", "referencegrants", &["list", "watch"]),
    ("networking.k8s.io", "ingresses", &["list", "watch"]),
    ("networking.k8s.io", "ingressclasses", &["list", "watch"]),
    ("networking.k8s.io", "ingresses/status", &["patch"]),
    ("gateway.networking.k8s.io", "backendtlspolicies", &["list", "watch"]),
    ("gateway.networking.k8s.io", "gatewayclasses/status", &["patch"]),
    ("gateway.networking.k8s.io", "gateways/status", &["patch"]),
    ("gateway.networking.k8s.io", "httproutes/status", &["patch"]),
    ("gateway.networking.k8s.io", "grpcroutes/status", &["patch"]),
    ("gateway.networking.k8s.io", "backendtlspolicies/status", &["patch"]),
    ("trimtab.dev", "backendtrafficpolicies", &["list", "watch"]),
    ("trimtab.dev", "backendtrafficpolicies/status", &["patch"]),
    ("events.k8s.io", "events", &["create", "patch"]),
];

/// An authority that has fewer days to go should have been replaced long ago.
const AUTHORITY_WARNING_DAYS: i32 = 90;

/// The clocks of two machines may differ by so much, in seconds, before a lease that is renewed all the time looks old.
const CLOCK_SKEW_S: i64 = 10;

pub(super) async fn reachable(client: &Client) -> Verdict {
    let what = "the API server can be reached";
    match answer(client.apiserver_version()).await {
        Ok(version) => Verdict::good("kubernetes-api", what, version.git_version),
        Err(error) => Verdict::bad(
            "kubernetes-api",
            what,
            error,
            "name a cluster by --kubeconfig or KUBECONFIG, and see that it runs",
            "docs/kubernetes.md#what-it-reads",
        ),
    }
}

pub(super) async fn definitions(client: &Client) -> Vec<Verdict> {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut verdicts = Vec::new();
    for (name, version) in DEFINITIONS {
        let what = format!("{name} is defined, version {version}");
        let found = answer(api.get_opt(name)).await;
        let fault = match found {
            Ok(Some(definition)) => {
                let served = definition.spec.versions.iter().filter(|one| one.served).map(|one| one.name.as_str());
                let served: Vec<&str> = served.collect();
                // ReferenceGrants are the same in v1.
                match served.contains(&version) || (version == "v1beta1" && served.contains(&"v1")) {
                    true => None,
                    false => Some(format!("it is served in {}", served.join(", "))),
                }
            }
            Ok(None) => Some("it is not".to_owned()),
            Err(error) => Some(error),
        };
        let ours = name.ends_with("trimtab.dev");
        verdicts.push(match fault {
            None => Verdict::good("definitions", what, ""),
            Some(fault) if ours => Verdict::bad(
                "definitions",
                what,
                fault,
                "trimtab crds | kubectl apply --server-side -f -",
                "docs/kubernetes.md",
            ),
            Some(fault) => Verdict::bad(
                "definitions",
                what,
                fault,
                "install the standard channel of the Gateway API, https://gateway-api.sigs.k8s.io/guides/",
                "docs/kubernetes.md#what-it-reads",
            ),
        });
    }
    verdicts
}

pub(super) async fn permissions(client: &Client, options: &CheckOptions) -> Vec<Verdict> {
    let (namespace, name) = &options.account;
    let mut wanted: Vec<(&str, &str, &str, Option<&str>)> = PERMISSIONS
        .iter()
        .flat_map(|(group, resource, verbs)| verbs.iter().map(move |verb| (*group, *resource, *verb, None)))
        .collect();
    for verb in ["get", "create", "update"] {
        wanted.push(("coordination.k8s.io", "leases", verb, Some(namespace)));
    }
    let mut missing = Vec::new();
    for (group, resource, verb, within) in &wanted {
        match may(client, options, group, resource, verb, *within).await {
            Ok(true) => {}
            Ok(false) => missing.push(format!("{verb} {resource}")),
            Err(error) => {
                return vec![Verdict::bad(
                    "permissions",
                    format!("what ServiceAccount {namespace}/{name} may do can be asked"),
                    error,
                    "run the check as somebody who may create subjectaccessreviews",
                    "docs/kubernetes.md#permissions",
                )];
            }
        }
    }
    let what = format!("ServiceAccount {namespace}/{name} may do what the controller does");
    vec![match missing.is_empty() {
        true => Verdict::good("permissions", what, format!("{} permissions", wanted.len())),
        false => Verdict::bad(
            "permissions",
            what,
            format!("it may not {}", missing.join(", ")),
            "kubectl apply -f deploy/kubernetes/controller-rbac.yaml",
            "docs/kubernetes.md#permissions",
        ),
    }]
}

async fn may(
    client: &Client,
    options: &CheckOptions,
    group: &str,
    resource: &str,
    verb: &str,
    namespace: Option<&str>,
) -> Result<bool, String> {
    let (resource, subresource) = match resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (resource, None),
    };
    let attributes = ResourceAttributes {
        group: Some(group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        verb: Some(verb.to_owned()),
        namespace: namespace.map(str::to_owned),
        ..ResourceAttributes::default()
    };
    let (account_namespace, account) = &options.account;
    let groups =
        ["system:serviceaccounts", &format!("system:serviceaccounts:{account_namespace}"), "system:authenticated"]
            .map(str::to_owned);
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{account_namespace}:{account}")),
            groups: Some(groups.into()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client.clone());
    let answered = answer(api.create(&PostParams::default(), &review)).await?;
    Ok(answered.status.is_some_and(|status| status.allowed))
}

pub(super) async fn leader(client: &Client, options: &CheckOptions, now: Timestamp) -> Verdict {
    let what = "a controller leads";
    let bad = |detail: String| {
        Verdict::bad(
            "leader",
            what,
            detail,
            "see that a controller runs, and its log; --lease and --account say which lease is looked at",
            "docs/kubernetes.md#several-controllers",
        )
    };
    let (namespace, _) = &options.account;
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = match answer(api.get_opt(&options.lease)).await {
        Ok(Some(lease)) => lease.spec.unwrap_or_default(),
        Ok(None) => return bad(format!("there is no Lease {namespace}/{}", options.lease)),
        Err(error) => return bad(error),
    };
    let Some(holder) = lease.holder_identity.filter(|holder| !holder.is_empty()) else {
        return bad("nobody holds the lease".to_owned());
    };
    let age_s = lease.renew_time.map_or(i64::MAX, |at| now.as_second().saturating_sub(at.0.as_second()));
    match age_s <= i64::from(lease.lease_duration_seconds.unwrap_or_default()) + CLOCK_SKEW_S {
        true => Verdict::good("leader", what, holder),
        false => bad(format!("{holder} held the lease and renewed it {age_s} s ago")),
    }
}

pub(super) async fn certificates(client: &Client, options: &CheckOptions, now: Timestamp) -> Verdict {
    let what = "certificates and their authority are fresh";
    let bad = |detail: String| {
        Verdict::bad(
            "certificates",
            what,
            detail,
            "start the controllers with --tls-secrets; to have a certificate issued anew, delete its Secret and restart a controller",
            "docs/kubernetes.md#encryption-between-proxies-and-controllers",
        )
    };
    let (namespace, _) = &options.account;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = match answer(api.get_opt(PROXY_SECRET)).await {
        Ok(Some(secret)) => secret,
        Ok(None) => return bad(format!("there is no Secret {namespace}/{PROXY_SECRET}")),
        Err(error) => return bad(error),
    };
    let issued = secret.metadata.annotations.as_ref().and_then(|all| all.get(ISSUED)?.parse::<Date>().ok());
    let authority = match answer(api.get_opt(AUTHORITY_SECRET)).await {
        Ok(secret) => secret,
        Err(error) => return bad(error),
    };
    let authority = authority.and_then(|secret| secret.metadata.annotations?.get(ISSUED)?.parse::<Date>().ok());
    let Some(authority) = authority else {
        return bad(format!("Secret {namespace}/{AUTHORITY_SECRET} is not there, or does not say when it was made"));
    };
    // The leader replaces it a year before.
    let (today, ends) = (now.to_zoned(TimeZone::UTC).date(), expires(authority));
    if ends.saturating_sub(AUTHORITY_WARNING_DAYS.days()) <= today {
        return bad(format!("the authority ends on {ends}, and no controller has replaced it"));
    }
    match issued {
        Some(issued) if !is_due(issued, now.to_zoned(TimeZone::UTC).date()) => {
            Verdict::good("certificates", what, format!("issued {issued}, by an authority that ends on {ends}"))
        }
        Some(issued) => bad(format!("issued {issued}, and not replaced since")),
        None => bad(format!("Secret {namespace}/{PROXY_SECRET} does not say when its certificate was issued")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::PERMISSIONS;

    #[test]
    fn what_is_checked_is_what_is_granted_everywhere() {
        let granted = include_str!("../../../deploy/kubernetes/controller-rbac.yaml");
        let objects = granted.split("\n---\n").map(|text| serde_saphyr::from_str::<Value>(text).expect("an object"));
        let role = objects.into_iter().find(|object| object["kind"] == "ClusterRole").expect("a ClusterRole");
        let texts = |rule: &Value, field: &str| -> Vec<String> {
            let list = rule[field].as_array().expect("a list").iter();
            list.map(|text| text.as_str().expect("a text").to_owned()).collect()
        };
        let mut rules = BTreeSet::new();
        for rule in role["rules"].as_array().expect("rules") {
            for group in texts(rule, "apiGroups") {
                for resource in texts(rule, "resources") {
                    for verb in texts(rule, "verbs") {
                        rules.insert((group.clone(), resource.clone(), verb));
                    }
                }
            }
        }
        let one = |group: &str, resource: &str, verb: &str| (group.to_owned(), resource.to_owned(), verb.to_owned());
        let checked: BTreeSet<_> = PERMISSIONS
            .iter()
            .flat_map(|(group, resource, verbs)| verbs.iter().map(|verb| one(group, resource, verb)))
            .collect();
        assert_eq!(checked, rules);
    }
}
