//! A test cluster by hand: starts one, says how to reach it, and ends it with Ctrl-C.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use trimtab_tests::cluster::Cluster;

/// A Kubernetes cluster on this machine, with real etcd, kube-apiserver and kube-controller-manager; Pods with the images `trimtab` and `pod`
/// run as processes. Needs root. Ctrl-C ends it.
#[derive(Debug, Parser)]
struct Args {
    /// Objects to apply once it is up, YAML
    files: Vec<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let cluster = Cluster::start().await?;
    for file in &args.files {
        let yaml = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        cluster.apply(&yaml).await.with_context(|| file.display().to_string())?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(out, "export KUBECONFIG={}", cluster.kubeconfig_file().display())?;
    writeln!(out, "# what containers print: {}", cluster.logs_folder().display())?;
    out.flush()?;
    tokio::signal::ctrl_c().await?;
    Ok(())
}
