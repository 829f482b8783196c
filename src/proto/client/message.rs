//! What a client sends: messages, their envelopes, and what became of each recipient.
//!
//! Values that exist are fit to be sent: nothing here can break out of its command line.

use std::fmt;
use std::sync::Arc;

use super::capabilities::Capabilities;
use super::fallback::Failure;
use crate::limits::{ENVID_BYTES_MAX, ORCPT_BYTES_MAX, PATH_BYTES_MAX};
use crate::proto::reply_reader::Reply;

/// A mailbox as it stands between the angle brackets of MAIL and RCPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

/// Why a value cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidValue {
    /// It is empty where something is needed.
    Empty,
    /// It is longer than the protocol allows.
    TooLong,
    /// It has a character that the protocol does not allow there.
    Character,
    /// A message has a line feed or a carriage return alone.
    BareLineEnd,
}

impl fmt::Display for InvalidValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "is empty",
            Self::TooLong => "is too long",
            Self::Character => "has a character that is not allowed there",
            Self::BareLineEnd => "has a line feed or a carriage return alone",
        })
    }
}

impl std::error::Error for InvalidValue {}

impl Address {
    /// The null reverse-path `<>` (RFC 5321 §4.5.5).
    pub const fn null() -> Self {
        Self(String::new())
    }

    /// Takes an address that cannot break out of its brackets. Whether it exists is for the server to say.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if text.len() + 2 > PATH_BYTES_MAX {
            return Err(InvalidValue::TooLong);
        }
        let mut quoted = false;
        let mut escaped = false;
        for character in text.chars() {
            let closes = matches!(character, ' ' | '<' | '>' | ',' | ';') && !quoted;
            if character.is_control() || closes {
                return Err(InvalidValue::Character);
            }
            quoted ^= character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
        }
        if quoted { Err(InvalidValue::Character) } else { Ok(Self(text.to_owned())) }
    }

    /// The address without brackets; empty for the null reverse-path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The part after the last `@`, in small letters; empty if there is none.
    pub fn domain(&self) -> String {
        self.0.rsplit_once('@').map(|(_, domain)| domain.to_ascii_lowercase()).unwrap_or_default()
    }
}

/// The bytes of a message: lines that end in CRLF, and neither CR nor LF alone.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    bytes: Arc<[u8]>,
    eight_bit: bool,
}

impl Content {
    /// Takes a message that keeps to CRLF already.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidValue> {
        if has_bare_line_end(&bytes) {
            return Err(InvalidValue::BareLineEnd);
        }
        Ok(Self { eight_bit: !bytes.is_ascii(), bytes: bytes.into() })
    }

    /// Takes a message with any line ends and makes each of them CRLF, the last line's too.
    pub fn normalised(bytes: &[u8]) -> Self {
        let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 32 + 2);
        let mut previous = b'\n';
        for &byte in bytes {
            if previous == b'\r' && byte != b'\n' {
                out.push(b'\n');
            }
            if byte == b'\n' && previous != b'\r' {
                out.push(b'\r');
            }
            out.push(byte);
            previous = byte;
        }
        match previous {
            b'\n' => {}
            b'\r' => out.push(b'\n'),
            _ => out.extend_from_slice(b"\r\n"),
        }
        Self { eight_bit: !out.is_ascii(), bytes: out.into() }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.bytes.len())
    }
}

fn has_bare_line_end(bytes: &[u8]) -> bool {
    memchr::memchr2_iter(b'\r', b'\n', bytes).any(|at| match bytes[at] {
        b'\r' => bytes.get(at + 1) != Some(&b'\n'),
        _ => at == 0 || bytes[at - 1] != b'\r',
    })
}

/// What a delivery status notification returns of the message (RFC 3461 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Return {
    /// The whole message.
    Full,
    /// Its header only.
    Headers,
}

/// A parameter value in `xtext` (RFC 3461 §4), encoded and bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xtext(String);

impl Xtext {
    /// An envelope identifier (RFC 3461 §4.4).
    pub fn envelope_id(text: &str) -> Result<Self, InvalidValue> {
        Self::encode(text, ENVID_BYTES_MAX)
    }

    fn encode(text: &str, bytes_max: usize) -> Result<Self, InvalidValue> {
        if text.is_empty() {
            return Err(InvalidValue::Empty);
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ') {
            return Err(InvalidValue::Character);
        }
        let mut encoded = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b'+' | b'=' | b' ' => encoded.push_str(&format!("+{byte:02X}")),
                _ => encoded.push(char::from(byte)),
            }
        }
        if encoded.len() > bytes_max { Err(InvalidValue::TooLong) } else { Ok(Self(encoded)) }
    }
}

