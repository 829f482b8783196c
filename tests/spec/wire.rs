//! What is said on the wire, where no dialog can say it: exact texts, sizes, and what is stored.
//!
//! It drives a connection without a socket, and knows nothing of the tables.

use data_encoding::BASE64;
use onetrip::limits;
use onetrip::proto::channel::TlsFacts;
use onetrip::proto::client::{
    Action, Address, Client as MailClient, Config, Content, HelloName, Message, Profile, Recipient, Security,
    ServerMemory,
};
use onetrip::proto::credential::Verdict;
use onetrip::proto::proof::Encrypted;
use onetrip::proto::server::{Opening, Peer, Resources, Server, Settings};
use onetrip::time::Now;
use onetrip::tls::Versions;

use crate::support::{Client, Driver, HOSTNAME, PASSWORD, Site, USER, client_tls};

/// A client and a server in conversation.
struct Talk {
    server: Driver,
    client: Client,
    /// The lines of the greeting.
    greeting: Vec<String>,
}

impl Talk {
    /// In the clear, greeted.
    fn clear(site: &Site) -> Self {
        let (mut server, mut client) = (site.connect(Opening::Clear), Client::new(client_tls(Versions::Tls13)));
        let (greeting, _) = client.hear(&server.receive(&[]));
        Self { server, client, greeting }
    }

    /// Inside implicit TLS, greeted.
    fn secured(site: &Site) -> Self {
        let server = site.connect(Opening::ImplicitTls);
        let mut talk = Self { server, client: Client::new(client_tls(Versions::Tls13)), greeting: Vec::new() };
        talk.greeting = talk.shake_hands(b"");
        talk
    }

    /// After EHLO and AUTH.
    fn logged_in(site: &Site) -> Self {
        let mut talk = Self::secured(site);
        let login = BASE64.encode(format!("\0{USER}\0{PASSWORD}").as_bytes());
        let replies = talk.say(&format!("EHLO client.example\r\nAUTH PLAIN {login}\r\n"));
        assert!(replies.last().unwrap().starts_with("235"), "{replies:?}");
        talk
    }

    /// Says `words` in the clear, then shakes hands; returns what is said inside.
    fn shake_hands(&mut self, words: &[u8]) -> Vec<String> {
        let mut packet = words.to_vec();
        self.client.begin_tls(&mut packet);
        let mut lines = Vec::new();
        while !packet.is_empty() {
            lines.extend(self.client.hear(&self.server.receive(&[&packet])).0);
            packet.clear();
            self.client.flush_tls(&mut packet);
        }
        lines
    }

    /// Says `words` at once and returns the lines of all replies.
    fn say(&mut self, words: &str) -> Vec<String> {
        self.say_bytes(words.as_bytes())
    }

    fn say_bytes(&mut self, words: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        // No more than TLS takes at once.
        for piece in words.chunks(10_000) {
            let mut packet = Vec::new();
            self.client.say(piece, &mut packet);
            lines.extend(self.client.hear(&self.server.receive(&[&packet])).0);
        }
        lines
    }

    /// Says a command and returns its reply, which must have one line.
    fn ask(&mut self, command: &str) -> String {
        let mut lines = self.say(&format!("{command}\r\n"));
        assert_eq!(lines.len(), 1, "{command}: {lines:?}");
        lines.remove(0)
    }

    fn asks(&mut self, command: &str, reply: &str) {
        let answer = self.ask(command);
        assert!(answer.starts_with(reply), "{command}: {answer}");
    }

    /// Sends a message by BDAT.
    fn submit(&mut self, content: &[u8]) -> String {
        self.asks("MAIL FROM:<ann@example.org>", "250");
        self.asks("RCPT TO:<bob@example.org>", "250");
        let mut words = format!("BDAT {} LAST\r\n", content.len()).into_bytes();
        words.extend_from_slice(content);
        self.say_bytes(&words).remove(0)
    }

    fn trace(&self) -> String {
        String::from_utf8(self.server.stored.last().unwrap().trace.clone()).unwrap()
    }
}

