//! [`Hooks`]: what the users of a pool have done to a connection after it was made, before it is handed
//! out, after it came back, and before it is closed.
//!
//! A hook is foreign code: it runs in the cage, within a time, and with no lock held. One that fails,
//! panics or hangs costs its connection, and nobody else.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::causes::OneLine;
use crate::deadline::{Deadline, Elapsed};
use crate::event::{CloseReason, ConnId, Event, Hook, Operation};
use crate::foreign::{self, Held, Panicked};
use crate::net::PeerAddr;
use crate::pool::conn::entry::Entry;
use crate::pool::conn::erased::MADE;
use crate::pool::dial::slots::Slot;
use crate::pool::inner::{PoolInner, has_runtime};
use crate::protocol::{Conn, Place, Protocol};
use crate::stream::{AfterConnect, Ending};
use crate::sync::{Arc, OnceLock, Weak};
use crate::telemetry::Emitter;

/// What a hook is told of its connection.
///
/// ```
/// # fn f(config: livepool::Config) -> Result<(), livepool::ConfigError> {
/// let pool = livepool::Pool::builder(config)
///     .after_connect(|_stream, about| {
///         println!("connection {} leads to {}", about.conn(), about.peer());
///         Box::pin(async { Ok(()) })
///     })
///     .build()?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HookInfo {
    conn: ConnId,
    peer: PeerAddr,
    reason: Option<CloseReason>,
}

impl HookInfo {
    /// The connection's number, as in events and logs.
    pub fn conn(&self) -> ConnId {
        self.conn
    }

    /// The address at the other end.
    pub fn peer(&self) -> &PeerAddr {
        &self.peer
    }

    /// Why the connection is about to be closed; `None` before.
    pub fn reason(&self) -> Option<CloseReason> {
        self.reason
    }
}

/// What a hook returns: an error costs the connection.
///
/// ```
/// use livepool::HookResult;
///
/// fn is_primary(answer: &str) -> HookResult {
///     if answer == "primary" { Ok(()) } else { Err("it is a replica".into()) }
/// }
/// ```
pub type HookResult = Result<(), Box<dyn Error + Send + Sync>>;

/// Why a hook cost its connection. Found with [`CheckoutError::find`](crate::CheckoutError::find) where
/// [`after_connect`](crate::Builder::after_connect) failed a dial.
///
/// ```
/// use livepool::{CheckoutError, HookError};
///
/// fn is_late(error: &CheckoutError) -> bool {
///     error.find::<HookError>().is_some_and(HookError::is_timeout)
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct HookError {
    hook: Hook,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// Its error, as text.
    Failed(String),
    Panicked,
    /// With its limit, where it has one of its own.
    Late(Option<Duration>),
    /// The connection is in the middle of an exchange, or was ended.
    Unfit(CloseReason),
}

impl HookError {
    /// The hook that failed.
    pub fn hook(&self) -> Hook {
        self.hook
    }

    /// Whether its time was up.
    pub fn is_timeout(&self) -> bool {
        matches!(self.why, Why::Late(_))
    }

    /// The reason with which the connection is closed.
    fn reason(&self) -> CloseReason {
        match self.why {
            Why::Panicked => CloseReason::Panicked,
            _ => CloseReason::HookFailed,
        }
    }
}

impl fmt::Display for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the {} hook ", self.hook)?;
        match &self.why {
            Why::Failed(why) => write!(f, "failed: {why}"),
            Why::Panicked => f.write_str("panicked"),
            Why::Late(Some(limit)) => write!(f, "took longer than {limit:.1?} (timeouts.hook)"),
            Why::Late(None) => {
                f.write_str("was not done within the time of the dial (timeouts.connect)")
            }
            Why::Unfit(reason) => write!(f, "left the connection unfit for use: {reason}"),
        }
    }
}

/// The text carries the cause, so there is no source.
impl Error for HookError {}

/// A hook without the types of its protocol.
type Erased = dyn for<'a> Fn(&'a mut (dyn Any + Send + Sync), &'a HookInfo) -> BoxFuture<'a, HookResult>
    + Send
    + Sync;