/// When a recipient's fate is to be notified (RFC 3461 §4.1). All false asks for `NEVER`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notify {
    /// When it was delivered.
    pub success: bool,
    /// When it could not be delivered.
    pub failure: bool,
    /// When it is late.
    pub delay: bool,
}

impl Notify {
    fn write(self, line: &mut String) {
        let wanted = [(self.success, "SUCCESS"), (self.failure, "FAILURE"), (self.delay, "DELAY")];
        let names: Vec<_> = wanted.iter().filter(|(wanted, _)| *wanted).map(|&(_, name)| name).collect();
        line.push_str(" NOTIFY=");
        line.push_str(&if names.is_empty() { "NEVER".to_owned() } else { names.join(",") });
    }
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipient {
    /// Where the message shall go.
    pub address: Address,
    /// When to notify the sender; `None` leaves it to the server.
    pub notify: Option<Notify>,
    /// The original recipient (RFC 3461 §4.2), encoded with its address type.
    pub original: Option<Xtext>,
}

impl Recipient {
    /// A recipient without further wishes.
    pub const fn new(address: Address) -> Self {
        Self { address, notify: None, original: None }
    }

    /// States this address as the original recipient (RFC 3461 §4.2). Only ASCII addresses can be stated so.
    pub fn with_original(mut self, address: &str) -> Result<Self, InvalidValue> {
        let Xtext(encoded) = Xtext::encode(address, ORCPT_BYTES_MAX - "rfc822;".len())?;
        self.original = Some(Xtext(format!("rfc822;{encoded}")));
        Ok(self)
    }

    pub(super) fn command(&self, offered: &Capabilities) -> String {
        let mut line = format!("RCPT TO:<{}>", self.address.as_str());
        if offered.dsn {
            if let Some(notify) = self.notify {
                notify.write(&mut line);
            }
            if let Some(Xtext(original)) = &self.original {
                line.push_str(" ORCPT=");
                line.push_str(original);
            }
        }
        line
    }
}

/// One message with its envelope.
#[derive(Clone, Debug)]
pub struct Message {
    /// The reverse-path.
    pub sender: Address,
    /// The recipients, at least one.
    pub recipients: Vec<Recipient>,
    /// The message itself.
    pub content: Content,
    /// Send it to nobody if one recipient is refused. Costs a round trip: the content waits for all recipients.
    pub all_or_nothing: bool,
    /// The header holds UTF-8, so the server must offer SMTPUTF8 (RFC 6531 §3.4).
    pub utf8_header: bool,
    /// What notifications return.
    pub return_content: Option<Return>,
    /// The envelope identifier.
    pub envelope_id: Option<Xtext>,
    /// A token under which a server that offers `XONCE` takes this message only once.
    pub once: Option<Xtext>,
}

impl Message {
    /// A message without further wishes.
    pub const fn new(sender: Address, recipients: Vec<Recipient>, content: Content) -> Self {
        Self {
            sender,
            recipients,
            content,
            all_or_nothing: false,
            utf8_header: false,
            return_content: None,
            envelope_id: None,
            once: None,
        }
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.content.bytes.len() as u64
    }

    /// Must the server offer SMTPUTF8 for this?
    pub(super) fn needs_smtputf8(&self) -> bool {
        let all_ascii = self.recipients.iter().all(|recipient| recipient.address.0.is_ascii());
        self.utf8_header || !self.sender.0.is_ascii() || !all_ascii
    }

    /// The MAIL command. A message with 8-bit bytes is sent as it is to a server without 8BITMIME, as every client
    /// does: converting it would break signatures, refusing it would surprise.
    pub(super) fn command(&self, offered: &Capabilities) -> String {
        let mut line = format!("MAIL FROM:<{}>", self.sender.as_str());
        if offered.size.is_some() {
            line.push_str(&format!(" SIZE={}", self.size()));
        }
        if offered.eight_bit_mime && self.content.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if offered.smtputf8 && self.needs_smtputf8() {
            line.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            self.write_notification_wishes(&mut line);
        }
        if let (true, Some(Xtext(token))) = (offered.once, &self.once) {
            line.push_str(" XONCE=");
            line.push_str(token);
        }
        line
    }

    fn write_notification_wishes(&self, line: &mut String) {
        line.push_str(match self.return_content {
            Some(Return::Full) => " RET=FULL",
            Some(Return::Headers) => " RET=HDRS",
            None => "",
        });
        if let Some(Xtext(id)) = &self.envelope_id {
            line.push_str(" ENVID=");
            line.push_str(id);
        }
    }
}

/// What became of one recipient of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server took responsibility; its reply to the message.
    Accepted(Reply),
    /// The server refused for good (5xx).
    Refused(Reply),
    /// The server refused for now (4xx).
    Deferred(Reply),
    /// The message was not sent to this recipient.
    Unsent(Failure),
    /// The message was sent whole and the connection ended before the reply: the server may have taken it.
    Uncertain,
}

