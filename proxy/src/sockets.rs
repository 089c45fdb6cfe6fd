//! Binding: one socket a worker for each address, all sharing the port (SO_REUSEPORT), so that the kernel spreads clients over the
//! workers.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// Clients that may wait to be accepted, per worker; the kernel's own limit (`net.core.somaxconn`) applies too.
const BACKLOG: i32 = 4096;

/// Binds `count` sockets to one address. Port 0 is chosen by the system, the same for all. With `shared`, other processes of the same user
/// may do so too, and the kernel spreads clients over all of them.
///
/// # Errors
/// If the address cannot be had or is in use: by anybody, or, with `shared`, by somebody who does not share it.
pub fn bind(address: SocketAddr, count: usize, shared: bool) -> io::Result<Vec<TcpListener>> {
    // Only a bind that does not share tells whether somebody else is there.
    let address = match (shared, address.port()) {
        (true, 1..) => address,
        (_, 0) => local(&socket(address, false)?)?,
        (false, _) => socket(address, false).map(|_| address)?,
    };
    let listen = || {
        let socket = socket(address, true)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    (0..count).map(|_| listen()).collect()
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // "::" means all, IPv4 too; a system without IPv4 does not mind.
        socket.set_only_v6(address.ip() != IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED))?;
    }
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

fn local(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a bound socket without an address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(address: &str) {
        let address = SocketAddr::new(address.parse().unwrap(), 0);
        let sockets = bind(address, 3, false).unwrap();
        let local = sockets[0].local_addr().unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == local));
        assert_eq!(bind(local, 1, false).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        bind(local, 1, true).unwrap();
        drop(sockets);
        bind(local, 2, false).unwrap();
    }

    #[test]
    fn sockets_share_a_port_among_themselves_and_with_others_only_if_told_to() {
        check("127.0.0.1");
        check("::1");
        check("::");
    }
}