pub(in crate::pool) fn erase<P, F>(hook: F) -> ErasedHook
where
    P: Protocol,
    F: for<'a> Fn(&'a mut P::Client, &'a HookInfo) -> BoxFuture<'a, HookResult>
        + Send
        + Sync
        + 'static,
{
    // Named types, so that the closure takes every lifetime.
    fn of<C: 'static, F>(hook: F) -> Box<Erased>
    where
        F: for<'a> Fn(&'a mut C, &'a HookInfo) -> BoxFuture<'a, HookResult> + Send + Sync + 'static,
    {
        Box::new(move |client, about| hook(client.downcast_mut().expect(MADE), about))
    }
    Held::new(of::<P::Client, F>(hook))
}

pub(in crate::pool) type ErasedHook = Held<Box<Erased>>;

/// The hooks of a pool.
#[derive(Default)]
pub(in crate::pool) struct Hooks {
    pub(in crate::pool) after_connect: Option<ErasedHook>,
    pub(in crate::pool) before_checkout: Option<ErasedHook>,
    pub(in crate::pool) after_return: Option<ErasedHook>,
    pub(in crate::pool) before_close: Option<ErasedHook>,
    /// The pool of these hooks, for those that run in a task of their own.
    pub(in crate::pool) pool: OnceLock<Weak<PoolInner>>,
}

impl Hooks {
    fn get(&self, hook: Hook) -> Option<&ErasedHook> {
        match hook {
            Hook::AfterConnect => self.after_connect.as_ref(),
            Hook::BeforeCheckout => self.before_checkout.as_ref(),
            Hook::AfterReturn => self.after_return.as_ref(),
            Hook::BeforeClose => self.before_close.as_ref(),
        }
    }

    /// Those that there are.
    pub(in crate::pool) fn given(&self) -> Vec<Hook> {
        Hook::ALL.iter().copied().filter(|hook| self.get(*hook).is_some()).collect()
    }

    /// Whether there is none.
    pub(in crate::pool) fn is_empty(&self) -> bool {
        self.given().is_empty()
    }

    /// Runs a hook, if there is one. Dropped in the middle, nobody knows the connection's state.
    async fn run(
        &self,
        hook: Hook,
        conn: &mut Conn,
        reason: Option<CloseReason>,
        deadline: Deadline,
        limit: Option<Duration>,
    ) -> Result<(), HookError> {
        let Some(call) = self.get(hook) else { return Ok(()) };
        let about = {
            let stream = conn.stream();
            HookInfo { conn: stream.id(), peer: stream.peer_addr().clone(), reason }
        };
        let ran = async {
            let client = conn.as_any_mut();
            let ran = foreign::future(async { call(client, &about).await }).await;
            let result = match ran {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => {
                    let text = OneLine(&*error).to_string();
                    foreign::dispose(error);
                    Err(Why::Failed(text))
                }
                Err(Panicked) => {
                    conn.has_panicked();
                    Err(Why::Panicked)
                }
            };
            // What it has left in its client's channel is sent first.
            conn.rested().await;
            result
        };
        let result = match deadline.run(ran).await {
            Ok(result) => result,
            Err(Elapsed) => Err(Why::Late(limit)),
        };
        let unfit = || conn.stream().unfit(Ending::Answered).map_or(Ok(()), |r| Err(Why::Unfit(r)));
        result.and_then(|()| unfit()).map_err(|why| HookError { hook, why })
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Hooks").field(&self.given()).finish()
    }
}

/// As part of a dial, within its time.
impl AfterConnect for PoolInner {
    fn after_connect<'a>(
        &'a self,
        conn: &'a mut Conn,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<(), HookError>> {
        Box::pin(async move {
            let ran = self.hooks.run(Hook::AfterConnect, conn, None, deadline, None).await;
            match &ran {
                Ok(()) => self.settled(conn),
                Err(error) => tell(self.emitter(), conn, error),
            }
            // What it exchanged is not its first user's.
            conn.stream_mut().begin_use();
            ran
        })
    }
}

