//! [`ConnectError`]: the reasons why no connection could be made, address by address.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::resolve::is_no_such_name;
use crate::causes::{self, OneLine};
use crate::event::DialOutcome;
use crate::foreign::Held;

/// The error of a dial that made no connection.
///
/// The text lists every address that was tried and what became of it, and says what to change where
/// that is obvious, in one line. The error has no [`source`](Error::source), which would say the
/// same again: a protocol's own error is found by its type with [`find`](Self::find).
///
/// ```
/// use livepool::{Config, Connector};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let closed = { std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string() };
/// // `closed` is an address where nobody listens.
/// let error = Connector::new(&Config::new(closed))?.connect().await.unwrap_err();
/// assert!(error.is_retryable() && !error.is_timeout());
/// println!("{error}");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectError {
    upstream: String,
    attempts: Vec<ConnectAttempt>,
    took: Duration,
    limit: Option<Duration>,
    kind: DialOutcome,
}

/// An attempt of a dial that failed: looking a name up, or connecting to an address.
///
/// ```
/// use livepool::ConnectError;
///
/// fn show(error: &ConnectError) {
///     for attempt in error.attempts() {
///         println!("{attempt:?}");
///     }
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ConnectAttempt {
    target: String,
    /// The error of this attempt; a protocol's own error may be in it.
    error: Arc<Held<io::Error>>,
    took: Duration,
    stage: AttemptStage,
    /// The name of the protocol that the program there has to speak, if nothing shows that it does.
    unproved_protocol: Option<&'static str>,
}

/// The stage of an attempt in which it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AttemptStage {
    /// The lookup of the name.
    Resolve,
    /// The setting of the socket's options.
    Setup,
    /// The connect.
    Connect,
    /// The protocol's handshake with the program there.
    Handshake,
    /// The handshake, refused for a reason that lasts until somebody changes something.
    Denied,
    /// What the pool's user has done to a new connection.
    Hook,
}

impl AttemptStage {
    /// How an attempt has ended that failed in this stage with this error.
    pub(super) fn outcome(self, error: &io::Error) -> DialOutcome {
        match (self, error.kind()) {
            (AttemptStage::Resolve, _) => DialOutcome::Resolve,
            (AttemptStage::Setup, _) => DialOutcome::Error,
            (AttemptStage::Handshake | AttemptStage::Denied, _) => DialOutcome::Handshake,
            (AttemptStage::Hook, _) => DialOutcome::Hook,
            // A Unix socket that is not there is what a port nobody listens on is for TCP.
            (_, io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => DialOutcome::Refused,
            (_, io::ErrorKind::TimedOut) => DialOutcome::Timeout,
            (_, io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                DialOutcome::Unreachable
            }
            _ => DialOutcome::Error,
        }
    }
}

impl AttemptStage {
    fn is_of_handshake(self) -> bool {
        matches!(self, Self::Handshake | Self::Denied | Self::Hook)
    }
}

impl ConnectError {
    /// The error of a dial all of whose attempts failed.
    pub(crate) fn failed(upstream: String, attempts: Vec<ConnectAttempt>, took: Duration) -> Self {
        let kind = most_telling(&attempts);
        Self { upstream, attempts, took, limit: None, kind }
    }

    /// The error of a dial whose deadline passed, `limit` after the start.
    pub(crate) fn timed_out(
        upstream: String,
        attempts: Vec<ConnectAttempt>,
        took: Duration,
        limit: Duration,
    ) -> Self {
        Self { upstream, attempts, took, limit: Some(limit), kind: DialOutcome::Timeout }
    }

    /// The error with these earlier attempts before its own, and with one limit for all of them.
    pub(crate) fn after(
        mut self,
        mut earlier: Vec<ConnectAttempt>,
        took: Duration,
        limit: Option<Duration>,
    ) -> Self {
        // In the order of time: `is_in_handshake` and the hints look at the last attempt.
        earlier.append(&mut self.attempts);
        // The limit is told if it is what ended the dial.
        match limit.filter(|_| self.limit.is_some()) {
            Some(limit) => Self::timed_out(self.upstream, earlier, took, limit),
            None => Self::failed(self.upstream, earlier, took),
        }
    }

