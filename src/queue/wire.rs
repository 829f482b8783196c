//! Question and answer as they travel: one JSON object a line.
//!
//! A connection carries one [`Request`] and then [`Reply`] lines, the last of which is [`Reply::End`] or
//! [`Reply::Fault`]; an answer that ends without one of them was broken off. The objects of a list are those that
//! `--json` prints, so names here are a promise to programs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::selection::{ItemState, Selection};
use crate::exit::Exit;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What to do.
    pub order: Order,
    /// With which messages.
    #[serde(default)]
    pub select: Selection,
}

/// What to do with messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Tell of each.
    List,
    /// Tell all of one.
    Show,
    /// Try to deliver now.
    Flush,
    /// Try no more until released.
    Hold,
    /// End a hold.
    Release,
    /// Forget, without a word to the sender.
    Remove,
    /// Hand out as they would be delivered.
    Export,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    /// One message of a list.
    Item(Item),
    /// All about one message.
    Details(Box<Details>),
    /// The order was carried out, or could not be, on one message.
    Done {
        /// The message's id.
        message: String,
        /// What became of it.
        became: WhatBecame,
    },
    /// A message of this many bytes follows in pieces.
    File {
        /// The message's id.
        message: String,
        /// Bytes of all pieces together.
        bytes: u64,
    },
    /// A piece of a message, in base64.
    Piece(String),
    /// The answer is complete.
    End {
        /// How many messages it was about.
        messages: u64,
    },
    /// There is no answer, or no more of it.
    Fault(Fault),
}

/// What an order did to one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhatBecame {
    /// It is due now.
    Flushed,
    /// It is held.
    Held,
    /// It is held no more.
    Released,
    /// It is gone.
    Removed,
    /// It was gone before the order reached it: delivered or removed meanwhile.
    Gone,
}

/// One message as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The message's id, as the client was told it.
    pub message: String,
    /// What it waits for.
    pub state: ItemState,
    /// When it was received, in UTC (RFC 3339).
    pub received: String,
    /// Seconds since then.
    pub age_s: u64,
    /// Bytes of the whole message.
    pub bytes: u64,
    /// Who submitted it; empty for what the server itself sends.
    pub user: String,
    /// The envelope's sender; empty for the null sender.
    pub sender: String,
    /// The recipients that still wait.
    pub recipients: Vec<String>,
    /// How many recipients it had, those that were served or given up included.
    pub recipients_in_all: u32,
    /// Where it is to go, each destination once, as the configuration writes it.
    pub destinations: Vec<String>,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due, in UTC; `None` if that does not depend on the time.
    pub next_attempt: Option<String>,
    /// What the last attempt came to.
    pub last_reply: Option<String>,
}

/// All about one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// What a list shows.
    #[serde(flatten)]
    pub item: Item,
    /// Each recipient of the envelope, in its order.
    pub envelope: Vec<RecipientDetails>,
    /// `ENVID=`.
    pub envid: Option<String>,
    /// `RET=`.
    pub ret: Option<String>,
    /// `BODY=`.
    pub body: String,
    /// Is it SMTPUTF8?
    pub smtputf8: bool,
    /// Must it be passed on by TLS only?
    pub requires_tls: bool,
    /// The sender's token, `XONCE=`.
    pub once: Option<String>,
    /// The header of the message, trace included, at most [`HEADER_BYTES_SHOWN_MAX`] bytes of it.
    pub header: String,
}

/// One recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipientDetails {
    /// Whom the message is for.
    pub address: String,
    /// `waiting`, `delivered` or `failed`.
    pub state: String,
    /// `ORCPT=`.
    pub orcpt: Option<String>,
    /// `NOTIFY=`.
    pub notify: Option<String>,
}

