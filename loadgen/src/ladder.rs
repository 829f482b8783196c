//! The packets of one submission over a real link, in the manner of the draft's Appendix A.
//!
//! The packets say when what crossed the link; the client says what was inside, by its place in the stream.

use std::fmt::Write as _;

use onetrip::proto::client::Speaker;

use crate::arguments::LadderArguments;
use crate::far::{Far, Place, Submission, target};
use crate::packets::{Flight, SYN_NUMBER, flights};
use crate::random::Random;
use crate::real_link::Way;
use crate::single::Saying;

/// Carries out the command.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn run(arguments: &LadderArguments) -> Result<String, String> {
    let far = Far::start(&arguments.far)?;
    let target = target(&arguments.far, arguments.tls)?;
    let bytes = arguments.far.size.draw(&mut Random::new(1));
    let submission = far.submit(Place::Near, &target, arguments.scenario, bytes)?;
    let round_trip = far.profile.round_trip;
    let flights = flights(&submission.sightings, round_trip / 2);
    let mut text = format!("{} over a link of {} ms, {bytes} bytes\n\n", arguments.scenario, round_trip.as_millis());
    text.push_str(&draw(&flights, &submission.trip.sayings));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n{}", verdict(&submission, &flights, round_trip.as_secs_f64()));
    Ok(text)
}

fn verdict(submission: &Submission, flights: &[Flight], round_trip_s: f64) -> String {
    let mail =
        mail_packet(flights, &submission.trip.sayings).map_or_else(|| "none".to_owned(), |packet| packet.to_string());
    format!(
        "MAIL in the client's packet {mail}; final reply after {:.1} ms = {:.2} round trips",
        submission.took.as_secs_f64() * 1e3,
        submission.took.as_secs_f64() / round_trip_s.max(1e-9)
    )
}

/// The client's packet with which the server could read the first MAIL: in a SYN only the beginning of a long record may
/// have travelled.
pub(crate) fn mail_packet(flights: &[Flight], sayings: &[Saying]) -> Option<u32> {
    let mail =
        sayings.iter().find(|saying| saying.speaker == Speaker::Client && saying.text.starts_with("MAIL FROM:"))?;
    let up = || flights.iter().filter(|flight| flight.way == Way::Up);
    let first = up().find(|flight| holds(flight, mail))?;
    if first.number != SYN_NUMBER {
        return Some(first.number);
    }
    let end = end_of_data(&first.bytes);
    up().find(|flight| flight.begins + flight.bytes.len() as u64 >= end).map(|flight| flight.number)
}

/// Where the first record of data ends, in bytes from the beginning of the connection; 0 if there is none.
fn end_of_data(bytes: &[u8]) -> u64 {
    let mut at = 0;
    while let Some(&first) = bytes.get(at) {
        let rest = &bytes[at..];
        let next = match is_record(first) {
            true => at + RECORD_HEADER_BYTES + record_length(rest),
            false => at + rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |end| end + 1),
        };
        if first == 23 {
            return next as u64;
        }
        at = next;
    }
    0
}

/// Type, version and length (RFC 8446 §5.1).
const RECORD_HEADER_BYTES: usize = 5;

fn record_length(record: &[u8]) -> usize {
    record.get(3..5).map_or(0, |length| usize::from(u16::from_be_bytes([length[0], length[1]])))
}

fn holds(flight: &Flight, saying: &Saying) -> bool {
    let ends = flight.begins + flight.bytes.len() as u64;
    saying.connection == 0 && (flight.begins..ends).contains(&saying.offset)
}

fn draw(flights: &[Flight], sayings: &[Saying]) -> String {
    let mut text = String::from(" 1  C: TCP SYN\n");
    let mut encrypted = [false; 2];
    let mut flights = flights;
    let mut spoke_first = false;
    if let Some((first, rest)) = flights.split_first()
        && first.number == SYN_NUMBER
    {
        for line in words(first, sayings, &mut encrypted[1]) {
            let _ = writeln!(text, "       {line}");
        }
        flights = rest;
        spoke_first = true;
    }
    text.push_str("    S: SYN/ACK\n");
    if !spoke_first && flights.first().is_none_or(|flight| flight.way == Way::Down) {
        text.push_str(" 2  C: ACK\n");
    }
    for flight in flights {
        let lines = words(flight, sayings, &mut encrypted[usize::from(flight.way == Way::Up)]);
        let (number, letter) = match flight.way {
            Way::Up => (format!("{:>2}", flight.number), 'C'),
            Way::Down => ("  ".to_owned(), 'S'),
        };
        let with_ack = flight.number == 2 && text.ends_with("S: SYN/ACK\n");
        let lines = with_ack.then(|| "ACK".to_owned()).into_iter().chain(lines);
        for (index, line) in lines.enumerate() {
            let start = if index == 0 { format!("{number}  {letter}: ") } else { " ".repeat(7) };
            let _ = writeln!(text, "{start}{line}");
        }
        if flight.packets > 1 {
            let _ = writeln!(text, "       ({} packets)", flight.packets);
        }
        if flight.way == Way::Down && lines_end(flight, sayings) {
            break;
        }
    }
    text
}

