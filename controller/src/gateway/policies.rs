//! Which policy is for which port of which Service.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Service, ServicePort};

use super::{
    name_of, namespace_of, settings,
    status::{self, Condition, PolicyStatus, reason},
};
use crate::{
    objects::Objects,
    policy::BackendTrafficPolicy,
    problem::{ObjectId, Problem, Report},
};

/// Namespace and name of a Service, and the name of a port where the policy is for that port only.
type Target<'a> = (&'a str, &'a str, Option<&'a str>);

/// The policies that hold, by what they are for.
pub(super) struct Policies<'a> {
    by_target: HashMap<Target<'a>, &'a BackendTrafficPolicy>,
    /// What is to be said of them all.
    pub statuses: Vec<PolicyStatus>,
}

impl<'a> Policies<'a> {
    /// Of two policies for the same target the older wins, then the one whose name sorts first, as the Gateway API says.
    pub fn new(objects: &'a Objects, services: &HashMap<(&str, &str), &Service>, problems: &mut Vec<Problem>) -> Self {
        let mut sorted: Vec<_> = objects.policies.iter().collect();
        sorted.sort_by_key(|policy| super::age_and_name(&policy.metadata));
        let mut by_target: HashMap<Target<'a>, &'a BackendTrafficPolicy> = HashMap::new();
        let mut statuses = Vec::with_capacity(sorted.len());
        for policy in sorted {
            let namespace = namespace_of(&policy.metadata);
            let mut report = Report::new(ObjectId::new("BackendTrafficPolicy", namespace, name_of(&policy.metadata)));
            settings::check(policy, &mut report);
            let valid = report.is_valid();
            if !valid {
                report.unresolved("spec", "is not applied as long as this is so");
            }
            let mut ancestors = Vec::new();
            if let Some(fault) = report.first_invalid() {
                let condition = Condition::no("Accepted", reason::INVALID, fault.to_string());
                ancestors.extend(policy.spec.target_refs.iter().map(|target| {
                    let section = target.section_name.as_deref().filter(|section| !section.is_empty());
                    (status::ancestor(&policy.metadata, &target.name, section), condition.clone())
                }));
            }
            for (index, target) in policy.spec.target_refs.iter().enumerate().filter(|_| valid) {
                let field = format!("spec.targetRefs[{index}]");
                let section = target.section_name.as_deref().filter(|section| !section.is_empty());
                let ancestor = status::ancestor(&policy.metadata, &target.name, section);
                let mut say = |condition| ancestors.push((ancestor.clone(), condition));
                let Some(service) = services.get(&(namespace, target.name.as_str())) else {
                    let message = format!("{field}.name: there is no Service {namespace}/{}", target.name);
                    say(Condition::no("Accepted", reason::TARGET_NOT_FOUND, message));
                    report.unresolved(
                        format!("{field}.name"),
                        format!("there is no Service {namespace}/{}", target.name),
                    );
                    continue;
                };
                let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
                if let Some(section) = section
                    && !ports.iter().any(|port| port.name.as_deref() == Some(section))
                {
                    let message =
                        format!("\"{section}\" is not the name of a port of Service {namespace}/{}", target.name);
                    let said = format!("{field}.sectionName: {message}");
                    say(Condition::no("Accepted", reason::TARGET_NOT_FOUND, said));
                    report.unresolved(format!("{field}.sectionName"), message);
                    continue;
                }
                let key = (namespace, target.name.as_str(), section);
                match by_target.get(&key) {
                    Some(other) => {
                        let message = format!(
                            "is already the target of BackendTrafficPolicy {namespace}/{}",
                            name_of(&other.metadata)
                        );
                        say(Condition::no("Accepted", reason::CONFLICTED, format!("{field}: {message}")));
                        report.unresolved(field, message);
                    }
                    None => {
                        say(Condition::yes("Accepted", reason::ACCEPTED));
                        by_target.insert(key, policy);
                    }
                }
            }
            statuses.push(status::policy(&policy.metadata, ancestors));
            super::close(report, objects, problems);
        }
        Policies { by_target, statuses }
    }

    /// The policy for a port: the one that names the port, else the one for the Service.
    pub fn of(&self, service: &Service, port: &ServicePort) -> Option<&'a BackendTrafficPolicy> {
        let (namespace, name) = (namespace_of(&service.metadata), name_of(&service.metadata));
        let by_port = port.name.as_deref().and_then(|port| self.by_target.get(&(namespace, name, Some(port))));
        by_port.or_else(|| self.by_target.get(&(namespace, name, None))).copied()
    }
}
