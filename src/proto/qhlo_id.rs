//! The qhlo-id (draft §8, §12): proof that a client has been here before and knows the list of extensions.
//!
//! It is a keyed digest over the QUICKSTART point, the exact list, the server's address and as much of the client's
//! address as the site wants to bind. The server remembers nothing about any client: it makes the id again and
//! compares. Secrets come from outside; none is made here.

use std::net::{IpAddr, Ipv6Addr};

use data_encoding::BASE64URL_NOPAD;
use ring::hmac;

/// A point at which a client may issue commands early (draft §8). SASL security layers are not offered, so there is no
/// third.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Point {
    /// The start of a connection in clear text.
    Connect,
    /// Inside TLS: after STARTTLS, after QTLS, or at the start of an implicit-TLS connection.
    Secured,
}

/// How much of the client's address an id is bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// All of it: an id is of no use to anybody else.
    #[default]
    Address,
    /// Its network (/24 for IPv4, /56 for IPv6): a client may change its address within it.
    Network,
    /// Nothing: clients that roam keep their id, and could pass it on.
    None,
}

/// 96 bits of HMAC-SHA-256 in base64url: fits `esmtp-value`, has no `=`, needs no quoting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QhloId([u8; QhloId::LENGTH]);

impl QhloId {
    /// Characters of an id.
    pub const LENGTH: usize = 16;
    const DIGEST_BYTES: usize = 12;

    /// The id's characters.
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// What an id is made of.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Where in the connection.
    pub point: Point,
    /// A digest of the exact list of extensions with all parameters but the id.
    pub list_digest: &'a [u8; 32],
    /// The address that the client connected to.
    pub server: IpAddr,
    /// The client's address.
    pub client: IpAddr,
}

/// Makes and checks ids.
#[derive(Clone, Debug)]
pub struct QhloIds {
    current: hmac::Key,
    previous: Option<hmac::Key>,
    binding: Binding,
}

impl QhloIds {
    /// Bytes of a secret.
    pub const SECRET_BYTES: usize = 32;

    /// Issues ids with the `current` secret, and still takes those of the `previous` one.
    pub fn new(
        current: &[u8; Self::SECRET_BYTES],
        previous: Option<&[u8; Self::SECRET_BYTES]>,
        binding: Binding,
    ) -> Self {
        let key = |secret: &[u8; Self::SECRET_BYTES]| hmac::Key::new(hmac::HMAC_SHA256, secret);
        Self { current: key(current), previous: previous.map(key), binding }
    }

    /// The id to state.
    pub fn issue(&self, subject: &Subject<'_>) -> QhloId {
        self.digest(&self.current, subject)
    }

    /// Is `presented` the id that this client would be told, or would have been told before the secret was changed?
    pub fn matches(&self, subject: &Subject<'_>, presented: &[u8]) -> bool {
        let Ok(presented) = <&[u8; QhloId::LENGTH]>::try_from(presented) else {
            return false;
        };
        [Some(&self.current), self.previous.as_ref()]
            .into_iter()
            .flatten()
            .any(|key| same(&self.digest(key, subject).0, presented))
    }

    fn digest(&self, key: &hmac::Key, subject: &Subject<'_>) -> QhloId {
        let mut context = hmac::Context::with_key(key);
        context.update(&[match subject.point {
            Point::Connect => b'c',
            Point::Secured => b's',
        }]);
        context.update(subject.list_digest);
        context.update(&canonical(subject.server).octets());
        context.update(&self.bound_part(subject.client).octets());
        let tag = context.sign();
        let mut id = [0; QhloId::LENGTH];
        BASE64URL_NOPAD.encode_mut(&tag.as_ref()[..QhloId::DIGEST_BYTES], &mut id);
        QhloId(id)
    }

    fn bound_part(&self, client: IpAddr) -> Ipv6Addr {
        let bits = match (self.binding, client.to_canonical()) {
            (Binding::Address, _) => 128,
            (Binding::Network, IpAddr::V4(_)) => 96 + 24,
            (Binding::Network, IpAddr::V6(_)) => 56,
            (Binding::None, _) => 0,
        };
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        Ipv6Addr::from_bits(canonical(client).to_bits() & mask)
    }
}

