//! The queue, one rule at a time.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Arrival, Attempt, Change, ListedState, Note, Queue, QueueSettings, Settled, Step};
use crate::limits::REPORTS_IN_FLIGHT_MAX;
use crate::proto::command::{Command, parse};
use crate::proto::envelope::Envelope;
use crate::proto::message::MessageId;
use crate::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use crate::relay::route::{DestinationNumber, Routes};
use crate::relay::{Destination, Route};
use crate::spool::{Progress, RecipientState};
use crate::time::Now;

/// An envelope with these recipients; what follows a space are parameters.
pub(super) fn envelope(recipients: &[&str]) -> Envelope {
    let mut envelope = Envelope::default();
    let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<ann@example.org>").command else { panic!("MAIL") };
    envelope.begin(&mail, "ann");
    for recipient in recipients {
        let (address, parameters) = recipient.split_once(' ').unwrap_or((recipient, ""));
        let line = format!("RCPT TO:<{address}> {parameters}");
        let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("{line}") };
        envelope.add(&rcpt);
    }
    envelope
}

/// Destination 0 is the default, 1 is for `b.example`, 2 for `c.example`.
pub(super) fn routes() -> Arc<Routes> {
    let rules = ["b.example", "c.example"]
        .map(|domain| Route { domain: domain.to_owned(), destination: Destination::Maildir(PathBuf::from(domain)) });
    Arc::new(Routes::new(Destination::Discard, &rules, "mail.example.net"))
}

pub(super) fn reason(text: &str) -> Reason {
    Reason { status: "4.0.0".into(), text: text.into(), remote: None, passes_dsn: false }
}

struct Fixture {
    queue: Queue,
    now_ms: u64,
    count: u32,
}

impl Fixture {
    fn new() -> Self {
        Self { queue: Queue::new(QueueSettings::default(), routes(), 1), now_ms: 1_000, count: 0 }
    }

    fn now(&self) -> Now {
        Now::simulated_ms(self.now_ms)
    }

    fn after(&mut self, duration: Duration) {
        self.now_ms += u64::try_from(duration.as_millis()).unwrap();
    }

    fn add(&mut self, recipients: &[&str]) -> MessageId {
        self.count += 1;
        let id = MessageId::new(self.now().unix, 0, self.count);
        self.queue.add(Arrival { id, bytes: 7, envelope: &envelope(recipients) });
        id
    }

    fn poll(&mut self) -> Option<Step> {
        let now = self.now();
        self.queue.poll(now, |_| 100)
    }

    fn attempt(&mut self) -> Attempt {
        match self.poll() {
            Some(Step::Deliver(attempt)) => attempt,
            other => panic!("no attempt but {other:?}"),
        }
    }

    fn settle(&mut self, attempt: &Attempt, outcome: impl Fn(u32) -> Outcome) -> Settled {
        let outcomes = attempt.recipients.iter().map(|recipient| (*recipient, outcome(*recipient))).collect();
        let now = self.now();
        self.queue.handle_result(now, attempt, &AttemptResult { outcomes, hop: Hop::Reached })
    }

    fn deliver(&mut self, attempt: &Attempt) -> Settled {
        self.settle(attempt, |_| Outcome::Delivered(reason("250 ok")))
    }

    fn defer(&mut self, attempt: &Attempt) -> Settled {
        self.settle(attempt, |_| Outcome::Deferred(reason("451 later")))
    }

    fn unreachable(&mut self, attempt: &Attempt) -> Settled {
        let now = self.now();
        let result = AttemptResult { outcomes: vec![], hop: Hop::Unreachable(reason("nobody there")) };
        self.queue.handle_result(now, attempt, &result)
    }

    /// Waits until there is something to do.
    fn sleep(&mut self) -> Duration {
        let until = self.queue.poll_timeout(self.now()).expect("there is something to wait for");
        let slept = until.saturating_sub(self.now().monotonic);
        self.now_ms += u64::try_from(slept.as_nanos().div_ceil(1_000_000)).unwrap();
        slept
    }

    fn state(&self, id: MessageId) -> Option<ListedState> {
        self.queue.find(self.now(), id).map(|listed| listed.state)
    }
}

