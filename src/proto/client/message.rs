//! What a client sends: messages, their envelopes, and what became of each recipient.
//!
//! Values that exist are fit to be sent: nothing here can break out of its command line.

use std::fmt;
use std::sync::Arc;

use super::capabilities::Capabilities;
use super::fallback::Failure;
use crate::limits::{ENVID_BYTES_MAX, ONCE_TOKEN_BYTES_MAX, ORCPT_BYTES_MAX, PATH_BYTES_MAX};
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
    bytes: Arc<Vec<u8>>,
    encoding: Encoding,
}

/// What the bytes of a message demand of those who carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// ASCII in lines.
    SevenBit,
    /// Lines with bytes beyond ASCII (RFC 6152).
    EightBit,
    /// Anything at all (RFC 3030 §3).
    Binary,
}

impl Encoding {
    fn of_lines(bytes: &[u8]) -> Self {
        if bytes.is_ascii() { Self::SevenBit } else { Self::EightBit }
    }
}

impl Content {
    /// Takes a message that keeps to CRLF already.
    pub fn new(bytes: Vec<u8>) -> Result<Self, InvalidValue> {
        if has_bare_line_end(&bytes) {
            return Err(InvalidValue::BareLineEnd);
        }
        Ok(Self::of_lines(bytes))
    }

    fn of_lines(bytes: Vec<u8>) -> Self {
        Self { encoding: Encoding::of_lines(&bytes), bytes: Arc::new(bytes) }
    }

    /// Takes a message in which lines mean nothing: only a server with BINARYMIME can have it.
    pub fn binary(bytes: Vec<u8>) -> Self {
        Self { encoding: Encoding::Binary, bytes: Arc::new(bytes) }
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
        Self::of_lines(out)
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

    /// An envelope identifier as it came from another client, encoded already.
    pub fn encoded_envelope_id(text: &str) -> Result<Self, InvalidValue> {
        Self::encoded(text, ENVID_BYTES_MAX)
    }

    /// An original recipient as it came from another client: its address type and address, encoded already (RFC 3461 §4.2).
    pub fn encoded_original(text: &str) -> Result<Self, InvalidValue> {
        Self::encoded(text, ORCPT_BYTES_MAX)
    }

    fn encoded(text: &str, bytes_max: usize) -> Result<Self, InvalidValue> {
        match text {
            "" => Err(InvalidValue::Empty),
            _ if text.len() > bytes_max => Err(InvalidValue::TooLong),
            _ if !text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'=') => Err(InvalidValue::Character),
            _ => Ok(Self(text.to_owned())),
        }
    }

