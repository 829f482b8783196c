//! A shard that runs, as the first thread sees it.

use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::Socket;

use crate::runtime::listeners::{Keeper, Listener};
use crate::runtime::shard::{Order, ShardThread};

pub(super) struct RunningShard {
    pub(super) number: u16,
    pub(super) orders: flume::Sender<Order>,
    pub(super) has_failed: Arc<AtomicBool>,
    pub(super) has_let_go: Arc<AtomicBool>,
    /// Its listening sockets that are the server's own.
    pub(super) doors: Vec<Socket>,
    pub(super) thread: ShardThread,
}

impl RunningShard {
    /// Has it ended by itself, or does it say that it cannot go on?
    pub(super) fn is_broken(&self) -> bool {
        self.thread.is_finished() || self.has_failed.load(Ordering::Acquire)
    }

    /// One that panicked leaves its listeners open, and the kernel would go on to give it clients.
    pub(super) fn close_doors(&self) {
        for door in &self.doors {
            let _ = door.shutdown(Shutdown::Read);
        }
    }
}

/// The same sockets as those of these listeners, but for those that outlive the server.
pub(super) fn doors_of(listeners: &[Listener]) -> Vec<Socket> {
    let own = listeners.iter().filter(|listener| listener.keeper == Keeper::Server);
    own.filter_map(|listener| listener.socket.try_clone().ok()).collect()
}
