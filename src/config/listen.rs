//! A listener as an operator writes it: `ADDR:PORT`, and behind it what is to be different there.

use std::net::SocketAddr;

use super::kind::{Address, Invalid, Kind, SWITCH};
use crate::tls::config::Returning;

/// An address to listen on, with the options of this listener alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// `early-data=`: is early data taken here? `None` leaves it to `--early-data`.
    pub early_data: Option<bool>,
    /// `resumption=`: may clients resume TLS sessions here?
    pub resumption: bool,
}

impl Listen {
    /// A listener without options.
    pub const fn on(address: SocketAddr) -> Self {
        Self { address, early_data: None, resumption: true }
    }

    /// What a client that was here before may do, where `--early-data` says this and sessions are kept.
    pub(super) const fn returning(&self, early_data: bool) -> Returning {
        let early_data = match self.early_data {
            Some(own) => own,
            None => early_data,
        };
        match (self.resumption, early_data) {
            (false, _) => Returning::StartAnew,
            (true, false) => Returning::Resume,
            (true, true) => Returning::SendEarlyData,
        }
    }
}

/// The kind of value that `--listen` takes.
pub(super) struct ListenOn;

impl Kind<Listen> for ListenOn {
    fn parse(&self, text: &str) -> Result<Listen, Invalid> {
        let mut parts = text.split(',');
        let mut listen = Listen::on(Address.parse(parts.next().unwrap_or_default())?);
        let mut seen = Vec::new();
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if seen.contains(&name) {
                return Err(Invalid::new(format!("{name} is given twice"), "give each option once"));
            }
            seen.push(name);
            match name {
                "early-data" => listen.early_data = Some(switch(name, value)?),
                "resumption" => listen.resumption = switch(name, value)?,
                _ => return Err(Invalid::new(format!("{part:?} is no option of a listener"), OPTIONS)),
            }
        }
        if listen.early_data == Some(true) && !listen.resumption {
            let problem = "early data comes with a session that is resumed, and resumption is off";
            return Err(Invalid::new(problem, "leave out early-data=on or resumption=off"));
        }
        Ok(listen)
    }

    fn show(&self, listen: &Listen) -> String {
        let early_data = listen.early_data.map(|on| format!(",early-data={}", SWITCH.show(&on)));
        let resumption = if listen.resumption { "" } else { ",resumption=off" };
        format!("{}{}{resumption}", Address.show(&listen.address), early_data.unwrap_or_default())
    }

    fn accepts(&self) -> String {
        let address = Kind::<SocketAddr>::accepts(&Address);
        format!("{address}; behind it, with commas, early-data=on|off and resumption=on|off for this listener alone")
    }
}

fn switch(name: &str, value: &str) -> Result<bool, Invalid> {
    SWITCH.parse(value).map_err(|_| Invalid::new(format!("{name} is neither on nor off"), OPTIONS))
}

const OPTIONS: &str = "write early-data=on, early-data=off, resumption=on or resumption=off";

#[cfg(test)]
mod tests {
    use super::{Kind, Listen, ListenOn};
    use crate::tls::config::Returning;

    fn problem(text: &str) -> String {
        ListenOn.parse(text).unwrap_err().problem
    }

    #[test]
    fn an_address_alone_is_a_listener_and_options_follow_in_any_order() {
        let address = "127.0.0.1:587".parse().unwrap();
        assert_eq!(ListenOn.parse("127.0.0.1:587"), Ok(Listen::on(address)));
        let neither = Listen { address, early_data: Some(false), resumption: false };
        assert_eq!(ListenOn.parse("127.0.0.1:587,early-data=off,resumption=off"), Ok(neither));
        assert_eq!(ListenOn.parse("127.0.0.1:587,resumption=off,early-data=off"), Ok(neither));
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for text in ["[::1]:0", "[::1]:465,early-data=on", "0.0.0.0:587,early-data=off", "0.0.0.0:1,resumption=off"] {
            assert_eq!(ListenOn.show(&ListenOn.parse(text).unwrap()), text);
        }
    }

    #[test]
    fn an_option_that_is_not_one_or_has_no_sense_is_refused_and_named() {
        assert_eq!(problem("127.0.0.1:587,early=off"), "\"early=off\" is no option of a listener");
        assert_eq!(problem("127.0.0.1:587,"), "\"\" is no option of a listener");
        assert_eq!(problem("127.0.0.1:587,early-data"), "early-data is neither on nor off");
        assert_eq!(problem("127.0.0.1:587,resumption=no"), "resumption is neither on nor off");
        assert_eq!(problem("127.0.0.1:587,early-data=on,early-data=off"), "early-data is given twice");
        assert!(problem("127.0.0.1:587,early-data=on,resumption=off").contains("resumption is off"));
        assert!(problem("early-data=off").contains("is not an IP address with a port"));
    }

    #[test]
    fn the_option_of_a_listener_beats_the_setting_for_all() {
        let listen = |text: &str| ListenOn.parse(text).unwrap();
        assert_eq!(listen("[::1]:1").returning(true), Returning::SendEarlyData);
        assert_eq!(listen("[::1]:1").returning(false), Returning::Resume);
        assert_eq!(listen("[::1]:1,early-data=on").returning(false), Returning::SendEarlyData);
        assert_eq!(listen("[::1]:1,early-data=off").returning(true), Returning::Resume);
        assert_eq!(listen("[::1]:1,resumption=off").returning(true), Returning::StartAnew);
    }
}
