//! Every constant reply, in one place.
//!
//! Replies are whole lines, CRLF included, so that sending one is a copy. All bear an enhanced status code (RFC 2034,
//! RFC 3463) but those that may not: greetings, answers to HELO, EHLO and QHLO, and 3xx. The 520 bears none on purpose: a
//! client takes 5.5.x for "QUICKSTART is gone" (draft §10), and a wrong id does not mean that.

/// A constant reply of one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply(&'static str);

impl Reply {
    /// The bytes to send.
    pub const fn bytes(self) -> &'static [u8] {
        self.0.as_bytes()
    }

    /// The reply as text, without its CRLF.
    pub fn text(self) -> &'static str {
        self.0.trim_end()
    }

    /// The three-digit code.
    pub fn code(self) -> u16 {
        self.0.as_bytes()[..3].iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'))
    }
}

/// The reply of another server, passed on to a client of ours: one line, checked and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign(Box<str>);

impl Foreign {
    /// A refusal with this code, this status of RFC 3463 and this text.
    ///
    /// Codes that mean something else at the end of a message, such as 421 or 530, become 451 or 554, and so does whatever is
    /// no refusal. A status of another class becomes `4.0.0` or `5.0.0`. Everything but printable ASCII becomes `?`, and the
    /// line is cut at 512 bytes (RFC 5321 §4.5.3.1.5).
    pub fn new(code: u16, status: &str, text: &str) -> Self {
        let code = match code {
            450..=452 | 550..=556 => code,
            500..600 => 554,
            _ => 451,
        };
        let class = code / 100;
        let status = if is_status(status, class) { status.to_owned() } else { format!("{class}.0.0") };
        let harmless = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
        let mut line: String = format!("{code} {status} {text}").chars().map(harmless).collect();
        line.truncate(FOREIGN_BYTES_MAX - 2);
        line.truncate(line.trim_end().len());
        line.push_str("\r\n");
        Self(line.into())
    }

    /// The bytes to send.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The reply as text, without its CRLF.
    pub fn text(&self) -> &str {
        self.0.trim_end()
    }

    /// The three-digit code.
    pub fn code(&self) -> u16 {
        self.0[..3].parse().unwrap_or(451)
    }
}

/// `class.subject.detail` of RFC 3463 §2.
fn is_status(status: &str, class: u16) -> bool {
    let is_number = |part: &str| matches!(part.len(), 1..=3) && part.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<&str> = status.split('.').collect();
    parts.len() == 3 && parts.iter().all(|part| is_number(part)) && parts[0] == class.to_string()
}

/// Longest reply line (RFC 5321 §4.5.3.1.5), CRLF included.
const FOREIGN_BYTES_MAX: usize = 512;

macro_rules! replies {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $name: Reply = Reply(concat!($text, "\r\n"));)*

        /// All of them, for tests.
        #[cfg(test)]
        pub(crate) const ALL: &[Reply] = &[$($name),*];
    };
}

