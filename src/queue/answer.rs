//! From a request to its answer: which messages are meant, in which order things are done, and what is told.
//!
//! It knows neither socket nor file: what it asks for comes from a [`Shelf`], and lines go to a writer.

use std::io::{self, Write};

use data_encoding::BASE64;

use super::selection::{Selection, message_name};
use super::wire::{Details, Fault, Item, Order, Reply, Request, WhatBecame};
use crate::exit::Exit;

/// Where the messages are: in a running server, or in the spool of a stopped one.
pub trait Shelf {
    /// Hands over each message that `selection` could mean, oldest first, until `each` says that it is enough. What is
    /// handed over is looked at again, so that it may be more.
    ///
    /// # Errors
    /// The messages cannot be looked through.
    fn list(
        &mut self,
        selection: &Selection,
        each: &mut dyn FnMut(Item) -> io::Result<()>,
    ) -> Result<io::Result<()>, Fault>;

    /// The ids that begin so, at most `most`.
    ///
    /// # Errors
    /// The messages cannot be looked through.
    fn names(&mut self, beginning: &str, most: usize) -> Result<Vec<String>, Fault>;

    /// A message as a list shows it, if it is there.
    ///
    /// # Errors
    /// It is there but cannot be read.
    fn item(&mut self, message: &str) -> Result<Option<Item>, Fault>;

    /// All about a message, if it is there.
    ///
    /// # Errors
    /// It is there but cannot be read.
    fn details(&mut self, message: &str) -> Result<Option<Details>, Fault>;

    /// The message as it would be delivered, if it is there.
    ///
    /// # Errors
    /// It is there but cannot be read.
    fn content(&mut self, message: &str) -> Result<Option<Vec<u8>>, Fault>;

    /// Carries out [`Order::Flush`], [`Order::Hold`], [`Order::Release`] or [`Order::Remove`]; false if the message is
    /// not there.
    ///
    /// # Errors
    /// It cannot be carried out: on a stopped server, or because it cannot be written down.
    fn change(&mut self, order: Order, message: &str) -> Result<bool, Fault>;

    /// Has every message tried now, without looking at each.
    ///
    /// # Errors
    /// As for [`Shelf::change`].
    fn flush_everything(&mut self) -> Result<(), Fault>;
}

/// Answers one request, line by line.
///
/// # Errors
/// Whoever asked is gone.
pub fn answer(request: &Request, shelf: &mut dyn Shelf, out: &mut dyn Write) -> io::Result<()> {
    let outcome = match request.order {
        Order::List => list(&request.select, shelf, out),
        Order::Show => show(&request.select, shelf, out),
        Order::Export => export(&request.select, shelf, out),
        order @ (Order::Flush | Order::Hold | Order::Release | Order::Remove) => {
            change(order, &request.select, shelf, out)
        }
    };
    match outcome {
        Ok(messages) => say(&Reply::End { messages }, out),
        Err(Broken::Fault(fault)) => say(&Reply::Fault(fault), out),
        Err(Broken::Gone(error)) => Err(error),
    }
}

/// Why an answer ends early.
enum Broken {
    Fault(Fault),
    Gone(io::Error),
}

impl From<Fault> for Broken {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Gone(error)
    }
}

fn say(reply: &Reply, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(reply.to_line().as_bytes())
}

fn list(select: &Selection, shelf: &mut dyn Shelf, out: &mut dyn Write) -> Result<u64, Broken> {
    let mut messages = 0;
    for_each(select, shelf, &mut |item| {
        messages += 1;
        say(&Reply::Item(item), out)
    })?;
    Ok(messages)
}

/// Hands over each message that is meant.
fn for_each(
    select: &Selection,
    shelf: &mut dyn Shelf,
    each: &mut dyn FnMut(Item) -> io::Result<()>,
) -> Result<(), Broken> {
    if select.ids.is_empty() {
        shelf.list(select, &mut |item| if select.meets(&item) { each(item) } else { Ok(()) })??;
        return Ok(());
    }
    for message in resolved(&select.ids, shelf)? {
        // One that has left meanwhile is not in the list, as it would not be in any other.
        if let Some(item) = shelf.item(&message)?
            && select.meets(&item)
        {
            each(item)?;
        }
    }
    Ok(())
}