    /// Whether the last attempt failed in its handshake.
    pub(crate) fn is_in_handshake(&self) -> bool {
        self.attempts.last().is_some_and(|last| last.stage == AttemptStage::Handshake)
    }

    /// The cause of this type at one of the attempts, the last one first: the protocol's own error, say,
    /// or an [`io::Error`].
    ///
    /// ```
    /// # fn f(error: livepool::ConnectError) {
    /// if let Some(refused) = error.find::<std::io::Error>() {
    ///     println!("{:?}", refused.kind());
    /// }
    /// # }
    /// ```
    pub fn find<E: Error + 'static>(&self) -> Option<&E> {
        self.attempts.iter().rev().find_map(|attempt| causes::find(attempt.error()))
    }

    /// The upstream as it was configured; several entries with commas between.
    pub fn upstream(&self) -> &str {
        &self.upstream
    }

    /// The attempts in the order in which they failed; those still under way at the deadline come
    /// last. Empty if the deadline had passed before anything could be tried.
    pub fn attempts(&self) -> &[ConnectAttempt] {
        &self.attempts
    }

    /// Time from the start of the dial.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// The kind of failure: the deadline if that passed, else the most telling of the attempts.
    pub fn kind(&self) -> DialOutcome {
        self.kind
    }

    /// Whether time ran out, by our deadline or by the kernel's.
    pub fn is_timeout(&self) -> bool {
        self.kind == DialOutcome::Timeout
    }

    /// Whether the same dial may succeed later without anybody changing anything. False when no
    /// address got past a socket option, a permission or an address that is not valid, and when the
    /// program there refused for a reason that lasts: a wrong password, say.
    pub fn is_retryable(&self) -> bool {
        !self.is_denied()
            && (self.kind != DialOutcome::Error
                || self.attempts.iter().any(ConnectAttempt::may_pass))
    }

    /// Whether the program at the other end refused for a reason that lasts.
    pub fn is_denied(&self) -> bool {
        self.attempts.iter().any(|attempt| attempt.stage == AttemptStage::Denied)
    }

    /// Whether every address gave an answer that a wrong setting would bring, too, or none at all: the
    /// name is unknown, nobody listens, what listens there speaks another protocol. A name server in
    /// trouble, a lack of descriptors and a server that says that it has no room pass by themselves.
    pub(crate) fn is_conclusive(&self) -> bool {
        !self.attempts.is_empty() && self.attempts.iter().all(ConnectAttempt::is_conclusive)
    }

