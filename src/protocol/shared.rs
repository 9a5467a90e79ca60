//! [`Shared`]: a stream that a client library uses and its pool can reach as well.
//!
//! A client takes its stream for good, often into a task of its own. The pool still has to look at
//! the socket while the connection is idle, and to close it when it is no use. So both share it,
//! under a lock that is held for one poll or one look, and never across a wait.
//!
//! A layer and a scanner are foreign code. Each is called under a lock of its own, which is all it may
//! meet there: what follows from a call, an event, a wake-up, a drop, comes when every lock is free.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::aside::{Asides, SideChannel};
use super::bell::{Bell, Keeper};
use super::bounds::Bounds;
use super::driver::Rest;
use super::linger::{self, Linger, Lingering};
use super::scanner::Scanner;
use super::verdict::Verdict;
use crate::config::Limits;
use crate::event::{CloseReason, ConnId, Event};
use crate::foreign;
use crate::net::PeerAddr;
use crate::stream::{Interrupted, Ledger, Link, Stream, Wakes};
use crate::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use crate::telemetry::{self, Emitter};

/// The protocol's word on bytes that came while nobody used the connection.
pub(crate) type Judge = Arc<dyn Fn(&[u8]) -> Verdict + Send + Sync>;

/// A layer between a stream and its client.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The most that is read ahead for a client that does not read: more than any notice that a
/// protocol sends on its own.
const MOST_KEPT: usize = 16 * 1024;

/// The stream of one connection of a client library.
pub(crate) struct Shared {
    /// Taken out when the connection is closed. Held for one poll or one look.
    stream: Mutex<Option<Box<Stream>>>,
    /// The stream is to be taken out by whoever has it.
    is_closed: AtomicBool,
    /// It can be used no more, or must not be, as far as its polls have shown.
    has_ended: AtomicBool,
    /// TLS, say. Held for one poll; locked before the stream, never after.
    layer: Mutex<Option<Layer>>,
    is_layered: AtomicBool,
    /// The layer is in its place: whoever polls below it may be called with the layer locked.
    has_layer: AtomicBool,
    /// The thread that has the layer locked; 0 if none does.
    layer_is_held_by: AtomicUsize,
    /// The layer is to be taken out by whoever has it.
    is_layer_over: AtomicBool,
    /// How many polls are under way whose callers hold a lock of their own, and tell when it is free.
    told_later: AtomicUsize,
    /// Events that came meanwhile, or with the layer locked. Pushed and taken under this lock, nothing else.
    untold: Mutex<Vec<Event>>,
    has_untold: AtomicBool,
    /// Called under this lock and no other: the order of the bytes is that of the calls.
    scanner: Mutex<Option<Box<dyn Scanner>>>,
    is_scanned: AtomicBool,
    /// The client reads or writes, and what it moves is not counted yet. Set before the stream is
    /// locked for that, cleared when it is: see [`unasked`](Self::unasked).
    is_telling: AtomicBool,
    /// Bytes that came while the connection was in nobody's use. Pushed and copied under this lock, nothing else.
    unasked: Mutex<Unasked>,
    has_unasked: AtomicBool,
    /// The protocol has made its client: how the connection is judged is settled.
    is_settled: AtomicBool,
    /// Several callers use it.
    is_shared: AtomicBool,
    /// Its client has a task and no ledger: what it is owed shows in what it writes and reads.
    is_owed_by_use: AtomicBool,
    /// Of the client's task.
    rest: Arc<Rest>,
    bell: Arc<Bell>,
    waker: Waker,
    link: Arc<Link>,
    judge: Judge,
    bounds: Bounds,
    emitter: Arc<Emitter>,
    asides: Option<Arc<Asides>>,
    /// Of a protocol that keeps what is left of a connection until its peer has stopped.
    linger: OnceLock<Arc<Lingering>>,
    id: ConnId,
    peer: PeerAddr,
    host: Option<Arc<str>>,
}

struct Layer {
    io: Box<dyn Duplex>,
    /// Bytes that were read for nobody, kept for the next reader.
    kept: Vec<u8>,
}

