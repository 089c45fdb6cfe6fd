//! The PROXY protocol: the reader, which takes a connection's bytes as they come, against a slow twin that has all of them at once and is written from
//! the specification's words, and against itself when what it has read is written again.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use crate::client::proxy_protocol::{Header, read};

/// What a reader makes of the beginning of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Read {
    /// A header of so many bytes; what follows is the client's.
    Whole(Header, usize),
    /// No header.
    Malformed,
    /// More must come.
    Partial,
}

const SIGNATURE: [u8; 12] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a];

/// The bytes are the beginning of a connection.
pub fn proxy_protocol(bytes: &[u8]) {
    let found = reader(bytes);
    assert_eq!(found, twin(bytes), "the twin");
    let Read::Whole(header, used) = found else { return };
    assert_eq!(reader(&bytes[..used]), Read::Whole(header, used), "without what follows");
    assert_eq!(reader(&bytes[..used - 1]), Read::Partial, "without its last byte");
    if let Header::Client(client) = header {
        for written in [line(client), binary(client)] {
            let expected = Read::Whole(header, written.len());
            assert_eq!(reader(&[&written[..], b"GET"].concat()), expected, "written again");
        }
    }
}

fn reader(bytes: &[u8]) -> Read {
    let mut rest = bytes;
    // Bytes in memory are all there: it never waits.
    let read = match pin!(read(&mut rest)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => panic!("it waits for bytes that are there"),
    };
    match read {
        Ok(header) => Read::Whole(header, bytes.len() - rest.len()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Read::Partial,
        Err(_) => Read::Malformed,
    }
}

/// The specification's section 2, on bytes that are all there.
fn twin(bytes: &[u8]) -> Read {
    match bytes {
        // The shortest header of all has more.
        bytes if bytes.len() < 12 => Read::Partial,
        bytes if bytes[..12] == SIGNATURE => twin_of_version_2(bytes),
        bytes if bytes.starts_with(b"PROXY ") => {
            // "107 bytes including the CRLF": so much is looked at.
            let seen = &bytes[..bytes.len().min(107)];
            match (seen[11..].iter().position(|byte| *byte == b'\n'), seen.len()) {
                (Some(end), _) => {
                    let used = 11 + end + 1;
                    let header = std::str::from_utf8(&seen[..used]).ok().and_then(twin_of_a_line);
                    header.map_or(Read::Malformed, |header| Read::Whole(header, used))
                }
                (None, 107) => Read::Malformed,
                (None, _) => Read::Partial,
            }
        }
        _ => Read::Malformed,
    }
}

fn twin_of_a_line(line: &str) -> Option<Header> {
    let text = line.strip_suffix("\r\n")?;
    let words: Vec<&str> = text.split(' ').collect();
    if words[1] == "UNKNOWN" {
        return Some(Header::Unknown);
    }
    let [_, family, source, destination, source_port, destination_port] = words[..] else { return None };
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => {
                let octets: Vec<u32> = text.split('.').map(|octet| decimal(octet, 255)).collect::<Option<_>>()?;
                let octets: [u32; 4] = octets.try_into().ok()?;
                Some(Ipv4Addr::from(octets.into_iter().fold(0, |address, octet| address << 8 | octet)).into())
            }
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, _) = (address(source)?, address(destination)?);
    let (port, _) = (decimal(source_port, 65_535)?, decimal(destination_port, 65_535)?);
    Some(Header::Client(SocketAddr::new(source, port as u16)))
}

/// A number as it is written: without a sign or leading zeros.
fn decimal(text: &str, max: u32) -> Option<u32> {
    text.parse().ok().filter(|number: &u32| *number <= max && number.to_string() == text)
}

fn twin_of_version_2(bytes: &[u8]) -> Read {
    if bytes.len() < 16 {
        return Read::Partial;
    }
    let len = usize::from(bytes[14]) * 256 + usize::from(bytes[15]);
    // Nobody sends more.
    if len > 4096 {
        return Read::Malformed;
    }
    let used = 16 + len;
    if bytes.len() < used {
        return Read::Partial;
    }
    let (version, command, family, transport) = (bytes[12] >> 4, bytes[12] & 15, bytes[13] >> 4, bytes[13] & 15);
    let said = &bytes[16..used];
    let header = match (version, command, family, transport) {
        (2, 0, ..) => Header::Unknown,
        (2, 1, 1, 1) if len >= 12 => {
            let address = Ipv4Addr::new(said[0], said[1], said[2], said[3]);
            Header::Client(SocketAddr::new(address.into(), u16::from(said[8]) << 8 | u16::from(said[9])))
        }
        (2, 1, 2, 1) if len >= 36 => {
            let address = said[..16].iter().fold(0, |address: u128, byte| address << 8 | u128::from(*byte));
            let port = u16::from(said[32]) << 8 | u16::from(said[33]);
            Header::Client(SocketAddr::new(Ipv6Addr::from(address).into(), port))
        }
        // Unspecified; datagrams; Unix sockets.
        (2, 1, 0, 0) | (2, 1, 1 | 2, 2) | (2, 1, 3, 1 | 2) => Header::Unknown,
        _ => return Read::Malformed,
    };
    Read::Whole(header, used)
}

fn line(client: SocketAddr) -> Vec<u8> {
    let (family, here) = if client.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "::1") };
    format!("PROXY {family} {} {here} {} 80\r\n", client.ip(), client.port()).into_bytes()
}

fn binary(client: SocketAddr) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    let (family, address) = match client.ip() {
        IpAddr::V4(address) => (0x11, address.octets().to_vec()),
        IpAddr::V6(address) => (0x21, address.octets().to_vec()),
    };
    bytes.extend_from_slice(&[0x21, family, 0, 2 * address.len() as u8 + 4]);
    bytes.extend_from_slice(&address);
    bytes.extend(std::iter::repeat_n(0, address.len()));
    bytes.extend_from_slice(&client.port().to_be_bytes());
    bytes.extend_from_slice(&80_u16.to_be_bytes());
    bytes
}