/// One form for both families: an IPv4 client is the same client when it comes through an IPv6 socket.
fn canonical(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Compares in a time that does not tell how much was right.
fn same(ours: &[u8; QhloId::LENGTH], theirs: &[u8; QhloId::LENGTH]) -> bool {
    ours.iter().zip(theirs).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Binding, Point, QhloIds, Subject};

    const LIST: [u8; 32] = [7; 32];

    fn subject(client: &str) -> Subject<'static> {
        Subject {
            point: Point::Connect,
            list_digest: &LIST,
            server: "192.0.2.1".parse().unwrap(),
            client: client.parse().unwrap(),
        }
    }

    fn ids(binding: Binding) -> QhloIds {
        QhloIds::new(&[1; 32], None, binding)
    }

    #[test]
    fn an_id_is_good_for_its_own_subject() {
        let ids = ids(Binding::Address);
        let id = ids.issue(&subject("198.51.100.7"));
        assert!(ids.matches(&subject("198.51.100.7"), id.as_bytes()));
        assert!(id.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(byte)));
    }

    #[test]
    fn an_id_is_good_for_no_other_subject() {
        let ids = ids(Binding::Address);
        let id = ids.issue(&subject("198.51.100.7"));
        let other_list = [8; 32];
        let others = [
            subject("198.51.100.8"),
            Subject { point: Point::Secured, ..subject("198.51.100.7") },
            Subject { list_digest: &other_list, ..subject("198.51.100.7") },
            Subject { server: "192.0.2.2".parse().unwrap(), ..subject("198.51.100.7") },
        ];
        for other in others {
            assert!(!ids.matches(&other, id.as_bytes()), "{other:?}");
        }
    }

    #[test]
    fn a_guess_of_any_length_is_wrong() {
        let ids = ids(Binding::None);
        for guess in [&b""[..], b"x", b"AAAAAAAAAAAAAAAA", &[0; 4096]] {
            assert!(!ids.matches(&subject("198.51.100.7"), guess));
        }
    }

    #[test]
    fn the_binding_says_how_far_a_client_may_move() {
        for (binding, near, far) in
            [(Binding::Address, false, false), (Binding::Network, true, false), (Binding::None, true, true)]
        {
            let ids = ids(binding);
            let id = ids.issue(&subject("198.51.100.7"));
            assert_eq!(ids.matches(&subject("198.51.100.200"), id.as_bytes()), near, "{binding:?}");
            assert_eq!(ids.matches(&subject("198.51.101.7"), id.as_bytes()), far, "{binding:?}");
            let id = ids.issue(&subject("2001:db8:0:1100::1"));
            assert_eq!(ids.matches(&subject("2001:db8:0:11ff::2"), id.as_bytes()), near, "{binding:?}");
            assert_eq!(ids.matches(&subject("2001:db8:0:1200::1"), id.as_bytes()), far, "{binding:?}");
        }
    }

    #[test]
    fn a_client_is_the_same_through_a_mapped_address() {
        let ids = ids(Binding::Network);
        let id = ids.issue(&subject("198.51.100.7"));
        assert!(ids.matches(&subject("::ffff:198.51.100.9"), id.as_bytes()));
        let client: IpAddr = "::ffff:198.51.101.9".parse().unwrap();
        assert!(!ids.matches(&Subject { client, ..subject("::1") }, id.as_bytes()));
    }

    #[test]
    fn the_previous_secret_stays_good_and_the_one_before_does_not() {
        let old = QhloIds::new(&[1; 32], None, Binding::Address).issue(&subject("::1"));
        let rotated = QhloIds::new(&[2; 32], Some(&[1; 32]), Binding::Address);
        assert!(rotated.matches(&subject("::1"), old.as_bytes()));
        assert_ne!(rotated.issue(&subject("::1")), old);
        let again = QhloIds::new(&[3; 32], Some(&[2; 32]), Binding::Address);
        assert!(!again.matches(&subject("::1"), old.as_bytes()));
    }
}
