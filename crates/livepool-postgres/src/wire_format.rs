//! The format of protocol 3, as far as a pool has to know it: messages in pieces, and what is read of
//! them. Pure.

use std::collections::VecDeque;

use super::role::ServerRole;
use super::search_path;
use super::statement_text::{StatementName, StatementText};
use livepool::protocol::Verdict;

/// The framer of one direction of the stream, which keeps nothing of a message but its header.
#[derive(Debug)]
pub(super) struct Framer {
    /// Whether messages begin with a byte for their type. The client's first ones (SSLRequest,
    /// StartupMessage) do not.
    typed: bool,
    header: [u8; 5],
    have: usize,
    /// The number of bytes that are to come of the body; `None` in front of it.
    remaining: Option<usize>,
}

/// The meaning of the next bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The header of a message: its type, zero if it has none, and the number of bytes after the
    /// header.
    Start {
        tag: u8,
        len: usize,
    },
    /// A part of a body, never an empty one.
    Body(&'a [u8]),
    End,
    /// A length that no message has. The bytes behind it mean nothing.
    Broken,
}

impl Framer {
    pub(super) fn typed() -> Self {
        Self { typed: true, header: [0; 5], have: 0, remaining: None }
    }

    pub(super) fn untyped() -> Self {
        Self { typed: false, ..Self::typed() }
    }

    /// Expects a type from the next message on.
    pub(super) fn become_typed(&mut self) {
        self.typed = true;
    }

    /// Whether a message has begun and not ended.
    pub(super) fn is_midway(&self) -> bool {
        self.have > 0
    }

    /// Takes the next piece off `bytes`; `None` if more have to come.
    pub(super) fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Option<Piece<'a>> {
        match self.remaining {
            None => self.start(bytes),
            Some(0) => {
                self.have = 0;
                self.remaining = None;
                Some(Piece::End)
            }
            Some(_) if bytes.is_empty() => None,
            Some(remaining) => {
                let (body, rest) = bytes.split_at(remaining.min(bytes.len()));
                *bytes = rest;
                self.remaining = Some(remaining - body.len());
                Some(Piece::Body(body))
            }
        }
    }

    fn start<'a>(&mut self, bytes: &mut &[u8]) -> Option<Piece<'a>> {
        let size = 4 + usize::from(self.typed);
        let (header, rest) = bytes.split_at(bytes.len().min(size - self.have));
        self.header[self.have..self.have + header.len()].copy_from_slice(header);
        self.have += header.len();
        *bytes = rest;
        if self.have < size {
            return None;
        }
        let [a, b, c, d, e] = self.header;
        let (tag, len) = if self.typed { (a, [b, c, d, e]) } else { (0, [a, b, c, d]) };
        // The length counts its own four bytes.
        match usize::try_from(i32::from_be_bytes(len)).ok().and_then(|len| len.checked_sub(4)) {
            Some(len) => {
                self.remaining = Some(len);
                Some(Piece::Start { tag, len })
            }
            None => Some(Piece::Broken),
        }
    }
}

/// The part that has to be read of the message that is being sent.
#[derive(Debug)]
pub(super) enum Sending {
    /// The first four bytes of an untyped message, its code, and how many of them came.
    Startup([u8; 4], usize),
    Query(StatementText),
    Parse(StatementText),
    /// A Bind, or a Close, of which the statement's name is read.
    Bind(StatementReference),
    Close(StatementReference),
    Nothing,
}

/// The name of a statement, in a body where another field stands in front of it.
#[derive(Debug)]
pub(super) struct StatementReference {
    front: NamePrefix,
    name: StatementName,
}

/// The field of the body that is being read.
#[derive(Debug)]
enum NamePrefix {
    /// The name of a portal, with a zero behind.
    Portal,
    /// The kind of a Close: `S` for a statement, `P` for a portal.
    Kind,
    Nothing,
    /// The end: the name was read, or there is none.
    Read,
}

impl StatementReference {
    pub(super) fn of_bind() -> Self {
        Self { front: NamePrefix::Portal, name: StatementName::default() }
    }

    pub(super) fn of_close() -> Self {
        Self { front: NamePrefix::Kind, name: StatementName::default() }
    }

    fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.front = match (&self.front, byte) {
                (NamePrefix::Read, _) => return,
                (NamePrefix::Portal, 0) | (NamePrefix::Kind, b'S') => NamePrefix::Nothing,
                (NamePrefix::Portal, _) => NamePrefix::Portal,
                (NamePrefix::Kind, _) | (NamePrefix::Nothing, 0) => NamePrefix::Read,
                (NamePrefix::Nothing, byte) => {
                    self.name.read(byte);
                    NamePrefix::Nothing
                }
            };
        }
    }

    /// The number in the name, if the client library made it.
    pub(super) fn number(&self) -> Option<u64> {
        self.name.number()
    }
}

/// The part that has to be read of the message that is being received.
#[derive(Debug)]
pub(super) enum Receiving {
    ErrorResponse(ErrorFields),
    ParameterStatus(ShortText),
    /// The tag of a statement that is complete: `INSERT 0 1`.
    CommandComplete(ShortText),
    ReadyForQuery,
    Nothing,
}

