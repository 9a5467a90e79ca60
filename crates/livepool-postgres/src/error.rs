//! [`Error`]: what a handshake, ping or reset fails with, and what follows from it.

use std::fmt;
use std::io;

use tokio_postgres::error::SqlState;

use super::driver_stream;
use super::role::{ServerRole, Target};
use super::wire_format::PgError;
use livepool::protocol::CredentialsError;
use livepool::protocol::Escaped;
use livepool::protocol::OneLine;
use livepool::protocol::Verdict;
use livepool::{CheckoutError, SetupError};

/// Why a connection could not be made, checked or made fit for its next user, or why a query [straight on
/// the pool](crate::PoolExt) failed.
///
/// Queries of a client fail with [`tokio_postgres::Error`], from which this error is made, as it is made from
/// a [`CheckoutError`]: one function may take a client, query with it, and have one error. The server's text
/// is escaped and cut in the text of this error. The text of [`tokio_postgres::Error`] is no more than "db
/// error"; what the server wrote is in its [`as_db_error`](tokio_postgres::Error::as_db_error).
///
/// ```no_run
/// use livepool_postgres::{Error, Pool, tokio_postgres::error::SqlState};
///
/// async fn rename(pool: &Pool, id: i64, name: &str) -> Result<bool, Error> {
///     let client = pool.get().await?;
///     match client.execute("UPDATE users SET name = $2 WHERE id = $1", &[&id, &name]).await {
///         Ok(count) => Ok(count == 1),
///         Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => Ok(false),
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
///
/// ```
/// use livepool::CheckoutError;
///
/// fn is_password_wrong(error: &CheckoutError) -> bool {
///     let error = error.find::<livepool_postgres::Error>();
///     error.and_then(|error| error.code()).is_some_and(|code| code.code() == "28P01")
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The client library says so, or the server through it.
    Postgres(tokio_postgres::Error),
    /// There was no connection for a query [straight on the pool](crate::PoolExt).
    Checkout(Box<CheckoutError>),
    /// The connection could not be encrypted.
    Tls(io::Error),
    /// `sslmode=require`, or a stronger one, and the server has no TLS.
    NoTls,
    /// The URL demands a setting that the pool was not given: `sslmode=require`, say, without whom
    /// to trust.
    Setup(SetupError),
    /// The server is not one to use.
    NotWanted {
        /// The target that the pool was given.
        target: Target,
        /// The role of the server.
        found: String,
    },
    /// The callback for credentials gave none.
    Credentials(CredentialsError),
    /// The server refused credentials of the callback. It is asked for others.
    CredentialsRefused(tokio_postgres::Error),
    /// The library that has the client to itself says so: see [`Library`](crate::Library).
    Library(Box<dyn std::error::Error + Send + Sync>),
    /// A transaction or an answer was left behind that could not be got rid of.
    NotClean,
    /// The server of a [`Subscription`](livepool::Subscription) did not answer within its
    /// [`heartbeat`](livepool::SubscriptionConfig::heartbeat).
    NoAnswer,
    /// The session does not listen on this channel, though it was told to: the name is longer than the
    /// server takes (63 bytes), or a proxy gives each transaction another session.
    NotListening(String),
}

impl Error {
    pub(super) fn not_wanted(target: Target, found: ServerRole) -> Self {
        Self::NotWanted { target, found: found.to_string() }
    }

    /// The code of the server's error, if it is one: `28P01`.
    pub fn code(&self) -> Option<&SqlState> {
        match self {
            Self::Postgres(error) | Self::CredentialsRefused(error) => error.code(),
            Self::Checkout(error) => error.find::<Self>().and_then(Self::code),
            _ => None,
        }
    }

    /// Whether a time of ours was up: a read timeout, the deadline of a use, or of a checkout. The server's own
    /// (`statement_timeout`, which has the same code) is not one.
    pub fn is_timeout(&self) -> bool {
        let error = match self {
            Self::Postgres(error) => error,
            Self::Checkout(error) => return error.is_timeout(),
            _ => return false,
        };
        let cause = std::error::Error::source(error);
        match error.as_db_error() {
            Some(db) => {
                driver_stream::is_from_pool(db)
                    && db.code().code() == driver_stream::QUERY_CANCELED_CODE
            }
            None => cause.and_then(|cause| cause.downcast_ref()).is_some_and(livepool::is_timeout),
        }
    }

    /// Whether the server's certificate is not one to trust: [`livepool_tls::is_distrusted`], which does
    /// not see into this error.
    #[cfg(feature = "tls")]
    pub fn is_distrusted(&self) -> bool {
        matches!(self, Self::Tls(error) if livepool_tls::is_distrusted(error))
    }

    /// Whether somebody has to change something.
    pub(super) fn is_permanent(&self) -> bool {
        match self {
            // The password, the user, the database, the right to connect.
            Self::Postgres(error) => match error.code() {
                Some(code) => {
                    let code = code.code();
                    code.starts_with("28") || ["3D000", "42501", "42704"].contains(&code)
                }
                // No password, or a way to log in that the library does not know: it has no other
                // word for them.
                None => ["invalid configuration", "authentication error"]
                    .iter()
                    .any(|text| error.to_string().starts_with(text)),
            },
            Self::NoTls | Self::Setup(_) => true,
            #[cfg(feature = "tls")]
            Self::Tls(error) => livepool_tls::is_distrusted(error),
            #[cfg(not(feature = "tls"))]
            Self::Tls(_) => false,
            Self::Checkout(_)
            | Self::Credentials(_)
            | Self::CredentialsRefused(_)
            | Self::Library(_) => false,
            Self::NotWanted { .. } | Self::NotClean | Self::NoAnswer | Self::NotListening(_) => {
                false
            }
        }
    }