/// The extensions of a list, without code and first line.
fn extensions(lines: &[String]) -> Vec<&str> {
    lines[1..].iter().map(|line| &line[4..]).collect()
}

fn id_in(lines: &[String]) -> &str {
    let line = lines.iter().find(|line| line.contains("QHLO=")).unwrap();
    line.split("QHLO=").nth(1).unwrap().split(' ').next().unwrap()
}

// ── Greetings and lists ─────────────────────────────────────────────────────────────────────────────────────────────

fn is_keyword(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-') && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// One line of a list by the grammar of draft §4 and RFC 5321 §4.1.1.1.
fn assert_is_extension(line: &str) {
    let mut words = line.split(' ');
    let keyword = words.next().unwrap();
    assert!(is_keyword(keyword), "{line:?}");
    for word in words {
        assert!(!word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic()), "{line:?}");
        let (name, value) = word.split_once('=').unwrap_or((word, "x"));
        if keyword == "QUICKSTART" {
            assert!(is_keyword(name) && !value.is_empty() && !value.contains('='), "{line:?}");
        }
    }
}

#[test]
fn the_greeting_keeps_to_its_grammar_at_both_points() {
    let site = Site::new();
    for talk in [Talk::clear(&site), Talk::secured(&site)] {
        let (last, others) = talk.greeting.split_last().unwrap();
        assert!(talk.greeting[0].starts_with(&format!("220-{HOSTNAME} ")));
        assert!(last.starts_with("220 ") && others.iter().all(|line| line.starts_with("220-")), "{:?}", talk.greeting);
        assert!(talk.greeting.iter().all(|line| line.is_ascii() && line.len() + 2 <= 512));
        let list = extensions(&talk.greeting);
        list.iter().for_each(|line| assert_is_extension(line));
        assert!(list.contains(&"PIPELINING"));
        assert_eq!(list.iter().filter(|line| line.starts_with("QUICKSTART ")).count(), 1, "{list:?}");
        assert_eq!(id_in(&talk.greeting).len(), 16);
    }
}

#[test]
fn greeting_ehlo_and_521_carry_one_list_and_one_id() {
    let site = Site::new();
    let mut clear = Talk::clear(&site);
    let answer = clear.say("EHLO client.example\r\n");
    assert_eq!(extensions(&answer), extensions(&clear.greeting));

    let secured = Talk::secured(&site);
    let mut upgraded = Talk::clear(&site);
    upgraded.say("STARTTLS\r\n");
    assert_eq!(upgraded.shake_hands(b""), [""; 0], "the client speaks first after STARTTLS");
    let refusal = upgraded.say("QHLO client.example AAAAAAAAAAAAAAAA\r\n");
    assert!(refusal[0].starts_with(&format!("521-{HOSTNAME}")) && refusal.last().unwrap().starts_with("521 "));
    assert_eq!(extensions(&refusal), extensions(&secured.greeting));
    assert!(upgraded.ask(&format!("QHLO client.example {}", id_in(&refusal))).starts_with("220 "));
    assert_eq!(extensions(&upgraded.say("EHLO client.example\r\n")), extensions(&secured.greeting));
}

#[test]
fn the_answer_to_qhlo_is_one_line_with_the_name_of_the_server() {
    let site = Site::new();
    for mut talk in [Talk::clear(&site), Talk::secured(&site)] {
        let full = format!("QHLO client.example {}", id_in(&talk.greeting));
        for command in ["QHLO client.example", &full] {
            assert_eq!(talk.ask(command), format!("220 {HOSTNAME}"));
        }
    }
}

#[test]
fn an_id_in_other_letters_is_another_id() {
    let site = Site::new();
    let mut talk = Talk::clear(&site);
    let id = id_in(&talk.greeting).to_owned();
    let swap = |letter: char| {
        if letter.is_ascii_lowercase() { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() }
    };
    let other: String = id.chars().map(swap).collect();
    assert_ne!(other, id, "an id without a letter would prove nothing");
    talk.asks(&format!("QHLO client.example {other}"), "520");
    talk.asks(&format!("QHLO client.example {id}"), "220");
}

