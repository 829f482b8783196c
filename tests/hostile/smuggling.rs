//! SMTP smuggling: content that some server somewhere would take for the end of the message, with commands behind it.
//!
//! Every form is sent whole, byte by byte, and cut at each place where a packet or a TLS record can end inside of it. The
//! commands must never be carried out: one reply, and what is stored is one message or none.

use crate::process::client::Client;
use crate::process::{RECIPIENT, SENDER, Server, Site};

/// Ends of a message as other servers have believed in them, none of which is CRLF `.` CRLF.
const FALSE_ENDS: &[&str] = &[
    "\n.\n",
    "\n.\r\n",
    "\r\n.\n",
    "\r.\r",
    "\r.\r\n",
    "\r\n.\r",
    "\n.\r",
    "\r.\n",
    "\r\n.\r\r\n",
    "\r\n\r.\r\n",
    "\r\r\n.\r\r\n",
    "\r\n\0.\r\n",
    "\r\n.\0\r\n",
    "\n\n.\n\n",
    "\r\n.\x0b\n",
    "\r\n.\x0c\n",
    "\r\n .\r\n",
    "\r\n. \r\n",
    "\r\n..\r\n",
    "\r\n\u{85}.\u{85}",
    "\u{2028}.\u{2028}",
];

const SMUGGLED: &str =
    "MAIL FROM:<root@example.org>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\nBelieve me\r\n";

/// The ways in which `content` can come: whole, byte by byte, and in two at every offset of `critical`.
fn cuts(content: &str, critical: std::ops::Range<usize>) -> Vec<Vec<&[u8]>> {
    let bytes = content.as_bytes();
    let mut ways = vec![vec![bytes], bytes.chunks(1).collect()];
    ways.extend((critical.start..=critical.end).map(|cut| vec![&bytes[..cut], &bytes[cut..]]));
    ways
}

/// Every false end, every cut, on one connection: `begin` has said all up to the content.
fn attempt(client: &mut Client, ask: impl Fn(&mut Client, &[Vec<u8>]) -> String) -> Vec<String> {
    let mut replies = Vec::new();
    for end in FALSE_ENDS {
        let before = "Subject: innocent\r\n\r\nHello";
        let content = format!("{before}{end}{SMUGGLED}");
        for pieces in cuts(&content, before.len()..before.len() + end.len()) {
            let pieces: Vec<Vec<u8>> = pieces.into_iter().map(<[u8]>::to_vec).collect();
            replies.push(ask(client, &pieces));
        }
    }
    replies
}

fn by_data(client: &mut Client, pieces: &[Vec<u8>]) -> String {
    client.begin_message(RECIPIENT);
    // In TLS each piece is a record of its own; in TCP it is a packet, as the client does not wait to fill one.
    pieces.iter().for_each(|piece| client.send(piece));
    let reply = client.ask("\r\n.", "");
    client.ask("NOOP", "250");
    reply
}

fn by_chunk(client: &mut Client, pieces: &[Vec<u8>]) -> String {
    let bytes: usize = pieces.iter().map(Vec::len).sum();
    client.send(format!("MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {bytes} LAST\r\n"));
    pieces.iter().for_each(|piece| client.send(piece));
    client.expect("250");
    client.expect("250");
    let reply = client.reply();
    client.ask("NOOP", "250");
    reply
}

fn site_and_server(bare_newline: &str) -> (Site, Server) {
    let site = Site::new();
    let server = site.serve(&[
        "--bare-newline",
        bare_newline,
        "--sync",
        "none",
        "--commands-max",
        "100000",
        "--errors-max",
        "100000",
    ]);
    (site, server)
}

/// Nothing went to the victim, and every message that was stored holds the smuggled commands as text.
fn assert_nothing_smuggled(site: &Site, stored: usize) {
    assert!(site.messages("victim@example.org").is_empty());
    let messages = site.messages(RECIPIENT);
    assert_eq!(messages.len(), stored);
    for message in messages {
        let text = String::from_utf8_lossy(&message).into_owned();
        assert!(text.contains("RCPT TO:<victim@example.org>"), "{text:?}");
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "a bare newline is stored: {text:?}");
    }
}

#[test]
fn no_false_end_smuggles_a_message_through_data_or_chunks_whatever_happens_to_bare_newlines() {
    for bare_newline in ["reject", "normalize"] {
        let (site, server) = site_and_server(bare_newline);
        let mut client = Client::logged_in(&server);
        let mut replies = attempt(&mut client, by_data);
        replies.extend(attempt(&mut client, by_chunk));
        client.quit();
        let stored = replies.iter().filter(|reply| reply.starts_with("250 2.0.0 Queued")).count();
        let refused = replies.iter().filter(|reply| reply.starts_with("550 5.6.0")).count();
        assert_eq!(stored + refused, replies.len(), "{replies:?}");
        assert_eq!(refused > 0, bare_newline == "reject");
        assert!(stored > 0, "some of the forms are innocent text");
        site.arrived(RECIPIENT, stored);
        server.stop(&site);
        assert_nothing_smuggled(&site, stored);
    }
}

