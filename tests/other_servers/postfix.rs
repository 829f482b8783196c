//! Postfix: takes mail from the user, and delivers it to a Maildir or sends it on.

use super::dovecot_auth;
use super::world::{OtherServer, Relay, World, free_ports};
use crate::process::{HOSTNAME, PASSWORD, USER};

/// Starts Postfix.
pub fn start(world: World, relay: Option<Relay>) -> OtherServer {
    let ports = free_ports();
    let [starttls, tls] = ports;
    let folder = world.folder().to_owned();
    let destination = match relay {
        None => maildir(&folder),
        Some(relay) => sends_on(&folder, relay),
    };
    world.write("main.cf", format!("{}{destination}", takes_mail(&folder)));
    world.write("master.cf", services(starttls, tls));
    dovecot_auth::listen(&world.path("auth"));
    let script = format!(
        "install -d -o mailbox {folder}/mail
        install -d -o postfix {folder}/logs
        chown postfix /var/lib/postfix
        chgrp postdrop /usr/sbin/postdrop /usr/sbin/postqueue
        chmod g+s /usr/sbin/postdrop /usr/sbin/postqueue
        cp {folder}/main.cf {folder}/master.cf /etc/postfix/
        postconf -e virtual_uid_maps=static:$(id -u mailbox) virtual_gid_maps=static:$(id -g mailbox)
        exec postfix start-fg"
    );
    world.start(&script, ports)
}

fn takes_mail(folder: &str) -> String {
    format!(
        "compatibility_level = 3.6
maillog_file_prefixes = {folder}
maillog_file = {folder}/logs/mail.log
myhostname = {HOSTNAME}
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
in_flow_delay = 0
smtpd_tls_chain_files = {folder}/key.pem, {folder}/certificate.pem
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {folder}/auth
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"
    )
}

fn maildir(folder: &str) -> String {
    format!(
        "virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}
virtual_mailbox_maps = static:mail/
"
    )
}

fn sends_on(folder: &str, relay: Relay) -> String {
    let wrapped = if relay.implicit_tls { "yes" } else { "no" };
    let next = format!("[{HOSTNAME}]:{}", relay.port);
    format!(
        "relayhost = {next}
smtp_host_lookup = native
smtp_tls_wrappermode = {wrapped}
smtp_tls_security_level = verify
smtp_tls_verify_cert_match = hostname
smtp_tls_CAfile = {folder}/onetrip.pem
smtp_sasl_auth_enable = yes
smtp_sasl_security_options = noanonymous
smtp_sasl_password_maps = inline:{{ {{ {next} = {USER}:{PASSWORD} }} }}
"
    )
}

fn services(starttls: u16, tls: u16) -> String {
    format!(
        "127.0.0.1:{starttls} inet n - n - - smtpd -o smtpd_tls_security_level=encrypt
127.0.0.1:{tls} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes
postlog unix-dgram n - n - 1 postlogd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"
    )
}
