//! [`PgScanner`]: reads along with a PostgreSQL client, protocol 3. Pure.

use super::outstanding::OutstandingReplies;
use super::role::ServerRole;
use super::search_path::SearchPath;
use super::statement_text::{LastingEffect, ListenEffect, StatementText};
use super::unclaimed::UnclaimedStatements;
use super::wire_format::{
    ErrorFields, ErrorQueue, Framer, PgError, Piece, Receiving, RoleParameters, Sending, ShortText,
    StatementReference,
};
use crate::sync::Arc;

/// The state of the session's transaction, as the last ReadyForQuery said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransactionStatus {
    Idle,
    InTransaction,
    /// In a transaction that failed, and has to be rolled back.
    Failed,
    /// Before the first ReadyForQuery.
    Unknown,
}

/// A type and a length.
const HEADER: u64 = 5;

/// The longest startup message a server takes.
const MAX_STARTUP: usize = 10_000;

/// What a transaction fails with that stands in the way of another one: serialization_failure and
/// deadlock_detected.
pub(super) const CONFLICTS: [&[u8; 5]; 2] = [b"40001", b"40P01"];

/// The number of prepared statements with an effect of their own that are remembered of a session.
const MAX_EFFECTFUL: usize = 1024;

/// A prepared statement that may do more when it is run than its answer tells, or less.
#[derive(Debug, Clone, Copy, Default)]
struct EffectfulStatement {
    number: u64,
    listens: bool,
    touches: bool,
    lasting: LastingEffect,
}

/// The state machine of one connection, which reads both directions from the first byte on.
#[derive(Debug)]
pub(crate) struct PgScanner {
    client: Framer,
    sending: Sending,
    server: Framer,
    receiving: Receiving,
    outstanding: OutstandingReplies,
    /// Whether an SSLRequest is unanswered, which one bare byte answers.
    awaits_byte: bool,
    status: TransactionStatus,
    is_listening: bool,
    /// Whether a text that ends all subscriptions is unanswered, outside of a transaction.
    will_forget: bool,
    /// Whether the session may have state of its user.
    is_touched: bool,
    /// Whether a text that resets the session is unanswered, outside of a transaction.
    will_clean: bool,
    /// The properties of the last text, or of all that are unanswered.
    lasting: LastingEffect,
    has_unanswered_text: bool,
    has_completed: bool,
    /// Prepared statements with an effect on the session that no tag tells of.
    effectful: Vec<EffectfulStatement>,
    unclaimed: Arc<UnclaimedStatements>,
    path: SearchPath,
    /// The number of times that the session lost prepared statements.
    forgotten: u64,
    /// Whether a prepared statement was found outdated.
    is_outdated: bool,
    /// Whether a BindComplete has come since the last ReadyForQuery.
    is_bound: bool,
    /// Whether the last error came before a BindComplete.
    was_early: bool,
    /// Whether the last error was a conflict with another transaction, and nothing was run since.
    met_conflict: bool,
    errors: ErrorQueue<PgError>,
    /// The SQLSTATE of the last error; zeros before one.
    last_code: [u8; 5],
    parameters: RoleParameters,
    /// The length in bytes of the longest message since it was asked last.
    longest: u64,
    /// The length in bytes of the message under way; 0 between two.
    under_way: u64,
    is_lost: bool,
}

impl PgScanner {
    pub(crate) fn new() -> Self {
        Self {
            client: Framer::untyped(),
            sending: Sending::Nothing,
            server: Framer::typed(),
            receiving: Receiving::Nothing,
            outstanding: OutstandingReplies::new(),
            awaits_byte: false,
            status: TransactionStatus::Unknown,
            is_listening: false,
            will_forget: false,
            is_touched: false,
            will_clean: false,
            lasting: LastingEffect::default(),
            has_unanswered_text: false,
            has_completed: false,
            effectful: Vec::new(),
            unclaimed: Arc::default(),
            path: SearchPath::new(),
            forgotten: 0,
            is_outdated: false,
            is_bound: false,
            was_early: false,
            met_conflict: false,
            errors: ErrorQueue::new(),
            last_code: [0; 5],
            parameters: RoleParameters::default(),
            longest: 0,
            under_way: 0,
            is_lost: false,
        }
    }

    /// The number of answers that are owed. Messages without a Sync and a message half sent count
    /// as one: nothing answers them, but nobody else may speak in between.
    pub(crate) fn owed(&self) -> usize {
        let owed = self.outstanding.owed() + usize::from(self.awaits_byte);
        owed.max(usize::from(self.client.is_midway()))
    }

