//! Ping: one round trip of the protocol before a connection is handed out.
//!
//! The round trip is made on the lease of the caller, outside the idle set. A caller whose time is
//! up, or who goes, leaves the ping to the pool: it has `timeouts.ping`, whoever waits for it, and
//! a connection that answers is as good as before.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::Instant;

use crate::config::Validation;
use crate::deadline::Deadline;
use crate::event::{Check, CheckVerdict, CloseReason, Event, Hook, Operation};
use crate::foreign::{self, Held, Panicked};
use crate::pool::conn::lease::Lease;
use crate::pool::inner::{PoolInner, has_runtime};
use crate::protocol::Conn;
use crate::stream::{Ending, Stream};
use crate::sync::Arc;

/// Asks the program behind a connection whether it lives: the only way to notice a process that is
/// stopped or hangs, since its kernel answers for it. Given to
/// [`Builder::ping`](crate::Builder::ping), and used as [`Validation`] says.
///
/// ```
/// use livepool::{BoxFuture, Ping, Stream};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// struct RedisPing;
///
/// impl Ping for RedisPing {
///     fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, std::io::Result<()>> {
///         Box::pin(async move {
///             stream.write_all(b"PING\r\n").await?;
///             let mut answer = [0; 7];
///             stream.read_exact(&mut answer).await?;
///             if &answer == b"+PONG\r\n" { Ok(()) } else { Err(std::io::ErrorKind::InvalidData.into()) }
///         })
///     }
/// }
/// ```
pub trait Ping: Send + Sync + 'static {
    /// Sends one request and reads its whole answer. An error, or a byte of the answer left unread,
    /// closes the connection with reason `ping_failed`; more than `timeouts.ping`, with
    /// `ping_timeout`.
    ///
    /// A caller who goes does not end it: it goes on in a task of the pool, within `timeouts.ping`. The
    /// future may be dropped at any await all the same, when the pool is closed, say; the connection is
    /// then closed.
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, io::Result<()>>;
}

/// The ping of a pool, if it has one.
#[derive(Clone, Default)]
pub(in crate::pool) struct Pinger(pub(in crate::pool) Option<Held<Arc<dyn Ping>>>);

impl fmt::Debug for Pinger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Pinger" } else { "no Pinger" })
    }
}

impl Validation {
    /// Whether a connection that was idle for so long is to be pinged.
    fn asks_for_ping(self, idle: Duration) -> bool {
        match self {
            Self::Peek => false,
            Self::Ping => true,
            Self::PingIfIdle(limit) => idle >= limit,
        }
    }
}

impl PoolInner {
    /// Whether anything is to be done before a connection is handed out that may have to wait.
    #[inline]
    pub(in crate::pool) fn prepares(&self) -> bool {
        self.live().pings() || self.hooks.before_checkout.is_some()
    }

    fn validation(&self) -> Validation {
        if self.live().pings() { self.settings().validation } else { Validation::Peek }
    }

    async fn ping(&self, conn: &mut Conn) -> io::Result<()> {
        match (&self.protocol, &self.pinger.0, conn) {
            (Some(protocol), _, conn) => protocol.ping(conn).await,
            (None, Some(ping), Conn::Raw(stream)) => {
                foreign::future(async { ping.ping(stream).await }).await?
            }
            // The configuration was refused.
            _ => Ok(()),
        }
    }

    /// Pings a connection, if it is to be pinged, and runs the hook before a checkout, if there is one.
    pub(in crate::pool) async fn proved(
        self: &Arc<Self>,
        lease: Lease,
        deadline: Deadline,
    ) -> Proof {
        let is_asked = match (self.validation(), lease.was_idle_for()) {
            (Validation::Peek, _) => false,
            (validation, Some(idle)) => validation.asks_for_ping(idle),
            // It was just made. Its program has answered if there was a handshake.
            (validation, None) => validation == Validation::Ping && !lease.was_greeted(),
        };
        if !is_asked && self.hooks.before_checkout.is_none() {
            return Proof::Given(lease);
        }
        if deadline.instant().is_some_and(|at| at <= Instant::now()) {
            return Proof::Late;
        }
        // Boxed, so that it can move to a task of the pool when its caller goes.
        let ping = Box::pin(Arc::clone(self).prepare(lease, is_asked));
        let mut under_way = PingInFlight { pool: self, ping: Some(ping) };
        match deadline.run(&mut under_way).await {
            Ok(Some(Ok(lease))) => Proof::Given(lease),
            Ok(Some(Err(refused))) => Proof::RefusedByHook(refused),
            Ok(None) => Proof::Refused,
            Err(_) => Proof::Late,
        }
    }

    async fn prepare(self: Arc<Self>, lease: Lease, is_asked: bool) -> Prepared {
        let lease = match is_asked {
            true => Arc::clone(&self).ping_in_time(lease).await?,
            false => lease,
        };
        let lease = match self.hooks.before_checkout {
            Some(_) => match self.hook_in_time(lease).await {
                Ok(lease) => lease,
                refused => return Some(refused),
            },
            None => lease,
        };
        // The pool may have been invalidated meanwhile.
        lease.unless_retired().map(Ok)
    }

    /// Runs the hook before a checkout, within `timeouts.hook`. Where that fails the connection is
    /// closed.
    async fn hook_in_time(self: Arc<Self>, lease: Lease) -> Result<Lease, RefusedByHook> {
        let is_new = lease.was_idle_for().is_none();
        let mut lease = Hooked(Some(lease));
        let Some(held) = &mut lease.0 else { unreachable!("it is there until its end") };
        let ran = self.run_hook(Hook::BeforeCheckout, held.conn_mut()).await;
        let Some(mut lease) = lease.0.take() else { unreachable!("it is there until its end") };
        lease.note_use();
        let ended = match ran {
            Ok(()) => {
                // If its caller has gone meanwhile, what the hook did is looked at as a user's.
                lease.note_prepared();
                lease.begin_anew().map_err(|reason| (reason, reason.as_str().into()))
            }
            Err((reason, error)) => Err((reason, error.to_string().into())),
        };
        match ended {
            Ok(()) => Ok(lease),
            Err((reason, error)) => {
                lease.throw_away(reason);
                Err(RefusedByHook { is_new, error })
            }
        }
    }

