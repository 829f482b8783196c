//! The spool over real files and on a real executor.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use tempfile::TempDir;

use super::files::Files;
use super::{OpenedLog, Spool, SpoolParts, SpoolSettings, log_settings, open, spool_directory};
use crate::observe::event::{Severity, SpoolDamaged};
use crate::observe::log::LogFormat;
use crate::observe::metrics::Metrics;
use crate::proto::message::{Message, MessageId, Piece, Pieces};
use crate::relay::SyncPolicy;
use crate::runtime::clock::Clock;
use crate::runtime::log_writer::LogWriter;
use crate::spool::frame::SegmentHeader;
use crate::spool::log::{LogSettings, Note};
use crate::spool::once::{OnceKey, StoredToken};
use crate::spool::record::Token;
use crate::spool::tests::message as envelope_of;
use crate::spool::{Progress, RecipientState};

fn message(number: u32, content: &[u8]) -> Box<Message> {
    let mail = format!("MAIL FROM:<a{number}@b.example> XONCE=t{number}");
    let mut message = envelope_of(&mail, &["RCPT TO:<c@d.example>"], content);
    let time = Duration::from_secs(1_900_000_000) + Duration::from_millis(number.into());
    message.id = MessageId::new(time, 0, number);
    Box::new(message)
}

const REPEATS_WITHIN: Duration = Duration::from_secs(600);

struct Place {
    directory: TempDir,
    log: LogSettings,
}

/// What a start finds.
struct Found {
    logs: Vec<OpenedLog>,
    damage: Vec<SpoolDamaged>,
    tokens: Vec<String>,
}

impl Place {
    fn new() -> Self {
        // Small segments, so that there are many.
        let log =
            LogSettings { segment_bytes: 256 << 10, part_bytes: 32 << 10, ..log_settings(Duration::from_secs(1)) };
        Self { directory: tempfile::tempdir().unwrap(), log }
    }

    fn open(&self, shards: u16) -> Found {
        let settings = SpoolSettings {
            path: spool_directory(self.directory.path()),
            shards,
            sync: SyncPolicy::Commit,
            log: self.log,
            repeats_within: REPEATS_WITHIN,
        };
        let mut tokens = Vec::new();
        let opened = open(&settings, Clock::start().now(), &mut |token| {
            tokens.push(token.token.to_owned());
            stored(token)
        })
        .unwrap();
        Found { logs: opened.logs, damage: opened.damage, tokens }
    }

    fn shard(&self, shard: u16) -> std::path::PathBuf {
        spool_directory(self.directory.path()).join(shard.to_string())
    }
}

fn stored(token: Token<'_>) -> StoredToken {
    let key = OnceKey::new(&[7; 32], token.user, token.token);
    StoredToken { key, message: token.id, stored_at: token.id.received() }
}

/// Runs with a spool, and stops it.
fn with<F: Future<Output = ()>>(opened: OpenedLog, work: impl FnOnce(Spool) -> F + Send + 'static) {
    let keeper = opened.start_keeper(0).unwrap();
    let metrics = Arc::new(Metrics::new("0", 1));
    let (log, writer) = LogWriter::start(LogFormat::Text, Severity::Error, Arc::clone(&metrics)).unwrap();
    let run = move || async move {
        let clock = Clock::start();
        let spool = Spool::start(SpoolParts { opened, keeper, clock, metrics: metrics.shard(0).unwrap(), log });
        work(spool.clone()).await;
        spool.stop().await;
    };
    let executor = LocalExecutorBuilder::new(Placement::Unbound).io_memory(64 << 10);
    executor.spawn(run).unwrap().join().unwrap();
    writer.stop().unwrap();
}

/// Envelope and size of each message that a start finds.
fn queued(found: &Found) -> BTreeMap<MessageId, (String, u64, Option<u32>)> {
    let mut queued = BTreeMap::new();
    for log in &found.logs {
        log.recovered(&mut |message| {
            let facts = (
                message.envelope.sender().to_owned(),
                message.bytes,
                message.progress.map(|progress| progress.attempts),
            );
            assert!(log.log.contains(message.id));
            assert!(queued.insert(message.id, facts).is_none(), "{} is found twice", message.id);
        })
        .unwrap();
    }
    queued
}

