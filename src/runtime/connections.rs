//! The open connections of one shard, and how they are interrupted.
//!
//! A task that waits for its client is woken by shutting its socket down: then the wait ends by itself, and the task finds
//! here why. No future is ever dropped half-way, no timer is armed per connection, and a shard can be emptied at any time. One
//! sweep a second looks at every deadline; at 50,000 connections that is a fraction of a millisecond.

use std::cell::RefCell;
use std::net::Shutdown;
use std::os::fd::{BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;
use socket2::SockRef;

/// All open connections of a shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    entries: RefCell<Slab<Entry>>,
}

#[derive(Debug)]
struct Entry {
    socket: RawFd,
    deadline: Duration,
    activity: Activity,
    interrupt: Option<Interrupt>,
}

/// What a connection's task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// Waiting for the client, with no transaction open.
    Idle,
    /// Waiting for the client, in the middle of a transaction.
    Receiving,
    /// Waiting until the client takes what it is sent.
    Sending,
    /// Waiting for something of ours.
    Elsewhere,
    /// Waiting for the client in the middle of a TLS handshake, where nothing can be said to it.
    Securing,
    /// Waiting until the client has noticed that it was told the end.
    Leaving,
}

/// Why a wait was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interrupt {
    /// The deadline has passed.
    TimedOut,
    /// The server is being stopped.
    Drained,
    /// The server can wait no longer.
    Cut,
}

/// One connection's place in the table; it leaves when this is dropped. Must be dropped before the socket is closed:
/// its number may belong to another connection at once.
#[derive(Debug)]
pub(super) struct Registration {
    connections: Rc<Connections>,
    key: usize,
}

impl Connections {
    pub(super) fn register(self: &Rc<Self>, socket: RawFd) -> Registration {
        let entry = Entry { socket, deadline: Duration::MAX, activity: Activity::Elsewhere, interrupt: None };
        let key = self.entries.borrow_mut().insert(entry);
        Registration { connections: Rc::clone(self), key }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// How many may still have something to store. Whoever is being told the end has not, and whoever is in a handshake is
    /// told it before anything else.
    pub(super) fn unsettled(&self) -> usize {
        let entries = self.entries.borrow();
        entries.iter().filter(|(_, entry)| entry.is_unsettled()).count()
    }

    /// Interrupts whoever has passed its deadline.
    pub(super) fn sweep(&self, monotonic: Duration) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.deadline <= monotonic {
                entry.interrupt(Interrupt::TimedOut);
            }
        }
    }

    /// Interrupts whoever waits for a client without a transaction. The others see for themselves that the shard drains.
    pub(super) fn drain(&self) {
        for (_, entry) in self.entries.borrow_mut().iter_mut() {
            if entry.activity == Activity::Idle {
                entry.interrupt(Interrupt::Drained);
            }
        }
    }

    /// Ends every connection, whatever it is doing.
    pub(super) fn cut(&self) {
        self.entries.borrow_mut().iter_mut().for_each(|(_, entry)| entry.cut());
    }

    /// Ends every connection that may still have something to store.
    pub(super) fn cut_unsettled(&self) {
        self.entries
            .borrow_mut()
            .iter_mut()
            .filter(|(_, entry)| entry.is_unsettled())
            .for_each(|(_, entry)| entry.cut());
    }
}

impl Entry {
    fn is_unsettled(&self) -> bool {
        !matches!(self.activity, Activity::Securing | Activity::Leaving)
    }

    fn cut(&mut self) {
        self.interrupt = Some(Interrupt::Cut);
        shut_down(self.socket, Shutdown::Both);
    }

    fn interrupt(&mut self, reason: Interrupt) {
        let how = match self.activity {
            Activity::Idle | Activity::Receiving | Activity::Securing => Shutdown::Read,
            Activity::Sending | Activity::Leaving => Shutdown::Both,
            Activity::Elsewhere => return,
        };
        if self.interrupt.is_none() {
            self.interrupt = Some(reason);
            shut_down(self.socket, how);
        }
    }
}

