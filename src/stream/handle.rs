//! The part of a stream for those who may not touch its socket: interrupt, debt, activity.

use std::pin::pin;

use tokio::sync::Notify;

use crate::event::CloseReason;
use crate::foreign;
use crate::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use crate::sync::{Arc, AtomicWaker, OnceLock};
use crate::text;

/// No interrupt: the stream may go on.
const RUNNING: u8 = u8::MAX;

/// A direction of a stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Reading,
    Writing,
}

/// The handle of one stream. The stream's user holds the stream; the listener's reaper, a pool and
/// client drivers hold this.
#[derive(Debug)]
pub(crate) struct Link {
    /// A [`CloseReason`], set before anybody is woken; the next poll of the stream returns it.
    interrupt: AtomicU8,
    /// Answers owed to this stream, one by one; see [`Ledger`].
    debt: AtomicUsize,
    /// Number of answers owed that a scanner has counted, as a whole.
    scanned: AtomicUsize,
    /// The next answer may take any time.
    patient: AtomicBool,
    /// The peer is being asked for a sign of life, while a read waits.
    suspect: AtomicBool,
    /// How often the debt rose from zero. It tells the reader's clock that a new debt began even
    /// when the old one was paid between two polls.
    debts_begun: AtomicUsize,
    /// Operations that moved bytes. Only the stream writes it, so no read-modify-write is needed;
    /// an observer compares two readings and never needs a clock.
    activity: AtomicU64,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Ends the debt: nothing is owed any more, or nothing will be paid.
    settled: Notify,
    is_ended: AtomicBool,
    /// The peer's word for why its stream must not be used again. The first one stays.
    code: OnceLock<(CloseReason, Arc<str>)>,
}

