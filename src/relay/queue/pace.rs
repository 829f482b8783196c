//! When again.
//!
//! Waits double from attempt to attempt, up to a bound, and no two of them are quite the same: what failed together must
//! not come back together. Randomness is passed in as a seed, so that a simulation can be run again.

use std::time::Duration;

/// Random numbers that need only look random (the steps of SplitMix64).
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// At least 0 and less than 1.
    fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        // The 53 bits that a float holds.
        (bits >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How long to wait after attempt number `tries`, counted from 1: `shortest` after the first, twice as long after each
/// further one, and up to a quarter more. At `longest` the quarter is taken off instead.
pub(super) fn wait(tries: u32, shortest: Duration, longest: Duration, random: &mut Random) -> Duration {
    let doublings = tries.saturating_sub(1).min(DOUBLINGS_MAX);
    let wait = shortest.saturating_mul(1 << doublings).min(longest);
    let quarter = random.fraction() / 4.0;
    let longer = wait.mul_f64(1.0 + quarter);
    if longer <= longest { longer } else { longest.mul_f64(1.0 - quarter) }
}

/// A moment of the monotonic clock in tenths of a second, rounded up: four bytes last for thirteen years.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tick(u32);

impl Tick {
    pub(super) fn not_before(moment: Duration) -> Self {
        Self(u32::try_from(moment.as_millis().div_ceil(TICK_MS)).unwrap_or(u32::MAX))
    }

    pub(super) fn moment(self) -> Duration {
        Duration::from_millis(u64::from(self.0) * TICK_MS as u64)
    }
}

const TICK_MS: u128 = 100;

/// A second, doubled so often, is eighteen hours.
const DOUBLINGS_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Random, Tick, wait};

    const SHORTEST: Duration = Duration::from_secs(60);
    const LONGEST: Duration = Duration::from_secs(3_600);

    #[test]
    fn waits_double_up_to_the_longest_and_are_never_quite_the_same() {
        let mut random = Random::new(7);
        for (tries, at_least_s, at_most_s) in [
            (1, 60, 75),
            (2, 120, 150),
            (3, 240, 300),
            (6, 1_920, 2_400),
            (7, 2_700, 3_600),
            (4_000_000_000, 2_700, 3_600),
        ] {
            let waits: Vec<_> = (0..1_000).map(|_| wait(tries, SHORTEST, LONGEST, &mut random)).collect();
            let (least, most) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
            assert!(*least >= Duration::from_secs(at_least_s) && *most <= Duration::from_secs(at_most_s), "{tries}");
            let spread = (most.as_secs_f64() - least.as_secs_f64()) / (at_most_s - at_least_s) as f64;
            assert!(spread > 0.9, "they use the room they have: {tries}, {spread}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_waits() {
        let waits = |seed| {
            let mut random = Random::new(seed);
            [1, 2, 3].map(|tries| wait(tries, SHORTEST, LONGEST, &mut random))
        };
        assert_eq!(waits(1), waits(1));
        assert_ne!(waits(1), waits(2));
    }

    #[test]
    fn a_tick_is_never_before_its_moment_and_at_most_a_tenth_later() {
        for ms in [0, 1, 99, 100, 101, 123_456_789] {
            let moment = Duration::from_millis(ms);
            let tick = Tick::not_before(moment).moment();
            assert!(tick >= moment && tick < moment + Duration::from_millis(100), "{ms}");
        }
    }
}
