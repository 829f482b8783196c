//! What dialogs cannot say: time, storage that fails, room that runs out, and the driver's mistakes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Action, Bounds, ClientInTrace, Early, Opening, Outcome, Peer, SenderCheck, Settings, StoreFailure, Timeouts,
};
use super::{Resources, Server, Start};
use crate::proto::body::BareNewline;
use crate::proto::channel::TlsFacts;
use crate::proto::credential::{Member, SenderPattern, Senders, Verdict};
use crate::proto::extension::{Listing, Offer};
use crate::proto::proof::{Committed, Encrypted};
use crate::proto::qhlo_id::{Binding, Point, QhloIds};
use crate::proto::reply::Foreign;
use crate::time::Now;

const LOGIN: &str = "EHLO client.example\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\n";
const LOGIN_RESPONSE: &str = "AGFubgBzZWNyZXQ=\r\n";
pub(super) const TRANSACTION: &str = "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\n";
const MESSAGE: &str = "Subject: hello\r\n\r\nHello, Bob.\r\n";

fn offer() -> Offer {
    Offer {
        hostname: "mail.example".to_owned(),
        message_bytes_max: 2_000,
        recipients_max: 10,
        messages_max: 100,
        early_ehlo: true,
        early_data: true,
        once: true,
    }
}

fn settings() -> Settings {
    let offer = offer();
    Settings {
        hostname: offer.hostname.clone(),
        connect: Listing::new(&offer, Point::Connect),
        secured: Listing::new(&offer, Point::Secured),
        qhlo_ids: QhloIds::new(&[7; 32], None, Binding::Address),
        bounds: Bounds {
            message_bytes_max: offer.message_bytes_max,
            recipients_max: offer.recipients_max,
            messages_max: offer.messages_max,
            commands_max: 20,
            errors_max: 5,
            logins_failed_max: 3,
        },
        timeouts: Timeouts {
            idle: Duration::from_secs(300),
            login: Duration::from_secs(180),
            transaction: Duration::from_secs(600),
        },
        bare_newline: BareNewline::Reject,
        client_in_trace: ClientInTrace::Shown,
        sender_check: SenderCheck::Enforced,
    }
}

/// A conversation with the client's words on one side and the replies on the other.
pub(super) struct Talk {
    pub(super) server: Server,
    pub(super) now: Now,
}

impl Talk {
    fn begin(opening: Opening, message_memory: u64) -> Self {
        let peer = Peer { client: SocketAddr::from(([198, 51, 100, 7], 40_000)), server: [192, 0, 2, 1].into() };
        let resources = Arc::new(Resources::new(0, message_memory));
        let now = Now::simulated_ms(0);
        Self { server: Server::new(Arc::new(settings()), resources, peer, opening, now), now }
    }

    /// Inside TLS, after the greeting.
    pub(super) fn secured() -> Self {
        Self::secured_with_memory(1 << 20)
    }

