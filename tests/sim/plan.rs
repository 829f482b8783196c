//! What a seed chooses for the whole run, and how the server may be broken on purpose.

use std::time::Duration;

use onetrip::limits::{DELAY_WARNING, RETRY_MAX, RETRY_MIN, SPOOL_WAITING_BYTES_MAX};
use onetrip::relay::queue::QueueSettings;
use onetrip::spool::frame::BLOCK_BYTES;
use onetrip::spool::log::LogSettings;

use crate::chance::Chance;
use crate::start::SHARDS_MAX;

/// What a seed chooses for the whole run.
#[derive(Debug)]
pub struct Plan {
    /// How many there are at first.
    pub shards: usize,
    /// Later starts may have more or fewer.
    pub resizes: bool,
    /// Until then anything may fail; from then on nothing does.
    pub storm_us: u64,
    /// The server crashes at one event of so many; never if zero.
    pub crash_one_in: u64,
    /// The server is told to stop at one event of so many; never if zero.
    pub stop_one_in: u64,
    /// How long it then waits for transactions.
    pub drain_timeout: Duration,
    pub keeper: Keeper,
    /// When the server stops or crashes although the storm is over: what waits for days must live through that too.
    pub interruptions_us: Vec<u64>,
    pub queue: QueueSettings,
    /// The next hop is away until the storm is over, so that much is queued.
    pub hop_is_away: bool,
    /// Writes fail, and segments cannot be made.
    pub disk_fails: bool,
    /// Most segments of a shard's disk.
    pub segments_max: usize,
    pub log: LogSettings,
    /// How the server is broken.
    pub sabotage: Sabotage,
}

/// Who keeps the listening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The server, and the next one if they are handed over.
    Server,
    /// A service manager, also while no server runs.
    Manager,
}

/// A server that is broken on purpose, to see whether the simulator finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// It is not.
    None,
    /// It says 250 when the log has a message, before the disk has it.
    AnswersTooEarly,
    /// The disk says that a write is done although it is not yet.
    SyncsNothing,
    /// It does not look at tokens.
    ForgetsTokens,
    /// It finds messages after a restart, and no tokens.
    LosesTokens,
    /// After a restart it takes what was delivered for new.
    WarnsNobody,
    /// Told to stop, it breaks off transactions.
    CutsTransactions,
    /// Told to stop, it does not write down what it has noted.
    StopsAtOnce,
    /// It does not look for logs of shards that are no more.
    ForgetsLogs,
    /// It takes recipients for done without telling anybody.
    FailsSilently,
}

impl Plan {
    /// A plan; `takes_large` makes room for large messages.
    pub fn new(chance: &mut Chance, takes_large: bool, sabotage: Sabotage) -> Self {
        let disk_fails = chance.one_in(3);
        let storm_us = chance.between(5, 400) * 1_000_000;
        let queue = if chance.one_in(2) { LONG_SETTINGS } else { short_settings(chance) };
        let life_us = queue.lifetime.as_micros() as u64;
        let interruptions_us = (0..chance.below(4)).map(|_| storm_us + chance.below(life_us)).collect();
        let segment_bytes = if takes_large { 256 * BLOCK_BYTES } else { chance.pick(&[6, 16]) * BLOCK_BYTES };
        Self {
            shards: chance.count(1, SHARDS_MAX),
            resizes: chance.one_in(2),
            storm_us,
            stop_one_in: chance.pick(&[0, 0, 100, 300, 1_000]),
            drain_timeout: Duration::from_secs(chance.pick(&[1, 30])),
            keeper: chance.pick(&[Keeper::Server, Keeper::Manager]),
            interruptions_us,
            queue,
            hop_is_away: chance.one_in(3),
            crash_one_in: chance.pick(&[0, 0, 100, 300, 1_000]),
            disk_fails,
            segments_max: if disk_fails && chance.one_in(2) { chance.count(2, 6) } else { usize::MAX },
            log: LogSettings {
                segment_bytes,
                batch_bytes_max: (segment_bytes as usize / 4).min(8_192),
                part_bytes: segment_bytes as usize / 5,
                waiting_bytes_max: SPOOL_WAITING_BYTES_MAX,
                note_delay: Duration::from_millis(5),
                token_retention: Duration::from_secs(86_400),
            },
            sabotage,
        }
    }

    /// Do messages wait for so long that nothing can keep a sender from being warned meanwhile?
    pub fn is_patient(&self) -> bool {
        self.queue == LONG_SETTINGS && !self.disk_fails
    }
}

/// A queue that gives up within minutes, so that messages expire while everything else happens.
fn short_settings(chance: &mut Chance) -> QueueSettings {
    let lifetime = Duration::from_secs(chance.between(60, 600));
    QueueSettings {
        retry_min: Duration::from_secs(chance.between(1, 60)),
        retry_max: Duration::from_secs(chance.between(60, 600)),
        lifetime,
        delay_warning: Duration::from_secs(chance.between(10, lifetime.as_secs())),
    }
}

/// The server's own, but for days that would bring nothing but further attempts.
const LONG_SETTINGS: QueueSettings = QueueSettings {
    retry_min: RETRY_MIN,
    retry_max: RETRY_MAX,
    lifetime: Duration::from_secs(3 * 3_600 + DELAY_WARNING.as_secs()),
    delay_warning: DELAY_WARNING,
};

/// More than two of the pieces in which a large message goes into the spool.
pub const LARGE_BYTES: usize = 600_000;
