//! What the controller makes of the objects: their statuses, read as anybody may.

use gateway_api::{gatewayclasses::GatewayClass, gateways::Gateway, grpcroutes::GrpcRoute, httproutes::HttpRoute};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{Api, Client, api::ListParams};

use super::{Verdict, answer};
use crate::{gateway::listeners::CONTROLLER_NAME, policy::BackendTrafficPolicy};

const SEE: &str = "docs/kubernetes.md#statuses";

pub(super) async fn check(client: &Client) -> Vec<Verdict> {
    let list = ListParams::default();
    let mut verdicts = Vec::new();
    let classes = match answer(Api::<GatewayClass>::all(client.clone()).list(&list)).await {
        Ok(classes) => classes.items,
        // Why is said among the definitions.
        Err(_) => return verdicts,
    };
    let ours: Vec<&GatewayClass> =
        classes.iter().filter(|class| class.spec.controller_name == CONTROLLER_NAME).collect();
    if ours.is_empty() {
        verdicts.push(Verdict::bad(
            "configuration",
            format!("there is a GatewayClass of {CONTROLLER_NAME}"),
            "there is none",
            "create one, as deploy/kubernetes shows",
            SEE,
        ));
    }
    let mut faults = Vec::new();
    for class in &ours {
        let conditions = class.status.as_ref().and_then(|status| status.conditions.as_deref());
        faults.extend(fault("GatewayClass", &class.metadata, "Accepted", conditions));
    }
    verdicts.push(summary("GatewayClasses are accepted", ours.len(), faults));

    let names: Vec<&str> = ours.iter().filter_map(|class| class.metadata.name.as_deref()).collect();
    if let Ok(gateways) = answer(Api::<Gateway>::all(client.clone()).list(&list)).await {
        let gateways = gateways.items.into_iter().filter(|one| names.contains(&one.spec.gateway_class_name.as_str()));
        let (mut count, mut faults) = (0, Vec::new());
        for gateway in gateways {
            count += 1;
            let status = gateway.status.as_ref();
            let conditions = status.and_then(|status| status.conditions.as_deref());
            for kind in ["Accepted", "Programmed"] {
                faults.extend(fault("Gateway", &gateway.metadata, kind, conditions));
            }
        }
        verdicts.push(summary("Gateways are accepted and programmed", count, faults));
    }
    if let Ok(routes) = answer(Api::<HttpRoute>::all(client.clone()).list(&list)).await {
        let said = routes.items.iter().flat_map(|route| {
            let parents = route.status.iter().flat_map(|status| &status.parents);
            parents.map(|parent| (&route.metadata, parent.controller_name.as_str(), parent.conditions.as_slice()))
        });
        verdicts.push(of_routes("HTTPRoute", "HTTPRoutes are accepted and their references lead somewhere", said));
    }
    // The definition of GRPCRoutes may be missing: nothing is to be said of them then.
    if let Ok(routes) = answer(Api::<GrpcRoute>::all(client.clone()).list(&list)).await {
        let said = routes.items.iter().flat_map(|route| {
            let parents = route.status.iter().flat_map(|status| &status.parents);
            parents.map(|parent| (&route.metadata, parent.controller_name.as_str(), parent.conditions.as_slice()))
        });
        verdicts.push(of_routes("GRPCRoute", "GRPCRoutes are accepted and their references lead somewhere", said));
    }
    if let Ok(policies) = answer(Api::<BackendTrafficPolicy>::all(client.clone()).list(&list)).await {
        let (mut count, mut faults) = (0, Vec::new());
        for policy in policies.items {
            count += 1;
            let ancestors = policy.status.iter().flat_map(|status| &status.ancestors);
            for ancestor in ancestors.filter(|ancestor| ancestor.controller_name == CONTROLLER_NAME) {
                faults.extend(fault("BackendTrafficPolicy", &policy.metadata, "Accepted", Some(&ancestor.conditions)));
            }
        }
        verdicts.push(summary("BackendTrafficPolicies are accepted", count, faults));
    }
    verdicts
}

/// What is said of routes: of whom, by whom, and what.
fn of_routes<'a>(
    kind: &str,
    what: &'static str,
    said: impl Iterator<Item = (&'a ObjectMeta, &'a str, &'a [Condition])>,
) -> Verdict {
    let (mut count, mut faults) = (0, Vec::new());
    for (metadata, _, conditions) in said.filter(|(_, controller, _)| *controller == CONTROLLER_NAME) {
        count += 1;
        for of in ["Accepted", "ResolvedRefs"] {
            faults.extend(fault(kind, metadata, of, Some(conditions)));
        }
    }
    summary(what, count, faults)
}

/// What is wrong with one condition of an object, if something is.
fn fault(kind: &str, metadata: &ObjectMeta, of: &str, conditions: Option<&[Condition]>) -> Option<String> {
    let name = metadata.name.as_deref().unwrap_or_default();
    let name = match &metadata.namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    match conditions.unwrap_or_default().iter().find(|condition| condition.type_ == of) {
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(format!("{name}: not {of} ({}): {}", condition.reason, condition.message)),
        None => Some(format!("{name}: nobody has said yet whether it is {of}")),
    }
}

fn summary(what: &'static str, count: usize, faults: Vec<String>) -> Verdict {
    match faults.is_empty() {
        true => Verdict::good("configuration", what, format!("{count} of them")),
        false => Verdict::bad("configuration", what, faults.join("; "), "put right what the conditions say", SEE),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    use super::*;

    fn condition(status: &str) -> Condition {
        Condition {
            type_: "Accepted".to_owned(),
            status: status.to_owned(),
            reason: "Why".to_owned(),
            message: "because".to_owned(),
            last_transition_time: Time(Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }
    }

    #[test]
    fn a_condition_that_does_not_hold_or_is_not_there_is_a_fault_that_names_the_object() {
        let metadata =
            ObjectMeta { namespace: Some("a".to_owned()), name: Some("g".to_owned()), ..ObjectMeta::default() };
        let found = |conditions: &[Condition]| fault("Gateway", &metadata, "Accepted", Some(conditions));
        assert_eq!(found(&[condition("True")]), None);
        assert_eq!(found(&[condition("False")]).unwrap(), "Gateway a/g: not Accepted (Why): because");
        assert!(found(&[]).unwrap().starts_with("Gateway a/g: nobody has said yet"));
    }
}
