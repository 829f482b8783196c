//! What the bytes of a conversation travel in.

use super::proof::Encrypted;

/// In the clear, or inside TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// Anybody on the way can read it.
    Clear,
    /// Inside TLS, and here is the proof.
    Secure(Encrypted),
}

/// What is worth telling about a TLS session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsFacts {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// The cipher suite as IANA registers it.
    pub cipher: &'static str,
    /// Was an earlier session resumed?
    pub resumed: bool,
}
