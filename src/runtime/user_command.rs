//! What `onetrip user add`, `remove` and `list` do.
//!
//! It must not take a password from the command line, where every other user of the machine can read it, and it must
//! not print: it returns what there is to say.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use serde::Serialize;

use super::users_file::{self, UsersFileError};
use crate::auth::hash;
use crate::auth::users::{Put, User, UserProblem, Users, parse_senders};
use crate::limits;
use crate::proto::credential::Senders;
use crate::proto::secret::Secret;

/// What a command did; prints as one line for the person who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The user is new.
    Added {
        /// The user's name.
        name: String,
        /// The senders the user may name.
        senders: Senders,
    },
    /// The user was there and has a new password and new senders.
    Replaced {
        /// The user's name.
        name: String,
        /// The senders the user may name.
        senders: Senders,
    },
    /// The user is gone.
    Removed {
        /// The user's name.
        name: String,
    },
}

/// Why a command did nothing.
#[derive(Debug)]
pub enum UserCommandError {
    /// The users file cannot be read or written.
    File(UsersFileError),
    /// The name or a sender cannot be used.
    User(UserProblem),
    /// There is no such user.
    NoSuchUser(String),
    /// The password cannot be used.
    Password(PasswordProblem),
    /// The system has no randomness to give for a salt.
    Randomness,
}

/// Why a password cannot be used.
#[derive(Debug)]
pub enum PasswordProblem {
    /// There is none.
    Empty,
    /// It is longer than [`limits::PASSWORD_BYTES_MAX`].
    TooLong,
    /// There is a NUL in it, which AUTH PLAIN cannot carry (RFC 4616 §2).
    Nul,
    /// It was typed twice, and not the same.
    Differs,
    /// It could not be read.
    Unreadable(io::Error),
}

/// How [`list`] presents users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListFormat {
    /// One user a line: the name, a tab, the senders with commas between (or `any sender`).
    Text,
    /// A JSON array of `{"name": …, "senders": [… ]}`; `"senders": null` = any.
    Json,
}

/// Adds a user, or gives the one of that name a new password and new senders. No senders = any sender.
///
/// # Errors
/// [`UserCommandError`]; the file is then as it was.
pub fn add(
    users_file: &Path,
    name: &str,
    senders: &[String],
    password: &Secret<Vec<u8>>,
) -> Result<Outcome, UserCommandError> {
    check_password(password.expose()).map_err(UserCommandError::Password)?;
    let senders = parse_senders(senders.iter().map(String::as_str)).map_err(UserCommandError::User)?;
    let hash = hash::hash(password.expose(), random_salt()?);
    let user = User::new(name, hash, senders.clone()).map_err(UserCommandError::User)?;
    let name = name.to_owned();
    users_file::edit(users_file, |users| match users.put(user) {
        Put::Added => Ok(Outcome::Added { name, senders }),
        Put::Replaced => Ok(Outcome::Replaced { name, senders }),
    })
}

/// Removes a user.
///
/// # Errors
/// [`UserCommandError::NoSuchUser`], and whatever keeps the file from being changed.
pub fn remove(users_file: &Path, name: &str) -> Result<Outcome, UserCommandError> {
    if !load(users_file)?.remove(name) {
        return Err(UserCommandError::NoSuchUser(name.to_owned()));
    }
    users_file::edit(users_file, |users| {
        if users.remove(name) {
            return Ok(Outcome::Removed { name: name.to_owned() });
        }
        Err(UserCommandError::NoSuchUser(name.to_owned()))
    })
}

/// All users, in the order of the file, as text that ends with a line end unless it is empty.
///
/// # Errors
/// The file cannot be read, or it is damaged.
pub fn list(users_file: &Path, format: ListFormat) -> Result<String, UserCommandError> {
    let users = load(users_file)?;
    match format {
        ListFormat::Text => Ok(users.iter().map(text_line).collect()),
        ListFormat::Json => Ok(json(&users)),
    }
}

/// Reads a password: typed twice if standard input is a terminal, else the first line of standard input.
///
/// # Errors
/// [`UserCommandError::Password`].
pub fn read_password() -> Result<Secret<Vec<u8>>, UserCommandError> {
    let stdin = io::stdin();
    let password = if stdin.is_terminal() { ask_twice() } else { read_line(&mut stdin.lock()) };
    password.map_err(UserCommandError::Password)
}

fn ask_twice() -> Result<Secret<Vec<u8>>, PasswordProblem> {
    let password = ask("Password: ")?;
    check_password(password.expose())?;
    let again = ask("The same again: ")?;
    if password.expose() != again.expose() {
        return Err(PasswordProblem::Differs);
    }
    Ok(password)
}

