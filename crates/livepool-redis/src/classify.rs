//! What an error means: for its connection, for all others, and for the next attempt.

use std::error::Error;
use std::io;

use ::redis::{ErrorKind, RedisError};

use super::error_code::{ROLE_CHANGED, error_code, first_word};
use super::line::Word;
use super::settings::Role;
use super::transport;
use livepool::protocol::Verdict;
use std::sync::Arc;

/// What follows from an error that a caller was given, and the server's word for it.
pub(super) fn classify(error: &RedisError, role: Role) -> (Verdict, Option<String>) {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => {
            (Verdict::Close, error.code().map(str::to_owned))
        }
        _ => {
            let mut worst = WorstError::new();
            // One of many commands may be the one that tells.
            for (_, error) in error.clone().into_server_errors().iter().flat_map(|all| all.iter()) {
                let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
                worst.record(Word::of(error_code(text.as_bytes())), role);
            }
            (worst.verdict, worst.code())
        }
    }
}

/// What follows from several errors: from the worst of them, and the first of its kind.
#[derive(Debug)]
pub(super) struct WorstError {
    pub(super) verdict: Verdict,
    code: Word,
}

impl WorstError {
    pub(super) fn new() -> Self {
        Self { verdict: Verdict::Keep, code: Word::default() }
    }

    pub(super) fn record(&mut self, code: Word, role: Role) {
        let verdict = verdict_of(code.as_bytes(), role);
        let is_worse = match verdict {
            Verdict::InvalidatePool => self.verdict != Verdict::InvalidatePool,
            Verdict::Close => self.verdict == Verdict::Keep,
            _ => false,
        };
        if is_worse {
            *self = Self { verdict, code };
        }
    }

    /// The server's word for it.
    pub(super) fn code(&self) -> Option<String> {
        let word = first_word(self.code.as_bytes());
        (!word.is_empty()).then(|| String::from_utf8_lossy(word).into_owned())
    }
}

/// What follows from an error of this [`error_code`].
///
/// That the server is short of memory, disk, replicas or time (`OOM`, `MISCONF`, `NOREPLICAS`,
/// `BUSY`), or that its cluster is (`CLUSTERDOWN`), concerns some commands: another connection would
/// lead to the same server, and the one there is may still read.
fn verdict_of(code: &[u8], role: Role) -> Verdict {
    match code {
        // Who asked for a replica is told nothing new by one.
        b"READONLY" | b"MASTERDOWN" | ROLE_CHANGED if role == Role::Replica => Verdict::Close,
        b"READONLY" | b"MASTERDOWN" | ROLE_CHANGED => Verdict::InvalidatePool,
        b"LOADING" | b"NOAUTH" => Verdict::Close,
        _ => Verdict::Keep,
    }
}

/// Whether a handshake that failed so fails again until somebody changes something.
pub(super) fn is_permanent(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported => true,
        ErrorKind::Io => io_error(error).is_some_and(transport::is_permanent),
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

    #[test]
    fn what_follows_is_said_by_the_code() {
        use Verdict::{Close, InvalidatePool, Keep};
        for (said, follows) in [
            ("ERR why", Keep),
            ("NOSCRIPT why", Keep),
            ("MISCONF why", Keep),
            ("CLUSTERDOWN Hash slot not served", Keep),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", Keep),
            ("EXECABORT Transaction discarded because of previous errors.", Keep),
            ("LOADING why", Close),
            ("NOAUTH", Close),
            ("READONLY You can't write against a read only replica.", InvalidatePool),
            ("MASTERDOWN why", InvalidatePool),
            (
                "UNBLOCKED force unblock from blocking operation, instance state changed",
                InvalidatePool,
            ),
            ("EXECABORT Transaction discarded because of: READONLY You can't", InvalidatePool),
            ("EXECABORT Transaction discarded because of: LOADING Redis is", Close),
            ("ERR unknown command `READONLY`, with args beginning with: ", Keep),
        ] {
            assert_eq!(classify(&server(said), Role::Any).0, follows, "{said}");
        }
        let of_replica = classify(&server("READONLY why"), Role::Replica);
        assert_eq!(of_replica, (Close, Some("READONLY".to_owned())));
    }

    #[test]
    fn the_worst_of_many_says_what_follows_and_is_named() {
        let mut worst = WorstError::new();
        assert_eq!(worst.code(), None);
        for (said, code) in [
            (&b"ERR"[..], None),
            (b"LOADING", Some("LOADING")),
            (ROLE_CHANGED, Some("UNBLOCKED")),
            (b"NOAUTH", Some("UNBLOCKED")),
            (b"READONLY", Some("UNBLOCKED")),
        ] {
            worst.record(Word::of(said), Role::Any);
            assert_eq!(worst.code().as_deref(), code);
        }
    }

    #[test]
    fn an_error_of_the_connection_evicts_and_is_found_in_its_wrapping() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::TimedOut));
        assert_eq!(classify(&error, Role::Any), (Verdict::Close, None));
        assert_eq!(io_error(&error).unwrap().kind(), io::ErrorKind::TimedOut);
        assert!(!is_permanent(&error));
    }
}
