//! A client's stock of TLS sessions with one server, which says how many are left.
//!
//! In memory only: the TLS library has no form of a session that could be written down. A ticket of TLS 1.3 is used once
//! (RFC 8446 §C.4); a session of TLS 1.2 may be used again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// The sessions with one server. Whoever asks for another server's name gets them too, so each server has its own stock.
#[derive(Debug)]
pub struct SessionStock {
    sessions: Mutex<Sessions>,
    tickets_max: usize,
}

#[derive(Debug, Default)]
struct Sessions {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl SessionStock {
    /// An empty stock that keeps so many tickets of TLS 1.3, about 1 KiB each; the oldest makes room.
    pub fn new(tickets_max: usize) -> Self {
        Self { sessions: Mutex::default(), tickets_max }
    }

    /// Is there nothing that the next connection could resume?
    pub fn is_empty(&self) -> bool {
        let sessions = self.sessions();
        sessions.tls12.is_none() && sessions.tickets.is_empty()
    }

    /// What a panic left behind is still a set of sessions.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for SessionStock {
    fn set_kx_hint(&self, _server_name: ServerName<'static>, group: NamedGroup) {
        self.sessions().group = Some(group);
    }

    fn kx_hint(&self, _server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions().group
    }

    fn set_tls12_session(&self, _server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions().tls12 = Some(value);
    }

    fn tls12_session(&self, _server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions().tls12.clone()
    }

    fn remove_tls12_session(&self, _server_name: &ServerName<'static>) {
        self.sessions().tls12 = None;
    }

    fn insert_tls13_ticket(&self, _server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut sessions = self.sessions();
        if sessions.tickets.len() == self.tickets_max {
            sessions.tickets.pop_front();
        }
        sessions.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest is the least likely to have expired or to have been forgotten by the server.
        self.sessions().tickets.pop_back()
    }
}
