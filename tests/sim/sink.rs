//! Where everything arrives, and the judgement: what clients were told, against what was delivered and what senders heard.

use std::collections::{BTreeMap, BTreeSet};

use onetrip::proto::client::Notify;
use onetrip::proto::message::{Message, MessageId};

use crate::letter::{Fate, Letter, MARK, Welcome};
use crate::plan::Plan;
use crate::report::Report;

/// A recipient, and the name of a message.
type Copy = (String, MessageId);

/// Where everything arrives: a next hop that knows what it has taken, as a Maildir does, and takes it once under one name.
#[derive(Debug, Default)]
pub struct Sink {
    /// What it has taken.
    taken: BTreeSet<Copy>,
    /// Whom it has refused for good.
    refused: BTreeSet<Copy>,
    /// Who was not reached in time.
    given_up: BTreeSet<Copy>,
    /// The reports, and to whom they go, that tell what has become of a recipient, in the word of the report.
    reports: BTreeMap<(Copy, String), BTreeSet<Copy>>,
    /// Messages and recipients of whom everything is written down.
    pub settled: BTreeSet<(MessageId, u32)>,
    /// How often crashes may have made the sender of a message hear of it again.
    pub repeats: BTreeMap<MessageId, usize>,
}

impl Sink {
    // ── What arrives ────────────────────────────────────────────────────────────────────────────────────────────────

    /// Takes a message for these of its recipients.
    pub fn take(&mut self, letters: &[Letter], message: &Message, recipients: &[u32], may_be_there: bool) {
        if message.envelope.sender().is_empty() {
            self.note_report(letters, message);
        } else {
            check_letter(letters, message, recipients);
        }
        for copy in copies(message, recipients) {
            let is_new = self.taken.insert(copy);
            assert!(is_new || may_be_there, "{}: delivered again, and nobody was warned", message.id);
        }
    }

    /// Refuses these recipients for good.
    pub fn refuse(&mut self, message: &Message, recipients: &[u32]) {
        self.refused.extend(copies(message, recipients));
    }

    /// The server gives up on these recipients.
    pub fn give_up(&mut self, message: &Message, recipients: &[u32]) {
        self.given_up.extend(copies(message, recipients));
    }

    /// There is a report.
    pub fn note_report(&mut self, letters: &[Letter], message: &Message) {
        let report = Report::read(letters, message);
        let to = (report.letter.message.sender.as_str().to_owned(), message.id);
        for (address, action) in report.told {
            self.reports.entry(((address, report.of), action)).or_default().insert(to.clone());
        }
    }

    // ── The judgement ───────────────────────────────────────────────────────────────────────────────────────────────

    /// Judges the whole run.
    pub fn judge(&self, letters: &[Letter], plan: &Plan) {
        for letter in letters {
            assert!(letter.is_settled(), "{}: its client never had an answer", letter.name);
            for (at, fate) in letter.fates.iter().enumerate() {
                let judged = Judged { sink: self, letter, at, fate };
                judged.judge_copies();
                fate.acknowledged.iter().for_each(|id| judged.judge_acknowledged(*id, plan));
            }
        }
        for ((copy, action), reports) in &self.reports {
            self.judge_reports(letters, copy, action, reports);
        }
    }

    fn judge_reports(&self, letters: &[Letter], copy: &Copy, action: &str, reports: &BTreeSet<Copy>) {
        let (address, id) = copy;
        let find = |letter: &&Letter| (0..letter.fates.len()).any(|at| letter.address(at) == address);
        let letter = letters.iter().find(find).expect("reports are about recipients of letters");
        let name = &letter.name;
        let at = (0..letter.fates.len()).find(|at| letter.address(*at) == address).expect("one of them");
        let notify = letter.message.recipients[at].notify;
        let (is_wanted, is_true) = match action {
            "failed" => (wants_failure(notify), self.has_failed(copy)),
            "delayed" => (notify.is_some_and(|notify| notify.delay), true),
            "delivered" => (notify.is_some_and(|notify| notify.success), self.taken.contains(copy)),
            _ => panic!("{name}: {address} is reported as {action}"),
        };
        assert!(is_wanted, "{name}: it is reported that {address} is {action}, which nobody wanted to know");
        assert!(is_true, "{name}: it is reported that {address} is {action}, which is not so");
        let most = 1 + self.repeats.get(id).copied().unwrap_or_default();
        assert!(
            reports.len() <= most,
            "{name}: that {address} is {action} is told by {reports:?}, at most {most} may be"
        );
        for report in reports {
            let has_ended = self.taken.contains(report) || self.has_failed(report);
            assert!(has_ended, "{name}: the report {report:?} about {address} was lost");
        }
    }

