//! How late a shard is, and whom it turns away for it.
//!
//! A shard that is asked for more than it can do falls behind with everybody: each flight of each client waits until all the
//! others have had their turn, and with each client that is let in the wait becomes longer. Nobody is refused, and nobody is
//! served in time. So a shard that is late turns clients away: with each step that it is later, half as many come in. To
//! turn all away as soon as it is late would not do: it has as much to do as before until those inside are through, some seconds
//! later, and then nothing at all, and so it would go on. This way there is one wait at which as many come in as go, and there it
//! stays, however many ask. A shard that was held up for a moment, or to which a crowd has come at once, catches up by itself; so
//! it has to be late for a while.
//!
//! What counts is how long bytes have waited since the kernel has received them, whoever was to blame. It
//! decides who is turned away, and knows neither sockets nor what is said to them.

use std::time::Duration;

/// How late one shard is with what its clients have sent.
#[derive(Debug)]
pub struct Lateness {
    /// So late it is when one in [eight](STEPS) is let in; zero if nothing is too late.
    bound: Duration,
    handshakes: Wait,
    others: Wait,
    /// Since when it is late again and again, on the monotonic clock.
    since: Option<Duration>,
    /// When it was found late last, on the monotonic clock.
    latest: Duration,
    /// How much of one more client is let in while it is late.
    credit: f64,
    /// Flights that are not looked at before the next one is.
    unseen: u32,
    /// Clients that were turned away and not told of yet.
    untold: u64,
    /// When they were told of last, on the monotonic clock.
    told: Option<Duration>,
}

/// What a flight belongs to. A shard may let handshakes wait for the sake of those who are inside already, so each has a lateness of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// To a TLS handshake.
    Handshake,
    /// To anything else.
    Other,
}

/// How long flights of one kind wait.
#[derive(Debug, Default)]
struct Wait {
    /// The mean of those that were looked at, the latest counting most.
    mean: Duration,
    /// When one was looked at last, on the monotonic clock.
    noted: Duration,
}

impl Lateness {
    /// On time. With a bound of zero, nobody is turned away.
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            handshakes: Wait::default(),
            others: Wait::default(),
            since: None,
            latest: Duration::ZERO,
            credit: 0.0,
            unseen: 0,
            untold: 0,
            told: None,
        }
    }

    /// Is the flight that has come one to be looked at? One in some is, and each while the shard is late, so that it learns soon
    /// that it is no more.
    pub fn looks_at_flight(&mut self) -> bool {
        self.unseen = self.unseen.saturating_sub(1);
        let looks = self.unseen == 0;
        if looks {
            self.unseen = if self.is_behind() { 1 } else { FLIGHTS_FOR_A_LOOK };
        }
        looks
    }

    /// A flight was received `now`, on the monotonic clock, which the kernel had for so long.
    pub fn note(&mut self, now: Duration, flight: Flight, waited: Duration) {
        let wait = match flight {
            Flight::Handshake => &mut self.handshakes,
            Flight::Other => &mut self.others,
        };
        wait.mean = (wait.current(now) * (NOTES_IN_MEAN - 1) + waited) / NOTES_IN_MEAN;
        wait.noted = now;
        self.lateness(now, Duration::ZERO);
    }

    /// A client has come `now`, on the monotonic clock, who has waited for so long to be let in: how late that is, if it is to be
    /// turned away for it.
    pub fn turns_away(&mut self, now: Duration, waited: Duration) -> Option<Duration> {
        let lateness = self.lateness(now, waited)?;
        let has_lasted = self.since.is_some_and(|since| now.saturating_sub(since) >= self.bound * PATIENCE_BOUNDS);
        if !has_lasted {
            return None;
        }
        let steps = (lateness - self.tolerated()).div_duration_f64(self.bound / STEPS);
        self.credit += 0.5_f64.powf(steps);
        let comes_in = self.credit >= 1.0;
        self.credit -= if comes_in { 1.0 } else { 0.0 };
        (!comes_in).then_some(lateness)
    }

    /// A wait that is nobody's fault: up to there everybody is let in.
    fn tolerated(&self) -> Duration {
        self.bound / STEPS
    }

    /// How late the shard is `now`, if that is more than is tolerated, for a client too who has waited for so long.
    fn lateness(&mut self, now: Duration, waited: Duration) -> Option<Duration> {
        let lateness = self.handshakes.current(now).max(self.others.current(now)).max(waited);
        if now.saturating_sub(self.latest) > CALM {
            self.since = None;
        }
        if self.bound.is_zero() || lateness <= self.tolerated() {
            return None;
        }
        self.latest = now;
        self.since.get_or_insert(now);
        Some(lateness)
    }

    /// A client was turned away `now`, on the monotonic clock. Returns how many were since the operator was told, if it is time to
    /// tell: a line for each would make it later still.
    pub fn count(&mut self, now: Duration) -> Option<u64> {
        self.untold += 1;
        if self.told.is_some_and(|told| now.saturating_sub(told) < TELL_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }

    fn is_behind(&self) -> bool {
        !self.bound.is_zero() && self.handshakes.mean.max(self.others.mean) > self.tolerated()
    }
}

