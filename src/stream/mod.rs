//! The byte stream users hold: every operation has a deadline, and the stream remembers what makes
//! it unfit for reuse.
//!
//! A timeout is *per operation*: set once, it applies to every later read, write, flush and
//! shutdown, and each one starts with the full time. A total for a whole exchange can be laid on
//! top with [`Stream::set_deadline`].

mod connector;
mod error;
mod exchange;
mod handle;
mod handshake;
mod io;
#[cfg(shuttle)]
pub(crate) mod models;
mod peer_watch;
mod reported;
#[cfg(all(test, unix))]
mod tests;
mod timeouts;

use std::task::Waker;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::config::{StreamSettings, Timeouts};
use crate::deadline::Deadline;
use crate::event::{CloseReason, ConnId, Event, Operation};
use crate::liveness::UNASKED;
use crate::net::{Dialed, Io, PeerAddr, SocketReport};
use crate::protocol::Asides;
use crate::sync::Arc;
use crate::telemetry::Emitter;

use exchange::{Debt, Exchange};
use peer_watch::Watch;
use timeouts::timer::Clock;
use timeouts::{ExchangeLimits, OwnLimits};

pub use connector::Connector;
pub(crate) use connector::Route;
pub use error::{Interrupted, OpTimeout, PeerSilent, TooLarge};
pub(crate) use exchange::Ending;
pub use handle::{Ledger, Owed};
pub(crate) use handle::{Link, Wakes};
pub(crate) use handshake::{AfterConnect, Handshake, Refused};
pub(crate) use io::delegate_io;
pub(crate) use reported::Reported;

/// A TCP or Unix stream whose every operation is bounded in time.
///
/// Reads and writes go through tokio's [`AsyncRead`](tokio::io::AsyncRead) and
/// [`AsyncWrite`](tokio::io::AsyncWrite). An operation that stays pending longer than its timeout
/// fails with an [`io::Error`](std::io::Error) of kind `TimedOut` that holds an [`OpTimeout`].
///
/// # The clock of a read
///
/// The clock starts when a read has to wait and stops when bytes arrive. A read that is dropped and
/// tried again, as in a `select!` loop, goes on with the same clock: otherwise a loop that ticks
/// once a second would wait for ever.
///
/// # Cancel safety
///
/// A dropped read loses nothing. A write, flush or shutdown that was dropped while it was pending
/// may have sent a part: the stream is then tainted, and a pool never reuses it. A later write that
/// completes lifts this: the stream cannot know whether it went on where the dropped one had stopped,
/// so write whole messages, or discard the connection.
///
/// ```
/// use std::time::{Duration, Instant};
/// use livepool::Stream;
/// use tokio::io::AsyncReadExt;
///
/// async fn header(stream: &mut Stream) -> std::io::Result<u32> {
///     // All reads and writes from here on together.
///     stream.set_deadline(Instant::now() + Duration::from_secs(2));
///     let header = stream.read_u32().await?;
///     stream.set_deadline(livepool::Deadline::NEVER);
///     Ok(header)
/// }
/// ```
#[derive(Debug)]
pub struct Stream {
    io: Io,
    link: Arc<Link>,
    id: ConnId,
    peer: PeerAddr,
    local: PeerAddr,
    /// The name its address was found under.
    host: Option<Arc<str>>,
    emitter: Arc<Emitter>,
    /// How connections beside it are made, if it was dialed.
    asides: Option<Arc<Asides>>,
    /// As configured now.
    defaults: StreamSettings,
    /// Limits that the user has set since the stream was last at rest, if `is_limited`. Boxed, and
    /// kept for the next one: most users set nothing.
    own: Option<Box<OwnLimits>>,
    is_limited: bool,
    exchange: Exchange,
    counts_debt: bool,
    /// A protocol does, for as long as it lives.
    knows_debts: bool,
    /// The client has a task that reads all the time.
    is_driven: bool,
    /// Of a stream that is shared: what came of a poll, for whoever tells when no lock is held.
    untold: Option<Box<Event>>,
    /// Of a stream that is shared: what is left in the socket's reader slot.
    bell: Option<Waker>,
    /// A layer above notes what is exchanged.
    recorded_above: bool,
    /// [`Link::debts_begun`] when the read clock last looked.
    debts_seen: usize,
    /// [`Link::is_patient`] when the read clock last looked.
    was_patient: bool,
    reading: Clock,
    writing: Clock,
    /// A read had to wait, and none has ended since: its clocks run.
    read_waits: bool,
    /// A task has waited for it since it was last at rest.
    was_awaited: bool,
    /// The operation that the writing clock runs for.
    writing_op: Operation,
    /// Of a stream that a pool owns: looks after the peer while a read waits.
    watch: Option<Watch>,
    /// The watch is the pool's, whose settings say whether it watches.
    is_watched_by_pool: bool,
    /// A pool has it.
    is_adopted: bool,
    /// Of a stream that no pool owns: when it was opened, to report its end.
    opened: Option<Instant>,
}

