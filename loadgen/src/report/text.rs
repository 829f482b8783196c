//! A summary as plain text, for a terminal and for logs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{PhaseSummary, ScenarioSummary, Summary};
use crate::record::Phase;

/// The whole report.
pub(crate) fn write(summary: &Summary) -> String {
    let mut text = String::new();
    write_scenarios(&mut text, summary);
    write_phases(&mut text, summary);
    write_trips(&mut text, summary);
    write_savings(&mut text, summary);
    write_errors(&mut text, summary);
    write_costs(&mut text, summary);
    text
}

// Writing to a String cannot fail, so the results of `writeln!` are dropped below.

fn write_scenarios(text: &mut String, summary: &Summary) {
    let _ = writeln!(
        text,
        "{:<20}{:>10}{:>10}{:>9}{:>9}  time to the final reply in ms\n{:<58}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "scenario", "messages", "per s", "errors", "resumed", "", "p50", "p90", "p99", "p99.9", "max"
    );
    for scenario in summary.scenarios.iter().chain([&summary.total]) {
        let resumed = scenario.percent_of_handshakes(scenario.resumed);
        let resumed = resumed.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0} %"));
        let _ = write!(
            text,
            "{:<20}{:>10}{:>10.1}{:>9}{resumed:>9}",
            scenario.name,
            scenario.acknowledged,
            summary.rate(scenario),
            scenario.errors_total()
        );
        if let Some(times) = scenario.phase(Phase::FinalReply) {
            let columns = [50.0, 90.0, 99.0, 99.9, 100.0].map(|percentile| format!("{:>9}", ms(times.at(percentile))));
            let _ = write!(text, "{}", columns.concat());
        }
        text.push('\n');
    }
}

fn write_phases(text: &mut String, summary: &Summary) {
    let _ = writeln!(text, "\nphases, p50 / p99 in ms after the intended start");
    let names = Phase::ALL.map(|phase| format!("{:>20}", phase.name())).concat();
    let _ = writeln!(text, "{:<20}{names}", "");
    for scenario in &summary.scenarios {
        let columns = Phase::ALL.map(|phase| format!("{:>20}", both(scenario.phase(phase)))).concat();
        let _ = writeln!(text, "{:<20}{columns}", scenario.name);
    }
}

fn both(times: Option<&PhaseSummary>) -> String {
    times.map_or_else(|| "-".to_owned(), |times| format!("{} / {}", ms(times.at(50.0)), ms(times.at(99.0))))
}

fn write_trips(text: &mut String, summary: &Summary) {
    let _ = writeln!(text, "\nround trips to the final reply and packet of MAIL, first message of a connection");
    for scenario in &summary.scenarios {
        let _ = writeln!(text, "{:<20}{}", scenario.name, trips(scenario));
    }
}

/// For example `3; MAIL in packet 3`.
fn trips(scenario: &ScenarioSummary) -> String {
    match scenario.round_trips.is_empty() {
        true => "-".to_owned(),
        false => format!("{}; MAIL in packet {}", shares(&scenario.round_trips), shares(&scenario.mail_packets)),
    }
}

/// For example `3`, or `3 (90 %), 4 (10 %)` if not all have the same value.
pub(crate) fn shares(counts: &BTreeMap<u32, u64>) -> String {
    let total: u64 = counts.values().sum();
    let share = |(value, count): (&u32, &u64)| match *count == total {
        true => value.to_string(),
        false => format!("{value} ({:.1} %)", *count as f64 * 100.0 / total as f64),
    };
    match counts.is_empty() {
        true => "-".to_owned(),
        false => counts.iter().map(share).collect::<Vec<_>>().join(", "),
    }
}

