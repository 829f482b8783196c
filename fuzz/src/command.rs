//! Command lines, addresses, parameters and SASL responses of any bytes.
//!
//! Promises: what an address holds could not break out of a header or a command line; bounds hold; an envelope gives back
//! what a command said.

use onetrip::limits::{ENVID_BYTES_MAX, ONCE_TOKEN_BYTES_MAX, PASSWORD_BYTES_MAX, PATH_BYTES_MAX, USER_NAME_BYTES_MAX};
use onetrip::proto::address::{domain_of, parse_path};
use onetrip::proto::command::{Command, parse};
use onetrip::proto::credential::{Credential, SenderPattern, Senders};
use onetrip::proto::envelope::Envelope;
use onetrip::proto::sasl;

/// See the [module](self).
pub fn check(data: &[u8]) {
    let mut envelope = Envelope::default();
    for line in data.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        check_line(line, &mut envelope);
        if let Ok((path, rest)) = parse_path(line) {
            assert!(rest.len() < line.len());
            check_address(path.address);
        }
        [sasl::plain(line), sasl::login_password("ann".to_owned(), line)]
            .into_iter()
            .flatten()
            .for_each(|it| check_credential(&it));
        if let Ok(user) = sasl::login_user(line) {
            assert!(user.len() <= USER_NAME_BYTES_MAX);
        }
        check_pattern(line);
    }
}

fn check_line(line: &[u8], envelope: &mut Envelope) {
    let Ok(command) = parse(line).command else {
        return;
    };
    match command {
        Command::Mail(mail) => {
            check_address(mail.path.address);
            assert!(mail.envid.is_none_or(|id| id.len() <= ENVID_BYTES_MAX && is_word(id)));
            assert!(mail.once.is_none_or(|token| token.len() <= ONCE_TOKEN_BYTES_MAX && is_word(token)));
            envelope.begin(&mail, "ann");
            assert_eq!((envelope.sender(), envelope.user()), (mail.path.address, "ann"));
            assert_eq!((envelope.envid(), envelope.once()), (mail.envid, mail.once));
            assert_eq!((envelope.body(), envelope.ret(), envelope.declared_size()), (mail.body, mail.ret, mail.size));
            assert_eq!((envelope.smtputf8(), envelope.requires_tls()), (mail.smtputf8, mail.requires_tls));
            assert_eq!(envelope.recipient_count(), 0);
        }
        Command::Rcpt(rcpt) => {
            check_address(rcpt.path.address);
            assert!(!rcpt.path.address.is_empty());
            let before = envelope.recipient_count();
            envelope.add(&rcpt);
            let last = envelope.recipients().last().unwrap();
            assert_eq!(envelope.recipients().len(), before + 1);
            assert_eq!((last.address, last.notify, last.orcpt), (rcpt.path.address, rcpt.notify, rcpt.orcpt));
        }
        Command::Helo(domain) | Command::Ehlo(domain) | Command::Qhlo { domain, .. } => {
            assert!(!domain.is_empty() && is_word(domain), "{domain:?}");
        }
        _ => {}
    }
}

fn check_address(address: &str) {
    assert!(address.len() + 2 <= PATH_BYTES_MAX);
    assert!(!address.chars().any(char::is_control), "{address:?}");
    let _ = domain_of(address);
}

fn is_word(text: &str) -> bool {
    !text.chars().any(|letter| letter.is_control() || letter == ' ')
}

fn check_credential(credential: &Credential) {
    assert!(credential.user.len() <= USER_NAME_BYTES_MAX && credential.password.expose().len() <= PASSWORD_BYTES_MAX);
    assert!(!credential.user.contains('\0') && !credential.user.is_empty());
    let shown = format!("{credential:?}");
    let secret = String::from_utf8_lossy(credential.password.expose());
    assert!(
        secret.len() < 12 || credential.user.contains(&*secret) || !shown.contains(&*secret),
        "a password is shown"
    );
}

fn check_pattern(line: &[u8]) {
    let Ok(text) = std::str::from_utf8(line) else {
        return;
    };
    if let Some(pattern) = SenderPattern::parse(text) {
        let _ = Senders::Only(vec![pattern]).allow(text);
    }
}
