//! What the program says and how it exits when the command line or the configuration is wrong. No server is started.

#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, as it should")]

use std::path::Path;
use std::process::{Command, Output};

fn onetrip(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onetrip")).args(arguments).output().unwrap()
}

/// The exit code and the one line on standard error.
fn failure(arguments: &[&str]) -> (i32, String) {
    let output = onetrip(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.stdout.is_empty(), "a mistake is not said on standard output: {arguments:?}");
    assert_eq!(text.matches('\n').count(), 1, "one line: {text:?}");
    assert!(text.starts_with("onetrip: "), "{text:?}");
    (output.status.code().unwrap(), text.trim_end().to_owned())
}

fn serve_with_file(directory: &Path, text: &str) -> (i32, String) {
    let path = directory.join("onetrip.toml");
    std::fs::write(&path, text).unwrap();
    failure(&["serve", "--config", path.to_str().unwrap()])
}

#[test]
fn without_a_command_the_help_is_shown_and_the_exit_code_is_64() {
    for arguments in [&[][..], &["user"]] {
        let output = onetrip(arguments);
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: onetrip"));
    }
}

#[test]
fn help_and_version_that_were_asked_for_go_to_standard_output() {
    let output = onetrip(&["--version"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("onetrip {}\n", env!("CARGO_PKG_VERSION")));
    let output = onetrip(&["serve", "--help"]);
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
    let help = String::from_utf8(output.stdout).unwrap();
    for heading in
        ["Runtime:", "Listeners:", "TLS:", "Delivery:", "Limits:", "Authentication:", "QUICKSTART:", "Observing:"]
    {
        assert!(help.contains(heading), "{heading}");
    }
}

#[test]
fn mistakes_on_the_command_line_exit_with_64() {
    for (arguments, message) in [
        (&["sevre"][..], "unrecognized subcommand 'sevre': "),
        (&["serve", "--idle-timeot", "5"], "unexpected argument '--idle-timeot' found: "),
        (&["serve", "--idle-timeout"], "a value is required for '--idle-timeout <SECONDS>' but none was supplied: "),
        (&["serve", "--shards", "1", "--shards", "2"], "the argument '--shards <N>' cannot be used multiple times: "),
        (&["serve", "now"], "unexpected argument 'now' found: "),
        (&["user", "add"], "the following required arguments were not provided: <NAME>: "),
        (&["serve", "--idle-timeout", "5m"], "--idle-timeout: \"5m\" is not a whole number of seconds: "),
        (&["serve", "--tls-cert", "cert.pem"], "--tls-cert is given without --tls-key: "),
        (
            &["serve", "--deliver", "relays:mx:465", "--relay-tls", "off"],
            "relays:mx:465 begins with TLS, and --relay-tls is off: ",
        ),
        (&["user", "list", "--users", ""], "--users: the path is empty: "),
    ] {
        let (code, line) = failure(arguments);
        assert_eq!(code, 64, "{line}");
        assert!(line.starts_with(&format!("onetrip: {message}")), "{line}");
    }
}

#[test]
fn mistakes_in_the_configuration_file_exit_with_78() {
    let directory = tempfile::tempdir().unwrap();
    for (text, message) in [
        ("idle-timeout = '5m'", ":1: idle-timeout: \"5m\" is not a whole number of seconds: "),
        ("\nspeed = 5", ":2: speed: there is no such key: "),
        ("tls-cert = ['cert.pem']", "--tls-cert is given without --tls-key: "),
    ] {
        let (code, line) = serve_with_file(directory.path(), text);
        assert_eq!(code, 78, "{line}");
        assert!(line.contains(message), "{line}");
    }
}

#[test]
fn a_configuration_file_that_cannot_be_read_says_so_in_the_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing.toml");
    let (code, line) = failure(&["serve", "--config", missing.to_str().unwrap()]);
    assert_eq!(code, 66, "{line}");
    assert!(line.ends_with("name a text file that can be read with --config"), "{line}");
    assert_eq!(failure(&["user", "list", "--config", directory.path().to_str().unwrap()]).0, 74, "a directory");
    std::fs::write(&missing, b"\xff").unwrap();
    assert_eq!(failure(&["serve", "--config", missing.to_str().unwrap()]).0, 65, "not text");
}
