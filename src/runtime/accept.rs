//! Accepting connections.
//!
//! One task per listener. It takes connections by system calls that do not wait, and waits by a poll, which takes nothing: so
//! it can be told to stop at any time, without a connection that was taken from the kernel and then forgotten, and without
//! touching the socket, which may be another server's already. Errors are waited out, so that running out of descriptors does
//! not become a busy loop. Who is inside already has a turn between a few that come.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{FromRawFd, IntoRawFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::{AsyncRead, future};
use glommio::net::TcpStream;
use glommio::timer::sleep;
use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::bell::Bell;
use super::connection::Conversation;
use super::listeners::{Endpoint, Keeper, Listener};
use super::report::Identity;
use super::rounds::next_round;
use super::shard::{Order, Shard, guarded, spawn_guarded};
use crate::limits;
use crate::observe::event::{AcceptPaused, ConnectionRefused, SessionPanicked, ShardLate};
use crate::observe::label::Bound;
use crate::proto::reply::{self, Reply};
use crate::proto::server::{Opening, Peer, Server};
use crate::tcp_info::TcpInfo;
use crate::time::Now;
use crate::wire::Connection;

/// A listener that is being served.
pub(super) struct Door {
    keeper: Keeper,
    closing: Rc<Closing>,
}

/// How the accept task learns that it is over.
#[derive(Default)]
struct Closing {
    waiting: Cell<Option<Waiting>>,
    bell: Bell,
}

/// What becomes of connections that the kernel has accepted and the server has not.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waiting {
    /// They are told that the service stops.
    TurnedAway,
    /// They wait on: somebody else has the socket too.
    Left,
}

impl Door {
    /// Ends the accept task.
    pub(super) fn close(self, order: Order) {
        let waiting = match (order, self.keeper) {
            (Order::HandOver, _) | (_, Keeper::Manager) => Waiting::Left,
            (Order::Drain | Order::Stop, Keeper::Server) => Waiting::TurnedAway,
        };
        self.closing.waiting.set(Some(waiting));
        self.closing.bell.ring();
    }
}

/// Begins to accept.
pub(super) fn open(shard: &Rc<Shard>, listener: Listener) -> Door {
    let closing = Rc::<Closing>::default();
    let door = Door { keeper: listener.keeper, closing: Rc::clone(&closing) };
    spawn_guarded(accept(Rc::clone(shard), listener, closing));
    door
}

async fn accept(shard: Rc<Shard>, listener: Listener, closing: Rc<Closing>) {
    let Listener { socket, endpoint, .. } = listener;
    let mut last_report = None;
    let mut round = 0;
    while closing.waiting.get().is_none() {
        match socket.accept() {
            Ok((stream, client)) => {
                round += match admit(&shard, stream, client.as_socket(), endpoint) {
                    Answer::ComeIn | Answer::GoAway => limits::TURNED_AWAY_PER_ROUND / limits::ACCEPTED_PER_ROUND,
                    Answer::ComeLater => 1,
                };
                if round >= limits::TURNED_AWAY_PER_ROUND {
                    round = 0;
                    next_round().await;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                future::or(readable(&socket), closing.bell.heard()).await;
            }
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
    if closing.waiting.get() == Some(Waiting::TurnedAway) {
        // Whoever comes meanwhile may come faster than that, and is not to hold up the end.
        for _ in 0..limits::TURNED_AWAY_PER_ROUND {
            let Ok((stream, _)) = socket.accept() else { break };
            say_no(&stream, endpoint, reply::SHUTTING_DOWN);
            take_what_was_said(&shard, &stream);
        }
        // The ring may hold the socket for a moment after it is closed here, and nobody is to wait there.
        let _ = socket.shutdown(Shutdown::Read);
    }
}

/// Waits until somebody has connected. A glommio stream polls its socket before its first read; of a listener nothing can be
/// read, so that read ends as soon as the poll does. If this is dropped, only the poll is.
async fn readable(listener: &Socket) {
    let Ok(twin) = listener.try_clone() else {
        return sleep(PAUSE).await;
    };
    let mut stream = glommio_stream(twin);
    let _ = poll_fn(|context| Pin::new(&mut stream).poll_read(context, &mut [0])).await;
}

/// The same socket, for glommio, whose release 0.9.0 knows another release of `socket2`.
fn glommio_stream(socket: Socket) -> TcpStream {
    // SAFETY: `into_raw_fd` has given up the ownership that the stream takes.
    unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) }
}

/// What a client hears who comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Answer {
    ComeIn,
    GoAway,
    ComeLater,
}

