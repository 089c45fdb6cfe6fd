//! Trimtab as it comes, with the objective that the benchmark scores by. One proxy: `trimtab up`. Several: `trimtab
//! controller` and as many `trimtab proxy`, each with a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::process::Command;

use super::{Certificate, Protocol, Server, Setup, replace};
use crate::compare::process::free_address;
use crate::tools::own_binary;

/// What runs.
pub struct Started {
    pub servers: Vec<Server>,
    pub targets: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
}

pub async fn start(
    folder: &Path,
    setup: &Setup<'_>,
    certificate: &Certificate,
    more: &[&str],
) -> anyhow::Result<Started> {
    let Setup { proxies, objective, .. } = *setup;
    let workers = setup.workers.to_string();
    let program = own_binary("trimtab")?;
    if setup.protocol != Protocol::Http1 {
        ensure!(proxies == 1, "several proxies speak HTTP/1.1 here");
        return start_with_objects(&program, folder, setup, certificate, more).await;
    }
    let source = |command: &mut Command, listen: SocketAddr| {
        command.args(["--listen", &listen.to_string(), "--slo", &format!("{}ms", objective.as_millis())]);
        command.arg("--backends").arg(folder.join("backends"));
        command.arg("--no-dashboard");
        add(command, folder, more);
    };
    if proxies == 1 {
        let (address, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        command.args(["up", "--workers", &workers, "--admin", &admin.to_string()]);
        source(&mut command, address);
        let mut server = Server::start("trimtab", command, folder)?;
        server.listens(address).await?;
        return Ok(Started { servers: vec![server], targets: vec![address], admin: vec![admin] });
    }
    let grpc = free_address()?;
    let mut command = Command::new(&program);
    command.args(["controller", "--grpc", &grpc.to_string()]);
    source(&mut command, SocketAddr::from(([127, 0, 0, 1], 0)));
    let mut controller = Server::start("controller", command, folder)?;
    controller.listens(grpc).await?;
    let (mut servers, mut targets, mut admins) = (Vec::new(), Vec::new(), Vec::new());
    for nth in 0..proxies {
        let admin = free_address()?;
        let mut command = Command::new(&program);
        command.args(["proxy", "--workers", &workers, "--controller", &format!("http://{grpc}")]);
        command.args(["--id", &format!("proxy-{nth}"), "--admin", &admin.to_string()]);
        let mut server = Server::start(&format!("proxy-{nth}"), command, folder)?;
        server.listens(admin).await?;
        targets.push(listener(admin).await?);
        servers.push(server);
        admins.push(admin);
    }
    // Last, so that proxies are stopped before their controller.
    servers.push(controller);
    Ok(Started { servers, targets, admin: admins })
}

/// Adds further arguments, and a folder for recordings unless they say that there are none.
fn add(command: &mut Command, folder: &Path, more: &[&str]) {
    if !more.contains(&"--no-recordings") {
        command.arg("--recordings").arg(folder.join("recordings"));
    }
    command.args(more);
}

/// One proxy whose listener is said in objects: flags know only HTTP/1.1.
async fn start_with_objects(
    program: &Path,
    folder: &Path,
    setup: &Setup<'_>,
    certificate: &Certificate,
    more: &[&str],
) -> anyhow::Result<Started> {
    let (address, admin) = (free_address()?, free_address()?);
    let objects = folder.join("objects");
    std::fs::create_dir(&objects)?;
    std::fs::write(objects.join("objects.yaml"), objects_text(address, setup, certificate)?)?;
    let mut command = Command::new(program);
    let workers = setup.workers.to_string();
    command
        .args(["up", "--workers", &workers, "--admin", &admin.to_string(), "--no-dashboard"])
        .arg("-f")
        .arg(&objects);
    add(&mut command, folder, more);
    let mut server = Server::start("trimtab", command, folder)?;
    server.listens(address).await?;
    Ok(Started { servers: vec![server], targets: vec![address], admin: vec![admin] })
}

fn objects_text(address: SocketAddr, setup: &Setup<'_>, certificate: &Certificate) -> anyhow::Result<String> {
    let indented = |path: &Path| -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(path)?.lines().map(|line| format!("    {line}\n")).collect())
    };
    let (chain, key) = (indented(&certificate.chain)?, indented(&certificate.key)?);
    let listener = if setup.protocol.is_encrypted() {
        "protocol: HTTPS, tls: {certificateRefs: [{name: certificate}]}"
    } else {
        "protocol: HTTP"
    };
    let application = if setup.protocol == Protocol::H2c { ", appProtocol: kubernetes.io/h2c" } else { "" };
    let slices: String = setup
        .pods
        .iter()
        .enumerate()
        .map(|(index, pod)| {
            format!(
                "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: pods-{index}, labels: {{kubernetes.io/service-name: pods}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: ['{ip}']}}]
",
                port = pod.port(),
                ip = pod.ip()
            )
        })
        .collect();
    Ok(format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: entry}}
spec:
  gatewayClassName: trimtab
  addresses: [{{value: '{ip}'}}]
  listeners:
  - {{name: entry, port: {port}, {listener}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: all}}
spec:
  parentRefs: [{{name: entry}}]
  rules: [{{backendRefs: [{{name: pods, port: 80}}]}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: certificate}}
type: kubernetes.io/tls
stringData:
  tls.crt: |
{chain}  tls.key: |
{key}---
apiVersion: v1
kind: Service
metadata: {{name: pods}}
spec: {{ports: [{{port: 80{application}}}]}}
{slices}",
        ip = address.ip(),
        port = address.port(),
    ))
}

pub fn write_pods(folder: &Path, pods: &[SocketAddr]) -> anyhow::Result<()> {
    let lines: String = pods.iter().map(|pod| format!("{pod}\n")).collect();
    replace(&folder.join("backends"), &lines)
}

/// Names of the classes of requests that a proxy tells apart, from its admin address.
pub async fn classes(admin: SocketAddr) -> anyhow::Result<Vec<String>> {
    let config = crate::compare::trial::get(admin, "/config").await?;
    let config: serde_json::Value = serde_json::from_str(&config).context("/config is JSON")?;
    let classes = config["backends"].as_array().into_iter().flatten().flat_map(|backend| backend["classes"].as_array());
    Ok(classes.flatten().filter_map(|class| Some(class["name"].as_str()?.to_owned())).collect())
}

/// Where a proxy listens that chose its port itself, from its admin address.
async fn listener(admin: SocketAddr) -> anyhow::Result<SocketAddr> {
    for _ in 0..100 {
        let config = crate::compare::trial::get(admin, "/config").await?;
        let config: serde_json::Value = serde_json::from_str(&config).context("/config is JSON")?;
        let listeners = config["listeners"].as_array().into_iter().flatten();
        if let Some(address) = listeners.into_iter().find_map(|listener| listener["address"].as_str()) {
            return address.parse().with_context(|| format!("{address:?} is no address"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the proxy with admin address {admin} does not listen")
}
