//! A message on its way from its connection into the log, in pieces or whole, with a token or without.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use onetrip::proto::message::{Message, Piece};
use onetrip::proto::proof::Committed;
use onetrip::runtime::once::{Claim, Turn};
use onetrip::spool::Place;
use onetrip::spool::log::Refusal;

use crate::net::LinkName;
use crate::plan::Sabotage;
use crate::server::{Conversation, Doing, Incoming};
use crate::world::World;

impl World {
    /// Gives the next piece of a message to the log, once the one before it is written. Returns whether it did.
    pub fn keep(&mut self, name: LinkName, conversation: &mut Conversation, piece: Piece) -> bool {
        let begun = conversation.incoming.take().filter(|incoming| incoming.message == piece.message);
        if let Some(Incoming { outcome: None, .. }) = begun {
            conversation.incoming = begun;
            conversation.doing = Doing::Keeping(piece);
            return false;
        }
        self.seen.pieces += 1;
        let (now, shard) = (self.now(), conversation.shard);
        let before = begun.and_then(|incoming| incoming.outcome).unwrap_or(Ok(Place { segment: 0, offset: 0 }));
        let Piece { message, index, content } = piece;
        let shard_of = self.shard(shard);
        let ticket = shard_of.ticket(name);
        let result = before.and_then(|_| shard_of.log.append_part(now, message, index, &content, ticket));
        match result {
            Ok(()) => conversation.incoming = Some(Incoming { message, newest: ticket, outcome: None }),
            Err(_) => shard_of.log.abandon(message),
        }
        let result = result.map_err(Into::into);
        self.note_drain(conversation);
        conversation.connection.handle_piece_kept(now, result, content, &mut conversation.output);
        self.woken_shards.insert(shard);
        true
    }

    /// The message that came in pieces may have been refused, or its client is gone.
    pub fn forget_incoming(&mut self, conversation: &mut Conversation) {
        if let Some(incoming) = conversation.incoming.take() {
            self.shard(conversation.shard).log.abandon(incoming.message);
            self.woken_shards.insert(conversation.shard);
        }
    }

    /// Stores a message, unless its token says that it is stored already.
    pub fn begin_store(&mut self, name: LinkName, conversation: &mut Conversation, message: Box<Message>) {
        let token = message.envelope.once().filter(|_| self.plan.sabotage != Sabotage::ForgetsTokens);
        let Some(token) = token else {
            return self.append(name, conversation, message, None);
        };
        let registry = Arc::clone(&self.process.as_ref().expect("it lives").registry);
        let (key, now) = (registry.key(message.envelope.user(), token), self.now());
        let mut turn: Pin<Box<dyn Future<Output = Turn>>> = Box::pin(async move { registry.claim(now, key).await });
        match turn.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Turn::First(claim)) => self.append(name, conversation, message, Some(claim)),
            Poll::Ready(turn) => conversation.doing = Doing::Claiming(Box::pin(async move { turn }), message),
            Poll::Pending => {
                self.seen.waited += 1;
                conversation.doing = Doing::Claiming(turn, message);
            }
        }
    }

    /// Gives the message to the log, or what follows the pieces of it that the log has.
    pub fn append(
        &mut self,
        name: LinkName,
        conversation: &mut Conversation,
        message: Box<Message>,
        claim: Option<Claim>,
    ) {
        let now = self.now();
        let answers_now = self.plan.sabotage == Sabotage::AnswersTooEarly;
        let shard = self.shard(conversation.shard);
        let incoming = conversation.incoming.take().filter(|incoming| incoming.message == message.id);
        let failure = incoming.and_then(|incoming| incoming.outcome).and_then(Result::err);
        let ticket = shard.ticket(name);
        let appended = match (failure, message.pieces.count) {
            (Some(failure), _) => {
                shard.log.abandon(message.id);
                Err(failure)
            }
            (None, 0) => shard.log.append_message(now, &message, ticket),
            (None, count) => shard.log.append_end(now, &message, (count, message.pieces.bytes), ticket),
        };
        if answers_now && appended.is_ok() {
            shard.answered.insert(ticket, message.clone());
        }
        self.woken_shards.insert(conversation.shard);
        match appended {
            Ok(()) if answers_now => {
                if let Some(claim) = claim {
                    claim.stored(now, message.id, &Committed::attested_by_storage());
                }
                let committed = Committed::attested_by_storage();
                conversation.connection.handle_stored(now, Ok(committed), message, &mut conversation.output);
            }
            Ok(()) => conversation.doing = Doing::Storing { ticket, message, claim, outcome: None },
            Err(refusal) => self.finish_store(conversation, message, claim, Err(refusal)),
        }
    }

    /// Something has become of a message that was appended.
    pub fn finish_store(
        &mut self,
        conversation: &mut Conversation,
        message: Box<Message>,
        claim: Option<Claim>,
        result: Result<Place, Refusal>,
    ) {
        let now = self.now();
        let stored = result.map(|_| {
            self.shard(conversation.shard).enqueue(&message);
            Committed::attested_by_storage()
        });
        if let (Some(claim), Ok(committed)) = (claim, &stored) {
            claim.stored(now, message.id, committed);
        }
        let stored = stored.map_err(Into::into);
        self.note_drain(conversation);
        conversation.connection.handle_stored(now, stored, message, &mut conversation.output);
        self.woken_shards.insert(conversation.shard);
        // Whoever waits for what has the token may go on.
        let claims = |conversation: &Conversation| matches!(conversation.doing, Doing::Claiming(..));
        self.woken_links.extend(self.conversations.iter().filter(|(_, one)| claims(one)).map(|(name, _)| *name));
    }
}