fn progress_of(id: MessageId) -> Progress {
    Progress {
        message: id,
        recipients: vec![RecipientState::Waiting],
        attempts: 4,
        next_attempt: Duration::from_secs(9),
        held: false,
        warned: false,
        last_reply: String::new(),
    }
}

/// Commits these messages, all at once, to shard 0 of `shards`.
fn commit(place: &Place, shards: u16, shard: usize, numbers: std::ops::Range<u32>, bytes: usize) {
    let opened = place.open(shards).logs.remove(shard);
    with(opened, move |spool| async move {
        let mut tasks = Vec::new();
        for number in numbers {
            let spool = spool.clone();
            tasks.push(glommio::spawn_local(async move {
                let stored = spool.commit(message(number, &vec![b'x'; bytes])).await;
                stored.result.unwrap();
            }));
        }
        for task in tasks {
            task.await;
        }
    });
}

#[test]
fn what_was_committed_is_read_back_and_found_at_the_next_start() {
    let place = Place::new();
    with(place.open(1).logs.remove(0), |spool| async move {
        for (number, bytes) in [(1, 10), (2, 100_000), (3, 0)] {
            let sent = message(number, &vec![b'x'; bytes]);
            let stored = spool.commit(sent.clone()).await;
            assert!(stored.result.is_ok());
            let read = spool.read(sent.id).await.unwrap();
            assert_eq!((read.content, read.trace), (sent.content.clone(), sent.trace.clone()));
            assert_eq!(spool.read_envelope(sent.id).await.unwrap().sender(), sent.envelope.sender());
        }
        spool.note(&Note::Progress(progress_of(message(2, b"").id)));
        spool.note_committed(&Note::Done(message(1, b"").id)).await;
        assert_eq!(spool.message_count(), 2);
        assert!(spool.read(message(1, b"").id).await.is_err(), "what is done is gone");
    });
    let found = place.open(1);
    let trace = message(2, b"").trace.len() as u64;
    let expected = [
        (message(2, b"").id, ("a2@b.example".to_owned(), 100_000 + trace, Some(4))),
        (message(3, b"").id, ("a3@b.example".to_owned(), trace, None)),
    ];
    assert_eq!(queued(&found), BTreeMap::from(expected));
    assert!(found.tokens.contains(&"t1".to_owned()), "the token of a message that is done still counts");
    assert_eq!(found.damage, []);
}

#[test]
fn a_note_is_written_although_nothing_else_comes() {
    let place = Place::new();
    with(place.open(1).logs.remove(0), |spool| async move {
        spool.commit(message(1, b"x")).await.result.unwrap();
        spool.note(&Note::Done(message(1, b"").id));
        while spool.message_count() > 0 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
    });
    assert_eq!(place.open(1).logs[0].message_count(), 0);
}

#[test]
fn a_log_of_many_segments_is_freed_as_its_messages_are_done() {
    let place = Place::new();
    with(place.open(1).logs.remove(0), |spool| async move {
        let stays = spool.commit(message(0, &[b'y'; 40_000])).await;
        let spool = Rc::new(spool);
        for number in 1..300 {
            spool.commit(message(number, &[b'x'; 20_000])).await.result.unwrap();
            spool.note_committed(&Note::Done(message(number, b"").id)).await;
        }
        let read = spool.read(stays.message.id).await.unwrap();
        assert_eq!(read.content, stays.message.content, "it was copied forward, whole");
    });
    let segments = fs::read_dir(place.shard(0)).unwrap().count();
    assert!(segments <= 9, "{segments} segments of 256 KiB for 6 MB that came and went");
    assert_eq!(place.open(1).logs[0].message_count(), 1);
}

#[test]
fn another_number_of_shards_loses_nothing() {
    let place = Place::new();
    commit(&place, 2, 0, 0..20, 1_000);
    commit(&place, 2, 1, 20..40, 50_000);
    for shards in [1, 3, 2, 1] {
        let found = place.open(shards);
        assert_eq!(queued(&found).len(), 40, "with {shards}");
        assert_eq!(found.damage, []);
        let shard_is_there = |number| place.shard(number).exists();
        assert_eq!((0..4).filter(|number| shard_is_there(*number)).count(), usize::from(shards));
    }
}

