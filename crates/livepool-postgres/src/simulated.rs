//! A server, as far as answers are counted, and clients of every kind: what the scanner says of a
//! session is compared with what is really still to come.

use std::collections::VecDeque;

use super::PgScanner;

/// What a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    /// Of the extended protocol.
    Work(Does),
    Query(Does),
    Sync,
    Data,
    Done,
    Fail,
}

/// What a statement does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Well,
    Fails,
    /// It takes data, and fails at the one with this number. At 0, before it has read anything.
    Copies(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Until a Sync.
    Skipping,
    Copying {
        is_query: bool,
        left: usize,
    },
}

/// What is under way in either direction.
#[derive(Clone)]
struct Session {
    state: State,
    to_server: VecDeque<Message>,
    to_client: VecDeque<u8>,
}

impl Session {
    fn new() -> Self {
        Self { state: State::Ready, to_server: VecDeque::new(), to_client: VecDeque::new() }
    }

    /// The server deals with a message.
    fn serve(&mut self) {
        let Some(message) = self.to_server.pop_front() else { return };
        let says: &[u8] = match (self.state, message) {
            (State::Copying { .. }, Message::Sync) => b"",
            (State::Copying { is_query, left: 1 }, Message::Data) => self.fail(is_query),
            (State::Copying { is_query, left }, Message::Data) => {
                self.state = State::Copying { is_query, left: left - 1 };
                b""
            }
            (State::Copying { is_query, .. }, Message::Done) => {
                self.state = State::Ready;
                if is_query { b"CZ" } else { b"C" }
            }
            (State::Copying { is_query, .. }, _) => self.fail(is_query),
            (State::Skipping, Message::Sync) => {
                self.state = State::Ready;
                b"Z"
            }
            (State::Skipping, _) => b"",
            (State::Ready, Message::Sync) => b"Z",
            (State::Ready, Message::Work(Does::Well)) => b"2C",
            (State::Ready, Message::Query(Does::Well)) => b"CZ",
            (State::Ready, Message::Work(Does::Fails)) => self.fail(false),
            (State::Ready, Message::Query(Does::Fails)) => self.fail(true),
            (State::Ready, Message::Work(Does::Copies(at))) => {
                self.to_client.push_back(b'2');
                self.copy(false, at)
            }
            (State::Ready, Message::Query(Does::Copies(at))) => self.copy(true, at),
            (State::Ready, Message::Data | Message::Done | Message::Fail) => b"",
        };
        self.to_client.extend(says);
    }

    fn fail(&mut self, is_query: bool) -> &'static [u8] {
        self.state = if is_query { State::Ready } else { State::Skipping };
        if is_query { b"EZ" } else { b"E" }
    }

    fn copy(&mut self, is_query: bool, at: usize) -> &'static [u8] {
        self.to_client.push_back(b'G');
        self.state = State::Copying { is_query, left: at };
        if at == 0 { self.fail(is_query) } else { b"" }
    }

    /// Whether something is still to come, or to be sent.
    fn is_quiet(&self) -> bool {
        let mut end = self.clone();
        while !end.to_server.is_empty() {
            end.serve();
        }
        end.to_client.is_empty() && end.state == State::Ready
    }
}

fn sent(scanner: &mut PgScanner, message: Message) {
    scanner.sent(match message {
        Message::Work(_) => b"B\0\0\0\x0c\0\0\0\0\0\0\0\0E\0\0\0\x09\0\0\0\0\0",
        Message::Query(_) => b"Q\0\0\0\x05\0",
        Message::Sync => b"S\0\0\0\x04",
        Message::Data => b"d\0\0\0\x05x",
        Message::Done => b"c\0\0\0\x04",
        Message::Fail => b"f\0\0\0\x05\0",
    });
}

fn received(scanner: &mut PgScanner, tag: u8) {
    scanner.received(match tag {
        b'Z' => b"Z\0\0\0\x05I",
        b'C' => b"C\0\0\0\x05\0",
        b'E' => b"E\0\0\0\x05\0",
        b'G' => b"G\0\0\0\x07\0\0\0",
        _ => b"2\0\0\0\x04",
    });
}