    fn secured_with_memory(message_memory: u64) -> Self {
        let mut talk = Self::begin(Opening::ImplicitTls, message_memory);
        let mut out = Vec::new();
        talk.server.greet(&mut out);
        let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false };
        talk.server.handle_secured(facts, Encrypted::attested_by_handshake());
        talk
    }

    /// After a good AUTH that came as early data, with the client's Finished outstanding.
    pub(super) fn logged_in_early(change: impl FnOnce(&mut Settings)) -> Self {
        let mut talk = Self::begin(Opening::ImplicitTls, 1 << 20);
        change(Arc::get_mut(&mut talk.server.settings).unwrap());
        talk.server.greet(&mut Vec::new());
        let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: true };
        talk.server.handle_secured_early(facts, Encrypted::attested_by_handshake());
        talk.log_in();
        talk
    }

    /// After a good AUTH.
    fn logged_in() -> Self {
        let mut talk = Self::secured();
        talk.log_in();
        talk
    }

    pub(super) fn log_in(&mut self) {
        self.say(LOGIN);
        assert!(matches!(self.server.poll_action(), Some(Action::Verify(_))));
        let senders = Senders::Only(vec![SenderPattern::parse("@example.org").unwrap()]);
        let member = Arc::new(Member { name: "ann".to_owned(), senders });
        assert!(self.reply(|server, out| server.handle_verdict(Verdict::Accepted(member), out)).starts_with("235"));
    }

    pub(super) fn say(&mut self, words: &str) -> String {
        let mut out = Vec::new();
        let taken = self.server.handle_bytes(self.now, words.as_bytes(), &mut out);
        assert!(taken == words.len() || self.server.is_waiting(), "took {taken} of {words:?}");
        String::from_utf8(out).unwrap()
    }

    pub(super) fn reply(&mut self, what: impl FnOnce(&mut Server, &mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        what(&mut self.server, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// Sends a message and lets storage answer.
    pub(super) fn submit(&mut self, result: Result<(), StoreFailure>) -> String {
        self.say(&format!("{TRANSACTION}BDAT {} LAST\r\n{MESSAGE}", MESSAGE.len()));
        let Some(Action::Store(message)) = self.server.poll_action() else { panic!("nothing to store") };
        let result = result.map(|()| Committed::attested_by_storage());
        self.reply(|server, out| server.handle_stored(result, message, out))
    }
}

// ── Storage ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_reply_to_a_message_says_what_storage_said() {
    for (result, reply) in [
        (Ok(()), "250 2.0.0 Queued as "),
        (Err(StoreFailure::Full), "452 4.3.1 "),
        (Err(StoreFailure::Busy), "451 4.3.2 "),
        (Err(StoreFailure::Fault), "451 4.3.0 "),
        (Err(StoreFailure::Foreign(Foreign::new(550, "5.1.1", "nobody"))), "550 5.1.1 nobody\r\n"),
    ] {
        let mut talk = Talk::logged_in();
        assert!(talk.submit(result).starts_with(reply), "{reply}");
        assert!(talk.submit(Ok(())).starts_with("250"), "the connection goes on after {reply}");
    }
}

#[test]
fn nothing_is_read_while_a_message_is_being_stored() {
    let mut talk = Talk::logged_in();
    let words = format!("{TRANSACTION}BDAT {} LAST\r\n{MESSAGE}NOOP\r\n", MESSAGE.len());
    let mut out = Vec::new();
    let taken = talk.server.handle_bytes(talk.now, words.as_bytes(), &mut out);
    assert_eq!(&words[taken..], "NOOP\r\n");
    assert!(talk.server.is_waiting());
}

#[test]
fn a_message_over_the_size_limit_is_read_to_its_end_and_refused() {
    let mut talk = Talk::logged_in();
    talk.say(&format!("{TRANSACTION}DATA\r\n"));
    let line = format!("{}\r\n", "x".repeat(100));
    for _ in 0..21 {
        assert_eq!(talk.say(&line), "");
    }
    assert!(talk.say(".\r\n").starts_with("552 5.3.4"));
    let chunk = "x".repeat(2_001);
    let replies = talk.say(&format!("{TRANSACTION}BDAT 2001 LAST\r\n{chunk}NOOP\r\n"));
    assert!(replies.contains("\r\n552 5.3.4") && replies.ends_with("250 2.0.0 OK\r\n"), "{replies}");
    assert!(talk.submit(Ok(())).starts_with("250"));
}

#[test]
fn a_chunk_that_nobody_could_ever_send_ends_the_connection() {
    let mut talk = Talk::logged_in();
    let replies = talk.say(&format!("{TRANSACTION}BDAT 18446744073709551615 LAST\r\n"));
    assert!(replies.contains("552 5.3.4") && talk.server.outcome() == Some(Outcome::Unskippable), "{replies}");
}

#[test]
fn without_room_a_message_is_put_off_and_the_room_comes_back() {
    let mut talk = Talk::secured_with_memory(64);
    talk.log_in();
    let chunk = "x".repeat(100);
    assert!(talk.say(&format!("{TRANSACTION}BDAT 100 LAST\r\n{chunk}")).contains("452 4.3.1"));
    assert!(talk.submit(Ok(())).starts_with("250"), "a small one fits");
}

#[test]
fn a_message_that_went_round_in_circles_is_refused() {
    let mut talk = Talk::logged_in();
    talk.say(&format!("{TRANSACTION}DATA\r\n"));
    let hops = "Received:\r\n".repeat(101);
    assert!(talk.say(&format!("{hops}\r\n.\r\n")).starts_with("554 5.4.6"));
}

// ── Senders ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_user_may_name_only_the_senders_that_are_theirs() {
    let mut talk = Talk::logged_in();
    assert!(talk.say("MAIL FROM:<ann@elsewhere.example>\r\n").starts_with("550 5.7.1"));
    assert!(talk.say("MAIL FROM:<>\r\nRSET\r\n").starts_with("250 2.1.0"));
    assert!(talk.say("MAIL FROM:<anyone@EXAMPLE.org>\r\n").starts_with("250 2.1.0"));
}