#[test]
fn a_log_that_another_was_moved_into_takes_the_next_message_at_once() {
    let place = Place::new();
    commit(&place, 2, 0, 0..1, 1_000);
    commit(&place, 2, 1, 1..2, 1_000);
    commit(&place, 1, 0, 2..3, 1_000);
    assert_eq!(queued(&place.open(1)).len(), 3);
}

#[test]
fn a_move_between_logs_that_was_interrupted_leaves_no_message_twice() {
    let place = Place::new();
    commit(&place, 2, 1, 0..20, 1_000);
    let copy = place.directory.path().join("copy");
    copy_directory(&place.shard(1), &copy);
    assert_eq!(queued(&place.open(1)).len(), 20);
    // The crash came before the old log was removed.
    copy_directory(&copy, &place.shard(1));
    assert_eq!(queued(&place.open(1)).len(), 20);
    copy_directory(&copy, &place.shard(1));
    let found = place.open(2);
    assert_eq!(queued(&found).len(), 20);
    drop(found);
    assert_eq!(queued(&place.open(2)).len(), 20);
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// A message of shard 0 or 1 whose token the other one has, too.
fn repeated(number: u32) -> Box<Message> {
    let mut message = message(number, b"content");
    message.envelope = envelope_of("MAIL FROM:<a@b.example> XONCE=again", &["RCPT TO:<c@d.example>"], b"").envelope;
    message
}

#[test]
fn of_two_messages_with_one_token_the_one_that_was_refused_is_not_queued_at_this_start_or_at_later_ones() {
    for was_refused in [true, false] {
        let place = Place::new();
        let copy = place.directory.path().join("copy");
        for shard in [0, 1] {
            let (from, to) = (place.shard(shard), copy.clone());
            with(place.open(2).logs.remove(shard.into()), move |spool| async move {
                spool.commit(repeated(shard.into())).await.result.unwrap();
                if shard == 0 {
                    copy_directory(&from, &to);
                }
            });
        }
        if was_refused {
            // The machine stopped when nothing was written yet behind the first message.
            copy_directory(&copy, &place.shard(0));
        }
        let (old, new) = (repeated(0).id, repeated(1).id);
        for shards in [2, 2, 1] {
            let found = queued(&place.open(shards));
            assert!(found.contains_key(&new));
            assert_eq!(found.contains_key(&old), !was_refused, "{shards} shards");
        }
    }
}

#[test]
fn what_is_damaged_is_set_aside_and_told_once_and_the_rest_is_found() {
    let place = Place::new();
    for number in 0..5 {
        commit(&place, 1, 0, number..number + 1, 1_000);
    }
    let victim = fs::read_dir(place.shard(0)).unwrap().map(|entry| entry.unwrap().path()).find(|path| {
        let bytes = fs::read(path).unwrap();
        bytes.windows(4).any(|window| window == b"<a2@" || window == b"a2@b")
    });
    let victim = victim.unwrap();
    let mut bytes = fs::read(&victim).unwrap();
    let at = bytes.windows(4).position(|window| window == b"xxxx").unwrap();
    bytes[at] ^= 1;
    fs::write(&victim, &bytes).unwrap();
    let found = place.open(1);
    assert_eq!(queued(&found).len(), 4);
    assert_eq!(found.damage.len(), 1);
    let kept = fs::read(found.damage[0].kept.as_ref()).unwrap();
    assert!(kept.windows(4).any(|window| window == b"a2@b"), "what is set aside is the record");
    assert_eq!(place.open(1).damage, [], "it is told once");
}

/// Changes a byte in the content of the one message that is queued.
fn damage(place: &Place) {
    for entry in fs::read_dir(place.shard(0)).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(8).position(|window| window == b"xxxxxxxx") {
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
    }
}

#[test]
fn a_copy_of_damage_that_was_cut_short_is_no_copy_and_the_damage_is_told_again() {
    let place = Place::new();
    commit(&place, 1, 0, 0..1, 1_000);
    damage(&place);
    let told = place.open(1).damage.remove(0);
    let whole = fs::read(told.kept.as_ref()).unwrap();
    for cut in [0, 1, whole.len() - 1] {
        fs::write(told.kept.as_ref(), &whole[..cut]).unwrap();
        let mut found = place.open(1);
        let again = found.damage.pop().unwrap_or_else(|| panic!("{cut} bytes pass for all {}", whole.len()));
        assert_ne!(again.kept, told.kept);
        assert_eq!(fs::read(again.kept.as_ref()).unwrap(), whole);
        assert_eq!(place.open(1).damage, [], "it is told once");
        fs::remove_file(again.kept.as_ref()).unwrap();
    }
}

#[test]
fn damage_that_can_be_kept_nowhere_is_told_with_the_place_and_the_reason() {
    let place = Place::new();
    commit(&place, 1, 0, 0..1, 1_000);
    damage(&place);
    let kept = place.open(1).damage.remove(0).kept;
    fs::remove_file(kept.as_ref()).unwrap();
    symlink(kept.as_ref(), kept.as_ref()).unwrap();
    let settings = SpoolSettings {
        path: spool_directory(place.directory.path()),
        shards: 1,
        sync: SyncPolicy::Commit,
        log: place.log,
        repeats_within: REPEATS_WITHIN,
    };
    let fault = open(&settings, Clock::start().now(), &mut stored).unwrap_err().to_string();
    assert!(fault.contains(kept.as_ref()), "{fault}");
}

#[test]
fn damage_at_the_same_place_of_another_log_is_kept_beside_what_was_kept_before() {
    let mut kept = Vec::new();
    let place = Place::new();
    for number in 0..3 {
        commit(&place, 1, 0, number..number + 1, 1_000);
        damage(&place);
        let told = place.open(1).damage.remove(0);
        kept.push((told.kept.clone(), fs::read(told.kept.as_ref()).unwrap()));
        // Somebody begins with an empty spool, and its numbers begin anew.
        fs::remove_dir_all(place.shard(0)).unwrap();
    }
    for (number, (path, bytes)) in kept.iter().enumerate() {
        assert_eq!(&fs::read(path.as_ref()).unwrap(), bytes);
        let name = format!("a{number}@b");
        assert!(bytes.windows(4).any(|window| window == name.as_bytes()), "{path} has another one's bytes");
    }
}

#[test]
fn the_message_that_a_lost_part_belonged_to_is_named() {
    let place = Place::new();
    commit(&place, 1, 0, 7..8, 100_000);
    commit(&place, 1, 0, 8..9, 10);
    for entry in fs::read_dir(place.shard(0)).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(1_000).position(|window| window == [b'x'; 1_000]) {
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
        }
    }
    let found = place.open(1);
    assert_eq!(queued(&found).len(), 1);
    let lost = found.damage.iter().find_map(|damage| damage.message.as_deref());
    assert_eq!(lost, Some(message(7, b"").id.as_str()));
}