    /// As [`proved`](Self::proved), for a caller who does not wait: the hook of one that would have to
    /// goes on for the pool.
    pub(in crate::pool) fn prepared_at_once(self: &Arc<Self>, lease: Lease) -> Option<Lease> {
        // Its time is a timer of the runtime.
        if !has_runtime() {
            return None;
        }
        let ping = Box::pin(Arc::clone(self).prepare(lease, false));
        let mut under_way = PingInFlight { pool: self, ping: Some(ping) };
        (&mut under_way).now_or_never().flatten()?.ok()
    }

    /// Pings a connection, within `timeouts.ping`. Returns `None` if that failed; the connection is
    /// closed then.
    async fn ping_in_time(self: Arc<Self>, mut lease: Lease) -> Option<Lease> {
        let limit = self.settings().timeouts.ping;
        let pinged = Deadline::after(limit).run(self.ping(lease.conn_mut())).await;
        let is_late = pinged.is_err();
        let (reason, verdict) = match pinged {
            Ok(Ok(())) => match lease.stream().unfit(Ending::Answered) {
                None => (None, CheckVerdict::Alive),
                Some(_) => (Some(CloseReason::PingFailed), CheckVerdict::Dead),
            },
            Ok(Err(error)) if crate::error::is_timeout(&error) => {
                (Some(CloseReason::PingTimeout), CheckVerdict::Dead)
            }
            Ok(Err(error)) if Panicked::is_in(&error) => {
                (Some(CloseReason::Panicked), CheckVerdict::Dead)
            }
            Ok(Err(_)) => (Some(CloseReason::PingFailed), CheckVerdict::Dead),
            Err(_) => (Some(CloseReason::PingTimeout), CheckVerdict::Dead),
        };
        let (conn, check) = (lease.id(), Check::Ping);
        // Before the close event: an operator reads the cause first.
        self.emitter().emit(Event::Checked { conn, check, verdict, heard: None });
        if let (true, Some(after)) = (is_late, limit) {
            let operation = Operation::Ping;
            self.emitter().emit(Event::TimedOut { operation, conn: Some(conn), after });
        }
        lease.note_use();
        match reason.map_or_else(|| lease.begin_anew(), Err) {
            Ok(()) => Some(lease),
            Err(reason) => {
                lease.throw_away(reason);
                None
            }
        }
    }
}

/// How a ping ended for the caller who waited for it.
pub(in crate::pool) enum Proof {
    /// The connection is alive, or need not show it.
    Given(Lease),
    /// The connection was not alive, or was retired meanwhile, and is closed.
    Refused,
    /// The hook before a checkout refused the connection, which is closed.
    RefusedByHook(RefusedByHook),
    /// The caller's time was over first. The ping goes on for the pool.
    Late,
}

/// Why a caller does not get a connection that its hook refused.
#[derive(Debug, Clone)]
pub(in crate::pool) struct RefusedByHook {
    /// It was just made: there is no better one.
    pub(in crate::pool) is_new: bool,
    pub(in crate::pool) error: Arc<str>,
}

/// The connection, if it is fit; `None`, if its ping failed, or it was retired meanwhile.
type Prepared = Option<Result<Lease, RefusedByHook>>;

/// A connection over which a hook runs. Dropped in the middle, it is closed: nobody knows its state.
struct Hooked(Option<Lease>);

impl Drop for Hooked {
    fn drop(&mut self) {
        if let Some(mut lease) = self.0.take() {
            let closed = lease.inner().is_closed();
            lease.throw_away(match closed {
                true => CloseReason::PoolClosed,
                false => CloseReason::HookFailed,
            });
        }
    }
}

pub(in crate::pool) type PingInTime = BoxFuture<'static, Prepared>;

/// A ping that a caller waits for. Dropped before its end, it goes on for the pool.
struct PingInFlight<'a> {
    pool: &'a Arc<PoolInner>,
    /// Always there until its end.
    ping: Option<PingInTime>,
}

impl Future for &mut PingInFlight<'_> {
    type Output = Prepared;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Prepared> {
        let Some(ping) = &mut self.ping else { return Poll::Ready(None) };
        let lease = std::task::ready!(ping.as_mut().poll(cx));
        self.ping = None;
        Poll::Ready(lease)
    }
}

impl Drop for PingInFlight<'_> {
    fn drop(&mut self) {
        // One that has panicked is not polled again.
        let ping = self.ping.take().filter(|_| !std::thread::panicking());
        if let Some(ping) = ping {
            self.pool.leave_to_a_task(ping);
        }
    }
}

impl PoolInner {
    /// Has this run by a task of the pool, unless that is closed. The connection then goes back
    /// where it belongs.
    fn leave_to_a_task(&self, ping: PingInTime) {
        // With the pool its connection is closed.
        drop(self.pings.push(ping));
        // The dialer runs these, and sleeps on this.
        self.slots.announce();
    }

    /// As a ping whose caller has gone: run by a task of the pool, until that is closed.
    pub(in crate::pool) fn leave_work(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.leave_to_a_task(Box::pin(async move {
            // It is the protocol's code.
            let _ = foreign::future(work).await;
            None
        }));
    }
}
