//! How a destination and a route are written.
//!
//! It judges only what is written: whether the host exists and answers is found out when there is something to deliver.

use std::net::IpAddr;
use std::path::PathBuf;

use super::kind::{DomainName, FilePath, Invalid, Kind};
use crate::limits;
use crate::relay::{Destination, LmtpAddress, Route};

/// Where messages are delivered: `maildir:DIR`, `relay:HOST:PORT`, `relays:HOST:PORT`, `lmtp:HOST:PORT`, `lmtp:PATH` or
/// `discard`.
pub(super) struct DeliverTo;

impl Kind<Destination> for DeliverTo {
    fn parse(&self, text: &str) -> Result<Destination, Invalid> {
        match text.split_once(':') {
            None if text == "discard" => Ok(Destination::Discard),
            Some(("maildir", directory)) => FilePath.parse(directory).map(Destination::Maildir),
            Some((way @ ("relay" | "relays"), place)) => {
                let (host, port) = host_and_port(place)?;
                Ok(Destination::Relay { host, port, implicit_tls: way == "relays" || port == limits::SUBMISSIONS_PORT })
            }
            Some(("lmtp", place)) => lmtp_address(place).map(Destination::Lmtp),
            _ => Err(Invalid::new(format!("{text:?} is no way to deliver"), format!("use {}", self.accepts()))),
        }
    }

    fn show(&self, value: &Destination) -> String {
        value.to_string()
    }

    fn accepts(&self) -> String {
        "maildir:DIR, relay:HOST:PORT, relays:HOST:PORT, lmtp:HOST:PORT, lmtp:PATH or discard".to_owned()
    }
}

/// A recipient domain and where its messages go: `example.org=DESTINATION`.
pub(super) struct RouteTo;

impl Kind<Route> for RouteTo {
    fn parse(&self, text: &str) -> Result<Route, Invalid> {
        let Some((domain, destination)) = text.split_once('=') else {
            return Err(Invalid::new(format!("{text:?} is no route"), format!("write {}", self.accepts())));
        };
        let domain = domain.to_lowercase();
        if !is_mail_domain(domain.strip_prefix('.').unwrap_or(&domain)) {
            let remedy = "give the domain after the @ of addresses, like example.org, or .example.org for all below it";
            return Err(Invalid::new(format!("{domain:?} is not a domain of addresses"), remedy));
        }
        Ok(Route { domain, destination: DeliverTo.parse(destination)? })
    }

    fn show(&self, value: &Route) -> String {
        format!("{}={}", value.domain, value.destination)
    }

    fn accepts(&self) -> String {
        "DOMAIN=DESTINATION, like example.org=lmtp:/run/dovecot/lmtp".to_owned()
    }
}

/// A path has a slash, and a host has none.
fn lmtp_address(place: &str) -> Result<LmtpAddress, Invalid> {
    if place.contains('/') {
        return Ok(LmtpAddress::Unix(PathBuf::from(place)));
    }
    let (host, port) = host_and_port(place)?;
    Ok(LmtpAddress::Tcp { host, port })
}

/// `NAME:PORT`, `192.0.2.1:PORT` or `[2001:db8::1]:PORT`.
fn host_and_port(place: &str) -> Result<(String, u16), Invalid> {
    let remedy = "write the host and the port, like mx.example.org:25, 192.0.2.1:25 or [2001:db8::1]:25";
    let not_a_host = || Invalid::new(format!("{place:?} is not a host with a port"), remedy);
    let (host, port) = place.rsplit_once(':').ok_or_else(not_a_host)?;
    let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|port| digits_only && *port != 0).ok_or_else(not_a_host)?;
    let host = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(literal) => literal.parse::<IpAddr>().ok().filter(IpAddr::is_ipv6).map(|address| address.to_string()),
        None => DomainName.parse(host).ok(),
    };
    Ok((host.ok_or_else(not_a_host)?, port))
}

