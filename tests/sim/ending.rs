//! A server that stops in good order, as `src/runtime/shard.rs` and `src/runtime/serve.rs` have it: the same steps in the
//! same order, each shard at its own pace.
//!
//! ```text
//!  serves ──▶ Settling ──▶ Cut ──▶ Carrying ──▶ Writing ──▶ LetGo ──▶ the next process may start
//!             transactions  who     attempts     notes       handshakes end, and are told so
//!             are finished  was not come back
//! ```

use onetrip::limits::{FAREWELL, QUEUE_STOP_TIMEOUT, SPOOL_STOP_TIMEOUT};

use crate::net::{End, LinkName};
use crate::plan::{Keeper, Sabotage};
use crate::server::Conversation;
use crate::storage::Shard;
use crate::world::{Event, World};

/// What the server was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Whoever waits to be accepted is turned away, unless a manager keeps the sockets.
    Drain,
    /// Whoever waits is the next server's.
    HandOver,
}

/// A server that was told to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stopping {
    order: Order,
    since_us: u64,
    /// It was told again: it waits for nobody any more.
    is_hurried: bool,
}

/// How far a shard has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It serves.
    No,
    /// Transactions may be finished.
    Settling { until_us: u64 },
    /// Those that were not are cut, and have a moment to notice.
    Cut { until_us: u64 },
    /// Attempts under way may come back; none begins.
    Carrying { until_us: u64 },
    /// What is noted is written.
    Writing { until_us: u64 },
    /// The disk may be another's.
    LetGo,
}

