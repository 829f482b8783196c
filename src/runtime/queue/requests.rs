//! What others ask of the queue of a shard, from other threads, and how it answers.
//!
//! A [`Request`] goes to one shard through a channel, and bears the channel for its answer. Nothing that is asked makes a
//! shard hold its whole queue at once: a list comes in pages. A change is answered when it is on stable storage.
//!
//! [`QueueHandle`] asks all shards, and puts their answers together. Its methods wait: they are for threads that may.

use std::rc::Rc;

use super::Inner;
use crate::limits::QUEUE_PAGE_MESSAGES;
use crate::proto::envelope::Envelope;
use crate::proto::message::{Message, MessageId};
use crate::relay::queue::{Listed, Note};
use crate::relay::route::DestinationNumber;
use crate::runtime::shard::spawn_guarded;
use crate::spool::RecipientState;

/// Something that is asked of one shard.
#[derive(Debug)]
pub enum Request {
    /// The messages after `after`, the oldest first.
    List {
        /// The last one of the page before; [`MessageId::NONE`] for the first page.
        after: MessageId,
        /// Where the page goes.
        reply: flume::Sender<Page>,
    },
    /// The names that begin with `beginning`.
    Names {
        /// A part of a name.
        beginning: String,
        /// How many of them at most.
        most: usize,
        /// Where they go.
        reply: flume::Sender<Vec<MessageId>>,
    },
    /// One message with what is known of it.
    Find {
        /// The message.
        message: MessageId,
        /// `None` if it is not here, or what keeps it from being read.
        reply: flume::Sender<Option<Result<Shown, String>>>,
    },
    /// A message as it lies in the spool.
    Content {
        /// The message.
        message: MessageId,
        /// `None` if it is not here, or what keeps it from being read.
        reply: flume::Sender<Option<Result<Box<Message>, String>>>,
    },
    /// Something is to be done with a message.
    Change {
        /// What.
        change: Change,
        /// The message.
        message: MessageId,
        /// Whether it was here.
        reply: flume::Sender<bool>,
    },
    /// Everything, or everything for one destination, is to be tried now.
    Flush(Option<DestinationNumber>),
}

/// What may be done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Try it now.
    Flush,
    /// Try it no more until it is released.
    Hold,
    /// End the hold, and try it now.
    Release,
    /// Forget it, without a word to the sender.
    Remove,
}

/// A part of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The oldest first.
    pub messages: Vec<Shown>,
    /// What to ask for next; `None` if this was the last page.
    pub next: Option<MessageId>,
}

/// One message with its envelope.
#[derive(Clone, Debug)]
pub struct Shown {
    /// What the queue knows.
    pub listed: Listed,
    /// What the spool knows.
    pub envelope: Envelope,
    /// What has become of each recipient, in the order of the envelope.
    pub states: Vec<RecipientState>,
}

/// The way to the queues of all shards, for threads that may wait.
#[derive(Clone, Debug)]
pub struct QueueHandle {
    shards: Vec<flume::Sender<Request>>,
}

/// The server is stopping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueGone;

impl QueueHandle {
    /// One way for each shard, in their order.
    pub(in crate::runtime) fn new(shards: Vec<flume::Sender<Request>>) -> Self {
        Self { shards }
    }

    /// Hands over every message, the oldest first, until `each` says `false`.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn list(&self, each: &mut dyn FnMut(Shown) -> bool) -> Result<(), QueueGone> {
        let mut shelves = Vec::new();
        for shard in &self.shards {
            shelves.push(Pages::open(shard)?);
        }
        loop {
            let first = shelves.iter().enumerate().filter_map(|(at, pages)| Some((pages.peek()?, at))).min();
            let Some((_, at)) = first else { return Ok(()) };
            let Some(shown) = shelves[at].take()? else { return Ok(()) };
            if !each(shown) {
                return Ok(());
            }
        }
    }

    /// The names that begin with `beginning`, at most `most` of them.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn names(&self, beginning: &str, most: usize) -> Result<Vec<MessageId>, QueueGone> {
        let mut names = Vec::new();
        for shard in &self.shards {
            names.extend(ask(shard, |reply| Request::Names { beginning: beginning.to_owned(), most, reply })?);
        }
        names.sort_unstable();
        names.truncate(most);
        Ok(names)
    }

    /// One message with what is known of it; `None` if it is in no queue, an error in words if it cannot be read.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn find(&self, message: MessageId) -> Result<Option<Result<Shown, String>>, QueueGone> {
        self.first(|reply| Request::Find { message, reply })
    }

    /// A message; `None` if it is in no queue, an error in words if it cannot be read.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn content(&self, message: MessageId) -> Result<Option<Result<Box<Message>, String>>, QueueGone> {
        self.first(|reply| Request::Content { message, reply })
    }

    /// Does something with a message. Returns whether it was in a queue.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn change(&self, change: Change, message: MessageId) -> Result<bool, QueueGone> {
        for shard in &self.shards {
            if ask(shard, |reply| Request::Change { change, message, reply })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has everything, or everything for one destination, tried now.
    ///
    /// # Errors
    /// The server is stopping.
    pub fn flush(&self, destination: Option<DestinationNumber>) -> Result<(), QueueGone> {
        self.shards.iter().try_for_each(|shard| shard.send(Request::Flush(destination)).map_err(|_| QueueGone))
    }

    fn first<T>(&self, request: impl Fn(flume::Sender<Option<T>>) -> Request) -> Result<Option<T>, QueueGone> {
        for shard in &self.shards {
            if let Some(found) = ask(shard, &request)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }
}

fn ask<T>(shard: &flume::Sender<Request>, request: impl FnOnce(flume::Sender<T>) -> Request) -> Result<T, QueueGone> {
    let (reply, answer) = flume::bounded(1);
    shard.send(request(reply)).map_err(|_| QueueGone)?;
    answer.recv().map_err(|_| QueueGone)
}

/// The list of one shard, page by page.
struct Pages<'a> {
    shard: &'a flume::Sender<Request>,
    page: std::vec::IntoIter<Shown>,
    next: Option<MessageId>,
}

