//! The envelope of a message: who sent it, to whom, and with which wishes.
//!
//! All text of an envelope lies in one string, so that a thousand recipients are one allocation, and the next message on
//! the connection takes none. It holds what was accepted; what may be accepted is decided elsewhere.

use std::ops::Range;

use data_encoding::BASE64URL_NOPAD;
use ring::digest;

use super::command::{Body, Mail, Notify, Rcpt, Ret};

/// An accepted MAIL with its accepted RCPTs.
#[derive(Clone, Debug, Default)]
pub struct Envelope {
    text: String,
    sender: Range<usize>,
    user: Range<usize>,
    envid: Option<Range<usize>>,
    once: Option<Range<usize>>,
    requires_tls: bool,
    recipients: Vec<Entry>,
    body: Body,
    smtputf8: bool,
    ret: Option<Ret>,
    declared_size: Option<u64>,
}

#[derive(Clone, Debug)]
struct Entry {
    address: Range<usize>,
    orcpt: Option<Range<usize>>,
    notify: Option<Notify>,
}

/// One recipient of an envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipient<'a> {
    /// `local@domain`, or `postmaster`.
    pub address: &'a str,
    /// `ORCPT=` as the client wrote it, type and xtext (RFC 3461 §4.2).
    pub orcpt: Option<&'a str>,
    /// `NOTIFY=` (RFC 3461 §4.1); `None` leaves it to the default (failure, perhaps delay).
    pub notify: Option<Notify>,
}

impl Envelope {
    /// No sender, no recipients.
    pub const EMPTY: Self = Self {
        text: String::new(),
        sender: 0..0,
        user: 0..0,
        envid: None,
        once: None,
        requires_tls: false,
        recipients: Vec::new(),
        body: Body::SevenBit,
        smtputf8: false,
        ret: None,
        declared_size: None,
    };

    /// Begins a new envelope in the memory of the old one.
    pub fn begin(&mut self, mail: &Mail<'_>, user: &str) {
        self.clear();
        self.sender = self.keep(mail.path.address);
        self.user = self.keep(user);
        self.envid = mail.envid.map(|envid| self.keep(envid));
        self.once = mail.once.map(|token| self.keep(token));
        self.requires_tls = mail.requires_tls;
        self.body = mail.body;
        self.smtputf8 = mail.smtputf8;
        self.ret = mail.ret;
        self.declared_size = mail.size;
    }

    /// Adds a recipient.
    pub fn add(&mut self, rcpt: &Rcpt<'_>) {
        let address = self.keep(rcpt.path.address);
        let orcpt = rcpt.orcpt.map(|orcpt| self.keep(orcpt));
        self.recipients.push(Entry { address, orcpt, notify: rcpt.notify });
    }

    /// Makes the token one for the recipients that were accepted. A message that comes again for others, because some were
    /// put off the first time, is not the same: whoever took it for that would lose it for them.
    pub fn bind_once(&mut self) {
        let Some(token) = self.once.clone() else { return };
        let mut digest = digest::Context::new(&digest::SHA256);
        for entry in &self.recipients {
            digest.update(self.text[entry.address.clone()].as_bytes());
            // No address has one.
            digest.update(b"\n");
        }
        let bound = BASE64URL_NOPAD.encode(&digest.finish().as_ref()[..RECIPIENTS_DIGEST_BYTES]);
        let bound = format!("{}/{bound}", &self.text[token]);
        self.once = Some(self.keep(&bound));
    }

    /// Forgets everything but keeps the memory.
    pub fn clear(&mut self) {
        self.text.clear();
        self.recipients.clear();
        self.envid = None;
        self.once = None;
        self.requires_tls = false;
        self.sender = 0..0;
        self.user = 0..0;
    }

    /// The reverse-path; empty for `<>`.
    pub fn sender(&self) -> &str {
        &self.text[self.sender.clone()]
    }

    /// The name of the user who submitted it.
    pub fn user(&self) -> &str {
        &self.text[self.user.clone()]
    }

    /// `ENVID=`, encoded as it came (RFC 3461 §4.4).
    pub fn envid(&self) -> Option<&str> {
        self.envid.clone().map(|envid| &self.text[envid])
    }

    /// `XONCE=`: the user's own name for the message, encoded as it came, and what [`Envelope::bind_once`] has added.
    pub fn once(&self) -> Option<&str> {
        self.once.clone().map(|token| &self.text[token])
    }

