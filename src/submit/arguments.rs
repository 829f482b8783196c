//! What `onetrip submit` can be asked: sendmail's flags, its own, its configuration file and the environment.
//!
//! A flag beats an environment variable, which beats the file. Reads text; touches nothing else.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde::Deserialize;

use super::SubmitError;
use crate::exit::Exit;
use crate::limits::SUBMIT_LINGER_S_MAX;
use crate::proto::client::{Notify, Profile, Return};

/// Everything that one submission needs to know but the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) server: Option<String>,
    pub(super) implicit_tls: bool,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) password_command: Option<String>,
    pub(super) ca: Option<PathBuf>,
    pub(super) insecure: bool,
    pub(super) memory: Option<PathBuf>,
    pub(super) profile: Option<String>,
    pub(super) domain: Option<String>,
    pub(super) sender: Option<String>,
    /// How long an agent stays after the submission, in seconds; 0 for none.
    pub(super) linger_s: u64,
}

/// How the message itself is to be treated, by sendmail's flags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wishes {
    pub(super) recipients: Vec<String>,
    pub(super) recipients_from_header: bool,
    pub(super) ignore_dots: bool,
    pub(super) full_name: Option<String>,
    pub(super) notify: Option<Notify>,
    pub(super) return_content: Option<Return>,
    pub(super) envelope_id: Option<String>,
    pub(super) dead_letter: Option<PathBuf>,
    pub(super) verbose: bool,
}

/// The command with its flags; the program may also bear the name `sendmail`.
pub fn command(name: &'static str) -> Command {
    Command::new(name)
        .about("Submit one message, as sendmail does, in as few round trips as the server allows")
        .long_about(ABOUT)
        .disable_version_flag(true)
        .args(sendmail_arguments())
        .args(server_arguments())
}

/// Was the program called by the name `sendmail`, through a link?
pub fn is_sendmail(program: &OsString) -> bool {
    std::path::Path::new(program).file_name().is_some_and(|name| name == "sendmail")
}

fn sendmail_arguments() -> Vec<Arg> {
    let heading = "The message (as sendmail has it)";
    let value = |letter: char, name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).short(letter).value_name(value).overrides_with(name).help(help)
    };
    let switch = |letter: char, name: &'static str, help: &'static str| {
        Arg::new(name).short(letter).action(ArgAction::SetTrue).overrides_with(name).help(help)
    };
    let arguments = vec![
        Arg::new("recipients").value_name("RECIPIENT").num_args(0..).help("Who shall have the message"),
        switch('t', "from-header", "Send to the recipients in To, Cc and Bcc too, and remove Bcc"),
        switch('i', "ignore-dots", "A line with a single dot does not end the message"),
        value('f', "sender", "SENDER", "The sender [default: the address in From]").env("ONETRIP_SENDER"),
        value('r', "sender-old", "SENDER", "The same as -f").hide(true),
        value('F', "full-name", "NAME", "The name in a From field that has to be added"),
        value('o', "option", "OPTION", "-oi is -i; other options of sendmail are ignored").action(ArgAction::Append),
        value('b', "mode", "MODE", "-bm, to send a message, is the only mode").value_parser(["m"]),
        value('B', "body", "TYPE", "Ignored: 8-bit text is found out from the message"),
        value('N', "notify", "WHEN", "When to be notified: never, or any of success,failure,delay"),
        value('R', "return", "WHAT", "What notifications return: full or hdrs").value_parser(["full", "hdrs"]),
        value('V', "envelope-id", "ID", "An identifier that notifications bear"),
        value('e', "error-mode", "MODE", "Ignored").hide(true),
        switch('n', "no-aliases", "Ignored").hide(true),
        switch('v', "verbose", "Show the dialog with its flights, and count the round trips, on standard error"),
        Arg::new("dead-letter")
            .long("dead-letter")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Append the message to this mailbox if it cannot be submitted"),
    ];
    // Appending and overriding exclude each other.
    let fix = |argument: Arg| match argument.get_id().as_str() {
        "option" => Arg::new("option").short('o').value_name("OPTION").action(ArgAction::Append).help(OPTION_HELP),
        _ => argument,
    };
    arguments.into_iter().map(fix).map(|argument| argument.help_heading(heading)).collect()
}

