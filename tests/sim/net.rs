//! The network between clients and server: it delays, cuts into segments, and loses; and somebody on it may add to what
//! is said in the clear.
//!
//! Each direction keeps its order, as TCP does. What a connection will suffer is chosen when it begins.

use crate::chance::Chance;
use crate::world::{Event, World};

/// The name of a connection, for one client and the server.
pub type LinkName = u64;

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Client,
    Server,
}

/// One connection as the network sees it.
#[derive(Debug)]
pub struct Link {
    pub client: usize,
    /// One way, in microseconds.
    pub delay_us: u64,
    /// The first flight travels with the SYN.
    pub fast_open: bool,
    segments: Segments,
    to_server: Direction,
    to_client: Direction,
    /// Segments that have arrived so far.
    arrived: u32,
    cut: Option<Cut>,
    /// Somebody adds a command behind STARTTLS or QTLS.
    meddler: bool,
    /// What has arrived before the server has taken the connection; `None` since then.
    pub backlog: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Direction {
    /// Nothing arrives before this.
    free_us: u64,
    /// Nothing arrives any more.
    is_dead: bool,
}

/// How what is sent is cut.
#[derive(Clone, Copy, Debug)]
enum Segments {
    /// As it was sent, up to 64 KiB.
    Whole,
    /// Up to so many bytes each, for as many segments as there are.
    UpTo { most: u64, left: u32 },
    /// A number of single bytes first.
    Bytes(u64),
}

/// What happens when so many segments have arrived.
#[derive(Clone, Copy, Debug)]
struct Cut {
    after: u32,
    how: How,
}

#[derive(Clone, Copy, Debug)]
enum How {
    /// Both ends learn that the connection is gone.
    Both,
    /// One end learns it, and the other waits.
    Only(End),
    /// What goes to one end is lost from now on, and nobody learns it.
    Silence(End),
}

impl Link {
    /// A connection with all that will happen to it; nothing bad, once the weather is calm.
    pub fn new(chance: &mut Chance, client: usize, is_calm: bool) -> Self {
        let segments = match chance.below(10) {
            0 => Segments::Bytes(chance.between(20, 500)),
            1..=3 => Segments::UpTo { most: chance.between(1, 200), left: SMALL_SEGMENTS },
            4..=6 => Segments::UpTo { most: 1_460, left: SMALL_SEGMENTS },
            _ => Segments::Whole,
        };
        let how = match chance.below(8) {
            0..=3 => How::Both,
            4 => How::Only(End::Client),
            5 => How::Only(End::Server),
            6 => How::Silence(End::Client),
            _ => How::Silence(End::Server),
        };
        // A few segments make a whole submission, or the first lines of one that comes byte by byte.
        let most = chance.pick(&[4, 8, 16, 40, 400]);
        let cut = Cut { after: u32::try_from(chance.below(most)).expect("a small number"), how };
        let is_cut = chance.one_in(2);
        let meddler = chance.one_in(12);
        Self {
            client,
            delay_us: chance.between(50, 150_000),
            fast_open: chance.one_in(3),
            segments,
            to_server: Direction::default(),
            to_client: Direction::default(),
            arrived: 0,
            cut: (is_cut && !is_calm).then_some(cut),
            meddler: meddler && !is_calm,
            backlog: Some(Vec::new()),
        }
    }

    fn direction(&mut self, to: End) -> &mut Direction {
        match to {
            End::Client => &mut self.to_client,
            End::Server => &mut self.to_server,
        }
    }

    /// When the server may take the connection, and how long the first flight waits for that, in microseconds: a round trip,
    /// unless it travels with the SYN.
    pub fn open(&mut self, now_us: u64) -> (u64, u64) {
        let wait_us = if self.fast_open { 0 } else { 2 * self.delay_us };
        self.to_server.free_us = now_us + wait_us + self.delay_us;
        (self.to_server.free_us, wait_us)
    }

    /// Nothing is carried any more.
    pub fn kill(&mut self) {
        self.to_client.is_dead = true;
        self.to_server.is_dead = true;
    }

