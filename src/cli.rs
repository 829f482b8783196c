//! The command line: what can be asked of onetrip, and how it answers when something is wrong.
//!
//! It reads the configuration file, asks the system for its name and cores, and hands over. Values are judged by
//! [`config`], and the work is done by [`runtime`] and [`submit`]. A program of the name `sendmail` is `onetrip submit`.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::check::profile::Profile;
use crate::check::{ConfigurationFault, Report};
use crate::config::{self, Config, ConfigError, ConfigFile, Flags, Host, Setting};
use crate::exit::Exit;
use crate::proto::credential::SenderPattern;
use crate::queue::{self, Fault};
use crate::runtime::host;
use crate::runtime::queue_command;
use crate::runtime::user_command::{self, ListFormat, UserCommandError};
use crate::runtime::{self, ServeError};
use crate::submit::{self, SubmitError};

/// Does what the arguments ask for, the first being the name of the program.
///
/// What went wrong is said in one line on standard error.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Exit {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let outcome = if arguments.first().is_some_and(submit::is_sendmail) {
        submit::run_as_sendmail(arguments).map_or_else(|error| answer(&error), |done| Ok(done?))
    } else {
        match command().try_get_matches_from(arguments) {
            Ok(matches) => carry_out(&matches),
            Err(error) => answer(&error),
        }
    };
    let Err(failure) = outcome else {
        return Exit::Success;
    };
    if !failure.message.is_empty() {
        // There is nobody left to tell if standard error is closed.
        let _ = writeln!(io::stderr(), "onetrip: {}", failure.message);
    }
    failure.exit
}

/// Every command with its flags.
fn command() -> Command {
    Command::new("onetrip")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Mail submission in one round trip: SMTP QUICKSTART on io_uring")
        .max_term_width(HELP_COLUMNS_MAX)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(serve_command())
        .subcommand(submit::command("submit"))
        .subcommand(user_command())
        .subcommand(check_command())
        .subcommand(queue::command(with_state_dir))
}

fn serve_command() -> Command {
    Command::new("serve")
        .about("Accept mail from mail programs and deliver it")
        .long_about(SERVE_ABOUT)
        .next_line_help(true)
        .arg(config_argument())
        .args(config::settings().iter().map(Setting::argument))
}

fn check_command() -> Command {
    Command::new("check")
        .about("Say whether this host is ready for the server, and what would make it so")
        .long_about(CHECK_ABOUT)
        .next_line_help(true)
        .arg(profile_argument())
        .arg(
            Arg::new("apply")
                .long("apply")
                .action(ArgAction::SetTrue)
                .help("Set the kernel's settings that are not as they should be, until the next boot, and check again"),
        )
        .arg(json_argument())
        .arg(config_argument())
        .args(config::settings().iter().map(Setting::argument))
}

fn profile_argument() -> Arg {
    Arg::new("profile")
        .long("profile")
        .value_name("NAME")
        .value_parser(Profile::ALL.map(Profile::name))
        .help("Hold the kernel's settings and the limits of this process against a profile of tuning/ too")
}

fn user_command() -> Command {
    Command::new("user")
        .about("Add, remove and list the users who may submit mail")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(add_command())
        .subcommand(with_users_file(Command::new("remove").about("Remove a user").arg(name_argument())))
        .subcommand(with_users_file(
            Command::new("list").about("List the users and their senders").arg(json_argument()),
        ))
}

fn add_command() -> Command {
    let add = Command::new("add")
        .about("Add a user, or give a user a new password and new senders")
        .long_about(USER_ADD_ABOUT)
        .arg(name_argument())
        .arg(sender_argument());
    with_users_file(add)
}

/// The flags that lead to the users file, the same as those of `serve`.
fn with_users_file(command: Command) -> Command {
    let leads_there = |setting: &Setting| matches!(setting.name, "state-dir" | "users");
    let arguments = config::settings().into_iter().filter(leads_there);
    command.arg(config_argument()).args(arguments.map(|setting| setting.argument().help_heading("Where the users are")))
}

/// The flags that lead to the state directory, the same as those of `serve`.
fn with_state_dir(command: Command) -> Command {
    let arguments = config::settings().into_iter().filter(|setting| setting.name == "state-dir");
    let heading = "Where the queue is";
    command
        .arg(config_argument().help_heading(heading))
        .args(arguments.map(|setting| setting.argument().help_heading(heading)))
}

fn config_argument() -> Arg {
    Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(value_parser!(PathBuf))
        .help("The configuration file, TOML: each flag is a key of the same spelling, and a flag beats the file")
}

