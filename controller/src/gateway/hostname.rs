//! Host names as the Gateway API has them: exact (`app.example.com`) or with a wildcard first label (`*.example.com`).

use crate::{address::is_dns_name, problem::Report};

/// Reads a host name, lower-cased; one that does not hold is reported and left out.
pub fn read(text: &str, field: &str, report: &mut Report) -> Option<String> {
    let name = text.strip_prefix("*.").unwrap_or(text);
    if is_dns_name(name) && !name.ends_with('.') {
        return Some(text.to_ascii_lowercase());
    }
    report.invalid(
        field,
        format!("\"{text}\" is not a host name, expected one such as app.example.com or *.example.com"),
    );
    None
}

/// Whether some host matches both. A wildcard stands for one or more labels, and matches narrower wildcards.
pub fn intersect(a: &str, b: &str) -> bool {
    match (a.strip_prefix('*'), b.strip_prefix('*')) {
        (None, None) => a == b,
        (Some(suffix), None) => b.len() > suffix.len() && b.ends_with(suffix),
        (None, Some(suffix)) => a.len() > suffix.len() && a.ends_with(suffix),
        (Some(a), Some(b)) => a.ends_with(b) || b.ends_with(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(a: &str, b: &str, expected: bool) {
        assert_eq!(intersect(a, b), expected, "{a} {b}");
        assert_eq!(intersect(b, a), expected, "{b} {a}");
    }

    #[test]
    fn host_names_intersect_as_the_gateway_api_says() {
        check("a.example.com", "a.example.com", true);
        check("a.example.com", "b.example.com", false);
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "notexample.com", false);
        check("*.example.com", "*.a.example.com", true);
        check("*.example.com", "*.com", true);
        check("*.example.com", "*.example.org", false);
    }
}