impl World {
    /// The server is told to stop.
    pub fn stop(&mut self, order: Order) {
        let until_us = self.now_us + micros(self.plan.drain_timeout);
        let Some(process) = self.process.as_mut().filter(|process| process.stopping.is_none()) else {
            return;
        };
        self.seen.drains += 1;
        process.stopping = Some(Stopping { order, since_us: self.now_us, is_hurried: false });
        process.shards.iter_mut().for_each(|shard| shard.ending = Ending::Settling { until_us });
        self.doors_are_kept = order == Order::HandOver || self.plan.keeper == Keeper::Manager;
        self.look_again(until_us);
        let breaks_off = self.plan.sabotage == Sabotage::CutsTransactions;
        let is_told = |one: &Conversation| one.is_idle() || breaks_off && one.is_receiving();
        let told = self.conversations.iter().filter(|(_, one)| is_told(one));
        for name in told.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.interrupt(name);
        }
    }

    /// The server is told a second time, if it was told already.
    pub fn hurry(&mut self) {
        let now_us = self.now_us;
        let Some(process) = &mut self.process else { return };
        let Some(stopping) = process.stopping.as_mut().filter(|stopping| !stopping.is_hurried) else { return };
        self.seen.hurried += 1;
        stopping.is_hurried = true;
        for shard in &mut process.shards {
            if let Ending::Settling { until_us } = &mut shard.ending {
                *until_us = now_us;
            }
        }
        self.look_again(now_us);
    }

    fn look_again(&mut self, at_us: u64) {
        self.events.push(at_us, Event::StopLook);
    }

    /// Tells a connection that waits for its client that the server stops.
    fn interrupt(&mut self, name: LinkName) {
        let breaks_off = self.plan.sabotage == Sabotage::CutsTransactions;
        let conversation = self.conversations.get_mut(&name).expect("it is connected");
        conversation.note_drain(breaks_off);
        self.woken_links.insert(name);
    }

    /// Goes on with stopping. Returns whether a step was taken.
    pub fn poll_stop(&mut self) -> bool {
        let Some(Stopping { since_us, .. }) = self.process.as_ref().and_then(|process| process.stopping) else {
            return false;
        };
        let patience = self.plan.drain_timeout + QUEUE_STOP_TIMEOUT + SPOOL_STOP_TIMEOUT;
        let end_us = since_us + micros(patience) + CUT_US;
        assert!(self.now_us <= end_us, "the server does not come to its end");
        let shards = self.shard_count();
        let mut has_moved = false;
        for number in 0..shards {
            has_moved |= self.poll_ending(number);
        }
        let shards = &self.process.as_ref().expect("it stops").shards;
        if shards.iter().all(|shard| shard.ending == Ending::LetGo) {
            self.end_process();
        }
        has_moved
    }

    fn poll_ending(&mut self, number: usize) -> bool {
        let (now, now_us) = (self.now(), self.now_us);
        let is_settled = self.unsettled(number).is_empty();
        let skips_notes = self.plan.sabotage == Sabotage::StopsAtOnce;
        let shard = self.shard(number);
        let next = match shard.ending {
            Ending::Settling { until_us } if is_settled || now_us >= until_us => {
                Ending::Cut { until_us: now_us + CUT_US }
            }
            Ending::Cut { until_us } if is_settled || now_us >= until_us => {
                Ending::Carrying { until_us: now_us + micros(QUEUE_STOP_TIMEOUT) }
            }
            Ending::Carrying { until_us } if !shard.is_busy() || now_us >= until_us => {
                shard.log.close(now);
                Ending::Writing { until_us: now_us + micros(SPOOL_STOP_TIMEOUT) }
            }
            Ending::Writing { .. } if shard.is_written() || skips_notes => {
                shard.note_written();
                Ending::LetGo
            }
            Ending::Writing { until_us } if now_us >= until_us => Ending::LetGo,
            _ => return false,
        };
        shard.ending = next;
        self.woken_shards.insert(number);
        if let Ending::Cut { until_us } | Ending::Carrying { until_us } | Ending::Writing { until_us } = next {
            self.look_again(until_us);
        }
        if let Ending::Cut { .. } = next {
            self.cut_off(&self.unsettled(number));
        }
        true
    }

    /// Those of a shard that may still have something to store. Whoever is in a handshake is told the end first.
    fn unsettled(&self, number: usize) -> Vec<LinkName> {
        let mine = self.conversations.iter().filter(|(_, one)| one.life == self.life && one.shard == number);
        mine.filter(|(_, one)| !one.is_in_handshake()).map(|(name, _)| *name).collect()
    }

    fn cut_off(&mut self, names: &[LinkName]) {
        for name in names {
            let conversation = self.conversations.get_mut(name).expect("it is connected");
            self.seen.cut += 1;
            conversation.cut();
            self.woken_links.insert(*name);
        }
    }

    /// The state directory is free. What is left are handshakes, and they are given a moment.
    fn end_process(&mut self) {
        let process = self.process.take().expect("it stops");
        let Stopping { order, is_hurried, .. } = process.stopping.expect("it stops");
        self.stopped_well = process.shards.iter().all(Shard::is_written);
        for (number, shard) in process.shards.into_iter().enumerate() {
            self.sink.settled.extend(&shard.settled);
            if !shard.is_written() && self.plan.sabotage != Sabotage::StopsAtOnce {
                self.tear(number, shard);
            }
        }
        let (life, now_us) = (self.life, self.now_us);
        self.life += 1;
        let stays = |name: &LinkName| self.conversations[name].is_in_handshake();
        let (left, gone): (Vec<_>, Vec<_>) = self.conversations.keys().copied().partition(stays);
        self.seen.handshakes_left += left.len() as u64;
        for name in gone {
            self.conversations.remove(&name);
            self.hang_up(name, End::Client);
        }
        let farewell_us = if is_hurried { 0 } else { micros(FAREWELL) };
        self.events.push(now_us + farewell_us, Event::Farewell { life });
        match order {
            Order::HandOver => self.restart_after(1_000, 50_000),
            Order::Drain => self.restart_after(1_000, 15_000_000),
        }
    }

    /// A process that has let go ends: nobody is waited for any longer.
    pub fn say_farewell(&mut self, life: u32) {
        let left = self.conversations.iter().filter(|(_, one)| one.life == life);
        let left: Vec<_> = left.map(|(name, _)| *name).collect();
        self.cut_off(&left);
    }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("it is short")
}

/// How long whoever was cut is given to notice.
const CUT_US: u64 = 2_000_000;