fn name_argument() -> Arg {
    Arg::new("name").value_name("NAME").required(true).help("The name that the user logs in with")
}

fn sender_argument() -> Arg {
    Arg::new("sender")
        .long("sender")
        .value_name("PATTERN")
        .action(ArgAction::Append)
        .value_parser(sender_pattern)
        .help("A sender that the user may name, an address or @domain; may be given several times [default: any]")
}

fn json_argument() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write JSON")
}

fn sender_pattern(text: &str) -> Result<String, &'static str> {
    match SenderPattern::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err("give an address like ann@example.org or a domain like @example.org"),
    }
}

fn carry_out(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("serve", matches)) => serve(matches),
        Some(("submit", matches)) => Ok(submit::run(matches)?),
        Some(("user", matches)) => user(matches),
        Some(("check", matches)) => check(matches),
        Some(("queue", matches)) => queue(matches),
        _ => unreachable!("clap lets no other command through"),
    }
}

fn serve(matches: &ArgMatches) -> Result<(), Failure> {
    let config = configured(matches, |flags, file| Config::resolve(flags, file, &host()))?;
    Ok(runtime::serve(config)?)
}

fn check(matches: &ArgMatches) -> Result<(), Failure> {
    let configured = configured(matches, |flags, file| Config::resolve(flags, file, &host()))
        .map_err(|failure| ConfigurationFault { text: failure.message, exit: failure.exit });
    let profile = matches.get_one::<String>("profile").and_then(|name| Profile::of_name(name));
    let as_json = matches.get_flag("json");
    let mut report = host::check(&configured, profile);
    if matches.get_flag("apply") && !report.changes().is_empty() {
        if !as_json {
            print(&format!("{report}\n"))?;
        }
        let applied = host::apply(&report);
        report = host::check(&configured, profile).after(applied);
    }
    print(&if as_json { report.json() } else { report.to_string() })?;
    done(&report)
}

/// The findings have said everything, so that a failure needs no line of its own.
fn done(report: &Report) -> Result<(), Failure> {
    match report.exit() {
        Exit::Success => Ok(()),
        exit => Err(Failure { exit, message: String::new() }),
    }
}

fn user(matches: &ArgMatches) -> Result<(), Failure> {
    match matches.subcommand() {
        Some(("add", matches)) => user_add(matches),
        Some(("remove", matches)) => user_remove(matches),
        Some(("list", matches)) => user_list(matches),
        _ => unreachable!("clap lets no other command through"),
    }
}

fn user_add(matches: &ArgMatches) -> Result<(), Failure> {
    let users_file = configured(matches, Config::users_file)?;
    let senders: Vec<String> = matches.get_many("sender").into_iter().flatten().cloned().collect();
    let password = user_command::read_password()?;
    print(&format!("{}\n", user_command::add(&users_file, name_of(matches), &senders, &password)?))
}

fn user_remove(matches: &ArgMatches) -> Result<(), Failure> {
    let users_file = configured(matches, Config::users_file)?;
    print(&format!("{}\n", user_command::remove(&users_file, name_of(matches))?))
}

fn user_list(matches: &ArgMatches) -> Result<(), Failure> {
    let users_file = configured(matches, Config::users_file)?;
    let format = if matches.get_flag("json") { ListFormat::Json } else { ListFormat::Text };
    print(&user_command::list(&users_file, format)?)
}

fn queue(matches: &ArgMatches) -> Result<(), Failure> {
    let Some((name, matches)) = matches.subcommand() else { unreachable!("clap lets no other command through") };
    let asked = queue::asked(name, matches)?;
    let state_dir = configured(matches, Config::state_dir)?;
    Ok(queue_command::run(&state_dir, &asked, &mut io::stdout().lock())?)
}

fn name_of(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("name").expect("clap requires the name")
}

