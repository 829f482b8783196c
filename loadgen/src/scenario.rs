//! The ways in which a client may submit, and what each needs of the server.
//!
//! Knows nothing of load: `plan` says how many clients go which way.

use std::fmt;

use onetrip::proto::client::{Capabilities, Point, Profile, Security, ServerMemory};

use crate::veil::Hidden;

/// A way to submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Scenario {
    /// Plain ESMTP: greeting, EHLO, STARTTLS, EHLO, AUTH, MAIL, one after the other, and DATA.
    Esmtp,
    /// TLS from the first byte, then plain ESMTP.
    ImplicitTls,
    /// A pipelined QHLO and nothing else of QUICKSTART.
    Qhlo,
    /// QTLS and QHLO, but AUTH is not pipelined.
    Qtls,
    /// QTLS, QHLO and a pipelined AUTH: the draft's basic profile.
    Basic,
    /// QTLS after the greeting, with a TLS session, and inside TLS a full QHLO with a remembered id.
    QtlsResumed,
    /// All of QUICKSTART, with remembered ids and without a TLS session.
    Full,
    /// All of QUICKSTART, with remembered ids and a TLS session.
    FullResumed,
    /// All of QUICKSTART in TLS's early data.
    EarlyData,
    /// The same, and in the SYN.
    OneTrip,
    /// TLS from the first byte, with all of QUICKSTART in its early data.
    ImplicitEarlyData,
    /// The same, and in the SYN.
    ImplicitOneTrip,
    /// All of QUICKSTART, but the remembered id is wrong.
    Fallback,
    /// Exim's early EHLO.
    Pipeconnect,
    /// A wrong password; the refusal is what is expected.
    BadAuth,
}

impl Scenario {
    /// All of them, in the order of reports.
    pub(crate) const ALL: [Self; 15] = [
        Self::Esmtp,
        Self::ImplicitTls,
        Self::Qhlo,
        Self::Qtls,
        Self::Basic,
        Self::QtlsResumed,
        Self::Full,
        Self::FullResumed,
        Self::EarlyData,
        Self::OneTrip,
        Self::ImplicitEarlyData,
        Self::ImplicitOneTrip,
        Self::Fallback,
        Self::Pipeconnect,
        Self::BadAuth,
    ];

