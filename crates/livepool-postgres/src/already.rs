//! [`Already`]: what the client library is told of a stream that is encrypted already.
//!
//! It asks its TLS what the authentication is to be bound to. Ours is below it, where the pool can reach
//! it; so the library is told that this is TLS which is agreed on without a question, and asks the stream
//! itself.

use std::convert::Infallible;
use std::future::{Ready, ready};

use tokio_postgres::Config;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::tls::{TlsConnect, TlsStream};

/// Agrees to what is done already.
pub(super) struct Already;

impl Already {
    /// Has the library ask nobody.
    pub(super) fn tell(is_encrypted: bool, config: &mut Config) {
        if is_encrypted {
            config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        } else {
            config.ssl_mode(SslMode::Disable);
        }
    }
}

impl<S: TlsStream + Unpin> TlsConnect<S> for Already {
    type Stream = S;
    type Error = Infallible;
    type Future = Ready<Result<S, Infallible>>;

    fn connect(self, io: S) -> Self::Future {
        ready(Ok(io))
    }
}
