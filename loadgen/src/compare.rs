//! Every scenario over a real link and over its model, side by side: what the design promises, measured.
//!
//! Each way is gone several times and the median counts, so that one disturbed sample decides nothing.

use std::fmt::Write as _;
use std::time::Duration;

use onetrip::proto::client::EarlyData;
use onetrip::tls::Versions;

use crate::arguments::CompareArguments;
use crate::conversation::Event;
use crate::far::{Far, Place, target};
use crate::ladder::mail_packet;
use crate::packets::flights;
use crate::random::Random;
use crate::run::{say, what_is_offered};
use crate::scenario::Scenario;
use crate::session::Milestone;
use crate::target::Target;
use crate::tls_sessions::TlsConfigs;

/// The versions of TLS that are compared, by their names, in the order of the columns.
const VERSIONS: [(&str, Versions); 2] = [("1.2", Versions::Tls12), ("1.3", Versions::Tls13)];

/// What was measured of one scenario with one version of TLS, a value for each time.
#[derive(Clone, Debug, Default)]
struct Samples {
    mail_packets: Vec<Option<u32>>,
    real_ms: Vec<f64>,
    model_ms: Vec<f64>,
}

impl Samples {
    fn mail_packet(&self) -> Option<u32> {
        median(&self.mail_packets, Ord::cmp).flatten()
    }

    fn real_ms(&self) -> f64 {
        median(&self.real_ms, f64::total_cmp).unwrap_or_default()
    }

    fn model_ms(&self) -> f64 {
        median(&self.model_ms, f64::total_cmp).unwrap_or_default()
    }

    fn difference_percent(&self) -> f64 {
        (self.model_ms() / self.real_ms().max(1e-9) - 1.0) * 100.0
    }
}

/// One row: a scenario with each version of TLS; `None` where it is not offered.
#[derive(Clone, Debug)]
struct Row {
    scenario: Scenario,
    samples: [Option<Samples>; VERSIONS.len()],
}

impl Row {
    /// The same figure of each version.
    fn cell(&self, figure: impl Fn(&Samples) -> String) -> String {
        let figures = self.samples.iter().map(|samples| samples.as_ref().map_or_else(|| "-".to_owned(), &figure));
        figures.collect::<Vec<_>>().join(" / ")
    }

    /// Words about each version where the model is off by more than so many percent.
    fn complaints(&self, tolerance: f64) -> Vec<String> {
        let measured =
            VERSIONS.iter().zip(&self.samples).filter_map(|((name, _), samples)| Some((name, samples.as_ref()?)));
        let off = measured.map(|(name, samples)| (name, samples.difference_percent()));
        off.filter(|(_, percent)| percent.abs() > tolerance)
            .map(|(name, percent)| {
                format!("{}, TLS {name}: the model is off by {percent:+.1} %, more than {tolerance} %", self.scenario)
            })
            .collect()
    }
}

/// Carries out the command: the table, and whether the model is within its tolerance everywhere.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(String, bool), String> {
    let far = Far::start(&arguments.far)?;
    let targets: Result<Vec<_>, String> =
        VERSIONS.iter().map(|&(_, versions)| target(&arguments.far, versions)).collect();
    let targets = targets?;
    let mut rows = rows(&far, &targets)?;
    let bytes = arguments.far.size.draw(&mut Random::new(1));
    // All rows take turns: a disturbance that lasts hits one sample of each and not all samples of one.
    for turn in 1..=arguments.repeat {
        for row in &mut rows {
            say(&format!("{}, {turn} of {}", row.scenario, arguments.repeat));
            for (samples, target) in row.samples.iter_mut().zip(&targets) {
                let Some(samples) = samples else { continue };
                measure(&far, target, row.scenario, bytes, samples)?;
            }
        }
    }
    let round_trip_ms = far.profile.round_trip.as_secs_f64() * 1e3;
    let complaints: Vec<_> = rows.iter().flat_map(|row| row.complaints(arguments.tolerance)).collect();
    let mut text = format!(
        "One message of {bytes} bytes over a link of {round_trip_ms} ms, median of {}; TLS 1.2 / TLS 1.3\n\n",
        arguments.repeat
    );
    text.push_str(&table(&rows, round_trip_ms));
    text.push_str(&all_samples(&rows));
    complaints.iter().for_each(|words| text.push_str(&format!("FAILED: {words}\n")));
    Ok((text, complaints.is_empty()))
}

