//! The PROXY protocol, versions 1 and 2 (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt): what stands at the beginning of a connection
//! that somebody passes on. Parsing is total and takes exactly the header: what follows is the client's.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its line's end included.
const LINE_MAX: usize = 107;
/// Longest rest of version 2 that is taken: addresses, and more of additional information than anybody sends.
const REST_MAX: usize = 4096;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The client is this.
    Client(SocketAddr),
    /// Nothing of the client: the connection is the sender's own (a health check), or of a kind that has no address.
    Unknown,
}

/// Reads the header.
///
/// # Errors
/// If the connection fails, or begins otherwise.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Header> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "not a PROXY header");
    let mut bytes = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut bytes).await?;
    if bytes == SIGNATURE {
        let mut fixed = [0; 4];
        stream.read_exact(&mut fixed).await?;
        let len = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if len > REST_MAX {
            return Err(malformed());
        }
        let mut rest = vec![0; len];
        stream.read_exact(&mut rest).await?;
        return binary(fixed[0], fixed[1], &rest).ok_or_else(malformed);
    }
    if !bytes.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    // Byte by byte: not one of what follows may be taken.
    while bytes.last() != Some(&b'\n') {
        if bytes.len() == LINE_MAX {
            return Err(malformed());
        }
        bytes.push(stream.read_u8().await?);
    }
    line(&bytes).ok_or_else(malformed)
}

/// Version 1, a whole line.
fn line(line: &[u8]) -> Option<Header> {
    let text = std::str::from_utf8(line.strip_suffix(b"\r\n")?).ok()?.strip_prefix("PROXY ")?;
    if text == "UNKNOWN" || text.starts_with("UNKNOWN ") {
        return Some(Header::Unknown);
    }
    let mut words = text.split(' ');
    let family = words.next()?;
    let mut address = || -> Option<IpAddr> {
        let address: IpAddr = words.next()?.parse().ok()?;
        (family == if address.is_ipv4() { "TCP4" } else { "TCP6" }).then_some(address)
    };
    let (source, _) = (address()?, address()?);
    let mut port = || -> Option<u16> {
        let text = words.next()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain)
    };
    let (port, _) = (port()?, port()?);
    words.next().is_none().then(|| Header::Client(SocketAddr::new(source, port)))
}

/// Version 2, after its signature.
fn binary(version_and_command: u8, family: u8, rest: &[u8]) -> Option<Header> {
    match version_and_command {
        // LOCAL: whatever is said of addresses is to be ignored.
        0x20 => return Some(Header::Unknown),
        0x21 => {}
        _ => return None,
    }
    let port = |at: usize| -> Option<u16> { Some(u16::from_be_bytes(rest.get(at..at + 2)?.try_into().ok()?)) };
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            rest.get(..12)?;
            let address: [u8; 4] = rest.get(..4)?.try_into().ok()?;
            Some(Header::Client(SocketAddr::new(Ipv4Addr::from(address).into(), port(8)?)))
        }
        0x21 => {
            rest.get(..36)?;
            let address: [u8; 16] = rest.get(..16)?.try_into().ok()?;
            Some(Header::Client(SocketAddr::new(Ipv6Addr::from(address).into(), port(32)?)))
        }
        // Unspecified, datagrams and Unix sockets: known families and protocols, with nothing to be used here.
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Some(Header::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is read, and what is left for whoever comes after.
    fn parsed(mut bytes: &[u8]) -> Result<(Header, Vec<u8>), io::ErrorKind> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let header = runtime.block_on(read(&mut bytes)).map_err(|error| error.kind())?;
        Ok((header, bytes.to_vec()))
    }

    fn client(address: &str) -> Header {
        Header::Client(address.parse().unwrap())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family][..], &len, rest, b"GET"].concat()
    }

    #[test]
    fn version_1_says_who_the_client_is_and_leaves_what_follows() {
        let ok = |text: &str, expected: Header| {
            assert_eq!(parsed(text.as_bytes()), Ok((expected, b"GET".to_vec())), "{text:?}");
        };
        ok("PROXY TCP4 192.0.2.1 10.0.0.1 5678 80\r\nGET", client("192.0.2.1:5678"));
        ok("PROXY TCP6 2001:db8::1 ::1 5678 80\r\nGET", client("[2001:db8::1]:5678"));
        ok("PROXY UNKNOWN\r\nGET", Header::Unknown);
        ok("PROXY UNKNOWN ffff::1 ffff::2 1 2\r\nGET", Header::Unknown);
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for text in [
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5678\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5678 80 1\r\n",
            "PROXY TCP4 2001:db8::1 ::1 5678 80\r\n",
            "PROXY TCP6 192.0.2.1 10.0.0.1 5678 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 +5678 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 05678 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 65536 80\r\n",
            "PROXY TCP4 192.0.2.1  10.0.0.1 5678 80\r\n",
            "PROXY TCP4 192.0.2.1 10.0.0.1 5678 80\n",
            "PROXY UDP4 192.0.2.1 10.0.0.1 5678 80\r\n",
            &format!("PROXY UNKNOWN {}\r\n", "x".repeat(200)),
        ] {
            assert_eq!(parsed(text.as_bytes()), Err(io::ErrorKind::InvalidData), "{text:?}");
        }
        assert_eq!(parsed(b"PROXY TCP4 192.0.2.1 "), Err(io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn version_2_says_who_the_client_is_and_leaves_what_follows() {
        let v4 = [192, 0, 2, 1, 10, 0, 0, 1, 0x16, 0x2e, 0, 80];
        assert_eq!(parsed(&version_2(0x21, 0x11, &v4)), Ok((client("192.0.2.1:5678"), b"GET".to_vec())));
        let more = [&v4[..], &[4, 0, 1, 0]].concat();
        assert_eq!(parsed(&version_2(0x21, 0x11, &more)), Ok((client("192.0.2.1:5678"), b"GET".to_vec())));
        let mut v6 = [0; 36];
        (v6[0], v6[1], v6[15], v6[33]) = (0x20, 0x01, 1, 7);
        assert_eq!(parsed(&version_2(0x21, 0x21, &v6)), Ok((client("[2001::1]:7"), b"GET".to_vec())));
        assert_eq!(parsed(&version_2(0x20, 0x11, &v4)), Ok((Header::Unknown, b"GET".to_vec())));
        for (command, family, rest) in
            [(0x11, 0x11, &v4[..]), (0x22, 0x11, &v4), (0x21, 0x41, &v4), (0x21, 0x11, &v4[..11])]
        {
            assert_eq!(parsed(&version_2(command, family, rest)), Err(io::ErrorKind::InvalidData));
        }
        assert_eq!(parsed(&version_2(0x21, 0x11, &vec![0; 5000])), Err(io::ErrorKind::InvalidData), "too long");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parsed(&bytes);
        }

        #[test]
        fn anything_after_the_signature_is_a_header_or_is_refused(command: u8, family: u8, rest in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok((_, left)) = parsed(&version_2(command, family, &rest)) {
                prop_assert_eq!(left, b"GET".to_vec());
            }
        }

        #[test]
        fn what_is_written_is_read(address: [u8; 4], port: u16) {
            let written = format!("PROXY TCP4 {} 10.0.0.1 {port} 80\r\nGET", Ipv4Addr::from(address));
            let expected = Header::Client(SocketAddr::new(Ipv4Addr::from(address).into(), port));
            prop_assert_eq!(parsed(written.as_bytes()), Ok((expected, b"GET".to_vec())));
        }
    }
}
