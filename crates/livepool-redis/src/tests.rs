//! Whole sessions, in pieces of every kind.

use std::collections::VecDeque;

use super::{RedisScanner, Word, unread};
use livepool::fuzzed::splits;
use livepool::protocol::Verdict;

/// Plays a session, cut in every way: lines that begin with `>` are sent, lines that begin with `<`
/// received, `!` ends the handshake. What is known at the end is always the same.
fn after(session: &str) -> String {
    let steps: Vec<_> = session
        .lines()
        .filter_map(|line| Some((line.trim().split_at_checked(2)?.0, unescape(&line.trim()[2..]))))
        .collect();
    let mut results = splits(10_000).map(|sizes| {
        let mut scanner = RedisScanner::new();
        let mut sizes = sizes.into_iter().cycle();
        for (who, bytes) in &steps {
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                let size = sizes.next().unwrap_or(1).min(bytes.len());
                let (piece, rest) = bytes.split_at(size);
                match *who {
                    "> " => scanner.sent(piece),
                    "< " => scanner.received(piece),
                    _ => scanner.handshake_done(),
                }
                bytes = rest;
            }
        }
        known(&mut scanner)
    });
    let first = results.next().expect("there are many ways");
    assert!(results.all(|result| result == first), "all ways are the same: {first}");
    first
}

/// `^` stands for CR LF.
fn unescape(text: &str) -> Vec<u8> {
    text.replace('^', "\r\n").into_bytes()
}

/// The number owed, and a word for all that holds.
fn known(scanner: &mut RedisScanner) -> String {
    let mut words = vec![scanner.owed().to_string()];
    let flags = [
        ("blocking", scanner.is_blocking_owed()),
        ("subscribed", scanner.is_subscribed()),
        ("streaming", scanner.is_streaming()),
        ("multi", scanner.in_transaction()),
        ("watching", scanner.is_watching()),
        ("database", scanner.is_database_changed()),
        ("identity", scanner.is_identity_changed()),
        ("lost", scanner.is_lost()),
    ];
    words.extend(flags.iter().filter(|(_, holds)| *holds).map(|(name, _)| (*name).to_owned()));
    let errors = std::iter::from_fn(|| scanner.take_error());
    words.extend(errors.map(|word: Word| word.as_bytes().escape_ascii().to_string()));
    words.join(" ")
}

/// Plays each session and compares what is known at its end.
fn all(table: &[(&str, &str)]) {
    for (session, expected) in table {
        assert_eq!(after(session), *expected, "{session}");
    }
}

#[test]
fn every_command_is_owed_one_answer() {
    all(&[
        ("", "0"),
        ("> *1^$4^PING^", "1"),
        ("> *1^$4^PING^\n< +PONG^", "0"),
        ("> *1^$4^PING^*2^$3^GET^$1^a^*2^$3^GET^$0^^^\n< +PONG^$-1^", "1"),
        ("> PING^get a^^\n< +PONG^", "1"),
        ("> *0^", "0"),
    ]);
}

#[test]
fn a_command_half_sent_is_outstanding() {
    all(&[("> *", "1"), ("> *1^$4^PING", "1"), ("> PIN", "1"), ("> *1^$4^PING^*", "2")]);
}

#[test]
fn every_type_of_answer_is_one_answer_however_deep() {
    let answers = [
        "+OK^",
        "-ERR no^",
        ":1^",
        "$5^hello^",
        "$0^^",
        "$-1^",
        "*-1^",
        "*0^",
        "*2^*1^:1^*2^$1^a^-ERR in^",
        "_^",
        ",1.5^",
        "#t^",
        "!5^ERR a^",
        "=5^txt:a^",
        "(123456789012345678901234567890^",
        "~2^:1^:2^",
        "%1^+a^*1^:2^",
        "%0^",
        "|1^+ttl^:1^:5^",
        "|0^:5^",
        "*1^|1^+ttl^*1^:1^:5^",
        "|1^+a^:1^|1^+b^:2^:5^",
        "$?^;4^hell^;1^o^;0^",
        "*?^:1^*1^:2^.^",
        "*1^%?^+a^:1^.^",
    ];
    for answer in answers {
        let session = format!("> GET a^GET b^\n< {answer}");
        let known = after(&session);
        assert_eq!(known.split(' ').next(), Some("1"), "{answer}");
        assert!(!known.contains("lost"), "{answer}");
        assert!(after(&format!("> GET a^\n< {answer}:1^")).contains("lost"), "{answer}");
    }
}