#[test]
fn what_a_crash_left_half_made_is_removed() {
    let place = Place::new();
    place.open(1);
    fs::write(place.shard(0).join("new"), b"half").unwrap();
    place.open(1);
    assert!(!place.shard(0).join("new").exists());
}

#[test]
fn a_segment_that_could_not_be_used_again_is_there_under_neither_number() {
    let place = Place::new();
    let files = Files::open(place.shard(0), SyncPolicy::Commit).unwrap();
    // It takes another name, and nothing else.
    symlink("/dev/full", files.segment(1)).unwrap();
    let header = SegmentHeader { number: 2, bytes: place.log.segment_bytes, seed: 7 };
    files.prepare(header, Some(1)).unwrap_err();
    assert_eq!(files.numbers().unwrap(), [0_u32; 0]);
    files.remove(1).unwrap();
    files.prepare(SegmentHeader { number: 3, ..header }, None).unwrap();
}

/// Puts something in the place of each segment that reads the same, and can be synced, but takes no write.
fn seal(place: &Place) -> Vec<OwnedFd> {
    let entries = fs::read_dir(place.shard(0)).unwrap().map(|entry| entry.unwrap().path());
    let sealed = entries.map(|path| {
        let memory = memfd_create("segment", MemfdFlags::ALLOW_SEALING).unwrap();
        fs::File::from(memory.try_clone().unwrap()).write_all(&fs::read(&path).unwrap()).unwrap();
        fcntl_add_seals(&memory, SealFlags::WRITE).unwrap();
        fs::remove_file(&path).unwrap();
        symlink(format!("/proc/self/fd/{}", memory.as_raw_fd()), &path).unwrap();
        memory
    });
    sealed.collect()
}

