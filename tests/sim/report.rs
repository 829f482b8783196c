//! Reading the reports that senders get.

use onetrip::proto::client::Return;
use onetrip::proto::message::{Message, MessageId};

use crate::letter::{Letter, MARK};

/// What a report says.
#[derive(Debug)]
pub struct Report<'a> {
    /// The message that it is about.
    pub of: MessageId,
    pub letter: &'a Letter,
    /// Recipients, each with what has become of it.
    pub told: Vec<(String, String)>,
}

impl<'a> Report<'a> {
    /// Reads a report, which must be about a letter, and go to whoever wrote that.
    pub fn read(letters: &'a [Letter], message: &Message) -> Self {
        let text = String::from_utf8_lossy(&message.content);
        assert!(text.contains("report-type=delivery-status"), "only reports have nobody as their sender");
        let name = after_last(&text, MARK);
        let letter = name.and_then(|name| letters.iter().find(|letter| letter.name == name));
        let letter =
            letter.unwrap_or_else(|| panic!("a report about what nobody has written, such as a report: {text}"));
        let to: Vec<_> = message.envelope.recipients().map(|recipient| recipient.address).collect();
        assert_eq!(to, [letter.message.sender.as_str()], "{}: a report to somebody else", letter.name);
        // The report has one of its own, further up.
        let of = after_last(&text, "Message-ID: <").and_then(|line| line.split('@').next());
        let of = of.and_then(|of| MessageId::from_text(of.as_bytes())).expect("the message is named");
        let report = Self { of, letter, told: told_in(&text) };
        report.check_returned(message);
        report
    }

    /// What was asked for in full is given back unaltered.
    fn check_returned(&self, message: &Message) {
        let sent = &self.letter.message;
        let is_whole = sent.return_content == Some(Return::Full)
            && self.told.iter().any(|(_, action)| action == "failed")
            && !self.letter.is_binary;
        let end = message.content.windows(4).rposition(|bytes| bytes == b"\r\n--").expect("a boundary");
        let returned = &message.content[..end];
        assert_eq!(returned.ends_with(sent.content.as_bytes()), is_whole, "{}: what is given back", self.letter.name);
    }
}

fn told_in(status: &str) -> Vec<(String, String)> {
    let blocks = status.split("\r\nFinal-Recipient: rfc822;").skip(1);
    let told = blocks.map(|block| {
        let mut lines = block.split("\r\n");
        let address = lines.next().unwrap_or_default();
        let action = lines.next().and_then(|line| line.strip_prefix("Action: ")).expect("an action");
        (address.to_owned(), action.to_owned())
    });
    told.collect()
}

/// The rest of the line behind the last of these.
fn after_last<'a>(text: &'a str, begin: &str) -> Option<&'a str> {
    text[text.rfind(begin)? + begin.len()..].split("\r\n").next()
}
