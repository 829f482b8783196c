//! Packets as they crossed a link, read as flights of one TCP connection.
//!
//! Pure. `ladder` puts words to them.

use std::time::{Duration, Instant};

use crate::real_link::{Sighting, Way};

/// TCP's flag that begins a connection.
const SYN: u8 = 0x02;

/// The number of the SYN among the client's packets. What it carries is a flight of its own: what follows had to wait for
/// the SYN-ACK.
pub(crate) const SYN_NUMBER: u32 = 1;

/// Bytes of one direction that followed each other without any from the other side in between, as the client saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    /// Which way it went.
    pub(crate) way: Way,
    /// When its first packet left the client or reached it.
    pub(crate) at: Instant,
    /// Packets that carried it.
    pub(crate) packets: u32,
    /// Bytes of this direction before it.
    pub(crate) begins: u64,
    /// The bytes.
    pub(crate) bytes: Vec<u8>,
    /// The client's packet as the draft's Appendix A counts: the SYN is 1, the ACK of the handshake and what is sent with it
    /// are one packet, bare acknowledgements after that do not count, and a flight of several packets counts once. 0 for the
    /// server's.
    pub(crate) number: u32,
}

/// What is needed of one packet.
struct Segment<'a> {
    client_port: u16,
    sequence: u32,
    flags: u8,
    payload: &'a [u8],
}

/// The flights of the first connection among these packets. `delay` is that of the link, one way.
pub(crate) fn flights(sightings: &[Sighting], delay: Duration) -> Vec<Flight> {
    let mut packets: Vec<_> = sightings
        .iter()
        .filter_map(|sighting| {
            let segment = read(&sighting.packet, sighting.way)?;
            let seen = if sighting.way == Way::Down { sighting.at + delay } else { sighting.at };
            Some((seen, sighting.way, segment))
        })
        .collect();
    packets.sort_by_key(|&(seen, ..)| seen);
    let mut collector = Collector::default();
    let port = packets
        .iter()
        .find(|(_, way, segment)| *way == Way::Up && segment.flags & SYN != 0)
        .map(|(_, _, segment)| segment.client_port);
    for (seen, way, segment) in packets.iter().filter(|(_, _, segment)| Some(segment.client_port) == port) {
        collector.take(*seen, *way, segment);
    }
    collector.flights
}

#[derive(Default)]
struct Collector {
    flights: Vec<Flight>,
    /// Sequence number of the first byte, and bytes seen, of each direction.
    up: Stream,
    down: Stream,
    number: u32,
}

#[derive(Clone, Copy, Default)]
struct Stream {
    first: u32,
    seen: u64,
}

impl Collector {
    fn take(&mut self, seen: Instant, way: Way, segment: &Segment<'_>) {
        let stream = if way == Way::Up { &mut self.up } else { &mut self.down };
        let is_syn = segment.flags & SYN != 0;
        // The SYN takes a number of the sequence, and what it carries comes behind it.
        let sequence = segment.sequence.wrapping_add(u32::from(is_syn));
        if is_syn {
            stream.first = sequence;
        }
        // A packet that was sent again adds nothing.
        let offset = u64::from(sequence.wrapping_sub(stream.first));
        if segment.payload.is_empty() || offset != stream.seen {
            return;
        }
        stream.seen += segment.payload.len() as u64;
        if self.flights.last().is_none_or(|flight| flight.way != way || flight.number == SYN_NUMBER) {
            let number = if is_syn { self.begin_with_syn() } else { self.next_number(way) };
            self.flights.push(Flight { way, at: seen, packets: 0, begins: offset, bytes: Vec::new(), number });
        }
        if let Some(flight) = self.flights.last_mut() {
            flight.packets += 1;
            flight.bytes.extend_from_slice(segment.payload);
        }
    }

    fn begin_with_syn(&mut self) -> u32 {
        self.number = SYN_NUMBER;
        self.number
    }

    fn next_number(&mut self, way: Way) -> u32 {
        if way == Way::Down {
            return 0;
        }
        // The SYN was 1. The ACK was 2, alone if the server spoke first.
        self.number = match (self.number, self.flights.is_empty()) {
            (0, true) => 2,
            (0, false) => 3,
            (number, _) => number + 1,
        };
        self.number
    }
}

