//! The queue of a running server, asked from a thread of the control socket.

use std::io;
use std::sync::Arc;

use super::{Facts, whole};
use crate::exit::Exit;
use crate::proto::message::{Message, MessageId};
use crate::queue::{Details, Fault, Item, ItemState, Order, Selection, Shelf};
use crate::relay::queue::ListedState;
use crate::relay::route::Routes;
use crate::runtime::clock::Clock;
use crate::runtime::queue::{Change, QueueGone, QueueHandle, Shown};

/// The queues of all shards.
#[derive(Clone, Debug)]
pub(in crate::runtime) struct RunningQueue {
    handle: QueueHandle,
    /// What destinations are called, by their numbers.
    destinations: Arc<[String]>,
    clock: Clock,
}

impl RunningQueue {
    /// The queues behind `handle`, whose destinations are those of `routes`.
    pub(in crate::runtime) fn new(handle: QueueHandle, routes: &Routes, clock: Clock) -> Self {
        let destinations = routes.destinations().iter().map(ToString::to_string).collect();
        Self { handle, destinations, clock }
    }

    fn listed(&self, shown: &Shown) -> Item {
        self.facts(shown).item(self.clock.now(), &shown.envelope)
    }

    fn facts(&self, shown: &Shown) -> Facts {
        let listed = &shown.listed;
        let name = |number: usize| self.destinations.get(number).cloned();
        let state = match listed.state {
            ListedState::Ready => ItemState::Ready,
            ListedState::Deferred => ItemState::Deferred,
            ListedState::Active => ItemState::Active,
            ListedState::Held => ItemState::Held,
        };
        Facts {
            message: listed.message,
            bytes: listed.bytes,
            state,
            recipients: shown.states.clone(),
            destinations: listed.destinations.iter().filter_map(|to| name(to.destination.0 as usize)).collect(),
            attempts: listed.attempts,
            next_attempt: (state == ItemState::Deferred).then_some(listed.next_attempt),
            last_reply: listed.last_reply.as_deref().map(str::to_owned),
        }
    }

    fn read(&self, message: MessageId) -> Result<Option<Box<Message>>, Fault> {
        self.handle.content(message)?.transpose().map_err(|reason| unreadable(message, &reason))
    }
}

impl Shelf for RunningQueue {
    fn list(&mut self, _: &Selection, each: &mut dyn FnMut(Item) -> io::Result<()>) -> Result<io::Result<()>, Fault> {
        let mut outcome = Ok(());
        self.handle.list(&mut |shown| {
            outcome = each(self.listed(&shown));
            outcome.is_ok()
        })?;
        Ok(outcome)
    }

    fn names(&mut self, beginning: &str, most: usize) -> Result<Vec<String>, Fault> {
        Ok(self.handle.names(beginning, most)?.iter().map(ToString::to_string).collect())
    }

    fn item(&mut self, message: &str) -> Result<Option<Item>, Fault> {
        let Some(id) = MessageId::from_text(message.as_bytes()) else { return Ok(None) };
        let found = self.handle.find(id)?.transpose().map_err(|reason| unreadable(id, &reason))?;
        Ok(found.map(|shown| self.listed(&shown)))
    }

    fn details(&mut self, message: &str) -> Result<Option<Details>, Fault> {
        let Some(id) = MessageId::from_text(message.as_bytes()) else { return Ok(None) };
        let found = self.handle.find(id)?.transpose().map_err(|reason| unreadable(id, &reason))?;
        let (Some(shown), Some(message)) = (found, self.read(id)?) else { return Ok(None) };
        Ok(Some(self.facts(&shown).details(self.clock.now(), &message)))
    }

    fn content(&mut self, message: &str) -> Result<Option<Vec<u8>>, Fault> {
        let Some(id) = MessageId::from_text(message.as_bytes()) else { return Ok(None) };
        Ok(self.read(id)?.map(|message| whole(&message)))
    }

    fn change(&mut self, order: Order, message: &str) -> Result<bool, Fault> {
        let Some(id) = MessageId::from_text(message.as_bytes()) else { return Ok(false) };
        let change = match order {
            Order::Flush => Change::Flush,
            Order::Hold => Change::Hold,
            Order::Release => Change::Release,
            Order::Remove => Change::Remove,
            // These change nothing.
            Order::List | Order::Show | Order::Export => return Ok(true),
        };
        Ok(self.handle.change(change, id)?)
    }

    fn flush_everything(&mut self) -> Result<(), Fault> {
        Ok(self.handle.flush(None)?)
    }
}

impl From<QueueGone> for Fault {
    fn from(_: QueueGone) -> Self {
        Self::new(Exit::Temporary, "the server is stopping", "ask again when it has stopped, or has started anew")
    }
}

fn unreadable(message: MessageId, reason: &str) -> Fault {
    let problem = format!("the message {message} cannot be read from the spool: {reason}");
    Fault::new(Exit::Io, problem, "look at the disk, and at the server's log")
}