/// Bytes that a client read while nobody used the connection. A message may come in two reads, and
/// only its beginning says what it is.
#[derive(Default)]
struct Unasked {
    bytes: Vec<u8>,
    last: Option<Instant>,
}

/// The pieces of one message come closer together than this. Bytes that come later begin a new one.
const SAME_MESSAGE: Duration = Duration::from_secs(1);

impl Unasked {
    /// Bytes that came shortly before `now`.
    fn recent(&self, now: Instant) -> &[u8] {
        let is_recent = |last| now.saturating_duration_since(last) < SAME_MESSAGE;
        if self.last.is_some_and(is_recent) { &self.bytes } else { &[] }
    }
}

/// The outcome of a layer's taking in what nobody had asked for.
enum TakenIn {
    Nothing,
    Bytes(Vec<u8>),
    End(CloseReason),
}

impl Shared {
    pub(crate) fn new(mut stream: Box<Stream>, judge: Judge, limits: Limits) -> Arc<Self> {
        let link = Arc::clone(stream.link());
        let bell = Bell::new(Arc::clone(&link));
        let waker = bell.waker();
        stream.ring(Some(waker.clone()));
        Arc::new(Self {
            emitter: Arc::clone(stream.emitter()),
            asides: stream.take_asides(),
            linger: OnceLock::new(),
            id: stream.id(),
            peer: stream.peer_addr().clone(),
            host: stream.host().cloned(),
            stream: Mutex::new(Some(stream)),
            is_closed: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            layer: Mutex::new(None),
            is_layered: AtomicBool::new(false),
            has_layer: AtomicBool::new(false),
            layer_is_held_by: AtomicUsize::new(0),
            is_layer_over: AtomicBool::new(false),
            told_later: AtomicUsize::new(0),
            untold: Mutex::default(),
            has_untold: AtomicBool::new(false),
            scanner: Mutex::new(None),
            is_scanned: AtomicBool::new(false),
            is_telling: AtomicBool::new(false),
            unasked: Mutex::default(),
            has_unasked: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            is_owed_by_use: AtomicBool::new(false),
            rest: Arc::default(),
            bell,
            waker,
            link,
            judge,
            bounds: Bounds::new(limits),
        })
    }