// ── Time ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_login_has_its_own_deadline_and_a_logged_in_client_only_that_of_silence() {
    let mut talk = Talk::secured();
    assert_eq!(talk.server.poll_timeout(), Some(Duration::from_secs(180)));
    talk.log_in();
    assert_eq!(talk.server.poll_timeout(), Some(Duration::from_secs(300)));
    talk.server.handle_progress(Now::simulated_ms(50_000));
    assert_eq!(talk.server.poll_timeout(), Some(Duration::from_secs(350)));
}

#[test]
fn a_transaction_ends_in_time_however_busy_the_client_is() {
    let mut talk = Talk::logged_in();
    talk.say(TRANSACTION);
    talk.server.handle_progress(Now::simulated_ms(500_000));
    assert_eq!(talk.server.poll_timeout(), Some(Duration::from_secs(600)));
}

#[test]
fn nobody_is_hurried_while_the_next_move_is_ours() {
    let mut talk = Talk::secured();
    talk.say(LOGIN);
    assert_eq!(talk.server.poll_timeout(), None);
}

#[test]
fn a_silent_client_is_told_so_and_left() {
    let mut talk = Talk::logged_in();
    assert!(talk.reply(Server::handle_timeout).starts_with("421 4.4.2"));
    assert!(matches!(talk.server.poll_action(), Some(Action::Close)));
    assert_eq!(talk.server.outcome(), Some(Outcome::TimedOut));
    assert_eq!(talk.reply(Server::handle_timeout), "", "once is enough");
}

// ── Stopping ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_drained_server_finishes_the_transaction_and_begins_no_other() {
    let mut talk = Talk::logged_in();
    talk.say(TRANSACTION);
    assert_eq!(talk.reply(Server::handle_drain), "");
    talk.say(&format!("BDAT {} LAST\r\n{MESSAGE}", MESSAGE.len()));
    let Some(Action::Store(message)) = talk.server.poll_action() else { panic!("nothing to store") };
    let stored = Ok(Committed::attested_by_storage());
    let replies = talk.reply(|server, out| server.handle_stored(stored, message, out));
    assert!(replies.starts_with("250 2.0.0") && replies.contains("\r\n421 4.3.2"), "{replies}");
    assert_eq!(talk.server.outcome(), Some(Outcome::Drained));
}