#[test]
fn the_name_in_a_hello_decides_nothing() {
    let site = Site::new();
    let id = id_in(&Talk::clear(&site).greeting).to_owned();
    for name in ["client.example", "other.example", "localhost", "[203.0.113.9]", HOSTNAME] {
        Talk::clear(&site).asks(&format!("QHLO {name} {id}"), "220");
        let mut talk = Talk::logged_in(&site);
        assert!(talk.say(&format!("EHLO {name}\r\n"))[0].starts_with("250-"), "{name}");
        assert!(talk.submit(b"Subject: x\r\n").starts_with("250"), "{name}");
    }
}

/// Keywords of RFCs, and those of the draft and of PIPECONNECT, that each list has.
#[test]
fn the_announced_extensions_are_those_that_the_tables_are_about() {
    let site = Site::new();
    let everywhere = [
        "QUICKSTART",
        "PIPELINING",
        "8BITMIME",
        "CHUNKING",
        "BINARYMIME",
        "SMTPUTF8",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "SIZE",
        "LIMITS",
        "HELP",
    ];
    let all_others = ["STARTTLS", "AUTH", "PIPECONNECT", "REQUIRETLS", "XONCE"];
    for (talk, only_here, elsewhere) in
        [(Talk::clear(&site), "STARTTLS", "AUTH"), (Talk::secured(&site), "AUTH", "STARTTLS")]
    {
        let list = extensions(&talk.greeting);
        let keywords: Vec<&str> = list.iter().map(|line| line.split(' ').next().unwrap()).collect();
        for keyword in everywhere.into_iter().chain([only_here]) {
            assert!(keywords.contains(&keyword), "{keyword}: {list:?}");
        }
        assert!(!keywords.contains(&elsewhere), "{list:?}");
        for keyword in keywords {
            assert!(everywhere.contains(&keyword) || all_others.contains(&keyword), "{keyword} is in no table");
        }
        for alone in ["PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8", "DSN", "SIZE 100000"] {
            assert!(list.contains(&alone), "{alone}: {list:?}");
        }
    }
}

#[test]
fn announced_limits_are_names_and_numbers() {
    let site = Site::new();
    let talk = Talk::secured(&site);
    let list = extensions(&talk.greeting);
    let limits = list.iter().find_map(|line| line.strip_prefix("LIMITS ")).unwrap();
    assert_eq!(limits, "MAILMAX=10 RCPTMAX=3");
    assert_eq!((site.settings.bounds.messages_max, site.settings.bounds.recipients_max), (10, 3));
}

#[test]
fn requiretls_is_announced_and_taken_inside_tls_only() {
    let site = Site::new();
    let mut clear = Talk::clear(&site);
    assert!(!extensions(&clear.greeting).contains(&"REQUIRETLS"));
    clear.say("EHLO client.example\r\n");
    clear.asks("MAIL FROM:<ann@example.org> REQUIRETLS", "530");
    let mut secured = Talk::logged_in(&site);
    assert!(extensions(&secured.greeting).contains(&"REQUIRETLS"));
    secured.asks("MAIL FROM:<ann@example.org> REQUIRETLS=1", "501");
    secured.asks("MAIL FROM:<ann@example.org> REQUIRETLS", "250");
    secured.asks("RCPT TO:<bob@example.org>", "250");
    secured.asks("BDAT 0 LAST", "250");
    assert!(secured.server.stored[0].envelope.requires_tls());
}

