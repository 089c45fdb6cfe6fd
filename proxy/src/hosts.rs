//! Which hosts a page may name that only people of this machine should see. A page of another site can make a name of its own an address of this machine,
//! and have the visitor's browser read what is there (DNS rebinding); addresses, and `localhost`, nobody can make their own.

use std::net::IpAddr;

use http::uri::Authority;

/// The name, or the address, in a `Host` header (or `:authority`), in lower case and without its port. `None`: that is no host, or there is user information
/// in it, which has no place there, and would hide the real host from a careless reader.
pub fn name(host: &str) -> Option<String> {
    let authority = host.parse::<Authority>().ok().filter(|_| !host.contains('@'))?;
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    Some(address.unwrap_or(&name).to_owned())
}

/// Whether such a name is `localhost`, one below it, or an IP address: no page from elsewhere can have a browser ask for it and read the answer.
pub fn is_local(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || name == "localhost" || name.ends_with(".localhost")
}
