//! Commands out of lines.
//!
//! A command borrows its arguments from the line; nothing is copied. Parsing says what was written, never whether it
//! is allowed: that is the gate's business.

use super::address::{self, Path};
use super::line::is_blank;
use crate::limits::{ENVID_BYTES_MAX, MAIL_AUTH_BYTES_MAX, ONCE_TOKEN_BYTES_MAX, ORCPT_BYTES_MAX};

/// What kind of command a line is, known even when its arguments are not in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the commands' own names
pub enum Verb {
    Helo,
    Ehlo,
    Qhlo,
    StartTls,
    Qtls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Bdat,
    Rset,
    Noop,
    Quit,
    Help,
    Vrfy,
    /// A command of some RFC that this server does not implement: 502.
    NotImplemented,
    /// The beginning of an HTTP request or the like: a browser was talked into this.
    Foreign,
    /// Anything else: 500.
    Unknown,
}

impl Verb {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 18] = [
        Self::Helo,
        Self::Ehlo,
        Self::Qhlo,
        Self::StartTls,
        Self::Qtls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Bdat,
        Self::Rset,
        Self::Noop,
        Self::Quit,
        Self::Help,
        Self::Vrfy,
        Self::NotImplemented,
        Self::Foreign,
        Self::Unknown,
    ];
}

/// A command with its arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `HELO domain` (RFC 5321 §4.1.1.1).
    Helo(&'a str),
    /// `EHLO domain`.
    Ehlo(&'a str),
    /// `QHLO domain [qhlo-id]` (draft §5, §8).
    Qhlo {
        /// The client's name.
        domain: &'a str,
        /// Present in the full form.
        id: Option<&'a [u8]>,
    },
    /// `STARTTLS` (RFC 3207).
    StartTls,
    /// `QTLS` (draft §6).
    Qtls,
    /// `AUTH mechanism [initial-response]` (RFC 4954 §4).
    Auth {
        /// As the client wrote it.
        mechanism: &'a [u8],
        /// Base64, or `=` for an empty one.
        initial: Option<&'a [u8]>,
    },
    /// `MAIL FROM:<…> …`.
    Mail(Mail<'a>),
    /// `RCPT TO:<…> …`.
    Rcpt(Rcpt<'a>),
    /// `DATA`.
    Data,
    /// `BDAT size [LAST]` (RFC 3030 §2).
    Bdat {
        /// Octets that follow the line.
        size: u64,
        /// Is this the message's last chunk?
        last: bool,
    },
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `HELP`.
    Help,
    /// `VRFY`.
    Vrfy,
    /// Known, but not implemented.
    NotImplemented,
    /// Another protocol.
    Foreign,
}

/// MAIL with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mail<'a> {
    /// The reverse-path.
    pub path: Path<'a>,
    /// `SIZE=` in octets (RFC 1870 §6).
    pub size: Option<u64>,
    /// `BODY=`.
    pub body: Body,
    /// `SMTPUTF8` (RFC 6531 §3.4).
    pub smtputf8: bool,
    /// `RET=` (RFC 3461 §4.3).
    pub ret: Option<Ret>,
    /// `ENVID=` as xtext (RFC 3461 §4.4).
    pub envid: Option<&'a str>,
    /// `XONCE=`: the client's own name for the message, under which its user's messages are taken once.
    pub once: Option<&'a str>,
    /// `REQUIRETLS` (RFC 8689 §2): the message may travel over verified TLS only.
    pub requires_tls: bool,
    /// Was any parameter given? A conversation opened with HELO may have none.
    pub extended: bool,
}

/// What a message declares itself to be (`BODY=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// `7BIT`, or nothing declared.
    #[default]
    SevenBit,
    /// `8BITMIME` (RFC 6152).
    EightBitMime,
    /// `BINARYMIME` (RFC 3030 §3): lines mean nothing, only BDAT can carry it.
    BinaryMime,
}

impl Body {
    /// The keyword.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SevenBit => "7BIT",
            Self::EightBitMime => "8BITMIME",
            Self::BinaryMime => "BINARYMIME",
        }
    }
}

