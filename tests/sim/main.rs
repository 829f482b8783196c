//! The whole server and its clients on virtual time: thousands of lives, each from one seed.
//!
//! What is real here: the server's core and the client's, both with the TLS that they run with; the spool's log with its
//! recovery, and what moves between logs; the registry of tokens; the queue, and the reports to senders. What is not: the
//! network, the disk, the clock, the next hop, and the order in which things happen. All of that is chosen by the seed, so that a
//! run can be played again as it was. (TLS draws bytes of its own. Its lengths do not depend on them, so neither does anything
//! else.) The order of steps in which the runtime serves a connection, carries a message, starts and stops is repeated here, each
//! in a file that names its model; what is decided in them is not.
//!
//! # What may happen
//!
//! Until the storm is over, which takes some minutes of virtual time:
//!
//! * The network delays everything, cuts it into segments from one byte to 64 KiB, or carries it as it was sent. A connection
//!   ends after any segment: both ends learn it, or one only; or one direction falls silent, and nobody learns it. The first
//!   flight comes with the SYN or a round trip later, before the server has taken the connection or after it.
//! * Somebody on the network puts a command behind STARTTLS or QTLS.
//! * The disk fails in writing, having written all, some or none of the sectors; it cannot make a segment, or has no room for
//!   one; it does not give what it is asked to read.
//! * The server's machine crashes at any event: what was being written is torn, a segment that was being made is there, half
//!   there or not there. Clients hear of it, or do not. After a while it starts from what its disks have, all shards at once;
//!   it knows no TLS session any more. The start may crash too, at any change that it makes to a disk.
//! * The server is told to stop, at any event: it ends in good order, and another one starts from the same disks, at once or later.
//!   While it stops it may be told again: then it waits for nobody.
//!   Whoever connects meanwhile is turned away, or waits for the next one, which has the sockets from this one or from whoever
//!   keeps them.
//! * A start has more shards than the last one, or fewer.
//! * The next hop puts off, cannot be reached, or takes a message and the answer is lost; or it is away all the time.
//! * Passwords cannot be judged now.
//!
//! Some recipients, and some senders, are refused for good, put off for ever, or lie at a destination that is never there, storm
//! or not. Messages to them wait until they are too old: for minutes, while everything else happens, or for hours. In those
//! hours the server stops or crashes a few times more.
//!
//! After the storm nothing else fails any more, and everything must come to an end by itself.
//!
//! # What must hold
//!
//! * What was acknowledged is delivered, byte for byte, to each recipient under that name, and no more often than that; with
//!   a token never twice, whatever the client did not hear. What is delivered again after a crash is marked as such.
//! * Or else its sender hears that it was not, if they want to know, by one report that names the recipient, and by one more for
//!   each crash that came before it was written down that they know. The same holds for what is late and for what has arrived. No
//!   report tells what nobody wanted to know, or is not so; none is lost; none is about a report.
//! * Nobody is given up on before their time.
//! * What was refused, or never sent whole, is not delivered.
//! * Nobody gets a message that was not for them: no recipient outlives its transaction.
//! * What is written down of a recipient holds: nobody is tried again after that, whatever crashes, stops, or moves.
//! * What was said in the clear behind STARTTLS is not known inside TLS.
//! * A server that stops breaks off no transaction before its time, tells whoever is idle, comes to its end, and leaves no torn
//!   batch.
//! * Buffers stay within their bounds, and all room is given back.
//! * Every client gets its answers, every connection ends, and in the end nothing waits.
//!
//! `ONETRIP_SIM_SEED=N cargo test --test sim` plays one seed again and tells what happens; `ONETRIP_SIM_SEEDS=N` plays the first so many.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod chance;
mod client;
mod delivering;
#[path = "../support/disk.rs"]
mod disk;
mod ending;
mod hop;
mod letter;
mod net;
mod plan;
mod process;
mod rambler;
mod report;
mod seen;
mod server;
mod sink;
mod start;
mod storage;
#[path = "../support/mod.rs"]
mod support;
mod taking;
mod world;

use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use plan::Sabotage;
use seen::Seen;
use world::World;

/// Plays one seed, and tells what happens.
const SEED_VARIABLE: &str = "ONETRIP_SIM_SEED";
/// Plays so many seeds.
const SEEDS_VARIABLE: &str = "ONETRIP_SIM_SEEDS";
const SEEDS: u64 = 3_000;

/// Within so many seeds a broken server must be found.
const SEEDS_UNTIL_FOUND: u64 = 400;