#[test]
fn a_drained_server_ends_idle_connections_at_once_and_refuses_mail_after_a_login() {
    assert!(Talk::logged_in().reply(Server::handle_drain).starts_with("421 4.3.2"));
    let mut talk = Talk::secured();
    talk.say(LOGIN);
    talk.server.poll_action();
    assert_eq!(talk.reply(Server::handle_drain), "", "a login is finished");
    let member = Arc::new(Member { name: "ann".to_owned(), senders: Senders::Any });
    talk.reply(|server, out| server.handle_verdict(Verdict::Accepted(member), out));
    assert!(talk.say(TRANSACTION).starts_with("421 4.3.2"));
}

// ── Early talkers ───────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn only_a_qhlo_may_come_before_the_greeting_where_clients_must_wait() {
    let talk = Talk::begin(Opening::Clear, 1 << 20);
    let listing = &talk.server.settings.connect;
    let id = talk.server.id(listing);
    let right = format!("QHLO client.example {}\r\n", std::str::from_utf8(id.as_bytes()).unwrap());
    for (words, expected) in [
        (right.as_str(), Early::Greet),
        ("QHLO client.example AAAAAAAAAAAAAAAA\r\n", Early::Wait),
        ("QHLO client.example\r\n", Early::Wait),
        ("qhl", Early::Wait),
        ("", Early::Wait),
        ("EHLO client.example\r\n", Early::Refuse),
        ("QTLS\r\n", Early::Refuse),
        ("\u{16}\u{3}", Early::Refuse),
    ] {
        assert_eq!(talk.server.judge_early(words.as_bytes()), expected, "{words:?}");
    }
}

#[test]
fn an_early_ehlo_is_told_apart_in_the_summary() {
    let mut talk = Talk::begin(Opening::Clear, 1 << 20);
    talk.server.handle_early(b"EHLO client.example\r\n");
    talk.reply(Server::greet);
    talk.say("EHLO client.example\r\n");
    assert_eq!(talk.server.tally().start, Start::PipeConnect);
}

#[test]
fn an_ehlo_with_the_next_step_behind_it_was_said_early_even_if_the_greeting_was_faster() {
    for (words, start) in [
        ("EHLO client.example\r\nSTARTTLS\r\n", Start::PipeConnect),
        ("EHLO client.example\r\nauth PLAIN AGFubgBzZWNyZXQ=\r\n", Start::PipeConnect),
        ("EHLO client.example\r\nQUIT\r\n", Start::Esmtp),
        ("EHLO client.example\r\n", Start::Esmtp),
    ] {
        let mut talk = Talk::begin(Opening::Clear, 1 << 20);
        talk.reply(Server::greet);
        talk.say(words);
        assert_eq!(talk.server.tally().start, start, "{words:?}");
    }
}

// ── Bounds ──────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn commands_that_lead_to_no_message_are_bounded_and_a_message_starts_the_count_anew() {
    let mut talk = Talk::logged_in();
    talk.say(&"NOOP\r\n".repeat(14));
    assert!(talk.submit(Ok(())).starts_with("250"));
    let replies = talk.say(&"NOOP\r\n".repeat(21));
    assert!(replies.ends_with("421 4.7.0 Too many commands without a message\r\n"), "{replies}");
}

#[test]
fn what_suffers_from_a_failed_auth_is_no_error_of_its_own() {
    let mut talk = Talk::secured();
    talk.say(LOGIN);
    talk.server.poll_action();
    talk.reply(|server, out| server.handle_verdict(Verdict::Denied { delay: Duration::ZERO }, out));
    let replies = talk.say(&"RCPT TO:<bob@example.org>\r\n".repeat(10));
    assert_eq!(replies.matches("530 5.7.0 Authentication failure").count(), 10);
    assert_eq!(talk.server.tally().errors, 0);
}

#[test]
fn an_auth_line_may_be_long_and_no_other() {
    let mut talk = Talk::secured();
    talk.say("EHLO client.example\r\n");
    assert!(talk.say(&format!("NOOP {}\r\n", "x".repeat(3_000))).starts_with("500 5.5.2"));
    assert!(talk.say(&format!("AUTH PLAIN {}\r\n", "A".repeat(11_000))).starts_with("501 5.5.2"));
    assert!(talk.say(&format!("AUTH PLAIN {}\r\n", "A".repeat(13_000))).starts_with("500 5.5.2"));
}