/// How much of the message a delivery status notification returns (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ret {
    /// All of it.
    Full,
    /// Its headers.
    Headers,
}

/// RCPT with its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rcpt<'a> {
    /// The forward-path.
    pub path: Path<'a>,
    /// `NOTIFY=` (RFC 3461 §4.1).
    pub notify: Option<Notify>,
    /// `ORCPT=` as `type;xtext` (RFC 3461 §4.2).
    pub orcpt: Option<&'a str>,
    /// Was any parameter given?
    pub extended: bool,
}

/// When a sender wants to be notified (RFC 3461 §4.1). None of the three is `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify(u8);

impl Notify {
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self(0);
    /// `SUCCESS`.
    pub const SUCCESS: Self = Self(1);
    /// `FAILURE`.
    pub const FAILURE: Self = Self(2);
    /// `DELAY`.
    pub const DELAY: Self = Self(4);

    /// Is every wish of `other` among these?
    pub const fn wants(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The wishes of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// Its word is no command.
    Verb,
    /// Arguments where none belong, or none where some do.
    Arguments,
    /// No domain in a hello.
    Hello,
    /// The path is not one.
    Path,
    /// A parameter that this server does not offer.
    Parameter,
    /// BDAT whose size cannot be read.
    ChunkSize,
}

/// A line, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed<'a> {
    /// What kind of command it is.
    pub verb: Verb,
    /// The command, or why it is not one.
    pub command: Result<Command<'a>, Syntax>,
}

/// Reads one line, without its CRLF.
pub fn parse(line: &[u8]) -> Parsed<'_> {
    let (word, arguments) = match line.iter().position(|byte| *byte == b' ') {
        Some(space) => (&line[..space], Some(&line[space + 1..])),
        None => (line, None),
    };
    let verb = verb_of(word);
    Parsed { verb, command: command_of(verb, arguments) }
}

/// The command that a line was meant to be which cannot be read as one, because of a control character, of spaces before it or
/// for its length: its first word of visible characters. `beginning` may be as little of the line as is known of it.
pub fn meant_verb(beginning: &[u8]) -> Verb {
    let word = beginning.split(|byte| is_blank(*byte)).find(|word| !word.is_empty());
    word.map_or(Verb::Unknown, |word| parse(word).verb)
}

fn verb_of(word: &[u8]) -> Verb {
    const LONGEST: usize = 8;
    let mut upper = [0; LONGEST];
    let Some(upper) = upper.get_mut(..word.len()) else {
        return Verb::Unknown;
    };
    upper.copy_from_slice(word);
    upper.make_ascii_uppercase();
    match &*upper {
        b"MAIL" => Verb::Mail,
        b"RCPT" => Verb::Rcpt,
        b"DATA" => Verb::Data,
        b"BDAT" => Verb::Bdat,
        b"QHLO" => Verb::Qhlo,
        b"EHLO" => Verb::Ehlo,
        b"HELO" => Verb::Helo,
        b"AUTH" => Verb::Auth,
        b"STARTTLS" => Verb::StartTls,
        b"QTLS" => Verb::Qtls,
        b"QUIT" => Verb::Quit,
        b"RSET" => Verb::Rset,
        b"NOOP" => Verb::Noop,
        b"HELP" => Verb::Help,
        b"VRFY" => Verb::Vrfy,
        b"EXPN" | b"ETRN" | b"TURN" | b"ATRN" | b"SEND" | b"SOML" | b"SAML" | b"BURL" | b"LHLO" => Verb::NotImplemented,
        b"GET" | b"POST" | b"PUT" | b"HEAD" | b"OPTIONS" | b"CONNECT" | b"DELETE" | b"PRI" => Verb::Foreign,
        _ => Verb::Unknown,
    }
}

