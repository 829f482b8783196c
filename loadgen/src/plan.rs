//! What shall be done when: how many clients, of which kinds, with which messages.
//!
//! Pure: the same plan and seed give the same run. Must not know how it is carried out.

use std::time::Duration;

use crate::link;
use crate::random::Random;
use crate::scenario::Scenario;

/// Values chosen at random by weight.
#[derive(Clone, Debug)]
pub(crate) struct Mix<Value> {
    entries: Vec<(Value, u32)>,
    total: u64,
}

impl<Value> Mix<Value> {
    /// A mix of these values; `None` if there is none with a weight.
    pub(crate) fn new(entries: Vec<(Value, u32)>) -> Option<Self> {
        let total = entries.iter().map(|&(_, weight)| u64::from(weight)).sum();
        (total > 0).then_some(Self { entries, total })
    }

    /// Reads `VALUE[:WEIGHT],VALUE[:WEIGHT]…`; the weight is 1 where none is stated.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn parse(text: &str, value: impl Fn(&str) -> Result<Value, String>) -> Result<Self, String> {
        let entries: Result<Vec<_>, String> = text.split(',').map(|entry| parse_entry(entry.trim(), &value)).collect();
        Self::new(entries?).ok_or_else(|| format!("{text:?} has no entry with a weight"))
    }

    /// One of the values.
    pub(crate) fn draw(&self, random: &mut Random) -> &Value {
        let mut at = random.below(self.total);
        let chosen = self.entries.iter().find(|&&(_, weight)| {
            let here = at < u64::from(weight);
            at = at.saturating_sub(u64::from(weight));
            here
        });
        &chosen.expect("the number is below the sum of the weights").0
    }

    /// All values with a weight.
    pub(crate) fn values(&self) -> impl Iterator<Item = &Value> {
        self.entries.iter().filter(|&&(_, weight)| weight > 0).map(|(value, _)| value)
    }

    /// The mix without the values that fail the test; `None` if nothing is left.
    pub(crate) fn filtered(self, test: impl Fn(&Value) -> bool) -> Option<Self> {
        Self::new(self.entries.into_iter().filter(|(value, _)| test(value)).collect())
    }
}

fn parse_entry<Value>(entry: &str, value: impl Fn(&str) -> Result<Value, String>) -> Result<(Value, u32), String> {
    let Some((name, weight)) = entry.rsplit_once(':') else { return Ok((value(entry)?, 1)) };
    let weight = weight.parse().map_err(|_| format!("{weight:?} is no weight: say a whole number"))?;
    Ok((value(name)?, weight))
}

/// Reads a mix of scenarios, such as `full:9,esmtp:1`.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn parse_scenarios(text: &str) -> Result<Mix<Scenario>, String> {
    Mix::parse(text, Scenario::parse)
}

/// Reads a mix of links, such as `lte:7,200±20:3`.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn parse_links(text: &str) -> Result<Mix<link::Profile>, String> {
    Mix::parse(text, link::Profile::parse)
}

/// How large messages are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Size {
    /// All the same.
    Fixed(u64),
    /// Evenly between two sizes, both included.
    Uniform(u64, u64),
    /// Exponentially distributed with this mean, at most a hundred times as large.
    Exponential(u64),
}

/// Largest message that can be asked for, in bytes: each client in flight holds its own.
const MESSAGE_BYTES_MAX: u64 = 256 << 20;

impl Size {
    /// Reads `4k`, `1k-64k` or `~20k` (exponential); `k` and `m` are 1,024 and 1,048,576 bytes.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let words = || format!("{text:?} is no size: say 4k, 1k-64k or ~20k (mean of an exponential distribution)");
        if let Some(mean) = text.strip_prefix('~') {
            return bytes(mean).map(Self::Exponential).ok_or_else(words);
        }
        let Some((low, high)) = text.split_once('-') else { return bytes(text).map(Self::Fixed).ok_or_else(words) };
        match (bytes(low), bytes(high)) {
            (Some(low), Some(high)) if low <= high => Ok(Self::Uniform(low, high)),
            _ => Err(words()),
        }
    }

    /// One size.
    pub(crate) fn draw(self, random: &mut Random) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes,
            Self::Uniform(low, high) => low + random.below(high - low + 1),
            Self::Exponential(mean) => ((mean as f64 * random.exponential()) as u64).min(mean.saturating_mul(100)),
        }
        .min(MESSAGE_BYTES_MAX)
    }
}

