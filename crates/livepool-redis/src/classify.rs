//! Judgement of errors: whether the connection is kept, whether the pool's others are, and whether
//! another attempt can succeed. Pure.

use std::error::Error;
use std::io;

use ::redis::{ErrorKind, RedisError};

use super::line::Word;
use super::settings::Role;
use super::transport;
use livepool::protocol::Verdict;
use std::sync::Arc;

/// The verdict on an error that a caller was given, and the server's code for it.
pub(super) fn classify(error: &RedisError, role: Role) -> (Verdict, Option<String>) {
    match error.kind() {
        // The stream of answers is broken, or the server did not let this connection in.
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => {
            (Verdict::Close, error.code().map(str::to_owned))
        }
        _ => {
            let mut worst = WorstError::new();
            // Any command of a pipeline may be the one whose error concerns the connection.
            for (_, error) in error.clone().into_server_errors().iter().flat_map(|all| all.iter()) {
                let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
                worst.record(Word::of(error_code(text.as_bytes())), role);
            }
            (worst.verdict, worst.code())
        }
    }
}

/// The worst of several errors, the first one of equals.
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

    /// The server's code of that error; `None` if no error was worse than harmless.
    pub(super) fn code(&self) -> Option<String> {
        // Without the "force" of `ROLE_CHANGED`, which is no code.
        let word = first_word(self.code.as_bytes());
        (!word.is_empty()).then(|| String::from_utf8_lossy(word).into_owned())
    }
}

/// The verdict on an error of this [`error_code`].
///
/// A server that is short of memory, disk, replicas or time (`OOM`, `MISCONF`, `NOREPLICAS`,
/// `BUSY`), or whose cluster is (`CLUSTERDOWN`), keeps its connections: another one would lead to
/// the same server, and this one may still read.
fn verdict_of(code: &[u8], role: Role) -> Verdict {
    match code {
        // A caller who asked for a replica learns nothing new from one that refuses a write.
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
pub(super) fn io_error(error: &RedisError) -> Option<&io::Error> {
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    (**shared).downcast_ref()
}

/// The code of an error: its first word, or the first word of the error that it wraps. The rest of
/// an error may repeat what a client sent (``ERR unknown command `READONLY` ``) and is not
/// searched.
///
/// `text` may end within the error.
pub(super) fn error_code(text: &[u8]) -> &[u8] {
    // EXEC of Redis since 6.2, in multi.c.
    if let Some(cause) = text.strip_prefix(b"EXECABORT Transaction discarded because of: ") {
        return first_word(cause);
    }
    // Scripts before Redis 7: "ERR Error running script (call to f_1b93...): @user_script:1:
    // @user_script: 1: -READONLY You can't write against a read only replica." What a script says of
    // its own accord stands behind "user_script:1: ", without the @.
    if let Some(call) = text.strip_prefix(b"ERR Error running script (call to ")
        && let Some(end) = call.windows(3).position(|three| three == b"): ")
        && let Some(cause) = skip_script_positions(&call[end + 3..]).strip_prefix(b"-")
    {
        return first_word(cause);
    }
    // CLIENT UNBLOCK ends a wait as well, without "force": that says nothing about the server.
    if text.starts_with(ROLE_CHANGED) {
        return ROLE_CHANGED;
    }
    first_word(text)
}

/// The error with which a server that became a replica ends the commands that wait.
pub(super) const ROLE_CHANGED: &[u8] = b"UNBLOCKED force";

pub(super) fn first_word(text: &[u8]) -> &[u8] {
    let end = text.iter().position(u8::is_ascii_whitespace);
    &text[..end.unwrap_or(text.len())]
}

/// The text behind the positions of a script through which an error passed, `@user_script:1: `
/// each.
fn skip_script_positions(mut text: &[u8]) -> &[u8] {
    while let Some(place) = text.strip_prefix(b"@user_script:") {
        let line = place.strip_prefix(b" ").unwrap_or(place);
        let digits = line.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let Some(rest) = line[digits..].strip_prefix(b": ").filter(|_| digits > 0) else { break };
        text = rest;
    }
    text
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

    #[test]
    fn a_word_counts_where_a_server_puts_it_and_nowhere_else() {
        for (said, expected) in [
            ("", ""),
            ("ERR", "ERR"),
            ("READONLY You can't write against a read only replica.", "READONLY"),
            ("EXECABORT Transaction discarded because of previous errors.", "EXECABORT"),
            ("EXECABORT Transaction discarded because of: READONLY You can't", "READONLY"),
            ("EXECABORT Transaction discarded because of: OOM READONLY", "OOM"),
            ("UNBLOCKED force unblock from blocking operation, instance", "UNBLOCKED force"),
            ("UNBLOCKED client unblocked via CLIENT UNBLOCK", "UNBLOCKED"),
            // What a client sent, or a script says for itself.
            ("ERR unknown command `READONLY`, with args beginning with: `-READONLY`", "ERR"),
            ("ERR Error: @user_script: 1: -READONLY", "ERR"),
        ] {
            assert_eq!(error_code(said.as_bytes()), expected.as_bytes(), "{said}");
        }
        for (said, expected) in [
            ("@user_script:1: @user_script: 1: -READONLY You can't write", "READONLY"),
            ("@user_script: 12: -READONLY You can't write", "READONLY"),
            ("@user_script:1: @user_script: 1: -LOADING Redis is", "LOADING"),
            ("@user_script:1: user_script:1: -READONLY", "ERR"),
            ("@user_script:1: @user_script: 1: no key a: -READONLY b", "ERR"),
            ("@user_script:x: -READONLY", "ERR"),
            ("@user_script:1: READONLY", "ERR"),
        ] {
            let call = "call to f_1b936e3fe509bcbc9cd0664897bbe8fd0cac101b";
            let said = format!("ERR Error running script ({call}): {said}");
            assert_eq!(error_code(said.as_bytes()), expected.as_bytes(), "{said}");
        }
    }
}
