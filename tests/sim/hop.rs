//! The next hop: it takes a message or not, and its answer arrives or not.

use onetrip::relay::outcome::{AttemptResult, Hop, Outcome, Reason};

use crate::delivering::UnderWay;
use crate::letter::{GONE, Welcome};
use crate::world::{Event, World};

/// What goes wrong with one attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    /// Nobody is there.
    Away,
    /// What it answers is lost.
    Deaf,
    /// It puts off some recipients.
    Busy,
    /// It answers for one, and is gone.
    Leaves,
}

impl World {
    /// An attempt is before the next hop.
    pub fn carry(&mut self, number: usize, attempt: u64) {
        let trouble = self.trouble();
        let (life, now_us) = (self.life, self.now_us);
        let Self { process, events, chance, letters, sink, .. } = self;
        let shard = &mut process.as_mut().expect("it lives").shards[number];
        let UnderWay { attempt: of, message, result } = shard.attempts.get_mut(&attempt).expect("it was begun");
        let addresses: Vec<_> = message.envelope.recipients().map(|recipient| recipient.address.to_owned()).collect();
        let mut outcomes = Vec::new();
        for to in &of.recipients {
            let address = &addresses[*to as usize];
            let is_gone = address.ends_with(GONE) || trouble == Trouble::Away;
            let is_busy = trouble == Trouble::Busy && chance.one_in(2);
            let outcome = match Welcome::of(address) {
                _ if is_gone => continue,
                Welcome::Never => Outcome::Failed(reason("5.1.1", "550 5.1.1 nobody of that name")),
                Welcome::Later => Outcome::Deferred(reason("4.2.1", "450 4.2.1 not now")),
                Welcome::Now if is_busy => Outcome::Deferred(reason("4.0.0", "451 later")),
                Welcome::Now => Outcome::Delivered(reason("2.0.0", "250 ok")),
            };
            outcomes.push((*to, outcome));
        }
        let of_kind = |is_it: fn(&Outcome) -> bool| {
            let numbers = outcomes.iter().filter(|(_, outcome)| is_it(outcome)).map(|(to, _)| *to);
            numbers.collect::<Vec<_>>()
        };
        sink.take(letters, message, &of_kind(|outcome| matches!(outcome, Outcome::Delivered(_))), of.may_be_there);
        sink.refuse(message, &of_kind(|outcome| matches!(outcome, Outcome::Failed(_))));
        let mut hop = Hop::Reached;
        match trouble {
            _ if outcomes.is_empty() => hop = Hop::Unreachable(reason("4.4.1", "nobody there")),
            Trouble::Deaf => outcomes.clear(),
            Trouble::Leaves => outcomes.truncate(1),
            Trouble::None | Trouble::Away | Trouble::Busy => {}
        }
        if matches!(trouble, Trouble::Deaf | Trouble::Leaves) {
            hop = Hop::Unreachable(reason("4.4.2", "421 bye"));
        }
        *result = Some(AttemptResult { outcomes, hop });
        let event = Event::Settled { life, shard: number, attempt };
        events.push(now_us + chance.between(100, 200_000), event);
    }

    fn trouble(&mut self) -> Trouble {
        if !self.is_calm() && self.plan.hop_is_away {
            return Trouble::Away;
        }
        if self.is_calm() || !self.chance.one_in(3) {
            return Trouble::None;
        }
        self.chance.pick(&[Trouble::Away, Trouble::Deaf, Trouble::Busy, Trouble::Leaves])
    }
}

fn reason(status: &str, text: &str) -> Reason {
    let remote = Some("mx.example".into());
    Reason { status: status.into(), text: text.into(), remote, passes_dsn: false }
}
