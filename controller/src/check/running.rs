//! What the leader itself says: whether proxies follow it, whether it reaches the pods' metrics, and by which policy it decides.

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};

use super::{CheckOptions, Verdict, answer};
use crate::view::{EndpointView, View};

/// Where a controller in a pod serves its view.
const DASHBOARD_PORT: u16 = 9900;

/// Metrics that are older are as good as none, in seconds.
const SCRAPE_AGE_S_MAX: f64 = 30.0;

/// How many names a verdict gives.
const NAMES_MAX: usize = 5;

/// The leader's view, by way of the API server: the holder of the lease is a pod.
pub(super) async fn view(client: &Client, options: &CheckOptions) -> Result<View, String> {
    let (namespace, _) = &options.account;
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let lease = answer(leases.get_opt(&options.lease)).await?.and_then(|lease| lease.spec).unwrap_or_default();
    let holder = lease.holder_identity.filter(|holder| !holder.is_empty()).ok_or("nobody holds the lease")?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{holder}:{DASHBOARD_PORT}/proxy/api/v1/view");
    let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    let text =
        answer(client.request_text(request)).await.map_err(|error| format!("pod {namespace}/{holder}: {error}"))?;
    serde_json::from_str(&text)
        .map_err(|error| format!("pod {namespace}/{holder} does not speak this version's API: {error}"))
}

/// What the view comes to. Without one, that is the one thing that does not hold.
pub(super) fn check(view: Result<View, String>) -> Vec<Verdict> {
    match view {
        Ok(view) => vec![connected(&view), in_sync(&view), scraped(endpoints(&view)), models(&view)],
        Err(error) => vec![Verdict::bad(
            "proxies",
            "the leader can be asked",
            error,
            "run the check as somebody who may get pods/proxy in the controllers' namespace, or name the leader's dashboard by --dashboard URL",
            "docs/kubernetes.md#checking",
        )],
    }
}

fn endpoints(view: &View) -> impl Iterator<Item = (&str, &[EndpointView])> {
    view.backends.iter().map(|backend| (backend.name.as_str(), backend.endpoints.as_slice()))
}

fn connected(view: &View) -> Verdict {
    let what = "proxies are connected";
    match view.proxies.len() {
        0 => Verdict::bad(
            "proxies",
            what,
            "there is none",
            "see that proxies run, and their log: they say why they do not reach the controller",
            "docs/kubernetes.md#several-controllers",
        ),
        count => Verdict::good("proxies", what, format!("{count} of them")),
    }
}

fn in_sync(view: &View) -> Verdict {
    let what = "proxies have acknowledged the newest configuration";
    let behind: Vec<String> = view
        .proxies
        .iter()
        .filter(|proxy| !proxy.in_sync)
        .map(|proxy| match &proxy.last_nack {
            Some(refusal) => format!("{} refused it: {refusal}", proxy.id),
            None => format!("{} has not answered", proxy.id),
        })
        .collect();
    match behind.is_empty() {
        true => Verdict::good("proxies", what, ""),
        false => Verdict::bad(
            "proxies",
            what,
            some(&behind),
            "a refusal names the resource and the field; what was in force before stays",
            "docs/kubernetes.md#checking",
        ),
    }
}

/// Pods need not have metrics. But where some of a backend have, a pod whose metrics cannot be read is one that is not seen.
fn scraped<'v>(backends: impl Iterator<Item = (&'v str, &'v [EndpointView])>) -> Verdict {
    let what = "pods that have metrics are scraped";
    let fresh = |age: Option<f64>| age.is_some_and(|age| age <= SCRAPE_AGE_S_MAX);
    let (mut good, mut unseen, mut without) = (0, Vec::new(), 0);
    for (name, endpoints) in backends {
        if !endpoints.iter().any(|endpoint| endpoint.scrape_age_s.is_some()) {
            without += 1;
            continue;
        }
        for endpoint in endpoints {
            match (fresh(endpoint.scrape_age_s), &endpoint.scrape_error) {
                (true, _) => good += 1,
                (false, Some(error)) => unseen.push(format!("{} of {name}: {error}", endpoint.name)),
                (false, None) => unseen.push(format!("{} of {name}: nothing yet", endpoint.name)),
            }
        }
    }
    match unseen.is_empty() {
        true => Verdict::good(
            "pods",
            what,
            format!("{good} of them; {without} backends have none, and go by what proxies see"),
        ),
        false => Verdict::bad(
            "pods",
            what,
            some(&unseen),
            "see that port and path are right (prometheus.io/port, prometheus.io/path, or spec.adaptive.metrics of the policy) and that no NetworkPolicy is in the way",
            "docs/metrics.md",
        ),
    }
}

