//! How long the operations of a stream may take, and what becomes of it when that is over.

use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::clock::Now;
use super::link::Side;
use super::watch::Silent;
use super::{OpTimeout, PeerSilent, Stream};
use crate::config::Timeouts;
use crate::event::{Check, CheckVerdict, CloseReason, Event, Operation};

/// The timeouts of a stream's operations, and of its exchange.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) read: Option<Duration>,
    pub(super) write: Option<Duration>,
    pub(super) flush: Option<Duration>,
    pub(super) shutdown: Option<Duration>,
    /// The end of the whole exchange, and when it was set.
    pub(super) deadline: Option<Instant>,
    pub(super) deadline_set: Option<Instant>,
}

impl Limits {
    pub(super) fn of(timeouts: &Timeouts) -> Self {
        let Timeouts { read, write, flush, shutdown, .. } = *timeouts;
        Self { read, write, flush, shutdown, deadline: None, deadline_set: None }
    }
}

impl Stream {
    /// Those in force.
    pub(super) fn limits(&self) -> Limits {
        match &self.own {
            Some(own) if self.is_limited => **own,
            _ => Limits::of(&self.defaults),
        }
    }

    /// The end of the whole exchange, if its user has set one.
    #[inline]
    pub(super) fn deadline(&self) -> Option<Instant> {
        if self.is_limited { self.own.as_ref()?.deadline } else { None }
    }

    /// Those of its user, from now on.
    pub(super) fn own_limits(&mut self) -> &mut Limits {
        let defaults = Limits::of(&self.defaults);
        let own = self.own.get_or_insert_with(|| Box::new(defaults));
        if !std::mem::replace(&mut self.is_limited, true) {
            **own = defaults;
        }
        own
    }

    /// How long the next answer may take.
    pub(super) fn read_limit(&self) -> Option<Duration> {
        self.limits().read.filter(|_| !self.link.is_patient())
    }

    /// For a read that is pending, whose task the link knows.
    pub(super) fn poll_read_clock(&mut self) -> Poll<std::io::Error> {
        if self.counts_debt {
            let begun = self.link.debts_begun();
            if std::mem::replace(&mut self.debts_seen, begun) != begun || self.link.debt() == 0 {
                self.reading.stop();
            }
            if self.link.debt() == 0 {
                self.end_watch();
                return Poll::Pending;
            }
        }
        // A task reads all the time, and only what was asked has an answer to wait for.
        if self.is_driven && !self.counts_debt && !self.exchange.is_unanswered() {
            self.reading.stop();
            self.end_watch();
            return Poll::Pending;
        }
        let mut now = Now::default();
        if let Some(watch) = &mut self.watch
            && let Poll::Ready(silent) = watch.poll(&self.link, &mut now, &self.io.sock_ref())
        {
            return Poll::Ready(self.peer_is_silent(silent));
        }
        let patient = self.link.is_patient();
        if std::mem::replace(&mut self.was_patient, patient) != patient {
            self.reading.stop();
        }
        let (limit, cap) = (self.read_limit(), self.deadline());
        let after =
            std::task::ready!(self.reading.poll(&self.link, Side::Reading, &mut now, limit, cap));
        Poll::Ready(self.time_out(Operation::Read, after))
    }

    /// For an operation of the writing side that is pending, whose task the link knows.
    pub(super) fn poll_write_clock(&mut self, operation: Operation) -> Poll<std::io::Error> {
        if std::mem::replace(&mut self.writing_op, operation) != operation {
            self.writing.stop();
        }
        let limits = self.limits();
        let limit = match operation {
            Operation::Flush => limits.flush,
            Operation::Shutdown => limits.shutdown,
            _ => limits.write,
        };
        let now = &mut Now::default();
        let after = std::task::ready!(self.writing.poll(
            &self.link,
            Side::Writing,
            now,
            limit,
            limits.deadline
        ));
        Poll::Ready(self.time_out(operation, after))
    }

    /// The error of a read whose peer is dead, and everything that follows from it.
    fn peer_is_silent(&mut self, silent: Silent) -> std::io::Error {
        self.exchange.taint(CloseReason::PeerSilent);
        self.tell(Event::Checked {
            conn: self.id,
            check: Check::Probe,
            verdict: CheckVerdict::Dead,
            heard: Some(silent.for_),
        });
        PeerSilent { silent_for: silent.for_, reason: silent.reason }.into()
    }

    /// The error of an operation that ran out of time, and everything that follows from it.
    pub(super) fn time_out(&mut self, operation: Operation, after: Duration) -> std::io::Error {
        let Limits { deadline, deadline_set, .. } = self.limits();
        let timeout = match (deadline, deadline_set) {
            (Some(deadline), Some(set)) if deadline <= Instant::now() => {
                OpTimeout { operation, after: deadline - set, of_exchange: true }
            }
            _ => OpTimeout { operation, after, of_exchange: false },
        };
        self.exchange.taint(CloseReason::OpTimeout);
        self.tell(Event::TimedOut { operation, conn: Some(self.id), after: timeout.after });
        timeout.into()
    }

    /// Emits an event at once, unless this is called with the lock held that those share who share
    /// the stream.
    fn tell(&mut self, event: Event) {
        if self.bell.is_some() {
            self.untold = Some(Box::new(event));
        } else {
            self.emitter.emit(event);
        }
    }
}