#[test]
fn pushes_pay_nothing_and_may_come_at_any_time() {
    all(&[
        ("< >2^$10^invalidate^*1^$1^a^", "0"),
        ("> GET a^\n< >1^+a^", "1"),
        ("> GET a^\n< >1^+a^$1^a^>0^", "0"),
    ]);
}

#[test]
fn what_may_wait_on_an_idle_connection_does_a_scanner_no_harm_either() {
    let push = ">2^$10^invalidate^*1^$1^a^";
    assert_eq!(unread(&unescape(push)), Verdict::Keep);
    assert_eq!(after(&format!("< {push}")), "0");
    assert_eq!(unread(&unescape("+OK^")), Verdict::Close);
    assert_eq!(after("< +OK^"), "0 lost");
}

#[test]
fn an_answer_nobody_asked_for_and_what_is_not_resp_are_not_forgiven() {
    all(&[
        ("< +OK^", "0 lost"),
        ("< -ERR max number of clients reached^", "0 lost ERR"),
        ("> GET a^\n< HTTP/1.1 400^", "1 lost"),
        ("> GET a^\n< $5^hello!!", "1 lost"),
        ("> GET a^\n< $-2^", "1 lost"),
        ("> GET a^\n< *99999999999999999999999999^", "1 lost"),
        ("> GET a^\n< %18446744073709551615^", "1 lost"),
        ("> GET a^\n< *1^>1^", "1 lost"),
        ("> GET a^\n< .^", "1 lost"),
        ("> GET \"a\"^", "1 lost"),
        ("> *1^+PING^", "1 lost"),
        ("> *1^$-1^", "1 lost"),
        ("> *1^$4^PING!^", "1 lost"),
        ("> CLIENT REPLY OFF^", "1 lost"),
        ("> QUIT^", "1 lost"),
    ]);
    let deep = format!("> GET a^\n< {}", "*1^".repeat(1000));
    assert_eq!(after(&deep), "1 lost");
}

#[test]
fn errors_are_known_by_their_code_wherever_they_stand() {
    all(&[
        ("> GET a^\n< -READONLY You can't write against a replica.^", "0 READONLY"),
        ("> GET a^\n< -LOADING^", "0 LOADING"),
        ("> GET a^\n< !9^NOAUTH no^", "0 NOAUTH"),
        ("> GET a^GET a^\n< -MOVED 1 a:1^-MOVED 2 a:1^", "0 MOVED"),
        ("> GET a^\n< *1^-ERR in^", "0 ERR"),
        ("> GET a^\n< *3^+OK^*1^-READONLY You can't^!9^LOADING a^", "0 READONLY LOADING"),
        ("> GET a^\n< *2^-MOVED 1 a:1^+READONLY^", "0 MOVED"),
        (
            "> EXEC^\n< -EXECABORT Transaction discarded because of: READONLY You can't^",
            "0 READONLY",
        ),
        (
            "> EVAL^\n< -ERR Error running script (call to f_1b936e3fe509bcbc9cd0664897bbe8fd0cac101b): \
             @user_script:12345: @user_script: 12345: -READONLY You can't write^",
            "0 READONLY",
        ),
    ]);
}

#[test]
fn a_transaction_ends_when_the_server_says_so() {
    all(&[
        ("> MULTI^", "1 multi"),
        ("> MULTI^\n< +OK^", "0 multi"),
        ("> MULTI^SET a b^EXEC^\n< +OK^+QUEUED^", "1 multi"),
        ("> MULTI^SET a b^EXEC^\n< +OK^+QUEUED^*1^+OK^", "0"),
        ("> MULTI^EXEC^\n< +OK^_^", "0"),
        ("> MULTI^EXEC^\n< +OK^-EXECABORT x^", "0 EXECABORT"),
        ("> MULTI^EXEC^\n< +OK^-EXECABORT Transaction discarded because of: OOM x^", "0 OOM"),
        ("> MULTI^EXEC a^\n< +OK^-ERR wrong number^", "0 multi ERR"),
        ("> MULTI^DISCARD^\n< +OK^+OK^", "0"),
        ("> WATCH a^\n< +OK^", "0 watching"),
        ("> WATCH a^UNWATCH^\n< +OK^+OK^", "0"),
        ("> WATCH a^MULTI^UNWATCH^\n< +OK^+OK^+QUEUED^", "0 multi watching"),
        ("> WATCH a^MULTI^EXEC^\n< +OK^+OK^*0^", "0"),
        ("> WATCH a^MULTI^EXEC^WATCH b^\n< +OK^+OK^*0^+OK^", "0 watching"),
        ("> MULTI^BLPOP a 0^", "2 multi"),
    ]);
}