/// The whole ids of what was written, all of them or none.
fn resolved(ids: &[String], shelf: &mut dyn Shelf) -> Result<Vec<String>, Fault> {
    ids.iter().map(|id| resolve(id, shelf)).collect()
}

fn resolve(id: &str, shelf: &mut dyn Shelf) -> Result<String, Fault> {
    let beginning = message_name(id)?;
    let mut names = shelf.names(&beginning, NAMES_SHOWN_MAX + 1)?;
    match names.len() {
        1 => Ok(names.remove(0)),
        0 => Err(Fault::new(
            Exit::NoInput,
            format!("there is no message {beginning} in the queue"),
            "it may have been delivered: look for the id in the log",
        )),
        many => {
            let rest = if many > NAMES_SHOWN_MAX { ", …" } else { "" };
            let shown = names[..many.min(NAMES_SHOWN_MAX)].join(", ");
            let problem = format!("{beginning} fits more than one message ({shown}{rest})");
            Err(Fault::new(Exit::Usage, problem, "give more of the id"))
        }
    }
}

fn show(select: &Selection, shelf: &mut dyn Shelf, out: &mut dyn Write) -> Result<u64, Broken> {
    let messages = resolved(&select.ids, shelf)?;
    for message in &messages {
        let details = shelf.details(message)?.ok_or_else(|| gone(message))?;
        say(&Reply::Details(Box::new(details)), out)?;
    }
    Ok(messages.len() as u64)
}

fn export(select: &Selection, shelf: &mut dyn Shelf, out: &mut dyn Write) -> Result<u64, Broken> {
    let mut exported = 0;
    for message in meant(select, shelf)? {
        let Some(content) = shelf.content(&message)? else {
            say(&Reply::Done { message, became: WhatBecame::Gone }, out)?;
            continue;
        };
        say(&Reply::File { message, bytes: content.len() as u64 }, out)?;
        for piece in content.chunks(PIECE_BYTES) {
            say(&Reply::Piece(BASE64.encode(piece)), out)?;
        }
        exported += 1;
    }
    Ok(exported)
}

fn change(order: Order, select: &Selection, shelf: &mut dyn Shelf, out: &mut dyn Write) -> Result<u64, Broken> {
    let became = match order {
        Order::Flush => WhatBecame::Flushed,
        Order::Hold => WhatBecame::Held,
        Order::Release => WhatBecame::Released,
        _ => WhatBecame::Removed,
    };
    if order == Order::Flush && select.is_everything() {
        return flush_everything(shelf, out);
    }
    let mut changed = 0;
    for message in meant(select, shelf)? {
        let is_there = shelf.change(order, &message)?;
        changed += u64::from(is_there);
        let became = if is_there { became } else { WhatBecame::Gone };
        say(&Reply::Done { message, became }, out)?;
    }
    Ok(changed)
}

fn flush_everything(shelf: &mut dyn Shelf, out: &mut dyn Write) -> Result<u64, Broken> {
    let messages = shelf.names("", usize::MAX)?;
    shelf.flush_everything()?;
    let flushed = messages.len() as u64;
    for message in messages {
        say(&Reply::Done { message, became: WhatBecame::Flushed }, out)?;
    }
    Ok(flushed)
}

/// The ids of all messages that are meant, before anything is done with them: what is done may change the list.
fn meant(select: &Selection, shelf: &mut dyn Shelf) -> Result<Vec<String>, Broken> {
    let mut messages = Vec::new();
    for_each(select, shelf, &mut |item| {
        messages.push(item.message);
        Ok(())
    })?;
    Ok(messages)
}

fn gone(message: &str) -> Fault {
    let problem = format!("the message {message} has just left the queue");
    Fault::new(Exit::NoInput, problem, "look for the id in the log")
}

/// Bytes of a message in one line of an answer: a few lines for the largest, and no large buffer on either side.
const PIECE_BYTES: usize = 48 << 10;

