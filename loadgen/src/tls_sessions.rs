//! TLS sessions of all simulated clients of one core.
//!
//! A mail program keeps a few tickets of its server; here thousands of clients share one program, so the stock is deep.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;

use onetrip::tls::Versions;
use onetrip::tls::client::{ClientSettings, NoRoots, Trust, client_config};
use onetrip::tls::stock::SessionStock;

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
    /// Configurations with an empty stock.
    ///
    /// # Errors
    ///
    /// [`NoRoots`], if no server could be trusted.
    pub(crate) fn new(trust: &Trust, versions: Versions) -> Result<Self, NoRoots> {
        let fresh = client_config(ClientSettings { trust: trust.clone(), versions, sessions_max: 0 })?;
        let mut resuming = ClientConfig::clone(&fresh);
        resuming.resumption = Resumption::store(Arc::new(SessionStock::new(TICKETS_MAX)));
        Ok(Self { fresh, resuming: Arc::new(resuming) })
    }
}
