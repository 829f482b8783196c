//! Libraries that mail is sent with from programs: aiosmtplib (Python), nodemailer (JavaScript), lettre and mail-send
//! (Rust). Each shows that a client of its own making, whose TLS and whose SMTP are not ours, submits a message with
//! everything in it that goes wrong easily, over STARTTLS and over implicit TLS, and accepts our certificate by its own check.
//!
//! `tests/interop/fetch` gets them; without it their tests are skipped, unless `ONETRIP_REQUIRE_INTEROP_LIBRARIES=1` is set.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::process::{HOSTNAME, PASSWORD, RECIPIENT, SENDER, Site, USER, run_with_input};
use crate::{Tls, assert_submits, is_there, message};

/// What `tests/interop/fetch` has fetched, if it was run.
fn fetched(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/interop").join(name);
    if path.exists() {
        return Some(path);
    }
    let required = std::env::var_os("ONETRIP_REQUIRE_INTEROP_LIBRARIES").is_some_and(|value| value == "1");
    assert!(!required, "{} is not there: run tests/interop/fetch", path.display());
    eprintln!("skipped: {} is not there (run tests/interop/fetch)", path.display());
    None
}

/// Runs a program that takes way, host, port, user, password, sender, recipient and certificate, and this as its input.
fn run(mut command: Command, site: &Site, tls: Tls, port: u16, input: &str) -> Output {
    command.args([if tls == Tls::Implicit { "implicit" } else { "starttls" }, HOSTNAME, &port.to_string()]);
    command.args([USER, PASSWORD, SENDER, RECIPIENT]).arg(site.certificate());
    run_with_input(&mut command, input.as_bytes())
}

#[test]
fn aiosmtplib_submits_a_message() {
    const PROGRAM: &str = "\
import aiosmtplib, asyncio, ssl, sys
way, host, port, user, password, sender, recipient, certificate = sys.argv[1:]
refused, answer = asyncio.run(aiosmtplib.send(
    sys.stdin.buffer.read(), sender=sender, recipients=[recipient], mail_options=['BODY=8BITMIME'],
    hostname=host, port=int(port), username=user, password=password,
    use_tls=way == 'implicit', start_tls=way == 'starttls',
    tls_context=ssl.create_default_context(cafile=certificate)))
sys.exit(len(refused))
";
    let Some(library) = fetched("python/aiosmtplib") else { return };
    if !is_there("python3", "python3") {
        return;
    }
    assert_submits(|site, tls, port| {
        let mut command = Command::new("python3");
        command.env("PYTHONPATH", library.parent().unwrap()).args(["-c", PROGRAM]);
        run(command, site, tls, port, &message())
    });
}

#[test]
fn nodemailer_submits_a_message() {
    const PROGRAM: &str = "\
const [library, way, host, port, user, pass, from, to, certificate] = process.argv.slice(1);
const fs = require('fs');
const secure = way === 'implicit';
const transport = require(library).createTransport({
    host, port: Number(port), secure, requireTLS: !secure, auth: { user, pass },
    tls: { ca: fs.readFileSync(certificate) },
});
transport.sendMail({ envelope: { from, to: [to] }, raw: fs.readFileSync(0) }).then(
    (sent) => process.exit(sent.rejected.length),
    (error) => { console.error(error); process.exit(1); },
);
";
    let Some(library) = fetched("node/node_modules/nodemailer") else { return };
    if !is_there("node", "nodejs") {
        return;
    }
    assert_submits(|site, tls, port| {
        let mut command = Command::new("node");
        command.args(["-e", PROGRAM, "--"]).arg(&library);
        run(command, site, tls, port, &message())
    });
}

/// One of the two libraries in the program that `tests/interop/clients` is.
fn rust_library_submits(library: &str) {
    let Some(program) = fetched("clients") else { return };
    assert_submits(|site, tls, port| {
        let mut command = Command::new(&program);
        command.arg(library);
        // Both end the message by a line break of their own.
        run(command, site, tls, port, message().strip_suffix("\r\n").unwrap())
    });
}

#[test]
fn lettre_submits_a_message() {
    rust_library_submits("lettre");
}

#[test]
fn mail_send_submits_a_message() {
    rust_library_submits("mail-send");
}
