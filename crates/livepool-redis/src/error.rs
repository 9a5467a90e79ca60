//! [`SettingsError`]: settings that cannot be used, and what to change.

use std::fmt;

/// Settings that cannot be used, and what to change. It never repeats a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(String);

impl SettingsError {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }

    pub(super) fn insecure() -> Self {
        Self::new(
            "a certificate that is not checked protects nobody: leave #insecure out, and name the \
             authority to trust with with_tls()",
        )
    }
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "redis: {}", self.0)
    }
}

impl std::error::Error for SettingsError {}