impl<'a> Pages<'a> {
    fn open(shard: &'a flume::Sender<Request>) -> Result<Self, QueueGone> {
        let mut pages = Self { shard, page: Vec::new().into_iter(), next: Some(MessageId::NONE) };
        pages.turn()?;
        Ok(pages)
    }

    fn peek(&self) -> Option<MessageId> {
        self.page.as_slice().first().map(|shown| shown.listed.message)
    }

    fn take(&mut self) -> Result<Option<Shown>, QueueGone> {
        let shown = self.page.next();
        self.turn()?;
        Ok(shown)
    }

    /// Asks for pages until there is something, or nothing more.
    fn turn(&mut self) -> Result<(), QueueGone> {
        while self.page.as_slice().is_empty()
            && let Some(after) = self.next
        {
            let page = ask(self.shard, |reply| Request::List { after, reply })?;
            (self.page, self.next) = (page.messages.into_iter(), page.next);
        }
        Ok(())
    }
}

/// Answers requests for as long as somebody may ask. Each is answered by a task of its own, so that none waits for a disk
/// that another waits for.
pub(super) async fn serve(inner: Rc<Inner>, requests: flume::Receiver<Request>) {
    while let Ok(request) = requests.recv_async().await {
        let inner = Rc::clone(&inner);
        spawn_guarded(async move { inner.answer(request).await });
    }
}

impl Inner {
    /// Whoever asked may be gone: then nobody hears the answer.
    async fn answer(&self, request: Request) {
        match request {
            Request::List { after, reply } => drop(reply.send(self.page(after).await)),
            Request::Names { beginning, most, reply } => {
                let _ = reply.send(self.queue.borrow().names(&beginning, most));
            }
            Request::Find { message, reply } => drop(reply.send(self.find(message).await)),
            Request::Content { message, reply } => {
                let is_here = self.queue.borrow().find(self.now(), message).is_some();
                let read = if is_here {
                    Some(self.spool.read(message).await.map_err(|error| error.to_string()))
                } else {
                    None
                };
                let _ = reply.send(read);
            }
            Request::Change { change, message, reply } => drop(reply.send(self.change(change, message).await)),
            Request::Flush(destination) => {
                match destination {
                    Some(number) => self.queue.borrow_mut().flush_destination(self.now(), number),
                    None => self.queue.borrow_mut().flush_all(self.now()),
                }
                self.bell.ring();
            }
        }
    }

    async fn page(&self, after: MessageId) -> Page {
        let listed: Vec<_> = self.queue.borrow().list(self.now(), after).take(QUEUE_PAGE_MESSAGES).collect();
        let next = (listed.len() == QUEUE_PAGE_MESSAGES).then(|| listed[listed.len() - 1].message);
        let mut messages = Vec::with_capacity(listed.len());
        for listed in listed {
            // What has left meanwhile, or cannot be read, is not shown.
            messages.extend(self.shown(listed).await.ok());
        }
        Page { messages, next }
    }

    async fn find(&self, message: MessageId) -> Option<Result<Shown, String>> {
        let listed = self.queue.borrow().find(self.now(), message)?;
        Some(self.shown(listed).await)
    }

    async fn shown(&self, listed: Listed) -> Result<Shown, String> {
        let states = self.queue.borrow().recipient_states(listed.message).unwrap_or_default();
        let envelope = self.spool.read_envelope(listed.message).await.map_err(|error| error.to_string())?;
        Ok(Shown { listed, envelope, states })
    }

    async fn change(&self, change: Change, message: MessageId) -> bool {
        let now = self.now();
        let note: Option<Note> = {
            let mut queue = self.queue.borrow_mut();
            match change {
                Change::Flush => {
                    let is_here = queue.flush(now, message);
                    drop(queue);
                    self.bell.ring();
                    return is_here;
                }
                Change::Hold => queue.hold(now, message),
                Change::Release => queue.release(now, message),
                Change::Remove => queue.remove(message),
            }
        };
        self.publish();
        self.bell.ring();
        let Some(note) = note else { return false };
        self.spool.note_committed(&note).await;
        true
    }
}