/// Reads the configuration file, if one is named, and resolves from it and the flags what the command needs.
fn configured<T>(
    matches: &ArgMatches,
    resolve: impl FnOnce(&Flags, Option<ConfigFile<'_>>) -> Result<T, ConfigError>,
) -> Result<T, Failure> {
    let flags = Flags::from_matches(matches);
    let Some(path) = matches.get_one::<PathBuf>("config") else {
        return Ok(resolve(&flags, None)?);
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    Ok(resolve(&flags, Some(ConfigFile { path, text: &text }))?)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    let message = format!("{}: {error}: name a text file that can be read with --config", path.display());
    Failure { exit: Exit::of_read_error(error), message }
}

/// What the system knows. A name that cannot be found out stays empty, and then the configuration asks for one.
fn host() -> Host {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    Host { name: name.trim().to_owned(), cores: cores.into_iter().map(|core| core.id).collect() }
}

fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    written.map_err(|error| Failure {
        exit: Exit::Io,
        message: format!("standard output cannot be written to: {error}: the command itself was carried out"),
    })
}

/// What clap calls an error: help that was asked for, help because nothing was asked for, and mistakes.
fn answer(error: &clap::Error) -> Result<(), Failure> {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => print(&error.render().to_string()),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = write!(io::stderr(), "{}", error.render());
            Err(Failure { exit: Exit::Usage, message: String::new() })
        }
        _ => Err(Failure { exit: Exit::Usage, message: one_line(&error.render().to_string()) }),
    }
}

/// Makes one line of clap's paragraphs: the problem comes first, a tip may follow, and the rest is usage.
fn one_line(rendered: &str) -> String {
    let mut paragraphs = rendered.split("\n\n").map(|paragraph| {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        words.join(" ")
    });
    let first = paragraphs.next().unwrap_or_default();
    let problem = first.strip_prefix("error: ").unwrap_or(&first);
    let tip = paragraphs.find_map(|paragraph| Some(paragraph.strip_prefix("tip: ")?.to_owned()));
    format!("{problem}: {}", tip.as_deref().unwrap_or("add --help to see what the command takes"))
}

/// A command that could not be carried out: what the parent process and the person are told.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    /// What went wrong, a colon, and what to do about it; empty if it has been said already.
    message: String,
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self { exit: error.exit(), message: error.to_string() }
    }
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        Self { exit: error.exit(), message: error.to_string() }
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        Self { exit: error.exit(), message: error.to_string() }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self { exit: fault.exit(), message: fault.to_string() }
    }
}

impl From<UserCommandError> for Failure {
    fn from(error: UserCommandError) -> Self {
        Self { exit: Exit::of_code(error.exit_code()), message: error.to_string() }
    }
}

/// Longer lines of help are hard to read.
const HELP_COLUMNS_MAX: usize = 110;

const SERVE_ABOUT: &str = "\
Accept mail from mail programs and deliver it.

Without flags it serves this host only, on 127.0.0.1:2587 (STARTTLS and QUICKSTART) and 127.0.0.1:2465 (implicit TLS), \
with a certificate it makes for itself, keeps its state in ./onetrip-data, and delivers to Maildirs there.";

const CHECK_ABOUT: &str = "\
Say whether this host is ready for the server, and what would make it so.

It takes the flags of serve and looks at what they name: certificates, users, directories, addresses; and at the kernel \
and the limits of this process. Each finding is ok, a note, a warning or a failure, and says what mends it. Run it as the \
user that the server runs as. Nothing is changed without --apply; a small file is written to the directories and removed \
again. It ends with 0 if nothing is a failure, else with the exit code of the first one.";

const USER_ADD_ABOUT: &str = "\
Add a user, or give a user a new password and new senders.

The password is asked for, or read as one line from standard input. It is never an argument, because other users of the \
machine could read it there.";

#[cfg(test)]
mod tests {
    use super::{command, one_line};

    #[test]
    fn clap_finds_no_fault_with_the_commands() {
        command().debug_assert();
    }

    #[test]
    fn a_usage_error_becomes_one_line_with_the_tip_as_remedy() {
        let error = command().try_get_matches_from(["onetrip", "serve", "--idle-timeou", "5"]).unwrap_err();
        let tip = "a similar argument exists: '--idle-timeout'";
        assert_eq!(one_line(&error.render().to_string()), format!("unexpected argument '--idle-timeou' found: {tip}"));
    }

    #[test]
    fn a_usage_error_without_a_tip_points_to_the_help() {
        let error = command().try_get_matches_from(["onetrip", "user", "add"]).unwrap_err();
        let problem = "the following required arguments were not provided: <NAME>";
        let expected = format!("{problem}: add --help to see what the command takes");
        assert_eq!(one_line(&error.render().to_string()), expected);
    }

    #[test]
    fn a_sender_that_is_no_pattern_is_a_usage_error_that_shows_one() {
        let error = command().try_get_matches_from(["onetrip", "user", "add", "ann", "--sender", "ann"]).unwrap_err();
        let line = one_line(&error.render().to_string());
        assert!(line.contains("give an address like ann@example.org or a domain like @example.org"), "{line}");
    }
}
