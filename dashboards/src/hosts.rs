//! Which `Host` headers are answered. A page of another site can point a name of its own at 127.0.0.1 and then read this API
//! with the visitor's browser (DNS rebinding); refusing foreign names stops that. Addresses cannot be rebound, so they pass.

use trimtab_proxy::hosts::{is_local, name};

/// The hosts that a dashboard answers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Hosts {
    /// `localhost`, names below it, and IP addresses. Right for a listener on loopback.
    #[default]
    Local,
    /// Those of `Local`, and these names, without ports; case does not matter. Right behind an ingress or a Service.
    Named(Vec<String>),
    /// Every host. Only where something in front checks it.
    Any,
}

impl Hosts {
    /// Whether a `Host` header (or `:authority`) may be answered; a port in it does not matter.
    pub fn allows(&self, host: &str) -> bool {
        if matches!(self, Self::Any) {
            return true;
        }
        let Some(name) = name(host) else { return false };
        if is_local(&name) {
            return true;
        }
        match self {
            Self::Named(names) => names.iter().any(|known| known.trim_end_matches('.').eq_ignore_ascii_case(&name)),
            Self::Local | Self::Any => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &Hosts, host: &str, allowed: bool) {
        assert_eq!(hosts.allows(host), allowed, "{host:?} with {hosts:?}");
    }

    #[test]
    fn loopback_names_and_addresses_are_answered() {
        for host in [
            "localhost",
            "localhost:9000",
            "LOCALHOST",
            "demo.localhost:1",
            "127.0.0.1:80",
            "[::1]:9000",
            "[::1]",
            "10.1.2.3",
        ] {
            check(&Hosts::Local, host, true);
        }
    }

    #[test]
    fn foreign_names_are_refused() {
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "",
            "a b",
            "localhost@evil.example",
            "evil@localhost",
        ] {
            check(&Hosts::Local, host, false);
        }
    }

    #[test]
    fn configured_names_are_answered_and_no_others() {
        let hosts = Hosts::Named(vec!["trimtab.example.com".into()]);
        check(&hosts, "Trimtab.Example.com:443", true);
        check(&hosts, "trimtab.example.com.", true);
        check(&hosts, "localhost", true);
        check(&hosts, "x.trimtab.example.com", false);
        check(&Hosts::Any, "evil.example", true);
    }
}
