//! Ping: one round trip of the protocol before a connection is handed out.
//!
//! It is made on the lease of the caller, outside the store: whoever is cancelled in the middle
//! takes nothing but its own connection with it.

use crate::sync::Arc;
use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::Inner;
use super::lease::Lease;
use crate::config::Validation;
use crate::deadline::Deadline;
use crate::event::{Check, CheckVerdict, CloseReason, Event, Operation};
use crate::foreign::{self, Held, Panicked};
use crate::stream::{Conn, Ending, Stream};

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
    /// One request and its whole answer. An error, or a byte of the answer left unread, closes the
    /// connection with reason `ping_failed`; more than `timeouts.ping`, with `ping_timeout`.
    ///
    /// The future may be dropped at any await; the connection is then closed.
    fn ping<'a>(&'a self, stream: &'a mut Stream) -> BoxFuture<'a, io::Result<()>>;
}

/// The ping of a pool, if it has one.
#[derive(Clone, Default)]
pub(super) struct Pinger(pub(super) Option<Held<Arc<dyn Ping>>>);

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

impl Inner {
    /// Whether there is a ping at all.
    pub(super) fn pings(&self) -> bool {
        self.settings().validation != Validation::Peek
    }

    async fn ping(&self, conn: &mut Conn) -> io::Result<()> {
        match (&self.speech, &self.pinger.0, conn) {
            (Some(speech), _, conn) => speech.ping(conn).await,
            (None, Some(ping), Conn::Raw(stream)) => {
                foreign::future(async { ping.ping(stream).await }).await?
            }
            // The configuration was refused.
            _ => Ok(()),
        }
    }

    /// Pings a connection that was idle, if it is to be pinged. `None`: it failed and is closed.
    pub(super) async fn proved(
        self: &Arc<Self>,
        mut lease: Lease,
        deadline: Deadline,
    ) -> Option<Lease> {
        let validation = self.settings().validation;
        if !self.pings() {
            return Some(lease);
        }
        let Some(idle) = lease.was_idle_for() else { return Some(lease) };
        if !validation.asks_for_ping(idle) {
            return Some(lease);
        }
        let limit = self.settings().timeouts.ping;
        let own = Deadline::after(limit);
        let pinged = own.min(deadline).run(self.ping(lease.conn_mut())).await;
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
        self.emitter().emit(Event::Checked { conn, check, verdict, heard: None });
        if let (Some(CloseReason::PingTimeout), Some(after)) = (reason, limit)
            && own.instant().is_some_and(|moment| Instant::now() >= moment)
        {
            let operation = Operation::Ping;
            self.emitter().emit(Event::TimedOut { operation, conn: Some(conn), after });
        }
        match reason {
            Some(reason) => {
                lease.throw_away(reason);
                None
            }
            None => match lease.begin_anew() {
                Ok(()) => Some(lease),
                Err(reason) => {
                    lease.throw_away(reason);
                    None
                }
            },
        }
    }
}