impl Wait {
    /// A flight that waited for so long tells of those behind it: within as long again they have had their turn. If none of them was
    /// seen by then, nobody waits any more.
    fn current(&self, now: Duration) -> Duration {
        if now.saturating_sub(self.noted) > self.mean.max(NOTE_LASTS_MIN) { Duration::ZERO } else { self.mean }
    }
}

/// One flight in so many is looked at: a system call for each would be seen in what a session costs.
const FLIGHTS_FOR_A_LOOK: u32 = 16;

/// The mean is over about so many looks: a hundred flights or so, of many clients, before a shard counts as late.
const NOTES_IN_MEAN: u32 = 8;

/// A wait tells of the present for so long at least: only some flights are looked at.
const NOTE_LASTS_MIN: Duration = Duration::from_millis(50);

/// A shard that has not been late for so long has caught up.
const CALM: Duration = Duration::from_secs(1);

/// Up to the first of so many equal parts of the bound everybody is let in, and with each further one half as many are.
const STEPS: u32 = 4;

/// A shard is late for a while when it was for so many times the bound: half a second with the default, in which a thousand clients
/// that come at once are through.
const PATIENCE_BOUNDS: u32 = 5;

/// How often the operator is told, while it lasts.
const TELL_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CALM, FLIGHTS_FOR_A_LOOK, Flight, Lateness, PATIENCE_BOUNDS, TELL_EVERY};

    const BOUND: Duration = Duration::from_millis(100);
    const NOW: Duration = Duration::from_secs(100);

    /// A shard whose flights have all waited for so long, for a while.
    fn after(waited: Duration) -> Lateness {
        let mut lateness = Lateness::new(BOUND);
        for step in (0..=100).rev() {
            lateness.note(NOW - BOUND * PATIENCE_BOUNDS * step / 50, Flight::Other, waited);
        }
        lateness
    }

    fn let_in(lateness: &mut Lateness, waited: Duration) -> usize {
        (0..1_024).filter(|_| lateness.turns_away(NOW, waited).is_none()).count()
    }

    #[test]
    fn the_later_a_shard_is_the_fewer_it_lets_in() {
        let quarters = |quarters: u32| let_in(&mut after(BOUND / 4 * quarters), Duration::ZERO);
        assert_eq!([1, 2, 3, 4, 5].map(quarters), [1_024, 512, 256, 128, 64]);
        assert_eq!(quarters(40), 0);
    }

    #[test]
    fn a_shard_that_is_late_turns_clients_away_until_it_has_caught_up() {
        let mut lateness = after(BOUND * 2);
        let late = lateness.turns_away(NOW, Duration::ZERO).unwrap();
        assert!(late > BOUND && late <= BOUND * 2, "{late:?}");
        (0..20).for_each(|_| lateness.note(NOW, Flight::Other, Duration::ZERO));
        assert_eq!(let_in(&mut lateness, Duration::ZERO), 1_024);
    }

    #[test]
    fn a_shard_is_late_if_handshakes_are_though_all_others_are_served_at_once() {
        let mut lateness = after(BOUND * 2);
        (0..100).for_each(|_| lateness.note(NOW, Flight::Other, Duration::ZERO));
        assert_eq!(let_in(&mut lateness, Duration::ZERO), 1_024);
        (0..100).for_each(|_| lateness.note(NOW, Flight::Handshake, BOUND * 2));
        assert!(let_in(&mut lateness, Duration::ZERO) < 10);
    }

    #[test]
    fn one_flight_that_had_to_wait_says_little() {
        let mut lateness = after(Duration::ZERO);
        lateness.note(NOW, Flight::Other, BOUND * 2);
        assert_eq!(lateness.turns_away(NOW, Duration::ZERO), None);
    }

    #[test]
    fn a_crowd_and_a_moment_in_which_nothing_was_done_turn_nobody_away() {
        let mut lateness = after(Duration::ZERO);
        (0..1_000).for_each(|_| lateness.note(NOW, Flight::Other, BOUND * 4));
        assert_eq!(let_in(&mut lateness, BOUND * 4), 1_024);
        let later = NOW + BOUND * PATIENCE_BOUNDS;
        assert!(lateness.turns_away(later, BOUND * 4).is_some(), "but to be late for a while does");
    }

    #[test]
    fn a_shard_that_is_late_again_at_once_is_not_given_another_while() {
        let mut lateness = after(BOUND * 2);
        (0..100).for_each(|_| lateness.note(NOW, Flight::Other, Duration::ZERO));
        assert_eq!(lateness.turns_away(NOW + CALM, BOUND * 4), Some(BOUND * 4));
        assert_eq!(lateness.turns_away(NOW + CALM * 3, BOUND * 4), None, "after a second without it is");
    }

    #[test]
    fn a_client_that_has_waited_too_long_to_be_let_in_is_turned_away_even_if_those_inside_do_not_wait() {
        let mut lateness = Lateness::new(BOUND);
        assert_eq!(lateness.turns_away(NOW, BOUND * 4), None);
        assert_eq!(lateness.turns_away(NOW + BOUND * PATIENCE_BOUNDS, BOUND * 4), Some(BOUND * 4));
        assert_eq!(lateness.turns_away(NOW + BOUND * PATIENCE_BOUNDS, Duration::ZERO), None);
    }

    #[test]
    fn a_wait_is_forgotten_after_as_long_again_without_another() {
        let waited = BOUND * 2;
        let moment = Duration::from_millis(50);
        assert!(after(waited).turns_away(NOW + waited - moment, Duration::ZERO).is_some());
        assert!(
            after(waited).turns_away(NOW + waited + moment, Duration::ZERO).is_none(),
            "who was in line has had a turn"
        );
    }

    #[test]
    fn without_a_bound_nobody_is_turned_away() {
        let mut lateness = Lateness::new(Duration::ZERO);
        (0..100).for_each(|_| lateness.note(NOW, Flight::Other, Duration::from_secs(60)));
        assert_eq!(lateness.turns_away(NOW, Duration::from_secs(60)), None);
    }

    #[test]
    fn the_operator_is_told_at_once_and_then_now_and_then_of_all() {
        let mut lateness = Lateness::new(BOUND);
        assert_eq!(lateness.count(NOW), Some(1));
        assert!((0..8).all(|_| lateness.count(NOW + TELL_EVERY / 2).is_none()));
        assert_eq!(lateness.count(NOW + TELL_EVERY), Some(9));
    }

    #[test]
    fn one_flight_in_some_is_looked_at_and_each_while_the_shard_is_late() {
        let mut lateness = after(Duration::ZERO);
        let looks = (0..FLIGHTS_FOR_A_LOOK * 10).filter(|_| lateness.looks_at_flight()).count();
        assert_eq!(looks, 10);
        let mut lateness = after(BOUND * 2);
        assert!((0..100).all(|_| lateness.looks_at_flight()));
    }
}
