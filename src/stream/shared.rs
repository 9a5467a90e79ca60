//! [`Shared`]: a stream that a client library uses and its pool can reach as well.
//!
//! A client takes its stream for good, often into a task of its own. The pool still has to look at
//! the socket while the connection is idle, and to close it when it is no use. So both share it,
//! under a lock that is held for one poll or one look, and never across a wait.

use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::bell::{Bell, Keeper};
use super::driver::Rest;
use super::link::{Ledger, Link};
use super::scan::{Consequence, Scanner, Unread};
use super::{Interrupted, Stream};
use crate::event::{CloseReason, ConnId};
use crate::net::PeerAddr;

/// What a protocol says to bytes that came while nobody used the connection.
pub(crate) type Judge = Arc<dyn Fn(&[u8]) -> Unread + Send + Sync>;

/// What runs between a stream and its client.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The most that is read ahead for a client that does not read: more than any notice that a
/// protocol sends on its own.
const MOST_KEPT: usize = 16 * 1024;

/// One per connection of a client library.
pub(crate) struct Shared {
    /// Taken out when the connection is closed. Held for one poll or one look.
    stream: Mutex<Option<Box<Stream>>>,
    /// The stream is to be taken out by whoever has it.
    is_closed: AtomicBool,
    /// TLS, say. Held for one poll; locked before the stream, never after.
    layer: Mutex<Option<Layer>>,
    is_layered: AtomicBool,
    /// Called under this lock and no other: the order of the bytes is that of the calls.
    scanner: Mutex<Option<Box<dyn Scanner>>>,
    is_scanned: AtomicBool,
    /// Nobody uses the connection.
    is_idle: AtomicBool,
    /// Of the client's task.
    rest: Arc<Rest>,
    bell: Arc<Bell>,
    waker: Waker,
    link: Arc<Link>,
    judge: Judge,
    id: ConnId,
    peer: PeerAddr,
    host: Option<Arc<str>>,
}

struct Layer {
    io: Box<dyn Duplex>,
    /// What was read for nobody, and is kept for whoever reads next.
    kept: Vec<u8>,
}

impl Shared {
    pub(super) fn new(mut stream: Box<Stream>, judge: Judge) -> Arc<Self> {
        let link = Arc::clone(stream.link());
        let bell = Bell::new(Arc::clone(&link));
        let waker = bell.waker();
        stream.ring(Some(waker.clone()));
        Arc::new(Self {
            id: stream.id(),
            peer: stream.peer_addr().clone(),
            host: stream.host().cloned(),
            stream: Mutex::new(Some(stream)),
            is_closed: AtomicBool::new(false),
            layer: Mutex::new(None),
            is_layered: AtomicBool::new(false),
            scanner: Mutex::new(None),
            is_scanned: AtomicBool::new(false),
            is_idle: AtomicBool::new(false),
            rest: Arc::default(),
            bell,
            waker,
            link,
            judge,
        })
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

    /// What is left in the socket's reader slot: it wakes the client and the pool.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }

    pub(super) fn stream(&self) -> MutexGuard<'_, Option<Box<Stream>>> {
        lock(&self.stream)
    }

    /// The stream, for good. `None` if the connection was closed.
    pub(super) fn take(&self) -> Option<Box<Stream>> {
        let mut stream = self.stream().take()?;
        stream.ring(None);
        Some(stream)
    }

    pub(super) fn keep(&self, keeper: Arc<dyn Keeper>) {
        self.bell.keep(keeper);
    }

    pub(super) fn rest(&self) -> &Arc<Rest> {
        &self.rest
    }

    pub(super) fn set_idle(&self, idle: bool) {
        self.is_idle.store(idle, Ordering::Release);
    }

    /// Closes the socket, whoever has a wire to it.
    pub(super) fn close(&self, reason: CloseReason) {
        // Whoever finds no stream from here on is told why.
        self.link.note_interrupt(reason);
        self.is_closed.store(true, Ordering::SeqCst);
        self.close_stream();
        self.link.interrupt(reason);
        drop(lock(&self.layer).take());
    }

