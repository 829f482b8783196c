//! Listening sockets: one per shard and address, all of an address on one port through SO_REUSEPORT, so that the kernel
//! spreads connections over the shards and no shard ever waits for another.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

use crate::limits;
use crate::proto::server::Opening;
use crate::tls::config::Returning;

/// An address to serve, and how connections to it begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endpoint {
    pub(super) address: SocketAddr,
    pub(super) opening: Opening,
    pub(super) returning: Returning,
}

/// One of something for each kind of listener, by what a returning client may do there.
#[derive(Clone, Debug)]
pub(super) struct ByReturning<T> {
    start_anew: T,
    resume: T,
    send_early_data: T,
}

impl<T> ByReturning<T> {
    pub(super) fn each(mut make: impl FnMut(Returning) -> T) -> Self {
        Self {
            start_anew: make(Returning::StartAnew),
            resume: make(Returning::Resume),
            send_early_data: make(Returning::SendEarlyData),
        }
    }

    pub(super) fn try_each<E>(mut make: impl FnMut(Returning) -> Result<T, E>) -> Result<Self, E> {
        Ok(Self {
            start_anew: make(Returning::StartAnew)?,
            resume: make(Returning::Resume)?,
            send_early_data: make(Returning::SendEarlyData)?,
        })
    }

    pub(super) fn of(&self, returning: Returning) -> &T {
        match returning {
            Returning::StartAnew => &self.start_anew,
            Returning::Resume => &self.resume,
            Returning::SendEarlyData => &self.send_early_data,
        }
    }
}

/// A listening socket that one shard serves.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: Socket,
    pub(super) endpoint: Endpoint,
    pub(super) keeper: Keeper,
}

/// Who keeps a listening socket open when the server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keeper {
    /// Nobody: it is the server's own.
    Server,
    /// A service manager, which gives it to the next server.
    Manager,
}

/// Listening sockets that were there before this server, none of them served by anybody yet.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<(SocketAddr, Socket, Keeper)>);

impl Inherited {
    /// Takes one more.
    ///
    /// # Errors
    /// It does not listen for TCP connections.
    pub(super) fn add(&mut self, socket: Socket, keeper: Keeper) -> io::Result<()> {
        if self.0.len() >= limits::INHERITED_SOCKETS_MAX {
            return Err(io::Error::other("too many sockets"));
        }
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::other("a socket that does not listen"));
        }
        self.0.push((local_address(&socket)?, socket, keeper));
        Ok(())
    }

    /// One for each shard at this address, or none at all. Where there are fewer sockets than shards, several shards accept
    /// from one; where there are more, some shards have several, so that nobody waits where nobody looks.
    pub(super) fn take(
        &mut self,
        endpoint: Endpoint,
        shards: usize,
        settings: ListenerSettings,
    ) -> io::Result<Vec<Vec<Listener>>> {
        let sockets: Vec<_> = self.0.extract_if(.., |(address, ..)| *address == endpoint.address).collect();
        let mut by_shard: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
        for (number, (_, socket, keeper)) in sockets.iter().enumerate() {
            prepare(socket, settings)?;
            for shard in (number % shards..shards).step_by(sockets.len()) {
                by_shard[shard].push(Listener { socket: socket.try_clone()?, endpoint, keeper: *keeper });
            }
        }
        Ok(by_shard)
    }

    /// Addresses of sockets that nobody has taken.
    pub(super) fn left(&self, keeper: Keeper) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter(move |entry| entry.2 == keeper).map(|entry| entry.0)
    }
}

/// What all listeners have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListenerSettings {
    /// Connections that may wait to be accepted, per socket.
    pub(super) backlog: u32,
    /// Clients that may wait with data in their SYN (RFC 7413); 0 for none.
    pub(super) fast_open: u32,
}

/// Opens one listener per shard, unless there are some already. The port 0 becomes the same free port for all of them; the address in what is returned has
/// it.
pub(super) fn listen(
    endpoint: Endpoint,
    shards: usize,
    settings: ListenerSettings,
    inherited: &mut Inherited,
) -> io::Result<Vec<Vec<Listener>>> {
    let taken = inherited.take(endpoint, shards, settings)?;
    if taken.iter().any(|listeners| !listeners.is_empty()) {
        return Ok(taken);
    }
    refuse_if_taken(endpoint.address)?;
    let first = open(endpoint.address, settings)?;
    let endpoint = Endpoint { address: local_address(&first)?, ..endpoint };
    let mut sockets = vec![first];
    while sockets.len() < shards {
        sockets.push(open(endpoint.address, settings)?);
    }
    Ok(sockets.into_iter().map(|socket| vec![Listener { socket, endpoint, keeper: Keeper::Server }]).collect())
}

/// With SO_REUSEPORT alone a second server would quietly take half of the first one's connections.
///
/// After a kill the kernel still cleans up the rings of the dead process for a moment, and they hold its listeners: so it
/// is tried again for a while.
fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let end = Instant::now() + limits::LISTEN_TAKEN_PATIENCE;
    loop {
        match probe(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < end => thread::sleep(TAKEN_LOOK),
            outcome => return outcome,
        }
    }
}

fn probe(address: SocketAddr) -> io::Result<()> {
    bound(address, Sharing::Alone)?.listen(1)
}

/// Can this address be listened on? Nothing listens there afterwards.
pub(super) fn try_bind(address: SocketAddr) -> io::Result<()> {
    bound(address, Sharing::Alone).map(drop)
}

fn open(address: SocketAddr, settings: ListenerSettings) -> io::Result<Socket> {
    let socket = bound(address, Sharing::AmongShards)?;
    prepare(&socket, settings)?;
    Ok(socket)
}