fn command_of(verb: Verb, arguments: Option<&[u8]>) -> Result<Command<'_>, Syntax> {
    match verb {
        Verb::Helo => hello_domain(arguments).map(Command::Helo),
        Verb::Ehlo => hello_domain(arguments).map(Command::Ehlo),
        Verb::Qhlo => quick_hello(arguments),
        Verb::StartTls => bare(arguments, Command::StartTls),
        Verb::Qtls => bare(arguments, Command::Qtls),
        Verb::Auth => auth(arguments),
        Verb::Mail => mail(arguments).map(Command::Mail),
        Verb::Rcpt => rcpt(arguments).map(Command::Rcpt),
        Verb::Data => bare(arguments, Command::Data),
        Verb::Bdat => chunk(arguments),
        Verb::Rset => bare(arguments, Command::Rset),
        Verb::Noop => Ok(Command::Noop),
        Verb::Quit => bare(arguments, Command::Quit),
        Verb::Help => Ok(Command::Help),
        Verb::Vrfy => arguments.map(|_| Command::Vrfy).ok_or(Syntax::Arguments),
        Verb::NotImplemented => Ok(Command::NotImplemented),
        Verb::Foreign => Ok(Command::Foreign),
        Verb::Unknown => Err(Syntax::Verb),
    }
}

/// A command without arguments; trailing spaces are let pass (RFC 5321 §4.1.1).
fn bare<'a>(arguments: Option<&[u8]>, command: Command<'a>) -> Result<Command<'a>, Syntax> {
    if words(arguments.unwrap_or_default()).next().is_some() { Err(Syntax::Arguments) } else { Ok(command) }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b' ').filter(|word| !word.is_empty())
}

fn hello_domain(arguments: Option<&[u8]>) -> Result<&str, Syntax> {
    let mut words = words(arguments.unwrap_or_default());
    let domain = words.next().and_then(as_domain).ok_or(Syntax::Hello)?;
    if words.next().is_some() { Err(Syntax::Hello) } else { Ok(domain) }
}

fn quick_hello(arguments: Option<&[u8]>) -> Result<Command<'_>, Syntax> {
    let mut words = words(arguments.unwrap_or_default());
    let domain = words.next().and_then(as_domain).ok_or(Syntax::Hello)?;
    let id = words.next();
    if words.next().is_some() || id.is_some_and(|id| !id.iter().copied().all(is_value_byte)) {
        return Err(Syntax::Hello);
    }
    Ok(Command::Qhlo { domain, id })
}

fn as_domain(word: &[u8]) -> Option<&str> {
    if address::is_domain(word) { std::str::from_utf8(word).ok() } else { None }
}

fn auth(arguments: Option<&[u8]>) -> Result<Command<'_>, Syntax> {
    let mut words = words(arguments.unwrap_or_default());
    let mechanism = words.next().ok_or(Syntax::Arguments)?;
    let initial = words.next();
    if words.next().is_some() { Err(Syntax::Arguments) } else { Ok(Command::Auth { mechanism, initial }) }
}

fn chunk(arguments: Option<&[u8]>) -> Result<Command<'_>, Syntax> {
    let mut words = words(arguments.unwrap_or_default());
    let size = words.next().and_then(number).ok_or(Syntax::ChunkSize)?;
    let last = match words.next() {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"LAST") => true,
        Some(_) => return Err(Syntax::ChunkSize),
    };
    if words.next().is_some() { Err(Syntax::ChunkSize) } else { Ok(Command::Bdat { size, last }) }
}

/// Up to 20 digits (RFC 1870 §5, RFC 3030 §2).
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    digits.iter().try_fold(0_u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

/// A size that is only compared: what 20 digits can say and 64 bits cannot is as large as any (RFC 1870 §5).
fn declared_size(digits: &[u8]) -> Option<u64> {
    let is_size = (1..=20).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    is_size.then(|| number(digits).unwrap_or(u64::MAX))
}

/// The path that follows `FROM:` or `TO:`. Spaces before it are let pass: some clients write them.
fn path_after<'a>(keyword: &[u8], arguments: Option<&'a [u8]>) -> Result<(Path<'a>, &'a [u8]), Syntax> {
    let arguments = arguments.ok_or(Syntax::Arguments)?;
    let (word, rest) = arguments.split_at_checked(keyword.len()).ok_or(Syntax::Arguments)?;
    if !word.eq_ignore_ascii_case(keyword) {
        return Err(Syntax::Arguments);
    }
    let (path, rest) = address::parse_path(rest.trim_ascii_start()).map_err(|_| Syntax::Path)?;
    if rest.is_empty() || rest.starts_with(b" ") { Ok((path, rest)) } else { Err(Syntax::Path) }
}

