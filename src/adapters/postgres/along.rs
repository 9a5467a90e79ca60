//! The scanner of one connection, as the pool and the connection's line get to know it.

use crate::sync::Arc;

use super::error::{READ_ONLY, of_code};
use super::line::Line;
use super::role::Target;
use super::scanner::{PgScanner, Status};
use crate::protocol::Consequence;
use crate::stream::Scanner;

/// Reads along, and tells the line.
pub(super) struct Along {
    scanner: PgScanner,
    line: Arc<Line>,
    target: Target,
    /// A write was refused because only reading is allowed. What follows is known when the server
    /// has said whether that is its own doing: before it is ready for the next query.
    may_have_turned: bool,
}

impl Along {
    pub(super) fn new(line: &Arc<Line>, target: Target) -> Self {
        let line = Arc::clone(line);
        Self { scanner: PgScanner::new(), line, target, may_have_turned: false }
    }

    /// The server is not what it was. Only asked when it has said all it had to say.
    fn has_turned(&mut self) -> bool {
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
        // Whoever began a transaction that only reads and writes in it has a fault of his own.
        let takes_writes = role.is_some_and(|role| !role.is_read_only);
        (std::mem::take(&mut self.may_have_turned) && !takes_writes) || is_other
    }

    fn tell(&self) {
        let scanner = &self.scanner;
        let in_transaction =
            matches!(scanner.transaction(), Status::InTransaction | Status::Failed);
        self.line.set_unsure(scanner.is_unsure());
        self.line.scanned(scanner.owed(), in_transaction, scanner.is_listening());
        if scanner.is_lost() {
            self.line.lose();
        }
    }
}

impl Scanner for Along {
    fn sent(&mut self, bytes: &[u8]) {
        self.scanner.sent(bytes);
        self.tell();
    }

    fn received(&mut self, bytes: &[u8]) {
        let was_between = self.scanner.is_between();
        self.scanner.received(bytes);
        self.line.set_between(was_between, self.scanner.is_between());
        self.tell();
    }

    fn owed(&self) -> usize {
        self.scanner.owed()
    }

    /// While a `COPY` waits for our data nobody is late but us.
    fn is_patient(&self) -> bool {
        self.scanner.awaits_client()
    }

    fn consequence(&mut self) -> Consequence {
        let mut worst = Consequence::Keep;
        while let Some(error) = self.scanner.take_error() {
            match &error.code[..] {
                READ_ONLY => self.may_have_turned = true,
                code => worst = worse(worst, of_code(error.fatal, code)),
            }
        }
        if self.scanner.owed() == 0 && self.has_turned() {
            worst = Consequence::Invalidate;
        }
        worst
    }

    fn longest(&mut self) -> u64 {
        self.scanner.longest()
    }
}

/// The one that costs more.
fn worse(a: Consequence, b: Consequence) -> Consequence {
    let rank = |consequence| match consequence {
        Consequence::Keep => 0,
        Consequence::Evict => 1,
        Consequence::Goodbye => 2,
        Consequence::Invalidate => 3,
    };
    if rank(b) > rank(a) { b } else { a }
}
