//! Dovecot as a store: takes mail by LMTP, over TCP and over a Unix-domain socket, and delivers it to a Maildir.

use super::world::{OtherServer, World, free_ports};
use crate::process::RECIPIENT;

/// The name of its socket in the shared folder.
pub const SOCKET: &str = "lmtp";

/// Starts Dovecot. It knows one recipient; the first of its ports is for LMTP in plain text, and so is the second.
pub fn start(world: World) -> OtherServer {
    let ports = free_ports();
    let folder = world.folder().to_owned();
    world.write("users", format!("{RECIPIENT}:::::::\n"));
    world.write("dovecot.conf", configuration(&folder, ports));
    let script = format!(
        "install -d -o mailbox {folder}/mail
        install -d /var/lib/dovecot
        mailbox=$(id -u mailbox) group=$(id -g mailbox)
        sed -i \"s/MAILBOX/$mailbox/; s/GROUP/$group/\" {folder}/dovecot.conf
        exec dovecot -F -c {folder}/dovecot.conf"
    );
    world.start(&script, ports)
}

fn configuration(folder: &str, ports: [u16; 2]) -> String {
    let [first, second] = ports;
    format!(
        "protocols = lmtp
log_path = /dev/stderr
base_dir = /run/dovecot
ssl = no
mail_location = maildir:{folder}/mail
first_valid_uid = 1
postmaster_address = postmaster@example.org
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = passwd-file
  args = {folder}/users
  override_fields = uid=MAILBOX gid=GROUP home={folder}/mail
}}
service lmtp {{
  inet_listener first {{
    address = 127.0.0.1
    port = {first}
  }}
  inet_listener second {{
    address = 127.0.0.1
    port = {second}
  }}
  unix_listener {folder}/{SOCKET} {{
    mode = 0666
  }}
}}
"
    )
}
