//! Host name patterns: exact, `*.suffix`, or any. The star is any number of labels, at least one, as the Gateway API has it, or exactly one, as
//! Ingresses have it.

use std::{cmp::Reverse, fmt};

/// A pattern, lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Hostname {
    /// Exactly this name.
    Exact(String),
    /// Names that end in this, which starts with a dot.
    Wildcard(String),
    /// Those of them that have one label in front of it.
    OneLabel(String),
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

    /// The same pattern, its star standing for exactly one label.
    pub fn of_one_label(self) -> Self {
        match self {
            Self::Wildcard(suffix) => Self::OneLabel(suffix),
            other => other,
        }
    }

    /// Whether a lower-case host belongs to it. The dot at the end of a fully qualified name (RFC 1034 §3.1) makes it no other name: a route for one is
    /// not got around by writing it.
    pub fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Any => true,
            Self::Exact(name) => name == host,
            Self::Wildcard(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
            Self::OneLabel(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
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
            (Self::OneLabel(one), Self::Wildcard(any)) | (Self::Wildcard(any), Self::OneLabel(one)) => {
                one.ends_with(any.as_str()).then(|| Self::OneLabel(one.clone()))
            }
            (Self::OneLabel(a), Self::OneLabel(b)) => (a == b).then(|| self.clone()),
        }
    }

    /// Sorts the most specific first: exact names, then wildcards by length, then any.
    pub fn precedence(&self) -> impl Ord + use<> {
        match self {
            Self::Exact(_) => (0, Reverse(0), 0),
            Self::OneLabel(suffix) => (1, Reverse(suffix.len()), 0),
            Self::Wildcard(suffix) => (1, Reverse(suffix.len()), 1),
            Self::Any => (2, Reverse(0), 0),
        }
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => formatter.write_str(name),
            Self::Wildcard(suffix) | Self::OneLabel(suffix) => write!(formatter, "*{suffix}"),
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
        check("example.com", "example.com.", true);
        check("*.example.com", "a.example.com.", true);
        check("example.com", "example.com..", false);
        check("", "", true);
    }

    #[test]
    fn the_wildcard_of_an_ingress_stands_for_one_label() {
        let pattern = Hostname::parse("*.foo.com").unwrap().of_one_label();
        for (host, expected) in
            [("bar.foo.com", true), ("baz.bar.foo.com", false), ("foo.com", false), ("afoo.com", false)]
        {
            assert_eq!(pattern.matches(host), expected, "{host}");
        }
        let wide = |text: &str| Hostname::parse(text).unwrap();
        for (other, expected) in [
            (wide("*.foo.com"), Some(pattern.clone())),
            (wide("*.com"), Some(pattern.clone())),
            (wide("*.bar.foo.com"), None),
            (wide("a.foo.com"), Some(wide("a.foo.com"))),
            (wide("a.b.foo.com"), None),
            (wide(""), Some(pattern.clone())),
            (wide("*.bar.com").of_one_label(), None),
        ] {
            assert_eq!(pattern.intersection(&other), expected, "{other}");
            assert_eq!(other.intersection(&pattern), expected, "{other}");
        }
        assert!(pattern.precedence() < wide("*.foo.com").precedence());
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
