//! The client's side of handshakes: whom to trust, what to offer, what to remember.
//!
//! Must not look for roots on this machine: they come as arguments. Trusting anyone is possible, but only by its name.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::Versions;
use super::provider::provider;

/// Whom a client takes for the server that it wants.
#[derive(Clone, Debug)]
pub enum Trust {
    /// A server whose certificate is for the name asked for and goes back to one of these roots. A self-signed certificate
    /// can be its own root.
    Roots(Vec<CertificateDer<'static>>),
    /// Whoever answers. The connection is encrypted, but maybe to an impostor: for tests, and for `--insecure`.
    Anyone,
}

/// What a client decides about TLS.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Whom to trust.
    pub trust: Trust,
    /// What to offer.
    pub versions: Versions,
    /// Sessions to remember for resumption, all servers together; about eight per server. 0: none.
    pub sessions_max: usize,
}

/// Prepares the client's side of all handshakes; it remembers sessions for as long as it lives.
///
/// # Errors
///
/// [`NoRoots`], if none of the roots can be used.
pub fn client_config(settings: ClientSettings) -> Result<Arc<ClientConfig>, NoRoots> {
    let provider = provider();
    let verifier = verifier(settings.trust, &provider)?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(settings.versions.supported())
        .expect("the provider has suites for both versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.resumption = match settings.sessions_max {
        0 => Resumption::disabled(),
        sessions_max => Resumption::in_memory_sessions(sessions_max),
    };
    Ok(Arc::new(config))
}

/// There is no root to trust, so no server could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoots;

impl fmt::Display for NoRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no usable root certificate: name a file of them with --ca, or install the package ca-certificates")
    }
}

impl std::error::Error for NoRoots {}

fn verifier(trust: Trust, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, NoRoots> {
    let Trust::Roots(roots) = trust else {
        return Ok(Arc::new(AcceptAnyone(Arc::clone(provider))));
    };
    let mut store = RootCertStore::empty();
    // A platform's bundle may hold a root that this library cannot read; the others are still good.
    store.add_parsable_certificates(roots);
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)).build();
    Ok(verifier.map_err(|_| NoRoots)?)
}

/// Accepts any certificate, but still wants proof that the server has its key.
#[derive(Debug)]
struct AcceptAnyone(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
