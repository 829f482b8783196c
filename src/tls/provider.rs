//! The cryptography that connections may agree on: few suites and groups, so that no client can choose a dear one.
//!
//! Must not grow by convenience: the client picks from this list, and the dearest entry is what an attacker picks. The
//! manual's decisions page has the cost of each entry and of those left out.

use std::sync::{Arc, LazyLock};

use rustls::SupportedCipherSuite;
use rustls::crypto::ring::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};

use super::random::StoredRandom;

/// The provider for servers and clients alike: ring, with [`CIPHER_SUITES`] and [`GROUPS`].
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: CIPHER_SUITES.to_vec(),
        kx_groups: GROUPS.to_vec(),
        secure_random: &*RANDOM,
        ..default_provider()
    })
}

static RANDOM: LazyLock<StoredRandom> = LazyLock::new(|| StoredRandom::new(default_provider().secure_random));

/// The cipher suites, cheapest first: the order in which a client offers them and in which a server chooses (but see
/// [`super::config::ServerConfigs`] on clients that want ChaCha20 first).
pub const CIPHER_SUITES: [SupportedCipherSuite; 6] = [
    cipher_suite::TLS13_AES_128_GCM_SHA256,
    cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// The key exchange groups in order of preference. P-384 is left out: the group is chosen in the client's order, and
/// this one costs the server more than ten times as much.
pub const GROUPS: [&'static dyn SupportedKxGroup; 2] = [kx_group::X25519, kx_group::SECP256R1];

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::provider;

    #[test]
    fn no_suite_needs_more_than_sha_256() {
        for suite in &provider().cipher_suites {
            let name = suite.suite().as_str().unwrap();
            assert!(name.ends_with("_SHA256"), "{name}");
        }
    }

    #[test]
    fn only_the_two_cheap_groups_can_be_agreed() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups, [NamedGroup::X25519, NamedGroup::secp256r1]);
    }
}
