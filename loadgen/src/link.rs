//! A client's own link, in virtual time: what it sends arrives, and what it receives is seen, half a round trip later.
//!
//! The model has what decides how long a submission takes:
//!
//! * a delay of half the round trip each way, with jitter that never reorders;
//! * the handshake of TCP: the client may speak one round trip after its SYN, and the server sees a connection, and the
//!   client's first bytes, half a round trip after that; with Fast Open (RFC 7413) what fits the SYN arrives with it;
//! * slow start: ten segments (RFC 6928) may be on their way unacknowledged at first, and each acknowledged byte makes
//!   room for one more, so the room doubles in each round trip;
//! * bandwidth: bytes leave one after the other, headers with each segment.
//!
//! It has no loss, no queue that overflows, no limit of the receiver's window, and no fresh start after a pause; acknowledgements
//! take no bandwidth. It is held against kernel TCP over a real delay by `compare`.
//!
//! Must not read a clock or open a socket.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// Payload of a full segment in bytes: Ethernet's 1,500 less 40 of headers and 12 of timestamps (RFC 7323).
pub(crate) const SEGMENT_BYTES: usize = 1_448;

/// Headers of a segment in bytes: IPv4 and TCP with timestamps.
const HEADER_BYTES: usize = 52;

/// Segments that may be on their way before the first acknowledgement (RFC 6928).
const INITIAL_WINDOW_SEGMENTS: usize = 10;

/// What a SYN carries at most in bytes (RFC 7413): a segment without timestamps, less the 40 set aside for options.
pub(crate) const SYN_BYTES_MAX: usize = 1_420;

/// Longest round trip that can be asked for: more is a mistake in the unit.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(60);

/// A kind of link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Profile {
    /// What the user called it.
    pub(crate) name: String,
    /// Delay there and back.
    pub(crate) round_trip: Duration,
    /// The round trip of each segment is up to this much longer or shorter.
    pub(crate) jitter: Duration,
    /// Bits per second from the client to the server; 0: without limit.
    pub(crate) up_bits_per_s: u64,
    /// Bits per second from the server to the client; 0: without limit.
    pub(crate) down_bits_per_s: u64,
}

/// The kinds of links that have a name: round trip and jitter in milliseconds, megabits per second up and down. Typical
/// figures of each technology, not measurements.
const PRESETS: [(&str, u64, u64, u64, u64); 6] = [
    ("loopback", 0, 0, 0, 0),
    ("lan", 1, 0, 1_000, 1_000),
    ("dsl", 30, 5, 10, 50),
    ("lte", 60, 15, 20, 50),
    ("3g", 200, 40, 1, 4),
    ("satellite", 600, 30, 3, 25),
];

impl Profile {
    /// Reads `lan`, `dsl`, `lte`, `3g`, `satellite`, `loopback`, or `MS[±JITTER][/MBITS]` (also written `MS+-JITTER`).
    ///
    /// # Errors
    ///
    /// Words for the user, if it is none of these.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let preset = PRESETS.iter().find(|(name, ..)| *name == text);
        if let Some(&(name, round_trip_ms, jitter_ms, up, down)) = preset {
            return Ok(Self {
                name: name.to_owned(),
                round_trip: Duration::from_millis(round_trip_ms),
                jitter: Duration::from_millis(jitter_ms),
                up_bits_per_s: up * 1_000_000,
                down_bits_per_s: down * 1_000_000,
            });
        }
        Self::parse_figures(text).ok_or_else(|| {
            format!(
                "{text:?} is no link: say lan, dsl, lte, 3g, satellite, loopback or MS[±JITTER][/MBITS], such as 200±20"
            )
        })
    }

    fn parse_figures(text: &str) -> Option<Self> {
        let (delay, megabits) = text.split_once('/').unwrap_or((text, "0"));
        let (round_trip, jitter) = delay.split_once('±').or_else(|| delay.split_once("+-")).unwrap_or((delay, "0"));
        let round_trip = milliseconds(round_trip)?;
        let jitter = milliseconds(jitter)?;
        let megabits: f64 = megabits.parse().ok().filter(|megabits| (0.0..=1e6).contains(megabits))?;
        if round_trip > ROUND_TRIP_MAX || jitter > round_trip {
            return None;
        }
        let bits_per_s = (megabits * 1e6) as u64;
        let name = text.to_owned();
        Some(Self { name, round_trip, jitter, up_bits_per_s: bits_per_s, down_bits_per_s: bits_per_s })
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

fn milliseconds(text: &str) -> Option<Duration> {
    let number: f64 = text.trim_end_matches("ms").parse().ok()?;
    (0.0..=1e6).contains(&number).then(|| Duration::from_secs_f64(number / 1_000.0))
}

/// A client's link: both directions and the handshake.
#[derive(Debug)]
pub(crate) struct Link {
    /// From the client to the server.
    pub(crate) up: Direction,
    /// From the server to the client.
    pub(crate) down: Direction,
}

/// When the two sides of a new connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handshake {
    /// The SYN-ACK reaches the client: it may speak.
    pub(crate) client_ready: Duration,
    /// The ACK reaches the server: it may speak.
    pub(crate) server_ready: Duration,
}

