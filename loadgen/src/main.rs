//! The load generator of onetrip: high-latency submission clients, simulated by the ten thousand.
//!
//! | layer | what it is |
//! |---|---|
//! | `plan`, `scenario`, `random` | what shall be done when: pure |
//! | `link`, `session`, `veil`, `conversation`, `visitor` | one client behind its link, in virtual time: pure |
//! | `worker`, `single` | sockets: tens of thousands of clients on a core, or one |
//! | `real_link`, `ends`, `far`, `packets`, `ladder`, `compare` | a real delay, and what crosses it |
//! | `record`, `report`, `fail_if`, `live` | what was measured, and how it is shown |
//! | `letter`, `audit` | messages that can be recognised, and the proof that all are there |
//! | `sink` | a next hop that misbehaves by rule |
//!
//! This file only carries out what the command line says.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use arguments::{Arguments, Command, RunArguments};
use record::Record;
use report::Summary;
use run::say;

mod arguments;
mod audit;
mod clock;
mod compare;
mod conversation;
mod ends;
mod fail_if;
mod far;
mod ladder;
mod letter;
mod link;
mod live;
mod packets;
mod plan;
mod random;
mod real_link;
mod record;
mod report;
mod run;
mod scenario;
mod server_watch;
mod session;
mod single;
mod sink;
mod target;
mod tls_sessions;
mod veil;
mod visitor;
mod worker;

/// Many small buffers come and go on every core; mimalloc hands them out without a lock between threads.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code when a condition was met or an audit found something (the same as any other "no").
const NO: u8 = 1;

/// Exit code when the work could not be done (EX_UNAVAILABLE of sysexits).
const UNAVAILABLE: u8 = 69;

/// Exit code of a mistake on the command line (EX_USAGE of sysexits).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(answer) => {
            // There is nobody left to tell if this fails.
            let _ = answer.print();
            return if answer.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let done = match arguments.command {
        Command::Run(arguments) => measure(&arguments),
        Command::Ladder(arguments) => ladder::run(&arguments).map(|text| show(&text, true)),
        Command::Compare(arguments) => compare::run(&arguments).map(|(text, good)| show(&text, good)),
        Command::Link(arguments) => ends::run(&arguments).map(exit_like),
        Command::Audit { directory, acknowledged } => {
            audit::audit(&acknowledged, &directory).map(|findings| show(&findings.text(), findings.is_clean()))
        }
        Command::Sink { listen, keep, rules, seed } => receive(sink::Settings { listen, keep, rules, seed }),
    };
    done.unwrap_or_else(|words| {
        say(&format!("onetrip-loadgen: {words}"));
        ExitCode::from(UNAVAILABLE)
    })
}

/// The code of a program that ended by itself; that of one which was ended from outside is no code.
fn exit_like(status: std::process::ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::from(UNAVAILABLE), ExitCode::from)
}

#[expect(clippy::print_stdout, reason = "results are what this program is run for")]
fn show(text: &str, good: bool) -> ExitCode {
    print!("{text}");
    if good { ExitCode::SUCCESS } else { ExitCode::from(NO) }
}

fn measure(arguments: &RunArguments) -> Result<ExitCode, String> {
    // A mistake in these is told before the run, not after it.
    let before = arguments.compare_to.as_deref().map(read_summary).transpose()?;
    let (record, summary) = run::run(arguments.order()?)?;
    let mut text = report::text::write(&summary);
    if let Some(before) = &before {
        text.push_str(&format!("\n{}", report::text::compare(before, &summary)));
    }
    write_files(arguments, &record, &summary)?;
    let met: Vec<_> = arguments.fail_if.iter().filter_map(|condition| condition.judge(&summary)).collect();
    met.iter().for_each(|words| text.push_str(&format!("FAILED: {words}\n")));
    Ok(show(&text, met.is_empty()))
}

fn read_summary(path: &Path) -> Result<Summary, String> {
    let json = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Summary::from_json(&json).map_err(|words| format!("{}: {words}", path.display()))
}

fn write_files(arguments: &RunArguments, record: &Record, summary: &Summary) -> Result<(), String> {
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(summary).map_err(|error| format!("cannot write JSON: {error}"))?;
        write(path, &json)?;
    }
    if let Some(path) = &arguments.hgrm {
        write(path, &report::hgrm(record))?;
    }
    if let Some(path) = &arguments.html {
        write(path, &report::html::write(summary))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

fn receive(settings: sink::Settings) -> Result<ExitCode, String> {
    let tally = Arc::new(sink::Tally::default());
    let shown = Arc::clone(&tally);
    let ready = move |address| {
        say(&format!("ready on {address}"));
        // Without the thread that counts aloud, mail is still received.
        let _ = std::thread::Builder::new().name("tally".to_owned()).spawn(move || shown.show_changes());
    };
    sink::serve(settings, &tally, ready).map(|()| ExitCode::SUCCESS)
}
