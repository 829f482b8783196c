//! What people and programs read at the end: a summary, and its forms.
//!
//! [`Summary`] is what `--json` writes and `--compare-to` reads; `text`, `hgrm` and `html` show it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::record::{Phase, Record, ScenarioRecord};

pub(crate) mod html;
pub(crate) mod text;

/// A core busier than this share of the time may have been the bottleneck.
const BUSY_MAX: f64 = 0.85;

/// Sessions that began later than this (99th percentile) make the figures doubtful.
const LATENESS_MAX_US: u64 = 20_000;

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Version of this format.
    pub(crate) format: u32,
    /// When the run began, in seconds since 1970.
    pub(crate) began_unix_s: u64,
    /// The command line.
    pub(crate) command: String,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    /// All scenarios together; its name is `all`.
    pub(crate) total: ScenarioSummary,
    /// Each scenario.
    pub(crate) scenarios: Vec<ScenarioSummary>,
    /// The course of the run.
    pub(crate) course: Vec<SecondSummary>,
    /// What was left out, with the reason.
    pub(crate) left_out: Vec<String>,
    /// Share of the time that each core of the generator was busy.
    pub(crate) generator_busy: Vec<f64>,
    /// How late sessions began, 99th percentile in microseconds.
    pub(crate) lateness_p99_us: u64,
    /// What the server used.
    pub(crate) server: Option<ServerSummary>,
    /// What makes the figures doubtful.
    pub(crate) warnings: Vec<String>,
}

/// What a server used during a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ServerSummary {
    /// Processor time in seconds.
    pub(crate) cpu_s: f64,
    /// Processor time for each acknowledged message in microseconds.
    pub(crate) cpu_us_per_message: f64,
    /// Largest resident memory seen in bytes.
    pub(crate) resident_bytes_max: u64,
}

/// One scenario.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ScenarioSummary {
    /// Its name.
    pub(crate) name: String,
    /// Sessions that ended as they should.
    pub(crate) sessions: u64,
    /// Connections made.
    pub(crate) connections: u64,
    /// Messages acknowledged.
    pub(crate) acknowledged: u64,
    /// TLS handshakes.
    pub(crate) handshakes: u64,
    /// TLS handshakes that resumed a session.
    pub(crate) resumed: u64,
    /// TLS handshakes whose early data the server took.
    #[serde(default)]
    pub(crate) early_data_accepted: u64,
    /// TLS handshakes whose early data the server did not take.
    #[serde(default)]
    pub(crate) early_data_rejected: u64,
    /// Connections whose SYN carried data that the server took.
    #[serde(default)]
    pub(crate) opened_fast: u64,
    /// Failures by kind.
    pub(crate) errors: BTreeMap<String, u64>,
    /// First messages by round trips to the final reply.
    pub(crate) round_trips: BTreeMap<u32, u64>,
    /// First messages by the packet of their MAIL.
    pub(crate) mail_packets: BTreeMap<u32, u64>,
    /// Times of each phase.
    pub(crate) phases: Vec<PhaseSummary>,
}

/// Times of one phase, in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PhaseSummary {
    /// Its name.
    pub(crate) name: String,
    /// How many times were measured.
    pub(crate) count: u64,
    /// Mean.
    pub(crate) mean_us: f64,
    /// Largest.
    pub(crate) max_us: u64,
    /// Percentiles and their times, rising.
    pub(crate) curve: Vec<(f64, u64)>,
}

/// One second of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SecondSummary {
    /// Seconds since the beginning.
    pub(crate) at_s: u64,
    /// Messages acknowledged.
    pub(crate) acknowledged: u64,
    /// Failures.
    pub(crate) errors: u64,
    /// Median of the times to the final reply in microseconds.
    pub(crate) p50_us: u64,
    /// 99th percentile.
    pub(crate) p99_us: u64,
}

/// The version of [`Summary`] that this program writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Percentiles of the curves.
const CURVE: [f64; 25] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 75.0, 80.0, 85.0, 88.0, 90.0, 92.0, 95.0, 97.0, 98.0, 99.0, 99.5,
    99.7, 99.9, 99.95, 99.97, 99.99, 100.0,
];

/// What is known besides the record.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances {
    /// When the run began, since 1970.
    pub(crate) began: Duration,
    /// The command line.
    pub(crate) command: String,
    /// How long it took.
    pub(crate) took: Duration,
    /// What was left out, with the reason.
    pub(crate) left_out: Vec<String>,
    /// Share of the time that each core was busy.
    pub(crate) generator_busy: Vec<f64>,
    /// What the server used.
    pub(crate) server: Option<crate::server_watch::Usage>,
}

