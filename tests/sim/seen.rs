//! What a run has come to see.

use onetrip::proto::client::EarlyData;

/// What a run has come to see: a simulator that never gets anywhere would find nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    pub acknowledged: u64,
    pub uncertain: u64,
    pub resumed: u64,
    pub early_accepted: u64,
    pub early_rejected: u64,
    pub repeats: u64,
    pub waited: u64,
    pub crashes: u64,
    pub recovered: u64,
    /// Messages that a restart found and that had been taken elsewhere.
    pub disowned: u64,
    pub failed_writes: u64,
    pub pieces: u64,
    /// What ramblers had acknowledged.
    pub rambled: u64,
    /// Orders to stop, and connections that were cut because the server could wait no longer.
    pub drains: u64,
    pub cut: u64,
    /// Orders to stop at once, while it stopped.
    pub hurried: u64,
    /// Handshakes that went on when the next server could start.
    pub handshakes_left: u64,
    /// Connections that waited for the next server, and that were turned away instead.
    pub waited_outside: u64,
    pub turned_away: u64,
    /// Starts with more shards than before, with fewer, and that a crash ended.
    pub grown: u64,
    pub shrunk: u64,
    pub crashed_starts: u64,
    /// Messages that were found in the log of a shard that is no more.
    pub moved: u64,
    /// Reports that were stored, and messages that were given up on, by destination.
    pub reports: u64,
    pub expired: u64,
    pub events: u64,
}

impl Seen {
    pub fn note_handshake(&mut self, resumed: bool, early_data: EarlyData) {
        self.resumed += u64::from(resumed);
        self.early_accepted += u64::from(early_data == EarlyData::Accepted);
        self.early_rejected += u64::from(early_data == EarlyData::Rejected);
    }

    /// Both together.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.acknowledged, other.acknowledged),
            (&mut self.uncertain, other.uncertain),
            (&mut self.resumed, other.resumed),
            (&mut self.early_accepted, other.early_accepted),
            (&mut self.early_rejected, other.early_rejected),
            (&mut self.repeats, other.repeats),
            (&mut self.waited, other.waited),
            (&mut self.crashes, other.crashes),
            (&mut self.recovered, other.recovered),
            (&mut self.disowned, other.disowned),
            (&mut self.failed_writes, other.failed_writes),
            (&mut self.pieces, other.pieces),
            (&mut self.rambled, other.rambled),
            (&mut self.drains, other.drains),
            (&mut self.cut, other.cut),
            (&mut self.hurried, other.hurried),
            (&mut self.handshakes_left, other.handshakes_left),
            (&mut self.waited_outside, other.waited_outside),
            (&mut self.turned_away, other.turned_away),
            (&mut self.grown, other.grown),
            (&mut self.shrunk, other.shrunk),
            (&mut self.crashed_starts, other.crashed_starts),
            (&mut self.moved, other.moved),
            (&mut self.reports, other.reports),
            (&mut self.expired, other.expired),
            (&mut self.events, other.events),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
    }
}
