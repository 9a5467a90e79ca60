//! [`Error`]: why a session could not be had, or an exchange went wrong.

use std::fmt;
use std::io;

use super::Target;

/// Why a session could not be had, or an exchange on it went wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// What the client library says.
    Postgres(tokio_postgres::Error),
    /// The connection could not be encrypted.
    Tls(io::Error),
    /// The server is not the one wanted.
    NotWanted(Target),
    /// The connection cannot be made fit for the next user.
    Unfit(&'static str),
    /// A URL that names no PostgreSQL.
    Url(tokio_postgres::Error),
    /// The settings ask for what this pool cannot do.
    Settings(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Its own text does not say what the server said.
            Self::Postgres(error) => match error.as_db_error() {
                Some(db) => {
                    write!(f, "{}: {} ({})", db.severity(), db.message(), db.code().code())
                }
                None => write_chain(f, error),
            },
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::NotWanted(target) => {
                write!(f, "this server is not the one wanted: target is {target:?}")
            }
            Self::Unfit(why) => write!(f, "the session cannot be reused: {why}"),
            Self::Url(error) => {
                f.write_str("a PostgreSQL URL is postgres://user:password@host:port/database: ")?;
                write_chain(f, error)
            }
            Self::Settings(what) => f.write_str(what),
        }
    }
}

fn write_chain(f: &mut fmt::Formatter<'_>, error: &tokio_postgres::Error) -> fmt::Result {
    write!(f, "{error}")?;
    let text = error.to_string();
    match std::error::Error::source(error) {
        Some(source) if !text.contains(&source.to_string()) => write!(f, ": {source}"),
        _ => Ok(()),
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Postgres(error) | Self::Url(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::NotWanted(_) | Self::Unfit(_) | Self::Settings(_) => None,
        }
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}
