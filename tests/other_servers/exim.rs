//! Exim: takes mail from the user, and delivers it to a Maildir or sends it on, with early pipelining on both sides.

use super::world::{OtherServer, Relay, World, free_ports};
use crate::process::{HOSTNAME, PASSWORD, USER};

/// Starts Exim.
pub fn start(world: World, relay: Option<Relay>) -> OtherServer {
    let ports = free_ports();
    let [starttls, tls] = ports;
    let folder = world.folder().to_owned();
    let transport = match relay {
        None => maildir(&folder),
        Some(relay) => sends_on(&folder, relay),
    };
    world.write("exim4.conf", format!("{}{transport}{}", takes_mail(&folder, starttls, tls), authenticators()));
    let script = format!(
        "install -d -o mailbox {folder}/mail
        install -d -o Debian-exim {folder}/spool {folder}/logs
        install -o Debian-exim -m 600 {folder}/key.pem {folder}/exim-key.pem
        install -D -m 644 {folder}/exim4.conf /etc/exim4/exim4.conf
        exec exim4 -bdf"
    );
    world.start(&script, ports)
}

fn takes_mail(folder: &str, starttls: u16, tls: u16) -> String {
    format!(
        "primary_hostname = {HOSTNAME}
spool_directory = {folder}/spool
log_file_path = {folder}/logs/%s.log
log_selector = +pipelining +tls_resumption +smtp_confirmation
disable_ipv6 = true
keep_environment =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {starttls} : {tls}
tls_on_connect_ports = {tls}
tls_advertise_hosts = *
tls_certificate = {folder}/certificate.pem
tls_privatekey = {folder}/exim-key.pem
auth_advertise_hosts = ${{if def:tls_in_cipher {{*}}}}
pipelining_advertise_hosts = *
pipelining_connect_advertise_hosts = *
chunking_advertise_hosts = *
acl_smtp_rcpt = recipients

begin acl
recipients:
  accept authenticated = *
  deny

begin routers
"
    )
}

fn maildir(folder: &str) -> String {
    format!(
        "all:
  driver = accept
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  user = mailbox
"
    )
}

fn sends_on(folder: &str, relay: Relay) -> String {
    let protocol = if relay.implicit_tls { "smtps" } else { "smtp" };
    format!(
        "all:
  driver = manualroute
  route_list = * {HOSTNAME} byname
  self = send
  transport = onetrip

begin transports
onetrip:
  driver = smtp
  port = {}
  protocol = {protocol}
  allow_localhost
  hosts_require_tls = *
  hosts_require_auth = *
  hosts_pipe_connect = *
  hosts_try_chunking = *
  tls_resumption_hosts = *
  tls_verify_certificates = {folder}/onetrip.pem
  tls_verify_hosts = *
  tls_verify_cert_hostnames = *
",
        relay.port
    )
}

fn authenticators() -> String {
    format!(
        "
begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{ {{eq{{$auth2}}{{{USER}}}}} {{eq{{$auth3}}{{{PASSWORD}}}}} }}}}
  server_set_id = $auth2
  client_send = ^{USER}^{PASSWORD}
"
    )
}
