//! What a container's process is told: its environment and its command line.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVar, EnvVarSource, Pod, Secret};
use kube::{Api, Client};

/// Where a pod runs, for what refers to it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The pod's address.
    pub address: String,
    /// The node's address.
    pub node_address: String,
    /// The node's name.
    pub node: String,
}

/// The environment of a container.
///
/// # Errors
/// If it refers to something that is not there; for people, and for the message of `CreateContainerConfigError`.
pub async fn environment(
    client: &Client,
    pod: &Pod,
    container: &Container,
    facts: &Facts,
) -> Result<BTreeMap<String, String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let (configs, secrets): (Api<ConfigMap>, Api<Secret>) =
        (Api::namespaced(client.clone(), namespace), Api::namespaced(client.clone(), namespace));
    let mut all = BTreeMap::new();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(reference) = &source.config_map_ref
            && let Some(found) = optional(configs.get(&reference.name).await, reference.optional)?
        {
            all.extend(found.data.into_iter().flatten().map(|(key, value)| (format!("{prefix}{key}"), value)));
        }
        if let Some(reference) = &source.secret_ref
            && let Some(found) = optional(secrets.get(&reference.name).await, reference.optional)?
        {
            let data = found.data.into_iter().flatten();
            all.extend(data.map(|(key, value)| (format!("{prefix}{key}"), String::from_utf8_lossy(&value.0).into())));
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match variable {
            EnvVar { value_from: Some(source), .. } => match from_source(source, pod, facts)? {
                Some(value) => Some(value),
                None => referred(source, &configs, &secrets).await?,
            },
            EnvVar { value, .. } => Some(expand(value.as_deref().unwrap_or_default(), &all)),
        };
        if let Some(value) = value {
            all.insert(variable.name.clone(), value);
        }
    }
    Ok(all)
}

/// The command line: the image's entry point unless `command` replaces it, and `args`, with `$(NAME)` expanded.
pub fn command_line(container: &Container, entry_point: &str, environment: &BTreeMap<String, String>) -> Vec<String> {
    let own = vec![entry_point.to_owned()];
    let command = container.command.as_ref().filter(|command| !command.is_empty()).unwrap_or(&own);
    command.iter().chain(container.args.iter().flatten()).map(|word| expand(word, environment)).collect()
}

async fn referred(
    source: &EnvVarSource,
    configs: &Api<ConfigMap>,
    secrets: &Api<Secret>,
) -> Result<Option<String>, String> {
    if let Some(key) = &source.config_map_key_ref {
        let found = optional(configs.get(&key.name).await, key.optional)?;
        let value = found.and_then(|found| found.data.and_then(|mut data| data.remove(&key.key)));
        return present(value, key.optional, &key.name, &key.key);
    }
    if let Some(key) = &source.secret_key_ref {
        let found = optional(secrets.get(&key.name).await, key.optional)?;
        let value = found.and_then(|found| found.data.and_then(|mut data| data.remove(&key.key)));
        let value = value.map(|value| String::from_utf8_lossy(&value.0).into_owned());
        return present(value, key.optional, &key.name, &key.key);
    }
    Err("valueFrom must be a fieldRef, resourceFieldRef, configMapKeyRef or secretKeyRef here".to_owned())
}

fn from_source(source: &EnvVarSource, pod: &Pod, facts: &Facts) -> Result<Option<String>, String> {
    if let Some(field) = &source.field_ref {
        return self::field(&field.field_path, pod, facts).map(Some);
    }
    // The downward API rounds up and never says 0; a number of processors is all that programs ask for.
    if let Some(resource) = &source.resource_field_ref {
        return match resource.resource.as_str() {
            "limits.cpu" | "requests.cpu" => Ok(Some("1".to_owned())),
            other => Err(format!("resourceFieldRef.resource {other:?} is not supported here, only limits.cpu")),
        };
    }
    Ok(None)
}

/// A field of the downward API.
///
/// # Errors
/// If it is not one of those that the downward API has.
pub fn field(path: &str, pod: &Pod, facts: &Facts) -> Result<String, String> {
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let subscript = |name: &str| path.strip_prefix(name)?.strip_prefix("['")?.strip_suffix("']").map(str::to_owned);
    if let Some(key) = subscript("metadata.labels") {
        return Ok(meta.labels.as_ref().and_then(|labels| labels.get(&key).cloned()).unwrap_or_default());
    }
    if let Some(key) = subscript("metadata.annotations") {
        return Ok(meta.annotations.as_ref().and_then(|all| all.get(&key).cloned()).unwrap_or_default());
    }
    let lines = |all: &Option<BTreeMap<String, String>>| {
        all.iter().flatten().map(|(key, value)| format!("{key}={value:?}\n")).collect::<String>()
    };
    Ok(match path {
        "metadata.name" => meta.name.clone().unwrap_or_default(),
        "metadata.namespace" => meta.namespace.clone().unwrap_or_default(),
        "metadata.uid" => meta.uid.clone().unwrap_or_default(),
        "metadata.labels" => lines(&meta.labels),
        "metadata.annotations" => lines(&meta.annotations),
        "spec.nodeName" => facts.node.clone(),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()).unwrap_or_default(),
        "status.podIP" | "status.podIPs" => facts.address.clone(),
        "status.hostIP" | "status.hostIPs" => facts.node_address.clone(),
        other => return Err(format!("fieldRef.fieldPath {other:?} is no field of the downward API")),
    })
}

fn optional<T>(found: kube::Result<T>, optional: Option<bool>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(kube::Error::Api(status)) if status.code == 404 && optional == Some(true) => Ok(None),
        Err(error) => Err(error.to_string()),
    }
}

fn present(value: Option<String>, optional: Option<bool>, name: &str, key: &str) -> Result<Option<String>, String> {
    match value {
        None if optional != Some(true) => Err(format!("couldn't find key {key} in {name}")),
        value => Ok(value),
    }
}

/// `$(NAME)` becomes the value of NAME where there is one, `$$(` becomes `$(`.
fn expand(text: &str, environment: &BTreeMap<String, String>) -> String {
    let (mut expanded, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('$') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("$$") {
            expanded.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'))
            && let Some(value) = environment.get(name)
        {
            expanded.push_str(value);
            rest = after;
        } else {
            expanded.push('$');
            rest = &rest[1..];
        }
    }
    expanded + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_to_variables_are_expanded_and_unknown_ones_stay() {
        let environment = BTreeMap::from([("IP".to_owned(), "10.1.2.3".to_owned())]);
        for (text, expected) in [
            ("--listen=$(IP):80", "--listen=10.1.2.3:80"),
            ("$(NO)-$(IP)$(IP)", "$(NO)-10.1.2.310.1.2.3"),
            ("$$(IP) $5 $", "$(IP) $5 $"),
            ("$(IP", "$(IP"),
        ] {
            assert_eq!(expand(text, &environment), expected, "{text}");
        }
    }
}