#[test]
fn a_true_end_is_one_however_it_is_cut_into_records() {
    let (site, server) = site_and_server("reject");
    let mut client = Client::logged_in(&server);
    let content = "Subject: whole\r\n\r\nRCPT TO:<victim@example.org>\r\n.\r\n";
    for pieces in cuts(content, content.len() - 5..content.len() - 1) {
        client.begin_message(RECIPIENT);
        pieces.iter().for_each(|piece| client.send(piece));
        client.expect("250 2.0.0 Queued");
    }
    client.quit();
    site.arrived(RECIPIENT, cuts(content, content.len() - 5..content.len() - 1).len());
    server.stop(&site);
    assert_nothing_smuggled(&site, cuts(content, content.len() - 5..content.len() - 1).len());
}

#[test]
fn a_chunk_that_is_shorter_or_longer_than_it_says_gives_no_command_away() {
    let (site, server) = site_and_server("normalize");
    // Too short a size: what is behind it is read as commands, which it is not, and the message ends where it was said to.
    let mut client = Client::logged_in(&server);
    client.send(format!(
        "MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT 20 LAST\r\nSubject: x\r\n\r\nHello, not a command\r\n"
    ));
    for code in ["250", "250", "250 2.0.0 Queued", "500"] {
        client.expect(code);
    }
    client.ask("RCPT TO:<victim@example.org>", "503");
    client.quit();
    // Too long a size: the next commands are content, and none of them is answered.
    let mut client = Client::logged_in(&server);
    let commands = "RSET\r\nMAIL FROM:<root@example.org>\r\nRCPT TO:<victim@example.org>\r\nQUIT\r\n";
    client.send(format!("MAIL FROM:<{SENDER}>\r\nRCPT TO:<{RECIPIENT}>\r\nBDAT {} LAST\r\n{commands}", commands.len()));
    for code in ["250", "250", "250 2.0.0 Queued"] {
        client.expect(code);
    }
    client.quit();
    site.arrived(RECIPIENT, 2);
    server.stop(&site);
    assert_eq!(site.messages(RECIPIENT).len(), 2);
    assert!(site.messages("victim@example.org").is_empty());
}

#[test]
fn chunk_sizes_that_mean_different_things_to_different_servers_end_the_connection() {
    let (site, server) = site_and_server("normalize");
    let far_behind = [2_100, 13_000].map(|spaces| format!("{}5 LAST", " ".repeat(spaces)));
    let sizes = [
        "-1",
        "+5",
        "0x5",
        "5 5",
        "1e3",
        "\u{665}",
        "5;LAST",
        "",
        "18446744073709551616",
        "99999999999999999999999",
        "5 LAST\t",
        "5\tLAST",
        "5\0",
        "\x0b5",
        "5 LAST\rNOOP",
        "5\x7f",
        &far_behind[0],
        &far_behind[1],
    ];
    for size in sizes {
        let mut client = Client::logged_in(&server);
        client.ask(&format!("MAIL FROM:<{SENDER}>"), "250");
        client.ask(&format!("RCPT TO:<{RECIPIENT}>"), "250");
        client.send(format!("BDAT {size}\r\nRSET\r\nQUIT\r\n"));
        client.expect("501 5.5.4");
        client.expect_end();
    }
    // What ends the word is not always a space, it may have one before it, and not every client has come as far as TLS.
    for line in [" BDAT 5", "\tBDAT 5", "BDAT\t5", "BDAT\0 5", "BDAT\r5 LAST", "bdat 5 LAST\t"] {
        let mut client = Client::greeted(&server);
        client.send(format!("{line}\r\nQUIT\r\n"));
        client.expect("501 5.5.4");
        client.expect_end();
    }
    server.stop(&site);
    assert!(site.messages(RECIPIENT).is_empty());
}

#[test]
fn commands_with_bare_newlines_in_them_are_not_two_commands() {
    let (site, server) = site_and_server("normalize");
    // A CR within a line is a letter like any other, and one that no command has.
    let mut client = Client::logged_in(&server);
    client.ask("MAIL FROM:<ann@example.org>\rRCPT TO:<victim@example.org>\rDATA", "50");
    client.ask("RCPT TO:<victim@example.org>", "503");
    client.quit();
    for line in ["NOOP\nMAIL FROM:<root@example.org>", "NOOP\n", "\nMAIL FROM:<root@example.org>"] {
        let mut client = Client::logged_in(&server);
        client.say(line);
        client.expect("500 5.5.2");
        client.expect_end();
    }
    server.stop(&site);
    assert!(site.messages("victim@example.org").is_empty());
}
