//! Listening sockets pass from a running server to the one that takes its place.
//!
//! The running server answers at `STATE-DIR/handover`, a socket that only its owner and root can reach. What is said there, in
//! packets:
//!
//! ```text
//! new ── connects ──▶ old
//!        ◀── a socket ──   once for each that listens
//!        ◀── the end ───   and how long transactions may still go on, in milliseconds
//!        ─── go ───────▶   from here on the old one accepts nobody, and the sockets are the new one's
//! ```
//!
//! Whoever connects in between waits in a backlog that both have, and that neither closes. If the new server breaks off before
//! it says "go", nothing has happened. What is done with the sockets is not decided here; nor is anything else passed on: the
//! state directory has its lock.
//!
//! A call on a socket with a timeout ends at any signal that is handled, and is begun again (signal(7)).

use std::fmt;
use std::fs::{self, Permissions};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketAddrUnix, connect, recv, recvmsg, send, sendmsg,
};
use socket2::{Domain, SockAddr, Socket, Type};

use super::atomic_file::{PRIVATE_FILE_MODE, remove_if_there};
use super::control::with_short_path;
use crate::limits;

/// The name of the socket in the state directory.
const HANDOVER_SOCKET: &str = "handover";

/// What a server that is asked gives away.
#[derive(Debug)]
pub(super) struct Legacy {
    /// The sockets that listen.
    pub(super) sockets: Vec<Socket>,
    /// How long transactions may still go on.
    pub(super) drain_timeout: Duration,
}

/// The running server's side; nobody can ask any more when it is dropped, and its sockets are closed.
#[derive(Debug)]
pub(super) struct HandoverServer {
    path: PathBuf,
    listener: Arc<Socket>,
    legacy: Arc<Mutex<Option<Legacy>>>,
}

/// Nothing can be handed over.
#[derive(Debug)]
pub(super) struct HandoverError {
    path: PathBuf,
    cause: io::Error,
}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.cause)
    }
}

impl HandoverServer {
    /// Answers from now on; `gone` is called once, when another server has the sockets. Whoever calls holds the lock of the state
    /// directory.
    ///
    /// # Errors
    /// The socket cannot be made, or the system has no thread to give.
    pub(super) fn start(
        state_dir: &Path,
        legacy: Legacy,
        gone: impl FnOnce() + Send + 'static,
    ) -> Result<Self, HandoverError> {
        let path = state_dir.join(HANDOVER_SOCKET);
        let legacy = Arc::new(Mutex::new(Some(legacy)));
        let begin = || {
            let listener = Arc::new(bind(&path)?);
            let (ours, shared) = (Arc::clone(&listener), Arc::clone(&legacy));
            thread::Builder::new().name("onetrip-handover".to_owned()).spawn(move || {
                if serve(&ours, &shared) {
                    gone();
                }
            })?;
            Ok(listener)
        };
        match begin() {
            Ok(listener) => Ok(Self { path, listener, legacy }),
            Err(cause) => Err(HandoverError { path, cause }),
        }
    }
}

impl Drop for HandoverServer {
    fn drop(&mut self) {
        // One that stays behind is in nobody's way.
        let _ = fs::remove_file(&self.path);
        drop(self.legacy.lock().unwrap_or_else(PoisonError::into_inner).take());
        // On Linux this makes the accept() that waits in the thread return at once.
        let _ = self.listener.shutdown(Shutdown::Read);
    }
}

fn bind(path: &Path) -> io::Result<Socket> {
    remove_if_there(path)?;
    let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    with_short_path(path, |path| socket.bind(&SockAddr::unix(path)?))?;
    fs::set_permissions(path, Permissions::from_mode(PRIVATE_FILE_MODE))?;
    socket.listen(ASKING_MAX)?;
    Ok(socket)
}

/// Answers one after the other; true when one has taken everything over.
fn serve(listener: &Socket, legacy: &Mutex<Option<Legacy>>) -> bool {
    loop {
        let asking = listener.accept();
        let legacy = legacy.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(legacy) = &*legacy else {
            return false;
        };
        match asking {
            Ok((asking, _)) if give(&asking, legacy).is_ok() => return true,
            // It has broken off, and may try again.
            Ok(_) => {}
            Err(_) => thread::sleep(limits::METRICS_ACCEPT_PAUSE),
        }
    }
}

