//! Whole sessions, in pieces of every kind.

use super::{PgError, PgScanner, TransactionStatus, unread};
use livepool::fuzzed::splits;
use livepool::protocol::Verdict;

/// Who says what.
#[derive(Clone, Copy)]
enum Sent<'a> {
    Client(&'a [u8]),
    Server(&'a [u8]),
}
use Sent::{Client, Server};
use TransactionStatus::{Failed, Idle, InTransaction, Unknown};

/// What a scanner knows.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    owed: usize,
    status: TransactionStatus,
    awaits_client: bool,
    is_listening: bool,
    is_unsure: bool,
    is_lost: bool,
}

/// Nothing owed, everything in order.
const CLEAN: Known = Known {
    owed: 0,
    status: Idle,
    awaits_client: false,
    is_listening: false,
    is_unsure: false,
    is_lost: false,
};

fn known(scanner: &PgScanner) -> Known {
    Known {
        owed: scanner.owed(),
        status: scanner.transaction(),
        awaits_client: scanner.awaits_client(),
        is_listening: scanner.is_listening(),
        is_unsure: scanner.is_unsure(),
        is_lost: scanner.is_lost(),
    }
}

const STARTUP: &[u8] = b"\0\0\0\x10\0\x03\0\0user\0me\0";
const WELCOME: &[u8] = b"R\0\0\0\x08\0\0\0\0S\0\0\0\x08a\0b\0K\0\0\0\x0c\0\0\0\x01\0\0\0\x02";
const IDLE: &[u8] = b"Z\0\0\0\x05I";
const IN_TRANSACTION: &[u8] = b"Z\0\0\0\x05T";
const FAILED: &[u8] = b"Z\0\0\0\x05E";
const SYNC: &[u8] = b"S\0\0\0\x04";
const EXECUTE: &[u8] = b"E\0\0\0\x09\0\0\0\0\0";
const BIND: &[u8] = b"B\0\0\0\x0c\0\0\0\0\0\0\0\0";
const DATA: &[u8] = b"d\0\0\0\x08S\0\0\0";
const DONE: &[u8] = b"c\0\0\0\x04";
const WANTED: &[u8] = b"G\0\0\0\x07\0\0\0";
const COMPLETE: &[u8] = b"C\0\0\0\x09COPY\0";
const ERROR: &[u8] = b"E\0\0\0\x1aSERROR\0VERROR\0C42601\0\0";
const FATAL: &[u8] = b"E\0\0\0\x1aSFATAL\0VFATAL\0C57P01\0\0";

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("short");
    [&[tag], &len.to_be_bytes()[..], body].concat()
}

fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

