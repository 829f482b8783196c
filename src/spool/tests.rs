//! The log as a whole, against a disk in memory that loses, tears, fails and fills up.
//!
//! A seed decides everything. `ONETRIP_SEED=N cargo test --lib spool` plays one again, `ONETRIP_SEEDS=N` the first so many.

#[path = "../../tests/support/disk.rs"]
pub(crate) mod disk;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use self::disk::Disk;
use super::frame::{BLOCK_BYTES, BatchHeader, SegmentHeader};
use super::log::{Completion, Log, LogSettings, Note, Refusal, Write};
use super::record::Token;
use super::recovery::{Recovered, committed_before};
use super::upkeep::Upkeep;
use super::{Place, Progress, RecipientState, frame, record};
use crate::proto::command::{Command, parse};
use crate::proto::message::{Message, MessageId};
use crate::time::Now;

/// A message with this MAIL and these RCPT lines.
pub(crate) fn message(mail: &str, recipients: &[&str], content: &[u8]) -> Message {
    let mut message = Message::default();
    let Ok(Command::Mail(mail)) = parse(mail.as_bytes()).command else { panic!("{mail}") };
    message.envelope.begin(&mail, "ann");
    for rcpt in recipients {
        let Ok(Command::Rcpt(rcpt)) = parse(rcpt.as_bytes()).command else { panic!("{rcpt}") };
        message.envelope.add(&rcpt);
    }
    message.trace.extend_from_slice(b"Received: from here\r\n");
    message.content.extend_from_slice(content);
    message
}

pub(crate) const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 16 * BLOCK_BYTES,
    batch_bytes_max: 8_192,
    part_bytes: 3_000,
    waiting_bytes_max: 1 << 20,
    note_delay: Duration::from_millis(5),
    token_retention: Duration::from_secs(100),
};

/// A message of so many bytes.
pub(crate) fn simple(number: u32, bytes: usize) -> Message {
    let mut message =
        message("MAIL FROM:<a@b.example>", &["RCPT TO:<c@d.example>"], &vec![b'a' + (number % 26) as u8; bytes]);
    message.id = MessageId::new(Now::simulated_ms(u64::from(number)).unix, 0, number);
    message
}

// ── A disk ──────────────────────────────────────────────────────────────────────────────────────────────────────────

fn recover(disk: &Disk, now: Now, tokens: &mut HashSet<String>) -> Recovered {
    disk.recover(SETTINGS, now, &mut |token: Token<'_>| {
        tokens.insert(format!("{} {} {}", token.user, token.token, token.id));
    })
}

fn same(one: &Message, other: &Message) -> bool {
    let envelope = |message: &Message| {
        let recipients: Vec<_> = message.envelope.recipients().map(|to| format!("{to:?}")).collect();
        format!("{} {:?} {recipients:?}", message.envelope.sender(), message.envelope.once())
    };
    one.id == other.id && one.trace == other.trace && one.content == other.content && envelope(one) == envelope(other)
}

// ── One thing at a time ─────────────────────────────────────────────────────────────────────────────────────────────

/// Does everything that the log asks for, and everything succeeds.
fn settle(log: &mut Log, disk: &mut Disk, now: Now) {
    loop {
        if let Some(write) = log.poll_write(now) {
            disk.write(&write);
            log.handle_written(Ok(()));
        } else if !keep_up(log, disk, now) {
            return;
        }
    }
}

fn keep_up(log: &mut Log, disk: &mut Disk, now: Now) -> bool {
    match log.poll_upkeep(now) {
        Some(Upkeep::Prepare { header, recycled }) => {
            disk.prepare(header, recycled);
            log.handle_prepared(now, Ok(()));
        }
        Some(Upkeep::Remove(number)) => {
            disk.0.remove(&number);
            log.handle_removed(now, Ok(()));
        }
        Some(Upkeep::Read { place, bytes }) => {
            let bytes = disk.read(place, bytes).to_vec();
            log.handle_read(now, Some(&bytes));
        }
        None => return false,
    }
    true
}

fn now(ms: u64) -> Now {
    Now::simulated_ms(ms)
}

fn open() -> (Log, Disk) {
    let (mut log, mut disk) = (Log::new(SETTINGS, 1), Disk::default());
    settle(&mut log, &mut disk, now(0));
    (log, disk)
}

