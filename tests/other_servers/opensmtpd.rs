//! OpenSMTPD: takes mail from the user, and delivers it to a Maildir.

use super::world::{OtherServer, World, free_ports};
use crate::process::{HOSTNAME, PASSWORD, USER};

/// Starts OpenSMTPD.
pub fn start(world: World) -> OtherServer {
    let ports = free_ports();
    let [starttls, tls] = ports;
    let folder = world.folder().to_owned();
    world.write(
        "smtpd.conf",
        format!(
            "pki {HOSTNAME} cert \"{folder}/certificate.pem\"
pki {HOSTNAME} key \"{folder}/key.pem\"
table users file:{folder}/users
listen on 127.0.0.1 port {starttls} tls-require pki {HOSTNAME} auth <users>
listen on 127.0.0.1 port {tls} smtps pki {HOSTNAME} auth <users>
action deliver maildir \"{folder}/mail\" virtual {{ \"@\" = mailbox }}
match auth from any for any action deliver
"
        ),
    );
    // RSA, which every release can use. The server's own command for hashes would have to be setgid. It does not start
    // without certificates of authorities, even if it sends nothing anywhere; what it reads there is gone with the world.
    let script = format!(
        "install -d -o mailbox {folder}/mail
        install -d -m 711 /var/spool/smtpd
        openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={HOSTNAME} -addext subjectAltName=DNS:{HOSTNAME} \
            -addext basicConstraints=critical,CA:FALSE -keyout {folder}/key.pem -out {folder}/certificate.pem
        install -D -m 644 {folder}/certificate.pem /etc/ssl/certs/ca-certificates.crt
        echo \"{USER} $(openssl passwd -6 {PASSWORD})\" > {folder}/users
        exec smtpd -d -v -f {folder}/smtpd.conf"
    );
    world.start(&script, ports)
}
