//! Whoever carries messages to one destination: the delivery threads, the relay, or nobody.
//!
//! What it is told comes back as one kind of result. It must not decide when something is tried again.

use std::io;

use crate::limits::MAILDIR_IN_FLIGHT_MAX;
use crate::proto::message::Message;
use crate::proto::server::StoreFailure;
use crate::relay::Destination;
use crate::relay::bounce::Action;
use crate::relay::outcome::{AttemptResult, Hop, Outcome, Reason};
use crate::runtime::clock::Clock;
use crate::runtime::delivery::relay::{Relay, RelaySettings};
use crate::runtime::delivery::{Delivered, Delivery, DeliverySettings};

/// A carrier before it is on its shard: its threads may run on any core.
#[derive(Debug)]
pub(in crate::runtime) enum CarrierParts {
    Maildir(Delivery),
    Relay { settings: Box<RelaySettings>, success: Action },
    Discard,
}

/// A carrier at work.
#[derive(Debug)]
pub(super) enum Carrier {
    Maildir(Delivery),
    Relay { relay: Relay, success: Action },
    Discard,
}

/// What an attempt came to, with the message.
pub(super) struct Carried {
    pub(super) result: AttemptResult,
    pub(super) message: Box<Message>,
    /// What the operator should be told.
    pub(super) faults: Vec<String>,
}

impl CarrierParts {
    /// For a destination on this host.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(in crate::runtime) fn local(settings: &DeliverySettings) -> io::Result<Self> {
        match settings.destination {
            Destination::Maildir(_) => Delivery::start(settings).map(Self::Maildir),
            _ => Ok(Self::Discard),
        }
    }

    /// For another server.
    pub(in crate::runtime) fn remote(settings: &RelaySettings) -> Self {
        // A server of LMTP delivers (RFC 2033 §1); one of SMTP passes on.
        let success = if let Destination::Lmtp(_) = settings.destination { Action::Delivered } else { Action::Relayed };
        Self::Relay { settings: Box::new(settings.clone()), success }
    }
}

impl Carrier {
    pub(super) fn start(parts: CarrierParts, clock: Clock) -> Self {
        match parts {
            CarrierParts::Maildir(delivery) => Self::Maildir(delivery),
            CarrierParts::Relay { settings, success } => Self::Relay { relay: Relay::start(*settings, clock), success },
            CarrierParts::Discard => Self::Discard,
        }
    }

    /// How many more attempts it can take, when `in_flight` are under way.
    pub(super) fn room(&self, in_flight: usize) -> usize {
        match self {
            Self::Maildir(_) | Self::Discard => MAILDIR_IN_FLIGHT_MAX.saturating_sub(in_flight),
            // What has been handed out but not begun is not known to the relay yet.
            Self::Relay { relay, .. } => relay.connections_max().saturating_sub(in_flight),
        }
    }

    /// What it means that a message was taken.
    pub(super) fn success(&self) -> Action {
        match self {
            Self::Maildir(_) | Self::Discard => Action::Delivered,
            Self::Relay { success, .. } => *success,
        }
    }

    pub(super) async fn carry(&self, message: Box<Message>, recipients: &[u32], may_be_there: bool) -> Carried {
        match self {
            Self::Maildir(delivery) => store(delivery, message, recipients, may_be_there).await,
            Self::Relay { relay, .. } => {
                let result = relay.carry(&message, recipients).await;
                Carried { result, message, faults: Vec::new() }
            }
            Self::Discard => {
                let outcomes = recipients.iter().map(|number| (*number, delivered("discarded"))).collect();
                Carried { result: AttemptResult { outcomes, hop: Hop::Reached }, message, faults: Vec::new() }
            }
        }
    }

    /// Ends it. What was handed to delivery threads is stored.
    pub(super) async fn stop(&self) {
        match self {
            Self::Maildir(delivery) => delivery.stop(),
            Self::Relay { relay, .. } => relay.close().await,
            Self::Discard => {}
        }
    }
}

/// Into mailboxes: all together, because that is one file with many names; and each for itself if one of them is in the way.
async fn store(delivery: &Delivery, message: Box<Message>, recipients: &[u32], may_be_there: bool) -> Carried {
    let whole = delivery.deliver_to(message, recipients, may_be_there).await;
    if whole.result != Err(StoreFailure::Fault) || recipients.len() == 1 {
        return carried(recipients, whole);
    }
    let mut together = Carried {
        result: AttemptResult { outcomes: Vec::with_capacity(recipients.len()), hop: Hop::Reached },
        message: whole.message,
        faults: Vec::new(),
    };
    for recipient in recipients {
        let one = delivery.deliver_to(together.message, &[*recipient], true).await;
        let one = carried(&[*recipient], one);
        together.message = one.message;
        together.faults.extend(one.faults);
        together.result.outcomes.extend(one.result.outcomes);
        if one.result.hop != Hop::Reached {
            together.result.hop = one.result.hop;
        }
    }
    together
}

/// A full disk is nobody's fault but the destination's, and all that goes there waits for room.
fn carried(recipients: &[u32], delivered_to: Delivered) -> Carried {
    let Delivered { result, message, fault } = delivered_to;
    let words = || fault.clone().unwrap_or_else(|| "too many messages wait for the disk".to_owned());
    let outcome = match result {
        Ok(_) => delivered("stored in the mailbox"),
        Err(StoreFailure::Full) => Outcome::Deferred(reason("4.3.1", words())),
        Err(_) => Outcome::Deferred(reason("4.3.0", words())),
    };
    let hop = match (&result, &outcome) {
        (Err(StoreFailure::Full), Outcome::Deferred(reason)) => Hop::Unreachable(reason.clone()),
        _ => Hop::Reached,
    };
    let outcomes = recipients.iter().map(|number| (*number, outcome.clone())).collect();
    Carried { result: AttemptResult { outcomes, hop }, message, faults: fault.into_iter().collect() }
}

fn delivered(words: &str) -> Outcome {
    Outcome::Delivered(reason("2.1.5", words.to_owned()))
}

fn reason(status: &str, text: String) -> Reason {
    Reason { status: status.into(), text: text.into(), remote: None, passes_dsn: false }
}