/// Makes a bound socket listen as it should; one that listens already is changed to that.
fn prepare(socket: &Socket, settings: ListenerSettings) -> io::Result<()> {
    // Inherited by accepted connections: replies leave at once (a reply is one send, so Nagle could only delay it).
    socket.set_tcp_nodelay(true)?;
    // Shards accept until nobody waits, and wait by a poll.
    socket.set_nonblocking(true)?;
    if settings.fast_open > 0 {
        set_fast_open(socket, settings.fast_open)?;
    }
    socket.listen(i32::try_from(settings.backlog).unwrap_or(i32::MAX))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Alone,
    AmongShards,
}

fn bound(address: SocketAddr, sharing: Sharing) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if sharing == Sharing::AmongShards {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // An address stands for itself: whoever wants IPv4 too names an IPv4 address.
        socket.set_only_v6(address.ip() == Ipv6Addr::UNSPECIFIED)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("a listener without an IP address"))
}

/// Lets a listener take data with a SYN, from so many clients at once.
pub(super) fn set_fast_open(socket: &Socket, queue: u32) -> io::Result<()> {
    let queue = libc::c_int::try_from(queue).unwrap_or(libc::c_int::MAX);
    // SAFETY: the pointer and the length are those of `queue`, which lives until the call returns.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN,
            (&raw const queue).cast(),
            libc::socklen_t::try_from(size_of_val(&queue)).unwrap_or_default(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How often it is looked whether a taken port is free.
const TAKEN_LOOK: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind};
    use std::net::{TcpListener, TcpStream};

    use socket2::Socket;

    use super::{Endpoint, Inherited, Keeper, Listener, ListenerSettings};
    use crate::proto::server::Opening;
    use crate::tls::config::Returning;

    const SETTINGS: ListenerSettings = ListenerSettings { backlog: 8, fast_open: 8 };

    fn endpoint(address: &str) -> Endpoint {
        Endpoint { address: address.parse().unwrap(), opening: Opening::Clear, returning: Returning::SendEarlyData }
    }

    fn listen(address: &str, shards: usize) -> io::Result<Vec<Vec<Listener>>> {
        super::listen(endpoint(address), shards, SETTINGS, &mut Inherited::default())
    }

    /// So many sockets on one port, as another server has left them, and the address.
    fn inherited(sockets: usize) -> (Inherited, String) {
        let before = listen("127.0.0.1:0", sockets).unwrap();
        let address = before[0][0].endpoint.address.to_string();
        let mut inherited = Inherited::default();
        for listener in before.into_iter().flatten() {
            inherited.add(listener.socket, Keeper::Manager).unwrap();
        }
        (inherited, address)
    }

    #[test]
    fn all_shards_share_one_free_port() {
        let listeners: Vec<Listener> = listen("127.0.0.1:0", 3).unwrap().into_iter().flatten().collect();
        let ports: Vec<u16> = listeners.iter().map(|listener| listener.endpoint.address.port()).collect();
        assert_eq!(ports.len(), 3);
        assert!(ports[0] != 0 && ports.iter().all(|port| *port == ports[0]));
        assert!(listeners.iter().all(|listener| listener.socket.tcp_nodelay().unwrap()));
    }

    #[test]
    fn a_port_in_use_is_refused_even_if_its_owner_would_share() {
        let foreign = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = foreign.local_addr().unwrap().to_string();
        assert_eq!(listen(&taken, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
        let ours = listen("127.0.0.1:0", 1).unwrap();
        let taken = ours[0][0].endpoint.address.to_string();
        assert_eq!(listen(&taken, 1).unwrap_err().kind(), ErrorKind::AddrInUse);
    }

    #[test]
    fn every_inherited_socket_is_served_and_every_shard_has_one_whatever_their_numbers() {
        for (sockets, shards) in [(1, 1), (1, 3), (2, 3), (3, 2), (4, 2), (5, 1)] {
            let (mut inherited, address) = inherited(sockets);
            let taken = super::listen(endpoint(&address), shards, SETTINGS, &mut inherited).unwrap();
            assert_eq!(taken.len(), shards);
            assert!(taken.iter().all(|listeners| !listeners.is_empty()), "{sockets} sockets, {shards} shards");
            assert_eq!(taken.iter().flatten().count(), sockets.max(shards));
            assert!(taken.iter().flatten().all(|listener| listener.keeper == Keeper::Manager));
            assert_eq!(inherited.left(Keeper::Manager).count(), 0);
        }
    }

    #[test]
    fn a_connection_that_waits_at_an_inherited_socket_is_accepted_by_whoever_has_it_now() {
        let (mut inherited, address) = inherited(1);
        let client = TcpStream::connect(&address).unwrap();
        let taken = super::listen(endpoint(&address), 1, SETTINGS, &mut inherited).unwrap();
        let (_, accepted) = taken[0][0].socket.accept().unwrap();
        assert_eq!(accepted.as_socket(), Some(client.local_addr().unwrap()));
    }

    #[test]
    fn an_inherited_socket_of_another_address_is_left() {
        let (mut inherited, address) = inherited(1);
        super::listen(endpoint("127.0.0.1:0"), 1, SETTINGS, &mut inherited).unwrap();
        assert_eq!(inherited.left(Keeper::Manager).map(|left| left.to_string()).collect::<Vec<_>>(), [address]);
    }

    #[test]
    fn a_socket_that_does_not_listen_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(Inherited::default().add(Socket::from(stream), Keeper::Manager).is_err());
    }
}