// ── Replies ─────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn each_command_has_one_reply_and_it_comes_at_once() {
    let mut talk = Talk::logged_in(&Site::with(|settings| settings.bounds.errors_max = 100));
    for command in [
        "NOOP",
        "noop x",
        "RSET",
        "HELP",
        "HELP MAIL",
        "VRFY bob",
        "VRFY",
        "EXPN list",
        "ETRN x",
        "XYZZY",
        "",
        " ",
        "AUTH PLAIN",
        "AUTH",
        "STARTTLS",
        "QTLS",
        "HELO",
        "HELO client.example",
        "EHLO",
        "QHLO",
        "QHLO a b c",
        "QHLO client.example",
        "RCPT TO:<bob@example.org>",
        "DATA",
        "MAIL",
        "MAIL FROM:<",
        "MAIL FROM:<ann@example.org>",
        "RCPT TO:<>",
        "RCPT TO:<bob@example.org>",
        "BDAT 0",
        "BDAT 0",
        "RCPT TO:<bob@example.org>",
        "RSET",
        "BDAT 0 LAST",
        "MAIL FROM:<ann@example.org>",
        "RCPT TO:<bob@example.org>",
        "BDAT 0 LAST",
        "QUIT",
    ] {
        let reply = talk.ask(command);
        assert!(reply.starts_with(['2', '3', '4', '5']), "{command}: {reply}");
        assert!(reply.as_bytes()[..3].iter().all(u8::is_ascii_digit) && reply.as_bytes()[3] == b' ', "{reply}");
    }
    assert!(talk.server.closed);
}

#[test]
fn hellos_are_answered_without_an_enhanced_code() {
    let mut talk = Talk::clear(&Site::new());
    let mut lines = talk.greeting.clone();
    for hello in ["HELO client.example", "EHLO client.example", "QHLO client.example", "EHLO", "QHLO c wrong"] {
        lines.extend(talk.say(&format!("{hello}\r\n")));
    }
    for line in lines {
        let word = line[4..].split(' ').next().unwrap();
        assert!(word.split('.').any(|part| part.parse::<u16>().is_err()), "{line}");
    }
}

#[test]
fn mail_rcpt_and_rset_are_told_apart_by_their_answers() {
    let mut talk = Talk::logged_in(&Site::new());
    let replies = talk.say("MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nRSET\r\nNOOP\r\n");
    for (reply, word) in replies.iter().zip(["Sender", "Recipient", "Transaction", "OK"]) {
        assert!(reply.contains(word), "{reply}");
    }
}

#[test]
fn a_control_character_refuses_the_command() {
    let mut talk = Talk::logged_in(&Site::new());
    for command in ["MAIL FROM:<a\tb@example.org>", "NOOP \0", "RCPT TO:<\u{7f}@example.org>", "N\u{1b}OOP"] {
        talk.asks(command, "500 5.5.2");
    }
    talk.asks("NOOP", "250");
}

// ── AUTH ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn an_empty_challenge_is_334_and_a_space() {
    let mut talk = Talk::secured(&Site::new());
    talk.say("EHLO client.example\r\n");
    assert_eq!(talk.ask("AUTH PLAIN"), "334 ");
    assert_eq!(talk.ask(&BASE64.encode(b"\0ann\0secret")), "235 2.7.0 Authentication succeeded");
}

#[test]
fn nobody_acts_as_somebody_else() {
    let mut talk = Talk::secured(&Site::new());
    talk.say("EHLO client.example\r\n");
    talk.asks(&format!("AUTH PLAIN {}", BASE64.encode(b"bob\0ann\0secret")), "535 5.7.8");
    talk.asks(&format!("AUTH PLAIN {}", BASE64.encode(b"ann\0ann\0secret")), "235");
}

#[test]
fn a_response_that_is_too_long_fails_the_login() {
    let mut talk = Talk::secured(&Site::new());
    talk.say("EHLO client.example\r\n");
    assert_eq!(talk.ask("AUTH PLAIN"), "334 ");
    let long = "A".repeat(limits::AUTH_LINE_BYTES_MAX);
    talk.asks(&long, "500 5.5.6");
    talk.asks("MAIL FROM:<ann@example.org>", "530 5.7.0");
}

