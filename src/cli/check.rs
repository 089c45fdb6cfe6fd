//! `trimtab check`: whether a cluster has what Trimtab needs, and what Trimtab makes of it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use trimtab_controller::check::{self, CheckOptions, Verdict};
use trimtab_controller::leader::LEASE_NAME;
use trimtab_controller::provider::kubernetes;

use super::{Output, source::namespaced};

/// Arguments of `trimtab check`.
#[derive(Debug, Args)]
#[command(after_help = "It exits with 0 where everything holds, with 1 where something does not.")]
pub struct CheckArgs {
    /// Which cluster; by default what KUBECONFIG names, the user's own kubeconfig, or the pod's service account
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The controller's ServiceAccount; its Lease and Secrets are looked for in the same namespace
    #[arg(long, value_name = "NAMESPACE/NAME", default_value = "trimtab/trimtab-controller", value_parser = namespaced)]
    account: (String, String),
    /// Name of the Lease by which controllers agree who leads
    #[arg(long, value_name = "NAME", default_value = LEASE_NAME)]
    lease: String,
    /// Look at the certificates as well that controllers keep with --tls-secrets
    #[arg(long)]
    tls_secrets: bool,
    /// Where the leader's dashboard is; by default its pod is asked through the API server
    #[arg(long, value_name = "URL")]
    dashboard: Option<http::Uri>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    output: Output,
}

/// Checks and says what was found.
pub async fn run(args: CheckArgs) -> anyhow::Result<ExitCode> {
    let client = kubernetes::client(args.kubeconfig.as_ref()).await?;
    let options = CheckOptions { account: args.account, lease: args.lease, certificates: args.tls_secrets };
    let view = match &args.dashboard {
        Some(address) => Some(super::weights::fetch(address).await.map_err(|error| format!("{error:#}"))),
        None => None,
    };
    let verdicts = check::run(&client, &options, view).await;
    let holds = verdicts.iter().all(|verdict| verdict.holds);
    match args.output {
        Output::Json => {
            super::print(&[serde_json::to_string_pretty(&serde_json::json!({ "holds": holds, "checks": verdicts }))?])?;
        }
        Output::Table => super::print(&table(&verdicts, holds))?,
    }
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A heading for each category, a line for each check, and what to do below those that fail.
fn table(verdicts: &[Verdict], holds: bool) -> Vec<String> {
    let mut lines = Vec::new();
    let mut category = "";
    for verdict in verdicts {
        if verdict.category != category {
            category = verdict.category;
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.extend([category.to_owned(), "-".repeat(category.len())]);
        }
        let sign = if verdict.holds { '✓' } else { '×' };
        let detail = match verdict.detail.as_str() {
            "" => String::new(),
            detail if verdict.holds => format!(" ({detail})"),
            detail => format!(": {detail}"),
        };
        lines.push(format!("{sign} {}{detail}", verdict.what));
        lines.extend(verdict.hint.map(|hint| format!("    {hint}")));
        lines.extend(verdict.see.map(|see| format!("    see {see}")));
    }
    let failed = verdicts.iter().filter(|verdict| !verdict.holds).count();
    lines.push(String::new());
    lines.push(match holds {
        true => "All checks hold.".to_owned(),
        false => format!("{failed} of {} checks do not hold.", verdicts.len()),
    });
    lines
}