fn progress(settled: &Settled) -> &Progress {
    match &settled.note {
        Some(Note::Progress(progress)) => progress,
        other => panic!("no progress but {other:?}"),
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

#[test]
fn a_message_that_is_delivered_at_once_is_done_and_forgotten() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example", "y@a.example"]);
    assert_eq!(site.state(id), Some(ListedState::Ready));
    let attempt = site.attempt();
    assert_eq!((attempt.message, &*attempt.recipients), (id, &[0, 1][..]));
    assert!(!attempt.may_be_there);
    assert_eq!(site.state(id), Some(ListedState::Active));
    assert!(site.poll().is_none(), "it goes once");
    assert_eq!(site.deliver(&attempt).note, Some(Note::Done(id)));
    assert!(site.queue.is_empty());
    assert_eq!((site.queue.entries.len(), site.queue.legs.len()), (0, 0));
    assert_eq!(site.queue.poll_timeout(site.now()), None);
}

#[test]
fn each_destination_has_its_own_attempt_and_none_waits_for_another() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example", "y@b.example", "z@a.example"]);
    let attempts = [site.attempt(), site.attempt()];
    let mut ways: Vec<_> = attempts.iter().map(|attempt| (attempt.destination.0, attempt.recipients.clone())).collect();
    ways.sort();
    assert_eq!(ways, [(0, vec![0, 2]), (1, vec![1])]);
    let [default, other] = if attempts[0].destination.0 == 0 {
        attempts
    } else {
        attempts.into_iter().rev().collect::<Vec<_>>().try_into().unwrap()
    };
    let settled = site.defer(&default);
    assert_eq!(progress(&settled).recipients, [RecipientState::Waiting; 3]);
    assert_eq!(site.deliver(&other).note, site.queue.note(site.now(), id));
    let Some(Note::Progress(noted)) = site.queue.note(site.now(), id) else { panic!("it is not done") };
    assert_eq!(noted.recipients, [RecipientState::Waiting, RecipientState::Delivered, RecipientState::Waiting]);
    assert_eq!((noted.attempts, &*noted.last_reply), (2, "250 ok"));
}

#[test]
fn recipients_of_one_attempt_may_fare_differently() {
    let mut site = Fixture::new();
    let id = site.add(&["0@a.example", "1@a.example", "2@a.example", "3@a.example"]);
    let attempt = site.attempt();
    // In another order than asked for, and without a word about number 3.
    let outcomes = vec![
        (2, Outcome::Failed(reason("550 no"))),
        (0, Outcome::Delivered(reason("250 ok"))),
        (1, Outcome::Deferred(reason("451 later"))),
        (9, Outcome::Delivered(reason("nobody asked"))),
    ];
    let settled = site.queue.handle_result(site.now(), &attempt, &AttemptResult { outcomes, hop: Hop::Reached });
    let expected =
        [RecipientState::Delivered, RecipientState::Waiting, RecipientState::Failed, RecipientState::Waiting];
    assert_eq!(progress(&settled).recipients, expected);
    assert_eq!(progress(&settled).last_reply, "451 later");
    site.sleep();
    let attempt = site.attempt();
    assert_eq!(attempt.recipients, [1, 3]);
    assert_eq!(attempt.last_reply.as_deref(), Some("451 later"));
    assert_eq!(site.deliver(&attempt).note, Some(Note::Done(id)));
}

#[test]
fn waits_between_attempts_double_up_to_the_longest() {
    let mut site = Fixture::new();
    site.add(&["x@a.example"]);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let attempt = site.attempt();
        let settled = site.defer(&attempt);
        let noted = progress(&settled).next_attempt - site.now().unix;
        let slept = site.sleep();
        assert!(noted.abs_diff(slept) <= Duration::from_millis(1));
        waits.push(slept.as_secs());
    }
    for (wait, shortest) in waits.iter().zip([60, 120, 240, 480, 960, 1_920, 2_700, 2_700]) {
        assert!((shortest..=shortest * 4 / 3).contains(wait), "{waits:?}");
    }
}

#[test]
fn new_mail_and_retries_take_turns() {
    let mut site = Fixture::new();
    for _ in 0..3 {
        site.add(&["x@a.example"]);
    }
    for attempt in [site.attempt(), site.attempt(), site.attempt()] {
        site.defer(&attempt);
    }
    site.after(HOUR);
    let retried: HashSet<_> = site.queue.list(site.now(), MessageId::NONE).map(|listed| listed.message).collect();
    for _ in 0..3 {
        site.add(&["x@a.example"]);
    }
    let is_retry: Vec<_> = (0..6).map(|_| retried.contains(&site.attempt().message)).collect();
    assert_eq!(is_retry.iter().filter(|is| **is).count(), 3);
    assert!(is_retry.windows(2).all(|pair| pair[0] != pair[1]), "{is_retry:?}");
}

