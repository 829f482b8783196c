//! A start from what the disks have, with as many shards as the last time or with others, as `src/runtime/spool/opening.rs` and
//! `src/runtime/serve.rs` have it. A crash may end it at any change that it makes.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use onetrip::relay::queue::Arrival;
use onetrip::spool::Place;
use onetrip::spool::frame::SegmentHeader;
use onetrip::spool::log::{Refusal, Write};
use onetrip::spool::once::StoredToken;
use onetrip::spool::record::Token;
use onetrip::spool::resting::{RestingLog, Segments, Vanished, bring_together};

use crate::chance::Chance;
use crate::disk::Disk;
use crate::plan::Sabotage;
use crate::process::Process;
use crate::storage::{Shard, tear};
use crate::world::{Event, World};

/// The disks, by the number of the shard whose log they hold.
pub type Disks = BTreeMap<usize, Disk>;

/// The machine has stopped in the middle of a start.
#[derive(Debug)]
struct Crashed;

/// What a crash ends, after so many changes to the disks.
struct Fuse {
    left: u64,
    chance: Chance,
}

/// One of the disks, as a start uses it.
struct Platter {
    disks: Rc<RefCell<Disks>>,
    number: usize,
    fuse: Rc<RefCell<Fuse>>,
}

/// A start that goes on.
struct Opening<'a> {
    world: &'a World,
    disks: Rc<RefCell<Disks>>,
    fuse: Rc<RefCell<Fuse>>,
    /// Bytes of torn batches so far.
    cut_bytes: Cell<u64>,
}

/// What a start has come to.
struct Opened {
    logs: Vec<RestingLog<Platter>>,
    tokens: Vec<StoredToken>,
    disowned: usize,
    moved: usize,
}

impl World {
    /// Starts the server from what its disks have, unless the machine stops again meanwhile.
    pub fn start_server(&mut self) {
        self.life += 1;
        let count = self.choose_shards();
        let fuse = self.choose_fuse();
        let disks = Rc::new(RefCell::new(std::mem::take(&mut self.disks)));
        let registry = Process::registry(self.plan.log.token_retention);
        let fuse = Rc::new(RefCell::new(fuse));
        let opening = Opening { world: self, disks: Rc::clone(&disks), fuse, cut_bytes: Cell::new(0) };
        let opened = opening.open(count, &registry);
        let cut_bytes = opening.cut_bytes.get();
        let Ok(Opened { logs, mut tokens, disowned, moved }) = opened else {
            self.disks = disks.take();
            return self.crash_in_start();
        };
        // What was torn before stays so until its log goes on.
        let is_whole = cut_bytes <= self.cut_bytes || !self.stopped_well || self.plan.disk_fails;
        assert!(is_whole, "a server that stopped in good order has left a torn batch");
        self.cut_bytes = cut_bytes;
        self.seen.disowned += disowned as u64;
        self.seen.moved += moved as u64;
        if self.plan.sabotage == Sabotage::LosesTokens {
            tokens.clear();
        }
        let shards = (0..).zip(logs).map(|(number, log)| self.restore(number, log)).collect();
        self.disks = disks.take();
        self.woken_shards.extend(0..count);
        registry.restore(self.now(), tokens);
        self.process = Some(Process::new(self, shards, registry));
        for name in std::mem::take(&mut self.outside) {
            self.seen.waited_outside += 1;
            let taken_us = self.now_us + self.chance.below(3_000);
            self.events.push(taken_us, Event::Opened { link: name });
        }
    }

    fn crash_in_start(&mut self) {
        self.life += 1;
        self.seen.crashed_starts += 1;
        self.lose_everybody();
        self.restart_after(50_000, 15_000_000);
    }

    /// As many as the last time, or others.
    fn choose_shards(&mut self) -> usize {
        let before = self.last_shards;
        if self.life > 1 && self.plan.resizes && self.chance.one_in(2) {
            self.last_shards = self.chance.count(1, SHARDS_MAX);
        }
        self.seen.grown += u64::from(self.last_shards > before);
        self.seen.shrunk += u64::from(self.last_shards < before);
        self.last_shards
    }

    fn choose_fuse(&mut self) -> Fuse {
        let may_crash = self.plan.crash_one_in > 0 && self.life > 1;
        // The most is done by a start that has logs to move.
        let (one_in, most) = if self.disks.len() > self.last_shards { (2, 2 * CHANGES_MAX) } else { (4, CHANGES_MAX) };
        let left = if may_crash && self.chance.one_in(one_in) { self.chance.below(most) } else { u64::MAX };
        Fuse { left, chance: Chance::new(self.chance.below(u64::MAX)) }
    }

    /// A shard with its queue as the log has it.
    fn restore(&mut self, number: usize, resting: RestingLog<Platter>) -> Shard {
        let now = self.now();
        let mut found = Vec::new();
        let visited = resting.visit(&mut |head, progress| {
            found.push((head.id, head.size(), head.envelope.clone(), progress));
        });
        assert!(visited.is_ok(), "a disk can be read");
        self.seen.recovered += found.len() as u64;
        let mut shard = Shard::new(self, number, resting.log);
        for (id, bytes, envelope, progress) in found {
            let arrival = Arrival { id, bytes, envelope: &envelope };
            if self.plan.sabotage == Sabotage::WarnsNobody {
                shard.queue.add(arrival);
            } else if let Some(note) = shard.queue.restore(now, arrival, progress) {
                shard.log.note(now, &note, None);
            }
        }
        shard
    }
}

