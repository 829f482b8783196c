//! What was measured: histograms per phase, outcomes, errors by kind and round trips, for each scenario.
//!
//! Each core keeps its own [`Record`]; they are merged at the end. Must not format anything for people: `report` does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::scenario::Scenario;

/// Longest time that is told apart, in microseconds: an hour. Longer ones count as an hour.
const LONGEST_US: u64 = 3_600_000_000;

/// Decimal digits that are kept of each time.
const DIGITS: u8 = 3;

/// Most kinds of errors that are counted apart; further ones are counted together, so that a server that puts a number into
/// each reply cannot fill the memory.
const ERROR_KINDS_MAX: usize = 64;

/// A moment in the life of a connection. All are counted from the intended start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    /// TCP's handshake is done.
    Connect,
    /// TLS's handshake is done.
    Tls,
    /// The login was accepted.
    Ready,
    /// MAIL left.
    MailSent,
    /// The reply to the end of the message came. For messages after the first of a connection the count begins when the
    /// message was due.
    FinalReply,
}

impl Phase {
    /// All phases in their order.
    pub(crate) const ALL: [Self; 5] = [Self::Connect, Self::Tls, Self::Ready, Self::MailSent, Self::FinalReply];

    /// The name in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Ready => "ready",
            Self::MailSent => "mail-sent",
            Self::FinalReply => "final-reply",
        }
    }

    const fn index(self) -> usize {
        self as usize
    }
}

/// A histogram of times in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        let mut histogram = Histogram::new(DIGITS).expect("three digits are allowed");
        histogram.auto(true);
        Self(histogram)
    }
}

impl Times {
    /// One more time.
    pub(crate) fn note(&mut self, time: Duration) {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(LONGEST_US);
        self.0.record(time_us).expect("a histogram that grows by itself takes every time");
    }

    /// Takes over all times of another histogram.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("a histogram that grows by itself takes all of another one");
    }

    /// The histogram, in microseconds.
    pub(crate) const fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }
}

/// One second of the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Second {
    /// Messages acknowledged.
    pub(crate) acknowledged: u64,
    /// Connections or messages that failed.
    pub(crate) errors: u64,
    /// Times to the final reply of the messages acknowledged in this second.
    pub(crate) times: Times,
}

/// What was measured of one scenario.
#[derive(Clone, Debug, Default)]
pub(crate) struct ScenarioRecord {
    phases: [Times; Phase::ALL.len()],
    /// Connections begun, reconnections included.
    pub(crate) connections: u64,
    /// Sessions that ran to their end as the scenario expects it.
    pub(crate) sessions: u64,
    /// Messages that the server took.
    pub(crate) acknowledged: u64,
    /// TLS handshakes that resumed a session.
    pub(crate) resumed: u64,
    /// TLS handshakes.
    pub(crate) handshakes: u64,
    /// TLS handshakes whose early data the server took.
    pub(crate) early_data_accepted: u64,
    /// TLS handshakes whose early data the server did not take.
    pub(crate) early_data_rejected: u64,
    /// Connections whose SYN carried data that the server took.
    pub(crate) opened_fast: u64,
    /// Failures by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// How many first messages took so many round trips from the SYN to the final reply.
    pub(crate) round_trips: BTreeMap<u32, u64>,
    /// How many first messages had their MAIL in this packet of the client.
    pub(crate) mail_packets: BTreeMap<u32, u64>,
}

impl ScenarioRecord {
    /// The times of one phase.
    pub(crate) const fn phase(&self, phase: Phase) -> &Times {
        &self.phases[phase.index()]
    }

    /// A phase was reached after this time.
    pub(crate) fn note(&mut self, phase: Phase, time: Duration) {
        self.phases[phase.index()].note(time);
    }

    /// Something failed.
    pub(crate) fn note_error(&mut self, kind: &str) {
        let known = self.errors.contains_key(kind) || self.errors.len() < ERROR_KINDS_MAX;
        let kind = if known { kind } else { "other" };
        *self.errors.entry(kind.to_owned()).or_default() += 1;
    }

    /// Takes over what was measured elsewhere.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (phase, times) in self.phases.iter_mut().zip(&other.phases) {
            phase.merge(times);
        }
        self.connections += other.connections;
        self.sessions += other.sessions;
        self.acknowledged += other.acknowledged;
        self.resumed += other.resumed;
        self.handshakes += other.handshakes;
        self.early_data_accepted += other.early_data_accepted;
        self.early_data_rejected += other.early_data_rejected;
        self.opened_fast += other.opened_fast;
        add_counts(&mut self.errors, &other.errors);
        add_counts(&mut self.round_trips, &other.round_trips);
        add_counts(&mut self.mail_packets, &other.mail_packets);
    }
}