/// What was saved by what clients remembered, where there was something to remember.
fn write_savings(text: &mut String, summary: &Summary) {
    let saved = |scenario: &&ScenarioSummary| {
        scenario.resumed + scenario.early_data_accepted + scenario.early_data_rejected + scenario.opened_fast > 0
    };
    let rows: Vec<_> = summary.scenarios.iter().filter(saved).collect();
    if rows.is_empty() {
        return;
    }
    let names = ["connections", "fast open", "handshakes", "resumed", "early data", "rejected"];
    let _ = writeln!(text, "\nTCP and TLS, counted\n{:<20}{}", "", names.map(|name| format!("{name:>12}")).concat());
    for row in rows {
        let percent = |count| row.percent_of_handshakes(count).unwrap_or_default();
        let counts = [
            row.connections,
            row.opened_fast,
            row.handshakes,
            row.resumed,
            row.early_data_accepted,
            row.early_data_rejected,
        ];
        let _ = writeln!(
            text,
            "{:<20}{}   {:.2} % resumed, {:.2} % with early data",
            row.name,
            counts.map(|count| format!("{count:>12}")).concat(),
            percent(row.resumed),
            percent(row.early_data_accepted)
        );
    }
}

fn write_errors(text: &mut String, summary: &Summary) {
    for scenario in &summary.scenarios {
        for (kind, count) in &scenario.errors {
            let _ = writeln!(text, "error: {}: {kind}: {count}", scenario.name);
        }
    }
    for words in &summary.left_out {
        let _ = writeln!(text, "left out: {words}");
    }
}

fn write_costs(text: &mut String, summary: &Summary) {
    if let Some(server) = &summary.server {
        let _ = writeln!(
            text,
            "\nserver: {:.2} s of processor time, {:.1} µs per message, at most {:.1} MiB of memory",
            server.cpu_s,
            server.cpu_us_per_message,
            server.resident_bytes_max as f64 / f64::from(1 << 20)
        );
    }
    let busy: Vec<_> = summary.generator_busy.iter().map(|busy| format!("{:.0} %", busy * 100.0)).collect();
    let _ = writeln!(text, "\ngenerator: {:.1} s, cores busy {}", summary.seconds, busy.join(", "));
    for warning in &summary.warnings {
        let _ = writeln!(text, "WARNING: {warning}");
    }
}

/// Two runs side by side.
pub(crate) fn compare(before: &Summary, after: &Summary) -> String {
    let mut text = format!("{:<20}{:<12}{:>12}{:>12}{:>10}\n", "scenario", "", "before", "now", "change");
    for scenario in after.scenarios.iter().chain([&after.total]) {
        let Some(old) = before.scenario(Some(&scenario.name)) else { continue };
        let mut row = |name: &str, old: f64, new: f64| {
            let change = if old == 0.0 { "-".to_owned() } else { format!("{:+.1} %", (new / old - 1.0) * 100.0) };
            let _ = writeln!(text, "{:<20}{name:<12}{old:>12.2}{new:>12.2}{change:>10}", scenario.name);
        };
        row("per s", before.rate(old), after.rate(scenario));
        row("errors", old.errors_total() as f64, scenario.errors_total() as f64);
        if let (Some(old), Some(new)) = (old.phase(Phase::FinalReply), scenario.phase(Phase::FinalReply)) {
            for (name, percentile) in [("p50 ms", 50.0), ("p99 ms", 99.0), ("p99.9 ms", 99.9)] {
                row(name, old.at(percentile) as f64 / 1e3, new.at(percentile) as f64 / 1e3);
            }
        }
    }
    text
}

/// Microseconds as milliseconds.
pub(crate) fn ms(time_us: u64) -> String {
    format!("{:.1}", time_us as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{compare, write};
    use crate::report::tests::example;

    #[test]
    fn the_text_names_scenarios_errors_and_what_was_left_out() {
        let text = write(&example(0.95).1);
        for words in [
            "full",
            "50.0",
            "closed <early>: 1",
            "left out: pipeconnect",
            "3; MAIL in packet",
            "WARNING",
            "99.00 % resumed, 97.00 % with early data",
        ] {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
    }

    #[test]
    fn a_run_beside_itself_has_not_changed() {
        let (_, summary) = example(0.1);
        let text = compare(&summary, &summary);
        assert!(text.contains("full                p99 ms") && text.contains("+0.0 %"), "{text}");
    }
}
