//! What a server is ready to agree to, prepared once so that a new session costs nothing but its own memory.
//!
//! Certificates can be replaced at any time: the next handshake has the new ones, and no connection is dropped. Nothing
//! else changes while the process lives. Listeners that differ in what a returning client may do have configurations of
//! their own ([`Returning`]). Must not read files or decide when to reload.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};

use super::certificate::Certificate;
use super::read_keys::noting_provider;
use super::store::{LibraryStore, SessionStore, StoredTickets};
use super::{Version, Versions};
use crate::limits;

/// What an operator decides about the TLS of a listener.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// The certificates to show; the shard's own.
    pub certificates: Arc<Certificates>,
    /// The oldest version of the protocol that is accepted.
    pub minimum_version: Version,
    /// Where sessions are kept for resumption. All listeners of a process that agree in `returning` share one; others
    /// must not, or a session would carry over to one listener what only another one allows.
    pub sessions: Arc<dyn SessionStore>,
    /// What a client that was here before may do.
    pub returning: Returning,
}

/// What a client that was here before may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Returning {
    /// Nothing: it gets no ticket, and every handshake is a full one.
    StartAnew,
    /// Resume its session.
    Resume,
    /// Resume its session, and send early data with its first flight (RFC 8446 §2.3).
    #[default]
    SendEarlyData,
}

impl Returning {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::StartAnew, Self::Resume, Self::SendEarlyData];
}

/// The server's side of all handshakes, ready made in the variants that the TLS library cannot choose between by itself.
///
/// *Suites.* AES-128 is agreed wherever the client has it, unless ChaCha20 stands first in the client's list, as it does on
/// machines without AES instructions. To follow the client's order in general would lead those that want AES-256 first,
/// which is not on offer, to their second wish, and that is often the dear one.
///
/// *ALPN* (RFC 7301). The library refuses a client that offers only protocols it was not told of, and a mail client that
/// offers nonsense must still get through. So a client that offers `smtp` has it chosen, and to all others ALPN is never
/// mentioned.
#[derive(Debug)]
pub struct ServerConfigs {
    aes_first: AlpnVariants,
    chacha20_first: AlpnVariants,
}

impl ServerConfigs {
    /// Prepares all variants.
    pub fn new(settings: &ServerSettings) -> Self {
        let mut config = server_config(settings);
        config.ignore_client_order = false;
        let chacha20_first = AlpnVariants::new(config.clone());
        config.ignore_client_order = true;
        Self { aes_first: AlpnVariants::new(config), chacha20_first }
    }

    /// The configuration for a client that said this.
    pub(super) fn choose(&self, hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        let variants = if wants_chacha20_first(hello) { &self.chacha20_first } else { &self.aes_first };
        Arc::clone(if offers_smtp(hello) { &variants.with } else { &variants.without })
    }
}

/// A configuration with and without the protocol `smtp`.
#[derive(Debug)]
struct AlpnVariants {
    with: Arc<ServerConfig>,
    without: Arc<ServerConfig>,
}

impl AlpnVariants {
    fn new(without: ServerConfig) -> Self {
        let mut with = without.clone();
        with.alpn_protocols = vec![ALPN_SMTP.to_vec()];
        Self { with: Arc::new(with), without: Arc::new(without) }
    }
}

fn wants_chacha20_first(hello: &ClientHello<'_>) -> bool {
    // Clients may put reserved values in front, which mean nothing (RFC 8701).
    let first = hello.cipher_suites().iter().find(|suite| suite.as_str().is_some());
    matches!(
        first,
        Some(
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256
        )
    )
}

fn offers_smtp(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut protocols| protocols.any(|protocol| protocol == ALPN_SMTP))
}

/// The certificates that one shard shows, which can be replaced while it runs. Two shards must not have the same ones: every
/// full handshake counts its use of the key.
#[derive(Debug)]
pub struct Certificates {
    current: ArcSwap<CertificateSet>,
}

impl Certificates {
    /// Starts with these certificates.
    pub fn new(set: CertificateSet) -> Self {
        Self { current: ArcSwap::from_pointee(set) }
    }

    /// Shows other certificates from the next handshake on. Sessions that are open or kept for resumption stay good.
    pub fn replace(&self, set: CertificateSet) {
        self.current.store(Arc::new(set));
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.current.load().choose(hello.server_name())))
    }
}

