//! Rounds: a shard does everything that is ready once, then it asks the kernel what else is.
//!
//! A task that always finds more to do would keep the shard for itself, for a receive that finds bytes waits for nobody. So
//! it waits for the [next round](next_round) after a bounded piece of work. Waking oneself would not do: the executor asks the
//! kernel only when no task is awake (or 100 ms have passed), and one that is always awake would starve the sockets of all
//! others.
//!
//! A round is as long as what is ready, and a crowd can make that long. Work that crowds like to ask for therefore passes
//! through a [`Lane`], which lets so much of it into a round and no more; all others are served in each round. It decides
//! nothing but the order.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glommio::timer::Timer;

use super::ring_enter::turns;
use super::shard::spawn_guarded;

/// Waits until everything that is ready has had its turn, and the kernel was asked for more.
pub(super) async fn next_round() {
    // A timer that is waited for is looked at where the rings are, and nowhere else. One that has passed before anybody waits for
    // it is not waited for, and for one that has not passed by then the shard would go to sleep: so it is as short as it can be.
    let (mut moment, mut has_waited) = (MOMENT_MIN, false);
    while !has_waited {
        let mut timer = Timer::new(moment);
        moment *= 2;
        poll_fn(|context| {
            let poll = Pin::new(&mut timer).poll(context).map(drop);
            has_waited |= poll.is_pending();
            poll
        })
        .await;
    }
}

/// Work of which a round takes only so much. Who comes when there is no more room waits in line.
#[derive(Debug)]
pub(super) struct Lane {
    per_round: u64,
    /// So much of it passes without waiting for the next round, as long as nobody waits.
    at_once: u64,
    line: RefCell<Line>,
}

/// A place in the line of a [`Lane`], once there is one.
#[derive(Debug, Default)]
pub(super) struct Place(Option<u64>);

#[derive(Debug, Default)]
struct Line {
    /// Work in the round `round`, as long as nobody waits: nothing has to be woken to count it anew.
    done: u64,
    /// By the count of the executor's turns.
    round: u64,
    /// All with a smaller number may pass.
    let_in: u64,
    /// Those that wait: the first has the number `let_in`.
    waiting: VecDeque<Waker>,
    /// Is there a task that lets them in?
    is_moving: bool,
}

impl Lane {
    /// For work that the kernel has woken somebody for: as much as a round takes passes at once.
    pub(super) fn new(per_round: u64) -> Rc<Self> {
        Rc::new(Self { per_round, at_once: per_round, line: RefCell::default() })
    }

    /// For work that would go on without the kernel: even a single piece waits for the next round.
    pub(super) fn between_rounds(per_round: u64) -> Rc<Self> {
        Rc::new(Self { per_round, at_once: 0, line: RefCell::default() })
    }

    /// Waits until there is room for one piece of work.
    pub(super) async fn enter(self: &Rc<Self>) {
        let mut place = Place::default();
        poll_fn(|context| self.poll_enter(&mut place, context)).await;
    }

    /// Waits until there is room for one piece of work.
    pub(super) fn poll_enter(self: &Rc<Self>, place: &mut Place, context: &mut Context<'_>) -> Poll<()> {
        let is_let_in = self.ask(turns(), place, context.waker());
        if !is_let_in && !std::mem::replace(&mut self.line.borrow_mut().is_moving, true) {
            spawn_guarded(Rc::clone(self).move_on());
        }
        if is_let_in { Poll::Ready(()) } else { Poll::Pending }
    }

    fn ask(&self, round: u64, place: &mut Place, waker: &Waker) -> bool {
        let line = &mut *self.line.borrow_mut();
        if let Some(number) = place.0 {
            let Some(ahead) = number.checked_sub(line.let_in) else {
                place.0 = None;
                return true;
            };
            if let Some(waiting) = usize::try_from(ahead).ok().and_then(|ahead| line.waiting.get_mut(ahead)) {
                waiting.clone_from(waker);
            }
            return false;
        }
        if !line.is_moving {
            if round != line.round {
                line.round = round;
                line.done = 0;
            }
            if line.done < self.at_once {
                line.done += 1;
                return true;
            }
        }
        place.0 = Some(line.let_in + line.waiting.len() as u64);
        line.waiting.push_back(waker.clone());
        false
    }

    /// Lets some in with each round, until nobody waits.
    async fn move_on(self: Rc<Self>) {
        loop {
            next_round().await;
            if !self.let_some_in() {
                return;
            }
        }
    }

    fn let_some_in(&self) -> bool {
        let line = &mut *self.line.borrow_mut();
        line.is_moving = !line.waiting.is_empty();
        for _ in 0..self.per_round {
            let Some(waker) = line.waiting.pop_front() else { break };
            line.let_in += 1;
            waker.wake();
        }
        line.is_moving
    }
}

