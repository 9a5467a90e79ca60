//! [`Line`]: what is known of a connection from outside, while a driver task has it.
//!
//! Requests reach the driver through a queue of the client library that nobody else can see: a query
//! whose caller has just gone may still be in it, unsent. At rest, the driver has sent everything it was
//! given and read everything there was: see [`Driver`](livepool::protocol::Driver).

use std::pin::pin;

use futures_util::future::select;
use tokio::sync::Notify;

use super::role::ServerRole;
use super::unclaimed::UnclaimedStatements;
use crate::sync::atomic::Ordering::{Relaxed, SeqCst};
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::sync::{Arc, Mutex, OnceLock, PoisonError};
use livepool::protocol::{DriverState, Verdict};

/// The state of one connection. The driver's task and the scanner write it, the client and the pool read
/// it.
#[derive(Debug)]
pub(super) struct Line {
    driver: DriverState,
    /// Answers that the server owes, to requests that were sent.
    owed: AtomicUsize,
    /// Whether the session was in a transaction at the last ReadyForQuery.
    in_transaction: AtomicBool,
    /// Whether that transaction has failed, and can only be rolled back.
    is_failed: AtomicBool,
    /// Whether the last error was a conflict with another transaction.
    met_conflict: AtomicBool,
    /// Whether the server waits for the data of a COPY.
    awaits_data: AtomicBool,
    /// Whether the session may have subscriptions to notifications.
    listens: AtomicBool,
    /// Whether state of the user may be left in the session.
    is_touched: AtomicBool,
    /// What was touched up to now is how every user has to find the session; for the scanner.
    is_settled: AtomicBool,
    /// A reset has undone more than its last user did.
    is_unsettled: AtomicBool,
    /// The number of the path on which the session looks for names.
    path: AtomicU64,
    /// The number of times that the session lost prepared statements.
    forgotten: AtomicU64,
    /// Whether the last statement that failed was refused before anything was run.
    was_early: AtomicBool,
    /// The SQLSTATE of the last error, in the upper bytes; 0 before one.
    last_code: AtomicU64,
    /// Statements that nobody runs.
    unclaimed: OnceLock<Arc<UnclaimedStatements>>,
    /// Whether a write was refused, and the server or the session may be read-only.
    doubts_role: AtomicBool,
    /// The verdict on the server's answer about that, for the scanner to take.
    verdict: Mutex<Option<Verdict>>,
    has_verdict: AtomicBool,
    /// Whether the connection has ended, or is not understood any more.
    is_lost: AtomicBool,
    /// Whether one ReadyForQuery more may come for a COPY that failed: the next answer shows it.
    is_unsure: AtomicBool,
    /// Whether the bytes that the client has read end with a message, now and before the last
    /// piece.
    is_between: AtomicBool,
    was_between: AtomicBool,
    /// Whether this side has ended the connection.
    is_ended_here: AtomicBool,
    /// The server's role at the start, if the server said so.
    role: OnceLock<ServerRole>,
    /// The connection was lost.
    lost: Notify,
}

impl Line {
    pub(super) fn new(driver: DriverState) -> Arc<Self> {
        Arc::new(Self {
            driver,
            owed: AtomicUsize::new(0),
            in_transaction: AtomicBool::new(false),
            is_failed: AtomicBool::new(false),
            met_conflict: AtomicBool::new(false),
            awaits_data: AtomicBool::new(false),
            listens: AtomicBool::new(false),
            is_touched: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_unsettled: AtomicBool::new(false),
            path: AtomicU64::new(0),
            forgotten: AtomicU64::new(0),
            was_early: AtomicBool::new(false),
            last_code: AtomicU64::new(0),
            unclaimed: OnceLock::new(),
            doubts_role: AtomicBool::new(false),
            verdict: Mutex::new(None),
            has_verdict: AtomicBool::new(false),
            is_lost: AtomicBool::new(false),
            is_unsure: AtomicBool::new(false),
            is_between: AtomicBool::new(false),
            was_between: AtomicBool::new(false),
            is_ended_here: AtomicBool::new(false),
            role: OnceLock::new(),
            lost: Notify::new(),
        })
    }