/// Is this the flight after which the client says QUIT?
fn lines_end(flight: &Flight, sayings: &[Saying]) -> bool {
    let quit = sayings.iter().position(|saying| saying.speaker == Speaker::Client && saying.text == "QUIT");
    let last = quit.and_then(|quit| sayings[..quit].iter().rfind(|saying| saying.speaker == Speaker::Server));
    last.is_some_and(|saying| holds(flight, saying))
}

fn words(flight: &Flight, sayings: &[Saying], encrypted: &mut bool) -> Vec<String> {
    let speaker = if flight.way == Way::Up { Speaker::Client } else { Speaker::Server };
    let said = sayings.iter().filter(|saying| saying.speaker == speaker && holds(flight, saying));
    let mut said = shortened(said.map(|saying| saying.text.as_str()));
    let mut shaken = handshake(&flight.bytes, encrypted);
    let begins_in_plain = flight.bytes.first().is_some_and(|&byte| !is_record(byte));
    if begins_in_plain {
        said.append(&mut shaken);
        return said;
    }
    shaken.append(&mut said);
    if shaken.is_empty() {
        let silent = match flight.way {
            Way::Up => "TLS records without a word for the server (the end of the handshake)",
            Way::Down => "TLS records without a word for the client (tickets)",
        };
        shaken.push(silent.to_owned());
    }
    shaken
}

/// Of a reply of several lines the first one and how many there are: lists are long, and the client sees some words of them
/// disguised.
fn shortened<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut short: Vec<String> = Vec::new();
    let mut count = 0;
    for line in lines {
        let goes_on = line.as_bytes().get(3) == Some(&b'-') && line.as_bytes()[0].is_ascii_digit();
        count += 1;
        match (goes_on, count) {
            (_, 1) => short.push(line.to_owned()),
            (true, _) => {}
            (false, _) => {
                if let Some(first) = short.last_mut() {
                    first.push_str(&format!(" … ({count} lines)"));
                }
            }
        }
        count = if goes_on { count } else { 0 };
    }
    short
}

const fn is_record(byte: u8) -> bool {
    matches!(byte, 20..=23)
}

/// What of a TLS handshake is in these bytes. `encrypted` says whether this side has begun to encrypt.
fn handshake(bytes: &[u8], encrypted: &mut bool) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    let mut rest = bytes;
    let mut began_here = false;
    while let Some(&first) = rest.first() {
        if !is_record(first) {
            let end = rest.iter().position(|&byte| byte == b'\n').map_or(rest.len(), |at| at + 1);
            rest = &rest[end..];
            continue;
        }
        let length = record_length(rest);
        let record = rest.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length).unwrap_or_default();
        let found = match (first, *encrypted) {
            (20, _) => {
                (*encrypted, began_here) = (true, true);
                vec!["change cipher"]
            }
            (22, true) => vec!["finish handshake"],
            (22, false) => message_names(record),
            // In TLS 1.3 the end of the handshake looks like any other data.
            (23, true) if began_here => vec!["finish handshake"],
            _ => Vec::new(),
        };
        for name in found {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        rest = rest.get(RECORD_HEADER_BYTES + length..).unwrap_or_default();
    }
    if names.is_empty() { Vec::new() } else { vec![format!("TLS {}", names.join(", "))] }
}

/// The handshake messages of one record (RFC 8446 §4: a type, and a length of three bytes).
fn message_names(record: &[u8]) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut rest = record;
    while let Some(&kind) = rest.first() {
        names.push(message_name(kind));
        let length =
            rest.get(1..4).map_or(0, |length| u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize);
        rest = rest.get(4 + length..).unwrap_or_default();
    }
    names
}

