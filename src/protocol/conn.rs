//! [`Conn`]: a connection as its pool moves it about: a bare stream, or a client over one.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::task::Waker;

use super::bell::Keeper;
use super::driver::Rest;
use super::shared::{Judge, Shared};
use super::{Lingering, Wire, WireStream};
use crate::config::Limits;
use crate::deadline::Deadline;
use crate::event::CloseReason;
use crate::foreign;
use crate::liveness::{self, Liveness, Parked};
use crate::stream::{Stream, TooLarge};
use crate::sync::{Arc, MutexGuard};
use crate::sys::peek::Peeked;
use crate::sys::tcp_info::tcp_info;

/// A connection.
#[derive(Debug)]
pub(crate) enum Conn {
    /// Boxed: it is moved several times per checkout.
    Raw(Box<Stream>),
    Client(Box<Client>),
}

/// A client, and the pool's own way to its stream.
pub(crate) struct Client {
    shared: Arc<Shared>,
    client: Box<dyn Any + Send + Sync>,
}

/// A stream that is about to get its client. Dropped without one, it is closed.
pub(crate) struct Bare {
    shared: Arc<Shared>,
    has_client: bool,
}

impl Bare {
    pub(crate) fn new(stream: Box<Stream>, judge: Judge, limits: Limits) -> Self {
        Self { shared: Shared::new(stream, judge, limits), has_client: false }
    }

    /// The error that ended the handshake, if the peer sent too much.
    pub(crate) fn exceeded(&self) -> Option<TooLarge> {
        self.shared.bounds().exceeded()
    }

    /// The wire for its protocol, which has to have made its client by then.
    pub(crate) fn wire(&self, deadline: Deadline) -> Wire {
        Wire::new(&self.shared, deadline)
    }

    pub(crate) fn with_client(mut self, client: Box<dyn Any + Send + Sync>) -> Conn {
        self.has_client = true;
        self.shared.bounds().greeted();
        self.shared.settle();
        Conn::Client(Box::new(Client { shared: Arc::clone(&self.shared), client }))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if !self.has_client {
            self.shared.close(CloseReason::Discarded);
        }
    }
}

/// A stream, locked where it is shared.
pub(crate) enum Access<'a> {
    Raw(&'a Stream),
    Shared(MutexGuard<'a, Option<Box<Stream>>>),
}

/// The same, to change something.
pub(crate) enum AccessMut<'a> {
    Raw(&'a mut Stream),
    Shared(MutexGuard<'a, Option<Box<Stream>>>),
}

/// Nobody takes a stream out but whoever closes the connection, who has it then.
const OPEN: &str = "a connection that is not closed has its stream";

impl Deref for Access<'_> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        match self {
            Self::Raw(stream) => stream,
            Self::Shared(stream) => stream.as_deref().expect(OPEN),
        }
    }
}

impl Deref for AccessMut<'_> {
    type Target = Stream;

    fn deref(&self) -> &Stream {
        match self {
            Self::Raw(stream) => stream,
            Self::Shared(stream) => stream.as_deref().expect(OPEN),
        }
    }
}

impl DerefMut for AccessMut<'_> {
    fn deref_mut(&mut self) -> &mut Stream {
        match self {
            Self::Raw(stream) => stream,
            Self::Shared(stream) => stream.as_deref_mut().expect(OPEN),
        }
    }
}

