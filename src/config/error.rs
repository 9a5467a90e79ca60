//! [`ConfigError`]: everything that is wrong with a configuration, at once.

use std::error::Error;
use std::fmt;

/// A configuration was refused. Holds every problem, not only the first.
///
/// Its text names each problem: the field, the value, the rule and what to change. It is one line, for a
/// log; with `{:#}` each of several problems has a line of its own. It repeats no
/// secret that was given where an address belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// Where: the field's path as a configuration file would spell it, such as
    /// `socket.keepalive.idle` or `upstream[1]`.
    pub field: String,
    /// What was given. Of an address that is none only as much as cannot hold a password: a URL that
    /// was given in its place is not repeated.
    pub value: String,
    /// What is allowed instead, why, and what to change.
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

/// Collects problems while the fields are gone through.
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

    /// The value, if nothing was found.
    pub(super) fn or<T>(self, value: T) -> Result<T, ConfigError> {
        if self.0.is_empty() { Ok(value) } else { Err(ConfigError { problems: self.0 }) }
    }
}