/// Greeted, outside TLS.
fn in_the_clear() -> Talk {
    let mut talk = Talk::begin(Opening::Clear, 1 << 20);
    talk.reply(Server::greet);
    talk
}

fn behind_a_wrong_id() -> Talk {
    let mut talk = in_the_clear();
    assert!(talk.say("QHLO client.example wrong\r\n").starts_with("520"));
    talk
}

/// A word that is followed by a control character, or by more spaces than a command line or any line may have, or that does not
/// stand at the beginning of its line.
fn unreadable(word: &str) -> Vec<String> {
    let ends = ["\t", "\0", "\x0b", "\r", "\x7f", " 5 LAST\t", " 5\tLAST", " 5 LAST\0", " 5 LAST\rNOOP"];
    let long = [2_100, 13_000].map(|spaces| format!("{word}{} 5 LAST", " ".repeat(spaces)));
    let far_in = " ".repeat(13_000);
    let before = [" ", "  ", "\t", "\0", " \r", &far_in].map(|before| format!("{before}{word} 5"));
    ends.iter().map(|end| format!("{word}{end}")).chain(long).chain(before).collect()
}

#[test]
fn octets_behind_a_bdat_line_that_cannot_be_read_are_not_read_as_commands() {
    let inside = || {
        let mut talk = Talk::secured();
        talk.say("EHLO client.example\r\n");
        talk
    };
    let in_a_transaction = || {
        let mut talk = Talk::logged_in();
        talk.say(TRANSACTION);
        talk
    };
    let behind_a_wrong_password = || {
        let mut talk = inside();
        talk.say(LOGIN);
        talk.server.poll_action();
        assert!(
            talk.reply(|server, out| server.handle_verdict(Verdict::Denied { delay: Duration::ZERO }, out))
                .starts_with("535")
        );
        talk
    };
    let begin: [&dyn Fn() -> Talk; 5] =
        [&in_the_clear, &inside, &in_a_transaction, &behind_a_wrong_id, &behind_a_wrong_password];
    for line in unreadable("BDAT").into_iter().chain(unreadable("bdat")) {
        for begin in begin {
            let words = format!("{line}\r\nNOOP\r\n");
            for cut in [0, 1, 4, 5, line.len() / 2, line.len(), line.len() + 1] {
                let mut talk = begin();
                let (before, after) = words.split_at(cut);
                let replies = talk.say(before) + &talk.say(after);
                assert_eq!(replies, "501 5.5.4 BDAT needs a size in octets\r\n", "{line:?}, cut at {cut}");
                assert_eq!(talk.server.outcome(), Some(Outcome::Unskippable));
            }
        }
    }
}

#[test]
fn a_client_hello_behind_a_line_that_cannot_be_read_is_dropped() {
    for line in unreadable("STARTTLS").into_iter().chain(unreadable("qtls")) {
        let words = format!("{line}\r\n\x16\x03\x01\0\x06QUIT\r\nNOOP\r\n");
        for cut in [0, 1, 4, line.len() / 2, line.len(), line.len() + 2, line.len() + 5, words.len() - 7] {
            for (mut talk, unknown) in [(in_the_clear(), "500 5.5.1 "), (behind_a_wrong_id(), "503 5.5.1 ")] {
                let (before, after) = words.split_at(cut);
                let replies = talk.say(before) + &talk.say(after);
                // Some spaces before the word are no reason not to read the line.
                let is_read = line.starts_with(' ') && line.len() < 100 && !line.contains('\r');
                let code = if is_read { unknown } else { "500 5.5.2 " };
                let refused = replies.strip_prefix(code).unwrap_or_else(|| panic!("{line:?}, cut at {cut}: {replies}"));
                assert!(refused.ends_with("\r\n250 2.0.0 OK\r\n"), "{line:?}, cut at {cut}: {replies}");
                assert_eq!(talk.server.outcome(), None);
            }
        }
    }
}