#[test]
fn every_outcome_of_a_login_has_its_reply() {
    let member = std::sync::Arc::new(onetrip::proto::credential::Member {
        name: USER.to_owned(),
        senders: onetrip::proto::credential::Senders::Any,
    });
    for (verdict, reply) in [
        (Verdict::Accepted(member), "235 2.7.0 "),
        (Verdict::Denied { delay: std::time::Duration::ZERO }, "535 5.7.8 "),
        (Verdict::Unavailable, "454 4.7.0 "),
    ] {
        let mut server = secured_server(&Site::new().settings);
        let mut out = Vec::new();
        server.handle_bytes(NOW, b"EHLO client.example\r\nAUTH PLAIN AGFubgBzZWNyZXQ=\r\n", &mut out);
        out.clear();
        assert!(server.poll_action().is_some());
        server.handle_verdict(verdict, &mut out);
        assert!(out.starts_with(reply.as_bytes()), "{}", String::from_utf8_lossy(&out));
    }
}

const NOW: Now = Now::simulated_ms(0);

/// A server alone, behind a handshake that is only claimed.
fn secured_server(settings: &std::sync::Arc<Settings>) -> Server {
    let peer = Peer { client: "198.51.100.7:40000".parse().unwrap(), server: "192.0.2.1".parse().unwrap() };
    let resources = std::sync::Arc::new(Resources::new(0, 1 << 30));
    let mut server = Server::new(std::sync::Arc::clone(settings), resources, peer, Opening::ImplicitTls, NOW);
    server.greet(&mut Vec::new());
    let facts = TlsFacts { version: "TLSv1.3", cipher: "TLS_AES_128_GCM_SHA256", resumed: false };
    server.handle_secured(facts, Encrypted::attested_by_handshake());
    server
}

// ── Sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn the_defaults_leave_clients_what_the_rfcs_promise_them() {
    for (section, bound, least) in [
        ("RFC 5321 §4.5.3.1.7", limits::MESSAGE_BYTES_MAX, 64 << 10),
        ("RFC 5321 §4.5.3.1.8", limits::RECIPIENTS_MAX.into(), 100),
        ("RFC 5321 §4.5.3.2", limits::CLIENT_REPLY_TIMEOUT.as_secs(), 5 * 60),
        ("RFC 5321 §4.5.3.2.6", limits::CLIENT_MESSAGE_TIMEOUT.as_secs(), 10 * 60),
        ("RFC 5321 §4.5.3.2.7", limits::IDLE_TIMEOUT.as_secs(), 5 * 60),
        ("RFC 5321 §6.3", limits::HOPS_MAX as u64, 100),
        ("RFC 4954 §9", limits::AUTH_ATTEMPTS_MAX.into(), 3),
    ] {
        assert!(bound >= least, "{section}: {bound}");
    }
}

/// A domain of that many letters, in labels of at most 63.
fn domain_of(letters: usize) -> String {
    let mut domain = "d".repeat(letters);
    for dot in (63..letters - 1).step_by(64) {
        domain.replace_range(dot..=dot, ".");
    }
    domain
}

#[test]
fn addresses_lines_and_recipients_are_taken_up_to_the_sizes_of_rfc_5321() {
    let mut talk = Talk::logged_in(&Site::with(|settings| {
        settings.bounds.recipients_max = limits::RECIPIENTS_MAX;
        settings.bounds.commands_max = limits::COMMANDS_MAX;
    }));
    let local = "l".repeat(64);
    let longest_path = format!("<{local}@{}>", domain_of(256 - 2 - 64 - 1));
    assert_eq!(longest_path.len(), 256);
    talk.asks(&format!("EHLO {}", domain_of(256)), "501");
    assert!(talk.say(&format!("EHLO {}\r\n", domain_of(255)))[0].starts_with("250-"));
    talk.asks(&format!("NOOP {}", "x".repeat(512 - "NOOP \r\n".len())), "250");
    talk.asks(&format!("MAIL FROM:{longest_path}"), "250");
    for number in 0..100 {
        talk.asks(&format!("RCPT TO:<r{number}@example.org>"), "250");
    }
    talk.asks(&format!("RCPT TO:{longest_path}"), "250");
    talk.asks(&format!("RCPT TO:<{local}l@example.org>"), "501");
    talk.asks("BDAT 0 LAST", "250");
    assert_eq!(talk.server.stored[0].envelope.recipient_count(), 101);
}

