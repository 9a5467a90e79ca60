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
            let errors = errors.iter().flat_map(|errors| errors.iter());
            let all = errors.map(|(_, error)| {
                let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
                of_code(code(text.as_bytes()), role)
            });
            all.fold(Consequence::Keep, stronger)
        }
    }
}

/// The word of an error that says what kind it is: the first one, or the first one of the error that
/// it wraps. Nowhere else does a word count, since the rest of an error repeats what a client sent:
/// ``ERR unknown command `READONLY` ``.
///
/// `text` may end within the error.
pub(super) fn code(text: &[u8]) -> &[u8] {
    // EXEC of Redis since 6.2, in multi.c.
    if let Some(cause) = text.strip_prefix(b"EXECABORT Transaction discarded because of: ") {
        return first_word(cause);
    }
    // Scripts before Redis 7: "ERR Error running script (call to f_1b93...): @user_script:1:
    // @user_script: 1: -READONLY You can't write against a read only replica." What a script says of
    // its own accord stands behind "user_script:1: ", without the @.
    if let Some(call) = text.strip_prefix(b"ERR Error running script (call to ")
        && let Some(end) = call.windows(3).position(|three| three == b"): ")
        && let Some(cause) = behind_places(&call[end + 3..]).strip_prefix(b"-")
    {
        return first_word(cause);
    }
    // Said to clients that wait in a command, which are also told so by CLIENT UNBLOCK.
    if text.starts_with(TURNED) {
        return TURNED;
    }
    first_word(text)
}

/// How a server that follows another from now on ends the commands that wait.
const TURNED: &[u8] = b"UNBLOCKED force";

pub(super) fn first_word(text: &[u8]) -> &[u8] {
    let end = text.iter().position(u8::is_ascii_whitespace);
    &text[..end.unwrap_or(text.len())]
}

/// What follows the places in a script at which an error passed: `@user_script:1: ` each.
fn behind_places(mut text: &[u8]) -> &[u8] {
    while let Some(place) = text.strip_prefix(b"@user_script:") {
        let line = place.strip_prefix(b" ").unwrap_or(place);
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some(rest) = line[digits..].strip_prefix(b": ").filter(|_| digits > 0) else { break };
        text = rest;
    }
    text
}

/// What follows from an error of this [code].
///
/// That the server is short of memory, disk, replicas or time (`OOM`, `MISCONF`, `NOREPLICAS`,
/// `BUSY`), or that its cluster is (`CLUSTERDOWN`), concerns some commands: another connection would
/// lead to the same server, and the one there is may still read.
pub(super) fn of_code(code: &[u8], role: Role) -> Consequence {
    match code {
        // Who asked for a replica is told nothing new by one.
        b"READONLY" | b"MASTERDOWN" | TURNED if role == Role::Replica => Consequence::Evict,
        b"READONLY" | b"MASTERDOWN" | TURNED => Consequence::Invalidate,
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

    fn server(said: &str) -> RedisError {
        let text = format!("-{said}\r\n");
        match ::redis::parse_redis_value(text.as_bytes()).unwrap() {
            ::redis::Value::ServerError(error) => error.into(),
            other => panic!("{other:?}"),
        }
    }

    const SCRIPT: &str =
        "ERR Error running script (call to f_1b936e3fe509bcbc9cd0664897bbe8fd0cac101b): ";

    #[test]
    fn a_word_counts_where_a_server_puts_it_and_nowhere_else() {
        use Consequence::{Evict, Invalidate, Keep};
        for (said, follows) in [
            ("ERR why", Keep),
            ("WRONGTYPE why", Keep),
            ("NOSCRIPT why", Keep),
            ("LOADING why", Evict),
            ("NOAUTH", Evict),
            ("READONLY You can't write against a read only replica.", Invalidate),
            ("MASTERDOWN why", Invalidate),
            ("EXECABORT Transaction discarded because of previous errors.", Keep),
            ("EXECABORT Transaction discarded because of: READONLY You can't", Invalidate),
            ("EXECABORT Transaction discarded because of: LOADING Redis is", Evict),
            ("EXECABORT Transaction discarded because of: OOM READONLY", Keep),
            ("UNBLOCKED force unblock from blocking operation, instance state changed", Invalidate),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Keep),
            // What a client sent, or a script says for itself.
            ("ERR unknown command `READONLY`, with args beginning with: `-READONLY`", Keep),
            ("ERR Error: @user_script: 1: -READONLY", Keep),
            ("MISCONF why", Keep),
            ("CLUSTERDOWN Hash slot not served", Keep),
        ] {
            assert_eq!(consequence(&server(said), Role::Any), follows, "{said}");
        }
        for (said, follows) in [
            ("@user_script:1: @user_script: 1: -READONLY You can't write", Invalidate),
            ("@user_script: 12: -READONLY You can't write", Invalidate),
            ("@user_script:1: @user_script: 1: -LOADING Redis is", Evict),
            ("@user_script:1: @user_script: 1: -OOM command not allowed", Keep),
            ("@user_script:1: user_script:1: -READONLY", Keep),
            ("@user_script:1: @user_script: 1: no key a: -READONLY b", Keep),
            ("@user_script:x: -READONLY", Keep),
            ("@user_script:1: READONLY", Keep),
        ] {
            let said = format!("{SCRIPT}{said}");
            assert_eq!(consequence(&server(&said), Role::Any), follows, "{said}");
        }
        assert_eq!(consequence(&server("READONLY why"), Role::Replica), Evict);
    }

    #[test]
    fn an_error_of_the_connection_evicts_and_is_found_in_its_wrapping() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(consequence(&error, Role::Any), Consequence::Evict);
        assert_eq!(io_error(&error).unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(!is_permanent(&error));
    }
}