/// Ids shown of those that a beginning fits.
const NAMES_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io;

    use super::{PIECE_BYTES, Shelf, answer};
    use crate::exit::Exit;
    use crate::queue::selection::{ItemState, Selection};
    use crate::queue::wire::tests::{details, item};
    use crate::queue::wire::{Details, Fault, Item, Order, Reply, Request, WhatBecame};

    /// Messages by id.
    #[derive(Default)]
    struct Table {
        items: BTreeMap<String, Item>,
        /// Leaves before it is asked for.
        leaves: Option<String>,
        stuck: bool,
    }

    impl Shelf for Table {
        fn list(
            &mut self,
            _: &Selection,
            each: &mut dyn FnMut(Item) -> io::Result<()>,
        ) -> Result<io::Result<()>, Fault> {
            Ok(self.items.values().cloned().try_for_each(each))
        }

        fn names(&mut self, beginning: &str, most: usize) -> Result<Vec<String>, Fault> {
            let names = self.items.keys().filter(|id| id.starts_with(beginning)).take(most).cloned().collect();
            if let Some(leaves) = &self.leaves {
                self.items.remove(leaves);
            }
            Ok(names)
        }

        fn item(&mut self, message: &str) -> Result<Option<Item>, Fault> {
            Ok(self.items.get(message).cloned())
        }

        fn details(&mut self, message: &str) -> Result<Option<Details>, Fault> {
            Ok(self.items.get(message).map(|item| Details { item: item.clone(), ..details(message) }))
        }

        fn content(&mut self, message: &str) -> Result<Option<Vec<u8>>, Fault> {
            Ok(self.items.get(message).map(|item| vec![b'x'; item.bytes as usize]))
        }

        fn change(&mut self, order: Order, message: &str) -> Result<bool, Fault> {
            if self.stuck {
                return Err(Fault::new(Exit::Unavailable, "no server runs", "start it"));
            }
            let Some(item) = self.items.get_mut(message) else { return Ok(false) };
            item.state = if order == Order::Hold { ItemState::Held } else { ItemState::Ready };
            if order == Order::Remove {
                self.items.remove(message);
            }
            Ok(true)
        }

        fn flush_everything(&mut self) -> Result<(), Fault> {
            let messages: Vec<String> = self.items.keys().cloned().collect();
            messages.iter().try_for_each(|message| self.change(Order::Flush, message).map(drop))
        }
    }

    fn table(ids: &[&str]) -> Table {
        Table { items: ids.iter().map(|id| ((*id).to_owned(), item(id))).collect(), ..Table::default() }
    }

    fn ask(shelf: &mut Table, order: Order, select: Selection) -> Vec<Reply> {
        let mut out = Vec::new();
        answer(&Request { order, select }, shelf, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().map(|line| Reply::from_line(line).unwrap()).collect()
    }

    fn ids(ids: &[&str]) -> Selection {
        Selection { ids: ids.iter().map(|id| (*id).to_owned()).collect(), ..Selection::default() }
    }

    fn fault(replies: &[Reply]) -> &Fault {
        let [Reply::Fault(fault)] = replies else { panic!("{replies:?}") };
        fault
    }

    fn done(message: &str, became: WhatBecame) -> Reply {
        Reply::Done { message: message.to_owned(), became }
    }

    #[test]
    fn a_list_tells_of_every_message_that_is_meant_and_ends_with_their_number() {
        let mut shelf = table(&["06b0", "06b1", "06b2"]);
        shelf.items.get_mut("06b1").unwrap().user = "bob".to_owned();
        assert_eq!(ask(&mut shelf, Order::List, Selection::default()).len(), 4);
        let of_bob = Selection { user: Some("bob".to_owned()), ..Selection::default() };
        let replies = ask(&mut shelf, Order::List, of_bob);
        assert_eq!(replies, [Reply::Item(shelf.items["06b1"].clone()), Reply::End { messages: 1 }]);
    }

    #[test]
    fn an_id_may_be_cut_as_long_as_it_fits_one_message() {
        let mut shelf = table(&["06b0aa", "06b1aa", "06b1ab"]);
        assert!(matches!(&ask(&mut shelf, Order::Show, ids(&["06B0"]))[..], [Reply::Details(_), Reply::End { .. }]));
        let replies = ask(&mut shelf, Order::Show, ids(&["06b1"]));
        let fault = fault(&replies);
        assert_eq!(fault.exit(), Exit::Usage);
        assert!(fault.problem.contains("(06b1aa, 06b1ab)"), "{fault}");
    }

    #[test]
    fn a_beginning_of_many_ids_shows_some_of_them() {
        let names: Vec<String> = (0..9).map(|number| format!("06b{number}")).collect();
        let mut shelf = table(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let replies = ask(&mut shelf, Order::Show, ids(&["06b"]));
        assert!(fault(&replies).problem.ends_with("(06b0, 06b1, 06b2, 06b3, 06b4, …)"));
    }

    #[test]
    fn an_id_that_is_not_there_is_a_fault_and_nothing_is_done_to_the_others() {
        let mut shelf = table(&["06b0"]);
        let replies = ask(&mut shelf, Order::Remove, ids(&["06b0", "zzzz"]));
        assert_eq!(fault(&replies).exit(), Exit::NoInput);
        assert_eq!(shelf.items.len(), 1);
    }

    #[test]
    fn an_order_is_carried_out_on_each_message_that_is_meant_and_told_of_each() {
        let mut shelf = table(&["06b0", "06b1"]);
        let replies = ask(&mut shelf, Order::Hold, Selection::default());
        let held = [done("06b0", WhatBecame::Held), done("06b1", WhatBecame::Held), Reply::End { messages: 2 }];
        assert_eq!(replies, held);
        let replies = ask(&mut shelf, Order::Release, ids(&["06b1"]));
        assert_eq!(replies, [done("06b1", WhatBecame::Released), Reply::End { messages: 1 }]);
        let held = Selection { states: vec![ItemState::Held], ..Selection::default() };
        let replies = ask(&mut shelf, Order::Remove, held);
        assert_eq!(replies, [done("06b0", WhatBecame::Removed), Reply::End { messages: 1 }]);
        assert_eq!(shelf.items.keys().collect::<Vec<_>>(), ["06b1"]);
    }

    #[test]
    fn a_flush_of_everything_is_told_of_each_message_too() {
        let mut shelf = table(&["06b0", "06b1"]);
        let replies = ask(&mut shelf, Order::Flush, Selection::default());
        let flushed =
            [done("06b0", WhatBecame::Flushed), done("06b1", WhatBecame::Flushed), Reply::End { messages: 2 }];
        assert_eq!(replies, flushed);
        assert!(shelf.items.values().all(|item| item.state == ItemState::Ready));
    }

    #[test]
    fn ids_and_conditions_together_mean_what_meets_both() {
        let mut shelf = table(&["06b0", "06b1"]);
        let select = Selection { user: Some("bob".to_owned()), ..ids(&["06b0"]) };
        assert_eq!(ask(&mut shelf, Order::Remove, select), [Reply::End { messages: 0 }]);
    }

    #[test]
    fn a_message_that_leaves_meanwhile_is_told_as_gone_or_not_told_at_all() {
        let leaving = || Table { leaves: Some("06b0".to_owned()), ..table(&["06b0", "06b1"]) };
        assert_eq!(fault(&ask(&mut leaving(), Order::Show, ids(&["06b0"]))).exit(), Exit::NoInput);
        assert_eq!(ask(&mut leaving(), Order::Remove, ids(&["06b0"])), [Reply::End { messages: 0 }]);
    }

    #[test]
    fn an_order_that_cannot_be_carried_out_ends_the_answer() {
        let mut shelf = Table { stuck: true, ..table(&["06b0", "06b1"]) };
        assert_eq!(fault(&ask(&mut shelf, Order::Flush, Selection::default())).exit(), Exit::Unavailable);
    }

    #[test]
    fn an_exported_message_comes_in_pieces_whatever_its_size() {
        for bytes in [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES] {
            let mut shelf = table(&["06b0"]);
            shelf.items.get_mut("06b0").unwrap().bytes = bytes as u64;
            let replies = ask(&mut shelf, Order::Export, Selection::default());
            assert_eq!(replies[0], Reply::File { message: "06b0".to_owned(), bytes: bytes as u64 });
            assert_eq!(replies.len(), 2 + bytes.div_ceil(PIECE_BYTES));
            assert_eq!(replies.last(), Some(&Reply::End { messages: 1 }));
        }
    }

    #[test]
    fn when_whoever_asked_is_gone_the_list_is_not_gone_through_to_its_end() {
        struct Full(usize);
        impl io::Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 > 1 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(bytes.len()) }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut shelf = table(&["06b0", "06b1", "06b2", "06b3"]);
        let mut out = Full(0);
        let request = Request { order: Order::List, select: Selection::default() };
        assert!(answer(&request, &mut shelf, &mut out).is_err());
        assert_eq!(out.0, 2);
    }
}
