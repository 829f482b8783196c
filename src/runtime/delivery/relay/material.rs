//! What all shards need to talk to other servers, opened once at the start: whom to trust, and who we are there.
//!
//! It connects to nobody.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use rustls::ClientConfig;

use super::RelaySettings;
use crate::config::Config;
use crate::exit::Exit;
use crate::limits::{CLIENT_REPLY_TIMEOUT, RELAY_AUTH_FILE_BYTES_MAX, RELAY_TLS_SESSIONS_MAX};
use crate::proto::client::Login;
use crate::relay::logins::Logins;
use crate::relay::{Destination, RelayTls};
use crate::runtime::certificates::{platform_roots, roots_from};
use crate::tls::Versions;
use crate::tls::client::{ClientSettings, Trust, client_config};

/// Why other servers cannot be talked to, and what to do. Prints on one line.
#[derive(Debug)]
pub struct RelayMaterialError {
    text: String,
    exit: Exit,
}

impl RelayMaterialError {
    fn new(exit: Exit, problem: impl fmt::Display, remedy: &str) -> Self {
        Self { text: format!("{problem}: {remedy}"), exit }
    }

    /// The exit code.
    pub const fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for RelayMaterialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for RelayMaterialError {}

/// The settings for each other server that the configuration names.
#[derive(Clone, Debug, Default)]
pub struct RelayMaterial {
    settings: Vec<RelaySettings>,
    warning: Option<String>,
}

impl RelayMaterial {
    /// Reads the files that the configuration names, if it names another server.
    ///
    /// # Errors
    ///
    /// A file that is of no use, and a password that would be said where somebody else could hear it.
    pub fn open(config: &Config) -> Result<Self, RelayMaterialError> {
        let all = std::iter::once(&config.deliver).chain(config.route.iter().map(|route| &route.destination));
        let remote: Vec<&Destination> = all.filter(|destination| destination.is_remote()).collect();
        if remote.is_empty() {
            return Ok(Self::default());
        }
        let (logins, warning) = config.relay_auth.as_deref().map(read_logins).transpose()?.unwrap_or_default();
        let verifying = remote.iter().any(|destination| destination.tls(config.relay_tls) == RelayTls::Require);
        let tls_config = tls_config(config, verifying)?;
        let settings = remote.into_iter().map(|destination| settings(config, destination, &tls_config, &logins));
        Ok(Self { settings: settings.collect::<Result<_, _>>()?, warning })
    }

    /// How to talk to this server; `None` if the configuration does not name it.
    pub fn settings(&self, destination: &Destination) -> Option<&RelaySettings> {
        self.settings.iter().find(|settings| settings.destination == *destination)
    }

