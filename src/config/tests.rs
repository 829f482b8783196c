//! What the configuration must do, whatever its source.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Command;

use super::table::FLAGS_AND_FIELDS;
use super::{Config, ConfigError, ConfigFile, Flags, Host, Listen, settings};
use crate::exit::Exit;
use crate::limits::{self, ROUTES_MAX};
use crate::observe::event::Severity;
use crate::observe::log::LogFormat;
use crate::proto::body::BareNewline;
use crate::proto::qhlo_id::Binding;
use crate::relay::{Destination, SyncPolicy};
use crate::tls::Version;

fn host() -> Host {
    Host { name: "mail.example.org".to_owned(), cores: vec![0, 1, 2, 3] }
}

fn resolve(flags: &[(&str, &str)], text: &str) -> Result<Config, ConfigError> {
    let file = ConfigFile { path: Path::new("/etc/onetrip.toml"), text };
    Config::resolve(&Flags::of(flags), Some(file), &host())
}

fn of_flags(flags: &[(&str, &str)]) -> Config {
    Config::resolve(&Flags::of(flags), None, &host()).unwrap()
}

fn of_file(text: &str) -> Config {
    resolve(&[], text).unwrap()
}

/// The message of the error and its exit code.
fn refusal(flags: &[(&str, &str)], text: &str) -> (String, Exit) {
    let error = resolve(flags, text).unwrap_err();
    assert!(!error.to_string().contains('\n'), "one line: {error}");
    (error.to_string(), error.exit())
}

#[test]
fn without_flags_and_file_every_setting_has_its_default() {
    let config = of_flags(&[]);
    assert_eq!(config.state_dir, Path::new("./onetrip-data"));
    assert_eq!(config.users, Path::new("./onetrip-data/users"));
    assert_eq!(config.deliver, Destination::Maildir(PathBuf::from("./onetrip-data/mail")));
    assert_eq!(config.listen, [Listen::on("127.0.0.1:2587".parse().unwrap())]);
    assert_eq!(config.listen_tls, [Listen::on("127.0.0.1:2465".parse().unwrap())]);
    assert_eq!(config.hostname, "mail.example.org");
    assert_eq!((config.shards, config.cores.as_slice()), (4, [0, 1, 2, 3].as_slice()));
    assert_eq!(config.certificates().count(), 0);
    assert_eq!(
        (config.max_message_size, config.message_memory),
        (limits::MESSAGE_BYTES_MAX, limits::MESSAGE_MEMORY_BYTES)
    );
    assert_eq!((config.idle_timeout, config.login_timeout), (limits::IDLE_TIMEOUT, limits::LOGIN_TIMEOUT));
    assert_eq!((config.greet_pause, config.backlog, config.fast_open), (Duration::ZERO, 4_096, 256));
    assert_eq!((config.enforce_sender, config.hide_client), (false, false));
    assert_eq!((config.sync, config.bare_newline), (SyncPolicy::Commit, BareNewline::Normalize));
    assert_eq!((config.qhlo_binding, config.qhlo_rotation), (Binding::Address, Duration::from_secs(30 * 86_400)));
    assert_eq!((config.tls_min, config.tls_sessions), (Version::Tls12, limits::TLS_SESSIONS_MAX));
    assert_eq!((config.metrics, config.log_format, config.log_level), (None, LogFormat::Text, Severity::Info));
    assert_eq!((config.delivery_threads, config.password_threads), (2, 1));
}

#[test]
fn every_default_that_is_a_constant_can_be_written_as_it_is_shown() {
    for setting in settings() {
        // These are sentences: the value depends on another setting or on the host, or is that nothing is given.
        let derived = [
            "cores",
            "shards",
            "listen",
            "listen-tls",
            "hostname",
            "tls-cert",
            "tls-key",
            "route",
            "retry-max",
            "relay-tls",
            "relay-ca",
            "relay-auth",
            "metrics",
            "message-memory",
        ];
        if derived.contains(&setting.name) || setting.default.contains("STATE-DIR") {
            continue;
        }
        assert_eq!(of_flags(&[(setting.name, setting.default.as_str())]), of_flags(&[]), "{}", setting.name);
    }
}