/// About as long as it takes from making a timer to waiting for it.
const MOMENT_MIN: Duration = Duration::from_nanos(128);

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::{Wake, Waker};

    use futures_lite::{AsyncReadExt, AsyncWriteExt};
    use glommio::net::UnixStream;
    use glommio::{LocalExecutorBuilder, Placement};

    use super::{Lane, Place, next_round};

    const NOW: u64 = 7;

    #[test]
    fn whoever_waits_for_the_next_round_lets_the_kernel_be_asked() {
        let served = LocalExecutorBuilder::new(Placement::Unbound).make().unwrap().run(async {
            let (mut here, mut there) = UnixStream::pair().unwrap();
            let served = Rc::new(Cell::new(false));
            let flag = Rc::clone(&served);
            glommio::spawn_local(async move {
                here.read_exact(&mut [0]).await.unwrap();
                flag.set(true);
            })
            .detach();
            there.write_all(b"x").await.unwrap();
            for _ in 0..100 {
                next_round().await;
            }
            served.get()
        });
        assert!(served, "a hundred rounds, and nobody has looked whether there is something to read");
    }

    #[derive(Default)]
    struct Woken(AtomicU32);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn waker() -> (Arc<Woken>, Waker) {
        let woken = Arc::new(Woken::default());
        (Arc::clone(&woken), Waker::from(woken))
    }

    #[test]
    fn who_comes_when_there_is_room_does_not_wait_and_each_round_makes_room() {
        let lane = Lane::new(2);
        let (_, waker) = waker();
        let enter = |round| lane.ask(round, &mut Place::default(), &waker);
        assert_eq!([enter(NOW), enter(NOW), enter(NOW)], [true, true, false]);
        let lane = Lane::new(2);
        let enter = |round| lane.ask(round, &mut Place::default(), &waker);
        assert_eq!([enter(NOW), enter(NOW), enter(NOW + 1), enter(NOW + 1)], [true; 4]);
        assert!(!enter(NOW + 1), "however long a round is, it takes no more");
    }

    #[test]
    fn a_crowd_is_let_in_so_many_at_a_time_and_in_order() {
        let lane = Lane::new(3);
        let (woken, waker) = waker();
        (0..3).for_each(|_| assert!(lane.ask(NOW, &mut Place::default(), &waker)));
        let mut places: Vec<Place> = (0..7).map(|_| Place::default()).collect();
        let mut ask = |number: usize| lane.ask(NOW, &mut places[number], &waker);
        assert!((0..7).all(|number| !ask(number)));
        for (round, let_in) in [3, 6, 7].into_iter().enumerate() {
            assert!(lane.let_some_in());
            assert_eq!(woken.0.load(Ordering::Relaxed), let_in);
            let passed: Vec<usize> = (round * 3..7).filter(|number| ask(*number)).collect();
            assert_eq!(passed, (round * 3..let_in as usize).collect::<Vec<_>>());
        }
        assert!(!lane.let_some_in(), "nobody waits any more");
        assert!(lane.ask(NOW + 1, &mut Place::default(), &waker));
    }

    #[test]
    fn work_that_would_go_on_without_the_kernel_waits_for_the_next_round_even_alone() {
        let lane = Lane::between_rounds(2);
        let (woken, waker) = waker();
        let mut places: Vec<Place> = (0..3).map(|_| Place::default()).collect();
        let mut ask = |number: usize, round| lane.ask(round, &mut places[number], &waker);
        assert!(!ask(0, NOW) && !ask(1, NOW + 1) && !ask(2, NOW + 1));
        assert!(lane.let_some_in());
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        assert!(ask(0, NOW) && ask(1, NOW) && !ask(2, NOW));
    }

    #[test]
    fn nobody_overtakes_those_that_wait_and_who_went_away_holds_up_nobody() {
        let lane = Lane::new(1);
        let (woken, waker) = waker();
        let (mut gone, mut second, mut third) = (Place::default(), Place::default(), Place::default());
        assert!(lane.ask(NOW, &mut Place::default(), &waker));
        assert!(!lane.ask(NOW, &mut gone, &waker) && !lane.ask(NOW, &mut second, &waker));
        lane.line.borrow_mut().is_moving = true;
        assert!(!lane.ask(NOW + 1, &mut third, &waker), "a round alone makes no room before those that wait");
        assert!(lane.let_some_in() && !lane.ask(NOW, &mut second, &waker));
        assert!(lane.let_some_in() && lane.ask(NOW, &mut second, &waker));
        assert!(lane.let_some_in() && lane.ask(NOW, &mut third, &waker));
        assert_eq!(woken.0.load(Ordering::Relaxed), 3);
    }
}