impl Stream {
    /// A stream that was just dialed, and that nobody was told of yet.
    pub(crate) fn dialed(
        dialed: Dialed,
        timeouts: StreamSettings,
        emitter: Arc<Emitter>,
        asides: Arc<Asides>,
    ) -> Self {
        let Dialed { io, peer, local, host, .. } = dialed;
        let mut stream = Self::new(io, ConnId::next(), peer, local, timeouts, emitter);
        stream.host = host;
        stream.asides = Some(asides);
        stream.opened = None;
        stream
    }

    /// A stream that belongs to no pool and reports its own end when it is dropped.
    pub(crate) fn new(
        io: Io,
        id: ConnId,
        peer: PeerAddr,
        local: PeerAddr,
        timeouts: impl Into<StreamSettings>,
        emitter: Arc<Emitter>,
    ) -> Self {
        Self {
            io,
            link: Link::new(),
            id,
            peer,
            local,
            host: None,
            emitter,
            asides: None,
            defaults: timeouts.into(),
            own: None,
            is_limited: false,
            exchange: Exchange::default(),
            counts_debt: false,
            knows_debts: false,
            is_driven: false,
            untold: None,
            bell: None,
            recorded_above: false,
            debts_seen: 0,
            was_patient: false,
            reading: Clock::default(),
            writing: Clock::default(),
            read_waits: false,
            was_awaited: false,
            writing_op: Operation::Write,
            watch: None,
            is_watched_by_pool: false,
            is_adopted: false,
            opened: Some(Instant::now()),
        }
    }

    /// Another handle to the same socket, for whoever looks after it while nobody uses it. Nothing was
    /// exchanged over that one, and nobody is told of its end.
    pub(crate) fn twin(&self) -> std::io::Result<Self> {
        let (peer, local) = (self.peer.clone(), self.local.clone());
        let (timeouts, emitter) = (self.defaults.clone(), Arc::clone(&self.emitter));
        let mut twin = Self::new(self.io.twin()?, self.id, peer, local, timeouts, emitter);
        twin.opened = None;
        Ok(twin)
    }

    /// Its opening is reported: it reports its end, when it is dropped, unless a pool does.
    pub(crate) fn announce(&mut self) {
        self.opened = Some(Instant::now());
    }

    /// Hands the report of the stream's end to a pool, and has its peer watched while a read waits.
    /// Returns when it was opened.
    pub(crate) fn adopt(&mut self) -> Instant {
        // Kept where silence is no matter, too: that may change.
        self.is_adopted = true;
        self.watch_for_pool();
        self.opened.take().unwrap_or_else(Instant::now)
    }

    fn watch_for_pool(&mut self) {
        self.watch = Some(Watch::new(UNASKED));
        self.is_watched_by_pool = true;
    }

    /// Has its peer asked for a sign of life while a read waits, when it was silent for so long: a read
    /// fails with [`PeerSilent`] then, if there is none. `None` leaves silence to the kernel's keepalive.
    /// The streams of a pool have [`max_silence`](crate::Config::max_silence); what a user sets is his own,
    /// and the next user's stream has that again.
    pub fn watch_peer(&mut self, max_silence: Option<Duration>) {
        self.end_watch();
        self.watch = max_silence.map(Watch::new);
        self.is_watched_by_pool = false;
    }

    /// The connection's number, as in events and logs.
    pub fn id(&self) -> ConnId {
        self.id
    }

    /// The address at the other end.
    pub fn peer_addr(&self) -> &PeerAddr {
        &self.peer
    }

    /// The address at this end.
    pub fn local_addr(&self) -> &PeerAddr {
        &self.local
    }

    /// The socket's options, read back from the kernel now: what is really in force.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer, which means that the socket is gone.
    pub fn socket_report(&self) -> std::io::Result<SocketReport> {
        SocketReport::read(&self.io.sock_ref())
    }

    /// Why this stream may not be reused, if something already says so.
    pub fn tainted(&self) -> Option<CloseReason> {
        match self.is_driven {
            // A task of the client's goes on with what it writes.
            true => self.ended(),
            false => self.link.interrupted().or(self.exchange.tainted()),
        }
    }