    /// The advice where an attempt failed because there was no file descriptor for it, which says
    /// nothing about the upstream.
    pub(crate) fn shortage(&self) -> Option<&'static str> {
        self.attempts.iter().find_map(|attempt| shortage(&attempt.error))
    }

    fn hint(&self) -> Option<Cow<'static, str>> {
        // First: without descriptors the other errors say nothing about the upstream.
        if let Some(advice) = self.shortage() {
            return Some(advice.into());
        }
        let of_lookup = |attempt: &ConnectAttempt| attempt.stage == AttemptStage::Resolve;
        let advice = match self.kind {
            DialOutcome::Refused => "is the upstream running, and listening there?",
            DialOutcome::Resolve if self.is_conclusive() => "check the name",
            DialOutcome::Resolve => "check the resolver: it gave no answer",
            DialOutcome::Timeout | DialOutcome::Handshake if !self.is_denied() => {
                if let Some(speaks) =
                    self.attempts.iter().rev().find_map(|one| one.unproved_protocol)
                {
                    return Some(self.protocol_question(speaks).into());
                }
                match self.attempts.last() {
                    _ if self.kind == DialOutcome::Handshake => return None,
                    // It says itself whose time was up.
                    Some(last) if last.stage.is_of_handshake() => return None,
                    Some(last) if of_lookup(last) => "check the resolver: it gave no answer",
                    _ => {
                        "check route and firewall, or raise timeouts.connect if it is just far away"
                    }
                }
            }
            DialOutcome::Unreachable => "check route and firewall",
            DialOutcome::Error
                if self.attempts.iter().any(|one| one.stage == AttemptStage::Setup) =>
            {
                "change or remove the option, or list it in socket.best_effort"
            }
            _ => return None,
        };
        Some(advice.into())
    }

    /// The question to ask where nothing shows that the server speaks the protocol.
    fn protocol_question(&self, speaks: &str) -> String {
        let speaks = if speaks.is_empty() { "this protocol" } else { speaks };
        let or_else = match self.kind {
            DialOutcome::Timeout => "if it is just slow, raise timeouts.connect",
            _ => "a proxy without a server behind it looks the same",
        };
        format!("does the server there speak {speaks}? {or_else}")
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_of_handshake = |one: &ConnectAttempt| one.stage.is_of_handshake();
        // Where every address was reached, it is not the connect that failed.
        let all_connected = self.attempts.iter().all(is_of_handshake) && !self.attempts.is_empty();
        let is_of_hooks = self.attempts.iter().all(|one| one.stage == AttemptStage::Hook);
        match (all_connected, self.limit) {
            (true, _) if is_of_hooks => write!(f, "connected to {}, but not ready", self.upstream)?,
            (true, None) => write!(f, "the handshake with {} failed", self.upstream)?,
            (true, Some(_)) => write!(f, "the handshake with {} did not end", self.upstream)?,
            (false, _) => write!(f, "could not connect to {}", self.upstream)?,
        }
        if let Some(limit) = self.limit {
            write!(f, " within {limit:.1?}")?;
        }
        for (index, attempt) in self.attempts.iter().enumerate() {
            f.write_str(if index == 0 { ": " } else { "; " })?;
            // An upstream that is this single address has just been named.
            if attempt.target != self.upstream {
                write!(f, "{}: ", attempt.target)?;
            }
            if is_of_handshake(attempt) && !all_connected {
                f.write_str(match attempt.stage {
                    AttemptStage::Hook => "connected, but ",
                    _ => "connected, but the handshake failed: ",
                })?;
            }
            f.write_str(&lower_first(&attempt.text()))?;
        }
        match self.hint() {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl Error for ConnectError {}

impl From<ConnectError> for io::Error {
    fn from(error: ConnectError) -> Self {
        let kind = match error.kind {
            DialOutcome::Refused => io::ErrorKind::ConnectionRefused,
            DialOutcome::Timeout => io::ErrorKind::TimedOut,
            DialOutcome::Unreachable => io::ErrorKind::HostUnreachable,
            DialOutcome::Resolve => io::ErrorKind::NotFound,
            _ => error.attempts.last().map_or(io::ErrorKind::Other, |last| last.error.kind()),
        };
        Self::new(kind, error)
    }
}

impl ConnectAttempt {
    pub(super) fn new(
        target: String,
        error: io::Error,
        took: Duration,
        stage: AttemptStage,
    ) -> Self {
        Self { target, error: Arc::new(Held::new(error)), took, stage, unproved_protocol: None }
    }

    /// An attempt that was still under way when the deadline passed.
    pub(super) fn unfinished(target: String, took: Duration, stage: AttemptStage) -> Self {
        let text = match stage {
            AttemptStage::Resolve => "still looking the name up",
            AttemptStage::Setup | AttemptStage::Connect => "still connecting",
            AttemptStage::Handshake | AttemptStage::Denied | AttemptStage::Hook => "no answer yet",
        };
        Self::new(target, io::Error::new(io::ErrorKind::TimedOut, text), took, stage)
    }

    /// An attempt whose handshake failed. `unproved_protocol`: the name of what the program there
    /// has to speak, if nothing shows that it does.
    pub(crate) fn handshake(
        target: String,
        error: io::Error,
        took: Duration,
        is_permanent: bool,
        unproved_protocol: Option<&'static str>,
    ) -> Self {
        let stage = if is_permanent { AttemptStage::Denied } else { AttemptStage::Handshake };
        Self { unproved_protocol, ..Self::new(target, error, took, stage) }
    }

    /// An attempt after which the pool's user refused the connection.
    pub(crate) fn hook(target: String, error: io::Error, took: Duration) -> Self {
        Self::new(target, error, took, AttemptStage::Hook)
    }

    /// An attempt whose handshake had no answer at the deadline.
    pub(crate) fn unfinished_handshake(
        target: String,
        took: Duration,
        speaks: &'static str,
    ) -> Self {
        Self {
            unproved_protocol: Some(speaks),
            ..Self::unfinished(target, took, AttemptStage::Handshake)
        }
    }

    /// The address, or the name as configured when it is the lookup that failed.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The error of this attempt. The text of the error itself is not changed and may have words of
    /// a peer; in the text of a [`ConnectError`] they are escaped and cut.
    pub fn error(&self) -> &io::Error {
        &self.error
    }

    fn text(&self) -> String {
        OneLine(self.error()).to_string()
    }

    /// Time from the start of the attempt to its failure.
    pub fn took(&self) -> Duration {
        self.took
    }

    /// Whether the attempt was the lookup of a name.
    pub(crate) fn is_lookup(&self) -> bool {
        self.stage == AttemptStage::Resolve
    }

    fn outcome(&self) -> DialOutcome {
        self.stage.outcome(&self.error)
    }

    /// See [`ConnectError::is_conclusive`].
    fn is_conclusive(&self) -> bool {
        use io::ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, TimedOut,
        };
        match self.stage {
            AttemptStage::Resolve => is_no_such_name(&self.error),
            AttemptStage::Setup => !self.may_pass(),
            AttemptStage::Connect => matches!(
                self.error.kind(),
                ConnectionRefused | NotFound | TimedOut | HostUnreachable | NetworkUnreachable
            ),
            AttemptStage::Handshake => self.unproved_protocol.is_some(),
            AttemptStage::Denied => true,
            AttemptStage::Hook => false,
        }
    }

    fn may_pass(&self) -> bool {
        use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        // A local port that was taken is free again sooner or later.
        (self.stage != AttemptStage::Setup || self.error.kind() == io::ErrorKind::AddrInUse)
            && !matches!(self.error.kind(), InvalidInput | PermissionDenied | Unsupported)
    }
}

/// The words of a peer or a protocol are escaped and cut here as well.
impl fmt::Debug for ConnectAttempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, took, stage, .. } = self;
        f.debug_struct("ConnectAttempt")
            .field("target", target)
            .field("kind", &self.error.kind())
            .field("error", &self.text())
            .field("took", took)
            .field("phase", stage)
            .finish()
    }
}

