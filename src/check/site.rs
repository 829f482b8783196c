//! Certificates and users.

use super::facts::{CertificateFacts, CertificateFound, SiteFacts, UsersFacts, UsersFound};
use super::{Finding, Remedy};
use crate::config::Config;
use crate::exit::Exit;
use crate::time::Now;
use crate::tls::certificate::{Certificate, DateWarning, KeyType};

/// What clients see of the server, and who may use it.
pub(super) fn judge(now: Now, config: &Config, site: &SiteFacts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = site
        .certificates
        .iter()
        .enumerate()
        .flat_map(|(index, facts)| certificate(now, config, facts, index))
        .collect();
    findings.push(users(&site.users, config));
    findings
}

fn certificate(now: Now, config: &Config, facts: &CertificateFacts, index: usize) -> Vec<Finding> {
    let file = facts.file.display();
    match &facts.found {
        CertificateFound::NotMadeYet => vec![Finding::note(
            SUBJECT,
            format!("{file} will be made on the first start; clients must be told to trust it"),
            Remedy::words("give a certificate that they trust with --tls-cert and --tls-key"),
        )],
        CertificateFound::Refused { text, exit } => vec![Finding::failure(SUBJECT, *exit, text, None)],
        CertificateFound::Loaded { certificate, key_file, key_mode } => {
            let mut findings = vec![dates(now, certificate, &file.to_string())];
            findings.push(names(config, certificate, facts, index));
            findings.push(key_type(certificate.key_type(), &file.to_string()));
            if key_mode & OTHERS != 0 {
                let what = format!("every user of this host can get at the key {}", key_file.display());
                findings.push(Finding::warning(
                    SUBJECT,
                    what,
                    Remedy::command(format!("chmod o= {}", key_file.display())),
                ));
            }
            findings
        }
    }
}

fn dates(now: Now, certificate: &Certificate, file: &str) -> Finding {
    let Some(warning) = certificate.warning(now) else {
        let days = certificate.not_after().saturating_sub(now.unix).as_secs() / DAY_S;
        return Finding::ok(SUBJECT, format!("{file} and its key belong together; it is good for {days} more days"));
    };
    let what = format!("{file}: {warning}");
    let reload = Remedy::words("put the new one in its place, then systemctl reload onetrip");
    match warning {
        DateWarning::ExpiresSoon { .. } => Finding::warning(SUBJECT, what, reload),
        DateWarning::Expired { .. } => Finding::failure(SUBJECT, Exit::Config, what, reload),
        DateWarning::NotYetValid { .. } => {
            Finding::failure(SUBJECT, Exit::Config, what, Remedy::command("timedatectl"))
        }
    }
}

fn names(config: &Config, certificate: &Certificate, facts: &CertificateFacts, index: usize) -> Finding {
    let (file, host) = (facts.file.display(), config.hostname.to_ascii_lowercase());
    let listed = certificate.names().join(", ");
    if facts.is_own {
        let what = format!("{file} is self-signed (for {listed}); clients must be told to trust it");
        let remedy = Remedy::words("give a certificate that they trust with --tls-cert and --tls-key");
        return Finding::note(SUBJECT, what, remedy);
    }
    if certificate.names().iter().any(|name| covers(name, &host)) {
        return Finding::ok(SUBJECT, format!("{file} is for {host}"));
    }
    let what = format!("{file} is for {listed}, and not for --hostname {host}");
    if index > 0 {
        return Finding::ok(SUBJECT, format!("{file} is for {listed}, for clients that ask for such a name"));
    }
    let remedy =
        Remedy::words("order a certificate for the name that clients connect to, and give the same to --hostname");
    Finding::warning(SUBJECT, what, remedy)
}

/// Does a name of a certificate stand for a host? A wildcard stands for one label (RFC 6125 §6.4.3).
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
        None => name == host,
    }
}

fn key_type(key: KeyType, file: &str) -> Finding {
    match key {
        KeyType::P256 | KeyType::Ed25519 => Finding::ok(SUBJECT, format!("{file}: the key is {}", key.name())),
        KeyType::P384 | KeyType::Rsa => Finding::warning(
            SUBJECT,
            format!(
                "{file}: the key is {}: a full handshake costs several times the processor time that it costs with P-256 (RSA-2048: six times)",
                key.name()
            ),
            Remedy::command(format!(
                "openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request.pem, or certbot --key-type ecdsa, in place of {file}"
            )),
        ),
    }
}

fn users(facts: &UsersFacts, config: &Config) -> Finding {
    let file = facts.file.display();
    match &facts.found {
        UsersFound::Missing | UsersFound::Loaded { users: 0, .. } => Finding::note(
            "users",
            format!("{file} has none: nobody can submit mail yet"),
            Remedy::command(format!("onetrip user add NAME --state-dir {} --users {file}", config.state_dir.display())),
        ),
        UsersFound::Loaded { mode, .. } if mode & OTHERS != 0 => Finding::warning(
            "users",
            format!("every user of this host can get at the hashes of passwords in {file}"),
            Remedy::command(format!("chmod o= {file}")),
        ),
        UsersFound::Loaded { users, .. } => Finding::ok("users", format!("{file} has {users}")),
        UsersFound::Refused { text, exit } => Finding::failure("users", *exit, text, None),
    }
}

const SUBJECT: &str = "certificate";

const DAY_S: u64 = 86_400;

/// The permission bits of users who are neither the owner nor in the group.
const OTHERS: u32 = 0o007;