#[test]
fn no_more_is_under_way_than_the_carrier_takes_and_a_full_one_stops_no_other() {
    let mut site = Fixture::new();
    for _ in 0..5 {
        site.add(&["x@a.example", "y@b.example"]);
    }
    let now = site.now();
    let mut under_way = [0, 0, 0];
    while let Some(step) =
        site.queue.poll(now, |number| [2, 100, 100][number.0 as usize] - under_way[number.0 as usize])
    {
        let Step::Deliver(attempt) = step else { panic!("{step:?}") };
        under_way[attempt.destination.0 as usize] += 1;
    }
    assert_eq!(under_way, [2, 5, 0]);
    assert_eq!(site.queue.depth(DestinationNumber(0)).messages, 5);
    assert_eq!(site.queue.depth(DestinationNumber(1)).in_flight, 5);
}

#[test]
fn a_dead_destination_is_probed_by_one_attempt_at_a_time_and_then_everything_flows() {
    let mut site = Fixture::new();
    // Nothing else is to wake it.
    site.queue.settings.delay_warning = site.queue.settings.lifetime;
    for _ in 0..50 {
        site.add(&["x@b.example"]);
    }
    let first: Vec<_> = (0..10).map(|_| site.attempt()).collect();
    assert_eq!(site.unreachable(&first[0]).change, Some(Change::Down(reason("nobody there"))));
    for attempt in &first[1..] {
        assert_eq!(site.unreachable(attempt).change, None);
    }
    assert_eq!(site.queue.depth(DestinationNumber(1)).failures, 1, "they all say the same");
    let (mut waits, mut probed) = (Vec::new(), HashSet::new());
    for _ in 0..12 {
        assert!(site.poll().is_none());
        waits.push(site.sleep().as_secs());
        let probe = site.attempt();
        assert!(site.poll().is_none(), "one at a time");
        probed.insert(probe.message);
        assert_eq!(site.unreachable(&probe).change, None);
    }
    assert!(waits.is_sorted_by(|a, b| a <= b || *a > 2_000), "{waits:?}");
    assert!(waits[0] >= 5 && waits[0] <= 7 && waits[11] > 2_000, "{waits:?}");
    assert_eq!(probed.len(), 12, "no message stands in the way of the others");
    site.sleep();
    let probe = site.attempt();
    assert_eq!(site.deliver(&probe).change, Some(Change::Up));
    assert_eq!((0..49).map(|_| site.attempt().message).collect::<HashSet<_>>().len(), 49, "everything flows");
}

#[test]
fn a_dead_destination_does_not_hold_up_another() {
    let mut site = Fixture::new();
    site.add(&["x@b.example"]);
    let attempt = site.attempt();
    site.unreachable(&attempt);
    let id = site.add(&["x@c.example"]);
    assert_eq!(site.attempt().message, id);
}

#[test]
fn an_attempt_that_began_before_the_destination_went_away_may_show_that_it_is_there() {
    let mut site = Fixture::new();
    site.add(&["x@b.example"]);
    site.add(&["x@b.example"]);
    let (first, second) = (site.attempt(), site.attempt());
    site.unreachable(&first);
    assert_eq!(site.deliver(&second).change, Some(Change::Up));
    assert_eq!(site.attempt().message, first.message);
}

#[test]
fn a_message_that_is_too_old_is_given_back_even_if_its_destination_was_never_reached() {
    let mut site = Fixture::new();
    let first = site.add(&["x@b.example", "y@b.example"]);
    let attempt = site.attempt();
    site.unreachable(&attempt);
    let second = site.add(&["x@b.example"]);
    site.after(QueueSettings::default().lifetime);
    for id in [first, second] {
        let Some(Step::Expire(expiry)) = site.poll() else { panic!("it is too old") };
        assert_eq!(expiry.message, id);
        let settled = site.settle(&expiry, |_| Outcome::Failed(reason("too old")));
        assert_eq!(settled.note, Some(Note::Done(id)));
        assert_eq!(settled.change, None, "nobody asked the destination");
    }
    assert!(site.queue.is_empty());
}

#[test]
fn an_expiry_that_could_not_be_told_is_tried_again() {
    let mut site = Fixture::new();
    let id = site.add(&["x@b.example"]);
    site.after(QueueSettings::default().lifetime);
    let Some(Step::Expire(expiry)) = site.poll() else { panic!("it is too old") };
    assert_eq!(progress(&site.defer(&expiry)).attempts, 0);
    assert!(site.poll().is_none());
    assert!(site.sleep().as_secs() >= 60);
    let Some(Step::Expire(again)) = site.poll() else { panic!("again") };
    assert_eq!(again.message, id);
}