/// A scanner of a session that has begun.
fn begun() -> PgScanner {
    let mut scanner = PgScanner::new();
    scanner.sent(b"\0\0\0\x08\0\x03\0\0");
    scanner.received(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I");
    assert_eq!((scanner.owed(), scanner.is_lost()), (0, false));
    scanner
}

/// Runs a session in which the client sends these, and each side comes first now and then. The scanner
/// at its end, or before if it understood no more; what was said, if the scanner took it for quiet when
/// something was still to come.
fn play(random: &mut fastrand::Rng, program: &[Message]) -> Result<PgScanner, String> {
    let (mut scanner, mut session) = (begun(), Session::new());
    let mut left = program.iter();
    let mut said = Vec::new();
    // Whether the client waits for the server, as most do, or sends all it has.
    let haste = random.u8(1..=20);
    while !scanner.is_lost() {
        let is_over = left.len() == 0 && session.to_server.is_empty();
        if is_over && session.to_client.is_empty() {
            break;
        }
        match random.u8(0..30) {
            step if step < haste => {
                let Some(message) = left.next() else { continue };
                said.push(format!("{message:?}"));
                sent(&mut scanner, *message);
                session.to_server.push_back(*message);
            }
            step if step % 2 == 0 => session.serve(),
            _ => {
                let Some(tag) = session.to_client.pop_front() else { continue };
                said.push(char::from(tag).to_string());
                received(&mut scanner, tag);
            }
        }
        let is_clean = scanner.owed() == 0 && !scanner.is_lost() && !scanner.is_unsure();
        if is_clean && !session.is_quiet() {
            return Err(said.join(" "));
        }
    }
    Ok(scanner)
}

fn statement(random: &mut fastrand::Rng) -> Does {
    match random.u8(0..4) {
        0 => Does::Well,
        1 => Does::Fails,
        _ => Does::Copies(random.usize(0..4)),
    }
}

/// What no client would say.
fn wild(random: &mut fastrand::Rng) -> Vec<Message> {
    let one = |random: &mut fastrand::Rng| match random.u8(0..6) {
        0 => Message::Work(statement(random)),
        1 => Message::Query(statement(random)),
        2 => Message::Sync,
        3 => Message::Data,
        4 => Message::Done,
        _ => Message::Fail,
    };
    (0..random.usize(1..12)).map(|_| one(random)).collect()
}

/// As tokio-postgres does it: a Sync behind the statement, one behind the data, and an empty query at
/// the end, as a reset makes it.
fn civil(random: &mut fastrand::Rng) -> Vec<Message> {
    let mut program = Vec::new();
    for _ in 0..random.usize(1..4) {
        let does = statement(random);
        program.extend([Message::Work(does), Message::Sync]);
        if matches!(does, Does::Copies(_)) {
            program.extend(vec![Message::Data; random.usize(0..4)]);
            program
                .extend([*random.choice(&[Message::Done, Message::Fail]).unwrap(), Message::Sync]);
        }
    }
    program.push(Message::Query(Does::Well));
    program
}

fn seeds() -> impl Iterator<Item = u64> {
    let another = fastrand::u64(..);
    (0..20_000).chain((0..2_000).map(move |more| another.wrapping_add(more)))
}

#[test]
fn no_session_is_taken_for_quiet_while_something_is_to_come_whatever_its_client_sends() {
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let program = wild(&mut random);
        if let Err(said) = play(&mut random, &program) {
            panic!("seed {seed}: quiet after {said}, and something is to come");
        }
    }
}

#[test]
fn a_copy_that_fails_is_understood_but_for_one_that_fails_before_it_has_read_anything() {
    let mut understood = 0;
    for seed in seeds() {
        let mut random = fastrand::Rng::with_seed(seed);
        let program = civil(&mut random);
        let scanner = match play(&mut random, &program) {
            Ok(scanner) => scanner,
            Err(said) => panic!("seed {seed}: quiet after {said}, and something is to come"),
        };
        let is_early = program.contains(&Message::Work(Does::Copies(0)));
        let is_known =
            (scanner.owed(), scanner.is_unsure(), scanner.is_lost()) == (0, false, false);
        assert!(is_known || is_early, "seed {seed}: {program:?} was not understood");
        understood += usize::from(is_known);
    }
    assert!(understood > 10_000, "{understood}");
}