replies! {
    // ── Done ──
    /// QUIT (RFC 5321 §4.1.1.10).
    BYE = "221 2.0.0 Closing connection";
    /// NOOP.
    NOTHING_DONE = "250 2.0.0 OK";
    /// RSET.
    RESET = "250 2.0.0 Transaction forgotten";
    /// MAIL.
    SENDER_OK = "250 2.1.0 Sender accepted";
    /// RCPT.
    RECIPIENT_OK = "250 2.1.5 Recipient accepted";
    /// BDAT, not the last chunk (RFC 3030 §2).
    CHUNK_RECEIVED = "250 2.0.0 Chunk received";
    /// AUTH (RFC 4954 §6).
    AUTH_OK = "235 2.7.0 Authentication succeeded";
    /// STARTTLS (RFC 3207 §4).
    TLS_READY = "220 2.0.0 Ready to start TLS";
    /// VRFY: addresses are not disclosed (RFC 5321 §7.3).
    CANNOT_VERIFY = "252 2.5.0 Addresses are not verified here; RCPT is";
    /// HELP.
    HELP = "214 2.0.0 EHLO QHLO STARTTLS QTLS AUTH MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT";

    // ── Go on ──
    /// DATA.
    START_MESSAGE = "354 End the message with a line that holds a single dot";
    /// AUTH PLAIN without an initial response: an empty challenge.
    CONTINUE_EMPTY = "334 ";
    /// AUTH LOGIN: "Username:".
    CONTINUE_USER = "334 VXNlcm5hbWU6";
    /// AUTH LOGIN: "Password:".
    CONTINUE_PASSWORD = "334 UGFzc3dvcmQ6";

    // ── Not now ──
    /// Silence for too long (RFC 5321 §4.5.3.2.7).
    TIMED_OUT = "421 4.4.2 Timed out waiting for the client";
    /// The server is being stopped.
    SHUTTING_DOWN = "421 4.3.2 The server is shutting down; try again later";
    /// The bound on open connections is reached.
    TOO_MANY_CONNECTIONS = "421 4.3.2 Too many connections; try again later";
    /// The server is late with those it serves already.
    TOO_BUSY = "421 4.3.2 Too busy; try again later";
    /// The bound on open connections from one address is reached.
    TOO_MANY_FROM_ADDRESS = "421 4.7.0 Too many connections from your address; try again later";
    /// The bound on refused commands is reached.
    TOO_MANY_ERRORS = "421 4.7.0 Too many errors";
    /// What follows belongs to something refused and is more than is read and dropped.
    UNSKIPPABLE = "421 4.5.2 The rest cannot be skipped";
    /// The bound on commands that do not lead to a message is reached.
    TOO_MANY_COMMANDS = "421 4.7.0 Too many commands without a message";
    /// The bound on failed AUTH commands is reached.
    TOO_MANY_LOGINS = "421 4.7.0 Too many failed authentications";
    /// The bound on messages of one connection is reached (RFC 9422 §4.1).
    TOO_MANY_MESSAGES = "421 4.5.3 Too many messages on this connection; open another";
    /// A part of the server failed; this connection ends and no other.
    INTERNAL_FAULT = "421 4.3.0 Internal error";
    /// The message could not be stored.
    STORE_FAULT = "451 4.3.0 The message could not be stored; try again later";
    /// Too many messages wait to be stored.
    STORE_BUSY = "451 4.3.2 Too many messages are being stored; try again later";
    /// No room on disk, or too many message bytes in transit (RFC 3463 §3.4).
    NO_ROOM = "452 4.3.1 Insufficient storage; try again later";
    /// The bound on recipients of one message is reached (RFC 5321 §4.5.3.1.10).
    TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients";
    /// A credential cannot be judged now (RFC 4954 §6).
    AUTH_UNAVAILABLE = "454 4.7.0 Authentication is put off; try again later";

    // ── Never ──
    /// No such command.
    UNKNOWN_COMMAND = "500 5.5.1 Command not recognised";
    /// A line longer than allowed (RFC 5321 §4.5.3.1.9).
    LINE_TOO_LONG = "500 5.5.2 Line too long";
    /// An AUTH line longer than allowed (RFC 4954 §4).
    AUTH_LINE_TOO_LONG = "500 5.5.6 Authentication exchange line is too long";
    /// A line with LF and no CR; the connection ends.
    BARE_NEWLINE = "500 5.5.2 Lines must end in CRLF";
    /// Control characters in a command.
    BAD_CHARACTERS = "500 5.5.2 Command contains invalid characters";
    /// Arguments where none belong, or none where some do.
    BAD_ARGUMENTS = "501 5.5.4 Syntax error in arguments";
    /// HELO, EHLO, QHLO with a bad domain. No enhanced code: it answers a hello (RFC 2034 §4).
    BAD_HELLO = "501 A domain name or an address literal is needed";
    /// BDAT whose size cannot be read: what follows cannot be told apart, so the connection ends.
    BAD_CHUNK_SIZE = "501 5.5.4 BDAT needs a size in octets";
    /// MAIL with a bad address.
    BAD_SENDER = "501 5.1.7 Syntax error in the sender's address";
    /// RCPT with a bad address.
    BAD_RECIPIENT = "501 5.1.3 Syntax error in the recipient's address";
    /// AUTH with something that is not Base64, or not what the mechanism defines (RFC 4954 §4).
    BAD_ENCODING = "501 5.5.2 The response cannot be decoded";
    /// AUTH ended by the client with `*` (RFC 4954 §4).
    AUTH_CANCELLED = "501 5.7.0 Authentication cancelled";
    /// EXPN, TURN, ETRN and their like.
    NOT_IMPLEMENTED = "502 5.5.1 Command not implemented";
    /// A command that is out of order.
    BAD_SEQUENCE = "503 5.5.1 Bad sequence of commands";
    /// A command that needs a hello first.
    HELLO_FIRST = "503 5.5.1 Send EHLO or QHLO first";
    /// RCPT, DATA, BDAT without MAIL.
    MAIL_FIRST = "503 5.5.1 Send MAIL first";
    /// DATA after BDAT, or DATA for BODY=BINARYMIME (RFC 3030 §2, §3).
    CHUNKS_ONLY = "503 5.5.1 Send this message with BDAT";
    /// STARTTLS, QTLS inside TLS (RFC 3207 §4.2).
    ALREADY_SECURE = "503 5.5.1 TLS is already active";
    /// AUTH after AUTH (RFC 4954 §4).
    ALREADY_AUTHENTICATED = "503 5.5.1 Already authenticated";
    /// A mechanism that is not offered (RFC 4954 §4).
    UNKNOWN_MECHANISM = "504 5.5.4 Authentication mechanism not offered";
    /// QHLO with an id that is not ours, where the list has been given already (draft §8).
    WRONG_QHLO_ID = "520 Please use the correct QHLO ID";
    /// MAIL and all that follows before TLS (RFC 3207 §4).
    TLS_FIRST = "530 5.7.0 Must issue a STARTTLS command first";
    /// MAIL and all that follows before AUTH (RFC 4954 §6).
    AUTH_FIRST = "530 5.7.0 Authentication required";
    /// What follows a failed AUTH (draft §7).
    AUTH_HAS_FAILED = "530 5.7.0 Authentication failure";
    /// AUTH with a bad credential (RFC 4954 §6).
    AUTH_DENIED = "535 5.7.8 Authentication credentials invalid";
    /// AUTH before TLS (RFC 4954 §6).
    ENCRYPTION_REQUIRED = "538 5.7.11 Encryption required for requested authentication mechanism";
    /// A message with a CR or LF that stands alone (RFC 5321 §2.3.8).
    BARE_NEWLINE_IN_MESSAGE = "550 5.6.0 The message contains a bare CR or LF";
    /// A sender with characters that need SMTPUTF8 (RFC 6531 §3.5).
    UTF8_SENDER = "550 5.6.7 An address with non-ASCII characters needs SMTPUTF8";
    /// A sender that this user may not use (RFC 6409 §6.1).
    SENDER_NOT_ALLOWED = "550 5.7.1 This sender address is not yours to use";
    /// A message larger than allowed (RFC 1870 §6).
    MESSAGE_TOO_LARGE = "552 5.3.4 The message is larger than this server accepts";
    /// A recipient with characters that need SMTPUTF8 (RFC 6531 §3.5).
    UTF8_RECIPIENT = "553 5.6.7 An address with non-ASCII characters needs SMTPUTF8";
    /// DATA or BDAT when no recipient was accepted (RFC 2920 §3.1).
    NO_RECIPIENTS = "554 5.5.1 No valid recipients";
    /// A message that has passed too many servers (RFC 5321 §6.3).
    LOOP_DETECTED = "554 5.4.6 Too many hops; the message is in a loop";
    /// A client that spoke before the greeting where that marks an abuser (draft §12).
    EARLY_TALKER = "554 5.5.1 Wait for the greeting before sending commands";
    /// Something that is not SMTP: an HTTP request, or TLS on a port that starts in the clear.
    NOT_SMTP = "554 5.5.1 This is an SMTP server that starts in clear text";
    /// A MAIL or RCPT parameter that is not offered (RFC 5321 §4.1.1.11).
    UNKNOWN_PARAMETER = "555 5.5.4 Parameter not recognised";
}