impl Opening<'_> {
    fn open(&self, count: usize, registry: &onetrip::runtime::once::OnceRegistry) -> Result<Opened, Crashed> {
        let now = self.world.now();
        let mut tokens = Vec::new();
        let mut on_token = |token: Token<'_>| {
            let key = registry.key(token.user, token.token);
            tokens.push(StoredToken { key, message: token.id, stored_at: token.id.received() });
        };
        let mut logs: Vec<_> = (0..count).map(|number| self.read(number, &mut on_token)).collect();
        let forgets = self.world.plan.sabotage == Sabotage::ForgetsLogs;
        let is_vanished = |number: &usize| *number >= count && !forgets;
        let vanished: Vec<_> = self.disks.borrow().keys().copied().filter(is_vanished).collect();
        let mut moving = Vec::new();
        for shard in vanished {
            let mut tokens = Vec::new();
            let resting = self.read(shard, &mut |token| {
                on_token(token);
                tokens.push(token.into());
            });
            moving.push(Vanished { shard, resting, tokens });
        }
        let mut moved = 0;
        let mut emptied = |disk: Platter, messages| {
            self.disks.borrow_mut().remove(&disk.number);
            moved += messages;
            Ok(())
        };
        let disowned = bring_together(now, &mut logs, moving, &mut tokens, REPEATS_WITHIN, &mut emptied)?;
        Ok(Opened { logs, tokens, disowned, moved })
    }

    fn read(&self, number: usize, on_token: &mut dyn FnMut(Token<'_>)) -> RestingLog<Platter> {
        let mut disks = self.disks.borrow_mut();
        let disk = disks.entry(number).or_default();
        let recovered = disk.recover(self.world.plan.log, self.world.now(), on_token);
        assert_eq!(recovered.damage, [], "a crash damages nothing that was committed");
        self.cut_bytes.set(self.cut_bytes.get() + recovered.cut_bytes);
        let (disks, fuse) = (Rc::clone(&self.disks), Rc::clone(&self.fuse));
        RestingLog { log: recovered.log, segments: Platter { disks, number, fuse } }
    }
}

impl Platter {
    /// Does something to the disk, unless this is where the machine stops; then `half` is what may be done of it.
    fn change(&self, whole: impl FnOnce(&mut Disk), half: impl FnOnce(&mut Disk, &mut Chance)) -> Result<(), Crashed> {
        let (mut disks, mut fuse) = (self.disks.borrow_mut(), self.fuse.borrow_mut());
        let disk = disks.get_mut(&self.number).expect("a disk that was opened");
        let Some(left) = fuse.left.checked_sub(1) else {
            half(disk, &mut fuse.chance);
            return Err(Crashed);
        };
        fuse.left = left;
        whole(disk);
        Ok(())
    }
}

impl Segments for Platter {
    type Fault = Crashed;

    fn numbers(&self) -> Result<Vec<u32>, Crashed> {
        Ok(self.disks.borrow()[&self.number].0.keys().copied().collect())
    }

    fn read(&self, number: u32) -> Result<Vec<u8>, Crashed> {
        Ok(self.disks.borrow()[&self.number].0[&number].clone())
    }

    fn read_at(&self, place: Place, bytes: u32) -> Result<Vec<u8>, Crashed> {
        Ok(self.disks.borrow()[&self.number].read(place, bytes).to_vec())
    }

    fn write(&mut self, write: &Write) -> Result<(), Crashed> {
        self.change(|disk| disk.write(write), |disk, chance| tear(chance, disk, write))
    }

    fn prepare(&mut self, header: SegmentHeader, recycled: Option<u32>) -> Result<(), Crashed> {
        self.change(
            |disk| disk.prepare(header, recycled),
            |disk, chance| match chance.below(3) {
                0 => disk.prepare(header, recycled),
                1 => disk.rename(header, recycled),
                _ => {}
            },
        )
    }

    fn remove(&mut self, number: u32) -> Result<(), Crashed> {
        self.change(
            |disk| drop(disk.0.remove(&number)),
            |disk, chance| {
                if chance.one_in(2) {
                    disk.0.remove(&number);
                }
            },
        )
    }

    fn refused(&self, refusal: Refusal) -> Crashed {
        panic!("a log refuses what another has: {refusal:?}");
    }

    fn refusal(_: &Crashed) -> Refusal {
        Refusal::Fault
    }
}

/// Longer than any client of the simulation tries again.
const REPEATS_WITHIN: Duration = Duration::from_secs(4_200);

/// Most shards that a start may have.
pub const SHARDS_MAX: usize = 3;

/// Most changes to the disks before a start crashes, if it does and has no logs to move.
const CHANGES_MAX: u64 = 4;