fn bytes(text: &str) -> Option<u64> {
    let (digits, unit) = match text.strip_suffix(['k', 'K']) {
        Some(digits) => (digits, 1 << 10),
        None => text.strip_suffix(['m', 'M']).map_or((text, 1), |digits| (digits, 1 << 20)),
    };
    let number: u64 = digits.parse().ok()?;
    number.checked_mul(unit).filter(|&bytes| bytes <= MESSAGE_BYTES_MAX)
}

/// What makes a client begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Load {
    /// Clients begin at this rate per second, whether earlier ones are done or not.
    Open {
        /// Sessions per second, all cores together.
        per_s: f64,
        /// How they are spread.
        arrivals: Arrivals,
    },
    /// So many clients are at it all the time; when one is done, another begins.
    Closed {
        /// Clients, all cores together.
        clients: u32,
    },
}

/// How the beginnings of an open loop are spread over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrivals {
    /// At even distances.
    Even,
    /// As many independent people would: a Poisson process.
    Poisson,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// No session begins after this time.
    After(Duration),
    /// So many sessions are begun, all cores together.
    Sessions(u64),
}

/// A whole run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// What makes a client begin.
    pub(crate) load: Load,
    /// The load rises evenly from nothing during this time.
    pub(crate) ramp: Duration,
    /// When no session begins any more.
    pub(crate) end: End,
    /// Messages that one session sends.
    pub(crate) messages: u32,
    /// How long a client rests between two messages.
    pub(crate) think_time: Duration,
    /// How large messages are.
    pub(crate) size: Size,
    /// Recipients of each message.
    pub(crate) recipients: u32,
    /// The ways to submit.
    pub(crate) scenarios: Mix<Scenario>,
    /// The links of the clients.
    pub(crate) links: Mix<link::Profile>,
    /// Share of the clients that come with what they remember, where their scenario has them come so: 0 to 1.
    pub(crate) warm_share: f64,
    /// Everything random follows from it.
    pub(crate) seed: u64,
}

/// The beginnings of one core's sessions in an open loop.
///
/// While the load rises, the distance between two beginnings shrinks so that the rate grows evenly: the number of beginnings
/// by time t is rate·t²/2·ramp, and its inverse says when each of them is due.
#[derive(Debug)]
pub(crate) struct Schedule {
    per_s: f64,
    arrivals: Arrivals,
    ramp_s: f64,
    limit: Limit,
    random: Random,
    /// Sessions due so far, as the area under the rate; not whole where arrivals are random.
    due: f64,
    begun: u64,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    Time(Duration),
    Count(u64),
}

impl Schedule {
    /// The share of core number `core` of `cores` in an open loop of `per_s` sessions per second.
    pub(crate) fn new(plan: &Plan, per_s: f64, arrivals: Arrivals, core: u64, cores: u64) -> Self {
        let limit = match plan.end {
            End::After(time) => Limit::Time(time),
            End::Sessions(count) => Limit::Count(share(count, core, cores)),
        };
        // Cores take turns, so that together they are as even as one would be.
        let first = core as f64 / cores as f64;
        Self {
            per_s: per_s / cores as f64,
            arrivals,
            ramp_s: plan.ramp.as_secs_f64(),
            limit,
            random: Random::new(plan.seed ^ (core + 1).wrapping_mul(0xA076_1D64_78BD_642F)),
            due: first,
            begun: 0,
        }
    }

    /// When the next session is due; `None` after the last.
    pub(crate) fn next(&mut self) -> Option<Duration> {
        let at = self.time_of(self.due);
        let over = match self.limit {
            Limit::Time(end) => at >= end,
            Limit::Count(count) => self.begun >= count,
        };
        if over {
            return None;
        }
        self.begun += 1;
        self.due += match self.arrivals {
            Arrivals::Even => 1.0,
            Arrivals::Poisson => self.random.exponential(),
        };
        Some(at)
    }

    fn time_of(&self, due: f64) -> Duration {
        let due_in_ramp = self.per_s * self.ramp_s / 2.0;
        let seconds = if due < due_in_ramp {
            (2.0 * due * self.ramp_s / self.per_s).sqrt()
        } else {
            self.ramp_s + (due - due_in_ramp) / self.per_s
        };
        Duration::from_secs_f64(seconds.min(1e9))
    }
}

/// The part of `count` that falls to core number `core` of `cores`.
pub(crate) const fn share(count: u64, core: u64, cores: u64) -> u64 {
    count / cores + if core < count % cores { 1 } else { 0 }
}

