//! Who may say on whose behalf clients come, by annotations in a Gateway's `spec.infrastructure`: the Gateway API has no field for it.

use gateway_api::gateways::Gateway;
use trimtab_proxy::api::{self, v1};

use crate::problem::{OWN_PREFIX, Report};

/// Ranges from which connections begin with a PROXY header, with commas between them.
const PROXY_PROTOCOL: &str = "trimtab.dev/proxy-protocol-from";
/// Hops that add to X-Forwarded-For.
const TRUSTED_HOPS: &str = "trimtab.dev/trusted-hops";
/// Or the ranges in which they are.
const TRUSTED_NETWORKS: &str = "trimtab.dev/trusted-networks";
/// More hops than anybody has.
const HOPS_MAX: u32 = 32;

/// What is said; what does not hold is reported, and believes nobody.
pub(super) fn translate(gateway: &Gateway, report: &mut Report) -> Option<v1::ClientAddress> {
    for name in
        gateway.metadata.annotations.iter().flatten().map(|(name, _)| name).filter(|n| n.starts_with(OWN_PREFIX))
    {
        let message = format!("does nothing here, expected spec.infrastructure.annotations[{name}]");
        report.noted(format!("metadata.annotations[{name}]"), message);
    }
    let annotations = gateway.spec.infrastructure.as_ref()?.annotations.as_ref()?;
    let field = |name: &str| format!("spec.infrastructure.annotations[{name}]");
    report.unknown_keys(annotations.keys(), &[PROXY_PROTOCOL, TRUSTED_HOPS, TRUSTED_NETWORKS], field);
    let mut networks = |name: &str| -> Vec<String> {
        let mut found = Vec::new();
        for text in annotations.get(name).into_iter().flat_map(|list| list.split(',')).map(str::trim) {
            if api::is_network(text) {
                found.push(text.to_owned());
            } else {
                let message = format!(
                    "\"{}\" is not a range of addresses, expected one such as 10.0.0.0/8 or 2001:db8::/32",
                    text.escape_default()
                );
                report.invalid(field(name), message);
            }
        }
        found
    };
    let proxy_protocol_from = networks(PROXY_PROTOCOL);
    let mut trusted_networks = networks(TRUSTED_NETWORKS);
    let mut trusted_hops = 0;
    if let Some(text) = annotations.get(TRUSTED_HOPS) {
        match text.parse::<u32>().ok().filter(|hops| *hops <= HOPS_MAX) {
            Some(hops) => trusted_hops = hops,
            None => {
                let message =
                    format!("\"{}\" is not a number of hops, expected 0 to {HOPS_MAX}", text.escape_default());
                report.invalid(field(TRUSTED_HOPS), message);
            }
        }
        if trusted_hops > 0 && annotations.contains_key(TRUSTED_NETWORKS) {
            report.invalid(field(TRUSTED_HOPS), format!("stands beside {TRUSTED_NETWORKS}, expected one of them"));
            (trusted_hops, trusted_networks) = (0, Vec::new());
        }
    }
    let said = !proxy_protocol_from.is_empty() || trusted_hops > 0 || !trusted_networks.is_empty();
    said.then_some(v1::ClientAddress { proxy_protocol_from, trusted_hops, trusted_networks })
}