    /// Whether several callers use it.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared.load(Ordering::Relaxed)
    }

    pub(super) fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Relaxed);
    }

    pub(super) fn id(&self) -> ConnId {
        self.id
    }

    pub(super) fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    pub(super) fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    pub(super) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The waker in the socket's reader slot: it wakes the client and the pool.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, Option<Box<Stream>>> {
        lock(&self.stream)
    }

    /// The stream, for good. Returns `None` if the connection was closed.
    pub(super) fn take(&self) -> Option<Box<Stream>> {
        let mut stream = self.stream().take()?;
        stream.ring(None);
        Some(stream)
    }

    pub(super) fn keep(&self, keeper: Arc<dyn Keeper>) {
        self.bell.keep(keeper);
    }

    /// Whether it may be used by one more: it has not ended, and its peer is not being asked for a sign of
    /// life.
    pub(super) fn is_well(&self) -> bool {
        let has_ended = self.has_ended.load(Ordering::Acquire) || self.link.is_interrupted();
        !has_ended && !self.link.is_suspect()
    }

    /// How much the client may hold.
    pub(super) fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    pub(super) fn rest(&self) -> &Arc<Rest> {
        &self.rest
    }

    pub(super) fn set_idle(&self, idle: bool) {
        if self.has_unasked.load(Ordering::Acquire) {
            *lock(&self.unasked) = Unasked::default();
            self.has_unasked.store(false, Ordering::Release);
        }
        self.bell.set_idle(idle);
    }

    /// The client was made, and belongs to the pool. From now on nobody who has a wire in his hands
    /// changes how the connection is judged: it would be judged so for all who come later.
    pub(super) fn settle(&self) {
        self.is_settled.store(true, Ordering::Release);
    }

    /// It is its owner's from now on, and no pool's.
    pub(super) fn leave(&self) {
        self.is_settled.store(false, Ordering::Release);
    }

    /// Whether something comes too late that only the protocol may do. Says so in the log.
    pub(super) fn is_settled(&self, what: &'static str) -> bool {
        let is_settled = self.is_settled.load(Ordering::Acquire);
        if is_settled {
            telemetry::warn_misuse(self.id, what);
        }
        is_settled
    }

    /// The way to its peer beside it.
    pub(super) fn side_channel(&self) -> Option<SideChannel> {
        let asides = Arc::clone(self.asides.as_ref()?);
        Some(SideChannel { asides, conn: self.id, peer: self.peer.clone() })
    }

    /// For its protocol, once: what it leaves behind is kept.
    pub(super) fn linger(&self) -> Linger {
        Linger(Arc::clone(self.linger.get_or_init(Arc::default)))
    }

    pub(super) fn is_unencrypted(&self, was_asked: bool) {
        self.tell(Event::Unencrypted { conn: self.id, peer: self.peer.clone(), was_asked });
    }

    /// As [`close`](Self::close). Returns who keeps what is left of it, if its peer still works for it.
    pub(super) fn close_and_leave(&self, reason: CloseReason) -> Option<&Arc<Lingering>> {
        let keeps = linger::keeps_its_place(reason) && self.link.debt() > 0;
        let kept = self.linger.get().filter(|lingering| keeps && lingering.begin());
        self.close(reason);
        kept
    }

    /// Closes the socket, whoever has a wire to it.
    pub(super) fn close(&self, reason: CloseReason) {
        // Whoever finds no stream from here on is told why.
        self.link.note_interrupt(reason);
        self.is_closed.store(true, Ordering::SeqCst);
        self.close_stream();
        self.link.interrupt(reason);
        self.end_layer();
        if let Some(lingering) = self.linger.get() {
            lingering.pass_if_open();
        }
        self.tell_all();
    }

    /// Drops the stream; if somebody uses it this very moment, that one does (perhaps this thread,
    /// further up the stack).
    fn close_stream(&self) {
        let stream = match self.stream.try_lock() {
            Ok(mut stream) => stream.take(),
            Err(TryLockError::Poisoned(stream)) => stream.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        match (stream, self.linger.get()) {
            (Some(stream), Some(lingering)) => lingering.take_stream(stream),
            (stream, _) => drop(stream),
        }
    }

    /// The client is gone: nobody reads or writes here again.
    pub(super) fn abandon(&self) {
        // What is below holds us.
        self.end_layer();
        // A task that ends by itself, while nobody has closed the connection, has given it up.
        self.taint(match self.rest.has_completed() {
            true => CloseReason::ProtocolError,
            false => CloseReason::Discarded,
        });
        self.link.end();
        // Nothing comes from the socket, which is as it was.
        if self.bell.is_idle()
            && let Some(keeper) = self.bell.keeper()
        {
            keeper.stirred();
        }
    }

    /// Drops the layer, which is foreign code; if somebody uses it this very moment, that one does
    /// (perhaps this thread, further up the stack).
    fn end_layer(&self) {
        self.is_layer_over.store(true, Ordering::SeqCst);
        self.drop_layer();
    }

    fn drop_layer(&self) {
        let layer = match self.layer.try_lock() {
            Ok(mut layer) => layer.take(),
            Err(TryLockError::Poisoned(layer)) => layer.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        foreign::dispose(layer);
    }

    /// What was left to whoever had the layer locked.
    fn layer_is_free(&self) {
        if self.is_layer_over.load(Ordering::SeqCst) {
            self.drop_layer();
        }
        if self.told_later.load(Ordering::SeqCst) == 0 {
            self.tell_all();
        }
    }

    /// Emits what came of a poll, when no lock is held.
    fn tell(&self, event: Event) {
        let is_told_now = || self.told_later.load(Ordering::SeqCst) == 0;
        if !self.has_layer.load(Ordering::Acquire) && is_told_now() {
            return self.emitter.emit(event);
        }
        lock(&self.untold).push(event);
        self.has_untold.store(true, Ordering::SeqCst);
        // The layer may be locked, by this thread: whoever has it locked tells when it is free.
        let is_free = !matches!(self.layer.try_lock(), Err(TryLockError::WouldBlock));
        if is_free && is_told_now() {
            self.tell_all();
        }
    }

    /// Makes a poll for which a lock is held that is not this connection's. It is free when this
    /// returns, and events are told then.
    pub(super) fn tell_later<T>(&self, poll: impl FnOnce() -> T) -> T {
        /// However the poll ends.
        struct Later<'a>(&'a Shared);
        impl Drop for Later<'_> {
            fn drop(&mut self) {
                self.0.told_later.fetch_sub(1, Ordering::SeqCst);
                self.0.layer_is_free();
            }
        }
        self.told_later.fetch_add(1, Ordering::SeqCst);
        let _later = Later(self);
        poll()
    }

    fn tell_all(&self) {
        if self.has_untold.swap(false, Ordering::SeqCst) {
            let untold = std::mem::take(&mut *lock(&self.untold));
            for event in untold {
                self.emitter.emit(event);
            }
        }
    }

    /// Foreign code that belongs to this connection panicked: nobody knows what it is owed, and nobody
    /// may wait for an answer that is not counted.
    pub(super) fn has_panicked(&self) {
        self.taint(CloseReason::Panicked);
        self.link.interrupt(CloseReason::Panicked);
    }

    /// The error of a wire that has lost its stream.
    pub(super) fn lost(&self) -> io::Error {
        Interrupted { reason: self.link.interrupted().unwrap_or(CloseReason::Discarded) }.into()
    }

    pub(super) fn count_debt(&self) -> Ledger {
        self.is_owed_by_use.store(false, Ordering::Release);
        self.record(|stream| drop(stream.count_debt_for_good()));
        Ledger(Arc::clone(&self.link))
    }

    pub(super) fn scan(&self, scanner: Box<dyn Scanner>) {
        let last = lock(&self.scanner).replace(scanner);
        self.is_scanned.store(true, Ordering::Release);
        foreign::dispose(last);
    }

    /// The client has a task that reads all the time, and is known to be at rest or not.
    pub(super) fn is_driven(&self) {
        let mut is_counted = false;
        self.record(|stream| is_counted = stream.is_driven());
        self.is_owed_by_use.store(!is_counted, Ordering::Release);
    }

    /// `false` if there is a layer already.
    pub(super) fn begin_layer(&self) -> bool {
        let first = !self.is_layered.swap(true, Ordering::AcqRel);
        self.record(Stream::is_recorded_above);
        first
    }

    pub(super) fn set_layer(&self, io: Box<dyn Duplex>) {
        let last = lock(&self.layer).replace(Layer { io, kept: Vec::new() });
        self.has_layer.store(true, Ordering::Release);
        foreign::dispose(last);
        self.bounds.begin_above();
        // It may have been closed meanwhile.
        self.layer_is_free();
    }

    pub(super) fn is_layered(&self) -> bool {
        self.is_layered.load(Ordering::Acquire)
    }

    /// Notes something about the stream.
    pub(super) fn record(&self, note: impl FnOnce(&mut Stream)) {
        let mut note = Some(note);
        let _ = self.poll_stream(|stream| {
            if let Some(note) = note.take() {
                note(stream);
            }
            Poll::Ready(Ok(()))
        });
    }

    pub(super) fn poll_stream<T>(
        &self,
        poll: impl FnOnce(&mut Stream) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let (result, untold) = match &mut *self.stream() {
            Some(stream) => {
                let result = poll(stream);
                if stream.ended().is_some() {
                    self.has_ended.store(true, Ordering::Release);
                }
                (result, stream.take_untold())
            }
            None => (Poll::Ready(Err(self.lost())), None),
        };
        // Whoever closed it meanwhile could not.
        if self.is_closed.load(Ordering::SeqCst) {
            self.close_stream();
        }
        if let Some(event) = untold {
            self.tell(*event);
        }
        result
    }

    pub(super) fn poll_layer<T>(
        &self,
        poll: impl FnOnce(Pin<&mut dyn Duplex>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = self.with_layer(|layer| match layer {
            Some(layer) => foreign::call(|| poll(Pin::new(&mut *layer.io))),
            None => Ok(Poll::Ready(Err(self.lost()))),
        });
        self.layer_is_free();
        polled.unwrap_or_else(|panicked| {
            self.has_panicked();
            Poll::Ready(Err(panicked.into()))
        })
    }

    /// Uses the layer, which may use the pool.
    fn with_layer<T>(&self, use_it: impl FnOnce(&mut Option<Layer>) -> T) -> T {
        let mut layer = lock(&self.layer);
        self.layer_is_held_by.store(here(), Ordering::Relaxed);
        let result = use_it(&mut layer);
        self.layer_is_held_by.store(0, Ordering::Relaxed);
        result
    }

    /// Gives out what was read for nobody, if there is anything.
    pub(super) fn take_kept(&self, buf: &mut ReadBuf<'_>) -> bool {
        if !self.is_layered() {
            return false;
        }
        match &mut *lock(&self.layer) {
            Some(Layer { kept, .. }) if !kept.is_empty() && buf.remaining() > 0 => {
                let count = kept.len().min(buf.remaining());
                buf.put_slice(&kept[..count]);
                kept.drain(..count);
                true
            }
            _ => false,
        }
    }

    /// The client received this. An error, if that is more than it may hold.
    pub(super) fn received(&self, bytes: &[u8]) -> io::Result<()> {
        // Something may be asked by what outlives its caller: a statement that is closed late, say.
        let is_unasked = self.bell.is_idle() && self.link.debt() == 0;
        let scanned = self.scanned(|scanner| {
            scanner.received(bytes);
            let verdict = scanner.verdict();
            let reason = verdict.reason(CloseReason::ProtocolError);
            let code = reason.and_then(|_| scanner.code());
            (verdict, reason, code, scanner.longest(), scanner.peer_may_speak())
        });
        let scanned = scanned.map(|(said, wakes)| {
            self.link.wake(wakes);
            said
        });
        let may_speak = scanned.as_ref().is_some_and(|(.., may_speak)| *may_speak);
        let longest = scanned.as_ref().map(|(.., longest, _)| *longest);
        match scanned {
            Some((verdict, Some(reason), code, ..)) => {
                self.link.note_code(reason, code);
                self.taint(reason);
                self.condemn_on(verdict);
            }
            Some((Verdict::NeedsReset, ..)) => self.record(|stream| stream.need_reset()),
            _ => {}
        }
        if is_unasked
            && !may_speak
            && let Some(reason) = self.judge_read(bytes)
        {
            self.taint(reason);
        }
        let within = self.bounds.has_read(bytes.len());
        self.bounded(within.and_then(|()| self.bounds.receives(longest.unwrap_or(0))))
    }

    /// Has the pool give up all connections that are as old, if that is the verdict.
    fn condemn_on(&self, verdict: Verdict) {
        if verdict == Verdict::InvalidatePool
            && let Some(keeper) = self.bell.keeper()
        {
            keeper.condemned();
        }
    }

    /// Judges what the client has just read, together with what it read before.
    fn judge_read(&self, bytes: &[u8]) -> Option<CloseReason> {
        let all = {
            let mut unasked = lock(&self.unasked);
            let now = Instant::now();
            if unasked.recent(now).is_empty() {
                unasked.bytes.clear();
            }
            unasked.last = Some(now);
            unasked.bytes.extend_from_slice(bytes);
            unasked.bytes.clone()
        };
        self.has_unasked.store(true, Ordering::Release);
        // A peer that never stops is not idle.
        if all.len() > MOST_KEPT { Some(CloseReason::Dirty) } else { self.judge(&all) }
    }

    /// Counts bytes that a layer below the protocol received.
    pub(super) fn received_below(&self, bytes: usize) -> io::Result<()> {
        self.bounded(self.bounds.has_read_below(bytes))
    }

    /// Keeps bytes from the client that are too many.
    fn bounded(&self, within: io::Result<()>) -> io::Result<()> {
        if within.is_err() {
            self.taint(CloseReason::TooLarge);
        }
        within
    }

    /// The client is about to read or write. What that moves is counted when this is dropped.
    #[inline]
    pub(super) fn moves(&self) -> Telling<'_> {
        // The lock under which it is moved orders this for whoever locks it next.
        self.is_telling.store(true, Ordering::Relaxed);
        Telling(self)
    }

    /// What came for nobody before the bytes that wait now; `None`, if these may be an answer, or it
    /// is just being found out.
    ///
    /// To be asked with that locked under which they would be read: nobody can have read them, or have
    /// been paid what is owed for them, before it is free.
    pub(super) fn unasked(&self) -> Option<Vec<u8>> {
        // In this order: who has written is seen telling, or has told.
        if self.is_telling.load(Ordering::Acquire) || self.link.debt() > 0 {
            return None;
        }
        let has_any = self.has_unasked.load(Ordering::Acquire);
        Some(if has_any { lock(&self.unasked).recent(Instant::now()).to_vec() } else { Vec::new() })
    }

    /// The client sent this, the beginning of so many bytes that it had to send.
    pub(super) fn sent<'a>(&self, pieces: impl IntoIterator<Item = &'a [u8]>, of: usize) {
        self.bounds.grows_to(of as u64);
        let scan = |scanner: &mut dyn Scanner| {
            for piece in pieces {
                scanner.sent(piece);
            }
        };
        let wakes = self.scanned(scan).map(|((), wakes)| wakes);
        let is_owed = self.is_owed_by_use.load(Ordering::Acquire);
        if is_owed || wakes.is_some_and(|wakes| wakes.reader()) {
            self.start_read_clock();
        }
        if let Some(wakes) = wakes {
            self.link.wake(wakes.but_the_reader());
        }
    }

    /// An answer is owed: a read that was pending without a clock has one from now on. It is started
    /// here, since to wake the reader, which is the task that has just written, would cost a poll.
    fn start_read_clock(&self) {
        let mut is_over = false;
        self.record(|stream| is_over = stream.start_read_clock());
        if is_over {
            self.link.reader().wake();
        }
    }

    /// Has the scanner read along. Whom to wake is for the caller to do.
    fn scanned<T>(&self, read_along: impl FnOnce(&mut dyn Scanner) -> T) -> Option<(T, Wakes)> {
        if !self.is_scanned.load(Ordering::Acquire) {
            return None;
        }
        let (result, broken) = {
            let mut place = lock(&self.scanner);
            let scanner = place.as_deref_mut()?;
            let read = foreign::call(|| {
                let result = read_along(scanner);
                (result, scanner.owed(), scanner.is_patient())
            });
            match read {
                // In the order of the calls.
                Ok((result, owed, is_patient)) => {
                    (Some((result, self.link.scanned(owed, is_patient))), None)
                }
                Err(foreign::Panicked) => (None, place.take()),
            }
        };
        if broken.is_some() {
            foreign::dispose(broken);
            self.has_panicked();
        }
        result
    }

    /// The connection must not be reused. If nobody uses it, its pool is told.
    pub(super) fn taint(&self, reason: CloseReason) {
        self.record(|stream| stream.taint(reason));
        if let Some(keeper) = self.bell.keeper() {
            keeper.stirred();
        }
    }

    /// Judges bytes that wait while nobody uses the connection: those of the socket behind those that
    /// came [before](Self::unasked), unless there is a layer that has to take them in first.
    pub(crate) fn judge_waiting(
        &self,
        unasked: Option<Vec<u8>>,
        peeked: &[u8],
    ) -> Option<CloseReason> {
        let unasked = unasked?;
        if self.is_layered() { self.pump() } else { self.judge_unread(unasked, peeked) }
    }

    /// Judges what will be read next, together with what was read before.
    fn judge_unread(&self, mut all: Vec<u8>, bytes: &[u8]) -> Option<CloseReason> {
        if all.is_empty() {
            return self.judge(bytes);
        }
        all.extend_from_slice(bytes);
        self.judge(&all)
    }

    fn judge(&self, bytes: &[u8]) -> Option<CloseReason> {
        match foreign::call(|| (self.judge)(bytes)) {
            // A reset takes no bytes back that nobody asked for.
            Ok(Verdict::NeedsReset) => Some(CloseReason::Dirty),
            Ok(verdict) => {
                self.condemn_on(verdict);
                verdict.reason(CloseReason::Dirty)
            }
            Err(foreign::Panicked) => Some(CloseReason::Panicked),
        }
    }

    /// Has the layer take in what waits on the socket: what is for the layer alone, as the tickets of
    /// TLS are, is gone then; the rest is judged, and kept for the next reader.
    fn pump(&self) -> Option<CloseReason> {
        // The layer itself asks for a connection, while it is polled further up this stack, and meets
        // its own. What it is about to take in was not judged.
        let this_thread = here();
        if this_thread != 0 && self.layer_is_held_by.load(Ordering::Relaxed) == this_thread {
            return Some(CloseReason::Dirty);
        }
        let (taken_in, reader, unasked) = self.with_layer(|layer| {
            // The task that reads here, if there is one, is told to read again. Nobody else reads while
            // the layer is locked.
            let reader = self.link.reader().take();
            let taken_in = match layer.as_mut() {
                Some(layer) => foreign::call(|| layer.take_in()),
                None => Ok(TakenIn::End(CloseReason::Dirty)),
            };
            (taken_in, reader, self.unasked())
        });
        self.layer_is_free();
        // Nobody waits: the next read has its full time.
        self.record(Stream::has_read);
        if let Some(reader) = reader {
            reader.wake();
        }
        match taken_in {
            Ok(TakenIn::Nothing) => None,
            Ok(TakenIn::Bytes(bytes)) => self.judge_unread(unasked?, &bytes),
            // It may be long.
            Ok(TakenIn::End(CloseReason::Dirty)) if unasked.is_none() => None,
            Ok(TakenIn::End(reason)) => Some(reason),
            Err(foreign::Panicked) => Some(CloseReason::Panicked),
        }
    }
}