impl Link {
    /// A link as it is before the first packet.
    pub(crate) fn new(profile: &Profile, random: &mut Random) -> Self {
        Self {
            up: Direction::new(profile, profile.up_bits_per_s, random.split()),
            down: Direction::new(profile, profile.down_bits_per_s, random.split()),
        }
    }

    /// Sends the SYN at `now`. Everything that is sent later comes after the handshake.
    pub(crate) fn connect(&mut self, now: Duration) -> Handshake {
        let syn = self.up.bare_segment(now);
        let client_ready = self.down.bare_segment(syn);
        let server_ready = self.up.bare_segment(client_ready);
        Handshake { client_ready, server_ready }
    }

    /// Sends a SYN that carries the beginning of the first flight (RFC 7413). The rest leaves when the SYN-ACK is there.
    pub(crate) fn connect_fast(&mut self, now: Duration, first_flight: &[u8]) -> Handshake {
        let (with_syn, rest) = first_flight.split_at(first_flight.len().min(SYN_BYTES_MAX));
        let server_ready = self.up.handle_segment(now, with_syn);
        let client_ready = self.down.bare_segment(server_ready);
        self.up.handle_bytes(client_ready, rest);
        Handshake { client_ready, server_ready }
    }
}

/// One direction of a link.
///
/// ```text
///  handle_bytes ──► leaves when slow start and bandwidth allow ──half a round trip──► poll_arrived
///                                      ▲                                  │
///                                      └────────── acknowledgement ◄──────┘
/// ```
#[derive(Debug)]
pub(crate) struct Direction {
    delay: Duration,
    jitter: Duration,
    bits_per_s: u64,
    random: Random,
    /// When the last bit left.
    left: Duration,
    /// When the last segment arrives; later ones cannot overtake it.
    arrives: Duration,
    window_bytes: usize,
    unacknowledged_bytes: usize,
    /// Segments whose acknowledgement is still to come: when it does, and how many bytes it acknowledges.
    unacknowledged: VecDeque<(Duration, usize)>,
    /// Segments on their way: when they arrive, and how many bytes they carry.
    segments: VecDeque<(Duration, usize)>,
    /// What they carry.
    bytes: VecDeque<u8>,
}

impl Direction {
    fn new(profile: &Profile, bits_per_s: u64, random: Random) -> Self {
        Self {
            delay: profile.round_trip / 2,
            jitter: profile.jitter / 2,
            bits_per_s,
            random,
            left: Duration::ZERO,
            arrives: Duration::ZERO,
            window_bytes: INITIAL_WINDOW_SEGMENTS * SEGMENT_BYTES,
            unacknowledged_bytes: 0,
            unacknowledged: VecDeque::new(),
            segments: VecDeque::new(),
            bytes: VecDeque::new(),
        }
    }

