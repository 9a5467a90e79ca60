//! [`ErasedProtocol`]: a protocol without its types, for the parts of a pool that need not know them.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::causes::{self, OneLine};
use crate::config::Limits;
use crate::deadline::Deadline;
use crate::foreign::{self, Held, Panicked};
use crate::protocol::{Bare, Conn};
use crate::protocol::{Protocol, Raw, StatementCounts, Verdict};
use crate::stream::{Handshake, Refused, Stream};
use crate::sync::Arc;

/// A protocol without its types.
pub(in crate::pool) trait ErasedProtocol: Handshake {
    fn ping<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>>;
    fn reuse(&self, conn: &Conn) -> Verdict;
    fn idle_limit(&self, conn: &Conn) -> Option<Duration>;
    fn reset<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>>;
    /// The session is as every user has to find it.
    fn settled(&self, conn: &Conn);
    /// A reset may have undone what the hook after connect had done.
    fn is_unsettled(&self, conn: &Conn) -> bool;
    fn has_ping(&self) -> bool;
    fn statement_counts(&self) -> Option<StatementCounts>;
    /// The protocol itself.
    fn protocol(&self) -> &(dyn Any + Send + Sync);
}

/// A protocol with its types.
pub(in crate::pool) struct Erased<P>(Arc<Held<P>>);

/// The client of a connection, whose protocol made it.
fn client<P: Protocol>(conn: &Conn) -> &P::Client {
    conn.as_any().downcast_ref().expect(MADE)
}

fn client_mut<P: Protocol>(conn: &mut Conn) -> &mut P::Client {
    conn.as_any_mut().downcast_mut().expect(MADE)
}

/// The message of a downcast that cannot fail: all connections of a pool are made by its one
/// protocol.
pub(in crate::pool) const MADE: &str = "a connection has the client its protocol made";

impl<P: Protocol> Handshake for Erased<P> {
    fn shake_hands<'a>(
        &'a self,
        stream: Box<Stream>,
        limits: Limits,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<Conn, Refused>> {
        Box::pin(async move {
            let judge = Arc::clone(&self.0);
            let bare = Bare::new(stream, Arc::new(move |bytes| judge.unread(bytes)), limits);
            let (protocol, wire) = (&self.0, bare.wire(deadline));
            match foreign::future(async move { protocol.connect(wire).await }).await {
                Ok(Ok(client)) => Ok(bare.with_client(Box::new(client))),
                Ok(Err(error)) => Err(match bare.exceeded() {
                    // What its client makes of that says less.
                    Some(exceeded) => {
                        Refused { is_permanent: false, is_doubtful: true, error: exceeded.into() }
                    }
                    None => Refused {
                        is_permanent: foreign::call(|| self.0.is_permanent(&error))
                            .unwrap_or(false),
                        is_doubtful: causes::is_connection_error(&error)
                            || foreign::call(|| self.0.is_gibberish(&error)).unwrap_or(false),
                        error: io::Error::other(error),
                    },
                }),
                // As a handshake that is refused for now.
                Err(panicked) => {
                    Err(Refused { is_permanent: false, is_doubtful: false, error: panicked.into() })
                }
            }
        })
    }

    fn speaks(&self) -> &'static str {
        foreign::call(|| self.0.speaks()).unwrap_or_default()
    }
}

/// Every call of the protocol is in the cage. A call that panics costs the connection it was made
/// for, with reason `panicked`, and no other.
impl<P: Protocol> ErasedProtocol for Erased<P> {
    fn ping<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let client = client_mut::<P>(conn);
            let pinged = foreign::future(async { self.0.ping(client).await }).await;
            told(conn, pinged)
        })
    }

    fn reuse(&self, conn: &Conn) -> Verdict {
        let client = client::<P>(conn);
        if !conn.is_over_its_own(client) {
            return Verdict::Close;
        }
        // The taint decides then.
        foreign::call(|| self.0.reuse(client)).unwrap_or_else(|_| {
            conn.has_panicked();
            Verdict::Keep
        })
    }

    fn idle_limit(&self, conn: &Conn) -> Option<Duration> {
        foreign::call(|| self.0.idle_limit(client::<P>(conn))).unwrap_or_else(|_| {
            conn.has_panicked();
            None
        })
    }

    fn reset<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move {
            let client = client_mut::<P>(conn);
            let reset = foreign::future(async { self.0.reset(client).await }).await;
            told(conn, reset)
        })
    }

    fn settled(&self, conn: &Conn) {
        if foreign::call(|| self.0.settled(client::<P>(conn))).is_err() {
            conn.has_panicked();
        }
    }

    fn is_unsettled(&self, conn: &Conn) -> bool {
        foreign::call(|| self.0.is_unsettled(client::<P>(conn))).unwrap_or_else(|_| {
            conn.has_panicked();
            true
        })
    }

    fn has_ping(&self) -> bool {
        foreign::call(|| self.0.has_ping()).unwrap_or(false)
    }

    fn statement_counts(&self) -> Option<StatementCounts> {
        foreign::call(|| self.0.statement_counts()).ok().flatten()
    }

    fn protocol(&self) -> &(dyn Any + Send + Sync) {
        &self.0
    }
}

/// The result of a protocol's call, as an I/O error; a panic taints the connection it was made for.
fn told<E: Error + 'static>(
    conn: &Conn,
    result: Result<Result<(), E>, Panicked>,
) -> io::Result<()> {
    match result {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            // Its text is all that anybody asks for.
            let text = OneLine(&error).to_string();
            foreign::dispose(error);
            Err(io::Error::other(text))
        }
        Err(panicked) => {
            conn.has_panicked();
            Err(panicked.into())
        }
    }
}

/// The protocol of a pool. `None`: bare streams.
pub(in crate::pool) type PoolProtocol = Option<Arc<dyn ErasedProtocol>>;

/// The protocol with its types; `None` for bare streams.
pub(in crate::pool) fn typed<P: Protocol>(protocol: &PoolProtocol) -> Option<&Held<P>> {
    protocol.as_ref()?.protocol().downcast_ref::<Arc<Held<P>>>().map(|held| &**held)
}

pub(in crate::pool) fn erase<P: Protocol>(protocol: P) -> PoolProtocol {
    if (&protocol as &dyn Any).is::<Raw>() {
        None
    } else {
        Some(Arc::new(Erased(Arc::new(Held::new(protocol)))))
    }
}

impl fmt::Debug for dyn ErasedProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasedProtocol")
    }
}
