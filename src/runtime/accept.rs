//! Accepting connections.
//!
//! One task per listener, and its accept is never dropped half-way: a connection that was taken from the kernel would be lost
//! with it. Errors are waited out, so that running out of descriptors does not become a busy loop. Who is inside already has a
//! turn between a few that come.

use std::net::{Shutdown, SocketAddr};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use glommio::timer::sleep;
use socket2::SockRef;

use super::connection::Conversation;
use super::listeners::{Endpoint, Listener};
use super::report::Identity;
use super::rounds::next_round;
use super::shard::{Shard, guarded, spawn_guarded};
use super::socket::descriptor;
use crate::limits;
use crate::observe::event::{AcceptPaused, ConnectionRefused, SessionPanicked};
use crate::observe::label::Bound;
use crate::proto::reply::{self, Reply};
use crate::proto::server::{Opening, Peer, Server};
use crate::wire::Connection;

/// A listener that is being served.
pub(super) struct Door {
    /// Kept open by the task until it is closed here.
    socket: RawFd,
}

impl Door {
    /// Ends the accept task; connections that wait in the kernel are refused by it.
    pub(super) fn close(self) {
        // SAFETY: the accept task owns the listener and ends only after this shutdown.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket) };
        let _ = SockRef::from(&socket).shutdown(Shutdown::Read);
    }
}

/// Begins to accept.
pub(super) fn open(shard: &Rc<Shard>, listener: Listener) -> Door {
    let Listener { socket, endpoint } = listener;
    let socket = socket.into_raw_fd();
    // SAFETY: `into_raw_fd` has given up the ownership that the new listener takes.
    let listener = unsafe { TcpListener::from_raw_fd(socket) };
    spawn_guarded(accept(Rc::clone(shard), listener, endpoint));
    Door { socket }
}

async fn accept(shard: Rc<Shard>, listener: TcpListener, endpoint: Endpoint) {
    let mut last_report = None;
    let mut admitted: u64 = 0;
    loop {
        match listener.accept().await {
            Ok(stream) => {
                admit(&shard, stream, endpoint);
                admitted += 1;
                if admitted.is_multiple_of(limits::ACCEPTED_PER_ROUND) {
                    next_round().await;
                }
            }
            Err(_) if shard.is_draining() => return,
            Err(error) => {
                let now = shard.clock.now().monotonic;
                if last_report.is_none_or(|last| now.saturating_sub(last) >= REPORT_EVERY) {
                    last_report = Some(now);
                    shard.report(AcceptPaused { shard: shard.number, pause: PAUSE, reason: error.to_string().into() });
                }
                sleep(PAUSE).await;
            }
        }
    }
}

fn admit(shard: &Rc<Shard>, stream: TcpStream, endpoint: Endpoint) {
    let Ok(client) = stream.peer_addr() else {
        return;
    };
    if shard.connections.len() >= shard.connections_max as usize {
        refuse(shard, &stream, endpoint, client, Bound::Connections);
        return;
    }
    let Some(counted) = shard.addresses.enter(client.ip()) else {
        refuse(shard, &stream, endpoint, client, Bound::ConnectionsPerAddress);
        return;
    };
    let now = shard.clock.now();
    let peer = Peer { client, server: local_ip(&stream, endpoint) };
    let opening = endpoint.opening;
    let server = Server::new(shard.settings(endpoint.returning), shard.resources.clone(), peer, opening, now);
    let connection = Connection::new(server, opening, Arc::clone(shard.configs.of(endpoint.returning)), now);
    let identity = Identity { connection: shard.next_connection_id(), shard: shard.number, client, opening };
    let mut conversation = Conversation::new(Rc::clone(shard), connection, stream, identity, counted);
    let shard = Rc::clone(shard);
    glommio::spawn_local(async move {
        // Pinned here and lent, because a future that is passed on is kept twice: once as it came and once where it runs.
        let run = pin!(conversation.run());
        if let Err(reason) = guarded(run).await {
            let Identity { connection, shard: number, client, .. } = identity;
            shard.report(SessionPanicked { connection, shard: number, client, reason: reason.into() });
        }
    })
    .detach();
}

/// The address that the client connected to; a system call only where the listener does not tell.
fn local_ip(stream: &TcpStream, endpoint: Endpoint) -> std::net::IpAddr {
    if !endpoint.address.ip().is_unspecified() {
        return endpoint.address.ip();
    }
    stream.local_addr().map_or(endpoint.address.ip(), |address| address.ip())
}

/// Says no, cheaply: one send that does not wait, and the end. Inside TLS there is nobody to say it to yet.
fn refuse(shard: &Shard, stream: &TcpStream, endpoint: Endpoint, client: SocketAddr, bound: Bound) {
    if endpoint.opening == Opening::Clear {
        let reply: Reply = match bound {
            Bound::Connections => reply::TOO_MANY_CONNECTIONS,
            Bound::ConnectionsPerAddress => reply::TOO_MANY_FROM_ADDRESS,
        };
        let _ =
            SockRef::from(&descriptor(stream)).send_with_flags(reply.bytes(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL);
    }
    shard.report(ConnectionRefused { shard: shard.number, client, bound });
}

/// How long accepting rests after an error: descriptors may be free again then.
const PAUSE: Duration = Duration::from_millis(5);

/// How often the same trouble is told.
const REPORT_EVERY: Duration = Duration::from_secs(10);