    /// Bytes are given to TCP at `now`.
    pub(crate) fn handle_bytes(&mut self, now: Duration, bytes: &[u8]) {
        self.acknowledge_until(now);
        for segment in bytes.chunks(SEGMENT_BYTES) {
            let leaves = self.room_for(segment.len(), now);
            let arrives = self.transmit(leaves, segment.len());
            self.segments.push_back((arrives, segment.len()));
            self.unacknowledged.push_back((arrives + self.delay, segment.len()));
            self.unacknowledged_bytes += segment.len();
            self.bytes.extend(segment);
        }
    }

    /// Sends a segment whatever the window says; returns when it arrives.
    fn handle_segment(&mut self, now: Duration, bytes: &[u8]) -> Duration {
        let arrives = self.transmit(now, bytes.len());
        self.segments.push_back((arrives, bytes.len()));
        self.bytes.extend(bytes);
        arrives
    }

    /// Moves what has arrived by `now` to the end of `out`; returns how many bytes that were.
    pub(crate) fn poll_arrived(&mut self, now: Duration, out: &mut Vec<u8>) -> usize {
        let mut arrived = 0;
        while let Some(&(at, bytes)) = self.segments.front()
            && at <= now
        {
            self.segments.pop_front();
            arrived += bytes;
        }
        out.extend(self.bytes.drain(..arrived));
        arrived
    }

    /// When the next segment arrives; `None` if nothing is on its way.
    pub(crate) fn next_arrival(&self) -> Option<Duration> {
        self.segments.front().map(|&(at, _)| at)
    }

    /// When a segment that carries no bytes arrives, if it is sent at `now`.
    pub(crate) fn bare_segment(&mut self, now: Duration) -> Duration {
        self.transmit(now, 0)
    }

    fn transmit(&mut self, leaves: Duration, payload_bytes: usize) -> Duration {
        let sent = leaves.max(self.left) + self.time_on_the_wire(payload_bytes + HEADER_BYTES);
        self.left = sent;
        let jitter = self.jitter.mul_f64(self.random.unit() * 2.0);
        // The jitter is at most the round trip, so the delay less the jitter is not negative.
        self.arrives = self.arrives.max(sent + (self.delay - self.jitter) + jitter);
        self.arrives
    }

    fn time_on_the_wire(&self, bytes: usize) -> Duration {
        match self.bits_per_s {
            0 => Duration::ZERO,
            bits_per_s => Duration::from_nanos(bytes as u64 * 8 * 1_000_000_000 / bits_per_s),
        }
    }

    /// The first moment from `now` on at which slow start lets so many bytes leave.
    fn room_for(&mut self, bytes: usize, now: Duration) -> Duration {
        let mut moment = now;
        while self.unacknowledged_bytes + bytes > self.window_bytes {
            let Some((at, acknowledged)) = self.unacknowledged.pop_front() else { break };
            self.acknowledge(acknowledged);
            moment = moment.max(at);
        }
        moment
    }

    fn acknowledge_until(&mut self, now: Duration) {
        while let Some(&(at, bytes)) = self.unacknowledged.front()
            && at <= now
        {
            self.unacknowledged.pop_front();
            self.acknowledge(bytes);
        }
    }

    const fn acknowledge(&mut self, bytes: usize) {
        self.unacknowledged_bytes -= bytes;
        self.window_bytes += bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Link, Profile, SEGMENT_BYTES, SYN_BYTES_MAX};
    use crate::random::Random;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn link(text: &str) -> Link {
        Link::new(&Profile::parse(text).unwrap(), &mut Random::new(1))
    }

    /// Moments at which bytes arrive, and how many.
    fn arrivals(link: &mut Link) -> Vec<(Duration, usize)> {
        let mut seen = Vec::new();
        while let Some(at) = link.up.next_arrival() {
            let mut out = Vec::new();
            seen.push((at, link.up.poll_arrived(at, &mut out)));
        }
        seen
    }

    #[test]
    fn the_client_may_speak_after_one_round_trip_and_its_first_bytes_arrive_with_the_ack() {
        let mut link = link("200");
        let handshake = link.connect(ms(0));
        assert_eq!((handshake.client_ready, handshake.server_ready), (ms(200), ms(300)));
        link.up.handle_bytes(ms(200), b"QHLO a\r\n");
        assert_eq!(arrivals(&mut link), [(ms(300), 8)]);
    }