/// Three messages, each in a batch of its own.
fn three() -> (Log, Disk) {
    let (mut log, mut disk) = open();
    for number in 0..3 {
        log.append_message(now(0), &simple(number, 100), u64::from(number)).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    (log, disk)
}

#[test]
fn messages_that_wait_share_one_write_and_the_next_batch_gathers_meanwhile() {
    let (mut log, mut disk) = open();
    for number in 0..3 {
        log.append_message(now(0), &simple(number, 10), u64::from(number)).unwrap();
    }
    let first = log.poll_write(now(0)).unwrap();
    assert_eq!(first.messages, 3);
    log.append_message(now(0), &simple(3, 10), 3).unwrap();
    assert_eq!(log.poll_write(now(0)), None, "one is in flight");
    assert_eq!(log.take_completions(), [], "and nothing is promised before it is written");
    disk.write(&first);
    log.handle_written(Ok(()));
    let tickets: Vec<_> = log.take_completions().iter().map(|done| (done.ticket, done.result.is_ok())).collect();
    assert_eq!(tickets, [(0, true), (1, true), (2, true)]);
    assert_eq!(log.poll_write(now(0)).unwrap().messages, 1);
}

#[test]
fn notes_wait_a_moment_for_company_and_never_longer() {
    let (mut log, mut disk) = three();
    log.note(now(10), &Note::Done(simple(0, 0).id), None);
    assert_eq!(log.poll_write(now(10)), None);
    assert_eq!(log.poll_timeout(now(10)), Some(now(15).monotonic));
    let write = log.poll_write(now(15)).unwrap();
    disk.write(&write);
    log.handle_written(Ok(()));
    assert_eq!(log.message_count(), 2);
    log.note(now(20), &Note::Done(simple(1, 0).id), None);
    log.append_message(now(20), &simple(9, 10), 9).unwrap();
    assert!(log.poll_write(now(20)).is_some(), "a message takes the notes along at once");
}

#[test]
fn a_failed_write_fails_its_messages_keeps_its_notes_and_is_never_repeated_there() {
    let (mut log, mut disk) = three();
    log.note(now(0), &Note::Done(simple(0, 0).id), None);
    log.append_message(now(0), &simple(7, 10), 7).unwrap();
    let failed = log.poll_write(now(0)).unwrap();
    disk.write(&failed);
    log.handle_written(Err(Refusal::Fault));
    assert_eq!(log.take_completions().last().unwrap().result, Err(Refusal::Fault));
    settle(&mut log, &mut disk, now(0));
    assert_eq!(log.message_count(), 2, "the note came through");
    let mut tokens = HashSet::new();
    let recovered = recover(&disk, now(0), &mut tokens);
    assert!(!recovered.log.contains(simple(7, 0).id), "although all of it is on the disk");
    assert_eq!((recovered.log.message_count(), recovered.damage.len()), (2, 0));
    let (write, fresh) = (failed.place.segment, *disk.0.keys().last().unwrap());
    assert!(fresh > write);
}

#[test]
fn a_refused_message_is_disowned_on_the_disk_although_nothing_else_is_to_be_written() {
    let (mut log, mut disk) = three();
    log.append_message(now(0), &simple(7, 10), 7).unwrap();
    let failed = log.poll_write(now(0)).unwrap();
    disk.write(&failed);
    assert!(recover(&disk, now(0), &mut HashSet::new()).log.contains(simple(7, 0).id), "all of it is on the disk");
    log.handle_written(Err(Refusal::Fault));
    settle(&mut log, &mut disk, now(0));
    assert!(!recover(&disk, now(0), &mut HashSet::new()).log.contains(simple(7, 0).id));
    assert!(log.is_idle() && log.waiting_bytes() == 0);
}

/// A message that is refused because its batch failed, all of it on the disk, and after it nothing.
fn refused_and_on_the_disk() -> (Log, Disk, MessageId) {
    let (mut log, mut disk) = three();
    let refused = simple(7, 10);
    log.append_message(now(0), &refused, 7).unwrap();
    disk.write(&log.poll_write(now(0)).unwrap());
    log.handle_written(Err(Refusal::Fault));
    (log, disk, refused.id)
}

#[test]
fn a_refused_message_is_disowned_although_the_batch_that_was_to_say_so_fails_too() {
    let (mut log, mut disk, refused) = refused_and_on_the_disk();
    while log.poll_write(now(0)).is_none() {
        assert!(keep_up(&mut log, &mut disk, now(0)));
    }
    log.handle_written(Err(Refusal::Fault));
    let segments = disk.0.len();
    settle(&mut log, &mut disk, now(0));
    assert_eq!(disk.0.len(), segments, "it makes no segment after the other");
    settle(&mut log, &mut disk, now(2_000));
    assert!(!recover(&disk, now(2_000), &mut HashSet::new()).log.contains(refused));
}

#[test]
fn a_refused_message_stays_whole_on_the_disk_until_it_is_disowned() {
    let (mut log, mut disk) = open();
    let refused = simple(7, 200_000);
    log.append_message(now(0), &refused, 7).unwrap();
    loop {
        let Some(write) = log.poll_write(now(0)) else {
            assert!(keep_up(&mut log, &mut disk, now(0)));
            continue;
        };
        disk.write(&write);
        if write.messages > 0 {
            break log.handle_written(Err(Refusal::Fault));
        }
        log.handle_written(Ok(()));
    }
    let segments: Vec<_> = disk.0.keys().copied().collect();
    assert!(segments.len() > 2);
    while keep_up(&mut log, &mut disk, now(0)) {}
    let found = recover(&disk, now(0), &mut HashSet::new());
    assert!(found.log.contains(refused.id) && found.damage.is_empty(), "{:?}", found.damage);
    assert!(found.log.may_be_refused(refused.id));
    settle(&mut log, &mut disk, now(0));
    assert!(!recover(&disk, now(0), &mut HashSet::new()).log.contains(refused.id));
    assert!(log.segment_count() < segments.len(), "what it took is free");
}

#[test]
fn a_refused_message_is_disowned_when_there_is_a_segment_again_and_at_a_stop_in_good_order() {
    for stops in [false, true] {
        let (mut log, mut disk, refused) = refused_and_on_the_disk();
        // No segment is to be had for a while, so that what waits is given up.
        let mut ms = 0;
        while !log.is_idle() {
            if let Some(Upkeep::Prepare { .. }) = log.poll_upkeep(now(ms)) {
                log.handle_prepared(now(ms), Err(Refusal::Full));
            } else if log.poll_write(now(ms)).is_some() {
                log.handle_written(Err(Refusal::Fault));
            }
            ms += 2_000;
        }
        if stops {
            log.close(now(ms));
            assert!(!log.is_idle(), "it has something to say yet");
        }
        settle(&mut log, &mut disk, now(ms));
        assert!(!recover(&disk, now(ms), &mut HashSet::new()).log.contains(refused), "stops: {stops}");
    }
}

#[test]
fn only_what_lies_in_the_last_batch_may_have_been_refused() {
    let (mut log, mut disk) = three();
    let may_be_refused = |disk: &Disk| {
        let found = recover(disk, now(0), &mut HashSet::new()).log;
        (0..4).filter(|number| found.may_be_refused(simple(*number, 0).id)).collect::<Vec<_>>()
    };
    assert_eq!(may_be_refused(&disk), [2]);
    log.append_message(now(0), &simple(3, 2_900), 3).unwrap();
    let write = log.poll_write(now(0)).unwrap();
    let mut sectors = 0..;
    disk.tear(&write, || sectors.next() != Some(5));
    assert_eq!(may_be_refused(&disk), [0_u32; 0], "another write was begun behind it, and was torn");
    disk.write(&write);
    assert_eq!(may_be_refused(&disk), [3]);
    log.handle_written(Ok(()));
    log.close(now(0));
    settle(&mut log, &mut disk, now(0));
    assert_eq!(may_be_refused(&disk), [0_u32; 0], "an empty one lies behind it");
}

#[test]
fn progress_is_read_back_however_many_recipients_there_are() {
    let (mut log, mut disk) = three();
    let id = simple(1, 0).id;
    for recipients in [1, 3_000, 5_000, 60_000] {
        let progress = Progress { recipients: vec![RecipientState::Delivered; recipients], ..progress_of(id, 2) };
        log.note(now(0), &Note::Progress(progress.clone()), None);
        settle(&mut log, &mut disk, now(9));
        assert_eq!(disk.message(&log, id).1.as_ref(), Some(&progress));
        let recovered = recover(&disk, now(9), &mut HashSet::new()).log;
        assert_eq!(disk.message(&recovered, id).1, Some(progress));
    }
}

#[test]
fn in_a_segment_that_is_about_to_be_used_again_nothing_counts_whatever_its_messages_say() {
    let (_, mut disk) = three();
    // What a user who knows the format has sent: a batch as it would lie in the next segment, with a message in it.
    let (number, place) = (9, Place { segment: 9, offset: BLOCK_BYTES });
    let mut batch = Vec::new();
    let forged = simple(77, 10);
    frame::append(&mut batch, record::kind::MESSAGE, |out| record::write_message(&forged, 0, 0, &forged.content, out));
    frame::seal(&mut batch, BatchHeader { number: 99, seed: 5, place, committed: place, bytes: 0 });
    let mut segment = SegmentHeader { number: 2, bytes: SETTINGS.segment_bytes, seed: 3 }.encode();
    segment.extend_from_slice(&batch);
    segment.resize(SETTINGS.segment_bytes as usize, 0);
    assert_eq!(committed_before(&segment, number), None);
    disk.0.insert(number, segment);
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    assert_eq!((recovered.log.message_count(), recovered.damage.len()), (3, 0));
}

#[test]
fn while_the_disk_is_full_messages_are_refused_and_notes_still_find_room() {
    let (mut log, mut disk) = open();
    let mut number = 0;
    let refused = loop {
        if let Err(failure) = log.append_message(now(0), &simple(number, 2_000), u64::from(number)) {
            break failure;
        }
        number += 1;
        while let Some(write) = log.poll_write(now(0)) {
            disk.write(&write);
            log.handle_written(Ok(()));
        }
        if let Some(Upkeep::Prepare { .. }) = log.poll_upkeep(now(0)) {
            log.handle_prepared(now(0), Err(Refusal::Full));
        }
    };
    assert_eq!(refused, Refusal::Full);
    for number in 0..number {
        log.note(now(10), &Note::Done(simple(number, 0).id), None);
    }
    let write = log.poll_write(now(100)).expect("there is room for notes");
    disk.write(&write);
    log.handle_written(Ok(()));
    assert_eq!(log.message_count(), 0);
    let later = now(2_000);
    settle(&mut log, &mut disk, later);
    log.append_message(later, &simple(99, 100), 99).expect("there is room again");
}

#[test]
fn a_disk_that_fills_up_and_empties_holds_no_more_than_before() {
    let (mut log, mut disk) = open();
    for number in 0..500 {
        let at = now(u64::from(number) * 10);
        log.append_message(at, &simple(number, 2_500), 0).unwrap();
        settle(&mut log, &mut disk, at);
        log.note(at, &Note::Done(simple(number, 0).id), None);
    }
    settle(&mut log, &mut disk, now(10_000));
    assert_eq!(log.message_count(), 0);
    assert!(disk.0.len() <= 4, "{} segments", disk.0.len());
}

#[test]
fn one_message_that_stays_does_not_keep_all_that_came_after_it() {
    let (mut log, mut disk) = open();
    let mut stays = simple(0, 5_000);
    stays.envelope = message("MAIL FROM:<a@b.example> XONCE=t", &["RCPT TO:<c@d.example>"], b"").envelope;
    log.append_message(now(0), &stays, 0).unwrap();
    settle(&mut log, &mut disk, now(0));
    let progress = progress_of(stays.id, 3);
    log.note(now(0), &Note::Progress(progress.clone()), None);
    for number in 1..500 {
        log.append_message(now(10), &simple(number, 2_500), 0).unwrap();
        settle(&mut log, &mut disk, now(10));
        log.note(now(10), &Note::Done(simple(number, 0).id), None);
    }
    settle(&mut log, &mut disk, now(100));
    assert!(disk.0.len() <= 8, "{} segments", disk.0.len());
    let (found, newest) = disk.message(&log, stays.id);
    assert!(same(&found, &stays) && newest == Some(progress.clone()));
    let mut tokens = HashSet::new();
    let recovered = recover(&disk, now(100), &mut tokens);
    let (found, newest) = disk.message(&recovered.log, stays.id);
    assert!(same(&found, &stays) && newest == Some(progress));
    assert!(tokens.contains(&format!("ann t {}", stays.id)));
}

#[test]
fn a_copy_never_wins_over_progress_that_was_noted_before_it() {
    let (mut log, mut disk) = open();
    let stays = simple(0, 1_000);
    log.append_message(now(0), &stays, 0).unwrap();
    log.note(now(0), &Note::Progress(progress_of(stays.id, 1)), None);
    settle(&mut log, &mut disk, now(0));
    // Until the oldest segment is worth cleaning, and nothing has looked yet.
    let mut number = 0;
    while log.segment_count() <= 4 {
        keep_up(&mut log, &mut disk, now(10));
        number += 1;
        log.append_message(now(10), &simple(number, 2_500), 0).unwrap();
        while let Some(write) = log.poll_write(now(10)) {
            disk.write(&write);
            log.handle_written(Ok(()));
        }
        log.note(now(10), &Note::Done(simple(number, 0).id), None);
    }
    log.note(now(11), &Note::Progress(progress_of(stays.id, 2)), None);
    while keep_up(&mut log, &mut disk, now(11)) {}
    settle(&mut log, &mut disk, now(100));
    let recovered = recover(&disk, now(100), &mut HashSet::new());
    assert_eq!(disk.message(&recovered.log, stays.id).1, Some(progress_of(stays.id, 2)));
}

/// A message with a token, on stable storage.
fn with_token(number: u32) -> (Log, Disk, MessageId) {
    let (mut log, mut disk) = open();
    let mut once = simple(number, 100);
    once.envelope = message("MAIL FROM:<a@b.example> XONCE=t", &["RCPT TO:<c@d.example>"], b"").envelope;
    log.append_message(now(0), &once, 0).unwrap();
    settle(&mut log, &mut disk, now(0));
    (log, disk, once.id)
}

/// Many messages come and go, so that everything is copied forward; returns how many tokens are found then, and segments.
fn churn(log: &mut Log, disk: &mut Disk, ms: u64) -> (usize, usize) {
    for number in 1..500 {
        log.append_message(now(ms), &simple(number, 2_500), 0).unwrap();
        settle(log, disk, now(ms));
        log.note(now(ms), &Note::Done(simple(number, 0).id), None);
    }
    settle(log, disk, now(ms + 10));
    let mut tokens = HashSet::new();
    let recovered = recover(disk, now(ms + 10), &mut tokens);
    assert_eq!(recovered.log.message_count(), 0);
    (tokens.len(), disk.0.len())
}

#[test]
fn a_start_on_a_full_disk_has_room_for_the_notes_that_free_it() {
    for spare in [false, true] {
        let (mut log, mut disk) = open();
        for number in 0..70 {
            log.append_message(now(0), &simple(number, 2_500), 0).unwrap();
            settle(&mut log, &mut disk, now(0));
        }
        if !spare {
            // The segment that was made ahead, and has nothing in it yet.
            let last = *disk.0.keys().last().unwrap();
            assert_eq!(committed_before(&disk.0[&last], last), None);
            disk.0.remove(&last);
        }
        let most = disk.0.len();
        let mut log = recover(&disk, now(10), &mut HashSet::new()).log;
        let mut ms = 10;
        for first in (0..70).step_by(10) {
            for number in first..first + 10 {
                log.note(now(ms), &Note::Done(simple(number, 0).id), None);
            }
            for _ in 0..4 {
                ms += 2_000;
                if let Some(write) = log.poll_write(now(ms)) {
                    disk.write(&write);
                    log.handle_written(Ok(()));
                }
                match log.poll_upkeep(now(ms)) {
                    Some(Upkeep::Prepare { recycled: None, .. }) if disk.0.len() >= most => {
                        log.handle_prepared(now(ms), Err(Refusal::Full));
                    }
                    Some(Upkeep::Prepare { header, recycled }) => {
                        disk.prepare(header, recycled);
                        log.handle_prepared(now(ms), Ok(()));
                    }
                    _ => {}
                }
            }
        }
        assert_eq!(log.message_count(), 0, "with a spare segment: {spare}");
        let found = recover(&disk, now(ms), &mut HashSet::new());
        assert_eq!((found.log.message_count(), found.damage.len()), (0, 0));
        log.append_message(now(ms), &simple(99, 10), 99).unwrap();
    }
}

#[test]
fn a_start_on_a_full_disk_takes_messages_again_when_there_is_room() {
    let (_, mut disk) = three();
    let mut log = recover(&disk, now(10), &mut HashSet::new()).log;
    let Some(Upkeep::Prepare { .. }) = log.poll_upkeep(now(10)) else { panic!("it asks for a segment") };
    log.handle_prepared(now(10), Err(Refusal::Full));
    assert_eq!(log.append_message(now(10), &simple(99, 10), 99), Err(Refusal::Full));
    settle(&mut log, &mut disk, now(2_000));
    log.append_message(now(2_000), &simple(99, 10), 99).unwrap();
    settle(&mut log, &mut disk, now(2_000));
    assert_eq!(recover(&disk, now(2_000), &mut HashSet::new()).log.message_count(), 4);
}

#[test]
fn a_start_on_a_full_disk_does_not_go_on_in_a_segment_that_is_gone() {
    let (mut log, mut disk) = three();
    (0..3).for_each(|number| log.note(now(0), &Note::Done(simple(number, 0).id), None));
    settle(&mut log, &mut disk, now(9));
    let mut log = recover(&disk, now(10), &mut HashSet::new()).log;
    let Some(Upkeep::Prepare { recycled: Some(_), .. }) = log.poll_upkeep(now(10)) else { panic!("all of it is free") };
    log.handle_prepared(now(10), Err(Refusal::Full));
    settle(&mut log, &mut disk, now(2_000));
    log.append_message(now(2_000), &simple(99, 10), 99).unwrap();
    settle(&mut log, &mut disk, now(2_000));
    assert!(matches!(log.take_completions()[..], [Completion { ticket: 99, result: Ok(_) }]));
}

#[test]
fn a_token_outlives_its_message_until_its_time_is_over() {
    let (mut log, mut disk, once) = with_token(0);
    log.note(now(0), &Note::Done(once), None);
    assert!(matches!(churn(&mut log, &mut disk, 10), (1, 0..=8)));
    assert!(matches!(churn(&mut log, &mut disk, 200_000), (0, 0..=8)));
}

/// Cleans for as long as there is something to clean, on a disk so slow that what one read brings is written before the next
/// one is over. Returns how many segments are left.
fn clean_slowly(log: &mut Log, disk: &mut Disk) -> usize {
    let mut idle = 0;
    for ms in (1_000..).step_by(10) {
        idle = if keep_up(log, disk, now(ms)) { 0 } else { idle + 1 };
        while let Some(write) = log.poll_write(now(ms + 9)) {
            disk.write(&write);
            log.handle_written(Ok(()));
            idle = 0;
        }
        // Coming to the end of a segment is a step that asks for nothing.
        if idle > 1 {
            break;
        }
        assert!(ms < 30_000, "it goes on for ever, with {} segments", disk.0.len());
    }
    disk.0.len()
}

#[test]
fn cleaning_comes_to_an_end_with_large_records_in_small_segments() {
    let settings =
        LogSettings { segment_bytes: 6 * BLOCK_BYTES, batch_bytes_max: 6_144, part_bytes: 4_915, ..SETTINGS };
    for bytes in (2_600..20_000).step_by(100) {
        let (mut log, mut disk) = (Log::new(settings, 1), Disk::default());
        for number in 0..30 {
            log.append_message(now(0), &simple(number, bytes), 0).unwrap();
            settle(&mut log, &mut disk, now(0));
        }
        for number in (0..30).filter(|number| number % 3 > 0) {
            log.note(now(0), &Note::Done(simple(number, 0).id), None);
        }
        clean_slowly(&mut log, &mut disk);
        assert_eq!(disk.recover(settings, now(0), &mut |_| ()).log.message_count(), 10, "of {bytes} bytes");
    }
}

#[test]
fn what_is_not_there_any_more_is_passed_over_when_a_segment_is_cleaned() {
    let (mut log, mut disk) = open();
    for number in 0..100 {
        log.append_message(now(0), &simple(number, 3_000), 0).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    (1..100).for_each(|number| log.note(now(0), &Note::Done(simple(number, 0).id), None));
    disk.write(&log.poll_write(now(9)).unwrap());
    log.handle_written(Ok(()));
    let mut reads = 0;
    while let Some(upkeep) = log.poll_upkeep(now(9)) {
        match upkeep {
            Upkeep::Read { .. } => log.handle_read(now(9), Some(&[])),
            Upkeep::Prepare { .. } => log.handle_prepared(now(9), Ok(())),
            Upkeep::Remove(_) => log.handle_removed(now(9), Ok(())),
        }
        reads += 1;
        assert!(reads < 1_000, "it reads for ever");
    }
}

#[test]
fn of_a_segment_that_was_cut_short_cleaning_reads_what_is_there() {
    let (mut log, mut disk) = open();
    for number in 0..100 {
        log.append_message(now(0), &simple(number, 3_000), 0).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    let oldest = *disk.0.keys().next().unwrap();
    disk.0.get_mut(&oldest).unwrap().truncate(10 * BLOCK_BYTES as usize - 100);
    let mut log = recover(&disk, now(9), &mut HashSet::new()).log;
    (1..100).for_each(|number| log.note(now(9), &Note::Done(simple(number, 0).id), None));
    // The disk gives nothing that lies behind its end.
    (100..3_000).step_by(10).for_each(|ms| settle(&mut log, &mut disk, now(ms)));
    assert!(!disk.0.contains_key(&oldest) && disk.0.len() < 8, "{oldest} of {:?}", disk.0.keys());
    assert!(same(&disk.message(&log, simple(0, 0).id).0, &simple(0, 3_000)));
}

#[test]
fn a_log_in_use_is_cleaned_as_often_as_it_has_grown() {
    let (mut log, mut disk) = open();
    let mut most = 0;
    for number in 0..1_500 {
        let mut once = simple(number, 3_000);
        let mail = format!("MAIL FROM:<a@b.example> XONCE=t{number}");
        once.envelope = message(&mail, &["RCPT TO:<c@d.example>"], b"").envelope;
        once.id = MessageId::new(now(0).unix, 0, number);
        log.append_message(now(0), &once, 0).unwrap();
        settle(&mut log, &mut disk, now(0));
        log.note(now(0), &Note::Done(once.id), None);
        most = most.max(log.segment_count());
    }
    // What is needed, the tokens, takes little more than two: so it is cleaned as soon as there are more than four.
    assert!(most <= 5, "{most} segments");
}

#[test]
fn tokens_that_lie_scattered_are_gathered_however_slow_the_disk_is() {
    let (mut log, mut disk) = open();
    for number in 0..200 {
        let mut once = simple(number, 3_000);
        let mail = format!("MAIL FROM:<a@b.example> XONCE=t{number}");
        once.envelope = message(&mail, &["RCPT TO:<c@d.example>"], b"").envelope;
        log.append_message(now(0), &once, 0).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    (0..200).for_each(|number| log.note(now(0), &Note::Done(simple(number, 0).id), None));
    let segments = clean_slowly(&mut log, &mut disk);
    let mut tokens = HashSet::new();
    recover(&disk, now(10), &mut tokens);
    assert_eq!((tokens.len(), segments <= 6), (200, true), "{segments} segments");
}

#[test]
fn the_token_of_a_disowned_message_goes_before_the_note_that_says_so() {
    let (mut log, mut disk, once) = with_token(0);
    log.disown(now(0), once);
    settle(&mut log, &mut disk, now(10));
    let found = |disk: &Disk, ms| {
        let mut tokens = HashSet::new();
        let recovered = recover(disk, now(ms), &mut tokens).log;
        assert_eq!(recovered.message_count(), 0);
        (tokens.len(), recovered.is_disowned(once))
    };
    assert_eq!(found(&disk, 10), (1, true));
    assert_eq!(found(&disk, 200_000), (0, false), "with its token it is forgotten");
    assert!(matches!(churn(&mut log, &mut disk, 10), (0, 0..=8)));
}

#[test]
fn a_flipped_byte_anywhere_is_reported_or_harmless_and_never_gives_a_wrong_message() {
    let (mut log, mut disk) = three();
    log.close(now(0));
    settle(&mut log, &mut disk, now(0));
    let number = *disk.0.iter().find(|(number, bytes)| committed_before(bytes, **number).is_some()).unwrap().0;
    let end = 5 * BLOCK_BYTES as usize;
    for at in 0..end {
        let mut disk = disk.clone();
        disk.0.get_mut(&number).unwrap()[at] ^= 0x10;
        let recovered = recover(&disk, now(0), &mut HashSet::new());
        let found = (0..3).filter(|number| recovered.log.contains(simple(*number, 0).id));
        let mut count = 0;
        for number in found {
            assert!(same(&disk.message(&recovered.log, simple(number, 0).id).0, &simple(number, 100)), "byte {at}");
            count += 1;
        }
        assert_eq!(recovered.log.message_count(), count);
        assert!(count == 3 || !recovered.damage.is_empty() || recovered.cut_bytes > 0, "byte {at}: {count}");
        assert!(count >= 2, "byte {at} costs one message at most");
    }
}

/// A segment with one batch.
fn segment_of(mut batch: Vec<u8>, place: Place) -> Vec<u8> {
    frame::seal(&mut batch, BatchHeader { number: 1, seed: 5, place, committed: place, bytes: 0 });
    let bytes = BLOCK_BYTES + batch.len() as u32;
    let mut segment = SegmentHeader { number: place.segment, bytes, seed: 5 }.encode();
    segment.extend_from_slice(&batch);
    segment
}

#[test]
fn a_part_that_says_it_is_far_on_is_damage_and_takes_no_memory() {
    let place = Place { segment: 1, offset: BLOCK_BYTES };
    let mut batch = Vec::new();
    for index in [0, u32::MAX] {
        frame::append(&mut batch, record::kind::PART, |out| record::write_part(simple(0, 0).id, index, b"x", out));
    }
    let mut disk = Disk::default();
    disk.0.insert(1, segment_of(batch, place));
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    assert_eq!((recovered.damage.len(), recovered.log.message_count()), (1, 0));
}

#[test]
fn the_newest_record_of_a_message_says_whether_it_has_parts() {
    let place = Place { segment: 1, offset: BLOCK_BYTES };
    let mut batch = Vec::new();
    for parts in [2, 0] {
        let message = simple(0, 10);
        frame::append(&mut batch, record::kind::MESSAGE, |out| {
            record::write_message(&message, parts, 0, &message.content, out);
        });
    }
    let mut disk = Disk::default();
    disk.0.insert(1, segment_of(batch, place));
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    assert_eq!((recovered.damage.len(), recovered.log.message_count()), (0, 1));
}

#[test]
fn a_segment_that_is_gone_altogether_is_reported() {
    let (mut log, mut disk) = open();
    for number in 0..30 {
        log.append_message(now(0), &simple(number, 2_500), 0).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    let first = *disk.0.keys().next().unwrap();
    disk.0.get_mut(&first).unwrap().fill(0);
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    assert!(recovered.damage.iter().any(|damage| damage.segment == first));
    assert!(recovered.log.message_count() > 0);
}

#[test]
fn messages_are_told_in_the_order_of_the_log() {
    let (_, disk) = three();
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    let mut told = Vec::new();
    for number in recovered.log.message_segments() {
        recovered.log.visit_segment(number, &disk.0[&number], &mut |head| told.push((head.id, head.size())));
    }
    let expected: Vec<_> = (0..3).map(|number| (simple(number, 100).id, simple(number, 100).size())).collect();
    assert_eq!(told, expected);
}

#[test]
fn a_message_that_came_in_pieces_is_one_message_and_one_given_up_is_none() {
    let (mut log, mut disk) = open();
    let whole = simple(1, 700);
    let mut end = whole.clone();
    for (index, piece) in (0..).zip(whole.content[..600].chunks(200)) {
        log.append_part(now(0), whole.id, index, piece, 1).unwrap();
        settle(&mut log, &mut disk, now(0));
    }
    end.content = whole.content[600..].to_vec();
    log.append_end(now(0), &end, (3, 600), 2).unwrap();
    log.append_part(now(0), simple(2, 0).id, 0, b"nothing will come of it", 3).unwrap();
    settle(&mut log, &mut disk, now(0));
    log.abandon(simple(2, 0).id);
    assert!(same(&disk.message(&log, whole.id).0, &whole));
    let recovered = recover(&disk, now(0), &mut HashSet::new());
    assert_eq!((recovered.log.message_count(), recovered.damage.len()), (1, 0));
    assert!(same(&disk.message(&recovered.log, whole.id).0, &whole));
}

// ── Everything at once ──────────────────────────────────────────────────────────────────────────────────────────────

pub(super) fn progress_of(message: MessageId, attempts: u32) -> Progress {
    Progress {
        message,
        recipients: vec![RecipientState::Waiting],
        attempts,
        next_attempt: Duration::from_secs(u64::from(attempts)),
        held: false,
        warned: false,
        last_reply: "not now".to_owned(),
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }
}

/// What must be true of one message.
#[derive(Clone, Debug)]
struct Fate {
    message: Message,
    /// How many batches were written when its client was told that it is not stored.
    refused: Option<u64>,
    acknowledged: bool,
    /// Noted; and is it known to be written?
    done: Option<bool>,
    /// Attempts in all progress that was noted, and the newest that is known to be written.
    progress: Vec<u32>,
    progress_written: Option<u32>,
}

struct World {
    random: Random,
    log: Log,
    disk: Disk,
    /// Most segments that fit.
    capacity: usize,
    fates: HashMap<MessageId, Fate>,
    waiting: HashMap<u64, Waiting>,
    in_flight: Option<Write>,
    written: u64,
    ms: u64,
    count: u32,
}

#[derive(Clone, Copy, Debug)]
enum Waiting {
    Message(MessageId),
    Done(MessageId),
    Progress(MessageId, u32),
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        random.next();
        Self {
            log: Log::new(SETTINGS, random.next()),
            disk: Disk::default(),
            capacity: 6 + random.below(10) as usize,
            fates: HashMap::new(),
            waiting: HashMap::new(),
            in_flight: None,
            written: 0,
            ms: 0,
            count: 0,
            random,
        }
    }

    fn now(&self) -> Now {
        now(self.ms)
    }

    fn step(&mut self) {
        self.ms += self.random.below(20);
        match self.random.below(100) {
            0..30 => self.submit(),
            30..50 => self.finish_one(),
            50..60 => self.note_progress(),
            60..98 => self.work(),
            _ => self.crash(),
        }
        self.take_completions();
    }

    fn ticket(&mut self, waiting: Waiting) -> u64 {
        self.count += 1;
        self.waiting.insert(u64::from(self.count), waiting);
        u64::from(self.count)
    }

    fn submit(&mut self) {
        self.count += 1;
        let bytes = if self.random.one_in(8) { self.random.below(20_000) } else { self.random.below(800) };
        let mut message = simple(self.count, bytes as usize);
        if self.random.one_in(3) {
            let mail = format!("MAIL FROM:<a@b.example> XONCE=t{}", self.count);
            message.envelope = self::message(&mail, &["RCPT TO:<c@d.example>"], b"").envelope;
        }
        message.id = MessageId::new(self.now().unix, 0, self.count);
        let ticket = self.ticket(Waiting::Message(message.id));
        if self.log.append_message(self.now(), &message, ticket).is_err() {
            self.waiting.remove(&ticket);
            return;
        }
        let fate = Fate {
            message,
            refused: None,
            acknowledged: false,
            done: None,
            progress: Vec::new(),
            progress_written: None,
        };
        self.fates.insert(fate.message.id, fate);
    }

    fn pick(&mut self) -> Option<MessageId> {
        let mut ids: Vec<_> =
            self.fates.values().filter(|fate| fate.acknowledged && fate.done.is_none()).map(|f| f.message.id).collect();
        ids.sort_unstable();
        let at = self.random.below(ids.len().max(1) as u64) as usize;
        ids.get(at).copied()
    }

    fn finish_one(&mut self) {
        if let Some(id) = self.pick() {
            let ticket = self.random.one_in(2).then(|| self.ticket(Waiting::Done(id)));
            self.log.note(self.now(), &Note::Done(id), ticket);
            self.fates.get_mut(&id).unwrap().done = Some(false);
        }
    }

    fn note_progress(&mut self) {
        if let Some(id) = self.pick() {
            let fate = self.fates.get_mut(&id).unwrap();
            let attempts = fate.progress.last().unwrap_or(&0) + 1;
            fate.progress.push(attempts);
            let ticket = self.random.one_in(2).then(|| self.ticket(Waiting::Progress(id, attempts)));
            self.log.note(self.now(), &Note::Progress(progress_of(id, attempts)), ticket);
        }
    }

    fn work(&mut self) {
        if self.random.one_in(2)
            && let Some(write) = self.in_flight.take()
        {
            self.finish_write(&write);
        } else if self.in_flight.is_none() {
            self.in_flight = self.log.poll_write(self.now());
        }
        if self.random.one_in(2) {
            self.keep_up();
        }
    }

    fn finish_write(&mut self, write: &Write) {
        if self.random.one_in(25) {
            self.tear(write);
            let failure = if self.random.one_in(2) { Refusal::Fault } else { Refusal::Full };
            self.log.handle_written(Err(failure));
        } else {
            self.disk.write(write);
            self.log.handle_written(Ok(()));
            self.written += 1;
        }
    }

    /// Some sectors of it are written, and others not.
    fn tear(&mut self, write: &Write) {
        let keep = self.random.below(4);
        let random = &mut self.random;
        self.disk.tear(write, || match keep {
            0 => false,
            1 => true,
            _ => random.one_in(2),
        });
    }

    fn keep_up(&mut self) {
        let now = self.now();
        match self.log.poll_upkeep(now) {
            Some(Upkeep::Prepare { header, recycled }) => {
                if self.random.one_in(30) {
                    self.log.handle_prepared(now, Err(Refusal::Fault));
                } else if recycled.is_none() && self.disk.0.len() >= self.capacity {
                    self.log.handle_prepared(now, Err(Refusal::Full));
                } else {
                    self.disk.prepare(header, recycled);
                    self.log.handle_prepared(now, Ok(()));
                }
            }
            Some(Upkeep::Remove(number)) => {
                self.disk.0.remove(&number);
                self.log.handle_removed(now, Ok(()));
            }
            Some(Upkeep::Read { place, bytes }) => {
                let bytes = self.disk.read(place, bytes).to_vec();
                self.log.handle_read(now, (!self.random.one_in(50)).then_some(&bytes));
            }
            None => {}
        }
    }

    fn take_completions(&mut self) {
        for completion in self.log.take_completions() {
            let Some(waiting) = self.waiting.remove(&completion.ticket) else { continue };
            match (waiting, completion.result) {
                (Waiting::Message(id), Ok(_)) => self.fates.get_mut(&id).unwrap().acknowledged = true,
                (Waiting::Message(id), Err(_)) => self.fates.get_mut(&id).unwrap().refused = Some(self.written),
                (Waiting::Done(id), result) => {
                    result.expect("notes are never refused");
                    self.fates.get_mut(&id).unwrap().done = Some(true);
                }
                (Waiting::Progress(id, attempts), result) => {
                    result.expect("notes are never refused");
                    self.fates.get_mut(&id).unwrap().progress_written = Some(attempts);
                }
            }
        }
    }

    /// The machine stops, comes back, and everything is as it must be.
    fn crash(&mut self) {
        self.take_completions();
        if let Some(write) = self.in_flight.take() {
            self.tear(&write);
        }
        if self.random.one_in(2)
            && let Some(Upkeep::Prepare { header, recycled: Some(number) }) = self.log.poll_upkeep(self.now())
        {
            // Renamed, and its header not written yet.
            self.disk.rename(header, Some(number));
        }
        let mut tokens = HashSet::new();
        let recovered = recover(&self.disk, self.now(), &mut tokens);
        assert_eq!(recovered.damage, [], "a crash damages nothing that was committed");
        self.log = recovered.log;
        self.log.settings = SETTINGS;
        self.check(&tokens);
    }

    fn check(&mut self, tokens: &HashSet<String>) {
        self.waiting.clear();
        for id in self.log.messages() {
            assert!(self.fates.contains_key(&id), "{id} was never submitted");
        }
        let retention = SETTINGS.token_retention;
        let unix = self.now().unix;
        for (id, fate) in &mut self.fates {
            let is_there = self.log.contains(*id);
            assert!(!(is_there && fate.done == Some(true)), "{id} was done");
            let is_out = fate.refused.take().is_some_and(|written| written < self.written);
            assert!(!(is_there && is_out), "{id} was refused, and a later batch says so");
            assert!(is_there || !fate.acknowledged || fate.done.is_some(), "{id} was acknowledged");
            if let Some(token) = fate.message.envelope.once().filter(|_| fate.acknowledged) {
                let holds = id.received() + retention > unix;
                assert!(!holds || tokens.contains(&format!("ann {token} {id}")), "the token of {id} is lost");
            }
            if is_there {
                let (message, progress) = self.disk.message(&self.log, *id);
                assert!(same(&message, &fate.message), "{id} is another");
                let attempts = progress.map(|progress| progress.attempts);
                assert!(attempts >= fate.progress_written, "{id}: {attempts:?}, {:?}", fate.progress_written);
                assert!(attempts.is_none_or(|attempts| fate.progress.contains(&attempts)));
                fate.progress = attempts.into_iter().collect();
                fate.progress_written = attempts;
                (fate.acknowledged, fate.done) = (true, None);
            } else {
                // Whatever it was, it must not come back.
                fate.done = Some(true);
            }
        }
    }

    /// In the end the disk has room, and works, and everything is done.
    fn wind_up(&mut self) {
        self.capacity = usize::MAX;
        self.crash();
        while let Some(id) = self.pick() {
            self.log.note(self.now(), &Note::Done(id), None);
            self.fates.get_mut(&id).unwrap().done = Some(false);
        }
        self.ms += 10_000_000;
        settle(&mut self.log, &mut self.disk, now(self.ms));
        assert_eq!((self.log.message_count(), self.log.contents.live_bytes), (0, 0));
        assert!(self.disk.0.len() <= 4, "{} segments are left", self.disk.0.len());
        assert!(self.log.is_idle() && self.log.waiting_bytes() == 0);
    }
}

#[test]
fn what_was_acknowledged_survives_every_crash_once_and_byte_for_byte() {
    let seeds = match std::env::var("ONETRIP_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("a number");
            seed..seed + 1
        }
        Err(_) => 0..std::env::var("ONETRIP_SEEDS").map_or(SEEDS, |seeds| seeds.parse().expect("a number")),
    };
    for seed in seeds {
        let played = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            for _ in 0..STEPS {
                world.step();
            }
            world.wind_up();
        });
        assert!(played.is_ok(), "play it again with ONETRIP_SEED={seed}");
    }
}

const SEEDS: u64 = 500;
const STEPS: u32 = 400;