    /// Bytes of the next segment, of so many that are left.
    fn next_segment(&mut self, chance: &mut Chance, left: usize) -> usize {
        let most = match &mut self.segments {
            Segments::Bytes(0) | Segments::UpTo { left: 0, .. } | Segments::Whole => SEGMENT_BYTES_MAX,
            Segments::Bytes(count) => {
                *count -= 1;
                1
            }
            Segments::UpTo { most, left } => {
                *left -= 1;
                chance.between(1, *most)
            }
        };
        left.min(usize::try_from(most).expect("a small number"))
    }

    /// What the meddler makes of what a client says in the clear.
    fn meddle(&mut self, bytes: &mut Vec<u8>) {
        if !self.meddler {
            return;
        }
        let begins: [&[u8]; 2] = [b"STARTTLS\r\n", b"QTLS\r\n"];
        let found = |begin: &[u8]| bytes.windows(begin.len()).position(|part| part == begin).map(|at| at + begin.len());
        if let Some(at) = begins.into_iter().find_map(found) {
            self.meddler = false;
            bytes.splice(at..at, MEDDLING.iter().copied());
        }
    }
}

impl World {
    /// Gives bytes to the network. `wait_us` is how long they wait before they leave.
    pub fn send(&mut self, name: LinkName, to: End, bytes: &[u8], wait_us: u64) {
        if bytes.is_empty() {
            return;
        }
        let mut bytes = bytes.to_vec();
        let now_us = self.now_us;
        let link = self.links.get_mut(&name).expect("a link that was made");
        if to == End::Server {
            link.meddle(&mut bytes);
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let length = link.next_segment(&mut self.chance, rest.len());
            let (segment, after) = rest.split_at(length);
            rest = after;
            let arrival = now_us + wait_us + link.delay_us + self.chance.below(2_000);
            let direction = link.direction(to);
            direction.free_us = direction.free_us.max(arrival);
            let at = direction.free_us;
            self.events.push(at, Event::Arrives { link: name, to, bytes: segment.to_vec() });
        }
    }

    /// One end has closed the connection: the other learns it after all that was sent.
    pub fn hang_up(&mut self, name: LinkName, to: End) {
        let link = self.links.get_mut(&name).expect("a link that was made");
        let arrival = self.now_us + link.delay_us;
        let direction = link.direction(to);
        direction.free_us = direction.free_us.max(arrival);
        let at = direction.free_us;
        self.events.push(at, Event::HungUp { link: name, to });
    }

    /// A segment is about to arrive: does it?
    pub fn passes(&mut self, name: LinkName, to: End) -> bool {
        let link = self.links.get_mut(&name).expect("a link that was made");
        if link.direction(to).is_dead {
            return false;
        }
        link.arrived += 1;
        let Some(Cut { how, .. }) = link.cut.filter(|cut| cut.after < link.arrived) else {
            return true;
        };
        link.cut = None;
        self.cut(name, how);
        matches!(how, How::Silence(end) if end != to)
    }

    /// The connection breaks now, although nothing arrives.
    pub fn break_now(&mut self, name: LinkName) {
        let how = self.chance.pick(&[How::Both, How::Both, How::Only(End::Client), How::Only(End::Server)]);
        self.cut(name, how);
    }

    fn cut(&mut self, name: LinkName, how: How) {
        let link = self.links.get_mut(&name).expect("a link that was made");
        let told: &[End] = match how {
            How::Both => &[End::Client, End::Server],
            How::Only(End::Client) => &[End::Client],
            How::Only(End::Server) => &[End::Server],
            How::Silence(end) => {
                link.direction(end).is_dead = true;
                return;
            }
        };
        link.kill();
        for end in told {
            self.events.push(self.now_us, Event::Lost { link: name, to: *end });
        }
    }
}

/// How many segments of a connection are small: so many that a large message in single bytes does not take the run's time.
const SMALL_SEGMENTS: u32 = 2_000;

/// The most that arrives at once.
const SEGMENT_BYTES_MAX: u64 = 64 << 10;

/// What the meddler says, and the name by which it is known.
const MEDDLING: &[u8] = b"EHLO meddler.example\r\n";

/// The name that no server may know inside TLS.
pub const MEDDLER: &str = "meddler.example";