#[test]
fn a_start_trusts_no_last_batch_that_it_cannot_write_again_however_well_it_reads() {
    let place = Place::new();
    commit(&place, 1, 0, 0..3, 1_000);
    let _sealed = seal(&place);
    let open = |sync| {
        let path = spool_directory(place.directory.path());
        let settings = SpoolSettings { path, shards: 1, sync, log: place.log, repeats_within: REPEATS_WITHIN };
        open(&settings, Clock::start().now(), &mut stored).map(|opened| opened.logs[0].message_count())
    };
    let fault = open(SyncPolicy::Commit).unwrap_err().to_string();
    assert!(fault.starts_with("the spool cannot be opened: cannot write"), "{fault}");
    assert_eq!(open(SyncPolicy::None).unwrap(), 3, "where nothing is promised nothing is written");
}

#[test]
fn a_start_changes_nothing_by_writing_the_last_batch_again() {
    let place = Place::new();
    for number in 0..3 {
        commit(&place, 1, 0, number..number + 1, 50_000);
    }
    let copy = place.directory.path().join("copy");
    copy_directory(&place.shard(0), &copy);
    for _ in 0..2 {
        assert_eq!(queued(&place.open(1)).len(), 3);
    }
    for entry in fs::read_dir(&copy).unwrap() {
        let before = entry.unwrap().path();
        let after = place.shard(0).join(before.file_name().unwrap());
        assert!(fs::read(before).unwrap() == fs::read(after).unwrap());
    }
}

#[test]
fn a_message_that_came_in_pieces_is_read_back_whole_and_others_leave_nothing() {
    let place = Place::new();
    let opened = place.open(1).logs.swap_remove(0);
    with(opened, |spool| async move {
        let piece = |of: &Message, index: u32, content: Vec<u8>| Piece { message: of.id, index, content };
        let mut whole = message(1, b"the rest");
        let mut incoming = spool.begin(whole.id);
        // Some segments full, with another message between that is given up.
        for index in 0..20 {
            let content = vec![b'a' + index as u8; 40_000];
            whole.pieces = Pieces { count: index + 1, bytes: whole.pieces.bytes + 40_000 };
            incoming.append(&piece(&whole, index, content)).await.unwrap();
            let mut given_up = spool.begin(message(100 + index, b"").id);
            given_up.append(&piece(&message(100 + index, b""), 0, vec![b'x'; 40_000])).await.unwrap();
        }
        let id = whole.id;
        incoming.commit(whole).await.result.unwrap();
        let read = spool.read(id).await.unwrap();
        let expected: Vec<u8> = (0..20).flat_map(|index| vec![b'a' + index; 40_000]).chain(*b"the rest").collect();
        assert!(read.content == expected && read.pieces == Pieces::NONE);
        assert_eq!(spool.message_count(), 1);
        spool.note_committed(&Note::Done(id)).await;
    });
    let found = place.open(1);
    assert!(queued(&found).is_empty() && found.damage.is_empty());
}

#[test]
fn pieces_without_an_end_are_no_message_at_the_next_start_and_the_log_goes_on() {
    let place = Place::new();
    for _ in 0..2 {
        let opened = place.open(1).logs.swap_remove(0);
        with(opened, |spool| async move {
            let mut incoming = spool.begin(message(1, b"").id);
            for index in 0..3 {
                let piece = Piece { message: message(1, b"").id, index, content: vec![b'x'; 40_000] };
                incoming.append(&piece).await.unwrap();
            }
            spool.commit(message(2, b"small")).await.result.unwrap();
        });
        let found = place.open(1);
        assert_eq!(queued(&found).len(), 1);
        assert_eq!(found.damage, []);
    }
}