    /// A token for `XONCE`, by which a message is taken once.
    pub fn once_token(text: &str) -> Result<Self, InvalidValue> {
        Self::encode(text, ONCE_TOKEN_BYTES_MAX)
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

    pub(crate) fn command(&self, offered: &Capabilities) -> String {
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
#[expect(clippy::struct_excessive_bools, reason = "independent wishes and facts, not a state")]
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
    /// A token under which a server that offers `XONCE` takes this message only once for the recipients whom it accepts. So
    /// that it knows what it has, whatever is sent of the message bears the same one: all of it, parts, and what comes again.
    pub once: Option<Xtext>,
    /// An earlier conversation may have brought it to all of these recipients, sent to them together: it is sent only to all
    /// of them at once and under its token, and otherwise they stay uncertain.
    pub doubted: bool,
    /// What becomes of 8-bit bytes where the server does not offer 8BITMIME.
    pub eight_bit: EightBit,
    /// Send it only inside TLS and to a server that promises the same (RFC 8689). Whether this server's certificate was
    /// verified is for whoever sets this.
    pub requires_tls: bool,
}

/// What becomes of a message with 8-bit bytes where the server does not offer 8BITMIME.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EightBit {
    /// It is sent as it is, as mail programs do: converting it would break signatures, and refusing it would surprise.
    SendAnyway,
    /// It is not sent: what RFC 6152 §3 asks of whoever passes on the messages of others.
    Refuse,
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
            doubted: false,
            eight_bit: EightBit::SendAnyway,
            requires_tls: false,
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

    /// Why a server with this list cannot take the message, wherever it is asked.
    pub(crate) fn objection(&self, offered: &Capabilities) -> Option<Failure> {
        let encoding = self.content.encoding;
        match offered.size.flatten() {
            _ if self.needs_smtputf8() && !offered.smtputf8 => Some(Failure::Smtputf8NotOffered),
            _ if encoding == Encoding::Binary && !(offered.binary_mime && offered.chunking) => {
                Some(Failure::BinaryMimeNotOffered)
            }
            _ if encoding == Encoding::EightBit && self.eight_bit == EightBit::Refuse && !offered.eight_bit_mime => {
                Some(Failure::EightBitMimeNotOffered)
            }
            Some(limit) if self.size() > limit => Some(Failure::TooLarge { limit }),
            _ => None,
        }
    }

    /// The MAIL command of a transaction, whichever recipients are in it.
    pub(crate) fn command(&self, offered: &Capabilities) -> String {
        let mut line = format!("MAIL FROM:<{}>", self.sender.as_str());
        if offered.size.is_some() {
            line.push_str(&format!(" SIZE={}", self.size()));
        }
        match self.content.encoding {
            Encoding::EightBit if offered.eight_bit_mime => line.push_str(" BODY=8BITMIME"),
            Encoding::Binary => line.push_str(" BODY=BINARYMIME"),
            Encoding::SevenBit | Encoding::EightBit => {}
        }
        if offered.smtputf8 && self.needs_smtputf8() {
            line.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            self.write_notification_wishes(&mut line);
        }
        if self.requires_tls {
            line.push_str(" REQUIRETLS");
        }
        if let (true, Some(Xtext(token))) = (offered.once, &self.once) {
            line.push_str(" XONCE=");
            line.push_str(token);
        }
        line
    }

    /// The same message for some of its recipients, given by their indices.
    pub fn part(&self, recipients: &[usize]) -> Self {
        let recipients = recipients.iter().map(|&index| self.recipients[index].clone()).collect();
        Self { recipients, ..self.clone() }
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

    /// Only what is refused for good in so many words is given up.
    pub(super) fn refusal(reply: &Reply) -> Self {
        if reply.code() / 100 == 5 { Self::Refused(reply.clone()) } else { Self::Deferred(reply.clone()) }
    }
}

/// The recipients with an uncertain verdict, by their indices: those for whom a message can be sent again
/// [in doubt](Message::doubted).
pub fn uncertain(verdicts: &[Verdict]) -> Vec<usize> {
    let is_uncertain = |(_, verdict): &(usize, &Verdict)| **verdict == Verdict::Uncertain;
    verdicts.iter().enumerate().filter(is_uncertain).map(|(recipient, _)| recipient).collect()
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
    use super::{Address, Content, EightBit, InvalidValue, Message, Notify, Recipient, Return, Verdict, Xtext};
    use crate::proto::client::capabilities::Capabilities;
    use crate::proto::client::fallback::Failure;
    use crate::proto::reply_reader::Reply;

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

    fn to(recipients: &[&str], content: Content) -> Message {
        let recipients = recipients.iter().map(|address| Recipient::new(Address::parse(address).unwrap())).collect();
        Message::new(Address::parse("a@b").unwrap(), recipients, content)
    }

    #[test]
    fn a_part_of_the_recipients_bears_the_token_of_the_message() {
        let mut message = to(&["a@x", "b@x", "c@x"], Content::normalised(b"x\n"));
        message.once = Some(Xtext::once_token("token").unwrap());
        let once = Capabilities::from_lines(["XONCE"].into_iter());
        assert_eq!(message.command(&once), "MAIL FROM:<a@b> XONCE=token");
        let part = message.part(&[0, 2]);
        assert_eq!(part.command(&once), "MAIL FROM:<a@b> XONCE=token");
        let recipients: Vec<&str> = part.recipients.iter().map(|recipient| recipient.address.as_str()).collect();
        assert_eq!(recipients, ["a@x", "c@x"]);
        assert_eq!(to(&["a@x"], Content::normalised(b"x\n")).command(&once), "MAIL FROM:<a@b>");
    }

    #[test]
    fn what_a_server_does_not_take_is_not_sent_to_it() {
        let list = |lines: &[&str]| Capabilities::from_lines(lines.iter().copied());
        let mut eight_bit = to(&["c@x"], Content::normalised("ü\n".as_bytes()));
        assert_eq!(eight_bit.objection(&list(&[])), None, "as all mail programs do");
        eight_bit.eight_bit = EightBit::Refuse;
        assert_eq!(eight_bit.objection(&list(&[])), Some(Failure::EightBitMimeNotOffered));
        assert_eq!(eight_bit.objection(&list(&["8BITMIME"])), None);

        let binary = to(&["c@x"], Content::binary(b"a\nb\0".to_vec()));
        for lines in [&[][..], &["BINARYMIME"], &["CHUNKING"]] {
            assert_eq!(binary.objection(&list(lines)), Some(Failure::BinaryMimeNotOffered), "{lines:?}");
        }
        assert_eq!(binary.objection(&list(&["BINARYMIME", "CHUNKING"])), None);
        assert_eq!(binary.command(&list(&["BINARYMIME"])), "MAIL FROM:<a@b> BODY=BINARYMIME");

        let large = to(&["c@x"], Content::normalised(b"four\n"));
        assert_eq!(large.objection(&list(&["SIZE 5"])), Some(Failure::TooLarge { limit: 5 }));
        assert_eq!(large.objection(&list(&["SIZE 6"])), None);
        assert_eq!(to(&["ü@x"], Content::normalised(b"")).objection(&list(&[])), Some(Failure::Smtputf8NotOffered));
    }

    #[test]
    fn only_a_5yz_refuses_for_good() {
        assert!(matches!(Verdict::refusal(&Reply::new(550, "no")), Verdict::Refused(_)));
        for code in [250, 354, 421, 452] {
            assert!(matches!(Verdict::refusal(&Reply::new(code, "?")), Verdict::Deferred(_)), "{code}");
        }
    }

    #[test]
    fn what_was_encoded_by_another_client_is_passed_on_or_refused_whole() {
        assert_eq!(Xtext::encoded_original("rfc822;a+2Bb@x"), Ok(Xtext("rfc822;a+2Bb@x".to_owned())));
        assert_eq!(Xtext::encoded_envelope_id("a=b"), Err(InvalidValue::Character));
        assert_eq!(Xtext::encoded_envelope_id("a b"), Err(InvalidValue::Character));
        assert_eq!(Xtext::encoded_envelope_id(""), Err(InvalidValue::Empty));
        assert_eq!(Xtext::encoded_envelope_id(&"a".repeat(101)), Err(InvalidValue::TooLong));
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