/// The most telling outcome: what was heard from a peer says more than what was not, and a machine
/// without IPv6 must not hide that the IPv4 address refused.
fn most_telling(attempts: &[ConnectAttempt]) -> DialOutcome {
    let telling = [
        DialOutcome::Handshake,
        DialOutcome::Hook,
        DialOutcome::Refused,
        DialOutcome::Timeout,
        DialOutcome::Unreachable,
        DialOutcome::Error,
        DialOutcome::Resolve,
    ];
    let met = |outcome: &DialOutcome| attempts.iter().any(|attempt| attempt.outcome() == *outcome);
    telling.into_iter().find(met).unwrap_or(DialOutcome::Error)
}

/// The advice if `error` means that no file descriptor was left.
fn shortage(error: &io::Error) -> Option<&'static str> {
    // WSAEMFILE.
    #[cfg(not(unix))]
    let (of_process, of_system) = (10024, None);
    #[cfg(unix)]
    let (of_process, of_system) = (libc::EMFILE, Some(libc::ENFILE));
    match error.raw_os_error()? {
        code if code == of_process => Some(
            "this process has no file descriptors left: raise its limit (ulimit -n) or lower max_size",
        ),
        code if Some(code) == of_system => Some(
            "this system has no file descriptors left: raise its limit (fs.file-max on Linux) or \
             close what is not needed",
        ),
        _ => None,
    }
}

