//! What the last attempts came to, each text once.
//!
//! A dead hop says the same about a million messages. A hop that says something new each time must not fill the memory:
//! beyond a bound texts are not kept here (the log has them).

use std::collections::HashMap;
use std::sync::Arc;

use crate::limits::{LAST_REPLY_BYTES_MAX, REPLIES_KEPT_BYTES_MAX};
use crate::paged_slab::{NONE, Slab};

/// All texts that some message refers to.
#[derive(Debug)]
pub(super) struct Replies {
    kept: Slab<Kept>,
    numbers: HashMap<Arc<str>, ReplyNumber>,
    bytes: usize,
}

/// Which text: four bytes, where a pointer to it takes sixteen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReplyNumber(u32);

#[derive(Debug)]
struct Kept {
    text: Arc<str>,
    /// How many messages refer to it.
    users: u64,
}

impl ReplyNumber {
    /// No text.
    pub(super) const NONE: Self = Self(NONE);
}

impl Replies {
    pub(super) fn new() -> Self {
        Self { kept: Slab::new(), numbers: HashMap::new(), bytes: 0 }
    }

    /// Keeps a text, cut to [`LAST_REPLY_BYTES_MAX`]. An empty one is none, and so is a new one for which there is no room.
    pub(super) fn keep(&mut self, text: &str) -> ReplyNumber {
        let text = cut(text);
        if let Some(known) = self.numbers.get(text) {
            self.kept[known.0].users += 1;
            return *known;
        }
        if text.is_empty() || self.bytes + text.len() > REPLIES_KEPT_BYTES_MAX {
            return ReplyNumber::NONE;
        }
        let text: Arc<str> = text.into();
        self.bytes += text.len();
        let number = ReplyNumber(self.kept.insert(Kept { text: Arc::clone(&text), users: 1 }));
        self.numbers.insert(text, number);
        number
    }

    /// The text, if there is one.
    pub(super) fn text(&self, number: ReplyNumber) -> Option<Arc<str>> {
        (number != ReplyNumber::NONE).then(|| Arc::clone(&self.kept[number.0].text))
    }

    /// Takes back what [`Self::keep`] gave.
    pub(super) fn release(&mut self, number: ReplyNumber) {
        if number == ReplyNumber::NONE {
            return;
        }
        let kept = &mut self.kept[number.0];
        kept.users -= 1;
        if kept.users == 0 {
            let Kept { text, .. } = self.kept.remove(number.0);
            self.numbers.remove(&text);
            self.bytes -= text.len();
        }
    }
}

fn cut(text: &str) -> &str {
    let longest = text.len().min(LAST_REPLY_BYTES_MAX);
    let end = (0..=longest).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::{Replies, ReplyNumber};
    use crate::limits::{LAST_REPLY_BYTES_MAX, REPLIES_KEPT_BYTES_MAX};

    #[test]
    fn the_same_text_is_kept_once_until_its_last_user_is_gone() {
        let mut replies = Replies::new();
        let (first, second) = (replies.keep("451 busy"), replies.keep("451 busy"));
        assert_eq!((first, replies.kept.len(), replies.bytes), (second, 1, 8));
        replies.release(first);
        assert_eq!(replies.text(second).as_deref(), Some("451 busy"));
        replies.release(second);
        assert_eq!((replies.kept.len(), replies.numbers.len(), replies.bytes), (0, 0, 0));
    }

    #[test]
    fn no_text_is_kept_as_none_and_has_nothing_to_take_back() {
        let mut replies = Replies::new();
        assert_eq!(replies.keep(""), ReplyNumber::NONE);
        assert_eq!(replies.text(ReplyNumber::NONE), None);
        replies.release(ReplyNumber::NONE);
    }

    #[test]
    fn texts_are_cut_between_characters_and_bounded_together() {
        let mut replies = Replies::new();
        let long = replies.keep(&"ä".repeat(LAST_REPLY_BYTES_MAX));
        assert_eq!(replies.text(long).unwrap().len(), LAST_REPLY_BYTES_MAX);
        let cut = replies.keep(&format!("x{}", "ä".repeat(LAST_REPLY_BYTES_MAX)));
        assert_eq!(replies.text(cut).unwrap().len(), LAST_REPLY_BYTES_MAX - 1);
        let keeps = |number: &usize| replies.keep(&format!("{number:0>512}")) != ReplyNumber::NONE;
        let kept = (0..).take_while(keeps).count();
        assert_eq!(kept, REPLIES_KEPT_BYTES_MAX / LAST_REPLY_BYTES_MAX - 2);
        assert!(replies.bytes <= REPLIES_KEPT_BYTES_MAX);
    }
}