    /// Was `REQUIRETLS` asked for (RFC 8689 §2)?
    pub fn requires_tls(&self) -> bool {
        self.requires_tls
    }

    /// `RET=` (RFC 3461 §4.3).
    pub fn ret(&self) -> Option<Ret> {
        self.ret
    }

    /// `BODY=`.
    pub fn body(&self) -> Body {
        self.body
    }

    /// Was `SMTPUTF8` asked for (RFC 6531 §3.4)?
    pub fn smtputf8(&self) -> bool {
        self.smtputf8
    }

    /// `SIZE=` in octets, the client's estimate (RFC 1870 §6).
    pub fn declared_size(&self) -> Option<u64> {
        self.declared_size
    }

    /// How many recipients there are.
    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// The recipients in the order in which they were accepted.
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = Recipient<'_>> {
        self.recipients.iter().map(|entry| Recipient {
            address: &self.text[entry.address.clone()],
            orcpt: entry.orcpt.clone().map(|orcpt| &self.text[orcpt]),
            notify: entry.notify,
        })
    }

    /// Bytes of memory held.
    pub fn capacity(&self) -> usize {
        self.text.capacity() + self.recipients.capacity() * size_of::<Entry>()
    }

    fn keep(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }
}

/// Of the digest of the recipients: so many bytes never meet by chance, and nobody gains by making them.
const RECIPIENTS_DIGEST_BYTES: usize = 12;

#[cfg(test)]
mod tests {
    use super::Envelope;
    use crate::proto::command::{Command, parse};

    fn begin(envelope: &mut Envelope, line: &str) {
        let Ok(Command::Mail(mail)) = parse(line.as_bytes()).command else { panic!("{line}") };
        envelope.begin(&mail, "ann");
    }

    fn add(envelope: &mut Envelope, line: &str) {
        let Ok(Command::Rcpt(rcpt)) = parse(line.as_bytes()).command else { panic!("{line}") };
        envelope.add(&rcpt);
    }

    #[test]
    fn an_envelope_gives_back_what_was_put_in() {
        let mut envelope = Envelope::default();
        begin(&mut envelope, "MAIL FROM:<a@b> ENVID=x1 SIZE=7");
        add(&mut envelope, "RCPT TO:<c@d> ORCPT=rfc822;e@f NOTIFY=NEVER");
        add(&mut envelope, "RCPT TO:<g@h>");
        assert_eq!((envelope.sender(), envelope.user(), envelope.envid()), ("a@b", "ann", Some("x1")));
        let recipients: Vec<_> = envelope.recipients().map(|r| (r.address, r.orcpt, r.notify.is_some())).collect();
        assert_eq!(recipients, [("c@d", Some("rfc822;e@f"), true), ("g@h", None, false)]);
    }

    #[test]
    fn a_token_is_bound_to_the_recipients_that_were_accepted() {
        let bound = |recipients: &[&str]| {
            let mut envelope = Envelope::default();
            begin(&mut envelope, "MAIL FROM:<a@b> XONCE=t1");
            recipients.iter().for_each(|recipient| add(&mut envelope, &format!("RCPT TO:<{recipient}>")));
            envelope.bind_once();
            envelope.once().unwrap().to_owned()
        };
        assert!(bound(&["c@d"]).starts_with("t1/"));
        assert_eq!(bound(&["c@d", "e@f"]), bound(&["c@d", "e@f"]));
        assert_ne!(bound(&["c@d", "e@f"]), bound(&["c@d"]));
        let mut without = Envelope::default();
        begin(&mut without, "MAIL FROM:<a@b>");
        without.bind_once();
        assert_eq!(without.once(), None);
    }

    #[test]
    fn nothing_of_one_envelope_is_left_in_the_next() {
        let mut envelope = Envelope::default();
        begin(&mut envelope, "MAIL FROM:<a@b> ENVID=x1 SIZE=7 RET=FULL SMTPUTF8 BODY=8BITMIME XONCE=t1 REQUIRETLS");
        assert_eq!((envelope.once(), envelope.requires_tls()), (Some("t1"), true));
        add(&mut envelope, "RCPT TO:<c@d>");
        begin(&mut envelope, "MAIL FROM:<>");
        assert_eq!((envelope.sender(), envelope.envid(), envelope.ret()), ("", None, None));
        assert_eq!((envelope.recipient_count(), envelope.smtputf8(), envelope.declared_size()), (0, false, None));
        assert_eq!((envelope.once(), envelope.requires_tls()), (None, false));
        assert_eq!(envelope.body().name(), "7BIT");
    }
}