fn rows(far: &Far, targets: &[Target]) -> Result<Vec<Row>, String> {
    let mut rows: Vec<_> =
        Scenario::ALL.into_iter().map(|scenario| Row { scenario, samples: [const { None }; 2] }).collect();
    for (version, target) in targets.iter().enumerate() {
        let offered = offered(far, target)?;
        let asked = rows.iter_mut().filter(|row| offered.contains(&row.scenario));
        asked.for_each(|row| row.samples[version] = Some(Samples::default()));
    }
    rows.retain(|row| row.samples.iter().any(Option::is_some));
    Ok(rows)
}

fn offered(far: &Far, target: &Target) -> Result<Vec<Scenario>, String> {
    let tls = TlsConfigs::new(&target.trust, target.versions).map_err(|error| error.to_string())?;
    let (offered, left_out) = what_is_offered(target, &far.scout(Place::Model, target, &tls)?);
    left_out.among(Scenario::ALL.iter()).iter().for_each(|words| say(&format!("left out: {words}")));
    // A refused login has no message whose way could be compared.
    let compared: Vec<_> = offered.into_iter().filter(|scenario| !scenario.expects_refusal()).collect();
    let takes_place = |scenario: &Scenario| {
        let skipped = fallback_words(far, target, *scenario)?;
        skipped.iter().for_each(|words| say(&format!("left out: {words}")));
        Ok(skipped.is_none())
    };
    let judged: Result<Vec<_>, String> = compared.iter().map(takes_place).collect();
    Ok(compared
        .into_iter()
        .zip(judged?)
        .filter(|(_, takes_place)| *takes_place)
        .map(|(scenario, _)| scenario)
        .collect())
}

/// Why this scenario would be another one here, seen by trying it: what it needs is not all in the server's lists.
fn fallback_words(far: &Far, target: &Target, scenario: Scenario) -> Result<Option<String>, String> {
    if !scenario.sends_early_data() {
        return Ok(None);
    }
    if target.versions == Versions::Tls12 {
        return Ok(Some(format!("{scenario}: TLS 1.2 has no early data")));
    }
    let trip = far.submit(Place::Near, target, scenario, SMALL_BYTES)?.trip;
    let accepted = |(_, event): &(Duration, Event)| {
        matches!(event, Event::Reached(Milestone::Secured { early_data: EarlyData::Accepted, .. }))
    };
    Ok(match (trip.events.iter().any(accepted), trip.opened_fast || !scenario.opens_fast()) {
        (false, _) => Some(format!("{scenario}: the server did not take early data")),
        (true, false) => Some(format!("{scenario}: the server took no data with the SYN (does it do Fast Open?)")),
        (true, true) => None,
    })
}

/// Bytes of a message that fits a SYN.
const SMALL_BYTES: u64 = 400;

fn measure(far: &Far, target: &Target, scenario: Scenario, bytes: u64, samples: &mut Samples) -> Result<(), String> {
    let real = far.submit(Place::Near, target, scenario, bytes)?;
    let model = far.submit(Place::Model, target, scenario, bytes)?;
    let flights = flights(&real.sightings, far.profile.round_trip / 2);
    samples.mail_packets.push(mail_packet(&flights, &real.trip.sayings));
    samples.real_ms.push(real.took.as_secs_f64() * 1e3);
    samples.model_ms.push(model.took.as_secs_f64() * 1e3);
    Ok(())
}

/// The value in the middle; of two the greater one.
fn median<Value: Copy>(values: &[Value], order: impl Fn(&Value, &Value) -> std::cmp::Ordering) -> Option<Value> {
    let mut sorted = values.to_vec();
    sorted.sort_by(order);
    sorted.get(sorted.len() / 2).copied()
}