impl Summary {
    /// Sums a record up.
    pub(crate) fn new(record: &Record, circumstances: Circumstances) -> Self {
        let total = record.total();
        let lateness_p99_us = record.lateness.histogram().value_at_percentile(99.0);
        let server = circumstances.server.map(|usage| ServerSummary {
            cpu_s: usage.cpu.as_secs_f64(),
            cpu_us_per_message: usage.cpu.as_secs_f64() * 1e6 / total.acknowledged.max(1) as f64,
            resident_bytes_max: usage.resident_bytes,
        });
        Self {
            format: FORMAT,
            began_unix_s: circumstances.began.as_secs(),
            command: circumstances.command,
            seconds: circumstances.took.as_secs_f64(),
            total: scenario("all", &total),
            scenarios: record.scenarios().iter().map(|(name, record)| scenario(name.name(), record)).collect(),
            course: course(record),
            left_out: circumstances.left_out,
            warnings: warnings(record, &circumstances.generator_busy, lateness_p99_us),
            generator_busy: circumstances.generator_busy,
            lateness_p99_us,
            server,
        }
    }

    /// Reads what `--json` wrote.
    ///
    /// # Errors
    ///
    /// Words for the user.
    pub(crate) fn from_json(json: &str) -> Result<Self, String> {
        let summary: Self = serde_json::from_str(json).map_err(|error| format!("this is no report: {error}"))?;
        if summary.format != FORMAT {
            return Err(format!("this report has format {}, and this program reads {FORMAT}", summary.format));
        }
        Ok(summary)
    }

    /// This scenario, or all of them for `None`.
    pub(crate) fn scenario(&self, name: Option<&str>) -> Option<&ScenarioSummary> {
        match name {
            None | Some("all") => Some(&self.total),
            Some(name) => self.scenarios.iter().find(|scenario| scenario.name == name),
        }
    }

    /// Messages acknowledged per second.
    pub(crate) fn rate(&self, scenario: &ScenarioSummary) -> f64 {
        scenario.acknowledged as f64 / self.seconds.max(1e-9)
    }
}

impl ScenarioSummary {
    /// Failures of all kinds.
    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }

    /// So many of the TLS handshakes in percent; `None` if there were none.
    pub(crate) fn percent_of_handshakes(&self, count: u64) -> Option<f64> {
        (self.handshakes > 0).then(|| count as f64 * 100.0 / self.handshakes as f64)
    }

    /// The times of a phase.
    pub(crate) fn phase(&self, phase: Phase) -> Option<&PhaseSummary> {
        self.phases.iter().find(|summary| summary.name == phase.name() && summary.count > 0)
    }
}

impl PhaseSummary {
    /// The time below which so many percent lie, in microseconds; between two known percentiles the higher one's.
    pub(crate) fn at(&self, percentile: f64) -> u64 {
        let found = self.curve.iter().find(|&&(known, _)| known >= percentile);
        found.map_or(self.max_us, |&(_, time_us)| time_us)
    }
}

fn scenario(name: &str, record: &ScenarioRecord) -> ScenarioSummary {
    ScenarioSummary {
        name: name.to_owned(),
        sessions: record.sessions,
        connections: record.connections,
        acknowledged: record.acknowledged,
        handshakes: record.handshakes,
        resumed: record.resumed,
        early_data_accepted: record.early_data_accepted,
        early_data_rejected: record.early_data_rejected,
        opened_fast: record.opened_fast,
        errors: record.errors.clone(),
        round_trips: record.round_trips.clone(),
        mail_packets: record.mail_packets.clone(),
        phases: Phase::ALL.into_iter().map(|phase| times(phase.name(), record.phase(phase).histogram())).collect(),
    }
}

fn times(name: &str, histogram: &Histogram<u64>) -> PhaseSummary {
    let curve = CURVE.into_iter().map(|percentile| (percentile, histogram.value_at_percentile(percentile))).collect();
    PhaseSummary {
        name: name.to_owned(),
        count: histogram.len(),
        mean_us: histogram.mean(),
        max_us: histogram.max(),
        curve,
    }
}

fn course(record: &Record) -> Vec<SecondSummary> {
    let row = |(&at_s, second): (&u64, &crate::record::Second)| SecondSummary {
        at_s,
        acknowledged: second.acknowledged,
        errors: second.errors,
        p50_us: second.times.histogram().value_at_percentile(50.0),
        p99_us: second.times.histogram().value_at_percentile(99.0),
    };
    record.seconds().iter().map(row).collect()
}

