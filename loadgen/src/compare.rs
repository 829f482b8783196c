//! Every scenario over a real link and over its model, side by side: what the design promises, measured.

use std::fmt::Write as _;

use onetrip::tls::Versions;

use crate::arguments::CompareArguments;
use crate::far::{Far, Place, target};
use crate::ladder::mail_packet;
use crate::packets::flights;
use crate::random::Random;
use crate::run::{say, what_is_offered};
use crate::scenario::Scenario;
use crate::target::Target;
use crate::tls_sessions::TlsConfigs;

/// One row.
struct Row {
    scenario: Scenario,
    mail_packet: Option<u32>,
    real_ms: f64,
    model_ms: f64,
}

impl Row {
    fn deviation_percent(&self) -> f64 {
        (self.model_ms / self.real_ms.max(1e-9) - 1.0) * 100.0
    }
}

/// Carries out the command: the table, and whether the model is within its tolerance everywhere.
///
/// # Errors
///
/// Words for the user.
pub(crate) fn run(arguments: &CompareArguments) -> Result<(String, bool), String> {
    let far = Far::start(&arguments.far)?;
    let round_trip_ms = far.profile.round_trip.as_secs_f64() * 1e3;
    let bytes = arguments.far.size.draw(&mut Random::new(1));
    // Writing to a String cannot fail.
    let mut text = format!("one message of {bytes} bytes over a link of {round_trip_ms} ms\n\n");
    let _ = writeln!(text, "scenario      TLS  MAIL in packet  round trips   real link       model  deviation");
    let mut good = true;
    for (name, versions) in [("1.2", Versions::Tls12), ("1.3", Versions::Tls13)] {
        let target = target(&arguments.far, versions)?;
        for scenario in offered(&far, &target)? {
            say(&format!("{scenario}, TLS {name}"));
            let row = measure(&far, &target, scenario, bytes)?;
            good &= row.deviation_percent().abs() <= arguments.tolerance;
            let _ = writeln!(
                text,
                "{:<14}{name}  {:>14}  {:>11.2}  {:>7.1} ms  {:>7.1} ms  {:>+7.1} %",
                row.scenario.name(),
                row.mail_packet.map_or_else(|| "-".to_owned(), |packet| packet.to_string()),
                row.real_ms / round_trip_ms.max(1e-9),
                row.real_ms,
                row.model_ms,
                row.deviation_percent()
            );
        }
    }
    Ok((text, good))
}

fn offered(far: &Far, target: &Target) -> Result<Vec<Scenario>, String> {
    let tls = TlsConfigs::new(&target.trust, target.versions).map_err(|error| error.to_string())?;
    let (offered, left_out) = what_is_offered(target, &far.scout(Place::Model, target, &tls)?);
    left_out.among(Scenario::ALL.iter()).iter().for_each(|words| say(&format!("left out: {words}")));
    // A refused login has no message whose way could be compared.
    Ok(offered.into_iter().filter(|scenario| !scenario.expects_refusal()).collect())
}

fn measure(far: &Far, target: &Target, scenario: Scenario, bytes: u64) -> Result<Row, String> {
    let real = far.submit(Place::Near, target, scenario, bytes)?;
    let model = far.submit(Place::Model, target, scenario, bytes)?;
    let flights = flights(&real.sightings, far.profile.round_trip / 2);
    Ok(Row {
        scenario,
        mail_packet: mail_packet(&flights, &real.trip.sayings),
        real_ms: real.took.as_secs_f64() * 1e3,
        model_ms: model.took.as_secs_f64() * 1e3,
    })
}
