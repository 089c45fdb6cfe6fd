//! Routes compiled for lookup: by socket, by listener, by host, by match, in the Gateway API's order of precedence.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use super::{
    filter::Filters,
    hostname::Hostname,
    matcher::Matcher,
    rule::{Limits, ListenerConfig, RouteConfig, RuleTimeouts},
    split::Split,
};
use crate::{
    client::{ClientDetection, forwarded},
    head::RequestHead,
    observe::red::{self, Book, Series},
    tls,
};

/// All routes, by the number of the socket that a request came in on.
#[derive(Debug, Default)]
pub struct Routing {
    /// Few, and looked at for every request.
    sockets: BTreeMap<u32, SocketRoutes>,
    /// Where requests are counted that match no route; `None` before there is a configuration.
    pub unrouted: Option<Arc<Series>>,
    other: Option<Arc<Series>>,
}

/// What one socket answers for.
#[derive(Debug)]
pub struct SocketRoutes {
    /// The strictest limits of its listeners.
    pub limits: Limits,
    /// How clients are spoken to over TLS; `None`: in clear text.
    pub tls: Option<tls::SocketTls>,
    /// Who may say on whose behalf they come; `None`: nobody.
    pub client_detection: Option<Arc<ClientDetection>>,
    /// The port that clients connect to.
    pub port: u16,
    /// Most specific host first; a request belongs to the first that matches, and to no other.
    listeners: Vec<ListenerRoutes>,
}

#[derive(Debug)]
struct ListenerRoutes {
    name: Arc<str>,
    hostname: Hostname,
    /// In order of precedence.
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    hostname: Hostname,
    matcher: Matcher,
    rule: Arc<Rule>,
}

/// A rule, ready to be applied.
#[derive(Debug)]
pub struct Rule {
    /// `namespace/name` of the route, and the rule's name if it has one.
    pub route: Arc<str>,
    /// Limits in time.
    pub timeouts: RuleTimeouts,
    /// What is done to all of its requests, before it is known where they go; `None`: nothing.
    pub filters: Option<Arc<Filters>>,
    /// Where its requests are counted that get to no backend.
    pub series: Arc<Series>,
    targets: Vec<Target>,
    split: Option<Split>,
}

/// Where a share of a rule's requests goes.
#[derive(Debug)]
pub struct Target {
    /// Its place among the targets of the rule.
    pub index: usize,
    /// Where its requests are counted.
    pub series: Arc<Series>,
    /// Number of the backend; `None`: it does not resolve, answer 500.
    pub backend: Option<usize>,
    /// All that is done to its requests, the rule's filters included; `None`: nothing.
    pub filters: Option<Arc<Filters>>,
    /// Numbers of the backends that get copies, in the order of the filters.
    pub mirrors: Vec<Option<usize>>,
}

impl Rule {
    /// The target whose turn it is; `None`: there is none, answer 500.
    pub fn next_target(&self) -> Option<&Target> {
        Some(&self.targets[self.split.as_ref()?.next()])
    }

    /// All of its targets.
    pub fn targets(&self) -> &[Target] {
        &self.targets
    }
}

/// Filters that do something.
fn effective(filters: Filters) -> Option<Arc<Filters>> {
    (!filters.is_empty()).then(|| Arc::new(filters))
}