fn mail(arguments: Option<&[u8]>) -> Result<Mail<'_>, Syntax> {
    let (path, rest) = path_after(b"FROM:", arguments)?;
    if path.address.eq_ignore_ascii_case("postmaster") {
        return Err(Syntax::Path);
    }
    let mut mail = Mail {
        path,
        size: None,
        body: Body::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        once: None,
        requires_tls: false,
        extended: false,
    };
    let mut seen = Seen::default();
    for parameter in words(rest) {
        let (keyword, value) = keyword_and_value(parameter);
        seen.note(keyword)?;
        mail_parameter(&mut mail, keyword, value)?;
        mail.extended = true;
    }
    Ok(mail)
}

fn mail_parameter<'a>(mail: &mut Mail<'a>, keyword: Keyword, value: Option<&'a [u8]>) -> Result<(), Syntax> {
    match (keyword, value) {
        (Keyword::Size, Some(value)) => mail.size = Some(declared_size(value).ok_or(Syntax::Arguments)?),
        (Keyword::Body, Some(value)) => mail.body = body(value)?,
        (Keyword::SmtpUtf8, None) => mail.smtputf8 = true,
        (Keyword::Ret, Some(value)) => mail.ret = Some(ret(value)?),
        (Keyword::Envid, Some(value)) => mail.envid = Some(xtext(value, ENVID_BYTES_MAX)?),
        (Keyword::Once, Some(value)) => mail.once = Some(xtext(value, ONCE_TOKEN_BYTES_MAX)?),
        (Keyword::RequireTls, None) => mail.requires_tls = true,
        // The client vouches for somebody else (RFC 4954 §5). Nobody is trusted to, so it is read and forgotten.
        (Keyword::Auth, Some(value)) => {
            xtext(value, MAIL_AUTH_BYTES_MAX)?;
        }
        (Keyword::Other | Keyword::Notify | Keyword::Orcpt, _) => return Err(Syntax::Parameter),
        _ => return Err(Syntax::Arguments),
    }
    Ok(())
}

fn rcpt(arguments: Option<&[u8]>) -> Result<Rcpt<'_>, Syntax> {
    let (path, rest) = path_after(b"TO:", arguments)?;
    if path.address.is_empty() {
        return Err(Syntax::Path);
    }
    let mut rcpt = Rcpt { path, notify: None, orcpt: None, extended: false };
    let mut seen = Seen::default();
    for parameter in words(rest) {
        let (keyword, value) = keyword_and_value(parameter);
        seen.note(keyword)?;
        match (keyword, value) {
            (Keyword::Notify, Some(value)) => rcpt.notify = Some(notify(value)?),
            (Keyword::Orcpt, Some(value)) => rcpt.orcpt = Some(original_recipient(value)?),
            (Keyword::Notify | Keyword::Orcpt, None) => return Err(Syntax::Arguments),
            _ => return Err(Syntax::Parameter),
        }
        rcpt.extended = true;
    }
    Ok(rcpt)
}

/// The parameters that MAIL and RCPT know.
#[derive(Clone, Copy)]
enum Keyword {
    Size,
    Body,
    SmtpUtf8,
    Ret,
    Envid,
    Once,
    RequireTls,
    Auth,
    Notify,
    Orcpt,
    Other,
}