fn server_arguments() -> Vec<Arg> {
    let text = |name: &'static str, variable: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).env(variable).value_name(value).help(help)
    };
    let file = |name, variable, help| text(name, variable, "FILE", help).value_parser(value_parser!(PathBuf));
    let switch =
        |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let arguments = vec![
        text(
            "server",
            "ONETRIP_SERVER",
            "HOST:PORT",
            "The server; the port may be left out [default port: 587 or 465]",
        ),
        switch("implicit-tls", "Begin with TLS, as on port 465"),
        text("user", "ONETRIP_USER", "NAME", "Log in with this name"),
        file("password-file", "ONETRIP_PASSWORD_FILE", "The password is the first line of this file"),
        text("password-command", "ONETRIP_PASSWORD_COMMAND", "CMD", "The password is the first line this command says"),
        file("ca", "ONETRIP_CA", "Trust the certificates in this PEM file instead of the system's"),
        switch("insecure", "Trust any certificate: for tests, as anybody may listen then"),
        file(
            "memory",
            "ONETRIP_MEMORY",
            "Remember servers in this file, so that the next message needs fewer round trips",
        ),
        text(
            "linger",
            "ONETRIP_LINGER",
            "SECONDS",
            "Leave an agent behind for so long, which keeps TLS sessions: the next message then needs one or two round \
             trips [default: 0, none; 300 is a good value]",
        )
        .value_parser(value_parser!(u64)),
        Arg::new("agent").long("agent").value_name("SOCKET").value_parser(value_parser!(PathBuf)).hide(true),
        text("profile", "ONETRIP_PROFILE", "PROFILE", "How much of QUICKSTART to use [default: full]")
            .value_parser(["full", "basic", "esmtp"]),
        text(
            "domain",
            "ONETRIP_DOMAIN",
            "DOMAIN",
            "What is added to addresses without one [default: this host's name]",
        ),
        Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("The configuration file [default: ~/.config/onetrip/submit.toml]"),
    ];
    arguments.into_iter().map(|argument| argument.help_heading("The server")).collect()
}

/// The file's keys; they are spelled as the flags.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FileSettings {
    server: Option<String>,
    implicit_tls: bool,
    user: Option<String>,
    password_file: Option<PathBuf>,
    password_command: Option<String>,
    ca: Option<PathBuf>,
    insecure: bool,
    memory: Option<PathBuf>,
    profile: Option<String>,
    domain: Option<String>,
    sender: Option<String>,
    linger: u64,
}

impl Settings {
    /// The flags and variables in `matches` over the text of the configuration file.
    pub(super) fn resolve(matches: &ArgMatches, file: Option<&str>) -> Result<Self, SubmitError> {
        let file: FileSettings = toml::from_str(file.unwrap_or_default()).map_err(|error| {
            let problem = error.message().replace('\n', " ");
            SubmitError::new(Exit::Config, format!("the configuration file is wrong: {problem}"))
        })?;
        let text = |name: &str, other: Option<String>| matches.get_one::<String>(name).cloned().or(other);
        let path = |name: &str, other: Option<PathBuf>| matches.get_one::<PathBuf>(name).cloned().or(other);
        Ok(Self {
            server: text("server", file.server),
            implicit_tls: matches.get_flag("implicit-tls") || file.implicit_tls,
            user: text("user", file.user),
            password_file: path("password-file", file.password_file),
            password_command: text("password-command", file.password_command),
            ca: path("ca", file.ca),
            insecure: matches.get_flag("insecure") || file.insecure,
            memory: path("memory", file.memory),
            profile: text("profile", file.profile),
            domain: text("domain", file.domain),
            sender: text("sender", text("sender-old", file.sender)),
            linger_s: matches.get_one("linger").copied().unwrap_or(file.linger).min(SUBMIT_LINGER_S_MAX),
        })
    }
}

/// The profile of this name.
pub(super) fn profile(name: &str) -> Result<Profile, SubmitError> {
    match name {
        "full" => Ok(Profile::Full),
        "basic" => Ok(Profile::Basic),
        "esmtp" => Ok(Profile::Esmtp),
        other => {
            let message = format!("there is no profile {other}: the profiles are full, basic and esmtp");
            Err(SubmitError::new(Exit::Config, message))
        }
    }
}