impl Routing {
    /// Compiles routes. `sockets` says which listeners share which socket; `backend` gives a backend's number by its name; `book` has the
    /// places where requests are counted.
    pub fn new(
        sockets: &BTreeMap<u32, Vec<ListenerConfig>>,
        routes: &[&RouteConfig],
        backend: impl Fn(&str) -> Option<usize>,
        book: &Book,
    ) -> Self {
        // Compiled once, so that a rule attached to several listeners splits its traffic as a whole.
        let mut routes: Vec<_> = routes.to_vec();
        routes.sort_by(|a, b| (a.created_at_s, &a.name).cmp(&(b.created_at_s, &b.name)));
        let compiled: Vec<(&RouteConfig, Vec<Arc<Rule>>)> = routes
            .into_iter()
            .map(|route| {
                let rules = route.rules.iter().map(|rule| {
                    let weights: Vec<u32> = rule.backends.iter().map(|target| target.weight).collect();
                    let number = |name: &Option<String>| name.as_deref().and_then(&backend);
                    let name =
                        if rule.name.is_empty() { route.name.clone() } else { format!("{}/{}", route.name, rule.name) };
                    let name: Arc<str> = name.into();
                    let targets = rule.backends.iter().enumerate().map(|(index, target)| {
                        let filters = rule.filters.then(&target.filters);
                        let mirrors = filters.mirrors.iter().map(|mirror| number(&mirror.backend)).collect();
                        let series = book.series(&name, target.name.as_deref().unwrap_or(red::NONE));
                        Target { index, series, backend: number(&target.name), filters: effective(filters), mirrors }
                    });
                    Arc::new(Rule {
                        series: book.series(&name, red::NONE),
                        route: name.clone(),
                        timeouts: rule.timeouts,
                        filters: effective(rule.filters.clone()),
                        targets: targets.collect(),
                        split: Split::new(&weights),
                    })
                });
                (route, rules.collect())
            })
            .collect();
        let listener_routes = |listener: &ListenerConfig| {
            let mut candidates = Vec::new();
            for (route, rules) in compiled.iter().filter(|(route, _)| route.listeners.contains(&listener.name)) {
                for hostname in route.hostnames.iter().filter_map(|hostname| listener.hostname.intersection(hostname)) {
                    for (config, rule) in route.rules.iter().zip(rules) {
                        candidates.extend(config.matches.iter().map(|matcher| Candidate {
                            hostname: hostname.clone(),
                            matcher: matcher.clone(),
                            rule: Arc::clone(rule),
                        }));
                    }
                }
            }
            // Stable: ties keep the order of age, name, and place in the route.
            candidates
                .sort_by_cached_key(|candidate| (candidate.hostname.precedence(), candidate.matcher.precedence()));
            ListenerRoutes { name: listener.name.as_str().into(), hostname: listener.hostname.clone(), candidates }
        };
        let socket_routes = |listeners: &Vec<ListenerConfig>| {
            let limits = listeners.iter().map(|listener| listener.limits).reduce(Limits::stricter).unwrap_or_default();
            let tls = tls::server_config(listeners);
            // Where they do not agree, nobody is believed.
            let client_detection = listeners.first().and_then(|first| first.client_detection.clone());
            let client_detection =
                client_detection.filter(|first| listeners.iter().all(|l| l.client_detection.as_ref() == Some(first)));
            let port = listeners.first().map_or(0, |listener| listener.port);
            let mut listeners: Vec<_> = listeners.iter().map(listener_routes).collect();
            listeners.sort_by_cached_key(|listener| listener.hostname.precedence());
            SocketRoutes { limits, tls, client_detection, port, listeners }
        };
        Self {
            sockets: sockets.iter().map(|(socket, listeners)| (*socket, socket_routes(listeners))).collect(),
            unrouted: Some(book.unrouted()),
            other: Some(book.other()),
        }
    }

    /// Where requests are counted, in the order of routes and backends; none twice.
    pub fn series(&self) -> Vec<&Series> {
        let candidates = self.sockets.values().flat_map(|socket| &socket.listeners).flat_map(|l| &l.candidates);
        let mut found: BTreeMap<(&str, &str), &Series> = BTreeMap::new();
        let of_rules = candidates.flat_map(|candidate| {
            candidate.rule.targets.iter().map(|target| &target.series).chain([&candidate.rule.series])
        });
        for series in of_rules.chain(&self.unrouted).chain(&self.other) {
            found.insert((&series.route, &series.backend), series);
        }
        found.into_values().collect()
    }

    /// For people: by listener host, the rules in the order in which they are tried.
    pub fn describe(&self) -> Vec<serde_json::Value> {
        let describe = |(socket, routes): (&u32, &SocketRoutes)| {
            let listeners: Vec<_> = routes
                .listeners
                .iter()
                .map(|listener| {
                    let rules: Vec<String> = listener
                        .candidates
                        .iter()
                        .map(|candidate| {
                            format!("{} {} -> {}", candidate.hostname, candidate.matcher, candidate.rule.route)
                        })
                        .collect();
                    serde_json::json!({ "hostname": listener.hostname.to_string(), "rules": rules })
                })
                .collect();
            serde_json::json!({ "socket": socket, "listeners": listeners })
        };
        self.sockets.iter().map(describe).collect()
    }

    /// Routes of a socket; `None` once its listeners are gone.
    pub fn socket(&self, socket: u32) -> Option<&SocketRoutes> {
        self.sockets.get(&socket)
    }
}

impl SocketRoutes {
    /// Whether a (lower-case) host belongs to another listener than the name that the client asked for when it connected: then it took a
    /// connection that was opened for one host for another's (RFC 9110 §15.5.20).
    pub fn is_misdirected(&self, sni: &str, host: &str) -> bool {
        let listener = |host: &str| self.listeners.iter().position(|listener| listener.hostname.matches(host));
        sni != host && listener(sni) != listener(host)
    }

    /// The listener that a (lower-case) host belongs to.
    pub fn listener(&self, host: &str) -> Option<&Arc<str>> {
        Some(&self.listeners.iter().find(|listener| listener.hostname.matches(host))?.name)
    }

    /// The address of the client that a request is from, as far as whoever passed it on is believed; `peer` is that of the connection.
    pub fn client(&self, head: &impl RequestHead, peer: IpAddr) -> IpAddr {
        match &self.client_detection {
            Some(detection) if detection.reads_forwarded() => forwarded::client(detection, head, peer),
            _ => peer,
        }
    }

