//! Routes: the compiled table against a twin that knows nothing of tables and looks at every rule for every request.

use std::{cmp::Reverse, collections::BTreeMap};

use http::Request;

use crate::{
    api::v1,
    observe::red::Book,
    route::{ListenerConfig, RouteConfig, table::Routing},
};

/// One condition as it was written.
struct Written {
    route: usize,
    rule: usize,
    host: String,
    kind: v1::path_match::Kind,
    path: String,
    method: Option<String>,
    header: Option<(String, String)>,
    query: Option<(String, String)>,
}

/// Lines `HOST PATH [METHOD [HEADER [QUERY]]]`, of which each is a rule, and an empty line begins the next route; after a line `?`, a request
/// `HOST PATH METHOD HEADER`. `=/x` is exact, `/x` a prefix, `-` stands for nothing.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((rules, request)) = text.split_once("\n?\n") else { return };
    let mut all: Vec<Written> = Vec::new();
    let (mut number, mut rule) = (0, 0);
    for line in rules.lines().take(20) {
        if line.is_empty() {
            (number, rule) = (number + 1, 0);
            continue;
        }
        let mut words = line.split(' ');
        let mut word = || words.next().filter(|word| *word != "-" && !word.is_empty());
        let host = word().unwrap_or_default().to_owned();
        let path = word().unwrap_or("/");
        let (kind, path) = match path.strip_prefix('=') {
            Some(path) => (v1::path_match::Kind::Exact, path),
            None => (v1::path_match::Kind::Prefix, path),
        };
        let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let method = word().map(str::to_owned);
        let header = word().and_then(pair);
        let query = word().and_then(pair);
        all.push(Written { route: number, rule, host, kind, path: path.to_owned(), method, header, query });
        rule += 1;
    }
    let Some(configs) = compiled(&all) else { return };
    let listener = v1::Listener { name: "l".to_owned(), address: "::1".to_owned(), ..Default::default() };
    let sockets = BTreeMap::from([(1, vec![ListenerConfig::try_from(listener).unwrap()])]);
    let routing = Routing::new(&sockets, &configs.iter().collect::<Vec<_>>(), |_| None, &Book::new(1));

    let mut words = request.trim_end().split(' ');
    let mut word = || words.next().filter(|word| *word != "-" && !word.is_empty());
    let host = word().unwrap_or("a.test").to_ascii_lowercase();
    let mut builder = Request::builder().uri(word().unwrap_or("/")).method(word().unwrap_or("GET"));
    if let Some((name, value)) = word().and_then(|text| text.split_once('=')) {
        builder = builder.header(name, value);
    }
    let Ok(request) = builder.body(()) else { return };
    let head = request.into_parts().0;
    if !head.uri.path().starts_with('/') {
        return;
    }
    let found = routing.socket(1).unwrap().find(&host, &head).map(|(rule, _)| rule.route.to_string());
    let expected = twin(&all, &host, &head).map(|at| format!("r{}/{}", all[at].route, all[at].rule));
    assert_eq!(found, expected, "{text}");
}

/// The routes, one for each number; `None` if one of them is refused.
fn compiled(all: &[Written]) -> Option<Vec<RouteConfig>> {
    let count = all.iter().map(|written| written.route + 1).max().unwrap_or(0);
    let mut configs = Vec::new();
    for number in 0..count {
        let own: Vec<&Written> = all.iter().filter(|written| written.route == number).collect();
        // Hosts are a route's, not a rule's.
        let host = own.first().map(|written| written.host.clone()).unwrap_or_default();
        if own.iter().any(|written| written.host != host) || own.is_empty() {
            return None;
        }
        let rule = |written: &&Written| {
            let exact = v1::value_match::Kind::Exact.into();
            let pair = |(name, value): &(String, String)| v1::ValueMatch {
                name: name.clone(),
                kind: exact,
                value: value.clone(),
            };
            let matches = vec![v1::RouteMatch {
                path: Some(v1::PathMatch { kind: written.kind.into(), value: written.path.clone() }),
                method: written.method.clone(),
                headers: written.header.iter().map(pair).collect(),
                query_params: written.query.iter().map(pair).collect(),
            }];
            v1::RouteRule { name: written.rule.to_string(), matches, ..Default::default() }
        };
        let wire = v1::HttpRoute {
            name: format!("r{number}"),
            listeners: vec!["l".to_owned()],
            hostnames: if host.is_empty() { Vec::new() } else { vec![host] },
            rules: own.iter().map(rule).collect(),
            created_at_s: number as i64,
            wildcards_of_one_label: false,
        };
        configs.push(RouteConfig::try_from(wire).ok()?);
    }
    Some(configs)
}

/// The rule that the Gateway API says: of all that match, that of the most specific host, then of the exact path, of the longest prefix, with a
/// method, a header, a query parameter; then of the oldest route; then the first.
fn twin(all: &[Written], host: &str, head: &http::request::Parts) -> Option<usize> {
    let matching = |written: &Written| {
        let own = written.host.to_ascii_lowercase();
        let hosts = match own.strip_prefix('*') {
            _ if own.is_empty() || own == "*" => true,
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => own == host,
        };
        let path = head.uri.path();
        let paths = match written.kind {
            v1::path_match::Kind::Exact => path == written.path,
            _ => {
                let prefix: Vec<&str> = written.path.trim_end_matches('/').split('/').collect();
                path.split('/').collect::<Vec<_>>().starts_with(&prefix)
            }
        };
        let methods = written.method.as_deref().is_none_or(|method| method == head.method.as_str());
        let headers = written.header.as_ref().is_none_or(|(name, value)| {
            head.headers.get(name.to_ascii_lowercase()).is_some_and(|given| given.as_bytes() == value.as_bytes())
        });
        let queries = written.query.as_ref().is_none_or(|(name, value)| {
            let pairs = head.uri.query().unwrap_or_default().split('&');
            let mut named = pairs.filter_map(|pair| {
                let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
                (unescaped(given) == name.as_bytes()).then(|| unescaped(value))
            });
            named.next().is_some_and(|given| given == value.as_bytes())
        });
        hosts && paths && methods && headers && queries
    };
    let rank = |at: &usize| {
        let written = &all[*at];
        let host = match written.host.as_str() {
            "" | "*" => (2, Reverse(0)),
            host if host.starts_with('*') => (1, Reverse(host.len())),
            _ => (0, Reverse(0)),
        };
        let path = match written.kind {
            v1::path_match::Kind::Exact => (0, Reverse(written.path.len())),
            _ => (1, Reverse(written.path.trim_end_matches('/').len())),
        };
        let more = (written.method.is_none(), written.header.is_none(), written.query.is_none());
        (host, path, more, written.route, written.rule)
    };
    (0..all.len()).filter(|at| matching(&all[*at])).min_by_key(rank)
}

/// As forms are escaped (WHATWG URL §5.1): two hexadecimal digits after `%`, and `+` for a space.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut all = Vec::new();
    while let Some(byte) = bytes.next() {
        let hex: Vec<u8> = bytes.clone().take(2).filter(u8::is_ascii_hexdigit).collect();
        all.push(match byte {
            b'%' if hex.len() == 2 => {
                bytes.nth(1);
                u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap()
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    // Names and values of rules are text.
    String::from_utf8_lossy(&all).into_owned().into_bytes()
}