    /// Whether the server did not answer as a PostgreSQL does.
    pub(super) fn is_gibberish(&self) -> bool {
        match self {
            Self::Postgres(error) => {
                error.as_db_error().is_none()
                    && (is_of_connection(error)
                        || error.to_string().starts_with("error parsing response"))
            }
            Self::Tls(error) => livepool::protocol::is_connection_error(error),
            _ => false,
        }
    }

    pub(super) fn verdict(&self) -> Verdict {
        match self {
            Self::Postgres(error) => match error.as_db_error() {
                Some(db) if driver_stream::is_from_pool(db) => Verdict::Close,
                Some(db) => {
                    let severity = db.parsed_severity();
                    let fatal = severity.map_or(db.severity() == "FATAL", |severity| {
                        use tokio_postgres::error::Severity::{Fatal, Panic};
                        matches!(severity, Fatal | Panic)
                    });
                    let code = db.code().code().as_bytes().try_into().unwrap_or_default();
                    verdict_of(&PgError { fatal, code, is_early: true })
                }
                // Its stream broke, or said what nobody understands.
                None if is_of_connection(error) => Verdict::Close,
                None => Verdict::Keep,
            },
            _ => Verdict::Close,
        }
    }
}

/// A write where only reading is allowed.
pub(super) const READ_ONLY: &[u8; 5] = b"25006";

/// The verdict on an error of the server.
///
/// - `25006`: the server has changed its role, and all connections go. Unless it said that it takes
///   writes, as those since PostgreSQL 14 do: then a transaction was begun to read only.
/// - `57P02`, `57P03`, `57P04`: the server crashed or starts, or the database is gone, and all
///   connections go.
/// - `57P01`, ended by an administrator: the server says that to a single backend that is
///   terminated, and to all when it stops. So a connection goes when it is told itself.
/// - `26000`, an unknown prepared statement, and `42P05`, one that is there already: the statements this
///   connection remembers are not those of its session, and it goes. Unless it was a statement in SQL
///   that named them.
/// - After an error of severity `FATAL` or `PANIC` the server closes this connection; the rest harm
///   none.
pub(super) fn verdict_of(error: &PgError) -> Verdict {
    match &error.code {
        READ_ONLY | b"57P02" | b"57P03" | b"57P04" => Verdict::InvalidatePool,
        _ if error.fatal => Verdict::PeerCloses,
        b"57P01" => Verdict::PeerCloses,
        b"26000" | b"42P05" if error.is_early => Verdict::Close,
        _ => Verdict::Keep,
    }
}

/// Whether the connection failed, as far as the client library tells.
fn is_of_connection(error: &tokio_postgres::Error) -> bool {
    let cause = std::error::Error::source(error);
    error.is_closed()
        || cause.is_some_and(|cause| cause.is::<io::Error>())
        || error.to_string().starts_with("unexpected message")
}

/// So one function may take a client and query with it, and have one error for both.
impl From<CheckoutError> for Error {
    fn from(error: CheckoutError) -> Self {
        Self::Checkout(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The library's own text is "db error" for all of them.
            Self::Postgres(error) | Self::CredentialsRefused(error) => match error.as_db_error() {
                Some(db) => {
                    write!(f, "{} ({})", Escaped(&db.message()), Escaped(&db.code().code()))
                }
                None => OneLine(error).fmt(f),
            },
            // A certificate has words of its own.
            Self::Tls(error) => write!(f, "TLS failed: {}", OneLine(error)),
            Self::NoTls => f.write_str(
                "the server has no TLS, as none has over a Unix socket; switch it on there, or give \
                 sslmode=prefer or disable",
            ),
            Self::Setup(error) => write!(f, "nothing was said to the server: {error}"),
            Self::NotWanted { target, found } => write!(f, "it is {found}, and not {target}"),
            Self::Checkout(error) => error.fmt(f),
            Self::Credentials(error) => error.fmt(f),
            Self::Library(error) => OneLine(&**error).fmt(f),
            Self::NotClean => f.write_str("its last user left behind what would not end"),
            Self::NoAnswer => f.write_str("the server did not answer within the heartbeat"),
            Self::NotListening(channel) => write!(
                f,
                "the session does not listen on {}: the name is longer than 63 bytes, or a proxy gives \
                 each transaction another session",
                Escaped(channel)
            ),
        }
    }
}

/// The text carries the causes, so there is no source.
impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_costs_as_many_connections_as_it_concerns() {
        let error = |fatal, code, is_early| PgError { fatal, code, is_early };
        for (error, expected) in [
            (error(false, *b"42601", true), Verdict::Keep),
            (error(false, *b"57014", false), Verdict::Keep),
            (error(false, *b"40001", false), Verdict::Keep),
            (error(false, *b"26000", true), Verdict::Close),
            (error(false, *b"26000", false), Verdict::Keep),
            (error(false, *b"42P05", true), Verdict::Close),
            (error(true, *b"57P01", false), Verdict::PeerCloses),
            (error(true, *b"57P05", false), Verdict::PeerCloses),
            (error(true, *b"25P03", false), Verdict::PeerCloses),
            (error(false, *b"57P02", false), Verdict::InvalidatePool),
            (error(true, *b"57P03", false), Verdict::InvalidatePool),
            (error(false, *b"25006", false), Verdict::InvalidatePool),
        ] {
            assert_eq!(verdict_of(&error), expected, "{error:?}");
        }
    }
}