/// A table of Markdown that can also be read as it is.
fn table(rows: &[Row], round_trip_ms: f64) -> String {
    let header = ["client", "MAIL in packet", "round trips to 250", "real link, ms", "model, ms", "difference, %"];
    let mut lines = vec![header.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        [
            format!("{} (`{}`)", row.scenario.description(), row.scenario),
            row.cell(|samples| samples.mail_packet().map_or_else(|| "-".to_owned(), |packet| packet.to_string())),
            row.cell(|samples| format!("{:.2}", samples.real_ms() / round_trip_ms.max(1e-9))),
            row.cell(|samples| format!("{:.1}", samples.real_ms())),
            row.cell(|samples| format!("{:.1}", samples.model_ms())),
            row.cell(|samples| format!("{:+.1}", samples.difference_percent())),
        ]
    }));
    let widths: [usize; 6] =
        std::array::from_fn(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default());
    lines.insert(1, std::array::from_fn(|column| rule(widths[column], column)));
    lines.iter().map(|line| markdown(line, &widths)).collect()
}

/// What separates the header from the rows: the first column reads from the left, figures from the right.
fn rule(width: usize, column: usize) -> String {
    if column == 0 { "-".repeat(width) } else { format!("{}:", "-".repeat(width.saturating_sub(1))) }
}

fn markdown(cells: &[String; 6], widths: &[usize; 6]) -> String {
    let mut line = String::from("|");
    for (column, (cell, width)) in cells.iter().zip(widths).enumerate() {
        // Writing to a String cannot fail.
        let _ = if column == 0 { write!(line, " {cell:<width$} |") } else { write!(line, " {cell:>width$} |") };
    }
    line + "\n"
}

/// Every value that a median was taken of.
fn all_samples(rows: &[Row]) -> String {
    let mut text = String::from("\nAll samples, real link | model, ms\n\n");
    for row in rows {
        for ((name, _), samples) in VERSIONS.iter().zip(&row.samples) {
            let Some(samples) = samples else { continue };
            let list = |values: &[f64]| values.iter().map(|ms| format!("{ms:8.1}")).collect::<String>();
            let (real, model) = (list(&samples.real_ms), list(&samples.model_ms));
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:<19} {name} {real} |{model}", row.scenario.name());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Row, Samples, all_samples, median, table};
    use crate::scenario::Scenario;

    fn samples(real_ms: &[f64], model_ms: &[f64]) -> Samples {
        Samples { mail_packets: vec![Some(3); real_ms.len()], real_ms: real_ms.to_vec(), model_ms: model_ms.to_vec() }
    }

    fn row(tls12: Option<Samples>, tls13: Option<Samples>) -> Row {
        Row { scenario: Scenario::Full, samples: [tls12, tls13] }
    }

    #[test]
    fn one_disturbed_sample_does_not_decide() {
        let disturbed = samples(&[600.0, 2_000.0, 604.0], &[602.0, 606.0, 5.0]);
        assert_eq!((disturbed.real_ms(), disturbed.model_ms()), (604.0, 602.0));
        assert!(row(Some(disturbed), None).complaints(5.0).is_empty());
        assert_eq!(median(&[2, 1], Ord::cmp), Some(2));
        assert_eq!(median::<u8>(&[], Ord::cmp), None);
    }

    #[test]
    fn a_model_that_is_off_in_either_direction_is_named_with_its_version() {
        let both = row(Some(samples(&[100.0], &[106.0])), Some(samples(&[100.0], &[94.0])));
        let complaints = both.complaints(5.0);
        assert_eq!(complaints.len(), 2);
        assert_eq!(complaints[0], "full, TLS 1.2: the model is off by +6.0 %, more than 5 %");
        assert!(complaints[1].starts_with("full, TLS 1.3: the model is off by -6.0 %"));
        assert!(both.complaints(7.0).is_empty());
    }

    #[test]
    fn the_table_has_both_versions_in_each_cell_and_a_dash_for_what_is_not_offered() {
        let table = table(&[row(Some(samples(&[600.0], &[603.0])), None)], 200.0);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("| ---") && lines[1].ends_with("-: |"), "{table}");
        for cell in [" 3 / - |", " 3.00 / - |", " 600.0 / - |", " 603.0 / - |", " +0.5 / - |"] {
            assert!(lines[2].contains(cell), "{table}");
        }
        let widths: Vec<_> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|&width| width == widths[0]), "{table}");
    }

    #[test]
    fn every_sample_is_listed() {
        let text = all_samples(&[row(None, Some(samples(&[600.0, 601.0], &[602.0, 603.0])))]);
        assert!(text.ends_with("full                1.3    600.0   601.0 |   602.0   603.0\n"), "{text}");
    }
}
