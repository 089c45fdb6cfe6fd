//! Trimtab as it comes, with the objective that the benchmark scores by. One proxy: `trimtab up`. Several: `trimtab
//! controller` and as many `trimtab proxy`, each with a port of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::process::Command;

use super::{Server, replace};
use crate::compare::process::free_address;
use crate::tools::own_binary;

/// What runs.
pub struct Started {
    pub servers: Vec<Server>,
    pub targets: Vec<SocketAddr>,
    pub admin: Vec<SocketAddr>,
}

pub async fn start(folder: &Path, proxies: usize, objective: Duration, without: &[&str]) -> anyhow::Result<Started> {
    let program = own_binary("trimtab")?;
    let source = |command: &mut Command, listen: SocketAddr| {
        command.args(["--listen", &listen.to_string(), "--slo", &format!("{}ms", objective.as_millis())]);
        command.arg("--backends").arg(folder.join("backends"));
        command.arg("--recordings").arg(folder.join("recordings"));
        command.arg("--no-dashboard");
        if !without.is_empty() {
            command.args(["--without", &without.join(",")]);
        }
    };
    if proxies == 1 {
        let (address, admin) = (free_address()?, free_address()?);
        let mut command = Command::new(program);
        command.args(["up", "--workers", "1", "--admin", &admin.to_string()]);
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
        command.args(["proxy", "--workers", "1", "--controller", &format!("http://{grpc}")]);
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