impl Keyword {
    fn of(word: &[u8]) -> Self {
        const LONGEST: usize = 10;
        let mut upper = [0; LONGEST];
        let Some(upper) = upper.get_mut(..word.len()) else {
            return Self::Other;
        };
        upper.copy_from_slice(word);
        upper.make_ascii_uppercase();
        match &*upper {
            b"SIZE" => Self::Size,
            b"BODY" => Self::Body,
            b"SMTPUTF8" => Self::SmtpUtf8,
            b"RET" => Self::Ret,
            b"ENVID" => Self::Envid,
            b"XONCE" => Self::Once,
            b"REQUIRETLS" => Self::RequireTls,
            b"AUTH" => Self::Auth,
            b"NOTIFY" => Self::Notify,
            b"ORCPT" => Self::Orcpt,
            _ => Self::Other,
        }
    }
}

/// The parameters that one command has had so far.
#[derive(Default)]
struct Seen(u16);

impl Seen {
    /// None may come twice (RFC 3461 §4.5): nobody could say which of the two is meant.
    fn note(&mut self, keyword: Keyword) -> Result<(), Syntax> {
        let bit = 1 << keyword as u16;
        let is_new = self.0 & bit == 0;
        self.0 |= bit;
        if is_new { Ok(()) } else { Err(Syntax::Arguments) }
    }
}

fn keyword_and_value(parameter: &[u8]) -> (Keyword, Option<&[u8]>) {
    let (word, value) = match parameter.iter().position(|byte| *byte == b'=') {
        Some(equals) => (&parameter[..equals], Some(&parameter[equals + 1..])),
        None => (parameter, None),
    };
    (Keyword::of(word), value)
}

fn body(value: &[u8]) -> Result<Body, Syntax> {
    match value {
        _ if value.eq_ignore_ascii_case(b"7BIT") => Ok(Body::SevenBit),
        _ if value.eq_ignore_ascii_case(b"8BITMIME") => Ok(Body::EightBitMime),
        _ if value.eq_ignore_ascii_case(b"BINARYMIME") => Ok(Body::BinaryMime),
        _ => Err(Syntax::Arguments),
    }
}

fn ret(value: &[u8]) -> Result<Ret, Syntax> {
    match value {
        _ if value.eq_ignore_ascii_case(b"FULL") => Ok(Ret::Full),
        _ if value.eq_ignore_ascii_case(b"HDRS") => Ok(Ret::Headers),
        _ => Err(Syntax::Arguments),
    }
}

fn notify(value: &[u8]) -> Result<Notify, Syntax> {
    if value.eq_ignore_ascii_case(b"NEVER") {
        return Ok(Notify::NEVER);
    }
    value.split(|byte| *byte == b',').try_fold(Notify::NEVER, |wishes, word| match word {
        _ if word.eq_ignore_ascii_case(b"SUCCESS") => Ok(wishes.with(Notify::SUCCESS)),
        _ if word.eq_ignore_ascii_case(b"FAILURE") => Ok(wishes.with(Notify::FAILURE)),
        _ if word.eq_ignore_ascii_case(b"DELAY") => Ok(wishes.with(Notify::DELAY)),
        _ => Err(Syntax::Arguments),
    })
}

fn original_recipient(value: &[u8]) -> Result<&str, Syntax> {
    let semicolon = value.iter().position(|byte| *byte == b';').ok_or(Syntax::Arguments)?;
    let kind_ok = semicolon > 0 && value[..semicolon].iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
    if kind_ok && semicolon + 1 < value.len() { xtext(value, ORCPT_BYTES_MAX) } else { Err(Syntax::Arguments) }
}