    /// What the operator should know about the file of passwords.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

fn settings(
    config: &Config,
    destination: &Destination,
    tls_config: &Arc<ClientConfig>,
    logins: &Logins,
) -> Result<RelaySettings, RelayMaterialError> {
    let tls = destination.tls(config.relay_tls);
    let login = login(destination, logins);
    if login.is_some() && tls != RelayTls::Require {
        let problem = format!("--relay-auth has a password for {destination}, where no certificate is verified");
        let remedy = "use --relay-tls require, or leave that server out of the file";
        return Err(RelayMaterialError::new(Exit::Config, problem, remedy));
    }
    Ok(RelaySettings {
        destination: destination.clone(),
        host_name: config.hostname.clone(),
        connections_max: config.relay_connections,
        idle: config.relay_idle,
        reply_timeout: CLIENT_REPLY_TIMEOUT,
        tls,
        tls_config: Arc::clone(tls_config),
        login,
    })
}

/// Servers on a socket of this host know us by our process.
fn login(destination: &Destination, logins: &Logins) -> Option<Login> {
    let shown = destination.to_string();
    let (_, hop) = shown.split_once(':')?;
    let has_port = !hop.contains('/');
    has_port.then(|| logins.for_hop(hop)).flatten().cloned()
}

fn tls_config(config: &Config, verifying: bool) -> Result<Arc<ClientConfig>, RelayMaterialError> {
    let trust = match (&config.relay_ca, verifying) {
        (_, false) => Trust::Anyone,
        (Some(file), true) => {
            let roots = roots_from(file)
                .map_err(|error| RelayMaterialError::new(Exit::Data, error, "name a PEM file with --relay-ca"))?;
            Trust::Roots(roots)
        }
        (None, true) => Trust::Roots(platform_roots().map_err(|_| no_roots())?),
    };
    let settings = ClientSettings { trust, versions: Versions::Both, sessions_max: RELAY_TLS_SESSIONS_MAX };
    client_config(settings).map_err(|_| no_roots())
}

fn no_roots() -> RelayMaterialError {
    let problem = "there is no usable root certificate to verify other servers against";
    let remedy = "name a file of them with --relay-ca, or install the package ca-certificates";
    RelayMaterialError::new(Exit::Config, problem, remedy)
}

fn read_logins(path: &Path) -> Result<(Logins, Option<String>), RelayMaterialError> {
    let shown = path.display();
    let unreadable = |error: io::Error| {
        let exit = if error.kind() == io::ErrorKind::NotFound { Exit::NoInput } else { Exit::Io };
        let remedy = "name a text file that can be read with --relay-auth";
        RelayMaterialError::new(exit, format!("{shown} cannot be read: {error}"), remedy)
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(RELAY_AUTH_FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
    let mode = fs::metadata(path).map_err(unreadable)?.permissions().mode();
    let logins = Logins::parse(&text);
    zeroize::Zeroize::zeroize(&mut text);
    let logins = logins.map_err(|error| {
        RelayMaterialError::new(
            Exit::Data,
            format!("{shown}: {error}"),
            "write HOST:PORT, user and password on each line",
        )
    })?;
    let warning =
        (mode & OTHERS != 0).then(|| format!("{shown} holds passwords, and every user of this host may read it"));
    Ok((logins, warning))
}

/// The permissions of those who are neither owner nor of the group.
const OTHERS: u32 = 0o007;

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use super::RelayMaterial;
    use crate::config::{Config, Flags, Host};
    use crate::relay::{Destination, RelayTls};

    fn open(flags: &[(&str, &str)]) -> Result<RelayMaterial, String> {
        let host = Host { name: "mail.example.org".to_owned(), cores: vec![0] };
        let config = Config::resolve(&Flags::of(flags), None, &host).unwrap();
        RelayMaterial::open(&config).map_err(|error| error.to_string())
    }

    fn through<'a>(destination: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&[("deliver", destination), ("sync", "through")], more].concat()
    }

    fn relay(port: u16) -> Destination {
        Destination::Relay { host: "mx.example.org".to_owned(), port, implicit_tls: false }
    }

    fn logins(directory: &Path, mode: u32) -> String {
        let path = directory.join("logins");
        fs::write(&path, "mx.example.org:587 ann secret\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    #[test]
    fn without_another_server_nothing_is_read() {
        let material = open(&[("deliver", "discard"), ("relay-auth", "/nowhere"), ("relay-ca", "/nowhere")]).unwrap();
        assert!(material.settings(&relay(587)).is_none() && material.warning().is_none());
    }

    #[test]
    fn each_server_has_its_own_login_and_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let file = logins(directory.path(), 0o600);
        for (port, has_login) in [(587, true), (25, false)] {
            let destination = format!("relay:mx.example.org:{port}");
            let material = open(&through(&destination, &[("relay-auth", &file)])).unwrap();
            let settings = material.settings(&relay(port)).unwrap();
            assert_eq!((settings.login.is_some(), settings.tls), (has_login, RelayTls::Require), "{destination}");
            assert!(material.warning().is_none());
        }
    }

    #[test]
    fn a_password_is_kept_from_whoever_is_not_verified() {
        let directory = tempfile::tempdir().unwrap();
        let file = logins(directory.path(), 0o600);
        for tls in ["opportunistic", "off"] {
            let flags = [("relay-auth", file.as_str()), ("relay-tls", tls)];
            let error = open(&through("relay:mx.example.org:587", &flags)).unwrap_err();
            assert!(error.contains("where no certificate is verified: ") && !error.contains("secret"), "{error}");
            assert!(open(&through("relay:mx.example.org:25", &flags)).is_ok(), "none is for it");
        }
    }

    #[test]
    fn a_file_of_passwords_that_everybody_may_read_gives_a_warning() {
        let directory = tempfile::tempdir().unwrap();
        let file = logins(directory.path(), 0o644);
        let material = open(&through("relay:mx.example.org:587", &[("relay-auth", &file)])).unwrap();
        assert!(material.warning().unwrap().ends_with("holds passwords, and every user of this host may read it"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = open(&through("relay:mx.example.org:587", &[("relay-auth", "/nowhere/logins")])).unwrap_err();
        assert!(error.starts_with("/nowhere/logins cannot be read: "), "{error}");
        let error = open(&through("relay:mx.example.org:587", &[("relay-ca", "/nowhere/ca")])).unwrap_err();
        assert!(error.contains("/nowhere/ca"), "{error}");
    }
}