/// A read or a write whose bytes are not counted yet.
pub(super) struct Telling<'a>(&'a Shared);

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.0.is_telling.store(false, Ordering::Release);
    }
}

impl Layer {
    fn take_in(&mut self) -> TakenIn {
        let Self { io, kept } = self;
        // The bell is left in the socket's reader slot whoever reads.
        let mut cx = Context::from_waker(Waker::noop());
        while kept.len() < MOST_KEPT {
            let mut space = [0; 256];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut **io).poll_read(&mut cx, &mut buf) {
                Poll::Pending if kept.is_empty() => return TakenIn::Nothing,
                Poll::Pending => return TakenIn::Bytes(kept.clone()),
                Poll::Ready(Err(error)) => return TakenIn::End(CloseReason::of_io_error(&error)),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return TakenIn::End(CloseReason::PeerClosed);
                }
                Poll::Ready(Ok(())) => kept.extend_from_slice(buf.filled()),
            }
        }
        // A peer that never stops is not idle.
        TakenIn::End(CloseReason::Dirty)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let scanner = lock(&self.scanner).take();
        foreign::dispose(scanner);
        self.drop_layer();
        if let Some(lingering) = self.linger.get() {
            lingering.pass_if_open();
        }
    }
}

/// A number of this thread that no other has as long as it lives.
#[cfg(not(shuttle))]
fn here() -> usize {
    thread_local!(static HERE: u8 = const { 0 });
    HERE.with(|here| std::ptr::from_ref(here).addr())
}

/// In a model check all threads are one.
#[cfg(shuttle)]
fn here() -> usize {
    0
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}