/// Text in the encoding of RFC 3461 §4 (`+` and two upper-case hexadecimal digits for what is not printable), or the
/// `utf-8-addr-xtext` of RFC 6533 §3, which adds braces and backslashes. It is kept encoded.
fn xtext(value: &[u8], bytes_max: usize) -> Result<&str, Syntax> {
    if value.is_empty() || value.len() > bytes_max {
        return Err(Syntax::Arguments);
    }
    let is_hex = |at: usize| value.get(at).is_some_and(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    let well_formed = value.iter().enumerate().all(|(at, byte)| match byte {
        b'+' => is_hex(at + 1) && is_hex(at + 2),
        b'=' => false,
        byte => (b'!'..=b'~').contains(byte),
    });
    if well_formed { std::str::from_utf8(value).map_err(|_| Syntax::Arguments) } else { Err(Syntax::Arguments) }
}

/// `esmtp-value` of RFC 5321 §4.1.2.
fn is_value_byte(byte: u8) -> bool {
    matches!(byte, 33..=60 | 62..=126)
}

#[cfg(test)]
mod tests {
    use super::{Body, Command, Mail, Notify, Ret, Syntax, Verb, meant_verb, parse};

    fn command(line: &str) -> Result<Command<'_>, Syntax> {
        parse(line.as_bytes()).command
    }

    fn mail_of(line: &str) -> Mail<'_> {
        match command(line) {
            Ok(Command::Mail(mail)) => mail,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn verbs_are_known_in_any_case() {
        for line in ["ehlo a", "EHLO a", "eHlO a"] {
            assert_eq!(command(line), Ok(Command::Ehlo("a")));
        }
        assert_eq!(parse(b"XYZZY").verb, Verb::Unknown);
        assert_eq!(parse(b"").verb, Verb::Unknown);
        assert_eq!(parse(b"STARTTLSX").verb, Verb::Unknown);
        assert_eq!(parse(b"GET / HTTP/1.1").verb, Verb::Foreign);
        assert_eq!(parse(b"ETRN x").verb, Verb::NotImplemented);
    }

    #[test]
    fn a_line_that_cannot_be_read_was_meant_to_be_what_its_word_says() {
        for end in ["", " ", "\t", "\0", "\r", "\n", "\x7f", " 5\0", "\t5 LAST"] {
            assert_eq!(meant_verb(format!("BDAT{end}").as_bytes()), Verb::Bdat, "{end:?}");
            assert_eq!(meant_verb(format!("StartTLS{end}").as_bytes()), Verb::StartTls, "{end:?}");
        }
        for before in [" ", "\t", "\0\r \x7f"] {
            assert_eq!(meant_verb(format!("{before}BDAT 5").as_bytes()), Verb::Bdat, "{before:?}");
        }
        for other in ["", " \t", "BD\0AT", "X BDAT 5", "BDATX\0", "STARTTLSX\0"] {
            assert_eq!(meant_verb(other.as_bytes()), Verb::Unknown, "{other:?}");
        }
    }

    #[test]
    fn qhlo_has_a_basic_and_a_full_form() {
        assert_eq!(command("QHLO a.example"), Ok(Command::Qhlo { domain: "a.example", id: None }));
        assert_eq!(command("QHLO a.example x-Y_9"), Ok(Command::Qhlo { domain: "a.example", id: Some(b"x-Y_9") }));
        for bad in ["QHLO", "QHLO a b c", "QHLO a b=c", "QHLO <a>"] {
            assert_eq!(command(bad), Err(Syntax::Hello), "{bad}");
        }
    }

    #[test]
    fn mail_takes_every_parameter_that_is_offered() {
        let mail = mail_of("MAIL FROM:<a@b.example> SIZE=1000 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=QQ+3D1 AUTH=<>");
        assert_eq!((mail.path.address, mail.size, mail.body), ("a@b.example", Some(1000), Body::EightBitMime));
        assert_eq!((mail.smtputf8, mail.ret, mail.envid), (true, Some(Ret::Headers), Some("QQ+3D1")));
        assert!(mail.extended);
        assert_eq!(mail_of("MAIL FROM:<> SIZE=99999999999999999999").size, Some(u64::MAX));
        assert_eq!(mail_of("MAIL FROM:<> SIZE=00000000000000000001").size, Some(1));
        assert!(!mail_of("mail from:<>").extended);
        assert_eq!(mail_of("MAIL FROM: <a@b.example>").path.address, "a@b.example");
    }

    #[test]
    fn mail_refuses_what_it_does_not_know() {
        for (line, expected) in [
            ("MAIL", Syntax::Arguments),
            ("MAIL FROM", Syntax::Arguments),
            ("MAIL TO:<a@b>", Syntax::Arguments),
            ("MAIL FROM:a@b", Syntax::Path),
            ("MAIL FROM:<a@b>x", Syntax::Path),
            ("MAIL FROM:<postmaster>", Syntax::Path),
            ("MAIL FROM:<a@b> SIZE", Syntax::Arguments),
            ("MAIL FROM:<a@b> SIZE=x", Syntax::Arguments),
            ("MAIL FROM:<a@b> SIZE=", Syntax::Arguments),
            ("MAIL FROM:<a@b> SIZE=999999999999999999999", Syntax::Arguments),
            ("MAIL FROM:<a@b> BODY=9BIT", Syntax::Arguments),
            ("MAIL FROM:<a@b> SMTPUTF8=1", Syntax::Arguments),
            ("MAIL FROM:<a@b> ENVID=a+zz", Syntax::Arguments),
            ("MAIL FROM:<a@b> AUTH", Syntax::Arguments),
            ("MAIL FROM:<a@b> AUTH=a=b", Syntax::Arguments),
            ("MAIL FROM:<a@b> AUTH=a+3dc@d", Syntax::Arguments),
            ("MAIL FROM:<a@b> NOTIFY=NEVER", Syntax::Parameter),
            ("MAIL FROM:<a@b> XFOO=1", Syntax::Parameter),
        ] {
            assert_eq!(command(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn no_parameter_may_come_twice() {
        for twice in ["SIZE=1 SIZE=1", "RET=FULL RET=HDRS", "ENVID=a SIZE=1 envid=a", "SMTPUTF8 SMTPUTF8"] {
            assert_eq!(command(&format!("MAIL FROM:<a@b> {twice}")), Err(Syntax::Arguments), "{twice}");
        }
        for twice in ["NOTIFY=NEVER NOTIFY=DELAY", "ORCPT=rfc822;a@b ORCPT=rfc822;a@b"] {
            assert_eq!(command(&format!("RCPT TO:<a@b> {twice}")), Err(Syntax::Arguments), "{twice}");
        }
    }

    #[test]
    fn rcpt_takes_the_parameters_of_dsn() {
        let Ok(Command::Rcpt(rcpt)) = command("RCPT TO:<a@b> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;a@b") else {
            panic!("not read");
        };
        let notify = rcpt.notify.unwrap();
        assert!(notify.wants(Notify::SUCCESS) && notify.wants(Notify::DELAY) && !notify.wants(Notify::FAILURE));
        assert_eq!(rcpt.orcpt, Some("rfc822;a@b"));
        for (line, expected) in [
            ("RCPT TO:<>", Syntax::Path),
            ("RCPT TO:<a@b> NOTIFY=NEVER,DELAY", Syntax::Arguments),
            ("RCPT TO:<a@b> NOTIFY", Syntax::Arguments),
            ("RCPT TO:<a@b> ORCPT=a@b", Syntax::Arguments),
            ("RCPT TO:<a@b> ORCPT=rfc822;", Syntax::Arguments),
            ("RCPT TO:<a@b> SIZE=1", Syntax::Parameter),
        ] {
            assert_eq!(command(line), Err(expected), "{line}");
        }
    }

    #[test]
    fn bdat_needs_a_size_that_can_be_trusted() {
        assert_eq!(command("BDAT 0 LAST"), Ok(Command::Bdat { size: 0, last: true }));
        assert_eq!(command("bdat 18446744073709551615"), Ok(Command::Bdat { size: u64::MAX, last: false }));
        for bad in
            ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 FIRST", "BDAT 1 LAST x", "BDAT 18446744073709551616", "BDAT +1"]
        {
            assert_eq!(command(bad), Err(Syntax::ChunkSize), "{bad}");
        }
    }

    #[test]
    fn commands_without_arguments_refuse_some_and_forgive_spaces() {
        assert_eq!(command("DATA "), Ok(Command::Data));
        assert_eq!(command("NOOP whatever"), Ok(Command::Noop));
        for bad in ["DATA x", "STARTTLS x", "QTLS x", "RSET x", "QUIT x", "VRFY"] {
            assert_eq!(command(bad), Err(Syntax::Arguments), "{bad}");
        }
    }
}