    /// Drops the stream; if somebody uses it this very moment, that one does (perhaps this thread,
    /// further up the stack).
    fn close_stream(&self) {
        let stream = match self.stream.try_lock() {
            Ok(mut stream) => stream.take(),
            Err(TryLockError::Poisoned(stream)) => stream.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        drop(stream);
    }

    /// The client is gone: nobody reads or writes here again.
    pub(super) fn abandon(&self) {
        // What is below holds us.
        drop(lock(&self.layer).take());
        self.taint(CloseReason::Discarded);
        self.link.end();
    }

    /// What a wire says that has lost its stream.
    pub(super) fn lost(&self) -> io::Error {
        Interrupted { reason: self.link.interrupted().unwrap_or(CloseReason::Discarded) }.into()
    }

    pub(super) fn count_debt(&self) -> Ledger {
        self.record(Stream::count_debt_for_good);
        Ledger(Arc::clone(&self.link))
    }

    pub(super) fn scan(&self, scanner: Box<dyn Scanner>) {
        *lock(&self.scanner) = Some(scanner);
        self.is_scanned.store(true, Ordering::Release);
    }

    /// `false` if there is a layer already.
    pub(super) fn begin_layer(&self) -> bool {
        let first = !self.is_layered.swap(true, Ordering::AcqRel);
        self.record(Stream::is_recorded_above);
        first
    }

    pub(super) fn set_layer(&self, io: Box<dyn Duplex>) {
        *lock(&self.layer) = Some(Layer { io, kept: Vec::new() });
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
        let result = match &mut *self.stream() {
            Some(stream) => poll(stream),
            None => Poll::Ready(Err(self.lost())),
        };
        // Whoever closed it meanwhile could not.
        if self.is_closed.load(Ordering::SeqCst) {
            self.close_stream();
        }
        result
    }

    pub(super) fn poll_layer<T>(
        &self,
        poll: impl FnOnce(Pin<&mut dyn Duplex>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &mut *lock(&self.layer) {
            Some(layer) => poll(Pin::new(&mut *layer.io)),
            None => Poll::Ready(Err(self.lost())),
        }
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

    /// The client received this.
    pub(super) fn received(&self, bytes: &[u8]) {
        // Something may be asked by what outlives its caller: a statement that is closed late, say.
        let is_unasked = self.is_idle.load(Ordering::Acquire) && self.link.debt() == 0;
        let consequence = self.scanned(|scanner| {
            scanner.received(bytes);
            scanner.consequence()
        });
        match consequence {
            None | Some(Consequence::Keep) => {}
            Some(Consequence::Evict) => self.taint(CloseReason::IoError),
            Some(Consequence::Goodbye) => self.taint(CloseReason::PeerClosed),
            Some(Consequence::Invalidate) => {
                self.taint(CloseReason::Invalidated);
                if let Some(keeper) = self.bell.keeper() {
                    keeper.condemned();
                }
            }
        }
        if is_unasked && let Some(reason) = self.judge(bytes) {
            self.taint(reason);
        }
    }

    /// The client sent this.
    pub(super) fn sent(&self, bytes: &[u8]) {
        self.scanned(|scanner| scanner.sent(bytes));
    }

    fn scanned<T>(&self, read_along: impl FnOnce(&mut dyn Scanner) -> T) -> Option<T> {
        if !self.is_scanned.load(Ordering::Acquire) {
            return None;
        }
        let mut scanner = lock(&self.scanner);
        let scanner = scanner.as_deref_mut()?;
        let result = read_along(scanner);
        // Before the debt, which may wake whoever reads.
        self.link.set_patient(scanner.is_patient());
        self.link.set_debt(scanner.owed());
        Some(result)
    }

    /// The connection must not be reused. If nobody uses it, its pool is told.
    pub(super) fn taint(&self, reason: CloseReason) {
        self.record(|stream| stream.taint(reason));
        if let Some(keeper) = self.bell.keeper() {
            keeper.stirred();
        }
    }

    /// Judges bytes that wait while nobody uses the connection: those of the socket, unless there is
    /// a layer that has to take them in first.
    pub(super) fn judge_waiting(&self, peeked: &[u8]) -> Option<CloseReason> {
        if self.link.debt() > 0 {
            return None;
        }
        if self.is_layered() { self.pump() } else { self.judge(peeked) }
    }

    fn judge(&self, bytes: &[u8]) -> Option<CloseReason> {
        match (self.judge)(bytes) {
            Unread::Keep => None,
            Unread::Dirty => Some(CloseReason::Dirty),
            Unread::Goodbye => Some(CloseReason::PeerClosed),
        }
    }

    /// Has the layer take in what waits on the socket: what is for the layer alone, as the tickets of
    /// TLS are, is gone then; the rest is judged, and kept for the next reader.
    fn pump(&self) -> Option<CloseReason> {
        let mut layer = lock(&self.layer);
        // The task that reads here, if there is one, is told to read again. Nobody else reads while
        // the layer is locked.
        let reader = self.link.reader().take();
        let reason = layer.as_mut().map_or(Some(CloseReason::Dirty), |layer| self.take_in(layer));
        drop(layer);
        // Nobody waits: the next read has its full time.
        self.record(Stream::has_read);
        if let Some(reader) = reader {
            reader.wake();
        }
        reason
    }

    fn take_in(&self, Layer { io, kept }: &mut Layer) -> Option<CloseReason> {
        // The bell is left in the socket's reader slot whoever reads.
        let mut cx = Context::from_waker(Waker::noop());
        while kept.len() < MOST_KEPT {
            let mut space = [0; 256];
            let mut buf = ReadBuf::new(&mut space);
            match Pin::new(&mut **io).poll_read(&mut cx, &mut buf) {
                Poll::Pending if kept.is_empty() => return None,
                Poll::Pending => return self.judge(kept),
                Poll::Ready(Err(error)) => return Some(CloseReason::of_io_error(&error)),
                Poll::Ready(Ok(())) if buf.filled().is_empty() => {
                    return Some(CloseReason::PeerClosed);
                }
                Poll::Ready(Ok(())) => kept.extend_from_slice(buf.filled()),
            }
        }
        // A peer that never stops is not idle.
        Some(CloseReason::Dirty)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("id", &self.id).finish_non_exhaustive()
    }
}
