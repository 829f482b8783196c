//! All that one submission needs, gathered and checked, in a form that can be handed to the agent.
//!
//! Values only; what is secret in it is wiped with it.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, ServerName};

use super::arguments::{Settings, Wishes, profile};
use super::{Server, SubmitError, Surroundings, files, prepare, server};
use crate::exit::Exit;
use crate::proto::client::{
    Address, Config, Content, HelloName, InvalidValue, Login, Message, Notify, Recipient, Return, Security, Xtext,
};
use crate::proto::secret::Secret;
use crate::tls::Versions;
use crate::tls::client::{ClientSettings, Trust, client_config};

/// One submission.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) server: Server,
    pub(super) implicit_tls: bool,
    pub(super) trust: TrustWish,
    pub(super) profile: String,
    pub(super) login: Option<Credential>,
    pub(super) hello_name: String,
    pub(super) memory: Option<PathBuf>,
    pub(super) verbose: bool,
    /// Standard error is a terminal.
    pub(super) terminal: bool,
    /// How long an agent stays; 0 for none.
    pub(super) linger_s: u64,
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) notify: Option<Notify>,
    pub(super) return_content: Option<Return>,
    pub(super) envelope_id: Option<String>,
    /// Under which the server takes the message once, however often it is sent within this call.
    pub(super) token: String,
    pub(super) content: Vec<u8>,
}

/// A user's name and password.
pub(super) type Credential = (String, Secret<Vec<u8>>);

/// Whom to take for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TrustWish {
    Anyone,
    /// The roots of this system.
    System,
    /// These certificates in DER.
    Roots(Vec<Vec<u8>>),
}

impl Request {
    /// Gathers it from everywhere: files are read here.
    pub(super) fn new(settings: &Settings, wishes: &Wishes, input: &[u8]) -> Result<Self, SubmitError> {
        let around = Surroundings::look()?;
        let message = prepare(settings, wishes, input, &around)?;
        let server = server(settings)?;
        let request = Self {
            server,
            implicit_tls: settings.implicit_tls,
            trust: TrustWish::System,
            profile: settings.profile.clone().unwrap_or_else(|| "full".to_owned()),
            login: login(settings)?,
            hello_name: around.host_name,
            // The agent works elsewhere in the file system.
            memory: settings.memory.as_ref().map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
            verbose: wishes.verbose,
            terminal: std::io::IsTerminal::is_terminal(&std::io::stderr()),
            linger_s: settings.linger_s,
            sender: message.sender.as_str().to_owned(),
            recipients: message.recipients.iter().map(|recipient| recipient.address.as_str().to_owned()).collect(),
            notify: wishes.notify,
            return_content: wishes.return_content,
            envelope_id: wishes.envelope_id.clone(),
            token: around.random,
            content: message.content.as_bytes().to_vec(),
        };
        request.config()?;
        Ok(Self { trust: trust_wish(settings)?, ..request })
    }

    /// The message.
    pub(super) fn message(&self) -> Result<Message, SubmitError> {
        let build = || -> Result<Message, InvalidValue> {
            let sender = if self.sender.is_empty() { Address::null() } else { Address::parse(&self.sender)? };
            let mut recipients = Vec::new();
            for text in &self.recipients {
                let mut recipient = Recipient::new(Address::parse(text)?);
                recipient.notify = self.notify;
                recipients.push(recipient);
            }
            let mut message = Message::new(sender, recipients, Content::new(self.content.clone())?);
            message.return_content = self.return_content;
            message.envelope_id = self.envelope_id.as_deref().map(Xtext::envelope_id).transpose()?;
            message.once = Some(Xtext::once_token(&self.token)?);
            Ok(message)
        };
        build().map_err(|problem| SubmitError::new(Exit::Software, format!("a part of the message {problem}")))
    }

    /// How the client behaves.
    pub(super) fn config(&self) -> Result<Config, SubmitError> {
        let name = HelloName::parse(&self.hello_name)
            .map_err(|problem| SubmitError::new(Exit::Config, format!("this host's name {problem}")))?;
        let mut config = Config::new(name);
        config.security = if self.implicit_tls { Security::Implicit } else { Security::Required };
        config.profile = profile(&self.profile)?;
        config.transcript = self.verbose;
        let wrong = |problem| SubmitError::new(Exit::Config, format!("the user's name or password {problem}"));
        config.login = match &self.login {
            Some((user, password)) => Some(Login::new(user, password.clone()).map_err(wrong)?),
            None => None,
        };
        Ok(config)
    }

    /// What to offer in TLS and whom to trust; it remembers sessions for as long as it lives.
    pub(super) fn tls(&self) -> Result<Arc<ClientConfig>, SubmitError> {
        let trust = match &self.trust {
            TrustWish::Anyone => Trust::Anyone,
            // A bundle with a damaged entry is still good for its other entries.
            TrustWish::System => Trust::Roots(rustls_native_certs::load_native_certs().certs),
            TrustWish::Roots(roots) => Trust::Roots(roots.iter().cloned().map(CertificateDer::from).collect()),
        };
        client_config(ClientSettings { trust, versions: Versions::Both, sessions_max: SESSIONS_MAX })
            .map_err(|error| SubmitError::new(Exit::Config, error.to_string()))
    }

    /// The name that the server's certificate must bear.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, SubmitError> {
        let host = &self.server.host;
        match host.parse::<IpAddr>() {
            Ok(address) => Ok(ServerName::from(address)),
            Err(_) => ServerName::try_from(host.clone())
                .map_err(|_| SubmitError::new(Exit::Config, format!("{host:?} is no host name"))),
        }
    }

    /// Where the server is.
    pub(super) fn addresses(&self) -> Result<Vec<SocketAddr>, SubmitError> {
        let found = (self.server.host.as_str(), self.server.port).to_socket_addrs().map_err(|error| {
            SubmitError::new(Exit::Temporary, format!("the address of {} cannot be found: {error}", self.server.host))
        })?;
        Ok(found.collect())
    }
}

fn trust_wish(settings: &Settings) -> Result<TrustWish, SubmitError> {
    Ok(match &settings.ca {
        _ if settings.insecure => TrustWish::Anyone,
        Some(file) => TrustWish::Roots(files::roots(file)?.iter().map(|root| root.to_vec()).collect()),
        None => TrustWish::System,
    })
}

fn login(settings: &Settings) -> Result<Option<Credential>, SubmitError> {
    let Some(user) = &settings.user else { return Ok(None) };
    let Some(password) = files::password(settings)? else {
        let message = format!("no password for {user}: name a file with --password-file or a --password-command");
        return Err(SubmitError::new(Exit::Config, message));
    };
    Ok(Some((user.clone(), password)))
}

/// Enough for the connections of one call.
const SESSIONS_MAX: usize = 8;
