//! `trimtab check`: whether a cluster has what Trimtab needs and what it makes of it, in named categories. Each check says what holds or does
//! not, and what to do.

mod cluster;
mod configuration;
mod running;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use serde::Serialize;

use crate::view::View;

/// How long the API server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is looked at.
#[derive(Debug, Clone)]
pub struct CheckOptions {
    /// The controller's ServiceAccount: namespace and name. Its Lease and Secrets are in the same namespace.
    pub account: (String, String),
    /// Name of the Lease.
    pub lease: String,
    /// Whether controllers keep certificates in Secrets.
    pub certificates: bool,
}

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Its category.
    pub category: &'static str,
    /// What was checked, as it should be.
    pub what: String,
    /// Whether it is so.
    pub holds: bool,
    /// What was found instead, or that says more.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do, where it does not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
    /// Where the documentation says more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub see: Option<&'static str>,
}

impl Verdict {
    fn good(category: &'static str, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { category, what: what.into(), holds: true, detail: detail.into(), hint: None, see: None }
    }

    fn bad(
        category: &'static str,
        what: impl Into<String>,
        detail: impl Into<String>,
        hint: &'static str,
        see: &'static str,
    ) -> Self {
        Self { category, what: what.into(), holds: false, detail: detail.into(), hint: Some(hint), see: Some(see) }
    }
}

/// Checks everything, category by category. Where the API server cannot be reached the rest is left out.
/// `view`: what the leader says, where it was asked already; else it is asked through the API server.
pub async fn run(client: &Client, options: &CheckOptions, view: Option<Result<View, String>>) -> Vec<Verdict> {
    let mut verdicts = vec![cluster::reachable(client).await];
    if verdicts.iter().any(|verdict| !verdict.holds) {
        return verdicts;
    }
    verdicts.extend(cluster::definitions(client).await);
    verdicts.extend(cluster::permissions(client, options).await);
    verdicts.push(cluster::leader(client, options, Timestamp::now()).await);
    if options.certificates {
        verdicts.push(cluster::certificates(client, options, Timestamp::now()).await);
    }
    let view = match view {
        Some(view) => view,
        None => running::view(client, options).await,
    };
    verdicts.extend(running::check(view));
    verdicts.extend(configuration::check(client).await);
    verdicts
}

/// An answer in time, or why there is none.
async fn answer<T>(request: impl Future<Output = Result<T, kube::Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, request).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {PATIENCE:?}")),
    }
}
