//! [`PgScanner`]: reads along with a PostgreSQL client, protocol 3. Pure.

use super::outstanding::Debt;
use super::role::Role;
use super::search_path::SearchPath;
use super::statement_text::{Lasting, Opening, Says};
use super::unclaimed::Unbound;
use super::wire_format::{
    Fields, Frames, Named, Parameter, Parameters, PgError, Piece, Receiving, Seen, Sending,
};
use crate::sync::Arc;

/// Whether the session is in a transaction, as the server said last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Idle,
    InTransaction,
    /// In one that failed, and has to be rolled back.
    Failed,
    /// It has not said it yet.
    Unknown,
}

/// A type and a length.
const HEADER: u64 = 5;

/// The longest startup message a server takes.
const LONGEST_STARTUP: usize = 10_000;

/// A session does not keep more prepared statements that may listen, or leave something.
const MOST_DOERS: usize = 1024;

/// A prepared statement that may do more when it is run than its answer tells, or less.
#[derive(Debug)]
struct Doer {
    number: u64,
    listens: bool,
    touches: bool,
    lasting: Lasting,
}

/// Follows both directions of one connection, from its first byte.
#[derive(Debug)]
pub(crate) struct PgScanner {
    client: Frames,
    sending: Sending,
    server: Frames,
    receiving: Receiving,
    debt: Debt,
    /// The client asked for encryption: one bare byte answers that.
    awaits_byte: bool,
    status: Status,
    is_listening: bool,
    /// The client asked to hear no notifications any more, outside of a transaction.
    will_forget: bool,
    /// The session may not be what it was at the beginning.
    is_touched: bool,
    /// The client asked for it to be as it was, outside of a transaction.
    will_clean: bool,
    /// Of the last text, or of all that were not answered.
    lasting: Lasting,
    texts_wait: bool,
    has_completed: bool,
    /// Prepared statements that may do such a thing when they are run.
    doers: Vec<Doer>,
    unbound: Arc<Unbound>,
    path: SearchPath,
    /// How often the session lost its prepared statements.
    forgotten: u64,
    /// A prepared statement was found outdated.
    is_outdated: bool,
    /// What the server deals with now has got beyond its Bind.
    is_bound: bool,
    /// The last error came before that.
    was_early: bool,
    errors: Seen<PgError>,
    parameters: Parameters,
    /// Of the server's messages since that was asked last, and of the one under way.
    longest: u64,
    under_way: u64,
    is_lost: bool,
}

impl PgScanner {
    pub(crate) fn new() -> Self {
        Self {
            client: Frames::untyped(),
            sending: Sending::Nothing,
            server: Frames::typed(),
            receiving: Receiving::Nothing,
            debt: Debt::new(),
            awaits_byte: false,
            status: Status::Unknown,
            is_listening: false,
            will_forget: false,
            is_touched: false,
            will_clean: false,
            lasting: Lasting::default(),
            texts_wait: false,
            has_completed: false,
            doers: Vec::new(),
            unbound: Arc::default(),
            path: SearchPath::new(),
            forgotten: 0,
            is_outdated: false,
            is_bound: false,
            was_early: false,
            errors: Seen::new(),
            parameters: Parameters::default(),
            longest: 0,
            under_way: 0,
            is_lost: false,
        }
    }

    /// How many answers are owed. Work without a Sync and a message half sent count as one: nothing
    /// answers them, but nobody else may speak in between.
    pub(crate) fn owed(&self) -> usize {
        let owed = self.debt.owed() + usize::from(self.awaits_byte);
        owed.max(usize::from(self.client.is_midway()))
    }

    /// The server waits for the data of a COPY: it is not late, however long that takes.
    pub(crate) fn awaits_client(&self) -> bool {
        self.debt.awaits_client()
    }

    /// A COPY failed, and whether one more ReadyForQuery comes for it shows when the next answer
    /// begins.
    pub(crate) fn is_unsure(&self) -> bool {
        self.debt.is_unsure()
    }

    /// The session has begun, and what came of the server ends with a message.
    pub(crate) fn is_between(&self) -> bool {
        self.status != Status::Unknown && !self.server.is_midway()
    }

    pub(crate) fn transaction(&self) -> Status {
        self.status
    }

