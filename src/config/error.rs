//! [`ConfigError`]: everything that is wrong with a configuration, at once.

use std::error::Error;
use std::fmt;

/// The refusal of a configuration, with every problem, not only the first.
///
/// The text names each problem: the field, the value, the rule and what to change. The text is one
/// line, for a log; with `{:#}` each of several problems has a line of its own. A secret that was
/// given where an address belongs is not repeated.
///
/// ```
/// use livepool::Config;
///
/// let error = Config::new("db.internal").with_max_size(0).check().unwrap_err();
/// // The missing port, and the size: all of it at once.
/// assert_eq!(error.problems().len(), 2);
/// println!("{error}");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// A value that breaks a rule.
///
/// ```
/// use livepool::Config;
///
/// let error = Config::new("db.internal:5432").with_max_size(0).check().unwrap_err();
/// assert_eq!(error.problems()[0].field, "max_size");
/// assert_eq!(error.problems()[0].value, "0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The field's path as a configuration file would spell it, such as `socket.keepalive.idle` or
    /// `upstream[1]`.
    pub field: String,
    /// The value that was given. An address that is not valid is shown only if it cannot hold a
    /// password: a URL that was given in its place is not repeated.
    pub value: String,
    /// The rule: the values that are allowed, the reason, and what to change.
    pub rule: String,
}

impl ConfigError {
    /// Every problem, in the order of the fields. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.as_slice() {
            [only] => write!(f, "invalid configuration: {only}"),
            many => {
                write!(f, "invalid configuration, {} problems:", many.len())?;
                let lines = f.alternate();
                many.iter().enumerate().try_for_each(|(index, problem)| match (lines, index) {
                    (true, _) => write!(f, "\n{problem}"),
                    // Rules have semicolons of their own.
                    (false, 0) => write!(f, " (1) {problem}"),
                    (false, _) => write!(f, "; ({}) {problem}", index + 1),
                })
            }
        }
    }
}

impl Error for ConfigError {}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.field, self.value, self.rule)
    }
}

/// The problems found so far, while the fields are gone through.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn add(&mut self, field: &str, value: impl fmt::Display, rule: impl Into<String>) {
        self.0.push(Problem {
            field: field.to_owned(),
            value: value.to_string(),
            rule: rule.into(),
        });
    }

    /// Adds the problems of another check, or returns what that has made.
    pub(super) fn take<T>(&mut self, checked: Result<T, ConfigError>) -> Option<T> {
        checked.map_err(|error| self.0.extend(error.problems)).ok()
    }

    /// The value, or the error if a problem was found.
    pub(super) fn or<T>(self, value: T) -> Result<T, ConfigError> {
        if self.0.is_empty() { Ok(value) } else { Err(ConfigError { problems: self.0 }) }
    }
}
