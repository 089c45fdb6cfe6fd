//! Envoy with least request over all hosts (its default looks at two), outlier detection, and circuit breakers out of the way.
//! Pods come from a watched endpoints file, as from a control plane. Slow start stays off, as by default: while it lasts,
//! hosts are weighted and the full scan gives way to a scheduler that made the tail under antagonists 1.8 times as long.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};
use tokio::process::Command;

use super::{Certificate, Protocol, Server, Setup, Tools, replace};
use crate::compare::process::free_address;

pub async fn start(
    tools: &Tools,
    folder: &Path,
    setup: &Setup<'_>,
    certificate: &Certificate,
) -> anyhow::Result<(Vec<Server>, Vec<SocketAddr>)> {
    let (mut servers, mut targets) = (Vec::new(), Vec::new());
    for nth in 0..setup.proxies {
        let address = free_address()?;
        let config = folder.join(format!("envoy-{nth}.json"));
        std::fs::write(&config, bootstrap(folder, address, setup.protocol, certificate).to_string())?;
        let mut command = Command::new(tools.path("envoy")?);
        command.arg("-c").arg(&config).args([
            "--concurrency",
            &setup.workers.to_string(),
            "--disable-hot-restart",
            "--log-level",
            "warn",
        ]);
        command.args(["--service-node", &format!("envoy-{nth}"), "--service-cluster", "compare"]);
        let mut server = Server::start(&format!("envoy-{nth}"), command, folder)?;
        server.listens(address).await?;
        servers.push(server);
        targets.push(address);
    }
    Ok((servers, targets))
}

pub fn write_pods(folder: &Path, pods: &[SocketAddr]) -> anyhow::Result<()> {
    let endpoints: Vec<Value> =
        pods.iter().map(|pod| json!({ "endpoint": { "address": socket_address(*pod) } })).collect();
    let assignment = json!({
        "resources": [{
            "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            "cluster_name": "pods",
            "endpoints": [{ "lb_endpoints": endpoints }],
        }],
    });
    replace(&folder.join("endpoints.json"), &assignment.to_string())
}

fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}

fn bootstrap(folder: &Path, address: SocketAddr, protocol: Protocol, certificate: &Certificate) -> Value {
    let mut chain = json!({ "filters": [{
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": connection_manager(),
    }] });
    if protocol.is_encrypted() {
        chain["transport_socket"] = transport_socket(protocol, certificate);
    }
    let mut cluster = cluster(folder);
    if protocol == Protocol::H2c {
        cluster["typed_extension_protocol_options"] = json!({ "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        } });
    }
    json!({
        "static_resources": {
            "listeners": [{
                "name": "entry",
                "address": socket_address(address),
                "filter_chains": [chain],
            }],
            "clusters": [cluster],
        },
    })
}

fn transport_socket(protocol: Protocol, certificate: &Certificate) -> Value {
    let alpn = if protocol == Protocol::Http2 { "h2" } else { "http/1.1" };
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": [alpn],
                "tls_params": { "tls_minimum_protocol_version": "TLSv1_3" },
                "tls_certificates": [{
                    "certificate_chain": { "filename": certificate.chain },
                    "private_key": { "filename": certificate.key },
                }],
            },
        },
    })
}

fn connection_manager() -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "entry",
        "generate_request_id": false,
        "route_config": {
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{
                    "match": { "prefix": "/" },
                    "route": {
                        "cluster": "pods",
                        "timeout": "60s",
                        "retry_policy": { "retry_on": "connect-failure,refused-stream", "num_retries": 1 },
                    },
                }],
            }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    })
}

fn cluster(folder: &Path) -> Value {
    json!({
        "name": "pods",
        "type": "EDS",
        "connect_timeout": "1s",
        "eds_cluster_config": {
            "eds_config": {
                "resource_api_version": "V3",
                "path_config_source": { "path": folder.join("endpoints.json") },
            },
        },
        "load_balancing_policy": { "policies": [{ "typed_extension_config": {
            "name": "envoy.load_balancing_policies.least_request",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
                "selection_method": "FULL_SCAN",
            },
        } }] },
        "outlier_detection": {
            "consecutive_5xx": 5,
            "interval": "1s",
            "base_ejection_time": "5s",
            "max_ejection_percent": 50,
        },
        "circuit_breakers": { "thresholds": [{
            "max_connections": 10_000,
            "max_pending_requests": 10_000,
            "max_requests": 10_000,
            "max_retries": 100,
        }] },
    })
}
