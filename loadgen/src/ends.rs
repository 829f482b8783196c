//! Any two programs, one at each end of a real link.
//!
//! For what the other commands do not play themselves: a mail program and its server, or two servers of which one relays to
//! the other. It must not know what they are.

use std::process::{Child, Command, ExitStatus, Stdio};

use crate::arguments::LinkArguments;
use crate::link::Profile;
use crate::real_link::{FAR, NEAR, RealLink};

/// Runs both until the one at the near end is done, and says how that went.
///
/// # Errors
///
/// Words for the user: a link cannot be had, or a program is not there.
pub(crate) fn run(arguments: &LinkArguments) -> Result<ExitStatus, String> {
    let LinkArguments { link, far, near } = arguments;
    let ends = RealLink::new(link)?;
    let mut shell = Command::new("sh");
    // Without the exec the program would outlive its shell.
    shell.arg("-c").arg(format!("exec {far}"));
    let started = ends.far.spawn(prepare(&mut shell, link).stdin(Stdio::null()));
    let _far = Far(started.map_err(|error| format!("cannot start {far}: {error}"))?);
    let (program, words) = near.split_first().ok_or("no command for the near end")?;
    let mut command = Command::new(program);
    let started = ends.near.spawn(prepare(command.args(words), link));
    let mut child = started.map_err(|error| format!("cannot start {program}: {error}"))?;
    child.wait().map_err(|error| format!("cannot wait for {program}: {error}"))
}

/// Tells a program where it is.
fn prepare<'command>(command: &'command mut Command, link: &Profile) -> &'command mut Command {
    let round_trip_ms = link.round_trip.as_millis().to_string();
    command.env("LINK_NEAR", NEAR.to_string()).env("LINK_FAR", FAR.to_string()).env("LINK_MS", round_trip_ms)
}

/// What runs at the far end, for as long as somebody is at the near one.
struct Far(Child);

impl Drop for Far {
    fn drop(&mut self) {
        // It may have ended already; either way nobody needs it any more.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
