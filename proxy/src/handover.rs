//! Hot restart: a proxy hands its listening sockets to its successor over a Unix socket (`SCM_RIGHTS`), and drains once that one serves.
//!
//! The sockets are the same ones in both processes, so no connection is refused or lost in between: what waits in a backlog is accepted by
//! either. The successor asks at its start, accepts nothing until it has its configuration, and then says so; if it dies before,
//! nothing has happened. Messages are JSON, one a packet, with at most one descriptor each.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg,
        socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the proxy ends.
const LOOK: Duration = Duration::from_millis(200);
/// How long one side waits for a message of the other while sockets are handed over.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a message.
const MESSAGE_MAX: usize = 4 << 10;

/// What one message says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    /// A listening socket of this configured address comes along.
    Listener(SocketAddr),
    /// The admin endpoint's.
    Admin(SocketAddr),
    /// The one for datagrams of other proxies.
    Peers(SocketAddr),
    /// That was all.
    End,
    /// The successor serves.
    Ready,
}

/// Sockets of this process that a successor may have. Whoever closes one for good takes it from here too.
#[derive(Debug, Clone, Default)]
pub struct Shelf(Arc<Mutex<Sockets>>);

/// Sockets by what they are for.
#[derive(Debug, Default)]
struct Sockets {
    listeners: BTreeMap<u32, (SocketAddr, Vec<TcpListener>)>,
    admin: Option<TcpListener>,
    peers: Option<UdpSocket>,
}

impl Shelf {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sockets of number `id`, which listen on `address`.
    pub fn put(&self, id: u32, address: SocketAddr, listeners: Vec<TcpListener>) {
        self.sockets().listeners.insert(id, (address, listeners));
    }

    /// The socket of the admin endpoint.
    pub fn put_admin(&self, listener: TcpListener) {
        self.sockets().admin = Some(listener);
    }

    /// The socket for datagrams of other proxies.
    pub fn put_peers(&self, socket: UdpSocket) {
        self.sockets().peers = Some(socket);
    }

    /// The sockets of number `id` are closed.
    pub fn remove(&self, id: u32) {
        self.sockets().listeners.remove(&id);
    }

    /// All are about to be closed.
    pub fn clear(&self) {
        *self.sockets() = Sockets::default();
    }
}

/// What a predecessor has handed over.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Listening sockets by the address that was configured.
    pub listeners: BTreeMap<SocketAddr, Vec<TcpListener>>,
    /// The admin endpoint's.
    pub admin: Option<TcpListener>,
    /// The one for datagrams of other proxies.
    pub peers: Option<UdpSocket>,
    /// The way back to the predecessor.
    predecessor: Option<OwnedFd>,
}

impl Inherited {
    /// Whether there is a predecessor.
    pub fn is_some(&self) -> bool {
        self.predecessor.is_some()
    }

    /// The way back to the predecessor.
    pub fn predecessor(&mut self) -> Option<Predecessor> {
        self.predecessor.take().map(Predecessor)
    }
}

/// A proxy that still serves, and waits to be told that it need not.
#[derive(Debug)]
pub struct Predecessor(OwnedFd);

impl Predecessor {
    /// Lets it drain.
    ///
    /// # Errors
    /// If it has gone.
    pub fn ready(self) -> io::Result<()> {
        send(self.0.as_fd(), &Message::Ready, None)
    }
}

/// Asks a predecessor for its sockets. Without one there are none.
///
/// # Errors
/// If the path is something else than a socket, or belongs to somebody else, or the predecessor breaks off.
pub fn ask(path: &Path) -> io::Result<Inherited> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Inherited::default()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
        }
        Ok(_) => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match connect(&socket, &SocketAddrUnix::new(path)?) {
        Err(error) if error == rustix::io::Errno::CONNREFUSED => return Ok(Inherited::default()),
        connected => connected?,
    }
    check_peer(socket.as_fd())?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let mut inherited = Inherited::default();
    loop {
        match receive(socket.as_fd())? {
            (Message::Listener(address), Some(fd)) => inherited.listeners.entry(address).or_default().push(fd.into()),
            (Message::Admin(_), Some(fd)) => inherited.admin = Some(fd.into()),
            (Message::Peers(_), Some(fd)) => inherited.peers = Some(fd.into()),
            (Message::End, None) => break,
            (message, _) => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {message:?}")));
            }
        }
    }
    inherited.predecessor = Some(socket);
    Ok(inherited)
}

/// Waits for successors, at a path.
#[derive(Debug)]
pub struct Giver {
    socket: OwnedFd,
    shelf: Shelf,
}

