//! Which messages are meant.

use serde::{Deserialize, Serialize};

use super::wire::{Fault, Item};
use crate::exit::Exit;

/// Which messages are meant: all conditions that are given must hold; without any, every message is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Ids, or beginnings of ids of which each fits one message only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Received longer ago than this, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_s: Option<u64>,
    /// Still waits for a recipient of this domain; case does not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient_domain: Option<String>,
    /// The envelope's sender: an address; `@domain` for all of a domain; empty for the null sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Who submitted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// In one of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<ItemState>,
}

/// What a message waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemState {
    /// For its turn.
    Ready,
    /// For the time of its next attempt.
    Deferred,
    /// For the end of an attempt that is under way.
    Active,
    /// For an operator.
    Held,
}

impl ItemState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ready, Self::Deferred, Self::Active, Self::Held];

    /// The word on the command line, in lists and in JSON.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Deferred => "deferred",
            Self::Active => "active",
            Self::Held => "held",
        }
    }

    /// The state that `word` names, if any.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

impl Selection {
    /// Is every message meant?
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// Is this message meant, as far as the conditions besides ids go?
    pub fn meets(&self, item: &Item) -> bool {
        self.older_than_s.is_none_or(|age_s| item.age_s > age_s)
            && self.user.as_ref().is_none_or(|user| *user == item.user)
            && self.sender.as_ref().is_none_or(|sender| is_sender(sender, &item.sender))
            && self.recipient_domain.as_ref().is_none_or(|domain| has_domain(item, domain))
            && (self.states.is_empty() || self.states.contains(&item.state))
    }
}

fn is_sender(wanted: &str, sender: &str) -> bool {
    match (wanted.rsplit_once('@'), sender.rsplit_once('@')) {
        (Some(("", domain)), Some((_, of_sender))) => domain.eq_ignore_ascii_case(of_sender),
        (Some((local, domain)), Some((of_local, of_sender))) => {
            local == of_local && domain.eq_ignore_ascii_case(of_sender)
        }
        _ => wanted == sender,
    }
}

fn has_domain(item: &Item, domain: &str) -> bool {
    let of = |address: &String| address.rsplit_once('@').is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain));
    item.recipients.iter().any(of)
}

/// The id, or the beginning of one, that a person has written: case does not count, and letters that ids avoid stand for
/// the digits that they look like.
///
/// # Errors
/// Nothing in it could be an id.
pub fn message_name(text: &str) -> Result<String, Fault> {
    let mean = |letter: char| match letter.to_ascii_lowercase() {
        'o' => '0',
        'i' | 'l' => '1',
        letter => letter,
    };
    let name: String = text.chars().map(mean).collect();
    let is_id = |letter: char| letter.is_ascii_digit() || (letter.is_ascii_lowercase() && letter != 'u');
    if name.is_empty() || name.len() > MESSAGE_NAME_LENGTH || !name.chars().all(is_id) {
        let problem = format!("{text:?} is not the id of a message, nor the beginning of one");
        return Err(Fault::new(Exit::Usage, problem, "copy it from onetrip queue list, or from the log"));
    }
    Ok(name)
}

/// Letters and digits of an id.
const MESSAGE_NAME_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use super::{ItemState, Selection, message_name};
    use crate::queue::wire::tests::item;

    fn meets(change: impl FnOnce(&mut Selection)) -> bool {
        let mut selection = Selection::default();
        change(&mut selection);
        assert!(!selection.is_everything());
        selection.meets(&item("06b8"))
    }

    #[test]
    fn without_a_condition_every_message_is_meant() {
        assert!(Selection::default().is_everything() && Selection::default().meets(&item("06b8")));
    }

    #[test]
    fn age_counts_in_seconds_and_must_be_more() {
        assert!(meets(|selection| selection.older_than_s = Some(7_499)));
        assert!(!meets(|selection| selection.older_than_s = Some(7_500)));
    }

    #[test]
    fn a_sender_is_an_address_or_a_domain_or_nobody() {
        for (sender, is_meant) in [
            ("ann@example.org", true),
            ("ann@EXAMPLE.org", true),
            ("Ann@example.org", false),
            ("@example.org", true),
            ("@Example.Org", true),
            ("@ample.org", false),
            ("", false),
            ("ann", false),
        ] {
            assert_eq!(meets(|selection| selection.sender = Some(sender.to_owned())), is_meant, "{sender}");
        }
        let mut null = item("06b8");
        null.sender.clear();
        assert!(Selection { sender: Some(String::new()), ..Selection::default() }.meets(&null));
        assert!(!Selection { sender: Some("@example.org".to_owned()), ..Selection::default() }.meets(&null));
    }

    #[test]
    fn a_recipient_domain_is_that_of_one_who_still_waits() {
        assert!(meets(|selection| selection.recipient_domain = Some("Example.NET".to_owned())));
        assert!(!meets(|selection| selection.recipient_domain = Some("example.org".to_owned())));
        assert!(!meets(|selection| selection.recipient_domain = Some("net".to_owned())));
    }

    #[test]
    fn user_and_state_are_what_they_are() {
        assert!(meets(|selection| selection.user = Some("ann".to_owned())));
        assert!(!meets(|selection| selection.user = Some("an".to_owned())));
        assert!(meets(|selection| selection.states = vec![ItemState::Held, ItemState::Deferred]));
        assert!(!meets(|selection| selection.states = vec![ItemState::Held]));
    }

    #[test]
    fn all_conditions_must_hold() {
        let both = |user: &str| Selection {
            user: Some(user.to_owned()),
            states: vec![ItemState::Deferred],
            ..Selection::default()
        };
        assert!(both("ann").meets(&item("06b8")));
        assert!(!both("bob").meets(&item("06b8")));
    }

    #[test]
    fn an_id_may_be_read_over_the_telephone() {
        assert_eq!(message_name("06B8OIL").unwrap(), "06b8011");
        for text in ["", "06b8u", "06b8-", "00000000000000000", "ä", "*"] {
            assert!(message_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_state_is_found_by_its_word_and_no_other() {
        for state in ItemState::ALL {
            assert_eq!(ItemState::from_word(state.word()), Some(state));
        }
        assert_eq!(ItemState::from_word("lost"), None);
    }
}