/// The part of `count` sessions that falls to core number `core` of `cores`, if only those with one of `clients` can do any.
pub(crate) const fn share_of_busy(count: u64, clients: u64, core: u64, cores: u64) -> u64 {
    let busy = if clients < cores { clients } else { cores };
    if core < busy { share(count, core, busy) } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Arrivals, End, Load, Mix, Plan, Schedule, Size, parse_links, parse_scenarios, share, share_of_busy};
    use crate::random::Random;
    use crate::scenario::Scenario;

    fn plan(ramp_s: u64, end: End) -> Plan {
        Plan {
            load: Load::Open { per_s: 100.0, arrivals: Arrivals::Even },
            ramp: Duration::from_secs(ramp_s),
            end,
            messages: 1,
            think_time: Duration::ZERO,
            size: Size::Fixed(1),
            recipients: 1,
            scenarios: parse_scenarios("esmtp").unwrap(),
            links: parse_links("lan").unwrap(),
            warm_share: 1.0,
            seed: 1,
        }
    }

    fn times(plan: &Plan, arrivals: Arrivals, cores: u64) -> Vec<Duration> {
        let mut all = Vec::new();
        for core in 0..cores {
            let mut schedule = Schedule::new(plan, 100.0, arrivals, core, cores);
            all.extend(std::iter::from_fn(|| schedule.next()));
        }
        all.sort_unstable();
        all
    }

    #[test]
    fn an_even_open_loop_is_as_even_on_two_cores_as_on_one() {
        let plan = plan(0, End::After(Duration::from_secs(2)));
        for cores in [1, 2] {
            let times = times(&plan, Arrivals::Even, cores);
            assert_eq!(times.len(), 200);
            assert!(times.windows(2).all(|pair| (9..=11).contains(&(pair[1] - pair[0]).as_millis())));
        }
    }

    #[test]
    fn a_poisson_loop_has_its_rate_but_no_rhythm() {
        let times = times(&plan(0, End::After(Duration::from_secs(100))), Arrivals::Poisson, 1);
        assert!((9_500..10_500).contains(&times.len()), "{}", times.len());
        assert!(times.windows(2).any(|pair| (pair[1] - pair[0]).as_millis() > 40));
    }

    #[test]
    fn half_of_the_full_rate_is_begun_during_the_ramp() {
        let times = times(&plan(10, End::After(Duration::from_secs(20))), Arrivals::Even, 1);
        let in_ramp = times.iter().filter(|at| at.as_secs() < 10).count();
        assert!((498..=502).contains(&in_ramp), "{in_ramp}");
        assert!((1_498..=1_502).contains(&times.len()), "{}", times.len());
    }

    #[test]
    fn a_count_is_shared_out_whole() {
        assert_eq!((0..3).map(|core| share(10, core, 3)).sum::<u64>(), 10);
        assert_eq!(times(&plan(0, End::Sessions(7)), Arrivals::Even, 2).len(), 7);
    }

    #[test]
    fn cores_without_a_client_get_no_sessions_so_that_none_is_lost() {
        assert_eq!([0, 1, 2].map(|core| share_of_busy(10, 1, core, 3)), [10, 0, 0]);
        assert_eq!([0, 1, 2].map(|core| share_of_busy(10, 2, core, 3)), [5, 5, 0]);
        assert_eq!([0, 1, 2].map(|core| share_of_busy(10, 16, core, 3)), [4, 3, 3]);
    }

    #[test]
    fn weights_decide_how_often_a_value_is_drawn() {
        let mix = parse_scenarios("full:9, esmtp").unwrap();
        let mut random = Random::new(3);
        let full = (0..10_000).filter(|_| *mix.draw(&mut random) == Scenario::Full).count();
        assert!((8_800..9_200).contains(&full), "{full}");
        assert!(mix.filtered(|scenario| *scenario == Scenario::Basic).is_none());
    }

    #[test]
    fn nonsense_is_no_mix() {
        for text in ["", "full:", "full:x", "full:0", "slow", "full,,esmtp", "full:-1"] {
            assert!(parse_scenarios(text).is_err(), "{text:?}");
        }
        assert!(Mix::<u8>::new(Vec::new()).is_none());
    }

    #[test]
    fn sizes_are_read_and_keep_to_their_distribution() {
        assert_eq!(Size::parse("4k"), Ok(Size::Fixed(4_096)));
        assert_eq!(Size::parse("1k-2M"), Ok(Size::Uniform(1_024, 2 << 20)));
        let mut random = Random::new(5);
        assert!((0..1_000).all(|_| (10..=20).contains(&Size::Uniform(10, 20).draw(&mut random))));
        let mean = (0..50_000).map(|_| Size::Exponential(1_000).draw(&mut random)).sum::<u64>() / 50_000;
        assert!((970..1_030).contains(&mean), "{mean}");
        for text in ["", "k", "2k-1k", "-5", "1g", "~", "9999999999999m"] {
            assert!(Size::parse(text).is_err(), "{text:?}");
        }
    }
}