#[test]
fn a_word_that_only_begins_like_a_command_is_an_unknown_one_however_long_its_line_is() {
    let mut talk = Talk::secured();
    for word in ["BDATA", "BDAT5", "QTLSX", "STARTTLSSTARTTLS", ""] {
        assert!(talk.say(&format!("{word}{}\r\n", "x".repeat(13_000))).starts_with("500 5.5.2"), "{word}");
        assert_eq!(talk.server.outcome(), None);
    }
}

#[test]
fn a_response_is_no_command_whatever_it_begins_with() {
    for response in ["BDAT 5\t", "QTLS\t"] {
        let mut talk = Talk::secured();
        talk.say("EHLO client.example\r\nAUTH PLAIN\r\n");
        assert!(talk.say(&format!("{response}\r\n")).starts_with("501 5.5.2"), "{response:?}");
        assert!(talk.say("\x16NOOP\r\n").starts_with("500 5.5.2"), "{response:?}");
    }
}

#[test]
fn responses_and_what_follows_a_failed_login_may_arrive_in_pieces() {
    for cut in 0..=LOGIN_RESPONSE.len() {
        let mut talk = Talk::secured();
        assert!(talk.say("EHLO client.example\r\nAUTH PLAIN\r\n").ends_with("334 \r\n"));
        let (before, after) = LOGIN_RESPONSE.split_at(cut);
        assert_eq!(talk.say(before) + &talk.say(after), "", "cut at {cut}");
        assert!(matches!(talk.server.poll_action(), Some(Action::Verify(_))), "cut at {cut}");
        talk.reply(|server, out| server.handle_verdict(Verdict::Denied { delay: Duration::ZERO }, out));
        let chunk = "BDAT 6 LAST\r\nQUIT\r\nNOOP\r\n";
        let (before, after) = chunk.split_at(cut.min(chunk.len()));
        let replies = talk.say(before) + &talk.say(after);
        assert_eq!(replies, "530 5.7.0 Authentication failure\r\n250 2.0.0 OK\r\n", "cut at {cut}");
    }
}

#[test]
fn tls_on_a_port_that_starts_in_the_clear_is_told_apart_from_a_command() {
    let mut talk = Talk::begin(Opening::Clear, 1 << 20);
    talk.reply(Server::greet);
    let mut out = Vec::new();
    talk.server.handle_bytes(talk.now, &[22, 3, 1, 0, 200, 1], &mut out);
    assert_eq!(talk.server.outcome(), Some(Outcome::NotSmtp));
}

#[test]
fn memory_is_given_back_at_rest() {
    let mut talk = Talk::logged_in();
    talk.submit(Ok(()));
    talk.server.rest();
    assert_eq!(talk.server.room.resources().message_bytes(), 0);
    assert_eq!(talk.server.message.envelope.capacity(), 0);
}

// ── Early data ──────────────────────────────────────────────────────────────────────────────────────────────────────

fn transaction(parameters: &str) -> String {
    let mail = format!("MAIL FROM:<ann@example.org>{parameters}\r\nRCPT TO:<bob@example.org>\r\n");
    format!("{mail}BDAT {} LAST\r\n{MESSAGE}", MESSAGE.len())
}

fn stored(talk: &mut Talk) -> String {
    let Some(Action::Store(message)) = talk.server.poll_action() else { panic!("nothing to store") };
    talk.reply(|server, out| server.handle_stored(Ok(Committed::attested_by_storage()), message, out))
}