fn ask(prompt: &str) -> Result<Secret<Vec<u8>>, PasswordProblem> {
    let typed = rpassword::prompt_password(prompt).map_err(PasswordProblem::Unreadable)?;
    Ok(Secret::new(typed.into_bytes()))
}

/// Reads up to the end of the line, which does not belong to the password.
fn read_line(input: &mut impl BufRead) -> Result<Secret<Vec<u8>>, PasswordProblem> {
    const LINE_BYTES_MAX: usize = limits::PASSWORD_BYTES_MAX + 2;
    // Large enough from the start: growing would leave a copy of the password behind.
    let mut line = Vec::with_capacity(LINE_BYTES_MAX);
    let outcome = input.take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line);
    for ending in [b'\n', b'\r'] {
        line.pop_if(|last| *last == ending);
    }
    let line = Secret::new(line);
    outcome.map_err(PasswordProblem::Unreadable)?;
    check_password(line.expose())?;
    Ok(line)
}

fn check_password(password: &[u8]) -> Result<(), PasswordProblem> {
    match password {
        [] => Err(PasswordProblem::Empty),
        _ if password.len() > limits::PASSWORD_BYTES_MAX => Err(PasswordProblem::TooLong),
        _ if password.contains(&0) => Err(PasswordProblem::Nul),
        _ => Ok(()),
    }
}

fn random_salt() -> Result<[u8; limits::HASH_SALT_BYTES], UserCommandError> {
    let mut salt = [0; limits::HASH_SALT_BYTES];
    SystemRandom::new().fill(&mut salt).map_err(|_| UserCommandError::Randomness)?;
    Ok(salt)
}

fn load(users_file: &Path) -> Result<Users, UserCommandError> {
    users_file::load(users_file).map_err(UserCommandError::File)
}

fn text_line(user: &User) -> String {
    format!("{}\t{}\n", user.member.name, SendersText(&user.member.senders))
}

fn json(users: &Users) -> String {
    #[derive(Serialize)]
    struct Entry<'a> {
        name: &'a str,
        senders: Option<Vec<String>>,
    }
    let entries: Vec<_> = users
        .iter()
        .map(|user| Entry { name: &user.member.name, senders: sender_list(&user.member.senders) })
        .collect();
    let mut text = serde_json::to_string(&entries).expect("names and senders are strings");
    text.push('\n');
    text
}

fn sender_list(senders: &Senders) -> Option<Vec<String>> {
    match senders {
        Senders::Any => None,
        Senders::Only(patterns) => Some(patterns.iter().map(ToString::to_string).collect()),
    }
}

struct SendersText<'a>(&'a Senders);

impl fmt::Display for SendersText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match sender_list(self.0) {
            None => f.write_str("any sender"),
            Some(patterns) => f.write_str(&patterns.join(",")),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Added { name, senders } => write!(f, "added {name}, who may send as {}", SendersText(senders)),
            Self::Replaced { name, senders } => write!(
                f,
                "replaced {name}, who was there already: the password is new, and {name} may send as {}",
                SendersText(senders)
            ),
            Self::Removed { name } => write!(f, "removed {name}"),
        }
    }
}

impl UserCommandError {
    /// The exit code of sysexits.h that says the same.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::User(_) => 64,                                  // EX_USAGE
            Self::Password(PasswordProblem::Unreadable(_)) => 66, // EX_NOINPUT
            Self::Password(_) => 65,                              // EX_DATAERR
            Self::NoSuchUser(_) => 67,                            // EX_NOUSER
            Self::Randomness => 71,                               // EX_OSERR
            Self::File(UsersFileError::Io { error, .. }) => match error.kind() {
                io::ErrorKind::PermissionDenied => 77, // EX_NOPERM
                _ => 74,                               // EX_IOERR
            },
            Self::File(_) => 78, // EX_CONFIG
        }
    }
}

impl From<UsersFileError> for UserCommandError {
    fn from(error: UsersFileError) -> Self {
        Self::File(error)
    }
}

impl fmt::Display for UserCommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::User(problem) => problem.fmt(f),
            Self::NoSuchUser(name) => write!(f, "there is no user {name:?}; `onetrip user list` shows who there is"),
            Self::Password(problem) => problem.fmt(f),
            Self::Randomness => f.write_str("the system has no randomness to give for a salt"),
        }
    }
}

impl fmt::Display for PasswordProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the password is empty; type one, or give it as a line on standard input"),
            Self::TooLong => write!(f, "the password is longer than {} bytes", limits::PASSWORD_BYTES_MAX),
            Self::Nul => f.write_str("there is a NUL in the password, which no mail program could send"),
            Self::Differs => f.write_str("the two passwords are not the same; nothing was changed"),
            Self::Unreadable(error) => write!(f, "cannot read the password: {error}"),
        }
    }
}

