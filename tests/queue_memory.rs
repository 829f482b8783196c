//! What a queued message costs in memory, counted at the allocator.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stderr, reason = "it says what it measured")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::Arc;

use onetrip::proto::command::{Command, parse};
use onetrip::proto::envelope::Envelope;
use onetrip::proto::message::MessageId;
use onetrip::relay::Destination;
use onetrip::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use onetrip::relay::queue::{Arrival, Queue, QueueSettings, Step};
use onetrip::relay::route::Routes;
use onetrip::spool::Place;
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

const MESSAGES: u32 = 100_000;
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

#[test]
fn a_queued_message_has_less_than_200_bytes_new_or_put_off() {
    let now = Now::simulated_ms(1_000);
    let envelope = envelope();
    let before = held();
    let routes = Arc::new(Routes::new(Destination::Discard, &[], "mail.example.net"));
    let mut queue = Queue::new(QueueSettings::default(), routes, 1);
    for number in 0..MESSAGES {
        let id = MessageId::new(now.unix + std::time::Duration::from_micros(number.into()), 0, number);
        queue.add(Arrival { id, place: Place { segment: 1, offset: number }, bytes: 4_096, envelope: &envelope });
    }
    let new = (held() - before) / i64::from(MESSAGES);
    for _ in 0..MESSAGES {
        let Some(Step::Deliver(attempt)) = queue.poll(now, |_| 1) else { panic!("an attempt") };
        let reason = Reason { status: "4.2.0".into(), text: "451 later".into(), remote: None, passes_dsn: false };
        let result = AttemptResult { outcomes: vec![(0, Outcome::Deferred(reason))], hop: Hop::Reached };
        queue.handle_result(now, &attempt, &result);
    }
    let put_off = (held() - before) / i64::from(MESSAGES);
    drop(queue);
    let left = held() - before;
    eprintln!("{new} bytes of a new message, {put_off} of one that was put off");
    assert!(new < BYTES_MAX && put_off < BYTES_MAX, "{new}, {put_off}");
    assert_eq!(left, 0, "nothing is left of it");
}
