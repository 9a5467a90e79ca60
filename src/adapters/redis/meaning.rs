//! What an error means: for its connection, for all others, and for the next attempt.

use std::error::Error;
use std::io;

use ::redis::{ErrorKind, RedisError};

use super::secrecy;
use super::settings::Role;
use crate::protocol::Consequence;
use crate::sync::Arc;

/// Of an error that a caller was given.
pub(super) fn consequence(error: &RedisError, role: Role) -> Consequence {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => Consequence::Evict,
        _ => {
            // One of many commands may be the one that tells.
            let errors = error.clone().into_server_errors();
            let codes = errors.iter().flat_map(|errors| errors.iter());
            let all = codes.map(|(_, error)| of_code(error.code().as_bytes(), role));
            all.fold(Consequence::Keep, stronger)
        }
    }
}

/// The first word of an error says what kind it is.
pub(super) fn of_code(code: &[u8], role: Role) -> Consequence {
    match code {
        // Who asked for a replica is told nothing new by one.
        b"READONLY" | b"MASTERDOWN" if role == Role::Replica => Consequence::Evict,
        b"READONLY" | b"MASTERDOWN" => Consequence::Invalidate,
        b"LOADING" | b"NOAUTH" => Consequence::Evict,
        _ => Consequence::Keep,
    }
}

pub(super) fn stronger(a: Consequence, b: Consequence) -> Consequence {
    match (a, b) {
        (Consequence::Invalidate, _) | (_, Consequence::Invalidate) => Consequence::Invalidate,
        (Consequence::Evict, _) | (_, Consequence::Evict) => Consequence::Evict,
        _ => Consequence::Keep,
    }
}

/// Whether a handshake that failed so fails again until somebody changes something.
pub(super) fn is_permanent(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported => true,
        ErrorKind::Io => io_error(error).is_some_and(secrecy::is_permanent),
        _ => false,
    }
}

/// The I/O error inside, which the crate keeps in an `Arc`.
fn io_error(error: &RedisError) -> Option<&io::Error> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    (**shared).downcast_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> RedisError {
        let text = format!("-{code} why\r\n");
        match ::redis::parse_redis_value(text.as_bytes()).unwrap() {
            ::redis::Value::ServerError(error) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_word_of_an_error_says_what_follows() {
        for (code, follows) in [
            ("ERR", Consequence::Keep),
            ("WRONGTYPE", Consequence::Keep),
            ("NOSCRIPT", Consequence::Keep),
            ("EXECABORT", Consequence::Keep),
            ("LOADING", Consequence::Evict),
            ("NOAUTH", Consequence::Evict),
            ("READONLY", Consequence::Invalidate),
            ("MASTERDOWN", Consequence::Invalidate),
        ] {
            assert_eq!(consequence(&server(code), Role::Any), follows, "{code}");
        }
        assert_eq!(consequence(&server("READONLY"), Role::Replica), Consequence::Evict);
    }

    #[test]
    fn an_error_of_the_connection_evicts_and_is_found_in_its_wrapping() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(consequence(&error, Role::Any), Consequence::Evict);
        assert_eq!(io_error(&error).unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(!is_permanent(&error));
    }
}