    /// As [`tainted`](Self::tainted), while its users go on: an operation that is pending says nothing.
    pub(crate) fn ended(&self) -> Option<CloseReason> {
        self.link.interrupted().or(self.exchange.ended())
    }

    /// The timeouts in force. Of what was not set, that of a read is what it comes to here.
    pub fn timeouts(&self) -> Timeouts {
        let configured = self.defaults.read_timeouts();
        let ExchangeLimits { read, write, flush, shutdown } = self.limits_of(&configured);
        let read = read.limit(self.knows_debts).into();
        Timeouts { read, write, flush, shutdown, ..configured }
    }

    /// Sets the timeout of every later read; `None` waits for ever. In a pool it holds until the
    /// connection is returned.
    pub fn set_read_timeout(&mut self, limit: Option<Duration>) {
        self.own_limits().read = Some(limit.into());
        self.reading.stop();
    }

    /// Sets the timeout of every later write and flush; `None` waits for ever. In a pool it holds
    /// until the connection is returned.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) {
        let own = self.own_limits();
        own.write = Some(limit);
        own.flush = Some(limit);
        self.writing.stop();
    }

    /// Sets the moment by which the whole exchange must be over: each later operation gets its own
    /// timeout or what is left, whichever is less. [`Deadline::NEVER`], or `None`, removes it.
    pub fn set_deadline(&mut self, deadline: impl Into<Deadline>) {
        self.limit_exchange(Instant::now(), deadline.into().instant());
    }

    /// As [`set_deadline`](Self::set_deadline), for an exchange that began at this moment: the error of one
    /// that is cut names the time in between, which is to be the limit as it was set.
    pub(crate) fn limit_exchange(&mut self, began: Instant, deadline: Option<Instant>) {
        let own = self.own_limits();
        own.deadline = deadline;
        own.began = Some(began);
        own.is_configured = false;
        self.reading.stop();
        self.writing.stop();
    }

    /// From now on the read timeout runs only while an answer is owed, as counted by the returned
    /// ledger. For clients that read all the time in a task of their own. In a pool it holds until
    /// the connection is returned.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt(&mut self) -> Ledger {
        self.counts_debt = true;
        self.reading.stop();
        Ledger(Arc::clone(&self.link))
    }

    /// The socket, if this is TCP: for those who want to know something of it. Bytes that are read
    /// or written through it pass this stream by, and its next user meets what is left of them.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.io {
            Io::Tcp(socket) => Some(socket),
            #[cfg(unix)]
            Io::Unix(_) => None,
        }
    }

    pub(crate) fn io(&self) -> &Io {
        &self.io
    }

    pub(crate) fn io_mut(&mut self) -> &mut Io {
        &mut self.io
    }

    pub(crate) fn emitter(&self) -> &Arc<Emitter> {
        &self.emitter
    }

    /// How connections beside it are made, if it was dialed.
    pub(crate) fn take_asides(&mut self) -> Option<Arc<Asides>> {
        self.asides.take()
    }

    /// The event that a poll led to, to be emitted when no lock is held.
    pub(crate) fn take_untold(&mut self) -> Option<Box<Event>> {
        self.untold.take()
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn host(&self) -> Option<&Arc<str>> {
        self.host.as_ref()
    }

    /// While it is shared, this waker is left in the reader slot, and wakes whoever reads.
    pub(crate) fn ring(&mut self, bell: Option<Waker>) {
        self.bell = bell;
    }

    /// As [`count_debt`](Self::count_debt), for as long as the stream lives. Where
    /// [`timeouts.read`](crate::config::Timeouts::read) was not set, no read times out then, as where a
    /// protocol counts.
    #[must_use = "without its ledger nothing is ever owed, and no read times out"]
    pub fn count_debt_for_good(&mut self) -> Ledger {
        self.knows_debts = true;
        self.count_debt()
    }

    /// A read that is pending is that of its client's task from now on, and no caller's. Returns whether
    /// a ledger counts what is owed.
    pub(crate) fn is_driven(&mut self) -> bool {
        self.is_driven = true;
        self.counts_debt
    }

    /// What is exchanged is noted by whoever is above: the bytes here are not those of its user.
    pub(crate) fn is_recorded_above(&mut self) {
        self.recorded_above = true;
        self.exchange = Exchange::default();
    }

    #[inline]
    pub(crate) fn record_read(&mut self, bytes: usize, had_room: bool) {
        self.exchange.read(bytes);
        if bytes == 0 && had_room {
            self.exchange.taint(CloseReason::PeerClosed);
        }
    }

    #[inline]
    pub(crate) fn record_written(&mut self, bytes: usize) {
        self.exchange.wrote(bytes);
    }

    pub(crate) fn record_pending_read(&mut self) {
        self.exchange.read_is_pending();
    }

    pub(crate) fn record_pending_write(&mut self) {
        self.exchange.write_is_pending();
    }

    /// The reason for which its client ends it. A task of the client's does that for what it has read, while
    /// nobody has closed the connection.
    pub(crate) fn ended_by_client(&self) -> CloseReason {
        if self.is_driven { CloseReason::ProtocolError } else { CloseReason::Discarded }
    }

    /// Says that the stream must not be reused.
    pub(crate) fn taint(&mut self, reason: CloseReason) {
        self.exchange.taint(reason);
    }

    /// Notes that the connection needs a reset before its next user.
    pub(crate) fn need_reset(&mut self) {
        self.exchange.need_reset();
    }

    /// Whether the connection needs a reset before its next user.
    pub(crate) fn needs_reset(&self) -> bool {
        // What its task still writes is not counted yet.
        self.exchange.needs_reset() || (self.is_driven && self.exchange.is_writing())
    }

    /// Why the stream may not be reused, given how its exchange ended. See [`Exchange::unfit`].
    pub(crate) fn unfit(&self, ending: Ending) -> Option<CloseReason> {
        let debt = match (self.counts_debt, self.is_driven) {
            (true, _) => Debt::Counted(self.link.debt()),
            (false, true) => Debt::Driven,
            (false, false) => Debt::ByUse,
        };
        self.link.interrupted().or_else(|| self.exchange.unfit(debt, ending))
    }

    /// Whether the connection has ended, and not by its user's doing.
    pub(crate) fn died(&self) -> bool {
        self.exchange.tainted().is_some_and(CloseReason::is_death)
    }

    /// What was exchanged so far is not its user's: an exchange begins, unless something is wrong.
    pub(crate) fn begin_use(&mut self) {
        if self.tainted().is_none() {
            self.exchange = Exchange::default();
        }
    }

    /// Whether an answer is owed, as far as somebody counts them.
    pub(crate) fn is_owed(&self) -> bool {
        self.counts_debt && self.link.debt() > 0
    }

    /// Whether something was asked and answered, and nothing is under way: the answer may be complete.
    pub(crate) fn looks_answered(&self) -> bool {
        self.was_read() && self.unfit(Ending::Answered).is_none()
    }

    /// Whether any byte was read in this exchange.
    pub(crate) fn was_read(&self) -> bool {
        self.exchange.heard()
    }

    /// Ends the exchange: the next user finds the configured timeouts, no deadline, and no task of
    /// the last one is kept.
    ///
    /// Returns whether the link to it is another one from now on.
    pub(crate) fn rest(&mut self) -> bool {
        self.exchange = Exchange::default();
        self.is_limited = false;
        if std::mem::take(&mut self.was_awaited) {
            self.forget_tasks();
        }
        if self.is_adopted && !self.is_watched_by_pool {
            self.end_watch();
            self.watch_for_pool();
        }
        if self.bell.is_some() {
            // Its ledger is for good.
            return false;
        }
        if std::mem::take(&mut self.counts_debt) {
            // A ledger that the last user kept must not count for the next one.
            self.link = Link::new();
            self.reading.forget_link();
            self.writing.forget_link();
            if let Some(watch) = &mut self.watch {
                watch.forget_link();
            }
            self.debts_seen = 0;
            return true;
        }
        false
    }

    /// Forgets the tasks that waited.
    fn forget_tasks(&mut self) {
        self.reading.stop();
        self.writing.stop();
        self.end_watch();
        // Its client may be reading, where it is shared.
        if self.bell.is_none() {
            self.link.forget_tasks();
        }
    }

    /// Leaves the pool: nobody watches any more, and what is configured stays as it is.
    pub(crate) fn leave(&mut self) {
        self.is_adopted = false;
        self.end_watch();
        self.watch = None;
        self.defaults = Arc::new(self.defaults.read_timeouts()).into();
    }

    /// Nothing is waited for: the keepalive settings are the user's own again.
    fn end_watch(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.rest(&self.io.sock_ref());
            self.link.set_suspect(false);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(opened) = self.opened {
            let reason = self.tainted().unwrap_or(CloseReason::Discarded);
            self.emitter.emit(Event::Closed {
                conn: self.id,
                peer: self.peer.clone(),
                reason,
                age: opened.elapsed(),
                used: None,
                code: self.link.code_for(reason),
            });
        }
    }
}