#[test]
fn a_flag_its_key_and_its_field_have_one_name_and_a_help_text() {
    for (flag, field) in FLAGS_AND_FIELDS {
        assert_eq!(flag.replace('-', "_"), *field);
    }
    for setting in settings() {
        assert!(setting.help.ends_with('.'), "{}: {}", setting.name, setting.help);
        assert!(!setting.help.contains("  "), "{}: {}", setting.name, setting.help);
        assert!(!setting.accepts.is_empty() && !setting.default.is_empty(), "{}", setting.name);
    }
}

#[test]
fn command_line_and_file_read_the_same_values() {
    let values = [
        ("state-dir", "/var/lib/onetrip"),
        ("cores", "0-1"),
        ("drain-timeout", "5"),
        ("listen", "0.0.0.0:587"),
        ("listen-tls", "[::]:465"),
        ("hostname", "smtp.example.org"),
        ("tls-cert", "cert.pem"),
        ("tls-key", "key.pem"),
        ("tls-min", "1.3"),
        ("deliver", "discard"),
        ("sync", "none"),
        ("bare-newline", "normalize"),
        ("hide-client", "on"),
        ("max-message-size", "10M"),
        ("qhlo-binding", "network"),
        ("qhlo-rotation", "7"),
        ("metrics", "127.0.0.1:9090"),
        ("log-format", "json"),
        ("log-level", "debug"),
    ];
    let text: String = values.iter().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect();
    let config = of_flags(&values);
    assert_eq!(config, of_file(&text));
    assert_eq!(config.cores, [0, 1]);
    assert_eq!((config.deliver, config.sync, config.hide_client), (Destination::Discard, SyncPolicy::None, true));
    assert_eq!(
        (config.tls_min, config.qhlo_binding, config.log_level),
        (Version::Tls13, Binding::Network, Severity::Debug)
    );
}

#[test]
fn the_file_may_write_values_as_toml_has_them() {
    assert_eq!(of_file("max-message-size = 1_000_000").max_message_size, 1_000_000);
    let config = of_file("idle-timeout = 60\ntls-min = 1.3\nhide-client = true\nlisten = ['127.0.0.1:0', '[::1]:0']\n");
    assert_eq!(config.idle_timeout, Duration::from_secs(60));
    assert_eq!((config.tls_min, config.hide_client, config.listen.len()), (Version::Tls13, true, 2));
}

#[test]
fn a_flag_beats_the_file_and_the_file_beats_the_default() {
    let text = "idle-timeout = 60\ndrain-timeout = 7\nlisten = ['127.0.0.1:1', '127.0.0.1:2']";
    let config = resolve(&[("idle-timeout", "5"), ("listen", "127.0.0.1:3")], text).unwrap();
    assert_eq!((config.idle_timeout.as_secs(), config.drain_timeout.as_secs()), (5, 7));
    assert_eq!(config.listen, [Listen::on("127.0.0.1:3".parse().unwrap())], "the list is replaced, not added to");
    assert_eq!(config.login_timeout, limits::LOGIN_TIMEOUT);
}

#[test]
fn asking_for_one_kind_of_listener_turns_the_default_of_the_other_off() {
    let config = of_flags(&[("listen", "127.0.0.1:0")]);
    assert_eq!((config.listen.len(), config.listen_tls.len()), (1, 0));
    let config = of_file("listen-tls = '127.0.0.1:0'");
    assert_eq!((config.listen.len(), config.listen_tls.len()), (0, 1));
    let config = of_flags(&[("listen", "127.0.0.1:0"), ("listen", "127.0.0.1:0"), ("listen-tls", "127.0.0.1:0")]);
    assert_eq!((config.listen.len(), config.listen_tls.len()), (2, 1), "port 0 is free each time");
}

