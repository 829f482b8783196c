//! The users file: who there is, as text.
//!
//! ```text
//! # comments and blank lines stay where they are
//! ann:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH:ann@example.org,@example.net
//! bob:$argon2id$v=19$m=19456,t=2,p=1$SALT$HASH:
//! ```
//!
//! One user a line: name, password hash, allowed senders; no senders = any sender. It must not touch the file itself,
//! and it must not load a damaged file in part: half of the users is worse than those of a moment ago.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::hash::{HashError, StoredHash};
use crate::limits;
use crate::proto::credential::{Member, SenderPattern, Senders};

/// All users, in the order of their file, with its comments.
#[derive(Clone, Debug, Default)]
pub struct Users {
    lines: Vec<Line>,
    by_name: HashMap<Arc<str>, usize>,
    decoy: StoredHash,
}

/// One user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// Who it is, once the password is proven.
    pub member: Arc<Member>,
    /// The password.
    pub hash: StoredHash,
}

#[derive(Clone, Debug)]
enum Line {
    /// A comment or a blank line.
    Note(String),
    User(User),
}

/// Why a users file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsersError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: UserProblem,
}

/// What is wrong with one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserProblem {
    /// Not the three fields `NAME:HASH:SENDERS`.
    Fields,
    /// The name cannot be one.
    Name,
    /// The name is on this earlier line already.
    Twice {
        /// The earlier line, counted from 1.
        line: usize,
    },
    /// The password hash cannot be used.
    Hash(HashError),
    /// This is neither `local@domain` nor `@domain`.
    Sender(String),
}

impl Users {
    /// Reads a users file.
    ///
    /// # Errors
    /// The first line that cannot be used; nothing of the file is to be used then.
    pub fn parse(text: &str) -> Result<Self, UsersError> {
        let mut users = Self::default();
        for (index, line) in text.lines().enumerate() {
            users.parse_line(line).map_err(|problem| UsersError { line: index + 1, problem })?;
        }
        users.renew_decoy();
        Ok(users)
    }

    /// The user of this name. Names are compared byte by byte: `Ann` is not `ann`.
    pub fn find(&self, name: &str) -> Option<&User> {
        let at = *self.by_name.get(name)?;
        self.lines[at].user()
    }

    /// Adds a user, or replaces the one of the same name on its line.
    pub fn put(&mut self, user: User) -> Put {
        let put = match self.by_name.get(user.member.name.as_str()) {
            Some(&at) => {
                self.lines[at] = Line::User(user);
                Put::Replaced
            }
            None => {
                self.push(user);
                Put::Added
            }
        };
        self.renew_decoy();
        put
    }

    /// Removes the user of this name, and tells whether there was one.
    pub fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.by_name.remove(name) else {
            return false;
        };
        self.lines.remove(at);
        for later in self.by_name.values_mut().filter(|later| **later > at) {
            *later -= 1;
        }
        self.renew_decoy();
        true
    }

    /// The users in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &User> {
        self.lines.iter().filter_map(Line::user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// The text of the file. Lines that were not touched come out as they came in, except that each ends with LF, and none
    /// with a comma after the last sender.
    pub fn render(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// The hash that is compared for a user that does not exist.
    pub(super) fn decoy(&self) -> &StoredHash {
        &self.decoy
    }

    fn parse_line(&mut self, line: &str) -> Result<(), UserProblem> {
        if line.trim_start().is_empty() || line.trim_start().starts_with('#') {
            self.lines.push(Line::Note(line.to_owned()));
            return Ok(());
        }
        let user = User::parse(line)?;
        if let Some(earlier) = self.by_name.get(user.member.name.as_str()) {
            return Err(UserProblem::Twice { line: earlier + 1 });
        }
        self.push(user);
        Ok(())
    }

    fn push(&mut self, user: User) {
        self.by_name.insert(user.member.name.as_str().into(), self.lines.len());
        self.lines.push(Line::User(user));
    }

    fn renew_decoy(&mut self) {
        let dearest = self.iter().map(|user| &user.hash).max_by_key(|hash| hash.work_kib());
        self.decoy = dearest.map_or_else(StoredHash::default, StoredHash::decoy);
    }
}

/// What [`Users::put`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The user is new, at the end of the file.
    Added,
    /// The user of that name has a new password and new senders.
    Replaced,
}

