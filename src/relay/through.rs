//! Handing through: what the client is told when another server has answered for its message (`--sync through`).
//!
//! There is one reply for all recipients, so a message that was not taken for all of them was taken for none.

use super::outcome::{AttemptResult, Hop, Outcome, Reason};
use crate::proto::envelope::Envelope;
use crate::proto::reply::Foreign;

/// A message that the other server did not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub reply: Foreign,
    /// What the operator is told, where something is wrong with the other server or the way to it.
    pub fault: Option<Box<str>>,
}

/// Whether the other server took the message, and what is said if it did not: its own reply where it judged the message,
/// naming the recipient where only that one was refused; words of ours where it judged nothing.
///
/// # Errors
///
/// [`Refused`], if one recipient at least does not have the message.
pub fn answer(envelope: &Envelope, result: &AttemptResult) -> Result<(), Refused> {
    let Some((number, outcome)) = decisive(result) else { return Ok(()) };
    if let Hop::Unreachable(reason) = &result.hop {
        let words = "The next server does not take messages now; try again later";
        return Err(Refused { reply: Foreign::new(451, "4.4.1", words), fault: Some(reason.text.clone()) });
    }
    let (reason, code) = match outcome {
        Outcome::Failed(reason) => (reason, 554),
        Outcome::Deferred(reason) | Outcome::Delivered(reason) => (reason, 451),
    };
    let (code, words) = match reason.remote {
        Some(_) => spoken(reason, code),
        None => (own_code(reason, code), &*reason.text),
    };
    let recipient = usize::try_from(number).ok().and_then(|index| envelope.recipients().nth(index));
    let words = match recipient.filter(|_| concerns_one(result)) {
        Some(recipient) => format!("<{}>: {words}", recipient.address),
        None => words.to_owned(),
    };
    Err(Refused { reply: Foreign::new(code, &reason.status, &words), fault: None })
}

/// The outcome that decides for all: a refusal counts more than a delay, and the words of the other server more than ours.
fn decisive(result: &AttemptResult) -> Option<(u32, &Outcome)> {
    let weight = |outcome: &Outcome| match outcome {
        Outcome::Delivered(_) => 0,
        Outcome::Deferred(reason) => 1 + u8::from(reason.remote.is_some()),
        Outcome::Failed(reason) => 3 + u8::from(reason.remote.is_some()),
    };
    let mut decisive: Option<&(u32, Outcome)> = None;
    for outcome in result.outcomes.iter().filter(|(_, outcome)| weight(outcome) > 0) {
        if decisive.is_none_or(|(_, heaviest)| weight(&outcome.1) > weight(heaviest)) {
            decisive = Some(outcome);
        }
    }
    decisive.map(|(number, outcome)| (*number, outcome))
}

/// Was something said of one recipient that was not said of all? What is said of all is about the message.
fn concerns_one(result: &AttemptResult) -> bool {
    result.outcomes.windows(2).any(|pair| pair[0].1 != pair[1].1)
}

/// Code and words of a reply, without the status that stands between them.
fn spoken(reason: &Reason, otherwise: u16) -> (u16, &str) {
    let (code, rest) = reason.text.split_at_checked(3).unwrap_or(("", &reason.text));
    let rest = rest.trim_start();
    let words = rest.strip_prefix(&*reason.status).unwrap_or(rest).trim_start();
    (code.parse().unwrap_or(otherwise), words)
}

/// The codes that RFC 1870 §6 and RFC 5321 §4.2.3 have for what we found out before the other server was asked.
fn own_code(reason: &Reason, otherwise: u16) -> u16 {
    match &*reason.status {
        "5.3.4" => 552,
        "5.1.3" | "5.1.7" | "5.6.7" => 553,
        "5.7.30" => 550,
        "4.5.3" => 452,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::answer;
    use crate::proto::command::{Command, parse};
    use crate::proto::envelope::Envelope;
    use crate::relay::outcome::{AttemptResult, Hop, Outcome, Reason};

    fn envelope() -> Envelope {
        let mut envelope = Envelope::default();
        let Ok(Command::Mail(mail)) = parse(b"MAIL FROM:<a@b>").command else { panic!() };
        envelope.begin(&mail, "ann");
        for line in ["RCPT TO:<c@d>", "RCPT TO:<e@f>"] {
            let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!() };
            envelope.add(&rcpt);
        }
        envelope
    }

    fn theirs(status: &str, text: &str) -> Reason {
        Reason { remote: Some("mx.example.net".into()), ..ours(status, text) }
    }

    fn ours(status: &str, text: &str) -> Reason {
        Reason { status: status.into(), text: text.into(), remote: None, passes_dsn: false }
    }

    fn reached(outcomes: &[Outcome]) -> AttemptResult {
        AttemptResult { outcomes: (0..).zip(outcomes.iter().cloned()).collect(), hop: Hop::Reached }
    }

    fn reply(result: &AttemptResult) -> String {
        answer(&envelope(), result).unwrap_err().reply.text().to_owned()
    }

    #[test]
    fn a_message_that_was_taken_for_all_is_taken() {
        let delivered = Outcome::Delivered(theirs("2.0.0", "250 2.0.0 taken"));
        assert_eq!(answer(&envelope(), &reached(&[delivered.clone(), delivered])), Ok(()));
    }

    #[test]
    fn a_refusal_keeps_its_code_status_and_words_and_names_the_recipient_it_is_about() {
        let refused = Outcome::Failed(theirs("5.1.1", "550 5.1.1 no such user"));
        let unsent = Outcome::Deferred(ours("4.5.0", "another recipient was refused"));
        let busy = Outcome::Deferred(theirs("4.2.1", "450 4.2.1 later"));
        assert_eq!(reply(&reached(&[unsent.clone(), refused.clone()])), "550 5.1.1 <e@f>: no such user");
        assert_eq!(reply(&reached(&[busy.clone(), refused.clone()])), "550 5.1.1 <e@f>: no such user", "it is final");
        assert_eq!(reply(&reached(&[busy, unsent])), "450 4.2.1 <c@d>: later");
        assert_eq!(reply(&reached(&[refused.clone(), refused])), "550 5.1.1 no such user", "said of all");
        let plain = Outcome::Failed(theirs("5.0.0", "554 no"));
        assert_eq!(reply(&reached(&[plain])), "554 5.0.0 no");
    }

    #[test]
    fn what_the_other_server_was_not_asked_has_a_code_of_its_own() {
        for (status, expected) in [("5.3.4", "552"), ("5.6.7", "553"), ("5.7.30", "550"), ("5.6.3", "554")] {
            let failed = Outcome::Failed(ours(status, "words"));
            assert_eq!(reply(&reached(&[failed])), format!("{expected} {status} words"));
        }
        assert_eq!(reply(&reached(&[Outcome::Deferred(ours("4.4.2", "lost"))])), "451 4.4.2 lost");
    }

    #[test]
    fn of_a_server_that_is_away_the_client_learns_nothing_and_the_operator_everything() {
        let reason = theirs("4.7.8", "535 5.7.8 wrong password for ann");
        let result = AttemptResult {
            outcomes: vec![(0, Outcome::Deferred(reason.clone()))],
            hop: Hop::Unreachable(reason.clone()),
        };
        let refused = answer(&envelope(), &result).unwrap_err();
        assert_eq!(refused.reply.text(), "451 4.4.1 The next server does not take messages now; try again later");
        assert_eq!(refused.fault, Some(reason.text));
    }
}
