//! AUTH (RFC 4954) and its pipelined form (draft §7).
//!
//! Whether a credential is good is judged elsewhere. What is decided here: that a failed AUTH refuses what was sent along
//! with it, and that too many failures end the connection.

use std::mem;

use super::state::{Authorized, Challenged, Exchange, Login, State};
use super::{Action, Outcome, Server, say};
use crate::proto::credential::{Credential, Mechanism, Verdict};
use crate::proto::proof::Authenticated;
use crate::proto::reply::{self, Reply};
use crate::proto::sasl::{self, BadResponse};

impl Server {
    pub(super) fn handle_auth(&mut self, mechanism: &[u8], initial: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(login) = self.state.login() else {
            self.broken(out);
            return;
        };
        let Some(mechanism) = Mechanism::named(mechanism) else {
            self.fail_login(login, reply::UNKNOWN_MECHANISM, out);
            return;
        };
        match (mechanism, initial) {
            (Mechanism::Plain, Some(response)) => self.verify(login, sasl::plain(response), out),
            (Mechanism::Plain, None) => self.challenge(login, Exchange::Plain, reply::CONTINUE_EMPTY, out),
            (Mechanism::Login, Some(response)) => self.take_user(login, response, out),
            (Mechanism::Login, None) => self.challenge(login, Exchange::LoginUser, reply::CONTINUE_USER, out),
        }
    }

    /// The client's response to a challenge.
    pub(super) fn handle_response(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let State::Challenged(Challenged { login, exchange }) = mem::replace(&mut self.state, State::Ended) else {
            self.broken(out);
            return;
        };
        if line == b"*" {
            self.fail_login(login, reply::AUTH_CANCELLED, out);
            return;
        }
        match exchange {
            Exchange::Plain => self.verify(login, sasl::plain(line), out),
            Exchange::LoginUser => self.take_user(login, line, out),
            Exchange::LoginPassword(user) => self.verify(login, sasl::login_password(user, line), out),
        }
    }

    /// The judgement that was asked for.
    pub fn handle_verdict(&mut self, verdict: Verdict, out: &mut Vec<u8>) {
        let State::Verifying(login) = self.state else {
            self.broken(out);
            return;
        };
        match verdict {
            Verdict::Accepted(member) => {
                say(reply::AUTH_OK, out);
                self.member = Some(member);
                let Login { encrypted, listed, hello } = login;
                let authenticated = Authenticated::by_verdict(encrypted);
                self.state = State::Authorized(Authorized { authenticated, encrypted, listed, hello });
            }
            Verdict::Denied { .. } => self.fail_login(login, reply::AUTH_DENIED, out),
            Verdict::Unavailable => self.fail_login(login, reply::AUTH_UNAVAILABLE, out),
        }
    }

    fn challenge(&mut self, login: Login, exchange: Exchange, prompt: Reply, out: &mut Vec<u8>) {
        say(prompt, out);
        self.state = State::Challenged(Challenged { login, exchange });
    }

    fn take_user(&mut self, login: Login, response: &[u8], out: &mut Vec<u8>) {
        match sasl::login_user(response) {
            Ok(user) => self.challenge(login, Exchange::LoginPassword(user), reply::CONTINUE_PASSWORD, out),
            Err(_) => self.fail_login(login, reply::BAD_ENCODING, out),
        }
    }

    fn verify(&mut self, login: Login, credential: Result<Credential, BadResponse>, out: &mut Vec<u8>) {
        match credential {
            Ok(credential) => {
                self.state = State::Verifying(login);
                self.action = Some(Action::Verify(credential));
            }
            Err(BadResponse::Malformed) => self.fail_login(login, reply::BAD_ENCODING, out),
            Err(BadResponse::Impersonation) => self.fail_login(login, reply::AUTH_DENIED, out),
        }
    }

    pub(super) fn fail_login(&mut self, login: Login, reply: Reply, out: &mut Vec<u8>) {
        say(reply, out);
        self.state = State::AuthFailed(login);
        self.tally.logins_failed += 1;
        if self.tally.logins_failed >= self.settings.bounds.logins_failed_max {
            self.end_with(reply::TOO_MANY_LOGINS, Outcome::TooManyLogins, out);
        }
    }
}
