//! Facts as types.
//!
//! A value of one of these types is the proof that something happened; it has no size and costs nothing. Code that needs
//! the fact takes the proof as an argument, so that forgetting to ask does not compile. A proof must never be made
//! anywhere but where the fact is established.

/// The connection is inside TLS. Needed for AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypted(());

impl Encrypted {
    /// For whoever drives the TLS handshake: call it when the handshake has produced keys, and at no other time.
    pub const fn attested_by_handshake() -> Self {
        Self(())
    }
}

/// The client has proved who it is. Needed for MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated(());

impl Authenticated {
    /// For the login state alone, when the verdict on a credential is good. It takes the proof that the credential
    /// travelled inside TLS.
    pub(super) const fn by_verdict(_: Encrypted) -> Self {
        Self(())
    }
}

/// A message will survive a crash. Needed for the 250 that ends a transaction.
#[derive(Debug, PartialEq, Eq)]
pub struct Committed(());

impl Committed {
    /// For whoever stores messages: call it when all that the 250 promises is on stable storage (or when the operator
    /// asked for no such promise), and at no other time.
    pub const fn attested_by_storage() -> Self {
        Self(())
    }
}
