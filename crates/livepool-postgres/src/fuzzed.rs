//! Properties of what is read along with a client of PostgreSQL, and of its URLs.

use super::Postgres;
use super::scanner::{PgScanner, TransactionStatus};
use super::statement_text::StatementText;
use super::wire_format::{ErrorFields, RoleParameters, ShortText, unread};
use livepool::fuzzed::{Property, cut, pieces, says_something, ways};
use livepool::protocol::Verdict;

/// A client's startup, the server's welcome, and a query in each protocol. 0x80 marks the server.
const SESSION: &[u8] = b"\x10\0\0\0\x10\0\x03\0\0user\0me\0\
    \xa4R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02\0\0\0\
    \x86Z\0\0\0\x05I\x0eQ\0\0\0\x0dselect 1\0\
    \x93C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05T";

/// All of this crate.
pub fn all() -> Vec<Property> {
    vec![
        Property {
            name: "postgres-session",
            holds: a_session_is_the_same_in_pieces_of_any_size,
            seeds: &[
                SESSION,
                b"\x08\0\0\0\x08\x04\xd2\x16\x2f\x81N\x10\0\0\0\x10\0\x03\0\0user\0me\0\x86Z\0\0\0\x05I",
                b"\x10\0\0\0\x10\0\x03\0\0user\0me\0\x86Z\0\0\0\x05I\
                  \x19P\0\0\0\x0a\0copy\0\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04\
                  \x88G\0\0\0\x07\0\0\0\x0ed\0\0\0\x08datac\0\0\0\x04\
                  \x90C\0\0\0\x09COPY\0Z\0\0\0\x05I",
                b"\x10\0\0\0\x10\0\x03\0\0user\0me\0\x86Z\0\0\0\x05I\x0eQ\0\0\0\x0dlisten a\0\
                  \xa1E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0Z\0\0\0\x05E",
                b"\x10\0\0\0\x10\0\x03\0\0user\0me\0\x86Z\0\0\0\x05I\
                  \xa5S\0\0\0\x17in_hot_standby\0on\0A\0\0\0\x0c\0\0\0\x01a\0b\0\0",
            ],
        },
        Property {
            name: "postgres-unread",
            holds: what_waits_is_judged_as_the_scanner_would,
            seeds: &[
                b"A\0\0\0\x0c\0\0\0\x01a\0b\0",
                b"S\0\0\0\x08a\0b\0N\0\0\0\x05\0",
                b"E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0",
                b"Z\0\0\0\x05I",
                b"N\0\0\0\x03",
            ],
        },
        Property {
            name: "postgres-texts",
            holds: short_texts_are_the_same_in_pieces_of_any_size,
            seeds: &[
                b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0",
                b"in_hot_standby\0off\0",
                b"default_transaction_read_only\0on\0",
                b"\0 listen jobs\0\0\0",
                b"unlisten *;\0",
                b" DISCARD\tALL \0",
            ],
        },
        Property {
            name: "postgres-url",
            holds: a_url_names_servers_or_says_what_is_wrong,
            seeds: &[
                b"postgres://user:secret@host1:5432,host2/database?connect_timeout=10",
                b"postgresql:///db?host=/run/postgresql&port=6543",
                b"host=a,b hostaddr=10.0.0.1,::1 port=1,2 user=me password='it''s'",
                b"postgres://[::1]:5432/db?sslmode=require&channel_binding=require",
                b"host=a target_session_attrs=read-write options='-c a=b'",
                b"postgres://u%40:p?/@h:1/d?sslmode=verify-full&application%5Fname=a%26&keepalives=0",
                b"host = 'a\\' b' sslmode=verify-ca fallback_application_name=x keepalives_idle=9",
            ],
        },
    ]
}

/// What a scanner knows.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    owed: usize,
    status: TransactionStatus,
    awaits_client: bool,
    is_listening: bool,
    is_lost: bool,
    role: String,
    errors: Vec<super::wire_format::PgError>,
}

fn known(scanner: &mut PgScanner) -> Known {
    Known {
        owed: scanner.owed(),
        status: scanner.transaction(),
        awaits_client: scanner.awaits_client(),
        is_listening: scanner.is_listening(),
        is_lost: scanner.is_lost(),
        role: format!("{:?}", scanner.role()),
        errors: std::iter::from_fn(|| scanner.take_error()).collect(),
    }
}

/// However the bytes of either side are cut, the same is known after each piece; and a connection that
/// is lost stays so.
fn a_session_is_the_same_in_pieces_of_any_size(input: &[u8]) {
    let pieces = pieces(input);
    let mut sessions = ways(input).map(|size| (PgScanner::new(), size));
    let mut was_lost = false;
    for (is_server, piece) in pieces {
        let known = sessions.each_mut().map(|(scanner, size)| {
            cut(piece, size, |part| match is_server {
                true => scanner.received(part),
                false => scanner.sent(part),
            });
            known(scanner)
        });
        // Whoever is lost says nothing that matters.
        if known.iter().any(|known| known.is_lost) {
            assert!(known.iter().all(|known| known.is_lost), "{known:?}");
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
    let mut scanner = PgScanner::new();
    scanner.sent(b"\0\0\0\x10\0\x03\0\0user\0me\0");
    scanner.received(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
    scanner.received(input);
    if verdict == Verdict::Keep {
        assert!(!scanner.is_lost() && scanner.owed() == 0, "it may wait, and is not understood");
    }
    for end in 0..input.len() {
        let so_far = unread(&input[..end]);
        assert!(so_far == Verdict::Keep || so_far == verdict, "{so_far:?}, then {verdict:?}");
    }
}

fn short_texts_are_the_same_in_pieces_of_any_size(input: &[u8]) {
    let known = ways(input).map(|mut size| {
        let mut fields = ErrorFields::default();
        let (mut query, mut parse) = (StatementText::of_query(), StatementText::of_parse());
        let mut parameter = ShortText::new();
        cut(input, &mut size, |part| {
            fields.read(part);
            query.read(part);
            parse.read(part);
            parameter.read(part);
        });
        let mut parameters = RoleParameters::default();
        parameters.set(&parameter);
        let role = format!("{:?}", parameters.role());
        let said = [&query, &parse]
            .map(|text| (text.listen_effect(), text.path(), text.name(), text.hash()));
        (fields.error(), fields.is_stale_plan(), said, role, parameter.hash())
    });
    assert!(known[0] == known[1] && known[0] == known[2], "{known:?}");
}

fn a_url_names_servers_or_says_what_is_wrong(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Postgres::from_url(text)
        .and_then(|postgres| postgres.clone().builder().map(|_| postgres.config()))
    {
        Ok(config) => {
            assert!(!config.upstream.is_empty(), "{text:?}");
            if let Err(error) = config.check() {
                says_something(&error);
            }
        }
        Err(error) => says_something(&error),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_parses_bytes_holds_its_properties_for_some_thousand_inputs() {
        livepool::fuzzed::check(&super::all());
    }
}