#[test]
fn users_and_mail_follow_the_state_directory_unless_they_are_named() {
    let config = of_flags(&[("state-dir", "/s")]);
    assert_eq!(config.users, Path::new("/s/users"));
    assert_eq!(config.deliver, Destination::Maildir(PathBuf::from("/s/mail")));
    let config = of_flags(&[("state-dir", "/s"), ("users", "/u"), ("deliver", "maildir:/m")]);
    assert_eq!(config.users, Path::new("/u"));
    assert_eq!(config.deliver, Destination::Maildir(PathBuf::from("/m")));
}

#[test]
fn shards_are_pinned_when_each_has_a_core_and_left_to_the_kernel_otherwise() {
    let pinned = of_flags(&[("cores", "1,3")]);
    assert_eq!((pinned.shards, pinned.core_of_shard(0), pinned.core_of_shard(1)), (2, Some(1), Some(3)));
    let free = of_flags(&[("shards", "2")]);
    assert_eq!((free.shards, free.core_of_shard(0)), (2, None));
    let crowded = of_flags(&[("shards", "9")]);
    assert_eq!((crowded.shards, crowded.core_of_shard(8)), (9, None));
    assert_eq!(of_flags(&[("shards", "4")]).core_of_shard(3), Some(3));
}

#[test]
fn certificates_and_keys_go_in_pairs_and_the_first_pair_stays_first() {
    let config = of_flags(&[("tls-cert", "a.pem"), ("tls-cert", "b.pem"), ("tls-key", "a.key"), ("tls-key", "b.key")]);
    let pairs: Vec<_> = config.certificates().collect();
    assert_eq!(pairs, [(Path::new("a.pem"), Path::new("a.key")), (Path::new("b.pem"), Path::new("b.key"))]);
}

#[test]
fn the_users_file_is_found_without_the_rest_of_the_host() {
    let file = ConfigFile { path: Path::new("c"), text: "state-dir = '/s'\ncores = '900'\nhostname = 'h'" };
    assert_eq!(Config::users_file(&Flags::default(), Some(file)).unwrap(), Path::new("/s/users"));
    assert_eq!(Config::users_file(&Flags::of(&[("users", "/u")]), Some(file)).unwrap(), Path::new("/u"));
}

#[test]
fn a_bad_value_of_a_flag_names_the_flag_and_is_a_usage_error() {
    let (message, exit) = refusal(&[("idle-timeout", "5m")], "");
    let remedy = "write digits only, from 1 to 86400";
    assert_eq!(message, format!("--idle-timeout: \"5m\" is not a whole number of seconds: {remedy}"));
    assert_eq!(exit, Exit::Usage);
}