impl Conn {
    pub(crate) fn stream(&self) -> Access<'_> {
        match self {
            Self::Raw(stream) => Access::Raw(stream),
            Self::Client(client) => Access::Shared(client.shared.stream()),
        }
    }

    pub(crate) fn stream_mut(&mut self) -> AccessMut<'_> {
        match self {
            Self::Raw(stream) => AccessMut::Raw(stream),
            Self::Client(client) => AccessMut::Shared(client.shared.stream()),
        }
    }

    /// Several callers use its client, or do no more.
    pub(crate) fn set_shared(&self, is_shared: bool) {
        if let Self::Client(client) = self {
            client.shared.set_shared(is_shared);
        }
    }

    /// The user's view: the client, or the stream itself.
    pub(crate) fn as_any(&self) -> &(dyn Any + Send + Sync) {
        match self {
            Self::Raw(stream) => &**stream,
            Self::Client(client) => &*client.client,
        }
    }

    pub(crate) fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        match self {
            Self::Raw(stream) => &mut **stream,
            Self::Client(client) => &mut *client.client,
        }
    }

    /// The client or the stream, out of the pool.
    pub(crate) fn into_any(self) -> Box<dyn Any + Send + Sync> {
        match self {
            Self::Raw(stream) => stream,
            Self::Client(mut client) => {
                client.shared.leave();
                std::mem::replace(&mut client.client, Box::new(()))
            }
        }
    }

    /// Another handle to the same connection, without its client: for whoever looks after it while
    /// nobody uses it, where its owner keeps the client. What is closed through that one is closed,
    /// but for a bare stream, of which the owner has a descriptor of his own. `None`, if there are
    /// no more descriptors. To be called inside a runtime.
    pub(crate) fn lend(&self) -> Option<Self> {
        match self {
            Self::Raw(stream) => stream.twin().ok().map(|twin| Self::Raw(Box::new(twin))),
            Self::Client(client) => {
                let (shared, client) = (Arc::clone(&client.shared), Box::new(()));
                Some(Self::Client(Box::new(Client { shared, client })))
            }
        }
    }

    /// Whether a client that is bytes is still that of this connection. Who has two guards can exchange
    /// what is in them.
    #[inline]
    pub(crate) fn is_over_its_own(&self, client: &(dyn Any + Send + Sync)) -> bool {
        let Self::Client(own) = self else { return true };
        let wire = client.downcast_ref::<Wire>();
        let wire = wire.or_else(|| client.downcast_ref::<WireStream>().map(WireStream::wire));
        wire.is_none_or(|wire| wire.is_of(&own.shared))
    }

    /// The protocol panicked over this connection: it is not reused.
    pub(crate) fn has_panicked(&self) {
        self.spoil(CloseReason::Panicked);
    }

    /// The stream of a client must not be reused, for this reason, whoever looks at it.
    pub(crate) fn spoil(&self, reason: CloseReason) {
        if let Self::Client(client) = self {
            client.shared.record(|stream| stream.taint(reason));
        }
    }

    /// Has `keeper` told of what happens while it is idle. Of a bare stream the waker that is parked
    /// tells.
    pub(crate) fn keep(&self, keeper: impl FnOnce() -> Arc<dyn Keeper>) {
        if let Self::Client(client) = self {
            client.shared.keep(keeper());
        }
    }

    /// Whether anybody uses it: what comes while nobody does is judged by the protocol.
    pub(crate) fn set_idle(&self, idle: bool) {
        if let Self::Client(client) = self {
            client.shared.set_idle(idle);
        }
    }

    /// Whether a task of the client has work to do.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self {
            Self::Raw(_) => true,
            Self::Client(client) => client.shared.rest().is_at_rest(),
        }
    }

    /// Whether nothing speaks against another user beside those it has. Takes no lock.
    pub(crate) fn is_well(&self) -> bool {
        match self {
            Self::Raw(_) => false,
            Self::Client(client) => client.shared.is_well(),
        }
    }

    /// The task of the client, if it may have one.
    pub(crate) fn task(&self) -> Option<Arc<Rest>> {
        match self {
            Self::Raw(_) => None,
            Self::Client(client) => Some(Arc::clone(client.shared.rest())),
        }
    }

    /// Resolves when it has none.
    pub(crate) async fn rested(&self) {
        if let Self::Client(client) = self {
            client.shared.rest().rested().await;
        }
    }

    /// Closes the socket, then the client. Returns who keeps what is left of it, if its peer still works
    /// for it.
    pub(crate) fn close(self, reason: CloseReason) -> Option<Arc<Lingering>> {
        match self {
            Self::Raw(stream) => {
                drop(stream);
                None
            }
            Self::Client(client) => {
                let kept = client.shared.close_and_leave(reason).cloned();
                drop(client);
                kept
            }
        }
    }

    /// The rungs that never wait; see [`liveness::check`].
    #[inline(always)]
    pub(crate) fn check(&self, has_fired: bool) -> Liveness {
        match self {
            Self::Raw(stream) => liveness::check(stream.io(), has_fired, Waker::noop()),
            Self::Client(client) => client.check(),
        }
    }

    /// A peek alone.
    pub(crate) fn peek(&self) -> Liveness {
        match self {
            Self::Raw(stream) => Liveness::of_peek(stream.io().peek()),
            Self::Client(client) => client.peek(),
        }
    }

    /// Leaves a waker in the socket's reader slot; see [`liveness::park`].
    pub(crate) fn park(&self, sentinel: &Waker) -> Parked {
        match self {
            Self::Raw(stream) => liveness::park(stream.io(), sentinel),
            Self::Client(client) => client.park(),
        }
    }

    /// Wakes whoever reads: a limit has changed.
    pub(crate) fn wake_reader(&self) {
        if let Self::Client(client) = self {
            client.shared.link().reader().wake();
        }
    }
}