fn models(view: &View) -> Verdict {
    let what = "the policies that are asked for are loaded";
    // What is said of a policy that cannot be loaded always ends so.
    let faults: Vec<String> =
        view.problems.iter().filter(|problem| problem.ends_with("stays in force")).cloned().collect();
    match faults.is_empty() {
        true => Verdict::good("models", what, view.policy_version.clone()),
        false => Verdict::bad(
            "models",
            what,
            some(&faults),
            "see that the file or the version is there, and of this release: trimtab models list",
            "docs/models.md",
        ),
    }
}

/// The first few of them.
fn some(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMES_MAX);
    let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
    format!("{}{rest}", all[..all.len() - more].join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ProxyView;

    fn proxy(id: &str, in_sync: bool, nack: Option<&str>) -> ProxyView {
        let last_nack = nack.map(str::to_owned);
        ProxyView { id: id.to_owned(), report_age_s: None, acks: 0, nacks: 0, last_nack, in_sync }
    }

    fn endpoint(name: &str, age_s: Option<f64>, error: Option<&str>) -> EndpointView {
        let text = format!(
            r#"{{"name": "{name}", "address": "", "key": "", "state": "Active", "weight_baseline": 1, "weight_proposed": 1,
                "weight_applied": 1, "share": 1, "rps": 0, "in_flight": 0, "latency_ms_p50": null, "latency_ms_p99": null,
                "error": 0, "ejected_by": 0, "capacity_rps": null, "scrape_age_s": null, "scrape_error": null}}"#
        );
        let endpoint: EndpointView = serde_json::from_str(&text).unwrap();
        EndpointView { scrape_age_s: age_s, scrape_error: error.map(str::to_owned), ..endpoint }
    }

    #[test]
    fn a_proxy_that_refuses_or_is_silent_is_named() {
        let view = |proxies| View { proxies, ..View::default() };
        assert!(!connected(&view(vec![])).holds);
        assert!(connected(&view(vec![proxy("p", true, None)])).holds);
        assert!(in_sync(&view(vec![proxy("p", true, Some("an old one"))])).holds);
        let verdict = in_sync(&view(vec![proxy("p", false, Some("Listener l: port")), proxy("q", false, None)]));
        assert!(!verdict.holds);
        assert_eq!(verdict.detail, "p refused it: Listener l: port; q has not answered");
        assert!(verdict.hint.is_some() && verdict.see.is_some());
    }

    #[test]
    fn a_pod_is_missed_only_where_others_like_it_are_seen() {
        let scraped = |endpoints: Vec<EndpointView>| scraped(std::iter::once(("a/b:80", endpoints.as_slice())));
        let error = Some("connection refused");
        assert!(scraped(vec![endpoint("x", None, error), endpoint("y", None, error)]).holds);
        assert!(scraped(vec![endpoint("x", Some(1.0), None), endpoint("y", Some(2.0), error)]).holds);
        let verdict = scraped(vec![endpoint("x", Some(1.0), None), endpoint("y", Some(60.0), error)]);
        assert!(!verdict.holds);
        assert_eq!(verdict.detail, "y of a/b:80: connection refused");
    }

    #[test]
    fn a_policy_that_cannot_be_loaded_is_told() {
        let view = |problems: &[&str]| View {
            problems: problems.iter().map(|one| (*one).to_owned()).collect(),
            ..View::default()
        };
        assert!(models(&view(&["something else"])).holds);
        assert!(!models(&view(&["p: cannot be read; builtin stays in force"])).holds);
    }

    #[test]
    fn a_leader_that_cannot_be_asked_is_one_verdict() {
        let verdicts = check(Err("no".to_owned()));
        assert_eq!((verdicts.len(), verdicts[0].holds, verdicts[0].category), (1, false, "proxies"));
    }
}