    /// Whether the server waits for the data of a COPY, and is not late, however long that takes.
    pub(crate) fn awaits_client(&self) -> bool {
        self.outstanding.awaits_client()
    }

    /// Whether a COPY failed for which one more ReadyForQuery may come. The beginning of the next
    /// reply shows it.
    pub(crate) fn is_unsure(&self) -> bool {
        self.outstanding.is_unsure()
    }

    /// Whether the session has begun, and the server's bytes so far end with a message.
    pub(crate) fn is_between(&self) -> bool {
        self.status != TransactionStatus::Unknown && !self.server.is_midway()
    }

    pub(crate) fn transaction(&self) -> TransactionStatus {
        self.status
    }

    /// Whether notifications may come that the next user did not ask for.
    pub(crate) fn is_listening(&self) -> bool {
        self.is_listening
    }

    /// What was touched up to now, or listened to, is no user's doing.
    pub(super) fn settle(&mut self) {
        self.is_touched = false;
        self.is_listening = false;
    }

    /// Whether state may be left in the session: settings, locks, temporary tables.
    pub(super) fn is_touched(&self) -> bool {
        self.is_touched
    }

    /// Whether the connection must not be used again: it has ended, or a message on it is not
    /// understood.
    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost || self.outstanding.is_lost()
    }

    /// The role that the server reported last, if it does.
    pub(crate) fn role(&self) -> Option<ServerRole> {
        self.parameters.role()
    }

    /// Statements that were prepared, and not run or closed since.
    pub(super) fn unclaimed(&self) -> &Arc<UnclaimedStatements> {
        &self.unclaimed
    }

    /// The number of the path on which the session looks for names.
    pub(super) fn path(&self) -> u64 {
        self.path.now()
    }

    /// The number of times that prepared statements were lost, or became useless under a path that
    /// is unknown.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten + self.path.times_unknown()
    }

    /// Takes whether a prepared statement was found outdated: others may be, in any session.
    pub(super) fn take_outdated(&mut self) -> bool {
        std::mem::take(&mut self.is_outdated)
    }

    /// Whether the last statement that failed was refused before anything was run.
    pub(super) fn was_early(&self) -> bool {
        self.was_early
    }

    /// Whether the last error was a conflict with another transaction (serialization failure, deadlock), and
    /// nothing was run since but what undoes.
    pub(super) fn met_conflict(&self) -> bool {
        self.met_conflict
    }

    /// The SQLSTATE of the last error; zeros before one.
    pub(super) fn last_code(&self) -> [u8; 5] {
        self.last_code
    }

    /// Takes an error, the oldest first, each kind once.
    pub(crate) fn take_error(&mut self) -> Option<PgError> {
        self.errors.pop()
    }

    /// The length in bytes of the server's longest message since this was asked last, with its
    /// header. A message counts as soon as it is announced.
    pub(crate) fn longest(&mut self) -> u64 {
        std::mem::replace(&mut self.longest, self.under_way)
    }

    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.client.next(&mut bytes) {
            match piece {
                Piece::Start { tag, len } => self.sending = self.begin_sent(tag, len),
                Piece::Body(body) => self.sending.read(body),
                Piece::End => self.handle_sent(),
                Piece::Broken => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }

    fn begin_sent(&mut self, tag: u8, len: usize) -> Sending {
        match tag {
            0 => {
                self.is_lost |= len > MAX_STARTUP;
                return Sending::Startup([0; 4], 0);
            }
            b'Q' => {
                // Only a text that is alone, outside of a transaction: in one a rollback brings the
                // subscriptions back, and behind another text nobody knows which answer is its own.
                self.will_forget =
                    self.outstanding.owed() == 0 && self.status == TransactionStatus::Idle;
                self.outstanding.request_sent();
                return Sending::Query(StatementText::of_query());
            }
            // FunctionCall: answered as a Query is.
            b'F' => self.outstanding.request_sent(),
            b'P' => {
                self.outstanding.extended_sent();
                return Sending::Parse(StatementText::of_parse());
            }
            // Bind, Describe, Execute, Close. With a failed one the server skips to the next Sync.
            b'B' | b'D' | b'E' | b'C' => {
                self.outstanding.extended_sent();
                // The name is read only where a statement is looked for: most sessions have none.
                let has_lasting = self.lasting != LastingEffect::default();
                if has_lasting || self.unclaimed.len() + self.effectful.len() > 0 {
                    match tag {
                        b'B' => return Sending::Bind(StatementReference::of_bind()),
                        b'C' => return Sending::Close(StatementReference::of_close()),
                        _ => {}
                    }
                }
            }
            b'S' => self.outstanding.sync_sent(),
            // CopyDone, CopyFail.
            b'c' | b'f' => self.outstanding.copy_end_sent(),
            // Flush, the data of a COPY, and whatever answers a request for authentication.
            b'H' | b'd' | b'p' => {}
            // Terminate, or nothing that is known.
            _ => self.is_lost = true,
        }
        Sending::Nothing
    }

    fn handle_sent(&mut self) {
        match std::mem::replace(&mut self.sending, Sending::Nothing) {
            Sending::Startup(code, 4) => self.handle_startup(u32::from_be_bytes(code)),
            Sending::Startup(..) => self.is_lost = true,
            Sending::Query(text) => {
                self.path.set_effect(text.path());
                self.note_lasting_effect(text.lasting_effect());
                self.is_touched |= text.touches();
                self.will_clean = self.will_forget && text.is_clean();
                self.note_listen_effect(text.listen_effect());
            }
            Sending::Parse(text) => self.note_parse(&text),
            Sending::Bind(statement) => {
                if let Some(number) = statement.number() {
                    self.unclaimed.remove(number);
                    let mut known = self.effectful.iter();
                    let statement = known.find(|statement| statement.number == number);
                    let statement = statement.copied().unwrap_or_default();
                    self.is_listening |= statement.listens;
                    self.is_touched |= statement.touches;
                    self.note_lasting_effect(statement.lasting);
                }
            }
            Sending::Close(statement) => {
                if let Some(number) = statement.number() {
                    self.unclaimed.remove(number);
                    self.effectful.retain(|statement| statement.number != number);
                }
            }
            Sending::Nothing => {}
        }
    }

    fn note_lasting_effect(&mut self, lasting: LastingEffect) {
        let others_wait = std::mem::replace(&mut self.has_unanswered_text, true);
        self.lasting = if others_wait { self.lasting.or(lasting) } else { lasting };
    }

    fn note_parse(&mut self, text: &StatementText) {
        self.path.set_effect(text.path());
        self.note_lasting_effect(text.lasting_effect());
        let (listens, touches) = (text.listen_effect() == ListenEffect::Listen, text.touches());
        self.is_touched |= touches;
        if listens {
            self.note_listen_effect(ListenEffect::Listen);
        }
        if let Some(number) = text.name() {
            self.unclaimed.add(number, text.hash(), self.outstanding.replies());
            let lasting = text.lasting_effect();
            if listens || touches || lasting != LastingEffect::default() {
                // A session with more of them than anybody can remember is not used again.
                self.is_lost |= self.effectful.len() >= MAX_EFFECTFUL;
                self.effectful.push(EffectfulStatement { number, listens, touches, lasting });
            }
        }
    }

    fn handle_startup(&mut self, code: u32) {
        match (code >> 16, code & 0xffff) {
            (3, _) => {
                self.outstanding.request_sent();
                self.client.become_typed();
            }
            // SSLRequest and GSSENCRequest ("SSL Session Encryption"); a StartupMessage follows.
            (1234, 5679 | 5680) => self.awaits_byte = true,
            // CancelRequest, after which the server closes the connection, or nothing that is known.
            _ => self.is_lost = true,
        }
    }

    fn note_listen_effect(&mut self, listen_effect: ListenEffect) {
        self.will_forget &= listen_effect == ListenEffect::Forget;
        self.is_listening |= listen_effect == ListenEffect::Listen;
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
                    self.receiving = self.begin_received(tag, len);
                }
                Piece::Body(body) => self.read_body(body),
                Piece::End => {
                    self.under_way = 0;
                    self.handle_received();
                }
                Piece::Broken => {
                    self.is_lost = true;
                    return;
                }
            }
        }
    }

    fn begin_received(&mut self, tag: u8, len: usize) -> Receiving {
        let is_owed = self.outstanding.owed() > 0;
        // A ReadyForQuery alone may still be that of a Sync before, which seemed ignored.
        if !matches!(tag, b'A' | b'N' | b'S' | b'Z') {
            self.outstanding.reply_begins();
        }
        match tag {
            // These come at any time. A notification for nobody: something subscribed that was not
            // seen to.
            b'A' => self.is_listening = true,
            b'N' => {}
            b'S' => return Receiving::ParameterStatus(ShortText::new()),
            // Unasked, it is the last message: an administrator has ended the session, say.
            b'E' => {
                self.is_lost |= !is_owed;
                return Receiving::ErrorResponse(ErrorFields::default());
            }
            // From here on only answers: without a request the two sides do not agree any more.
            _ if !is_owed => self.is_lost = true,
            b'Z' => {
                self.is_lost |= len != 1;
                return Receiving::ReadyForQuery;
            }
            // CopyInResponse: the server waits for data, and ignores Syncs from here on.
            b'G' => self.outstanding.copy_in_response(),
            b'C' => {
                self.outstanding.command_complete();
                return Receiving::CommandComplete(ShortText::new());
            }
            // Replication: both sides talk at will, and no pool has a use for that.
            b'W' => self.is_lost = true,
            b'1' => self.unclaimed.parse_complete(),
            // BindComplete: an error that comes now is one of running, and the statement may have acted.
            b'2' => self.is_bound = true,
            // CloseComplete, DataRow, CopyOutResponse, EmptyQueryResponse, BackendKeyData, Authentication,
            // RowDescription, FunctionCallResponse; then CopyDone, CopyData, NoData, PortalSuspended,
            // ParameterDescription, NegotiateProtocolVersion.
            b'3' | b'D' | b'H' | b'I' | b'K' | b'R' | b'T' | b'V' => {}
            b'c' | b'd' | b'n' | b's' | b't' | b'v' => {}
            _ => self.is_lost = true,
        }
        Receiving::Nothing
    }

    fn read_body(&mut self, body: &[u8]) {
        match &mut self.receiving {
            Receiving::ErrorResponse(fields) => fields.read(body),
            Receiving::ParameterStatus(text) | Receiving::CommandComplete(text) => text.read(body),
            Receiving::ReadyForQuery => match body {
                b"I" => self.status = TransactionStatus::Idle,
                b"T" => self.status = TransactionStatus::InTransaction,
                b"E" => self.status = TransactionStatus::Failed,
                _ => self.is_lost = true,
            },
            Receiving::Nothing => {}
        }
    }

    fn handle_received(&mut self) {
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::ErrorResponse(fields) => {
                let mut error = fields.error();
                error.is_early = !self.is_bound && self.outstanding.is_extended();
                // XX000 (internal_error): the number of a type, say, that is not in the catalogue any more.
                let is_outdated = fields.is_stale_plan() || error.code == *b"XX000";
                self.is_outdated |= is_outdated && error.is_early;
                self.was_early = error.is_early;
                // What is said in a transaction that has failed (25P02) changes nothing.
                if error.code != *b"25P02" {
                    self.met_conflict = CONFLICTS.contains(&&error.code);
                }
                self.path.error_response();
                self.unclaimed.error_response();
                self.is_lost |= error.fatal;
                // A text that failed has unsubscribed nothing.
                self.will_forget = false;
                self.last_code = error.code;
                self.errors.push(error);
                self.outstanding.error_response();
            }
            Receiving::ParameterStatus(parameter) => {
                if parameter.first_string() == b"search_path" {
                    self.path.reported(parameter.hash());
                }
                self.parameters.set(&parameter);
            }
            Receiving::CommandComplete(tag) => self.command_complete(tag.first_string()),
            Receiving::ReadyForQuery => {
                self.outstanding.ready_for_query();
                self.unclaimed.ready_for_query();
                self.path.ready_for_query(self.status);
                self.is_bound = false;
                self.has_unanswered_text &= self.outstanding.owed() > 0;
                // The next statement may come without a text, prepared before: these properties are not
                // its own.
                if std::mem::take(&mut self.has_completed) {
                    self.lasting = LastingEffect::default();
                }
                let is_cleaned = std::mem::take(&mut self.will_clean);
                if std::mem::take(&mut self.will_forget) && self.status == TransactionStatus::Idle {
                    self.is_listening = false;
                    self.is_touched &= !is_cleaned;
                }
            }
            Receiving::Nothing => {}
        }
    }

    /// Notes a CommandComplete, wherever the statement stood in its text.
    fn command_complete(&mut self, tag: &[u8]) {
        self.has_completed = true;
        // To a savepoint, or of all.
        self.met_conflict &= tag == b"ROLLBACK";
        self.path.command_complete(tag, self.status);
        self.is_touched |= !self.will_clean && self.lasting.leaves_state(tag);
        match tag {
            // Those of the last two are in code that no text tells of.
            b"LISTEN" | b"DO" | b"CALL" => self.is_listening = true,
            b"DISCARD ALL" | b"DEALLOCATE ALL" => {
                self.forgotten += 1;
                self.unclaimed.clear();
                self.effectful.clear();
                if tag == b"DISCARD ALL" {
                    self.path.discarded();
                }
            }
            // One of SQL's `PREPARE`, or one of the cache: the tag does not tell which.
            b"DEALLOCATE" => self.forgotten += 1,
            _ => {}
        }
    }
}
