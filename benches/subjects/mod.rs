//! What is measured: one operation each, made ready once and then done as often as wanted.
//!
//! Two benches share it: `instructions` counts, `operations` takes the time. An operation must do the same work each time:
//! secrets, keys, names and messages are fixed, and nothing here draws at random but the TLS library.

#![allow(unreachable_pub, dead_code, reason = "each bench uses its own part of this")]

pub mod allocator;
pub mod conversation;
pub mod parts;
pub mod pump;

/// One operation, ready to be done again and again.
pub type Work = Box<dyn FnMut()>;

/// What is measured.
pub struct Subject {
    /// Its name in results.
    pub name: &'static str,
    /// Makes it ready.
    pub ready: fn() -> Work,
}

/// All of them; `benches/README.md` says what each does.
pub const ALL: [Subject; 11] = [
    Subject { name: "commands", ready: parts::commands },
    Subject { name: "qhlo-id-issue", ready: parts::qhlo_id_issue },
    Subject { name: "qhlo-id-check", ready: parts::qhlo_id_check },
    Subject { name: "session-cache", ready: parts::session_cache },
    Subject { name: "spool-record", ready: parts::spool_record },
    Subject { name: "server-esmtp", ready: conversation::server_esmtp },
    Subject { name: "server-quickstart", ready: conversation::server_quickstart },
    Subject { name: "client-quickstart", ready: conversation::client_quickstart },
    Subject { name: "tls-message", ready: pump::message },
    Subject { name: "tls-full", ready: pump::full_handshake },
    Subject { name: "tls-resumed", ready: pump::resumed_handshake },
];

/// Bytes of the message that subjects carry.
pub const MESSAGE_BYTES: usize = 4_096;

/// A message as mail programs write it: a short header, and lines of 72 characters, one of which begins with a dot.
pub fn letter() -> Vec<u8> {
    let mut letter = b"From: ann@example.org\r\nTo: bob@example.org\r\nSubject: hello\r\n\
        Date: Sun, 22 Nov 2026 12:00:00 +0000\r\nMessage-ID: <1@client.example>\r\n\r\n.\r\n"
        .to_vec();
    while letter.len() < MESSAGE_BYTES {
        let room = (MESSAGE_BYTES - letter.len()).min(74);
        // What is left has to hold a whole line, if only an empty one.
        let room = if MESSAGE_BYTES - letter.len() - room == 1 { room - 1 } else { room };
        letter.resize(letter.len() + room - 2, b'x');
        letter.extend_from_slice(b"\r\n");
    }
    letter
}
