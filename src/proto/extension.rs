//! What the server announces: the list of extensions at each QUICKSTART point, and the texts that carry it.
//!
//! The list of a point is one and the same in the greeting, in the answer to EHLO and in the 521, so that one qhlo-id names
//! it in all three. The texts are built once per point; for a client only the id is written into its place.

use std::fmt::Write;

use ring::digest;

use super::qhlo_id::{Point, QhloId};

/// What a list depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The server's name: first word of every text.
    pub hostname: String,
    /// `SIZE` in octets (RFC 1870).
    pub message_bytes_max: u64,
    /// `LIMITS RCPTMAX` (RFC 9422).
    pub recipients_max: u32,
    /// `LIMITS MAILMAX`.
    pub messages_max: u32,
    /// Is an early EHLO welcome in clear text? Not where clients are made to wait for the greeting.
    pub early_ehlo: bool,
    /// May commands come in the early data of TLS 1.3 (`XEARLYDATA`)?
    pub early_data: bool,
    /// Are messages that bear a token taken once (`XONCE`)?
    pub once: bool,
}

/// The ready texts of one point.
#[derive(Clone, Debug)]
pub struct Listing {
    point: Point,
    digest: [u8; 32],
    once: bool,
    greeting: Template,
    ehlo: Template,
    refusal: Template,
}

/// Text with a place for an id.
#[derive(Clone, Debug)]
struct Template {
    text: String,
    id_at: usize,
}

impl Listing {
    /// Builds the texts of a point.
    pub fn new(offer: &Offer, point: Point) -> Self {
        let keywords = keywords(offer, point);
        let hostname = &offer.hostname;
        let exact = keywords.join("\n");
        let mut list_digest = [0; 32];
        list_digest.copy_from_slice(digest::digest(&digest::SHA256, exact.as_bytes()).as_ref());
        Self {
            point,
            digest: list_digest,
            once: offer.once,
            greeting: Template::new("220", &format!("{hostname} ESMTP onetrip"), &keywords),
            ehlo: Template::new("250", hostname, &keywords),
            refusal: Template::new("521", hostname, &keywords),
        }
    }

    /// The point that this list belongs to.
    pub fn point(&self) -> Point {
        self.point
    }

    /// A digest of the exact list, all parameters but the id.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Are messages that bear a token taken once (`XONCE`)? What is announced is kept.
    pub fn takes_once(&self) -> bool {
        self.once
    }

    /// Appends the extended greeting (draft §4).
    pub fn write_greeting(&self, id: &QhloId, out: &mut Vec<u8>) {
        self.greeting.write(id, out);
    }

    /// Appends the answer to EHLO (RFC 5321 §4.1.1.1).
    pub fn write_ehlo(&self, id: &QhloId, out: &mut Vec<u8>) {
        self.ehlo.write(id, out);
    }

    /// Appends the refusal of a qhlo-id where the list has not been given yet (draft §8).
    pub fn write_refusal(&self, id: &QhloId, out: &mut Vec<u8>) {
        self.refusal.write(id, out);
    }
}

const ID_PLACE: &str = "QHLO=";

fn keywords(offer: &Offer, point: Point) -> Vec<String> {
    let early_data = if offer.early_data { "XEARLYDATA " } else { "" };
    let mut keywords = vec![match point {
        // A parameter says what can be done at this point: AUTH is offered inside TLS only, STARTTLS outside.
        Point::Connect => format!("QUICKSTART QTLS STARTTLS {early_data}{ID_PLACE}"),
        Point::Secured => format!("QUICKSTART AUTH {early_data}{ID_PLACE}"),
    }];
    let mut add = |keyword: &str| keywords.push(keyword.to_owned());
    add("PIPELINING");
    match point {
        Point::Connect => add("STARTTLS"),
        Point::Secured => add("AUTH PLAIN LOGIN"),
    }
    if point == Point::Secured || offer.early_ehlo {
        add("PIPECONNECT");
    }
    add("8BITMIME");
    add("CHUNKING");
    add("BINARYMIME");
    add("SMTPUTF8");
    add("DSN");
    if point == Point::Secured {
        // RFC 8689 §4.1: inside TLS only.
        add("REQUIRETLS");
    }
    if offer.once {
        add("XONCE");
    }
    add("ENHANCEDSTATUSCODES");
    add(&format!("SIZE {}", offer.message_bytes_max));
    add(&format!("LIMITS MAILMAX={} RCPTMAX={}", offer.messages_max, offer.recipients_max));
    add("HELP");
    keywords
}

