//! [`Parameters`]: what the server says of itself that tells its role. Pure.

use super::path;
use super::role::Role;

/// Room for the longest name that matters, and `off`.
const MOST: usize = 34;

/// A ParameterStatus or another short text, as far as it was read.
#[derive(Debug)]
pub(super) struct Parameter {
    text: [u8; MOST],
    len: usize,
    /// Of all of it.
    hash: u64,
}

/// Servers before PostgreSQL 14, and some that stand in between, do not say it.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    is_standby: Option<bool>,
    is_read_only: Option<bool>,
}

impl Parameter {
    pub(super) fn new() -> Self {
        Self { text: [0; MOST], len: 0, hash: path::EMPTY }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.hash = bytes.iter().fold(self.hash, |hash, byte| path::hashed(hash, *byte));
        let count = bytes.len().min(MOST - self.len);
        self.text[self.len..self.len + count].copy_from_slice(&bytes[..count]);
        self.len += count;
    }

    /// Up to its first zero.
    pub(super) fn word(&self) -> &[u8] {
        self.text[..self.len].split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// A number that stands for name and value.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

impl Parameters {
    pub(super) fn set(&mut self, parameter: &Parameter) {
        let mut parts = parameter.text[..parameter.len].split(|byte| *byte == 0);
        let (name, value) = (parts.next(), parts.next());
        let is_on = match value {
            Some(b"on") => Some(true),
            Some(b"off") => Some(false),
            _ => None,
        };
        match name {
            Some(b"in_hot_standby") => self.is_standby = is_on,
            Some(b"default_transaction_read_only") => self.is_read_only = is_on,
            _ => {}
        }
    }

    pub(super) fn role(&self) -> Option<Role> {
        let is_standby = self.is_standby?;
        Some(Role { is_standby, is_read_only: is_standby || self.is_read_only? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_known_when_both_have_been_said() {
        let mut parameters = Parameters::default();
        let mut say = |text: &[u8]| {
            let mut parameter = Parameter::new();
            text.iter().for_each(|byte| parameter.read(&[*byte]));
            parameters.set(&parameter);
            parameters.role()
        };
        let role = |is_standby, is_read_only| Some(Role { is_standby, is_read_only });
        assert_eq!(say(b"server_version\0a very long text that is no number at all\0"), None);
        assert_eq!(say(b"in_hot_standby\0off\0"), None);
        assert_eq!(say(b"default_transaction_read_only\0off\0"), role(false, false));
        assert_eq!(say(b"default_transaction_read_only\0on\0"), role(false, true));
        assert_eq!(say(b"in_hot_standby\0on\0"), role(true, true));
        assert_eq!(say(b"in_hot_standby\0whatever\0"), None);
    }
}