#[test]
fn an_attempt_that_ends_after_the_lifetime_is_the_last_one() {
    let mut site = Fixture::new();
    site.add(&["x@b.example"]);
    let attempt = site.attempt();
    site.after(QueueSettings::default().lifetime);
    assert!(site.poll().is_none(), "what is under way is waited for");
    site.defer(&attempt);
    assert!(matches!(site.poll(), Some(Step::Expire(_))));
}

#[test]
fn only_so_many_are_given_back_at_a_time() {
    let mut site = Fixture::new();
    for _ in 0..100 {
        site.add(&["x@b.example"]);
    }
    site.after(QueueSettings::default().lifetime);
    let mut expiries: Vec<_> = std::iter::from_fn(|| site.poll()).collect();
    assert_eq!(expiries.len(), 16);
    let Some(Step::Expire(expiry)) = expiries.pop() else { panic!("an expiry") };
    site.settle(&expiry, |_| Outcome::Failed(reason("too old")));
    assert!(matches!(site.poll(), Some(Step::Expire(_))));
    assert!(site.poll().is_none());
}

#[test]
fn who_asked_for_it_is_told_of_a_delay_once() {
    let mut site = Fixture::new();
    site.add(&["x@b.example"]);
    let asked = site.add(&["x@b.example NOTIFY=DELAY,FAILURE", "y@c.example"]);
    while let Some(Step::Deliver(attempt)) = site.poll() {
        if attempt.destination.0 == 1 {
            site.defer(&attempt)
        } else {
            site.deliver(&attempt)
        };
    }
    site.after(QueueSettings::default().delay_warning);
    let mut warnings = Vec::new();
    while let Some(step) = site.poll() {
        match step {
            Step::Warn(late) => warnings.push(late),
            Step::Deliver(attempt) => drop(site.defer(&attempt)),
            Step::Expire(_) => panic!("not yet"),
        }
    }
    let [late] = &*warnings else { panic!("{warnings:?}") };
    assert_eq!((late.message, &*late.recipients), (asked, &[0][..]));
    assert_eq!(late.time_left, Duration::from_secs(5 * 86_400 - 4 * 3_600));
    let Some(Note::Progress(noted)) = site.queue.note(site.now(), asked) else { panic!("it waits") };
    assert!(noted.warned);
}

#[test]
fn no_more_senders_are_told_at_the_same_time_than_the_spool_is_read_for() {
    let mut site = Fixture::new();
    let too_many = REPORTS_IN_FLIGHT_MAX as usize + 3;
    for _ in 0..too_many {
        site.add(&["x@b.example NOTIFY=DELAY"]);
    }
    let late = |site: &mut Fixture| {
        let now = site.now();
        match site.queue.poll(now, |_| 0) {
            Some(Step::Warn(late)) => Some(late),
            None => None,
            other => panic!("no warning but {other:?}"),
        }
    };
    site.after(QueueSettings::default().delay_warning);
    let mut under_way: Vec<_> = std::iter::from_fn(|| late(&mut site)).collect();
    assert_eq!(under_way.len(), REPORTS_IN_FLIGHT_MAX as usize);
    let next = site.queue.poll_timeout(site.now());
    assert!(next.is_none_or(|next| next > site.now().monotonic), "only a warning that is over makes room");

    let mut told = 0;
    while let Some(over) = under_way.pop() {
        let now = site.now();
        assert!(matches!(site.queue.handle_warned(now, &over), Some(Note::Progress(noted)) if noted.warned));
        told += 1;
        under_way.extend(late(&mut site));
    }
    assert_eq!(told, too_many);
    site.after(QueueSettings::default().lifetime);
    let given_back = std::iter::from_fn(|| site.poll()).count();
    assert_eq!(given_back, REPORTS_IN_FLIGHT_MAX as usize, "all room is there again");
}

