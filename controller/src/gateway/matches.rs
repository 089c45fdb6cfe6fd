//! The matches of an HTTPRoute rule: path, method, headers, query parameters.

use gateway_api::httproutes::{
    HttpRouteRules, HttpRouteRulesMatches, HttpRouteRulesMatchesHeadersType as HeaderType, HttpRouteRulesMatchesPath,
    HttpRouteRulesMatchesPathType as PathType, HttpRouteRulesMatchesQueryParamsType as QueryType,
};
use http::HeaderName;
use trimtab_proxy::api::v1::{self, path_match, value_match};

use super::{
    grpc,
    routes::{RouteKind, as_text},
};
use crate::problem::Report;

/// Regular expressions whose compiled form is larger than this (bytes) are refused.
const REGEX_SIZE_MAX: usize = 1 << 20;

/// All matches of a rule; `None` if one of them does not hold: then it cannot be said which requests the rule is for.
pub(super) fn translate(
    rule: &HttpRouteRules,
    kind: RouteKind,
    field: &str,
    report: &mut Report,
) -> Option<Vec<v1::RouteMatch>> {
    let mut all = Some(Vec::new());
    for (index, one) in rule.matches.iter().flatten().enumerate() {
        let translated = translate_match(one, kind, &format!("{field}.matches[{index}]"), report);
        all = all.zip(translated).map(|(mut all, one)| {
            all.push(one);
            all
        });
    }
    all
}

fn translate_match(
    one: &HttpRouteRulesMatches,
    kind: RouteKind,
    field: &str,
    report: &mut Report,
) -> Option<v1::RouteMatch> {
    let path = match &one.path {
        Some(path) if kind == RouteKind::Grpc && grpc::method_alone(path).is_some() => {
            let value = grpc::method_alone(path).unwrap_or_default().to_owned();
            Some(Some(v1::PathMatch { kind: path_match::Kind::GrpcMethod as i32, value }))
        }
        Some(path) => translate_path(path, &format!("{field}.path"), report).map(Some),
        None => Some(None),
    };
    let mut headers = Some(Vec::new());
    for (index, header) in one.headers.iter().flatten().enumerate() {
        let field = format!("{field}.headers[{index}]");
        let name = match HeaderName::from_bytes(header.name.as_bytes()) {
            Ok(name) => Some(name.as_str().to_owned()),
            Err(_) => {
                report.invalid(format!("{field}.name"), format!("\"{}\" is not a header name", header.name));
                None
            }
        };
        let regex = header.r#type == Some(HeaderType::RegularExpression);
        push_value_match(&mut headers, name, &header.value, regex, &field, report);
    }
    let mut query_params = Some(Vec::new());
    for (index, param) in one.query_params.iter().flatten().enumerate() {
        let field = format!("{field}.queryParams[{index}]");
        if param.name.is_empty() {
            report.invalid(format!("{field}.name"), "is empty, expected the name of a query parameter");
        }
        let regex = param.r#type == Some(QueryType::RegularExpression);
        push_value_match(
            &mut query_params,
            Some(param.name.clone()).filter(|name| !name.is_empty()),
            &param.value,
            regex,
            &field,
            report,
        );
    }
    Some(v1::RouteMatch {
        path: path?,
        method: one.method.as_ref().map(as_text),
        headers: headers?,
        query_params: query_params?,
    })
}

/// Of several matches for one name the first counts, as the Gateway API says.
fn push_value_match(
    all: &mut Option<Vec<v1::ValueMatch>>,
    name: Option<String>,
    value: &str,
    regex: bool,
    field: &str,
    report: &mut Report,
) {
    let holds = !regex || regex_holds(value, &format!("{field}.value"), report);
    *all = all.take().zip(name.filter(|_| holds)).map(|(mut all, name)| {
        if all.iter().all(|other| other.name != name) {
            let kind = if regex { value_match::Kind::RegularExpression } else { value_match::Kind::Exact };
            all.push(v1::ValueMatch { kind: kind as i32, name, value: value.to_owned() });
        }
        all
    });
}

pub(super) fn translate_path(
    path: &HttpRouteRulesMatchesPath,
    field: &str,
    report: &mut Report,
) -> Option<v1::PathMatch> {
    let value = path.value.as_deref().unwrap_or("/");
    let field = format!("{field}.value");
    let kind = match path.r#type.as_ref().unwrap_or(&PathType::PathPrefix) {
        PathType::RegularExpression => {
            return regex_holds(value, &field, report)
                .then(|| v1::PathMatch { kind: path_match::Kind::RegularExpression as i32, value: value.to_owned() });
        }
        PathType::Exact => path_match::Kind::Exact,
        PathType::PathPrefix => path_match::Kind::Prefix,
    };
    let fault = if !value.starts_with('/') {
        Some("does not start with \"/\"")
    } else if value.contains("//") {
        Some("contains \"//\"")
    } else if value.split('/').any(|segment| segment == "." || segment == "..") {
        Some("contains a \".\" or \"..\" segment")
    } else if value.contains(['#', '?']) || value.chars().any(|c| c.is_control() || c.is_whitespace()) {
        Some("contains a character that a path cannot have")
    } else {
        None
    };
    if let Some(fault) = fault {
        report.invalid(field, format!("\"{}\" {fault}, expected a path such as /api", value.escape_default()));
        return None;
    }
    Some(v1::PathMatch { kind: kind as i32, value: value.to_owned() })
}

fn regex_holds(text: &str, field: &str, report: &mut Report) -> bool {
    // By itself first, so that `a)(b` is an error; then anchored, as it is used.
    let anchored = || regex::RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_SIZE_MAX).build();
    match regex::Regex::new(text).and_then(|_| anchored()) {
        Ok(_) => true,
        Err(regex::Error::CompiledTooBig(_)) => {
            report.invalid(field, "is too large a regular expression");
            false
        }
        Err(error) => {
            // The crate's own text spans several lines; its last one says what is wrong.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            report.invalid(field, format!("is not a regular expression (RE2 syntax): {reason}"));
            false
        }
    }
}