impl Link {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            interrupt: AtomicU8::new(RUNNING),
            debt: AtomicUsize::new(0),
            scanned: AtomicUsize::new(0),
            patient: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
            debts_begun: AtomicUsize::new(0),
            activity: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            settled: Notify::new(),
            is_ended: AtomicBool::new(false),
            code: OnceLock::new(),
        })
    }

    /// Makes the stream's next poll fail with `reason`. The first interrupt wins; returns whether
    /// this was it. The reason is set before the tasks are woken, so that a reader never sees a
    /// clean end of stream that looks like a complete answer.
    pub(crate) fn interrupt(&self, reason: CloseReason) -> bool {
        let first = self.note_interrupt(reason);
        self.wake_tasks();
        first
    }

    /// Wakes whoever waits: there is something new to look at.
    pub(crate) fn wake_tasks(&self) {
        // A waker is its executor's code.
        let _ = foreign::call(|| self.reader.wake());
        let _ = foreign::call(|| self.writer.wake());
    }

    /// As [`interrupt`](Self::interrupt), and wakes nobody yet.
    pub(crate) fn note_interrupt(&self, reason: CloseReason) -> bool {
        let (running, reason) = (RUNNING, reason as u8);
        self.interrupt
            .compare_exchange(running, reason, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// The peer's own word for the reason that its stream is about to be tainted with.
    pub(crate) fn note_code(&self, reason: CloseReason, code: Option<String>) {
        if let Some(code) = code {
            let _ = self.code.set((reason, text::escaped_code(&code)));
        }
    }

    /// The peer's own word that led to this reason.
    pub(crate) fn code_for(&self, reason: CloseReason) -> Option<Arc<str>> {
        let (known, code) = self.code.get()?;
        (*known == reason).then(|| Arc::clone(code))
    }

    #[inline]
    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Acquire) != RUNNING
    }

    pub(crate) fn interrupted(&self) -> Option<CloseReason> {
        match self.interrupt.load(Ordering::Acquire) {
            RUNNING => None,
            index => CloseReason::from_index(index),
        }
    }

    /// Called by the stream itself when bytes moved.
    #[inline]
    pub(crate) fn touch(&self) {
        let count = self.activity.load(Ordering::Relaxed);
        self.activity.store(count.wrapping_add(1), Ordering::Relaxed);
    }

    /// A number that changes whenever bytes move.
    pub(crate) fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    /// The task that waits on this side.
    pub(crate) fn task(&self, side: Side) -> &AtomicWaker {
        match side {
            Side::Reading => &self.reader,
            Side::Writing => &self.writer,
        }
    }

    pub(crate) fn reader(&self) -> &AtomicWaker {
        &self.reader
    }

    pub(crate) fn writer(&self) -> &AtomicWaker {
        &self.writer
    }

    /// Drops the wakers of whoever used the stream last.
    pub(crate) fn forget_tasks(&self) {
        drop(self.reader.take());
        drop(self.writer.take());
    }

    /// The number of answers owed, whoever counts them.
    pub(crate) fn debt(&self) -> usize {
        // With each other in one order for all threads: of two who pay the last of either kind, one
        // sees that nothing is left.
        self.debt.load(Ordering::SeqCst).saturating_add(self.scanned.load(Ordering::SeqCst))
    }

    /// Nobody reads any more: what is owed stays so.
    pub(crate) fn end(&self) {
        self.is_ended.store(true, Ordering::Release);
        self.settled.notify_waiters();
    }

    pub(crate) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Acquire)
    }

    pub(crate) fn set_suspect(&self, is_suspect: bool) {
        if self.is_suspect() != is_suspect {
            self.suspect.store(is_suspect, Ordering::Release);
        }
    }

    pub(crate) fn is_patient(&self) -> bool {
        self.patient.load(Ordering::Acquire)
    }

    /// As counted by somebody who reads along. Whom to wake because of it is for the caller to do, when
    /// it holds no lock.
    #[must_use = "somebody may have to be woken"]
    pub(crate) fn scanned(&self, debt: usize, patient: bool) -> Wakes {
        // Before the debt, for whoever reads and sees that.
        let was_patient = self.patient.load(Ordering::Relaxed);
        if was_patient != patient {
            self.patient.store(patient, Ordering::Release);
        }
        let before = self.scanned.load(Ordering::SeqCst);
        if before == debt {
            return Wakes { reader: was_patient != patient, settled: false };
        }
        let begins = self.debt() == 0;
        if begins {
            self.debts_begun.fetch_add(1, Ordering::AcqRel);
        }
        self.scanned.store(debt, Ordering::SeqCst);
        Wakes { reader: begins || was_patient != patient, settled: self.debt() == 0 }
    }

    pub(crate) fn wake(&self, wakes: Wakes) {
        if wakes.reader {
            self.reader.wake();
        }
        if wakes.settled {
            self.settled.notify_waiters();
        }
    }

    pub(crate) fn debts_begun(&self) -> usize {
        self.debts_begun.load(Ordering::Acquire)
    }
}

/// The tasks that a change concerns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wakes {
    reader: bool,
    settled: bool,
}

impl Wakes {
    /// Whether a read that is pending has to look at its clock.
    pub(crate) fn reader(self) -> bool {
        self.reader
    }

    pub(crate) fn but_the_reader(self) -> Self {
        Self { reader: false, ..self }
    }
}

/// Counts the answers a stream is owed, for clients that read all the time in a driver task.
///
/// Such a client must neither die of a read timeout while nothing is asked, nor hang for ever in
/// the middle of an answer. It takes one [`Owed`] per request and drops it when the answer is
/// complete; the stream's read clock runs only while something is owed. Get one with
/// [`Stream::count_debt`](crate::Stream::count_debt).
///
/// ```
/// use livepool::Stream;
///
/// fn client(mut stream: Stream) {
///     let ledger = stream.count_debt();
///     // One for each request, dropped when its answer is complete.
///     let owed = ledger.owe();
///     assert_eq!(ledger.debt(), 1);
///     drop(owed);
///     assert_eq!(ledger.debt(), 0);
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Ledger(pub(crate) Arc<Link>);

