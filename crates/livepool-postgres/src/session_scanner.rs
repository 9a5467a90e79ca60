//! The scanner of one connection, as the pool and the connection's line get to know it.

use crate::sync::Arc;
use crate::sync::atomic::{AtomicU64, Ordering};

use super::error::{READ_ONLY, of_error};
use super::line::Line;
use super::role::Target;
use super::scanner::{PgScanner, TransactionStatus};
use livepool::protocol::Scanner;
use livepool::protocol::Verdict;

/// Reads along, and tells the line.
pub(super) struct SessionScanner {
    scanner: PgScanner,
    line: Arc<Line>,
    target: Target,
    /// Of the pool's prepared statements.
    generation: Arc<AtomicU64>,
    /// A write was refused because only reading is allowed. What follows is known when the server
    /// has said whether that is its own doing: before it is ready for the next query.
    write_was_refused: bool,
    /// Of the error that the worst consequence followed from.
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

    /// The server is not what it was. Only asked when it has said all it had to say.
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
        let is_refused = std::mem::take(&mut self.write_was_refused);
        match role {
            Some(role) if role.is_standby => is_refused || is_other,
            // Whoever began a transaction that only reads and writes in it has a fault of his own.
            Some(role) if !role.is_read_only => is_other,
            // The server's setting, or the session's own: it is asked when it comes back.
            _ => {
                if is_refused {
                    self.line.doubt_role();
                }
                is_other
            }
        }
    }

    /// What the server has said may concern what is kept of this session, or of all.
    fn report_statements(&mut self) {
        if self.scanner.take_outdated() {
            self.generation.fetch_add(1, Ordering::SeqCst);
        }
        let scanner = &self.scanner;
        self.line.remembers(scanner.path(), scanner.forgotten(), scanner.was_early());
    }

    fn report(&self) {
        let scanner = &self.scanner;
        let in_transaction = matches!(
            scanner.transaction(),
            TransactionStatus::InTransaction | TransactionStatus::Failed
        );
        self.line.set_unsure(scanner.is_unsure());
        self.line.touched(scanner.is_touched());
        self.line.scanned(scanner.owed(), in_transaction, scanner.is_listening());
        if scanner.is_lost() {
            self.line.lose();
        }
    }
}

impl Scanner for SessionScanner {
    fn sent(&mut self, bytes: &[u8]) {
        self.scanner.sent(bytes);
        self.report();
    }

    fn received(&mut self, bytes: &[u8]) {
        let was_between = self.scanner.is_between();
        self.scanner.received(bytes);
        self.line.set_between(was_between, self.scanner.is_between());
        // First: nobody is told of an answer that is complete before.
        self.report_statements();
        self.report();
    }

    fn owed(&self) -> usize {
        self.scanner.owed()
    }

    /// While a `COPY` waits for our data nobody is late but us.
    fn is_patient(&self) -> bool {
        self.scanner.awaits_client()
    }

    fn verdict(&mut self) -> Verdict {
        let mut worst = Verdict::Keep;
        while let Some(error) = self.scanner.take_error() {
            match &error.code {
                READ_ONLY => self.write_was_refused = true,
                _ => {
                    let consequence = of_error(&error);
                    if rank(consequence) > rank(worst) {
                        (worst, self.code) = (consequence, error.code);
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

/// The greater, the more it costs.
fn rank(consequence: Verdict) -> u8 {
    match consequence {
        Verdict::Keep => 0,
        Verdict::Close => 1,
        Verdict::PeerCloses => 2,
        // `Invalidate`, and what nobody knows yet.
        _ => 3,
    }
}