fn add_counts<Key: Ord + Clone>(counts: &mut BTreeMap<Key, u64>, others: &BTreeMap<Key, u64>) {
    for (key, count) in others {
        *counts.entry(key.clone()).or_default() += count;
    }
}

/// What was measured on one core, or on all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    scenarios: BTreeMap<Scenario, ScenarioRecord>,
    seconds: BTreeMap<u64, Second>,
    /// How late the generator itself began its sessions.
    pub(crate) lateness: Times,
    /// What went wrong in the generator itself, each kind once.
    pub(crate) faults: BTreeSet<String>,
}

impl Record {
    /// The entry of this scenario.
    pub(crate) fn scenario_mut(&mut self, scenario: Scenario) -> &mut ScenarioRecord {
        self.scenarios.entry(scenario).or_default()
    }

    /// All scenarios that were run.
    pub(crate) const fn scenarios(&self) -> &BTreeMap<Scenario, ScenarioRecord> {
        &self.scenarios
    }

    /// The seconds of the run that something happened in.
    pub(crate) const fn seconds(&self) -> &BTreeMap<u64, Second> {
        &self.seconds
    }

    /// A message was acknowledged at this time of the run, so long after it was due.
    pub(crate) fn note_acknowledged(&mut self, scenario: Scenario, at: Duration, time: Duration) {
        let entry = self.scenario_mut(scenario);
        entry.acknowledged += 1;
        entry.note(Phase::FinalReply, time);
        let second = self.seconds.entry(at.as_secs()).or_default();
        second.acknowledged += 1;
        second.times.note(time);
    }

    /// Something failed at this time of the run.
    pub(crate) fn note_error(&mut self, scenario: Scenario, at: Duration, kind: &str) {
        self.scenario_mut(scenario).note_error(kind);
        self.seconds.entry(at.as_secs()).or_default().errors += 1;
    }

    /// Takes over what another core measured.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (&scenario, record) in &other.scenarios {
            self.scenario_mut(scenario).merge(record);
        }
        for (&number, second) in &other.seconds {
            let mine = self.seconds.entry(number).or_default();
            mine.acknowledged += second.acknowledged;
            mine.errors += second.errors;
            mine.times.merge(&second.times);
        }
        self.lateness.merge(&other.lateness);
        self.faults.extend(other.faults.iter().cloned());
    }

    /// All scenarios together.
    pub(crate) fn total(&self) -> ScenarioRecord {
        let mut total = ScenarioRecord::default();
        self.scenarios.values().for_each(|record| total.merge(record));
        total
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ERROR_KINDS_MAX, LONGEST_US, Phase, Record, ScenarioRecord, Times};
    use crate::scenario::Scenario;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_two_cores_measured_is_one_record_after_the_merge() {
        let mut one = Record::default();
        one.note_acknowledged(Scenario::Esmtp, ms(500), ms(10));
        one.note_error(Scenario::Esmtp, ms(1_500), "closed");
        let mut two = Record::default();
        two.note_acknowledged(Scenario::Esmtp, ms(900), ms(30));
        two.note_acknowledged(Scenario::Full, ms(2_000), ms(20));
        one.merge(&two);
        let esmtp = &one.scenarios()[&Scenario::Esmtp];
        assert_eq!((esmtp.acknowledged, esmtp.errors.values().sum::<u64>()), (2, 1));
        assert_eq!(esmtp.phase(Phase::FinalReply).histogram().len(), 2);
        let per_second: Vec<_> = one.seconds().iter().map(|(&at, s)| (at, s.acknowledged, s.errors)).collect();
        assert_eq!(per_second, [(0, 2, 0), (1, 0, 1), (2, 1, 0)]);
        assert_eq!(one.total().acknowledged, 3);
    }

    #[test]
    fn an_hour_is_the_longest_time_that_is_told_apart() {
        let mut times = Times::default();
        times.note(Duration::from_secs(100_000));
        let highest = times.histogram().max();
        assert!((LONGEST_US..LONGEST_US + LONGEST_US / 500).contains(&highest), "{highest}");
    }

    #[test]
    fn a_server_that_invents_errors_cannot_fill_the_memory() {
        let mut record = ScenarioRecord::default();
        (0..10 * ERROR_KINDS_MAX).for_each(|number| record.note_error(&format!("error {number}")));
        assert!(record.errors.len() <= ERROR_KINDS_MAX + 1);
        assert_eq!(record.errors.values().sum::<u64>(), 10 * ERROR_KINDS_MAX as u64);
    }
}
