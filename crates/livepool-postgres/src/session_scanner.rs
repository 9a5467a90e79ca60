//! [`SessionScanner`]: the scanner of one connection, which reports to the pool and to the
//! connection's [`Line`].

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::error::{READ_ONLY, verdict_of};
use super::line::Line;
use super::role::Target;
use super::scanner::{PgScanner, TransactionStatus};
use livepool::protocol::Scanner;
use livepool::protocol::Verdict;

/// The scanner's state machine with its connection's line, role and generation.
pub(super) struct SessionScanner {
    scanner: PgScanner,
    line: Arc<Line>,
    target: Target,
    /// The generation of the pool's prepared statements.
    generation: Arc<AtomicU64>,
    /// Whether a write was refused with `25006` since the last ReadyForQuery.
    write_was_refused: bool,
    /// The SQLSTATE of the error with the worst verdict; zeros before one.
    code: [u8; 5],
}

impl SessionScanner {
    pub(super) fn new(line: &Arc<Line>, target: Target, generation: &Arc<AtomicU64>) -> Self {
        let scanner = PgScanner::new();
        line.counts(scanner.unclaimed());
        Self {
            scanner,
            line: Arc::clone(line),
            target,
            generation: Arc::clone(generation),
            write_was_refused: false,
            code: [0; 5],
        }
    }

    /// Decides, once nothing is owed, whether the server has changed its role, and forgets a
    /// refused write.
    fn check_role(&mut self) -> bool {
        let role = self.scanner.role();
        // A standby that was promoted; sessions cannot set this.
        let is_other = match (self.line.role(), role) {
            (Some(then), Some(now)) => {
                then.is_standby != now.is_standby && !self.target.accepts(now)
            }
            (None, Some(now)) => {
                self.line.began_as(now);
                false
            }
            _ => false,
        };
        // Who asked for a server that takes no writes is on the right one.
        let is_refused = std::mem::take(&mut self.write_was_refused) && !self.target.only_reads();
        match role {
            Some(role) if role.is_standby => is_refused || is_other,
            // The server takes writes: a transaction was begun to only read, and its user wrote in it.
            Some(role) if !role.is_read_only => is_other,
            // The server's setting, or the session's own: the reset asks, when the connection comes back.
            _ => {
                if is_refused {
                    self.line.doubt_role();
                }
                is_other
            }
        }
    }

    /// Passes on to the statement caches of this session, or of all, that statements are outdated.
    fn report_statements(&mut self) {
        if self.scanner.take_outdated() {
            // One table that was altered concerns the statements of all connections.
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        let scanner = &self.scanner;
        self.line.remembers(scanner.path(), scanner.forgotten(), scanner.was_early());
        let is_failed = scanner.transaction() == TransactionStatus::Failed;
        self.line.transaction_scanned(is_failed, scanner.met_conflict());
        self.line.refused_with(scanner.last_code());
    }

    /// What was touched before is no user's doing, if the session was settled since.
    fn settle(&mut self) {
        if self.line.take_settled() {
            self.scanner.settle();
        }
    }

    fn report(&self) {
        let scanner = &self.scanner;
        let in_transaction = matches!(
            scanner.transaction(),
            TransactionStatus::InTransaction | TransactionStatus::Failed
        );
        self.line.set_unsure(scanner.is_unsure());
        self.line.touched(scanner.is_touched());
        self.line.set_awaits_data(scanner.awaits_client());
        self.line.scanned(scanner.owed(), in_transaction, scanner.is_listening());
        if scanner.is_lost() {
            self.line.lose();
        }
    }
}

impl Scanner for SessionScanner {
    fn sent(&mut self, bytes: &[u8]) {
        self.settle();
        self.scanner.sent(bytes);
        self.report();
    }

    fn received(&mut self, bytes: &[u8]) {
        self.settle();
        let was_between = self.scanner.is_between();
        self.scanner.received(bytes);
        self.line.set_between(was_between, self.scanner.is_between());
        // Before `owed` falls: whoever sees that the answer is complete must find the statements outdated.
        self.report_statements();
        self.report();
    }

    fn owed(&self) -> usize {
        self.scanner.owed()
    }

    /// While a `COPY` waits for the client's data, the server is not late.
    fn is_patient(&self) -> bool {
        self.scanner.awaits_client()
    }

    fn verdict(&mut self) -> Verdict {
        let mut worst = Verdict::Keep;
        while let Some(error) = self.scanner.take_error() {
            match &error.code {
                // Judged at ReadyForQuery: a role the server reports (ParameterStatus) comes before it.
                READ_ONLY => self.write_was_refused = true,
                _ => {
                    let verdict = verdict_of(&error);
                    if rank(verdict) > rank(worst) {
                        (worst, self.code) = (verdict, error.code);
                    }
                }
            }
        }
        if self.scanner.owed() == 0 && self.check_role() {
            (worst, self.code) = (Verdict::InvalidatePool, *READ_ONLY);
        }
        if let Some(verdict) = self.line.take_verdict() {
            (worst, self.code) = (verdict, *READ_ONLY);
        }
        worst
    }

    fn code(&self) -> Option<String> {
        // Some errors have none.
        (self.code != [0; 5]).then(|| String::from_utf8_lossy(&self.code).into_owned())
    }

    fn longest(&mut self) -> u64 {
        self.scanner.longest()
    }
}

/// The order of verdicts, by the number of connections that go.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Keep => 0,
        Verdict::Close => 1,
        Verdict::PeerCloses => 2,
        // `InvalidatePool`, and a verdict that is added later.
        _ => 3,
    }
}
