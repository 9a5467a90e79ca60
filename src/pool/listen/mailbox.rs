//! [`Mailbox`]: what came and was not read yet. Bounded: the oldest messages make room for newer ones.
//!
//! What comes on a new connection is held back until all channels are subscribed to on it. Then
//! [`Delivery::Reconnected`] is put in front of it: whoever reads that and looks up what he may have
//! missed misses nothing that comes later.

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Delivery;
use crate::event::CloseReason;
use crate::foreign;
use crate::sync::{AtomicWaker, Mutex, MutexGuard, PoisonError};

/// Filled by the protocol, emptied by one reader.
pub(super) struct Mailbox<M> {
    max_messages: usize,
    max_bytes: usize,
    /// Changed under this lock, nothing else: messages are dropped, and the reader woken, afterwards.
    state: Mutex<State<M>>,
    reader: AtomicWaker,
}

struct State<M> {
    /// What may be read, the oldest first.
    ready: VecDeque<Item<M>>,
    /// What came on a connection that is not subscribed to everything yet.
    held: VecDeque<Letter<M>>,
    /// Of both.
    messages: usize,
    bytes: usize,
    /// Messages that were dropped in front of what may be read.
    missed: u64,
    /// A gap in front of what may be read, where it was the oldest and messages behind it were dropped.
    gap: Option<Gap>,
    link: Link,
    is_closed: bool,
}

/// The connection.
enum Link {
    /// The first one is not there yet.
    None,
    /// Everything is subscribed to.
    Up,
    /// There is none since then, for this reason.
    Down(Instant, CloseReason),
}

struct Letter<M> {
    message: M,
    size: usize,
}

enum Item<M> {
    Letter(Letter<M>),
    Gap(Gap),
}

/// A time without a connection.
struct Gap {
    reason: CloseReason,
    length: Duration,
}

impl Gap {
    fn join(self, earlier: Option<Self>) -> Self {
        let before = earlier.map_or(Duration::ZERO, |earlier| earlier.length);
        Self { length: self.length.saturating_add(before), ..self }
    }
}

impl<M> Mailbox<M> {
    pub(super) fn new(max_messages: usize, max_bytes: usize) -> Self {
        let state = State {
            ready: VecDeque::new(),
            held: VecDeque::new(),
            messages: 0,
            bytes: 0,
            missed: 0,
            gap: None,
            link: Link::None,
            is_closed: false,
        };
        Self { max_messages, max_bytes, state: Mutex::new(state), reader: AtomicWaker::new() }
    }

    /// A message came.
    pub(super) fn put(&self, message: M, size: usize) {
        let mut state = self.state();
        if state.is_closed {
            drop(state);
            return foreign::dispose(message);
        }
        state.messages += 1;
        state.bytes = state.bytes.saturating_add(size);
        let letter = Letter { message, size };
        let is_up = matches!(state.link, Link::Up);
        match is_up {
            true => state.ready.push_back(Item::Letter(letter)),
            false => state.held.push_back(letter),
        }
        let mut dropped = Vec::new();
        while state.messages > 1
            && (state.messages > self.max_messages || state.bytes > self.max_bytes)
        {
            dropped.extend(state.drop_oldest());
        }
        drop(state);
        foreign::dispose(dropped);
        if is_up {
            self.wake();
        }
    }

    /// Everything is subscribed to: what was held back may be read.
    pub(super) fn connected(&self) {
        let mut locked = self.state();
        let state = &mut *locked;
        match std::mem::replace(&mut state.link, Link::Up) {
            Link::Up => return,
            Link::None => {}
            Link::Down(since, reason) => {
                let gap = Gap { reason, length: since.elapsed() };
                // A server that comes and goes while nobody reads does not fill the mailbox.
                match state.ready.back_mut() {
                    Some(Item::Gap(last)) => {
                        let earlier = Gap { reason: last.reason, length: last.length };
                        *last = gap.join(Some(earlier));
                    }
                    None if state.gap.is_some() => state.gap = Some(gap.join(state.gap.take())),
                    _ => state.ready.push_back(Item::Gap(gap)),
                }
            }
        }
        state.ready.extend(state.held.drain(..).map(Item::Letter));
        drop(locked);
        self.wake();
    }

    /// The connection has ended. What it had brought before everything was subscribed to may not be all
    /// there was; the gap that is told of later stands for it.
    pub(super) fn disconnected(&self, reason: CloseReason) {
        let mut state = self.state();
        if matches!(state.link, Link::Up) {
            state.link = Link::Down(Instant::now(), reason);
        }
        let held = std::mem::take(&mut state.held);
        for letter in &held {
            state.forget(letter.size);
        }
        drop(state);
        foreign::dispose(held);
    }

    pub(super) fn is_connected(&self) -> bool {
        let state = self.state();
        matches!(state.link, Link::Up) && !state.is_closed
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.wake();
    }

    /// What is there.
    pub(super) fn take(&self) -> Option<Delivery<M>> {
        let mut state = self.state();
        if state.missed > 0 {
            return Some(Delivery::Missed { count: std::mem::take(&mut state.missed) });
        }
        if let Some(gap) = state.gap.take() {
            return Some(gap.into());
        }
        match state.ready.pop_front()? {
            Item::Gap(gap) => Some(gap.into()),
            Item::Letter(Letter { message, size }) => {
                state.forget(size);
                Some(Delivery::Message(message))
            }
        }
    }