    #[test]
    fn what_fits_the_syn_arrives_with_it_and_the_rest_a_round_trip_later() {
        let mut link = link("200");
        let handshake = link.connect_fast(ms(0), &[0; 2_000]);
        assert_eq!((handshake.client_ready, handshake.server_ready), (ms(200), ms(100)));
        assert_eq!(arrivals(&mut link), [(ms(100), SYN_BYTES_MAX), (ms(300), 2_000 - SYN_BYTES_MAX)]);
    }

    #[test]
    fn bytes_arrive_half_a_round_trip_later_whole_and_in_order() {
        let mut link = link("200±200");
        let sent: Vec<u8> = (0..=255).cycle().take(9 * SEGMENT_BYTES).collect();
        sent.chunks(100).enumerate().for_each(|(step, part)| link.up.handle_bytes(ms(step as u64), part));
        let mut seen = Vec::new();
        assert_eq!(link.up.poll_arrived(ms(0), &mut seen), 0, "nothing arrives at once");
        let mut last = Duration::ZERO;
        while let Some(at) = link.up.next_arrival() {
            assert!(at >= last, "a segment overtakes another");
            last = at;
            link.up.poll_arrived(at, &mut seen);
        }
        assert_eq!(seen, sent);
    }

    #[test]
    fn ten_segments_leave_at_once_and_the_room_doubles_with_each_round_trip() {
        let mut link = link("100");
        link.up.handle_bytes(ms(0), &vec![0; 70 * SEGMENT_BYTES]);
        let segments = |count: usize| count * SEGMENT_BYTES;
        let expected = [(ms(50), segments(10)), (ms(150), segments(20)), (ms(250), segments(40))];
        assert_eq!(arrivals(&mut link), expected);
    }

    #[test]
    fn what_was_acknowledged_before_makes_room_for_what_is_sent_now() {
        let mut link = link("100");
        link.up.handle_bytes(ms(0), &vec![0; 10 * SEGMENT_BYTES]);
        link.up.handle_bytes(ms(100), &vec![0; 20 * SEGMENT_BYTES]);
        assert_eq!(arrivals(&mut link), [(ms(50), 10 * SEGMENT_BYTES), (ms(150), 20 * SEGMENT_BYTES)]);
    }

    #[test]
    fn bandwidth_spreads_segments_and_holds_up_those_behind() {
        let mut link = link("100/12");
        // 1,500 bytes at 12 Mbit/s take 1 ms.
        link.up.handle_bytes(ms(0), &vec![0; 2 * SEGMENT_BYTES]);
        link.up.handle_bytes(ms(1), &vec![0; SEGMENT_BYTES]);
        let expected = [(ms(51), SEGMENT_BYTES), (ms(52), SEGMENT_BYTES), (ms(53), SEGMENT_BYTES)];
        assert_eq!(arrivals(&mut link), expected);
    }

    #[test]
    fn jitter_keeps_within_its_bounds() {
        let profile = Profile::parse("100+-20").unwrap();
        for seed in 0..200 {
            let mut link = Link::new(&profile, &mut Random::new(seed));
            link.up.handle_bytes(ms(0), b"x");
            let at = link.up.next_arrival().unwrap();
            assert!((ms(40)..=ms(60)).contains(&at), "{at:?}");
        }
    }

    #[test]
    fn figures_and_names_are_read_and_nonsense_is_refused() {
        assert_eq!(Profile::parse("lan").unwrap().round_trip, ms(1));
        assert_eq!(Profile::parse("200±20").unwrap().jitter, ms(20));
        assert_eq!(Profile::parse("20.5/1.5").unwrap().up_bits_per_s, 1_500_000);
        assert_eq!(Profile::parse("loopback").unwrap().round_trip, ms(0));
        for text in ["", "fast", "-5", "10±20", "1e9", "NaN", "5/-1", "5/x", "61000"] {
            assert!(Profile::parse(text).is_err(), "{text}");
        }
    }
}