/// A client is foreign, and so is its drop.
impl Drop for Client {
    fn drop(&mut self) {
        foreign::dispose(std::mem::replace(&mut self.client, Box::new(())));
    }
}

impl Client {
    #[inline(never)]
    fn check(&self) -> Liveness {
        if let Some(stream) = &*self.shared.stream() {
            if let Some(reason) = stream.tainted() {
                return Liveness::Dead(reason);
            }
            if liveness::runtime_gone(stream.io(), self.shared.waker()) {
                return Liveness::Dead(CloseReason::RuntimeGone);
            }
        }
        self.peek()
    }

    fn peek(&self) -> Liveness {
        let mut space = [0; 256];
        let (peeked, count, peer_closed, unasked) = match &*self.shared.stream() {
            Some(stream) => {
                let (peeked, count) = stream.io().peek_bytes(&mut space);
                // What that is about is asked while nobody can read it.
                let unasked = self.shared.unasked();
                // What may wait hides what came after it.
                let bytes = matches!(peeked, Peeked::Bytes);
                let info = if bytes { tcp_info(&stream.io().sock_ref()) } else { None };
                (peeked, count, info.is_some_and(|info| info.peer_closed), unasked)
            }
            None => return Liveness::Dead(CloseReason::Discarded),
        };
        if !matches!(peeked, Peeked::Bytes) {
            return Liveness::of_peek(peeked);
        }
        match self.shared.judge_waiting(unasked, &space[..count]) {
            None if peer_closed => Liveness::Dead(CloseReason::PeerClosed),
            None => Liveness::Alive,
            Some(reason) => Liveness::Dead(reason),
        }
    }

    fn park(&self) -> Parked {
        // Whoever waits may use it as it is. Idle, it would keep the memory of its longest message.
        if self.shared.bounds().is_outgrown() {
            return Parked::Unfit(CloseReason::Outgrown);
        }
        let parked = match &*self.shared.stream() {
            Some(stream) => match stream.tainted() {
                Some(reason) => return Parked::Unfit(reason),
                None => liveness::park(stream.io(), self.shared.waker()),
            },
            None => return Parked::Unfit(CloseReason::Discarded),
        };
        match parked {
            // It is for the protocol to say what bytes mean. Those that may wait keep the waker from
            // being parked: whoever takes the connection next looks again.
            Parked::Unfit(CloseReason::Dirty) => match self.peek() {
                Liveness::Alive => Parked::Waiting,
                Liveness::Dead(reason) => Parked::Unfit(reason),
            },
            parked => parked,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("shared", &self.shared).finish_non_exhaustive()
    }
}
