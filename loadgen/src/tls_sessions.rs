//! TLS sessions of all simulated clients of one core.
//!
//! A mail program keeps a few tickets of its server; here thousands of clients share one program, so the store is deep. A
//! ticket of TLS 1.3 is used once (RFC 8446 §C.4); a session of TLS 1.2 may be used again.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::client::{ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, NamedGroup};

use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, NoRoots, Trust, client_config};

/// Tickets kept at once; each is about 1 KiB. More than clients that can be between taking one and getting the next.
const TICKETS_MAX: usize = 65_536;

/// The two ways in which a core's clients do TLS.
#[derive(Clone, Debug)]
pub(crate) struct TlsConfigs {
    /// Every handshake is a full one.
    pub(crate) fresh: Arc<ClientConfig>,
    /// A session is resumed if there is one.
    pub(crate) resuming: Arc<ClientConfig>,
}

impl TlsConfigs {
    /// Configurations with an empty store.
    ///
    /// # Errors
    ///
    /// [`NoRoots`], if no server could be trusted.
    pub(crate) fn new(trust: &Trust, versions: Versions) -> Result<Self, NoRoots> {
        let fresh = client_config(ClientSettings { trust: trust.clone(), versions, sessions_max: 0 })?;
        let mut resuming = ClientConfig::clone(&fresh);
        resuming.resumption = Resumption::store(Arc::new(Store::default()));
        Ok(Self { fresh, resuming: Arc::new(resuming) })
    }
}

/// Sessions with one server.
#[derive(Debug, Default)]
struct Store(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tickets: VecDeque<Tls13ClientSessionValue>,
}

impl Store {
    /// Only one core comes here, so nobody waits. What a panic left behind is still a set of sessions.
    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Store {
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
        if sessions.tickets.len() == TICKETS_MAX {
            sessions.tickets.pop_front();
        }
        sessions.tickets.push_back(value);
    }

    fn take_tls13_ticket(&self, _server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        // The newest is the least likely to have expired or to have been forgotten by the server.
        self.sessions().tickets.pop_back()
    }
}