#[test]
fn a_destination_that_was_not_asked_is_no_more_there_than_before() {
    let mut site = Fixture::new();
    let messages = [site.add(&["x@b.example"]), site.add(&["y@b.example"])];
    let attempt = site.attempt();
    site.unreachable(&attempt);
    site.sleep();
    let probe = site.attempt();
    assert!(site.poll().is_none(), "one at a time looks");
    let unread = AttemptResult::of_all(&probe.recipients, &Outcome::Deferred(reason("the spool cannot be read")));
    let now = site.now();
    assert_eq!(site.queue.handle_result(now, &probe, &unread).change, None);
    assert_eq!(site.state(probe.message), Some(ListedState::Deferred));

    let probe_of_another = site.attempt();
    assert_ne!(probe_of_another.message, probe.message);
    assert!(messages.contains(&probe_of_another.message));
    assert!(site.poll().is_none(), "it looks in its place");
    assert_eq!(site.deliver(&probe_of_another).change, Some(Change::Up));
}

#[test]
fn what_is_held_waits_until_it_is_released() {
    let mut site = Fixture::new();
    let (fresh, put_off) = (site.add(&["x@b.example"]), site.add(&["x@c.example"]));
    for id in [site.attempt(), site.attempt()] {
        if id.message == put_off {
            site.defer(&id)
        } else {
            site.unreachable(&id)
        };
    }
    for id in [fresh, put_off] {
        let Some(Note::Progress(noted)) = site.queue.hold(site.now(), id) else { panic!("it is here") };
        assert!(noted.held);
        assert_eq!(site.state(id), Some(ListedState::Held));
    }
    site.after(QueueSettings::default().lifetime * 2);
    assert!(site.poll().is_none(), "nor does it grow old");
    assert_eq!(site.queue.poll_timeout(site.now()), None);
    let Some(Note::Progress(noted)) = site.queue.release(site.now(), fresh) else { panic!("it is here") };
    assert!(!noted.held);
    assert!(site.poll().is_some());
    assert_eq!(site.queue.hold(site.now(), MessageId::NONE), None);
}

#[test]
fn what_is_held_while_it_is_under_way_is_held_afterwards() {
    let mut site = Fixture::new();
    let id = site.add(&["x@b.example"]);
    let attempt = site.attempt();
    site.queue.hold(site.now(), id);
    assert!(progress(&site.defer(&attempt)).held);
    site.after(HOUR);
    assert!(site.poll().is_none());
    site.queue.release(site.now(), id);
    assert_eq!(site.attempt().message, id);
}

#[test]
fn what_is_removed_is_gone_and_what_was_under_way_changes_nothing() {
    let mut site = Fixture::new();
    let id = site.add(&["x@b.example", "y@c.example", "z@a.example"]);
    let attempt = site.attempt();
    assert_eq!(site.queue.remove(id), Some(Note::Done(id)));
    assert_eq!(site.queue.remove(id), None);
    assert!(site.poll().is_none());
    assert_eq!((site.queue.len(), site.state(id)), (0, None));
    assert_eq!(site.defer(&attempt).note, None);
    assert_eq!((site.queue.entries.len(), site.queue.legs.len()), (0, 0));
}

#[test]
fn flushing_brings_attempts_forward_once() {
    for flush in [
        (|queue, now, _| queue.flush_all(now)) as fn(&mut Queue, Now, MessageId),
        |queue, now, _| queue.flush_destination(now, DestinationNumber(1)),
        |queue, now, id| assert!(queue.flush(now, id)),
    ] {
        let mut site = Fixture::new();
        let id = site.add(&["x@b.example"]);
        let attempt = site.attempt();
        site.defer(&attempt);
        assert!(site.poll().is_none());
        flush(&mut site.queue, Now::simulated_ms(site.now_ms), id);
        let attempt = site.attempt();
        site.defer(&attempt);
        assert!(site.poll().is_none(), "it is not tried over and over");
        assert!(site.sleep() > Duration::from_secs(100));
        assert_eq!(site.attempt().message, id);
    }
}

#[test]
fn flushing_looks_whether_a_dead_destination_is_back() {
    let mut site = Fixture::new();
    let id = site.add(&["x@b.example"]);
    let attempt = site.attempt();
    site.unreachable(&attempt);
    assert!(site.queue.flush(site.now(), id));
    let probe = site.attempt();
    site.unreachable(&probe);
    assert!(site.poll().is_none());
    assert!(!site.queue.flush(site.now(), MessageId::NONE));
}

