//! [`SentinelError`]: why nobody knows where to connect to.

use std::fmt;
use std::io;

use super::said::Place;
use super::watch::NO_SUCH_MASTER;
use livepool::protocol::Escaped;

/// Why sentinels lead to no server. It is inside the error of a dial: the name of the master, and what
/// each sentinel said.
///
/// ```
/// use livepool::CheckoutError;
/// use livepool_redis::sentinel::SentinelError;
///
/// /// What the sentinels said, if it was their word that kept a caller from a connection.
/// fn sentinels_said(error: &CheckoutError) -> Option<String> {
///     let said: &SentinelError = error.connect_error()?.find()?;
///     Some(said.to_string())
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelError {
    master: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// Each sentinel, and what it said.
    Unknown(Vec<(String, String)>),
    NoReplica,
    /// The sentinels gave names that lead nowhere.
    Names(String),
}

impl SentinelError {
    pub(super) fn unknown(master: &str, said: Vec<(String, String)>) -> Self {
        Self { master: master.to_owned(), why: Why::Unknown(said) }
    }

    pub(super) fn no_replica(master: &str) -> Self {
        Self { master: master.to_owned(), why: Why::NoReplica }
    }

    pub(super) fn name(master: &str, places: &[Place], error: &io::Error) -> Self {
        let places: Vec<_> = places.iter().map(Place::to_string).collect();
        let why = format!("{}: {}", places.join(", "), Escaped(error));
        Self { master: master.to_owned(), why: Why::Names(why) }
    }

    /// The name of the master.
    pub fn master(&self) -> &str {
        &self.master
    }

    /// Each sentinel that was asked in vain, and what it said or why it could not be asked.
    pub fn said(&self) -> impl Iterator<Item = (&str, &str)> {
        let said = match &self.why {
            Why::Unknown(said) => &said[..],
            _ => &[],
        };
        said.iter().map(|(sentinel, said)| (sentinel.as_str(), said.as_str()))
    }

    /// As an error of a lookup: where every sentinel that could be asked knows no such master, there is no
    /// such name.
    pub(super) fn into_io(self) -> io::Error {
        let is_unknown = match &self.why {
            Why::Unknown(said) => said.iter().any(|(_, said)| said == NO_SUCH_MASTER),
            _ => false,
        };
        let kind = if is_unknown { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
        io::Error::new(kind, self)
    }
}

impl fmt::Display for SentinelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.why {
            Why::Unknown(said) => {
                write!(f, "no sentinel says where the master {:?} is", self.master)?;
                for (index, (sentinel, said)) in said.iter().enumerate() {
                    let before = if index == 0 { ": " } else { "; " };
                    write!(f, "{before}sentinel {sentinel}: {}", Escaped(said))?;
                }
                Ok(())
            }
            Why::NoReplica => {
                write!(f, "the sentinels know no replica of {:?} that is up", self.master)
            }
            Why::Names(why) => {
                write!(
                    f,
                    "the sentinels say that {:?} is at a name nobody knows: {why}",
                    self.master
                )
            }
        }
    }
}

impl std::error::Error for SentinelError {}