#[test]
fn what_is_acknowledged_arrives_once_and_unaltered_whatever_happens() {
    if let Ok(seed) = env::var(SEED_VARIABLE) {
        World::new(seed.parse().expect("a number"), Sabotage::None, true).run();
        return;
    }
    let seeds = env::var(SEEDS_VARIABLE).map_or(SEEDS, |seeds| seeds.parse().expect("a number"));
    let seen = play_all(seeds);
    let all = [
        seen.acknowledged,
        seen.uncertain,
        seen.resumed,
        seen.early_accepted,
        seen.early_rejected,
        seen.repeats,
        seen.waited,
        seen.crashes,
        seen.recovered,
        seen.failed_writes,
        seen.pieces,
        seen.rambled,
        seen.drains,
        seen.cut,
        seen.hurried,
        seen.handshakes_left,
        seen.waited_outside,
        seen.turned_away,
        seen.grown,
        seen.shrunk,
        seen.crashed_starts,
        seen.moved,
        seen.reports,
        seen.expired,
    ];
    assert!(seeds < SEEDS || all.iter().all(|count| *count > 0), "something never happened: {seen:?}");
    #[allow(clippy::print_stdout, reason = "for --nocapture")]
    {
        println!("{seeds} seeds: {seen:?}");
    }
}

/// Plays the first so many seeds on all processors.
fn play_all(seeds: u64) -> Seen {
    let (next, sum) = (AtomicU64::new(0), Mutex::new(Seen::default()));
    let play = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let played = catch_unwind(AssertUnwindSafe(|| World::new(seed, Sabotage::None, false).run()));
            let Ok(seen) = played else {
                panic!("play it again with {SEED_VARIABLE}={seed} cargo test --test sim whatever -- --nocapture");
            };
            sum.lock().unwrap().add(&seen);
        }
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let players: Vec<_> = (0..threads).map(|_| scope.spawn(play)).collect();
        for player in players {
            assert!(player.join().is_ok(), "a seed failed; its number is above");
        }
    });
    sum.into_inner().unwrap()
}

/// A server that is broken so must be found, and found for one of these.
fn assert_found(sabotage: Sabotage, symptoms: &[&str]) {
    for seed in 0..SEEDS_UNTIL_FOUND {
        let Err(words) = catch_unwind(AssertUnwindSafe(|| World::new(seed, sabotage, false).run())) else {
            continue;
        };
        let plain = words.downcast_ref::<&str>().map(ToString::to_string);
        let words = words.downcast_ref::<String>().cloned().or(plain).unwrap_or_default();
        let is_expected = symptoms.iter().any(|symptom| words.contains(symptom));
        assert!(is_expected, "seed {seed} found {sabotage:?} by something else: {words}");
        #[allow(clippy::print_stdout, reason = "for --nocapture")]
        {
            println!("{sabotage:?} is found by seed {seed}: {words}");
        }
        return;
    }
    panic!("{sabotage:?} is not found");
}

#[test]
fn a_server_that_answers_before_the_disk_has_the_message_is_found() {
    assert_found(Sabotage::AnswersTooEarly, &["never delivered"]);
}

#[test]
fn a_disk_that_says_done_too_early_is_found() {
    assert_found(
        Sabotage::SyncsNothing,
        &["never delivered", "a crash damages nothing", "of whom all is written down"],
    );
}

#[test]
fn a_server_that_looks_at_no_token_is_found() {
    assert_found(Sabotage::ForgetsTokens, &["at most 1 may be"]);
}

#[test]
fn a_server_that_loses_its_tokens_in_a_restart_is_found() {
    assert_found(Sabotage::LosesTokens, &["at most 1 may be"]);
}

#[test]
fn a_server_that_delivers_again_without_a_warning_is_found() {
    assert_found(Sabotage::WarnsNobody, &["nobody was warned", "of whom all is written down"]);
}

#[test]
fn a_server_that_breaks_off_transactions_when_it_is_told_to_stop_is_found() {
    assert_found(Sabotage::CutsTransactions, &["was broken off"]);
}

#[test]
fn a_server_that_stops_without_writing_down_what_it_has_noted_is_found() {
    assert_found(Sabotage::StopsAtOnce, &["of whom all is written down"]);
}

#[test]
fn a_server_that_does_not_look_for_logs_of_shards_that_are_no_more_is_found() {
    // The tokens of what lies there are forgotten with it.
    assert_found(Sabotage::ForgetsLogs, &["never delivered", "at most 1 may be"]);
}

#[test]
fn a_server_that_tells_no_sender_of_a_failure_is_found() {
    assert_found(Sabotage::FailsSilently, &["nobody heard"]);
}