    pub(super) fn owed(&self) -> usize {
        self.owed.load(SeqCst)
    }

    pub(super) fn is_in_transaction(&self) -> bool {
        self.in_transaction.load(SeqCst)
    }

    pub(super) fn listens(&self) -> bool {
        self.listens.load(SeqCst)
    }

    pub(super) fn stopped_listening(&self) {
        self.listens.store(false, SeqCst);
    }

    /// Whether the connection has ended, or the answers that are owed cannot be told.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(SeqCst)
    }

    /// Whether no answer is owed, and no request about to be sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.driver.is_at_rest_while(|| self.owed() == 0)
    }

    /// Resolves when nothing is under way, or the connection is lost.
    pub(super) async fn quiet(&self) {
        let mut lost = pin!(self.lost.notified());
        lost.as_mut().enable();
        if !self.is_lost() {
            select(lost, pin!(self.driver.rested_while(|| self.owed() == 0))).await;
        }
    }

    /// Resolves when the connection is lost.
    pub(super) async fn ended(&self) {
        let mut lost = pin!(self.lost.notified());
        lost.as_mut().enable();
        if !self.is_lost() {
            lost.await;
        }
    }

    /// Takes over the scanner's knowledge after a piece.
    pub(super) fn scanned(&self, owed: usize, in_transaction: bool, listens: bool) {
        self.owed.store(owed, SeqCst);
        self.in_transaction.store(in_transaction, SeqCst);
        if listens {
            self.listens.store(true, SeqCst);
        }
    }

    /// Takes over the scanner's knowledge of the session after a piece that was received.
    pub(super) fn remembers(&self, path: u64, forgotten: u64, was_early: bool) {
        // They rarely change, and to look costs less.
        if self.path() != path {
            self.path.store(path, SeqCst);
        }
        if self.forgotten() != forgotten {
            self.forgotten.store(forgotten, SeqCst);
        }
        if self.was_early() != was_early {
            self.was_early.store(was_early, SeqCst);
        }
    }

    /// Takes over the scanner's knowledge of the transaction that was begun.
    pub(super) fn transaction_scanned(&self, is_failed: bool, met_conflict: bool) {
        if self.is_failed() != is_failed {
            self.is_failed.store(is_failed, SeqCst);
        }
        if self.met_conflict() != met_conflict {
            self.met_conflict.store(met_conflict, SeqCst);
        }
    }

    /// Takes over the scanner's knowledge of the last error.
    pub(super) fn refused_with(&self, [a, b, c, d, e]: [u8; 5]) {
        let code = u64::from_be_bytes([a, b, c, d, e, 0, 0, 0]);
        if self.last_code.load(SeqCst) != code {
            self.last_code.store(code, SeqCst);
        }
    }

    /// The SQLSTATE of the last error on this session; zeros before one. A library that has the client to
    /// itself may have no word for it.
    pub(super) fn last_code(&self) -> [u8; 5] {
        let [a, b, c, d, e, ..] = self.last_code.load(SeqCst).to_be_bytes();
        [a, b, c, d, e]
    }

    /// Whether the session's transaction has failed, so that its end would undo it.
    pub(super) fn is_failed(&self) -> bool {
        self.is_failed.load(SeqCst)
    }

    /// Whether the last error was a conflict with another transaction, and nothing was run since.
    pub(super) fn met_conflict(&self) -> bool {
        self.met_conflict.load(SeqCst)
    }

    pub(super) fn awaits_data(&self) -> bool {
        self.awaits_data.load(SeqCst)
    }

    pub(super) fn set_awaits_data(&self, awaits_data: bool) {
        if self.awaits_data() != awaits_data {
            self.awaits_data.store(awaits_data, SeqCst);
        }
    }

    pub(super) fn touched(&self, is_touched: bool) {
        if self.is_touched() != is_touched {
            self.is_touched.store(is_touched, SeqCst);
        }
    }

    /// Every user has to find the session as it is now. Nobody uses it.
    pub(super) fn settle(&self) {
        self.is_settled.store(true, SeqCst);
        self.is_unsettled.store(false, SeqCst);
        self.touched(false);
    }

    /// The same where its beginning is over, with the pool's hook, which may have run code that nobody sees:
    /// what that listens to is for every user, until one of them ends it (`UNLISTEN`), which is not noticed.
    pub(super) fn settle_with_subscriptions(&self) {
        self.settle();
        self.stopped_listening();
    }

    /// What every user has to find may be gone.
    pub(super) fn unsettle(&self) {
        self.is_unsettled.store(true, SeqCst);
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.is_unsettled.load(SeqCst)
    }

    /// Whether it was settled since the last time.
    pub(super) fn take_settled(&self) -> bool {
        self.is_settled.load(SeqCst) && self.is_settled.swap(false, SeqCst)
    }

    pub(super) fn is_touched(&self) -> bool {
        self.is_touched.load(SeqCst)
    }

    pub(super) fn path(&self) -> u64 {
        self.path.load(SeqCst)
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten.load(SeqCst)
    }

    pub(super) fn was_early(&self) -> bool {
        self.was_early.load(SeqCst)
    }

    /// Shares the scanner's list of unclaimed statements.
    pub(super) fn counts(&self, unclaimed: &Arc<UnclaimedStatements>) {
        let _ = self.unclaimed.set(Arc::clone(unclaimed));
    }

    pub(super) fn unclaimed(&self) -> Option<&UnclaimedStatements> {
        self.unclaimed.get().map(|unclaimed| &**unclaimed)
    }

    pub(super) fn doubt_role(&self) {
        self.doubts_role.store(true, SeqCst);
    }

    pub(super) fn doubts_role(&self) -> bool {
        self.doubts_role.load(SeqCst)
    }

    /// Ends the doubt about the server's role. The scanner takes the verdict with the next answer.
    pub(super) fn judge(&self, verdict: Option<Verdict>) {
        self.doubts_role.store(false, SeqCst);
        *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = verdict;
        self.has_verdict.store(verdict.is_some(), SeqCst);
    }

    pub(super) fn take_verdict(&self) -> Option<Verdict> {
        if !self.has_verdict.load(SeqCst) {
            return None;
        }
        self.has_verdict.store(false, SeqCst);
        self.verdict.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether only a round trip shows that no ReadyForQuery more comes.
    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure.load(SeqCst)
    }

    pub(super) fn set_unsure(&self, is_unsure: bool) {
        if self.is_unsure.load(SeqCst) != is_unsure {
            self.is_unsure.store(is_unsure, SeqCst);
        }
    }

    /// Whether what came ends with a message. Only the driver's task asks, which has read it.
    pub(super) fn is_between(&self) -> bool {
        self.is_between.load(Relaxed)
    }

    /// The same before the last piece.
    pub(super) fn was_between(&self) -> bool {
        self.was_between.load(Relaxed)
    }

    pub(super) fn set_between(&self, was: bool, is: bool) {
        self.was_between.store(was, Relaxed);
        self.is_between.store(is, Relaxed);
    }

    /// Whether it was this side that ended it, and not the server.
    pub(super) fn is_ended_here(&self) -> bool {
        self.is_ended_here.load(SeqCst)
    }

    pub(super) fn ends_here(&self) {
        self.is_ended_here.store(true, SeqCst);
    }

    pub(super) fn role(&self) -> Option<ServerRole> {
        self.role.get().copied()
    }

    pub(super) fn began_as(&self, role: ServerRole) {
        let _ = self.role.set(role);
    }

    /// Gives the connection up: it has ended, or a message on it is not understood.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, SeqCst);
        self.lost.notify_waiters();
    }
}
