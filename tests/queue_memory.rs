//! What a queued message costs in memory, counted at the allocator: in the queue and in the index of the spool.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "it says what it measured")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use onetrip::proto::command::{Command, parse};
use onetrip::proto::envelope::Envelope;
use onetrip::proto::message::{Message, MessageId};
use onetrip::relay::Destination;
use onetrip::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use onetrip::relay::queue::{Arrival, Queue, QueueSettings, Step};
use onetrip::relay::route::Routes;
use onetrip::runtime::spool::log_settings;
use onetrip::spool::log::Log;
use onetrip::spool::upkeep::Upkeep;
use onetrip::time::Now;

/// The system's allocator, with a count of the bytes that each thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<i64> = const { Cell::new(0) };
}

fn count(bytes: i64) {
    HELD.with(|held| held.set(held.get() + bytes));
}

// SAFETY: everything is passed on to the system's allocator unchanged; counting touches no memory that it manages.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Just beyond where the index of the spool has grown last, so that the room for more counts.
const MESSAGES: u32 = 120_000;
/// How many go into one batch.
const TOGETHER: u32 = 64;
/// The promise of the manual.
const BYTES_MAX: i64 = 200;

fn envelope() -> Envelope {
    let mut envelope = Envelope::default();
    let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<ann@example.org>").command else { panic!("MAIL") };
    envelope.begin(&mail, "ann");
    let Ok(Command::Rcpt(rcpt)) = parse(b"RCPT TO:<bob@example.com>").command else { panic!("RCPT") };
    envelope.add(&rcpt);
    envelope
}

fn held() -> i64 {
    HELD.with(Cell::get)
}

/// Writes whatever is to be written, and forgets it.
fn settle(log: &mut Log, now: Now) {
    loop {
        if log.poll_write(now).is_some() {
            log.handle_written(Ok(()));
        } else {
            match log.poll_upkeep(now) {
                Some(Upkeep::Prepare { .. }) => log.handle_prepared(now, Ok(())),
                Some(Upkeep::Remove(_)) => log.handle_removed(now, Ok(())),
                Some(Upkeep::Read { .. }) => unreachable!("nothing is cleaned while everything is needed"),
                None => break,
            }
        }
        log.take_completions();
    }
}

#[test]
fn a_queued_message_has_less_than_200_bytes_new_or_put_off() {
    let now = Now::simulated_ms(1_000);
    let mut message = Message { envelope: envelope(), content: vec![b'x'; 1_000], ..Message::EMPTY };
    let before = held();
    let mut log = Log::new(log_settings(Duration::from_secs(600)), 1);
    let routes = Arc::new(Routes::new(Destination::Discard, &[], "mail.example.net"));
    let mut queue = Queue::new(QueueSettings::default(), routes, 1);
    settle(&mut log, now);
    let empty = held() - before;
    for number in 0..MESSAGES {
        message.id = MessageId::new(now.unix + Duration::from_micros(number.into()), 0, number);
        log.append_message(now, &message, number.into()).unwrap();
        if number % TOGETHER == 0 {
            settle(&mut log, now);
        }
        queue.add(Arrival { id: message.id, bytes: 4_096, envelope: &message.envelope });
    }
    let each = || (held() - before - empty) / i64::from(MESSAGES);
    settle(&mut log, now);
    let new = each();
    for number in 0..MESSAGES {
        let Some(Step::Deliver(attempt)) = queue.poll(now, |_| 1) else { panic!("an attempt") };
        let reason = Reason { status: "4.2.0".into(), text: "451 later".into(), remote: None, passes_dsn: false };
        let result = AttemptResult { outcomes: vec![(0, Outcome::Deferred(reason))], hop: Hop::Reached };
        let note = queue.handle_result(now, &attempt, &result).note.unwrap();
        log.note(now, &note, None);
        if number % TOGETHER == 0 {
            log.hurry();
            settle(&mut log, now);
        }
    }
    log.hurry();
    settle(&mut log, now);
    let put_off = each();
    drop((queue, log));
    let left = held() - before;
    eprintln!("{new} bytes of a new message, {put_off} of one that was put off");
    assert!(new < BYTES_MAX && put_off < BYTES_MAX, "{new}, {put_off}");
    assert_eq!(left, 0, "nothing is left of it");
}