impl std::error::Error for UserCommandError {}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ListFormat, Outcome, PasswordProblem, UserCommandError, add, list, read_line, remove};
    use crate::auth::hash::verify;
    use crate::limits;
    use crate::proto::credential::{Credential, Mechanism, SenderPattern, Senders};
    use crate::proto::secret::Secret;
    use crate::runtime::users_file;

    fn secret(password: &str) -> Secret<Vec<u8>> {
        Secret::new(password.as_bytes().to_vec())
    }

    fn add_user(path: &Path, name: &str, senders: &[&str], password: &str) -> Result<Outcome, UserCommandError> {
        let senders: Vec<String> = senders.iter().map(ToString::to_string).collect();
        add(path, name, &senders, &secret(password))
    }

    fn logs_in(path: &Path, user: &str, password: &str) -> bool {
        let credential = Credential { mechanism: Mechanism::Plain, user: user.to_owned(), password: secret(password) };
        verify(&users_file::load(path).unwrap(), &credential).is_some()
    }

    #[test]
    fn a_user_is_added_replaced_listed_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        let added = add_user(&path, "ann", &[], "first").unwrap();
        assert_eq!(added.to_string(), "added ann, who may send as any sender");
        assert!(logs_in(&path, "ann", "first"));

        let replaced = add_user(&path, "ann", &["@example.org"], "second").unwrap();
        let senders = Senders::Only(vec![SenderPattern::Domain("example.org".to_owned())]);
        assert_eq!(replaced, Outcome::Replaced { name: "ann".to_owned(), senders });
        assert!(logs_in(&path, "ann", "second") && !logs_in(&path, "ann", "first"));

        add_user(&path, "bob", &[], "third").unwrap();
        assert_eq!(list(&path, ListFormat::Text).unwrap(), "ann\t@example.org\nbob\tany sender\n");
        assert_eq!(
            list(&path, ListFormat::Json).unwrap(),
            "[{\"name\":\"ann\",\"senders\":[\"@example.org\"]},{\"name\":\"bob\",\"senders\":null}]\n"
        );

        assert_eq!(remove(&path, "ann").unwrap(), Outcome::Removed { name: "ann".to_owned() });
        assert!(!logs_in(&path, "ann", "second") && logs_in(&path, "bob", "third"));
    }

    #[test]
    fn two_users_with_one_password_have_different_hashes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for name in ["ann", "bob"] {
            add_user(&path, name, &[], "secret").unwrap();
        }
        let users = users_file::load(&path).unwrap();
        assert_ne!(users.find("ann").unwrap().hash, users.find("bob").unwrap().hash);
    }

    #[test]
    fn removing_a_user_that_does_not_exist_is_an_error_and_makes_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state").join("users");
        let error = remove(&path, "ann").unwrap_err();
        assert!(matches!(&error, UserCommandError::NoSuchUser(name) if name == "ann"));
        assert_eq!(error.exit_code(), 67);
        assert!(!path.parent().unwrap().exists());
    }

    #[test]
    fn no_file_lists_no_users() {
        let path = Path::new("/nonexistent/users");
        assert_eq!(list(path, ListFormat::Text).unwrap(), "");
        assert_eq!(list(path, ListFormat::Json).unwrap(), "[]\n");
    }

    #[test]
    fn what_cannot_be_used_is_refused_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("users");
        for (name, sender, password) in
            [("a:b", "@c", "secret"), ("ann", "c", "secret"), ("ann", "@c", ""), ("ann", "@c", "a\0b")]
        {
            assert!(add_user(&path, name, &[sender], password).is_err(), "{name} {sender} {password}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        for (input, password) in [
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret", "secret"),
            (" se cret \nanother line\n", " se cret "),
            ("secret\r\r\n", "secret\r"),
        ] {
            assert_eq!(read_line(&mut input.as_bytes()).unwrap().expose(), password.as_bytes(), "{input:?}");
        }
    }

    #[test]
    fn a_password_that_is_empty_too_long_or_has_a_nul_is_refused() {
        for input in ["", "\n", "\r\n", "\nsecret\n"] {
            assert!(matches!(read_line(&mut input.as_bytes()), Err(PasswordProblem::Empty)), "{input:?}");
        }
        let longest = "p".repeat(limits::PASSWORD_BYTES_MAX);
        for ending in ["", "\n", "\r\n"] {
            assert!(read_line(&mut format!("{longest}{ending}").as_bytes()).is_ok());
            let longer = format!("{longest}p{ending}");
            assert!(matches!(read_line(&mut longer.as_bytes()), Err(PasswordProblem::TooLong)), "{ending:?}");
        }
        assert!(matches!(read_line(&mut "a\0b\n".as_bytes()), Err(PasswordProblem::Nul)));
    }
}
