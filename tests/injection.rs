//! Commands that somebody placed behind STARTTLS or QTLS in the clear are given to TLS, and are never carried out.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use onetrip::proto::server::Opening;
use support::Site;

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const INJECTED: &[u8] = b"NOOP\r\nMAIL FROM:<eve@example.org>\r\nRCPT TO:<bob@example.org>\r\nQUIT\r\n";

/// What the server sends behind its greeting when `command` and `injected` arrive cut in two.
fn answer(site: &Site, command: &[u8], injected: &[u8], cut: usize) -> (Vec<u8>, bool) {
    let mut driver = site.connect(Opening::Clear);
    let greeting = driver.receive(&[]);
    assert!(greeting.ends_with(b"220 HELP\r\n"));
    let packet = [command, injected].concat();
    let sent = driver.receive(&[&packet[..cut], &packet[cut..]]);
    (sent, driver.closed)
}

/// Takes one TLS record from the front. `None` unless it is all that there is.
fn only_record(bytes: &[u8]) -> Option<u8> {
    let header = bytes.get(..5)?;
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    (bytes.len() == 5 + length).then_some(header[0])
}

#[test]
fn commands_behind_starttls_in_the_clear_are_never_carried_out() {
    let site = Site::new();
    let (starttls, qtls) = (&b"STARTTLS\r\n"[..], &b"QTLS\r\n"[..]);
    for (command, reply) in [(starttls, &b"220 2.0.0 Ready to start TLS\r\n"[..]), (qtls, &b""[..])] {
        for cut in 0..=command.len() + INJECTED.len() {
            let (sent, closed) = answer(&site, command, INJECTED, cut);
            let behind = sent.strip_prefix(reply).unwrap();
            assert_eq!(only_record(behind), Some(ALERT), "cut at {cut}: {}", String::from_utf8_lossy(&sent));
            assert!(closed, "cut at {cut}");
        }
    }
}

#[test]
fn an_injected_handshake_record_gets_no_reply_of_smtp_either() {
    let record = [&[HANDSHAKE, 3, 1, 0, 6][..], b"QUIT\r\n", b"QUIT\r\n"].concat();
    let (sent, _) = answer(&Site::new(), b"QTLS\r\n", &record, 0);
    assert!(!sent.windows(4).any(|bytes| bytes == b"221 "), "{sent:?}");
}