/// The text with a small first letter: the system's messages begin with a capital, which reads
/// oddly inside a clause.
fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.as_str()) {
        // A second capital: an acronym, which keeps its first.
        (Some(first), rest) if !rest.starts_with(|c: char| c.is_uppercase()) => {
            first.to_lowercase().chain(rest.chars()).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(
        target: &str,
        kind: io::ErrorKind,
        text: &str,
        stage: AttemptStage,
    ) -> ConnectAttempt {
        ConnectAttempt::new(target.into(), io::Error::new(kind, text), Duration::ZERO, stage)
    }

    fn failed(attempts: Vec<ConnectAttempt>) -> ConnectError {
        ConnectError::failed("db:5432".to_owned(), attempts, Duration::ZERO)
    }

    #[test]
    fn the_text_lists_every_attempt_and_what_to_do() {
        let attempts = vec![
            attempt(
                "10.0.0.1:5432",
                io::ErrorKind::ConnectionRefused,
                "Connection refused",
                AttemptStage::Connect,
            ),
            ConnectAttempt::unfinished("[::1]:5432".into(), Duration::ZERO, AttemptStage::Connect),
        ];
        let limit = Duration::from_secs(5);
        let error = ConnectError::timed_out("db:5432".into(), attempts, limit, limit);
        assert_eq!(
            error.to_string(),
            "could not connect to db:5432 within 5.0s: 10.0.0.1:5432: connection refused; \
             [::1]:5432: still connecting (check route and firewall, or raise timeouts.connect if it \
             is just far away)"
        );
        assert!(error.source().is_none(), "its text has said all");
        assert_eq!(error.find::<io::Error>().unwrap().to_string(), "still connecting");
        assert!(error.is_timeout() && error.is_retryable());
        assert_eq!(io::Error::from(error).kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_refusal_tells_more_than_a_family_this_machine_does_not_have() {
        let error = failed(vec![
            attempt("1.1.1.1:1", io::ErrorKind::ConnectionRefused, "x", AttemptStage::Connect),
            attempt("[::1]:1", io::ErrorKind::Unsupported, "x", AttemptStage::Setup),
        ]);
        assert_eq!(error.kind(), DialOutcome::Refused);
    }

    #[test]
    fn what_only_a_person_can_change_is_not_retryable() {
        let kinds = [
            (io::ErrorKind::NotFound, AttemptStage::Setup, false),
            (io::ErrorKind::PermissionDenied, AttemptStage::Connect, false),
            (io::ErrorKind::AddrNotAvailable, AttemptStage::Connect, true),
            (io::ErrorKind::Other, AttemptStage::Resolve, true),
            (io::ErrorKind::ConnectionRefused, AttemptStage::Connect, true),
        ];
        for (kind, stage, retryable) in kinds {
            let error = failed(vec![attempt("1.1.1.1:1", kind, "x", stage)]);
            assert_eq!(error.is_retryable(), retryable, "{kind:?} {stage:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_lack_of_descriptors_is_told_whatever_else_was_tried() {
        let no_more = |code| {
            let error = io::Error::from_raw_os_error(code);
            ConnectAttempt::new("1.1.1.1:1".into(), error, Duration::ZERO, AttemptStage::Connect)
        };
        let refusal =
            attempt("1.1.1.1:2", io::ErrorKind::ConnectionRefused, "x", AttemptStage::Connect);
        let error = failed(vec![no_more(libc::EMFILE), refusal.clone()]);
        assert!(error.to_string().ends_with(
            " (this process has no file descriptors left: raise its limit (ulimit -n) or lower \
             max_size)"
        ));
        assert!(error.is_retryable(), "somebody may close something");
        let error = failed(vec![refusal.clone(), no_more(libc::ENFILE)]);
        assert!(error.to_string().contains("fs.file-max"), "{error}");
        assert_eq!(failed(vec![refusal]).shortage(), None);
    }

    #[test]
    fn messages_begin_in_lower_case_unless_they_begin_with_an_acronym() {
        assert_eq!(lower_first("Connection refused"), "connection refused");
        assert_eq!(lower_first("IO failed"), "IO failed");
        assert_eq!(lower_first(""), "");
    }
}
