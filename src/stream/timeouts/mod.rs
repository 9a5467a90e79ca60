//! How long the operations of a stream may take, and what becomes of it when that is over.

pub(super) mod timer;

use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::error::DEADLINE;
use super::handle::Side;
use super::peer_watch::{Silent, Watch};
use super::{OpTimeout, PeerSilent, Stream};
use crate::config::{ReadTimeout, Timeouts};
use crate::event::{Check, CheckVerdict, CloseReason, Event, Operation};

use timer::Now;

/// The timeouts of a stream's operations.
#[derive(Debug, Clone, Copy)]
pub(in crate::stream) struct ExchangeLimits {
    pub(in crate::stream) read: ReadTimeout,
    pub(in crate::stream) write: Option<Duration>,
    pub(in crate::stream) flush: Option<Duration>,
    pub(in crate::stream) shutdown: Option<Duration>,
}

/// What the user of a stream has set; `None` is as configured.
#[derive(Debug, Default)]
pub(in crate::stream) struct OwnLimits {
    pub(in crate::stream) read: Option<ReadTimeout>,
    pub(in crate::stream) write: Option<Option<Duration>>,
    pub(in crate::stream) flush: Option<Option<Duration>>,
    /// The end of the whole exchange, and its beginning.
    pub(in crate::stream) deadline: Option<Instant>,
    pub(in crate::stream) began: Option<Instant>,
    /// It is `timeouts.operation`, and not its user's own.
    pub(in crate::stream) is_configured: bool,
}

impl Stream {
    /// What its user has set, if anything.
    #[inline]
    fn own(&self) -> Option<&OwnLimits> {
        if self.is_limited { self.own.as_deref() } else { None }
    }

    /// The limits in force, where these are configured.
    pub(in crate::stream) fn limits_of(&self, configured: &Timeouts) -> ExchangeLimits {
        let Timeouts { read, write, flush, shutdown, .. } = *configured;
        match self.own() {
            None => ExchangeLimits { read, write, flush, shutdown },
            Some(own) => ExchangeLimits {
                read: own.read.unwrap_or(read),
                write: own.write.unwrap_or(write),
                flush: own.flush.unwrap_or(flush),
                shutdown,
            },
        }
    }

    /// The end of the whole exchange, if its user has set one.
    #[inline]
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.own()?.deadline
    }

    /// The user's own limits, from now on.
    pub(in crate::stream) fn own_limits(&mut self) -> &mut OwnLimits {
        let own = self.own.get_or_insert_default();
        if !std::mem::replace(&mut self.is_limited, true) {
            **own = OwnLimits::default();
        }
        own
    }

    /// A use begins: it has `timeouts.operation`, where that is set.
    pub(crate) fn begin_operation(&mut self) {
        let limit = self.defaults.timeouts().operation;
        let Some(limit) = limit else { return };
        let now = Instant::now();
        if let Some(deadline) = now.checked_add(limit) {
            self.limit_exchange(now, Some(deadline));
            self.own_limits().is_configured = true;
        }
    }

    /// Its user is done with it, and it is not at rest yet: what he set does not bound what is done to
    /// it meanwhile.
    pub(crate) fn lift_limits(&mut self) {
        if std::mem::take(&mut self.is_limited) {
            self.reading.stop();
            self.writing.stop();
        }
    }

    /// Whether a read that waits has its peer asked for a sign of life.
    #[inline]
    fn is_to_be_watched(&mut self) -> bool {
        !self.is_watched_by_pool || self.defaults.asks_silent_peers()
    }

    /// How long the next answer may take.
    pub(in crate::stream) fn read_limit(&mut self) -> Option<Duration> {
        let configured = self.defaults.timeouts().read;
        let read = self.own().and_then(|own| own.read).unwrap_or(configured);
        read.limit(self.knows_debts).filter(|_| !self.link.is_patient())
    }

    /// A read that is pending waits for no answer: it is that of a task that reads all the time.
    pub(in crate::stream) fn owes_nothing(&self) -> bool {
        match self.counts_debt {
            true => self.link.debt() == 0,
            false => self.is_driven && !self.exchange.is_unanswered(),
        }
    }

    /// For a read that is pending, whose task the link knows.
    pub(in crate::stream) fn poll_read_clock(&mut self) -> Poll<std::io::Error> {
        if self.counts_debt {
            let begun = self.link.debts_begun();
            if std::mem::replace(&mut self.debts_seen, begun) != begun {
                self.reading.stop();
            }
        }
        if self.owes_nothing() {
            self.reading.stop();
            self.end_watch();
            return Poll::Pending;
        }
        let mut now = Now::default();
        if !self.is_to_be_watched() {
            self.end_watch();
        } else if let Some(watch) = &mut self.watch
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

    /// An answer is owed, or the way in which it is has changed: a read that is pending has its clock
    /// started. Returns whether the read has to be polled for that.
    pub(crate) fn start_read_clock(&mut self) -> bool {
        // Where a clock runs already, or there is a deadline, it may be over, and the error is the read's; and
        // without a runtime no timer can be set.
        let is_watched = self.watch.as_ref().is_some_and(Watch::is_running);
        let runs = is_watched || self.reading.is_running() || self.deadline().is_some();
        self.read_waits
            && (runs
                || tokio::runtime::Handle::try_current().is_err()
                || self.poll_read_clock().is_ready())
    }

    /// For an operation of the writing side that is pending, whose task the link knows.
    pub(in crate::stream) fn poll_write_clock(
        &mut self,
        operation: Operation,
    ) -> Poll<std::io::Error> {
        if std::mem::replace(&mut self.writing_op, operation) != operation {
            self.writing.stop();
        }
        let configured = *self.defaults.timeouts();
        let limits = self.limits_of(&configured);
        let limit = match operation {
            Operation::Flush => limits.flush,
            Operation::Shutdown => limits.shutdown,
            _ => limits.write,
        };
        let cap = self.deadline();
        let now = &mut Now::default();
        let after =
            std::task::ready!(self.writing.poll(&self.link, Side::Writing, now, limit, cap));
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
    pub(in crate::stream) fn time_out(
        &mut self,
        operation: Operation,
        after: Duration,
    ) -> std::io::Error {
        let own = self.own();
        let is_configured = own.is_some_and(|own| own.is_configured);
        let timeout = match own.and_then(|own| own.deadline.zip(own.began)) {
            Some((deadline, began)) if deadline <= Instant::now() => {
                let setting = if is_configured { "timeouts.operation" } else { DEADLINE };
                OpTimeout { operation, after: deadline - began, of_exchange: true, setting }
            }
            _ => {
                OpTimeout { operation, after, of_exchange: false, setting: self.setting(operation) }
            }
        };
        self.exchange.taint(CloseReason::OpTimeout);
        self.tell(Event::TimedOut { operation, conn: Some(self.id), after: timeout.after });
        timeout.into()
    }

    /// The setting of an operation's time.
    fn setting(&self, operation: Operation) -> &'static str {
        let own = self.own();
        match operation {
            Operation::Flush if own.is_some_and(|own| own.flush.is_some()) => "set_write_timeout",
            Operation::Flush => "timeouts.flush",
            Operation::Shutdown => "timeouts.shutdown",
            Operation::Write if own.is_some_and(|own| own.write.is_some()) => "set_write_timeout",
            Operation::Write => "timeouts.write",
            _ if own.is_some_and(|own| own.read.is_some()) => "set_read_timeout",
            _ => "timeouts.read",
        }
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
