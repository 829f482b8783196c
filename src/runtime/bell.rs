//! A bell: one task of a shard waits for it, any other rings it. Rung while nobody waits, it is heard at once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_lite::future;
use glommio::timer::Timer;

#[derive(Debug, Default)]
pub(super) struct Bell {
    is_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.is_rung.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until it is rung.
    pub(super) async fn heard(&self) {
        poll_fn(|context| {
            if self.is_rung.take() {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits until it is rung, or for so long.
    pub(super) async fn heard_by(&self, wait: Option<Duration>) {
        let Some(wait) = wait else {
            return self.heard().await;
        };
        future::or(self.heard(), async {
            Timer::new(wait).await;
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::Bell;

    #[test]
    fn a_bell_is_heard_once_for_each_time_it_is_waited_for() {
        let bell = Bell::default();
        assert_eq!(block_on(poll_once(bell.heard())), None);
        bell.ring();
        bell.ring();
        assert_eq!(block_on(poll_once(bell.heard())), Some(()));
        assert_eq!(block_on(poll_once(bell.heard())), None);
    }
}