    /// Notifications may come that the next user did not ask for.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// Something may be left in the session: settings, locks, temporary tables.
    pub(super) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// The connection ended, or something happened on it that is not understood: it must not be
    /// reused.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost || self.debt.is_lost()
    }

    /// What the server said of itself last, if it does.
    pub(crate) fn role(&self) -> Option<Role> {
        self.parameters.role()
    }

    /// Statements that were prepared, and not run or closed since.
    pub(super) fn unbound(&self) -> &Arc<Unbound> {
        &self.unbound
    }

    /// Stands for the path on which the session looks for names.
    pub(super) fn path(&self) -> u64 {
        self.path.now()
    }

    /// Another number than before: nothing is left of what was prepared.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten + self.path.lost()
    }

    /// A prepared statement was found outdated since this was asked last: others may be, in any session.
    pub(super) fn take_outdated(&mut self) -> bool {
        std::mem::take(&mut self.is_outdated)
    }

    /// What failed last was refused before anything was run.
    pub(super) fn was_early(&self) -> bool {
        self.was_early
    }

    /// An error that came since this was asked last, the oldest first, each kind once.
    pub(crate) fn take_error(&mut self) -> Option<PgError> {
        self.errors.take()
    }

    /// How long the longest message of the server was since this was asked last, its header included.
    /// The one under way counts as soon as it is announced.
    pub(crate) fn longest(&mut self) -> u64 {
        std::mem::replace(&mut self.longest, self.under_way)
    }

    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.client.next(&mut bytes) {
            match piece {
                Piece::Start { tag, len } => self.sending = self.begins_to_send(tag, len),
                Piece::Body(body) => self.sending.read(body),
                Piece::End => self.has_sent(),
                Piece::Broken => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }

    fn begins_to_send(&mut self, tag: u8, len: usize) -> Sending {
        match tag {
            0 => {
                self.is_lost |= len > LONGEST_STARTUP;
                return Sending::Startup([0; 4], 0);
            }
            b'Q' => {
                self.will_forget = self.debt.owed() == 0 && self.status == Status::Idle;
                self.debt.whole();
                return Sending::Query(Opening::of_query());
            }
            b'F' => self.debt.whole(),
            b'P' => {
                self.debt.work();
                return Sending::Parse(Opening::of_parse());
            }
            b'B' | b'D' | b'E' | b'C' => {
                self.debt.work();
                // Only of these anything has to be known.
                if self.unbound.len() + self.doers.len() > 0 {
                    match tag {
                        b'B' => return Sending::Bind(Named::of_bind()),
                        b'C' => return Sending::Close(Named::of_close()),
                        _ => {}
                    }
                }
            }
            b'S' => self.debt.sync(),
            b'c' | b'f' => self.debt.data_end(),
            // Flush, the data of a COPY, and whatever answers a request for authentication.
            b'H' | b'd' | b'p' => {}
            // Terminate, or nothing that is known.
            _ => self.is_lost = true,
        }
        Sending::Nothing
    }

    fn has_sent(&mut self) {
        match std::mem::replace(&mut self.sending, Sending::Nothing) {
            Sending::Startup(code, 4) => self.has_started(u32::from_be_bytes(code)),
            Sending::Startup(..) => self.is_lost = true,
            Sending::Query(text) => {
                self.path.said(text.path());
                self.will_last(text.lasts());
                self.is_touched |= text.touches();
                let is_clean = text.says() == Says::Forget && !text.only_stops_listening();
                self.will_clean = self.will_forget && is_clean;
                self.has_said(text.says());
            }
            Sending::Parse(text) => self.prepares(&text),
            Sending::Bind(statement) => {
                if let Some(number) = statement.number() {
                    self.unbound.known(number);
                    if let Some(doer) = self.doers.iter().find(|doer| doer.number == number) {
                        self.is_listening |= doer.listens;
                        self.is_touched |= doer.touches;
                        self.will_last(doer.lasting);
                    }
                }
            }
            Sending::Close(statement) => {
                if let Some(number) = statement.number() {
                    self.unbound.known(number);
                    self.doers.retain(|doer| doer.number != number);
                }
            }
            Sending::Nothing => {}
        }
    }

    fn will_last(&mut self, lasting: Lasting) {
        let others_wait = std::mem::replace(&mut self.texts_wait, true);
        self.lasting = if others_wait { self.lasting.or(lasting) } else { lasting };
    }

    fn prepares(&mut self, text: &Opening) {
        self.path.said(text.path());
        self.will_last(text.lasts());
        let (listens, touches) = (text.says() == Says::Listen, text.touches());
        self.is_touched |= touches;
        if listens {
            self.has_said(Says::Listen);
        }
        if let Some(number) = text.name() {
            self.unbound.parse(number, text.hash(), self.debt.answers());
            let lasting = text.lasts();
            if listens || touches || lasting != Lasting::default() {
                // A session with more of them than anybody can remember is not used again.
                self.is_lost |= self.doers.len() >= MOST_DOERS;
                self.doers.push(Doer { number, listens, touches, lasting });
            }
        }
    }

    fn has_started(&mut self, code: u32) {
        match (code >> 16, code & 0xffff) {
            (3, _) => {
                self.debt.whole();
                self.client.become_typed();
            }
            // SSLRequest and GSSENCRequest; a startup follows.
            (1234, 5679 | 5680) => self.awaits_byte = true,
            // CancelRequest, after which the server closes the connection, or nothing that is known.
            _ => self.is_lost = true,
        }
    }

    fn has_said(&mut self, says: Says) {
        self.will_forget &= says == Says::Forget;
        self.is_listening |= says == Says::Listen;
    }

    pub(crate) fn received(&mut self, mut bytes: &[u8]) {
        if self.awaits_byte
            && let Some(first) = bytes.first()
        {
            self.awaits_byte = false;
            match first {
                b'S' | b'G' | b'N' => bytes = &bytes[1..],
                // A server that never heard of encryption says an error.
                b'E' => {}
                _ => self.is_lost = true,
            }
        }
        while let Some(piece) = self.server.next(&mut bytes) {
            match piece {
                Piece::Start { tag, len } => {
                    self.under_way = len as u64 + HEADER;
                    self.longest = self.longest.max(self.under_way);
                    self.receiving = self.begins_to_receive(tag, len);
                }
                Piece::Body(body) => self.reads(body),
                Piece::End => {
                    self.under_way = 0;
                    self.has_received();
                }
                Piece::Broken => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }

    fn begins_to_receive(&mut self, tag: u8, len: usize) -> Receiving {
        let is_owed = self.debt.owed() > 0;
        if !matches!(tag, b'A' | b'N' | b'S' | b'Z') {
            self.debt.answer_begins();
        }
        match tag {
            // These come at any time. A notification for nobody: something subscribed that was not
            // seen to.
            b'A' => self.is_listening = true,
            b'N' => {}
            b'S' => return Receiving::Parameter(Parameter::new()),
            b'E' => {
                self.is_lost |= !is_owed;
                return Receiving::Error(Fields::default());
            }
            _ if !is_owed => self.is_lost = true,
            b'Z' => {
                self.is_lost |= len != 1;
                return Receiving::Ready;
            }
            b'G' => self.debt.copy_in(),
            b'C' => {
                self.debt.complete();
                return Receiving::Complete(Parameter::new());
            }
            // Replication: both sides talk at will, and no pool has a use for that.
            b'W' => self.is_lost = true,
            b'1' => self.unbound.answered(),
            b'2' => self.is_bound = true,
            b'3' | b'D' | b'H' | b'I' | b'K' | b'R' | b'T' | b'V' => {}
            b'c' | b'd' | b'n' | b's' | b't' | b'v' => {}
            _ => self.is_lost = true,
        }
        Receiving::Nothing
    }

    fn reads(&mut self, body: &[u8]) {
        match &mut self.receiving {
            Receiving::Error(fields) => fields.read(body),
            Receiving::Parameter(text) | Receiving::Complete(text) => text.read(body),
            Receiving::Ready => match body {
                b"I" => self.status = Status::Idle,
                b"T" => self.status = Status::InTransaction,
                b"E" => self.status = Status::Failed,
                _ => self.is_lost = true,
            },
            Receiving::Nothing => {}
        }
    }

    fn has_received(&mut self) {
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::Error(fields) => {
                let mut error = fields.error();
                error.is_early = !self.is_bound && self.debt.is_extended();
                // The latter: the number of a type, say, that is not in the catalogue any more.
                let is_outdated = fields.is_of_plan() || error.code == *b"XX000";
                self.is_outdated |= is_outdated && error.is_early;
                self.was_early = error.is_early;
                self.path.failed();
                self.unbound.failed();
                self.is_lost |= error.fatal;
                self.will_forget = false;
                self.errors.note(error);
                self.debt.failed();
            }
            Receiving::Parameter(parameter) => {
                if parameter.word() == b"search_path" {
                    self.path.reported(parameter.hash());
                }
                self.parameters.set(&parameter);
            }
            Receiving::Complete(tag) => self.has_completed(tag.word()),
            Receiving::Ready => {
                self.debt.ready();
                self.unbound.ready();
                self.path.ready(self.status);
                self.is_bound = false;
                self.texts_wait &= self.debt.owed() > 0;
                // What is run without a text was prepared before.
                if std::mem::take(&mut self.has_completed) {
                    self.lasting = Lasting::default();
                }
                let is_cleaned = std::mem::take(&mut self.will_clean);
                if std::mem::take(&mut self.will_forget) && self.status == Status::Idle {
                    self.is_listening = false;
                    self.is_touched &= !is_cleaned;
                }
            }
            Receiving::Nothing => {}
        }
    }

    /// A statement is complete, wherever it stood in its text.
    fn has_completed(&mut self, tag: &[u8]) {
        self.has_completed = true;
        self.path.complete(tag, self.status);
        self.is_touched |= !self.will_clean && self.lasting.is_left_by(tag);
        match tag {
            b"LISTEN" => self.is_listening = true,
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                self.forgotten += 1;
                self.unbound.clear();
                self.doers.clear();
                if tag == b"DISCARD ALL" {
                    self.path.discarded();
                }
            }
            b"DEALLOCATE" => self.forgotten += 1,
            _ => {}
        }
    }
}