    /// The name on the command line and in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Esmtp => "esmtp",
            Self::ImplicitTls => "implicit-tls",
            Self::Qhlo => "qhlo",
            Self::Qtls => "qtls",
            Self::Basic => "basic",
            Self::QtlsResumed => "qtls-resumed",
            Self::Full => "full",
            Self::FullResumed => "full-resumed",
            Self::EarlyData => "early-data",
            Self::OneTrip => "one-trip",
            Self::ImplicitEarlyData => "implicit-early-data",
            Self::ImplicitOneTrip => "implicit-one-trip",
            Self::Fallback => "fallback",
            Self::Pipeconnect => "pipeconnect",
            Self::BadAuth => "bad-auth",
        }
    }

    /// The client in a few words, for tables.
    pub(crate) const fn description(self) -> &'static str {
        match self {
            Self::Esmtp => "plain ESMTP, STARTTLS, DATA",
            Self::ImplicitTls => "plain ESMTP, implicit TLS, DATA",
            Self::Qhlo => "pipelined QHLO only",
            Self::Qtls => "QTLS and QHLO, AUTH not pipelined",
            Self::Basic => "basic profile",
            Self::QtlsResumed => "QTLS, TLS session, full QHLO inside",
            Self::Full => "full profile",
            Self::FullResumed => "full profile, TLS session",
            Self::EarlyData => "full profile, early data",
            Self::OneTrip => "full profile, early data, Fast Open",
            Self::ImplicitEarlyData => "implicit TLS, early data",
            Self::ImplicitOneTrip => "implicit TLS, early data, Fast Open",
            Self::Fallback => "full profile, id refused",
            Self::Pipeconnect => "PIPECONNECT (Exim's early EHLO)",
            Self::BadAuth => "wrong password",
        }
    }

    /// Reads a name.
    ///
    /// # Errors
    ///
    /// Words for the user, if there is no such scenario.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scenario| scenario.name() == text);
        found.ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
            format!("{text:?} is no scenario: say one of {}", names.join(", "))
        })
    }

    /// How TLS begins.
    pub(crate) const fn security(self) -> Security {
        match self {
            Self::ImplicitTls | Self::ImplicitEarlyData | Self::ImplicitOneTrip => Security::Implicit,
            _ => Security::Required,
        }
    }

    /// Is its server the one that listens for implicit TLS?
    pub(crate) const fn is_implicit(self) -> bool {
        matches!(self.security(), Security::Implicit)
    }

    /// How much of QUICKSTART the client uses.
    pub(crate) const fn profile(self) -> Profile {
        match self {
            Self::Esmtp | Self::ImplicitTls => Profile::Esmtp,
            Self::Qhlo | Self::Qtls | Self::Basic => Profile::Basic,
            _ => Profile::Full,
        }
    }

    /// Does the client come with what it remembers of the server?
    pub(crate) const fn is_warm(self) -> bool {
        matches!(self.profile(), Profile::Full)
    }

    /// Does the client come with a TLS session?
    pub(crate) const fn resumes(self) -> bool {
        matches!(self, Self::QtlsResumed | Self::FullResumed) || self.sends_early_data()
    }

    /// Does the client say all it can in TLS's early data?
    pub(crate) const fn sends_early_data(self) -> bool {
        matches!(self, Self::EarlyData | Self::OneTrip | Self::ImplicitEarlyData | Self::ImplicitOneTrip)
    }

    /// Does the first flight travel in the SYN (RFC 7413)?
    pub(crate) const fn opens_fast(self) -> bool {
        matches!(self, Self::OneTrip | Self::ImplicitOneTrip)
    }

    /// Is it the refusal of the login that is measured?
    pub(crate) const fn expects_refusal(self) -> bool {
        matches!(self, Self::BadAuth)
    }

    /// What of the server's lists this client must not see, so that it does without it.
    pub(crate) const fn hidden(self) -> Hidden {
        let (keywords, parameters): (&[&str], &[&str]) = match self {
            // What mail programs do today: DATA, although the server offers better.
            Self::Esmtp | Self::ImplicitTls => (&["CHUNKING", "PIPECONNECT", "QUICKSTART", "XONCE"], &[]),
            Self::Qhlo => (&["CHUNKING", "PIPECONNECT"], &["QTLS", "STARTTLS", "AUTH", "QHLO"]),
            Self::Qtls => (&["PIPECONNECT"], &["AUTH", "QHLO"]),
            Self::Basic => (&["PIPECONNECT"], &["QHLO"]),
            // Where STARTTLS cannot be pipelined an early QHLO saves nothing, so the client waits for the greeting.
            Self::QtlsResumed => (&["PIPECONNECT"], &["STARTTLS", "XEARLYDATA"]),
            Self::Full | Self::FullResumed | Self::Fallback | Self::BadAuth => (&["PIPECONNECT"], &["XEARLYDATA"]),
            Self::EarlyData | Self::OneTrip | Self::ImplicitEarlyData | Self::ImplicitOneTrip => {
                (&["PIPECONNECT"], &[])
            }
            Self::Pipeconnect => (&["QUICKSTART"], &[]),
        };
        Hidden { keywords, parameters }
    }

    /// What the server does not offer and this scenario needs; `None` if nothing is missing. `server` is what a client
    /// has learnt that asked without hiding anything.
    pub(crate) fn missing(self, server: &ServerMemory) -> Option<&'static str> {
        let offers = |point, test: &dyn Fn(&Capabilities) -> bool| server.at(point).is_some_and(test);
        let at_connect = |test: &dyn Fn(&Capabilities) -> bool| offers(Point::Connect, test);
        let takes_early_data = |point| offers(point, &|list| list.quick(|quick| quick.early_data));
        let early_data_words = "QHLO=id and XEARLYDATA as parameters of QUICKSTART inside TLS";
        match self {
            Self::ImplicitTls => None,
            Self::ImplicitEarlyData | Self::ImplicitOneTrip => {
                let all = takes_early_data(Point::Secured) && offers(Point::Secured, &|list| list.qhlo_id().is_some());
                (!all).then_some(early_data_words)
            }
            _ if !at_connect(&|list| list.starttls) => Some("STARTTLS"),
            Self::Esmtp | Self::BadAuth => None,
            Self::Pipeconnect => (!at_connect(&|list| list.pipeconnect)).then_some("PIPECONNECT"),
            _ if !at_connect(&|list| list.quickstart.is_some()) => Some("QUICKSTART"),
            Self::Qhlo => None,
            Self::Qtls => (!at_connect(&|list| list.quick(|quick| quick.qtls))).then_some("QTLS"),
            Self::Basic => {
                let all = at_connect(&|list| list.quick(|quick| quick.qtls))
                    && offers(Point::Secured, &|list| list.quick(|quick| quick.auth));
                (!all).then_some("QTLS and AUTH as parameters of QUICKSTART")
            }
            Self::QtlsResumed => {
                let all = at_connect(&|list| list.quick(|quick| quick.qtls))
                    && offers(Point::Secured, &|list| list.qhlo_id().is_some());
                (!all).then_some("QTLS and, inside TLS, QHLO=id as parameters of QUICKSTART")
            }
            Self::Full | Self::FullResumed | Self::Fallback => {
                let all = at_connect(&|list| list.qhlo_id().is_some() && list.quick(|quick| quick.starttls))
                    && offers(Point::Secured, &|list| list.qhlo_id().is_some());
                (!all).then_some("QHLO=id and STARTTLS as parameters of QUICKSTART")
            }
            Self::EarlyData | Self::OneTrip => {
                let missing = Self::Full.missing(server);
                missing.or_else(|| (!takes_early_data(Point::Secured)).then_some(early_data_words))
            }
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A memory in which the id of the *connect* point is wrong and all else is right.
pub(crate) fn with_wrong_id(server: &ServerMemory) -> ServerMemory {
    let mut wrong = server.clone();
    let Some(list) = server.at(Point::Connect) else { return wrong };
    let lines: Vec<String> = list.lines().map(spoil_id).collect();
    wrong.learn(Point::Connect, &Capabilities::from_lines(lines.iter().map(String::as_str)));
    wrong
}

fn spoil_id(line: &str) -> String {
    let words = line.split(' ').map(|word| if word.starts_with("QHLO=") { "QHLO=wrong" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use onetrip::proto::client::{Capabilities, Point, ServerMemory};

    use super::{Scenario, with_wrong_id};

    fn server(connect: &[&str], secured: &[&str]) -> ServerMemory {
        let mut memory = ServerMemory::default();
        memory.learn(Point::Connect, &Capabilities::from_lines(connect.iter().copied()));
        memory.learn(Point::Secured, &Capabilities::from_lines(secured.iter().copied()));
        memory
    }

    #[test]
    fn every_name_is_read_back() {
        assert!(Scenario::ALL.into_iter().all(|scenario| Scenario::parse(scenario.name()) == Ok(scenario)));
        assert!(Scenario::parse("fast").is_err());
    }

    #[test]
    fn a_plain_server_is_asked_for_plain_scenarios_only() {
        let postfix = server(&["PIPELINING", "STARTTLS"], &["PIPELINING", "AUTH PLAIN"]);
        let fits: Vec<_> = Scenario::ALL.into_iter().filter(|scenario| scenario.missing(&postfix).is_none()).collect();
        assert_eq!(fits, [Scenario::Esmtp, Scenario::ImplicitTls, Scenario::BadAuth]);
    }

    #[test]
    fn a_server_with_all_of_quickstart_and_pipeconnect_lacks_nothing() {
        let all = server(
            &["PIPELINING", "STARTTLS", "PIPECONNECT", "QUICKSTART QTLS QHLO=a STARTTLS XEARLYDATA"],
            &["PIPELINING", "AUTH PLAIN", "QUICKSTART QHLO=b AUTH XEARLYDATA"],
        );
        assert!(Scenario::ALL.into_iter().all(|scenario| scenario.missing(&all).is_none()));
    }

    #[test]
    fn early_data_needs_the_servers_word_inside_tls() {
        let without = server(
            &["PIPELINING", "STARTTLS", "QUICKSTART QTLS QHLO=a STARTTLS XEARLYDATA"],
            &["PIPELINING", "AUTH PLAIN", "QUICKSTART QHLO=b AUTH"],
        );
        let missing: Vec<_> =
            Scenario::ALL.into_iter().filter(|scenario| scenario.missing(&without).is_some()).collect();
        let early: Vec<_> = Scenario::ALL.into_iter().filter(|scenario| scenario.sends_early_data()).collect();
        assert_eq!(missing, [early, vec![Scenario::Pipeconnect]].concat());
    }

    #[test]
    fn a_server_that_cannot_pipeline_starttls_is_asked_for_qtls_with_a_session_but_not_for_all_of_quickstart() {
        let server = server(
            &["PIPELINING", "STARTTLS", "QUICKSTART QTLS"],
            &["PIPELINING", "AUTH PLAIN", "QUICKSTART QHLO=b AUTH"],
        );
        assert_eq!(Scenario::QtlsResumed.missing(&server), None);
        assert!(Scenario::FullResumed.missing(&server).is_some());
    }

    #[test]
    fn only_clients_that_come_with_what_they_remember_resume() {
        assert!(Scenario::ALL.into_iter().all(|scenario| scenario.is_warm() || !scenario.resumes()));
    }

    #[test]
    fn the_fallback_spoils_the_id_of_the_connect_point_alone() {
        let right = server(&["PIPELINING", "QUICKSTART QTLS QHLO=a STARTTLS"], &["QUICKSTART QHLO=b"]);
        let wrong = with_wrong_id(&right);
        assert_eq!(wrong.at(Point::Connect).unwrap().qhlo_id(), Some("wrong"));
        assert!(wrong.at(Point::Connect).unwrap().quick(|quick| quick.starttls));
        assert_eq!(wrong.at(Point::Secured), right.at(Point::Secured));
    }
}