#[test]
fn a_queue_is_put_together_again_from_what_was_noted() {
    let mut site = Fixture::new();
    let to = ["x@a.example", "y@b.example NOTIFY=DELAY", "z@c.example"];
    let id = site.add(&to);
    for attempt in [site.attempt(), site.attempt(), site.attempt()] {
        match attempt.destination.0 {
            0 => site.deliver(&attempt),
            1 => site.defer(&attempt),
            _ => site.settle(&attempt, |_| Outcome::Failed(reason("550 no"))),
        };
    }
    let Some(Note::Progress(noted)) = site.queue.note(site.now(), id) else { panic!("it waits") };
    let mut later = Fixture::new();
    later.now_ms = site.now_ms + 1_000;
    let arrival = Arrival { id, bytes: 7, envelope: &envelope(&to) };
    assert_eq!(later.queue.restore(later.now(), arrival, Some(noted.clone())), None);
    let Some(Note::Progress(again)) = later.queue.note(later.now(), id) else { panic!("it waits") };
    assert!(again.next_attempt.abs_diff(noted.next_attempt) <= Duration::from_millis(100));
    assert_eq!(again, Progress { next_attempt: again.next_attempt, ..noted });
    assert!(later.poll().is_none());
    later.sleep();
    let attempt = later.attempt();
    assert_eq!((&*attempt.recipients, attempt.may_be_there), (&[1][..], true));
    assert!(later.defer(&attempt).note.is_some());
    assert!(later.sleep() > Duration::from_secs(100), "it goes on where it was");
}

#[test]
fn what_was_held_or_warned_of_is_so_after_a_restart() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example NOTIFY=DELAY"]);
    let Some(Note::Progress(mut noted)) = site.queue.hold(site.now(), id) else { panic!("it is here") };
    noted.warned = true;
    let mut later = Fixture::new();
    let arrival = Arrival { id, bytes: 7, envelope: &envelope(&["x@a.example NOTIFY=DELAY"]) };
    later.queue.restore(later.now(), arrival, Some(noted));
    later.after(HOUR * 5);
    assert!(later.poll().is_none());
    later.queue.release(later.now(), id);
    assert!(matches!(later.poll(), Some(Step::Deliver(_))));
    assert!(later.poll().is_none());
}

#[test]
fn a_message_for_which_nothing_is_left_to_do_is_done_after_a_restart() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example"]);
    let Some(Note::Progress(mut noted)) = site.queue.note(site.now(), id) else { panic!("it is here") };
    noted.recipients = vec![RecipientState::Failed];
    let mut later = Fixture::new();
    let arrival = Arrival { id, bytes: 7, envelope: &envelope(&["x@a.example"]) };
    assert_eq!(later.queue.restore(later.now(), arrival, Some(noted)), Some(Note::Done(id)));
}

#[test]
fn a_clock_that_was_wrong_does_not_make_mail_wait_for_years() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example"]);
    let Some(Note::Progress(mut noted)) = site.queue.note(site.now(), id) else { panic!("it is here") };
    noted.next_attempt += Duration::from_secs(400 * 86_400);
    let mut later = Fixture::new();
    let arrival = Arrival { id, bytes: 7, envelope: &envelope(&["x@a.example"]) };
    later.queue.restore(later.now(), arrival, Some(noted));
    assert!(later.sleep() <= HOUR);
}

#[test]
fn a_message_is_taken_once() {
    let mut site = Fixture::new();
    let id = site.add(&["x@a.example"]);
    site.queue.add(Arrival { id, bytes: 7, envelope: &envelope(&["x@a.example"]) });
    assert_eq!((site.queue.len(), site.queue.legs.len()), (1, 1));
}

#[test]
fn a_list_is_taken_in_pages_by_age_and_names_by_their_beginning() {
    let mut site = Fixture::new();
    let ids: Vec<_> = (0..10)
        .map(|_| {
            site.now_ms += 1;
            site.add(&["x@a.example", "y@b.example"])
        })
        .collect();
    let page: Vec<_> = site.queue.list(site.now(), ids[2]).take(3).map(|listed| listed.message).collect();
    assert_eq!(page, ids[3..6]);
    let listed = site.queue.find(site.now(), ids[0]).unwrap();
    assert_eq!((listed.recipients, listed.waiting, listed.attempts), (2, 2, 0));
    let ways: Vec<_> = listed.destinations.iter().map(|way| (way.destination.0, &*way.recipients)).collect();
    assert_eq!(ways, [(0, &[0][..]), (1, &[1][..])]);
    assert_eq!(site.queue.oldest(), Some(ids[0].received()));
    assert_eq!(site.queue.names(ids[4].as_str(), 2), [ids[4]]);
    assert_eq!(site.queue.names(&ids[4].as_str()[..4], 3), ids[..3]);
    assert_eq!(site.queue.names("zzzz", 3), []);
}
