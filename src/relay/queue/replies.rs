//! What the last attempts came to, each text once.
//!
//! A dead hop says the same about a million messages. A hop that says something new each time must not fill the memory:
//! beyond a bound texts are not kept here (the log has them).

use std::collections::HashSet;
use std::sync::Arc;

use crate::limits::{LAST_REPLY_BYTES_MAX, REPLIES_KEPT_BYTES_MAX};

/// All texts that some message refers to.
#[derive(Debug, Default)]
pub(super) struct Replies {
    texts: HashSet<Arc<str>>,
    bytes: usize,
}

impl Replies {
    /// Keeps a text, cut to [`LAST_REPLY_BYTES_MAX`]; `None` if there is no room for a new one.
    pub(super) fn keep(&mut self, text: &str) -> Option<Arc<str>> {
        let text = cut(text);
        if let Some(known) = self.texts.get(text) {
            return Some(Arc::clone(known));
        }
        if self.bytes + text.len() > REPLIES_KEPT_BYTES_MAX {
            return None;
        }
        let kept: Arc<str> = text.into();
        self.bytes += text.len();
        self.texts.insert(Arc::clone(&kept));
        Some(kept)
    }

    /// Takes back what [`Self::keep`] gave.
    pub(super) fn release(&mut self, text: Option<Arc<str>>) {
        let Some(text) = text else { return };
        // Ours in the set, and the one that is given back.
        if Arc::strong_count(&text) == 2 && self.texts.remove(&text) {
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
    use super::Replies;
    use crate::limits::{LAST_REPLY_BYTES_MAX, REPLIES_KEPT_BYTES_MAX};

    #[test]
    fn the_same_text_is_kept_once_until_its_last_user_is_gone() {
        let mut replies = Replies::default();
        let (first, second) = (replies.keep("451 busy"), replies.keep("451 busy"));
        assert_eq!((replies.texts.len(), replies.bytes), (1, 8));
        replies.release(first);
        assert_eq!(replies.texts.len(), 1);
        replies.release(second);
        assert_eq!((replies.texts.len(), replies.bytes), (0, 0));
    }

    #[test]
    fn texts_are_cut_between_characters_and_bounded_together() {
        let mut replies = Replies::default();
        let long = replies.keep(&"ä".repeat(LAST_REPLY_BYTES_MAX)).unwrap();
        assert_eq!(long.len(), LAST_REPLY_BYTES_MAX);
        let cut = replies.keep(&format!("x{}", "ä".repeat(LAST_REPLY_BYTES_MAX))).unwrap();
        assert_eq!(cut.len(), LAST_REPLY_BYTES_MAX - 1);
        let kept = (0..).map_while(|number| replies.keep(&format!("{number:0>512}"))).count();
        assert_eq!(kept, REPLIES_KEPT_BYTES_MAX / LAST_REPLY_BYTES_MAX - 2);
        assert!(replies.bytes <= REPLIES_KEPT_BYTES_MAX);
    }
}