/// Domains of addresses may have letters of all scripts (RFC 6531 §3.3), and some have underscores.
fn is_mail_domain(domain: &str) -> bool {
    let is_letter = |character: char| character.is_alphanumeric() || matches!(character, '-' | '_');
    let label_ok = |label: &str| !label.is_empty() && label.chars().all(is_letter);
    domain.len() <= limits::DOMAIN_BYTES_MAX && domain.split('.').all(label_ok)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{DeliverTo, RouteTo};
    use crate::config::kind::Kind;
    use crate::relay::{Destination, LmtpAddress};

    fn relay(host: &str, port: u16, implicit_tls: bool) -> Destination {
        Destination::Relay { host: host.to_owned(), port, implicit_tls }
    }

    fn lmtp(host: &str, port: u16) -> Destination {
        Destination::Lmtp(LmtpAddress::Tcp { host: host.to_owned(), port })
    }

    fn problem(text: &str) -> String {
        let invalid = DeliverTo.parse(text).unwrap_err();
        format!("{}: {}", invalid.problem, invalid.remedy)
    }

    #[test]
    fn every_way_to_deliver_is_read_and_shown_as_it_is_written() {
        for (text, expected) in [
            ("discard", Destination::Discard),
            ("maildir:/var/mail", Destination::Maildir(PathBuf::from("/var/mail"))),
            ("relay:mx.example.org:25", relay("mx.example.org", 25, false)),
            ("relays:mx.example.org:465", relay("mx.example.org", 465, true)),
            ("relays:mx.example.org:25", relay("mx.example.org", 25, true)),
            ("relay:192.0.2.1:2525", relay("192.0.2.1", 2525, false)),
            ("relays:[2001:db8::1]:465", relay("2001:db8::1", 465, true)),
            ("lmtp:store:24", lmtp("store", 24)),
            ("lmtp:[::1]:24", lmtp("::1", 24)),
            ("lmtp:/run/dovecot/lmtp", Destination::Lmtp(LmtpAddress::Unix(PathBuf::from("/run/dovecot/lmtp")))),
            ("lmtp:./lmtp:1", Destination::Lmtp(LmtpAddress::Unix(PathBuf::from("./lmtp:1")))),
        ] {
            assert_eq!(DeliverTo.parse(text).as_ref(), Ok(&expected), "{text}");
            assert_eq!(DeliverTo.show(&expected), text);
        }
    }

    #[test]
    fn tls_comes_first_on_the_port_that_is_for_that() {
        assert_eq!(DeliverTo.parse("relay:mx:465"), Ok(relay("mx", 465, true)));
        assert_eq!(DeliverTo.parse("relay:mx:587"), Ok(relay("mx", 587, false)));
    }

    #[test]
    fn what_is_no_way_to_deliver_is_refused_with_all_that_are() {
        for text in ["maildir", "discard:", "Maildir:/m", "smtp:mx:25", "relay", "lmtp", ""] {
            let remedy = "use maildir:DIR, relay:HOST:PORT, relays:HOST:PORT, lmtp:HOST:PORT, lmtp:PATH or discard";
            assert_eq!(problem(text), format!("{text:?} is no way to deliver: {remedy}"));
        }
        assert!(problem("maildir:").starts_with("the path is empty"));
    }

    #[test]
    fn a_host_without_a_port_or_no_host_at_all_is_refused() {
        for place in [
            "mx",
            "mx:",
            "mx:0",
            "mx:65536",
            "mx:+25",
            "mx:25x",
            ":25",
            "::1:25",
            "[::1]",
            "[mx]:25",
            "[1.2.3.4]:25",
            "",
        ] {
            for way in ["relay", "relays", "lmtp"] {
                let expected = format!("{place:?} is not a host with a port: ");
                assert!(problem(&format!("{way}:{place}")).starts_with(&expected), "{way}:{place}");
            }
        }
    }

    #[test]
    fn a_route_is_a_domain_and_a_destination() {
        for (text, shown) in [
            ("Example.ORG=discard", "example.org=discard"),
            (".example.org=lmtp:store:24", ".example.org=lmtp:store:24"),
            ("EXÄMPLE.org=maildir:/m=1", "exämple.org=maildir:/m=1"),
            ("my_host=relay:mx:25", "my_host=relay:mx:25"),
        ] {
            let route = RouteTo.parse(text).unwrap();
            assert_eq!(RouteTo.show(&route), shown);
            assert_eq!(RouteTo.parse(shown), Ok(route));
        }
        for text in ["example.org", "=discard", ".=discard", "a..b=discard", "*=discard", "a@b=discard", "a=nonsense"] {
            assert!(RouteTo.parse(text).is_err(), "{text}");
        }
    }
}