impl Giver {
    /// Takes the path, from a predecessor too.
    ///
    /// # Errors
    /// If there cannot be a socket.
    pub fn bind(path: &Path, shelf: Shelf) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Moved into place when it is ready: whoever asks at the path finds either proxy, never none.
        let mut own = path.as_os_str().to_owned();
        own.push(format!(".{}", std::process::id()));
        let own = PathBuf::from(own);
        let _ = fs::remove_file(&own);
        bind(&socket, &SocketAddrUnix::new(&*own)?)?;
        let placed = fs::set_permissions(&own, fs::Permissions::from_mode(0o600))
            .and_then(|()| Ok(listen(&socket, 4)?))
            .and_then(|()| fs::rename(&own, path));
        if let Err(error) = placed {
            let _ = fs::remove_file(&own);
            return Err(error);
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(LOOK))?;
        Ok(Self { socket, shelf })
    }

    /// Hands sockets to whoever asks, until one of them serves: then `handed` is cancelled. Returns at `stop` as well.
    pub fn run(self, handed: &CancellationToken, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            // The time-out of receiving is accept's too.
            let Ok(successor) = accept_with(&self.socket, SocketFlags::CLOEXEC) else { continue };
            match self.hand_over(successor.as_fd(), stop) {
                Ok(true) => {
                    tracing::info!("a successor serves");
                    return handed.cancel();
                }
                Ok(false) => tracing::warn!("a successor has gone before it served, going on"),
                Err(error) => tracing::warn!(%error, "sockets could not be handed to a successor, going on"),
            }
        }
    }

    /// Whether the successor serves.
    fn hand_over(&self, successor: BorrowedFd<'_>, stop: &CancellationToken) -> io::Result<bool> {
        check_peer(successor)?;
        set_socket_timeout(successor, Timeout::Send, Some(PATIENCE))?;
        set_socket_timeout(successor, Timeout::Recv, Some(LOOK))?;
        {
            let sockets = self.shelf.sockets();
            for (address, listeners) in sockets.listeners.values() {
                for listener in listeners {
                    send(successor, &Message::Listener(*address), Some(listener.as_fd()))?;
                }
            }
            if let Some(admin) = &sockets.admin {
                send(successor, &Message::Admin(admin.local_addr()?), Some(admin.as_fd()))?;
            }
            if let Some(peers) = &sockets.peers {
                send(successor, &Message::Peers(peers.local_addr()?), Some(peers.as_fd()))?;
            }
        }
        send(successor, &Message::End, None)?;
        while !stop.is_cancelled() {
            match receive(successor) {
                Ok((Message::Ready, _)) => return Ok(true),
                Ok((message, _)) => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected: {message:?}")));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Sockets are given to, and taken from, processes of the same user alone.
fn check_peer(socket: BorrowedFd<'_>) -> io::Result<()> {
    let peer = socket_peercred(socket)?.uid.as_raw();
    let own = fs::metadata("/proc/self")?.uid();
    if peer == own {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the other side runs as user {peer}, not as {own}")))
}

fn send(socket: BorrowedFd<'_>, message: &Message, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let text = serde_json::to_vec(message)?;
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(socket, &[io::IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Message, Option<OwnedFd>)> {
    let mut text = [0; MESSAGE_MAX];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [io::IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    if received == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.flatten().next();
    Ok((serde_json::from_slice(&text[..received])?, fd))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_socket_is_handed_over_and_the_first_stops_when_the_second_serves() {
        let folder = std::env::temp_dir().join(format!("trimtab-handover-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        assert!(!ask(&path).unwrap().is_some(), "there is nobody to ask");
        let shelf = Shelf::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        shelf.put(7, address, vec![listener]);
        let (handed, stop) = <(CancellationToken, CancellationToken)>::default();
        let giver = Giver::bind(&path, shelf.clone()).unwrap();
        let giving = std::thread::spawn({
            let (handed, stop) = (handed.clone(), stop.clone());
            move || giver.run(&handed, &stop)
        });
        // One that dies changes nothing.
        drop(ask(&path).unwrap());
        let mut inherited = ask(&path).unwrap();
        let listeners = inherited.listeners.remove(&address).unwrap();
        shelf.clear();
        let client = std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.write_all(b"x").unwrap();
        });
        let (mut stream, _) = listeners[0].accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        client.join().unwrap();
        assert!(!handed.is_cancelled());
        inherited.predecessor().unwrap().ready().unwrap();
        giving.join().unwrap();
        assert!(handed.is_cancelled());
        // What is left there is nobody's.
        assert!(!ask(&path).unwrap().is_some());
        fs::write(folder.join("file"), "").unwrap();
        assert_eq!(ask(&folder.join("file")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_dir_all(&folder).unwrap();
    }
}
