//! The command line of `onetrip queue`: which flags there are, and the request that they make.
//!
//! It reads arguments and touches nothing else; where the queue is, is asked by whoever builds the command.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::selection::{ItemState, Selection};
use super::text::Format;
use super::wire::{Fault, Order, Request};
use crate::exit::Exit;

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The question.
    pub request: Request,
    /// How the answer is shown.
    pub format: Format,
    /// The directory for exported messages; without one, the only message goes to standard output.
    pub to: Option<PathBuf>,
}

/// The command with everything under it. `locate` adds the flags that say where the queue is.
pub fn command(locate: impl Fn(Command) -> Command) -> Command {
    let order = |name: &'static str, about: &'static str| locate(Command::new(name).about(about).arg(json_argument()));
    let changing = |name, about, long: &'static str| {
        order(name, about).long_about(long).arg(ids_argument(0)).arg(all_argument()).args(conditions())
    };
    Command::new("queue")
        .about("List, show, flush, hold, release, remove and export queued messages")
        .long_about(ABOUT)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(order("list", "List the messages in the queue").arg(ids_argument(0)).args(conditions()))
        .subcommand(order("show", "Show all about a message").arg(ids_argument(1)))
        .subcommand(
            order("flush", "Deliver now what waits; without anything else, the whole queue")
                .arg(ids_argument(0))
                .arg(all_argument())
                .args(conditions()),
        )
        .subcommand(changing("hold", "Deliver these no more until they are released", HOLD_ABOUT))
        .subcommand(changing("release", "Deliver these again that were held", RELEASE_ABOUT))
        .subcommand(changing("remove", "Remove these without a word to their senders", REMOVE_ABOUT))
        .subcommand(
            changing("export", "Write these down as files of RFC 5322", EXPORT_ABOUT).arg(
                Arg::new("to")
                    .long("to")
                    .value_name("DIR")
                    .value_parser(value_parser!(PathBuf))
                    .help("Write each to DIR/ID.eml [default: one message, to standard output]"),
            ),
        )
}

/// The name of the subcommand with its flags.
///
/// # Errors
/// They do not go together.
pub fn asked(name: &str, matches: &ArgMatches) -> Result<Asked, Fault> {
    let order = match name {
        "show" => Order::Show,
        "flush" => Order::Flush,
        "hold" => Order::Hold,
        "release" => Order::Release,
        "remove" => Order::Remove,
        "export" => Order::Export,
        _ => Order::List,
    };
    let select = selection(matches);
    let all = matches.try_get_one::<bool>("all").ok().flatten().copied().unwrap_or_default();
    let names_nothing = select.is_everything() && !all;
    if names_nothing && matches!(order, Order::Hold | Order::Release | Order::Remove | Order::Export) {
        let problem = format!("onetrip queue {name} must be told which messages");
        return Err(Fault::new(Exit::Usage, problem, "give ids or conditions, or --all"));
    }
    if all && !select.is_everything() {
        let problem = "--all does not go together with ids and conditions".to_owned();
        return Err(Fault::new(Exit::Usage, problem, "leave out the one or the others"));
    }
    let to = matches.try_get_one::<PathBuf>("to").ok().flatten().cloned();
    let format = if matches.get_flag("json") { Format::Json } else { Format::Text };
    Ok(Asked { request: Request { order, select }, format, to })
}

fn selection(matches: &ArgMatches) -> Selection {
    let text = |name: &str| matches.try_get_one::<String>(name).ok().flatten().cloned();
    let states = matches.try_get_many::<String>("state").ok().flatten().into_iter().flatten();
    Selection {
        ids: matches.try_get_many::<String>("id").ok().flatten().into_iter().flatten().cloned().collect(),
        older_than_s: matches.try_get_one::<u64>("older-than").ok().flatten().copied(),
        recipient_domain: text("recipient-domain"),
        // The null sender is written as in SMTP.
        sender: text("sender").map(|sender| if sender == "<>" { String::new() } else { sender }),
        user: text("user"),
        states: states.filter_map(|word| ItemState::from_word(word)).collect(),
    }
}

fn json_argument() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Write JSON, one object a line")
}

fn ids_argument(least: usize) -> Arg {
    Arg::new("id")
        .value_name("ID")
        .num_args(least..)
        .required(least > 0)
        .help("A message's id, or so much of its beginning that it fits no other")
}

fn all_argument() -> Arg {
    Arg::new("all").long("all").action(ArgAction::SetTrue).help("Every message in the queue")
}

fn conditions() -> Vec<Arg> {
    let condition = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .value_name(value)
            .help(help)
            .help_heading("Which messages (all that is given must hold)")
    };
    vec![
        condition("older-than", "TIME", "Received longer ago than this, like 90s, 15m, 4h or 2d").value_parser(seconds),
        condition("recipient-domain", "DOMAIN", "Still waiting for a recipient of this domain"),
        condition("sender", "ADDRESS", "From this sender; @DOMAIN for all of a domain, <> for the null sender"),
        condition("user", "NAME", "Submitted by this user"),
        condition("state", "STATE", "In this state; may be given several times")
            .action(ArgAction::Append)
            .value_parser(ItemState::ALL.map(ItemState::word)),
    ]
}