const fn message_name(kind: u8) -> &'static str {
    match kind {
        1 => "client hello",
        2 => "server hello",
        4 => "ticket",
        11 => "certificate",
        12 | 16 => "key exchange",
        14 => "hello done",
        _ => "handshake",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use onetrip::proto::client::Speaker;

    use super::{draw, handshake, mail_packet, shortened};
    use crate::packets::Flight;
    use crate::real_link::Way;
    use crate::single::Saying;

    fn flight(way: Way, number: u32, begins: u64, bytes: &[u8]) -> Flight {
        Flight { way, at: Instant::now(), packets: 1, begins, bytes: bytes.to_vec(), number }
    }

    fn saying(speaker: Speaker, offset: u64, text: &str) -> Saying {
        Saying { speaker, connection: 0, offset, text: text.to_owned() }
    }

    #[test]
    fn a_ladder_names_what_each_packet_carried_and_ends_with_the_final_reply() {
        let flights = [
            flight(Way::Up, 2, 0, b"QHLO a b\r\n\x16\x03\x01\x00\x01\x01"),
            flight(Way::Down, 0, 0, b"220 a\r\n\x16\x03\x03\x00\x01\x02"),
            flight(Way::Up, 3, 16, b"\x17\x03\x03\x00\x01x"),
            flight(Way::Down, 0, 13, b"\x17\x03\x03\x00\x01x"),
            flight(Way::Up, 4, 22, b"\x17\x03\x03\x00\x01x"),
        ];
        let sayings = [
            saying(Speaker::Client, 0, "QHLO a b"),
            saying(Speaker::Server, 0, "220 a"),
            saying(Speaker::Client, 16, "MAIL FROM:<a@b>"),
            saying(Speaker::Server, 13, "250 ok"),
            saying(Speaker::Client, 22, "QUIT"),
        ];
        assert_eq!(mail_packet(&flights, &sayings), Some(3));
        let expected = " 1  C: TCP SYN\n    S: SYN/ACK\n 2  C: ACK\n       QHLO a b\n       TLS client hello\n    S: 220 a\n       \
                        TLS server hello\n 3  C: MAIL FROM:<a@b>\n    S: 250 ok\n";
        assert_eq!(draw(&flights, &sayings), expected);
    }

    #[test]
    fn what_a_syn_carries_is_drawn_with_it_and_mail_counts_where_its_record_ends() {
        let hello: &[u8] = b"QHLO a b\r\n\x16\x03\x01\x00\x01\x01\x17\x03\x03\x00\x04ab";
        let flights = [
            flight(Way::Up, 1, 0, hello),
            flight(Way::Up, 2, hello.len() as u64, b"cd"),
            flight(Way::Down, 0, 0, b"220 a\r\n\x17\x03\x03\x00\x01x"),
        ];
        let sayings = [
            saying(Speaker::Client, 0, "QHLO a b"),
            saying(Speaker::Client, 0, "MAIL FROM:<a@b>"),
            saying(Speaker::Server, 0, "220 a"),
        ];
        assert_eq!(mail_packet(&flights, &sayings), Some(2));
        let whole = [flight(Way::Up, 1, 0, &[hello, b"cd"].concat())];
        assert_eq!(mail_packet(&whole, &sayings), Some(1));
        let expected =
            " 1  C: TCP SYN\n       QHLO a b\n       MAIL FROM:<a@b>\n       TLS client hello\n    S: SYN/ACK\n";
        assert!(draw(&flights, &sayings).starts_with(expected), "{}", draw(&flights, &sayings));
    }

    #[test]
    fn all_messages_of_a_record_are_named_and_long_replies_are_shortened() {
        let record = b"\x16\x03\x03\x00\x0d\x02\x00\x00\x01x\x0b\x00\x00\x00\x0e\x00\x00\x00";
        assert_eq!(handshake(record, &mut false), ["TLS server hello, certificate, hello done"]);
        let lines = ["220-a", "220-B", "220 C", "250 ok", "AUTH PLAIN (hidden)"];
        assert_eq!(shortened(lines.into_iter()), ["220-a … (3 lines)", "250 ok", "AUTH PLAIN (hidden)"]);
    }

    #[test]
    fn the_end_of_a_handshake_is_named_in_both_versions_and_data_is_not() {
        let change: &[u8] = b"\x14\x03\x03\x00\x01\x01";
        let mut encrypted = false;
        let tls13 = [change, b"\x17\x03\x03\x00\x01x"].concat();
        assert_eq!(handshake(&tls13, &mut encrypted), ["TLS change cipher, finish handshake"]);
        assert!(handshake(b"\x17\x03\x03\x00\x01x", &mut encrypted).is_empty());
        let tls12 = [b"\x16\x03\x03\x00\x01\x10", change, b"\x16\x03\x03\x00\x01x"].concat();
        let words = handshake(&tls12, &mut false);
        assert_eq!(words, ["TLS key exchange, change cipher, finish handshake"]);
    }
}
