//! A subscription, which takes its connection for itself.

use ::redis::aio::PubSub;
use ::redis::{ErrorKind, RedisConnectionInfo, RedisError, RedisResult};

use super::client::Client;
use crate::stream::Scanner;

impl Client {
    /// Makes a subscriber of a connection that was taken out of its pool:
    /// `guard.detach().into_pubsub().await?`. The pool may make another in its place, and this one
    /// never comes back.
    ///
    /// A subscriber waits for messages as long as it takes: no read timeout applies any more. Whether
    /// its peer lives is for the keepalive of its socket to tell.
    ///
    /// # Errors
    ///
    /// That of the connection, or that a transaction is open on it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn into_pubsub(mut self) -> RedisResult<PubSub> {
        self.settle().await?;
        if self.state.in_transaction() || self.state.is_beyond_repair() {
            return Err(RedisError::from((
                ErrorKind::Client,
                "a connection in a transaction, or that is used for something else for good, cannot \
                 subscribe",
            )));
        }
        let wire = self.slot.take().ok_or((ErrorKind::Io, "the connection was closed"))?;
        drop(self.driver);
        let _ = wire.scan(Quiet);
        // It is logged in already; only the protocol has to be said again.
        let info = RedisConnectionInfo::default()
            .set_protocol(self.settings.info.protocol())
            .set_skip_set_lib_name();
        PubSub::new(&info, wire).await
    }
}

/// Counts nothing.
struct Quiet;

impl Scanner for Quiet {
    fn sent(&mut self, _: &[u8]) {}

    fn received(&mut self, _: &[u8]) {}

    fn owed(&self) -> usize {
        0
    }
}
