//! Filters of an HTTPRoute rule, and of its backendRefs. What the data plane would refuse is refused here, by its own words, with the field as
//! it is written in the object; a filter that Trimtab does not know makes the rule, or the share of the backendRef, answer 500.

use gateway_api::httproutes::{
    HttpRouteRules, HttpRouteRulesBackendRefs, HttpRouteRulesBackendRefsFilters, HttpRouteRulesFilters,
    HttpRouteRulesFiltersCors, HttpRouteRulesFiltersRequestHeaderModifier, HttpRouteRulesFiltersRequestMirror,
    HttpRouteRulesFiltersRequestRedirect, HttpRouteRulesFiltersResponseHeaderModifier,
    HttpRouteRulesFiltersType as Type, HttpRouteRulesFiltersUrlRewrite, HttpRouteRulesMatchesPathType as PathType,
};
use trimtab_proxy::api::{
    self,
    v1::{self, filter::Kind, path_rewrite},
};

use super::routes::as_text;
use crate::problem::Report;

/// What a mirror refers to, as a backendRef.
pub(super) type Resolve<'a> = dyn FnMut(&HttpRouteRulesBackendRefs, &str, &mut Report) -> Option<String> + 'a;

/// Filters of a rule; `None` if one of them cannot be done.
pub(super) fn of_rule(
    rule: &HttpRouteRules,
    field: &str,
    report: &mut Report,
    resolve: &mut Resolve<'_>,
) -> Option<Vec<v1::Filter>> {
    let filters = rule.filters.as_deref().unwrap_or_default();
    let redirects = filters.iter().any(|filter| filter.r#type == Type::RequestRedirect);
    let translated = translate(rule, filters, field, report, resolve);
    if redirects && rule.backend_refs.as_ref().is_some_and(|backends| !backends.is_empty()) {
        let message = "stands beside a RequestRedirect, expected one of them: a redirected request goes to no backend";
        report.invalid(format!("{field}.backendRefs"), message);
        return None;
    }
    translated
}

/// Filters of a backendRef of this rule; `None` if one of them cannot be done.
pub(super) fn of_backend(
    rule: &HttpRouteRules,
    reference: &HttpRouteRulesBackendRefs,
    field: &str,
    report: &mut Report,
    resolve: &mut Resolve<'_>,
) -> Option<Vec<v1::Filter>> {
    let same: Option<Vec<_>> = reference.filters.iter().flatten().map(as_of_rule).collect();
    let Some(filters) = same else {
        report.unresolved(format!("{field}.filters"), "is not supported: this share of the requests is answered 500");
        return None;
    };
    translate(rule, &filters, field, report, resolve)
}

/// The Gateway API has one filter under two names; the types were generated twice.
fn as_of_rule(filter: &HttpRouteRulesBackendRefsFilters) -> Option<HttpRouteRulesFilters> {
    serde_json::from_value(serde_json::to_value(filter).ok()?).ok()
}

fn translate(
    rule: &HttpRouteRules,
    filters: &[HttpRouteRulesFilters],
    field: &str,
    report: &mut Report,
    resolve: &mut Resolve<'_>,
) -> Option<Vec<v1::Filter>> {
    let has = |kind: Type| filters.iter().any(|filter| filter.r#type == kind);
    let mut all = Some(Vec::new());
    if has(Type::RequestRedirect) && has(Type::UrlRewrite) {
        report.invalid(
            format!("{field}.filters"),
            "has both RequestRedirect and URLRewrite, expected one of them: a redirected request goes to no backend",
        );
        all = None;
    }
    for (index, filter) in filters.iter().enumerate() {
        let field = format!("{field}.filters[{index}]");
        let first = filters.iter().position(|other| other.r#type == filter.r#type);
        if filter.r#type != Type::RequestMirror
            && let Some(first) = first.filter(|first| *first < index)
        {
            let kind = as_text(&filter.r#type);
            report.invalid(
                format!("{field}.type"),
                format!("{kind} is there already, at filters[{first}], expected it once"),
            );
            all = None;
        }
        let translated = one(rule, filter, &field, report, resolve);
        all = all.zip(translated).map(|(mut all, filter)| {
            all.push(filter);
            all
        });
    }
    all
}

fn one(
    rule: &HttpRouteRules,
    filter: &HttpRouteRulesFilters,
    field: &str,
    report: &mut Report,
    resolve: &mut Resolve<'_>,
) -> Option<v1::Filter> {
    // Which part of the filter the type says.
    let (part, kind) = match filter.r#type {
        Type::RequestHeaderModifier => {
            ("requestHeaderModifier", filter.request_header_modifier.as_ref().map(request_headers))
        }
        Type::ResponseHeaderModifier => {
            ("responseHeaderModifier", filter.response_header_modifier.as_ref().map(response_headers))
        }
        Type::RequestRedirect => ("requestRedirect", filter.request_redirect.as_ref().map(redirect)),
        Type::UrlRewrite => ("urlRewrite", filter.url_rewrite.as_ref().map(rewrite)),
        Type::Cors => ("cors", filter.cors.as_ref().map(cors_of)),
        Type::RequestMirror => {
            let mirror = filter.request_mirror.as_ref();
            let kind = mirror.map(|mirror| mirror_of(mirror, &format!("{field}.requestMirror"), report, resolve));
            if let Some(None) = kind {
                return None;
            }
            ("requestMirror", kind.flatten())
        }
        Type::ExtensionRef => {
            let kind = as_text(&filter.r#type);
            report.unresolved(field, format!("{kind} is not supported: requests are answered 500"));
            return None;
        }
    };
    let Some(kind) = kind else {
        let message = format!("is missing, expected it with type {}", as_text(&filter.r#type));
        report.invalid(format!("{field}.{part}"), message);
        return None;
    };
    if let Some((other, message)) = contradiction(filter, part) {
        report.invalid(format!("{field}.{other}"), message);
        return None;
    }
    if replaces_prefix(&kind) && !all_prefixes(rule) {
        report.invalid(
            format!("{field}.{part}.path.replacePrefixMatch"),
            "needs matches of type PathPrefix in its rule, and no others",
        );
        return None;
    }
    let filter = v1::Filter { kind: Some(kind) };
    if let Some((name, reason)) = api::refusal_of_filter(&filter) {
        // The data plane's name of the field, in the object's spelling.
        let rest = name.split_once('.').map_or("", |(_, rest)| rest);
        let dot = if rest.is_empty() { "" } else { "." };
        let rest = if rest == "status" { "statusCode".to_owned() } else { camel_case(rest) };
        report.invalid(format!("{field}.{part}{dot}{rest}"), reason);
        return None;
    }
    Some(filter)
}

/// A field that does not go with a type that is said, that of the filter or of its path, or that makes no sense by itself, and why. The CRDs of the
/// Gateway API refuse the same.
fn contradiction(filter: &HttpRouteRulesFilters, part: &str) -> Option<(String, String)> {
    let said = as_text(&filter.r#type);
    let parts = [
        ("requestHeaderModifier", filter.request_header_modifier.is_some()),
        ("responseHeaderModifier", filter.response_header_modifier.is_some()),
        ("requestRedirect", filter.request_redirect.is_some()),
        ("urlRewrite", filter.url_rewrite.is_some()),
        ("requestMirror", filter.request_mirror.is_some()),
        ("cors", filter.cors.is_some()),
        ("extensionRef", filter.extension_ref.is_some()),
    ];
    if let Some((other, _)) = parts.iter().find(|(name, there)| *there && *name != part) {
        return Some(((*other).to_owned(), format!("does not go with type {said}")));
    }
    if let Some(age) = filter.cors.as_ref().and_then(|cors| cors.max_age).filter(|age| *age < 1) {
        return Some(("cors.maxAge".to_owned(), format!("{age} is not a number of seconds, expected 1 or more")));
    }
    let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    let (said, full, prefix) = match (redirect, rewrite) {
        (Some(path), _) => (as_text(&path.r#type), &path.replace_full_path, &path.replace_prefix_match),
        (None, Some(path)) => (as_text(&path.r#type), &path.replace_full_path, &path.replace_prefix_match),
        (None, None) => return None,
    };
    let (wanted, there, other, other_there) = if said == "ReplaceFullPath" {
        ("replaceFullPath", full.is_some(), "replacePrefixMatch", prefix.is_some())
    } else {
        ("replacePrefixMatch", prefix.is_some(), "replaceFullPath", full.is_some())
    };
    if !there {
        return Some((format!("{part}.path.{wanted}"), format!("is missing, expected it with type {said}")));
    }
    other_there.then(|| (format!("{part}.path.{other}"), format!("does not go with type {said}")))
}

fn request_headers(edits: &HttpRouteRulesFiltersRequestHeaderModifier) -> Kind {
    let set = edits.set.iter().flatten().map(|h| header(&h.name, &h.value)).collect();
    let add = edits.add.iter().flatten().map(|h| header(&h.name, &h.value)).collect();
    Kind::RequestHeaders(v1::HeaderModifier { set, add, remove: edits.remove.clone().unwrap_or_default() })
}

fn response_headers(edits: &HttpRouteRulesFiltersResponseHeaderModifier) -> Kind {
    let set = edits.set.iter().flatten().map(|h| header(&h.name, &h.value)).collect();
    let add = edits.add.iter().flatten().map(|h| header(&h.name, &h.value)).collect();
    Kind::ResponseHeaders(v1::HeaderModifier { set, add, remove: edits.remove.clone().unwrap_or_default() })
}

fn header(name: &str, value: &str) -> v1::Header {
    v1::Header { name: name.to_owned(), value: value.to_owned() }
}

fn path(full: Option<&String>, prefix: Option<&String>) -> Option<v1::PathRewrite> {
    let kind = match (full, prefix) {
        (Some(full), _) => path_rewrite::Kind::Full(full.clone()),
        (None, Some(prefix)) => path_rewrite::Kind::Prefix(prefix.clone()),
        (None, None) => return None,
    };
    Some(v1::PathRewrite { kind: Some(kind) })
}

fn rewrite(rewrite: &HttpRouteRulesFiltersUrlRewrite) -> Kind {
    let modifier = rewrite.path.as_ref();
    Kind::Rewrite(v1::Rewrite {
        hostname: rewrite.hostname.clone().unwrap_or_default(),
        path: modifier.and_then(|m| path(m.replace_full_path.as_ref(), m.replace_prefix_match.as_ref())),
    })
}

fn redirect(redirect: &HttpRouteRulesFiltersRequestRedirect) -> Kind {
    let modifier = redirect.path.as_ref();
    Kind::Redirect(v1::Redirect {
        scheme: redirect.scheme.as_ref().map(as_text).unwrap_or_default(),
        hostname: redirect.hostname.clone().unwrap_or_default(),
        // What is out of range is refused as such.
        port: redirect.port.map_or(0, |port| u32::try_from(port).unwrap_or(u32::MAX)),
        path: modifier.and_then(|m| path(m.replace_full_path.as_ref(), m.replace_prefix_match.as_ref())),
        status: redirect.status_code.map_or(0, |status| u32::try_from(status).unwrap_or(u32::MAX)),
    })
}

fn cors_of(cors: &HttpRouteRulesFiltersCors) -> Kind {
    let list = |names: &Option<Vec<String>>| names.clone().unwrap_or_default();
    Kind::Cors(v1::Cors {
        allow_origins: list(&cors.allow_origins),
        allow_credentials: cors.allow_credentials.unwrap_or_default(),
        allow_methods: list(&cors.allow_methods),
        allow_headers: list(&cors.allow_headers),
        expose_headers: list(&cors.expose_headers),
        max_age_s: cors.max_age.and_then(|age| u32::try_from(age).ok()),
    })
}

fn mirror_of(
    mirror: &HttpRouteRulesFiltersRequestMirror,
    field: &str,
    report: &mut Report,
    resolve: &mut Resolve<'_>,
) -> Option<Kind> {
    let (numerator, denominator) = match (&mirror.fraction, mirror.percent) {
        (Some(fraction), None) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, percent) => (percent.unwrap_or(100), 100),
        (Some(_), Some(_)) => {
            report.invalid(format!("{field}.percent"), "stands beside fraction, expected one of them");
            return None;
        }
    };
    let share = u32::try_from(numerator).ok().zip(u32::try_from(denominator).ok());
    let Some((numerator, denominator)) = share.filter(|(n, d)| *d > 0 && n <= d) else {
        let name = if mirror.fraction.is_some() { "fraction" } else { "percent" };
        report.invalid(format!("{field}.{name}"), format!("{numerator} of {denominator} is not a share of requests"));
        return None;
    };
    let reference = &mirror.backend_ref;
    let reference = HttpRouteRulesBackendRefs {
        group: reference.group.clone(),
        kind: reference.kind.clone(),
        name: reference.name.clone(),
        namespace: reference.namespace.clone(),
        port: reference.port,
        ..Default::default()
    };
    // A mirror that does not resolve gets nothing; the requests themselves go on.
    let backend = resolve(&reference, &format!("{field}.backendRef"), report).unwrap_or_default();
    Some(Kind::Mirror(v1::Mirror { backend, numerator, denominator }))
}

fn replaces_prefix(kind: &Kind) -> bool {
    let (Kind::Redirect(v1::Redirect { path, .. }) | Kind::Rewrite(v1::Rewrite { path, .. })) = kind else {
        return false;
    };
    matches!(path, Some(v1::PathRewrite { kind: Some(path_rewrite::Kind::Prefix(_)) }))
}

/// Whether each match of the rule is by prefix; a rule without matches has one for "/".
fn all_prefixes(rule: &HttpRouteRules) -> bool {
    let kinds = rule.matches.iter().flatten().map(|one| one.path.as_ref().and_then(|path| path.r#type.as_ref()));
    let mut kinds = kinds.map(|kind| kind.is_none_or(|kind| *kind == PathType::PathPrefix));
    kinds.all(|prefix| prefix)
}

/// `allow_origins[0]` → `allowOrigins[0]`
fn camel_case(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else {
            text.push(if std::mem::take(&mut upper) { c.to_ascii_uppercase() } else { c });
        }
    }
    text
}