#[test]
fn the_oldest_answer_says_whether_it_may_take_long() {
    all(&[
        ("> BLPOP a 0^", "1 blocking"),
        ("> BLPOP a 0^PING^\n< _^", "1"),
        ("> PING^BLPOP a 0^", "2"),
        ("> PING^BLPOP a 0^\n< +PONG^", "1 blocking"),
    ]);
}

#[test]
fn database_and_identity_are_those_of_the_handshake() {
    let hello = "> HELLO 3 AUTH a b^SELECT 2^\n< %0^+OK^\n! x\n";
    let table = [
        ("", "0"),
        ("> SELECT 3^\n< +OK^", "0 database"),
        ("> SELECT 3^\n< -ERR out of range^", "0 ERR"),
        ("> SELECT 3^SELECT 2^\n< +OK^+OK^", "0"),
        ("> MULTI^SELECT 2^DISCARD^\n< +OK^+QUEUED^+OK^", "0 database"),
        ("> AUTH a b^\n< +OK^", "0 identity"),
        ("> HELLO^\n< %0^", "0 identity"),
        ("> RESET^\n< +RESET^", "0 database identity"),
    ];
    for (session, expected) in table {
        assert_eq!(after(&format!("{hello}{session}")), expected, "{session}");
    }
    all(&[("! x\n> RESET^\n< +RESET^", "0"), ("! x\n> AUTH a^RESET^\n< +OK^+RESET^", "0")]);
}

#[test]
fn answers_are_not_counted_while_messages_come_in_between() {
    all(&[
        ("> SUBSCRIBE a b^", "0 subscribed"),
        ("> SUBSCRIBE a^\n< *3^$9^subscribe^$1^a^:1^*3^$7^message^$1^a^$1^m^", "0 subscribed"),
        ("> GET a^SUBSCRIBE a^PING^\n< $-1^>1^+a^+PONG^", "0 subscribed"),
        ("> SUBSCRIBE a^RESET^\n< *3^$9^subscribe^$1^a^:1^", "1 subscribed"),
        ("> SUBSCRIBE a^RESET^PING^\n< *3^$9^subscribe^$1^a^:1^+RESET^", "1"),
        ("> SUBSCRIBE a^RESET^\n< +RESET^*3^$7^message^$1^a^$1^m^", "0 lost"),
        ("> MULTI^MONITOR^\n< +OK^+OK^+1.2 [0] \"get\"^", "0 streaming multi"),
        ("> MONITOR^RESET^\n< +OK^+RESET^", "0"),
    ]);
}

#[test]
fn a_reset_whose_answer_could_be_that_of_another_command_is_the_end_of_it() {
    all(&[
        ("> RESET^SUBSCRIBE a^RESET^", "1 subscribed lost"),
        ("> RESET^SUBSCRIBE a^RESET^\n< +RESET^", "0 lost"),
        ("> MONITOR^RESET^MONITOR^RESET^\n< +OK^+RESET^", "0 lost"),
        // What it answers, a script decides.
        ("> SUBSCRIBE a^EVAL^RESET^", "1 subscribed lost"),
        ("> EVAL^MONITOR^RESET^", "1 streaming lost"),
        ("> RESET^SUBSCRIBE a^\n< +RESET^*3^$9^subscribe^$1^a^:1^", "0 subscribed"),
        ("> SUBSCRIBE a^UNSUBSCRIBE a^RESET^\n< +RESET^", "0"),
    ]);
}