impl Verdict {
    /// Did the server take it?
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted(_))
    }

    /// May the same attempt succeed later?
    pub const fn is_temporary(&self) -> bool {
        match self {
            Self::Accepted(_) | Self::Refused(_) => false,
            Self::Deferred(_) | Self::Uncertain => true,
            Self::Unsent(failure) => failure.is_temporary(),
        }
    }

    pub(super) fn refusal(reply: &Reply) -> Self {
        if reply.is_transient() { Self::Deferred(reply.clone()) } else { Self::Refused(reply.clone()) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(reply) => write!(f, "accepted: {reply}"),
            Self::Refused(reply) => write!(f, "refused: {reply}"),
            Self::Deferred(reply) => write!(f, "put off: {reply}"),
            Self::Unsent(failure) => write!(f, "not sent: {failure}"),
            Self::Uncertain => f.write_str("sent, but the connection ended before the server's answer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Content, InvalidValue, Message, Notify, Recipient, Return, Xtext};
    use crate::proto::client::capabilities::Capabilities;

    #[test]
    fn no_address_breaks_out_of_its_command() {
        for text in ["a@b>\r\nRCPT TO:<c", "a\nb@c", "a b@c", "a@b>", "\"a@b", "a@b\0"] {
            assert_eq!(Address::parse(text), Err(InvalidValue::Character), "{text:?}");
        }
        assert_eq!(Address::parse(""), Err(InvalidValue::Empty));
        assert_eq!(Address::parse(&"a".repeat(300)), Err(InvalidValue::TooLong));
        for text in ["a@b", "\"a b\\\"<\"@c", "jürgen@example.org", "postmaster"] {
            assert!(Address::parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn any_line_end_becomes_crlf_and_nothing_else_changes() {
        let cases: [(&[u8], &[u8]); 7] = [
            (b"a\nb", b"a\r\nb\r\n"),
            (b"a\r\nb\r\n", b"a\r\nb\r\n"),
            (b"a\rb", b"a\r\nb\r\n"),
            (b"a\r", b"a\r\n"),
            (b"\n\n", b"\r\n\r\n"),
            (b"\r\r\n", b"\r\n\r\n"),
            (b"", b""),
        ];
        for (input, expected) in cases {
            let content = Content::normalised(input);
            assert_eq!(content.as_bytes(), expected, "{input:?}");
            assert!(Content::new(content.as_bytes().to_vec()).is_ok());
        }
    }

    #[test]
    fn a_message_with_a_bare_line_end_is_no_content() {
        for bytes in [&b"a\nb\r\n"[..], b"\n", b"a\r", b"a\rb\r\n"] {
            assert_eq!(Content::new(bytes.to_vec()), Err(InvalidValue::BareLineEnd), "{bytes:?}");
        }
    }

    #[test]
    fn parameters_are_sent_when_asked_for_and_offered() {
        let recipient = Recipient::new(Address::parse("b@example.org").unwrap());
        let mut message =
            Message::new(Address::parse("a@b").unwrap(), vec![recipient], Content::normalised("ü\n".as_bytes()));
        message.return_content = Some(Return::Headers);
        message.envelope_id = Some(Xtext::envelope_id("id+1").unwrap());
        message.utf8_header = true;
        let all = Capabilities::from_lines(["SIZE", "8BITMIME", "SMTPUTF8", "DSN"].into_iter());
        let expected = "MAIL FROM:<a@b> SIZE=4 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=id+2B1";
        assert_eq!(message.command(&all), expected);
        assert_eq!(message.command(&Capabilities::default()), "MAIL FROM:<a@b>");
    }

    #[test]
    fn recipient_parameters_are_sent_when_asked_for_and_offered() {
        let mut recipient = Recipient::new(Address::parse("b@c").unwrap()).with_original("x+y@z").unwrap();
        recipient.notify = Some(Notify { success: true, failure: true, delay: false });
        let dsn = Capabilities::from_lines(["DSN"].into_iter());
        assert_eq!(recipient.command(&dsn), "RCPT TO:<b@c> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x+2By@z");
        recipient.notify = Some(Notify::default());
        assert!(recipient.command(&dsn).contains(" NOTIFY=NEVER"));
        assert_eq!(recipient.command(&Capabilities::default()), "RCPT TO:<b@c>");
    }
}