    fn has_failed(&self, copy: &Copy) -> bool {
        self.refused.contains(copy) || self.given_up.contains(copy)
    }
}

/// One recipient of one letter before the judge.
struct Judged<'a> {
    sink: &'a Sink,
    letter: &'a Letter,
    at: usize,
    fate: &'a Fate,
}

impl Judged<'_> {
    fn address(&self) -> &str {
        self.letter.address(self.at)
    }

    /// Not more than there may be, and none without a reason.
    fn judge_copies(&self) {
        let (name, address, fate) = (&self.letter.name, self.address(), self.fate);
        let failures = self.sink.reports.keys().filter(|(_, action)| action == "failed").map(|(copy, _)| copy);
        let all = self.sink.taken.iter().chain(failures);
        let copies: BTreeSet<_> = all.filter(|(to, _)| to == address).map(|(_, id)| *id).collect();
        let most = match self.letter.message.once {
            _ if self.letter.is_doomed => 0,
            Some(_) => 1,
            None => fate.acknowledged.len() + fate.uncertain as usize,
        };
        let known = &fate.acknowledged;
        assert!(copies.len() <= most, "{name}: {address} has {copies:?}, at most {most} may be; known are {known:?}");
        let has_reason = !fate.acknowledged.is_empty() || fate.uncertain > 0;
        assert!(copies.is_empty() || has_reason, "{name}: {address} has it although it was never sent");
    }

    /// What was acknowledged is delivered, or its sender hears why not.
    fn judge_acknowledged(&self, id: MessageId, plan: &Plan) {
        let (name, address) = (&self.letter.name, self.address());
        let copy = (address.to_owned(), id);
        let (is_taken, was_given_up) = (self.sink.taken.contains(&copy), self.sink.given_up.contains(&copy));
        let has_failed = self.sink.has_failed(&copy);
        assert!(is_taken || has_failed, "{name}: acknowledged as {id}, and never delivered to {address}");
        assert!(!is_taken || Welcome::of(address) == Welcome::Now, "{name}: {address} takes nothing");
        let is_told = |action: &str| self.sink.reports.contains_key(&(copy.clone(), action.to_owned()));
        let notify = self.letter.message.recipients[self.at].notify;
        let must_hear = has_failed && !is_taken && wants_failure(notify);
        assert!(!must_hear || is_told("failed"), "{name}: nobody heard that {address} was not reached");
        // A report of what went well is not worth another try if it cannot be stored.
        let must_hear = is_taken && !was_given_up && notify.is_some_and(|notify| notify.success) && !plan.disk_fails;
        assert!(!must_hear || is_told("delivered"), "{name}: nobody heard that {address} was reached");
        let must_hear = was_given_up && notify.is_some_and(|notify| notify.delay) && plan.is_patient();
        assert!(!must_hear || is_told("delayed"), "{name}: nobody heard that {address} is late");
    }
}

fn wants_failure(notify: Option<Notify>) -> bool {
    notify.is_none_or(|notify| notify.failure)
}

fn copies(message: &Message, recipients: &[u32]) -> Vec<Copy> {
    let addresses: Vec<_> = message.envelope.recipients().map(|recipient| recipient.address).collect();
    recipients.iter().map(|number| (addresses[*number as usize].to_owned(), message.id)).collect()
}

fn check_letter(letters: &[Letter], message: &Message, recipients: &[u32]) {
    let letter = letter_of(letters, &message.content);
    assert_eq!(message.content, letter.message.content.as_bytes(), "{}: it was altered", letter.name);
    assert_eq!(message.envelope.sender(), letter.message.sender.as_str(), "{}: of another sender", letter.name);
    assert!(message.trace.starts_with(b"Received: "), "{}: without its trace", letter.name);
    for (address, _) in copies(message, recipients) {
        let is_its_own = (0..letter.fates.len()).any(|at| letter.address(at) == address);
        assert!(is_its_own, "{} came to {address}, whom it was never for", letter.name);
    }
}

fn letter_of<'a>(letters: &'a [Letter], content: &[u8]) -> &'a Letter {
    let line = content.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let name = line.strip_prefix(MARK.as_bytes()).unwrap_or_default();
    let letter = letters.iter().find(|letter| letter.name.as_bytes() == name);
    letter.unwrap_or_else(|| panic!("a message arrived that nobody has sent: {:?}", String::from_utf8_lossy(line)))
}