/// All programs of five commands of a client, with the server's answers to them at any moment: it is
/// never said that nothing is owed while an answer is to come.
#[test]
fn nothing_is_owed_only_when_every_answer_has_come() {
    const COMMANDS: [(&str, &str); 7] = [
        ("PING", "+PONG^"),
        ("EVAL", "+RESET^"),
        ("RESET", "+RESET^"),
        ("SUBSCRIBE a", ">3^$9^subscribe^$1^a^:1^"),
        ("MONITOR", "+OK^"),
        ("MULTI", "+OK^"),
        ("GET", "-ERR^"),
    ];
    let mut random = fastrand::Rng::new();
    for program in 0..7_u32.pow(5) {
        let commands = (0..5).map(|n| COMMANDS[(program / 7_u32.pow(n) % 7) as usize]);
        let mut scanner = RedisScanner::new();
        let (mut to_send, mut to_answer, mut story) =
            (commands.peekable(), VecDeque::new(), Vec::new());
        while to_send.peek().is_some() || !to_answer.is_empty() {
            match to_send.next_if(|_| to_answer.is_empty() || random.u8(..3) > 0) {
                Some((command, answer)) => {
                    story.push(command);
                    to_answer.push_back(answer);
                    scanner.sent(&unescape(&format!("{command}^")));
                }
                None => {
                    let answer = to_answer.pop_front().unwrap();
                    story.push(answer);
                    scanner.received(&unescape(answer));
                }
            }
            let says_settled = scanner.owed() == 0
                && !(scanner.is_lost() || scanner.is_subscribed() || scanner.is_streaming());
            assert!(
                !says_settled || to_answer.is_empty(),
                "{story:?}, and {to_answer:?} is to come"
            );
        }
    }
}

#[test]
fn noise_does_no_harm() {
    let likely = b"+-:$*_,#!=(~%|>.?;0123456789\r\n\r\n\r\nSUBSCRIBERESET ";
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut scanner = RedisScanner::new();
        for _ in 0..100 {
            let len = random.usize(..64);
            let noise: Vec<u8> = match random.u8(..3) {
                0 => (0..len).map(|_| random.u8(..)).collect(),
                1 => (0..len).map(|_| likely[random.usize(..likely.len())]).collect(),
                _ => b"*1\r\n$4\r\nPING\r\n*1\r\n:1\r\n".to_vec(),
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
fn the_longest_answer_is_known_as_soon_as_it_is_announced() {
    let table = [
        ("+OK^", 3),
        ("$5^hello^", 5),
        ("*2^:1^:2^", 2 * 64 + 4),
        ("*3^$10^", 3 * 64 + 10),
        ("*?^:1^:2^.^", 2 * 64 + 4),
        ("%1^+a^+b^", 2 * 64 + 4),
        ("|1^+a^+b^:1^", 2 * 64 + 4 + 2),
        ("$5^hello^$9^123456789^+OK^", 9),
        ("$?^;4^abcd^;2^ab^;0^", 6),
        ("$536870912000^", 536_870_912_000),
        ("*2147483647^:1^", 2_147_483_647 * 64 + 2),
        ("*1^*18446744073709551615^", u64::MAX),
        // The length of a length.
        ("$1111111111111111111111111", 0),
        ("$11111111111111111111111111111", 4),
    ];
    for (said, longest) in table {
        let said = unescape(said);
        for sizes in splits(said.len()) {
            let mut scanner = RedisScanner::new();
            let (mut bytes, mut found) = (&said[..], 0);
            for size in sizes {
                let (piece, rest) = bytes.split_at(size);
                scanner.received(piece);
                found = scanner.longest().max(found);
                bytes = rest;
            }
            assert_eq!(found, longest, "{}", said.escape_ascii());
        }
    }
}

#[test]
fn an_answer_that_is_over_does_not_count_for_the_next_one() {
    let mut scanner = RedisScanner::new();
    scanner.received(b"$5\r\nhello\r\n");
    assert_eq!((scanner.longest(), scanner.longest()), (5, 0));
    scanner.received(b"$1000\r\n");
    assert_eq!((scanner.longest(), scanner.longest()), (1000, 1000), "it is under way");
}

#[test]
fn an_element_takes_no_more_than_is_counted_for_it() {
    assert!(size_of::<::redis::Value>() <= 64);
}