impl Sending {
    pub(super) fn read(&mut self, body: &[u8]) {
        match self {
            Self::Startup(code, have) => {
                for &byte in body {
                    let Some(place) = code.get_mut(*have) else { return };
                    *place = byte;
                    *have += 1;
                }
            }
            Self::Query(text) | Self::Parse(text) => text.read(body),
            Self::Bind(statement) | Self::Close(statement) => statement.read(body),
            Self::Nothing => {}
        }
    }
}

/// An error of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PgError {
    /// Whether the server closes the connection after it: `FATAL` or `PANIC`.
    pub(crate) fatal: bool,
    /// The SQLSTATE; zeros if the error has none.
    pub(crate) code: [u8; 5],
    /// Whether it refuses a Parse or a Bind, so that nothing was run.
    pub(crate) is_early: bool,
}

/// The server's function that finds a plan outdated.
// The text of the error is in the server's language, the name of the function is not.
const REVALIDATE: &[u8] = b"RevalidateCachedQuery";

/// The fields of one ErrorResponse, of which four are kept, cut short.
#[derive(Debug, Default)]
pub(super) struct ErrorFields {
    /// The type of the field that is being read, and how much of it came.
    field: Option<(u8, usize)>,
    severity: [u8; 6],
    /// The severity in the server's language (field `S`). Servers before 9.6 have no other.
    localized: [u8; 6],
    code: [u8; 5],
    routine: [u8; REVALIDATE.len() + 1],
}

impl ErrorFields {
    pub(super) fn read(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match (&mut self.field, byte) {
                (field, 0) => *field = None,
                (None, _) => self.field = Some((byte, 0)),
                (Some((field, at)), _) => {
                    let kept = match field {
                        b'V' => &mut self.severity[..],
                        b'S' => &mut self.localized[..],
                        b'C' => &mut self.code[..],
                        b'R' => &mut self.routine[..],
                        _ => continue,
                    };
                    if let Some(place) = kept.get_mut(*at) {
                        *place = byte;
                        *at += 1;
                    }
                }
            }
        }
    }

    /// Whether the error says that a prepared statement's result has changed since it was prepared.
    pub(super) fn is_stale_plan(&self) -> bool {
        self.routine.strip_suffix(b"\0") == Some(REVALIDATE)
    }

    pub(super) fn error(&self) -> PgError {
        // `V` is never translated, `S` is.
        let known = self.severity[0] != 0;
        let severity = if known { &self.severity } else { &self.localized };
        PgError {
            fatal: [b"FATAL\0", b"PANIC\0"].contains(&severity),
            code: self.code,
            is_early: false,
        }
    }
}

/// The room for a short text: the longest name that matters (`default_transaction_read_only`), and
/// `off`.
const MAX_PARAMETER: usize = 34;

/// The body of a ParameterStatus or a CommandComplete, cut short.
#[derive(Debug)]
pub(super) struct ShortText {
    text: [u8; MAX_PARAMETER],
    len: usize,
    /// The hash of the whole body.
    hash: u64,
}

/// The parameters that tell a server's role. Servers before PostgreSQL 14, and some poolers, do not
/// send them.
#[derive(Debug, Default)]
pub(super) struct RoleParameters {
    is_standby: Option<bool>,
    is_read_only: Option<bool>,
}

impl ShortText {
    pub(super) fn new() -> Self {
        Self { text: [0; MAX_PARAMETER], len: 0, hash: search_path::EMPTY }
    }

    pub(super) fn read(&mut self, bytes: &[u8]) {
        self.hash = bytes.iter().fold(self.hash, |hash, byte| search_path::hashed(hash, *byte));
        let count = bytes.len().min(MAX_PARAMETER - self.len);
        self.text[self.len..self.len + count].copy_from_slice(&bytes[..count]);
        self.len += count;
    }

