//! `host:port`, as people write it in flags and in backends files.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// The host part of an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// An IP address.
    Ip(IpAddr),
    /// A host name, lower case.
    Name(String),
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => f.write_str(name),
        }
    }
}

/// A host and a port. IPv6 addresses stand in brackets: `[::1]:9001`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
}

impl HostPort {
    /// Whether who listens on `address` is reached by it; names but `localhost` are not looked up.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        let everywhere = address.ip().is_unspecified();
        let host = match &self.host {
            // Who listens on all of IPv6 gets what comes by IPv4 as well.
            Host::Ip(ip) => {
                *ip == address.ip() || (everywhere && ip.is_loopback() && (address.is_ipv6() || ip.is_ipv4()))
            }
            // On ::1 alone it may be somebody else's.
            Host::Name(name) => name == "localhost" && (everywhere || address.ip() == Ipv4Addr::LOCALHOST),
        };
        host && self.port == address.port()
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            host => write!(f, "{host}:{}", self.port),
        }
    }
}

/// Why a text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// There is no port.
    #[error("\"{0}\" has no port, expected host:port such as 127.0.0.1:9001 or [::1]:9001")]
    NoPort(String),
    /// The port is none.
    #[error("\"{text}\": \"{port}\" is not a port, expected 1 to 65535")]
    Port {
        /// The whole text.
        text: String,
        /// What stands for the port.
        port: String,
    },
    /// The host is neither an address nor a name.
    #[error(
        "\"{text}\": \"{host}\" is neither an IP address nor a host name, expected host:port such as 127.0.0.1:9001 or [::1]:9001"
    )]
    Host {
        /// The whole text.
        text: String,
        /// What stands for the host.
        host: String,
    },
}

impl FromStr for HostPort {
    type Err = HostPortError;

    fn from_str(text: &str) -> Result<Self, HostPortError> {
        let bad_host = |host: &str| HostPortError::Host { text: text.to_owned(), host: host.to_owned() };
        let (host, port) = text.rsplit_once(':').ok_or_else(|| HostPortError::NoPort(text.to_owned()))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => {
                // "[::1]" ends in a group, not in a port.
                let inner = rest.strip_suffix(']').ok_or_else(|| HostPortError::NoPort(text.to_owned()))?;
                Host::Ip(IpAddr::V6(inner.parse().map_err(|_| bad_host(host))?))
            }
            None => parse_host(host)
                .filter(|host| !matches!(host, Host::Ip(IpAddr::V6(_))))
                .ok_or_else(|| bad_host(host))?,
        };
        let port = match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => number,
            _ => return Err(HostPortError::Port { text: text.to_owned(), port: port.to_owned() }),
        };
        Ok(HostPort { host, port })
    }
}

/// An IP address (IPv6 without brackets) or a host name; `None` for anything else.
pub fn parse_host(text: &str) -> Option<Host> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(Host::Ip(ip));
    }
    is_dns_name(text).then(|| Host::Name(text.to_ascii_lowercase()))
}

/// Whether a text is a DNS name: labels of letters, digits, `-` and `_` of at most 63 bytes, 253 in all, the last one not a number
/// (so that a mistyped IPv4 address is not taken for a name).
pub fn is_dns_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label_holds = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_a_number = text.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    text.len() <= 253 && text.split('.').all(label_holds) && !last_is_a_number
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let found = text.parse::<HostPort>();
        assert_eq!(
            found.as_ref().map(HostPort::to_string).map_err(HostPortError::to_string),
            expected.map(str::to_owned).map_err(str::to_owned)
        );
    }

    #[test]
    fn addresses_and_names_with_a_port_are_read() {
        check("127.0.0.1:9001", Ok("127.0.0.1:9001"));
        check("[::1]:9001", Ok("[::1]:9001"));
        check("Localhost:80", Ok("localhost:80"));
        check("app-1.internal:65535", Ok("app-1.internal:65535"));
    }

    #[test]
    fn who_listens_everywhere_is_reached_at_every_address_of_this_machine() {
        let at = |text: &str, listen: &str| text.parse::<HostPort>().unwrap().is_at(listen.parse().unwrap());
        assert!(
            at("127.0.0.1:80", "127.0.0.1:80") && at("localhost:80", "0.0.0.0:80") && at("127.0.0.2:80", "0.0.0.0:80")
        );
        assert!(
            !at("127.0.0.1:81", "127.0.0.1:80") && !at("127.0.0.2:80", "127.0.0.1:80") && !at("a:80", "0.0.0.0:80")
        );
        assert!(at("127.0.0.1:80", "[::]:80") && !at("[::1]:80", "0.0.0.0:80") && !at("localhost:80", "[::1]:80"));
        assert!(!at("10.0.0.1:80", "0.0.0.0:80"), "it may be another machine");
    }

    #[test]
    fn errors_say_what_would_be_right() {
        check("localhost", Err("\"localhost\" has no port, expected host:port such as 127.0.0.1:9001 or [::1]:9001"));
        check("[::1]", Err("\"[::1]\" has no port, expected host:port such as 127.0.0.1:9001 or [::1]:9001"));
        check("a:0", Err("\"a:0\": \"0\" is not a port, expected 1 to 65535"));
        check("a:65536", Err("\"a:65536\": \"65536\" is not a port, expected 1 to 65535"));
        check("a:+80", Err("\"a:+80\": \"+80\" is not a port, expected 1 to 65535"));
        check(
            "::1:80",
            Err(
                "\"::1:80\": \"::1\" is neither an IP address nor a host name, expected host:port such as 127.0.0.1:9001 or [::1]:9001",
            ),
        );
        check(
            "127.0.0:80",
            Err(
                "\"127.0.0:80\": \"127.0.0\" is neither an IP address nor a host name, expected host:port such as 127.0.0.1:9001 or [::1]:9001",
            ),
        );
    }
}