fn give(to: &Socket, legacy: &Legacy) -> io::Result<()> {
    to.set_read_timeout(Some(limits::HANDOVER_STEP_TIMEOUT))?;
    to.set_write_timeout(Some(limits::HANDOVER_STEP_TIMEOUT))?;
    for socket in &legacy.sockets {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        let descriptors = [socket.as_fd()];
        rights.push(SendAncillaryMessage::ScmRights(&descriptors));
        retry_on_intr(|| sendmsg(to, &[IoSlice::new(A_SOCKET)], &mut rights, SendFlags::NOSIGNAL))?;
    }
    let drain_ms = u64::try_from(legacy.drain_timeout.as_millis()).unwrap_or(u64::MAX);
    retry_on_intr(|| send(to, &drain_ms.to_be_bytes(), SendFlags::NOSIGNAL))?;
    let mut answer = [0];
    match retry_on_intr(|| recv(to, &mut answer, RecvFlags::empty()))? {
        (1, _) if answer == *GO => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The new server's side: what it was given, before it has said that it takes it.
#[derive(Debug)]
pub(super) struct Offered {
    /// What there is.
    pub(super) legacy: Legacy,
    from: Socket,
    path: PathBuf,
}

/// Asks the server of a state directory for its sockets; `None` if it has none to give, because it is stopping or starting.
///
/// # Errors
/// The socket is there, but what should be said is not.
pub(super) fn ask(state_dir: &Path) -> Result<Option<Offered>, HandoverError> {
    let path = state_dir.join(HANDOVER_SOCKET);
    match connect_and_receive(&path) {
        Ok((legacy, from)) => Ok(Some(Offered { legacy, from, path })),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(cause) => Err(HandoverError { path, cause }),
    }
}

fn connect_and_receive(path: &Path) -> io::Result<(Legacy, Socket)> {
    let from = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
    with_short_path(path, |path| {
        let address = SocketAddrUnix::new(path)?;
        Ok(retry_on_intr(|| connect(&from, &address))?)
    })?;
    from.set_read_timeout(Some(limits::HANDOVER_STEP_TIMEOUT))?;
    let mut sockets = Vec::new();
    while sockets.len() <= limits::INHERITED_SOCKETS_MAX {
        match receive(&from)? {
            Packet::Socket(socket) => sockets.push(socket),
            Packet::End(drain_timeout) => return Ok((Legacy { sockets, drain_timeout }, from)),
        }
    }
    Err(io::Error::other("it has too many sockets"))
}

enum Packet {
    Socket(Socket),
    End(Duration),
}

fn receive(from: &Socket) -> io::Result<Packet> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut rights = RecvAncillaryBuffer::new(&mut space);
    let mut bytes = [0; size_of::<u64>()];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let length = retry_on_intr(|| recvmsg(from, &mut [IoSliceMut::new(&mut bytes)], &mut rights, flags))?.bytes;
    let descriptors = rights.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    let descriptor: Option<OwnedFd> = descriptors.flatten().next();
    match (descriptor, length) {
        (Some(descriptor), _) => Ok(Packet::Socket(Socket::from(descriptor))),
        (None, length) if length == bytes.len() => Ok(Packet::End(Duration::from_millis(u64::from_be_bytes(bytes)))),
        (None, 0) => Err(io::ErrorKind::UnexpectedEof.into()),
        (None, _) => Err(io::Error::other("a packet without a socket")),
    }
}

impl Offered {
    /// Takes it: from now on the other server accepts nobody.
    ///
    /// # Errors
    /// The other one is gone.
    pub(super) fn accept(self) -> Result<Legacy, HandoverError> {
        match retry_on_intr(|| send(&self.from, GO, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(self.legacy),
            Err(cause) => Err(HandoverError { path: self.path, cause: cause.into() }),
        }
    }
}

/// What stands in a packet with a socket: something has to.
const A_SOCKET: &[u8] = b"s";

/// The new server has everything.
const GO: &[u8; 1] = b"g";

/// Servers that may wait to ask; one at a time is usual.
const ASKING_MAX: i32 = 8;

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::thread::JoinHandleExt;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use socket2::Socket;

    use super::{HandoverServer, Legacy, ask, bind, give};

    fn legacy(sockets: usize) -> Legacy {
        let sockets = (0..sockets).map(|_| TcpListener::bind("127.0.0.1:0").unwrap().into()).collect();
        Legacy { sockets, drain_timeout: Duration::from_millis(1_234) }
    }

    #[test]
    fn the_new_server_has_the_very_sockets_of_the_old_one_and_who_waits_at_them() {
        let directory = tempfile::tempdir().unwrap();
        let legacy = legacy(3);
        let addresses: Vec<_> =
            legacy.sockets.iter().map(|socket| socket.local_addr().unwrap().as_socket().unwrap()).collect();
        let clients: Vec<_> = addresses.iter().map(|address| TcpStream::connect(address).unwrap()).collect();
        let (gone, is_gone) = mpsc::channel();
        let old = HandoverServer::start(directory.path(), legacy, move || gone.send(()).unwrap()).unwrap();
        let taken = ask(directory.path()).unwrap().unwrap().accept().unwrap();
        is_gone.recv().unwrap();
        drop(old);
        assert_eq!(taken.drain_timeout, Duration::from_millis(1_234));
        for (socket, client) in taken.sockets.iter().zip(clients) {
            let (_, accepted) = socket.accept().unwrap();
            assert_eq!(accepted.as_socket(), Some(client.local_addr().unwrap()));
        }
    }

    #[test]
    fn a_server_that_breaks_off_leaves_everything_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (gone, is_gone) = mpsc::channel();
        let _old = HandoverServer::start(directory.path(), legacy(1), move || gone.send(()).unwrap()).unwrap();
        drop(ask(directory.path()).unwrap().unwrap());
        let offered = ask(directory.path()).unwrap().unwrap();
        assert!(is_gone.try_recv().is_err());
        offered.accept().unwrap();
        is_gone.recv().unwrap();
    }

    /// Has the thread handle a signal some times while it waits.
    fn disturb(waiting: libc::pthread_t) {
        extern "C" fn nothing(_: libc::c_int) {}
        // SAFETY: the handler does nothing, and the signal is ignored otherwise.
        unsafe { libc::signal(libc::SIGURG, nothing as *const () as libc::sighandler_t) };
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(2));
            // SAFETY: the thread is joined later.
            unsafe { libc::pthread_kill(waiting, libc::SIGURG) };
        }
    }

    #[test]
    fn a_signal_breaks_nothing_off() {
        let directory = tempfile::tempdir().unwrap();
        let listener = bind(&directory.path().join("handover")).unwrap();
        let path = directory.path().to_owned();
        let new = thread::spawn(move || {
            let offered = ask(&path).unwrap().unwrap();
            // The old one waits for this.
            thread::sleep(Duration::from_millis(100));
            offered.accept().unwrap().sockets.len()
        });
        let asking = listener.accept().unwrap().0;
        disturb(new.as_pthread_t());
        let old = thread::spawn(move || give(&asking, &legacy(2)));
        disturb(old.as_pthread_t());
        assert_eq!(new.join().unwrap(), 2);
        old.join().unwrap().unwrap();
    }

    #[test]
    fn where_no_server_answers_there_is_nothing_to_take() {
        let directory = tempfile::tempdir().unwrap();
        assert!(ask(directory.path()).unwrap().is_none());
        let old = HandoverServer::start(directory.path(), legacy(1), || {}).unwrap();
        drop(old);
        assert!(ask(directory.path()).unwrap().is_none());
        assert!(!directory.path().join("handover").exists());
    }

    #[test]
    fn only_its_owner_may_ask() {
        let directory = tempfile::tempdir().unwrap();
        let _old = HandoverServer::start(directory.path(), legacy(1), || {}).unwrap();
        let mode = directory.path().join("handover").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn sockets_are_closed_with_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let legacy = legacy(1);
        let address = legacy.sockets[0].local_addr().unwrap();
        let old = HandoverServer::start(directory.path(), legacy, || {}).unwrap();
        drop(old);
        let client = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        assert!(client.connect(&address).is_err(), "nobody listens any more");
    }
}