#[cfg(test)]
mod tests {
    use super::{ALL, Foreign};

    #[test]
    fn the_reply_of_another_server_is_passed_on_as_one_harmless_line() {
        let long = "x".repeat(1_000);
        for (code, status, text, expected) in [
            (550, "5.1.1", "<c@d>: no such user", "550 5.1.1 <c@d>: no such user"),
            (452, "4.2.2", "full", "452 4.2.2 full"),
            (550, "4.2.2", "", "550 5.0.0"),
            (550, "5.1.x", "a", "550 5.0.0 a"),
            (550, "5.1", "a", "550 5.0.0 a"),
            (421, "4.3.2", "stopping", "451 4.3.2 stopping"),
            (530, "5.7.0", "log in", "554 5.7.0 log in"),
            (250, "2.0.0", "fine", "451 4.0.0 fine"),
            (999, "", "", "451 4.0.0"),
            (554, "5.0.0", "two\r\n250 lines\tand \u{fc}", "554 5.0.0 two??250 lines?and ?"),
            (554, "5.0.0", &long, &format!("554 5.0.0 {}", &long[..500])),
        ] {
            let reply = Foreign::new(code, status, text);
            assert_eq!((reply.text(), reply.code().to_string().as_str()), (expected, &expected[..3]));
            assert!(reply.bytes().len() <= 512 && reply.bytes().ends_with(b"\r\n"), "{reply:?}");
        }
    }

    #[test]
    fn every_reply_that_may_bears_an_enhanced_code_of_its_class() {
        for reply in ALL {
            let text = reply.text();
            let code = reply.code();
            let may = code / 100 != 3 && code != 520 && text != super::BAD_HELLO.text();
            let enhanced = text.split(' ').nth(1).unwrap_or_default();
            let has = enhanced.split('.').count() == 3 && enhanced.starts_with(&text[..1]);
            assert_eq!(has, may, "{text}");
        }
    }

    #[test]
    fn no_constant_reply_is_a_521() {
        assert!(ALL.iter().all(|reply| reply.code() != 521), "only the list after a wrong id is (draft §8)");
    }

    #[test]
    fn every_reply_is_one_line_within_the_bound_of_rfc_5321() {
        for reply in ALL {
            let bytes = reply.bytes();
            assert!(bytes.len() <= 512 && bytes.ends_with(b"\r\n"), "{reply:?}");
            assert!(bytes[..bytes.len() - 2].iter().all(|byte| (b' '..=b'~').contains(byte)), "{reply:?}");
        }
    }
}