/// Says that a hook failed.
fn tell(emitter: &Emitter, conn: &Conn, error: &HookError) {
    let (id, peer) = {
        let stream = conn.stream();
        (stream.id(), stream.peer_addr().clone())
    };
    if let Why::Late(Some(after)) = error.why {
        emitter.emit(Event::TimedOut { operation: Operation::Hook, conn: Some(id), after });
    }
    let text = error.to_string().into();
    emitter.emit(Event::HookFailed { hook: error.hook, conn: id, peer, error: text });
}

impl PoolInner {
    /// Tells the protocol that every user has to find the session as it is now.
    pub(in crate::pool) fn settled(&self, conn: &Conn) {
        if let Some(protocol) = &self.protocol {
            protocol.settled(conn);
        }
    }

    /// Runs a hook within `timeouts.hook`, if there is one. The reason to close the connection, and the
    /// hook's error, if it failed.
    pub(in crate::pool) async fn run_hook(
        &self,
        hook: Hook,
        conn: &mut Conn,
    ) -> Result<(), (CloseReason, HookError)> {
        let limit = self.settings().timeouts.hook;
        let ran = self.hooks.run(hook, conn, None, Deadline::after(limit), limit).await;
        ran.map_err(|error| {
            tell(self.emitter(), conn, &error);
            // That it had ended says more.
            let reason = conn.stream().tainted().unwrap_or_else(|| error.reason());
            (reason, error)
        })
    }

    /// Has the hook before its close run in a task of its own, if there is one and it makes sense. The
    /// connection is closed behind it, and its place is free then. Returns it where it is to be closed
    /// now.
    pub(in crate::pool) fn close_behind_hook(
        &self,
        entry: &Entry,
        mut conn: Conn,
        reason: CloseReason,
        used: Option<Duration>,
    ) -> Result<(), Conn> {
        if !is_by_rule(reason) || !has_runtime() {
            return Err(conn);
        }
        let pool = self.hooks.pool.get().and_then(Weak::upgrade);
        let (Some(pool), Some(entry)) = (pool, self.registry.get(entry.id)) else {
            return Err(conn);
        };
        if !conn.is_at_rest() || conn.stream().unfit(Ending::Answered).is_some() {
            return Err(conn);
        }
        conn.set_idle(false);
        conn.stream_mut().lift_limits();
        // It is nobody's any more, and still one of `max_size`.
        let place = entry.take_slot().map(Slot::ending);
        self.registry.remove(entry.id);
        let closing = Closing { pool, entry, conn: Some(conn), reason, used, _place: place };
        tokio::spawn(closing.run());
        Ok(())
    }
}

/// Whether a rule ends the connection, or somebody's word about all of them, and nothing is wrong with
/// it.
fn is_by_rule(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::IdleTimeout
            | CloseReason::MaxLifetime
            | CloseReason::Invalidated
            | CloseReason::Resized
            | CloseReason::Paused
            | CloseReason::Drained
            | CloseReason::Outgrown
            | CloseReason::PoolClosed
    )
}

/// A connection whose last hook runs. Dropped, it is closed.
struct Closing {
    pool: Arc<PoolInner>,
    entry: Arc<Entry>,
    /// Always there until then.
    conn: Option<Conn>,
    reason: CloseReason,
    used: Option<Duration>,
    /// Free when it is closed.
    _place: Option<Place>,
}

impl Closing {
    async fn run(mut self) {
        let limit = self.pool.settings().timeouts.hook;
        let Some(conn) = &mut self.conn else { return };
        let (hook, deadline) = (Hook::BeforeClose, Deadline::after(limit));
        let ran = self.pool.hooks.run(hook, conn, Some(self.reason), deadline, limit).await;
        // It may leave what it likes: nobody uses the connection after it.
        if let Err(error) = ran
            && !matches!(error.why, Why::Unfit(_))
        {
            tell(self.pool.emitter(), conn, &error);
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.pool.finish_now(&self.entry, conn, self.reason, self.used);
        }
    }
}
