//! [`SetupError`]: why no pool can be made of a URL.

use std::error::Error;
use std::fmt;

use crate::config::ConfigError;

/// The refusal of a URL, or of settings, that no pool can be made of. One type for all adapters.
///
/// The text says what is wrong, which setting or part of the URL, and what to change. It repeats no text that
/// was given: that may be a secret, and its owner has it at hand. Where a rule is broken
/// ([`Config`](Self::Config)) it has the number or the duration, and of an address what is no user and no
/// password. The text carries the cause, so that there is no
/// [`source`](Error::source).
///
/// ```
/// use livepool::SetupError;
///
/// fn advice(error: &SetupError) -> String {
///     match error {
///         SetupError::Setting { name, .. } => format!("look at {name}"),
///         SetupError::Url(_) => "look at the URL".to_owned(),
///         other => other.to_string(),
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// The URL, or what stands in its place; the text says what to change.
    Url(String),
    /// A setting of the pool that stands in the URL, or beside it.
    Setting {
        /// Its name as it is written there: `pool_max_size`, `pool.timeouts.checkout`. The first part only
        /// where the rest is unknown.
        name: String,
        /// The rule: which values there are.
        rule: String,
    },
    /// The pool's configuration breaks rules.
    Config(ConfigError),
    /// What the protocol was given beside the URL: certificates, say.
    Protocol(String),
}

impl SetupError {
    /// The URL cannot be used, for this reason. What stands in it must not be repeated.
    pub fn url(why: impl Into<String>) -> Self {
        Self::Url(why.into())
    }

    /// What the protocol was given beside the URL cannot be used, for this reason.
    pub fn protocol(why: impl Into<String>) -> Self {
        Self::Protocol(why.into())
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(why) => write!(f, "the connection URL cannot be used: {why}"),
            Self::Setting { name, rule } => write!(f, "the setting {name} cannot be used: {rule}"),
            Self::Config(error) => error.fmt(f),
            Self::Protocol(why) => write!(f, "no connection can be set up: {why}"),
        }
    }
}

impl Error for SetupError {}

impl From<ConfigError> for SetupError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}
