//! [`Speech`]: a protocol without its types, for the parts of a pool that need not know them.

use crate::sync::Arc;
use std::any::Any;
use std::fmt;
use std::io;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::Limits;
use crate::protocol::{Protocol, Raw, Reuse};
use crate::stream::{Bare, Conn, Handshake, Refused, Stream};

/// A protocol without its types.
pub(super) trait Speech: Handshake {
    fn ping<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>>;
    fn reuse(&self, conn: &Conn) -> Reuse;
    fn idle_limit(&self, conn: &Conn) -> Option<Duration>;
    fn reset<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>>;
    fn has_ping(&self) -> bool;
    /// The protocol itself.
    fn protocol(&self) -> &(dyn Any + Send + Sync);
}

/// A protocol with its types.
pub(super) struct Spoken<P>(pub(super) Arc<P>);

/// The client of a connection, whose protocol made it.
fn client<P: Protocol>(conn: &Conn) -> &P::Client {
    conn.as_any().downcast_ref().expect(MADE)
}

fn client_mut<P: Protocol>(conn: &mut Conn) -> &mut P::Client {
    conn.as_any_mut().downcast_mut().expect(MADE)
}

/// All connections of a pool are made by its one protocol.
pub(super) const MADE: &str = "a connection has the client its protocol made";

impl<P: Protocol> Handshake for Spoken<P> {
    fn shake_hands<'a>(
        &'a self,
        stream: Box<Stream>,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Conn, Refused>> {
        Box::pin(async move {
            let judge = Arc::clone(&self.0);
            let bare = Bare::new(stream, Arc::new(move |bytes| judge.unread(bytes)), limits);
            match self.0.connect(bare.wire()).await {
                Ok(client) => Ok(bare.with_client(Box::new(client))),
                Err(error) => Err(match bare.exceeded() {
                    // What its client makes of that says less.
                    Some(exceeded) => Refused { is_permanent: false, error: exceeded.into() },
                    None => Refused {
                        is_permanent: self.0.is_permanent(&error),
                        error: io::Error::other(error),
                    },
                }),
            }
        })
    }
}

impl<P: Protocol> Speech for Spoken<P> {
    fn ping<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.0.ping(client_mut::<P>(conn)).await.map_err(io::Error::other) })
    }

    fn reuse(&self, conn: &Conn) -> Reuse {
        self.0.reuse(client::<P>(conn))
    }

    fn idle_limit(&self, conn: &Conn) -> Option<Duration> {
        self.0.idle_limit(client::<P>(conn))
    }

    fn reset<'a>(&'a self, conn: &'a mut Conn) -> BoxFuture<'a, io::Result<()>> {
        Box::pin(async move { self.0.reset(client_mut::<P>(conn)).await.map_err(io::Error::other) })
    }

    fn has_ping(&self) -> bool {
        self.0.has_ping()
    }

    fn protocol(&self) -> &(dyn Any + Send + Sync) {
        &self.0
    }
}

/// The protocol of a pool. `None`: bare streams.
pub(super) type Spoke = Option<Arc<dyn Speech>>;

/// `None` for [`Raw`], whose streams need no client.
pub(super) fn speech<P: Protocol>(protocol: P) -> Spoke {
    if (&protocol as &dyn Any).is::<Raw>() {
        None
    } else {
        Some(Arc::new(Spoken(Arc::new(protocol))))
    }
}

impl fmt::Debug for dyn Speech {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Speech")
    }
}