#[test]
fn mail_may_bear_the_longest_parameters_together() {
    let mut talk = Talk::logged_in(&Site::new());
    let path = format!("<{}@{}>", "l".repeat(64), domain_of(189));
    let (envid, auth) = ("e".repeat(100), "a".repeat(500));
    talk.asks(&format!("MAIL FROM:{path} SIZE=99999 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID={envid} AUTH={auth}"), "250");
    let orcpt = format!("rfc822;{}", "o".repeat(500 - "rfc822;".len()));
    talk.asks(&format!("RCPT TO:{path} NOTIFY=SUCCESS,FAILURE,DELAY ORCPT={orcpt}"), "250");
    talk.asks(&format!("RCPT TO:{path} ORCPT={orcpt}o"), "501");
    talk.asks("RSET", "250");
    talk.asks(&format!("MAIL FROM:{path} ENVID={envid}e"), "501");
    talk.asks(&format!("MAIL FROM:{path} AUTH={auth}a"), "501");
}

#[test]
fn a_message_of_the_limit_is_taken_and_one_octet_more_is_not() {
    let mut talk = Talk::logged_in(&Site::new());
    let mut content = b"Subject: x\r\n\r\n".to_vec();
    content.resize(99_998, b'x');
    content.extend_from_slice(b"\r\n");
    assert!(talk.submit(&content).starts_with("250"));
    assert_eq!(talk.server.stored[0].content, content);
    content.push(b'x');
    assert!(talk.submit(&content).starts_with("552 5.3.4"));
    assert_eq!(talk.server.stored.len(), 1);
}

#[test]
fn lines_of_content_may_have_any_length() {
    let mut talk = Talk::logged_in(&Site::new());
    for length in [998, 1_000, 50_000] {
        let content = format!("Subject: x\r\n\r\n{}\r\n", "x".repeat(length));
        talk.asks("MAIL FROM:<ann@example.org>", "250");
        talk.asks("RCPT TO:<bob@example.org>", "250");
        talk.asks("DATA", "354");
        assert!(talk.say(&format!("{content}.\r\n"))[0].starts_with("250"), "{length}");
        assert_eq!(talk.server.stored.last().unwrap().content, content.as_bytes());
    }
}

// ── Messages ────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn what_is_written_above_a_message_changes_nothing_in_it() {
    let mut talk = Talk::logged_in(&Site::new());
    let content =
        b"Received: from b by c; d\r\nX: 1\r\nReceived: from a by b; c\r\nDate: x\r\nMessage-ID: <y>\r\n\r\nz\r\n";
    assert!(talk.submit(content).starts_with("250"));
    assert_eq!(talk.server.stored[0].content, content);
    let trace = talk.trace();
    assert!(trace.starts_with("Received: from client.example ([198.51.100.7])\r\n\tby mail.example "), "{trace}");
    assert_eq!(trace.matches("\r\n").count(), trace.matches("\r\n\t").count() + 1, "one field: {trace}");
}

#[test]
fn several_recipients_are_not_named_to_each_other() {
    let mut talk = Talk::logged_in(&Site::new());
    talk.submit(b"Subject: x\r\n");
    assert!(talk.trace().contains("\tfor <bob@example.org>\r\n"), "{}", talk.trace());
    talk.say(
        "MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nRCPT TO:<eve@example.org>\r\nBDAT 0 LAST\r\n",
    );
    let trace = talk.trace();
    assert!(!trace.contains("bob") && !trace.contains("eve") && !trace.contains("\tfor "), "{trace}");
}

#[test]
fn a_message_is_taken_whatever_its_header_looks_like() {
    let mut talk = Talk::logged_in(&Site::new());
    for content in [
        "Resent-To: eve@example.org\r\nFrom: ann@example.org\r\n\r\nx\r\n",
        "Resent-From: a@b\r\nResent-To: a@b\r\nResent-To: a@b\r\n\r\nx\r\n",
        "From: nobody at all\r\nTo: <<>\r\nDate: yesterday\r\n\r\nx\r\n",
        "no header at all\r\n",
        "\r\n",
        "MIME-Version: 7\r\nContent-Type: x\r\n\r\nx\r\n",
    ] {
        assert!(talk.submit(content.as_bytes()).starts_with("250"), "{content:?}");
        assert_eq!(talk.server.stored.last().unwrap().content, content.as_bytes());
    }
}

