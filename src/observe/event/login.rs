//! Events of authentication.
//!
//! They name the user and the address and nothing else that the client sent: no password, no hash, no length of either.

use std::net::SocketAddr;

use super::{ConnectionId, Describe, Fields, Severity, Text, UserName};

/// A client gave a wrong user or password.
///
/// Single ones are typing errors. Many from one address, or for one user, are guessing: the server slows them down by
/// itself, and the field `client` serves programs that block addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthFailed {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The name that the client gave; no such user may exist.
    pub user: UserName,
    /// Why it was denied.
    pub reason: Text,
}

impl Describe for AuthFailed {
    const NAME: &'static str = "auth_failed";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        describe_attempt(fields, self.connection, self.client, &self.user, &self.reason);
    }
}

/// An attempt to authenticate was put off without being judged.
///
/// The field `reason` says whether it failed too often before, or whether hashing could not keep up: then raise
/// `--password-threads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthPutOff {
    /// The connection's number.
    pub connection: ConnectionId,
    /// The client's address and port.
    pub client: SocketAddr,
    /// The name that the client gave.
    pub user: UserName,
    /// Why it was put off.
    pub reason: Text,
}

impl Describe for AuthPutOff {
    const NAME: &'static str = "auth_put_off";

    fn severity(&self) -> Severity {
        Severity::Warning
    }

    fn describe(&self, fields: &mut dyn Fields) {
        describe_attempt(fields, self.connection, self.client, &self.user, &self.reason);
    }
}

fn describe_attempt(
    fields: &mut dyn Fields,
    connection: ConnectionId,
    client: SocketAddr,
    user: &UserName,
    reason: &Text,
) {
    fields.text("id", &connection.to_string());
    fields.text("client", &client.to_string());
    fields.text("user", user);
    fields.text("reason", reason);
}