/// Certificates by the names that they are for, and one for all other names. Sets share nothing with each other, even those
/// made of the same certificates.
#[derive(Debug)]
pub struct CertificateSet {
    default: Arc<CertifiedKey>,
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`; the star stands for one label (RFC 9525 §6.3).
    wildcard: HashMap<String, Arc<CertifiedKey>>,
}

impl CertificateSet {
    /// `default` is shown to clients that name no server or an unknown one: to refuse them would gain nothing, as a client
    /// that cares about names checks by itself. If two certificates are for the same name, the earlier one is shown.
    pub fn new(default: &Certificate, others: &[Certificate]) -> Self {
        let certified = default.certified();
        let mut set = Self { default: Arc::clone(&certified), exact: HashMap::new(), wildcard: HashMap::new() };
        set.add(default, &certified);
        others.iter().for_each(|certificate| set.add(certificate, &certificate.certified()));
        set
    }

    fn add(&mut self, certificate: &Certificate, certified: &Arc<CertifiedKey>) {
        for name in certificate.names() {
            let (names, name) = match name.strip_prefix("*.") {
                Some(parent) => (&mut self.wildcard, parent),
                None => (&mut self.exact, name.as_str()),
            };
            names.entry(name.to_owned()).or_insert_with(|| Arc::clone(certified));
        }
    }

    /// `server_name` comes in lower case from the TLS library.
    fn choose(&self, server_name: Option<&str>) -> &Arc<CertifiedKey> {
        let Some(name) = server_name else { return &self.default };
        let by_parent = || self.wildcard.get(name.split_once('.')?.1);
        self.exact.get(name).or_else(by_parent).unwrap_or(&self.default)
    }
}

fn server_config(settings: &ServerSettings) -> ServerConfig {
    let certificates: Arc<dyn ResolvesServerCert> = settings.certificates.clone();
    let mut config = ServerConfig::builder_with_provider(noting_provider())
        .with_protocol_versions(Versions::from_minimum(settings.minimum_version).supported())
        .expect("the provider has suites for both versions")
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    // The greeting leaves in the server's first flight. Sound, because clients are never asked for certificates.
    config.send_half_rtt_data = true;
    // One number, always: what is skipped of early data that is rejected is bounded by it too, and a client whose ticket
    // promised more than that would be cut off instead of falling back.
    config.max_early_data_size = u32::try_from(limits::TLS_EARLY_DATA_BYTES_MAX).expect("the bound is small");
    // A second ticket would cost its store entry and its bytes on every connection; clients that need more open one by one.
    config.send_tls13_tickets = 1;
    keep_sessions(&mut config, settings);
    config
}

fn keep_sessions(config: &mut ServerConfig, settings: &ServerSettings) {
    let sessions = || Arc::clone(&settings.sessions);
    match settings.returning {
        Returning::StartAnew => {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Returning::Resume => {
            config.session_storage = Arc::new(LibraryStore::new(sessions()));
            config.ticketer = Arc::new(StoredTickets::new(sessions(), config.crypto_provider().secure_random));
        }
        Returning::SendEarlyData => config.session_storage = Arc::new(LibraryStore::new(sessions())),
    }
}

/// The ALPN protocol of those mail clients that name one.
const ALPN_SMTP: &[u8] = b"smtp";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::issued;

    #[test]
    fn sets_of_the_same_certificates_share_no_key_and_one_set_reads_each_key_once() {
        let ((default, _), (other, _)) = (issued("mail.example.org"), issued("*.example.net"));
        let others = [other];
        let [one, two] = [(); 2].map(|()| CertificateSet::new(&default, &others));
        for name in [None, Some("mail.example.org"), Some("smtp.example.net")] {
            let (of_one, of_two) = (one.choose(name), two.choose(name));
            assert_eq!(of_one.cert, of_two.cert);
            assert!(!Arc::ptr_eq(of_one, of_two), "{name:?}: the certificate");
            assert!(!Arc::ptr_eq(&of_one.key, &of_two.key), "{name:?}: the key");
        }
        assert!(Arc::ptr_eq(one.choose(None), one.choose(Some("mail.example.org"))));
    }
}