fn warnings(record: &Record, generator_busy: &[f64], lateness_p99_us: u64) -> Vec<String> {
    let mut warnings: Vec<String> = record.faults.iter().cloned().collect();
    for (core, busy) in generator_busy.iter().enumerate().filter(|&(_, &busy)| busy > BUSY_MAX) {
        warnings.push(format!(
            "the generator itself may have been the bottleneck: its core {core} was busy {:.0} % of the time (more --cores?)",
            busy * 100.0
        ));
    }
    if lateness_p99_us > LATENESS_MAX_US {
        warnings.push(format!(
            "the generator could not keep its own schedule: sessions began up to {:.1} ms late (99th percentile)",
            lateness_p99_us as f64 / 1e3
        ));
    }
    warnings
}

/// The times to the final reply in the text form that HdrHistogram's plotters read (values in milliseconds).
pub(crate) fn hgrm(record: &Record) -> String {
    let total = record.total();
    let histogram = total.phase(Phase::FinalReply).histogram();
    let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
    let mut count = 0;
    for step in histogram.iter_quantiles(5) {
        count += step.count_since_last_iteration();
        let value_ms = step.value_iterated_to() as f64 / 1e3;
        let quantile = step.quantile_iterated_to();
        // Writing to a String cannot fail.
        let _ = match quantile < 1.0 {
            true => writeln!(text, "{value_ms:12.3} {quantile:2.12} {count:10} {:14.2}", 1.0 / (1.0 - quantile)),
            false => writeln!(text, "{value_ms:12.3} {quantile:2.12} {count:10}"),
        };
    }
    let mean_ms = histogram.mean() / 1e3;
    let deviation_ms = histogram.stdev() / 1e3;
    let max_ms = histogram.max() as f64 / 1e3;
    let _ = writeln!(text, "#[Mean    = {mean_ms:12.3}, StdDeviation   = {deviation_ms:12.3}]");
    let _ = writeln!(text, "#[Max     = {max_ms:12.3}, Total count    = {:12}]", histogram.len());
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::{Circumstances, Summary, hgrm};
    use crate::record::{Phase, Record};
    use crate::scenario::Scenario;

    /// A run of 100 messages: 1 ms to 100 ms.
    pub(crate) fn example(generator_busy: f64) -> (Record, Summary) {
        let mut record = Record::default();
        for ms in 1..=100 {
            let at = Duration::from_millis(ms * 20);
            record.note_acknowledged(Scenario::Full, at, Duration::from_millis(ms));
        }
        record.note_error(Scenario::BadAuth, Duration::from_secs(1), "closed <early>");
        record.scenario_mut(Scenario::Full).note(Phase::Connect, Duration::from_millis(5));
        let full = record.scenario_mut(Scenario::Full);
        full.round_trips.insert(3, 100);
        (full.handshakes, full.resumed, full.early_data_accepted, full.early_data_rejected) = (100, 99, 97, 2);
        let circumstances = Circumstances {
            began: Duration::from_secs(1),
            command: "run <target>".to_owned(),
            took: Duration::from_secs(2),
            left_out: vec!["pipeconnect: the server does not offer PIPECONNECT".to_owned()],
            generator_busy: vec![generator_busy],
            server: None,
        };
        let summary = Summary::new(&record, circumstances);
        (record, summary)
    }

    #[test]
    fn a_summary_survives_json() {
        let (_, summary) = example(0.1);
        let json = serde_json::to_string(&summary).unwrap();
        let read = Summary::from_json(&json).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), json);
        assert!(Summary::from_json("{}").is_err());
        assert!(Summary::from_json(&json.replacen("\"format\":1", "\"format\":9", 1)).is_err());
    }

    #[test]
    fn a_busy_generator_is_named() {
        assert!(example(0.5).1.warnings.is_empty());
        assert!(example(0.95).1.warnings[0].contains("bottleneck"));
    }

    #[test]
    fn percentiles_and_rates_are_those_of_the_record() {
        let (_, summary) = example(0.1);
        let full = summary.scenario(Some("full")).unwrap();
        let p50 = full.phase(Phase::FinalReply).unwrap().at(50.0);
        assert!((49_900..50_200).contains(&p50), "{p50}");
        assert!((summary.rate(full) - 50.0).abs() < 0.01);
        assert!(summary.scenario(Some("basic")).is_none());
        assert_eq!(summary.total.errors_total(), 1);
    }

    #[test]
    fn the_percentile_file_ends_with_all_messages() {
        let text = hgrm(&example(0.1).0);
        assert!(text.starts_with("       Value     Percentile TotalCount"));
        assert!(text.contains("Total count    =          100"), "{text}");
    }
}
