//! [`Wanted`]: the channels that a user wants, what the server says of them, and who waits for its word.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;

use tokio::sync::{Notify, oneshot};

use crate::protocol::{OneLine, log_trouble};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What becomes of a channel that was asked for.
type Outcome<E> = Result<(), Arc<E>>;

/// The channels of one subscription.
pub(super) struct Wanted<C, E> {
    /// Changed under this lock, nothing else: whoever waits is told afterwards.
    state: Mutex<State<C, E>>,
    /// For the one who follows: something has changed.
    changed: Notify,
}

struct State<C, E> {
    wanted: BTreeSet<C>,
    /// Those that the server has confirmed once.
    known: BTreeSet<C>,
    waiting: Vec<(C, oneshot::Sender<Outcome<E>>)>,
    /// Whoever waits for all of them, at the start.
    up: Option<oneshot::Sender<Outcome<E>>>,
    is_closed: bool,
}

impl<C: Ord + Clone + fmt::Debug, E: Error + Send + Sync + 'static> Wanted<C, E> {
    /// These; `up` is told when all of them are confirmed, or why they are not.
    pub(super) fn new(wanted: BTreeSet<C>, up: oneshot::Sender<Outcome<E>>) -> Self {
        let state = State {
            wanted,
            known: BTreeSet::new(),
            waiting: Vec::new(),
            up: Some(up),
            is_closed: false,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    pub(super) fn now(&self) -> BTreeSet<C> {
        self.state().wanted.clone()
    }

    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// One more. What is returned gets the server's word; it ends without one when the subscription does.
    pub(super) fn add(&self, channel: C) -> oneshot::Receiver<Outcome<E>> {
        let (told, outcome) = oneshot::channel();
        let mut state = self.state();
        if !state.is_closed {
            // Those who have gone are not kept for a server that is away for long.
            state.waiting.retain(|(_, told)| !told.is_closed());
            state.waiting.push((channel.clone(), told));
            state.wanted.insert(channel);
        }
        drop(state);
        self.changed.notify_one();
        outcome
    }

    pub(super) fn remove(&self, channel: &C) -> bool {
        let mut state = self.state();
        let was_wanted = state.wanted.remove(channel);
        state.known.remove(channel);
        let waited = state.take_waiting(|of| of == channel);
        drop(state);
        // Whoever waited for it has changed his mind, or somebody has for him.
        for told in waited {
            let _ = told.send(Ok(()));
        }
        if was_wanted {
            self.changed.notify_one();
        }
        was_wanted
    }

    /// The server has confirmed these. Returns whether that is all that is wanted.
    pub(super) fn confirm(&self, channels: &BTreeSet<C>) -> bool {
        let mut locked = self.state();
        let state = &mut *locked;
        state.known.extend(channels.intersection(&state.wanted).cloned());
        let waited = state.take_waiting(|of| channels.contains(of));
        let are_all = state.wanted.is_subset(channels);
        drop(locked);
        for told in waited {
            let _ = told.send(Ok(()));
        }
        are_all
    }

    /// All are confirmed: whoever waits for that is told.
    pub(super) fn is_up(&self) {
        let up = self.state().up.take();
        if let Some(up) = up {
            let _ = up.send(Ok(()));
        }
    }

    /// The server has refused this one. Returns the error where it is no new one.
    pub(super) fn refuse(&self, channel: &C, error: E) -> Result<(), E> {
        let mut state = self.state();
        if state.known.contains(channel) {
            return Err(error);
        }
        state.wanted.remove(channel);
        let waited = state.take_waiting(|of| of == channel);
        // It was one of the first.
        let up = state.up.take();
        drop(state);
        let error = Arc::new(error);
        if waited.is_empty() && up.is_none() {
            log_trouble(None, &OneLine(&*error), "a subscription was refused");
        }
        for told in waited.into_iter().chain(up) {
            let _ = told.send(Err(Arc::clone(&error)));
        }
        Ok(())
    }

    /// Whether somebody waits for the first connection.
    pub(super) fn is_starting(&self) -> bool {
        self.state().up.is_some()
    }

    /// A connection ended with this. Returns whether that was the first one, and there is nobody to try
    /// again for.
    pub(super) fn failed(&self, error: E) -> bool {
        let up = self.state().up.take();
        match up {
            Some(up) => {
                let _ = up.send(Err(Arc::new(error)));
                true
            }
            None => {
                log_trouble(None, &OneLine(&error), "a subscription has lost its connection");
                false
            }
        }
    }

    /// Whoever waits is told that there is nothing to wait for.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        let ended = (std::mem::take(&mut state.waiting), state.up.take());
        drop(state);
        drop(ended);
    }

    fn state(&self) -> MutexGuard<'_, State<C, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C, E> State<C, E> {
    fn take_waiting(&mut self, which: impl Fn(&C) -> bool) -> Vec<oneshot::Sender<Outcome<E>>> {
        let (taken, left) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(of, _)| which(of));
        self.waiting = left;
        let taken: Vec<(C, _)> = taken;
        taken.into_iter().map(|(_, told)| told).collect()
    }
}
