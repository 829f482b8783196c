//! What becomes of a message once it is complete: where it goes, and what the place is called.
//!
//! It must not touch the place itself: no file and no socket is known here.

pub mod bounce;
pub mod handover;
pub mod logins;
pub mod mailbox;
pub mod outcome;
pub mod queue;
pub mod route;
pub mod through;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
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

impl Destination {
    /// Is it another server?
    pub const fn is_remote(&self) -> bool {
        matches!(self, Self::Relay { .. } | Self::Lmtp(_))
    }

    /// Where TLS stands on the way there, when this was asked for (`None`: nothing was).
    pub fn tls(&self, asked_for: Option<RelayTls>) -> RelayTls {
        match self {
            Self::Lmtp(LmtpAddress::Unix(_)) => RelayTls::Off,
            Self::Lmtp(LmtpAddress::Tcp { host, .. }) if is_this_host(host) => asked_for.unwrap_or(RelayTls::Off),
            _ => asked_for.unwrap_or(RelayTls::Require),
        }
    }
}

fn is_this_host(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
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

/// Whether TLS is used on the way to other servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayTls {
    /// Always, with a certificate that is verified.
    Require,
    /// Where it is offered, with any certificate.
    Opportunistic,
    /// Never.
    Off,
}

/// What a `250` to a message promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncPolicy {
    /// The message is on stable storage.
    Commit,
    /// The message is in the hands of the operating system; a crash of the machine may lose it.
    None,
    /// The place that it is delivered to has taken it; nothing is kept here.
    Through,
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Destination, LmtpAddress, RelayTls};

    #[test]
    fn tls_is_required_but_for_lmtp_that_does_not_leave_this_host() {
        let relay = |host: &str| Destination::Relay { host: host.to_owned(), port: 25, implicit_tls: false };
        let lmtp = |host: &str| Destination::Lmtp(LmtpAddress::Tcp { host: host.to_owned(), port: 24 });
        let socket = Destination::Lmtp(LmtpAddress::Unix(PathBuf::from("/run/lmtp")));
        for remote in [relay("mx.example.org"), relay("localhost"), relay("::1"), lmtp("store.example.org")] {
            assert_eq!(remote.tls(None), RelayTls::Require, "{remote}");
        }
        for local in [lmtp("localhost"), lmtp("127.0.0.2"), lmtp("::1"), socket.clone()] {
            assert_eq!(local.tls(None), RelayTls::Off, "{local}");
        }
        assert_eq!(lmtp("localhost").tls(Some(RelayTls::Require)), RelayTls::Require, "it was asked for");
        assert_eq!(relay("mx").tls(Some(RelayTls::Off)), RelayTls::Off);
        assert_eq!(socket.tls(Some(RelayTls::Require)), RelayTls::Off, "a socket of this host needs none");
    }
}