impl User {
    /// A user of this name.
    ///
    /// # Errors
    /// [`UserProblem::Name`] if the name is empty, longer than [`limits::USER_NAME_BYTES_MAX`], has a colon or a
    /// control character in it, begins with `#`, or begins or ends with white space.
    pub fn new(name: &str, hash: StoredHash, senders: Senders) -> Result<Self, UserProblem> {
        if !is_name(name) {
            return Err(UserProblem::Name);
        }
        Ok(Self { member: Arc::new(Member { name: name.to_owned(), senders }), hash })
    }

    fn parse(line: &str) -> Result<Self, UserProblem> {
        let mut fields = line.splitn(3, ':');
        let (Some(name), Some(hash), Some(senders)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(UserProblem::Fields);
        };
        let hash = StoredHash::parse(hash).map_err(UserProblem::Hash)?;
        Self::new(name, hash, parse_senders(senders.split_terminator(','))?)
    }
}

/// Reads sender patterns; none at all = any sender.
///
/// # Errors
/// [`UserProblem::Sender`] with the first that is neither `local@domain` nor `@domain`.
pub fn parse_senders<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<Senders, UserProblem> {
    let parse = |text: &'a str| {
        // A comma within one pattern would come back from the file as two.
        let pattern = SenderPattern::parse(text).filter(|_| !text.contains(','));
        pattern.ok_or_else(|| UserProblem::Sender(text.to_owned()))
    };
    let patterns = patterns.map(parse).collect::<Result<Vec<_>, _>>()?;
    Ok(if patterns.is_empty() { Senders::Any } else { Senders::Only(patterns) })
}

fn is_name(name: &str) -> bool {
    (1..=limits::USER_NAME_BYTES_MAX).contains(&name.len())
        && name.trim() == name
        && !name.starts_with('#')
        && !name.chars().any(|c| c == ':' || c.is_control())
}

impl Line {
    fn user(&self) -> Option<&User> {
        match self {
            Self::Note(_) => None,
            Self::User(user) => Some(user),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Note(text) => f.write_str(text),
            Self::User(user) => user.fmt(f),
        }
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.member.name, self.hash.as_str())?;
        let Senders::Only(patterns) = &self.member.senders else {
            return Ok(());
        };
        for (index, pattern) in patterns.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{pattern}")?;
        }
        Ok(())
    }
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl fmt::Display for UserProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fields => f.write_str(
                "not NAME:HASH:SENDERS; write both colons, and nothing after the second to allow any sender",
            ),
            Self::Name => write!(
                f,
                "this cannot be a user name; use 1 to {} bytes without colon, control characters, \
                 white space at either end, or # at the beginning",
                limits::USER_NAME_BYTES_MAX
            ),
            Self::Twice { line } => write!(f, "this user is on line {line} already; remove one of the two"),
            Self::Hash(error) => error.fmt(f),
            Self::Sender(text) => {
                write!(
                    f,
                    "{text:?} is no sender; write local@domain, or @domain for all of a domain, with commas between"
                )
            }
        }
    }
}

impl std::error::Error for UsersError {}
impl std::error::Error for UserProblem {}

#[cfg(test)]
mod tests {
    use super::{HashError, Put, StoredHash, User, UserProblem, Users, UsersError, parse_senders};
    use crate::limits;
    use crate::proto::credential::Senders;

    const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ";
    const OTHER_HASH: &str = "$argon2id$v=19$m=8,t=2,p=1$c29tZXNhbHQ$WGlLPpgY0xJFWvaWMqxNYQ";

    fn user(name: &str, hash: &str, senders: &str) -> User {
        let senders = parse_senders(senders.split_terminator(',')).unwrap();
        User::new(name, StoredHash::parse(hash).unwrap(), senders).unwrap()
    }

    fn problem_of(text: &str) -> UsersError {
        Users::parse(text).expect_err(text)
    }

    #[test]
    fn a_file_is_read_and_written_back_as_it_was() {
        let text = format!(
            "# staff\n\nann:{HASH}:ann@example.org,@Example.net\n  # guests\nbob smith:{HASH}:\nJürgen:{HASH}:a:b@c\n"
        );
        let users = Users::parse(&text).unwrap();
        assert_eq!(users.render(), text);
        assert_eq!(users.len(), 3);
        assert_eq!(users.find("ann"), Some(&user("ann", HASH, "ann@example.org,@Example.net")));
        assert_eq!(users.find("bob smith").unwrap().member.senders, Senders::Any);
        assert!(users.find("Jürgen").unwrap().member.senders.allow("a:b@c"));
        assert_eq!(users.find("Ann"), None);
        assert_eq!(users.find("# staff"), None);
    }

