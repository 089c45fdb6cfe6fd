//! Host name patterns: exact, `*.suffix` (any number of labels in front, at least one), or any.

use std::{cmp::Reverse, fmt};

/// A pattern, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// Exactly this name.
    Exact(String),
    /// Names that end in this, which starts with a dot.
    Wildcard(String),
    /// Every name, and none.
    Any,
}

impl Hostname {
    /// Parses the Gateway API's form; empty means any.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() || text == "*" {
            return Ok(Self::Any);
        }
        let text = text.to_ascii_lowercase();
        let (name, wildcard) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text.as_str(), false),
        };
        let label = |label: &str| {
            let inner = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
            !label.is_empty() && label.len() <= 63 && inner && !label.starts_with('-') && !label.ends_with('-')
        };
        if name.len() > 253 || !name.split('.').all(label) {
            return Err(format!("{text:?} is not a host name: a DNS name or \"*.\" and a DNS name, without a port"));
        }
        Ok(if wildcard { Self::Wildcard(format!(".{name}")) } else { Self::Exact(text) })
    }

    /// Whether a lower-case host belongs to it.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }

    /// The hosts that belong to both; `None` if there are none.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, narrower) | (narrower, Self::Any) => Some(narrower.clone()),
            (Self::Exact(name), pattern) | (pattern, Self::Exact(name)) => {
                pattern.matches(name).then(|| Self::Exact(name.clone()))
            }
            (Self::Wildcard(a), Self::Wildcard(b)) => {
                let (longer, shorter) = if a.len() >= b.len() { (a, b) } else { (b, a) };
                longer.ends_with(shorter.as_str()).then(|| Self::Wildcard(longer.clone()))
            }
        }
    }

    /// Sorts the most specific first: exact names, then wildcards by length, then any.
    pub fn precedence(&self) -> impl Ord + use<> {
        match self {
            Self::Exact(_) => (0, Reverse(0)),
            Self::Wildcard(suffix) => (1, Reverse(suffix.len())),
            Self::Any => (2, Reverse(0)),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Wildcard(suffix) => write!(formatter, "*{suffix}"),
            Self::Any => formatter.write_str("*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, host: &str, expected: bool) {
        assert_eq!(Hostname::parse(pattern).unwrap().matches(host), expected, "{pattern} {host}");
    }

    #[test]
    fn a_wildcard_stands_for_one_label_or_more() {
        check("*.example.com", "a.example.com", true);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "badexample.com", false);
        check("Example.com", "example.com", true);
        check("example.com", "a.example.com", false);
        check("", "", true);
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        for text in ["a..b", "-a", "a:80", "*a.com", "a.*.com", "ä", "a b", "*."] {
            assert!(Hostname::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_intersection_is_the_narrower_of_two_that_overlap() {
        let check = |a: &str, b: &str, expected: Option<&str>| {
            let (a, b) = (Hostname::parse(a).unwrap(), Hostname::parse(b).unwrap());
            let expected = expected.map(|e| Hostname::parse(e).unwrap());
            assert_eq!(a.intersection(&b), expected);
            assert_eq!(b.intersection(&a), expected);
        };
        check("*.a.com", "x.a.com", Some("x.a.com"));
        check("*.a.com", "*.x.a.com", Some("*.x.a.com"));
        check("*.a.com", "a.com", None);
        check("*.a.com", "*.b.com", None);
        check("", "a.com", Some("a.com"));
    }
}