/// Plays a session, cut in every way, after a startup. What is known at the end is always the same.
fn play(session: &[Sent<'_>]) -> (Known, Vec<PgError>) {
    let mut results = splits(10_000).map(|sizes| {
        let mut scanner = PgScanner::new();
        scanner.sent(STARTUP);
        scanner.received(WELCOME);
        scanner.received(IDLE);
        assert_eq!(known(&scanner), CLEAN);
        let mut sizes = sizes.into_iter().cycle();
        for said in session {
            let mut bytes = match said {
                Client(bytes) | Server(bytes) => *bytes,
            };
            while !bytes.is_empty() {
                let size = sizes.next().unwrap_or(1).min(bytes.len());
                let (piece, rest) = bytes.split_at(size);
                match said {
                    Client(_) => scanner.sent(piece),
                    Server(_) => scanner.received(piece),
                }
                bytes = rest;
            }
        }
        (known(&scanner), std::iter::from_fn(|| scanner.take_error()).collect::<Vec<_>>())
    });
    let first = results.next().expect("there are many ways");
    assert!(results.all(|result| result == first), "all ways are the same: {first:?}");
    first
}

fn after(session: &[Sent<'_>]) -> Known {
    play(session).0
}

#[test]
fn a_startup_is_owed_its_readiness_and_encryption_its_byte() {
    let mut scanner = PgScanner::new();
    assert_eq!(known(&scanner), Known { status: Unknown, ..CLEAN });
    scanner.sent(b"\0\0\0\x08\x04\xd2\x16\x2f");
    assert_eq!(scanner.owed(), 1);
    scanner.received(b"N");
    assert_eq!(scanner.owed(), 0);
    scanner.sent(STARTUP);
    assert_eq!(scanner.owed(), 1);
    scanner.received(WELCOME);
    scanner.sent(&message(b'p', b"secret\0"));
    assert_eq!(scanner.owed(), 1);
    scanner.received(IDLE);
    assert_eq!(known(&scanner), CLEAN);
}

#[test]
fn what_is_no_startup_is_not_followed() {
    let starts: [&[u8]; 4] = [
        b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\0\0\0\0\0",
        b"\0\0\0\x08\0\x02\0\0",
        b"\0\0\0\x06\0\x02",
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc",
    ];
    for start in starts {
        let mut scanner = PgScanner::new();
        scanner.sent(start);
        assert!(scanner.is_lost(), "{}", start.escape_ascii());
    }
}

#[test]
fn every_query_is_owed_one_readiness_however_many_are_in_flight() {
    let select = query("SELECT 1");
    let sent = [Client(&select), Client(&select), Client(SYNC)];
    assert_eq!(after(&sent), Known { owed: 3, ..CLEAN });
    let paid = [Server(ERROR), Server(IDLE), Server(IN_TRANSACTION)];
    let status = InTransaction;
    assert_eq!(after(&[&sent[..], &paid].concat()), Known { owed: 1, status, ..CLEAN });
    let paid = [&sent[..], &paid, &[Server(FAILED)]].concat();
    assert_eq!(after(&paid), Known { status: Failed, ..CLEAN });
}

#[test]
fn work_without_a_sync_is_outstanding_whatever_the_server_says() {
    let owes = Known { owed: 1, ..CLEAN };
    assert_eq!(after(&[Client(BIND), Client(EXECUTE)]), owes);
    assert_eq!(after(&[Client(BIND), Client(EXECUTE), Server(b"2\0\0\0\x04")]), owes);
    assert_eq!(after(&[Client(BIND), Client(EXECUTE), Server(ERROR)]), owes);
    assert_eq!(after(&[Client(BIND), Client(SYNC)]), owes);
    assert_eq!(after(&[Client(BIND), Client(SYNC), Client(BIND)]), Known { owed: 2, ..CLEAN });
    assert_eq!(after(&[Client(BIND), Client(SYNC), Server(ERROR), Server(IDLE)]), CLEAN);
}

#[test]
fn a_message_half_sent_is_outstanding() {
    let owes = Known { owed: 1, ..CLEAN };
    assert_eq!(after(&[Client(b"H")]), owes);
    assert_eq!(after(&[Client(b"H\0\0\0\x06a")]), owes);
    assert_eq!(after(&[Client(b"H\0\0\0\x06ab")]), CLEAN);
}

#[test]
fn messages_that_come_at_any_time_pay_nothing() {
    let asides: &[u8] = b"N\0\0\0\x05\0S\0\0\0\x08a\0b\0";
    assert_eq!(after(&[Server(asides)]), CLEAN);
    assert_eq!(unread(asides), Verdict::Keep);
    let select = query("SELECT 1");
    assert_eq!(after(&[Client(&select), Server(asides)]), Known { owed: 1, ..CLEAN });
}

#[test]
fn who_is_notified_has_subscribed_however_that_was_done() {
    let notification: &[u8] = b"A\0\0\0\x0a\0\0\0\0a\0";
    assert_eq!(after(&[Server(notification)]), Known { is_listening: true, ..CLEAN });
    assert_eq!(unread(notification), Verdict::Close);
    for text in ["DO $$ BEGIN END $$", "CALL p()", "SELECT 1; LISTEN x", "SELECT listen('x')"] {
        let said = query(text);
        let listening = Known { owed: 1, is_listening: true, ..CLEAN };
        assert_eq!(after(&[Client(&said)]), listening, "{text}");
    }
    // A statement that was prepared once listens whenever it is run.
    let (parse, bind) =
        (message(b'P', b"s7\0CALL p()\0\0\0"), message(b'B', b"\0s7\0\0\0\0\0\0\0"));
    let unlisten = query("UNLISTEN *");
    let forgotten = [
        [Client(&parse), Client(SYNC), Server(IDLE)],
        [Client(&bind), Client(SYNC), Server(IDLE)],
        [Client(&unlisten), Server(COMPLETE), Server(IDLE)],
    ]
    .concat();
    assert_eq!(after(&forgotten), CLEAN);
    let again = [Client(&bind), Client(SYNC), Server(IDLE)];
    assert_eq!(after(&[&forgotten[..], &again].concat()), Known { is_listening: true, ..CLEAN });
}

/// The name of the session's function that finds a plan outdated is told in every language.
#[test]
fn a_statement_that_is_outdated_is_told_once_and_only_before_it_runs() {
    let outdated =
        message(b'E', b"SFEHLER\0VERROR\0C0A000\0Mirgendwas\0RRevalidateCachedQuery\0\0");
    let other = message(b'E', b"SERROR\0VERROR\0C0A000\0Mno\0RSomethingElse\0\0");
    let select = query("SELECT f()");
    for (error, expected) in [(&outdated, true), (&other, false)] {
        let mut scanner = PgScanner::new();
        scanner.sent(STARTUP);
        scanner.received(WELCOME);
        scanner.received(IDLE);
        scanner.sent(&[BIND, EXECUTE, SYNC].concat());
        scanner.received(&[error, IDLE].concat());
        assert!(scanner.was_early());
        assert_eq!((scanner.take_outdated(), scanner.take_outdated()), (expected, false));
        // In a function, or behind a Bind: something ran.
        scanner.sent(&[BIND, EXECUTE, SYNC].concat());
        scanner.received(&[b"2\0\0\0\x04", &error[..], IDLE].concat());
        scanner.sent(&select);
        scanner.received(&[error, IDLE].concat());
        assert!(!scanner.was_early() && !scanner.take_outdated());
    }
}

#[test]
fn a_session_is_touched_until_it_is_cleaned() {
    let complete = |tag: &str| message(b'C', &[tag.as_bytes(), b"\0"].concat());
    let parse = |text: &str| message(b'P', &[b"s1\0", text.as_bytes(), b"\0\0\0"].concat());
    let (set, local) = (complete("SET"), "SET LOCAL x = 1");
    let mut scanner = PgScanner::new();
    scanner.sent(STARTUP);
    scanner.received(WELCOME);
    scanner.received(IDLE);
    // Prepared once, and run twice.
    scanner.sent(&[&parse(local), SYNC].concat());
    scanner.received(&[b"1\0\0\0\x04", IDLE].concat());
    let bind = message(b'B', b"\0s1\0\0\0\0\0\0\0");
    for _ in 0..2 {
        scanner.sent(&[&bind, EXECUTE, SYNC].concat());
        scanner.received(&[b"2\0\0\0\x04", &set[..], IDLE].concat());
        assert!(!scanner.is_touched());
    }
    // One that nobody knows.
    scanner.sent(&[BIND, EXECUTE, SYNC].concat());
    scanner.received(&[b"2\0\0\0\x04", &set[..], IDLE].concat());
    assert!(scanner.is_touched());
    scanner.sent(&query(super::reset::CLEAN));
    scanner.received(&[&set[..], &complete("RESET"), IDLE].concat());
    assert!(!scanner.is_touched());
    // Behind one that ends with its transaction, and in place of one that was prepared and never run.
    scanner.sent(&query("SET LOCAL x = 1; SET x = 1"));
    scanner.received(&[&set[..], &set[..], IDLE].concat());
    assert!(scanner.is_touched());
    scanner.sent(&query(super::reset::CLEAN));
    scanner.received(&[&set[..], &complete("RESET"), IDLE].concat());
    let parse = |name: &[u8], text: &str| {
        message(b'P', &[name, b"\0", text.as_bytes(), b"\0\0\0"].concat())
    };
    scanner.sent(&[&parse(b"s2", "SET x = 1"), SYNC].concat());
    scanner.received(&[b"1\0\0\0\x04", IDLE].concat());
    scanner.sent(&[&parse(b"s3", local), SYNC].concat());
    scanner.received(&[b"1\0\0\0\x04", IDLE].concat());
    assert!(!scanner.is_touched());
    let bind = message(b'B', b"\0s2\0\0\0\0\0\0\0");
    scanner.sent(&[&bind, EXECUTE, SYNC].concat());
    scanner.received(&[b"2\0\0\0\x04", &set[..], IDLE].concat());
    assert!(scanner.is_touched());
    scanner.sent(&query(super::reset::CLEAN));
    scanner.received(&[&set[..], &complete("RESET"), IDLE].concat());
    // A user's own is what the pool's is not: a hook has to set again what it took away.
    scanner.sent(&query("DISCARD ALL"));
    scanner.received(&[&complete("DISCARD ALL"), IDLE].concat());
    assert!(scanner.is_touched());
    scanner.sent(&query(super::reset::CLEAN));
    scanner.received(&[&set[..], &complete("RESET"), IDLE].concat());
    assert!(!scanner.is_touched());
    // One of two that are under way may be the one that lasts.
    scanner.sent(&[query("SET x = 1"), query(local)].concat());
    scanner.received(&[&set[..], IDLE].concat());
    assert!(scanner.is_touched());
}

#[test]
fn a_session_that_lost_its_statements_is_not_asked_for_them() {
    let complete = |tag: &str| message(b'C', &[tag.as_bytes(), b"\0"].concat());
    let mut scanner = PgScanner::new();
    scanner.sent(STARTUP);
    scanner.received(WELCOME);
    scanner.received(IDLE);
    let parse = message(b'P', b"s7\0SELECT 1\0\0\0");
    let mut forgotten = scanner.forgotten();
    for (tag, loses, left) in [
        ("SELECT 1", false, 1),
        ("DISCARD PLANS", false, 2),
        ("DEALLOCATE", true, 3),
        ("DEALLOCATE ALL", true, 0),
        ("DISCARD ALL", true, 0),
    ] {
        scanner.sent(&[&parse, SYNC].concat());
        scanner.received(&[b"1\0\0\0\x04", IDLE].concat());
        scanner.sent(&query("whatever"));
        scanner.received(&[complete(tag), IDLE.to_vec()].concat());
        assert_eq!(scanner.forgotten() != forgotten, loses, "{tag}");
        assert_eq!(scanner.unclaimed().len(), left, "{tag}");
        forgotten = scanner.forgotten();
    }
}

#[test]
fn an_answer_nobody_asked_for_and_what_is_not_known_are_not_forgiven() {
    let lost = Known { is_lost: true, ..CLEAN };
    assert_eq!(after(&[Server(IDLE)]), lost);
    assert_eq!(after(&[Server(WANTED)]), lost);
    assert_eq!(after(&[Server(b"D\0\0\0\x06\0\0")]), lost);
    assert_eq!(after(&[Client(b"X\0\0\0\x04")]), lost);
    assert_eq!(after(&[Client(b"!\0\0\0\x04")]), lost);
    let select = query("SELECT 1");
    assert_eq!(after(&[Client(&select), Server(b"!\0\0\0\x04"), Server(IDLE)]), lost);
    assert_eq!(after(&[Client(&select), Server(b"Z\0\0\0\x05?")]), lost);
    let mixed = [Client(BIND), Client(&select)];
    assert!(after(&mixed).is_lost);
}

#[test]
fn errors_are_told_once_each_and_a_fatal_one_ends_the_connection() {
    let select = query("SELECT 1");
    let wrong = PgError { fatal: false, code: *b"42601", is_early: false };
    let shutdown = PgError { fatal: true, code: *b"57P01", is_early: false };
    let session = [Client(&select), Server(ERROR), Server(ERROR), Server(IDLE)];
    assert_eq!(play(&session), (CLEAN, vec![wrong]));
    let lost = Known { is_lost: true, ..CLEAN };
    assert_eq!(play(&[Server(FATAL)]), (lost, vec![shutdown]));
    let session = [Client(&select), Server(ERROR), Server(FATAL)];
    assert_eq!(play(&session), (Known { owed: 1, is_lost: true, ..CLEAN }, vec![wrong, shutdown]));
}

#[test]
fn a_copy_waits_for_its_client_and_then_for_its_server() {
    let copy = query("COPY t FROM STDIN");
    let open = [Client(&copy), Server(WANTED), Client(DATA)];
    assert_eq!(after(&open), Known { owed: 1, awaits_client: true, ..CLEAN });
    let ended = [&open[..], &[Client(DONE)]].concat();
    assert_eq!(after(&ended), Known { owed: 1, ..CLEAN });
    for answer in [COMPLETE, ERROR] {
        assert_eq!(after(&[&ended[..], &[Server(answer), Server(IDLE)]].concat()), CLEAN);
        // The server does not wait for the end, and drops it.
        let early = [&open[..], &[Server(answer), Server(IDLE), Client(DATA), Client(DONE)]];
        assert_eq!(after(&early.concat()), CLEAN);
    }
    let interrupted = [&open[..], &[Client(&copy)]].concat();
    assert!(after(&interrupted).is_lost);
}

#[test]
fn several_copies_in_one_query_may_have_their_data_sent_ahead() {
    let copies = query("COPY t FROM STDIN; COPY t FROM STDIN");
    let ahead = [Client(&copies), Client(DATA), Client(DONE), Client(DATA), Client(DONE)];
    let answers = [Server(WANTED), Server(COMPLETE), Server(WANTED), Server(COMPLETE)];
    let all = [&ahead[..], &answers, &[Server(IDLE)]].concat();
    assert_eq!(after(&all), CLEAN);
    assert_eq!(after(&all[..all.len() - 2]), Known { owed: 1, ..CLEAN });
    assert_eq!(after(&[&ahead[..], &[Server(ERROR), Server(IDLE)]].concat()), CLEAN);
}

#[test]
fn a_sync_is_ignored_while_the_server_wants_data() {
    // As tokio-postgres does it: one behind the statement, before it knows, and one behind the data.
    let open = [Client(BIND), Client(EXECUTE), Client(SYNC), Server(WANTED), Client(DATA)];
    assert_eq!(after(&open), Known { owed: 1, awaits_client: true, ..CLEAN });
    let ended = [&open[..], &[Client(DONE), Client(SYNC)]].concat();
    assert_eq!(after(&ended), Known { owed: 1, ..CLEAN });
    assert_eq!(after(&[&ended[..], &[Server(COMPLETE), Server(IDLE)]].concat()), CLEAN);
    // All of it sent ahead.
    let ahead = [Client(BIND), Client(SYNC), Client(DATA), Client(DONE), Client(SYNC)];
    let answers = [Server(WANTED), Server(COMPLETE), Server(IDLE)];
    assert_eq!(after(&[&ahead[..], &answers].concat()), CLEAN);
    // A statement that fails before it wants data has both answered.
    let answers = [Server(ERROR), Server(IDLE)];
    assert_eq!(after(&[&ahead[..], &answers].concat()), Known { owed: 1, ..CLEAN });
    assert_eq!(after(&[&ahead[..], &answers, &[Server(IDLE)]].concat()), CLEAN);
}

#[test]
fn which_sync_a_failed_copy_answers_is_known_when_there_is_but_one_or_the_next_answer_begins() {
    let failed = [Client(BIND), Client(SYNC), Server(WANTED), Client(DATA), Server(ERROR)];
    assert_eq!(after(&failed), Known { owed: 1, ..CLEAN });
    let answered = [&failed[..], &[Server(IDLE)]].concat();
    assert_eq!(after(&answered), CLEAN);
    assert_eq!(
        after(&[&answered[..], &[Client(DONE), Client(SYNC), Server(IDLE)]].concat()),
        CLEAN
    );
    let two = [&failed[..], &[Client(DONE), Client(SYNC), Server(IDLE)]].concat();
    let unsure = Known { is_unsure: true, ..CLEAN };
    assert_eq!(after(&two), unsure);
    let select = query("");
    let asked = [&two[..], &[Client(&select)]].concat();
    assert_eq!(after(&asked), Known { owed: 1, ..unsure });
    let begins = Server(b"I\0\0\0\x04");
    assert_eq!(after(&[&asked[..], &[begins, Server(IDLE)]].concat()), CLEAN);
    // Both are answered: the client took the second one for that of its query.
    assert!(after(&[&asked[..], &[Server(IDLE)]].concat()).is_lost);
    assert!(after(&[&two[..], &[Server(IDLE), Client(&select), begins]].concat()).is_lost);
    // Where no Sync came too early, nothing is in doubt.
    let open = [Client(BIND), Client(EXECUTE), Server(WANTED), Client(DATA)];
    let end = [Client(DONE), Client(SYNC), Server(ERROR), Server(IDLE)];
    assert_eq!(after(&[&open[..], &end].concat()), CLEAN);
}

#[test]
fn who_listens_is_known_until_the_server_has_forgotten_it() {
    let listen = query("LISTEN jobs");
    let parse = message(b'P', b"\0 listen jobs\0\0\0");
    let unlisten = query("UNLISTEN *");
    let begin = query("BEGIN");
    let listening = Known { is_listening: true, ..CLEAN };
    let simple = [Client(&listen), Server(IDLE)];
    assert_eq!(after(&simple), listening);
    assert_eq!(after(&[Client(&parse), Client(SYNC), Server(IDLE)]), listening);
    let forgotten = [&simple[..], &[Client(&unlisten), Server(IDLE)]].concat();
    assert_eq!(after(&forgotten), CLEAN);
    assert_eq!(after(&[&forgotten[..], &simple].concat()), listening);
    // It may fail, be rolled back, or be followed by another one.
    let failed = [&simple[..], &[Client(&unlisten), Server(ERROR), Server(IDLE)]].concat();
    assert_eq!(after(&failed), listening);
    let begun = [Client(&begin), Server(IN_TRANSACTION), Client(&unlisten), Server(IN_TRANSACTION)];
    let status = InTransaction;
    assert_eq!(after(&[&simple[..], &begun].concat()), Known { status, ..listening });
    let again = [Client(&unlisten), Client(&listen), Server(IDLE), Server(IDLE)];
    assert_eq!(after(&[&simple[..], &again].concat()), listening);
}

#[test]
fn noise_does_no_harm() {
    let tags = b"QPBDECSHdcfpXFZGWAENRKTI123nstvV\0\0\0\0\0\0\0\0\x01\x03\x04\x05\x06";
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scanner = PgScanner::new();
        if random.bool() {
            scanner.sent(STARTUP);
            scanner.received(IDLE);
        }
        for _ in 0..100 {
            let len = random.usize(..64);
            let noise: Vec<u8> = match random.u8(..3) {
                0 => (0..len).map(|_| random.u8(..)).collect(),
                1 => (0..len).map(|_| tags[random.usize(..tags.len())]).collect(),
                _ => message(tags[random.usize(..32)], &[random.u8(..)]),
            };
            if random.bool() {
                scanner.sent(&noise)
            } else {
                scanner.received(&noise)
            }
            assert!(scanner.owed() <= 100 * 64);
        }
    }
}

#[test]
fn the_longest_message_is_known_as_soon_as_it_is_announced() {
    let table: [(&[u8], u64); 5] = [
        (IDLE, 6),
        (WELCOME, 13),
        (b"D\x7f\xff\xff\xff", 0x8000_0000),
        (b"N\0\0\0\x08abc\0Z\0\0\0\x05I", 9),
        (b"D\0\0\0", 0),
    ];
    for (said, longest) in table {
        for sizes in splits(said.len()) {
            let mut scanner = PgScanner::new();
            let (mut bytes, mut found) = (said, 0);
            for size in sizes {
                let (piece, rest) = bytes.split_at(size);
                scanner.received(piece);
                found = scanner.longest().max(found);
                bytes = rest;
            }
            assert_eq!(found, longest, "{}", said.escape_ascii());
        }
    }
    let mut scanner = PgScanner::new();
    scanner.received(b"N\0\0\0\x08ab");
    assert_eq!((scanner.longest(), scanner.longest()), (9, 9), "it is under way");
    scanner.received(b"c\0");
    assert_eq!((scanner.longest(), scanner.longest()), (9, 0));
}
