//! Properties of what is read along with a client of Redis, and of its URLs.

use super::scanner::RedisScanner;
use super::{Redis, unread};
use livepool::fuzzed::{Property, cut, pieces, says_something, ways};
use livepool::protocol::Verdict;

/// All of this crate.
pub fn all() -> Vec<Property> {
    vec![
        Property {
            name: "redis-session",
            holds: a_session_is_the_same_in_pieces_of_any_size,
            // 0x80 marks the server; an empty piece ends the handshake.
            seeds: &[
                b"\x16*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n\x85+OK\r\n\0\x0e*1\r\n$4\r\nPING\r\n\x87+PONG\r\n",
                b"\0\x0f*1\r\n$5\r\nMULTI\r\n\x85+OK\r\n\x14*2\r\n$3\r\nGET\r\n$1\r\na\r\n\x89+QUEUED\r\n\
                  \x0e*1\r\n$4\r\nEXEC\r\n\x8b*1\r\n$1\r\nb\r\n",
                b"\0\x06PING\r\n\x19*3\r\n$5\r\nBLPOP\r\n$1\r\na\r\n$1\r\n0\r\n\x87+PONG\r\n\x85*-1\r\n",
                b"\0\x1a*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n\x9f>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n\
                  \x0f*1\r\n$5\r\nRESET\r\n\x88+RESET\r\n",
                b"\0\x06PING\r\n\xa0%1\r\n+k\r\n|1\r\n+a\r\n:1\r\n$?\r\n;2\r\nab\r\n;0\r\n-ERR no\r\n",
            ],
        },
        Property {
            name: "redis-unread",
            holds: what_waits_is_judged_as_the_scanner_would,
            seeds: &[
                b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n",
                b">1\r\n+a\r\n>1\r\n+b\r\n",
                b"-ERR closing\r\n",
                b"*2\r\n:1\r\n",
                b"|1\r\n+a\r\n:1\r\n+OK\r\n",
            ],
        },
        Property {
            name: "redis-url",
            holds: a_url_names_a_server_or_says_what_is_wrong,
            seeds: &[
                b"redis://user:secret@cache.internal:6379/3?protocol=resp3",
                b"rediss://[::1]:7000#insecure",
                b"redis+unix:///run/redis.sock?db=2&user=a&pass=b",
                b"valkeys://:it%23s@h",
                b"localhost:6379",
            ],
        },
    ]
}

fn known(scanner: &mut RedisScanner) -> (bool, String) {
    let errors = std::iter::from_fn(|| scanner.take_error());
    let errors: Vec<_> = errors.map(|word| word.as_bytes().escape_ascii().to_string()).collect();
    let flags = [
        scanner.is_blocking_owed(),
        scanner.is_subscribed(),
        scanner.is_streaming(),
        scanner.in_transaction(),
        scanner.is_watching(),
        scanner.is_database_changed(),
        scanner.is_identity_changed(),
    ];
    (scanner.is_lost(), format!("{} {flags:?} {errors:?}", scanner.owed()))
}

/// However the bytes of either side are cut, the same is known after each piece; and a connection that
/// is lost stays so.
fn a_session_is_the_same_in_pieces_of_any_size(input: &[u8]) {
    let pieces = pieces(input);
    let mut sessions = ways(input).map(|size| (RedisScanner::new(), size));
    let mut was_lost = false;
    for (is_server, piece) in pieces {
        let known = sessions.each_mut().map(|(scanner, size)| {
            if piece.is_empty() {
                scanner.handshake_done();
            }
            cut(piece, size, |part| match is_server {
                true => scanner.received(part),
                false => scanner.sent(part),
            });
            known(scanner)
        });
        if known.iter().any(|(is_lost, _)| *is_lost) {
            assert!(known.iter().all(|(is_lost, _)| *is_lost), "{known:?}");
            was_lost = true;
        } else {
            assert!(!was_lost, "lost and found");
            assert!(known[0] == known[1] && known[0] == known[2], "{known:?}");
        }
    }
}

/// Bytes that may wait do no harm to a connection that owes nothing; and a beginning that may not wait
/// is not made good by what follows.
fn what_waits_is_judged_as_the_scanner_would(input: &[u8]) {
    let verdict = unread(input);
    let mut scanner = RedisScanner::new();
    scanner.handshake_done();
    scanner.received(input);
    if verdict == Verdict::Keep {
        assert!(!scanner.is_lost() && scanner.owed() == 0, "it may wait, and is not understood");
    }
    // An attribute alone is taken for the beginning of an answer, and may turn out to be a push's.
    let end = if input.contains(&b'|') { 0 } else { input.len() };
    for end in 0..end {
        let so_far = unread(&input[..end]);
        assert!(so_far == Verdict::Keep || so_far == verdict, "{so_far:?}, then {verdict:?}");
    }
}

fn a_url_names_a_server_or_says_what_is_wrong(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Redis::from_url(text) {
        Ok(redis) => {
            if let Err(error) = redis.config().check() {
                says_something(&error);
            }
        }
        Err(error) => says_something(&error),
    }
}

/// Where the first key of a command is, if it has one: for a test that asks the server.
pub fn first_key(words: &[&[u8]]) -> Option<usize> {
    super::cluster::first_key(words)
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_parses_bytes_holds_its_properties_for_some_thousand_inputs() {
        livepool::fuzzed::check(&super::all());
    }
}