    /// The rule that answers a request for a (lower-case) host, and how many bytes of the path it matched as a prefix.
    pub fn find(&self, host: &str, head: &impl RequestHead) -> Option<(&Arc<Rule>, usize)> {
        let listener = self.listeners.iter().find(|listener| listener.hostname.matches(host))?;
        let found = listener
            .candidates
            .iter()
            .find(|candidate| candidate.hostname.matches(host) && candidate.matcher.matches(head));
        found.map(|candidate| (&candidate.rule, candidate.matcher.prefix_len(head.path())))
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::api::v1;

    /// A route whose rules are `[method ]path` (`=path` exact, `~path` expression), each with its own backend.
    fn route(name: &str, created_at_s: i64, hostnames: &[&str], rules: &[&str]) -> RouteConfig {
        let rule = |rule: &&str| {
            let (method, path) = rule.split_once(' ').map_or((None, *rule), |(m, p)| (Some(m.to_owned()), p));
            let (kind, value) = match path.split_at(1) {
                ("=", path) => (v1::path_match::Kind::Exact, path),
                ("~", path) => (v1::path_match::Kind::RegularExpression, path),
                _ => (v1::path_match::Kind::Prefix, path),
            };
            let path = Some(v1::PathMatch { kind: kind.into(), value: value.into() });
            let matches = vec![v1::RouteMatch { path, method, ..Default::default() }];
            v1::RouteRule { name: (*rule).into(), matches, ..Default::default() }
        };
        let wire = v1::HttpRoute {
            name: name.into(),
            listeners: vec!["l".into(), "m".into()],
            hostnames: hostnames.iter().map(|h| (*h).into()).collect(),
            rules: rules.iter().map(rule).collect(),
            created_at_s,
            wildcards_of_one_label: false,
        };
        RouteConfig::try_from(wire).unwrap()
    }

    fn listener(name: &str, hostname: &str) -> ListenerConfig {
        let wire =
            v1::Listener { name: name.into(), address: "::1".into(), hostname: hostname.into(), ..Default::default() };
        ListenerConfig::try_from(wire).unwrap()
    }

    #[track_caller]
    fn check(routes: &[RouteConfig], host: &str, request: &str, expected: Option<&str>) {
        let sockets = BTreeMap::from([(7, vec![listener("l", ""), listener("m", "*.m.com")])]);
        let routing = Routing::new(&sockets, &routes.iter().collect::<Vec<_>>(), |_| None, &Book::new(1));
        let (method, target) = request.split_once(' ').unwrap();
        let head = Request::builder().method(method).uri(target).body(()).unwrap().into_parts().0;
        let found = routing.socket(7).unwrap().find(host, &head).map(|(rule, _)| rule.route.to_string());
        assert_eq!(found.as_deref(), expected, "{host} {request}");
    }

    #[test]
    fn the_more_specific_match_wins() {
        let routes = [route("r", 0, &[], &["/", "/a", "~/a/[0-9]+", "=/a/7", "GET /a"])];
        check(&routes, "x", "GET /a/7", Some("r/=/a/7"));
        check(&routes, "x", "GET /a/8", Some("r/~/a/[0-9]+"));
        check(&routes, "x", "GET /a/b", Some("r/GET /a"));
        check(&routes, "x", "POST /a/b", Some("r//a"));
        check(&routes, "x", "POST /b", Some("r//"));
    }

    #[test]
    fn the_older_route_wins_a_tie_and_then_the_first_name() {
        let routes = [route("c", 5, &[], &["/"]), route("b", 3, &[], &["/"]), route("a", 3, &[], &["/"])];
        check(&routes, "x", "GET /", Some("a//"));
        check(&routes[..2], "x", "GET /", Some("b//"));
    }

    #[test]
    fn the_more_specific_host_wins() {
        let routes = [
            route("any", 0, &[], &["=/"]),
            route("wild", 0, &["*.a.com"], &["/"]),
            route("exact", 0, &["x.a.com"], &["/"]),
        ];
        check(&routes, "x.a.com", "GET /", Some("exact//"));
        check(&routes, "y.a.com", "GET /", Some("wild//"));
        check(&routes, "b.com", "GET /", Some("any/=/"));
        check(&routes, "b.com", "GET /none", None);
    }

    #[test]
    fn a_request_belongs_to_the_most_specific_listener_only() {
        let mut only_l = route("l-only", 0, &[], &["/"]);
        only_l.listeners = vec!["l".into()];
        let routes = [only_l, route("both", 1, &["a.m.com"], &["/"])];
        check(&routes, "a.m.com", "GET /", Some("both//"));
        check(&routes, "b.m.com", "GET /", None);
        check(&routes, "other", "GET /", Some("l-only//"));
    }
}
