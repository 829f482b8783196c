//! What becomes of a message once it is complete: where it goes, and what the place is called.
//!
//! It must not touch the place itself: no file and no socket is known here.

pub mod bounce;
pub mod mailbox;
pub mod outcome;
pub mod queue;
pub mod route;

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;

/// Where messages are delivered. It prints as the configuration writes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Destination {
    /// Into one Maildir per recipient under this directory.
    Maildir(PathBuf),
    /// To another server by SMTP.
    Relay {
        /// A domain name, or an address in numbers without brackets. It is a host: no MX records are asked for.
        host: String,
        /// The TCP port.
        port: u16,
        /// TLS from the first byte on (RFC 8314 §3.3), not by STARTTLS.
        implicit_tls: bool,
    },
    /// To another server by LMTP (RFC 2033).
    Lmtp(LmtpAddress),
    /// Nowhere: accepted and forgotten, for measuring.
    Discard,
}

/// Where a server of LMTP listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LmtpAddress {
    /// On a TCP port.
    Tcp {
        /// A domain name, or an address in numbers without brackets.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// On a Unix-domain socket.
    Unix(PathBuf),
}

/// Where messages for one recipient domain go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The domain in lower case: `example.org` for itself alone, `.example.org` for everything below it.
    pub domain: String,
    /// Where its messages go.
    pub destination: Destination,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Maildir(directory) => write!(f, "maildir:{}", directory.display()),
            Self::Relay { host, port, implicit_tls: false } => write!(f, "relay:{}", HostAndPort(host, *port)),
            Self::Relay { host, port, implicit_tls: true } => write!(f, "relays:{}", HostAndPort(host, *port)),
            Self::Lmtp(address) => write!(f, "lmtp:{address}"),
            Self::Discard => f.write_str("discard"),
        }
    }
}

impl fmt::Display for LmtpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } => HostAndPort(host, *port).fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// `HOST:PORT`, with brackets around the colons of an IPv6 address.
struct HostAndPort<'a>(&'a str, u16);

impl fmt::Display for HostAndPort<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.parse::<Ipv6Addr>().is_ok() { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// What a `250` to a message promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// The message is on stable storage.
    Commit,
    /// The message is in the hands of the operating system; a crash of the machine may lose it.
    None,
}
