//! Objects from YAML into the API server.

use anyhow::Context;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};

/// The documents of a YAML text; empty ones are left out.
///
/// # Errors
/// If a document is no Kubernetes object.
pub fn parse(yaml: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let documents: Vec<Option<DynamicObject>> = serde_saphyr::from_multiple(yaml).context("YAML of objects")?;
    Ok(documents.into_iter().flatten().collect())
}

/// Server-side apply, object by object; only tried, if it is a dry run.
pub(super) async fn apply(client: &Client, objects: Vec<DynamicObject>, dry_run: bool) -> anyhow::Result<()> {
    let params = PatchParams { dry_run, ..PatchParams::apply("tests").force() };
    for object in objects {
        let name = object.metadata.name.clone().context("an object has no name")?;
        let types = object.types.as_ref().with_context(|| format!("object {name} has no kind"))?;
        let kind = GroupVersionKind::try_from(types)?;
        let label = format!("{} {name}", kind.kind);
        let (resource, capabilities) = pinned_kind(client, &kind).await.with_context(|| label.clone())?;
        let api: Api<DynamicObject> = match (capabilities.scope, &object.metadata.namespace) {
            (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
            (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
            (Scope::Namespaced, None) => Api::namespaced_with(client.clone(), "default", &resource),
        };
        api.patch(&name, &params, &Patch::Apply(&object)).await.with_context(|| label)?;
    }
    Ok(())
}
