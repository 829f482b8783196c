//! Enough of a Dovecot authentication server for Postfix to check one user's password by SASL PLAIN.
//!
//! It speaks the client side of Dovecot's authentication protocol, version 1: lines of fields parted by tabs.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::{fs, thread};

use data_encoding::BASE64;

use crate::process::{PASSWORD, USER};

/// Answers on a socket at `path` for as long as the test runs.
pub fn listen(path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket");
    // Postfix connects as a user of its own.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("the socket is ours");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: UnixStream) -> io::Result<()> {
    let requests = BufReader::new(stream.try_clone()?);
    stream.write_all(b"VERSION\t1\t0\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")?;
    for line in requests.lines() {
        let line = line?;
        let fields: Vec<&str> = line.split('\t').collect();
        // VERSION and CPID need no answer.
        let ["AUTH", id, "PLAIN", parameters @ ..] = fields.as_slice() else { continue };
        let response = parameters.iter().find_map(|parameter| parameter.strip_prefix("resp="));
        let verdict = if response.is_some_and(is_right) { "OK" } else { "FAIL" };
        stream.write_all(format!("{verdict}\t{id}\tuser={USER}\n").as_bytes())?;
    }
    Ok(())
}

fn is_right(response: &str) -> bool {
    response == BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes())
}
