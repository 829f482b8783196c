//! Which recipient goes where.
//!
//! Rules by the recipient's domain, and a default for all others. It must not look at anything but the address: the same
//! address always goes the same way, so that a queue is put together again after a restart without having been written
//! down.

use std::collections::HashMap;

use super::{Destination, Route};
use crate::proto::address::domain_of;

/// The number of a destination: its place in [`Routes::destinations`]. It holds for the life of the process. There is
/// one for the default and for each rule at most, see [`ROUTES_MAX`](crate::limits::ROUTES_MAX).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationNumber(pub u16);

/// All rules.
#[derive(Clone, Debug)]
pub struct Routes {
    destinations: Vec<Destination>,
    /// `example.org` for the domain alone, `.example.org` for what is below it; in lower case.
    by_domain: HashMap<Box<str>, DestinationNumber>,
    host_name: String,
}

impl Routes {
    /// Everything goes to `default`, except what `rules` send elsewhere. Of two rules for the same domain the last one
    /// holds. `host_name` is the domain of `postmaster` without one (RFC 5321 §4.1.1.3).
    pub fn new(default: Destination, rules: &[Route], host_name: &str) -> Self {
        let mut routes =
            Self { destinations: vec![default], by_domain: HashMap::new(), host_name: host_name.to_lowercase() };
        for rule in rules {
            let number = routes.number_of(&rule.destination);
            routes.by_domain.insert(rule.domain.to_lowercase().into(), number);
        }
        routes
    }

    /// Every destination once, by number; the default is the first.
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// The destination of this number, which must be one of these routes.
    pub fn destination(&self, number: DestinationNumber) -> &Destination {
        &self.destinations[number.0 as usize]
    }

    /// Where mail for `address` goes: the rule for its domain itself, else the rule for the closest domain above it,
    /// else the default.
    pub fn route(&self, address: &str) -> DestinationNumber {
        if self.by_domain.is_empty() {
            return DEFAULT;
        }
        let domain = domain_of(address).map_or_else(|| self.host_name.clone(), str::to_lowercase);
        let above = domain.match_indices('.').map(|(dot, _)| &domain[dot..]);
        std::iter::once(&*domain).chain(above).find_map(|name| self.by_domain.get(name).copied()).unwrap_or(DEFAULT)
    }

    /// Is there nothing to be done for a message to these recipients?
    pub fn discards<'a>(&self, mut addresses: impl Iterator<Item = &'a str>) -> bool {
        self.destinations.contains(&Destination::Discard)
            && addresses.all(|address| *self.destination(self.route(address)) == Destination::Discard)
    }

    fn number_of(&mut self, destination: &Destination) -> DestinationNumber {
        let known = self.destinations.iter().position(|known| known == destination);
        let place = known.unwrap_or_else(|| {
            self.destinations.push(destination.clone());
            self.destinations.len() - 1
        });
        DestinationNumber(u16::try_from(place).expect("a configuration has no more destinations than numbers"))
    }
}

const DEFAULT: DestinationNumber = DestinationNumber(0);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{DestinationNumber, Routes};
    use crate::relay::{Destination, Route};

    fn maildir(name: &str) -> Destination {
        Destination::Maildir(PathBuf::from(name))
    }

    fn routes(rules: &[(&str, &str)]) -> Routes {
        let rules: Vec<_> = rules
            .iter()
            .map(|(domain, name)| Route { domain: (*domain).to_owned(), destination: maildir(name) })
            .collect();
        Routes::new(maildir("default"), &rules, "Mail.Example.NET")
    }

    fn way(routes: &Routes, address: &str) -> Destination {
        routes.destination(routes.route(address)).clone()
    }

    #[test]
    fn a_rule_for_a_domain_holds_for_it_alone_and_one_with_a_dot_for_what_is_below() {
        let routes = routes(&[("example.org", "exact"), (".example.org", "below"), (".org", "org")]);
        for (address, expected) in [
            ("bob@example.org", "exact"),
            ("bob@EXAMPLE.Org", "exact"),
            ("bob@a.example.org", "below"),
            ("bob@b.a.example.org", "below"),
            ("bob@badexample.org", "org"),
            ("bob@org", "default"),
            ("bob@example.com", "default"),
            ("\"x@example.org\"@example.com", "default"),
            ("bob@[192.0.2.1]", "default"),
        ] {
            assert_eq!(way(&routes, address), maildir(expected), "{address}");
        }
    }

    #[test]
    fn a_message_is_discarded_if_all_of_it_is() {
        let rules = [Route { domain: "a.example".to_owned(), destination: Destination::Discard }];
        let some = Routes::new(maildir("default"), &rules, "mail.example.net");
        assert!(some.discards(["x@a.example", "y@a.example"].into_iter()));
        assert!(!some.discards(["x@a.example", "y@b.example"].into_iter()));
        let all = Routes::new(Destination::Discard, &[], "mail.example.net");
        assert!(all.discards(["x@a.example", "y@b.example"].into_iter()));
        assert!(!routes(&[]).discards(["x@a.example"].into_iter()));
    }

    #[test]
    fn postmaster_without_a_domain_is_of_this_host() {
        let routes = routes(&[("mail.example.net", "here")]);
        assert_eq!(way(&routes, "Postmaster"), maildir("here"));
    }

    #[test]
    fn domains_of_other_scripts_are_compared_without_case() {
        let routes = routes(&[("exämple.org", "here")]);
        assert_eq!(way(&routes, "bob@EXÄMPLE.org"), maildir("here"));
    }

    #[test]
    fn a_destination_named_twice_has_one_number_and_the_last_rule_holds() {
        let routes = routes(&[("a.example", "x"), ("b.example", "x"), ("c.example", "default"), ("a.example", "y")]);
        assert_eq!(routes.destinations(), [maildir("default"), maildir("x"), maildir("y")]);
        assert_eq!(routes.route("bob@b.example"), DestinationNumber(1));
        assert_eq!(routes.route("bob@c.example"), DestinationNumber(0));
        assert_eq!(routes.route("bob@a.example"), DestinationNumber(2));
    }
}
