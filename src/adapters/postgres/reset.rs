//! What becomes of a session that came back.

use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::scanner::Transaction;
use super::{Client, Error, Postgres};
use crate::deadline::Deadline;
use crate::protocol::Reuse;

/// What is done to a session before its next user has it. Whatever is chosen, a query that is under
/// way is cancelled, a transaction rolled back, and subscriptions ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResetMode {
    /// Nothing more. The default.
    #[default]
    Fast,
    /// One round trip.
    Verified,
    /// What a session may have changed of itself is put back: settings, role, cursors, advisory
    /// locks, temporary tables, sequences. Prepared statements stay.
    Clean,
    /// These statements.
    Custom(String),
}

impl ResetMode {
    fn statements(&self) -> Option<&str> {
        match self {
            Self::Fast => None,
            Self::Verified => Some(""),
            // DISCARD ALL, but for the prepared statements.
            Self::Clean => Some(
                "CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT; RESET ALL; UNLISTEN *; \
                 SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES;",
            ),
            Self::Custom(statements) => Some(statements),
        }
    }
}

/// A `ROLLBACK` of a transaction that was dropped needs no more than this, and should not be
/// cancelled.
const GRACE: Option<Duration> = Some(Duration::from_millis(5));

impl Postgres {
    pub(super) fn judge(&self, client: &Client) -> Reuse {
        let scanner = client.scanner();
        if scanner.is_lost() || client.is_closed() {
            return Reuse::Never;
        }
        let is_clean = scanner.transaction() == Transaction::None && !scanner.is_listening();
        drop(scanner);
        if is_clean && client.ledger.debt() == 0 && self.reset == ResetMode::Fast {
            Reuse::AsItIs
        } else {
            Reuse::AfterReset
        }
    }

    pub(super) async fn make_fit(&self, client: &Client) -> Result<(), Error> {
        let is_cancelled = client.ledger.debt() > 0 && {
            let settled = Deadline::after(GRACE).run(client.ledger.settled()).await;
            settled.is_err()
        };
        if is_cancelled {
            let key = client.scanner().key().clone();
            let cancelled = client.canceller.cancel(&key).await;
            cancelled.map_err(|_| Error::Unfit("what it does could not be cancelled"))?;
            client.ledger.settled().await;
        }
        if client.scanner().transaction() != Transaction::None {
            self.say(client, "ROLLBACK").await?;
        } else if is_cancelled {
            // A request to cancel that came too late for the query is met by this.
            self.say(client, "").await?;
        }
        if client.scanner().is_listening() {
            self.say(client, "UNLISTEN *").await?;
            client.scanner().forget_listening();
        }
        if let Some(statements) = self.reset.statements() {
            self.say(client, statements).await?;
        }
        match client.scanner().transaction() {
            Transaction::None => Ok(()),
            _ => Err(Error::Unfit("it is still in a transaction")),
        }
    }

    /// Once more, if it was cancelled instead of what was to be.
    async fn say(&self, client: &Client, statements: &str) -> Result<(), Error> {
        match client.batch_execute(statements).await {
            Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {
                Ok(client.batch_execute(statements).await?)
            }
            result => Ok(result?),
        }
    }
}