#[test]
fn a_message_in_early_data_that_bears_a_token_is_stored_and_answered_at_once() {
    let mut talk = Talk::logged_in_early(|_| {});
    talk.say(&transaction(" XONCE=t1"));
    assert!(stored(&mut talk).starts_with("250 2.0.0 Queued"));
    assert_eq!((talk.server.tally().messages_early, talk.server.tally().messages_waited), (1, 0));
}

#[test]
fn a_message_in_early_data_without_a_token_is_stored_when_the_client_has_finished() {
    let mut talk = Talk::logged_in_early(|_| {});
    let behind = "NOOP\r\n";
    let said = transaction("") + behind;
    let mut out = Vec::new();
    let taken = talk.server.handle_bytes(talk.now, said.as_bytes(), &mut out);
    assert_eq!(taken, said.len() - behind.len());
    assert!(!String::from_utf8(out).unwrap().contains("Queued"));
    assert!(talk.server.poll_action().is_none(), "nothing is asked of storage");
    assert!(talk.server.is_waiting() && talk.server.is_awaiting_finish());
    talk.server.handle_finished();
    assert!(talk.server.is_waiting() && !talk.server.is_awaiting_finish());
    assert!(stored(&mut talk).starts_with("250 2.0.0 Queued"));
    assert_eq!(talk.say(behind), "250 2.0.0 OK\r\n");
    assert_eq!((talk.server.tally().messages_early, talk.server.tally().messages_waited), (0, 1));
}

#[test]
fn a_token_counts_for_nothing_where_tokens_are_not_announced() {
    let mut talk = Talk::logged_in_early(|settings| {
        let offer = Offer { once: false, ..offer() };
        settings.secured = Listing::new(&offer, Point::Secured);
    });
    talk.say(&transaction(" XONCE=t1"));
    assert!(talk.server.poll_action().is_none());
    assert!(talk.server.is_awaiting_finish());
}

#[test]
fn a_message_whose_client_never_finishes_is_not_stored_whatever_ends_the_connection() {
    let ends: [fn(&mut Server, &mut Vec<u8>); 2] = [Server::handle_timeout, Server::handle_cut];
    for end in ends {
        let mut talk = Talk::logged_in_early(|_| {});
        talk.say(&transaction(""));
        assert_eq!(talk.server.poll_timeout(), Some(Duration::from_secs(300)), "it is the client that is waited for");
        assert!(talk.reply(end).starts_with("421"));
        talk.server.handle_finished();
        assert!(matches!(talk.server.poll_action(), Some(Action::Close)));
        assert_eq!((talk.server.tally().messages, talk.server.tally().refused_for_now), (0, 1));
    }
}

#[test]
fn a_message_that_began_in_early_data_and_ended_behind_the_finished_does_not_wait() {
    let mut talk = Talk::logged_in_early(|_| {});
    let said = transaction("");
    let (early, late) = said.split_at(said.len() - 5);
    talk.say(early);
    talk.server.handle_finished();
    talk.say(late);
    assert!(stored(&mut talk).starts_with("250 2.0.0 Queued"));
    assert_eq!((talk.server.tally().messages_early, talk.server.tally().messages_waited), (0, 0));
}

#[test]
fn a_refused_message_in_early_data_is_answered_at_once() {
    let mut talk = Talk::logged_in_early(|_| {});
    let mail = "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\n";
    let replies = talk.say(&format!("{mail}BDAT 6 LAST\r\na\nb\nc\n"));
    assert!(replies.lines().last().unwrap().starts_with("550 5.6.0"), "{replies}");
    assert!(!talk.server.is_awaiting_finish());
}

#[test]
fn a_drain_lets_a_message_that_waits_for_the_finished_go_on() {
    let mut talk = Talk::logged_in_early(|_| {});
    talk.say(&transaction(""));
    assert_eq!(talk.reply(Server::handle_drain), "");
    talk.server.handle_finished();
    let replies = stored(&mut talk);
    assert!(replies.starts_with("250 2.0.0 Queued") && replies.contains("421"), "{replies}");
}
