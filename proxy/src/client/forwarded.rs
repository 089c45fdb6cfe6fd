//! Who a request comes from, by `X-Forwarded-For`: each hop adds the address of whoever asked it, so the list is read from its end, as far as those
//! who wrote are trusted. What stands before that anybody may have written.

use std::net::IpAddr;

use http::HeaderName;

use super::ClientDetection;
use crate::head::RequestHead;

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Elements that are looked at: a list without end costs no more than this.
const ELEMENTS_MAX: usize = 64;

/// The address of the client that a request is from; `peer` is that of the connection.
pub fn client(detection: &ClientDetection, head: &impl RequestHead, peer: IpAddr) -> IpAddr {
    let believed = |hops: usize, address: IpAddr| match detection.trusted_hops {
        0 => detection.trusted.iter().any(|network| network.contains(address)),
        trusted => hops < trusted as usize,
    };
    let lines: Vec<&[u8]> = head.values(&X_FORWARDED_FOR).collect();
    let elements = lines.iter().rev().flat_map(|line| line.rsplit(|byte| *byte == b','));
    let mut client = peer;
    for (hops, element) in elements.take(ELEMENTS_MAX).enumerate() {
        if !believed(hops, client) {
            break;
        }
        // Who is trusted and writes what is no address has said nothing.
        let Some(address) = address(element.trim_ascii()) else { break };
        client = address;
    }
    client
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|a| a.ip()));
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    address.or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::api::v1;

    #[track_caller]
    fn check(hops: u32, networks: &[&str], lines: &[&str], expected: &str) {
        let detection = ClientDetection::new(&v1::ClientAddress {
            trusted_hops: hops,
            trusted_networks: networks.iter().map(|network| (*network).to_owned()).collect(),
            ..Default::default()
        });
        let mut request = Request::get("/");
        for line in lines {
            request = request.header(&X_FORWARDED_FOR, *line);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        let found = client(&detection.unwrap(), &head, "10.0.0.1".parse().unwrap());
        assert_eq!(found.to_string(), expected, "{lines:?}");
    }

    #[test]
    fn hops_are_counted_from_the_end() {
        check(0, &[], &["198.51.100.7"], "10.0.0.1");
        check(1, &[], &["6.6.6.6, 198.51.100.7"], "198.51.100.7");
        check(2, &[], &["6.6.6.6, 203.0.113.9", "198.51.100.7"], "203.0.113.9");
        check(3, &[], &["198.51.100.7"], "198.51.100.7");
        check(1, &[], &[], "10.0.0.1");
        check(2, &[], &["203.0.113.9, unknown, 198.51.100.7"], "198.51.100.7");
        check(1, &[], &["[2001:db8::1]:80"], "2001:db8::1");
        check(1, &[], &["::ffff:192.0.2.1"], "192.0.2.1");
    }

    #[test]
    fn hops_are_believed_by_where_they_are() {
        check(0, &["10.0.0.0/8"], &["6.6.6.6, 198.51.100.7, 10.2.0.1"], "198.51.100.7");
        check(0, &["192.168.0.0/16"], &["198.51.100.7"], "10.0.0.1");
        check(0, &["10.0.0.0/8"], &["10.9.9.9"], "10.9.9.9");
    }
}