#[test]
fn a_bad_value_in_the_file_names_file_line_and_key_and_is_a_configuration_error() {
    let text = "hostname = 'a.example'\n\nidle-timeout = '5m'\n";
    let (message, exit) = refusal(&[], text);
    assert!(message.starts_with("/etc/onetrip.toml:3: idle-timeout: \"5m\" is not a whole number"), "{message}");
    assert_eq!(exit, Exit::Config);
    assert_eq!(refusal(&[("idle-timeout", "5")], text).0, message, "even where a flag beats it");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_right_one_where_it_can() {
    let keys = "keys are the flags without their dashes in front: see onetrip serve --help";
    let cases = [
        (
            "idle_timeout = 5",
            "1: idle_timeout: there is no such key: write idle-timeout, as the flag is written".to_owned(),
        ),
        (
            "\nconfig = 'x'",
            "2: config: there is no such key: the file can be named on the command line only".to_owned(),
        ),
        ("\n\n[limits]\nidle-timeout = 5", format!("3: limits: there is no such key: {keys}")),
        ("speed = 5", format!("1: speed: there is no such key: {keys}")),
    ];
    for (text, message) in cases {
        assert_eq!(refusal(&[], text), (format!("/etc/onetrip.toml:{message}"), Exit::Config));
    }
}

#[test]
fn text_that_is_not_toml_is_an_error_with_its_line() {
    for text in ["\nhostname mail\n", "\nhostname = 'a\n", "\nshards = 1\n\nshards = 2", "\n["] {
        let (message, exit) = refusal(&[], text);
        assert!(message.starts_with("/etc/onetrip.toml:"), "{message}");
        assert!(message.ends_with(": write one setting on each line, as TOML: key = \"value\""), "{message}");
        assert_eq!(exit, Exit::Config);
    }
    assert!(refusal(&[], "\nhostname mail\n").0.starts_with("/etc/onetrip.toml:2: "));
}

#[test]
fn toml_values_that_no_setting_can_have_are_errors() {
    for (value, problem) in [
        ("2026-01-01", "no setting is a date"),
        ("{ a = 1 }", "no setting is a table"),
        ("[[1]]", "no setting is a list of lists"),
        ("0x10", "the number is not decimal"),
        ("[1, 2]", "takes one value, not a list"),
        ("[]", "takes one value, not a list"),
        ("-1", "\"-1\" is not a whole number"),
    ] {
        let (message, _) = refusal(&[], &format!("shards = {value}"));
        assert!(message.starts_with(&format!("/etc/onetrip.toml:1: shards: {problem}")), "{message}");
    }
}

#[test]
fn zero_is_refused_where_it_makes_no_sense() {
    for name in [
        "shards",
        "backlog",
        "delivery-threads",
        "max-message-size",
        "message-memory",
        "recipients-max",
        "messages-max",
        "commands-max",
        "errors-max",
        "connections-max",
        "connections-per-address-max",
        "idle-timeout",
        "login-timeout",
        "transaction-timeout",
        "auth-attempts-max",
        "auth-failures-max",
        "auth-failure-window",
        "password-threads",
        "qhlo-rotation",
    ] {
        assert!(refusal(&[(name, "0")], "").0.starts_with(&format!("--{name}: 0 is too little: ")), "{name}");
    }
    for name in ["drain-timeout", "greet-pause", "fast-open", "tls-sessions", "auth-remember", "auth-failure-delay"] {
        assert!(resolve(&[(name, "0")], "").is_ok(), "{name}");
    }
}

#[test]
fn every_way_to_deliver_and_every_route_can_go_by_way_of_the_queue() {
    for way in ["relay:mx.example.org:25", "relays:[::1]:465", "lmtp:mx.example.org:24", "lmtp:/run/lmtp"] {
        assert_eq!(of_flags(&[("deliver", way)]).deliver.to_string(), way);
    }
    let config = of_flags(&[("route", "a.example=discard"), ("route", ".b.example=relay:mx.example.org:25")]);
    assert_eq!(config.route.len(), 2);
    assert!(
        refusal(&[("deliver", "Maildir:/m")], "").0.starts_with("--deliver: \"Maildir:/m\" is no way to deliver: ")
    );
}

#[test]
fn the_shortest_wait_is_not_longer_than_the_longest() {
    let (message, _) = refusal(&[("retry-min", "60"), ("retry-max", "30")], "");
    assert!(message.starts_with("--retry-min (60 s) is longer than --retry-max (30 s): "), "{message}");
    let config = of_flags(&[("retry-min", "7200")]);
    assert_eq!(config.retry_max, Duration::from_secs(7_200));
}

#[test]
fn handing_through_needs_one_place_that_answers_for_the_whole_message() {
    let config = of_flags(&[("deliver", "relay:mx.example.org:25"), ("sync", "through")]);
    assert_eq!((config.sync, config.relay_tls), (SyncPolicy::Through, None));
    assert!(resolve(&[("deliver", "maildir:/m"), ("sync", "through")], "").is_ok());
    let (message, exit) = refusal(&[("deliver", "lmtp:mx:24"), ("sync", "through")], "");
    let problem = "--sync through has one answer for a message, and LMTP one for each recipient";
    assert_eq!((message, exit), (format!("{problem}: use relay:HOST:PORT, or --sync commit"), Exit::Usage));
    let (message, exit) = refusal(&[("deliver", "relay:mx:25")], "sync = 'through'\nroute = 'a.example=discard'");
    let problem = "--sync through has one answer for a message, and --route more than one place";
    assert_eq!((message, exit), (format!("{problem}: leave --route out, or use --sync commit"), Exit::Config));
}

#[test]
fn a_place_that_begins_with_tls_cannot_do_without() {
    let (message, exit) = refusal(&[("deliver", "relays:mx:4465"), ("relay-tls", "off"), ("sync", "through")], "");
    let problem = "relays:mx:4465 begins with TLS, and --relay-tls is off";
    assert_eq!((message, exit), (format!("{problem}: leave --relay-tls out, or write relay:"), Exit::Usage));
}

#[test]
fn a_domain_has_one_route() {
    let (message, exit) = refusal(&[("route", "A.example=discard"), ("route", "a.example=maildir:/m")], "");
    let problem = "--route is given twice for a.example";
    assert_eq!((message, exit), (format!("{problem}: give one destination for each domain"), Exit::Usage));
}

#[test]
fn there_are_no_more_routes_than_numbers_for_their_destinations() {
    let routes = |count| {
        let rules: Vec<_> = (0..count).map(|number| format!("'d{number}.example=discard'")).collect();
        format!("route = [{}]", rules.join(", "))
    };
    assert_eq!(of_file(&routes(ROUTES_MAX)).route.len(), ROUTES_MAX);
    let (message, exit) = refusal(&[], &routes(ROUTES_MAX + 1));
    assert!(message.starts_with("--route is given 10001 times, and 10000 is the most: "), "{message}");
    assert_eq!(exit, Exit::Config);
}

#[test]
fn a_certificate_without_its_key_is_refused() {
    let remedy = "give one key for each certificate, in the same order";
    let usage = |problem: &str| (format!("{problem}: {remedy}"), Exit::Usage);
    assert_eq!(refusal(&[("tls-cert", "c")], ""), usage("--tls-cert is given without --tls-key"));
    assert_eq!(refusal(&[("tls-key", "k")], ""), usage("--tls-key is given without --tls-cert"));
    let flags = [("tls-cert", "c"), ("tls-cert", "d"), ("tls-key", "k")];
    assert_eq!(refusal(&flags, ""), usage("--tls-cert is given 2 times, --tls-key 1 times"));
    assert_eq!(refusal(&[("tls-cert", "c")], "tls-key = ['k', 'l']").1, Exit::Config, "the file is to blame");
    assert_eq!(refusal(&flags, "tls-key = ['k', 'l']").1, Exit::Usage, "a flag beats the file and takes the blame");
}

#[test]
fn one_address_cannot_be_listened_on_twice() {
    let address = "127.0.0.1:2525";
    for name in ["listen", "listen-tls", "metrics"] {
        let (message, exit) = refusal(&[("listen", address), (name, address)], "log-level = 'debug'");
        let expected = "127.0.0.1:2525 is to be listened on twice: give each of --listen, --listen-tls and --metrics a port of its own";
        assert_eq!((message.as_str(), exit), (expected, Exit::Usage));
    }
    assert!(resolve(&[("listen", address), ("listen", "127.0.0.1:2526"), ("metrics", "[::1]:2525")], "").is_ok());
    assert!(refusal(&[], "listen = []").0.starts_with("there is nothing to listen on: "));
}

#[test]
fn shards_and_cores_must_fit_together_and_the_host() {
    let (message, exit) = refusal(&[("cores", "0-1"), ("shards", "3")], "");
    let remedy = "name one core for each shard, or leave out one of the two";
    assert_eq!((message, exit), (format!("--shards is 3 but --cores names 2: {remedy}"), Exit::Usage));
    let (message, exit) = refusal(&[], "cores = '2-5'");
    let remedy = "choose from 0,1,2,3";
    assert_eq!(
        (message, exit),
        (format!("--cores names core 4, on which this process may not run: {remedy}"), Exit::Config)
    );
    let unknown = Host { cores: Vec::new(), ..host() };
    let error = Config::resolve(&Flags::default(), None, &unknown).unwrap_err();
    assert_eq!(error.to_string(), "the cores of this process are not known: say how many shards to run with --shards");
    assert!(Config::resolve(&Flags::of(&[("shards", "1")]), None, &unknown).is_ok());
}

#[test]
fn a_greet_pause_that_leaves_no_time_to_log_in_is_refused() {
    let (message, exit) = refusal(&[("greet-pause", "5000"), ("login-timeout", "5")], "");
    let problem = "--greet-pause (5000 ms) takes all of --login-timeout (5 s), so that nobody could log in";
    assert_eq!((message, exit), (format!("{problem}: lower the one or raise the other"), Exit::Usage));
    assert!(resolve(&[("greet-pause", "4999"), ("login-timeout", "5")], "").is_ok());
}

#[test]
fn there_must_be_memory_for_one_message_of_the_largest_size() {
    let (message, exit) = refusal(&[("max-message-size", "512K")], "message-memory = '511K'");
    let problem = "--message-memory (511KiB) has no room for one message of --max-message-size (512KiB)";
    assert_eq!((message, exit), (format!("{problem}: raise the one or lower the other"), Exit::Config));
    assert!(resolve(&[("max-message-size", "512K"), ("message-memory", "512K")], "").is_ok());
    assert_eq!(of_flags(&[("max-message-size", "1G")]).message_memory, 1 << 30, "the default makes room");
}

#[test]
fn a_message_that_goes_into_the_spool_in_pieces_needs_memory_for_a_piece_only() {
    assert!(resolve(&[("max-message-size", "1G"), ("message-memory", "1M")], "").is_ok());
    let (message, _) = refusal(&[("max-message-size", "1G"), ("message-memory", "1023K")], "");
    assert!(message.starts_with("--message-memory (1023KiB) has no room for a piece of a large message (1MiB)"));
    let through = [("max-message-size", "1G"), ("message-memory", "1023M"), ("sync", "through")];
    let (message, _) = refusal(&through, "");
    assert!(message.contains("(1023MiB) has no room for one message of --max-message-size (1GiB)"), "{message}");
}

#[test]
fn a_host_whose_name_is_no_domain_is_asked_for_one() {
    let host = Host { name: "my_host".to_owned(), ..host() };
    let error = Config::resolve(&Flags::default(), None, &host).unwrap_err();
    let problem = "the name of this host, \"my_host\", is not a domain name";
    let remedy = "give the name that clients connect to with --hostname, like mail.example.org";
    assert_eq!((error.to_string(), error.exit()), (format!("{problem}: {remedy}"), Exit::Config));
    assert!(Config::resolve(&Flags::of(&[("hostname", "my-host")]), None, &host).is_ok());
}

#[test]
fn clap_knows_every_setting_and_hands_over_what_was_given_and_nothing_else() {
    let command = Command::new("serve").args(settings().iter().map(super::Setting::argument));
    command.clone().debug_assert();
    let matches =
        command.try_get_matches_from(["serve", "--listen", "127.0.0.1:1", "--listen=127.0.0.1:2", "--shards", "2"]);
    let Flags(values) = Flags::from_matches(&matches.unwrap());
    assert_eq!(values.len(), 2);
    assert_eq!(values["listen"], ["127.0.0.1:1", "127.0.0.1:2"]);
    assert_eq!(values["shards"], ["2"]);
}