impl Ledger {
    /// Notes that one more answer is owed, until the returned value is dropped.
    pub fn owe(&self) -> Owed {
        // Before the debt itself, so that a reader who sees it also sees that it is a new one.
        if self.0.debt() == 0 {
            self.0.debts_begun.fetch_add(1, Ordering::AcqRel);
        }
        if self.0.debt.fetch_add(1, Ordering::SeqCst) == 0 {
            // The reader may be pending without a clock: it has to start one.
            self.0.reader.wake();
        }
        Owed(Arc::clone(&self.0))
    }

    /// How many answers are owed now.
    pub fn debt(&self) -> usize {
        self.0.debt()
    }

    /// Sets whether the next answer may take as long as it likes, since the peer still waits for
    /// something from us, say. No read times out meanwhile; the deadline of the exchange holds. For
    /// protocols without a [scanner](crate::protocol::Scanner), which says that itself.
    pub fn set_patient(&self, is_patient: bool) {
        if self.0.patient.swap(is_patient, Ordering::AcqRel) && !is_patient {
            // The reader may be pending without a clock: it has to start one.
            self.0.reader.wake();
        }
    }

    /// Resolves when nothing is owed, or the connection has ended: at once if that is so now. Never,
    /// if the answer never comes: give it a deadline.
    ///
    /// # Cancel safety
    ///
    /// No count is lost.
    pub async fn settled(&self) {
        loop {
            let mut settled = pin!(self.0.settled.notified());
            settled.as_mut().enable();
            if self.debt() == 0 || self.0.is_ended.load(Ordering::Acquire) {
                return;
            }
            settled.await;
        }
    }
}

/// An answer that is owed. Dropping it says that the answer arrived in full.
///
/// When the caller of a request goes away early, the answer is *still owed*: keep this value with
/// whatever reads the answer, not with the caller.
///
/// ```
/// use std::collections::VecDeque;
/// use livepool::protocol::{Ledger, Owed};
///
/// /// Kept where answers are read, in the order of the requests.
/// #[derive(Default)]
/// struct Requests(VecDeque<Owed>);
///
/// impl Requests {
///     fn sent(&mut self, ledger: &Ledger) {
///         self.0.push_back(ledger.owe());
///     }
///
///     fn answered(&mut self) {
///         self.0.pop_front();
///     }
/// }
/// ```
#[derive(Debug)]
#[must_use = "the debt lasts as long as this value"]
pub struct Owed(Arc<Link>);

impl Drop for Owed {
    fn drop(&mut self) {
        let last = self.0.debt.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && self.0.debt() == 0 {
            self.0.settled.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_interrupt_wins() {
        let link = Link::new();
        assert_eq!(link.interrupted(), None);
        assert!(link.interrupt(CloseReason::IdleTimeout));
        assert!(!link.interrupt(CloseReason::PoolClosed));
        assert_eq!(link.interrupted(), Some(CloseReason::IdleTimeout));
    }

    #[test]
    fn what_is_owed_one_by_one_and_what_is_counted_as_a_whole_are_added_up() {
        let link = Link::new();
        let ledger = Ledger(Arc::clone(&link));
        let owed = ledger.owe();
        link.wake(link.scanned(1, false));
        assert_eq!(ledger.debt(), 2);
        link.wake(link.scanned(0, false));
        assert_eq!((ledger.debt(), link.debts_begun()), (1, 1));
        drop(owed);
        assert_eq!(ledger.debt(), 0);
        link.wake(link.scanned(3, true));
        assert_eq!((ledger.debt(), link.debts_begun(), link.is_patient()), (3, 2, true));
    }

    #[test]
    fn debt_counts_requests_not_bytes_and_begins_anew_from_zero() {
        let link = Link::new();
        let ledger = Ledger(Arc::clone(&link));
        let (a, b) = (ledger.owe(), ledger.owe());
        assert_eq!((ledger.debt(), link.debts_begun()), (2, 1));
        drop(a);
        assert_eq!(ledger.debt(), 1);
        drop(b);
        let _c = ledger.owe();
        assert_eq!((ledger.debt(), link.debts_begun()), (1, 2));
    }
}
