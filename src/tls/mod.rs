//! TLS without sockets: ciphertext in, plaintext out, and back.
//!
//! [`session`] moves bytes through a connection, [`config`] and [`client`] decide what a connection may agree to,
//! [`certificate`] reads and makes certificates, [`store`] says what keeps sessions for resumption, and [`cache`] does it.
//!
//! Must not open a socket or a file, nor know SMTP: certificates come as bytes, time as an argument. (The TLS library by
//! itself draws random bytes and reads the wall clock for the ages of tickets.)

pub mod cache;
pub mod certificate;
pub mod client;
#[cfg(test)]
mod client_early_tests;
pub mod config;
mod early;
#[cfg(test)]
mod early_tests;
mod hello;
pub mod provider;
mod random;
mod read_keys;
mod record;
pub mod session;
#[cfg(test)]
mod session_tests;
pub mod stock;
pub mod store;
#[cfg(test)]
mod tests;

use rustls::SupportedProtocolVersion;
use rustls::version::{TLS12 as TLS12_RULES, TLS13 as TLS13_RULES};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl Version {
    /// How the version is written in `Received` fields and logs: `TLSv1.2` or `TLSv1.3`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// The versions that one side is ready to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// TLS 1.2 alone: for tests and for measuring what TLS 1.3 gains.
    Tls12,
    /// TLS 1.3 alone.
    Tls13,
    /// Both; TLS 1.3 whenever the other side has it.
    #[default]
    Both,
}

impl Versions {
    /// All versions from `minimum` on.
    pub const fn from_minimum(minimum: Version) -> Self {
        match minimum {
            Version::Tls12 => Self::Both,
            Version::Tls13 => Self::Tls13,
        }
    }

    /// The same in the TLS library's terms.
    fn supported(self) -> &'static [&'static SupportedProtocolVersion] {
        static TLS12: [&SupportedProtocolVersion; 1] = [&TLS12_RULES];
        static TLS13: [&SupportedProtocolVersion; 1] = [&TLS13_RULES];
        static BOTH: [&SupportedProtocolVersion; 2] = [&TLS13_RULES, &TLS12_RULES];
        match self {
            Self::Tls12 => &TLS12,
            Self::Tls13 => &TLS13,
            Self::Both => &BOTH,
        }
    }
}