    #[test]
    fn an_empty_file_has_no_users() {
        assert!(Users::parse("").unwrap().is_empty());
        assert_eq!(Users::parse("").unwrap().render(), "");
    }

    #[test]
    fn a_file_with_windows_line_ends_is_read() {
        let users = Users::parse(&format!("# staff\r\nann:{HASH}:\r\n")).unwrap();
        assert_eq!(users.render(), format!("# staff\nann:{HASH}:\n"));
    }

    #[test]
    fn adding_and_removing_keep_comments_and_order() {
        let mut users = Users::parse(&format!("# a\nann:{HASH}:\n\n# b\nbob:{HASH}:")).unwrap();
        assert_eq!(users.put(user("eve", HASH, "")), Put::Added);
        assert_eq!(users.put(user("bob", OTHER_HASH, "@c.d")), Put::Replaced);
        assert!(users.remove("ann"));
        assert_eq!(users.render(), format!("# a\n\n# b\nbob:{OTHER_HASH}:@c.d\neve:{HASH}:\n"));
        assert_eq!(users.find("ann"), None);
        assert_eq!(users.find("eve").unwrap().member.name, "eve");
        assert!(!users.remove("ann"));
    }

    #[test]
    fn what_is_written_is_read_back_the_same() {
        let mut users = Users::default();
        for (name, senders) in [("a", ""), ("ü x", "@example.org"), ("c@d", "c@d,e@f")] {
            users.put(user(name, HASH, senders));
        }
        let again = Users::parse(&users.render()).unwrap();
        assert!(again.iter().eq(users.iter()));
    }

    #[test]
    fn each_error_names_its_line_and_problem() {
        let good = format!("# c\nann:{HASH}:\n");
        for (line, problem) in [
            ("bob".to_owned(), UserProblem::Fields),
            (format!("bob:{HASH}"), UserProblem::Fields),
            ("bob:secret:".to_owned(), UserProblem::Hash(HashError::NotArgon2)),
            (format!("ann:{HASH}:"), UserProblem::Twice { line: 2 }),
            (format!(":{HASH}:"), UserProblem::Name),
            (format!("b\0b:{HASH}:"), UserProblem::Name),
            (format!("b\u{85}b:{HASH}:"), UserProblem::Name),
            (format!(" bob:{HASH}:"), UserProblem::Name),
            (format!("bob\t:{HASH}:"), UserProblem::Name),
            (format!("bob:{HASH}:bob"), UserProblem::Sender("bob".to_owned())),
            (format!("bob:{HASH}:a@b,,c@d"), UserProblem::Sender(String::new())),
            (format!("bob:{HASH}:a@b, c@d"), UserProblem::Sender(" c@d".to_owned())),
        ] {
            let error = problem_of(&format!("{good}{line}\n"));
            assert_eq!(error, UsersError { line: 3, problem }, "{line}");
            assert!(error.to_string().starts_with("line 3: "));
        }
    }

    #[test]
    fn a_name_may_be_as_long_as_the_bound_and_no_longer() {
        let hash = StoredHash::parse(HASH).unwrap();
        let longest = "n".repeat(limits::USER_NAME_BYTES_MAX);
        assert!(User::new(&longest, hash.clone(), Senders::Any).is_ok());
        assert_eq!(User::new(&format!("{longest}n"), hash, Senders::Any), Err(UserProblem::Name));
    }

    #[test]
    fn a_name_that_would_read_as_a_comment_is_refused() {
        let hash = StoredHash::parse(HASH).unwrap();
        assert_eq!(User::new("#ann", hash, Senders::Any), Err(UserProblem::Name));
    }

    #[test]
    fn a_sender_that_would_read_as_two_is_refused() {
        let senders = parse_senders([r#""a,b"@c.d"#].into_iter());
        assert_eq!(senders, Err(UserProblem::Sender(r#""a,b"@c.d"#.to_owned())));
    }
}