impl Template {
    fn new(code: &str, first: &str, keywords: &[String]) -> Self {
        let mut text = format!("{code}-{first}\r\n");
        for (at, keyword) in keywords.iter().enumerate() {
            let separator = if at + 1 == keywords.len() { ' ' } else { '-' };
            // Writing to a string cannot fail.
            let _ = write!(text, "{code}{separator}{keyword}\r\n");
        }
        let id_at = text.find(ID_PLACE).map_or(text.len(), |at| at + ID_PLACE.len());
        Self { text, id_at }
    }

    fn write(&self, id: &QhloId, out: &mut Vec<u8>) {
        let (before, after) = self.text.split_at(self.id_at);
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(id.as_bytes());
        out.extend_from_slice(after.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::{Listing, Offer, Point};
    use crate::proto::qhlo_id::{Binding, QhloIds, Subject};

    fn offer() -> Offer {
        Offer {
            hostname: "mail.example".to_owned(),
            message_bytes_max: 1_000,
            recipients_max: 100,
            messages_max: 10,
            early_ehlo: true,
            early_data: false,
            once: false,
        }
    }

    fn text(listing: &Listing, write: impl Fn(&Listing, &crate::proto::qhlo_id::QhloId, &mut Vec<u8>)) -> String {
        let subject = Subject {
            point: listing.point(),
            list_digest: listing.digest(),
            server: "::1".parse().unwrap(),
            client: "::1".parse().unwrap(),
        };
        let id = QhloIds::new(&[0; 32], None, Binding::None).issue(&subject);
        let mut out = Vec::new();
        write(listing, &id, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_extended_greeting_has_the_form_of_an_ehlo_answer() {
        let greeting = text(&Listing::new(&offer(), Point::Connect), Listing::write_greeting);
        let lines: Vec<&str> = greeting.split_terminator("\r\n").collect();
        assert_eq!(lines[0], "220-mail.example ESMTP onetrip");
        let (last, others) = lines.split_last().unwrap();
        assert!(others.iter().all(|line| line.starts_with("220-")) && last.starts_with("220 "));
        assert!(lines[1].starts_with("220-QUICKSTART QTLS STARTTLS QHLO=") && lines[1].len() == 34 + 16);
        assert!(lines.contains(&"220-PIPELINING"));
    }

    #[test]
    fn all_three_texts_of_a_point_carry_the_same_list() {
        let listing = Listing::new(&offer(), Point::Secured);
        let list = |text: String| text.lines().skip(1).map(|line| line[4..].to_owned()).collect::<Vec<_>>();
        let greeting = list(text(&listing, Listing::write_greeting));
        assert_eq!(list(text(&listing, Listing::write_ehlo)), greeting);
        assert_eq!(list(text(&listing, Listing::write_refusal)), greeting);
    }

    #[test]
    fn auth_is_announced_inside_tls_only_and_starttls_outside_only() {
        let connect = text(&Listing::new(&offer(), Point::Connect), Listing::write_ehlo);
        let secured = text(&Listing::new(&offer(), Point::Secured), Listing::write_ehlo);
        assert!(!connect.contains("AUTH") && connect.contains("250-STARTTLS\r\n"));
        assert!(
            secured.contains("250-AUTH PLAIN LOGIN\r\n") && !secured.contains("STARTTLS") && !secured.contains("QTLS")
        );
    }

    #[test]
    fn different_lists_have_different_digests() {
        let one = Listing::new(&offer(), Point::Connect);
        let other = Listing::new(&Offer { message_bytes_max: 1_001, ..offer() }, Point::Connect);
        assert_ne!(one.digest(), other.digest());
        assert_ne!(one.digest(), Listing::new(&offer(), Point::Secured).digest());
    }

    #[test]
    fn early_data_and_tokens_are_announced_where_they_are_taken() {
        let all = Offer { early_data: true, once: true, ..offer() };
        for point in [Point::Connect, Point::Secured] {
            let (with, without) = (Listing::new(&all, point), Listing::new(&offer(), point));
            let (with, without) = (text(&with, Listing::write_ehlo), text(&without, Listing::write_ehlo));
            assert!(with.contains(" XEARLYDATA QHLO=") && with.contains("250-XONCE\r\n"), "{with}");
            assert!(!without.contains("XEARLYDATA") && !without.contains("XONCE"), "{without}");
        }
    }

    #[test]
    fn an_early_ehlo_is_not_invited_where_clients_must_wait() {
        let wait = Offer { early_ehlo: false, ..offer() };
        assert!(!text(&Listing::new(&wait, Point::Connect), Listing::write_ehlo).contains("PIPECONNECT"));
        assert!(text(&Listing::new(&wait, Point::Secured), Listing::write_ehlo).contains("PIPECONNECT"));
    }
}
