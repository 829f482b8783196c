//! Notes when TLS 1.3 makes a key to read with: the one trace that the server's decision about early data leaves.
//!
//! The library's unbuffered connections do not tell whether they take early data; and as long as nobody knows, nobody knows what
//! becomes of the next record. But the keys come from the provider of cryptography, which is ours: behind a ClientHello that
//! resumes a session the library asks for the key of early data, and, unless it takes them, for the key of the Finished too.
//!
//! Must not look at a key.

use std::cell::Cell;
use std::sync::{Arc, LazyLock};

use rustls::crypto::CryptoProvider;
use rustls::crypto::cipher::{
    AeadKey, Iv, MessageDecrypter, MessageEncrypter, Tls13AeadAlgorithm, UnsupportedOperationError,
};
use rustls::{CipherSuiteCommon, ConnectionTrafficSecrets, SupportedCipherSuite, Tls13CipherSuite};

use super::provider::{CIPHER_SUITES, provider};

/// [`provider`], with suites of which [`read_keys_made`] knows.
pub(super) fn noting_provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: SUITES.clone(), ..CryptoProvider::clone(&provider()) })
}

/// How many keys to read with were made on this thread for TLS 1.3: to be compared before and after.
pub(super) fn read_keys_made() -> u64 {
    MADE.get()
}

thread_local! {
    static MADE: Cell<u64> = const { Cell::new(0) };
}

static SUITES: LazyLock<Vec<SupportedCipherSuite>> = LazyLock::new(|| CIPHER_SUITES.into_iter().map(noting).collect());

/// The same suite. Made once for each, and kept, as the library asks for.
fn noting(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls13(suite) = suite else { return suite };
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit },
        hkdf_provider: suite.hkdf_provider,
        aead_alg: Box::leak(Box::new(Noting(suite.aead_alg))),
        quic: None,
    })))
}

/// An algorithm that works as this one.
struct Noting(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Noting {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        self.0.encrypter(key, iv)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        MADE.set(MADE.get() + 1);
        self.0.decrypter(key, iv)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(&self, key: AeadKey, iv: Iv) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}