fn admit(shard: &Rc<Shard>, stream: Socket, client: Option<SocketAddr>, endpoint: Endpoint) -> Answer {
    let Some(client) = client else {
        return Answer::GoAway;
    };
    let now = shard.clock.now();
    let info = TcpInfo::of(&stream).ok();
    let waited = info.as_ref().map(TcpInfo::since_packet).unwrap_or_default();
    let lateness = shard.lateness.borrow_mut().turns_away(now.monotonic, waited);
    if let Some(lateness) = lateness {
        turn_away(shard, &stream, endpoint, now, lateness);
        // Most have said nothing yet, and a receive that finds nothing costs as much as the accept.
        if info.is_none_or(|info| info.has_received()) {
            take_what_was_said(shard, &stream);
        }
        return Answer::ComeLater;
    }
    if shard.connections.len() >= shard.connections_max as usize {
        return refuse(shard, &stream, endpoint, client, Bound::Connections);
    }
    let Some(counted) = shard.addresses.enter(client.ip()) else {
        return refuse(shard, &stream, endpoint, client, Bound::ConnectionsPerAddress);
    };
    let peer = Peer { client, server: local_ip(&stream, endpoint) };
    let opening = endpoint.opening;
    let server = Server::new(shard.settings(endpoint.returning), shard.resources.clone(), peer, opening, now);
    let connection = Connection::new(server, opening, Arc::clone(shard.configs.of(endpoint.returning)), now);
    let identity = Identity { connection: shard.next_connection_id(), shard: shard.number, client, opening };
    let mut conversation = Conversation::new(Rc::clone(shard), connection, glommio_stream(stream), identity, counted);
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
    Answer::ComeIn
}

/// Refuses a client because the shard is late, and does no more for that than has to be done.
fn turn_away(shard: &Shard, stream: &Socket, endpoint: Endpoint, now: Now, lateness: Duration) {
    say_no(stream, endpoint, refusal_of(Bound::Lateness));
    shard.metrics.connections_refused.count(Bound::Lateness);
    if let Some(turned_away) = shard.lateness.borrow_mut().count(now.monotonic) {
        shard.report(ShardLate { shard: shard.number, lateness, turned_away });
    }
}

/// The address that the client connected to; a system call only where the listener does not tell.
fn local_ip(stream: &Socket, endpoint: Endpoint) -> std::net::IpAddr {
    if !endpoint.address.ip().is_unspecified() {
        return endpoint.address.ip();
    }
    let address = stream.local_addr().ok().and_then(|address| address.as_socket());
    address.map_or(endpoint.address.ip(), |address| address.ip())
}

fn refuse(shard: &Shard, stream: &Socket, endpoint: Endpoint, client: SocketAddr, bound: Bound) -> Answer {
    say_no(stream, endpoint, refusal_of(bound));
    take_what_was_said(shard, stream);
    shard.report(ConnectionRefused { shard: shard.number, client, bound });
    Answer::GoAway
}

fn refusal_of(bound: Bound) -> Reply {
    match bound {
        Bound::Connections => reply::TOO_MANY_CONNECTIONS,
        Bound::ConnectionsPerAddress => reply::TOO_MANY_FROM_ADDRESS,
        Bound::Lateness => reply::TOO_BUSY,
    }
}

/// Says no, cheaply: a send that does not wait, and the end, which comes with the socket's. Inside TLS there is nobody to say it to
/// yet.
fn say_no(stream: &Socket, endpoint: Endpoint, reply: Reply) {
    if endpoint.opening == Opening::Clear {
        // There is more to come, the end, and both go in one packet.
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;
        let _ = stream.send_with_flags(reply.bytes(), flags);
    }
}

/// Takes what a client has said that is refused: closing a socket with unread bytes resets the connection, and the refusal may be lost
/// with it.
fn take_what_was_said(shard: &Shard, stream: &Socket) {
    let _ = recv(stream, &mut **shard.receive_buffer.borrow_mut(), RecvFlags::DONTWAIT);
}

/// How long accepting rests after an error: descriptors may be free again then.
const PAUSE: Duration = Duration::from_millis(5);

/// How often the same trouble is told.
const REPORT_EVERY: Duration = Duration::from_secs(10);