impl Wishes {
    pub(super) fn from_matches(matches: &ArgMatches) -> Result<Self, SubmitError> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let mut options = matches.get_many::<String>("option").into_iter().flatten();
        Ok(Self {
            recipients: matches.get_many::<String>("recipients").into_iter().flatten().cloned().collect(),
            recipients_from_header: matches.get_flag("from-header"),
            ignore_dots: matches.get_flag("ignore-dots") || options.any(|option| option == "i"),
            full_name: text("full-name"),
            notify: text("notify").map(|when| notify(&when)).transpose()?,
            return_content: text("return").map(|what| if what == "full" { Return::Full } else { Return::Headers }),
            envelope_id: text("envelope-id"),
            dead_letter: matches.get_one::<PathBuf>("dead-letter").cloned(),
            verbose: matches.get_flag("verbose"),
        })
    }
}

fn notify(when: &str) -> Result<Notify, SubmitError> {
    let mut notify = Notify::default();
    if when.eq_ignore_ascii_case("never") {
        return Ok(notify);
    }
    for word in when.split(',') {
        match word.trim().to_ascii_lowercase().as_str() {
            "success" => notify.success = true,
            "failure" => notify.failure = true,
            "delay" => notify.delay = true,
            _ => {
                let message = format!("-N {when}: say never, or any of success,failure,delay");
                return Err(SubmitError::new(Exit::Usage, message));
            }
        }
    }
    Ok(notify)
}

const OPTION_HELP: &str = "-oi is -i; other options of sendmail are ignored";

const ABOUT: &str = "\
Submit the message on standard input, as sendmail does, in as few round trips as the server allows.

Settings come from flags, from ONETRIP_ variables, and from ~/.config/onetrip/submit.toml, whose keys are spelled as the \
flags; a flag beats a variable, which beats the file. With --memory the next message to the same server needs fewer \
round trips. TLS sessions can be kept in memory only: with --linger a process stays that keeps them, and later calls with \
--linger hand their message to it.

The exit code is one of sysexits.h: 0 when the server has taken the message for all recipients, 75 when it may take it \
later.";

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Settings, Wishes, command, is_sendmail};
    use crate::proto::client::{Notify, Return};

    fn parse(arguments: &[&str]) -> clap::ArgMatches {
        command("sendmail").try_get_matches_from([&["sendmail"], arguments].concat()).unwrap()
    }

    #[test]
    fn clap_finds_no_fault_with_the_command() {
        command("submit").debug_assert();
    }

    #[test]
    fn what_cron_and_mail_programs_pass_is_understood() {
        let cron = parse(&["-FCronDaemon", "-i", "-B8BITMIME", "-oem", "root"]);
        let wishes = Wishes::from_matches(&cron).unwrap();
        assert_eq!(wishes.full_name.as_deref(), Some("CronDaemon"));
        assert_eq!(wishes.recipients, ["root"]);
        assert!(wishes.ignore_dots);
        let mutt =
            parse(&["-oem", "-oi", "-bm", "-f", "a@b", "-N", "failure,delay", "-R", "hdrs", "-V", "x", "--", "c@d"]);
        let wishes = Wishes::from_matches(&mutt).unwrap();
        assert_eq!(wishes.notify, Some(Notify { success: false, failure: true, delay: true }));
        assert_eq!((wishes.return_content, wishes.envelope_id.as_deref()), (Some(Return::Headers), Some("x")));
        assert_eq!(Settings::resolve(&mutt, None).unwrap().sender.as_deref(), Some("a@b"));
        assert!(Wishes::from_matches(&parse(&["-t", "-i"])).unwrap().recipients_from_header);
    }

    #[test]
    fn a_mode_that_is_not_ours_is_refused() {
        assert!(command("sendmail").try_get_matches_from(["sendmail", "-bs"]).is_err());
        assert!(Wishes::from_matches(&parse(&["-N", "maybe", "a@b"])).is_err());
    }

    #[test]
    fn a_flag_beats_the_file_and_an_unknown_key_is_an_error() {
        let file = "server = \"a:587\"\nmemory = \"/m\"\nimplicit-tls = true";
        let settings = Settings::resolve(&parse(&["--server", "b:465"]), Some(file)).unwrap();
        assert_eq!(settings.server.as_deref(), Some("b:465"));
        assert_eq!(settings.memory, Some(PathBuf::from("/m")));
        assert!(settings.implicit_tls);
        assert!(Settings::resolve(&parse(&[]), Some("sever = 1")).is_err());
    }

    #[test]
    fn only_the_last_part_of_the_path_makes_a_sendmail() {
        assert!(is_sendmail(&"/usr/sbin/sendmail".into()));
        assert!(!is_sendmail(&"/opt/sendmail/onetrip".into()));
    }
}