fn read(packet: &[u8], way: Way) -> Option<Segment<'_>> {
    const TCP: u8 = 6;
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total_bytes = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    if packet[0] >> 4 != 4 || *packet.get(9)? != TCP {
        return None;
    }
    let tcp = packet.get(header_bytes..total_bytes)?;
    let port = |at: usize| tcp.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let client_port = if way == Way::Up { port(0)? } else { port(2)? };
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    Some(Segment { client_port, sequence, flags: *tcp.get(13)?, payload })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::flights;
    use crate::real_link::{Sighting, Way};

    fn sighting(at: Instant, way: Way, sequence: u32, flags: u8, payload: &[u8]) -> Sighting {
        let mut packet = vec![0; 40];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(40 + payload.len() as u16).to_be_bytes());
        packet[9] = 6;
        let (source, destination) = if way == Way::Up { (20..22, 22..24) } else { (22..24, 20..22) };
        packet[source].copy_from_slice(&4_000_u16.to_be_bytes());
        packet[destination].copy_from_slice(&25_u16.to_be_bytes());
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = flags;
        packet.extend_from_slice(payload);
        Sighting { at, way, packet }
    }

    fn numbers(speaks_first: Way) -> Vec<(Way, u32, u32)> {
        let begun = Instant::now();
        let ms = |ms| begun + Duration::from_millis(ms);
        let mut seen = vec![
            sighting(ms(0), Way::Up, u32::MAX, 2, b""),
            sighting(ms(100), Way::Down, 500, 0x12, b""),
            sighting(ms(200), Way::Up, 0, 0x10, b""),
        ];
        match speaks_first {
            Way::Up => seen.push(sighting(ms(201), Way::Up, 0, 0x18, b"QHLO")),
            Way::Down => seen.extend([
                sighting(ms(300), Way::Down, 501, 0x18, b"220"),
                sighting(ms(400), Way::Up, 0, 0x18, b"EH"),
                sighting(ms(401), Way::Up, 0, 0x18, b"EH"),
                sighting(ms(402), Way::Up, 2, 0x18, b"LO"),
            ]),
        }
        flights(&seen, Duration::from_millis(100))
            .into_iter()
            .map(|flight| (flight.way, flight.number, flight.packets))
            .collect()
    }

    #[test]
    fn what_leaves_with_the_ack_is_packet_two() {
        assert_eq!(numbers(Way::Up), [(Way::Up, 2, 1)]);
    }

    #[test]
    fn after_the_servers_greeting_the_client_is_at_packet_three_and_repeated_packets_add_nothing() {
        assert_eq!(numbers(Way::Down), [(Way::Down, 0, 1), (Way::Up, 3, 2)]);
    }

    #[test]
    fn what_the_syn_carries_is_packet_one_and_what_had_to_wait_for_its_answer_is_packet_two() {
        let begun = Instant::now();
        let ms = |ms| begun + Duration::from_millis(ms);
        let seen = [
            sighting(ms(0), Way::Up, u32::MAX, 2, b"QHLO"),
            sighting(ms(100), Way::Down, 500, 0x12, b""),
            sighting(ms(200), Way::Up, 4, 0x18, b"MAIL"),
            sighting(ms(300), Way::Down, 501, 0x18, b"220"),
            sighting(ms(500), Way::Up, 8, 0x18, b"QUIT"),
        ];
        let found: Vec<_> = flights(&seen, Duration::from_millis(100))
            .into_iter()
            .map(|flight| (flight.number, flight.begins, flight.bytes))
            .collect();
        let expected: [(u32, u64, &[u8]); 4] = [(1, 0, b"QHLO"), (2, 4, b"MAIL"), (0, 0, b"220"), (3, 8, b"QUIT")];
        assert_eq!(found, expected.map(|(number, begins, bytes)| (number, begins, bytes.to_vec())));
    }

    #[test]
    fn packets_that_are_none_are_ignored() {
        let at = Instant::now();
        for packet in [vec![], vec![0x45; 10], vec![0x60; 60], vec![0x45; 19]] {
            assert!(flights(&[Sighting { at, way: Way::Up, packet }], Duration::ZERO).is_empty());
        }
    }
}
