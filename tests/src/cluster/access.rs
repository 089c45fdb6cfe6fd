//! Ways into a cluster: kubeconfigs, as the files that programs read and as clients.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::json;

use super::certificates::Pair;

/// Who one is to the API server.
#[derive(Debug, Clone)]
pub enum Identity {
    /// Whoever a client certificate names.
    Certificate(Pair),
    /// Whoever a token belongs to.
    Token(String),
}

/// A kubeconfig with one cluster and one user. It is JSON, which YAML includes.
pub fn kubeconfig(server: &str, authority: &str, identity: &Identity) -> String {
    let user = match identity {
        Identity::Certificate(pair) => json!({
            "client-certificate-data": STANDARD.encode(&pair.certificate),
            "client-key-data": STANDARD.encode(&pair.key),
        }),
        Identity::Token(token) => json!({ "token": token }),
    };
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "tests", "cluster": {
            "server": server,
            "certificate-authority-data": STANDARD.encode(authority),
        }}],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{ "name": "tests", "context": { "cluster": "tests", "user": "user" } }],
        "current-context": "tests",
    });
    format!("{config:#}\n")
}

/// A client by a kubeconfig. Its connections live in the runtime that calls this, so each test makes its own.
///
/// # Errors
/// If the text is no kubeconfig.
pub async fn client(kubeconfig: &str) -> anyhow::Result<Client> {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