    /// The text up to its first zero.
    pub(super) fn first_string(&self) -> &[u8] {
        self.text[..self.len].split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// The number that stands for name and value.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

impl RoleParameters {
    pub(super) fn set(&mut self, parameter: &ShortText) {
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

    pub(super) fn role(&self) -> Option<ServerRole> {
        let is_standby = self.is_standby?;
        Some(ServerRole { is_standby, is_read_only: is_standby || self.is_read_only? })
    }
}

/// Judges bytes that wait on a connection nobody uses, which begin with a message and may end
/// within one.
pub(crate) fn unread(mut bytes: &[u8]) -> Verdict {
    // A type alone already tells.
    let mut frames = Framer::typed();
    while let Some(tag) = bytes.first() {
        match tag {
            // ParameterStatus and NoticeResponse come at any time. So does NotificationResponse, but
            // only to who has subscribed: an idle session has not, as far as anybody knows.
            b'S' | b'N' => {}
            // An error that nobody asked for is the server's last message.
            b'E' => return Verdict::PeerCloses,
            _ => return Verdict::Close,
        }
        loop {
            match frames.next(&mut bytes) {
                None | Some(Piece::End) => break,
                Some(Piece::Broken) => return Verdict::Close,
                Some(Piece::Start { .. } | Piece::Body(_)) => {}
            }
        }
    }
    Verdict::Keep
}

/// Errors that came in one piece of bytes, the oldest first, each kind once. The error that matters
/// to the whole pool may stand between others.
#[derive(Debug)]
pub(super) struct ErrorQueue<T>(VecDeque<T>);

/// The number of kinds that are kept: more than a peer can mean.
const MAX_ERRORS: usize = 16;

impl<T: PartialEq> ErrorQueue<T> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    pub(super) fn push(&mut self, error: T) {
        if self.0.len() < MAX_ERRORS && !self.0.contains(&error) {
            self.0.push_back(error);
        }
    }

    /// Takes the oldest error.
    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Piece::{Body, Broken, End, Start};
    use Verdict::{Close, Keep, PeerCloses};

    #[test]
    fn a_message_without_a_body_ends_where_it_begins() {
        let mut frames = Framer::typed();
        let mut bytes: &[u8] = b"S\0\0\0\x04d\0\0\0\x06ab";
        let pieces: Vec<_> = std::iter::from_fn(|| frames.next(&mut bytes)).collect();
        let start = |tag, len| Start { tag, len };
        assert_eq!(pieces, [start(b'S', 0), End, start(b'd', 2), Body(b"ab"), End]);
        assert!(!frames.is_midway());
    }

    #[test]
    fn the_first_messages_of_a_client_have_no_type() {
        let mut frames = Framer::untyped();
        let mut bytes: &[u8] = b"\0\0\0\x05x";
        assert_eq!(frames.next(&mut bytes), Some(Start { tag: 0, len: 1 }));
    }

    #[test]
    fn a_length_that_cannot_be_is_not_believed() {
        for header in [b"X\0\0\0\x03", b"X\xff\xff\xff\xff"] {
            assert_eq!(Framer::typed().next(&mut &header[..]), Some(Broken));
        }
    }

    fn error(fields: &[u8]) -> PgError {
        let mut read = ErrorFields::default();
        fields.iter().for_each(|byte| read.read(&[*byte]));
        read.error()
    }

    #[test]
    fn the_severity_is_read_in_english_if_the_server_says_it() {
        let shutdown = PgError { fatal: true, code: *b"57P01", is_early: false };
        assert_eq!(error(b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0"), shutdown);
        assert_eq!(error(b"SFATALE\0VFATAL\0C57P01\0\0"), shutdown);
        assert_eq!(error(b"SPANIC\0C57P01\0\0"), shutdown);
        let wrong = PgError { fatal: false, code: *b"42601", is_early: false };
        assert_eq!(error(b"SFATAL\0VERROR\0C42601\0\0"), wrong);
    }

    #[test]
    fn fields_that_are_missing_or_too_long_do_no_harm() {
        assert_eq!(error(b"\0"), PgError { fatal: false, code: [0; 5], is_early: false });
        assert_eq!(
            error(b"C4260199\0VFATALLY\0\0"),
            PgError { fatal: false, code: *b"42601", is_early: false }
        );
    }

    #[test]
    fn the_role_is_known_when_both_have_been_said() {
        let mut parameters = RoleParameters::default();
        let mut say = |text: &[u8]| {
            let mut parameter = ShortText::new();
            text.iter().for_each(|byte| parameter.read(&[*byte]));
            parameters.set(&parameter);
            parameters.role()
        };
        let role = |is_standby, is_read_only| Some(ServerRole { is_standby, is_read_only });
        assert_eq!(say(b"server_version\0a very long text that is no number at all\0"), None);
        assert_eq!(say(b"in_hot_standby\0off\0"), None);
        assert_eq!(say(b"default_transaction_read_only\0off\0"), role(false, false));
        assert_eq!(say(b"default_transaction_read_only\0on\0"), role(false, true));
        assert_eq!(say(b"in_hot_standby\0on\0"), role(true, true));
        assert_eq!(say(b"in_hot_standby\0whatever\0"), None);
    }

    #[test]
    fn only_what_a_server_may_say_unasked_is_harmless() {
        let table: [(&[u8], Verdict); 10] = [
            (b"", Keep),
            (b"A", Close),
            (b"N\0\0\0\x05\0", Keep),
            (b"N\0\0\x10\0rest is cut", Keep),
            (b"S\0\0\0\x08a\0b\0N\0\0\0\x05\0N\0\0", Keep),
            (b"E\0\0\0\x10", PeerCloses),
            (b"N\0\0\0\x05\0E", PeerCloses),
            (b"Z\0\0\0\x05I", Close),
            (b"N\0\0\0\x05\0D", Close),
            (b"N\0\0\0\x01", Close),
        ];
        for (bytes, expected) in table {
            assert_eq!(unread(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn each_is_kept_once_and_a_peer_cannot_fill_the_memory() {
        let mut queue = ErrorQueue::new();
        for n in (0..1000).flat_map(|n| [n, n]) {
            queue.push(n);
        }
        let kept: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(kept, (0..MAX_ERRORS).collect::<Vec<_>>());
    }
}