/// `90s`, `15m`, `4h`, `2d`, and a number alone for seconds.
fn seconds(text: &str) -> Result<u64, String> {
    const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400)];
    let unit = UNITS.iter().find(|(letter, _)| text.ends_with(*letter));
    let (digits, unit) = unit.map_or((text, 1), |(letter, unit)| (text.trim_end_matches(*letter), *unit));
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse::<u64>().ok().filter(|_| is_number && text.len() - digits.len() <= 1);
    number.and_then(|number| number.checked_mul(unit)).ok_or_else(|| "give a time like 90s, 15m, 4h or 2d".to_owned())
}

const ABOUT: &str = "\
List, show, flush, hold, release, remove and export queued messages.

A running server is asked through STATE-DIR/control. While none runs, list, show and export read the spool themselves, and \
the others cannot be carried out.";

const HOLD_ABOUT: &str = "\
Deliver these no more until they are released. An attempt that is under way goes on to its end, and the lifetime of a held \
message is not over before it is released.";

const RELEASE_ABOUT: &str = "\
Deliver these again that were held. They are due at once.";

const REMOVE_ABOUT: &str = "\
Remove these without a word to their senders. Export them first if they may be missed: they cannot be brought back.";

const EXPORT_ABOUT: &str = "\
Write these down as files of RFC 5322, as they would be delivered. They stay in the queue.";

#[cfg(test)]
mod tests {
    use super::{Asked, asked, command, seconds};
    use crate::exit::Exit;
    use crate::queue::selection::{ItemState, Selection};
    use crate::queue::text::Format;
    use crate::queue::wire::{Fault, Order};

    fn parse(line: &str) -> Result<Asked, Fault> {
        let words = std::iter::once("queue").chain(line.split_whitespace());
        let matches = command(|command| command).try_get_matches_from(words).unwrap();
        let (name, matches) = matches.subcommand().unwrap();
        asked(name, matches)
    }

    fn is_mistake(line: &str) -> bool {
        let words = std::iter::once("queue").chain(line.split_whitespace());
        command(|command| command).try_get_matches_from(words).is_err()
    }

    #[test]
    fn clap_finds_no_fault_with_the_command() {
        command(|command| command).debug_assert();
    }

    #[test]
    fn a_list_may_have_conditions() {
        let line =
            "list --older-than 2h --recipient-domain example.org --sender <> --user ann --state held --state ready";
        let asked = parse(line).unwrap();
        let expected = Selection {
            ids: Vec::new(),
            older_than_s: Some(7_200),
            recipient_domain: Some("example.org".to_owned()),
            sender: Some(String::new()),
            user: Some("ann".to_owned()),
            states: vec![ItemState::Held, ItemState::Ready],
        };
        assert_eq!((asked.request.order, asked.request.select, asked.format), (Order::List, expected, Format::Text));
        assert_eq!(parse("list --json").unwrap().format, Format::Json);
    }

    #[test]
    fn whoever_changes_messages_must_say_which_but_a_flush_means_all() {
        for name in ["hold", "release", "remove", "export"] {
            let fault = parse(name).unwrap_err();
            assert_eq!(fault.exit(), Exit::Usage);
            assert!(fault.to_string().starts_with(&format!("onetrip queue {name} must be told which messages: ")));
            assert!(parse(&format!("{name} --all")).unwrap().request.select.is_everything());
            assert_eq!(parse(&format!("{name} 06b0 06b1")).unwrap().request.select.ids, ["06b0", "06b1"]);
            assert!(parse(&format!("{name} --user ann")).is_ok());
            assert!(parse(&format!("{name} --all --user ann")).is_err());
        }
        assert!(parse("flush").unwrap().request.select.is_everything());
        assert!(parse("flush --all").is_ok());
        assert!(parse("flush --all 06b0").is_err());
    }

    #[test]
    fn show_needs_an_id_and_nothing_takes_a_state_that_there_is_not() {
        for line in
            ["", "show", "list --state lost", "dance", "list --older-than soon", "list --all", "show --user ann"]
        {
            assert!(is_mistake(line), "{line}");
        }
        assert_eq!(parse("show 06b0").unwrap().request.order, Order::Show);
    }

    #[test]
    fn a_time_is_a_number_with_a_unit() {
        for (text, expected) in [("90", 90), ("90s", 90), ("15m", 900), ("4h", 14_400), ("2d", 172_800), ("0s", 0)] {
            assert_eq!(seconds(text), Ok(expected));
        }
        for text in ["", "s", "-1", "+1s", "1.5h", "1w", "1hh", "1h30m", "99999999999999999999", "99999999999999999d"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
