//! Conditions under which a run counts as failed, such as `p99>50ms`, for scripts and continuous integration.
//!
//! Pure. The exit code is `main`'s.

use crate::record::Phase;
use crate::report::{ScenarioSummary, Summary};

/// A condition: `[SCENARIO:]MEASURE OPERATOR VALUE`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Condition {
    words: String,
    scenario: Option<String>,
    measure: Measure,
    operator: Operator,
    value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    /// Time to the final reply at this percentile, in milliseconds.
    Percentile(f64),
    /// Mean time to the final reply, in milliseconds.
    Mean,
    /// Failures.
    Errors,
    /// Messages acknowledged.
    Messages,
    /// Messages acknowledged per second.
    Rate,
    /// TLS handshakes that resumed a session, in percent.
    Resumed,
    /// TLS handshakes whose early data the server took, in percent.
    EarlyData,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Above,
    Below,
}

impl Condition {
    /// Reads a condition. Measures are `p50` to `p99.99`, `max`, `mean` (with `ms`, `s` or `us`), `errors`, `messages`,
    /// `rate`, and `resumed` and `early-data` (in percent of the TLS handshakes, with or without the sign); operators `>` and
    /// `<`.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        Self::read(text).ok_or_else(|| {
            format!(
                "{text:?} is no condition: say [SCENARIO:]p99>50ms, mean>20ms, max>1s, errors>0, messages<1000, rate<500, resumed<99% \
                 or early-data<99%"
            )
        })
    }

    fn read(text: &str) -> Option<Self> {
        let at = text.find(['<', '>'])?;
        let operator = if text[at..].starts_with('>') { Operator::Above } else { Operator::Below };
        let (left, right) = (text[..at].trim(), text[at + 1..].trim());
        let (scenario, measure) = match left.split_once(':') {
            Some((scenario, measure)) => (Some(scenario.to_owned()), measure),
            None => (None, left),
        };
        let (measure, value) = match measure {
            "errors" => (Measure::Errors, right.parse().ok()?),
            "messages" => (Measure::Messages, right.parse().ok()?),
            "rate" => (Measure::Rate, right.parse().ok()?),
            "resumed" => (Measure::Resumed, percent(right)?),
            "early-data" => (Measure::EarlyData, percent(right)?),
            "mean" => (Measure::Mean, milliseconds(right)?),
            "max" => (Measure::Percentile(100.0), milliseconds(right)?),
            percentile => {
                let percentile: f64 = percentile.strip_prefix('p')?.parse().ok()?;
                (0.0..=100.0).contains(&percentile).then_some(())?;
                (Measure::Percentile(percentile), milliseconds(right)?)
            }
        };
        value.is_finite().then(|| Self { words: text.to_owned(), scenario, measure, operator, value })
    }

    /// Words for the user, if the run meets this condition, or if there is nothing to judge it by.
    pub(crate) fn judge(&self, summary: &Summary) -> Option<String> {
        let Some(scenario) = summary.scenario(self.scenario.as_deref()) else {
            return Some(format!("{}: that scenario was not run", self.words));
        };
        let Some(measured) = self.measure(summary, scenario) else {
            return Some(format!("{}: there is nothing to judge it by: no message was acknowledged", self.words));
        };
        let holds = match self.operator {
            Operator::Above => measured > self.value,
            Operator::Below => measured < self.value,
        };
        holds.then(|| format!("{}: it was {measured:.3}", self.words))
    }

    fn measure(&self, summary: &Summary, scenario: &ScenarioSummary) -> Option<f64> {
        let times = || scenario.phase(Phase::FinalReply);
        match self.measure {
            Measure::Percentile(percentile) => times().map(|times| times.at(percentile) as f64 / 1e3),
            Measure::Mean => times().map(|times| times.mean_us / 1e3),
            Measure::Errors => Some(scenario.errors_total() as f64),
            Measure::Messages => Some(scenario.acknowledged as f64),
            Measure::Rate => Some(summary.rate(scenario)),
            Measure::Resumed => scenario.percent_of_handshakes(scenario.resumed),
            Measure::EarlyData => scenario.percent_of_handshakes(scenario.early_data_accepted),
        }
    }
}

fn percent(text: &str) -> Option<f64> {
    text.strip_suffix('%').unwrap_or(text).trim().parse().ok()
}

fn milliseconds(text: &str) -> Option<f64> {
    let (number, factor) = [("ms", 1.0), ("us", 1e-3), ("µs", 1e-3), ("s", 1e3)]
        .into_iter()
        .find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    number.trim().parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use super::Condition;
    use crate::report::tests::example;

    fn judged(text: &str) -> Option<String> {
        Condition::parse(text).unwrap().judge(&example(0.1).1)
    }

    #[test]
    fn conditions_hold_when_they_should_and_only_then() {
        for text in
            ["p99>50ms", "full:p50>0.04s", "errors>0", "bad-auth:errors>0", "rate<51", "max > 99000us", "mean>50ms"]
                .into_iter()
                .chain(["full:resumed<99.5%", "full:early-data < 98", "resumed<100 %"])
        {
            assert!(judged(text).is_some(), "{text}");
        }
        for text in [
            "p99>150ms",
            "full:errors>0",
            "rate<49",
            "messages<100",
            "p0<1ms",
            "full:resumed<99%",
            "full:early-data<97",
        ] {
            assert_eq!(judged(text), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_judged_fails() {
        assert!(judged("basic:p99>1s").unwrap().contains("not run"));
        assert!(judged("bad-auth:p99>1s").unwrap().contains("no message"));
        assert!(judged("bad-auth:resumed<99%").unwrap().contains("nothing to judge"));
    }

    #[test]
    fn nonsense_is_no_condition() {
        for text in ["", "p99", "p99>50", "p101>1ms", "speed>1", ">1", "errors=0", "rate>x", "p50>NaNms"] {
            assert!(Condition::parse(text).is_err(), "{text:?}");
        }
    }
}
