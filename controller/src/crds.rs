//! The definitions of Trimtab's own kinds, as a cluster takes them: made from the types that read the objects, so that what the API
//! server accepts and what the controller understands cannot drift apart.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::Value;

use crate::policy::BackendTrafficPolicy;

/// Said at the top of the file.
const HEADER: &str = "# Written by `trimtab crds`; a test compares.\n";

/// All definitions, as JSON values in the order in which they are printed.
///
/// # Errors
/// A type's schema is none that a cluster could take: this is a bug, which a test finds.
pub fn all() -> Result<Vec<Value>, serde_json::Error> {
    [BackendTrafficPolicy::crd()].iter().map(definition).collect()
}

/// All definitions as YAML documents.
///
/// # Errors
/// As [`all`], with the reason in words.
pub fn yaml() -> Result<String, String> {
    let mut text = HEADER.to_owned();
    for definition in all().map_err(|error| error.to_string())? {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&definition).map_err(|error| error.to_string())?);
    }
    Ok(text)
}

fn definition(crd: &CustomResourceDefinition) -> Result<Value, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    drop_rust_formats(&mut value);
    Ok(value)
}

/// `uint32` and the like mean something to Rust only; the API server would warn of each. The bounds beside them say the same.
fn drop_rust_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                fields.remove("format");
            }
            fields.values_mut().for_each(drop_rust_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_rust_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The version that is served.
    fn version() -> Value {
        all().unwrap()[0]["spec"]["versions"][0].clone()
    }

    #[test]
    fn what_deploy_holds_is_what_is_printed() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/crds/trimtab.dev.yaml");
        let held = std::fs::read_to_string(path).unwrap_or_default();
        assert!(held == yaml().unwrap(), "out of date: write it with `trimtab crds > deploy/crds/trimtab.dev.yaml`");
    }

    #[test]
    fn the_schema_says_what_is_checked_and_what_is_assumed() {
        let version = version();
        let spec = &version["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let passive = &spec["properties"]["healthCheck"]["properties"]["passive"];
        assert_eq!(passive["properties"]["consecutive5XxErrors"]["default"], 5);
        assert_eq!(passive["x-kubernetes-validations"][0]["fieldPath"], ".maxEjectionTime");
        assert_eq!(spec["properties"]["targetRefs"]["maxItems"], 16);
        assert_eq!(spec["x-kubernetes-validations"].as_array().map(Vec::len), Some(1));
        assert_eq!(version["subresources"]["status"], serde_json::json!({}));
        assert!(!version.to_string().contains("\"uint"));
    }
}