/// Why there is no answer. It prints on one line: what is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// The exit code of the command.
    pub exit: u8,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Fault {
    /// A fault with its exit code.
    pub fn new(exit: Exit, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { exit: exit.code(), problem: problem.into(), remedy: remedy.into() }
    }

    /// How the command ends.
    pub fn exit(&self) -> Exit {
        Exit::of_code(self.exit)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

impl std::error::Error for Fault {}

impl Request {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no request, or one of another version.
    pub fn from_line(line: &str) -> Result<Self, Fault> {
        serde_json::from_str(line).map_err(|error| {
            let problem = format!("the server does not understand the request ({error})");
            Fault::new(Exit::Software, problem, "use the onetrip queue of the same version as the server")
        })
    }

    /// As one line, end of line included.
    pub fn to_line(&self) -> String {
        line_of(self)
    }
}

impl Reply {
    /// Reads a line.
    ///
    /// # Errors
    /// It is no reply, or one of another version.
    pub fn from_line(line: &str) -> Result<Self, Fault> {
        serde_json::from_str(line).map_err(|error| {
            let problem = format!("the server's answer cannot be understood ({error})");
            Fault::new(Exit::Software, problem, "use the onetrip queue of the same version as the server")
        })
    }

    /// As one line, end of line included.
    pub fn to_line(&self) -> String {
        line_of(self)
    }
}

pub(super) fn line_of(value: &impl Serialize) -> String {
    let mut line = serde_json::to_string(value).expect("text, numbers and lists are JSON");
    line.push('\n');
    line
}

/// Most bytes of a message's header that are shown: more is nothing that a person reads.
pub const HEADER_BYTES_SHOWN_MAX: usize = 65_536;

#[cfg(test)]
pub(super) mod tests {
    use super::{Details, Fault, Item, Order, RecipientDetails, Reply, Request, WhatBecame};
    use crate::exit::Exit;
    use crate::queue::selection::{ItemState, Selection};

    pub(crate) fn item(message: &str) -> Item {
        Item {
            message: message.to_owned(),
            state: ItemState::Deferred,
            received: "2026-01-01T00:00:00Z".to_owned(),
            age_s: 7_500,
            bytes: 4_200,
            user: "ann".to_owned(),
            sender: "ann@example.org".to_owned(),
            recipients: vec!["bob@example.net".to_owned()],
            recipients_in_all: 2,
            destinations: vec!["relay:mx.example.net:25".to_owned()],
            attempts: 3,
            next_attempt: Some("2026-01-01T03:00:00Z".to_owned()),
            last_reply: Some("450 4.2.1 busy".to_owned()),
        }
    }

    pub(crate) fn details(message: &str) -> Details {
        let recipient = |address: &str, state: &str| RecipientDetails {
            address: address.to_owned(),
            state: state.to_owned(),
            orcpt: None,
            notify: None,
        };
        Details {
            item: item(message),
            envelope: vec![recipient("bob@example.net", "waiting"), recipient("eve@example.net", "delivered")],
            envid: Some("x1".to_owned()),
            ret: None,
            body: "8BITMIME".to_owned(),
            smtputf8: false,
            requires_tls: true,
            once: Some("t1".to_owned()),
            header: "Received: from here\r\nSubject: hello\r\n".to_owned(),
        }
    }

    #[test]
    fn a_request_is_one_line_that_is_read_back() {
        let select = Selection {
            ids: vec!["06b8".to_owned()],
            older_than_s: Some(60),
            recipient_domain: Some("example.org".to_owned()),
            sender: Some(String::new()),
            user: Some("ann\n".to_owned()),
            states: vec![ItemState::Held],
        };
        for order in [Order::List, Order::Show, Order::Export] {
            let request = Request { order, select: select.clone() };
            let line = request.to_line();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Request::from_line(&line), Ok(request));
        }
        let short = Request { order: Order::Flush, select: Selection::default() };
        assert_eq!(Request::from_line(r#"{"order":"flush"}"#), Ok(short.clone()));
        assert_eq!(short.to_line(), "{\"order\":\"flush\",\"select\":{}}\n");
    }

    #[test]
    fn every_reply_is_one_line_that_is_read_back() {
        for reply in [
            Reply::Item(item("06b8")),
            Reply::Details(Box::new(details("06b8"))),
            Reply::Done { message: "06b8".to_owned(), became: WhatBecame::Gone },
            Reply::File { message: "06b8".to_owned(), bytes: 7 },
            Reply::Piece("AAAA".to_owned()),
            Reply::End { messages: 1 },
            Reply::Fault(Fault::new(Exit::NoInput, "there is no such message", "see onetrip queue list")),
        ] {
            let line = reply.to_line();
            assert_eq!(line.matches('\n').count(), 1);
            assert_eq!(Reply::from_line(&line), Ok(reply));
        }
    }

    #[test]
    fn what_is_no_request_or_reply_is_a_fault_that_names_a_remedy() {
        for line in ["", "{", "[]", r#"{"order":"dance"}"#, r#"{"order":"list","select":{"states":["lost"]}}"#] {
            let fault = Request::from_line(line).unwrap_err();
            assert!(fault.to_string().contains("of the same version"), "{line}");
            assert_eq!(fault.exit(), Exit::Software);
        }
        assert!(Reply::from_line(r#"{"dance":1}"#).is_err());
    }
}