impl Registration {
    /// The task is about to wait: for what, and until when (monotonic).
    pub(super) fn wait(&self, activity: Activity, deadline: Option<Duration>) {
        if let Some(entry) = self.connections.entries.borrow_mut().get_mut(self.key) {
            entry.activity = activity;
            entry.deadline = deadline.unwrap_or(Duration::MAX);
        }
    }

    /// Why the last wait was ended, if it was.
    pub(super) fn interrupted(&self) -> Option<Interrupt> {
        self.connections.entries.borrow().get(self.key).and_then(|entry| entry.interrupt)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.entries.borrow_mut().remove(self.key);
    }
}

/// A socket that its peer has closed already cannot be shut down; then the wait ends anyway.
fn shut_down(socket: RawFd, how: Shutdown) {
    // SAFETY: an entry is in the table only while its socket is open: `Registration` is dropped before the stream is.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    let _ = SockRef::from(&socket).shutdown(how);
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::rc::Rc;
    use std::time::Duration;

    use super::{Activity, Connections, Interrupt, Registration};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener.accept().unwrap().0, client)
    }

    #[test]
    fn a_deadline_that_has_passed_ends_the_wait_and_says_why() {
        let (mut server, _client) = pair();
        let connections = Rc::new(Connections::default());
        let registration = connections.register(server.as_raw_fd());
        registration.wait(Activity::Idle, Some(Duration::from_secs(5)));
        connections.sweep(Duration::from_secs(4));
        assert_eq!(registration.interrupted(), None);
        connections.sweep(Duration::from_secs(5));
        assert_eq!(registration.interrupted(), Some(Interrupt::TimedOut));
        assert_eq!(server.read(&mut [0; 8]).unwrap(), 0, "the wait ends");
    }

    #[test]
    fn draining_leaves_transactions_alone_and_cutting_does_not() {
        let (idle, _client) = pair();
        let (busy, mut busy_client) = pair();
        let connections = Rc::new(Connections::default());
        let idle_place = connections.register(idle.as_raw_fd());
        let busy_place = connections.register(busy.as_raw_fd());
        idle_place.wait(Activity::Idle, None);
        busy_place.wait(Activity::Receiving, None);
        connections.drain();
        assert_eq!(idle_place.interrupted(), Some(Interrupt::Drained));
        assert_eq!(busy_place.interrupted(), None);
        connections.cut();
        assert_eq!(busy_place.interrupted(), Some(Interrupt::Cut));
        assert_eq!(busy_client.read(&mut [0; 8]).unwrap(), 0, "the client sees the end");
    }

    #[test]
    fn a_handshake_and_a_farewell_hold_up_no_store_and_may_go_on() {
        let (securing, _client) = pair();
        let (leaving, _client) = pair();
        let (idle, _client) = pair();
        let connections = Rc::new(Connections::default());
        let places = [&securing, &leaving, &idle].map(|socket| connections.register(socket.as_raw_fd()));
        assert_eq!(connections.unsettled(), 3, "whoever has just come may bring a message");
        places[0].wait(Activity::Securing, None);
        places[1].wait(Activity::Leaving, None);
        places[2].wait(Activity::Idle, None);
        connections.drain();
        assert_eq!(connections.unsettled(), 1, "it may have sent a message that is not read yet");
        connections.cut_unsettled();
        let interrupts = places.each_ref().map(Registration::interrupted);
        assert_eq!(interrupts, [None, None, Some(Interrupt::Cut)]);
    }

    #[test]
    fn a_connection_leaves_the_table_with_its_registration() {
        let (server, _client) = pair();
        let connections = Rc::new(Connections::default());
        let registration = connections.register(server.as_raw_fd());
        assert_eq!(connections.len(), 1);
        drop(registration);
        assert_eq!(connections.len(), 0);
    }
}
