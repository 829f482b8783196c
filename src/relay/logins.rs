//! The names and passwords under which this server is known to others (`--relay-auth`).
//!
//! Reads text, not files. A password never shows, in errors neither.

use std::collections::HashMap;
use std::fmt;

use crate::proto::client::{InvalidValue, Login};
use crate::proto::secret::Secret;

/// The logins in one file.
#[derive(Clone, Debug, Default)]
pub struct Logins {
    /// By `HOST:PORT`, the host in lower case.
    of_hop: HashMap<String, Login>,
    of_all: Option<Login>,
}

/// What is wrong with the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginsError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: String,
}

impl fmt::Display for LoginsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for LoginsError {}

impl Logins {
    /// Reads lines of `HOST:PORT`, user and password, separated by spaces; the password is all of the rest of the line. `*`
    /// stands for every `HOST:PORT` that has no line of its own. Empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    ///
    /// The first line that cannot be read, or that comes twice.
    pub fn parse(text: &str) -> Result<Self, LoginsError> {
        let mut logins = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            logins.read_line(line).map_err(|problem| LoginsError { line: index + 1, problem })?;
        }
        Ok(logins)
    }

    fn read_line(&mut self, line: &str) -> Result<(), String> {
        let (hop, rest) = word(line).ok_or("HOST:PORT, user and password are expected")?;
        let (user, password) = word(rest).ok_or("a user and a password are expected")?;
        let password = Secret::new(password.as_bytes().to_vec());
        let login =
            Login::new(user, password).map_err(|problem: InvalidValue| format!("user or password {problem}"))?;
        let replaced = match hop {
            "*" => self.of_all.replace(login),
            _ if !hop.contains(':') => return Err(format!("{hop} has no port")),
            _ => self.of_hop.insert(hop.to_ascii_lowercase(), login),
        };
        if replaced.is_some() { Err(format!("{hop} comes twice")) } else { Ok(()) }
    }

    /// The login for the server at `hop`, written `HOST:PORT`.
    pub fn for_hop(&self, hop: &str) -> Option<&Login> {
        self.of_hop.get(&hop.to_ascii_lowercase()).or(self.of_all.as_ref())
    }
}

/// The first word of a line, and the rest.
fn word(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.split_once([' ', '\t'])?;
    Some((word, rest.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::Logins;

    fn problem(text: &str) -> String {
        Logins::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn each_server_has_its_own_login_and_all_others_the_one_of_the_star() {
        let text = "# ours\n\nMX.example.org:587  ann  pass word \n[2001:db8::1]:25 bob x\n";
        let logins = Logins::parse(text).unwrap();
        assert!(logins.for_hop("mx.example.org:587").is_some() && logins.for_hop("[2001:db8::1]:25").is_some());
        assert!(logins.for_hop("mx.example.org:25").is_none());
        let logins = Logins::parse("* carl y").unwrap();
        assert!(logins.for_hop("mx.example.org:25").is_some());
        assert!(Logins::parse("").unwrap().for_hop("mx.example.org:25").is_none());
    }

    #[test]
    fn what_cannot_be_read_is_named_by_its_line_and_never_shown() {
        assert_eq!(problem("mx:25 ann secret\n\nmx:25"), "line 3: HOST:PORT, user and password are expected");
        assert_eq!(problem("mx:25 ann"), "line 1: a user and a password are expected");
        assert_eq!(problem("mx ann secret"), "line 1: mx has no port");
        assert_eq!(problem("mx:25 ann secret\nMX:25 bob secret"), "line 2: MX:25 comes twice");
        assert_eq!(problem("* ann secret\n* bob secret"), "line 2: * comes twice");
        assert_eq!(problem("mx:25 ann sec\0ret"), "line 1: user or password has a character that is not allowed there");
        assert!(!format!("{:?}", Logins::parse("mx:25 ann secret").unwrap()).contains("secret"));
    }
}
