//! Filters of routes.

use super::*;

#[test]
fn filters_become_what_the_data_plane_does() {
    let route = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: g}]
  rules:
  - filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 301}}]
  - filters:
    - {type: URLRewrite, urlRewrite: {hostname: a.test, path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 5}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: none, port: 80}, fraction: {numerator: 1, denominator: 3}}}
    - {type: CORS, cors: {allowOrigins: ['*'], allowMethods: [GET], maxAge: 9}}
    backendRefs:
    - name: s
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: a, value: b}], remove: [c]}}]
";
    check(
        &format!("{GATEWAY}{SERVICE}{route}"),
        r#"
        listener default/g/http 0.0.0.0:80 ""
        route default/r on default/g/http for []
        rule 0 [] -> 500
        filter Redirect(Redirect { scheme: "https", hostname: "", port: 0, path: None, status: 301 })
        rule 1 [] -> "default/s:80"*1
        filter Rewrite(Rewrite { hostname: "a.test", path: Some(PathRewrite { kind: Some(Prefix("/x")) }) })
        filter Mirror(Mirror { backend: "default/s:80", numerator: 5, denominator: 100 })
        filter Mirror(Mirror { backend: "", numerator: 1, denominator: 3 })
        filter Cors(Cors { allow_origins: ["*"], allow_credentials: false, allow_methods: ["GET"], allow_headers: [], expose_headers: [], max_age_s: Some(9) })
        filter 0 RequestHeaders(HeaderModifier { set: [Header { name: "a", value: "b" }], add: [], remove: ["c"] })
        backend default/s:80 trimtab Active admission
        endpoint 10.0.0.1:8080 10.0.0.1:8080 Ready scrape=http://10.0.0.1:8080/metrics
        ! HTTPRoute default/r: spec.rules[1].filters[2].requestMirror.backendRef.name: there is no Service default/none
        "#,
    );
}

#[test]
fn a_filter_that_makes_no_sense_is_named_by_its_field() {
    let check = |matches: &str, filters: &str, expected: &str| {
        let route = format!(
            "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r}}
spec:
  parentRefs: [{{name: g}}]
  rules:
  - matches: {matches}
    filters: {filters}
"
        );
        // It is wrong by itself: the file with it is refused.
        let problems = document::read("f.yaml", route.as_bytes()).expect_err("a problem");
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.iter().any(|problem| problem.contains(expected)), "{text:#?}");
    };
    check(
        "[]",
        "[{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Content-Length, value: '1'}]}}]",
        "spec.rules[0].filters[0].requestHeaderModifier.set[0].name: \"Content-Length\" is the proxy's own to set",
    );
    check("[]", "[{type: CORS}]", "spec.rules[0].filters[0].cors: is missing, expected it with type CORS");
    check(
        "[]",
        "[{type: CORS, cors: {allowOrigins: [a]}}]",
        "spec.rules[0].filters[0].cors.allowOrigins[0]: \"a\" is not an origin",
    );
    check(
        "[{path: {type: Exact, value: /a}}]",
        "[{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]",
        "spec.rules[0].filters[0].urlRewrite.path.replacePrefixMatch: needs matches of type PathPrefix",
    );
    check(
        "[]",
        "[{type: RequestMirror, requestMirror: {backendRef: {name: s, port: 80}, percent: 101}}]",
        "spec.rules[0].filters[0].requestMirror.percent: 101 of 100 is not a share",
    );
    check(
        "[]",
        "[{type: RequestRedirect, requestRedirect: {}}, {type: URLRewrite, urlRewrite: {hostname: a}}]",
        "spec.rules[0].filters: has both RequestRedirect and URLRewrite",
    );
    check(
        "[]",
        "[{type: URLRewrite, urlRewrite: {hostname: a}}, {type: URLRewrite, urlRewrite: {hostname: b}}]",
        "spec.rules[0].filters[1].type: URLRewrite is there already, at filters[0]",
    );
    check(
        "[]",
        "[{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replacePrefixMatch: /x}}}]",
        "spec.rules[0].filters[0].urlRewrite.path.replaceFullPath: is missing, expected it with type ReplaceFullPath",
    );
    check(
        "[]",
        "[{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /, replaceFullPath: /}}}]",
        "spec.rules[0].filters[0].requestRedirect.path.replaceFullPath: does not go with type ReplacePrefixMatch",
    );
    check(
        "[]",
        "[{type: CORS, cors: {allowOrigins: ['*']}, urlRewrite: {hostname: a}}]",
        "spec.rules[0].filters[0].urlRewrite: does not go with type CORS",
    );
    check(
        "[]",
        "[{type: CORS, cors: {allowOrigins: ['*'], maxAge: -1}}]",
        "spec.rules[0].filters[0].cors.maxAge: -1 is not a number of seconds",
    );
    check(
        "[]",
        "[{type: RequestRedirect, requestRedirect: {hostname: a}}]
    backendRefs: [{name: s, port: 80}]",
        "spec.rules[0].backendRefs: stands beside a RequestRedirect",
    );
}