    /// What is there, or will be; `None` when nothing more comes.
    pub(super) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Delivery<M>>> {
        // Before the look: whoever puts something in looks for a reader afterwards.
        self.reader.register(cx.waker());
        let is_closed = self.state().is_closed;
        match self.take() {
            Some(delivery) => Poll::Ready(Some(delivery)),
            None if is_closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }

    fn wake(&self) {
        // A waker is its executor's code.
        let _ = foreign::call(|| self.reader.wake());
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M> State<M> {
    fn forget(&mut self, size: usize) {
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(size);
    }

    /// Takes the oldest message out, to be dropped. A gap in front of it stays told of.
    fn drop_oldest(&mut self) -> Option<M> {
        while let Some(item) = self.ready.pop_front() {
            match item {
                Item::Gap(gap) => self.gap = Some(gap.join(self.gap.take())),
                Item::Letter(Letter { message, size }) => {
                    self.forget(size);
                    self.missed += 1;
                    return Some(message);
                }
            }
        }
        let Letter { message, size } = self.held.pop_front()?;
        self.forget(size);
        // On the first connection nobody is told of a gap.
        self.missed += u64::from(matches!(self.link, Link::None));
        Some(message)
    }
}

impl<M> From<Gap> for Delivery<M> {
    fn from(Gap { reason, length }: Gap) -> Self {
        Self::Reconnected { reason, gap: length }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Delivery::{Message, Missed};

    fn all(mailbox: &Mailbox<&'static str>) -> Vec<Delivery<&'static str>> {
        std::iter::from_fn(|| mailbox.take()).collect()
    }

    fn put(mailbox: &Mailbox<&'static str>, messages: &[&'static str]) {
        for message in messages {
            mailbox.put(message, 10);
        }
    }

    fn reconnected(seconds: u64) -> Delivery<&'static str> {
        let gap = Duration::from_secs(seconds);
        Delivery::Reconnected { reason: CloseReason::Reset, gap }
    }

    async fn away(mailbox: &Mailbox<&'static str>, seconds: u64) {
        mailbox.disconnected(CloseReason::Reset);
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_all_is_subscribed_is_read_behind_the_word_of_the_gap() {
        let mailbox = Mailbox::new(10, 1000);
        put(&mailbox, &["first"]);
        assert_eq!(all(&mailbox), []);
        mailbox.connected();
        assert_eq!(all(&mailbox), [Message("first")], "there was no gap before it");
        put(&mailbox, &["a"]);
        away(&mailbox, 3).await;
        put(&mailbox, &["b", "c"]);
        assert!(!mailbox.is_connected());
        assert_eq!(all(&mailbox), [Message("a")]);
        mailbox.connected();
        assert!(mailbox.is_connected());
        assert_eq!(all(&mailbox), [reconnected(3), Message("b"), Message("c")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_ends_before_all_is_subscribed_leaves_one_gap() {
        let mailbox = Mailbox::new(10, 1000);
        mailbox.connected();
        away(&mailbox, 1).await;
        put(&mailbox, &["of a connection that came to nothing"]);
        away(&mailbox, 2).await;
        mailbox.connected();
        assert_eq!(all(&mailbox), [reconnected(3)]);
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_messages_the_newest_are_kept_and_the_others_counted() {
        let mailbox = Mailbox::new(2, 1000);
        mailbox.connected();
        put(&mailbox, &["a", "b", "c", "d"]);
        assert_eq!(all(&mailbox), [Missed { count: 2 }, Message("c"), Message("d")]);
        put(&mailbox, &["e"]);
        assert_eq!(all(&mailbox), [Message("e")]);
        // Bytes count as well, and one message is kept however long it is.
        let mailbox = Mailbox::new(10, 25);
        mailbox.connected();
        put(&mailbox, &["a", "b", "c"]);
        assert_eq!(all(&mailbox), [Missed { count: 1 }, Message("b"), Message("c")]);
        put(&mailbox, &["d"]);
        mailbox.put("long", 1000);
        assert_eq!(all(&mailbox), [Missed { count: 1 }, Message("long")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gap_is_told_of_though_the_messages_around_it_were_dropped() {
        let mailbox = Mailbox::new(2, 1000);
        mailbox.connected();
        put(&mailbox, &["a"]);
        away(&mailbox, 1).await;
        mailbox.connected();
        put(&mailbox, &["b", "c", "d"]);
        assert_eq!(
            all(&mailbox),
            [Missed { count: 2 }, reconnected(1), Message("c"), Message("d")]
        );
    }

    /// Nobody reads, and the server comes and goes.
    #[tokio::test(start_paused = true)]
    async fn many_gaps_in_a_row_are_one() {
        let mailbox = Mailbox::new(2, 1000);
        mailbox.connected();
        for _ in 0..1000 {
            away(&mailbox, 1).await;
            mailbox.connected();
        }
        assert_eq!(mailbox.state().ready.len(), 1);
        assert_eq!(all(&mailbox), [reconnected(1000)]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_is_read_before_the_end() {
        let mailbox = Mailbox::new(2, 1000);
        mailbox.connected();
        put(&mailbox, &["a"]);
        mailbox.close();
        put(&mailbox, &["late"]);
        let cx = &mut Context::from_waker(std::task::Waker::noop());
        assert_eq!(mailbox.poll_take(cx), Poll::Ready(Some(Message("a"))));
        assert_eq!(mailbox.poll_take(cx), Poll::Ready(None));
    }
}