#[test]
fn control_characters_in_content_are_kept() {
    let mut talk = Talk::logged_in(&Site::new());
    let controls: Vec<u8> = (0..128).filter(|byte| !b"\r\n".contains(byte)).collect();
    let content = [b"Subject: x\r\n\r\n", &controls[..], b"\r\n"].concat();
    assert!(talk.submit(&content).starts_with("250"));
    assert_eq!(talk.server.stored[0].content, content);
    talk.say("MAIL FROM:<ann@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n");
    talk.say_bytes(&[&content[..], b".\r\n"].concat());
    assert_eq!(talk.server.stored[1].content, content);
}

#[test]
fn orcpt_takes_addresses_in_the_encoding_of_rfc_6533() {
    let mut talk = Talk::logged_in(&Site::new());
    talk.asks("MAIL FROM:<ann@example.org> SMTPUTF8", "250");
    talk.asks("RCPT TO:<bob@example.org> ORCPT=utf-8;\\x{E4}nn@ex\\x{E4}mple.org", "250");
    talk.asks("RCPT TO:<bob@example.org> ORCPT=utf-8;änn@example.org", "501");
}

// ── The client ──────────────────────────────────────────────────────────────────────────────────────────────────────

/// All that a client says until it waits.
fn said_by(client: &mut MailClient) -> String {
    let mut bytes = Vec::new();
    while client.poll_output(NOW, &mut bytes) > 0 {}
    assert_eq!(client.poll_action(), Action::Wait);
    String::from_utf8(bytes).unwrap()
}

/// A client in plain ESMTP and in the clear, with a message to so many.
fn client_with_recipients(count: usize) -> MailClient {
    let recipient = |number| Recipient::new(Address::parse(&format!("r{number}@y")).unwrap());
    let message =
        Message::new(Address::parse("a@x").unwrap(), (0..count).map(recipient).collect(), Content::normalised(b"hi\n"));
    let config = Config {
        security: Security::Plain,
        profile: Profile::Esmtp,
        ..Config::new(HelloName::parse("client.example").unwrap())
    };
    MailClient::new(NOW, config, ServerMemory::default(), vec![message])
}

#[test]
fn a_client_does_not_run_ahead_of_a_server_that_owes_many_replies() {
    let mut client = client_with_recipients(2 * limits::OUTSTANDING_REPLIES_MAX);
    client.handle_bytes(NOW, b"220 s\r\n");
    said_by(&mut client);
    client.handle_bytes(NOW, b"250-s\r\n250 PIPELINING\r\n");
    assert_eq!(said_by(&mut client).lines().count(), limits::OUTSTANDING_REPLIES_MAX);
    client.handle_bytes(NOW, b"250 ok\r\n");
    assert_eq!(said_by(&mut client).lines().count(), 1);
}

#[test]
fn after_ehlo_the_list_in_the_greeting_counts_for_nothing() {
    let mut client = client_with_recipients(1);
    assert_eq!(said_by(&mut client), "");
    client.handle_bytes(NOW, b"220-s\r\n220-PIPELINING\r\n220-CHUNKING\r\n220 QUICKSTART QHLO=abc\r\n");
    assert_eq!(said_by(&mut client), "EHLO client.example\r\n");
    client.handle_bytes(NOW, b"250 s\r\n");
    assert_eq!(said_by(&mut client), "MAIL FROM:<a@x>\r\n", "no PIPELINING");
    client.handle_bytes(NOW, b"250 ok\r\n");
    assert_eq!(said_by(&mut client), "RCPT TO:<r0@y>\r\n");
    client.handle_bytes(NOW, b"250 ok\r\n");
    assert_eq!(said_by(&mut client), "DATA\r\n", "no CHUNKING");
}
